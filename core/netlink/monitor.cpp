#include "core/netlink/monitor.hpp"

#include <linux/rtnetlink.h>

#include <optional>

#include "core/netlink/rtnl.hpp"
#include "core/netlink/socket.hpp"

namespace calico::netlink {
namespace asio = boost::asio;

struct Monitor::State {
  explicit State(MonitorHandlers h) : handlers(std::move(h)) {}

  template <class T>
  static void call(const std::function<void(const T&, bool)>& f, const std::optional<T>& v, bool gone) {
    if (f && v) f(*v, gone);
  }

  void deliver(const Message& m) {
    if (handlers.ignored_port != 0 && m.pid == handlers.ignored_port) return;
    switch (m.type) {
      case RTM_NEWLINK:
      case RTM_DELLINK:
        return call(handlers.on_link, decode_link(m), m.type == RTM_DELLINK);
      case RTM_NEWADDR:
      case RTM_DELADDR:
        return call(handlers.on_address, decode_address(m), m.type == RTM_DELADDR);
      case RTM_NEWROUTE:
      case RTM_DELROUTE:
        return call(handlers.on_route, decode_route(m), m.type == RTM_DELROUTE);
      case RTM_NEWNEIGH:
      case RTM_DELNEIGH:
        return call(handlers.on_neighbour, decode_neighbour(m), m.type == RTM_DELNEIGH);
      case RTM_NEWRULE:
      case RTM_DELRULE:
        return call(handlers.on_rule, decode_rule(m), m.type == RTM_DELRULE);
      case RTM_NEWNEXTHOP:
      case RTM_DELNEXTHOP:
        return call(handlers.on_nexthop, decode_nexthop(m), m.type == RTM_DELNEXTHOP);
      case RTM_NEWQDISC:
      case RTM_DELQDISC:
        return call(handlers.on_qdisc, decode_qdisc(m), m.type == RTM_DELQDISC);
      default:
        return;
    }
  }

  MonitorHandlers handlers;
};

Result<Monitor> Monitor::open(asio::any_io_executor executor, unsigned groups, MonitorHandlers handlers,
                              std::size_t receive_buffer) {
  auto s = Socket::open(NETLINK_ROUTE, {.receive_buffer = receive_buffer});
  if (!s) return tl::unexpected(s.error());
  if (handlers.ignored_port != 0)
    if (auto st = s->drop_from(handlers.ignored_port); !st) return tl::unexpected(st.error());
  struct {
    unsigned bit;
    std::vector<unsigned> groups;
  } const table[] = {
      {kLinks, {RTNLGRP_LINK}},         {kAddresses, {RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR}},
      {kRoutes4, {RTNLGRP_IPV4_ROUTE}}, {kRoutes6, {RTNLGRP_IPV6_ROUTE}},
      {kNeighbours, {RTNLGRP_NEIGH}},   {kRules, {RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_RULE}},
      {kNexthops, {RTNLGRP_NEXTHOP}},   {kQdiscs, {RTNLGRP_TC}},
  };
  for (const auto& row : table)
    if (groups & row.bit)
      for (unsigned g : row.groups)
        if (auto st = s->join(g); !st) return tl::unexpected(st.error());
  auto state = std::make_shared<State>(std::move(handlers));
  return Monitor(EventReader(
      std::move(executor), std::move(*s), [state](const Message& m) { state->deliver(m); },
      [state](std::string_view why) {
        if (state->handlers.on_resync) state->handlers.on_resync(why);
      }));
}

}  // namespace calico::netlink
