/// RFC 9494 with whole speakers over loopback: reflector 1 keeps what it lost as the last choice, tells only those that
/// asked for it, and lets it go in time. Neighbours made of bytes say what no speaker of ours would.
#include "raw_peer.hpp"

namespace calico::bgp::test {
namespace {

constexpr std::uint32_t kStale = 0xffff0006, kNoLlgr = 0xffff0007;

class LongLivedTest : public SpeakersTest {
 protected:
  Options with(int n, std::chrono::seconds restart, std::chrono::seconds long_lived, std::chrono::seconds keep = 0s) {
    Options o;
    o.restart_time = restart;
    o.deferral = 1s;
    o.long_lived_stale_time = long_lived;
    o.keep_when_isolated = keep;
    o.state_dir = state_dir(n);
    return o;
  }
  /// Reflector 1, its clients 2 to `last`; 2 is a RawPeer or a speaker that connects.
  Speaker& reflector(Options o, int last) {
    auto& rr = speaker(1, std::move(o));
    std::vector<PeerConfig> list;
    for (int n = 2; n <= last; ++n) {
      list.push_back(rr.peer(n));
      list.back().route_reflector_client = list.back().passive = true;
    }
    EXPECT_TRUE(rr.peers(list));
    rr.complete();
    return rr;
  }
  Speaker& client(int n, Options o) {
    auto& s = speaker(n, std::move(o));
    s.local("10.65.0." + std::to_string(n) + "/32");
    s.complete();
    EXPECT_TRUE(s.peers({s.peer(1)}));
    return s;
  }
  static std::string communities(Speaker& s, std::string_view prefix) {
    RouteQuery q;
    q.exact = pfx(prefix);
    q.with_attributes = true;
    for (const auto& r : s.in_loop([&](Engine& e) { return e.routes(q); }))
      for (const auto& [name, value] : r.attributes)
        if (name == "BGP.community") return value;
    return "";
  }
  static bool marked(Speaker& s, std::string_view prefix) {
    return communities(s, prefix).find("(65535,6)") != std::string::npos;
  }
  /// An OPEN with both capabilities; times of the families, -1: not listed.
  static Open open(const RawPeer& p, std::uint16_t restart, int v4, int v6, bool preserved = true, bool gr4 = true) {
    auto o = p.open_message();
    auto& gr = o.caps.graceful_restart.emplace();
    gr.time_s = restart;
    if (gr4) gr.families.push_back({kIpv4Unicast, true});
    gr.families.push_back({kIpv6Unicast, true});
    auto& ll = o.caps.long_lived.emplace();
    if (v4 >= 0) ll.families.push_back({kIpv4Unicast, preserved, static_cast<std::uint32_t>(v4)});
    if (v6 >= 0) ll.families.push_back({kIpv6Unicast, preserved, static_cast<std::uint32_t>(v6)});
    return o;
  }
  static bool announce(RawPeer& p, std::string_view prefix, std::initializer_list<std::uint32_t> communities = {},
                       std::uint32_t local_pref = 100) {
    auto a = route_via(pfx(prefix).family() == Family::v4 ? "10.0.0.9" : "fd00::9", communities);
    a.local_pref = local_pref;
    return p.announce(prefix, a);
  }
  static bool end_of_rib(RawPeer& p, Family family) {
    Bytes m;
    encode_end_of_rib(m, unicast(family));
    return p.send(m);
  }
};

TEST_F(LongLivedTest, RoutesLiveOnAsTheLastChoiceAndComeBack) {
  auto& rr = reflector(with(1, 10s, 1h), 4);
  auto& s2 = client(2, with(2, 1s, 1h));
  auto& s3 = client(3, with(3, 10s, 1h));
  auto& s4 = client(4, with(4, 10s, 0s));  // does not know it
  s2.local("10.65.0.22/32");
  ASSERT_TRUE(wait_for("routes", [&] { return s3.route_count() == 3 && s4.route_count() == 3; }));
  const auto said = s3.status(1);
  EXPECT_TRUE(said->neighbor.llgr_ipv4 && said->neighbor.llgr_ipv6);
  EXPECT_EQ(said->neighbor.llgr_time_ipv4, 1h);
  EXPECT_FALSE(said->neighbor.llgr_preserved_ipv4) << "a first start";
  EXPECT_FALSE(rr.status(4)->neighbor.llgr);

  s2.kill();
  ASSERT_TRUE(wait_for("long-lived", [&] { return rr.status(2)->v4.long_lived; }));
  const auto st = *rr.status(2);
  EXPECT_EQ(st.v4.stale, 2U);
  EXPECT_TRUE(st.gr_active);
  EXPECT_GT(st.v4.long_lived_left, 59min);
  EXPECT_LE(st.v4.long_lived_left, 1h);
  EXPECT_FALSE(st.v6.long_lived);
  ASSERT_TRUE(wait_for("withdrawn where it is not understood", [&] { return !s4.route("10.65.0.2/32"); }));
  ASSERT_TRUE(wait_for("marked where it is", [&] { return marked(s3, "10.65.0.2/32"); }));
  EXPECT_TRUE(s3.route("10.65.0.2/32"));
  EXPECT_TRUE(s4.route("10.65.0.3/32")) << "the others' routes stay";

  // It comes back with one of the two.
  s2.make();
  s2.local("10.65.0.2/32");
  ASSERT_TRUE(s2.peers({s2.peer(1)}));
  ASSERT_TRUE(wait_for("back", [&] { return rr.established(2); }));
  EXPECT_TRUE(rr.status(2)->neighbor.llgr_preserved_ipv4) << "the second life of one boot";
  ASSERT_TRUE(wait_for("fresh at 4", [&] { return s4.route("10.65.0.2/32").has_value(); }));
  EXPECT_TRUE(stays([&] { return s3.route("10.65.0.22/32") && rr.status(2)->v4.long_lived; }, 300ms))
      << "not before End-of-RIB";
  s2.complete();
  ASSERT_TRUE(wait_for("the end", [&] { return !rr.status(2)->gr_active && !s3.route("10.65.0.22/32"); }));
  EXPECT_FALSE(rr.status(2)->v4.long_lived);
  EXPECT_TRUE(wait_for("unmarked at 3", [&] { return !marked(s3, "10.65.0.2/32"); }));
}

TEST_F(LongLivedTest, RestartTimeZeroBeginsItAtOnceAndNoLlgrGoes) {
  auto& rr = reflector(with(1, 10s, 1h), 2);
  RawPeer p(2, 1);
  ASSERT_TRUE(p.handshake(open(p, 0, 3600, -1)));
  ASSERT_TRUE(announce(p, "10.99.0.1/32") && announce(p, "10.99.0.2/32", {kNoLlgr}) &&
              announce(p, "10.99.0.3/32", {kStale, kNoLlgr}) && announce(p, "10.99.0.4/32", {64512U << 16 | 7}) &&
              announce(p, "fd99::1/128"));
  ASSERT_TRUE(wait_for("routes", [&] { return rr.route_count() == 5; }));
  p.close();
  ASSERT_TRUE(wait_for("long-lived", [&] { return rr.status(2)->v4.long_lived && rr.route_count() == 2; }));
  EXPECT_TRUE(marked(rr, "10.99.0.1/32"));
  EXPECT_EQ(communities(rr, "10.99.0.4/32"), "(64512,7) (65535,6)");
  EXPECT_FALSE(rr.status(2)->v6.long_lived) << "not in the capability";
  EXPECT_EQ(rr.in_loop([](Engine& e) { return e.status(); }).attribute_sets, 2U) << "old sets are freed";
}

TEST_F(LongLivedTest, EachFamilyHasItsOwnTime) {
  auto& rr = reflector(with(1, 10s, 1h), 2);
  RawPeer p(2, 1);
  ASSERT_TRUE(p.handshake(open(p, 0, 1, 3600)));
  ASSERT_TRUE(announce(p, "10.99.0.1/32") && announce(p, "fd99::1/128"));
  ASSERT_TRUE(wait_for("routes", [&] { return rr.route_count() == 2; }));
  const auto closed = std::chrono::steady_clock::now();
  p.close();
  ASSERT_TRUE(wait_for("IPv4 gone", [&] { return !rr.route("10.99.0.1/32"); }));
  EXPECT_GE(std::chrono::steady_clock::now() - closed, 990ms) << "not before its time";
  EXPECT_TRUE(rr.saw(PeerEvent::Kind::stale_expired));
  EXPECT_TRUE(rr.status(2)->v6.long_lived);
  EXPECT_TRUE(stays([&] { return rr.route("fd99::1/128").has_value(); }, 300ms));
}

TEST_F(LongLivedTest, OurOwnTimeBoundsThePeers) {
  auto& rr = reflector(with(1, 10s, 1h), 3);
  auto list = std::vector{rr.peer(2), rr.peer(3)};
  for (auto& c : list) c.route_reflector_client = c.passive = true;
  list[0].long_lived_stale_time = 1s;
  list[1].long_lived_stale_time = 0s;
  ASSERT_TRUE(rr.peers(list));
  RawPeer p(2, 1), off(3, 1);
  ASSERT_TRUE(p.handshake(open(p, 0, 3600, 3600)) && off.handshake(open(off, 0, 3600, 3600)));
  EXPECT_EQ(rr.status(2)->local.llgr_time_ipv4, 1s);
  EXPECT_FALSE(rr.status(3)->local.llgr);
  ASSERT_TRUE(announce(p, "10.99.0.1/32") && announce(off, "10.99.0.2/32"));
  ASSERT_TRUE(wait_for("routes", [&] { return rr.route_count() == 2; }));
  off.close();
  ASSERT_TRUE(wait_for("gone at the restart time", [&] { return !rr.route("10.99.0.2/32"); }));
  p.close();
  ASSERT_TRUE(wait_for("long-lived", [&] { return rr.status(2)->v4.long_lived; }));
  EXPECT_TRUE(wait_for("gone", [&] { return rr.route_count() == 0; }));
}

TEST_F(LongLivedTest, AFamilyWithoutGracefulRestartGoesOverAtOnce) {
  auto& rr = reflector(with(1, 10s, 1h), 2);
  RawPeer p(2, 1);
  ASSERT_TRUE(p.handshake(open(p, 600, 3600, -1, true, false)));
  ASSERT_TRUE(announce(p, "10.99.0.1/32") && announce(p, "fd99::1/128"));
  ASSERT_TRUE(wait_for("routes", [&] { return rr.route_count() == 2; }));
  p.close();
  ASSERT_TRUE(wait_for("IPv4 is long-lived", [&] { return rr.status(2)->v4.long_lived; }));
  EXPECT_EQ(rr.status(2)->v6.stale, 1U);
  EXPECT_FALSE(rr.status(2)->v6.long_lived) << "its restart time runs";
}

TEST_F(LongLivedTest, WithoutGracefulRestartItSaysNothing) {
  auto& rr = reflector(with(1, 10s, 1h), 3);
  auto& s3 = client(3, with(3, 10s, 1h));
  RawPeer p(2, 1);
  auto o = open(p, 0, 3600, 3600);
  o.caps.graceful_restart.reset();
  ASSERT_TRUE(p.handshake(o));
  ASSERT_TRUE(announce(p, "10.99.0.1/32"));
  ASSERT_TRUE(wait_for("route", [&] { return s3.route("10.99.0.1/32").has_value(); }));
  p.close();
  EXPECT_TRUE(wait_for("gone", [&] { return !s3.route("10.99.0.1/32"); }));
  EXPECT_FALSE(rr.status(2)->gr_active);
}

TEST_F(LongLivedTest, WithoutItsFBitStaleRoutesGoWithTheNewSession) {
  auto& rr = reflector(with(1, 10s, 1h), 2);
  RawPeer p(2, 1);
  ASSERT_TRUE(p.handshake(open(p, 0, 3600, 3600)));
  ASSERT_TRUE(announce(p, "10.99.0.1/32") && announce(p, "fd99::1/128"));
  ASSERT_TRUE(wait_for("routes", [&] { return rr.route_count() == 2; }));
  p.close();
  ASSERT_TRUE(wait_for("long-lived", [&] { return rr.status(2)->v4.long_lived && rr.status(2)->v6.long_lived; }));
  // RFC 4724's bits are set, 9494's are not: now the latter count.
  RawPeer again(2, 1);
  ASSERT_TRUE(again.handshake(open(again, 0, 3600, 3600, false)));
  EXPECT_TRUE(wait_for("gone", [&] { return rr.route_count() == 0; }));
  EXPECT_FALSE(rr.status(2)->v4.long_lived || rr.status(2)->gr_active);
}

TEST_F(LongLivedTest, TheTimeRunsOnWhileThePeerIsBack) {
  auto& rr = reflector(with(1, 10s, 1h), 2);
  RawPeer p(2, 1);
  ASSERT_TRUE(p.handshake(open(p, 0, 2, 3600)));
  ASSERT_TRUE(announce(p, "10.99.0.1/32") && announce(p, "10.99.0.2/32") && announce(p, "fd99::1/128"));
  ASSERT_TRUE(wait_for("routes", [&] { return rr.route_count() == 3; }));
  p.close();
  ASSERT_TRUE(wait_for("long-lived", [&] { return rr.status(2)->v4.long_lived; }));
  RawPeer again(2, 1);
  ASSERT_TRUE(again.handshake(open(again, 0, 2, 3600)));
  ASSERT_TRUE(announce(again, "10.99.0.2/32") && end_of_rib(again, Family::v6));
  ASSERT_TRUE(wait_for("IPv6 in sync", [&] { return !rr.route("fd99::1/128"); }));
  EXPECT_TRUE(rr.route("10.99.0.1/32")) << "its End-of-RIB has not come";
  ASSERT_TRUE(wait_for("what was not said again is gone", [&] { return !rr.route("10.99.0.1/32"); }));
  EXPECT_TRUE(rr.established(2));
  EXPECT_TRUE(rr.route("10.99.0.2/32"));
  // Lost again before End-of-RIB: the time was used up.
  again.close();
  EXPECT_TRUE(wait_for("all gone", [&] { return rr.route_count() == 0; }));
}

TEST_F(LongLivedTest, LostAgainBeforeEndOfRibTheSameTimeRuns) {
  auto& rr = reflector(with(1, 10s, 1h), 2);
  RawPeer p(2, 1);
  ASSERT_TRUE(p.handshake(open(p, 0, 3000, -1)));
  ASSERT_TRUE(announce(p, "10.99.0.1/32"));
  ASSERT_TRUE(wait_for("route", [&] { return rr.route_count() == 1; }));
  p.close();
  ASSERT_TRUE(wait_for("long-lived", [&] { return rr.status(2)->v4.long_lived; }));
  RawPeer again(2, 1);
  ASSERT_TRUE(again.handshake(open(again, 0, 3600, -1)));
  ASSERT_TRUE(announce(again, "10.99.0.2/32"));
  ASSERT_TRUE(wait_for("another", [&] { return rr.route_count() == 2; }));
  again.close();
  ASSERT_TRUE(wait_for("both marked", [&] { return marked(rr, "10.99.0.1/32") && marked(rr, "10.99.0.2/32"); }));
  EXPECT_LE(rr.status(2)->v4.long_lived_left, 3000s) << "not begun again";
}

TEST_F(LongLivedTest, AReceivedStaleRouteLosesAgainstAnyOther) {
  auto& rr = reflector(with(1, 10s, 1h), 4);
  auto& s4 = client(4, with(4, 10s, 1h));
  RawPeer p(2, 1), q(3, 1);
  ASSERT_TRUE(p.handshake() && q.handshake());
  ASSERT_TRUE(announce(p, "10.99.0.1/32", {kStale}, 500));
  ASSERT_TRUE(wait_for("alone it serves, marked", [&] { return marked(s4, "10.99.0.1/32"); }));
  ASSERT_TRUE(announce(q, "10.99.0.1/32", {}, 1));
  ASSERT_TRUE(wait_for("the other wins", [&] {
    auto r = rr.route("10.99.0.1/32");
    return r && r->local_pref == 1 && !marked(s4, "10.99.0.1/32");
  }));
}

TEST_F(LongLivedTest, KeepingWhenIsolatedComesFirst) {
  // The only reflector goes. Kept as it was while that lasts (2 s), then as the last choice, for what is left of 1 h.
  auto& rr = reflector(with(1, 0s, 1h), 3);
  auto& s2 = client(2, with(2, 10s, 1h, 2s));
  client(3, with(3, 10s, 1h));
  ASSERT_TRUE(wait_for("route", [&] { return s2.route("10.65.0.3/32").has_value(); }));
  const auto killed = std::chrono::steady_clock::now();
  rr.kill();
  ASSERT_TRUE(wait_for("kept", [&] { return s2.status(1)->gr_active; }));
  EXPECT_TRUE(stays([&] { return !s2.status(1)->v4.long_lived && !marked(s2, "10.65.0.3/32"); }, 1s));
  EXPECT_TRUE(s2.in_loop([](Engine& e) { return e.status(); }).isolated);
  ASSERT_TRUE(wait_for("long-lived", [&] { return s2.status(1)->v4.long_lived; }));
  EXPECT_GE(std::chrono::steady_clock::now() - killed, 1900ms);
  EXPECT_LE(s2.status(1)->v4.long_lived_left, 1h - 1s) << "being kept does not make it longer";
  EXPECT_TRUE(marked(s2, "10.65.0.3/32"));
  EXPECT_TRUE(s2.route("10.65.0.3/32")) << "it never went";
}

}  // namespace
}  // namespace calico::bgp::test
