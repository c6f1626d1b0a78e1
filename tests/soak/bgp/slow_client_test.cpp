/// A client that stops reading while a million changes pass: it costs bounded memory, the others lose nothing, and when
/// it reads again it gets what is true then.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <numeric>

#include "tests/soak/bgp/model.hpp"
#include "tests/soak/bgp/reflector.hpp"

namespace calico::soak {
namespace {

using namespace std::chrono_literals;

struct Scale {
  std::uint32_t prefixes = 0;  ///< a sender
  std::uint32_t waves = 0;     ///< changes of all prefixes
  std::uint32_t stopped = 0;   ///< clients that do not read
};
constexpr std::uint32_t kSenders = 2, kReaders = 3;
/// The group's journal (4 MiB) and each connection's queue are the bound; the allocator is given as much again.
constexpr double kBoundMb = 12;

constexpr std::uint32_t kBlock = 10;  ///< prefixes with one set of attributes, so that a change has some bytes

class SlowClientTest : public testing::TestWithParam<Scale> {};

TEST_P(SlowClientTest, CostsBoundedMemoryAndNobodyLosesAnything) {
  NEEDS_NETNS();
  const auto scale = GetParam();
  Place place("slow");
  Reflector reflector(place, "rr", "id=10.66.0.1 as=64512 listen=10.66.0.1 range=c,10.66.0.0/16,client");
  ASSERT_EQ(reflector.start(), "");
  const auto clients = kSenders + kReaders + scale.stopped;
  Model model(clients, kSenders * scale.prefixes);
  Swarm swarm(model);
  std::vector<std::vector<std::uint32_t>> mine(kSenders, std::vector<std::uint32_t>(scale.prefixes));
  for (std::uint32_t c = 0; c < kSenders; ++c) std::iota(mine[c].begin(), mine[c].end(), c * scale.prefixes);
  swarm.up = [&](SessionId s) { swarm.send(s, model.greeting(s, false)); };
  const auto announce_all = [&](std::uint32_t c) {
    Bytes out;
    for (auto p = mine[c].begin(); p != mine[c].end();) {
      const auto end = p + std::min<std::ptrdiff_t>(kBlock, mine[c].end() - p);
      const auto part = model.announce(c, {p, end});
      out.insert(out.end(), part.begin(), part.end());
      p = end;
    }
    return out;
  };
  std::vector<Viewer> all, readers;
  for (std::uint32_t c = 0; c < clients; ++c) {
    if (c < kSenders) (void)announce_all(c);
    const bool stops = c >= kSenders + kReaders;
    const auto s = swarm.add({.source = client_address(c), .target = kReflector, .receive_buffer = stops ? 65536 : 0});
    swarm.connect(s);
    all.push_back({s, c});
    if (!stops) readers.push_back({s, c});
  }
  ASSERT_EQ(settle(swarm, model, all, 30s), "");
  // One change of everything with all reading: what the allocator needs for that is not the slow client's doing.
  for (std::uint32_t c = 0; c < kSenders; ++c) swarm.send(c, announce_all(c));
  ASSERT_EQ(settle(swarm, model, all, 30s), "");
  const double before = reflector.memory().rss_mb;
  for (auto c = kSenders + kReaders; c < clients; ++c) swarm.pause_reading(c, true);

  double most = before;
  std::uint64_t passed = 0;
  for (std::uint32_t wave = 0; wave < scale.waves; ++wave) {
    const bool gone = wave % 8 == 7;  // now and then everything is withdrawn and comes back
    for (std::uint32_t c = 0; c < kSenders; ++c) {
      if (gone) swarm.send(c, model.withdraw(c, mine[c]));
      if (!gone) swarm.send(c, announce_all(c));
      passed += scale.prefixes;
    }
    ASSERT_EQ(settle(swarm, model, readers, 30s), "") << "wave " << wave;
    most = std::max(most, reflector.memory().rss_mb);
  }
  EXPECT_LE(most - before, kBoundMb) << "growth of the resident memory in MB while " << scale.stopped
                                     << " did not read";
  const auto late = swarm.add({.source = 0x0a42f001, .target = kReflector});
  swarm.connect(late);
  swarm.up = [](SessionId) {};
  EXPECT_EQ(settle(swarm, model, {{late, clients}}, 30s), "") << "a late joiner beside them";
  for (auto c = kSenders + kReaders; c < clients; ++c) {
    EXPECT_NE(model.difference(swarm, c, c), "") << "it was not slow at all";
    swarm.pause_reading(c, false);
  }
  EXPECT_EQ(settle(swarm, model, all, 30s), "") << "after they read again";
  EXPECT_EQ(swarm.faults().total(), 0U) << swarm.faults().first;
  EXPECT_TRUE(reflector.alive());
  fmt::print("{} changes past {} that do not read: {:.1f} MB before, at most {:.1f}\n", passed, scale.stopped, before,
             most);
}

INSTANTIATE_TEST_SUITE_P(Short, SlowClientTest, testing::Values(Scale{25000, 60, 1}, Scale{25000, 60, 5}),
                         [](const auto& p) { return fmt::format("{}_stopped", p.param.stopped); });
INSTANTIATE_TEST_SUITE_P(Long, SlowClientTest, testing::Values(Scale{50000, 200, 1}, Scale{50000, 200, 20}),
                         [](const auto& p) { return fmt::format("{}_stopped", p.param.stopped); });

}  // namespace
}  // namespace calico::soak
