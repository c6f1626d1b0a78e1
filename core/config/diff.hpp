#pragma once
/// What changed between two snapshots of the configuration, for `configure` and the log.
///
///   for (const auto& change : config::diff(current, loaded, started)) say(change.to_string());
///
/// Thread: any (pure). Contents of secret files are not looked at, only their paths.
#include <string>
#include <vector>

#include "core/config/config.hpp"

namespace calico::config {

struct Change {
  enum class Kind : std::uint8_t { added, removed, changed } kind{};
  std::string section;  ///< "bgp", "bgp.peer.border-1"
  std::string name;     ///< the key within the section; empty: the whole named section came or went
  std::string before, after;
  Reload reload = Reload::live;
  std::string key() const { return name.empty() ? section : section + "." + name; }
  /// "[bgp.peer.border-1] multihop: 0 -> 2", "[bgp.peer.border-1] added", "… (needs a restart, not taken)".
  std::string to_string() const;
};

/// Named sections that came or went, then keys whose text differs. Keys that only a restart takes are compared with
/// what the process started with, so that they are said until it is restarted.
[[nodiscard]] std::vector<Change> diff(const Config& before, const Config& after, const Config& started);

}  // namespace calico::config
