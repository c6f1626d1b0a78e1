#include "modules/felix/firewall.hpp"

#include <algorithm>
#include <cstring>

#include "modules/felix/hosts.hpp"

namespace calico::felix {
namespace {

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

}  // namespace calico::felix
