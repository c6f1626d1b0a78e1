#include "modules/felix/taps.hpp"

#include <utility>

namespace calico::felix {

/// The kernel dropped all of this with the device, mostly without telling.
void Taps::forget_device(IfIndex dev) {
  std::vector<netlink::RouteKey> routes;
  routes_.for_each_actual([&](const auto& k, const auto& r) {
    if (!r.nexthops.empty() && r.nexthops[0].dev == dev) routes.push_back(k);
  });
  for (const auto& k : routes) routes_.erase_actual(k);
  std::vector<NeighbourKey> neighbours;
  neighbours_.for_each_actual([&](const auto& k, const auto&) {
    if (k.dev == dev) neighbours.push_back(k);
  });
  for (const auto& k : neighbours) neighbours_.erase_actual(k);
}

void Taps::on_link(const netlink::Link& link, bool gone) {
  const auto had = links_.find(link.index);
  const std::string old_name = had == links_.end() ? std::string() : had->second.name;
  const bool was_up = had != links_.end() && had->second.admin_up();
  if (gone) {
    if (had == links_.end()) return;
    if (!ours(old_name)) interfaces_changed_ = true;
    links_.erase(had);
    if (auto at = index_of_.find(old_name); at != index_of_.end() && at->second == link.index) index_of_.erase(at);
    stale_groups_.erase(link.index.value);
    if (ours(old_name)) forget_device(link.index);
    qdiscs_.erase_actual(link.index);
    refresh(old_name);
    return;
  }
  if (had != links_.end() && had->second == link) return;
  const bool renamed = !old_name.empty() && old_name != link.name;
  const bool state_changed = had == links_.end() || renamed || had->second.admin_up() != link.admin_up() ||
                             had->second.running() != link.running() || had->second.group != link.group;
  links_[link.index] = link;
  if (renamed)
    if (auto at = index_of_.find(old_name); at != index_of_.end() && at->second == link.index) index_of_.erase(at);
  index_of_[link.name] = link.index;
  if (!state_changed) return;
  if (!ours(link.name) || (renamed && !ours(old_name))) interfaces_changed_ = true;
  if (was_up && !link.admin_up() && ours(link.name)) forget_device(link.index);
  if (renamed) refresh(old_name);
  if (auto tap = taps_.find(link.name); tap != taps_.end()) {
    if (!was_up && link.admin_up()) tap->second.settings_due = true;
    refresh(link.name);
  } else if (model::is_our_group(link.group) && ours(link.name)) {
    stale_groups_.insert(link.index.value);
  }
}

void Taps::on_address(const netlink::Address& a, bool gone) {
  if (!a.global()) return;  // a gateway's address on the DHCP device is not the host's own
  const auto key = std::pair(a.link.value, a.prefix);
  if (gone) {
    if (addresses_.erase(key)) addresses_changed_ = interfaces_changed_ = true;
  } else if (addresses_.emplace(key, true).second) {
    addresses_changed_ = interfaces_changed_ = true;
  }
}

bool Taps::take_host_addresses(std::vector<Ip>& out) {
  if (!std::exchange(addresses_changed_, false)) return false;
  out.clear();
  for (const auto& [at, x] : addresses_)
    if (!our_device(IfIndex{at.first})) out.push_back(at.second.addr);
  return true;
}

bool Taps::take_host_interfaces(std::vector<model::HostInterface>& out) {
  if (!std::exchange(interfaces_changed_, false)) return false;
  out.clear();
  std::map<std::uint32_t, std::vector<Ip>> addresses;
  for (const auto& [at, x] : addresses_) addresses[at.first].push_back(at.second.addr);
  for (const auto& [index, l] : links_)
    if (!ours(l.name)) out.push_back({l.name, addresses[index.value]});
  return true;
}

TapState Taps::link_state(const std::string& interface_name) const {
  const auto at = index_of_.find(interface_name);
  if (at == index_of_.end()) return {};
  return {.present = true, .running = links_.at(at->second).running()};
}

void Taps::on_route(const netlink::Route& route, bool gone) {
  if (route.table != netlink::kTableMain) return;
  const auto r = netlink::normalised(route);
  const auto key = netlink::key_of(r);
  const bool mine = r.protocol == settings_.route_protocol && r.nexthops.size() == 1 && our_device(r.nexthops[0].dev);
  if (gone) {
    const auto* have = routes_.actual(key);
    if (have && have->protocol == r.protocol && have->nexthops == r.nexthops) routes_.erase_actual(key);
  } else if (mine) {
    routes_.set_actual(key, r);
  } else if (routes_.desired(key)) {
    routes_.set_actual(key, r);  // somebody took the key: it differs from what we want and is replaced
  }
}

void Taps::on_neighbour(const netlink::Neighbour& n, bool gone) {
  const NeighbourKey key{n.dev, n.ip, n.proxy};
  if (!neighbours_.desired(key)) return;
  if (gone || !(n.proxy || n.permanent()))
    neighbours_.erase_actual(key);
  else
    neighbours_.set_actual(key, n);
}

void Taps::on_qdisc(const netlink::Qdisc& q, bool gone) {
  const auto* have = qdiscs_.actual(q.dev);
  if (gone) {
    if (have && have->handle == q.handle) qdiscs_.erase_actual(q.dev);
  } else if (have || qdiscs_.desired(q.dev)) {
    if (qdiscs_.desired(q.dev) || is_our_bucket(q))
      qdiscs_.set_actual(q.dev, q);
    else
      qdiscs_.erase_actual(q.dev);  // somebody's took the place of what was to go
  }
}

}  // namespace calico::felix
