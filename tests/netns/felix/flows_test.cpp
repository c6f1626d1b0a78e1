// Established connections follow policy and addresses: what is no longer allowed ends, everything else lives.
#include "core/netlink/rtnl.hpp"
#include "modules/felix/taps.hpp"
#include "tests/netns/felix/bench.hpp"
#include "tests/netns/felix/connections.hpp"
#include "tests/netns/felix/flow.hpp"

namespace calico::test {
namespace {

std::int64_t connections(Bench& b, const char* what) {
  return b.described().at("connections").at(what).to_number<std::int64_t>();
}

/// How many entries of the host's connection table name this address.
std::size_t entries_of(const Bench& b, const std::string& text) {
  const auto ip = *Ip::parse(text);
  return count_connections(b.host, [&](const conntrack::Entry& e) {
    return e.orig.src == ip || e.orig.dst == ip || e.reply.src == ip || e.reply.dst == ip;
  });
}

TEST(FelixFlows, AFloatingIpThatGoesTakesItsConnectionsAlong) {
  NEEDS_NETNS();
  Bench b;
  Vm c(2);
  b.out.run("ip route add 172.18.0.0/24 via 192.168.0.11");
  b.group("open", Bench::kAll);
  const auto floating = [&](const std::vector<std::string>& addresses) {
    b.endpoint(c, {"open"}, [&](model::WorkloadEndpoint& w) {
      for (const auto& x : addresses) w.ip_nats.push_back({*Ip::parse(c.ip), *Ip::parse(x)});
    });
    return eventually("its routes", [&] {
      const auto text = b.host.run("ip route show proto 88");
      return (text.find("172.18.0.1 ") != std::string::npos) == (addresses.size() == 2) &&
             (text.find("172.18.0.2 ") != std::string::npos) == !addresses.empty();
    });
  };
  b.plug(c);
  floating({});
  ASSERT_NO_FATAL_FAILURE(b.start({&c}));
  ASSERT_TRUE(floating({"172.18.0.1", "172.18.0.2"}));
  Flow first(b.out, c.ns, "172.18.0.1", 22), second(b.out, c.ns, "172.18.0.2", 2222), fixed(b.out, c.ns, c.ip, 4444);
  const auto flap = [&](const std::function<void()>& meanwhile) {
    b.host.run("ip link set " + c.tap + " down");
    ASSERT_TRUE(eventually("c down", [&] { return b.status_of(c) == R"({"status":"down"})"; }));
    meanwhile();
    b.host.run("ip link set " + c.tap + " up");
    ASSERT_TRUE(b.up(c));
  };
  // Neither a flap, nor a carrier that goes, nor a restart is a reason.
  ASSERT_NO_FATAL_FAILURE(flap([] {}));
  c.ns.run("ip link set eth0 down");
  ASSERT_TRUE(eventually("c down", [&] { return b.status_of(c) == R"({"status":"down"})"; }));
  c.ns.run("ip link set eth0 up; ip route add default via 10.65.0.1");
  ASSERT_TRUE(b.up(c));
  b.stop();
  ASSERT_NO_FATAL_FAILURE(b.start({&c}));
  for (auto* f : {&first, &second, &fixed}) EXPECT_TRUE(f->lives());
  EXPECT_EQ(connections(b, "forgotten"), 0);

  ASSERT_TRUE(floating({"172.18.0.2"}));
  ASSERT_TRUE(eventually("forgotten", [&] { return connections(b, "forgotten") >= 1; }));
  EXPECT_EQ(entries_of(b, "172.18.0.1"), 0U);
  EXPECT_TRUE(first.dead());
  EXPECT_TRUE(second.lives());
  EXPECT_TRUE(fixed.lives());
  // Also when the interface is down at that moment.
  const auto before = connections(b, "forgotten");
  ASSERT_NO_FATAL_FAILURE(flap([&] { floating({}); }));
  ASSERT_TRUE(eventually("forgotten", [&] { return connections(b, "forgotten") > before; }));
  EXPECT_TRUE(second.dead());
  EXPECT_TRUE(fixed.lives());
}

TEST(FelixFlows, ARuleThatGoesEndsItsConnections) {
  NEEDS_NETNS();
  Bench b;
  Vm a(1), c(2);
  b.group("web", Bench::tcp(22) + "," + Bench::tcp(2222));
  b.place({&a, &c}, {"web"});
  ASSERT_NO_FATAL_FAILURE(b.start({&a, &c}));
  Flow stays(b.out, a.ns, a.ip, 22), stays6(c.ns, a.ns, a.ip6, 22), goes(b.out, a.ns, a.ip, 2222),
      goes6(b.out, a.ns, a.ip6, 2222), inside(c.ns, a.ns, a.ip, 2222);
  Flow own(b.host, a.ns, a.ip, 3333);  // the host reaches its endpoints without a rule
  Flow outwards(a.ns, b.out, "192.168.0.2", 4444);
  for (auto* f : {&stays, &stays6, &goes, &goes6, &inside, &own, &outwards})
    ASSERT_TRUE(f->lives()) << "positive control";
  EXPECT_EQ(connections(b, "cut"), 0);

  b.group("web", Bench::tcp(22));
  ASSERT_TRUE(eventually("three connections cut", [&] { return connections(b, "cut") == 3; }))
      << b.engine->endpoints_json();
  for (auto* f : {&goes, &goes6, &inside}) EXPECT_TRUE(f->dead());
  for (auto* f : {&stays, &stays6, &own, &outwards}) EXPECT_TRUE(f->lives());
  EXPECT_EQ(connections(b, "cut"), 3);
  const auto listed = b.host.run("nft list ruleset");
  EXPECT_NE(listed.find("@cut4 counter"), std::string::npos) << listed;
  if (std::getenv("CALICO_TEST_SHOW")) puts(listed.c_str());

  // A restart keeps out what would bring them back, and cuts nothing else.
  b.stop();
  ASSERT_NO_FATAL_FAILURE(b.start({&a}));
  ASSERT_TRUE(eventually("a walk", [&] { return connections(b, "walks") == 1; }));
  EXPECT_EQ(connections(b, "cut"), 0) << b.engine->endpoints_json();
  EXPECT_EQ(b.described().at("rtnetlink_writes").to_number<int>(), 0);
  EXPECT_TRUE(goes.dead());
  for (auto* f : {&stays, &stays6, &own, &outwards}) EXPECT_TRUE(f->lives());
  // The rule again: what was said meanwhile arrives.
  b.group("web", Bench::tcp(22) + "," + Bench::tcp(2222));
  EXPECT_TRUE(eventually("alive again", [&] { return goes.asks(100) && goes.answers(1000); }));
}

TEST(FelixFlows, AMemberThatGoesLosesItsConnections) {
  NEEDS_NETNS();
  Bench b;
  Vm a(1), c(2), d(3);
  b.group("server",
          R"j({"action":"Allow","protocol":"tcp","source":{"selector":"has(sg.projectcalico.org/openstack-client)"}},
                        {"action":"Allow","protocol":"udp","source":{"selector":"has(sg.projectcalico.org/openstack-client)"}})j");
  b.group("client", "");
  b.group("other", "");
  for (auto* vm : {&a, &c, &d}) b.plug(*vm);
  b.endpoint(a, {"server"});
  b.endpoint(c, {"client", "other"});
  b.endpoint(d, {"client"});
  ASSERT_NO_FATAL_FAILURE(b.start({&a, &c, &d}));
  Flow of_c(c.ns, a.ns, a.ip, 22), of_d(d.ns, a.ns, a.ip, 22);
  ASSERT_TRUE(of_c.lives());
  ASSERT_TRUE(of_d.lives());
  Sock server(a.ns, SOCK_DGRAM), client(c.ns, SOCK_DGRAM);
  server.bind("0.0.0.0", 5000);
  client.bind(c.ip, 5001);
  client.send("before", a.ip, 5000);
  ASSERT_EQ(server.receive(), "before");
  b.endpoint(c, {"other"});  // still allowed to send everything
  ASSERT_TRUE(eventually("both cut", [&] { return connections(b, "cut") == 2; })) << b.engine->endpoints_json();
  EXPECT_TRUE(of_c.dead());
  EXPECT_TRUE(of_d.lives());
  client.send("after", a.ip, 5000);
  EXPECT_EQ(server.receive(300), "");
  b.endpoint(c, {"client", "other"});
  EXPECT_TRUE(eventually("c back", [&] { return reaches(c.ns, a.ip, 22, 300) || of_c.asks(100); }));
  EXPECT_TRUE(of_d.lives());
}

TEST(FelixFlows, TheOptionLeavesThemAlone) {
  NEEDS_NETNS();
  Bench b;
  b.sets.push_back("felix.cut_flows=no");
  Vm a(1);
  b.group("web", Bench::tcp(22));
  b.place({&a}, {"web"});
  ASSERT_NO_FATAL_FAILURE(b.start({&a}));
  Flow f(b.out, a.ns, a.ip, 22);
  ASSERT_TRUE(f.lives());
  const auto l = listener(a.ns, 22);
  ASSERT_TRUE(reaches(b.out, a.ip, 22));
  b.group("web", Bench::tcp(23));
  EXPECT_TRUE(eventually("22 closed", [&] { return !reaches(b.out, a.ip, 22, 300); }));
  EXPECT_TRUE(f.lives());
  EXPECT_EQ(connections(b, "walks"), 0);
  EXPECT_EQ(b.host.run("nft list ruleset").find("cut4"), std::string::npos);
}

TEST(FelixFlows, AnAddressThatMovesTakesNothingWithIt) {
  NEEDS_NETNS();
  Bench b;
  Vm a(1), c(2), d(3);
  c.ip = a.ip;
  c.ip6 = a.ip6;
  ASSERT_NO_FATAL_FAILURE(b.start_open({&a, &d}));
  Flow f(b.out, a.ns, a.ip, 22), f6(b.out, a.ns, a.ip6, 22), other(b.out, d.ns, d.ip, 22);
  for (auto* x : {&f, &f6, &other}) ASSERT_TRUE(x->lives());
  // An interface that flaps has not lost its address.
  b.host.run("ip link set " + a.tap + " down");
  ASSERT_TRUE(eventually("a down", [&] { return b.status_of(a) == R"({"status":"down"})"; }));
  b.host.run("ip link set " + a.tap + " up");
  ASSERT_TRUE(b.up(a));
  a.ns.run("ip -6 addr replace " + a.ip6 +
           "/128 dev eth0 nodad; ip route replace default via 10.65.0.1; ip -6 route "
           "replace fd65::1 dev eth0; ip -6 route replace default via fd65::1 dev eth0");
  EXPECT_GE(entries_of(b, a.ip), 1U);
  EXPECT_GE(entries_of(b, a.ip6), 1U);
  EXPECT_EQ(connections(b, "forgotten"), 0);
  EXPECT_TRUE(f.lives());
  // Another interface gets the address while the first one still has it: the last wins, its table is clean.
  b.place({&c}, {"open"});
  ASSERT_TRUE(b.up(c));
  EXPECT_NE(b.host.run("ip route show " + a.ip).find(c.tap), std::string::npos);
  EXPECT_GE(connections(b, "forgotten"), 2);
  EXPECT_TRUE(pings(b.out, c.ip));
  EXPECT_TRUE(other.lives());
  // And back: its endpoint goes, the other one has the address again.
  Flow g(b.out, c.ns, c.ip, 22);
  ASSERT_TRUE(g.lives());
  const auto before = connections(b, "forgotten");
  b.gone(c);
  ASSERT_TRUE(eventually("forgotten", [&] { return connections(b, "forgotten") > before; }));
  EXPECT_TRUE(eventually("the route of a",
                         [&] { return b.host.run("ip route show " + a.ip).find(a.tap) != std::string::npos; }));
  EXPECT_TRUE(g.dead());
  // The last endpoint goes: nothing of the address is left, and it is made anew on another interface.
  b.gone(a);
  EXPECT_TRUE(eventually("no entry", [&] { return entries_of(b, a.ip) + entries_of(b, a.ip6) == 0; }));
  EXPECT_TRUE(other.lives());
  b.endpoint(c, {"open"});
  ASSERT_TRUE(b.up(c));
  EXPECT_TRUE(pings(b.out, c.ip));
  EXPECT_EQ(connections(b, "failures"), 0);
}

TEST(FelixFlows, ARouteWaitsUntilItsAddressIsForgotten) {
  NEEDS_NETNS();
  Netns host("h"), vm("v");
  veth(host, "tap1", vm, "eth1");
  veth(host, "tap2", vm, "eth2");
  auto nl = host.in([] { return netlink::Rtnl::open(); });
  ASSERT_TRUE(nl) << nl.error().what;
  const auto ip = *Ip::parse("10.65.0.7");
  const auto plan = [&](int n, bool address) {
    model::EndpointPlan p;
    p.key = fmt::format("endpoint {}", n);
    p.interface_name = fmt::format("tap{}", n);
    p.mac = Mac{{2, 0, 0, 0, 0, 1}};
    if (address) p.nets = {Prefix::host(ip)};
    return p;
  };
  const auto route = [&] { return host.run("ip route show 10.65.0.7"); };
  const auto step = [&](felix::Taps& t) {
    return host.in([&] {
      auto ok = t.withdraw();
      if (ok) ok = t.program();
      return ok;
    });
  };
  felix::Taps taps(*nl);
  taps.configure({});
  ASSERT_TRUE(host.in([&] { return taps.load(); }));
  taps.set_plan(plan(1, true));
  taps.set_plan(plan(2, false));
  ASSERT_TRUE(step(taps));
  EXPECT_NE(route().find("tap1"), std::string::npos) << "an address nobody had has nothing to wait for";
  EXPECT_TRUE(taps.take_leaving().empty());
  // It passes from one endpoint to the other.
  taps.set_plan(plan(1, false));
  taps.set_plan(plan(2, true));
  ASSERT_TRUE(step(taps));
  EXPECT_EQ(route(), "");
  EXPECT_FALSE(taps.pending()) << "nothing to do until it is released";
  EXPECT_FALSE(taps.state("endpoint 2").programmed);
  EXPECT_FALSE(taps.release({ip})) << "not told yet: this was about an earlier time";
  EXPECT_EQ(taps.take_leaving(), std::set<Ip>{ip});
  ASSERT_TRUE(step(taps));
  EXPECT_EQ(route(), "");
  EXPECT_TRUE(taps.release({ip}));
  EXPECT_TRUE(taps.pending());
  ASSERT_TRUE(step(taps));
  EXPECT_NE(route().find("tap2"), std::string::npos);
  EXPECT_TRUE(taps.state("endpoint 2").programmed);
  // A new process finds the route on another interface than the plan's.
  felix::Taps later(*nl);
  later.configure({});
  ASSERT_TRUE(host.in([&] { return later.load(); }));
  later.set_plan(plan(1, true));
  later.set_plan(plan(2, false));
  ASSERT_TRUE(step(later));
  EXPECT_EQ(route(), "");
  EXPECT_EQ(later.take_leaving(), std::set<Ip>{ip});
  EXPECT_TRUE(later.release({ip}));
  ASSERT_TRUE(step(later));
  EXPECT_NE(route().find("tap1"), std::string::npos);
  // Gone for good: told once, held for nobody.
  later.drop_plan("endpoint 1");
  ASSERT_TRUE(step(later));
  EXPECT_EQ(route(), "");
  EXPECT_EQ(later.take_leaving(), std::set<Ip>{ip});
  EXPECT_FALSE(later.release({ip}));
}

TEST(FelixFlows, AnEndpointThatWentWhileFelixWasAway) {
  NEEDS_NETNS();
  Bench b;
  Vm a(1), c(2);
  ASSERT_NO_FATAL_FAILURE(b.start_open({&a, &c}));
  Flow f(b.out, a.ns, a.ip, 22), stays(b.out, c.ns, c.ip, 22);
  ASSERT_TRUE(f.lives());
  ASSERT_TRUE(stays.lives());
  b.stop();
  ASSERT_GE(entries_of(b, a.ip), 1U);
  b.gone(a);
  ASSERT_NO_FATAL_FAILURE(b.start());
  EXPECT_TRUE(eventually("no entry", [&] { return entries_of(b, a.ip) == 0; }));
  EXPECT_TRUE(b.up(c));
  EXPECT_TRUE(stays.lives());
  EXPECT_TRUE(f.dead());
}

}  // namespace
}  // namespace calico::test
