#include "core/bgp/birdc/format.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <map>

namespace calico::bgp::birdc {

using std::chrono::milliseconds;

namespace {
constexpr std::size_t kMaxLines = 200;  // of one answer to `configure`

constexpr std::uint32_t kSecondary = 0x01;  // IFA_F_SECONDARY
constexpr std::uint32_t kIffBroadcast = 0x2, kIffPointToPoint = 0x10, kIffMulticast = 0x1000;

std::string version(const Shape& shape) {
  return fmt::format("{}-calico-node-{}", shape.bird1() ? "1.6.8" : "2.0.12", CALICO_VERSION);
}

std::string date_time(WallTime t, const char* format, bool millis) {
  const auto s = std::chrono::system_clock::to_time_t(t);
  const auto ms = std::chrono::duration_cast<milliseconds>(t.time_since_epoch()).count() % 1000;
  tm parts{};
  localtime_r(&s, &parts);
  std::array<char, 64> buf{};
  std::strftime(buf.data(), buf.size(), format, &parts);
  return millis ? fmt::format("{}.{:03}", buf.data(), ms) : std::string(buf.data());
}

/// Text of a client or a peer must not break the framing of lines.
std::string printable(std::string_view text) {
  std::string clean(text);
  for (auto& c : clean)
    if (static_cast<unsigned char>(c) < 0x20 && c != '\t') c = '?';
  return clean;
}

std::string_view scope(const Ip& ip) {
  if (ip.is_loopback()) return "host";
  if (ip.is_link_local()) return "link";
  static const std::array kPrivate{Prefix::parse("10.0.0.0/8"), Prefix::parse("172.16.0.0/12"),
                                   Prefix::parse("192.168.0.0/16"), Prefix::parse("fc00::/7")};
  for (const auto& p : kPrivate)
    if (p && p->contains(ip)) return "site";
  return "univ";
}

}  // namespace

std::string since(const Shape& shape, WallTime t) {
  if (std::chrono::system_clock::now() - t < std::chrono::hours(20)) return date_time(t, "%H:%M:%S", !shape.bird1());
  return date_time(t, "%Y-%m-%d", false);
}

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

std::string greeting(const Shape& shape) { return fmt::format("0001 BIRD {} ready.\n", version(shape)); }

std::string_view table(const Shape& shape, Family f) {
  if (shape.bird1()) return "master";
  return f == Family::v4 ? "master4" : "master6";
}

void status(Reply& out, const Shape& shape, const EngineStatus& s, WallTime now) {
  const auto full = [&](WallTime t) { return date_time(t, "%Y-%m-%d %H:%M:%S", !shape.bird1()); };
  const auto seconds = [](milliseconds ms) { return fmt::format("{}.{:03}", ms.count() / 1000, ms.count() % 1000); };
  out.line(1000, fmt::format("BIRD {}", version(shape)));
  out.line(1011, fmt::format("Router ID is {}", s.router_id));
  if (!shape.bird1()) {
    std::array<char, 256> host{};
    if (gethostname(host.data(), host.size() - 1) != 0) host[0] = '?';
    out.line(1011, fmt::format("Hostname is {}", host.data()));
  }
  out.line(1011, "Current server time is " + full(now));
  out.line(1011, "Last reboot on " + full(s.started));
  out.line(1011, "Last reconfiguration on " + full(s.last_reconfiguration));
  if (s.draining)
    out.line(1011, s.drain_left.count() > 0
                       ? fmt::format("Graceful shutdown is on, neighbors have {} s more", seconds(s.drain_left))
                       : "Graceful shutdown is on, ready to be stopped");
  // Readiness checks take this code, with this beginning, for "not yet".
  if (s.restarting) {
    out.line(24, "Graceful restart recovery in progress");
    out.line(24, fmt::format("  Waiting for peers, at most {} s more", seconds(s.deferral_left)));
  }
  if (s.isolated && s.isolated_left.count() > 0)
    out.line(24, fmt::format("No session is up: stale routes are kept for {} s more", seconds(s.isolated_left)));
  out.end(13, "Daemon is up and running");
}

void interfaces(Reply& out, const Shape& shape, const ShowInterfaces& command, const std::vector<netlink::Link>& links,
                const std::vector<netlink::Address>& addresses) {
  std::map<IfIndex, std::vector<const netlink::Address*>> by_link;
  for (const auto& a : addresses)
    if (shape.shows(a.prefix.family())) by_link[a.link].push_back(&a);
  if (command.summary)
    out.line(2005, shape.bird1()
                       ? "interface state address"
                       : fmt::format("{:<10} {:<6} {:<18} {}", "Interface", "State", "IPv4 address", "IPv6 address"));
  for (const auto& l : links) {
    const auto found = by_link.find(l.index);
    static const std::vector<const netlink::Address*> kNone;
    const auto& own = found == by_link.end() ? kNone : found->second;
    // A BIRD 1 daemon sees no use in a link without an address of its family.
    const bool up = l.running() && (!shape.bird1() || !own.empty());
    const auto state = up ? "up" : shape.bird1() ? "DOWN" : "down";
    const auto first = [&](Family f) -> std::string {
      for (const auto* a : own)
        if (a->prefix.family() == f && !a->prefix.addr.is_link_local()) return a->prefix.to_string();
      return "";
    };
    if (command.summary) {
      out.line(1005, shape.bird1()
                         ? fmt::format("{:<9} {:<5} {}", l.name, state, first(*shape.only))
                         : fmt::format("{:<10} {:<6} {:<18} {}", l.name, state, first(Family::v4), first(Family::v6)));
      continue;
    }
    out.line(1001, fmt::format("{} {} (index={})", l.name, state, l.index.value));
    std::string flags = l.flags & kIffPointToPoint ? "PtP" : "MultiAccess";
    if (l.flags & kIffBroadcast) flags += " Broadcast";
    if (l.flags & kIffMulticast) flags += " Multicast";
    if (l.admin_up()) flags += " AdminUp";
    if (l.running()) flags += " LinkUp";
    if (l.loopback()) flags += " Loopback Ignored";
    out.line(1004, fmt::format("\t{} MTU={}", flags, l.mtu));
    for (const auto* a : own)
      out.line(1003, fmt::format("\t{} ({}, scope {})", a->prefix.to_string(),
                                 a->prefix.addr.is_v4() && (a->flags & kSecondary) ? "Secondary"
                                 : shape.bird1()                                   ? "Primary"
                                                                                   : "Preferred",
                                 scope(a->prefix.addr)));
  }
  out.end(0);
}

void memory(Reply& out, const Shape& shape, const MemoryUse& use) {
  // As BIRD rounds: bytes below 10 000, then kB, MB.
  const auto old_size = [](std::size_t n) {
    return n < 10000          ? fmt::format("{:>5}  B", n)
           : n < 10000 * 1024 ? fmt::format("{:>5} kB", n / 1024)
                              : fmt::format("{:>5} MB", n / 1024 / 1024);
  };
  const auto size = [](std::size_t n) {
    auto v = static_cast<double>(n);
    const char* unit = " B";
    for (const char* next : {"kB", "MB", "GB"}) {
      if (v < 10000) break;
      v /= 1024;
      unit = next;
    }
    return fmt::format("{:>7.1f} {}", v, unit);
  };
  out.line(1018, "BIRD memory usage");
  if (shape.bird1()) {
    out.line(1018, fmt::format("{:<17}{}", "Heap:", old_size(use.in_use)));
    out.line(1018, fmt::format("{:<17}{}", "Standby memory:", old_size(use.free)));
    out.line(1018, fmt::format("{:<17}{}", "Total:", old_size(use.resident)));
  } else {
    out.line(1018, fmt::format("{:<17} {:>9}  {:>10}", "", "Effective", "Overhead"));
    out.line(1018, fmt::format("{:<17}{}  {}", "Heap:", size(use.in_use), size(0)));
    out.line(1018, fmt::format("{:<17}{}  {}", "Standby memory:", size(0), size(use.free)));
    out.line(1018, fmt::format("{:<17}{}  {}", "Total:", size(use.resident - std::min(use.resident, use.free)),
                               size(std::min(use.resident, use.free))));
  }
  out.end(0);
}

void symbols(Reply& out, const Shape& shape, const ShowSymbols& command, const std::vector<PeerStatus>& peers,
             bool kernel) {
  std::size_t n = 0;
  const auto one = [&](std::string_view name, std::string_view word, std::string_view kind) {
    if (!command.only.empty() && command.only != word && command.only != name) return;
    out.line(1010, fmt::format("{:<8}\t{}", name, kind));
    ++n;
  };
  if (shape.bird1()) {
    one("master", "table", "routing table");
  } else {
    one("master4", "table", "routing table");
    one("master6", "table", "routing table");
  }
  if (kernel) one(kKernel, "protocol", "protocol");
  for (const auto& p : peers)
    if (shown(shape, p)) one(p.config.name, "protocol", "protocol");
  if (n == 0 && command.only != "protocol") return out.end(9001, command.only.substr(0, 64) + " is not a symbol");
  out.end(0);
}

void configured(Reply& out, const ConfigureAnswer& answer, bool check) {
  out.line(2, fmt::format("Reading configuration from {}", answer.source));
  const auto shown_lines = std::min(answer.changes.size(), kMaxLines);
  for (std::size_t i = 0; i < shown_lines; ++i) out.line(2, answer.changes[i]);
  if (shown_lines < answer.changes.size()) out.line(2, fmt::format("and {} more", answer.changes.size() - shown_lines));
  if (!answer.faults.empty()) {
    const auto n = std::min(answer.faults.size(), kMaxLines);
    for (std::size_t i = 0; i + 1 < n; ++i) out.line(8002, answer.faults[i]);
    return out.end(8002, answer.faults[n - 1]);
  }
  if (answer.changes.empty()) out.line(2, "nothing changed");
  if (check) return out.end(20, "Configuration OK");
  out.end(3, "Reconfigured");
}

}  // namespace calico::bgp::birdc
