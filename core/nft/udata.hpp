#pragma once
/// User data of nf_tables objects in the form nft keeps its own in (type, length, value), so that it prints our
/// comments, types and byte orders. Private to core/nft.
#include <algorithm>
#include <string>
#include <string_view>

#include "core/netlink/message.hpp"
#include "core/nft/types.hpp"

namespace calico::nft::udata {

inline constexpr std::uint8_t kTableComment = 0, kChainComment = 0, kRuleComment = 0, kElementComment = 0;
inline constexpr std::uint8_t kSetKeyOrder = 0, kSetDataOrder = 1, kSetComment = 7;
inline constexpr std::uint32_t kHostOrder = 1, kBigEndian = 2;
inline constexpr std::size_t kTextMax = 127;

inline void put(netlink::Bytes& out, std::uint8_t type, netlink::View value) {
  out.push_back(std::byte{type});
  out.push_back(static_cast<std::byte>(value.size()));
  out.insert(out.end(), value.begin(), value.end());
}

/// A comment, zero terminated, cut to what nft takes.
inline netlink::Bytes text(std::uint8_t type, std::string_view s) {
  std::string z(s.substr(0, kTextMax));
  z.push_back('\0');
  netlink::Bytes out;
  put(out, type, std::as_bytes(std::span(z)));
  return out;
}

inline netlink::Bytes of_set(const Set& s) {
  netlink::Bytes out;
  auto order = [&](std::uint8_t type, std::uint32_t v) { put(out, type, std::as_bytes(std::span(&v, 1))); };
  order(kSetKeyOrder, s.key.size() > 1 ? 0 : s.key.empty() || host_order(s.key[0]) ? kHostOrder : kBigEndian);
  if (s.data) order(kSetDataOrder, *s.data == Type::verdict ? 0 : host_order(*s.data) ? kHostOrder : kBigEndian);
  if (!s.comment.empty()) {
    const auto t = text(kSetComment, s.comment);
    out.insert(out.end(), t.begin(), t.end());
  }
  return out;
}

/// The text kept under `type`; empty when there is none or it does not fit its frame.
inline std::string find_text(netlink::View b, std::uint8_t type) {
  while (b.size() >= 2) {
    const auto t = std::to_integer<std::uint8_t>(b[0]);
    const auto n = std::to_integer<std::size_t>(b[1]);
    if (n > b.size() - 2) return {};
    if (t == type) {
      const std::string_view s(reinterpret_cast<const char*>(b.data() + 2), n);
      return std::string(s.substr(0, s.find('\0')));
    }
    b = b.subspan(2 + n);
  }
  return {};
}

}  // namespace calico::nft::udata
