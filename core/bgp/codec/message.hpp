#pragma once
/// The BGP messages other than UPDATE as values, and the frame around all of them. Pure: bytes -> value or Fault, value
/// -> bytes; no clock, no log, no I/O. Thread: any. Errors: a Fault is what the NOTIFICATION must say (RFC 4271 6) plus
/// a line for people. RFC: 4271 4.1-4.5, 5492 and 9072 (OPEN parameters), 4760, 6793, 2918, 7313, 4724 and 8538 (N
/// bit), 9494, 7911, 8950, 8654, 6608, 9003, 9687. Deviations: a repeated optional parameter or capability is not an
/// error; the last one counts (5492 4 leaves it open), in capabilities that list families the last one of each family.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "core/base/ids.hpp"
#include "core/base/ip.hpp"
#include "core/wire/cursor.hpp"

namespace calico::bgp {

using wire::Bytes;
using wire::View;

/// A peer's message cannot be accepted: NOTIFICATION code, subcode and data, and why.
struct Fault {
  std::uint8_t code = 0, subcode = 0;
  Bytes data;
  std::string what;
};
template <class T>
using Decoded = tl::expected<T, Fault>;

enum class MessageType : std::uint8_t { open = 1, update = 2, notification = 3, keepalive = 4, route_refresh = 5 };

inline constexpr std::size_t kHeaderSize = 19;
inline constexpr std::size_t kMaxMessage = 4096, kMaxExtendedMessage = 65535;  // RFC 8654

/// NOTIFICATION codes (RFC 4271 4.5) and the subcodes we send.
namespace notify {
inline constexpr std::uint8_t kHeader = 1, kOpen = 2, kUpdate = 3, kHoldTimer = 4, kFsm = 5, kCease = 6, kRefresh = 7,
                              kSendHold = 8;
inline constexpr std::uint8_t kMaxPrefixes = 1, kShutdown = 2, kDeconfigured = 3, kReset = 4, kRejected = 5,
                              kConfigChange = 6, kCollision = 7, kOutOfResources = 8, kHardReset = 9, kBfdDown = 10;
}  // namespace notify

struct AfiSafi {
  std::uint16_t afi = 0;
  std::uint8_t safi = 0;
  auto operator<=>(const AfiSafi&) const = default;
};
inline constexpr AfiSafi kIpv4Unicast{1, 1};
inline constexpr AfiSafi kIpv6Unicast{2, 1};
inline AfiSafi unicast(Family f) { return f == Family::v4 ? kIpv4Unicast : kIpv6Unicast; }

struct Header {
  std::uint16_t length = 0;  ///< whole message
  MessageType type{};
};
/// The first 19 bytes. Checks marker, length against the type (an OPEN never exceeds kMaxMessage, RFC 8654 4), type.
[[nodiscard]] Decoded<Header> decode_header(View first19, std::size_t max_message = kMaxMessage);

struct GracefulRestartCapability {
  bool restarting = false;    ///< R
  bool notification = false;  ///< N (RFC 8538)
  std::uint16_t time_s = 0;   ///< 12 bits
  struct Entry {
    AfiSafi family;
    bool preserved = false;  ///< F
    bool operator==(const Entry&) const = default;
  };
  std::vector<Entry> families;
  bool operator==(const GracefulRestartCapability&) const = default;
};

/// RFC 9494. Means something only beside graceful restart.
struct LongLivedCapability {
  struct Entry {
    AfiSafi family;
    bool preserved = false;     ///< F
    std::uint32_t stale_s = 0;  ///< 24 bits
    bool operator==(const Entry&) const = default;
  };
  std::vector<Entry> families;
  bool operator==(const LongLivedCapability&) const = default;
};

struct Capabilities {
  std::vector<AfiSafi> families;  ///< RFC 4760; empty: IPv4 unicast alone
  std::optional<Asn> as4;
  bool refresh = false, enhanced_refresh = false, extended_message = false;
  std::optional<GracefulRestartCapability> graceful_restart;
  std::optional<LongLivedCapability> long_lived;
  /// RFC 7911: the sender of the OPEN can take (receive), wants to send, more than one path a prefix.
  struct AddPath {
    AfiSafi family;
    bool receive = false, send = false;
    bool operator==(const AddPath&) const = default;
  };
  std::vector<AddPath> add_path;
  /// RFC 8950: routes of `family` may have next hops of `next_hop_afi`.
  struct NextHop {
    AfiSafi family;
    std::uint16_t next_hop_afi = 0;
    bool operator==(const NextHop&) const = default;
  };
  std::vector<NextHop> next_hops;
  struct Unknown {
    std::uint8_t code = 0;
    Bytes value;
    bool operator==(const Unknown&) const = default;
  };
  std::vector<Unknown> unknown;

  bool has(AfiSafi family) const;
  /// The entry of `family`; all false where there is none.
  AddPath add_path_of(AfiSafi family) const;
  bool ipv4_over_ipv6() const;
  bool operator==(const Capabilities&) const = default;
};

struct Open {
  Asn as;  ///< the 4-octet one when the capability is there
  std::uint16_t hold_time_s = 0;
  std::uint32_t router_id = 0;
  Capabilities caps;
  bool operator==(const Open&) const = default;
};
/// `body` is the message without its header. Checks what needs no configuration: version, AS 0, hold time, identifier
/// 0.
[[nodiscard]] Decoded<Open> decode_open(View body);
[[nodiscard]] Bytes encode_open(const Open& open);

struct Notification {
  std::uint8_t code = 0, subcode = 0;
  Bytes data;
  bool operator==(const Notification&) const = default;
};
[[nodiscard]] Decoded<Notification> decode_notification(View body);
[[nodiscard]] Bytes encode_notification(const Notification& n);
/// Cease with RFC 8538's Hard Reset around it when `hard` (both sides announced N). `text` goes along as the shutdown
/// communication (RFC 9003) of kShutdown and kReset, cut to 255 bytes at a character; other subcodes carry none.
[[nodiscard]] Notification cease(std::uint8_t subcode, bool hard, std::string_view text = {});
/// The same around (or without) RFC 8538's Hard Reset, whatever it carries.
[[nodiscard]] Notification hard_reset(const Notification& n);
/// "Cease: Peer de-configured", with the shutdown communication (RFC 9003) if there is one; one line, valid UTF-8,
/// nothing in it that a terminal would obey.
[[nodiscard]] std::string describe(const Notification& n);

struct RouteRefresh {
  AfiSafi family;
  std::uint8_t subtype = 0;  ///< others than these are to be ignored (RFC 7313 5)
  static constexpr std::uint8_t kRequest = 0, kBegin = 1, kEnd = 2;
  bool operator==(const RouteRefresh&) const = default;
};
/// Fault: a length other than 4, with the code RFC 7313 5 has for it. Longer requests carry ORF (RFC 5291), which
/// nobody was offered.
[[nodiscard]] Decoded<RouteRefresh> decode_route_refresh(View body);
[[nodiscard]] Bytes encode_route_refresh(const RouteRefresh& r);

[[nodiscard]] Bytes encode_keepalive();

namespace detail {
/// Starts a message in `w`; finish() patches the length.
void begin_message(wire::Writer& w, MessageType type);
void finish_message(wire::Writer& w);
[[nodiscard]] Fault fault(std::uint8_t code, std::uint8_t subcode, std::string what, View data = {});
}  // namespace detail

}  // namespace calico::bgp
