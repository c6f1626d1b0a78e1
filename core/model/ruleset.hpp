#pragma once
/// What the kernel should enforce for the endpoints of one host, as a value: policy chains, sets with their elements,
/// and a plan for each endpoint. Made by the Compiler (core/model/compiler.hpp), written by the felix module; no kernel
/// type appears here, so that it is compared and printed in tests.
///
/// Shape. An endpoint's distinct list of policies is its *class*; a class is a device group (IFLA_GROUP) of our range.
/// The maps "from" and "to" lead from the group to the class's chain of a direction; that chain jumps to the chain of
/// each policy, then of each profile, and ends in drop. Allow is accept: egress and ingress are judged in two hooks, so
/// accept ends one judgement. Pass goes to what follows its tier: a policy with a Pass rule is written into the class's
/// own chain, and what follows is the chain "in-<group>-2" (then -3, …), entered by goto: nothing ever comes back.
///
/// Host endpoints have the same chains under their own names, and maps from the interface instead of its group,
/// "hosts-<way>": raw-in and raw-out (doNotTrack: before connections are tracked), pre-in (preDNAT: before addresses
/// are translated), in and out (with the host itself), fwd-in and fwd-out (forwarded). The chains "hosts-pass" (accept)
/// and "any-<way>" are always there; the latter go to the endpoint of all other interfaces, or are empty: then all
/// passes. What a rule of raw-* or pre-in allows, the later ones are not asked about: they begin with a rule that
/// accepts it.
#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/ip.hpp"
#include "core/model/keys.hpp"
#include "core/model/qos.hpp"
#include "core/model/resources.hpp"

namespace calico::model {

/// Device groups of classes: kGroupClosed lets nothing pass (it has no element in the maps), the others are above it.
inline constexpr std::uint32_t kGroupClosed = 0x0c000000;
inline constexpr std::uint32_t kGroupSpan = 0x01000000;  ///< wide, because a class takes its number from its hash
constexpr bool is_our_group(std::uint32_t g) { return g - kGroupClosed < kGroupSpan; }

enum class SetKind : std::uint8_t {
  if_mac_ip4,   ///< interface . MAC . IPv4
  if_mac_ip6,   ///< interface . MAC . IPv6
  if_mac_net4,  ///< interface . MAC . IPv4 block (intervals)
  if_mac_net6,
  if_mac,
  ip4,
  ip6,
  net4,  ///< disjoint IPv4 ranges
  net6,
  ports,       ///< disjoint port ranges
  ip4_port,    ///< IPv4 . port
  ip6_port,    ///< IPv6 . port
  ip4_to_ip4,  ///< map: address to address
  ip6_to_ip6,
  ip4_twice_to_ip4,  ///< map: the same address as source and destination to an address
  ip6_twice_to_ip6,
  if_packets,      ///< interface with its limit of packets a second
  if_bytes,        ///< interface with its limit of bytes a second
  if_connections,  ///< interface with its limit of connections
  group_verdict,   ///< map: device group to the chain to go to
  if_verdict,      ///< map: interface to the chain to go to
};
[[nodiscard]] std::string_view to_string(SetKind k);

/// One element; only the fields of its set's kind are used, the others stay at their defaults.
struct Element {
  std::string interface_name;
  Mac mac;
  Ip ip;      ///< first address for blocks and ranges
  Ip ip_end;  ///< last address, inclusive; equal to ip when single; of a map, what the address is translated to
  std::uint16_t port = 0;
  std::uint16_t port_end = 0;  ///< inclusive
  std::uint32_t group = 0;
  std::string chain;
  std::uint64_t rate = 0;   ///< a second, or how many at all
  std::uint32_t burst = 0;  ///< beyond the rate
  auto operator<=>(const Element&) const = default;
};
[[nodiscard]] std::string to_string(SetKind kind, const Element& e);

struct SetContent {
  SetKind kind = SetKind::ip4;
  bool arp = false;   ///< lives in the arp table
  std::string about;  ///< for people: the selector it stands for
  std::set<Element> elements;
  bool operator==(const SetContent&) const = default;
};

enum class Verdict : std::uint8_t {
  accept,
  untrack,       ///< accept for the later ways as well, and no connection is tracked: Allow of doNotTrack
  accept_early,  ///< accept for the later ways as well: Allow of preDNAT
  drop,
  jump,     ///< to `target`, and on with the next rule when it decides nothing
  go,       ///< to `target`, for good
  return_,  ///< to the caller: Pass of a profile
  log,      ///< and on
  pass,     ///< inside the compiler only: to what follows the tier
};

/// All given matches must hold.
struct MatchRule {
  struct Side {
    std::optional<Prefix> net;
    std::vector<std::string> in_sets;
    std::vector<std::string> not_in_sets;
    std::string ip_port_set;  ///< of address and port together
    std::vector<std::string> not_ip_port_sets;
    std::optional<PortRange> ports;
    std::string port_set;
    std::string not_port_set;
    bool operator==(const Side&) const = default;
  };
  std::optional<Family> family;
  std::optional<std::uint8_t> protocol;
  std::optional<std::uint8_t> not_protocol;
  std::optional<Icmp> icmp;
  std::optional<Icmp> not_icmp;  ///< with a code: the type is the one of `icmp`, the code is another
  Side src;
  Side dst;
  bool accepted_early = false;  ///< by untrack or accept_early
  Verdict verdict = Verdict::drop;
  std::string target;  ///< chain of jump and go
  bool operator==(const MatchRule&) const = default;
};
[[nodiscard]] std::string to_string(const MatchRule& r);

using ChainRules = std::vector<MatchRule>;

/// What one local endpoint gets.
struct EndpointPlan {
  std::string key;  ///< datastore key
  std::string ns;
  WorkloadEndpointName name;
  std::string interface_name;
  std::optional<Mac> mac;
  std::vector<Prefix> nets;  ///< allowed as source, routed to the interface
  std::vector<IpNat> nats;   ///< floating IPs: routed to the interface, translated, not allowed as source
  QosControls qos;
  std::optional<Ip> gateway4;
  std::optional<Ip> gateway6;
  std::uint32_t group = kGroupClosed;
  std::vector<std::string> policies;  ///< "<ns>/<name>", in the order they are asked
  std::string error;                  ///< why it is closed or left alone; empty = enforced as written
  std::vector<std::string> notes;     ///< what of it is not enforced or left out, one line each
  bool left_alone = false;            ///< its interface is another endpoint's, or none of ours: nothing is programmed
  bool operator==(const EndpointPlan&) const = default;
};

/// What one host endpoint of this host gets. Its chains: "hep-<way>/<name>" for the ways above; each may have followers
/// ("…/2").
struct HostPlan {
  std::string name;
  std::vector<std::string> interfaces;  ///< it polices; "*" = all that no other does
  std::vector<std::string> chains;      ///< the first ones
  std::vector<std::string> policies;    ///< names, in the order they are asked
  std::string error;                    ///< why it polices nothing, or refuses all; empty = enforced as written
  std::vector<std::string> notes;
  bool operator==(const HostPlan&) const = default;
};

struct Ruleset {
  std::map<std::string, ChainRules> chains;
  std::map<std::string, std::string> titles;  ///< for people: what a chain is whose name holds a hash, by its name
  std::map<std::string, SetContent> sets;
  std::map<std::string, EndpointPlan> endpoints;  ///< by key
  std::map<std::string, HostPlan> hosts;          ///< host endpoints of this host, by key
  bool operator==(const Ruleset&) const = default;
};
/// The whole value as text, ordered: what golden tests compare.
[[nodiscard]] std::string to_text(const Ruleset& r);

struct SetDelta {
  std::set<Element> added;
  std::set<Element> removed;
};
/// What changed since the last flush; names to be looked up in the Ruleset (absent there = gone).
struct RulesetDelta {
  std::set<std::string> chains;
  std::set<std::string> sets_made;  ///< new sets: all their elements are in `elements` as added
  std::set<std::string> sets_gone;
  std::map<std::string, SetDelta> elements;
  std::set<std::string> endpoints;
  std::set<std::string> hosts;
  bool empty() const {
    return chains.empty() && sets_made.empty() && sets_gone.empty() && elements.empty() && endpoints.empty() &&
           hosts.empty();
  }
};

/// Blocks as the fewest disjoint ranges [first, last], ordered; blocks that touch are joined. One family.
[[nodiscard]] std::vector<std::pair<Ip, Ip>> disjoint_ranges(std::vector<Prefix> nets);
[[nodiscard]] std::vector<PortRange> disjoint_ports(std::vector<PortRange> ports);

}  // namespace calico::model
