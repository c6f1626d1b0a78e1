#pragma once
/// What felix takes from the configuration, as one comparable value. Rows: settings.cpp, [felix].
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/base/clock.hpp"
#include "core/base/ip.hpp"
#include "core/config/config.hpp"

namespace calico::felix {

struct Settings {
  std::string region;
  std::vector<std::string> interface_prefixes = {"tap"};
  bool protect_nodes = true;
  std::vector<std::uint16_t> protected_ports;  ///< without the public ones
  std::optional<Ip> metadata_address;          ///< absent = no metadata
  std::uint16_t metadata_port = 8775;
  bool drop_to_host = true;  ///< of what an endpoint sends to the host beyond the allowances; else its policy decides
  std::uint8_t route_protocol = 88;
  Duration reporting_interval = std::chrono::seconds(30);
  bool endpoint_reporting = true;
  Duration migration_convergence = std::chrono::seconds(30);
  bool operator==(const Settings&) const = default;
};

[[nodiscard]] Settings settings_of(const config::Config& config);

/// The rows of [felix].
[[nodiscard]] config::Params params();
void check(const config::Config& config, config::Faults& faults);

}  // namespace calico::felix
