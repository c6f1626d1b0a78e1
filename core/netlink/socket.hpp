#pragma once
/// One AF_NETLINK socket: open, send, receive. The kernel works on a request inside sendmsg(), so its answer is there
/// when send() returns; what follows is reading. Used by Rtnl, Monitor and nft::Connection.
#include <cstddef>
#include <cstdint>

#include "core/base/error.hpp"
#include "core/netlink/message.hpp"

namespace calico::netlink {

struct SocketOptions {
  std::size_t receive_buffer = 1U << 20U;  ///< SO_RCVBUFFORCE, else SO_RCVBUF
  std::size_t send_buffer = 0;             ///< 0 = the kernel's default
  bool strict_dump = false;                ///< NETLINK_GET_STRICT_CHK: dumps are filtered by the kernel
};

/// Thread: one at a time. Owns: the descriptor. The socket belongs to the network namespace of the thread that opened
/// it, whichever thread uses it later. Errors: no_permission, unavailable (no such protocol in this kernel).
class Socket {
 public:
  [[nodiscard]] static Result<Socket> open(int protocol, SocketOptions options = {});
  Socket(Socket&& o) noexcept : fd_(o.fd_), port_(o.port_), send_buffer_(o.send_buffer_) { o.fd_ = -1; }
  Socket& operator=(Socket&& o) noexcept;
  ~Socket();

  int fd() const { return fd_; }
  /// Our address; unicast answers carry it in nlmsg_pid.
  std::uint32_t port() const { return port_; }
  /// Joins one multicast group (RTNLGRP_*, NFNLGRP_*).
  [[nodiscard]] Status join(unsigned group);
  /// Messages that carry this port (echoes of another socket's changes) are dropped before they are queued.
  [[nodiscard]] Status drop_from(std::uint32_t port);
  /// Makes one message of `bytes` possible (SO_SNDBUFFORCE); large batches need it.
  [[nodiscard]] Status ensure_send_buffer(std::size_t bytes);
  [[nodiscard]] Status send(View bytes);
  /// Reads one datagram into `buffer` (grown to fit). Errors: busy (nothing there; only with wait = false),
  /// exhausted (ENOBUFS: messages were lost, the reader must read everything again), timeout.
  [[nodiscard]] Result<View> receive(Bytes& buffer, bool wait = true);

 private:
  Socket(int fd, std::uint32_t port) : fd_(fd), port_(port) {}
  int fd_ = -1;
  std::uint32_t port_ = 0;
  std::size_t send_buffer_ = 0;
};

/// What NLMSG_ERROR said: errno (0 = acknowledged) and the kernel's own text when it gave one (extended ack).
struct Ack {
  int error = 0;
  std::string text;
  std::uint32_t offset = 0;  ///< of the offending attribute in our message, when given
};
[[nodiscard]] Ack parse_ack(const Message& m);

}  // namespace calico::netlink
