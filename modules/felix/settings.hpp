#pragma once
/// What felix takes from the configuration, as one comparable value. Rows: settings.cpp, [felix].
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/base/clock.hpp"
#include "core/base/ip.hpp"
#include "core/config/config.hpp"
#include "modules/felix/failsafe.hpp"

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
  std::vector<Failsafe> failsafe_in = *parse_failsafe(kFailsafeIn);
  std::vector<Failsafe> failsafe_out = *parse_failsafe(kFailsafeOut);
  std::optional<config::IpPort> health_at;   ///< absent = not asked for
  std::optional<config::IpPort> metrics_at;  ///< besides [metrics] listen
  Duration watchdog_timeout = std::chrono::seconds(90);
  bool blackhole_subnets = false;
  bool cut_flows = true;  ///< what a change of policy no longer allows is ended
  bool operator==(const Settings&) const = default;
};

[[nodiscard]] Settings settings_of(const config::Config& config);

/// The rows of [felix].
[[nodiscard]] config::Params params();
/// What is wrong beyond the rows' ranges, in our own files, variables and options.
void check(const config::Config& config, config::Faults& faults);
/// The same in felix.cfg, FELIX_* and FelixConfiguration, one line each: there it keeps nobody from starting, the
/// default is taken.
[[nodiscard]] std::vector<std::string> unusable(const config::Config& config);

}  // namespace calico::felix
