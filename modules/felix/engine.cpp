#include "modules/felix/engine.hpp"

#include <fmt/chrono.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <map>
#include <mutex>
#include <optional>
#include <set>

#include "core/log/log.hpp"
#include "core/loop/loop.hpp"
#include "core/loop/task_group.hpp"
#include "core/model/compiler.hpp"
#include "core/model/keys.hpp"
#include "core/model/resources.hpp"
#include "core/netlink/monitor.hpp"
#include "core/netlink/rtnl.hpp"
#include "core/netlink/sysctl.hpp"
#include "core/nft/connection.hpp"
#include "modules/felix/blackholes.hpp"
#include "modules/felix/configurations.hpp"
#include "modules/felix/firewall.hpp"
#include "modules/felix/flows.hpp"
#include "modules/felix/hosts.hpp"
#include "modules/felix/listener.hpp"
#include "modules/felix/measures.hpp"
#include "modules/felix/migration.hpp"
#include "modules/felix/taps.hpp"

namespace calico::felix {
namespace {

using namespace std::chrono_literals;
namespace json = boost::json;

/// What the compiler reads.
constexpr std::string_view kIntent[] = {model::kWorkloadEndpoints,
                                        model::kNetworkPolicies,
                                        model::kGlobalNetworkPolicies,
                                        model::kTiers,
                                        model::kProfiles,
                                        model::kNetworkSets,
                                        model::kGlobalNetworkSets,
                                        model::kHostEndpoints,
                                        model::kNodes};

std::int64_t now_us() {
  return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::optional<std::string_view> view_of(const std::optional<std::string>& text) {
  return text ? std::optional<std::string_view>(*text) : std::nullopt;
}

std::string utc_now() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                     fmt::gmtime(std::chrono::system_clock::to_time_t(std::chrono::system_clock::now())));
}

/// When an endpoint's current revision was seen, when the kernel had it, when its state was handed to the report.
/// Microseconds of the wall clock, 0 = not yet.
struct Times {
  store::Revision revision = 0;
  std::int64_t seen_us = 0;
  std::int64_t link_us = 0;  ///< its interface was first there
  std::int64_t kernel_us = 0;
  std::int64_t status_us = 0;
};

double seconds_since(TimePoint t) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - t).count();
}

struct Turn {
  explicit Turn(Measures& m) : measures(m) {}
  ~Turn() { measures.turn(std::chrono::steady_clock::now() - began); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  Measures& measures;
  const TimePoint began = std::chrono::steady_clock::now();
};

}  // namespace

struct Engine::Impl {
  Impl(std::string n, const config::Config& c, sync::View& v, sync::Report& r, Hooks h)
      : node(std::move(n)),
        config(c),
        view(v),
        report(r),
        hooks(std::move(h)),
        settings(settings_of(c)),
        measures(hooks.metrics ? *hooks.metrics : nobody, node),
        compiler(fresh_compiler()) {}

  model::Compiler fresh_compiler() const {
    return model::Compiler({.host = node,
                            .ns = model::region_namespace(settings.region),
                            .interface_prefixes = settings.interface_prefixes,
                            .protect_nodes = settings.protect_nodes,
                            .protected_ports = settings.protected_ports});
  }

  // ---- start ----

  Status start() {
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

    netlink::MonitorHandlers on;
    on.on_link = [this](const netlink::Link& l, bool gone) { taps->on_link(l, gone), schedule_if_due(); };
    on.on_address = [this](const netlink::Address& a, bool gone) { taps->on_address(a, gone), schedule(); };
    on.on_route = [this](const netlink::Route& r, bool gone) {
      taps->on_route(r, gone), blackholes->on_route(r, gone), schedule_if_due();
    };
    on.on_neighbour = [this](const netlink::Neighbour& n, bool gone) {
      taps->on_neighbour(n, gone), schedule_if_due();
    };
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
    if (!m) return wrap(m.error(), "felix");
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
    if (!nm) return wrap(nm.error(), "felix");
    nft_monitor.emplace(std::move(*nm));

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
      std::vector<std::string> prefixes{std::string(model::kFelixConfigurations), std::string(model::kLiveMigrations),
                                        std::string(kSubnets)};
      for (const auto& prefix : kIntent) prefixes.emplace_back(prefix);
      subscription = view.watch(prefixes, loop.executor(), [this](const sync::Batch& b) { on_batch(b); });
      return {};
    });
  }

  void stop() {
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

  Flows::Hooks flow_hooks() {
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
  void configure() {
    firewall->configure(settings);
    taps->configure(settings);
    blackholes->configure(settings);
    migrations.set_convergence(settings.migration_convergence);
    flows->configure(settings.cut_flows);
    compiler.set_protection(settings.protect_nodes, settings.protected_ports);
  }

  /// The file's configuration, with what the datastore says between the defaults and it.
  void take_configuration() {
    configuration_changed = false;
    std::vector<std::string> ignored;
    const auto given = felix_configurations.over(config, ignored);
    for (auto& line : unusable(given)) ignored.push_back(std::move(line));
    for (const auto& line : ignored) tell_ignored(line);
    measures.ignored.set(static_cast<double>(ignored.size()));
    const auto next = settings_of(given);
    if (next == settings) return;
    const bool report_now = next.endpoint_reporting && !settings.endpoint_reporting;
    const bool anew = next.interface_prefixes != settings.interface_prefixes || next.region != settings.region;
    settings = next;
    log::info("felix.configured", "interfaces", fmt::format("{}", fmt::join(settings.interface_prefixes, ",")),
              "metadata", settings.metadata_address ? settings.metadata_address->to_string() : "off", "route_protocol",
              settings.route_protocol);
    configure();
    if (hooks.configured) hooks.configured(settings);
    if (report_now) report_all();
    if (anew) {
      compiler = fresh_compiler();
      compiler.set_host_addresses(host_addresses);
      compiler.set_host_interfaces(host_interfaces);
      for (const auto& prefix : kIntent)
        for (const auto& kv : view.range(prefix)) compiler.update(kv.key, kv.value);
      everything = true;
    }
    reload_taps = true;  // another protocol or prefix makes other objects ours
  }

  /// Named once, however often the configuration is looked at.
  void tell_ignored(const std::string& line) {
    if (told_ignored.size() < 1000 && told_ignored.insert(line).second)
      log::warn("felix.configuration_ignored", "what", line);
  }

  /// Reporting was off until now.
  void report_all() {
    report.claim(model::endpoint_status_prefix(settings.region, node));
    for (const auto& [key, r] : reported)
      if (!r.key.empty()) report.set(r.key, model::endpoint_status_json(r.state));
    settled = false;
  }

  // ---- intent ----

  void on_batch(const sync::Batch& b) {
    if (stopping) return;
    const Turn turn(measures);
    const auto now = now_us();
    for (const auto& u : b.updates) {
      measures.updates_of(u.key).add();
      if (u.key.starts_with(model::kFelixConfigurations)) {
        on_felix_configuration(u);
        continue;
      }
      if (u.key.starts_with(model::kLiveMigrations)) {
        if (auto ok = migrations.update(u.key, view_of(u.value), std::chrono::steady_clock::now()); !ok)
          log::warn("felix.bad_migration", "key", u.key, "what", ok.error().what, "action", "ignoring it");
        continue;
      }
      if (auto ok = blackholes->update(u.key, view_of(u.value)); !ok)
        log::warn("felix.bad_subnet", "key", u.key, "what", ok.error().what, "action", "no blackhole route for it");
      compiler.update(u.key, view_of(u.value));
      if (u.key == own_node) on_own_node(u);
      if (!u.key.starts_with(model::kWorkloadEndpoints) || !is_local(u.key)) continue;
      if (!u.value) {
        times.erase(u.key);
        continue;
      }
      auto& t = times[u.key];
      t.revision = u.mod_revision;
      t.seen_us = now;
      t.kernel_us = t.status_us = 0;
    }
    usable = usable || b.usable;
    sync_state = b.state;
    measures.sync_state(sync_state.phase);
    if (!b.updates.empty() && !seen) seen = std::chrono::steady_clock::now();
    if (sync_state.phase == sync::Phase::in_sync && !std::exchange(was_in_sync, true)) beat();
    schedule();
  }

  bool is_local(const std::string& key) const {
    const auto rk = model::parse_resource_key(key);
    if (!rk) return false;
    const auto name = model::parse_wep_name(rk->name);
    return name && name->host == node;
  }

  void on_felix_configuration(const sync::Update& u) {
    const auto name = std::string_view(u.key).substr(model::kFelixConfigurations.size());
    const auto changed = felix_configurations.update(name, view_of(u.value));
    if (!changed)
      log::warn("felix.bad_configuration", "key", u.key, "what", changed.error().what, "action", "ignoring it");
    configuration_changed = configuration_changed || !changed || *changed;
  }

  /// A FelixConfiguration may select us by our labels.
  void on_own_node(const sync::Update& u) {
    model::Labels labels;
    if (u.value) {
      auto n = model::parse_node(*u.value);
      if (!n) return;  // the compiler names it
      labels = std::move(n->meta.labels);
    }
    if (felix_configurations.set_labels(std::move(labels))) configuration_changed = true;
  }

  // ---- kernel ----

  void schedule() {
    if (stopping || std::exchange(scheduled, true)) return;
    loop.post([this] { apply(); });
  }
  void schedule_if_due() {
    if (taps->pending() || blackholes->pending() || taps->changed() || taps->host_interfaces_changed()) schedule();
  }

  void retry_later() {
    if (stopping || std::exchange(retrying, true)) return;
    retry_after = std::clamp(retry_after * 2, Duration(200ms), Duration(10s));
    tasks->spawn("retry", [this]() -> awaitable<void> {
      const bool due = co_await sleep_for(retry_after);
      retrying = false;
      if (due) schedule();
    });
  }

  /// Somebody else changed our tables: they may be open. At once; only one who does so again and again waits, as long
  /// as the last look took.
  void reload_firewall_now() {
    if (stopping || !loaded || reload_firewall) return;
    const auto wait = next_look - std::chrono::steady_clock::now();
    if (wait <= 0s) {
      reload_firewall = true;
      schedule();
    } else if (!std::exchange(looking, true)) {
      tasks->spawn("look", [this, wait]() -> awaitable<void> {
        const bool due = co_await sleep_for(std::chrono::duration_cast<Duration>(wait));
        looking = false;
        reload_firewall = true;
        if (due) schedule();
      });
    }
  }

  void apply() {
    scheduled = false;
    if (stopping) return;
    const Turn turn(measures);
    if (configuration_changed) take_configuration();
    if (!usable) {
      say(fmt::format("waiting for the datastore: {}",
                      sync_state.reason.empty() ? "no snapshot yet, nothing is programmed" : sync_state.reason));
      announce_ready();
      return;
    }
    if (std::exchange(reload_taps, false) && loaded) {
      measures.reread_links.add();
      if (auto ok = taps->load(); !ok) return failed(ok.error(), reload_taps);
      if (auto ok = blackholes->load(); !ok) return failed(ok.error(), reload_taps);
    }
    if (taps->take_host_addresses(host_addresses)) {
      compiler.set_host_addresses(host_addresses);
      blackholes->set_host_addresses(host_addresses);
    }
    if (taps->take_host_interfaces(host_interfaces)) compiler.set_host_interfaces(host_interfaces);
    const auto begin = std::chrono::steady_clock::now();
    auto delta = compiler.flush();
    if (!delta.empty()) measures.calculate.observe(seconds_since(begin));
    concerns_kernel = concerns_kernel || !delta.empty();
    const auto& ruleset = compiler.ruleset();
    std::set<std::string> touched = std::move(waiting);
    waiting.clear();
    touched.insert(delta.endpoints.begin(), delta.endpoints.end());

    if (!loaded || everything) {
      const auto before = std::exchange(planned, {});
      for (const auto& key : before)
        if (!ruleset.endpoints.contains(key)) drop_plan(key), touched.insert(key);
      for (const auto& [key, plan] : ruleset.endpoints) {
        set_plan(plan);
        touched.insert(key);
      }
      firewall->stage_all(ruleset);
    } else {
      for (const auto& key : delta.endpoints) {
        const auto plan = ruleset.endpoints.find(key);
        if (plan != ruleset.endpoints.end())
          set_plan(plan->second);
        else
          drop_plan(key);
      }
      firewall->stage(ruleset, delta);
    }
    flows->staged(delta, !loaded || everything);
    everything = false;
    bool reloaded = false;
    if (!loaded) {
      host_settings();
      if (auto ok = taps->load(); !ok) return put_off(ok.error(), std::move(touched));
      if (auto ok = firewall->load(); !ok) {
        // A former process that was killed may still be closing its socket.
        const bool patient = std::chrono::steady_clock::now() - started < 5s;
        if (ok.error().code == Errc::no_permission && !patient) return hooks.fatal(ok.error().what);
        return put_off(ok.error(), std::move(touched));
      }
      loaded = true;
      // A former process had heard it.
      for (const auto& key : std::set<std::string>(migrations.expected()))
        if (taps->has_elevated_routes(key)) migrations.heard(key);
    } else if (std::exchange(reload_firewall, false)) {
      measures.reread_tables.add();
      if (auto ok = firewall->load(); !ok) {
        reload_firewall = true;
        return put_off(ok.error(), std::move(touched));
      }
      reloaded = true;
    }

    follow_migrations();
    const auto refused_before = firewall->refused();
    const auto commits_before = firewall->commits();
    const auto operations_before = firewall->operations();
    auto done = taps->withdraw();
    if (done) done = firewall->add();
    if (done) done = taps->program();
    if (done) done = blackholes->program();
    if (done) done = firewall->remove();
    if (firewall->refused() != refused_before)
      for (const auto& [key, plan] : ruleset.endpoints) touched.insert(key);
    for (auto& key : taps->take_changed()) touched.insert(key);
    if (!done) {
      if (done.error().code == Errc::no_permission) return hooks.fatal(done.error().what);
      return put_off(done.error(), std::move(touched));
    }
    const auto took = std::chrono::steady_clock::now() - begin;
    if (reloaded) {
      next_look = begin + 2 * took;
      if (firewall->commits() != commits_before) {
        log::warn("felix.tables_repaired", "operations", firewall->operations() - operations_before, "ms",
                  std::chrono::duration<double, std::milli>(took).count(), "action",
                  "find out who changed the tables; connections made meanwhile are judged again");
        flows->staged({}, true);
      }
    }
    if (firewall->commits() != commits_before || !delta.endpoints.empty())
      log::debug("felix.applied", "endpoints", delta.endpoints.size(), "ms",
                 std::chrono::duration<double, std::milli>(took).count());
    // The rules are in the kernel: what they and the withdrawn routes leave behind goes now, in slices.
    flows->forget(taps->take_leaving());
    flows->applied();
    report_endpoints(touched);
    report_hosts();
    measure(begin, firewall->commits() != commits_before || !delta.empty());
    if (taps->pending() || blackholes->pending())
      retry_later();  // an interface came or refused something between
    else
      retry_after = 100ms;
    if (settings.endpoint_reporting && !std::exchange(settled, true)) {
      report.settled(model::endpoint_status_prefix(settings.region, node));
      report.settled(host_status.prefix());
    }
    say_programmed();
    announce_ready();
  }

  void set_plan(const model::EndpointPlan& plan) {
    migrations.add(plan.key, plan.ns, plan.name, std::chrono::steady_clock::now());
    taps->set_plan(plan);
    planned.insert(plan.key);
  }
  void drop_plan(const std::string& key) {
    migrations.remove(key);
    taps->drop_plan(key);
    planned.erase(key);
  }

  // ---- live migration ----

  /// Routes as the migrations have them, ears where a VM is expected, and the clock for what ends by itself.
  void follow_migrations() {
    migrations.expire(std::chrono::steady_clock::now());
    for (const auto& key : migrations.take_changed()) {
      taps->set_route_mode(key, migrations.mode(key));
      log::info("felix.migration", "endpoint", key, "state", to_string(migrations.state(key)));
      if (migrations.state(key) == Migrations::State::waiting)
        tasks->spawn("report again", [this, key] { return report_again(key); });
    }
    std::erase_if(listeners, [&](const auto& l) {
      const auto at = taps->interface_of(l.first);
      return !migrations.expected().contains(l.first) || at != std::optional(l.second.interface());
    });
    for (const auto& key : migrations.expected()) {
      const auto at = taps->interface_of(key);
      const auto plan = compiler.ruleset().endpoints.find(key);
      if (!at || listeners.contains(key) || plan == compiler.ruleset().endpoints.end() || !plan->second.mac) continue;
      auto l = Listener::open(loop.executor(), *at, *plan->second.mac, [this, key] {
        migrations.heard(key);
        schedule();
      });
      if (l)
        listeners.emplace(key, std::move(*l));
      else
        log::error("felix.not_listening", "endpoint", key, "what", l.error().what, "action",
                   "its routes come when the migration is over");
    }
    if (const auto next = migrations.next(); next && !std::exchange(migration_timer, true))
      tasks->spawn("migration", [this, at = *next]() -> awaitable<void> {
        const bool due = co_await sleep_for(std::max(Duration(0), Duration(at - std::chrono::steady_clock::now())));
        migration_timer = false;
        if (due) schedule();
      });
  }

  /// The source host now takes back its state of the endpoint; the driver sees an error of the port in that, unless it
  /// hears of this host's after.
  awaitable<void> report_again(std::string key) {
    const bool due = co_await sleep_for(std::min<Duration>(5s, settings.migration_convergence));
    const auto r = reported.find(key);
    if (due && r != reported.end() && settings.endpoint_reporting) report.again(r->second.key);
  }

  /// The kernel has it.
  void measure(TimePoint begin, bool wrote) {
    if (wrote) measures.apply.observe(seconds_since(begin));
    if (!std::exchange(programmed_once, true))
      measures.first_apply.set(seconds_since(started));
    else if (seen && concerns_kernel)
      measures.revision_to_kernel.observe(seconds_since(*seen));
    seen.reset();
    concerns_kernel = false;
    const auto d = [](auto n) { return static_cast<double>(n); };
    measures.nft_commits.set(d(firewall->commits()));
    measures.nft_operations.set(d(firewall->operations()));
    measures.nft_refused.set(d(firewall->refused().size()));
    measures.netlink_writes.set(d(taps->writes()));
    count_due = count_due || wrote;
    if (std::chrono::steady_clock::now() - counted > 10s) count();
  }

  /// Now and then: it walks over the cloud.
  void count() {
    if (!std::exchange(count_due, false)) return;
    counted = std::chrono::steady_clock::now();
    measures.counts(compiler);
  }

  void failed(const Error& e, bool& again) {
    again = true;
    put_off(e, {});
  }

  /// The kernel did not take it: the endpoints concerned are down until it does.
  void put_off(const Error& e, std::set<std::string> touched) {
    measures.failures.add();
    log::error("felix.not_programmed", "what", e.what, "action", "keeping the former state, retrying");
    say(fmt::format("not programmed: {}", e.what));
    report_endpoints(touched, e.what);
    waiting.merge(touched);
    retry_later();
  }

  void host_settings() {
    for (const auto* path : {"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"}) {
      auto wrote = netlink::sysctl_set(path, "1");
      if (!wrote && wrote.error().code != Errc::not_found)
        log::error("felix.no_forwarding", "setting", path, "what", wrote.error().what, "action",
                   "set it by hand: without it no packet reaches an endpoint");
    }
  }

  // ---- status ----

  struct Standing {
    model::EndpointState state = model::EndpointState::down;
    std::string error;
    TapState tap;
  };

  Standing standing(const model::EndpointPlan& plan, const std::string& trouble = {}) const {
    Standing s;
    s.tap = taps->state(plan.key);
    s.error = plan.error;
    if (s.error.empty()) s.error = firewall->fault_of(plan);
    if (s.error.empty()) s.error = trouble;
    if (s.error.empty()) s.error = s.tap.error;
    if (s.error.empty() && s.tap.present && s.tap.running && s.tap.programmed) s.state = model::EndpointState::up;
    return s;
  }

  void report_endpoints(const std::set<std::string>& keys, const std::string& trouble = {}) {
    const auto now = now_us();
    for (const auto& key : keys) {
      const auto plan = compiler.ruleset().endpoints.find(key);
      if (plan == compiler.ruleset().endpoints.end()) {
        if (const auto at = reported.find(key); at != reported.end()) {
          if (settings.endpoint_reporting) report.set(at->second.key, std::nullopt);
          reported.erase(at);
        }
        continue;
      }
      const auto s = standing(plan->second, trouble);
      auto& t = times[key];
      if (s.tap.present && t.link_us == 0) t.link_us = now;
      if (!s.tap.present) t.link_us = 0;
      if (s.state == model::EndpointState::up && t.kernel_us == 0) t.kernel_us = now;
      auto& last = reported[key];
      const bool first = last.key.empty();
      if (!first && last.state == s.state && last.error == s.error) {
        if (t.kernel_us != 0 && t.status_us == 0) t.status_us = t.kernel_us;  // stands already
        continue;
      }
      last.key = model::endpoint_status_key(settings.region, plan->second.ns, plan->second.name);
      if (first || last.state != s.state) {
        if (settings.endpoint_reporting) report.set(last.key, model::endpoint_status_json(s.state));
        t.status_us = now_us();
      }
      if (!s.error.empty() && s.error != last.error)
        log::warn("felix.endpoint_closed", "endpoint", plan->second.name.endpoint, "interface",
                  plan->second.interface_name, "why", s.error);
      else
        log::debug("felix.endpoint", "endpoint", plan->second.name.endpoint, "interface", plan->second.interface_name,
                   "state", model::to_string(s.state), "revision", t.revision, "kernel_us",
                   t.kernel_us ? t.kernel_us - t.seen_us : -1);
      last.state = s.state;
      last.error = s.error;
    }
  }

  /// Host endpoints, of which there are few.
  void report_hosts() {
    if (!settings.endpoint_reporting) return host_status.forget();
    host_status.report(
        compiler.ruleset(),
        [this](const std::string& interface) {
          const auto s = taps->link_state(interface);
          return HostStatus::Link{s.present, s.running};
        },
        [this](const model::HostPlan& p) { return firewall->fault_in(p.chains); });
  }

  awaitable<void> heartbeat() {
    bool going = true;
    while (going) {
      beat();
      count();
      const Duration pause = settings.reporting_interval;
      going = co_await sleep_for(pause);
    }
  }

  /// first_update stays true until a report can have reached the datastore once.
  void beat() {
    const auto up = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    const auto value = model::to_json(model::AgentStatus{utc_now(), up, !told_alive});
    if (was_in_sync) told_alive = true;
    report.set(model::status_key(settings.region, node), value, true);
    report.set(model::last_reported_status_key(settings.region, node), value, false);
  }

  void say(std::string line) {
    if (line == last_line && programmed_once == health_ready) return;
    last_line = line;
    health_ready = programmed_once;
    if (hooks.health) hooks.health->set("felix", {.ready = health_ready, .detail = line});
    hooks.status(std::move(line));
  }

  void say_programmed() {
    std::size_t up = 0, closed = 0;
    for (const auto& [key, r] : reported) {
      up += r.state == model::EndpointState::up;
      closed += !r.error.empty();
    }
    measures.up.set(static_cast<double>(up));
    measures.down.set(static_cast<double>(reported.size() - up));
    measures.closed.set(static_cast<double>(closed));
    say(fmt::format("{}: {} endpoints, {} up{}", sync::to_string(sync_state.phase), reported.size(), up,
                    closed ? fmt::format(", {} closed by a fault", closed) : ""));
  }

  void announce_ready() {
    if (!std::exchange(told_ready, true)) hooks.ready();
  }

  std::string describe() {
    json::array endpoints;
    for (const auto& [key, p] : compiler.ruleset().endpoints) {
      const auto s = standing(p);
      const auto t = times.count(key) ? times.at(key) : Times{};
      json::object o;
      o["endpoint"] = p.name.endpoint;
      o["workload"] = p.name.workload;
      o["namespace"] = p.ns;
      o["interface"] = p.interface_name;
      o["mac"] = p.mac ? json::value(p.mac->to_string()) : json::value(nullptr);
      json::array nets, policies, notes;
      for (const auto& n : p.nets) nets.emplace_back(n.to_string());
      for (const auto& n : p.policies) policies.emplace_back(n);
      for (const auto& n : p.notes) notes.emplace_back(n);
      for (const auto& n : firewall->notes_of(p)) notes.emplace_back(n);
      if (!s.tap.note.empty()) notes.emplace_back(s.tap.note);
      json::array nats;
      for (const auto& n : p.nats)
        nats.push_back(json::object{{"external", n.external.to_string()}, {"internal", n.internal.to_string()}});
      o["networks"] = std::move(nets);
      o["floating_ips"] = std::move(nats);
      o["limits"] = model::to_string(p.qos);
      o["class"] = p.group == model::kGroupClosed ? json::value("closed") : json::value(p.group);
      o["group"] = s.tap.group;
      o["policies"] = std::move(policies);
      o["status"] = std::string(model::to_string(s.state));
      o["present"] = s.tap.present;
      o["running"] = s.tap.running;
      o["error"] = s.error;
      o["migration"] = std::string(to_string(migrations.state(key)));
      o["notes"] = std::move(notes);
      // Latency of the current revision: microseconds since 1970, 0 = not yet.
      o["revision"] = t.revision;
      o["seen_us"] = t.seen_us;
      o["link_us"] = t.link_us;
      o["kernel_us"] = t.kernel_us;
      o["status_us"] = t.status_us;
      endpoints.push_back(std::move(o));
    }
    const auto c = compiler.counts();
    json::array hosts;
    for (const auto& [key, p] : compiler.ruleset().hosts) {
      const auto fault = firewall->fault_in(p.chains);
      hosts.push_back(json::object{{"name", p.name},
                                   {"interfaces", json::value_from(p.interfaces)},
                                   {"policies", json::value_from(p.policies)},
                                   {"status", std::string(model::to_string(host_status.state_of(key)))},
                                   {"error", p.error.empty() ? fault : p.error},
                                   {"notes", json::value_from(p.notes)}});
    }
    json::object faults, refused;
    for (const auto& [key, what] : compiler.faults()) faults[key] = what;
    for (const auto& [name, what] : firewall->refused()) refused[name] = what;
    return json::serialize(json::object{{"node", node},
                                        {"sync", std::string(sync::to_string(sync_state.phase))},
                                        {"usable", usable},
                                        {"programmed", loaded && !retrying},
                                        {"status", last_line},
                                        {"endpoints", std::move(endpoints)},
                                        {"counts", json::object{{"endpoints", c.endpoints},
                                                                {"local_endpoints", c.local_endpoints},
                                                                {"policies", c.policies},
                                                                {"active_policies", c.active_policies},
                                                                {"classes", c.classes},
                                                                {"selector_sets", c.selector_sets},
                                                                {"nodes", c.nodes}}},
                                        {"host_endpoints", std::move(hosts)},
                                        {"faults", std::move(faults)},
                                        {"refused", std::move(refused)},
                                        {"nft", json::object{{"commits", firewall->commits()},
                                                             {"operations", firewall->operations()},
                                                             {"owned", firewall->owned()}}},
                                        {"rtnetlink_writes", taps->writes()},
                                        {"connections", json::object{{"walks", flows->counts().walks},
                                                                     {"seen", flows->counts().seen},
                                                                     {"forgotten", flows->counts().forgotten},
                                                                     {"cut", flows->counts().cut},
                                                                     {"failures", flows->counts().failures},
                                                                     {"last_failure", flows->counts().last_failure}}}});
  }

  const std::string node;
  config::Config config;
  sync::View& view;
  sync::Report& report;
  Hooks hooks;
  Settings settings;
  metrics::Registry nobody;  // without a process around us
  Measures measures;
  model::Compiler compiler;
  Configurations felix_configurations{node};
  const std::string own_node = model::node_key(node);

  Loop loop{"felix"};
  std::optional<netlink::Rtnl> rtnl;
  std::optional<Taps> taps;
  std::optional<Blackholes> blackholes;
  std::optional<Firewall> firewall;
  std::optional<netlink::Monitor> link_monitor;
  std::optional<nft::Monitor> nft_monitor;
  std::optional<TaskGroup> tasks;
  std::optional<Flows> flows;
  std::unique_ptr<sync::Subscription> subscription;

  sync::SyncState sync_state;
  std::vector<Ip> host_addresses;
  std::vector<model::HostInterface> host_interfaces;
  HostStatus host_status{node, report};
  Migrations migrations{node};
  std::map<std::string, Listener> listeners;  // by endpoint
  bool migration_timer = false;
  std::set<std::string> planned;  // endpoints handed to taps
  std::set<std::string> waiting;  // endpoints of a change the kernel did not take
  struct Reported {
    std::string key;
    model::EndpointState state = model::EndpointState::down;
    std::string error;
  };
  std::map<std::string, Reported> reported;
  std::map<std::string, Times> times;
  std::string last_line;
  std::set<std::string> told_ignored;
  std::optional<TimePoint> seen;  // the oldest change the kernel has not answered yet
  TimePoint started, counted{}, next_look{};
  Duration retry_after = 100ms;

  std::mutex gate;          // between stop() and who waits for the loop
  bool running = false;     // the loop runs; under gate
  bool stopping = false;    // loop, as all below
  bool usable = false;      // there has been a complete snapshot
  bool loaded = false;      // the kernel was read and the first apply is under way
  bool everything = false;  // a new compiler: no delta speaks about the old state
  bool scheduled = false;
  bool retrying = false;
  bool looking = false;
  bool reload_taps = false;
  bool reload_firewall = false;
  bool configuration_changed = false;
  bool settled = false;
  bool was_in_sync = false;
  bool told_alive = false;
  bool told_ready = false;
  bool programmed_once = false;
  bool health_ready = false;     // as told
  bool concerns_kernel = false;  // what was seen changed rules or endpoints
  bool count_due = false;
};

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
