#pragma once
/// The ruleset Felix would have for the same endpoints, in nft's language: a table a family, two chains an endpoint, a
/// chain a policy and direction, marks as verdicts, a counter and a comment on each rule; verdict maps for the dispatch
/// and sets of members only. Written from what is known of its shape, not from its code.
#include <string>
#include <vector>

namespace calico::bench {

struct ShapedRule {
  std::string match;  ///< in nft's words; "" = everything
};
struct ShapedGroup {
  std::string name;
  std::vector<ShapedRule> in4, in6, out4, out6;
  std::vector<std::string> members4, members6;  ///< elements of its set `cali40s-<name>` / `cali60s-<name>`
};
struct ShapedEndpoint {
  std::string interface_name;
  std::vector<std::string> groups;
};

std::string felix_shaped(const std::vector<ShapedGroup>& groups, const std::vector<ShapedEndpoint>& endpoints);
/// cloud() of the same size.
std::string felix_shaped(int endpoints, int groups);

}  // namespace calico::bench
