#include "modules/felix/flow_policy.hpp"

#include <algorithm>

#include "core/model/walk.hpp"

namespace calico::felix {

void PolicyChange::add(const model::RulesetDelta& delta) {
  chains.insert(delta.chains.begin(), delta.chains.end());
  for (const auto& [name, d] : delta.elements) {
    if (delta.sets_made.contains(name)) continue;  // the chains that name it are new as well
    auto& m = sets[name];
    m.added = m.added || !d.added.empty();
    m.removed = m.removed || !d.removed.empty();
  }
}

void PolicyChange::add(PolicyChange other) {
  chains.merge(other.chains);
  for (const auto& [name, o] : other.sets) {
    auto& m = sets[name];
    m.added = m.added || o.added;
    m.removed = m.removed || o.removed;
  }
  endpoints.merge(other.endpoints);
  everything = everything || other.everything;
}

namespace {

bool can_refuse_more(const model::MatchRule& rule, const std::map<std::string, PolicyChange::Members>& sets) {
  const auto hit = [&](const std::vector<std::string>& names, bool negated) {
    return std::any_of(names.begin(), names.end(), [&](const auto& n) {
      const auto it = sets.find(n);
      if (it == sets.end()) return false;
      const bool matches_less = negated ? it->second.added : it->second.removed;
      const bool matches_more = negated ? it->second.removed : it->second.added;
      if (rule.verdict == model::Verdict::log) return false;
      if (rule.verdict == model::Verdict::accept) return matches_less;
      if (rule.verdict == model::Verdict::drop) return matches_more;
      return matches_less || matches_more;
    });
  };
  for (const auto* side : {&rule.src, &rule.dst})
    if (hit(side->in_sets, false) || hit(side->not_in_sets, true) || hit({side->ip_port_set}, false) ||
        hit(side->not_ip_port_sets, true))
      return true;
  return false;
}

class Chains {
 public:
  Chains(const model::Ruleset& r, const PolicyChange& change) : r_(r), change_(change) {}
  bool concerned(const std::string& name) {
    const auto [it, first] = known_.emplace(name, change_.chains.contains(name));
    if (!first || it->second) return it->second;
    const auto chain = r_.chains.find(name);
    if (chain == r_.chains.end()) return false;
    bool found = false;
    for (const auto& rule : chain->second) {
      found = can_refuse_more(rule, change_.sets) || (!rule.target.empty() && concerned(rule.target));
      if (found) break;
    }
    return known_[name] = found;
  }

 private:
  const model::Ruleset& r_;
  const PolicyChange& change_;
  std::map<std::string, bool> known_;
};

}  // namespace

std::set<std::string> concerned(const model::Ruleset& ruleset, const PolicyChange& change) {
  std::set<std::string> out;
  std::set<std::uint32_t> groups;
  if (!change.everything && (!change.chains.empty() || !change.sets.empty())) {
    Chains chains(ruleset, change);
    for (const auto* map : {"from", "to"})
      if (const auto it = ruleset.sets.find(map); it != ruleset.sets.end())
        for (const auto& e : it->second.elements)
          if (chains.concerned(e.chain)) groups.insert(e.group);
  }
  if (!change.everything && groups.empty() && change.endpoints.empty()) return out;
  for (const auto& [key, plan] : ruleset.endpoints)
    if (change.everything || groups.contains(plan.group) || change.endpoints.contains(key)) out.insert(key);
  return out;
}

model::Packet forwarded(const conntrack::Entry& e) {
  model::Packet p;
  p.src = e.orig.src;
  p.dst = e.reply.src;
  p.protocol = e.orig.protocol;
  p.src_port = e.orig.src_port;
  p.dst_port = e.reply.src_port;
  p.icmp.type = e.orig.icmp_type;
  p.icmp.code = e.orig.icmp_code;
  return p;
}

FlowPolicy::FlowPolicy(const model::Ruleset& ruleset, const std::set<std::string>& endpoints, IsLocal is_local)
    : is_local_(std::move(is_local)) {
  for (const auto& key : endpoints) {
    const auto plan = ruleset.endpoints.find(key);
    if (plan == ruleset.endpoints.end() || plan->second.left_alone || !plan->second.error.empty()) continue;
    for (const auto& net : plan->second.nets) (net.addr.is_v4() ? v4_ : v6_)[net.len][net.masked().addr].push_back(key);
  }
}

bool FlowPolicy::refused(const model::Ruleset& ruleset, const Ip& ip, model::Direction direction,
                         const model::Packet& p) const {
  for (const auto& [len, blocks] : ip.is_v4() ? v4_ : v6_) {
    const auto it = blocks.find(Prefix{ip, len}.masked().addr);
    if (it == blocks.end()) continue;
    for (const auto& key : it->second) {
      const auto plan = ruleset.endpoints.find(key);
      if (plan == ruleset.endpoints.end() || !plan->second.error.empty()) continue;
      if (!model::Walk(ruleset).allowed(plan->second, direction, p)) return true;
    }
    return false;  // the longest block is whose the address is
  }
  return false;
}

bool FlowPolicy::local(const Ip& ip) {
  constexpr std::size_t kMost = 65536;
  if (const auto it = known_.find(ip); it != known_.end()) return it->second;
  if (known_.size() >= kMost) known_.clear();
  return known_[ip] = is_local_(ip);
}

bool FlowPolicy::refuses(const model::Ruleset& ruleset, const conntrack::Entry& e) {
  if (e.zone != 0 || e.orig.zone != 0 || e.reply.zone != 0 || (e.status & conntrack::kExpected) != 0) return false;
  const auto p = forwarded(e);
  if (p.src.family() != p.dst.family()) return false;
  if (refused(ruleset, p.src, model::Direction::egress, p)) return !local(p.dst);
  return refused(ruleset, p.dst, model::Direction::ingress, p) && !local(p.src);
}

}  // namespace calico::felix
