#pragma once
/// Names and values as Calico's own Felix writes them (felix.cfg, FELIX_*, FelixConfiguration), for our rows.
///
///   if (const auto* row = schema.find_felix("ReportingIntervalSecs"))
///     auto ours = from_upstream(*row, "30");            // "30s"
///   else
///     say(unused("ReportingIntervalSec"));              // "… is no parameter of Felix's"
///
/// Thread: any (pure).
#include <string>
#include <string_view>

#include "core/base/error.hpp"
#include "core/config/param.hpp"

namespace calico::config {

/// A value in our spelling, checked. `none` becomes the type's zero, numbers of seconds and Go's durations ("1m30s")
/// ours, T and n booleans. Errors: invalid, with the accepted range.
[[nodiscard]] Result<std::string> from_upstream(const Param& row, std::string_view text);

/// Why the parameter has no row here, one clause: "iptables is not used", or that there is none of that name.
[[nodiscard]] std::string unused(std::string_view name);

}  // namespace calico::config
