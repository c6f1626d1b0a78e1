// rtnetlink against the kernel, compared with what `ip` prints.
#include <gmock/gmock.h>
#include <linux/if.h>
#include <linux/neighbour.h>

#include <boost/asio/io_context.hpp>
#include <map>

#include "core/netlink/monitor.hpp"
#include "core/netlink/rtnl.hpp"
#include "core/netlink/sysctl.hpp"
#include "tests/support/netns.hpp"
#include "tests/support/wait.hpp"

namespace calico::netlink {
namespace {

using test::eventually;
using test::Netns;
using testing::HasSubstr;
using testing::Not;

Prefix prefix(const char* s) { return *Prefix::parse(s); }
Ip ip(const char* s) { return *Ip::parse(s); }

struct NetlinkTest : testing::Test {
  void SetUp() override {
    NEEDS_NETNS();
    a.emplace("a");
    b.emplace("b");
    test::veth(*a, "tap1", *b, "eth0");
    auto opened = a->in([] { return Rtnl::open(); });
    ASSERT_TRUE(opened) << opened.error().what;
    nl.emplace(std::move(*opened));
    auto l = nl->link("tap1");
    ASSERT_TRUE(l) << l.error().what;
    tap = l->index;
  }
  Route tap_route(const char* dst) const {
    Route r;
    r.dst = prefix(dst);
    r.protocol = kProtoFelix;
    r.scope = Scope::link;
    r.nexthops = {{.dev = tap}};
    return r;
  }
  std::optional<Netns> a, b;
  std::optional<Rtnl> nl;
  IfIndex tap;
};

TEST_F(NetlinkTest, LinksAreRead) {
  a->run("ip link set tap1 address fa:16:3e:00:00:01 group 77 mtu 1400");
  a->run("ip link add br0 type bridge && ip link set tap1 master br0");
  auto l = nl->link("tap1");
  ASSERT_TRUE(l);
  EXPECT_EQ(l->mac.to_string(), "fa:16:3e:00:00:01");
  EXPECT_EQ(l->group, 77U);
  EXPECT_EQ(l->mtu, 1400U);
  EXPECT_EQ(l->kind, "veth");
  EXPECT_EQ(l->master, nl->link("br0")->index);
  EXPECT_TRUE(l->admin_up());
  EXPECT_TRUE(eventually("running", [&] { return nl->link(tap)->running(); }));
  b->run("ip link set eth0 down");
  EXPECT_TRUE(eventually("not running", [&] { return !nl->link(tap)->running(); }));
  auto all = nl->links();
  ASSERT_TRUE(all);
  EXPECT_EQ(all->size(), 3U);  // lo, tap1, br0
  EXPECT_EQ(nl->link("nothing").error().code, Errc::not_found);
}

TEST_F(NetlinkTest, LinksAreChanged) {
  ASSERT_TRUE(nl->one([&](Batch& x) { x.set_link_group(tap, 4242); }));
  ASSERT_TRUE(nl->one([&](Batch& x) { x.set_link_up(tap, false); }));
  EXPECT_EQ(nl->link(tap)->group, 4242U);
  EXPECT_FALSE(nl->link(tap)->admin_up());
  ASSERT_TRUE(nl->one([&](Batch& x) { x.add_bridge("br9"); }));
  ASSERT_TRUE(nl->one([&](Batch& x) { x.add_veth("v0", "v1", b->fd()); }));
  EXPECT_THAT(b->run("ip -br link"), HasSubstr("v1"));
  const auto v0 = nl->link("v0")->index;
  ASSERT_TRUE(nl->one([&](Batch& x) { x.set_link_master(v0, nl->link("br9")->index); }));
  ASSERT_TRUE(nl->one([&](Batch& x) { x.rename_link(v0, "v7"); }));
  EXPECT_THAT(a->run("ip link show v7"), HasSubstr("master br9"));
  ASSERT_TRUE(nl->one([&](Batch& x) { x.remove_link(v0); }));
  EXPECT_THAT(b->run("ip -br link"), Not(HasSubstr("v1")));
  Address addr{.link = tap, .prefix = {ip("10.9.0.1"), 24}};
  ASSERT_TRUE(nl->one([&](Batch& x) { x.replace(addr); }));
  EXPECT_THAT(a->run("ip addr show tap1"), HasSubstr("inet 10.9.0.1/24"));
  auto addrs = nl->addresses();
  EXPECT_THAT(*addrs, testing::Contains(testing::Field(&Address::prefix, addr.prefix)));
  ASSERT_TRUE(nl->one([&](Batch& x) { x.remove(addr); }));
  EXPECT_THAT(a->run("ip addr show tap1"), Not(HasSubstr("10.9.0.1")));
}

TEST_F(NetlinkTest, RoutesComeBackAsWritten) {
  a->run("ip addr add 10.1.0.1/24 dev tap1; ip -6 addr add fd01::1/64 dev tap1 nodad");
  std::vector<Route> routes;
  routes.push_back(tap_route("10.65.0.2/32"));
  routes.push_back(tap_route("fd65::2/128"));
  Route gw;
  gw.dst = prefix("10.66.0.0/16");
  gw.protocol = kProtoBgp;
  gw.metric = 32;
  gw.nexthops = {{.via = ip("10.1.0.7"), .dev = tap}};
  routes.push_back(gw);
  Route ecmp = gw;
  ecmp.dst = prefix("10.67.0.0/16");
  ecmp.nexthops = {{.via = ip("10.1.0.7"), .dev = tap}, {.via = ip("10.1.0.8"), .dev = tap, .weight = 3}};
  routes.push_back(ecmp);
  Route ecmp6;
  ecmp6.dst = prefix("fd66::/64");
  ecmp6.protocol = kProtoBgp;
  ecmp6.nexthops = {{.via = ip("fd01::7"), .dev = tap}, {.via = ip("fd01::8"), .dev = tap}};
  routes.push_back(ecmp6);
  Route hole;
  hole.dst = prefix("10.68.0.0/16");
  hole.type = RouteType::blackhole;
  hole.protocol = kProtoFelix;
  routes.push_back(hole);
  Route hole6 = hole;
  hole6.dst = prefix("fd68::/64");
  routes.push_back(hole6);
  Route onlink = gw;
  onlink.dst = prefix("10.69.0.0/16");
  onlink.nexthops = {{.via = ip("192.0.2.9"), .dev = tap, .onlink = true}};
  routes.push_back(onlink);
  Route v4_over_v6 = gw;
  v4_over_v6.dst = prefix("10.70.0.0/16");
  v4_over_v6.nexthops = {{.via = ip("fd01::9"), .dev = tap}};
  routes.push_back(v4_over_v6);
  Route far_table = tap_route("10.71.0.0/16");
  far_table.table = TableId{100001};
  far_table.prefsrc = ip("10.1.0.1");
  routes.push_back(far_table);

  Batch batch;
  for (auto& r : routes) batch.add(r);
  auto done = nl->commit(batch);
  ASSERT_TRUE(done) << done.error().what;
  for (auto& e : done->failed) ADD_FAILURE() << e.what.what;

  auto have = nl->routes();
  ASSERT_TRUE(have);
  for (auto& r : routes) {
    const auto want = normalised(r);
    const auto it = std::find_if(have->begin(), have->end(), [&](const Route& x) { return key_of(x) == key_of(want); });
    ASSERT_NE(it, have->end()) << to_string(want) << "\n" << a->run("ip route show table all; ip -6 route");
    EXPECT_EQ(normalised(*it), want) << to_string(*it) << " wanted " << to_string(want);
  }
  EXPECT_THAT(a->run("ip route show 10.65.0.2"), HasSubstr("dev tap1 proto 88 scope link"));
  EXPECT_EQ(nl->routes({.protocol = kProtoBgp})->size(), 5U);
  EXPECT_EQ(nl->routes({.family = Family::v4, .table = TableId{100001}})->size(), 1U);
  EXPECT_EQ(nl->routes({.table = TableId{4711}})->size(), 0U);

  // The same again: replace changes nothing, add is refused for each.
  Batch again;
  for (auto& r : routes) again.add(r);
  done = nl->commit(again);
  ASSERT_TRUE(done);
  EXPECT_EQ(done->failed.size(), routes.size());
  for (auto& e : done->failed) EXPECT_EQ(e.error, EEXIST) << e.what.what;

  Batch gone;
  for (auto& r : routes) gone.remove(normalised(r));
  done = nl->commit(gone);
  ASSERT_TRUE(done);
  for (auto& e : done->failed) ADD_FAILURE() << e.what.what;
  EXPECT_EQ(nl->routes({.protocol = kProtoBgp})->size() + nl->routes({.protocol = kProtoFelix})->size(), 0U);
}

TEST_F(NetlinkTest, RemoveTakesOnlyTheRouteOfTheProtocol) {
  a->run("ip route add 10.65.0.2/32 dev tap1 proto static");
  auto st = nl->one([&](Batch& x) { x.remove(tap_route("10.65.0.2/32")); });
  ASSERT_FALSE(st);
  EXPECT_EQ(st.error().code, Errc::not_found);
  EXPECT_THAT(st.error().what, HasSubstr("remove route 10.65.0.2/32"));
  EXPECT_THAT(a->run("ip route"), HasSubstr("10.65.0.2"));
}

TEST_F(NetlinkTest, OneBadOperationLeavesTheOthers) {
  Batch batch;
  batch.replace(tap_route("10.65.0.2/32"));
  auto bad = tap_route("10.65.0.3/32");
  bad.nexthops.front().dev = IfIndex{9999};
  const auto i = batch.replace(bad);
  batch.replace(tap_route("10.65.0.4/32"));
  auto done = nl->commit(batch);
  ASSERT_TRUE(done);
  ASSERT_EQ(done->failed.size(), 1U);
  EXPECT_EQ(done->failed[0].index, i);
  EXPECT_EQ(done->error_of(i), ENODEV);
  EXPECT_EQ(done->failed[0].what.code, Errc::not_found);
  EXPECT_THAT(done->failed[0].what.what, HasSubstr("10.65.0.3/32 dev 9999"));
  EXPECT_EQ(nl->routes({.protocol = kProtoFelix})->size(), 2U);
}

TEST_F(NetlinkTest, TenThousandRoutesInOneBatch) {
  Batch batch;
  for (std::uint32_t i = 0; i < 10000; ++i) {
    Route r = tap_route("10.0.0.0/32");
    r.dst.addr = Ip::v4(0x0a410000 + i);
    batch.replace(r);
  }
  const auto t0 = std::chrono::steady_clock::now();
  auto done = nl->commit(batch);
  const auto t1 = std::chrono::steady_clock::now();
  ASSERT_TRUE(done) << done.error().what;
  EXPECT_TRUE(done->ok());
  auto have = nl->routes({.protocol = kProtoFelix});
  const auto t2 = std::chrono::steady_clock::now();
  ASSERT_TRUE(have);
  EXPECT_EQ(have->size(), 10000U);
  using us = std::chrono::duration<double, std::micro>;
  std::printf("  %.1f us a route written, %.1f us a route read\n", us(t1 - t0).count() / 10000,
              us(t2 - t1).count() / 10000);
}

TEST_F(NetlinkTest, NeighboursAndProxies) {
  Neighbour n{.dev = tap, .ip = ip("10.65.0.2"), .mac = *Mac::parse("fa:16:3e:00:00:02")};
  Neighbour n6{.dev = tap, .ip = ip("fd65::2"), .mac = n.mac};
  Neighbour proxy{.dev = tap, .ip = ip("fd65::1"), .proxy = true};
  Batch batch;
  batch.replace(n);
  batch.replace(n6);
  batch.replace(proxy);
  auto done = nl->commit(batch);
  ASSERT_TRUE(done);
  for (auto& e : done->failed) ADD_FAILURE() << e.what.what;
  EXPECT_THAT(a->run("ip neigh show 10.65.0.2"), HasSubstr("lladdr fa:16:3e:00:00:02 PERMANENT"));
  EXPECT_THAT(a->run("ip -6 neigh show proxy"), HasSubstr("fd65::1"));
  auto have = nl->neighbours(tap);
  ASSERT_TRUE(have);
  EXPECT_THAT(*have, testing::Contains(n));
  EXPECT_THAT(*have, testing::Contains(n6));
  auto proxies = nl->proxies();
  ASSERT_TRUE(proxies) << proxies.error().what;
  ASSERT_EQ(proxies->size(), 1U);
  EXPECT_EQ(proxies->front().ip, proxy.ip);
  EXPECT_TRUE(proxies->front().proxy);
  Batch gone;
  gone.remove(n);
  gone.remove(n6);
  gone.remove(proxy);
  done = nl->commit(gone);
  ASSERT_TRUE(done);
  for (auto& e : done->failed) ADD_FAILURE() << e.what.what;
  EXPECT_EQ(nl->proxies()->size(), 0U);
}

TEST_F(NetlinkTest, TokenBuckets) {
  const auto shown = [&] { return a->run("tc qdisc show dev tap1"); };
  const Qdisc small{
      .dev = tap, .handle = 0xc1230000, .kind = "tbf", .rate = 125'000, .limit = 100'000, .burst = 20'000};
  ASSERT_TRUE(nl->one([&](Batch& x) { x.replace(small); }));
  EXPECT_NE(shown().find("rate 1Mbit burst 20000b lat 640ms"), std::string::npos) << shown();
  EXPECT_NE(shown().find("qdisc tbf c123: root"), std::string::npos) << shown();
  const auto read = [&]() -> std::optional<Qdisc> {
    auto all = nl->qdiscs();
    if (!all) return {};
    for (const auto& q : *all)
      if (q.dev == tap) return q;
    return {};
  };
  auto q = read();
  ASSERT_TRUE(q);
  auto want = small;
  want.burst = 0;  // is not shown
  EXPECT_EQ(*q, want);
  // Beyond 32 bits, with a peak, in the place of the other.
  const Qdisc large{.dev = tap,
                    .handle = 0xc1240000,
                    .kind = "tbf",
                    .rate = 5'000'000'000,
                    .peak = 6'000'000'000,
                    .limit = 64'000'000,
                    .burst = 536'870'912,
                    .peak_burst = 10'240};
  ASSERT_TRUE(nl->one([&](Batch& x) { x.replace(large); }));
  q = read();
  ASSERT_TRUE(q);
  EXPECT_EQ(q->handle, large.handle);
  EXPECT_EQ(q->rate, large.rate);
  EXPECT_EQ(q->peak, large.peak);
  EXPECT_EQ(q->limit, large.limit);
  EXPECT_NE(shown().find("peakrate 48Gbit"), std::string::npos) << shown();
  // Refused in words; what was there stays.
  auto bad = large;
  bad.peak = 1000;
  const auto refused = nl->one([&](Batch& x) { x.replace(bad); });
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().what.find("qdisc tbf"), std::string::npos) << refused.error().what;
  EXPECT_EQ(read()->rate, large.rate);
  // Another's handle is not removed.
  EXPECT_FALSE(nl->one([&](Batch& x) { x.remove(small); }));
  ASSERT_TRUE(nl->one([&](Batch& x) { x.remove(large); }));
  EXPECT_EQ(shown().find("tbf"), std::string::npos) << shown();
}

TEST_F(NetlinkTest, LookupAsksTheFib) {
  a->run(
      "ip addr add 10.1.0.1/24 dev tap1; ip route add 10.2.0.0/16 via 10.1.0.9 proto 89; ip route add blackhole "
      "10.3.0.0/16");
  a->run(
      "ip -6 addr add fd01::1/64 dev tap1 nodad; ip -6 route add fd02::/32 via fd01::9; ip -6 route add unreachable "
      "fd03::/32");
  auto r = nl->lookup(ip("10.2.3.4"));
  ASSERT_TRUE(r) << r.error().what;
  EXPECT_EQ(r->dst.to_string(), "10.2.0.0/16");
  EXPECT_EQ(r->protocol, 89);
  ASSERT_EQ(r->nexthops.size(), 1U);
  EXPECT_EQ(r->nexthops[0].via, ip("10.1.0.9"));
  auto path = nl->lookup(ip("10.2.3.4"), {.fib_match = false});
  ASSERT_TRUE(path) << path.error().what;
  EXPECT_EQ(path->nexthops.at(0).dev, tap);
  EXPECT_EQ(nl->lookup(ip("10.3.0.1")).error().code, Errc::not_found);
  EXPECT_EQ(nl->lookup(ip("192.0.2.1")).error().code, Errc::not_found);
  auto r6 = nl->lookup(ip("fd02::5"));
  ASSERT_TRUE(r6) << r6.error().what;
  EXPECT_EQ(r6->dst.to_string(), "fd02::/32");
  EXPECT_EQ(nl->lookup(ip("fd03::1")).error().code, Errc::not_found);
  EXPECT_EQ(nl->lookup(ip("10.1.0.1"))->type, RouteType::local);
}

TEST_F(NetlinkTest, RulesAreRead) {
  a->run("ip rule add from 10.9.0.0/16 fwmark 0x10/0xf0 iif tap1 lookup 700 priority 33");
  auto rules = nl->rules(Family::v4);
  ASSERT_TRUE(rules);
  const auto it = std::find_if(rules->begin(), rules->end(), [](auto& r) { return r.priority == 33; });
  ASSERT_NE(it, rules->end());
  EXPECT_EQ(it->table.value, 700U);
  EXPECT_EQ(it->fwmark, 0x10U);
  EXPECT_EQ(it->fwmask, 0xf0U);
  EXPECT_EQ(it->iif, "tap1");
  EXPECT_EQ(it->src->to_string(), "10.9.0.0/16");
}

TEST_F(NetlinkTest, SettingsAreWrittenOnlyWhenTheyDiffer) {
  a->in([] {
    const auto path = *interface_sysctl(Family::v4, SysctlTree::conf, "tap1", "proxy_arp");
    auto first = sysctl_set(path, "1");
    ASSERT_TRUE(first) << first.error().what;
    EXPECT_TRUE(*first);
    EXPECT_FALSE(*sysctl_set(path, "1"));
    EXPECT_EQ(*sysctl_get(path), "1");
    EXPECT_FALSE(sysctl_set("net/ipv4/conf/gone0/proxy_arp", "1"));
  });
  EXPECT_EQ(a->run("cat /proc/sys/net/ipv4/conf/tap1/proxy_arp"), "1\n");
  EXPECT_EQ(b->run("cat /proc/sys/net/ipv4/conf/eth0/proxy_arp"), "0\n");
}

// ---- events ----

struct MonitorTest : NetlinkTest {
  /// Runs the loop until the predicate holds.
  bool until(const std::function<bool()>& p) {
    for (int i = 0; i < 3000 && !p(); ++i) io.restart(), io.run_one_for(std::chrono::milliseconds(10));
    return p();
  }
  Monitor watch(unsigned groups, std::size_t buffer = 1U << 20U) {
    auto m = a->in([&] { return Monitor::open(io.get_executor(), groups, handlers, buffer); });
    EXPECT_TRUE(m);
    m->start();
    return std::move(*m);
  }
  boost::asio::io_context io;
  MonitorHandlers handlers;
};

TEST_F(MonitorTest, TellsWhatChanges) {
  std::map<std::string, bool> links;  // name -> gone
  std::map<RouteKey, Route> routes;
  std::vector<Address> addresses;
  std::vector<Neighbour> neighbours;
  int rules = 0;
  handlers.on_link = [&](const Link& l, bool gone) { links[l.name] = gone; };
  handlers.on_route = [&](const Route& r, bool gone) {
    if (gone)
      routes.erase(key_of(r));
    else
      routes[key_of(r)] = r;
  };
  handlers.on_address = [&](const Address& x, bool gone) {
    if (!gone) addresses.push_back(x);
  };
  handlers.on_neighbour = [&](const Neighbour& x, bool gone) {
    if (!gone) neighbours.push_back(x);
  };
  handlers.on_rule = [&](const Rule&, bool) { ++rules; };
  auto m = watch(Monitor::kLinks | Monitor::kAddresses | Monitor::kRoutes | Monitor::kNeighbours | Monitor::kRules);
  a->run(
      "ip addr add 10.1.0.1/24 dev tap1; ip route add 10.65.0.2/32 dev tap1 proto 88; ip -6 route add fd65::2 dev tap1 "
      "proto 88;"
      "ip neigh replace 10.65.0.2 lladdr fa:16:3e:00:00:02 dev tap1 nud permanent; ip rule add pref 5 table 5;"
      "ip link add br0 type bridge; ip link set tap1 master br0; ip link set tap1 nomaster; ip link del br0");
  EXPECT_TRUE(until([&] { return links.contains("br0") && links["br0"]; })) << "the end of br0";
  EXPECT_FALSE(links["tap1"]) << "leaving a bridge is not the end of the link";
  EXPECT_TRUE(routes.contains({kTableMain, prefix("10.65.0.2/32"), 0}));
  EXPECT_TRUE(routes.contains({kTableMain, prefix("fd65::2/128"), 1024}));
  EXPECT_THAT(addresses, testing::Contains(testing::Field(&Address::prefix, Prefix{ip("10.1.0.1"), 24})));
  EXPECT_THAT(neighbours, testing::Contains(testing::Field(&Neighbour::ip, ip("10.65.0.2"))));
  EXPECT_EQ(rules, 1);
  a->run("ip route del 10.65.0.2/32");
  EXPECT_TRUE(until([&] { return !routes.contains({kTableMain, prefix("10.65.0.2/32"), 0}); }));
}

TEST_F(MonitorTest, OverflowAsksForAResync) {
  int resyncs = 0, events = 0;
  std::string why;
  handlers.on_route = [&](const Route&, bool) { ++events; };
  handlers.on_resync = [&](std::string_view w) { ++resyncs, why = w; };
  auto m = watch(Monitor::kRoutes, 4096);
  Batch batch;
  for (std::uint32_t i = 0; i < 2000; ++i) {
    Route r = tap_route("10.0.0.0/32");
    r.dst.addr = Ip::v4(0x0a410000 + i);
    batch.replace(r);
  }
  ASSERT_TRUE(nl->commit(batch));
  EXPECT_TRUE(until([&] { return resyncs > 0; })) << "a resync after the queue overflowed";
  EXPECT_THAT(why, HasSubstr("lost"));
  EXPECT_LT(events, 2000);
  const int before = events;
  a->run("ip route add 10.99.0.0/16 dev tap1");
  EXPECT_TRUE(until([&] { return events > before; })) << "events after the resync";
  EXPECT_EQ(resyncs, 1);
}

TEST_F(MonitorTest, AHandlerMayEndTheMonitor) {
  std::optional<Monitor> m;
  int calls = 0;
  handlers.on_route = [&](const Route&, bool) {
    ++calls;
    m.reset();
  };
  m.emplace(watch(Monitor::kRoutes));
  a->run("for i in 1 2 3 4 5; do ip route add 10.99.$i.0/24 dev tap1; done");
  EXPECT_TRUE(until([&] { return calls > 0; }));
  until([] { return false; });
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace calico::netlink
