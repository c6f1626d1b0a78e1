/// Clients of a reflector that come and go in every way there is, for minutes: its memory is flat after a while, no
/// session ends that a client did not end, and at the end every client holds exactly what the model says.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/soak/bgp/model.hpp"
#include "tests/soak/bgp/reflector.hpp"

namespace calico::soak {
namespace {

using namespace std::chrono_literals;

struct Scale {
  std::uint32_t clients = 0, own = 0, shared = 0;  ///< prefixes a client has for itself; prefixes anybody may announce
  std::chrono::seconds time{0}, window{0};         ///< the run, and its windows of memory: the second and the last
  std::uint32_t flaps = 0, changes = 0;            ///< a tick
};
constexpr auto kTick = 200ms;
constexpr std::uint32_t kSteady = 10;  ///< clients that never go
constexpr std::uint16_t kRestart = 2;  ///< seconds; what is stale must be gone soon after the end
constexpr double kMarginMb = 4;        ///< what the last window may have over the second one

class FlapTest : public testing::TestWithParam<Scale> {};

/// What comes and goes, and the model that follows it.
class Flappers {
 public:
  Flappers(const Scale& scale, unsigned seed)
      : scale_(scale), model(scale.clients, scale.clients * scale.own + scale.shared), swarm(model), random_(seed) {
    due_.resize(scale.clients);
    swarm.up = [this](SessionId s) { swarm.send(s, model.greeting(s, chance(2))); };
    for (std::uint32_t c = 0; c < scale.clients; ++c) {
      (void)model.announce(c, pick(c, scale_.own / 2 + 1));
      swarm.add({.source = client_address(c), .target = kReflector});
      roll_options(c);
    }
  }

  bool chance(unsigned one_in) { return random_() % one_in == 0; }
  std::uint32_t below(std::uint32_t n) { return static_cast<std::uint32_t>(random_() % n); }

  /// A block of the client's own prefixes, and now and then some that others have too.
  std::vector<std::uint32_t> pick(std::uint32_t client, std::uint32_t most) {
    std::vector<std::uint32_t> out;
    const auto n = 1 + below(most), from = below(scale_.own);
    for (std::uint32_t i = 0; i < n; ++i) out.push_back(client * scale_.own + (from + i) % scale_.own);
    if (chance(4))
      for (std::uint32_t i = below(5); i > 0; --i) out.push_back(scale_.clients * scale_.own + below(scale_.shared));
    std::sort(out.begin(), out.end());
    out.erase(std::unique(out.begin(), out.end()), out.end());
    return out;
  }

  void tick() {
    const auto now = Clock::now();
    for (std::uint32_t i = 0; i < scale_.changes; ++i) change(below(scale_.clients));
    for (std::uint32_t i = 0; i < scale_.flaps; ++i) flap(kSteady + below(scale_.clients - kSteady), now);
    for (std::uint32_t c = 0; c < scale_.clients; ++c) {
      if (due_[c].back != Clock::time_point{} && now >= due_[c].back) come_back(c);
      if (due_[c].reads != Clock::time_point{} && now >= due_[c].reads) read_again(c);
    }
    // Somebody does not read for a while, steady ones too.
    const auto lazy = below(scale_.clients);
    if (swarm.established(lazy) && swarm.reading(lazy)) {
      swarm.pause_reading(lazy, true);
      due_[lazy].reads = now + std::chrono::milliseconds(500 + below(10000));
    }
    // Connections that never become sessions, also from where a session lives.
    for (int i = 0; i < 2; ++i) {
      auto open = open_message({.source = client_address(below(scale_.clients))});
      open.resize(below(static_cast<std::uint32_t>(open.size())));
      swarm.stray(client_address(below(scale_.clients)), kReflector, std::move(open),
                  std::chrono::milliseconds(10 + below(5000)), chance(2));
    }
  }

  void change(std::uint32_t c) {
    // Away, it changes its mind too: what it said before is not said again.
    auto prefixes = pick(c, scale_.own);
    auto bytes = chance(2) ? model.announce(c, prefixes) : model.withdraw(c, prefixes);
    if (swarm.established(c)) swarm.send(c, std::move(bytes));
  }
  void flap(std::uint32_t c, Clock::time_point now) {
    if (due_[c].back != Clock::time_point{}) return;
    swarm.drop(c, static_cast<End>(below(4)));
    roll_options(c);
    due_[c].reads = {};
    due_[c].back = now + std::chrono::milliseconds(chance(3) ? 0 : below(6000));
    if (due_[c].back == now) come_back(c);  // at once: the other side may not even know yet
  }
  void come_back(std::uint32_t c) {
    due_[c].back = {};
    swarm.connect(c);
  }
  void read_again(std::uint32_t c) {
    due_[c].reads = {};
    swarm.pause_reading(c, false);
  }
  void roll_options(std::uint32_t c) {
    auto& o = swarm.options(c);
    o.restart_time = chance(3) ? std::nullopt : std::optional(kRestart);
    o.preserved = chance(2);
    o.notification = chance(2);
  }
  /// One in four stays away or goes now, each in its way; the others stay or come back.
  std::vector<Viewer> finish() {
    std::vector<Viewer> stay;
    for (std::uint32_t c = 0; c < scale_.clients; ++c) {
      read_again(c);
      if (c >= kSteady && chance(4)) {
        swarm.drop(c, static_cast<End>(below(4)));
        model.set_present(c, false);
        continue;
      }
      if (!swarm.wanted(c)) come_back(c);
      stay.push_back({c, c});
    }
    return stay;
  }

 private:
  struct Due {
    Clock::time_point back, reads;
  };
  const Scale scale_;

 public:
  Model model;
  Swarm swarm;

 private:
  std::mt19937 random_;
  std::vector<Due> due_;
};

TEST_P(FlapTest, MemoryIsFlatAndNothingIsStaleAtTheEnd) {
  NEEDS_NETNS();
  auto scale = GetParam();
  const auto seed = std::random_device{}();
  SCOPED_TRACE(fmt::format("seed {}", seed));
  Place place("flap");
  Reflector reflector(place, "rr", "id=10.66.0.1 as=64512 listen=10.66.0.1 range=c,10.66.0.0/16,client");
  ASSERT_EQ(reflector.start(), "");
  const double idle = reflector.memory().rss_mb;

  Flappers f(scale, seed);
  for (std::uint32_t c = 0; c < scale.clients; ++c) f.swarm.connect(c);
  ASSERT_TRUE(f.swarm.run_until([&] { return f.swarm.established() == scale.clients; }, 30s))
      << f.swarm.established() << " of " << scale.clients << " sessions came up";

  std::vector<double> samples;  // a second
  std::uint64_t ticks = 0;
  const auto begin = Clock::now();
  for (auto next_sample = begin + 1s; Clock::now() < begin + scale.time; ++ticks) {
    f.tick();
    f.swarm.run_for(kTick);
    ASSERT_TRUE(reflector.alive());
    if (Clock::now() < next_sample) continue;
    samples.push_back(reflector.memory().rss_mb);
    next_sample += 1s;
  }
  const auto dropped = f.swarm.totals().sessions;
  const double cpu = reflector.cpu_seconds();

  const auto stay = f.finish();
  const auto wrong = settle(f.swarm, f.model, stay, 30s);
  EXPECT_EQ(wrong, "");
  const auto late = f.swarm.add({.source = 0x0a42f001, .target = kReflector});  // 10.66.240.1
  f.swarm.up = [](SessionId) {};
  f.swarm.connect(late);
  EXPECT_EQ(settle(f.swarm, f.model, {{late, scale.clients}}, 30s), "") << "a late joiner";
  EXPECT_GT(f.model.alive(), scale.clients) << "there was something to hold";
  EXPECT_EQ(f.swarm.faults().total(), 0U) << f.swarm.faults().first;
  EXPECT_GT(dropped, scale.clients + ticks * scale.flaps / 4) << "there were hardly any flaps";

  const auto window = static_cast<std::ptrdiff_t>(scale.window.count());
  ASSERT_GE(std::ssize(samples), 3 * window - 1);
  const auto second = *std::max_element(samples.begin() + window, samples.begin() + 2 * window);
  const auto last = *std::max_element(samples.end() - window, samples.end());
  EXPECT_LE(last, second + kMarginMb) << "resident MB, the most in the last and in the second window";
  fmt::print(
      "{} clients, {} prefixes, {} s: {} sessions came up, {} routes received, memory {:.1f} MB idle, {:.1f} in the "
      "second {} s, {:.1f} in the last, peak {:.1f}; {:.1f} s of CPU\n",
      scale.clients, f.model.prefixes(), scale.time.count(), f.swarm.totals().sessions, f.swarm.totals().announced,
      idle, second, window, last, reflector.memory().peak_mb, cpu);
}

INSTANTIATE_TEST_SUITE_P(Short, FlapTest, testing::Values(Scale{60, 20, 100, 9s, 3s, 5, 10}),
                         [](const auto&) { return "sixty"; });
INSTANTIATE_TEST_SUITE_P(Long, FlapTest, testing::Values(Scale{1000, 10, 200, 300s, 60s, 10, 20}),
                         [](const auto&) { return "thousand"; });

}  // namespace
}  // namespace calico::soak
