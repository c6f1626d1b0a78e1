// Path MTU discovery: whoever finds a packet too big can say so to its sender, whatever policy allows.
#include "tests/netns/felix/bench.hpp"

namespace calico::test {
namespace {

/// What `ns` has learned of the path to `ip`; 0 = nothing.
int learned(const Netns& ns, const std::string& ip) {
  const auto text = ns.run("ip route get " + ip);
  const auto at = text.find(" mtu ");
  return at == text.npos ? 0 : std::stoi(text.substr(at + 5));
}
/// Packets of 1,450 bytes that nobody may fragment, until the sender knows better.
testing::AssertionResult learns(const Netns& ns, const std::string& ip, int mtu) {
  return eventually(fmt::format("the path's MTU to {}", ip), [&] {
    ns.try_run("ping -M do -c 1 -W 1 -s " + std::to_string(is_v6(ip) ? 1402 : 1422) + " " + ip);
    return learned(ns, ip) == mtu;
  });
}

struct Path : testing::Test {
  void SetUp() override {
    NEEDS_NETNS();
    b = std::make_unique<Bench>();
    vm = std::make_unique<Vm>(1);
    // Calls out, lets nobody in.
    b->group("shut", "");
    b->plug(*vm);
    b->endpoint(*vm, {"shut"});
    far = std::make_unique<Netns>("far");
    veth(b->out, "far0", *far, "eth0");
    b->out.run(
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1; ip addr add 203.0.113.1/24 dev far0; ip -6 "
        "addr add 2001:db8::1/64 dev far0 nodad");
    far->run(
        "ip addr add 203.0.113.2/24 dev eth0; ip -6 addr add 2001:db8::2/64 dev eth0 nodad; ip route add default via "
        "203.0.113.1; ip -6 route add default via 2001:db8::1");
    b->host.run("ip -6 route add default via fd00::2");
    ASSERT_NO_FATAL_FAILURE(b->start());
    ASSERT_TRUE(b->up(*vm));
    ASSERT_TRUE(pings(vm->ns, "203.0.113.2", 10));
    ASSERT_TRUE(pings(vm->ns, "2001:db8::2", 10));
    ASSERT_FALSE(pings(*far, vm->ip, 1)) << "nobody may begin";
  }
  std::unique_ptr<Bench> b;
  std::unique_ptr<Vm> vm;
  std::unique_ptr<Netns> far;
};
using FelixPathMtu = Path;

TEST_F(FelixPathMtu, TheHostSaysSo) {
  b->host.run("ip link set eth0 mtu 1400");
  EXPECT_TRUE(learns(vm->ns, "203.0.113.2", 1400));
  EXPECT_TRUE(learns(vm->ns, "2001:db8::2", 1400));
}

TEST_F(FelixPathMtu, ARouterBehindSaysSo) {
  b->out.run("ip link set far0 mtu 1300");
  EXPECT_TRUE(learns(vm->ns, "203.0.113.2", 1300));
  EXPECT_TRUE(learns(vm->ns, "2001:db8::2", 1300));
}

/// The other way: what answers the VM learns that the VM's link is narrow, from the host in front of it.
TEST_F(FelixPathMtu, TheHostSaysSoToWhoSendsToAVm) {
  b->group("shut", R"({"action":"Allow","protocol":"ICMP"},{"action":"Allow","protocol":"ICMPv6"})");
  ASSERT_TRUE(eventually("open for pings", [&] { return pings(*far, vm->ip, 1); }));
  b->host.run("ip link set " + vm->tap + " mtu 1350");
  EXPECT_TRUE(learns(*far, vm->ip, 1350));
  EXPECT_TRUE(learns(*far, vm->ip6, 1350));
}

/// Through a floating IP the inner packet is translated back too.
TEST_F(FelixPathMtu, ThroughAFloatingIp) {
  b->endpoint(*vm, {"shut"}, [&](model::WorkloadEndpoint& w) {
    w.ip_nats = {{*Ip::parse(vm->ip), *Ip::parse("172.18.0.1")}};
  });
  b->group("shut", R"({"action":"Allow","protocol":"ICMP"})");
  b->out.run("ip route add 172.18.0.1 via 192.168.0.11");
  ASSERT_TRUE(eventually("the floating IP", [&] { return pings(*far, "172.18.0.1", 1); }));
  b->host.run("ip link set " + vm->tap + " mtu 1350");
  EXPECT_TRUE(learns(*far, "172.18.0.1", 1350));
}

}  // namespace
}  // namespace calico::test
