/// Bytes <-> messages: round trips of random values, every truncation refused, random damage never crashes, and RFC
/// 7606's verdict for each attribute.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "core/bgp/codec/communities.hpp"
#include "core/bgp/codec/negotiate.hpp"
#include "core/bgp/codec/update.hpp"
#include "core/bgp/rib/policy.hpp"

namespace calico::bgp {
namespace {

using wire::Writer;

Prefix pfx(std::string_view s) { return *Prefix::parse(s); }
Ip ip(std::string_view s) { return *Ip::parse(s); }

Bytes hex(std::string_view text) {
  Bytes out;
  int nibble = -1;
  for (char c : text) {
    int v = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (v < 0) continue;
    if (nibble < 0) {
      nibble = v;
    } else {
      out.push_back(static_cast<std::byte>(nibble << 4 | v));
      nibble = -1;
    }
  }
  return out;
}

View body(const Bytes& message) { return View(message).subspan(kHeaderSize); }

class Random {
 public:
  explicit Random(std::uint64_t seed) : gen_(seed) {}
  std::uint32_t below(std::uint32_t n) { return n == 0 ? 0 : static_cast<std::uint32_t>(gen_() % n); }
  std::uint32_t u32() { return static_cast<std::uint32_t>(gen_()); }
  bool chance() { return (gen_() & 1) != 0; }
  Bytes bytes(std::size_t n) {
    Bytes b(n);
    for (auto& x : b) x = static_cast<std::byte>(gen_());
    return b;
  }
  Prefix v4() { return Prefix{Ip::v4(u32()), static_cast<std::uint8_t>(below(33))}.masked(); }
  Prefix v6() { return Prefix{Ip::from_bytes(bytes(16)), static_cast<std::uint8_t>(below(129))}.masked(); }

  Nlri route(Family family, bool add_path) { return {family == Family::v6 ? v6() : v4(), add_path ? u32() : 0}; }

  Open open() {
    Open o;
    o.hold_time_s = static_cast<std::uint16_t>(chance() ? 0 : 3 + below(65000));
    o.router_id = 1 + below(0xfffffffe);
    if (chance()) {
      o.caps.as4 = Asn{1 + below(0xfffffffe)};
      o.as = *o.caps.as4;
    } else {
      o.as = Asn{1 + below(0xfffe)};
    }
    if (chance()) o.caps.families.push_back(kIpv4Unicast);
    if (chance()) o.caps.families.push_back(kIpv6Unicast);
    o.caps.refresh = chance();
    o.caps.enhanced_refresh = chance();
    o.caps.extended_message = chance();
    if (chance()) {
      GracefulRestartCapability gr;
      gr.restarting = chance();
      gr.notification = chance();
      gr.time_s = static_cast<std::uint16_t>(below(4096));
      for (auto f : o.caps.families) gr.families.push_back({f, chance()});
      o.caps.graceful_restart = gr;
    }
    if (chance()) {
      LongLivedCapability ll;
      for (auto f : o.caps.families) ll.families.push_back({f, chance(), below(1 << 24)});
      o.caps.long_lived = ll;
    }
    for (std::uint16_t afi = 1; afi < 1 + below(100); ++afi)
      if (auto mode = below(4)) o.caps.add_path.push_back({{afi, 1}, (mode & 1) != 0, (mode & 2) != 0});
    for (std::uint16_t afi = 1; afi < 1 + below(60); ++afi) o.caps.next_hops.push_back({{afi, 1}, 2});
    // Long ones need RFC 9072's parameter.
    for (std::uint32_t i = below(4); i > 0; --i)
      o.caps.unknown.push_back({static_cast<std::uint8_t>(128 + i), bytes(below(200))});
    return o;
  }
  Attrs attrs(bool v6) {
    Attrs a;
    a.origin = static_cast<std::uint8_t>(below(3));
    std::vector<Asn> path;
    for (std::uint32_t i = below(600); i > 0 && chance(); --i) path.push_back(Asn{1 + below(0xfffffffe)});
    a.as_path = AsPath::sequence(path);
    a.next_hop = v6 ? Ip::from_bytes(bytes(16)) : Ip::v4(1 + below(0xfffffffe));
    if (chance()) a.med = u32();
    a.local_pref = u32();
    a.atomic_aggregate = chance();
    if (chance()) a.aggregator = Aggregator{Asn{1 + below(0xfffffffe)}, u32()};
    if (chance()) a.communities = bytes(4 * (1 + below(100)));
    if (chance()) a.originator_id = u32();
    for (std::uint32_t i = below(5); i > 0; --i) a.cluster_list.push_back(u32());
    if (chance()) a.ext_communities = bytes(8 * (1 + below(10)));
    if (chance()) a.large_communities = bytes(12 * (1 + below(10)));
    for (std::uint8_t type : {21, 40, 99, 255})
      if (chance()) a.unknown.push_back({type, 0xe0, bytes(below(300))});
    return a;
  }

 private:
  std::mt19937_64 gen_;
};

std::vector<Prefix> prefixes_of(const std::vector<Nlri>& routes) {
  std::vector<Prefix> out;
  for (const auto& r : routes) {
    EXPECT_EQ(r.path_id, 0U);
    out.push_back(r.prefix);
  }
  return out;
}

/// Splits a stream of messages; each header must be right.
std::vector<Bytes> messages_of(View stream, std::size_t max_message = kMaxMessage) {
  std::vector<Bytes> out;
  while (!stream.empty()) {
    auto h = decode_header(stream.first(std::min<std::size_t>(stream.size(), kHeaderSize)), max_message);
    if (!h || h->length > stream.size()) {
      ADD_FAILURE() << "not a message";
      return out;
    }
    out.emplace_back(stream.begin(), stream.begin() + h->length);
    stream = stream.subspan(h->length);
  }
  return out;
}

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

// --- UPDATE ---------------------------------------------------------------------------------------------------------

/// Everything that two speakers may have negotiated, at random.
struct Negotiated {
  Family family;
  bool ipv6_next_hop;
  EncodeContext out;
  CodecContext in;
};
Negotiated negotiate(Random& random) {
  Negotiated n;
  n.family = random.chance() ? Family::v6 : Family::v4;
  n.out.family = n.family;
  n.out.add_path = n.in.add_path_rx[n.family == Family::v4 ? 0 : 1] = random.chance();
  n.out.extended_next_hop = n.in.extended_next_hop = random.chance();
  n.out.max_message = n.in.max_message = random.chance() ? kMaxMessage : kMaxExtendedMessage;
  n.ipv6_next_hop = n.family == Family::v6 || (n.out.extended_next_hop && random.chance());
  return n;
}

TEST(BgpUpdate, AnnouncementsRoundTrip) {
  Random random(3);
  std::size_t full = 0;
  for (int i = 0; i < 600; ++i) {
    const auto n = negotiate(random);
    const auto a = random.attrs(n.ipv6_next_hop);
    Writer block(65535);
    encode_attributes(block, a);
    std::vector<Nlri> routes;
    for (std::uint32_t k = 1 + random.below(6000); k > 0; --k) routes.push_back(random.route(n.family, n.out.add_path));
    Bytes stream = random.bytes(3);  // what was there before stays
    const auto before = stream;
    std::size_t count = 0;
    if (!encode_announce(stream, count, n.out, block.view(), a.next_hop, routes)) {
      EXPECT_GT(block.size(), 4000U);
      EXPECT_EQ(stream, before);
      continue;
    }
    ASSERT_TRUE(std::equal(before.begin(), before.end(), stream.begin()));
    const auto messages = messages_of(View(stream).subspan(3), n.out.max_message);
    EXPECT_EQ(messages.size(), count);
    std::vector<Nlri> got;
    Update u;
    for (const auto& m : messages) {
      if (&m != &messages.back()) {
        EXPECT_GT(m.size() + 21, n.out.max_message) << "not packed";
        ++full;
      }
      auto r = decode_update(body(m), n.in, u);
      ASSERT_TRUE(r) << r.error().what;
      EXPECT_FALSE(u.treat_as_withdraw) << u.reason;
      EXPECT_FALSE(u.end_of_rib);
      auto attrs = u.attrs;
      if (n.ipv6_next_hop) attrs.next_hop = u.mp_next_hop;
      EXPECT_EQ(attrs, a);
      const auto& list = n.ipv6_next_hop ? u.announced_mp : u.announced;
      got.insert(got.end(), list.begin(), list.end());
    }
    EXPECT_EQ(got, routes);
  }
  EXPECT_GT(full, 100U);
}

TEST(BgpUpdate, WithdrawalsRoundTripInFewMessages) {
  Random random(4);
  for (int i = 0; i < 40; ++i) {
    const auto n = negotiate(random);
    std::vector<Nlri> routes;
    for (int k = 0; k < 5000; ++k) routes.push_back(random.route(n.family, n.out.add_path));
    Bytes stream;
    std::size_t count = 0;
    encode_withdraw(stream, count, n.out, routes);
    const std::size_t each = (n.out.add_path ? 5U : 1U) + (n.family == Family::v4 ? 4U : 16U);
    EXPECT_LE(count, 5000 * each / (n.out.max_message - 30 - each) + 1);
    std::vector<Nlri> got;
    Update u;
    for (const auto& m : messages_of(stream, n.out.max_message)) {
      ASSERT_TRUE(decode_update(body(m), n.in, u));
      EXPECT_FALSE(u.end_of_rib);
      got.insert(got.end(), u.withdrawn.begin(), u.withdrawn.end());
    }
    EXPECT_EQ(got, routes);
  }
}

TEST(BgpUpdate, PrefixesAloneAreRoutesWithoutIdentifiers) {
  Random random(7);
  const auto a = random.attrs(true);
  Writer block(65535);
  encode_attributes(block, a);
  std::vector<Prefix> prefixes;
  std::vector<Nlri> routes;
  for (int i = 0; i < 3000; ++i) {
    prefixes.push_back(random.v6());
    routes.push_back({prefixes.back(), random.u32()});
  }
  for (const bool withdraw : {false, true}) {
    Bytes one, two;
    std::size_t n = 0, m = 0;
    const EncodeContext context{Family::v6, false, false, kMaxMessage};
    if (withdraw) {
      encode_withdraw(one, n, Family::v6, prefixes);
      encode_withdraw(two, m, context, routes);
    } else {
      ASSERT_TRUE(encode_announce(one, n, Family::v6, block.view(), a.next_hop, prefixes));
      ASSERT_TRUE(encode_announce(two, m, context, block.view(), a.next_hop, routes));
    }
    EXPECT_EQ(one, two);
    EXPECT_EQ(n, m);
  }
}

TEST(BgpUpdate, PathIdentifiersOnTheWire) {
  Attrs a;
  a.next_hop = ip("10.0.0.1");
  a.local_pref = 100;
  Writer block(4096);
  encode_attributes(block, a);
  const std::vector<Nlri> routes{{pfx("10.65.0.1/32"), 7}, {pfx("10.65.0.1/32"), 0x01020304}, {pfx("0.0.0.0/0"), 9}};
  Bytes m;
  std::size_t n = 0;
  ASSERT_TRUE(encode_announce(m, n, {Family::v4, true}, block.view(), a.next_hop, routes));
  const auto tail = hex("00000007 20 0a410001  01020304 20 0a410001  00000009 00");
  ASSERT_GT(m.size(), tail.size());
  EXPECT_TRUE(std::equal(tail.rbegin(), tail.rend(), m.rbegin()));
  Update u;
  CodecContext context;
  context.add_path_rx[0] = true;
  ASSERT_TRUE(decode_update(body(m), context, u));
  EXPECT_EQ(u.announced, routes);
  EXPECT_FALSE(decode_update(hex("0004 00000007 0000"), context, u)) << "an identifier without a prefix";
  EXPECT_FALSE(decode_update(hex("0003 000007 0000"), context, u)) << "half an identifier";
  EXPECT_FALSE(decode_update(hex("0006 00000007 21 0a 0000"), context, u)) << "prefix length 33";
}

TEST(BgpUpdate, ANextHopThePeerCannotBeToldIsNotSent) {
  const std::vector<Prefix> v4{pfx("10.65.0.1/32")}, v6{pfx("2001:db8::1/128")};
  Bytes out;
  std::size_t n = 0;
  EXPECT_FALSE(encode_announce(out, n, Family::v4, {}, ip("2001:db8::1"), v4)) << "RFC 8950 was not negotiated";
  EXPECT_FALSE(encode_announce(out, n, Family::v6, {}, ip("10.0.0.1"), v6));
  EXPECT_TRUE(out.empty());
  EXPECT_EQ(n, 0U);
  EXPECT_TRUE(encode_announce(out, n, {Family::v4, false, true}, {}, ip("2001:db8::1"), v4));
  EXPECT_EQ(n, 1U);
}

TEST(BgpUpdate, EndOfRib) {
  for (auto f : {kIpv4Unicast, kIpv6Unicast}) {
    Bytes m;
    encode_end_of_rib(m, f);
    EXPECT_EQ(messages_of(m).size(), 1U);
    Update u;
    ASSERT_TRUE(decode_update(body(m), {}, u));
    EXPECT_EQ(u.end_of_rib, f);
  }
  Bytes m;
  encode_end_of_rib(m, kIpv4Unicast);
  EXPECT_EQ(m.size(), 23U) << "RFC 4724 2: an UPDATE of minimum length";
}

TEST(BgpUpdate, TruncationNeverLooksWhole) {
  // Cutting the message must give a fault, or withdraw, never an announcement with other attributes.
  Random random(5);
  for (int i = 0; i < 40; ++i) {
    const auto a = random.attrs(false);
    Writer block(65535);
    encode_attributes(block, a);
    Bytes stream;
    std::size_t count = 0;
    const std::vector<Prefix> prefixes{pfx("10.65.0.1/32"), pfx("10.66.0.0/17")};
    if (!encode_announce(stream, count, Family::v4, block.view(), a.next_hop, prefixes)) continue;
    const auto whole = body(stream);
    Update u;
    for (std::size_t n = 0; n < whole.size(); ++n) {
      if (!decode_update(whole.first(n), {}, u)) continue;
      EXPECT_TRUE(u.treat_as_withdraw || u.attrs == a) << n;
      EXPECT_LT(u.announced.size(), 2U);
    }
  }
}

/// Valid messages of every type, and what reads them.
struct Sample {
  std::string name;
  Bytes message;
  CodecContext context;
};
std::vector<Sample> samples(Random& random) {
  std::vector<Sample> out;
  const auto put = [&](std::string name, Bytes m, CodecContext c = {}) {
    out.push_back({std::move(name), std::move(m), c});
  };
  for (int i = 0; i < 8; ++i) put("OPEN", encode_open(random.open()));
  put("KEEPALIVE", encode_keepalive());
  for (std::uint8_t subtype = 0; subtype < 3; ++subtype)
    put("ROUTE-REFRESH", encode_route_refresh({kIpv6Unicast, subtype}));
  put("NOTIFICATION", encode_notification({4, 0, {}}));
  put("NOTIFICATION", encode_notification(cease(notify::kShutdown, true, "back soon")));
  for (const auto family : {kIpv4Unicast, kIpv6Unicast}) {
    Bytes m;
    encode_end_of_rib(m, family);
    put("End-of-RIB", std::move(m));
  }
  for (int i = 0; i < 40; ++i) {
    const auto n = negotiate(random);
    std::vector<Nlri> routes;
    for (std::uint32_t k = 1 + random.below(12); k > 0; --k) routes.push_back(random.route(n.family, n.out.add_path));
    Bytes announced, withdrawn;
    std::size_t count = 0;
    const auto a = random.attrs(n.ipv6_next_hop);
    Bytes block;
    EXPECT_TRUE(encode_attributes(block, a));
    if (encode_announce(announced, count, n.out, block, a.next_hop, routes))
      put("UPDATE announcing", std::move(announced), n.in);
    encode_withdraw(withdrawn, count, n.out, routes);
    put("UPDATE withdrawing", std::move(withdrawn), n.in);
  }
  return out;
}

TEST(BgpMessages, EveryTruncationIsRefusedOrClean) {
  Random random(10);
  const auto is_head_of = [](const std::vector<Nlri>& part, const std::vector<Nlri>& whole) {
    return part.size() <= whole.size() && std::equal(part.begin(), part.end(), whole.begin());
  };
  std::map<std::string, std::size_t> refused, clean;
  Update whole, cut;
  for (const auto& [name, message, context] : samples(random)) {
    const auto header = decode_header(View(message).first(kHeaderSize), context.max_message);
    ASSERT_TRUE(header) << name;
    if (header->type == MessageType::update) {
      ASSERT_TRUE(decode_update(body(message), context, whole)) << name;
    }
    for (std::size_t n = 0; n < message.size(); ++n) {
      SCOPED_TRACE(name + " cut to " + std::to_string(n));
      // As it stands in a stream that breaks off: the framer still waits for the rest.
      const std::vector<std::byte> exact(message.begin(), message.begin() + static_cast<std::ptrdiff_t>(n));
      if (n < kHeaderSize) {
        EXPECT_FALSE(decode_header(exact, context.max_message));
        continue;
      }
      auto h = decode_header(View(exact).first(kHeaderSize), context.max_message);
      ASSERT_TRUE(h);
      EXPECT_GT(h->length, n);
      // With a length field that agrees.
      auto lying = exact;
      lying[16] = static_cast<std::byte>(n >> 8);
      lying[17] = static_cast<std::byte>(n);
      h = decode_header(View(lying).first(kHeaderSize), context.max_message);
      if (!h) {
        ++refused[name];
        continue;
      }
      bool ok = false;
      switch (h->type) {
        case MessageType::open:
          ok = decode_open(body(lying)).has_value();
          EXPECT_FALSE(ok);
          break;
        case MessageType::keepalive:
          FAIL();
        case MessageType::route_refresh:
          ok = decode_route_refresh(body(lying)).has_value();
          EXPECT_FALSE(ok);
          break;
        case MessageType::notification: {
          const auto got = decode_notification(body(lying)), want = decode_notification(body(message));
          ok = got.has_value();
          if (!ok) break;
          EXPECT_EQ(got->code, want->code);
          EXPECT_EQ(got->subcode, want->subcode);
          EXPECT_TRUE(std::equal(got->data.begin(), got->data.end(), want->data.begin()));
          EXPECT_FALSE(describe(*got).empty());
          break;
        }
        case MessageType::update:
          ok = decode_update(body(lying), context, cut).has_value();
          if (!ok) break;
          // What is left of it is a shorter message that says the same of fewer routes.
          EXPECT_FALSE(cut.end_of_rib) << "an end that nobody meant";
          EXPECT_TRUE(is_head_of(cut.announced, whole.announced));
          EXPECT_TRUE(is_head_of(cut.announced_mp, whole.announced_mp));
          EXPECT_TRUE(is_head_of(cut.withdrawn, whole.withdrawn));
          EXPECT_LT(cut.announced.size() + cut.withdrawn.size(), whole.announced.size() + whole.withdrawn.size() + 1);
          EXPECT_TRUE(cut.announced.empty() || cut.treat_as_withdraw || cut.attrs == whole.attrs);
          break;
      }
      ++(ok ? clean : refused)[name];
    }
  }
  for (const auto* name :
       {"OPEN", "ROUTE-REFRESH", "NOTIFICATION", "End-of-RIB", "UPDATE announcing", "UPDATE withdrawing"})
    EXPECT_GT(refused[name], 0U) << name;
  EXPECT_GT(clean["UPDATE announcing"], 50U) << "cut between two routes it is whole";
  EXPECT_EQ(clean.count("OPEN") + clean.count("ROUTE-REFRESH") + clean.count("UPDATE withdrawing"), 0U);
}

TEST(BgpUpdate, RandomDamageNeverCrashes) {
  Random random(6);
  Update u;
  std::size_t survived = 0;
  for (int i = 0; i < 4000; ++i) {
    const bool v6 = random.chance();
    const auto a = random.attrs(v6);
    Writer block(65535);
    encode_attributes(block, a);
    Bytes stream;
    std::size_t count = 0;
    std::vector<Prefix> prefixes;
    for (std::uint32_t n = 1 + random.below(5); n > 0; --n) prefixes.push_back(v6 ? random.v6() : random.v4());
    if (!encode_announce(stream, count, v6 ? Family::v6 : Family::v4, block.view(), a.next_hop, prefixes)) continue;
    Bytes b(body(stream).begin(), body(stream).end());
    for (std::uint32_t n = 1 + random.below(8); n > 0; --n) {
      const auto at = static_cast<std::ptrdiff_t>(random.below(static_cast<std::uint32_t>(b.size())));
      switch (random.below(3)) {
        case 0:
          b[static_cast<std::size_t>(at)] = static_cast<std::byte>(random.u32());
          break;
        case 1:
          b.erase(b.begin() + at);
          break;
        default:
          b.insert(b.begin() + at, static_cast<std::byte>(random.u32()));
      }
    }
    const CodecContext context{random.chance(), random.chance()};
    if (!decode_update(b, context, u)) continue;
    ++survived;
    // What is accepted is canonical after one encoding.
    Writer once(200000), twice(200000);
    encode_attributes(once, u.attrs);
    auto again = decode_attributes(once.view(), {true, true});
    ASSERT_TRUE(again);
    if (u.treat_as_withdraw) continue;
    EXPECT_FALSE(again->withdraw) << again->reason;
    encode_attributes(twice, again->attrs);
    EXPECT_EQ(Bytes(once.view().begin(), once.view().end()), Bytes(twice.view().begin(), twice.view().end()));
  }
  EXPECT_GT(survived, 100U) << "the damage is so heavy that nothing is tested";
}

// --- RFC 7606 -------------------------------------------------------------------------------------------------------

/// One announcement of 10.65.0.1/32 with the attributes of a well-formed route, one of them replaced or added.
class Verdict : public testing::Test {
 protected:
  struct Attr {
    std::uint8_t flags, type;
    Bytes value;
  };
  std::vector<Attr> good_{{0x40, 1, hex("00")},
                          {0x40, 2, hex("02 01 0000fde8")},
                          {0x40, 3, hex("0a000001")},
                          {0x80, 4, hex("00000005")},
                          {0x40, 5, hex("00000064")}};
  CodecContext context_;
  Update u_;

  static void put(Writer& w, const Attr& a) {
    w.be<std::uint8_t>(a.flags | (a.value.size() > 255 ? 0x10 : 0));
    w.be<std::uint8_t>(a.type);
    if (a.value.size() > 255)
      w.be<std::uint16_t>(a.value.size());
    else
      w.be<std::uint8_t>(a.value.size());
    w.put(a.value);
  }
  enum Outcome { replaced, withdrawn, reset };
  friend std::ostream& operator<<(std::ostream& o, Outcome v) {
    return o << (v == replaced ? "replaced" : v == withdrawn ? "withdrawn" : "reset");
  }
  Outcome decode(const std::vector<Attr>& attrs, Bytes tail = {}, Bytes nlri = hex("20 0a410001"),
                 Bytes withdrawn_routes = {}) {
    Writer w(65535);
    auto gone = w.open(2);
    w.put(withdrawn_routes);
    w.close(gone);
    auto block = w.open(2);
    for (const auto& a : attrs) put(w, a);
    w.put(tail);
    w.close(block);
    w.put(nlri);
    auto r = decode_update(w.view(), context_, u_);
    if (!r) {
      fault_ = r.error();
      return reset;
    }
    return u_.treat_as_withdraw ? withdrawn : replaced;
  }
  Outcome with(Attr a) {
    auto attrs = good_;
    bool found = false;
    for (auto& g : attrs)
      if (g.type == a.type) g = a, found = true;
    if (!found) attrs.push_back(a);
    return decode(attrs);
  }
  Outcome without(std::uint8_t type) {
    auto attrs = good_;
    std::erase_if(attrs, [&](const Attr& a) { return a.type == type; });
    return decode(attrs);
  }
  Fault fault_;
};

TEST_F(Verdict, TheControlIsWellFormed) {
  EXPECT_EQ(decode(good_), replaced);
  EXPECT_EQ(prefixes_of(u_.announced), std::vector{pfx("10.65.0.1/32")});
  EXPECT_EQ(u_.attrs.med, 5U);
  EXPECT_EQ(u_.attributes_discarded, 0U);
}

TEST_F(Verdict, TreatAsWithdraw) {
  EXPECT_EQ(with({0x40, 1, hex("05")}), withdrawn) << "ORIGIN value";
  EXPECT_EQ(u_.announced.size(), 1U) << "the routes to withdraw are known";
  EXPECT_EQ(with({0x40, 1, hex("0000")}), withdrawn) << "ORIGIN length";
  EXPECT_EQ(with({0xc0, 1, hex("00")}), withdrawn) << "ORIGIN flags";
  EXPECT_EQ(with({0x40, 2, hex("02 05 0000fde8")}), withdrawn) << "AS_PATH overrun";
  EXPECT_EQ(with({0x40, 2, hex("09 01 0000fde8")}), withdrawn) << "AS_PATH segment type";
  EXPECT_EQ(with({0x40, 2, hex("02 00")}), withdrawn) << "AS_PATH empty segment";
  EXPECT_EQ(with({0x40, 3, hex("0a0000")}), withdrawn) << "NEXT_HOP length";
  EXPECT_EQ(with({0x80, 4, hex("000005")}), withdrawn) << "MED length";
  EXPECT_EQ(with({0x40, 5, hex("000064")}), withdrawn) << "LOCAL_PREF length";
  EXPECT_EQ(with({0xc0, 8, hex("0001000203")}), withdrawn) << "COMMUNITIES length";
  EXPECT_EQ(with({0xc0, 8, {}}), withdrawn) << "COMMUNITIES empty";
  EXPECT_EQ(with({0x80, 9, hex("0a0000")}), withdrawn) << "ORIGINATOR_ID length";
  EXPECT_EQ(with({0x80, 10, hex("0a00000101")}), withdrawn) << "CLUSTER_LIST length";
  EXPECT_EQ(with({0xc0, 16, hex("00010203040506")}), withdrawn) << "extended communities";
  EXPECT_EQ(with({0xc0, 32, hex("0102030405060708090a0b")}), withdrawn) << "large communities";
  EXPECT_EQ(without(1), withdrawn) << "ORIGIN missing";
  EXPECT_EQ(without(2), withdrawn) << "AS_PATH missing";
  EXPECT_EQ(without(3), withdrawn) << "NEXT_HOP missing";
  EXPECT_EQ(without(5), withdrawn) << "LOCAL_PREF missing (iBGP)";
  EXPECT_EQ(with({0x40, 99, hex("00")}), withdrawn) << "unknown well-known";
  EXPECT_EQ(decode(good_, hex("c0 08 ff 00010002")), withdrawn) << "an attribute overruns the block";
  EXPECT_EQ(decode(good_, hex("c0")), withdrawn) << "half an attribute";
  context_.ibgp = false;
  EXPECT_EQ(without(5), replaced) << "LOCAL_PREF has no place in eBGP";
}

TEST_F(Verdict, AsSets) {
  const Attr set{0x40, 2, hex("02 01 0000fde8 01 02 00000001 00000002")};
  EXPECT_EQ(with(set), withdrawn) << "RFC 9774";
  EXPECT_NE(u_.reason.find("AS_SET"), std::string::npos) << u_.reason;
  context_.as_sets = true;
  EXPECT_EQ(with(set), replaced);
  EXPECT_EQ(u_.attrs.as_path.to_string(), "65000 { 1 2 }");
  context_ = {true, false};
  auto old = good_;
  old[1].value = hex("02 02 fde8 5ba0");
  old.push_back({0xc0, 17, hex("01 02 00011170 00011171")});
  EXPECT_EQ(decode(old), withdrawn) << "in AS4_PATH";
  context_.as_sets = true;
  EXPECT_EQ(decode(old), replaced);
  EXPECT_EQ(u_.attrs.as_path.to_string(), "65000 { 70000 70001 }");
}

TEST_F(Verdict, AttributeDiscard) {
  EXPECT_EQ(with({0x40, 6, hex("00")}), replaced) << "ATOMIC_AGGREGATE length";
  EXPECT_FALSE(u_.attrs.atomic_aggregate);
  EXPECT_EQ(u_.attributes_discarded, 1U);
  EXPECT_EQ(with({0xc0, 7, hex("0000fde80a")}), replaced) << "AGGREGATOR length";
  EXPECT_FALSE(u_.attrs.aggregator);
  auto twice = good_;
  twice.push_back({0x80, 4, hex("00000009")});
  EXPECT_EQ(decode(twice), replaced) << "MED twice: the first counts";
  EXPECT_EQ(u_.attrs.med, 5U);
  context_.ibgp = false;
  EXPECT_EQ(with({0x80, 9, hex("0a000001")}), replaced) << "ORIGINATOR_ID from outside";
  EXPECT_FALSE(u_.attrs.originator_id);
  EXPECT_FALSE(u_.attrs.local_pref) << "LOCAL_PREF from outside";
  EXPECT_EQ(with({0x80, 10, hex("0a0000")}), replaced) << "even malformed";
}

TEST_F(Verdict, UnknownAttributes) {
  EXPECT_EQ(with({0xc0, 99, hex("010203")}), replaced);
  ASSERT_EQ(u_.attrs.unknown.size(), 1U);
  EXPECT_EQ(u_.attrs.unknown[0], (UnknownAttr{99, 0xe0, hex("010203")})) << "kept, Partial set";
  EXPECT_EQ(with({0x80, 98, hex("010203")}), replaced);
  EXPECT_TRUE(u_.attrs.unknown.empty()) << "not transitive: dropped";
}

TEST_F(Verdict, SessionReset) {
  EXPECT_EQ(decode(good_, {}, hex("21 0a41000100")), reset) << "prefix length 33";
  EXPECT_EQ(fault_.code, 3);
  EXPECT_EQ(fault_.subcode, 10);
  EXPECT_EQ(decode(good_, {}, hex("20 0a4100")), reset) << "truncated NLRI";
  EXPECT_EQ(decode(good_, {}, hex("20 0a410001"), hex("20 0a")), reset) << "truncated withdrawal";
  EXPECT_FALSE(decode_update(hex("0005 00"), {}, u_)) << "withdrawn length overrun";
  EXPECT_FALSE(decode_update(hex("0000 0005 00"), {}, u_)) << "attribute length overrun";
  const Attr reach{0x80, 14, hex("0002 01 10 20010db8000000000000000000000001 00 40 20010db800000000")};
  auto twice = good_;
  twice.push_back(reach);
  EXPECT_EQ(decode(twice), replaced);
  EXPECT_EQ(prefixes_of(u_.announced_mp), std::vector{pfx("2001:db8::/64")});
  twice.push_back(reach);
  EXPECT_EQ(decode(twice), reset) << "MP_REACH twice";
  EXPECT_EQ(with({0x80, 14, hex("0002 01 10 2001")}), reset) << "MP_REACH cut in the next hop";
  EXPECT_EQ(with({0x80, 14, hex("0002 01 10 20010db8000000000000000000000001 00 81 20")}), reset)
      << "MP_REACH prefix of 129";
  EXPECT_EQ(with({0x80, 15, hex("0002")}), reset) << "MP_UNREACH cut";
  EXPECT_EQ(decode(good_, hex("80 0e ff 0002")), reset) << "MP_REACH overruns: its routes are unknown";
}

TEST_F(Verdict, MultiprotocolNextHops) {
  const auto nlri = "40 20010db800000000";
  EXPECT_EQ(with({0x80, 14,
                  hex(std::string("0002 01 20 20010db8000000000000000000000001 fe800000000000000000000000000001 00") +
                      nlri)}),
            replaced)
      << "global and link-local";
  EXPECT_EQ(u_.mp_next_hop, ip("2001:db8::1"));
  EXPECT_EQ(with({0x80, 14, hex(std::string("0002 01 04 0a000001 00") + nlri)}), withdrawn) << "IPv4 next hop for IPv6";
  EXPECT_EQ(with({0x80, 14, hex("0001 01 04 0a000009 00 20 0a410002")}), replaced) << "IPv4 in MP_REACH";
  EXPECT_EQ(u_.mp_next_hop, ip("10.0.0.9"));
  EXPECT_EQ(prefixes_of(u_.announced_mp), std::vector{pfx("10.65.0.2/32")});
  const auto over_v6 = "0001 01 10 20010db8000000000000000000000001 00 20 0a410002";
  EXPECT_EQ(with({0x80, 14, hex(over_v6)}), withdrawn) << "RFC 8950 was not negotiated";
  context_.extended_next_hop = true;
  EXPECT_EQ(with({0x80, 14, hex(over_v6)}), replaced);
  EXPECT_EQ(u_.mp_next_hop, ip("2001:db8::1"));
  EXPECT_EQ(prefixes_of(u_.announced_mp), std::vector{pfx("10.65.0.2/32")});
  EXPECT_EQ(with({0x80, 14,
                  hex("0001 01 20 20010db8000000000000000000000001 fe800000000000000000000000000001 00 20 0a410002")}),
            replaced)
      << "global and link-local";
  EXPECT_EQ(u_.mp_next_hop, ip("2001:db8::1"));
  EXPECT_EQ(with({0x80, 14, hex("0001 01 08 0a000009 0a000009 00 20 0a410002")}), withdrawn) << "a length of 8";
  EXPECT_EQ(decode({{0x80, 14, hex(over_v6)}, good_[0], good_[1], good_[4]}, {}, {}), replaced)
      << "NEXT_HOP is not needed then";
  EXPECT_EQ(with({0x80, 14, hex("0001 01 04 0a000009 00 20 0a410002")}), replaced) << "and an IPv4 one still does";
  EXPECT_EQ(with({0x80, 14, hex("0019 46 04 0a000009 00 1234")}), replaced) << "another family is left alone";
  EXPECT_EQ(u_.ignored_family, (AfiSafi{25, 70}));
  EXPECT_TRUE(u_.announced_mp.empty());
}

}  // namespace
}  // namespace calico::bgp
