// Felix on a real kernel: traffic with its positive controls, restarts, faults.
#include "tests/netns/felix/bench.hpp"

#include <fstream>

#include "core/model/compiler.hpp"
#include "modules/felix/firewall.hpp"
#include "modules/felix/guard.hpp"

namespace calico::test {
namespace {

TEST(Felix, SecurityGroupsDecide) {
  NEEDS_NETNS();
  Bench b;
  Vm a(1), c(2), d(3);
  b.group("web", Bench::tcp(22) + "," + Bench::icmp_from("web"));
  b.group("db", Bench::icmp_from("db"));
  for (auto* vm : {&a, &c, &d}) b.plug(*vm);
  b.endpoint(a, {"web"});
  b.endpoint(c, {"web"});
  b.endpoint(d, {"db"});
  ASSERT_NO_FATAL_FAILURE(b.start({&a, &c, &d}));
  auto l22 = listener(c.ns, 22), l2222 = listener(c.ns, 2222);
  auto l22_6 = listener(c.ns, 2200, true);

  EXPECT_TRUE(reaches(a.ns, c.ip, 22));
  EXPECT_TRUE(reaches(d.ns, c.ip, 22));
  EXPECT_TRUE(reaches(b.out, c.ip, 22));
  EXPECT_TRUE(reaches(c.ns, c.ip, 2222)) << "positive control: it listens";
  EXPECT_TRUE(refused(a.ns, c.ip, 2222));
  EXPECT_TRUE(refused(b.out, c.ip, 2222));
  EXPECT_TRUE(pings(a.ns, c.ip));
  EXPECT_TRUE(pings(c.ns, a.ip));
  EXPECT_FALSE(pings(d.ns, c.ip, 1));
  EXPECT_FALSE(pings(a.ns, d.ip, 1));
  EXPECT_TRUE(pings(a.ns, c.ip6));
  EXPECT_FALSE(pings(d.ns, c.ip6, 1));
  EXPECT_TRUE(pings(b.host, d.ip)) << "the host reaches its endpoints, and their replies come back";
  EXPECT_TRUE(pings(b.host, d.ip6));

  // A rule comes and goes: the matrix follows.
  b.group("web", Bench::tcp(22) + "," + Bench::tcp(2222));
  EXPECT_TRUE(eventually("2222 open", [&] { return reaches(a.ns, c.ip, 2222, 300); }));
  EXPECT_FALSE(pings(a.ns, c.ip, 1));
  b.group("web", Bench::icmp_from("web"));
  EXPECT_TRUE(eventually("2222 closed", [&] { return !reaches(a.ns, c.ip, 2222, 300); }));
  EXPECT_TRUE(pings(a.ns, c.ip));
  // An endpoint changes its groups: one interface, one class.
  b.endpoint(d, {"web", "db"});
  EXPECT_TRUE(eventually("d in web", [&] { return pings(d.ns, c.ip, 1); }));
  b.endpoint(d, {});
  EXPECT_TRUE(eventually("d in nothing", [&] { return !pings(d.ns, c.ip, 1); }));
  EXPECT_EQ(b.status_of(d), R"({"status":"up"})") << "closed by intent is not down";

  const auto listed = b.host.try_run("nft list ruleset");
  EXPECT_EQ(listed.status, 0) << listed.text;
  EXPECT_NE(listed.text.find("table inet calico"), std::string::npos);
  EXPECT_NE(listed.text.find("table arp calico"), std::string::npos);
  if (std::getenv("CALICO_TEST_SHOW")) puts((listed.text + b.engine->endpoints_json()).c_str());
}

TEST(Felix, SpoofedSourcesDoNotArrive) {
  NEEDS_NETNS();
  Bench b;
  Vm a(1), c(2);
  ASSERT_NO_FATAL_FAILURE(b.start_open({&a, &c}));
  Sock sink(c.ns, SOCK_DGRAM);
  sink.bind("0.0.0.0", 7000);
  Sock sink6(c.ns, SOCK_DGRAM, true);
  sink6.bind("::", 7001);
  a.ns.run("ip addr add 10.65.0.99/32 dev eth0; ip -6 addr add fd65::99/128 dev eth0 nodad");
  const auto send = [&](const std::string& from, const std::string& text) {
    Sock s(a.ns, SOCK_DGRAM, is_v6(from));
    s.bind(from, 0);
    is_v6(from) ? s.send(text, c.ip6, 7001) : s.send(text, c.ip, 7000);
  };
  send(a.ip, "first");
  ASSERT_EQ(sink.receive(), "first") << "positive control: the own address arrives";
  send(a.ip6, "first6");
  ASSERT_EQ(sink6.receive(), "first6");

  send("10.65.0.99", "spoofed address");
  send(a.ip, "own");
  EXPECT_EQ(sink.receive(), "own");
  send("fd65::99", "spoofed address");
  send(a.ip6, "own6");
  EXPECT_EQ(sink6.receive(), "own6");

  a.ns.run("ip link set eth0 address fa:16:3e:00:00:77");
  a.ns.run("ip neigh replace 10.65.0.12 lladdr $(ip netns exec " + b.host.name() + " cat /sys/class/net/" + a.tap +
           "/address) dev eth0 nud permanent");
  send(a.ip, "spoofed MAC");
  a.ns.run("ip link set eth0 address " + a.mac);
  send(a.ip, "own again");
  EXPECT_EQ(sink.receive(), "own again");

  // ARP that claims another's address is dropped before the host learns from it.
  const auto dropped = [&](const std::string& table) {
    const auto text = b.host.run("nft list chain " + table + " source");
    const auto at = text.rfind("counter packets ");
    return at == std::string::npos ? -1 : std::stoi(text.substr(at + 16));
  };
  EXPECT_GE(dropped("inet calico"), 3);
  const int before = dropped("arp calico");
  a.ns.run("ip addr add 10.65.0.12/32 dev eth0");
  a.ns.try_run("arping -c 1 -w 2 -S 10.65.0.12 -i eth0 10.65.0.1; arping -c 1 -w 2 -s 10.65.0.12 -I eth0 10.65.0.1");
  EXPECT_GT(dropped("arp calico"), before);
  EXPECT_EQ(b.host.run("ip neigh show dev " + a.tap).find("10.65.0.12"), std::string::npos);
}

TEST(Felix, NodesAreProtected) {
  NEEDS_NETNS();
  Bench b;
  b.sets.push_back("felix.public_ports=9696");
  Vm a(1);
  ASSERT_NO_FATAL_FAILURE(b.start_open({&a}));
  std::vector<Sock> keep;
  for (std::uint16_t port : {22, 179, 2379, 9696, 80}) {
    keep.push_back(listener(b.out, port));
    keep.push_back(listener(b.host, port));
  }
  keep.push_back(listener(b.out, 2222, true));
  for (std::uint16_t port : {22, 179, 2379}) {
    EXPECT_TRUE(reaches(b.host, "192.168.0.2", port)) << "positive control: it listens";
    EXPECT_TRUE(refused(a.ns, "192.168.0.2", port)) << port;
    EXPECT_TRUE(reaches(b.host, "192.168.0.11", port));
    EXPECT_TRUE(refused(a.ns, "192.168.0.11", port)) << port;
  }
  EXPECT_TRUE(reaches(a.ns, "192.168.0.2", 9696)) << "public";
  EXPECT_TRUE(reaches(a.ns, "192.168.0.2", 80)) << "not protected";
  EXPECT_TRUE(reaches(a.ns, "fd00::2", 2222));
  EXPECT_TRUE(refused(a.ns, "192.168.0.11", 80)) << "endpoint to host is dropped";
  // A node connects to an endpoint from a protected port: replies pass.
  auto ssh = listener(a.ns, 22);
  Sock from179(b.out, SOCK_STREAM | SOCK_NONBLOCK);
  from179.bind("192.168.0.2", 2380);
  EXPECT_TRUE(from179.connect(a.ip, 22, 3000));
  // A node more.
  b.out.run("ip addr add 192.168.0.3/24 dev eth0");
  EXPECT_TRUE(reaches(a.ns, "192.168.0.3", 22));
  b.view.set(model::node_key("n3"), R"({"spec":{"addresses":[{"address":"192.168.0.3"}]}})");
  EXPECT_TRUE(eventually("192.168.0.3 protected", [&] { return !reaches(a.ns, "192.168.0.3", 22, 300); }));
}

TEST(Felix, WhatAnEndpointMaySendToItsHost) {
  NEEDS_NETNS();
  Bench b;
  b.sets.push_back("felix.metadata_address=127.0.0.1");
  Vm a(1);
  b.plug(a, false);
  a.ns.run("ip route add 255.255.255.255/32 dev eth0");
  b.endpoint(a, {});  // no group at all
  ASSERT_NO_FATAL_FAILURE(b.start({&a}));
  Sock dhcp(b.host, SOCK_DGRAM), tftp(b.host, SOCK_DGRAM), dns(b.host, SOCK_DGRAM);
  dhcp.bind("0.0.0.0", 67);
  tftp.bind("0.0.0.0", 69);
  dns.bind("0.0.0.0", 53);
  Sock client(a.ns, SOCK_DGRAM);
  client.device("eth0").bind("0.0.0.0", 68);
  client.send("other port", "255.255.255.255", 69);
  client.send("discover", "255.255.255.255", 67);
  EXPECT_EQ(dhcp.receive(), "discover");
  EXPECT_EQ(tftp.receive(100), "");
  a.ns.run("ip addr add " + a.ip + "/24 dev eth0; ip route add default via 10.65.0.1");
  Sock resolver(a.ns, SOCK_DGRAM);
  resolver.bind(a.ip, 0);
  resolver.send("tftp", "192.168.0.11", 69);
  resolver.send("question", "192.168.0.11", 53);
  EXPECT_EQ(dns.receive(), "question");
  EXPECT_EQ(tftp.receive(100), "");
  Sock metadata(b.host, SOCK_STREAM), other(b.host, SOCK_STREAM);
  metadata.bind("127.0.0.1", 8775).listen();
  other.bind("127.0.0.1", 8776).listen();
  EXPECT_TRUE(reaches(a.ns, "169.254.169.254", 80));
  EXPECT_TRUE(refused(a.ns, "127.0.0.1", 8776));
  EXPECT_TRUE(refused(a.ns, "169.254.169.254", 8776));
}

TEST(Felix, PolicyMayOpenTheHostToItsEndpoints) {
  for (const std::string action : {"return", "accept"}) {
    NEEDS_NETNS();
    Bench b;
    b.sets.push_back("felix.endpoint_to_host_action=" + action);
    Vm a(1), c(2);
    b.group("open", Bench::kAll);
    for (auto* vm : {&a, &c}) b.plug(*vm);
    b.endpoint(a, {"open"});
    b.endpoint(c, {});
    ASSERT_NO_FATAL_FAILURE(b.start({&a, &c}));
    auto l80 = listener(b.host, 80), l22 = listener(b.host, 22);
    EXPECT_TRUE(reaches(a.ns, "192.168.0.11", 80)) << action;
    EXPECT_TRUE(refused(c.ns, "192.168.0.11", 80)) << action << ": no egress rule";
    EXPECT_TRUE(refused(a.ns, "192.168.0.11", 22)) << action << ": a control port";
    // The host's own rules have the last word.
    b.host.run(
        "nft add table inet mine; nft add chain inet mine in '{ type filter hook input priority 10; }'; nft add "
        "rule inet mine in tcp dport 80 drop");
    EXPECT_TRUE(refused(a.ns, "192.168.0.11", 80)) << action;
  }
}

TEST(Felix, OthersMayRefuseWhatFelixAllows) {
  NEEDS_NETNS();
  Bench b;
  Vm a(1), c(2);
  ASSERT_NO_FATAL_FAILURE(b.start_open({&a, &c}));
  ASSERT_TRUE(pings(a.ns, c.ip));
  for (const int priority : {-10, 10}) {
    b.host.run("nft add table inet mine; nft add chain inet mine forward '{ type filter hook forward priority " +
               std::to_string(priority) + "; policy drop; }'");
    EXPECT_FALSE(pings(a.ns, c.ip, 1)) << priority;
    b.host.run("nft add rule inet mine forward accept");
    EXPECT_TRUE(pings(a.ns, c.ip)) << priority;
    b.host.run("nft delete table inet mine");
    EXPECT_TRUE(pings(a.ns, c.ip));
  }
}

TEST(Felix, RestartChangesNothing) {
  NEEDS_NETNS();
  Bench b;
  Vm a(1), c(2);
  b.group("web", Bench::tcp(22) + "," + Bench::icmp_from("web"));
  b.place({&a, &c}, {"web"});
  ASSERT_NO_FATAL_FAILURE(b.start({&a, &c}));
  EXPECT_TRUE(pings(a.ns, c.ip));
  const auto before = b.kernel(false);
  b.stop();
  EXPECT_EQ(b.kernel(false), before) << "stopping leaves everything";
  EXPECT_TRUE(pings(a.ns, c.ip));
  ASSERT_NO_FATAL_FAILURE(b.start());
  ASSERT_TRUE(eventually("settled", [&] { return b.report.is_settled(model::endpoint_status_prefix("", "h")); }));
  ASSERT_TRUE(b.up(a));
  EXPECT_EQ(b.kernel(false), before);
  const auto d = b.described();
  EXPECT_LE(d.at("nft").at("commits").to_number<int>(), 1) << "at most the adoption of the tables";
  EXPECT_LE(d.at("nft").at("operations").to_number<int>(), 2);
  EXPECT_EQ(d.at("rtnetlink_writes").to_number<int>(), 0) << b.engine->endpoints_json();
  // Intent changed while felix was away: only the difference is written.
  b.stop();
  b.gone(c);
  b.unplug(a);
  ASSERT_NO_FATAL_FAILURE(b.start());
  ASSERT_TRUE(eventually("a down", [&] { return b.status_of(a) == R"({"status":"down"})"; }));
  const auto after = b.kernel();
  EXPECT_EQ(after.find(c.ip), std::string::npos) << after;
  EXPECT_EQ(b.host.run("ip -o link show " + c.tap).find("group 2"), std::string::npos) << "its class is taken back";
  b.plug(a);
  EXPECT_TRUE(b.up(a));
}

// The shape of the static chains before the source was asked by class and before "cut": what an upgrade finds.
TEST(Felix, AFormerShapeIsReplacedInOneChange) {
  NEEDS_NETNS();
  Bench b;
  Vm a(1), c(2);
  b.group("web", Bench::tcp(22) + "," + Bench::icmp_from("web"));
  for (auto* vm : {&a, &c}) {
    b.plug(*vm);
    b.endpoint(*vm, {"web"});
  }
  ASSERT_NO_FATAL_FAILURE(b.start());
  ASSERT_TRUE(b.up(a));
  ASSERT_TRUE(b.up(c));
  const auto shape = [&] {  // without counters and handles
    std::string out;
    for (const auto* name : {"raw-prerouting", "source", "cut", "from-tap", "to-tap", "forward-from", "forward-to"})
      out += b.host.try_run(fmt::format("nft -s list chain inet calico {}", name)).text;
    return out;
  };
  const auto before = shape();
  b.stop();
  b.host.run(R"(nft '
      flush chain inet calico raw-prerouting; add rule inet calico raw-prerouting iifname "tap*" goto source
      flush chain inet calico from-tap; flush chain inet calico to-tap; delete chain inet calico cut
      add rule inet calico from-tap ct state invalid drop
      add rule inet calico from-tap tcp flags ! syn ip saddr . tcp sport . ip daddr . tcp dport @cut4 drop
      add rule inet calico from-tap iifgroup vmap @from; add rule inet calico from-tap drop
      add rule inet calico to-tap ct state invalid drop
      add rule inet calico to-tap oifgroup vmap @to; add rule inet calico to-tap drop')");
  EXPECT_NE(shape(), before);
  EXPECT_TRUE(pings(a.ns, c.ip)) << "positive control: it is a shape that works";
  ASSERT_NO_FATAL_FAILURE(b.start());
  ASSERT_TRUE(eventually("settled", [&] { return b.report.is_settled(model::endpoint_status_prefix("", "h")); }));
  ASSERT_TRUE(b.up(a));
  EXPECT_EQ(shape(), before);
  EXPECT_EQ(b.described().at("nft").at("commits").to_number<int>(), 1);
  EXPECT_TRUE(pings(a.ns, c.ip));
  EXPECT_TRUE(refused(a.ns, c.ip, 2222));
}

TEST(Felix, FollowsInterfaces) {
  NEEDS_NETNS();
  Bench b;
  Vm a(1), c(2);
  b.group("web", Bench::tcp(22) + "," + Bench::icmp_from("web"));
  b.place({&a}, {"web"});
  ASSERT_NO_FATAL_FAILURE(b.start({&a}));
  // The endpoint first, then its interface.
  b.endpoint(c, {"web"});
  ASSERT_TRUE(eventually("c down", [&] { return b.status_of(c) == R"({"status":"down"})"; }));
  b.plug(c);
  ASSERT_TRUE(b.up(c));
  EXPECT_TRUE(pings(a.ns, c.ip));
  EXPECT_EQ(b.host.run("cat /proc/sys/net/ipv4/conf/" + c.tap + "/proxy_arp"), "1\n");
  EXPECT_EQ(b.host.run("cat /proc/sys/net/ipv6/conf/" + c.tap + "/accept_ra"), "0\n");
  const auto route = b.host.run("ip -N route show " + c.ip);
  EXPECT_NE(route.find("dev " + c.tap + " proto 88 scope 253 metric 1024"), std::string::npos) << route;
  EXPECT_NE(b.host.run("ip neigh show dev " + c.tap).find(c.ip + " lladdr " + c.mac + " PERMANENT"), std::string::npos);

  b.host.run("ip link set " + c.tap + " down");
  ASSERT_TRUE(eventually("c down", [&] { return b.status_of(c) == R"({"status":"down"})"; }));
  EXPECT_EQ(b.host.run("ip route show " + c.ip), "");
  b.host.run("ip link set " + c.tap + " up");
  ASSERT_TRUE(b.up(c));
  EXPECT_TRUE(pings(a.ns, c.ip));
  // Renamed away and back.
  b.host.run("ip link set " + c.tap + " down; ip link set " + c.tap + " name elsewhere");
  ASSERT_TRUE(eventually("c down", [&] { return b.status_of(c) == R"({"status":"down"})"; }));
  b.host.run("ip link set elsewhere name " + c.tap + "; ip link set " + c.tap + " up");
  ASSERT_TRUE(b.up(c));
  EXPECT_TRUE(pings(a.ns, c.ip));
  // A new interface of the same name.
  b.unplug(c);
  ASSERT_TRUE(eventually("c down", [&] { return b.status_of(c) == R"({"status":"down"})"; }));
  b.plug(c);
  ASSERT_TRUE(b.up(c));
  EXPECT_TRUE(pings(a.ns, c.ip));
  // What others take away comes back, what they own stays.
  b.host.run("ip route add 10.99.0.0/24 dev " + c.tap + " proto 4; ip route del " + c.ip + "; ip neigh del " + c.ip +
             " dev " + c.tap);
  EXPECT_TRUE(eventually("route back", [&] { return !b.host.run("ip route show " + c.ip).empty(); }));
  EXPECT_TRUE(eventually("neighbour back", [&] {
    return b.host.run("ip neigh show dev " + c.tap).find("PERMANENT") != std::string::npos;
  }));
  EXPECT_FALSE(b.host.run("ip route show 10.99.0.0/24").empty());
  // Deleted: the status key goes, the route goes, the interface passes nothing.
  b.gone(c);
  EXPECT_TRUE(eventually("status gone", [&] { return b.status_of(c) == "none"; }));
  EXPECT_EQ(b.host.run("ip route show " + c.ip), "");
  EXPECT_FALSE(b.host.run("ip route show 10.99.0.0/24").empty());
  EXPECT_FALSE(pings(c.ns, a.ip, 1));
}

TEST(Felix, UnknownTapsPassNothing) {
  NEEDS_NETNS();
  Bench b;
  Vm a(1), stranger(2);
  b.group("open", Bench::kAll);
  b.plug(a);
  b.plug(stranger);
  b.endpoint(a, {"open"});
  b.host.run("ip route add " + stranger.ip + " dev " + stranger.tap +
             "; echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv4/conf/" + stranger.tap +
             "/proxy_arp");
  EXPECT_TRUE(pings(stranger.ns, "192.168.0.2")) << "positive control: it is connected";
  ASSERT_NO_FATAL_FAILURE(b.start({&a}));
  EXPECT_FALSE(pings(stranger.ns, "192.168.0.2", 1));
  EXPECT_FALSE(pings(stranger.ns, a.ip, 1));
  EXPECT_TRUE(pings(a.ns, "192.168.0.2"));
  EXPECT_FALSE(b.host.run("ip route show " + stranger.ip).empty()) << "a foreign route stays";
}

TEST(Felix, OneBadPolicyClosesOneEndpoint) {
  NEEDS_NETNS();
  Bench b;
  Vm a(1), c(2);
  b.group("good", R"({"action":"Allow"})");
  b.group("bad", R"({"action":"Allow","protocol":"tcp","destination":{"ports":["no such port"]}})");
  for (auto* vm : {&a, &c}) b.plug(*vm);
  b.endpoint(a, {"good"});
  b.endpoint(c, {"good", "bad"});
  ASSERT_NO_FATAL_FAILURE(b.start({&a}));
  ASSERT_TRUE(eventually("c down", [&] { return b.status_of(c) == R"({"status":"down"})"; }));
  EXPECT_TRUE(pings(b.out, a.ip));
  EXPECT_FALSE(pings(b.out, c.ip, 1));
  const std::string why(b.described(c).at("error").as_string());
  EXPECT_NE(why.find("a port's name"), std::string::npos) << why;
  b.group("bad", R"({"action":"Allow","protocol":"tcp","destination":{"ports":[80]}})");
  ASSERT_TRUE(b.up(c));
  EXPECT_TRUE(pings(b.out, c.ip));
}

TEST(Felix, NothingIsTouchedBeforeTheFirstSnapshot) {
  NEEDS_NETNS();
  Bench b(false);
  Vm a(1);
  b.plug(a);
  b.host.run("ip route add " + a.ip + " dev " + a.tap +
             " proto 88; nft add table inet mine; nft add table inet calico-guard");
  const auto before = b.host.run("nft list ruleset; ip route");
  ASSERT_NO_FATAL_FAILURE(b.start());
  {
    std::lock_guard lock(b.mutex);
    EXPECT_NE(b.status.find("waiting for the datastore"), std::string::npos) << b.status;
  }
  EXPECT_EQ(b.host.run("nft list ruleset; ip route"), before);
  EXPECT_FALSE(b.report.is_settled(model::endpoint_status_prefix("", "h")));
  EXPECT_TRUE(b.report.is_claimed(model::endpoint_status_prefix("", "h")));
  EXPECT_TRUE(b.report.leased(model::status_key("", "h"))) << "alive all the same";
  EXPECT_TRUE(b.report.get(model::last_reported_status_key("", "h")));
}

TEST(Felix, GuardUntilTheFirstChange) {
  NEEDS_NETNS();
  Bench b;
  Vm a(1);
  b.plug(a);
  b.host.run("ip route add " + a.ip + " dev " + a.tap +
             "; echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv4/conf/" + a.tap + "/proxy_arp");
  EXPECT_TRUE(pings(a.ns, "192.168.0.2")) << "positive control: without guard it passes";
  const auto guard = [&] {
    return b.host.in([] {
      char name[] = "guard", opt[] = "--config", file[] = "/dev/null";
      char* argv[] = {name, opt, file, nullptr};
      return felix::guard_main(3, argv);
    });
  };
  ASSERT_EQ(guard(), 0);
  EXPECT_NE(b.host.run("nft list tables").find("calico-guard"), std::string::npos);
  EXPECT_FALSE(pings(a.ns, "192.168.0.2", 1));
  EXPECT_FALSE(pings(a.ns, "192.168.0.11", 1));
  Sock dhcp(b.host, SOCK_DGRAM);
  dhcp.bind("0.0.0.0", 67);
  Sock client(a.ns, SOCK_DGRAM);
  client.device("eth0").bind("0.0.0.0", 68);
  client.send("discover", "255.255.255.255", 67);
  EXPECT_EQ(dhcp.receive(), "discover");
  EXPECT_EQ(guard(), 0) << "twice is once";
  b.group("open", Bench::kAll);
  b.endpoint(a, {"open"});
  ASSERT_NO_FATAL_FAILURE(b.start({&a}));
  EXPECT_EQ(b.host.run("nft list tables").find("calico-guard"), std::string::npos);
  EXPECT_TRUE(pings(a.ns, "192.168.0.2"));
  EXPECT_EQ(guard(), 0);
  EXPECT_EQ(b.host.run("nft list tables").find("calico-guard"), std::string::npos) << "nothing beside felix's table";
}

TEST(Felix, AForeignFlushOpensNothing) {
  NEEDS_NETNS();
  Bench b;
  Vm a(1), c(2);
  b.group("web", Bench::icmp_from("web"));
  b.place({&a, &c}, {"web"});
  ASSERT_NO_FATAL_FAILURE(b.start({&a, &c}));
  b.host.run("nft add table inet mine; nft flush ruleset");
  auto l = listener(c.ns, 2222);
  EXPECT_TRUE(eventually("tables there",
                         [&] { return b.host.run("nft list tables").find("inet calico") != std::string::npos; }));
  EXPECT_TRUE(refused(a.ns, c.ip, 2222));
  EXPECT_TRUE(pings(a.ns, c.ip));
  EXPECT_EQ(b.fatal, "");
}

TEST(Felix, TwoEndpointsWithOneAddress) {
  NEEDS_NETNS();
  Bench b;
  Vm a(1), c(2);
  c.ip = a.ip;
  ASSERT_NO_FATAL_FAILURE(b.start_open({&a, &c}));
  const auto leads_to = [&](const Vm& vm) {
    return b.host.run("ip route show " + a.ip).find("dev " + vm.tap + " ") != std::string::npos;
  };
  EXPECT_TRUE(leads_to(c)) << "the interface that came last";
  b.gone(c);
  EXPECT_TRUE(eventually("route back at a", [&] { return leads_to(a); }));
  b.endpoint(c, {"open"});
  EXPECT_TRUE(eventually("route at c", [&] { return leads_to(c); }));
  b.host.run("ip link set " + c.tap + " down");
  EXPECT_TRUE(eventually("route back at a", [&] { return leads_to(a); }));
}

TEST(Felix, ASecondProcessIsRefused) {
  NEEDS_NETNS();
  Bench b;
  Vm a(1);
  b.group("web", Bench::icmp_from("web"));
  b.place({&a}, {"web"});
  ASSERT_NO_FATAL_FAILURE(b.start({&a}));
  const auto before = b.kernel(false);
  auto other = b.host.in([] { return nft::Connection::open(); });
  ASSERT_TRUE(other);
  if (!other->can_persist()) GTEST_SKIP() << "SKIPPED: this kernel has no table owners";
  felix::Firewall second(std::move(*other));
  second.configure({});
  const auto refused = second.load();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::no_permission);
  EXPECT_NE(refused.error().what.find("owned by another process"), std::string::npos) << refused.error().what;
  EXPECT_EQ(b.kernel(false), before);
}

TEST(Felix, WhatTheKernelRefusesIsClosedAlone) {
  NEEDS_NETNS();
  Netns host("host");
  auto connection = host.in([] { return nft::Connection::open(); });
  ASSERT_TRUE(connection);
  felix::Firewall fw(std::move(*connection));
  fw.configure({});
  // Two classes; the policy of one looks into a set that is not there, which only the kernel finds.
  model::Compiler c({.host = "h"});
  c.update(model::network_policy_key("openstack", "good"),
           R"j({"spec":{"selector":"has(good)","ingress":[{"action":"Allow"}]}})j");
  c.update(model::network_policy_key("openstack", "bad"),
           R"j({"spec":{"selector":"has(bad)","ingress":[{"action":"Allow"}]}})j");
  const auto wep = [](int n, const char* label) {
    return fmt::format(
        R"({{"metadata":{{"labels":{{"{}":""}}}},"spec":{{"interfaceName":"tap{}","mac":"fa:16:3e:00:00:01","ipNetworks":["10.0.0.{}/32"]}}}})",
        label, n, n);
  };
  const auto key = [](int n) {
    return model::workload_endpoint_key("openstack", {"h", "openstack", "vm", fmt::format("p{}", n)});
  };
  c.update(key(1), wep(1, "good"));
  c.update(key(2), wep(2, "bad"));
  c.flush();
  auto ruleset = c.ruleset();
  auto& rule = ruleset.chains.at("in/openstack/bad").at(0);
  rule.family = Family::v4;
  rule.src.in_sets = {"no-such-set"};
  fw.stage_all(ruleset);
  ASSERT_TRUE(fw.load());
  const auto added = fw.add();
  ASSERT_TRUE(added) << added.error().what;
  ASSERT_TRUE(fw.remove());
  ASSERT_EQ(fw.refused().size(), 1U);
  EXPECT_TRUE(fw.refused().contains("in/openstack/bad"));
  EXPECT_EQ(fw.fault_of(ruleset.endpoints.at(key(1))), "");
  EXPECT_NE(fw.fault_of(ruleset.endpoints.at(key(2))).find("in/openstack/bad"), std::string::npos);
  EXPECT_TRUE(fw.in_sync());
  const auto chain = [&](const std::string& name) { return host.run("nft list chain inet calico " + name); };
  const auto group = [&](int n) { return std::to_string(ruleset.endpoints.at(key(n)).group); };
  EXPECT_NE(chain("in-" + group(1)).find("jump in/openstack/good"), std::string::npos) << chain("in-" + group(1));
  EXPECT_EQ(chain("in-" + group(2)).find("jump"), std::string::npos) << chain("in-" + group(2));
  EXPECT_NE(chain("in-" + group(2)).find("drop"), std::string::npos);
  // The policy is mended: it opens again.
  model::RulesetDelta d;
  d.chains = {"in/openstack/bad"};
  fw.stage(c.ruleset(), d);
  ASSERT_TRUE(fw.add());
  ASSERT_TRUE(fw.remove());
  EXPECT_TRUE(fw.refused().empty());
  EXPECT_EQ(fw.fault_of(c.ruleset().endpoints.at(key(2))), "");
  EXPECT_NE(chain("in-" + group(2)).find("jump in/openstack/bad"), std::string::npos);
}

TEST(Felix, ConfigurationOfTheDatastore) {
  NEEDS_NETNS();
  Bench b;
  Vm a(1);
  ASSERT_NO_FATAL_FAILURE(b.start_open({&a}));
  auto l = listener(b.host, 8080);
  Sock metadata(b.host, SOCK_STREAM);
  metadata.bind("127.0.0.1", 8775).listen();
  EXPECT_TRUE(refused(a.ns, "169.254.169.254", 80));
  EXPECT_TRUE(refused(a.ns, "192.168.0.11", 8080));
  b.view.set(
      model::felix_configuration_key("default"),
      R"({"spec":{"metadataAddr":"127.0.0.1","defaultEndpointToHostAction":"Accept","interfacePrefix":"cali"}})");
  b.view.set(model::felix_configuration_key("node.h"), R"({"spec":{"interfacePrefix":"cali,tap"}})");
  EXPECT_TRUE(eventually("metadata", [&] { return reaches(a.ns, "169.254.169.254", 80, 300); }));
  EXPECT_TRUE(reaches(a.ns, "192.168.0.11", 8080)) << "what its policy allows";
  b.host.run("ip link add gw type bridge; ip link set gw up; ip addr add 10.65.0.1/32 dev gw scope link");
  EXPECT_TRUE(reaches(a.ns, "10.65.0.1", 8080)) << "the gateway's address is the host";
  auto ssh = listener(b.host, 22);
  EXPECT_TRUE(reaches(b.out, "192.168.0.11", 22)) << "positive control: it listens";
  for (const auto* own : {"192.168.0.11", "10.65.0.1"}) EXPECT_TRUE(refused(a.ns, own, 22)) << own;
  EXPECT_TRUE(b.up(a));
  b.view.set(model::felix_configuration_key("default"), std::nullopt);
  b.view.set(model::felix_configuration_key("node.h"), std::nullopt);
  EXPECT_TRUE(eventually("closed again", [&] { return !reaches(a.ns, "192.168.0.11", 8080, 300); }));
  EXPECT_TRUE(b.up(a));
  EXPECT_TRUE(pings(b.out, a.ip));
}

TEST(Felix, LostEventsAreMadeUpFor) {
  NEEDS_NETNS();
  Bench b;
  Vm a(1), c(2);
  b.group("open", Bench::kAll);
  for (auto* vm : {&a, &c}) b.plug(*vm);
  b.endpoint(a, {"open"});
  ASSERT_NO_FATAL_FAILURE(b.start({&a}));
  // Felix's loop stands still while the kernel tells more than its queue holds; what it must know comes last.
  b.block = true;
  b.endpoint(c, {"open"});
  ASSERT_TRUE(eventually("the loop held", [&] { return b.blocked.load(); }));
  std::string batch;
  for (int i = 0; i < 60000; ++i) batch += fmt::format("route add 20.{}.{}.0/24 dev eth0\n", i / 250, i % 250);
  const auto file = "/tmp/calico-felix-" + std::to_string(getpid());
  std::ofstream(file) << batch;
  b.host.run("ip -batch " + file);
  ::unlink(file.c_str());
  b.host.run("ip route del " + a.ip + "; ip link set " + c.tap + " down");
  b.block = false;
  EXPECT_TRUE(eventually("the route again", [&] { return !b.host.run("ip route show " + a.ip).empty(); }));
  EXPECT_TRUE(eventually("c down", [&] { return b.status_of(c) == R"({"status":"down"})"; }));
  EXPECT_TRUE(b.up(a));
}

}  // namespace
}  // namespace calico::test
