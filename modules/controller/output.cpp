#include "modules/controller/output.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>

namespace calico::controller {

namespace {

template <class R>
struct Getter {
  std::string_view name;
  json::value (*get)(const R&, const View&);
  bool admin = false;  ///< shown to administrators only
};

json::value text_or_null(const std::optional<std::string>& v) { return v ? json::value(*v) : json::value(nullptr); }
json::value text_or_null(const std::string& v) { return v.empty() ? json::value(nullptr) : json::value(v); }
json::value number_or_null(const std::optional<int>& v) { return v ? json::value(*v) : json::value(nullptr); }
template <class List>
json::array texts(const List& list) {
  json::array a;
  for (const auto& s : list) a.emplace_back(s);
  return a;
}

#define GET(R, name, expr)                                                                    \
  Getter<R> {                                                                                 \
    name, []([[maybe_unused]] const R& r, [[maybe_unused]] const View& view) -> json::value { \
      return json::value(expr);                                                               \
    }                                                                                         \
  }
#define GET_ADMIN(R, name, expr)                                                            \
  Getter<R> {                                                                               \
    name,                                                                                   \
        []([[maybe_unused]] const R& r, [[maybe_unused]] const View& view) -> json::value { \
          return json::value(expr);                                                         \
        },                                                                                  \
        true                                                                                \
  }
#define COMMON(R)                                                                                              \
  GET(R, "id", r.id), GET(R, "name", r.name), GET(R, "tenant_id", r.project), GET(R, "project_id", r.project), \
      GET(R, "description", r.description), GET(R, "created_at", rfc3339(r.created)),                          \
      GET(R, "updated_at", rfc3339(r.updated)), GET(R, "revision_number", r.revision)

const std::vector<Getter<Network>>& getters(const Network*) {
  static const std::vector<Getter<Network>> rows{
      COMMON(Network),
      GET(Network, "admin_state_up", r.admin_up),
      GET(Network, "mtu", r.mtu),
      GET(Network, "status", "ACTIVE"),
      GET(Network, "subnets", texts(view.state.subnets_of(r.id))),
      GET(Network, "shared", r.shared),
      GET(Network, "port_security_enabled", r.port_security),
      GET(Network, "router:external", r.external),
      GET(Network, "qos_policy_id", nullptr),
      GET_ADMIN(Network, "provider:network_type", r.type),
      GET_ADMIN(Network, "provider:physical_network", text_or_null(r.physical_network)),
      GET_ADMIN(Network, "provider:segmentation_id", nullptr),
      GET(Network, "is_default", false),
      GET(Network, "availability_zone_hints", json::array()),
      GET(Network, "availability_zones", json::array()),
      GET(Network, "ipv4_address_scope", nullptr),
      GET(Network, "ipv6_address_scope", nullptr),
      GET(Network, "tags", json::array()),
  };
  return rows;
}

json::array pools_json(const Subnet& s) {
  json::array a;
  for (const auto& p : s.pools) a.push_back(json::object{{"start", p.first.to_string()}, {"end", p.last.to_string()}});
  return a;
}
json::array routes_json(const Subnet& s) {
  json::array a;
  for (const auto& r : s.host_routes) a.push_back(json::object{{"destination", r.destination}, {"nexthop", r.nexthop}});
  return a;
}

const std::vector<Getter<Subnet>>& getters(const Subnet*) {
  static const std::vector<Getter<Subnet>> rows{
      COMMON(Subnet),
      GET(Subnet, "network_id", r.network),
      GET(Subnet, "ip_version", r.cidr.addr.is_v4() ? 4 : 6),
      GET(Subnet, "cidr", r.cidr.to_string()),
      GET(Subnet, "gateway_ip", r.gateway ? json::value(r.gateway->to_string()) : json::value(nullptr)),
      GET(Subnet, "enable_dhcp", r.dhcp),
      GET(Subnet, "dns_nameservers", texts(r.dns)),
      GET(Subnet, "host_routes", routes_json(r)),
      GET(Subnet, "allocation_pools", pools_json(r)),
      GET(Subnet, "ipv6_ra_mode", text_or_null(r.ra_mode)),
      GET(Subnet, "ipv6_address_mode", text_or_null(r.address_mode)),
      GET(Subnet, "subnetpool_id", nullptr),
      GET(Subnet, "service_types", json::array()),
      GET(Subnet, "tags", json::array()),
  };
  return rows;
}

json::array fixed_json(const Port& p) {
  json::array a;
  for (const auto& f : p.fixed_ips)
    a.push_back(json::object{{"subnet_id", f.subnet}, {"ip_address", f.ip.to_string()}});
  return a;
}
json::array pairs_json(const Port& p) {
  json::array a;
  for (const auto& pair : p.pairs)
    a.push_back(
        json::object{{"mac_address", pair.mac.value_or(p.mac).to_string()},
                     {"ip_address", pair.prefix.is_host() ? pair.prefix.addr.to_string() : pair.prefix.to_string()}});
  return a;
}
json::object vif_details(const Port& p) {
  if (p.vif_type != "tap") return {};
  Mac tap = p.mac;
  tap.b[0] = 0xFE;
  return {{"connectivity", "legacy"},
          {"port_filter", true},
          {"mac_address", tap.to_string()},
          {"bound_drivers", json::object{{"0", "calico"}}}};
}

const std::vector<Getter<Port>>& getters(const Port*) {
  static const std::vector<Getter<Port>> rows{
      COMMON(Port),
      GET(Port, "network_id", r.network),
      GET(Port, "mac_address", r.mac.to_string()),
      GET(Port, "admin_state_up", r.admin_up),
      GET(Port, "status", view.feedback.status(r)),
      GET(Port, "device_id", r.device),
      GET(Port, "device_owner", r.owner),
      GET(Port, "fixed_ips", fixed_json(r)),
      GET(Port, "allowed_address_pairs", pairs_json(r)),
      GET(Port, "extra_dhcp_opts", json::array()),
      GET(Port, "security_groups", texts(r.groups)),
      GET(Port, "binding:vnic_type", r.vnic_type),
      GET_ADMIN(Port, "binding:profile", json::parse(r.profile)),
      GET_ADMIN(Port, "binding:host_id", r.host),
      GET_ADMIN(Port, "binding:vif_type", r.vif_type),
      GET_ADMIN(Port, "binding:vif_details", vif_details(r)),
      GET(Port, "port_security_enabled", r.port_security),
      GET(Port, "qos_policy_id", nullptr),
      GET(Port, "qos_network_policy_id", nullptr),
      GET_ADMIN(Port, "resource_request", nullptr),
      GET(Port, "tags", json::array()),
  };
  return rows;
}

const std::vector<Getter<Rule>>& getters(const Rule*) {
  static const std::vector<Getter<Rule>> rows{
      COMMON(Rule),
      GET(Rule, "security_group_id", r.group),
      GET(Rule, "ethertype", r.ipv6 ? "IPv6" : "IPv4"),
      GET(Rule, "direction", r.ingress ? "ingress" : "egress"),
      GET(Rule, "protocol", text_or_null(r.protocol)),
      GET(Rule, "port_range_min", number_or_null(r.port_min)),
      GET(Rule, "port_range_max", number_or_null(r.port_max)),
      GET(Rule, "remote_ip_prefix", text_or_null(r.remote_prefix)),
      GET(Rule, "remote_group_id", text_or_null(r.remote_group)),
      GET(Rule, "remote_address_group_id", nullptr),
      GET(Rule, "normalized_cidr",
          r.remote_prefix ? json::value(parse_cidr(*r.remote_prefix, true).value_or(Prefix{}).masked().to_string())
                          : json::value(nullptr)),
      GET(Rule, "tags", json::array()),
  };
  return rows;
}

json::array rules_json(const SecurityGroup& g, const View& view) {
  json::array a;
  View whole{view.state, view.feedback, view.caller, {}};
  for (const Rule* rule : view.state.rules_in_order(g.id)) a.push_back(show(*rule, whole));
  return a;
}

const std::vector<Getter<SecurityGroup>>& getters(const SecurityGroup*) {
  static const std::vector<Getter<SecurityGroup>> rows{
      COMMON(SecurityGroup),
      GET(SecurityGroup, "stateful", true),
      GET(SecurityGroup, "shared", false),
      GET(SecurityGroup, "security_group_rules", rules_json(r, view)),
      GET(SecurityGroup, "tags", json::array()),
  };
  return rows;
}

std::string agent_time(std::int64_t seconds) {
  auto t = rfc3339(seconds);
  t[10] = ' ';
  t.pop_back();
  return t;
}

const std::vector<Getter<Agent>>& getters(const Agent*) {
  static const std::vector<Getter<Agent>> rows{
      GET(Agent, "id", r.id),
      GET(Agent, "agent_type", "Calico per-host agent (felix)"),
      GET(Agent, "binary", "calico-felix"),
      GET(Agent, "topic", "N/A"),
      GET(Agent, "host", r.host),
      GET(Agent, "admin_state_up", true),
      GET(Agent, "alive", view.feedback.alive(r)),
      GET(Agent, "started_at", agent_time(r.started)),
      GET(Agent, "created_at", agent_time(r.started)),
      GET(Agent, "heartbeat_timestamp", agent_time(r.heartbeat)),
      GET(Agent, "description", nullptr),
      GET(Agent, "configurations", json::object()),
      GET(Agent, "availability_zone", nullptr),
      GET(Agent, "resources_synced", nullptr),
      GET(Agent, "resource_versions", json::object()),
  };
  return rows;
}

#undef GET
#undef GET_ADMIN
#undef COMMON

template <class R>
json::object show_any(const R& r, const View& view) {
  const auto& rows = getters(&r);
  json::object out;
  out.reserve(view.fields.empty() ? rows.size() : view.fields.size());
  for (const auto& row : rows) {
    if (row.admin && !view.caller.admin) continue;
    if (!view.fields.empty() && !view.fields.contains(row.name)) continue;
    // Rules have no name of their own.
    if constexpr (std::is_same_v<R, Rule>) {
      if (row.name == "name") continue;
    }
    out.emplace(row.name, row.get(r, view));
  }
  return out;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

bool matches(const json::value& v, std::string_view wanted) {
  switch (v.kind()) {
    case json::kind::string:
      return std::string_view(v.get_string()) == wanted;
    case json::kind::bool_: {
      auto w = lower(wanted);
      return v.get_bool() ? w == "true" || w == "1" : w == "false" || w == "0";
    }
    case json::kind::null:
      return wanted.empty() || wanted == "None" || wanted == "null";
    case json::kind::array: {
      for (const auto& element : v.get_array()) {
        if (!element.is_object()) {
          if (matches(element, wanted)) return true;
          continue;
        }
        // "ip_address=10.0.0.1", "ip_address_substr=10.0", "subnet_id=…"
        auto equals = wanted.find('=');
        if (equals == std::string_view::npos) continue;
        auto key = wanted.substr(0, equals);
        auto value = wanted.substr(equals + 1);
        bool part = key.ends_with("_substr");
        if (part) key.remove_suffix(7);
        const auto* field = element.get_object().if_contains({key.data(), key.size()});
        if (!field || !field->is_string()) continue;
        std::string_view text = field->get_string();
        if (part ? text.find(value) != std::string_view::npos : text == value) return true;
      }
      return false;
    }
    default:
      return json::serialize(v) == wanted;
  }
}

bool is_control(std::string_view key) {
  for (std::string_view k : {"fields", "limit", "marker", "page_reverse", "sort_key", "sort_dir"}) {
    if (key == k) return true;
  }
  return false;
}

/// Where to look: everything, or what an index gives for the filters at hand.
std::vector<const Port*> candidates(const Query& query, const View& view, const Port*) {
  std::vector<const Port*> out;
  auto from = [&](const IdSet& ids) {
    for (const auto& id : ids) out.push_back(view.state.find<Port>(id));
  };
  for (const auto& [key, value] : query) {
    if (key == "id") {
      IdSet ids;
      for (const auto& id : values_of(query, "id")) {
        if (view.state.find<Port>(id)) ids.insert(id);
      }
      from(ids);
      return out;
    }
    if (key == "device_id" && !value.empty()) {
      IdSet ids;
      for (const auto& device : values_of(query, "device_id")) {
        const auto& more = view.state.ports_of_device(device);
        ids.insert(more.begin(), more.end());
      }
      from(ids);
      return out;
    }
  }
  auto networks = values_of(query, "network_id");
  if (networks.size() == 1) {
    from(view.state.ports_of(networks[0]));
    return out;
  }
  for (const auto& [id, port] : view.state.all<Port>()) out.push_back(&port);
  return out;
}
template <class R>
std::vector<const R*> candidates(const Query&, const View& view, const R*) {
  std::vector<const R*> out;
  for (const auto& [id, r] : view.state.all<R>()) out.push_back(&r);
  return out;
}
std::vector<const Agent*> candidates(const Query&, const View& view, const Agent*) {
  std::vector<const Agent*> out;
  for (const auto& [host, a] : view.feedback.agents()) out.push_back(&a);
  return out;
}

}  // namespace

json::object show(const Network& n, const View& view) { return show_any(n, view); }
json::object show(const Subnet& s, const View& view) { return show_any(s, view); }
json::object show(const Port& p, const View& view) { return show_any(p, view); }
json::object show(const SecurityGroup& g, const View& view) { return show_any(g, view); }
json::object show(const Rule& r, const View& view) { return show_any(r, view); }
json::object show(const Agent& a, const View& view) { return show_any(a, view); }

bool visible(const Network& n, const View& view) {
  return view.caller.admin || n.project == view.caller.project || n.shared || n.external;
}
bool visible(const Subnet& s, const View& view) {
  if (view.caller.admin || s.project == view.caller.project) return true;
  const auto* n = view.state.find<Network>(s.network);
  return n && (n->project == view.caller.project || n->shared);
}
bool visible(const Port& p, const View& view) {
  if (view.caller.admin || p.project == view.caller.project) return true;
  const auto* n = view.state.find<Network>(p.network);
  return n && n->project == view.caller.project;
}
bool visible(const SecurityGroup& g, const View& view) { return view.caller.admin || g.project == view.caller.project; }
bool visible(const Rule& r, const View& view) {
  if (view.caller.admin || r.project == view.caller.project) return true;
  const auto* g = view.state.find<SecurityGroup>(r.group);
  return g && g->project == view.caller.project;
}
bool visible(const Agent&, const View& view) { return view.caller.admin; }

std::vector<std::string> values_of(const Query& query, std::string_view key) {
  std::vector<std::string> out;
  for (const auto& [k, v] : query) {
    if (k == key) out.push_back(v);
  }
  return out;
}

template <class R>
Reply<Listing> list(const Query& query, View& view, const std::string& base) {
  const auto& rows = getters(static_cast<const R*>(nullptr));
  auto getter = [&](std::string_view name) -> const Getter<R>* {
    for (const auto& row : rows) {
      if (row.name == name && (!row.admin || view.caller.admin)) return &row;
    }
    return nullptr;
  };

  // Same attribute twice: any of the values; different attributes: all of them. Filters nobody knows are ignored, as
  // the real plugin does.
  std::vector<std::pair<const Getter<R>*, std::vector<std::string>>> filters;
  for (const auto& [key, value] : query) {
    if (is_control(key)) continue;
    const auto* g = getter(key);
    if (!g) continue;
    auto it = std::find_if(filters.begin(), filters.end(), [&](const auto& f) { return f.first == g; });
    if (it == filters.end())
      filters.push_back({g, {value}});
    else
      it->second.push_back(value);
  }
  std::vector<const R*> found;
  for (const R* r : candidates(query, view, static_cast<const R*>(nullptr))) {
    if (!visible(*r, view)) continue;
    bool all = true;
    for (const auto& [g, wanted] : filters) {
      auto v = g->get(*r, view);
      all = std::any_of(wanted.begin(), wanted.end(), [&](const auto& w) { return matches(v, w); });
      if (!all) break;
    }
    if (all) found.push_back(r);
  }

  auto keys = values_of(query, "sort_key");
  auto dirs = values_of(query, "sort_dir");
  if (keys.size() > 8 || dirs.size() > keys.size()) return invalid_input("sort_key and sort_dir do not go together");
  for (std::size_t i = keys.size(); i-- > 0;) {
    const auto* g = getter(keys[i]);
    if (!g) return invalid_input("'{}' is no attribute to sort by", keys[i].substr(0, 64));
    bool down = i < dirs.size() && dirs[i] == "desc";
    std::vector<std::pair<std::string, const R*>> keyed;
    for (const R* r : found) {
      auto v = g->get(*r, view);
      keyed.emplace_back(v.is_string()  ? std::string(v.get_string())
                         : v.is_int64() ? fmt::format("{:020}", v.get_int64())
                                        : json::serialize(v),
                         r);
    }
    std::stable_sort(keyed.begin(), keyed.end(),
                     [down](const auto& a, const auto& b) { return down ? b.first < a.first : a.first < b.first; });
    for (std::size_t n = 0; n < keyed.size(); ++n) found[n] = keyed[n].second;
  }

  Listing out;
  auto limits = values_of(query, "limit");
  auto markers = values_of(query, "marker");
  std::size_t first = 0;
  std::size_t count = found.size();
  std::size_t limit = 0;
  if (auto reverse = values_of(query, "page_reverse"); !reverse.empty() && lower(reverse[0]) == "true")
    return invalid_input("page_reverse is not provided by this controller");
  if (!markers.empty()) {
    auto it = std::find_if(found.begin(), found.end(), [&](const R* r) { return r->id == markers[0]; });
    if (it == found.end()) return invalid_input("marker '{}' is not in the list", markers[0].substr(0, 64));
    first = static_cast<std::size_t>(it - found.begin()) + 1;
  }
  if (!limits.empty()) {
    auto [end, error] = std::from_chars(limits[0].data(), limits[0].data() + limits[0].size(), limit);
    if (error != std::errc{} || end != limits[0].data() + limits[0].size())
      return invalid_input("limit '{}' is not an integer of zero or more", limits[0].substr(0, 64));
  }
  if (limit > 0) count = std::min(count, first + limit);
  for (auto& f : values_of(query, "fields")) {
    if (!f.empty()) view.fields.insert(std::move(f));
  }
  for (std::size_t i = first; i < count; ++i) {
    if (out.items.size() < kListTurn)
      out.items.push_back(show(*found[i], view));
    else
      out.rest.push_back(found[i]->id);
  }
  if (limit > 0 && count < found.size() && count > first) {
    std::string href = base + "?";
    for (const auto& [key, value] : query) {
      if (key != "marker") href += fmt::format("{}={}&", http::percent_encode(key), http::percent_encode(value));
    }
    href += "marker=" + http::percent_encode(found[count - 1]->id);
    out.links.push_back(json::object{{"rel", "next"}, {"href", href}});
  }
  return out;
}

template Reply<Listing> list<Network>(const Query&, View&, const std::string&);
template Reply<Listing> list<Subnet>(const Query&, View&, const std::string&);
template Reply<Listing> list<Port>(const Query&, View&, const std::string&);
template Reply<Listing> list<SecurityGroup>(const Query&, View&, const std::string&);
template Reply<Listing> list<Rule>(const Query&, View&, const std::string&);
template Reply<Listing> list<Agent>(const Query&, View&, const std::string&);

}  // namespace calico::controller
