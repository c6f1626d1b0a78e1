#include "core/model/evaluate.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <random>

#include "core/model/compiler.hpp"
#include "core/model/keys.hpp"
#include "core/model/walk.hpp"
#include "tests/support/random_policies.hpp"

namespace calico::model {
namespace {

Rule rule(Action a, std::optional<std::uint8_t> protocol = {}) {
  Rule r;
  r.action = a;
  r.protocol = protocol;
  return r;
}

WorkloadEndpoint endpoint(const std::string& net, Labels labels) {
  WorkloadEndpoint e;
  e.meta.ns = "openstack";
  e.meta.labels = std::move(labels);
  e.ip_networks = {*Prefix::parse(net)};
  return e;
}

NetworkPolicy policy(const std::string& name, const std::string& selector, std::vector<Rule> ingress) {
  NetworkPolicy p;
  p.meta.ns = "openstack";
  p.meta.name = name;
  p.selector = selector;
  p.egress_type = false;
  p.ingress = std::move(ingress);
  return p;
}

Packet packet(const std::string& src, const std::string& dst) {
  Packet p;
  p.src = *Ip::parse(src);
  p.dst = *Ip::parse(dst);
  p.dst_port = 80;
  return p;
}

TEST(Evaluate, OrderThenName) {
  Policies p;
  p.endpoints["e"] = endpoint("10.0.0.1/32", {});
  p.policies["1"] = policy("b", "all()", {rule(Action::deny)});
  p.policies["2"] = policy("a", "all()", {rule(Action::log), rule(Action::allow, 6)});
  auto j = judge(p, "e", Direction::ingress, packet("192.0.2.1", "10.0.0.1"));
  EXPECT_TRUE(j.allowed);
  EXPECT_EQ(j.reason, "policy openstack/a ingress rule 2");
  EXPECT_EQ(j.logged, std::vector<std::string>{"policy openstack/a ingress rule 1"});
  p.policies["1"].order = 5;  // before those without one
  j = judge(p, "e", Direction::ingress, packet("192.0.2.1", "10.0.0.1"));
  EXPECT_FALSE(j.allowed);
  EXPECT_EQ(j.reason, "policy openstack/b ingress rule 1");
}

TEST(Evaluate, TiersPassAndProfiles) {
  Policies p;
  p.endpoints["e"] = endpoint("10.0.0.1/32", {});
  p.endpoints["e"].profiles = {"x"};
  p.profiles["x"] = {{{"role", "web"}}, {rule(Action::allow)}, {}};
  const auto ask = [&] { return judge(p, "e", Direction::ingress, packet("192.0.2.1", "10.0.0.1")); };
  EXPECT_EQ(ask().reason, "profile x ingress rule 1");
  EXPECT_TRUE(ask().allowed);
  // The label is the profile's, so the policy's; nothing in it matches TCP.
  p.policies["1"] = policy("a", "role == 'web'", {rule(Action::allow, 17)});
  p.policies["1"].tier = "first";
  EXPECT_FALSE(ask().allowed);
  EXPECT_EQ(ask().reason, "default deny of tier first, ingress");
  p.tiers["first"] = {1, true};
  EXPECT_TRUE(ask().allowed);
  p.tiers["first"] = {1, false};
  p.policies["1"].ingress.push_back(rule(Action::pass));
  p.policies["2"] = policy("z", "all()", {rule(Action::deny)});
  EXPECT_EQ(ask().reason, "policy openstack/z ingress rule 1");
  p.tiers["default"] = {0, false};
  p.policies["2"].ingress = {rule(Action::allow)};
  EXPECT_EQ(ask().reason, "policy openstack/z ingress rule 1");
  EXPECT_TRUE(ask().allowed);
  p.endpoints["e"].meta.labels["role"] = "db";  // its own label wins
  p.policies.erase("2");
  EXPECT_EQ(ask().reason, "profile x ingress rule 1");
  EXPECT_EQ(judge(p, "none", Direction::ingress, packet("192.0.2.1", "10.0.0.1")).reason, "no such endpoint");
}

TEST(Evaluate, BothEnds) {
  Policies p;
  p.endpoints["a"] = endpoint("10.0.0.1/32", {{"a", ""}});
  p.endpoints["b"] = endpoint("10.0.0.2/32", {{"b", ""}});
  p.policies["1"] = policy("in", "has(b)", {rule(Action::allow)});
  EXPECT_EQ(evaluate(p, packet("10.0.0.1", "10.0.0.2")).reason, "no policy or profile allows egress");
  p.policies["2"] = policy("out", "has(a)", {});
  p.policies["2"].ingress_type = false;
  p.policies["2"].egress_type = true;
  p.policies["2"].egress = {rule(Action::allow)};
  const auto j = evaluate(p, packet("10.0.0.1", "10.0.0.2"));
  EXPECT_TRUE(j.allowed);
  EXPECT_EQ(j.reason, "policy openstack/out egress rule 1; policy openstack/in ingress rule 1");
  EXPECT_TRUE(evaluate(p, packet("192.0.2.1", "10.0.0.2")).allowed);
  EXPECT_FALSE(evaluate(p, packet("10.0.0.2", "10.0.0.1")).allowed);
}

// --- the compiled rules, walked, against the evaluator ---------------------------------------------------------------

/// What is left in the compiled value that the kernel would refuse; empty when it is whole.
std::string left_over(const Ruleset& r) {
  for (const auto& [name, rules] : r.chains)
    for (const auto& m : rules) {
      if (m.verdict == Verdict::pass) return "a Pass in " + name;
      if (!m.target.empty() && !r.chains.contains(m.target)) return "chain " + m.target;
      for (const auto* side : {&m.src, &m.dst}) {
        auto sets = side->in_sets;
        sets.insert(sets.end(), side->not_in_sets.begin(), side->not_in_sets.end());
        sets.insert(sets.end(), side->not_ip_port_sets.begin(), side->not_ip_port_sets.end());
        for (const auto* one : {&side->ip_port_set, &side->port_set, &side->not_port_set})
          if (!one->empty()) sets.push_back(*one);
        for (const auto& n : sets)
          if (!r.sets.contains(n)) return "set " + n;
      }
    }
  return {};
}

/// CALICO_SEED=n repeats a run.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::size_t kWorlds = 1000;  // ten times as slow there, and looking for other things
#else
constexpr std::size_t kWorlds = 10000;
#endif

TEST(Evaluate, CompilerAgreesOnTenThousandRandomSets) {
  const std::uint64_t seed = test::random_seed();
  RecordProperty("seed", std::to_string(seed));
  test::RandomPolicies random(seed);
  const std::vector<HostInterface> interfaces = {{"eth0", {*Ip::parse("10.0.0.1"), *Ip::parse("fd00::2")}},
                                                 {"eth1", {*Ip::parse("10.0.0.3")}},
                                                 {"eth2", {*Ip::parse("10.0.0.4"), *Ip::parse("fd00::5")}}};
  std::size_t allowed = 0;
  std::size_t refused = 0;
  std::size_t host_allowed = 0, host_refused = 0;
  std::size_t through = 0, not_through = 0;
  for (std::size_t round = 0; round < kWorlds; ++round) {
    auto final = random.world();
    random.add_hosts(final);
    std::vector<std::pair<std::string, std::string>> content(final.begin(), final.end());
    std::shuffle(content.begin(), content.end(), random.g);
    Policies policies;
    Compiler compiler({.host = "h"});
    compiler.set_host_interfaces(interfaces);
    if (random.one_in(2)) {  // another past, which may leave no trace
      auto past = random.world();
      random.add_hosts(past);
      for (const auto& [key, value] : past) compiler.update(key, value);
      compiler.flush();
      for (const auto& [key, value] : past)
        if (!final.contains(key)) {
          compiler.update(key, std::nullopt);
          if (random.one_in(4)) compiler.flush();
        }
    }
    for (const auto& [key, value] : content) {
      const auto read = policies.update(key, value);
      ASSERT_TRUE(read) << value;
      compiler.update(key, value);
      if (random.one_in(4)) compiler.flush();
    }
    compiler.flush();
    ASSERT_TRUE(compiler.faults().empty()) << compiler.faults().begin()->second;
    if (round % 4 == 0) {
      Compiler fresh({.host = "h"});
      fresh.set_host_interfaces(interfaces);
      for (const auto& [key, value] : content) fresh.update(key, value);
      fresh.flush();
      ASSERT_EQ(to_text(compiler.ruleset()), to_text(fresh.ruleset())) << "seed " << seed << " round " << round;
    }
    const Walk kernel(compiler.ruleset());
    ASSERT_EQ(left_over(compiler.ruleset()), "");
    const auto compare = [&](bool got, const Judgement& j, const std::string& where, Direction d, const Packet& p) {
      std::string all;
      if (got != j.allowed)
        for (const auto& [k, v] : content) all += k + " " + v + "\n";
      ASSERT_EQ(got, j.allowed) << "seed " << seed << " round " << round << " " << where << " "
                                << (d == Direction::ingress ? "ingress " : "egress ") << p.src.to_string() << " > "
                                << p.dst.to_string() << " protocol " << int{p.protocol} << " ports " << p.src_port
                                << " " << p.dst_port << " evaluator: " << j.reason << "\n"
                                << all << to_text(compiler.ruleset());
    };
    ASSERT_EQ(compiler.ruleset().endpoints.size(), 3U);
    for (const auto& [key, plan] : compiler.ruleset().endpoints)
      for (const auto d : {Direction::ingress, Direction::egress}) {
        const auto p = random.packet();
        const auto j = judge(policies, key, d, p);
        ++(j.allowed ? allowed : refused);
        ASSERT_NO_FATAL_FAILURE(compare(kernel.allowed(plan, d, p), j, key, d, p));
      }
    for (const auto& [key, plan] : compiler.ruleset().hosts)
      for (const auto& interface : plan.interfaces)
        for (const auto d : {Direction::ingress, Direction::egress})
          for (const auto traffic : {HostTraffic::local, HostTraffic::forwarded}) {
            const auto p = random.packet();
            const auto j = judge_host(policies, key, traffic, d, p);
            ++(traffic == HostTraffic::local ? (j.allowed ? host_allowed : host_refused)
                                             : (j.allowed ? through : not_through));
            ASSERT_NO_FATAL_FAILURE(compare(kernel.allowed_host(interface == "*" ? "eth9" : interface, traffic, d, p),
                                            j, plan.name + " on " + interface, d, p));
          }
  }
  std::printf("%zu allowed, %zu refused\n", allowed, refused);
  EXPECT_GT(allowed, kWorlds * 6 / 10);
  EXPECT_GT(refused, kWorlds * 6 / 10);
  std::printf("host endpoints: %zu allowed, %zu refused; forwarded: %zu allowed, %zu refused\n", host_allowed,
              host_refused, through, not_through);
  for (const auto n : {host_allowed, host_refused, through, not_through}) EXPECT_GT(n, kWorlds / 10);
}

}  // namespace
}  // namespace calico::model
