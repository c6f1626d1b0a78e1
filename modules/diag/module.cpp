// The applet `diag`: check, as a table or JSON, once or until interrupted.
#include <unistd.h>

#include <boost/json.hpp>
#include <string>
#include <vector>

#include "core/module/abi.hpp"
#include "modules/diag/check.hpp"
#include "modules/diag/observe.hpp"

#ifndef CALICO_MODULE_SYMBOL
#define CALICO_MODULE_SYMBOL calico_module
#endif

namespace calico::diag {
namespace {

constexpr const char* kUsage =
    "usage: calico-node diag [check] [--json] [--watch] [--run-dir DIR]\n"
    "  check     this host against the elements its roles require, and leftovers that do no harm\n"
    "  --watch   again every 2 s until interrupted\n"
    "exit: 0 all required elements are good; 1 something is missing\n";

void print_json(const std::vector<Finding>& findings) {
  boost::json::array list;
  for (const auto& f : findings)
    list.push_back(boost::json::object{{"verdict", to_string(f.verdict)},
                                       {"role", f.role},
                                       {"element", f.element},
                                       {"detail", f.detail},
                                       {"advice", f.advice}});
  fmt::print("{}\n", boost::json::serialize(boost::json::object{{"ok", healthy(findings)}, {"findings", list}}));
}

void print_table(const std::vector<Finding>& findings) {
  for (const auto& f : findings) {
    fmt::print("{:<7} {:<16} {:<46} {}\n", to_string(f.verdict), f.role, f.element, f.detail);
    if (!f.advice.empty() && f.verdict != Verdict::good) fmt::print("{:<24} -> {}\n", "", f.advice);
  }
  fmt::print("{}\n", healthy(findings) ? "all required elements are good" : "a required element is missing");
}

int diag_main(int argc, char** argv) {
  bool as_json = false, watch = false;
  std::string run_dir = "/run/calico-node";
  std::string command;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    if (a == "--json") {
      as_json = true;
    } else if (a == "--watch") {
      watch = true;
    } else if (a == "--run-dir" && i + 1 < argc) {
      run_dir = argv[++i];
    } else if (a == "--help" || a == "-h") {
      fmt::print("{}", kUsage);
      return 0;
    } else if (a == "trace" || a == "bundle") {
      fmt::print(stderr, "calico-node diag {}: not built yet; diag check is\n", a);
      return 2;
    } else if (command.empty() && a == "check") {
      command = a;
    } else {
      fmt::print(stderr, "calico-node diag: '{}' is no argument of it\n{}", a, kUsage);
      return 2;
    }
  }
  while (true) {
    const auto findings = judge(observe(run_dir));
    if (watch && !as_json) fmt::print("\n");
    as_json ? print_json(findings) : print_table(findings);
    std::fflush(stdout);
    if (!watch) return healthy(findings) ? 0 : 1;
    sleep(2);
  }
}

constexpr module::Applet kApplets[] = {{"diag", "health of this host: diag [check] [--json] [--watch]", diag_main}};

}  // namespace
}  // namespace calico::diag

extern "C" CALICO_MODULE_EXPORT const calico_module_v1 CALICO_MODULE_SYMBOL = {
    .abi = calico::module::kModuleAbi,
    .size = sizeof(calico_module_v1),
    .build = CALICO_MODULE_BUILD,
    .name = "diag",
    .help = "health of this host",
    .params = nullptr,
    .params_count = 0,
    .applets = calico::diag::kApplets,
    .applets_count = std::size(calico::diag::kApplets),
    .check = nullptr,
    .create = nullptr,
    .destroy = nullptr,
};
