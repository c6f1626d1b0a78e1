/// Compiler: the rules of a policy as chains.
#include <algorithm>

#include "core/model/compiler_impl.hpp"

namespace calico::model {

Selector Compiler::Impl::namespace_selector(const std::string& text) {
  const auto s = *Selector::parse(text, "pcns.");
  if (s.canonical() == "all()") return *Selector::parse(fmt::format("has({})", kLabelNamespace));
  if (s.canonical() == "global()") return *Selector::parse("global()");
  return s;
}

void Compiler::Impl::compile(Policy& p) {
  std::vector<Use> uses;
  ChainRules in, out;
  const bool usable = p.active && p.body.fault.empty();
  if (usable && p.body.ingress_type)
    for (const auto& r : p.body.ingress) compile_rule(p, r, in, uses);
  if (usable && p.body.egress_type)
    for (const auto& r : p.body.egress) compile_rule(p, r, out, uses);
  const bool in_touched = put_half(p.in, std::move(in));
  const bool out_touched = put_half(p.out, std::move(out));
  std::swap(p.uses, uses);
  if (in_touched || out_touched) touch_classes_of(p.key);
  for (const auto& u : uses) release(u);
}

bool Compiler::Impl::put_half(Half& h, ChainRules rules) {
  const bool passes = std::any_of(rules.begin(), rules.end(), [](const auto& r) { return r.verdict == Verdict::pass; });
  const bool has_chain = !rules.empty() && !passes;
  bool touched = std::exchange(h.has_chain, has_chain) != has_chain;
  ChainRules passing;
  std::swap(passes ? passing : h.passing, passes ? rules : passing);
  if (passes) {
    touched = touched || h.passing != passing;
    h.passing = std::move(passing);
  } else if (!passing.empty()) {
    touched = true;
  }
  if (has_chain)
    put_chain(h.chain, std::move(rules), h.title);
  else
    drop_chain(h.chain);
  return touched;
}

void Compiler::Impl::deactivate(Policy& p) {
  p.active = false;
  compile(p);
}

bool Compiler::Impl::needs_family(const EntityRule& e) {
  return !e.nets.empty() || !e.not_nets.empty() || e.selector || e.not_selector || e.namespace_selector ||
         !e.named_ports.empty() || !e.not_named_ports.empty();
}

namespace {

/// notICMP with a code is "another type" or "this type, another code": two rules. Empty: nothing can match.
std::vector<std::pair<std::optional<Icmp>, std::optional<Icmp>>> icmp_alternatives(const Rule& r) {
  const auto& want = r.icmp;
  const auto& no = r.not_icmp;
  if (!no || (want && want->type != no->type)) return {{want, std::nullopt}};
  if (!no->code) {
    if (want) return {};  // the type that is asked is the one that is excluded
    return {{std::nullopt, no}};
  }
  if (want && want->code) {
    if (*want->code == *no->code) return {};
    return {{want, std::nullopt}};
  }
  const Icmp type{no->type, {}};
  if (want) return {{want, no}};
  return {{std::nullopt, type}, {type, no}};
}

Verdict verdict_of(Action a, bool profile) {
  switch (a) {
    case Action::allow:
      return Verdict::accept;
    case Action::deny:
      return Verdict::drop;
    case Action::log:
      return Verdict::log;
    case Action::pass:
      return profile ? Verdict::return_ : Verdict::pass;
  }
  return Verdict::drop;
}

}  // namespace

void Compiler::Impl::compile_rule(Policy& p, const Rule& r, ChainRules& out, std::vector<Use>& uses) {
  std::vector<std::optional<Family>> families;
  if (r.ip_version)
    families = {r.ip_version};
  else if (needs_family(r.source) || needs_family(r.destination))
    families = {Family::v4, Family::v6};
  else if (r.protocol == 1)
    families = {Family::v4};
  else if (r.protocol == 58)
    families = {Family::v6};
  else
    families = {std::nullopt};
  for (const auto& family : families) {
    if (family == Family::v6 && r.protocol == 1) continue;  // can match nothing
    if (family == Family::v4 && r.protocol == 58) continue;
    MatchRule m;
    m.family = family;
    m.protocol = r.protocol;
    m.not_protocol = r.not_protocol;
    m.verdict = verdict_of(r.action, p.profile);
    if (m.verdict == Verdict::accept && p.body.do_not_track) m.verdict = Verdict::untrack;
    if (m.verdict == Verdict::accept && p.body.pre_dnat) m.verdict = Verdict::accept_early;
    const auto mark = uses.size();
    const auto sources = compile_side(p, r, r.source, family, uses);
    const auto destinations = sources.empty() ? sources : compile_side(p, r, r.destination, family, uses);
    const auto before = out.size();
    for (const auto& [icmp, not_icmp] : icmp_alternatives(r))
      for (const auto& src : sources)
        for (const auto& dst : destinations) {
          m.icmp = icmp;
          m.not_icmp = not_icmp;
          m.src = src;
          m.dst = dst;
          out.push_back(m);
        }
    if (out.size() == before)
      while (uses.size() > mark) release(std::exchange(uses.back(), {})), uses.pop_back();
  }
}

std::vector<MatchRule::Side> Compiler::Impl::compile_side(Policy& p, const Rule& r, const EntityRule& e,
                                                          std::optional<Family> family, std::vector<Use>& uses) {
  MatchRule::Side side;
  const auto of_family = [&](std::vector<Prefix> nets) {
    std::erase_if(nets, [&](const Prefix& n) { return n.family() != family; });
    return nets;
  };
  if (!e.nets.empty()) {
    const auto nets = of_family(e.nets);
    if (nets.empty()) return {};
    if (std::none_of(nets.begin(), nets.end(), [](const auto& n) { return n.len == 0; })) {
      if (nets.size() == 1)
        side.net = nets.front().masked();
      else
        side.in_sets.push_back(net_set(nets, uses));
    }
  }
  if (const auto nets = of_family(e.not_nets); !nets.empty()) {
    if (std::any_of(nets.begin(), nets.end(), [](const auto& n) { return n.len == 0; })) return {};
    side.not_in_sets.push_back(net_set(nets, uses));
  }
  std::optional<Selector> meant;
  if (e.selector || e.namespace_selector) {
    meant = e.selector ? *Selector::parse(*e.selector) : Selector();
    if (e.namespace_selector)
      meant = Selector::both(namespace_selector(*e.namespace_selector), *meant);
    else if (!p.body.global)
      meant = Selector::both(Selector::label_is(std::string(kLabelNamespace), p.body.meta.ns), *meant);
    if (e.not_selector) meant = Selector::both(*meant, negated(*e.not_selector));
  } else if (e.not_selector) {
    side.not_in_sets.push_back(selector_set(*Selector::parse(*e.not_selector), *family, uses));
  }
  // A name of a port is that of the endpoints meant, or of any.
  const auto named = [&](const std::string& name) {
    return selector_set(meant.value_or(Selector()), *family, uses, PortOfName{r.protocol.value_or(0), name});
  };
  if (!e.not_ports.empty()) side.not_port_set = port_set(disjoint_ports(e.not_ports), uses);
  for (const auto& name : e.not_named_ports) side.not_ip_port_sets.push_back(named(name));

  std::vector<MatchRule::Side> out;
  if (!e.ports.empty() || e.named_ports.empty()) {
    auto& by_number = out.emplace_back(side);
    if (meant) by_number.in_sets.push_back(selector_set(*meant, *family, uses));
    const auto ports = disjoint_ports(e.ports);
    if (ports.size() > 1)
      by_number.port_set = port_set(ports, uses);
    else if (ports.size() == 1 && ports.front() != PortRange{0, 65535})
      by_number.ports = ports.front();
  }
  for (const auto& name : e.named_ports) out.emplace_back(side).ip_port_set = named(name);
  return out;
}

Selector Compiler::Impl::negated(const std::string& text) { return *Selector::parse(fmt::format("!({})", text)); }

}  // namespace calico::model
