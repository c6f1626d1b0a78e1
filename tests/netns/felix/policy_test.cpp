// Calico's policy model on a real kernel: tiers and Pass, profiles, network sets, named ports, negations. What each
// behaviour means is tested without a kernel (tests/unit/model); here it is packets, each refusal beside a positive
// control.
#include "tests/netns/felix/bench.hpp"

namespace calico::test {
namespace {

using model::kGlobalNetworkPolicies;
using model::kGlobalNetworkSets;
using model::kProfiles;
using model::kTiers;

std::string global(const std::string& name) { return std::string(kGlobalNetworkPolicies) + name; }

std::string policy(const std::string& tier, double order, const std::string& ingress) {
  return fmt::format(
      R"j({{"spec":{{"tier":"{}","order":{},"selector":"has(sg.projectcalico.org/openstack-web)","types":["Ingress"],"ingress":[{}]}}}})j",
      tier, order, ingress);
}

/// A server in group "web" and a client that may send everything.
struct Pair {
  Bench b;
  Vm client{1}, server{2};
  Pair() {
    b.group("open", Bench::kAll);
    b.group("web", R"({"action":"Allow","protocol":6})");
    b.plug(client);
    b.plug(server);
    b.endpoint(client, {"open"});
    b.endpoint(server, {"web"});
  }
  void start() { ASSERT_NO_FATAL_FAILURE(b.start({&client, &server})); }
  testing::AssertionResult opens(std::uint16_t port, bool v6 = false) {
    return eventually(fmt::format("port {} opens", port),
                      [&] { return reaches(client.ns, v6 ? server.ip6 : server.ip, port, 300); });
  }
  testing::AssertionResult closes(std::uint16_t port, bool v6 = false) {
    return eventually(fmt::format("port {} closes", port),
                      [&] { return !reaches(client.ns, v6 ? server.ip6 : server.ip, port, 300); });
  }
};

TEST(FelixPolicy, TiersAndPass) {
  NEEDS_NETNS();
  Pair p;
  ASSERT_NO_FATAL_FAILURE(p.start());
  auto l80 = listener(p.server.ns, 80), l81 = listener(p.server.ns, 81);
  auto l82_6 = listener(p.server.ns, 82, true);
  ASSERT_TRUE(p.opens(80));
  ASSERT_TRUE(p.opens(82, true));
  // A tier before the default one: what it does not pass on is refused at its end.
  p.b.view.set(std::string(kTiers) + "first", R"({"spec":{"order":10}})");
  p.b.view.set(global("first.pass"),
               policy("first", 1, R"({"action":"Pass","protocol":6,"destination":{"ports":[80]}},{"action":"Log"})"));
  EXPECT_TRUE(p.closes(81));
  EXPECT_TRUE(p.closes(82, true));
  EXPECT_TRUE(p.opens(80)) << "passed, and the security group allows it";
  // The tier's end passes as well.
  p.b.view.set(std::string(kTiers) + "first", R"({"spec":{"order":10,"defaultAction":"Pass"}})");
  EXPECT_TRUE(p.opens(81));
  EXPECT_TRUE(p.opens(82, true));
  // A denial before the Pass, in the order of policies.
  p.b.view.set(global("first.deny"),
               policy("first", 0.5, R"({"action":"Deny","protocol":6,"destination":{"ports":[80]}})"));
  EXPECT_TRUE(p.closes(80));
  EXPECT_TRUE(p.opens(81));
  p.b.view.set(global("first.deny"), std::nullopt);
  EXPECT_TRUE(p.opens(80));
  // A policy with a Pass that the kernel has in the class's own chains goes without a trace.
  p.b.view.set(global("first.pass"), std::nullopt);
  EXPECT_TRUE(p.opens(81));
  EXPECT_TRUE(eventually("one chain a direction",
                         [&] { return p.b.host.run("nft list ruleset").find("-2 {") == std::string::npos; }));
}

TEST(FelixPolicy, ProfilesAndTheirLabels) {
  NEEDS_NETNS();
  Pair p;
  ASSERT_NO_FATAL_FAILURE(p.start());
  auto l80 = listener(p.server.ns, 80);
  ASSERT_TRUE(p.opens(80));
  const auto wear = [&](const Vm& vm, const std::vector<std::string>& groups, const std::string& profile) {
    p.b.endpoint(vm, groups);
    auto w = *model::parse_workload_endpoint(p.b.view.get(Bench::key(vm))->value);
    w.profiles = {profile};
    p.b.view.set(Bench::key(vm), to_json(w));
  };
  // No policy selects it any more; the profile it names is not there: nothing passes.
  wear(p.server, {}, "plain");
  EXPECT_TRUE(p.closes(80));
  const auto plain = [](const std::string& labels) {
    return R"({"spec":{"ingress":[{"action":"Allow","source":{"nets":["10.65.0.11/32"]}}],"egress":[{"action":"Allow"}])" +
           labels + "}}";
  };
  p.b.view.set(std::string(kProfiles) + "plain", plain(""));
  EXPECT_TRUE(p.opens(80));
  EXPECT_FALSE(pings(p.b.out, p.server.ip, 1)) << "only the client's address";
  // A label that the profile gives puts the endpoint under a policy, which decides alone.
  p.b.view.set(global("quiet"), R"j({"spec":{"selector":"has(quiet)","types":["Ingress"]
}
})j");
  p.b.view.set(std::string(kProfiles) + "plain", plain(R"(,"labelsToApply":{"quiet":""})"));
  EXPECT_TRUE(p.closes(80));
  p.b.view.set(global("quiet"), std::nullopt);
  EXPECT_TRUE(p.opens(80));
}

TEST(FelixPolicy, NetworkSetsOfAnySize) {
  NEEDS_NETNS();
  Pair p;
  p.b.group("web",
            R"j({"action":"Allow","protocol":6,"source":{"selector":"role == 'office'","namespaceSelector":"global()"
}
})j");
  ASSERT_NO_FATAL_FAILURE(p.start());
  auto l80 = listener(p.server.ns, 80);
  auto l82_6 = listener(p.server.ns, 82, true);
  ASSERT_TRUE(p.closes(80));
  const auto set = [&](const std::string& name, const std::string& nets) {
    p.b.view.set(std::string(kGlobalNetworkSets) + name,
                 fmt::format(R"({{"metadata":{{"labels":{{"role":"office"}}}},"spec":{{"nets":[{}]}}}})", nets));
  };
  set("one", R"("10.65.0.11/32","fd65::11")");
  EXPECT_TRUE(p.opens(80));
  EXPECT_TRUE(p.opens(82, true));
  // Overlapping blocks, the same twice, all there is; and back.
  set("two", R"("10.65.0.0/24","10.65.0.8/29","10.65.0.0/24","0.0.0.0/0","::/0")");
  EXPECT_TRUE(p.opens(80));
  set("one", R"("10.66.0.0/16")");
  EXPECT_TRUE(p.opens(80));
  EXPECT_TRUE(p.opens(82, true));
  set("two", R"("10.65.0.12/31","10.64.0.0/16")");
  EXPECT_TRUE(p.closes(80));
  EXPECT_TRUE(p.closes(82, true));
  set("two", R"("255.255.255.255/32","0.0.0.0/1","ffff::/16")");
  EXPECT_TRUE(p.opens(80));
  p.b.view.set(std::string(kGlobalNetworkSets) + "two", std::nullopt);
  EXPECT_TRUE(p.closes(80));
  set("two", R"("10.65.0.0/24")");
  EXPECT_TRUE(p.opens(80));
  // A restart reads 0.0.0.0/0 and the others back and writes nothing.
  set("two", R"("0.0.0.0/0","::/0","10.0.0.0/8")");
  EXPECT_TRUE(p.opens(82, true));
  p.b.stop();
  ASSERT_NO_FATAL_FAILURE(p.b.start());
  ASSERT_TRUE(eventually("settled", [&] { return p.b.report.is_settled(model::endpoint_status_prefix("", "h")); }));
  EXPECT_LE(p.b.described().at("nft").at("operations").to_number<int>(), 2) << "the adoption of the tables";
}

TEST(FelixPolicy, NamedPorts) {
  NEEDS_NETNS();
  Pair p;
  p.b.group("web", R"({"action":"Allow","protocol":6,"destination":{"ports":["http",8443]}})");
  ASSERT_NO_FATAL_FAILURE(p.start());
  auto l80 = listener(p.server.ns, 80), l81 = listener(p.server.ns, 81), l8443 = listener(p.server.ns, 8443);
  auto l82_6 = listener(p.server.ns, 82, true);
  ASSERT_TRUE(p.opens(8443));
  ASSERT_TRUE(p.closes(80));
  const auto name = [&](const std::vector<model::NamedPort>& ports) {
    auto w = *model::parse_workload_endpoint(p.b.view.get(Bench::key(p.server))->value);
    w.ports = ports;
    p.b.view.set(Bench::key(p.server), to_json(w));
  };
  name({{"http", 6, 80}, {"http", 6, 82}, {"http", 17, 81}});
  EXPECT_TRUE(p.opens(80));
  EXPECT_TRUE(p.opens(82, true));
  EXPECT_TRUE(refused(p.client.ns, p.server.ip, 81)) << "that name is UDP's";
  name({{"http", 6, 81}});
  EXPECT_TRUE(p.opens(81));
  EXPECT_TRUE(p.closes(80));
  EXPECT_TRUE(p.opens(8443));
  p.b.group("web", R"({"action":"Allow","protocol":6,"destination":{"notPorts":["http"]}})");
  EXPECT_TRUE(p.opens(80));
  EXPECT_TRUE(p.closes(81));
}

TEST(FelixPolicy, TheRulesetSaysWhatAHashStandsFor) {
  NEEDS_NETNS();
  Pair p;
  const std::string odd = "first;\"one\"}" + std::string(300, 'x');
  // A name and a selector that try to end the comment they are in.
  p.b.view.set(global(odd), policy("default", 1, R"j({"action":"Deny","protocol":6,"destination":{"ports":[81]}})j"));
  p.b.view.set(global("second"),
               policy("default", 2,
                      R"j({"action":"Allow","protocol":6,"source":{"selector":"x == '\"\\n\u001b[31m' || all()"}})j"));
  ASSERT_NO_FATAL_FAILURE(p.start());
  auto l80 = listener(p.server.ns, 80), l81 = listener(p.server.ns, 81);
  ASSERT_TRUE(p.opens(80));
  EXPECT_TRUE(refused(p.client.ns, p.server.ip, 81));
  const auto text = p.b.host.run("nft list table inet calico");
  const auto at = text.find("comment \"first;'one'}xxx");
  ASSERT_NE(at, text.npos) << text;
  EXPECT_EQ(text.substr(at, text.find('\n', at) - at).size(), 9 + 120 + 3 + 1U);
  EXPECT_NE(text.rfind("chain in/global/", at), text.npos);
  EXPECT_EQ(text.find('\x1b'), text.npos);
  // What is printed is read by nft: in a namespace where nobody owns the table.
  auto plain = p.b.host.run("nft -s list table inet calico | sed -e 's/ # progname .*//' -e '/^\tflags [op ]/d'");
  const auto read = p.b.out.try_run_with("nft -f -", plain);
  EXPECT_EQ(read.status, 0) << read.text;
  // A restart writes nothing for it.
  const auto before = p.b.kernel(false);
  p.b.stop();
  ASSERT_NO_FATAL_FAILURE(p.b.start());
  ASSERT_TRUE(p.b.up(p.server));
  EXPECT_EQ(p.b.kernel(false), before);
  EXPECT_LE(p.b.described().at("nft").at("operations").to_number<int>(), 2) << "the adoption of the two tables";
}

TEST(FelixPolicy, NegationsOfIcmp) {
  NEEDS_NETNS();
  Pair p;
  p.b.group("web", R"({"action":"Allow","protocol":"ICMP","notICMP":{"type":8,"code":0}},
                      {"action":"Allow","protocol":"ICMPv6","notICMP":{"type":128,"code":1}})");
  ASSERT_NO_FATAL_FAILURE(p.start());
  EXPECT_TRUE(eventually("ping over IPv6: another code", [&] { return pings(p.client.ns, p.server.ip6, 1); }));
  EXPECT_FALSE(pings(p.client.ns, p.server.ip, 1));
  p.b.group("web", R"({"action":"Allow","protocol":"ICMP","notICMP":{"type":8,"code":1}},
                      {"action":"Allow","protocol":"ICMPv6","notICMP":{"type":128,"code":0}})");
  EXPECT_TRUE(eventually("ping over IPv4: another code", [&] { return pings(p.client.ns, p.server.ip, 1); }));
  EXPECT_FALSE(pings(p.client.ns, p.server.ip6, 1));
}

}  // namespace
}  // namespace calico::test
