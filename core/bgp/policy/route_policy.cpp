#include "core/bgp/policy/route_policy.hpp"

#include <algorithm>

#include "core/base/overloaded.hpp"

namespace calico::bgp {
namespace {

using Kind = CommunityPattern::Kind;
constexpr Kind kKinds[] = {Kind::standard, Kind::extended, Kind::large};

const Bytes& list_of(const Attrs& a, Kind kind) {
  return kind == Kind::standard ? a.communities : kind == Kind::extended ? a.ext_communities : a.large_communities;
}
Bytes& list_of(Attrs& a, Kind kind) { return const_cast<Bytes&>(list_of(std::as_const(a), kind)); }

bool is_there(const Attrs& a, const CommunityPattern& p) {
  bool found = false;
  each_community(p.kind, list_of(a, p.kind), [&](View e) { return !(found = p.matches(p.kind, e)); });
  return found;
}

bool has_communities(const HasCommunity& c, const Attrs& a) {
  const auto met = [&](const CommunityPattern& p) { return is_there(a, p); };
  if (c.mode == HasCommunity::Mode::any) return std::any_of(c.patterns.begin(), c.patterns.end(), met);
  if (!std::all_of(c.patterns.begin(), c.patterns.end(), met)) return false;
  if (c.mode == HasCommunity::Mode::all) return true;
  for (const auto kind : kKinds) {
    const auto of_kind = [&](const CommunityPattern& p) { return p.kind == kind; };
    if (std::none_of(c.patterns.begin(), c.patterns.end(), of_kind)) continue;
    bool only = true;
    each_community(kind, list_of(a, kind), [&](View e) {
      return only =
                 std::any_of(c.patterns.begin(), c.patterns.end(), [&](const auto& p) { return p.matches(kind, e); });
    });
    if (!only) return false;
  }
  return true;
}

bool path_as(const PathAs& c, const AsPath& path) {
  if (c.where == PathAs::Where::anywhere) return path_contains(path, c.ases);
  const auto as = c.where == PathAs::Where::neighbour ? path.first() : path.origin();
  return as && std::any_of(c.ases.begin(), c.ases.end(), [&](const AsRange& r) { return r.contains(as->value); });
}

std::uint32_t number_of(NumberIn::Field field, const Attrs& a) {
  switch (field) {
    case NumberIn::Field::local_pref:
      return a.local_pref.value_or(100);
    case NumberIn::Field::med:
      return a.med.value_or(0);
    case NumberIn::Field::path_length:
      return a.as_path.length();
  }
  return 0;
}

bool holds(const Condition& c, const RouteView& r, const Attrs& a) {
  return c.negated !=
         std::visit(Overloaded{
                        [&](const FamilyIs& x) { return r.prefix.family() == x.family; },
                        [&](const SourceIs& x) { return (x.mask & static_cast<std::uint8_t>(r.source)) != 0; },
                        [&](const PeerIs& x) { return (x.mask & static_cast<std::uint8_t>(r.peer)) != 0; },
                        [&](const OriginIs& x) { return a.origin < 8 && (x.mask >> a.origin & 1) != 0; },
                        [&](const NumberIn& x) {
                          const auto n = number_of(x.field, a);
                          return x.min <= n && n <= x.max;
                        },
                        [&](const PrefixIn& x) { return x.list.contains(r.prefix); },
                        [&](const NextHopIn& x) { return x.list.contains(Prefix::host(a.next_hop)); },
                        [&](const InterfaceIs& x) {
                          return !r.interface.empty() &&
                                 std::any_of(x.globs.begin(), x.globs.end(),
                                             [&](const auto& glob) { return matches_glob(glob, r.interface); });
                        },
                        [&](const PathAs& x) { return path_as(x, a.as_path); },
                        [&](const PathLike& x) { return x.pattern.matches(a.as_path); },
                        [&](const HasCommunity& x) { return has_communities(x, a); },
                    },
                    c.what);
}

/// Applies changes to a copy that is made when the first one changes something.
class Applier {
 public:
  Applier(const Family family, const Attrs& in, std::optional<Attrs>& out, PolicyVerdict& verdict)
      : family_(family), in_(in), out_(out), verdict_(verdict) {}

  const Attrs& now() const { return out_ ? *out_ : in_; }

  void operator()(const SetNumber& c) {
    const bool med = c.field == SetNumber::Field::med;
    verdict_.med_set = verdict_.med_set || med;
    if ((med ? now().med : now().local_pref) == c.value) return;
    (med ? out().med : out().local_pref) = c.value;
  }
  void operator()(const RemoveMed&) {
    verdict_.med_set = false;
    if (now().med) out().med.reset();
  }
  void operator()(const SetOrigin& c) {
    if (now().origin != c.origin) out().origin = c.origin;
  }
  void operator()(const NextHopTo& c) { verdict_.next_hop_self = c.self; }
  void operator()(const SetNextHop& c) {
    if (c.ip.family() != family_) return;
    verdict_.next_hop_self = false;  // an address that was chosen is not replaced by the session's habit
    if (now().next_hop != c.ip) out().next_hop = c.ip;
  }
  void operator()(const Prepend& c) {
    auto& path = out().as_path;
    for (auto it = c.ases.rbegin(); it != c.ases.rend(); ++it) path = path.prepended(*it);
  }
  void operator()(const ChangeCommunities& c) {
    if (c.how == ChangeCommunities::How::set) return set(c.patterns);
    for (const auto& p : c.patterns) {
      if (is_there(now(), p) == (c.how == ChangeCommunities::How::add)) continue;
      auto& list = list_of(out(), p.kind);
      c.how == ChangeCommunities::How::add ? add_community(list, p) : delete_communities(list, p);
    }
  }

 private:
  Attrs& out() {
    if (!out_) out_ = in_;
    return *out_;
  }
  void set(const std::vector<CommunityPattern>& patterns) {
    for (const auto kind : kKinds) {
      Bytes list;
      bool listed = patterns.empty();
      for (const auto& p : patterns)
        if (p.kind == kind) listed = true, add_community(list, p);
      if (listed && list_of(now(), kind) != list) list_of(out(), kind) = std::move(list);
    }
  }

  const Family family_;
  const Attrs& in_;
  std::optional<Attrs>& out_;
  PolicyVerdict& verdict_;
};

// --- compiling -------------------------------------------------------------------------------------------------------

const PrefixIn* prefixes_of(const Condition& c) { return c.negated ? nullptr : std::get_if<PrefixIn>(&c.what); }

/// Where the only list of prefixes of the rule is; nullopt: none, several, or negated.
std::optional<std::size_t> only_prefixes(const PolicyRule& r) {
  std::optional<std::size_t> at;
  for (std::size_t i = 0; i < r.conditions.size(); ++i) {
    if (!std::holds_alternative<PrefixIn>(r.conditions[i].what)) continue;
    if (at || r.conditions[i].negated) return std::nullopt;
    at = i;
  }
  return at;
}

/// Rules that end the search and differ in their prefixes only are one rule with the prefixes of both.
bool joinable(const PolicyRule& a, const PolicyRule& b) {
  if (a.then != b.then || a.then == PolicyRule::Then::next || a.changes != b.changes ||
      a.conditions.size() != b.conditions.size())
    return false;
  const auto at = only_prefixes(a);
  if (!at || at != only_prefixes(b)) return false;
  for (std::size_t i = 0; i < a.conditions.size(); ++i)
    if (i != *at && a.conditions[i] != b.conditions[i]) return false;
  return true;
}

std::vector<PolicyRule> joined(std::vector<PolicyRule> rules) {
  std::vector<PolicyRule> out;
  for (std::size_t i = 0; i < rules.size();) {
    auto end = i + 1;
    while (end < rules.size() && joinable(rules[i], rules[end])) ++end;
    if (end > i + 1) {
      const auto at = *only_prefixes(rules[i]);
      std::vector<PrefixEntry> all;
      for (auto r = i; r < end; ++r) {
        const auto& more = prefixes_of(rules[r].conditions[at])->list.entries();
        all.insert(all.end(), more.begin(), more.end());
      }
      rules[i].conditions[at].what = PrefixIn{PrefixList(std::move(all))};
    }
    out.push_back(std::move(rules[i]));
    i = end;
  }
  return out;
}

Status check_change(const Change& change) {
  if (const auto* p = std::get_if<Prepend>(&change)) {
    if (p->ases.empty() || p->ases.size() > RoutePolicy::kMaxPrepend)
      return fail(Errc::invalid, "prepends {} ASes: 1 to {}", p->ases.size(), RoutePolicy::kMaxPrepend);
    for (const auto& as : p->ases)
      if (as.value == 0) return fail(Errc::invalid, "prepends AS 0 (RFC 7607)");
  }
  if (const auto* o = std::get_if<SetOrigin>(&change); o && o->origin > 2)
    return fail(Errc::invalid, "origin {}: 0 to 2", o->origin);
  if (const auto* n = std::get_if<SetNextHop>(&change);
      n && (n->ip.is_unspecified() || n->ip.is_multicast() || n->ip.is_loopback()))
    return fail(Errc::invalid, "{} cannot be a next hop", n->ip);
  if (const auto* c = std::get_if<ChangeCommunities>(&change)) {
    // 64 of the widest are 768 bytes: a rule cannot make a set of attributes that no message holds.
    if (c->patterns.size() > 64) return fail(Errc::invalid, "more than 64 communities in one change");
    if (c->how != ChangeCommunities::How::remove)
      for (const auto& p : c->patterns)
        if (!p.exact()) return fail(Errc::invalid, "community {}: '*' can be matched and deleted only", p.to_string());
  }
  return {};
}

Status check_rule(const PolicyRule& r, std::size_t& prefixes) {
  if (r.conditions.size() > RoutePolicy::kMaxConditions || r.changes.size() > RoutePolicy::kMaxChanges)
    return fail(Errc::invalid, "more than {} conditions or {} changes", RoutePolicy::kMaxConditions,
                RoutePolicy::kMaxChanges);
  if (r.then == PolicyRule::Then::reject && !r.changes.empty())
    return fail(Errc::invalid, "rejects, so its changes would do nothing");
  for (const auto& c : r.conditions) {
    std::size_t values = 0;
    if (const auto* p = std::get_if<PrefixIn>(&c.what)) prefixes += p->list.entries().size();
    if (const auto* p = std::get_if<NextHopIn>(&c.what)) prefixes += p->list.entries().size();
    if (const auto* p = std::get_if<InterfaceIs>(&c.what)) values = p->globs.size();
    if (const auto* p = std::get_if<PathAs>(&c.what)) values = p->ases.size();
    if (const auto* p = std::get_if<HasCommunity>(&c.what)) values = p->patterns.size();
    if (values > RoutePolicy::kMaxValues)
      return fail(Errc::invalid, "{} values in one condition: at most {}", values, RoutePolicy::kMaxValues);
  }
  for (const auto& c : r.changes)
    if (auto ok = check_change(c); !ok) return ok;
  return {};
}

}  // namespace

bool PolicyRef::operator==(const PolicyRef& other) const {
  if (policy_ == other.policy_) return true;
  return policy_ && other.policy_ && *policy_ == *other.policy_;
}

bool matches_glob(std::string_view pattern, std::string_view text) {
  std::size_t p = 0, t = 0, star = std::string_view::npos, resume = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p, ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

Result<std::shared_ptr<const RoutePolicy>> RoutePolicy::compile(std::vector<PolicyRule> rules, Default otherwise) {
  if (rules.size() > kMaxRules) return fail(Errc::invalid, "{} rules: at most {}", rules.size(), kMaxRules);
  std::size_t prefixes = 0;
  for (std::size_t i = 0; i < rules.size(); ++i) {
    auto& r = rules[i];
    if (auto ok = check_rule(r, prefixes); !ok)
      return wrap(ok.error(), fmt::format("rule {} of {}", i + 1, rules.size()));
    if (prefixes > kMaxPrefixes) return fail(Errc::invalid, "more than {} prefixes", kMaxPrefixes);
    std::stable_sort(r.conditions.begin(), r.conditions.end(),
                     [](const Condition& a, const Condition& b) { return a.what.index() < b.what.index(); });
  }
  auto policy = std::shared_ptr<RoutePolicy>(new RoutePolicy());
  policy->rules_ = joined(std::move(rules));
  policy->default_ = otherwise;
  for (const auto& r : policy->rules_) {
    policy->changes_routes_ = policy->changes_routes_ || !r.changes.empty();
    for (const auto& c : r.conditions)
      policy->depends_on_prefix_ = policy->depends_on_prefix_ || std::holds_alternative<PrefixIn>(c.what);
  }
  return std::shared_ptr<const RoutePolicy>(std::move(policy));
}

PolicyVerdict RoutePolicy::evaluate(const RouteView& route, const Attrs& attrs, std::optional<Attrs>& changed) const {
  changed.reset();
  PolicyVerdict v;
  Applier apply(route.prefix.family(), attrs, changed, v);
  for (std::size_t i = 0; i < rules_.size(); ++i) {
    const auto& rule = rules_[i];
    const auto& now = apply.now();
    if (!std::all_of(rule.conditions.begin(), rule.conditions.end(),
                     [&](const Condition& c) { return holds(c, route, now); }))
      continue;
    if (rule.then != PolicyRule::Then::reject)
      for (const auto& change : rule.changes) std::visit(apply, change);
    if (rule.then == PolicyRule::Then::next) continue;
    v.accept = rule.then == PolicyRule::Then::accept;
    v.rule = static_cast<std::uint32_t>(i);
    return v;
  }
  v.accept = default_ == Default::accept;
  return v;
}

}  // namespace calico::bgp
