#include "modules/felix/engine_impl.hpp"

#include <fmt/chrono.h>

#include <algorithm>
#include <boost/json.hpp>

#include "core/log/log.hpp"
#include "core/model/keys.hpp"

namespace calico::felix {
namespace {

using namespace std::chrono_literals;
namespace json = boost::json;

std::string utc_now() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                     fmt::gmtime(std::chrono::system_clock::to_time_t(std::chrono::system_clock::now())));
}

}  // namespace

/// Reporting was off until now.
void Engine::Impl::report_all() {
  report.claim(model::endpoint_status_prefix(settings.region, node));
  for (const auto& [key, r] : reported)
    if (!r.key.empty()) report.set(r.key, model::endpoint_status_json(r.state));
  settled = false;
}

/// The source host now takes back its state of the endpoint; the driver sees an error of the port in that, unless it
/// hears of this host's after.
awaitable<void> Engine::Impl::report_again(std::string key) {
  const bool due = co_await sleep_for(std::min<Duration>(5s, settings.migration_convergence));
  const auto r = reported.find(key);
  if (due && r != reported.end() && settings.endpoint_reporting) report.again(r->second.key);
}

/// Now and then: it walks over the cloud.
void Engine::Impl::count() {
  if (!std::exchange(count_due, false)) return;
  counted = std::chrono::steady_clock::now();
  measures.counts(compiler);
}

Engine::Impl::Standing Engine::Impl::standing(const model::EndpointPlan& plan, const std::string& trouble) const {
  Standing s;
  s.tap = taps->state(plan.key);
  s.error = plan.error;
  if (s.error.empty()) s.error = firewall->fault_of(plan);
  if (s.error.empty()) s.error = trouble;
  if (s.error.empty()) s.error = s.tap.error;
  if (s.error.empty() && s.tap.present && s.tap.running && s.tap.programmed) s.state = model::EndpointState::up;
  return s;
}

void Engine::Impl::report_endpoints(const std::set<std::string>& keys, const std::string& trouble) {
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
void Engine::Impl::report_hosts() {
  if (!settings.endpoint_reporting) return host_status.forget();
  host_status.report(
      compiler.ruleset(),
      [this](const std::string& interface) {
        const auto s = taps->link_state(interface);
        return HostStatus::Link{s.present, s.running};
      },
      [this](const model::HostPlan& p) { return firewall->fault_in(p.chains); });
}

awaitable<void> Engine::Impl::heartbeat() {
  bool going = true;
  while (going) {
    beat();
    count();
    const Duration pause = settings.reporting_interval;
    going = co_await sleep_for(pause);
  }
}

/// first_update stays true until a report can have reached the datastore once.
void Engine::Impl::beat() {
  const auto up = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  const auto value = model::to_json(model::AgentStatus{utc_now(), up, !told_alive});
  if (was_in_sync) told_alive = true;
  report.set(model::status_key(settings.region, node), value, true);
  report.set(model::last_reported_status_key(settings.region, node), value, false);
}

void Engine::Impl::say(std::string line) {
  if (line == last_line && programmed_once == health_ready) return;
  last_line = line;
  health_ready = programmed_once;
  if (hooks.health) hooks.health->set("felix", {.ready = health_ready, .detail = line});
  hooks.status(std::move(line));
}

void Engine::Impl::say_programmed() {
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

void Engine::Impl::announce_ready() {
  if (!std::exchange(told_ready, true)) hooks.ready();
}

std::string Engine::Impl::describe() {
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

}  // namespace calico::felix
