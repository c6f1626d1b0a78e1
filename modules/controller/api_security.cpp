// Security groups and their rules of the API.
#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>

#include "modules/controller/api.hpp"
#include "modules/controller/protocols.hpp"

namespace calico::controller {

namespace {

constexpr std::size_t kMaxName = 255;

/// Neutron's stored spelling, or the refusal. `v6`: legacy names of ICMPv6 become one.
Reply<std::optional<std::string>> read_protocol(const json::value* v, bool v6) {
  if (!v || v->is_null()) return std::nullopt;
  std::string text;
  if (v->is_int64()) {
    text = std::to_string(v->get_int64());
  } else if (v->is_string()) {
    text = std::string(v->get_string());
    for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  if (!protocol_number(text))
    return refuse(
        400, "SecurityGroupRuleInvalidProtocol",
        "Security group rule protocol {} not supported. Only the protocols' names and integer representations "
        "[0 to 255] are supported.",
        shown(*v));
  // Digits are kept as digits, without leading zeros.
  if (text.front() >= '0' && text.front() <= '9') text = std::to_string(*protocol_number(text));
  if (text == "icmpv6" || (v6 && text == "icmp")) text = "ipv6-icmp";
  return text;
}

Reply<void> check_ports(Rule& r) {
  auto number = r.protocol ? protocol_number(*r.protocol) : std::nullopt;
  if (!r.port_min && !r.port_max) return {};
  if (!number)
    return refuse(400, "SecurityGroupProtocolRequiredWithPorts", "Must also specify protocol if port range is given.");
  if (*number == 1 || *number == 58) {
    for (auto [attribute, field, value] :
         {std::tuple{"port_range_min", "type", r.port_min}, std::tuple{"port_range_max", "code", r.port_max}}) {
      if (value && (*value < 0 || *value > 255))
        return refuse(400, "SecurityGroupInvalidIcmpValue", "Invalid value for ICMP {} ({}) {}. It must be 0 to 255.",
                      field, attribute, *value);
    }
    if (!r.port_min)
      return refuse(400, "SecurityGroupMissingIcmpType",
                    "ICMP code (port-range-max) {} is provided but ICMP type (port-range-min) is missing.",
                    *r.port_max);
    return {};
  }
  if (!has_ports(*number))
    return refuse(400, "SecurityGroupInvalidProtocolForPort",
                  "Protocol {} does not support ports; tcp, udp, dccp, sctp and udplite do.", *r.protocol);
  if (!r.port_min || !r.port_max || *r.port_min > *r.port_max)
    return refuse(400, "SecurityGroupInvalidPortRange",
                  "For TCP/UDP protocols, port_range_min must be <= port_range_max and both must be given.");
  for (int port : {*r.port_min, *r.port_max}) {
    if (port < 1 || port > 65535)
      return refuse(400, "SecurityGroupInvalidPortValue", "Invalid value for port {}.", port);
  }
  if (*r.port_min == 1 && *r.port_max == 65535 && (*number == 6 || *number == 17)) {
    r.port_min.reset();  // as Neutron keeps it
    r.port_max.reset();
  }
  return {};
}

bool same_rule(const Rule& a, const Rule& b) {
  auto number = [](const Rule& r) { return r.protocol ? protocol_number(*r.protocol).value_or(-1) : -1; };
  auto prefix = [](const Rule& r) -> std::optional<Prefix> {
    if (!r.remote_prefix) return std::nullopt;
    auto p = parse_cidr(*r.remote_prefix, true).value_or(Prefix{}).masked();
    if (p.len == 0) return std::nullopt;  // everywhere, however it is written
    return p;
  };
  return a.ingress == b.ingress && a.ipv6 == b.ipv6 && number(a) == number(b) && a.port_min == b.port_min &&
         a.port_max == b.port_max && prefix(a) == prefix(b) && a.remote_group == b.remote_group;
}

}  // namespace

void Api::add_rule(Change& change, const SecurityGroup& group, bool ingress, bool ipv6, bool from_itself) {
  Rule r;
  r.id = generate_.uuid();
  r.project = group.project;
  r.group = group.id;
  r.ingress = ingress;
  r.ipv6 = ipv6;
  if (from_itself) r.remote_group = group.id;
  r.order = state_.next_rule_order();
  stamp_new(r);
  change.put(std::move(r));
}

const SecurityGroup& Api::default_group(Change& change, const std::string& project) {
  if (const auto* g = state_.default_group(project)) return *g;
  SecurityGroup g;
  g.id = generate_.uuid();
  g.project = project;
  g.name = "default";
  g.description = "Default security group";
  stamp_new(g);
  change.put(g);
  for (bool ipv6 : {false, true}) {
    add_rule(change, g, false, ipv6, false);
    add_rule(change, g, true, ipv6, true);
  }
  return *state_.find<SecurityGroup>(g.id);
}

Reply<std::string> Api::create(Change& change, const json::object& body, const Caller& caller, const SecurityGroup*) {
  Body in(body, Body::Verb::post, "security_group", caller);
  SecurityGroup g;
  g.project = in.project().value_or("");
  g.name = in.text("name", kMaxName).value_or("");
  g.description = in.text("description", kMaxName).value_or("");
  if (auto v = in.boolean("stateful"); v && !*v)
    in.invalid("stateful", "stateless security groups are not provided by this controller");
  in.read_only({"id", "created_at", "updated_at", "revision_number", "security_group_rules", "shared"});
  in.not_provided({"tags"});
  if (auto fault = in.finish()) return tl::unexpected(*fault);
  if (g.name == "default")
    return refuse(409, "SecurityGroupDefaultAlreadyExists", "Default security group already exists.");
  default_group(change, g.project);
  g.id = generate_.uuid();
  stamp_new(g);
  std::string id = g.id;
  change.put(g);
  add_rule(change, g, false, false, false);
  add_rule(change, g, false, true, false);
  return id;
}

Reply<void> Api::update(Change& change, const SecurityGroup& old, const json::object& body, const Caller& caller) {
  Body in(body, Body::Verb::put, "security_group", caller);
  SecurityGroup g = old;
  in.project();
  if (auto v = in.text("name", kMaxName)) g.name = *v;
  if (auto v = in.text("description", kMaxName)) g.description = *v;
  if (auto v = in.boolean("stateful"); v && !*v)
    in.invalid("stateful", "stateless security groups are not provided by this controller");
  in.read_only({"id", "created_at", "updated_at", "revision_number", "security_group_rules", "shared"});
  in.not_provided({"tags"});
  if (auto fault = in.finish()) return tl::unexpected(*fault);
  if (old.name == "default" && g.name != "default")
    return refuse(409, "SecurityGroupCannotUpdateDefault", "Updating default security group not allowed.");
  if (old.name != "default" && g.name == "default")
    return refuse(409, "SecurityGroupDefaultAlreadyExists", "Default security group already exists.");
  put_updated(change, old, std::move(g));
  return {};
}

Reply<void> Api::remove(Change& change, const SecurityGroup& old, const Caller& caller) {
  if (old.name == "default" && !caller.admin)
    return refuse(409, "SecurityGroupCannotRemoveDefault", "Insufficient rights for removing default security group.");
  if (!state_.ports_of_group(old.id).empty())
    return refuse(409, "SecurityGroupInUse", "Security Group {} in use.", old.id);
  // Rules of other groups that name this one mean nothing without it, and go as well.
  IdSet rules = state_.rules_of(old.id);
  const auto& remote = state_.rules_with_remote(old.id);
  rules.insert(remote.begin(), remote.end());
  for (const auto& r : rules) change.erase<Rule>(r);
  change.erase<SecurityGroup>(old.id);
  return {};
}

Reply<std::string> Api::create(Change& change, const json::object& body, const Caller& caller, const Rule*) {
  Body in(body, Body::Verb::post, "security_group_rule", caller);
  in.required({"security_group_id", "direction"});
  Rule r;
  auto project = in.project();
  r.group = in.uuid("security_group_id").value_or("");
  r.ingress = in.one_of("direction", {"ingress", "egress"}).value_or("ingress") == "ingress";
  auto ethertype = in.text("ethertype", 16).value_or("IPv4");
  r.ipv6 = ethertype == "IPv6" || ethertype == "ipv6";
  if (!r.ipv6 && ethertype != "IPv4" && ethertype != "ipv4")
    in.fail({400, "SecurityGroupRuleInvalidEtherType",
             fmt::format("Security group rule for ethertype '{}' not supported. Allowed values are IPv4 and IPv6.",
                         ethertype)});
  auto protocol = read_protocol(in.any("protocol"), r.ipv6);
  if (protocol)
    r.protocol = *protocol;
  else
    in.fail(protocol.error());
  // Wider than 16 bits, so that check_ports() answers in its own words.
  if (auto v = in.integer("port_range_min", -1, 1 << 20); v && *v != -1) r.port_min = static_cast<int>(*v);
  if (auto v = in.integer("port_range_max", -1, 1 << 20); v && *v != -1) r.port_max = static_cast<int>(*v);
  r.remote_group = in.uuid("remote_group_id");
  r.remote_prefix = in.text("remote_ip_prefix", 64);
  r.description = in.text("description", kMaxName).value_or("");
  in.read_only({"id", "created_at", "updated_at", "revision_number", "normalized_cidr"});
  in.not_provided({"remote_address_group_id", "tags"});
  if (auto fault = in.finish()) return tl::unexpected(*fault);

  const auto* group = state_.find<SecurityGroup>(r.group);
  auto view = view_of(caller);
  if (!group || !visible(*group, view))
    return refuse(404, "SecurityGroupNotFound", "Security group {} does not exist.", r.group);
  r.project = caller.admin && !in.present("project_id") && !in.present("tenant_id") ? group->project
                                                                                    : project.value_or(group->project);
  if (r.remote_group && r.remote_prefix)
    return refuse(400, "SecurityGroupRemoteGroupAndRemoteIpPrefix",
                  "Only remote_ip_prefix or remote_group_id may be provided.");
  if (r.remote_group) {
    const auto* remote = state_.find<SecurityGroup>(*r.remote_group);
    if (!remote || !visible(*remote, view))
      return refuse(404, "SecurityGroupNotFound", "Security group {} does not exist.", *r.remote_group);
  }
  if (r.remote_prefix) {
    auto prefix = parse_cidr(*r.remote_prefix, true);
    if (!prefix)
      return refuse(400, "HTTPBadRequest",
                    "Invalid input for remote_ip_prefix. Reason: '{}' is not a valid IP address or subnet.",
                    r.remote_prefix->substr(0, 64));
    if (prefix->addr.is_v6() != r.ipv6)
      return refuse(400, "SecurityGroupRuleParameterConflict", "Conflicting value ethertype {} for CIDR {}.",
                    r.ipv6 ? "IPv6" : "IPv4", *r.remote_prefix);
    r.remote_prefix = prefix->to_string();
  }
  if (r.protocol && !r.ipv6 && is_ipv6_only(*protocol_number(*r.protocol)))
    return refuse(400, "SecurityGroupEthertypeConflictWithProtocol", "Invalid ethertype IPv4 for protocol {}.",
                  *r.protocol);
  if (auto ports = check_ports(r); !ports) return tl::unexpected(ports.error());
  if (state_.rules_of(r.group).size() >= kMaxRulesOfGroup)
    return refuse(409, "OverQuota", "Quota exceeded: a security group takes {} rules.", kMaxRulesOfGroup);
  for (const auto& id : state_.rules_of(r.group)) {
    if (same_rule(r, *state_.find<Rule>(id)))
      return refuse(409, "SecurityGroupRuleExists", "Security group rule already exists. Rule id is {}.", id);
  }
  r.id = generate_.uuid();
  r.order = state_.next_rule_order();
  stamp_new(r);
  std::string id = r.id;
  change.put(std::move(r));
  return id;
}

Reply<void> Api::update(Change& change, const Rule& old, const json::object& body, const Caller& caller) {
  Body in(body, Body::Verb::put, "security_group_rule", caller);
  Rule r = old;
  in.project();
  if (auto v = in.text("description", kMaxName)) r.description = *v;
  in.read_only({"id", "created_at", "updated_at", "revision_number", "normalized_cidr", "security_group_id",
                "direction", "ethertype", "protocol", "port_range_min", "port_range_max", "remote_group_id",
                "remote_ip_prefix", "remote_address_group_id"});
  if (auto fault = in.finish()) return tl::unexpected(*fault);
  put_updated(change, old, std::move(r));
  return {};
}

Reply<void> Api::remove(Change& change, const Rule& old, const Caller&) {
  change.erase<Rule>(old.id);
  return {};
}

}  // namespace calico::controller
