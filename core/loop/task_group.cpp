#include "core/loop/task_group.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/system_error.hpp>
#include <list>

#include "core/log/log.hpp"

namespace calico {
namespace asio = boost::asio;

struct TaskGroup::State {
  State(asio::any_io_executor ex, std::string n) : executor(std::move(ex)), name(std::move(n)), done(executor) {
    done.expires_at(asio::steady_timer::time_point::max());
  }
  struct Task {
    std::string name;
    asio::cancellation_signal signal;
  };
  asio::any_io_executor executor;
  std::string name;
  std::list<Task> tasks;
  asio::steady_timer done;
  bool canceled = false;
};

TaskGroup::TaskGroup(asio::any_io_executor executor, std::string name)
    : state_(std::make_shared<State>(std::move(executor), std::move(name))) {}

TaskGroup::~TaskGroup() { cancel(); }

void TaskGroup::spawn(std::string task, std::function<asio::awaitable<void>()> f) {
  if (state_->canceled) return;
  auto it = state_->tasks.emplace(state_->tasks.end());
  it->name = std::move(task);
  auto on_end = [state = state_, it](std::exception_ptr e) {
    if (e) {
      try {
        std::rethrow_exception(e);
      } catch (const boost::system::system_error& x) {
        if (x.code() != asio::error::operation_aborted)
          log::error("task.failed", "group", state->name, "task", it->name, "what", x.what());
      } catch (const std::exception& x) {
        log::error("task.failed", "group", state->name, "task", it->name, "what", x.what());
      }
    }
    state->tasks.erase(it);
    if (state->tasks.empty()) state->done.cancel();
  };
  asio::co_spawn(state_->executor, std::move(f), asio::bind_cancellation_slot(it->signal.slot(), std::move(on_end)));
}

void TaskGroup::cancel() {
  state_->canceled = true;
  // A handler may erase its own node while we emit: step first.
  for (auto it = state_->tasks.begin(); it != state_->tasks.end();)
    (it++)->signal.emit(asio::cancellation_type::terminal);
}

asio::awaitable<void> TaskGroup::join() {
  auto state = state_;
  while (!state->tasks.empty()) co_await state->done.async_wait(asio::as_tuple(asio::use_awaitable));
}

std::size_t TaskGroup::size() const { return state_->tasks.size(); }

asio::awaitable<bool> sleep_for(std::chrono::nanoseconds d) {
  asio::steady_timer timer(co_await asio::this_coro::executor, d);
  auto [ec] = co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
  co_return !ec;
}

}  // namespace calico
