#include "modules/felix/firewall.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "modules/felix/hosts.hpp"

namespace calico::felix {
namespace {

std::vector<std::string> identities(const std::vector<nft::Rule>& rules) {
  std::vector<std::string> out;
  out.reserve(rules.size());
  for (const auto& r : rules) out.push_back(r.identity());
  return out;
}

bool same_shape(const nft::Set& a, const nft::Set& b) {
  return a.key == b.key && a.data == b.data && a.interval == b.interval && a.dynamic == b.dynamic;
}

/// Of an element whose key is an interface name.
std::string interface_of(const nft::Element& e) {
  const auto b = e.key.bytes();
  const auto* name = reinterpret_cast<const char*>(b.data());
  return {name, strnlen(name, b.size())};
}

/// Of the model's: "in-<group>" and "out-<group>", and those of host endpoints.
bool is_class_chain(const std::string& name) {
  return name.starts_with("in-") || name.starts_with("out-") || name.starts_with("hep-");
}

/// "any-in" and so on: they only lead to the chain of a host endpoint.
bool is_lead(const std::string& name) { return name.starts_with("any-"); }

}  // namespace

Firewall::Firewall(nft::Connection connection, bool own) : nft_(std::move(connection)), may_own_(own) {}

// ---- desired ----

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

void Firewall::keep(const nft::SetRef& set, nft::Element e, TimePoint now) {
  auto& s = sets_.at(set);
  const auto key = nft::key_of(e);
  if (s.elements.desired(key)) std::erase_if(kept_, [&](const auto& k) { return k.set == set && k.key == key; });
  s.elements.set_desired(key, std::move(e));
  kept_.push_back({set, key, now});
  dirty_sets_.insert(set);
}

Status Firewall::keep_out(const std::vector<conntrack::Tuple>& packets, TimePoint now) {
  constexpr auto kLong = std::chrono::hours(3);
  for (const auto& t : packets) {
    const nft::SetRef ref{kInet, t.src.is_v4() ? "cut4" : "cut6"};
    if (!static_sets_.contains(ref)) continue;
    keep(ref, nft::element(nft::Key().ip(t.src).port(t.src_port).ip(t.dst).port(t.dst_port)), now);
  }
  while (!kept_.empty() && (kept_.size() > kCutMost || now - kept_.front().since > kLong)) {
    if (const auto it = sets_.find(kept_.front().set); it != sets_.end()) {
      it->second.elements.erase_desired(kept_.front().key);
      dirty_sets_.insert(it->first);
    }
    kept_.pop_front();
  }
  nft::Batch b;
  for (const auto& ref : static_sets_) {
    const auto& s = sets_.at(ref);
    if (!tables_ready_ || !s.present || s.replace) continue;  // the next add() makes it
    std::vector<nft::Element> out, in;
    s.elements.for_each_deletion([&](const auto&, const nft::Element& have) { out.push_back(have); });
    s.elements.for_each_update([&](const auto&, const nft::Element& want, const auto*) { in.push_back(want); });
    if (!out.empty()) b.remove(s.spec, out);
    if (!in.empty()) b.add(s.spec, in);
  }
  if (b.empty()) return {};
  if (auto ok = nft_.apply(b); !ok) return wrap(ok.error(), "nf_tables, what was cut");
  ++commits_;
  operations_ += b.size();
  for (const auto& ref : static_sets_) {
    auto& s = sets_.at(ref);
    std::vector<nft::ElementKey> keys;
    s.elements.for_each_update([&](const auto& k, const auto&, const auto*) { keys.push_back(k); });
    for (const auto& k : keys) s.elements.mark_updated(k);
    keys.clear();
    s.elements.for_each_deletion([&](const auto& k, const auto&) { keys.push_back(k); });
    for (const auto& k : keys) s.elements.mark_deleted(k);
    dirty_sets_.erase(ref);
  }
  return {};
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

/// What was refused is tried again when it changes; the classes that asked it follow.
void Firewall::forgive(const std::string& name) {
  if (!refused_.erase(name)) return;
  for (const auto& [ref, c] : chains_)
    if (std::find(c.uses.begin(), c.uses.end(), name) != c.uses.end()) {
      dirty_chains_.insert(ref);
      for (const auto& [outer, o] : chains_)
        if (std::find(o.uses.begin(), o.uses.end(), ref.name) != o.uses.end()) dirty_chains_.insert(outer);
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

// ---- actual ----

Status Firewall::load() {
  // A chain or set nobody wants and that is not there is forgotten; the rest learns what the kernel has.
  for (auto& [ref, c] : chains_) {
    c.present = false;
    c.actual.clear();
    c.actual_base.reset();
    dirty_chains_.insert(ref);
  }
  for (auto& [ref, s] : sets_) {
    s.present = s.replace = false;
    s.elements.load_actual(std::vector<std::pair<nft::ElementKey, nft::Element>>{});
    dirty_sets_.insert(ref);
  }
  tables_ready_ = rebuild_ = false;
  guards_.clear();
  table_there_[0] = table_there_[1] = false;
  auto tables = nft_.tables();
  if (!tables) return wrap(tables.error(), "nf_tables");
  owned_ = may_own_ && nft_.can_persist();
  bool adopted = true;
  for (const auto& t : *tables) {
    if (t.table.ref == kGuard || t.table.ref == kGuardArp) guards_.push_back(t.table.ref);
    if (t.table.ref != kInet && t.table.ref != kArp) continue;
    if (t.owner_port != 0 && t.owner_port != nft_.port())
      return fail(Errc::no_permission,
                  "table {} is owned by another process (netlink port {}): stop it first; the kernel's rules stay as "
                  "they are",
                  nft::to_string(t.table.ref), t.owner_port);
    table_there_[t.table.ref == kArp] = true;
    // A plain table cannot become an owned one: it is replaced in one transaction. One whose owner died keeps PERSIST
    // alone and is adopted.
    if (t.table.persist != owned_ || (t.table.owner && !owned_) || t.table.dormant) rebuild_ = true;
    if (owned_ && t.owner_port != nft_.port()) adopted = false;
    if (auto ok = load_table(t.table.ref, t); !ok) return wrap(ok.error(), nft::to_string(t.table.ref));
  }
  tables_ready_ = adopted && table_there_[0] && table_there_[1] && !rebuild_;
  return {};
}

Status Firewall::load_table(const nft::TableRef& ref, const nft::TableInfo&) {
  auto chains = nft_.chains(ref);
  if (!chains) return tl::unexpected(chains.error());
  for (const auto& c : *chains) {
    auto& state = chains_[{ref, c.chain.name}];
    state.present = true;
    state.actual_base = c.chain.base;
    dirty_chains_.insert({ref, c.chain.name});
  }
  auto rules = nft_.rules(ref);
  if (!rules) return tl::unexpected(rules.error());
  for (const auto& r : *rules) chains_[{ref, r.chain}].actual.push_back(r.comment);
  auto sets = nft_.sets(ref);
  if (!sets) return tl::unexpected(sets.error());
  for (const auto& s : *sets) {
    auto& state = sets_[nft::ref_of(s.set)];
    state.present = true;
    state.replace = !s.understood || (state.wanted && !same_shape(state.spec, s.set));
    if (!state.wanted) state.spec = s.set;
    dirty_sets_.insert(nft::ref_of(s.set));
    if (state.replace) continue;
    auto elements = nft_.elements(s.set);
    if (!elements) return tl::unexpected(elements.error());
    std::vector<std::pair<nft::ElementKey, nft::Element>> all;
    for (auto& e : *elements) all.emplace_back(nft::key_of(e), std::move(e));
    state.elements.load_actual(all);
    if (static_sets_.contains(nft::ref_of(s.set)))  // a former process' are kept out as long as its own
      for (const auto& [key, e] : all)
        if (!state.elements.desired(key)) keep(nft::ref_of(s.set), e, std::chrono::steady_clock::now());
  }
  return {};
}

/// Everything anew in one transaction: tables whose flags, hooks or set shapes are not what we want.
void Firewall::rebuild() {
  std::erase_if(chains_, [](const auto& c) { return !c.second.wanted; });
  std::erase_if(sets_, [](const auto& s) { return !s.second.wanted; });
  dirty_chains_.clear();
  dirty_sets_.clear();
  for (auto& [ref, c] : chains_) {
    c.present = false;
    c.actual.clear();
    dirty_chains_.insert(ref);
  }
  for (auto& [ref, s] : sets_) {
    s.present = s.replace = false;
    s.elements.load_actual(std::vector<std::pair<nft::ElementKey, nft::Element>>{});
    dirty_sets_.insert(ref);
  }
}

// ---- writing ----

bool Firewall::refused_chain(const std::string& name, const ChainState& c) const {
  if (refused_.contains(name)) return true;
  return std::any_of(c.uses.begin(), c.uses.end(), [&](const auto& u) { return refused_.contains(u); });
}

/// A class asks all its policies or drops: a policy that cannot be written may have been the one that denies.
std::vector<nft::Rule> Firewall::effective(const std::string& name, const ChainState& c) const {
  bool closed = refused_chain(name, c);
  if (!closed && is_class_chain(name))
    for (const auto& u : c.uses)
      if (auto it = chains_.find({kInet, u}); it != chains_.end() && refused_chain(u, it->second)) closed = true;
  if (!closed || is_lead(name)) return c.rules;
  std::vector<nft::Rule> out;
  if (is_host_chain(name)) out = host_prelude(name);
  out.push_back(nft::Rule().counter().drop().comment("refused by the kernel"));
  return out;
}

std::string Firewall::fault_of(const model::EndpointPlan& plan) const {
  if (plan.group == model::kGroupClosed) return {};
  return fault_in({fmt::format("in-{}", plan.group), fmt::format("out-{}", plan.group)});
}

std::string Firewall::fault_in(std::vector<std::string> names) const {
  if (refused_.empty()) return {};
  // The class's chains and, below them, those of what follows a Pass, of policies and their sets: a tree of few levels.
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (const auto r = refused_.find(names[i]); r != refused_.end()) return fmt::format("{}: {}", r->first, r->second);
    if (const auto c = chains_.find({kInet, names[i]}); c != chains_.end())
      names.insert(names.end(), c->second.uses.begin(), c->second.uses.end());
  }
  return {};
}

std::vector<std::string> Firewall::notes_of(const model::EndpointPlan& plan) const {
  std::vector<std::string> out;
  if (const auto at = unlimited_.find(plan.interface_name); at != unlimited_.end() && !plan.left_alone)
    for (const auto& [set, why] : at->second) out.push_back(fmt::format("not limited by {}: {}", set, why));
  return out;
}

nft::Batch Firewall::addition(Origins& origins) {
  nft::Batch b;
  const auto note = [&](std::size_t op, Origin o) {
    if (origins.size() <= op) origins.resize(op + 1);
    origins[op] = std::move(o);
  };
  const bool anew = rebuild_ ||
                    std::any_of(sets_.begin(), sets_.end(), [](const auto& s) { return s.second.replace; }) ||
                    std::any_of(chains_.begin(), chains_.end(), [](const auto& c) {
                      return c.second.present && c.second.wanted && c.second.base != c.second.actual_base;
                    });
  if (anew) {
    rebuild();
    for (const auto arp : {false, true})
      if (std::exchange(table_there_[arp], false)) b.remove(arp ? kArp : kInet);
    tables_ready_ = false;
  }
  if (!tables_ready_) {
    for (const auto& ref : {kInet, kArp})
      b.add(nft::Table{.ref = ref, .owner = owned_, .persist = owned_, .comment = "calico-node felix"});
  }
  for (const auto& guard : guards_) b.remove(guard);
  for (const auto& ref : dirty_sets_)
    if (const auto& s = sets_.at(ref); s.wanted && !s.present) note(b.add(s.spec), {Origin::What::set, {}, ref, {}});
  for (const auto& ref : dirty_chains_)
    if (const auto& c = chains_.at(ref); c.wanted && !c.present)
      note(b.add(nft::Chain{ref.table, ref.name, c.base, c.about}), {Origin::What::chain, ref.name, {}, {}});
  for (const auto& ref : dirty_sets_) {
    const auto& s = sets_.at(ref);
    if (!s.wanted) continue;
    std::vector<nft::Element> out, in;
    // The elements of a verdict map that go are removed later, when no interface is in their class any more.
    if (s.spec.data != nft::Type::verdict)
      s.elements.for_each_deletion([&](const auto&, const nft::Element& have) { out.push_back(have); });
    s.elements.for_each_update([&](const auto&, const nft::Element& want, const nft::Element* have) {
      if (have) out.push_back(*have);
      in.push_back(want);
    });
    if (!out.empty()) note(b.remove(s.spec, out), {Origin::What::set, {}, ref, out});
    if (!in.empty()) note(b.add(s.spec, in), {Origin::What::set, {}, ref, in});
  }
  for (const auto& ref : dirty_chains_) {
    const auto& c = chains_.at(ref);
    if (!c.wanted) continue;
    const auto rules = effective(ref.name, c);
    if (c.present && identities(rules) == c.actual) continue;
    if (c.present && !c.actual.empty()) note(b.flush(ref), {Origin::What::chain, ref.name, {}, {}});
    for (const auto& r : rules) note(b.add(ref, r), {Origin::What::chain, ref.name, {}, {}});
  }
  return b;
}

void Firewall::mark_added() {
  tables_ready_ = true;
  rebuild_ = false;
  guards_.clear();
  table_there_[0] = table_there_[1] = true;
  std::erase_if(dirty_chains_, [&](const auto& ref) {
    auto& c = chains_.at(ref);
    if (!c.wanted) return false;
    c.present = true;
    c.actual_base = c.base;
    c.actual = identities(effective(ref.name, c));
    return true;
  });
  std::erase_if(dirty_sets_, [&](const auto& ref) {
    auto& s = sets_.at(ref);
    if (!s.wanted) return false;
    s.present = true;
    std::vector<nft::ElementKey> keys;
    s.elements.for_each_update([&](const auto& k, const auto&, const auto*) { keys.push_back(k); });
    for (const auto& k : keys) s.elements.mark_updated(k);
    if (s.spec.data == nft::Type::verdict) return s.elements.in_sync();
    keys.clear();
    s.elements.for_each_deletion([&](const auto& k, const auto&) { keys.push_back(k); });
    for (const auto& k : keys) s.elements.mark_deleted(k);
    return true;
  });
}

/// Finds what the kernel refused; true when the transaction is worth trying again without it.
bool Firewall::isolate(const nft::CommitError& e, const Origins& origins) {
  bool progress = false;
  for (const auto& f : e.faults) {
    if (f.op >= origins.size()) continue;
    const auto& o = origins[f.op];
    if (o.what == Origin::What::chain && !static_.contains(nft::to_string(kInet) + " " + o.chain) &&
        refused_.emplace(o.chain, f.what).second) {
      progress = true;
      for (const auto& [ref, c] : chains_)
        if (ref.name == o.chain || std::find(c.uses.begin(), c.uses.end(), o.chain) != c.uses.end())
          dirty_chains_.insert(ref);
    }
    if (o.what == Origin::What::set) {
      auto& s = sets_.at(o.set);
      const bool used = std::any_of(chains_.begin(), chains_.end(), [&](const auto& c) {
        return c.second.wanted &&
               std::find(c.second.uses.begin(), c.second.uses.end(), o.set.name) != c.second.uses.end();
      });
      if (used && refused_.emplace(o.set.name, f.what).second) {
        progress = true;
        for (const auto& [ref, c] : chains_)
          if (std::find(c.uses.begin(), c.uses.end(), o.set.name) != c.uses.end()) {
            dirty_chains_.insert(ref);
            for (const auto& [outer, oc] : chains_)
              if (std::find(oc.uses.begin(), oc.uses.end(), ref.name) != oc.uses.end()) dirty_chains_.insert(outer);
          }
      }
      if (s.spec.dynamic)
        for (std::size_t i = 0; i < o.elements.size(); ++i)
          if (!f.element || *f.element == i) unlimited_[interface_of(o.elements[i])][o.set.name] = f.what;
      // The element itself, or all of the operation, is left out: a source that is not there is refused, a member that
      // is not there has its policy closed above.
      if (f.element && *f.element < o.elements.size()) {
        s.elements.erase_desired(nft::key_of(o.elements[*f.element]));
        progress = true;
      } else if (used || s.spec.dynamic) {
        for (const auto& el : o.elements) s.elements.erase_desired(nft::key_of(el));
        progress = progress || !o.elements.empty();
      }
    }
  }
  return progress;
}

Status Firewall::add() {
  for (int attempt = 0; attempt < 32; ++attempt) {
    Origins origins;
    const auto b = addition(origins);
    if (b.empty()) {
      mark_added();
      return {};
    }
    auto done = nft_.commit(b);
    if (done) {
      ++commits_;
      operations_ += b.size();
      mark_added();
      return {};
    }
    if (!isolate(done.error(), origins)) return wrap(done.error().error, "nf_tables");
  }
  return fail(Errc::unavailable, "nf_tables: too many refused objects in one change; trying again");
}

Status Firewall::remove() {
  nft::Batch b;
  for (const auto& ref : dirty_sets_) {
    const auto& s = sets_.at(ref);
    if (!s.wanted || s.spec.data != nft::Type::verdict || s.elements.pending_deletions() == 0) continue;
    std::vector<nft::Element> out;
    s.elements.for_each_deletion([&](const auto&, const nft::Element& have) { out.push_back(have); });
    b.remove(s.spec, out);
  }
  std::vector<nft::ChainRef> chains;
  std::vector<nft::SetRef> sets;
  for (const auto& ref : dirty_chains_)
    if (!chains_.at(ref).wanted) chains.push_back(ref);
  for (const auto& ref : dirty_sets_)
    if (!sets_.at(ref).wanted) sets.push_back(ref);
  for (const auto& ref : chains)
    if (const auto& c = chains_.at(ref); c.present && !c.actual.empty()) b.flush(ref);
  // A map that goes holds its chains until it is gone.
  for (const auto& ref : sets)
    if (const auto& s = sets_.at(ref); s.present) b.remove(nft::ref_of(s.spec));
  for (const auto& ref : chains)
    if (chains_.at(ref).present) b.remove(ref);
  if (!b.empty()) {
    if (auto ok = nft_.apply(b); !ok) return wrap(ok.error(), "nf_tables, removing what is no longer used");
    ++commits_;
    operations_ += b.size();
  }
  std::erase_if(dirty_sets_, [&](const auto& ref) {
    auto& s = sets_.at(ref);
    if (!s.wanted) return false;
    std::vector<nft::ElementKey> keys;
    s.elements.for_each_deletion([&](const auto& k, const auto&) { keys.push_back(k); });
    for (const auto& k : keys) s.elements.mark_deleted(k);
    return s.elements.in_sync();
  });
  for (const auto& ref : chains) {
    dirty_chains_.erase(ref);
    chains_.erase(ref);
  }
  for (const auto& ref : sets) {
    dirty_sets_.erase(ref);
    sets_.erase(ref);
  }
  return {};
}

}  // namespace calico::felix
