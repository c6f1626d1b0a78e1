/// EngineCore: start and stop, the turn, what follows a restart and isolation; and Engine, which hands everything on.
/// Peers and listeners are in engine_peers.cpp, what is shown in engine_show.cpp.
#include "core/bgp/engine.hpp"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <set>

#include "core/bgp/engine_core.hpp"
#include "core/bgp/session/peer.hpp"

namespace calico::bgp {

using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {
constexpr std::size_t kBudget = 16384;  // prefixes decided, and encoded for a group, a turn

LocalSpeaker speaker_of(const Options& o) {
  const auto id = o.router_id.is_v4() ? o.router_id.to_v4() : 0;
  return {o.local_as, id, o.cluster_id && o.cluster_id->is_v4() ? o.cluster_id->to_v4() : id};
}
}  // namespace

EngineCore::EngineCore(Loop& loop, Options options)
    : loop_(loop),
      options_(std::move(options)),
      speaker_(speaker_of(options_)),
      rib_(attrs_,
           [this](const Ip& ip) -> Result<Resolution> {
             if (resolver_ != nullptr) return resolver_->resolve(ip);
             return Resolution(ResolvedHop{ip, {}, 0});
           }),
      random_(std::random_device{}()),
      marker_(options_.state_dir),
      alive_(std::make_shared<int>()),
      start_time_(std::chrono::steady_clock::now()),
      start_wall_(std::chrono::system_clock::now()),
      reconfigured_(start_wall_),
      deferral_timer_(loop.executor()),
      heartbeat_timer_(loop.executor()) {}

EngineCore::~EngineCore() {
  graveyard_.clear();
  peers_.clear();
  groups_.clear();
}

std::uint32_t EngineCore::now_ms() const {
  return static_cast<std::uint32_t>(std::chrono::duration_cast<milliseconds>(now() - start_time_).count());
}

void EngineCore::report(PeerEvent::Kind kind, const std::string& peer, std::string text) {
  if (events_) events_({kind, peer, std::move(text)});
}

// --- start, stop ----------------------------------------------------------------------------------------------------

Status EngineCore::start() {
  if (started_) return fail(Errc::internal, "BGP engine started twice");
  if (!options_.router_id.is_v4() || options_.router_id.is_unspecified())
    return fail(Errc::invalid, "[bgp] router_id {} is not an IPv4 address of this host", options_.router_id);
  if (options_.local_as.value == 0) return fail(Errc::invalid, "[bgp] local_as 0 is reserved (RFC 7607)");
  if (options_.cluster_id && !options_.cluster_id->is_v4())
    return fail(Errc::invalid, "[bgp] cluster_id {} is not an IPv4 address", *options_.cluster_id);
  for (const auto& at : options_.listen)
    if (auto s = open_listener(at); !s) {
      listeners_.clear();
      return s;
    }
  started_ = true;
  start_time_ = now();
  start_wall_ = reconfigured_ = std::chrono::system_clock::now();
  preserved_ = !options_.forwards;
  if (const auto last = marker_.load(); last && options_.graceful_restart) {
    // Peers that hold stale routes of ours hold them this long at most: an older life is a first start.
    const auto window = std::max(options_.restart_time + options_.long_lived_stale_time, options_.keep_when_isolated);
    if (last->age <= window) {
      restarting_ = deferring_ = true;
      preserved_ |= last->same_boot;
    }
  }
  arm_deferral();
  if (auto s = marker_.store(); !s) {
    listeners_.clear();
    return wrap(s.error(), "restart marker");
  }
  heartbeat();
  for (std::size_t i = 0; i < listeners_.size(); ++i) wait_accept(i);
  return {};
}

void EngineCore::heartbeat() {
  heartbeat_timer_.expires_after(std::clamp<seconds>(options_.restart_time / 4, seconds(1), seconds(10)));
  heartbeat_timer_.async_wait([this, alive = std::weak_ptr(alive_)](const boost::system::error_code& ec) {
    if (ec || alive.expired() || stopping_) return;
    if (auto s = marker_.store(); !s) report(PeerEvent::Kind::refused, "restart marker", s.error().what);
    heartbeat();
  });
}

void EngineCore::stop(bool planned) {
  if (stopping_) return;
  stopping_ = true;
  for (auto& l : listeners_) {
    boost::system::error_code ignored;
    l.acceptor.close(ignored);
  }
  for (auto& [ip, peer] : peers_) peer->close(planned ? std::nullopt : std::optional(cease(notify::kShutdown, false)));
  deferral_timer_.cancel();
  heartbeat_timer_.cancel();
  if (!started_) return;
  if (!planned)
    marker_.remove();
  else if (auto s = marker_.store(); !s)
    report(PeerEvent::Kind::refused, "restart marker", s.error().what);
}

// --- what others tell ------------------------------------------------------------------------------------------------

void EngineCore::set_local(const Prefix& prefix, const std::optional<LocalRoute>& route) {
  if (!route) {
    rib_.withdraw(kLocalPeer, prefix.masked());
  } else {
    Attrs a;
    if (route->next_hop) a.next_hop = *route->next_hop;
    a.local_pref = route->local_pref.value_or(100);
    a.med = route->med;
    rib_.announce(kLocalPeer, prefix.masked(), attrs_.intern(a), now_ms());
  }
  schedule_flush();
}

void EngineCore::local_complete() {
  local_complete_ = true;
  schedule_flush();
}

void EngineCore::next_hops_changed(const Ip* only) {
  rib_.resolve_again(only);
  if (rib_.dirty()) schedule_flush();
}

// --- restart and isolation ------------------------------------------------------------------------------------------

void EngineCore::arm_deferral() {
  // Below the restart time: peers must hear from us before they give up what they hold.
  const auto wait = std::min<Duration>(options_.deferral, options_.restart_time * 3 / 4);
  deferral_deadline_ = now() + wait;
  deferral_timer_.expires_after(wait);
  deferral_timer_.async_wait([this, alive = std::weak_ptr(alive_)](const boost::system::error_code& ec) {
    if (ec || alive.expired() || stopping_) return;
    deferral_over_ = true;
    check_convergence();
  });
}

void EngineCore::end_deferral() {
  if (!deferring_) return;
  deferring_ = false;
  restarting_ = false;
  schedule_flush();
}

void EngineCore::peer_changed() {
  // Which ASes have a session in sync from which routes could come?
  std::unordered_map<std::uint32_t, bool> fed;  // value: fed by a peer that restarted (it knows the others' routes)
  std::set<std::uint32_t> known;
  for (const auto& [ip, peer] : peers_) {
    if (!peer->imports() || peer->disabled()) continue;
    const auto as = peer->remote_as().value;
    known.insert(as);
    if (peer->in_sync()) fed[as] = fed[as] || peer->restarting();
  }
  for (auto as : known) {
    const auto it = fed.find(as);
    if (it == fed.end()) {
      isolated_.try_emplace(as, now());
    } else if (isolated_.erase(as) > 0) {
      for (auto& [ip, peer] : peers_)
        if (peer->remote_as().value == as) peer->isolation_ended(!it->second);
    }
  }
  std::erase_if(isolated_, [&](const auto& e) { return !known.contains(e.first); });
  check_convergence();
}

std::optional<TimePoint> EngineCore::isolated_since(Asn as) const {
  auto it = isolated_.find(as.value);
  if (it == isolated_.end()) return std::nullopt;
  return it->second;
}

void EngineCore::check_convergence() {
  if (converged_ || !started_ || stopping_) return;
  bool any_in_sync = false, any_importing = false, all_heard = peers_set_, all_in_sync = peers_set_;
  std::size_t configured = 0;
  for (const auto& [ip, peer] : peers_) {
    if (peer->dynamic()) {
      any_in_sync |= peer->in_sync();
      any_importing |= peer->imports();
      continue;
    }
    if (peer->disabled()) continue;
    ++configured;
    if (!peer->imports()) continue;
    any_importing = true;
    any_in_sync |= peer->in_sync();
    all_heard &= !peer->awaited();
    all_in_sync &= peer->in_sync();
  }
  any_importing |= !ranges_.empty();
  const bool nobody_known = configured == 0 || !ranges_.empty();  // only the time can tell
  if (deferring_ && (deferral_over_ || (all_heard && !nobody_known))) end_deferral();
  if (!deferring_ && !sweep_due_) {
    const bool kept = options_.keep_when_isolated.count() > 0 && any_importing && !any_in_sync &&
                      now() < start_time_ + options_.keep_when_isolated;
    if ((all_in_sync && !nobody_known) || (deferral_over_ && peers_set_ && !kept)) {
      sweep_due_ = true;
      schedule_flush();
    } else if (deferral_over_ && kept) {
      // Looked at again when a session is in sync, or when keeping ends.
      deferral_timer_.expires_at(start_time_ + options_.keep_when_isolated);
      deferral_timer_.async_wait([this, alive = std::weak_ptr(alive_)](const boost::system::error_code& ec) {
        if (!ec && !alive.expired()) check_convergence();
      });
    }
  }
}

// --- the turn -------------------------------------------------------------------------------------------------------

void EngineCore::schedule_flush() {
  if (flush_posted_ || stopping_) return;
  flush_posted_ = true;
  asio::post(loop_.executor(), [this, alive = std::weak_ptr(alive_)] {
    if (!alive.expired()) flush();
  });
}

void EngineCore::flush() {
  flush_posted_ = false;
  if (stopping_ || deferring_ || !started_) return;
  bool more = rib_.take_dirty(kBudget, [this](PrefixId id) { decide(id); });
  for (auto& group : groups_) group->produce(kBudget);
  for (auto& [ip, peer] : peers_) more |= peer->push_out();
  for (auto& group : groups_) more |= group->has_work();
  if (sink_ != nullptr) {
    sink_->flush();
    if (sweep_due_ && !converged_ && !rib_.dirty()) sink_->sweep();
  }
  if (sweep_due_ && !rib_.dirty()) {
    converged_ = true;
    preserved_ = true;  // from now on a lost session leaves our forwarding as it is
  }
  if (more) schedule_flush();
}

void EngineCore::decide(PrefixId id) {
  const auto best = rib_.select(id);
  rib_.set_best(id, best);
  for (auto& group : groups_) group->queue(id);
  if (sink_ != nullptr) tell_fib(id, best);
}

void EngineCore::tell_fib(PrefixId id, PathId best) {
  if (id >= told_.size()) told_.resize(std::max<std::size_t>(id + 1, rib_.id_limit()));
  Told next;
  if (best != kNone && rib_.path(best).peer != kLocalPeer) {
    const auto& p = rib_.path(best);
    next = {p.attr, p.peer, rib_.hop(p)->version, 0, p.stale != 0};
    equal_.clear();
    if (options_.max_paths > 1) rib_.select_equal(id, options_.max_paths, equal_);
    for (std::size_t i = 1; i < equal_.size(); ++i) {
      const auto* hop = rib_.hop(rib_.path(equal_[i]));
      next.others =
          (next.others ^ static_cast<std::uint32_t>(std::hash<Ip>{}(hop->ip)) ^ hop->version) * 0x9e3779b1U + 1;
    }
  }
  auto& old = told_[id];
  if (next == old) return;
  const bool had = old.attr != kNoAttr, has = next.attr != kNoAttr;
  if (has) attrs_.ref(next.attr);
  attrs_.unref(old.attr);
  if (has && !had) rib_.pin(id);
  old = next;
  std::optional<BestRoute> route;
  if (has) {
    const auto& p = rib_.path(best);
    const auto& set = attrs_.at(p.attr);
    BestRoute r;
    r.next_hops = rib_.hop(p)->resolved.hops;
    r.bgp_next_hop = set.next_hop;
    for (std::size_t i = 1; i < equal_.size(); ++i) {
      const auto* hop = rib_.hop(rib_.path(equal_[i]));
      r.more_next_hops.push_back(hop->ip);
      for (const auto& way : hop->resolved.hops)
        if (std::find(r.next_hops.begin(), r.next_hops.end(), way) == r.next_hops.end()) r.next_hops.push_back(way);
    }
    if (const auto* peer = peer_of(p.peer)) r.from = peer->config().name;
    r.internal = rib_.peer(p.peer).kind == Source::Kind::internal;
    r.stale = p.stale != 0;
    r.local_pref = set.local_pref;
    route = std::move(r);
  }
  sink_->route_changed(rib_.prefix(id), route);
  if (had && !has) rib_.unpin(id);
}

UpdateGroup& EngineCore::group_for(const Target& target) {
  for (auto& g : groups_)
    if (g->target() == target) return *g;
  auto& g = *groups_.emplace_back(std::make_unique<UpdateGroup>(rib_, attrs_, speaker_, target, UpdateGroup::Limits{}));
  g.begin();
  return g;
}

void EngineCore::drop_if_empty(const UpdateGroup& group) {
  if (group.empty()) std::erase_if(groups_, [&](const auto& g) { return g.get() == &group; });
}

void EngineCore::add_rib_peer(RibPeerId id, Peer* peer) {
  if (id >= by_rib_id_.size()) by_rib_id_.resize(id + 1);
  by_rib_id_[id] = peer;
}

// --- Engine ---------------------------------------------------------------------------------------------------------

Engine::Engine(Loop& loop, Options options) : core_(std::make_unique<EngineCore>(loop, std::move(options))) {}
Engine::~Engine() = default;
void Engine::set_fib_sink(FibSink* sink) { core_->set_fib_sink(sink); }
void Engine::set_next_hop_resolver(NextHopResolver* resolver) { core_->set_resolver(resolver); }
void Engine::set_event_sink(std::function<void(const PeerEvent&)> sink) { core_->set_event_sink(std::move(sink)); }
Status Engine::start() { return core_->start(); }
Status Engine::set_peers(std::vector<PeerConfig> peers, std::vector<RangeConfig> ranges) {
  return core_->set_peers(std::move(peers), std::move(ranges));
}
Status Engine::set_enabled(std::string_view name, bool enabled, std::string_view communication) {
  return core_->set_enabled(name, enabled, communication);
}
Status Engine::restart(std::string_view name) { return core_->restart(name); }
Status Engine::refresh(std::string_view name, Refresh what) { return core_->refresh(name, what); }
void Engine::drain(bool on) { core_->drain(on); }
void Engine::set_local(const Prefix& prefix, const std::optional<LocalRoute>& route) {
  core_->set_local(prefix, route);
}
void Engine::local_complete() { core_->local_complete(); }
void Engine::next_hops_changed() { core_->next_hops_changed(nullptr); }
void Engine::next_hop_changed(const Ip& next_hop) { core_->next_hops_changed(&next_hop); }
std::vector<PeerStatus> Engine::peers() const { return core_->peers(); }
std::vector<RouteInfo> Engine::routes(const RouteQuery& query) const { return core_->routes(query); }
RoutePage Engine::route_page(const RouteQuery& query, std::uint32_t from, std::size_t prefixes) const {
  return core_->route_page(query, from, prefixes);
}
EngineStatus Engine::status() const { return core_->status(); }
const Options& Engine::options() const { return core_->options(); }
awaitable<void> Engine::stop(bool planned) {
  core_->stop(planned);
  co_return;
}

}  // namespace calico::bgp
