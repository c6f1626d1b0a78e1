#pragma once
/// Ethernet frames made by hand, and the socket that sends and sees them: for packets no sockets API would send as
/// wanted (any source address, a SYN alone, ICMP types, protocols without ports). Each carries a number, by which the
/// receiver knows it again. Checksums are right.
///
///   FrameSocket wire(ns);                                   // all interfaces of the namespace
///   wire.send("vm0", frame({.src_mac = …, .dst_mac = …, .packet = p, .number = 7}));
///   while (auto seen = wire.receive(ms)) … seen->number, seen->interface
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/base/ip.hpp"
#include "core/model/evaluate.hpp"
#include "tests/support/netns.hpp"

namespace calico::test {

struct FrameSpec {
  Mac src_mac;
  Mac dst_mac;
  model::Packet packet;  ///< TCP: a SYN. SCTP: an INIT. ICMP: an identifier of its own for each number
  std::uint32_t number = 0;
};

namespace frames {

inline constexpr std::uint32_t kMagic = 0x63616c69;

inline void be16(std::vector<std::uint8_t>& out, unsigned v) {
  out.push_back(static_cast<std::uint8_t>(v >> 8U));
  out.push_back(static_cast<std::uint8_t>(v));
}
inline void be32(std::vector<std::uint8_t>& out, std::uint32_t v) { be16(out, v >> 16U), be16(out, v & 0xffffU); }
inline std::uint32_t get32(const std::uint8_t* p) {
  return std::uint32_t{p[0]} << 24U | std::uint32_t{p[1]} << 16U | std::uint32_t{p[2]} << 8U | p[3];
}
inline std::uint32_t sum(const std::vector<std::uint8_t>& bytes, std::uint32_t start = 0) {
  for (std::size_t i = 0; i < bytes.size(); i += 2)
    start += static_cast<std::uint32_t>(bytes[i]) << 8U | (i + 1 < bytes.size() ? bytes[i + 1] : 0U);
  return start;
}
inline unsigned fold(std::uint32_t s) {
  while (s >> 16U) s = (s & 0xffffU) + (s >> 16U);
  return ~s & 0xffffU;
}
/// RFC 9260 appendix A: the checksum of SCTP.
inline std::uint32_t crc32c(const std::vector<std::uint8_t>& bytes) {
  std::uint32_t crc = ~0U;
  for (const auto b : bytes) {
    crc ^= b;
    for (int i = 0; i < 8; ++i) crc = crc & 1U ? crc >> 1U ^ 0x82f63b78U : crc >> 1U;
  }
  return ~crc;
}
inline void address(std::vector<std::uint8_t>& out, const Ip& ip) {
  unsigned char raw[16];
  const auto text = ip.to_string();
  ::inet_pton(ip.is_v4() ? AF_INET : AF_INET6, text.c_str(), raw);
  out.insert(out.end(), raw, raw + (ip.is_v4() ? 4 : 16));
}

}  // namespace frames

inline std::vector<std::uint8_t> frame(const FrameSpec& f) {
  using namespace frames;
  const auto& p = f.packet;
  const bool v4 = p.src.is_v4();
  const bool icmp = p.protocol == (v4 ? 1 : 58);

  std::vector<std::uint8_t> l4;
  std::size_t sum_at = 0;
  if (p.protocol == 6) {
    be16(l4, p.src_port), be16(l4, p.dst_port);
    be32(l4, f.number), be32(l4, 0);
    be16(l4, 0x5002), be16(l4, 64240);  // header of 20 bytes, SYN
    sum_at = l4.size();
    be16(l4, 0), be16(l4, 0);
  } else if (p.protocol == 17) {
    be16(l4, p.src_port), be16(l4, p.dst_port);
    be16(l4, 8 + 8);
    sum_at = l4.size();
    be16(l4, 0);
  } else if (icmp) {
    l4.push_back(p.icmp.type);
    l4.push_back(p.icmp.code.value_or(0));
    sum_at = l4.size();
    be16(l4, 0);
    be16(l4, f.number & 0xffffU), be16(l4, 1);
    if (p.icmp.type == 13) be32(l4, 0), be32(l4, 0), be32(l4, 0);
  } else if (p.protocol == 132) {
    be16(l4, p.src_port), be16(l4, p.dst_port);
    be32(l4, 0), be32(l4, 0);             // no tag yet; the checksum
    be16(l4, 0x0100), be16(l4, 20 + 12);  // INIT
    be32(l4, 1 + f.number), be32(l4, 65536), be32(l4, 0x00010001), be32(l4, 1);
    be16(l4, 0xc000), be16(l4, 12);  // a parameter to be skipped by who does not know it: our number
  }
  be32(l4, kMagic), be32(l4, f.number);
  if (p.protocol == 132) {
    const auto crc = crc32c(l4);
    for (unsigned i = 0; i < 4; ++i) l4[8 + i] = static_cast<std::uint8_t>(crc >> 8 * i);
  }

  std::vector<std::uint8_t> addresses;
  address(addresses, p.src), address(addresses, p.dst);
  if (sum_at != 0) {
    // ICMP of IPv4 knows no pseudo header.
    const std::uint32_t start =
        icmp && v4 ? 0 : sum(addresses) + static_cast<std::uint32_t>(l4.size()) + std::uint32_t{p.protocol};
    unsigned c = fold(sum(l4, start));
    if (p.protocol == 17 && c == 0) c = 0xffff;
    l4[sum_at] = static_cast<std::uint8_t>(c >> 8U);
    l4[sum_at + 1] = static_cast<std::uint8_t>(c);
  }

  std::vector<std::uint8_t> out;
  out.insert(out.end(), f.dst_mac.b.begin(), f.dst_mac.b.end());
  out.insert(out.end(), f.src_mac.b.begin(), f.src_mac.b.end());
  be16(out, v4 ? ETHERTYPE_IP : ETHERTYPE_IPV6);
  std::vector<std::uint8_t> ip;
  if (v4) {
    be16(ip, 0x4500), be16(ip, static_cast<unsigned>(20 + l4.size()));
    be16(ip, f.number & 0xffffU), be16(ip, 0x4000);
    ip.push_back(64), ip.push_back(p.protocol);
    be16(ip, 0);
    ip.insert(ip.end(), addresses.begin(), addresses.end());
    const unsigned c = fold(sum(ip));
    ip[10] = static_cast<std::uint8_t>(c >> 8U);
    ip[11] = static_cast<std::uint8_t>(c);
  } else {
    be32(ip, 0x60000000);
    be16(ip, static_cast<unsigned>(l4.size()));
    ip.push_back(p.protocol), ip.push_back(64);
    ip.insert(ip.end(), addresses.begin(), addresses.end());
  }
  out.insert(out.end(), ip.begin(), ip.end());
  out.insert(out.end(), l4.begin(), l4.end());
  return out;
}

class FrameSocket {
 public:
  struct Seen {
    std::uint32_t number;
    std::string interface;
  };

  explicit FrameSocket(const Netns& ns) {
    fd_ = ns.in([&] {
      const int fd = ::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_ALL));
      for (auto *all = ::if_nameindex(), *i = all; i && i->if_index; ++i) {
        index_[i->if_name] = i->if_index;
        name_[i->if_index] = i->if_name;
      }
      return fd;
    });
    if (fd_ < 0) throw std::runtime_error("packet socket");
    const int size = 4 << 20;
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
  }
  FrameSocket(const FrameSocket&) = delete;
  FrameSocket& operator=(const FrameSocket&) = delete;
  ~FrameSocket() { ::close(fd_); }

  void send(const std::string& interface, const std::vector<std::uint8_t>& bytes) {
    sockaddr_ll to{};
    to.sll_family = AF_PACKET;
    to.sll_ifindex = static_cast<int>(index_.at(interface));
    to.sll_halen = 6;
    std::memcpy(to.sll_addr, bytes.data(), 6);
    if (::sendto(fd_, bytes.data(), bytes.size(), 0, reinterpret_cast<const sockaddr*>(&to), sizeof to) !=
        static_cast<ssize_t>(bytes.size()))
      throw std::runtime_error("send on " + interface + ": " + strerror(errno));
  }

  /// The next numbered frame that came in on an interface (not one that went out), nothing after `ms`.
  std::optional<Seen> receive(int ms) {
    for (;;) {
      std::uint8_t buf[2048];
      sockaddr_ll from{};
      socklen_t size = sizeof from;
      const auto n = ::recvfrom(fd_, buf, sizeof buf, 0, reinterpret_cast<sockaddr*>(&from), &size);
      if (n < 0) {
        pollfd p{fd_, POLLIN, 0};
        if (ms <= 0 || ::poll(&p, 1, ms) != 1) return {};
        continue;
      }
      if (from.sll_pkttype == PACKET_OUTGOING || n < 42) continue;
      // The number ends the datagram; the frame may be padded behind it.
      const bool v4 = buf[12] == 8 && buf[13] == 0;
      const std::size_t end =
          14U + (v4 ? std::size_t{buf[16]} * 256 + buf[17] : 40U + std::size_t{buf[18]} * 256 + buf[19]);
      if (end > static_cast<std::size_t>(n) || end < 22 || frames::get32(buf + end - 8) != frames::kMagic) continue;
      return Seen{frames::get32(buf + end - 4), name_[static_cast<unsigned>(from.sll_ifindex)]};
    }
  }

 private:
  int fd_ = -1;
  std::map<std::string, unsigned> index_;
  std::map<unsigned, std::string> name_;
};

/// Forgets every connection of a namespace.
inline void flush_conntrack(const Netns& ns) {
  struct {
    std::uint32_t length = 20;
    std::uint16_t type = 1U << 8U | 2U;  // ctnetlink, delete: without attributes all of them
    std::uint16_t flags = 1 | 4;         // request, acknowledge
    std::uint32_t seq = 1, port = 0;
    std::uint8_t family = 0, version = 0;
    std::uint16_t resource = 0;
  } m;
  static_assert(sizeof m == 20);
  const int fd = ns.in([] { return ::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 12); });
  char answer[256];
  const bool ok = fd >= 0 && ::send(fd, &m, sizeof m, 0) == sizeof m && ::recv(fd, answer, sizeof answer, 0) >= 20 &&
                  *reinterpret_cast<std::int32_t*>(answer + 16) == 0;
  if (fd >= 0) ::close(fd);
  if (!ok) throw std::runtime_error("cannot flush conntrack of " + ns.name());
}

}  // namespace calico::test
