#include "modules/felix/taps.hpp"

#include <algorithm>
#include <utility>

#include "core/netlink/sysctl.hpp"

namespace calico::felix {
namespace {

/// Of our routes; upstream's default priority, so that tools read the same.
constexpr std::uint32_t kMetric = 1024;
constexpr std::uint32_t kElevatedMetric = 512;  // of an endpoint that just migrated here

/// Handles of our token buckets: the kernel gives 0x8000 and on by itself, people small numbers.
constexpr std::uint32_t kOurHandles = 0xc000;

/// An address a route leads to: its own, or a floating IP.
bool has_address(const model::EndpointPlan& p, const Ip& ip) {
  return std::find(p.nets.begin(), p.nets.end(), Prefix::host(ip)) != p.nets.end() ||
         std::any_of(p.nats.begin(), p.nats.end(), [&](const auto& n) { return n.external == ip; });
}

bool gone_already(int error) { return error == ENODEV || error == ENETDOWN || error == ENOENT || error == ESRCH; }

}  // namespace

bool is_our_bucket(const netlink::Qdisc& q) { return q.kind == "tbf" && q.handle >> 28U == kOurHandles >> 12U; }

netlink::Qdisc token_bucket(IfIndex dev, const model::Bandwidth& b) {
  constexpr std::uint32_t kOnePacket = 10'240;
  constexpr std::uint64_t kQueueMin = 100'000, kQueueMax = 64'000'000;
  netlink::Qdisc q;
  q.dev = dev;
  q.kind = "tbf";
  q.rate = b.rate;
  q.burst = std::max(b.burst, kOnePacket);
  q.peak = b.peak;
  if (b.peak) q.peak_burst = std::max(b.min_burst, kOnePacket);
  // What waits is at most 50 ms of the rate; upstream's burst on top of it would be minutes of queue.
  q.limit = static_cast<std::uint32_t>(std::clamp(b.rate / 20, kQueueMin, kQueueMax));
  std::uint32_t h = 2166136261U;
  for (const std::uint64_t part : {std::uint64_t{q.burst}, std::uint64_t{q.peak_burst}})
    for (int i = 0; i < 4; ++i) h = (h ^ (part >> (8 * i) & 0xffU)) * 16777619U;
  q.handle = (kOurHandles | (h ^ h >> 12U ^ h >> 24U) % 0x1000U) << 16U;
  return q;
}

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

// ---- events ----

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

// ---- writing ----

void Taps::note_error(IfIndex dev, const std::string& what) {
  const auto link = links_.find(dev);
  if (link == links_.end()) return;
  auto tap = taps_.find(link->second.name);
  if (tap == taps_.end()) return;
  tap->second.error = what;
  changed_.insert(tap->second.key);
}

Status Taps::withdraw() {
  netlink::Batch b;
  std::vector<netlink::RouteKey> routes;
  // An address that passes from one interface to another: the route goes first, the new one comes after release().
  routes_.for_each_update([&](const auto& k, const netlink::Route& want, const netlink::Route* have) {
    if (!k.dst.is_host()) return;
    const auto link = links_.find(want.nexthops[0].dev);
    const auto held_by = holder_.find(k.dst.addr);
    if (link != links_.end() && held_by != holder_.end() && held_by->second != link->second.name) leave(k.dst.addr);
    if (!have || !held_.contains(k.dst.addr) || have->protocol != settings_.route_protocol) return;
    b.remove(*have);
    routes.push_back(k);
  });
  routes_.for_each_deletion([&](const auto& k, const netlink::Route& have) {
    if (is_being_replaced(k, have)) return;  // goes once the other is there
    b.remove(have);
    routes.push_back(k);
    // Its endpoint went while nobody looked (a restart).
    if (const auto h = holder_.find(k.dst.addr);
        k.dst.is_host() && h != holder_.end() && !claims(h->second, k.dst.addr))
      leave(k.dst.addr);
  });
  std::vector<NeighbourKey> neighbours;
  neighbours_.for_each_deletion([&](const auto& k, const netlink::Neighbour& have) {
    b.remove(have);
    neighbours.push_back(k);
  });
  // An interface whose endpoint is gone loses its class: nothing passes it any more.
  std::vector<std::uint32_t> devices(stale_groups_.begin(), stale_groups_.end());
  for (const auto d : devices) b.set_link_group(IfIndex{d}, 0);
  std::vector<IfIndex> buckets;
  qdiscs_.for_each_deletion([&](const auto& dev, const netlink::Qdisc& have) {
    b.remove(have);
    buckets.push_back(dev);
  });
  if (b.empty()) return {};
  auto done = nl_.commit(b);
  if (!done) return wrap(done.error(), "routes to remove");
  writes_ += b.size();
  for (std::size_t i = 0; i < routes.size(); ++i)
    if (const int e = done->error_of(i); e == 0 || gone_already(e)) routes_.mark_deleted(routes[i]);
  for (std::size_t i = 0; i < neighbours.size(); ++i)
    if (const int e = done->error_of(routes.size() + i); e == 0 || gone_already(e))
      neighbours_.mark_deleted(neighbours[i]);
  for (std::size_t i = 0; i < devices.size(); ++i)
    if (const int e = done->error_of(routes.size() + neighbours.size() + i); e == 0 || gone_already(e)) {
      stale_groups_.erase(devices[i]);
      if (auto l = links_.find(IfIndex{devices[i]}); l != links_.end() && e == 0) l->second.group = 0;
    }
  // One that does not go is somebody else's by now, or gone: it is not tried for ever.
  for (const auto dev : buckets) qdiscs_.mark_deleted(dev);
  return {};
}

/// Per-tap settings, each written only when it differs.
Status Taps::write_settings(Tap& tap, const netlink::Link& link) {
  using netlink::SysctlTree;
  struct Row {
    Family family;
    SysctlTree tree;
    const char* key;
    const char* value;
  };
  const bool metadata_here = settings_.metadata_address && settings_.metadata_address->is_loopback();
  // Without its route the host would answer, for the VM's own address, that somebody else has it.
  const bool answer = mode_of(tap) != RouteMode::withheld;
  const Row rows[] = {
      {Family::v4, SysctlTree::conf, "forwarding", "1"},
      {Family::v4, SysctlTree::conf, "rp_filter", "1"},
      {Family::v4, SysctlTree::conf, "proxy_arp", answer ? "1" : "0"},
      {Family::v4, SysctlTree::neigh, "proxy_delay", "0"},
      {Family::v4, SysctlTree::conf, "route_localnet", metadata_here ? "1" : "0"},
      {Family::v4, SysctlTree::conf, "send_redirects", "0"},
      {Family::v6, SysctlTree::conf, "accept_ra", "0"},
      {Family::v6, SysctlTree::conf, "proxy_ndp", "1"},
      {Family::v6, SysctlTree::neigh, "proxy_delay", "0"},
      {Family::v6, SysctlTree::conf, "forwarding", "1"},
  };
  for (const auto& row : rows) {
    const auto path = netlink::interface_sysctl(row.family, row.tree, link.name, row.key);
    if (!path) return tl::unexpected(path.error());
    auto wrote = netlink::sysctl_set(*path, row.value);
    if (!wrote && wrote.error().code == Errc::not_found && row.family == Family::v6) continue;  // IPv6 is off
    if (!wrote) return tl::unexpected(wrote.error());
    if (*wrote) ++writes_;
  }
  tap.settings_due = false;
  return {};
}

Status Taps::program() {
  netlink::Batch b;
  std::vector<std::string> classes;
  std::set<std::string> still_due;
  for (const auto& name : std::exchange(due_, {})) {
    auto it = taps_.find(name);
    if (it == taps_.end()) continue;
    Tap& tap = it->second;
    const auto* link = link_of(tap);
    if (!link) continue;
    tap.error.clear();
    if (tap.settings_due) {
      auto ok = write_settings(tap, *link);
      tap.settings_error = ok ? "" : ok.error().what;
      if (!ok) still_due.insert(name);
    }
    if (link->group != tap.plan.group) {
      b.set_link_group(link->index, tap.plan.group);
      classes.push_back(name);
    }
  }
  std::vector<NeighbourKey> neighbours;
  neighbours_.for_each_update([&](const auto& k, const netlink::Neighbour& want, const netlink::Neighbour*) {
    b.replace(want);
    neighbours.push_back(k);
  });
  std::vector<netlink::RouteKey> routes;
  routes_.for_each_update([&](const auto& k, const netlink::Route& want, const netlink::Route*) {
    if (k.dst.is_host() && held_.contains(k.dst.addr)) return;
    b.replace(want);
    routes.push_back(k);
  });
  std::vector<IfIndex> buckets;
  qdiscs_.for_each_update([&](const auto& dev, const netlink::Qdisc& want, const netlink::Qdisc*) {
    b.replace(want);
    buckets.push_back(dev);
  });
  if (!b.empty()) {
    auto done = nl_.commit(b);
    if (!done) {
      due_.insert(classes.begin(), classes.end());
      due_.insert(still_due.begin(), still_due.end());
      return wrap(done.error(), "interfaces, neighbours and routes");
    }
    writes_ += b.size();
    std::map<std::size_t, const Error*> failed;
    for (const auto& f : done->failed) failed[f.index] = &f.what;
    std::size_t op = 0;
    const auto refused = [&](IfIndex dev) {
      const auto it = failed.find(op++);
      if (it == failed.end()) return false;
      note_error(dev, it->second->what);
      return true;
    };
    for (const auto& name : classes) {
      auto& tap = taps_.at(name);
      if (refused(tap.index))
        still_due.insert(name);
      else if (auto l = links_.find(tap.index); l != links_.end())
        l->second.group = tap.plan.group;
      changed_.insert(tap.key);
    }
    for (const auto& k : neighbours) {
      if (refused(k.dev)) continue;
      neighbours_.mark_updated(k);
      if (auto l = links_.find(k.dev); l != links_.end())
        if (auto t = taps_.find(l->second.name); t != taps_.end()) changed_.insert(t->second.key);
    }
    for (const auto& k : routes) {
      const auto dev = routes_.desired(k)->nexthops[0].dev;
      if (refused(dev)) continue;
      routes_.mark_updated(k);
      if (auto l = links_.find(dev); l != links_.end() && k.dst.is_host()) holder_[k.dst.addr] = l->second.name;
      if (auto l = links_.find(dev); l != links_.end())
        if (auto t = taps_.find(l->second.name); t != taps_.end()) changed_.insert(t->second.key);
    }
    for (const auto dev : buckets) {
      if (const auto it = failed.find(op++); it != failed.end())
        note_bucket(dev, it->second->what);
      else
        qdiscs_.mark_updated(dev);
    }
  }
  due_.insert(still_due.begin(), still_due.end());
  return {};
}

/// A limit the kernel cannot set is a note: the endpoint works without it. Tried again when the endpoint changes.
void Taps::note_bucket(IfIndex dev, const std::string& what) {
  qdiscs_.erase_desired(dev);
  const auto link = links_.find(dev);
  if (link == links_.end()) return;
  if (auto tap = taps_.find(link->second.name); tap != taps_.end()) {
    tap->second.qdisc_error = what;
    changed_.insert(tap->second.key);
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
