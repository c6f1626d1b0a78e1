#pragma once
/// Bounded waits for tests: no sleeps in the tests themselves, and a failure names what did not arrive and after how
/// long.
///
///   ASSERT_TRUE(eventually("the route of tap1", [&] { return has_route(); }));
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>

namespace calico::test {

template <class Predicate>
testing::AssertionResult eventually(const std::string& what, Predicate&& arrived,
                                    std::chrono::milliseconds limit = std::chrono::seconds(30)) {
  const auto begin = std::chrono::steady_clock::now();
  auto pause = std::chrono::microseconds(200);
  for (;;) {
    if (arrived()) return testing::AssertionSuccess();
    const auto waited = std::chrono::steady_clock::now() - begin;
    if (waited > limit)
      return testing::AssertionFailure() << what << " did not arrive after "
                                         << std::chrono::duration_cast<std::chrono::milliseconds>(waited).count()
                                         << " ms";
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, std::chrono::microseconds(20000));
  }
}

}  // namespace calico::test
