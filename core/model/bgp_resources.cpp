#include "core/model/bgp_resources.hpp"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <initializer_list>
#include <map>

#include "core/model/readers.hpp"

namespace calico::model {
namespace {

using detail::number_of;
using detail::Object;
using detail::read_with;
namespace json = boost::json;
using std::chrono::seconds;

constexpr std::size_t kMaxRules = 10000, kMaxFilters = 64, kMaxValues = 256;

/// f(spec, out); of the metadata what changes no session when it changes is left out.
template <class T, class F>
Result<T> read_resource(std::string_view text, F&& f) {
  return detail::read_document<T>(text, [&](const Object& root, T& out) {
    const auto meta = root.object("metadata");
    out.meta.name = meta.text("name");
    out.meta.uid = meta.text("uid");
    out.meta.creation_timestamp = meta.text("creationTimestamp");
    f(root.object("spec"), out);
  });
}

void only(const Object& o, std::initializer_list<std::string_view> known) {
  o.each_member([&](std::string_view key, const json::value& v) {
    if (v.is_null() || std::find(known.begin(), known.end(), key) != known.end()) return;
    o.bad(o.at(quoted(key)), "not supported; the resource is not used");
  });
}

/// 1 to 4294967295, as number, "64512" or "1.10".
std::optional<Asn> as_of(const json::value& v) {
  std::uint64_t n = 0;
  if (v.is_int64() && v.as_int64() > 0) n = static_cast<std::uint64_t>(v.as_int64());
  if (v.is_uint64()) n = v.as_uint64();
  if (v.is_string())
    if (const auto as = detail::as_number_of({v.as_string().data(), v.as_string().size()})) n = as->value;
  if (n == 0 || n > UINT32_MAX) return {};
  return Asn{static_cast<std::uint32_t>(n)};
}

std::optional<Asn> read_as(const Object& o, std::string_view key) {
  const auto* v = o.find(key);
  if (!v) return {};
  const auto as = as_of(*v);
  if (!as) o.bad(o.at(key), "need an AS number from 1 to 4294967295");
  return as;
}

std::vector<Asn> read_ases(const Object& o, std::string_view key) {
  std::vector<Asn> out;
  o.each(key, [&](const json::value& v, const std::string& path) {
    const auto as = as_of(v);
    if (!as || out.size() >= kMaxValues) return o.bad(path, "need an AS number from 1 to 4294967295, 256 at most");
    out.push_back(*as);
  });
  return out;
}

/// "90s", "1m30s", "2h0m0s".
Result<seconds> parse_duration(std::string_view text) {
  const auto bad = [&] { return fail(Errc::invalid, "{} is no duration such as 90s or 2m0s", quoted(text)); };
  auto rest = text;
  std::uint64_t total_ms = 0;
  while (!rest.empty()) {
    std::uint64_t n = 0;
    const auto [end, ec] = std::from_chars(rest.data(), rest.data() + rest.size(), n);
    if (ec != std::errc{} || n > 1'000'000'000) return bad();
    rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
    const std::pair<std::string_view, std::uint64_t> units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
    const auto unit = std::find_if(std::begin(units), std::end(units), [&](const auto& u) {
      return rest.starts_with(u.first) && (u.first != "m" || !rest.starts_with("ms"));
    });
    if (unit == std::end(units)) return bad();
    rest.remove_prefix(unit->first.size());
    total_ms += n * unit->second;
  }
  if (text.empty() || total_ms % 1000 != 0) return bad();
  return seconds(total_ms / 1000);
}

std::optional<seconds> read_seconds(const Object& o, std::string_view key, std::int64_t low, std::int64_t high) {
  const auto d = read_with(o, key, parse_duration);
  if (d && (d->count() < low || d->count() > high))
    return o.bad(o.at(key), fmt::format("need {}s to {}s", low, high)), std::nullopt;
  return d;
}

// --- BGPFilter -------------------------------------------------------------------------------------------------------

BgpFilterOperation read_operation(const Object& o) {
  BgpFilterOperation out;
  only(o, {"addCommunity", "prependASPath", "setPriority"});
  const int given = o.has("addCommunity") + o.has("prependASPath") + o.has("setPriority");
  if (given != 1) o.bad(o.path(), "need one of addCommunity, prependASPath, setPriority");
  if (o.has("addCommunity")) {
    const auto c = o.object("addCommunity");
    only(c, {"value"});
    out.community = c.text("value");
    if (out.community.empty()) o.bad(c.at("value"), "need a community");
  } else if (o.has("prependASPath")) {
    const auto p = o.object("prependASPath");
    only(p, {"prefix"});
    out.kind = BgpFilterOperation::Kind::prepend_as_path;
    out.ases = read_ases(p, "prefix");
    if (out.ases.empty()) o.bad(p.at("prefix"), "need AS numbers");
  } else {
    const auto p = o.object("setPriority");
    only(p, {"value"});
    out.kind = BgpFilterOperation::Kind::set_priority;
    const auto n = p.integer("value", 1, 2147483646);
    if (!n) o.bad(p.at("value"), "need a number");
    out.priority = static_cast<std::uint32_t>(n.value_or(1));
  }
  return out;
}

void read_cidr(const Object& o, Family family, BgpFilterRule& r) {
  const auto bits = family == Family::v4 ? 32 : 128;
  r.cidr = read_with(o, "cidr", Prefix::parse);
  if (r.cidr && r.cidr->family() != family) o.bad(o.at("cidr"), fmt::format("{} is of the other family", *r.cidr));
  const auto op = o.text("matchOperator");
  if (r.cidr.has_value() != !op.empty() && o.ok()) o.bad(o.at("matchOperator"), "cidr and matchOperator go together");
  if (op == "Equal")
    r.match = BgpFilterRule::Operator::equal;
  else if (op == "NotEqual")
    r.match = BgpFilterRule::Operator::not_equal;
  else if (op == "In")
    r.match = BgpFilterRule::Operator::in;
  else if (op == "NotIn")
    r.match = BgpFilterRule::Operator::not_in;
  else if (!op.empty())
    o.bad(o.at("matchOperator"), fmt::format("{}: need Equal, NotEqual, In or NotIn", quoted(op)));
  const auto lengths = o.object("prefixLength");
  only(lengths, {"min", "max"});
  if (!o.has("prefixLength") || !r.cidr) {
    if (o.has("prefixLength")) o.bad(o.at("prefixLength"), "needs a cidr");
    return;
  }
  if (op != "In" && op != "NotIn") return o.bad(o.at("prefixLength"), "needs matchOperator In or NotIn");
  const auto lo = lengths.integer("min", 0, bits).value_or(r.cidr->len);
  const auto hi = lengths.integer("max", 0, bits).value_or(bits);
  if (lo > hi || hi < r.cidr->len) return o.bad(lengths.path(), "holds no length that the cidr has");
  r.min_length = static_cast<std::uint8_t>(std::max<std::int64_t>(lo, r.cidr->len));
  r.max_length = static_cast<std::uint8_t>(hi);
}

bool is_name_character(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || std::string_view(".:@_-*").find(c) != std::string_view::npos;
}

BgpFilterRule read_rule(const Object& o, Family family) {
  only(o, {"action", "cidr", "matchOperator", "prefixLength", "source", "interface", "peerType", "communities",
           "asPathPrefix", "priority", "operations"});
  BgpFilterRule r;
  const auto action = o.text("action");
  r.accept = action == "Accept";
  if (!r.accept && action != "Reject") o.bad(o.at("action"), fmt::format("{}: need Accept or Reject", quoted(action)));
  read_cidr(o, family, r);
  const auto source = o.text("source");
  r.remote_peers = source == "RemotePeers";
  if (!source.empty() && !r.remote_peers) o.bad(o.at("source"), fmt::format("{}: need RemotePeers", quoted(source)));
  r.interface = o.text("interface");
  if (r.interface.size() > 32 || !std::all_of(r.interface.begin(), r.interface.end(), is_name_character))
    o.bad(o.at("interface"), "need the name of an interface, '*' for any text");
  const auto type = o.text("peerType");
  if (type == "eBGP" || type == "iBGP")
    r.external_peer = type == "eBGP";
  else if (!type.empty())
    o.bad(o.at("peerType"), fmt::format("{}: need eBGP or iBGP", quoted(type)));
  const auto communities = o.object("communities");
  only(communities, {"values"});
  r.communities = communities.texts("values");
  if (o.has("communities") && (r.communities.empty() || r.communities.size() > kMaxValues))
    o.bad(o.at("communities"), "need 1 to 256 values");
  r.as_path_prefix = read_ases(o, "asPathPrefix");
  if (const auto n = o.integer("priority", 1, 2147483646)) r.priority = static_cast<std::uint32_t>(*n);
  o.each_object("operations", [&](const Object& op) {
    if (r.operations.size() >= 32) return o.bad(op.path(), "32 operations at most");
    r.operations.push_back(read_operation(op));
  });
  if (!r.accept && !r.operations.empty()) o.bad(o.at("operations"), "a rejecting rule has none");
  return r;
}

std::vector<BgpFilterRule> read_rules(const Object& spec, std::string_view key, Family family) {
  std::vector<BgpFilterRule> out;
  spec.each_object(key, [&](const Object& o) {
    if (out.size() >= kMaxRules) return spec.bad(o.path(), fmt::format("{} rules at most", kMaxRules));
    if (spec.ok()) out.push_back(read_rule(o, family));
  });
  return out;
}

// --- BGPConfiguration ------------------------------------------------------------------------------------------------

constexpr std::string_view kIgnoredSettings[] = {"logSeverityScreen",
                                                 "bindMode",
                                                 "ignoredInterfaces",
                                                 "serviceLoadBalancerIPs",
                                                 "serviceExternalIPs",
                                                 "serviceClusterIPs",
                                                 "localWorkloadPeeringIPV4",
                                                 "localWorkloadPeeringIPV6",
                                                 "serviceLoadBalancerAggregation",
                                                 "programClusterRoutes",
                                                 "ipv4NormalRoutePriority",
                                                 "ipv4ElevatedRoutePriority",
                                                 "ipv6NormalRoutePriority",
                                                 "ipv6ElevatedRoutePriority"};

void read_advertisements(const Object& s, BgpConfiguration& c) {
  std::map<std::string, std::string> named;
  s.each_object("communities", [&](const Object& o) {
    const auto value = o.text("value");
    if (o.text("name").empty() || value.empty() || named.size() >= kMaxValues)
      return o.bad(o.path(), "need a name and a value, 256 at most");
    named[o.text("name")] = value;
  });
  s.each_object("prefixAdvertisements", [&](const Object& o) {
    BgpConfiguration::Advertisement a;
    const auto cidr = read_with(o, "cidr", Prefix::parse);
    if (!cidr) return o.bad(o.at("cidr"), "missing");
    a.cidr = *cidr;
    for (auto& text : o.texts("communities")) {
      const auto it = named.find(text);
      if (it == named.end() && text.find(':') == std::string::npos)
        return o.bad(o.at("communities"), fmt::format("{} is not among communities", quoted(text)));
      a.communities.push_back(it == named.end() ? std::move(text) : it->second);
    }
    if (a.communities.empty() || a.communities.size() > 64) return o.bad(o.at("communities"), "need 1 to 64");
    if (c.advertisements.size() >= kMaxValues) return o.bad(o.path(), "256 at most");
    c.advertisements.push_back(std::move(a));
  });
}

// --- BGPPeer ---------------------------------------------------------------------------------------------------------

/// "10.0.0.1", "10.0.0.1:1179", "2001:db8::1", "[2001:db8::1]:1179".
void read_peer_ip(const Object& s, BgpPeer& p) {
  auto text = s.text("peerIP");
  if (text.empty()) return;
  std::string_view host = text, port;
  if (host.front() == '[') {
    const auto end = host.find(']');
    const auto after = end == std::string_view::npos ? std::string_view() : host.substr(end + 1);
    if (end == std::string_view::npos || (!after.empty() && after.front() != ':'))
      return s.bad(s.at("peerIP"), "need ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT");
    if (!after.empty()) port = after.substr(1);
    host = host.substr(1, end - 1);
    if (!after.empty() && port.empty()) port = "?";
  } else if (const auto colon = host.find(':'); colon != std::string_view::npos && host.rfind(':') == colon) {
    port = host.substr(colon + 1);
    host = host.substr(0, colon);
    if (port.empty()) port = "?";
  }
  const auto ip = Ip::parse(host);
  if (!ip) return s.bad(s.at("peerIP"), ip.error().what);
  if (ip->is_unspecified() || ip->is_multicast() || ip->is_loopback())
    return s.bad(s.at("peerIP"), fmt::format("{} is no neighbour's address", *ip));
  p.peer_ip = *ip;
  if (port.empty()) return;
  const auto n = number_of<std::uint16_t>(port);
  if (!n || *n == 0) return s.bad(s.at("peerIP"), "need a port from 1 to 65535");
  p.port = *n;
}

/// A name that is a path component: it names a file below the directory of secrets.
bool is_plain_name(std::string_view t) {
  return !t.empty() && t.size() <= 253 && t.front() != '.' && std::all_of(t.begin(), t.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '-' || c == '_' || c == '.';
  });
}

void read_password(const Object& s, BgpPeer& p) {
  if (!s.has("password")) return;
  const auto password = s.object("password");
  only(password, {"secretKeyRef"});
  const auto ref = password.object("secretKeyRef");
  only(ref, {"name", "key", "optional"});
  BgpPeer::Secret secret{ref.text("name"), ref.text("key")};
  if (!is_plain_name(secret.name) || !is_plain_name(secret.key))
    return s.bad(password.at("secretKeyRef"), "need a name and a key of letters, digits, '-', '_' and '.'");
  p.password = std::move(secret);
}

void read_next_hop(const Object& s, BgpPeer& p) {
  const auto mode = s.text("nextHopMode");
  const bool keep = s.boolean("keepOriginalNextHop").value_or(false);
  if (mode == "Self")
    p.next_hop = BgpPeer::NextHop::self;
  else if (mode == "Keep" || (mode.empty() && keep))
    p.next_hop = BgpPeer::NextHop::keep;
  else if (!mode.empty() && mode != "Auto")
    return s.bad(s.at("nextHopMode"), fmt::format("{}: need Auto, Self or Keep", quoted(mode)));
  if (!mode.empty() && keep && mode != "Keep") s.bad(s.at("keepOriginalNextHop"), "contradicts nextHopMode");
}

}  // namespace

Result<BgpFilter> parse_bgp_filter(std::string_view text) {
  return read_resource<BgpFilter>(text, [](const Object& s, BgpFilter& f) {
    only(s, {"importV4", "exportV4", "importV6", "exportV6"});
    f.import_v4 = read_rules(s, "importV4", Family::v4);
    f.export_v4 = read_rules(s, "exportV4", Family::v4);
    f.import_v6 = read_rules(s, "importV6", Family::v6);
    f.export_v6 = read_rules(s, "exportV6", Family::v6);
  });
}

Result<BgpConfiguration> parse_bgp_configuration(std::string_view text) {
  return read_resource<BgpConfiguration>(text, [](const Object& s, BgpConfiguration& c) {
    c.node_to_node_mesh = s.boolean("nodeToNodeMeshEnabled");
    c.as_number = read_as(s, "asNumber");
    if (const auto port = s.integer("listenPort", 1, 65535)) c.listen_port = static_cast<std::uint16_t>(*port);
    c.mesh_restart_time = read_seconds(s, "nodeMeshMaxRestartTime", 1, 4095);
    // Without it the sessions would come up unauthenticated, which is not what was asked for.
    if (s.has("nodeMeshPassword"))
      s.bad(s.at("nodeMeshPassword"), "not supported: give BGPPeers a password, or [bgp.peer.*] a password_file");
    read_advertisements(s, c);
    for (const auto key : kIgnoredSettings)
      if (s.has(key)) c.notes.push_back(fmt::format("{} has no effect", key));
  });
}

Result<BgpPeer> parse_bgp_peer(std::string_view text) {
  return read_resource<BgpPeer>(text, [](const Object& s, BgpPeer& p) {
    only(s,
         {"node", "nodeSelector", "peerIP", "asNumber", "peerSelector", "keepOriginalNextHop", "nextHopMode",
          "password", "sourceAddress", "maxRestartTime", "keepaliveTime", "numAllowedLocalASNumbers", "ttlSecurity",
          "reachableBy", "filters", "localASNumber", "localWorkloadSelector", "failureDetectionMode", "restartMode"});
    p.node = s.text("node");
    const auto selector = [](std::string_view t) { return Selector::parse(t); };
    p.node_selector = read_with(s, "nodeSelector", selector);
    if (!p.node.empty() && p.node_selector) s.bad(s.at("nodeSelector"), "node and nodeSelector exclude each other");
    read_peer_ip(s, p);
    p.as_number = read_as(s, "asNumber");
    p.peer_selector = read_with(s, "peerSelector", selector);
    if (s.has("localWorkloadSelector"))
      s.bad(s.at("localWorkloadSelector"), "not supported: no sessions with workloads");
    if (s.has("localASNumber")) s.bad(s.at("localASNumber"), "not supported: this speaker has one AS, [bgp] local_as");
    if (p.peer_ip.has_value() == p.peer_selector.has_value() && s.ok())
      s.bad(s.at("peerIP"), "need either peerIP (with asNumber) or peerSelector");
    if (p.peer_ip && !p.as_number) s.bad(s.at("asNumber"), "missing; peerIP needs it");
    if (p.peer_selector && p.as_number) s.bad(s.at("asNumber"), "with peerSelector the Nodes say their AS");
    read_next_hop(s, p);
    read_password(s, p);
    p.restart_time = read_seconds(s, "maxRestartTime", 1, 4095);
    p.keepalive_time = read_seconds(s, "keepaliveTime", 1, 21845);
    p.allow_own_as = static_cast<std::uint8_t>(s.integer("numAllowedLocalASNumbers", 0, 10).value_or(0));
    if (const auto hops = s.integer("ttlSecurity", 0, 254); hops && *hops > 0)
      p.ttl_security = static_cast<std::uint8_t>(*hops);
    p.filters = s.texts("filters");
    if (p.filters.size() > kMaxFilters) s.bad(s.at("filters"), fmt::format("{} at most", kMaxFilters));
    const auto source = s.text("sourceAddress");
    if (source == "None")
      p.notes.emplace_back("sourceAddress None has no effect: the address of this Node is used");
    else if (!source.empty() && source != "UseNodeIP")
      s.bad(s.at("sourceAddress"), fmt::format("{}: need UseNodeIP or None", quoted(source)));
    for (const auto key : {"reachableBy", "failureDetectionMode", "restartMode"})
      if (s.has(key) && s.text(key) != "None") p.notes.push_back(fmt::format("{} has no effect", key));
  });
}

}  // namespace calico::model
