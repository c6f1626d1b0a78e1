#include "modules/felix/migration.hpp"

#include <algorithm>

namespace calico::felix {

std::string Migrations::id_of(const std::string& ns, const std::string& workload, const std::string& endpoint) {
  return fmt::format("{}\n{}\n{}", ns, workload, endpoint);
}

Status Migrations::update(std::string_view key, std::optional<std::string_view> value, TimePoint now) {
  const std::string k(key);
  Status said;
  std::set<std::string> ids;
  if (const auto it = moves_.find(k); it != moves_.end()) {
    ids.insert(it->second.id);
    moves_.erase(it);
  }
  if (value) {
    auto m = model::parse_live_migration(*value);
    const auto rk = model::parse_resource_key(key);
    if (!m) {
      said = tl::unexpected(m.error());
    } else if (rk) {
      // The driver writes "<namespace>/<device>".
      const auto slash = m->workload.rfind('/');
      const auto workload = slash == std::string::npos ? m->workload : m->workload.substr(slash + 1);
      const Move move{id_of(rk->ns, workload, m->endpoint), m->target_host == host_   ? Role::target
                                                            : m->source_host == host_ ? Role::source
                                                                                      : Role::none};
      ids.insert(move.id);
      moves_[k] = move;
    }
  }
  for (const auto& id : ids)
    if (const auto it = key_of_.find(id); it != key_of_.end()) settle(it->second, now);
  return said;
}

void Migrations::add(const std::string& key, const std::string& ns, const model::WorkloadEndpointName& name,
                     TimePoint now) {
  auto [it, fresh] = endpoints_.try_emplace(key);
  if (!fresh) return;
  it->second.id = id_of(ns, name.workload, name.endpoint);
  key_of_[it->second.id] = key;
  settle(key, now);
}

void Migrations::remove(const std::string& key) {
  const auto it = endpoints_.find(key);
  if (it == endpoints_.end()) return;
  key_of_.erase(it->second.id);
  expected_.erase(key);
  if (it->second.state != State::base) changed_.insert(key);
  endpoints_.erase(it);
}

Migrations::Role Migrations::role_of(const std::string& id) const {
  Role role = Role::none;
  for (const auto& [key, m] : moves_)
    if (m.id == id) role = std::max(role, m.role);
  return role;
}

void Migrations::settle(const std::string& key, TimePoint now) {
  auto& e = endpoints_.at(key);
  switch (role_of(e.id)) {
    case Role::target:
      // Waiting: it has moved here already, and still is here.
      if (e.state == State::base) go(key, e, State::target);
      if (e.state == State::waiting) go(key, e, State::live);
      return;
    case Role::source:
      return go(key, e, State::base);
    case Role::none:
      if (e.state != State::target && e.state != State::live) return;
      e.until = now + convergence_;
      return go(key, e, State::waiting);
  }
}

void Migrations::go(const std::string& key, Endpoint& e, State to) {
  if (e.state == to) return;
  e.state = to;
  changed_.insert(key);
  if (to == State::target)
    expected_.insert(key);
  else
    expected_.erase(key);
}

void Migrations::heard(const std::string& key) {
  const auto it = endpoints_.find(key);
  if (it != endpoints_.end() && it->second.state == State::target) go(key, it->second, State::live);
}

void Migrations::expire(TimePoint now) {
  for (auto& [key, e] : endpoints_)
    if (e.state == State::waiting && e.until <= now) go(key, e, State::base);
}

std::optional<TimePoint> Migrations::next() const {
  std::optional<TimePoint> first;
  for (const auto& [key, e] : endpoints_)
    if (e.state == State::waiting && (!first || e.until < *first)) first = e.until;
  return first;
}

Migrations::State Migrations::state(const std::string& key) const {
  const auto it = endpoints_.find(key);
  return it == endpoints_.end() ? State::base : it->second.state;
}

RouteMode Migrations::mode(const std::string& key) const {
  switch (state(key)) {
    case State::base:
      return RouteMode::normal;
    case State::target:
      return RouteMode::withheld;
    case State::live:
    case State::waiting:
      return RouteMode::elevated;
  }
  return RouteMode::normal;
}

std::string_view to_string(Migrations::State s) {
  switch (s) {
    case Migrations::State::base:
      return "base";
    case Migrations::State::target:
      return "target";
    case Migrations::State::live:
      return "live";
    case Migrations::State::waiting:
      return "waiting";
  }
  return "?";
}

}  // namespace calico::felix
