#include "core/model/ruleset.hpp"

#include <fmt/ranges.h>

#include <algorithm>

namespace calico::model {
namespace {

/// The address after `ip`; absent after the last one of the family.
std::optional<Ip> after(const Ip& ip) {
  std::vector<std::byte> b(ip.bytes().begin(), ip.bytes().end());
  for (std::size_t i = b.size(); i-- > 0;) {
    b[i] = static_cast<std::byte>(std::to_integer<unsigned>(b[i]) + 1U);
    if (b[i] != std::byte{0}) return Ip::from_bytes(b);
  }
  return {};
}

std::string ports_text(const PortRange& p) {
  return p.first == p.last ? fmt::format("{}", p.first) : fmt::format("{}-{}", p.first, p.last);
}

void side_text(std::string& out, std::string_view addr, std::string_view port, const MatchRule::Side& s) {
  if (s.net) out += fmt::format(" {} {}", addr, s.net->to_string());
  for (const auto& n : s.in_sets) out += fmt::format(" {} @{}", addr, n);
  for (const auto& n : s.not_in_sets) out += fmt::format(" {} != @{}", addr, n);
  if (!s.ip_port_set.empty()) out += fmt::format(" {} . {} @{}", addr, port, s.ip_port_set);
  for (const auto& n : s.not_ip_port_sets) out += fmt::format(" {} . {} != @{}", addr, port, n);
  if (s.ports) out += fmt::format(" {} {}", port, ports_text(*s.ports));
  if (!s.port_set.empty()) out += fmt::format(" {} @{}", port, s.port_set);
  if (!s.not_port_set.empty()) out += fmt::format(" {} != @{}", port, s.not_port_set);
}

}  // namespace

std::string_view to_string(SetKind k) {
  switch (k) {
    case SetKind::if_mac_ip4:
      return "interface . mac . ip4";
    case SetKind::if_mac_ip6:
      return "interface . mac . ip6";
    case SetKind::if_mac_net4:
      return "interface . mac . ip4 block";
    case SetKind::if_mac_net6:
      return "interface . mac . ip6 block";
    case SetKind::if_mac:
      return "interface . mac";
    case SetKind::ip4:
      return "ip4";
    case SetKind::ip6:
      return "ip6";
    case SetKind::net4:
      return "ip4 ranges";
    case SetKind::net6:
      return "ip6 ranges";
    case SetKind::ports:
      return "port ranges";
    case SetKind::ip4_port:
      return "ip4 . port";
    case SetKind::ip6_port:
      return "ip6 . port";
    case SetKind::ip4_to_ip4:
      return "ip4 : ip4";
    case SetKind::ip6_to_ip6:
      return "ip6 : ip6";
    case SetKind::ip4_twice_to_ip4:
      return "ip4 . ip4 : ip4";
    case SetKind::ip6_twice_to_ip6:
      return "ip6 . ip6 : ip6";
    case SetKind::if_packets:
      return "interface, packets/s";
    case SetKind::if_bytes:
      return "interface, bytes/s";
    case SetKind::if_connections:
      return "interface, connections";
    case SetKind::group_verdict:
      return "group : chain";
    case SetKind::if_verdict:
      return "interface : chain";
  }
  return "?";
}

std::string to_string(SetKind kind, const Element& e) {
  const auto range = [&] { return e.ip == e.ip_end ? e.ip.to_string() : fmt::format("{}-{}", e.ip, e.ip_end); };
  switch (kind) {
    case SetKind::if_mac_ip4:
    case SetKind::if_mac_ip6:
      return fmt::format("{} . {} . {}", e.interface_name, e.mac, e.ip);
    case SetKind::if_mac_net4:
    case SetKind::if_mac_net6:
      return fmt::format("{} . {} . {}", e.interface_name, e.mac, range());
    case SetKind::if_mac:
      return fmt::format("{} . {}", e.interface_name, e.mac);
    case SetKind::ip4:
    case SetKind::ip6:
      return e.ip.to_string();
    case SetKind::net4:
    case SetKind::net6:
      return range();
    case SetKind::ports:
      return ports_text({e.port, e.port_end});
    case SetKind::ip4_port:
    case SetKind::ip6_port:
      return fmt::format("{} . {}", e.ip, e.port);
    case SetKind::ip4_to_ip4:
    case SetKind::ip6_to_ip6:
      return fmt::format("{} : {}", e.ip, e.ip_end);
    case SetKind::ip4_twice_to_ip4:
    case SetKind::ip6_twice_to_ip6:
      return fmt::format("{} . {} : {}", e.ip, e.ip, e.ip_end);
    case SetKind::if_packets:
    case SetKind::if_bytes:
    case SetKind::if_connections:
      return fmt::format("{} {} burst {}", e.interface_name, e.rate, e.burst);
    case SetKind::group_verdict:
      return fmt::format("{} : {}", e.group, e.chain);
    case SetKind::if_verdict:
      return fmt::format("{} : {}", e.interface_name, e.chain);
  }
  return "?";
}

std::string to_string(const MatchRule& r) {
  std::string out;
  if (r.family) out += *r.family == Family::v4 ? " ipv4" : " ipv6";
  if (r.protocol) out += fmt::format(" protocol {}", *r.protocol);
  if (r.not_protocol) out += fmt::format(" protocol != {}", *r.not_protocol);
  const auto icmp = [](const Icmp& i) {
    return i.code ? fmt::format("{} code {}", i.type, *i.code) : fmt::format("{}", i.type);
  };
  if (r.icmp) out += fmt::format(" icmp type {}", icmp(*r.icmp));
  if (r.not_icmp) out += fmt::format(" icmp type != {}", icmp(*r.not_icmp));
  side_text(out, "saddr", "sport", r.src);
  side_text(out, "daddr", "dport", r.dst);
  if (r.accepted_early) out += " accepted early";
  switch (r.verdict) {
    case Verdict::accept:
      out += " accept";
      break;
    case Verdict::untrack:
      out += " untrack";
      break;
    case Verdict::accept_early:
      out += " accept early";
      break;
    case Verdict::drop:
      out += " drop";
      break;
    case Verdict::jump:
      out += fmt::format(" jump {}", r.target);
      break;
    case Verdict::go:
      out += fmt::format(" goto {}", r.target);
      break;
    case Verdict::return_:
      out += " return";
      break;
    case Verdict::log:
      out += " log";
      break;
    case Verdict::pass:
      out += " pass";
      break;
  }
  return out.substr(1);
}

std::string to_text(const Ruleset& r) {
  std::string out;
  for (const auto& [name, s] : r.sets) {
    out += fmt::format("{}set {} ({}){}\n", s.arp ? "arp " : "", name, to_string(s.kind),
                       s.about.empty() ? "" : "  # " + s.about);
    for (const auto& e : s.elements) out += fmt::format("  {}\n", to_string(s.kind, e));
  }
  for (const auto& [name, rules] : r.chains) {
    const auto title = r.titles.find(name);
    out += fmt::format("chain {}{}\n", name, title == r.titles.end() ? "" : "  # " + title->second);
    for (const auto& rule : rules) out += fmt::format("  {}\n", to_string(rule));
  }
  for (const auto& [key, p] : r.endpoints) {
    out += fmt::format("endpoint {} {}\n", p.name.endpoint, p.interface_name);
    out +=
        fmt::format("  mac {} group {}{}\n", p.mac ? p.mac->to_string() : "-",
                    p.group == kGroupClosed ? "closed" : fmt::format("{}", p.group), p.left_alone ? " left alone" : "");
    for (const auto& n : p.nets) out += fmt::format("  net {}\n", n);
    for (const auto& n : p.nats) out += fmt::format("  nat {} to {}\n", n.external, n.internal);
    if (const auto q = to_string(p.qos); !q.empty()) out += fmt::format("  qos {}\n", q);
    if (p.gateway4) out += fmt::format("  gateway {}\n", *p.gateway4);
    if (p.gateway6) out += fmt::format("  gateway {}\n", *p.gateway6);
    for (const auto& n : p.policies) out += fmt::format("  policy {}\n", n);
    if (!p.error.empty()) out += fmt::format("  error {}\n", p.error);
    for (const auto& n : p.notes) out += fmt::format("  note {}\n", n);
  }
  for (const auto& [key, p] : r.hosts) {
    out += fmt::format("host endpoint {}\n", p.name);
    for (const auto& n : p.interfaces) out += fmt::format("  interface {}\n", n);
    for (const auto& n : p.policies) out += fmt::format("  policy {}\n", n);
    if (!p.error.empty()) out += fmt::format("  error {}\n", p.error);
    for (const auto& n : p.notes) out += fmt::format("  note {}\n", n);
  }
  return out;
}

std::vector<std::pair<Ip, Ip>> disjoint_ranges(std::vector<Prefix> nets) {
  for (auto& n : nets) n = n.masked();
  std::sort(nets.begin(), nets.end());
  std::vector<std::pair<Ip, Ip>> out;
  for (const auto& n : nets) {
    const Ip last = n.last();
    if (!out.empty()) {
      auto& [first, end] = out.back();
      const auto next = after(end);
      if (n.addr <= end || (next && n.addr == *next)) {
        end = std::max(end, last);
        continue;
      }
    }
    out.emplace_back(n.addr, last);
  }
  return out;
}

std::vector<PortRange> disjoint_ports(std::vector<PortRange> ports) {
  std::sort(ports.begin(), ports.end());
  std::vector<PortRange> out;
  for (const auto& p : ports) {
    if (!out.empty() && p.first <= static_cast<unsigned>(out.back().last) + 1U)
      out.back().last = std::max(out.back().last, p.last);
    else
      out.push_back(p);
  }
  return out;
}

}  // namespace calico::model
