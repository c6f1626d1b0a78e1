#pragma once
/// Communities of the three kinds as patterns over their wire form, and the changes policy makes to such lists. Pure.
///
///   auto p = CommunityPattern::parse("65000:*");   // Result
///   p->matches(CommunityPattern::Kind::standard, element)
///
/// Text: "65000:1", "65000:*", a well-known name ("no-export", "blackhole", …); "1:2:3", "1:*:*" (large);
/// "rt:65000:1", "soo:10.0.0.1:1", "rt:*", "ext:0x0002fde800000001" (extended).
/// Thread: any. Errors: invalid. RFC: 1997, 4360 (types 0, 1, 2 of route target and origin), 5668, 8092, 3765, 7999,
/// 8326.
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.hpp"
#include "core/wire/cursor.hpp"

namespace calico::bgp {

struct CommunityPattern {
  enum class Kind : std::uint8_t { standard, extended, large };
  Kind kind = Kind::standard;
  std::array<std::byte, 12> value{}, mask{};  ///< `width(kind)` bytes count; value is zero where mask is

  [[nodiscard]] static Result<CommunityPattern> parse(std::string_view text);
  bool matches(Kind of, wire::View element) const;
  bool exact() const;  ///< names one community
  wire::View bytes() const;
  std::string to_string() const;
  auto operator<=>(const CommunityPattern&) const = default;
};

/// Bytes of one community: 4, 8, 12.
constexpr std::size_t width(CommunityPattern::Kind kind) {
  return kind == CommunityPattern::Kind::standard ? 4 : kind == CommunityPattern::Kind::extended ? 8 : 12;
}

/// Calls f(element) for each whole community of a list in wire form, until it says false.
template <class F>
void each_community(CommunityPattern::Kind kind, wire::View list, F&& f) {
  const auto n = width(kind);
  for (std::size_t at = 0; at + n <= list.size(); at += n)
    if (!f(list.subspan(at, n))) return;
}

/// Appends `pattern` (exact) unless it is there. Returns whether the list changed.
bool add_community(wire::Bytes& list, const CommunityPattern& pattern);
/// Removes what matches. Returns whether the list changed.
bool delete_communities(wire::Bytes& list, const CommunityPattern& pattern);

}  // namespace calico::bgp
