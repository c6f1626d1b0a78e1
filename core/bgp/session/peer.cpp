#include "core/bgp/session/peer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>

#include "core/bgp/codec/negotiate.hpp"
#include "core/bgp/policy/route_policy.hpp"
#include "core/bgp/session/socket_options.hpp"

namespace calico::bgp {

using asio::ip::tcp;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {
constexpr Family kFamilies[] = {Family::v4, Family::v6};
constexpr std::size_t kAhead = 8;         // look-ups prepared ahead of the one at work
constexpr seconds kSettle{10};            // a peer without graceful restart sends no End-of-RIB
constexpr seconds kUpdateErrorPause{10};  // between two reports of bad UPDATEs of one peer
constexpr seconds kMaxPrefixWait{60};
constexpr seconds kSendHold{8 * 60};  // RFC 9687 6: the greater of it and twice the hold time

CapabilityInfo info_of(const Capabilities& caps) {
  CapabilityInfo i;
  i.ipv4 = caps.families.empty() || caps.has(kIpv4Unicast);
  i.ipv6 = caps.has(kIpv6Unicast);
  i.as4 = caps.as4.has_value();
  i.refresh = caps.refresh;
  i.enhanced_refresh = caps.enhanced_refresh;
  i.extended_message = caps.extended_message;
  if (const auto& gr = caps.graceful_restart) {
    i.graceful_restart = true;
    i.restarting = gr->restarting;
    i.notification_gr = gr->notification;
    i.restart_time = seconds(gr->time_s);
    for (const auto& e : gr->families) {
      if (e.family == kIpv4Unicast) i.gr_ipv4 = true, i.preserved_ipv4 = e.preserved;
      if (e.family == kIpv6Unicast) i.gr_ipv6 = true, i.preserved_ipv6 = e.preserved;
    }
  }
  const auto v4 = caps.add_path_of(kIpv4Unicast), v6 = caps.add_path_of(kIpv6Unicast);
  i.add_path_rx_ipv4 = v4.receive, i.add_path_tx_ipv4 = v4.send;
  i.add_path_rx_ipv6 = v6.receive, i.add_path_tx_ipv6 = v6.send;
  i.extended_next_hop = caps.ipv4_over_ipv6();
  if (const auto& ll = caps.long_lived) {
    i.llgr = true;
    for (const auto& e : ll->families) {
      if (e.family == kIpv4Unicast)
        i.llgr_ipv4 = true, i.llgr_preserved_ipv4 = e.preserved, i.llgr_time_ipv4 = seconds(e.stale_s);
      if (e.family == kIpv6Unicast)
        i.llgr_ipv6 = true, i.llgr_preserved_ipv6 = e.preserved, i.llgr_time_ipv6 = seconds(e.stale_s);
    }
  }
  for (const auto& u : caps.unknown) i.unknown.push_back(u.code);
  return i;
}

/// Prefixes nobody may announce: they would take traffic of the host itself or of groups.
bool acceptable(const Prefix& p) {
  if (p.len == 0) return true;
  if (p.addr.is_multicast() || p.addr.is_loopback()) return false;
  if (p.family() == Family::v4) {
    const auto first = p.addr.to_v4() >> 24;
    return first != 0 && first != 127 && first < 240;
  }
  return !p.addr.is_link_local();
}
}  // namespace

Peer::Peer(EngineCore& core, PeerConfig config, bool dynamic)
    : core_(core),
      config_(std::move(config)),
      dynamic_(dynamic),
      fsm_(
          fsm_config(), [this] { return core_.capabilities(config_); }, [this] { return core_.random(); }),
      timer_(core.executor()),
      since_(std::chrono::system_clock::now()) {
  RibPeer rp;
  rp.kind = internal() ? Source::Kind::internal : Source::Kind::external;
  rp.client = config_.route_reflector_client;
  rp.address = config_.address;
  rib_id_ = core_.rib().add_peer(rp);
  core_.add_rib_peer(rib_id_, this);
}

Peer::~Peer() {
  for (auto& c : conns_)
    if (c) c->close();
  leave_group();
  drop_all_routes();
  core_.rib().remove_peer(rib_id_);
  core_.add_rib_peer(rib_id_, nullptr);
}

FsmConfig Peer::fsm_config() const {
  FsmConfig c;
  c.local_as = core_.options().local_as;
  c.remote_as = remote_as();
  c.router_id = core_.speaker().router_id;
  c.hold_time_s = static_cast<std::uint16_t>(
      std::clamp<std::int64_t>(config_.hold_time.value_or(core_.options().hold_time).count(), 0, 65535));
  c.keepalive_s = static_cast<std::uint16_t>(
      config_.keepalive_time ? std::clamp<std::int64_t>(config_.keepalive_time->count(), 1, 65535) : 0);
  c.passive = config_.passive || dynamic_;
  return c;
}

bool Peer::imports() const {
  return config_.import_policy.value_or(internal() ? Policy::all : Policy::none) == Policy::all;
}
bool Peer::exports() const {
  return config_.export_policy.value_or(internal() ? Policy::all : Policy::none) == Policy::all;
}

bool Peer::in_sync() const {
  if (!session_) return false;
  for (auto f : {0, 1})
    if (session_->families[f] && !session_->eor_in[f]) return false;
  return true;
}

bool Peer::awaited() const {
  // RFC 4724 4.1: not for those that restart themselves, nor for those that will never say it.
  return !session_ || (session_->remote.caps.graceful_restart && !session_->remote_restarting && !in_sync());
}

bool Peer::has_stale() const {
  const auto& rp = core_.rib().peer(rib_id_);
  return rp.stale[0] + rp.stale[1] > 0;
}

// --- life -----------------------------------------------------------------------------------------------------------

void Peer::start() { feed(event::Start{}); }

void Peer::remove(const std::optional<Notification>& say) {
  removed_ = true;
  feed(event::Stop{say});
  drop_all_routes();
  stale_deadline_.reset();
  eor_deadline_.reset();
  sweep_at_.reset();
  timer_.cancel();
}

void Peer::close(const std::optional<Notification>& say) {
  feed(event::Stop{say});
  timer_.cancel();
}

void Peer::reconfigure(PeerConfig next) {
  if (next == config_) return;
  const bool same_routes = next.remote_as == config_.remote_as && next.import_policy == config_.import_policy &&
                           next.allow_own_as == config_.allow_own_as && next.ipv4 == config_.ipv4 &&
                           next.ipv6 == config_.ipv6;
  // What can change under a living session.
  auto as_before = next;
  as_before.name = config_.name;
  as_before.export_policy = config_.export_policy;
  as_before.import_filter = config_.import_filter;
  as_before.export_filter = config_.export_filter;
  as_before.keepalive_time = config_.keepalive_time;
  as_before.restart_time = config_.restart_time;  // the next OPEN says it
  as_before.next_hop = config_.next_hop;
  as_before.route_reflector_client = config_.route_reflector_client;
  as_before.max_prefix = config_.max_prefix;
  as_before.long_lived_stale_time = config_.long_lived_stale_time;  // the next OPEN says it
  as_before.from = config_.from;
  const bool soft = as_before == config_;
  const bool filter_changed = !(next.import_filter == config_.import_filter);
  config_ = std::move(next);
  fsm_.set_config(fsm_config());
  auto& rp = core_.rib().peer(rib_id_);
  if (!soft) {
    keep_on_restart_ = same_routes;
    feed(event::Restart{cease(notify::kConfigChange, false), milliseconds(200)});
    keep_on_restart_ = false;
    if (!same_routes) drop_all_routes();
    rp.kind = internal() ? Source::Kind::internal : Source::Kind::external;
  }
  if (rp.client != config_.route_reflector_client) {
    rp.client = config_.route_reflector_client;
    core_.rib().touch(rib_id_);
  }
  if (session_) {
    auto& s = *session_;
    s.target.exports = exports();
    s.target.filter = config_.export_filter;
    s.target.client = config_.route_reflector_client;
    s.target.next_hop = config_.next_hop;
    if (!(s.target == s.group->target())) change_group();
  }
  // What the former filter refused was not kept: the peer is asked for it.
  if (session_ && filter_changed && soft && !refresh(true, false))
    feed(event::Restart{cease(notify::kConfigChange, false), milliseconds(200)});
  core_.schedule_flush();
}

void Peer::change_group() {
  auto& s = *session_;
  if (s.target.add_path[0] || s.target.add_path[1]) return give_up();  // what it holds only the journal knows
  auto& group = core_.group_for(s.target);
  auto* const member = group.join_from(*s.group, *s.member);
  leave_group();
  s.group = &group;
  s.member = member;
}

void Peer::disable(const Notification& say) {
  auto keep = shared_from_this();
  disabled_ = true;
  feed(event::Stop{say});
  drop_all_routes();
  stale_deadline_.reset();
  eor_deadline_.reset();
  sweep_at_.reset();
  core_.peer_changed();
  core_.schedule_flush();
}

void Peer::enable() {
  auto keep = shared_from_this();
  disabled_ = false;
  last_error_.clear();
  // A neighbour from a range connects by itself, and then becomes a peer again.
  if (dynamic_) return core_.retire(*this);
  feed(event::Start{});
  core_.peer_changed();
}

void Peer::restart() {
  auto keep = shared_from_this();
  keep_on_restart_ = true;
  feed(event::Restart{cease(notify::kReset, false), milliseconds(200)});
  keep_on_restart_ = false;
  core_.schedule_flush();
}

Status Peer::refresh(bool in, bool out) {
  auto keep = shared_from_this();
  if (connection() == nullptr) return fail(Errc::unavailable, "{} has no session", config_.name);
  if (in && !session_->remote.caps.refresh)
    return fail(Errc::unavailable, "{} cannot send its routes again (no route refresh); restart it instead",
                config_.name);
  if (out)
    for (auto family : kFamilies)
      if (session_->families[fam(family)]) session_->group->refresh(*session_->member, family);
  for (auto family : kFamilies) {
    // A write that fails ends the session here and now.
    if (!in || !session_ || !session_->families[fam(family)]) continue;
    ++counters_.messages_out;
    connection()->send(encode_route_refresh({unicast(family), 0}));
  }
  core_.schedule_flush();
  return {};
}

// --- connections ----------------------------------------------------------------------------------------------------

Status Peer::prepare_socket(int fd, bool outgoing) {
  const auto family = config_.address.family();
  const int hops = std::max(config_.multihop, 1);
  const int ttl = config_.ttl_security || (internal() && config_.multihop == 0) ? 255 : hops;
  if (auto s = set_ttl(fd, family, ttl); !s) return s;
  if (config_.ttl_security)
    if (auto s = set_min_ttl(fd, family, 256 - hops); !s) return s;
  set_control_class(fd, family);
  if (outgoing && !config_.password.empty()) return set_md5(fd, Prefix::host(config_.address), config_.password);
  return {};
}

void Peer::open_connection(Slot slot) {
  const auto failed = [&](std::string why) {
    asio::post(core_.executor(), [weak = weak_from_this(), slot, why = std::move(why)] {
      if (auto self = weak.lock()) self->feed(event::ConnectFailed{slot, why});
    });
  };
  boost::system::error_code ec;
  tcp::socket socket(core_.executor());
  const tcp::endpoint to(to_asio(config_.address), config_.port);
  socket.open(to.protocol(), ec);
  if (ec) return failed(fmt::format("socket: {}", ec.message()));
  if (auto s = prepare_socket(socket.native_handle(), true); !s) return failed(s.error().what);
  auto from = config_.local_address;
  if (!from && core_.options().source_address && core_.options().source_address->family() == config_.address.family())
    from = core_.options().source_address;
  if (from) {
    socket.bind(tcp::endpoint(to_asio(*from), 0), ec);
    if (ec) return failed(fmt::format("source address {}: {}", *from, ec.message()));
  }
  conns_[slot] = std::make_shared<Connection>(std::move(socket), *this);
  conns_[slot]->connect(to);
}

void Peer::accept(tcp::socket socket) {
  auto keep = shared_from_this();
  if (config_.ttl_security)
    if (const auto ttl = syn_ttl(socket.native_handle()); ttl && *ttl < 256 - std::max(config_.multihop, 1)) {
      core_.report(PeerEvent::Kind::refused, config_.name, fmt::format("TTL {} is not that of a neighbour", *ttl));
      return;
    }
  auto verdict = fsm_.accept(core_.now());
  if (!verdict.slot) {
    if (verdict.collision) {
      const auto message = encode_notification(cease(notify::kCollision, false));
      boost::system::error_code ignored;
      socket.non_blocking(true, ignored);
      socket.write_some(asio::buffer(message), ignored);
    }
    return;
  }
  if (auto s = prepare_socket(socket.native_handle(), false); !s) last_error_ = s.error().what;
  // An older connection in the slot goes before the new one takes its place.
  std::vector<Action> before, after;
  for (auto& a : verdict.actions) (std::holds_alternative<action::Close>(a) ? before : after).push_back(std::move(a));
  perform(std::move(before));
  const auto slot = *verdict.slot;
  conns_[slot] = std::make_shared<Connection>(std::move(socket), *this);
  conns_[slot]->start();
  perform(std::move(after));
  arm_timer();
}

std::optional<Slot> Peer::slot_of(const Connection& c) const {
  for (Slot s = 0; s < kSlots; ++s)
    if (conns_[s].get() == &c) return s;
  return std::nullopt;
}

void Peer::on_connected(Connection& c) {
  if (auto s = slot_of(c)) feed(event::Connected{*s});
}

void Peer::on_closed(Connection& c, std::string why) {
  auto s = slot_of(c);
  if (!s) return;
  const bool was_connecting = !c.remote().has_value();
  if (was_connecting)
    feed(event::ConnectFailed{*s, fmt::format("connect: {}", why)});
  else
    feed(event::Closed{*s, std::move(why)});
}

void Peer::on_fault(Connection& c, Fault fault) {
  if (auto s = slot_of(c)) feed(event::FaultFound{*s, std::move(fault)});
}

void Peer::on_drained(Connection&) { core_.schedule_flush(); }

void Peer::on_message(Connection& c, MessageType type, View body) {
  const auto slot = slot_of(c);
  if (!slot) return;
  auto keep = shared_from_this();
  ++counters_.messages_in;
  const auto fault = [&](Fault f) { feed(event::FaultFound{*slot, std::move(f)}); };
  switch (type) {
    case MessageType::open: {
      auto m = decode_open(body);
      if (!m) return fault(std::move(m.error()));
      return feed(event::OpenReceived{*slot, std::move(*m)});
    }
    case MessageType::keepalive:
      return feed(event::KeepaliveReceived{*slot});
    case MessageType::notification: {
      auto m = decode_notification(body);
      if (!m) return fault(std::move(m.error()));
      return feed(event::NotificationReceived{*slot, std::move(*m)});
    }
    case MessageType::update:
      feed(event::RoutesReceived{*slot});
      if (session_ && session_->slot == *slot) handle_update(body);
      return;
    case MessageType::route_refresh: {
      auto m = decode_route_refresh(body);
      if (!m) return fault(std::move(m.error()));
      feed(event::RoutesReceived{*slot});
      if (session_ && session_->slot == *slot) handle_refresh(*m);
      return;
    }
  }
}

void Peer::feed(const Event& event) {
  auto keep = weak_from_this().lock();  // empty only while being built or destroyed
  perform(fsm_.on(event, core_.now()));
  arm_timer();
}

void Peer::perform(std::vector<Action> actions) {
  for (auto& a : actions) {
    if (auto* connect = std::get_if<action::Connect>(&a)) {
      open_connection(connect->slot);
    } else if (auto* send = std::get_if<action::Send>(&a)) {
      if (auto& c = conns_[send->slot]) {
        ++counters_.messages_out;
        c->send(std::move(send->message));
      }
    } else if (auto* close = std::get_if<action::Close>(&a)) {
      if (auto c = std::exchange(conns_[close->slot], nullptr)) c->close();
    } else if (auto* up = std::get_if<action::Up>(&a)) {
      session_up(up->slot, up->remote);
    } else if (auto* down = std::get_if<action::WentDown>(&a)) {
      session_down(down->down);
    } else if (auto* error = std::get_if<action::Error>(&a)) {
      last_error_ = std::move(error->text);
    }
  }
  if (const auto s = fsm_.state(); s != last_state_) {
    const auto before = std::exchange(last_state_, s);
    since_ = std::chrono::system_clock::now();
    if (dynamic_ && s == PeerState::active && before != PeerState::idle && !has_stale() && !removed_)
      core_.retire(*this);
  }
}

// --- sessions -------------------------------------------------------------------------------------------------------

void Peer::session_up(Slot slot, const Open& remote) {
  auto& s = session_.emplace();
  s.slot = slot;
  s.remote = remote;
  const auto ours = core_.capabilities(config_);
  s.local_caps = info_of(ours);
  const auto both = negotiate(ours, remote.caps, internal());
  s.codec = both.in;
  s.enhanced_refresh = both.enhanced_refresh;
  conns_[slot]->set_max_message(both.in.max_message);
  s.target.internal = internal();
  s.target.client = config_.route_reflector_client;
  s.target.next_hop = config_.next_hop;
  s.target.self_v4 = core_.options().next_hop_v4;
  s.target.self_v6 = core_.options().next_hop_v6;
  if (auto local = conns_[slot]->local()) {
    const auto ip = to_ip(local->address());
    (ip.is_v4() ? s.target.self_v4 : s.target.self_v6) = ip;
  }
  s.target.exports = exports();
  s.target.filter = config_.export_filter;
  s.target.as4 = both.as4_out;
  s.target.max_message = both.out[0].max_message;
  s.target.extended_next_hop = both.out[0].extended_next_hop;
  s.target.long_lived = remote.caps.graceful_restart && remote.caps.long_lived;
  for (auto f : {0, 1}) {
    s.families[f] = s.target.families[f] = both.families[f];
    s.target.add_path[f] = both.out[f].add_path;
  }
  const auto& gr = remote.caps.graceful_restart;
  s.remote_restarting = gr && gr->restarting;
  auto& rp = core_.rib().peer(rib_id_);
  // Another identifier is another router (and would be another ORIGINATOR_ID): what the former one said goes.
  if (rp.router_id != remote.router_id) drop_all_routes();
  rp.router_id = remote.router_id;
  s.group = &core_.group_for(s.target);
  s.member = s.group->join(rib_id_, remote.router_id);

  const bool was_held = held_;
  bool stale = false;
  for (auto family : kFamilies) {
    const auto f = fam(family);
    if (rp.stale[f] == 0) {
      long_lived_[f] = {};
      continue;
    }
    bool preserved = was_held;
    if (gr && !long_lived_[f].active)
      for (const auto& e : gr->families) preserved |= e.family == unicast(family) && e.preserved;
    if (gr && remote.caps.long_lived && long_lived_[f].active)
      for (const auto& e : remote.caps.long_lived->families) preserved |= e.family == unicast(family) && e.preserved;
    if (s.families[f] && preserved)
      stale = true;
    else if (core_.rib().drop(rib_id_, family, true) > 0)  // RFC 4724 4.2, 9494 4.2
      long_lived_[f] = {};
  }
  // A peer that lost all memory ends its RIB before it has heard the others: what we keep waits for them too.
  s.late_sweep = stale && was_held && !s.remote_restarting;
  stale_deadline_.reset();
  sweep_at_.reset();
  held_ = false;
  const seconds wait = gr ? std::max({core_.options().restart_time, seconds(gr->time_s), kSettle}) : seconds(kSettle);
  eor_deadline_ = core_.now() + wait;
  last_error_.clear();
  core_.report(PeerEvent::Kind::established, config_.name,
               fmt::format("{} AS {} id {}{}", config_.address, remote.as.value, Ip::v4(remote.router_id),
                           s.remote_restarting ? " restarting" : ""));
  core_.peer_changed();
  core_.schedule_flush();
}

bool Peer::keeps_routes(const Down& down) const {
  if (!core_.options().graceful_restart || removed_) return false;
  const auto& gr = session_->remote.caps.graceful_restart;
  const bool n = gr && gr->notification;
  const auto& m = down.notification;
  switch (down.cause) {
    case Down::Cause::tcp:
    case Down::Cause::replaced:
    case Down::Cause::hold_expired:
      return true;
    case Down::Cause::notification_received:
      // A collision that was resolved a moment too late says nothing about the peer.
      if (m.code == notify::kCease && m.subcode == notify::kCollision) return true;
      return n && !(m.code == notify::kCease && m.subcode == notify::kHardReset);  // RFC 8538 4
    case Down::Cause::notification_sent:
      return keep_on_restart_ || (n && m.code != notify::kCease);
    case Down::Cause::stopped:
      return false;
  }
  return false;
}

void Peer::session_down(const Down& down) {
  if (!session_) return;
  ++counters_.flaps;
  const bool keep = keeps_routes(down);
  const auto gr = session_->remote.caps.graceful_restart;
  const auto long_lived = session_->remote.caps.long_lived;
  const bool isolation = core_.options().keep_when_isolated.count() > 0;
  leave_group();
  session_.reset();
  eor_deadline_.reset();
  sweep_at_.reset();
  last_error_ = down.text;
  core_.report(PeerEvent::Kind::down, config_.name, down.text);
  if (core_.stopping()) return;  // the routes stay where they are
  if (keep) {
    for (auto family : kFamilies) {
      bool listed = false;
      if (gr)
        for (const auto& e : gr->families) listed |= e.family == unicast(family);
      auto& ll = long_lived_[fam(family)];
      ll.allowed = seconds(0);
      if (gr && long_lived)
        for (const auto& e : long_lived->families)
          if (e.family == unicast(family))
            ll.allowed = std::min(seconds(e.stale_s), core_.long_lived_stale_time(config_));
      const bool spent = ll.until && *ll.until <= core_.now();  // RFC 9494 4.2: it ran out before the End-of-RIB
      // RFC 4724 4.2: what is stale for the second time goes, unless it may be all we have, or its time still runs.
      if (!isolation && (!ll.until || spent)) core_.rib().drop(rib_id_, family, true);
      if (isolation || (!spent && (listed || ll.allowed.count() > 0)))
        core_.rib().mark_stale(rib_id_, family);
      else
        core_.rib().drop(rib_id_, family, false);
      // RFC 9494 4.2: for a family without graceful restart its time has ended already.
      if (!listed && !isolation && !spent && ll.allowed.count() > 0) begin_long_lived(family);
      if (core_.rib().peer(rib_id_).stale[fam(family)] == 0) ll = {};
    }
    if (has_stale()) stale_deadline_ = core_.now() + seconds(gr ? gr->time_s : 0);
  } else {
    drop_all_routes();
    stale_deadline_.reset();
  }
  core_.peer_changed();
  core_.schedule_flush();
}

void Peer::drop_all_routes() {
  for (auto family : kFamilies) {
    core_.rib().drop(rib_id_, family, false);
    long_lived_[fam(family)] = {};
  }
  held_ = false;
}

void Peer::leave_group() {
  if (!session_ || session_->group == nullptr) return;
  session_->group->leave(std::exchange(session_->member, nullptr));
  core_.drop_if_empty(*std::exchange(session_->group, nullptr));
}

void Peer::end_of_rib(Family family) {
  auto& s = *session_;
  const auto f = fam(family);
  if (s.eor_in[f]) return;
  s.eor_in[f] = true;
  long_lived_[f] = {};
  if (!s.late_sweep) core_.rib().drop(rib_id_, family, true);
  if (in_sync()) {
    eor_deadline_.reset();
    if (s.late_sweep && has_stale()) sweep_at_ = core_.now() + core_.options().deferral;
  }
  core_.peer_changed();
  core_.schedule_flush();
}

void Peer::expire_stale() {
  stale_deadline_.reset();
  // The long-lived time begins here, held or not: it counts from the loss, and being held does not make it longer.
  for (auto& ll : long_lived_)
    if (ll.allowed.count() > 0 && !ll.until) ll.until = core_.now() + ll.allowed;
  if (hold_while_isolated()) return;
  std::size_t n = 0;
  for (auto family : kFamilies) n += begin_long_lived(family);
  went(n);
}

/// Keeping what may be all we have comes before any time of the peer's.
bool Peer::hold_while_isolated() {
  held_ = false;
  if (const auto since = core_.isolated_since(remote_as())) {
    const auto end = *since + core_.options().keep_when_isolated;
    if (core_.now() < end) {
      held_ = true;
      stale_deadline_ = end;
    }
  }
  return held_;
}

/// The restart time of the family is over. How many routes went.
std::size_t Peer::begin_long_lived(Family family) {
  auto& ll = long_lived_[fam(family)];
  const auto now = core_.now();
  if (ll.allowed.count() > 0 && !ll.until) ll.until = now + ll.allowed;
  ll.active = ll.until && now < *ll.until;
  return ll.active ? core_.rib().make_long_lived(rib_id_, family) : core_.rib().drop(rib_id_, family, true);
}

void Peer::end_long_lived(Family family) {
  long_lived_[fam(family)].active = false;
  if (session_ ? session_->late_sweep : hold_while_isolated()) return;
  went(core_.rib().drop(rib_id_, family, true));
}

void Peer::went(std::size_t stale) {
  if (stale > 0)
    core_.report(PeerEvent::Kind::stale_expired, config_.name, fmt::format("{} stale routes removed", stale));
  core_.schedule_flush();
  if (dynamic_ && !session_ && !has_stale() && fsm_.state() == PeerState::active) core_.retire(*this);
}

void Peer::isolation_ended(bool grace) {
  if (!held_ || session_) return;
  held_ = false;
  stale_deadline_ = core_.now() + (grace ? core_.options().deferral : seconds(0));
  arm_timer();
}

void Peer::handle_refresh(const RouteRefresh& m) {
  auto& s = *session_;
  for (auto family : kFamilies) {
    const auto f = fam(family);
    if (unicast(family) != m.family || !s.families[f]) continue;
    switch (m.subtype) {
      case 0:
        s.group->refresh(*s.member, family);
        break;
      case 1:
        s.refreshing[f] = true;
        core_.rib().begin_refresh(rib_id_, family);
        break;
      case 2:
        if (std::exchange(s.refreshing[f], false)) core_.rib().end_refresh(rib_id_, family);
        break;
      default:  // RFC 7313 5: others are ignored
        break;
    }
  }
  core_.schedule_flush();
}

// --- routes in ------------------------------------------------------------------------------------------------------

void Peer::handle_update(View body) {
  ++counters_.updates_in;
  auto& u = core_.update_space();
  auto& s = *session_;
  if (auto decoded = decode_update(body, s.codec, u); !decoded)
    return feed(event::FaultFound{s.slot, std::move(decoded.error())});
  if (u.end_of_rib) {
    for (auto family : kFamilies)
      if (*u.end_of_rib == unicast(family) && s.families[fam(family)]) end_of_rib(family);
    return;
  }
  auto& rib = core_.rib();
  for (std::size_t i = 0; i < u.withdrawn.size(); ++i) {
    if (i + kAhead < u.withdrawn.size()) rib.prefetch(u.withdrawn[i + kAhead].prefix);
    const auto& w = u.withdrawn[i];
    ++counters_.import_withdraws;
    counters_.v6.import_withdraws += w.prefix.family() == Family::v6;
    rib.withdraw(rib_id_, w.prefix, w.path_id);
  }
  counters_.attributes_discarded += u.attributes_discarded;
  if (u.treat_as_withdraw) {
    const auto n = u.announced.size() + u.announced_mp.size();
    counters_.treated_as_withdraw += n;
    for (const auto* list : {&u.announced, &u.announced_mp})
      for (const auto& route : *list) {
        counters_.v6.treated_as_withdraw += route.prefix.family() == Family::v6;
        rib.withdraw(rib_id_, route.prefix, route.path_id);
      }
    const auto now = core_.now();
    if (!last_update_error_ || now - *last_update_error_ > kUpdateErrorPause) {
      last_update_error_ = now;
      core_.report(PeerEvent::Kind::update_error, config_.name,
                   fmt::format("{}; {} routes treated as withdrawn", u.reason, n));
    }
  } else {
    if (!u.announced_mp.empty()) {
      auto attrs = u.announced.empty() ? std::move(u.attrs) : u.attrs;
      attrs.next_hop = u.mp_next_hop;
      announce(u.announced_mp, std::move(attrs));
    }
    if (!u.announced.empty()) announce(u.announced, std::move(u.attrs));
  }
  const auto& rp = rib.peer(rib_id_);
  if (config_.max_prefix != 0 && rp.paths[0] + rp.paths[1] > config_.max_prefix) {
    core_.report(PeerEvent::Kind::max_prefix, config_.name, fmt::format("more than {} routes", config_.max_prefix));
    const auto& gr = s.remote.caps.graceful_restart;
    return feed(event::Restart{cease(notify::kMaxPrefixes, gr && gr->notification), kMaxPrefixWait});
  }
  core_.schedule_flush();
}

void Peer::announce(const std::vector<Nlri>& routes, Attrs attrs) {
  const auto family = routes.front().prefix.family();
  auto& rib = core_.rib();
  const auto& s = *session_;
  if (!s.families[fam(family)]) return;
  counters_.import_updates += routes.size();
  if (family == Family::v6) counters_.v6.import_updates += routes.size();
  const auto refuse = [&](const Nlri& route) {
    ++counters_.import_rejected;
    counters_.v6.import_rejected += route.prefix.family() == Family::v6;
    rib.withdraw(rib_id_, route.prefix, route.path_id);
  };
  if (!imports() || import_route(attrs, core_.speaker(), internal(),
                                 family == Family::v4 ? s.target.self_v4 : s.target.self_v6, config_.allow_own_as)) {
    for (const auto& route : routes) refuse(route);
    return;
  }
  auto& store = core_.attrs();
  const auto now = core_.now_ms();
  const auto& filter = config_.import_filter;
  auto id = kNoAttr;  // the set as it came, made when a route needs it
  for (std::size_t i = 0; i < routes.size(); ++i) {
    if (i + kAhead < routes.size()) rib.prefetch(routes[i + kAhead].prefix);
    const auto& route = routes[i];
    if (!acceptable(route.prefix)) {
      refuse(route);
      continue;
    }
    std::optional<Attrs> changed;
    if (filter && !filter
                       ->evaluate({.prefix = route.prefix,
                                   .source = internal() ? RouteSource::internal : RouteSource::external,
                                   .peer = internal() ? PeerKind::internal : PeerKind::external},
                                  attrs, changed)
                       .accept) {
      refuse(route);
      continue;
    }
    if (changed) {
      rib.announce(rib_id_, route.prefix, store.intern(*changed), now, route.path_id);
      continue;
    }
    if (id == kNoAttr) id = store.intern(attrs);
    store.ref(id);
    rib.announce(rib_id_, route.prefix, id, now, route.path_id);
  }
  store.unref(id);
}

// --- routes out -----------------------------------------------------------------------------------------------------

bool Peer::ready() const {
  const auto* const c = connection();
  return c != nullptr && c->is_open() && c->pending() < Connection::kHighWater;
}

void Peer::put(std::shared_ptr<const Bytes> bytes, std::size_t begin, std::size_t end) {
  const auto part = View(*bytes).subspan(begin, end - begin);
  connection()->queue({std::move(bytes), part});
}

void Peer::dump_began(Family family) { say_refresh(family, 1); }

void Peer::dump_ended(Family family) { say_refresh(family, 2); }

/// Begin (1) and end (2) of what a peer asked for again (RFC 7313); the first dump of a session is not one.
void Peer::say_refresh(Family family, std::uint8_t subtype) {
  const auto& s = *session_;
  if (s.enhanced_refresh && s.eor_out[fam(family)])
    connection()->queue(Connection::Piece(encode_route_refresh({unicast(family), subtype})));
}

void Peer::give_up() {
  // Not from here: the group is at work.
  asio::post(core_.executor(), [weak = weak_from_this()] {
    if (auto self = weak.lock(); self && self->session_)
      self->feed(event::Restart{cease(notify::kOutOfResources, false), seconds(1)});
  });
}

bool Peer::push_out() {
  auto* const c = connection();
  if (c == nullptr) return false;
  auto& s = *session_;
  s.group->hand_out(*s.member, *this);
  counters_.export_updates += std::exchange(s.member->announced, 0);
  counters_.export_withdraws += std::exchange(s.member->withdrawn, 0);
  counters_.v6.export_updates += std::exchange(s.member->announced_v6, 0);
  counters_.v6.export_withdraws += std::exchange(s.member->withdrawn_v6, 0);
  auto messages = std::exchange(s.member->messages, 0);
  if ((!s.eor_out[0] || !s.eor_out[1]) && core_.may_end_rib() && s.group->in_sync(*s.member))
    for (auto family : kFamilies) {
      const auto f = fam(family);
      if (!s.families[f] || s.eor_out[f]) continue;
      s.eor_out[f] = true;
      Bytes message;
      encode_end_of_rib(message, unicast(family));
      c->queue(Connection::Piece(std::move(message)));
      ++messages;
    }
  counters_.messages_out += messages;
  counters_.updates_out += messages;
  c->flush();
  if (c->stuck_since()) arm_timer();
  return ready() && s.group->behind(*s.member);
}

// --- timers ---------------------------------------------------------------------------------------------------------

void Peer::arm_timer() {
  auto next = fsm_.next_deadline();
  for (const auto& t : {stale_deadline_, eor_deadline_, sweep_at_})
    if (t && (!next || *t < *next)) next = t;
  for (const auto& ll : long_lived_)
    if (ll.active && (!next || *ll.until < *next)) next = ll.until;
  if (auto* c = connection())
    if (const auto since = c->stuck_since(); since && (!next || *since + send_hold_time() < *next))
      next = *since + send_hold_time();
  if (!next || removed_) return;
  // A deadline that moved out (every KEEPALIVE moves the hold timer) is found when the older one fires.
  if (armed_ && *armed_ <= *next) return;
  armed_ = next;
  timer_.expires_at(*next);
  timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& ec) {
    if (ec) return;
    if (auto self = weak.lock()) self->on_timer();
  });
}

Duration Peer::send_hold_time() const {
  const auto wanted = core_.options().send_hold_time;
  return wanted.count() > 0 ? wanted : std::max(kSendHold, seconds(2 * fsm_.hold_time_s()));
}

void Peer::on_timer() {
  armed_.reset();
  const auto now = core_.now();
  if (auto* c = connection()) {
    if (auto since = c->stuck_since(); since && now - *since >= send_hold_time())
      return feed(event::SendHoldExpired{session_->slot});
  }
  for (auto family : kFamilies)
    if (const auto& ll = long_lived_[fam(family)]; ll.active && *ll.until <= now) end_long_lived(family);
  if (stale_deadline_ && *stale_deadline_ <= now) expire_stale();
  if (eor_deadline_ && *eor_deadline_ <= now) {
    eor_deadline_.reset();
    for (auto family : kFamilies)
      if (session_ && session_->families[fam(family)]) end_of_rib(family);
  }
  if (sweep_at_ && *sweep_at_ <= now) {
    sweep_at_.reset();
    for (auto family : kFamilies) core_.rib().drop(rib_id_, family, true);
    core_.schedule_flush();
  }
  feed(event::Timer{});
}

// --- snapshot -------------------------------------------------------------------------------------------------------

PeerStatus Peer::status() const {
  PeerStatus st;
  st.config = config_;
  if (!st.config.password.empty()) st.config.password = "[secret]";
  st.dynamic = dynamic_;
  st.imports = imports();
  st.exports = exports();
  st.disabled = disabled_;
  st.state = fsm_.state();
  st.passive_wait = st.state == PeerState::active && fsm_.config().passive;
  st.since = since_;
  st.counters = counters_;
  st.last_error = last_error_;
  const auto now = core_.now();
  const auto left = [&](const std::optional<TimePoint>& t) {
    return t && *t > now ? std::chrono::duration_cast<milliseconds>(*t - now) : milliseconds(0);
  };
  const auto& rp = core_.rib().peer(rib_id_);
  std::uint32_t exported[2] = {0, 0};
  if (session_) session_->group->count_for(*session_->member, exported);
  for (auto family : kFamilies) {
    auto& fs = family == Family::v4 ? st.v4 : st.v6;
    const auto f = fam(family);
    fs.imported = rp.paths[f];
    fs.stale = rp.stale[f];
    fs.preferred = rp.preferred[f];
    fs.exported = exported[f];
    fs.long_lived = long_lived_[f].active;
    if (fs.long_lived) fs.long_lived_left = left(long_lived_[f].until);
    if (session_) {
      fs.negotiated = session_->families[f];
      fs.eor_received = session_->eor_in[f];
      fs.eor_sent = session_->eor_out[f];
    }
  }
  if (session_) {
    st.neighbor_id = Ip::v4(session_->remote.router_id);
    st.local = session_->local_caps;
    st.neighbor = info_of(session_->remote.caps);
    st.hold_time = seconds(fsm_.hold_time_s());
    st.keepalive_time = seconds(fsm_.keepalive_s());
    st.hold_left = left(fsm_.hold_deadline());
    st.keepalive_left = left(fsm_.keepalive_deadline());
    if (const auto& c = conns_[session_->slot]) {
      if (c->local()) st.local_address = to_ip(c->local()->address());
      if (c->remote()) st.remote_port = c->remote()->port();
    }
  }
  if (session_) {
    const auto behind = session_->group->backlog(*session_->member);
    const auto* const c = connection();
    st.backlog_bytes = behind.bytes + (c != nullptr ? c->pending() : 0);
    st.backlog_routes = behind.prefixes;
  }
  st.gr_active = has_stale();
  st.gr_left = held_ ? milliseconds(0) : left(stale_deadline_);
  return st;
}

}  // namespace calico::bgp
