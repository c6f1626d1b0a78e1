#include "modules/controller/translate.hpp"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <charconv>

#include "modules/controller/protocols.hpp"

namespace calico::controller {

namespace {

constexpr std::string_view kResources = "/calico/resources/v3/projectcalico.org/";
constexpr std::string_view kSgLabel = "sg.projectcalico.org/openstack-";
constexpr std::string_view kSgNameLabel = "sg-name.projectcalico.org/openstack-";
constexpr std::size_t kMaxLabel = 63;
constexpr std::size_t kMaxSgName = 27;  // what is left of 63 behind the label's prefix

bool alphanumeric(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

std::string doubled(std::string_view text) {
  std::string out;
  for (char c : text) out.append(c == '-' ? 2 : 1, c);
  return out;
}

std::string endpoint_name(const Port& port) {
  return fmt::format("{}-openstack-{}-{}", doubled(port.host), doubled(port.device), doubled(port.id));
}

json::object resource(std::string_view kind, std::string_view name, std::string_view space) {
  json::object metadata{{"name", name}};
  if (!space.empty()) metadata["namespace"] = space;
  return {{"kind", kind}, {"apiVersion", "projectcalico.org/v3"}, {"metadata", std::move(metadata)}};
}

std::string has_group(std::string_view group) { return fmt::format("has({}{})", kSgLabel, group); }

const json::value* part(const json::object& o, std::string_view key) {
  const auto* v = o.if_contains({key.data(), key.size()});
  return v && v->is_object() && v->get_object().empty() ? nullptr : v;  // {} and absent are the same
}
bool same(const json::value* a, const json::value* b) { return a && b ? *a == *b : a == b; }
bool same_text(const json::object& a, const json::object& b, std::string_view key) {
  return same(part(a, key), part(b, key));
}

}  // namespace

Region Region::named(std::string_view name) {
  if (name.empty()) return {};
  return {fmt::format("region-{}", name), fmt::format("openstack-region-{}", name)};
}

std::string sanitise_label(std::string_view text, std::size_t max) {
  std::string out;
  for (std::size_t i = 0; i < text.size() && out.size() < max; ++i) {
    char c = text[i];
    if ((static_cast<unsigned char>(c) & 0xC0U) == 0x80U) continue;  // one '_' a code point
    out += alphanumeric(c) || c == '-' || c == '_' || c == '.' ? c : '_';
  }
  while (!out.empty() && !alphanumeric(out.back())) out.pop_back();
  std::size_t first = 0;
  while (first < out.size() && !alphanumeric(out[first])) ++first;
  return out.substr(first);
}

std::optional<std::string> merge(const Intent& intent, std::optional<std::string_view> existing,
                                 const std::function<Stamp()>& stamp) {
  const json::object& desired = *intent.desired;
  std::optional<json::object> old;
  if (existing) {
    boost::system::error_code error;
    json::value parsed = json::parse({existing->data(), existing->size()}, error);
    if (!error && parsed.is_object()) old = std::move(parsed.get_object());
  }
  if (!intent.resource) {
    if (old && *old == desired) return std::nullopt;
    return json::serialize(desired);
  }
  static const json::object empty;
  const json::object* old_metadata = &empty;
  if (old) {
    if (const auto* m = part(*old, "metadata"); m && m->is_object()) old_metadata = &m->get_object();
    const auto& metadata = desired.at("metadata").get_object();
    if (same_text(*old, desired, "kind") && same_text(*old, desired, "apiVersion") &&
        same_text(*old, desired, "spec") && same_text(*old_metadata, metadata, "labels") &&
        same_text(*old_metadata, metadata, "annotations") && same_text(*old_metadata, metadata, "name") &&
        same_text(*old_metadata, metadata, "namespace"))
      return std::nullopt;
  }
  json::object out = desired;
  auto& metadata = out.at("metadata").get_object();
  const auto* uid = old_metadata->if_contains("uid");
  const auto* time = old_metadata->if_contains("creationTimestamp");
  if (uid && uid->is_string() && time && time->is_string()) {
    metadata["uid"] = *uid;
    metadata["creationTimestamp"] = *time;
  } else {
    Stamp fresh = stamp();
    metadata["uid"] = fresh.uid;
    metadata["creationTimestamp"] = fresh.time;
  }
  return json::serialize(out);
}

json::object policy_rule(const Rule& rule) {
  json::object out{{"action", "Allow"}, {"ipVersion", rule.ipv6 ? 6 : 4}};
  json::object destination;
  auto number = rule.protocol ? protocol_number(*rule.protocol) : std::nullopt;
  bool digits =
      rule.protocol && !rule.protocol->empty() && rule.protocol->front() >= '0' && rule.protocol->front() <= '9';
  bool icmp = rule.protocol && (*rule.protocol == "icmp" || *rule.protocol == "ipv6-icmp");
  if (icmp) {
    out["protocol"] = *rule.protocol == "ipv6-icmp" || rule.ipv6 ? "ICMPv6" : "ICMP";
    json::object types;
    if (rule.port_min) types["type"] = *rule.port_min;
    if (rule.port_max) types["code"] = *rule.port_max;
    if (!types.empty()) out["icmp"] = std::move(types);
  } else {
    if (digits)
      out["protocol"] = *rule.protocol;
    else if (number)
      out["protocol"] = *number;
    if (rule.port_min && rule.port_max) {
      if (*rule.port_min == *rule.port_max)
        destination["ports"] = json::array{*rule.port_min};
      else
        destination["ports"] = json::array{fmt::format("{}:{}", *rule.port_min, *rule.port_max)};
    }
  }
  json::object remote;
  if (rule.remote_group)
    remote["selector"] = has_group(*rule.remote_group);
  else if (rule.remote_prefix)
    remote["nets"] = json::array{*rule.remote_prefix};
  if (rule.ingress) {
    if (!destination.empty()) out["destination"] = std::move(destination);
    if (!remote.empty()) out["source"] = std::move(remote);
  } else {
    for (auto& member : destination) remote[member.key()] = std::move(member.value());
    if (!remote.empty()) out["destination"] = std::move(remote);
  }
  return out;
}

bool Translator::wanted(const Port& port) {
  return !port.host.empty() && port.vif_type != "unbound" && !port.device.empty() &&
         (port.owner.starts_with("compute:") || port.owner.starts_with("kuryr:container"));
}

std::string Translator::migrating_to(const Port& port) {
  boost::system::error_code error;
  const auto profile = json::parse(port.profile, error);
  if (error || !profile.is_object()) return {};
  const auto* to = profile.get_object().if_contains("migrating_to");
  if (!to || !to->is_string()) return {};
  std::string host(to->get_string());
  return host == port.host ? std::string() : host;
}

std::string Translator::endpoint_key(const Port& port) const {
  return fmt::format("{}workloadendpoints/{}/{}", kResources, region_.space, endpoint_name(port));
}
std::string Translator::policy_key(std::string_view group) const {
  return fmt::format("{}networkpolicies/{}/ossg.default.{}", kResources, region_.space, group);
}
std::string Translator::subnet_key(std::string_view subnet) const {
  return fmt::format("/calico/dhcp/v2/{}/subnet/{}", region_.string, subnet);
}

Intent Translator::removal(std::string key) const {
  Intent i;
  i.key = std::move(key);
  return i;
}

Intent Translator::endpoint(const Port& port) const {
  json::object labels;
  for (const auto& id : port.groups) {
    const auto* group = state_.find<SecurityGroup>(id);
    auto name = group ? sanitise_label(group->name, kMaxSgName) : std::string();
    labels[fmt::format("{}{}", kSgLabel, id)] = name;
    if (!name.empty()) labels[fmt::format("{}{}", kSgNameLabel, name)] = id;
  }
  labels["projectcalico.org/namespace"] = region_.space;
  labels["projectcalico.org/orchestrator"] = "openstack";
  labels["projectcalico.org/openstack-project-id"] = port.project;
  if (auto it = projects_.find(port.project); it != projects_.end() && !it->second.name.empty()) {
    labels["projectcalico.org/openstack-project-name"] = sanitise_label(it->second.name, kMaxLabel);
    labels["projectcalico.org/openstack-project-parent-id"] = it->second.parent;
  }
  if (const auto* network = state_.find<Network>(port.network))
    labels["projectcalico.org/openstack-network-name"] = sanitise_label(network->name, kMaxLabel);

  json::object spec{{"orchestrator", "openstack"},
                    {"workload", port.device},
                    {"node", port.host},
                    {"endpoint", port.id},
                    {"interfaceName", "tap" + port.id.substr(0, 11)},
                    {"mac", port.mac.to_string()}};
  json::array nets;
  for (const auto& fixed : port.fixed_ips) {
    nets.emplace_back(Prefix::host(fixed.ip).to_string());
    const auto* subnet = state_.find<Subnet>(fixed.subnet);
    if (subnet && subnet->gateway)
      spec[fixed.ip.is_v4() ? "ipv4Gateway" : "ipv6Gateway"] = subnet->gateway->to_string();
  }
  json::array allowed;
  for (const auto& pair : port.pairs) {
    nets.emplace_back(pair.prefix.masked().to_string());
    allowed.emplace_back(pair.prefix.masked().to_string());
  }
  spec["ipNetworks"] = std::move(nets);
  spec["allowedIps"] = std::move(allowed);

  Intent i;
  i.key = endpoint_key(port);
  i.desired = resource("WorkloadEndpoint", endpoint_name(port), region_.space);
  auto& metadata = i.desired->at("metadata").get_object();
  metadata["annotations"] = json::object{{"openstack.projectcalico.org/network-id", port.network}};
  metadata["labels"] = std::move(labels);
  (*i.desired)["spec"] = std::move(spec);
  return i;
}

std::vector<Intent> Translator::endpoints(const Port& port) const {
  std::vector<Intent> out;
  if (const auto to = migrating_to(port); !to.empty()) {
    Port target = port;
    target.host = to;
    out.push_back(migration(port, target));  // before the endpoint, which without it is an ordinary one
    out.push_back(endpoint(target));
  }
  out.push_back(endpoint(port));
  return out;
}

/// Named as the endpoint of the target host.
Intent Translator::migration(const Port& port, const Port& target) const {
  const auto end = [&](const Port& p) {
    return json::object{{"workloadEndpoint", json::object{{"hostname", p.host},
                                                          {"orchestratorID", "openstack"},
                                                          {"workloadID", fmt::format("openstack/{}", p.device)},
                                                          {"endpointID", p.id}}}};
  };
  Intent i;
  i.key = fmt::format("{}livemigrations/{}/{}", kResources, region_.space, endpoint_name(target));
  i.desired = resource("LiveMigration", endpoint_name(target), region_.space);
  (*i.desired)["spec"] = json::object{{"source", end(port)}, {"target", end(target)}};
  return i;
}

Intent Translator::policy(std::string_view group) const {
  json::array ingress;
  json::array egress;
  for (const Rule* rule : state_.rules_in_order(group))
    (rule->ingress ? ingress : egress).push_back(policy_rule(*rule));
  Intent i;
  i.key = policy_key(group);
  i.desired = resource("NetworkPolicy", fmt::format("ossg.default.{}", group), region_.space);
  (*i.desired)["spec"] =
      json::object{{"ingress", std::move(ingress)}, {"egress", std::move(egress)}, {"selector", has_group(group)}};
  return i;
}

Intent Translator::subnet(const Subnet& subnet) const {
  Intent i;
  i.key = subnet_key(subnet.id);
  i.resource = false;
  if (!subnet.dhcp) return i;
  json::array routes;
  for (const auto& r : subnet.host_routes)
    routes.push_back(json::object{{"destination", r.destination}, {"nexthop", r.nexthop}});
  json::object value{{"network_id", subnet.network},
                     {"cidr", subnet.cidr.to_string()},
                     {"host_routes", std::move(routes)},
                     {"gateway_ip", nullptr}};
  if (subnet.gateway) value["gateway_ip"] = subnet.gateway->to_string();
  if (!subnet.dns.empty()) {
    json::array dns;
    for (const auto& server : subnet.dns) dns.emplace_back(server);
    value["dns_servers"] = std::move(dns);
  }
  if (!subnet.ra_mode.empty() && !subnet.address_mode.empty()) {
    value["ipv6_ra_mode"] = subnet.ra_mode;
    value["ipv6_address_mode"] = subnet.address_mode;
  }
  i.desired = std::move(value);
  return i;
}

std::vector<Intent> Translator::of(const std::vector<Touched>& touched) const {
  std::vector<Intent> removals;
  std::vector<Intent> subnets;
  std::vector<Intent> policies;
  std::vector<Intent> endpoints;
  std::set<std::string> policies_done;
  std::set<std::string> keys_written;
  std::set<std::string> fresh_groups;
  for (const auto& t : touched) {
    if (t.kind == Kind::group && !t.before) fresh_groups.insert(t.id);
  }
  auto need_policy = [&](const std::string& group) {
    if (state_.find<SecurityGroup>(group) && policies_done.insert(group).second) policies.push_back(policy(group));
  };
  for (const auto& t : touched) {
    switch (t.kind) {
      case Kind::network:
        break;  // a new name reaches the endpoints when they are written next
      case Kind::subnet:
        if (const auto* s = state_.find<Subnet>(t.id))
          subnets.push_back(subnet(*s));
        else
          removals.push_back(removal(subnet_key(t.id)));
        break;
      case Kind::port: {
        const auto* port = state_.find<Port>(t.id);
        if (port && wanted(*port)) {
          for (const auto& group : port->groups) need_policy(group);
          for (auto& intent : this->endpoints(*port)) {
            keys_written.insert(intent.key);
            endpoints.push_back(std::move(intent));
          }
        }
        if (t.before) {
          const auto& before = std::get<Port>(*t.before);
          if (wanted(before))
            for (const auto& intent : this->endpoints(before))
              if (!keys_written.contains(intent.key)) removals.push_back(removal(intent.key));
        }
        break;
      }
      case Kind::group:
        if (t.before && !state_.find<SecurityGroup>(t.id)) removals.push_back(removal(policy_key(t.id)));
        break;
      case Kind::rule: {
        // A new group reaches the datastore with its first own rule or its first port, not with its default rules.
        const auto* rule = state_.find<Rule>(t.id);
        const auto& group = rule ? rule->group : std::get<Rule>(*t.before).group;
        if (!fresh_groups.contains(group)) need_policy(group);
        break;
      }
    }
  }
  std::vector<Intent> all = std::move(removals);
  for (auto* list : {&subnets, &policies, &endpoints}) std::move(list->begin(), list->end(), std::back_inserter(all));
  return all;
}

std::vector<Intent> Translator::all() const {
  std::vector<Intent> out;
  for (const auto& [id, s] : state_.all<Subnet>()) out.push_back(subnet(s));
  for (const auto& [id, g] : state_.all<SecurityGroup>()) out.push_back(policy(id));
  for (const auto& [id, p] : state_.all<Port>()) {
    if (!wanted(p)) continue;
    for (auto& intent : endpoints(p)) out.push_back(std::move(intent));
  }
  return out;
}

std::vector<Intent> Translator::defaults(std::string_view guid) {
  Intent cluster;
  cluster.key = fmt::format("{}clusterinformations/default", kResources);
  cluster.once = true;
  cluster.desired = resource("ClusterInformation", "default", "");
  (*cluster.desired)["spec"] =
      json::object{{"clusterGUID", guid}, {"clusterType", "openstack"}, {"datastoreReady", true}};
  Intent felix;
  felix.key = fmt::format("{}felixconfigurations/default", kResources);
  felix.once = true;
  felix.desired = resource("FelixConfiguration", "default", "");
  (*felix.desired)["spec"] = json::object{{"endpointReportingEnabled", true}, {"interfacePrefix", "tap"}};
  std::vector<Intent> out;
  out.push_back(std::move(cluster));
  out.push_back(std::move(felix));
  return out;
}

}  // namespace calico::controller
