#pragma once
/// Named coroutines that end together. Every coroutine of the project is spawned here, never `detached`: a failure is
/// reported by name, cancel() reaches all of them, join() waits for the last.
///
///   TaskGroup tasks(loop.executor(), "bgp");
///   tasks.spawn("accept", [this]() -> awaitable<void> { ... });
///   tasks.cancel();
///   co_await tasks.join();
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <functional>
#include <memory>
#include <string>

namespace calico {

/// Thread: loop (the executor's). Owns: the coroutines' frames until they end.
/// Errors: an exception other than operation_aborted is logged as `task.failed` (group, task, what); the others go on.
class TaskGroup {
 public:
  TaskGroup(boost::asio::any_io_executor executor, std::string name);
  /// Cancels what still runs; the frames are destroyed with the io_context.
  ~TaskGroup();
  TaskGroup(const TaskGroup&) = delete;
  TaskGroup& operator=(const TaskGroup&) = delete;

  /// Starts `f()`; `f` and its captures live as long as the coroutine. After cancel() nothing new starts.
  void spawn(std::string task, std::function<boost::asio::awaitable<void>()> f);
  /// Asks all to stop (terminal cancellation): the operation each one waits for ends with operation_aborted.
  void cancel();
  /// Returns when no task is left.
  boost::asio::awaitable<void> join();
  std::size_t size() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

/// Waits, cancellably; the usual `timer.async_wait` with the error code ignored. Returns false when cancelled.
boost::asio::awaitable<bool> sleep_for(std::chrono::nanoseconds d);

}  // namespace calico
