#pragma once
/// Path attributes: one table row per attribute (name, flags, length rule, RFC 7606 verdict), the decoded set as a
/// value, and the canonical wire form under which sets are interned. Pure. Thread: any. Errors: only what RFC 7606
/// leaves to a session reset is a Fault; the rest is in AttrBlock. RFC: 4271 4.3, 5; 4456 8; 4760 3-4; 6793; 7606 3, 7;
/// 7607; 9774; 1997; 4360; 8092; 8950. Deviations: an unrecognized well-known attribute makes the routes withdrawn
/// instead of resetting the session (one bad route must not cost the others); LOCAL_PREF missing from an iBGP route
/// likewise (4271 5.1.5 makes it mandatory there), and a path of more than 7,500 hops.
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/bgp/codec/message.hpp"

namespace calico::bgp {

enum AttrType : std::uint8_t {
  kAttrOrigin = 1,
  kAttrAsPath = 2,
  kAttrNextHop = 3,
  kAttrMed = 4,
  kAttrLocalPref = 5,
  kAttrAtomicAggregate = 6,
  kAttrAggregator = 7,
  kAttrCommunities = 8,
  kAttrOriginatorId = 9,
  kAttrClusterList = 10,
  kAttrMpReach = 14,
  kAttrMpUnreach = 15,
  kAttrExtCommunities = 16,
  kAttrAs4Path = 17,
  kAttrAs4Aggregator = 18,
  kAttrLargeCommunities = 32,
};
inline constexpr std::uint8_t kFlagOptional = 0x80, kFlagTransitive = 0x40, kFlagPartial = 0x20, kFlagExtended = 0x10;

/// An AS path in wire form with 4-octet numbers, always well formed.
class AsPath {
 public:
  enum SegmentType : std::uint8_t { kSet = 1, kSequence = 2, kConfedSequence = 3, kConfedSet = 4 };
  /// Longest path taken from a peer, with 4-octet numbers: 7,500 hops. An attribute holds twice as much, so that
  /// AS4_PATH can be put back into it and own numbers can be prepended.
  static constexpr std::size_t kLongest = 30000;
  AsPath() = default;
  static AsPath sequence(std::span<const Asn> ases);
  /// Errors (empty optional): overrun, unknown type, empty segment, AS 0, longer than kLongest. `width` is 2 or 4.
  /// drop_confederation: such segments are left out (RFC 6793 6, for AS4_PATH), not an error.
  [[nodiscard]] static std::optional<AsPath> decode(View wire, std::size_t width, bool drop_confederation = false);

  View wire() const { return bytes_; }
  bool empty() const { return bytes_.empty(); }
  /// RFC 4271 9.1.2.2 a: a set counts one.
  std::uint32_t length() const;
  bool contains(Asn as) const { return count(as) > 0; }
  std::uint32_t count(Asn as) const;
  bool has_set() const;
  bool has_wide() const;              ///< some AS needs more than 16 bits
  std::optional<Asn> first() const;   ///< the neighbour's, if the path begins with a sequence
  std::optional<Asn> origin() const;  ///< the last AS, if the path ends in a sequence
  AsPath prepended(Asn as) const;
  /// RFC 6793 4.2.3: the path of a 2-octet speaker with the tail of AS4_PATH put back.
  AsPath merged(const AsPath& as4) const;
  /// 2-octet form with AS_TRANS.
  Bytes narrow() const;
  std::string to_string() const;  ///< "65000 64513 { 1 2 }"
  bool operator==(const AsPath&) const = default;

 private:
  Bytes bytes_;
};

struct Aggregator {
  Asn as;
  std::uint32_t id = 0;
  bool operator==(const Aggregator&) const = default;
};

struct UnknownAttr {
  std::uint8_t type = 0, flags = 0;
  Bytes value;
  bool operator==(const UnknownAttr&) const = default;
};

/// One set of attributes of a route; what RFC 4760 moves into MP_REACH (the next hop) is a plain member.
struct Attrs {
  std::uint8_t origin = 0;  ///< 0 IGP, 1 EGP, 2 incomplete
  AsPath as_path;
  Ip next_hop;  ///< IPv4: the attribute; IPv6: from MP_REACH. 0.0.0.0: none
  std::optional<std::uint32_t> med, local_pref;
  bool atomic_aggregate = false;
  std::optional<Aggregator> aggregator;
  Bytes communities;  ///< wire form, as the two below
  std::optional<std::uint32_t> originator_id;
  std::vector<std::uint32_t> cluster_list;
  Bytes ext_communities, large_communities;
  std::vector<UnknownAttr> unknown;  ///< optional transitive ones, by type; Partial is set

  bool has_community(std::uint32_t c) const;
  bool operator==(const Attrs&) const = default;
};

/// What was negotiated with the sender of an UPDATE, as far as its meaning depends on it.
struct CodecContext {
  bool ibgp = true;
  bool as4 = true;                 ///< both sides announced 4-octet AS numbers
  bool add_path_rx[2]{};           ///< IPv4, IPv6: path identifiers stand before the prefixes (RFC 7911)
  bool extended_next_hop = false;  ///< IPv4 routes may have an IPv6 next hop (RFC 8950)
  /// Take routes with an AS_SET in their path. RFC 9774 4: not unless the operator says so; they are withdrawn.
  bool as_sets = false;
  std::size_t max_message = kMaxMessage;  ///< both ways (RFC 8654); for whoever frames, the decoder takes any size

  bool add_path(Family f) const { return add_path_rx[f == Family::v4 ? 0 : 1]; }
  bool operator==(const CodecContext&) const = default;
};

struct MpReach {
  AfiSafi family;
  Ip next_hop;
  bool next_hop_ok = true;  ///< one that the family may have
  View nlri;
};
struct MpUnreach {
  AfiSafi family;
  View nlri;
};

/// What one attribute block says. The views point into the message.
struct AttrBlock {
  Attrs attrs;
  bool has_origin = false, has_as_path = false, has_next_hop = false;
  std::optional<MpReach> reach;
  std::optional<MpUnreach> unreach;
  bool withdraw = false;  ///< RFC 7606: treat the announced routes as withdrawn
  std::string reason;     ///< of the first error, also a discarded attribute's
  std::uint32_t discarded = 0;
};

/// Decodes the path attributes field. Fault: only what makes the NLRI unreadable (RFC 7606 3 g, 5.3, 7.11).
[[nodiscard]] Decoded<AttrBlock> decode_attributes(View block, const CodecContext& context);

/// Canonical form: ascending type, minimal length fields, NEXT_HOP only if it is IPv4, never MP_*.
/// as4 = false: for a 2-octet peer (AS4_PATH, AS4_AGGREGATOR added where needed).
/// Appended to `out`. False: an attribute does not fit its length field (a path prepended beyond 65,535 bytes); nothing
/// was appended.
[[nodiscard]] bool encode_attributes(Bytes& out, const Attrs& attrs, bool as4 = true);
void encode_attributes(wire::Writer& w, const Attrs& attrs, bool as4 = true);

/// What a reflector adds (RFC 4456 8), straight on the canonical form of a route with 4-octet numbers: ORIGINATOR_ID if
/// there is none, `cluster_id` in front of CLUSTER_LIST. The result is canonical and appended to `out`. False: the list
/// is full; nothing was appended.
[[nodiscard]] bool reflect_attributes(View canonical, std::uint32_t originator, std::uint32_t cluster_id, Bytes& out);

}  // namespace calico::bgp
