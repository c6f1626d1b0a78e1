// Winners into the kernel: routes of our protocol and the nexthop objects they name.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "core/bgp/kernel_state.hpp"

namespace calico::bgp {

using netlink::key_of;
using netlink::NextHop;
using netlink::Route;
using netlink::RouteKey;
using netlink::RouteType;

namespace {

RouteKey key_of_entry(const RouteTable::Entry& e) { return {netlink::kTableMain, e.prefix, e.metric}; }

/// The kernel's metric 0 means 1024 for IPv6.
std::uint32_t metric_in(const Prefix& p, std::uint32_t metric) { return metric == 0 && p.addr.is_v6() ? 1024 : metric; }

/// What the kernel says when the ground has moved under a write and the news is still on its way.
bool may_be_late(int error) {
  switch (error) {
    case EEXIST:
    case ESRCH:
    case ENOENT:
    case EINVAL:
    case ENODEV:
    case ENETDOWN:
    case ENETUNREACH:
    case EHOSTUNREACH:
      return true;
    default:
      return false;
  }
}

void sort_unique(std::vector<NextHop>& hops) {
  std::sort(hops.begin(), hops.end(), [](const NextHop& a, const NextHop& b) {
    return std::tie(a.dev, a.via, a.weight) < std::tie(b.dev, b.via, b.weight);
  });
  hops.erase(std::unique(hops.begin(), hops.end()), hops.end());
}

}  // namespace

CompatMode::~CompatMode() {
  if (fd_ >= 0) ::close(fd_);
}

void CompatMode::open() { fd_ = ::open("/proc/sys/net/ipv4/nexthop_compat_mode", O_RDWR | O_CLOEXEC); }

void CompatMode::quiet() {
  char now = 0;
  changed_ = fd_ >= 0 && ::pread(fd_, &now, 1, 0) == 1 && now == '1' && ::pwrite(fd_, "0\n", 2, 0) == 2;
}

void CompatMode::restore() {
  if (!changed_) return;
  changed_ = false;
  (void)!::pwrite(fd_, "1\n", 2, 0);
}

bool KernelState::is_up(IfIndex dev) const {
  const auto it = links.find(dev);
  return it != links.end() && it->second.up;
}

bool KernelState::has_carrier(IfIndex dev) const {
  const auto it = links.find(dev);
  return it != links.end() && it->second.up && it->second.carrier;
}

/// Whether the kernel would refuse the gateway without being told that it is on the link.
bool KernelState::needs_onlink(const Ip& gateway, IfIndex dev) const {
  if (gateway.is_link_local() && gateway.is_v6()) return false;
  const Route* r = fib.lookup(gateway);
  return !r || r->type != RouteType::unicast ||
         std::none_of(r->nexthops.begin(), r->nexthops.end(),
                      [dev](const NextHop& n) { return n.dev == dev && !n.via; });
}

std::vector<NextHop> KernelState::hops_of(const std::vector<ResolvedHop>& resolved) const {
  std::vector<NextHop> out;
  for (const auto& hop : resolved) {
    NextHop n{.via = hop.gateway, .dev = hop.oif};
    if (n.dev.value == 0)
      if (auto known = compute(hop.gateway)) n.via = known->hops.front().gateway, n.dev = known->hops.front().oif;
    n.onlink = n.dev.value != 0 && needs_onlink(*n.via, n.dev);
    out.push_back(n);
  }
  sort_unique(out);
  return out;
}

std::vector<NextHop> KernelState::hops_now(const std::vector<Ip>& bgp_next_hops) const {
  std::vector<ResolvedHop> all;
  for (const auto& ip : bgp_next_hops)
    if (auto r = compute(ip)) all.insert(all.end(), r->hops.begin(), r->hops.end());
  return hops_of(all);
}

/// Whether these are the ways of the winner's BGP next hops as we resolved them: then an object may stand for those,
/// and follow when their resolution changes.
bool KernelState::named(const BestRoute& best, const std::vector<NextHop>& resolved, std::vector<Ip>& names) const {
  if (best.bgp_next_hop.is_unspecified()) return false;
  names = best.more_next_hops;
  names.push_back(best.bgp_next_hop);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  std::vector<ResolvedHop> all;
  for (const auto& ip : names) {
    const auto known = hops.find(ip);
    if (known == hops.end() || !known->second) return false;
    all.insert(all.end(), known->second->hops.begin(), known->second->hops.end());
  }
  return hops_of(all) == resolved;
}

WayId KernelState::way_of(const BestRoute& best) {
  if (last.way != kNoWay && best.more_next_hops.empty() && best.bgp_next_hop == last.hop && best.next_hops == last.hops)
    return last.way;
  const auto resolved = hops_of(best.next_hops);
  WayId way = kNoWay;
  const bool devices = std::all_of(resolved.begin(), resolved.end(), [](const NextHop& n) { return n.dev.value != 0; });
  if (use_objects && devices) {
    std::vector<Ip> names;
    if (!named(best, resolved, names)) names.clear();
    way = objects.way(objects.want(names, resolved));
  } else {
    way = ways.of_hops(resolved);
  }
  if (best.more_next_hops.empty()) last = {best.bgp_next_hop, best.next_hops, way};
  return way;
}

void KernelState::route_changed(const Prefix& prefix, const std::optional<BestRoute>& best) {
  if (stopped || !options.export_routes) return;
  const auto dst = prefix.masked();
  std::optional<std::uint32_t> metric;
  if (best && !best->next_hops.empty()) {
    metric = options.preference_from_metric && elevated(best->local_pref) ? kMetricPreference - best->local_pref
                                                                          : options.metric;
    metric = metric_in(dst, *metric);
    if (!failed.empty()) failed.erase({netlink::kTableMain, dst, *metric});
    routes.set_desired(dst, *metric, way_of(*best));
  }
  const auto retire = [&](std::uint32_t m) {
    if (metric == m) return;
    if (!failed.empty()) failed.erase({netlink::kTableMain, dst, m});
    routes.erase_desired(dst, m);
  };
  retire(metric_in(dst, options.metric));
  if (const auto* others = routes.others(dst))
    for (const auto m : std::vector(*others)) retire(m);
}

// ---- nexthop objects ----

void KernelState::write_objects(bool groups) {
  const auto due = objects.due(groups, KernelBgp::kSlice, [this](IfIndex dev) { return has_carrier(dev); });
  for (const auto& [from, to] : objects.take_rehomed()) {
    routes.move_desired(from, to);
    last.way = kNoWay;
  }
  if (due.empty()) return;
  batch.clear();
  for (const auto& w : due) {
    batch.put(w.object, w.replace ? netlink::Put::replace : netlink::Put::add);
    if (reading) touched_objects.insert(w.object.id);
  }
  std::size_t followers = 0;
  for (const auto& w : due)
    if (w.replace) followers += ways.refs(objects.way(w.ref)) / 2;  // each wants it and has it
  if (options.quiet_from > 0 && followers >= options.quiet_from) compat.quiet();
  auto done = nl.commit(batch);
  compat.restore();
  if (!done) {
    tell(fmt::format("nexthop objects not written: {}", done.error().what));
    resync();
    return retry_later();
  }
  std::size_t next = 0;
  bool look_again = false;
  for (std::size_t i = 0; i < due.size(); ++i) {
    const auto id = due[i].object.id;
    if (next >= done->failed.size() || done->failed[next].index != i) {
      objects.written(due[i]);
      failed_objects.erase(id);
      suspect_objects.erase(id);
      continue;
    }
    const auto& e = done->failed[next++];
    failed_objects[id] = e.what.what;
    if (may_be_late(e.error) && suspect_objects.insert(id).second)
      look_again = true;
    else
      tell(e.what.what);
    retry_later();
  }
  if (suspect_objects.size() > 10000) suspect_objects.clear();
  if (look_again) resync();
  if (done->failed.size() < due.size()) routes.unpark_all();
}

void KernelState::write_objects() {
  if (!use_objects || stopped || !started || !options.export_routes) return;
  write_objects(false);
  write_objects(true);
  if (objects.more()) schedule();
}

/// Objects that nothing needs. Their routes must have gone first: the kernel would take them along.
void KernelState::remove_objects() {
  last.way = kNoWay;
  objects.idle(ways.collect());
  if (!has_objects || !swept || objects.stale() == 0) return;
  const auto ids = objects.removable(KernelBgp::kSlice);
  if (ids.empty()) return;
  batch.clear();
  for (const auto id : ids) {
    batch.remove_nexthop(id);
    if (reading) touched_objects.insert(id);
  }
  auto done = nl.commit(batch);
  if (!done) {
    tell(fmt::format("nexthop objects not removed: {}", done.error().what));
    resync();
    return retry_later();
  }
  std::vector<std::uint32_t> gone;
  std::size_t next = 0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (next < done->failed.size() && done->failed[next].index == i && done->failed[next++].error != ENOENT) {
      tell(done->failed[next - 1].what.what);
      retry_later();
    } else {
      objects.erase_actual(ids[i], gone);
    }
  }
  if (objects.stale() && !gone.empty()) schedule();
}

// ---- routes ----

/// Writes at most kSlice changes; posts itself while there are more.
void KernelState::write() {
  if (stopped || !started || !options.export_routes) return;
  write_objects();
  batch.clear();
  written_now.clear();
  removed_now.clear();
  std::size_t seen = 0;
  Route r;
  r.protocol = options.protocol;
  for (auto id = routes.first(Pending::update);
       id != RouteTable::kNone && batch.size() < KernelBgp::kSlice && seen < 4 * KernelBgp::kSlice; ++seen) {
    const auto at = id;
    id = routes.next(id);
    const auto& e = routes.at(at);
    const auto* strangers = fib.of(e.prefix);
    if (strangers && strangers->contains(e.metric)) {
      failure(key_of_entry(e), fmt::format("route {} metric {}: another program's route is there", e.prefix, e.metric));
      routes.park(at);
      continue;
    }
    const auto& way = ways.at(e.desired);
    // A device that is down takes no route; the engine is about to hear that the next hop is gone. An object that is
    // not there waits for its device's carrier, or was refused and is told of itself.
    const bool possible =
        way.object ? objects.present_id(way.object)
                   : std::all_of(way.hops.begin(), way.hops.end(), [&](const NextHop& n) { return is_up(n.dev); });
    if (!possible) {
      routes.park(at);
      continue;
    }
    r.dst = e.prefix;
    r.metric = e.metric;
    r.nexthop_id = way.object;
    r.nexthops = way.hops;
    // Only what we know to be ours is replaced: the kernel's replacement does not look at protocols.
    batch.put(r, e.actual != kNoWay ? netlink::Put::replace : netlink::Put::add);
    written_now.push_back(at);
  }
  r.nexthop_id = 0;
  r.nexthops.clear();
  for (const auto list : {Pending::deletion, Pending::left_over}) {
    if (list == Pending::left_over && !swept) break;
    for (auto id = routes.first(list);
         id != RouteTable::kNone && batch.size() < KernelBgp::kSlice && seen < 4 * KernelBgp::kSlice; ++seen) {
      const auto at = id;
      id = routes.next(id);
      const auto& e = routes.at(at);
      if (routes.replacement_due(at)) {  // no moment without a route: the other metric first
        routes.park(at);
        continue;
      }
      r.dst = e.prefix;
      r.metric = e.metric;
      batch.remove(r);
      removed_now.push_back(at);
    }
  }
  if (batch.empty()) {
    if (seen >= 4 * KernelBgp::kSlice) schedule();
    return remove_objects();
  }
  auto done = nl.commit(batch);
  if (!done) {
    // Some may have gone in: read what is there before the next attempt.
    tell(fmt::format("routes not written: {}", done.error().what));
    resync();
    return retry_later();
  }
  std::size_t next = 0;
  const auto total = written_now.size() + removed_now.size();
  for (std::size_t i = 0; i < total; ++i) {
    const bool removal = i >= written_now.size();
    const auto id = removal ? removed_now[i - written_now.size()] : written_now[i];
    const auto& e = routes.at(id);
    const netlink::OpError* error = nullptr;
    if (next < done->failed.size() && done->failed[next].index == i) error = &done->failed[next++];
    if (error && !(removal && error->error == ESRCH)) {
      refused(id, *error);
      continue;
    }
    touched(key_of_entry(e));
    if (!suspects.empty()) suspects.erase(key_of_entry(e));
    if (removal) {
      routes.removed(id);
    } else {
      const bool waited_for = routes.others(e.prefix) != nullptr;
      const auto prefix = e.prefix;
      routes.written(id);
      if (waited_for) routes.unpark(prefix);
    }
  }
  if (total >= KernelBgp::kSlice || routes.first(Pending::update) != RouteTable::kNone ||
      routes.first(Pending::deletion) != RouteTable::kNone || (swept && routes.count(Pending::left_over)))
    schedule();
  else
    remove_objects();
}

/// Somebody has a route of this key that we have not heard of, or an object or device went and the news is on its way:
/// a full read first, a complaint when the kernel says no again.
void KernelState::refused(RouteTable::Id id, const netlink::OpError& e) {
  const auto key = key_of_entry(routes.at(id));
  routes.park(id);
  if (may_be_late(e.error) && suspects.insert(key).second) {
    resync();
    return retry_later();
  }
  if (suspects.size() > 10000) suspects.clear();
  failure(key, e.what.what);
}

void KernelState::failure(const RouteKey& key, std::string why) {
  auto [it, fresh] = failed.insert_or_assign(key, std::move(why));
  auto& told = told_of[key];
  if (told != it->second) {
    told = it->second;
    tell(it->second);
  }
  if (told_of.size() > 10000) told_of.clear();
  retry_later();
}

void KernelState::try_again() {
  failed.clear();
  failed_objects.clear();
  objects.touch_all();
  routes.unpark_all();
  schedule();
}

void KernelState::retry_later() {
  if (retry_armed || stopped) return;
  retry_armed = true;
  retry.expires_after(KernelBgp::kRetry);
  retry.async_wait([self = shared_from_this()](auto ec) {
    self->retry_armed = false;
    if (!ec && !self->stopped) self->try_again();
  });
}

}  // namespace calico::bgp
