// The kernel's side of BGP against a real table and a fake engine, with and without nexthop objects.
#include "tests/netns/kernel_bgp_fixture.hpp"

namespace calico::bgp {
namespace {

INSTANTIATE_TEST_SUITE_P(Routes, KernelBgpTest, testing::Bool(),
                         [](const auto& test) { return test.param ? "Objects" : "Plain"; });

// ---- import ----

TEST_P(KernelBgpTest, AnnouncesRoutesOfTapsByTheAgentsProtocol) {
  host->run("ip route add 10.65.0.2/32 dev tap1 proto 88; ip -6 route add fd65::2 dev tap1 proto 88");
  host->run("ip route add 10.65.0.3/32 dev tap1 proto static; ip route add 10.65.0.4/32 dev eth0 proto 88");
  host->run("ip route add 10.65.0.5/32 dev tap1 proto 88 table 100");
  start();
  EXPECT_THAT(announced(), testing::UnorderedElementsAre(prefix("10.65.0.2/32"), prefix("fd65::2/128")));
  EXPECT_EQ(engine.complete, 1);
  EXPECT_EQ(status().imported, 2U);

  // Events, both ways.
  host->run("ip route add 10.65.0.6/32 dev tap1 proto 88");
  EXPECT_TRUE(announces("10.65.0.6/32"));
  host->run("ip route del 10.65.0.2/32");
  EXPECT_TRUE(announces("10.65.0.2/32", false));
  host->run("ip -6 route del fd65::2");
  EXPECT_TRUE(announces("fd65::2/128", false));
  // Another protocol takes the place: no longer the agent's.
  host->run("ip route replace 10.65.0.6/32 dev tap1 proto static");
  EXPECT_TRUE(announces("10.65.0.6/32", false));
}

TEST_P(KernelBgpTest, TwoMetricsAreOneAnnouncement) {
  start();
  host->run("ip route add 10.65.0.2/32 dev tap1 proto 88 metric 1024");
  EXPECT_TRUE(announces("10.65.0.2/32"));
  host->run("ip route add 10.65.0.2/32 dev tap1 proto 88 metric 512; ip route del 10.65.0.2/32 metric 1024");
  host->run("ip route add 10.65.0.9/32 dev tap1 proto 88");
  EXPECT_TRUE(announces("10.65.0.9/32"));
  EXPECT_THAT(announced(), testing::Contains(prefix("10.65.0.2/32")));
  EXPECT_EQ(engine.told, 3) << "no withdrawal in between, the preference of the better one told once";
  EXPECT_EQ(loop.call([&] { return engine.local.at(prefix("10.65.0.2/32")).local_pref; }), 2147483135U);
  EXPECT_EQ(loop.call([&] { return engine.local.at(prefix("10.65.0.9/32")).local_pref; }), std::nullopt);
}

TEST_P(KernelBgpTest, RoutesGoWithTheirDevice) {
  host->run("ip route add 10.65.0.2/32 dev tap1 proto 88; ip -6 route add fd65::2 dev tap1 proto 88");
  start();
  EXPECT_EQ(announced().size(), 2U);
  host->run("ip link set tap1 down");
  EXPECT_TRUE(announces("10.65.0.2/32", false))
      << "the kernel says nothing about IPv4 routes of a device that went down";
  EXPECT_TRUE(announces("fd65::2/128", false));
  host->run("ip link set tap1 up; ip route add 10.65.0.2/32 dev tap1 proto 88");
  EXPECT_TRUE(announces("10.65.0.2/32"));
  host->run("ip link del tap1");
  EXPECT_TRUE(announces("10.65.0.2/32", false));
  host->run("ip link add cali9 type bridge; ip link set cali9 up; ip route add 10.65.0.9/32 dev cali9 proto 88");
  EXPECT_TRUE(announces("10.65.0.9/32"));
  host->run(
      "ip link set cali9 down; ip link set cali9 name other9; ip link set other9 up; ip route add 10.65.0.9/32 dev "
      "other9 proto 88");
  EXPECT_TRUE(announces("10.65.0.9/32", false)) << "renamed";
}

TEST_P(KernelBgpTest, DefaultAndLinkLocalRoutesAreNeverAnnounced) {
  host->run(
      "ip route add default dev tap1 proto 88; ip route add 169.254.7.0/24 dev tap1 proto 88; ip -6 route add "
      "fe80:1::/64 dev tap1 proto 88");
  start();
  EXPECT_TRUE(announced().empty());
}

TEST_P(KernelBgpTest, ReconfigurationChangesWhatIsImported) {
  host->run("ip route add 10.65.0.2/32 dev tap1 proto 88; ip route add 10.65.0.3/32 dev eth0 proto static");
  start();
  EXPECT_THAT(announced(), testing::ElementsAre(prefix("10.65.0.2/32")));
  KernelOptions other;
  other.import_interfaces = {"eth*"};
  other.import_protocols = {88, 4};
  loop.call([&] { kernel->reconfigure(other); });
  EXPECT_TRUE(announces("10.65.0.3/32"));
  EXPECT_TRUE(announces("10.65.0.2/32", false));
}

// ---- next hops ----

TEST_P(KernelBgpTest, NextHopsAreResolvedThroughTheTable) {
  host->run(
      "ip route add 10.1.0.0/16 via 192.168.0.9; ip route add blackhole 10.1.2.0/24;"
      "ip route add 10.9.0.0/16 via 192.168.0.8 proto 89; ip -6 route add fd02::/32 via fd01::9");
  open();
  auto direct = resolve("192.168.0.7");
  ASSERT_TRUE(direct) << direct.error().what;
  EXPECT_EQ(direct->gateway, ip("192.168.0.7"));
  const auto eth0 = host->in([] { return netlink::Rtnl::open()->link("eth0")->index; });
  EXPECT_EQ(direct->oif, eth0);
  auto far = resolve("10.1.1.1");
  ASSERT_TRUE(far);
  EXPECT_EQ(far->gateway, ip("192.168.0.9"));
  EXPECT_EQ(far->oif, eth0);
  auto far6 = resolve("fd02::5");
  ASSERT_TRUE(far6);
  EXPECT_EQ(far6->gateway, ip("fd01::9"));
  EXPECT_THAT(resolve("10.1.2.1").error().what, HasSubstr("blackhole"));
  EXPECT_THAT(resolve("10.9.0.1").error().what, HasSubstr("no route")) << "never through a route of BGP";
  EXPECT_THAT(resolve("192.168.0.1").error().what, HasSubstr("address of this host"));
  host->run("ip route add default via 192.168.0.254");
  loop.call([&] { kernel->start(engine.hooks()); });
  EXPECT_TRUE(eventually("the default route", [&] { return resolve("10.9.0.1").has_value(); }));
  EXPECT_EQ(resolve("10.9.0.1")->gateway, ip("192.168.0.254"));
}

TEST_P(KernelBgpTest, TheEngineHearsOfNextHopsThatMove) {
  start();
  EXPECT_FALSE(resolve("10.1.1.1"));
  EXPECT_TRUE(resolve("192.168.0.7"));
  host->run("ip route add 10.1.0.0/16 via 192.168.0.9");
  auto moved = [&](const char* hop) {
    return eventually(std::string("news of ") + hop, [&] {
      return loop.call(
          [&] { return std::find(engine.moved.begin(), engine.moved.end(), ip(hop)) != engine.moved.end(); });
    });
  };
  EXPECT_TRUE(moved("10.1.1.1"));
  EXPECT_TRUE(resolve("10.1.1.1"));
  loop.call([&] { EXPECT_THAT(engine.moved, Not(testing::Contains(ip("192.168.0.7")))) << "not concerned"; });
  loop.call([&] { engine.moved.clear(); });
  host->run("ip link set eth0 down");
  EXPECT_TRUE(moved("10.1.1.1"));
  EXPECT_TRUE(moved("192.168.0.7"));
  EXPECT_FALSE(resolve("192.168.0.7"));
  EXPECT_FALSE(resolve("10.1.1.1"));
  loop.call([&] { engine.moved.clear(); });
  host->run("ip link set eth0 up");
  EXPECT_TRUE(moved("192.168.0.7"));
  EXPECT_TRUE(resolve("192.168.0.7"));
}

// ---- export ----

TEST_P(KernelBgpTest, WinnersBecomeRoutesOfProtocol89) {
  host->run("ip route add 10.1.0.0/16 via 192.168.0.9");
  start();
  route("10.65.1.2/32", "192.168.0.7");
  route("10.65.1.3/32", "10.1.1.1");
  route("fd65::3/128", "fd01::7");
  EXPECT_THAT(bgp_routes(), HasSubstr("10.65.1.2 via 192.168.0.7 dev eth0 metric 2048"));
  EXPECT_THAT(bgp_routes(), HasSubstr("10.65.1.3 via 192.168.0.9 dev eth0 metric 2048"));
  EXPECT_THAT(bgp_routes(), HasSubstr("fd65::3 via fd01::7 dev eth0 metric 2048"));
  EXPECT_EQ(status().exported, 3U);
  route("10.65.1.2/32", "192.168.0.8");
  EXPECT_THAT(bgp_routes(), HasSubstr("10.65.1.2 via 192.168.0.8"));
  EXPECT_THAT(bgp_routes(), Not(HasSubstr("via 192.168.0.7")));
  route("10.65.1.3/32", "");
  route("fd65::3/128", "");
  EXPECT_THAT(bgp_routes(), Not(HasSubstr("10.65.1.3")));
  EXPECT_THAT(bgp_routes(), Not(HasSubstr("fd65::3")));
  EXPECT_EQ(engine.local.size(), 0U) << "what BGP installed is not announced";
  EXPECT_TRUE(engine.problems.empty()) << engine.problems.front();
}

TEST_P(KernelBgpTest, SeveralNextHops) {
  start();
  loop.call([&] {
    BestRoute best{
        .next_hops = {kernel->resolve(ip("192.168.0.7"))->hops[0], kernel->resolve(ip("192.168.0.8"))->hops[0]}};
    kernel->route_changed(prefix("10.70.0.0/24"), best);
    kernel->flush();
  });
  EXPECT_THAT(host->run("ip route show 10.70.0.0/24"), HasSubstr("nexthop via 192.168.0.7 dev eth0 weight 1"));
  EXPECT_THAT(host->run("ip route show 10.70.0.0/24"), HasSubstr("nexthop via 192.168.0.8 dev eth0 weight 1"));
}

TEST_P(KernelBgpTest, AGatewayBehindAnOnlinkRouteIsInstalled) {
  host->run("ip route add 10.1.0.0/16 via 203.0.113.1 dev eth0 onlink");
  start();
  route("10.65.1.2/32", "10.1.1.1");
  EXPECT_THAT(bgp_routes(), HasSubstr("10.65.1.2 via 203.0.113.1 dev eth0 metric 2048 onlink"));
}

TEST_P(KernelBgpTest, ARestartWritesNothingThatIsRight) {
  start();
  route("10.65.1.2/32", "192.168.0.7");
  route("10.65.1.3/32", "192.168.0.7");
  route("10.65.1.4/32", "192.168.0.7");
  route("fd65::3/128", "fd01::7");
  loop.call([&] { kernel->stop(); });
  kernel.reset();
  const auto before = bgp_routes();
  EXPECT_THAT(before, HasSubstr("10.65.1.4")) << "stopping leaves forwarding as it is";
  host->run("ip route add 10.65.1.9/32 via 192.168.0.7 proto static");

  const std::string log = "/tmp/" + host->name() + ".monitor";
  auto watch = host->spawn("exec ip monitor route", log);
  auto watched = [&] { return test::shell("cat " + log).text; };
  int marker = 0;
  ASSERT_TRUE(eventually("ip monitor", [&] {
    host->run(fmt::format("ip route add 10.99.{}.0/24 dev eth0", marker++));
    return !watched().empty();
  }));

  start();
  EXPECT_EQ(status().left_over, 4U);
  route("10.65.1.2/32", "192.168.0.7");
  route("10.65.1.3/32", "192.168.0.7");
  route("fd65::3/128", "fd01::7");
  EXPECT_EQ(bgp_routes(), before) << "before the sweep what was not announced stays";
  EXPECT_EQ(status().left_over, 1U);
  loop.call([&] { kernel->sweep(); });
  EXPECT_TRUE(eventually("the sweep", [&] { return bgp_routes().find("10.65.1.4") == std::string::npos; }));
  EXPECT_THAT(bgp_routes(), HasSubstr("10.65.1.2"));
  EXPECT_THAT(host->run("ip route show proto static"), HasSubstr("10.65.1.9"));
  ASSERT_TRUE(
      eventually("the sweep in ip monitor", [&] { return watched().find("Deleted 10.65.1.4") != std::string::npos; }));
  for (const char* same : {"10.65.1.2", "10.65.1.3", "fd65::3"}) EXPECT_THAT(watched(), Not(HasSubstr(same)));
  ::unlink(log.c_str());
}

TEST_P(KernelBgpTest, BeforeTheSweepOnlyWhatTheEngineTookBackGoes) {
  host->run(
      "ip route add 10.65.1.2/32 via 192.168.0.7 proto 89 metric 2048; ip route add 10.65.1.3/32 via 192.168.0.7 proto "
      "89 metric 2048");
  start();
  route("10.65.1.2/32", "192.168.0.7");
  route("10.65.1.2/32", "");
  EXPECT_THAT(bgp_routes(), Not(HasSubstr("10.65.1.2")));
  EXPECT_THAT(bgp_routes(), HasSubstr("10.65.1.3"));
}

TEST_P(KernelBgpTest, ARouteOfOursThatSomebodyRemovesComesBack) {
  start();
  route("10.65.1.2/32", "192.168.0.7");
  route("fd65::3/128", "fd01::7");
  host->run("ip route del 10.65.1.2/32; ip -6 route del fd65::3");
  EXPECT_TRUE(eventually("the routes again", [&] {
    const auto now = bgp_routes();
    return now.find("10.65.1.2") != std::string::npos && now.find("fd65::3") != std::string::npos;
  }));
}

TEST_P(KernelBgpTest, AStrangersRouteIsLeftAlone) {
  host->run("ip route add 10.65.1.2/32 via 192.168.0.5 proto static metric 2048");
  start();
  route("10.65.1.2/32", "192.168.0.7");
  EXPECT_EQ(bgp_routes(), "");
  EXPECT_THAT(host->run("ip route show 10.65.1.2"), HasSubstr("via 192.168.0.5"));
  auto s = status();
  ASSERT_EQ(s.faults.size(), 1U);
  EXPECT_THAT(s.faults[0], HasSubstr("another program's route"));
  EXPECT_EQ(loop.call([&] { return engine.problems.size(); }), 1U);
  host->run("ip route del 10.65.1.2/32");
  EXPECT_TRUE(
      eventually("our route in its place", [&] { return bgp_routes().find("via 192.168.0.7") != std::string::npos; }));
  // And a stranger that replaces ours (the kernel lets it) is left alone too.
  host->run("ip route replace 10.65.1.2/32 via 192.168.0.5 proto static metric 2048");
  // What is written before the kernel's news has been read replaces it: netlink has no "only if it is still mine".
  EXPECT_TRUE(eventually("the conflict", [&] { return status().failed == 1; }));
  route("10.65.1.2/32", "192.168.0.8");
  EXPECT_TRUE(eventually("the conflict still", [&] { return status().failed == 1; }));
  EXPECT_THAT(host->run("ip route show 10.65.1.2"), HasSubstr("via 192.168.0.5"));
}

TEST_P(KernelBgpTest, RoutesOverADeviceThatGoesDownComeBackWithIt) {
  start();
  route("10.65.1.2/32", "192.168.0.7");
  host->run("ip link set eth0 down");
  EXPECT_TRUE(eventually("news", [&] { return loop.call([&] { return !engine.moved.empty(); }); }));
  route("10.65.1.2/32", "192.168.0.7");  // resolves no longer: withdrawn
  EXPECT_EQ(bgp_routes(), "");
  loop.call([&] { engine.moved.clear(); });
  host->run("ip link set eth0 up");
  EXPECT_TRUE(eventually("news", [&] { return loop.call([&] { return !engine.moved.empty(); }); }));
  route("10.65.1.2/32", "192.168.0.7");
  EXPECT_TRUE(eventually("the route", [&] { return bgp_routes().find("10.65.1.2") != std::string::npos; }));
  EXPECT_TRUE(engine.problems.empty()) << engine.problems.front();
}

TEST_P(KernelBgpTest, FiftyThousandRoutesInSlices) {
  start();
  const auto hop = *resolve("192.168.0.7");
  const auto t0 = std::chrono::steady_clock::now();
  loop.call([&] {
    for (std::uint32_t i = 0; i < 50000; ++i)
      kernel->route_changed(Prefix::host(Ip::v4(0x0a410000 + i)), BestRoute{.next_hops = {hop}});
    kernel->flush();
  });
  const auto t1 = std::chrono::steady_clock::now();
  EXPECT_TRUE(eventually("all routes", [&] { return loop.call([&] { return kernel->status().pending == 0; }); }));
  const auto t2 = std::chrono::steady_clock::now();
  EXPECT_EQ(host->in([] { return netlink::Rtnl::open()->routes({.protocol = 89})->size(); }), 50000U);
  const auto t3 = std::chrono::steady_clock::now();
  host->run("ip route add 10.200.0.1/32 dev tap1 proto 88");
  EXPECT_TRUE(announces("10.200.0.1/32"));
  using ms = std::chrono::duration<double, std::milli>;
  std::printf(
      "  50,000 routes: %.0f ms to take, %.0f ms until in the kernel; then a tap's route told within %.1f ms (with "
      "ip's own start)\n",
      ms(t1 - t0).count(), ms(t2 - t0).count(), ms(std::chrono::steady_clock::now() - t3).count());
  EXPECT_TRUE(engine.problems.empty()) << engine.problems.front();
}

TEST_P(KernelBgpTest, LostEventsAreMadeUpByAFullRead) {
  start();
  route("10.65.1.2/32", "192.168.0.7");
  std::promise<void> hold;
  loop.post([f = hold.get_future().share()] { f.wait(); });  // the loop is away while the queue overflows
  host->in([&] {
    auto nl = *netlink::Rtnl::open();
    const auto tap = nl.link("tap1")->index;
    for (std::uint32_t round = 0; round < 8; ++round) {
      netlink::Batch add;
      for (std::uint32_t i = 0; i < 4000; ++i) {
        netlink::Route r;
        r.dst = Prefix::host(Ip::v4(0x0a500000 + i));
        r.protocol = 88;
        r.scope = netlink::Scope::link;
        r.nexthops = {{.dev = tap}};
        round % 2 ? add.remove(r) : add.replace(r);
      }
      EXPECT_TRUE(nl.commit(add));
    }
  });
  host->run(
      "ip route add 10.65.0.2/32 dev tap1 proto 88; ip route del 10.65.1.2/32; ip route add 10.1.0.0/16 via "
      "192.168.0.9");
  hold.set_value();
  EXPECT_TRUE(eventually("a full read", [&] { return status().resyncs > 0; }));
  EXPECT_TRUE(announces("10.65.0.2/32"));
  EXPECT_TRUE(eventually("nothing else", [&] { return announced().size() == 1; }));
  EXPECT_TRUE(eventually("our route", [&] { return bgp_routes().find("10.65.1.2") != std::string::npos; }));
  EXPECT_TRUE(resolve("10.1.1.1"));
  loop.call([&] { EXPECT_THAT(engine.problems, testing::Contains(HasSubstr("lost"))); });
}

TEST_P(KernelBgpTest, CleanupRemovesOursOnly) {
  start();
  route("10.65.1.2/32", "192.168.0.7");
  route("fd65::3/128", "fd01::7");
  loop.call([&] { kernel->stop(); });
  host->run("ip route add 10.65.1.9/32 via 192.168.0.7 proto static");
  auto n = host->in([] { return remove_kernel_routes(); });
  ASSERT_TRUE(n) << n.error().what;
  EXPECT_EQ(*n, 2U);
  EXPECT_EQ(bgp_routes(), "");
  EXPECT_THAT(host->run("ip route"), HasSubstr("10.65.1.9"));
}

}  // namespace
}  // namespace calico::bgp
