#pragma once
/// A copy of the kernel's main table (both families) without BGP's own routes: longest match for next hops, and what
/// the routes of an interface are. Pure; fed by core/bgp/kernel.cpp from dumps and events. Thread: any, one at a time.
/// Owns: the routes.
#include <map>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "core/netlink/types.hpp"

namespace calico::bgp {

class KernelFib {
 public:
  /// Adds, or takes the place of the route with this key. True when something changed.
  bool set(const netlink::Route& route);
  /// Takes a route out. IPv6 tells of single next hops of a multipath route: those named go, the rest stays.
  bool erase(const netlink::Route& route);
  /// Takes out what leads over this device only, and its next hops of multipath routes: the kernel does the same for
  /// IPv4, in silence, when a device goes down. The destinations that changed.
  std::vector<Prefix> drop_device(IfIndex dev);
  /// Takes out the IPv4 routes with this preferred source: the kernel drops them, in silence, with the address.
  std::vector<Prefix> drop_source(const Ip& address);
  /// Replaces everything except the keys in `newer` (changed by events while `routes` was read). The destinations that
  /// changed.
  std::vector<Prefix> load(const std::vector<netlink::Route>& routes,
                           const std::unordered_set<netlink::RouteKey>& newer = {});

  /// Longest match, lowest metric; null when there is none. Routes whose next hops are all dead do not count. Lives
  /// until the next change.
  const netlink::Route* lookup(const Ip& ip) const;
  /// All routes of exactly this destination, lowest metric first; null when there are none.
  const std::map<std::uint32_t, netlink::Route>* of(const Prefix& prefix) const;
  /// Destinations of routes over this device.
  std::vector<Prefix> over(IfIndex dev) const;
  std::size_t size() const { return size_; }
  template <class F>
  void for_each(F&& f) const {
    for (const auto& [prefix, routes] : routes_)
      for (const auto& [metric, route] : routes) f(route);
  }

 private:
  bool erase_key(const Prefix& dst, std::uint32_t metric);
  void index(const netlink::Route& r);
  void unindex(const netlink::Route& r);

  std::unordered_map<Prefix, std::map<std::uint32_t, netlink::Route>> routes_;  // destination -> metric -> route
  std::unordered_map<IfIndex, std::unordered_map<Prefix, unsigned>> by_dev_;    // device -> destination -> routes
  std::size_t lengths_[2][129] = {};  // destinations of each length: which lengths a lookup must try
  std::size_t size_ = 0;
};

}  // namespace calico::bgp
