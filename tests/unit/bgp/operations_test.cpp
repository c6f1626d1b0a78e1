/// What an operator does to a running engine: disable, restart, refresh, drain. Whole speakers over loopback.
#include <gmock/gmock.h>

#include "core/bgp/rib/policy.hpp"
#include "raw_peer.hpp"
#include "speakers.hpp"

namespace calico::bgp::test {
namespace {

using testing::HasSubstr;
using Refresh = Engine::Refresh;

class OperationsTest : public SpeakersTest {
 protected:
  /// A reflector 1 with clients 2 and 3, each with a route.
  void SetUp() override {
    SpeakersTest::SetUp();
    for (int n : {1, 2, 3}) {
      Options o;
      o.drain_time = 1h;
      auto& s = speaker(n, o);
      s.local("10.65.0." + std::to_string(n) + "/32");
      s.complete();
    }
    ASSERT_TRUE(reflector().peers(clients()));
    for (int n : {2, 3}) ASSERT_TRUE(client(n).peers({client(n).peer(1)}));
    ASSERT_TRUE(wait_for("all routes", [&] { return all_well(); }));
  }
  Speaker& reflector() { return *speakers_[0]; }
  Speaker& client(int n) { return *speakers_[static_cast<std::size_t>(n - 1)]; }
  std::vector<PeerConfig> clients() {
    std::vector<PeerConfig> out;
    for (int n : {2, 3}) {
      out.push_back(reflector().peer(n));
      out.back().route_reflector_client = true;
    }
    return out;
  }
  bool all_well() {
    return reflector().route_count() == 2 && client(2).route_count() == 2 && client(3).route_count() == 2;
  }
  Status set(const char* name, bool enabled, std::string_view text = {}) {
    return reflector().in_loop([&](Engine& e) { return e.set_enabled(name, enabled, text); });
  }
};

TEST_F(OperationsTest, DisablingOneTakesItsRoutesFromTheOthers) {
  ASSERT_TRUE(set("p2", false));
  ASSERT_TRUE(wait_for("its routes are gone", [&] { return !client(3).route("10.65.0.2/32"); }));
  EXPECT_TRUE(client(3).route("10.65.0.1/32"));
  ASSERT_TRUE(wait_for("it has none of ours", [&] { return client(2).route_count() == 0; }));
  const auto s = *reflector().status(2);
  EXPECT_TRUE(s.disabled);
  EXPECT_EQ(s.state, PeerState::idle);
  EXPECT_FALSE(s.gr_active) << "meant: nothing is kept";
  EXPECT_TRUE(reflector().saw(PeerEvent::Kind::administrative, "disabled"));
  EXPECT_TRUE(stays([&] { return !reflector().established(2); }, 1500ms)) << "the neighbour's attempts are refused";
  EXPECT_TRUE(set("p2", false)) << "twice is well";
  ASSERT_TRUE(set("p2", true));
  EXPECT_TRUE(wait_for("all again", [&] { return all_well(); }));
  EXPECT_FALSE(reflector().status(2)->disabled);
}

TEST_F(OperationsTest, TheTextIsBoundedAndWholeAlsoInAHardReset) {
  auto list = clients();
  list.push_back(reflector().peer(5));
  list.back().passive = true;
  ASSERT_TRUE(reflector().peers(list));
  // 254 bytes and a character of two: it does not fit and is left out whole.
  const std::string fits(254, 'x');
  for (const bool n_bit : {false, true}) {
    RawPeer raw(5, 1);
    auto open = raw.open_message();
    if (n_bit) open.caps.graceful_restart = GracefulRestartCapability{false, true, 60, {{kIpv4Unicast, true}}};
    ASSERT_TRUE(raw.handshake(open));
    ASSERT_TRUE(wait_for("it is up", [&] { return reflector().established(5); }));
    ASSERT_TRUE(set("p5", false, fits + "é and more"));
    const auto body = raw.wait(MessageType::notification);
    ASSERT_TRUE(body);
    Bytes wanted{std::byte{6}, std::byte{2}};
    if (n_bit) wanted.insert(wanted.begin(), {std::byte{6}, std::byte{9}});  // RFC 8538 3.1
    wanted.push_back(std::byte{254});
    for (char c : fits) wanted.push_back(static_cast<std::byte>(c));
    EXPECT_EQ(*body, wanted);
    EXPECT_TRUE(raw.wait_closed());
    RawPeer refused(5, 1);
    EXPECT_TRUE(refused.wait_closed()) << "disabled: closed without an OPEN";
    ASSERT_TRUE(set("p5", true));
  }
}

TEST_F(OperationsTest, APeerThatCannotRefreshIsLeftAlone) {
  auto list = clients();
  list.push_back(reflector().peer(5));
  list.back().passive = true;
  ASSERT_TRUE(reflector().peers(list));
  RawPeer raw(5, 1);
  ASSERT_TRUE(raw.handshake());
  ASSERT_TRUE(wait_for("it has all", [&] { return reflector().established(5) && reflector().status(5)->v4.eor_sent; }));
  const auto sent = reflector().status(5)->counters.export_updates;
  for (const auto what : {Refresh::in, Refresh::both}) {
    const auto s = reflector().in_loop([&](Engine& e) { return e.refresh("p5", what); });
    ASSERT_FALSE(s);
    EXPECT_EQ(s.error().code, Errc::unavailable);
    EXPECT_THAT(s.error().what, HasSubstr("no route refresh"));
  }
  EXPECT_EQ(reflector().status(5)->counters.export_updates, sent);
  ASSERT_TRUE(reflector().in_loop([](Engine& e) { return e.refresh("p5", Refresh::out); }));
  EXPECT_TRUE(wait_for("again", [&] { return reflector().status(5)->counters.export_updates == 2 * sent; }));
  EXPECT_GT(sent, 0U);
  EXPECT_TRUE(reflector().established(5));
}

TEST_F(OperationsTest, DisabledSurvivesAReconfigurationAndEndsWithThePeer) {
  ASSERT_TRUE(set("p2", false));
  auto list = clients();
  list[0].max_prefix = 7;
  list[1].max_prefix = 8;
  ASSERT_TRUE(reflector().peers(list));
  EXPECT_TRUE(reflector().status(2)->disabled);
  EXPECT_FALSE(reflector().status(3)->disabled);
  EXPECT_TRUE(reflector().established(3));
  ASSERT_TRUE(reflector().peers({list[1]}));
  ASSERT_TRUE(reflector().peers(list));
  EXPECT_TRUE(wait_for("a new peer is as configured", [&] { return all_well(); }));
}

TEST_F(OperationsTest, ADisabledPeerIsNotWaitedFor) {
  auto options = client(3).options();
  options.router_id = Ip::v4(0x0a000004);
  options.source_address = own_address(4);
  options.listen = {{own_address(4), kPort}};
  options.state_dir = state_dir(4);
  options.deferral = 1h;
  options.restart_time = 4000s;
  {
    Speaker first(loop_, 4, options);  // a life before: the next start is a restart, which waits for all its peers
    first.stop(true);
  }
  Speaker again(loop_, 4, options);
  ASSERT_TRUE(again.peers({again.peer(9)}));  // never there
  ASSERT_TRUE(again.in_loop([](Engine& e) { return e.status().restarting; }));
  ASSERT_TRUE(again.in_loop([](Engine& e) { return e.set_enabled("p9", false); }));
  // With one peer left that answers, it is the only one to hear.
  ASSERT_TRUE(again.peers({again.peer(9), again.peer(1)}));
  auto list = clients();
  list.push_back(reflector().peer(4));
  list.back().route_reflector_client = true;
  ASSERT_TRUE(reflector().peers(list));
  EXPECT_TRUE(wait_for("selection begins", [&] { return again.route_count() == 3; }));
  again.kill();
}

TEST_F(OperationsTest, ADynamicPeerCanBeKeptOut) {
  RangeConfig range;
  range.name = "lab";
  range.prefix = Prefix{own_address(0), 24};
  ASSERT_TRUE(reflector().peers({}, {range}));
  ASSERT_TRUE(wait_for("both by the range", [&] { return reflector().established(2) && reflector().established(3); }));
  const auto name = reflector().status(2)->config.name;
  ASSERT_TRUE(set(name.c_str(), false));
  ASSERT_TRUE(wait_for("its end", [&] { return !client(2).established(1); }));
  EXPECT_TRUE(stays([&] { return !client(2).established(1); }, 1500ms));
  EXPECT_TRUE(reflector().status(2)->disabled);
  ASSERT_TRUE(set(name.c_str(), true));
  EXPECT_TRUE(wait_for("back", [&] { return reflector().established(2) && client(2).established(1); }));
}

TEST_F(OperationsTest, WhatCannotBeDoneIsSaid) {
  const auto ask = [&](auto f) { return reflector().in_loop(f); };
  auto s = ask([](Engine& e) { return e.restart("nobody"); });
  ASSERT_FALSE(s);
  EXPECT_EQ(s.error().code, Errc::not_found);
  EXPECT_EQ(s.error().what, "nobody is not a BGP peer");
  EXPECT_FALSE(ask([](Engine& e) { return e.refresh("nobody", Refresh::in); }));
  EXPECT_FALSE(set("nobody", false));
  ASSERT_TRUE(set("p3", false));
  s = ask([](Engine& e) { return e.restart("p3"); });
  ASSERT_FALSE(s);
  EXPECT_EQ(s.error().code, Errc::conflict);
  s = ask([](Engine& e) { return e.refresh("p3", Refresh::out); });
  ASSERT_FALSE(s);
  EXPECT_EQ(s.error().what, "p3 has no session");
}

TEST_F(OperationsTest, DrainedRoutesLoseAgainstAnyOther) {
  // 10.65.9.9 is announced by both clients; the reflector passes on the one it prefers.
  client(2).local("10.65.9.9/32");
  client(3).local("10.65.9.9/32");
  ASSERT_TRUE(wait_for("one of them", [&] { return reflector().route("10.65.9.9/32").has_value(); }));
  const int first = reflector().route("10.65.9.9/32")->from == "p2" ? 2 : 3;
  const int second = 5 - first;
  client(first).in_loop([](Engine& e) { return e.drain(true), 0; });
  ASSERT_TRUE(
      wait_for("the other", [&] { return reflector().route("10.65.9.9/32")->from == "p" + std::to_string(second); }));
  EXPECT_EQ(reflector().route("10.65.0." + std::to_string(first) + "/32")->local_pref, 0U) << "no other: still used";
  // Through the reflector the community and the preference arrive too.
  EXPECT_EQ(client(second).route("10.65.0." + std::to_string(first) + "/32")->local_pref, 0U);
  const auto status = client(first).in_loop([](Engine& e) { return e.status(); });
  EXPECT_TRUE(status.draining);
  EXPECT_GT(status.drain_left, 59min);
  client(first).in_loop([](Engine& e) { return e.drain(false), 0; });
  EXPECT_TRUE(wait_for("as before", [&] {
    return reflector().route("10.65.0." + std::to_string(first) + "/32")->local_pref == 100 &&
           reflector().route("10.65.9.9/32")->from == "p" + std::to_string(first);
  }));
}

// --- RFC 8326, the rules alone --------------------------------------------------------------------------------------

Attrs with_communities(std::initializer_list<std::uint32_t> list) {
  Attrs a;
  a.next_hop = addr("192.0.2.1");
  a.local_pref = 200;
  for (auto c : list)
    for (int shift = 24; shift >= 0; shift -= 8) a.communities.push_back(static_cast<std::byte>(c >> shift & 0xff));
  return a;
}
constexpr std::uint32_t kGracefulShutdown = 0xffff0000;

TEST(Drain, ReceivedGracefulShutdownIsTheLastChoice) {
  const LocalSpeaker speaker{Asn{64512}, 1, 1};
  for (const bool internal : {true, false}) {
    auto a = with_communities({0x00010002, kGracefulShutdown});
    ASSERT_FALSE(import_route(a, speaker, internal, std::nullopt));
    EXPECT_EQ(a.local_pref, 0U);
    EXPECT_TRUE(a.has_community(kGracefulShutdown)) << "and goes on";
    auto other = with_communities({0xffff0001});
    ASSERT_FALSE(import_route(other, speaker, internal, std::nullopt));
    EXPECT_EQ(other.local_pref, internal ? 200U : 100U);
  }
}

TEST(Drain, EverythingSentCarriesItOnce) {
  LocalSpeaker speaker{Asn{64512}, 1, 1};
  const Source source{Source::Kind::external, false, 7};
  Target internal, external;
  external.internal = false;
  external.self_v4 = internal.self_v4 = addr("192.0.2.9");
  const auto sent = [&](const Target& to, Attrs a) {
    return export_route(std::move(a), Family::v4, source, to, speaker).value();
  };
  EXPECT_FALSE(sent(internal, with_communities({})).has_community(kGracefulShutdown));
  speaker.draining = true;
  auto a = sent(internal, with_communities({0x00010002}));
  EXPECT_EQ(a.local_pref, 0U);
  EXPECT_TRUE(a.has_community(kGracefulShutdown) && a.has_community(0x00010002));
  a = sent(external, with_communities({}));
  EXPECT_FALSE(a.local_pref) << "never to another AS";
  EXPECT_TRUE(a.has_community(kGracefulShutdown));
  EXPECT_EQ(sent(internal, with_communities({kGracefulShutdown})).communities.size(), 4U);
}

}  // namespace
}  // namespace calico::bgp::test
