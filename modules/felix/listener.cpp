#include "modules/felix/listener.hpp"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <cerrno>
#include <cstring>

namespace calico::felix {
namespace {

namespace asio = boost::asio;

/// Frames from `mac` that came in, none that go out.
Status only_from(int fd, const Mac& mac) {
  const auto& b = mac.b;
  const auto high = static_cast<std::uint32_t>(b[0]) << 24U | static_cast<std::uint32_t>(b[1]) << 16U |
                    static_cast<std::uint32_t>(b[2]) << 8U | b[3];
  const auto low = static_cast<std::uint32_t>(b[4]) << 8U | b[5];
  const auto packet_type = static_cast<std::uint32_t>(SKF_AD_OFF) + SKF_AD_PKTTYPE;
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, packet_type),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_OUTGOING, 5, 0),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ETH_ALEN),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, high, 0, 3),
      BPF_STMT(BPF_LD | BPF_H | BPF_ABS, ETH_ALEN + 4),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, low, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, ETH_HLEN),
      BPF_STMT(BPF_RET | BPF_K, 0),
  };
  const sock_fprog program{static_cast<unsigned short>(std::size(code)), code};
  if (::setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != 0)
    return fail(Errc::unavailable, "packet socket: filter: {}", std::strerror(errno));
  return {};
}

}  // namespace

struct Listener::Socket : std::enable_shared_from_this<Socket> {
  Socket(const asio::any_io_executor& executor, int fd, std::function<void()> h)
      : readable(executor, fd), heard(std::move(h)) {}
  void wait() {
    readable.async_wait(asio::posix::stream_descriptor::wait_read, [self = shared_from_this()](auto ec) {
      if (ec || self->closed) return;
      self->close();
      self->heard();
    });
  }
  void close() {
    closed = true;
    boost::system::error_code ignored;
    readable.close(ignored);
  }
  asio::posix::stream_descriptor readable;
  std::function<void()> heard;
  bool closed = false;
};

Result<Listener> Listener::open(asio::any_io_executor executor, IfIndex interface, const Mac& mac,
                                std::function<void()> heard) {
  // Protocol 0: nothing is queued before the filter is there and the interface chosen.
  const int fd = ::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return fail(errno == EPERM || errno == EACCES ? Errc::no_permission : Errc::unavailable, "packet socket: {}",
                std::strerror(errno));
  auto socket = std::make_shared<Socket>(executor, fd, std::move(heard));
  if (auto ok = only_from(fd, mac); !ok) return tl::unexpected(ok.error());
  sockaddr_ll at{};
  at.sll_family = AF_PACKET;
  at.sll_protocol = htons(ETH_P_ALL);
  at.sll_ifindex = static_cast<int>(interface.value);
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&at), sizeof at) != 0)
    return fail(Errc::unavailable, "packet socket on interface {}: {}", interface.value, std::strerror(errno));
  socket->wait();
  return Listener(std::move(socket), interface);
}

Listener::Listener(std::shared_ptr<Socket> socket, IfIndex interface)
    : socket_(std::move(socket)), interface_(interface) {}
Listener::Listener(Listener&&) noexcept = default;
Listener& Listener::operator=(Listener&& o) noexcept {
  if (this != &o) {
    if (socket_) socket_->close();
    socket_ = std::move(o.socket_);
    interface_ = o.interface_;
  }
  return *this;
}
Listener::~Listener() {
  if (socket_) socket_->close();
}

}  // namespace calico::felix
