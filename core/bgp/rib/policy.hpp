#pragma once
/// What happens to a route's attributes on the way in and on the way out: loop checks, reflection, next hops. Pure.
/// Thread: any. Errors: a refusal carries its reason.
/// RFC: 4271 5, 9.1.2 and 9.2; 4456 8 (ORIGINATOR_ID, CLUSTER_LIST); 1997 (well-known communities); 4360 2;
/// 7999 (BLACKHOLE); 8326 (GRACEFUL_SHUTDOWN); 9494 4.2 (LLGR_STALE).
#include <optional>
#include <string>

#include "core/bgp/codec/attributes.hpp"
#include "core/bgp/engine.hpp"

namespace calico::bgp {

/// This speaker, as far as routes are concerned.
struct LocalSpeaker {
  Asn local_as;
  std::uint32_t router_id = 0, cluster_id = 0;
  bool draining = false;  ///< about to stop: what is announced is the last choice (RFC 8326)
  bool operator==(const LocalSpeaker&) const = default;
};

/// What an operator's export filter decided beside the attributes themselves.
enum ExportVariant : std::uint8_t {
  kHopSelf = 1,  ///< our address as next hop
  kHopKeep = 2,  ///< the next hop as it is
  kMedSet = 4,   ///< the MED is meant for the neighbour
};

/// Where a route came from.
struct Source {
  enum class Kind : std::uint8_t { local, internal, external } kind = Kind::local;
  bool client = false;
  std::uint32_t router_id = 0;
};

/// All that decides which routes a peer is sent and in which bytes: peers with equal targets form an update group.
struct Target {
  bool exports = true;  ///< false: nothing at all
  bool internal = true;
  bool client = false;
  NextHopMode next_hop = NextHopMode::keep;
  std::optional<Ip> self_v4, self_v6;
  bool families[2] = {true, true};    ///< v4, v6
  bool as4 = true;                    ///< both sides announced 4-octet AS numbers
  bool add_path[2] = {false, false};  ///< the peer takes several paths of a prefix (RFC 7911)
  bool extended_next_hop = false;     ///< IPv4 routes may have an IPv6 next hop (RFC 8950)
  bool long_lived = false;            ///< the peer announced LLGR: it may be told of long-lived stale routes (RFC 9494)
  std::uint32_t max_message = kMaxMessage;
  PolicyRef filter;  ///< the operator's; empty: everything
  /// The address of ours that stands as next hop for routes of the family.
  const std::optional<Ip>& self(Family family) const {
    return family == Family::v4 && (self_v4 || !extended_next_hop) ? self_v4 : self_v6;
  }
  bool operator==(const Target&) const = default;
};

/// Checks and completes a received route in place. Returns why it is not used. `allow_own_as`: how often our AS may
/// stand in the path (sites of one AS that reach each other through another).
[[nodiscard]] std::optional<std::string> import_route(Attrs& attrs, const LocalSpeaker& speaker, bool internal,
                                                      const std::optional<Ip>& own_address,
                                                      std::uint8_t allow_own_as = 0);

/// False: not to this kind of peer (the cheap part, before any attribute is touched).
[[nodiscard]] bool may_export(const Source& source, const Target& target, bool no_export, bool no_advertise,
                              bool llgr_stale = false);

/// The attributes `target` is sent; nullopt: nothing (no own address of the family).
[[nodiscard]] std::optional<Attrs> export_route(Attrs attrs, Family family, const Source& source, const Target& target,
                                                const LocalSpeaker& speaker, std::uint8_t variant = 0);

}  // namespace calico::bgp
