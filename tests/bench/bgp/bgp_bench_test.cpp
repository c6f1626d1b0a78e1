/// The benchmark's instrument: that it finds nothing wrong with the engine where nothing is, and does find what a lying
/// reflector does. Small sizes; nothing here looks at a time.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/bench/bgp/mirror.hpp"
#include "tests/bench/bgp/scenario.hpp"

namespace calico::bench {
namespace {

Scenario small(Shape shape = Shape::hosts4) {
  Scenario s;
  s.plan = {"small", shape, 5, 1, 50};
  s.late_join = true;
  return s;
}
RunOptions options() {
  RunOptions o;
  o.daemon.cpu = -1;
  o.daemon.speaker = CALICO_BINARY_DIR "/tests/bgp-speaker";
  o.daemon.self = CALICO_BINARY_DIR "/bench/bgp_bench";
  o.phase_limit_s = 30;
  return o;
}
// 5 senders learn the four others' 50, the receiver all.
constexpr std::uint64_t kSends = 5 * 4 * 50 + 5 * 50;

void expect_clean(const Run& r) {
  EXPECT_EQ(r.problem, "");
  EXPECT_EQ(r.faults.total(), 0U) << r.faults.first;
  EXPECT_EQ(r.totals.own_back, 0U);
  EXPECT_EQ(r.totals.duplicates, 0U);
  EXPECT_EQ(r.totals.spurious, 0U);
  EXPECT_EQ(r.reconnects, 0U);
  for (const auto& p : r.phases) EXPECT_TRUE(p.done) << p.name << ": " << p.missing;
  ASSERT_NE(r.phase("announce"), nullptr);
  EXPECT_EQ(r.phase("announce")->received.announced, kSends);
  EXPECT_EQ(r.phase("announce")->received.withdrawn, 0U);
  ASSERT_NE(r.phase("late join"), nullptr);
  EXPECT_EQ(r.phase("late join")->received.announced, 250U);
}

TEST(BgpBench, NothingLostNothingExtraThroughTheEngine) {
  NEEDS_NETNS();
  auto s = small();
  s.flap = s.drop = true;
  const auto r = run_scenario(s, "ours", options());
  expect_clean(r);
  ASSERT_NE(r.phase("withdraw"), nullptr);
  EXPECT_EQ(r.phase("withdraw")->received.withdrawn, kSends + 250);
  EXPECT_EQ(r.phase("withdraw")->received.announced, 0U);
  ASSERT_NE(r.phase("drop"), nullptr);
  EXPECT_GT(r.phase("drop")->daemon_cpu_s, 0);
}

TEST(BgpBench, Ipv6ThroughTheEngine) {
  NEEDS_NETNS();
  expect_clean(run_scenario(small(Shape::hosts6), "ours", options()));
}

TEST(BgpBench, StormThroughTheEngine) {
  NEEDS_NETNS();
  auto s = small();
  s.storm = true;
  const auto r = run_scenario(s, "ours", options());
  EXPECT_EQ(r.problem, "");
  EXPECT_EQ(r.faults.total(), 0U) << r.faults.first;
  ASSERT_NE(r.phase("storm"), nullptr);
  EXPECT_EQ(r.phase("storm")->received.announced, kSends);
}

TEST(BgpBench, ProbesAreSeenByEveryReceiver) {
  NEEDS_NETNS();
  auto s = small();
  s.plan = {"small", Shape::hosts4, 2, 3, 200, 60, false};
  s.late_join = false;
  s.probes = 30;
  s.load_probes = true;
  const auto r = run_scenario(s, "ours", options());
  EXPECT_EQ(r.problem, "");
  EXPECT_EQ(r.faults.total(), 0U) << r.faults.first;
  for (const auto* which : {"idle", "load"}) {
    ASSERT_TRUE(r.latency.contains(which));
    EXPECT_EQ(r.latency.at(which).probes, 30U);
    EXPECT_EQ(r.latency.at(which).samples, 90U);
  }
}

TEST(BgpBench, EveryShapeThroughTheMirror) {
  NEEDS_NETNS();
  for (const auto shape : {Shape::hosts4, Shape::hosts6, Shape::internet})
    expect_clean(run_scenario(small(shape), "floor", options()));
}

// What the mirror damages, the generator names.
class LyingMirror : public testing::TestWithParam<std::pair<int, std::uint64_t Faults::*>> {};
TEST_P(LyingMirror, IsFoundOut) {
  NEEDS_NETNS();
  const auto [damage, counter] = GetParam();
  auto o = options();
  o.daemon.damage = damage;
  o.phase_limit_s = 2;  // what was damaged is missing for good
  auto s = small();
  s.late_join = false;
  const auto r = run_scenario(s, "floor", o);
  EXPECT_GT(r.faults.*counter, 0U) << r.faults.first;
  EXPECT_EQ(r.faults.total(), r.faults.*counter) << r.faults.first;
}
INSTANTIATE_TEST_SUITE_P(
    Damages, LyingMirror,
    testing::Values(std::pair{int{kOrigin}, &Faults::attributes}, std::pair{int{kLocalPref}, &Faults::attributes},
                    std::pair{int{kNextHop}, &Faults::next_hop}, std::pair{int{kOriginatorId}, &Faults::originator},
                    std::pair{int{kClusterList}, &Faults::cluster}, std::pair{int{kWrongPrefix}, &Faults::prefixes},
                    std::pair{int{kBadMarker}, &Faults::framing}));

TEST(BgpBench, WhatDidNotArriveIsNamed) {
  NEEDS_NETNS();
  auto o = options();
  o.daemon.damage = kLostMessage;
  o.phase_limit_s = 2;
  auto s = small();
  s.late_join = false;
  const auto r = run_scenario(s, "floor", o);
  EXPECT_EQ(r.problem,
            "announce: not complete after 2 s: 1000 of 1250 routes held, client 1 150 of 200, 6 sessions up");
}

TEST(BgpBench, ADaemonThatIsNotThereIsAProblemNotACrash) {
  NEEDS_NETNS();
  auto o = options();
  o.daemon.speaker = "/nonexistent/bgp-speaker";
  EXPECT_NE(run_scenario(small(), "ours", o).problem.find("it ended"), std::string::npos);
}

// Every prefix of every shape is found again by its bytes, and belongs to the set it was sent with.
template <Shape S>
void expect_ids(const Plan& plan) {
  const Workload w(plan);
  std::vector<int> seen(w.ids());
  for (std::uint32_t s = 0; s < plan.senders; ++s) {
    const auto all = w.announce(s);
    for (std::size_t at = 0; at < all.size(); at += be16(&all[at + 16])) {
      const auto* const end = all.data() + at + be16(&all[at + 16]);
      const auto* p = all.data() + at + kHeader + 4 + be16(&all[at + kHeader + 2]);
      if (S == Shape::hosts6) p = all.data() + at + kHeader + 4 + 4 + 21;
      for (std::size_t used = 0; p < end && (S != Shape::hosts6 || *p == 128); p += used) {
        const auto id = w.id_at<S>(p, end, used);
        ASSERT_NE(id, Workload::kNone);
        ASSERT_EQ(w.set(w.set_of<S>(id)).owner, s);
        ++seen[id];
      }
    }
  }
  EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), static_cast<std::ptrdiff_t>(w.announced()));
}
TEST(BgpBench, EveryPrefixHasItsId) {
  expect_ids<Shape::hosts4>({"", Shape::hosts4, 3, 1, 2000});
  expect_ids<Shape::hosts6>({"", Shape::hosts6, 3, 1, 2000});
  expect_ids<Shape::internet>({"", Shape::internet, 2, 1, 400000});
  expect_ids<Shape::internet>({"", Shape::internet, 2, 1, 10});
}
TEST(BgpBench, InternetLikeSetsHaveTheWantedSize) {
  const Workload w({"", Shape::internet, 2, 1, 400000});
  EXPECT_NEAR(static_cast<double>(w.announced()) / static_cast<double>(w.sets()), 3.8, 0.1);
}
TEST(BgpBench, StrangersAreNoPrefixesOfOurs) {
  const Workload w({"", Shape::internet, 2, 1, 1000});
  std::size_t used = 0;
  const Bytes host = {32, 128, 0, 0, 1}, small_one = {8, 128}, cut = {24, 128, 0}, too_long = {33, 1, 2, 3, 4, 5},
              outside = {24, 10, 0, 0};
  for (const auto* b : {&host, &small_one, &outside}) {
    EXPECT_EQ(w.id_at<Shape::internet>(b->data(), b->data() + b->size(), used), Workload::kNone);
    EXPECT_EQ(used, b->size());
  }
  for (const auto* b : {&cut, &too_long}) {
    EXPECT_EQ(w.id_at<Shape::internet>(b->data(), b->data() + b->size(), used), Workload::kNone);
    EXPECT_EQ(used, 0U);
  }
}

}  // namespace
}  // namespace calico::bench
