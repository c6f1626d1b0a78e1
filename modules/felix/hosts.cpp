#include "modules/felix/hosts.hpp"

#include <algorithm>

#include "core/log/log.hpp"

namespace calico::felix {
namespace {

using nft::Field;
using nft::Rule;

constexpr std::int32_t kAfterToHost = 1;
constexpr std::int32_t kBeforeWorkloads = -1;
constexpr std::int32_t kAfterWorkloads = 2;

StaticChain base(std::string name, nft::Hook hook, std::int32_t priority) {
  return {{kInet, std::move(name), nft::BaseChain{"filter", hook, priority}, {}}, {}};
}

/// What comes before every policy. `failsafe` null: of forwarded traffic.
StaticChain first_chain(const std::string& name, const std::vector<Failsafe>* failsafe, bool in) {
  StaticChain c{{kInet, name, {}, {}}, {}};
  auto& r = c.rules;
  r.push_back(Rule().ct_state(nft::kEstablished | nft::kRelated).accept());
  r.push_back(Rule().ct_state(nft::kInvalid).counter().drop().comment("belongs to no connection"));
  if (!failsafe) return c;
  // MLD, router and neighbour discovery: without them there is no IPv6 that a failsafe port could be reached by.
  for (const std::uint8_t type : {130, 131, 132, 133, 134, 135, 136, 143})
    r.push_back(Rule().icmpv6_type(type).accept());
  for (const auto& f : *failsafe) {
    Rule rule;
    if (f.net) in ? rule.saddr(*f.net) : rule.daddr(*f.net);
    f.protocol == 6 ? rule.tcp_dport(f.port) : rule.udp_dport(f.port);
    r.push_back(std::move(rule.accept().comment("failsafe")));
  }
  return c;
}

}  // namespace

std::vector<StaticChain> host_preludes(const Settings& s) {
  std::vector<StaticChain> out;
  out.push_back(first_chain("host-in", &s.failsafe_in, true));
  out.push_back(first_chain("host-out", &s.failsafe_out, false));
  out.push_back(first_chain("host-forward", nullptr, true));
  return out;
}

std::vector<StaticChain> host_hooks(const ExtraHooks& hooks, const std::vector<std::string>& interface_prefixes) {
  std::vector<StaticChain> out;
  const auto add = [&](const std::string& name, nft::Hook hook, std::int32_t priority, const std::string& way) {
    auto c = base(name, hook, priority);
    const bool in = way.ends_with("in");
    for (const auto& prefix : interface_prefixes) {
      Rule r;
      in ? r.iifname(prefix + "*") : r.oifname(prefix + "*");
      c.rules.push_back(std::move(r.accept().comment("an endpoint's")));
    }
    c.rules.push_back(Rule().vmap({in ? Field::iifname : Field::oifname}, "hosts-" + way));
    c.rules.push_back(Rule().goto_("any-" + way));
    out.push_back(std::move(c));
  };
  if (hooks.hosts) {
    add("host-input", nft::Hook::input, kAfterToHost, "in");
    add("host-output", nft::Hook::output, 0, "out");
  }
  if (hooks.hosts_forward) {
    add("host-forward-in", nft::Hook::forward, kBeforeWorkloads, "fwd-in");
    add("host-forward-out", nft::Hook::forward, kAfterWorkloads, "fwd-out");
  }
  return out;
}

bool is_host_chain(const std::string& name) {
  return name.starts_with("hep-") && std::count(name.begin(), name.end(), '/') == 1;
}

std::vector<nft::Rule> host_prelude(const std::string& chain) {
  const bool forward = chain.starts_with("hep-fwd-");
  std::vector<nft::Rule> out;
  out.push_back(Rule().jump(forward ? "host-forward" : chain.starts_with("hep-in/") ? "host-in" : "host-out"));
  return out;
}

std::string HostStatus::prefix() const { return model::host_endpoint_status_prefix(node_); }

void HostStatus::report(const model::Ruleset& ruleset, const std::function<Link(const std::string& interface)>& link,
                        const std::function<std::string(const model::HostPlan&)>& fault) {
  for (auto it = told_.begin(); it != told_.end();)
    if (ruleset.hosts.contains(it->first)) {
      ++it;
    } else {
      report_.set(it->second.key, std::nullopt);
      it = told_.erase(it);
    }
  for (const auto& [key, plan] : ruleset.hosts) {
    auto error = plan.error;
    auto state = error.empty() ? model::EndpointState::down : model::EndpointState::error;
    if (error.empty()) error = fault(plan);
    const bool every = std::find(plan.interfaces.begin(), plan.interfaces.end(), "*") != plan.interfaces.end();
    bool present = every, running = every;
    for (const auto& i : plan.interfaces) {
      const auto l = every ? Link{} : link(i);
      present = present || l.present;
      running = running || l.running;
    }
    if (error.empty() && !present) {
      state = model::EndpointState::error;
      error = fmt::format("there is no interface {}", plan.interfaces.front());
    }
    if (error.empty() && running) state = model::EndpointState::up;
    auto& last = told_[key];
    const bool first = last.key.empty();
    if (first) last.key = model::host_endpoint_status_key(node_, plan.name);
    if (first || last.state != state) report_.set(last.key, model::endpoint_status_json(state));
    if (!error.empty() && error != last.error) log::warn("felix.host_endpoint", "name", plan.name, "why", error);
    last.state = state;
    last.error = std::move(error);
  }
}

model::EndpointState HostStatus::state_of(const std::string& key) const {
  const auto it = told_.find(key);
  return it == told_.end() ? model::EndpointState::down : it->second.state;
}

}  // namespace calico::felix
