/// UPDATE: round trips of random routes under everything that can be negotiated, every truncation of every message
/// refused or clean, random damage never crashes, and RFC 7606's verdict for each attribute.
#include <map>

#include "codec_support.hpp"

namespace calico::bgp {
namespace {

using namespace codec_test;
using wire::Writer;

// --- UPDATE ---------------------------------------------------------------------------------------------------------

/// Everything that two speakers may have negotiated, at random.
struct Terms {
  Family family;
  bool ipv6_next_hop;
  EncodeContext out;
  CodecContext in;
};
Terms terms(Random& random) {
  Terms n;
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
    const auto n = terms(random);
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
    const auto n = terms(random);
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
    const auto n = terms(random);
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
