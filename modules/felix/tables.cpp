#include "modules/felix/tables.hpp"

#include <algorithm>

#include "modules/felix/hosts.hpp"

namespace calico::felix {
namespace {

using nft::Field;
using nft::Rule;
using nft::TableFamily;
using nft::Type;

constexpr std::uint8_t kTcp = 6;
constexpr std::uint8_t kIcmpv6 = 58;
constexpr std::uint64_t kLogsPerSecond = 10;  // of one rule
constexpr std::int32_t kRaw = -300;
constexpr std::int32_t kDnat = -100;
constexpr std::int32_t kSnat = 100;
constexpr std::int32_t kQosFrom = kRaw + 1;  // behind the test of the source: a spoofed packet is nobody's
constexpr std::int32_t kQosForward = 2;      // behind both judgements: what a policy refuses uses up no limit
const Prefix kMetadata = *Prefix::parse("169.254.169.254/32");
const Prefix kAnyone4 = *Prefix::parse("0.0.0.0/32");
const Prefix kAnyone6 = *Prefix::parse("::/128");
const Prefix kLinkLocal6 = *Prefix::parse("fe80::/10");

Rule dhcp4() { return std::move(Rule().family(Family::v4).udp_sport(68).udp_dport(67)); }
Rule dhcp6() { return std::move(Rule().family(Family::v6).udp_sport(546).udp_dport(547)); }

StaticChain base(const nft::TableRef& table, std::string name, nft::BaseChain how) {
  return {{table, std::move(name), std::move(how), {}}, {}};
}
StaticChain plain(const nft::TableRef& table, std::string name) { return {{table, std::move(name), {}, {}}, {}}; }

/// The two tests every stage begins with: replies pass, what belongs to no connection does not.
void add_established(StaticChain& c) { c.rules.push_back(Rule().ct_state(nft::kEstablished | nft::kRelated).accept()); }
void add_invalid(StaticChain& c) {
  c.rules.push_back(Rule().ct_state(nft::kInvalid).counter().drop().comment("belongs to no connection"));
}

/// A packet in the middle of a TCP connection that was cut, from the side policy does not refuse. Only packets without
/// a connection come here, and of those the first of a connection, or of another protocol, only asks for SYN.
void add_cut(StaticChain& c, const Settings& s) {
  if (s.cut_flows) c.rules.push_back(Rule().tcp_flags(0, nft::kTcpSyn).jump("cut"));
}

StaticChain cut_chain() {
  auto c = plain(kInet, "cut");
  for (const bool six : {false, true}) {
    Rule r;
    if (six)
      r.in({Field::ip6_saddr, Field::tcp_sport, Field::ip6_daddr, Field::tcp_dport}, "cut6");
    else
      r.in({Field::ip_saddr, Field::tcp_sport, Field::ip_daddr, Field::tcp_dport}, "cut4");
    c.rules.push_back(std::move(r.counter().drop().comment("of a connection that was cut")));
  }
  return c;
}

void add_protected(StaticChain& c) {
  c.rules.push_back(
      Rule().in({Field::ip_daddr, Field::tcp_dport}, "protected4").counter().drop().comment("control port of a node"));
  c.rules.push_back(
      Rule().in({Field::ip6_daddr, Field::tcp_dport}, "protected6").counter().drop().comment("control port of a node"));
}

StaticChain source_chain() {
  auto c = plain(kInet, "source");
  auto& r = c.rules;
  r.push_back(Rule().in({Field::iifname, Field::ether_saddr, Field::ip6_saddr}, "src6").accept());
  r.push_back(Rule().in({Field::iifname, Field::ether_saddr, Field::ip_saddr}, "src4").accept());
  r.push_back(Rule()
                  .saddr(kAnyone4)
                  .udp_sport(68)
                  .udp_dport(67)
                  .in({Field::iifname, Field::ether_saddr}, "mac")
                  .accept()
                  .comment("DHCP before there is an address"));
  r.push_back(Rule().saddr(kLinkLocal6).in({Field::iifname, Field::ether_saddr}, "mac").accept());
  r.push_back(Rule()
                  .saddr(kAnyone6)
                  .l4proto(kIcmpv6)
                  .in({Field::iifname, Field::ether_saddr}, "mac")
                  .accept()
                  .comment("duplicate address detection"));
  r.push_back(Rule().in({Field::iifname, Field::ether_saddr, Field::ip_saddr}, "src4-blocks").accept());
  r.push_back(Rule().in({Field::iifname, Field::ether_saddr, Field::ip6_saddr}, "src6-blocks").accept());
  r.push_back(Rule().counter().drop().comment("spoofed, or nobody's interface"));
  return c;
}

StaticChain to_host_chain(const Settings& s) {
  auto c = plain(kInet, "to-host");
  add_established(c);
  add_invalid(c);
  auto& r = c.rules;
  // Multicast listener, router solicitation; neighbour solicitation and advertisement; listener report version 2.
  for (const std::uint8_t type : {130, 131, 132, 133, 135, 136, 143}) r.push_back(Rule().icmpv6_type(type).accept());
  r.push_back(dhcp4().accept());
  r.push_back(dhcp6().accept());
  r.push_back(Rule().udp_dport(53).accept());
  if (s.metadata_address)
    r.push_back(
        Rule().daddr(Prefix::host(*s.metadata_address)).tcp_dport(s.metadata_port).accept().comment("metadata"));
  // Whatever address of this host it is: gateway addresses are local here and in no Node.
  if (s.protect_nodes)
    for (const auto port : s.protected_ports)
      r.push_back(Rule().tcp_dport(port).counter().drop().comment("control port of this node"));
  if (!s.drop_to_host) r.push_back(Rule().vmap({Field::iifgroup}, "from"));
  r.push_back(Rule().counter().drop().comment("endpoint to host"));
  return c;
}

StaticChain dispatch_chain(const Settings& s, const std::string& name, bool from) {
  auto c = plain(kInet, name);
  add_invalid(c);
  add_cut(c, s);
  if (from) add_protected(c);
  c.rules.push_back(from ? Rule().vmap({Field::iifgroup}, "from") : Rule().vmap({Field::oifgroup}, "to"));
  c.rules.push_back(Rule().counter().drop().comment("no class"));
  return c;
}

}  // namespace

std::vector<StaticChain> static_chains(const Settings& s) {
  std::vector<StaticChain> out;
  // What others go to comes first: a rule needs its target.
  out.push_back(source_chain());
  out.push_back(to_host_chain(s));
  if (s.cut_flows) out.push_back(cut_chain());
  out.push_back(dispatch_chain(s, "from-tap", true));
  out.push_back(dispatch_chain(s, "to-tap", false));
  auto raw = base(kInet, "raw-prerouting", {"filter", nft::Hook::prerouting, kRaw});
  // Not "dnat": that is a word of nft's own, and what nft prints of it cannot be read back.
  auto dnat = base(kInet, "nat-prerouting", {"nat", nft::Hook::prerouting, kDnat});
  auto input = base(kInet, "input", {"filter", nft::Hook::input, 0});
  auto from = base(kInet, "forward-from", {"filter", nft::Hook::forward, 0});
  auto to = base(kInet, "forward-to", {"filter", nft::Hook::forward, 1});
  // First of all, whatever the interface: "accept" ends this chain only, as its end would for strangers' packets.
  add_established(from);
  add_established(to);
  auto arp_source = plain(kArp, "source");
  auto arp_input = base(kArp, "input", {"filter", nft::kArpInput, 0});
  const auto arp = [] { return Rule(TableFamily::arp); };
  auto& a = arp_source.rules;
  a.push_back(arp().in({Field::iifname, Field::arp_saddr_ether, Field::arp_saddr_ip}, "arp-src").accept());
  a.push_back(arp().match(Field::arp_saddr_ip, nft::Value::ip(kAnyone4.addr)).accept().comment("address probe"));
  a.push_back(arp().in({Field::iifname, Field::arp_saddr_ether, Field::arp_saddr_ip}, "arp-src-blocks").accept());
  a.push_back(arp().counter().drop().comment("spoofed, or nobody's interface"));
  // Nearly every packet of an endpoint ends here. The group is a number and quick to read, a name is not; it only
  // spares other interfaces' packets the rest. The element says whose packet it is, and what is none, or comes from an
  // interface without a class, goes the long way.
  raw.rules.push_back(Rule()
                          .iifgroup(model::kGroupClosed, ~(model::kGroupSpan - 1))
                          .family(Family::v4)
                          .in({Field::iifname, Field::ether_saddr, Field::ip_saddr}, "src4")
                          .accept());
  for (const auto& prefix : s.interface_prefixes) {
    const auto pattern = prefix + "*";
    raw.rules.push_back(Rule().iifname(pattern).goto_("source"));
    if (s.metadata_address)
      dnat.rules.push_back(Rule()
                               .iifname(pattern)
                               .daddr(kMetadata)
                               .tcp_dport(80)
                               .dnat(*s.metadata_address, s.metadata_port)
                               .comment("metadata"));
    input.rules.push_back(Rule().iifname(pattern).goto_("to-host"));
    from.rules.push_back(Rule().iifname(pattern).goto_("from-tap"));
    to.rules.push_back(Rule().oifname(pattern).goto_("to-tap"));
    arp_input.rules.push_back(arp().iifname(pattern).goto_("source"));
  }
  out.push_back(std::move(raw));
  // A chain of type nat is on the way of each new connection of the host, also when it is empty.
  if (!dnat.rules.empty()) out.push_back(std::move(dnat));
  for (auto& c : host_preludes(s)) out.push_back(std::move(c));
  out.push_back(std::move(input));
  out.push_back(std::move(from));
  out.push_back(std::move(to));
  out.push_back(std::move(arp_source));
  out.push_back(std::move(arp_input));
  return out;
}

std::vector<nft::Set> static_sets(const Settings& s) {
  std::vector<nft::Set> out;
  if (!s.cut_flows) return out;
  for (const auto& [name, ip] : {std::pair{"cut4", Type::ipv4_addr}, std::pair{"cut6", Type::ipv6_addr}}) {
    nft::Set set;
    set.table = kInet;
    set.name = name;
    set.key = {ip, Type::inet_service, ip, Type::inet_service};
    set.comment = "would bring back a connection that was cut";
    out.push_back(std::move(set));
  }
  return out;
}

ExtraHooks extra_hooks(const model::Ruleset& ruleset) {
  const auto any = [&](const char* set) {
    const auto it = ruleset.sets.find(set);
    return it != ruleset.sets.end() && !it->second.elements.empty();
  };
  const auto host = [&](const std::string& way) {
    const auto star = ruleset.chains.find("any-" + way);
    return any(("hosts-" + way).c_str()) || (star != ruleset.chains.end() && !star->second.empty());
  };
  return {any("qos-out-packets") || any("qos-out-bytes") || any("qos-out-peak"),
          any("qos-in-packets") || any("qos-in-connections") || any("qos-out-connections"),
          any("fip4") || any("fip6"),
          host("in"),
          host("fwd-in") || host("fwd-out"),
          host("raw-in") || host("raw-out"),
          host("pre-in")};
}

std::vector<StaticChain> extra_chains(const ExtraHooks& hooks, const std::vector<std::string>& interface_prefixes) {
  std::vector<StaticChain> out = host_hooks(hooks, interface_prefixes);
  if (hooks.floating) {
    // Before the judgements: policies see the address inside, as they are written for it.
    auto in = base(kInet, "floating-prerouting", {"nat", nft::Hook::prerouting, kDnat});
    auto local = base(kInet, "floating-output", {"nat", nft::Hook::output, kDnat});
    for (auto* c : {&in, &local}) {
      c->rules.push_back(Rule().dnat_map(Field::ip_daddr, "fip4", Family::v4));
      c->rules.push_back(Rule().dnat_map(Field::ip6_daddr, "fip6", Family::v6));
      out.push_back(std::move(*c));
    }
    auto hairpin = base(kInet, "floating-postrouting", {"nat", nft::Hook::postrouting, kSnat});
    hairpin.rules.push_back(Rule().snat_map({Field::ip_saddr, Field::ip_daddr}, "hairpin4", Family::v4));
    hairpin.rules.push_back(Rule().snat_map({Field::ip6_saddr, Field::ip6_daddr}, "hairpin6", Family::v6));
    out.push_back(std::move(hairpin));
  }
  // An element of the sets below matches while its limit is exceeded.
  if (hooks.from) {
    auto c = base(kInet, "qos-from", {"filter", nft::Hook::prerouting, kQosFrom});
    for (const auto* set : {"qos-out-packets", "qos-out-peak", "qos-out-bytes"})
      c.rules.push_back(Rule().in({Field::iifname}, set).counter().drop());
    out.push_back(std::move(c));
  }
  if (hooks.forward) {
    auto over = plain(kInet, "too-many");
    over.rules.push_back(Rule().counter().comment("connections above the limit"));
    over.rules.push_back(Rule().reject(nft::Reject::tcp_reset));
    over.rules.push_back(Rule().drop());
    auto c = base(kInet, "qos-forward", {"filter", nft::Hook::forward, kQosForward});
    c.rules.push_back(Rule().ct_state(nft::kNew).in({Field::iifname}, "qos-out-connections").goto_("too-many"));
    c.rules.push_back(Rule().ct_state(nft::kNew).in({Field::oifname}, "qos-in-connections").goto_("too-many"));
    c.rules.push_back(Rule().in({Field::oifname}, "qos-in-packets").counter().drop());
    out.push_back(std::move(over));
    out.push_back(std::move(c));
  }
  return out;
}

std::string comment_of(std::string_view text) {
  auto out = shown(text, 120);
  // nft prints comments between double quotes and cannot read back one within; selectors know both kinds.
  std::replace(out.begin(), out.end(), '"', '\'');
  return out;
}

nft::Set to_nft(const std::string& name, const model::SetContent& set) {
  using model::SetKind;
  nft::Set s;
  s.table = set.arp ? kArp : kInet;
  s.name = name;
  s.comment = comment_of(set.about);
  switch (set.kind) {
    case SetKind::if_mac_ip4:
      s.key = {Type::ifname, Type::ether_addr, Type::ipv4_addr};
      break;
    case SetKind::if_mac_ip6:
      s.key = {Type::ifname, Type::ether_addr, Type::ipv6_addr};
      break;
    case SetKind::if_mac_net4:
      s.key = {Type::ifname, Type::ether_addr, Type::ipv4_addr};
      s.interval = true;
      break;
    case SetKind::if_mac_net6:
      s.key = {Type::ifname, Type::ether_addr, Type::ipv6_addr};
      s.interval = true;
      break;
    case SetKind::if_mac:
      s.key = {Type::ifname, Type::ether_addr};
      break;
    case SetKind::ip4:
      s.key = {Type::ipv4_addr};
      break;
    case SetKind::ip6:
      s.key = {Type::ipv6_addr};
      break;
    case SetKind::net4:
      s.key = {Type::ipv4_addr};
      s.interval = true;
      break;
    case SetKind::net6:
      s.key = {Type::ipv6_addr};
      s.interval = true;
      break;
    case SetKind::ports:
      s.key = {Type::inet_service};
      s.interval = true;
      break;
    case SetKind::ip4_port:
      s.key = {Type::ipv4_addr, Type::inet_service};
      break;
    case SetKind::ip6_port:
      s.key = {Type::ipv6_addr, Type::inet_service};
      break;
    case SetKind::ip4_to_ip4:
      s.key = {Type::ipv4_addr};
      s.data = Type::ipv4_addr;
      break;
    case SetKind::ip6_to_ip6:
      s.key = {Type::ipv6_addr};
      s.data = Type::ipv6_addr;
      break;
    case SetKind::ip4_twice_to_ip4:
      s.key = {Type::ipv4_addr, Type::ipv4_addr};
      s.data = Type::ipv4_addr;
      break;
    case SetKind::ip6_twice_to_ip6:
      s.key = {Type::ipv6_addr, Type::ipv6_addr};
      s.data = Type::ipv6_addr;
      break;
    case SetKind::if_packets:
    case SetKind::if_bytes:
    case SetKind::if_connections:
      s.key = {Type::ifname};
      s.dynamic = true;
      break;
    case SetKind::group_verdict:
      s.key = {Type::devgroup};
      s.data = Type::verdict;
      break;
    case SetKind::if_verdict:
      s.key = {Type::ifname};
      s.data = Type::verdict;
      break;
  }
  return s;
}

nft::Element to_nft(model::SetKind kind, const model::Element& e) {
  using model::SetKind;
  using nft::Key;
  switch (kind) {
    case SetKind::if_mac_ip4:
    case SetKind::if_mac_ip6:
      return nft::element(Key().ifname(e.interface_name).ether(e.mac).ip(e.ip));
    case SetKind::if_mac_net4:
    case SetKind::if_mac_net6: {
      nft::Element out = nft::element(Key().ifname(e.interface_name).ether(e.mac).ip(e.ip));
      out.end = Key().ifname(e.interface_name).ether(e.mac).ip(e.ip_end);
      return out;
    }
    case SetKind::if_mac:
      return nft::element(Key().ifname(e.interface_name).ether(e.mac));
    case SetKind::ip4:
    case SetKind::ip6:
      return nft::element(Key().ip(e.ip));
    case SetKind::net4:
    case SetKind::net6:
      return nft::interval(Key().ip(e.ip), Key().ip(e.ip_end));
    case SetKind::ports:
      return nft::interval(Key().port(e.port), Key().port(e.port_end));
    case SetKind::ip4_port:
    case SetKind::ip6_port:
      return nft::element(Key().ip(e.ip).port(e.port));
    case SetKind::ip4_to_ip4:
    case SetKind::ip6_to_ip6: {
      auto out = nft::element(Key().ip(e.ip));
      out.data = nft::Value::ip(e.ip_end);
      return out;
    }
    case SetKind::ip4_twice_to_ip4:
    case SetKind::ip6_twice_to_ip6: {
      auto out = nft::element(Key().ip(e.ip).ip(e.ip));
      out.data = nft::Value::ip(e.ip_end);
      return out;
    }
    case SetKind::if_packets:
    case SetKind::if_bytes:
    case SetKind::if_connections: {
      auto out = nft::element(Key().ifname(e.interface_name));
      out.limit = nft::Limit{kind == SetKind::if_packets ? nft::Limit::Unit::packets
                             : kind == SetKind::if_bytes ? nft::Limit::Unit::bytes
                                                         : nft::Limit::Unit::connections,
                             e.rate, e.burst};
      return out;
    }
    case SetKind::group_verdict:
      return nft::element(Key().devgroup(e.group), nft::Verdict::goto_(e.chain));
    case SetKind::if_verdict:
      return nft::element(Key().ifname(e.interface_name), nft::Verdict::goto_(e.chain));
  }
  return {};
}

nft::Rule to_nft(const model::MatchRule& m) {
  Rule r;
  const bool v6 = m.family == Family::v6;
  if (m.family) r.family(*m.family);
  if (m.protocol) r.l4proto(*m.protocol);
  if (m.not_protocol) r.match(Field::l4proto, nft::Value::u8(*m.not_protocol), true);
  const auto side = [&](const model::MatchRule::Side& s, Field ip4, Field ip6, Field port) {
    const Field ip = v6 ? ip6 : ip4;
    if (s.net) r.match(ip, *s.net);
    if (!s.ip_port_set.empty()) r.in({ip, port}, s.ip_port_set);
    for (const auto& n : s.not_ip_port_sets) r.not_in({ip, port}, n);
    for (const auto& n : s.in_sets) r.in({ip}, n);
    for (const auto& n : s.not_in_sets) r.not_in({ip}, n);
    if (s.ports && s.ports->first == s.ports->last)
      r.match(port, nft::Value::be16(s.ports->first));
    else if (s.ports)
      r.range(port, nft::Value::be16(s.ports->first), nft::Value::be16(s.ports->last));
    if (!s.port_set.empty()) r.in({port}, s.port_set);
    if (!s.not_port_set.empty()) r.not_in({port}, s.not_port_set);
  };
  side(m.src, Field::ip_saddr, Field::ip6_saddr, Field::th_sport);
  side(m.dst, Field::ip_daddr, Field::ip6_daddr, Field::th_dport);
  if (m.icmp) {
    const bool six = m.protocol == kIcmpv6;
    six ? r.icmpv6_type(m.icmp->type) : r.icmp_type(m.icmp->type);
    if (m.icmp->code) six ? r.icmpv6_code(*m.icmp->code) : r.icmp_code(*m.icmp->code);
  }
  if (m.not_icmp) {
    const bool six = m.protocol == kIcmpv6;
    if (m.not_icmp->code)
      r.match(six ? Field::icmpv6_code : Field::icmp_code, nft::Value::u8(*m.not_icmp->code), true);
    else
      r.match(six ? Field::icmpv6_type : Field::icmp_type, nft::Value::u8(m.not_icmp->type), true);
  }
  if (m.accepted_early) r.mark(kAcceptedEarly, kAcceptedEarly);
  switch (m.verdict) {
    case model::Verdict::accept:
      r.accept();
      break;
    case model::Verdict::untrack:
      r.notrack().set_mark(kAcceptedEarly, kAcceptedEarly).accept();
      break;
    case model::Verdict::accept_early:
      r.set_mark(kAcceptedEarly, kAcceptedEarly).accept();
      break;
    case model::Verdict::drop:
      r.drop();
      break;
    case model::Verdict::jump:
      r.jump(m.target);
      break;
    case model::Verdict::go:
      r.goto_(m.target);
      break;
    case model::Verdict::return_:
      r.return_();
      break;
    case model::Verdict::log:
      // Tenants choose how often it matches, so it is bounded; what is above is not logged and goes on.
      r.limit(kLogsPerSecond).log("calico-packet: ");
      break;
    case model::Verdict::pass:  // never outside the compiler
      r.drop();
      break;
  }
  return r;
}

nft::Batch guard_batch(const std::vector<std::string>& prefixes) {
  nft::Batch b;
  b.add(nft::Table{.ref = kGuard, .comment = "until felix has programmed this host"});
  for (const auto& [name, hook] : {std::pair{"input", nft::Hook::input}, std::pair{"forward", nft::Hook::forward}}) {
    const nft::Chain chain{kGuard, name, nft::BaseChain{"filter", hook, -10}, {}};
    b.add(chain);
    for (const auto& prefix : prefixes) {
      if (hook == nft::Hook::input) {
        b.add(ref_of(chain), dhcp4().iifname(prefix + "*").accept());
        b.add(ref_of(chain), dhcp6().iifname(prefix + "*").accept());
      }
      b.add(ref_of(chain), Rule().iifname(prefix + "*").counter().drop());
      if (hook == nft::Hook::forward) b.add(ref_of(chain), Rule().oifname(prefix + "*").counter().drop());
    }
  }
  b.add(nft::Table{.ref = kGuardArp, .comment = "until felix has programmed this host"});
  const nft::Chain arp{kGuardArp, "input", nft::BaseChain{"filter", nft::kArpInput, -10}, {}};
  b.add(arp);
  for (const auto& prefix : prefixes) b.add(ref_of(arp), Rule(TableFamily::arp).iifname(prefix + "*").counter().drop());
  return b;
}

}  // namespace calico::felix
