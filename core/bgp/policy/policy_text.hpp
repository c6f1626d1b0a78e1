#pragma once
/// Rules of a policy as one line of text each, as the configuration writes them and as they are shown.
///
///   rule.10 = accept prefix 10.0.0.0/8 ge 24 community 65000:1 set local_pref 200
///   rule.20 = reject not path "65000 *"
///
/// The grammar is a table in README.md. parse_rule(to_string(rule)) is the same rule.
/// Thread: any, pure. Errors: invalid: the word that is wrong and what is accepted there.
#include <string>
#include <string_view>

#include "core/base/error.hpp"
#include "core/bgp/policy/route_policy.hpp"

namespace calico::bgp {

inline constexpr std::size_t kMaxRuleText = 64 * 1024;

/// An error that may quote what came from outside, fit for a log.
[[nodiscard]] tl::unexpected<Error> printable(Error error);

[[nodiscard]] Result<PolicyRule> parse_rule(std::string_view text);
[[nodiscard]] std::string to_string(const PolicyRule& rule);

}  // namespace calico::bgp
