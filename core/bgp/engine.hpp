#pragma once
/// The BGP speaker and route reflector: what others wire, configure and ask. Values only; the parts behind it are in
/// codec/ (bytes and messages), fsm/ (the session's state machine), rib/ (routes, decision, what each peer gets),
/// session/ (sockets) and birdc/ (the control protocol).
///
///   Loop loop("bgp");
///   Engine engine(loop, options);
///   engine.set_fib_sink(&kernel);            // before start(); all optional
///   engine.set_next_hop_resolver(&kernel);
///   loop.start();
///   auto started = loop.call([&] { return engine.start(); });
///   loop.post([&] { engine.set_peers(peers, ranges); });
///   loop.post([&] { engine.set_local(prefix, LocalRoute{}); engine.local_complete(); });
///   ...
///   co_await engine.stop(true);              // in the loop
///
/// Thread: loop, every call (snapshots too: `loop.call([&] { return engine.peers(); })`), except where said.
/// Owns: sockets, sessions, all routes. Sink and resolver are borrowed and outlive the engine's stop().
/// RFC: 4271, 4456 (reflection), 4724 (graceful restart, both parts), 4760, 5492, 6793, 7606, 8212, 9494, 9687; the
/// whole list is in README.md.
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/clock.hpp"
#include "core/base/error.hpp"
#include "core/base/ids.hpp"
#include "core/base/ip.hpp"
#include "core/bgp/policy/policy_ref.hpp"
#include "core/loop/loop.hpp"

namespace calico::bgp {

enum class NextHopMode : std::uint8_t {
  keep,  ///< the next hop received goes on unchanged; a local route's is this speaker's address
  self,  ///< this speaker's address on the session
};
enum class Policy : std::uint8_t { none, all };
enum class Origin : std::uint8_t { configured, datastore };

/// Addresses and behaviour shared by a named peer and a range. Unset policy is RFC 8212's default: all with a peer of
/// the own AS, none with a foreign one.
struct PeerOptions {
  std::optional<Asn> remote_as;     ///< unset: the local AS (iBGP)
  std::optional<Ip> local_address;  ///< source of our connections; unset: Options::source_address of that family, or
                                    ///< the kernel's choice
  std::string password;             ///< TCP MD5 (RFC 2385); empty = none; never printed
  int multihop = 0;                 ///< TTL of sent packets; 0 = iBGP 255, eBGP directly connected (1)
  bool ttl_security = false;        ///< RFC 5082: send 255, accept no less than 256 - max(multihop, 1)
  bool passive = false;             ///< never connect, only accept
  bool route_reflector_client = false;
  NextHopMode next_hop = NextHopMode::keep;
  std::optional<Policy> import_policy;
  std::optional<Policy> export_policy;
  /// What an operator decides about routes; empty: nothing. A policy of Policy::none is not asked. Compared by content,
  /// a change needs no new session.
  PolicyRef import_filter, export_filter;
  std::uint8_t allow_own_as = 0;  ///< how often our AS may stand in a received path
  std::uint32_t max_prefix = 0;   ///< routes accepted from the peer, all families; 0 = no limit; beyond: Cease 1, waits
  std::optional<std::chrono::seconds> hold_time;       ///< unset: Options::hold_time
  std::optional<std::chrono::seconds> keepalive_time;  ///< unset, and at most: a third of the hold time agreed on
  std::optional<std::chrono::seconds> restart_time;    ///< offered to this peer; unset: Options::restart_time
  std::optional<std::chrono::seconds> long_lived_stale_time;  ///< the same of Options::long_lived_stale_time
  bool ipv4 = true;                                           ///< families offered
  bool ipv6 = true;
  bool add_path_receive = false, add_path_send = false;  ///< RFC 7911, offered for all families
  bool extended_messages = true;                         ///< RFC 8654, offered
  bool extended_next_hop = false;                        ///< RFC 8950, offered: IPv4 routes with IPv6 next hops
  Origin from = Origin::configured;
  bool operator==(const PeerOptions&) const = default;
};

struct PeerConfig : PeerOptions {
  std::string name;  ///< unique; shown by birdc as the protocol's name
  Ip address;        ///< unique
  std::uint16_t port = 179;
  bool operator==(const PeerConfig&) const = default;
};

/// Dynamic neighbours: whoever connects from `prefix` becomes the passive peer `<name>_<address>` until its session and
/// its stale routes are gone.
struct RangeConfig : PeerOptions {
  std::string name;
  Prefix prefix;
  std::uint32_t max_peers = 5000;
  bool operator==(const RangeConfig&) const = default;
};

struct Endpoint {
  Ip address;
  std::uint16_t port = 179;
  bool operator==(const Endpoint&) const = default;
};

struct Options {
  Ip router_id;  ///< v4, not 0.0.0.0
  Asn local_as{64512};
  std::vector<Endpoint> listen;      ///< empty: connects only
  std::optional<Ip> source_address;  ///< default source for peers of its family
  std::optional<Ip> next_hop_v4;     ///< own address for IPv4 routes on IPv6 sessions; unset: such routes are not sent
  std::optional<Ip> next_hop_v6;     ///< the same for IPv6 routes on IPv4 sessions
  std::optional<Ip> cluster_id;      ///< v4; unset: router_id (used only when a client exists)
  std::chrono::seconds hold_time{90};
  bool graceful_restart = true;
  std::chrono::seconds restart_time{120};  ///< offered to peers; 0-4095
  std::chrono::seconds deferral{30};       ///< longest wait for End-of-RIB after a restart; cut to below restart_time
  std::chrono::seconds keep_when_isolated{
      0};                        ///< how long stale routes live on when no session is left; 0 = restart time only
  std::uint32_t max_paths = 16;  ///< next hops of equal cost a route has in the kernel (ECMP); 1 = only the best
  /// RFC 9494: offered to peers, and the most that a peer's own time counts; 0 = not at all; at most 2^24 - 1.
  std::chrono::seconds long_lived_stale_time{0};
  /// RFC 9687: a peer that takes nothing for so long is left; 0 = the greater of 8 minutes and twice the hold time.
  std::chrono::seconds send_hold_time{0};
  bool forwards = true;   ///< traffic for what we announce passes this host: its forwarding state is lost with a reboot
  std::string state_dir;  ///< where `bgp.running` marks a running speaker; empty: every start is a first start
  std::chrono::seconds drain_time{10};  ///< how long after drain(true) neighbours need to have moved their traffic
};

/// What the kernel side announces for one prefix.
struct LocalRoute {
  std::optional<Ip> next_hop;               ///< unset: this speaker's own address on each session
  std::optional<std::uint32_t> local_pref;  ///< unset: 100
  std::optional<std::uint32_t> med;
  bool operator==(const LocalRoute&) const = default;
};

/// How the kernel reaches a BGP next hop.
struct ResolvedHop {
  Ip gateway;                ///< what `via` says; the next hop itself when it is on the link
  IfIndex oif{};             ///< 0 = the kernel chooses
  std::uint32_t metric = 0;  ///< cost for the decision process (RFC 4271 9.1.2.2 e); lower wins
  bool operator==(const ResolvedHop&) const = default;
};

/// All ways to a BGP next hop: several when the kernel's route to it is multipath. Equal weights.
struct Resolution {
  std::vector<ResolvedHop> hops;  ///< at least one when it resolves
  std::uint32_t metric = 0;       ///< cost for the decision process
  Resolution() = default;
  Resolution(ResolvedHop one) : hops{one}, metric(one.metric) {}
  bool operator==(const Resolution&) const = default;
};

/// Calico's rule for live migration: a kernel route of metric m travels with LOCAL_PREF kMetricPreference - m, so that
/// the host a VM moves to (metric 512) is preferred over the one it leaves (1024). A received route that is better than
/// a normal one beats even a local route.
inline constexpr std::uint32_t kMetricPreference = 2147483647;
inline constexpr std::uint32_t kNormalPreference = kMetricPreference - 1024;
constexpr bool elevated(std::uint32_t local_pref) {
  return local_pref > kNormalPreference && local_pref < kMetricPreference;
}

/// The winner for a prefix, as the forwarding plane needs it.
struct BestRoute {
  std::vector<ResolvedHop> next_hops;  ///< all ways of all BGP next hops below; at least one
  Ip bgp_next_hop;                     ///< as received
  std::vector<Ip> more_next_hops{};    ///< those of further paths of equal cost (ECMP)
  std::string from;                    ///< the peer's name
  bool internal = true;                ///< learned by iBGP
  bool stale = false;                  ///< kept after a lost session
  std::uint32_t local_pref = 100;
  bool operator==(const BestRoute&) const = default;
};

/// Where winners go. Called in the loop, at the end of a turn: one route_changed per prefix that changed, then flush().
/// A prefix whose winner is a local route counts as "no route". Nothing is said before selection begins (a restarting
/// speaker defers it), so what an earlier life left in the kernel stays until sweep().
class FibSink {
 public:
  virtual ~FibSink() = default;
  virtual void route_changed(const Prefix& prefix, const std::optional<BestRoute>& best) = 0;
  virtual void flush() {}
  /// Initial convergence is over (every known peer sent End-of-RIB, or the deferral time ended): routes of an earlier
  /// life that were not announced by now may go. Once per life, after the flush() of what was learned. Not called while
  /// the speaker is isolated (peers known, none established) and keep_when_isolated runs.
  virtual void sweep() {}
};

/// Answers how a next hop is reached. Longest match, never through a route learned by BGP itself.
class NextHopResolver {
 public:
  virtual ~NextHopResolver() = default;
  /// Errors: not_found, or any: the next hop does not resolve, its routes cannot win; `what` is shown as the reason.
  [[nodiscard]] virtual Result<Resolution> resolve(const Ip& next_hop) = 0;
};

enum class PeerState : std::uint8_t { idle, connect, active, open_sent, open_confirm, established };
[[nodiscard]] std::string_view to_string(PeerState state);

/// The capabilities of one OPEN, as values.
struct CapabilityInfo {
  bool ipv4 = false, ipv6 = false, as4 = false, refresh = false, enhanced_refresh = false, extended_message = false;
  bool graceful_restart = false, restarting = false, notification_gr = false;
  std::chrono::seconds restart_time{0};
  bool gr_ipv4 = false, gr_ipv6 = false;                    // families listed in the capability
  bool preserved_ipv4 = false, preserved_ipv6 = false;      // their F bits
  bool add_path_rx_ipv4 = false, add_path_tx_ipv4 = false;  // RFC 7911, as the sender of the OPEN sees it
  bool add_path_rx_ipv6 = false, add_path_tx_ipv6 = false;
  bool extended_next_hop = false;  // IPv4 routes with IPv6 next hops
  bool llgr = false, llgr_ipv4 = false, llgr_ipv6 = false;
  bool llgr_preserved_ipv4 = false, llgr_preserved_ipv6 = false;
  std::chrono::seconds llgr_time_ipv4{0}, llgr_time_ipv6{0};
  std::vector<std::uint8_t> unknown;  // codes we do not know
};

/// Of routes, not messages.
struct RouteCounters {
  std::uint64_t import_updates = 0, import_rejected = 0, import_withdraws = 0, treated_as_withdraw = 0;
  std::uint64_t export_updates = 0, export_withdraws = 0;
};

struct PeerCounters {
  std::uint64_t messages_in = 0, messages_out = 0, updates_in = 0, updates_out = 0;
  std::uint64_t import_updates = 0, import_rejected = 0, import_withdraws = 0;  // routes
  std::uint64_t export_updates = 0, export_withdraws = 0;
  std::uint64_t treated_as_withdraw = 0, attributes_discarded = 0;  // RFC 7606
  std::uint64_t flaps = 0;                                          // sessions lost
  RouteCounters v6;                                                 ///< the IPv6 share of the route counters above
};

struct FamilyStatus {
  std::uint32_t imported = 0, exported = 0, preferred = 0, stale = 0;
  bool negotiated = false, eor_received = false, eor_sent = false;
  bool long_lived = false;                       ///< the stale routes are the last choice now (RFC 9494)
  std::chrono::milliseconds long_lived_left{0};  ///< until they go
};

struct PeerStatus {
  PeerConfig config;  ///< with the password blanked
  bool dynamic = false;
  bool imports = false, exports = false;  ///< the policy in force
  bool disabled = false;                  ///< by the operator (Engine::set_enabled)
  PeerState state = PeerState::idle;
  bool passive_wait = false;  ///< state active, but only listening
  WallTime since;             ///< of the last change of `state`
  std::optional<Ip> neighbor_id, local_address;
  std::uint16_t remote_port = 0;
  CapabilityInfo local, neighbor;  ///< meaningful from open_confirm on
  std::chrono::seconds hold_time{0}, keepalive_time{0};
  std::chrono::milliseconds hold_left{0}, keepalive_left{0};
  FamilyStatus v4, v6;
  std::uint64_t backlog_bytes = 0;  ///< encoded and not yet taken by the peer's connection
  std::size_t backlog_routes = 0;   ///< changed and not yet encoded for it
  PeerCounters counters;
  std::string last_error;                ///< one line, empty if none
  bool gr_active = false;                ///< we keep this peer's stale routes
  std::chrono::milliseconds gr_left{0};  ///< until they go; 0 = kept because isolated (see EngineStatus)
};

struct RouteInfo {
  Prefix prefix;
  std::string peer;  ///< empty = local route
  Ip from;           ///< its address; 0.0.0.0 = local
  bool best = false, stale = false, internal = true;
  std::string unusable;  ///< why it cannot win ("next hop 10.0.0.9 is unreachable"), empty if it can
  Ip next_hop;
  std::optional<ResolvedHop> resolved;
  WallTime since;
  std::uint8_t origin = 0;
  std::uint32_t local_pref = 100;
  std::string as_path;  ///< "65000 64513", empty inside the own AS
  std::optional<Asn> origin_as;
  std::vector<std::pair<std::string, std::string>> attributes;  ///< BIRD's names ("BGP.origin"); only if asked for
};

struct RouteQuery {
  std::optional<Prefix> exact;
  std::optional<Ip> covering;       ///< the longest match for an address
  std::optional<std::string> peer;  ///< "" = local
  std::optional<Family> family;
  std::optional<std::string> exported_to;  ///< only winners that this peer is (or, if not_exported, is not) sent
  bool not_exported = false;
  bool best_only = false;
  bool with_attributes = false;
  std::size_t limit = SIZE_MAX;
};

/// A part of a long list, in no order of meaning.
struct RoutePage {
  std::vector<RouteInfo> routes;      ///< paths of one prefix are next to each other, the winner first
  std::optional<std::uint32_t> next;  ///< where to go on; nullopt: this was the last
};

struct EngineStatus {
  Ip router_id;
  Asn local_as;
  WallTime started, last_reconfiguration;
  bool restarting = false;  ///< selection is deferred
  std::chrono::milliseconds deferral_left{0};
  bool converged = false;                      ///< sweep() was due
  bool draining = false;                       ///< Engine::drain
  std::chrono::milliseconds drain_left{0};     ///< of Options::drain_time
  bool isolated = false;                       ///< peers known, none established
  std::chrono::milliseconds isolated_left{0};  ///< until stale routes go
  std::size_t routes_v4 = 0, routes_v6 = 0, networks_v4 = 0, networks_v6 = 0, attribute_sets = 0;
};

/// Something a person wants to read; the module that owns the engine logs it.
struct PeerEvent {
  enum class Kind : std::uint8_t {
    established,
    down,
    refused,
    stale_expired,
    max_prefix,
    update_error,
    administrative,
  } kind{};
  std::string peer;  ///< name, or the address of who was refused
  std::string text;  ///< one line, printable
};

class EngineCore;

class Engine {
 public:
  Engine(Loop& loop, Options options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Borrowed; nullptr = none (every next hop resolves to itself, winners go nowhere). Before start().
  void set_fib_sink(FibSink* sink);
  void set_next_hop_resolver(NextHopResolver* resolver);
  void set_event_sink(std::function<void(const PeerEvent&)> sink);

  /// Opens the listeners, reads and writes the restart marker. Sessions begin with set_peers().
  /// Errors: invalid (router id, AS), exists (address in use), no_permission; nothing runs then.
  [[nodiscard]] Status start();

  /// The whole list. Compared with what runs: equal peers are not touched, changed ones restart their session (or only
  /// re-evaluate routes where that is enough), a missing one is gone by intent: Cease 3, its routes go at once.
  /// Errors: invalid (two peers with one name or address; a bad field); the running peers stay as they are.
  [[nodiscard]] Status set_peers(std::vector<PeerConfig> peers, std::vector<RangeConfig> ranges);

  // --- the operator's hand; peers by name (PeerConfig::name). Errors: not_found.
  /// Disabled: Cease 2 (with `communication`, RFC 9003, at most 255 bytes), its routes go, no session until enabled
  /// again, whatever is configured meanwhile. Forgotten with the peer or the process. Nothing to do is well.
  [[nodiscard]] Status set_enabled(std::string_view name, bool enabled, std::string_view communication = {});
  /// Cease 4 and a new session; the peer's routes stay, stale, where it can restart gracefully. Errors: also conflict
  /// (disabled).
  [[nodiscard]] Status restart(std::string_view name);
  enum class Refresh : std::uint8_t { in = 1, out = 2, both = 3 };
  /// in: asks the peer for its routes again (RFC 2918). out: sends it all of ours again. Errors: also unavailable (no
  /// session; the peer cannot refresh, nothing was done then).
  [[nodiscard]] Status refresh(std::string_view name, Refresh what);
  /// Planned maintenance (RFC 8326): all announcements carry GRACEFUL_SHUTDOWN and, to iBGP, LOCAL_PREF 0, so that
  /// neighbours move to other ways before a stop follows (status().drain_left is 0 then). Off: as before.
  void drain(bool on);

  /// A route of this host, or its end.
  void set_local(const Prefix& prefix, const std::optional<LocalRoute>& route);
  /// All local routes known at start are in: End-of-RIB may go out. Until then peers get updates, but no End-of-RIB.
  /// A speaker without local routes calls it at once.
  void local_complete();

  /// The kernel's ways changed: all next hops (or this one) are resolved again.
  void next_hops_changed();
  void next_hop_changed(const Ip& next_hop);

  [[nodiscard]] std::vector<PeerStatus> peers() const;
  [[nodiscard]] std::vector<RouteInfo> routes(const RouteQuery& query) const;
  /// The same without sorting, at most `prefixes` prefixes looked at a call; begins at 0. Routes that come or go
  /// between two calls may be missed or not, others are seen once. `limit` is not used.
  [[nodiscard]] RoutePage route_page(const RouteQuery& query, std::uint32_t from, std::size_t prefixes) const;
  [[nodiscard]] EngineStatus status() const;
  [[nodiscard]] const Options& options() const;

  /// Closes the sessions and listeners. planned: without NOTIFICATION, so that peers keep our routes for the restart
  /// time and the next start counts as a restart. Not planned (the role goes for good): Cease 2, the marker is removed.
  awaitable<void> stop(bool planned);

 private:
  std::unique_ptr<EngineCore> core_;
};

}  // namespace calico::bgp
