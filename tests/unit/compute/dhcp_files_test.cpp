// The files dnsmasq reads, from intent: compared line by line with what the real agent writes for the same data.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "modules/compute/dhcp_files.hpp"

namespace calico::compute {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr const char* kSubnet4 =
    R"({"network_id":"net-1","cidr":"10.65.0.0/24","host_routes":[],"gateway_ip":"10.65.0.1","dns_servers":["9.9.9.9"]})";
constexpr const char* kSubnet6 =
    R"({"network_id":"net-1","cidr":"fd65::/64","host_routes":[],"gateway_ip":"fd65::1","ipv6_ra_mode":"dhcpv6-stateful","ipv6_address_mode":"dhcpv6-stateful"})";

Subnets subnets() {
  Subnets s;
  s["s4"] = *model::parse_subnet(kSubnet4);
  s["s6"] = *model::parse_subnet(kSubnet6);
  return s;
}

DhcpPort port(const std::string& id, const std::string& mac, std::vector<std::string> ips) {
  DhcpPort p;
  p.port_id = id;
  p.interface = "tap" + id;
  p.network_id = "net-1";
  p.mac = *Mac::parse(mac);
  for (const auto& ip : ips) p.addresses.push_back(*Ip::parse(ip));
  return p;
}

DhcpFiles files_of(const Subnets& s, const Ports& p) {
  return dhcp_files(s, p, subnets_in_use(s, p), "/run/d", "ns-calico-dhcp");
}

// Its tag for each port aside: dnsmasq does not survive reading tagged hosts again (DhcpFiles::tagged_hosts).
TEST(DhcpFiles, WhatTheRealAgentWrites) {
  Ports p;
  p["a"] = port("03cf514f-a0c1-4dac-8e48-0b4eacd70474", "fa:16:3e:4d:bb:e4", {"10.65.0.11"});
  p["a"].mtu = 1500;
  p["b"] = port("b", "fa:16:3e:89:63:e8", {"10.65.0.17", "fd65::17"});
  const auto f = files_of(subnets(), p);
  EXPECT_EQ(f.hosts,
            "fa:16:3e:4d:bb:e4,host-10-65-0-11.openstacklocal,10.65.0.11\n"
            "fa:16:3e:89:63:e8,host-10-65-0-17.openstacklocal,10.65.0.17\n"
            "fa:16:3e:89:63:e8,tag:dhcpv6,host-fd65--17.openstacklocal,[fd65::17]\n");
  EXPECT_EQ(f.opts,
            "tag:subnet-s4,option:dns-server,9.9.9.9\n"
            "tag:subnet-s4,option:router,10.65.0.1\n"
            "tag:subnet-s6,option6:domain-search,openstacklocal\n"
            "option:mtu,1500\n");
  EXPECT_FALSE(f.tagged_hosts);
  EXPECT_EQ(f.names,
            "10.65.0.11\thost-10-65-0-11.openstacklocal host-10-65-0-11\n"
            "10.65.0.17\thost-10-65-0-17.openstacklocal host-10-65-0-17\n"
            "fd65::17\thost-fd65--17.openstacklocal host-fd65--17\n");
  EXPECT_THAT(f.conf, HasSubstr("dhcp-range=set:subnet-s4,10.65.0.0,static,255.255.255.0,86400s\n"));
  EXPECT_THAT(f.conf, HasSubstr("dhcp-range=set:subnet-s6,fd65::,static,off-link,64,86400s\n"));
  EXPECT_THAT(f.conf, HasSubstr("bridge-interface=ns-calico-dhcp,tap*\n"));
  ASSERT_EQ(f.gateways.size(), 2U);
  EXPECT_EQ(f.gateways[0].to_string(), "10.65.0.1/24");
}

TEST(DhcpFiles, AnUnusualMtuHasATag) {
  Ports p;
  p["a"] = port("a", "fa:16:3e:00:00:01", {"10.65.0.11"});
  p["b"] = port("b", "fa:16:3e:00:00:02", {"10.65.0.12"});
  p["c"] = port("c", "fa:16:3e:00:00:03", {"10.65.0.13"});
  p["a"].mtu = p["b"].mtu = 1500;
  p["c"].mtu = 8950;
  const auto f = files_of(subnets(), p);
  EXPECT_TRUE(f.tagged_hosts);
  EXPECT_THAT(f.opts, HasSubstr("\noption:mtu,1500\ntag:port-c,option:mtu,8950\n"));
  EXPECT_THAT(f.hosts, HasSubstr("10.65.0.12\n"));
  EXPECT_THAT(f.hosts, HasSubstr("10.65.0.13,set:port-c\n"));
}

TEST(DhcpFiles, OnlySubnetsOfLocalPortsAndOfTheirNetwork) {
  Ports p;
  p["a"] = port("a", "fa:16:3e:00:00:01", {"10.65.0.11"});
  EXPECT_EQ(subnets_in_use(subnets(), p), std::set<std::string>{"s4"});
  p["a"].network_id = "another";
  EXPECT_TRUE(subnets_in_use(subnets(), p).empty());
  EXPECT_EQ(files_of(subnets(), p).hosts, "");
  p["a"].network_id = "";
  EXPECT_EQ(subnets_in_use(subnets(), p), std::set<std::string>{"s4"});
}

TEST(DhcpFiles, HostRoutesCarryTheDefaultRouteToo) {
  Subnets s;
  s["x"] = *model::parse_subnet(
      R"({"network_id":"net-1","cidr":"10.65.0.0/24","gateway_ip":"10.65.0.1","host_routes":[{"destination":"198.51.100.0/24","nexthop":"10.65.0.9"}]})");
  Ports p;
  p["a"] = port("a", "fa:16:3e:00:00:01", {"10.65.0.11"});
  const auto f = files_of(s, p);
  EXPECT_THAT(f.opts, HasSubstr("tag:subnet-x,option:dns-server,10.65.0.1\n"));
  EXPECT_THAT(f.opts,
              HasSubstr("tag:subnet-x,option:classless-static-route,198.51.100.0/24,10.65.0.9,0.0.0.0/0,10.65.0.1\n"));
  EXPECT_THAT(f.opts, HasSubstr("tag:subnet-x,249,198.51.100.0/24,10.65.0.9,0.0.0.0/0,10.65.0.1\n"));
}

TEST(DhcpFiles, HostileTextNeverReachesAFile) {
  Ports p;
  p["a"] = port("a\nb", "fa:16:3e:00:00:01", {"10.65.0.11"});
  p["a"].fqdn = "x,10.0.0.1\nfa:16:3e:00:00:02,evil";
  p["a"].mtu = 1500;
  auto s = subnets();
  s["bad\nid"] = s["s4"];
  const auto f = files_of(s, p);
  EXPECT_EQ(f.hosts, "fa:16:3e:00:00:01,host-10-65-0-11.openstacklocal,10.65.0.11\n");
  EXPECT_THAT(f.opts + f.conf + f.names, Not(HasSubstr("evil")));
  EXPECT_THAT(f.opts + f.conf, Not(HasSubstr("bad\n")));
}

TEST(DhcpFiles, AnAddressThatChangedHandsIsNoLongerLeased) {
  Ports p;
  p["a"] = port("a", "fa:16:3e:00:00:01", {"10.65.0.11"});
  const std::string file =
      "1700000000 fa:16:3e:00:00:09 10.65.0.11 host-10-65-0-11 *\n"
      "1700000000 fa:16:3e:00:00:07 10.65.0.12 host-10-65-0-12 *\n"
      "duid 00:01\n";
  EXPECT_TRUE(has_foreign_lease(file, p));
  const auto kept = without_foreign_leases(file, p);
  EXPECT_EQ(kept, "1700000000 fa:16:3e:00:00:07 10.65.0.12 host-10-65-0-12 *\nduid 00:01\n");
  EXPECT_FALSE(has_foreign_lease(kept, p));
  EXPECT_FALSE(has_foreign_lease("garbage", p));
}

TEST(DhcpPort, FixedAddressesOnlyAndTheDriversSpelling) {
  auto p = dhcp_port(
      R"({"metadata":{"annotations":{"openstack.projectcalico.org/network-id":"n","openstack.projectcalico.org/fqdn":"web-1.cloud.example."}},
    "spec":{"endpoint":"e","interfaceName":"tape","mac":"fa:16:3e:00:00:01","ipNetworks":["10.65.0.24/32","10.65.0.200/32","10.1.2.0/28/32"],"allowedIps":["10.65.0.200/32","10.1.2.0/28/32"]}})");
  ASSERT_TRUE(p) << p.error().what;
  ASSERT_EQ(p->addresses.size(), 1U);
  EXPECT_EQ(p->addresses[0].to_string(), "10.65.0.24");
  EXPECT_EQ(p->fqdn, "web-1.cloud.example");
  EXPECT_EQ(p->network_id, "n");
  EXPECT_FALSE(dhcp_port("{"));
  EXPECT_FALSE(dhcp_port(R"({"spec":{}})"));
}

}  // namespace
}  // namespace calico::compute
