#include "core/model/resources.hpp"

#include <gtest/gtest.h>

#include "core/model/keys.hpp"
#include "tests/support/fixtures.hpp"

namespace calico::model {
namespace {

/// The document as the model writes it again after reading it.
Result<std::string> rewritten(const std::string& key, const std::string& value) {
  const auto again = [](auto parsed) -> Result<std::string> {
    if (!parsed) return tl::unexpected(parsed.error());
    return to_json(*parsed);
  };
  if (key.starts_with(kWorkloadEndpoints)) return again(parse_workload_endpoint(value));
  if (key.starts_with(kNetworkPolicies)) return again(parse_network_policy(value));
  if (key == kClusterInformation) return again(parse_cluster_information(value));
  if (key.starts_with(subnet_prefix(""))) return again(parse_subnet(value));
  if (key.starts_with(kFelixConfigurations)) {
    auto f = parse_felix_configuration(value);
    if (!f) return tl::unexpected(f.error());
    return to_json_felix_configuration(f->meta, f->values["EndpointReportingEnabled"] == "true",
                                       f->values["InterfacePrefix"]);
  }
  return std::string();
}

TEST(Resources, WhatTheDriverWroteIsReadAndWrittenTheSame) {
  std::vector<std::pair<std::string, std::string>> all = test::openstack_snapshot();
  for (const auto& w : test::openstack_lifecycle())
    if (w.value) all.emplace_back(w.key, *w.value);
  int compared = 0;
  for (const auto& [key, value] : all) {
    const auto out = rewritten(key, value);
    ASSERT_TRUE(out) << key << ": " << out.error().what;
    if (out->empty()) continue;
    EXPECT_EQ(boost::json::parse(*out), boost::json::parse(value)) << key << "\n" << *out << "\n" << value;
    ++compared;
  }
  EXPECT_EQ(compared, 48);
}

TEST(Resources, EveryRecordedPolicyIsUsable) {
  for (const auto& w : test::openstack_lifecycle()) {
    if (!w.value || !w.key.starts_with(kNetworkPolicies)) continue;
    const auto p = parse_network_policy(*w.value);
    ASSERT_TRUE(p);
    EXPECT_EQ(p->fault, "") << *w.value;
  }
}

TEST(Resources, AllowedPairThatIsABlock) {
  EXPECT_EQ(parse_network("10.1.2.0/28/32")->to_string(), "10.1.2.0/28");
  EXPECT_EQ(parse_network("fd00::/64/128")->to_string(), "fd00::/64");
  EXPECT_EQ(parse_network("10.1.2.3")->to_string(), "10.1.2.3/32");
  for (auto bad : {"10.1.2.0/28/24", "10.1.2.0/28/32/32", "x/32", ""}) EXPECT_FALSE(parse_network(bad)) << bad;
}

TEST(Resources, PolicyDetails) {
  const auto p = parse_network_policy(R"j({"metadata":{"name":"p","namespace":"n"},"spec":{
    "selector":"has(a)","order":5.5,"types":["Ingress"],"ingress":[
    {"action":"allow","protocol":"tcp","destination":{"ports":["80:443",22,"8080"]}},
    {"action":"Deny","ipVersion":6,"protocol":"ICMPv6","icmp":{"type":128,"code":0},"source":{"notNets":["::1/128"]}},
    {"action":"Allow","protocol":"0"},{"action":"Allow","notProtocol":"udplite"}]}})j");
  ASSERT_TRUE(p);
  EXPECT_EQ(p->fault, "");
  EXPECT_EQ(p->order, 5.5);
  EXPECT_TRUE(p->ingress_type);
  EXPECT_FALSE(p->egress_type);
  ASSERT_EQ(p->ingress.size(), 4U);
  EXPECT_EQ(p->ingress[0].protocol, 6);
  EXPECT_EQ(p->ingress[0].destination.ports, (std::vector<PortRange>{{80, 443}, {22, 22}, {8080, 8080}}));
  EXPECT_EQ(p->ingress[1].icmp, (Icmp{128, 0}));
  EXPECT_FALSE(p->ingress[2].protocol);
  EXPECT_EQ(p->ingress[3].not_protocol, 136);
}

TEST(Resources, ABadRuleKeepsTheSelectorAndSaysWhatIsWrong) {
  for (auto [rules, what] : std::initializer_list<std::pair<const char*, const char*>>{
           {R"([{"action":"Alow"}])", "spec.ingress[0].action"},
           {R"([{"action":"Allow","protocol":"tcp","destination":{"ports":["ht tp"]}}])", "a port's name"},
           {R"([{"action":"Allow","destination":{"ports":[80]}}])", "ports need protocol"},
           {R"([{"action":"Allow","protocol":"tcp","destination":{"ports":["9:8"]}}])", "first is above last"},
           {R"([{"action":"Allow","source":{"nets":["10.0.0.0/99"]}}])", "spec.ingress[0].source.nets"},
           {R"([{"action":"Allow","source":{"selector":"has("}}])", "spec.ingress[0].source.selector"},
           {R"([{"action":"Allow","protocol":300}])", "0 to 255"},
           {R"([{"action":"Allow","protocol":"tcp","icmp":{"type":8}}])", "icmp needs"},
           {R"([{"action":"Allow","source":{"services":{"name":"x"}}}])", "not supported"},
           {R"("none")", "need a list"}}) {
    const auto p = parse_network_policy(
        std::string(R"j({"metadata":{"name":"p"},"spec":{"selector":"has(a)","ingress":)j") + rules + "}}");
    ASSERT_TRUE(p) << rules;
    EXPECT_NE(p->fault.find(what), std::string::npos) << rules << ": " << p->fault;
    EXPECT_EQ(p->selector, "has(a)");
    EXPECT_TRUE(p->ingress.empty());
  }
  EXPECT_FALSE(parse_network_policy(R"({"spec":{"selector":"has("}})"));
  EXPECT_FALSE(parse_network_policy("[]"));
  EXPECT_FALSE(parse_network_policy("{"));
  EXPECT_FALSE(parse_network_policy(std::string(2U << 20U, ' ')));
  EXPECT_FALSE(parse_network_policy("{\"a\":" + std::string(100, '[') + std::string(100, ']') + "}"));
}

TEST(Resources, NodeAndBack) {
  const auto n = parse_node(R"({"metadata":{"name":"rr1","labels":{"role":"rr"}},"spec":{"bgp":{"asNumber":"1.10",
    "ipv4Address":"192.168.0.2/24","routeReflectorClusterID":"192.168.0.2"},
    "addresses":[{"address":"172.18.203.2/24","type":"ExternalIP"},{"address":"192.168.0.2"},{"address":"rr1","type":"Hostname"}]}})");
  ASSERT_TRUE(n) << n.error().what;
  EXPECT_TRUE(n->is_reflector());
  EXPECT_EQ(n->as_number->value, 65546U);
  EXPECT_EQ(n->bgp_ipv4->addr.to_string(), "192.168.0.2");
  EXPECT_EQ(n->bgp_ipv4->len, 24);
  EXPECT_EQ(n->all_addresses().size(), 2U);
  EXPECT_EQ(*parse_node(to_json(*n)), *n);
  EXPECT_FALSE(parse_node(R"({"spec":{"bgp":{"ipv4Address":"x"}}})"));
}

TEST(Resources, FelixConfigurationBecomesUpstreamNames) {
  auto f = parse_felix_configuration(R"({"metadata":{"annotations":{"config.projectcalico.org/MetadataPort":"80"}},
    "spec":{"interfacePrefix":"tap","endpointReportingEnabled":true,"metadataPort":8775,"reportingInterval":"30s","list":[1]}})");
  ASSERT_TRUE(f);
  EXPECT_EQ(f->values, (std::map<std::string, std::string>{{"InterfacePrefix", "tap"},
                                                           {"EndpointReportingEnabled", "true"},
                                                           {"MetadataPort", "80"},
                                                           {"ReportingInterval", "30s"},
                                                           {"List", "[1]"}}));
}

TEST(Resources, StatusDocuments) {
  EXPECT_EQ(endpoint_status_json(EndpointState::up), R"({"status":"up"})");
  EXPECT_EQ(*parse_endpoint_status(R"({"status":"down"})"), EndpointState::down);
  EXPECT_FALSE(parse_endpoint_status(R"({"status":"sideways"})"));
  const AgentStatus a{"2026-03-04T09:20:31Z", 1234.56, false};
  EXPECT_EQ(*parse_agent_status(to_json(a)), a);
}

TEST(Resources, EndpointFaultsNameThePath) {
  auto e = parse_workload_endpoint(R"({"spec":{"ipNetworks":["10.0.0.1/32","10.0.0.300/32"]}})");
  ASSERT_FALSE(e);
  EXPECT_NE(e.error().what.find("spec.ipNetworks[1]"), std::string::npos) << e.error().what;
  EXPECT_FALSE(parse_workload_endpoint(R"({"spec":{"mac":"zz"}})"));
  EXPECT_FALSE(parse_workload_endpoint(R"({"spec":[]})"));
}

// Values and keys are anybody's, and end in logs.
TEST(Resources, AFaultIsOneLine) {
  for (const auto* text : {R"({"spec":{"mac":"a\nb\u001b[2J"}})", R"({"spec":{"ipv4Gateway":"10.0.0.1\r\n"}})",
                           R"({"metadata":{"labels":{"a\nb":1}}})"}) {
    const auto e = parse_workload_endpoint(text);
    ASSERT_FALSE(e) << text;
    for (const unsigned char c : e.error().what) EXPECT_TRUE(c >= 0x20 && c != 0x7f) << e.error().what;
  }
  const auto subnet = parse_subnet(R"({"cidr":"10.0.0.0\n/8"})");
  ASSERT_FALSE(subnet);
  EXPECT_EQ(subnet.error().what.find('\n'), std::string::npos) << subnet.error().what;
}

}  // namespace
}  // namespace calico::model
