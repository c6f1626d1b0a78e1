#pragma once
/// One neighbour: its state machine, its connections, what it sent and was sent, and its side of graceful restart.
/// Private to core/bgp.
/// Thread: loop. Owns: connections, its place in the update group while a session is up. Kept by shared_ptr because
/// timers look back weakly. Errors: become last_error and events.
///
/// Stale routes: marked when the session is lost without intent. They go when the peer's End-of-RIB arrives, when its
/// restart time passes without a session, or at once if the new session says that forwarding was not preserved. While
/// no session is left from which such routes could come (isolated), they stay for Options::keep_when_isolated. Of
/// families in the peer's LLGR capability they live on after the restart time as the last choice (RFC 9494): a time for
/// each family that runs on when the peer is back, up to its End-of-RIB.
///
/// Parts: peer.cpp (the operator and the configuration, connections, messages, timers), peer_session.cpp (begin and end
/// of sessions, stale routes), peer_routes.cpp (routes in and out), peer_show.cpp (snapshot).
#include <boost/asio/steady_timer.hpp>
#include <memory>

#include "core/bgp/engine_core.hpp"
#include "core/bgp/fsm/fsm.hpp"
#include "core/bgp/session/connection.hpp"

namespace calico::bgp {

class Peer final : public Connection::Handler, public UpdateGroup::Outlet, public std::enable_shared_from_this<Peer> {
 public:
  Peer(EngineCore& core, PeerConfig config, bool dynamic);
  ~Peer() override;

  void start();
  /// Ends the session and forgets all routes both ways. Nothing is kept, whoever asks means it.
  void remove(const std::optional<Notification>& say);
  /// For the end of the engine: routes stay where they are.
  void close(const std::optional<Notification>& say);
  void reconfigure(PeerConfig config);
  void accept(asio::ip::tcp::socket socket);
  /// The operator's word; stays through reconfigure().
  void disable(const Notification& say);
  void enable();
  void restart();
  /// Errors: unavailable (no session, the peer cannot refresh).
  Status refresh(bool in, bool out);

  /// Hands the connection what its group has for it. True: there is more and the socket would take it.
  bool push_out();
  /// A session of the AS is in sync again (or nobody's is): stale routes held beyond their time are looked at.
  void isolation_ended(bool grace);

  const PeerConfig& config() const { return config_; }
  RibPeerId rib_id() const { return rib_id_; }
  bool dynamic() const { return dynamic_; }
  bool internal() const { return remote_as() == core_.options().local_as; }
  Asn remote_as() const { return config_.remote_as.value_or(core_.options().local_as); }
  bool imports() const { return passes(config_.import_policy); }
  bool exports() const { return passes(config_.export_policy); }
  bool up() const { return session_.has_value(); }
  bool disabled() const { return disabled_; }
  /// The peer has been sent this prefix, or will be.
  bool sends(PrefixId id) const { return session_ && session_->group->sends(*session_->member, id); }
  /// The peer said End-of-RIB for everything negotiated (or long enough passed, where it cannot).
  bool in_sync() const;
  /// Waiting for its End-of-RIB makes sense (RFC 4724 4.1).
  bool awaited() const;
  bool restarting() const { return session_ && session_->remote_restarting; }
  bool has_stale() const;
  PeerStatus status() const;

 private:
  struct Session {
    Slot slot = 0;
    Open remote;
    CapabilityInfo local_caps;
    bool families[2] = {false, false};
    CodecContext codec;
    Target target;
    UpdateGroup* group = nullptr;
    UpdateGroup::Member* member = nullptr;
    bool enhanced_refresh = false;
    bool refreshing[2] = {false, false};  // between the peer's begin and end of a refresh
    bool eor_in[2] = {false, false}, eor_out[2] = {false, false};
    bool remote_restarting = false;
    bool late_sweep = false;  // the peer began from nothing while we were isolated
  };

  // Connection::Handler
  void on_connected(Connection& c) override;
  void on_message(Connection& c, MessageType type, View body) override;
  void on_fault(Connection& c, Fault fault) override;
  void on_closed(Connection& c, std::string why) override;
  void on_drained(Connection& c) override;

  // UpdateGroup::Outlet
  bool ready() const override;
  void put(std::shared_ptr<const Bytes> bytes, std::size_t begin, std::size_t end) override;
  void dump_began(Family family) override;
  void dump_ended(Family family) override;
  void give_up() override;

  /// RFC 8212: nothing passes an external session unless it was said.
  bool passes(const std::optional<Policy>& p) const {
    return p.value_or(internal() ? Policy::all : Policy::none) == Policy::all;
  }

  // peer.cpp
  void feed(const Event& event);
  void perform(std::vector<Action> actions);
  void open_connection(Slot slot);
  Status prepare_socket(int fd, bool outgoing);
  FsmConfig fsm_config() const;
  std::optional<Slot> slot_of(const Connection& c) const;
  Connection* connection() const { return session_ ? conns_[session_->slot].get() : nullptr; }
  Duration send_hold_time() const;
  void arm_timer();
  void on_timer();

  // peer_session.cpp
  void session_up(Slot slot, const Open& remote);
  void session_down(const Down& down);
  bool keeps_routes(const Down& down) const;
  void leave_group();
  void change_group();
  void end_of_rib(Family family);
  void expire_stale();
  bool hold_while_isolated();
  std::size_t begin_long_lived(Family family);
  void end_long_lived(Family family);
  void went(std::size_t stale);
  void drop_all_routes();

  // peer_routes.cpp
  void handle_update(View body);
  void handle_refresh(const RouteRefresh& m);
  void announce(const std::vector<Nlri>& routes, Attrs attrs);
  void say_refresh(Family family, std::uint8_t subtype);

  // peer_show.cpp
  static CapabilityInfo info_of(const Capabilities& caps);

  EngineCore& core_;
  PeerConfig config_;
  bool dynamic_;
  RibPeerId rib_id_;
  Fsm fsm_;
  std::shared_ptr<Connection> conns_[kSlots];
  std::optional<Session> session_;
  asio::steady_timer timer_;
  std::optional<TimePoint> armed_;
  PeerState last_state_ = PeerState::idle;
  WallTime since_;
  PeerCounters counters_;
  std::string last_error_;
  std::optional<TimePoint> last_update_error_;
  bool keep_on_restart_ = false, removed_ = false, disabled_ = false;

  // Graceful restart.
  std::optional<TimePoint> stale_deadline_;  // the session must be back by then
  std::optional<TimePoint> eor_deadline_;    // End-of-RIB must have come by then
  std::optional<TimePoint> sweep_at_;        // stale routes go then, whatever comes
  bool held_ = false;                        // past stale_deadline_, kept because isolated
  struct LongLived {
    std::chrono::seconds allowed{0};  // by the session that was lost; 0 = the family has no such time
    std::optional<TimePoint> until;   // begun; not begun again before End-of-RIB
    bool active = false;              // the stale routes are the last choice, and go at `until`
  };
  LongLived long_lived_[2];
};

}  // namespace calico::bgp
