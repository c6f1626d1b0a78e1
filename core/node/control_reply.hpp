#pragma once
/// What the process' answers on the control socket share: errors, parameters, waiting for a coroutine of some loop.
/// Thread: the control thread.
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/loop/loop.hpp"
#include "core/loop/task_group.hpp"
#include "core/module/context.hpp"

namespace calico::node {

/// How long a handler waits; below the patience of control_call().
inline constexpr auto kAnswerTime = std::chrono::seconds(8);

/// {"error": what}
[[nodiscard]] module::ControlReply error_reply(int status, std::string_view what);
/// "" when it is not given.
[[nodiscard]] std::string param(const module::ControlRequest& request, const std::string& name);

/// Runs `f` on `loop` in `tasks` and waits for what it returns, at most kAnswerTime; nullopt: it did not come.
template <class T>
std::optional<T> answer_of(Loop& loop, TaskGroup& tasks, std::function<awaitable<T>()> f) {
  auto promise = std::make_shared<std::promise<T>>();
  auto answer = promise->get_future();
  loop.post([&tasks, promise, f = std::move(f)] {
    tasks.spawn("ask", [promise, f]() -> awaitable<void> {
      auto r = co_await f();
      promise->set_value(std::move(r));
    });
  });
  if (answer.wait_for(kAnswerTime) != std::future_status::ready) return {};
  return answer.get();
}
/// The same for what can fail: timeout when it did not come.
template <class T>
Result<T> result_of(Loop& loop, TaskGroup& tasks, std::function<awaitable<Result<T>>()> f) {
  auto answer = answer_of<Result<T>>(loop, tasks, std::move(f));
  if (!answer) return fail(Errc::timeout, "the datastore did not answer within {} s", kAnswerTime.count());
  return std::move(*answer);
}

}  // namespace calico::node
