#include "core/loop/run_on.hpp"

#include <gtest/gtest.h>

#include <atomic>

#include "core/base/error.hpp"
#include "core/loop/loop.hpp"
#include "core/loop/task_group.hpp"
#include "tests/support/run.hpp"
#include "tests/support/wait.hpp"

namespace calico {
namespace {

struct Two {
  Two() {
    here.start();
    there.start();
  }
  ~Two() {
    here.stop();
    there.stop();
  }
  Loop here{"here"};
  Loop there{"there"};
};

}  // namespace

TEST(RunOn, RunsThereAndComesBackHere) {
  Two two;
  const bool good = test::run(two.here, "the answer", [&]() -> awaitable<bool> {
    std::function<awaitable<bool>()> f = [&two]() -> awaitable<bool> {
      co_await sleep_for(std::chrono::milliseconds(1));
      co_return two.there.in_loop();
    };
    const bool there = co_await run_on<bool>(two.there.executor(), f);
    co_return there&& two.here.in_loop();
  });
  EXPECT_TRUE(good);
}

TEST(RunOn, AnExceptionCrosses) {
  Two two;
  EXPECT_THROW(test::run(two.here, "the exception",
                         [&]() -> awaitable<int> {
                           std::function<awaitable<int>()> f = []() -> awaitable<int> {
                             throw std::runtime_error("on purpose");
                             co_return 1;
                           };
                           co_return co_await run_on<int>(two.there.executor(), f);
                         }),
               std::runtime_error);
}

TEST(RunOn, CancellingHereCancelsThere) {
  Two two;
  for (int round = 0; round < 200; ++round) {  // cancelled at many moments: before, while and after it runs
    std::atomic<int> ended{0};
    std::atomic<int> unwound{0};
    auto tasks = std::make_unique<TaskGroup>(two.here.executor(), "test");
    two.here.call([&] {
      for (int i = 0; i < 3; ++i)
        tasks->spawn("ask", [&, i]() -> awaitable<void> {
          struct Guard {
            std::atomic<int>& n;
            ~Guard() { ++n; }
          } guard{unwound};
          std::function<awaitable<int>()> f = [&ended, i]() -> awaitable<int> {
            struct End {
              std::atomic<int>& n;
              ~End() { ++n; }
            } end{ended};
            co_await sleep_for(i == 0 ? std::chrono::nanoseconds(std::chrono::hours(1))
                                      : std::chrono::microseconds(50));
            co_return i;
          };
          co_await run_on<int>(two.there.executor(), f);
        });
    });
    if (round % 2 == 0) {
      ASSERT_TRUE(test::eventually("two ended", [&] { return ended >= 2; }));
    }
    two.here.call([&] { tasks->cancel(); });
    ASSERT_TRUE(test::eventually("all unwound", [&] { return unwound == 3; }));
    test::run(two.here, "join", [&]() -> awaitable<void> { co_await tasks->join(); });
    two.here.call([&] { tasks.reset(); });
  }
}

}  // namespace calico
