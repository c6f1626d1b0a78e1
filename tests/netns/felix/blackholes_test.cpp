// Unused addresses of Neutron's subnets, with and without blackhole routes.
#include "tests/netns/felix/bench.hpp"

namespace calico::test {
namespace {

std::string subnet_key(const std::string& id, const std::string& region = "") { return model::subnet_key(region, id); }
std::string subnet(const std::string& cidr, const std::string& gateway = "") {
  return fmt::format(R"({{"network_id":"n","cidr":"{}",{}"host_routes":[],"dns_servers":[]}})", cidr,
                     gateway.empty() ? "" : fmt::format(R"("gateway_ip":"{}",)", gateway));
}
std::string blackholes(Bench& b) {
  std::string out;
  std::istringstream in(b.host.run("ip -N route show type blackhole; ip -N -6 route show type blackhole"));
  for (std::string word, line; std::getline(in, line);) {
    std::istringstream words(line);
    words >> word >> word;
    out += word + " ";
  }
  return out;
}

TEST(FelixBlackholes, OfUnusedAddresses) {
  NEEDS_NETNS();
  Bench b;
  Vm vm(1);
  b.group("open", Bench::kAll);
  b.place({&vm}, {"open"});
  b.view.set(subnet_key("1"), subnet("10.65.0.0/24", "10.65.0.1"));
  b.view.set(subnet_key("2"), subnet("fd65::/64"));
  b.view.set(subnet_key("3"), subnet("10.65.0.0/24"));
  b.view.set(subnet_key("4", "elsewhere"), subnet("10.67.0.0/24"));
  // A mistake in Neutron: the nodes' own network, and everything.
  b.view.set(subnet_key("5"), subnet("192.168.0.0/16"));
  b.view.set(subnet_key("6"), subnet("0.0.0.0/0"));
  b.view.set(subnet_key("7"), "{");
  b.out.run("ip addr add 10.65.0.99/32 dev eth0");  // what such a packet reaches by the default route
  ASSERT_NO_FATAL_FAILURE(b.start({&vm}));
  EXPECT_EQ(blackholes(b), "") << "only who asks for it";
  EXPECT_TRUE(pings(vm.ns, "10.65.0.99", 10));
  b.stop();

  b.sets.push_back("felix.blackhole_subnets=yes");
  ASSERT_NO_FATAL_FAILURE(b.start({&vm}));
  // All of the block but its gateway.
  const std::string first =
      "10.65.0.0 10.65.0.2/31 10.65.0.4/30 10.65.0.8/29 10.65.0.16/28 10.65.0.32/27 10.65.0.64/26 10.65.0.128/25 ";
  const auto both = first + "fd65::/64 ";
  ASSERT_TRUE(eventually("two routes", [&] { return blackholes(b) == both; })) << blackholes(b);
  EXPECT_FALSE(pings(vm.ns, "10.65.0.99", 1));
  EXPECT_TRUE(pings(b.out, vm.ip)) << "an endpoint's route is longer";
  EXPECT_TRUE(pings(vm.ns, "192.168.0.2")) << "nodes stay reachable";

  // Deleted by somebody: back at the kernel's event.
  b.host.run("ip route del blackhole 10.65.0.64/26");
  EXPECT_TRUE(eventually("the route again", [&] { return blackholes(b) == both; }));
  // One of two subnets of one block goes, then the other.
  b.view.set(subnet_key("3"), std::nullopt);
  b.view.set(subnet_key("8"), subnet("10.68.0.0/24"));
  EXPECT_TRUE(eventually("one more", [&] { return blackholes(b) == first + "10.68.0.0/24 fd65::/64 "; }));
  b.view.set(subnet_key("1"), std::nullopt);
  EXPECT_TRUE(eventually("one less", [&] { return blackholes(b) == "10.68.0.0/24 fd65::/64 "; }));
  // A node appears in one.
  b.view.set(model::node_key("late"), R"({"spec":{"bgp":{"ipv4Address":"10.68.0.7/24"}}})");
  EXPECT_TRUE(eventually("the node's goes", [&] { return blackholes(b) == "fd65::/64 "; }));
  b.view.set(model::node_key("late"), std::nullopt);
  EXPECT_TRUE(eventually("it may again", [&] { return blackholes(b) == "10.68.0.0/24 fd65::/64 "; }));

  // A restart writes nothing, and one without the setting takes them away.
  const auto before = b.kernel(false);
  b.stop();
  ASSERT_NO_FATAL_FAILURE(b.start({&vm}));
  EXPECT_EQ(b.kernel(false), before);
  b.stop();
  b.sets.pop_back();
  ASSERT_NO_FATAL_FAILURE(b.start({&vm}));
  EXPECT_TRUE(eventually("none", [&] { return blackholes(b).empty(); }));
}

}  // namespace
}  // namespace calico::test
