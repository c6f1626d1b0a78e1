#include "core/netlink/socket.hpp"

#include <linux/filter.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace calico::netlink {

namespace {
constexpr std::size_t kReceiveSize = 65536;  // the kernel fills at most 32 KiB per datagram of a dump
constexpr timeval kTimeout{5, 0};

void set_buffer(int fd, int force, int plain, std::size_t bytes) {
  const int n = static_cast<int>(bytes / 2 + 1);  // the kernel doubles it for its book-keeping
  if (setsockopt(fd, SOL_SOCKET, force, &n, sizeof n) != 0) setsockopt(fd, SOL_SOCKET, plain, &n, sizeof n);
}
}  // namespace

Result<Socket> Socket::open(int protocol, SocketOptions options) {
  const int fd = ::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
  if (fd < 0) return fail_errno(errno, fmt::format("netlink socket, protocol {}", protocol));
  Socket s(fd, 0);
  sockaddr_nl me{};
  me.nl_family = AF_NETLINK;
  socklen_t len = sizeof me;
  if (::bind(fd, reinterpret_cast<sockaddr*>(&me), len) != 0 ||
      ::getsockname(fd, reinterpret_cast<sockaddr*>(&me), &len) != 0)
    return fail_errno(errno, "netlink bind");
  s.port_ = me.nl_pid;
  const int on = 1;
  setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
  setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
  if (options.strict_dump && setsockopt(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof on) != 0)
    return fail_errno(errno, "netlink strict checking (needs Linux 4.20)");
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &kTimeout, sizeof kTimeout);
  if (options.receive_buffer) set_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF, options.receive_buffer);
  if (options.send_buffer)
    if (auto st = s.ensure_send_buffer(options.send_buffer); !st) return tl::unexpected(st.error());
  return s;
}

Socket& Socket::operator=(Socket&& o) noexcept {
  std::swap(fd_, o.fd_);
  std::swap(port_, o.port_);
  std::swap(send_buffer_, o.send_buffer_);
  return *this;
}

Socket::~Socket() {
  if (fd_ >= 0) ::close(fd_);
}

Status Socket::join(unsigned group) {
  const int g = static_cast<int>(group);
  if (setsockopt(fd_, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &g, sizeof g) != 0)
    return fail_errno(errno, fmt::format("netlink group {}", group));
  return {};
}

Status Socket::drop_from(std::uint32_t port) {
  // Notifications are one message each; the filter reads words in network order.
  std::array<sock_filter, 4> code{{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(nlmsghdr, nlmsg_pid)),
                                   BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, to_be(port), 0, 1), BPF_STMT(BPF_RET | BPF_K, 0),
                                   BPF_STMT(BPF_RET | BPF_K, 0xffffffffU)}};
  const sock_fprog program{static_cast<unsigned short>(code.size()), code.data()};
  if (setsockopt(fd_, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != 0)
    return fail_errno(errno, "netlink filter");
  return {};
}

Status Socket::ensure_send_buffer(std::size_t bytes) {
  const std::size_t need = bytes + 4096;
  if (need <= send_buffer_) return {};
  set_buffer(fd_, SO_SNDBUFFORCE, SO_SNDBUF, need);
  int got = 0;
  socklen_t len = sizeof got;
  getsockopt(fd_, SOL_SOCKET, SO_SNDBUF, &got, &len);
  send_buffer_ = static_cast<std::size_t>(got);
  if (send_buffer_ < need)
    return fail(Errc::exhausted, "netlink send buffer: {} bytes needed, {} allowed (net.core.wmem_max)", need, got);
  return {};
}

Status Socket::send(View bytes) {
  sockaddr_nl kernel{};
  kernel.nl_family = AF_NETLINK;
  for (;;) {
    const auto n = ::sendto(fd_, bytes.data(), bytes.size(), 0, reinterpret_cast<sockaddr*>(&kernel), sizeof kernel);
    if (n == static_cast<ssize_t>(bytes.size())) return {};
    if (n >= 0) return fail(Errc::internal, "netlink send: {} of {} bytes", n, bytes.size());
    if (errno != EINTR) return fail_errno(errno, fmt::format("netlink send of {} bytes", bytes.size()));
  }
}

Result<View> Socket::receive(Bytes& buffer, bool wait) {
  if (buffer.size() < kReceiveSize) buffer.resize(kReceiveSize);
  for (;;) {
    sockaddr_nl from{};
    socklen_t len = sizeof from;
    const auto n = ::recvfrom(fd_, buffer.data(), buffer.size(), MSG_TRUNC | (wait ? 0 : MSG_DONTWAIT),
                              reinterpret_cast<sockaddr*>(&from), &len);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno == ENOBUFS) return fail(Errc::exhausted, "netlink messages were lost (receive buffer overflow)");
      if (errno == EAGAIN) {
        if (wait) return fail(Errc::timeout, "no answer from the kernel for {} s", kTimeout.tv_sec);
        return fail(Errc::busy, "nothing to read");
      }
      return fail_errno(errno, "netlink receive");
    }
    if (from.nl_pid != 0) continue;  // not from the kernel
    if (static_cast<std::size_t>(n) > buffer.size()) {
      buffer.resize(static_cast<std::size_t>(n) + 4096);
      return fail(Errc::exhausted, "a netlink message of {} bytes was cut", n);
    }
    return View(buffer.data(), static_cast<std::size_t>(n));
  }
}

Ack parse_ack(const Message& m) {
  Ack a;
  if (!m.fits<nlmsgerr>()) {
    a.error = EBADMSG;
    return a;
  }
  const auto e = m.body<nlmsgerr>();
  a.error = -e.error;
  if (!(m.flags & NLM_F_ACK_TLVS)) return a;
  std::size_t at = sizeof(nlmsgerr);
  if (!(m.flags & NLM_F_CAPPED) && e.msg.nlmsg_len > sizeof(nlmsghdr)) at += e.msg.nlmsg_len - sizeof(nlmsghdr);
  for (const Attr& x : m.attrs(at)) {
    if (x.type == NLMSGERR_ATTR_MSG) a.text = x.str();
    if (x.type == NLMSGERR_ATTR_OFFS) a.offset = x.u32();
  }
  return a;
}

}  // namespace calico::netlink
