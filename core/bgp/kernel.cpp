#include "core/bgp/kernel.hpp"

#include <linux/rtnetlink.h>

#include <algorithm>

#include "core/bgp/kernel_state.hpp"

namespace calico::bgp {

using netlink::key_of;
using netlink::NextHop;
using netlink::Route;
using netlink::RouteKey;
using netlink::RouteType;

namespace {

/// Beyond this many remembered next hops all are resolved again at each change, instead of those concerned.
constexpr std::size_t kMostHops = 100000;
constexpr std::size_t kMostChecks = 200000;
constexpr std::size_t kMostParked = 1024;  // tried again at each change; more wait for the timer
/// Metrics whose preference is told; beyond, a route is of no importance and has the default.
constexpr std::uint32_t kWorstToldMetric = 65535;

/// Routes that lead packets somewhere or stop them; the kernel's own bookkeeping (local, broadcast, multicast) is not
/// ours.
bool of_interest(const Route& r) {
  switch (r.type) {
    case RouteType::unicast:
    case RouteType::blackhole:
    case RouteType::unreachable:
    case RouteType::prohibit:
    case RouteType::throw_:
      return r.table == netlink::kTableMain;
    default:
      return false;
  }
}

/// What no neighbour is to hear from us whatever the interface: default routes, link-local, loopback, multicast.
bool announceable(const Prefix& p) {
  return p.len != 0 && !p.addr.is_link_local() && !p.addr.is_loopback() && !p.addr.is_multicast();
}

}  // namespace

Result<KernelSnapshot> read_kernel(netlink::Rtnl& nl, std::uint8_t protocol) {
  KernelSnapshot s;
  auto links = nl.links();
  if (!links) return tl::unexpected(links.error());
  auto addresses = nl.addresses();
  if (!addresses) return tl::unexpected(addresses.error());
  // Objects before routes: a route made in between names one that is known or told by an event.
  auto objects = nl.nexthops();
  if (objects)
    s.objects = std::move(*objects);
  else if (objects.error().code != Errc::unsupported && objects.error().code != Errc::invalid)
    return tl::unexpected(objects.error());
  auto routes = nl.routes({.table = netlink::kTableMain});
  if (!routes) return tl::unexpected(routes.error());
  s.links = std::move(*links);
  s.addresses = std::move(*addresses);
  for (auto& told : *routes)
    if (of_interest(told)) (told.protocol == protocol ? s.ours : s.others).push_back(normalised(std::move(told)));
  return s;
}

// ---- events: they change the copy and note what to look at; turn() looks ----

void KernelState::on_route(const Route& told, bool gone) {
  if (!of_interest(told)) return;
  const Route r = normalised(told);
  const auto key = key_of(r);
  touched(key);
  if (r.protocol == options.protocol) {
    if (gone)
      routes.erase_actual(r.dst, r.metric);
    else
      routes.set_actual(r.dst, r.metric, ways.of(r));
    if (!failed.empty()) failed.erase(key);
    routes.unpark(r.dst);
    schedule();
    return;
  }
  if (gone ? fib.erase(r) : fib.set(r)) note(r.dst);
  // A stranger took the place of ours (a replacement is told once, as the new route).
  if (!gone) routes.erase_actual(r.dst, r.metric);
}

void KernelState::on_link(const netlink::Link& l, bool gone) {
  if (reading) touched_links.insert(l.index);
  const auto it = links.find(l.index);
  const bool was_up = it == links.end() || it->second.up;
  const bool was_running = it == links.end() || it->second.running;
  const bool running = !gone && l.keeps_nexthops();
  check_link_local = true;
  // The kernel drops IPv4 routes with their device in silence, and nexthop objects with their device's carrier.
  if ((gone || !l.admin_up()) && was_up) device_down(l.index);
  if (!running && was_running) objects_down(l.index);
  if (gone) {
    links.erase(l.index);
    return schedule();
  }
  auto& known = links[l.index];
  if (known.name != l.name)
    for (const auto& dst : fib.over(l.index)) note(dst);
  const bool carrier = l.carrier();
  if ((l.admin_up() && !known.up) || (carrier && !known.carrier)) {
    objects.touch(l.index);
    routes.unpark_all();
  }
  known = {l.name, l.admin_up(), carrier, running, l.loopback()};
  schedule();
}

void KernelState::device_down(IfIndex dev) {
  for (const auto& dst : fib.drop_device(dev)) note(dst);
  routes.erase_actual_of(ways.over(dev), [this](const Prefix& p, std::uint32_t m) {
    touched({netlink::kTableMain, p, m});
  });
  schedule();
}

void KernelState::objects_down(IfIndex dev) {
  std::vector<std::uint32_t> gone;
  objects.drop_device(dev, gone);
  objects_gone(gone);
}

/// Routes go with the object they name.
void KernelState::objects_gone(const std::vector<std::uint32_t>& ids) {
  if (ids.empty()) return;
  std::vector<WayId> lost;
  for (const auto id : ids) {
    if (reading) touched_objects.insert(id);
    if (const auto way = ways.find_object(id); way != kNoWay) lost.push_back(way);
  }
  routes.erase_actual_of(lost, [this](const Prefix& p, std::uint32_t m) { touched({netlink::kTableMain, p, m}); });
  schedule();
}

void KernelState::on_nexthop(const netlink::NexthopObject& o, bool gone) {
  if (reading) touched_objects.insert(o.id);
  if (gone) {
    std::vector<std::uint32_t> ids;
    objects.erase_actual(o.id, ids);
    objects_gone(ids);
  } else {
    objects.set_actual(o);
  }
  // Routes that are dumped without what their object stands for (net.ipv4.nexthop_compat_mode=0).
  if (!objects.ours(o)) check_all = true;
  schedule();
}

void KernelState::on_address(const netlink::Address& a, bool gone) {
  const Ip ip = a.prefix.addr;
  if (reading) touched_addresses.insert(ip);
  if (gone) {
    if (auto it = own.find(ip); it != own.end() && it->second.erase(a.link) && it->second.empty()) own.erase(it);
    if (!own.contains(ip))
      for (const auto& dst : fib.drop_source(ip)) note(dst);
  } else {
    own[ip].insert(a.link);
  }
  if (ip.is_link_local()) check_link_local = true;
  note(Prefix::host(ip));
}

void KernelState::note(const Prefix& dst) {
  changed.insert(dst);
  schedule();
}

void KernelState::schedule() {
  if (scheduled || stopped || !started) return;
  scheduled = true;
  loop.post([self = shared_from_this()] {
    self->scheduled = false;
    if (!self->stopped) self->turn();
  });
}

void KernelState::turn() {
  if (!changed.empty() || check_all || check_link_local) {
    std::vector<Prefix> look;
    while (!changed.empty() && look.size() < KernelBgp::kPrefixes) {
      look.push_back(*changed.begin());
      changed.erase(changed.begin());
    }
    last.way = kNoWay;
    for (const auto& dst : look) import(dst);
    check_hops(look);
    // What could not be written may be possible now.
    if (!failed_objects.empty()) {
      failed_objects.clear();
      objects.touch_all();
    }
    if (routes.count(Pending::parked) <= kMostParked) {
      failed.clear();
      routes.unpark_all();
    } else {
      for (const auto& dst : look) routes.unpark(dst);
    }
  }
  write();
  if (!changed.empty()) schedule();
}

// ---- import ----

/// What is announced for a destination: the agent's best route over an interface of its own, none = nothing.
std::optional<LocalRoute> KernelState::local_of(const Prefix& dst) const {
  const auto* all = fib.of(dst);
  if (!all || !announceable(dst)) return std::nullopt;
  for (const auto& [metric, r] : *all) {
    if (r.type != RouteType::unicast) continue;
    if (std::find(options.import_protocols.begin(), options.import_protocols.end(), r.protocol) ==
        options.import_protocols.end())
      continue;
    for (const auto& n : r.nexthops) {
      const auto l = links.find(n.dev);
      if (l == links.end()) continue;
      for (const auto& pattern : options.import_interfaces) {
        if (!netlink::matches_interface(pattern, l->second.name)) continue;
        LocalRoute local;
        if (options.preference_from_metric && metric > 0 && metric <= kWorstToldMetric)
          local.local_pref = kMetricPreference - metric;
        return local;
      }
    }
  }
  return std::nullopt;
}

void KernelState::import(const Prefix& dst) {
  const auto local = local_of(dst);
  const auto known = imported.find(dst);
  if (local) {
    if (known != imported.end() && known->second == *local) return;
    imported.insert_or_assign(dst, *local);
    hooks.set_local(dst, *local);
  } else if (known != imported.end()) {
    imported.erase(known);
    hooks.set_local(dst, std::nullopt);
  }
}

// ---- next hops ----

Result<Resolution> KernelState::compute(const Ip& ip) const {
  if (own.contains(ip)) return fail(Errc::not_found, "next hop {} is an address of this host", ip);
  Resolution out;
  if (ip.is_v6() && ip.is_link_local()) {
    // It says nothing about its link: the one link that is not a workload's, if there is only one.
    for (const auto& [address, devs] : own) {
      if (!address.is_v6() || !address.is_link_local()) continue;
      for (const auto dev : devs) {
        const auto l = links.find(dev);
        if (l == links.end() || !l->second.up || l->second.loopback) continue;
        if (std::any_of(options.import_interfaces.begin(), options.import_interfaces.end(),
                        [&](const auto& p) { return netlink::matches_interface(p, l->second.name); }))
          continue;
        if (!out.hops.empty() && out.hops.front().oif != dev)
          return fail(Errc::not_found, "next hop {}: link-local, and this host has more than one link", ip);
        out.hops = {{ip, dev, 0}};
      }
    }
    if (out.hops.empty()) return fail(Errc::not_found, "next hop {}: link-local, and no link of this host is up", ip);
    return out;
  }
  const Route* r = fib.lookup(ip);
  if (!r) return fail(Errc::not_found, "next hop {}: no route", ip);
  const auto ways_there = r->nexthops.empty() && r->nexthop_id ? objects.hops_of(r->nexthop_id) : r->nexthops;
  if (r->type != RouteType::unicast || ways_there.empty())
    return fail(Errc::not_found, "next hop {}: {}", ip, netlink::to_string(*r));
  out.metric = r->metric;
  const bool some_live =
      std::any_of(ways_there.begin(), ways_there.end(), [](auto& n) { return (n.flags & RTNH_F_DEAD) == 0; });
  for (const NextHop& n : ways_there) {
    if (some_live && (n.flags & RTNH_F_DEAD) != 0) continue;
    const ResolvedHop hop{n.via ? *n.via : ip, n.dev, r->metric};
    if (std::find(out.hops.begin(), out.hops.end(), hop) == out.hops.end()) out.hops.push_back(hop);
  }
  return out;
}

Result<Resolution> KernelState::resolve(const Ip& ip) {
  auto r = compute(ip);
  if (hops.size() < kMostHops || hops.contains(ip)) hops[ip] = r ? std::optional(*r) : std::nullopt;
  last.way = kNoWay;
  return r;
}

void KernelState::check_hops(const std::vector<Prefix>& look) {
  const bool all = std::exchange(check_all, false) || look.size() * hops.size() > kMostChecks;
  const bool link_local = std::exchange(check_link_local, false);
  std::vector<Ip> moved;
  for (auto& [ip, answer] : hops) {
    if (!all && !(link_local && ip.is_link_local()) &&
        std::none_of(look.begin(), look.end(), [&hop = ip](const Prefix& p) { return p.contains(hop); }))
      continue;
    auto now = compute(ip);
    if ((now ? std::optional(*now) : std::nullopt) != answer) moved.push_back(ip);
  }
  // The kernel first, the engine's thousands of routes after that: they find their object changed already.
  for (const auto& ip : moved) objects.moved(ip, [this](const auto& names) { return hops_now(names); });
  if (!moved.empty()) write_objects();
  for (const auto& ip : moved) hooks.next_hop_changed(ip);
  if (hops.size() >= kMostHops) hooks.next_hops_changed();
}

// ---- the full read ----

void KernelState::resync() {
  if (stopped || !started) return;
  if (reading) {
    read_again = true;
    return;
  }
  reading = true;
  ++resyncs;
  touched_routes.clear();
  touched_links.clear();
  touched_addresses.clear();
  touched_objects.clear();
  if (worker.joinable()) worker.join();
  worker = std::thread([self = shared_from_this()] {
    auto s = std::make_shared<Result<KernelSnapshot>>(read_kernel(self->reader, self->options.protocol));
    self->loop.post([self, s] {
      if (self->worker.joinable()) self->worker.join();
      if (!self->stopped) self->apply(std::move(*s));
    });
  });
}

void KernelState::apply(Result<KernelSnapshot> s) {
  if (!s) {
    reading = false;
    tell(fmt::format("reading the kernel's routes failed, trying again: {}", s.error().what));
    return read_later();
  }
  begin_merge(*s);
  merge_turn();
}

void KernelState::merge_turn() {
  if (merge(KernelBgp::kMergeSlice)) {
    loop.post([self = shared_from_this()] {
      if (!self->stopped) self->merge_turn();
    });
    return;
  }
  reading = false;
  arm_resync();
  if (std::exchange(read_again, false)) resync();
  try_again();
}

void KernelState::read_later() {
  resync_due.expires_after(KernelBgp::kRetry);
  resync_due.async_wait([self = shared_from_this()](auto ec) {
    if (!ec) self->resync();
  });
}

void KernelState::arm_resync() {
  if (options.resync.count() == 0) return;
  resync_due.expires_after(options.resync);
  resync_due.async_wait([self = shared_from_this()](auto ec) {
    if (!ec) self->resync();
  });
}

/// Takes over what was read; what events and our own writes changed meanwhile is newer and stays. Our routes, of which
/// there may be very many, are left to merge(), a slice a turn.
void KernelState::begin_merge(KernelSnapshot& s) {
  std::unordered_set<IfIndex> seen;
  for (const auto& l : s.links) {
    seen.insert(l.index);
    if (touched_links.contains(l.index)) continue;
    const auto known = links.find(l.index);
    const bool carrier = l.carrier();
    if (known != links.end() && known->second.name == l.name && known->second.up == l.admin_up() &&
        known->second.carrier == carrier)
      continue;
    on_link(l, false);
    touched_links.erase(l.index);
  }
  std::vector<IfIndex> gone;
  for (const auto& [index, l] : links)
    if (!seen.contains(index) && !touched_links.contains(index)) gone.push_back(index);
  for (auto index : gone) {
    device_down(index);
    objects_down(index);
    links.erase(index);
  }

  std::unordered_map<Ip, std::unordered_set<IfIndex>> addresses;
  for (const auto& a : s.addresses) addresses[a.prefix.addr].insert(a.link);
  for (const auto& ip : touched_addresses) {
    addresses.erase(ip);
    if (auto it = own.find(ip); it != own.end()) addresses[ip] = it->second;
  }
  for (const auto& [ip, devs] : own)
    if (!addresses.contains(ip)) note(Prefix::host(ip));
  for (const auto& [ip, devs] : addresses)
    if (!own.contains(ip)) note(Prefix::host(ip));
  if (own != addresses) check_link_local = true;
  own = std::move(addresses);

  if (s.objects) {
    std::vector<std::uint32_t> dropped;
    objects.load(*s.objects, touched_objects, dropped);
    objects_gone(dropped);
    check_all = true;
  }
  for (const auto& dst : fib.load(s.others, touched_routes)) note(dst);
  merging = {.ours = std::move(s.ours), .next = 0, .sweep = 0};
  routes.begin_read();
}

/// True while there is more.
bool KernelState::merge(std::size_t budget) {
  for (; budget > 0 && merging.next < merging.ours.size(); --budget) {
    const auto& r = merging.ours[merging.next++];
    if (!touched_routes.contains(key_of(r))) routes.seen(r.dst, r.metric, ways.of(r));
  }
  if (merging.next < merging.ours.size()) return true;
  merging.ours = {};
  merging.next = 0;
  return routes.sweep_unseen(merging.sweep, budget, [this](const Prefix& p, std::uint32_t m) {
    return touched_routes.contains({netlink::kTableMain, p, m});
  });
}

void KernelState::load(KernelSnapshot s) {
  begin_merge(s);
  while (merge(SIZE_MAX)) {
  }
}

// ---- the object others see ----

KernelHooks hooks_of(Engine& engine, std::function<void(std::string_view)> problem) {
  return {
      .set_local = [&engine](const Prefix& p, const std::optional<LocalRoute>& r) { engine.set_local(p, r); },
      .local_complete = [&engine] { engine.local_complete(); },
      .next_hops_changed = [&engine] { engine.next_hops_changed(); },
      .next_hop_changed = [&engine](const Ip& ip) { engine.next_hop_changed(ip); },
      .problem = std::move(problem),
  };
}

KernelBgp::KernelBgp(std::shared_ptr<KernelState> s) : state_(std::move(s)) {}

Result<std::unique_ptr<KernelBgp>> KernelBgp::open(Loop& loop, KernelOptions options) {
  auto nl = netlink::Rtnl::open();
  if (!nl) return tl::unexpected(nl.error());
  auto reader = netlink::Rtnl::open();
  if (!reader) return tl::unexpected(reader.error());
  const bool has_objects = nl->nexthops().has_value();
  auto state = std::make_shared<KernelState>(loop, std::move(options), std::move(*nl), std::move(*reader));
  state->has_objects = has_objects;
  state->use_objects = has_objects && state->options.nexthop_objects;
  if (state->use_objects) state->compat.open();
  // The handlers hold the state weakly: the state owns the monitor.
  std::weak_ptr<KernelState> weak = state;
  netlink::MonitorHandlers h;
  h.ignored_port = state->nl.port();
  h.on_route = [weak](const Route& r, bool gone) {
    if (auto s = weak.lock()) s->on_route(r, gone);
  };
  h.on_link = [weak](const netlink::Link& l, bool gone) {
    if (auto s = weak.lock()) s->on_link(l, gone);
  };
  h.on_address = [weak](const netlink::Address& a, bool gone) {
    if (auto s = weak.lock()) s->on_address(a, gone);
  };
  h.on_nexthop = [weak](const netlink::NexthopObject& o, bool gone) {
    if (auto s = weak.lock()) s->on_nexthop(o, gone);
  };
  h.on_resync = [weak](std::string_view why) {
    if (auto s = weak.lock()) {
      s->tell(fmt::format("{}: reading all routes again", why));
      s->resync();
    }
  };
  using netlink::Monitor;
  const unsigned groups =
      Monitor::kLinks | Monitor::kAddresses | Monitor::kRoutes | (has_objects ? unsigned{Monitor::kNexthops} : 0U);
  auto monitor = Monitor::open(loop.executor(), groups, std::move(h), 8U << 20U);
  if (!monitor) return tl::unexpected(monitor.error());
  state->monitor.emplace(std::move(*monitor));
  auto snapshot = read_kernel(state->nl, state->options.protocol);
  if (!snapshot) return wrap(snapshot.error(), "read the kernel's routes");
  state->load(std::move(*snapshot));
  state->changed.clear();
  return std::unique_ptr<KernelBgp>(new KernelBgp(std::move(state)));
}

KernelBgp::~KernelBgp() { stop(); }

void KernelBgp::start(KernelHooks hooks) {
  auto& s = *state_;
  s.hooks = std::move(hooks);
  s.started = true;
  std::vector<Prefix> all;
  s.fib.for_each([&](const Route& r) { all.push_back(r.dst); });
  for (const auto& dst : all) s.import(dst);
  s.hooks.local_complete();
  s.monitor->start();
  s.arm_resync();
  s.schedule();
}

void KernelBgp::stop() {
  auto& s = *state_;
  s.stopped = true;
  if (s.monitor) s.monitor->stop();
  s.retry.cancel();
  s.resync_due.cancel();
  if (s.worker.joinable()) s.worker.join();
}

void KernelBgp::reconfigure(const KernelOptions& options) {
  auto& s = *state_;
  s.options.import_interfaces = options.import_interfaces;
  s.options.import_protocols = options.import_protocols;
  s.options.preference_from_metric = options.preference_from_metric;
  s.options.resync = options.resync;
  if (s.stopped || !s.started) return;
  s.fib.for_each([&](const Route& r) { s.changed.insert(r.dst); });
  s.check_link_local = true;
  s.schedule();
}

KernelStatus KernelBgp::status() const {
  const auto& s = *state_;
  KernelStatus r;
  r.imported = s.imported.size();
  r.exported = s.routes.in_sync();
  r.left_over = s.swept ? 0 : s.routes.count(Pending::left_over);
  r.pending = s.routes.count(Pending::update) + s.routes.count(Pending::deletion) + s.routes.count(Pending::parked) +
              s.routes.count(Pending::left_over) - r.left_over;
  r.failed = s.failed.size() + s.failed_objects.size();
  for (const auto& [id, why] : s.failed_objects)
    if (r.faults.size() < 10) r.faults.push_back(why);
  for (const auto& [key, why] : s.failed)
    if (r.faults.size() < 10) r.faults.push_back(why);
  r.kernel_routes = s.fib.size();
  r.resyncs = s.resyncs;
  r.swept = s.swept;
  r.nexthop_objects = s.use_objects;
  r.objects = s.objects.wanted();
  return r;
}

void KernelBgp::route_changed(const Prefix& prefix, const std::optional<BestRoute>& best) {
  state_->route_changed(prefix, best);
}

void KernelBgp::flush() { state_->write(); }

void KernelBgp::sweep() {
  state_->swept = true;
  state_->schedule();
}

Result<Resolution> KernelBgp::resolve(const Ip& next_hop) { return state_->resolve(next_hop); }

Result<std::size_t> remove_kernel_routes(std::uint8_t protocol) {
  auto nl = netlink::Rtnl::open();
  if (!nl) return tl::unexpected(nl.error());
  auto routes = nl->routes({.protocol = protocol});
  if (!routes) return tl::unexpected(routes.error());
  netlink::Batch batch;
  for (const auto& r : *routes) batch.remove(normalised(r));
  auto objects = nl->nexthops();
  if (objects) {
    // After their routes; groups before their members.
    Ways ways;
    const NextHopObjects ours(ways, protocol);
    for (const bool groups : {true, false})
      for (const auto& o : *objects)
        if (ours.ours(o) && o.group.empty() != groups) batch.remove_nexthop(o.id);
  }
  auto done = nl->commit(batch);
  if (!done) return tl::unexpected(done.error());
  std::erase_if(done->failed, [](const netlink::OpError& e) { return e.error == ESRCH || e.error == ENOENT; });
  if (!done->ok()) return tl::unexpected(done->failed.front().what);
  return routes->size();
}

}  // namespace calico::bgp
