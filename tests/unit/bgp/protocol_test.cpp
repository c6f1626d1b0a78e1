/// What two speakers agree on, seen from outside: a reflector of ours between neighbours made of bytes, one RFC a test
/// (core/bgp/README.md has the table).
#include <functional>

#include "core/bgp/codec/communities.hpp"
#include "raw_peer.hpp"

namespace calico::bgp::test {
namespace {

class ProtocolTest : public SpeakersTest {
 protected:
  /// Reflector 1 with clients 2 to 4; `change` sees each before it is configured.
  Speaker& reflector(const std::function<void(int, PeerConfig&)>& change = {}, Options o = {}) {
    auto& rr = speaker(1, std::move(o));
    std::vector<PeerConfig> list;
    for (int n : {2, 3, 4}) {
      auto& c = list.emplace_back(rr.peer(n));
      c.route_reflector_client = c.passive = true;
      if (change) change(n, c);
    }
    EXPECT_TRUE(rr.peers(list));
    rr.complete();
    return rr;
  }
  static void external(PeerConfig& c, std::uint32_t as) {
    c.remote_as = Asn{as};
    c.route_reflector_client = false;
    c.import_policy = c.export_policy = Policy::all;
  }
  static Open open_as(const RawPeer& p, std::uint32_t as) {
    auto o = p.open_message();
    o.as = Asn{as};
    o.caps.as4 = o.as;
    return o;
  }
  /// All that a neighbour holds, read until `done` says so.
  using Held = std::map<Nlri, Attrs>;
  static bool read_until(RawPeer& p, Held& held, const std::function<bool(const Held&)>& done,
                         const CodecContext& context = {}) {
    Update u;
    while (!done(held)) {
      const auto m = p.wait(MessageType::update);
      if (!m || !decode_update(*m, context, u)) return false;
      EXPECT_FALSE(u.treat_as_withdraw) << u.reason;
      for (const auto& w : u.withdrawn) held.erase(w);
      for (const auto& n : u.announced) held[n] = u.attrs;
      for (const auto& n : u.announced_mp) {
        held[n] = u.attrs;
        held[n].next_hop = u.mp_next_hop;
      }
    }
    return true;
  }
  static bool holds(const Held& held, std::string_view prefix) { return held.contains(Nlri{pfx(prefix), 0}); }
};

TEST_F(ProtocolTest, EnhancedRefreshBothWays) {
  auto& rr = reflector();
  rr.local("10.65.0.1/32");
  RawPeer p(2, 1);
  auto o = p.open_message();
  o.caps.refresh = o.caps.enhanced_refresh = true;
  ASSERT_TRUE(p.handshake(o));
  Held held;
  ASSERT_TRUE(read_until(p, held, [](const Held& h) { return holds(h, "10.65.0.1/32"); }));
  // It asks: begin, routes, end.
  ASSERT_TRUE(p.send(encode_route_refresh({kIpv4Unicast, 0})));
  for (std::uint8_t subtype : {1, 2}) {
    const auto m = p.wait(MessageType::route_refresh);
    ASSERT_TRUE(m);
    EXPECT_EQ(*decode_route_refresh(*m), (RouteRefresh{kIpv4Unicast, subtype}));
    if (subtype == 1) {
      ASSERT_TRUE(p.wait(MessageType::update));
    }
  }
  // It says everything again: what is not there at the end goes, and only of that family.
  const auto four = route_via("10.0.0.9"), six = route_via("fd00::9");
  for (auto r : {"10.99.0.1/32", "10.99.0.2/32"}) ASSERT_TRUE(p.announce(r, four));
  ASSERT_TRUE(p.announce("fd99::1/128", six));
  ASSERT_TRUE(wait_for("routes", [&] { return rr.route_count() == 3; }));
  ASSERT_TRUE(p.send(encode_route_refresh({kIpv4Unicast, 2})));  // an end without a begin says nothing
  ASSERT_TRUE(p.send(encode_route_refresh({kIpv4Unicast, 1})));
  ASSERT_TRUE(p.announce("10.99.0.1/32", four) && p.announce("10.99.0.3/32", four));
  ASSERT_TRUE(wait_for("the new one", [&] { return rr.route("10.99.0.3/32").has_value(); }));
  EXPECT_EQ(rr.route_count(), 4U) << "nothing goes before the end";
  ASSERT_TRUE(p.send(encode_route_refresh({kIpv4Unicast, 2})));
  ASSERT_TRUE(wait_for("the one not said again goes", [&] { return !rr.route("10.99.0.2/32"); }));
  EXPECT_EQ(rr.route_count(), 3U);
}

TEST_F(ProtocolTest, ANotificationKeepsRoutesWhereBothSaidSo) {
  Options o;
  o.restart_time = 10s;
  auto& rr = reflector({}, o);
  const auto lost = [&](bool n_bit, const Notification& say) {
    RawPeer p(2, 1);
    auto mine = p.open_message();
    auto& gr = mine.caps.graceful_restart.emplace();
    gr.time_s = 600;
    gr.notification = n_bit;
    gr.families = {{kIpv4Unicast, false}};  // with the next session the old routes go
    const auto flaps = rr.status(2)->counters.flaps;
    EXPECT_TRUE(p.handshake(mine) && p.announce("10.99.0.1/32", route_via("10.0.0.9")));
    EXPECT_TRUE(wait_for("route", [&] { return rr.route("10.99.0.1/32") && !rr.status(2)->gr_active; }));
    EXPECT_TRUE(p.send(encode_notification(say)));
    EXPECT_TRUE(wait_for("lost", [&] { return rr.status(2)->counters.flaps > flaps; }));
    return rr.status(2)->v4.stale;
  };
  EXPECT_EQ(lost(true, cease(notify::kReset, false)), 1U) << "RFC 8538 4";
  EXPECT_EQ(lost(true, {notify::kHoldTimer, 0, {}}), 1U);
  EXPECT_EQ(lost(true, cease(notify::kReset, true)), 0U) << "a hard reset";
  EXPECT_EQ(lost(false, cease(notify::kReset, false)), 0U) << "RFC 4724 alone";
}

TEST_F(ProtocolTest, SeveralPathsOfOnePeerBothWays) {
  reflector([](int n, PeerConfig& c) {
    c.add_path_receive = n == 2;
    c.add_path_send = n == 3;
  });
  RawPeer from(2, 1), all(3, 1), one(4, 1);
  auto sends = from.open_message(), takes = all.open_message();
  sends.caps.add_path = {{kIpv4Unicast, false, true}};
  takes.caps.add_path = {{kIpv4Unicast, true, false}};
  ASSERT_TRUE(from.handshake(sends) && all.handshake(takes) && one.handshake());
  EncodeContext with_id;
  with_id.add_path = true;
  auto a = route_via("10.0.0.9"), b = route_via("10.0.0.8");
  b.local_pref = 50;
  ASSERT_TRUE(from.announce("10.99.0.1/32", a, with_id, 7) && from.announce("10.99.0.1/32", b, with_id, 8));
  CodecContext ids;
  ids.add_path_rx[0] = true;
  Held at_all, at_one;
  ASSERT_TRUE(read_until(
      all, at_all, [](const Held& h) { return h.size() == 2; }, ids));
  EXPECT_NE(at_all.begin()->second.next_hop, at_all.rbegin()->second.next_hop);
  const auto hop_is = [](const char* hop) {
    return [hop](const Held& h) { return h.size() == 1 && h.begin()->second.next_hop == addr(hop); };
  };
  ASSERT_TRUE(read_until(one, at_one, hop_is("10.0.0.9")));
  Bytes m;
  std::size_t n = 0;
  with_id.family = Family::v4;
  encode_withdraw(m, n, with_id, std::vector<Nlri>{{pfx("10.99.0.1/32"), 7}});
  ASSERT_TRUE(from.send(m));
  EXPECT_TRUE(read_until(all, at_all, hop_is("10.0.0.8"), ids));
  EXPECT_TRUE(read_until(one, at_one, hop_is("10.0.0.8")));
}

TEST_F(ProtocolTest, Ipv4RoutesWithIpv6NextHops) {
  reflector([](int n, PeerConfig& c) { c.extended_next_hop = n != 4; });
  RawPeer from(2, 1), to(3, 1), plain(4, 1);
  auto o = from.open_message();
  o.caps.next_hops = {{kIpv4Unicast, 2}};
  auto o3 = to.open_message();
  o3.caps.next_hops = o.caps.next_hops;
  ASSERT_TRUE(from.handshake(o) && to.handshake(o3) && plain.handshake());
  EncodeContext extended;
  extended.extended_next_hop = true;
  CodecContext reads;
  reads.extended_next_hop = true;
  ASSERT_TRUE(from.announce("10.99.0.1/32", route_via("fd00::9"), extended));
  Held at_to, at_plain;
  ASSERT_TRUE(read_until(
      to, at_to, [](const Held& h) { return holds(h, "10.99.0.1/32"); }, reads));
  EXPECT_EQ(at_to.begin()->second.next_hop, addr("fd00::9"));
  // Who did not say that it understands this is not told; the next route shows that there was time.
  ASSERT_TRUE(from.announce("10.99.0.2/32", route_via("10.0.0.9"), extended));
  ASSERT_TRUE(read_until(plain, at_plain, [](const Held& h) { return holds(h, "10.99.0.2/32"); }));
  EXPECT_FALSE(holds(at_plain, "10.99.0.1/32"));
}

TEST_F(ProtocolTest, SpeakersOfTwoOctetNumbers) {
  auto& rr = reflector();
  RawPeer wide(2, 1), narrow(3, 1);
  auto o = narrow.open_message();
  o.caps.as4.reset();
  ASSERT_TRUE(wide.handshake() && narrow.handshake(o));
  auto a = route_via("10.0.0.9");
  const std::vector<Asn> path{Asn{70000}, Asn{65001}};
  a.as_path = AsPath::sequence(path);
  CodecContext two;
  two.as4 = false;
  ASSERT_TRUE(wide.announce("10.99.0.1/32", a));
  Held held;
  ASSERT_TRUE(read_until(
      narrow, held, [](const Held& h) { return holds(h, "10.99.0.1/32"); }, two));
  EXPECT_EQ(held.begin()->second.as_path.to_string(), "70000 65001") << "AS_TRANS beside AS4_PATH";
  ASSERT_TRUE(narrow.announce("10.99.0.2/32", a, {}, 0, false));
  Held back;
  ASSERT_TRUE(read_until(wide, back, [](const Held& h) { return holds(h, "10.99.0.2/32"); }));
  EXPECT_EQ(back.begin()->second.as_path.to_string(), "70000 65001");
  EXPECT_TRUE(rr.established(3));
}

TEST_F(ProtocolTest, CommunitiesThatEndAtABorder) {
  reflector([](int n, PeerConfig& c) {
    if (n != 2) external(c, 65000 + static_cast<std::uint32_t>(n));
  });
  RawPeer inside(2, 1), a(3, 1), b(4, 1);
  ASSERT_TRUE(inside.handshake() && a.handshake(open_as(a, 65003)) && b.handshake(open_as(b, 65004)));
  const auto ext = [](std::initializer_list<const char*> list) {
    Bytes out;
    for (auto t : list) EXPECT_TRUE(add(out, *ExtCommunity::parse(t)));
    return out;
  };
  // From inside: NO_EXPORT and NO_ADVERTISE stay, a route target goes out, what is not transitive does not.
  auto both = route_via("10.0.0.9");
  both.ext_communities = ext({"rt 64512:1", "generic 0x40040000:0x1"});
  EXPECT_TRUE(add(both.large_communities, LargeCommunity{64512, 1, 2}));
  ASSERT_TRUE(inside.announce("10.99.0.1/32", route_via("10.0.0.9", {0xffffff01})) &&
              inside.announce("10.99.0.2/32", route_via("10.0.0.9", {0xffffff02})) &&
              inside.announce("10.99.0.3/32", route_via("10.0.0.9", {0xffffff03})) &&
              inside.announce("10.99.0.4/32", both));
  Held out;
  CodecContext external_session;
  external_session.ibgp = false;
  ASSERT_TRUE(read_until(
      b, out, [](const Held& h) { return holds(h, "10.99.0.4/32"); }, external_session));
  ASSERT_EQ(out.size(), 1U);
  EXPECT_EQ(out.begin()->second.ext_communities, ext({"rt 64512:1"}));
  EXPECT_EQ(out.begin()->second.large_communities, both.large_communities);
  // From outside: BLACKHOLE comes in, and goes to nobody else outside.
  auto drop = route_via("10.0.0.9", {0xffff029a});
  drop.local_pref.reset();
  const std::vector<Asn> path{Asn{65003}};
  drop.as_path = AsPath::sequence(path);
  auto plain = drop;
  plain.communities.clear();
  ASSERT_TRUE(a.announce("10.98.0.1/32", drop) && a.announce("10.98.0.2/32", plain));
  Held in;
  ASSERT_TRUE(read_until(inside, in, [](const Held& h) { return holds(h, "10.98.0.1/32"); }));
  const auto& got = in.at(Nlri{pfx("10.98.0.1/32"), 0}).communities;
  EXPECT_TRUE(contains(got, well_known::kBlackhole) && contains(got, well_known::kNoExport));
  ASSERT_TRUE(read_until(
      b, out, [](const Held& h) { return holds(h, "10.98.0.2/32"); }, external_session));
  EXPECT_FALSE(holds(out, "10.98.0.1/32"));
}

}  // namespace
}  // namespace calico::bgp::test
