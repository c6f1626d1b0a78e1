// Nexthop objects of BGP's routes against a real kernel: shared, moved, lost with devices, adopted, cleaned up.
#include "tests/netns/kernel_bgp_fixture.hpp"

namespace calico::bgp {
namespace {

struct KernelNextHopsTest : KernelBgpTest {
  bool objects() const override { return true; }
  /// Lines of `ip nexthop` of our protocol.
  std::vector<std::string> kernel_objects(const char* filter = "proto 89") const {
    std::vector<std::string> out;
    std::istringstream lines(host->run("ip nexthop"));
    for (std::string line; std::getline(lines, line);)
      if (line.find(filter) != std::string::npos) out.push_back(line);
    return out;
  }
  std::string id_of(const char* dst) const {
    const auto text = host->run(std::string("ip route show ") + dst);
    std::smatch m;
    return std::regex_search(text, m, std::regex("nhid ([0-9]+)")) ? m[1].str() : "";
  }
  testing::AssertionResult shows(const std::string& what, bool wanted = true) {
    auto r = eventually((wanted ? "the routes to show " : "the routes not to show ") + what,
                        [&] { return (bgp_routes().find(what) != std::string::npos) == wanted; });
    return r ? r : r << "\n" << bgp_routes() << host->run("ip nexthop");
  }
  void second_link() {
    test::veth(*host, "eth1", *router, "eth1");
    host->run("ip addr add 192.168.1.1/24 dev eth1");
  }
  testing::AssertionResult settled() {
    return eventually("nothing pending", [&] { return status().pending == 0; });
  }
};

TEST_F(KernelNextHopsTest, RoutesOfANextHopShareAnObjectThatGoesAfterThem) {
  start();
  loop.call([&] { kernel->sweep(); });
  route("10.65.1.2/32", "192.168.0.7");
  route("10.65.1.3/32", "192.168.0.7");
  route("10.65.1.4/32", "192.168.0.8");
  EXPECT_EQ(kernel_objects().size(), 2U);
  EXPECT_NE(id_of("10.65.1.2"), "");
  EXPECT_EQ(id_of("10.65.1.2"), id_of("10.65.1.3"));
  EXPECT_NE(id_of("10.65.1.2"), id_of("10.65.1.4"));
  EXPECT_EQ(status().objects, 2U);
  route("10.65.1.3/32", "");
  route("10.65.1.4/32", "");
  EXPECT_TRUE(eventually("one object left", [&] { return kernel_objects().size() == 1; }));
  EXPECT_THAT(bgp_routes(), HasSubstr("10.65.1.2 via 192.168.0.7"));
  route("10.65.1.2/32", "");
  EXPECT_TRUE(eventually("no object left", [&] { return kernel_objects().empty(); }));
  EXPECT_EQ(status().objects, 0U);
}

TEST_F(KernelNextHopsTest, OneMessageMovesAllRoutesOfANextHop) {
  host->run("ip route add 10.1.0.0/16 via 192.168.0.9");
  start();
  loop.call([&] {
    const auto hop = *kernel->resolve(ip("10.1.1.1"));
    for (std::uint32_t i = 0; i < 2000; ++i)
      kernel->route_changed(Prefix::host(Ip::v4(0x0a410000 + i)),
                            BestRoute{.next_hops = hop.hops, .bgp_next_hop = ip("10.1.1.1")});
    kernel->flush();
  });
  ASSERT_TRUE(settled());
  const auto id = id_of("10.65.0.5");
  // The engine is not asked for anything: only the object changes.
  host->run("ip route replace 10.1.0.0/16 via 192.168.0.8");
  EXPECT_TRUE(shows("via 192.168.0.9", false));
  EXPECT_EQ(host->in([] { return netlink::Rtnl::open()->routes({.protocol = 89})->size(); }), 2000U);
  EXPECT_EQ(id_of("10.65.0.5"), id);
  EXPECT_EQ(loop.call([&] { return engine.moved; }), std::vector{ip("10.1.1.1")});
  EXPECT_EQ(host->run("sysctl -n net.ipv4.nexthop_compat_mode"), "1\n") << "as it was";
  // Told again, as the engine does, they are as they should be: nothing is written.
  route("10.65.0.5/32", "10.1.1.1");
  EXPECT_EQ(status().pending, 0U);
  EXPECT_EQ(kernel_objects().size(), 1U);
  EXPECT_TRUE(engine.problems.empty()) << engine.problems.front();
}

TEST_F(KernelNextHopsTest, AMultipathWayIsAGroupThatFollows) {
  host->run("ip route add 10.1.0.0/16 nexthop via 192.168.0.8 nexthop via 192.168.0.9");
  start();
  loop.call([&] { kernel->sweep(); });
  route("10.65.1.2/32", "10.1.1.1");
  EXPECT_TRUE(shows("nexthop via 192.168.0.8 dev eth0 weight 1"));
  EXPECT_TRUE(shows("nexthop via 192.168.0.9 dev eth0 weight 1"));
  EXPECT_EQ(kernel_objects("group").size(), 1U);
  const auto id = id_of("10.65.1.2");
  host->run("ip route replace 10.1.0.0/16 nexthop via 192.168.0.8 nexthop via 192.168.0.6 nexthop via 192.168.0.5");
  EXPECT_TRUE(shows("via 192.168.0.5"));
  EXPECT_TRUE(shows("via 192.168.0.6"));
  EXPECT_TRUE(shows("via 192.168.0.9", false));
  EXPECT_EQ(id_of("10.65.1.2"), id);
  EXPECT_TRUE(eventually("the member nobody needs to go", [&] { return kernel_objects().size() == 4; }));
  // One way only: another sort of object, the engine tells the routes again.
  loop.call([&] { engine.moved.clear(); });
  host->run("ip route replace 10.1.0.0/16 via 192.168.0.8");
  EXPECT_TRUE(eventually("news", [&] { return loop.call([&] { return !engine.moved.empty(); }); }));
  route("10.65.1.2/32", "10.1.1.1");
  EXPECT_THAT(bgp_routes(), HasSubstr("10.65.1.2 via 192.168.0.8 dev eth0 metric 2048"));
  EXPECT_TRUE(eventually("one object", [&] { return kernel_objects().size() == 1; })) << host->run("ip nexthop");
  EXPECT_TRUE(engine.problems.empty()) << engine.problems.front();
}

TEST_F(KernelNextHopsTest, SeveralBgpNextHopsAreAGroupAndEachFollows) {
  host->run("ip route add 10.1.0.0/16 via 192.168.0.8; ip route add 10.2.0.0/16 via 192.168.0.9");
  start();
  auto tell = [&] {
    loop.call([&] {
      auto a = *kernel->resolve(ip("10.1.1.1")), b = *kernel->resolve(ip("10.2.1.1"));
      BestRoute best{.next_hops = a.hops, .bgp_next_hop = ip("10.1.1.1"), .more_next_hops = {ip("10.2.1.1")}};
      best.next_hops.insert(best.next_hops.end(), b.hops.begin(), b.hops.end());
      kernel->route_changed(prefix("10.70.0.0/24"), best);
      kernel->flush();
    });
  };
  tell();
  EXPECT_TRUE(shows("nexthop via 192.168.0.8"));
  EXPECT_TRUE(shows("nexthop via 192.168.0.9"));
  host->run("ip route replace 10.2.0.0/16 via 192.168.0.7");
  EXPECT_TRUE(shows("nexthop via 192.168.0.7"));
  EXPECT_TRUE(shows("nexthop via 192.168.0.8"));
  EXPECT_TRUE(shows("via 192.168.0.9", false));
}

TEST_F(KernelNextHopsTest, AnIpv4RouteOverAnIpv6Gateway) {
  start();
  route("10.65.1.2/32", "fd01::7");
  EXPECT_THAT(bgp_routes(), HasSubstr("10.65.1.2 via inet6 fd01::7 dev eth0"));
  route("fd65::2/128", "fd01::7");
  EXPECT_EQ(kernel_objects().size(), 1U) << "both families, one object";
}

TEST_F(KernelNextHopsTest, LinkLocalNextHopsNeedOneLink) {
  ASSERT_TRUE(
      eventually("addresses", [&] { return host->run("ip -6 addr show dev eth0").find("fe80") != std::string::npos; }));
  start();
  EXPECT_TRUE(eventually("resolution", [&] { return resolve("fe80::7").has_value(); })) << "taps do not count";
  route("10.65.1.2/32", "fe80::7");
  route("fd65::2/128", "fe80::7");
  EXPECT_TRUE(shows("10.65.1.2 via inet6 fe80::7 dev eth0"));
  EXPECT_TRUE(shows("fd65::2 via fe80::7 dev eth0"));
  second_link();
  EXPECT_TRUE(eventually("doubt", [&] { return !resolve("fe80::7").has_value(); }));
  EXPECT_THAT(resolve("fe80::7").error().what, HasSubstr("more than one link"));
}

TEST_F(KernelNextHopsTest, ADeviceTakesObjectsAndRoutesInSilenceAndTheyComeBack) {
  second_link();
  start();
  route("10.65.1.2/32", "192.168.0.7");
  route("fd65::2/128", "fd01::7");
  route("10.65.1.3/32", "192.168.1.7");
  for (const char* how : {"carrier", "admin"}) {
    const bool carrier = std::string(how) == "carrier";
    auto& side = carrier ? *router : *host;
    side.run("ip link set eth0 down");
    EXPECT_TRUE(eventually("the loss to be known", [&] { return status().exported == 1; })) << how;
    EXPECT_THAT(bgp_routes(), Not(HasSubstr("10.65.1.2"))) << how;
    EXPECT_THAT(bgp_routes(), HasSubstr("10.65.1.3")) << how;
    if (!carrier) route("fd65::2/128", "");  // its address went as well, the engine hears that
    side.run("ip link set eth0 up");
    if (!carrier) {
      host->run("ip -6 addr replace fd01::1/64 dev eth0 nodad");
      EXPECT_TRUE(eventually("the way", [&] { return resolve("fd01::7").has_value(); }));
      route("fd65::2/128", "fd01::7");
    }
    EXPECT_TRUE(shows("10.65.1.2 via 192.168.0.7")) << how;
    EXPECT_TRUE(shows("fd65::2 via fd01::7")) << how;
    EXPECT_TRUE(settled());
  }
  EXPECT_EQ(kernel_objects().size(), 3U);
  EXPECT_TRUE(engine.problems.empty()) << engine.problems.front();
}

TEST_F(KernelNextHopsTest, AGroupLivesOnWithTheDevicesItHas) {
  second_link();
  host->run("ip route add 10.1.0.0/16 nexthop via 192.168.0.8 nexthop via 192.168.1.8");
  start();
  route("10.65.1.2/32", "10.1.1.1");
  EXPECT_TRUE(shows("nexthop via 192.168.1.8"));
  router->run("ip link set eth1 down");
  EXPECT_TRUE(shows("192.168.1.8", false));
  EXPECT_THAT(bgp_routes(), HasSubstr("192.168.0.8"));
  EXPECT_EQ(status().exported, 1U);
  router->run("ip link set eth1 up");
  EXPECT_TRUE(shows("nexthop via 192.168.1.8"));
  EXPECT_TRUE(shows("nexthop via 192.168.0.8"));
  EXPECT_TRUE(engine.problems.empty()) << engine.problems.front();
}

TEST_F(KernelNextHopsTest, ARestartAdoptsWhatIsThere) {
  host->run("ip route add 10.1.0.0/16 nexthop via 192.168.0.8 nexthop via 192.168.0.9");
  const std::vector<std::pair<const char*, const char*>> all = {{"10.65.1.2/32", "192.168.0.7"},
                                                                {"10.65.1.3/32", "192.168.0.8"},
                                                                {"10.65.1.4/32", "10.1.1.1"},
                                                                {"10.65.1.5/32", "10.1.1.2"},
                                                                {"fd65::3/128", "fd01::7"}};
  start();
  for (auto& [dst, hop] : all) route(dst, hop);
  route("10.65.1.9/32", "192.168.0.66");
  ASSERT_TRUE(settled());
  loop.call([&] { kernel->stop(); });
  kernel.reset();
  const auto before = host->run("ip route; ip -6 route; ip nexthop");
  const std::string log = "/tmp/" + host->name() + ".monitor";
  auto watch = host->spawn("exec ip monitor route nexthop", log);
  auto watched = [&] { return test::shell("cat " + log).text; };
  int marker = 0;
  ASSERT_TRUE(eventually("ip monitor", [&] {
    host->run(fmt::format("ip route add 10.99.{}.0/24 dev eth0", marker++));
    return watched().find("10.99.") != std::string::npos;
  }));
  host->run(
      "ip route flush 10.99.0.0/16; for i in $(seq 0 99); do ip route del 10.99.$i.0/24 2>/dev/null || true; done");
  start();
  std::reverse(const_cast<std::pair<const char*, const char*>*>(all.data()),
               const_cast<std::pair<const char*, const char*>*>(all.data()) + all.size());
  for (auto& [dst, hop] : all) route(dst, hop);
  EXPECT_EQ(status().pending, 0U);
  EXPECT_EQ(host->run("ip route; ip -6 route; ip nexthop"), before);
  loop.call([&] { kernel->sweep(); });
  EXPECT_TRUE(shows("10.65.1.9", false));
  ASSERT_TRUE(eventually("the object of the swept route to go", [&] {
    return std::regex_search(watched(), std::regex("Deleted id [0-9]+ via 192.168.0.66"));
  })) << watched();
  for (const char* same :
       {"10.65.1.2", "10.65.1.3", "10.65.1.4", "10.65.1.5", "fd65::3", "via 192.168.0.7 dev", "group"})
    EXPECT_THAT(watched(), Not(HasSubstr(same)));
  ::unlink(log.c_str());
}

TEST_F(KernelNextHopsTest, ForeignObjectsAreNeverTouched) {
  start();
  route("10.65.1.2/32", "192.168.0.7");
  const auto id = id_of("10.65.1.2");
  loop.call([&] { kernel->stop(); });
  kernel.reset();
  host->run("ip nexthop flush proto 89; ip nexthop add id " + id + " via 192.168.0.99 dev eth0 proto static");
  host->run("ip nexthop add id 7 via 192.168.0.98 dev eth0 proto 89; ip route add 10.65.7.7/32 nhid 7 proto static");
  start();
  loop.call([&] { kernel->sweep(); });
  route("10.65.1.2/32", "192.168.0.7");
  EXPECT_TRUE(shows("10.65.1.2 via 192.168.0.7"));
  EXPECT_NE(id_of("10.65.1.2"), id);
  // One that is taken from us while we run.
  host->run("ip nexthop replace id " + id_of("10.65.1.2") + " via 192.168.0.97 dev eth0 proto static");
  EXPECT_TRUE(shows("10.65.1.2 via 192.168.0.7"));
  EXPECT_EQ(kernel_objects("proto static").size(), 2U);
  route("10.65.1.2/32", "");
  EXPECT_TRUE(settled());
  loop.call([&] { kernel->stop(); });
  ASSERT_TRUE(host->in([] { return remove_kernel_routes(); }));
  EXPECT_EQ(kernel_objects("proto static").size(), 2U);
  EXPECT_EQ(kernel_objects().size(), 1U) << "id 7 is not of our range";
  EXPECT_THAT(host->run("ip route"), HasSubstr("10.65.7.7"));
}

TEST_F(KernelNextHopsTest, WhatStrangersDoToOurObjectsIsUndone) {
  start();
  route("10.65.1.2/32", "192.168.0.7");
  route("fd65::2/128", "fd01::7");
  host->run("ip nexthop del id " + id_of("10.65.1.2"));
  EXPECT_TRUE(shows("10.65.1.2 via 192.168.0.7"));
  host->run("ip nexthop replace id " + id_of("10.65.1.2") + " via 192.168.0.5 dev eth0 proto 89");
  EXPECT_TRUE(shows("10.65.1.2 via 192.168.0.7"));
  host->run("ip nexthop flush proto 89");
  EXPECT_TRUE(shows("10.65.1.2 via 192.168.0.7"));
  EXPECT_TRUE(shows("fd65::2 via fd01::7"));
  EXPECT_TRUE(engine.problems.empty()) << engine.problems.front();
}

TEST_F(KernelNextHopsTest, WithAndWithoutObjectsFollowEachOther) {
  auto life = [&](bool with) {
    KernelOptions o;
    o.nexthop_objects = with;
    start(o);
    EXPECT_EQ(status().nexthop_objects, with);
    route("10.65.1.2/32", "192.168.0.7");
    route("fd65::2/128", "fd01::7");
    loop.call([&] { kernel->sweep(); });
    EXPECT_TRUE(eventually("objects", [&] { return kernel_objects().size() == (with ? 2U : 0U); }));
    EXPECT_EQ(id_of("10.65.1.2").empty(), !with);
    EXPECT_THAT(bgp_routes(), HasSubstr("10.65.1.2 via 192.168.0.7 dev eth0 metric 2048"));
    EXPECT_THAT(bgp_routes(), HasSubstr("fd65::2 via fd01::7 dev eth0 metric 2048"));
    loop.call([&] { kernel->stop(); });
    kernel.reset();
  };
  for (const bool with : {true, false, true}) life(with);
  ASSERT_TRUE(host->in([] { return remove_kernel_routes(); }));
  EXPECT_EQ(kernel_objects().size(), 0U);
}

TEST_F(KernelNextHopsTest, NextHopsBehindAStrangersObjectAreFollowed) {
  host->run("sysctl -q -w net.ipv4.nexthop_compat_mode=0");
  host->run("ip nexthop add id 7 via 192.168.0.9 dev eth0; ip route add 10.1.0.0/16 nhid 7");
  start();
  route("10.65.1.2/32", "10.1.1.1");
  EXPECT_EQ(resolve("10.1.1.1")->gateway, ip("192.168.0.9"));
  host->run("ip nexthop replace id 7 via 192.168.0.8 dev eth0");
  EXPECT_TRUE(eventually("the new way", [&] {
    return !kernel_objects("via 192.168.0.8 dev eth0 scope link proto 89").empty();
  })) << host->run("ip nexthop");
}

}  // namespace
}  // namespace calico::bgp
