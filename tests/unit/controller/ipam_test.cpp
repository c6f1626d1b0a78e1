#include "modules/controller/ipam.hpp"

#include <gtest/gtest.h>

namespace calico::controller {
namespace {

Ip ip(const char* text) { return *Ip::parse(text); }
Prefix net(const char* text) { return *Prefix::parse(text); }

std::string pools(const char* cidr, const char* gateway) {
  std::optional<Ip> g;
  if (gateway) g = ip(gateway);
  std::string out;
  for (const auto& p : default_pools(net(cidr), g))
    out += (out.empty() ? "" : " ") + p.first.to_string() + "-" + p.last.to_string();
  return out;
}

TEST(Ipam, DefaultPoolsAreNeutrons) {
  EXPECT_EQ(pools("10.65.0.0/24", "10.65.0.1"), "10.65.0.2-10.65.0.254");
  EXPECT_EQ(pools("10.65.0.0/24", "10.65.0.254"), "10.65.0.1-10.65.0.253");
  EXPECT_EQ(pools("10.65.0.0/24", "10.65.0.100"), "10.65.0.1-10.65.0.99 10.65.0.101-10.65.0.254");
  EXPECT_EQ(pools("10.65.0.0/24", nullptr), "10.65.0.1-10.65.0.254");
  EXPECT_EQ(pools("10.65.0.0/30", "10.65.0.1"), "10.65.0.2-10.65.0.2");
  EXPECT_EQ(pools("10.65.0.0/31", nullptr), "");
  EXPECT_EQ(pools("10.65.0.7/32", nullptr), "10.65.0.7-10.65.0.7");
  EXPECT_EQ(pools("fd65::/64", "fd65::1"), "fd65::2-fd65::ffff:ffff:ffff:ffff");
  EXPECT_EQ(pools("fd65::/64", "fd65::"), "fd65::1-fd65::ffff:ffff:ffff:ffff");
  EXPECT_EQ(default_gateway(net("10.65.0.0/24")), ip("10.65.0.1"));
  EXPECT_EQ(default_gateway(net("fd65::/64")), ip("fd65::"));
}

TEST(Ipam, StepsCarry) {
  EXPECT_EQ(next_ip(ip("10.0.0.255")), ip("10.0.1.0"));
  EXPECT_EQ(previous_ip(ip("10.0.1.0")), ip("10.0.0.255"));
  EXPECT_EQ(next_ip(ip("fd00::ffff")), ip("fd00::1:0"));
  EXPECT_EQ(previous_ip(ip("fd00::")), ip("fcff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
}

TEST(Ipam, Eui64) {
  EXPECT_EQ(eui64(net("2001:db8:65::/64"), *Mac::parse("fa:16:3e:4d:5b:60")), ip("2001:db8:65:0:f816:3eff:fe4d:5b60"));
}

TEST(Ipam, HostsOfASubnet) {
  EXPECT_TRUE(valid_host(net("10.0.0.0/24"), ip("10.0.0.1")));
  EXPECT_FALSE(valid_host(net("10.0.0.0/24"), ip("10.0.0.0")));
  EXPECT_FALSE(valid_host(net("10.0.0.0/24"), ip("10.0.0.255")));
  EXPECT_FALSE(valid_host(net("10.0.0.0/24"), ip("10.0.1.1")));
  EXPECT_FALSE(valid_host(net("10.0.0.0/24"), ip("fd00::1")));
  EXPECT_TRUE(valid_host(net("10.0.0.0/31"), ip("10.0.0.0")));
  EXPECT_TRUE(valid_host(net("fd00::/64"), ip("fd00::ffff:ffff:ffff:ffff")));
  EXPECT_FALSE(valid_host(net("fd00::/64"), ip("fd00::")));
}

TEST(Ipam, PoolsAreChecked) {
  auto check = [](const char* first, const char* last) {
    auto r = check_pools(net("10.0.0.0/24"), ip("10.0.0.1"), {{ip(first), ip(last)}});
    return r ? std::string("fine") : r.error().type;
  };
  EXPECT_EQ(check("10.0.0.10", "10.0.0.20"), "fine");
  EXPECT_EQ(check("10.0.0.20", "10.0.0.10"), "InvalidAllocationPool");
  EXPECT_EQ(check("10.0.0.10", "10.0.1.20"), "OutOfBoundsAllocationPool");
  EXPECT_EQ(check("10.0.0.10", "10.0.0.255"), "OutOfBoundsAllocationPool");
  EXPECT_EQ(check("10.0.0.1", "10.0.0.20"), "GatewayConflictWithAllocationPools");
  EXPECT_EQ(check("fd00::1", "fd00::2"), "InvalidAllocationPool");
  auto both = check_pools(net("10.0.0.0/24"), std::nullopt,
                          {{ip("10.0.0.9"), ip("10.0.0.20")}, {ip("10.0.0.2"), ip("10.0.0.9")}});
  ASSERT_FALSE(both);
  EXPECT_EQ(both.error().type, "OverlappingAllocationPools");
}

TEST(Ipam, PicksRoundRobinAndEnds) {
  Subnet s;
  s.cidr = net("10.0.0.0/28");
  s.pools = {{ip("10.0.0.2"), ip("10.0.0.3")}, {ip("10.0.0.6"), ip("10.0.0.7")}};
  Allocations a;
  std::vector<std::string> got;
  for (int i = 0; i < 4; ++i) {
    auto p = pick_free(s, a);
    ASSERT_TRUE(p);
    got.push_back(p->to_string());
    a.used[*p] = "port";
    a.cursor = next_ip(*p);
    a.cursor_set = true;
  }
  EXPECT_EQ(got, (std::vector<std::string>{"10.0.0.2", "10.0.0.3", "10.0.0.6", "10.0.0.7"}));
  EXPECT_FALSE(pick_free(s, a));
  a.used.erase(ip("10.0.0.3"));
  EXPECT_EQ(pick_free(s, a)->to_string(), "10.0.0.3");
  // The address freed last is not the first to go out again while others are free.
  a.used.erase(ip("10.0.0.7"));
  a.cursor = ip("10.0.0.4");
  EXPECT_EQ(pick_free(s, a)->to_string(), "10.0.0.7");
}

TEST(State, FindsOverlapsWithoutLooking) {
  State state;
  for (const char* cidr : {"10.0.0.0/24", "10.0.2.0/23", "10.1.0.0/16", "fd00::/64"}) {
    Subnet s;
    s.id = cidr;
    s.cidr = net(cidr);
    state.put(s);
  }
  auto with = [&](const char* cidr) {
    const auto* s = state.overlapping(net(cidr));
    return s ? s->id : std::string();
  };
  EXPECT_EQ(with("10.0.1.0/24"), "");
  EXPECT_EQ(with("10.0.0.128/25"), "10.0.0.0/24");
  EXPECT_EQ(with("10.0.3.0/24"), "10.0.2.0/23");
  EXPECT_EQ(with("10.1.255.0/24"), "10.1.0.0/16");
  EXPECT_NE(with("10.0.0.0/8"), "");
  EXPECT_EQ(with("10.2.0.0/16"), "");
  EXPECT_EQ(with("fd00::/48"), "fd00::/64");
  EXPECT_EQ(with("fd00:0:0:1::/64"), "");
}

}  // namespace
}  // namespace calico::controller
