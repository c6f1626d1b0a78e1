#include "core/loop/loop.hpp"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <mutex>
#include <vector>

#include "core/loop/watch.hpp"

namespace calico {
namespace {

/// As with threads, the process has one list of them. Never destroyed: a loop may end after static objects did.
struct Running {
  std::mutex mutex;
  std::vector<Loop*> loops;
};
Running& running() {
  static auto* r = new Running;
  return *r;
}

}  // namespace

void each_loop(const std::function<void(Loop&)>& f) {
  std::lock_guard lock(running().mutex);
  for (auto* l : running().loops) f(*l);
}

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
  std::lock_guard lock(running().mutex);
  running().loops.push_back(this);
}

void Loop::stop() {
  {
    std::lock_guard lock(running().mutex);
    std::erase(running().loops, this);
  }
  guard_.reset();
  if (thread_.joinable()) thread_.join();
}

}  // namespace calico
