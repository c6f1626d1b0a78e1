// Live migration as the target host sees it. The FSM alone: tests/unit/felix.
#include "tests/netns/felix/bench.hpp"

namespace calico::test {
namespace {

std::string move_key(const Vm& vm) {
  return model::live_migration_key("openstack", {"h", "openstack", fmt::format("vm{}", vm.n), vm.port});
}
std::string move(const Vm& vm) {
  return fmt::format(
      R"({{"spec":{{"source":{{"workloadEndpoint":{{"hostname":"other","workloadID":"openstack/vm{0}","endpointID":"{1}"}}}},
           "target":{{"workloadEndpoint":{{"hostname":"h","workloadID":"openstack/vm{0}","endpointID":"{1}"}}}}}}}})",
      vm.n, vm.port);
}

/// A VM whose hypervisor has attached it but not let it run: carrier, and not one frame.
void plug_paused(Bench& b, const Vm& vm) {
  vm.ns.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
  b.plug(vm, false);
}
void resume(const Vm& vm) {
  vm.ns.run("ip addr add " + vm.ip + "/24 dev eth0; ip route add default via 10.65.0.1");
  vm.ns.try_run("ping -c 1 -W 1 10.65.0.1");
}
std::string routes(const Bench& b, const Vm& vm) { return b.host.run("ip -N route show " + vm.ip); }
bool has_route(const Bench& b, const Vm& vm, int metric) {
  const auto r = routes(b, vm);
  return r.find(fmt::format("dev {} proto 88 scope 253 metric {}", vm.tap, metric)) != std::string::npos &&
         std::count(r.begin(), r.end(), '\n') == 1;
}

TEST(FelixMigration, TheTargetWaitsForTheVm) {
  NEEDS_NETNS();
  Bench b;
  b.sets.push_back("felix.migration_convergence=2s");
  Vm a(1);
  b.group("open", Bench::kAll);
  b.view.set(move_key(a), move(a));
  b.endpoint(a, {"open"});
  plug_paused(b, a);
  ASSERT_NO_FATAL_FAILURE(b.start());
  ASSERT_TRUE(b.up(a)) << "nova waits for that";
  EXPECT_EQ(routes(b, a), "");
  EXPECT_EQ(b.host.run("cat /proc/sys/net/ipv4/conf/" + a.tap + "/proxy_arp"), "0\n");
  EXPECT_EQ(b.described(a).at("migration").as_string(), "target");
  // What goes to the VM is no sign of it, and neither is another's frame.
  b.host.try_run("ping -c 1 -W 1 -I " + a.tap + " " + a.ip);
  a.ns.run("ip link set eth0 address fa:16:3e:00:00:77");
  a.ns.run("ip addr add 10.65.0.99/24 dev eth0");
  a.ns.try_run("ping -c 1 -W 1 10.65.0.1");
  a.ns.run("ip addr del 10.65.0.99/24 dev eth0; ip link set eth0 address " + a.mac);
  EXPECT_EQ(routes(b, a), "");

  resume(a);
  ASSERT_TRUE(eventually("elevated route", [&] { return has_route(b, a, 512); })) << routes(b, a);
  ASSERT_TRUE(eventually("proxy_arp",
                         [&] { return b.host.run("cat /proc/sys/net/ipv4/conf/" + a.tap + "/proxy_arp") == "1\n"; }));
  ASSERT_TRUE(pings(b.out, a.ip));
  // A restart of felix in the middle leaves it.
  b.stop();
  EXPECT_TRUE(has_route(b, a, 512));
  ASSERT_NO_FATAL_FAILURE(b.start({&a}));
  EXPECT_TRUE(has_route(b, a, 512)) << routes(b, a);
  EXPECT_EQ(b.described().at("rtnetlink_writes").to_number<int>(), 0);

  // The end: elevated until the others have converged, then as all; not one packet is lost in the change.
  const auto key = model::endpoint_status_key("", "openstack", {"h", "openstack", "vm1", a.port});
  b.view.set(move_key(a), std::nullopt);
  std::string lost;
  std::thread pinging([&] { lost = b.out.run("ping -i 0.01 -c 400 -q " + a.ip); });
  EXPECT_TRUE(eventually("normal route", [&] { return has_route(b, a, 1024); })) << routes(b, a);
  pinging.join();
  EXPECT_NE(lost.find(" 0% packet loss"), std::string::npos) << lost;
  EXPECT_TRUE(eventually("state said again", [&] { return b.report.repeated(key) == 1; }));
  EXPECT_EQ(b.described(a).at("migration").as_string(), "base");
}

TEST(FelixMigration, NeverHeardAndFailed) {
  NEEDS_NETNS();
  Bench b;
  b.sets.push_back("felix.migration_convergence=1s");
  Vm a(1), c(2);
  for (auto* vm : {&a, &c}) {
    b.view.set(move_key(*vm), move(*vm));
    b.endpoint(*vm, {});
    plug_paused(b, *vm);
  }
  ASSERT_NO_FATAL_FAILURE(b.start());
  for (auto* vm : {&a, &c}) {
    ASSERT_TRUE(b.up(*vm));
    EXPECT_EQ(routes(b, *vm), "");
  }
  // Given up: the endpoint leaves with the migration.
  b.view.set(move_key(c), std::nullopt);
  b.gone(c);
  ASSERT_TRUE(eventually("c gone", [&] { return b.status_of(c) == "none"; }));
  EXPECT_EQ(routes(b, c), "");
  // Over without a word from the VM: it is here all the same.
  b.view.set(move_key(a), std::nullopt);
  ASSERT_TRUE(eventually("a route", [&] { return !routes(b, a).empty(); }));
  EXPECT_TRUE(eventually("normal route", [&] { return has_route(b, a, 1024); })) << routes(b, a);
}

}  // namespace
}  // namespace calico::test
