#pragma once
/// UPDATE: decoding with RFC 7606's verdicts, and packing of routes into as few messages as fit. Pure.
/// Thread: any. Errors: Fault where the routes in the message cannot be told (session reset); everything milder is in
/// the value. RFC: 4271 4.3, 6.3; 4760; 7606 5; 4724 2 (End-of-RIB).
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/bgp/codec/attributes.hpp"

namespace calico::bgp {

/// One UPDATE. Withdrawals are applied before announcements. Prefixes are masked, in the message's order.
struct Update {
  std::vector<Prefix> withdrawn;     ///< both fields, all families
  std::vector<Prefix> announced;     ///< NLRI field; next hop in attrs
  std::vector<Prefix> announced_mp;  ///< MP_REACH_NLRI; next hop below
  Attrs attrs;
  Ip mp_next_hop;
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

/// Packs prefixes of one family that share one attribute set; `attributes` is the canonical block (with NEXT_HOP for
/// IPv4, without for IPv6, where `next_hop` goes into MP_REACH_NLRI). Complete messages are appended to `out`;
/// `messages` is raised by their number. False: the attributes leave no room for a single prefix, nothing was written.
[[nodiscard]] bool encode_announce(Bytes& out, std::size_t& messages, Family family, View attributes,
                                   const Ip& next_hop, std::span<const Prefix> prefixes,
                                   std::size_t max_message = kMaxMessage);
void encode_withdraw(Bytes& out, std::size_t& messages, Family family, std::span<const Prefix> prefixes,
                     std::size_t max_message = kMaxMessage);
void encode_end_of_rib(Bytes& out, AfiSafi family);

}  // namespace calico::bgp
