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
                                 {.argv = {kNode, "role", role_, "--config", (dir_ / "node.conf").string()},
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

  std::string role_ = "controller";
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

/// A reflector whose datastore is away: birdc reads the configuration again, as SIGHUP does, and says what changed.
TEST_F(ProcessTest, BirdcConfiguresTheProcess) {
  role_ = "route-reflector";
  const auto port = free_port();
  const auto listen = free_port();
  const auto write = [&](const std::string& more, int hold = 90, const std::string& as = "64512") {
    std::ofstream(dir_ / "node.conf") << fmt::format(
        "[node]\nname = rr1\nstate_dir = {0}/state\nrun_dir = {0}/run\nfelix_cfg =\n[datastore]\nendpoints = "
        "http://127.0.0.1:{1}\n[bgp]\nrouter_id = 10.0.0.1\nsource_address = 127.0.0.1\nlisten = 127.0.0.1:{2}\n"
        "peers_from_datastore = no\nhold_time = {3}s\nlocal_as = {4}\n{5}",
        dir_.string(), port, listen, hold, as, more);
  };
  const std::string a = "[bgp.peer.a]\naddress = 127.1.1.1\nremote_as = 64512\npassive = yes\n",
                    b = "[bgp.peer.b]\naddress = 127.1.1.2\nremote_as = 64512\npassive = yes\n";
  write(a);
  ASSERT_NO_FATAL_FAILURE(start());
  const auto birdc = [&](const std::string& socket, const std::string& what) {
    const auto ran = test::run(kNode + " birdc -v -s " + (dir_ / "run" / socket).string() + " " + what);
    return fmt::format("{}|{}", ran.code, ran.output.substr(ran.output.find('\n') + 1));
  };
  const auto head = "0|0002-Reading configuration from " + (dir_ / "node.conf").string() + "\n";
  EXPECT_EQ(birdc("bird.ctl", "configure"), head + " nothing changed\n0003 Reconfigured\n");
  write(a + "multihop = 3\n" + b, 30, "64513");
  const std::string changes =
      " [bgp.peer.b] added\n [bgp] local_as: 64512 -> 64513 (needs a restart, not taken)\n"
      " [bgp] hold_time: 90s -> 30s\n [bgp.peer.a] multihop: 0 -> 3\n";
  EXPECT_EQ(birdc("bird.ctl", "configure check"), head + changes + "0020 Configuration OK\n");
  EXPECT_THAT(birdc("bird.ctl", "show protocols b"), HasSubstr("9001 b is not a protocol")) << "only a check";
  EXPECT_EQ(birdc("calico/bird.ctl", "configure"), head + changes + "0003 Reconfigured\n") << "in BIRD 1's layout";
  EXPECT_THAT(birdc("bird.ctl", "show protocols b"), HasSubstr("b          BGP "));
  // What needs a restart is said until it is restarted.
  EXPECT_EQ(birdc("bird.ctl", "configure"),
            head + " [bgp] local_as: 64512 -> 64513 (needs a restart, not taken)\n0003 Reconfigured\n");
  write(b);
  EXPECT_EQ(birdc("bird.ctl", "configure"),
            head + " [bgp.peer.a] removed\n [bgp] hold_time: 30s -> 90s\n0003 Reconfigured\n");
  write(b, 1);
  EXPECT_THAT(birdc("bird.ctl", "configure"), HasSubstr("\n8002 "));
  EXPECT_THAT(birdc("bird.ctl", "configure"), HasSubstr("[bgp] hold_time"));
  write(b + "password_file = /nonexistent/key\n");
  EXPECT_THAT(birdc("bird.ctl", "configure check"), HasSubstr("\n8002 bgp.peer.b.password_file: /nonexistent/key"));
  EXPECT_THAT(birdc("bird.ctl", "show protocols b"), HasSubstr("b          BGP ")) << "the old one runs on";
  EXPECT_THAT(birdc("calico/bird6.ctl", "show status"), HasSubstr("1000-BIRD 1.6.8"));
  loop_.call([this] { child_->signal(SIGTERM); });
  auto end = ended_.get_future();
  ASSERT_EQ(end.wait_for(std::chrono::seconds(30)), std::future_status::ready) << "did not end in 30 s";
  EXPECT_EQ(end.get(), "exited 0");
  EXPECT_FALSE(std::filesystem::exists(dir_ / "run" / "calico" / "bird.ctl"));
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
