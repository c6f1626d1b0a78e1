#pragma once
/// An endpoint's qosControls, read: limits in the units the kernel counts in. Directions are the endpoint's: ingress is
/// towards it.
///
///   std::vector<std::string> notes;
///   QosControls q = parse_qos(wep.qos_controls_json, notes);
///
/// Each control stands for itself: one that cannot be used is left out and said in `notes`, the others are enforced.
/// Thread: any, pure. Errors: none; see notes. Units: bytes and bytes a second (the JSON has bits).
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace calico::model {

struct Bandwidth {
  std::uint64_t rate = 0;       ///< bytes a second
  std::uint32_t burst = 0;      ///< bytes that may come at once; the model's default is 512 MiB
  std::uint64_t peak = 0;       ///< bytes a second while the burst lasts; 0 = as fast as it goes
  std::uint32_t min_burst = 0;  ///< bytes that may come faster than the peak; 0 = what one packet needs
  bool operator==(const Bandwidth&) const = default;
};
struct PacketRate {
  std::uint32_t rate = 0;  ///< a second
  std::uint32_t burst = 5;
  bool operator==(const PacketRate&) const = default;
};

struct QosControls {
  std::optional<Bandwidth> ingress, egress;
  std::optional<PacketRate> ingress_packets, egress_packets;
  std::optional<std::uint32_t> ingress_connections, egress_connections;
  bool operator==(const QosControls&) const = default;
};
[[nodiscard]] QosControls parse_qos(std::string_view json, std::vector<std::string>& notes);
/// "in 1000 B/s burst 5000, out 10 packets/s burst 5, …"; empty without any.
[[nodiscard]] std::string to_string(const QosControls& q);

}  // namespace calico::model
