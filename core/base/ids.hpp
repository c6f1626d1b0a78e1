#pragma once
/// Numbers that must not be mixed up, each a type of its own.
#include <fmt/format.h>

#include <compare>
#include <cstdint>
#include <functional>

namespace calico {

template <class Tag, class Rep>
struct Id {
  Rep value{};
  auto operator<=>(const Id&) const = default;
};

using Asn = Id<struct AsnTag, std::uint32_t>;          ///< 4-octet AS number (RFC 6793)
using IfIndex = Id<struct IfIndexTag, std::uint32_t>;  ///< kernel interface index, 0 = none
using TableId = Id<struct TableIdTag, std::uint32_t>;  ///< kernel routing table

}  // namespace calico

template <class Tag, class Rep>
struct std::hash<calico::Id<Tag, Rep>> {
  std::size_t operator()(const calico::Id<Tag, Rep>& id) const noexcept { return std::hash<Rep>{}(id.value); }
};
template <class Tag, class Rep>
struct fmt::formatter<calico::Id<Tag, Rep>> : fmt::formatter<Rep> {
  template <class C>
  auto format(const calico::Id<Tag, Rep>& v, C& ctx) const {
    return fmt::formatter<Rep>::format(v.value, ctx);
  }
};
