/// Sessions that send garbage, and floods of connections, beside sessions that work: the good ones never flap, lose
/// nothing and get nothing that does not go again; memory stays within bounds.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/soak/bgp/model.hpp"
#include "tests/soak/bgp/mutator.hpp"
#include "tests/soak/bgp/reflector.hpp"

namespace calico::soak {
namespace {

using namespace std::chrono_literals;

constexpr std::uint32_t kGood = 20, kOwn = 100;
constexpr double kBoundMb = 24;  ///< 200 connections with buffers, attribute sets and routes of what was still valid
constexpr const char* kArguments = "id=10.66.0.1 as=64512 listen=10.66.0.1 range=c,10.66.0.0/16,client";

struct Scale {
  std::uint32_t hostile = 0;
  std::chrono::seconds time{0};
};

class HostileTest : public testing::TestWithParam<Scale> {
 protected:
  HostileTest() : model_(kGood, kGood * kOwn), swarm_(model_) {
    swarm_.up = [this](SessionId s) { swarm_.send(s, model_.greeting(s, false)); };
    for (std::uint32_t c = 0; c < kGood; ++c) {
      swarm_.add({.source = client_address(c), .target = kReflector});
      good_.push_back({c, c});
    }
  }
  void change() {
    const auto c = static_cast<std::uint32_t>(random_() % kGood);
    std::vector<std::uint32_t> some;
    for (std::uint32_t i = 0; i < kOwn; ++i)
      if (random_() % 4 == 0) some.push_back(c * kOwn + i);
    auto bytes = random_() % 3 != 0 ? model_.announce(c, some) : model_.withdraw(c, some);
    if (swarm_.established(c)) swarm_.send(c, std::move(bytes));
  }
  Model model_;
  Swarm swarm_;
  std::vector<Viewer> good_;
  std::random_device seed_;
  const unsigned seed = seed_();
  std::mt19937 random_{seed};
};

TEST_P(HostileTest, GarbageCostsOnlyItsOwnSession) {
  NEEDS_NETNS();
  SCOPED_TRACE(fmt::format("seed {}", seed));
  const auto scale = GetParam();
  Place place("hostile");
  Reflector reflector(place, "rr", kArguments);
  ASSERT_EQ(reflector.start(), "");
  for (const auto& v : good_) swarm_.connect(v.session);
  change();
  ASSERT_EQ(settle(swarm_, model_, good_, 30s), "");
  const double before = reflector.memory().rss_mb;
  double most = before;
  std::uint64_t attacks = 0, bytes = 0;
  std::uint32_t address = 0;
  const auto end = Clock::now() + scale.time;
  while (Clock::now() < end) {
    while (swarm_.strays() < scale.hostile) {
      const auto source = 0x0a428001U + address++ % scale.hostile;  // 10.66.128.1 …
      auto stream = Mutator(random_).stream(source);
      ++attacks;
      bytes += stream.size();
      swarm_.stray(source, kReflector, std::move(stream), std::chrono::milliseconds(100 + random_() % 900),
                   random_() % 4 != 0);
    }
    change();
    swarm_.run_for(20ms);
    ASSERT_TRUE(reflector.alive());
    most = std::max(most, reflector.memory().rss_mb);
  }
  ASSERT_TRUE(swarm_.run_until([&] { return swarm_.strays() == 0; }, 30s));
  EXPECT_EQ(settle(swarm_, model_, good_, 30s), "");
  EXPECT_EQ(swarm_.faults().total(), 0U) << swarm_.faults().first;
  EXPECT_EQ(swarm_.totals().sessions, kGood) << "good sessions came up more than once";
  EXPECT_GT(attacks, scale.hostile * static_cast<std::uint64_t>(scale.time.count()) / 2);
  EXPECT_LE(most - before, kBoundMb) << "growth of the resident memory in MB";
  fmt::print("{} hostile connections ({:.1f} MB of garbage) beside {} sessions: {:.1f} MB before, at most {:.1f}\n",
             attacks, static_cast<double>(bytes) / 1e6, kGood, before, most);
}

TEST_P(HostileTest, AFloodOfStrangersDoesNotKeepGoodSessionsOut) {
  NEEDS_NETNS();
  Place place("flood");
  Reflector reflector(place, "rr", kArguments);
  ASSERT_EQ(reflector.start(), "");
  const double before = reflector.memory().rss_mb;
  constexpr std::uint32_t kConnects = 2000;
  for (std::uint32_t i = 0; i < kConnects; ++i) {
    // All at once; half of them say something.
    const auto source = 0x0a4d0001U + i % 500;
    swarm_.stray(source, kReflector, i % 2 ? open_message({.source = source}) : Bytes{}, 30s);
    if (i % 100 == 50) swarm_.connect(i / 100);
  }
  change();
  EXPECT_EQ(settle(swarm_, model_, good_, 30s), "");
  ASSERT_TRUE(swarm_.run_until([&] { return swarm_.strays() == 0; }, 25s))
      << swarm_.strays() << " connections of strangers were not closed";
  EXPECT_GE(swarm_.strays_connected(), kConnects / 4) << "there was no flood";
  EXPECT_EQ(swarm_.totals().sessions, kGood);
  EXPECT_EQ(swarm_.faults().total(), 0U) << swarm_.faults().first;
  EXPECT_LE(reflector.memory().rss_mb - before, 8) << "growth of the resident memory in MB";
}

// Out of descriptors the rest waits in the backlog: sessions that are up go on, nothing spins, and when there is room
// again the next ones come in.
TEST_P(HostileTest, OutOfDescriptorsSessionsGoOn) {
  NEEDS_NETNS();
  Place place("descriptors");
  Reflector reflector(place, "rr", kArguments, "ulimit -n 64; ");
  ASSERT_EQ(reflector.start(), "");
  for (std::uint32_t c = 0; c < kGood - 1; ++c) swarm_.connect(c);
  good_.pop_back();
  model_.set_present(kGood - 1, false);
  ASSERT_EQ(settle(swarm_, model_, good_, 30s), "");
  // Peers that connect and say nothing, more than there are descriptors.
  for (std::uint32_t i = 0; i < 200; ++i) swarm_.stray(0x0a428001U + i, kReflector, {}, 4s);
  const auto cpu = reflector.cpu_seconds();
  const auto begin = Clock::now();
  for (int i = 0; i < 100; ++i) {
    change();
    swarm_.run_for(20ms);
  }
  const auto wall = std::chrono::duration<double>(Clock::now() - begin).count();
  EXPECT_LT(reflector.cpu_seconds() - cpu, wall / 2) << "it spins over connections that it cannot accept";
  EXPECT_EQ(settle(swarm_, model_, good_, 30s), "");
  EXPECT_TRUE(reflector.alive());
  good_.push_back({kGood - 1, kGood - 1});
  model_.set_present(kGood - 1, true);
  swarm_.connect(kGood - 1);
  EXPECT_EQ(settle(swarm_, model_, good_, 30s), "") << "a session more, after the strays went";
  EXPECT_EQ(swarm_.faults().total(), 0U) << swarm_.faults().first;
}

std::string name_of(const testing::TestParamInfo<Scale>& info) { return fmt::format("{}s", info.param.time.count()); }
INSTANTIATE_TEST_SUITE_P(Short, HostileTest, testing::Values(Scale{200, 4s}), name_of);
INSTANTIATE_TEST_SUITE_P(Long, HostileTest, testing::Values(Scale{200, 120s}), name_of);

}  // namespace
}  // namespace calico::soak
