#include "core/model/evaluate.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "core/model/compiler.hpp"
#include "core/model/keys.hpp"
#include "core/model/walk.hpp"

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

struct Random {
  std::mt19937_64 g;
  int below(int n) { return static_cast<int>(g() % static_cast<unsigned>(n)); }
  bool one_in(int n) { return below(n) == 0; }
  template <class T>
  T any(const std::vector<T>& v) {
    return v[static_cast<std::size_t>(below(static_cast<int>(v.size())))];
  }
  std::string address(bool v4) { return fmt::format("{}{}", v4 ? "10.0.0." : "fd00::", 1 + below(8)); }
  std::string selector() {
    return any<std::string>({"all()", "all()", "all()", "has(a)", "!has(a)", "a == 'x'", "b != 'x'", "a in {'x','y'}",
                             "b not in {'y'}", "has(a) && b == 'x'", "a == 'y' || has(b)", "b starts with 'x'",
                             "!(has(a) && has(b))"});
  }
  std::vector<Prefix> nets() {
    std::vector<Prefix> out;
    for (int i = 1 + below(2); i > 0; --i)
      out.push_back(*Prefix::parse(any<std::string>(
          {"10.0.0.0/30", "10.0.0.4/31", "0.0.0.0/0", "10.0.0.3/32", "fd00::/126", "::/0", "fd00::4/127"})));
    return out;
  }
  EntityRule side(bool ported) {
    EntityRule e;
    if (one_in(7)) e.nets = nets();
    if (one_in(12)) e.not_nets = nets();
    if (one_in(5)) e.selector = selector();
    if (one_in(12)) e.not_selector = selector();
    if (one_in(12)) e.namespace_selector = any<std::string>({"all()", "global()", "has(a)"});
    if (ported && one_in(3)) e.ports = {{79, 81}, {100, 100}};
    if (ported && one_in(5)) e.not_ports = {{80, 80}};
    if (ported && one_in(4)) e.named_ports = any<std::vector<std::string>>({{"http"}, {"http", "dns"}, {"nobodys"}});
    if (ported && one_in(8)) e.not_named_ports = any<std::vector<std::string>>({{"http"}, {"dns", "http"}});
    return e;
  }
  std::vector<Rule> rules() {
    std::vector<Rule> out;
    for (int i = 1 + below(5); i > 0; --i) {
      Rule r;
      r.action = any<Action>({Action::allow, Action::allow, Action::allow, Action::deny, Action::log, Action::pass});
      if (one_in(6)) r.ip_version = any<Family>({Family::v4, Family::v6});
      if (one_in(2)) r.protocol = any<std::uint8_t>({1, 6, 6, 17, 58});
      if (one_in(8)) r.not_protocol = any<std::uint8_t>({6, 17});
      if (r.protocol == 1 || r.protocol == 58) {
        if (one_in(2)) r.icmp = Icmp{8, one_in(2) ? std::optional<std::uint8_t>(0) : std::nullopt};
        if (one_in(4)) r.not_icmp = Icmp{8, one_in(2) ? std::optional<std::uint8_t>(0) : std::nullopt};
      }
      const bool ported = r.protocol == 6 || r.protocol == 17;
      r.source = side(ported);
      r.destination = side(ported);
      out.push_back(std::move(r));
    }
    return out;
  }
  Packet packet() {
    const bool v4 = one_in(2);
    Packet p;
    p.src = *Ip::parse(address(v4));
    p.dst = *Ip::parse(address(v4));
    p.protocol = any<std::uint8_t>({1, 6, 6, 17, 58});
    if (p.protocol == 6 || p.protocol == 17) {
      p.src_port = any<std::uint16_t>({80, 100, 5000});
      p.dst_port = any<std::uint16_t>({79, 80, 100, 5000});
    } else {
      p.icmp = Icmp{any<std::uint8_t>({0, 8}), static_cast<std::uint8_t>(below(2))};
    }
    return p;
  }
};

using Content = std::map<std::string, std::string>;

/// Everything a small cluster may say.
Content world(Random& random) {
  Content content;
  const auto some_profiles = [&] {
    std::vector<std::string> out;
    if (random.one_in(2)) out = random.any<std::vector<std::string>>({{"one"}, {"two", "one"}, {"one", "missing"}});
    return out;
  };
  for (int i = 0; i < 4; ++i) {
    WorkloadEndpoint e;
    e.meta.ns = i == 3 ? "other" : "openstack";
    if (random.one_in(2)) e.meta.labels["a"] = random.any<std::string>({"x", "y"});
    if (random.one_in(2)) e.meta.labels["b"] = random.any<std::string>({"x", "y", "xy"});
    e.orchestrator = "openstack";
    e.node = "h";
    e.workload = fmt::format("vm{}", i);
    e.endpoint = fmt::format("p{}", i);
    e.interface_name = fmt::format("tap{}", i);
    e.mac = Mac{{2, 0, 0, 0, 0, static_cast<std::uint8_t>(i)}};
    e.ip_networks = {Prefix::host(*Ip::parse(random.address(true))), Prefix::host(*Ip::parse(random.address(false)))};
    if (random.one_in(4)) e.ip_networks.push_back(*Prefix::parse("10.0.0.4/30"));
    e.profiles = some_profiles();
    if (random.one_in(2)) e.ports.push_back({"http", 6, random.any<std::uint16_t>({80, 5000})});
    if (random.one_in(3)) e.ports.push_back({"dns", random.any<std::uint8_t>({6, 17}), 100});
    const WorkloadEndpointName name{"h", "openstack", e.workload, e.endpoint};
    e.meta.name = format_wep_name(name);
    content[workload_endpoint_key(e.meta.ns, name)] = to_json(e);
  }
  for (int i = 1 + random.below(4); i > 0; --i) {
    NetworkPolicy p;
    p.global = random.one_in(4);
    p.meta.name = fmt::format("p{}", i);
    if (!p.global) p.meta.ns = random.one_in(6) ? "other" : "openstack";
    p.tier = random.any<std::string>({"default", "default", "first", "second", "unknown"});
    p.selector = random.selector();
    if (p.global && random.one_in(3)) p.namespace_selector = random.any<std::string>({"all()", "global()"});
    if (random.one_in(2)) p.order = random.below(3);
    if (random.one_in(4)) (random.one_in(2) ? p.ingress_type : p.egress_type) = false;
    if (random.one_in(12)) (random.one_in(2) ? p.do_not_track : p.pre_dnat) = true;
    p.ingress = random.rules();
    p.egress = random.rules();
    content[p.global ? fmt::format("{}{}", kGlobalNetworkPolicies, p.meta.name)
                     : network_policy_key(p.meta.ns, p.meta.name)] = to_json(p);
  }
  for (const auto* name : {"first", "second", "default"})
    if (random.one_in(2)) {
      const Tier tier{random.one_in(3) ? std::nullopt : std::optional<double>(random.below(3)), random.one_in(2)};
      content[fmt::format("{}{}", kTiers, name)] = to_json(name, tier);
    }
  for (const auto* name : {"one", "two", "kns.openstack"})
    if (!random.one_in(4)) {
      Profile p;
      if (random.one_in(2)) p.labels_to_apply[random.any<std::string>({"a", "b"})] = "x";
      if (random.one_in(3)) p.labels_to_apply["pcns.a"] = "y";
      p.ingress = random.rules();
      p.egress = random.rules();
      content[fmt::format("{}{}", kProfiles, name)] = to_json(name, p);
    }
  for (int i = random.below(3); i > 0; --i) {
    NetworkSet s;
    if (random.one_in(2)) s.labels["a"] = random.any<std::string>({"x", "y"});
    if (random.one_in(2)) s.labels["b"] = random.any<std::string>({"x", "xy"});
    s.nets = random.nets();
    const std::string ns = random.any<std::string>({"", "openstack", "other"});
    const auto name = fmt::format("s{}", i);
    content[ns.empty() ? fmt::format("{}{}", kGlobalNetworkSets, name)
                       : fmt::format("{}{}/{}", kNetworkSets, ns, name)] = to_json(ns, name, s);
  }
  return content;
}

/// CALICO_SEED=n repeats a run.
TEST(Evaluate, CompilerAgreesOnTenThousandRandomSets) {
  const char* given = std::getenv("CALICO_SEED");
  const std::uint64_t seed = given ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  RecordProperty("seed", std::to_string(seed));
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  Random random{std::mt19937_64(seed)};
  std::size_t allowed = 0;
  std::size_t refused = 0;
  for (int round = 0; round < 10000; ++round) {
    const auto final = world(random);
    std::vector<std::pair<std::string, std::string>> content(final.begin(), final.end());
    std::shuffle(content.begin(), content.end(), random.g);
    Policies policies;
    Compiler compiler({.host = "h"});
    if (random.one_in(2)) {  // another past, which may leave no trace
      const auto past = world(random);
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
      for (const auto& [key, value] : content) fresh.update(key, value);
      fresh.flush();
      ASSERT_EQ(to_text(compiler.ruleset()), to_text(fresh.ruleset())) << "seed " << seed << " round " << round;
    }
    const Walk kernel(compiler.ruleset());
    ASSERT_EQ(left_over(compiler.ruleset()), "");
    ASSERT_EQ(compiler.ruleset().endpoints.size(), 3U);
    for (const auto& [key, plan] : compiler.ruleset().endpoints)
      for (const auto d : {Direction::ingress, Direction::egress}) {
        const auto p = random.packet();
        const auto j = judge(policies, key, d, p);
        ++(j.allowed ? allowed : refused);
        if (kernel.allowed(plan, d, p) == j.allowed) continue;
        std::string all;
        for (const auto& [k, v] : content) all += k + " " + v + "\n";
        FAIL() << "seed " << seed << " round " << round << " " << key << " "
               << (d == Direction::ingress ? "ingress " : "egress ") << p.src.to_string() << " > " << p.dst.to_string()
               << " protocol " << int{p.protocol} << " ports " << p.src_port << " " << p.dst_port
               << " evaluator: " << j.allowed << " " << j.reason << "\n"
               << all << to_text(compiler.ruleset());
      }
  }
  std::printf("%zu allowed, %zu refused\n", allowed, refused);
  EXPECT_GT(allowed, 6000U);
  EXPECT_GT(refused, 6000U);
}

}  // namespace
}  // namespace calico::model
