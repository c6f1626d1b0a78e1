// Received rtnetlink messages to values. Anything that does not fit its frame is no value, never a guess.
#include <linux/fib_rules.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/nexthop.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include "core/netlink/rtnl.hpp"

namespace calico::netlink {

namespace {

std::optional<Family> family_of(std::uint8_t af) {
  if (af == AF_INET) return Family::v4;
  if (af == AF_INET6) return Family::v6;
  return std::nullopt;
}

std::optional<Ip> ip_of(const Attr& a) {
  if (a.data.size() != 4 && a.data.size() != 16) return std::nullopt;
  return Ip::from_bytes(a.data);
}

Ip any(Family f) {
  static constexpr std::byte zero[16]{};
  return f == Family::v4 ? Ip{} : Ip::from_bytes(zero);
}

Mac mac_of(const Attr& a) {
  Mac m;
  if (a.data.size() == m.b.size()) std::memcpy(m.b.data(), a.data.data(), m.b.size());
  return m;
}

/// RTA_VIA: a gateway of the other family.
std::optional<Ip> via_of(const Attr& a) {
  if (a.data.size() != 2 + 4 && a.data.size() != 2 + 16) return std::nullopt;
  return Ip::from_bytes(a.data.subspan(2));
}

void read_multipath(const Attr& a, std::vector<NextHop>& out) {
  View left = a.data;
  while (left.size() >= sizeof(rtnexthop)) {
    rtnexthop h{};
    std::memcpy(&h, left.data(), sizeof h);
    if (h.rtnh_len < sizeof h || h.rtnh_len > left.size()) return;
    NextHop n;
    n.dev = IfIndex{static_cast<std::uint32_t>(h.rtnh_ifindex)};
    n.weight = static_cast<std::uint16_t>(h.rtnh_hops + 1);
    n.flags = h.rtnh_flags;
    n.onlink = (h.rtnh_flags & RTNH_F_ONLINK) != 0;
    for (const Attr& x : Attrs(left.subspan(sizeof h, h.rtnh_len - sizeof h))) {
      if (x.type == RTA_GATEWAY) n.via = ip_of(x);
      if (x.type == RTA_VIA) n.via = via_of(x);
    }
    out.push_back(n);
    left = left.subspan(std::min<std::size_t>(align4(h.rtnh_len), left.size()));
  }
}

}  // namespace

std::optional<Link> decode_link(const Message& m) {
  if ((m.type != RTM_NEWLINK && m.type != RTM_DELLINK) || !m.fits<ifinfomsg>()) return std::nullopt;
  const auto i = m.body<ifinfomsg>();
  // A port that leaves a bridge is told as RTM_DELLINK of family AF_BRIDGE: the link itself is not gone.
  if (i.ifi_family != AF_UNSPEC || i.ifi_index <= 0) return std::nullopt;
  Link l;
  l.index = IfIndex{static_cast<std::uint32_t>(i.ifi_index)};
  l.flags = i.ifi_flags;
  for (const Attr& a : m.attrs(sizeof i)) switch (a.type) {
      case IFLA_IFNAME:
        l.name = a.str();
        break;
      case IFLA_ADDRESS:
        l.mac = mac_of(a);
        break;
      case IFLA_MTU:
        l.mtu = a.u32();
        break;
      case IFLA_OPERSTATE:
        l.oper = static_cast<OperState>(std::min<std::uint8_t>(a.u8(), 6));
        break;
      case IFLA_MASTER:
        l.master = IfIndex{a.u32()};
        break;
      case IFLA_LINK:
        l.peer = IfIndex{a.u32()};
        break;
      case IFLA_GROUP:
        l.group = a.u32();
        break;
      case IFLA_LINKINFO:
        l.kind = Attrs(a.data).find(IFLA_INFO_KIND).str();
        break;
      default:
        break;
    }
  if (l.name.empty()) return std::nullopt;
  return l;
}

std::optional<Address> decode_address(const Message& m) {
  if ((m.type != RTM_NEWADDR && m.type != RTM_DELADDR) || !m.fits<ifaddrmsg>()) return std::nullopt;
  const auto i = m.body<ifaddrmsg>();
  const auto family = family_of(i.ifa_family);
  if (!family) return std::nullopt;
  Address r;
  r.link = IfIndex{i.ifa_index};
  r.scope = i.ifa_scope;
  r.flags = i.ifa_flags;
  std::optional<Ip> local, address;
  for (const Attr& a : m.attrs(sizeof i)) switch (a.type) {
      case IFA_LOCAL:
        local = ip_of(a);
        break;
      case IFA_ADDRESS:
        address = ip_of(a);
        break;
      case IFA_FLAGS:
        r.flags = a.u32();
        break;
      default:
        break;
    }
  const auto ip = local ? local : address;  // IPv6 has IFA_LOCAL only when there is a peer
  if (!ip || ip->family() != *family || i.ifa_prefixlen > ip->bits()) return std::nullopt;
  r.prefix = {*ip, i.ifa_prefixlen};
  if (local && address && *local != *address) r.peer = address;
  return r;
}

std::optional<Route> decode_route(const Message& m) {
  if ((m.type != RTM_NEWROUTE && m.type != RTM_DELROUTE) || !m.fits<rtmsg>()) return std::nullopt;
  const auto i = m.body<rtmsg>();
  const auto family = family_of(i.rtm_family);
  if (!family) return std::nullopt;
  if (i.rtm_flags & RTM_F_CLONED) return std::nullopt;
  Route r;
  r.dst = {any(*family), i.rtm_dst_len};
  r.table = TableId{i.rtm_table};
  r.protocol = i.rtm_protocol;
  r.scope = static_cast<Scope>(i.rtm_scope);
  r.type = static_cast<RouteType>(i.rtm_type);
  NextHop one;
  one.onlink = (i.rtm_flags & RTNH_F_ONLINK) != 0;
  one.flags = static_cast<std::uint8_t>(i.rtm_flags & 0xff);
  for (const Attr& a : m.attrs(sizeof i)) switch (a.type) {
      case RTA_DST:
        if (auto ip = ip_of(a); ip && ip->family() == *family) r.dst.addr = *ip;
        break;
      case RTA_TABLE:
        r.table = TableId{a.u32()};
        break;
      case RTA_PRIORITY:
        r.metric = a.u32();
        break;
      case RTA_PREFSRC:
        r.prefsrc = ip_of(a);
        break;
      case RTA_OIF:
        one.dev = IfIndex{a.u32()};
        break;
      case RTA_GATEWAY:
        one.via = ip_of(a);
        break;
      case RTA_VIA:
        one.via = via_of(a);
        break;
      case RTA_NH_ID:
        r.nexthop_id = a.u32();
        break;
      case RTA_MULTIPATH:
        read_multipath(a, r.nexthops);
        break;
      default:
        break;
    }
  if (r.dst.len > r.dst.addr.bits()) return std::nullopt;
  const bool leads_somewhere = r.type != RouteType::blackhole && r.type != RouteType::unreachable &&
                               r.type != RouteType::prohibit && r.type != RouteType::throw_;
  // IPv6 hangs its blackholes on the loopback device; that is no next hop.
  if (r.nexthops.empty() && leads_somewhere && (one.via || one.dev.value)) r.nexthops.push_back(one);
  return r;
}

std::optional<Neighbour> decode_neighbour(const Message& m) {
  if ((m.type != RTM_NEWNEIGH && m.type != RTM_DELNEIGH) || !m.fits<ndmsg>()) return std::nullopt;
  const auto i = m.body<ndmsg>();
  const auto family = family_of(i.ndm_family);
  if (!family || i.ndm_ifindex < 0) return std::nullopt;
  Neighbour n;
  n.dev = IfIndex{static_cast<std::uint32_t>(i.ndm_ifindex)};
  n.state = i.ndm_state;
  n.proxy = (i.ndm_flags & NTF_PROXY) != 0;
  bool have_ip = false;
  for (const Attr& a : m.attrs(sizeof i)) switch (a.type) {
      case NDA_DST:
        if (auto ip = ip_of(a); ip && ip->family() == *family) n.ip = *ip, have_ip = true;
        break;
      case NDA_LLADDR:
        n.mac = mac_of(a);
        break;
      default:
        break;
    }
  if (!have_ip) return std::nullopt;
  return n;
}

std::optional<Rule> decode_rule(const Message& m) {
  if ((m.type != RTM_NEWRULE && m.type != RTM_DELRULE) || !m.fits<fib_rule_hdr>()) return std::nullopt;
  const auto i = m.body<fib_rule_hdr>();
  const auto family = family_of(i.family);
  if (!family) return std::nullopt;
  Rule r;
  r.family = *family;
  r.table = TableId{i.table};
  r.action = i.action;
  auto prefix = [&](const Attr& a, std::uint8_t len) -> std::optional<Prefix> {
    auto ip = ip_of(a);
    if (!ip || ip->family() != *family || len > ip->bits()) return std::nullopt;
    return Prefix{*ip, len};
  };
  for (const Attr& a : m.attrs(sizeof i)) switch (a.type) {
      case FRA_SRC:
        r.src = prefix(a, i.src_len);
        break;
      case FRA_DST:
        r.dst = prefix(a, i.dst_len);
        break;
      case FRA_PRIORITY:
        r.priority = a.u32();
        break;
      case FRA_TABLE:
        r.table = TableId{a.u32()};
        break;
      case FRA_FWMARK:
        r.fwmark = a.u32();
        break;
      case FRA_FWMASK:
        r.fwmask = a.u32();
        break;
      case FRA_IIFNAME:
        r.iif = a.str();
        break;
      case FRA_OIFNAME:
        r.oif = a.str();
        break;
      case FRA_PROTOCOL:
        r.protocol = a.u8();
        break;
      default:
        break;
    }
  return r;
}

std::optional<NexthopObject> decode_nexthop(const Message& m) {
  if ((m.type != RTM_NEWNEXTHOP && m.type != RTM_DELNEXTHOP) || !m.fits<nhmsg>()) return std::nullopt;
  const auto i = m.body<nhmsg>();
  NexthopObject o;
  o.protocol = i.nh_protocol;
  o.hop.onlink = (i.nh_flags & RTNH_F_ONLINK) != 0;
  o.hop.flags = static_cast<std::uint8_t>(i.nh_flags & 0xffU);
  for (const Attr& a : m.attrs(sizeof i)) switch (a.type) {
      case NHA_ID:
        o.id = a.u32();
        break;
      case NHA_OIF:
        o.hop.dev = IfIndex{a.u32()};
        break;
      case NHA_GATEWAY:
        o.hop.via = ip_of(a);
        break;
      case NHA_GROUP:
        for (std::size_t at = 0; at + sizeof(nexthop_grp) <= a.data.size(); at += sizeof(nexthop_grp)) {
          nexthop_grp g{};
          std::memcpy(&g, a.data.data() + at, sizeof g);
          o.group.push_back({g.id, static_cast<std::uint16_t>(g.weight + 1)});
        }
        break;
      case NHA_GROUP_TYPE:
        if (a.u16() != NEXTHOP_GRP_TYPE_MPATH) o.special = true;
        break;
      case NHA_BLACKHOLE:
      case NHA_FDB:
      case NHA_ENCAP_TYPE:
        o.special = true;
        break;
      default:
        break;
    }
  if (o.id == 0) return std::nullopt;
  return o;
}

}  // namespace calico::netlink
