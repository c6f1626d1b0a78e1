#pragma once
/// From runs to the table that goes into RESULTS.md: medians, the ratio to the best of the others, the aim.
#include "tests/bench/bgp/scenario.hpp"

namespace calico::bench {

/// Markdown: one row a figure, one column a daemon.
void print_report(const std::vector<Run>& runs, const std::vector<std::string>& daemons);

}  // namespace calico::bench
