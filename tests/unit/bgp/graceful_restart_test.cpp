/// RFC 4724 in both parts, planned stop, and keeping routes when isolated. Speaker::kill() is what kill -9 looks like
/// to a peer: the connection ends without a word.
#include "speakers.hpp"

namespace calico::bgp::test {
namespace {

class GracefulRestartTest : public SpeakersTest {
 protected:
  Options with(int n, std::chrono::seconds restart, std::chrono::seconds keep = 0s,
               std::chrono::seconds deferral = 1s) {
    Options o;
    o.restart_time = restart;
    o.deferral = deferral;
    o.keep_when_isolated = keep;
    o.state_dir = state_dir(n);
    return o;
  }
  /// A reflector's peers: all given as clients.
  static std::vector<PeerConfig> clients(Speaker& rr, std::initializer_list<int> ns) {
    std::vector<PeerConfig> out;
    for (int n : ns) {
      out.push_back(rr.peer(n));
      out.back().route_reflector_client = true;
    }
    return out;
  }
  void add_local(Speaker& s) {
    s.local("10.65.0." + std::to_string(s.n()) + "/32");
    s.complete();
  }
  /// Reflector 1 with clients 2 and 3, converged.
  void reflector_with_two(Options o1, Options o2, Options o3) {
    auto& rr = speaker(1, std::move(o1));
    ASSERT_TRUE(rr.peers(clients(rr, {2, 3})));
    rr.complete();
    for (int n : {2, 3}) {
      auto& s = speaker(n, n == 2 ? o2 : o3);
      add_local(s);
      ASSERT_TRUE(s.peers({s.peer(1)}));
    }
    ASSERT_TRUE(wait_for("first convergence", [&] {
      return at(2).route("10.65.0.3/32") && at(3).route("10.65.0.2/32") && at(2).sweeps() == 1 && at(3).sweeps() == 1 &&
             at(1).sweeps() == 1;
    }));
  }
  Speaker& at(int n) { return *speakers_[static_cast<std::size_t>(n - 1)]; }
  int changes(Speaker& s) {
    return s.in_loop([&](Engine&) { return s.sink.changes; });
  }
};

TEST_F(GracefulRestartTest, AKilledComputeKeepsItsRoutesAtTheOthers) {
  reflector_with_two(with(1, 10s), with(2, 10s), with(3, 10s));
  const auto before = changes(at(3));
  at(2).kill();
  ASSERT_TRUE(wait_for("reflector keeps stale routes", [&] { return at(1).status(2)->gr_active; }));
  EXPECT_EQ(at(1).status(2)->v4.stale, 1U);
  EXPECT_TRUE(stays([&] { return at(3).route("10.65.0.2/32").has_value(); }, 500ms));
  // It comes back with one route more, and its old route.
  at(2).make();
  at(2).local("10.65.0.2/32");
  at(2).local("10.65.0.22/32");
  at(2).complete();
  ASSERT_TRUE(at(2).peers({at(2).peer(1)}));
  ASSERT_TRUE(wait_for("new route at 3", [&] { return at(3).route("10.65.0.22/32").has_value(); }));
  ASSERT_TRUE(wait_for("nothing stale", [&] { return !at(1).status(2)->gr_active; }));
  EXPECT_TRUE(stays([&] { return at(3).route_count() == 2; }, 300ms));
  EXPECT_EQ(changes(at(3)), before + 1) << "the old route never changed at 3";
  EXPECT_TRUE(
      wait_for("2 learned again and swept", [&] { return at(2).route("10.65.0.3/32") && at(2).sweeps() == 1; }));
  EXPECT_TRUE(at(1).saw(PeerEvent::Kind::established, "restarting")) << "the R bit of the second life";
}

TEST_F(GracefulRestartTest, WhatARestartedComputeNoLongerHasGoesAtEndOfRib) {
  reflector_with_two(with(1, 10s), with(2, 10s), with(3, 10s));
  at(2).kill();
  ASSERT_TRUE(wait_for("stale", [&] { return at(1).status(2)->gr_active; }));
  at(2).make();
  at(2).local("10.65.0.22/32");
  ASSERT_TRUE(at(2).peers({at(2).peer(1)}));
  ASSERT_TRUE(wait_for("new route at 3", [&] { return at(3).route("10.65.0.22/32").has_value(); }));
  EXPECT_TRUE(stays([&] { return at(3).route("10.65.0.2/32").has_value(); }, 300ms)) << "not before End-of-RIB";
  at(2).complete();
  EXPECT_TRUE(wait_for(
      "old route gone", [&] { return !at(3).route("10.65.0.2/32"); }, 5s));
}

TEST_F(GracefulRestartTest, AComputeGoneForGoodLeavesAtTheRestartTime) {
  reflector_with_two(with(1, 10s), with(2, 2s), with(3, 10s));
  const auto killed = std::chrono::steady_clock::now();
  at(2).kill();
  ASSERT_TRUE(wait_for(
      "route gone at 3", [&] { return !at(3).route("10.65.0.2/32"); }, 10s));
  const auto took = std::chrono::steady_clock::now() - killed;
  EXPECT_GT(took, 1900ms) << "not before its restart time";
  EXPECT_LT(took, 3500ms) << "not long after";
  EXPECT_TRUE(at(1).saw(PeerEvent::Kind::stale_expired));
}

TEST_F(GracefulRestartTest, KeepingWhenIsolatedDoesNotKeepADeadComputeWhileOthersLive) {
  reflector_with_two(with(1, 10s, 1h), with(2, 2s, 1h), with(3, 10s, 1h));
  at(2).kill();
  ASSERT_TRUE(wait_for(
      "route gone at 3", [&] { return !at(3).route("10.65.0.2/32"); }, 10s));
  EXPECT_TRUE(at(3).established(1));
}

TEST_F(GracefulRestartTest, APlannedStopIsLikeARestart) {
  reflector_with_two(with(1, 10s), with(2, 10s), with(3, 10s));
  const auto before = changes(at(3));
  at(2).stop(true);
  ASSERT_TRUE(wait_for("stale", [&] { return at(1).status(2)->gr_active; }));
  at(2).make();
  add_local(at(2));
  ASSERT_TRUE(at(2).peers({at(2).peer(1)}));
  ASSERT_TRUE(wait_for("back", [&] { return at(1).established(2) && !at(1).status(2)->gr_active; }));
  EXPECT_TRUE(stays([&] { return at(3).route("10.65.0.2/32").has_value(); }, 200ms));
  EXPECT_EQ(changes(at(3)), before);
}

TEST_F(GracefulRestartTest, AStopForGoodWithdrawsAtOnce) {
  reflector_with_two(with(1, 10s), with(2, 10s), with(3, 10s));
  at(2).stop(false);
  EXPECT_TRUE(wait_for(
      "route gone at 3", [&] { return !at(3).route("10.65.0.2/32"); }, 2s));
  EXPECT_FALSE(std::filesystem::exists(std::filesystem::path(state_dir(2)) / "bgp.running"));
}

TEST_F(GracefulRestartTest, AKilledReflectorDefersUntilAllClientsAreBack) {
  reflector_with_two(with(1, 10s, 0s, 5s), with(2, 10s), with(3, 10s));
  const auto before2 = changes(at(2)), before3 = changes(at(3));
  // Client 3 is kept away, so that the reflector knows only 2 at first.
  at(1).kill();
  ASSERT_TRUE(
      wait_for("both keep stale routes", [&] { return at(2).status(1)->gr_active && at(3).status(1)->gr_active; }));
  ASSERT_TRUE(at(3).peers({[&] {
    auto p = at(3).peer(1);
    p.passive = true;
    p.port = 1;
    return p;
  }()}));
  at(1).make();
  auto list = clients(at(1), {2, 3});
  list[1].port = 1;  // nobody there: 3 cannot be reached yet
  ASSERT_TRUE(at(1).peers(list));
  at(1).complete();
  ASSERT_TRUE(wait_for("session with 2", [&] { return at(1).established(2); }));
  EXPECT_TRUE(at(1).in_loop([](Engine& e) { return e.status(); }).restarting);
  EXPECT_TRUE(
      stays([&] { return !at(2).status(1)->v4.eor_received && at(2).route("10.65.0.3/32").has_value(); }, 500ms));
  ASSERT_TRUE(at(3).peers({at(3).peer(1)}));
  ASSERT_TRUE(wait_for(
      "End-of-RIB at 2", [&] { return at(2).status(1)->v4.eor_received; }, 4s));
  ASSERT_TRUE(wait_for("nothing stale", [&] { return !at(2).status(1)->gr_active && !at(3).status(1)->gr_active; }));
  EXPECT_TRUE(at(2).route("10.65.0.3/32") && at(3).route("10.65.0.2/32"));
  // Stale and fresh again are changes of a flag, never a removal.
  (void)before2;
  (void)before3;
}

TEST_F(GracefulRestartTest, DeferralEndsWithItsTimer) {
  reflector_with_two(with(1, 10s, 0s, 1s), with(2, 10s), with(3, 10s));
  at(1).kill();
  at(3).kill();
  ASSERT_TRUE(wait_for("2 keeps", [&] { return at(2).status(1)->gr_active; }));
  at(1).make();
  ASSERT_TRUE(at(1).peers(clients(at(1), {2, 3})));
  at(1).complete();
  ASSERT_TRUE(wait_for(
      "End-of-RIB at 2 without 3", [&] { return at(2).status(1) && at(2).status(1)->v4.eor_received; }, 8s));
  EXPECT_TRUE(wait_for(
      "3's route went with it", [&] { return !at(2).route("10.65.0.3/32"); }, 2s));
}

TEST_F(GracefulRestartTest, AFirstStartDoesNotDefer) {
  auto o = with(1, 10s, 0s, 30s);
  auto& rr = speaker(1, o);
  EXPECT_FALSE(rr.in_loop([](Engine& e) { return e.status(); }).restarting);
  ASSERT_TRUE(rr.peers(clients(rr, {2, 3})));  // 3 never comes
  rr.complete();
  auto& s2 = speaker(2, with(2, 10s));
  add_local(s2);
  ASSERT_TRUE(s2.peers({s2.peer(1)}));
  EXPECT_TRUE(wait_for(
      "route and End-of-RIB at once", [&] { return rr.route("10.65.0.2/32") && s2.status(1)->v4.eor_received; }, 3s));
}

TEST_F(GracefulRestartTest, WithoutPreservedForwardingStaleRoutesGoWithTheNewSession) {
  reflector_with_two(with(1, 10s), with(2, 10s), with(3, 10s));
  at(2).kill();
  ASSERT_TRUE(wait_for("stale", [&] { return at(1).status(2)->gr_active; }));
  // As after losing its state folder: a first start, its forwarding is unknown.
  std::filesystem::remove(std::filesystem::path(state_dir(2)) / "bgp.running");
  at(2).make();
  ASSERT_TRUE(at(2).peers({at(2).peer(1)}));
  EXPECT_TRUE(wait_for(
      "route gone with the OPEN", [&] { return at(1).established(2) && !at(3).route("10.65.0.2/32"); }, 3s));
}

TEST_F(GracefulRestartTest, AnIsolatedComputeKeepsWhatItLearned) {
  // Restart time 1 s; the reflector stays away for three of them.
  reflector_with_two(with(1, 1s, 1h, 5s), with(2, 1s, 1h), with(3, 1s, 1h));
  at(1).kill();
  ASSERT_TRUE(wait_for("stale", [&] { return at(2).status(1)->gr_active; }));
  EXPECT_TRUE(stays([&] { return at(2).route("10.65.0.3/32") && at(3).route("10.65.0.2/32"); }, 3s));
  EXPECT_TRUE(at(2).in_loop([](Engine& e) { return e.status(); }).isolated);
  EXPECT_TRUE(at(2).route("10.65.0.3/32")->stale);
  int lost = 0;
  at(1).make();
  ASSERT_TRUE(at(1).peers(clients(at(1), {2, 3})));
  at(1).complete();
  ASSERT_TRUE(wait_for("fresh again", [&] {
    if (!at(2).route("10.65.0.3/32") || !at(3).route("10.65.0.2/32")) ++lost;
    auto a = at(2).route("10.65.0.3/32"), b = at(3).route("10.65.0.2/32");
    return a && b && !a->stale && !b->stale;
  }));
  EXPECT_EQ(lost, 0);
}

TEST_F(GracefulRestartTest, AReflectorWithoutMemoryDoesNotEmptyIsolatedComputes) {
  reflector_with_two(with(1, 1s, 1h, 3s), with(2, 1s, 1h, 3s), with(3, 1s, 1h, 3s));
  at(1).kill();
  EXPECT_TRUE(stays([&] { return at(2).route("10.65.0.3/32").has_value(); }, 1500ms));
  // 3 dies too; the reflector comes back from nothing and ends its RIB before it has heard 3 again.
  at(3).kill();
  std::filesystem::remove(std::filesystem::path(state_dir(1)) / "bgp.running");
  at(1).make();
  ASSERT_TRUE(at(1).peers(clients(at(1), {2, 3})));
  at(1).complete();
  ASSERT_TRUE(wait_for("End-of-RIB at 2", [&] { return at(2).status(1)->v4.eor_received; }));
  EXPECT_TRUE(stays([&] { return at(2).route("10.65.0.3/32").has_value(); }, 1s));
  EXPECT_TRUE(wait_for(
      "gone after the deferral time", [&] { return !at(2).route("10.65.0.3/32"); }, 6s));
}

TEST_F(GracefulRestartTest, KeepingEnds) {
  reflector_with_two(with(1, 1s, 3s), with(2, 1s, 3s), with(3, 1s, 3s));
  const auto killed = std::chrono::steady_clock::now();
  at(1).kill();
  ASSERT_TRUE(wait_for(
      "routes gone", [&] { return !at(2).route("10.65.0.3/32"); }, 10s));
  const auto took = std::chrono::steady_clock::now() - killed;
  EXPECT_GT(took, 2800ms);
  EXPECT_LT(took, 5s);
}

TEST_F(GracefulRestartTest, ARestartedComputeWithoutReflectorsDoesNotSweep) {
  auto& s2 = speaker(2, with(2, 1s, 1h, 1s));
  add_local(s2);
  ASSERT_TRUE(s2.peers({s2.peer(1)}));
  EXPECT_TRUE(stays([&] { return s2.sweeps() == 0; }, 2500ms)) << "what an earlier life left in the kernel stays";
  auto& rr = speaker(1, with(1, 1s, 1h));
  rr.complete();
  ASSERT_TRUE(rr.peers(clients(rr, {2})));
  EXPECT_TRUE(wait_for("sweep once a reflector is in sync", [&] { return s2.sweeps() == 1; }));
}

TEST_F(GracefulRestartTest, OneReflectorOfTwoLostAndGone) {
  for (int rr : {1, 2}) {
    auto& s = speaker(rr, with(rr, 1s, 1h));
    auto list = clients(s, {3, 4});
    list.push_back(s.peer(3 - rr));
    s.complete();
    ASSERT_TRUE(s.peers(list));
  }
  for (int n : {3, 4}) {
    auto& s = speaker(n, with(n, 10s, 1h));
    add_local(s);
    ASSERT_TRUE(s.peers({s.peer(1), s.peer(2)}));
  }
  ASSERT_TRUE(wait_for("both paths", [&] {
    return at(3).status(1)->v4.imported == 1 && at(3).status(2)->v4.imported == 1 && at(4).route_count() == 1;
  }));
  at(1).kill();
  ASSERT_TRUE(wait_for(
      "stale path of 1 gone at its restart time", [&] { return at(3).status(1)->v4.imported == 0; }, 5s));
  EXPECT_TRUE(at(3).route("10.65.0.4/32"));
  EXPECT_FALSE(at(3).route("10.65.0.4/32")->stale);
  // Now the second one: isolated, everything is kept.
  at(2).kill();
  EXPECT_TRUE(stays([&] { return at(3).route("10.65.0.4/32").has_value(); }, 2500ms));
}

TEST_F(GracefulRestartTest, ARemovedReflectorIsIntentEvenIfItIsTheLast) {
  reflector_with_two(with(1, 10s, 1h), with(2, 10s, 1h), with(3, 10s, 1h));
  ASSERT_TRUE(at(2).peers({}));
  EXPECT_TRUE(wait_for(
      "routes gone", [&] { return at(2).route_count() == 0; }, 2s));
}

TEST_F(GracefulRestartTest, OffMeansOff) {
  auto o1 = with(1, 10s), o2 = with(2, 10s), o3 = with(3, 10s);
  o1.graceful_restart = false;
  reflector_with_two(o1, o2, o3);
  EXPECT_FALSE(at(2).status(1)->neighbor.graceful_restart);
  at(2).kill();
  EXPECT_TRUE(wait_for(
      "route gone at 3", [&] { return !at(3).route("10.65.0.2/32"); }, 2s));
}

}  // namespace
}  // namespace calico::bgp::test
