#pragma once
/// Awaitables in plain tests: a loop of its own, and run() that blocks until the answer is there (30 s at most, then
/// the test program ends aloud: a coroutine that never came back cannot be cleaned up).
///
///   LoopRunner runner;
///   auto r = runner.run(datastore.put(request), "put");
#include <boost/asio/co_spawn.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <utility>

#include "core/loop/loop.hpp"

namespace calico::test {

class LoopRunner {
 public:
  LoopRunner() { loop_.start(); }
  Loop& loop() { return loop_; }

  /// Starts it and gives the future of its answer.
  template <class T>
  std::future<T> start(awaitable<T> a) {
    auto promise = std::make_shared<std::promise<T>>();
    auto future = promise->get_future();
    boost::asio::co_spawn(loop_.executor(), std::move(a), [promise](std::exception_ptr e, T value) {
      if (e)
        promise->set_exception(e);
      else
        promise->set_value(std::move(value));
    });
    return future;
  }
  template <class T>
  T run(awaitable<T> a, const char* what = "the answer") {
    return wait(start(std::move(a)), what);
  }
  template <class T>
  static T wait(std::future<T> future, const char* what = "the answer") {
    if (future.wait_for(std::chrono::seconds(30)) != std::future_status::ready) {
      std::fprintf(stderr, "%s did not arrive after 30 s\n", what);
      std::abort();
    }
    return future.get();
  }

 private:
  Loop loop_{"test"};
};

}  // namespace calico::test
