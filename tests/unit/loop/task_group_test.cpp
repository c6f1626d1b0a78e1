#include "core/loop/task_group.hpp"

#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>

#include "core/loop/loop.hpp"

namespace calico {

TEST(TaskGroup, CancelEndsEveryTaskAndJoinReturns) {
  Loop loop("test");
  TaskGroup tasks(loop.executor(), "test");
  int ended = 0;
  bool joined = false;
  for (int i = 0; i < 3; ++i)
    tasks.spawn("sleeper", [&ended]() -> awaitable<void> {
      EXPECT_FALSE(co_await sleep_for(std::chrono::hours(1)));
      ++ended;
    });
  TaskGroup waiter(loop.executor(), "waiter");
  loop.post([&] { tasks.cancel(); });
  waiter.spawn("join", [&]() -> awaitable<void> {
    co_await tasks.join();
    joined = true;
  });
  loop.start();
  loop.stop();
  EXPECT_TRUE(joined);
  EXPECT_EQ(tasks.size(), 0U);
}

TEST(TaskGroup, OneFailureLeavesTheOthersRunning) {
  Loop loop("test");
  TaskGroup tasks(loop.executor(), "test");
  bool second = false;
  tasks.spawn("throws", []() -> awaitable<void> {
    throw std::runtime_error("on purpose");
    co_return;
  });
  tasks.spawn("goes on", [&second]() -> awaitable<void> { second = co_await sleep_for(std::chrono::milliseconds(1)); });
  loop.start();
  loop.stop();
  EXPECT_TRUE(second);
}

TEST(Loop, CallReturnsAValueFromTheLoop) {
  Loop loop("test");
  loop.start();
  EXPECT_TRUE(loop.call([&] { return loop.in_loop(); }));
  EXPECT_FALSE(loop.in_loop());
}

}  // namespace calico
