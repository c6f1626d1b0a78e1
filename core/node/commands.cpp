#include "core/node/commands.hpp"

#include <boost/json.hpp>

#include "core/node/roles.hpp"

namespace calico::node {

Status Invocation::set_log_option(const std::string& option, const std::string& value) {
  if (option == "--log-level") {
    auto level = log::parse_level(value);
    if (!level) return tl::unexpected(level.error());
    log_level = *level;
    return {};
  }
  if (value != "text" && value != "json") return fail(Errc::invalid, "--log-format '{}': accepted: text, json", value);
  log_format = value == "json" ? log::Format::json : log::Format::text;
  return {};
}

int modules_main(const Invocation& in) {
  bool as_json = false;
  for (const auto& a : in.args) {
    if (a == "--json") {
      as_json = true;
    } else {
      fmt::print(a == "--help" ? stdout : stderr, "usage: calico-node modules [--json]\n");
      return a == "--help" ? 0 : 2;
    }
  }
  const auto found = module::scan(in.module_folder);
  boost::json::array list;
  if (!as_json) fmt::print("{:<18} {:<10} {:<4} {:<28} {}\n", "module", "version", "abi", "roles", "file");
  for (const auto& m : found.modules) {
    boost::json::array roles;
    std::string roles_text;
    for (const auto& r : kRoles) {
      const auto needle = fmt::format(",{},", m.table->name);
      if (fmt::format(",{},", r.modules).find(needle) == std::string::npos) continue;
      roles.emplace_back(r.name);
      roles_text += (roles_text.empty() ? "" : ",") + std::string(r.name);
    }
    if (as_json)
      list.push_back(boost::json::object{{"name", m.table->name},
                                         {"version", CALICO_VERSION},
                                         {"abi", m.table->abi},
                                         {"file", m.file},
                                         {"roles", roles}});
    else
      fmt::print("{:<18} {:<10} {:<4} {:<28} {}\n", m.table->name, CALICO_VERSION, m.table->abi, roles_text, m.file);
  }
  if (as_json) fmt::print("{}\n", boost::json::serialize(boost::json::object{{"modules", list}}));
  for (const auto& line : found.refused) fmt::print(stderr, "calico-node: {}\n", line);
  return found.refused.empty() ? 0 : 1;
}

}  // namespace calico::node
