#pragma once
/// A Loop is one io_context(1) and one thread: the home of every object without a mutex. Engines with deadlines (bgp,
/// felix, api, sync) have one each; values cross between them by post() or a bounded queue, never by sharing.
///
///   Loop loop("bgp");
///   loop.start();
///   loop.post([&] { engine.set_peers(peers); });
///   loop.stop();   // runs what is queued, then joins
#include <boost/asio/awaitable.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <future>
#include <string>
#include <thread>
#include <type_traits>

namespace calico {

namespace asio = boost::asio;
using asio::awaitable;

/// Thread: start, stop, post, call: any; the rest: loop. Owns: the io_context and the thread.
class Loop {
 public:
  /// `name` becomes the thread's name (15 characters).
  explicit Loop(std::string name);
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  void start();
  /// Stops accepting the work guard, lets the queue drain, joins. Idempotent. Not from the loop itself.
  void stop();
  bool in_loop() const { return std::this_thread::get_id() == thread_.get_id(); }
  asio::io_context& io() { return io_; }
  asio::any_io_executor executor() { return io_.get_executor(); }
  const std::string& name() const { return name_; }

  template <class F>
  void post(F&& f) {
    asio::post(io_, std::forward<F>(f));
  }
  /// Runs `f` in the loop and returns its result; direct when already there. The loop must be running.
  template <class F>
  auto call(F&& f) -> std::invoke_result_t<F> {
    if (in_loop()) return f();
    std::packaged_task<std::invoke_result_t<F>()> task(std::forward<F>(f));
    auto result = task.get_future();
    asio::post(io_, [&task] { task(); });
    return result.get();
  }

 private:
  std::string name_;
  asio::io_context io_{1};
  asio::executor_work_guard<asio::io_context::executor_type> guard_;
  std::thread thread_;
};

}  // namespace calico
