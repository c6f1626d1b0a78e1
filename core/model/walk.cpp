#include "core/model/walk.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace calico::model {
namespace {

constexpr int kDepth = 16;  // as deep as the kernel jumps

/// The last of the disjoint ranges that begins at or before `probe`; null when there is none.
const Element* before(const std::set<Element>& elements, const Element& probe) {
  const auto it = elements.upper_bound(probe);
  return it == elements.begin() ? nullptr : &*std::prev(it);
}

Ip highest(Family f) {
  std::array<std::byte, 16> ones{};
  ones.fill(std::byte{0xff});
  return Ip::from_bytes(std::span(ones).first(f == Family::v4 ? 4 : 16));
}

}  // namespace

bool Walk::in_addresses(const std::string& set, const Ip& ip) const {
  const auto it = r_.sets.find(set);
  if (it == r_.sets.end()) return false;
  Element probe;
  probe.ip = ip;
  probe.ip_end = highest(ip.family());
  probe.port = probe.port_end = 0xffff;
  const auto* e = before(it->second.elements, probe);
  return e && e->ip.family() == ip.family() && e->ip <= ip && ip <= e->ip_end;
}

bool Walk::in_ports(const std::string& set, std::uint16_t port) const {
  const auto it = r_.sets.find(set);
  if (it == r_.sets.end()) return false;
  Element probe;
  probe.port = port;
  probe.port_end = 0xffff;
  const auto* e = before(it->second.elements, probe);
  return e && e->port <= port && port <= e->port_end;
}

bool Walk::in_ip_ports(const std::string& set, const Ip& ip, std::uint16_t port) const {
  const auto it = r_.sets.find(set);
  if (it == r_.sets.end()) return false;
  Element e;
  e.ip = e.ip_end = ip;
  e.port = e.port_end = port;
  return it->second.elements.contains(e);
}

bool Walk::side(const MatchRule::Side& s, const Ip& ip, std::uint16_t port) const {
  if (s.net && !s.net->contains(ip)) return false;
  if (!s.ip_port_set.empty() && !in_ip_ports(s.ip_port_set, ip, port)) return false;
  for (const auto& n : s.not_ip_port_sets)
    if (in_ip_ports(n, ip, port)) return false;
  for (const auto& n : s.in_sets)
    if (!in_addresses(n, ip)) return false;
  for (const auto& n : s.not_in_sets)
    if (in_addresses(n, ip)) return false;
  if (s.ports && (port < s.ports->first || port > s.ports->last)) return false;
  if (!s.port_set.empty() && !in_ports(s.port_set, port)) return false;
  return s.not_port_set.empty() || !in_ports(s.not_port_set, port);
}

bool Walk::matches(const MatchRule& m, const Packet& p) const {
  const auto icmp = [&](const Icmp& i) {
    return i.type == p.icmp.type && (!i.code || *i.code == p.icmp.code.value_or(0));
  };
  return (!m.family || *m.family == p.src.family()) && (!m.protocol || *m.protocol == p.protocol) &&
         (!m.not_protocol || *m.not_protocol != p.protocol) && (!m.icmp || icmp(*m.icmp)) &&
         (!m.not_icmp || (m.not_icmp->code ? *m.not_icmp->code != p.icmp.code.value_or(0) : !icmp(*m.not_icmp))) &&
         side(m.src, p.src, p.src_port) && side(m.dst, p.dst, p.dst_port);
}

std::optional<bool> Walk::chain(const std::string& name, const Packet& p, int depth) const {
  const auto it = r_.chains.find(name);
  if (it == r_.chains.end() || depth > kDepth) return false;
  for (const auto& m : it->second) {
    if (!matches(m, p)) continue;
    switch (m.verdict) {
      case Verdict::accept:
        return true;
      case Verdict::drop:
      case Verdict::pass:  // the compiler leaves none
        return false;
      case Verdict::return_:
        return {};
      case Verdict::log:
        break;
      case Verdict::jump:
      case Verdict::go:
        if (const auto v = chain(m.target, p, depth + 1); v || m.verdict == Verdict::go) return v;
    }
  }
  return {};
}

bool Walk::allowed(const EndpointPlan& plan, Direction direction, const Packet& packet) const {
  const auto map = r_.sets.find(direction == Direction::ingress ? "to" : "from");
  if (map == r_.sets.end()) return false;
  Element probe;
  probe.group = plan.group;
  const auto it = map->second.elements.lower_bound(probe);
  if (it == map->second.elements.end() || it->group != plan.group) return false;
  return chain(it->chain, packet, 0).value_or(false);
}

bool Walk::allowed_host(const std::string& interface, HostTraffic traffic, Direction direction,
                        const Packet& packet) const {
  const auto way = fmt::format("{}{}", traffic == HostTraffic::forwarded ? "fwd-" : "",
                               direction == Direction::ingress ? "in" : "out");
  if (const auto map = r_.sets.find("hosts-" + way); map != r_.sets.end())
    for (const auto& e : map->second.elements)
      if (e.interface_name == interface) return chain(e.chain, packet, 0).value_or(false);
  return chain("any-" + way, packet, 0).value_or(true);
}

}  // namespace calico::model
