#pragma once
/// The inside of Engine: what the peers of one speaker share. Private to core/bgp.
/// Thread: loop. Owns: listeners, peers, routes.
///
/// One turn: sockets are read and change the RIB (rib.dirty); a flush that was posted meanwhile decides the dirty
/// prefixes, tells the FIB sink and lets every peer send what is queued. Nothing waits for a timer; a busy loop batches
/// by itself.
/// Parts: engine.cpp (start and stop, the turn, restart and isolation), engine_peers.cpp (listeners, who the peers are,
/// the operator's hand), engine_show.cpp (snapshots).
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <map>
#include <random>
#include <unordered_map>

#include "core/bgp/codec/update.hpp"
#include "core/bgp/engine.hpp"
#include "core/bgp/restart_marker.hpp"
#include "core/bgp/rib/rib.hpp"
#include "core/bgp/rib/update_group.hpp"

namespace calico::bgp {

class Peer;

class EngineCore {
 public:
  EngineCore(Loop& loop, Options options);
  ~EngineCore();

  // --- Engine's calls
  Status start();
  Status set_peers(std::vector<PeerConfig> peers, std::vector<RangeConfig> ranges);
  void set_local(const Prefix& prefix, const std::optional<LocalRoute>& route);
  void local_complete();
  void next_hops_changed(const Ip* only);
  std::vector<PeerStatus> peers() const;
  std::vector<RouteInfo> routes(const RouteQuery& query) const;
  RoutePage route_page(const RouteQuery& query, std::uint32_t from, std::size_t prefixes) const;
  EngineStatus status() const;
  Status set_enabled(std::string_view name, bool enabled, std::string_view communication);
  Status restart(std::string_view name);
  Status refresh(std::string_view name, Engine::Refresh what);
  void drain(bool on);
  void stop(bool planned);

  // --- what peers use
  asio::any_io_executor executor() { return loop_.executor(); }
  const Options& options() const { return options_; }
  const LocalSpeaker& speaker() const { return speaker_; }
  AttrStore& attrs() { return attrs_; }
  Rib& rib() { return rib_; }
  Update& update_space() { return update_; }
  TimePoint now() const { return std::chrono::steady_clock::now(); }
  std::uint32_t now_ms() const;
  double random() { return std::uniform_real_distribution<>()(random_); }
  bool stopping() const { return stopping_; }
  bool deferring() const { return deferring_; }
  Capabilities capabilities(const PeerOptions& peer) const;
  /// What holds for this peer, within bounds.
  std::chrono::seconds long_lived_stale_time(const PeerOptions& peer) const;
  /// The update group of peers that are treated so.
  UpdateGroup& group_for(const Target& target);
  /// A group nobody is in any more goes.
  void drop_if_empty(const UpdateGroup& group);
  bool may_end_rib() const { return local_complete_ && !deferring_ && !rib_.dirty(); }
  void schedule_flush();
  /// A session came up or went down, or a peer's End-of-RIB arrived.
  void peer_changed();
  /// No session is left from which routes of this AS could come, since when; nullopt: there is one.
  std::optional<TimePoint> isolated_since(Asn as) const;
  void report(PeerEvent::Kind kind, const std::string& peer, std::string text);
  void add_rib_peer(RibPeerId id, Peer* peer);
  const Peer* peer_of(RibPeerId id) const { return id < by_rib_id_.size() ? by_rib_id_[id] : nullptr; }
  /// Destroys a dynamic peer once its own work is done.
  void retire(const Peer& peer);

  void set_fib_sink(FibSink* sink) { sink_ = sink; }
  void set_resolver(NextHopResolver* r) { resolver_ = r; }
  void set_event_sink(std::function<void(const PeerEvent&)> f) { events_ = std::move(f); }

 private:
  struct Listener {
    asio::ip::tcp::acceptor acceptor;
    Family family;
    asio::steady_timer pause;  // out of descriptors
  };
  Status open_listener(const Endpoint& at);
  void wait_accept(std::size_t index);
  void pause_accept(std::size_t index, const boost::system::error_code& why);
  void accepted(asio::ip::tcp::socket socket);
  Status set_listener_password(const Prefix& peer, const std::string& password);

  void flush();
  void decide(PrefixId id);
  void tell_fib(PrefixId id, PathId best);
  void arm_deferral();
  void check_convergence();
  void end_deferral();
  void heartbeat();
  RouteInfo route_info(PrefixId id, PathId path, bool with_attributes) const;
  std::optional<RibPeerId> wanted_peer(const RouteQuery& query) const;  // kNone: any; nullopt: no such peer
  void add_routes(PrefixId id, RibPeerId wanted, const RouteQuery& query, std::vector<RouteInfo>& out) const;
  Peer* find_peer(std::string_view name) const;

  Loop& loop_;
  Options options_;
  LocalSpeaker speaker_;
  AttrStore attrs_;
  Rib rib_;
  Update update_;
  std::mt19937_64 random_;
  RestartMarker marker_;
  FibSink* sink_ = nullptr;
  NextHopResolver* resolver_ = nullptr;
  std::function<void(const PeerEvent&)> events_;

  std::shared_ptr<int> alive_;  // posted work looks whether we are still there
  std::vector<Listener> listeners_;
  std::map<Ip, std::shared_ptr<Peer>> peers_;
  std::vector<std::shared_ptr<Peer>> graveyard_;  // until their own calls have returned
  std::vector<RangeConfig> ranges_;
  bool peers_set_ = false;

  TimePoint start_time_;
  WallTime start_wall_, reconfigured_;
  bool accept_paused_ = false;
  bool started_ = false, stopping_ = false, flush_posted_ = false, local_complete_ = false;
  bool restarting_ = false;  // the R bit
  bool deferring_ = false;   // no selection yet
  bool preserved_ = false;   // the F bit
  bool converged_ = false, sweep_due_ = false, deferral_over_ = false;
  asio::steady_timer deferral_timer_, heartbeat_timer_;
  std::optional<TimePoint> deferral_deadline_, drained_at_;
  std::unordered_map<std::uint32_t, TimePoint> isolated_;

  // What the sink was told, by prefix id; holds a reference to the set and a pin on the prefix.
  struct Told {
    AttrId attr = kNoAttr;
    RibPeerId peer = kNone;
    std::uint32_t hop_version = 0;
    std::uint32_t others = 0;  // hash of the further next hops and their versions
    bool stale = false;
    bool operator==(const Told&) const = default;
  };
  Blocks<Told> told_;
  std::vector<PathId> equal_;  // work space

  std::vector<std::unique_ptr<UpdateGroup>> groups_;
  std::vector<Peer*> by_rib_id_;
};

}  // namespace calico::bgp
