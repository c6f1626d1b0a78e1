// The real process, `calico-node role felix`, on two hosts with a machine each, against a real cluster that has
// accidents: after each the kernel's rules, routes and neighbours are what they were, no ping between the machines was
// lost, no route of ours was ever removed, and what is changed afterwards is programmed.
#include <fstream>

#include "core/model/resources.hpp"
#include "tests/interop/etcd/agents.hpp"

namespace calico::test {
namespace {

const std::string kNode = CALICO_BINARY_DIR "/bin/calico-node";

/// A host with a machine on a tap: 10.65.0.1N behind 10.79.0.1N.
class Host {
 public:
  Host(EtcdCluster& cluster, int n)
      : n_(n), ns_("host" + std::to_string(n)), vm_("vm" + std::to_string(n)), name_("host-" + std::to_string(n)) {
    cluster.attach(ns_, "h" + std::to_string(n), address() + "/24");
    ns_.run("sysctl -qw net.ipv4.ip_forward=1; ip route add default via 10.79.0.254");
    const auto port = fmt::format("0000000{}-aaaa-4000-8000-000000000000", n);
    tap_ = model::interface_of_port(port);
    ns_.run("ip link add " + tap_ + " type veth peer name eth0 netns " + vm_.name());
    vm_.run(
        fmt::format("ip link set eth0 address {} up; ip addr add {}/24 dev eth0; ip route add default via 10.65.0.1",
                    mac(), vm_address()));
    ns_.run("ip link set " + tap_ + " up");
    key_ = model::workload_endpoint_key("openstack", {name_, "openstack", "vm" + std::to_string(n), port});
    model::WorkloadEndpoint w;
    w.meta.ns = "openstack";
    w.orchestrator = "openstack";
    w.workload = "vm" + std::to_string(n);
    w.node = name_;
    w.endpoint = port;
    w.interface_name = tap_;
    w.mac = *Mac::parse(mac());
    w.ipv4_gateway = *Ip::parse("10.65.0.1");
    w.ip_networks = {*Prefix::parse(vm_address())};
    w.meta.labels[std::string(model::kLabelSgPrefix) + "open"] = "open";
    endpoint_ = w;
    status_ = model::endpoint_status_key("", "openstack", {name_, "openstack", w.workload, port});
    std::ofstream(dir_.file("calico-node.conf"))
        << fmt::format("[node]\nname = {0}\nstate_dir = {1}/state\nrun_dir = {1}/run\n[datastore]\nendpoints = {2}\n",
                       name_, dir_.path(), cluster.urls());
  }
  std::string address() const { return fmt::format("10.79.0.1{}", n_); }
  std::string vm_address() const { return fmt::format("10.65.0.1{}", n_); }
  std::string mac() const { return fmt::format("fa:16:3e:00:00:0{}", n_); }
  const std::string& key() const { return key_; }
  const std::string& status_key() const { return status_; }
  model::WorkloadEndpoint endpoint() const { return endpoint_; }
  Netns& ns() { return ns_; }
  Netns& vm() { return vm_; }

  void start() {
    process_ = std::make_unique<Child>(ns_.spawn(
        "exec setpriv --pdeathsig KILL " + kNode + " role felix --config " + dir_.file("calico-node.conf"), log()));
  }
  /// Killed: what it programmed stays.
  void kill() { process_.reset(); }
  std::string log() const { return dir_.file("log"); }
  std::string said() const {
    std::ifstream in(log());
    std::ostringstream out;
    out << in.rdbuf();
    return name_ + ":\n" + out.str();
  }
  std::string store_status() const { return ns_.try_run(kNode + " store status --run-dir " + dir_.file("run")).text; }
  /// Rules, routes and neighbours; counters aside.
  std::string kernel() const {
    return ns_.run(
        "nft list ruleset | sed -e 's/ progname .*//' -e 's/counter packets [0-9]* bytes [0-9]*/counter/'; "
        "ip -N route show proto 88; ip -N neigh show nud permanent; "
        "ip -o link | sed -n 's/.*\\(tap[^@]*\\).* \\(group [0-9a-z]*\\).*/\\1 \\2/p'");
  }
  void watch_routes() {
    monitor_ =
        std::make_unique<Child>(ns_.spawn("exec setpriv --pdeathsig KILL ip monitor route", dir_.file("routes")));
  }
  /// Lines of `ip monitor` about a route of a machine that went.
  std::string removed_routes() const {
    std::ifstream in(dir_.file("routes"));
    std::string out;
    for (std::string line; std::getline(in, line);)
      if (line.starts_with("Deleted") && line.find("10.65.0.") != line.npos && line.find("proto 88") != line.npos)
        out += line + "\n";
    return out;
  }

 private:
  const int n_;
  Netns ns_, vm_;
  const std::string name_;
  TempDir dir_{"felix-host"};
  std::string tap_, key_, status_;
  model::WorkloadEndpoint endpoint_;
  std::unique_ptr<Child> process_, monitor_;
};

class EtcdFelix : public testing::Test {
 protected:
  void SetUp() override {
    NEEDS_ETCD_CLUSTER();
    if (::access(kNode.c_str(), X_OK) != 0) GTEST_SKIP() << "SKIPPED: " << kNode << " is not built";
    cluster_ = std::make_unique<EtcdCluster>();
    cloud_ = std::make_unique<Cloud>(*cluster_, Cloud::Options{.agents = 0});
    a_ = std::make_unique<Host>(*cluster_, 1);
    b_ = std::make_unique<Host>(*cluster_, 2);
    // In BGP's place.
    a_->ns().run("ip route add " + b_->vm_address() + " via " + b_->address());
    b_->ns().run("ip route add " + a_->vm_address() + " via " + a_->address());
    populate();
    for (auto* h : {a_.get(), b_.get()}) h->start();
    for (auto* h : {a_.get(), b_.get()}) ASSERT_TRUE(up(*h));
    ASSERT_TRUE(eventually("a ping", [&] {
      return a_->vm().try_run("ping -c 1 -W 1 " + b_->vm_address()).status == 0;
    })) << a_->kernel();
    for (auto* h : {a_.get(), b_.get()}) {
      h->watch_routes();
      before_.push_back(h->kernel());
    }
    pings_ = std::make_unique<Child>(
        a_->vm().spawn("exec setpriv --pdeathsig KILL ping -i 0.05 -W 1 " + b_->vm_address(), dir_.file("pings")));
  }
  void TearDown() override {
    if (HasFailure() && a_) std::puts((a_->said() + a_->store_status() + b_->said() + b_->store_status()).c_str());
    pings_.reset();
    if (a_) a_->kill();
    if (b_) b_->kill();
    cloud_.reset();
    a_.reset();
    b_.reset();
    cluster_.reset();
  }
  void group(const std::string& name, const std::string& ports) {
    cloud_->write(
        model::network_policy_key("openstack", "ossg.default." + name),
        fmt::format(R"j({{"metadata":{{"name":"ossg.default.{0}","namespace":"openstack"}},"spec":{{"ingress":[
            {{"action":"Allow","ipVersion":4,"protocol":"ICMP"}},
            {{"action":"Allow","ipVersion":4,"protocol":6,"destination":{{"ports":[{1}]}}}}],
            "egress":[{{"action":"Allow","ipVersion":4}}],"selector":"has(sg.projectcalico.org/openstack-{0})"}}}})j",
                    name, ports));
  }
  void populate() {
    group("open", "22");
    for (auto* h : {a_.get(), b_.get()}) cloud_->write(h->key(), to_json(h->endpoint()));
    // Others' endpoints, one revision each.
    for (int i = 0; i < 150; ++i) cloud_->write(endpoint_key("elsewhere", i), R"({"spec":{}})");
    cloud_->write(kInfoKey, info());
  }
  testing::AssertionResult up(Host& h) {
    return eventually("the status of " + h.key(), [&] {
      const auto kv = cloud_->store().get(h.status_key());
      return kv && kv->value.find("up") != std::string::npos;
    });
  }
  testing::AssertionResult in_sync() {
    for (auto* h : {a_.get(), b_.get()}) {
      auto r = eventually("in sync", [&] { return h->store_status().find("in sync") != std::string::npos; });
      if (!r) return r << h->store_status();
    }
    return testing::AssertionSuccess();
  }
  /// The kernel is what it was; then a port is opened at both hosts and closed again.
  testing::AssertionResult as_before_and_follows() {
    if (auto r = in_sync(); !r) return r;
    for (std::size_t i = 0; i < 2; ++i) {
      auto& h = i ? *b_ : *a_;
      auto r = eventually("the kernel as before", [&] { return h.kernel() == before_[i]; });
      if (!r) return r << "\nbefore:\n" << before_[i] << "\nnow:\n" << h.kernel();
    }
    const auto port = std::to_string(20000 + ++changes_);
    group("open", "22," + port);
    for (auto* h : {a_.get(), b_.get()}) {
      auto r = eventually("port " + port, [&] { return h->kernel().find(port) != std::string::npos; });
      if (!r) return r << h->kernel();
    }
    group("open", "22");
    for (std::size_t i = 0; i < 2; ++i) {
      auto& h = i ? *b_ : *a_;
      auto r = eventually("the kernel without it", [&] { return h.kernel() == before_[i]; });
      if (!r) return r << "\nbefore:\n" << before_[i] << "\nnow:\n" << h.kernel();
    }
    return testing::AssertionSuccess();
  }
  void expect_nothing_lost() {
    pings_->kill_now(SIGINT);  // it prints its summary
    std::ifstream in(dir_.file("pings"));
    std::ostringstream out;
    out << in.rdbuf();
    const auto text = out.str();
    const auto at = text.find("packets transmitted");
    ASSERT_NE(at, std::string::npos) << text;
    const auto line = text.substr(text.rfind('\n', at) + 1, text.find('\n', at) - text.rfind('\n', at) - 1);
    int sent = 0, received = 0;
    ASSERT_EQ(std::sscanf(line.c_str(), "%d packets transmitted, %d received", &sent, &received), 2) << line;
    std::printf("[  COUNT   ] %s\n", line.c_str());
    EXPECT_GT(sent, 5);
    EXPECT_GE(received + 1, sent) << "the last may be on its way: " << line;
    for (auto* h : {a_.get(), b_.get()}) EXPECT_EQ(h->removed_routes(), "");
  }
  testing::AssertionResult away() {
    for (auto* h : {a_.get(), b_.get()}) {
      auto r =
          eventually("not reachable", [&] { return h->store_status().find("not reachable") != std::string::npos; });
      if (!r) return r << h->store_status();
    }
    return testing::AssertionSuccess();
  }

  TempDir dir_{"etcd-felix"};
  std::unique_ptr<EtcdCluster> cluster_;
  std::unique_ptr<Cloud> cloud_;
  std::unique_ptr<Host> a_, b_;
  std::vector<std::string> before_;
  std::unique_ptr<Child> pings_;
  int changes_ = 0;
};

TEST_F(EtcdFelix, LeaderKilledMemberCutOffClusterRestarted) {
  cluster_->kill(cluster_->leader());
  ASSERT_TRUE(as_before_and_follows());
  cluster_->start_all();
  const int leader = cluster_->leader();
  cluster_->cut_from_members(leader);
  ASSERT_TRUE(as_before_and_follows());
  cluster_->heal(leader);
  cluster_->await_leader();
  cluster_->kill_all();
  ASSERT_TRUE(away());
  cluster_->start_all();
  ASSERT_TRUE(as_before_and_follows());
  expect_nothing_lost();
}

TEST_F(EtcdFelix, CompactedAndRestartedWithoutTheCluster) {
  cluster_->kill_all();
  ASSERT_TRUE(away());
  for (auto* h : {a_.get(), b_.get()}) {
    h->kill();
    h->start();
    // It boots and enforces from its own store; felix was ready before any datastore was there.
    ASSERT_TRUE(eventually("the process", [&] { return h->store_status().find("not reachable") != std::string::npos; }))
        << h->said();
  }
  cluster_->start_all();
  cloud_->store().compact(cloud_->store().put("/calico/other", "x"));
  ASSERT_TRUE(as_before_and_follows());
  expect_nothing_lost();
}

TEST_F(EtcdFelix, WipedAndWrittenAnew) {
  cluster_->wipe_all();
  cluster_->start_all();
  for (auto* h : {a_.get(), b_.get()})
    ASSERT_TRUE(eventually("the reason", [&] {
      return h->store_status().find("clusterinformations/default is missing") != std::string::npos;
    })) << h->store_status();
  populate();
  ASSERT_TRUE(as_before_and_follows());
  for (auto* h : {a_.get(), b_.get()}) ASSERT_TRUE(up(*h)) << "the reports are written again";
  expect_nothing_lost();
}

TEST_F(EtcdFelix, ABackupIsRestoredAndWrittenPast) {
  const auto backup = cluster_->backup();
  cluster_->restore(backup);
  ASSERT_TRUE(as_before_and_follows());
  for (int i = 0; i < 3; ++i) cloud_->store().del(endpoint_key("elsewhere", i));
  ASSERT_TRUE(in_sync());
  for (const char* port : {"h1", "h2"}) {
    // Only the way to the members is cut: the machines' way stays.
    auto& h = std::string(port) == "h1" ? *a_ : *b_;
    h.ns().run("nft 'table inet cut { chain out { type filter hook output priority 0; tcp dport 2379 drop; }; }'");
  }
  ASSERT_TRUE(away());
  cluster_->restore(backup);
  for (int i = 0; i < 500; ++i) cloud_->write("/calico/other", std::to_string(i));
  for (auto* h : {a_.get(), b_.get()}) h->ns().run("nft delete table inet cut");
  ASSERT_TRUE(as_before_and_follows());
  expect_nothing_lost();
}

}  // namespace
}  // namespace calico::test
