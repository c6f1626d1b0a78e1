#pragma once
/// One entry of the kernel's connection table as a value, read from and written to ctnetlink messages
/// (linux/netfilter/nfnetlink_conntrack.h). Pure. What does not fit is refused as a whole: an entry that was half
/// understood would be judged by fields it does not have.
///
/// Thread: any. Owns: nothing. Errors: decode() returns nothing for a message that is no entry or is damaged.
#include <cstdint>
#include <optional>
#include <string>

#include "core/base/ip.hpp"
#include "core/netlink/message.hpp"

namespace calico::conntrack {

/// One direction of a flow. Fields that its protocol has not are zero.
struct Tuple {
  Ip src;
  Ip dst;
  std::uint8_t protocol = 0;
  std::uint16_t src_port = 0;  ///< TCP, UDP, UDP-Lite, DCCP, SCTP; for GRE the keys
  std::uint16_t dst_port = 0;
  std::uint16_t icmp_id = 0;
  std::uint8_t icmp_type = 0;
  std::uint8_t icmp_code = 0;
  std::uint16_t zone = 0;  ///< when the zone is this direction's only
  bool operator==(const Tuple&) const = default;
};
[[nodiscard]] std::string to_string(const Tuple& t);

/// Bits of Entry::status (IPS_*).
inline constexpr std::uint32_t kExpected = 1;  ///< announced by another connection (FTP data and the like)
inline constexpr std::uint32_t kSeenReply = 2;

struct Entry {
  Tuple orig;   ///< as the first packet came
  Tuple reply;  ///< what answers look like: differs from orig turned round when addresses are translated
  std::uint32_t status = 0;
  std::uint32_t id = 0;
  std::uint16_t zone = 0;
  bool operator==(const Entry&) const = default;
};

[[nodiscard]] std::optional<Entry> decode(const netlink::Message& m);

/// Appends the request to delete exactly this entry, with an ack. A flow that took its tuple in between has another id
/// and stays (ENOENT).
void append_delete(netlink::MessageBuilder& b, const Entry& e, std::uint32_t seq);
/// Appends the request for all entries of both families.
void append_dump(netlink::MessageBuilder& b, std::uint32_t seq);

}  // namespace calico::conntrack
