#include "modules/felix/engine_impl.hpp"

#include "core/log/log.hpp"
#include "core/model/keys.hpp"

namespace calico::felix {
namespace {

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

std::optional<std::string_view> view_of(const std::optional<std::string>& text) {
  return text ? std::optional<std::string_view>(*text) : std::nullopt;
}

}  // namespace

void Engine::Impl::subscribe() {
  std::vector<std::string> prefixes{std::string(model::kFelixConfigurations), std::string(model::kLiveMigrations),
                                    std::string(kSubnets)};
  for (const auto& prefix : kIntent) prefixes.emplace_back(prefix);
  subscription = view.watch(prefixes, loop.executor(), [this](const sync::Batch& b) { on_batch(b); });
}

/// The file's configuration, with what the datastore says between the defaults and it.
void Engine::Impl::take_configuration() {
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
void Engine::Impl::tell_ignored(const std::string& line) {
  if (told_ignored.size() < 1000 && told_ignored.insert(line).second)
    log::warn("felix.configuration_ignored", "what", line);
}

void Engine::Impl::on_batch(const sync::Batch& b) {
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

bool Engine::Impl::is_local(const std::string& key) const {
  const auto rk = model::parse_resource_key(key);
  if (!rk) return false;
  const auto name = model::parse_wep_name(rk->name);
  return name && name->host == node;
}

void Engine::Impl::on_felix_configuration(const sync::Update& u) {
  const auto name = std::string_view(u.key).substr(model::kFelixConfigurations.size());
  const auto changed = felix_configurations.update(name, view_of(u.value));
  if (!changed)
    log::warn("felix.bad_configuration", "key", u.key, "what", changed.error().what, "action", "ignoring it");
  configuration_changed = configuration_changed || !changed || *changed;
}

/// A FelixConfiguration may select us by our labels.
void Engine::Impl::on_own_node(const sync::Update& u) {
  model::Labels labels;
  if (u.value) {
    auto n = model::parse_node(*u.value);
    if (!n) return;  // the compiler names it
    labels = std::move(n->meta.labels);
  }
  if (felix_configurations.set_labels(std::move(labels))) configuration_changed = true;
}

}  // namespace calico::felix
