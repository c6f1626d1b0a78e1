#include "core/bgp/policy/bgp_filter.hpp"

#include "core/bgp/policy/policy_text.hpp"

namespace calico::bgp {
namespace {

using Operator = model::BgpFilterRule::Operator;

Result<CommunityPattern> community(const std::string& text) {
  auto p = CommunityPattern::parse(text);
  if (!p) return printable(p.error());
  if (!p->exact() || p->kind == CommunityPattern::Kind::extended)
    return fail(Errc::invalid, "'{}': need A:B or A:B:C", p->to_string());
  return p;
}

Condition prefix_condition(const model::BgpFilterRule& r) {
  const auto& cidr = *r.cidr;
  const bool inside = r.match == Operator::in || r.match == Operator::not_in;
  PrefixEntry e{cidr, cidr.len, inside ? cidr.addr.bits() : cidr.len};
  if (inside && r.min_length) e.min = *r.min_length;
  if (inside && r.max_length) e.max = *r.max_length;
  return {PrefixIn{PrefixList({e})}, r.match == Operator::not_equal || r.match == Operator::not_in};
}

Result<PolicyRule> rule_of(const model::BgpFilterRule& r, Family family) {
  PolicyRule out;
  out.then = r.accept ? PolicyRule::Then::accept : PolicyRule::Then::reject;
  // Always, so that neighbours which differ in their blocks only can be joined, and "not" stays in its family.
  out.conditions.push_back({FamilyIs{family}});
  if (r.remote_peers)
    out.conditions.push_back({SourceIs{static_cast<std::uint8_t>(RouteSource::internal) |
                                       static_cast<std::uint8_t>(RouteSource::external)}});
  if (r.external_peer)
    out.conditions.push_back(
        {PeerIs{static_cast<std::uint8_t>(*r.external_peer ? PeerKind::external : PeerKind::internal)}});
  if (r.cidr) out.conditions.push_back(prefix_condition(r));
  if (!r.interface.empty()) out.conditions.push_back({InterfaceIs{{r.interface}}});
  if (r.priority) {
    const auto n = local_pref_of_priority(*r.priority);
    out.conditions.push_back({NumberIn{NumberIn::Field::local_pref, n, n}});
  }
  if (!r.as_path_prefix.empty()) {
    if (r.as_path_prefix.size() >= PathPattern::kMaxTokens)
      return fail(Errc::invalid, "asPathPrefix: at most {} AS numbers", PathPattern::kMaxTokens - 1);
    out.conditions.push_back({PathLike{PathPattern::begins_with(r.as_path_prefix)}});
  }
  if (!r.communities.empty()) {
    HasCommunity c{HasCommunity::Mode::all, {}};
    for (const auto& text : r.communities) {
      auto p = community(text);
      if (!p) return wrap(p.error(), "communities");
      c.patterns.push_back(*p);
    }
    out.conditions.push_back({std::move(c)});
  }
  for (const auto& op : r.operations) {
    using Kind = model::BgpFilterOperation::Kind;
    if (op.kind == Kind::add_community) {
      auto p = community(op.community);
      if (!p) return wrap(p.error(), "operations");
      out.changes.emplace_back(ChangeCommunities{ChangeCommunities::How::add, {*p}});
    } else if (op.kind == Kind::prepend_as_path) {
      out.changes.emplace_back(Prepend{op.ases});
    } else {
      out.changes.emplace_back(SetNumber{SetNumber::Field::local_pref, local_pref_of_priority(op.priority)});
    }
  }
  return out;
}

Status append(std::vector<PolicyRule>& to, const std::vector<model::BgpFilterRule>& rules, Family family,
              std::string_view list) {
  for (std::size_t i = 0; i < rules.size(); ++i) {
    auto r = rule_of(rules[i], family);
    if (!r) return wrap(r.error(), fmt::format("spec.{}[{}]", list, i));
    to.push_back(std::move(*r));
  }
  return {};
}

}  // namespace

Result<FilterRules> rules_of(const model::BgpFilter& f) {
  FilterRules out;
  if (auto ok = append(out.import, f.import_v4, Family::v4, "importV4"); !ok) return tl::unexpected(ok.error());
  if (auto ok = append(out.import, f.import_v6, Family::v6, "importV6"); !ok) return tl::unexpected(ok.error());
  if (auto ok = append(out.exports, f.export_v4, Family::v4, "exportV4"); !ok) return tl::unexpected(ok.error());
  if (auto ok = append(out.exports, f.export_v6, Family::v6, "exportV6"); !ok) return tl::unexpected(ok.error());
  // What only compiling finds (bounds) is a fault of the resource, not of the peer that names it.
  if (auto ok = RoutePolicy::compile(out.import, Default::accept); !ok) return wrap(ok.error(), "import");
  if (auto ok = RoutePolicy::compile(out.exports, Default::accept); !ok) return wrap(ok.error(), "export");
  return out;
}

Result<std::vector<PolicyRule>> advertisement_rules(const model::BgpConfiguration& c) {
  std::vector<PolicyRule> out;
  for (std::size_t i = 0; i < c.advertisements.size(); ++i) {
    const auto& a = c.advertisements[i];
    PolicyRule r;
    r.then = PolicyRule::Then::next;
    r.conditions.push_back({SourceIs{static_cast<std::uint8_t>(RouteSource::local)}});
    r.conditions.push_back({PrefixIn{PrefixList({{a.cidr, a.cidr.len, a.cidr.addr.bits()}})}});
    ChangeCommunities add{ChangeCommunities::How::add, {}};
    for (const auto& text : a.communities) {
      auto p = community(text);
      if (!p) return wrap(p.error(), fmt::format("spec.prefixAdvertisements[{}]", i));
      add.patterns.push_back(*p);
    }
    r.changes.emplace_back(std::move(add));
    out.push_back(std::move(r));
  }
  return out;
}

}  // namespace calico::bgp
