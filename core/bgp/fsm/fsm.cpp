#include "core/bgp/fsm/fsm.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace calico::bgp {

using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {
constexpr seconds kConnectTimeout{5};
constexpr seconds kOpenTimeout{30};
constexpr seconds kCalm{60};  // a session this old forgives earlier errors
// A peer that restarts is back within a second; one that stays away is asked every 5 s.
constexpr std::array<milliseconds, 13> kRetry{
    milliseconds{200},  milliseconds{400},  milliseconds{700},  milliseconds{1000}, milliseconds{1000},
    milliseconds{1000}, milliseconds{1000}, milliseconds{1000}, milliseconds{1000}, milliseconds{1000},
    milliseconds{2000}, milliseconds{3000}, milliseconds{5000}};
}  // namespace

std::string_view to_string(PeerState state) {
  switch (state) {
    case PeerState::idle:
      return "Idle";
    case PeerState::connect:
      return "Connect";
    case PeerState::active:
      return "Active";
    case PeerState::open_sent:
      return "OpenSent";
    case PeerState::open_confirm:
      return "OpenConfirm";
    case PeerState::established:
      return "Established";
  }
  return "?";
}

Fsm::Fsm(FsmConfig config, std::function<Capabilities()> capabilities, std::function<double()> random)
    : config_(config), capabilities_(std::move(capabilities)), random_(std::move(random)) {}

std::vector<Action> Fsm::on(const Event& event, TimePoint now) {
  now_ = now;
  actions_.clear();
  std::visit([this](const auto& e) { handle(e); }, event);
  return std::exchange(actions_, {});
}

Fsm::Accept Fsm::accept(TimePoint now) {
  now_ = now;
  actions_.clear();
  Accept out;
  if (!started_) return out;
  for (Slot s = 0; s < kSlots; ++s) {
    const auto& c = conn(s);
    if (c.phase != Phase::established) continue;
    // RFC 4724 4.2 lets a peer that restarts replace its session; others have to wait for the old one to end.
    if (!local_gr_ || !c.remote->caps.graceful_restart || now < c.up + kReplaceGuard) {
      out.collision = true;
      return out;
    }
  }
  // An older attempt of the peer goes: the newest is the one it still knows. So one slot always stays for our own.
  std::optional<Slot> slot;
  for (Slot s = 0; s < kSlots && !slot; ++s)
    if (const auto& c = conn(s); !c.outgoing && c.phase != Phase::none && c.phase != Phase::established) {
      drop(s);
      slot = s;
    }
  for (Slot s = 0; s < kSlots && !slot; ++s)
    if (conn(s).phase == Phase::none) slot = s;
  if (!slot) return out;
  auto& c = conn(*slot);
  c = Conn{};
  c.begun = now;
  send_open(*slot);
  out.slot = slot;
  out.actions = std::exchange(actions_, {});
  return out;
}

std::optional<TimePoint> Fsm::next_deadline() const {
  std::optional<TimePoint> next;
  const auto take = [&](const std::optional<TimePoint>& t) {
    if (t && (!next || *t < *next)) next = t;
  };
  take(retry_);
  for (const auto& c : conns_) {
    take(c.deadline);
    take(c.keepalive);
  }
  return next;
}

PeerState Fsm::state() const {
  if (!started_) return PeerState::idle;
  auto best = Phase::none;
  for (const auto& c : conns_) best = std::max(best, c.phase);
  switch (best) {
    case Phase::established:
      return PeerState::established;
    case Phase::open_confirm:
      return PeerState::open_confirm;
    case Phase::open_sent:
      return PeerState::open_sent;
    case Phase::connecting:
      return PeerState::connect;
    case Phase::none:
      break;
  }
  return PeerState::active;
}

std::optional<Slot> Fsm::established_slot() const {
  for (Slot s = 0; s < kSlots; ++s)
    if (conns_[s].phase == Phase::established) return s;
  return std::nullopt;
}

std::optional<TimePoint> Fsm::hold_deadline() const {
  auto s = established_slot();
  return s ? conns_[*s].deadline : std::nullopt;
}

std::optional<TimePoint> Fsm::keepalive_deadline() const {
  auto s = established_slot();
  return s ? conns_[*s].keepalive : std::nullopt;
}

TimePoint Fsm::jittered(std::uint16_t s) const {
  return now_ + std::chrono::duration_cast<Duration>(seconds(s) * (0.75 + 0.25 * random_()));
}

bool Fsm::says_hard(const Conn& c) const {
  return local_n_ && c.remote && c.remote->caps.graceful_restart && c.remote->caps.graceful_restart->notification;
}

void Fsm::drop(Slot slot) {
  conn(slot) = Conn{};
  actions_.push_back(action::Close{slot});
}

void Fsm::schedule_retry(bool penalty) {
  if (!started_ || config_.passive) return;
  if (established_slot()) return;
  Duration wait{};
  if (penalty) {
    wait = seconds(std::min(30U, 1U << std::min(errors_, 5U)));
    ++errors_;
  } else {
    wait = kRetry[std::min<std::size_t>(attempts_, kRetry.size() - 1)];
    ++attempts_;
  }
  retry_ = now_ + std::chrono::duration_cast<Duration>(wait * (0.75 + 0.5 * random_()));
}

void Fsm::start_connect() {
  retry_.reset();
  if (!started_ || config_.passive) return;
  for (const auto& c : conns_)
    if (c.phase == Phase::established || c.phase == Phase::open_confirm || (c.phase != Phase::none && c.outgoing)) {
      // Something is on its way already; look again if it comes to nothing.
      return;
    }
  for (Slot s = 0; s < kSlots; ++s) {
    auto& c = conn(s);
    if (c.phase != Phase::none) continue;
    c = Conn{};
    c.phase = Phase::connecting;
    c.outgoing = true;
    c.begun = now_;
    c.deadline = now_ + kConnectTimeout;
    actions_.push_back(action::Connect{s});
    return;
  }
}

void Fsm::send_open(Slot slot) {
  auto& c = conn(slot);
  c.phase = Phase::open_sent;
  c.deadline = now_ + kOpenTimeout;
  Open open;
  open.as = config_.local_as;
  open.hold_time_s = config_.hold_time_s;
  open.router_id = config_.router_id;
  open.caps = capabilities_();
  local_gr_ = open.caps.graceful_restart.has_value();
  local_n_ = local_gr_ && open.caps.graceful_restart->notification;
  actions_.push_back(action::Send{slot, encode_open(open)});
}

/// One connection ends; says `say` first where the peer would understand it.
void Fsm::fail_conn(Slot slot, Down down, std::optional<Notification> say, bool penalty) {
  auto& c = conn(slot);
  const auto phase = c.phase;
  if (phase == Phase::none) return;
  if (say && phase != Phase::connecting) actions_.push_back(action::Send{slot, encode_notification(*say)});
  if (phase == Phase::established && now_ - c.up > kCalm) errors_ = 0;
  if (phase == Phase::established) attempts_ = 0;
  drop(slot);
  if (phase == Phase::established)
    actions_.push_back(action::WentDown{slot, std::move(down)});
  else
    actions_.push_back(action::Error{std::move(down.text)});
  // While the other connection is still on its way, its end decides.
  if (conn(other(slot)).phase == Phase::none || !retry_) schedule_retry(penalty);
}

void Fsm::handle(const event::Start&) {
  if (started_) return;
  started_ = true;
  attempts_ = errors_ = 0;
  // A little apart, so that two speakers started together rarely collide.
  retry_ = config_.passive ? std::nullopt
                           : std::optional(now_ + std::chrono::duration_cast<Duration>(milliseconds(100) * random_()));
}

void Fsm::handle(const event::Stop& e) {
  started_ = false;
  for (Slot s = 0; s < kSlots; ++s) {
    Down down{e.notification ? Down::Cause::notification_sent : Down::Cause::stopped,
              e.notification.value_or(Notification{}), e.notification ? describe(*e.notification) : "stopped"};
    auto say = e.notification;
    if (say && say->code == notify::kCease && says_hard(conn(s))) say = hard_reset(*say);
    fail_conn(s, std::move(down), std::move(say), false);
  }
  retry_.reset();
}

void Fsm::handle(const event::Restart& e) {
  for (Slot s = 0; s < kSlots; ++s)
    fail_conn(s, {Down::Cause::notification_sent, e.notification, describe(e.notification)}, e.notification, false);
  if (started_ && !config_.passive) retry_ = now_ + e.wait;
}

void Fsm::handle(const event::Connected& e) {
  if (conn(e.slot).phase == Phase::connecting) send_open(e.slot);
}

void Fsm::handle(const event::ConnectFailed& e) {
  if (conn(e.slot).phase != Phase::connecting) return;
  fail_conn(e.slot, {Down::Cause::tcp, {}, e.why}, std::nullopt, false);
}

void Fsm::handle(const event::Closed& e) { fail_conn(e.slot, {Down::Cause::tcp, {}, e.why}, std::nullopt, false); }

/// RFC 4271 6.8. False: `slot` itself went.
bool Fsm::resolve_collision(Slot slot) {
  const Slot o = other(slot);
  auto& c = conn(slot);
  auto& rival = conn(o);
  const Down collided{Down::Cause::notification_sent, cease(notify::kCollision, false), "connection collision"};
  if (rival.phase == Phase::established) {
    if (c.begun < rival.up + kReplaceGuard) {
      fail_conn(slot, collided, collided.notification, false);
      return false;
    }
    drop(o);
    actions_.push_back(action::WentDown{o, {Down::Cause::replaced, {}, "peer came back on a new connection"}});
    return true;
  }
  if (rival.phase != Phase::open_confirm) return true;
  const auto theirs = c.remote->router_id;
  const bool keep_ours =
      config_.router_id != theirs ? config_.router_id > theirs : config_.local_as.value > config_.remote_as.value;
  const Slot loser = c.outgoing == keep_ours ? o : slot;
  actions_.push_back(action::Send{loser, encode_notification(collided.notification)});
  drop(loser);
  return loser != slot;
}

void Fsm::handle(const event::OpenReceived& e) {
  auto& c = conn(e.slot);
  const auto refuse = [&](std::uint8_t subcode, std::string what) {
    Notification n{notify::kOpen, subcode, {}};
    fail_conn(e.slot, {Down::Cause::notification_sent, n, std::move(what)}, n, true);
  };
  if (c.phase != Phase::open_sent) {
    if (c.phase == Phase::none || c.phase == Phase::connecting) return;
    Notification n{notify::kFsm, static_cast<std::uint8_t>(c.phase == Phase::open_confirm ? 2 : 3), {}};
    fail_conn(e.slot, {Down::Cause::notification_sent, n, "unexpected OPEN"}, n, true);
    return;
  }
  if (e.open.as != config_.remote_as)
    return refuse(2, fmt::format("peer says AS {}, AS {} is configured", e.open.as.value, config_.remote_as.value));
  // RFC 6286: an identifier is unique within its AS.
  if (e.open.router_id == config_.router_id && config_.remote_as == config_.local_as)
    return refuse(3, "peer has our own BGP identifier");
  c.remote = e.open;
  if (!resolve_collision(e.slot)) return;
  c.phase = Phase::open_confirm;
  const auto hold = std::min(config_.hold_time_s, e.open.hold_time_s);
  actions_.push_back(action::Send{e.slot, encode_keepalive()});
  c.deadline = hold == 0 ? std::optional(now_ + kOpenTimeout) : std::optional(now_ + seconds(hold));
  c.keepalive = hold == 0 ? std::nullopt : std::optional(jittered(keepalive_of(hold)));
}

void Fsm::handle(const event::KeepaliveReceived& e) {
  auto& c = conn(e.slot);
  switch (c.phase) {
    case Phase::open_confirm: {
      c.phase = Phase::established;
      c.up = now_;
      hold_s_ = std::min(config_.hold_time_s, c.remote->hold_time_s);
      c.deadline = hold_s_ == 0 ? std::nullopt : std::optional(now_ + seconds(hold_s_));
      attempts_ = 0;
      retry_.reset();
      const Slot o = other(e.slot);
      if (conn(o).phase == Phase::open_sent || conn(o).phase == Phase::open_confirm)
        actions_.push_back(action::Send{o, encode_notification(cease(notify::kCollision, false))});
      if (conn(o).phase != Phase::none) drop(o);
      actions_.push_back(action::Up{e.slot, *c.remote, hold_s_});
      return;
    }
    case Phase::established:
      if (hold_s_ != 0) c.deadline = now_ + seconds(hold_s_);
      return;
    case Phase::open_sent: {
      Notification n{notify::kFsm, 1, {}};
      fail_conn(e.slot, {Down::Cause::notification_sent, n, "KEEPALIVE before OPEN"}, n, true);
      return;
    }
    case Phase::none:
    case Phase::connecting:
      return;
  }
}

void Fsm::handle(const event::RoutesReceived& e) {
  auto& c = conn(e.slot);
  if (c.phase == Phase::established) {
    if (hold_s_ != 0) c.deadline = now_ + seconds(hold_s_);
    return;
  }
  if (c.phase == Phase::none) return;
  Notification n{notify::kFsm, static_cast<std::uint8_t>(c.phase == Phase::open_sent ? 1 : 2), {}};
  fail_conn(e.slot, {Down::Cause::notification_sent, n, "routes before the session is up"}, n, true);
}

void Fsm::handle(const event::NotificationReceived& e) {
  const bool collision = e.notification.code == notify::kCease && e.notification.subcode == notify::kCollision;
  fail_conn(e.slot,
            {Down::Cause::notification_received, e.notification, fmt::format("received: {}", describe(e.notification))},
            std::nullopt, !collision);
}

void Fsm::handle(const event::FaultFound& e) {
  Notification n{e.fault.code, e.fault.subcode, e.fault.data};
  fail_conn(e.slot, {Down::Cause::notification_sent, n, fmt::format("sent: {} ({})", describe(n), e.fault.what)}, n,
            true);
}

void Fsm::handle(const event::SendHoldExpired& e) {
  if (conn(e.slot).phase != Phase::established) return;
  // It stands behind what the peer did not take, so it will hardly get through; the peer that reads again late learns.
  Notification n{notify::kSendHold, 0, {}};
  fail_conn(e.slot, {Down::Cause::hold_expired, n, "send hold timer expired"}, n, false);
}

void Fsm::handle(const event::Timer&) {
  for (Slot s = 0; s < kSlots; ++s) {
    auto& c = conn(s);
    if (c.deadline && *c.deadline <= now_) {
      if (c.phase == Phase::connecting) {
        fail_conn(s, {Down::Cause::tcp, {}, "connection attempt timed out"}, std::nullopt, false);
      } else {
        Notification n{notify::kHoldTimer, 0, {}};
        const auto cause = c.phase == Phase::established ? Down::Cause::hold_expired : Down::Cause::notification_sent;
        fail_conn(s, {cause, n, "hold timer expired"}, n, false);
      }
      continue;
    }
    if (c.keepalive && *c.keepalive <= now_) {
      actions_.push_back(action::Send{s, encode_keepalive()});
      const auto hold = std::min(config_.hold_time_s, c.remote->hold_time_s);
      c.keepalive = jittered(keepalive_of(hold));
    }
  }
  if (retry_ && *retry_ <= now_) start_connect();
}

}  // namespace calico::bgp
