#include "modules/controller/translate.hpp"

#include "cloud.hpp"

namespace calico::controller {
namespace {

/// One rule of Neutron through the API and what the policy says of it.
json::object rule_of(json::object rule) {
  Cloud cloud;
  auto group = cloud.id(cloud.make("security_group", {{"name", "g"}}));
  // Without the default rules, so that the one asked for is alone.
  const IdSet ids = cloud.state.rules_of(group);
  for (const auto& id : ids) EXPECT_EQ(cloud.del("security-group-rules/" + id).status, 204);
  rule["security_group_id"] = group;
  bool ingress = rule["direction"].as_string() == "ingress";
  cloud.make("security_group_rule", rule);
  auto spec = cloud.value(cloud.translator.policy_key(group)).at("spec").as_object();
  EXPECT_EQ(spec.at("selector").as_string(), "has(sg.projectcalico.org/openstack-" + group + ")");
  auto list = spec.at(ingress ? "ingress" : "egress").as_array();
  EXPECT_EQ(list.size(), 1U);
  EXPECT_TRUE(spec.at(ingress ? "egress" : "ingress").as_array().empty());
  return list.empty() ? json::object() : list[0].as_object();
}

void expect_rule(const char* neutron, const char* calico) {
  auto got = rule_of(json::parse(neutron).as_object());
  EXPECT_EQ(json::value(got), json::parse(calico)) << neutron << " became " << json::serialize(got);
}

TEST(Translate, EverySpellingOfARule) {
  const char* any = R"({"action":"Allow","ipVersion":4})";
  expect_rule(R"({"direction":"ingress"})", any);
  expect_rule(R"({"direction":"egress","protocol":null,"ethertype":"IPv4"})", any);
  expect_rule(R"({"direction":"ingress","ethertype":"IPv6"})", R"({"action":"Allow","ipVersion":6})");
  expect_rule(R"({"direction":"ingress","protocol":"0"})", R"({"action":"Allow","ipVersion":4,"protocol":"0"})");
  expect_rule(R"({"direction":"ingress","protocol":132})", R"({"action":"Allow","ipVersion":4,"protocol":"132"})");
  expect_rule(R"({"direction":"ingress","protocol":"sctp","port_range_min":5,"port_range_max":5})",
              R"({"action":"Allow","ipVersion":4,"protocol":132,"destination":{"ports":[5]}})");
  expect_rule(R"({"direction":"ingress","protocol":"TCP","port_range_min":1,"port_range_max":65535})",
              R"({"action":"Allow","ipVersion":4,"protocol":6})");
  expect_rule(R"({"direction":"ingress","protocol":"udp","port_range_min":6000,"port_range_max":6100})",
              R"({"action":"Allow","ipVersion":4,"protocol":17,"destination":{"ports":["6000:6100"]}})");
  expect_rule(R"({"direction":"ingress","protocol":"vrrp"})", R"({"action":"Allow","ipVersion":4,"protocol":112})");
  expect_rule(R"({"direction":"ingress","protocol":"icmp","port_range_min":8,"port_range_max":0})",
              R"({"action":"Allow","ipVersion":4,"protocol":"ICMP","icmp":{"type":8,"code":0}})");
  expect_rule(R"({"direction":"ingress","protocol":"icmp","ethertype":"IPv6"})",
              R"({"action":"Allow","ipVersion":6,"protocol":"ICMPv6"})");
  expect_rule(R"({"direction":"ingress","protocol":"icmpv6","ethertype":"IPv6","port_range_min":128})",
              R"({"action":"Allow","ipVersion":6,"protocol":"ICMPv6","icmp":{"type":128}})");
  expect_rule(R"({"direction":"ingress","protocol":"tcp","port_range_min":22,"port_range_max":22,
                  "remote_ip_prefix":"0.0.0.0/0"})",
              R"({"action":"Allow","ipVersion":4,"protocol":6,"destination":{"ports":[22]},
                  "source":{"nets":["0.0.0.0/0"]}})");
  expect_rule(R"({"direction":"egress","protocol":"udp","port_range_min":53,"port_range_max":53,
                  "remote_ip_prefix":"192.0.2.53"})",
              R"({"action":"Allow","ipVersion":4,"protocol":17,
                  "destination":{"nets":["192.0.2.53/32"],"ports":[53]}})");
}

/// Ports without a remote must stay limited to these ports: a fault the real driver once had.
TEST(Translate, PortsWithoutRemoteStayLimited) {
  expect_rule(R"({"direction":"ingress","protocol":"tcp","port_range_min":443,"port_range_max":443})",
              R"({"action":"Allow","ipVersion":4,"protocol":6,"destination":{"ports":[443]}})");
}

TEST(Translate, LabelsAreSanitised) {
  EXPECT_EQ(sanitise_label("web servers", 27), "web_servers");
  EXPECT_EQ(sanitise_label("-web.-", 27), "web");
  EXPECT_EQ(sanitise_label("é", 27), "");
  EXPECT_EQ(sanitise_label("aéb", 27), "a_b");
  EXPECT_EQ(sanitise_label(std::string(40, 'x'), 27), std::string(27, 'x'));
  EXPECT_EQ(sanitise_label("", 27), "");
}

TEST(Translate, RegionNames) {
  EXPECT_EQ(Region::named("").string, "no-region");
  EXPECT_EQ(Region::named("").space, "openstack");
  EXPECT_EQ(Region::named("east1").string, "region-east1");
  EXPECT_EQ(Region::named("east1").space, "openstack-region-east1");
}

TEST(Translate, MergeKeepsIdentityAndSkipsTheSame) {
  Intent i;
  i.key = "/k";
  i.desired = json::parse(R"({"kind":"K","apiVersion":"v","metadata":{"name":"n"},"spec":{"a":1}})").as_object();
  auto stamp = [] { return Stamp{"2026-01-01T00:00:00Z", "u1"}; };
  auto first = merge(i, std::nullopt, stamp);
  ASSERT_TRUE(first);
  EXPECT_EQ(json::parse(*first).at("metadata").at("uid").as_string(), "u1");
  EXPECT_FALSE(merge(i, *first, stamp)) << "the same content is not written again";
  i.desired->at("spec").as_object()["a"] = 2;
  auto second = merge(i, *first, [] { return Stamp{"2027-01-01T00:00:00Z", "u2"}; });
  ASSERT_TRUE(second);
  EXPECT_EQ(json::parse(*second).at("metadata").at("uid").as_string(), "u1");
  EXPECT_EQ(json::parse(*second).at("metadata").at("creationTimestamp").as_string(), "2026-01-01T00:00:00Z");
  auto repaired = merge(i, "{broken", [] { return Stamp{"2027-01-01T00:00:00Z", "u2"}; });
  ASSERT_TRUE(repaired);
  EXPECT_EQ(json::parse(*repaired).at("metadata").at("uid").as_string(), "u2");
}

TEST(Translate, AddressPairsAreProperPrefixes) {
  Cloud cloud;
  cloud.agent("h");
  auto net = cloud.id(cloud.make("network", {{"name", "n"}}));
  cloud.make("subnet", {{"network_id", net}, {"ip_version", 4}, {"cidr", "10.1.0.0/16"}});
  auto port = cloud.make("port", {{"network_id", net},
                                  {"device_id", "d"},
                                  {"device_owner", "compute:nova"},
                                  {"binding:host_id", "h"},
                                  {"allowed_address_pairs", json::array{json::object{{"ip_address", "10.1.2.0/28"}},
                                                                        json::object{{"ip_address", "10.1.3.1"}}}}});
  auto value = cloud.value(cloud.translator.endpoint_key(*cloud.state.find<Port>(cloud.id(port))));
  EXPECT_EQ(json::serialize(value.at("spec").at("ipNetworks")), R"(["10.1.0.2/32","10.1.2.0/28","10.1.3.1/32"])");
  EXPECT_EQ(json::serialize(value.at("spec").at("allowedIps")), R"(["10.1.2.0/28","10.1.3.1/32"])");
}

TEST(Translate, SubnetsOfEveryKind) {
  Cloud cloud;
  auto net = cloud.id(cloud.make("network", {{"name", "n"}}));
  auto key = [&](const json::object& subnet) { return cloud.translator.subnet_key(cloud.id(subnet)); };
  auto bare =
      cloud.make("subnet", {{"network_id", net}, {"ip_version", 4}, {"cidr", "10.1.0.0/16"}, {"gateway_ip", nullptr}});
  EXPECT_EQ(json::value(cloud.value(key(bare))),
            json::parse(R"({"network_id":")" + net + R"(","cidr":"10.1.0.0/16","host_routes":[],"gateway_ip":null})"));
  auto slaac = cloud.make("subnet", {{"network_id", net},
                                     {"ip_version", 6},
                                     {"cidr", "fd65::/64"},
                                     {"ipv6_ra_mode", "slaac"},
                                     {"ipv6_address_mode", "slaac"}});
  EXPECT_EQ(cloud.value(key(slaac)).at("ipv6_address_mode").as_string(), "slaac");
  EXPECT_EQ(cloud.value(key(slaac)).at("gateway_ip").as_string(), "fd65::");
  auto half =
      cloud.make("subnet", {{"network_id", net}, {"ip_version", 6}, {"cidr", "fd66::/64"}, {"ipv6_ra_mode", "slaac"}});
  EXPECT_FALSE(cloud.value(key(half)).contains("ipv6_ra_mode")) << "written only when both are set";
  auto off =
      cloud.make("subnet", {{"network_id", net}, {"ip_version", 4}, {"cidr", "10.2.0.0/16"}, {"enable_dhcp", false}});
  EXPECT_FALSE(cloud.kv.contains(key(off)));
}

}  // namespace
}  // namespace calico::controller
