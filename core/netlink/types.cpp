#include "core/netlink/types.hpp"

#include <linux/if.h>

#include <algorithm>

namespace calico::netlink {

bool valid_interface_name(std::string_view name) {
  if (name.empty() || name.size() > 15 || name == "." || name == "..") return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return c > ' ' && c < 0x7f && c != '/' && c != ':' && c != '%' && c != '"' && c != '\'' && c != '\\';
  });
}

bool matches_interface(std::string_view pattern, std::string_view name) {
  if (!pattern.empty() && pattern.back() == '*') return name.starts_with(pattern.substr(0, pattern.size() - 1));
  return pattern == name;
}

bool Link::admin_up() const { return (flags & IFF_UP) != 0; }
bool Link::running() const { return admin_up() && (flags & IFF_RUNNING) != 0; }
bool Link::carrier() const { return (flags & IFF_LOWER_UP) != 0; }
bool Link::keeps_nexthops() const { return admin_up() && (flags & (IFF_RUNNING | IFF_LOWER_UP)) != 0; }
bool Link::loopback() const { return (flags & IFF_LOOPBACK) != 0; }

Route normalised(Route r) {
  r.dst = r.dst.masked();
  if (r.dst.family() == Family::v6) {
    if (r.metric == 0) r.metric = 1024;
    r.scope = Scope::universe;
  }
  if (r.table.value == 0) r.table = kTableMain;
  std::sort(r.nexthops.begin(), r.nexthops.end(), [](const NextHop& a, const NextHop& b) {
    return std::tie(a.dev, a.via, a.weight) < std::tie(b.dev, b.via, b.weight);
  });
  return r;
}

std::string to_string(const Route& r) {
  std::string s;
  switch (r.type) {
    case RouteType::unspec:
    case RouteType::unicast:
      break;
    case RouteType::local:
      s += "local ";
      break;
    case RouteType::broadcast:
      s += "broadcast ";
      break;
    case RouteType::anycast:
      s += "anycast ";
      break;
    case RouteType::multicast:
      s += "multicast ";
      break;
    case RouteType::blackhole:
      s += "blackhole ";
      break;
    case RouteType::unreachable:
      s += "unreachable ";
      break;
    case RouteType::prohibit:
      s += "prohibit ";
      break;
    case RouteType::throw_:
      s += "throw ";
      break;
  }
  s += r.dst.to_string();
  for (const auto& n : r.nexthops) {
    if (r.nexthops.size() > 1) s += " nexthop";
    if (n.via) s += fmt::format(" via {}", *n.via);
    if (n.dev.value) s += fmt::format(" dev {}", n.dev.value);
    if (r.nexthops.size() > 1) s += fmt::format(" weight {}", n.weight);
    if (n.onlink) s += " onlink";
  }
  if (r.nexthop_id) s += fmt::format(" nhid {}", r.nexthop_id);
  if (r.table != kTableMain) s += fmt::format(" table {}", r.table.value);
  if (r.protocol) s += fmt::format(" proto {}", r.protocol);
  if (r.scope == Scope::link) s += " scope link";
  if (r.scope == Scope::host) s += " scope host";
  if (r.prefsrc) s += fmt::format(" src {}", *r.prefsrc);
  if (r.metric) s += fmt::format(" metric {}", r.metric);
  return s;
}

std::string to_string(const NexthopObject& o) {
  std::string s = fmt::format("id {}", o.id);
  if (!o.group.empty()) {
    s += " group";
    for (const auto& m : o.group) s += fmt::format(" {}", m.id);
  }
  if (o.hop.via) s += fmt::format(" via {}", *o.hop.via);
  if (o.hop.dev.value) s += fmt::format(" dev {}", o.hop.dev.value);
  if (o.hop.onlink) s += " onlink";
  if (o.protocol) s += fmt::format(" proto {}", o.protocol);
  return s;
}

}  // namespace calico::netlink
