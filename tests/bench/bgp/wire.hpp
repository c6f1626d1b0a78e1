#pragma once
/// As much of BGP's wire form as a load generator needs, written apart from core/bgp/codec on purpose: a measuring
/// instrument that shares the code it measures agrees with its faults.
///
///   Bytes out;
///   pack_announce(out, attributes, next_hop6, nlri);      // as few UPDATEs of 4,096 bytes as hold them
///
/// RFC: 4271 (messages), 4760 (MP_REACH/MP_UNREACH, IPv6), 4724 (GR capability, End-of-RIB), 6793, 2918.
#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

namespace calico::bench {

using Bytes = std::vector<std::uint8_t>;
using View = std::span<const std::uint8_t>;
using Address6 = std::array<std::uint8_t, 16>;

constexpr std::size_t kHeader = 19, kMaxMessage = 4096;
enum MessageType : std::uint8_t { kOpen = 1, kUpdate = 2, kNotification = 3, kKeepalive = 4, kRefresh = 5 };
enum AttributeType : std::uint8_t {
  kOrigin = 1,
  kAsPath = 2,
  kNextHop = 3,
  kMed = 4,
  kLocalPref = 5,
  kCommunities = 8,
  kOriginatorId = 9,
  kClusterList = 10,
  kMpReach = 14,
  kMpUnreach = 15,
};

/// One prefix in wire form: the length and as many bytes as it needs.
struct Nlri {
  std::uint8_t bits = 0;
  Address6 address{};
  std::size_t size() const { return 1 + (bits + 7U) / 8U; }
};
inline Nlri nlri4(std::uint32_t address, std::uint8_t bits) {
  Nlri n{bits, {}};
  for (unsigned i = 0; i < 4; ++i) n.address[i] = static_cast<std::uint8_t>(address >> (24 - 8 * i));
  return n;
}

inline std::uint16_t be16(const std::uint8_t* p) { return static_cast<std::uint16_t>(p[0] << 8U | p[1]); }
inline std::uint32_t be32(const std::uint8_t* p) {
  std::uint32_t v;
  std::memcpy(&v, p, 4);
  return __builtin_bswap32(v);
}
/// The length of the message whose header begins here; 0: a bad marker or length.
inline std::size_t message_length(const std::uint8_t* m) {
  static constexpr std::array<std::uint8_t, 16> kMarker = {255, 255, 255, 255, 255, 255, 255, 255,
                                                           255, 255, 255, 255, 255, 255, 255, 255};
  const std::size_t length = be16(m + 16);
  return std::memcmp(m, kMarker.data(), 16) == 0 && length >= kHeader && length <= kMaxMessage ? length : 0;
}
void put16(Bytes& out, std::uint16_t v);
void put32(Bytes& out, std::uint32_t v);
void patch16(Bytes& out, std::size_t at, std::size_t v);

/// AS in two octets' reach, GR without the N bit and without forwarding state kept, so that NOTIFICATION means gone.
Bytes open_message(std::uint16_t as, std::uint32_t router_id, bool ipv6);
Bytes keepalive_message();
Bytes notification_message(std::uint8_t code, std::uint8_t subcode);
Bytes end_of_rib(bool ipv6);

void put_attribute(Bytes& out, std::uint8_t flags, std::uint8_t type, View value);

/// UPDATEs with these attributes (without next hop when `next_hop6` is given; it goes into MP_REACH), at most `per`
/// prefixes each. Needs: attributes leave room for at least one prefix.
void pack_announce(Bytes& out, View attributes, const std::optional<Address6>& next_hop6, std::span<const Nlri> nlri,
                   std::size_t per = SIZE_MAX);
void pack_withdraw(Bytes& out, bool ipv6, std::span<const Nlri> nlri);

/// One attribute of a received message. next() is false at the end or at the first fault; ok() tells which.
class AttributeReader {
 public:
  explicit AttributeReader(View attributes) : p_(attributes.data()), end_(p_ + attributes.size()) {}
  bool next();
  bool ok() const { return !bad_; }
  std::uint8_t type = 0;
  View value;

 private:
  const std::uint8_t *p_, *end_;
  bool bad_ = false;
};

}  // namespace calico::bench
