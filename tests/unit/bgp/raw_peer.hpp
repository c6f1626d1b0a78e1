#pragma once
/// A neighbour made of bytes: says exactly what a test wants, also what no speaker would say. Blocking, with deadlines.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include "core/bgp/codec/update.hpp"
#include "speakers.hpp"

namespace calico::bgp::test {

inline Bytes hex(std::string_view text) {
  Bytes out;
  int nibble = -1;
  for (char c : text) {
    const int v = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (v < 0) continue;
    nibble < 0 ? void() : out.push_back(static_cast<std::byte>(nibble << 4 | v));
    nibble = nibble < 0 ? v : -1;
  }
  return out;
}

/// The least an iBGP route needs, and communities.
inline Attrs route_via(std::string_view next_hop, std::initializer_list<std::uint32_t> communities = {}) {
  Attrs a;
  a.next_hop = addr(next_hop);
  a.local_pref = 100;
  for (auto c : communities)
    for (int shift = 24; shift >= 0; shift -= 8) a.communities.push_back(static_cast<std::byte>(c >> shift & 0xff));
  return a;
}

/// A whole message of `type` around `body`.
inline Bytes message(std::uint8_t type, const Bytes& body) {
  wire::Writer w(70000);
  detail::begin_message(w, static_cast<MessageType>(type));
  w.put(body);
  detail::finish_message(w);
  return w.take();
}

class RawPeer {
 public:
  /// Connects from own address `n` to speaker `to`.
  RawPeer(int n, int to) : n_(n) {
    fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bind_and_connect(to);
  }
  ~RawPeer() { close(); }
  RawPeer(const RawPeer&) = delete;
  RawPeer& operator=(const RawPeer&) = delete;

  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  bool connected() const { return connected_; }
  bool send(const Bytes& b) {
    for (std::size_t at = 0; at < b.size();) {
      const auto sent = ::send(fd_, b.data() + at, b.size() - at, MSG_NOSIGNAL);
      if (sent <= 0) return false;
      at += static_cast<std::size_t>(sent);
    }
    return true;
  }
  Open open_message() const {
    Open o;
    o.as = Asn{64512};
    o.hold_time_s = 90;
    o.router_id = 0x0a000000U | static_cast<std::uint32_t>(n_);
    o.caps.families = {kIpv4Unicast, kIpv6Unicast};
    o.caps.as4 = o.as;
    return o;
  }
  /// OPEN and KEEPALIVE both ways.
  bool handshake() { return handshake(open_message()); }
  bool handshake(const Open& o) {
    if (!send(encode_open(o)) || !send(encode_keepalive())) return false;
    return wait(MessageType::open) && wait(MessageType::keepalive);
  }
  /// One route, written as `context` says.
  bool announce(std::string_view prefix, const Attrs& a, EncodeContext context = {}, std::uint32_t path_id = 0,
                bool as4 = true) {
    const std::vector<Nlri> route{{pfx(prefix), path_id}};
    context.family = route[0].prefix.family();
    Bytes block, m;
    std::size_t n = 0;
    return encode_attributes(block, a, as4) && encode_announce(m, n, context, block, a.next_hop, route) && send(m);
  }
  /// The next message of a type, others are passed over; nullopt: closed, or nothing within the time.
  std::optional<Bytes> wait(MessageType type, std::chrono::milliseconds limit = 10s) {
    const auto end = std::chrono::steady_clock::now() + limit;
    for (;;) {
      while (auto m = take()) {
        const auto got = static_cast<MessageType>((*m)[18]);
        if (got == MessageType::notification) notification = *decode_notification(View(*m).subspan(kHeaderSize));
        if (got == type) return Bytes(m->begin() + kHeaderSize, m->end());
      }
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
      if (closed || left.count() <= 0) return std::nullopt;
      pollfd p{fd_, POLLIN, 0};
      if (::poll(&p, 1, static_cast<int>(left.count())) <= 0) return std::nullopt;
      std::byte chunk[16384];
      const auto n = ::recv(fd_, chunk, sizeof chunk, 0);
      if (n <= 0)
        closed = true;
      else
        in_.insert(in_.end(), chunk, chunk + n);
    }
  }
  /// Reads until the other side closes.
  bool wait_closed(std::chrono::milliseconds limit = 10s) {
    (void)wait(static_cast<MessageType>(250), limit);
    return closed;
  }
  int fd() const { return fd_; }

  std::optional<Notification> notification;
  bool closed = false;

 private:
  void bind_and_connect(int to) {
    const auto address = [](int n, std::uint16_t port) {
      sockaddr_in a{};
      a.sin_family = AF_INET;
      a.sin_port = htons(port);
      a.sin_addr.s_addr = htonl(own_address(n).to_v4());
      return a;
    };
    const auto from = address(n_, 0), at = address(to, kPort);
    ::bind(fd_, reinterpret_cast<const sockaddr*>(&from), sizeof from);
    connected_ = ::connect(fd_, reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0;
  }
  std::optional<Bytes> take() {
    if (in_.size() < kHeaderSize) return std::nullopt;
    const std::size_t length = std::to_integer<std::size_t>(in_[16]) << 8 | std::to_integer<std::size_t>(in_[17]);
    if (in_.size() < length || length < kHeaderSize) return std::nullopt;
    Bytes m(in_.begin(), in_.begin() + static_cast<std::ptrdiff_t>(length));
    in_.erase(in_.begin(), in_.begin() + static_cast<std::ptrdiff_t>(length));
    return m;
  }
  int n_, fd_ = -1;
  bool connected_ = false;
  Bytes in_;
};

}  // namespace calico::bgp::test
