#include "modules/felix/firewall.hpp"

#include <algorithm>
#include <utility>

#include "modules/felix/hosts.hpp"

namespace calico::felix {

bool Firewall::same_shape(const nft::Set& a, const nft::Set& b) {
  return a.key == b.key && a.data == b.data && a.interval == b.interval && a.dynamic == b.dynamic;
}

Firewall::Firewall(nft::Connection connection, bool own) : nft_(std::move(connection)), may_own_(own) {}

void Firewall::configure(const Settings& settings) {
  prefixes_ = settings.interface_prefixes;
  auto before = std::exchange(static_, {});
  for (auto& c : static_chains(settings)) put_static(std::move(c));
  for (auto& c : extra_chains(extra_, prefixes_)) put_static(std::move(c));
  for (auto& [ref, c] : chains_) {
    const auto name = nft::to_string(ref.table) + " " + ref.name;
    if (c.wanted && before.contains(name) && !static_.contains(name)) drop_chain(ref);
  }
  auto sets_before = std::exchange(static_sets_, {});
  for (auto& want : static_sets(settings)) {
    const auto ref = nft::ref_of(want);
    auto& s = sets_[ref];
    s.replace = s.present && !same_shape(s.spec, want);
    s.spec = std::move(want);
    s.wanted = true;
    static_sets_.insert(ref);
    dirty_sets_.insert(ref);
  }
  for (const auto& ref : sets_before) {
    const auto it = sets_.find(ref);
    if (static_sets_.contains(ref) || it == sets_.end()) continue;
    it->second.wanted = false;
    it->second.elements.load_desired(std::vector<std::pair<nft::ElementKey, nft::Element>>{});
    std::erase_if(kept_, [&](const auto& k) { return k.set == ref; });
    dirty_sets_.insert(ref);
  }
}

void Firewall::put_static(StaticChain c) {
  const auto ref = nft::ref_of(c.chain);
  static_.insert(nft::to_string(ref.table) + " " + ref.name);
  put_chain(ref, c.chain.base, std::move(c.rules), {});
}

void Firewall::put_extra(const ExtraHooks& hooks) {
  if (hooks == extra_) return;
  for (const auto& c : extra_chains(std::exchange(extra_, hooks), prefixes_)) {
    static_.erase(nft::to_string(c.chain.table) + " " + c.chain.name);
    drop_chain(nft::ref_of(c.chain));
  }
  for (auto& c : extra_chains(extra_, prefixes_)) put_static(std::move(c));
}

void Firewall::put_chain(const nft::ChainRef& ref, std::optional<nft::BaseChain> base, std::vector<nft::Rule> rules,
                         std::vector<std::string> uses) {
  auto& c = chains_[ref];
  c.base = std::move(base);
  c.wanted = true;
  c.rules = std::move(rules);
  c.uses = std::move(uses);
  dirty_chains_.insert(ref);
}

void Firewall::put_chain(const model::Ruleset& ruleset, const std::string& name) {
  std::vector<nft::Rule> out;
  std::vector<std::string> uses, boxes;
  if (is_host_chain(name)) out = host_prelude(name);
  const auto flat = flatten(ruleset.chains.at(name));
  for (const auto& s : flat.lookups) {
    hold(s);
    boxes.push_back(s.name);
    uses.push_back(s.name);
    out.push_back(lookup_rule(s));
  }
  for (const auto& m : flat.rest) {
    out.push_back(to_nft(m));
    for (const auto* side : {&m.src, &m.dst}) {
      uses.insert(uses.end(), side->in_sets.begin(), side->in_sets.end());
      uses.insert(uses.end(), side->not_in_sets.begin(), side->not_in_sets.end());
      uses.insert(uses.end(), side->not_ip_port_sets.begin(), side->not_ip_port_sets.end());
      if (!side->ip_port_set.empty()) uses.push_back(side->ip_port_set);
      if (!side->port_set.empty()) uses.push_back(side->port_set);
      if (!side->not_port_set.empty()) uses.push_back(side->not_port_set);
    }
    if (!m.target.empty()) uses.push_back(m.target);
  }
  forgive(name);
  const auto before = std::exchange(chains_[{kInet, name}].boxes, std::move(boxes));
  put_chain({kInet, name}, std::nullopt, std::move(out), std::move(uses));
  if (const auto title = ruleset.titles.find(name); title != ruleset.titles.end())
    chains_[{kInet, name}].about = comment_of(title->second);
  for (const auto& set : before) release(set);
}

/// The sets of flattened rules are shared by the chains that have the same, and go with the last of them.
void Firewall::hold(const BoxSet& set) {
  if (box_refs_[set.name]++ > 0) return;
  const auto want = to_nft(set);
  auto& s = sets_[nft::ref_of(want)];
  s.replace = s.present && !same_shape(s.spec, want);
  s.spec = want;
  s.wanted = true;
  std::vector<std::pair<nft::ElementKey, nft::Element>> all;
  all.reserve(set.boxes.size());
  for (const auto& b : set.boxes) {
    auto e = to_nft(b);
    all.emplace_back(nft::key_of(e), std::move(e));
  }
  s.elements.load_desired(all);
  dirty_sets_.insert(nft::ref_of(want));
}

void Firewall::release(const std::string& set) {
  const auto refs = box_refs_.find(set);
  if (refs == box_refs_.end() || --refs->second > 0) return;
  box_refs_.erase(refs);
  forgive(set);
  const auto it = sets_.find({kInet, set});
  if (it == sets_.end()) return;
  it->second.wanted = false;
  it->second.elements.load_desired(std::vector<std::pair<nft::ElementKey, nft::Element>>{});
  dirty_sets_.insert(it->first);
}

void Firewall::drop_chain(const nft::ChainRef& ref) {
  auto it = chains_.find(ref);
  if (it == chains_.end()) return;
  forgive(ref.name);
  for (const auto& set : std::exchange(it->second.boxes, {})) release(set);
  it->second.wanted = false;
  it->second.rules.clear();
  it->second.uses.clear();
  if (!it->second.present) {
    dirty_chains_.erase(ref);
    chains_.erase(it);
  } else {
    dirty_chains_.insert(ref);
  }
}

void Firewall::put_set(const std::string& name, const model::SetContent& set) {
  const auto want = to_nft(name, set);
  auto& s = sets_[nft::ref_of(want)];
  s.replace = s.present && !same_shape(s.spec, want);
  s.spec = want;
  s.wanted = true;
  dirty_sets_.insert(nft::ref_of(want));
}

void Firewall::change_elements(const std::string& name, const model::SetContent& set, const model::SetDelta& d) {
  auto& s = sets_.at({set.arp ? kArp : kInet, name});
  if (refused_.contains(name))  // what was left out is tried again as well
    for (const auto& e : set.elements) {
      auto n = to_nft(set.kind, e);
      s.elements.set_desired(nft::key_of(n), std::move(n));
    }
  for (const auto& e : d.removed) s.elements.erase_desired(nft::key_of(to_nft(set.kind, e)));
  for (const auto& e : d.added) {
    auto n = to_nft(set.kind, e);
    if (n.limit)
      if (auto at = unlimited_.find(e.interface_name); at != unlimited_.end()) at->second.erase(name);
    s.elements.set_desired(nft::key_of(n), std::move(n));
  }
  forgive(name);
  dirty_sets_.insert(nft::ref_of(s.spec));
}

void Firewall::stage(const model::Ruleset& ruleset, const model::RulesetDelta& delta) {
  for (const auto& name : delta.sets_made) put_set(name, ruleset.sets.at(name));
  for (const auto& [name, d] : delta.elements)
    if (auto it = ruleset.sets.find(name); it != ruleset.sets.end()) change_elements(name, it->second, d);
  for (const auto& name : delta.chains) {
    if (ruleset.chains.contains(name))
      put_chain(ruleset, name);
    else
      drop_chain({kInet, name});
  }
  for (const auto& name : delta.sets_gone)
    for (const auto& table : {kInet, kArp}) {
      auto it = sets_.find({table, name});
      if (it == sets_.end()) continue;
      forgive(name);
      it->second.wanted = false;
      it->second.elements.load_desired(std::vector<std::pair<nft::ElementKey, nft::Element>>{});
      dirty_sets_.insert(it->first);
    }
  put_extra(extra_hooks(ruleset));
}

void Firewall::stage_all(const model::Ruleset& ruleset) {
  put_extra(extra_hooks(ruleset));
  unlimited_.clear();
  for (auto& [ref, s] : sets_)
    if (s.wanted && !ruleset.sets.contains(ref.name) && !static_sets_.contains(ref) && !box_refs_.contains(ref.name)) {
      s.wanted = false;
      s.elements.load_desired(std::vector<std::pair<nft::ElementKey, nft::Element>>{});
      dirty_sets_.insert(ref);
    }
  for (const auto& [name, set] : ruleset.sets) {
    put_set(name, set);
    std::vector<std::pair<nft::ElementKey, nft::Element>> all;
    for (const auto& e : set.elements) {
      auto n = to_nft(set.kind, e);
      all.emplace_back(nft::key_of(n), std::move(n));
    }
    sets_.at({set.arp ? kArp : kInet, name}).elements.load_desired(all);
  }
  std::vector<nft::ChainRef> gone;
  for (const auto& [ref, c] : chains_)
    if (c.wanted && !ruleset.chains.contains(ref.name) && !static_.contains(nft::to_string(ref.table) + " " + ref.name))
      gone.push_back(ref);
  for (const auto& ref : gone) drop_chain(ref);
  for (const auto& [name, rules] : ruleset.chains) put_chain(ruleset, name);
}

}  // namespace calico::felix
