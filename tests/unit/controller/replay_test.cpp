// The acceptance of the translation: the operations recorded against a real Neutron with the real Calico driver, sent
// to our API one by one; after each, the datastore is what the driver made of it. Left out of the comparison: uids,
// times, revisions, the order of rules, floating IPs and QoS (not provided), and what agents write.
#include <algorithm>
#include <fstream>
#include <regex>

#include "cloud.hpp"

namespace calico::controller {
namespace {

using Keys = std::map<std::string, json::value>;

constexpr const char* kProject = "0123456789abcdef0123456789abcdef";
const std::string kNet = "4bc07297-b006-4f51-9939-9eb6a2e4ea58";
const std::string kSubnet4 = "5b47ca1a-e102-4fa9-b1c5-3097e6df3a77";
const std::string kSubnet6 = "6bc913f4-0257-4e23-aba4-6e55fe5cba2b";
const std::string kWeb = "4303c27f-d7d5-402c-939a-51673ef6b4fd";
const std::string kDb = "88499646-bbee-4c53-98a9-7a1b0829c6d5";
const std::vector<std::pair<std::string, std::string>> kPorts{
    {"03cf514f-a0c1-4dac-8e48-0b4eacd70474", "fa:16:3e:4d:bb:e4"},
    {"df627a37-726f-42d5-b065-99d619803911", "fa:16:3e:85:c2:2b"},
    {"3625f89b-f5b4-42e5-a393-e11770b2ad24", "fa:16:3e:99:7e:ad"},
    {"4b1a71a4-a3bc-4583-af82-389f9c6cd563", "fa:16:3e:69:04:3c"},
    {"c81b230e-0f50-4f4d-8214-7fa53d04535b", "fa:16:3e:86:2a:62"},
    {"d250c618-8a1f-4ae4-a340-33e7d5f56ff9", "fa:16:3e:30:28:c4"},
    {"c9506925-befe-4039-84c8-fd64c75fade2", "fa:16:3e:89:63:e8"}};

std::string fixture(const std::string& name) { return std::string(CALICO_SOURCE_DIR) + "/tests/fixtures/" + name; }

void sort_rules(json::object& spec) {
  for (const char* list : {"ingress", "egress"}) {
    auto* v = spec.if_contains(list);
    if (!v) continue;
    auto& rules = v->as_array();
    std::sort(rules.begin(), rules.end(),
              [](const auto& a, const auto& b) { return json::serialize(a) < json::serialize(b); });
  }
}

/// What is compared of a value. Members of rules come in another order from us; objects compare without order, but the
/// sort above does not, so every rule is rebuilt with its keys sorted.
json::value sorted_keys(const json::value& v) {
  if (v.is_array()) {
    json::array a;
    for (const auto& e : v.get_array()) a.push_back(sorted_keys(e));
    return a;
  }
  if (!v.is_object()) return v;
  std::map<std::string, json::value> members;
  for (const auto& m : v.get_object()) members[std::string(m.key())] = sorted_keys(m.value());
  json::object o;
  for (auto& [k, m] : members) o[k] = m;
  return o;
}

json::value canonical(const std::string& text) {
  auto v = sorted_keys(json::parse(text));
  auto& o = v.as_object();
  if (auto* m = o.if_contains("metadata")) {
    m->as_object().erase("uid");
    m->as_object().erase("creationTimestamp");
    auto& spec = o.at("spec").as_object();
    spec.erase("ipNATs");
    spec.erase("qosControls");
    sort_rules(spec);
  }
  return v;
}

bool compared(const std::string& key) {
  return key.starts_with("/calico/resources/v3/") || key.starts_with("/calico/dhcp/");
}

std::string describe(const Keys& expected, const Keys& got) {
  std::string out;
  for (const auto& [k, v] : expected) {
    auto it = got.find(k);
    if (it == got.end())
      out += "\nmissing: " + k;
    else if (it->second != v)
      out += "\ndiffers: " + k + "\n  driver: " + json::serialize(v) + "\n  ours:   " + json::serialize(it->second);
  }
  for (const auto& [k, v] : got) {
    if (!expected.contains(k)) out += "\ntoo many: " + k + " " + json::serialize(v);
  }
  return out;
}

struct Step {
  std::string title;
  std::vector<std::pair<std::string, std::optional<std::string>>> writes;
};

std::vector<Step> read_lifecycle() {
  std::ifstream in(fixture("openstack-etcd-lifecycle.txt"));
  EXPECT_TRUE(in.good());
  std::vector<Step> steps;
  std::string line;
  const std::regex write(R"(^  rev \d+ (PUT|DELETE) (\S+)$)");
  while (std::getline(in, line) && !line.starts_with("## PART 4")) {
    std::smatch m;
    if (line.starts_with("=== ")) {
      steps.push_back({line.substr(4), {}});
    } else if (!steps.empty() && std::regex_match(line, m, write)) {
      steps.back().writes.emplace_back(m[2], std::nullopt);
    } else if (!steps.empty() && line.starts_with("      ")) {
      steps.back().writes.back().second = line.substr(6);
    }
  }
  return steps;
}

class Replay : public testing::Test {
 protected:
  Replay() : cloud_({{kProject, {"demo", "default"}}}, {kProject, true}) {
    for (const char* host : {"host-a", "host-b", "host-c"}) cloud_.agent(host);
  }

  json::object port_body(int n, const std::string& host, json::array groups) {
    cloud_.next_ids = {kPorts[static_cast<std::size_t>(n - 1)].first};
    return {{"network_id", kNet},
            {"name", "vm" + std::to_string(n)},
            {"mac_address", kPorts[static_cast<std::size_t>(n - 1)].second},
            {"device_owner", "compute:nova"},
            {"device_id", "11111111-0000-4000-8000-00000000000" + std::to_string(n)},
            {"security_groups", std::move(groups)},
            {"binding:host_id", host},
            {"fixed_ips",
             json::array{json::object{{"subnet_id", kSubnet4}, {"ip_address", "10.65.0." + std::to_string(10 + n)}}}}};
  }

  /// The demonstration's set-up, as the recording began.
  void set_up_demo() {
    Commit first;
    first.intents = Translator::defaults("20bfd66728ed47399e8ab3f6b6f5a30d");
    cloud_.keep(first);
    cloud_.next_ids = {kNet};
    cloud_.make("network", {{"name", "demo"}, {"shared", true}, {"provider:network_type", "local"}});
    cloud_.next_ids = {kSubnet4};
    cloud_.make("subnet", {{"name", "demo4"},
                           {"network_id", kNet},
                           {"ip_version", 4},
                           {"cidr", "10.65.0.0/24"},
                           {"gateway_ip", "10.65.0.1"},
                           {"enable_dhcp", true},
                           {"dns_nameservers", json::array{"10.65.0.1", "8.8.8.8"}},
                           {"host_routes",
                            json::array{json::object{{"destination", "192.0.2.0/24"}, {"nexthop", "10.65.0.1"}}}}});
    for (const auto& [name, id] : {std::pair{"web", kWeb}, std::pair{"db", kDb}}) {
      cloud_.next_ids = {id};
      cloud_.make("security_group", {{"name", name}});
      cloud_.make("security_group_rule", {{"security_group_id", id},
                                          {"direction", "ingress"},
                                          {"ethertype", "IPv4"},
                                          {"protocol", "icmp"},
                                          {"remote_group_id", id}});
      cloud_.make("security_group_rule", {{"security_group_id", id},
                                          {"direction", "ingress"},
                                          {"ethertype", "IPv4"},
                                          {"protocol", "tcp"},
                                          {"port_range_min", 22},
                                          {"port_range_max", 22},
                                          {"remote_ip_prefix", "0.0.0.0/0"}});
    }
    const char* hosts[] = {"host-a", "host-b", "host-c", "host-a", "host-b", "host-c"};
    for (int n = 1; n <= 6; ++n) {
      json::array groups{n <= 3 ? kWeb : kDb};
      if (n == 5) groups = {kWeb, kDb};
      auto body = port_body(n, hosts[n - 1], groups);
      if (n == 6) body["allowed_address_pairs"] = json::array{json::object{{"ip_address", "10.65.0.200"}}};
      auto port = cloud_.make("port", body);
      EXPECT_EQ(port.at("binding:vif_type").as_string(), "tap");
    }
    cloud_.next_ids = {kSubnet6};
    cloud_.make("subnet", {{"name", "demo6"},
                           {"network_id", kNet},
                           {"ip_version", 6},
                           {"cidr", "fd65::/64"},
                           {"gateway_ip", "fd65::1"},
                           {"enable_dhcp", true},
                           {"ipv6_address_mode", "dhcpv6-stateful"},
                           {"ipv6_ra_mode", "dhcpv6-stateful"}});
    auto body = port_body(7, "host-a", {kWeb});
    body["fixed_ips"] = json::array{json::object{{"subnet_id", kSubnet4}, {"ip_address", "10.65.0.17"}},
                                    json::object{{"subnet_id", kSubnet6}, {"ip_address", "fd65::17"}}};
    cloud_.make("port", body);
  }

  Keys ours() const {
    Keys out;
    for (const auto& [k, v] : cloud_.kv) {
      if (compared(k)) out[k] = canonical(v);
    }
    return out;
  }

  void rule(json::object body) {
    body["security_group_id"] = kWeb;
    body["direction"] = "ingress";
    auto made = cloud_.make("security_group_rule", body);
    last_rule_[made.contains("protocol") && made["protocol"].is_string() ? std::string(made["protocol"].as_string())
                                                                         : ""] = cloud_.id(made);
  }
  void expect_put(const std::string& path, const std::string& one, json::object body) {
    auto a = cloud_.put(path, json::object{{one, std::move(body)}});
    EXPECT_EQ(a.status, 200) << path << ": " << a.text;
  }
  void port(int n, json::object body) {
    expect_put("ports/" + kPorts[static_cast<std::size_t>(n - 1)].first, "port", std::move(body));
  }

  /// Sends what the title says. False: not provided, and the state is not compared after it.
  bool perform(const std::string& title) {
    if (title.starts_with("felix stand-in")) {
      const auto& p = kPorts[1].first;
      EXPECT_EQ(cloud_.get("ports/" + p).body.at("port").at("status").as_string(), "DOWN");
      cloud_.feedback.apply(
          "/calico/felix/v2/no-region/host/host-b/workload/openstack/11111111-0000-4000-8000-000000000002/"
          "endpoint/" +
              p,
          R"({"status":"up"})");
      EXPECT_EQ(cloud_.get("ports/" + p).body.at("port").at("status").as_string(), "ACTIVE");
    } else if (title == "SG web: add egress? no: ingress tcp 80-443 from 192.0.2.0/24") {
      rule({{"ethertype", "IPv4"},
            {"protocol", "tcp"},
            {"port_range_min", 80},
            {"port_range_max", 443},
            {"remote_ip_prefix", "192.0.2.0/24"}});
    } else if (title == "SG web: ingress icmpv6 type 128 code 0 from any") {
      rule({{"ethertype", "IPv6"}, {"protocol", "icmpv6"}, {"port_range_min", 128}, {"port_range_max", 0}});
    } else if (title == "SG web: ingress udp, no ports, remote group db") {
      rule({{"ethertype", "IPv4"}, {"protocol", "udp"}, {"remote_group_id", kDb}});
    } else if (title == "SG web: ingress protocol number 132, any") {
      rule({{"ethertype", "IPv4"}, {"protocol", 132}});
    } else if (title == "SG web: icmp type 8 only") {
      rule({{"ethertype", "IPv4"}, {"protocol", "icmp"}, {"port_range_min", 8}});
    } else if (title == "SG web: delete the 80-443 rule") {
      EXPECT_EQ(cloud_.del("security-group-rules/" + last_rule_.at("tcp")).status, 204);
    } else if (title == "port vm2: security groups web -> web+db") {
      port(2, {{"security_groups", json::array{kWeb, kDb}}});
    } else if (title == "port vm2: add fixed ip 10.65.0.22") {
      port(2, {{"fixed_ips", json::array{json::object{{"subnet_id", kSubnet4}, {"ip_address", "10.65.0.12"}},
                                         json::object{{"subnet_id", kSubnet4}, {"ip_address", "10.65.0.22"}}}}});
    } else if (title == "port vm2: port_security_enabled False, no SG") {
      port(2, {{"port_security_enabled", false}, {"security_groups", json::array()}});
    } else if (title == "port vm2: admin_state_up False") {
      port(2, {{"admin_state_up", false}});
    } else if (title == "port vm2: admin_state_up True") {
      port(2, {{"admin_state_up", true}});
    } else if (title == "port vm2: move host-b -> host-c (binding:host_id)") {
      port(2, {{"binding:host_id", "host-c"}});
    } else if (title == "port vm3: live migration: profile migrating_to host-a") {
      port(3, {{"binding:profile", json::object{{"migrating_to", "host-a"}}}});
    } else if (title == "port vm3: live migration done: host-a, profile {}") {
      port(3, {{"binding:host_id", "host-a"}, {"binding:profile", json::object()}});
    } else if (title == "port vm4: MAC change (unbound needed, may be refused)") {
      auto a = cloud_.put("ports/" + kPorts[3].first,
                          json::object{{"port", json::object{{"mac_address", "fa:16:3e:00:00:44"}}}});
      EXPECT_EQ(a.status, 409);
      EXPECT_EQ(a.error(), "PortBound");
      EXPECT_EQ(
          a.message(),
          "Unable to complete operation on port 4b1a71a4-a3bc-4583-af82-389f9c6cd563, port is already bound, port "
          "type: tap, old_mac fa:16:3e:69:04:3c, new_mac fa:16:3e:00:00:44.");
    } else if (title.starts_with("floating ip: ")) {
      EXPECT_EQ(cloud_.get("floatingips").status, 404);
    } else if (title == "subnet demo4: dns + host_routes change") {
      expect_put("subnets/" + kSubnet4, "subnet",
                 {{"dns_nameservers", json::array{"9.9.9.9"}}, {"host_routes", json::array()}});
    } else if (title == "subnet demo4: enable_dhcp False") {
      expect_put("subnets/" + kSubnet4, "subnet", {{"enable_dhcp", false}});
    } else if (title == "subnet demo4: enable_dhcp True") {
      expect_put("subnets/" + kSubnet4, "subnet", {{"enable_dhcp", true}});
    } else if (title == "network demo: rename") {
      expect_put("networks/" + kNet, "network", {{"name", "demo-renamed"}});
    } else if (title == "SG web: rename") {
      expect_put("security-groups/" + kWeb, "security_group", {{"name", "web2"}});
    } else if (title.starts_with("QoS: ")) {
      EXPECT_EQ(cloud_.get("qos/policies").status, 404);
    } else if (title == "port vm5: qos policy set") {
      // Not provided; any other change of the port writes it anew, with the new names in its labels.
      auto refused =
          cloud_.put("ports/" + kPorts[4].first, json::object{{"port", json::object{{"qos_policy_id", kNet}}}});
      EXPECT_EQ(refused.status, 400);
      port(5, {{"description", "changed"}});
    } else if (title == "port vm6: delete") {
      EXPECT_EQ(cloud_.del("ports/" + kPorts[5].first).status, 204);
    } else if (title == "SG extra: create (unused)") {
      extra_ = cloud_.id(cloud_.make("security_group", {{"name", "extra"}}));
    } else if (title == "SG extra: delete") {
      EXPECT_EQ(cloud_.del("security-groups/" + extra_).status, 204);
    } else {
      ADD_FAILURE() << "the recording has an operation this test does not know: " << title;
    }
    return true;
  }

  Cloud cloud_;
  std::map<std::string, std::string> last_rule_;
  std::string extra_;
};

TEST_F(Replay, SetUpEqualsTheSnapshot) {
  set_up_demo();
  Keys expected;
  std::ifstream in(fixture("openstack-etcd-snapshot.jsonl"));
  for (std::string line; std::getline(in, line);) {
    auto o = json::parse(line).as_object();
    std::string key(o.at("key").as_string());
    if (compared(key)) expected[key] = canonical(std::string(o.at("value").as_string()));
  }
  ASSERT_EQ(expected.size(), 13U);
  auto got = ours();
  EXPECT_EQ(expected, got) << describe(expected, got);
}

TEST_F(Replay, EveryOperationLeavesTheDriversState) {
  set_up_demo();
  Keys expected;
  std::ifstream in(fixture("openstack-etcd-snapshot.jsonl"));
  for (std::string line; std::getline(in, line);) {
    auto o = json::parse(line).as_object();
    std::string key(o.at("key").as_string());
    if (compared(key)) expected[key] = canonical(std::string(o.at("value").as_string()));
  }
  auto steps = read_lifecycle();
  ASSERT_EQ(steps.size(), 30U);
  int compared_steps = 0;
  for (const auto& step : steps) {
    SCOPED_TRACE(step.title);
    std::map<std::string, std::string> before(cloud_.kv.begin(), cloud_.kv.end());
    auto written_before = cloud_.written.size();
    bool provided = perform(step.title);
    for (const auto& [key, value] : step.writes) {
      if (!compared(key)) continue;
      if (value)
        expected[key] = canonical(*value);
      else
        expected.erase(key);
    }
    if (!provided) continue;
    auto got = ours();
    EXPECT_EQ(expected, got) << describe(expected, got);
    ++compared_steps;
    // Only what differs is written, and an object keeps its identity while it lives.
    for (std::size_t i = written_before; i < cloud_.written.size(); ++i) {
      const auto& key = cloud_.written[i];
      if (!before.contains(key) || !cloud_.kv.contains(key)) continue;
      EXPECT_NE(before[key], cloud_.kv[key]) << key << " was written without need";
      if (!key.starts_with("/calico/resources/")) continue;
      auto old = json::parse(before[key]);
      auto now = json::parse(cloud_.kv[key]);
      EXPECT_EQ(old.at("metadata").at("uid"), now.at("metadata").at("uid"));
      EXPECT_EQ(old.at("metadata").at("creationTimestamp"), now.at("metadata").at("creationTimestamp"));
    }
  }
  EXPECT_EQ(compared_steps, 30);
}

TEST_F(Replay, AMigrationThatIsGivenUpLeavesNothing) {
  set_up_demo();
  const auto before = ours();
  const auto migrate = [&](const std::string& to) {
    return cloud_.put("ports/" + kPorts[2].first,
                      json::object{{"port", json::object{{"binding:profile", json::object{{"migrating_to", to}}}}}});
  };
  EXPECT_EQ(migrate("host a/../b").status, 400);
  EXPECT_EQ(ours(), before);
  EXPECT_EQ(migrate("host-c").status, 200) << "it is there already";
  EXPECT_EQ(ours(), before);
  EXPECT_EQ(migrate("host-a").status, 200);
  EXPECT_EQ(ours().size(), before.size() + 2);
  EXPECT_EQ(migrate("host-b").status, 200) << "nova chose another target";
  EXPECT_EQ(ours().size(), before.size() + 2);
  port(3, {{"binding:profile", json::object()}});
  EXPECT_EQ(ours(), before);
  EXPECT_EQ(migrate("host-a").status, 200);
  EXPECT_EQ(cloud_.del("ports/" + kPorts[2].first).status, 204);
  EXPECT_EQ(ours().size(), before.size() - 1);
}

/// A restart compares everything with the datastore; what was written request by request needs nothing but the names
/// that changed meanwhile and the policies of groups no port uses yet.
TEST_F(Replay, RestartWritesOnlyWhatNamesChanged) {
  set_up_demo();
  Commit all;
  all.intents = cloud_.translator.all();
  cloud_.written.clear();
  cloud_.keep(all);
  ASSERT_EQ(cloud_.written.size(), 1U);
  EXPECT_NE(cloud_.written[0].find("networkpolicies"), std::string::npos);  // the default group's
  cloud_.written.clear();
  cloud_.keep(all);
  EXPECT_TRUE(cloud_.written.empty());
}

}  // namespace
}  // namespace calico::controller
