#include "modules/compute/dhcp.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_future.hpp>
#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>

#include "core/log/log.hpp"
#include "core/loop/child_process.hpp"
#include "core/loop/loop.hpp"
#include "core/model/keys.hpp"
#include "core/netlink/monitor.hpp"
#include "core/netlink/rtnl.hpp"
#include "core/sync/view.hpp"
#include "modules/compute/dhcp_files.hpp"

namespace calico::compute {
namespace {

using namespace std::chrono_literals;
constexpr std::uint32_t kNoPrefixRoute = 0x200;  // IFA_F_NOPREFIXROUTE: VMs are reached by their own routes only
constexpr std::uint32_t kNoDad = 0x02;           // IFA_F_NODAD: nobody to ask on a device without ports
constexpr std::uint8_t kScopeLink = 253;         // not an address of this host as others see it

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

/// Written beside and renamed, so that dnsmasq never reads half a file. Readable by dnsmasq's own user.
Status write_file(const std::string& path, const std::string& text) {
  const auto beside = path + ".new";
  const int fd = open(beside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return fail_errno(errno, beside);
  std::size_t done = 0;
  while (done < text.size()) {
    const auto n = write(fd, text.data() + done, text.size() - done);
    if (n <= 0) {
      const int err = errno;
      close(fd);
      return fail_errno(err, beside);
    }
    done += static_cast<std::size_t>(n);
  }
  close(fd);
  if (rename(beside.c_str(), path.c_str()) != 0) return fail_errno(errno, path);
  return {};
}

}  // namespace

struct Dhcp::Impl {
  Impl(Options o, sync::View& v, Hooks h)
      : options(std::move(o)), view(v), hooks(std::move(h)), restart_timer(loop.io()) {}

  std::string path(const char* name) const { return options.directory + "/" + name; }

  void on_batch(const sync::Batch& batch) {
    const auto subnets_below = model::subnet_prefix(options.region);
    for (const auto& u : batch.updates) {
      if (u.key.starts_with(subnets_below))
        on_subnet(u, u.key.substr(subnets_below.size()));
      else
        on_endpoint(u);
    }
    if (!std::exchange(seen_first, true)) schedule();
  }

  void on_subnet(const sync::Update& u, const std::string& id) {
    schedule();
    if (!u.value) {
      subnets.erase(id);
    } else if (auto s = model::parse_subnet(*u.value)) {
      if (!s->gateway_ip)
        log::warn("dhcp.no_gateway", "subnet", id, "effect", "no DHCP there: dnsmasq needs an address of the subnet");
      subnets[id] = std::move(*s);
    } else {
      log::warn("dhcp.bad_subnet", "subnet", id, "reason", s.error().what, "effect", "ignoring");
      subnets.erase(id);
    }
  }

  void on_endpoint(const sync::Update& u) {
    const auto name = u.key.substr(u.key.rfind('/') + 1);
    const auto id = model::parse_wep_name(name);
    if (!id || id->host != options.node) return;  // the cloud's other endpoints cost a look at their name
    schedule();
    ports.erase(u.key);
    if (!u.value) return;
    auto port = dhcp_port(*u.value);
    if (!port) {
      log::warn("dhcp.bad_endpoint", "endpoint", name, "reason", port.error().what, "effect", "ignoring");
      return;
    }
    if (const auto it = mtus.find(port->interface); it != mtus.end()) port->mtu = it->second;
    ports[u.key] = std::move(*port);
  }

  void on_link(const netlink::Link& link, bool gone) {
    if (!netlink::matches_interface("tap*", link.name)) return;
    const auto it = mtus.find(link.name);
    if (gone ? it == mtus.end() : it != mtus.end() && it->second == link.mtu) return;
    if (gone)
      mtus.erase(link.name);
    else
      mtus[link.name] = link.mtu;
    for (auto& [key, p] : ports)
      if (p.interface == link.name) {
        p.mtu = gone ? std::nullopt : std::optional(link.mtu);
        schedule();
      }
  }

  void read_links() {
    auto links = nl->links();
    if (!links) {
      log::warn("dhcp.links", "reason", links.error().what);
      return;
    }
    for (const auto& l : *links) on_link(l, false);
  }

  /// One apply for all that arrived in this turn of the loop.
  void schedule() {
    if (scheduled) return;
    scheduled = true;
    loop.post([this] {
      scheduled = false;
      apply();
    });
  }

  void apply() {
    const auto used = subnets_in_use(subnets, ports);
    bool restart = !child || !child->running();
    for (const auto& id : used) restart = restart || !served.count(id);
    for (const auto& id : served) restart = restart || (used.count(id) && served_as[id] != subnets[id]);
    const auto leases = read_file(path("leases"));
    const bool moved = has_foreign_lease(leases, ports);
    restart = restart || moved;
    if (restart) served = used;
    auto files = dhcp_files(subnets, ports, served, options.directory, kDhcpDevice);
    if (!restart && (files.tagged_hosts || last_tagged) && (files.hosts != last_hosts || files.opts != last_opts)) {
      restart = true;
      served = used;
      files = dhcp_files(subnets, ports, served, options.directory, kDhcpDevice);
    }
    last_tagged = files.tagged_hosts;

    bool changed = restart;
    for (const auto& [name, text, last] :
         {std::tuple{"hosts", &files.hosts, &last_hosts}, std::tuple{"names", &files.names, &last_names},
          std::tuple{"opts", &files.opts, &last_opts}}) {
      if (!restart && *text == *last) continue;
      if (auto ok = write_file(path(name), *text); !ok) return failed("dhcp.files", ok.error());
      *last = *text;
      changed = true;
    }
    if (!served.empty() && restart)
      start_child(files, moved ? without_foreign_leases(leases, ports) : leases);
    else if (served.empty() && child)
      end_child();
    else if (changed && child)
      reload_child();
    if (hooks.status)
      hooks.status(served.empty() ? "dhcp idle"
                                  : fmt::format("dhcp {} ports, {} subnets", ports.size(), served.size()));
    if (!std::exchange(ready_said, true) && hooks.ready) hooks.ready();
  }

  void failed(const char* id, const Error& e) {
    log::error(id, "reason", e.what, "action", "retrying in 1s");
    if (hooks.status) hooks.status("dhcp failing: " + e.what);
    retry();
  }

  void retry() {
    restart_timer.expires_after(1s);
    restart_timer.async_wait([this](boost::system::error_code ec) {
      if (!ec) schedule();
    });
  }

  /// The device and exactly these addresses on it.
  Status program_device(const std::vector<Prefix>& gateways) {
    auto link = nl->link(std::string(kDhcpDevice));
    if (!link) {
      if (auto ok = nl->one([](netlink::Batch& b) { b.add_bridge(kDhcpDevice); }); !ok)
        return wrap(ok.error(), fmt::format("making {}", kDhcpDevice));
      link = nl->link(std::string(kDhcpDevice));
      if (!link) return tl::unexpected(link.error());
    }
    auto addresses = nl->addresses();
    if (!addresses) return tl::unexpected(addresses.error());
    netlink::Batch batch;
    if (!link->admin_up()) batch.set_link_up(link->index, true);
    std::vector<Prefix> there;
    for (const auto& a : *addresses) {
      if (a.link != link->index || a.prefix.addr.is_link_local()) continue;
      if (std::find(gateways.begin(), gateways.end(), a.prefix) == gateways.end())
        batch.remove(a);
      else
        there.push_back(a.prefix);
    }
    for (const auto& g : gateways) {
      if (std::find(there.begin(), there.end(), g) != there.end()) continue;
      netlink::Address a;
      a.link = link->index;
      a.prefix = g;
      a.scope = kScopeLink;
      a.flags = kNoPrefixRoute | (g.family() == Family::v6 ? kNoDad : 0);
      batch.replace(a);
    }
    if (batch.empty()) return {};
    auto done = nl->commit(batch);
    if (!done) return tl::unexpected(done.error());
    if (!done->ok()) return wrap(done->failed.front().what, kDhcpDevice);
    return {};
  }

  /// dnsmasq that has not yet said "started" would die of the signal; it is sent when it has.
  void reload_child() {
    reload_wanted = !child_up;
    if (child_up) child->signal(SIGHUP);
  }

  void on_child_line(std::string_view line) {
    log::debug("dhcp.dnsmasq", "line", line);
    if (child_up || line.find(": started, version") == std::string_view::npos) return;
    child_up = true;
    if (std::exchange(reload_wanted, false) && child) child->signal(SIGHUP);
  }

  void end_child() {
    if (!child) return;
    child->signal(SIGTERM);
    child.reset();
  }

  void start_child(const DhcpFiles& files, const std::string& leases) {
    end_child();
    served_as.clear();
    for (const auto& id : served) served_as[id] = subnets[id];
    if (auto ok = program_device(files.gateways); !ok) return failed("dhcp.device", ok.error());
    for (const auto& [name, text] : {std::pair{"dnsmasq.conf", &files.conf}, std::pair{"leases", &leases}})
      if (auto ok = write_file(path(name), *text); !ok) return failed("dhcp.files", ok.error());
    ChildProcess::Options child_options;
    // In the foreground, told to run with this file and no other; it drops root by itself.
    child_options.argv = {options.program, "--keep-in-foreground", "--log-facility=-", conf_argument()};
    child_up = reload_wanted = false;
    child_options.on_line = [this](std::string_view line) { on_child_line(line); };
    child_options.on_exit = [this](std::string how) {
      log::error("dhcp.dnsmasq_ended", "how", how, "action", "starting it again in 1s");
      child.reset();
      retry();
    };
    auto started = ChildProcess::start(loop.executor(), std::move(child_options));
    if (!started) return failed("dhcp.start", started.error());
    child = std::move(*started);
    ++starts;
    log::info("dhcp.started", "pid", child->pid(), "subnets", served.size(), "ports", ports.size());
  }

  std::string conf_argument() const { return "--conf-file=" + path("dnsmasq.conf"); }

  Options options;
  sync::View& view;
  Hooks hooks;
  Loop loop{"dhcp"};
  std::optional<netlink::Rtnl> nl;
  std::optional<netlink::Monitor> monitor;
  std::unique_ptr<sync::Subscription> subscription;
  std::unique_ptr<ChildProcess> child;
  asio::steady_timer restart_timer;
  Subnets subnets;
  Ports ports;
  std::map<std::string, std::uint32_t> mtus;
  std::set<std::string> served;
  Subnets served_as;
  std::string last_hosts, last_names, last_opts;
  std::uint64_t starts = 0;
  bool last_tagged = false;
  bool child_up = false;
  bool reload_wanted = false;
  bool scheduled = false;
  bool seen_first = false;
  bool ready_said = false;
  bool running = false;
};

Dhcp::Dhcp(Options options, sync::View& view, Hooks hooks)
    : impl_(std::make_unique<Impl>(std::move(options), view, std::move(hooks))) {}

Dhcp::~Dhcp() { stop(); }

Status Dhcp::start() {
  auto& d = *impl_;
  std::error_code ec;
  std::filesystem::create_directories(d.options.directory, ec);
  if (ec) return fail(Errc::no_permission, "{}: {}", d.options.directory, ec.message());
  chmod(d.options.directory.c_str(), 0755);

  pid_t stray = 0;
  std::ifstream(d.path("dnsmasq.pid")) >> stray;
  if (end_stray_process(stray, d.conf_argument(), 5s)) log::info("dhcp.stray_ended", "pid", stray);

  auto nl = netlink::Rtnl::open();
  if (!nl) return wrap(nl.error(), "dhcp");
  d.nl.emplace(std::move(*nl));
  netlink::MonitorHandlers handlers;
  handlers.on_link = [&d](const netlink::Link& l, bool gone) { d.on_link(l, gone); };
  handlers.on_resync = [&d](std::string_view) { d.read_links(); };
  auto monitor = netlink::Monitor::open(d.loop.executor(), netlink::Monitor::kLinks, handlers);
  if (!monitor) return wrap(monitor.error(), "dhcp");
  d.monitor.emplace(std::move(*monitor));
  d.loop.start();
  d.running = true;
  d.loop.call([&d] {
    d.monitor->start();
    d.read_links();
  });
  const auto endpoints = fmt::format("{}{}/", model::kWorkloadEndpoints, model::region_namespace(d.options.region));
  d.subscription = d.view.watch({endpoints, model::subnet_prefix(d.options.region)}, d.loop.executor(),
                                [&d](const sync::Batch& b) { d.on_batch(b); });
  return {};
}

void Dhcp::stop() {
  auto& d = *impl_;
  if (!std::exchange(d.running, false)) return;
  d.subscription.reset();
  asio::co_spawn(
      d.loop.io(),
      [&d]() -> awaitable<void> {
        d.monitor.reset();
        d.restart_timer.cancel();
        if (d.child) co_await d.child->terminate(2s);
        d.child.reset();
      },
      asio::use_future)
      .get();
  d.loop.stop();
}

std::string Dhcp::describe() {
  auto& d = *impl_;
  return d.loop.call([&d] {
    boost::json::array subnets;
    for (const auto& id : d.served) subnets.emplace_back(id);
    return boost::json::serialize(boost::json::object{{"pid", d.child ? d.child->pid() : 0},
                                                      {"running", d.child && d.child->running()},
                                                      {"starts", d.starts},
                                                      {"subnets", subnets},
                                                      {"ports", d.ports.size()}});
  });
}

}  // namespace calico::compute
