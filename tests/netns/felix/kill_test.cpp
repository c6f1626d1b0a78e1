// Felix killed by SIGKILL at any moment of large changes, again and again, while packets flow: what passes is always
// one policy's or the other's, and the next start makes the kernel what it would be without a past.
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>
#include <thread>

#include "tests/netns/felix/bench.hpp"
#include "tests/netns/felix/felix_process.hpp"
#include "tests/netns/felix/flood.hpp"
#include "tests/support/temp_dir.hpp"

namespace calico::test {
namespace {

using Content = std::map<std::string, std::string>;
constexpr auto kDirectory = "CALICO_KILL_TEST";

/// One of two states: rules, the class of an endpoint, and two thousand members of a set differ.
void put(Bench& b, const Vm& c, bool second) {
  b.group("web", udp(second ? Flood::kSecond : Flood::kFirst) + "," + udp(Flood::kAlways));
  std::string rules;
  for (int i = 0; i < 200; ++i)
    rules += fmt::format(
        R"j({}{{"action":"Allow","protocol":6,"destination":{{"ports":[{}]}},"source":{{"nets":["10.{}.0.0/16"]}}}})j",
        i ? "," : "", 1000 + i * (second ? 3 : 2), i);
  b.group("many", rules);
  b.group(second ? "two" : "one",
          R"j({"action":"Allow","protocol":6,"source":{"selector":"has(member)","namespaceSelector":"global()"}})j");
  b.endpoint(c, {"web", "many", second ? "two" : "one"});
  std::string nets;
  for (int i = second ? 1000 : 0; i < (second ? 3000 : 2000); ++i)
    nets += fmt::format(R"({}"10.66.{}.{}/32")", nets.empty() ? "" : ",", i / 250, i % 250);
  b.view.set(std::string(model::kGlobalNetworkSets) + "members",
             fmt::format(R"({{"metadata":{{"labels":{{"member":""}}}},"spec":{{"nets":[{}]}}}})", nets));
}

Content content(Bench& b) {
  Content out;
  for (const auto& kv : b.view.range("/")) out[kv.key] = kv.value;
  return out;
}
void save(const std::string& file, const Content& c) {
  std::ofstream out(file);
  for (auto [k, v] : c) {
    std::replace(v.begin(), v.end(), '\n', ' ');  // white space of JSON
    out << k << "\n" << v << "\n";
  }
}
Content load(const std::string& file) {
  Content c;
  std::ifstream in(file);
  for (std::string k, v; std::getline(in, k) && std::getline(in, v);) c[k] = v;
  return c;
}

/// The one that is killed, in a process of its own in the host's namespace. Not a test.
TEST(FelixKillProcess, DISABLED_ChangesForEver) {
  const auto* dir = std::getenv(kDirectory);
  ASSERT_NE(dir, nullptr);
  const std::string at = dir;
  const Content contents[] = {load(at + "/a"), load(at + "/b")};
  FelixHere felix;
  ASSERT_NO_FATAL_FAILURE(felix.start(contents[0]));
  std::ofstream(at + "/up") << "\n";
  ASSERT_TRUE(eventually("go", [&] { return std::filesystem::exists(at + "/go"); }));
  const auto operations = [&] {
    return boost::json::parse(felix.engine->endpoints_json()).at("nft").at("operations").to_number<long>();
  };
  for (bool second = true;; second = !second) {
    const auto before = operations();
    const auto& from = contents[!second];
    const auto& to = contents[second];
    for (const auto& [k, v] : from)
      if (!to.contains(k)) felix.view.set(k, std::nullopt);
    for (const auto& [k, v] : to)
      if (const auto it = from.find(k); it == from.end() || it->second != v) felix.view.set(k, v);
    ASSERT_TRUE(eventually("a change", [&] { return operations() > before; }));
  }
}

TEST(FelixKill, AtAnyMomentOfAChange) {
  NEEDS_NETNS();
  constexpr int kKills = 50;
  TempDir dir("kill");
  Bench b;
  Vm a(1), c(2);
  for (auto* vm : {&a, &c}) b.plug(*vm);
  b.group("open", Bench::kAll);
  b.endpoint(a, {"open"});
  put(b, c, false);
  const auto first = content(b);
  save(dir.file("a"), first);
  put(b, c, true);
  b.view.set(model::network_policy_key("openstack", "ossg.default.one"), std::nullopt);
  save(dir.file("b"), content(b));
  // What a start without a past makes of the first state.
  for (const auto& [k, v] : content(b))
    if (!first.contains(k)) b.view.set(k, std::nullopt);
  for (const auto& [k, v] : first) b.view.set(k, v);
  ASSERT_NO_FATAL_FAILURE(b.start({&c}));
  ASSERT_TRUE(pings(b.host, c.ip)) << "neighbours are known";
  const auto fresh = kernel_words(b.host);
  b.stop();

  const auto seed = std::getenv("CALICO_SEED") ? std::stoul(std::getenv("CALICO_SEED")) : std::random_device()();
  std::printf("seed %lu (CALICO_SEED repeats it)\n", seed);
  std::mt19937_64 random(seed);
  const auto program = std::filesystem::read_symlink("/proc/self/exe").string();
  Flood flood(a, c);
  ASSERT_TRUE(eventually("packets", [&] { return flood.rounds > 200; }));
  std::set<Words> states;
  for (int i = 0; i < kKills; ++i) {
    for (const auto* f : {"up", "go"}) std::filesystem::remove(dir.file(f));
    auto felix = b.host.spawn(fmt::format("exec env {}={} setpriv --pdeathsig KILL {} "
                                          "--gtest_also_run_disabled_tests --gtest_filter=FelixKillProcess.*",
                                          kDirectory, dir.path(), program),
                              dir.file("log"));
    ASSERT_TRUE(eventually("up", [&] { return std::filesystem::exists(dir.file("up")); }))
        << shell("tail -20 " + dir.file("log")).text;
    ASSERT_EQ(difference(fresh, kernel_words(b.host)), "") << "after kill " << i << ", seed " << seed;
    std::ofstream(dir.file("go")) << "\n";
    const auto until = flood.rounds + static_cast<long>(random() % 1500);
    ASSERT_TRUE(eventually("packets", [&] { return flood.rounds > until; }));
    felix.kill_now();
    const auto then = flood.rounds.load();
    ASSERT_TRUE(eventually("packets without felix", [&] { return flood.rounds > then + 50; }));
    states.insert(kernel_words(b.host));
  }
  flood.end();
  std::printf("%ld rounds, arrived %ld %ld %ld %ld; %zu different kernels after %d kills\n", flood.rounds.load(),
              flood.arrived[0], flood.arrived[1], flood.arrived[2], flood.arrived[3], states.size(), kKills);
  EXPECT_GT(states.size(), 1U) << "every kill hit the same state";
  EXPECT_GT(flood.arrived[0], 0);
  EXPECT_GT(flood.arrived[1], 0);
  EXPECT_EQ(flood.arrived[2], 0) << "what both refuse has passed";
  EXPECT_EQ(flood.arrived[3], flood.rounds) << "what both allow was refused";
}

}  // namespace
}  // namespace calico::test
