#pragma once
/// The plugin ABI: what a module's .so exports, one symbol, `calico_module`. Plain data with C linkage; everything else
/// in a module is hidden. core/module/README.md has the reasons; the loader is core/module/loader.hpp.
///
///   extern "C" CALICO_MODULE_EXPORT const calico_module_v1 calico_module = {
///     .abi = calico::module::kModuleAbi, .size = sizeof(calico_module_v1), .build = CALICO_MODULE_BUILD,
///     .name = "felix", .help = "policy, routes and status of this host's endpoints",
///     .params = kParams, .params_count = std::size(kParams), .applets = nullptr, .applets_count = 0,
///     .check = check, .create = create, .destroy = destroy,
///   };
///
/// Inside a module linked statically into a test the symbol is named calico_module_<name> (CALICO_MODULE_SYMBOL).
#include <cstddef>
#include <cstdint>

#include "core/config/config.hpp"

namespace calico::module {
class Module;
class Context;

/// Raised whenever this header, Module, Context or anything they expose changes. The build string differs anyway
/// between versions; the number says it to people.
inline constexpr std::uint32_t kModuleAbi = 1;

/// A command of the module, reached as `calico-node NAME …` or by a symlink called NAME. argv[0] is NAME.
struct Applet {
  const char* name;
  const char* help;
  int (*main)(int argc, char** argv);
};
}  // namespace calico::module

struct calico_module_v1 {
  std::uint32_t abi;
  std::uint32_t size;
  const char* build;  ///< compiler, build type, sanitizer, core version: equality is demanded
  const char* name;
  const char* help;
  const calico::config::Param* params;  ///< configuration rows, may be nullptr
  std::size_t params_count;
  const calico::module::Applet* applets;  ///< may be nullptr
  std::size_t applets_count;
  /// Cross-field checks after the row checks; may be nullptr. No side effects: `--check` runs it.
  void (*check)(const calico::config::Config&, calico::config::Faults&);
  /// nullptr when the module has applets only. Returns nullptr on failure, the reason left by Context::fail_create().
  calico::module::Module* (*create)(calico::module::Context&) noexcept;
  void (*destroy)(calico::module::Module*) noexcept;
};

#ifdef __SANITIZE_ADDRESS__
#define CALICO_BUILD_SANITIZER " asan"
#elif defined(__SANITIZE_THREAD__)
#define CALICO_BUILD_SANITIZER " tsan"
#else
#define CALICO_BUILD_SANITIZER ""
#endif
#ifdef NDEBUG
#define CALICO_BUILD_TYPE " ndebug"
#else
#define CALICO_BUILD_TYPE " debug"
#endif
#define CALICO_MODULE_BUILD "calico-node " CALICO_VERSION " " __VERSION__ CALICO_BUILD_TYPE CALICO_BUILD_SANITIZER

#define CALICO_MODULE_EXPORT __attribute__((visibility("default"), used))
