/// RFC 9494 beside BIRD 2: our reflector keeps a dead BIRD's routes as the last choice and tells only the BIRD that
/// asked for it; a BIRD keeps ours in the same way. Each daemon lives in a namespace of its own on one bridge.
#include <gmock/gmock.h>

#include "tests/support/bgp/peers.hpp"
#include "tests/support/wait.hpp"

namespace calico::test {
namespace {

using testing::HasSubstr;

class LongLivedBird2Test : public testing::Test {
 protected:
  void SetUp() override {
    NEEDS_NETNS();
    if (const auto what = PeerLab::missing(DaemonKind::bird2); !what.empty()) GTEST_SKIP() << "SKIPPED, needs " << what;
    lab_ = std::make_unique<PeerLab>("llgr");
    rr_ = &lab_->ours(1);
    rr_->options = "restart=1 llgr=3600 deferral=1";
    rr_->routes = {{.prefix = kOurs}};
    // 2 and 3 announce the capability, 4 does not know it.
    for (int n : {2, 3, 4}) {
      auto& bird = lab_->add(DaemonKind::bird2, n);
      const auto v4 = PeerLab::v4(n);
      bird.sessions = {
          {.name = "rr1", .local = v4, .remote = PeerLab::v4(1), .restart_time = 1, .long_lived = n == 4 ? 0 : 3600}};
      bird.routes = {{.prefix = "10.100." + std::to_string(n) + ".1/32"}};
      rr_->sessions.push_back({.name = "c" + std::to_string(n), .local = PeerLab::v4(1), .remote = v4, .client = true});
    }
  }
  void TearDown() override {
    if (lab_ && HasFailure()) std::cerr << lab_->explain();
    lab_.reset();
  }
  enum class State { none, fresh, last_choice };
  State at(int n, const std::string& prefix) {
    const auto table = lab_->at(n).table();
    const auto route = table.find(prefix);
    if (route == table.end()) return State::none;
    return route->second.communities.contains("65535:6") ? State::last_choice : State::fresh;  // LLGR_STALE
  }
  bool everywhere() {
    return at(3, kOf2) == State::fresh && at(4, kOf2) == State::fresh && at(1, kOf2) == State::fresh &&
           at(2, kOurs) == State::fresh && at(3, kOurs) == State::fresh && at(4, kOurs) == State::fresh;
  }
  std::string of(const std::string& session) { return rr_->birdc("show protocols all " + session); }
  static bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

  static constexpr const char *kOurs = "10.65.0.1/32", *kOf2 = "10.100.2.1/32";
  std::unique_ptr<PeerLab> lab_;
  OurPeer* rr_ = nullptr;
};

TEST_F(LongLivedBird2Test, EachKeepsTheOthersRoutesAsTheLastChoice) {
  for (int n : {1, 2, 3, 4}) lab_->at(n).start();
  ASSERT_TRUE(eventually("routes everywhere", [&] { return everywhere(); }));
  // Both see the same two OPENs.
  for (const auto& text : {of("c3"), lab_->at(3).explain()})
    EXPECT_THAT(
        text, HasSubstr("      Long-lived graceful restart\n        LL stale time: 3600\n        AF supported: ipv4"));
  EXPECT_THAT(of("c4"), HasSubstr("Long-lived graceful restart")) << "ours";
  EXPECT_EQ(rr_->neighbor_capabilities("c4").find("Long-lived"), std::string::npos);

  // BIRD 2 is gone for longer than its restart time.
  lab_->at(2).kill();
  ASSERT_TRUE(eventually("we keep", [&] { return has(of("c2"), "    Neighbor GR:    Long-lived"); }));
  EXPECT_THAT(of("c2"), HasSubstr("    LL stale timer: 35"));
  ASSERT_TRUE(eventually("marked at 3", [&] { return at(3, kOf2) == State::last_choice; }));
  ASSERT_TRUE(eventually("not at 4, which does not know it", [&] { return at(4, kOf2) == State::none; }));
  EXPECT_EQ(at(3, kOf2), State::last_choice);
  lab_->at(2).start(true);
  ASSERT_TRUE(eventually("fresh again", [&] { return everywhere() && !has(of("c2"), "Neighbor GR"); })) << of("c2");

  // We are gone for longer than our restart time.
  rr_->kill();
  ASSERT_TRUE(eventually("BIRD keeps", [&] { return has(lab_->at(3).explain(), "    Neighbor GR:    Long-lived"); }));
  EXPECT_NE(at(3, kOurs), State::none);
  EXPECT_NE(at(3, kOf2), State::none);
  ASSERT_TRUE(eventually("4 lets go", [&] { return at(4, kOurs) == State::none; }));
  rr_->start();
  ASSERT_TRUE(eventually("taken up again", [&] {
    EXPECT_NE(at(3, kOurs), State::none) << "lost during the return";
    return HasFailure() || (everywhere() && !has(lab_->at(3).explain(), "Neighbor GR"));
  }));
}

}  // namespace
}  // namespace calico::test
