#pragma once
/// A pattern over the AS path, AS by AS, and the questions about single ASes. A path is read as a row of elements: each
/// AS of a sequence is one, a set is one (it matches where one of its members does).
///
///   auto p = PathPattern::parse("65000 * 64512-65534");   // begins with 65000, ends in a private AS
///   p->matches(path)
///
/// Tokens, by blanks: "65000" an AS, "64512-65534" a range, "?" any one AS, "*" any number of ASes (also none). The
/// whole path must match; "" is the empty path. Cost: at most tokens times path, no backtracking beyond the last star.
/// Thread: any (immutable). Errors: invalid. Why not regular expressions: see README.md.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.hpp"
#include "core/base/ids.hpp"
#include "core/bgp/codec/attributes.hpp"

namespace calico::bgp {

struct AsRange {
  std::uint32_t first = 0, last = 0;
  bool contains(std::uint32_t as) const { return first <= as && as <= last; }
  auto operator<=>(const AsRange&) const = default;
};
/// "65000" or "64512-65534". Errors: invalid.
[[nodiscard]] Result<AsRange> parse_as_range(std::string_view text);
[[nodiscard]] std::string to_string(const AsRange& range);

class PathPattern {
 public:
  struct Token {
    bool star = false;
    AsRange as;  ///< "?" is the whole range
    bool operator==(const Token&) const = default;
  };
  static constexpr std::size_t kMaxTokens = 64;

  PathPattern() = default;
  [[nodiscard]] static Result<PathPattern> parse(std::string_view text);
  /// `ases`, then anything.
  [[nodiscard]] static PathPattern begins_with(const std::vector<Asn>& ases);
  bool matches(const AsPath& path) const;
  std::string to_string() const;
  bool operator==(const PathPattern&) const = default;

 private:
  std::vector<Token> tokens_;  // no two stars in a row
};

/// Some AS of the path lies in one of the ranges.
[[nodiscard]] bool path_contains(const AsPath& path, const std::vector<AsRange>& ranges);

}  // namespace calico::bgp
