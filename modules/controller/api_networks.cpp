// Networks and subnets of the API.
#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>

#include "modules/controller/api.hpp"
#include "modules/controller/ipam.hpp"

namespace calico::controller {

namespace {

constexpr std::size_t kMaxName = 255;
constexpr std::size_t kMaxDnsServers = 16;
constexpr std::size_t kMaxHostRoutes = 64;
constexpr std::size_t kMaxPools = 32;

void common_read_only(Body& in) {
  in.read_only({"id", "status", "created_at", "updated_at", "revision_number"});
  in.not_provided({"tags", "qos_policy_id"});
}

/// Destination and next hop of each route, or a pool's ends: objects with exactly two addresses.
bool two_texts(Body& in, std::string_view key, const json::object& o, std::string_view a, std::string_view b,
               std::string& first, std::string& second) {
  const auto* x = o.if_contains(a);
  const auto* y = o.if_contains(b);
  if (o.size() != 2 || !x || !y || !x->is_string() || !y->is_string()) {
    in.invalid(key, fmt::format("{} is not an object of '{}' and '{}'", shown(json::value(o)), a, b));
    return false;
  }
  first = x->get_string();
  second = y->get_string();
  return true;
}

struct SubnetInput {
  std::optional<std::string> name, description;
  std::optional<bool> dhcp;
  bool gateway_given = false;
  std::optional<Ip> gateway;
  std::optional<std::vector<std::string>> dns;
  std::optional<std::vector<HostRoute>> routes;
  std::optional<std::vector<Pool>> pools;
};

SubnetInput read_subnet(Body& in) {
  SubnetInput out;
  out.name = in.text("name", kMaxName);
  out.description = in.text("description", kMaxName);
  out.dhcp = in.boolean("enable_dhcp");
  out.gateway_given = in.present("gateway_ip");
  out.gateway = in.ip("gateway_ip");
  out.dns = in.texts("dns_nameservers", kMaxDnsServers);
  if (out.dns) {
    std::set<std::string> seen;
    for (auto& d : *out.dns) {
      auto ip = Ip::parse(d);
      if (!ip) {
        in.invalid("dns_nameservers", fmt::format("'{}' is not a valid nameserver", d.substr(0, 64)));
        break;
      }
      d = ip->to_string();
      if (!seen.insert(d).second) in.invalid("dns_nameservers", fmt::format("Duplicate nameserver '{}'", d));
    }
  }
  if (auto list = in.objects("host_routes", kMaxHostRoutes)) {
    out.routes.emplace();
    for (const auto* o : *list) {
      HostRoute r;
      if (!two_texts(in, "host_routes", *o, "destination", "nexthop", r.destination, r.nexthop)) break;
      auto destination = parse_cidr(r.destination, false);
      auto nexthop = Ip::parse(r.nexthop);
      if (!destination || !nexthop || destination->family() != nexthop->family()) {
        in.invalid("host_routes", fmt::format("{} is not a route", shown(json::value(*o))));
        break;
      }
      r.destination = destination->to_string();
      r.nexthop = nexthop->to_string();
      for (const auto& other : *out.routes) {
        if (other.destination == r.destination && other.nexthop == r.nexthop)
          in.invalid("host_routes", fmt::format("Duplicate route {}", shown(json::value(*o))));
      }
      out.routes->push_back(std::move(r));
    }
  }
  if (auto list = in.objects("allocation_pools", kMaxPools)) {
    out.pools.emplace();
    for (const auto* o : *list) {
      std::string first;
      std::string last;
      if (!two_texts(in, "allocation_pools", *o, "start", "end", first, last)) break;
      auto a = Ip::parse(first);
      auto b = Ip::parse(last);
      if (!a || !b) {
        in.invalid("allocation_pools", fmt::format("{} is not an address range", shown(json::value(*o))));
        break;
      }
      out.pools->push_back({*a, *b});
    }
  }
  common_read_only(in);
  in.not_provided({"subnetpool_id", "use_default_subnetpool", "service_types", "segment_id", "prefixlen"});
  return out;
}

Reply<void> check_gateway(const Subnet& s) {
  if (!s.gateway) return {};
  const auto& g = *s.gateway;
  bool fine = g.family() == s.cidr.family() && !g.is_multicast() && !g.is_unspecified() &&
              (valid_host(s.cidr, g) || (g.is_v6() && (g == s.cidr.addr || g.is_link_local())));
  if (!fine) return invalid_input("Gateway {} is not valid on subnet {}", g, s.cidr);
  return {};
}

Reply<void> check_families(const Subnet& s) {
  for (const auto& d : s.dns) {
    if (Ip::parse(d)->family() != s.cidr.family())
      return invalid_input("dns_nameserver '{}' does not match the ip_version '{}'", d, s.cidr.addr.is_v4() ? 4 : 6);
  }
  for (const auto& r : s.host_routes) {
    if (Ip::parse(r.nexthop)->family() != s.cidr.family())
      return invalid_input("host route to '{}' does not match the ip_version '{}'", r.destination,
                           s.cidr.addr.is_v4() ? 4 : 6);
  }
  return {};
}

Reply<void> check_modes(const Subnet& s) {
  if (s.ra_mode.empty() && s.address_mode.empty()) return {};
  if (s.cidr.addr.is_v4())
    return invalid_input("ipv6_ra_mode and ipv6_address_mode are not valid when ip_version is 4");
  if (!s.dhcp) return invalid_input("ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to False");
  if (!s.ra_mode.empty() && !s.address_mode.empty() && s.ra_mode != s.address_mode)
    return invalid_input(
        "ipv6_ra_mode set to '{}' with ipv6_address_mode set to '{}' is not valid. If both attributes are set, they "
        "must "
        "be the same value",
        s.ra_mode, s.address_mode);
  if (s.automatic() && s.cidr.len != 64)
    return invalid_input("Invalid CIDR {} for IPv6 address mode. Addresses made from MACs need a prefix of /64",
                         s.cidr);
  return {};
}

}  // namespace

Reply<std::string> Api::create(Change& change, const json::object& body, const Caller& caller, const Network*) {
  Body in(body, Body::Verb::post, "network", caller);
  Network n;
  n.project = in.project().value_or("");
  n.name = in.text("name", kMaxName).value_or("");
  n.description = in.text("description", kMaxName).value_or("");
  n.admin_up = in.boolean("admin_state_up").value_or(true);
  n.shared = in.boolean("shared").value_or(false);
  n.external = in.boolean("router:external").value_or(false);
  n.port_security = in.boolean("port_security_enabled").value_or(true);
  n.mtu = in.integer("mtu", 68, 65535).value_or(1500);
  in.admin_only(
      {"shared", "router:external", "provider:network_type", "provider:physical_network", "provider:segmentation_id"});
  if (auto type = in.text("provider:network_type", 32)) {
    if (*type != "local" && *type != "flat")
      in.fail(
          {400, "InvalidInput",
           fmt::format("Invalid input for operation: provider:network_type '{}' is not provided; local and flat are.",
                       type->substr(0, 32))});
    n.type = *type;
  }
  n.physical_network = in.text("provider:physical_network", 64);
  if (n.type == "flat" && !n.physical_network)
    in.fail({400, "InvalidInput", "Invalid input for operation: physical_network required for flat provider network."});
  if (n.type == "local" && n.physical_network)
    in.fail(
        {400, "InvalidInput", "Invalid input for operation: provider:physical_network specified for local network."});
  in.not_provided({"provider:segmentation_id", "availability_zone_hints", "segments", "dns_domain"});
  if (auto v = in.boolean("is_default"); v && *v) in.invalid("is_default", "this controller does not provide it");
  if (auto v = in.boolean("vlan_transparent"); v && *v)
    in.invalid("vlan_transparent", "this controller does not provide it");
  common_read_only(in);
  in.read_only({"subnets", "availability_zones", "ipv4_address_scope", "ipv6_address_scope"});
  if (auto fault = in.finish()) return tl::unexpected(*fault);

  n.id = generate_.uuid();
  stamp_new(n);
  default_group(change, n.project);
  std::string id = n.id;
  change.put(std::move(n));
  return id;
}

Reply<void> Api::update(Change& change, const Network& old, const json::object& body, const Caller& caller) {
  Body in(body, Body::Verb::put, "network", caller);
  Network n = old;
  in.project();
  if (auto v = in.text("name", kMaxName)) n.name = *v;
  if (auto v = in.text("description", kMaxName)) n.description = *v;
  if (auto v = in.boolean("admin_state_up")) n.admin_up = *v;
  if (auto v = in.boolean("shared")) n.shared = *v;
  if (auto v = in.boolean("router:external")) n.external = *v;
  if (auto v = in.boolean("port_security_enabled")) n.port_security = *v;
  if (auto v = in.integer("mtu", 68, 65535)) n.mtu = *v;
  in.admin_only({"shared", "router:external"});
  in.not_provided({"availability_zone_hints", "dns_domain"});
  if (auto v = in.boolean("is_default"); v && *v) in.invalid("is_default", "this controller does not provide it");
  common_read_only(in);
  in.read_only({"subnets", "availability_zones", "ipv4_address_scope", "ipv6_address_scope", "provider:network_type",
                "provider:physical_network", "provider:segmentation_id"});
  if (auto fault = in.finish()) return tl::unexpected(*fault);
  if (old.shared && !n.shared) {
    for (const auto& port : state_.ports_of(n.id)) {
      if (state_.find<Port>(port)->project != n.project)
        return refuse(409, "InvalidSharedSetting",
                      "Unable to reconfigure sharing settings for network {}. Multiple tenants are using it.", n.id);
    }
  }
  put_updated(change, old, std::move(n));
  return {};
}

Reply<void> Api::remove(Change& change, const Network& old, const Caller&) {
  if (!state_.ports_of(old.id).empty())
    return refuse(
        409, "NetworkInUse",
        "Unable to complete operation on network {}. There are one or more ports still in use on the network.", old.id);
  const IdSet subnets = state_.subnets_of(old.id);
  for (const auto& s : subnets) change.erase<Subnet>(s);
  change.erase<Network>(old.id);
  return {};
}

Reply<std::string> Api::create(Change& change, const json::object& body, const Caller& caller, const Subnet*) {
  Body in(body, Body::Verb::post, "subnet", caller);
  in.required({"network_id", "ip_version", "cidr"});
  Subnet s;
  auto project = in.project();
  s.network = in.uuid("network_id").value_or("");
  auto version = in.integer("ip_version", 4, 6);
  if (version && *version == 5) in.invalid("ip_version", "5 is not in [4, 6]");
  auto cidr = in.text("cidr", 64);
  s.ra_mode = in.one_of("ipv6_ra_mode", {"slaac", "dhcpv6-stateful", "dhcpv6-stateless"}).value_or("");
  s.address_mode = in.one_of("ipv6_address_mode", {"slaac", "dhcpv6-stateful", "dhcpv6-stateless"}).value_or("");
  auto input = read_subnet(in);
  if (cidr) {
    auto parsed = parse_cidr(*cidr, false);
    if (!parsed)
      in.invalid("cidr", fmt::format("'{}' is not a valid IP subnet", cidr->substr(0, 64)));
    else if (parsed->masked() != *parsed)
      in.invalid("cidr", fmt::format("'{}' isn't a recognized IP subnet cidr, '{}' is recommended", cidr->substr(0, 64),
                                     parsed->masked()));
    else
      s.cidr = *parsed;
  }
  if (auto fault = in.finish()) return tl::unexpected(*fault);

  const auto* network = state_.find<Network>(s.network);
  auto view = view_of(caller);
  if (!network || !visible(*network, view))
    return refuse(404, "NetworkNotFound", "Network {} could not be found.", s.network);
  if (!caller.admin && network->project != caller.project)
    return refuse(403, "PolicyNotAuthorized", "rule:create_subnet is disallowed by policy.");
  s.project = project.value_or(caller.project);
  if ((s.cidr.addr.is_v4() ? 4 : 6) != *version)
    return invalid_input("cidr '{}' does not match the ip_version '{}'", s.cidr, *version);
  s.dhcp = input.dhcp.value_or(true);
  if (s.cidr.addr.is_multicast() || s.cidr.addr.is_loopback() || s.cidr.len == 0 ||
      (s.cidr.addr.is_v6() && s.cidr.addr.is_link_local()))
    return invalid_input("{} is no subnet that instances can be given addresses of", s.cidr);
  if (const auto* other = state_.overlapping(s.cidr)) {
    if (other->network == s.network)
      return invalid_input("Requested subnet with cidr: {} for network: {} overlaps with another subnet {} ({})",
                           s.cidr, s.network, other->id, other->cidr);
    // Calico routes all networks in one address space: the same address twice is the same instance.
    return invalid_input(
        "Requested subnet with cidr: {} for network: {} overlaps with subnet {} ({}) of network {}; the networks of "
        "this "
        "cloud share one routed address space",
        s.cidr, s.network, other->id, other->cidr, other->network);
  }
  s.name = input.name.value_or("");
  s.description = input.description.value_or("");
  s.dns = input.dns.value_or(std::vector<std::string>{});
  s.host_routes = input.routes.value_or(std::vector<HostRoute>{});
  if (input.gateway_given)
    s.gateway = input.gateway;
  else
    s.gateway = default_gateway(s.cidr);
  if (auto r = check_gateway(s); !r) return tl::unexpected(r.error());
  if (auto r = check_families(s); !r) return tl::unexpected(r.error());
  if (auto r = check_modes(s); !r) return tl::unexpected(r.error());
  if (input.pools && !input.pools->empty()) {
    s.pools = *input.pools;
    if (auto r = check_pools(s.cidr, s.gateway, s.pools); !r) return tl::unexpected(r.error());
  } else {
    s.pools = default_pools(s.cidr, s.gateway);
  }
  s.id = generate_.uuid();
  stamp_new(s);
  std::string id = s.id;
  change.put(std::move(s));
  return id;
}

Reply<void> Api::update(Change& change, const Subnet& old, const json::object& body, const Caller& caller) {
  Body in(body, Body::Verb::put, "subnet", caller);
  Subnet s = old;
  in.project();
  auto input = read_subnet(in);
  in.read_only({"network_id", "ip_version", "cidr", "ipv6_ra_mode", "ipv6_address_mode"});
  if (auto fault = in.finish()) return tl::unexpected(*fault);
  if (input.name) s.name = *input.name;
  if (input.description) s.description = *input.description;
  if (input.dhcp) s.dhcp = *input.dhcp;
  if (input.gateway_given) s.gateway = input.gateway;
  if (input.dns) s.dns = *input.dns;
  if (input.routes) s.host_routes = *input.routes;
  if (input.pools) s.pools = *input.pools;
  if (auto r = check_gateway(s); !r) return r;
  if (auto r = check_families(s); !r) return r;
  if (auto r = check_modes(s); !r) return r;
  if (auto r = check_pools(s.cidr, s.gateway, s.pools); !r) return r;
  if (s.gateway && s.gateway != old.gateway) {
    const auto* allocations = state_.allocations(s.id);
    if (auto it = allocations->used.find(*s.gateway); it != allocations->used.end())
      return refuse(409, "GatewayIpInUse", "Current gateway ip {} already in use by port {}. Unable to update.",
                    *s.gateway, it->second);
  }
  put_updated(change, old, std::move(s));
  return {};
}

Reply<void> Api::remove(Change& change, const Subnet& old, const Caller&) {
  const auto* allocations = state_.allocations(old.id);
  if (allocations && !allocations->used.empty())
    return refuse(
        409, "SubnetInUse",
        "Unable to complete operation on subnet {}: One or more ports have an IP allocation from this subnet.", old.id);
  change.erase<Subnet>(old.id);
  return {};
}

}  // namespace calico::controller
