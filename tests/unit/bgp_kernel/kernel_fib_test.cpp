#include "core/bgp/kernel_fib.hpp"

#include <gtest/gtest.h>
#include <linux/rtnetlink.h>

#include <algorithm>
#include <random>

namespace calico::bgp {
namespace {

using netlink::Route;

Prefix prefix(const std::string& s) { return *Prefix::parse(s); }
Ip ip(const char* s) { return *Ip::parse(s); }

Route route(const std::string& dst, std::uint32_t dev, std::uint32_t metric = 0, const char* via = nullptr) {
  Route r;
  r.dst = prefix(dst);
  r.metric = metric;
  r.protocol = 4;
  r.nexthops = {{.dev = IfIndex{dev}}};
  if (via) r.nexthops[0].via = ip(via);
  return r;
}

TEST(KernelFib, LongestMatchThenLowestMetric) {
  KernelFib fib;
  EXPECT_EQ(fib.lookup(ip("10.0.0.1")), nullptr);
  EXPECT_TRUE(fib.set(route("0.0.0.0/0", 1)));
  EXPECT_TRUE(fib.set(route("10.0.0.0/8", 2, 200)));
  EXPECT_TRUE(fib.set(route("10.0.0.0/8", 3, 100)));
  EXPECT_TRUE(fib.set(route("10.0.0.1/32", 4)));
  EXPECT_TRUE(fib.set(route("fd00::/8", 5)));
  EXPECT_FALSE(fib.set(route("fd00::/8", 5))) << "nothing new";
  EXPECT_EQ(fib.lookup(ip("10.0.0.1"))->nexthops[0].dev.value, 4U);
  EXPECT_EQ(fib.lookup(ip("10.0.0.2"))->nexthops[0].dev.value, 3U);
  EXPECT_EQ(fib.lookup(ip("192.0.2.1"))->nexthops[0].dev.value, 1U);
  EXPECT_EQ(fib.lookup(ip("fd00::1"))->nexthops[0].dev.value, 5U);
  EXPECT_EQ(fib.lookup(ip("2001::1")), nullptr);
  EXPECT_TRUE(fib.erase(route("10.0.0.0/8", 3, 100)));
  EXPECT_EQ(fib.lookup(ip("10.0.0.2"))->nexthops[0].dev.value, 2U);
}

TEST(KernelFib, DeadRoutesDoNotCount) {
  KernelFib fib;
  auto r = route("10.0.0.0/8", 2);
  r.nexthops[0].flags = RTNH_F_DEAD;
  fib.set(r);
  EXPECT_EQ(fib.lookup(ip("10.0.0.1")), nullptr);
  EXPECT_TRUE(fib.set(route("10.0.0.0/8", 2))) << "alive again is a change";
  EXPECT_NE(fib.lookup(ip("10.0.0.1")), nullptr);
}

TEST(KernelFib, ARemovalOfAnotherProtocolIsLate) {
  KernelFib fib;
  fib.set(route("10.0.0.0/8", 2));
  auto late = route("10.0.0.0/8", 2);
  late.protocol = 88;
  EXPECT_FALSE(fib.erase(late));
  EXPECT_EQ(fib.size(), 1U);
}

TEST(KernelFib, Ipv6TellsOfSingleNextHops) {
  KernelFib fib;
  auto both = route("fd00::/64", 2, 1024, "fe80::1");
  both.nexthops.push_back({.via = ip("fe80::2"), .dev = IfIndex{3}});
  fib.set(both);
  EXPECT_TRUE(fib.erase(route("fd00::/64", 2, 1024, "fe80::1")));
  ASSERT_NE(fib.lookup(ip("fd00::1")), nullptr);
  EXPECT_EQ(fib.lookup(ip("fd00::1"))->nexthops.size(), 1U);
  EXPECT_EQ(fib.over(IfIndex{2}).size(), 0U);
  EXPECT_TRUE(fib.erase(route("fd00::/64", 3, 1024, "fe80::2")));
  EXPECT_EQ(fib.size(), 0U);
}

TEST(KernelFib, DevicesAndSources) {
  KernelFib fib;
  fib.set(route("10.1.0.0/16", 2));
  fib.set(route("10.2.0.0/16", 3));
  auto both = route("10.3.0.0/16", 2);
  both.nexthops.push_back({.dev = IfIndex{3}});
  fib.set(both);
  auto sourced = route("10.4.0.0/16", 3);
  sourced.prefsrc = ip("192.0.2.1");
  fib.set(sourced);
  EXPECT_EQ(fib.drop_device(IfIndex{2}).size(), 2U);
  EXPECT_EQ(fib.lookup(ip("10.1.0.1")), nullptr);
  EXPECT_EQ(fib.lookup(ip("10.3.0.1"))->nexthops.size(), 1U);
  EXPECT_EQ(fib.drop_source(ip("192.0.2.1")), std::vector{prefix("10.4.0.0/16")});
  EXPECT_TRUE(fib.drop_device(IfIndex{99}).empty());
  EXPECT_EQ(fib.size(), 2U);
}

TEST(KernelFib, LoadTellsWhatChangedAndKeepsWhatIsNewer) {
  KernelFib fib;
  fib.set(route("10.1.0.0/16", 2));
  fib.set(route("10.2.0.0/16", 2));
  fib.set(route("10.3.0.0/16", 2));
  const auto newer = route("10.4.0.0/16", 2);
  fib.set(newer);
  auto changed = fib.load({route("10.1.0.0/16", 2), route("10.2.0.0/16", 9), route("10.5.0.0/16", 2)},
                          {netlink::key_of(newer), netlink::key_of(route("10.6.0.0/16", 2))});
  std::sort(changed.begin(), changed.end());
  EXPECT_EQ(changed, (std::vector{prefix("10.2.0.0/16"), prefix("10.3.0.0/16"), prefix("10.5.0.0/16")}));
  EXPECT_NE(fib.of(prefix("10.4.0.0/16")), nullptr);
}

/// Random changes agree with a list searched from end to end.
TEST(KernelFib, RandomChangesAgreeWithAPlainList) {
  std::mt19937 rng(11);
  auto pick = [&](unsigned n) { return static_cast<std::uint32_t>(rng() % n); };
  KernelFib fib;
  std::map<netlink::RouteKey, Route> plain;
  for (int step = 0; step < 4000; ++step) {
    Route r = route("0.0.0.0/0", 1 + pick(4), pick(3));
    r.dst = Prefix{Ip::v4(0x0a000000 + pick(64)), static_cast<std::uint8_t>(26 + pick(7))}.masked();
    switch (pick(4)) {
      case 0:
      case 1:
        fib.set(r);
        plain[key_of(r)] = r;
        break;
      case 2:
        fib.erase(r);
        plain.erase(key_of(r));
        break;
      default:
        if (pick(50) == 0) {
          fib.drop_device(IfIndex{1});
          std::erase_if(plain, [](auto& e) { return e.second.nexthops[0].dev.value == 1; });
        }
    }
    ASSERT_EQ(fib.size(), plain.size());
    const Ip dst = Ip::v4(0x0a000000 + pick(64));
    const Route* want = nullptr;
    for (auto& [k, x] : plain)
      if (x.dst.contains(dst) &&
          (!want || x.dst.len > want->dst.len || (x.dst.len == want->dst.len && x.metric < want->metric)))
        want = &x;
    const Route* got = fib.lookup(dst);
    ASSERT_EQ(got != nullptr, want != nullptr) << step;
    if (want) {
      ASSERT_EQ(*got, *want) << step;
    }
    std::size_t over = 0;
    for (auto& [k, x] : plain) over += x.nexthops[0].dev.value == 2;
    ASSERT_LE(fib.over(IfIndex{2}).size(), over);
  }
}

}  // namespace
}  // namespace calico::bgp
