#include "modules/felix/hosts.hpp"

#include <algorithm>

#include "core/log/log.hpp"

namespace calico::felix {
namespace {

using nft::Field;
using nft::Rule;

constexpr std::int32_t kRaw = -300;  // conntrack is at -200
constexpr std::int32_t kBeforeDnat = -150;
constexpr std::int32_t kAfterToHost = 1;
constexpr std::int32_t kBeforeWorkloads = -1;
constexpr std::int32_t kAfterWorkloads = 2;

StaticChain base(std::string name, nft::Hook hook, std::int32_t priority) {
  return {{kInet, std::move(name), nft::BaseChain{"filter", hook, priority}, {}}, {}};
}

/// MLD, router and neighbour discovery: without them there is no IPv6 that a failsafe port could be reached by.
void add_discovery(StaticChain& c) {
  for (const std::uint8_t type : {130, 131, 132, 133, 134, 135, 136, 143})
    c.rules.push_back(Rule().icmpv6_type(type).accept());
}

/// `in`: the packets come in. `reply`: they are what the other side sends back, from the port.
void add_failsafe(StaticChain& c, const std::vector<Failsafe>& failsafe, bool in, bool reply = false) {
  for (const auto& f : failsafe) {
    Rule rule;
    if (f.net) in ? rule.saddr(*f.net) : rule.daddr(*f.net);
    if (reply)
      f.protocol == 6 ? rule.tcp_sport(f.port) : rule.udp_sport(f.port);
    else
      f.protocol == 6 ? rule.tcp_dport(f.port) : rule.udp_dport(f.port);
    c.rules.push_back(std::move(rule.accept().comment(reply ? "reply of a failsafe port" : "failsafe")));
  }
}

/// Before connections are tracked.
StaticChain first_raw_chain(const std::string& name, const Settings& s, bool in) {
  StaticChain c{{kInet, name, {}, {}}, {}};
  add_discovery(c);
  add_failsafe(c, in ? s.failsafe_in : s.failsafe_out, in);
  add_failsafe(c, in ? s.failsafe_out : s.failsafe_in, in, true);
  return c;
}

/// What comes before every policy. `failsafe` null: of forwarded traffic.
StaticChain first_chain(const std::string& name, const std::vector<Failsafe>* failsafe, bool in) {
  StaticChain c{{kInet, name, {}, {}}, {}};
  auto& r = c.rules;
  r.push_back(Rule().ct_state(nft::kEstablished | nft::kRelated).accept());
  r.push_back(Rule().ct_state(nft::kInvalid).counter().drop().comment("belongs to no connection"));
  if (!failsafe) return c;
  add_discovery(c);
  add_failsafe(c, *failsafe, in);
  return c;
}

}  // namespace

std::vector<StaticChain> host_preludes(const Settings& s) {
  std::vector<StaticChain> out;
  out.push_back(first_chain("host-in", &s.failsafe_in, true));
  out.push_back(first_chain("host-out", &s.failsafe_out, false));
  out.push_back(first_chain("host-forward", nullptr, true));
  out.push_back(first_raw_chain("host-raw-in", s, true));
  out.push_back(first_raw_chain("host-raw-out", s, false));
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
    if (way.starts_with("pre-") && hooks.hosts_raw)
      c.rules.push_back(Rule().mark(kAcceptedEarly, kAcceptedEarly).accept().comment("untracked"));
    else if (way.starts_with("pre-") || way.starts_with("raw-"))  // others' marks, and those of a tunnel's outer packet
      c.rules.push_back(Rule().set_mark(0, kAcceptedEarly));
    c.rules.push_back(Rule().vmap({in ? Field::iifname : Field::oifname}, "hosts-" + way));
    c.rules.push_back(Rule().goto_("any-" + way));
    out.push_back(std::move(c));
  };
  if (hooks.hosts_raw) {
    add("host-untracked-in", nft::Hook::prerouting, kRaw, "raw-in");
    add("host-untracked-out", nft::Hook::output, kRaw, "raw-out");
  }
  if (hooks.hosts_pre) add("host-pre-dnat", nft::Hook::prerouting, kBeforeDnat, "pre-in");
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
  const auto first = chain.starts_with("hep-fwd-")       ? "host-forward"
                     : chain.starts_with("hep-raw-in/")  ? "host-raw-in"
                     : chain.starts_with("hep-raw-out/") ? "host-raw-out"
                     : chain.starts_with("hep-out/")     ? "host-out"
                                                         : "host-in";  // and before translation
  std::vector<nft::Rule> out;
  out.push_back(Rule().jump(first));
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
    if (error.empty() && !(error = fault(plan)).empty()) state = model::EndpointState::error;
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
