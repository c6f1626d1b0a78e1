#pragma once
/// Calico's BGPFilter, and the communities of a BGPConfiguration, as rules of a RoutePolicy. The mapping is a table in
/// README.md.
///
///   auto rules = rules_of(filter);           // Result<FilterRules>
///   auto policy = RoutePolicy::compile(rules->import, Default::accept);
///
/// Thread: any, pure. Errors: invalid, with the place in the resource (a community that is none).
#include <vector>

#include "core/base/error.hpp"
#include "core/bgp/policy/route_policy.hpp"
#include "core/model/bgp_resources.hpp"

namespace calico::bgp {

struct FilterRules {
  std::vector<PolicyRule> import, exports;
  bool operator==(const FilterRules&) const = default;
};
[[nodiscard]] Result<FilterRules> rules_of(const model::BgpFilter& filter);

/// What goes before the filters of an export: routes of this host inside a block get its communities.
[[nodiscard]] Result<std::vector<PolicyRule>> advertisement_rules(const model::BgpConfiguration& configuration);

/// The kernel's metric of a route and its LOCAL_PREF: Calico's rule, the lower metric is preferred.
constexpr std::uint32_t local_pref_of_priority(std::uint32_t priority) { return 2147483647U - priority; }

}  // namespace calico::bgp
