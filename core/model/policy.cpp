// NetworkPolicy and GlobalNetworkPolicy between JSON and structs.
#include <algorithm>
#include <cmath>

#include "core/model/keys.hpp"
#include "core/model/readers.hpp"
#include "core/model/resources.hpp"

namespace calico::model {
namespace {

using detail::number_of;
using detail::Object;
namespace json = boost::json;

constexpr std::size_t kMaxRules = 1024;
constexpr std::size_t kMaxNets = 1024;
constexpr std::size_t kMaxPorts = 256;
constexpr std::size_t kMaxPortName = 63;
constexpr std::size_t kMaxSetNets = 65536;

struct ProtocolName {
  std::string_view name;
  std::uint8_t number;
};
constexpr ProtocolName kProtocols[] = {
    {"icmp", 1},       {"igmp", 2},        {"ipip", 4},        {"tcp", 6},         {"egp", 8},
    {"udp", 17},       {"dccp", 33},       {"ipv6-encap", 41}, {"ipv6-route", 43}, {"ipv6-frag", 44},
    {"rsvp", 46},      {"gre", 47},        {"esp", 50},        {"ah", 51},         {"icmpv6", 58},
    {"ipv6-icmp", 58}, {"ipv6-nonxt", 59}, {"ipv6-opts", 60},  {"ospf", 89},       {"vrrp", 112},
    {"pgm", 113},      {"sctp", 132},      {"udplite", 136},   {"ip", 0},          {"hopopt", 0},
};

std::string lower(std::string_view s) {
  std::string out(s);
  for (auto& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

/// 0 means any, which is no protocol at all.
std::optional<std::uint8_t> read_protocol(const Object& o, std::string_view key) {
  const auto* v = o.find(key);
  if (!v) return {};
  std::optional<std::uint8_t> p;
  if (v->is_number()) {
    if (const auto n = o.integer(key, 0, 255)) p = static_cast<std::uint8_t>(*n);
  } else {
    const auto r = parse_protocol(o.text(key));
    if (!r) return o.bad(o.at(key), r.error().what), std::nullopt;
    p = *r;
  }
  return p && *p != 0 ? p : std::nullopt;
}

std::optional<Icmp> read_icmp(const Object& rule, std::string_view key) {
  if (!rule.has(key)) return {};
  const auto o = rule.object(key);
  const auto type = o.integer("type", 0, 255);
  const auto code = o.integer("code", 0, 255);
  if (!type) {
    if (code) o.bad(o.at("code"), "code needs a type");
    return {};
  }
  return Icmp{static_cast<std::uint8_t>(*type), code ? std::optional(static_cast<std::uint8_t>(*code)) : std::nullopt};
}

/// Letters, digits, "-", "_" and ".", at least one letter first.
bool is_port_name(std::string_view s) {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  return !s.empty() && s.size() <= kMaxPortName && letter(s[0]) && std::all_of(s.begin(), s.end(), [&](char c) {
    return letter(c) || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
  });
}

/// Numbers and ranges; names go to `named`.
std::vector<PortRange> read_ports(const Object& side, std::string_view key, std::vector<std::string>& named) {
  std::vector<PortRange> out;
  side.each(key, [&](const json::value& v, const std::string& path) {
    const std::string text =
        v.is_string() ? std::string(v.as_string().data(), v.as_string().size()) : json::serialize(v);
    const auto colon = text.find(':');
    const auto first = number_of<std::uint16_t>(std::string_view(text).substr(0, colon));
    const auto last =
        colon == std::string::npos ? first : number_of<std::uint16_t>(std::string_view(text).substr(colon + 1));
    if (!first || !last) {
      if (v.is_string() && is_port_name(text)) return named.push_back(text);
      return side.bad(path, fmt::format("{}: need a port, first:last or a port's name", quoted(text)));
    }
    if (*first > *last) return side.bad(path, fmt::format("{}: first is above last", quoted(text)));
    out.push_back({*first, *last});
  });
  if (out.size() + named.size() > kMaxPorts) side.bad(side.at(key), fmt::format("more than {} entries", kMaxPorts));
  return out;
}

std::vector<Prefix> read_nets(const Object& side, std::string_view key) {
  std::vector<Prefix> out;
  for (const auto& text : side.texts(key)) {
    auto p = parse_network(text);
    if (!p) {
      side.bad(side.at(key), p.error().what);
      break;
    }
    out.push_back(*p);
  }
  if (out.size() > kMaxNets) side.bad(side.at(key), fmt::format("more than {} entries", kMaxNets));
  return out;
}

std::optional<std::string> read_selector(const Object& o, std::string_view key, std::string_view prefix = {}) {
  auto text = o.maybe_text(key);
  if (!text || text->empty()) return {};
  if (auto s = Selector::parse(*text, prefix); !s) o.bad(o.at(key), s.error().what);
  return text;
}

EntityRule read_side(const Object& rule, std::string_view key) {
  const auto o = rule.object(key);
  for (const auto* name : {"services", "serviceAccounts"})
    if (o.has(name)) o.bad(o.at(name), "not supported");
  EntityRule e;
  e.nets = read_nets(o, "nets");
  e.not_nets = read_nets(o, "notNets");
  e.selector = read_selector(o, "selector");
  e.not_selector = read_selector(o, "notSelector");
  e.namespace_selector = read_selector(o, "namespaceSelector", "pcns.");
  e.ports = read_ports(o, "ports", e.named_ports);
  e.not_ports = read_ports(o, "notPorts", e.not_named_ports);
  return e;
}

Rule read_rule(const Object& o) {
  Rule r;
  const auto action = lower(o.text("action"));
  if (action == "allow")
    r.action = Action::allow;
  else if (action == "deny")
    r.action = Action::deny;
  else if (action == "log")
    r.action = Action::log;
  else if (action == "pass" || action == "next-tier")
    r.action = Action::pass;
  else
    o.bad(o.at("action"), fmt::format("{}: need Allow, Deny, Log or Pass", quoted(action)));
  if (const auto v = o.integer("ipVersion", 4, 6)) {
    if (*v == 5) o.bad(o.at("ipVersion"), "need 4 or 6");
    r.ip_version = *v == 4 ? Family::v4 : Family::v6;
  }
  if (o.has("http")) o.bad(o.at("http"), "not supported");
  r.protocol = read_protocol(o, "protocol");
  if (const auto* v = o.find("protocol"); v && v->is_string() && r.protocol != 1 && r.protocol != 58)
    r.protocol_text = o.text("protocol");
  r.not_protocol = read_protocol(o, "notProtocol");
  r.icmp = read_icmp(o, "icmp");
  r.not_icmp = read_icmp(o, "notICMP");
  r.source = read_side(o, "source");
  r.destination = read_side(o, "destination");
  const bool ported = r.protocol == 6 || r.protocol == 17 || r.protocol == 33 || r.protocol == 132 || r.protocol == 136;
  for (const auto* side : {&r.source, &r.destination})
    if ((!side->ports.empty() || !side->not_ports.empty() || !side->named_ports.empty() ||
         !side->not_named_ports.empty()) &&
        !ported)
      o.bad(o.path(), "ports need protocol TCP, UDP, DCCP, SCTP or UDPLite");
  if ((r.icmp || r.not_icmp) && r.protocol != 1 && r.protocol != 58)
    o.bad(o.path(), "icmp needs protocol ICMP or ICMPv6");
  return r;
}

std::vector<Rule> read_rules(const Object& spec, std::string_view key) {
  std::vector<Rule> out;
  spec.each_object(key, [&](const Object& o) {
    if (out.size() < kMaxRules && spec.ok())
      out.push_back(read_rule(o));
    else
      o.bad(spec.at(key), fmt::format("more than {} rules", kMaxRules));
  });
  return out;
}

json::array write_ports(const std::vector<PortRange>& ports, const std::vector<std::string>& named) {
  json::array a;
  for (const auto& p : ports) {
    if (p.first == p.last)
      a.emplace_back(p.first);
    else
      a.emplace_back(fmt::format("{}:{}", p.first, p.last));
  }
  for (const auto& name : named) a.emplace_back(name);
  return a;
}

json::object write_side(const EntityRule& e) {
  json::object o;
  const auto nets = [](const std::vector<Prefix>& v) {
    json::array a;
    for (const auto& p : v) a.emplace_back(p.to_string());
    return a;
  };
  if (!e.nets.empty()) o["nets"] = nets(e.nets);
  if (!e.not_nets.empty()) o["notNets"] = nets(e.not_nets);
  if (e.selector) o["selector"] = *e.selector;
  if (e.not_selector) o["notSelector"] = *e.not_selector;
  if (e.namespace_selector) o["namespaceSelector"] = *e.namespace_selector;
  if (!e.ports.empty() || !e.named_ports.empty()) o["ports"] = write_ports(e.ports, e.named_ports);
  if (!e.not_ports.empty() || !e.not_named_ports.empty()) o["notPorts"] = write_ports(e.not_ports, e.not_named_ports);
  return o;
}

json::value write_protocol(std::uint8_t p) {
  if (p == 1) return "ICMP";
  if (p == 58) return "ICMPv6";
  return p;
}

json::array write_rules(const std::vector<Rule>& rules) {
  json::array a;
  for (const auto& r : rules) {
    json::object o;
    o["action"] = json::string_view(to_string(r.action).data(), to_string(r.action).size());
    if (r.ip_version) o["ipVersion"] = *r.ip_version == Family::v4 ? 4 : 6;
    if (!r.protocol_text.empty())
      o["protocol"] = r.protocol_text;
    else if (r.protocol)
      o["protocol"] = write_protocol(*r.protocol);
    if (r.not_protocol) o["notProtocol"] = write_protocol(*r.not_protocol);
    const auto icmp = [](const Icmp& i) {
      json::object v{{"type", i.type}};
      if (i.code) v["code"] = *i.code;
      return v;
    };
    if (r.icmp) o["icmp"] = icmp(*r.icmp);
    if (r.not_icmp) o["notICMP"] = icmp(*r.not_icmp);
    if (auto d = write_side(r.destination); !d.empty()) o["destination"] = std::move(d);
    if (auto s = write_side(r.source); !s.empty()) o["source"] = std::move(s);
    a.push_back(std::move(o));
  }
  return a;
}

}  // namespace

std::string_view to_string(Action a) {
  switch (a) {
    case Action::allow:
      return "Allow";
    case Action::deny:
      return "Deny";
    case Action::log:
      return "Log";
    case Action::pass:
      return "Pass";
  }
  return "?";
}

Result<std::uint8_t> parse_protocol(std::string_view text) {
  if (const auto n = number_of<unsigned>(text)) {
    if (*n > 255) return fail(Errc::invalid, "protocol {}: need 0 to 255", quoted(text));
    return static_cast<std::uint8_t>(*n);
  }
  const auto name = lower(text);
  for (const auto& p : kProtocols)
    if (p.name == name) return p.number;
  return fail(Errc::unsupported, "protocol {} is not known by name; use its number", quoted(text));
}

Result<NetworkPolicy> parse_network_policy(std::string_view text, bool global) {
  auto v = detail::parse_object(text);
  if (!v) return tl::unexpected(v.error());
  NetworkPolicy p;
  p.global = global;

  std::string error;
  const Object root(&v->as_object(), "", error);
  const auto m = root.object("metadata");
  p.meta.name = m.text("name");
  p.meta.ns = m.text("namespace");
  p.meta.uid = m.text("uid");
  p.meta.creation_timestamp = m.text("creationTimestamp");
  const auto spec = root.object("spec");
  p.selector = spec.text("selector");
  if (global) p.namespace_selector = read_selector(spec, "namespaceSelector", "pcns.");
  if (auto s = Selector::parse(p.selector); !s) spec.bad("spec.selector", s.error().what);
  if (!error.empty()) return fail(Errc::invalid, "{}", error);

  // From here on the endpoints are known; what is wrong is theirs alone.
  const auto tier = spec.text("tier");
  if (!tier.empty()) p.tier = tier;
  p.order = spec.number("order");
  const auto types = spec.texts("types");
  if (!types.empty()) {
    p.ingress_type = p.egress_type = false;
    for (const auto& t : types) {
      if (lower(t) == "ingress")
        p.ingress_type = true;
      else if (lower(t) == "egress")
        p.egress_type = true;
      else
        spec.bad("spec.types", fmt::format("{}: need Ingress or Egress", quoted(t)));
    }
  }
  p.do_not_track = spec.boolean("doNotTrack").value_or(false);
  p.pre_dnat = spec.boolean("preDNAT").value_or(false);
  p.apply_on_forward = spec.boolean("applyOnForward").value_or(false);
  if (p.do_not_track && p.pre_dnat) spec.bad("spec", "doNotTrack and preDNAT exclude each other");
  if ((p.do_not_track || p.pre_dnat) && !p.apply_on_forward)
    spec.bad("spec.applyOnForward", "must be true with doNotTrack and preDNAT: they come before it is known where to");
  if (p.pre_dnat && types.empty()) p.egress_type = false;
  if (!spec.text("serviceAccountSelector").empty()) spec.bad("spec.serviceAccountSelector", "not supported");
  p.ingress = read_rules(spec, "ingress");
  p.egress = read_rules(spec, "egress");
  if (p.pre_dnat && (p.egress_type || !p.egress.empty()))
    spec.bad("spec.preDNAT", "is for incoming traffic: types [Ingress] and no egress rules");
  if (!error.empty()) {
    p.fault = std::move(error);
    p.ingress.clear();
    p.egress.clear();
  }
  return p;
}

std::string to_json(const NetworkPolicy& p) {
  json::object s;
  if (p.tier != "default") s["tier"] = p.tier;
  if (p.order) s["order"] = *p.order;
  s["ingress"] = write_rules(p.ingress);
  s["egress"] = write_rules(p.egress);
  s["selector"] = p.selector;
  if (p.namespace_selector) s["namespaceSelector"] = *p.namespace_selector;
  if (!p.ingress_type || !p.egress_type) {
    json::array types;
    if (p.ingress_type) types.emplace_back("Ingress");
    if (p.egress_type) types.emplace_back("Egress");
    s["types"] = std::move(types);
  }
  if (p.do_not_track) s["doNotTrack"] = true;
  if (p.pre_dnat) s["preDNAT"] = true;
  if (p.apply_on_forward) s["applyOnForward"] = true;
  json::object m;
  m["name"] = p.meta.name;
  if (!p.meta.ns.empty()) m["namespace"] = p.meta.ns;
  if (!p.meta.creation_timestamp.empty()) m["creationTimestamp"] = p.meta.creation_timestamp;
  if (!p.meta.uid.empty()) m["uid"] = p.meta.uid;
  json::object o;
  o["kind"] = p.global ? "GlobalNetworkPolicy" : "NetworkPolicy";
  o["apiVersion"] = "projectcalico.org/v3";
  o["metadata"] = std::move(m);
  o["spec"] = std::move(s);
  return json::serialize(o);
}

namespace {

std::string document(std::string_view kind, const std::string& ns, const std::string& name, const Labels& labels,
                     json::object spec) {
  json::object m{{"name", name}};
  if (!ns.empty()) m["namespace"] = ns;
  if (!labels.empty()) m["labels"] = json::value_from(labels);
  json::object o;
  o["kind"] = json::string_view(kind.data(), kind.size());
  o["apiVersion"] = "projectcalico.org/v3";
  o["metadata"] = std::move(m);
  o["spec"] = std::move(spec);
  return json::serialize(o);
}

Labels read_labels(const Object& owner, std::string_view key) {
  Labels out;
  const auto o = owner.object(key);
  o.each_member([&](std::string_view name, const json::value&) { out[std::string(name)] = o.text(name); });
  return out;
}

}  // namespace

Result<Tier> parse_tier(std::string_view text) {
  return detail::read_document<Tier>(text, [](const Object& root, Tier& t) {
    const auto spec = root.object("spec");
    t.order = spec.number("order");
    const auto action = lower(spec.text("defaultAction"));
    t.pass_at_the_end = action == "pass";
    if (!action.empty() && action != "pass" && action != "deny")
      spec.bad("spec.defaultAction", fmt::format("{}: need Deny or Pass", quoted(action)));
  });
}

std::string to_json(const std::string& name, const Tier& tier) {
  json::object spec;
  if (tier.order) spec["order"] = *tier.order;
  spec["defaultAction"] = tier.pass_at_the_end ? "Pass" : "Deny";
  return document("Tier", "", name, {}, std::move(spec));
}

Result<Profile> parse_profile(std::string_view text) {
  return detail::read_document<Profile>(text, [](const Object& root, Profile& p) {
    const auto spec = root.object("spec");
    p.labels_to_apply = read_labels(spec, "labelsToApply");
    p.ingress = read_rules(spec, "ingress");
    p.egress = read_rules(spec, "egress");
  });
}

std::string to_json(const std::string& name, const Profile& profile) {
  json::object spec;
  if (!profile.labels_to_apply.empty()) spec["labelsToApply"] = json::value_from(profile.labels_to_apply);
  spec["ingress"] = write_rules(profile.ingress);
  spec["egress"] = write_rules(profile.egress);
  return document("Profile", "", name, {}, std::move(spec));
}

Result<NetworkSet> parse_network_set(std::string_view text) {
  return detail::read_document<NetworkSet>(text, [](const Object& root, NetworkSet& s) {
    s.labels = read_labels(root.object("metadata"), "labels");
    root.object("spec").each("nets", [&](const json::value& v, const std::string& path) {
      if (!v.is_string()) return root.bad(path, "need a network");
      if (auto net = detail::read_value(root, path, std::string_view(v.as_string()), parse_network))
        s.nets.push_back(net->masked());
    });
    if (s.nets.size() > kMaxSetNets) root.bad("spec.nets", fmt::format("more than {} entries", kMaxSetNets));
  });
}

std::string to_json(const std::string& ns, const std::string& name, const NetworkSet& set) {
  json::array nets;
  for (const auto& n : set.nets) nets.emplace_back(n.to_string());
  json::object spec;
  spec["nets"] = std::move(nets);
  return document(ns.empty() ? "GlobalNetworkSet" : "NetworkSet", ns, name, set.labels, std::move(spec));
}

}  // namespace calico::model
