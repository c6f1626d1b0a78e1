#include "modules/felix/boxes.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/support/random_policies.hpp"

namespace calico::felix {
namespace {

using model::MatchRule;

MatchRule rule(const std::string& net, int port, int port_end = 0, bool source = true) {
  MatchRule m;
  m.verdict = model::Verdict::accept;
  m.protocol = 6;
  if (!net.empty()) {
    (source ? m.src : m.dst).net = *Prefix::parse(net);
    m.family = (source ? m.src : m.dst).net->family();
  }
  if (port != 0)
    m.dst.ports = {static_cast<std::uint16_t>(port), static_cast<std::uint16_t>(port_end ? port_end : port)};
  return m;
}

bool disjoint(const BoxSet& s) {
  for (std::size_t i = 0; i < s.boxes.size(); ++i)
    for (std::size_t k = 0; k < i; ++k)
      if (s.boxes[i].overlaps(s.boxes[k])) return false;
  return true;
}

TEST(Boxes, AGroupOfManyRulesIsOneLookup) {
  model::ChainRules rules;
  for (int i = 0; i < 200; ++i) rules.push_back(rule(fmt::format("10.{}.0.0/16", i), 1000 + i));
  rules.push_back({});
  const auto f = flatten(rules);
  ASSERT_EQ(f.lookups.size(), 1U);
  EXPECT_EQ(f.lookups[0].boxes.size(), 200U);
  EXPECT_TRUE(f.lookups[0].source);
  ASSERT_EQ(f.rest.size(), 1U);
  EXPECT_EQ(f.rest[0].verdict, model::Verdict::drop);
  EXPECT_EQ(flatten(rules).lookups[0].name, f.lookups[0].name);
  std::reverse(rules.begin(), rules.end() - 1);
  EXPECT_EQ(flatten(rules).lookups[0].name, f.lookups[0].name) << "order does not matter";
}

TEST(Boxes, WhatOverlapsGoesToLayersAndWhatIsInsideGoes) {
  model::ChainRules rules;
  for (int i = 0; i < 8; ++i) rules.push_back(rule("", 100 + i));                               // anybody, one port
  for (int i = 0; i < 8; ++i) rules.push_back(rule(fmt::format("10.{}.0.0/16", i), 1, 65535));  // somebody, all ports
  rules.push_back(rule("10.3.7.0/24", 500));                                                    // inside one of them
  const auto f = flatten(rules);
  EXPECT_TRUE(f.rest.empty());
  ASSERT_EQ(f.lookups.size(), 3U);  // two layers of IPv4; of IPv6 the first eight
  for (const auto& s : f.lookups) {
    EXPECT_TRUE(disjoint(s)) << s.name;
    EXPECT_EQ(s.boxes.size(), 8U);
  }
}

TEST(Boxes, FewRulesAndOtherRulesStay) {
  model::ChainRules few;
  for (int i = 0; i < 7; ++i) few.push_back(rule("10.0.0.0/8", 100 + i));
  EXPECT_TRUE(flatten(few).lookups.empty());
  EXPECT_EQ(flatten(few).rest, few);
  // Behind a refusal order matters; what is more than a box is none.
  model::ChainRules rules = few;
  auto more = rule("10.0.0.0/8", 200);
  more.dst.not_port_set = "ports-x";
  rules.push_back(more);
  rules.push_back({});
  rules.push_back(rule("10.0.0.0/8", 300));
  EXPECT_EQ(flatten(rules).rest, rules);
}

/// The rules asked one after the other; sets of members do not occur here.
std::optional<bool> walk(const model::ChainRules& rules, const model::Packet& p) {
  for (const auto& m : rules) {
    const auto side = [](const MatchRule::Side& s, const Ip& ip, std::uint16_t port) {
      return (!s.net || s.net->contains(ip)) && (!s.ports || (s.ports->first <= port && port <= s.ports->last));
    };
    if ((m.family && *m.family != p.src.family()) || (m.protocol && *m.protocol != p.protocol)) continue;
    if (!side(m.src, p.src, p.src_port) || !side(m.dst, p.dst, p.dst_port)) continue;
    return m.verdict == model::Verdict::accept;
  }
  return {};
}

std::optional<bool> walk(const Flat& f, const model::Packet& p) {
  for (const auto& s : f.lookups) {
    if (s.family != p.src.family()) continue;
    const Ip& ip = s.source ? p.src : p.dst;
    for (const auto& b : s.boxes)
      if (b.first <= ip && ip <= b.last && b.protocol == p.protocol && b.port <= p.dst_port && p.dst_port <= b.port_end)
        return true;
  }
  return walk(f.rest, p);
}

TEST(Boxes, FlatIsTheSameAsRules) {
  const auto seed = test::random_seed();
  RecordProperty("seed", std::to_string(seed));
  test::RandomPolicies random(seed);
  std::size_t boxes = 0, allowed = 0, refused = 0;
  for (int round = 0; round < 3000; ++round) {
    model::ChainRules rules;
    for (int i = 5 + random.below(80); i > 0; --i) {
      const int port = random.one_in(2) ? 78 + random.below(4) : 90 + random.below(30);
      auto m = rule(random.one_in(12) ? "" : random.net(random.one_in(2)).to_string(), random.one_in(20) ? 0 : port,
                    port + random.below(2), !random.one_in(6));
      if (random.one_in(3)) m.protocol = 17;
      if (random.one_in(20)) m.protocol = 58;
      if (random.one_in(20)) m.protocol.reset();
      if (random.one_in(20)) m.src.ports = {79, 80};
      if (random.one_in(25)) m.verdict = model::Verdict::drop;
      rules.push_back(std::move(m));
    }
    const auto f = flatten(rules);
    for (const auto& s : f.lookups) boxes += s.boxes.size();
    std::set<std::string> names;
    for (const auto& s : f.lookups) {
      EXPECT_TRUE(disjoint(s));
      EXPECT_GE(s.boxes.size(), kFewBoxes);
      EXPECT_TRUE(names.insert(s.name).second || !s.source);
    }
    for (int i = 0; i < 20; ++i) {
      const auto p = random.packet();
      const auto want = walk(rules, p);
      ++(want.value_or(false) ? allowed : refused);
      ASSERT_EQ(walk(f, p), want) << "seed " << seed << " round " << round << " " << p.src.to_string() << " > "
                                  << p.dst.to_string() << " protocol " << int{p.protocol} << " port " << p.dst_port;
    }
  }
  std::printf("%zu boxes, %zu allowed, %zu refused\n", boxes, allowed, refused);
  EXPECT_GT(boxes, 10000U);
  EXPECT_GT(allowed, 6000U);
  EXPECT_GT(refused, 6000U);
}

}  // namespace
}  // namespace calico::felix
