#pragma once
/// The filters of the configuration: sections [bgp.filter.NAME], and the lists of them that peers and ranges name.
///
///   config::Faults faults;
///   const auto filters = ConfiguredFilters::read(config, faults);   // every fault, with its line
///   PolicyRef policy = filters.chain(config, "bgp.peer.border-1.import_filter");
///
/// A list of filters is one policy: their rules in order. A filter without `default` leaves to the next one what none
/// of its rules decided; after the last one a route is rejected. Equal lists share one policy. Thread: any. Errors:
/// faults; what has one has no policy (nobody uses a configuration with faults).
#include <map>
#include <string>
#include <vector>

#include "core/bgp/policy/route_policy.hpp"
#include "core/config/config.hpp"

namespace calico::bgp {

class ConfiguredFilters {
 public:
  [[nodiscard]] static ConfiguredFilters read(const config::Config& config, config::Faults& faults);
  /// Empty when the key is not set.
  PolicyRef chain(const config::Config& config, const std::string& key) const;

 private:
  struct Filter {
    std::vector<PolicyRule> rules;
    std::optional<Default> otherwise;
    bool sets_next_hop_mode = false;
  };
  std::map<std::string, Filter, std::less<>> filters_;
  std::map<std::vector<std::string>, PolicyRef> chains_;
};

}  // namespace calico::bgp
