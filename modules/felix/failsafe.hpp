#pragma once
/// Failsafe ports: what a host endpoint never refuses, so that no policy can take a host from its operator.
///
///   parse_failsafe("tcp:22, udp:68, tcp:10.0.0.0/8:8080")      // as in felix.cfg
///   parse_failsafe(R"([{"protocol":"tcp","port":22}])")        // as in FelixConfiguration
///
/// "none" and "[]" are none at all; a number alone is TCP's. Bounds: 256 entries.
/// Thread: any, pure. Errors: invalid, with the entry.
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "core/base/error.hpp"
#include "core/base/ip.hpp"

namespace calico::felix {

struct Failsafe {
  std::uint8_t protocol = 6;
  std::uint16_t port = 0;
  std::optional<Prefix> net;  ///< of the other end; absent = anywhere
  bool operator==(const Failsafe&) const = default;
};

inline constexpr std::string_view kFailsafeIn =
    "tcp:22,udp:68,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667";
inline constexpr std::string_view kFailsafeOut =
    "udp:53,udp:67,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667";

[[nodiscard]] Result<std::vector<Failsafe>> parse_failsafe(std::string_view text);

}  // namespace calico::felix
