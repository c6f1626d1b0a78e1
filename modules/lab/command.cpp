#include "modules/lab/command.hpp"

#include <signal.h>

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <span>

#include "modules/lab/cluster.hpp"
#include "modules/lab/demo.hpp"

namespace calico::lab {

namespace json = boost::json;

namespace {

constexpr const char* kHelp =
    R"(usage: calico-node lab COMMAND [--name NAME] [--dir DIR]

A Calico cloud on one machine, out of network namespaces; the machine's own network stays as it is.

  demo [--computes N] [--reflectors N] [--vms N] [--ipv6] [--keep] [--json FILE]
                         the Fuel document's demonstration, from nothing to a verdict: exit 0 only if all is as
                         expected; --keep leaves the cluster, --json FILE (- for stdout) writes what was found
  up [--computes N] [--reflectors N] [--ipv6] [--network-only] [--set [NODE:]section.key=value]...
                         makes it and starts the nodes (3 computes, 2 reflectors unless told otherwise)
  down                   removes it, also after a crash; nothing there is fine
  status [--json]        nodes and machines
  exec NODE -- CMD...    runs CMD inside a node, a VM, `border` (free for a router of yours) or `fabric` (the switches)
  vm add VM [--compute NODE] [--group GROUP]
                         a port over the API and a machine on it; the network `demo`, and the group with the
                         demonstration's rules, are made if they are not there
  vm del VM              deletes its port over the API and the machine
  node kill|stop|start NODE
                         SIGKILL, SIGTERM, and starting again

  --name NAME            several labs can run side by side (default: lab)
  --dir DIR              where its files are (default: /run/calico-node/lab/NAME)

Exit codes: 0 well, 1 the answer is no, 2 bad usage, 3 something outside failed.
)";

struct Args {
  std::vector<std::string> words;
  std::map<std::string, std::string> values;
  std::vector<std::string> set;
  std::vector<std::string> command;  // after "--"
  bool flag(const std::string& name) const { return values.contains(name); }
};

constexpr std::string_view kWithValue[] = {
    "--name", "--dir", "--json", "--computes", "--reflectors", "--log-level", "--set", "--vms", "--compute", "--group",
};
constexpr std::string_view kFlags[] = {"--ipv6", "--network-only", "--keep", "--help"};

bool one_of(std::string_view word, std::span<const std::string_view> list) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

Result<Args> parse_args(int argc, char** argv) {
  Args out;
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    if (word == "--") {
      out.command.assign(argv + i + 1, argv + argc);
      break;
    }
    if (word == "-h") word = "--help";
    std::string value;
    bool has_value = false;
    if (auto eq = word.find('='); word.starts_with("--") && eq != std::string::npos) {
      value = word.substr(eq + 1);
      word.resize(eq);
      has_value = true;
    }
    // --json is a question for `status` and names a file for `demo`.
    if (word == "--json" && !has_value && (out.words.empty() || out.words[0] != "demo")) {
      out.values[word] = "";
      continue;
    }
    if (one_of(word, kWithValue)) {
      if (!has_value) {
        if (i + 1 >= argc) return fail(Errc::invalid, "{} needs a value", word);
        value = argv[++i];
      }
      if (word == "--set") {
        out.set.push_back(value);
      } else {
        out.values[word] = value;
      }
    } else if (one_of(word, kFlags)) {
      if (has_value) return fail(Errc::invalid, "{} takes no value", word);
      out.values[word] = "";
    } else if (word.starts_with("-")) {
      return fail(Errc::invalid, "unknown option {}", word);
    } else {
      out.words.push_back(word);
    }
  }
  return out;
}

Status number(const Args& args, const std::string& name, std::size_t& out) {
  auto it = args.values.find(name);
  if (it == args.values.end()) return {};
  const std::string& t = it->second;
  auto [end, ec] = std::from_chars(t.data(), t.data() + t.size(), out);
  if (ec != std::errc() || end != t.data() + t.size()) {
    return fail(Errc::invalid, "{} {}: accepted is a number", name, t);
  }
  return {};
}

Result<Options> options_of(const Args& args) {
  Options o;
  auto text = [&](const char* name, std::string& to) {
    if (auto it = args.values.find(name); it != args.values.end()) to = it->second;
  };
  text("--name", o.name);
  text("--dir", o.dir);
  text("--log-level", o.log_level);
  if (auto s = number(args, "--computes", o.computes); !s) return tl::unexpected(s.error());
  if (auto s = number(args, "--reflectors", o.reflectors); !s) return tl::unexpected(s.error());
  o.ipv6 = args.flag("--ipv6");
  o.network_only = args.flag("--network-only");
  o.set = args.set;
  while (o.dir.size() > 1 && o.dir.back() == '/') o.dir.pop_back();
  if (auto s = check_options(o); !s) return tl::unexpected(s.error());
  return o;
}

int report(const Error& e) {
  std::fprintf(stderr, "lab: %s\n", e.what.c_str());
  switch (e.code) {
    case Errc::invalid:
    case Errc::exists:
      return 2;
    case Errc::not_found:
      return 1;
    case Errc::canceled:
      return 130;
    default:
      return 3;
  }
}
int report(const Status& s) { return s ? 0 : report(s.error()); }
int usage(const std::string& what) {
  std::fprintf(stderr, "lab: %s; see calico-node lab --help\n", what.c_str());
  return 2;
}

Status bring_up(Cluster& c) {
  if (auto s = c.build(); !s) return s;
  if (auto s = c.configure(); !s) return s;
  if (c.record().options.network_only) return {};
  return c.start(c.all_nodes());
}

int up(const Options& options) {
  InterruptGuard guard;
  auto begin = Steady::now();
  auto cluster = Cluster::create(options);
  if (!cluster) return report(cluster.error());
  if (auto s = bring_up(*cluster); !s) {
    int code = report(s.error());
    ignore_interrupts();
    std::string dir = cluster->paths().dir;
    cluster = fail(Errc::closed, "given up");  // lets go of the lock
    if (auto cleaned = Cluster::down(dir); !cleaned) report(cleaned.error());
    return code;
  }
  auto took = std::chrono::duration<double>(Steady::now() - begin).count();
  std::printf("lab %s is up after %.1f s: %zu nodes, %zu of them computes; `calico-node lab status`\n",
              options.name.c_str(), took, cluster->record().nodes.size() - 1, options.computes);
  return 0;
}

const char* state_of(const Node& n) {
  if (n.roles.empty()) return "free";
  if (n.process.pid == 0) return "not started";
  return alive(n.process) ? "running" : "dead";
}

std::string memory_of(const Node& n) {
  auto bytes = resident_of(n.process);
  return bytes == 0 ? "-" : fmt::format("{:.1f} MiB", static_cast<double>(bytes) / 1048576);
}

int status(const Options& options, bool as_json) {
  auto record = Cluster::read(Cluster::dir_of(options));
  if (!record) return report(record.error());
  if (as_json) {
    json::array nodes;
    for (const auto& n : record->nodes) {
      nodes.push_back({{"name", n.name},
                       {"role", n.roles},
                       {"address", n.mgmt4.to_string()},
                       {"address6", n.mgmt6.to_string()},
                       {"public", n.public4.to_string()},
                       {"pid", n.process.pid},
                       {"resident_bytes", resident_of(n.process)},
                       {"state", state_of(n)}});
    }
    json::array vms;
    for (const auto& v : record->vms) {
      json::array ips;
      for (const auto& ip : v.ips) ips.emplace_back(ip);
      vms.push_back({{"name", v.name},
                     {"compute", v.compute},
                     {"interface", v.port_id.empty() ? "" : v.tap()},
                     {"mac", v.mac},
                     {"ips", std::move(ips)},
                     {"security_group", v.security_group},
                     {"running", alive(v.listener)}});
    }
    json::object out{{"name", record->options.name},
                     {"dir", Cluster::dir_of(options)},
                     {"nodes", std::move(nodes)},
                     {"vms", std::move(vms)}};
    std::puts(json::serialize(out).c_str());
    return 0;
  }
  std::printf("lab %s in %s\n\n%-14s %-28s %-15s %-15s %-8s %-9s %s\n", record->options.name.c_str(),
              Cluster::dir_of(options).c_str(), "node", "role", "management", "public", "process", "memory", "state");
  for (const auto& n : record->nodes) {
    std::printf("%-14s %-28s %-15s %-15s %-8d %-9s %s\n", n.name.c_str(), n.roles.c_str(), n.mgmt4.to_string().c_str(),
                n.public4.to_string().c_str(), n.process.pid, memory_of(n).c_str(), state_of(n));
  }
  if (!record->vms.empty()) {
    std::printf("\n%-14s %-14s %-15s %-19s %-10s %s\n", "vm", "compute", "interface", "mac", "group", "addresses");
  }
  for (const auto& v : record->vms) {
    std::string ips;
    for (const auto& ip : v.ips) ips += (ips.empty() ? "" : " ") + ip;
    std::printf("%-14s %-14s %-15s %-19s %-10s %s\n", v.name.c_str(), v.compute.c_str(),
                v.port_id.empty() ? "-" : v.tap().c_str(), v.mac.c_str(), v.security_group.c_str(), ips.c_str());
  }
  return 0;
}

int exec(const Options& options, const std::string& name, const std::vector<std::string>& command) {
  Paths paths{Cluster::dir_of(options)};
  auto record = Cluster::read(paths.dir);
  if (!record) return report(record.error());
  bool fabric = name == kFabric;
  if (!fabric && record->node(name) == nullptr && record->vm(name) == nullptr) {
    return report(Error{Errc::not_found, fmt::format("no node and no VM '{}' in lab {}", name, record->options.name)});
  }
  auto ns = open_netns(paths.netns(name));
  if (!ns) return report(ns.error());
  SpawnSpec spec;
  spec.argv = command;
  spec.environment = Cluster::environment();
  for (const char* keep : {"HOME", "USER", "SHELL", "COLUMNS", "LINES"}) {
    if (const char* v = std::getenv(keep)) spec.environment[keep] = v;
  }
  spec.netns = ns->get();
  if (!fabric) spec.view = Cluster::view_of(paths, *record, name);
  spec.input = 0;
  spec.new_session = false;
  if (command[0].find('/') == std::string::npos) {
    std::string_view rest = spec.environment["PATH"];
    while (!rest.empty()) {
      auto end = std::min(rest.find(':'), rest.size());
      std::string candidate = fmt::format("{}/{}", rest.substr(0, end), command[0]);
      if (::access(candidate.c_str(), X_OK) == 0) {
        spec.argv[0] = candidate;
        break;
      }
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
  }
  auto failed = become(spec);
  std::fprintf(stderr, "lab: %s\n", failed.error().what.c_str());
  return 127;
}

int vm_command(const Options& options, const std::string& verb, const Args& args, const std::string& name) {
  InterruptGuard guard;
  if (verb != "add" && verb != "del") return usage(fmt::format("vm {}: accepted are add, del", verb));
  auto cluster = Cluster::open(Cluster::dir_of(options));
  if (!cluster) return report(cluster.error());
  auto value = [&](const char* key, const char* otherwise) {
    auto it = args.values.find(key);
    return it == args.values.end() ? std::string(otherwise) : it->second;
  };
  if (verb == "add") {
    Vm vm;
    vm.name = name;
    vm.compute = value("--compute", "");
    vm.security_group = value("--group", "sg1");
    auto api = api_of(*cluster);
    if (!api) return report(api.error());
    auto active = add_vm(*cluster, *api, vm);
    if (!active) return report(active.error());
    std::string ips;
    for (const auto& ip : vm.ips) ips += " " + ip;
    std::printf("%s on %s: interface %s, MAC %s, addresses%s, ACTIVE after %.0f ms\n", vm.name.c_str(),
                vm.compute.c_str(), vm.tap().c_str(), vm.mac.c_str(), ips.c_str(), *active);
    return 0;
  }
  auto it = std::find_if(cluster->record().vms.begin(), cluster->record().vms.end(),
                         [&](const Vm& v) { return v.name == name; });
  if (it == cluster->record().vms.end()) return report(Error{Errc::not_found, fmt::format("no VM '{}'", name)});
  if (!it->port_id.empty()) {
    auto api = api_of(*cluster);
    if (!api) return report(api.error());
    if (auto s = api->remove("ports", it->port_id); !s && s.error().code != Errc::not_found) return report(s);
  }
  return report(cluster->remove_vm(name));
}

int node_command(const Options& options, const std::string& verb, const std::string& name) {
  InterruptGuard guard;
  auto cluster = Cluster::open(Cluster::dir_of(options));
  if (!cluster) return report(cluster.error());
  if (verb == "kill") return report(cluster->kill(name));
  if (verb == "stop") return report(cluster->stop(name));
  if (verb == "start") return report(cluster->start({name}));
  return usage(fmt::format("node {}: accepted are kill, stop, start", verb));
}

}  // namespace

namespace {
int demo(const Args& args, const Options& options) {
  DemoOptions d;
  d.lab = options;
  d.keep = args.flag("--keep");
  if (auto it = args.values.find("--json"); it != args.values.end()) d.json_file = it->second;
  if (auto s = number(args, "--vms", d.vms); !s) return report(s);
  if (d.vms < 2 || d.vms > kMaxVms) return usage(fmt::format("--vms {}: accepted 2:{}", d.vms, kMaxVms));
  if (options.computes < 1) return usage("--computes 0: the demonstration needs at least 1");
  if (options.network_only) return usage("--network-only is for `up`");
  return run_demo(d);
}
}  // namespace

int lab_main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "vm-listen") return vm_listen_main(argc - 1, argv + 1);
  ::signal(SIGPIPE, SIG_IGN);  // a reader that goes must not leave a half-built cluster; children get the default back
  auto args = parse_args(argc, argv);
  if (!args) return usage(args.error().what);
  if (args->flag("--help") || args->words.empty()) {
    std::fputs(kHelp, args->flag("--help") ? stdout : stderr);
    return args->flag("--help") ? 0 : 2;
  }
  auto options = options_of(*args);
  if (!options) return report(options.error());
  const auto& words = args->words;
  const std::string& verb = words[0];
  auto wants = [&](std::size_t n) { return words.size() == n; };
  if (verb == "up" && wants(1)) return up(*options);
  if (verb == "down" && wants(1)) {
    InterruptGuard guard;
    return report(Cluster::down(Cluster::dir_of(*options)));
  }
  if (verb == "status" && wants(1)) return status(*options, args->flag("--json"));
  if (verb == "exec") {
    // `exec NODE -- CMD` and, for the lazy, `exec NODE CMD`.
    std::vector<std::string> command(words.begin() + std::min<std::ptrdiff_t>(2, std::ssize(words)), words.end());
    command.insert(command.end(), args->command.begin(), args->command.end());
    if (words.size() < 2 || command.empty()) return usage("exec needs a node and a command");
    return exec(*options, words[1], command);
  }
  if (verb == "demo" && wants(1)) return demo(*args, *options);
  if (verb == "vm" && wants(3)) return vm_command(*options, words[1], *args, words[2]);
  if (verb == "node" && wants(3)) return node_command(*options, words[1], words[2]);
  return usage(fmt::format("'{}' is no command, or has too many words", verb));
}

}  // namespace calico::lab
