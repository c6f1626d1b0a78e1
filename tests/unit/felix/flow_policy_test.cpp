// Which endpoints a change concerns, and which connections it ends.
#include "modules/felix/flow_policy.hpp"

#include <gtest/gtest.h>

#include "core/model/compiler.hpp"
#include "core/model/resources.hpp"

namespace calico::felix {
namespace {

using Keys = std::set<std::string>;

std::string endpoint_key(int n) {
  return model::workload_endpoint_key("openstack", {"h", "openstack", fmt::format("vm{}", n), fmt::format("p{}", n)});
}

/// VMs 1, 2… with 10.0.0.n and fd00::n on host h; those above 8 are on another host.
struct Cloud {
  model::Compiler compiler{{.host = "h"}};

  Cloud() {
    policy("web",
           R"j({"action":"Allow","protocol":"TCP","source":{"selector":"has(client)"},"destination":{"ports":[80]}})j");
    policy("client", R"j({"action":"Allow","protocol":"ICMP","icmp":{"type":8}})j");
    policy("picky", R"j({"action":"Deny","source":{"selector":"has(client)"}},{"action":"Allow"})j");
    policy("not", R"j({"action":"Allow","source":{"notSelector":"has(client)"}})j");
    endpoint(1, {"web"});
    endpoint(2, {"client"});
    endpoint(3, {"picky"});
    endpoint(4, {"not"});
    endpoint(9, {"client"});
    compiler.flush();
  }
  void policy(const std::string& name, const std::string& ingress) {
    compiler.update(
        model::network_policy_key("openstack", name),
        fmt::format(
            R"j({{"spec":{{"selector":"has({})","types":["Ingress","Egress"],"ingress":[{}],"egress":[{{"action":"Allow"}}]}}}})j",
            name, ingress));
  }
  void endpoint(int n, const std::vector<std::string>& labels) {
    model::WorkloadEndpoint e;
    e.meta.ns = "openstack";
    e.orchestrator = "openstack";
    e.node = n > 8 ? "other" : "h";
    e.workload = fmt::format("vm{}", n);
    e.endpoint = fmt::format("p{}", n);
    e.interface_name = fmt::format("tap{}", n);
    e.mac = Mac{{2, 0, 0, 0, 0, static_cast<std::uint8_t>(n)}};
    e.ip_networks = {*Prefix::parse(fmt::format("10.0.0.{}", n)), *Prefix::parse(fmt::format("fd00::{}", n))};
    for (const auto& l : labels) e.meta.labels[l] = "";
    const model::WorkloadEndpointName name{e.node, "openstack", e.workload, e.endpoint};
    e.meta.name = model::format_wep_name(name);
    compiler.update(model::workload_endpoint_key("openstack", name), to_json(e));
  }
  Keys changed() {
    PolicyChange c;
    c.add(compiler.flush());
    return concerned(compiler.ruleset(), c);
  }
  const model::Ruleset& rules() const { return compiler.ruleset(); }
  FlowPolicy judge(const Keys& keys, Keys local = {}) {
    return FlowPolicy(rules(), keys, [local](const Ip& ip) { return local.contains(ip.to_string()); });
  }
};

conntrack::Entry flow(const std::string& src, const std::string& dst, std::uint16_t port, std::uint8_t protocol = 6) {
  conntrack::Entry e;
  e.orig.src = *Ip::parse(src);
  e.orig.dst = *Ip::parse(dst);
  e.orig.protocol = protocol;
  e.orig.src_port = 40000;
  e.orig.dst_port = port;
  e.reply = e.orig;
  std::swap(e.reply.src, e.reply.dst);
  std::swap(e.reply.src_port, e.reply.dst_port);
  return e;
}

TEST(FlowPolicy, WhomAChangeConcerns) {
  Cloud c;
  EXPECT_EQ(c.changed(), Keys{});
  // A member more: "picky" refuses it, "not" does not match it any more; who only allows it is not concerned.
  c.endpoint(10, {"client"});
  EXPECT_EQ(c.changed(), (Keys{endpoint_key(3), endpoint_key(4)}));
  // A member less: the other way round.
  c.endpoint(10, {});
  EXPECT_EQ(c.changed(), Keys{endpoint_key(1)});
  c.policy("client", R"({"action":"Allow","protocol":"UDP"})");
  EXPECT_EQ(c.changed(), Keys{endpoint_key(2)});
  PolicyChange all;
  all.everything = true;
  EXPECT_EQ(concerned(c.rules(), all).size(), 4U) << "those of this host";
  PolicyChange moved;
  moved.endpoints = {endpoint_key(2), "gone"};
  EXPECT_EQ(concerned(c.rules(), moved), Keys{endpoint_key(2)});
}

TEST(FlowPolicy, ChangesAreMerged) {
  Cloud c;
  PolicyChange sum, one;
  c.endpoint(10, {"client"});
  sum.add(c.compiler.flush());
  c.endpoint(10, {});
  one.add(c.compiler.flush());
  sum.add(one);
  EXPECT_EQ(concerned(c.rules(), sum), (Keys{endpoint_key(1), endpoint_key(3), endpoint_key(4)}));
}

TEST(FlowPolicy, TheInitiatorNeedsEgressAndTheTargetIngress) {
  Cloud c;
  auto p = c.judge({endpoint_key(1), endpoint_key(2)});
  EXPECT_FALSE(p.refuses(c.rules(), flow("10.0.0.2", "10.0.0.1", 80)));
  EXPECT_TRUE(p.refuses(c.rules(), flow("10.0.0.2", "10.0.0.1", 81)));
  EXPECT_TRUE(p.refuses(c.rules(), flow("10.0.0.5", "10.0.0.1", 80))) << "no client";
  EXPECT_FALSE(p.refuses(c.rules(), flow("10.0.0.9", "10.0.0.1", 80))) << "a client of another host";
  EXPECT_FALSE(p.refuses(c.rules(), flow("10.0.0.1", "10.0.0.5", 81))) << "the other way: egress is open";
  EXPECT_FALSE(p.refuses(c.rules(), flow("fd00::2", "fd00::1", 80)));
  EXPECT_TRUE(p.refuses(c.rules(), flow("fd00::2", "fd00::1", 81)));
  auto ping = flow("10.0.0.7", "10.0.0.2", 0, 1);
  ping.orig.src_port = ping.reply.dst_port = 0;
  ping.orig.icmp_type = 8;
  EXPECT_FALSE(p.refuses(c.rules(), ping));
  ping.orig.icmp_type = 13;
  EXPECT_TRUE(p.refuses(c.rules(), ping));
  EXPECT_FALSE(p.refuses(c.rules(), flow("10.0.0.2", "10.0.0.3", 80))) << "whose policy has not changed is not asked";
}

TEST(FlowPolicy, TheDestinationIsTheOneBehindATranslation) {
  Cloud c;
  auto p = c.judge({endpoint_key(1), endpoint_key(2)});
  auto e = flow("10.0.0.2", "198.51.100.7", 8080);  // a floating IP of VM 1
  EXPECT_FALSE(p.refuses(c.rules(), e)) << "somewhere outside";
  e.reply.src = *Ip::parse("10.0.0.1");
  EXPECT_TRUE(p.refuses(c.rules(), e));
  e.reply.src_port = 80;
  EXPECT_FALSE(p.refuses(c.rules(), e));
}

TEST(FlowPolicy, WhatIsNotJudged) {
  Cloud c;
  auto p = c.judge({endpoint_key(1)}, {"192.0.2.1"});
  const auto refused = flow("10.0.0.5", "10.0.0.1", 81);
  ASSERT_TRUE(p.refuses(c.rules(), refused)) << "positive control";
  EXPECT_FALSE(p.refuses(c.rules(), flow("192.0.2.1", "10.0.0.1", 81))) << "from this host";
  auto e = refused;
  e.zone = 3;
  EXPECT_FALSE(p.refuses(c.rules(), e));
  e = refused;
  e.orig.zone = 3;
  EXPECT_FALSE(p.refuses(c.rules(), e));
  e = refused;
  e.status = conntrack::kExpected;
  EXPECT_FALSE(p.refuses(c.rules(), e));
  e = refused;
  e.reply.src = *Ip::parse("fd00::1");
  EXPECT_FALSE(p.refuses(c.rules(), e)) << "two families in one entry";
  // Closed by a fault: nothing new passes, what stands is left alone.
  c.policy("web", R"({"action":"Allow","protocol":"TCP","destination":{"ports":["no such port"]}})");
  c.compiler.flush();
  EXPECT_FALSE(p.refuses(c.rules(), refused));
  // Gone in the middle of a walk.
  c.compiler.update(endpoint_key(1), std::nullopt);
  c.compiler.flush();
  EXPECT_FALSE(p.refuses(c.rules(), refused));
}

TEST(FlowPolicy, ABlockBelongsToItsEndpointButForTheAddressesOfOthers) {
  Cloud c;
  auto rules = c.rules();
  rules.endpoints.at(endpoint_key(1)).nets.push_back(*Prefix::parse("10.0.0.0/24"));
  FlowPolicy p(rules, {endpoint_key(1), endpoint_key(3)}, [](const Ip&) { return false; });
  EXPECT_TRUE(p.refuses(rules, flow("192.0.2.9", "10.0.0.77", 81)));
  EXPECT_FALSE(p.refuses(rules, flow("192.0.2.9", "10.0.0.3", 81)));
}

}  // namespace
}  // namespace calico::felix
