// Engine, kernel, birdc, sessions from Nodes and the own Node, put together.
#include "core/bgp/speaker.hpp"

#include <atomic>
#include <boost/asio/steady_timer.hpp>
#include <boost/json.hpp>
#include <filesystem>
#include <future>
#include <set>

#include "core/bgp/birdc/server.hpp"
#include "core/bgp/engine.hpp"
#include "core/bgp/kernel.hpp"
#include "core/bgp/node_sessions.hpp"
#include "core/bgp/resource_sessions.hpp"
#include "core/bgp/speaker_settings.hpp"
#include "core/log/log.hpp"
#include "core/loop/task_group.hpp"
#include "core/model/keys.hpp"
#include "core/netlink/monitor.hpp"
#include "core/netlink/rtnl.hpp"
#include "core/sync/view.hpp"

namespace calico::bgp {
namespace {

namespace json = boost::json;

constexpr auto kStopTime = std::chrono::seconds(8);
constexpr auto kRefusedPause = std::chrono::minutes(1);
constexpr std::size_t kRefusedMax = 100;
constexpr auto kAddressPause = std::chrono::milliseconds(200);  // addresses change in bursts
/// Interfaces of our own whose addresses are the tenants' gateways, not the host's.
constexpr const char* kOwnDevices = "ns-calico*";
constexpr std::uint32_t kTentative = 0x40, kDadFailed = 0x08;  // IFA_F_*

/// Every global address of the host, with its length.
Result<std::vector<Prefix>> host_addresses(netlink::Rtnl& nl, const std::vector<std::string>& tenants) {
  auto links = nl.links();
  if (!links) return tl::unexpected(links.error());
  auto addresses = nl.addresses();
  if (!addresses) return tl::unexpected(addresses.error());
  std::set<IfIndex> not_ours;
  for (const auto& l : *links) {
    bool tenant = netlink::matches_interface(kOwnDevices, l.name);
    for (const auto& pattern : tenants) tenant = tenant || netlink::matches_interface(pattern, l.name);
    if (tenant) not_ours.insert(l.index);
  }
  std::vector<Prefix> out;
  for (const auto& a : *addresses)
    if (a.global() && !(a.flags & (kTentative | kDadFailed)) && !a.prefix.addr.is_loopback() &&
        !not_ours.contains(a.link))
      out.push_back(a.prefix);
  return out;
}

Result<Ip> source_towards(netlink::Rtnl& nl, const Ip& to) {
  netlink::LookupOptions options;
  options.fib_match = false;
  auto route = nl.lookup(to, options);
  if (!route) return tl::unexpected(route.error());
  if (!route->prefsrc) return fail(Errc::not_found, "the route to {} has no source", to);
  return *route->prefsrc;
}

Result<SpeakerSettings> settings_of(const config::Config& config, const Speaker::Options& options) {
  auto nl = netlink::Rtnl::open();
  if (!nl) return tl::unexpected(nl.error());
  auto addresses = host_addresses(*nl, config.list("bgp.kernel_import"));
  if (!addresses) return tl::unexpected(addresses.error());
  HostLook host;
  host.source_towards = [&](const Ip& to) { return source_towards(*nl, to); };
  for (const auto& p : *addresses) host.global_addresses.push_back(p.addr);
  return speaker_settings(config, {options.compute, options.reflector, options.state_dir, options.run_dir}, host);
}

}  // namespace

class Speaker::Impl {
 public:
  Impl(Options o, SpeakerSettings s, sync::View& v, sync::Report& r, Hooks h)
      : options(std::move(o)), settings(std::move(s)), view(v), report(r), hooks(std::move(h)) {}

  Status open() {
    auto opened = KernelBgp::open(loop, settings.kernel);
    if (!opened) return wrap(opened.error(), "kernel routes");
    kernel = std::move(*opened);
    auto opened_nl = netlink::Rtnl::open();
    if (!opened_nl) return tl::unexpected(opened_nl.error());
    nl.emplace(std::move(*opened_nl));
    netlink::MonitorHandlers handlers;
    handlers.on_address = [this](const netlink::Address&, bool) { addresses_changed(); };
    handlers.on_resync = [this](std::string_view) { addresses_changed(); };
    auto opened_monitor = netlink::Monitor::open(loop.executor(), netlink::Monitor::kAddresses, std::move(handlers));
    if (!opened_monitor) return tl::unexpected(opened_monitor.error());
    monitor.emplace(std::move(*opened_monitor));
    engine.emplace(loop, settings.engine);
    engine->set_fib_sink(kernel.get());
    engine->set_next_hop_resolver(kernel.get());
    engine->set_event_sink([this](const PeerEvent& e) { event(e); });
    const bool kernel_side = settings.kernel.export_routes;
    birdc.emplace(loop, *engine, BirdcServer::Options{options.run_dir + "/bird.ctl", kernel_side, {}, hooks.configure});
    if (const auto& dir = settings.bird_dir; !dir.empty())
      for (auto family : {Family::v4, Family::v6})
        bird1.push_back(std::make_unique<BirdcServer>(
            loop, *engine,
            BirdcServer::Options{dir + (family == Family::v4 ? "/bird.ctl" : "/bird6.ctl"),
                                 kernel_side,
                                 {birdc::Layout::bird1, family},
                                 hooks.configure}));
    return {};
  }

  Status start() {  // main thread
    loop.start();
    auto s = loop.call([this]() -> Status {
      if (auto ok = engine->start(); !ok) return ok;
      if (auto ok = birdc->start(); !ok) return wrap(ok.error(), "bird.ctl");
      start_bird1();
      kernel->start(hooks_of(*engine, [](std::string_view what) { log::warn("bgp.kernel", "what", what); }));
      monitor->start();
      say_own_node();
      if (!settings.from_datastore) apply_peers();
      tell_status();
      return {};
    });
    if (!s) return s;
    subscription = view.watch({std::string(model::kNodes), std::string(model::kBgpFilters),
                               std::string(model::kBgpConfigurations), std::string(model::kBgpPeers)},
                              loop.executor(), [this](const sync::Batch& batch) { resources_changed(batch); });
    return {};
  }

  /// A convenience for other people's tools: a BIRD that is there already, or no folder, is told and no fault.
  void start_bird1() {
    if (bird1.empty()) return;
    std::error_code ec;
    std::filesystem::create_directories(settings.bird_dir, ec);
    if (ec) {
      log::warn("bgp.bird_sockets", "what", fmt::format("{}: {}; not served", settings.bird_dir, ec.message()));
      return bird1.clear();
    }
    std::erase_if(bird1, [](const auto& server) {
      const auto s = server->start();
      if (!s) log::warn("bgp.bird_sockets", "what", s.error().what + "; not served");
      return !s;
    });
  }

  void stop() {  // main thread
    subscription.reset();
    loop.call([this] {
      address_timer.cancel();
      monitor->stop();
      birdc->stop();
      for (auto& server : bird1) server->stop();
      kernel->stop();
      // Armed first: what is spawned may be done before spawn() returns.
      stop_deadline.expires_after(kStopTime);
      stop_deadline.async_wait([this](boost::system::error_code ec) {
        if (!ec) loop.io().stop();
      });
      tasks.spawn("stop", [this]() -> awaitable<void> {
        co_await engine->stop(true);
        stop_deadline.cancel();
      });
    });
    loop.stop();
  }

  // ---- loop

  /// Takes one resource into `known`. True: there is something new. A value nobody can read is no order to end a
  /// session or to let a route pass: what was known stays, and it is said.
  template <class T, class Parse>
  bool take(std::string_view kind, std::string_view prefix, const sync::Update& u,
            std::map<std::string, T, std::less<>>& known, Parse parse) {
    const auto name = u.key.substr(prefix.size());
    if (name.empty() || name.find('/') != std::string::npos) return false;
    const auto what = fmt::format("{} {}", kind, name);
    if (!u.value) {
      broken.erase(what);
      return known.erase(name) > 0;
    }
    auto read = parse(*u.value);
    if (!read) {
      if (broken[what] != read.error().what) log::warn("bgp.unreadable", "resource", what, "what", read.error().what);
      broken[what] = read.error().what;
      return false;
    }
    broken.erase(what);
    known.insert_or_assign(name, std::move(*read));
    return true;
  }

  void resources_changed(const sync::Batch& batch) {
    if (batch.usable) usable = true;
    waiting_reason = batch.state.reason;
    bool changed = false;
    for (const auto& u : batch.updates) {
      if (u.key.starts_with(model::kNodes))
        changed |= take("Node", model::kNodes, u, nodes, [](const auto& text) { return model::parse_node(text); });
      else if (u.key.starts_with(model::kBgpFilters))
        changed |= take("BGPFilter", model::kBgpFilters, u, resources.filters,
                        [](const auto& text) { return model::parse_bgp_filter(text).and_then(rules_of); });
      else if (u.key.starts_with(model::kBgpPeers))
        changed |= take("BGPPeer", model::kBgpPeers, u, resources.peers,
                        [](const auto& text) { return model::parse_bgp_peer(text); });
      else if (u.key.starts_with(model::kBgpConfigurations))
        changed |= take("BGPConfiguration", model::kBgpConfigurations, u, resources.configurations,
                        [](const auto& text) { return model::parse_bgp_configuration(text); });
    }
    follow_drain();
    // Nothing known yet is not the same as nobody: without a snapshot the engine is not told that it has no peers.
    if (settings.from_datastore && usable && (changed || !applied)) apply_peers();
    tell_status();
  }

  /// Only a change of the order counts: birdc's `graceful shutdown` is not undone by whatever else changes in the Node.
  void follow_drain() {
    const auto own = nodes.find(options.node);
    const bool ordered = own != nodes.end() && wants_drain(own->second);
    if (std::exchange(drain_ordered, ordered) != ordered) engine->drain(ordered);
  }

  void apply_peers() {
    auto peers = settings.peers;
    if (settings.from_datastore) {
      Self self;
      self.name = options.node;
      self.as = settings.engine.local_as;
      self.reflector = options.reflector;
      self.ipv4 = settings.ipv4;
      self.ipv6 = settings.ipv6;
      const SecretLookup secret = [this](const model::BgpPeer::Secret& s) -> Result<std::string> {
        if (settings.secrets_dir.empty()) return fail(Errc::not_found, "[bgp] secrets_dir is not set");
        return read_password_file(fmt::format("{}/{}/{}", settings.secrets_dir, s.name, s.key), "password");
      };
      auto all = sessions_of({settings.peers, nodes, resources, self, secret}, policies);
      peers = std::move(all.peers);
      for (const auto& line : all.ignored)
        if (!told_ignored.contains(line)) log::warn("bgp.ignored", "what", line);
      told_ignored = {all.ignored.begin(), all.ignored.end()};
    }
    auto s = engine->set_peers(std::move(peers), settings.ranges);
    if (s) {
      applied = true;
      peers_error.clear();
    } else {
      peers_error = s.error().what;
      log::error("bgp.peers_refused", "what", peers_error);
    }
  }

  void addresses_changed() {
    address_timer.expires_after(kAddressPause);
    address_timer.async_wait([this](boost::system::error_code ec) {
      if (!ec) say_own_node();
    });
  }

  void say_own_node() {
    auto addresses = host_addresses(*nl, settings.kernel.import_interfaces);
    if (!addresses) {
      log::warn("bgp.addresses", "what", addresses.error().what);
      return addresses_changed();
    }
    OwnNode own;
    own.name = options.node;
    own.roles = options.roles;
    if (own.roles.empty()) {
      if (options.compute) own.roles.emplace_back("compute");
      if (options.reflector) own.roles.emplace_back("route-reflector");
    }
    own.as = settings.engine.local_as;
    const auto with_length = [&](const std::optional<Ip>& ip) -> std::optional<Prefix> {
      if (!ip) return std::nullopt;
      for (const auto& p : *addresses)
        if (p.addr == *ip) return p;
      return Prefix::host(*ip);
    };
    own.ipv4 = with_length(settings.ipv4);
    own.ipv6 = with_length(settings.ipv6);
    if (options.reflector) own.cluster_id = settings.engine.cluster_id;
    for (const auto& p : *addresses) own.addresses.push_back(p.addr);
    report.set_node(own.name, node_labels(own), node_spec(own));
  }

  /// A stranger may knock as often as it likes; it gets one line a minute.
  bool may_tell_refused(const std::string& peer) {
    const auto now = std::chrono::steady_clock::now();
    std::erase_if(refused, [&](const auto& r) { return now - r.second > kRefusedPause; });
    if (refused.size() >= kRefusedMax) return false;
    return refused.emplace(peer, now).second;
  }

  void event(const PeerEvent& e) {
    switch (e.kind) {
      case PeerEvent::Kind::established:
        log::info("bgp.established", "peer", e.peer, "what", e.text);
        break;
      case PeerEvent::Kind::down:
        log::warn("bgp.down", "peer", e.peer, "what", e.text);
        break;
      case PeerEvent::Kind::refused:
        if (!may_tell_refused(e.peer)) return;
        log::warn("bgp.refused", "peer", e.peer, "what", e.text);
        return;
      case PeerEvent::Kind::administrative:
        log::info("bgp.operator", "peer", e.peer, "what", e.text);
        break;
      default:
        log::warn("bgp.event", "peer", e.peer, "what", e.text);
    }
    tell_status();
  }

  void tell_status() {
    if (!hooks.status) return;
    if (settings.from_datastore && !applied) {
      hooks.status(fmt::format("waiting for the datastore to say who the peers are: {}", waiting_reason));
      return;
    }
    if (!peers_error.empty()) {
      hooks.status(fmt::format("peers refused: {}", peers_error));
      return;
    }
    std::size_t up = 0, all = 0;
    for (const auto& p : engine->peers()) {
      ++all;
      up += p.state == PeerState::established ? 1 : 0;
    }
    const auto status = engine->status();
    hooks.status(fmt::format("{} of {} sessions established{}{}", up, all, status.draining ? "; draining" : "",
                             status.isolated ? "; isolated: what was learned is kept as stale" : ""));
  }

  std::string describe() {
    json::array sessions;
    for (const auto& p : engine->peers()) {
      json::object s;
      s["name"] = p.config.name;
      s["address"] = p.config.address.to_string();
      s["remote_as"] = p.config.remote_as.value_or(settings.engine.local_as).value;
      s["from"] = p.config.from == Origin::datastore ? "datastore" : p.dynamic ? "range" : "configuration";
      s["client"] = p.config.route_reflector_client;
      const auto rules = [](const PolicyRef& filter) {
        return filter ? json::value(filter->rules().size()) : json::value(nullptr);
      };
      s["filter_rules"] =
          json::object{{"import", rules(p.config.import_filter)}, {"export", rules(p.config.export_filter)}};
      s["state"] = to_string(p.state);
      s["since"] = std::chrono::duration_cast<std::chrono::seconds>(p.since.time_since_epoch()).count();
      s["last_error"] = p.last_error;
      s["flaps"] = p.counters.flaps;
      s["graceful_restart"] = json::object{{"active", p.gr_active}, {"left_ms", p.gr_left.count()}};
      const auto family = [](const FamilyStatus& f) {
        return json::object{{"negotiated", f.negotiated},
                            {"imported", f.imported},
                            {"exported", f.exported},
                            {"stale", f.stale},
                            {"end_of_rib", f.eor_received}};
      };
      s["ipv4"] = family(p.v4);
      s["ipv6"] = family(p.v6);
      sessions.push_back(std::move(s));
    }
    const auto e = engine->status();
    const auto k = kernel->status();
    json::object out;
    out["router_id"] = e.router_id.to_string();
    out["local_as"] = e.local_as.value;
    out["cluster_id"] = options.reflector && settings.engine.cluster_id
                            ? json::value(settings.engine.cluster_id->to_string())
                            : json::value(nullptr);
    out["sessions"] = std::move(sessions);
    out["routes"] = json::object{{"ipv4", e.routes_v4}, {"ipv6", e.routes_v6}};
    out["converged"] = e.converged;
    out["deferring_ms"] = e.deferral_left.count();
    out["isolated"] = e.isolated;
    out["draining"] = e.draining;
    out["drain_left_ms"] = e.drain_left.count();
    json::array faults;
    for (const auto& f : k.faults) faults.emplace_back(f);
    out["kernel"] = json::object{{"announced", k.imported}, {"installed", k.exported},  {"pending", k.pending},
                                 {"failed", k.failed},      {"left_over", k.left_over}, {"faults", std::move(faults)}};
    json::array unreadable;
    for (const auto& [name, what] : broken) unreadable.emplace_back(fmt::format("{}: {}", name, what));
    for (const auto& line : told_ignored) unreadable.emplace_back(line);
    out["ignored"] = std::move(unreadable);
    out["error"] = peers_error;
    return json::serialize(out);
  }

  Counts counts() const {
    Counts c;
    for (const auto state : {PeerState::idle, PeerState::connect, PeerState::active, PeerState::open_sent,
                             PeerState::open_confirm, PeerState::established})
      c.sessions[std::string(to_string(state))] = 0;
    for (const auto& p : engine->peers()) {
      ++c.sessions[std::string(to_string(p.state))];
      c.updates_in += p.counters.updates_in;
      c.updates_out += p.counters.updates_out;
      c.flaps += p.counters.flaps;
      c.treated_as_withdraw += p.counters.treated_as_withdraw;
      c.imported += p.v4.imported + p.v6.imported;
      c.exported += p.v4.exported + p.v6.exported;
      c.stale += p.v4.stale + p.v6.stale;
    }
    const auto e = engine->status();
    c.routes_v4 = e.routes_v4;
    c.routes_v6 = e.routes_v6;
    c.isolated = e.isolated;
    const auto k = kernel->status();
    c.kernel_announced = k.imported;
    c.kernel_installed = k.exported;
    c.kernel_failed = k.failed;
    return c;
  }

  const Options options;
  SpeakerSettings settings;  // after start(): loop
  sync::View& view;
  sync::Report& report;
  const Hooks hooks;
  std::atomic<int> users = 0;  // written by the main thread

  Loop loop{"bgp"};
  std::unique_ptr<KernelBgp> kernel;
  std::optional<netlink::Rtnl> nl;
  std::optional<netlink::Monitor> monitor;
  std::optional<Engine> engine;
  std::optional<BirdcServer> birdc;
  std::vector<std::unique_ptr<BirdcServer>> bird1;
  TaskGroup tasks{loop.executor(), "bgp-speaker"};
  asio::steady_timer address_timer{loop.io()}, stop_deadline{loop.io()};
  std::unique_ptr<sync::Subscription> subscription;

  Nodes nodes;
  BgpResources resources;
  PolicyCache policies;
  std::map<std::string, std::string> broken;  // "Node c1" whose value cannot be read, and why
  std::set<std::string> told_ignored;
  std::map<std::string, std::chrono::steady_clock::time_point> refused;  // who was, when it was told
  bool usable = false, applied = false, drain_ordered = false;
  std::string peers_error, waiting_reason = "no answer yet";
};

Speaker::Speaker(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Speaker::~Speaker() {
  if (impl_->users > 0) {
    impl_->users = 1;
    stop();
  }
}

Result<std::unique_ptr<Speaker>> Speaker::create(const config::Config& config, Options options, sync::View& view,
                                                 sync::Report& report, Hooks hooks) {
  auto settings = settings_of(config, options);
  if (!settings) return tl::unexpected(settings.error());
  auto impl = std::make_unique<Impl>(std::move(options), std::move(*settings), view, report, std::move(hooks));
  if (auto s = impl->open(); !s) return tl::unexpected(s.error());
  return std::unique_ptr<Speaker>(new Speaker(std::move(impl)));
}

Status Speaker::start() {
  if (impl_->users > 0) {
    ++impl_->users;
    return {};
  }
  auto s = impl_->start();
  if (!s) {
    impl_->stop();
    return s;
  }
  impl_->users = 1;
  return {};
}

Status Speaker::reconfigure(const config::Config& config) {
  auto settings = settings_of(config, impl_->options);
  if (!settings) return tl::unexpected(settings.error());
  if (impl_->users == 0) {
    impl_->settings = std::move(*settings);
    return {};
  }
  return impl_->loop.call([&]() -> Status {
    // What the engine itself was made with stays; peers, ranges, their filters and hold time are taken.
    auto& s = impl_->settings;
    s.peers = std::move(settings->peers);
    s.ranges = std::move(settings->ranges);
    s.secrets_dir = std::move(settings->secrets_dir);
    if (impl_->applied || !s.from_datastore) impl_->apply_peers();
    impl_->tell_status();
    if (!impl_->peers_error.empty()) return fail(Errc::invalid, "{}", impl_->peers_error);
    return {};
  });
}

Status Speaker::check(const config::Config& config) const {
  auto settings = settings_of(config, impl_->options);
  if (!settings) return tl::unexpected(settings.error());
  return {};
}

void Speaker::stop() {
  if (impl_->users == 0 || --impl_->users > 0) return;
  impl_->stop();
}

Engine& Speaker::engine() { return *impl_->engine; }

std::string Speaker::describe() {
  if (impl_->users == 0) return "{}";
  return impl_->loop.call([this] { return impl_->describe(); });
}

std::optional<Speaker::Counts> Speaker::counts(std::chrono::milliseconds patience) const {
  if (impl_->users == 0) return {};
  auto promise = std::make_shared<std::promise<Counts>>();
  auto answer = promise->get_future();
  impl_->loop.post([i = impl_.get(), promise] { promise->set_value(i->counts()); });
  if (answer.wait_for(patience) != std::future_status::ready) return {};
  return answer.get();
}

}  // namespace calico::bgp
