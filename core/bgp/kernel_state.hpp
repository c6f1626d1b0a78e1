#pragma once
/// What KernelBgp is made of; included by kernel.cpp (events, import, next hops, the full read) and kernel_export.cpp
/// (routes and nexthop objects into the kernel) only. Thread: the loop; the full read has a thread of its own.
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <thread>
#include <unordered_map>
#include <unordered_set>

#include "core/bgp/kernel.hpp"
#include "core/bgp/kernel_fib.hpp"
#include "core/bgp/kernel_nexthops.hpp"
#include "core/bgp/kernel_routes.hpp"
#include "core/netlink/monitor.hpp"
#include "core/netlink/rtnl.hpp"

namespace calico::bgp {

/// All that is read at once. Routes of ours apart from the others, both as the copy keeps them.
struct KernelSnapshot {
  std::vector<netlink::Link> links;
  std::vector<netlink::Address> addresses;
  std::vector<netlink::Route> others, ours;
  std::optional<std::vector<netlink::NexthopObject>> objects;  // unset: a kernel without
};
[[nodiscard]] Result<KernelSnapshot> read_kernel(netlink::Rtnl& nl, std::uint8_t protocol);

/// net.ipv4.nexthop_compat_mode of the namespace it was opened in: 1 (the default) = a replaced nexthop object is also
/// told as a change of each of its routes.
class CompatMode {
 public:
  CompatMode() = default;
  CompatMode(const CompatMode&) = delete;
  CompatMode& operator=(const CompatMode&) = delete;
  ~CompatMode();
  void open();
  /// Off until restore(), when it is on and may be written.
  void quiet();
  void restore();

 private:
  int fd_ = -1;
  bool changed_ = false;
};

struct KernelState : std::enable_shared_from_this<KernelState> {
  KernelState(Loop& l, KernelOptions o, netlink::Rtnl requests, netlink::Rtnl reads)
      : loop(l),
        options(std::move(o)),
        nl(std::move(requests)),
        reader(std::move(reads)),
        objects(ways, options.protocol),
        routes(ways, options.metric),
        retry(l.io()),
        resync_due(l.io()) {}
  ~KernelState() {
    if (worker.joinable()) worker.join();
  }

  // kernel.cpp: events change the copy and note what to look at; turn() looks.
  void on_route(const netlink::Route& told, bool gone);
  void on_link(const netlink::Link& l, bool gone);
  void on_address(const netlink::Address& a, bool gone);
  void on_nexthop(const netlink::NexthopObject& o, bool gone);
  void device_down(IfIndex dev);
  void objects_down(IfIndex dev);
  void objects_gone(const std::vector<std::uint32_t>& ids);
  void note(const Prefix& dst);
  void schedule();
  void turn();

  std::optional<LocalRoute> local_of(const Prefix& dst) const;
  void import(const Prefix& dst);
  Result<Resolution> compute(const Ip& ip) const;
  Result<Resolution> resolve(const Ip& ip);
  void check_hops(const std::vector<Prefix>& look);

  void resync();
  void apply(Result<KernelSnapshot> s);
  void load(KernelSnapshot s);
  void begin_merge(KernelSnapshot& s);
  bool merge(std::size_t budget);
  void merge_turn();
  void read_later();
  void arm_resync();
  void tell(std::string_view what) const {
    if (hooks.problem) hooks.problem(what);
  }

  // kernel_export.cpp
  void route_changed(const Prefix& prefix, const std::optional<BestRoute>& best);
  std::vector<netlink::NextHop> hops_of(const std::vector<ResolvedHop>& resolved) const;
  std::vector<netlink::NextHop> hops_now(const std::vector<Ip>& bgp_next_hops) const;
  bool named(const BestRoute& best, const std::vector<netlink::NextHop>& hops, std::vector<Ip>& names) const;
  WayId way_of(const BestRoute& best);
  bool needs_onlink(const Ip& gateway, IfIndex dev) const;
  bool is_up(IfIndex dev) const;
  bool has_carrier(IfIndex dev) const;
  void write();
  void write_objects();
  void write_objects(bool groups);
  void remove_objects();
  void touched(const netlink::RouteKey& key) {
    if (reading) touched_routes.insert(key);
  }
  void failure(const netlink::RouteKey& key, std::string why);
  void refused(RouteTable::Id id, const netlink::OpError& e);
  void try_again();
  void retry_later();

  Loop& loop;
  KernelOptions options;
  KernelHooks hooks;
  netlink::Rtnl nl;      // the loop's
  netlink::Rtnl reader;  // the worker's
  std::optional<netlink::Monitor> monitor;

  KernelFib fib;
  struct KnownLink {
    std::string name;
    bool up = false;       // by the administrator
    bool carrier = false;  // a nexthop object may be made
    bool running = false;  // the kernel keeps nexthop objects
    bool loopback = false;
  };
  std::unordered_map<IfIndex, KnownLink> links;
  std::unordered_map<Ip, std::unordered_set<IfIndex>> own;
  std::unordered_map<Prefix, LocalRoute> imported;
  std::unordered_map<Ip, std::optional<Resolution>> hops;  // what the engine was told
  bool check_all = false, check_link_local = false;

  Ways ways;
  NextHopObjects objects;
  RouteTable routes;
  bool has_objects = false;  // the kernel has nexthop objects
  bool use_objects = false;  // and we make some
  CompatMode compat;
  struct {
    Ip hop;
    std::vector<ResolvedHop> hops;
    WayId way = kNoWay;
  } last;  // the way of the route before: thousands in a row have the same
  std::unordered_map<netlink::RouteKey, std::string> failed, told_of;
  std::unordered_map<std::uint32_t, std::string> failed_objects;
  std::unordered_set<netlink::RouteKey> suspects;  // refused once; told when refused again after a full read
  std::unordered_set<std::uint32_t> suspect_objects;
  bool swept = false;
  netlink::Batch batch;
  std::vector<RouteTable::Id> written_now, removed_now;

  std::unordered_set<Prefix> changed;
  bool scheduled = false, started = false, stopped = false;
  asio::steady_timer retry, resync_due;
  bool retry_armed = false;

  std::thread worker;
  bool reading = false, read_again = false;
  std::unordered_set<netlink::RouteKey> touched_routes;
  std::unordered_set<IfIndex> touched_links;
  std::unordered_set<Ip> touched_addresses;
  std::unordered_set<std::uint32_t> touched_objects;
  struct {
    std::vector<netlink::Route> ours;
    std::size_t next = 0;
    RouteTable::Id sweep = 0;
  } merging;
  std::uint64_t resyncs = 0;
};

}  // namespace calico::bgp
