#include "core/bgp/birdc/format.hpp"

#include <fmt/format.h>
#include <net/if.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <ctime>

namespace calico::bgp::birdc {

using std::chrono::milliseconds;

namespace {

constexpr std::string_view kVersion = "2.0.12-calico-node-" CALICO_VERSION;

std::string date_time(WallTime t, const char* format) {
  const auto s = std::chrono::system_clock::to_time_t(t);
  const auto ms = std::chrono::duration_cast<milliseconds>(t.time_since_epoch()).count() % 1000;
  tm parts{};
  localtime_r(&s, &parts);
  std::array<char, 64> buf{};
  std::strftime(buf.data(), buf.size(), format, &parts);
  return fmt::format("{}.{:03}", buf.data(), ms);
}

/// BIRD's short form: the time of day, after 20 hours the date.
std::string since(WallTime t) {
  if (std::chrono::system_clock::now() - t < std::chrono::hours(20)) return date_time(t, "%H:%M:%S");
  auto text = date_time(t, "%Y-%m-%d");
  return text.substr(0, 10);
}

std::string timer(milliseconds ms) { return fmt::format("{}.{:03}", ms.count() / 1000, ms.count() % 1000); }

std::vector<std::string> words(std::string_view line) {
  std::vector<std::string> out;
  std::string word;
  bool quoted = false, any = false;
  for (char c : line) {
    if (c == '"') {
      quoted = !quoted;
      any = true;
    } else if (!quoted && (c == ' ' || c == '\t' || c == '\r')) {
      if (any || !word.empty()) out.push_back(std::exchange(word, {}));
      any = false;
    } else {
      word += c;
    }
  }
  if (any || !word.empty()) out.push_back(std::move(word));
  return out;
}

bool matches(std::string_view pattern, std::string_view text) {
  // Linear: remembers the last star and backs up to it only.
  std::size_t p = 0, t = 0, star = std::string_view::npos, mark = 0;
  while (t < text.size()) {
    if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p, ++t;
    } else if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      mark = t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++mark;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

std::string table(Family f) { return f == Family::v4 ? "master4" : "master6"; }

std::string protocol_line(std::string_view name, std::string_view proto, std::string_view tab, std::string_view state,
                          WallTime t, std::string_view info) {
  return fmt::format("{:<10} {:<10} {:<10} {:<6} {:<12}  {}", name, proto, tab, state, since(t), info);
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
  if (c.extended_message) line("      Extended message");
  if (c.graceful_restart) {
    line("      Graceful restart");
    line(fmt::format("        Restart time: {}", c.restart_time.count()));
    if (c.restarting) line("        Restart recovery");
    line("        AF supported:" + families(c.gr_ipv4, c.gr_ipv6));
    line("        AF preserved:" + families(c.preserved_ipv4, c.preserved_ipv6));
  }
  if (c.as4) line("      4-octet AS numbers");
  if (c.enhanced_refresh) line("      Enhanced refresh");
}

void channel(Reply& out, const PeerStatus& p, Family family, const FamilyStatus& f) {
  const auto line = [&](std::string_view text) { out.line(1006, text); };
  const bool up = p.state == PeerState::established && f.negotiated;
  const bool starting = f.imported != 0 && !up;
  line(fmt::format("  Channel ipv{}", family == Family::v4 ? 4 : 6));
  line(fmt::format("    State:          {}", up ? "UP" : starting ? "START" : "DOWN"));
  line("    Table:          " + table(family));
  line("    Preference:     100");
  line(fmt::format("    Input filter:   {}", p.imports ? "ACCEPT" : "REJECT"));
  line(fmt::format("    Output filter:  {}", p.exports ? "ACCEPT" : "REJECT"));
  if (p.config.max_prefix != 0) {
    line(fmt::format("    Import limit:   {}", p.config.max_prefix));
    line("      Action:       disable");
  }
  if (!up && !starting) return;
  line(fmt::format("    Routes:         {} imported, {} exported, {} preferred", f.imported, f.exported, f.preferred));
  if (f.stale != 0) line(fmt::format("    Stale routes:   {}", f.stale));
  line(fmt::format("    End-of-RIB:     {}, {}", f.eor_received ? "received" : "awaited",
                   f.eor_sent ? "sent" : "not sent"));
}

void counters(Reply& out, const PeerCounters& c) {
  const auto line = [&](std::string_view text) { out.line(1006, text); };
  line("    Route change stats:     received   rejected   filtered    ignored   accepted");
  const auto accepted = c.import_updates - std::min(c.import_updates, c.import_rejected);
  line(fmt::format("      Import updates:     {:>10} {:>10} {:>10} {:>10} {:>10}",
                   c.import_updates + c.treated_as_withdraw, c.treated_as_withdraw, c.import_rejected, 0, accepted));
  line(fmt::format("      Import withdraws:   {:>10} {:>10}        --- {:>10} {:>10}", c.import_withdraws, 0, 0,
                   c.import_withdraws));
  line(fmt::format("      Export updates:     {:>10} {:>10} {:>10}        --- {:>10}", c.export_updates, 0, 0,
                   c.export_updates));
  line(fmt::format("      Export withdraws:   {:>10}        ---        ---        --- {:>10}", c.export_withdraws,
                   c.export_withdraws));
}

std::string_view bird_state(const PeerStatus& p) {
  if (p.state == PeerState::active && p.passive_wait) return "Passive";
  return to_string(p.state);
}

void bgp_protocol(Reply& out, const PeerStatus& p, Asn local_as, bool all) {
  const bool up = p.state == PeerState::established;
  const auto info = p.last_error.empty() || up ? fmt::format("{:<14}", bird_state(p))
                                               : fmt::format("{:<14}{}", bird_state(p), p.last_error);
  const auto state = up ? "up" : p.state == PeerState::idle ? "down" : "start";
  out.line(1002, protocol_line(p.config.name, "BGP", "---", state, p.since, info));
  if (!all) return;
  const auto line = [&](std::string_view text) { out.line(1006, text); };
  const auto remote_as = p.config.remote_as.value_or(local_as);
  line(fmt::format("  Description:    {}", p.config.from == Origin::datastore ? "from the datastore"
                                           : p.dynamic                        ? "from a range"
                                                                              : "from the configuration"));
  line(fmt::format("  BGP state:          {}", bird_state(p)));
  line(fmt::format("    Neighbor address: {}", p.config.address));
  line(fmt::format("    Neighbor AS:      {}", remote_as));
  line(fmt::format("    Local AS:         {}", local_as));
  if (p.gr_active) {
    line("    Neighbor graceful restart active");
    line(p.gr_left.count() > 0 ? fmt::format("    Restart timer:    {}/-", timer(p.gr_left))
         : up                  ? std::string("    Restart timer:    waiting for End-of-RIB")
                               : std::string("    Restart timer:    kept while isolated"));
  }
  if (up) {
    if (p.neighbor_id) line(fmt::format("    Neighbor ID:      {}", *p.neighbor_id));
    capabilities(out, "Local", p.local);
    capabilities(out, "Neighbor", p.neighbor);
    line(fmt::format("    Session:          {}{}{}{}", remote_as == local_as ? "internal" : "external",
                     p.config.multihop > 0 ? " multihop" : "",
                     p.config.route_reflector_client ? " route-reflector" : "", p.neighbor.as4 ? " AS4" : ""));
    if (p.local_address) line(fmt::format("    Source address:   {}", *p.local_address));
    line(fmt::format("    Hold timer:       {}/{}", timer(p.hold_left), p.hold_time.count()));
    line(fmt::format("    Keepalive timer:  {}/{}", timer(p.keepalive_left), p.keepalive_time.count()));
  }
  if (!p.last_error.empty()) line(fmt::format("    Last error:       {}", p.last_error));
  if (p.config.ipv4) channel(out, p, Family::v4, p.v4);
  if (p.config.ipv6) channel(out, p, Family::v6, p.v6);
  counters(out, p.counters);
  line("");
}

}  // namespace

namespace {

/// Text of a client or a peer must not break the framing of lines.
std::string printable(std::string_view text) {
  std::string clean(text);
  for (auto& c : clean)
    if (static_cast<unsigned char>(c) < 0x20 && c != '\t') c = '?';
  return clean;
}

}  // namespace

void Reply::line(int code, std::string_view text) {
  const auto clean = printable(text);
  if (code == last_)
    text_ += fmt::format(" {}\n", clean);
  else
    text_ += fmt::format("{:04}-{}\n", code, clean);
  last_ = code;
}

void Reply::end(int code, std::string_view text) {
  text_ += fmt::format("{:04} {}\n", code, printable(text));
  last_ = -1;
}

Command parse(std::string_view line) {
  const auto w = words(line);
  const auto unexpected = [&](std::size_t i) {
    return Bad{i < w.size() ? fmt::format("syntax error, unexpected '{}'", w[i].substr(0, 64))
                            : "syntax error, unexpected end"};
  };
  if (w.empty()) return unexpected(0);
  if (w[0] == "restrict" && w.size() == 1) return Restrict{};
  for (std::string_view verb : {"configure", "enable", "disable", "restart", "reload", "down", "debug", "eval", "dump"})
    if (w[0] == verb)
      return Bad{fmt::format(
          "'{}' is not supported here: BGP is configured by calico-node's configuration and by Nodes", verb)};
  if (w[0] != "show") return unexpected(0);
  if (w.size() < 2) return unexpected(1);
  if (w[1] == "status") return w.size() == 2 ? Command(ShowStatus{}) : Command(unexpected(2));
  if (w[1] == "protocols") {
    ShowProtocols c;
    std::size_t i = 2;
    if (i < w.size() && w[i] == "all") c.all = true, ++i;
    if (i < w.size()) c.name = w[i++];
    if (i < w.size()) return unexpected(i);
    return c;
  }
  if (w[1] != "route") {
    for (std::string_view other : {"interfaces", "memory", "symbols", "static", "ospf", "rip", "babel", "bfd"})
      if (w[1] == other) return Bad{fmt::format("'show {}' is not supported here", other)};
    return unexpected(1);
  }
  ShowRoute c;
  for (std::size_t i = 2; i < w.size(); ++i) {
    const auto& word = w[i];
    const bool more = i + 1 < w.size();
    if (word == "all") {
      c.query.with_attributes = true;
    } else if (word == "primary") {
      c.query.best_only = true;
    } else if (word == "count") {
      c.count = true;
    } else if (word == "for") {
      if (!more) return unexpected(i + 1);
      auto p = Prefix::parse(w[++i]);
      if (!p) return unexpected(i);
      c.query.covering = p->addr;
    } else if (word == "protocol") {
      if (!more) return unexpected(i + 1);
      c.query.peer = w[++i] == kKernel ? std::string() : w[i];
    } else if (word == "table") {
      if (!more) return unexpected(i + 1);
      ++i;
      if (w[i] != "master4" && w[i] != "master6" && w[i] != "all") return unexpected(i);
      if (w[i] != "all") c.query.family = w[i] == "master4" ? Family::v4 : Family::v6;
    } else if (auto p = Prefix::parse(word)) {
      c.query.exact = *p;
    } else {
      return unexpected(i);
    }
  }
  return c;
}

std::string greeting() { return fmt::format("0001 BIRD {} ready.\n", kVersion); }

void status(Reply& out, const EngineStatus& s, WallTime now) {
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0) host[0] = '?';
  constexpr const char* kFull = "%Y-%m-%d %H:%M:%S";
  out.line(1000, fmt::format("BIRD {}", kVersion));
  out.line(1011, fmt::format("Router ID is {}", s.router_id));
  out.line(1011, fmt::format("Hostname is {}", host.data()));
  out.line(1011, "Current server time is " + date_time(now, kFull));
  out.line(1011, "Last reboot on " + date_time(s.started, kFull));
  out.line(1011, "Last reconfiguration on " + date_time(s.last_reconfiguration, kFull));
  if (s.restarting) {
    out.line(24, "Graceful restart recovery in progress");
    out.line(24, fmt::format("  Waiting for peers, at most {} s more", timer(s.deferral_left)));
  }
  if (s.isolated && s.isolated_left.count() > 0)
    out.line(24, fmt::format("No session is up: stale routes are kept for {} s more", timer(s.isolated_left)));
  out.end(13, "Daemon is up and running");
}

void protocols(Reply& out, const ShowProtocols& command, const std::vector<PeerStatus>& peers,
               const EngineStatus& engine, bool kernel) {
  const auto wanted = [&](std::string_view name) { return command.name.empty() || matches(command.name, name); };
  bool any = kernel && wanted(kKernel);
  for (const auto& p : peers) any |= wanted(p.config.name);
  if (!any && !command.name.empty()) return out.end(8003, "No protocols match");
  out.line(2002,
           fmt::format("{:<10} {:<10} {:<10} {:<6} {:<12}  {}", "Name", "Proto", "Table", "State", "Since", "Info"));
  if (kernel && wanted(kKernel)) {
    out.line(1002, protocol_line(kKernel, "Kernel", "---", "up", engine.started, ""));
    if (command.all) {
      out.line(1006, fmt::format("  Networks:       {} IPv4, {} IPv6", engine.networks_v4, engine.networks_v6));
      out.line(1006, "");
    }
  }
  for (const auto& p : peers)
    if (wanted(p.config.name)) bgp_protocol(out, p, engine.local_as, command.all);
  out.end(0);
}

void RouteLines::add(Reply& out, const std::vector<RouteInfo>& routes) {
  for (const auto& r : routes) {
    if (const auto t = table(r.prefix.family()); t != heading) {
      if (!heading.empty()) out.line(1007, "");
      out.line(1007, fmt::format("Table {}:", t));
      heading = t;
      previous.reset();
    }
    const bool local = r.peer.empty();
    std::string info = " (240)";
    if (!local) {
      static constexpr std::array kOrigin{"i", "e", "?"};
      info = fmt::format(" (100{}) [{}{}]", r.stale ? "s" : "", r.origin_as ? fmt::format("AS{}", *r.origin_as) : "",
                         kOrigin[std::min<std::size_t>(r.origin, 2)]);
    }
    const bool from = !local && (!r.resolved || r.from != r.resolved->gateway);
    out.line(1007, fmt::format("{:<20} {} [{} {}{}]{}{}", previous == r.prefix ? "" : r.prefix.to_string(),
                               r.unusable.empty() ? "unicast" : "unreachable", local ? kKernel : r.peer, since(r.since),
                               from ? fmt::format(" from {}", r.from) : "", r.best ? " *" : "", info));
    previous = r.prefix;
    if (r.resolved) {
      std::array<char, IF_NAMESIZE> name{};
      const bool named = r.resolved->oif.value != 0 && if_indextoname(r.resolved->oif.value, name.data()) != nullptr;
      out.line(1007, fmt::format("\tvia {}{}", r.resolved->gateway, named ? fmt::format(" on {}", name.data()) : ""));
    }
    if (r.attributes.empty()) continue;
    out.line(1008, local ? "\tType: inherit univ" : "\tType: BGP univ");
    if (!r.unusable.empty()) out.line(1008, "\tUnusable: " + r.unusable);
    for (const auto& [name, value] : r.attributes) out.line(1012, fmt::format("\t{}: {}", name, value));
  }
}

}  // namespace calico::bgp::birdc
