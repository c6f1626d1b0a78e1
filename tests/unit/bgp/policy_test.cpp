// Policy as data: each condition and change, the text form, bounds, and random policies against an evaluator that is
// written to be obvious instead of quick.
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "core/bgp/policy/policy_text.hpp"
#include "core/bgp/policy/route_policy.hpp"

namespace calico::bgp {
namespace {

Prefix prefix(std::string_view t) { return *Prefix::parse(t); }
Ip ip(std::string_view t) { return *Ip::parse(t); }

PolicyRule rule(std::string_view text) {
  auto r = parse_rule(text);
  EXPECT_TRUE(r) << text << ": " << (r ? "" : r.error().what);
  return r ? *r : PolicyRule{};
}

std::shared_ptr<const RoutePolicy> policy(const std::vector<std::string>& rules, Default otherwise = Default::reject) {
  std::vector<PolicyRule> all;
  for (const auto& r : rules) all.push_back(rule(r));
  auto p = RoutePolicy::compile(std::move(all), otherwise);
  EXPECT_TRUE(p) << (p ? "" : p.error().what);
  return p ? *p : nullptr;
}

AsPath path(std::initializer_list<std::uint32_t> ases) {
  std::vector<Asn> v;
  for (auto a : ases) v.push_back(Asn{a});
  return AsPath::sequence(v);
}

AsPath decoded(const Bytes& wire) { return *AsPath::decode(wire, 4); }
Bytes segment(std::uint8_t type, std::initializer_list<std::uint32_t> ases) {
  wire::Writer w(4096);
  w.be<std::uint8_t>(type);
  w.be<std::uint8_t>(ases.size());
  for (auto a : ases) w.be<std::uint32_t>(a);
  return w.take();
}

Bytes communities(const std::vector<std::string>& list) {
  Bytes out;
  for (const auto& t : list) add_community(out, *CommunityPattern::parse(t));
  return out;
}

struct Seen {
  PolicyVerdict verdict;
  std::optional<Attrs> changed;
};
Seen ask(const RoutePolicy& p, const Prefix& net, const Attrs& a, RouteSource source = RouteSource::internal,
         PeerKind peer = PeerKind::internal, std::string_view interface = {}) {
  Seen s;
  s.verdict = p.evaluate({net, source, peer, interface}, a, s.changed);
  return s;
}
bool accepts(std::string_view text, const Attrs& a, std::string_view net = "10.1.2.0/24",
             RouteSource source = RouteSource::internal, PeerKind peer = PeerKind::internal,
             std::string_view interface = {}) {
  return ask(*policy({"accept " + std::string(text)}), prefix(net), a, source, peer, interface).verdict.accept;
}
Attrs changed_by(std::string_view text, const Attrs& a, std::string_view net = "10.1.2.0/24") {
  auto s = ask(*policy({"accept set " + std::string(text)}), prefix(net), a);
  EXPECT_TRUE(s.changed) << text;
  return s.changed.value_or(a);
}

TEST(RoutePolicy, PrefixesWithAndWithoutLengths) {
  const Attrs a;
  EXPECT_TRUE(accepts("prefix 10.1.2.0/24", a));
  EXPECT_FALSE(accepts("prefix 10.1.2.0/24", a, "10.1.2.0/25"));
  EXPECT_FALSE(accepts("prefix 10.1.0.0/16", a));
  EXPECT_TRUE(accepts("prefix 10.1.0.0/16+", a));
  EXPECT_TRUE(accepts("prefix 10.1.0.0/16+", a, "10.1.0.0/16"));
  EXPECT_FALSE(accepts("prefix 10.1.0.0/16+", a, "10.0.0.0/15"));
  EXPECT_TRUE(accepts("prefix 10.0.0.0/8{24,32}", a));
  EXPECT_FALSE(accepts("prefix 10.0.0.0/8{24,32}", a, "10.1.0.0/16"));
  EXPECT_TRUE(accepts("prefix 10.0.0.0/8 ge 24", a, "10.9.9.9/32"));
  EXPECT_FALSE(accepts("prefix 10.0.0.0/8 le 16", a));
  EXPECT_TRUE(accepts("prefix 10.0.0.0/8 le 16", a, "10.0.0.0/8"));
  EXPECT_TRUE(accepts("prefix 192.168.0.0/16,10.0.0.0/8{9,9},10.1.0.0/16 ge 20 le 24", a));
  EXPECT_FALSE(accepts("prefix 192.168.0.0/16,10.0.0.0/8{9,9},10.1.0.0/16 ge 20 le 24", a, "10.1.2.0/25"));
  EXPECT_TRUE(accepts("prefix 2001:db8::/32+", a, "2001:db8:1::/48"));
  EXPECT_FALSE(accepts("prefix ::/0+", a)) << "a family never matches the other's";
  EXPECT_TRUE(accepts("not prefix 10.0.0.0/8", a));
  EXPECT_FALSE(accepts("not prefix 10.0.0.0/8+", a));
  EXPECT_TRUE(accepts("prefix 0.0.0.0/0", a, "0.0.0.0/0"));
  EXPECT_FALSE(accepts("prefix 0.0.0.0/0", a));
}

TEST(RoutePolicy, WhereARouteComesFromAndGoes) {
  const Attrs a;
  EXPECT_TRUE(accepts("from local", a, "10.0.0.1/32", RouteSource::local));
  EXPECT_FALSE(accepts("from local", a, "10.0.0.1/32", RouteSource::external));
  EXPECT_TRUE(accepts("from remote", a, "10.0.0.1/32", RouteSource::external));
  EXPECT_TRUE(accepts("from remote", a, "10.0.0.1/32", RouteSource::internal));
  EXPECT_FALSE(accepts("from remote", a, "10.0.0.1/32", RouteSource::local));
  EXPECT_TRUE(accepts("from local,ebgp", a, "10.0.0.1/32", RouteSource::external));
  EXPECT_TRUE(accepts("peer ebgp", a, "10.0.0.1/32", RouteSource::local, PeerKind::external));
  EXPECT_FALSE(accepts("peer ebgp", a, "10.0.0.1/32", RouteSource::local, PeerKind::internal));
  EXPECT_TRUE(accepts("interface tap*", a, "10.0.0.1/32", RouteSource::local, PeerKind::internal, "tap1234"));
  EXPECT_TRUE(accepts("interface eth0,t*p1", a, "10.0.0.1/32", RouteSource::local, PeerKind::internal, "tap1"));
  EXPECT_FALSE(accepts("interface tap*", a, "10.0.0.1/32", RouteSource::local, PeerKind::internal, "eth0"));
  EXPECT_FALSE(accepts("interface *", a)) << "a route without an interface has none that matches";
  EXPECT_TRUE(accepts("family ipv4", a));
  EXPECT_FALSE(accepts("family ipv6", a));
}

TEST(RoutePolicy, NumbersOriginNextHop) {
  Attrs a;
  EXPECT_TRUE(accepts("local_pref 100", a)) << "absent is 100";
  EXPECT_TRUE(accepts("med 0", a)) << "absent is 0";
  a.local_pref = 150;
  a.med = 7;
  a.origin = 2;
  a.next_hop = ip("192.168.0.11");
  EXPECT_TRUE(accepts("local_pref 101-200 med 7", a));
  EXPECT_FALSE(accepts("local_pref 151-200", a));
  EXPECT_FALSE(accepts("not med 0-7", a));
  EXPECT_TRUE(accepts("origin egp,incomplete", a));
  EXPECT_FALSE(accepts("origin igp", a));
  EXPECT_TRUE(accepts("next_hop 192.168.0.0/24", a));
  EXPECT_TRUE(accepts("next_hop 10.0.0.1,192.168.0.11", a));
  EXPECT_FALSE(accepts("next_hop 192.168.0.12", a));
}

TEST(RoutePolicy, PathsAsByAs) {
  Attrs a;
  EXPECT_TRUE(accepts("path \"\" path_length 0", a)) << "the empty path";
  EXPECT_TRUE(accepts("path *", a));
  EXPECT_FALSE(accepts("path_origin 0-4294967295", a)) << "an empty path has no origin";
  a.as_path = path({65000, 3356, 64512});
  EXPECT_TRUE(accepts("path_contains 3356", a));
  EXPECT_FALSE(accepts("path_contains 335,6", a));
  EXPECT_TRUE(accepts("path_neighbor 65000", a));
  EXPECT_FALSE(accepts("path_neighbor 64512", a));
  EXPECT_TRUE(accepts("path_origin 64512-65534", a));
  EXPECT_TRUE(accepts("path_length 3", a));
  EXPECT_TRUE(accepts("path \"65000 * 64512\"", a));
  EXPECT_TRUE(accepts("path \"65000 ? 64512\"", a));
  EXPECT_FALSE(accepts("path \"65000 64512\"", a));
  EXPECT_FALSE(accepts("path \"? ?\"", a));
  EXPECT_TRUE(accepts("path \"* 3356 *\"", a));
  EXPECT_FALSE(accepts("path \"* 3356\"", a));
  EXPECT_TRUE(accepts("path \"* 64512-65000 3000-4000 *\"", a));
  a.as_path = path({1, 2, 1, 2, 3});
  EXPECT_TRUE(accepts("path \"* 1 2 3\"", a)) << "the star has to give way";
  auto wire = segment(AsPath::kSequence, {65000});
  const auto set = segment(AsPath::kSet, {10, 20});
  wire.insert(wire.end(), set.begin(), set.end());
  a.as_path = decoded(wire);
  EXPECT_TRUE(accepts("path \"65000 20\"", a)) << "a set is one element, any member of it";
  EXPECT_FALSE(accepts("path \"65000 10 20\"", a));
  EXPECT_TRUE(accepts("path_length 2 path_contains 10 path_neighbor 65000", a));
  EXPECT_FALSE(accepts("path_origin 20", a)) << "nobody knows which of a set it was";
}

TEST(RoutePolicy, APathMadeToBeSlowIsNot) {
  // Every star of the pattern would be tried at every place by a naive matcher: 40^20 ways.
  std::vector<Asn> many(1000, Asn{1});
  Attrs a;
  a.as_path = AsPath::sequence(many);
  std::string pattern;
  for (int i = 0; i < 30; ++i) pattern += "* 1 ";
  EXPECT_FALSE(accepts("path \"" + pattern + "2\"", a));
  EXPECT_TRUE(accepts("path \"" + pattern + "\"", a));
}

TEST(RoutePolicy, CommunitiesOfAllKinds) {
  Attrs a;
  a.communities = communities({"65000:1", "65000:2", "no-export"});
  a.large_communities = communities({"65000:7:8"});
  a.ext_communities = communities({"rt:65000:9", "soo:4200000000:1"});
  EXPECT_TRUE(accepts("community 65000:1", a));
  EXPECT_TRUE(accepts("community 65000:*", a));
  EXPECT_TRUE(accepts("community *:2", a));
  EXPECT_FALSE(accepts("community 65001:*,65000:3", a));
  EXPECT_TRUE(accepts("community 1:1,no-export", a));
  EXPECT_TRUE(accepts("community 65535:65281", a)) << "no-export by number";
  EXPECT_TRUE(accepts("community_all 65000:1,65000:7:8,rt:*", a));
  EXPECT_FALSE(accepts("community_all 65000:1,blackhole", a));
  EXPECT_TRUE(accepts("community_exact 65000:*,no-export", a));
  EXPECT_FALSE(accepts("community_exact 65000:1,65000:2", a)) << "no-export is there too";
  EXPECT_TRUE(accepts("community_exact 65000:7:8", a)) << "other kinds do not count";
  EXPECT_FALSE(accepts("community_exact 65000:1,rt:*,soo:*", a)) << "one kind of two has more";
  EXPECT_TRUE(accepts("community 65000:*:8", a));
  EXPECT_TRUE(accepts("community rt:65000:*", a));
  EXPECT_FALSE(accepts("community soo:65000:*", a));
  EXPECT_TRUE(accepts("community soo:4200000000:1", a));
  EXPECT_TRUE(accepts("community ext:0x0002fde800000009", a));
  EXPECT_FALSE(accepts("not community no-export", a));
}

TEST(RoutePolicy, Changes) {
  Attrs a;
  a.next_hop = ip("10.0.0.1");
  a.communities = communities({"65000:1", "65000:2", "65001:1"});
  EXPECT_EQ(changed_by("local_pref 200", a).local_pref, 200U);
  EXPECT_EQ(changed_by("med 5", a).med, 5U);
  EXPECT_EQ(changed_by("origin incomplete", a).origin, 2);
  EXPECT_EQ(changed_by("next_hop 10.9.9.9", a).next_hop, ip("10.9.9.9"));
  EXPECT_EQ(changed_by("prepend 65000x2,65001", a).as_path.to_string(), "65000 65000 65001");
  EXPECT_EQ(changed_by("community 1:1,2:2", a).communities, communities({"1:1", "2:2"}));
  EXPECT_EQ(changed_by("community none", a).communities, Bytes());
  EXPECT_EQ(changed_by("add_community 9:9,65000:1", a).communities,
            communities({"65000:1", "65000:2", "65001:1", "9:9"}));
  EXPECT_EQ(changed_by("delete_community 65000:*", a).communities, communities({"65001:1"}));
  const auto large = changed_by("community 1:2:3", a);
  EXPECT_EQ(large.large_communities, communities({"1:2:3"}));
  EXPECT_EQ(large.communities, a.communities) << "only the kind that is listed is replaced";
  a.med = 1;
  EXPECT_FALSE(changed_by("med none", a).med);
  const auto both = changed_by("med 9 set local_pref 1", a);
  EXPECT_EQ(both.med, 9U);
  EXPECT_EQ(both.local_pref, 1U);
}

TEST(RoutePolicy, AChangeThatChangesNothingCopiesNothing) {
  Attrs a;
  a.local_pref = 200;
  a.med = 3;
  a.next_hop = ip("10.0.0.1");
  a.communities = communities({"1:1"});
  for (const char* same :
       {"local_pref 200", "med 3", "origin igp", "next_hop 10.0.0.1", "community 1:1", "add_community 1:1",
        "delete_community 2:*", "next_hop self", "next_hop keep", "next_hop 2001:db8::1"})
    EXPECT_FALSE(ask(*policy({std::string("accept set ") + same}), prefix("10.0.0.0/8"), a).changed) << same;
}

TEST(RoutePolicy, WhatTheExporterIsTold) {
  const Attrs a;
  EXPECT_EQ(ask(*policy({"accept set next_hop self"}), prefix("10.0.0.0/8"), a).verdict.next_hop_self, true);
  EXPECT_EQ(ask(*policy({"accept set next_hop keep"}), prefix("10.0.0.0/8"), a).verdict.next_hop_self, false);
  EXPECT_EQ(ask(*policy({"accept set next_hop 10.0.0.9"}), prefix("10.0.0.0/8"), a).verdict.next_hop_self, false);
  EXPECT_FALSE(ask(*policy({"accept"}), prefix("10.0.0.0/8"), a).verdict.next_hop_self);
  EXPECT_TRUE(ask(*policy({"accept set med 1"}), prefix("10.0.0.0/8"), a).verdict.med_set);
  EXPECT_FALSE(ask(*policy({"accept set med none"}), prefix("10.0.0.0/8"), a).verdict.med_set);
}

TEST(RoutePolicy, OrderNextAndDefault) {
  Attrs a;
  const auto p = policy({"next prefix 10.0.0.0/8+ set local_pref 200 add_community 1:1", "reject prefix 10.66.0.0/16+",
                         "accept local_pref 200 community 1:1 set med 4"});
  auto s = ask(*p, prefix("10.1.0.0/16"), a);
  EXPECT_TRUE(s.verdict.accept);
  EXPECT_EQ(s.verdict.rule, 2U);
  ASSERT_TRUE(s.changed);
  EXPECT_EQ(s.changed->local_pref, 200U) << "a later rule sees what an earlier one changed";
  EXPECT_EQ(s.changed->med, 4U);
  s = ask(*p, prefix("10.66.1.0/24"), a);
  EXPECT_FALSE(s.verdict.accept);
  EXPECT_EQ(s.verdict.rule, 1U);
  s = ask(*p, prefix("172.16.0.0/12"), a);
  EXPECT_FALSE(s.verdict.accept);
  EXPECT_EQ(s.verdict.rule, PolicyVerdict::kDefault);
  EXPECT_FALSE(s.changed);
  EXPECT_TRUE(ask(*policy({}, Default::accept), prefix("10.0.0.0/8"), a).verdict.accept);
  EXPECT_FALSE(ask(*policy({}, Default::reject), prefix("10.0.0.0/8"), a).verdict.accept);
}

TEST(RoutePolicy, AnOldResultIsCleared) {
  std::optional<Attrs> changed = Attrs{};
  const auto p = policy({"accept"});
  const auto net = prefix("10.0.0.0/8");
  ASSERT_TRUE(p->evaluate({.prefix = net}, Attrs{}, changed).accept);
  EXPECT_FALSE(changed);
}

TEST(RoutePolicy, ComparedByContent) {
  const PolicyRef a(policy({"accept prefix 10.0.0.0/8,10.1.0.0/16 peer ebgp"}));
  const PolicyRef b(policy({"accept peer ebgp prefix 10.1.0.0/16,10.0.0.0/8"}));
  const PolicyRef joined(policy({"accept prefix 10.1.0.0/16 peer ebgp", "accept peer ebgp prefix 10.0.0.0/8"}));
  const PolicyRef other(policy({"accept prefix 10.0.0.0/8 peer ebgp"}));
  EXPECT_NE(a.pointer(), b.pointer());
  EXPECT_EQ(a, b);
  EXPECT_EQ(a, joined);
  EXPECT_NE(a, other);
  EXPECT_NE(a, PolicyRef());
  EXPECT_EQ(PolicyRef(), PolicyRef());
  EXPECT_NE(PolicyRef(policy({}, Default::accept)), PolicyRef(policy({}, Default::reject)));
}

TEST(RoutePolicy, TenThousandRulesOfOnePrefixAreOneRule) {
  std::vector<PolicyRule> rules;
  for (std::uint32_t i = 0; i < RoutePolicy::kMaxRules; ++i)
    rules.push_back({PolicyRule::Then::accept,
                     {{PrefixIn{PrefixList({{Prefix{Ip::v4(0x0a000000 + (i << 8)), 24}, 24, 32}})}}},
                     {SetNumber{SetNumber::Field::local_pref, 7}}});
  auto p = RoutePolicy::compile(rules, Default::reject);
  ASSERT_TRUE(p) << p.error().what;
  EXPECT_EQ((*p)->rules().size(), 1U);
  EXPECT_TRUE(ask(**p, prefix("10.0.77.9/32"), {}).verdict.accept);
  EXPECT_TRUE(ask(**p, prefix("10.39.15.0/24"), {}).verdict.accept);
  EXPECT_FALSE(ask(**p, prefix("10.39.16.0/24"), {}).verdict.accept);
  EXPECT_FALSE(ask(**p, prefix("10.0.0.0/16"), {}).verdict.accept);
  rules.push_back(rules.front());
  EXPECT_FALSE(RoutePolicy::compile(rules, Default::reject)) << "one more than the bound";
}

TEST(RoutePolicy, RulesThatGoOnAreNotJoined) {
  const auto p = policy({"next prefix 10.0.0.0/8+ set prepend 65000", "next prefix 10.1.0.0/16+ set prepend 65000"},
                        Default::accept);
  EXPECT_EQ(p->rules().size(), 2U);
  EXPECT_EQ(ask(*p, prefix("10.1.0.0/24"), {}).changed->as_path.length(), 2U);
  EXPECT_EQ(policy({"accept not prefix 10.0.0.0/8", "accept not prefix 11.0.0.0/8"})->rules().size(), 2U);
}

TEST(RoutePolicy, Bounds) {
  const auto refused = [](PolicyRule r) { return !RoutePolicy::compile({std::move(r)}, Default::reject); };
  using Then = PolicyRule::Then;
  EXPECT_TRUE(refused({Then::accept, {}, {Prepend{std::vector<Asn>(33, Asn{1})}}}));
  EXPECT_TRUE(refused({Then::accept, {}, {Prepend{{}}}}));
  EXPECT_TRUE(refused({Then::accept, {}, {Prepend{{Asn{0}}}}}));
  EXPECT_TRUE(refused({Then::accept, {}, {SetOrigin{3}}}));
  EXPECT_TRUE(refused({Then::accept, {}, {SetNextHop{ip("224.0.0.1")}}}));
  EXPECT_TRUE(refused({Then::reject, {}, {SetOrigin{1}}}));
  EXPECT_TRUE(refused({Then::accept, std::vector<Condition>(33, Condition{FamilyIs{}}), {}}));
  EXPECT_TRUE(refused({Then::accept, {}, std::vector<Change>(33, Change{SetOrigin{1}})}));
  EXPECT_TRUE(refused({Then::accept, {{PathAs{PathAs::Where::anywhere, std::vector<AsRange>(1001)}}}, {}}));
}

TEST(PolicyText, EveryFormComesBackAsItself) {
  for (const char* text :
       {"accept", "reject prefix 10.0.0.0/8+", "next set local_pref 1",
        "accept not family ipv6 from local,ibgp peer ebgp origin igp,incomplete local_pref 1-2 not med 3 path_length "
        "0-4 "
        "prefix 10.0.0.0/8{9,32},192.0.2.1/32,2001:db8::/32{48,64} next_hop 10.0.0.0/8 interface tap*,eth0 "
        "path_contains 1,2-3 path_neighbor 4 path_origin 5 not path \"1 * ? 2-3\" path \"\" "
        "community 1:1,no-export,1:*:3 community_all rt:1:*,soo:10.0.0.1:2 community_exact ext:0x0102030405060708 "
        "set local_pref 4294967295 med 0 med none origin egp next_hop self next_hop keep next_hop 2001:db8::1 "
        "prepend 1x3,2 community none community 1:1 add_community 2:2:2 delete_community *:*,rt:*"}) {
    const auto r = rule(text);
    const auto again = parse_rule(to_string(r));
    ASSERT_TRUE(again) << to_string(r) << ": " << again.error().what;
    EXPECT_EQ(*again, r) << text << "\n" << to_string(r);
  }
}

TEST(PolicyText, EveryFaultNamesItsWord) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"", "begins with accept"},
      {"permit", "'permit'"},
      {"accept prefix", "'prefix' has no value"},
      {"accept prefix 10.0.0.0/33", "10.0.0.0/33"},
      {"accept prefix 10.0.0.0/8{7,9}", "{7,9}"},
      {"accept prefix 10.0.0.0/8{9}", "{9}"},
      {"accept prefix 10.0.0.0/8{9,8}", "{9,8}"},
      {"accept prefix 10.0.0.0/8{9,33}", "{9,33}"},
      {"accept prefix 10.0.0.0/8 ge 7", "lengths 7"},
      {"accept prefix 10.0.0.0/8 ge x", "'x'"},
      {"accept prefix 10.0.0.0/8 le", "''"},
      {"accept prefix 10.0.0.0/8,", "''"},
      {"accept colour red", "'colour'"},
      {"accept not", "''"},
      {"accept community 65536:1", "65536:1"},
      {"accept community 1:2:3:4", "1:2:3:4"},
      {"accept community 1", "'1'"},
      {"accept community rt:x:1", "rt:x:1"},
      {"accept community ext:0x12", "ext:0x12"},
      {"accept path \"1 .* 2\"", "'.*'"},
      {"accept path \"1", "'\"'"},
      {"accept path_contains 3-2", "3-2"},
      {"accept path_contains 4294967296", "4294967296"},
      {"accept med 5-4", "5 is more than 4"},
      {"accept origin bgp", "'bgp'"},
      {"accept family 4", "'4'"},
      {"accept interface \"a b\"", "interface"},
      {"accept interface a,", "interface"},
      {"accept next_hop here", "next_hop"},
      {"accept set", "nothing after it"},
      {"accept set weight 3", "'weight'"},
      {"accept set local_pref -1", "'-1'"},
      {"accept set med", "'med' has no value"},
      {"accept set next_hop there", "'there'"},
      {"accept set prepend 1x33", "1x33"},
      {"accept set prepend 0", "'0'"},
      {"accept set community 1:*", "1:*"},
      {"reject set med 1", "changes would do nothing"},
  };
  for (const auto& [text, word] : cases) {
    auto r = parse_rule(text);
    ASSERT_FALSE(r) << text;
    EXPECT_NE(r.error().what.find(word), std::string::npos) << text << ": " << r.error().what;
    EXPECT_EQ(r.error().what.find('\n'), std::string::npos);
  }
  EXPECT_FALSE(parse_rule(std::string(kMaxRuleText + 1, ' ')));
  const auto odd = parse_rule("accept \x01\xff");
  ASSERT_FALSE(odd);
  for (const unsigned char c : odd.error().what) EXPECT_TRUE(c >= 0x20 && c < 0x7f) << odd.error().what;
}

// --- against an obvious evaluator ----------------------------------------------------------------------------------

/// The path as a list of sets of ASes, read anew from its text.
std::vector<std::set<std::uint32_t>> elements(const AsPath& p) {
  std::vector<std::set<std::uint32_t>> out;
  std::string text = p.to_string();
  bool in_set = false;
  for (std::size_t at = 0; at < text.size();) {
    const auto end = std::min(text.find(' ', at), text.size());
    const auto word = text.substr(at, end - at);
    at = end + 1;
    if (word.empty()) continue;
    if (word == "{") {
      in_set = true;
      out.emplace_back();
    } else if (word == "}") {
      in_set = false;
    } else {
      if (!in_set) out.emplace_back();
      out.back().insert(static_cast<std::uint32_t>(std::stoul(word)));
    }
  }
  return out;
}

bool naive_path(const std::vector<std::string>& tokens, std::size_t t, const std::vector<std::set<std::uint32_t>>& path,
                std::size_t e) {
  if (t == tokens.size()) return e == path.size();
  if (tokens[t] == "*") {
    for (auto skip = e; skip <= path.size(); ++skip)
      if (naive_path(tokens, t + 1, path, skip)) return true;
    return false;
  }
  if (e == path.size()) return false;
  bool fits = tokens[t] == "?";
  for (const auto as : path[e]) {
    const auto dash = tokens[t].find('-');
    if (fits) break;
    const auto lo = std::stoul(tokens[t]);
    const auto hi = dash == std::string::npos ? lo : std::stoul(tokens[t].substr(dash + 1));
    fits = lo <= as && as <= hi;
  }
  return fits && naive_path(tokens, t + 1, path, e + 1);
}

std::vector<std::string> split(const std::string& text, char by) {
  std::vector<std::string> out;
  std::string word;
  for (const char c : text + by) {
    if (c == by) {
      if (!word.empty()) out.push_back(word);
      word.clear();
    } else {
      word += c;
    }
  }
  return out;
}

bool naive_prefix(const PrefixList& list, const Prefix& p) {
  for (const auto& e : list.entries())
    if (e.block.contains(p) && e.min <= p.len && p.len <= e.max) return true;
  return false;
}

std::set<std::string> community_set(const Attrs& a) {
  std::set<std::string> out;
  const auto add = [&](const Bytes& list, std::size_t width, char kind) {
    for (std::size_t i = 0; i + width <= list.size(); i += width)
      out.insert(kind + std::string(wire::as_text(View(list).subspan(i, width))));
  };
  add(a.communities, 4, 's');
  add(a.ext_communities, 8, 'e');
  add(a.large_communities, 12, 'l');
  return out;
}
char kind_of(const CommunityPattern& p) {
  return p.kind == CommunityPattern::Kind::standard ? 's' : p.kind == CommunityPattern::Kind::extended ? 'e' : 'l';
}
bool naive_meets(const CommunityPattern& p, const std::string& c) {
  if (c[0] != kind_of(p)) return false;
  for (std::size_t i = 1; i < c.size(); ++i)
    if ((static_cast<std::byte>(c[i]) & p.mask.at(i - 1)) != p.value.at(i - 1)) return false;
  return true;
}

bool naive_holds(const Condition& c, const RouteView& r, const Attrs& a) {
  bool is = false;
  if (auto* x = std::get_if<FamilyIs>(&c.what)) is = r.prefix.family() == x->family;
  if (auto* x = std::get_if<SourceIs>(&c.what)) is = (x->mask & static_cast<int>(r.source)) != 0;
  if (auto* x = std::get_if<PeerIs>(&c.what)) is = (x->mask & static_cast<int>(r.peer)) != 0;
  if (auto* x = std::get_if<OriginIs>(&c.what)) is = (x->mask & (1 << a.origin)) != 0;
  if (auto* x = std::get_if<NumberIn>(&c.what)) {
    std::uint32_t n = static_cast<std::uint32_t>(elements(a.as_path).size());
    if (x->field == NumberIn::Field::local_pref) n = a.local_pref ? *a.local_pref : 100;
    if (x->field == NumberIn::Field::med) n = a.med ? *a.med : 0;
    is = n >= x->min && n <= x->max;
  }
  if (auto* x = std::get_if<PrefixIn>(&c.what)) is = naive_prefix(x->list, r.prefix);
  if (auto* x = std::get_if<NextHopIn>(&c.what)) is = naive_prefix(x->list, Prefix::host(a.next_hop));
  if (auto* x = std::get_if<InterfaceIs>(&c.what))
    for (const auto& g : x->globs)
      is = is || (g.back() == '*' ? !r.interface.empty() && r.interface.starts_with(g.substr(0, g.size() - 1))
                                  : g == r.interface);
  if (auto* x = std::get_if<PathAs>(&c.what)) {
    const auto all = elements(a.as_path);
    std::set<std::uint32_t> ases;
    if (x->where == PathAs::Where::anywhere)
      for (const auto& e : all) ases.insert(e.begin(), e.end());
    else if (!all.empty()) {
      const auto& e = x->where == PathAs::Where::neighbour ? all.front() : all.back();
      if (e.size() == 1) ases = e;
    }
    for (const auto as : ases)
      for (const auto& range : x->ases) is = is || (as >= range.first && as <= range.last);
  }
  if (auto* x = std::get_if<PathLike>(&c.what))
    is = naive_path(split(x->pattern.to_string(), ' '), 0, elements(a.as_path), 0);
  if (auto* x = std::get_if<HasCommunity>(&c.what)) {
    const auto have = community_set(a);
    std::size_t met = 0;
    for (const auto& p : x->patterns) {
      bool one = false;
      for (const auto& h : have) one = one || naive_meets(p, h);
      met += one ? 1 : 0;
    }
    is = x->mode == HasCommunity::Mode::any ? met > 0 : met == x->patterns.size();
    if (x->mode == HasCommunity::Mode::exact)
      for (const auto& h : have) {
        bool listed = false, allowed = false;
        for (const auto& p : x->patterns) {
          listed = listed || kind_of(p) == h[0];
          allowed = allowed || naive_meets(p, h);
        }
        if (listed && !allowed) is = false;
      }
  }
  return is != c.negated;
}

void naive_change(const Change& c, const RouteView& r, Attrs& a, PolicyVerdict& v) {
  if (auto* x = std::get_if<SetNumber>(&c)) {
    if (x->field == SetNumber::Field::med) a.med = x->value, v.med_set = true;
    if (x->field == SetNumber::Field::local_pref) a.local_pref = x->value;
  }
  if (std::get_if<RemoveMed>(&c)) a.med.reset(), v.med_set = false;
  if (auto* x = std::get_if<SetOrigin>(&c)) a.origin = x->origin;
  if (auto* x = std::get_if<NextHopTo>(&c)) v.next_hop_self = x->self;
  if (auto* x = std::get_if<SetNextHop>(&c))
    if (x->ip.family() == r.prefix.family()) a.next_hop = x->ip, v.next_hop_self = false;
  if (auto* x = std::get_if<Prepend>(&c))
    for (std::size_t i = x->ases.size(); i-- > 0;) a.as_path = a.as_path.prepended(x->ases[i]);
  if (auto* x = std::get_if<ChangeCommunities>(&c)) {
    for (Bytes* list : {&a.communities, &a.ext_communities, &a.large_communities}) {
      const char kind = list == &a.communities ? 's' : list == &a.ext_communities ? 'e' : 'l';
      const std::size_t width = kind == 's' ? 4 : kind == 'e' ? 8 : 12;
      std::vector<std::string> now;
      for (std::size_t i = 0; i < list->size(); i += width)
        now.push_back(kind + std::string(wire::as_text(View(*list).subspan(i, width))));
      const bool listed = x->patterns.empty() || std::any_of(x->patterns.begin(), x->patterns.end(),
                                                             [&](const auto& p) { return kind_of(p) == kind; });
      if (x->how == ChangeCommunities::How::set && listed) now.clear();
      for (const auto& p : x->patterns) {
        if (kind_of(p) != kind) continue;
        const auto text = kind + std::string(wire::as_text(p.bytes()));
        if (x->how == ChangeCommunities::How::remove)
          std::erase_if(now, [&](const auto& h) { return naive_meets(p, h); });
        else if (std::find(now.begin(), now.end(), text) == now.end())
          now.push_back(text);
      }
      list->clear();
      for (const auto& h : now) {
        const auto b = wire::as_bytes(std::string_view(h).substr(1));
        list->insert(list->end(), b.begin(), b.end());
      }
    }
  }
}

class Dice {
 public:
  explicit Dice(unsigned seed) : rng_(seed) {}
  unsigned below(unsigned n) { return static_cast<unsigned>(rng_() % n); }
  template <class T>
  const T& of(const std::vector<T>& v) {
    return v[below(static_cast<unsigned>(v.size()))];
  }
  std::string list(const std::vector<std::string>& v) {
    std::string out = of(v);
    while (below(3) == 0) out += "," + of(v);
    return out;
  }
  std::string number() { return std::to_string(below(4)); }
  std::string range() {
    const auto lo = below(4);
    return below(2) ? std::to_string(lo) : std::to_string(lo) + "-" + std::to_string(lo + below(3));
  }

  std::string condition() {
    static const std::vector<std::string> kPatterns = {"\"*\"",       "\"\"",          "\"1 *\"",   "\"* 2 *\"",
                                                       "\"? 1-2 *\"", "\"* 1 * 2 *\"", "\"* 1 2\"", "\"1 ? 3\""};
    static const std::vector<std::string> kMatched = {"1:1",   "1:*",    "*:2",  "no-export", "1:1:1",
                                                      "1:*:2", "rt:1:1", "rt:*", "soo:1:*"};
    const std::string no = below(4) == 0 ? "not " : "";
    switch (below(13)) {
      case 0:
        return no + "family " + (below(2) ? "ipv4" : "ipv6");
      case 1:
        return no + "from " + list({"local", "ibgp", "ebgp", "remote"});
      case 2:
        return no + "peer " + list({"ibgp", "ebgp"});
      case 3:
        return no + "origin " + list({"igp", "egp", "incomplete"});
      case 4:
        return no + "local_pref " + range();
      case 5:
        return no + "med " + range();
      case 6:
        return no + "path_length " + range();
      case 7:
        return no + "next_hop " + list({"10.0.0.1", "10.0.0.0/30", "2001:db8::/64"});
      case 8:
        return no + "interface " + list({"tap*", "eth0", "e*"});
      case 9:
        return no + of<std::string>({"path_contains ", "path_neighbor ", "path_origin "}) + list({"1", "2-3", "4"});
      case 10:
        return no + "path " + of(kPatterns);
      case 11:
        return no + of<std::string>({"community ", "community_all ", "community_exact "}) + list(kMatched);
      default:
        return no + prefix_condition();
    }
  }
  std::string prefix_condition() {
    return "prefix " + list({"10.0.0.0/8", "10.0.0.0/8+", "10.0.0.0/8{10,12}", "10.0.0.0/10{10,32}", "10.64.0.0/10+",
                             "0.0.0.0/0{0,9}", "2001:db8::/32+", "2001:db8::/33{34,48}", "10.0.0.0/8{12,14}"});
  }
  std::string change() {
    static const std::vector<std::string> kValues = {"1:1",   "1:2",   "2:2",    "no-export",
                                                     "1:1:1", "1:1:2", "rt:1:1", "soo:1:1"};
    static const std::vector<std::string> kDeleted = {"1:*", "*:2", "*:*:*", "rt:*", "1:1"};
    switch (below(9)) {
      case 0:
        return "local_pref " + number();
      case 1:
        return "med " + (below(4) ? number() : "none");
      case 2:
        return "origin " + of<std::string>({"igp", "egp", "incomplete"});
      case 3:
        return "next_hop " + of<std::string>({"self", "keep", "10.0.0.1", "10.0.0.9", "2001:db8::1"});
      case 4:
        return "prepend " + list({"1", "2", "3x2"});
      case 5:
        return "community " + (below(4) ? list(kValues) : "none");
      case 6:
      case 7:
        return "add_community " + list(kValues);
      default:
        return "delete_community " + list(kDeleted);
    }
  }
  std::string rule() {
    std::string out = of<std::string>({"accept", "reject", "next", "next"});
    for (auto n = below(4); n > 0; --n) out += " " + condition();
    if (!out.starts_with("reject") && below(3) != 0) {
      out += " set";
      for (auto n = 1 + below(3); n > 0; --n) out += " " + change();
    }
    return out;
  }
  Prefix net() {
    if (below(4) == 0) {
      auto p = prefix("2001:db8::/32");
      p.len = static_cast<std::uint8_t>(30 + below(20));
      return p.masked();
    }
    return Prefix{Ip::v4(0x0a000000 | below(4) << 22), static_cast<std::uint8_t>(7 + below(8))}.masked();
  }
  Attrs attrs() {
    Attrs a;
    a.origin = static_cast<std::uint8_t>(below(3));
    Bytes wire;
    for (auto n = below(3); n > 0; --n) {
      const auto type = below(4) == 0 ? AsPath::kSet : AsPath::kSequence;
      Bytes s = below(2) ? segment(type, {1 + below(4)}) : segment(type, {1 + below(4), 1 + below(4)});
      wire.insert(wire.end(), s.begin(), s.end());
    }
    a.as_path = decoded(wire);
    a.next_hop = ip(of<std::string>({"10.0.0.1", "10.0.0.2", "10.0.0.9", "2001:db8::1"}));
    if (below(2)) a.med = below(4);
    if (below(2)) a.local_pref = below(4);
    if (below(2)) a.communities = communities(split(list({"1:1", "1:2", "2:2", "no-export"}), ','));
    if (below(2)) a.large_communities = communities(split(list({"1:1:1", "1:1:2"}), ','));
    if (below(2)) a.ext_communities = communities(split(list({"rt:1:1", "soo:1:1", "rt:2:2"}), ','));
    return a;
  }

 private:
  std::mt19937 rng_;
};

/// A set of two equal members is one AS in the naive reading and a set in ours; the neighbour of a path that begins
/// with a set is nobody.
bool ambiguous(const AsPath& p) {
  bool odd = false;
  for (std::size_t at = 0; at < p.wire().size();) {
    const auto type = std::to_integer<int>(p.wire()[at]);
    const auto count = std::to_integer<std::size_t>(p.wire()[at + 1]);
    odd = odd || (type == AsPath::kSet && (count < 2 || p.wire()[at + 5] == p.wire()[at + 9]));
    at += 2 + count * 4;
  }
  return odd;
}

TEST(RoutePolicy, RandomPoliciesAgainstAnObviousEvaluator) {
  Dice dice(20260301);
  std::size_t accepted = 0, rejected = 0, changed_some = 0, joined = 0;
  for (int round = 0; round < 1500; ++round) {
    std::vector<PolicyRule> rules;
    std::vector<std::string> texts;
    for (auto n = dice.below(8); n > 0; --n) {
      texts.push_back(dice.rule());
      if (dice.below(4) != 0) continue;
      // A row of rules that differ in their prefixes only.
      const auto verdict = dice.of<std::string>({"accept", "reject"});
      const auto rest = dice.of<std::string>({"", " peer ebgp", " not med 1"});
      for (auto more = 2 + dice.below(2); more > 0; --more)
        texts.push_back(verdict + " " + dice.prefix_condition() + rest);
    }
    for (const auto& text : texts) {
      auto r = parse_rule(text);
      ASSERT_TRUE(r) << text << ": " << r.error().what;
      auto again = parse_rule(to_string(*r));
      ASSERT_TRUE(again) << to_string(*r) << ": " << again.error().what;
      ASSERT_EQ(*again, *r) << text;
      rules.push_back(std::move(*r));
    }
    const auto otherwise = dice.below(2) ? Default::accept : Default::reject;
    auto p = RoutePolicy::compile(rules, otherwise);
    ASSERT_TRUE(p) << p.error().what;
    joined += (*p)->rules().size() < rules.size() ? 1 : 0;
    for (int route = 0; route < 40; ++route) {
      auto a = dice.attrs();
      while (ambiguous(a.as_path)) a = dice.attrs();
      const auto net = dice.net();
      const auto interface = dice.of<std::string>({"", "tap1", "eth0"});
      const RouteView view{net, static_cast<RouteSource>(1U << dice.below(3)),
                           static_cast<PeerKind>(1U << dice.below(2)), interface};
      Attrs expected = a;
      PolicyVerdict want;
      want.accept = otherwise == Default::accept;
      for (const auto& r : rules) {
        bool all = true;
        for (const auto& c : r.conditions) all = all && naive_holds(c, view, expected);
        if (!all) continue;
        for (const auto& c : r.changes) naive_change(c, view, expected, want);
        if (r.then == PolicyRule::Then::next) continue;
        want.accept = r.then == PolicyRule::Then::accept;
        break;
      }
      std::optional<Attrs> changed;
      const auto got = (*p)->evaluate(view, a, changed);
      std::string shown;
      for (const auto& r : rules) shown += to_string(r) + "\n";
      ASSERT_EQ(got.accept, want.accept) << shown << net.to_string();
      (got.accept ? accepted : rejected) += 1;
      ASSERT_EQ(changed.value_or(a), expected) << shown << net.to_string();
      ASSERT_EQ(got.next_hop_self, want.next_hop_self) << shown;
      ASSERT_EQ(got.med_set, want.med_set) << shown;
      changed_some += changed ? 1 : 0;
    }
  }
  EXPECT_GT(accepted, 5000U);
  EXPECT_GT(rejected, 5000U);
  EXPECT_GT(changed_some, 5000U);
  EXPECT_GT(joined, 100U);
}

TEST(PolicyText, GarbageIsRefusedOrRead) {
  Dice dice(7);
  const std::string alphabet = "acep jrt nox12:*,{}+/\"-?.";
  for (int round = 0; round < 20000; ++round) {
    std::string text = dice.below(2) ? dice.rule() : "accept ";
    for (auto n = 1 + dice.below(6); n > 0; --n) {
      const char c = alphabet[dice.below(static_cast<unsigned>(alphabet.size()))];
      const auto at = dice.below(static_cast<unsigned>(text.size()));
      if (dice.below(2))
        text[at] = c;
      else
        text.insert(at, 1, c);
    }
    auto r = parse_rule(text);
    if (!r) continue;
    auto again = parse_rule(to_string(*r));
    ASSERT_TRUE(again) << text << " -> " << to_string(*r) << ": " << again.error().what;
    ASSERT_EQ(*again, *r) << text << " -> " << to_string(*r);
  }
}

}  // namespace
}  // namespace calico::bgp
