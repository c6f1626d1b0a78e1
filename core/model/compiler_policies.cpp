/// Compiler: policies as chains of rules, and the sets that these share.
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

Element host_element(const Ip& ip) { return {.ip = ip, .ip_end = ip}; }

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
    at = policy_ids.emplace(key, next_id++).first;
    auto& p = policies[at->second];
    p.id = at->second;
    p.key = key;
    p.title = rk.ns.empty() ? rk.name : fmt::format("{}/{}", rk.ns, rk.name);
    const auto in_chain = plain_name(p.title) ? p.title : short_hash(p.title);
    p.chain_in = (global ? "in/global/" : "in/") + in_chain;
    p.chain_out = (global ? "out/global/" : "out/") + in_chain;
    p.body = std::move(*parsed);
    p.body.meta.ns = rk.ns;
    p.body.meta.name = rk.name;
    p.selector = selector;
    selected.add_selector(p.id, std::move(selector));
  } else {
    auto& p = policies.at(at->second);
    const bool moved = p.body.order != parsed->order || p.body.fault != parsed->fault;
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

void Compiler::Impl::on_selected(Id policy, Id endpoint, bool matches) {
  auto& e = endpoints.at(endpoint);
  if (matches)
    e.policies.insert(policy);
  else
    e.policies.erase(policy);
  dirty_endpoints.insert(endpoint);
  if (policies.at(policy).active != matches) first_or_last.insert(policy);
}

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
  const bool had_in = std::exchange(p.has_in, !in.empty());
  const bool had_out = std::exchange(p.has_out, !out.empty());
  if (p.has_in)
    put_chain(p.chain_in, std::move(in));
  else
    drop_chain(p.chain_in);
  if (p.has_out)
    put_chain(p.chain_out, std::move(out));
  else
    drop_chain(p.chain_out);
  std::swap(p.uses, uses);
  for (const auto& u : uses) release(u);
  if (had_in != p.has_in || had_out != p.has_out)
    for (auto& [key, c] : classes)
      if (std::find(c.policies.begin(), c.policies.end(), p.key) != c.policies.end()) dirty_classes.insert(key);
}

void Compiler::Impl::deactivate(Policy& p) {
  p.active = false;
  compile(p);
}

void Compiler::Impl::compile_rule(Policy& p, const Rule& r, ChainRules& out, std::vector<Use>& uses) {
  if (r.action == Action::log) return;  // changes no verdict
  const auto& s = r.source;
  const auto& d = r.destination;
  const auto of_addresses = [](const EntityRule& e) {
    return !e.nets.empty() || !e.not_nets.empty() || e.selector || e.not_selector || e.namespace_selector;
  };
  std::vector<std::optional<Family>> families;
  if (r.ip_version)
    families = {r.ip_version};
  else if (of_addresses(s) || of_addresses(d))
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
    m.icmp = r.icmp;
    m.not_icmp = r.not_icmp;
    m.verdict = r.action == Action::allow ? Verdict::accept : Verdict::drop;  // nothing follows a Pass but the drop
    const auto mark = uses.size();
    if (compile_side(p, s, family, m.src, uses) && compile_side(p, d, family, m.dst, uses)) {
      out.push_back(std::move(m));
    } else {
      while (uses.size() > mark) release(std::exchange(uses.back(), {})), uses.pop_back();
    }
  }
}

bool Compiler::Impl::compile_side(Policy& p, const EntityRule& e, std::optional<Family> family, MatchRule::Side& out,
                                  std::vector<Use>& uses) {
  const auto of_family = [&](std::vector<Prefix> nets) {
    std::erase_if(nets, [&](const Prefix& n) { return n.family() != family; });
    return nets;
  };
  if (!e.nets.empty()) {
    const auto nets = of_family(e.nets);
    if (nets.empty()) return false;
    if (std::none_of(nets.begin(), nets.end(), [](const auto& n) { return n.len == 0; })) {
      if (nets.size() == 1)
        out.net = nets.front().masked();
      else
        out.in_sets.push_back(net_set(nets, uses));
    }
  }
  if (const auto nets = of_family(e.not_nets); !nets.empty()) {
    if (std::any_of(nets.begin(), nets.end(), [](const auto& n) { return n.len == 0; })) return false;
    out.not_in_sets.push_back(net_set(nets, uses));
  }
  if (e.selector || e.namespace_selector) {
    Selector s = e.selector ? *Selector::parse(*e.selector) : Selector();
    if (e.namespace_selector)
      s = Selector::both(namespace_selector(*e.namespace_selector), s);
    else if (!p.body.global)
      s = Selector::both(Selector::label_is(std::string(kLabelNamespace), p.body.meta.ns), s);
    if (e.not_selector) s = Selector::both(s, negated(*e.not_selector));
    out.in_sets.push_back(selector_set(s, *family, uses));
  } else if (e.not_selector) {
    out.not_in_sets.push_back(selector_set(*Selector::parse(*e.not_selector), *family, uses));
  }
  if (!e.ports.empty()) {
    const auto ports = disjoint_ports(e.ports);
    if (ports.size() > 1)
      out.port_set = port_set(ports, uses);
    else if (ports.front() != PortRange{0, 65535})
      out.ports = ports.front();
  }
  if (!e.not_ports.empty()) out.not_port_set = port_set(disjoint_ports(e.not_ports), uses);
  return true;
}

Selector Compiler::Impl::negated(const std::string& text) { return *Selector::parse(fmt::format("!({})", text)); }

// --- sets that policies share ---------------------------------------------------------------------------------------

std::string Compiler::Impl::short_hash(std::string_view text) {
  std::string out;
  const auto d = digest(text);
  for (std::size_t i = 0; i < 10; ++i) out += fmt::format("{:02x}", d[i]);
  return out;
}

std::string Compiler::Impl::net_set(const std::vector<Prefix>& nets, std::vector<Use>& uses) {
  const bool v4 = nets.front().family() == Family::v4;
  std::string text;
  const auto ranges = disjoint_ranges(nets);
  for (const auto& [first, last] : ranges) text += fmt::format("{}-{} ", first, last);
  const auto name = (v4 ? "nets4-" : "nets6-") + short_hash(text);
  if (shared[name]++ == 0) {
    make_set(name, v4 ? SetKind::net4 : SetKind::net6, "");
    for (const auto& [first, last] : ranges) add_element(name, {.ip = first, .ip_end = last});
  }
  uses.push_back({false, 0, name});
  return name;
}

std::string Compiler::Impl::port_set(const std::vector<PortRange>& ports, std::vector<Use>& uses) {
  std::string text;
  for (const auto& p : ports) text += fmt::format("{}-{} ", p.first, p.last);
  const auto name = "ports-" + short_hash(text);
  if (shared[name]++ == 0) {
    make_set(name, SetKind::ports, "");
    for (const auto& p : ports) add_element(name, {.port = p.first, .port_end = p.last});
  }
  uses.push_back({false, 0, name});
  return name;
}

std::string Compiler::Impl::selector_set(const Selector& selector, Family family, std::vector<Use>& uses) {
  const auto base = (family == Family::v4 ? "s4-" : "s6-") + short_hash(selector.canonical());
  auto [it, fresh] = selector_set_ids.try_emplace(base, next_id);
  if (fresh) {
    auto& s = selector_sets[next_id++];
    s.id = it->second;
    s.selector = selector;
    s.family = family;
    s.base = s.name = base;
    members.add_selector(s.id, selector);  // fills members
    settle(s);
  }
  auto& s = selector_sets.at(it->second);
  ++s.refs;
  uses.push_back({true, s.id, {}});
  return s.name;
}

void Compiler::Impl::release(const Use& u) {
  if (!u.of_selector) {
    if (--shared.at(u.name) > 0) return;
    shared.erase(u.name);
    drop_set(u.name);
    return;
  }
  auto& s = selector_sets.at(u.id);
  if (--s.refs > 0) return;
  s.live = false;
  drop_set(s.name);
  members.remove_selector(u.id);
  dirty_sets.erase(u.id);
  selector_set_ids.erase(s.base);
  selector_sets.erase(u.id);
}

void Compiler::Impl::on_member(Id set, Id endpoint, bool matches) {
  auto& s = selector_sets.at(set);
  for (const auto& n : endpoints.at(endpoint).nets) matches ? add_member(s, n) : drop_member(s, n);
}

void Compiler::Impl::add_member(SelectorSet& s, const Prefix& net) {
  if (net.family() != s.family || s.members[net]++ > 0) return;
  if (!net.is_host()) ++s.blocks;
  if (s.live && !s.with_blocks && net.is_host())
    add_element(s.name, host_element(net.addr));
  else if (s.live)
    dirty_sets.insert(s.id);
}

void Compiler::Impl::drop_member(SelectorSet& s, const Prefix& net) {
  auto it = s.members.find(net);
  if (it == s.members.end() || --it->second > 0) return;
  s.members.erase(it);
  if (!net.is_host()) --s.blocks;
  if (s.live && !s.with_blocks && net.is_host())
    drop_element(s.name, host_element(net.addr));
  else if (s.live)
    dirty_sets.insert(s.id);
}

void Compiler::Impl::settle(SelectorSet& s) {
  const bool v4 = s.family == Family::v4;
  const bool with_blocks = s.blocks > 0;
  if (!s.live || with_blocks != s.with_blocks) {
    if (s.live) {
      drop_set(s.name);
      for (auto& [id, p] : policies)
        if (std::any_of(p.uses.begin(), p.uses.end(), [&](const Use& u) { return u.of_selector && u.id == s.id; }))
          dirty_policies.insert(id);
    }
    s.with_blocks = with_blocks;
    s.name = with_blocks ? s.base + "-blocks" : s.base;
    make_set(s.name, with_blocks ? (v4 ? SetKind::net4 : SetKind::net6) : (v4 ? SetKind::ip4 : SetKind::ip6),
             s.selector.canonical());
    s.live = true;
  }
  std::set<Element> want;
  if (with_blocks) {
    std::vector<Prefix> nets;
    for (const auto& [n, count] : s.members) nets.push_back(n);
    for (const auto& [first, last] : disjoint_ranges(std::move(nets))) want.insert({.ip = first, .ip_end = last});
  } else {
    for (const auto& [n, count] : s.members) want.insert(host_element(n.addr));
  }
  std::vector<Element> gone;
  for (const auto& e : ruleset.sets.at(s.name).elements)
    if (!want.contains(e)) gone.push_back(e);
  for (const auto& e : gone) drop_element(s.name, e);
  for (const auto& e : want) add_element(s.name, e);
}

}  // namespace calico::model
