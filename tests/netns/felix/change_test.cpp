// What passes while intent changes: a packet is allowed by the last policy or by the next one, never by neither, and
// never refused by both; and many changes at once leave what a fresh start would make.
#include "tests/netns/felix/bench.hpp"
#include "tests/netns/felix/flood.hpp"

namespace calico::test {
namespace {

void replaces(const std::function<void(Bench&, const Vm&, bool second)>& put) {
  NEEDS_NETNS();
  Bench b;
  Vm a(1), c(2);
  b.group("open", Bench::kAll);
  for (auto* vm : {&a, &c}) b.plug(*vm);
  b.endpoint(a, {"open"});
  put(b, c, false);
  ASSERT_NO_FATAL_FAILURE(b.start({&a, &c}));
  ASSERT_TRUE(pings(b.host, c.ip)) << "neighbours are known";
  Flood flood(a, c);
  ASSERT_TRUE(eventually("packets", [&] { return flood.rounds > 200; }));
  for (int i = 1; i <= 200; ++i) {
    put(b, c, i % 2 == 1);
    // Packets between each change and the next.
    const auto before = flood.rounds.load();
    ASSERT_TRUE(eventually("some packets", [&] { return flood.rounds > before + 20; }));
  }
  flood.end();
  std::printf("%ld rounds, arrived %ld %ld %ld %ld\n", flood.rounds.load(), flood.arrived[0], flood.arrived[1],
              flood.arrived[2], flood.arrived[3]);
  EXPECT_GT(flood.arrived[0], 0);
  EXPECT_GT(flood.arrived[1], 0);
  EXPECT_LT(flood.arrived[0], flood.rounds);
  EXPECT_LT(flood.arrived[1], flood.rounds);
  EXPECT_EQ(flood.arrived[2], 0) << "what both refuse has passed";
  EXPECT_EQ(flood.arrived[3], flood.rounds) << "what both allow was refused";
}

TEST(FelixChange, OfARule) {
  replaces([](Bench& b, const Vm& c, bool second) {
    b.group("web", udp(second ? Flood::kSecond : Flood::kFirst) + "," + udp(Flood::kAlways));
    if (!b.view.get(Bench::key(c))) b.endpoint(c, {"web"});
  });
}

TEST(FelixChange, OfTheGroupsOfAnEndpoint) {
  replaces([](Bench& b, const Vm& c, bool second) {
    b.group("one", udp(Flood::kFirst) + "," + udp(Flood::kAlways));
    b.group("two", udp(Flood::kSecond) + "," + udp(Flood::kAlways));
    b.endpoint(c, {second ? "two" : "one"});
  });
}

TEST(FelixChange, OfTiers) {
  replaces([](Bench& b, const Vm& c, bool second) {
    b.group("one", udp(Flood::kFirst) + "," + udp(Flood::kAlways) + "," + udp(Flood::kSecond));
    if (!b.view.get(Bench::key(c))) b.endpoint(c, {"one"});
    b.view.set(std::string(model::kTiers) + "first", R"({"spec":{"order":1}})");
    b.view.set(
        std::string(model::kGlobalNetworkPolicies) + "first.one",
        fmt::format(
            R"j({{"spec":{{"tier":"first","selector":"has(sg.projectcalico.org/openstack-one)","types":["Ingress"],
                     "ingress":[{{"action":"Deny","protocol":17,"destination":{{"ports":[{}]}}}},{{"action":"Pass"}}]}}}})j",
            second ? Flood::kFirst : Flood::kSecond));
  });
}

/// Members of a selector's set instead of rules.
TEST(FelixChange, OfMembers) {
  replaces([](Bench& b, const Vm& c, bool second) {
    const auto from = [](int port, const char* role) {
      return fmt::format(
          R"j({{"action":"Allow","protocol":17,"destination":{{"ports":[{}]}},"source":{{"selector":"role == '{}'","namespaceSelector":"global()"}}}})j",
          port, role);
    };
    b.group("web", from(Flood::kFirst, "a") + "," + from(Flood::kSecond, "b") + "," + udp(Flood::kAlways));
    if (!b.view.get(Bench::key(c))) b.endpoint(c, {"web"});
    b.view.set(std::string(model::kGlobalNetworkSets) + "s",
               fmt::format(R"({{"metadata":{{"labels":{{"role":"{}"}}}},"spec":{{"nets":["10.65.0.8/29"]}}}})",
                           second ? "b" : "a"));
  });
}

TEST(FelixChange, TwoThousandSetsFlap) {
  NEEDS_NETNS();
  Bench b;
  Vm a(1), c(2);
  b.group("open", Bench::kAll);
  for (auto* vm : {&a, &c}) b.plug(*vm);
  b.endpoint(a, {"open"});
  const auto policy = [&](int n, int round) {
    std::string rules;
    for (int i = 0; i < 20; ++i)
      rules += fmt::format(
          R"j({}{{"action":"Allow","protocol":6,"destination":{{"ports":[{}]}},"source":{{"selector":"n{} == 'x' || r == '{}'","namespaceSelector":"global()"}}}})j",
          i ? "," : "", 80 + round % 2, n * 20 + i, round);
    b.group(fmt::format("g{}", n), rules);
  };
  const auto member = [&](int n, bool there) {
    b.view.set(fmt::format("{}s{}", model::kGlobalNetworkSets, n),
               there ? std::optional(fmt::format(
                           R"({{"metadata":{{"labels":{{"n{}":"x"}}}},"spec":{{"nets":["10.66.{}.{}/32"{}]}}}})", n,
                           n / 250, n % 250, n % 3 == 0 ? R"(,"10.67.0.0/16")" : ""))
                     : std::nullopt);
  };
  std::vector<std::string> groups;
  for (int n = 0; n < 100; ++n) groups.push_back(fmt::format("g{}", n));
  b.endpoint(c, groups);
  ASSERT_NO_FATAL_FAILURE(b.start({&a}));
  const auto begin = std::chrono::steady_clock::now();
  for (int round = 0; round < 6; ++round) {
    for (int n = 0; n < 100; ++n) policy(n, round);
    for (int n = 0; n < 2000; n += 7) member(n, round % 2 == 0);
    if (round % 2 == 1)
      for (int n = 0; n < 100; n += 3)
        b.view.set(model::network_policy_key("openstack", fmt::format("ossg.default.g{}", n)), std::nullopt);
  }
  for (int n = 0; n < 100; ++n) policy(n, 0);
  member(41, true);
  b.view.set(std::string(model::kGlobalNetworkSets) + "last",
             R"({"metadata":{"labels":{"n1999":"x"}},"spec":{"nets":["10.65.0.11/32"]}})");
  auto l80 = listener(c.ns, 80), l81 = listener(c.ns, 81);
  ASSERT_TRUE(eventually("80 open", [&] { return reaches(a.ns, c.ip, 80, 300); }));
  EXPECT_TRUE(refused(a.ns, c.ip, 81));
  ASSERT_TRUE(b.up(c));
  std::printf("2,000 sets, six rounds: %.1f s\n",
              std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  // Nothing is left of what came and went: a fresh start finds nothing to write.
  const auto sets = [&] {
    const auto text = b.host.run("nft list sets");
    std::size_t n = 0;
    for (std::size_t at = 0; (at = text.find("\tset s", at)) != std::string::npos; ++at) ++n;
    return n;
  };
  EXPECT_TRUE(eventually("sets", [&] { return sets() > 3990; }));
  b.stop();
  ASSERT_NO_FATAL_FAILURE(b.start({&c}));
  ASSERT_TRUE(eventually("settled", [&] { return b.report.is_settled(model::endpoint_status_prefix("", "h")); }));
  EXPECT_LE(b.described().at("nft").at("operations").to_number<int>(), 2);
}

}  // namespace
}  // namespace calico::test
