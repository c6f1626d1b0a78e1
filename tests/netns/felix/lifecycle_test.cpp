// The recorded cloud of the real driver, operation by operation, on three hosts at once: after each one a host's kernel
// is what its documents say (addresses, neighbours, sources), what a felix without a past makes of them, and lets pass
// what the reference evaluator allows.
#include <map>
#include <tuple>

#include "core/model/compiler.hpp"
#include "core/model/evaluate.hpp"
#include "tests/netns/felix/bench.hpp"
#include "tests/support/fixtures.hpp"
#include "tests/support/frames.hpp"
#include "tests/support/one_processor.hpp"

namespace calico::test {
namespace {

using Content = std::map<std::string, std::string>;
using model::Direction;
const Mac kRouter{{2, 0, 0, 0, 1, 0}};
const Mac kWorld{{2, 0, 0, 0, 2, 0}};

/// Felix of one node in a namespace with every interface of the cloud; their other ends are in `wire`.
struct Node {
  std::string name;
  Netns host, wire;
  FakeView view;
  FakeReport report;
  std::unique_ptr<felix::Engine> engine;

  Node(std::string node, const std::vector<std::string>& taps) : name(std::move(node)), host("host"), wire("wire") {
    wire.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    host.run("sysctl -qw net.ipv6.conf.default.accept_dad=0");
    for (std::size_t i = 0; i < taps.size(); ++i) veth(host, taps[i], wire, fmt::format("vm{}", i));
    veth(host, "eth0", wire, "in");
    veth(host, "eth1", wire, "out");
    for (auto interface : taps) host.run(fmt::format("ip link set {} address {}", interface, kRouter.to_string()));
    const auto world = fmt::format(" dev eth1 lladdr {} nud permanent", kWorld.to_string());
    host.run(
        fmt::format("ip link set eth0 address {}; ip addr add 192.0.2.1/30 dev eth1; ip route add default via "
                    "192.0.2.2; ip neigh replace 192.0.2.2{}; ip -6 route add default via fe80::2 dev eth1; ip "
                    "-6 neigh replace fe80::2{}",
                    kRouter.to_string(), world, world));
  }
  ~Node() {
    if (engine) engine->stop();
  }
  void start() {
    auto schema = std::make_shared<config::Schema>();
    ASSERT_TRUE(schema->add(config::core_params()));
    ASSERT_TRUE(schema->add(felix::params()));
    auto loaded = config::load(schema, {.files = {"/dev/null"},
                                        .sets = {"node.name=" + name, "felix.migration_convergence=1s"},
                                        .environment = {},
                                        .host_name = name});
    ASSERT_TRUE(loaded.faults.empty()) << loaded.faults[0].to_string();
    engine = std::make_unique<felix::Engine>(
        name, loaded.config, view, report,
        felix::Engine::Hooks{.ready = [] {}, .status = [](const std::string&) {}, .fatal = [](const std::string&) {}});
    const auto started = host.in([&] { return engine->start(); });
    ASSERT_TRUE(started) << started.error().what;
  }
};

/// What the documents ask of a host, read from them without the compiler.
struct Wanted {
  std::set<std::string> routes;     // "10.65.0.11 dev tap…"
  std::set<std::string> neighbors;  // "10.65.0.11 tap… fa:16:…"
  std::set<std::string> sources;    // "tap… . fa:16:… . 10.65.0.11"
};
Wanted wanted(const Content& content, const std::string& node) {
  Wanted w;
  for (const auto& [key, value] : content) {
    if (!key.starts_with(model::kWorkloadEndpoints)) continue;
    const auto e = *model::parse_workload_endpoint(value);
    if (e.node != node) continue;
    const auto name = key.substr(key.rfind('/'));
    const bool migrating = content.contains(fmt::format("{}openstack{}", model::kLiveMigrations, name));
    for (const auto& net : e.ip_networks) {
      const auto ip = net.addr.to_string();
      w.sources.insert(fmt::format("\"{}\" . {} . {}", e.interface_name, e.mac->to_string(), ip));
      w.neighbors.insert(fmt::format("{} {} {}", ip, e.interface_name, e.mac->to_string()));
      if (!migrating) w.routes.insert(fmt::format("{} dev {}", ip, e.interface_name));
    }
    for (const auto& n : e.ip_nats)
      if (!migrating) w.routes.insert(fmt::format("{} dev {}", n.external.to_string(), e.interface_name));
  }
  return w;
}
/// The same out of the kernel.
Wanted found(const Netns& host) {
  Wanted w;
  std::istringstream routes(host.run("ip -N route show proto 88; ip -N -6 route show proto 88"));
  for (std::string line; std::getline(routes, line);) {
    std::istringstream in(line);
    std::string ip, dev, name;
    in >> ip >> dev >> name;
    w.routes.insert(fmt::format("{} {} {}", ip, dev, name));
  }
  std::istringstream neighbors(host.run("ip -N neigh show nud permanent"));
  for (std::string line; std::getline(neighbors, line);) {
    std::istringstream in(line);
    std::string ip, dev, name, lladdr, mac;
    in >> ip >> dev >> name >> lladdr >> mac;
    if (name.starts_with("tap")) w.neighbors.insert(fmt::format("{} {} {}", ip, name, mac));
  }
  for (const auto* set : {"src4", "src6"}) {
    auto text = host.run(fmt::format("nft list set inet calico {}", set));
    for (std::size_t at = 0; (at = text.find("\"tap", at)) != text.npos;) {
      const auto end = text.find_first_of(",}\n", at);
      auto element = text.substr(at, end - at);
      while (element.ends_with(' ')) element.pop_back();
      w.sources.insert(element);
      at = end;
    }
  }
  return w;
}
std::string to_text(const Wanted& w) {
  std::string out;
  for (const auto* set : {&w.routes, &w.neighbors, &w.sources})
    for (const auto& line : *set) out += line + "\n";
  return out;
}

/// Packets from the world and the other endpoints to each endpoint of the node, and from it, as the evaluator says.
class Prober {
 public:
  Prober(Node& node, const std::vector<std::string>& taps) : node_(node), taps_(taps), wire_(node.wire) {}

  void ask(const Content& content, const std::string& when) {
    model::Policies policies;
    for (const auto& [k, v] : content) ASSERT_TRUE(policies.update(k, v)) << k;
    flush_conntrack(node_.host);
    const auto first = number_;
    std::vector<std::tuple<std::string, model::WorkloadEndpoint>> here;
    std::vector<Ip> sources = {*Ip::parse("192.0.2.9"), *Ip::parse("198.51.100.7"), *Ip::parse("2001:db8::7")};
    for (const auto& [key, e] : policies.endpoints) {
      // What has limits is refused for them too, sooner or later: Qos.*.
      if (e.node == node_.name && !migrating(content, key) && e.qos_controls_json.empty()) here.emplace_back(key, e);
      if (e.node != node_.name && !migrating(content, key)) sources.push_back(e.ip_networks.front().addr);
    }
    for (const auto& [key, e] : here)
      for (const auto& net : e.ip_networks)
        for (const auto& p : packets(net.addr)) {
          for (const auto& from : sources)
            if (from.is_v4() == net.addr.is_v4()) to(policies, key, e, from, p);
          from(policies, key, e, net.addr, p);
          forged(e, net.addr, p);
        }
    model::Packet last;
    last.src = *Ip::parse("203.0.113.9");
    last.dst = *Ip::parse("203.0.113.1");
    last.protocol = 17;
    wire_.send("in", frame({.src_mac = kWorld, .dst_mac = kRouter, .packet = last, .number = number_}));
    sent_[number_] = {"out", true, "the frame nobody judges"};
    const auto end = ++number_;
    const auto all = eventually(
        "every frame that should",
        [&] {
          while (const auto s = wire_.receive(0)) seen_[s->number] = s->interface;
          for (auto n = first; n < end; ++n)
            if (sent_.at(n).allowed && !seen_.contains(n)) return false;
          return true;
        },
        std::chrono::seconds(10));
    for (auto n = first; n < end; ++n) {
      const auto& s = sent_.at(n);
      const auto at = seen_.find(n);
      const bool right = (at != seen_.end()) == s.allowed && (!s.allowed || at->second == s.to);
      EXPECT_TRUE(right) << when << " on " << node_.name << ": " << s.text << ": the evaluator "
                         << (s.allowed ? "allows" : "refuses") << ", the kernel "
                         << (at == seen_.end() ? "refuses" : "lets it out at " + at->second);
      if (!right && ++wrong > 5) FAIL() << "and more\n" << node_.host.run("nft list ruleset; ip route; ip -6 route");
    }
  }
  /// Nothing that was refused came late.
  void finish() {
    while (const auto s = wire_.receive(0)) seen_[s->number] = s->interface;
    for (const auto& [n, s] : sent_) EXPECT_EQ(seen_.contains(n), s.allowed) << s.text;
  }
  std::size_t allowed = 0, refused = 0, wrong = 0;

 private:
  struct Sent {
    std::string to;
    bool allowed;
    std::string text;
  };
  static bool migrating(const Content& content, const std::string& key) {
    return content.contains(fmt::format("{}openstack{}", model::kLiveMigrations, key.substr(key.rfind('/'))));
  }
  static std::vector<model::Packet> packets(const Ip& ip) {
    std::vector<model::Packet> out;
    const auto add = [&](std::uint8_t protocol, std::uint16_t port, model::Icmp icmp = {}) {
      model::Packet p;
      p.protocol = protocol;
      p.dst_port = port;
      p.icmp = icmp;
      out.push_back(p);
    };
    for (const std::uint16_t port : {22, 80, 443, 444}) add(6, port);
    add(17, 53);
    add(132, 80);
    add(ip.is_v4() ? 1 : 58, 0, {static_cast<std::uint8_t>(ip.is_v4() ? 8 : 128), std::uint8_t{0}});
    return out;
  }
  std::string port_of(const model::WorkloadEndpoint& e) const {
    const auto at = std::find(taps_.begin(), taps_.end(), e.interface_name);
    return fmt::format("vm{}", at - taps_.begin());
  }
  void send(const std::string& interface, const Mac& mac, const model::Packet& p, Sent s) {
    wire_.send(interface, frame({.src_mac = mac, .dst_mac = kRouter, .packet = p, .number = number_}));
    s.text += fmt::format(" {} > {} protocol {} port {}", p.src, p.dst, p.protocol, p.dst_port);
    ++(s.allowed ? allowed : refused);
    sent_[number_++] = std::move(s);
  }
  /// A new flow each: ports are of this packet alone.
  model::Packet fresh(model::Packet p, const Ip& src, const Ip& dst) {
    p.src = src;
    p.dst = dst;
    if (p.protocol == 6 || p.protocol == 17 || p.protocol == 132)
      p.src_port = static_cast<std::uint16_t>(1024 + number_ % 60000);
    return p;
  }
  void to(const model::Policies& policies, const std::string& key, const model::WorkloadEndpoint& e, const Ip& from,
          const model::Packet& like) {
    const auto p = fresh(like, from, like_address(e, from));
    const auto j = judge(policies, key, Direction::ingress, p);
    send("in", kWorld, p, {port_of(e), j.allowed, j.reason});
  }
  void from(const model::Policies& policies, const std::string& key, const model::WorkloadEndpoint& e, const Ip& own,
            const model::Packet& like) {
    const auto p = fresh(like, own, *Ip::parse(own.is_v4() ? "203.0.113.7" : "2001:db8::77"));
    const auto j = judge(policies, key, Direction::egress, p);
    send(port_of(e), *e.mac, p, {"out", j.allowed, j.reason});
  }
  /// Another's address, another's MAC: whatever policy says.
  void forged(const model::WorkloadEndpoint& e, const Ip& own, const model::Packet& like) {
    const auto other = *Ip::parse(own.is_v4() ? "10.65.0.250" : "fd65::250");
    const auto world = *Ip::parse(own.is_v4() ? "203.0.113.7" : "2001:db8::77");
    send(port_of(e), *e.mac, fresh(like, other, world), {"out", false, "a forged address"});
    send(port_of(e), Mac{{2, 0, 0, 0, 9, 9}}, fresh(like, own, world), {"out", false, "a forged MAC"});
  }
  static Ip like_address(const model::WorkloadEndpoint& e, const Ip& from) {
    for (const auto& net : e.ip_networks)
      if (net.addr.is_v4() == from.is_v4()) return net.addr;
    return e.ip_networks.front().addr;
  }

  Node& node_;
  const std::vector<std::string>& taps_;
  FrameSocket wire_;
  std::map<std::uint32_t, Sent> sent_;
  std::map<std::uint32_t, std::string> seen_;
  std::uint32_t number_ = 0;
};

TEST(FelixLifecycle, EveryRecordedOperationReachesTheKernel) {
  NEEDS_NETNS();
  Content content;
  for (const auto& [k, v] : openstack_snapshot()) content[k] = v;
  std::vector<std::pair<std::string, std::vector<LifecycleWrite>>> steps = {{"the snapshot", {}}};
  for (const auto& w : openstack_lifecycle()) {
    if (steps.back().first != w.operation) steps.push_back({w.operation, {}});
    steps.back().second.push_back(w);
  }
  std::set<std::string> names;
  const auto note_tap = [&](const std::string& key, const std::string& value) {
    if (key.starts_with(model::kWorkloadEndpoints)) names.insert(model::parse_workload_endpoint(value)->interface_name);
  };
  for (const auto& [k, v] : content) note_tap(k, v);
  for (const auto& [operation, writes] : steps)
    for (const auto& w : writes)
      if (w.value) note_tap(w.key, *w.value);
  const std::vector<std::string> taps(names.begin(), names.end());

  std::vector<std::unique_ptr<Node>> nodes;
  std::vector<std::unique_ptr<Prober>> probers;
  for (const auto* name : {"host-a", "host-b", "host-c"}) {
    nodes.push_back(std::make_unique<Node>(name, taps));
    for (const auto& [k, v] : content) nodes.back()->view.set(k, v);
    ASSERT_NO_FATAL_FAILURE(nodes.back()->start());
    probers.push_back(std::make_unique<Prober>(*nodes.back(), taps));
  }
  const OneProcessor here;
  std::map<std::string, std::string> meant;  // node → the compiled text after the operation before
  std::size_t compared = 0;
  for (const auto& [operation, writes] : steps) {
    SCOPED_TRACE(operation);
    for (const auto& w : writes) {
      if (w.value)
        content[w.key] = *w.value;
      else
        content.erase(w.key);
      for (auto& n : nodes) n->view.set(w.key, w.value);
    }
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      auto& n = *nodes[i];
      const auto want = to_text(wanted(content, n.name));
      EXPECT_TRUE(eventually("what the documents say", [&] { return to_text(found(n.host)) == want; }))
          << n.name << "\nwanted\n"
          << want << "found\n"
          << to_text(found(n.host)) << n.engine->endpoints_json();
      model::Compiler compiler({.host = n.name});
      for (const auto& [k, v] : content) compiler.update(k, v);
      (void)compiler.flush();
      if (auto text = model::to_text(compiler.ruleset()); std::exchange(meant[n.name], text) == text) continue;
      ++compared;
      Node without_past(n.name, taps);
      for (const auto& [k, v] : content) without_past.view.set(k, v);
      ASSERT_NO_FATAL_FAILURE(without_past.start());
      ASSERT_TRUE(eventually("settled", [&] {
        return to_text(found(without_past.host)) == want &&
               without_past.report.is_settled(model::endpoint_status_prefix("", n.name));
      }));
      std::string differs;
      EXPECT_TRUE(eventually("what a felix without a past makes",
                             [&] {
                               differs = difference(kernel_words(without_past.host), kernel_words(n.host));
                               return differs.empty();
                             }))
          << n.name << ":" << differs;
      ASSERT_NO_FATAL_FAILURE(probers[i]->ask(content, operation));
    }
    ASSERT_FALSE(HasFailure());
  }
  std::size_t allowed = 0, refused = 0;
  for (auto& p : probers) {
    p->finish();
    allowed += p->allowed;
    refused += p->refused;
  }
  std::printf("%zu states, %zu kernels compared with a fresh one; packets: %zu allowed, %zu refused\n", steps.size(),
              compared, allowed, refused);
  EXPECT_EQ(steps.size(), 23U) << "eight of the thirty operations wrote nothing";
  EXPECT_GT(compared, 15U);
  EXPECT_GT(allowed, 500U);
  EXPECT_GT(refused, 500U);
}

}  // namespace
}  // namespace calico::test
