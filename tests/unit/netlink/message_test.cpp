#include "core/netlink/message.hpp"

#include <gtest/gtest.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <random>

#include "core/netlink/rtnl.hpp"

namespace calico::netlink {
namespace {

/// A route message as the kernel sends it.
MessageBuilder route_message() {
  MessageBuilder b;
  b.begin(RTM_NEWROUTE, 0, 9);
  rtmsg h{};
  h.rtm_family = AF_INET;
  h.rtm_dst_len = 32;
  h.rtm_table = RT_TABLE_MAIN;
  h.rtm_protocol = 88;
  h.rtm_scope = RT_SCOPE_LINK;
  h.rtm_type = RTN_UNICAST;
  b.body(h);
  b.attr(RTA_DST, Ip::v4(0x0a410002).bytes());
  b.u32(RTA_OIF, 7);
  b.u32(RTA_PRIORITY, 100);
  {
    auto m = b.nest(RTA_METRICS);
    b.u32(RTAX_MTU, 1400);
  }
  b.end();
  return b;
}

TEST(Message, RoundTripOfARoute) {
  const auto b = route_message();
  int seen = 0;
  for_each_message(b.view(), [&](const Message& m) {
    ++seen;
    EXPECT_EQ(m.seq, 9U);
    auto r = decode_route(m);
    ASSERT_TRUE(r);
    EXPECT_EQ(to_string(*r), "10.65.0.2/32 dev 7 proto 88 scope link metric 100");
    EXPECT_EQ(Attrs(m.attrs(sizeof(rtmsg)).find(RTA_METRICS).data).find(RTAX_MTU).u32(), 1400U);
  });
  EXPECT_EQ(seen, 1);
}

TEST(Message, AnAttributeAboveSixteenBitsIsRefused) {
  MessageBuilder b;
  b.begin(1, 0, 0);
  const Bytes big(70000);
  b.attr(1, big);
  b.end();
  EXPECT_FALSE(b.ok());
  MessageBuilder nested;
  nested.begin(1, 0, 0);
  {
    auto n = nested.nest(2);
    const Bytes half(40000);
    nested.attr(1, half);
    nested.attr(1, half);
  }
  EXPECT_FALSE(nested.ok());
}

TEST(Message, AttributesThatDoNotFitEndTheWalk) {
  const std::byte raw[] = {std::byte{8}, std::byte{0}, std::byte{1},   std::byte{0}, std::byte{1}, std::byte{2},
                           std::byte{3}, std::byte{4}, std::byte{200}, std::byte{0}, std::byte{2}, std::byte{0}};
  int n = 0;
  for (const Attr& a : Attrs(raw)) {
    EXPECT_EQ(a.type, 1);
    ++n;
  }
  EXPECT_EQ(n, 1);
  EXPECT_FALSE(Attrs(raw).has(2));
}

TEST(Message, ShortAttributesReadAsZero) {
  const std::byte two[] = {std::byte{1}, std::byte{2}};
  const Attr a{1, two};
  EXPECT_EQ(a.u32(), 0U);
  EXPECT_EQ(a.u64(), 0U);
  EXPECT_NE(a.u16(), 0U);
}

/// Truncated, lengthened and changed messages never crash a decoder and never give a prefix that is too long.
TEST(Message, DamagedMessagesAreSurvived) {
  const auto good = route_message();
  std::mt19937 rng(3);
  for (int round = 0; round < 20000; ++round) {
    Bytes b(good.view().begin(), good.view().end());
    for (unsigned i = 0; i < 1 + rng() % 4; ++i) b[rng() % b.size()] = static_cast<std::byte>(rng());
    if (rng() % 3 == 0) b.resize(rng() % b.size());
    for_each_message(b, [&](const Message& m) {
      if (auto r = decode_route(m)) {
        EXPECT_LE(r->dst.len, r->dst.addr.bits());
      }
      (void)decode_link(m), (void)decode_address(m), (void)decode_neighbour(m), (void)decode_rule(m),
          (void)parse_ack(m);
    });
  }
}

}  // namespace
}  // namespace calico::netlink
