/// Compiler: what each local endpoint gets, and the classes of endpoints that are asked the same policies.
#include <algorithm>
#include <cstring>

#include "core/model/compiler_impl.hpp"

namespace calico::model {
namespace {

/// The class's chains of a direction: "in-<group>", what follows a Pass "in-<group>-2", and so on.
std::string chain_of(std::uint32_t group, bool ingress, int number) {
  const auto first = fmt::format("{}-{}", ingress ? "in" : "out", group);
  return number == 1 ? first : fmt::format("{}-{}", first, number);
}

}  // namespace

// --- plans ----------------------------------------------------------------------------------------------------------

void Compiler::Impl::plan(Endpoint& e) {
  EndpointPlan p;
  p.key = e.key;
  p.ns = e.ns;
  p.name = e.name;
  p.interface_name = e.interface_name;
  const bool ours = is_interface_name(e.interface_name) &&
                    std::any_of(options.interface_prefixes.begin(), options.interface_prefixes.end(),
                                [&](const auto& x) { return !x.empty() && e.interface_name.starts_with(x); });
  const auto claimed = claims.find(e.interface_name);
  const auto first = claimed != claims.end() ? *claimed->second.begin() : claim_of(e);
  if (!ours) {
    p.left_alone = true;
    p.interface_name = is_interface_name(e.interface_name) ? e.interface_name : "?";
    p.error = fmt::format("interface {} is none of the configured prefixes; left alone", p.interface_name);
  } else if (first.id != e.id) {
    p.left_alone = true;
    p.error =
        fmt::format("interface {} belongs to endpoint {} of {}", e.interface_name, first.endpoint, first.workload);
  } else if (!e.fault.empty()) {
    p.error = e.fault;
  } else if (!e.wep.mac) {
    p.error = "spec.mac: missing, so that its packets cannot be told from spoofed ones";
  } else {
    p.mac = e.wep.mac;
    p.gateway4 = e.wep.ipv4_gateway;
    p.gateway6 = e.wep.ipv6_gateway;
    plan_nets(e, p);
    plan_qos(e, p);
    for (const auto& name : e.wep.profiles)
      if (const auto it = profiles.find(name); it == profiles.end() || !it->second.present)
        p.notes.push_back(fmt::format("profile {} is missing: what reaches it is refused", quoted(name)));
  }
  plan_nats(e, p);
  Questions questions;
  if (!p.left_alone) {
    questions = questions_of(e.policies, e.wep.profiles, Stage::normal);
    for (const auto& tier : questions.tiers)
      for (const auto& key : tier.policies) {
        const auto& x = policies.at(policy_ids.at(key));
        p.policies.push_back(x.title);
        if (!x.body.fault.empty() && p.error.empty()) p.error = fmt::format("policy {}: {}", x.title, x.body.fault);
      }
    if (questions.tiers.size() > kMaxTiers && p.error.empty())
      p.error = fmt::format("{} tiers select it: at most {}", questions.tiers.size(), kMaxTiers);
  }
  const auto class_key = p.error.empty() ? questions.key() : "";
  enter_class(e, class_key, std::move(questions));
  p.group = class_key.empty() ? kGroupClosed : classes.at(class_key).group;
  put_plan(e, std::move(p));
}

void Compiler::Impl::plan_nets(const Endpoint& e, EndpointPlan& p) {
  for (const auto& n : e.wep.ip_networks) {
    const Prefix net = n.masked();
    const auto out = [&](std::string_view why) { p.notes.push_back(fmt::format("{} left out: {}", net, why)); };
    if (net.len == 0)
      out("every address cannot be one endpoint's");
    else if (net.addr.is_unspecified() || net.addr.is_loopback() || net.addr.is_multicast() || net.addr.is_link_local())
      out("not an address for an endpoint");
    else if (holds_guarded(net))
      out("an address of a node");
    else if (std::find(p.nets.begin(), p.nets.end(), net) == p.nets.end())
      p.nets.push_back(net);
  }
}

std::vector<Compiler::Impl::SetElement> Compiler::Impl::sources(const EndpointPlan& p) {
  std::vector<SetElement> out;
  if (p.left_alone || !p.mac) return out;
  const auto put = [&](std::string set, const Ip& first, const Ip& last) {
    out.push_back({std::move(set), {.interface_name = p.interface_name, .mac = *p.mac, .ip = first, .ip_end = last}});
  };
  out.push_back({"mac", {.interface_name = p.interface_name, .mac = *p.mac}});
  std::vector<Prefix> blocks;
  for (const auto& n : p.nets) {
    const bool v4 = n.family() == Family::v4;
    if (n.is_host()) {
      put(v4 ? "src4" : "src6", n.addr, n.addr);
      if (v4) put("arp-src", n.addr, n.addr);
    } else {
      blocks.push_back(n);
    }
  }
  for (const auto family : {Family::v4, Family::v6}) {
    std::vector<Prefix> mine;
    for (const auto& b : blocks)
      if (b.family() == family) mine.push_back(b);
    for (const auto& [first, last] : disjoint_ranges(mine)) {
      put(family == Family::v4 ? "src4-blocks" : "src6-blocks", first, last);
      if (family == Family::v4) put("arp-src-blocks", first, last);
    }
  }
  add_nats_and_limits(p, out);
  return out;
}

void Compiler::Impl::put_plan(Endpoint& e, std::optional<EndpointPlan> p) {
  auto it = ruleset.endpoints.find(e.key);
  const bool had = it != ruleset.endpoints.end();
  if (had && p && it->second == *p) return;
  std::vector<SetElement> old_sources = had ? sources(it->second) : std::vector<SetElement>{};
  std::vector<SetElement> new_sources = p ? sources(*p) : std::vector<SetElement>{};
  // Two endpoints may want the same element while an interface passes from one to the other.
  for (const auto& x : new_sources)
    if (source_refs[x]++ == 0) add_element(x.first, x.second);
  for (const auto& x : old_sources)
    if (auto at = source_refs.find(x); --at->second == 0) source_refs.erase(at), drop_element(x.first, x.second);
  if (p) count_hairpins(p->nats, 1);
  if (had) count_hairpins(it->second.nats, -1);
  if (p)
    ruleset.endpoints[e.key] = std::move(*p);
  else if (had)
    ruleset.endpoints.erase(it);
  if (p || had) delta.endpoints.insert(e.key);
}

// --- classes --------------------------------------------------------------------------------------------------------

std::uint32_t Compiler::Impl::group_of(std::string_view class_key) {
  const auto d = digest(class_key);
  std::uint32_t v = 0;
  std::memcpy(&v, d.data(), sizeof v);
  return kGroupClosed + 1 + v % (kGroupSpan - 1);
}

std::string Compiler::Impl::Questions::key() const {
  std::string out;
  for (const auto& t : tiers) {
    // The usual cloud has this tier only; its classes are then called by their policies alone.
    if (tiers.size() > 1 || t.name != "default" || t.pass_at_the_end)
      out += fmt::format("tier {}{}\n", t.name, t.pass_at_the_end ? " pass" : "");
    for (const auto& p : t.policies) out += p + "\n";
  }
  for (const auto& p : profiles) out += fmt::format("profile {}\n", p);
  return out;
}

std::vector<const Compiler::Impl::Policy*> Compiler::Impl::ranked(const std::set<Id>& of) const {
  std::vector<const Policy*> out;
  for (const auto id : of) out.push_back(&policies.at(id));
  std::sort(out.begin(), out.end(), [&](const auto* a, const auto* b) {
    if (a->body.tier != b->body.tier) return tier_rank(a->body.tier) < tier_rank(b->body.tier);
    return a->rank() < b->rank();
  });
  return out;
}

Compiler::Impl::Questions Compiler::Impl::questions_of(const std::set<Id>& of, const std::vector<std::string>& named,
                                                       Stage stage) const {
  const bool early = stage == Stage::untracked || stage == Stage::pre_dnat;
  Questions q;
  for (const auto* p : ranked(of)) {
    if (p->body.do_not_track != (stage == Stage::untracked) || p->body.pre_dnat != (stage == Stage::pre_dnat)) continue;
    if (stage == Stage::forwarded && !p->body.apply_on_forward) continue;
    if (q.tiers.empty() || q.tiers.back().name != p->body.tier) {
      const auto t = tiers.find(p->body.tier);
      q.tiers.push_back({p->body.tier, early || (t != tiers.end() && t->second.pass_at_the_end), {}});
    }
    q.tiers.back().policies.push_back(p->key);
  }
  q.profiles = named;
  return q;
}

void Compiler::Impl::enter_class(Endpoint& e, const std::string& key, Questions questions) {
  if (e.class_key == key) return;
  leave_class(e);
  e.class_key = key;
  if (key.empty()) return;
  auto [it, fresh] = classes.try_emplace(key);
  Class& c = it->second;
  ++c.refs;
  if (!fresh) return;
  c.questions = std::move(questions);
  c.group = group_of(key);
  while (!groups.insert(c.group).second)
    c.group = c.group + 1 < kGroupClosed + kGroupSpan ? c.group + 1 : kGroupClosed + 1;
  dirty_classes.insert(key);
}

void Compiler::Impl::leave_class(Endpoint& e) {
  if (e.class_key.empty()) return;
  auto it = classes.find(std::exchange(e.class_key, ""));
  if (it == classes.end() || --it->second.refs > 0) return;
  // Its chains and map elements go at the flush, unless somebody enters before.
  dirty_classes.insert(it->first);
}

void Compiler::Impl::settle_class(const std::string& key) {
  auto it = classes.find(key);
  if (it == classes.end()) return;
  Class& c = it->second;
  const Element to{.group = c.group, .chain = chain_of(c.group, true, 1)};
  const Element from{.group = c.group, .chain = chain_of(c.group, false, 1)};
  const bool gone = c.refs == 0;
  if (gone) {
    drop_element("to", to);
    drop_element("from", from);
  }
  for (const bool ingress : {true, false}) {
    int& written = ingress ? c.chains_in : c.chains_out;
    const int had = std::exchange(written, gone ? 0 : put_class_chains(c, ingress));
    for (int n = written + 1; n <= had; ++n) drop_chain(chain_of(c.group, ingress, n));
  }
  if (gone) {
    groups.erase(c.group);
    classes.erase(it);
    return;
  }
  add_element("to", to);
  add_element("from", from);
}

int Compiler::Impl::put_class_chains(const Class& c, bool ingress) {
  return put_questions(c.questions, ingress, true, [&](int number) { return chain_of(c.group, ingress, number); });
}

int Compiler::Impl::put_questions(const Questions& q, bool ingress, bool profiles_decide,
                                  const std::function<std::string(int)>& name_of, ChainRules lead) {
  ChainRules rules = std::move(lead);
  int number = 1;
  bool asked = profiles_decide;
  const auto end_with = [&](Verdict v, std::string target = {}) {
    MatchRule m;
    m.verdict = v;
    m.target = std::move(target);
    rules.push_back(std::move(m));
  };
  const auto ask = [&](const Half& h, const std::string& next) {
    if (h.has_chain) end_with(Verdict::jump, h.chain);
    for (auto r : h.passing) {
      if (r.verdict == Verdict::pass) {
        r.verdict = Verdict::go;
        r.target = next;
      }
      rules.push_back(std::move(r));
    }
  };
  const auto put = [&] { put_chain(name_of(number), std::exchange(rules, {})); };
  for (const auto& tier : q.tiers) {
    bool decides = false;
    bool passes = false;
    const auto next = name_of(number + 1);
    for (const auto& key : tier.policies) {
      const auto at = policy_ids.find(key);
      if (at == policy_ids.end()) continue;
      const Policy& p = policies.at(at->second);
      if (!(ingress ? p.body.ingress_type : p.body.egress_type)) continue;
      decides = true;
      const Half& h = ingress ? p.in : p.out;
      passes = passes || !h.passing.empty();
      ask(h, next);
    }
    if (!decides) continue;  // a tier without a policy of this direction is no tier
    asked = true;
    if (passes) {
      tier.pass_at_the_end ? end_with(Verdict::go, next) : end_with(Verdict::drop);
      put();
      ++number;
    } else if (!tier.pass_at_the_end) {
      end_with(Verdict::drop);
      put();
      return number;
    }
  }
  if (!profiles_decide) {
    if (!asked) return 0;
    end_with(Verdict::accept);
    put();
    return number;
  }
  for (const auto& name : q.profiles) {
    const auto it = profiles.find(name);
    if (it == profiles.end() || !it->second.present) break;  // refuses all
    const Policy& p = policies.at(it->second.policy);
    ask(ingress ? p.in : p.out, "");
  }
  end_with(Verdict::drop);
  put();
  return number;
}

}  // namespace calico::model
