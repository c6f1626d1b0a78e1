// The recorded cloud put into a datastore and read back through the v3 gateway, sync's mirror and View: what felix then
// makes of it on host-a, host-b and host-c. Against the embedded datastore and a real etcd.
#include <boost/asio/co_spawn.hpp>

#include "core/store/etcd/client.hpp"
#include "core/store/etcd/gateway.hpp"
#include "core/store/kv.hpp"
#include "core/sync/service.hpp"
#include "tests/netns/felix/bench.hpp"
#include "tests/support/await.hpp"
#include "tests/support/etcd.hpp"
#include "tests/support/fixtures.hpp"
#include "tests/support/temp_dir.hpp"

namespace calico::test {
namespace {

/// The embedded datastore behind its gateway, or a real etcd.
class Server {
 public:
  Server(LoopRunner& runner, bool real) : runner_(runner) {
    if (real) {
      etcd_ = std::make_unique<Etcd>();
      if (!etcd_->running()) throw std::runtime_error(etcd_->log());
      at_ = *http::Endpoint::parse(etcd_->endpoint());
      return;
    }
    store::Kv::Options options;
    options.path = dir_.file("state.db");
    auto kv = store::Kv::open(std::move(options));
    if (!kv) throw std::runtime_error(kv.error().what);
    kv_ = std::move(*kv);
    gateway_ = std::make_unique<store::etcd::Gateway>(runner_.loop().executor(), *kv_);
    if (auto s = gateway_->listen({.at = *http::Endpoint::parse("http://127.0.0.1:0")}); !s)
      throw std::runtime_error(s.error().what);
    at_ = gateway_->endpoints().at(0);
    runner_.loop().call([&] { gateway_->start(); });
  }
  ~Server() {
    if (!gateway_) return;
    auto stop = [](store::etcd::Gateway* g) -> awaitable<bool> {
      co_await g->stop();
      co_return true;
    };
    runner_.run(stop(gateway_.get()), "the gateway's end");
    runner_.loop().call([&] { gateway_.reset(); });
    kv_->stop();
  }
  std::shared_ptr<store::EtcdClient> client() {
    auto c = store::EtcdClient::create(runner_.loop().executor(), {.endpoints = {at_}});
    if (!c) throw std::runtime_error(c.error().what);
    return *c;
  }

 private:
  LoopRunner& runner_;
  TempDir dir_{"felix-snapshot"};
  std::unique_ptr<Etcd> etcd_;
  std::unique_ptr<store::Kv> kv_;
  std::unique_ptr<store::etcd::Gateway> gateway_;
  http::Endpoint at_;
};

class Snapshot : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    NEEDS_NETNS();
    if (GetParam() && !Etcd::installed()) GTEST_SKIP() << "SKIPPED: etcd is not installed (etcd-server)";
    server = std::make_unique<Server>(runner, GetParam());
    client = server->client();
    for (const auto& [key, value] : openstack_snapshot()) put(key, value);
  }
  void TearDown() override {
    client.reset();
    server.reset();
  }
  void put(const std::string& key, const std::string& value) {
    store::PutRequest r{.key = key, .value = value};
    const auto done = runner.run(client->put(r), "put");
    ASSERT_TRUE(done) << done.error().what;
  }
  void del(const std::string& key) {
    store::DeleteRequest r{.key = key};
    ASSERT_TRUE(runner.run(client->del(r), "delete"));
  }
  std::optional<std::string> get(const std::string& key) {
    store::RangeRequest r{.key = key};
    auto got = runner.run(client->range(r), "range");
    if (!got || got->kvs.empty()) return {};
    return got->kvs[0].value;
  }

  LoopRunner runner;
  std::unique_ptr<Server> server;
  std::shared_ptr<store::EtcdClient> client;
};

TEST_P(Snapshot, EveryHostProgramsItsOwn) {
  for (const std::string node : {"host-a", "host-b", "host-c"}) {
    TempDir dir("felix-node");
    Netns host("host");
    sync::Options options;
    options.datastore = client;
    options.mirror_file = dir.file("state.db");
    options.node = node;
    auto service = sync::Service::open(std::move(options));
    ASSERT_TRUE(service) << service.error().what;
    (*service)->start();

    // The interfaces as nova leaves them.
    std::map<std::string, model::WorkloadEndpoint> mine;
    for (const auto& [key, value] : openstack_snapshot()) {
      if (!key.starts_with(model::kWorkloadEndpoints)) continue;
      const auto wep = *model::parse_workload_endpoint(value);
      if (wep.node != node) continue;
      mine[key] = wep;
      host.run("ip link add " + wep.interface_name + " type veth peer name vm" + std::to_string(mine.size()) +
               "; ip link set " + wep.interface_name + " up; ip link set vm" + std::to_string(mine.size()) + " up");
    }
    ASSERT_FALSE(mine.empty());
    auto schema = std::make_shared<config::Schema>();
    ASSERT_TRUE(schema->add(config::core_params()));
    ASSERT_TRUE(schema->add(felix::params()));
    auto loaded = config::load(
        schema, {.files = {"/dev/null"}, .sets = {"node.name=" + node}, .environment = {}, .host_name = node});
    ASSERT_TRUE(loaded.faults.empty());
    felix::Engine engine(node, loaded.config, (*service)->view(), (*service)->report(),
                         {.ready = [] {}, .status = [](std::string) {}, .fatal = [](std::string) {}});
    const auto started = host.in([&] { return engine.start(); });
    ASSERT_TRUE(started) << started.error().what;

    for (const auto& [key, wep] : mine) {
      const auto name = *model::parse_wep_name(model::parse_resource_key(key)->name);
      const auto status = model::endpoint_status_key("", "openstack", name);
      ASSERT_TRUE(eventually(status, [&] { return get(status) == R"({"status":"up"})"; })) << engine.endpoints_json();
      for (const auto& net : wep.ip_networks) {
        const auto route =
            host.run(std::string("ip -N ") + (net.addr.is_v6() ? "-6 " : "") + "route show " + net.addr.to_string());
        EXPECT_NE(route.find("dev " + wep.interface_name + " "), std::string::npos) << net.to_string() << ": " << route;
        EXPECT_NE(route.find("proto 88"), std::string::npos) << route;
        EXPECT_NE(host.run("ip neigh show " + net.addr.to_string()).find(wep.mac->to_string() + " PERMANENT"),
                  std::string::npos);
      }
    }
    EXPECT_TRUE(eventually("a heartbeat of this process", [&] {
      const auto s = get(model::status_key("", node));
      return s && model::parse_agent_status(*s)->uptime_s < 100;  // the recorded one says 151.5
    }));
    const auto listed = host.try_run("nft list ruleset");
    EXPECT_EQ(listed.status, 0);
    for (const auto& [key, wep] : mine) {
      EXPECT_NE(listed.text.find("\"" + wep.interface_name + "\" . " + wep.mac->to_string()), std::string::npos)
          << wep.interface_name;
    }
    // Only its own interfaces.
    for (const auto& [key, value] : openstack_snapshot())
      if (key.starts_with(model::kWorkloadEndpoints) && !mine.contains(key)) {
        EXPECT_EQ(listed.text.find(model::parse_workload_endpoint(value)->interface_name), std::string::npos);
      }

    // The recorded changes of security groups arrive.
    int changes = 0;
    for (const auto& w : openstack_lifecycle()) {
      if (!w.key.starts_with(model::kNetworkPolicies)) continue;
      w.value ? put(w.key, *w.value) : del(w.key);
      ++changes;
    }
    EXPECT_GT(changes, 10);
    const auto all = [&] {
      const auto d = boost::json::parse(engine.endpoints_json());
      return d.at("faults").as_object().empty() && d.at("refused").as_object().empty();
    };
    EXPECT_TRUE(eventually("faultless", all)) << engine.endpoints_json();
    if (node != "host-b") {  // whose endpoints are in the other group as well
      EXPECT_TRUE(eventually("protocol 132 allowed", [&] {
        return host.run("nft list ruleset").find("meta l4proto sctp") != std::string::npos;
      })) << host.run("nft list ruleset");
    }
    // A deleted endpoint's status key goes.
    const auto& [key, wep] = *mine.begin();
    const auto status =
        model::endpoint_status_key("", "openstack", *model::parse_wep_name(model::parse_resource_key(key)->name));
    const auto value = *get(key);
    del(key);
    EXPECT_TRUE(eventually("status gone", [&] { return !get(status); }));
    put(key, value);
    EXPECT_TRUE(eventually("status back", [&] { return get(status).has_value(); }));
    engine.stop();
    (*service)->stop();
  }
}

INSTANTIATE_TEST_SUITE_P(Datastores, Snapshot, testing::Bool(),
                         [](const auto& i) { return i.param ? "Etcd" : "Embedded"; });

}  // namespace
}  // namespace calico::test
