#pragma once
/// A Ruleset built from the compiler's deltas alone, as the kernel is: what it becomes must equal the compiler's own.
#include <gtest/gtest.h>

#include "core/model/ruleset.hpp"

namespace calico::test {

/// The kernel as the deltas make it.
struct RulesetMirror {
  model::Ruleset r;
  void apply(const model::Ruleset& now, const model::RulesetDelta& d) {
    for (const auto& n : d.chains) {
      r.titles.erase(n);
      if (auto it = now.chains.find(n); it != now.chains.end()) {
        r.chains[n] = it->second;
        if (auto title = now.titles.find(n); title != now.titles.end()) r.titles.insert(*title);
      } else {
        EXPECT_EQ(r.chains.erase(n), 1U) << n;
      }
    }
    for (const auto& n : d.sets_gone) EXPECT_EQ(r.sets.erase(n), 1U) << n;
    for (const auto& n : d.sets_made) {
      ASSERT_FALSE(r.sets.contains(n)) << n;
      r.sets[n] = now.sets.at(n);
      r.sets[n].elements.clear();
    }
    for (const auto& [n, e] : d.elements) {
      ASSERT_TRUE(r.sets.contains(n)) << n;
      for (const auto& x : e.removed) EXPECT_EQ(r.sets[n].elements.erase(x), 1U) << n;
      for (const auto& x : e.added) EXPECT_TRUE(r.sets[n].elements.insert(x).second) << n;
    }
    for (const auto& n : d.endpoints) {
      if (auto it = now.endpoints.find(n); it != now.endpoints.end())
        r.endpoints[n] = it->second;
      else
        EXPECT_EQ(r.endpoints.erase(n), 1U) << n;
    }
    for (const auto& n : d.hosts) {
      if (auto it = now.hosts.find(n); it != now.hosts.end())
        r.hosts[n] = it->second;
      else
        EXPECT_EQ(r.hosts.erase(n), 1U) << n;
    }
  }
};

/// Every name a rule or map uses is there: what the kernel would refuse.
inline void expect_consistent(const model::Ruleset& r) {
  const auto set = [&](const std::string& n) { EXPECT_TRUE(r.sets.contains(n)) << n; };
  for (const auto& [name, rules] : r.chains)
    for (const auto& m : rules) {
      for (const auto* side : {&m.src, &m.dst}) {
        for (const auto& n : side->in_sets) set(n);
        for (const auto& n : side->not_in_sets) set(n);
        if (!side->ip_port_set.empty()) set(side->ip_port_set);
        for (const auto& n : side->not_ip_port_sets) set(n);
        if (!side->port_set.empty()) set(side->port_set);
        if (!side->not_port_set.empty()) set(side->not_port_set);
      }
      if (m.verdict == model::Verdict::jump || m.verdict == model::Verdict::go) {
        EXPECT_TRUE(r.chains.contains(m.target)) << m.target;
      }
    }
  for (const auto* map : {"from", "to"})
    for (const auto& e : r.sets.at(map).elements) EXPECT_TRUE(r.chains.contains(e.chain)) << e.chain;
}

}  // namespace calico::test
