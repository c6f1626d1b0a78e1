// The module's face: rows, cross checks, life under a Context.
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <map>

#include "core/config/load.hpp"
#include "core/http/message.hpp"
#include "core/module/abi.hpp"
#include "core/module/context.hpp"
#include "core/module/module.hpp"
#include "core/store/kv.hpp"
#include "tests/support/certificates.hpp"
#include "tests/support/wait.hpp"

extern "C" const calico_module_v1 calico_module;

namespace calico::controller {
namespace {

std::shared_ptr<config::Schema> schema() {
  auto s = std::make_shared<config::Schema>();
  EXPECT_TRUE(s->add(config::core_params()));
  EXPECT_TRUE(s->add({calico_module.params, calico_module.params_count}));
  return s;
}

config::Loaded load(const std::vector<std::string>& sets) {
  config::Sources sources;
  sources.files = {"/dev/null"};  // not what this host may have
  sources.sets = sets;
  sources.sets.push_back("node.felix_cfg=");
  sources.host_name = "h";
  auto l = config::load(schema(), sources);
  calico_module.check(l.config, l.faults);
  return l;
}

std::string faults(const std::vector<std::string>& sets) {
  std::string out;
  for (const auto& f : load(sets).faults) out += f.to_string() + "\n";
  return out;
}

TEST(ControllerModule, NothingListensBeyondLoopbackWithoutCredentials) {
  EXPECT_EQ(faults({}), "");
  EXPECT_EQ(faults({"controller.api_listen=[::1]:9696"}), "");
  auto open = faults({"controller.api_listen=192.168.0.2:9696"});
  EXPECT_NE(
      open.find("192.168.0.2:9696 is beyond loopback: set tokens_file, cert_file and key_file, or insecure = yes"),
      std::string::npos)
      << open;
  EXPECT_EQ(std::count(open.begin(), open.end(), '\n'), 1) << "one line: " << open;
  EXPECT_NE(faults({"controller.api_listen=0.0.0.0:9696", "controller.tokens_file=/t"}), "") << "tokens in the clear";
  EXPECT_NE(faults({"controller.api_listen=0.0.0.0:9696", "controller.cert_file=/c", "controller.key_file=/k"}), "");
  EXPECT_EQ(faults({"controller.api_listen=0.0.0.0:9696", "controller.tokens_file=/t", "controller.cert_file=/c",
                    "controller.key_file=/k"}),
            "");
  EXPECT_EQ(faults({"controller.api_listen=0.0.0.0:9696", "controller.insecure=yes"}), "");
  EXPECT_EQ(faults({"controller.api_listen="}), "");
  EXPECT_EQ(faults({"controller.api_listen=0.0.0.0:9696", "datastore.endpoints=http://127.0.0.1:2379"}), "")
      << "the API is off";
  EXPECT_NE(faults({"controller.cert_file=/c"}).find("key_file: missing"), std::string::npos);
  EXPECT_NE(faults({"controller.ca_file=/c"}).find("client certificates need TLS"), std::string::npos);
}

TEST(ControllerModule, TheShippedSampleNamesEveryRow) {
  std::ifstream in(std::string(CALICO_SOURCE_DIR) + "/etc/calico-node.conf");
  std::string section, line;
  std::set<std::string> keys;
  while (std::getline(in, line)) {
    if (line.starts_with("[")) section = line.substr(1, line.find(']') - 1);
    if (auto equals = line.find(" ="); equals != std::string::npos) keys.insert(section + "." + line.substr(0, equals));
  }
  for (std::size_t i = 0; i < calico_module.params_count; ++i)
    EXPECT_TRUE(keys.contains(calico_module.params[i].name)) << calico_module.params[i].name;
}

class FakeContext final : public module::Context, public module::Control {
 public:
  FakeContext(std::string dir, config::Config config) : dir_(std::move(dir)), config_(std::move(config)) {}
  const std::string& node_name() const override { return name_; }
  const std::string& state_dir() const override { return dir_; }
  const std::string& run_dir() const override { return dir_; }
  const std::vector<std::string>& roles() const override { return roles_; }
  const config::Config& config() const override { return config_; }
  sync::View& view() override { std::abort(); }
  sync::Report& report() override { std::abort(); }
  store::Datastore& datastore() override { std::abort(); }
  store::Kv* kv() override { return kv_.get(); }
  bgp::Speaker& speaker() override { std::abort(); }
  module::Control& control() override { return *this; }
  module::Telemetry& telemetry() override { std::abort(); }
  void handle(std::string route, module::ControlHandler handler) override { routes_[route] = std::move(handler); }
  void ready(std::string_view) override { ready_ = true; }
  void status(std::string_view, std::string) override {}
  void fatal(std::string_view, std::string reason) override { ADD_FAILURE() << reason; }
  void fail_create(std::string reason) override { ADD_FAILURE() << reason; }

  std::string name_ = "h", dir_;
  std::vector<std::string> roles_{"controller"};
  config::Config config_;
  std::unique_ptr<store::Kv> kv_;
  std::map<std::string, module::ControlHandler> routes_;
  std::atomic<bool> ready_{false};
};

TEST(ControllerModule, LivesUnderAContext) {
  test::TempDir dir("controller-module");
  {
    // Without the embedded datastore: says so, and is ready.
    FakeContext context(dir.path(), load({"datastore.endpoints=http://127.0.0.1:1"}).config);
    auto* m = calico_module.create(context);
    ASSERT_TRUE(m);
    EXPECT_TRUE(m->configure(context.config()));
    EXPECT_TRUE(m->start());
    EXPECT_TRUE(context.ready_);
    m->stop();
    calico_module.destroy(m);
  }
  for (int round = 0; round < 2; ++round) {
    FakeContext context(dir.path(), load({"controller.api_listen=127.0.0.1:0"}).config);
    auto kv = store::Kv::open({.path = dir.file("state.db"), .schemas = {}});
    ASSERT_TRUE(kv) << kv.error().what;
    context.kv_ = std::move(*kv);
    auto* m = calico_module.create(context);
    ASSERT_TRUE(m);
    ASSERT_TRUE(m->configure(context.config()));
    auto s = m->start();
    ASSERT_TRUE(s) << s.error().what;
    ASSERT_TRUE(test::eventually("READY", [&] { return context.ready_.load(); }));
    auto told = context.routes_.at("GET /controller")({});
    EXPECT_EQ(told.status, 200);
    EXPECT_NE(told.json.find("\"networks\":0"), std::string::npos) << told.json;
    EXPECT_TRUE(m->reconfigure(context.config()));
    m->stop();
    calico_module.destroy(m);
  }
  FakeContext context(dir.path(), load({"controller.tokens_file=/nonexistent/tokens"}).config);
  auto* m = calico_module.create(context);
  auto s = m->configure(context.config());
  ASSERT_FALSE(s);
  EXPECT_NE(s.error().what.find("/nonexistent/tokens"), std::string::npos) << s.error().what;
  calico_module.destroy(m);
}

}  // namespace
}  // namespace calico::controller
