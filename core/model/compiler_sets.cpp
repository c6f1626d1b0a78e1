/// Compiler: the sets that rules of policies share: networks, ports, and the addresses behind a selector.
#include <algorithm>

#include "core/model/compiler_impl.hpp"

namespace calico::model {
namespace {

Element host_element(const Ip& ip) { return {.ip = ip, .ip_end = ip}; }

}  // namespace

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

std::string Compiler::Impl::selector_set(const Selector& selector, Family family, std::vector<Use>& uses,
                                         std::optional<PortOfName> port) {
  const bool v4 = family == Family::v4;
  const auto base = port ? (v4 ? "p4-" : "p6-") +
                               short_hash(fmt::format("{} {} {}", port->protocol, port->name, selector.canonical()))
                         : (v4 ? "s4-" : "s6-") + short_hash(selector.canonical());
  auto [it, fresh] = selector_set_ids.try_emplace(base, next_id);
  if (fresh) {
    auto& s = selector_sets[next_id++];
    s.id = it->second;
    s.selector = selector;
    s.family = family;
    s.port = std::move(port);
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

void Compiler::Impl::on_member(Id set, Id item, bool matches) {
  contribute(selector_sets.at(set), member_of.at(item), matches);
}

void Compiler::Impl::contribute(SelectorSet& s, const Member& m, bool add) {
  if (!s.port) {
    for (const auto& n : m.nets) add ? add_member(s, n) : drop_member(s, n);
    return;
  }
  for (const auto& port : m.ports) {
    if (port.name != s.port->name || port.protocol != s.port->protocol) continue;
    // A block is a pair the endpoint may speak for, no address that serves a port.
    for (const auto& n : m.nets) {
      if (n.family() != s.family || !n.is_host()) continue;
      const Element e{.ip = n.addr, .ip_end = n.addr, .port = port.port, .port_end = port.port};
      if (add) {
        if (s.port_members[e]++ == 0 && s.live) add_element(s.name, e);
      } else if (auto it = s.port_members.find(e); it != s.port_members.end() && --it->second == 0) {
        s.port_members.erase(it);
        if (s.live) drop_element(s.name, e);
      }
    }
  }
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
  if (s.port) {  // its elements follow at once
    if (std::exchange(s.live, true)) return;
    make_set(s.name, v4 ? SetKind::ip4_port : SetKind::ip6_port,
             fmt::format("port {} of {}", s.port->name, s.selector.canonical()));
    for (const auto& [e, count] : s.port_members) add_element(s.name, e);
    return;
  }
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
