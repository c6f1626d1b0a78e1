#include "core/reconcile/delta_tracker.hpp"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>

namespace calico {
namespace {

using Tracker = DeltaTracker<int, std::string>;
using Map = std::map<int, std::string>;

/// Applies everything to a fake kernel.
void apply(Tracker& t, Map& kernel) {
  t.apply_deletions([&](int k, const std::string& have) {
    EXPECT_EQ(kernel.at(k), have);
    kernel.erase(k);
    return Applied::done;
  });
  t.apply_updates([&](int k, const std::string& want, const std::string* have) {
    EXPECT_EQ(have != nullptr, kernel.contains(k));
    if (have) {
      EXPECT_EQ(*have, kernel[k]);
    }
    kernel[k] = want;
    return Applied::done;
  });
}

TEST(DeltaTracker, EqualStatesAreNotPending) {
  Tracker t;
  t.set_desired(1, "a");
  t.load_actual(Map{{1, "a"}});
  EXPECT_TRUE(t.in_sync());
  EXPECT_EQ(*t.actual(1), "a");
}

TEST(DeltaTracker, StrangersAreDeletionsAndDifferencesAreUpdates) {
  Tracker t;
  t.set_desired(1, "a");
  t.set_desired(2, "b");
  t.load_actual(Map{{2, "other"}, {3, "c"}});
  EXPECT_EQ(t.pending_updates(), 2U);
  EXPECT_EQ(t.pending_deletions(), 1U);
  Map kernel{{2, "other"}, {3, "c"}};
  apply(t, kernel);
  EXPECT_EQ(kernel, (Map{{1, "a"}, {2, "b"}}));
  EXPECT_TRUE(t.in_sync());
}

TEST(DeltaTracker, AChangeOfASyncedItemRemembersWhatIsThere) {
  Tracker t;
  t.set_desired(1, "a");
  t.set_actual(1, "a");
  t.set_desired(1, "b");
  ASSERT_NE(t.actual(1), nullptr);
  EXPECT_EQ(*t.actual(1), "a");
  EXPECT_EQ(t.pending_updates(), 1U);
  t.set_desired(1, "a");
  EXPECT_TRUE(t.in_sync());
}

TEST(DeltaTracker, AFailedWriteStaysPendingAndTheRestProceeds) {
  Tracker t;
  for (int i = 0; i < 5; ++i) t.set_desired(i, "x");
  const auto done =
      t.apply_updates([](int k, const auto&, const auto*) { return k == 3 ? Applied::keep : Applied::done; });
  EXPECT_EQ(done, 4U);
  EXPECT_EQ(t.pending_updates(), 1U);
  EXPECT_EQ(t.actual(3), nullptr);
}

TEST(DeltaTracker, TheLimitBoundsATurn) {
  Tracker t;
  for (int i = 0; i < 10; ++i) t.set_desired(i, "x");
  EXPECT_EQ(t.apply_updates([](auto&&...) { return Applied::done; }, 4), 4U);
  EXPECT_EQ(t.pending_updates(), 6U);
}

TEST(DeltaTracker, ForgettingWhatWasNeverWrittenLeavesNothing) {
  Tracker t;
  t.set_desired(1, "a");
  t.erase_desired(1);
  EXPECT_EQ(t.size(), 0U);
  EXPECT_TRUE(t.in_sync());
}

TEST(DeltaTracker, LoadDesiredRemovesWhatIsNotNamed) {
  Tracker t;
  t.load_desired(Map{{1, "a"}, {2, "b"}});
  t.load_actual(Map{{1, "a"}, {2, "b"}});
  t.load_desired(Map{{2, "b"}});
  EXPECT_EQ(t.pending_deletions(), 1U);
  EXPECT_EQ(t.pending_updates(), 0U);
}

/// Whatever the order of calls, the pending sets are the difference of the two states.
TEST(DeltaTracker, RandomHistoriesAgreeWithTheDifferenceOfTheStates) {
  std::mt19937 rng(7);
  auto pick = [&](int n) { return static_cast<int>(rng() % static_cast<unsigned>(n)); };
  Tracker t;
  Map desired, kernel;
  for (int step = 0; step < 20000; ++step) {
    const int k = pick(12);
    const std::string v(1, static_cast<char>('a' + pick(3)));
    switch (pick(6)) {
      case 0:
        t.set_desired(k, v), desired[k] = v;
        break;
      case 1:
        t.erase_desired(k), desired.erase(k);
        break;
      case 2:
        t.set_actual(k, v), kernel[k] = v;
        break;
      case 3:
        t.erase_actual(k), kernel.erase(k);
        break;
      case 4:
        if (pick(20) == 0) t.load_actual(kernel);
        break;
      case 5:
        if (pick(40) == 0) apply(t, kernel);
        break;
    }
    std::size_t updates = 0, deletions = 0;
    for (auto& [key, value] : desired) updates += !kernel.contains(key) || kernel[key] != value;
    for (auto& [key, value] : kernel) deletions += !desired.contains(key);
    ASSERT_EQ(t.pending_updates(), updates) << step;
    ASSERT_EQ(t.pending_deletions(), deletions) << step;
    for (int i = 0; i < 12; ++i) {
      ASSERT_EQ(t.actual(i) != nullptr, kernel.contains(i)) << step;
      if (kernel.contains(i)) {
        ASSERT_EQ(*t.actual(i), kernel[i]) << step;
      }
    }
  }
}

}  // namespace
}  // namespace calico
