#include "core/bgp/speaker_settings.hpp"

#include <algorithm>
#include <charconv>
#include <fstream>

#include "core/bgp/policy/policy_config.hpp"
#include "core/http/message.hpp"

namespace calico::bgp {
namespace {

std::chrono::seconds seconds_of(const config::Config& c, std::string_view name) {
  return std::chrono::duration_cast<std::chrono::seconds>(c.duration(name));
}

Result<std::string> read_password(const config::Config& c, const std::string& name) {
  if (!c.is_set(name)) return std::string();
  return read_password_file(c.text(name), name);
}

std::optional<Policy> policy_of(const config::Config& c, const std::string& name) {
  if (!c.is_set(name)) return std::nullopt;
  return c.text(name) == "all" ? Policy::all : Policy::none;
}

std::optional<std::chrono::seconds> maybe_seconds(const config::Config& c, const std::string& name) {
  if (!c.is_set(name)) return std::nullopt;
  return seconds_of(c, name);
}

/// What peers and ranges have in common.
void put_common(const config::Config& c, const std::string& key, const ConfiguredFilters& filters, PeerOptions& o) {
  o.import_filter = filters.chain(c, key + "import_filter");
  o.export_filter = filters.chain(c, key + "export_filter");
  // A filter is the policy that RFC 8212 asks for.
  if (o.import_filter && !o.import_policy) o.import_policy = Policy::all;
  if (o.export_filter && !o.export_policy) o.export_policy = Policy::all;
  const auto& add_path = c.text(key + "add_path");
  o.add_path_receive = add_path == "receive" || add_path == "both";
  o.add_path_send = add_path == "send" || add_path == "both";
  o.extended_messages = c.boolean(key + "extended_messages");
  o.extended_next_hop = c.boolean(key + "extended_next_hop");
  o.allow_own_as = static_cast<std::uint8_t>(c.integer(key + "allow_own_as"));
  o.keepalive_time = maybe_seconds(c, key + "keepalive_time");
  o.restart_time = maybe_seconds(c, key + "restart_time");
}

Result<std::vector<PeerConfig>> peers_of(const config::Config& c, const ConfiguredFilters& filters) {
  std::vector<PeerConfig> out;
  for (const auto& section : c.sections("bgp.peer")) {
    const auto key = "bgp.peer." + section + ".";
    PeerConfig p;
    p.name = section;
    p.address = *c.ip(key + "address");
    p.port = static_cast<std::uint16_t>(c.integer(key + "port"));
    p.remote_as = Asn{static_cast<std::uint32_t>(c.integer(key + "remote_as"))};
    auto password = read_password(c, key + "password_file");
    if (!password) return tl::unexpected(password.error());
    p.password = std::move(*password);
    p.multihop = static_cast<int>(c.integer(key + "multihop"));
    p.ttl_security = c.boolean(key + "ttl_security");
    p.passive = c.boolean(key + "passive");
    p.route_reflector_client = c.boolean(key + "route_reflector_client");
    p.next_hop = c.text(key + "next_hop") == "self" ? NextHopMode::self : NextHopMode::keep;
    p.import_policy = policy_of(c, key + "import");
    p.export_policy = policy_of(c, key + "export");
    p.max_prefix = static_cast<std::uint32_t>(c.integer(key + "max_prefix"));
    p.hold_time = seconds_of(c, "bgp.hold_time");
    put_common(c, key, filters, p);
    out.push_back(std::move(p));
  }
  return out;
}

Result<std::vector<RangeConfig>> ranges_of(const config::Config& c, const ConfiguredFilters& filters) {
  std::vector<RangeConfig> out;
  for (const auto& section : c.sections("bgp.range")) {
    const auto key = "bgp.range." + section + ".";
    RangeConfig r;
    r.name = section;
    r.prefix = *c.prefix(key + "prefix");
    r.remote_as = Asn{static_cast<std::uint32_t>(c.integer(key + "remote_as"))};
    auto password = read_password(c, key + "password_file");
    if (!password) return tl::unexpected(password.error());
    r.password = std::move(*password);
    r.ttl_security = c.boolean(key + "ttl_security");
    r.route_reflector_client = c.boolean(key + "route_reflector_client");
    r.passive = true;
    r.hold_time = seconds_of(c, "bgp.hold_time");
    put_common(c, key, filters, r);
    out.push_back(std::move(r));
  }
  return out;
}

bool usable_source(const Ip& ip) { return !ip.is_loopback() && !ip.is_unspecified() && !ip.is_link_local(); }

/// The address of the route to the neighbours: to a configured one, else to the datastore, which is on the management
/// network too; else the only address of the host.
Result<Ip> default_source(const config::Config& c, const std::vector<PeerConfig>& peers, const HostLook& host) {
  std::vector<Ip> towards;
  for (const auto& p : peers) towards.push_back(p.address);
  for (const auto& url : c.list("datastore.endpoints"))
    if (auto e = http::Endpoint::parse(url, 2379))
      if (const auto ip = e->ip()) towards.push_back(*ip);
  for (const auto& ip : towards) {
    auto source = host.source_towards(ip);
    if (source && usable_source(*source)) return *source;
  }
  std::vector<Ip> own;
  for (const auto& ip : host.global_addresses)
    if (ip.is_v4() && usable_source(ip)) own.push_back(ip);
  if (own.size() == 1) return own.front();
  return fail(Errc::invalid, "[bgp] source_address is not set and cannot be guessed ({}); set it",
              own.empty() ? "no route to a peer or the datastore, and no IPv4 address"
                          : fmt::format("no route to a peer or the datastore, and {} IPv4 addresses", own.size()));
}

/// Beside our own folder, as the two are on a host; a run_dir of another name keeps them inside.
std::string bird_dir(const config::Config& c, const std::string& run_dir) {
  if (!c.boolean("bgp.bird_sockets")) return "";
  if (c.is_set("bgp.bird_dir")) return c.text("bgp.bird_dir");
  if (run_dir.empty()) return "";
  constexpr std::string_view kOurs = "/calico-node";
  return run_dir.ends_with(kOurs) ? run_dir.substr(0, run_dir.size() - kOurs.size()) + "/calico" : run_dir + "/calico";
}

}  // namespace

void check_bgp(const config::Config& c, config::Faults& faults) { (void)ConfiguredFilters::read(c, faults); }

Result<std::string> read_password_file(const std::string& path, std::string_view name) {
  std::ifstream in(path);
  std::string line(256, '\0');
  // A line that is longer than any key is not read to its end: the file may be anything.
  in.get(line.data(), static_cast<std::streamsize>(line.size()));
  line.resize(static_cast<std::size_t>(in.gcount()));
  if (line.empty()) return fail(Errc::no_permission, "{}: {}: cannot be read, or is empty", name, path);
  while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
  if (line.empty() || line.size() > 80)
    return fail(Errc::invalid, "{}: {}: the first line must be a key of 1 to 80 characters", name, path);
  return line;
}

Result<SpeakerSettings> speaker_settings(const config::Config& c, const SpeakerRole& role, const HostLook& host) {
  SpeakerSettings s;
  config::Faults faults;
  const auto filters = ConfiguredFilters::read(c, faults);
  if (!faults.empty())
    return fail(Errc::invalid, "{}{}", faults.front().to_string(),
                faults.size() > 1 ? fmt::format(" (and {} more)", faults.size() - 1) : "");
  auto peers = peers_of(c, filters);
  if (!peers) return tl::unexpected(peers.error());
  s.peers = std::move(*peers);
  auto ranges = ranges_of(c, filters);
  if (!ranges) return tl::unexpected(ranges.error());
  s.ranges = std::move(*ranges);
  s.from_datastore = c.boolean("bgp.peers_from_datastore");
  s.bird_dir = bird_dir(c, role.run_dir);
  s.secrets_dir = c.text("bgp.secrets_dir");

  auto source = c.ip("bgp.source_address");
  if (!source) {
    auto guessed = default_source(c, s.peers, host);
    if (!guessed) return tl::unexpected(guessed.error());
    source = *guessed;
  }
  (source->is_v4() ? s.ipv4 : s.ipv6) = *source;
  if (const auto second = c.ip("bgp.source_address6")) {
    if (!second->is_v6()) return fail(Errc::invalid, "[bgp] source_address6 = {}: not an IPv6 address", *second);
    if (s.ipv6 && *s.ipv6 != *second)
      return fail(Errc::invalid, "[bgp] source_address and source_address6 are two IPv6 addresses; set one");
    s.ipv6 = *second;
  }

  auto& e = s.engine;
  const auto router_id = c.ip("bgp.router_id");
  if (router_id)
    e.router_id = *router_id;
  else if (s.ipv4)
    e.router_id = *s.ipv4;
  if (!e.router_id.is_v4() || e.router_id.is_unspecified())
    return fail(Errc::invalid, "[bgp] router_id must be an IPv4 address other than 0.0.0.0; set it");
  e.local_as = Asn{static_cast<std::uint32_t>(c.integer("bgp.local_as"))};
  for (const auto& at : c.ip_ports("bgp.listen")) e.listen.push_back({at.ip, at.port});
  if (e.listen.empty()) {
    if (s.ipv4) e.listen.push_back({*s.ipv4, 179});
    if (s.ipv6) e.listen.push_back({*s.ipv6, 179});
  }
  e.source_address = source;
  e.next_hop_v4 = s.ipv4;
  e.next_hop_v6 = s.ipv6;
  e.cluster_id = c.ip("bgp.cluster_id");
  if (e.cluster_id && !e.cluster_id->is_v4())
    return fail(Errc::invalid, "[bgp] cluster_id = {}: must be an IPv4 address", *e.cluster_id);
  if (role.reflector && !e.cluster_id) e.cluster_id = e.router_id;
  e.hold_time = seconds_of(c, "bgp.hold_time");
  e.graceful_restart = c.boolean("bgp.graceful_restart");
  e.restart_time = seconds_of(c, "bgp.graceful_restart_time");
  e.long_lived_stale_time = seconds_of(c, "bgp.long_lived_stale_time");
  e.send_hold_time = seconds_of(c, "bgp.send_hold_time");
  // A reflector forwards nothing: kept when isolated, its routes would only outlive their truth.
  if (role.compute) e.keep_when_isolated = seconds_of(c, "bgp.keep_when_isolated");
  e.forwards = role.compute;
  e.state_dir = role.state_dir;
  e.max_paths = static_cast<std::uint32_t>(c.integer("bgp.max_paths"));
  e.drain_time = seconds_of(c, "bgp.drain_time");
  // One source for peers of either family: the engine takes the default only for its own.
  for (auto* list : {&s.peers})
    for (auto& p : *list)
      if (!p.local_address) p.local_address = p.address.is_v4() ? s.ipv4 : s.ipv6;

  auto& k = s.kernel;
  k.import_interfaces = role.compute ? c.list("bgp.kernel_import") : std::vector<std::string>{};
  if (const auto protocols = c.list("bgp.kernel_import_protocols"); !protocols.empty()) {
    k.import_protocols.clear();
    for (const auto& text : protocols) {
      unsigned n = 0;
      const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), n);
      if (ec != std::errc() || end != text.data() + text.size() || n == 0 || n > 255)
        return fail(Errc::invalid, "[bgp] kernel_import_protocols: '{}' is not a number from 1 to 255", text);
      if (n == k.protocol)
        return fail(Errc::invalid, "[bgp] kernel_import_protocols: {} marks the routes BGP itself installs", n);
      k.import_protocols.push_back(static_cast<std::uint8_t>(n));
    }
  }
  k.export_routes = c.is_given("bgp.kernel_export") ? c.boolean("bgp.kernel_export") : role.compute;
  return s;
}

}  // namespace calico::bgp
