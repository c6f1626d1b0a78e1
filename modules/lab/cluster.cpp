#include "modules/lab/cluster.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/http/certificates.hpp"

extern char** environ;

namespace calico::lab {

namespace {

constexpr Millis kReadyLimit{30000};

std::string quote_log(const std::string& path) {
  std::string text = tail_of(path, 15);
  if (text.empty()) return fmt::format("; its log {} is empty", path);
  return fmt::format("; the end of {}:\n{}", path, text);
}

}  // namespace

std::string Cluster::dir_of(const Options& options) {
  return options.dir.empty() ? fmt::format("{}/{}", kDefaultRoot, options.name) : options.dir;
}

Result<Cluster> Cluster::create(const Options& options) {
  if (auto s = check_options(options); !s) return tl::unexpected(s.error());
  if (::geteuid() != 0) return fail(Errc::no_permission, "the lab makes network namespaces: run it as root");
  Cluster c;
  c.paths_.dir = dir_of(options);
  auto lock = Lock::take(c.paths_, true, Millis(2000));
  if (!lock) return tl::unexpected(lock.error());
  c.lock_ = std::move(*lock);
  if (::access(c.paths_.record().c_str(), F_OK) == 0) {
    return fail(Errc::exists, "lab {} is there already (in {}); `calico-node lab down` removes it", options.name,
                c.paths_.dir);
  }
  c.record_ = make_plan(options);
  for (const char* sub : {"/ns", "/nodes", "/vms"}) {
    if (auto s = make_dirs(c.paths_.dir + sub); !s) return tl::unexpected(s.error());
  }
  if (auto s = c.save(); !s) return tl::unexpected(s.error());
  return c;
}

Result<Cluster> Cluster::open(const std::string& dir, Millis limit) {
  Cluster c;
  c.paths_.dir = dir;
  auto lock = Lock::take(c.paths_, false, limit);
  if (!lock) return tl::unexpected(lock.error());
  c.lock_ = std::move(*lock);
  auto record = read(dir);
  if (!record) return tl::unexpected(record.error());
  c.record_ = std::move(*record);
  return c;
}

Result<Record> Cluster::read(const std::string& dir) {
  Paths paths{dir};
  auto text = read_file(paths.record());
  if (!text) {
    if (text.error().code == Errc::not_found) return fail(Errc::not_found, "no lab in {}", dir);
    return tl::unexpected(text.error());
  }
  auto record = Record::from_json(*text);
  if (!record) return wrap(record.error(), paths.record());
  return record;
}

Status Cluster::save() { return write_file(paths_.record(), record_.to_json()); }

Status Cluster::down(const std::string& dir) {
  Paths paths{dir};
  auto lock = Lock::take(paths, false, Millis(30000));
  if (!lock) {
    if (lock.error().code == Errc::not_found) return {};
    return tl::unexpected(lock.error());
  }
  // The namespaces themselves say which processes are the lab's; the record adds those that have left theirs.
  std::vector<std::string> names;
  if (DIR* d = ::opendir((dir + "/ns").c_str())) {
    while (dirent* e = ::readdir(d)) {
      if (e->d_name[0] != '.') names.emplace_back(e->d_name);
    }
    ::closedir(d);
  }
  std::vector<Fd> open;
  std::vector<int> numbers;
  struct stat home {};
  bool know_home = ::stat("/proc/self/ns/net", &home) == 0;
  for (const auto& n : names) {
    auto fd = open_netns(paths.netns(n));
    struct stat st {};
    // A file on which nothing was mounted yet is no namespace; ours is never the one the caller lives in.
    if (!fd || ::fstat(fd->get(), &st) != 0 || !know_home || st.st_dev != home.st_dev || st.st_ino == home.st_ino)
      continue;
    numbers.push_back(fd->get());
    open.push_back(std::move(*fd));
  }
  std::vector<pid_t> recorded;
  if (auto record = read(dir)) {
    auto add = [&](const ProcessId& p) {
      if (p.pid != ::getpid() && alive(p)) recorded.push_back(p.pid);
    };
    for (const auto& n : record->nodes) add(n.process);
    for (const auto& v : record->vms) {
      add(v.listener);
      add(v.dhcp);
    }
  }
  // Twice at least: what is being killed may still fork.
  for (int round = 0; round < 10; ++round) {
    auto pids = processes_in(numbers);
    pids.insert(pids.end(), recorded.begin(), recorded.end());
    recorded.clear();
    if (pids.empty()) break;
    if (auto s = kill_all(pids); !s) return s;
  }
  open.clear();
  for (const auto& n : names) {
    if (auto s = remove_netns(paths.netns(n)); !s) return s;
  }
  if (auto s = remove_tree(dir); !s) return s;
  // The default place is ours to tidy as well, if nobody else's lab is in it.
  if (dir.starts_with(std::string(kDefaultRoot) + "/")) {
    ::rmdir(std::string(kDefaultRoot).c_str());
    ::rmdir("/run/calico-node");
  }
  return {};
}

Result<int> Cluster::netns(const std::string& name) {
  auto it = namespaces_.find(name);
  if (it == namespaces_.end()) {
    auto fd = open_netns(paths_.netns(name));
    if (!fd) return tl::unexpected(fd.error());
    it = namespaces_.emplace(name, std::move(*fd)).first;
  }
  return it->second.get();
}

Result<Wire*> Cluster::wire(const std::string& name) {
  auto it = wires_.find(name);
  if (it == wires_.end()) {
    auto ns = netns(name);
    if (!ns) return tl::unexpected(ns.error());
    auto w = Wire::open(*ns);
    if (!w) return tl::unexpected(w.error());
    it = wires_.emplace(name, std::move(*w)).first;
  }
  return &it->second;
}

Status Cluster::build() {
  auto fabric = make_netns(paths_.netns(kFabric));
  if (!fabric) return tl::unexpected(fabric.error());
  if (auto s =
          set_sysctls(fabric->get(), {{"ipv6.conf.all.disable_ipv6", "1"}, {"ipv6.conf.default.disable_ipv6", "1"}});
      !s) {
    return s;
  }
  namespaces_.emplace(std::string(kFabric), std::move(*fabric));
  auto w = wire(std::string(kFabric));
  if (!w) return tl::unexpected(w.error());
  for (const char* bridge : {"mgmt", "public"}) {
    if (auto s = (*w)->add_bridge(bridge); !s) return s;
  }
  for (const auto& node : record_.nodes) {
    if (interrupted()) return fail(Errc::canceled, "interrupted");
    if (auto s = cable(node); !s) return wrap(s.error(), node.name);
  }
  return {};
}

Status Cluster::cable(const Node& node) {
  auto made = make_netns(paths_.netns(node.name));
  if (!made) return tl::unexpected(made.error());
  int ns = made->get();
  namespaces_.emplace(node.name, std::move(*made));
  if (auto s = set_sysctls(ns, {{"ipv4.ip_forward", "1"},
                                {"ipv6.conf.all.forwarding", "1"},
                                // A tap's own address is usable at once, or the first router advertisement is lost.
                                {"ipv6.conf.all.accept_dad", "0"},
                                {"ipv6.conf.default.accept_dad", "0"},
                                {"ipv4.conf.all.rp_filter", "0"},
                                {"ipv4.conf.default.rp_filter", "0"}});
      !s) {
    return s;
  }
  auto fabric = wire(std::string(kFabric));
  auto own = wire(node.name);
  if (!fabric) return tl::unexpected(fabric.error());
  if (!own) return tl::unexpected(own.error());
  struct Port {
    const char* bridge;
    const char* prefix;
    const char* card;
    Ip v4;
    Ip v6;
  };
  const Port ports[] = {{"mgmt", "m-", "eth0", node.mgmt4, node.mgmt6},
                        {"public", "p-", "eth1", node.public4, node.public6}};
  if (auto s = (*own)->set_up("lo"); !s) return s;
  for (const auto& p : ports) {
    std::string port = p.prefix + node.name;
    if (auto s = (*fabric)->add_veth(port, ns, p.card); !s) return s;
    if (auto s = (*fabric)->set_master(port, p.bridge); !s) return s;
    if (auto s = (*fabric)->set_up(port); !s) return s;
    if (auto s = (*own)->set_up(p.card); !s) return s;
    if (auto s = (*own)->add_address(p.card, {p.v4, 24}); !s) return s;
    if (auto s = (*own)->add_address(p.card, {p.v6, 64}); !s) return s;
  }
  return {};
}

std::map<std::string, std::string> Cluster::environment() {
  std::map<std::string, std::string> out{{"LANG", "C.UTF-8"}, {"HOME", "/root"}};
  std::string path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  if (auto self = self_path()) path = self->substr(0, self->rfind('/')) + ":" + path;
  out["PATH"] = path;
  for (char** e = environ; *e != nullptr; ++e) {
    std::string_view v(*e);
    auto eq = v.find('=');
    if (eq == std::string_view::npos) continue;
    for (std::string_view prefix : {"ASAN_", "UBSAN_", "TSAN_", "LSAN_", "LD_LIBRARY_PATH", "TERM"}) {
      if (v.starts_with(prefix)) out.emplace(v.substr(0, eq), v.substr(eq + 1));
    }
  }
  return out;
}

NodeView Cluster::view_of(const Paths& paths, const Record& record, const std::string& name) {
  NodeView v;
  v.hostname = name;
  bool is_node = record.node(name) != nullptr;
  v.dir = is_node ? paths.node(name) : paths.vm(name);
  v.run = v.dir + "/run";
  if (!is_node) v.binds.emplace_back(v.dir + "/dhcpcd", "/var/lib/dhcpcd");
  return v;
}

Status Cluster::configure() {
  if (auto s = make_dirs(paths_.pki(), 0700); !s) return s;
  // Throw-away: the CA's key never reaches the disk.
  auto ca = http::make_ca("calico-node lab " + record_.options.name);
  if (!ca) return tl::unexpected(ca.error());
  auto issue = [&](const std::string& dir, const std::string& stem, const std::string& name,
                   std::vector<Ip> ips) -> Status {
    http::CertificateRequest wanted;
    wanted.name = name;
    wanted.dns = {name};
    wanted.ips = std::move(ips);
    auto pair = http::issue(*ca, wanted);
    if (!pair) return tl::unexpected(pair.error());
    if (auto s = write_file(dir + "/ca.crt", ca->cert_pem); !s) return s;
    return http::write_pem(dir + "/" + stem, *pair);
  };
  std::string token = random_hex(16);
  if (auto s = write_file(paths_.pki() + "/token", token + "\n", 0600); !s) return s;
  for (const auto& node : record_.nodes) {
    const std::string dir = paths_.node(node.name);
    if (auto s = make_dirs(dir + "/run"); !s) return s;
    if (node.roles.empty()) continue;
    if (auto s = make_dirs(dir + "/state", 0700); !s) return s;
    if (auto s = issue(dir, "node", node.name, {node.mgmt4, node.mgmt6, Ip::v4(0x7f000001)}); !s) return s;
    if (node.is_controller()) {
      if (auto s = write_file(dir + "/tokens", token + " demo admin name=demo\n", 0600); !s) return s;
    }
    if (auto s = write_config(node); !s) return s;
  }
  // The customer's certificate and token are in the border's place, and beside the CA for ourselves.
  const std::string border = paths_.node(kBorder);
  if (auto s = write_file(border + "/token", token + "\n", 0600); !s) return s;
  if (auto s = issue(border, "client", "lab-client", {}); !s) return s;
  return issue(paths_.pki(), "client", "lab-client", {});
}

Status Cluster::write_config(const Node& node) {
  const std::string dir = paths_.node(node.name);
  const Node& controller = record_.controller();
  std::string files = fmt::format("ca_file = {0}/ca.crt\ncert_file = {0}/node.crt\nkey_file = {0}/node.key\n", dir);
  std::string text = fmt::format(
      "; {} of the lab {}, written by `calico-node lab`\n[node]\nname = {}\nstate_dir = {}/state\n"
      "run_dir = /run/calico-node\nfelix_cfg =\n\n[datastore]\n",
      node.name, record_.options.name, node.name, dir);
  if (node.is_controller()) {
    text += fmt::format("listen = {}:2379\n", node.mgmt4);
  } else {
    text += fmt::format("endpoints = https://{}:2379\n", controller.mgmt4);
  }
  text += files;
  text +=
      fmt::format("\n[bgp]\nrouter_id = {0}\nsource_address = {0}\nsource_address6 = {1}\n", node.mgmt4, node.mgmt6);
  if (node.is_reflector()) text += fmt::format("cluster_id = {}\nkernel_export = no\n", node.mgmt4);
  if (node.is_controller()) {
    text += fmt::format("\n[controller]\napi_listen = {}:9696\ntokens_file = {}/tokens\n{}", node.mgmt4, dir, files);
  }
  return write_file(dir + "/calico-node.conf", text);
}

std::vector<std::string> Cluster::all_nodes() const {
  std::vector<std::string> names;
  for (const auto& n : record_.nodes) {
    if (!n.roles.empty()) names.push_back(n.name);
  }
  return names;
}

Status Cluster::start(const std::vector<std::string>& names) {
  if (auto s = launch(names); !s) return s;
  return await_ready();
}

Status Cluster::launch(const std::vector<std::string>& names) {
  auto self = self_path();
  if (!self) return tl::unexpected(self.error());
  auto& all = starting_;
  for (const auto& name : names) {
    Node* node = record_.node(name);
    if (node == nullptr || node->roles.empty()) return fail(Errc::invalid, "'{}' is no node with a role", name);
    if (alive(node->process)) return fail(Errc::exists, "{} runs already as process {}", name, node->process.pid);
    const std::string dir = paths_.node(name);
    Starting s;
    s.name = name;
    s.log = dir + "/log";
    auto notify = NotifySocket::open(dir + "/run");
    if (!notify) return tl::unexpected(notify.error());
    s.notify = std::move(*notify);
    Fd log(::open(s.log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
    if (!log) return fail_errno(errno, s.log);
    auto ns = netns(name);
    if (!ns) return tl::unexpected(ns.error());
    SpawnSpec spec;
    spec.argv = {*self,       "--log-level", record_.options.log_level, "role",
                 node->roles, "--config",    dir + "/calico-node.conf"};
    for (const auto& set : settings_for(record_.options, name)) {
      spec.argv.emplace_back("--set");
      spec.argv.push_back(set);
    }
    spec.environment = environment();
    spec.environment["NOTIFY_SOCKET"] = "/run/notify";
    spec.netns = *ns;
    spec.view = view_of(paths_, record_, name);
    spec.output = log.get();
    auto child = spawn(spec);
    if (!child) return wrap(child.error(), name);
    s.child = std::move(*child);
    node->process = s.child.id();
    if (auto saved = save(); !saved) return saved;
    all.push_back(std::move(s));
  }
  for (auto& s : all) {
    if (auto r = s.child.release(); !r) return wrap(r.error(), s.name);
  }
  return {};
}

Status Cluster::await_ready() {
  auto all = std::move(starting_);
  starting_.clear();
  auto deadline = Steady::now() + kReadyLimit;
  for (;;) {
    std::vector<pollfd> fds;
    std::vector<Starting*> waiting;
    for (auto& s : all) {
      if (s.notify.ready()) continue;
      waiting.push_back(&s);
      fds.push_back({s.notify.fd(), POLLIN, 0});
      fds.push_back({s.child.pidfd(), POLLIN, 0});
    }
    if (waiting.empty()) {
      for (auto& s : all) notify_.insert_or_assign(s.name, std::move(s.notify));
      return {};
    }
    if (interrupted()) return fail(Errc::canceled, "interrupted");
    if (Steady::now() >= deadline) {
      const auto& s = *waiting.front();
      return fail(Errc::timeout, "{} did not become ready within {} s{}{}", s.name, kReadyLimit.count() / 1000,
                  s.notify.status().empty() ? "" : " (it says: " + s.notify.status() + ")", quote_log(s.log));
    }
    ::poll(fds.data(), fds.size(), 100);
    for (auto* s : waiting) {
      s->notify.drain();
      if (s->notify.ready()) continue;
      if (auto status = s->child.try_wait()) {
        return fail(Errc::closed, "{} {} before it was ready{}", s->name, describe_wait_status(*status),
                    quote_log(s->log));
      }
    }
  }
}

unsigned Cluster::ready_count(const std::string& name) {
  auto it = notify_.find(name);
  if (it == notify_.end()) return 0;
  it->second.drain();
  return it->second.ready_count();
}

Status Cluster::kill(const std::string& name) {
  Node* node = record_.node(name);
  if (node == nullptr) return fail(Errc::not_found, "no node '{}'", name);
  if (!alive(node->process)) return fail(Errc::not_found, "{} does not run", name);
  auto pids = descendants_of(node->process.pid);
  pids.insert(pids.begin(), node->process.pid);
  return kill_all(pids);
}

Status Cluster::stop(const std::string& name, Millis limit) {
  Node* node = record_.node(name);
  if (node == nullptr) return fail(Errc::not_found, "no node '{}'", name);
  if (!alive(node->process)) return fail(Errc::not_found, "{} does not run", name);
  ::kill(node->process.pid, SIGTERM);
  return wait_until(fmt::format("the end of {} (process {}) after SIGTERM", name, node->process.pid), limit,
                    [&] { return !alive(node->process); });
}

}  // namespace calico::lab
