#include "core/base/ip.hpp"

#include <arpa/inet.h>

#include <algorithm>
#include <cassert>
#include <charconv>
#include <cstring>

namespace calico {

Ip Ip::v4(std::uint32_t host_order) {
  Ip ip;
  for (int i = 0; i < 4; ++i) ip.b_[static_cast<std::size_t>(i)] = std::byte(host_order >> (24 - 8 * i));
  return ip;
}

Ip Ip::from_bytes(std::span<const std::byte> network_order) {
  assert(network_order.size() == 4 || network_order.size() == 16);
  Ip ip;
  ip.family_ = network_order.size() == 4 ? Family::v4 : Family::v6;
  std::copy(network_order.begin(), network_order.end(), ip.b_.begin());
  return ip;
}

Result<Ip> Ip::parse(std::string_view text) {
  std::array<char, INET6_ADDRSTRLEN> buf{};
  if (text.size() >= buf.size() || text.empty()) return fail(Errc::invalid, "'{}' is not an IP address", shown(text));
  std::copy(text.begin(), text.end(), buf.begin());
  std::array<std::byte, 16> raw{};
  if (inet_pton(AF_INET, buf.data(), raw.data()) == 1) return from_bytes(std::span(raw).first(4));
  if (inet_pton(AF_INET6, buf.data(), raw.data()) == 1) return from_bytes(raw);
  return fail(Errc::invalid, "'{}' is not an IP address", shown(text));
}

std::uint32_t Ip::to_v4() const {
  std::uint32_t v = 0;
  for (std::size_t i = 0; i < 4; ++i) v = v << 8 | std::to_integer<std::uint32_t>(b_[i]);
  return v;
}

bool Ip::is_unspecified() const {
  return std::all_of(b_.begin(), b_.end(), [](std::byte x) { return x == std::byte{0}; });
}

bool Ip::is_loopback() const {
  if (is_v4()) return b_[0] == std::byte{127};
  return std::all_of(b_.begin(), b_.end() - 1, [](std::byte x) { return x == std::byte{0}; }) && b_[15] == std::byte{1};
}

bool Ip::is_multicast() const {
  return is_v4() ? (b_[0] & std::byte{0xf0}) == std::byte{0xe0} : b_[0] == std::byte{0xff};
}

bool Ip::is_link_local() const {
  if (is_v4()) return b_[0] == std::byte{169} && b_[1] == std::byte{254};
  return b_[0] == std::byte{0xfe} && (b_[1] & std::byte{0xc0}) == std::byte{0x80};
}

std::string Ip::to_string() const {
  std::array<char, INET6_ADDRSTRLEN> buf{};
  inet_ntop(is_v4() ? AF_INET : AF_INET6, b_.data(), buf.data(), buf.size());
  return buf.data();
}

Result<Prefix> Prefix::parse(std::string_view text) {
  auto slash = text.find('/');
  auto ip = Ip::parse(text.substr(0, slash));
  if (!ip) return fail(Errc::invalid, "'{}' is not an address block", shown(text));
  if (slash == std::string_view::npos) return host(*ip);
  auto tail = text.substr(slash + 1);
  unsigned len = 0;
  auto [end, ec] = std::from_chars(tail.data(), tail.data() + tail.size(), len);
  if (ec != std::errc{} || end != tail.data() + tail.size() || len > ip->bits())
    return fail(Errc::invalid, "'{}' is not an address block (length 0 to {})", shown(text), ip->bits());
  return Prefix{*ip, static_cast<std::uint8_t>(len)}.masked();
}

namespace {
/// The address with bits from `len` on set to `ones`.
Ip with_tail(const Ip& ip, std::uint8_t len, bool ones) {
  std::array<std::byte, 16> raw{};
  auto in = ip.bytes();
  for (std::size_t i = 0; i < in.size(); ++i) {
    int keep = std::clamp(static_cast<int>(len) - static_cast<int>(i) * 8, 0, 8);
    auto mask = static_cast<std::byte>(0xff << (8 - keep) & 0xff);
    raw[i] = (in[i] & mask) | (ones ? ~mask : std::byte{0});
  }
  return Ip::from_bytes(std::span(raw).first(in.size()));
}
}  // namespace

Prefix Prefix::masked() const { return {with_tail(addr, len, false), len}; }

bool Prefix::contains(const Ip& ip) const {
  return ip.family() == addr.family() && with_tail(ip, len, false) == with_tail(addr, len, false);
}

Ip Prefix::last() const { return with_tail(addr, len, true); }

std::string Prefix::to_string() const { return fmt::format("{}/{}", addr.to_string(), len); }

Result<Mac> Mac::parse(std::string_view text) {
  Mac m;
  if (text.size() != 17) return fail(Errc::invalid, "'{}' is not a MAC address", shown(text));
  for (std::size_t i = 0; i < 6; ++i) {
    auto part = text.substr(i * 3, 2);
    auto [end, ec] = std::from_chars(part.data(), part.data() + 2, m.b[i], 16);
    if (ec != std::errc{} || end != part.data() + 2 || (i < 5 && text[i * 3 + 2] != ':'))
      return fail(Errc::invalid, "'{}' is not a MAC address", shown(text));
  }
  return m;
}

std::string Mac::to_string() const {
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", b[0], b[1], b[2], b[3], b[4], b[5]);
}

}  // namespace calico

namespace {
std::size_t hash_bytes(const void* p, std::size_t n, std::size_t seed) {
  return std::hash<std::string_view>{}(std::string_view(static_cast<const char*>(p), n)) * 31 + seed;
}
}  // namespace

std::size_t std::hash<calico::Ip>::operator()(const calico::Ip& ip) const noexcept {
  auto b = ip.bytes();
  return hash_bytes(b.data(), b.size(), b.size());
}
std::size_t std::hash<calico::Prefix>::operator()(const calico::Prefix& p) const noexcept {
  return std::hash<calico::Ip>{}(p.addr) * 131 + p.len;
}
std::size_t std::hash<calico::Mac>::operator()(const calico::Mac& m) const noexcept {
  return hash_bytes(m.b.data(), m.b.size(), 0);
}
