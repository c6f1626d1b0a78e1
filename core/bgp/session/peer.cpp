/// Peer: its life under the operator and the configuration, its connections, messages and timers. What a session's
/// begin and end do to routes is in peer_session.cpp, routes themselves are in peer_routes.cpp, the snapshot in
/// peer_show.cpp.
#include "core/bgp/session/peer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>

#include "core/bgp/session/socket_options.hpp"

namespace calico::bgp {

using asio::ip::tcp;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {
constexpr Family kFamilies[] = {Family::v4, Family::v6};
constexpr seconds kSendHold{8 * 60};  // RFC 9687 6: the greater of it and twice the hold time
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

}  // namespace calico::bgp
