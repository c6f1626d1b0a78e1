#pragma once
/// What rtnetlink talks about, as values: links, addresses, routes, neighbours, rules. Comparable, so that desired and
/// actual can be told apart; numbers are the kernel's own (rtnetlink(7)).
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/ids.hpp"
#include "core/base/ip.hpp"

namespace calico::netlink {

inline constexpr TableId kTableMain{254};
inline constexpr TableId kTableLocal{255};
inline constexpr std::uint8_t kProtoKernel = 2;
inline constexpr std::uint8_t kProtoBoot = 3;
inline constexpr std::uint8_t kProtoFelix = 88;  ///< routes of the agent
inline constexpr std::uint8_t kProtoBgp = 89;    ///< routes BGP installs

/// A name the kernel takes for a link and that is safe in a path, a rule and a log line: 1 to 15 printable ASCII
/// characters without '/', ':', '%', quotes, backslash, and not "." or "..".
[[nodiscard]] bool valid_interface_name(std::string_view name);
/// "tap*,cali*" style: a trailing '*' matches any rest. Several patterns: see matches_any().
[[nodiscard]] bool matches_interface(std::string_view pattern, std::string_view name);

enum class OperState : std::uint8_t { unknown = 0, not_present, down, lower_layer_down, testing, dormant, up };

struct Link {
  IfIndex index;
  std::string name;
  std::uint32_t flags = 0;  ///< IFF_*
  OperState oper = OperState::unknown;
  IfIndex master;           ///< bridge it is a port of; 0 = none
  IfIndex peer;             ///< IFLA_LINK: other end of a veth, parent of a vlan; 0 = none
  std::uint32_t group = 0;  ///< device group (what `iifgroup` matches)
  std::uint32_t mtu = 0;
  Mac mac;           ///< zero when the link has no 6-byte address
  std::string kind;  ///< "veth", "bridge", "tun"…; empty for hardware

  bool admin_up() const;  ///< IFF_UP
  bool running() const;   ///< admin up and carrier: oper up, or unknown with IFF_RUNNING (tap devices)
  bool carrier() const;   ///< IFF_LOWER_UP: the kernel makes nexthop objects over it
  /// The kernel keeps nexthop objects over it (they go, in silence, when this becomes false).
  bool keeps_nexthops() const;
  bool loopback() const;
  bool operator==(const Link&) const = default;
};

struct Address {
  IfIndex link;
  Prefix prefix;            ///< address with its length; host bits kept
  std::uint8_t scope = 0;   ///< 0 universe, 253 link, 254 host
  std::uint32_t flags = 0;  ///< IFA_F_*
  std::optional<Ip> peer;   ///< point-to-point address, when it is another one

  bool global() const { return scope == 0; }
  bool operator==(const Address&) const = default;
};

enum class RouteType : std::uint8_t {
  unspec = 0,
  unicast = 1,
  local = 2,
  broadcast = 3,
  anycast = 4,
  multicast = 5,
  blackhole = 6,
  unreachable = 7,
  prohibit = 8,
  throw_ = 9,
};

enum class Scope : std::uint8_t { universe = 0, site = 200, link = 253, host = 254, nowhere = 255 };

struct NextHop {
  std::optional<Ip> via;     ///< gateway; absent = on the link
  IfIndex dev;               ///< 0 = let the kernel find it from `via`
  std::uint16_t weight = 1;  ///< 1 to 256
  bool onlink = false;       ///< take `via` as on the link without checking
  std::uint8_t flags = 0;    ///< read only: RTNH_F_DEAD, RTNH_F_LINKDOWN…; not compared

  bool operator==(const NextHop& o) const {
    return via == o.via && dev == o.dev && weight == o.weight && onlink == o.onlink;
  }
};

struct Route {
  Prefix dst;
  TableId table = kTableMain;
  std::uint8_t protocol = 0;  ///< 0 when removing = any
  Scope scope = Scope::universe;
  RouteType type = RouteType::unicast;
  std::uint32_t metric = 0;
  std::optional<Ip> prefsrc;
  std::vector<NextHop> nexthops;  ///< empty for blackhole and the like
  std::uint32_t nexthop_id = 0;   ///< a nexthop object; then `nexthops` is what it stood for when dumped

  bool operator==(const Route&) const = default;
};

/// What makes a route another route: the kernel keeps at most one of a key under our rules.
struct RouteKey {
  TableId table = kTableMain;
  Prefix dst;
  std::uint32_t metric = 0;
  auto operator<=>(const RouteKey&) const = default;
};
inline RouteKey key_of(const Route& r) { return {r.table, r.dst, r.metric}; }

/// The route as the kernel will give it back: host bits cleared, IPv6 metric 0 is 1024, IPv6 scope is universe, next
/// hops sorted. Desired state goes through here before it is compared with a dump.
[[nodiscard]] Route normalised(Route r);
/// One way of a kernel nexthop object, or the members of a group. Routes name the object (Route::nexthop_id); when it
/// is replaced they follow without being touched.
struct NexthopObject {
  std::uint32_t id = 0;
  std::uint8_t protocol = 0;
  NextHop hop;  ///< of a plain object; unused for a group
  struct Member {
    std::uint32_t id = 0;
    std::uint16_t weight = 1;  ///< 1 to 256
    bool operator==(const Member&) const = default;
  };
  std::vector<Member> group;
  bool special = false;  ///< blackhole, bridge fdb, resilient, encapsulating: nothing we make or follow
  bool operator==(const NexthopObject&) const = default;
};

/// "10.65.0.2/32 dev 7 proto 88 scope link", for logs and test failures.
[[nodiscard]] std::string to_string(const Route& r);
[[nodiscard]] std::string to_string(const NexthopObject& o);

struct Neighbour {
  IfIndex dev;
  Ip ip;
  Mac mac;
  std::uint16_t state = 0x80;  ///< NUD_*; 0x80 = permanent
  bool proxy = false;          ///< answer for `ip` on `dev` (NTF_PROXY); then mac and state are unused

  bool permanent() const { return (state & 0x80) != 0; }
  bool operator==(const Neighbour&) const = default;
};

/// The root queueing discipline of a link; of tbf (token bucket) also its numbers.
struct Qdisc {
  IfIndex dev;
  std::uint32_t handle = 0;  ///< major number in the upper half: "c123:" is 0xc1230000
  std::string kind;
  std::uint64_t rate = 0;        ///< bytes a second
  std::uint64_t peak = 0;        ///< bytes a second; 0 = none
  std::uint32_t limit = 0;       ///< bytes that wait
  std::uint32_t burst = 0;       ///< bytes; written only: the kernel shows a time it rounded
  std::uint32_t peak_burst = 0;  ///< bytes; written only
  bool operator==(const Qdisc&) const = default;
};

struct Rule {
  Family family = Family::v4;
  std::uint32_t priority = 0;
  TableId table = kTableMain;
  std::uint8_t action = 1;  ///< FR_ACT_*: 1 = to table
  std::optional<Prefix> src;
  std::optional<Prefix> dst;
  std::uint32_t fwmark = 0;
  std::uint32_t fwmask = 0;
  std::string iif;
  std::string oif;
  std::uint8_t protocol = 0;

  bool operator==(const Rule&) const = default;
};

}  // namespace calico::netlink

template <>
struct std::hash<calico::netlink::RouteKey> {
  std::size_t operator()(const calico::netlink::RouteKey& k) const noexcept {
    return std::hash<calico::Prefix>{}(k.dst) * 1000003U ^ (k.table.value * 31U + k.metric);
  }
};
