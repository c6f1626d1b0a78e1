#include "modules/felix/cleanup.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/config/load.hpp"
#include "core/model/ruleset.hpp"
#include "core/netlink/rtnl.hpp"
#include "core/nft/connection.hpp"
#include "core/store/db.hpp"
#include "modules/felix/blackholes.hpp"
#include "modules/felix/settings.hpp"
#include "modules/felix/tables.hpp"
#include "modules/felix/taps.hpp"

namespace calico::felix {
namespace {

constexpr const char* kUsage =
    "usage: calico-node cleanup [--dry-run] [--config FILE]...\n"
    "Removes from the kernel all and only what is ours: routes of protocols 88 and 89, what felix gave to machines'\n"
    "interfaces (neighbours, proxy entries, token buckets, the device group), the DHCP bridge, our nf_tables tables "
    "and\n"
    "the boot guard's. Machines of this host are cut off, and no rule protects it from them any more. Settings of "
    "their\n"
    "interfaces and the kernel's connections stay. Refuses while a calico-node runs in this network namespace.\n"
    "  --dry-run      says what would go, each thing a line\n"
    "  --config FILE  repeatable; for [node] state_dir, [felix] route_protocol and interface_prefix\n"
    "exit codes: 0 nothing of ours is there (any more); 1 a calico-node runs, or something is left; 2 usage; 3 not "
    "root\n";

/// Made by the role compute (modules/compute/dhcp.hpp); a module does not include another.
constexpr const char* kDhcpDevice = "ns-calico-dhcp";

enum class Kind : std::uint8_t {
  felix_route,
  bgp_route,
  nexthop,
  neighbour,
  proxy,
  bucket,
  group,
  device,
  table,
};
/// In the order in which they go.
constexpr std::array kNames = {
    "routes of felix",      "routes of BGP", "nexthop objects",
    "permanent neighbours", "proxy entries", "token buckets",
    "groups of interfaces", "DHCP bridges",  "tables",
};

struct Thing {
  Kind kind;
  std::string what;
  std::function<void(netlink::Batch&)> remove;  ///< none for a table
  nft::TableRef table{};
};

struct Inventory {
  std::vector<Thing> things;          ///< in the order in which they go
  std::vector<std::string> problems;  ///< what could not be read
  std::vector<std::string> owned;     ///< tables that a living process owns
  std::size_t interfaces = 0;         ///< in a group of felix's
};

struct Wanted {
  std::string state_dir;
  Settings settings;
};

/// A fault elsewhere in the files does not matter: this is for hosts that are in disorder.
Wanted configured(const std::vector<std::string>& files) {
  Wanted w;
  auto schema = std::make_shared<config::Schema>();
  if (!schema->add(config::core_params()) || !schema->add(params())) return w;
  config::Sources sources;
  sources.files = files;
  sources.environment = config::process_environment();
  const auto loaded = config::load(schema, sources);
  w.settings = settings_of(loaded.config);
  w.state_dir = loaded.config.text("node.state_dir");
  return w;
}

std::string first_bytes(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::string text(4096, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(in.gcount()));
  return text;
}

/// A process `calico-node … role …` in our network namespace: what it is and how to end it. By its executable and not
/// by a lock, because its configuration may be another than the one we were given.
std::optional<std::string> running() {
  namespace fs = std::filesystem;
  std::error_code ec;
  const auto here = fs::read_symlink("/proc/self/ns/net", ec);
  for (fs::directory_iterator it("/proc", ec), end; !ec && it != end; it.increment(ec)) {
    const auto name = it->path().filename().string();
    int pid = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), pid).ptr != name.data() + name.size()) continue;
    if (pid == ::getpid()) continue;
    std::error_code gone;
    const auto program = fs::read_symlink(it->path() / "exe", gone).filename().string();
    if (gone || (program != "calico-node" && program != "calico-node (deleted)")) continue;
    if (fs::read_symlink(it->path() / "ns/net", gone) != here || gone) continue;
    const auto words = first_bytes(it->path() / "cmdline");
    const auto role = words.find(std::string_view("\0role\0", 6));
    if (role == std::string::npos) continue;
    const auto roles = words.substr(role + 6, words.find('\0', role + 6) - role - 6);
    auto unit = first_bytes(it->path() / "cgroup");
    unit.resize(std::min(unit.size(), unit.find('\n')));
    unit.erase(0, unit.rfind('/') + 1);
    if (!unit.ends_with(".service")) return fmt::format("role {} runs (pid {}): end it first", shown(roles), pid);
    return fmt::format("role {} runs ({}, pid {}): systemctl stop {} first", shown(roles), shown(unit), pid,
                       shown(unit));
  }
  return std::nullopt;
}

class Search {
 public:
  Search(netlink::Rtnl& nl, const Settings& settings) : nl_(nl), settings_(settings) {}

  Inventory run(nft::Connection* nft) {
    if (auto links = nl_.links())
      for (auto& l : *links) links_.emplace(l.index, std::move(l));
    else
      problem(links.error());
    routes(Kind::felix_route, netlink::kProtoFelix, false);
    if (settings_.route_protocol != netlink::kProtoFelix && settings_.route_protocol != netlink::kProtoBgp)
      routes(Kind::felix_route, settings_.route_protocol, true);
    routes(Kind::bgp_route, netlink::kProtoBgp, false);
    nexthops();
    neighbours();
    buckets();
    for (const auto& [index, l] : links_)
      if (model::is_our_group(l.group)) {
        ++found_.interfaces;
        add(Kind::group, fmt::format("{} in group {:#x}", l.name, l.group),
            [index = index](netlink::Batch& b) { b.set_link_group(index, 0); });
      }
    for (const auto& [index, l] : links_)
      if (l.name == kDhcpDevice && l.kind == "bridge")
        add(Kind::device, l.name, [index = index](netlink::Batch& b) { b.remove_link(index); });
    if (nft) tables(*nft);
    return std::move(found_);
  }

 private:
  void problem(const Error& e) { found_.problems.push_back(e.what); }
  void add(Kind kind, std::string what, std::function<void(netlink::Batch&)> remove) {
    found_.things.push_back({kind, std::move(what), std::move(remove), {}});
  }
  const netlink::Link* ours(IfIndex dev) const {
    const auto it = links_.find(dev);
    return it != links_.end() && model::is_our_group(it->second.group) ? &it->second : nullptr;
  }
  bool has_prefix(IfIndex dev) const {
    const auto it = links_.find(dev);
    return it != links_.end() && std::any_of(settings_.interface_prefixes.begin(), settings_.interface_prefixes.end(),
                                             [&](const auto& p) { return it->second.name.starts_with(p); });
  }

  /// `narrow`: a protocol others may use too; then what felix makes, no more.
  void routes(Kind kind, std::uint8_t protocol, bool narrow) {
    auto all = nl_.routes({.protocol = protocol});
    if (!all) return problem(all.error());
    for (const auto& r : *all) {
      const bool to_endpoint = r.nexthops.size() == 1 && has_prefix(r.nexthops[0].dev);
      const bool hole = r.type == netlink::RouteType::blackhole && r.metric == kBlackholeMetric;
      if (narrow && !(r.table == netlink::kTableMain && (to_endpoint || hole))) continue;
      auto normal = netlink::normalised(r);
      auto text = netlink::to_string(normal);
      add(kind, std::move(text), [normal = std::move(normal)](netlink::Batch& b) { b.remove(normal); });
    }
  }
  /// After the routes that name them, groups before their members.
  void nexthops() {
    auto all = nl_.nexthops();
    if (!all) return;  // a kernel without them
    for (const bool groups : {true, false})
      for (const auto& o : *all)
        if (o.protocol == netlink::kProtoBgp && o.group.empty() != groups)
          add(Kind::nexthop, netlink::to_string(o), [id = o.id](netlink::Batch& b) { b.remove_nexthop(id); });
  }
  void neighbours() {
    auto plain = nl_.neighbours();
    if (!plain) return problem(plain.error());
    for (const auto& n : *plain)
      if (const auto* l = ours(n.dev); l && n.permanent() && !n.ip.is_multicast())
        add(Kind::neighbour, fmt::format("{} {} dev {}", n.ip, n.mac, l->name),
            [n](netlink::Batch& b) { b.remove(n); });
    auto proxies = nl_.proxies();
    if (!proxies) return problem(proxies.error());
    for (const auto& n : *proxies)
      if (const auto* l = ours(n.dev); l && !n.ip.is_v4())
        add(Kind::proxy, fmt::format("{} dev {}", n.ip, l->name), [n](netlink::Batch& b) { b.remove(n); });
  }
  void buckets() {
    auto all = nl_.qdiscs();
    if (!all) return;  // a kernel without them
    for (const auto& q : *all)
      if (const auto* l = ours(q.dev); l && is_our_bucket(q))
        add(Kind::bucket, fmt::format("{:x}: dev {}", q.handle >> 16U, l->name),
            [q](netlink::Batch& b) { b.remove(q); });
  }
  void tables(nft::Connection& nft) {
    auto all = nft.tables();
    if (!all) return problem(all.error());
    for (const auto& t : *all) {
      if (t.table.ref != kInet && t.table.ref != kArp && t.table.ref != kGuard && t.table.ref != kGuardArp) continue;
      const auto name = nft::to_string(t.table.ref);
      if (t.owner_port != 0 && t.owner_port != nft.port())
        found_.owned.push_back(fmt::format("{} (netlink port {})", name, t.owner_port));
      found_.things.push_back({Kind::table, name, nullptr, t.table.ref});
    }
  }

  netlink::Rtnl& nl_;
  const Settings& settings_;
  std::unordered_map<IfIndex, netlink::Link> links_;
  Inventory found_;
};

bool gone_already(int error) { return error == ENODEV || error == ENOENT || error == ESRCH; }

using Counts = std::array<std::size_t, kNames.size()>;

/// Goes on after what fails; `failed` has a line for each.
Counts remove_all(const Inventory& found, netlink::Rtnl& nl, nft::Connection* nft, std::vector<std::string>& failed) {
  Counts gone{};
  netlink::Batch batch;
  std::vector<const Thing*> in_batch;
  for (const auto& t : found.things)
    if (t.remove) {
      t.remove(batch);
      in_batch.push_back(&t);
    }
  if (!batch.empty()) {
    if (auto done = nl.commit(batch); done) {
      for (const auto* t : in_batch) ++gone[static_cast<std::size_t>(t->kind)];
      for (const auto& f : done->failed) {
        const auto& t = *in_batch.at(f.index);
        --gone[static_cast<std::size_t>(t.kind)];
        if (!gone_already(f.error)) failed.push_back(fmt::format("{}: {}", t.what, f.what.what));
      }
    } else {
      failed.push_back(done.error().what);
    }
  }
  for (const auto& t : found.things) {
    if (t.remove || !nft) continue;
    nft::Batch one;
    one.remove(t.table);
    if (auto ok = nft->apply(one))
      ++gone[static_cast<std::size_t>(t.kind)];
    else if (ok.error().code != Errc::not_found)
      failed.push_back(ok.error().what);
  }
  return gone;
}

int complain(const std::string& what, int code) {
  fmt::print(stderr, "calico-node cleanup: {}\n", what);
  return code;
}

}  // namespace

int cleanup_main(int argc, char** argv) {
  bool dry = false;
  std::vector<std::string> files;
  for (int i = 1; i < argc; ++i) {
    const std::string_view a = argv[i];
    if (a == "--help" || a == "-h") {
      fmt::print("{}", kUsage);
      return 0;
    }
    if (a == "--dry-run") {
      dry = true;
    } else if (a == "--config" && i + 1 < argc) {
      files.emplace_back(argv[++i]);
    } else {
      fmt::print(stderr, "calico-node cleanup: unknown argument '{}'\n{}", a, kUsage);
      return 2;
    }
  }
  if (::geteuid() != 0) return complain("routes and tables of the kernel: run it as root", 3);
  const auto wanted = configured(files);
  // Held to the end: no calico-node begins meanwhile.
  std::optional<store::StateLock> lock;
  if (!dry) {
    if (const auto who = running()) return complain(*who, 1);
    std::error_code ec;
    if (!wanted.state_dir.empty() && std::filesystem::is_directory(wanted.state_dir, ec)) {
      auto held = store::StateLock::acquire(wanted.state_dir, "calico-node cleanup");
      if (held)
        lock.emplace(std::move(*held));
      else if (held.error().code == Errc::busy)
        return complain(held.error().what + "; end it first", 1);
      // A disk that is full or read-only is no reason to leave things in the kernel.
    }
  }
  auto nl = netlink::Rtnl::open();
  if (!nl) return complain(nl.error().what, 3);
  auto nft = nft::Connection::open();
  nft::Connection* const rules = nft ? &*nft : nullptr;

  auto found = Search(*nl, wanted.settings).run(rules);
  if (!nft) found.problems.push_back(nft.error().what);
  if (!found.owned.empty() && !dry)
    return complain(fmt::format("a process owns table {}: end it first", fmt::join(found.owned, ", ")), 1);
  if (dry) {
    for (const auto& t : found.things)
      fmt::print("would remove: {}: {}\n", kNames[static_cast<std::size_t>(t.kind)], t.what);
    if (found.things.empty() && found.problems.empty()) fmt::print("nothing of ours is in the kernel\n");
    if (const auto who = running()) (void)complain(*who, 1);
    for (const auto& p : found.problems) (void)complain(p, 1);
    return found.problems.empty() ? 0 : 1;
  }
  auto failed = std::move(found.problems);
  const auto gone = remove_all(found, *nl, rules, failed);
  for (std::size_t i = 0; i < gone.size(); ++i)
    if (gone[i]) fmt::print("removed: {}: {}\n", kNames[i], gone[i]);
  const auto left = Search(*nl, wanted.settings).run(rules);
  if (found.things.empty() && failed.empty() && left.things.empty()) fmt::print("nothing of ours is in the kernel\n");
  if (found.interfaces)
    fmt::print(
        "left as it is: settings (forwarding, proxy_arp, rp_filter and their like) of {} interfaces: what they were is "
        "not known, and they go with the interface\n",
        found.interfaces);
  constexpr std::size_t kShown = 20;
  for (std::size_t i = 0; i < std::min(failed.size(), kShown); ++i) (void)complain(failed[i], 1);
  for (std::size_t i = 0; i < std::min(left.things.size(), kShown); ++i)
    fmt::print(stderr, "left: {}: {}\n", kNames[static_cast<std::size_t>(left.things[i].kind)], left.things[i].what);
  if (const auto most = std::max(failed.size(), left.things.size()); most > kShown)
    fmt::print(stderr, "and more: {} failed, {} are left; calico-node cleanup --dry-run lists them\n", failed.size(),
               left.things.size());
  return failed.empty() && left.things.empty() ? 0 : 1;
}

}  // namespace calico::felix
