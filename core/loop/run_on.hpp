#pragma once
/// Awaits a coroutine that runs on another loop: it starts there, its result comes back to the awaiting coroutine's own
/// executor. Cancelling the awaiting coroutine cancels the other one (terminal), which is then awaited as usual; an
/// exception crosses too.
///
///   auto f = [this]() -> awaitable<Result<int>> { co_return co_await ask(); };
///   auto r = co_await run_on<Result<int>>(loop.executor(), f);
///
/// Thread: any. The other loop must be running until the result is there. Everything about `f` happens on `executor`:
/// a cancellation is posted there too (co_spawn with a completion handler of another thread would signal it from the
/// wrong one, and Boost 1.81's own bridge keeps a pointer that may be gone by then).
#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <exception>
#include <functional>
#include <memory>
#include <utility>

namespace calico {

template <class T>
boost::asio::awaitable<T> run_on(boost::asio::any_io_executor executor, std::function<boost::asio::awaitable<T>()> f) {
  namespace asio = boost::asio;
  struct Call {
    asio::cancellation_signal signal;  // touched on `executor` only
    bool done = false;
  };
  auto init = [executor, f = std::move(f)](auto handler) mutable {
    auto home = asio::get_associated_executor(handler);
    auto guard = asio::make_work_guard(home);
    auto call = std::make_shared<Call>();
    auto slot = asio::get_associated_cancellation_slot(handler);
    if (slot.is_connected())
      slot.assign([executor, weak = std::weak_ptr<Call>(call)](asio::cancellation_type type) {
        if (type == asio::cancellation_type::none) return;
        asio::post(executor, [weak] {
          const auto c = weak.lock();
          if (c && !c->done) c->signal.emit(asio::cancellation_type::terminal);
        });
      });
    auto back = [call, home, guard, slot, handler = std::move(handler)](std::exception_ptr e, T value) mutable {
      call->done = true;
      asio::post(home, [call, guard, slot, e, value = std::move(value), handler = std::move(handler)]() mutable {
        if (slot.is_connected()) slot.clear();
        std::move(handler)(e, std::move(value));
      });
    };
    asio::post(executor, [executor, call, f = std::move(f), back = std::move(back)]() mutable {
      asio::co_spawn(executor, std::move(f), asio::bind_cancellation_slot(call->signal.slot(), std::move(back)));
    });
  };
  co_return co_await asio::async_initiate<const asio::use_awaitable_t<>, void(std::exception_ptr, T)>(
      std::move(init), asio::use_awaitable);
}

}  // namespace calico
