#include "modules/felix/firewall.hpp"

namespace calico::felix {

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

}  // namespace calico::felix
