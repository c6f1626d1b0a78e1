// Operations to rtnetlink messages.
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/nexthop.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <sys/socket.h>

#include "core/netlink/rtnl.hpp"

namespace calico::netlink {

namespace {
constexpr std::uint16_t kRequest = NLM_F_REQUEST | NLM_F_ACK;

std::uint8_t af(Family f) { return f == Family::v4 ? AF_INET : AF_INET6; }

void put_via(MessageBuilder& b, const Ip& via, Family route) {
  if (via.family() == route) {
    b.attr(RTA_GATEWAY, via.bytes());
    return;
  }
  std::byte raw[2 + 16]{};
  const std::uint16_t family = af(via.family());
  std::memcpy(raw, &family, sizeof family);
  std::memcpy(raw + 2, via.bytes().data(), via.bytes().size());
  b.attr(RTA_VIA, raw, 2 + via.bytes().size());
}
}  // namespace

std::size_t Batch::finish() {
  const std::size_t n = b_.end();
  ops_.push_back({b_.size() - n, n});
  return ops_.size() - 1;
}

void Batch::clear() {
  b_.clear();
  ops_.clear();
}

void Batch::route(const Route& r, std::uint16_t type, std::uint16_t flags) {
  const bool removing = type == RTM_DELROUTE;
  b_.begin(type, kRequest | flags, 0);
  rtmsg h{};
  h.rtm_family = af(r.dst.family());
  h.rtm_dst_len = r.dst.len;
  h.rtm_table = r.table.value < 256 ? static_cast<std::uint8_t>(r.table.value) : std::uint8_t{RT_TABLE_UNSPEC};
  h.rtm_protocol = r.protocol;
  // IPv6 has no scopes. "nowhere" in a deletion is any scope.
  h.rtm_scope = static_cast<std::uint8_t>(removing                       ? Scope::nowhere
                                          : r.dst.family() == Family::v6 ? Scope::universe
                                                                         : r.scope);
  h.rtm_type = static_cast<std::uint8_t>(r.type);
  const NextHop* one = r.nexthops.size() == 1 && !r.nexthop_id ? &r.nexthops.front() : nullptr;
  if (one && one->onlink && !removing) h.rtm_flags |= RTNH_F_ONLINK;
  b_.body(h);
  if (r.dst.len) b_.attr(RTA_DST, r.dst.masked().addr.bytes());
  if (r.table.value >= 256) b_.u32(RTA_TABLE, r.table.value);
  if (r.metric) b_.u32(RTA_PRIORITY, r.metric);
  if (r.prefsrc && !removing) b_.attr(RTA_PREFSRC, r.prefsrc->bytes());
  if (r.nexthop_id) {
    b_.u32(RTA_NH_ID, r.nexthop_id);
  } else if (one) {
    if (one->dev.value) b_.u32(RTA_OIF, one->dev.value);
    if (one->via) put_via(b_, *one->via, r.dst.family());
  } else if (r.nexthops.size() > 1 && !removing) {
    // A deletion without next hops takes the whole route.
    auto all = b_.nest(RTA_MULTIPATH);
    for (const auto& n : r.nexthops) {
      MessageBuilder sub;
      sub.begin(0, 0, 0);
      rtnexthop nh{};
      nh.rtnh_hops = static_cast<std::uint8_t>(std::clamp<unsigned>(n.weight, 1, 256) - 1);
      nh.rtnh_ifindex = static_cast<int>(n.dev.value);
      if (n.onlink) nh.rtnh_flags |= RTNH_F_ONLINK;
      sub.body(nh);
      if (n.via) put_via(sub, *n.via, r.dst.family());
      nh.rtnh_len = static_cast<std::uint16_t>(sub.size() - sizeof(nlmsghdr));
      b_.body(nh);
      b_.raw(sub.view().subspan(sizeof(nlmsghdr) + sizeof nh));
    }
  }
}

std::size_t Batch::put(const Route& r, Put how) {
  constexpr std::uint16_t kFlags[] = {NLM_F_CREATE | NLM_F_EXCL, NLM_F_CREATE | NLM_F_REPLACE,
                                      NLM_F_CREATE | NLM_F_APPEND};
  route(r, RTM_NEWROUTE, kFlags[static_cast<std::size_t>(how)]);
  return finish();
}

std::size_t Batch::remove(const Route& r) {
  route(r, RTM_DELROUTE, 0);
  return finish();
}

void Batch::neighbour(const Neighbour& n, std::uint16_t type, std::uint16_t flags) {
  b_.begin(type, kRequest | flags, 0);
  ndmsg h{};
  h.ndm_family = af(n.ip.family());
  h.ndm_ifindex = static_cast<int>(n.dev.value);
  h.ndm_state = n.proxy ? std::uint16_t{NUD_PERMANENT} : n.state;
  h.ndm_flags = n.proxy ? NTF_PROXY : 0;
  b_.body(h);
  b_.attr(NDA_DST, n.ip.bytes());
  if (!n.proxy && type == RTM_NEWNEIGH) b_.attr(NDA_LLADDR, n.mac.b.data(), n.mac.b.size());
}

std::size_t Batch::replace(const Neighbour& n) {
  neighbour(n, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE);
  return finish();
}

std::size_t Batch::remove(const Neighbour& n) {
  neighbour(n, RTM_DELNEIGH, 0);
  return finish();
}

void Batch::address(const Address& a, std::uint16_t type, std::uint16_t flags) {
  b_.begin(type, kRequest | flags, 0);
  ifaddrmsg h{};
  h.ifa_family = af(a.prefix.family());
  h.ifa_prefixlen = a.prefix.len;
  h.ifa_scope = a.scope;
  h.ifa_index = a.link.value;
  b_.body(h);
  b_.attr(IFA_LOCAL, a.prefix.addr.bytes());
  b_.attr(IFA_ADDRESS, a.peer ? a.peer->bytes() : a.prefix.addr.bytes());
  if (a.flags) b_.u32(IFA_FLAGS, a.flags);
}

std::size_t Batch::replace(const Address& a) {
  address(a, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE);
  return finish();
}

std::size_t Batch::remove(const Address& a) {
  address(a, RTM_DELADDR, 0);
  return finish();
}

std::size_t Batch::put(const NexthopObject& o, Put how) {
  b_.begin(RTM_NEWNEXTHOP,
           static_cast<std::uint16_t>(kRequest | NLM_F_CREATE | (how == Put::replace ? NLM_F_REPLACE : NLM_F_EXCL)), 0);
  nhmsg h{};
  h.nh_family = !o.group.empty() ? std::uint8_t{AF_UNSPEC} : af(o.hop.via ? o.hop.via->family() : Family::v4);
  h.nh_protocol = o.protocol;
  if (o.group.empty() && o.hop.onlink) h.nh_flags = RTNH_F_ONLINK;
  b_.body(h);
  b_.u32(NHA_ID, o.id);
  if (!o.group.empty()) {
    std::vector<nexthop_grp> members;
    members.reserve(o.group.size());
    for (const auto& m : o.group) {
      nexthop_grp g{};
      g.id = m.id;
      g.weight = static_cast<std::uint8_t>(std::clamp<unsigned>(m.weight, 1, 256) - 1);
      members.push_back(g);
    }
    b_.attr(NHA_GROUP, members.data(), members.size() * sizeof(nexthop_grp));
  } else {
    b_.u32(NHA_OIF, o.hop.dev.value);
    if (o.hop.via) b_.attr(NHA_GATEWAY, o.hop.via->bytes());
  }
  return finish();
}

std::size_t Batch::remove_nexthop(std::uint32_t id) {
  b_.begin(RTM_DELNEXTHOP, kRequest, 0);
  b_.body(nhmsg{});
  b_.u32(NHA_ID, id);
  return finish();
}

void Batch::set_link(IfIndex index, std::uint32_t flags, std::uint32_t change) {
  b_.begin(RTM_SETLINK, kRequest, 0);
  ifinfomsg h{};
  h.ifi_index = static_cast<int>(index.value);
  h.ifi_flags = flags;
  h.ifi_change = change;
  b_.body(h);
}

std::size_t Batch::set_link_up(IfIndex index, bool up) {
  set_link(index, up ? IFF_UP : 0, IFF_UP);
  return finish();
}

std::size_t Batch::set_link_group(IfIndex index, std::uint32_t group) {
  set_link(index, 0, 0);
  b_.u32(IFLA_GROUP, group);
  return finish();
}

std::size_t Batch::set_link_master(IfIndex index, IfIndex master) {
  set_link(index, 0, 0);
  b_.u32(IFLA_MASTER, master.value);
  return finish();
}

std::size_t Batch::set_link_mac(IfIndex index, const Mac& mac) {
  set_link(index, 0, 0);
  b_.attr(IFLA_ADDRESS, mac.b.data(), mac.b.size());
  return finish();
}

std::size_t Batch::set_link_mtu(IfIndex index, std::uint32_t mtu) {
  set_link(index, 0, 0);
  b_.u32(IFLA_MTU, mtu);
  return finish();
}

std::size_t Batch::rename_link(IfIndex index, const std::string& name) {
  set_link(index, 0, 0);
  b_.str(IFLA_IFNAME, name);
  return finish();
}

std::size_t Batch::move_link(IfIndex index, int netns_fd) {
  set_link(index, 0, 0);
  b_.u32(IFLA_NET_NS_FD, static_cast<std::uint32_t>(netns_fd));
  return finish();
}

std::size_t Batch::remove_link(IfIndex index) {
  b_.begin(RTM_DELLINK, kRequest, 0);
  ifinfomsg h{};
  h.ifi_index = static_cast<int>(index.value);
  b_.body(h);
  return finish();
}

std::size_t Batch::add_veth(const std::string& name, const std::string& peer, std::optional<int> peer_netns_fd) {
  b_.begin(RTM_NEWLINK, kRequest | NLM_F_CREATE | NLM_F_EXCL, 0);
  b_.body(ifinfomsg{});
  b_.str(IFLA_IFNAME, name);
  {
    auto info = b_.nest(IFLA_LINKINFO);
    b_.str(IFLA_INFO_KIND, "veth");
    auto data = b_.nest(IFLA_INFO_DATA);
    auto end = b_.nest(VETH_INFO_PEER);
    b_.body(ifinfomsg{});
    b_.str(IFLA_IFNAME, peer);
    if (peer_netns_fd) b_.u32(IFLA_NET_NS_FD, static_cast<std::uint32_t>(*peer_netns_fd));
  }
  return finish();
}

std::size_t Batch::add_bridge(const std::string& name) {
  b_.begin(RTM_NEWLINK, kRequest | NLM_F_CREATE | NLM_F_EXCL, 0);
  b_.body(ifinfomsg{});
  b_.str(IFLA_IFNAME, name);
  {
    auto info = b_.nest(IFLA_LINKINFO);
    b_.str(IFLA_INFO_KIND, "bridge");
  }
  return finish();
}

}  // namespace calico::netlink
