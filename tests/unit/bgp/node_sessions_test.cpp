#include "core/bgp/node_sessions.hpp"

#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "core/sync/reporter.hpp"

namespace calico::bgp {
namespace {

Ip ip(const char* text) { return *Ip::parse(text); }

model::Node node(const char* v4, const char* v6 = nullptr, const char* cluster = nullptr) {
  model::Node n;
  if (v4) n.bgp_ipv4 = Prefix{ip(v4), 24};
  if (v6) n.bgp_ipv6 = Prefix{ip(v6), 64};
  if (cluster) n.route_reflector_cluster_id = ip(cluster);
  return n;
}
Self self(const char* name, const char* v4, const char* v6 = nullptr, bool reflector = false) {
  Self s;
  s.name = name;
  s.as = Asn{64512};
  s.reflector = reflector;
  if (v4) s.ipv4 = ip(v4);
  if (v6) s.ipv6 = ip(v6);
  return s;
}

const Nodes kCloud{{"c1", node("192.0.2.11")},
                   {"c2", node("192.0.2.12")},
                   {"rr1", node("192.0.2.1", nullptr, "192.0.2.1")},
                   {"rr2", node("192.0.2.2", nullptr, "192.0.2.2")}};

std::vector<std::string> names(const std::vector<PeerConfig>& peers) {
  std::vector<std::string> out;
  for (const auto& p : peers) out.push_back(p.name + (p.route_reflector_client ? "*" : ""));
  return out;
}
using Names = std::vector<std::string>;

TEST(NodeSessions, AComputePeersWithTheReflectorsOnly) {
  const auto peers = peers_from_nodes(kCloud, self("c1", "192.0.2.11"));
  ASSERT_EQ(names(peers), (Names{"rr1", "rr2"}));
  EXPECT_EQ(peers[0].address, ip("192.0.2.1"));
  EXPECT_EQ(peers[0].remote_as, Asn{64512});
  EXPECT_EQ(peers[0].from, Origin::datastore);
  EXPECT_TRUE(peers[0].ipv4 && peers[0].ipv6) << "one session carries both families";
}

TEST(NodeSessions, AReflectorHasClientsAndOtherReflectorsAsNonClients) {
  EXPECT_EQ(names(peers_from_nodes(kCloud, self("rr1", "192.0.2.1", nullptr, true))), (Names{"c1*", "c2*", "rr2"}));
}

TEST(NodeSessions, BothEndsAgree) {
  Nodes all;
  all["c1"] = node("192.0.2.11", "2001:db8::11");
  all["c2"] = node("192.0.2.12");
  all["c3"] = node(nullptr, "2001:db8::13");
  all["r1"] = node("192.0.2.1", "2001:db8::1", "192.0.2.1");
  all["r2"] = node("192.0.2.2", nullptr, "192.0.2.2");
  const auto of = [&](const std::string& name) {
    const auto& n = all.at(name);
    Self s;
    s.name = name;
    s.as = Asn{64512};
    s.reflector = n.is_reflector();
    if (n.bgp_ipv4) s.ipv4 = n.bgp_ipv4->addr;
    if (n.bgp_ipv6) s.ipv6 = n.bgp_ipv6->addr;
    return peers_from_nodes(all, s);
  };
  int sessions = 0;
  for (const auto& [a, na] : all) {
    for (const auto& p : of(a)) {
      ++sessions;
      const auto owner = std::find_if(all.begin(), all.end(), [&](const auto& e) {
        const auto addresses = e.second.all_addresses();
        return std::find(addresses.begin(), addresses.end(), p.address) != addresses.end();
      });
      ASSERT_NE(owner, all.end());
      const auto back = of(owner->first);
      const auto mine = p.address.is_v4() ? na.bgp_ipv4->addr : na.bgp_ipv6->addr;
      const auto it = std::find_if(back.begin(), back.end(), [&](const auto& q) { return q.address == mine; });
      ASSERT_NE(it, back.end()) << owner->first << " does not peer back with " << a;
      EXPECT_EQ(it->ipv4, p.ipv4);
      EXPECT_EQ(it->ipv6, p.ipv6);
    }
  }
  EXPECT_EQ(sessions, 2 * (2 + 1 + 1 + 1 + 1 + 1)) << "c1-r1 twice, c1-r2, c2-r1, c2-r2, c3-r1, r1-r2";
}

TEST(NodeSessions, TwoFamiliesAreTwoSessions) {
  Nodes all{{"rr", node("192.0.2.1", "2001:db8::1", "192.0.2.1")}};
  const auto peers = peers_from_nodes(all, self("c", "192.0.2.11", "2001:db8::11"));
  ASSERT_EQ(names(peers), (Names{"rr", "rr_v6"}));
  EXPECT_TRUE(peers[0].ipv4 && !peers[0].ipv6);
  EXPECT_TRUE(!peers[1].ipv4 && peers[1].ipv6);
  EXPECT_EQ(peers[1].address, ip("2001:db8::1"));
}

TEST(NodeSessions, WhatCannotBeANeighbourIsLeftOutWithItsReason) {
  Nodes all{{"a", node("192.0.2.1", nullptr, "1.1.1.1")},   {"b", node("192.0.2.1", nullptr, "1.1.1.1")},
            {"c", node("127.0.0.1", nullptr, "1.1.1.1")},   {"d", node("192.0.2.11", nullptr, "1.1.1.1")},
            {"e", node(nullptr, "2001:db8::1", "1.1.1.1")}, {"f", node("0.0.0.0", nullptr, "1.1.1.1")},
            {"g", node("224.0.0.5", nullptr, "1.1.1.1")},   {"h", node("192.0.2.3", nullptr, "1.1.1.1")}};
  std::vector<std::string> ignored;
  EXPECT_EQ(names(peers_from_nodes(all, self("me", "192.0.2.11"), &ignored)), (Names{"a", "h"}));
  EXPECT_EQ(ignored.size(), 6U);
  EXPECT_EQ(ignored[0], "Node b: 192.0.2.1 is also Node a's address");
}

TEST(NodeSessions, NamesAreUnique) {
  Nodes all{{"a", node("192.0.2.1", "2001:db8::1", "1.1.1.1")}, {"a_v6", node("192.0.2.2", nullptr, "1.1.1.1")}};
  auto n = names(peers_from_nodes(all, self("me", "192.0.2.11", "2001:db8::11")));
  EXPECT_EQ(n.size(), 3U);
  EXPECT_EQ(std::set<std::string>(n.begin(), n.end()).size(), 3U);
}

TEST(NodeSessions, ANodeOfAnotherAsIsNoClient) {
  auto n = node("192.0.2.11");
  n.as_number = Asn{65001};
  const auto peers = peers_from_nodes({{"c", n}}, self("rr", "192.0.2.1", nullptr, true));
  ASSERT_EQ(peers.size(), 1U);
  EXPECT_EQ(peers[0].remote_as, Asn{65001});
  EXPECT_FALSE(peers[0].route_reflector_client);
}

TEST(OwnNodeResource, ReadsBackAndForgetsAFormerRole) {
  OwnNode own;
  own.name = "rr1";
  own.roles = {"controller", "route-reflector"};
  own.as = Asn{64512};
  own.ipv4 = Prefix{ip("192.0.2.1"), 24};
  own.cluster_id = ip("192.0.2.1");
  own.addresses = {ip("198.51.100.7"), ip("192.0.2.1"), ip("192.0.2.1"), ip("2001:db8::7")};
  auto first = sync::merge_node("", own.name, node_labels(own), node_spec(own), "u", "2026-01-01T00:00:00Z");
  ASSERT_TRUE(first) << first.error().what;
  auto read = model::parse_node(*first);
  ASSERT_TRUE(read) << read.error().what << *first;
  EXPECT_TRUE(read->is_reflector());
  EXPECT_EQ(roles_of(*read), (Names{"controller", "route-reflector"}));
  EXPECT_EQ(read->bgp_ipv4, own.ipv4);
  EXPECT_EQ(read->as_number, own.as);
  EXPECT_EQ(read->all_addresses(), (std::vector<Ip>{ip("192.0.2.1"), ip("198.51.100.7"), ip("2001:db8::7")}));

  own.roles = {"compute"};
  own.cluster_id.reset();
  auto second = sync::merge_node(*first, own.name, node_labels(own), node_spec(own), "u2", "2027-01-01T00:00:00Z");
  ASSERT_TRUE(second);
  read = model::parse_node(*second);
  ASSERT_TRUE(read);
  EXPECT_FALSE(read->is_reflector());
  EXPECT_EQ(roles_of(*read), (Names{"compute"}));
  EXPECT_EQ(read->meta.uid, "u");
}

}  // namespace
}  // namespace calico::bgp
