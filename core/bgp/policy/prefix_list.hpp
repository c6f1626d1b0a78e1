#pragma once
/// A set of prefixes with lengths: "10.0.0.0/8{24,32}" holds every /24 to /32 inside 10.0.0.0/8. Built once, then
/// asked: one binary search for each distinct length of a block, whatever the size of the list.
///
///   PrefixList list({{*Prefix::parse("10.0.0.0/8"), 24, 32}});
///   list.contains(*Prefix::parse("10.1.2.0/24"))   // true
///
/// Thread: any (immutable). Errors: parse_prefix_entry says what is wrong; the constructor takes only what it lets
/// pass.
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.hpp"
#include "core/base/ip.hpp"

namespace calico::bgp {

struct PrefixEntry {
  Prefix block;          ///< masked
  std::uint8_t min = 0;  ///< lengths; block.len <= min <= max <= bits of the family
  std::uint8_t max = 0;
  auto operator<=>(const PrefixEntry&) const = default;
};

/// "P" is the block itself, "P+" the block and all inside, "P{24,32}" what is inside with those lengths. Errors:
/// invalid.
[[nodiscard]] Result<PrefixEntry> parse_prefix_entry(std::string_view text);
[[nodiscard]] std::string to_string(const PrefixEntry& entry);

class PrefixList {
 public:
  PrefixList() = default;
  explicit PrefixList(std::vector<PrefixEntry> entries);
  bool contains(const Prefix& prefix) const;
  /// Sorted; ranges of one block that touch are one entry, so that equal sets written alike compare equal.
  const std::vector<PrefixEntry>& entries() const { return entries_; }
  bool operator==(const PrefixList& o) const { return entries_ == o.entries_; }

 private:
  std::vector<PrefixEntry> entries_;
  std::vector<std::uint8_t> lengths4_, lengths6_;  // of blocks that are there, ascending
};

}  // namespace calico::bgp
