/// Bytes <-> values: OPEN and the small messages, AS paths, communities, reflection on the wire form.
#include "codec_support.hpp"
#include "core/bgp/codec/communities.hpp"
#include "core/bgp/codec/negotiate.hpp"
#include "core/bgp/rib/policy.hpp"

namespace calico::bgp {
namespace {

using namespace codec_test;
using wire::Writer;

// --- OPEN and the small ones ----------------------------------------------------------------------------------------

TEST(BgpOpen, RoundTrip) {
  Random random(1);
  for (int i = 0; i < 2000; ++i) {
    const auto o = random.open();
    const auto m = encode_open(o);
    auto h = decode_header(View(m).first(kHeaderSize));
    ASSERT_TRUE(h);
    ASSERT_EQ(h->length, m.size());
    auto back = decode_open(body(m));
    ASSERT_TRUE(back) << back.error().what;
    EXPECT_EQ(*back, o);
  }
}

TEST(BgpOpen, EveryTruncationIsRefused) {
  Random random(2);
  for (int i = 0; i < 50; ++i) {
    const auto m = encode_open(random.open());
    for (std::size_t n = 0; n < m.size() - kHeaderSize; ++n) EXPECT_FALSE(decode_open(body(m).first(n))) << n;
  }
}

TEST(BgpOpen, FaultsSayWhatTheNotificationMust) {
  const auto code = [](std::string_view bytes) {
    auto r = decode_open(hex(bytes));
    return r ? std::pair(0, 0) : std::pair<int, int>(r.error().code, r.error().subcode);
  };
  // version, AS, hold time, identifier, length of parameters, parameters
  EXPECT_EQ(code("04 fc00 00b4 0a000001 00"), std::pair(0, 0));
  EXPECT_EQ(code("03 fc00 00b4 0a000001 00"), std::pair(2, 1));
  EXPECT_EQ(code("04 0000 00b4 0a000001 00"), std::pair(2, 2));
  EXPECT_EQ(code("04 fc00 0001 0a000001 00"), std::pair(2, 6));
  EXPECT_EQ(code("04 fc00 0002 0a000001 00"), std::pair(2, 6));
  EXPECT_EQ(code("04 fc00 00b4 00000000 00"), std::pair(2, 3));
  EXPECT_EQ(code("04 fc00 00b4 0a000001 02 02 06"), std::pair(2, 0)) << "parameter overruns";
  EXPECT_EQ(code("04 fc00 00b4 0a000001 05 02 03 41 04 00"), std::pair(2, 0)) << "capability overruns";
  EXPECT_EQ(code("04 fc00 00b4 0a000001 04 02 02 41 00"), std::pair(2, 0)) << "AS4 without a number";
  EXPECT_EQ(code("04 fc00 00b4 0a000001 08 02 06 41 04 00000000"), std::pair(2, 2)) << "AS 0 (RFC 7607)";
  EXPECT_EQ(code("04 fc00 00b4 0a000001 03 07 01 00"), std::pair(2, 4)) << "unknown parameter";
  EXPECT_EQ(code("04 fc00 00b4 0a000001 00 00"), std::pair(2, 0)) << "more than announced";
  EXPECT_EQ(code("04 fc00 00b4 0a000001 ff ff 0009 02 0006 41 04 0000fc00"), std::pair(0, 0)) << "RFC 9072";
}

TEST(BgpOpen, CapabilitiesOnTheWire) {
  const auto caps = [](std::string_view bytes) {
    const auto b = hex(bytes);
    Writer w(4096);
    w.put(hex("04 fc00 00b4 0a000001"));
    w.be<std::uint8_t>(b.size() + 2);
    w.be<std::uint8_t>(2);
    w.be<std::uint8_t>(b.size());
    w.put(b);
    return decode_open(w.view());
  };
  auto o = caps(
      "45 08 0001 01 03 0002 01 01  47 0e 0001 01 80 015180 0002 01 00 000e10  05 06 0001 0001 0002  06 00  46 00");
  ASSERT_TRUE(o) << o.error().what;
  EXPECT_EQ(o->caps.add_path_of(kIpv4Unicast), (Capabilities::AddPath{kIpv4Unicast, true, true}));
  EXPECT_EQ(o->caps.add_path_of(kIpv6Unicast), (Capabilities::AddPath{kIpv6Unicast, true, false}));
  EXPECT_EQ(o->caps.add_path_of({1, 128}), (Capabilities::AddPath{{1, 128}, false, false}));
  ASSERT_TRUE(o->caps.long_lived);
  EXPECT_EQ(o->caps.long_lived->families,
            (std::vector<LongLivedCapability::Entry>{{kIpv4Unicast, true, 86400}, {kIpv6Unicast, false, 3600}}));
  EXPECT_TRUE(o->caps.ipv4_over_ipv6());
  EXPECT_TRUE(o->caps.extended_message);
  EXPECT_TRUE(o->caps.enhanced_refresh);
  EXPECT_TRUE(o->caps.unknown.empty());

  o = caps("45 08 0001 01 04 0002 01 02  45 04 0002 01 01  05 06 0001 0080 0002  47 00");
  ASSERT_TRUE(o);
  EXPECT_EQ(o->caps.add_path, (std::vector<Capabilities::AddPath>{{kIpv6Unicast, true, false}}))
      << "a mode of 4 is not understood; the last entry of a family counts";
  EXPECT_FALSE(o->caps.ipv4_over_ipv6()) << "VPN routes are not unicast ones";
  EXPECT_TRUE(o->caps.long_lived && o->caps.long_lived->families.empty());

  for (const auto* bad : {"45 03 000101", "47 06 000101800151", "05 05 0001000100", "06 01 00", "46 01 00", "02 01 00",
                          "01 03 000100", "41 02 fc00", "40 01 00", "40 03 000000"}) {
    o = caps(bad);
    ASSERT_FALSE(o) << bad;
    EXPECT_EQ(o.error().code, 2) << bad;
    EXPECT_EQ(o.error().subcode, 0) << bad;
  }
}

TEST(BgpOpen, WhatBothSidesSaidIsNegotiated) {
  Capabilities ours, theirs;
  auto n = negotiate(ours, theirs, true);
  EXPECT_TRUE(n.families[0]) << "who names no family means IPv4";
  EXPECT_FALSE(n.families[1] || n.as4_out || n.in.as4 || n.refresh || n.enhanced_refresh);
  EXPECT_EQ(n.out[0], (EncodeContext{Family::v4, false, false, 4096}));

  ours.families = {kIpv4Unicast, kIpv6Unicast};
  ours.as4 = Asn{64512};
  ours.refresh = ours.enhanced_refresh = ours.extended_message = true;
  ours.add_path = {{kIpv4Unicast, true, true}, {kIpv6Unicast, true, true}};
  ours.next_hops = {{kIpv4Unicast, 2}};
  n = negotiate(ours, theirs, false);
  EXPECT_EQ(n.in, (CodecContext{false, false})) << "one side alone decides nothing";
  EXPECT_EQ(n.out[0], (EncodeContext{Family::v4, false, false, 4096}));
  EXPECT_FALSE(n.families[1]);

  theirs = ours;
  theirs.families = {kIpv6Unicast};
  theirs.add_path = {{kIpv4Unicast, true, false}, {kIpv6Unicast, false, true}};
  n = negotiate(ours, theirs, true);
  EXPECT_FALSE(n.families[0]);
  EXPECT_TRUE(n.families[1] && n.as4_out && n.in.as4 && n.refresh && n.enhanced_refresh);
  EXPECT_EQ(n.in.max_message, 65535U);
  EXPECT_TRUE(n.in.extended_next_hop);
  EXPECT_FALSE(n.in.add_path(Family::v4)) << "they do not send";
  EXPECT_TRUE(n.in.add_path(Family::v6));
  EXPECT_EQ(n.out[0], (EncodeContext{Family::v4, true, true, 65535}));
  EXPECT_EQ(n.out[1], (EncodeContext{Family::v6, false, false, 65535}));
}

TEST(BgpHeader, ExtendedMessages) {
  const auto ok = [](std::string_view tail, std::size_t most) {
    return decode_header(hex("ffffffffffffffffffffffffffffffff" + std::string(tail)), most).has_value();
  };
  for (const auto* type : {"02", "03", "05"}) {
    EXPECT_TRUE(ok(std::string("1001") + type, kMaxExtendedMessage)) << type;
    EXPECT_TRUE(ok(std::string("ffff") + type, kMaxExtendedMessage)) << type;
    EXPECT_FALSE(ok(std::string("1001") + type, kMaxMessage)) << type;
  }
  EXPECT_TRUE(ok("1000 01", kMaxExtendedMessage));
  EXPECT_FALSE(ok("1001 01", kMaxExtendedMessage)) << "an OPEN never is";
  EXPECT_FALSE(ok("1001 04", kMaxExtendedMessage)) << "nor a KEEPALIVE";
}

TEST(BgpHeader, Faults) {
  const auto code = [](std::string_view tail) {
    auto r = decode_header(hex("ffffffffffffffffffffffffffffffff" + std::string(tail)));
    return r ? std::pair(0, 0) : std::pair<int, int>(r.error().code, r.error().subcode);
  };
  EXPECT_EQ(code("0013 04"), std::pair(0, 0));
  EXPECT_EQ(code("0012 04"), std::pair(1, 2));
  EXPECT_EQ(code("1388 02"), std::pair(1, 2)) << "5000";
  EXPECT_EQ(code("0014 04"), std::pair(1, 2)) << "a KEEPALIVE of 20";
  EXPECT_EQ(code("001c 01"), std::pair(1, 2)) << "an OPEN of 28";
  EXPECT_EQ(code("0016 02"), std::pair(1, 2));
  EXPECT_EQ(code("0014 03"), std::pair(1, 2));
  EXPECT_EQ(code("0013 09"), std::pair(1, 3));
  EXPECT_EQ(code("0013 00"), std::pair(1, 3));
  auto marker = decode_header(hex("fffffffffffffffffffffffffffffffe 0013 04"));
  ASSERT_FALSE(marker);
  EXPECT_EQ(marker.error().code, 1);
  EXPECT_EQ(marker.error().subcode, 1);
}

TEST(BgpNotification, RoundTripAndText) {
  const Notification n{6, 2, hex("05 6865 6c6c 6f")};
  auto m = encode_notification(n);
  auto back = decode_notification(body(m));
  ASSERT_TRUE(back);
  EXPECT_EQ(*back, n);
  EXPECT_EQ(describe(n), "Cease: Administrative shutdown \"hello\"");
  EXPECT_EQ(describe(cease(notify::kDeconfigured, true)), "Cease: Hard reset (Cease: Peer de-configured)");
  EXPECT_EQ(describe({6, 9, hex("06 09")}), "Cease: Hard reset");
  EXPECT_EQ(describe({6, 2, hex("ff 41")}), "Cease: Administrative shutdown") << "a length that lies";
  EXPECT_EQ(describe({6, 2, hex("03 1b 5b 41")}), "Cease: Administrative shutdown \"?[A\"") << "nothing for a terminal";
  EXPECT_EQ(describe({99, 7, {}}), "Error 99: 7");
  EXPECT_EQ(encode_notification({6, 0, Bytes(100000)}).size(), kMaxMessage);
}

TEST(BgpNotification, ShutdownCommunication) {
  auto n = cease(notify::kShutdown, false, "back at 10:00");
  EXPECT_EQ(n, (Notification{6, 2, hex("0d 6261636b2061742031303a3030")}));
  EXPECT_EQ(describe(n), "Cease: Administrative shutdown \"back at 10:00\"");
  EXPECT_EQ(describe(cease(notify::kReset, true, "kernel")),
            "Cease: Hard reset (Cease: Administrative reset \"kernel\")");
  EXPECT_EQ(cease(notify::kDeconfigured, false, "text"), (Notification{6, 3, {}})) << "not of this subcode";
  EXPECT_EQ(cease(notify::kShutdown, false), (Notification{6, 2, {}}));
  EXPECT_EQ(hard_reset({4, 0, hex("01")}), (Notification{6, 9, hex("04 00 01")}));

  std::string text(254, 'x');
  n = cease(notify::kShutdown, false, text + "yz");
  EXPECT_EQ(n.data.size(), 256U);
  EXPECT_EQ(n.data[0], std::byte{255});
  n = cease(notify::kShutdown, false, text + "ü!");
  EXPECT_EQ(n.data[0], std::byte{254}) << "not half a character";
  n = cease(notify::kShutdown, false, text.substr(1) + "ü!");
  EXPECT_EQ(n.data[0], std::byte{255});
  EXPECT_TRUE(describe(n).ends_with("xü\"")) << describe(n);
  EXPECT_EQ(describe(cease(notify::kShutdown, false, "Grüße \u20ac \U0001f4a1")),
            "Cease: Administrative shutdown \"Grüße \u20ac \U0001f4a1\"");
  // Broken UTF-8 and what would move the cursor or turn the text around.
  for (const auto* bad : {"c3", "e282", "f09f92", "c080", "eda080", "f4908080", "ff", "1b", "7f", "0a", "c285",
                          "e280ae", "e280a8", "e281a6", "efbbbf"}) {
    auto data = hex(bad);
    data.insert(data.begin(), static_cast<std::byte>(data.size() + 1));
    data.push_back(std::byte{'A'});
    const auto shown = describe({6, 2, data});
    EXPECT_TRUE(shown.starts_with("Cease: Administrative shutdown \"?") && shown.ends_with("A\"")) << bad << shown;
    for (const char c : shown) EXPECT_TRUE(c >= 0x20 && c < 0x7f) << bad;
  }
  EXPECT_EQ(describe({8, 0, {}}), "Send hold timer expired");
  EXPECT_EQ(describe({6, 10, {}}), "Cease: BFD down");
}

TEST(BgpRefresh, RoundTrip) {
  for (std::uint8_t subtype = 0; subtype < 4; ++subtype) {
    const RouteRefresh r{kIpv6Unicast, subtype};
    auto m = encode_route_refresh(r);
    EXPECT_EQ(*decode_route_refresh(body(m)), r);
  }
  // RFC 7313 5: Invalid Message Length, with the whole message.
  const auto longer = hex("ffffffffffffffffffffffffffffffff 0018 05 0001 01 01 00");
  auto refused = decode_route_refresh(body(longer));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, 7);
  EXPECT_EQ(refused.error().subcode, 1);
  EXPECT_EQ(refused.error().data, longer);
  EXPECT_FALSE(decode_route_refresh(hex("0001 00")));
  EXPECT_FALSE(decode_route_refresh(hex("0001 00 01 00")));
}

// --- AS paths -------------------------------------------------------------------------------------------------------

TEST(BgpAsPath, LengthEndsAndText) {
  auto p = AsPath::decode(hex("02 02 0000fde8 0000fc01 01 02 00000001 00000002"), 4);
  ASSERT_TRUE(p);
  EXPECT_EQ(p->length(), 3U) << "a set counts one";
  EXPECT_EQ(p->to_string(), "65000 64513 { 1 2 }");
  EXPECT_EQ(p->first(), Asn{65000});
  EXPECT_FALSE(p->origin()) << "it ends in a set";
  EXPECT_TRUE(p->contains(Asn{2}));
  EXPECT_FALSE(p->contains(Asn{3}));
  EXPECT_EQ(p->prepended(Asn{9}).to_string(), "9 65000 64513 { 1 2 }");
  EXPECT_EQ(p->prepended(Asn{9}).wire().size(), p->wire().size() + 4) << "joins the first sequence";
  EXPECT_EQ(AsPath().prepended(Asn{9}).to_string(), "9");
  EXPECT_FALSE(AsPath().first());
  std::vector<Asn> many(255, Asn{7});
  EXPECT_EQ(AsPath::sequence(many).prepended(Asn{8}).length(), 256U) << "a full sequence gets a new one in front";
}

TEST(BgpAsPath, Malformed) {
  EXPECT_FALSE(AsPath::decode(hex("02 02 0000fde8"), 4)) << "overrun";
  EXPECT_FALSE(AsPath::decode(hex("09 01 0000fde8"), 4)) << "type";
  EXPECT_FALSE(AsPath::decode(hex("02 00"), 4)) << "empty segment";
  EXPECT_FALSE(AsPath::decode(hex("02"), 4));
  EXPECT_FALSE(AsPath::decode(hex("02 01 00000000"), 4)) << "AS 0";
  EXPECT_FALSE(AsPath::decode(hex("03 01 0000fde8"), 4)) << "confederation";
  EXPECT_TRUE(AsPath::decode({}, 4));
}

TEST(BgpAsPath, TwoOctetSpeakers) {
  // 65000 AS_TRANS AS_TRANS, AS4_PATH 70000 70001: the two last hops come back.
  auto old = AsPath::decode(hex("02 03 fde8 5ba0 5ba0"), 2);
  auto as4 = AsPath::decode(hex("02 02 00011170 00011171"), 4);
  ASSERT_TRUE(old && as4);
  EXPECT_EQ(old->merged(*as4).to_string(), "65000 70000 70001");
  EXPECT_EQ(as4->merged(*old).to_string(), "70000 70001") << "an AS4_PATH that is longer is ignored";
  EXPECT_EQ(as4->narrow(), hex("02 02 5ba0 5ba0"));
  EXPECT_TRUE(as4->has_wide());

  // The whole way: what we write for a 2-octet peer reads back as what it was.
  Attrs a;
  const std::vector<Asn> path{Asn{64512}, Asn{70000}, Asn{3}};
  a.as_path = AsPath::sequence(path);
  a.next_hop = ip("10.0.0.1");
  a.local_pref = 100;
  a.aggregator = Aggregator{Asn{70000}, 5};
  Writer w(4096);
  encode_attributes(w, a, false);
  auto back = decode_attributes(w.view(), {true, false});
  ASSERT_TRUE(back);
  EXPECT_FALSE(back->withdraw) << back->reason;
  EXPECT_EQ(back->attrs, a);
}

TEST(BgpAsPath, AnAggregatorOfAs0IsNotMerged) {
  // AGGREGATOR of AS_TRANS, AS4_AGGREGATOR of AS 0: discarded (RFC 7607), the 2-octet one stays.
  auto r = decode_attributes(
      hex("40 01 01 00  40 02 00  40 05 04 00000064  c0 07 06 5ba0 0a000001  c0 12 08 00000000 0a000001"),
      {true, false});
  ASSERT_TRUE(r);
  EXPECT_FALSE(r->withdraw);
  EXPECT_EQ(r->discarded, 1U);
  EXPECT_EQ(r->attrs.aggregator, (Aggregator{Asn{23456}, 0x0a000001}));
}

TEST(BgpAsPath, As4PathWithoutConfederationSegments) {
  // RFC 6793 6: 65001 AS_TRANS, AS4_PATH (65002 65003) 70000.
  const CodecContext old{true, false};
  auto r = decode_attributes(
      hex("40 01 01 00  40 02 06 02 02 fde9 5ba0  40 05 04 00000064  c0 11 10 03 02 0000fdea 0000fdeb 02 01 00011170"),
      old);
  ASSERT_TRUE(r);
  EXPECT_FALSE(r->withdraw) << r->reason;
  EXPECT_EQ(r->discarded, 0U);
  EXPECT_EQ(r->attrs.as_path.to_string(), "65001 70000");
  r = decode_attributes(hex("40 01 01 00  40 02 06 02 02 fde9 5ba0  40 05 04 00000064  c0 11 06 02 01 00000000"), old);
  ASSERT_TRUE(r);
  EXPECT_FALSE(r->withdraw);
  EXPECT_EQ(r->discarded, 1U) << "AS4_PATH with AS 0";
  EXPECT_EQ(r->attrs.as_path.to_string(), "65001 23456");
  // An aggregator that is no AS_TRANS was written by somebody who did not see AS4_PATH: both AS4 attributes are
  // ignored.
  r = decode_attributes(hex("40 01 01 00  40 02 06 02 02 fde9 5ba0  40 05 04 00000064  c0 07 06 fde9 0a000001 "
                            "c0 11 06 02 01 00011170  c0 12 08 00011170 0a000002"),
                        old);
  ASSERT_TRUE(r);
  EXPECT_EQ(r->attrs.as_path.to_string(), "65001 23456");
  EXPECT_EQ(r->attrs.aggregator, (Aggregator{Asn{65001}, 0x0a000001}));
}

TEST(BgpAsPath, OneThatNoAttributeCouldHoldIsRefused) {
  const auto of = [](std::size_t hops, std::size_t width) {
    Bytes b;
    for (; hops > 0; hops -= std::min<std::size_t>(hops, 250)) {
      const auto n = std::min<std::size_t>(hops, 250);
      b.push_back(std::byte{2});
      b.push_back(static_cast<std::byte>(n));
      b.insert(b.end(), n * width, std::byte{1});
    }
    return b;
  };
  EXPECT_TRUE(AsPath::decode(of(7400, 2), 2));
  EXPECT_TRUE(AsPath::decode(of(7400, 4), 4));
  EXPECT_FALSE(AsPath::decode(of(7500, 2), 2));
  EXPECT_FALSE(AsPath::decode(of(16000, 4), 4));
  // The longest two, merged, and prepended until it no longer fits: then it is not written at all.
  Attrs a;
  a.as_path = *AsPath::decode(of(7400, 4), 4);
  Bytes out(3);
  for (int i = 0; i < 8000; ++i) a.as_path = a.as_path.prepended(Asn{1});
  EXPECT_TRUE(encode_attributes(out, a));
  EXPECT_GT(out.size(), 61000U);
  out.resize(3);
  for (int i = 0; i < 2000; ++i) a.as_path = a.as_path.prepended(Asn{1});
  EXPECT_FALSE(encode_attributes(out, a));
  EXPECT_EQ(out, Bytes(3));
  Writer w(200000);
  encode_attributes(w, a);
  EXPECT_FALSE(w.ok());
}

// --- reflection -----------------------------------------------------------------------------------------------------

TEST(BgpReflection, OnTheWireAsOnValues) {
  Random random(8);
  const LocalSpeaker speaker{Asn{64512}, 0x0a000001, 0x0a0000ff};
  Target target;
  target.client = true;
  std::size_t long_lists = 0;
  for (int i = 0; i < 3000; ++i) {
    const bool v6 = random.chance();
    auto a = random.attrs(v6);
    if (random.chance()) a.originator_id.reset();
    if (random.chance()) a.cluster_list.clear();
    if (random.below(10) == 0) a.cluster_list.resize(60 + random.below(10), 7);  // about 255 bytes
    if (random.chance()) a.unknown.insert(a.unknown.begin(), {11, 0xe0, random.bytes(3)});
    if (random.below(4) == 0) a.unknown.insert(a.unknown.begin(), {0, 0xe0, random.bytes(3)});
    long_lists += a.cluster_list.size() >= 63;
    Bytes canonical, got, want;
    ASSERT_TRUE(encode_attributes(canonical, a));
    const Source source{Source::Kind::internal, true, random.u32()};
    const auto exported = export_route(a, v6 ? Family::v6 : Family::v4, source, target, speaker);
    ASSERT_TRUE(exported);
    ASSERT_TRUE(encode_attributes(want, *exported));
    ASSERT_TRUE(reflect_attributes(canonical, source.router_id, speaker.cluster_id, got));
    ASSERT_EQ(got, want) << i;
  }
  EXPECT_GT(long_lists, 50U);
  Attrs full;
  full.cluster_list.resize(65535 / 4, 1);
  Bytes canonical, out(2);
  ASSERT_TRUE(encode_attributes(canonical, full));
  EXPECT_FALSE(reflect_attributes(canonical, 1, 2, out));
  EXPECT_EQ(out, Bytes(2));
}

// --- communities ----------------------------------------------------------------------------------------------------

TEST(BgpCommunities, TextBothWays) {
  const auto std_text = [](std::string_view s) {
    auto c = Community::parse(s);
    return c ? c->to_string() + " " + c->to_string(CommunityStyle::bird) : "?";
  };
  EXPECT_EQ(std_text("65000:1"), "65000:1 (65000,1)");
  EXPECT_EQ(std_text("(65000, 1)"), "65000:1 (65000,1)");
  EXPECT_EQ(std_text("No_Export"), "no-export (65535,65281)");
  EXPECT_EQ(std_text("65535:65281"), "no-export (65535,65281)");
  EXPECT_EQ(std_text("graceful-shutdown"), "graceful-shutdown (65535,0)");
  EXPECT_EQ(std_text("65535:666"), "blackhole (65535,666)");
  EXPECT_EQ(std_text("65535:6"), "llgr-stale (65535,6)");
  EXPECT_EQ(std_text("65535:7"), "no-llgr (65535,7)");
  EXPECT_EQ(std_text("no-advertise"), "no-advertise (65535,65282)");
  EXPECT_EQ(std_text("no-export-subconfed"), "no-export-subconfed (65535,65283)");
  EXPECT_EQ(std_text("no-peer"), "no-peer (65535,65284)");
  for (const auto* bad : {"", ":", "1", "1:", "65536:1", "1:65536", "1:2:3", "-1:1", "1:1x", "(1,2", "1,2", "export"})
    EXPECT_EQ(std_text(bad), "?") << bad;

  const auto ext = [](std::string_view s) {
    auto c = ExtCommunity::parse(s);
    return c ? fmt::format("{:016x} {} {}", c->value, c->to_string(), c->to_string(CommunityStyle::bird)) : "?";
  };
  EXPECT_EQ(ext("rt 65000:1"), "0002fde800000001 rt 65000:1 (rt, 65000, 1)");
  EXPECT_EQ(ext("(rt, 65000, 1)"), "0002fde800000001 rt 65000:1 (rt, 65000, 1)");
  EXPECT_EQ(ext("rt:65000:4294967295"), "0002fde8ffffffff rt 65000:4294967295 (rt, 65000, 4294967295)");
  EXPECT_EQ(ext("rt 70000:1"), "0202000111700001 rt 70000:1 (rt, 70000, 1)");
  EXPECT_EQ(ext("ro 65000L:1"), "02030000fde80001 ro 65000L:1 (ro, 65000, 1)");
  EXPECT_EQ(ext("soo 10.0.0.1:9"), "01030a0000010009 ro 10.0.0.1:9 (ro, 10.0.0.1, 9)");
  EXPECT_EQ(ext("generic 0x43000000:0x1"), "4300000000000001 generic 0x43000000:0x1 (generic, 0x43000000, 0x1)");
  EXPECT_EQ(ext("(generic, 0x43000000, 0x1)"), "4300000000000001 generic 0x43000000:0x1 (generic, 0x43000000, 0x1)");
  for (const auto* bad : {"", "rt", "rt 1", "rt 70000:65536", "rt 10.0.0:1", "rt 10.0.0.1:65536", "xx 1:1", "rt 1:1:1",
                          "rt fe80::1:1", "generic 1", "65000:1"})
    EXPECT_EQ(ext(bad), "?") << bad;
  EXPECT_TRUE(ExtCommunity::parse("rt 1:1")->transitive());
  EXPECT_FALSE(ExtCommunity::parse("generic 0x43000000:0x1")->transitive());

  EXPECT_EQ(LargeCommunity::parse("1:2:3")->to_string(CommunityStyle::bird), "(1, 2, 3)");
  EXPECT_EQ(LargeCommunity::parse("(4294967295, 0, 1)")->to_string(), "4294967295:0:1");
  for (const auto* bad : {"", "1:2", "1:2:3:4", "1:2:4294967296", "1:2:", "a:b:c"})
    EXPECT_FALSE(LargeCommunity::parse(bad)) << bad;

  Random random(9);
  for (int i = 0; i < 20000; ++i) {
    auto b = random.bytes(12);
    if (random.chance()) b[0] = static_cast<std::byte>(random.below(4)), b[1] = static_cast<std::byte>(random.below(5));
    const auto c = Community::from(View(b).first(4));
    const auto e = ExtCommunity::from(View(b).first(8));
    const auto l = LargeCommunity::from(b);
    EXPECT_EQ(*Community::parse(c.to_string()), c);
    EXPECT_EQ(*Community::parse(c.to_string(CommunityStyle::bird)), c);
    ASSERT_TRUE(ExtCommunity::parse(e.to_string())) << e.to_string();
    EXPECT_EQ(*ExtCommunity::parse(e.to_string()), e) << e.to_string();
    EXPECT_EQ(*LargeCommunity::parse(l.to_string()), l);
    EXPECT_TRUE(std::ranges::equal(e.bytes(), View(b).first(8)));
    EXPECT_TRUE(std::ranges::equal(l.bytes(), b));
  }
}

TEST(BgpCommunities, Lists) {
  Bytes list;
  const Community a{0xfde80001}, b{0xfde80002};
  EXPECT_FALSE(contains(list, a));
  EXPECT_TRUE(add(list, a) && add(list, b) && add(list, a));
  EXPECT_EQ(list, hex("fde80001 fde80002"));
  EXPECT_TRUE(contains(list, b));
  EXPECT_FALSE(contains(list, Community{0x0001fde8})) << "not across two";
  EXPECT_EQ(list_to_string<Community>(list), "65000:1, 65000:2");
  EXPECT_EQ(list_to_string<Community>(list, CommunityStyle::bird), "(65000,1) (65000,2)");
  list = hex("fde80001 fde80002 fde80001");
  EXPECT_EQ(remove(list, a), 2U);
  EXPECT_EQ(list, hex("fde80002"));
  EXPECT_EQ(remove(list, a), 0U);
  list.resize(65532);
  EXPECT_FALSE(add(list, a)) << "the attribute is full";
  EXPECT_TRUE(add(list, b)) << "it is there";

  Bytes large;
  for (std::uint32_t i = 0; i < 6; ++i) EXPECT_TRUE(add(large, LargeCommunity{64512, i % 2, i}));
  EXPECT_EQ(remove_if<LargeCommunity>(large, [](const auto& c) { return c.local1 == 1; }), 3U);
  EXPECT_EQ(list_to_string<LargeCommunity>(large), "64512:0:0, 64512:0:2, 64512:0:4");
  Bytes ext;
  EXPECT_TRUE(add(ext, *ExtCommunity::parse("rt 65000:1")));
  EXPECT_EQ(ext, hex("0002fde800000001"));
}

}  // namespace
}  // namespace calico::bgp
