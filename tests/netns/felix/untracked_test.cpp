// Policies of host endpoints that are asked early, on a real kernel: before connections are tracked (doNotTrack) and
// before addresses are translated (preDNAT). Each refusal stands beside something that passes the same way.

#include "core/model/compiler.hpp"
#include "modules/felix/firewall.hpp"
#include "tests/netns/felix/connections.hpp"
#include "tests/netns/felix/host_rig.hpp"

namespace calico::test {
namespace {

/// Entries of the host's connection table with this port as the destination of what began them.
std::size_t tracked(const Netns& host, std::uint16_t port) {
  return count_connections(
      host, [&](const conntrack::Entry& e) { return e.orig.dst_port == port || e.reply.dst_port == port; });
}

std::string port(const char* action, const char* side, int number) {
  return fmt::format(R"({{"action":"{}","protocol":"TCP","{}":{{"ports":[{}]}}}})", action, side, number);
}
/// Untracked, or with `key` "preDNAT" before translation; absent egress: types [Ingress].
std::string early(const std::string& key, const std::string& ingress, const std::string& egress = "") {
  return fmt::format(R"("{}":true,"applyOnForward":true,"types":["Ingress"{}],"ingress":[{}],"egress":[{}])", key,
                     egress.empty() ? "" : R"(,"Egress")", ingress, egress);
}
bool has_hook(const Bench& b, const std::string& name) {
  return b.host.run("nft list chains inet").find("chain " + name + " ") != std::string::npos;
}

TEST(FelixUntracked, BothDirectionsMustBeAllowedAndNothingIsTracked) {
  NEEDS_NETNS();
  HostRig r;
  auto l80 = listener(r.b.host, 80), l81 = listener(r.b.host, 81);
  auto l80_6 = listener(r.b.host, 80, true), l81_6 = listener(r.b.host, 81, true);
  auto far90 = listener(r.b.out, 90), far91 = listener(r.b.out, 91);
  auto vm80 = listener(r.vm.ns, 80);
  ASSERT_NO_FATAL_FAILURE(r.start());
  EXPECT_FALSE(has_hook(r.b, "host-untracked-in"));
  r.hep("e", "eth0");
  r.policy("all", kAllowAll);
  EXPECT_TRUE(r.opens(r.b.out, r.eth, 80));
  EXPECT_GT(tracked(r.b.host, 80), 0U) << "a usual policy tracks";
  // One way only: what the host answers is refused, by the untracked policy itself.
  r.policy("raw", early("doNotTrack", port("Allow", "destination", 80), R"({"action":"Deny","protocol":"TCP"})"));
  EXPECT_TRUE(r.closes(r.b.out, r.eth, 80)) << "the answers";
  EXPECT_TRUE(refused(r.b.host, r.world, 90));
  // Both ways.
  r.policy("raw", early("doNotTrack", port("Allow", "destination", 80), port("Allow", "source", 80)));
  EXPECT_TRUE(r.opens(r.b.out, r.eth, 80));
  EXPECT_TRUE(r.opens(r.b.out, r.eth6, 80));
  EXPECT_TRUE(has_hook(r.b, "host-untracked-in"));
  EXPECT_TRUE(has_hook(r.b, "host-untracked-out"));
  // No rule of it: the usual policy's, and tracked.
  EXPECT_TRUE(reaches(r.b.out, r.eth, 81));
  EXPECT_GT(tracked(r.b.host, 81), 0U);
  EXPECT_TRUE(reaches(r.b.host, r.world, 90));
  // What the usual policy refuses, the untracked one allows, and leaves no entry; on its own.
  r.policy("all", R"("types":["Ingress","Egress"],"ingress":[{"action":"Deny"}],"egress":[{"action":"Deny"}])");
  EXPECT_TRUE(r.closes(r.b.out, r.eth, 81));
  std::vector<Sock> held;
  for (int i = 0; i < 3; ++i)
    for (const bool v6 : {false, true}) {
      held.emplace_back(r.b.out, SOCK_STREAM | SOCK_NONBLOCK, v6);
      held.back().bind(v6 ? "fd00::2" : "192.168.0.2", static_cast<std::uint16_t>(5100 + i));
      EXPECT_TRUE(held.back().connect(v6 ? r.eth6 : r.eth, 80, 3000)) << i << v6;
      EXPECT_EQ(tracked(r.b.host, static_cast<std::uint16_t>(5100 + i)), 0U);
    }
  EXPECT_TRUE(refused(r.b.out, r.eth6, 81));
  EXPECT_TRUE(refused(r.b.host, r.world, 90));
  // A denial takes effect before there is a connection to track.
  r.policy("raw", early("doNotTrack", port("Deny", "destination", 80), R"({"action":"Allow"})"));
  EXPECT_TRUE(r.closes(r.b.out, r.eth, 80));
  Sock denied(r.b.out, SOCK_STREAM | SOCK_NONBLOCK);
  denied.bind("192.168.0.2", 5200);
  EXPECT_FALSE(denied.connect(r.eth, 80, 300));
  EXPECT_EQ(tracked(r.b.host, 5200), 0U);
  // What passes through to the VM is asked, and what it sends is not: nothing of the VM's is untracked.
  EXPECT_TRUE(refused(r.b.out, r.vm.ip, 80)) << "applies on forward";
  r.policy("raw", early("doNotTrack", port("Deny", "destination", 81), R"({"action":"Allow"})"));
  EXPECT_TRUE(r.opens(r.b.out, r.vm.ip, 80));
  Sock through(r.b.out, SOCK_STREAM | SOCK_NONBLOCK);
  through.bind("192.168.0.2", 5300);
  EXPECT_TRUE(through.connect(r.vm.ip, 80, 3000));
  EXPECT_GT(tracked(r.b.host, 5300), 0U);
  EXPECT_TRUE(reaches(r.vm.ns, r.world, 91));
  // Gone, and its hooks with it.
  r.no_policy("raw");
  r.policy("all", kAllowAll);
  EXPECT_TRUE(r.opens(r.b.out, r.eth, 81));
  EXPECT_TRUE(eventually("no hook", [&] { return !has_hook(r.b, "host-untracked-in"); }));
  EXPECT_FALSE(has_hook(r.b, "host-untracked-out"));
}

TEST(FelixUntracked, AnUntrackedPacketStillHasToPassTheVmsPolicy) {
  NEEDS_NETNS();
  HostRig r;
  Sock vm_udp(r.vm.ns, SOCK_DGRAM), vm_udp6(r.vm.ns, SOCK_DGRAM, true);
  vm_udp.bind("0.0.0.0", 7000);
  vm_udp6.bind("::", 7000);
  r.b.group(
      "open",
      R"({"action":"Allow","ipVersion":4,"protocol":"UDP","destination":{"ports":[7000]},"source":{"ports":[6000]}},
                       {"action":"Allow","ipVersion":6,"protocol":"UDP","destination":{"ports":[7000]},"source":{"ports":[6000]}})");
  ASSERT_NO_FATAL_FAILURE(r.start());
  r.hep("e", "eth0");
  r.policy("raw", early("doNotTrack", R"({"action":"Allow"})", R"({"action":"Allow"})"));
  ASSERT_TRUE(eventually("hook", [&] { return has_hook(r.b, "host-untracked-in"); }));
  for (const bool v6 : {false, true}) {
    Sock good(r.b.out, SOCK_DGRAM, v6), bad(r.b.out, SOCK_DGRAM, v6);
    good.bind(v6 ? "fd00::2" : "192.168.0.2", 6000);
    bad.bind(v6 ? "fd00::2" : "192.168.0.2", 6001);
    bad.send("bad", v6 ? r.vm.ip6 : r.vm.ip, 7000);
    good.send("good", v6 ? r.vm.ip6 : r.vm.ip, 7000);
    EXPECT_EQ((v6 ? vm_udp6 : vm_udp).receive(), "good") << "the other came first, and was refused";
    EXPECT_EQ((v6 ? vm_udp6 : vm_udp).receive(300), "");
    EXPECT_EQ(tracked(r.b.host, 6000), 0U) << "it went by untracked";
  }
  // A mark from elsewhere opens nothing.
  r.no_policy("raw");
  auto l80 = listener(r.b.host, 80), l81 = listener(r.b.host, 81);
  r.b.host.run(
      "nft add table inet stranger; nft 'add chain inet stranger c { type filter hook prerouting priority -310; }'; "
      "nft "
      "add rule inet stranger c meta mark set 0xffffffff");
  r.policy("raw", early("doNotTrack", port("Allow", "destination", 80), port("Allow", "source", 80)));
  EXPECT_TRUE(r.opens(r.b.out, r.eth, 80));
  EXPECT_TRUE(refused(r.b.out, r.eth, 81));
  r.policy("raw", early("preDNAT", port("Allow", "destination", 80)));
  EXPECT_TRUE(r.opens(r.b.out, r.eth, 80));
  EXPECT_TRUE(refused(r.b.out, r.eth, 81));
}

TEST(FelixUntracked, FailsafePortsPassBothWays) {
  NEEDS_NETNS();
  HostRig r;
  auto ssh = listener(r.b.host, 22), web = listener(r.b.host, 80);
  auto ssh6 = listener(r.b.host, 22, true), web6 = listener(r.b.host, 80, true);
  auto far_etcd = listener(r.b.out, 2379), far_web = listener(r.b.out, 80);
  auto far_etcd6 = listener(r.b.out, 2379, true);
  ASSERT_NO_FATAL_FAILURE(r.start());
  r.hep("e", "eth0");
  r.policy("all", kAllowAll);
  ASSERT_TRUE(r.opens(r.b.out, r.eth, 80));
  r.policy("raw", early("doNotTrack", R"({"action":"Deny"})", R"({"action":"Deny"})"));
  EXPECT_TRUE(r.closes(r.b.out, r.eth, 80));
  EXPECT_TRUE(refused(r.b.out, r.eth6, 80));
  EXPECT_TRUE(refused(r.b.host, r.world, 80));
  EXPECT_TRUE(reaches(r.b.out, r.eth, 22));
  r.b.host.run("ip -6 neigh flush dev eth0");
  r.b.out.run("ip -6 neigh flush dev eth0");
  EXPECT_TRUE(reaches(r.b.out, r.eth6, 22)) << "with neighbour discovery anew";
  EXPECT_TRUE(reaches(r.b.host, r.world, 2379)) << "the answers come from a failsafe port";
  EXPECT_TRUE(reaches(r.b.host, r.world6, 2379));
  // A port that is failsafe as a source opens no other: who uses it is tracked and asked the usual policy.
  const auto rules = [&] { return r.b.host.run("nft -s list table inet calico"); };
  const auto before = rules();
  r.policy("all", R"("types":["Ingress","Egress"],"ingress":[{"action":"Deny"}],"egress":[{"action":"Deny"}])");
  ASSERT_TRUE(eventually("the usual policy denies", [&] { return rules() != before; }));
  Sock sly(r.b.out, SOCK_STREAM | SOCK_NONBLOCK);
  sly.bind("192.168.0.2", 179);
  EXPECT_FALSE(sly.connect(r.eth, 80, 500));
  EXPECT_TRUE(reaches(r.b.out, r.eth, 22));
}

TEST(FelixPreDnat, IsAskedBeforeTranslation) {
  NEEDS_NETNS();
  HostRig r;
  const std::string fip = "172.18.0.12", fip6 = "fd18::12";
  r.b.out.run("ip route add 172.18.0.0/24 via 192.168.0.11; ip -6 route add fd18::/64 via fd00::11");
  r.b.endpoint(r.vm, {"open"}, [&](model::WorkloadEndpoint& w) {
    w.ip_nats = {{*Ip::parse(r.vm.ip), *Ip::parse(fip)}, {*Ip::parse(r.vm.ip6), *Ip::parse(fip6)}};
  });
  // A foreign translation: 8080 of the host is its own 80, and 8081 the VM's 80.
  r.b.host.run(
      "nft -f - <<'X'\ntable inet stranger {\n chain c {\n  type nat hook prerouting priority -99;\n"
      "  iifname eth0 ip daddr " +
      r.eth +
      " tcp dport 8080 redirect to :80\n"
      "  iifname eth0 ip daddr " +
      r.eth + " tcp dport 8081 dnat ip to " + r.vm.ip +
      ":80\n"
      "  iifname eth0 ip6 daddr " +
      r.eth6 + " tcp dport 8080 redirect to :80\n }\n}\nX");
  auto web = listener(r.b.host, 80), web6 = listener(r.b.host, 80, true), ssh = listener(r.b.host, 22);
  auto vm80 = listener(r.vm.ns, 80), vm80_6 = listener(r.vm.ns, 80, true);
  auto far80 = listener(r.b.out, 80);
  ASSERT_NO_FATAL_FAILURE(r.start());
  ASSERT_TRUE(r.opens(r.b.out, fip, 80));
  ASSERT_TRUE(reaches(r.b.out, fip6, 80));
  ASSERT_TRUE(reaches(r.b.out, r.eth, 8080));
  ASSERT_TRUE(reaches(r.b.out, r.eth6, 8080));
  ASSERT_TRUE(reaches(r.b.out, r.eth, 8081));
  EXPECT_FALSE(has_hook(r.b, "host-pre-dnat"));
  for (const std::string interface : {"eth0", "*"}) {
    SCOPED_TRACE(interface);
    r.hep("e", interface);
    r.policy("early", early("preDNAT", R"({"action":"Deny"})"));
    EXPECT_TRUE(r.closes(r.b.out, fip, 80)) << "all is refused";
    EXPECT_TRUE(r.stands("e", "up"));
    EXPECT_TRUE(refused(r.b.out, fip6, 80));
    for (const auto p : {80, 8080, 8081}) EXPECT_TRUE(refused(r.b.out, r.eth, static_cast<std::uint16_t>(p))) << p;
    EXPECT_TRUE(reaches(r.b.out, r.eth, 22)) << "failsafe";
    // Nothing of it is the VM's or the host's own sending.
    EXPECT_TRUE(reaches(r.vm.ns, r.world, 80));
    EXPECT_TRUE(reaches(r.b.host, r.vm.ip, 80));
    EXPECT_TRUE(reaches(r.b.host, "127.0.0.1", 80));
    EXPECT_TRUE(refused(r.b.host, r.world, 80)) << "egress has no policy at all";
    // A pinhole by the backend's port opens the backend's port, and not what is translated to it.
    r.policy("early", early("preDNAT", port("Allow", "destination", 80) + R"(,{"action":"Deny"})"));
    EXPECT_TRUE(r.opens(r.b.out, r.eth, 80)) << "and the usual policies are not asked again";
    EXPECT_TRUE(refused(r.b.out, r.eth, 8080));
    EXPECT_TRUE(refused(r.b.out, r.eth, 8081));
    // By the port before translation.
    r.policy("early", early("preDNAT", R"({"action":"Allow","protocol":"TCP","destination":{"ports":[8080,8081]}},
                                         {"action":"Deny"})"));
    EXPECT_TRUE(r.opens(r.b.out, r.eth, 8080));
    EXPECT_TRUE(reaches(r.b.out, r.eth6, 8080));
    EXPECT_TRUE(reaches(r.b.out, r.eth, 8081));
    EXPECT_TRUE(refused(r.b.out, r.eth, 80));
    EXPECT_TRUE(refused(r.b.out, r.eth6, 80));
    // The same for a floating IP, by its address; the VM's own policy is asked all the same.
    r.policy("early", early("preDNAT", fmt::format(R"({{"action":"Allow","destination":{{"nets":["{}/32"]}}}},
                              {{"action":"Allow","destination":{{"nets":["{}/128"]}}}},{{"action":"Deny"}})",
                                                   fip, fip6)));
    EXPECT_TRUE(r.opens(r.b.out, fip, 80));
    EXPECT_TRUE(reaches(r.b.out, fip6, 80));
    EXPECT_TRUE(refused(r.b.out, r.vm.ip, 80)) << "its address behind the translation";
    r.b.group("open", Bench::tcp(81));
    EXPECT_TRUE(r.closes(r.b.out, fip, 80));
    EXPECT_TRUE(refused(r.b.out, fip6, 80));
    r.b.group("open", Bench::kAll);
    EXPECT_TRUE(r.opens(r.b.out, fip, 80));
    r.no_policy("early");
    r.no_hep("e");
    EXPECT_TRUE(r.opens(r.b.out, r.eth, 8080));
    EXPECT_TRUE(eventually("no hook", [&] { return !has_hook(r.b, "host-pre-dnat"); }));
  }
}

TEST(FelixUntracked, WhatTheKernelRefusesClosesItsHostEndpointAlone) {
  NEEDS_NETNS();
  Netns host("host"), out("out"), side("side");
  veth(host, "eth0", out, "eth0");
  veth(host, "eth1", side, "eth0");
  host.run("ip addr add 192.168.0.11/24 dev eth0; ip addr add 192.168.1.11/24 dev eth1");
  out.run("ip addr add 192.168.0.2/24 dev eth0");
  side.run("ip addr add 192.168.1.2/24 dev eth0");
  auto web = listener(host, 80), ssh = listener(host, 22);
  auto connection = host.in([] { return nft::Connection::open(); });
  ASSERT_TRUE(connection);
  felix::Firewall fw(std::move(*connection));
  felix::Settings settings;
  settings.failsafe_in = *felix::parse_failsafe("tcp:22");
  fw.configure(settings);
  model::Compiler c({.host = "h"});
  for (const auto* interface : {"eth0", "eth1"}) {
    c.update(hep_key(interface),
             fmt::format(R"({{"metadata":{{"labels":{{"is":"{0}"}}}},"spec":{{"node":"h","interfaceName":"{0}"}}}})",
                         interface));
    const auto policy = [&](const std::string& name, const std::string& spec) {
      c.update(std::string(model::kGlobalNetworkPolicies) + interface + name,
               fmt::format(R"j({{"spec":{{"selector":"is == '{}'",{}}}}})j", interface, spec));
    };
    policy("-raw", early("doNotTrack", R"({"action":"Allow","ipVersion":4})", R"({"action":"Allow"})"));
    policy("-pre", early("preDNAT", R"({"action":"Allow","ipVersion":4})"));
  }
  c.flush();
  for (const auto* chain : {"in/global/eth0-raw", "in/global/eth0-pre"}) {
    SCOPED_TRACE(chain);
    auto ruleset = c.ruleset();
    fw.stage_all(ruleset);
    ASSERT_TRUE(fw.load());
    ASSERT_TRUE(fw.add());
    ASSERT_TRUE(fw.remove());
    ASSERT_TRUE(reaches(out, "192.168.0.11", 80));
    ASSERT_TRUE(reaches(side, "192.168.1.11", 80));
    // Only untracked traffic is asked by the first; without it, what is before translation.
    if (std::string_view(chain) == "in/global/eth0-pre")
      ruleset.chains.at("hep-raw-in/eth0").erase(ruleset.chains.at("hep-raw-in/eth0").begin());
    ruleset.chains.at(chain).at(0).src.in_sets = {"no-such-set"};
    fw.stage_all(ruleset);
    const auto added = fw.add();
    ASSERT_TRUE(added) << added.error().what;
    ASSERT_TRUE(fw.remove());
    EXPECT_TRUE(fw.refused().contains(chain));
    EXPECT_NE(fw.fault_in(ruleset.hosts.at(hep_key("eth0")).chains).find(chain), std::string::npos);
    EXPECT_EQ(fw.fault_in(ruleset.hosts.at(hep_key("eth1")).chains), "");
    EXPECT_TRUE(refused(out, "192.168.0.11", 80));
    EXPECT_TRUE(reaches(out, "192.168.0.11", 22)) << "failsafe";
    EXPECT_TRUE(reaches(side, "192.168.1.11", 80));
  }
}

TEST(FelixPreDnat, EarlyPoliciesInTheirOrderAndARestart) {
  NEEDS_NETNS();
  HostRig r;
  auto l80 = listener(r.b.host, 80), l81 = listener(r.b.host, 81), l82 = listener(r.b.host, 82);
  ASSERT_NO_FATAL_FAILURE(r.start());
  r.hep("e", "eth0");
  r.policy("all", kAllowAll);
  r.policy("raw", early("doNotTrack", port("Allow", "destination", 80), port("Allow", "source", 80)));
  r.policy("early", early("preDNAT", R"({"action":"Deny","protocol":"TCP","destination":{"ports":[80,81]}})"));
  EXPECT_TRUE(r.closes(r.b.out, r.eth, 81));
  EXPECT_TRUE(reaches(r.b.out, r.eth, 80)) << "what is untracked is not asked before translation";
  EXPECT_TRUE(reaches(r.b.out, r.eth, 82));
  EXPECT_TRUE(r.stands("e", "up"));
  // A connection of before goes on when one refuses what begins it.
  Sock server(r.b.host, SOCK_DGRAM), client(r.b.out, SOCK_DGRAM);
  server.bind("0.0.0.0", 7000);
  client.bind(r.world, 7001);
  client.send("a", r.eth, 7000);
  ASSERT_EQ(server.receive(), "a");
  server.send("b", r.world, 7001);
  ASSERT_EQ(client.receive(), "b");
  r.policy("early", early("preDNAT", R"({"action":"Deny","protocol":"UDP"},)" + port("Deny", "destination", 81)));
  Sock other(r.b.out, SOCK_DGRAM);
  other.bind(r.world, 7002);
  EXPECT_TRUE(eventually("new ones are refused", [&] {
    other.send("d", r.eth, 7000);
    return server.receive(300).empty();
  }));
  client.send("c", r.eth, 7000);
  EXPECT_EQ(server.receive(), "c");
  const auto before = r.b.kernel(false);
  r.b.stop();
  EXPECT_TRUE(refused(r.b.out, r.eth, 81)) << "the rules outlive the process";
  ASSERT_NO_FATAL_FAILURE(r.b.start());
  ASSERT_TRUE(eventually("settled", [&] { return r.b.report.is_settled(model::host_endpoint_status_prefix("h")); }));
  EXPECT_LE(r.b.described().at("nft").at("operations").to_number<int>(), 2) << "the adoption of the tables";
  EXPECT_EQ(r.b.kernel(false), before);
  EXPECT_TRUE(reaches(r.b.out, r.eth, 80));
  // One that cannot be enforced closes all but the failsafe ports.
  auto ssh = listener(r.b.host, 22);
  r.policy("raw", early("doNotTrack", R"({"action":"Perhaps"})", R"({"action":"Allow"})"));
  EXPECT_TRUE(r.closes(r.b.out, r.eth, 82));
  EXPECT_TRUE(r.stands("e", "error"));
  EXPECT_TRUE(reaches(r.b.out, r.eth, 22));
  r.no_policy("raw");
  r.no_policy("early");
  EXPECT_TRUE(r.opens(r.b.out, r.eth, 81));
  EXPECT_TRUE(
      eventually("no hooks", [&] { return !has_hook(r.b, "host-untracked-in") && !has_hook(r.b, "host-pre-dnat"); }));
}

}  // namespace
}  // namespace calico::test
