/// Whole speakers in one process, over real TCP on loopback: sessions, reflection, policy, configuration changes.
#include "core/bgp/policy/route_policy.hpp"
#include "speakers.hpp"

namespace calico::bgp::test {
namespace {

TEST_F(SpeakersTest, TwoSpeakersExchangeLocalRoutes) {
  auto& a = speaker(1);
  auto& b = speaker(2);
  a.local("10.65.0.1/32");
  a.local("10.65.0.2/32");
  a.complete();
  b.complete();
  ASSERT_TRUE(a.peers({a.peer(2)}));
  ASSERT_TRUE(b.peers({b.peer(1)}));
  ASSERT_TRUE(wait_for("routes of a at b", [&] { return b.route_count() == 2; }));
  auto r = b.route("10.65.0.1/32");
  ASSERT_TRUE(r);
  EXPECT_EQ(r->bgp_next_hop, own_address(1));
  EXPECT_EQ(r->from, "p1");
  EXPECT_TRUE(r->internal);
  EXPECT_EQ(a.route_count(), 0U);
  ASSERT_TRUE(wait_for("End-of-RIB both ways", [&] {
    auto s = b.status(1);
    return s->v4.eor_received && s->v4.eor_sent && s->v6.eor_received;
  }));
  a.local("10.65.0.2/32", std::nullopt);
  ASSERT_TRUE(wait_for("withdrawal at b", [&] { return b.route_count() == 1; }));
}

TEST_F(SpeakersTest, EndOfRibWaitsForTheLocalRoutes) {
  auto& a = speaker(1);
  auto& b = speaker(2);
  b.complete();
  ASSERT_TRUE(a.peers({a.peer(2)}));
  ASSERT_TRUE(b.peers({b.peer(1)}));
  ASSERT_TRUE(wait_for("session", [&] { return b.established(1); }));
  a.local("10.65.0.1/32");
  ASSERT_TRUE(wait_for("route without End-of-RIB", [&] { return b.route_count() == 1; }));
  EXPECT_TRUE(stays([&] { return !b.status(1)->v4.eor_received; }, 200ms));
  EXPECT_EQ(b.sweeps(), 0);
  a.complete();
  ASSERT_TRUE(wait_for("End-of-RIB", [&] { return b.status(1)->v4.eor_received; }));
  ASSERT_TRUE(wait_for("sweep", [&] { return b.sweeps() == 1; }));
}

TEST_F(SpeakersTest, Ipv6RoutesTravelOverAnIpv4Session) {
  Options oa, ob;
  oa.next_hop_v6 = addr("fd00::1");
  auto& a = speaker(1, oa);
  auto& b = speaker(2, ob);
  a.local("fd00:65::1/128");
  a.local("10.65.0.1/32");
  b.local("fd00:65::2/128");  // b has no IPv6 address: not announced
  ASSERT_TRUE(a.peers({a.peer(2)}));
  ASSERT_TRUE(b.peers({b.peer(1)}));
  ASSERT_TRUE(wait_for("routes of a at b", [&] { return b.route_count() == 2; }));
  EXPECT_EQ(b.route("fd00:65::1/128")->bgp_next_hop, addr("fd00::1"));
  EXPECT_TRUE(stays([&] { return a.route_count() == 0; }, 100ms));
}

class ReflectionTest : public SpeakersTest {
 protected:
  /// 1 reflects between clients 2, 3 and the non-clients 4, 5.
  void SetUp() override {
    SpeakersTest::SetUp();
    auto& rr = speaker(1);
    std::vector<PeerConfig> list;
    for (int n : {2, 3, 4, 5}) {
      auto p = rr.peer(n);
      p.route_reflector_client = n <= 3;
      list.push_back(p);
    }
    ASSERT_TRUE(rr.peers(list));
    for (int n : {2, 3, 4, 5}) {
      auto& s = speaker(n);
      s.local("10.65.0." + std::to_string(n) + "/32");
      s.complete();
      ASSERT_TRUE(s.peers({s.peer(1)}));
    }
    rr.complete();
  }
  Speaker& at(int n) { return *speakers_[static_cast<std::size_t>(n - 1)]; }
};

TEST_F(ReflectionTest, ClientsGetAllNonClientsGetClients) {
  ASSERT_TRUE(wait_for("clients have all", [&] { return at(2).route_count() == 3 && at(3).route_count() == 3; }));
  ASSERT_TRUE(
      wait_for("non-clients have the clients'", [&] { return at(4).route_count() == 2 && at(5).route_count() == 2; }));
  EXPECT_TRUE(at(4).route("10.65.0.2/32") && at(4).route("10.65.0.3/32"));
  EXPECT_TRUE(stays([&] { return !at(4).route("10.65.0.5/32"); }, 100ms));
  auto r = at(3).route("10.65.0.2/32");
  EXPECT_EQ(r->bgp_next_hop, own_address(2)) << "a reflector leaves the next hop";
  RouteQuery q;
  q.exact = pfx("10.65.0.2/32");
  q.with_attributes = true;
  auto routes = at(3).in_loop([&](Engine& e) { return e.routes(q); });
  ASSERT_EQ(routes.size(), 1U);
  std::map<std::string, std::string> attrs(routes[0].attributes.begin(), routes[0].attributes.end());
  EXPECT_EQ(attrs["BGP.originator_id"], "10.0.0.2");
  EXPECT_EQ(attrs["BGP.cluster_list"], "10.0.0.1");
  EXPECT_EQ(attrs["BGP.local_pref"], "100");
  // Nothing comes back to its origin.
  EXPECT_EQ(at(2).status(1)->v4.imported, 3U);
  EXPECT_EQ(at(2).status(1)->counters.import_rejected, 0U);
}

TEST_F(ReflectionTest, AClientThatLeavesIsWithdrawnEverywhere) {
  ASSERT_TRUE(wait_for("full table", [&] { return at(3).route_count() == 3 && at(4).route_count() == 2; }));
  std::vector<PeerConfig> list;
  for (int n : {3, 4, 5}) {
    auto p = at(1).peer(n);
    p.route_reflector_client = n == 3;
    list.push_back(p);
  }
  const auto before = std::chrono::steady_clock::now();
  ASSERT_TRUE(at(1).peers(list));
  ASSERT_TRUE(wait_for(
      "routes of 2 gone", [&] { return !at(3).route("10.65.0.2/32") && !at(4).route("10.65.0.2/32"); }, 5s));
  EXPECT_LT(std::chrono::steady_clock::now() - before, 2s) << "by intent: at once, no restart time";
  EXPECT_TRUE(wait_for("2 heard why", [&] { return at(2).saw(PeerEvent::Kind::down, "de-configured"); }));
  EXPECT_TRUE(wait_for(
      "2 forgot at once", [&] { return at(2).route_count() == 0; }, 2s));
  // The others' sessions did not notice.
  EXPECT_EQ(at(1).status(3)->counters.flaps, 0U);
  EXPECT_FALSE(at(3).saw(PeerEvent::Kind::down));
}

TEST_F(ReflectionTest, ChangingTheClientFlagKeepsTheSession) {
  ASSERT_TRUE(wait_for("full table", [&] { return at(3).route_count() == 3 && at(4).route_count() == 2; }));
  std::vector<PeerConfig> list;
  for (int n : {2, 3, 4, 5}) {
    auto p = at(1).peer(n);
    p.route_reflector_client = true;
    list.push_back(p);
  }
  ASSERT_TRUE(at(1).peers(list));
  ASSERT_TRUE(wait_for("4 has the route of 5", [&] { return at(4).route_count() == 3 && at(5).route_count() == 3; }));
  for (int n : {2, 3, 4, 5}) EXPECT_EQ(at(1).status(n)->counters.flaps, 0U) << n;
  list[2].route_reflector_client = false;
  list[3].route_reflector_client = false;
  ASSERT_TRUE(at(1).peers(list));
  ASSERT_TRUE(wait_for("and loses it", [&] { return at(4).route_count() == 2 && at(5).route_count() == 2; }));
  EXPECT_EQ(at(1).status(4)->counters.flaps, 0U);
}

TEST_F(SpeakersTest, TwoReflectorsDoNotLoop) {
  // Clients 3 and 4 of both reflectors 1 and 2, which are non-clients of each other.
  for (int rr : {1, 2}) {
    auto& s = speaker(rr);
    std::vector<PeerConfig> list{s.peer(3 - rr)};
    for (int n : {3, 4}) {
      list.push_back(s.peer(n));
      list.back().route_reflector_client = true;
    }
    s.complete();
    ASSERT_TRUE(s.peers(list));
  }
  for (int n : {3, 4}) {
    auto& s = speaker(n);
    s.local("10.65.0." + std::to_string(n) + "/32");
    s.complete();
    ASSERT_TRUE(s.peers({s.peer(1), s.peer(2)}));
  }
  auto& c3 = *speakers_[2];
  auto& r1 = *speakers_[0];
  ASSERT_TRUE(
      wait_for("both paths at 3", [&] { return c3.status(1)->v4.imported == 1 && c3.status(2)->v4.imported == 1; }));
  ASSERT_TRUE(wait_for("reflector 1 hears 3 and 4 also from 2", [&] { return r1.status(2)->v4.imported == 2; }));
  // The one from the client itself wins: its cluster list is shorter.
  EXPECT_EQ(r1.route("10.65.0.3/32")->from, "p3");
  speakers_[2]->local("10.65.0.3/32", std::nullopt);
  ASSERT_TRUE(
      wait_for("withdrawn everywhere", [&] { return r1.route_count() == 1 && speakers_[3]->route_count() == 0; }));
  EXPECT_TRUE(stays([&] { return !r1.route("10.65.0.3/32"); }, 100ms)) << "no count to infinity between reflectors";
}

TEST_F(SpeakersTest, ExternalPeerNeedsPolicy) {
  Options ob;
  ob.local_as = Asn{65000};
  auto& a = speaker(1);
  auto& b = speaker(2, ob);
  a.local("10.65.0.1/32");
  b.local("192.0.2.0/24");
  a.complete();
  b.complete();
  auto pa = a.peer(2), pb = b.peer(1);
  pa.remote_as = Asn{65000};
  pb.remote_as = Asn{64512};
  ASSERT_TRUE(a.peers({pa}));
  ASSERT_TRUE(b.peers({pb}));
  ASSERT_TRUE(wait_for("End-of-RIB both ways", [&] {
    auto x = a.status(2), y = b.status(1);
    return x->v4.eor_received && y->v4.eor_received;
  }));
  EXPECT_EQ(a.route_count() + b.route_count(), 0U) << "RFC 8212";
  EXPECT_EQ(a.status(2)->v4.exported, 0U);

  pa.export_policy = Policy::all;
  ASSERT_TRUE(a.peers({pa}));
  EXPECT_TRUE(stays([&] { return b.route_count() == 0; }, 200ms)) << "b does not import";
  EXPECT_EQ(a.status(2)->counters.flaps, 0U) << "export is changed under the session";
  pb.import_policy = Policy::all;
  ASSERT_TRUE(b.peers({pb}));
  ASSERT_TRUE(wait_for("route of a at b", [&] { return b.route_count() == 1; }));
  RouteQuery q;
  q.with_attributes = true;
  q.exact = pfx("10.65.0.1/32");
  auto r = b.in_loop([&](Engine& e) { return e.routes(q); }).at(0);
  EXPECT_EQ(r.as_path, "64512");
  EXPECT_FALSE(r.internal);
  EXPECT_EQ(r.next_hop, own_address(1));
  EXPECT_EQ(a.route_count(), 0U);

  pa.export_policy = Policy::none;
  ASSERT_TRUE(a.peers({pa}));
  ASSERT_TRUE(wait_for("withdrawn when export ends", [&] { return b.route_count() == 0; }));
}

TEST_F(SpeakersTest, BorderKeepsOrReplacesTheNextHop) {
  // 2 (client) - 1 (reflector) - 3 (AS 65000)
  Options o3;
  o3.local_as = Asn{65000};
  auto& rr = speaker(1);
  auto& c = speaker(2);
  auto& b = speaker(3, o3);
  c.local("10.65.0.2/32");
  for (auto* s : {&rr, &c, &b}) s->complete();
  auto client = rr.peer(2), border = rr.peer(3);
  client.route_reflector_client = true;
  border.remote_as = Asn{65000};
  border.export_policy = Policy::all;
  border.multihop = 2;
  ASSERT_TRUE(rr.peers({client, border}));
  ASSERT_TRUE(c.peers({c.peer(1)}));
  auto pb = b.peer(1);
  pb.remote_as = Asn{64512};
  pb.import_policy = Policy::all;
  pb.multihop = 2;
  ASSERT_TRUE(b.peers({pb}));
  ASSERT_TRUE(wait_for("route at the border", [&] { return b.route_count() == 1; }));
  EXPECT_EQ(b.route("10.65.0.2/32")->bgp_next_hop, own_address(2));
  border.next_hop = NextHopMode::self;
  ASSERT_TRUE(rr.peers({client, border}));
  ASSERT_TRUE(wait_for("own next hop", [&] {
    auto r = b.route("10.65.0.2/32");
    return r && r->bgp_next_hop == own_address(1);
  }));
  EXPECT_EQ(rr.status(3)->counters.flaps, 0U);
}

TEST_F(SpeakersTest, DynamicNeighboursComeAndGo) {
  auto& rr = speaker(1);
  RangeConfig range;
  range.name = "clients";
  range.prefix = Prefix{own_address(0), 24}.masked();
  range.route_reflector_client = true;
  range.max_peers = 2;
  ASSERT_TRUE(rr.peers({}, {range}));
  rr.complete();
  for (int n : {2, 3}) {
    auto& s = speaker(n);
    s.local("10.65.0." + std::to_string(n) + "/32");
    s.complete();
    ASSERT_TRUE(s.peers({s.peer(1)}));
  }
  ASSERT_TRUE(
      wait_for("reflected", [&] { return speakers_[1]->route_count() == 1 && speakers_[2]->route_count() == 1; }));
  EXPECT_TRUE(rr.status(2)->dynamic);
  auto& s4 = speaker(4);
  ASSERT_TRUE(s4.peers({s4.peer(1)}));
  EXPECT_TRUE(wait_for("the third is refused", [&] { return rr.saw(PeerEvent::Kind::refused, "full"); }));
  EXPECT_FALSE(s4.established(1));
  s4.kill();
  // A client that says good-bye is forgotten; its place is free again.
  speakers_[2]->stop(false);
  ASSERT_TRUE(wait_for("3 is gone", [&] { return !rr.status(3) && speakers_[1]->route_count() == 0; }));
  // What changes in the range changes for who is there: a limit or a filter under the living session.
  range.max_prefix = 7;
  range.export_filter = PolicyRef(*RoutePolicy::compile({}, Default::accept));
  ASSERT_TRUE(rr.peers({}, {range}));
  EXPECT_EQ(rr.status(2)->config.max_prefix, 7U);
  EXPECT_EQ(rr.status(2)->config.export_filter, range.export_filter);
  EXPECT_TRUE(rr.established(2));
  EXPECT_EQ(rr.status(2)->counters.flaps, 0U);
  // What the session was made with needs a new one, for which the client comes back.
  range.hold_time = std::chrono::seconds(30);
  ASSERT_TRUE(rr.peers({}, {range}));
  ASSERT_TRUE(wait_for("2 is back", [&] { return rr.established(2) && rr.status(2)->hold_time.count() == 30; }));
  // Without the range, so are the others.
  ASSERT_TRUE(rr.peers({}, {}));
  ASSERT_TRUE(wait_for("2 is gone", [&] { return !rr.status(2); }));
  EXPECT_TRUE(wait_for("2 knows", [&] { return speakers_[1]->saw(PeerEvent::Kind::down, "de-configured"); }));
}

TEST_F(SpeakersTest, StrangersAreClosed) {
  auto& a = speaker(1);
  auto& b = speaker(2);
  ASSERT_TRUE(a.peers({}));
  ASSERT_TRUE(b.peers({b.peer(1)}));
  ASSERT_TRUE(wait_for("refusal", [&] { return a.saw(PeerEvent::Kind::refused); }));
  EXPECT_FALSE(b.established(1));
}

TEST_F(SpeakersTest, BothSidesConnectAtOnceAndOneSessionStays) {
  // Many pairs, so that collisions do happen.
  constexpr int kPairs = 12;
  for (int n = 1; n <= 2 * kPairs; ++n) speaker(n).complete();
  for (int i = 0; i < kPairs; ++i) {
    auto &a = *speakers_[static_cast<std::size_t>(2 * i)], &b = *speakers_[static_cast<std::size_t>(2 * i + 1)];
    ASSERT_TRUE(a.peers({a.peer(2 * i + 2)}));
    ASSERT_TRUE(b.peers({b.peer(2 * i + 1)}));
  }
  for (int i = 0; i < kPairs; ++i)
    ASSERT_TRUE(wait_for("session of a pair", [&] {
      return speakers_[static_cast<std::size_t>(2 * i)]->established(2 * i + 2) &&
             speakers_[static_cast<std::size_t>(2 * i + 1)]->established(2 * i + 1);
    }));
  EXPECT_TRUE(stays(
      [&] {
        for (int i = 0; i < kPairs; ++i)
          if (!speakers_[static_cast<std::size_t>(2 * i)]->established(2 * i + 2)) return false;
        return true;
      },
      1s));
}

TEST_F(SpeakersTest, WrongAsIsRefused) {
  auto& a = speaker(1);
  auto& b = speaker(2);
  auto pa = a.peer(2);
  pa.remote_as = Asn{65001};
  ASSERT_TRUE(a.peers({pa}));
  ASSERT_TRUE(b.peers({b.peer(1)}));
  ASSERT_TRUE(wait_for("error", [&] { return a.status(2)->last_error.find("AS") != std::string::npos; }));
  EXPECT_FALSE(a.established(2));
  // Repaired, it comes up.
  ASSERT_TRUE(a.peers({a.peer(2)}));
  EXPECT_TRUE(wait_for("session", [&] { return a.established(2); }));
}

TEST_F(SpeakersTest, BadConfigurationChangesNothing) {
  auto& a = speaker(1);
  auto& b = speaker(2);
  ASSERT_TRUE(a.peers({a.peer(2)}));
  ASSERT_TRUE(b.peers({b.peer(1)}));
  ASSERT_TRUE(wait_for("session", [&] { return a.established(2); }));
  auto twice = a.peer(2);
  twice.name = "other";
  EXPECT_FALSE(a.peers({a.peer(2), twice}));
  auto bad = a.peer(3);
  bad.hold_time = 1s;
  EXPECT_FALSE(a.peers({a.peer(2), bad}));
  EXPECT_TRUE(a.established(2));
  EXPECT_FALSE(a.status(3));
}

TEST_F(SpeakersTest, MaxPrefixEndsTheSession) {
  auto& a = speaker(1);
  auto& b = speaker(2);
  for (int i = 0; i < 20; ++i) a.local("10.65.1." + std::to_string(i) + "/32");
  auto pb = b.peer(1);
  pb.max_prefix = 10;
  ASSERT_TRUE(a.peers({a.peer(2)}));
  ASSERT_TRUE(b.peers({pb}));
  ASSERT_TRUE(wait_for("limit", [&] { return b.saw(PeerEvent::Kind::max_prefix); }));
  EXPECT_TRUE(wait_for("nothing kept", [&] { return b.route_count() == 0; }));
  EXPECT_TRUE(wait_for("a heard why", [&] { return a.saw(PeerEvent::Kind::down, "prefixes"); }));
}

TEST_F(SpeakersTest, PasswordMustMatch) {
  auto& a = speaker(1);
  auto& b = speaker(2);
  auto pa = a.peer(2), pb = b.peer(1);
  pa.password = pb.password = "a secret";
  ASSERT_TRUE(a.peers({pa}));
  if (a.saw(PeerEvent::Kind::refused, "no TCP MD5")) GTEST_SKIP() << "SKIPPED: this kernel has no TCP MD5";
  ASSERT_TRUE(b.peers({pb}));
  ASSERT_TRUE(wait_for("session with password", [&] { return a.established(2); }));
  EXPECT_EQ(a.status(2)->config.password, "[secret]");
  pb.password = "another";
  ASSERT_TRUE(b.peers({pb}));
  ASSERT_TRUE(wait_for("session ended", [&] { return !b.established(1); }));
  EXPECT_TRUE(stays([&] { return !b.established(1) && !a.established(2); }, 1500ms));
  pb.password = "a secret";
  ASSERT_TRUE(b.peers({pb}));
  EXPECT_TRUE(wait_for("session again", [&] { return b.established(1); }));
}

TEST_F(SpeakersTest, TtlSecurityOnBothSides) {
  Options ob;
  ob.local_as = Asn{65000};
  auto& a = speaker(1);
  auto& b = speaker(2, ob);
  auto pa = a.peer(2), pb = b.peer(1);
  pa.remote_as = Asn{65000};
  pb.remote_as = Asn{64512};
  pa.ttl_security = true;  // b sends TTL 1: dropped by a
  ASSERT_TRUE(a.peers({pa}));
  ASSERT_TRUE(b.peers({pb}));
  EXPECT_TRUE(stays([&] { return !a.established(2); }, 1500ms));
  pb.ttl_security = true;
  ASSERT_TRUE(b.peers({pb}));
  EXPECT_TRUE(wait_for("session", [&] { return a.established(2); }));
}

/// Next hops the test decides about.
class FakeResolver : public NextHopResolver {
 public:
  Result<Resolution> resolve(const Ip& ip) override {
    auto it = hops.find(ip);
    if (it == hops.end()) return fail(Errc::not_found, "no route");
    return it->second;
  }
  std::map<Ip, ResolvedHop> hops;
};

TEST_F(SpeakersTest, RoutesOfEqualCostShareTheLoad) {
  auto& a = speaker(1);
  auto& b = speaker(2);
  auto& c = speaker(3);
  a.local("10.65.0.1/32");
  b.local("10.65.0.1/32");
  ASSERT_TRUE(a.peers({a.peer(3)}));
  ASSERT_TRUE(b.peers({b.peer(3)}));
  ASSERT_TRUE(c.peers({c.peer(1), c.peer(2)}));
  const auto ways = [&] {
    auto r = c.route("10.65.0.1/32");
    return r ? r->next_hops.size() : 0U;
  };
  ASSERT_TRUE(wait_for("both ways", [&] { return ways() == 2; }));
  const auto both = *c.route("10.65.0.1/32");
  EXPECT_EQ(both.bgp_next_hop, own_address(1)) << "the winner first";
  EXPECT_EQ(both.more_next_hops, std::vector{own_address(2)});
  LocalRoute worse;
  worse.local_pref = 50;
  b.local("10.65.0.1/32", worse);
  ASSERT_TRUE(wait_for("the better alone", [&] { return ways() == 1; }));
  b.local("10.65.0.1/32");
  ASSERT_TRUE(wait_for("both ways again", [&] { return ways() == 2; }));
  a.local("10.65.0.1/32", std::nullopt);
  ASSERT_TRUE(wait_for("what is left", [&] { return ways() == 1; }));
  EXPECT_EQ(c.route("10.65.0.1/32")->bgp_next_hop, own_address(2));
}

TEST_F(SpeakersTest, APeerThatTakesSeveralPathsGetsThemAll) {
  // a and b announce the same prefix to the reflector 3; 4 takes all paths, 5 the best.
  auto& a = speaker(1);
  auto& b = speaker(2);
  auto& rr = speaker(3);
  auto& all = speaker(4);
  auto& one = speaker(5);
  for (auto* s : {&a, &b}) {
    s->local("10.65.0.1/32");
    ASSERT_TRUE(s->peers({s->peer(3)}));
  }
  auto list = std::vector{rr.peer(1), rr.peer(2), rr.peer(4), rr.peer(5)};
  for (auto& p : list) p.route_reflector_client = true;
  list[2].add_path_send = true;
  ASSERT_TRUE(rr.peers(list));
  auto to_rr = all.peer(3);
  to_rr.add_path_receive = true;
  ASSERT_TRUE(all.peers({to_rr}));
  ASSERT_TRUE(one.peers({one.peer(3)}));
  const auto paths = [](Speaker& s) { return s.in_loop([](Engine& e) { return e.routes({}); }).size(); };
  ASSERT_TRUE(wait_for("two paths", [&] { return paths(all) == 2; }));
  ASSERT_TRUE(wait_for("one path", [&] { return paths(one) == 1; }));
  EXPECT_TRUE(stays([&] { return paths(one) == 1; }, 100ms));
  EXPECT_EQ(all.route("10.65.0.1/32")->next_hops.size(), 2U) << "and uses both";
  a.local("10.65.0.1/32", std::nullopt);
  ASSERT_TRUE(wait_for("the path that is left", [&] { return paths(all) == 1; }));
  EXPECT_EQ(all.route("10.65.0.1/32")->bgp_next_hop, own_address(2));
  ASSERT_TRUE(wait_for("the other too", [&] {
    auto r = one.route("10.65.0.1/32");
    return r && r->bgp_next_hop == own_address(2);
  }));
}

TEST_F(SpeakersTest, UnreachableNextHopsDoNotWin) {
  auto& a = speaker(1);
  auto& b = speaker(2);
  FakeResolver resolver;
  b.in_loop([&](Engine& e) {
    e.set_next_hop_resolver(&resolver);
    return 0;
  });
  LocalRoute odd;
  odd.next_hop = addr("198.51.100.7");
  a.local("10.65.0.1/32", odd);
  ASSERT_TRUE(a.peers({a.peer(2)}));
  ASSERT_TRUE(b.peers({b.peer(1)}));
  ASSERT_TRUE(wait_for("path at b", [&] { return b.status(1)->v4.imported == 1; }));
  EXPECT_TRUE(stays([&] { return b.route_count() == 0; }, 100ms));
  auto r = b.in_loop([](Engine& e) { return e.routes({}); }).at(0);
  EXPECT_FALSE(r.best);
  EXPECT_NE(r.unusable.find("198.51.100.7 is unreachable: no route"), std::string::npos) << r.unusable;
  b.in_loop([&](Engine& e) {
    resolver.hops[addr("198.51.100.7")] = {addr("192.0.2.1"), IfIndex{3}, 10};
    e.next_hops_changed();
    return 0;
  });
  ASSERT_TRUE(wait_for("usable", [&] { return b.route_count() == 1; }));
  EXPECT_EQ(b.route("10.65.0.1/32")->next_hops, (std::vector<ResolvedHop>{{addr("192.0.2.1"), IfIndex{3}, 10}}));
  b.in_loop([&](Engine& e) {
    resolver.hops[addr("198.51.100.7")].gateway = addr("192.0.2.2");
    e.next_hop_changed(addr("198.51.100.7"));
    return 0;
  });
  ASSERT_TRUE(
      wait_for("new gateway", [&] { return b.route("10.65.0.1/32")->next_hops[0].gateway == addr("192.0.2.2"); }));
  speakers_.clear();
}

TEST_F(SpeakersTest, ManyRoutesAllArriveAndAllGo) {
  constexpr int kRoutes = 20000;
  auto& a = speaker(1);
  auto& rr = speaker(2);
  auto& c = speaker(3);
  a.in_loop([](Engine& e) {
    for (std::uint32_t i = 0; i < kRoutes; ++i) {
      LocalRoute r;
      r.med = i % 7;
      e.set_local(Prefix::host(Ip::v4(0x0a410000 + i)), r);
    }
    e.local_complete();
    return 0;
  });
  auto pa = rr.peer(1), pc = rr.peer(3);
  pa.route_reflector_client = pc.route_reflector_client = true;
  ASSERT_TRUE(a.peers({a.peer(2)}));
  ASSERT_TRUE(rr.peers({pa, pc}));
  ASSERT_TRUE(c.peers({c.peer(2)}));
  ASSERT_TRUE(wait_for("all routes at c", [&] { return c.route_count() == kRoutes; }));
  EXPECT_LT(a.status(2)->counters.updates_out, 400U) << "routes share messages";
  a.in_loop([](Engine& e) {
    for (std::uint32_t i = 0; i < kRoutes; i += 2) e.set_local(Prefix::host(Ip::v4(0x0a410000 + i)), std::nullopt);
    return 0;
  });
  ASSERT_TRUE(wait_for("half of them gone", [&] { return c.route_count() == kRoutes / 2; }));
  EXPECT_EQ(rr.status(3)->v4.exported, static_cast<unsigned>(kRoutes / 2));
  ASSERT_TRUE(rr.peers({pc}));
  ASSERT_TRUE(wait_for("all gone", [&] { return c.route_count() == 0; }));
  EXPECT_TRUE(wait_for("and nothing is left in the reflector", [&] {
    auto s = rr.in_loop([](Engine& e) { return e.status(); });
    return s.routes_v4 == 0 && s.networks_v4 == 0 && s.attribute_sets == 0;
  }));
}

}  // namespace
}  // namespace calico::bgp::test
