// Host endpoints on a real kernel: what reaches the host's own processes, what leaves them, and what passes through.
// Each refusal stands beside something that passes the same way.
#include "tests/netns/felix/host_rig.hpp"

namespace calico::test {
namespace {

using Rig = HostRig;

TEST(FelixHosts, BlockedButForFailsafe) {
  NEEDS_NETNS();
  Rig r;
  auto ssh = listener(r.b.host, 22), web = listener(r.b.host, 80);
  auto ssh6 = listener(r.b.host, 2379, true), web6 = listener(r.b.host, 81, true);
  auto far_web = listener(r.b.out, 80), far_etcd = listener(r.b.out, 2379);
  auto vm_web = listener(r.vm.ns, 80);
  ASSERT_NO_FATAL_FAILURE(r.start());
  // Without a host endpoint nothing is policed.
  ASSERT_TRUE(reaches(r.b.out, r.eth, 80));
  ASSERT_TRUE(reaches(r.b.out, r.eth6, 81));
  ASSERT_TRUE(reaches(r.b.host, r.world, 80));
  for (const std::string interface : {"eth0", "*"}) {
    r.hep("e", interface);
    EXPECT_TRUE(r.closes(r.b.out, r.eth, 80)) << interface;
    EXPECT_TRUE(r.stands("e", "up"));
    EXPECT_TRUE(refused(r.b.out, r.eth6, 81)) << interface;
    EXPECT_TRUE(refused(r.b.host, r.world, 80)) << interface;
    EXPECT_FALSE(pings(r.b.out, r.eth, 1)) << interface << ": a protocol without ports";
    EXPECT_FALSE(pings(r.b.out, r.eth6, 1)) << interface;
    EXPECT_TRUE(reaches(r.b.out, r.eth, 22)) << interface << ": failsafe";
    // Neighbour discovery anew: it passes without a policy.
    r.b.host.run("ip -6 neigh flush dev eth0");
    r.b.out.run("ip -6 neigh flush dev eth0");
    EXPECT_TRUE(reaches(r.b.out, r.eth6, 2379)) << interface << ": failsafe, IPv6";
    EXPECT_TRUE(reaches(r.b.host, r.world, 2379)) << interface << ": failsafe outwards";
    // The host and its VM, the VM and the world, the host and itself: none of its business.
    EXPECT_TRUE(reaches(r.b.host, r.vm.ip, 80)) << interface;
    EXPECT_TRUE(reaches(r.vm.ns, r.world, 80)) << interface;
    EXPECT_TRUE(reaches(r.b.out, r.vm.ip, 80)) << interface;
    EXPECT_TRUE(reaches(r.b.host, "127.0.0.1", 80)) << interface;
    EXPECT_TRUE(reaches(r.b.host, r.eth, 80)) << interface;
    r.no_hep("e");
    EXPECT_TRUE(r.opens(r.b.out, r.eth, 80)) << interface;
    EXPECT_TRUE(reaches(r.b.host, r.world, 80)) << interface;
    EXPECT_TRUE(eventually("no state", [&] { return r.status("e") == "none"; })) << interface;
  }
}

TEST(FelixHosts, PoliciesAndProfilesDecide) {
  NEEDS_NETNS();
  Rig r;
  auto l80 = listener(r.b.host, 80), l81 = listener(r.b.host, 81), l81_6 = listener(r.b.host, 82, true);
  auto far80 = listener(r.b.out, 80), far81 = listener(r.b.out, 81);
  ASSERT_NO_FATAL_FAILURE(r.start());
  r.hep("e", "eth0", R"(,"ports":[{"name":"web","protocol":"TCP","port":80}],"expectedIPs":["192.168.0.11"])");
  EXPECT_TRUE(r.closes(r.b.out, r.eth, 80));
  r.policy("in", R"("types":["Ingress"],"ingress":[{"action":"Allow","protocol":"TCP","destination":{"ports":["web"]}},
                    {"action":"Allow","ipVersion":6,"protocol":"TCP","destination":{"ports":[82]}}])");
  EXPECT_TRUE(r.opens(r.b.out, r.eth, 80)) << "a named port of the host itself";
  EXPECT_TRUE(r.opens(r.b.out, r.eth6, 82));
  EXPECT_TRUE(refused(r.b.out, r.eth, 81));
  EXPECT_TRUE(refused(r.b.host, r.world, 80)) << "no policy for egress";
  r.policy("out", R"("types":["Egress"],"egress":[{"action":"Allow","protocol":"TCP","destination":{"ports":[80]}}])");
  EXPECT_TRUE(r.opens(r.b.host, r.world, 80));
  EXPECT_TRUE(refused(r.b.host, r.world, 81));
  // A protocol by its number; the answers belong to what was allowed.
  EXPECT_FALSE(pings(r.b.out, r.eth, 1));
  r.policy("ping",
           R"("types":["Ingress"],"ingress":[{"action":"Allow","protocol":1},{"action":"Allow","protocol":58}])");
  EXPECT_TRUE(eventually("ping", [&] { return pings(r.b.out, r.eth, 1); }));
  EXPECT_TRUE(pings(r.b.out, r.eth6, 2));
  EXPECT_FALSE(pings(r.b.host, r.world, 1));
  // A profile decides where no policy selects; one that denies after.
  for (const auto* name : {"in", "out", "ping"}) r.no_policy(name);
  EXPECT_TRUE(r.closes(r.b.out, r.eth, 80));
  r.b.view.set(std::string(model::kProfiles) + "all",
               R"({"spec":{"ingress":[{"action":"Allow"}],"egress":[{"action":"Allow"}]}})");
  r.hep("e", "eth0", R"(,"profiles":["all"])");
  EXPECT_TRUE(r.opens(r.b.out, r.eth, 81));
  EXPECT_TRUE(r.opens(r.b.host, r.world, 81));
  r.policy(
      "no",
      R"("types":["Ingress"],"ingress":[{"action":"Deny","protocol":"TCP","destination":{"ports":[81]}},{"action":"Allow"}])");
  EXPECT_TRUE(r.closes(r.b.out, r.eth, 81));
  EXPECT_TRUE(reaches(r.b.out, r.eth, 80));
  EXPECT_TRUE(reaches(r.b.host, r.world, 81)) << "egress is the profile's";
}

TEST(FelixHosts, ForwardedTrafficIsAskedOnlyWhatSaysSo) {
  NEEDS_NETNS();
  Rig r;
  auto vm80 = listener(r.vm.ns, 80), vm81 = listener(r.vm.ns, 81), vm82 = listener(r.vm.ns, 82, true);
  auto far80 = listener(r.b.out, 80), far81 = listener(r.b.out, 81);
  ASSERT_NO_FATAL_FAILURE(r.start());
  for (const std::string interface : {"eth0", "*"}) {
    SCOPED_TRACE(interface);
    r.hep("e", interface);
    r.policy("local", R"("types":["Ingress","Egress"],"ingress":[{"action":"Deny"}],"egress":[{"action":"Deny"}])");
    EXPECT_TRUE(r.stands("e", "up"));
    EXPECT_TRUE(r.opens(r.b.out, r.vm.ip, 80)) << "a denial for local traffic";
    EXPECT_TRUE(reaches(r.vm.ns, r.world, 81));
    // One denial that applies on forward, and the tier's end then means forwarded traffic as well.
    r.policy(
        "through",
        R"("order":1,"applyOnForward":true,"types":["Ingress"],"ingress":[{"action":"Deny","protocol":"TCP","destination":{"ports":[81]}},
                           {"action":"Allow","protocol":"TCP","destination":{"ports":[80]}}])");
    EXPECT_TRUE(r.closes(r.b.out, r.vm.ip, 81));
    EXPECT_TRUE(reaches(r.b.out, r.vm.ip, 80));
    EXPECT_TRUE(refused(r.b.out, r.vm.ip6, 82)) << "nothing allows it";
    EXPECT_TRUE(reaches(r.vm.ns, r.world, 81)) << "ingress says nothing about what leaves";
    EXPECT_TRUE(reaches(r.b.host, r.vm.ip, 81)) << "the host to its own VM";
    r.policy(
        "away",
        R"("order":2,"applyOnForward":true,"types":["Egress"],"egress":[{"action":"Allow","protocol":"TCP","destination":{"ports":[80]}}])");
    EXPECT_TRUE(r.closes(r.vm.ns, r.world, 81));
    EXPECT_TRUE(reaches(r.vm.ns, r.world, 80));
    // Both must allow: the VM's own group refuses what the host lets through.
    r.policy("through", fmt::format(R"("order":1,"applyOnForward":true,{})", kAllowAll));
    EXPECT_TRUE(r.opens(r.b.out, r.vm.ip, 81));
    r.b.group("open", Bench::tcp(80));
    EXPECT_TRUE(r.closes(r.b.out, r.vm.ip, 81));
    EXPECT_TRUE(reaches(r.b.out, r.vm.ip, 80));
    r.b.group("open", Bench::kAll);
    for (const auto* name : {"local", "through", "away"}) r.no_policy(name);
    r.no_hep("e");
    EXPECT_TRUE(r.opens(r.vm.ns, r.world, 81));
    EXPECT_TRUE(r.opens(r.b.out, r.vm.ip, 81));
  }
}

TEST(FelixHosts, NamedBeforeStarAndTheFirstOfEquals) {
  NEEDS_NETNS();
  Rig r;
  Netns side("side");
  veth(r.b.host, "eth1", side, "eth0");
  r.b.host.run("ip addr add 192.168.1.11/24 dev eth1");
  side.run("ip addr add 192.168.1.2/24 dev eth0");
  auto l80 = listener(r.b.host, 80), l81 = listener(r.b.host, 81);
  ASSERT_NO_FATAL_FAILURE(r.start());
  const auto allow = [&](const std::string& name, int port) {
    r.b.view.set(
        std::string(model::kGlobalNetworkPolicies) + name,
        fmt::format(
            R"j({{"spec":{{"selector":"is == '{}'","types":["Ingress"],"ingress":[{{"action":"Allow","protocol":6,
                            "destination":{{"ports":[{}]}}}}]}}}})j",
            name, port));
  };
  const auto endpoint = [&](const std::string& name, const std::string& spec) {
    r.b.view.set(hep_key(name),
                 fmt::format(R"({{"metadata":{{"labels":{{"is":"{}"}}}},"spec":{{"node":"h",{}}}}})", name, spec));
  };
  allow("by-address", 80);
  allow("star", 81);
  endpoint("by-address", R"("expectedIPs":["192.168.1.11"])");
  endpoint("star", R"("interfaceName":"*")");
  EXPECT_TRUE(r.closes(r.b.out, r.eth, 80));
  EXPECT_TRUE(r.opens(r.b.out, r.eth, 81));
  EXPECT_TRUE(r.opens(side, "192.168.1.11", 80));
  EXPECT_TRUE(refused(side, "192.168.1.11", 81)) << "the star's policy is not this interface's";
  // The same interface twice: the first by name polices, the other is an error.
  endpoint("zz", R"("interfaceName":"eth1")");
  EXPECT_TRUE(r.stands("zz", "error"));
  EXPECT_TRUE(r.stands("by-address", "up"));
  // The address moves, and with it the endpoint.
  r.b.host.run("ip addr del 192.168.1.11/24 dev eth1; ip addr add 192.168.1.12/24 dev eth1");
  EXPECT_TRUE(r.stands("by-address", "error"));
  EXPECT_TRUE(r.stands("zz", "up"));
  EXPECT_TRUE(r.closes(side, "192.168.1.12", 80));
  r.b.host.run("ip link set eth1 down");
  EXPECT_TRUE(r.stands("zz", "down"));
  // One that claims a VM's interface polices nothing.
  endpoint("tap", fmt::format(R"("interfaceName":"{}")", r.vm.tap));
  EXPECT_TRUE(r.stands("tap", "error"));
  auto vm80 = listener(r.vm.ns, 80);
  EXPECT_TRUE(r.opens(r.b.out, r.vm.ip, 80));
}

TEST(FelixHosts, EstablishedConnectionsAndRestarts) {
  NEEDS_NETNS();
  Rig r;
  auto ssh = listener(r.b.host, 22), l80 = listener(r.b.host, 80);
  ASSERT_NO_FATAL_FAILURE(r.start());
  // A flow of before goes on; a new one of the same kind does not.
  Sock server(r.b.host, SOCK_DGRAM), client(r.b.out, SOCK_DGRAM);
  server.bind("0.0.0.0", 7000);
  client.bind(r.world, 7001);
  client.send("a", r.eth, 7000);
  ASSERT_EQ(server.receive(), "a");
  server.send("b", r.world, 7001);
  ASSERT_EQ(client.receive(), "b");
  r.hep("e", "eth0");
  r.policy("through", fmt::format(R"("applyOnForward":true,{})",
                                  R"("types":["Ingress"],"ingress":[{"action":"Allow","protocol":1}])"));
  EXPECT_TRUE(r.closes(r.b.out, r.eth, 80));
  client.send("c", r.eth, 7000);
  EXPECT_EQ(server.receive(), "c");
  Sock other(r.b.out, SOCK_DGRAM);
  other.bind(r.world, 7002);
  other.send("d", r.eth, 7000);
  EXPECT_EQ(server.receive(300), "");
  // A restart finds all of it and writes nothing but the adoption of its tables.
  EXPECT_TRUE(r.stands("e", "up"));
  const auto before = r.b.kernel(false);
  r.b.stop();
  EXPECT_TRUE(refused(r.b.out, r.eth, 80)) << "the rules outlive the process";
  ASSERT_NO_FATAL_FAILURE(r.b.start());
  ASSERT_TRUE(eventually("settled", [&] { return r.b.report.is_settled(model::host_endpoint_status_prefix("h")); }));
  EXPECT_LE(r.b.described().at("nft").at("operations").to_number<int>(), 2) << "the adoption of the tables";
  EXPECT_EQ(r.b.kernel(false), before);
  EXPECT_TRUE(refused(r.b.out, r.eth, 80));
  EXPECT_TRUE(reaches(r.b.out, r.eth, 22));
}

TEST(FelixHosts, FailsafePortsAreConfigured) {
  NEEDS_NETNS();
  Rig r;
  r.b.sets.push_back("felix.failsafe_inbound_host_ports=tcp:192.168.0.0/30:8022");
  auto ssh = listener(r.b.host, 22), own = listener(r.b.host, 8022);
  ASSERT_NO_FATAL_FAILURE(r.start());
  ASSERT_TRUE(reaches(r.b.out, r.eth, 22));
  r.hep("e", "eth0");
  EXPECT_TRUE(r.closes(r.b.out, r.eth, 22));
  EXPECT_TRUE(reaches(r.b.out, r.eth, 8022));
  r.b.out.run("ip addr add 192.168.0.5/24 dev eth0");
  Sock far(r.b.out, SOCK_STREAM | SOCK_NONBLOCK);
  far.bind("192.168.0.5", 0);
  EXPECT_FALSE(far.connect(r.eth, 8022, 500)) << "not from there";
  // From the datastore, while it runs; and one that nobody can read leaves the former default's door open.
  r.b.view.set(model::felix_configuration_key("default"),
               R"({"spec":{"failsafeOutboundHostPorts":[{"protocol":"tcp","port":80}]}})");
  auto far80 = listener(r.b.out, 80);
  EXPECT_TRUE(r.opens(r.b.host, r.world, 80));
  auto far2379 = listener(r.b.out, 2379);
  EXPECT_TRUE(refused(r.b.host, r.world, 2379));
}

TEST(FelixHosts, APolicyThatCannotBeEnforcedClosesAllButFailsafe) {
  NEEDS_NETNS();
  Rig r;
  auto ssh = listener(r.b.host, 22), l80 = listener(r.b.host, 80);
  auto vm80 = listener(r.vm.ns, 80);
  ASSERT_NO_FATAL_FAILURE(r.start());
  r.hep("e", "eth0");
  r.policy("all", kAllowAll);
  EXPECT_TRUE(r.opens(r.b.out, r.eth, 80));
  r.policy("bad", R"("ingress":[{"action":"Perhaps"}])");
  EXPECT_TRUE(r.closes(r.b.out, r.eth, 80));
  EXPECT_TRUE(r.stands("e", "error"));
  EXPECT_TRUE(reaches(r.b.out, r.eth, 22));
  EXPECT_TRUE(reaches(r.b.out, r.vm.ip, 80)) << "forwarded traffic is none of its business";
  r.no_policy("bad");
  EXPECT_TRUE(r.opens(r.b.out, r.eth, 80));
  EXPECT_TRUE(r.stands("e", "up"));
}

}  // namespace
}  // namespace calico::test
