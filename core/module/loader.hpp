#pragma once
/// Finds and opens modules. A module is opened by absolute path, checked before anything of it is called, and never
/// unloaded: vtables, deleters and coroutine frames live in its code until exit.
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.hpp"
#include "core/module/abi.hpp"

namespace calico::module {

struct Loaded {
  const calico_module_v1* table = nullptr;
  std::string file;  ///< absolute
};

/// Opens one file (RTLD_NOW | RTLD_LOCAL) and checks abi, size, build and name against this executable's.
/// Errors: not_found (no such file), unsupported (not a module, or built otherwise: both values in the text), invalid.
[[nodiscard]] Result<Loaded> load(const std::string& file);

struct Scan {
  std::vector<Loaded> modules;       ///< by name
  std::vector<std::string> refused;  ///< one line each, file and reason
};
/// Every calico-*.so of a folder. A folder that is not there gives nothing.
[[nodiscard]] Scan scan(const std::string& folder);

/// Folder of this executable's modules: ../lib/calico-node beside a build tree's executable, else the installed one.
[[nodiscard]] std::string default_folder();

}  // namespace calico::module
