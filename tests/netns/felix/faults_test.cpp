// What breaks below felix: the kernel refuses the chains of a host endpoint, interfaces flap and change their names,
// somebody deletes all of felix's routes; and a host that boots with a VM that already sends.
#include <fstream>

#include "core/model/compiler.hpp"
#include "core/nft/connection.hpp"
#include "modules/felix/failsafe.hpp"
#include "modules/felix/firewall.hpp"
#include "modules/felix/guard.hpp"
#include "modules/felix/hosts.hpp"
#include "tests/netns/felix/bench.hpp"
#include "tests/netns/felix/flood.hpp"
#include "tests/netns/felix/kernel_state.hpp"
#include "tests/netns/felix/tally.hpp"

namespace calico::test {
namespace {

/// A host with two interfaces that are host endpoints of their own: eth0 is "bad", eth1 "good"; both have a policy that
/// allows everything.
struct TwoHosts {
  Netns host{"host"}, bad{"bad"}, good{"good"};
  model::Compiler compiler{{.host = "h"}};
  FakeReport report;
  felix::HostStatus status{"h", report};
  std::optional<felix::Firewall> fw;

  TwoHosts() {
    int n = 0;
    for (auto* side : {&bad, &good}) {
      const auto eth = fmt::format("eth{}", n);
      veth(host, eth, *side, "eth0");
      host.run(fmt::format("ip addr add 192.168.{}.1/24 dev {}", n, eth));
      side->run(fmt::format("ip addr add 192.168.{}.2/24 dev eth0", n));
      const auto name = n++ == 0 ? "bad" : "good";
      compiler.update(
          std::string(model::kHostEndpoints) + name,
          fmt::format(R"({{"metadata":{{"labels":{{"{}":""}}}},"spec":{{"node":"h","interfaceName":"{}"}}}})", name,
                      eth));
      compiler.update(
          std::string(model::kGlobalNetworkPolicies) + name,
          fmt::format(
              R"j({{"spec":{{"selector":"has({})","types":["Ingress","Egress"],"ingress":[{{"action":"Allow"}}],"egress":[{{"action":"Allow"}}]}}}})j",
              name));
    }
    compiler.set_host_interfaces({{.name = "eth0", .addresses = {*Ip::parse("192.168.0.1")}},
                                  {.name = "eth1", .addresses = {*Ip::parse("192.168.1.1")}}});
    (void)compiler.flush();
    auto connection = host.in([] { return nft::Connection::open(); });
    if (!connection) throw std::runtime_error(connection.error().what);
    fw.emplace(std::move(*connection));
    felix::Settings s;
    s.failsafe_in = *felix::parse_failsafe("tcp:22");
    s.failsafe_out = *felix::parse_failsafe("tcp:2379");
    fw->configure(s);
  }
  std::string state(const std::string& name) {
    return report.get(model::host_endpoint_status_key("h", name)).value_or("none");
  }
  void tell(const model::Ruleset& ruleset) {
    status.report(
        ruleset,
        [](const std::string&) {
          return felix::HostStatus::Link{true, true};
        },
        [this](const model::HostPlan& p) { return fw->fault_in(p.chains); });
  }
};

/// Looks into a set that is not there, which only the kernel finds.
void spoil(model::Ruleset& ruleset, const std::string& chain) {
  auto& rules = ruleset.chains.at(chain);
  ASSERT_FALSE(rules.empty());
  rules.insert(rules.begin(), rules.front());
  rules.front().family = Family::v4;
  rules.front().src.in_sets = {"no-such-set"};
}

TEST(FelixFaults, AHostEndpointTheKernelRefusesKeepsItsFailsafePorts) {
  NEEDS_NETNS();
  for (const bool policy : {false, true}) {
    SCOPED_TRACE(policy ? "a chain of its policy" : "its own chain");
    TwoHosts t;
    auto ruleset = t.compiler.ruleset();
    std::string chain = "hep-in/bad";
    if (policy) {
      for (const auto& rule : ruleset.chains.at(chain))
        if (!rule.target.empty()) chain = rule.target;
      ASSERT_NE(chain, "hep-in/bad");
    }
    ASSERT_NO_FATAL_FAILURE(spoil(ruleset, chain));
    t.fw->stage_all(ruleset);
    ASSERT_TRUE(t.fw->load());
    const auto added = t.fw->add();
    ASSERT_TRUE(added) << added.error().what;
    ASSERT_TRUE(t.fw->remove());
    t.tell(ruleset);
    EXPECT_EQ(t.fw->refused().size(), 1U);
    EXPECT_TRUE(t.fw->refused().contains(chain));
    EXPECT_EQ(t.state("bad"), R"({"status":"error"})");
    EXPECT_EQ(t.state("good"), R"({"status":"up"})");
    const auto text = t.host.run("nft list chain inet calico hep-in/bad");
    EXPECT_LT(text.find("jump host-in"), text.find("drop")) << text;

    auto ssh = listener(t.host, 22), web = listener(t.host, 80);
    auto far = listener(t.bad, 2379), far_web = listener(t.bad, 80);
    EXPECT_TRUE(reaches(t.bad, "192.168.0.1", 22)) << "failsafe";
    EXPECT_TRUE(refused(t.bad, "192.168.0.1", 80)) << "what its policy would allow";
    EXPECT_FALSE(pings(t.bad, "192.168.0.1", 1));
    EXPECT_TRUE(reaches(t.host, "192.168.0.2", 2379)) << "failsafe outwards, its answers come in";
    EXPECT_TRUE(reaches(t.host, "192.168.0.2", 80)) << "the other way was not refused by the kernel";
    EXPECT_TRUE(reaches(t.good, "192.168.1.1", 80)) << "the other endpoint";
    EXPECT_TRUE(pings(t.good, "192.168.1.1"));
    // Mended.
    model::RulesetDelta d;
    d.chains = {chain};
    t.fw->stage(t.compiler.ruleset(), d);
    ASSERT_TRUE(t.fw->add());
    ASSERT_TRUE(t.fw->remove());
    t.tell(t.compiler.ruleset());
    EXPECT_TRUE(t.fw->refused().empty());
    EXPECT_EQ(t.state("bad"), R"({"status":"up"})");
    EXPECT_TRUE(reaches(t.bad, "192.168.0.1", 80));
  }
}

constexpr std::uint16_t kIn = 7081, kNever = 7082, kAlways = 7083;

/// Two VMs; the first sends to the second all the time what is allowed and what is refused.
struct Busy {
  Bench b;
  Vm a{1}, c{2};
  Words before;
  std::optional<Tally> tally;
  std::optional<Sender> sender;

  Busy() {
    b.group("open", R"({"action":"Allow"})");
    b.group("web", udp(kAlways));
    for (auto* vm : {&a, &c}) b.plug(*vm);
    b.endpoint(a, {"open"});
    b.endpoint(c, {"web"});
  }
  void start() {
    ASSERT_NO_FATAL_FAILURE(b.start());
    for (auto* vm : {&a, &c}) ASSERT_TRUE(b.up(*vm));
    ASSERT_TRUE(pings(b.host, c.ip)) << "neighbours are known";
    before = kernel_words(b.host);
    tally.emplace(c.ns, "eth0");
    std::vector<std::vector<std::uint8_t>> frames;
    for (const auto& to : {c.ip, c.ip6})
      for (const auto port : {kAlways, kNever}) frames.push_back(udp_frame(b, a, to, port));
    sender.emplace(a.ns, frames);
    ASSERT_TRUE(arrives());
    ASSERT_EQ(never(), 0);
  }
  /// Both families, from now on.
  testing::AssertionResult arrives() {
    const auto four = tally->count("udp4 7083"), six = tally->count("udp6 7083");
    return eventually("what is allowed",
                      [&] { return tally->count("udp4 7083") > four + 20 && tally->count("udp6 7083") > six + 20; });
  }
  long never() { return tally->count("udp4 7082") + tally->count("udp6 7082"); }
  testing::AssertionResult as_before() {
    std::string differs;
    auto r = eventually("the kernel as it was", [&] {
      differs = difference(before, kernel_words(b.host));
      return differs.empty();
    });
    if (!r) r << "\n" << differs;
    return r;
  }
};

TEST(FelixFaults, InterfacesThatFlapAndChangeTheirNames) {
  NEEDS_NETNS();
  Busy x;
  ASSERT_NO_FATAL_FAILURE(x.start());
  constexpr int kFlaps = 200;
  for (int i = 0; i < kFlaps; ++i) {
    // Down and up, renamed away and back, or up for a while under a name that is nobody's.
    const std::string other = i % 2 ? "elsewhere" : "tapnobody";
    std::string batch = fmt::format("link set {0} down\n", x.c.tap);
    if (i % 4) batch += fmt::format("link set {0} name {1}\n", x.c.tap, other);
    if (i % 4 == 2) batch += fmt::format("link set {0} up\nlink set {0} down\n", other);
    if (i % 4) batch += fmt::format("link set {1} name {0}\n", x.c.tap, other);
    batch += fmt::format("link set {0} up\n", x.c.tap);
    const auto done = x.b.host.try_run_with("ip -batch -", batch);
    ASSERT_EQ(done.status, 0) << done.text;
    ASSERT_TRUE(i % 20 != 0 || x.arrives()) << "after flap " << i;
  }
  ASSERT_TRUE(x.arrives());
  ASSERT_TRUE(x.b.up(x.c));
  EXPECT_TRUE(x.as_before());
  std::printf("%d flaps, %ld rounds: %ld + %ld of what is allowed arrived\n", kFlaps, x.sender->rounds.load(),
              x.tally->count("udp4 7083"), x.tally->count("udp6 7083"));
  EXPECT_EQ(x.never(), 0);
  EXPECT_EQ(x.tally->lost(), 0U);
  EXPECT_EQ(x.b.fatal, "");
}

TEST(FelixFaults, RoutesAndNeighboursThatOthersDeleteComeBack) {
  NEEDS_NETNS();
  Busy x;
  ASSERT_NO_FATAL_FAILURE(x.start());
  // Of proxy entries the kernel tells nobody; and `ip neigh flush` goes on while entries come back.
  const auto flush = fmt::format(
      "ip route flush proto 88; ip -6 route flush proto 88; ip neigh del {1} dev {0}; ip neigh del {2} dev {0}",
      x.c.tap, x.c.ip, x.c.ip6);
  for (int i = 0; i < 5; ++i) {
    const auto began = std::chrono::steady_clock::now();
    x.b.host.run(flush);
    ASSERT_TRUE(x.as_before());
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - began;
    ASSERT_TRUE(x.arrives());
    const auto gap = [&](const char* line) {
      return std::chrono::duration<double, std::milli>(x.tally->line(line).gap).count();
    };
    std::printf("nothing that is allowed arrived for at most %.2f ms (IPv4), %.2f ms (IPv6); looked at after %.0f ms\n",
                gap("udp4 7083"), gap("udp6 7083"), took.count());
  }
  EXPECT_EQ(x.never(), 0);
}

TEST(FelixFaults, AHostThatBootsPassesNothingBeforeItsPolicies) {
  NEEDS_NETNS();
  Bench b(false);
  Vm a(1);
  b.plug(a);
  // As bad as it can be: routing is on, a route leads to the VM, its questions are answered.
  b.host.run(
      fmt::format("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; echo 1 "
                  "> /proc/sys/net/ipv4/conf/{0}/proxy_arp; ip route add {1} dev {0}; ip -6 route add {2} dev {0}",
                  a.tap, a.ip, a.ip6));
  ASSERT_TRUE(pings(b.host, "192.168.0.2") && pings(b.host, "fd00::2")) << "neighbours are known";
  for (const auto& ip : {a.ip, a.ip6})
    b.host.run(fmt::format("ip neigh replace {} lladdr {} dev {} nud permanent", ip, a.mac, a.tap));
  const auto neighbour = [&] { return b.host.run("ip neigh show 192.168.0.2 | grep -o 'dev.*lladdr [0-9a-f:]*'"); };
  const auto known = neighbour();
  std::vector<std::vector<std::uint8_t>> from_vm, from_world;
  for (const auto& world : {"192.168.0.2", "fd00::2"})
    for (const auto port : {kAlways, kNever}) from_vm.push_back(udp_frame(b, a, world, port));
  // It claims to be the world.
  from_vm.push_back(arp_frame(a.mac, "192.168.0.2", "192.168.0.11"));
  for (const auto& [src, dst] : {std::pair<std::string, std::string>{"192.168.0.2", a.ip}, {"fd00::2", a.ip6}})
    for (const auto port : {kIn, kNever})
      from_world.push_back(udp_frame({mac_of(b.out, "eth0"), mac_of(b.host, "eth0"), src, dst, port}));
  const std::vector<std::string> allowed_out = {"udp4 7083", "udp6 7083"}, allowed_in = {"udp4 7081", "udp6 7081"},
                                 never = {"udp4 7082", "udp6 7082"};
  {
    Tally uplink(b.out, "eth0"), vm(a.ns, "eth0");
    Sender one(a.ns, from_vm), two(b.out, from_world);
    for (const auto* lines : {&allowed_out, &never})
      for (const auto& l : *lines)
        ASSERT_TRUE(eventually(l, [&] { return uplink.count(l) > 0; })) << "positive control: without guard it passes";
    for (const auto* lines : {&allowed_in, &never})
      for (const auto& l : *lines)
        ASSERT_TRUE(eventually(l, [&] { return vm.count(l) > 0; })) << "positive control: without guard it passes";
  }
  // The boot begins. A question from the VM would make the host remember what it claims.
  EXPECT_NE(neighbour(), known) << "positive control: without guard the host takes it down";
  b.host.run("ip neigh del 192.168.0.2 dev " + a.tap);
  ASSERT_EQ(neighbour(), known);
  ASSERT_EQ(b.host.in([] {
    char name[] = "guard", opt[] = "--config", file[] = "/dev/null";
    char* argv[] = {name, opt, file, nullptr};
    return felix::guard_main(3, argv);
  }),
            0);
  flush_conntrack(b.host);
  Tally uplink(b.out, "eth0"), vm(a.ns, "eth0");
  Sender one(a.ns, from_vm), two(b.out, from_world);
  const auto nothing = [&](const std::string& when) {
    ASSERT_TRUE(one.goes_on(500) && two.goes_on(500));
    for (const auto* lines : {&allowed_out, &allowed_in, &never})
      for (const auto& l : *lines) EXPECT_EQ(uplink.count(l) + vm.count(l), 0) << l << ", " << when;
    EXPECT_EQ(uplink.count("arp " + a.mac), 0) << when;
    EXPECT_EQ(neighbour(), known) << when;
  };
  ASSERT_NO_FATAL_FAILURE(nothing("guard alone"));
  ASSERT_NO_FATAL_FAILURE(b.start());
  {
    std::lock_guard lock(b.mutex);
    ASSERT_NE(b.status.find("waiting for the datastore"), std::string::npos) << b.status;
  }
  ASSERT_NO_FATAL_FAILURE(nothing("felix waits for the datastore"));
  EXPECT_NE(b.host.run("nft list tables").find("calico-guard"), std::string::npos);
  b.view.become_usable();
  ASSERT_TRUE(eventually("guard gone",
                         [&] { return b.host.run("nft list tables").find("calico-guard") == std::string::npos; }));
  ASSERT_NO_FATAL_FAILURE(nothing("an endpoint nobody knows"));
  b.endpoint(a, {"some"});
  ASSERT_TRUE(b.up(a));
  ASSERT_NO_FATAL_FAILURE(nothing("an endpoint without a policy"));
  const auto policy_came = std::chrono::steady_clock::now();
  b.view.set(
      model::network_policy_key("openstack", "ossg.default.some"),
      fmt::format(
          R"j({{"spec":{{"selector":"has(sg.projectcalico.org/openstack-some)","ingress":[{}],"egress":[{}]}}}})j",
          udp(kIn), udp(kAlways)));
  for (const auto& l : allowed_out) EXPECT_TRUE(eventually(l, [&] { return uplink.count(l) > 100; }));
  for (const auto& l : allowed_in) EXPECT_TRUE(eventually(l, [&] { return vm.count(l) > 100; }));
  for (const auto& l : allowed_out) EXPECT_GT(uplink.line(l).first, policy_came) << l;
  for (const auto& l : allowed_in) EXPECT_GT(vm.line(l).first, policy_came) << l;
  for (const auto& l : never) EXPECT_EQ(uplink.count(l) + vm.count(l), 0) << l;
  EXPECT_EQ(uplink.count("arp " + a.mac), 0);
  EXPECT_EQ(neighbour(), known);
  EXPECT_EQ(uplink.lost() + vm.lost(), 0U);
}

}  // namespace
}  // namespace calico::test
