#include "modules/lab/plan.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <cstdlib>

namespace calico::lab {

namespace json = boost::json;

namespace {

Ip ip_of(std::string_view text) {
  auto ip = Ip::parse(text);
  if (!ip) std::abort();  // only literals come here
  return *ip;
}

std::string text_of(const json::object& o, std::string_view key) {
  const auto* v = o.if_contains(key);
  return v != nullptr && v->is_string() ? std::string(v->get_string()) : std::string();
}
std::uint64_t number_of(const json::object& o, std::string_view key) {
  const auto* v = o.if_contains(key);
  if (v == nullptr) return 0;
  if (v->is_int64() && v->get_int64() >= 0) return static_cast<std::uint64_t>(v->get_int64());
  return v->is_uint64() ? v->get_uint64() : 0;
}
bool flag_of(const json::object& o, std::string_view key) {
  const auto* v = o.if_contains(key);
  return v != nullptr && v->is_bool() && v->get_bool();
}
json::object json_of(const ProcessId& p) { return {{"pid", p.pid}, {"start", p.start}}; }
ProcessId process_of(const json::object& o, std::string_view key) {
  const auto* v = o.if_contains(key);
  if (v == nullptr || !v->is_object()) return {};
  return {static_cast<pid_t>(number_of(v->get_object(), "pid")), number_of(v->get_object(), "start")};
}
json::array json_of(const std::vector<std::string>& list) {
  json::array out;
  for (const auto& s : list) out.emplace_back(s);
  return out;
}
std::vector<std::string> list_of(const json::object& o, std::string_view key) {
  std::vector<std::string> out;
  const auto* v = o.if_contains(key);
  if (v == nullptr || !v->is_array()) return out;
  for (const auto& e : v->get_array()) {
    if (e.is_string()) out.emplace_back(e.get_string());
  }
  return out;
}
const json::array* array_of(const json::object& o, std::string_view key) {
  const auto* v = o.if_contains(key);
  return v != nullptr && v->is_array() ? &v->get_array() : nullptr;
}

}  // namespace

bool Node::has_role(std::string_view role) const {
  std::string_view rest = roles;
  while (!rest.empty()) {
    auto end = std::min(rest.find(','), rest.size());
    if (rest.substr(0, end) == role) return true;
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return false;
}

Node* Record::node(std::string_view name) {
  auto it = std::find_if(nodes.begin(), nodes.end(), [&](const Node& n) { return n.name == name; });
  return it == nodes.end() ? nullptr : &*it;
}
const Node* Record::node(std::string_view name) const { return const_cast<Record*>(this)->node(name); }
Vm* Record::vm(std::string_view name) {
  auto it = std::find_if(vms.begin(), vms.end(), [&](const Vm& v) { return v.name == name; });
  return it == vms.end() ? nullptr : &*it;
}
const Node& Record::controller() const {
  return *std::find_if(nodes.begin(), nodes.end(), [](const Node& n) { return n.is_controller(); });
}

std::string Record::to_json() const {
  json::array node_rows;
  for (const auto& n : nodes) {
    node_rows.push_back({{"name", n.name},
                         {"roles", n.roles},
                         {"mgmt4", n.mgmt4.to_string()},
                         {"mgmt6", n.mgmt6.to_string()},
                         {"public4", n.public4.to_string()},
                         {"public6", n.public6.to_string()},
                         {"process", json_of(n.process)}});
  }
  json::array vm_rows;
  for (const auto& v : vms) {
    vm_rows.push_back({{"name", v.name},
                       {"compute", v.compute},
                       {"security_group", v.security_group},
                       {"port_id", v.port_id},
                       {"device_id", v.device_id},
                       {"mac", v.mac},
                       {"ips", json_of(v.ips)},
                       {"listener", json_of(v.listener)},
                       {"dhcp", json_of(v.dhcp)}});
  }
  json::object out{{"version", 1},
                   {"name", options.name},
                   {"computes", options.computes},
                   {"reflectors", options.reflectors},
                   {"ipv6", options.ipv6},
                   {"network_only", options.network_only},
                   {"log_level", options.log_level},
                   {"set", json_of(options.set)},
                   {"network_id", network_id},
                   {"nodes", std::move(node_rows)},
                   {"vms", std::move(vm_rows)}};
  return json::serialize(out) + "\n";
}

Result<Record> Record::from_json(std::string_view text) {
  json::error_code ec;
  json::value parsed = json::parse(text, ec);
  if (ec || !parsed.is_object()) return fail(Errc::corrupt, "lab.json is not a JSON object");
  const auto& o = parsed.get_object();
  if (number_of(o, "version") != 1) return fail(Errc::corrupt, "lab.json has a version this program does not know");
  Record r;
  r.options.name = text_of(o, "name");
  r.options.computes = number_of(o, "computes");
  r.options.reflectors = number_of(o, "reflectors");
  r.options.ipv6 = flag_of(o, "ipv6");
  r.options.network_only = flag_of(o, "network_only");
  r.options.log_level = text_of(o, "log_level");
  r.options.set = list_of(o, "set");
  r.network_id = text_of(o, "network_id");
  if (const auto* rows = array_of(o, "nodes")) {
    for (const auto& row : *rows) {
      if (!row.is_object()) continue;
      const auto& n = row.get_object();
      auto mgmt4 = Ip::parse(text_of(n, "mgmt4"));
      auto mgmt6 = Ip::parse(text_of(n, "mgmt6"));
      auto public4 = Ip::parse(text_of(n, "public4"));
      auto public6 = Ip::parse(text_of(n, "public6"));
      std::string name = text_of(n, "name");
      if (!mgmt4 || !mgmt6 || !public4 || !public6 || !check_name(name)) {
        return fail(Errc::corrupt, "lab.json: a node without name or addresses");
      }
      r.nodes.push_back({name, text_of(n, "roles"), *mgmt4, *mgmt6, *public4, *public6, process_of(n, "process")});
    }
  }
  if (std::none_of(r.nodes.begin(), r.nodes.end(), [](const Node& n) { return n.is_controller(); })) {
    return fail(Errc::corrupt, "lab.json: no controller");
  }
  if (const auto* rows = array_of(o, "vms")) {
    for (const auto& row : *rows) {
      if (!row.is_object()) continue;
      const auto& v = row.get_object();
      std::string name = text_of(v, "name");
      if (!check_name(name)) return fail(Errc::corrupt, "lab.json: a VM without name");
      r.vms.push_back({name, text_of(v, "compute"), text_of(v, "security_group"), text_of(v, "port_id"),
                       text_of(v, "device_id"), text_of(v, "mac"), list_of(v, "ips"), process_of(v, "listener"),
                       process_of(v, "dhcp")});
    }
  }
  return r;
}

Status check_name(std::string_view name) {
  bool good = !name.empty() && name.size() <= 24 && name.front() != '-';
  for (char c : name) good = good && ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-');
  if (!good) {
    return fail(Errc::invalid, "name '{}': accepted are a-z, 0-9 and '-', at most 24 characters", name);
  }
  return {};
}

Status check_options(const Options& o) {
  if (auto s = check_name(o.name); !s) return s;
  if (!o.dir.empty() && o.dir.front() != '/')
    return fail(Errc::invalid, "--dir {}: accepted is an absolute path", o.dir);
  if (o.computes > kMaxComputes) return fail(Errc::invalid, "--computes {}: accepted 0:{}", o.computes, kMaxComputes);
  if (o.reflectors < 1 || o.reflectors > kMaxReflectors) {
    return fail(Errc::invalid, "--reflectors {}: accepted 1:{} (the first is on the controller)", o.reflectors,
                kMaxReflectors);
  }
  Record plan = make_plan(o);
  for (const std::string& set : o.set) {
    auto colon = set.find(':');
    if (colon == std::string::npos || colon >= set.find('.')) continue;
    const Node* node = plan.node(set.substr(0, colon));
    if (node == nullptr || node->roles.empty()) {
      return fail(Errc::invalid, "--set {}: the lab has no node '{}'", set, set.substr(0, colon));
    }
  }
  return {};
}

std::vector<std::string> settings_for(const Options& options, std::string_view node) {
  std::vector<std::string> out;
  for (const std::string& set : options.set) {
    auto colon = set.find(':');
    if (colon >= set.find('.') || colon == std::string::npos) {
      out.push_back(set);
    } else if (std::string_view(set).substr(0, colon) == node) {
      out.push_back(set.substr(colon + 1));
    }
  }
  return out;
}

Record make_plan(const Options& options) {
  Record r;
  r.options = options;
  std::size_t place = 0;
  auto add = [&](std::string name, std::string roles, std::size_t host) {
    Node n;
    n.name = std::move(name);
    n.roles = std::move(roles);
    n.mgmt4 = ip_of(fmt::format("192.168.0.{}", host));
    n.mgmt6 = ip_of(fmt::format("fd65:ca11:c0:101::{}", host));
    // The document's public range is .40 - .49, its floating range .50 - .59: further nodes lie behind both.
    std::size_t outside = host == 1 ? 1 : (place < 10 ? 40 + place : 50 + place);
    if (host != 1) ++place;
    n.public4 = ip_of(fmt::format("172.18.203.{}", outside));
    n.public6 = ip_of(fmt::format("fd65:ca11:c0:203::{}", outside));
    r.nodes.push_back(std::move(n));
  };
  add("controller-1", "controller,route-reflector", 2);
  for (std::size_t i = 2; i <= options.reflectors; ++i) add(fmt::format("rr-{}", i), "route-reflector", i + 1);
  for (std::size_t i = 1; i <= options.computes; ++i) add(fmt::format("compute-{}", i), "compute", 10 + i);
  add(std::string(kBorder), "", 1);
  return r;
}

Status check_is_lab(const Paths& paths) {
  DIR* d = ::opendir(paths.dir.c_str());
  if (d == nullptr) return fail_errno(errno, paths.dir);
  std::string foreign;
  while (dirent* e = ::readdir(d)) {
    std::string_view n(e->d_name);
    bool known = n == "." || n == ".." || n == "ns" || n == "nodes" || n == "vms" || n == "pki" || n == "lab.lock" ||
                 n.starts_with("lab.json");
    if (!known) foreign = n;
  }
  ::closedir(d);
  if (!foreign.empty()) {
    return fail(Errc::invalid, "{} holds '{}', which is not a lab's: give --dir another directory", paths.dir, foreign);
  }
  return {};
}

Result<Lock> Lock::take(const Paths& paths, bool create, Millis limit) {
  if (create) {
    if (auto s = make_dirs(paths.dir); !s) return tl::unexpected(s.error());
  }
  if (auto s = check_is_lab(paths); !s && s.error().code != Errc::not_found) return tl::unexpected(s.error());
  auto deadline = Steady::now() + limit;
  for (;;) {
    Lock lock;
    lock.fd_ = Fd(::open(paths.lock().c_str(), O_RDWR | O_CLOEXEC | (create ? O_CREAT : 0), 0644));
    if (!lock.fd_) {
      if (errno == ENOENT) return fail(Errc::not_found, "no lab in {}", paths.dir);
      return fail_errno(errno, paths.lock());
    }
    if (::flock(lock.fd_.get(), LOCK_EX | LOCK_NB) == 0) {
      struct stat mine {};
      struct stat there {};
      // The former holder may have removed the directory with the lock in it.
      if (::fstat(lock.fd_.get(), &mine) == 0 && ::stat(paths.lock().c_str(), &there) == 0 &&
          mine.st_ino == there.st_ino) {
        std::string pid = fmt::format("{}\n", ::getpid());
        (void)!::ftruncate(lock.fd_.get(), 0);
        (void)!::pwrite(lock.fd_.get(), pid.data(), pid.size(), 0);
        return lock;
      }
      if (create) {
        if (auto s = make_dirs(paths.dir); !s) return tl::unexpected(s.error());
      }
      continue;
    }
    if (Steady::now() >= deadline) {
      auto holder = read_file(paths.lock(), 64);
      std::string pid = holder ? holder->substr(0, holder->find('\n')) : "?";
      return fail(Errc::busy, "process {} works on the lab in {}; wait for it or end it first", pid, paths.dir);
    }
    if (interrupted()) return fail(Errc::canceled, "interrupted");
    ::usleep(20000);
  }
}

}  // namespace calico::lab
