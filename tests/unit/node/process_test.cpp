// The process of a role from outside: one a state directory, ready, stopped when asked, refused when ill configured.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <filesystem>
#include <fstream>
#include <future>
#include <thread>

#include "core/loop/child_process.hpp"
#include "core/loop/loop.hpp"
#include "core/module/control_client.hpp"
#include "tests/support/command.hpp"
#include "tests/support/wait.hpp"

namespace calico {
namespace {

using test::eventually;
using testing::HasSubstr;

const std::string kNode = std::string(CALICO_BINARY_DIR) + "/bin/calico-node";

/// A port nobody listens on now.
int free_port() {
  boost::asio::io_context io;
  boost::asio::ip::tcp::acceptor a(io, {boost::asio::ip::make_address("127.0.0.1"), 0});
  return a.local_endpoint().port();
}

class ProcessTest : public testing::Test {
 protected:
  ProcessTest() : dir_(std::filesystem::temp_directory_path() / fmt::format("calico-process-{}", getpid())) {
    std::filesystem::create_directories(dir_);
    std::ofstream(dir_ / "node.conf") << fmt::format(
        "[node]\nname = c1\nstate_dir = {0}/state\nrun_dir = {0}/run\nfelix_cfg =\n[datastore]\nlisten = "
        "127.0.0.1:{1}\n"
        "[controller]\napi_listen = 127.0.0.1:{2}\n",
        dir_.string(), free_port(), free_port());
    loop_.start();
  }
  ~ProcessTest() override {
    loop_.call([this] { child_.reset(); });
    loop_.stop();
    std::filesystem::remove_all(dir_);
  }
  std::string command() const { return kNode + " role controller --config " + (dir_ / "node.conf").string(); }
  void start() {
    auto started = loop_.call([this] {
      return ChildProcess::start(loop_.executor(),
                                 {.argv = {kNode, "role", "controller", "--config", (dir_ / "node.conf").string()},
                                  .on_line = [this](std::string_view l) { log_ += std::string(l) + "\n"; },
                                  .on_exit = [this](std::string how) { ended_.set_value(std::move(how)); }});
    });
    ASSERT_TRUE(started) << started.error().what;
    child_ = std::move(*started);
    ASSERT_TRUE(eventually("ready", [this] {
      auto reply = module::control_call((dir_ / "run").string(), "GET", "/status");
      return reply && reply->json.find(R"("ready":true)") != std::string::npos;
    })) << loop_.call([this] { return log_; });
  }

  std::filesystem::path dir_;
  Loop loop_{"process-test"};
  std::unique_ptr<ChildProcess> child_;
  std::string log_;
  std::promise<std::string> ended_;
};

TEST_F(ProcessTest, OneProcessAStateDirectoryAndAnOrderlyEnd) {
  ASSERT_NO_FATAL_FAILURE(start());
  const auto second = test::run(command());
  EXPECT_EQ(second.code, 3) << second.output;
  EXPECT_THAT(second.output, HasSubstr(fmt::format("is used by calico-node role controller (pid {})", child_->pid())));
  // The first one did not notice.
  const auto status = kNode + " store status --run-dir " + (dir_ / "run").string();
  EXPECT_TRUE(eventually("the first one in sync", [&] { return test::run(status).code == 0; }));
  // Asked all through its end: the socket must go before the modules that answer on it.
  std::atomic<bool> asking{true};
  std::thread curious([&] {
    while (asking) (void)module::control_call((dir_ / "run").string(), "GET", "/controller");
  });
  loop_.call([this] { child_->signal(SIGTERM); });
  auto end = ended_.get_future();
  const auto in_time = end.wait_for(std::chrono::seconds(30));
  asking = false;
  curious.join();
  ASSERT_EQ(in_time, std::future_status::ready) << "did not end in 30 s";
  EXPECT_EQ(end.get(), "exited 0");
  // What it held is free again.
  ASSERT_NO_FATAL_FAILURE(loop_.call([this] { child_.reset(); }));
  ended_ = {};
  ASSERT_NO_FATAL_FAILURE(start());
}

TEST_F(ProcessTest, AnIllConfigurationStartsNothing) {
  const auto refused =
      test::run(command() + " --set bgp.hold_time=1s --set nowhere.x=1 --set datastore.listen=10.0.0.1:2379");
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.output, HasSubstr("--set: [bgp] hold_time: value '1s' is outside the accepted range"));
  EXPECT_THAT(refused.output, HasSubstr("unknown section [nowhere]"));
  EXPECT_FALSE(std::filesystem::exists(dir_ / "state"));
  EXPECT_EQ(test::run(command() + " --check").code, 0);
  const auto printed = test::run(command() + " --print-config");
  EXPECT_EQ(printed.code, 0);
  EXPECT_THAT(printed.output, HasSubstr("hold_time = 90s"));
}

}  // namespace
}  // namespace calico
