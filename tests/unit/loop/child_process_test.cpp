// Children: output, exit, signals, termination, strays.
#include "core/loop/child_process.hpp"

#include <gtest/gtest.h>
#include <signal.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_future.hpp>
#include <future>

#include "core/loop/loop.hpp"
#include "tests/support/wait.hpp"

namespace calico {
namespace {

using namespace std::chrono_literals;

class ChildProcessTest : public testing::Test {
 protected:
  ChildProcessTest() { loop_.start(); }
  ~ChildProcessTest() override { loop_.stop(); }
  Result<std::unique_ptr<ChildProcess>> start(std::vector<std::string> argv) {
    return loop_.call([&] {
      return ChildProcess::start(loop_.executor(),
                                 {.argv = std::move(argv),
                                  .on_line =
                                      [this](std::string_view l) {
                                        lines_.emplace_back(l);
                                        if (l == "ready") ready_.set_value();
                                      },
                                  .on_exit = [this](std::string how) { ended_.set_value(std::move(how)); }});
    });
  }
  std::string end() {
    auto f = ended_.get_future();
    return f.wait_for(30s) == std::future_status::ready ? f.get() : "did not end in 30 s";
  }

  Loop loop_{"child-test"};
  std::vector<std::string> lines_;
  std::promise<std::string> ended_;
  std::promise<void> ready_;
};

TEST_F(ChildProcessTest, LinesAndExitStatus) {
  auto child = start({"/bin/sh", "-c", "echo one; echo two >&2; exit 3"});
  ASSERT_TRUE(child) << child.error().what;
  EXPECT_EQ(end(), "exited 3");
  loop_.call([&] { child->reset(); });
  EXPECT_LE(lines_.size(), 2U);
}

TEST_F(ChildProcessTest, SignalsReachIt) {
  auto child = start({"/bin/sleep", "600"});
  ASSERT_TRUE(child) << child.error().what;
  loop_.call([&] { (*child)->signal(SIGUSR1); });
  EXPECT_EQ(end(), "killed by signal 10");
  loop_.call([&] {
    EXPECT_FALSE((*child)->running());
    child->reset();
  });
}

TEST_F(ChildProcessTest, TerminateInsistsAndDestructionLeavesNothing) {
  auto stubborn = start({"/bin/sh", "-c", "trap '' TERM; echo ready; while :; do read x </dev/zero || :; done"});
  ASSERT_TRUE(stubborn) << stubborn.error().what;
  ASSERT_EQ(ready_.get_future().wait_for(30s), std::future_status::ready) << "no line 'ready' in 30 s";
  const pid_t pid = (*stubborn)->pid();
  asio::co_spawn(
      loop_.io(), [&]() -> awaitable<void> { co_await (*stubborn)->terminate(100ms); }, asio::use_future)
      .get();
  EXPECT_EQ(kill(pid, 0), -1) << "still there";
  loop_.call([&] { stubborn->reset(); });

  auto dropped = start({"/bin/sleep", "600"});
  ASSERT_TRUE(dropped);
  const pid_t other = (*dropped)->pid();
  loop_.call([&] { dropped->reset(); });
  EXPECT_EQ(kill(other, 0), -1) << "still there";
}

TEST_F(ChildProcessTest, NoSuchProgramIsAnError) {
  auto child = start({"/no/such/program"});
  ASSERT_FALSE(child);
  EXPECT_EQ(child.error().code, Errc::not_found);
}

TEST_F(ChildProcessTest, AStrayIsOnlyEndedWhenItIsOurs) {
  auto child = start({"/bin/sleep", "600"});
  ASSERT_TRUE(child);
  const pid_t pid = (*child)->pid();
  EXPECT_FALSE(end_stray_process(pid, "601", 1s));
  EXPECT_TRUE(loop_.call([&] { return (*child)->running(); }));
  // A moment after its exec the kernel shows no command line of it yet.
  EXPECT_TRUE(test::eventually("its end by us", [&] { return end_stray_process(pid, "600", 1s); }));
  EXPECT_EQ(end(), "killed by signal 15");
  loop_.call([&] { child->reset(); });
}

}  // namespace
}  // namespace calico
