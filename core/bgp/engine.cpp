#include "core/bgp/engine.hpp"

#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/post.hpp>
#include <cerrno>
#include <set>

#include "core/bgp/engine_core.hpp"
#include "core/bgp/session/peer.hpp"
#include "core/bgp/session/socket_options.hpp"

namespace calico::bgp {

using asio::ip::tcp;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {
constexpr std::size_t kBudget = 16384;  // prefixes decided, and encoded for a group, a turn
constexpr int kBacklog = 4096;          // a reflector's clients come back all at once
constexpr milliseconds kAcceptPause{100};
constexpr Family kFamilies[] = {Family::v4, Family::v6};
constexpr seconds kLongestStale{(1 << 24) - 1};  // RFC 9494 3

bool out_of_means(const boost::system::error_code& ec) {
  return ec.category() == boost::system::system_category() &&
         (ec.value() == EMFILE || ec.value() == ENFILE || ec.value() == ENOBUFS || ec.value() == ENOMEM);
}

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

seconds EngineCore::long_lived_stale_time(const PeerOptions& peer) const {
  return std::clamp(peer.long_lived_stale_time.value_or(options_.long_lived_stale_time), seconds(0), kLongestStale);
}

Capabilities EngineCore::capabilities(const PeerOptions& peer) const {
  Capabilities caps;
  if (peer.ipv4) caps.families.push_back(kIpv4Unicast);
  if (peer.ipv6) caps.families.push_back(kIpv6Unicast);
  caps.as4 = options_.local_as;
  caps.refresh = true;
  caps.enhanced_refresh = true;
  caps.extended_message = peer.extended_messages;
  if (peer.add_path_receive || peer.add_path_send)
    for (auto f : caps.families) caps.add_path.push_back({f, peer.add_path_receive, peer.add_path_send});
  if (peer.extended_next_hop && peer.ipv4) caps.next_hops.push_back({kIpv4Unicast, kIpv6Unicast.afi});
  if (options_.graceful_restart) {
    GracefulRestartCapability gr;
    gr.restarting = restarting_;
    gr.notification = true;
    gr.time_s = static_cast<std::uint16_t>(
        std::clamp<std::int64_t>(peer.restart_time.value_or(options_.restart_time).count(), 0, 4095));
    for (auto f : caps.families) gr.families.push_back({f, preserved_});
    caps.graceful_restart = std::move(gr);
    if (const auto time = long_lived_stale_time(peer); time.count() > 0) {
      auto& ll = caps.long_lived.emplace();
      for (auto f : caps.families) ll.families.push_back({f, preserved_, static_cast<std::uint32_t>(time.count())});
    }
  }
  return caps;
}

// --- listeners ------------------------------------------------------------------------------------------------------

Status EngineCore::open_listener(const Endpoint& at) {
  boost::system::error_code ec;
  const tcp::endpoint endpoint(to_asio(at.address), at.port);
  tcp::acceptor acceptor(loop_.executor());
  const auto bad = [&](std::string_view what) {
    const auto code = ec.category() == boost::system::system_category() ? errc_of_errno(ec.value()) : Errc::unavailable;
    return fail(code, "[bgp] listen {} port {}: {}: {}", at.address, at.port, what, ec.message());
  };
  acceptor.open(endpoint.protocol(), ec);
  if (ec) return bad("socket");
  acceptor.set_option(tcp::acceptor::reuse_address(true), ec);
  if (ec) return bad("reuse address");
  if (at.address.is_v6()) acceptor.set_option(boost::asio::ip::v6_only(true), ec);
  // The address may come after us at boot; a TTL of 255 serves peers with TTL security.
  if (auto s = set_free_bind(acceptor.native_handle(), at.address.family()); !s) return s;
  if (auto s = set_ttl(acceptor.native_handle(), at.address.family(), 255); !s) return s;
  if (auto s = set_save_syn(acceptor.native_handle()); !s) return s;
  acceptor.bind(endpoint, ec);
  if (ec) return bad("bind");
  acceptor.listen(kBacklog, ec);
  if (ec) return bad("listen");
  acceptor.non_blocking(true, ec);
  if (ec) return bad("non-blocking");
  listeners_.push_back({std::move(acceptor), at.address.family(), asio::steady_timer(loop_.executor())});
  return {};
}

Status EngineCore::set_listener_password(const Prefix& peer, const std::string& password) {
  for (auto& l : listeners_)
    if (l.family == peer.family())
      if (auto s = set_md5(l.acceptor.native_handle(), peer, password); !s) return s;
  return {};
}

void EngineCore::wait_accept(std::size_t index) {
  listeners_[index].acceptor.async_wait(
      tcp::acceptor::wait_read, [this, index, alive = std::weak_ptr(alive_)](const boost::system::error_code& ec) {
        if (ec || alive.expired() || stopping_) return;
        // A bounded number a turn; the rest waits in the backlog.
        for (int i = 0; i < 64; ++i) {
          boost::system::error_code error;
          tcp::socket socket(loop_.executor());
          listeners_[index].acceptor.accept(socket, error);
          if (out_of_means(error)) return pause_accept(index, error);
          if (error) break;
          accept_paused_ = false;
          accepted(std::move(socket));
        }
        wait_accept(index);
      });
}

// What waits stays in the backlog and the listener readable: waiting for that would be spinning.
void EngineCore::pause_accept(std::size_t index, const boost::system::error_code& why) {
  if (!std::exchange(accept_paused_, true))
    report(PeerEvent::Kind::refused, "listener", fmt::format("connections wait: {}; raise LimitNOFILE", why.message()));
  auto& pause = listeners_[index].pause;
  pause.expires_after(kAcceptPause);
  pause.async_wait([this, index, alive = std::weak_ptr(alive_)](const boost::system::error_code& ec) {
    if (!ec && !alive.expired() && !stopping_) wait_accept(index);
  });
}

namespace {

/// The longest one that holds the address.
const RangeConfig* range_of(const std::vector<RangeConfig>& ranges, const Ip& ip) {
  const RangeConfig* best = nullptr;
  for (const auto& r : ranges)
    if (r.prefix.contains(ip) && (best == nullptr || r.prefix.len > best->prefix.len)) best = &r;
  return best;
}

PeerConfig member_of(const RangeConfig& range, const Ip& ip) {
  PeerConfig config;
  static_cast<PeerOptions&>(config) = range;
  config.name = fmt::format("{}_{}", range.name, ip);
  std::replace_if(
      config.name.begin(), config.name.end(), [](char c) { return c == '.' || c == ':'; }, '_');
  config.address = ip;
  config.passive = true;
  return config;
}

}  // namespace

void EngineCore::accepted(tcp::socket socket) {
  boost::system::error_code ec;
  const auto remote = socket.remote_endpoint(ec);
  if (ec) return;
  const auto ip = to_ip(remote.address());
  if (auto it = peers_.find(ip); it != peers_.end()) return it->second->accept(std::move(socket));
  const auto* range = range_of(ranges_, ip);
  if (range == nullptr) return report(PeerEvent::Kind::refused, ip.to_string(), "not a configured peer");
  const auto members = std::count_if(peers_.begin(), peers_.end(), [&](const auto& p) {
    return p.second->dynamic() && range->prefix.contains(p.first);
  });
  if (static_cast<std::uint64_t>(members) >= range->max_peers)
    return report(PeerEvent::Kind::refused, ip.to_string(), fmt::format("range {} is full", range->name));
  auto peer = std::make_shared<Peer>(*this, member_of(*range, ip), true);
  peers_.emplace(ip, peer);
  peer->start();
  peer->accept(std::move(socket));
}

void EngineCore::retire(const Peer& peer) {
  auto it = peers_.find(peer.config().address);
  if (it == peers_.end() || it->second.get() != &peer) return;
  graveyard_.push_back(std::move(it->second));
  peers_.erase(it);
  asio::post(loop_.executor(), [this, alive = std::weak_ptr(alive_)] {
    if (!alive.expired()) graveyard_.clear();
  });
}

// --- configuration --------------------------------------------------------------------------------------------------

Status EngineCore::set_peers(std::vector<PeerConfig> peers, std::vector<RangeConfig> ranges) {
  if (!started_) return fail(Errc::internal, "BGP peers before the engine is started");
  std::set<Ip> addresses;
  std::set<std::string> names;
  const auto check_options = [](const std::string& name, const PeerOptions& o) -> Status {
    if (o.remote_as && o.remote_as->value == 0) return fail(Errc::invalid, "BGP peer {}: AS 0 is reserved", name);
    if (o.multihop < 0 || o.multihop > 255)
      return fail(Errc::invalid, "BGP peer {}: multihop {} (0 to 255)", name, o.multihop);
    if (o.hold_time && (o.hold_time->count() < 0 || o.hold_time->count() > 65535 ||
                        (o.hold_time->count() > 0 && o.hold_time->count() < 3)))
      return fail(Errc::invalid, "BGP peer {}: hold time {} s (0, or 3 to 65535)", name, o.hold_time->count());
    if (o.keepalive_time && (o.keepalive_time->count() < 1 || o.keepalive_time->count() > 21845))
      return fail(Errc::invalid, "BGP peer {}: keepalive time {} s (1 to 21845)", name, o.keepalive_time->count());
    if (o.restart_time && (o.restart_time->count() < 1 || o.restart_time->count() > 4095))
      return fail(Errc::invalid, "BGP peer {}: restart time {} s (1 to 4095)", name, o.restart_time->count());
    if (o.long_lived_stale_time && (o.long_lived_stale_time->count() < 0 || *o.long_lived_stale_time > kLongestStale))
      return fail(Errc::invalid, "BGP peer {}: long-lived stale time {} s (0 to {})", name,
                  o.long_lived_stale_time->count(), kLongestStale.count());
    if (o.password.size() > 80) return fail(Errc::invalid, "BGP peer {}: password of more than 80 characters", name);
    if (!o.ipv4 && !o.ipv6) return fail(Errc::invalid, "BGP peer {}: no address family", name);
    return {};
  };
  for (const auto& p : peers) {
    if (p.name.empty()) return fail(Errc::invalid, "BGP peer {} has no name", p.address);
    if (!names.insert(p.name).second) return fail(Errc::invalid, "two BGP peers have the name {}", p.name);
    if (!addresses.insert(p.address).second) return fail(Errc::invalid, "two BGP peers have the address {}", p.address);
    if (p.address.is_unspecified() || p.address.is_multicast())
      return fail(Errc::invalid, "BGP peer {}: {} is not a host's address", p.name, p.address);
    if (p.local_address && p.local_address->family() != p.address.family())
      return fail(Errc::invalid, "BGP peer {}: source {} and address {} are of different families", p.name,
                  *p.local_address, p.address);
    if (auto s = check_options(p.name, p); !s) return s;
  }
  for (const auto& r : ranges) {
    if (r.name.empty() || !names.insert(r.name).second)
      return fail(Errc::invalid, "BGP range {} has no name of its own", r.prefix);
    if (auto s = check_options(r.name, r); !s) return s;
  }
  reconfigured_ = std::chrono::system_clock::now();

  // Ranges first, so that a peer that moves from a range to its own section finds its address free.
  const auto range_has = [&](const Peer& p) {
    const auto *old = range_of(ranges_, p.config().address), *now = range_of(ranges, p.config().address);
    return old != nullptr && now != nullptr && old->name == now->name;
  };
  std::vector<std::shared_ptr<Peer>> gone;
  for (auto it = peers_.begin(); it != peers_.end();) {
    auto& p = *it->second;
    const bool stays = p.dynamic() ? !addresses.contains(it->first) && range_has(p) : addresses.contains(it->first);
    if (stays) {
      ++it;
      continue;
    }
    gone.push_back(std::move(it->second));
    it = peers_.erase(it);
  }
  for (auto& p : gone) {
    p->remove(cease(notify::kDeconfigured, false));
    if (!p->config().password.empty() && !p->dynamic())
      (void)set_listener_password(Prefix::host(p->config().address), "");
  }
  for (const auto& r : ranges_)
    if (!r.password.empty()) (void)set_listener_password(r.prefix, "");
  ranges_ = std::move(ranges);
  for (const auto& r : ranges_)
    if (!r.password.empty())
      if (auto s = set_listener_password(r.prefix, r.password); !s)
        report(PeerEvent::Kind::refused, r.name, s.error().what);
  // Members follow their range as named peers do: many changes need no new session. (One that ends is erased
  // meanwhile.)
  std::vector<std::shared_ptr<Peer>> members;
  for (const auto& [_, p] : peers_)
    if (p->dynamic()) members.push_back(p);
  for (const auto& p : members)
    if (const auto* range = range_of(ranges_, p->config().address))
      p->reconfigure(member_of(*range, p->config().address));

  for (auto& config : peers) {
    auto it = peers_.find(config.address);
    const bool key_changed =
        it == peers_.end() ? !config.password.empty() : it->second->config().password != config.password;
    if (key_changed)
      if (auto s = set_listener_password(Prefix::host(config.address), config.password); !s)
        report(PeerEvent::Kind::refused, config.name, s.error().what);
    if (it != peers_.end()) {
      it->second->reconfigure(std::move(config));
      continue;
    }
    const auto address = config.address;
    auto peer = std::make_shared<Peer>(*this, std::move(config), false);
    peers_.emplace(address, peer);
    peer->start();
  }
  for (auto& p : gone) graveyard_.push_back(std::move(p));
  asio::post(loop_.executor(), [this, alive = std::weak_ptr(alive_)] {
    if (!alive.expired()) graveyard_.clear();
  });
  peers_set_ = true;
  peer_changed();
  schedule_flush();
  return {};
}

Peer* EngineCore::find_peer(std::string_view name) const {
  for (const auto& [ip, peer] : peers_)
    if (peer->config().name == name) return peer.get();
  return nullptr;
}

Status EngineCore::set_enabled(std::string_view name, bool enabled, std::string_view communication) {
  auto* const peer = find_peer(name);
  if (peer == nullptr) return fail(Errc::not_found, "{} is not a BGP peer", name);
  if (peer->disabled() != enabled) return {};
  report(PeerEvent::Kind::administrative, peer->config().name, enabled ? "enabled" : "disabled");
  if (enabled) {
    peer->enable();
  } else {
    auto say = cease(notify::kShutdown, false);
    if (!communication.empty()) {
      auto size = std::min<std::size_t>(communication.size(), 255);
      // No half character at the end (RFC 9003 2 wants UTF-8).
      while (size < communication.size() && size > 0 && (communication[size] & 0xc0) == 0x80) --size;
      say.data.push_back(static_cast<std::byte>(size));
      for (char c : communication.substr(0, size)) say.data.push_back(static_cast<std::byte>(c));
    }
    peer->disable(say);
  }
  return {};
}

Status EngineCore::restart(std::string_view name) {
  auto* const peer = find_peer(name);
  if (peer == nullptr) return fail(Errc::not_found, "{} is not a BGP peer", name);
  if (peer->disabled()) return fail(Errc::conflict, "{} is disabled; enable it", name);
  report(PeerEvent::Kind::administrative, peer->config().name, "restarted");
  peer->restart();
  return {};
}

Status EngineCore::refresh(std::string_view name, Engine::Refresh what) {
  auto* const peer = find_peer(name);
  if (peer == nullptr) return fail(Errc::not_found, "{} is not a BGP peer", name);
  return peer->refresh(what != Engine::Refresh::out, what != Engine::Refresh::in);
}

void EngineCore::drain(bool on) {
  if (speaker_.draining == on) return;
  speaker_.draining = on;
  drained_at_ = on ? std::optional(now() + options_.drain_time) : std::nullopt;
  report(PeerEvent::Kind::administrative, "all",
         on ? "draining: routes are announced as the last choice" : "not draining");
  for (auto& group : groups_) group->resend_all();
  schedule_flush();
}

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

// --- snapshots ------------------------------------------------------------------------------------------------------

std::vector<PeerStatus> EngineCore::peers() const {
  std::vector<PeerStatus> out;
  for (const auto& [ip, peer] : peers_) out.push_back(peer->status());
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.config.name < b.config.name; });
  return out;
}

RouteInfo EngineCore::route_info(PrefixId id, PathId path_id, bool with_attributes) const {
  const auto& path = rib_.path(path_id);
  const auto& set = attrs_.at(path.attr);
  RouteInfo r;
  r.prefix = rib_.prefix(id);
  if (const auto* peer = peer_of(path.peer)) {
    r.peer = peer->config().name;
    r.from = peer->config().address;
  }
  r.best = rib_.best(id) == path_id;
  r.stale = path.stale != 0;
  r.internal = rib_.peer(path.peer).kind != Source::Kind::external;
  r.next_hop = set.next_hop;
  if (const auto* hop = rib_.hop(path)) {
    if (hop->reachable)
      r.resolved = hop->resolved.hops.front();
    else
      r.unusable = fmt::format("next hop {} is unreachable: {}", hop->ip, hop->why_not);
  }
  r.since = start_wall_ + milliseconds(path.since_ms);
  r.origin = set.origin;
  r.local_pref = set.local_pref;
  const auto a = attrs_.decode(path.attr);
  r.as_path = a.as_path.to_string();
  r.origin_as = a.as_path.origin();
  if (!with_attributes) return r;
  static constexpr const char* kOrigins[] = {"IGP", "EGP", "Incomplete"};
  auto& out = r.attributes;
  out.emplace_back("BGP.origin", kOrigins[std::min<int>(a.origin, 2)]);
  out.emplace_back("BGP.as_path", r.as_path);
  if (!a.next_hop.is_unspecified()) out.emplace_back("BGP.next_hop", a.next_hop.to_string());
  if (a.med) out.emplace_back("BGP.med", fmt::to_string(*a.med));
  out.emplace_back("BGP.local_pref", fmt::to_string(set.local_pref));
  if (a.atomic_aggregate) out.emplace_back("BGP.atomic_aggr", "");
  if (a.aggregator)
    out.emplace_back("BGP.aggregator", fmt::format("{} AS{}", Ip::v4(a.aggregator->id), a.aggregator->as));
  const auto list = [](View bytes, std::size_t numbers, bool halves) {
    std::string text;
    wire::Reader reader(bytes);
    while (reader.left() >= 4 * numbers) {
      if (!text.empty()) text += ' ';
      text += '(';
      for (std::size_t i = 0; i < numbers; ++i) {
        const auto v = reader.be<std::uint32_t>();
        text += i == 0 ? "" : ", ";
        text += halves ? fmt::format("{},{}", v >> 16, v & 0xffff) : fmt::to_string(v);
      }
      text += ')';
    }
    return text;
  };
  if (!a.communities.empty()) out.emplace_back("BGP.community", list(a.communities, 1, true));
  if (a.originator_id) out.emplace_back("BGP.originator_id", Ip::v4(*a.originator_id).to_string());
  if (!a.cluster_list.empty()) {
    std::string text;
    for (auto c : a.cluster_list) text += (text.empty() ? "" : " ") + Ip::v4(c).to_string();
    out.emplace_back("BGP.cluster_list", text);
  }
  if (!a.ext_communities.empty()) out.emplace_back("BGP.ext_community", list(a.ext_communities, 2, false));
  if (!a.large_communities.empty()) out.emplace_back("BGP.large_community", list(a.large_communities, 3, false));
  for (const auto& u : a.unknown) {
    std::string text;
    for (auto b : u.value) text += fmt::format("{:02x}", std::to_integer<unsigned>(b));
    out.emplace_back(fmt::format("BGP.{:02x} [t]", u.type), text);
  }
  return r;
}

std::optional<RibPeerId> EngineCore::wanted_peer(const RouteQuery& query) const {
  if (!query.peer) return kNone;
  if (query.peer->empty()) return kLocalPeer;
  for (const auto& [ip, peer] : peers_)
    if (peer->config().name == *query.peer) return peer->rib_id();
  return std::nullopt;
}

void EngineCore::add_routes(PrefixId id, RibPeerId wanted, const RouteQuery& query, std::vector<RouteInfo>& out) const {
  if (!rib_.used(id) || (query.family && rib_.prefix(id).family() != *query.family)) return;
  const auto best = rib_.best(id);
  if (query.exported_to) {
    const auto* peer = find_peer(*query.exported_to);
    if (best == kNone || peer == nullptr || peer->sends(id) == query.not_exported) return;
  }
  const auto one = [&](PathId p) {
    if (wanted == kNone || rib_.path(p).peer == wanted) out.push_back(route_info(id, p, query.with_attributes));
  };
  if (best != kNone) one(best);
  if (query.best_only || query.exported_to) return;
  for (auto p = rib_.first_path(id); p != kNone; p = rib_.path(p).next)
    if (p != best) one(p);
}

std::vector<RouteInfo> EngineCore::routes(const RouteQuery& query) const {
  std::vector<RouteInfo> out;
  const auto wanted = wanted_peer(query);
  if (!wanted) return out;
  if (query.exact || query.covering) {
    const auto id = query.exact ? rib_.find(query.exact->masked()) : rib_.longest_match(*query.covering);
    if (id != kNone) add_routes(id, *wanted, query, out);
    return out;
  }
  std::vector<PrefixId> ids;
  for (PrefixId id = 0; id < rib_.id_limit(); ++id)
    if (rib_.used(id) && rib_.first_path(id) != kNone) ids.push_back(id);
  std::sort(ids.begin(), ids.end(), [&](auto a, auto b) { return rib_.prefix(a) < rib_.prefix(b); });
  for (auto id : ids) {
    if (out.size() >= query.limit) break;
    add_routes(id, *wanted, query, out);
  }
  if (out.size() > query.limit) out.resize(query.limit);
  return out;
}

RoutePage EngineCore::route_page(const RouteQuery& query, std::uint32_t from, std::size_t prefixes) const {
  RoutePage page;
  if (query.exact || query.covering) {
    page.routes = routes(query);
    return page;
  }
  const auto wanted = wanted_peer(query);
  if (!wanted) return page;
  const auto end = std::min<std::size_t>(rib_.id_limit(), from + prefixes);
  for (PrefixId id = from; id < end; ++id) add_routes(id, *wanted, query, page.routes);
  if (end < rib_.id_limit()) page.next = static_cast<std::uint32_t>(end);
  return page;
}

EngineStatus EngineCore::status() const {
  EngineStatus s;
  s.router_id = options_.router_id;
  s.local_as = options_.local_as;
  s.started = start_wall_;
  s.last_reconfiguration = reconfigured_;
  s.restarting = deferring_;
  const auto t = now();
  if (deferring_ && deferral_deadline_ && *deferral_deadline_ > t)
    s.deferral_left = std::chrono::duration_cast<milliseconds>(*deferral_deadline_ - t);
  s.draining = speaker_.draining;
  if (drained_at_ && *drained_at_ > t) s.drain_left = std::chrono::duration_cast<milliseconds>(*drained_at_ - t);
  s.converged = converged_;
  s.isolated =
      !peers_.empty() && std::none_of(peers_.begin(), peers_.end(), [](const auto& p) { return p.second->up(); });
  if (s.isolated) {
    for (const auto& [as, since] : isolated_) {
      const auto end = since + options_.keep_when_isolated;
      if (end > t) s.isolated_left = std::max(s.isolated_left, std::chrono::duration_cast<milliseconds>(end - t));
    }
  }
  const auto c = rib_.counts();
  s.routes_v4 = c.routes[0];
  s.routes_v6 = c.routes[1];
  s.networks_v4 = c.networks[0];
  s.networks_v6 = c.networks[1];
  s.attribute_sets = attrs_.size();
  return s;
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
