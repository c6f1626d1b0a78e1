#pragma once
/// What an operator decides about routes, as data: ordered rules of conditions, changes and a verdict, compiled once,
/// immutable and shared by all sessions that name it. What the protocol demands (loops, reflection, next hops) is in
/// rib/policy.hpp and stays there.
///
///   auto policy = RoutePolicy::compile(std::move(rules), Default::reject);   // Result<shared_ptr<const RoutePolicy>>
///   std::optional<Attrs> changed;
///   auto v = (*policy)->evaluate({.prefix = prefix, .source = RouteSource::external}, attrs, changed);
///   if (!v.accept) …;                       // filtered by rule v.rule
///   const Attrs& out = changed ? *changed : attrs;
///
/// Rules are tried in order. One whose conditions all hold applies its changes; `accept` and `reject` end there, `next`
/// goes on with what was changed. After the last rule the default decides. Conditions see the changes of rules before.
/// A change that changes nothing is none: `changed` stays empty and nothing is copied.
///
/// Cost of a route: rules x conditions; a list of prefixes is a binary search per distinct length, and neighbouring
/// rules that differ in their prefixes only are one rule. An empty PolicyRef costs a test. Bounds: see the constants.
/// Thread: any (immutable). Owns: its rules. Errors: compile: invalid (beyond a bound).
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/base/error.hpp"
#include "core/base/ids.hpp"
#include "core/base/ip.hpp"
#include "core/bgp/codec/attributes.hpp"
#include "core/bgp/policy/community.hpp"
#include "core/bgp/policy/path_pattern.hpp"
#include "core/bgp/policy/policy_ref.hpp"
#include "core/bgp/policy/prefix_list.hpp"

namespace calico::bgp {

/// Where a route comes from: this host, or a peer of the own or of another AS.
enum class RouteSource : std::uint8_t { local = 1, internal = 2, external = 4 };
/// The neighbour the policy is asked for: the one it came from (import), the one it would go to (export).
enum class PeerKind : std::uint8_t { internal = 1, external = 2 };

/// A route and its surroundings, as far as attributes do not say them. Views, for one call.
struct RouteView {
  const Prefix& prefix;
  RouteSource source = RouteSource::internal;
  PeerKind peer = PeerKind::internal;
  std::string_view interface {};  ///< of a local route, "" if it has none or nobody knows
};

// --- conditions ------------------------------------------------------------------------------------------------------

struct FamilyIs {
  Family family = Family::v4;
  bool operator==(const FamilyIs&) const = default;
};
struct SourceIs {
  std::uint8_t mask = 0;  ///< of RouteSource
  bool operator==(const SourceIs&) const = default;
};
struct PeerIs {
  std::uint8_t mask = 0;  ///< of PeerKind
  bool operator==(const PeerIs&) const = default;
};
struct OriginIs {
  std::uint8_t mask = 0;  ///< 1 << origin
  bool operator==(const OriginIs&) const = default;
};
struct NumberIn {
  /// An absent LOCAL_PREF is 100, an absent MED 0, as in the decision. A set counts one in the path's length.
  enum class Field : std::uint8_t { local_pref, med, path_length } field = Field::local_pref;
  std::uint32_t min = 0, max = UINT32_MAX;
  bool operator==(const NumberIn&) const = default;
};
struct PrefixIn {
  PrefixList list;
  bool operator==(const PrefixIn&) const = default;
};
struct NextHopIn {
  PrefixList list;
  bool operator==(const NextHopIn&) const = default;
};
struct InterfaceIs {
  std::vector<std::string> globs;  ///< "tap*", "eth0"; `*` stands for any text, anywhere
  bool operator==(const InterfaceIs&) const = default;
};
struct PathAs {
  enum class Where : std::uint8_t { anywhere, neighbour, origin } where = Where::anywhere;
  std::vector<AsRange> ases;  ///< one of them
  bool operator==(const PathAs&) const = default;
};
struct PathLike {
  PathPattern pattern;
  bool operator==(const PathLike&) const = default;
};
struct HasCommunity {
  /// any: one of the patterns is met; all: each is; exact: each is, and the route has no other community of a kind
  /// that is listed.
  enum class Mode : std::uint8_t { any, all, exact } mode = Mode::any;
  std::vector<CommunityPattern> patterns;
  bool operator==(const HasCommunity&) const = default;
};

struct Condition {
  /// In order of cost: conditions of a rule are tried in this order.
  std::variant<FamilyIs, SourceIs, PeerIs, OriginIs, NumberIn, PrefixIn, NextHopIn, InterfaceIs, PathAs, PathLike,
               HasCommunity>
      what;
  bool negated = false;
  bool operator==(const Condition&) const = default;
};

// --- changes ---------------------------------------------------------------------------------------------------------

struct SetNumber {
  enum class Field : std::uint8_t { local_pref, med } field = Field::local_pref;
  std::uint32_t value = 0;
  bool operator==(const SetNumber&) const = default;
};
struct RemoveMed {
  bool operator==(const RemoveMed&) const = default;
};
struct SetOrigin {
  std::uint8_t origin = 0;
  bool operator==(const SetOrigin&) const = default;
};
/// Told in the verdict, for the exporter to carry out: it alone knows its address on the session.
struct NextHopTo {
  bool self = true;  ///< false: keep
  bool operator==(const NextHopTo&) const = default;
};
struct SetNextHop {
  Ip ip;  ///< only routes of its family are changed
  bool operator==(const SetNextHop&) const = default;
};
struct Prepend {
  std::vector<Asn> ases;  ///< as they will stand, the first one first
  bool operator==(const Prepend&) const = default;
};
struct ChangeCommunities {
  /// set: the patterns (exact) become the lists of their kinds; an empty set removes all three lists.
  enum class How : std::uint8_t { set, add, remove } how = How::add;
  std::vector<CommunityPattern> patterns;
  bool operator==(const ChangeCommunities&) const = default;
};
using Change = std::variant<SetNumber, RemoveMed, SetOrigin, NextHopTo, SetNextHop, Prepend, ChangeCommunities>;

// --- rules -----------------------------------------------------------------------------------------------------------

struct PolicyRule {
  enum class Then : std::uint8_t { accept, reject, next } then = Then::accept;
  std::vector<Condition> conditions;  ///< all must hold; none: always
  std::vector<Change> changes;        ///< in order; a rejecting rule has none
  bool operator==(const PolicyRule&) const = default;
};

enum class Default : std::uint8_t { accept, reject };

/// What a policy says about one route.
struct PolicyVerdict {
  static constexpr std::uint32_t kDefault = UINT32_MAX;
  bool accept = true;
  std::uint32_t rule = kDefault;      ///< that decided, for RoutePolicy::rules()
  std::optional<bool> next_hop_self;  ///< true: self, false: keep, unset: as the session says
  bool med_set = false;  ///< a MED that an exporter must not take away (RFC 4271 5.1.4 is about received ones)
};

class RoutePolicy {
 public:
  static constexpr std::size_t kMaxRules = 10000, kMaxPrefixes = 200000, kMaxConditions = 32, kMaxChanges = 32,
                               kMaxValues = 1000, kMaxPrepend = 32;

  [[nodiscard]] static Result<std::shared_ptr<const RoutePolicy>> compile(std::vector<PolicyRule> rules,
                                                                          Default otherwise);

  [[nodiscard]] PolicyVerdict evaluate(const RouteView& route, const Attrs& attrs, std::optional<Attrs>& changed) const;

  /// As compiled: conditions in order of cost, neighbours joined.
  const std::vector<PolicyRule>& rules() const { return rules_; }
  Default otherwise() const { return default_; }
  /// False: every prefix of an UPDATE gets the same answer, one call is enough (but for families).
  bool depends_on_prefix() const { return depends_on_prefix_; }
  bool changes_routes() const { return changes_routes_; }
  bool operator==(const RoutePolicy& o) const { return default_ == o.default_ && rules_ == o.rules_; }

 private:
  RoutePolicy() = default;
  std::vector<PolicyRule> rules_;
  Default default_ = Default::reject;
  bool depends_on_prefix_ = false, changes_routes_ = false;
};

/// `*` stands for any text, also none; everything else for itself.
[[nodiscard]] bool matches_glob(std::string_view pattern, std::string_view text);

}  // namespace calico::bgp
