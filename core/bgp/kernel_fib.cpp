#include "core/bgp/kernel_fib.hpp"

#include <linux/rtnetlink.h>

#include <algorithm>

namespace calico::bgp {

using netlink::NextHop;
using netlink::Route;
using netlink::RouteType;

namespace {
std::size_t fam(const Prefix& p) { return p.addr.is_v4() ? 0 : 1; }

bool dead(const Route& r) {
  return !r.nexthops.empty() && std::all_of(r.nexthops.begin(), r.nexthops.end(),
                                            [](const NextHop& n) { return (n.flags & RTNH_F_DEAD) != 0; });
}
}  // namespace

void KernelFib::index(const Route& r) {
  for (const auto& n : r.nexthops)
    if (n.dev.value) ++by_dev_[n.dev][r.dst];
}

void KernelFib::unindex(const Route& r) {
  for (const auto& n : r.nexthops) {
    auto dev = by_dev_.find(n.dev);
    if (dev == by_dev_.end()) continue;
    auto dst = dev->second.find(r.dst);
    if (dst != dev->second.end() && --dst->second == 0) dev->second.erase(dst);
    if (dev->second.empty()) by_dev_.erase(dev);
  }
}

bool KernelFib::set(const Route& route) {
  auto& of_dst = routes_[route.dst];
  if (of_dst.empty()) ++lengths_[fam(route.dst)][route.dst.len];
  auto [it, fresh] = of_dst.try_emplace(route.metric, route);
  if (!fresh) {
    if (it->second == route && dead(it->second) == dead(route)) return false;
    unindex(it->second);
    it->second = route;
  } else {
    ++size_;
  }
  index(route);
  return true;
}

bool KernelFib::erase_key(const Prefix& dst, std::uint32_t metric) {
  auto of_dst = routes_.find(dst);
  if (of_dst == routes_.end()) return false;
  auto it = of_dst->second.find(metric);
  if (it == of_dst->second.end()) return false;
  unindex(it->second);
  of_dst->second.erase(it);
  --size_;
  if (of_dst->second.empty()) {
    routes_.erase(of_dst);
    --lengths_[fam(dst)][dst.len];
  }
  return true;
}

bool KernelFib::erase(const Route& route) {
  auto of_dst = routes_.find(route.dst);
  if (of_dst == routes_.end()) return false;
  auto it = of_dst->second.find(route.metric);
  if (it == of_dst->second.end()) return false;
  // Another protocol's route of this key took its place before we heard of the removal.
  if (route.protocol && it->second.protocol != route.protocol) return false;
  auto& have = it->second.nexthops;
  if (route.dst.addr.is_v6() && !route.nexthops.empty() && route.nexthops.size() < have.size()) {
    Route left = it->second;
    std::erase_if(left.nexthops, [&](const NextHop& n) {
      return std::find(route.nexthops.begin(), route.nexthops.end(), n) != route.nexthops.end();
    });
    if (!left.nexthops.empty()) return set(left);
  }
  return erase_key(route.dst, route.metric);
}

std::vector<Prefix> KernelFib::drop_device(IfIndex dev) {
  const auto changed = over(dev);
  for (const auto& dst : changed) {
    const auto of_dst = routes_.at(dst);  // a copy: set and erase change the original
    for (const auto& [metric, route] : of_dst) {
      Route left = route;
      if (std::erase_if(left.nexthops, [&](const NextHop& n) { return n.dev == dev; }) == 0) continue;
      if (left.nexthops.empty())
        erase_key(dst, metric);
      else
        set(left);
    }
  }
  return changed;
}

std::vector<Prefix> KernelFib::drop_source(const Ip& address) {
  std::vector<netlink::RouteKey> gone;
  for_each([&](const Route& r) {
    if (r.dst.addr.is_v4() && r.prefsrc == address) gone.push_back(key_of(r));
  });
  std::vector<Prefix> changed;
  for (const auto& k : gone) {
    erase_key(k.dst, k.metric);
    changed.push_back(k.dst);
  }
  return changed;
}

std::vector<Prefix> KernelFib::load(const std::vector<Route>& routes,
                                    const std::unordered_set<netlink::RouteKey>& newer) {
  std::vector<Prefix> changed;
  std::unordered_set<netlink::RouteKey> seen;
  for (const auto& r : routes) {
    const auto key = key_of(r);
    if (newer.contains(key)) continue;
    // Two routes of one key (IPv4, appended): the first is the one in use.
    if (!seen.insert(key).second) continue;
    if (set(r)) changed.push_back(r.dst);
  }
  std::vector<netlink::RouteKey> gone;
  for_each([&](const Route& r) {
    const auto key = key_of(r);
    if (!seen.contains(key) && !newer.contains(key)) gone.push_back(key);
  });
  for (const auto& k : gone) {
    erase_key(k.dst, k.metric);
    changed.push_back(k.dst);
  }
  return changed;
}

const Route* KernelFib::lookup(const Ip& ip) const {
  const auto& lengths = lengths_[ip.is_v4() ? 0 : 1];
  for (int len = ip.bits(); len >= 0; --len) {
    if (lengths[len] == 0) continue;
    const auto it = routes_.find(Prefix{ip, static_cast<std::uint8_t>(len)}.masked());
    if (it == routes_.end()) continue;
    for (const auto& [metric, route] : it->second)
      if (!dead(route)) return &route;
  }
  return nullptr;
}

const std::map<std::uint32_t, Route>* KernelFib::of(const Prefix& prefix) const {
  const auto it = routes_.find(prefix);
  return it == routes_.end() ? nullptr : &it->second;
}

std::vector<Prefix> KernelFib::over(IfIndex dev) const {
  std::vector<Prefix> out;
  if (const auto it = by_dev_.find(dev); it != by_dev_.end())
    for (const auto& [dst, n] : it->second) out.push_back(dst);
  return out;
}

}  // namespace calico::bgp
