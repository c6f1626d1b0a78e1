#include "modules/compute/dhcp_files.hpp"

#include <algorithm>
#include <optional>

namespace calico::compute {
namespace {

constexpr std::string_view kDomain = "openstacklocal";
constexpr std::string_view kNetworkAnnotation = "openstack.projectcalico.org/network-id";
constexpr std::string_view kFqdnAnnotation = "openstack.projectcalico.org/fqdn";

/// "10.65.0.24" → "host-10-65-0-24", as Neutron names ports.
std::string host_name_of(const Ip& ip) {
  std::string out = "host-" + ip.to_string();
  std::replace_if(
      out.begin(), out.end(), [](char c) { return c == '.' || c == ':'; }, '-');
  return out;
}

/// Only characters of a host name reach a file that dnsmasq parses; anything else means "no name given".
bool safe_name(std::string_view name) {
  return !name.empty() && name.size() <= 253 &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '.'; });
}
bool safe_id(std::string_view id) {
  return !id.empty() && id.size() <= 64 &&
         std::all_of(id.begin(), id.end(), [](unsigned char c) { return std::isalnum(c) || c == '-'; });
}

const model::Subnet* subnet_of(const Subnets& subnets, const DhcpPort& port, const Ip& ip, const std::string** id) {
  for (const auto& [subnet_id, s] : subnets) {
    if (!port.network_id.empty() && s.network_id != port.network_id) continue;
    if (s.cidr.family() == ip.family() && s.cidr.contains(ip) && safe_id(subnet_id)) {
      *id = &subnet_id;
      return &s;
    }
  }
  return nullptr;
}

std::string netmask(const Prefix& p) {
  const std::uint32_t mask = p.len == 0 ? 0 : ~std::uint32_t{0} << (32 - p.len);
  return Ip::v4(mask).to_string();
}

std::string joined(const std::vector<Ip>& ips, bool brackets) {
  std::string out;
  for (const auto& ip : ips) out += (out.empty() ? "" : ",") + (brackets ? fmt::format("[{}]", ip) : ip.to_string());
  return out;
}

void subnet_options(const std::string& id, const model::Subnet& s, std::string& opts) {
  const auto tag = fmt::format("tag:subnet-{},", id);
  if (s.cidr.family() == Family::v6) {
    opts += fmt::format("{}option6:domain-search,{}\n", tag, kDomain);
    if (!s.dns_servers.empty()) opts += fmt::format("{}option6:dns-server,{}\n", tag, joined(s.dns_servers, true));
    return;
  }
  if (!s.dns_servers.empty())
    opts += fmt::format("{}option:dns-server,{}\n", tag, joined(s.dns_servers, false));
  else if (s.gateway_ip)
    opts += fmt::format("{}option:dns-server,{}\n", tag, *s.gateway_ip);
  std::string routes;
  for (const auto& r : s.host_routes)
    if (r.destination.family() == Family::v4) routes += fmt::format("{},{},", r.destination, r.nexthop);
  if (!routes.empty()) {
    // Option 121 replaces the router option (RFC 3442), so the default route goes into it too; 249 is Windows' number.
    if (s.gateway_ip)
      routes += fmt::format("0.0.0.0/0,{}", *s.gateway_ip);
    else
      routes.pop_back();
    opts += fmt::format("{}option:classless-static-route,{}\n{}249,{}\n", tag, routes, tag, routes);
  }
  opts +=
      s.gateway_ip ? fmt::format("{}option:router,{}\n", tag, *s.gateway_ip) : fmt::format("{}option:router\n", tag);
}

std::map<Ip, Mac> owners(const Ports& ports) {
  std::map<Ip, Mac> out;
  for (const auto& [key, p] : ports)
    for (const auto& ip : p.addresses) out[ip] = p.mac;
  return out;
}

/// A lease line is "EXPIRY MAC IP NAME CLIENT-ID"; DHCPv6 ones carry an IAID instead of the MAC and are left alone.
bool foreign(std::string_view line, const std::map<Ip, Mac>& owner) {
  const auto a = line.find(' ');
  const auto b = a == std::string_view::npos ? a : line.find(' ', a + 1);
  const auto c = b == std::string_view::npos ? b : line.find(' ', b + 1);
  if (c == std::string_view::npos) return false;
  const auto mac = Mac::parse(line.substr(a + 1, b - a - 1));
  const auto ip = Ip::parse(line.substr(b + 1, c - b - 1));
  if (!mac || !ip) return false;
  const auto it = owner.find(*ip);
  return it != owner.end() && it->second != *mac;
}

std::optional<std::uint32_t> most_common_mtu(const Ports& ports) {
  std::map<std::uint32_t, std::size_t> counts;
  for (const auto& [key, p] : ports)
    if (p.mtu) ++counts[*p.mtu];
  const auto it =
      std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return it == counts.end() ? std::nullopt : std::optional(it->first);
}

template <class F>
void each_line(std::string_view text, F f) {
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size() - 1);
    f(text.substr(0, end + 1));
    text.remove_prefix(end + 1);
  }
}

}  // namespace

Result<DhcpPort> dhcp_port(std::string_view json) {
  auto wep = model::parse_workload_endpoint(json);
  if (!wep) return tl::unexpected(wep.error());
  if (!wep->mac) return fail(Errc::invalid, "endpoint without a MAC");
  DhcpPort port;
  port.port_id = wep->endpoint;
  port.interface = wep->interface_name;
  port.mac = *wep->mac;
  if (const auto it = wep->meta.annotations.find(kNetworkAnnotation); it != wep->meta.annotations.end())
    port.network_id = it->second;
  if (const auto it = wep->meta.annotations.find(kFqdnAnnotation); it != wep->meta.annotations.end())
    port.fqdn = it->second;
  while (port.fqdn.ends_with('.')) port.fqdn.pop_back();
  for (const auto& net : wep->ip_networks)
    if (net.is_host() && std::find(wep->allowed_ips.begin(), wep->allowed_ips.end(), net) == wep->allowed_ips.end())
      port.addresses.push_back(net.addr);
  return port;
}

std::set<std::string> subnets_in_use(const Subnets& subnets, const Ports& ports) {
  std::set<std::string> out;
  for (const auto& [key, p] : ports)
    for (const auto& ip : p.addresses) {
      const std::string* id = nullptr;
      if (subnet_of(subnets, p, ip, &id)) out.insert(*id);
    }
  return out;
}

DhcpFiles dhcp_files(const Subnets& subnets, const Ports& ports, const std::set<std::string>& served,
                     const std::string& directory, const std::string& device) {
  DhcpFiles f;
  f.conf = fmt::format(
      "no-hosts\nno-resolv\nexcept-interface=lo\nbind-dynamic\ninterface={0}\ninterface=tap*\nbridge-interface={0},tap*"
      "\n"
      "pid-file={1}/dnsmasq.pid\ndhcp-hostsfile={1}/hosts\naddn-hosts={1}/names\ndhcp-optsfile={1}/opts\n"
      "dhcp-leasefile={1}/leases\ndhcp-match=set:ipxe,175\ndhcp-lease-max=16777216\ndomain={2}\n"
      // Static hosts only: nobody else has an address here, so a client that asks for a foreign one is told at once.
      "dhcp-authoritative\n",
      device, directory, kDomain);
  bool v6 = false;
  for (const auto& id : served) {
    const auto it = subnets.find(id);
    if (it == subnets.end()) continue;
    const auto& s = it->second;
    if (s.cidr.family() == Family::v4) {
      f.conf +=
          fmt::format("dhcp-range=set:subnet-{},{},static,{},86400s\n", id, s.cidr.masked().addr, netmask(s.cidr));
    } else if (s.cidr.len >= 64) {
      v6 = true;
      const bool slaac = s.ipv6_address_mode == "slaac" || s.ipv6_ra_mode == "slaac";
      f.conf += fmt::format("dhcp-range=set:subnet-{},{},{},{},86400s\n", id, s.cidr.masked().addr,
                            slaac ? "slaac,ra-only" : "static,off-link", s.cidr.len);
    }
    if (s.gateway_ip) f.gateways.push_back({*s.gateway_ip, s.cidr.len});
    subnet_options(id, s, f.opts);
  }
  if (v6) f.conf += fmt::format("enable-ra\nra-param={},mtu:off,0\n", device);

  // One MTU for all, and tags only for ports that have another: see DhcpFiles::tagged_hosts.
  const auto usual_mtu = most_common_mtu(ports);
  if (usual_mtu) f.opts += fmt::format("option:mtu,{}\n", *usual_mtu);
  for (const auto& [key, p] : ports) {
    const bool id_ok = safe_id(p.port_id) && p.mtu && p.mtu != usual_mtu;
    bool any = false;
    for (const auto& ip : p.addresses) {
      const std::string* id = nullptr;
      if (!subnet_of(subnets, p, ip, &id) || !served.count(*id)) continue;
      const bool named = safe_name(p.fqdn);
      const auto fqdn = named ? p.fqdn : fmt::format("{}.{}", host_name_of(ip), kDomain);
      const auto label = fqdn.substr(0, fqdn.find('.'));
      const auto port_tag = id_ok ? fmt::format(",set:port-{}", p.port_id) : "";
      f.hosts += ip.is_v4() ? fmt::format("{},{},{}{}\n", p.mac, fqdn, ip, port_tag)
                            : fmt::format("{},tag:dhcpv6,{},[{}]{}\n", p.mac, fqdn, ip, port_tag);
      f.names += fmt::format("{}\t{} {}\n", ip, fqdn, label);
      any = true;
    }
    f.tagged_hosts = f.tagged_hosts || (any && id_ok);
    if (any && id_ok) f.opts += fmt::format("tag:port-{},option:mtu,{}\n", p.port_id, *p.mtu);
  }
  return f;
}

bool has_foreign_lease(std::string_view lease_file, const Ports& ports) {
  const auto owner = owners(ports);
  bool found = false;
  each_line(lease_file, [&](std::string_view line) { found = found || foreign(line, owner); });
  return found;
}

std::string without_foreign_leases(std::string_view lease_file, const Ports& ports) {
  const auto owner = owners(ports);
  std::string out;
  each_line(lease_file, [&](std::string_view line) {
    if (!foreign(line, owner)) out += line;
  });
  return out;
}

}  // namespace calico::compute
