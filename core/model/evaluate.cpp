#include "core/model/evaluate.hpp"

#include <algorithm>
#include <list>
#include <tuple>

#include "core/model/keys.hpp"

namespace calico::model {
namespace {

/// Something selectors of rules can mean: an endpoint or a network set.
struct Thing {
  Labels labels;
  std::string ns;
  const std::vector<Prefix>* nets = nullptr;
  const std::vector<NamedPort>* ports = nullptr;
};

/// Own labels win over those of profiles, the first profile over the later ones.
Labels with_inherited(const Policies& p, Labels labels, const std::string& ns,
                      const std::vector<std::string>& profiles) {
  // What stands for namespaces and service accounts is nobody's own to say.
  std::erase_if(labels, [](const auto& l) { return l.first.starts_with("pcns.") || l.first.starts_with("pcsa."); });
  labels.erase(std::string(kLabelNamespace));
  if (!ns.empty()) labels[std::string(kLabelNamespace)] = ns;
  for (const auto& name : profiles)
    if (const auto it = p.profiles.find(name); it != p.profiles.end())
      for (const auto& [label, value] : it->second.labels_to_apply)
        if (label != kLabelNamespace) labels.try_emplace(label, value);
  return labels;
}

Labels labels_of(const Policies& p, const WorkloadEndpoint& e) {
  return with_inherited(p, e.meta.labels, e.meta.ns, e.profiles);
}

/// All that rules can select. `kept` holds what the policies themselves do not.
std::vector<Thing> things(const Policies& p, std::list<std::vector<Prefix>>& kept) {
  static const std::vector<NamedPort> kNone;
  std::vector<Thing> out;
  for (const auto& [key, e] : p.endpoints) out.push_back({labels_of(p, e), e.meta.ns, &e.ip_networks, &e.ports});
  for (const auto& [key, h] : p.hosts) {
    auto& addresses = kept.emplace_back();
    for (const auto& ip : h.expected_ips) addresses.push_back(Prefix::host(ip));
    out.push_back({with_inherited(p, h.labels, "", h.profiles), "", &addresses, &h.ports});
  }
  for (const auto& [key, s] : p.network_sets) {
    std::vector<std::string> profiles;
    if (!s.ns.empty()) profiles.push_back("kns." + s.ns);
    out.push_back({with_inherited(p, s.set.labels, s.ns, profiles), s.ns, &s.set.nets, &kNone});
  }
  return out;
}

/// A selector that cannot be read matches nothing; the parser of policies refuses those.
bool matches(const std::string& selector, const Labels& labels) {
  const auto s = Selector::parse(selector);
  return s && s->matches(labels);
}

bool namespace_matches(const std::string& selector, const Labels& labels) {
  const auto s = Selector::parse(selector, "pcns.");
  if (!s) return false;
  const bool has_namespace = labels.contains(kLabelNamespace);
  if (s->canonical() == "all()") return has_namespace;
  if (s->canonical() == "global()") return !has_namespace;
  return s->matches(labels);
}

/// `ns`: the endpoint's; a host endpoint is in none.
bool selects(const NetworkPolicy& policy, const std::string& ns, const Labels& labels) {
  if (!matches(policy.selector, labels)) return false;
  if (!policy.global) return !ns.empty() && ns == policy.meta.ns;
  return !policy.namespace_selector || namespace_matches(*policy.namespace_selector, labels);
}

bool holds(const std::vector<Prefix>& nets, const Ip& ip) {
  return std::any_of(nets.begin(), nets.end(), [&](const auto& n) { return n.contains(ip); });
}

/// Whether the positive selectors of a rule's side mean the thing. `rules_namespace`: that of the policy the rule is
/// in, empty for global policies and profiles.
bool meant(const EntityRule& side, const std::string& rules_namespace, const Thing& t) {
  if (!side.selector && !side.namespace_selector) return true;
  if (side.selector && !matches(*side.selector, t.labels)) return false;
  if (side.not_selector && matches(*side.not_selector, t.labels)) return false;
  if (side.namespace_selector) return namespace_matches(*side.namespace_selector, t.labels);
  return rules_namespace.empty() || t.ns == rules_namespace;
}

bool selected_address(const Policies& p, const EntityRule& side, const std::string& rules_namespace, const Ip& ip) {
  std::list<std::vector<Prefix>> kept;
  if (!side.selector && !side.namespace_selector && !side.not_selector) return true;
  const auto all = things(p, kept);
  // With a positive selector the negative one narrows what is meant; alone it forbids every address of a match.
  if (side.selector || side.namespace_selector)
    return std::any_of(all.begin(), all.end(),
                       [&](const Thing& t) { return holds(*t.nets, ip) && meant(side, rules_namespace, t); });
  return !side.not_selector || std::none_of(all.begin(), all.end(), [&](const Thing& t) {
    return holds(*t.nets, ip) && matches(*side.not_selector, t.labels);
  });
}

/// Whether the address is one of a thing that is meant and calls this port so. Blocks serve no ports.
bool has_named_port(const Policies& p, const EntityRule& side, const std::string& rules_namespace, const Ip& ip,
                    const NamedPort& port) {
  std::list<std::vector<Prefix>> kept;
  const auto all = things(p, kept);
  return std::any_of(all.begin(), all.end(), [&](const Thing& t) {
    return meant(side, rules_namespace, t) && std::find(t.ports->begin(), t.ports->end(), port) != t.ports->end() &&
           std::find(t.nets->begin(), t.nets->end(), Prefix::host(ip)) != t.nets->end();
  });
}

bool side_matches(const Policies& p, const EntityRule& side, const std::string& rules_namespace, const Ip& ip,
                  std::uint8_t protocol, std::uint16_t port) {
  const auto in_ports = [&](const std::vector<PortRange>& ports, const std::vector<std::string>& names) {
    return std::any_of(ports.begin(), ports.end(), [&](const auto& r) { return r.first <= port && port <= r.last; }) ||
           std::any_of(names.begin(), names.end(), [&](const auto& name) {
             return has_named_port(p, side, rules_namespace, ip, {name, protocol, port});
           });
  };
  if (!side.nets.empty() && !holds(side.nets, ip)) return false;
  if (holds(side.not_nets, ip)) return false;
  if ((!side.ports.empty() || !side.named_ports.empty()) && !in_ports(side.ports, side.named_ports)) return false;
  if (in_ports(side.not_ports, side.not_named_ports)) return false;
  return selected_address(p, side, rules_namespace, ip);
}

bool icmp_matches(const Icmp& want, const Icmp& have) {
  return want.type == have.type && (!want.code || *want.code == have.code.value_or(0));
}

bool rule_matches(const Policies& p, const Rule& r, const std::string& rules_namespace, const Packet& packet) {
  const Family family = packet.src.family();
  if (r.ip_version && *r.ip_version != family) return false;
  if (r.protocol && *r.protocol != packet.protocol) return false;
  // ICMP is a protocol of IPv4 and ICMPv6 one of IPv6.
  if (r.protocol == 1 && family != Family::v4) return false;
  if (r.protocol == 58 && family != Family::v6) return false;
  if (r.not_protocol && *r.not_protocol == packet.protocol) return false;
  if (r.icmp && !icmp_matches(*r.icmp, packet.icmp)) return false;
  if (r.not_icmp && icmp_matches(*r.not_icmp, packet.icmp)) return false;
  return side_matches(p, r.source, rules_namespace, packet.src, packet.protocol, packet.src_port) &&
         side_matches(p, r.destination, rules_namespace, packet.dst, packet.protocol, packet.dst_port);
}

struct Decision {
  Action action = Action::pass;
  std::size_t rule = 0;
};

/// The first rule that matches and decides; nothing: none did.
std::optional<Decision> first_match(const Policies& p, const std::vector<Rule>& rules,
                                    const std::string& rules_namespace, const Packet& packet, std::string_view where,
                                    std::vector<std::string>& logged) {
  for (std::size_t i = 0; i < rules.size(); ++i) {
    if (!rule_matches(p, rules[i], rules_namespace, packet)) continue;
    if (rules[i].action != Action::log) return Decision{rules[i].action, i + 1};
    logged.push_back(fmt::format("{} rule {}", where, i + 1));
  }
  return {};
}

std::string title(const NetworkPolicy& policy) {
  return policy.global ? policy.meta.name : fmt::format("{}/{}", policy.meta.ns, policy.meta.name);
}

}  // namespace

Status Policies::update(std::string_view key, std::optional<std::string_view> value) {
  const auto rk = parse_resource_key(key);
  if (!rk) return {};
  const std::string k(key);
  if (rk->plural == "workloadendpoints" && !rk->ns.empty()) {
    endpoints.erase(k);
    if (!value) return {};
    auto e = parse_workload_endpoint(*value);
    if (!e) return tl::unexpected(e.error());
    if (e->ip_networks.empty()) return {};  // being deleted
    e->meta.ns = rk->ns;
    endpoints[k] = std::move(*e);
  } else if ((rk->plural == "networkpolicies" && !rk->ns.empty()) ||
             (rk->plural == "globalnetworkpolicies" && rk->ns.empty())) {
    policies.erase(k);
    if (!value) return {};
    auto policy = parse_network_policy(*value, rk->ns.empty());
    if (!policy) return tl::unexpected(policy.error());
    policy->meta.ns = rk->ns;
    policy->meta.name = rk->name;
    policies[k] = std::move(*policy);
  } else if (rk->plural == "hostendpoints" && rk->ns.empty()) {
    hosts.erase(k);
    if (!value) return {};
    auto h = parse_host_endpoint(*value);
    if (!h) return tl::unexpected(h.error());
    hosts[k] = std::move(*h);
  } else if (rk->plural == "tiers" && rk->ns.empty()) {
    tiers.erase(rk->name);
    if (!value) return {};
    auto tier = parse_tier(*value);
    if (!tier) return tl::unexpected(tier.error());
    tiers[rk->name] = *tier;
  } else if (rk->plural == "profiles" && rk->ns.empty()) {
    profiles.erase(rk->name);
    if (!value) return {};
    auto profile = parse_profile(*value);
    if (!profile) return tl::unexpected(profile.error());
    profiles[rk->name] = std::move(*profile);
  } else if ((rk->plural == "networksets" && !rk->ns.empty()) ||
             (rk->plural == "globalnetworksets" && rk->ns.empty())) {
    network_sets.erase(k);
    if (!value) return {};
    auto set = parse_network_set(*value);
    if (!set) return tl::unexpected(set.error());
    network_sets[k] = {rk->ns, std::move(*set)};
  }
  return {};
}

namespace {

enum class Stage : std::uint8_t { untracked, pre_dnat, normal, forwarded };

/// One endpoint, of whichever kind, and what it is asked. Host endpoints are asked in several stages, workload
/// endpoints in the normal one.
struct Asked {
  Labels labels;
  std::string ns;
  const std::vector<std::string>* profiles = nullptr;
};

bool is_asked(const NetworkPolicy& policy, Stage stage) {
  switch (stage) {
    case Stage::untracked:
      return policy.do_not_track && !policy.pre_dnat;
    case Stage::pre_dnat:
      return policy.pre_dnat && !policy.do_not_track;
    case Stage::normal:
      return !policy.do_not_track && !policy.pre_dnat;
    case Stage::forwarded:
      return !policy.do_not_track && !policy.pre_dnat && policy.apply_on_forward;
  }
  return false;
}

/// Nothing: no rule decided, in the stages where that is no refusal.
std::optional<Judgement> ask(const Policies& p, const Asked& endpoint, Stage stage, Direction direction,
                             const Packet& packet, std::vector<std::string>& logged) {
  Judgement j;
  const bool ingress = direction == Direction::ingress;
  const bool early = stage == Stage::untracked || stage == Stage::pre_dnat;
  const std::string_view way = ingress ? "ingress" : "egress";

  std::map<std::string, std::vector<const NetworkPolicy*>> by_tier;
  for (const auto& [key, policy] : p.policies) {
    if (!selects(policy, endpoint.ns, endpoint.labels) || !is_asked(policy, stage)) continue;
    if (!policy.fault.empty()) {
      if (early) continue;  // judge_host() has looked
      j.reason = fmt::format("policy {} cannot be enforced: {}", title(policy), policy.fault);
      return j;
    }
    if (ingress ? policy.ingress_type : policy.egress_type) by_tier[policy.tier].push_back(&policy);
  }

  // Known tiers before unknown ones, by order (none: last), then by name.
  std::vector<std::string> tiers;
  for (const auto& [name, policies] : by_tier) tiers.push_back(name);
  const auto tier_of = [&](const std::string& name) {
    const auto it = p.tiers.find(name);
    return it == p.tiers.end() ? nullptr : &it->second;
  };
  const auto rank = [&](const std::string& name) {
    const Tier* t = tier_of(name);
    const auto order = t ? t->order : std::nullopt;
    return std::tuple(!t, !order, order.value_or(0), name);
  };
  std::sort(tiers.begin(), tiers.end(), [&](const auto& a, const auto& b) { return rank(a) < rank(b); });

  for (const auto& tier : tiers) {
    auto& policies = by_tier.at(tier);
    std::sort(policies.begin(), policies.end(), [](const auto* a, const auto* b) {
      const auto key = [](const NetworkPolicy* x) {
        return std::tuple(!x->order, x->order.value_or(0), x->meta.name, x->meta.ns);
      };
      return key(a) < key(b);
    });
    bool passed = false;
    for (const auto* policy : policies) {
      const auto where = fmt::format("policy {} {}", title(*policy), way);
      const auto d = first_match(p, ingress ? policy->ingress : policy->egress, policy->meta.ns, packet, where, logged);
      if (!d) continue;
      if (d->action == Action::pass) {
        passed = true;
        break;
      }
      j.allowed = d->action == Action::allow;
      j.reason = fmt::format("{} rule {}", where, d->rule);
      return j;
    }
    const Tier* t = tier_of(tier);
    if (passed || early || (t && t->pass_at_the_end)) continue;
    j.reason = fmt::format("default deny of tier {}, {}", tier, way);
    return j;
  }

  if (early) return {};
  if (stage == Stage::forwarded) {
    j.allowed = true;
    j.reason = fmt::format("no policy for forwarded traffic refuses {}", way);
    return j;
  }
  for (const auto& name : *endpoint.profiles) {
    const auto it = p.profiles.find(name);
    if (it == p.profiles.end()) {
      j.reason = fmt::format("profile {} is missing", quoted(name));
      return j;
    }
    const auto where = fmt::format("profile {} {}", name, way);
    const auto d = first_match(p, ingress ? it->second.ingress : it->second.egress, "", packet, where, logged);
    if (!d || d->action == Action::pass) continue;  // Pass ends this profile alone
    j.allowed = d->action == Action::allow;
    j.reason = fmt::format("{} rule {}", where, d->rule);
    return j;
  }
  j.reason = fmt::format("no policy or profile allows {}", way);
  return j;
}

}  // namespace

Judgement judge(const Policies& p, const std::string& endpoint_key, Direction direction, const Packet& packet) {
  const auto at = p.endpoints.find(endpoint_key);
  if (at == p.endpoints.end()) return {.reason = "no such endpoint"};
  const auto& e = at->second;
  std::vector<std::string> logged;
  auto j = *ask(p, {labels_of(p, e), e.meta.ns, &e.profiles}, Stage::normal, direction, packet, logged);
  j.logged = std::move(logged);
  return j;
}

Judgement judge_host(const Policies& p, const std::string& key, HostTraffic traffic, Direction direction,
                     const Packet& packet) {
  const auto at = p.hosts.find(key);
  if (at == p.hosts.end()) return {.reason = "no such host endpoint"};
  const auto& h = at->second;
  const bool forwarded = traffic == HostTraffic::forwarded;
  const bool ingress = direction == Direction::ingress;
  const Asked endpoint{with_inherited(p, h.labels, "", h.profiles), "", &h.profiles};
  // One that cannot be enforced may have been the one that denies: what it is about is refused.
  for (const auto& [k, policy] : p.policies)
    if (!policy.fault.empty() && selects(policy, "", endpoint.labels) &&
        (!forwarded || policy.apply_on_forward || policy.do_not_track || policy.pre_dnat))
      return {.reason = fmt::format("policy {} cannot be enforced: {}", title(policy), policy.fault)};
  std::vector<Stage> stages;
  // A packet meets the untracked policies where it enters the host, be it from outside or from a process.
  if ((ingress || !forwarded) && h.interface_name != "*") stages.push_back(Stage::untracked);
  if (ingress) stages.push_back(Stage::pre_dnat);
  stages.push_back(forwarded ? Stage::forwarded : Stage::normal);
  std::vector<std::string> logged;
  for (const auto stage : stages)
    if (auto j = ask(p, endpoint, stage, direction, packet, logged)) {
      j->logged = std::move(logged);
      return *j;
    }
  return {};
}

Judgement evaluate(const Policies& p, const Packet& packet) {
  const auto owner = [&](const Ip& ip) {
    return std::find_if(p.endpoints.begin(), p.endpoints.end(),
                        [&](const auto& x) { return holds(x.second.ip_networks, ip); });
  };
  Judgement out{.allowed = true, .reason = "neither address is an endpoint's", .logged = {}};
  const auto src = owner(packet.src);
  const bool sent = src != p.endpoints.end();
  if (sent) {
    out = judge(p, src->first, Direction::egress, packet);
    if (!out.allowed) return out;
  }
  if (const auto dst = owner(packet.dst); dst != p.endpoints.end()) {
    auto in = judge(p, dst->first, Direction::ingress, packet);
    in.logged.insert(in.logged.begin(), out.logged.begin(), out.logged.end());
    if (in.allowed && sent) in.reason = fmt::format("{}; {}", out.reason, in.reason);
    return in;
  }
  return out;
}

}  // namespace calico::model
