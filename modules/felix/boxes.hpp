#pragma once
/// Lists of allow rules as a few set lookups. A security group of 200 rules is 200 rules one after the other for each
/// new connection; here its rules of the form "address block, protocol, destination ports" become elements of
/// concatenated interval sets (`ip saddr . meta l4proto . th dport`), and one lookup asks them all.
///
///   Flat f = flatten(rules);      // f.lookups first, then f.rest as before
///
/// Why that is the same: of consecutive allow rules the order does not matter, so those that are boxes may be asked
/// first and together. Only the rules before the first that is not an allow are looked at. The kernel refuses boxes
/// that overlap in one set: what lies inside another box goes, the others are spread over layers in which none touches
/// another, and a layer with few boxes stays rules.
///
/// A rule is a box only if nothing but the box is in it (compared as a whole), so that a field that is added to
/// MatchRule later makes a rule no box and never a wider one. Cost: boxes² comparisons a policy. Thread: any, pure.
#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "core/base/ip.hpp"
#include "core/model/ruleset.hpp"
#include "core/nft/rule.hpp"
#include "core/nft/types.hpp"

namespace calico::felix {

/// All addresses from `first` to `last`, one protocol, all ports from `port` to `port_end`.
struct Box {
  Ip first;
  Ip last;
  std::uint8_t protocol = 0;
  std::uint16_t port = 0;
  std::uint16_t port_end = 65535;
  auto operator<=>(const Box&) const = default;
  bool contains(const Box& o) const;
  bool overlaps(const Box& o) const;
};

struct BoxSet {
  std::string name;    ///< follows the content, so that equal groups share a set and a restart finds it again
  bool source = true;  ///< the address is the packet's source, else its destination
  Family family = Family::v4;
  std::vector<Box> boxes;  ///< disjoint, sorted
};

struct Flat {
  std::vector<BoxSet> lookups;
  model::ChainRules rest;
};

/// Fewer boxes than this stay rules: a lookup costs as much as some of them.
inline constexpr std::size_t kFewBoxes = 8;
inline constexpr std::size_t kMaxLayers = 4;

[[nodiscard]] Flat flatten(const model::ChainRules& rules);

[[nodiscard]] nft::Set to_nft(const BoxSet& s);
[[nodiscard]] nft::Element to_nft(const Box& b);
/// Accepts what is in the set.
[[nodiscard]] nft::Rule lookup_rule(const BoxSet& s);

}  // namespace calico::felix
