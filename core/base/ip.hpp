#pragma once
/// Addresses as values: Ip (IPv4 or IPv6), Prefix (an address and a length), Mac. All are trivially copyable, ordered
/// and hashable, parse strictly and print in canonical text (RFC 5952 for IPv6).
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "core/base/error.hpp"

namespace calico {

enum class Family : std::uint8_t { v4 = 4, v6 = 6 };

/// One address. Default: 0.0.0.0.
class Ip {
 public:
  Ip() = default;
  /// From host byte order.
  static Ip v4(std::uint32_t host_order);
  /// From 4 or 16 bytes in network order; other sizes are a programming error (asserted).
  static Ip from_bytes(std::span<const std::byte> network_order);
  /// Errors: invalid.
  [[nodiscard]] static Result<Ip> parse(std::string_view text);

  Family family() const { return family_; }
  bool is_v4() const { return family_ == Family::v4; }
  bool is_v6() const { return family_ == Family::v6; }
  /// 4 or 16 bytes in network order; lives as long as this object.
  std::span<const std::byte> bytes() const { return {b_.data(), is_v4() ? 4U : 16U}; }
  /// Host byte order; v4 only.
  std::uint32_t to_v4() const;
  /// 32 or 128.
  std::uint8_t bits() const { return is_v4() ? 32 : 128; }
  bool is_unspecified() const;
  bool is_loopback() const;
  bool is_multicast() const;
  bool is_link_local() const;
  std::string to_string() const;

  auto operator<=>(const Ip&) const = default;

 private:
  Family family_ = Family::v4;
  std::array<std::byte, 16> b_{};  // unused bytes stay zero, so comparison is bytewise
};

/// An address block. Host bits are kept as given by the constructor; masked() clears them.
struct Prefix {
  Ip addr;
  std::uint8_t len = 0;

  /// "10.0.0.0/8"; a bare address is a host prefix. Host bits are cleared. Errors: invalid.
  [[nodiscard]] static Result<Prefix> parse(std::string_view text);
  static Prefix host(const Ip& ip) { return {ip, ip.bits()}; }

  Family family() const { return addr.family(); }
  bool is_host() const { return len == addr.bits(); }
  Prefix masked() const;
  bool contains(const Ip& ip) const;
  bool contains(const Prefix& other) const { return len <= other.len && contains(other.addr); }
  /// Last address of the block.
  Ip last() const;
  std::string to_string() const;

  auto operator<=>(const Prefix&) const = default;
};

struct Mac {
  std::array<std::uint8_t, 6> b{};

  /// "fa:16:3e:00:00:01", any case. Errors: invalid.
  [[nodiscard]] static Result<Mac> parse(std::string_view text);
  std::string to_string() const;

  auto operator<=>(const Mac&) const = default;
};

}  // namespace calico

template <>
struct fmt::formatter<calico::Ip> : fmt::formatter<std::string_view> {
  template <class C>
  auto format(const calico::Ip& v, C& ctx) const {
    return fmt::formatter<std::string_view>::format(v.to_string(), ctx);
  }
};
template <>
struct fmt::formatter<calico::Prefix> : fmt::formatter<std::string_view> {
  template <class C>
  auto format(const calico::Prefix& v, C& ctx) const {
    return fmt::formatter<std::string_view>::format(v.to_string(), ctx);
  }
};
template <>
struct fmt::formatter<calico::Mac> : fmt::formatter<std::string_view> {
  template <class C>
  auto format(const calico::Mac& v, C& ctx) const {
    return fmt::formatter<std::string_view>::format(v.to_string(), ctx);
  }
};

template <>
struct std::hash<calico::Ip> {
  std::size_t operator()(const calico::Ip& ip) const noexcept;
};
template <>
struct std::hash<calico::Prefix> {
  std::size_t operator()(const calico::Prefix& p) const noexcept;
};
template <>
struct std::hash<calico::Mac> {
  std::size_t operator()(const calico::Mac& m) const noexcept;
};
