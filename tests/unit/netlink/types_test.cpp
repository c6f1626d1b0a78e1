#include "core/netlink/types.hpp"

#include <gtest/gtest.h>

#include "core/netlink/sysctl.hpp"

namespace calico::netlink {
namespace {

TEST(InterfaceName, AcceptsWhatTheKernelAndAPathTake) {
  for (const char* good : {"tap01234567-ab", "eth0", "eth0.100", "br-ex", "a", "123456789012345", "x@y", "cali+1"})
    EXPECT_TRUE(valid_interface_name(good)) << good;
  for (const char* bad : {"", ".", "..", "a/b", "../x", "a b", "a\tb", "a\nb", "1234567890123456", "tap%d", "a:0",
                          "a\"b", "a'b", "a\\b", "t\xc3\xa9"})
    EXPECT_FALSE(valid_interface_name(bad)) << bad;
}

TEST(InterfaceName, Patterns) {
  EXPECT_TRUE(matches_interface("tap*", "tap1"));
  EXPECT_TRUE(matches_interface("tap*", "tap"));
  EXPECT_FALSE(matches_interface("tap*", "xtap1"));
  EXPECT_TRUE(matches_interface("eth0", "eth0"));
  EXPECT_FALSE(matches_interface("eth0", "eth01"));
  EXPECT_TRUE(matches_interface("*", "anything"));
  EXPECT_FALSE(matches_interface("", "x"));
}

TEST(Sysctl, PathsOfAnInterface) {
  EXPECT_EQ(*interface_sysctl(Family::v4, SysctlTree::conf, "tap1", "proxy_arp"), "net/ipv4/conf/tap1/proxy_arp");
  EXPECT_EQ(*interface_sysctl(Family::v6, SysctlTree::neigh, "eth0.5", "proxy_delay"),
            "net/ipv6/neigh/eth0.5/proxy_delay");
  for (const char* bad : {"all", "default", "..", "a/b", ""})
    EXPECT_FALSE(interface_sysctl(Family::v4, SysctlTree::conf, bad, "proxy_arp")) << bad;
  EXPECT_FALSE(interface_sysctl(Family::v4, SysctlTree::conf, "tap1", "../all/proxy_arp"));
}

TEST(Sysctl, OnlyPathsBelowProcSysAreRead) {
  for (const char* bad : {"", "/etc/passwd", "../version", "net/../../version", "net//ipv4", "net/ipv4/", "a b"}) {
    auto r = sysctl_get(bad);
    ASSERT_FALSE(r) << bad;
    EXPECT_EQ(r.error().code, Errc::invalid) << bad;
  }
  auto missing = sysctl_get("net/ipv4/no_such_setting");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, Errc::not_found);
  EXPECT_TRUE(sysctl_get("kernel/ostype"));
}

TEST(Route, NormalisedAsTheKernelGivesItBack) {
  Route r;
  r.dst = *Prefix::parse("fd00::/64");
  r.dst.addr = *Ip::parse("fd00::1");
  r.scope = Scope::link;
  r.nexthops = {{.dev = IfIndex{4}}, {.dev = IfIndex{2}}};
  const auto n = normalised(r);
  EXPECT_EQ(n.metric, 1024U);
  EXPECT_EQ(n.dst.to_string(), "fd00::/64");
  EXPECT_EQ(n.scope, Scope::universe);
  EXPECT_EQ(n.nexthops.front().dev.value, 2U);
}

}  // namespace
}  // namespace calico::netlink
