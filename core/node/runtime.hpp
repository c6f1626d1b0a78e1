#pragma once
/// The process of one or more roles: makes what modules share, starts them in order, waits for a signal, stops in
/// reverse.
#include <functional>
#include <string>
#include <vector>

#include "core/config/load.hpp"
#include "core/module/loader.hpp"

namespace calico::node {

struct Plan {
  std::vector<std::string> roles;
  std::vector<module::Loaded> modules;  ///< in order of start
  config::Config config;
  std::function<config::Loaded()> reload;  ///< for SIGHUP; faults keep the running configuration
  std::string source{};                    ///< what it reads, in words
};

/// Runs until SIGTERM, SIGINT or a fatal failure. Returns the exit code: 0 stopped when asked, 2 a module refused the
/// configuration, 3 something outside failed (state_dir in use, address in use, kernel).
int run(Plan plan);

}  // namespace calico::node
