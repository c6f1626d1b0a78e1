#pragma once
/// Nodes' sync against a real cluster: several sync::Service, each with a client, a mirror file and a Report of its
/// own, connected from one namespace that can be unplugged; and the one who writes intent, as Neutron's driver would.
///
///   Cloud cloud(cluster, 6);
///   cloud.populate();
///   cloud.start();
///   ASSERT_TRUE(cloud.in_sync());           // all in sync, every mirror equal to the datastore
///   Budget budget(cloud);
///   …an accident…
///   ASSERT_TRUE(cloud.in_sync());
///   EXPECT_TRUE(budget.kept());             // requests counted
///   EXPECT_EQ(cloud.removed(), …);          // endpoints any node was told to remove, ever
///
/// Thread: the test's. Owns: everything but the cluster.
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "core/store/etcd/client.hpp"
#include "tests/support/etcd_cluster.hpp"
#include "tests/unit/sync/support.hpp"

namespace calico::test {

inline constexpr int kEndpointsOfAHost = 20;

class Agent {
 public:
  Agent(std::string name, boost::asio::any_io_executor net, store::EtcdOptions etcd, sync::Timing timing)
      : name_(std::move(name)), net_(std::move(net)), etcd_(std::move(etcd)), timing_(timing) {
    seen_.start();
  }
  ~Agent() {
    stop();
    seen_.stop();
  }
  const std::string& name() const { return name_; }
  sync::Service& service() { return *service_; }
  store::EtcdClient& client() { return *client_; }
  bool running() const { return service_ != nullptr; }

  void start() {
    auto client = store::EtcdClient::create(net_, etcd_);
    if (!client) throw std::runtime_error(client.error().what);
    client_ = std::move(*client);
    sync::Options o;
    o.datastore = client_;
    o.mirror_file = dir_.file("state.db");
    o.node = name_;
    o.timing = timing_;
    auto service = sync::Service::open(std::move(o));
    if (!service) throw std::runtime_error(service.error().what);
    service_ = std::move(*service);
    watch_ = service_->view().watch({std::string(model::kWorkloadEndpoints)}, seen_.executor(),
                                    [this](const sync::Batch& b) {
                                      std::lock_guard lock(m_);
                                      for (const auto& u : b.updates)
                                        if (!u.value) removed_.insert(u.key);
                                    });
    auto& report = service_->report();
    const auto mine = model::felix_host_prefix("", name_);
    report.claim(mine + "workload/");
    for (int i = 0; i < 5; ++i) report.set(fmt::format("{}workload/openstack/vm/endpoint/{}", mine, i), "up");
    report.settled(mine + "workload/");
    report.set(mine + "status", R"({"time":"now","uptime":1})", true);
    report.set_node(name_, R"({"role.projectcalico.org/compute":"true"})", R"({"bgp":{"asNumber":64512}})");
    service_->start();
  }
  void stop() {
    if (!service_) return;
    service_->stop();
    watch_.reset();
    requests_ += client_->requests();
    service_.reset();
    client_.reset();
  }
  std::uint64_t requests() const { return requests_ + (client_ ? client_->requests() : 0); }
  std::set<std::string> removed() {
    seen_.call([] {});
    std::lock_guard lock(m_);
    return removed_;
  }
  std::string describe() {
    const auto s = service_->status();
    return fmt::format("{} is {} ({}); at {}; lists {}, resumes {}, keys {}; {}; reports: {}", name_,
                       to_string(s.state.phase), s.state.reason, s.server_endpoint, s.lists, s.resumes, s.keys,
                       s.last_error, s.report_error);
  }

 private:
  const std::string name_;
  const boost::asio::any_io_executor net_;
  const store::EtcdOptions etcd_;
  const sync::Timing timing_;
  TempDir dir_{"agent"};
  Loop seen_{"agent-seen"};
  std::shared_ptr<store::EtcdClient> client_;
  std::unique_ptr<sync::Service> service_;
  std::unique_ptr<sync::Subscription> watch_;
  std::uint64_t requests_ = 0;
  std::mutex m_;
  std::set<std::string> removed_;
};

class Cloud {
 public:
  struct Options {
    int agents = 6;
    sync::Timing timing;                                    ///< the product's own
    std::function<void(int, store::EtcdOptions&)> as = {};  ///< identity of agent i
    std::function<void(store::EtcdOptions&)> operator_as = {};
  };
  Cloud(EtcdCluster& cluster, Options options) : cluster_(cluster), options_(std::move(options)) {
    cluster_.attach(place_, "agents", "10.79.0.100/24");
    // Every connection attempt is counted, also those nobody answers.
    place_.run(
        "nft 'table inet count { counter syn {}; chain out { type filter hook output priority 0; "
        "tcp dport 2379 tcp flags & (syn | ack) == syn counter name syn; }; }'");
    net_.start();
    net_.call([this] { place_.enter(); });
    root_net_.start();
    root_net_.call([this] { cluster_.fabric().enter(); });
    store::EtcdOptions root;
    root.endpoints = cluster_.endpoints();
    if (options_.operator_as) options_.operator_as(root);
    auto client = store::EtcdClient::create(root_net_.executor(), std::move(root));
    if (!client) throw std::runtime_error(client.error().what);
    root_ = std::move(*client);
    store_ = std::make_unique<Client>(root_);
    for (int i = 0; i < options_.agents; ++i) {
      store::EtcdOptions etcd;
      etcd.endpoints = cluster_.endpoints();
      if (options_.as) options_.as(i, etcd);
      agents_.push_back(std::make_unique<Agent>(host(i), net_.executor(), std::move(etcd), options_.timing));
    }
  }
  ~Cloud() {
    agents_.clear();
    store_.reset();
    root_.reset();
    net_.stop();
    root_net_.stop();
  }
  static std::string host(int i) { return fmt::format("host-{}", i); }
  Client& store() { return *store_; }
  std::vector<std::unique_ptr<Agent>>& agents() { return agents_; }
  int size() const { return options_.agents; }
  Netns& place() { return place_; }

  /// The agents' network is unplugged; nobody is told.
  void unplug() { cluster_.fabric().run("ip link set agents nomaster"); }
  void plug() { cluster_.fabric().run("ip link set agents master br0"); }

  /// One revision a key, so that revisions are worth something.
  void populate(const std::string& guid = "guid-1", int from = 0) {
    if (from == 0) store_->put("/calico/dhcp/v2/no-region/subnet/s1", R"({"network_id":"n"})");
    for (int h = 0; h < size(); ++h)
      for (int i = from; i < kEndpointsOfAHost; ++i) put(h, i);
    store_->put(kInfoKey, info(guid));
  }
  void put(int h, int i, const std::string& text = "first") {
    write(endpoint_key(host(h), i), fmt::format(R"({{"n":{},"text":"{}"}})", i, text));
  }
  /// As Neutron's driver does: an answer that was lost with a leader is asked for again.
  void write(const std::string& key, const std::string& value) {
    std::string last;
    const auto written = eventually("an answer to the put of " + key, [&] {
      auto r = store_->wait<Result<store::PutResult>>([&]() -> boost::asio::awaitable<Result<store::PutResult>> {
        store::PutRequest request;
        request.key = key;
        request.value = value;
        co_return co_await root_->put(std::move(request));
      });
      if (!r) last = r.error().what;
      return r.has_value();
    });
    EXPECT_TRUE(written) << last;
  }
  void start() {
    for (auto& a : agents_) a->start();
  }
  void stop() {
    for (auto& a : agents_) a->stop();
  }

  /// Every node in sync, its mirror equal to the datastore, and its reports there.
  testing::AssertionResult in_sync() {
    for (auto& a : agents_) {
      auto r = eventually(a->name() + " in sync", [&] {
        return a->service().view().state().phase == sync::Phase::in_sync && a->service().status().reports_pending == 0;
      });
      if (!r) return r << "\n" << all();
    }
    // The nodes' own keys are below the prefix: read until nothing moves any more.
    auto r = eventually("mirrors equal to the datastore", [&] {
      const auto now = content();
      for (auto& a : agents_)
        if (content_of(*a) != now) return false;
      return true;
    });
    if (!r) return r << "\n" << all();
    for (auto& a : agents_) {
      const auto mine = model::felix_host_prefix("", a->name());
      auto there = eventually("reports of " + a->name(), [&] {
        const auto status = range(mine + "status", false);
        return status.size() == 1 && status[0].lease != 0 && range(mine + "workload/").size() == 5 &&
               range(model::node_key(a->name()), false).size() == 1;
      });
      if (!there) return there << "\n" << all();
    }
    return testing::AssertionSuccess();
  }
  /// A change is made and every node has it.
  testing::AssertionResult follows() {
    const auto text = fmt::format("change-{}", ++changes_);
    put(0, 0, text);
    write("/calico/dhcp/v2/no-region/subnet/s1", fmt::format(R"({{"network_id":"{}"}})", text));
    for (auto& a : agents_) {
      auto r = eventually(text + " at " + a->name(), [&] {
        const auto kv = a->service().view().get(endpoint_key(host(0), 0));
        const auto subnet = a->service().view().get("/calico/dhcp/v2/no-region/subnet/s1");
        return kv && kv->value.find(text) != std::string::npos && subnet &&
               subnet->value.find(text) != std::string::npos;
      });
      if (!r) return r << "\n" << all();
    }
    return testing::AssertionSuccess();
  }
  testing::AssertionResult all_say(const std::string& part) {
    for (auto& a : agents_) {
      auto r = eventually(a->name() + " saying '" + part + "'",
                          [&] { return a->service().view().state().reason.find(part) != std::string::npos; });
      if (!r) return r << "\n" << all();
    }
    return testing::AssertionSuccess();
  }
  std::set<std::string> removed() {
    std::set<std::string> out;
    for (auto& a : agents_) out.merge(a->removed());
    return out;
  }
  std::uint64_t lists() {
    std::uint64_t n = 0;
    for (auto& a : agents_) n += a->service().status().lists;
    return n;
  }
  std::uint64_t requests() const {
    std::uint64_t n = 0;
    for (const auto& a : agents_) n += a->requests();
    return n;
  }
  std::uint64_t connections() const {
    const auto text = place_.run("nft list counter inet count syn");
    return std::stoull(text.substr(text.find("packets ") + 8));
  }
  /// The member most nodes are connected with.
  int favourite() {
    std::vector<int> n(static_cast<std::size_t>(cluster_.size()), 0);
    for (auto& a : agents_)
      if (const int m = cluster_.member_at(a->service().status().server_endpoint); m >= 0)
        ++n[static_cast<std::size_t>(m)];
    return static_cast<int>(std::max_element(n.begin(), n.end()) - n.begin());
  }
  int connected_to(int member) {
    int n = 0;
    for (auto& a : agents_) n += a->service().status().server_endpoint == cluster_.url(member) ? 1 : 0;
    return n;
  }
  std::string all() {
    std::string out;
    for (auto& a : agents_)
      if (a->running()) out += a->describe() + "\n";
    return out;
  }

 private:
  std::map<std::string, std::string> content() {
    std::map<std::string, std::string> out;
    for (const auto& kv : range(std::string(model::kResources))) out[kv.key] = kv.value;
    return out;
  }
  static std::map<std::string, std::string> content_of(Agent& a) {
    std::map<std::string, std::string> out;
    for (const auto& kv : a.service().view().range(model::kResources)) out[kv.key] = kv.value;
    return out;
  }

  /// Empty when the cluster does not answer just now.
  std::vector<store::KeyValue> range(const std::string& key, bool prefix = true) {
    auto r = store_->wait<Result<store::RangeResult>>([&]() -> boost::asio::awaitable<Result<store::RangeResult>> {
      store::RangeRequest request;
      request.key = key;
      if (prefix) request.range_end = store::prefix_end(key);
      co_return co_await root_->range(std::move(request));
    });
    return r ? r->kvs : std::vector<store::KeyValue>{};
  }

  EtcdCluster& cluster_;
  const Options options_;
  Netns place_{"agents"};
  Loop net_{"agents-net"}, root_net_{"root-net"};
  std::shared_ptr<store::EtcdClient> root_;
  std::unique_ptr<Client> store_;
  std::vector<std::unique_ptr<Agent>> agents_;
  int changes_ = 0;
};

/// No storm: what the nodes send during an accident is bounded by so many at once and so many a second, each.
class Budget {
 public:
  explicit Budget(Cloud& cloud) : cloud_(cloud), requests_(cloud.requests()), connections_(cloud.connections()) {}
  testing::AssertionResult kept(double at_once = 30, double a_second = 3) {
    const auto seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
    const auto requests = static_cast<double>(cloud_.requests() - requests_) / cloud_.size();
    const auto connections = static_cast<double>(cloud_.connections() - connections_) / cloud_.size();
    const auto allowed = at_once + a_second * seconds;
    const auto text = fmt::format("{:.1f} requests and {:.1f} connections a node in {:.1f} s, {:.0f} are allowed",
                                  requests, connections, seconds, allowed);
    std::printf("[  COUNT   ] %s\n", text.c_str());
    return (requests <= allowed && connections <= allowed ? testing::AssertionSuccess() : testing::AssertionFailure())
           << text;
  }

 private:
  Cloud& cloud_;
  const std::uint64_t requests_, connections_;
  const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

}  // namespace calico::test
