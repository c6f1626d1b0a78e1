// What clients get wrong: each is refused with Neutron's error body, and nothing has changed (cloud.hpp checks that a
// refusal commits nothing; here the whole state is compared).
#include "cloud.hpp"

namespace calico::controller {
namespace {

class BadInput : public testing::Test {
 protected:
  BadInput() {
    cloud_.agent("h");
    net_ = cloud_.id(cloud_.make("network", {{"name", "n"}}));
    subnet_ = cloud_.id(cloud_.make(
        "subnet", {{"network_id", net_}, {"ip_version", 4}, {"cidr", "10.0.0.0/29"}, {"gateway_ip", "10.0.0.1"}}));
    group_ = cloud_.id(cloud_.make("security_group", {{"name", "g"}}));
    port_ = cloud_.id(cloud_.make("port", {{"network_id", net_},
                                           {"device_id", "i"},
                                           {"device_owner", "compute:nova"},
                                           {"binding:host_id", "h"},
                                           {"security_groups", json::array{group_}}}));
  }
  std::string fingerprint() const {
    std::string out;
    for (const auto& [id, r] : cloud_.state.all<Network>()) out += id + to_row(r);
    for (const auto& [id, r] : cloud_.state.all<Subnet>()) {
      out += id + to_row(r);
      for (const auto& [ip, port] : cloud_.state.allocations(id)->used) out += ip.to_string() + port;
    }
    for (const auto& [id, r] : cloud_.state.all<Port>()) out += id + to_row(r);
    for (const auto& [id, r] : cloud_.state.all<SecurityGroup>()) out += id + to_row(r);
    for (const auto& [id, r] : cloud_.state.all<Rule>()) out += id + to_row(r);
    for (const auto& [k, v] : cloud_.kv) out += k + v;
    return out;
  }
  /// "400 InvalidInput", after checking the shape of the answer and that nothing changed.
  std::string refused(const std::string& method, const std::string& target, const std::string& body) {
    auto before = fingerprint();
    auto a = cloud_.call(method, "/v2.0/" + target, body);
    EXPECT_GE(a.status, 400) << target << " " << body << " was accepted: " << a.text;
    EXPECT_LT(a.status, 500) << a.text;
    EXPECT_EQ(fingerprint(), before) << "half-written by " << target << " " << body;
    const auto* o = a.body.if_object();
    EXPECT_TRUE(o && o->contains("NeutronError")) << a.text;
    EXPECT_EQ(json::serialize(a.body.at("NeutronError").at("detail")), "\"\"");
    EXPECT_FALSE(a.message().empty());
    EXPECT_EQ(a.message().find('\n'), std::string::npos);
    EXPECT_LT(a.message().size(), 400U) << a.message();
    last_ = a.message();
    return std::to_string(a.status) + " " + a.error();
  }
  std::string post(const std::string& one, json::object body) {
    std::string path = one;
    for (char& c : path) c = c == '_' ? '-' : c;
    return refused("POST", path + "s", json::serialize(json::object{{one, std::move(body)}}));
  }
  std::string put(const std::string& path, const std::string& one, json::object body) {
    return refused("PUT", path, json::serialize(json::object{{one, std::move(body)}}));
  }
  std::string subnet(const char* cidr, json::object more = {}) {
    more["network_id"] = net_;
    more["cidr"] = cidr;
    if (!more.contains("ip_version"))
      more["ip_version"] = std::string_view(cidr).find(':') == std::string_view::npos ? 4 : 6;
    return post("subnet", std::move(more));
  }
  std::string port(json::object more) {
    if (!more.contains("network_id")) more["network_id"] = net_;
    return post("port", std::move(more));
  }
  std::string rule(json::object more) {
    if (!more.contains("security_group_id")) more["security_group_id"] = group_;
    if (!more.contains("direction")) more["direction"] = "ingress";
    return post("security_group_rule", std::move(more));
  }
  static json::array ip(const char* address) { return {json::object{{"ip_address", address}}}; }

  Cloud cloud_;
  std::string net_, subnet_, group_, port_, last_;
  const std::string nobody_ = "99999999-9999-4999-8999-999999999999";
};

TEST_F(BadInput, Bodies) {
  EXPECT_EQ(refused("POST", "networks", ""), "400 MalformedRequestBody");
  EXPECT_EQ(refused("POST", "networks", "{"), "400 MalformedRequestBody");
  EXPECT_EQ(refused("POST", "networks", "[]"), "400 MalformedRequestBody");
  EXPECT_EQ(refused("POST", "networks", "nul"), "400 MalformedRequestBody");
  EXPECT_EQ(refused("POST", "networks", "{\"network\":{\"name\":\"\xff\"}}"), "400 MalformedRequestBody");
  EXPECT_EQ(refused("POST", "networks", "{}"), "400 HTTPBadRequest");
  EXPECT_EQ(refused("POST", "networks", R"({"network":1})"), "400 HTTPBadRequest");
  EXPECT_EQ(refused("POST", "networks", R"({"network":{},"port":{}})"), "400 HTTPBadRequest");
  EXPECT_EQ(refused("POST", "networks", R"({"subnet":{}})"), "400 HTTPBadRequest");
  EXPECT_EQ(refused("POST", "networks", R"({"networks":[]})"), "400 HTTPBadRequest");
  EXPECT_EQ(refused("POST", "networks", R"({"networks":[1]})"), "400 HTTPBadRequest");
  EXPECT_EQ(refused("PUT", "networks/" + net_, R"({"port":{}})"), "400 HTTPBadRequest");
  EXPECT_EQ(refused("POST", "networks", R"({"network":{"nmae":"x"}})"), "400 HTTPBadRequest");
  EXPECT_NE(last_.find("Unrecognized attribute(s) 'nmae'"), std::string::npos) << last_;
  std::string deep = R"({"network":{"name":)" + std::string(100000, '[') + std::string(100000, ']') + "}}";
  EXPECT_EQ(refused("POST", "networks", deep), "400 MalformedRequestBody");
  std::string giant = R"({"network":{"name":")" + std::string(2 * kMaxBody, 'x') + "\"}}";
  EXPECT_EQ(refused("POST", "networks", giant), "413 HTTPRequestEntityTooLarge");
  std::string many = R"({"networks":[{})";
  for (std::size_t i = 0; i < kMaxBulk; ++i) many += ",{}";
  EXPECT_EQ(refused("POST", "networks", many + "]}"), "400 HTTPBadRequest");
}

TEST_F(BadInput, PathsAndMethods) {
  EXPECT_EQ(refused("GET", "nothing", ""), "404 HTTPNotFound");
  EXPECT_EQ(refused("GET", "routers", ""), "404 HTTPNotFound");
  EXPECT_NE(last_.find("does not provide routers"), std::string::npos);
  EXPECT_EQ(refused("GET", "networks/" + net_ + "/x", ""), "404 HTTPNotFound");
  EXPECT_EQ(refused("PATCH", "networks", "{}"), "405 HTTPMethodNotAllowed");
  EXPECT_EQ(refused("POST", "networks/" + net_, "{}"), "405 HTTPMethodNotAllowed");
  EXPECT_EQ(refused("DELETE", "networks", ""), "405 HTTPMethodNotAllowed");
  EXPECT_EQ(refused("GET", "ports?limit=-1", ""), "400 InvalidInput");
  EXPECT_EQ(refused("GET", "ports?limit=1&marker=x", ""), "400 InvalidInput");
  EXPECT_EQ(refused("GET", "ports?sort_key=x", ""), "400 InvalidInput");
  EXPECT_EQ(refused("GET", "ports?page_reverse=True", ""), "400 InvalidInput");
  EXPECT_EQ(cloud_.call("GET", "/" + std::string(5000, 'x')).status, 400);
}

TEST_F(BadInput, UnknownIds) {
  EXPECT_EQ(refused("GET", "networks/" + nobody_, ""), "404 NetworkNotFound");
  EXPECT_EQ(refused("GET", "subnets/" + nobody_, ""), "404 SubnetNotFound");
  EXPECT_EQ(refused("GET", "ports/x", ""), "404 PortNotFound");
  EXPECT_EQ(refused("DELETE", "ports/" + nobody_, ""), "404 PortNotFound");
  EXPECT_EQ(refused("PUT", "security-groups/" + nobody_, "{}"), "404 SecurityGroupNotFound");
  EXPECT_EQ(refused("DELETE", "security-group-rules/" + nobody_, ""), "404 SecurityGroupRuleNotFound");
  EXPECT_EQ(refused("GET", "agents/" + nobody_, ""), "404 AgentNotFound");
  EXPECT_EQ(port({{"network_id", nobody_}}), "404 NetworkNotFound");
  EXPECT_EQ(port({{"security_groups", json::array{nobody_}}}), "404 SecurityGroupNotFound");
  EXPECT_EQ(post("subnet", {{"network_id", nobody_}, {"ip_version", 4}, {"cidr", "10.5.0.0/24"}}),
            "404 NetworkNotFound");
}

TEST_F(BadInput, WrongTypes) {
  EXPECT_EQ(post("network", {{"name", 5}}), "400 HTTPBadRequest");
  EXPECT_EQ(post("network", {{"name", std::string(256, 'x')}}), "400 HTTPBadRequest");
  EXPECT_EQ(post("network", {{"name", std::string("a\0b", 3)}}), "400 HTTPBadRequest");
  EXPECT_EQ(post("network", {{"admin_state_up", "perhaps"}}), "400 HTTPBadRequest");
  EXPECT_EQ(post("network", {{"mtu", 67}}), "400 HTTPBadRequest");
  EXPECT_EQ(post("network", {{"mtu", "lots"}}), "400 HTTPBadRequest");
  EXPECT_EQ(post("network", {{"mtu", 1e300}}), "400 HTTPBadRequest");
  EXPECT_EQ(post("network", {{"id", nobody_}}), "400 HTTPBadRequest");
  EXPECT_EQ(post("network", {{"provider:network_type", "vlan"}}), "400 InvalidInput");
  EXPECT_EQ(post("network", {{"provider:network_type", "flat"}}), "400 InvalidInput");
  EXPECT_EQ(post("network", {{"qos_policy_id", nobody_}}), "400 HTTPBadRequest");
  EXPECT_EQ(post("port", json::object()), "400 HTTPBadRequest");
  EXPECT_EQ(port({{"network_id", "x"}}), "400 HTTPBadRequest");
  EXPECT_EQ(port({{"fixed_ips", "10.0.0.3"}}), "400 HTTPBadRequest");
  EXPECT_EQ(port({{"fixed_ips", json::array{1}}}), "400 HTTPBadRequest");
  EXPECT_EQ(port({{"fixed_ips", json::array{json::object()}}}), "400 HTTPBadRequest");
  EXPECT_EQ(port({{"fixed_ips", json::array{json::object{{"ip", "10.0.0.3"}}}}}), "400 HTTPBadRequest");
  EXPECT_EQ(port({{"fixed_ips", ip("10.0.0.300")}}), "400 HTTPBadRequest");
  EXPECT_EQ(port({{"security_groups", json::array{"x"}}}), "400 HTTPBadRequest");
  EXPECT_EQ(port({{"security_groups", json::array{group_, group_}}}), "400 HTTPBadRequest");
  EXPECT_EQ(port({{"mac_address", "fa:16:3e"}}), "400 HTTPBadRequest");
  EXPECT_EQ(port({{"mac_address", "01:00:5e:00:00:01"}}), "400 HTTPBadRequest") << "multicast";
  EXPECT_EQ(port({{"binding:profile", "x"}}), "400 HTTPBadRequest");
  EXPECT_EQ(port({{"binding:profile", json::object{{"x", std::string(5000, 'x')}}}}), "400 HTTPBadRequest");
  EXPECT_EQ(port({{"binding:host_id", "a/../b"}}), "400 HTTPBadRequest") << "it becomes part of a key";
  EXPECT_EQ(port({{"device_owner", "compute:x"}, {"device_id", "a/b"}}), "400 HTTPBadRequest");
  EXPECT_EQ(port({{"extra_dhcp_opts", json::array{json::object()}}}), "400 HTTPBadRequest");
  EXPECT_EQ(put("ports/" + port_, "port", {{"network_id", net_}}), "400 HTTPBadRequest");
  EXPECT_EQ(put("ports/" + port_, "port", {{"status", "ACTIVE"}}), "400 HTTPBadRequest");
}

TEST_F(BadInput, Subnets) {
  EXPECT_EQ(subnet("10.0.0.0"), "400 HTTPBadRequest");
  EXPECT_EQ(subnet("10.5.0.1/24"), "400 HTTPBadRequest");
  EXPECT_NE(last_.find("'10.5.0.0/24' is recommended"), std::string::npos) << last_;
  EXPECT_EQ(subnet("10.5.0.0/33"), "400 HTTPBadRequest");
  EXPECT_EQ(subnet("10.5.0.0/24", {{"ip_version", 6}}), "400 InvalidInput");
  EXPECT_EQ(subnet("10.5.0.0/24", {{"ip_version", 5}}), "400 HTTPBadRequest");
  EXPECT_EQ(subnet("10.0.0.0/29"), "400 InvalidInput") << "duplicate";
  EXPECT_EQ(subnet("10.0.0.0/24"), "400 InvalidInput") << "covers the other";
  EXPECT_EQ(subnet("10.0.0.4/30"), "400 InvalidInput") << "inside the other";
  EXPECT_NE(last_.find("overlaps with another subnet"), std::string::npos) << last_;
  EXPECT_EQ(subnet("224.0.0.0/24"), "400 InvalidInput");
  EXPECT_EQ(subnet("127.0.0.0/24"), "400 InvalidInput");
  EXPECT_EQ(subnet("0.0.0.0/0"), "400 InvalidInput");
  EXPECT_EQ(subnet("fe80::/64"), "400 InvalidInput");
  EXPECT_EQ(subnet("10.5.0.0/24", {{"gateway_ip", "10.6.0.1"}}), "400 InvalidInput");
  EXPECT_EQ(subnet("10.5.0.0/24", {{"gateway_ip", "10.5.0.255"}}), "400 InvalidInput");
  EXPECT_EQ(subnet("10.5.0.0/24", {{"gateway_ip", "x"}}), "400 HTTPBadRequest");
  EXPECT_EQ(subnet("10.5.0.0/24", {{"dns_nameservers", json::array{"x"}}}), "400 HTTPBadRequest");
  EXPECT_EQ(subnet("10.5.0.0/24", {{"dns_nameservers", json::array{"9.9.9.9", "9.9.9.9"}}}), "400 HTTPBadRequest");
  EXPECT_EQ(subnet("10.5.0.0/24", {{"dns_nameservers", json::array{"fd00::1"}}}), "400 InvalidInput");
  EXPECT_EQ(subnet("10.5.0.0/24", {{"host_routes", json::array{json::object{{"destination", "10.0.0.0/8"}}}}}),
            "400 HTTPBadRequest");
  EXPECT_EQ(subnet("10.5.0.0/24",
                   {{"allocation_pools", json::array{json::object{{"start", "10.5.0.9"}, {"end", "10.5.0.2"}}}}}),
            "400 InvalidAllocationPool");
  EXPECT_EQ(subnet("10.5.0.0/24",
                   {{"allocation_pools", json::array{json::object{{"start", "10.5.0.1"}, {"end", "10.5.0.2"}}}}}),
            "409 GatewayConflictWithAllocationPools");
  EXPECT_EQ(subnet("10.5.0.0/24", {{"ipv6_ra_mode", "slaac"}}), "400 InvalidInput");
  EXPECT_EQ(subnet("fd01::/64", {{"ipv6_ra_mode", "slaac"}, {"ipv6_address_mode", "dhcpv6-stateful"}}),
            "400 InvalidInput");
  EXPECT_EQ(subnet("fd01::/72", {{"ipv6_ra_mode", "slaac"}, {"ipv6_address_mode", "slaac"}}), "400 InvalidInput");
  EXPECT_EQ(subnet("fd01::/64", {{"ipv6_ra_mode", "slaac"}, {"enable_dhcp", false}}), "400 InvalidInput");
  EXPECT_EQ(put("subnets/" + subnet_, "subnet", {{"cidr", "10.5.0.0/24"}}), "400 HTTPBadRequest");
  EXPECT_EQ(put("subnets/" + subnet_, "subnet", {{"gateway_ip", "10.0.0.2"}}),
            "409 GatewayConflictWithAllocationPools");
  EXPECT_EQ(refused("DELETE", "subnets/" + subnet_, ""), "409 SubnetInUse");
  EXPECT_EQ(refused("DELETE", "networks/" + net_, ""), "409 NetworkInUse");
  // Another network's subnet counts too: all are routed in one address space.
  auto other = cloud_.id(cloud_.make("network", {{"name", "other"}}));
  EXPECT_EQ(post("subnet", {{"network_id", other}, {"ip_version", 4}, {"cidr", "10.0.0.0/28"}}), "400 InvalidInput");
  EXPECT_NE(last_.find("one routed address space"), std::string::npos) << last_;
}

TEST_F(BadInput, Addresses) {
  EXPECT_EQ(port({{"fixed_ips", ip("10.9.0.1")}}), "400 InvalidIpForNetwork");
  EXPECT_EQ(port({{"fixed_ips", ip("fd00::1")}}), "400 InvalidIpForNetwork");
  EXPECT_EQ(port({{"fixed_ips", json::array{json::object{{"subnet_id", subnet_}, {"ip_address", "10.9.0.1"}}}}}),
            "400 InvalidIpForSubnet");
  EXPECT_EQ(port({{"fixed_ips", ip("10.0.0.0")}}), "400 InvalidIpForSubnet") << "the network's address";
  EXPECT_EQ(port({{"fixed_ips", ip("10.0.0.7")}}), "400 InvalidIpForSubnet") << "the broadcast address";
  EXPECT_EQ(port({{"fixed_ips", ip("10.0.0.1")}}), "400 InvalidIpForSubnet") << "the gateway";
  EXPECT_EQ(port({{"fixed_ips", ip("10.0.0.2")}}), "409 IpAddressAlreadyAllocated");
  EXPECT_EQ(port({{"fixed_ips", json::array{json::object{{"subnet_id", nobody_}}}}}), "400 InvalidInput");
  EXPECT_EQ(port({{"fixed_ips",
                   json::array{json::object{{"ip_address", "10.0.0.4"}}, json::object{{"ip_address", "10.0.0.4"}}}}}),
            "400 InvalidInput");
  // One of two fails: the first is not taken.
  EXPECT_EQ(port({{"fixed_ips",
                   json::array{json::object{{"ip_address", "10.0.0.4"}}, json::object{{"ip_address", "10.0.0.2"}}}}}),
            "409 IpAddressAlreadyAllocated");
  for (int i = 0; i < 4; ++i) cloud_.make("port", {{"network_id", net_}});
  EXPECT_EQ(port(json::object()), "409 IpAddressGenerationFailure");
  EXPECT_NE(last_.find("No more IP addresses available on network " + net_), std::string::npos) << last_;
  EXPECT_EQ(port({{"fixed_ips", json::array{json::object{{"subnet_id", subnet_}}}}}), "409 IpAddressGenerationFailure");
  EXPECT_EQ(
      put("ports/" + port_, "port",
          {{"fixed_ips", json::array{json::object{{"ip_address", "10.0.0.2"}}, json::object{{"subnet_id", subnet_}}}}}),
      "409 IpAddressGenerationFailure");
  auto slaac = cloud_.id(cloud_.make("network", {{"name", "s"}}));
  cloud_.make("subnet", {{"network_id", slaac},
                         {"ip_version", 6},
                         {"cidr", "fd00::/64"},
                         {"ipv6_ra_mode", "slaac"},
                         {"ipv6_address_mode", "slaac"}});
  EXPECT_EQ(port({{"network_id", slaac}, {"fixed_ips", ip("fd00::9")}}), "400 AllocationOnAutoAddressSubnet");
}

TEST_F(BadInput, Ports) {
  auto mac = std::string(cloud_.get("ports/" + port_).body.at("port").at("mac_address").as_string());
  EXPECT_EQ(port({{"mac_address", mac}}), "409 MacAddressInUse");
  EXPECT_EQ(put("ports/" + port_, "port", {{"mac_address", "fa:16:3e:00:00:01"}}), "409 PortBound");
  EXPECT_EQ(put("ports/" + port_, "port", {{"port_security_enabled", false}}), "409 PortSecurityPortHasSecurityGroup");
  EXPECT_EQ(port({{"port_security_enabled", false}, {"security_groups", json::array{group_}}}),
            "400 PortSecurityAndIPRequiredForSecurityGroups");
  EXPECT_EQ(port({{"fixed_ips", json::array()}, {"security_groups", json::array{group_}}}),
            "400 PortSecurityAndIPRequiredForSecurityGroups");
  EXPECT_EQ(port({{"port_security_enabled", false}, {"allowed_address_pairs", ip("10.0.0.5")}}),
            "409 AddressPairAndPortSecurityRequired");
  EXPECT_EQ(port({{"allowed_address_pairs", json::array{json::object()}}}), "400 AddressPairMissingIP");
  EXPECT_EQ(port({{"allowed_address_pairs", ip("x")}}), "400 HTTPBadRequest");
  EXPECT_EQ(port({{"allowed_address_pairs", ip("0.0.0.0/0")}}), "400 HTTPBadRequest");
  EXPECT_EQ(port({{"allowed_address_pairs", json::array{json::object{{"ip_address", "10.0.0.5"}},
                                                        json::object{{"ip_address", "10.0.0.5/32"}}}}}),
            "400 DuplicateAddressPairInRequest");
}

TEST_F(BadInput, SecurityGroupsAndRules) {
  EXPECT_EQ(post("security_group", {{"name", "default"}}), "409 SecurityGroupDefaultAlreadyExists");
  EXPECT_EQ(post("security_group", {{"name", "x"}, {"stateful", false}}), "400 HTTPBadRequest");
  EXPECT_EQ(refused("DELETE", "security-groups/" + group_, ""), "409 SecurityGroupInUse");
  auto d = cloud_.state.default_group("p1")->id;
  EXPECT_EQ(put("security-groups/" + d, "security_group", {{"name", "x"}}), "409 SecurityGroupCannotUpdateDefault");
  EXPECT_EQ(rule({{"direction", "sideways"}}), "400 HTTPBadRequest");
  EXPECT_EQ(rule({{"ethertype", "IPX"}}), "400 SecurityGroupRuleInvalidEtherType");
  EXPECT_EQ(rule({{"protocol", "any"}}), "400 SecurityGroupRuleInvalidProtocol");
  EXPECT_EQ(rule({{"protocol", 256}}), "400 SecurityGroupRuleInvalidProtocol");
  EXPECT_EQ(rule({{"protocol", -1}}), "400 SecurityGroupRuleInvalidProtocol");
  EXPECT_EQ(rule({{"protocol", json::array()}}), "400 SecurityGroupRuleInvalidProtocol");
  EXPECT_EQ(rule({{"protocol", ""}}), "400 SecurityGroupRuleInvalidProtocol");
  EXPECT_EQ(rule({{"port_range_min", 1}, {"port_range_max", 2}}), "400 SecurityGroupProtocolRequiredWithPorts");
  EXPECT_EQ(rule({{"protocol", "tcp"}, {"port_range_min", 2}, {"port_range_max", 1}}),
            "400 SecurityGroupInvalidPortRange");
  EXPECT_EQ(rule({{"protocol", "tcp"}, {"port_range_min", 2}}), "400 SecurityGroupInvalidPortRange");
  EXPECT_EQ(rule({{"protocol", "tcp"}, {"port_range_min", 0}, {"port_range_max", 1}}),
            "400 SecurityGroupInvalidPortValue");
  EXPECT_EQ(rule({{"protocol", "tcp"}, {"port_range_min", 1}, {"port_range_max", 65536}}),
            "400 SecurityGroupInvalidPortValue");
  EXPECT_EQ(rule({{"protocol", "vrrp"}, {"port_range_min", 1}, {"port_range_max", 2}}),
            "400 SecurityGroupInvalidProtocolForPort");
  EXPECT_EQ(rule({{"protocol", "icmp"}, {"port_range_min", 256}}), "400 SecurityGroupInvalidIcmpValue");
  EXPECT_EQ(rule({{"protocol", "icmp"}, {"port_range_max", 0}}), "400 SecurityGroupMissingIcmpType");
  EXPECT_EQ(rule({{"protocol", "ipv6-icmp"}}), "400 SecurityGroupEthertypeConflictWithProtocol");
  EXPECT_EQ(rule({{"remote_ip_prefix", "fd00::/8"}}), "400 SecurityGroupRuleParameterConflict");
  EXPECT_EQ(rule({{"remote_ip_prefix", "x"}}), "400 HTTPBadRequest");
  EXPECT_EQ(rule({{"remote_ip_prefix", "10.0.0.0/8"}, {"remote_group_id", group_}}),
            "400 SecurityGroupRemoteGroupAndRemoteIpPrefix");
  EXPECT_EQ(rule({{"remote_group_id", nobody_}}), "404 SecurityGroupNotFound");
  EXPECT_EQ(rule({{"security_group_id", nobody_}}), "404 SecurityGroupNotFound");
  EXPECT_EQ(rule({{"direction", "egress"}}), "409 SecurityGroupRuleExists");
  cloud_.make("security_group_rule",
              {{"security_group_id", group_}, {"direction", "ingress"}, {"ethertype", "IPv6"}, {"protocol", "icmpv6"}});
  for (const char* spelling : {"icmp", "icmpv6", "ipv6-icmp", "58"})
    EXPECT_EQ(rule({{"ethertype", "IPv6"}, {"protocol", spelling}}), "409 SecurityGroupRuleExists") << spelling;
  auto id = cloud_.get("security-group-rules?protocol=ipv6-icmp").body.at("security_group_rules").at(0).at("id");
  EXPECT_EQ(put("security-group-rules/" + std::string(id.as_string()), "security_group_rule", {{"protocol", "tcp"}}),
            "400 HTTPBadRequest");
}

/// Every prefix of a valid body, and every body with one byte changed, is answered and never half done.
TEST_F(BadInput, MutilatedBodies) {
  const std::string body =
      R"({"port":{"network_id":")" + net_ + R"(","fixed_ips":[{"subnet_id":")" + subnet_ +
      R"(","ip_address":"10.0.0.4"}],"device_id":"i2","device_owner":"compute:nova","binding:host_id":"h",)" +
      R"("binding:profile":{"a":[1,2.5,null,true]},"allowed_address_pairs":[{"ip_address":"10.0.0.6"}]}})";
  for (std::size_t n = 0; n < body.size(); ++n) refused("POST", "ports", body.substr(0, n));
  int made = 0;
  for (std::size_t n = 0; n < body.size(); ++n) {
    for (char c : {'\0', '"', '{', ']', '9', 'x', '\xff'}) {
      auto wrong = body;
      wrong[n] = c;
      auto a = cloud_.call("POST", "/v2.0/ports", wrong);
      EXPECT_TRUE(a.status == 201 || (a.status >= 400 && a.status < 500)) << a.status << " " << wrong;
      if (a.status != 201) continue;
      ++made;
      EXPECT_EQ(cloud_.del("ports/" + std::string(a.body.at("port").at("id").as_string())).status, 204);
    }
  }
  EXPECT_GT(made, 0) << "some changes are harmless";
}

}  // namespace
}  // namespace calico::controller
