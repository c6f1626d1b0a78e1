#pragma once
/// What changes in the kernel, told on a loop: links, addresses, routes, neighbours, rules.
///
///   MonitorHandlers h;
///   h.on_link = [&](const Link& l, bool gone) { ... };
///   h.on_resync = [&](std::string_view why) { read everything again with Rtnl };
///   auto m = Monitor::open(loop.executor(), Monitor::kLinks | Monitor::kRoutes4, h);
///   m->start();
///   // now dump: what changed in between is told as events, which may repeat what the dump showed
///
/// Lost events are normal: when the kernel's queue overflowed (ENOBUFS), what is still queued is read and dropped, then
/// on_resync() is called once. A handler therefore works on current state, never on a count of events.
/// Thread: open(): any (its namespace is the one watched); handlers: the executor's loop; start, stop, destroy: loop.
/// A turn reads at most `EventReader::kMessagesPerTurn` messages, then lets others run.
/// Owns: its socket. Handlers may destroy the Monitor.
#include <boost/asio/any_io_executor.hpp>
#include <functional>
#include <string_view>

#include "core/base/error.hpp"
#include "core/netlink/event_reader.hpp"
#include "core/netlink/types.hpp"

namespace calico::netlink {

struct MonitorHandlers {
  std::function<void(const Link&, bool gone)> on_link;
  std::function<void(const Address&, bool gone)> on_address;
  std::function<void(const Route&, bool gone)> on_route;
  std::function<void(const Neighbour&, bool gone)> on_neighbour;
  std::function<void(const Rule&, bool gone)> on_rule;
  std::function<void(const NexthopObject&, bool gone)> on_nexthop;
  std::function<void(const Qdisc&, bool gone)> on_qdisc;
  /// Events were lost, or the socket failed: read everything again. `why` is for the log.
  std::function<void(std::string_view why)> on_resync;
  /// Changes made through this netlink port (Rtnl::port()) are not told: their maker knows. The kernel
  /// drops them before they are queued (a socket filter), so that a writer of 100,000 routes neither reads its own
  /// echo nor loses other news to it. 0 = all are told. What the kernel does by itself is always told.
  std::uint32_t ignored_port = 0;
};

class Monitor {
 public:
  enum Groups : unsigned {
    kLinks = 1,
    kAddresses = 2,
    kRoutes4 = 4,
    kRoutes6 = 8,
    kRoutes = kRoutes4 | kRoutes6,
    kNeighbours = 16,
    kRules = 32,
    kNexthops = 64,
    kQdiscs = 128,
  };
  [[nodiscard]] static Result<Monitor> open(boost::asio::any_io_executor executor, unsigned groups,
                                            MonitorHandlers handlers, std::size_t receive_buffer = 4U << 20U);

  /// Begins to deliver. Events since open() are not lost.
  void start() { reader_.start(); }
  /// No handler runs after this.
  void stop() { reader_.stop(); }

 private:
  struct State;
  explicit Monitor(EventReader r) : reader_(std::move(r)) {}
  EventReader reader_;
};

}  // namespace calico::netlink
