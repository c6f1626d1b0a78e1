// The API as clients use it: shapes, defaults, lists, allocation, security groups, binding, projects.
#include <unistd.h>

#include <filesystem>

#include "cloud.hpp"

namespace calico::controller {
namespace {

class ApiTest : public testing::Test {
 protected:
  std::string network(json::object more = {}) {
    more["name"] = "n";
    return cloud_.id(cloud_.make("network", std::move(more)));
  }
  json::object subnet(const std::string& net, const char* cidr, json::object more = {}) {
    more["network_id"] = net;
    more["cidr"] = cidr;
    more["ip_version"] = std::string_view(cidr).find(':') == std::string_view::npos ? 4 : 6;
    return cloud_.make("subnet", std::move(more));
  }
  json::object port(const std::string& net, json::object more = {}) {
    more["network_id"] = net;
    return cloud_.make("port", std::move(more));
  }
  json::object vm(const std::string& net, const std::string& host, json::object more = {}) {
    more["device_owner"] = "compute:nova";
    if (!more.contains("device_id")) more["device_id"] = "vm-" + std::to_string(++vms_);
    more["binding:host_id"] = host;
    return port(net, std::move(more));
  }
  static std::string ips(const json::object& port) {
    std::string out;
    for (const auto& f : port.at("fixed_ips").as_array())
      out += (out.empty() ? "" : " ") + std::string(f.at("ip_address").as_string());
    return out;
  }
  Cloud cloud_;
  int vms_ = 0;
};

TEST_F(ApiTest, VersionsResourcesExtensions) {
  auto root = cloud_.call("GET", "/");
  EXPECT_EQ(root.status, 200);
  EXPECT_EQ(root.body.at("versions").at(0).at("id").as_string(), "v2.0");
  EXPECT_EQ(root.body.at("versions").at(0).at("links").at(0).at("href").as_string(), "http://127.0.0.1:9696/v2.0/");
  EXPECT_EQ(cloud_.call("GET", "/v2.0/").body.at("resources").as_array().size(), 6U);
  EXPECT_EQ(cloud_.call("GET", "/v2.0").status, 200);
  auto extensions = cloud_.get("extensions");
  EXPECT_GE(extensions.body.at("extensions").as_array().size(), 10U);
  EXPECT_EQ(cloud_.get("extensions/security-group").body.at("extension").at("alias").as_string(), "security-group");
  EXPECT_EQ(cloud_.get("extensions/qos").status, 404);
  EXPECT_EQ(cloud_.get("networks.json").status, 200);
}

TEST_F(ApiTest, NetworkHasNeutronsShape) {
  auto n = cloud_.make("network", {{"name", "demo"}, {"shared", true}, {"admin_state_up", true}});
  for (const char* key : {"id",
                          "name",
                          "tenant_id",
                          "project_id",
                          "admin_state_up",
                          "mtu",
                          "status",
                          "subnets",
                          "shared",
                          "port_security_enabled",
                          "qos_policy_id",
                          "router:external",
                          "provider:network_type",
                          "provider:physical_network",
                          "provider:segmentation_id",
                          "is_default",
                          "availability_zone_hints",
                          "availability_zones",
                          "ipv4_address_scope",
                          "ipv6_address_scope",
                          "description",
                          "tags",
                          "created_at",
                          "updated_at",
                          "revision_number"})
    EXPECT_TRUE(n.contains(key)) << key;
  EXPECT_EQ(n.at("mtu").as_int64(), 1500);
  EXPECT_EQ(n.at("created_at").as_string(), "2026-01-01T01:00:00Z");
  EXPECT_EQ(n.at("provider:network_type").as_string(), "local");
  auto s = subnet(cloud_.id(n), "10.65.0.0/24");
  EXPECT_EQ(s.at("gateway_ip").as_string(), "10.65.0.1");
  EXPECT_EQ(json::serialize(s.at("allocation_pools")), R"([{"start":"10.65.0.2","end":"10.65.0.254"}])");
  EXPECT_TRUE(s.at("enable_dhcp").as_bool());
  auto again = cloud_.get("networks/" + cloud_.id(n)).body.at("network");
  EXPECT_EQ(again.at("subnets").as_array().size(), 1U);
}

TEST_F(ApiTest, PortHasNeutronsShape) {
  cloud_.agent("cmp-01");
  auto net = network();
  subnet(net, "10.65.0.0/24");
  auto p = vm(net, "cmp-01", {{"name", "vm1"}, {"mac_address", "fa:16:3e:4d:5b:60"}});
  EXPECT_EQ(p.at("status").as_string(), "DOWN");
  EXPECT_EQ(p.at("binding:vif_type").as_string(), "tap");
  EXPECT_EQ(p.at("binding:vif_details").at("mac_address").as_string(), "fe:16:3e:4d:5b:60");
  EXPECT_EQ(p.at("binding:vif_details").at("connectivity").as_string(), "legacy");
  EXPECT_EQ(p.at("security_groups").as_array().size(), 1U);
  EXPECT_EQ(ips(p), "10.65.0.2");
  EXPECT_EQ(p.at("mac_address").as_string(), "fa:16:3e:4d:5b:60");
  auto generated = vm(net, "cmp-01");
  EXPECT_TRUE(std::string(generated.at("mac_address").as_string()).starts_with("fa:16:3e:"));
  EXPECT_EQ(ips(generated), "10.65.0.3");
}

/// Nova's way: an unbound port first, then the binding by PUT, later detached by PUT.
TEST_F(ApiTest, NovaBindsByPutAndDetaches) {
  cloud_.agent("h1");
  auto net = network();
  subnet(net, "10.0.0.0/24");
  auto p = port(net, {{"device_id", "i-1"}});
  auto id = cloud_.id(p);
  EXPECT_EQ(p.at("binding:vif_type").as_string(), "unbound");
  auto endpoints = [&] {
    return std::count_if(cloud_.kv.begin(), cloud_.kv.end(),
                         [](const auto& e) { return e.first.find("/workloadendpoints/") != std::string::npos; });
  };
  EXPECT_EQ(endpoints(), 0);
  auto bound = cloud_.put(
      "ports/" + id, json::object{{"port", json::object{{"device_owner", "compute:az1"}, {"binding:host_id", "h1"}}}});
  EXPECT_EQ(bound.body.at("port").at("binding:vif_type").as_string(), "tap");
  EXPECT_EQ(bound.body.at("port").at("revision_number").as_int64(), 2);
  EXPECT_EQ(endpoints(), 1);
  // The real driver leaves the endpoint behind here; ours goes.
  auto detached = cloud_.put(
      "ports/" + id,
      json::object{{"port", json::object{{"device_owner", ""}, {"device_id", ""}, {"binding:host_id", ""}}}});
  EXPECT_EQ(detached.body.at("port").at("binding:vif_type").as_string(), "unbound");
  EXPECT_EQ(endpoints(), 0);
}

TEST_F(ApiTest, BindingNeedsALiveAgent) {
  cloud_.agent("h1");
  auto net = network();
  subnet(net, "10.0.0.0/24");
  auto lost = vm(net, "nowhere");
  EXPECT_EQ(lost.at("binding:vif_type").as_string(), "binding_failed");
  EXPECT_TRUE(cloud_.kv.contains(cloud_.translator.endpoint_key(*cloud_.state.find<Port>(cloud_.id(lost)))))
      << "the driver writes the endpoint all the same";
  EXPECT_EQ(vm(net, "h1", {{"binding:vnic_type", "direct"}}).at("binding:vif_type").as_string(), "binding_failed");

  auto agents = cloud_.get("agents").body.at("agents").as_array();
  ASSERT_EQ(agents.size(), 1U);
  EXPECT_EQ(agents[0].at("host").as_string(), "h1");
  EXPECT_EQ(agents[0].at("agent_type").as_string(), "Calico per-host agent (felix)");
  EXPECT_TRUE(agents[0].at("alive").as_bool());
  cloud_.clock.advance(std::chrono::seconds(75));
  EXPECT_TRUE(cloud_.get("agents").body.at("agents").at(0).at("alive").as_bool());
  cloud_.clock.advance(std::chrono::seconds(1));
  EXPECT_FALSE(cloud_.get("agents").body.at("agents").at(0).at("alive").as_bool());
  EXPECT_EQ(cloud_.get("agents?alive=True").body.at("agents").as_array().size(), 0U);
  EXPECT_EQ(vm(net, "h1").at("binding:vif_type").as_string(), "binding_failed");
  // A later write of the port tries again.
  cloud_.agent("nowhere");
  auto again =
      cloud_.put("ports/" + cloud_.id(lost), json::object{{"port", json::object{{"binding:host_id", "nowhere"}}}});
  EXPECT_EQ(again.body.at("port").at("binding:vif_type").as_string(), "tap");
}

TEST_F(ApiTest, StatusFollowsTheBoundHostsAgent) {
  cloud_.agent("h1");
  cloud_.agent("h2");
  auto net = network();
  subnet(net, "10.0.0.0/24");
  auto id = cloud_.id(vm(net, "h1", {{"device_id", "i"}}));
  auto key = [&](const char* host) {
    return std::string("/calico/felix/v2/no-region/host/") + host + "/workload/openstack/openstack%2fi/endpoint/" + id;
  };
  auto status = [&] { return std::string(cloud_.get("ports/" + id).body.at("port").at("status").as_string()); };
  EXPECT_EQ(status(), "DOWN");
  EXPECT_EQ(cloud_.feedback.apply(key("h1"), R"({"status":"up"})"), id);
  EXPECT_EQ(status(), "ACTIVE");
  EXPECT_EQ(cloud_.get("ports?status=ACTIVE").body.at("ports").as_array().size(), 1U);
  cloud_.feedback.apply(key("h1"), R"({"status":"down"})");
  EXPECT_EQ(status(), "DOWN");
  cloud_.feedback.apply(key("h1"), R"({"status":"error"})");
  EXPECT_EQ(status(), "ERROR");
  cloud_.feedback.apply(key("h1"), "not json");
  EXPECT_EQ(status(), "DOWN");
  cloud_.feedback.apply(key("h2"), R"({"status":"up"})");
  EXPECT_EQ(status(), "DOWN") << "another host's report does not count";
  cloud_.put("ports/" + id, json::object{{"port", json::object{{"binding:host_id", "h2"}}}});
  EXPECT_EQ(status(), "ACTIVE");
  cloud_.feedback.apply(key("h1"), std::nullopt);
  EXPECT_EQ(status(), "ACTIVE") << "the former host takes its report away after a move";
  cloud_.feedback.apply(key("h2"), std::nullopt);
  EXPECT_EQ(status(), "DOWN");
}

TEST_F(ApiTest, DeletedAgentTakesItsNodeWithIt) {
  cloud_.agent("h1");
  cloud_.kv["/calico/resources/v3/projectcalico.org/nodes/h1"] = "{}";
  cloud_.kv["/calico/felix/v2/no-region/host/h1/status"] = "{}";
  cloud_.kv["/calico/felix/v2/no-region/host/h10/status"] = "{}";
  auto id = std::string(cloud_.get("agents").body.at("agents").at(0).at("id").as_string());
  EXPECT_EQ(cloud_.get("agents/" + id).body.at("agent").at("host").as_string(), "h1");
  EXPECT_EQ(cloud_.del("agents/" + id).status, 204);
  EXPECT_FALSE(cloud_.kv.contains("/calico/resources/v3/projectcalico.org/nodes/h1"));
  EXPECT_FALSE(cloud_.kv.contains("/calico/felix/v2/no-region/host/h1/status"));
  EXPECT_TRUE(cloud_.kv.contains("/calico/felix/v2/no-region/host/h10/status"));
  EXPECT_EQ(cloud_.put("agents/" + id, json::object()).status, 405);
}

TEST_F(ApiTest, AddressesOfBothFamilies) {
  auto net = network();
  subnet(net, "10.0.0.0/24");
  subnet(net, "fd65::/64", {{"ipv6_ra_mode", "dhcpv6-stateful"}, {"ipv6_address_mode", "dhcpv6-stateful"}});
  EXPECT_EQ(ips(port(net)), "10.0.0.2 fd65::1");  // the gateway of IPv6 is the network address, as Neutron has it
  subnet(net, "fd66::/64", {{"ipv6_ra_mode", "slaac"}, {"ipv6_address_mode", "slaac"}});
  auto p = port(net, {{"mac_address", "fa:16:3e:00:00:01"}});
  EXPECT_EQ(ips(p), "10.0.0.3 fd65::2 fd66::f816:3eff:fe00:1");
  // Also when others are asked for.
  auto q = port(net, {{"mac_address", "fa:16:3e:00:00:02"},
                      {"fixed_ips", json::array{json::object{{"ip_address", "10.0.0.77"}}}}});
  EXPECT_EQ(ips(q), "10.0.0.77 fd66::f816:3eff:fe00:2");
  // A new MAC brings a new address.
  auto moved =
      cloud_.put("ports/" + cloud_.id(q), json::object{{"port", json::object{{"mac_address", "fa:16:3e:00:00:03"}}}});
  EXPECT_EQ(ips(moved.body.at("port").as_object()), "10.0.0.77 fd66::f816:3eff:fe00:3");
}

TEST_F(ApiTest, FixedIpsByRequest) {
  auto net = network();
  auto s = cloud_.id(subnet(net, "10.0.0.0/24"));
  auto two = port(net, {{"fixed_ips", json::array{json::object{{"subnet_id", s}}, json::object{{"subnet_id", s}}}}});
  EXPECT_EQ(ips(two), "10.0.0.2 10.0.0.3");
  auto none = port(net, {{"fixed_ips", json::array()}});
  EXPECT_EQ(ips(none), "");
  EXPECT_EQ(none.at("security_groups").as_array().size(), 0U) << "no address, no group";
  // PUT keeps what is named, in its order, and adds the rest.
  auto put = cloud_.put(
      "ports/" + cloud_.id(two),
      json::object{{"port", json::object{{"fixed_ips", json::array{json::object{{"ip_address", "10.0.0.9"}},
                                                                   json::object{{"ip_address", "10.0.0.3"}}}}}}});
  EXPECT_EQ(ips(put.body.at("port").as_object()), "10.0.0.3 10.0.0.9");
  auto free = port(net, {{"fixed_ips", json::array{json::object{{"ip_address", "10.0.0.2"}}}}});
  EXPECT_EQ(ips(free), "10.0.0.2") << "given back";
}

TEST_F(ApiTest, BulkIsAllOrNothing) {
  auto net = network();
  subnet(net, "10.0.0.0/24");
  json::array many;
  for (int i = 0; i < 50; ++i) many.push_back(json::object{{"network_id", net}, {"name", "p" + std::to_string(i)}});
  auto a = cloud_.post("ports", json::object{{"ports", many}});
  ASSERT_EQ(a.status, 201) << a.text;
  EXPECT_EQ(a.body.at("ports").as_array().size(), 50U);
  EXPECT_EQ(a.body.at("ports").at(49).at("name").as_string(), "p49");
  many.push_back(json::object{{"network_id", "11111111-1111-4111-8111-111111111111"}});
  auto before = cloud_.state.all<Port>().size();
  auto b = cloud_.post("ports", json::object{{"ports", many}});
  EXPECT_EQ(b.status, 404);
  EXPECT_EQ(cloud_.state.all<Port>().size(), before);
  EXPECT_EQ(ips(port(net)), "10.0.0.102") << "addresses of the refused request are free; the cursor went on";
}

TEST_F(ApiTest, ListsFilterSelectSortAndPage) {
  auto net = network();
  auto other = network();
  auto s = cloud_.id(subnet(net, "10.0.0.0/24"));
  subnet(other, "10.1.0.0/24");
  for (int i = 0; i < 5; ++i)
    port(net, {{"name", "p" + std::to_string(4 - i)}, {"device_id", "dev" + std::to_string(i % 2)}});
  port(other, {{"name", "x"}, {"device_id", "dev1"}, {"admin_state_up", false}});
  auto count = [&](const std::string& query) {
    return cloud_.get("ports?" + query).body.at("ports").as_array().size();
  };
  EXPECT_EQ(count("limit=0"), 6U);
  EXPECT_EQ(count("network_id=" + net), 5U);
  EXPECT_EQ(count("device_id=dev1"), 3U);
  EXPECT_EQ(count("device_id=dev1&network_id=" + net), 2U);
  EXPECT_EQ(count("device_id=dev0&device_id=dev1"), 6U);
  EXPECT_EQ(count("name=p1&name=p2"), 2U);
  EXPECT_EQ(count("name=p1&device_id=dev0"), 0U);
  EXPECT_EQ(count("admin_state_up=False"), 1U);
  EXPECT_EQ(count("admin_state_up=true&name=x"), 0U);
  EXPECT_EQ(count("fixed_ips=ip_address%3D10.0.0.3"), 1U);
  EXPECT_EQ(count("fixed_ips=subnet_id%3D" + s), 5U);
  EXPECT_EQ(count("fixed_ips=ip_address_substr%3D10.0"), 5U);
  EXPECT_EQ(count("no_such_attribute=1"), 6U);
  auto some = cloud_.get("ports?name=p1&fields=id&fields=name").body.at("ports").at(0).as_object();
  EXPECT_EQ(some.size(), 2U);
  auto sorted = cloud_.get("ports?sort_key=name&sort_dir=desc&fields=name&network_id=" + net).body.at("ports");
  EXPECT_EQ(json::serialize(sorted), R"([{"name":"p4"},{"name":"p3"},{"name":"p2"},{"name":"p1"},{"name":"p0"}])");

  std::set<std::string> seen;
  std::string next = "ports?limit=4&fields=id";
  int pages = 0;
  while (!next.empty() && pages < 5) {
    auto page = cloud_.get(next).body.as_object();
    ++pages;
    for (const auto& p : page.at("ports").as_array()) seen.insert(std::string(p.at("id").as_string()));
    next.clear();
    if (auto* links = page.if_contains("ports_links")) {
      std::string href(links->at(0).at("href").as_string());
      next = href.substr(std::string("http://127.0.0.1:9696/v2.0/").size());
    }
  }
  EXPECT_EQ(pages, 2);
  EXPECT_EQ(seen.size(), 6U);
}

/// A list of the whole cloud does not hold the loop: it is made in turns, and what goes meanwhile is left out.
TEST_F(ApiTest, LongListsTakeTurns) {
  auto net = network();
  subnet(net, "10.0.0.0/16");
  for (int bulk = 0; bulk < 5; ++bulk) {
    json::array many;
    for (int i = 0; i < 100; ++i) many.push_back(json::object{{"network_id", net}, {"name", "p"}});
    ASSERT_EQ(cloud_.post("ports", json::object{{"ports", many}}).status, 201);
  }
  auto all = cloud_.get("ports?fields=id&sort_key=id");
  EXPECT_EQ(cloud_.turns, 3);
  ASSERT_EQ(all.body.at("ports").as_array().size(), 500U);
  EXPECT_EQ(all.body.at("ports").at(499).as_object().size(), 1U) << "fields hold to the end";
  auto paged = cloud_.get("ports?fields=id&limit=300&sort_key=id").body.as_object();
  EXPECT_EQ(paged.at("ports").as_array().size(), 300U);
  EXPECT_EQ(paged.at("ports_links").as_array().size(), 1U);
  auto last = std::string(all.body.at("ports").at(499).at("id").as_string());
  cloud_.between_turns = [&] {
    if (cloud_.state.find<Port>(last)) cloud_.state.erase<Port>(last);
  };
  EXPECT_EQ(cloud_.get("ports?sort_key=id").body.at("ports").as_array().size(), 499U);
}

TEST_F(ApiTest, SecurityGroups) {
  auto all = cloud_.get("security-groups").body.at("security_groups").as_array();
  ASSERT_EQ(all.size(), 1U) << "the project's default group, made on first use";
  EXPECT_EQ(all[0].at("name").as_string(), "default");
  EXPECT_EQ(all[0].at("security_group_rules").as_array().size(), 4U);
  auto g = cloud_.make("security_group", {{"name", "sg1"}});
  auto rules = g.at("security_group_rules").as_array();
  ASSERT_EQ(rules.size(), 2U);
  EXPECT_EQ(rules[0].at("direction").as_string(), "egress");
  EXPECT_EQ(rules[0].at("ethertype").as_string(), "IPv4");
  EXPECT_EQ(rules[1].at("ethertype").as_string(), "IPv6");
  auto id = cloud_.id(g);
  EXPECT_FALSE(cloud_.kv.contains(cloud_.translator.policy_key(id))) << "written with its first rule or port";
  auto r = cloud_.make("security_group_rule", {{"security_group_id", id},
                                               {"direction", "ingress"},
                                               {"protocol", "tcp"},
                                               {"port_range_min", 22},
                                               {"port_range_max", 22},
                                               {"remote_ip_prefix", "10.1.2.3/8"}});
  EXPECT_EQ(r.at("remote_ip_prefix").as_string(), "10.1.2.3/8");
  EXPECT_EQ(r.at("normalized_cidr").as_string(), "10.0.0.0/8");
  EXPECT_FALSE(r.contains("name"));
  EXPECT_TRUE(cloud_.kv.contains(cloud_.translator.policy_key(id)));
  EXPECT_EQ(
      cloud_.get("security-group-rules?security_group_id=" + id).body.at("security_group_rules").as_array().size(), 3U);
  // A group that others name takes these rules with it, and their policies follow.
  auto other = cloud_.id(cloud_.make("security_group", {{"name", "sg2"}}));
  cloud_.make("security_group_rule", {{"security_group_id", other}, {"direction", "ingress"}, {"remote_group_id", id}});
  EXPECT_EQ(cloud_.value(cloud_.translator.policy_key(other)).at("spec").at("ingress").as_array().size(), 1U);
  EXPECT_EQ(cloud_.del("security-groups/" + id).status, 204);
  EXPECT_FALSE(cloud_.kv.contains(cloud_.translator.policy_key(id)));
  EXPECT_EQ(cloud_.value(cloud_.translator.policy_key(other)).at("spec").at("ingress").as_array().size(), 0U);
}

TEST_F(ApiTest, NoChangeIsNoWrite) {
  auto net = network();
  auto s = cloud_.id(subnet(net, "10.0.0.0/24"));
  auto p = cloud_.id(port(net));
  cloud_.put("ports/" + p, json::object{{"port", json::object{{"name", ""}, {"admin_state_up", true}}}});
  EXPECT_EQ(cloud_.last_rows, 0U);
  auto a = cloud_.put("subnets/" + s, json::object{{"subnet", json::object{{"enable_dhcp", true}}}});
  EXPECT_EQ(cloud_.last_rows, 0U);
  EXPECT_EQ(a.body.at("subnet").at("revision_number").as_int64(), 1);
}

TEST_F(ApiTest, DeletingANetworkTakesItsSubnets) {
  auto net = network();
  auto s = subnet(net, "10.0.0.0/24");
  auto key = cloud_.translator.subnet_key(cloud_.id(s));
  EXPECT_TRUE(cloud_.kv.contains(key));
  EXPECT_EQ(cloud_.del("networks/" + net).status, 204);
  EXPECT_FALSE(cloud_.kv.contains(key));
  EXPECT_EQ(cloud_.get("subnets/" + cloud_.id(s)).status, 404);
  subnet(network(), "10.0.0.0/24");  // its addresses are free again
}

TEST(Projects, SeeTheirOwnAndWhatIsShared) {
  Cloud cloud;
  cloud.caller = {"admin-project", true};
  auto shared = cloud.id(cloud.make("network", {{"name", "shared"}, {"shared", true}}));
  cloud.make("subnet", {{"network_id", shared}, {"ip_version", 4}, {"cidr", "10.0.0.0/24"}});
  auto hidden = cloud.id(cloud.make("network", {{"name", "hidden"}}));
  auto foreign_group = cloud.id(cloud.make("security_group", {{"name", "g"}}));
  cloud.caller = {"tenant", false};
  EXPECT_EQ(cloud.get("networks").body.at("networks").as_array().size(), 1U);
  EXPECT_EQ(cloud.get("networks/" + hidden).status, 404);
  EXPECT_EQ(cloud.get("subnets").body.at("subnets").as_array().size(), 1U);
  EXPECT_EQ(cloud.get("agents").status, 403);
  auto net = cloud.get("networks/" + shared).body.at("network").as_object();
  EXPECT_FALSE(net.contains("provider:network_type"));
  EXPECT_EQ(cloud.del("networks/" + shared).status, 403);
  EXPECT_EQ(cloud.put("networks/" + shared, json::object{{"network", json::object{{"name", "mine"}}}}).status, 403);
  auto post = [&](json::object body) {
    body["network_id"] = shared;
    auto a = cloud.post("ports", json::object{{"port", std::move(body)}});
    return a.status == 201 ? std::string("made") : a.error() + " " + a.message();
  };
  EXPECT_EQ(post({}), "made");
  EXPECT_EQ(post({{"binding:host_id", "h"}}),
            "PolicyNotAuthorized rule:create_port:binding:host_id is disallowed by policy.");
  EXPECT_NE(post({{"mac_address", "fa:16:3e:00:00:09"}}), "made");
  EXPECT_NE(post({{"fixed_ips", json::array{json::object{{"ip_address", "10.0.0.9"}}}}}), "made");
  EXPECT_NE(post({{"allowed_address_pairs", json::array{json::object{{"ip_address", "10.0.0.9"}}}}}), "made");
  EXPECT_NE(post({{"port_security_enabled", false}}), "made");
  EXPECT_NE(post({{"device_owner", "network:dhcp"}}), "made");
  EXPECT_NE(post({{"project_id", "other"}}), "made");
  EXPECT_NE(post({{"security_groups", json::array{foreign_group}}}), "made");
  EXPECT_EQ(cloud.post("networks", json::object{{"network", json::object{{"shared", true}}}}).status, 403);
  // On its own network a pair must be an address of that network: the others' are routed too.
  auto own = cloud.id(cloud.make("network", {{"name", "own"}}));
  cloud.make("subnet", {{"network_id", own}, {"ip_version", 4}, {"cidr", "10.9.0.0/24"}});
  auto pair = [&](const char* address) {
    return cloud
        .post("ports", json::object{{"port", json::object{{"network_id", own},
                                                          {"allowed_address_pairs",
                                                           json::array{json::object{{"ip_address", address}}}}}}})
        .status;
  };
  EXPECT_EQ(pair("10.9.0.200"), 201);
  EXPECT_EQ(pair("10.0.0.200"), 403);
  auto mine = cloud.get("ports").body.at("ports").as_array();
  EXPECT_EQ(mine.size(), 2U);
  EXPECT_FALSE(mine[0].as_object().contains("binding:host_id"));
}

/// What is written to SQLite reads back as the same state.
TEST_F(ApiTest, RowsReadBack) {
  auto path = std::filesystem::temp_directory_path() / ("controller-rows-" + std::to_string(getpid()) + ".db");
  std::filesystem::remove(path);
  {
    auto db = store::Db::open({.path = path.string()});
    ASSERT_TRUE(db) << db.error().what;
    ASSERT_TRUE((*db)->migrate(kNeutronSchema));
    std::int64_t sequence = 0;
    auto keep = [&](const Commit& commit) {
      auto tx = store::Transaction::begin(**db);
      ASSERT_TRUE(tx);
      auto s = write_rows(**db, rows_of(cloud_.state, commit.rows), ++sequence);
      ASSERT_TRUE(s) << s.error().what;
      ASSERT_TRUE(tx->commit());
    };
    cloud_.agent("h");
    auto send = [&](const char* method, const std::string& target, const json::value& body) {
      Request r{method, "/v2.0/" + target, {}, json::serialize(body), "", cloud_.caller};
      auto out = cloud_.api.handle(r);
      EXPECT_LT(out.status, 300) << out.body;
      keep(out.commit);
      auto parsed = out.body.empty() ? json::value() : json::parse(out.body);
      return parsed.is_object() ? std::string(parsed.as_object().begin()->value().at("id").as_string()) : std::string();
    };
    auto net = send("POST", "networks", json::parse(R"({"network":{"name":"n","mtu":9000,"provider:network_type":"flat",
      "provider:physical_network":"phys","description":"d"}})"));
    auto sub = send(
        "POST", "subnets",
        json::object{{"subnet", json::object{{"network_id", net},
                                             {"ip_version", 4},
                                             {"cidr", "10.0.0.0/24"},
                                             {"dns_nameservers", json::array{"9.9.9.9"}},
                                             {"host_routes", json::array{json::object{{"destination", "192.0.2.0/24"},
                                                                                      {"nexthop", "10.0.0.1"}}}}}}});
    send("POST", "subnets",
         json::object{{"subnet", json::object{{"network_id", net},
                                              {"ip_version", 6},
                                              {"cidr", "fd00::/64"},
                                              {"ipv6_ra_mode", "slaac"},
                                              {"ipv6_address_mode", "slaac"}}}});
    auto group = send("POST", "security-groups", json::parse(R"({"security_group":{"name":"g"}})"));
    auto rule = send("POST", "security-group-rules",
                     json::object{{"security_group_rule", json::object{{"security_group_id", group},
                                                                       {"direction", "ingress"},
                                                                       {"protocol", "tcp"},
                                                                       {"port_range_min", 1},
                                                                       {"port_range_max", 2},
                                                                       {"remote_ip_prefix", "0.0.0.0/0"}}}});
    auto p =
        send("POST", "ports",
             json::object{{"port", json::object{{"network_id", net},
                                                {"device_id", "i"},
                                                {"device_owner", "compute:x"},
                                                {"binding:host_id", "h"},
                                                {"binding:profile", json::object{{"a", 1}}},
                                                {"security_groups", json::array{group}},
                                                {"allowed_address_pairs",
                                                 json::array{json::object{{"ip_address", "10.0.0.128/25"}},
                                                             json::object{{"ip_address", "10.0.0.9"},
                                                                          {"mac_address", "fa:16:3e:01:02:03"}}}}}}});
    send("PUT", "ports/" + p, json::parse(R"({"port":{"fixed_ips":[{"ip_address":"10.0.0.50"}]}})"));
    send("DELETE", "security-group-rules/" + rule, nullptr);
    send("PUT", "subnets/" + sub, json::parse(R"({"subnet":{"gateway_ip":null}})"));

    auto loaded = load(**db);
    ASSERT_TRUE(loaded) << loaded.error().what;
    EXPECT_EQ(loaded->sequence, sequence);
    auto same = [&]<class R>(const R*) {
      ASSERT_EQ(loaded->state.all<R>().size(), cloud_.state.all<R>().size());
      for (const auto& [id, r] : cloud_.state.all<R>()) {
        const auto* back = loaded->state.find<R>(id);
        ASSERT_TRUE(back) << id;
        EXPECT_EQ(to_row(*back), to_row(r));
        EXPECT_EQ(back->project, r.project);
      }
    };
    same(static_cast<const Network*>(nullptr));
    same(static_cast<const Subnet*>(nullptr));
    same(static_cast<const Port*>(nullptr));
    same(static_cast<const SecurityGroup*>(nullptr));
    same(static_cast<const Rule*>(nullptr));
    EXPECT_EQ(loaded->state.next_rule_order(), cloud_.state.next_rule_order() - 1 /* the deleted one was the last */);
    EXPECT_EQ(*(*db)->number("SELECT count(*) FROM neutron_address"), 2);

    // A write that does not follow the last one is refused: its rows build upon something that was lost.
    auto tx = store::Transaction::begin(**db);
    auto s = write_rows(**db, {}, sequence + 2);
    ASSERT_FALSE(s);
    EXPECT_EQ(s.error().code, Errc::conflict);
    tx->rollback();
    // The same address twice is refused by the table itself.
    auto rows = rows_of(cloud_.state, {{Kind::port, p, std::nullopt}});
    rows[0].id = "another";
    auto tx2 = store::Transaction::begin(**db);
    auto twice = write_rows(**db, rows, sequence + 1);
    ASSERT_FALSE(twice);
    EXPECT_EQ(twice.error().code, Errc::exists);
    tx2->rollback();

    ASSERT_TRUE((*db)->run("UPDATE neutron_port SET body = '{\"created\":1}' WHERE id = ?1", p));
    auto broken = load(**db);
    ASSERT_FALSE(broken);
    EXPECT_EQ(broken.error().code, Errc::corrupt);
    EXPECT_NE(broken.error().what.find(p), std::string::npos) << broken.error().what;
  }
  std::filesystem::remove(path);
  std::filesystem::remove(path.string() + "-wal");
  std::filesystem::remove(path.string() + "-shm");
}

}  // namespace
}  // namespace calico::controller
