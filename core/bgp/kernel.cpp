#include "core/bgp/kernel.hpp"

#include <algorithm>
#include <boost/asio/steady_timer.hpp>
#include <thread>
#include <unordered_map>
#include <unordered_set>

#include "core/bgp/kernel_fib.hpp"
#include "core/netlink/monitor.hpp"
#include "core/netlink/rtnl.hpp"
#include "core/reconcile/delta_tracker.hpp"

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

struct Snapshot {
  std::vector<netlink::Link> links;
  std::vector<netlink::Address> addresses;
  std::vector<Route> routes;
};

Result<Snapshot> read_kernel(netlink::Rtnl& nl) {
  Snapshot s;
  auto links = nl.links();
  if (!links) return tl::unexpected(links.error());
  auto addresses = nl.addresses();
  if (!addresses) return tl::unexpected(addresses.error());
  auto routes = nl.routes({.table = netlink::kTableMain});
  if (!routes) return tl::unexpected(routes.error());
  s.links = std::move(*links);
  s.addresses = std::move(*addresses);
  s.routes = std::move(*routes);
  return s;
}

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

bool has_device(const Route& r, IfIndex dev) {
  return std::any_of(r.nexthops.begin(), r.nexthops.end(), [dev](const NextHop& n) { return n.dev == dev; });
}

}  // namespace

struct KernelBgp::State : std::enable_shared_from_this<KernelBgp::State> {
  State(Loop& l, KernelOptions o, netlink::Rtnl requests, netlink::Rtnl reads)
      : loop(l),
        options(std::move(o)),
        nl(std::move(requests)),
        reader(std::move(reads)),
        retry(l.io()),
        resync_due(l.io()) {}
  ~State() {
    if (worker.joinable()) worker.join();
  }

  // ---- events: they change the copy and note what to look at; turn() looks ----

  void on_route(const Route& told, bool gone) {
    if (!of_interest(told)) return;
    const Route r = normalised(told);
    const auto key = key_of(r);
    if (reading) touched_routes.insert(key);
    if (r.protocol == options.protocol) {
      if (gone)
        routes.erase_actual(key);
      else
        set_actual(key, r);
      failed.erase(key);
      schedule();
      return;
    }
    if (gone ? fib.erase(r) : fib.set(r)) note(r.dst);
    // A stranger took the place of ours (a replacement is told once, as the new route).
    if (!gone && routes.actual(key)) routes.erase_actual(key);
  }

  void on_link(const netlink::Link& l, bool gone) {
    if (reading) touched_links.insert(l.index);
    const auto it = links.find(l.index);
    const bool was_up = it == links.end() || it->second.up;
    if (gone || !l.admin_up()) {
      // The kernel drops IPv4 routes with their device in silence.
      if (was_up) device_down(l.index);
      if (gone) {
        links.erase(l.index);
        return;
      }
    }
    auto& known = links[l.index];
    if (known.name != l.name)
      for (const auto& dst : fib.over(l.index)) note(dst);
    if (l.admin_up() && !known.up) schedule();
    known = {l.name, l.admin_up()};
  }

  void device_down(IfIndex dev) {
    for (const auto& dst : fib.drop_device(dev)) note(dst);
    if (!export_devices.contains(dev)) return;
    std::vector<RouteKey> lost;
    routes.for_each_actual([&](const RouteKey& k, const Route& r) {
      if (has_device(r, dev)) lost.push_back(k);
    });
    for (const auto& k : lost) {
      if (reading) touched_routes.insert(k);
      routes.erase_actual(k);
    }
    schedule();
  }

  void on_address(const netlink::Address& a, bool gone) {
    const Ip ip = a.prefix.addr;
    if (reading) touched_addresses.insert(ip);
    if (gone) {
      if (auto it = own.find(ip); it != own.end() && it->second.erase(a.link) && it->second.empty()) own.erase(it);
      if (!own.contains(ip))
        for (const auto& dst : fib.drop_source(ip)) note(dst);
    } else {
      own[ip].insert(a.link);
    }
    note(Prefix::host(ip));
  }

  void note(const Prefix& dst) {
    changed.insert(dst);
    schedule();
  }

  void schedule() {
    if (scheduled || stopped || !started) return;
    scheduled = true;
    loop.post([self = shared_from_this()] {
      self->scheduled = false;
      if (!self->stopped) self->turn();
    });
  }

  void turn() {
    if (!changed.empty()) {
      const auto look = std::move(changed);
      changed.clear();
      for (const auto& dst : look) import(dst);
      check_hops(look);
      failed.clear();  // what could not be written may be possible now
    }
    write();
  }

  // ---- import ----

  bool is_local(const Prefix& dst) const {
    const auto* all = fib.of(dst);
    if (!all || !announceable(dst)) return false;
    for (const auto& [metric, r] : *all) {
      if (r.type != RouteType::unicast) continue;
      if (std::find(options.import_protocols.begin(), options.import_protocols.end(), r.protocol) ==
          options.import_protocols.end())
        continue;
      for (const auto& n : r.nexthops) {
        const auto l = links.find(n.dev);
        if (l == links.end()) continue;
        for (const auto& pattern : options.import_interfaces)
          if (netlink::matches_interface(pattern, l->second.name)) return true;
      }
    }
    return false;
  }

  void import(const Prefix& dst) {
    if (is_local(dst)) {
      if (imported.insert(dst).second) hooks.set_local(dst, LocalRoute{});
    } else if (imported.erase(dst)) {
      hooks.set_local(dst, std::nullopt);
    }
  }

  // ---- next hops ----

  Result<ResolvedHop> compute(const Ip& ip) const {
    if (own.contains(ip)) return fail(Errc::not_found, "next hop {} is an address of this host", ip);
    const Route* r = fib.lookup(ip);
    if (!r) return fail(Errc::not_found, "next hop {}: no route", ip);
    if (r->type != RouteType::unicast || r->nexthops.empty())
      return fail(Errc::not_found, "next hop {}: {}", ip, netlink::to_string(*r));
    const NextHop& n =
        *std::min_element(r->nexthops.begin(), r->nexthops.end(), [](const NextHop& a, const NextHop& b) {
          return (a.flags & 1U) < (b.flags & 1U);  // RTNH_F_DEAD
        });
    return ResolvedHop{n.via ? *n.via : ip, n.dev, r->metric};
  }

  Result<ResolvedHop> resolve(const Ip& ip) {
    auto r = compute(ip);
    if (hops.size() < kMostHops || hops.contains(ip)) hops[ip] = r ? std::optional(*r) : std::nullopt;
    return r;
  }

  void check_hops(const std::unordered_set<Prefix>& look) {
    if (hops.empty()) return;
    if (hops.size() >= kMostHops || hops.size() * look.size() > kMostChecks) {
      hooks.next_hops_changed();
      return;
    }
    std::vector<Ip> moved;
    for (auto& [ip, answer] : hops) {
      if (std::none_of(look.begin(), look.end(), [&, &hop = ip](const Prefix& p) { return p.contains(hop); })) continue;
      auto now = compute(ip);
      if ((now ? std::optional(*now) : std::nullopt) != answer) moved.push_back(ip);
    }
    for (const auto& ip : moved) hooks.next_hop_changed(ip);
  }

  // ---- export ----

  /// Whether the kernel would refuse the gateway without being told that it is on the link.
  bool needs_onlink(const Ip& gateway, IfIndex dev) const {
    if (gateway.is_link_local() && gateway.is_v6()) return false;
    const Route* r = fib.lookup(gateway);
    return !r || r->type != RouteType::unicast ||
           std::none_of(r->nexthops.begin(), r->nexthops.end(),
                        [dev](const NextHop& n) { return n.dev == dev && !n.via; });
  }

  Route wanted(const Prefix& prefix, const BestRoute& best) {
    Route r;
    r.dst = prefix;
    r.protocol = options.protocol;
    r.metric = options.metric;
    for (const auto& hop : best.next_hops) {
      NextHop n{.via = hop.gateway, .dev = hop.oif};
      if (n.dev.value == 0)
        if (auto known = compute(hop.gateway)) n.via = known->gateway, n.dev = known->oif;
      n.onlink = n.dev.value != 0 && needs_onlink(*n.via, n.dev);
      if (std::find(r.nexthops.begin(), r.nexthops.end(), n) == r.nexthops.end()) r.nexthops.push_back(n);
    }
    return normalised(std::move(r));
  }

  void set_actual(const RouteKey& key, const Route& r) {
    for (const auto& n : r.nexthops) export_devices.insert(n.dev);
    routes.set_actual(key, r);
  }

  void route_changed(const Prefix& prefix, const std::optional<BestRoute>& best) {
    if (stopped || !options.export_routes) return;
    const auto masked = prefix.masked();
    if (best && !best->next_hops.empty()) {
      auto r = wanted(masked, *best);
      const auto key = key_of(r);
      failed.erase(key);
      routes.set_desired(key, std::move(r));
    } else {
      Route r;
      r.dst = masked;
      r.metric = options.metric;
      const auto key = key_of(normalised(std::move(r)));
      if (!swept) withdrawn.insert(key);
      failed.erase(key);
      routes.erase_desired(key);
    }
  }

  bool may_delete(const RouteKey& key) const { return swept || withdrawn.contains(key); }

  bool is_up(IfIndex dev) const {
    const auto it = links.find(dev);
    return it != links.end() && it->second.up;
  }

  /// Writes at most kSlice changes; posts itself while there are more.
  void write() {
    if (stopped || !started || !options.export_routes) return;
    struct Op {
      RouteKey key;
      bool removal;
    };
    netlink::Batch batch;
    std::vector<Op> ops;
    std::vector<RouteKey> held;
    routes.for_each_update([&](const RouteKey& key, const Route& want, const Route* have) {
      if (failed.contains(key)) return true;
      const auto* strangers = fib.of(key.dst);
      if (strangers && strangers->contains(key.metric)) {
        held.push_back(key);
        return true;
      }
      // A device that is down takes no route; the engine is about to hear that the next hop is gone.
      if (std::any_of(want.nexthops.begin(), want.nexthops.end(), [&](const NextHop& n) { return !is_up(n.dev); }))
        return true;
      // Only what we know to be ours is replaced: the kernel's replacement does not look at protocols.
      batch.put(want, have ? netlink::Put::replace : netlink::Put::add);
      for (const auto& n : want.nexthops) export_devices.insert(n.dev);
      ops.push_back({key, false});
      return ops.size() < kSlice;
    });
    if (ops.size() < kSlice)
      routes.for_each_deletion([&](const RouteKey& key, const Route& have) {
        if (failed.contains(key) || !may_delete(key)) return true;
        batch.remove(have);
        ops.push_back({key, true});
        return ops.size() < kSlice;
      });
    for (const auto& key : held)
      failure(key, fmt::format("route {} metric {}: another program's route is there", key.dst, key.metric));
    if (ops.empty()) return;
    auto done = nl.commit(batch);
    if (!done) {
      // Some may have gone in: read what is there before the next attempt.
      tell(fmt::format("routes not written: {}", done.error().what));
      resync();
      return retry_later();
    }
    std::size_t next = 0;
    bool look_again = false;
    for (std::size_t i = 0; i < ops.size(); ++i) {
      const auto& [key, removal] = ops[i];
      const netlink::OpError* e = nullptr;
      if (next < done->failed.size() && done->failed[next].index == i) e = &done->failed[next++];
      if (!e || (removal && e->error == ESRCH)) {
        if (removal)
          routes.mark_deleted(key);
        else
          routes.mark_updated(key);
        withdrawn.erase(key);
      } else {
        // Somebody has a route of this key that we have not heard of, or ours changed behind our back.
        if (e->error == EEXIST || e->error == ESRCH) look_again = true;
        failure(key, e->what.what);
      }
    }
    if (look_again) resync();
    if (ops.size() >= kSlice) schedule();
  }

  void failure(const RouteKey& key, std::string why) {
    auto [it, fresh] = failed.insert_or_assign(key, std::move(why));
    auto& told = told_of[key];
    if (told != it->second) {
      told = it->second;
      tell(it->second);
    }
    if (told_of.size() > 10000) told_of.clear();
    retry_later();
  }

  void retry_later() {
    if (retry_armed || stopped) return;
    retry_armed = true;
    retry.expires_after(kRetry);
    retry.async_wait([self = shared_from_this()](auto ec) {
      self->retry_armed = false;
      if (ec || self->stopped) return;
      self->failed.clear();
      self->schedule();
    });
  }

  void tell(std::string_view what) const {
    if (hooks.problem) hooks.problem(what);
  }

  // ---- the full read ----

  void resync() {
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
    if (worker.joinable()) worker.join();
    worker = std::thread([self = shared_from_this()] {
      auto s = std::make_shared<Result<Snapshot>>(read_kernel(self->reader));
      self->loop.post([self, s] {
        if (self->worker.joinable()) self->worker.join();
        self->reading = false;
        if (!self->stopped) self->apply(std::move(*s));
      });
    });
  }

  void apply(Result<Snapshot> s) {
    if (!s) {
      tell(fmt::format("reading the kernel's routes failed, trying again: {}", s.error().what));
      read_again = true;
      return retry_read();
    }
    load(std::move(*s));
    if (read_again) {
      read_again = false;
      resync();
    }
    arm_resync();
    schedule();
  }

  void retry_read() {
    resync_due.expires_after(kRetry);
    resync_due.async_wait([self = shared_from_this()](auto ec) {
      if (!ec) self->resync();
    });
  }

  void arm_resync() {
    if (options.resync.count() == 0) return;
    resync_due.expires_after(options.resync);
    resync_due.async_wait([self = shared_from_this()](auto ec) {
      if (!ec) self->resync();
    });
  }

  /// Takes over what was read; what events changed meanwhile is newer and stays.
  void load(Snapshot s) {
    std::unordered_set<IfIndex> seen;
    for (const auto& l : s.links) {
      seen.insert(l.index);
      if (!touched_links.contains(l.index)) on_link(l, false);
    }
    std::vector<IfIndex> gone;
    for (const auto& [index, l] : links)
      if (!seen.contains(index) && !touched_links.contains(index)) gone.push_back(index);
    for (auto index : gone) {
      device_down(index);
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
    own = std::move(addresses);

    std::vector<Route> others;
    std::vector<std::pair<RouteKey, Route>> ours;
    for (auto& told : s.routes) {
      if (!of_interest(told)) continue;
      auto r = normalised(std::move(told));
      if (r.protocol != options.protocol) {
        others.push_back(std::move(r));
      } else if (const auto key = key_of(r); !touched_routes.contains(key)) {
        for (const auto& n : r.nexthops) export_devices.insert(n.dev);
        ours.emplace_back(key, std::move(r));
      }
    }
    for (const auto& key : touched_routes)
      if (const Route* have = routes.actual(key)) ours.emplace_back(key, *have);
    routes.load_actual(ours);
    for (const auto& dst : fib.load(others, touched_routes)) note(dst);
  }

  Loop& loop;
  KernelOptions options;
  KernelHooks hooks;
  netlink::Rtnl nl;      // the loop's
  netlink::Rtnl reader;  // the worker's
  std::optional<netlink::Monitor> monitor;

  KernelFib fib;
  struct KnownLink {
    std::string name;
    bool up = false;
  };
  std::unordered_map<IfIndex, KnownLink> links;
  std::unordered_map<Ip, std::unordered_set<IfIndex>> own;
  std::unordered_set<Prefix> imported;
  std::unordered_map<Ip, std::optional<ResolvedHop>> hops;  // what the engine was told

  DeltaTracker<RouteKey, Route> routes;
  std::unordered_set<RouteKey> withdrawn;  // before the sweep: what the engine took back itself
  std::unordered_map<RouteKey, std::string> failed;
  std::unordered_map<RouteKey, std::string> told_of;
  std::unordered_set<IfIndex> export_devices;  // devices a route of ours ever led over
  bool swept = false;

  std::unordered_set<Prefix> changed;
  bool scheduled = false, started = false, stopped = false;
  asio::steady_timer retry, resync_due;
  bool retry_armed = false;

  std::thread worker;
  bool reading = false, read_again = false;
  std::unordered_set<RouteKey> touched_routes;
  std::unordered_set<IfIndex> touched_links;
  std::unordered_set<Ip> touched_addresses;
  std::uint64_t resyncs = 0;
};

KernelHooks hooks_of(Engine& engine, std::function<void(std::string_view)> problem) {
  return {
      .set_local = [&engine](const Prefix& p, const std::optional<LocalRoute>& r) { engine.set_local(p, r); },
      .local_complete = [&engine] { engine.local_complete(); },
      .next_hops_changed = [&engine] { engine.next_hops_changed(); },
      .next_hop_changed = [&engine](const Ip& ip) { engine.next_hop_changed(ip); },
      .problem = std::move(problem),
  };
}

KernelBgp::KernelBgp(std::shared_ptr<State> s) : state_(std::move(s)) {}

Result<std::unique_ptr<KernelBgp>> KernelBgp::open(Loop& loop, KernelOptions options) {
  auto nl = netlink::Rtnl::open();
  if (!nl) return tl::unexpected(nl.error());
  auto reader = netlink::Rtnl::open();
  if (!reader) return tl::unexpected(reader.error());
  auto state = std::make_shared<State>(loop, std::move(options), std::move(*nl), std::move(*reader));
  // The handlers hold the state weakly: the state owns the monitor.
  std::weak_ptr<State> weak = state;
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
  h.on_resync = [weak](std::string_view why) {
    if (auto s = weak.lock()) {
      s->tell(fmt::format("{}: reading all routes again", why));
      s->resync();
    }
  };
  using netlink::Monitor;
  auto monitor =
      Monitor::open(loop.executor(), Monitor::kLinks | Monitor::kAddresses | Monitor::kRoutes, std::move(h), 8U << 20U);
  if (!monitor) return tl::unexpected(monitor.error());
  state->monitor.emplace(std::move(*monitor));
  auto snapshot = read_kernel(state->nl);
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
  s.options.resync = options.resync;
  if (s.stopped || !s.started) return;
  s.fib.for_each([&](const Route& r) { s.changed.insert(r.dst); });
  s.schedule();
}

KernelStatus KernelBgp::status() const {
  const auto& s = *state_;
  KernelStatus r;
  r.imported = s.imported.size();
  r.exported = s.routes.in_sync_count();
  if (!s.swept)
    s.routes.for_each_deletion([&](const RouteKey& key, const Route&) { r.left_over += !s.may_delete(key); });
  r.pending = s.routes.pending_updates() + s.routes.pending_deletions() - r.left_over;
  r.failed = s.failed.size();
  for (const auto& [key, why] : s.failed) {
    if (r.faults.size() == 10) break;
    r.faults.push_back(why);
  }
  r.kernel_routes = s.fib.size();
  r.resyncs = s.resyncs;
  r.swept = s.swept;
  return r;
}

void KernelBgp::route_changed(const Prefix& prefix, const std::optional<BestRoute>& best) {
  state_->route_changed(prefix, best);
}

void KernelBgp::flush() { state_->write(); }

void KernelBgp::sweep() {
  auto& s = *state_;
  s.swept = true;
  s.withdrawn.clear();
  s.schedule();
}

Result<ResolvedHop> KernelBgp::resolve(const Ip& next_hop) { return state_->resolve(next_hop); }

Result<std::size_t> remove_kernel_routes(std::uint8_t protocol) {
  auto nl = netlink::Rtnl::open();
  if (!nl) return tl::unexpected(nl.error());
  auto routes = nl->routes({.protocol = protocol});
  if (!routes) return tl::unexpected(routes.error());
  netlink::Batch batch;
  for (const auto& r : *routes) batch.remove(normalised(r));
  auto done = nl->commit(batch);
  if (!done) return tl::unexpected(done.error());
  std::erase_if(done->failed, [](const netlink::OpError& e) { return e.error == ESRCH; });
  if (!done->ok()) return tl::unexpected(done->failed.front().what);
  return routes->size();
}

}  // namespace calico::bgp
