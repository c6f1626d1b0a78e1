#pragma once
/// How `configure` reaches whoever owns the configuration, and what comes back. Values only.
#include <functional>
#include <string>
#include <vector>

namespace calico::bgp {

struct ConfigureAnswer {
  std::string source;                ///< what was read, for the first line
  std::vector<std::string> changes;  ///< what differs from before, a line each
  std::vector<std::string> faults;   ///< empty: taken (or, of a check, good)
};

/// Called in the engine's loop. `check`: nothing is taken. `done` may be called at once or later, from any thread,
/// once.
using Configure = std::function<void(bool check, std::function<void(ConfigureAnswer)> done)>;

}  // namespace calico::bgp
