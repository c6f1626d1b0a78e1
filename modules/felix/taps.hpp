#pragma once
/// What the endpoints need outside nf_tables: the class (device group) of the interface, settings, permanent
/// neighbours, proxy entries for the IPv6 gateway, routes, the token bucket that limits what goes to it. Follows links
/// as they come, go and change; writes only differences.
///
///   Taps taps(rtnl);
///   taps.configure(settings);
///   taps.load();                            // links, addresses, routes, neighbours of this namespace
///   taps.set_plan(plan) / taps.drop_plan(key);
///   taps.withdraw();                        // before the firewall closes: routes that must go
///   taps.program();                         // after it opened: class, settings, neighbours, routes
///
/// A route is wanted while its interface is up and has carrier. Two endpoints with one address: the interface that
/// came last has the route, the other gets it when that one goes. Routes are ours when they carry our protocol and lead
/// to an interface with our prefix; neighbours and proxy entries when they are on an interface that has a plan or still
/// carries a class of ours; qdiscs when they are a tbf with a handle of ours (0xc000 to 0xcfff).
///
/// An address that leaves an interface (endpoint gone, address removed, another interface has it now) is told once by
/// take_leaving(), and its new route waits for release(): its connections have to be forgotten first, or those of the
/// former owner would be the next one's. An interface that only goes down keeps its addresses.
///
///   taps.cpp          plans, and what their interfaces should have; who holds an address; how they stand
///   taps_events.cpp   the kernel's news
///   taps_write.cpp    differences, to the kernel
///
/// Thread: loop. Owns: nothing; `nl` outlives it. Errors: of the conversation with the kernel only; what the kernel
/// refuses is in errors of the endpoint, kept pending and tried again.
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/model/compiler.hpp"
#include "core/model/ruleset.hpp"
#include "core/netlink/rtnl.hpp"
#include "core/reconcile/delta_tracker.hpp"
#include "modules/felix/buckets.hpp"
#include "modules/felix/migration.hpp"
#include "modules/felix/settings.hpp"

namespace calico::felix {

struct NeighbourKey {
  IfIndex dev;
  Ip ip;
  bool proxy = false;
  auto operator<=>(const NeighbourKey&) const = default;
};

}  // namespace calico::felix

template <>
struct std::hash<calico::felix::NeighbourKey> {
  std::size_t operator()(const calico::felix::NeighbourKey& k) const noexcept {
    return std::hash<calico::Ip>{}(k.ip) * 1000003U ^ (k.dev.value * 2U + static_cast<unsigned>(k.proxy));
  }
};

namespace calico::felix {

/// For a proxy entry only its being there counts, for a neighbour the MAC and that it is permanent.
struct SameNeighbour {
  bool operator()(const netlink::Neighbour& a, const netlink::Neighbour& b) const {
    return a.proxy == b.proxy && (a.proxy || (a.mac == b.mac && a.permanent() == b.permanent()));
  }
};

/// How an endpoint's interface stands.
struct TapState {
  bool present = false;
  bool running = false;     ///< up, with carrier
  bool programmed = false;  ///< everything that can be there is there
  std::uint32_t group = 0;  ///< as the kernel has it
  std::string error;        ///< the last thing the kernel refused
  std::string note;         ///< what is not enforced, though the endpoint is up
};

class Taps {
 public:
  explicit Taps(netlink::Rtnl& nl) : nl_(nl) {}

  void configure(const Settings& settings);
  /// Everything as the kernel has it. Nothing is written.
  [[nodiscard]] Status load();
  void set_plan(const model::EndpointPlan& plan);
  void drop_plan(const std::string& key);
  /// How the endpoint's routes are programmed; normal unless said, also before its plan is there.
  void set_route_mode(const std::string& key, RouteMode mode);
  /// The endpoint's interface, when it is there.
  std::optional<IfIndex> interface_of(const std::string& key) const;
  /// After load(): the kernel has routes of elevated metric for the endpoint's addresses on its interface.
  bool has_elevated_routes(const std::string& key) const;

  void on_link(const netlink::Link& link, bool gone);
  void on_address(const netlink::Address& address, bool gone);
  void on_route(const netlink::Route& route, bool gone);
  void on_neighbour(const netlink::Neighbour& n, bool gone);
  void on_qdisc(const netlink::Qdisc& q, bool gone);

  [[nodiscard]] Status withdraw();
  [[nodiscard]] Status program();

  TapState state(const std::string& key) const;
  /// Endpoints whose state may have changed since the last call.
  std::set<std::string> take_changed() { return std::exchange(changed_, {}); }
  bool changed() const { return !changed_.empty(); }
  /// Global addresses of the host beyond the endpoints' interfaces; true in the first call after they changed.
  bool take_host_addresses(std::vector<Ip>& out);
  /// Addresses that left since the last call; call after withdraw().
  std::set<Ip> take_leaving() { return std::exchange(leaving_, {}); }
  /// Their connections are forgotten: routes to them may be made again. True when one waits.
  bool release(const std::set<Ip>& addresses);
  /// The host's own interfaces with their addresses; true in the first call after one, or how it stands, changed.
  bool take_host_interfaces(std::vector<model::HostInterface>& out);
  bool host_interfaces_changed() const { return interfaces_changed_; }
  /// An interface of any kind.
  TapState link_state(const std::string& interface_name) const;
  /// Something waits for program() or withdraw().
  bool pending() const;
  std::uint64_t writes() const { return writes_; }

 private:
  struct Tap {  // by interface name
    std::string key;
    model::EndpointPlan plan;
    IfIndex index;
    bool settings_due = true;
    std::vector<netlink::RouteKey> routes;  // it is a candidate for
    std::vector<NeighbourKey> neighbours;
    std::string error;
    std::string settings_error;
    std::string qdisc_error;
  };

  bool ours(const std::string& interface_name) const;
  bool our_device(IfIndex dev) const;
  const netlink::Link* link_of(const Tap& tap) const;
  RouteMode mode_of(const Tap& tap) const;
  netlink::Route route_to(const Prefix& net, IfIndex dev, bool elevated) const;
  /// The same destination over the same device is about to be there with the other metric.
  bool is_being_replaced(const netlink::RouteKey& key, const netlink::Route& have) const;
  void refresh(const std::string& interface_name);
  void retract(Tap& tap);
  void want_route(const netlink::RouteKey& key, IfIndex dev, std::optional<netlink::Route> route);
  void forget_device(IfIndex dev);
  [[nodiscard]] Status write_settings(Tap& tap, const netlink::Link& link);
  bool claims(const std::string& interface_name, const Ip& ip) const;
  void leave(const Ip& ip);
  void leave_those_of(const Tap& tap, const model::EndpointPlan& but);
  void note_error(IfIndex dev, const std::string& what);
  void note_bucket(IfIndex dev, const std::string& what);

  netlink::Rtnl& nl_;
  Settings settings_;
  std::map<std::string, Tap> taps_;
  std::unordered_map<std::string, std::string> interface_of_;  // endpoint key → interface
  std::unordered_map<std::string, RouteMode> modes_;           // endpoint key → mode, when not normal
  std::unordered_map<IfIndex, netlink::Link> links_;
  std::unordered_map<std::string, IfIndex> index_of_;
  std::map<std::pair<std::uint32_t, Prefix>, bool> addresses_;  // (link, prefix) of the host
  bool addresses_changed_ = true;
  bool interfaces_changed_ = true;

  DeltaTracker<netlink::RouteKey, netlink::Route> routes_;
  std::map<netlink::RouteKey, std::map<std::uint32_t, netlink::Route>> candidates_;  // by device, last wins
  DeltaTracker<NeighbourKey, netlink::Neighbour, std::hash<NeighbourKey>, SameNeighbour> neighbours_;
  DeltaTracker<IfIndex, netlink::Qdisc, std::hash<IfIndex>, SameQdisc> qdiscs_;
  std::unordered_map<Ip, std::string> holder_;  // address → interface its route last led to
  std::set<Ip> leaving_;                        // not told yet
  std::set<Ip> held_;                           // told or not: no route until release()
  std::set<std::string> due_;                   // interfaces whose class or settings have to be looked at
  std::set<std::uint32_t> stale_groups_;        // devices that carry a class of ours without having a plan
  std::set<std::string> changed_;
  std::uint64_t writes_ = 0;
};

}  // namespace calico::felix
