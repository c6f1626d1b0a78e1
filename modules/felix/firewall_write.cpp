#include "modules/felix/firewall.hpp"

#include <algorithm>
#include <utility>

namespace calico::felix {
namespace {

std::vector<std::string> identities(const std::vector<nft::Rule>& rules) {
  std::vector<std::string> out;
  out.reserve(rules.size());
  for (const auto& r : rules) out.push_back(r.identity());
  return out;
}

}  // namespace

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
