#pragma once
/// A role module at work. Life: create → configure → start → (reconfigure)* → stop → destroy, all called from the main
/// thread, one after the other; a module runs its own loops in between.
#include "core/base/error.hpp"
#include "core/config/config.hpp"

namespace calico::module {

class Module {
 public:
  virtual ~Module() = default;
  /// Takes what it needs of the configuration; no side effects outside the object.
  [[nodiscard]] virtual Status configure(const config::Config& config) = 0;
  /// Begins to work. Returns when listeners are bound and loops run; readiness comes later through Context::ready().
  [[nodiscard]] virtual Status start() = 0;
  /// A new snapshot after SIGHUP; only rows with Reload::live or session differ.
  [[nodiscard]] virtual Status reconfigure(const config::Config& config) = 0;
  /// Ends orderly: refuses new work, leaves the kernel's state as it is, joins its threads. Bounded (10 s).
  virtual void stop() = 0;
};

}  // namespace calico::module
