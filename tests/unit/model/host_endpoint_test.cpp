// Host endpoints without a kernel: reading them, whose an interface is, what is asked. That the answers are right is
// evaluate_test's (the differential test); here it is everything around them.
#include <gtest/gtest.h>

#include "core/model/compiler.hpp"
#include "core/model/keys.hpp"

namespace calico::model {
namespace {

std::string key_of(const std::string& name) { return std::string(kHostEndpoints) + name; }

struct Rig {
  Compiler c{{.host = "h"}};
  Rig() {
    c.set_host_interfaces({{"eth0", {*Ip::parse("192.0.2.1"), *Ip::parse("2001:db8::1")}},
                           {"eth1", {*Ip::parse("198.51.100.1")}},
                           {"tap1", {*Ip::parse("203.0.113.1")}}});
    c.flush();
  }
  void hep(const std::string& name, const std::string& spec, const std::string& labels = "") {
    c.update(key_of(name), fmt::format(R"({{"metadata":{{"labels":{{{}}}}},"spec":{{{}}}}})", labels, spec));
  }
  void policy(const std::string& name, const std::string& spec) {
    c.update(std::string(kGlobalNetworkPolicies) + name, fmt::format(R"({{"spec":{{{}}}}})", spec));
  }
  const HostPlan& plan(const std::string& name) { return c.ruleset().hosts.at(key_of(name)); }
  std::string chain_of(const std::string& set, const std::string& interface) {
    for (const auto& e : c.ruleset().sets.at(set).elements)
      if (e.interface_name == interface) return e.chain;
    return "";
  }
  std::string text(const std::string& chain) {
    std::string out;
    for (const auto& r : c.ruleset().chains.at(chain)) out += to_string(r) + ";";
    return out;
  }
};

TEST(HostEndpoint, ReadAndWritten) {
  const std::string text =
      R"({"metadata":{"name":"a","labels":{"r":"x"}},"spec":{"node":"h","interfaceName":"eth0","expectedIPs":["192.0.2.1","::1"],)"
      R"("profiles":["p"],"ports":[{"name":"ssh","protocol":"TCP","port":22}]}})";
  const auto h = parse_host_endpoint(text);
  ASSERT_TRUE(h) << h.error().what;
  EXPECT_EQ(h->ports, (std::vector<NamedPort>{{"ssh", 6, 22}}));
  EXPECT_EQ(h->expected_ips.size(), 2U);
  const auto again = parse_host_endpoint(to_json("a", *h));
  ASSERT_TRUE(again);
  EXPECT_EQ(*again, *h);
  for (const auto* bad :
       {R"({"spec":{"interfaceName":"eth0"}})", R"({"spec":{"node":"h"}})",
        R"({"spec":{"node":"h","interfaceName":"a/b"}})", R"({"spec":{"node":"h","interfaceName":"eth*"}})",
        R"({"spec":{"node":"h","interfaceName":"0123456789abcdef"}})",
        R"({"spec":{"node":"h","expectedIPs":["192.0.2.1/24"]}})", R"({"spec":{"node":1,"interfaceName":"eth0"}})",
        R"({"spec":{"node":"h","interfaceName":"eth0","ports":[{"name":"x"}]}})", "[]", ""})
    EXPECT_FALSE(parse_host_endpoint(bad)) << bad;
}

TEST(HostEndpoint, WhoseAnInterfaceIs) {
  Rig h;
  h.hep("b", R"("node":"h","interfaceName":"eth0")");
  h.hep("c", R"("node":"h","expectedIPs":["192.0.2.1","198.51.100.1"])");
  h.hep("d", R"("node":"h","expectedIPs":["2001:db8::1"])");
  h.hep("e", R"("node":"h","expectedIPs":["203.0.113.1"])");
  h.hep("f", R"("node":"h","interfaceName":"tap1")");
  h.hep("g", R"("node":"other","interfaceName":"eth1")");
  h.hep("w", R"("node":"h","interfaceName":"*")");
  h.hep("x", R"("node":"h","interfaceName":"*")");
  h.hep("y", R"("node":"h","interfaceName":"later0")");
  auto d = h.c.flush();
  EXPECT_EQ(d.hosts.size(), 8U);
  EXPECT_FALSE(h.c.ruleset().hosts.contains(key_of("g")));
  EXPECT_EQ(h.plan("b").interfaces, std::vector<std::string>{"eth0"});
  EXPECT_EQ(h.plan("c").interfaces, std::vector<std::string>{"eth1"});
  EXPECT_EQ(h.plan("c").notes, std::vector<std::string>{"interface eth0 is host endpoint b's"});
  EXPECT_EQ(h.plan("d").error, "interface eth0 is host endpoint b's");
  EXPECT_EQ(h.plan("e").error, "no interface has one of its expectedIPs")
      << "a workload's interface is none of the host's";
  EXPECT_EQ(h.plan("f").error, "interface tap1 belongs to endpoints; left alone");
  EXPECT_EQ(h.plan("x").error, "interface * is host endpoint w's");
  EXPECT_EQ(h.chain_of("hosts-in", "eth0"), "hep-in/b");
  EXPECT_EQ(h.chain_of("hosts-out", "eth1"), "hep-out/c");
  EXPECT_EQ(h.chain_of("hosts-in", "later0"), "hep-in/y");
  EXPECT_EQ(h.chain_of("hosts-in", "tap1"), "");
  EXPECT_EQ(h.chain_of("hosts-in", "lo"), "hosts-pass");
  EXPECT_EQ(h.text("any-in"), "goto hep-in/w;");
  EXPECT_EQ(h.text("any-fwd-in"), "");
  // The first one gone, the next has it; addresses that move take their endpoint along.
  h.c.update(key_of("b"), std::nullopt);
  h.c.set_host_interfaces({{"eth0", {*Ip::parse("192.0.2.1"), *Ip::parse("2001:db8::1")}}});
  h.c.flush();
  EXPECT_EQ(h.plan("c").interfaces, std::vector<std::string>{"eth0"});
  EXPECT_EQ(h.chain_of("hosts-in", "eth0"), "hep-in/c");
  EXPECT_EQ(h.chain_of("hosts-in", "eth1"), "");
  EXPECT_FALSE(h.c.ruleset().chains.contains("hep-in/b"));
  for (const auto* name : {"c", "d", "e", "f", "g", "w", "x", "y"}) h.c.update(key_of(name), std::nullopt);
  h.c.flush();
  Rig fresh;
  EXPECT_EQ(to_text(h.c.ruleset()), to_text(fresh.c.ruleset())) << "nothing is left";
}

TEST(HostEndpoint, WhatIsAsked) {
  Rig h;
  h.hep("a", R"j("node":"h","interfaceName":"eth0","profiles":["p"])j", R"j("role":"x")j");
  h.hep("w", R"j("node":"h","interfaceName":"*")j");
  h.c.flush();
  EXPECT_EQ(h.text("hep-in/a"), "drop;");
  EXPECT_EQ(h.plan("a").notes, std::vector<std::string>{"profile 'p' is missing: what reaches it is refused"});
  EXPECT_EQ(h.chain_of("hosts-fwd-in", "eth0"), "");
  // Only what applies on forward is asked of forwarded traffic, in its directions; eth0 is not the star's meanwhile.
  h.policy("local", R"j("selector":"role == 'x'","types":["Ingress"],"ingress":[{"action":"Allow"}])j");
  const std::string about = R"j("applyOnForward":true,"types":["Ingress"],"order":1,)j";
  const std::string no_tcp = R"j("ingress":[{"action":"Deny","protocol":"TCP"}])j";
  h.policy("through", R"j("selector":"all()",)j" + about + no_tcp);
  h.c.flush();
  EXPECT_EQ(h.plan("a").policies, (std::vector<std::string>{"through", "local"}));
  EXPECT_EQ(h.text("hep-fwd-in/a"), "jump in/global/through;drop;");
  EXPECT_EQ(h.text("any-fwd-in"), "goto hep-fwd-in/w;");
  EXPECT_EQ(h.text("any-fwd-out"), "");
  h.policy("through", R"j("selector":"!has(role)",)j" + about + no_tcp);
  h.c.flush();
  EXPECT_EQ(h.chain_of("hosts-fwd-in", "eth0"), "hosts-pass");
  EXPECT_FALSE(h.c.ruleset().chains.contains("hep-fwd-in/a"));
  // A namespaced policy never reaches the host, whatever labels claim.
  h.c.update(std::string(kProfiles) + "p",
             R"j({"spec":{"labelsToApply":{"projectcalico.org/namespace":"openstack"}}})j");
  h.hep("a", R"j("node":"h","interfaceName":"eth0","profiles":["p"])j",
        R"j("role":"x","projectcalico.org/namespace":"openstack")j");
  h.c.update(network_policy_key("openstack", "np"),
             R"j({"spec":{"selector":"all()","ingress":[{"action":"Allow"}]}})j");
  h.c.flush();
  EXPECT_EQ(h.plan("a").policies, std::vector<std::string>{"local"});
}

TEST(HostEndpoint, WhatIsWrongWithOne) {
  Rig h;
  h.hep("a", R"j("node":"h","interfaceName":"eth0")j", R"j("role":"x")j");
  h.policy("ok", R"j("selector":"has(role)","ingress":[{"action":"Allow"}])j");
  h.c.flush();
  const auto before = h.text("hep-in/a");
  EXPECT_EQ(before, "jump in/global/ok;drop;");
  // A value that cannot be read changes nothing but what is said.
  h.c.update(key_of("a"), "{");
  h.c.update(key_of("never"), R"j({"spec":{"node":"h"}})j");
  h.c.flush();
  EXPECT_EQ(h.text("hep-in/a"), before);
  EXPECT_EQ(h.plan("a").notes.size(), 1U);
  EXPECT_TRUE(h.c.faults().contains(key_of("a")));
  EXPECT_TRUE(h.c.faults().contains(key_of("never")));
  // A policy that cannot be enforced closes, forwarded traffic only when it is about that.
  const std::string perhaps = R"j("selector":"has(role)","ingress":[{"action":"Perhaps"}])j";
  h.policy("bad", perhaps);
  h.c.flush();
  EXPECT_EQ(h.text("hep-in/a"), "drop;");
  EXPECT_EQ(h.text("hep-out/a"), "drop;");
  EXPECT_EQ(h.chain_of("hosts-fwd-in", "eth0"), "");
  EXPECT_TRUE(h.plan("a").error.starts_with("policy bad: spec.ingress[0].action: 'perhaps'")) << h.plan("a").error;
  h.policy("bad", perhaps + R"j(,"applyOnForward":true)j");
  h.c.flush();
  EXPECT_EQ(h.chain_of("hosts-fwd-out", "eth0"), "hep-fwd-out/a");
  EXPECT_EQ(h.text("hep-fwd-out/a"), "drop;");
  h.policy("bad", R"j("selector":"has(role)","applyOnForward":true,"doNotTrack":true,"ingress":[{"action":"Deny"}])j");
  h.c.flush();
  EXPECT_EQ(h.text("hep-raw-in/a"), "jump in/global/bad;accept;");
  EXPECT_EQ(h.text("hep-in/a"), "accepted early accept;" + before);
  EXPECT_EQ(h.plan("a").error, "");
  h.hep("a", R"j("node":"elsewhere","interfaceName":"eth0")j", R"j("role":"x")j");
  const auto d = h.c.flush();
  EXPECT_TRUE(d.hosts.contains(key_of("a")));
  EXPECT_EQ(h.chain_of("hosts-in", "eth0"), "");
  EXPECT_FALSE(h.c.ruleset().chains.contains("in/global/ok")) << "nobody asks it";
}

TEST(HostEndpoint, EarlyPolicies) {
  Rig h;
  h.hep("a", R"j("node":"h","interfaceName":"eth0")j", R"j("role":"x")j");
  h.hep("w", R"j("node":"h","interfaceName":"*")j");
  const std::string about = R"j("selector":"all()","applyOnForward":true,)j";
  const std::string tcp = R"j("ingress":[{"action":"Allow","protocol":6},{"action":"Deny"}])j";
  h.policy("u", about + R"j("doNotTrack":true,"egress":[{"action":"Allow"}],)j" + tcp);
  h.policy("p", about + R"j("preDNAT":true,)j" + tcp);
  h.c.flush();
  EXPECT_EQ(h.text("in/global/u"), "protocol 6 untrack;drop;");
  EXPECT_EQ(h.text("out/global/u"), "untrack;");
  EXPECT_EQ(h.text("in/global/p"), "protocol 6 accept early;drop;");
  EXPECT_EQ(h.chain_of("hosts-raw-in", "eth0"), "hep-raw-in/a");
  EXPECT_EQ(h.chain_of("hosts-raw-out", "eth0"), "hep-raw-out/a");
  EXPECT_EQ(h.chain_of("hosts-pre-in", "eth0"), "hep-pre-in/a");
  EXPECT_EQ(h.text("hep-in/a"), "accepted early accept;drop;");
  EXPECT_EQ(h.text("hep-out/a"), "accepted early accept;drop;");
  // The star has no untracked part, and says so; the host's talk with itself is not asked before translation either.
  EXPECT_EQ(h.text("any-raw-in"), "");
  EXPECT_EQ(h.text("any-pre-in"), "goto hep-pre-in/w;");
  EXPECT_EQ(h.chain_of("hosts-pre-in", "lo"), "hosts-pass");
  EXPECT_EQ(h.text("hep-out/w"), "drop;");
  EXPECT_EQ(h.plan("w").notes,
            std::vector<std::string>{"policy u is not asked: doNotTrack is for host endpoints of named interfaces"});
  EXPECT_EQ(h.plan("w").error, "");
  // No host endpoint here, no chain of them.
  for (const auto* name : {"a", "w"}) h.c.update(key_of(name), std::nullopt);
  h.c.flush();
  EXPECT_FALSE(h.c.ruleset().chains.contains("in/global/u"));
  EXPECT_FALSE(h.c.ruleset().chains.contains("in/global/p"));
  for (const auto* name : {"u", "p"}) h.c.update(std::string(kGlobalNetworkPolicies) + name, std::nullopt);
  h.c.flush();
  Rig fresh;
  EXPECT_EQ(to_text(h.c.ruleset()), to_text(fresh.c.ruleset()));
}

TEST(HostEndpoint, WhatIsSaidOfPoliciesDoesNotDependOnTheirArrival) {
  const std::vector<std::pair<std::string, std::string>> policies = {
      {"a", R"j("selector":"all()","order":2,"applyOnForward":true,"preDNAT":true,"types":["Ingress"])j"},
      {"b", R"j("selector":"all()","order":1,"applyOnForward":true,"doNotTrack":true)j"},
      {"c", R"j("selector":"all()","order":4,"ingress":[{"action":"Perhaps"}])j"},
      {"d", R"j("selector":"all()","order":3,"ingress":[{"action":"Perchance"}])j"}};
  Rig h, reversed;
  for (auto* r : {&h, &reversed}) r->hep("e", R"("node":"h","interfaceName":"eth0")");
  for (const auto& [name, spec] : policies) h.policy(name, spec);
  for (auto it = policies.rbegin(); it != policies.rend(); ++it) reversed.policy(it->first, it->second);
  h.c.flush();
  reversed.c.flush();
  EXPECT_EQ(h.plan("e").policies, (std::vector<std::string>{"b", "a", "d", "c"}));
  EXPECT_TRUE(h.plan("e").error.starts_with("policy d: ")) << h.plan("e").error;
  EXPECT_EQ(to_text(h.c.ruleset()), to_text(reversed.c.ruleset()));
}

}  // namespace
}  // namespace calico::model
