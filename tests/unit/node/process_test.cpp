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
#include <sstream>
#include <thread>

#include "core/http/client.hpp"
#include "core/loop/child_process.hpp"
#include "core/loop/loop.hpp"
#include "core/module/control_client.hpp"
#include "tests/support/command.hpp"
#include "tests/support/run.hpp"
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

/// An operator watches; what he sees comes through his pipe at once, and he does not hold up the process' end.
TEST_F(ProcessTest, StoreWatchUntilTheProcessEnds) {
  ASSERT_NO_FATAL_FAILURE(start());
  struct Watcher {
    std::unique_ptr<ChildProcess> process;
    std::string out;
    std::promise<std::string> ended;
  };
  const auto watch = [&](Watcher& w, std::vector<std::string> args) {
    std::vector<std::string> argv{kNode, "store", "watch", "--run-dir", (dir_ / "run").string()};
    argv.insert(argv.end(), args.begin(), args.end());
    auto started = loop_.call([&] {
      return ChildProcess::start(loop_.executor(),
                                 {.argv = argv,
                                  .on_line = [&w](std::string_view l) { w.out += std::string(l) + "\n"; },
                                  .on_exit = [&w](std::string how) { w.ended.set_value(std::move(how)); }});
    });
    ASSERT_TRUE(started) << started.error().what;
    w.process = std::move(*started);
  };
  const auto said = [&](Watcher& w) { return loop_.call([&] { return w.out; }); };
  Watcher text, raw, one;
  watch(text, {"/calico/other/", "--prefix"});
  watch(raw, {"--json"});
  watch(one, {"/calico/other/x"});
  for (auto* w : {&text, &raw, &one})
    ASSERT_TRUE(eventually("the beginning", [&] { return said(*w).find("watching") != std::string::npos; }))
        << said(*w);
  const auto put = [&](const std::string& body) {
    std::ifstream conf(dir_ / "node.conf");
    std::ostringstream in;
    in << conf.rdbuf();
    auto listen = in.str().substr(in.str().find("listen = ") + 9);
    listen.erase(listen.find('\n'));
    auto client = http::Client::create(loop_.executor(), {.endpoints = {*http::Endpoint::parse(listen)}});
    auto answer = test::run(loop_, "put", [&]() -> awaitable<Result<http::Answer>> {
      http::ClientRequest request;
      request.method = "POST";
      request.target = "/v3/kv/put";
      request.body = body;
      co_return co_await (*client)->request(std::move(request));
    });
    loop_.call([&] { client->reset(); });
    return answer ? answer->status : 0U;
  };
  // /calico/other/x = hello, /calico/other/y = world
  ASSERT_EQ(put(R"({"key":"L2NhbGljby9vdGhlci94","value":"aGVsbG8="})"), 200U);
  ASSERT_EQ(put(R"({"key":"L2NhbGljby9vdGhlci95","value":"d29ybGQ="})"), 200U);
  EXPECT_TRUE(eventually("lines", [&] {
    return said(text).find(" put /calico/other/x hello\n") != std::string::npos &&
           said(text).find(" put /calico/other/y world\n") != std::string::npos;
  })) << said(text);
  EXPECT_TRUE(eventually("JSON", [&] {
    return said(raw).find(R"("type":"put","key":"/calico/other/y","value":"world")") != std::string::npos;
  })) << said(raw);
  EXPECT_TRUE(eventually("the key", [&] { return said(one).find("hello") != std::string::npos; })) << said(one);
  EXPECT_EQ(said(one).find("world"), std::string::npos);
  loop_.call([&] { one.process->signal(SIGINT); });
  auto interrupted = one.ended.get_future();
  EXPECT_EQ(interrupted.wait_for(std::chrono::seconds(30)), std::future_status::ready);
  loop_.call([this] { child_->signal(SIGTERM); });
  auto end = ended_.get_future();
  ASSERT_EQ(end.wait_for(std::chrono::seconds(30)), std::future_status::ready) << "the process did not end in 30 s";
  EXPECT_EQ(end.get(), "exited 0");
  for (auto* w : {&text, &raw})
    EXPECT_EQ(w->ended.get_future().wait_for(std::chrono::seconds(30)), std::future_status::ready);
  loop_.call([&] {
    for (auto* w : {&text, &raw, &one}) w->process.reset();
  });
}

TEST_F(ProcessTest, TheDatastoreIsSavedAndPutBack) {
  const auto store = [&](const std::string& words) {
    return test::run(kNode + " store " + words + " --config " + (dir_ / "node.conf").string());
  };
  const auto stop = [&] {
    loop_.call([this] { child_->signal(SIGTERM); });
    auto end = ended_.get_future();
    ASSERT_EQ(end.wait_for(std::chrono::seconds(30)), std::future_status::ready) << "did not end in 30 s";
    loop_.call([this] { child_.reset(); });
    ended_ = {};
  };
  const auto copy = (dir_ / "copy.db").string(), state = (dir_ / "state/state.db").string();
  ASSERT_NO_FATAL_FAILURE(start());
  const auto saved = store("save " + copy);
  ASSERT_EQ(saved.code, 0) << saved.output;
  EXPECT_THAT(saved.output, HasSubstr("saved " + copy + ": revision "));
  EXPECT_EQ(store("save " + copy).code, 1) << "it is there already";
  const auto running = store("restore " + copy);
  EXPECT_EQ(running.code, 3);
  EXPECT_THAT(running.output, HasSubstr("stop it first"));
  std::string backup;
  ASSERT_TRUE(eventually("the daily backup", [&] {
    std::error_code ec;
    for (const auto& e : std::filesystem::directory_iterator(dir_ / "state/backup", ec)) {
      backup = e.path().string();
      if (backup.ends_with(".db")) return true;
    }
    return false;
  }));
  ASSERT_NO_FATAL_FAILURE(stop());
  const auto stopped = store("save " + (dir_ / "stopped.db").string());
  ASSERT_EQ(stopped.code, 0) << stopped.output;
  EXPECT_THAT(stopped.output, HasSubstr("of the stopped controller"));

  std::ofstream(state, std::ios::binary | std::ios::trunc) << std::string(40000, 'x');
  const auto refused = test::run(command());
  EXPECT_EQ(refused.code, 3);
  EXPECT_THAT(refused.output, HasSubstr("calico-node store restore " + backup));
  EXPECT_EQ(store("restore " + state).code, 1) << "onto itself";
  EXPECT_EQ(store("restore " + (dir_ / "none.db").string()).code, 3);
  const auto restored = store("restore " + backup);
  ASSERT_EQ(restored.code, 0) << restored.output;
  EXPECT_THAT(restored.output, HasSubstr("the former file is " + state + ".replaced-"));
  ASSERT_NO_FATAL_FAILURE(start());
  EXPECT_THAT(loop_.call([this] { return log_; }), HasSubstr("store.restored"));
  const auto status = kNode + " store status --run-dir " + (dir_ / "run").string();
  EXPECT_TRUE(eventually("in sync", [&] { return test::run(status).code == 0; }));
  ASSERT_NO_FATAL_FAILURE(stop());

  std::ofstream(dir_ / "node.conf", std::ios::app) << "[datastore]\nendpoints = http://127.0.0.1:1\n";
  const auto elsewhere = store("restore " + copy);
  EXPECT_EQ(elsewhere.code, 2) << elsewhere.output;
  EXPECT_THAT(elsewhere.output, HasSubstr("restore it there"));
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
