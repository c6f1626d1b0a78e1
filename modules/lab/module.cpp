// The module's entry: applets only, no role.
#include "core/module/abi.hpp"
#include "modules/lab/command.hpp"

#ifndef CALICO_MODULE_SYMBOL
#define CALICO_MODULE_SYMBOL calico_module
#endif

namespace {
constexpr calico::module::Applet kApplets[] = {
    {"lab", "a cloud of network namespaces on this machine; `lab demo` is the demonstration", calico::lab::lab_main},
};
}  // namespace

extern "C" CALICO_MODULE_EXPORT const calico_module_v1 CALICO_MODULE_SYMBOL = {
    .abi = calico::module::kModuleAbi,
    .size = sizeof(calico_module_v1),
    .build = CALICO_MODULE_BUILD,
    .name = "lab",
    .help = "a cloud of network namespaces on this machine",
    .params = nullptr,
    .params_count = 0,
    .applets = kApplets,
    .applets_count = std::size(kApplets),
    .check = nullptr,
    .create = nullptr,
    .destroy = nullptr,
};
