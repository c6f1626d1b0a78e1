/// What an iBGP client can do to a reflector with malformed messages: 48 cases, each on a session of its own, watched
/// by another client. A bad attribute costs the route, a message that cannot be read costs the session of its sender,
/// nothing costs anybody else anything.
#include <random>
#include <set>
#include <thread>

#include "raw_peer.hpp"

namespace calico::bgp::test {
namespace {

enum class Outcome { replaced, withdrawn, unchanged, reset };
std::ostream& operator<<(std::ostream& o, Outcome v) {
  static constexpr const char* kNames[] = {"replaced", "withdrawn", "unchanged", "reset"};
  return o << kNames[static_cast<int>(v)];
}

struct Attr {
  std::uint8_t flags, type;
  std::string value;
};
using AttrList = std::vector<Attr>;

AttrList good(std::string med) {
  return {{0x40, 1, "00"},
          {0x40, 2, "02 01 0000fde8"},
          {0x40, 3, "0a000009"},
          {0x80, 4, std::move(med)},
          {0x40, 5, "00000064"}};
}
Bytes attr_bytes(const AttrList& list) {
  Bytes out;
  for (const auto& a : list) {
    const auto v = hex(a.value);
    out.push_back(static_cast<std::byte>(a.flags));
    out.push_back(static_cast<std::byte>(a.type));
    out.push_back(static_cast<std::byte>(v.size()));
    out.insert(out.end(), v.begin(), v.end());
  }
  return out;
}
Bytes update(const Bytes& attributes, std::string_view nlri, std::string_view withdrawn = "") {
  wire::Writer w(4096);
  auto m = w.open(2);
  w.put(hex(withdrawn));
  w.close(m);
  m = w.open(2);
  w.put(attributes);
  w.close(m);
  w.put(hex(nlri));
  return message(2, w.take());
}

constexpr auto kRoute = "20 0a630001";    // 10.99.0.1/32
constexpr auto kControl = "20 0a630002";  // 10.99.0.2/32

class MalformedTest : public SpeakersTest {
 protected:
  void SetUp() override {
    SpeakersTest::SetUp();
    Options o;
    o.graceful_restart = false;  // a reset must show at once
    auto& rr = speaker(1, o);
    auto client = rr.peer(2), observer = rr.peer(3);
    client.route_reflector_client = observer.route_reflector_client = true;
    client.passive = true;
    ASSERT_TRUE(rr.peers({client, observer}));
    auto& s3 = speaker(3, o);
    s3.local("10.65.0.3/32");
    ASSERT_TRUE(s3.peers({s3.peer(1)}));
    ASSERT_TRUE(wait_for("observer", [&] { return rr.established(3); }));
  }
  void TearDown() override {
    // Whatever was sent, the observer never noticed a session going down.
    EXPECT_EQ(rr().status(3)->counters.flaps, 0U);
    SpeakersTest::TearDown();
  }
  Speaker& rr() { return *speakers_[0]; }
  Speaker& observer() { return *speakers_[1]; }
  std::optional<std::string> seen(std::string_view prefix) {
    RouteQuery q;
    q.exact = pfx(prefix);
    q.with_attributes = true;
    auto routes = observer().in_loop([&](Engine& e) { return e.routes(q); });
    if (routes.empty()) return std::nullopt;
    for (auto& [k, v] : routes[0].attributes)
      if (k == "BGP.med") return v;
    return "none";
  }
  /// Announces the route with MED 1, sends `bad` (which says MED 2 for it), then a control route: what became of it?
  Outcome send(const Bytes& bad) {
    reset_ = {};
    RawPeer p(2, 1);
    EXPECT_TRUE(p.connected() && p.handshake());
    p.send(update(attr_bytes(good("00000001")), kRoute));
    EXPECT_TRUE(wait_for("first announcement", [&] { return seen("10.99.0.1/32") == "1"; }));
    p.send(bad);
    p.send(update(attr_bytes(good("00000001")), kControl));
    EXPECT_TRUE(wait_for("the control route or the end of the session",
                         [&] { return seen("10.99.0.2/32").has_value() || !rr().established(2); }));
    if (!rr().established(2)) {
      EXPECT_TRUE(p.wait_closed());
      if (p.notification) reset_ = {p.notification->code, p.notification->subcode};
      EXPECT_TRUE(wait_for("its routes gone", [&] { return !seen("10.99.0.1/32") && !seen("10.99.0.2/32"); }));
      return Outcome::reset;
    }
    const auto med = seen("10.99.0.1/32");
    p.close();
    EXPECT_TRUE(wait_for("session ended", [&] { return !rr().established(2) && !seen("10.99.0.1/32"); }));
    if (!med) return Outcome::withdrawn;
    return med == "1" ? Outcome::unchanged : Outcome::replaced;
  }
  Outcome with(Attr a) {
    auto list = good("00000002");
    bool found = false;
    for (auto& g : list)
      if (g.type == a.type) g = a, found = true;
    if (!found) list.push_back(a);
    return send(update(attr_bytes(list), kRoute));
  }
  Outcome without(std::uint8_t type) {
    auto list = good("00000002");
    std::erase_if(list, [&](const Attr& a) { return a.type == type; });
    return send(update(attr_bytes(list), kRoute));
  }
  Outcome with_tail(std::string_view tail) {
    auto b = attr_bytes(good("00000002"));
    const auto t = hex(tail);
    b.insert(b.end(), t.begin(), t.end());
    return send(update(b, kRoute));
  }
  using Code = std::pair<int, int>;
  Code reset_{};
};

/// The matrix under which six other daemons were measured, by the same names.
TEST_F(MalformedTest, Matrix) {
  const auto withdrawn = Outcome::withdrawn, replaced = Outcome::replaced, reset = Outcome::reset;
  std::set<std::string_view> names;
  // Whatever one client sends, another's session does not notice; TearDown would not say after which case.
  const auto untouched = [&](std::string_view name) {
    EXPECT_TRUE(names.insert(name).second) << name << " twice";
    const auto other = rr().status(3);
    EXPECT_EQ(other->state, PeerState::established) << name;
    EXPECT_EQ(other->counters.flaps, 0U) << name;
  };
  const auto expect = [&](std::string_view name, Outcome got, Outcome want, Code code = {}) {
    EXPECT_EQ(got, want) << name;
    EXPECT_EQ(reset_, code) << name;
    untouched(name);
  };

  expect("origin value 5", with({0x40, 1, "05"}), withdrawn);
  expect("origin length 2", with({0x40, 1, "0000"}), withdrawn);
  expect("origin flags optional", with({0x80, 1, "00"}), withdrawn);
  expect("as_path segment overrun", with({0x40, 2, "02 05 0000fde8"}), withdrawn);
  expect("as_path segment type 9", with({0x40, 2, "09 01 0000fde8"}), withdrawn);
  expect("as_path empty segment", with({0x40, 2, "02 00"}), withdrawn);
  expect("next_hop length 3", with({0x40, 3, "0a0000"}), withdrawn);
  expect("next_hop 0.0.0.0", with({0x40, 3, "00000000"}), withdrawn);
  expect("next_hop 224.0.0.1", with({0x40, 3, "e0000001"}), withdrawn);
  expect("med length 3", with({0x80, 4, "000002"}), withdrawn);
  expect("local_pref length 3", with({0x40, 5, "000064"}), withdrawn);
  expect("atomic_aggregate length 1", with({0x40, 6, "00"}), replaced);
  expect("aggregator length 5", with({0xc0, 7, "0000fde80a"}), replaced);
  expect("community length 5", with({0xc0, 8, "0001000203"}), withdrawn);
  expect("originator_id length 3", with({0x80, 9, "0a0000"}), withdrawn);
  expect("cluster_list length 5", with({0x80, 10, "0a00000909"}), withdrawn);
  expect("ext community length 7", with({0xc0, 16, "00020304050607"}), withdrawn);
  expect("large community length 11", with({0xc0, 32, "0102030405060708090a0b"}), withdrawn);
  expect("missing origin", without(1), withdrawn);
  expect("missing as_path", without(2), withdrawn);
  expect("missing next_hop", without(3), withdrawn);
  expect("missing local_pref (iBGP)", without(5), withdrawn);
  expect("duplicate med", with_tail("80 04 04 00000007"), replaced);
  const std::string reach = "80 0e 1a 0002 01 10 20010db8000000000000000000000001 00 20 20010db8 ";
  EXPECT_EQ(with_tail(reach), replaced) << "MP_REACH once, the control";
  expect("duplicate MP_REACH", with_tail(reach + reach), reset, {3, 1});
  expect("attribute overruns attr block", with_tail("c0 08 ff 00010002"), withdrawn);
  expect("unknown well-known attribute 99", with({0x40, 99, "00"}), withdrawn);
  expect("unknown optional transitive 99", with({0xc0, 99, "0102"}), replaced);
  expect("unknown optional non-transitive 98", with({0x80, 98, "0102"}), replaced);

  const auto attributes = attr_bytes(good("00000002"));
  expect("nlri prefix length 33", send(update(attributes, "21 0a63000100")), reset, {3, 10});
  expect("nlri truncated", send(update(attributes, "20 0a6300")), reset, {3, 10});
  expect("withdrawn length overrun", send(message(2, hex("00ff 0000"))), reset, {3, 1});
  expect("attr length overrun", send(message(2, hex("0000 00ff 40"))), reset, {3, 1});

  expect("as loop (own AS in path)", with({0x40, 2, "02 02 0000fde8 0000fc00"}), withdrawn);
  expect("own router id as originator", with({0x80, 9, "0a000001"}), withdrawn);
  expect("own cluster id in cluster_list", with({0x80, 10, "0a000001"}), withdrawn);

  auto bad = update(attributes, kRoute);
  bad[3] = std::byte{0};
  const std::string marker = "ffffffffffffffffffffffffffffffff";
  expect("header bad marker", send(bad), reset, {1, 1});
  expect("header length 18", send(hex(marker + "0012 04")), reset, {1, 2});
  expect("header length 5000", send(hex(marker + "1388 02")), reset, {1, 2});
  expect("message type 9", send(hex(marker + "0013 09")), reset, {1, 3});
  expect("keepalive length 20", send(hex(marker + "0014 04 00")), reset, {1, 2});
  expect("well-formed control", send(update(attributes, kRoute)), replaced);

  const auto open = [&](std::string_view name, std::string_view open_body, Code want) {
    RawPeer p(2, 1);
    EXPECT_TRUE(p.connected());
    p.send(message(1, hex(open_body)));
    EXPECT_TRUE(p.wait_closed()) << name;
    EXPECT_EQ(p.notification ? Code(p.notification->code, p.notification->subcode) : Code(), want) << name;
    untouched(name);
  };
  open("open version 3", "03 fc00 005a 0a000002 00", {2, 1});
  open("open wrong AS", "04 fde8 005a 0a000002 00", {2, 2});
  open("open hold time 1", "04 fc00 0001 0a000002 00", {2, 6});
  open("open router id 0", "04 fc00 005a 00000000 00", {2, 3});
  open("open router id = ours", "04 fc00 005a 0a000001 00", {2, 3});
  open("open param overrun", "04 fc00 005a 0a000002 02 02 06", {2, 0});
  open("open capability overrun", "04 fc00 005a 0a000002 05 02 03 41 04 00", {2, 0});
  EXPECT_EQ(names.size(), 48U);

  RawPeer p(2, 1);
  EXPECT_TRUE(p.handshake()) << "alive at the end";
}

TEST_F(MalformedTest, GarbageAndHalfMessages) {
  std::mt19937 random(3);
  for (int i = 0; i < 50; ++i) {
    RawPeer p(2, 1);
    if (i % 2 == 0) {
      ASSERT_TRUE(p.handshake());
    }
    Bytes junk(1 + random() % 5000);
    for (auto& b : junk) b = static_cast<std::byte>(random());
    p.send(junk);
    EXPECT_TRUE(p.wait_closed()) << i;
  }
  // Half a message and silence: the connection waits, others are served.
  RawPeer half(2, 1);
  ASSERT_TRUE(half.handshake());
  auto m = update(attr_bytes(good("00000001")), kRoute);
  const Bytes rest(m.begin() + 30, m.end());
  m.resize(30);
  half.send(m);
  observer().local("10.65.0.33/32");
  EXPECT_TRUE(half.wait(MessageType::update));
  half.send(rest);
  EXPECT_TRUE(wait_for("the other half", [&] { return seen("10.99.0.1/32").has_value(); }));
}

TEST_F(MalformedTest, BytesOneByOne) {
  RawPeer p(2, 1);
  const int one = 1;
  ::setsockopt(p.fd(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  auto stream = encode_open(p.open_message());
  for (const auto& m : {encode_keepalive(), update(attr_bytes(good("00000001")), kRoute)})
    stream.insert(stream.end(), m.begin(), m.end());
  for (auto b : stream) ASSERT_TRUE(p.send({b}));
  EXPECT_TRUE(wait_for("route", [&] { return seen("10.99.0.1/32") == "1"; }));
}

TEST_F(MalformedTest, ExtendedMessages) {
  auto list = std::vector{rr().peer(2), rr().peer(3), rr().peer(5), rr().peer(6)};
  for (auto& c : list) c.route_reflector_client = true;
  list[0].passive = list[2].passive = list[3].passive = true;
  ASSERT_TRUE(rr().peers(list));
  RawPeer talker(2, 1), listener(5, 1), narrow(6, 1);
  for (auto* p : {&talker, &listener}) {
    auto o = p->open_message();
    o.caps.extended_message = true;
    ASSERT_TRUE(p->handshake(o));
  }
  ASSERT_TRUE(narrow.handshake());
  ASSERT_TRUE(wait_for("sessions", [&] { return rr().established(2) && rr().established(5) && rr().established(6); }));
  EXPECT_TRUE(rr().status(2)->neighbor.extended_message);

  const EncodeContext wide{Family::v4, false, false, kMaxExtendedMessage};
  Attrs a;
  a.next_hop = own_address(2);
  a.local_pref = 100;
  const auto say = [&](std::span<const Prefix> prefixes, std::size_t messages) {
    wire::Writer block(65535);
    encode_attributes(block, a);
    Bytes out;
    std::size_t n = 0;
    ASSERT_TRUE(encode_announce(out, n, wide, block.view(), a.next_hop, prefixes));
    EXPECT_EQ(n, messages);
    // In pieces that end nowhere in particular: a long message is put together from many bites.
    for (std::size_t at = 0; at < out.size(); at += 7001)
      ASSERT_TRUE(talker.send({out.begin() + static_cast<std::ptrdiff_t>(at),
                               out.begin() + static_cast<std::ptrdiff_t>(std::min(out.size(), at + 7001))}));
  };
  std::vector<Prefix> many;
  for (std::uint32_t i = 0; i < 30000; ++i) many.push_back(Prefix::host(Ip::v4(0x0b000000 + i)));
  say(many, 3);
  EXPECT_TRUE(wait_for("all routes at a speaker", [&] { return observer().route_count() == many.size(); }));
  // Attributes that only long messages hold reach only those who take long messages.
  a.communities.resize(40000);
  say(std::vector{pfx("10.99.0.1/32")}, 1);

  EXPECT_TRUE(wait_for("the long one at a speaker", [&] { return seen("10.99.0.1/32").has_value(); }));
  a.communities.clear();
  say(std::vector{pfx("10.99.0.2/32")}, 1);

  for (auto* p : {&listener, &narrow}) {
    std::set<Prefix> got;
    std::size_t longest = 0;
    Update u;
    while (!got.contains(pfx("10.99.0.2/32")) || got.size() < many.size() + (p == &listener ? 2 : 1)) {
      auto m = p->wait(MessageType::update);
      ASSERT_TRUE(m) << got.size();
      longest = std::max(longest, m->size() + kHeaderSize);
      ASSERT_TRUE(decode_update(*m, {}, u));
      for (const auto& route : u.announced) got.insert(route.prefix);
      if (!u.announced.empty() && u.announced[0].prefix == pfx("10.99.0.1/32")) {
        EXPECT_EQ(u.attrs.communities.size(), 40000U);
      }
    }
    EXPECT_EQ(got.contains(pfx("10.99.0.1/32")), p == &listener);
    EXPECT_EQ(longest > kMaxMessage, p == &listener);
  }
  // Too long is too long. An OPEN of that size never was allowed.
  talker.send(hex("ffffffffffffffffffffffffffffffff 1001 01"));
  EXPECT_TRUE(talker.wait_closed());
  ASSERT_TRUE(talker.notification);
  EXPECT_EQ(talker.notification->code, 1);
  EXPECT_EQ(talker.notification->subcode, 2);
}

TEST_F(MalformedTest, HoldTimerOfASilentPeer) {
  RawPeer p(2, 1);
  auto o = p.open_message();
  o.hold_time_s = 3;
  ASSERT_TRUE(p.handshake(o));
  ASSERT_TRUE(p.wait_closed(8s));
  ASSERT_TRUE(p.notification);
  EXPECT_EQ(p.notification->code, 4);
}

TEST_F(MalformedTest, APeerThatDoesNotReadDelaysNobody) {
  auto& s4 = speaker(4);
  auto list = std::vector{rr().peer(2), rr().peer(3), rr().peer(4), rr().peer(5)};
  for (auto& c : list) c.route_reflector_client = true;
  list[0].passive = list[3].passive = true;
  ASSERT_TRUE(rr().peers(list));
  ASSERT_TRUE(s4.peers({s4.peer(1)}));
  RawPeer deaf(2, 1), talker(5, 1);
  ASSERT_TRUE(deaf.handshake() && talker.handshake());
  // 18 MB: much more than the socket buffers and the journal (UpdateGroup::Limits) take.
  constexpr std::uint32_t kRoutes = 6000;
  std::thread talk([&] {
    Attrs a;
    a.next_hop = own_address(5);
    a.local_pref = 100;
    a.communities.resize(3000);
    for (std::uint32_t i = 0; i < kRoutes; ++i) {
      a.med = i;
      wire::Writer block(4096);
      encode_attributes(block, a);
      Bytes m;
      std::size_t n = 0;
      const std::vector prefix{Prefix::host(Ip::v4(0x0b000000 + i))};
      EXPECT_TRUE(encode_announce(m, n, Family::v4, block.view(), a.next_hop, prefix));
      EXPECT_TRUE(talker.send(m));
    }
  });
  EXPECT_TRUE(wait_for("the whole table at another client", [&] { return s4.route_count() == kRoutes + 1; }));
  talk.join();
  EXPECT_TRUE(rr().established(2));
  EXPECT_GT(rr().status(2)->backlog_bytes + rr().status(2)->backlog_routes, 0U)
      << "the deaf one is not behind, this shows nothing";
  // What goes while it does not read is not sent to it later.
  talker.close();
  EXPECT_TRUE(wait_for("all withdrawn", [&] { return s4.route_count() == 1; }));
  observer().local("10.65.0.33/32");
  std::set<Prefix> got;
  Update u;
  std::size_t messages = 0;
  while (!got.contains(pfx("10.65.0.33/32"))) {
    auto m = deaf.wait(MessageType::update);
    ASSERT_TRUE(m) << "after " << messages;
    ++messages;
    ASSERT_TRUE(decode_update(*m, {}, u));
    for (const auto& route : u.announced) got.insert(route.prefix);
    for (const auto& w : u.withdrawn) got.erase(w.prefix);
  }
  EXPECT_LT(messages, kRoutes);
  while (got.size() > 2) {
    auto m = deaf.wait(MessageType::update);
    ASSERT_TRUE(m) << got.size() << " routes left";
    ASSERT_TRUE(decode_update(*m, {}, u));
    for (const auto& w : u.withdrawn) got.erase(w.prefix);
  }
}

}  // namespace
}  // namespace calico::bgp::test
