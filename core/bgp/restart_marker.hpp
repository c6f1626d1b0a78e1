#pragma once
/// The file by which a starting speaker learns that it ran a moment ago: `bgp.running` in the state folder, written at
/// start, every few seconds and at a planned stop, so that it survives kill -9.
/// Thread: loop. Owns: nothing between calls. Errors: of the file system; a file that does not read counts as absent.
#include <chrono>
#include <optional>
#include <string>

#include "core/base/error.hpp"

namespace calico::bgp {

struct LastRun {
  std::chrono::seconds age{0};  ///< since the speaker was last known to run
  bool same_boot = false;       ///< the kernel's state is the one it left
};

class RestartMarker {
 public:
  /// `state_dir` empty: nothing is read or written.
  explicit RestartMarker(std::string state_dir);
  std::optional<LastRun> load() const;
  [[nodiscard]] Status store() const;
  void remove() const;

 private:
  std::string path_;
};

}  // namespace calico::bgp
