#include <gtest/gtest.h>

#include "core/nft/batch.hpp"
#include "core/nft/udata.hpp"

namespace calico::nft {
namespace {

Ip ip(const char* s) { return *Ip::parse(s); }

TEST(Value, KeysOfSeveralFieldsArePadded) {
  EXPECT_EQ(Key().port(80).value().size(), 2U);
  EXPECT_EQ(Key().proto(6).value().size(), 1U);
  const Value v = Key().ip(ip("10.0.0.1")).proto(6).port(0x0050);
  ASSERT_EQ(v.size(), 12U);
  const unsigned want[] = {10, 0, 0, 1, 6, 0, 0, 0, 0, 0x50, 0, 0};
  for (std::size_t i = 0; i < 12; ++i) EXPECT_EQ(std::to_integer<unsigned>(v.bytes()[i]), want[i]) << i;
  EXPECT_EQ(Key().ifname("tap1").ether(Mac{}).ip(ip("fd00::1")).value().size(), 16U + 8U + 16U);
}

TEST(Value, OverflowIsKept) {
  Value v;
  for (int i = 0; i < 4; ++i) v.append(Value::ip(ip("fd00::1")).bytes());
  EXPECT_EQ(v.size(), Value::kMax);
  EXPECT_FALSE(v.overflow());
  v.append(Value::u8(1).bytes());
  EXPECT_TRUE(v.overflow());
}

TEST(Value, OrderIsThatOfBigEndianNumbers) {
  EXPECT_LT(Value::ip(ip("10.0.0.255")), Value::ip(ip("10.0.1.0")));
  EXPECT_EQ(Value::be16(80), Value::be16(80));
  EXPECT_NE(std::hash<Value>{}(Value::be16(80)), std::hash<Value>{}(Value::be16(81)));
}

TEST(Value, InterfaceNames) {
  EXPECT_EQ(Value::ifname("tap1").size(), 16U);
  EXPECT_TRUE(Value::ifname("").empty());
  EXPECT_TRUE(Value::ifname("0123456789abcdef").empty());
}

TEST(Element, IntervalOfOneValueIsASingle) {
  EXPECT_TRUE(interval(*Prefix::parse("10.0.0.1/32")).end.empty());
  const auto e = interval(*Prefix::parse("10.0.0.0/8"));
  EXPECT_EQ(e.end, Value::ip(ip("10.255.255.255")));
}

TEST(Rule, IdentityFollowsWhatTheRuleDoes) {
  const auto id = Rule().tcp_dport(22).accept().comment("ssh").identity();
  EXPECT_EQ(id, Rule().tcp_dport(22).accept().comment("ssh").identity());
  EXPECT_TRUE(id.starts_with("ssh #"));
  EXPECT_NE(id, Rule().tcp_dport(23).accept().comment("ssh").identity());
  EXPECT_NE(id, Rule().tcp_dport(22).drop().comment("ssh").identity());
  EXPECT_NE(Rule().drop().identity(), Rule(TableFamily::arp).drop().identity());
}

TEST(Rule, CommentsCannotBreakTheListing) {
  const auto id = Rule().comment("a\"b\\c\nd#e\xc3").identity();
  EXPECT_TRUE(id.starts_with("a_b_c_d_e_ #")) << id;
  EXPECT_LE(Rule().comment(std::string(500, 'x')).identity().size(), udata::kTextMax);
}

TEST(Rule, WhatCannotBeSaidIsAFault) {
  EXPECT_TRUE(Rule().tcp_dport(22).drop().fault().empty());
  EXPECT_FALSE(Rule().iifname("0123456789abcdef").fault().empty());
  EXPECT_FALSE(Rule().iifname("*").fault().empty());
  EXPECT_FALSE(Rule().match(Field::tcp_dport, Value::u8(1)).fault().empty());
  EXPECT_FALSE(Rule().saddr(*Prefix::parse("10.0.0.0/8")).daddr(*Prefix::parse("fd00::/8")).fault().empty());
  EXPECT_FALSE(Rule().tcp_dport(1).udp_dport(1).fault().empty());
  EXPECT_FALSE(Rule().arp_operation(1).fault().empty());
  EXPECT_FALSE(Rule(TableFamily::arp).saddr(*Prefix::parse("10.0.0.0/8")).fault().empty());
  EXPECT_FALSE(Rule(TableFamily::ip).saddr(*Prefix::parse("fd00::/8")).fault().empty());
  EXPECT_FALSE(Rule().tcp_dport(90, 80).fault().empty());
  EXPECT_FALSE(Rule().range(Field::iifgroup, Value::host32(1), Value::host32(2)).fault().empty());
  EXPECT_FALSE(Rule().daddr(*Prefix::parse("0.0.0.0/0"), true).fault().empty());
  EXPECT_FALSE(Rule().dnat_map(Field::ip6_daddr, "m", Family::v4).dnat(ip("fd00::1")).fault().empty());
}

TEST(Udata, DamagedUserDataIsNoText) {
  const auto good = udata::text(0, "hello");
  EXPECT_EQ(udata::find_text(good, 0), "hello");
  EXPECT_EQ(udata::find_text(good, 1), "");
  for (std::size_t n = 0; n < good.size(); ++n) EXPECT_EQ(udata::find_text(netlink::View(good).first(n), 0), "");
  const std::byte lying[] = {std::byte{0}, std::byte{200}, std::byte{'x'}};
  EXPECT_EQ(udata::find_text(lying, 0), "");
}

}  // namespace
}  // namespace calico::nft
