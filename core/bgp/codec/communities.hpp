#pragma once
/// Communities as values, and the lists of them in wire form that routes carry: look for, add, take out, read, print.
/// Pure. Thread: any. Errors: parse() invalid, one line.
/// RFC: 1997, 4360 and 5668 (extended), 8092 (large), and the well-known ones: 3765, 7999, 8326, 9494.
///
///   if (!contains(attrs.communities, well_known::kLlgrStale)) (void)add(attrs.communities, well_known::kLlgrStale);
///   auto tag = LargeCommunity::parse("64512:1:2");
///
/// Lists keep their order; what is added goes to the end, and once.
#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/error.hpp"
#include "core/wire/cursor.hpp"

namespace calico::bgp {

using wire::Bytes;
using wire::View;

/// plain: "65000:1", "rt 65000:1", "1:2:3", and what parse() reads back as the same value;
/// bird: "(65000,1)", "(rt, 65000, 1)", "(1, 2, 3)".
enum class CommunityStyle : std::uint8_t { plain, bird };

struct Community {
  static constexpr std::size_t kSize = 4;
  std::uint32_t value = 0;

  /// "65000:1", "(65000, 1)", or a name: "no-export". Any case, '_' as good as '-'.
  [[nodiscard]] static Result<Community> parse(std::string_view text);
  static Community from(View bytes);
  std::array<std::byte, kSize> bytes() const;
  /// The name, where it has one and `style` is plain.
  std::string to_string(CommunityStyle style = CommunityStyle::plain) const;
  auto operator<=>(const Community&) const = default;
};

struct ExtCommunity {
  static constexpr std::size_t kSize = 8;
  std::uint64_t value = 0;

  /// "rt 65000:1", "ro 10.0.0.1:1" ("soo" too), "rt 65000L:1" for the 4-octet form of a small AS, "generic
  /// 0x43000000:0x1"; each also as "(rt, 65000, 1)".
  [[nodiscard]] static Result<ExtCommunity> parse(std::string_view text);
  static ExtCommunity from(View bytes);
  std::array<std::byte, kSize> bytes() const;
  std::string to_string(CommunityStyle style = CommunityStyle::plain) const;
  /// RFC 4360 2: may leave the AS.
  bool transitive() const { return (value >> 62 & 1) == 0; }
  auto operator<=>(const ExtCommunity&) const = default;
};

struct LargeCommunity {
  static constexpr std::size_t kSize = 12;
  std::uint32_t global = 0, local1 = 0, local2 = 0;

  /// "1:2:3", "(1, 2, 3)".
  [[nodiscard]] static Result<LargeCommunity> parse(std::string_view text);
  static LargeCommunity from(View bytes);
  std::array<std::byte, kSize> bytes() const;
  std::string to_string(CommunityStyle style = CommunityStyle::plain) const;
  auto operator<=>(const LargeCommunity&) const = default;
};

namespace well_known {
inline constexpr Community kGracefulShutdown{0xffff0000};   // RFC 8326
inline constexpr Community kLlgrStale{0xffff0006};          // RFC 9494
inline constexpr Community kNoLlgr{0xffff0007};             // RFC 9494
inline constexpr Community kBlackhole{0xffff029a};          // RFC 7999
inline constexpr Community kNoExport{0xffffff01};           // RFC 1997
inline constexpr Community kNoAdvertise{0xffffff02};        // RFC 1997
inline constexpr Community kNoExportSubconfed{0xffffff03};  // RFC 1997
inline constexpr Community kNoPeer{0xffffff04};             // RFC 3765
}  // namespace well_known

namespace detail {
bool list_contains(View list, View one);
bool list_add(Bytes& list, View one);
std::size_t list_remove(Bytes& list, View one);
}  // namespace detail

template <class C>
bool contains(View list, const C& c) {
  return detail::list_contains(list, c.bytes());
}
/// False: the attribute is full (65,535 bytes). Nothing happens if it is there already.
template <class C>
[[nodiscard]] bool add(Bytes& list, const C& c) {
  return detail::list_add(list, c.bytes());
}
/// How many there were.
template <class C>
std::size_t remove(Bytes& list, const C& c) {
  return detail::list_remove(list, c.bytes());
}
/// Calls f(C) for each of the list.
template <class C, class F>
void each(View list, F&& f) {
  for (; list.size() >= C::kSize; list = list.subspan(C::kSize)) f(C::from(list.first(C::kSize)));
}
/// Takes out those for which gone(C) is true.
template <class C, class F>
std::size_t remove_if(Bytes& list, F&& gone) {
  Bytes kept;
  std::size_t n = 0;
  each<C>(list, [&](const C& c) {
    if (gone(c)) {
      ++n;
      return;
    }
    const auto b = c.bytes();
    kept.insert(kept.end(), b.begin(), b.end());
  });
  if (n != 0) list = std::move(kept);
  return n;
}
/// All of the list, separated by a blank (bird) or ", ".
template <class C>
std::string list_to_string(View list, CommunityStyle style = CommunityStyle::plain) {
  std::string out;
  each<C>(list, [&](const C& c) {
    if (!out.empty()) out += style == CommunityStyle::bird ? " " : ", ";
    out += c.to_string(style);
  });
  return out;
}

}  // namespace calico::bgp
