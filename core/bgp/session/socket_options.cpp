#include "core/bgp/session/socket_options.hpp"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace calico::bgp {

namespace {

Status set_int(int fd, int level, int name, int value, std::string_view what) {
  if (setsockopt(fd, level, name, &value, sizeof value) != 0) return fail_errno(errno, what);
  return {};
}

void fill(sockaddr_storage& ss, const Ip& ip) {
  if (ip.is_v4()) {
    sockaddr_in a{};
    a.sin_family = AF_INET;
    std::memcpy(&a.sin_addr, ip.bytes().data(), 4);
    std::memcpy(&ss, &a, sizeof a);
  } else {
    sockaddr_in6 a{};
    a.sin6_family = AF_INET6;
    std::memcpy(&a.sin6_addr, ip.bytes().data(), 16);
    std::memcpy(&ss, &a, sizeof a);
  }
}

}  // namespace

Status set_md5(int fd, const Prefix& peer, std::string_view password) {
  tcp_md5sig sig{};
  fill(reinterpret_cast<sockaddr_storage&>(sig.tcpm_addr), peer.addr);
  if (password.size() > sizeof sig.tcpm_key)
    return fail(Errc::invalid, "TCP MD5 password is longer than {} characters", sizeof sig.tcpm_key);
  sig.tcpm_keylen = static_cast<std::uint16_t>(password.size());
  std::copy(password.begin(), password.end(), sig.tcpm_key);
  int name = TCP_MD5SIG;
  if (!peer.is_host()) {
    name = TCP_MD5SIG_EXT;
    sig.tcpm_flags = TCP_MD5SIG_FLAG_PREFIX;
    sig.tcpm_prefixlen = peer.len;
  }
  if (setsockopt(fd, IPPROTO_TCP, name, &sig, sizeof sig) == 0) return {};
  if (password.empty() && errno == ENOENT) return {};
  if (errno == ENOPROTOOPT) return fail(Errc::unsupported, "this kernel has no TCP MD5 (CONFIG_TCP_MD5SIG)");
  return fail_errno(errno, "TCP MD5 password");
}

Status set_ttl(int fd, Family family, int ttl) {
  return family == Family::v4 ? set_int(fd, IPPROTO_IP, IP_TTL, ttl, "TTL")
                              : set_int(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, ttl, "hop limit");
}

Status set_min_ttl(int fd, Family family, int ttl) {
  return family == Family::v4 ? set_int(fd, IPPROTO_IP, IP_MINTTL, ttl, "minimum TTL")
                              : set_int(fd, IPPROTO_IPV6, IPV6_MINHOPCOUNT, ttl, "minimum hop limit");
}

Status set_save_syn(int fd) { return set_int(fd, IPPROTO_TCP, TCP_SAVE_SYN, 1, "saved SYN"); }

std::optional<int> syn_ttl(int fd) {
  std::array<unsigned char, 256> syn{};  // from the IP header on
  socklen_t size = syn.size();
  if (getsockopt(fd, IPPROTO_TCP, TCP_SAVED_SYN, syn.data(), &size) != 0 || size < 20) return std::nullopt;
  switch (syn[0] >> 4) {
    case 4:
      return syn[8];
    case 6:
      return syn[7];
    default:
      return std::nullopt;
  }
}

Status set_free_bind(int fd, Family family) {
  return family == Family::v4 ? set_int(fd, IPPROTO_IP, IP_FREEBIND, 1, "free bind")
                              : set_int(fd, IPPROTO_IPV6, IPV6_FREEBIND, 1, "free bind");
}

void set_control_class(int fd, Family family) {
  // Best effort: a wrong class costs nothing but priority.
  (void)(family == Family::v4 ? set_int(fd, IPPROTO_IP, IP_TOS, 0xc0, "TOS")
                              : set_int(fd, IPPROTO_IPV6, IPV6_TCLASS, 0xc0, "traffic class"));
}

}  // namespace calico::bgp
