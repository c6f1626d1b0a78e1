#pragma once
/// UPDATE: decoding with RFC 7606's verdicts, and packing of routes into as few messages as fit. Pure.
/// Thread: any. Errors: Fault where the routes in the message cannot be told (session reset); everything milder is in
/// the value. RFC: 4271 4.3, 6.3; 4760; 7606 5; 4724 2 (End-of-RIB); 7911 3 (path identifiers); 8654; 8950 4 (IPv4
/// routes with IPv6 next hops).
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/bgp/codec/attributes.hpp"

namespace calico::bgp {

/// One route as a message names it: the prefix and, where the family has add-path, which of its paths.
struct Nlri {
  Prefix prefix;
  std::uint32_t path_id = 0;
  auto operator<=>(const Nlri&) const = default;
};

/// One UPDATE. Withdrawals are applied before announcements. Prefixes are masked, in the message's order.
struct Update {
  std::vector<Nlri> withdrawn;     ///< both fields, all families
  std::vector<Nlri> announced;     ///< NLRI field; next hop in attrs
  std::vector<Nlri> announced_mp;  ///< MP_REACH_NLRI; next hop below
  Attrs attrs;
  Ip mp_next_hop;  ///< IPv6, or for IPv4 routes either
  /// RFC 7606: `announced` and `announced_mp` are withdrawn, not announced; why.
  bool treat_as_withdraw = false;
  std::string reason;  ///< also of a discarded attribute
  std::uint32_t attributes_discarded = 0;
  std::optional<AfiSafi> end_of_rib;
  std::optional<AfiSafi> ignored_family;  ///< MP routes of a family other than IPv4 and IPv6 unicast
};

/// `body` is the message without its header. `out` is cleared first, so that its memory serves again; on a Fault its
/// content is unspecified and must not be used.
[[nodiscard]] Decoded<void> decode_update(View body, const CodecContext& context, Update& out);

/// How one family is written to one peer (or to a group of peers that negotiated the same).
struct EncodeContext {
  Family family = Family::v4;
  bool add_path = false;           ///< the peer takes path identifiers; without it they are not written
  bool extended_next_hop = false;  ///< IPv4 routes may have an IPv6 next hop (RFC 8950)
  std::size_t max_message = kMaxMessage;
  bool operator==(const EncodeContext&) const = default;
};

/// Packs routes of one family that share one attribute set; `attributes` is the canonical block, which has NEXT_HOP if
/// `next_hop` is IPv4. Any other next hop goes into MP_REACH_NLRI. Complete messages are appended to `out` in place;
/// `messages` is raised by their number. False: the attributes leave no room for a single route, or the peer cannot be
/// told such a next hop; nothing was written.
[[nodiscard]] bool encode_announce(Bytes& out, std::size_t& messages, const EncodeContext& context, View attributes,
                                   const Ip& next_hop, std::span<const Nlri> routes);
[[nodiscard]] bool encode_announce(Bytes& out, std::size_t& messages, const EncodeContext& context, View attributes,
                                   const Ip& next_hop, std::span<const Prefix> prefixes);
void encode_withdraw(Bytes& out, std::size_t& messages, const EncodeContext& context, std::span<const Nlri> routes);
void encode_withdraw(Bytes& out, std::size_t& messages, const EncodeContext& context, std::span<const Prefix> prefixes);
void encode_end_of_rib(Bytes& out, AfiSafi family);

// For whom the defaults do.
[[nodiscard]] inline bool encode_announce(Bytes& out, std::size_t& messages, Family family, View attributes,
                                          const Ip& next_hop, std::span<const Prefix> prefixes,
                                          std::size_t max_message = kMaxMessage) {
  return encode_announce(out, messages, EncodeContext{family, false, false, max_message}, attributes, next_hop,
                         prefixes);
}
inline void encode_withdraw(Bytes& out, std::size_t& messages, Family family, std::span<const Prefix> prefixes,
                            std::size_t max_message = kMaxMessage) {
  encode_withdraw(out, messages, EncodeContext{family, false, false, max_message}, prefixes);
}
inline void encode_end_of_rib(Bytes& out, const EncodeContext& context) {
  encode_end_of_rib(out, unicast(context.family));
}

}  // namespace calico::bgp
