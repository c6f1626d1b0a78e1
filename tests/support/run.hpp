#pragma once
/// Runs coroutines from a test's thread: on a Loop, to the end, bounded.
///
///   Loop loop("test");
///   loop.start();
///   auto answer = run(loop, "the answer", [&]() -> awaitable<Result<int>> { co_return co_await ask(); });
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_future.hpp>
#include <chrono>
#include <stdexcept>
#include <string>

#include "core/loop/loop.hpp"

namespace calico::test {

/// Throws (GoogleTest reports it) when the coroutine has not ended after `limit` or threw itself.
template <class F>
auto run(Loop& loop, const std::string& what, F f, std::chrono::milliseconds limit = std::chrono::seconds(30)) {
  auto future = boost::asio::co_spawn(loop.executor(), std::move(f), boost::asio::use_future);
  if (future.wait_for(limit) != std::future_status::ready)
    throw std::runtime_error(what + " did not end after " + std::to_string(limit.count()) + " ms");
  return future.get();
}

}  // namespace calico::test
