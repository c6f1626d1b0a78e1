/// The state machine without sockets: every transition with the time in hand.
#include "core/bgp/fsm/fsm.hpp"

#include <gtest/gtest.h>

namespace calico::bgp {
namespace {

using namespace std::chrono_literals;

Capabilities graceful() {
  Capabilities c;
  c.families = {kIpv4Unicast};
  c.as4 = Asn{64512};
  GracefulRestartCapability gr;
  gr.time_s = 120;
  gr.notification = true;
  gr.families = {{kIpv4Unicast, true}};
  c.graceful_restart = gr;
  return c;
}

/// One side, with the connections it has and what it said on each.
struct Side {
  explicit Side(std::uint32_t id, bool passive = false) {
    FsmConfig c;
    c.local_as = c.remote_as = Asn{64512};
    c.router_id = id;
    c.hold_time_s = 90;
    c.passive = passive;
    fsm = std::make_unique<Fsm>(
        c, [] { return graceful(); }, [] { return 0.5; });
  }
  void take(std::vector<Action> actions) {
    for (auto& a : actions) {
      if (auto* x = std::get_if<action::Connect>(&a)) connects.push_back(x->slot);
      if (auto* x = std::get_if<action::Send>(&a)) sent[x->slot].push_back(static_cast<MessageType>(x->message[18]));
      if (auto* x = std::get_if<action::Send>(&a); x && x->message[18] == std::byte{3})
        said[x->slot] = *decode_notification(View(x->message).subspan(kHeaderSize));
      if (auto* x = std::get_if<action::Close>(&a)) closed.push_back(x->slot);
      if (auto* x = std::get_if<action::Up>(&a)) ups.push_back(x->slot);
      if (auto* x = std::get_if<action::WentDown>(&a)) downs.push_back(x->down);
      if (auto* x = std::get_if<action::Error>(&a)) errors.push_back(x->text);
    }
  }
  void on(const Event& e) { take(fsm->on(e, now)); }
  std::optional<Slot> accept() {
    auto a = fsm->accept(now);
    refused_collision = a.collision;
    take(std::move(a.actions));
    return a.slot;
  }
  void timer_at(TimePoint t) {
    now = t;
    on(event::Timer{});
  }
  static Open open(std::uint32_t id, std::uint16_t hold = 90) {
    Open o;
    o.as = Asn{64512};
    o.router_id = id;
    o.hold_time_s = hold;
    o.caps = graceful();
    return o;
  }
  Slot establish(std::uint32_t peer, std::uint16_t hold = 90) {
    if (!fsm->started()) on(event::Start{});
    const auto s = accept();
    EXPECT_TRUE(s);
    on(event::OpenReceived{*s, open(peer, hold)});
    on(event::KeepaliveReceived{*s});
    EXPECT_EQ(fsm->state(), PeerState::established);
    return *s;
  }
  std::unique_ptr<Fsm> fsm;
  TimePoint now{1000s};
  std::vector<Slot> connects, closed, ups;
  std::map<Slot, std::vector<MessageType>> sent;
  std::map<Slot, Notification> said;
  std::vector<Down> downs;
  std::vector<std::string> errors;
  bool refused_collision = false;
};

TEST(BgpFsm, ActiveOpenToEstablished) {
  Side a(1);
  EXPECT_EQ(a.fsm->state(), PeerState::idle);
  a.on(event::Start{});
  EXPECT_EQ(a.fsm->state(), PeerState::active);
  ASSERT_TRUE(a.fsm->next_deadline());
  EXPECT_LE(*a.fsm->next_deadline() - a.now, 100ms);
  a.timer_at(*a.fsm->next_deadline());
  ASSERT_EQ(a.connects.size(), 1U);
  EXPECT_EQ(a.fsm->state(), PeerState::connect);
  a.on(event::Connected{a.connects[0]});
  EXPECT_EQ(a.fsm->state(), PeerState::open_sent);
  EXPECT_EQ(a.sent[0], std::vector{MessageType::open});
  a.on(event::OpenReceived{0, Side::open(2, 30)});
  EXPECT_EQ(a.fsm->state(), PeerState::open_confirm);
  EXPECT_EQ(a.sent[0], (std::vector{MessageType::open, MessageType::keepalive}));
  a.on(event::KeepaliveReceived{0});
  EXPECT_EQ(a.fsm->state(), PeerState::established);
  EXPECT_EQ(a.ups.size(), 1U);
  EXPECT_EQ(a.fsm->hold_time_s(), 30) << "the smaller of both";
  EXPECT_EQ(*a.fsm->hold_deadline() - a.now, 30s);
  EXPECT_LE(*a.fsm->keepalive_deadline() - a.now, 10s);
  EXPECT_GE(*a.fsm->keepalive_deadline() - a.now, 7500ms);
}

TEST(BgpFsm, HoldTimerExpiresUnlessFed) {
  Side a(1);
  const auto s = a.establish(2);
  for (int i = 0; i < 5; ++i) {
    a.now += 60s;
    a.on(event::KeepaliveReceived{s});
  }
  a.now += 60s;
  a.on(event::RoutesReceived{s});
  a.timer_at(a.now + 89s);
  EXPECT_EQ(a.fsm->state(), PeerState::established);
  a.timer_at(a.now + 2s);
  ASSERT_EQ(a.downs.size(), 1U);
  EXPECT_EQ(a.downs[0].cause, Down::Cause::hold_expired);
  EXPECT_EQ(a.said[s], (Notification{4, 0, {}}));
}

TEST(BgpFsm, HoldTimeZeroMeansNoTimers) {
  Side a(1);
  const auto s = a.establish(2, 0);
  EXPECT_FALSE(a.fsm->hold_deadline());
  EXPECT_FALSE(a.fsm->keepalive_deadline());
  a.timer_at(a.now + 24h);
  EXPECT_EQ(a.fsm->state(), PeerState::established);
  EXPECT_EQ(a.sent[s].size(), 2U);
}

TEST(BgpFsm, KeepalivesAreSentInTime) {
  Side a(1);
  const auto s = a.establish(2);
  const auto end = a.now + 300s;
  std::size_t n = 0;
  auto last = a.now;
  while (a.now < end) {
    a.timer_at(*a.fsm->keepalive_deadline());
    a.on(event::KeepaliveReceived{s});
    EXPECT_LE(a.now - last, 30s);
    last = a.now;
    ++n;
  }
  EXPECT_GE(n, 10U);
  EXPECT_LE(n, 14U);
}

TEST(BgpFsm, ReconnectsWithinASecondAtFirstAndSlowlyLater) {
  Side a(1);
  const auto s = a.establish(2);
  a.on(event::Closed{s, "reset"});
  EXPECT_EQ(a.downs.at(0).cause, Down::Cause::tcp);
  const auto lost = a.now;
  std::vector<Duration> tries;
  for (int i = 0; i < 30; ++i) {
    a.timer_at(*a.fsm->next_deadline());
    ASSERT_EQ(a.fsm->state(), PeerState::connect);
    tries.push_back(a.now - lost);
    a.on(event::ConnectFailed{a.connects.back(), "refused"});
  }
  EXPECT_LE(tries[0], 300ms);
  EXPECT_LE(tries[1] - tries[0], 600ms);
  for (std::size_t i = 1; i < 9; ++i) EXPECT_LE(tries[i] - tries[i - 1], 1300ms) << i;
  EXPECT_LE(tries[29] - tries[28], 7s);
  EXPECT_GE(tries[29] - tries[28], 3s);
}

TEST(BgpFsm, ErrorsSlowDownTheRetry) {
  Side a(1);
  a.on(event::Start{});
  Duration wait{};
  for (int i = 0; i < 8; ++i) {
    a.timer_at(*a.fsm->next_deadline());
    const auto s = a.connects.back();
    a.on(event::Connected{s});
    auto wrong = Side::open(2);
    wrong.as = Asn{1};
    a.on(event::OpenReceived{s, wrong});
    EXPECT_EQ(a.said[s], (Notification{2, 2, {}}));
    wait = *a.fsm->next_deadline() - a.now;
  }
  EXPECT_GE(wait, 20s);
  EXPECT_LE(wait, 40s);
}

TEST(BgpFsm, ConnectionAttemptIsGivenUp) {
  Side a(1);
  a.on(event::Start{});
  a.timer_at(*a.fsm->next_deadline());
  EXPECT_LE(*a.fsm->next_deadline() - a.now, 5s);
  a.timer_at(*a.fsm->next_deadline());
  EXPECT_EQ(a.closed.size(), 1U);
  EXPECT_EQ(a.fsm->state(), PeerState::active);
}

TEST(BgpFsm, SilenceAfterAcceptEnds) {
  Side a(1, true);
  a.on(event::Start{});
  EXPECT_FALSE(a.fsm->next_deadline()) << "passive: nothing to do";
  const auto s = a.accept();
  ASSERT_TRUE(s);
  a.timer_at(*a.fsm->next_deadline());
  EXPECT_EQ(a.closed, std::vector{*s});
  EXPECT_EQ(a.fsm->state(), PeerState::active);
}

TEST(BgpFsm, OpenThatDoesNotFit) {
  const auto said = [](Open o) {
    Side a(1);
    a.on(event::Start{});
    const auto s = *a.accept();
    a.on(event::OpenReceived{s, o});
    EXPECT_EQ(a.fsm->state(), PeerState::active);
    return std::pair<int, int>(a.said[s].code, a.said[s].subcode);
  };
  auto o = Side::open(2);
  o.as = Asn{65000};
  EXPECT_EQ(said(o), std::pair(2, 2));
  EXPECT_EQ(said(Side::open(1)), std::pair(2, 3)) << "our own identifier";
}

TEST(BgpFsm, MessagesInTheWrongState) {
  const auto said = [](auto make) {
    Side a(1);
    a.on(event::Start{});
    const auto s = *a.accept();
    make(a, s);
    return std::pair<int, int>(a.said[s].code, a.said[s].subcode);
  };
  EXPECT_EQ(said([](Side& a, Slot s) { a.on(event::KeepaliveReceived{s}); }), std::pair(5, 1));
  EXPECT_EQ(said([](Side& a, Slot s) { a.on(event::RoutesReceived{s}); }), std::pair(5, 1));
  EXPECT_EQ(said([](Side& a, Slot s) {
              a.on(event::OpenReceived{s, Side::open(2)});
              a.on(event::RoutesReceived{s});
            }),
            std::pair(5, 2));
  EXPECT_EQ(said([](Side& a, Slot s) {
              a.on(event::OpenReceived{s, Side::open(2)});
              a.on(event::OpenReceived{s, Side::open(2)});
            }),
            std::pair(5, 2));
  EXPECT_EQ(said([](Side& a, Slot s) {
              a.on(event::OpenReceived{s, Side::open(2)});
              a.on(event::KeepaliveReceived{s});
              a.on(event::OpenReceived{s, Side::open(2)});
            }),
            std::pair(5, 3));
}

/// Two sides, both connected to each other, OPENs on both connections delivered in any order: the same one survives.
TEST(BgpFsm, CollisionLeavesTheConnectionOfTheHigherIdentifier) {
  for (int order = 0; order < 24; ++order) {
    Side a(1), b(2);
    for (auto* s : {&a, &b}) {
      s->on(event::Start{});
      s->timer_at(*s->fsm->next_deadline());
    }
    // Connection x is a's, y is b's.
    const Slot ax = a.connects[0], by = b.connects[0];
    a.on(event::Connected{ax});
    b.on(event::Connected{by});
    const auto ay = a.accept(), bx = b.accept();
    ASSERT_TRUE(ay && bx);
    // Four OPENs are on their way; permute them.
    std::vector<int> what{0, 1, 2, 3};
    for (int i = 0, o = order; i < 4; ++i) {
      std::swap(what[static_cast<std::size_t>(i)], what[static_cast<std::size_t>(i + o % (4 - i))]);
      o /= 4 - i;
    }
    for (int w : what) {
      if (w == 0) a.on(event::OpenReceived{ax, Side::open(2)});
      if (w == 1) a.on(event::OpenReceived{*ay, Side::open(2)});
      if (w == 2) b.on(event::OpenReceived{by, Side::open(1)});
      if (w == 3) b.on(event::OpenReceived{*bx, Side::open(1)});
    }
    // b has the higher identifier: y stays at both, x went with Cease 7.
    EXPECT_EQ(a.closed, std::vector{ax}) << order;
    EXPECT_EQ(b.closed, std::vector{*bx}) << order;
    EXPECT_EQ(a.said[ax], (Notification{6, 7, {}}));
    a.on(event::KeepaliveReceived{*ay});
    b.on(event::KeepaliveReceived{by});
    EXPECT_EQ(a.fsm->state(), PeerState::established);
    EXPECT_EQ(b.fsm->state(), PeerState::established);
  }
}

TEST(BgpFsm, ANewConnectionDoesNotReplaceAYoungSession) {
  Side a(1);
  a.establish(2);
  EXPECT_FALSE(a.accept());
  EXPECT_TRUE(a.refused_collision);
  EXPECT_TRUE(a.downs.empty());
}

TEST(BgpFsm, ACollisionReadLateDoesNotReplaceTheSession) {
  // Accepted before the session came up, its OPEN read after: see the trap in the header.
  Side a(1);
  a.on(event::Start{});
  a.timer_at(*a.fsm->next_deadline());
  const Slot out = a.connects[0];
  a.on(event::Connected{out});
  const auto in = *a.accept();
  a.on(event::OpenReceived{out, Side::open(2)});
  a.on(event::KeepaliveReceived{out});
  EXPECT_EQ(a.fsm->state(), PeerState::established);
  EXPECT_EQ(a.closed, std::vector{in});
  a.on(event::OpenReceived{in, Side::open(2)});  // nobody is there any more
  EXPECT_TRUE(a.downs.empty());
  EXPECT_EQ(a.fsm->state(), PeerState::established);
}

TEST(BgpFsm, ARestartedPeerReplacesItsOldSession) {
  Side a(1);
  const auto old = a.establish(2);
  a.now += 10s;
  const auto fresh = a.accept();
  ASSERT_TRUE(fresh);
  EXPECT_NE(*fresh, old);
  EXPECT_TRUE(a.downs.empty()) << "a connection alone proves nothing";
  a.on(event::OpenReceived{*fresh, Side::open(2)});
  ASSERT_EQ(a.downs.size(), 1U);
  EXPECT_EQ(a.downs[0].cause, Down::Cause::replaced);
  EXPECT_FALSE(a.said.contains(old)) << "RFC 4724: without NOTIFICATION";
  a.on(event::KeepaliveReceived{*fresh});
  EXPECT_EQ(a.ups.size(), 2U);
  EXPECT_EQ(a.fsm->established_slot(), fresh);
}

TEST(BgpFsm, TheNewestAttemptOfThePeerCounts) {
  Side a(1);
  a.on(event::Start{});
  const auto first = a.accept();
  const auto second = a.accept();
  ASSERT_TRUE(first && second);
  EXPECT_EQ(a.closed, std::vector{*first});
  a.timer_at(*a.fsm->next_deadline());
  EXPECT_EQ(a.connects.size(), 1U) << "there is room for our own attempt";
}

TEST(BgpFsm, StopSaysWhy) {
  Side a(1);
  const auto s = a.establish(2);
  a.on(event::Stop{cease(notify::kDeconfigured, false)});
  EXPECT_EQ(describe(a.said[s]), "Cease: Hard reset (Cease: Peer de-configured)") << "both sides announced N";
  EXPECT_EQ(a.fsm->state(), PeerState::idle);
  EXPECT_FALSE(a.fsm->next_deadline());
  EXPECT_FALSE(a.accept());
  Side b(1);
  const auto t = b.establish(2);
  b.on(event::Stop{std::nullopt});
  EXPECT_FALSE(b.said.contains(t)) << "planned: in silence";
  EXPECT_EQ(b.downs.at(0).cause, Down::Cause::stopped);
  EXPECT_EQ(b.closed, std::vector{t});
}

TEST(BgpFsm, NotificationsAndFaultsEndTheSession) {
  Side a(1);
  auto s = a.establish(2);
  a.on(event::NotificationReceived{s, {6, 2, {}}});
  EXPECT_EQ(a.downs.at(0).cause, Down::Cause::notification_received);
  EXPECT_EQ(a.downs.at(0).text, "received: Cease: Administrative shutdown");
  EXPECT_FALSE(a.said.contains(s)) << "never an answer to a NOTIFICATION";
  s = a.establish(2);
  a.on(event::FaultFound{s, {3, 10, {}, "network field is malformed"}});
  EXPECT_EQ(a.said[s], (Notification{3, 10, {}}));
  EXPECT_EQ(a.downs.at(1).cause, Down::Cause::notification_sent);
}

TEST(BgpFsm, APeerThatTakesNothingIsToldAndLeft) {
  Side a(1);
  const auto s = a.establish(2);
  a.on(event::SendHoldExpired{s});
  EXPECT_EQ(a.said[s], (Notification{8, 0, {}})) << "RFC 9687";
  EXPECT_EQ(a.closed, std::vector{s});
  ASSERT_EQ(a.downs.size(), 1U);
  EXPECT_EQ(a.downs[0].cause, Down::Cause::hold_expired) << "its routes are kept as after silence";
  EXPECT_EQ(a.downs[0].text, "send hold timer expired");
  const auto again = a.accept();
  ASSERT_TRUE(again);
  a.on(event::SendHoldExpired{*again});
  EXPECT_EQ(a.downs.size(), 1U) << "only of a session";
  EXPECT_EQ(a.fsm->state(), PeerState::open_sent);
}

TEST(BgpFsm, AStopWithWordsKeepsThemInTheHardReset) {
  Side a(1);
  const auto s = a.establish(2);
  a.on(event::Stop{cease(notify::kShutdown, false, "maintenance")});
  EXPECT_EQ(describe(a.said[s]), "Cease: Hard reset (Cease: Administrative shutdown \"maintenance\")");
}

TEST(BgpFsm, EventsForAClosedSlotDoNothing) {
  Side a(1);
  const auto s = a.establish(2);
  a.on(event::Closed{s, "reset"});
  for (int i = 0; i < 2; ++i) {
    a.on(event::Closed{s, "reset"});
    a.on(event::KeepaliveReceived{s});
    a.on(event::RoutesReceived{s});
    a.on(event::Connected{s});
    a.on(event::ConnectFailed{s, "x"});
    a.on(event::FaultFound{s, {}});
    a.on(event::SendHoldExpired{s});
    a.on(event::NotificationReceived{s, {}});
    a.on(event::OpenReceived{s, Side::open(2)});
  }
  EXPECT_EQ(a.downs.size(), 1U);
  EXPECT_EQ(a.fsm->state(), PeerState::active);
}

}  // namespace
}  // namespace calico::bgp
