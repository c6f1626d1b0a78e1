/// Two reflectors, with the same and with different cluster ids, upgraded one after the other under load, planned and
/// by kill -9: at no moment does any client lack a path to a prefix that nobody withdrew. Every message of every
/// session is looked at; what a session held counts for nothing from the moment it ends, although graceful restart is
/// on, so that the surviving reflector alone must be enough. And the one that came back must have said everything by
/// its End-of-RIB, or a client that kept its routes as stale would drop them there.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/bench/bgp/dial.hpp"
#include "tests/soak/bgp/model.hpp"
#include "tests/soak/bgp/reflector.hpp"

namespace calico::soak {
namespace {

using namespace std::chrono_literals;

struct Scale {
  bool same_cluster = false;
  std::uint32_t clients = 0, stable = 0, churned = 0;  ///< prefixes a client
  int rounds = 0;                                      ///< both reflectors, planned and killed; 0 = one is killed
  bool range = false;                                  ///< the clients are dynamic neighbours
};
constexpr std::uint32_t kReflectors[] = {kReflector, kReflector2};

class UpgradeTest : public testing::TestWithParam<Scale> {
 protected:
  void SetUp() override {
    NEEDS_NETNS();
    place_ = std::make_unique<Place>("upgrade");
    // One that announces nothing comes last: the observer.
    viewers_ = scale().clients + 1;
    model_ = std::make_unique<Model>(scale().clients, scale().clients * per_client());
    swarm_ = std::make_unique<Swarm>(*model_);
    swarm_->check_order = false;
    for (int r : {0, 1}) {
      const auto address = bench::dotted(kReflectors[r]), other = bench::dotted(kReflectors[1 - r]);
      auto arguments = fmt::format("id={0} as=64512 listen={0} peer=other,{1}", address, other);
      if (scale().same_cluster) arguments += " cluster=10.66.0.100";
      if (scale().range) arguments += " deferral=5 range=c,10.66.0.0/16,client";
      for (std::uint32_t c = 0; c < viewers_ && !scale().range; ++c)
        arguments += fmt::format(" peer=c{},{},client,passive", c, bench::dotted(client_address(c)));
      reflectors_.push_back(std::make_unique<Reflector>(*place_, fmt::format("rr{}", r), arguments));
    }
    paths_.assign(viewers_, std::vector<std::uint8_t>(model_->prefixes(), 0));
    swarm_->changed = [this](SessionId s, std::uint32_t prefix, std::uint32_t before, std::uint32_t now) {
      auto& n = paths_[viewer(s)][prefix];
      n = static_cast<std::uint8_t>(n + (now != 0) - (before != 0));
      if (now == 0 && n == 0 && watching_ && stable(prefix)) {
        ++lost_;
        if (first_lost_.empty())
          first_lost_ = fmt::format("client {} had no path to prefix {} of client {} {}", viewer(s), prefix,
                                    prefix / per_client(), phase_);
      }
    };
    swarm_->up = [this](SessionId s) { greet(s); };
    swarm_->ended_rib = [this](SessionId s) {
      for (std::uint32_t p = 0; p < model_->prefixes(); ++p)
        if (watching_ && stable(p) && p / per_client() != viewer(s) && swarm_->holds(s, p) == 0) {
          ++early_;
          if (first_early_.empty())
            first_early_ = fmt::format("reflector {} ended its RIB for client {} without prefix {} {}", s % 2,
                                       viewer(s), p, phase_);
        }
    };
    for (std::uint32_t c = 0; c < viewers_; ++c)
      for (int r : {0, 1}) {
        SessionOptions o{.source = client_address(c),
                         .target = kReflectors[r],
                         .restart_time = 120,
                         .preserved = true,
                         .notification = true};
        if (scale().same_cluster) o.cluster = 0x0a420064;
        all_.push_back({swarm_->add(o), c});
      }
    for (std::uint32_t c = 0; c < scale().clients; ++c) {
      std::vector<std::uint32_t> mine;
      for (std::uint32_t i = 0; i < scale().stable; ++i) mine.push_back(c * per_client() + i);
      (void)model_->announce(c, mine);
    }
  }
  void TearDown() override {
    swarm_.reset();
    reflectors_.clear();
    place_.reset();
  }

  const Scale& scale() const { return GetParam(); }
  std::uint32_t per_client() const { return scale().stable + scale().churned; }
  bool stable(std::uint32_t prefix) const { return prefix % per_client() < scale().stable; }
  static std::uint32_t viewer(SessionId s) { return s / 2; }
  void greet(SessionId s) {
    if (viewer(s) < scale().clients)
      swarm_->send(s, model_->greeting(viewer(s), false));
    else
      swarm_->send(s, bench::end_of_rib(false));
  }
  /// Some client's churned prefixes come or go, to both reflectors.
  void churn() {
    const auto c = static_cast<std::uint32_t>(random_() % scale().clients);
    std::vector<std::uint32_t> some;
    for (std::uint32_t i = 0; i < scale().churned; ++i)
      if (random_() % 2 == 0) some.push_back(c * per_client() + scale().stable + i);
    const auto bytes = random_() % 2 == 0 ? model_->announce(c, some) : model_->withdraw(c, some);
    for (SessionId s : {2 * c, 2 * c + 1})
      if (swarm_->established(s)) swarm_->send(s, bytes);
    ++churned_;
  }
  /// Waits for it under load: a change every 5 ms.
  bool under_load(const std::function<bool()>& done, Clock::duration limit) {
    return swarm_->run_until(
        [&] {
          churn();
          return done();
        },
        limit);
  }
  bool all_of(int reflector, bool (Swarm::*is)(SessionId) const) const {
    for (SessionId s = static_cast<SessionId>(reflector); s < all_.size(); s += 2)
      if (!((*swarm_).*is)(s)) return false;
    return true;
  }
  bool none_up(int reflector) const {
    for (SessionId s = static_cast<SessionId>(reflector); s < all_.size(); s += 2)
      if (swarm_->established(s)) return false;
    return true;
  }
  void upgrade(int r, int signal, const std::string& round) {
    if (HasFatalFailure()) return;
    phase_ = fmt::format("({}, reflector {}, {})", round, r, signal == SIGTERM ? "planned" : "killed");
    SCOPED_TRACE(phase_);
    auto& reflector = *reflectors_[static_cast<std::size_t>(r)];
    const auto begin = Clock::now();
    reflector.stop(signal);
    ASSERT_TRUE(under_load([&] { return none_up(r); }, 30s)) << "sessions to a reflector that is gone";
    // Every third client takes its time to come back, longer than the other reflector does.
    std::vector<SessionId> slow;
    for (auto s = static_cast<SessionId>(r); s < all_.size(); s += 6) slow.push_back(s);
    for (auto s : slow) swarm_->drop(s, End::reset);
    under_load([] { return false; }, 200ms);
    ASSERT_EQ(reflector.start(), "");
    const auto fast_up = [&] {
      for (auto s = static_cast<SessionId>(r); s < all_.size(); s += 2)
        if (swarm_->wanted(s) && !swarm_->established(s)) return false;
      return true;
    };
    ASSERT_TRUE(under_load([&] { return fast_up() && reflectors_meet(reflector); }, 30s)) << "sessions to the new one";
    under_load([] { return false; }, 300ms);
    for (auto s : slow) swarm_->connect(s);
    ASSERT_TRUE(under_load([&] { return all_of(r, &Swarm::established); }, 30s)) << "the slow ones' sessions";
    ASSERT_TRUE(under_load([&] { return all_of(r, &Swarm::end_of_rib); }, 30s)) << "its End-of-RIB";
    longest_ = std::max(longest_, std::chrono::duration<double>(Clock::now() - begin).count());
    ++upgrades_;
    ASSERT_TRUE(reflector.alive());
  }
  static bool reflectors_meet(const Reflector& r) {
    return r.birdc("show protocols").find("other") != std::string::npos &&
           r.birdc("show protocols all other").find("Established") != std::string::npos;
  }

  std::unique_ptr<Place> place_;
  std::vector<std::unique_ptr<Reflector>> reflectors_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Swarm> swarm_;
  std::uint32_t viewers_ = 0;
  std::vector<Viewer> all_;
  std::vector<std::vector<std::uint8_t>> paths_;  // by client and prefix: sessions that hold it
  bool watching_ = false;
  std::string phase_, first_lost_, first_early_;
  double longest_ = 0;
  int upgrades_ = 0;
  std::uint64_t lost_ = 0, early_ = 0, churned_ = 0;
  std::mt19937 random_{std::random_device{}()};
};

TEST_P(UpgradeTest, NoClientEverLacksAPath) {
  for (auto& r : reflectors_) ASSERT_EQ(r->start(), "");
  for (const auto& v : all_) swarm_->connect(v.session);
  ASSERT_TRUE(test::eventually("the session of the reflectors", [&] { return reflectors_meet(*reflectors_[0]); }));
  ASSERT_EQ(settle(*swarm_, *model_, all_, 30s), "");
  watching_ = true;
  for (int round = 0; round < scale().rounds; ++round)
    for (const int signal : {SIGTERM, SIGKILL})
      for (int r : {0, 1}) upgrade(r, signal, fmt::format("round {}", round));
  if (scale().rounds == 0) upgrade(0, SIGKILL, "once");
  ASSERT_FALSE(HasFatalFailure());
  phase_ = "(at the end)";
  EXPECT_EQ(settle(*swarm_, *model_, all_, 30s), "");
  EXPECT_EQ(lost_, 0U) << first_lost_;
  EXPECT_EQ(early_, 0U) << first_early_;
  // The sessions we lost are those to reflectors that we stopped, no other.
  const auto& f = swarm_->faults();
  EXPECT_EQ(f.lost, static_cast<std::uint64_t>(upgrades_) * viewers_) << f.first;
  EXPECT_EQ(f.total() - f.lost, 0U) << f.first;
  fmt::print(
      "{} cluster ids, {} upgrades, {} clients, {} stable prefixes, {} changes meanwhile: {} times without a path; "
      "the longest upgrade took {:.1f} s\n",
      scale().same_cluster ? "same" : "different", upgrades_, scale().clients, scale().clients * scale().stable,
      churned_, lost_, longest_);
}

// What the test above finds missing nowhere is found when it is missing.
TEST_P(UpgradeTest, TheWatchSeesWhatIsLost) {
  for (auto& r : reflectors_) ASSERT_EQ(r->start(), "");
  for (const auto& v : all_) swarm_->connect(v.session);
  ASSERT_EQ(settle(*swarm_, *model_, all_, 30s), "");
  watching_ = true;
  // One that does not know that it ran a moment ago waits for nobody before it ends its RIB.
  reflectors_[0]->stop(SIGKILL);
  reflectors_[0]->forget();
  ASSERT_TRUE(under_load([&] { return none_up(0); }, 30s));
  constexpr SessionId kAway = 2;  // of client 1: it is not back before that
  swarm_->drop(kAway, End::reset);
  ASSERT_EQ(reflectors_[0]->start(), "");
  const auto ended = [&] {
    for (SessionId s = 0; s < all_.size(); s += 2)
      if (s != kAway && !swarm_->end_of_rib(s)) return false;
    return true;
  };
  ASSERT_TRUE(under_load(ended, 30s)) << "a first start's End-of-RIB";
  // (With different cluster ids the other reflector may have told it everything by then.)
  EXPECT_TRUE(early_ > 0 || !scale().same_cluster) << "a first start ended its RIB with everything in it";
  EXPECT_EQ(lost_, 0U) << first_lost_;
  for (auto& r : reflectors_) r->stop(SIGKILL);
  ASSERT_TRUE(under_load([&] { return none_up(0) && none_up(1); }, 30s));
  EXPECT_GE(lost_, scale().clients * scale().stable);
}

std::string name_of(const testing::TestParamInfo<Scale>& info) {
  return std::string(info.param.same_cluster ? "same_cluster" : "different_clusters") +
         (info.param.range ? "_dynamic" : "");
}
INSTANTIATE_TEST_SUITE_P(Short, UpgradeTest,
                         testing::Values(Scale{true, 10, 50, 10, 1}, Scale{false, 10, 50, 10, 1},
                                         Scale{true, 10, 50, 10, 0, true}),
                         name_of);
INSTANTIATE_TEST_SUITE_P(Long, UpgradeTest,
                         testing::Values(Scale{true, 50, 500, 50, 8}, Scale{false, 50, 500, 50, 8},
                                         Scale{true, 50, 500, 50, 2, true}, Scale{false, 50, 500, 50, 2, true}),
                         name_of);

}  // namespace
}  // namespace calico::soak
