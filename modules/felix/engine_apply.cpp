#include "modules/felix/engine_impl.hpp"

#include <algorithm>

#include "core/log/log.hpp"
#include "core/model/keys.hpp"

namespace calico::felix {
namespace {

using namespace std::chrono_literals;

double seconds_since(TimePoint t) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - t).count();
}

}  // namespace

void Engine::Impl::schedule() {
  if (stopping || std::exchange(scheduled, true)) return;
  loop.post([this] { apply(); });
}

void Engine::Impl::schedule_if_due() {
  if (taps->pending() || blackholes->pending() || taps->changed() || taps->host_interfaces_changed()) schedule();
}

void Engine::Impl::retry_later() {
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
void Engine::Impl::reload_firewall_now() {
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

/// The steps of engine.hpp, in their order.
void Engine::Impl::apply() {
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

void Engine::Impl::set_plan(const model::EndpointPlan& plan) {
  migrations.add(plan.key, plan.ns, plan.name, std::chrono::steady_clock::now());
  taps->set_plan(plan);
  planned.insert(plan.key);
}

void Engine::Impl::drop_plan(const std::string& key) {
  migrations.remove(key);
  taps->drop_plan(key);
  planned.erase(key);
}

/// Routes as the migrations have them, ears where a VM is expected, and the clock for what ends by itself.
void Engine::Impl::follow_migrations() {
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

/// The kernel has it.
void Engine::Impl::measure(TimePoint begin, bool wrote) {
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

void Engine::Impl::failed(const Error& e, bool& again) {
  again = true;
  put_off(e, {});
}

/// The kernel did not take it: the endpoints concerned are down until it does.
void Engine::Impl::put_off(const Error& e, std::set<std::string> touched) {
  measures.failures.add();
  log::error("felix.not_programmed", "what", e.what, "action", "keeping the former state, retrying");
  say(fmt::format("not programmed: {}", e.what));
  report_endpoints(touched, e.what);
  waiting.merge(touched);
  retry_later();
}

}  // namespace calico::felix
