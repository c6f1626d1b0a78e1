#pragma once
/// The executable's own commands. Each takes what the command line gave and returns the exit code (CONTRIBUTING.md: 0
/// well, 1 no, 2 usage or configuration, 3 outside).
#include <string>
#include <vector>

#include "core/log/log.hpp"
#include "core/module/loader.hpp"

namespace calico::node {

struct Invocation {
  std::vector<std::string> args;  ///< after the command
  std::string module_folder;
  log::Level log_level = log::Level::info;
  log::Format log_format = log::Format::text;

  /// "--log-format" or "--log-level" with its value. Errors: invalid.
  [[nodiscard]] Status set_log_option(const std::string& option, const std::string& value);
};

int role_main(const Invocation& in);
int modules_main(const Invocation& in);
int store_main(const Invocation& in);
int node_main(const Invocation& in);
int join_main(const Invocation& in);
int apply_main(const Invocation& in);
int create_main(const Invocation& in);
int replace_main(const Invocation& in);
int delete_main(const Invocation& in);
int get_main(const Invocation& in);
int validate_main(const Invocation& in);

}  // namespace calico::node
