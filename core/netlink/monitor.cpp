#include "core/netlink/monitor.hpp"

#include <linux/rtnetlink.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>

#include "core/netlink/rtnl.hpp"
#include "core/netlink/socket.hpp"

namespace calico::netlink {
namespace asio = boost::asio;

struct Monitor::State : std::enable_shared_from_this<Monitor::State> {
  State(asio::any_io_executor ex, Socket s, MonitorHandlers h)
      : executor(ex), socket(std::move(s)), readable(ex, socket.fd()), handlers(std::move(h)) {}
  ~State() { readable.release(); }  // the descriptor is the socket's

  void wait() {
    readable.async_wait(asio::posix::stream_descriptor::wait_read, [self = shared_from_this()](auto ec) {
      if (!ec && !self->stopped) self->read();
    });
  }

  void read() {
    for (std::size_t messages = 0; messages < kMessagesPerTurn;) {
      auto got = socket.receive(buffer, false);
      if (!got && got.error().code == Errc::busy) return wait();
      if (!got) {
        lost(got.error());
        if (!stopped) wait();
        return;
      }
      for_each_message(*got, [&](const Message& m) {
        ++messages;
        if (!stopped) deliver(m);
      });
      if (stopped) return;
    }
    asio::post(executor, [self = shared_from_this()] {
      if (!self->stopped) self->read();
    });
  }

  /// What is still queued lies before the gap or after it: none of it is worth more than reading everything again.
  void lost(const Error& why) {
    for (int i = 0; i < 100000; ++i) {
      auto got = socket.receive(buffer, false);
      if (!got && got.error().code != Errc::exhausted) break;
    }
    if (handlers.on_resync) handlers.on_resync(why.what);
  }

  template <class T>
  static void call(const std::function<void(const T&, bool)>& f, const std::optional<T>& v, bool gone) {
    if (f && v) f(*v, gone);
  }

  void deliver(const Message& m) {
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
      default:
        return;
    }
  }

  asio::any_io_executor executor;
  Socket socket;
  asio::posix::stream_descriptor readable;
  MonitorHandlers handlers;
  Bytes buffer;
  bool started = false;
  bool stopped = false;
};

Result<Monitor> Monitor::open(asio::any_io_executor executor, unsigned groups, MonitorHandlers handlers,
                              std::size_t receive_buffer) {
  auto s = Socket::open(NETLINK_ROUTE, {.receive_buffer = receive_buffer});
  if (!s) return tl::unexpected(s.error());
  struct {
    unsigned bit;
    std::vector<unsigned> groups;
  } const table[] = {
      {kLinks, {RTNLGRP_LINK}},         {kAddresses, {RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR}},
      {kRoutes4, {RTNLGRP_IPV4_ROUTE}}, {kRoutes6, {RTNLGRP_IPV6_ROUTE}},
      {kNeighbours, {RTNLGRP_NEIGH}},   {kRules, {RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_RULE}},
  };
  for (const auto& row : table)
    if (groups & row.bit)
      for (unsigned g : row.groups)
        if (auto st = s->join(g); !st) return tl::unexpected(st.error());
  return Monitor(std::make_shared<State>(std::move(executor), std::move(*s), std::move(handlers)));
}

Monitor::Monitor(std::shared_ptr<State> s) : state_(std::move(s)) {}
Monitor::Monitor(Monitor&&) noexcept = default;
Monitor& Monitor::operator=(Monitor&& o) noexcept {
  if (state_) stop();
  state_ = std::move(o.state_);
  return *this;
}
Monitor::~Monitor() {
  if (state_) stop();
}

void Monitor::start() {
  if (state_->started) return;
  state_->started = true;
  state_->wait();
}

void Monitor::stop() {
  state_->stopped = true;
  boost::system::error_code ignored;
  state_->readable.cancel(ignored);
}

}  // namespace calico::netlink
