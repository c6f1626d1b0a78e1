#include <fmt/format.h>

#include <algorithm>

#include "core/bgp/birdc/format.hpp"

namespace calico::bgp::birdc {

using std::chrono::milliseconds;

namespace {

/// Timers: BIRD 2 shows milliseconds.
std::string timer(const Shape& shape, milliseconds ms) {
  if (shape.bird1()) return fmt::format("{}", ms.count() / 1000);
  return fmt::format("{}.{:03}", ms.count() / 1000, ms.count() % 1000);
}

std::string header(const Shape& shape) {
  return shape.bird1()
             ? fmt::format("{:<8} {:<8} {:<8} {:<6} {:<10}  {}", "name", "proto", "table", "state", "since", "info")
             : fmt::format("{:<10} {:<10} {:<10} {:<6} {:<12}  {}", "Name", "Proto", "Table", "State", "Since", "Info");
}

std::string protocol_line(const Shape& shape, std::string_view name, std::string_view proto, std::string_view state,
                          WallTime t, std::string_view info) {
  if (shape.bird1())
    return fmt::format("{:<8} {:<8} {:<8} {:<6} {:<10}  {}", name, proto, "master", state, since(shape, t), info);
  return fmt::format("{:<10} {:<10} {:<10} {:<6} {:<12}  {}", name, proto, "---", state, since(shape, t), info);
}

std::string families(bool v4, bool v6) {
  std::string out;
  if (v4) out += " ipv4";
  if (v6) out += " ipv6";
  return out;
}

void capabilities(Reply& out, std::string_view whose, const CapabilityInfo& c) {
  const auto line = [&](std::string_view text) { out.line(1006, text); };
  line(fmt::format("    {} capabilities", whose));
  line("      Multiprotocol");
  line("        AF announced:" + families(c.ipv4, c.ipv6));
  if (c.refresh) line("      Route refresh");
  if (c.extended_next_hop) {
    line("      Extended next hop");
    line("        IPv6 nexthop: ipv4");
  }
  if (c.extended_message) line("      Extended message");
  if (c.graceful_restart) {
    line("      Graceful restart");
    line(fmt::format("        Restart time: {}", c.restart_time.count()));
    if (c.restarting) line("        Restart recovery");
    line("        AF supported:" + families(c.gr_ipv4, c.gr_ipv6));
    line("        AF preserved:" + families(c.preserved_ipv4, c.preserved_ipv6));
  }
  if (c.as4) line("      4-octet AS numbers");
  const auto rx = families(c.add_path_rx_ipv4, c.add_path_rx_ipv6),
             tx = families(c.add_path_tx_ipv4, c.add_path_tx_ipv6);
  if (!rx.empty() || !tx.empty()) {
    line("      ADD-PATH");
    line("        RX:" + rx);
    line("        TX:" + tx);
  }
  if (c.enhanced_refresh) line("      Enhanced refresh");
  if (c.llgr) {
    line("      Long-lived graceful restart");
    if (!c.llgr_ipv4 && !c.llgr_ipv6) return;
    line(fmt::format("        LL stale time: {}", std::max(c.llgr_time_ipv4, c.llgr_time_ipv6).count()));
    line("        AF supported:" + families(c.llgr_ipv4, c.llgr_ipv6));
    line("        AF preserved:" + families(c.llgr_preserved_ipv4, c.llgr_preserved_ipv6));
  }
}

/// The same on one line, as BIRD 1 has it.
std::string capabilities_line(const CapabilityInfo& c) {
  std::string out;
  if (c.refresh) out += " refresh";
  if (c.enhanced_refresh) out += " enhanced-refresh";
  if (c.graceful_restart) out += c.gr_ipv4 || c.gr_ipv6 ? " restart-able" : " restart-aware";
  if (c.llgr) out += c.llgr_ipv4 || c.llgr_ipv6 ? " llgr-able" : " llgr-aware";
  if (c.as4) out += " AS4";
  if (c.extended_message) out += " ext-messages";
  return out;
}

/// Preference to counters: what BIRD 1 says of the protocol and BIRD 2 of each channel.
void policy(Reply& out, std::string_view indent, const PeerStatus& p) {
  const auto line = [&](std::string_view text) { out.line(1006, fmt::format("{}{}", indent, text)); };
  line("Preference:     100");
  line(fmt::format("Input filter:   {}", p.imports ? "ACCEPT" : "REJECT"));
  line(fmt::format("Output filter:  {}", p.exports ? "ACCEPT" : "REJECT"));
  if (p.config.max_prefix != 0) {
    line(fmt::format("Import limit:   {}", p.config.max_prefix));
    line("  Action:       restart");
  }
}

void counters(Reply& out, std::string_view indent, const PeerStatus& p, Family family) {
  const auto& f = family == Family::v4 ? p.v4 : p.v6;
  auto c = p.counters.v6;
  if (family == Family::v4) {
    const auto& all = p.counters;
    c = {all.import_updates - c.import_updates,     all.import_rejected - c.import_rejected,
         all.import_withdraws - c.import_withdraws, all.treated_as_withdraw - c.treated_as_withdraw,
         all.export_updates - c.export_updates,     all.export_withdraws - c.export_withdraws};
  }
  const auto line = [&](std::string_view text) { out.line(1006, fmt::format("{}{}", indent, text)); };
  line(fmt::format("Routes:         {} imported, {} exported, {} preferred", f.imported, f.exported, f.preferred));
  line("Route change stats:     received   rejected   filtered    ignored   accepted");
  const auto accepted = c.import_updates - std::min(c.import_updates, c.import_rejected);
  line(fmt::format("  Import updates:     {:>10} {:>10} {:>10} {:>10} {:>10}", c.import_updates + c.treated_as_withdraw,
                   c.treated_as_withdraw, c.import_rejected, 0, accepted));
  line(fmt::format("  Import withdraws:   {:>10} {:>10}        --- {:>10} {:>10}", c.import_withdraws, 0, 0,
                   c.import_withdraws));
  line(fmt::format("  Export updates:     {:>10} {:>10} {:>10}        --- {:>10}", c.export_updates, 0, 0,
                   c.export_updates));
  line(fmt::format("  Export withdraws:   {:>10}        ---        ---        --- {:>10}", c.export_withdraws,
                   c.export_withdraws));
}

void channel(Reply& out, const Shape& shape, const PeerStatus& p, Family family) {
  const auto line = [&](std::string_view text) { out.line(1006, text); };
  const auto& f = family == Family::v4 ? p.v4 : p.v6;
  const bool up = p.state == PeerState::established && f.negotiated;
  const bool starting = f.imported != 0 && !up;
  line(fmt::format("  Channel ipv{}", family == Family::v4 ? 4 : 6));
  line(fmt::format("    State:          {}", up ? "UP" : starting ? "START" : "DOWN"));
  line(fmt::format("    Table:          {}", table({}, family)));
  policy(out, "    ", p);
  if (!up && !starting) return;
  counters(out, "    ", p, family);
  if (f.stale != 0) {
    if (p.gr_active) line(fmt::format("    Neighbor GR:    {}", f.long_lived ? "Long-lived" : "Regular"));
    if (f.long_lived) line(fmt::format("    LL stale timer: {}/-", timer(shape, f.long_lived_left)));
    line(fmt::format("    Stale routes:   {}", f.stale));
  }
  line(fmt::format("    End-of-RIB:     {}, {}", f.eor_received ? "received" : "awaited",
                   f.eor_sent ? "sent" : "not sent"));
  if (up && p.local_address && p.local_address->family() == family)
    line(fmt::format("    BGP Next hop:   {}", *p.local_address));
}

std::string_view bird_state(const PeerStatus& p) {
  if (p.disabled) return "Down";
  if (p.state == PeerState::active && p.passive_wait) return "Passive";
  return to_string(p.state);
}

void session(Reply& out, const Shape& shape, const PeerStatus& p, Asn local_as) {
  const auto line = [&](std::string_view text) { out.line(1006, text); };
  const bool up = p.state == PeerState::established;
  const auto remote_as = p.config.remote_as.value_or(local_as);
  const bool internal = remote_as == local_as;
  line(fmt::format("  BGP state:          {}", bird_state(p)));
  line(fmt::format("    Neighbor address: {}", p.config.address));
  line(fmt::format("    Neighbor AS:      {}", remote_as));
  if (!shape.bird1()) line(fmt::format("    Local AS:         {}", local_as));
  if (p.gr_active) {
    line("    Neighbor graceful restart active");
    if (p.gr_left.count() > 0)
      line(fmt::format("    Restart timer:    {}/-", timer(shape, p.gr_left)));
    else if (up)
      line("    Restart timer:    waiting for End-of-RIB");
    else if (!p.v4.long_lived && !p.v6.long_lived)
      line("    Restart timer:    kept while isolated");
  }
  if (up) {
    if (p.neighbor_id) line(fmt::format("    Neighbor ID:      {}", *p.neighbor_id));
    if (shape.bird1()) {
      line(fmt::format("    Neighbor caps:   {}", capabilities_line(p.neighbor)));
    } else {
      capabilities(out, "Local", p.local);
      capabilities(out, "Neighbor", p.neighbor);
    }
    // Our iBGP sends with TTL 255 unless told otherwise, which is BIRD's multihop.
    const bool multihop = p.config.multihop > 1 || (internal && p.config.multihop == 0 && !p.config.ttl_security);
    line(fmt::format("    Session:          {}{}{}{}", internal ? "internal" : "external", multihop ? " multihop" : "",
                     p.config.route_reflector_client ? " route-reflector" : "", p.neighbor.as4 ? " AS4" : ""));
    if (p.local_address) line(fmt::format("    Source address:   {}", *p.local_address));
    line(fmt::format("    Hold timer:       {}/{}", timer(shape, p.hold_left), p.hold_time.count()));
    line(fmt::format("    Keepalive timer:  {}/{}", timer(shape, p.keepalive_left), p.keepalive_time.count()));
  }
  if (!p.last_error.empty()) line(fmt::format("    Last error:       {}", p.last_error));
}

void bgp_protocol(Reply& out, const Shape& shape, const PeerStatus& p, Asn local_as, bool all) {
  const bool up = p.state == PeerState::established;
  const bool down = p.disabled || p.state == PeerState::idle;
  const auto info = p.disabled ? p.last_error
                    : up       ? fmt::format("{:<14}", bird_state(p))
                               : fmt::format("{:<14}{}", bird_state(p), p.last_error);
  out.line(1002, protocol_line(shape, p.config.name, "BGP", up ? "up" : down ? "down" : "start", p.since, info));
  if (!all) return;
  out.line(1006, fmt::format("  Description:    {}", p.config.from == Origin::datastore ? "from the datastore"
                                                     : p.dynamic                        ? "from a range"
                                                                                        : "from the configuration"));
  if (shape.bird1()) {
    policy(out, "  ", p);
    if (!p.disabled) counters(out, "  ", p, *shape.only);
    session(out, shape, p, local_as);
  } else {
    session(out, shape, p, local_as);
    if (p.config.ipv4) channel(out, shape, p, Family::v4);
    if (p.config.ipv6) channel(out, shape, p, Family::v6);
  }
  out.line(1006, "");
}

}  // namespace

bool shown(const Shape& shape, const PeerStatus& p) {
  if (!shape.only) return true;
  const bool v4 = *shape.only == Family::v4;
  if (!(v4 ? p.config.ipv4 : p.config.ipv6)) return false;
  return p.state != PeerState::established || (v4 ? p.v4 : p.v6).negotiated;
}

void no_protocol(Reply& out, const Shape& shape, const Names& names) {
  if (names.kind != Names::Kind::name) return out.end(8003, "No protocols match");
  out.end(shape.bird1() ? 9002 : 9001, names.text.substr(0, 64) + " is not a protocol");
}

void protocols(Reply& out, const Shape& shape, const ShowProtocols& command, const std::vector<PeerStatus>& peers,
               const EngineStatus& engine, bool kernel) {
  const auto wanted = [&](const PeerStatus& p) { return shown(shape, p) && command.names.fits(p.config.name); };
  const bool with_kernel = kernel && command.names.fits(kKernel);
  if (command.names.kind != Names::Kind::all && !with_kernel && std::none_of(peers.begin(), peers.end(), wanted))
    return no_protocol(out, shape, command.names);
  out.line(2002, header(shape));
  if (with_kernel) {
    out.line(1002, protocol_line(shape, kKernel, "Kernel", "up", engine.started, ""));
    if (command.all) {
      if (shape.bird1())
        out.line(1006, fmt::format("  Networks:       {}",
                                   *shape.only == Family::v4 ? engine.networks_v4 : engine.networks_v6));
      else
        out.line(1006, fmt::format("  Networks:       {} IPv4, {} IPv6", engine.networks_v4, engine.networks_v6));
      out.line(1006, "");
    }
  }
  for (const auto& p : peers)
    if (wanted(p)) bgp_protocol(out, shape, p, engine.local_as, command.all);
  out.end(0);
}

}  // namespace calico::bgp::birdc
