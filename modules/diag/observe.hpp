#pragma once
/// Looking at the host: the control socket of the running process, /proc and /sys. Reads only.
#include <string>

#include "modules/diag/check.hpp"

namespace calico::diag {

/// Blocks at most a few seconds. What cannot be asked stays absent. `root` is where proc and sys are ("" for real).
[[nodiscard]] Observed observe(const std::string& run_dir);

/// The parts, from what the control socket answers; malformed JSON leaves them absent. Public for tests.
void take_status(Observed& seen, const std::string& json);
void take_store(Observed& seen, const std::string& json);
void take_bgp(Observed& seen, const std::string& json);
void take_felix(Observed& seen, const std::string& json);
void take_dhcp(Observed& seen, const std::string& json);
void take_controller(Observed& seen, const std::string& json);

}  // namespace calico::diag
