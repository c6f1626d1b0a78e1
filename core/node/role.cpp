// `calico-node role`: which modules, which configuration, then Runtime.
#include <unistd.h>

#include <filesystem>
#include <set>

#include "core/bgp/speaker_settings.hpp"
#include "core/config/load.hpp"
#include "core/node/commands.hpp"
#include "core/node/roles.hpp"
#include "core/node/runtime.hpp"

namespace calico::node {
namespace {

constexpr const char* kUsage =
    "usage: calico-node role NAME[,NAME…]|installed [--config FILE]… [--set section.key=value]… [--check] "
    "[--print-config]\n"
    "                        [--help-config]\n"
    "  --check          reads and checks the configuration, then exits (0, or 2 with one line a fault)\n"
    "  --print-config   prints what would be used, with where each value came from\n"
    "  --help-config    lists every key, its range, default and meaning\n";

struct Options {
  std::vector<std::string> roles;
  config::Sources sources;
  bool check = false, print = false, help_config = false;
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> out;
  std::size_t from = 0;
  while (true) {
    const auto comma = text.find(',', from);
    out.push_back(text.substr(from, comma - from));
    if (comma == std::string::npos) return out;
    from = comma + 1;
  }
}

Result<Options> parse(const std::vector<std::string>& args) {
  Options o;
  for (std::size_t i = 0; i < args.size(); ++i) {
    const auto& a = args[i];
    const bool takes_value = a == "--config" || a == "--set";
    if (takes_value && i + 1 >= args.size()) return fail(Errc::invalid, "missing value after {}", a);
    if (a == "--config")
      o.sources.files.push_back(args[++i]);
    else if (a == "--set")
      o.sources.sets.push_back(args[++i]);
    else if (a == "--check")
      o.check = true;
    else if (a == "--print-config")
      o.print = true;
    else if (a == "--help-config")
      o.help_config = true;
    else if (a.starts_with("-"))
      return fail(Errc::invalid, "unknown option {}", a);
    else if (o.roles.empty())
      o.roles = split(a);
    else
      return fail(Errc::invalid, "'{}' is one argument too many", a);
  }
  if (o.roles.empty())
    return fail(Errc::invalid, "which role? {} or installed", "controller, compute, route-reflector, felix");
  return o;
}

const Role* find_role(const std::string& name) {
  for (const auto& r : kRoles)
    if (name == r.name) return &r;
  return nullptr;
}

const module::Loaded* find_module(const module::Scan& found, const std::string& name) {
  for (const auto& m : found.modules)
    if (name == m.table->name) return &m;
  return nullptr;
}

/// `installed`: the roles the packages have marked in roles.d beside the modules; where there is none (a build tree),
/// those all of whose modules are there. compute contains felix.
std::vector<std::string> installed_roles(const module::Scan& found, const std::string& module_folder) {
  namespace fs = std::filesystem;
  std::error_code ec;
  const auto marks = fs::path(module_folder).parent_path() / "roles.d";
  const bool marked = fs::is_directory(marks, ec);
  std::vector<std::string> out;
  for (const auto& r : kRoles) {
    if (marked && !fs::exists(marks / r.name, ec)) continue;
    bool all = true;
    for (const auto& m : split(r.modules)) all = all && find_module(found, m);
    // A mark without its modules is a broken installation: the role is named, and what is missing with it.
    if (all || marked) out.emplace_back(r.name);
  }
  if (std::find(out.begin(), out.end(), "compute") != out.end()) std::erase(out, "felix");
  return out;
}

std::string host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 ? name : "";
}

void help_config(const config::Schema& schema) {
  std::string section;
  for (const auto* row : schema.rows()) {
    const std::string_view name = row->name;
    const auto dot = name.rfind('.');
    auto of = std::string(name.substr(0, dot));
    if (of.ends_with(".*")) of.replace(of.size() - 1, 1, "NAME");
    if (of != section) fmt::print("{}[{}]\n", section.empty() ? "" : "\n", of);
    section = of;
    fmt::print("  {:<26} {}\n", fmt::format("{} = {}", name.substr(dot + 1), row->def), row->help);
    if (*row->range) fmt::print("  {:<26}   accepted: {}\n", "", row->range);
  }
}

}  // namespace

int role_main(const Invocation& in) {
  for (const auto& a : in.args)
    if (a == "--help" || a == "-h") {
      fmt::print("{}\nroles:\n", kUsage);
      for (const auto& r : kRoles) fmt::print("  {:<16} {}\n", r.name, r.help);
      return 0;
    }
  auto options = parse(in.args);
  if (!options) {
    fmt::print(stderr, "calico-node role: {}\n{}", options.error().what, kUsage);
    return 2;
  }

  const auto found = module::scan(in.module_folder);
  auto roles = options->roles == std::vector<std::string>{"installed"} ? installed_roles(found, in.module_folder)
                                                                       : options->roles;
  if (roles.empty()) {
    fmt::print(stderr,
               "calico-node role: no role is installed in {}: install calico-node-compute, -controller, "
               "-route-reflector or -felix\n",
               in.module_folder);
    return 2;
  }
  std::vector<module::Loaded> modules;
  std::set<std::string> chosen;
  for (const auto& name : roles) {
    const auto* role = find_role(name);
    if (!role) {
      fmt::print(
          stderr,
          "calico-node role: unknown role '{}'; roles: controller, compute, route-reflector, felix, or installed\n",
          name);
      return 2;
    }
    for (const auto& m : split(role->modules)) {
      if (!chosen.insert(m).second) continue;
      const auto* loaded = find_module(found, m);
      if (!loaded || !loaded->table->create) {
        fmt::print(stderr, "calico-node role: role {} needs the module calico-{}.so, which is not in {}: install {}\n",
                   name, m, in.module_folder, role->package);
        for (const auto& line : found.refused) fmt::print(stderr, "calico-node role: {}\n", line);
        return 2;
      }
      modules.push_back(*loaded);
    }
  }

  auto schema = std::make_shared<config::Schema>();
  auto declared = schema->add(config::core_params());
  for (const auto& m : found.modules)
    if (declared && m.table->params) declared = schema->add({m.table->params, m.table->params_count});
  if (!declared) {
    fmt::print(stderr, "calico-node role: {}\n", declared.error().what);
    return 3;
  }
  if (options->help_config) {
    help_config(*schema);
    return 0;
  }

  options->sources.host_name = host_name();
  options->sources.environment = config::process_environment();
  const bool controller = std::find(roles.begin(), roles.end(), "controller") != roles.end();
  const auto reload = [&] {
    auto loaded = config::load(schema, options->sources);
    if (loaded.faults.empty()) {
      config::check_core(loaded.config, loaded.faults);
      bgp::check_bgp(loaded.config, loaded.faults);
      for (const auto& m : modules)
        if (m.table->check) m.table->check(loaded.config, loaded.faults);
      if (!controller && !loaded.config.is_set("datastore.endpoints"))
        loaded.faults.push_back({loaded.config.where("datastore.endpoints"), "datastore.endpoints",
                                 "empty, and this host is no controller: calico-node join URL --token T, or set it to "
                                 "https://CONTROLLER:2379"});
    }
    return loaded;
  };
  auto loaded = reload();
  for (const auto& w : loaded.warnings) fmt::print(stderr, "calico-node role: {}\n", w);
  for (const auto& f : loaded.faults) fmt::print(stderr, "{}\n", f.to_string());
  if (!loaded.faults.empty()) return 2;
  if (options->print) fmt::print("{}", loaded.config.print());
  if (options->check && !options->print) fmt::print("configuration is good\n");
  if (options->check || options->print) return 0;
  std::string source;
  for (const auto& file : options->sources.files) source += (source.empty() ? "" : ", ") + file;
  if (source.empty()) source = fmt::format("{} and {}/*.conf", config::kDefaultFile, config::kDefaultDropIns);
  return run(Plan{std::move(roles), std::move(modules), std::move(loaded.config), reload, std::move(source)});
}

}  // namespace calico::node
