#include "modules/felix/taps.hpp"

#include <algorithm>
#include <utility>

namespace calico::felix {
namespace {

/// Of our routes; upstream's default priority, so that tools read the same.
constexpr std::uint32_t kMetric = 1024;

constexpr std::uint32_t kElevatedMetric = 512;  // of an endpoint that just migrated here

/// An address a route leads to: its own, or a floating IP.
bool has_address(const model::EndpointPlan& p, const Ip& ip) {
  return std::find(p.nets.begin(), p.nets.end(), Prefix::host(ip)) != p.nets.end() ||
         std::any_of(p.nats.begin(), p.nats.end(), [&](const auto& n) { return n.external == ip; });
}

}  // namespace

void Taps::configure(const Settings& settings) {
  settings_ = settings;
  for (auto& [name, tap] : taps_) {
    tap.settings_due = true;
    due_.insert(name);
  }
}

bool Taps::ours(const std::string& name) const {
  return std::any_of(settings_.interface_prefixes.begin(), settings_.interface_prefixes.end(),
                     [&](const auto& p) { return name.starts_with(p); });
}

bool Taps::our_device(IfIndex dev) const {
  const auto it = links_.find(dev);
  return it != links_.end() && ours(it->second.name);
}

const netlink::Link* Taps::link_of(const Tap& tap) const {
  const auto it = links_.find(tap.index);
  return it == links_.end() ? nullptr : &it->second;
}

Status Taps::load() {
  auto links = nl_.links();
  if (!links) return wrap(links.error(), "links");
  links_.clear();
  index_of_.clear();
  stale_groups_.clear();
  for (auto& l : *links) {
    index_of_[l.name] = l.index;
    links_[l.index] = std::move(l);
  }
  auto addresses = nl_.addresses();
  if (!addresses) return wrap(addresses.error(), "addresses");
  addresses_.clear();
  addresses_changed_ = interfaces_changed_ = true;
  for (const auto& a : *addresses) on_address(a, false);

  auto routes = nl_.routes({.table = netlink::kTableMain, .protocol = settings_.route_protocol});
  if (!routes) return wrap(routes.error(), "routes");
  std::vector<std::pair<netlink::RouteKey, netlink::Route>> mine;
  for (const auto& r : *routes)
    if (r.nexthops.size() == 1 && our_device(r.nexthops[0].dev))
      mine.emplace_back(netlink::key_of(r), netlink::normalised(r));
  routes_.load_actual(mine);
  for (const auto& [key, r] : mine)
    if (key.dst.is_host()) holder_[key.dst.addr] = links_.at(r.nexthops[0].dev).name;

  auto neighbours = nl_.neighbours();
  if (!neighbours) return wrap(neighbours.error(), "neighbours");
  auto proxies = nl_.proxies();
  if (!proxies) return wrap(proxies.error(), "proxy neighbours");
  neighbours->insert(neighbours->end(), proxies->begin(), proxies->end());
  std::vector<std::pair<NeighbourKey, netlink::Neighbour>> there;
  for (const auto& n : *neighbours) {
    if (!(n.proxy || n.permanent()) || !our_device(n.dev) || n.ip.is_multicast()) continue;
    const auto& link = links_.at(n.dev);
    // A class of ours on the interface says that an endpoint of ours was there.
    if (taps_.contains(link.name) || model::is_our_group(link.group))
      there.emplace_back(NeighbourKey{n.dev, n.ip, n.proxy}, n);
  }
  neighbours_.load_actual(there);

  std::vector<std::pair<IfIndex, netlink::Qdisc>> buckets;
  // A kernel without qdiscs cannot have ours; writing one will say so.
  if (auto qdiscs = nl_.qdiscs())
    for (const auto& q : *qdiscs)
      if (our_device(q.dev) && is_our_bucket(q)) buckets.emplace_back(q.dev, q);
  qdiscs_.load_actual(buckets);

  for (auto& [name, tap] : taps_) {
    tap.settings_due = true;
    refresh(name);
  }
  for (const auto& [index, l] : links_)
    if (model::is_our_group(l.group) && ours(l.name) && !taps_.contains(l.name)) stale_groups_.insert(index.value);
  return {};
}

void Taps::set_plan(const model::EndpointPlan& plan) {
  if (plan.left_alone) {
    drop_plan(plan.key);
    changed_.insert(plan.key);
    return;
  }
  if (const auto was = interface_of_.find(plan.key); was != interface_of_.end() && was->second != plan.interface_name)
    drop_plan(plan.key);
  auto& tap = taps_[plan.interface_name];
  if (!tap.key.empty() && tap.key != plan.key) {
    interface_of_.erase(tap.key);  // the interface passes from one endpoint to another
    changed_.insert(tap.key);
  }
  leave_those_of(tap, plan);
  tap.key = plan.key;
  tap.plan = plan;
  interface_of_[plan.key] = plan.interface_name;
  refresh(plan.interface_name);
}

void Taps::drop_plan(const std::string& key) {
  const auto it = interface_of_.find(key);
  if (it == interface_of_.end()) return;
  const auto name = it->second;
  interface_of_.erase(it);
  auto tap = taps_.find(name);
  if (tap == taps_.end() || tap->second.key != key) return;
  leave_those_of(tap->second, {});
  retract(tap->second);
  if (const auto* l = link_of(tap->second); l && model::is_our_group(l->group)) stale_groups_.insert(l->index.value);
  taps_.erase(tap);
  due_.erase(name);
  changed_.insert(key);
}

void Taps::set_route_mode(const std::string& key, RouteMode mode) {
  if (mode == RouteMode::normal)
    modes_.erase(key);
  else
    modes_[key] = mode;
  const auto name = interface_of_.find(key);
  if (name == interface_of_.end()) return;
  taps_.at(name->second).settings_due = true;
  refresh(name->second);
}

RouteMode Taps::mode_of(const Tap& tap) const {
  const auto it = modes_.find(tap.key);
  return it == modes_.end() ? RouteMode::normal : it->second;
}

std::optional<IfIndex> Taps::interface_of(const std::string& key) const {
  const auto name = interface_of_.find(key);
  if (name == interface_of_.end()) return {};
  const auto* link = link_of(taps_.at(name->second));
  return link ? std::optional(link->index) : std::nullopt;
}

netlink::Route Taps::route_to(const Prefix& net, IfIndex dev, bool elevated) const {
  netlink::Route r;
  r.dst = net;
  r.protocol = settings_.route_protocol;
  r.scope = netlink::Scope::link;
  r.metric = elevated ? kElevatedMetric : kMetric;
  r.nexthops = {{.dev = dev}};
  return netlink::normalised(std::move(r));
}

bool Taps::has_elevated_routes(const std::string& key) const {
  const auto dev = interface_of(key);
  if (!dev) return false;
  const auto& nets = taps_.at(interface_of_.at(key)).plan.nets;
  return std::any_of(nets.begin(), nets.end(), [&](const auto& net) {
    const auto r = route_to(net, *dev, true);
    const auto* have = routes_.actual(netlink::key_of(r));
    return have && have->nexthops == r.nexthops;
  });
}

bool Taps::is_being_replaced(const netlink::RouteKey& key, const netlink::Route& have) const {
  auto other = key;
  other.metric = key.metric == kMetric ? kElevatedMetric : kMetric;
  const auto* want = routes_.desired(other);
  return want && !routes_.actual(other) && want->nexthops == have.nexthops;
}

bool Taps::claims(const std::string& name, const Ip& ip) const {
  const auto it = taps_.find(name);
  return it != taps_.end() && has_address(it->second.plan, ip);
}

void Taps::leave(const Ip& ip) {
  holder_.erase(ip);
  leaving_.insert(ip);
  held_.insert(ip);
}

/// Addresses of the interface that are not among `but`.
void Taps::leave_those_of(const Tap& tap, const model::EndpointPlan& but) {
  const auto look = [&](const Ip& ip) {
    if (has_address(but, ip)) return;
    const auto it = holder_.find(ip);
    if (it != holder_.end() && it->second == tap.plan.interface_name) leave(ip);
  };
  for (const auto& net : tap.plan.nets)
    if (net.is_host()) look(net.addr);
  for (const auto& n : tap.plan.nats) look(n.external);
}

bool Taps::release(const std::set<Ip>& addresses) {
  for (const auto& ip : addresses)
    if (!leaving_.contains(ip)) held_.erase(ip);  // else it left once more since
  bool waits = false;
  routes_.for_each_update([&](const auto& k, const auto&, const auto*) {
    waits = k.dst.is_host() && addresses.contains(k.dst.addr) && !held_.contains(k.dst.addr);
    return !waits;
  });
  return waits;
}

void Taps::retract(Tap& tap) {
  for (const auto& k : std::exchange(tap.routes, {})) want_route(k, tap.index, std::nullopt);
  for (const auto& k : std::exchange(tap.neighbours, {})) neighbours_.erase_desired(k);
  qdiscs_.erase_desired(tap.index);
}

void Taps::want_route(const netlink::RouteKey& key, IfIndex dev, std::optional<netlink::Route> route) {
  auto& all = candidates_[key];
  if (route)
    all[dev.value] = std::move(*route);
  else
    all.erase(dev.value);
  if (all.empty()) {
    candidates_.erase(key);
    routes_.erase_desired(key);
  } else {
    routes_.set_desired(key, all.rbegin()->second);
  }
}

/// What this interface should have, from its plan and the state of its link.
void Taps::refresh(const std::string& name) {
  auto it = taps_.find(name);
  if (it == taps_.end()) return;
  Tap& tap = it->second;
  changed_.insert(tap.key);
  const auto index = index_of_.find(name);
  retract(tap);
  if (index == index_of_.end()) {
    tap.index = {};
    tap.error.clear();
    return;
  }
  if (tap.index != index->second) tap.settings_due = true;
  tap.index = index->second;
  stale_groups_.erase(tap.index.value);
  due_.insert(name);
  const auto& link = links_.at(tap.index);
  tap.qdisc_error.clear();
  if (tap.plan.qos.ingress) qdiscs_.set_desired(tap.index, token_bucket(tap.index, *tap.plan.qos.ingress));
  if (!tap.plan.mac || !link.admin_up()) return;
  const auto lead = [&](const Prefix& dst) {
    if (!link.running() || mode_of(tap) == RouteMode::withheld) return;
    const auto r = route_to(dst, tap.index, mode_of(tap) == RouteMode::elevated);
    tap.routes.push_back(netlink::key_of(r));
    want_route(netlink::key_of(r), tap.index, r);
  };
  for (const auto& net : tap.plan.nets) {
    if (net.is_host()) {
      const NeighbourKey k{tap.index, net.addr, false};
      neighbours_.set_desired(k, {.dev = tap.index, .ip = net.addr, .mac = *tap.plan.mac});
      tap.neighbours.push_back(k);
    }
    lead(net);
  }
  // Translated before any route is asked, so nothing follows this one; BGP announces it.
  for (const auto& n : tap.plan.nats) lead(Prefix::host(n.external));
  if (tap.plan.gateway6) {
    // The VM asks for its gateway; the host answers for it on this link. IPv4 has proxy_arp for that.
    const NeighbourKey k{tap.index, *tap.plan.gateway6, true};
    neighbours_.set_desired(k, {.dev = tap.index, .ip = *tap.plan.gateway6, .state = 0, .proxy = true});
    tap.neighbours.push_back(k);
  }
}

bool Taps::pending() const {
  if (!due_.empty() || !stale_groups_.empty() || !neighbours_.in_sync() || !qdiscs_.in_sync() ||
      routes_.pending_deletions() != 0)
    return true;
  bool route = false;  // one that is held back is waited for by whoever releases it
  routes_.for_each_update([&](const auto& k, const auto&, const auto*) {
    route = !(k.dst.is_host() && held_.contains(k.dst.addr));
    return !route;
  });
  return route;
}

TapState Taps::state(const std::string& key) const {
  TapState s;
  const auto name = interface_of_.find(key);
  if (name == interface_of_.end()) return s;
  const auto& tap = taps_.at(name->second);
  s.error = tap.error.empty() ? tap.settings_error : tap.error;
  if (!tap.qdisc_error.empty()) s.note = fmt::format("not limited by ingressBandwidth: {}", tap.qdisc_error);
  const auto* link = link_of(tap);
  if (!link) return s;
  s.present = true;
  s.running = link->running();
  s.group = link->group;
  s.programmed = s.error.empty() && !tap.settings_due && link->group == tap.plan.group;
  for (const auto& k : tap.routes) {
    const auto* have = routes_.actual(k);
    s.programmed = s.programmed && have && *routes_.desired(k) == *have;
  }
  for (const auto& k : tap.neighbours) s.programmed = s.programmed && neighbours_.actual(k);
  return s;
}

}  // namespace calico::felix
