/// Compiler: policies, tiers and profiles as the keys have them.
#include <algorithm>

#include "core/model/compiler_impl.hpp"

namespace calico::model {
namespace {

/// What nft takes as an identifier inside "in/…": else the name is hashed.
bool plain_name(std::string_view s) {
  return s.size() <= 200 && std::all_of(s.begin(), s.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
                  c == '_' || c == '/';
         });
}

}  // namespace

// --- policies -------------------------------------------------------------------------------------------------------

void Compiler::Impl::update_policy(const ResourceKey& rk, const std::string& key, std::optional<std::string_view> value,
                                   bool global) {
  faults.erase(key);
  auto at = policy_ids.find(key);
  if (!value) {
    if (at == policy_ids.end()) return;
    const auto id = at->second;
    selected.remove_selector(id);
    deactivate(policies.at(id));
    dirty_policies.erase(id);
    policies.erase(id);
    policy_ids.erase(at);
    return;
  }
  auto parsed = parse_network_policy(*value, global);
  if (!parsed) {
    faults[key] = parsed.error().what;
    // Its endpoints are known from the former version: they close. Without one it counts as absent.
    if (at == policy_ids.end()) return;
    NetworkPolicy former = policies.at(at->second).body;
    former.fault = parsed.error().what;
    former.ingress.clear();
    former.egress.clear();
    parsed = std::move(former);
  } else if (!parsed->fault.empty()) {
    faults[key] = parsed->fault;
  }
  Selector selector = *Selector::parse(parsed->selector);
  if (!global) {
    selector = Selector::both(Selector::label_is(std::string(kLabelNamespace), rk.ns), selector);
  } else if (parsed->namespace_selector) {
    selector = Selector::both(namespace_selector(*parsed->namespace_selector), selector);
  }
  if (at == policy_ids.end()) {
    auto& p = new_policy(key, rk.ns.empty() ? rk.name : fmt::format("{}/{}", rk.ns, rk.name), global ? "global/" : "");
    at = policy_ids.find(key);
    p.body = std::move(*parsed);
    p.body.meta.ns = rk.ns;
    p.body.meta.name = rk.name;
    p.selector = selector;
    selected.add_selector(p.id, std::move(selector));
  } else {
    auto& p = policies.at(at->second);
    const auto place = [](const NetworkPolicy& x) {
      return std::tie(x.order, x.fault, x.tier, x.do_not_track, x.pre_dnat, x.apply_on_forward);
    };
    const bool moved = place(p.body) != place(*parsed);
    if (p.body.ingress_type != parsed->ingress_type || p.body.egress_type != parsed->egress_type) touch_classes_of(key);
    p.body = std::move(*parsed);
    p.body.meta.ns = rk.ns;
    p.body.meta.name = rk.name;
    if (!(p.selector == selector)) {
      selected.remove_selector(p.id);
      p.selector = selector;
      selected.add_selector(p.id, std::move(selector));
    }
    if (moved)
      for (const auto id : selected.items_of(p.id)) dirty_endpoints.insert(id);
  }
  dirty_policies.insert(at->second);
}

Compiler::Impl::Policy& Compiler::Impl::new_policy(const std::string& key, const std::string& title,
                                                   const std::string& folder) {
  const auto id = policy_ids.emplace(key, next_id++).first->second;
  auto& p = policies[id];
  p.id = id;
  p.key = key;
  p.title = title;
  const auto name = folder + chain_title(title);
  p.in.chain = "in/" + name;
  p.out.chain = "out/" + name;
  if (!plain_name(title)) p.in.title = p.out.title = title;
  return p;
}

std::string Compiler::Impl::chain_title(const std::string& title) {
  return plain_name(title) ? title : short_hash(title);
}

bool Compiler::Impl::wanted(const Policy& p) const {
  if (!p.profile) {
    const auto& of = selected.items_of(p.id);
    if (!p.body.do_not_track && !p.body.pre_dnat) return !of.empty();
    return std::any_of(of.begin(), of.end(), [&](const Id id) { return local_host_keys.contains(id); });
  }
  const auto it = profiles.find(p.body.meta.name);
  return it != profiles.end() && it->second.local > 0;
}

void Compiler::Impl::touch_classes_of(const std::string& key) {
  dirty_hosts = dirty_hosts || !local_host_keys.empty();
  for (auto& [class_key, c] : classes) {
    const auto& q = c.questions;
    const bool asks = std::any_of(q.tiers.begin(), q.tiers.end(), [&](const TierPart& t) {
      return std::find(t.policies.begin(), t.policies.end(), key) != t.policies.end();
    });
    if (asks || std::any_of(q.profiles.begin(), q.profiles.end(),
                            [&](const auto& name) { return key == std::string(kProfiles) + name; }))
      dirty_classes.insert(class_key);
  }
}

void Compiler::Impl::on_selected(Id policy, Id endpoint, bool matches) {
  const auto host = local_host_keys.find(endpoint);
  auto& asked = host != local_host_keys.end() ? hosts.at(host->second).policies : endpoints.at(endpoint).policies;
  if (matches)
    asked.insert(policy);
  else
    asked.erase(policy);
  dirty_endpoints.insert(endpoint);
  if (policies.at(policy).active != matches) first_or_last.insert(policy);
}

// --- tiers and profiles ---------------------------------------------------------------------------------------------

void Compiler::Impl::update_tier(const std::string& name, const std::string& key,
                                 std::optional<std::string_view> value) {
  faults.erase(key);
  const auto it = tiers.find(name);
  std::optional<Tier> next;
  if (value) {
    auto parsed = parse_tier(*value);
    if (!parsed) {
      faults[key] = parsed.error().what;  // what it was stays
      return;
    }
    next = *parsed;
  }
  if (it == tiers.end() ? !next : next == it->second) return;
  if (next)
    tiers[name] = *next;
  else
    tiers.erase(it);
  for (const auto& [id, p] : policies)
    if (!p.profile && p.body.tier == name)
      for (const auto e : selected.items_of(id)) dirty_endpoints.insert(e);
}

void Compiler::Impl::update_profile(const std::string& name, const std::string& key,
                                    std::optional<std::string_view> value) {
  faults.erase(key);
  std::optional<Profile> next;
  if (value) {
    auto parsed = parse_profile(*value);
    if (parsed)
      next = std::move(*parsed);
    else
      faults[key] = parsed.error().what;
  }
  const auto at = policy_ids.find(key);
  if (!next) {
    if (at == policy_ids.end()) return;
    deactivate(policies.at(at->second));
    dirty_policies.erase(at->second);
    policies.erase(at->second);
    policy_ids.erase(at);
  } else {
    auto& p = at == policy_ids.end() ? new_policy(key, name, "profile/") : policies.at(at->second);
    p.profile = true;
    p.body.global = true;  // its rules mean endpoints of every namespace
    p.body.meta.name = name;
    p.body.ingress = std::move(next->ingress);
    p.body.egress = std::move(next->egress);
    profiles[name].policy = p.id;
    dirty_policies.insert(p.id);
  }
  auto& state = profiles[name];
  const bool came_or_went = std::exchange(state.present, next.has_value()) != next.has_value();
  if (!next) state.policy = 0;
  auto labels = next ? std::move(next->labels_to_apply) : Labels{};
  labels.erase(std::string(kLabelNamespace));  // who is in none, a host endpoint, gets into none
  const bool relabelled = state.labels != labels;
  state.labels = labels;
  if (came_or_went) touch_classes_of(key);
  const auto affected = state.heirs;
  if (!state.present && state.heirs.empty()) profiles.erase(name);
  for (const auto id : affected) {
    if (came_or_went && locals.contains(id)) dirty_endpoints.insert(id);
    if (relabelled) file(id, inherited(heirs.at(id)));
  }
}

}  // namespace calico::model
