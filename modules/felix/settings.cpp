#include "modules/felix/settings.hpp"

#include <algorithm>
#include <charconv>

#include "core/model/keys.hpp"

namespace calico::felix {
namespace {

using config::Reload;
using config::Type;

constexpr config::Param kParams[] = {
    {.name = "felix.protect_nodes",
     .type = Type::boolean,
     .def = "yes",
     .reload = Reload::live,
     .help = "Keep endpoints from the protected ports of every Node's addresses, before any policy."},
    {.name = "felix.protected_ports",
     .type = Type::list,
     .range = "1:65535",
     .def = "22,179,2379,2380,9091,9696",
     .reload = Reload::live,
     .help = "TCP ports no endpoint reaches on a Node."},
    {.name = "felix.public_ports",
     .type = Type::list,
     .range = "1:65535",
     .reload = Reload::live,
     .help = "Of the protected ports, those endpoints may reach where their policy allows it."},
    {.name = "felix.interface_prefix",
     .type = Type::list,
     .def = "tap",
     .help = "Interfaces with these beginnings belong to endpoints; what comes from one nobody knows is dropped.",
     .felix_name = "InterfacePrefix"},
    {.name = "felix.metadata_address",
     .reload = Reload::live,
     .help = "Where tcp 169.254.169.254:80 of endpoints is sent (IPv4); empty or none = nowhere.",
     .felix_name = "MetadataAddr"},
    {.name = "felix.metadata_port",
     .type = Type::integer,
     .range = "0:65535",
     .def = "8775",
     .reload = Reload::live,
     .help = "Port of metadata_address; 0 = nowhere.",
     .felix_name = "MetadataPort"},
    {.name = "felix.endpoint_to_host_action",
     .range = "drop|return|accept",
     .def = "drop",
     .reload = Reload::live,
     .help = "What endpoints send to this host beyond DHCP, DNS, metadata and neighbour discovery: drop, or (return, "
             "accept) what their egress policy allows.",
     .felix_name = "DefaultEndpointToHostAction"},
    {.name = "felix.route_protocol",
     .type = Type::integer,
     .range = "1:255",
     .def = "88",
     .help = "Protocol mark of the routes to endpoints; BGP announces routes that carry it.",
     .felix_name = "DeviceRouteProtocol"},
    {.name = "felix.reporting_interval",
     .type = Type::duration,
     .range = "1s:3600s",
     .def = "30s",
     .reload = Reload::live,
     .help = "How often this agent's liveness is written (the key lives 90 s).",
     .felix_name = "ReportingIntervalSecs,ReportingInterval"},
    {.name = "felix.cut_flows",
     .type = Type::boolean,
     .def = "yes",
     .reload = Reload::live,
     .help = "End established connections that a change of policy no longer allows; no = they live until they end."},
    {.name = "felix.blackhole_subnets",
     .type = Type::boolean,
     .def = "no",
     .reload = Reload::live,
     .help = "Drop here what goes to an address of a Neutron subnet that no route leads to. Only where BGP brings the "
             "routes to all other hosts' endpoints: with a default route alone it would cut them off."},
    {.name = "felix.endpoint_reporting",
     .type = Type::boolean,
     .def = "yes",
     .reload = Reload::live,
     .help = "Write the state of each endpoint; Neutron's port status follows it.",
     .felix_name = "EndpointReportingEnabled"},
    {.name = "felix.migration_convergence",
     .type = Type::duration,
     .range = "0s:3600s",
     .def = "30s",
     .reload = Reload::live,
     .help = "How long the routes of an endpoint that has migrated here stay stronger than those of other hosts.",
     .felix_name = "LiveMigrationRouteConvergenceTime"},
    {.name = "felix.failsafe_inbound_host_ports",
     .def = kFailsafeIn.data(),
     .reload = Reload::live,
     .help = "What host endpoints never refuse: protocol:port or protocol:net:port of tcp and udp, or none.",
     .felix_name = "FailsafeInboundHostPorts"},
    {.name = "felix.failsafe_outbound_host_ports",
     .def = kFailsafeOut.data(),
     .reload = Reload::live,
     .help = "The same of what the host sends.",
     .felix_name = "FailsafeOutboundHostPorts"},
    {.name = "felix.health_enabled",
     .type = Type::boolean,
     .def = "no",
     .reload = Reload::live,
     .help = "Serve /liveness and /readiness at health_host and health_port too, besides [metrics] listen.",
     .felix_name = "HealthEnabled"},
    {.name = "felix.health_host",
     .def = "localhost",
     .reload = Reload::live,
     .help = "Address, or localhost (127.0.0.1); others than loopback need [metrics] insecure = yes.",
     .felix_name = "HealthHost"},
    {.name = "felix.health_port",
     .type = Type::integer,
     .range = "1:65535",
     .def = "9099",
     .reload = Reload::live,
     .help = "Port of health_host.",
     .felix_name = "HealthPort"},
    {.name = "felix.metrics_enabled",
     .type = Type::boolean,
     .def = "no",
     .reload = Reload::live,
     .help = "Serve /metrics at metrics_host and metrics_port too, besides [metrics] listen.",
     .felix_name = "PrometheusMetricsEnabled"},
    {.name = "felix.metrics_host",
     .def = "localhost",
     .reload = Reload::live,
     .help = "Address, or localhost (127.0.0.1); others than loopback need [metrics] insecure = yes.",
     .felix_name = "PrometheusMetricsHost"},
    {.name = "felix.metrics_port",
     .type = Type::integer,
     .range = "1:65535",
     .def = "9091",
     .reload = Reload::live,
     .help = "Port of metrics_host.",
     .felix_name = "PrometheusMetricsPort"},
    {.name = "felix.watchdog_timeout",
     .type = Type::duration,
     .range = "20s:3600s",
     .def = "90s",
     .reload = Reload::live,
     .help = "A loop of felix that gives no sign of life for so long makes the process not live.",
     .felix_name = "DataplaneWatchdogTimeout"},
};

std::vector<std::uint16_t> ports(const config::Config& c, std::string_view name) {
  std::vector<std::uint16_t> out;
  for (const auto& w : c.list(name)) {
    std::uint16_t v = 0;
    std::from_chars(w.data(), w.data() + w.size(), v);
    if (v != 0) out.push_back(v);
  }
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

bool is_prefix(const std::string& p) {
  return p.size() <= 14 && model::is_interface_name(p) && p.find('*') == std::string::npos;
}

/// Where one may listen; "" and localhost are 127.0.0.1, names are not looked up.
std::optional<Ip> host_of(const std::string& text) {
  if (text.empty() || text == "localhost") return Ip::v4(0x7f000001);
  auto ip = Ip::parse(text);
  return ip ? std::optional(*ip) : std::nullopt;
}

/// Port one may listen at, if `enabled`.
std::optional<config::IpPort> place_of(const config::Config& c, const std::string& what) {
  const auto ip = host_of(c.text("felix." + what + "_host"));
  if (!ip || !c.boolean("felix." + what + "_enabled")) return {};
  return config::IpPort{*ip, static_cast<std::uint16_t>(c.integer("felix." + what + "_port"))};
}

bool off(const std::string& text) { return text.empty() || text == "none" || text == "None"; }

}  // namespace

config::Params params() { return kParams; }

Settings settings_of(const config::Config& c) {
  Settings s;
  s.region = c.text("openstack.region");
  std::vector<std::string> prefixes;
  for (const auto& p : c.list("felix.interface_prefix"))
    if (is_prefix(p)) prefixes.push_back(p);
  if (!prefixes.empty()) s.interface_prefixes = std::move(prefixes);
  s.protect_nodes = c.boolean("felix.protect_nodes");
  const auto open = ports(c, "felix.public_ports");
  for (const auto p : ports(c, "felix.protected_ports"))
    if (!std::binary_search(open.begin(), open.end(), p)) s.protected_ports.push_back(p);
  if (const auto& text = c.text("felix.metadata_address"); !off(text))
    if (auto ip = Ip::parse(text); ip && ip->is_v4()) s.metadata_address = *ip;
  s.metadata_port = static_cast<std::uint16_t>(c.integer("felix.metadata_port"));
  const auto& action = c.text("felix.endpoint_to_host_action");
  s.drop_to_host = action.empty() || action[0] == 'd' || action[0] == 'D';
  s.route_protocol = static_cast<std::uint8_t>(c.integer("felix.route_protocol"));
  s.reporting_interval = c.duration("felix.reporting_interval");
  if (s.metadata_port == 0) s.metadata_address.reset();
  s.blackhole_subnets = c.boolean("felix.blackhole_subnets");
  s.cut_flows = c.boolean("felix.cut_flows");
  s.endpoint_reporting = c.boolean("felix.endpoint_reporting");
  s.migration_convergence = c.duration("felix.migration_convergence");
  // A value that cannot be read must not lock anybody out: then it is the default.
  if (auto ports = parse_failsafe(c.text("felix.failsafe_inbound_host_ports"))) s.failsafe_in = std::move(*ports);
  if (auto ports = parse_failsafe(c.text("felix.failsafe_outbound_host_ports"))) s.failsafe_out = std::move(*ports);
  s.health_at = place_of(c, "health");
  s.metrics_at = place_of(c, "metrics");
  s.watchdog_timeout = c.duration("felix.watchdog_timeout");
  return s;
}

namespace {

/// Every fault in the values, whoever gave them.
config::Faults judged(const config::Config& c) {
  config::Faults faults;
  const auto bad = [&](const std::string& key, std::string what) {
    faults.push_back({c.where(key), key, std::move(what)});
  };
  for (const auto& p : c.list("felix.interface_prefix"))
    if (!is_prefix(p))
      bad("felix.interface_prefix",
          fmt::format("'{}': accepted: the beginning of an interface name, at most 14 characters", p));
  if (const auto& text = c.text("felix.metadata_address"); !off(text)) {
    auto ip = Ip::parse(text);
    if (!ip || !ip->is_v4())
      bad("felix.metadata_address", fmt::format("'{}': accepted: an IPv4 address, or none", text));
  }
  const auto known = ports(c, "felix.protected_ports");
  for (const auto p : ports(c, "felix.public_ports"))
    if (!std::binary_search(known.begin(), known.end(), p))
      bad("felix.public_ports", fmt::format("{} is not one of protected_ports, so this changes nothing", p));
  for (const char* key : {"felix.failsafe_inbound_host_ports", "felix.failsafe_outbound_host_ports"})
    if (auto ok = parse_failsafe(c.text(key)); !ok) bad(key, ok.error().what);
  for (const char* key : {"felix.health_host", "felix.metrics_host"})
    if (!host_of(c.text(key))) bad(key, fmt::format("'{}': accepted: an address, or localhost", c.text(key)));
  if (auto ok = model::check_region(c.text("openstack.region")); !ok) bad("openstack.region", ok.error().what);
  return faults;
}

/// The region is part of every key: with a wrong one felix would do nothing, so it is a fault wherever it stands.
bool forgiven(const config::Config& c, const config::Fault& f) {
  return c.is_upstream(f.key) && f.key != "openstack.region";
}

}  // namespace

void check(const config::Config& c, config::Faults& faults) {
  for (auto& f : judged(c))
    if (!forgiven(c, f)) faults.push_back(std::move(f));
}

std::vector<std::string> unusable(const config::Config& c) {
  std::vector<std::string> out;
  for (const auto& f : judged(c))
    if (forgiven(c, f)) out.push_back(f.to_string());
  return out;
}

}  // namespace calico::felix
