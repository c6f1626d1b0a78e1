/// Compiler: what the keys say, and the ruleset with its delta. The rest of Impl: see compiler_impl.hpp.
#include "core/model/compiler.hpp"

#include <openssl/sha.h>

#include <algorithm>

#include "core/model/compiler_impl.hpp"

namespace calico::model {

Compiler::Impl::Impl(CompilerOptions o)
    : options(std::move(o)),
      selected([this](auto policy, auto endpoint, bool m) { on_selected(policy, endpoint, m); }),
      members([this](auto set, auto endpoint, bool m) { on_member(set, endpoint, m); }) {
  make_set("src4", SetKind::if_mac_ip4, "sources of the interfaces");
  make_set("src4-blocks", SetKind::if_mac_net4, "allowed pairs that are blocks");
  make_set("src6", SetKind::if_mac_ip6, "sources of the interfaces");
  make_set("src6-blocks", SetKind::if_mac_net6, "allowed pairs that are blocks");
  make_set("mac", SetKind::if_mac, "for sources without an address yet, and link-local ones");
  make_set("arp-src", SetKind::if_mac_ip4, "sources of the interfaces", true);
  make_set("arp-src-blocks", SetKind::if_mac_net4, "allowed pairs that are blocks", true);
  make_set("from", SetKind::group_verdict, "class of the interface a packet came from");
  make_set("to", SetKind::group_verdict, "class of the interface a packet goes to");
  make_set("fip4", SetKind::ip4_to_ip4, "floating IPs");
  make_set("fip6", SetKind::ip6_to_ip6, "floating IPs");
  make_set("hairpin4", SetKind::ip4_twice_to_ip4, "who calls its own floating IP");
  make_set("hairpin6", SetKind::ip6_twice_to_ip6, "who calls its own floating IP");
  make_set("qos-in-packets", SetKind::if_packets, "packets to the interface");
  make_set("qos-in-connections", SetKind::if_connections, "connections to the interface");
  make_set("qos-out-packets", SetKind::if_packets, "packets from the interface");
  make_set("qos-out-bytes", SetKind::if_bytes, "bytes from the interface");
  make_set("qos-out-peak", SetKind::if_bytes, "bytes from the interface, in a burst");
  make_set("qos-out-connections", SetKind::if_connections, "connections from the interface");
  for (const auto* way : {"raw-in", "raw-out", "pre-in", "in", "out", "fwd-in", "fwd-out"}) {
    make_set(fmt::format("hosts-{}", way), SetKind::if_verdict, "host endpoints, by interface");
    put_chain(fmt::format("any-{}", way), {});
  }
  put_chain("hosts-pass", ChainRules(1, MatchRule{.verdict = Verdict::accept}));
  make_set("protected4", SetKind::ip4_port, "control ports of every node");
  make_set("protected6", SetKind::ip6_port, "control ports of every node");
}

RulesetDelta Compiler::Impl::flush() {
  // Sets may change kind and make policies dirty; policies decide whether classes change; plans move between classes.
  for (const auto id : std::exchange(dirty_sets, {}))
    if (auto it = selector_sets.find(id); it != selector_sets.end()) settle(it->second);
  for (const auto id : std::exchange(first_or_last, {}))
    if (auto it = policies.find(id); it != policies.end() && it->second.active != wanted(it->second))
      dirty_policies.insert(id);
  for (const auto id : std::exchange(dirty_policies, {})) {
    auto it = policies.find(id);
    if (it == policies.end()) continue;
    it->second.active = wanted(it->second);
    compile(it->second);
  }
  for (const auto& [id, key] : local_host_keys) dirty_hosts = dirty_hosts || dirty_endpoints.contains(id);
  // A plan can take a floating IP from another, which is then planned again.
  while (!dirty_endpoints.empty())
    for (const auto id : std::exchange(dirty_endpoints, {}))
      if (auto it = endpoints.find(id); it != endpoints.end() && it->second.local) plan(it->second);
  for (const auto& key : std::exchange(dirty_classes, {})) settle_class(key);
  settle_hosts();
  auto d = std::exchange(delta, {});
  for (const auto& name : d.sets_gone) d.elements.erase(name);
  std::erase_if(d.elements, [](const auto& x) { return x.second.added.empty() && x.second.removed.empty(); });
  return d;
}

// --- the ruleset and its delta --------------------------------------------------------------------------------------

std::array<unsigned char, 32> Compiler::Impl::digest(std::string_view text) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> d{};
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), d.data());
  return d;
}

void Compiler::Impl::make_set(const std::string& name, SetKind kind, std::string about, bool arp) {
  ruleset.sets[name] = SetContent{kind, arp, std::move(about), {}};
  // Gone and made again between two flushes: the kernel's set stays, its elements differ.
  if (!delta.sets_gone.erase(name)) delta.sets_made.insert(name);
}

void Compiler::Impl::drop_set(const std::string& name) {
  auto it = ruleset.sets.find(name);
  if (it == ruleset.sets.end()) return;
  const auto elements = std::move(it->second.elements);
  ruleset.sets.erase(it);
  if (delta.sets_made.erase(name)) {
    delta.elements.erase(name);
    return;
  }
  delta.sets_gone.insert(name);
  auto& d = delta.elements[name];
  for (const auto& e : elements)
    if (!d.added.erase(e)) d.removed.insert(e);
}

void Compiler::Impl::add_element(const std::string& set, const Element& e) {
  if (!ruleset.sets.at(set).elements.insert(e).second) return;
  auto& d = delta.elements[set];
  if (!d.removed.erase(e)) d.added.insert(e);
}

void Compiler::Impl::drop_element(const std::string& set, const Element& e) {
  if (!ruleset.sets.at(set).elements.erase(e)) return;
  auto& d = delta.elements[set];
  if (!d.added.erase(e)) d.removed.insert(e);
}

void Compiler::Impl::put_chain(const std::string& name, ChainRules rules, const std::string& title) {
  if (!title.empty()) ruleset.titles[name] = title;
  auto [it, fresh] = ruleset.chains.try_emplace(name);
  if (!fresh && it->second == rules) return;
  it->second = std::move(rules);
  delta.chains.insert(name);
}

void Compiler::Impl::drop_chain(const std::string& name) {
  if (!ruleset.chains.erase(name)) return;
  ruleset.titles.erase(name);
  delta.chains.insert(name);
}

// --- endpoints ------------------------------------------------------------------------------------------------------

void Compiler::Impl::update_endpoint(const ResourceKey& rk, const std::string& key,
                                     std::optional<std::string_view> value) {
  faults.erase(key);
  const auto name = parse_wep_name(rk.name);
  if (!name) {
    if (value) faults[key] = name.error().what;
    return;
  }
  if (!value) return remove_endpoint(key);
  auto wep = parse_workload_endpoint(*value);
  if (!wep) faults[key] = wep.error().what;
  if (wep && wep->ip_networks.empty()) return remove_endpoint(key);  // being deleted

  const auto [it, fresh] = endpoint_ids.try_emplace(key, next_id);
  const Id id = it->second;
  const bool local = name->host == options.host && rk.ns == options.ns;
  if (fresh) {
    ++next_id;
    if (local) {
      auto& e = endpoints[id];
      e.id = id;
      e.key = key;
      e.ns = rk.ns;
      e.name = *name;
      e.local = true;
      locals.insert(id);
    }
  }

  // Members first change under the old labels' matches, then the labels move.
  set_member(id, wep ? Member{wep->ip_networks, wep->ports} : Member{});
  Labels labels = wep ? wep->meta.labels : Labels{};
  // The namespace is the key's, whatever the labels say: policies of one namespace never reach into another.
  labels[std::string(kLabelNamespace)] = rk.ns;
  set_labels(id, std::move(labels), wep ? wep->profiles : std::vector<std::string>{});
  if (!local) return;
  Endpoint& e = endpoints.at(id);
  e.fault = wep ? "" : wep.error().what;
  e.wep = wep ? std::move(*wep) : WorkloadEndpoint{};
  want_nats(e, e.wep);
  claim_interface(e, e.fault.empty() ? e.wep.interface_name : interface_of_port(e.name.endpoint));
  dirty_endpoints.insert(e.id);
}

void Compiler::Impl::remove_endpoint(const std::string& key) {
  auto it = endpoint_ids.find(key);
  if (it == endpoint_ids.end()) return;
  const auto id = it->second;
  forget_item(id);
  if (const auto at = endpoints.find(id); at != endpoints.end()) {
    Endpoint& e = at->second;
    claim_interface(e, "");
    want_nats(e, {});
    put_plan(e, std::nullopt);
    leave_class(e);
    dirty_endpoints.erase(id);
    locals.erase(id);
    endpoints.erase(at);
  }
  endpoint_ids.erase(it);
}

void Compiler::Impl::set_member(Id id, Member m) {
  auto& have = member_of[id];
  if (have == m) return;
  for (const auto sid : members.selectors_of(id)) {
    auto& s = selector_sets.at(sid);
    contribute(s, m, true);
    contribute(s, have, false);
  }
  have = std::move(m);
}

void Compiler::Impl::forget_item(Id id) {
  set_member(id, {});
  disinherit(id);
  members.remove_item(id);
  if (locals.contains(id)) selected.remove_item(id);
  member_of.erase(id);
}

void Compiler::Impl::set_labels(Id id, Labels own, std::vector<std::string> inherited_from) {
  // What stands for namespaces and service accounts comes from their profiles only.
  std::erase_if(own, [](const auto& l) { return l.first.starts_with("pcns.") || l.first.starts_with("pcsa."); });
  if (const auto it = heirs.find(id); it != heirs.end() && it->second.profiles != inherited_from) disinherit(id);
  if (inherited_from.empty()) return file(id, std::move(own));
  const auto [it, fresh] = heirs.try_emplace(id);
  it->second = {std::move(own), std::move(inherited_from)};
  if (fresh)
    for (const auto& name : it->second.profiles) {
      auto& p = profiles[name];
      if (!p.heirs.insert(id).second) continue;  // named twice
      if (locals.contains(id) && p.local++ == 0 && p.policy != 0) first_or_last.insert(p.policy);
    }
  file(id, inherited(it->second));
}

void Compiler::Impl::disinherit(Id id) {
  const auto it = heirs.find(id);
  if (it == heirs.end()) return;
  for (const auto& name : it->second.profiles) {
    const auto at = profiles.find(name);
    if (at == profiles.end()) continue;
    auto& p = at->second;
    if (!p.heirs.erase(id)) continue;
    if (locals.contains(id) && --p.local == 0 && p.policy != 0) first_or_last.insert(p.policy);
    if (!p.present && p.heirs.empty()) profiles.erase(at);
  }
  heirs.erase(it);
}

/// The item's own labels win, then those of the profile named first.
Labels Compiler::Impl::inherited(const Heir& heir) const {
  Labels labels = heir.own;
  for (const auto& name : heir.profiles)
    if (const auto it = profiles.find(name); it != profiles.end())
      for (const auto& [label, value] : it->second.labels) labels.try_emplace(label, value);
  return labels;
}

void Compiler::Impl::file(Id id, Labels labels) {
  if (locals.contains(id)) selected.set_item(id, labels);
  members.set_item(id, std::move(labels));
}

void Compiler::Impl::claim_interface(Endpoint& e, const std::string& name) {
  if (e.interface_name == name) return;
  const auto mine = claim_of(e);
  if (!e.interface_name.empty()) {
    auto at = claims.find(e.interface_name);
    at->second.erase(mine);
    for (const auto& c : at->second) dirty_endpoints.insert(c.id);
    if (at->second.empty()) claims.erase(at);
  }
  e.interface_name = name;
  if (name.empty()) return;
  auto& all = claims[name];
  all.insert(mine);
  for (const auto& c : all) dirty_endpoints.insert(c.id);
}

// --- network sets ---------------------------------------------------------------------------------------------------

void Compiler::Impl::update_network_set(const ResourceKey& rk, const std::string& key,
                                        std::optional<std::string_view> value) {
  faults.erase(key);
  auto it = network_set_ids.find(key);
  if (!value) {
    if (it == network_set_ids.end()) return;
    forget_item(it->second);
    network_set_ids.erase(it);
    return;
  }
  auto set = parse_network_set(*value);
  if (!set) {
    faults[key] = set.error().what;  // what it was stays: without it a rule that denies would open
    return;
  }
  if (it == network_set_ids.end()) it = network_set_ids.emplace(key, next_id++).first;
  set_member(it->second, {set->nets, {}});
  auto labels = std::move(set->labels);
  labels.erase(std::string(kLabelNamespace));
  if (rk.ns.empty()) return set_labels(it->second, std::move(labels), {});
  labels[std::string(kLabelNamespace)] = rk.ns;
  set_labels(it->second, std::move(labels), {"kns." + rk.ns});
}

// --- nodes ----------------------------------------------------------------------------------------------------------

void Compiler::Impl::update_node(const std::string& key, std::optional<std::string_view> value) {
  faults.erase(key);
  std::vector<Ip> addresses;
  if (value) {
    auto node = parse_node(*value);
    if (!node) {
      faults[key] = node.error().what;  // what was known of it stays protected
      return;
    }
    addresses = node->all_addresses();
  }
  set_addresses(key, std::move(addresses));
}

void Compiler::Impl::set_addresses(const std::string& owner, std::vector<Ip> addresses) {
  std::erase_if(addresses, [](const Ip& ip) {
    return ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_link_local();
  });
  std::sort(addresses.begin(), addresses.end());
  addresses.erase(std::unique(addresses.begin(), addresses.end()), addresses.end());
  auto& have = node_addresses[owner];
  for (const auto& ip : addresses)
    if (guarded[ip]++ == 0) guard(ip, true);
  for (const auto& ip : have)
    if (--guarded.at(ip) == 0) {
      guarded.erase(ip);
      guard(ip, false);
    }
  have = std::move(addresses);
  if (have.empty()) node_addresses.erase(owner);
}

void Compiler::Impl::guard(const Ip& ip, bool on) {
  if (options.protect_nodes)
    for (const auto port : options.protected_ports) {
      const std::string set = ip.is_v4() ? "protected4" : "protected6";
      const Element e{.ip = ip, .ip_end = ip, .port = port, .port_end = port};
      on ? add_element(set, e) : drop_element(set, e);
    }
  for (const auto id : locals)
    for (const auto& n : member_of.at(id).nets)
      if (n.contains(ip)) dirty_endpoints.insert(id);
  review_nat(ip);
}

bool Compiler::Impl::holds_guarded(const Prefix& net) const {
  const auto it = guarded.lower_bound(net.masked().addr);
  return it != guarded.end() && net.contains(it->first);
}

// --- Compiler -------------------------------------------------------------------------------------------------------

Compiler::Compiler(CompilerOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Compiler::~Compiler() = default;
Compiler::Compiler(Compiler&&) noexcept = default;
Compiler& Compiler::operator=(Compiler&&) noexcept = default;

void Compiler::update(std::string_view key, std::optional<std::string_view> value) {
  const auto rk = parse_resource_key(key);
  if (!rk) return;
  const std::string k(key);
  if (rk->plural == "workloadendpoints" && !rk->ns.empty())
    impl_->update_endpoint(*rk, k, value);
  else if (rk->plural == "networkpolicies" && !rk->ns.empty())
    impl_->update_policy(*rk, k, value, false);
  else if (rk->plural == "globalnetworkpolicies" && rk->ns.empty())
    impl_->update_policy(*rk, k, value, true);
  else if ((rk->plural == "networksets" && !rk->ns.empty()) || (rk->plural == "globalnetworksets" && rk->ns.empty()))
    impl_->update_network_set(*rk, k, value);
  else if (rk->plural == "tiers" && rk->ns.empty())
    impl_->update_tier(rk->name, k, value);
  else if (rk->plural == "profiles" && rk->ns.empty())
    impl_->update_profile(rk->name, k, value);
  else if (rk->plural == "hostendpoints" && rk->ns.empty())
    impl_->update_host(rk->name, k, value);
  else if (rk->plural == "nodes" && rk->ns.empty())
    impl_->update_node(k, value);
}

void Compiler::set_host_interfaces(std::vector<HostInterface> interfaces) {
  std::sort(interfaces.begin(), interfaces.end());
  if (impl_->host_interfaces == interfaces) return;
  impl_->host_interfaces = std::move(interfaces);
  impl_->dirty_hosts = true;
}

void Compiler::set_host_addresses(const std::vector<Ip>& addresses) { impl_->set_addresses("", addresses); }

void Compiler::set_protection(bool protect_nodes, std::vector<std::uint16_t> protected_ports) {
  auto& o = impl_->options;
  if (o.protect_nodes == protect_nodes && o.protected_ports == protected_ports) return;
  for (const auto& [ip, count] : impl_->guarded) impl_->guard(ip, false);
  o.protect_nodes = protect_nodes;
  o.protected_ports = std::move(protected_ports);
  for (const auto& [ip, count] : impl_->guarded) impl_->guard(ip, true);
}

RulesetDelta Compiler::flush() { return impl_->flush(); }
const Ruleset& Compiler::ruleset() const { return impl_->ruleset; }
const std::map<std::string, std::string>& Compiler::faults() const { return impl_->faults; }

Compiler::Counts Compiler::counts() const {
  Counts c;
  c.endpoints = impl_->endpoint_ids.size();
  c.local_endpoints = impl_->endpoints.size();
  for (const auto& [id, p] : impl_->policies) {
    c.policies += !p.profile;
    c.active_policies += p.active && !p.profile;
  }
  c.classes = impl_->classes.size();
  c.selector_sets = impl_->selector_sets.size();
  c.nodes = impl_->node_addresses.size() - impl_->node_addresses.count("");
  c.tiers = impl_->tiers.size();
  for (const auto& [name, p] : impl_->profiles) c.profiles += p.present;
  c.network_sets = impl_->network_set_ids.size();
  c.local_host_endpoints = impl_->local_host_keys.size();
  return c;
}

}  // namespace calico::model
