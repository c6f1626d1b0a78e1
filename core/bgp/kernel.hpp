#pragma once
/// The kernel's side of the BGP engine, all three parts over one copy of the routing table:
///  * import: routes of the configured interfaces and protocols become local routes of the engine, by events;
///  * export (FibSink): winners become routes of protocol 89, and nothing else is ever touched;
///  * next hops (NextHopResolver): longest match in the main table, never through a route of protocol 89.
///
///   auto kernel = KernelBgp::open(loop, options);       // dumps; namespace of the calling thread
///   engine.set_fib_sink(kernel->get());
///   engine.set_next_hop_resolver(kernel->get());
///   engine.start();                                      // in the loop
///   (*kernel)->start(hooks_of(engine));                  // in the loop: local routes, then local_complete()
///   ...
///   (*kernel)->stop();                                   // before engine.stop(): the kernel keeps what it has
///
/// A restart changes nothing that is still right: what an earlier life left is compared, routes that are equal are not
/// written, routes the engine did not announce go only after its sweep(). A route of another protocol that holds our
/// (destination, metric) is left alone and reported. A route of ours that somebody removes is written again.
///
/// Thread: the loop, every call except open() (any). Work is done in slices of kSlice routes a turn. A full read after
/// lost events, and every `resync`, happens in a thread of its own. Owns: its sockets, the copy of the table. Errors:
/// open(): those of the socket. Later ones are kept in status(), told once to hooks.problem, and tried again after
/// kRetry and when the kernel's routes change. RFC: 4271 9.1.2.1 (resolvable next hops).
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/bgp/engine.hpp"
#include "core/netlink/types.hpp"

namespace calico::bgp {

struct KernelOptions {
  std::vector<std::string> import_interfaces{"tap*", "cali*"};
  std::vector<std::uint8_t> import_protocols{netlink::kProtoFelix};
  bool export_routes = true;  ///< a pure reflector installs nothing
  std::uint8_t protocol = netlink::kProtoBgp;
  /// Behind the agent's own routes (metric 0 to 1024): a VM on this host is never routed away.
  std::uint32_t metric = 2048;
  /// Nexthop objects, where the kernel has them; false: next hops in each route.
  bool nexthop_objects = true;
  /// Replacing the object of this many routes is done with net.ipv4.nexthop_compat_mode off for that moment, or the
  /// kernel would tell every route to every listener first: 7 ms for 10,000. 0 = never.
  std::size_t quiet_from = 1000;
  /// Calico's rule for live migration: a kernel route of metric 1 to 65535 is announced with LOCAL_PREF 2147483647 -
  /// metric, a received route better than a normal one (1024) gets the metric its LOCAL_PREF says.
  bool preference_from_metric = true;
  std::chrono::seconds resync{300};  ///< full read without cause; 0 = never
  bool operator==(const KernelOptions&) const = default;
};

/// What the kernel side tells the engine.
struct KernelHooks {
  std::function<void(const Prefix&, const std::optional<LocalRoute>&)> set_local;
  std::function<void()> local_complete;
  std::function<void()> next_hops_changed;
  std::function<void(const Ip&)> next_hop_changed;
  /// For the log, one line: a route that cannot be written, events lost. Once per route and cause.
  std::function<void(std::string_view)> problem;
};
[[nodiscard]] KernelHooks hooks_of(Engine& engine, std::function<void(std::string_view)> problem = {});

struct KernelStatus {
  std::size_t imported = 0;   ///< local routes announced
  std::size_t exported = 0;   ///< routes of ours in the kernel, as wanted
  std::size_t pending = 0;    ///< to be written or removed, failures included
  std::size_t left_over = 0;  ///< of an earlier life, waiting for sweep()
  std::size_t failed = 0;
  std::vector<std::string> faults;  ///< at most 10 of the failures
  std::size_t kernel_routes = 0;    ///< in our copy of the table
  std::uint64_t resyncs = 0;
  bool swept = false;
  bool nexthop_objects = false;  ///< in use
  std::size_t objects = 0;       ///< wanted, members of groups included
};

struct KernelState;

class KernelBgp final : public FibSink, public NextHopResolver {
 public:
  static constexpr std::size_t kSlice = 256;        // routes written a turn
  static constexpr std::size_t kPrefixes = 512;     // changed destinations looked at a turn
  static constexpr std::size_t kMergeSlice = 4096;  // routes of a full read compared a turn
  static constexpr std::chrono::seconds kRetry{5};

  [[nodiscard]] static Result<std::unique_ptr<KernelBgp>> open(Loop& loop, KernelOptions options);
  ~KernelBgp() override;
  KernelBgp(const KernelBgp&) = delete;
  KernelBgp& operator=(const KernelBgp&) = delete;

  void start(KernelHooks hooks);
  /// Nothing is written or told after this. Idempotent.
  void stop();
  /// Other interfaces or protocols to import: announcements follow. What is exported and how stays as it was.
  void reconfigure(const KernelOptions& options);
  [[nodiscard]] KernelStatus status() const;

  // FibSink
  void route_changed(const Prefix& prefix, const std::optional<BestRoute>& best) override;
  void flush() override;
  void sweep() override;
  // NextHopResolver
  [[nodiscard]] Result<Resolution> resolve(const Ip& next_hop) override;

 private:
  explicit KernelBgp(std::shared_ptr<KernelState> s);
  std::shared_ptr<KernelState> state_;
};

/// Removes every route of this protocol and our nexthop objects from the kernel (for `cleanup`; no speaker may run).
/// How many routes.
[[nodiscard]] Result<std::size_t> remove_kernel_routes(std::uint8_t protocol = netlink::kProtoBgp);

}  // namespace calico::bgp
