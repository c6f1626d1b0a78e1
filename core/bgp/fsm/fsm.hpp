#pragma once
/// The state machine of one peer, with up to two connections at a time (ours and theirs, or a living session and the
/// connection that wants to replace it). Pure: events and the time go in, actions come out; sockets and timers are the
/// caller's. After every call the caller performs the actions in order and arms one timer for next_deadline().
///
/// Thread: any, one at a time. Owns: nothing outside. Errors: none; what fails becomes actions.
/// RFC: 4271 8 and 6.8 (collision), 4724 4.2 (a new connection replaces a living session), 6286 (identifiers), 6608,
/// 8538 (Hard Reset), 9687 4. Deviations: no DelayOpen; the wait for an OPEN is 30 s instead of 4 minutes; a connection
/// attempt is given up after 5 s and the next one follows after 0.2 s to 5 s (1 s to 30 s after a NOTIFICATION).
/// Collision trap: t0 both sides connect; t1 A is Established on its connection and has the other side's OPEN unread on
/// the second; t2 A reads it. Replacing the session now would close the connection that B has just chosen. So a session
/// is replaced only by a connection accepted at least kReplaceGuard after it came up.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/base/clock.hpp"
#include "core/bgp/codec/message.hpp"
#include "core/bgp/engine.hpp"

namespace calico::bgp {

/// A connection of the peer: 0 or 1; reused after Close.
using Slot = std::uint8_t;
inline constexpr Slot kSlots = 2;
inline constexpr std::chrono::seconds kReplaceGuard{3};

struct FsmConfig {
  Asn local_as, remote_as;
  std::uint32_t router_id = 0;
  std::uint16_t hold_time_s = 90;
  std::uint16_t keepalive_s = 0;  ///< 0, and at most: a third of the hold time agreed on
  bool passive = false;
  bool operator==(const FsmConfig&) const = default;
};

/// Why an established session ended.
struct Down {
  enum class Cause : std::uint8_t {
    tcp,                    ///< closed or broken without a word
    replaced,               ///< the peer came back on a new connection
    hold_expired,           ///< nothing heard, or nothing taken (RFC 9687); we said so
    notification_received,  ///< `notification` says what
    notification_sent,      ///< a fault of the peer, or our wish
    stopped,                ///< we closed without a word
  };
  Cause cause = Cause::tcp;
  Notification notification;
  std::string text;
};

namespace event {
struct Start {};  ///< begin (again) to connect and accept
/// End all connections and stay idle. With a NOTIFICATION where an OPEN was sent; nullopt: in silence.
struct Stop {
  std::optional<Notification> notification;
};
/// End the session and begin again after `wait`.
struct Restart {
  Notification notification;
  Duration wait{};
};
struct Connected {
  Slot slot;
};
struct ConnectFailed {
  Slot slot;
  std::string why;
};
struct Closed {
  Slot slot;
  std::string why;
};
struct OpenReceived {
  Slot slot;
  Open open;
};
struct KeepaliveReceived {
  Slot slot;
};
/// UPDATE or ROUTE-REFRESH arrived; the content is the caller's.
struct RoutesReceived {
  Slot slot;
};
struct NotificationReceived {
  Slot slot;
  Notification notification;
};
struct FaultFound {
  Slot slot;
  Fault fault;
};
/// The peer has taken nothing of what waits for it for too long (RFC 9687); the writer knows when.
struct SendHoldExpired {
  Slot slot;
};
struct Timer {};
}  // namespace event
using Event = std::variant<event::Start, event::Stop, event::Restart, event::Connected, event::ConnectFailed,
                           event::Closed, event::OpenReceived, event::KeepaliveReceived, event::RoutesReceived,
                           event::NotificationReceived, event::FaultFound, event::SendHoldExpired, event::Timer>;

namespace action {
struct Connect {
  Slot slot;
};
struct Send {
  Slot slot;
  Bytes message;
};
struct Close {
  Slot slot;
};
/// The session is up on `slot`.
struct Up {
  Slot slot;
  Open remote;
  std::uint16_t hold_time_s;
};
struct WentDown {
  Slot slot;
  Down down;
};
/// Something failed before a session was up; one line.
struct Error {
  std::string text;
};
}  // namespace action
using Action = std::variant<action::Connect, action::Send, action::Close, action::Up, action::WentDown, action::Error>;

class Fsm {
 public:
  /// `capabilities` is asked for each OPEN; `random` gives [0, 1).
  Fsm(FsmConfig config, std::function<Capabilities()> capabilities, std::function<double()> random);

  [[nodiscard]] std::vector<Action> on(const Event& event, TimePoint now);
  /// The peer connected to us. The slot to attach the connection to, or nullopt: close it (with Cease 7 if
  /// `collision`). Actions come first (an older attempt of the peer may have to go).
  struct Accept {
    std::optional<Slot> slot;
    bool collision = false;
    std::vector<Action> actions;
  };
  [[nodiscard]] Accept accept(TimePoint now);

  std::optional<TimePoint> next_deadline() const;
  PeerState state() const;
  bool started() const { return started_; }
  std::optional<Slot> established_slot() const;
  /// Of the established session.
  std::uint16_t hold_time_s() const { return hold_s_; }
  std::uint16_t keepalive_s() const { return keepalive_of(hold_s_); }
  std::optional<TimePoint> hold_deadline() const;
  std::optional<TimePoint> keepalive_deadline() const;
  void set_config(FsmConfig config) { config_ = config; }
  const FsmConfig& config() const { return config_; }

 private:
  enum class Phase : std::uint8_t { none, connecting, open_sent, open_confirm, established };
  struct Conn {
    Phase phase = Phase::none;
    bool outgoing = false;
    TimePoint begun{};  // accepted, or connect started
    TimePoint up{};     // established
    std::optional<Open> remote;
    std::optional<TimePoint> deadline;   // connect, open or hold
    std::optional<TimePoint> keepalive;  // next to send
  };
  /// RFC 4271 4.4: a third of the hold time, not more than one a second, none when it is 0.
  std::uint16_t keepalive_of(std::uint16_t hold_s) const {
    const auto third = std::max<std::uint16_t>(1, hold_s / 3);
    return hold_s == 0 ? 0 : config_.keepalive_s == 0 ? third : std::min(third, config_.keepalive_s);
  }
  void handle(const event::Start&);
  void handle(const event::Stop&);
  void handle(const event::Restart&);
  void handle(const event::Connected&);
  void handle(const event::ConnectFailed&);
  void handle(const event::Closed&);
  void handle(const event::OpenReceived&);
  void handle(const event::KeepaliveReceived&);
  void handle(const event::RoutesReceived&);
  void handle(const event::NotificationReceived&);
  void handle(const event::FaultFound&);
  void handle(const event::SendHoldExpired&);
  void handle(const event::Timer&);

  void start_connect();
  void send_open(Slot slot);
  bool resolve_collision(Slot slot);
  void drop(Slot slot);  // forget and Close
  void fail_conn(Slot slot, Down down, std::optional<Notification> say, bool penalty);
  void schedule_retry(bool penalty);
  bool says_hard(const Conn& c) const;
  TimePoint jittered(std::uint16_t seconds) const;
  Conn& conn(Slot s) { return conns_[s]; }
  Slot other(Slot s) const { return static_cast<Slot>(1 - s); }

  FsmConfig config_;
  std::function<Capabilities()> capabilities_;
  std::function<double()> random_;
  std::array<Conn, kSlots> conns_;
  bool started_ = false;
  std::optional<TimePoint> retry_;
  unsigned attempts_ = 0, errors_ = 0;
  std::uint16_t hold_s_ = 0;
  bool local_gr_ = false;
  bool local_n_ = false;
  TimePoint now_{};
  std::vector<Action> actions_;
};

}  // namespace calico::bgp
