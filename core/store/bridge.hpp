#pragma once
/// From a callback on another thread back to the awaiting coroutine: `start(done)` is called at once, and whoever calls
/// `done(result)` (once, from any thread) resumes the coroutine on its own executor, which is kept busy meanwhile.
///
///   auto start = [this](Done<Result<int>> done) { worker_.post([done] { done(compute()); }); };
///   auto r = co_await await_done<Result<int>>(std::move(start));
///
/// Not cancellable by itself: `done` comes in bounded time (the worker answers, or refuses when it stops).
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <functional>
#include <memory>
#include <utility>

namespace calico::store {

template <class T>
using Done = std::function<void(T)>;

template <class T, class Start>
boost::asio::awaitable<T> await_done(Start start) {
  namespace asio = boost::asio;
  auto init = [start = std::move(start)](auto handler) mutable {
    auto executor = asio::get_associated_executor(handler);
    auto guard = asio::make_work_guard(executor);
    auto shared = std::make_shared<decltype(handler)>(std::move(handler));
    Done<T> done = [executor, guard, shared](T result) mutable {
      asio::post(executor, [guard, shared, result = std::move(result)]() mutable {
        auto h = std::move(*shared);
        std::move(h)(std::move(result));
      });
    };
    start(std::move(done));
  };
  co_return co_await asio::async_initiate<const asio::use_awaitable_t<>, void(T)>(std::move(init), asio::use_awaitable);
}

}  // namespace calico::store
