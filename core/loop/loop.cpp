#include "core/loop/loop.hpp"

#include <pthread.h>
#include <signal.h>

namespace calico {

Loop::Loop(std::string name) : name_(std::move(name)), guard_(asio::make_work_guard(io_)) {}

Loop::~Loop() { stop(); }

void Loop::start() {
  if (thread_.joinable()) return;
  thread_ = std::thread([this] {
    // Signals belong to the main thread: a loop thread must not take SIGTERM away from it.
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    pthread_setname_np(pthread_self(), name_.substr(0, 15).c_str());
    io_.run();
  });
}

void Loop::stop() {
  guard_.reset();
  if (thread_.joinable()) thread_.join();
}

}  // namespace calico
