#include "modules/felix/engine.hpp"

#include <unistd.h>

#include "core/log/log.hpp"
#include "core/model/keys.hpp"
#include "core/netlink/sysctl.hpp"
#include "modules/felix/engine_impl.hpp"

namespace calico::felix {

Engine::Impl::Impl(std::string n, const config::Config& c, sync::View& v, sync::Report& r, Hooks h)
    : node(std::move(n)),
      config(c),
      view(v),
      report(r),
      hooks(std::move(h)),
      settings(settings_of(c)),
      measures(hooks.metrics ? *hooks.metrics : nobody, node),
      compiler(fresh_compiler()) {}

model::Compiler Engine::Impl::fresh_compiler() const {
  return model::Compiler({.host = node,
                          .ns = model::region_namespace(settings.region),
                          .interface_prefixes = settings.interface_prefixes,
                          .protect_nodes = settings.protect_nodes,
                          .protected_ports = settings.protected_ports});
}

Status Engine::Impl::start() {
  auto opened = netlink::Rtnl::open();
  if (!opened) return wrap(opened.error(), "felix");
  rtnl.emplace(std::move(*opened));
  auto nft = nft::Connection::open();
  if (!nft) return wrap(nft.error(), "felix");
  firewall.emplace(std::move(*nft), hooks.own_tables);
  taps.emplace(*rtnl);
  blackholes.emplace(*rtnl);
  auto connections = conntrack::Table::open();
  if (!connections) return wrap(connections.error(), "felix");

  if (auto ok = watch_kernel(); !ok) return wrap(ok.error(), "felix");

  std::unique_lock lock(gate);
  loop.start();
  running = true;
  lock.unlock();
  started = std::chrono::steady_clock::now();
  for (const auto& line : unusable(config)) tell_ignored(line);
  return loop.call([this, &connections]() -> Status {
    link_monitor->start();
    nft_monitor->start();
    tasks.emplace(loop.executor(), "felix");
    flows.emplace(std::move(*connections), loop.executor(), *tasks, flow_hooks());
    configure();
    if (hooks.health) hooks.health->set("felix", {.ready = false, .detail = "starting"});
    if (hooks.configured) hooks.configured(settings);
    if (auto ok = taps->load(); !ok) return wrap(ok.error(), "felix");
    if (auto ok = blackholes->load(); !ok) return wrap(ok.error(), "felix");
    tasks->spawn("heartbeat", [this]() { return heartbeat(); });
    if (settings.endpoint_reporting) {
      report.claim(model::endpoint_status_prefix(settings.region, node));
      report.claim(host_status.prefix());
    }
    subscribe();
    return {};
  });
}

/// What changes in the kernel, by us or others, is taken over as it is; apply() is asked for when something differs.
Status Engine::Impl::watch_kernel() {
  netlink::MonitorHandlers on;
  on.on_link = [this](const netlink::Link& l, bool gone) { taps->on_link(l, gone), schedule_if_due(); };
  on.on_address = [this](const netlink::Address& a, bool gone) { taps->on_address(a, gone), schedule(); };
  on.on_route = [this](const netlink::Route& r, bool gone) {
    taps->on_route(r, gone), blackholes->on_route(r, gone), schedule_if_due();
  };
  on.on_neighbour = [this](const netlink::Neighbour& n, bool gone) { taps->on_neighbour(n, gone), schedule_if_due(); };
  on.on_qdisc = [this](const netlink::Qdisc& q, bool gone) { taps->on_qdisc(q, gone), schedule_if_due(); };
  on.on_resync = [this](std::string_view why) {
    log::warn("felix.netlink_lost", "why", why, "action", "reading links, routes and neighbours again");
    reload_taps = true;
    schedule();
  };
  using M = netlink::Monitor;
  // A start with a thousand interfaces is told back to us, 10 MB of it, before we read any; what is lost makes us
  // read everything again, settings too. The kernel takes the memory while something waits only.
  auto m =
      M::open(loop.executor(), M::kLinks | M::kAddresses | M::kRoutes | M::kNeighbours | M::kQdiscs, on, 16U << 20U);
  if (!m) return tl::unexpected(m.error());
  link_monitor.emplace(std::move(*m));

  nft::MonitorHandlers nft_on;
  nft_on.on_change = [this](const nft::TableRef& t, std::uint32_t port) {
    if (port != firewall->port() && (t == kInet || t == kArp)) reload_firewall_now();
  };
  nft_on.on_resync = [this](std::string_view) {
    reload_firewall = true;
    schedule();
  };
  auto nm = nft::Monitor::open(loop.executor(), nft_on);
  if (!nm) return tl::unexpected(nm.error());
  nft_monitor.emplace(std::move(*nm));
  return {};
}

void Engine::Impl::stop() {
  std::lock_guard lock(gate);
  if (!std::exchange(running, false)) return;
  loop.call([this] {
    subscription.reset();
    stopping = true;
    link_monitor->stop();
    nft_monitor->stop();
    listeners.clear();
    if (tasks) tasks->cancel();
  });
  loop.stop();  // what is queued runs, nothing new is
}

Flows::Hooks Engine::Impl::flow_hooks() {
  Flows::Hooks h;
  h.ruleset = [this]() -> const model::Ruleset& { return compiler.ruleset(); };
  h.is_local = [this](const Ip& ip) {
    const auto route = rtnl->lookup(ip);
    return route && route->type != netlink::RouteType::unicast;
  };
  h.forgotten = [this](const std::set<Ip>& addresses) {
    if (taps->release(addresses)) schedule();
  };
  h.keep_out = [this](const std::vector<conntrack::Tuple>& packets) {
    if (auto ok = firewall->keep_out(packets, std::chrono::steady_clock::now()); !ok)
      log::warn("felix.cut_not_kept", "what", ok.error().what, "action",
                "the other side of a cut connection may bring it back");
  };
  return h;
}

/// Settings that hooks and interfaces follow.
void Engine::Impl::configure() {
  firewall->configure(settings);
  taps->configure(settings);
  blackholes->configure(settings);
  migrations.set_convergence(settings.migration_convergence);
  flows->configure(settings.cut_flows);
  compiler.set_protection(settings.protect_nodes, settings.protected_ports);
}

void Engine::Impl::host_settings() {
  for (const auto* path : {"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"}) {
    auto wrote = netlink::sysctl_set(path, "1");
    if (!wrote && wrote.error().code != Errc::not_found)
      log::error("felix.no_forwarding", "setting", path, "what", wrote.error().what, "action",
                 "set it by hand: without it no packet reaches an endpoint");
  }
}

Engine::Engine(std::string node, const config::Config& config, sync::View& view, sync::Report& report, Hooks hooks)
    : impl_(std::make_unique<Impl>(std::move(node), config, view, report, std::move(hooks))) {}
Engine::~Engine() { stop(); }
Status Engine::start() { return impl_->start(); }
void Engine::stop() { impl_->stop(); }

void Engine::reconfigure(const config::Config& config) {
  std::lock_guard lock(impl_->gate);
  if (!impl_->running) return;
  impl_->loop.call([this, config] {
    impl_->config = config;
    impl_->configuration_changed = true;
    impl_->schedule();
  });
}

std::string Engine::endpoints_json() {
  std::lock_guard lock(impl_->gate);
  if (!impl_->running) return R"({"error":"felix is not running"})";
  return impl_->loop.call([this] { return impl_->describe(); });
}

}  // namespace calico::felix
