// The executable: picks a command by the first argument or, as a symlink, by its own name. Everything it can do is in
// the tables of commands (here), roles (roles.hpp) and the modules' applets.
#include <fmt/format.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "core/bgp/birdc/client.hpp"
#include "core/node/commands.hpp"
#include "core/node/roles.hpp"

namespace calico::node {
namespace {

struct Command {
  const char* name;
  const char* help;
  int (*main)(const Invocation&);
};

int help(const Invocation& in);

int birdc(const Invocation& in) {
  std::vector<std::string> words{"birdc"};
  words.insert(words.end(), in.args.begin(), in.args.end());
  std::vector<char*> argv;
  for (auto& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  return bgp::birdc_main(static_cast<int>(words.size()), argv.data());
}

constexpr Command kCommands[] = {
    {"role", "run roles in the foreground: role NAME[,NAME…]|installed [--config FILE]… [--set section.key=value]…",
     role_main},
    {"modules", "the modules found: modules [--json]", modules_main},
    {"node", "the cloud's Nodes: node list|drain NAME|delete NAME", node_main},
    {"join", "membership: join URL --token T on a node; join token|list|revoke NAME on the controller", join_main},
    {"store", "the datastore, for operators: store status|get|watch|accept|save|restore|move", store_main},
    {"apply", "Calico v3 resources: apply|create|replace|delete|validate -f FILE, get KIND [NAME], delete KIND NAME",
     apply_main},
    {"create", "as apply, for what is not there yet", create_main},
    {"replace", "as apply, for what is there", replace_main},
    {"delete", "resources go: delete -f FILE | KIND NAME…", delete_main},
    {"get", "resources as they are stored: get KIND [NAME…] [-o yaml|json|wide]", get_main},
    {"validate", "a file of resources, without a datastore: validate -f FILE", validate_main},
    {"birdc", "BIRD's control protocol: birdc [-s SOCKET] show …|configure|enable|disable|restart|reload NAME|…",
     birdc},
    {"help", "this text", help},
};

int help(const Invocation& in) {
  fmt::print(
      "calico-node {}: one host's part of a Calico cloud\n\n"
      "usage: calico-node [--log-format text|json] [--log-level debug|info|warn|error] [--modules DIR] COMMAND …\n\n"
      "commands (COMMAND --help says more):\n",
      CALICO_VERSION);
  for (const auto& c : kCommands) fmt::print("  {:<16} {}\n", c.name, c.help);
  const auto found = module::scan(in.module_folder);
  for (const auto& m : found.modules)
    for (std::size_t i = 0; i < m.table->applets_count; ++i)
      fmt::print("  {:<16} {}\n", m.table->applets[i].name, m.table->applets[i].help);
  fmt::print("\nroles:\n");
  for (const auto& r : kRoles) fmt::print("  {:<16} {}\n", r.name, r.help);
  fmt::print(
      "\nexit codes: 0 well; 1 a check failed or the answer is no; 2 usage or configuration; 3 something outside "
      "failed\n");
  return 0;
}

int unknown(const Invocation& in, const std::string& command) {
  if (command == "cleanup" || command == "guard") {
    fmt::print(stderr, "calico-node: {} comes with the module felix, which is not in {}\n", command, in.module_folder);
    return 2;
  }
  fmt::print(stderr, "calico-node: unknown command '{}'; calico-node help lists them\n", command);
  for (const auto& line : module::scan(in.module_folder).refused) fmt::print(stderr, "calico-node: {}\n", line);
  return 2;
}

int run_applet(const module::Applet& applet, const std::vector<std::string>& args) {
  std::vector<char*> argv;
  std::string name = applet.name;
  std::vector<std::string> copy = args;
  argv.push_back(name.data());
  for (auto& a : copy) argv.push_back(a.data());
  argv.push_back(nullptr);
  return applet.main(static_cast<int>(argv.size()) - 1, argv.data());
}

int dispatch(Invocation in, const std::string& command) {
  for (const auto& c : kCommands)
    if (command == c.name) return c.main(in);
  // A module named like its applet is opened alone; only a stranger makes us look through all of them.
  const auto direct = in.module_folder + "/calico-" + command + ".so";
  std::vector<module::Loaded> modules;
  if (command.find('/') == std::string::npos && std::filesystem::exists(direct)) {
    auto m = module::load(direct);
    if (!m) {
      fmt::print(stderr, "calico-node: {}\n", m.error().what);
      return 2;
    }
    modules.push_back(*m);
  } else {
    modules = module::scan(in.module_folder).modules;
  }
  for (const auto& m : modules)
    for (std::size_t i = 0; i < m.table->applets_count; ++i)
      if (command == m.table->applets[i].name) return run_applet(m.table->applets[i], in.args);
  return unknown(in, command);
}

int main_of(int argc, char** argv) {
  Invocation in;
  in.module_folder = module::default_folder();
  const auto own_name = std::filesystem::path(argc > 0 ? argv[0] : "calico-node").filename().string();
  int at = 1;
  if (own_name == "calico-node") {
    for (; at < argc && argv[at][0] == '-'; ++at) {
      const std::string option = argv[at];
      const bool takes_value = option == "--log-format" || option == "--log-level" || option == "--modules";
      if (option == "--version") {
        fmt::print("calico-node {}\n", CALICO_VERSION);
        return 0;
      }
      if (option == "--help" || option == "-h") return help(in);
      if (!takes_value || at + 1 >= argc) {
        fmt::print(stderr, "calico-node: {} {}; calico-node help\n",
                   takes_value ? "missing value after" : "unknown option", option);
        return 2;
      }
      const std::string value = argv[++at];
      if (option == "--modules") {
        in.module_folder = value;
      } else if (auto ok = in.set_log_option(option, value); !ok) {
        fmt::print(stderr, "calico-node: {}\n", ok.error().what);
        return 2;
      }
    }
    if (at >= argc) {
      help(in);
      return 2;
    }
  }
  const std::string command = own_name == "calico-node" ? argv[at++] : own_name;
  in.args.assign(argv + at, argv + argc);
  log::init(in.log_level, in.log_format);
  return dispatch(std::move(in), command);
}

}  // namespace
}  // namespace calico::node

int main(int argc, char** argv) {
  try {
    return calico::node::main_of(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "calico-node: %s\n", e.what());
    return 3;
  }
}
