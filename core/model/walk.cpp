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

bool Walk::matches(const MatchRule& m, const Packet& p, bool accepted_early) const {
  const auto icmp = [&](const Icmp& i) {
    return i.type == p.icmp.type && (!i.code || *i.code == p.icmp.code.value_or(0));
  };
  return (!m.accepted_early || accepted_early) && (!m.family || *m.family == p.src.family()) &&
         (!m.protocol || *m.protocol == p.protocol) && (!m.not_protocol || *m.not_protocol != p.protocol) &&
         (!m.icmp || icmp(*m.icmp)) &&
         (!m.not_icmp || (m.not_icmp->code ? *m.not_icmp->code != p.icmp.code.value_or(0) : !icmp(*m.not_icmp))) &&
         side(m.src, p.src, p.src_port) && side(m.dst, p.dst, p.dst_port);
}

std::optional<Verdict> Walk::chain(const std::string& name, const Packet& p, int depth, bool accepted_early) const {
  const auto it = r_.chains.find(name);
  if (it == r_.chains.end() || depth > kDepth) return Verdict::drop;
  for (const auto& m : it->second) {
    if (!matches(m, p, accepted_early)) continue;
    switch (m.verdict) {
      case Verdict::accept:
      case Verdict::untrack:
      case Verdict::accept_early:
      case Verdict::drop:
        return m.verdict;
      case Verdict::pass:  // the compiler leaves none
        return Verdict::drop;
      case Verdict::return_:
        return {};
      case Verdict::log:
        break;
      case Verdict::jump:
      case Verdict::go:
        if (const auto v = chain(m.target, p, depth + 1, accepted_early); v || m.verdict == Verdict::go) return v;
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
  return chain(it->chain, packet, 0).value_or(Verdict::drop) == Verdict::accept;
}

bool Walk::allowed_host(const std::string& interface, HostTraffic traffic, Direction direction,
                        const Packet& packet) const {
  bool accepted_early = false;
  const auto at = [&](const std::string& way) -> Verdict {
    if (const auto map = r_.sets.find("hosts-" + way); map != r_.sets.end())
      for (const auto& e : map->second.elements)
        if (e.interface_name == interface) return chain(e.chain, packet, 0, accepted_early).value_or(Verdict::drop);
    return chain("any-" + way, packet, 0, accepted_early).value_or(Verdict::accept);
  };
  const bool in = direction == Direction::ingress;
  const bool forwarded = traffic == HostTraffic::forwarded;
  if (in || !forwarded) {
    const auto v = at(in ? "raw-in" : "raw-out");
    if (v == Verdict::drop) return false;
    accepted_early = v == Verdict::untrack;
  }
  if (in && !accepted_early) {
    const auto v = at("pre-in");
    if (v == Verdict::drop) return false;
    accepted_early = v == Verdict::accept_early;
  }
  return at(fmt::format("{}{}", forwarded ? "fwd-" : "", in ? "in" : "out")) == Verdict::accept;
}

}  // namespace calico::model
