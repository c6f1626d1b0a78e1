// All sources of sessions together: who wins, what is named, what fails closed, and what a change touches.
#include "core/bgp/resource_sessions.hpp"

#include <gtest/gtest.h>

#include "core/bgp/policy/policy_text.hpp"

namespace calico::bgp {
namespace {

Ip ip(const char* text) { return *Ip::parse(text); }

model::Node node(const char* v4, model::Labels labels = {}, const char* cluster = nullptr) {
  model::Node n;
  n.bgp_ipv4 = Prefix{ip(v4), 24};
  n.meta.labels = std::move(labels);
  if (cluster) n.route_reflector_cluster_id = ip(cluster);
  return n;
}

class ResourceSessions : public testing::Test {
 protected:
  ResourceSessions() {
    self_.name = "c1";
    self_.as = Asn{64512};
    self_.ipv4 = ip("192.0.2.11");
    nodes_ = {{"c1", node("192.0.2.11", {{"rack", "a"}})},
              {"c2", node("192.0.2.12", {{"rack", "b"}})},
              {"c3", node("192.0.2.13", {{"rack", "a"}})}};
    secret_ = [this](const model::BgpPeer::Secret& s) -> Result<std::string> {
      const auto it = secrets_.find(s.name + "/" + s.key);
      if (it == secrets_.end()) return fail(Errc::not_found, "no file");
      return it->second;
    };
  }
  void peer(const std::string& name, const std::string& spec) {
    auto p = model::parse_bgp_peer(R"({"spec":)" + spec + "}");
    ASSERT_TRUE(p) << p.error().what;
    resources_.peers.insert_or_assign(name, *p);
  }
  void filter(const std::string& name, const std::string& spec) {
    auto f = model::parse_bgp_filter(R"({"spec":)" + spec + "}").and_then(rules_of);
    ASSERT_TRUE(f) << f.error().what;
    resources_.filters.insert_or_assign(name, *f);
  }
  void configuration(const std::string& name, const std::string& spec) {
    auto c = model::parse_bgp_configuration(R"({"spec":)" + spec + "}");
    ASSERT_TRUE(c) << c.error().what;
    resources_.configurations.insert_or_assign(name, *c);
  }
  Sessions sessions() { return sessions_of({configured_, nodes_, resources_, self_, secret_}, cache_); }
  std::map<std::string, PeerConfig> by_name() {
    std::map<std::string, PeerConfig> out;
    for (auto& p : sessions().peers) out.emplace(p.name, p);
    return out;
  }
  std::vector<std::string> names() {
    std::vector<std::string> out;
    for (const auto& p : sessions().peers) out.push_back(p.name + "=" + p.address.to_string());
    return out;
  }
  std::vector<PeerConfig> configured_;
  Nodes nodes_;
  BgpResources resources_;
  Self self_;
  SecretLookup secret_;
  std::map<std::string, std::string> secrets_;
  PolicyCache cache_;
};
using Text = std::vector<std::string>;

bool passes(const PolicyRef& policy, const char* prefix, RouteSource source = RouteSource::internal) {
  if (!policy) return true;
  std::optional<Attrs> changed;
  const auto p = *Prefix::parse(prefix);
  return policy->evaluate({.prefix = p, .source = source}, Attrs{}, changed).accept;
}

TEST_F(ResourceSessions, ABgpPeerIsReadAsCalicoMeansIt) {
  secrets_["bgp/tor"] = "s3cret";
  peer("tor", R"({"peerIP":"192.0.2.254","asNumber":65000,"maxRestartTime":"60s","keepaliveTime":"5s",
    "numAllowedLocalASNumbers":1,"password":{"secretKeyRef":{"name":"bgp","key":"tor"}}})");
  const auto p = by_name().at("tor");
  EXPECT_EQ(p.remote_as, Asn{65000});
  EXPECT_EQ(p.next_hop, NextHopMode::self) << "to another AS, unless it says keep";
  EXPECT_EQ(p.import_policy, Policy::all);
  EXPECT_EQ(p.export_policy, Policy::all);
  EXPECT_FALSE(p.import_filter || p.export_filter);
  EXPECT_EQ(p.multihop, 64);
  EXPECT_EQ(p.password, "s3cret");
  EXPECT_EQ(p.restart_time, std::chrono::seconds(60));
  EXPECT_EQ(p.keepalive_time, std::chrono::seconds(5));
  EXPECT_EQ(p.allow_own_as, 1);
  EXPECT_EQ(p.local_address, ip("192.0.2.11"));
  EXPECT_TRUE(p.ipv4 && !p.ipv6);
  EXPECT_EQ(p.from, Origin::datastore);
  peer("tor", R"({"peerIP":"192.0.2.254","asNumber":65000,"keepOriginalNextHop":true,"ttlSecurity":1})");
  EXPECT_EQ(by_name().at("tor").next_hop, NextHopMode::keep);
  EXPECT_TRUE(by_name().at("tor").ttl_security);
  EXPECT_EQ(by_name().at("tor").multihop, 1);
  peer("tor", R"({"peerIP":"192.0.2.254","asNumber":64512})");
  EXPECT_EQ(by_name().at("tor").next_hop, NextHopMode::keep);
}

TEST_F(ResourceSessions, ForOneNodeForSomeForAll) {
  peer("all", R"({"peerIP":"192.0.2.250","asNumber":65000})");
  peer("rack-a", R"({"peerIP":"192.0.2.251","asNumber":65000,"nodeSelector":"rack == 'a'"})");
  peer("rack-b", R"({"peerIP":"192.0.2.252","asNumber":65000,"nodeSelector":"rack == 'b'"})");
  peer("c1", R"({"peerIP":"192.0.2.253","asNumber":65000,"node":"c1"})");
  peer("c2", R"({"peerIP":"192.0.2.254","asNumber":65000,"node":"c2"})");
  EXPECT_EQ(names(), (Text{"c1=192.0.2.253", "rack-a=192.0.2.251", "all=192.0.2.250"}));
  // The same address from three of them: the nearest wins, the others are named.
  peer("all", R"({"peerIP":"192.0.2.253","asNumber":65000})");
  peer("rack-a", R"({"peerIP":"192.0.2.253","asNumber":65000,"nodeSelector":"rack == 'a'"})");
  const auto s = sessions();
  ASSERT_EQ(s.peers.size(), 1U);
  EXPECT_EQ(s.peers[0].name, "c1");
  EXPECT_EQ(s.ignored, (Text{"BGPPeer rack-a: 192.0.2.253 is BGPPeer c1 already",
                             "BGPPeer all: 192.0.2.253 is BGPPeer c1 already"}));
}

TEST_F(ResourceSessions, TheConfigurationWinsAndABgpPeerWinsOverANode) {
  nodes_["rr"] = node("192.0.2.1", {{"rr", "true"}}, "192.0.2.1");
  EXPECT_EQ(names(), Text{"rr=192.0.2.1"});
  peer("rrs", R"j({"peerSelector":"has(rr)","keepaliveTime":"3s"})j");
  auto all = sessions();
  ASSERT_EQ(all.peers.size(), 1U);
  EXPECT_EQ(all.peers[0].name, "rrs_rr");
  EXPECT_EQ(all.peers[0].keepalive_time, std::chrono::seconds(3));
  EXPECT_TRUE(all.ignored.empty()) << "that is what it is for";
  PeerConfig mine;
  mine.name = "mine";
  mine.address = ip("192.0.2.1");
  configured_ = {mine};
  all = sessions();
  ASSERT_EQ(all.peers.size(), 1U);
  EXPECT_EQ(all.peers[0], mine);
  EXPECT_EQ(all.ignored, Text{"BGPPeer rrs: 192.0.2.1 is [bgp.peer.mine] already"});
}

TEST_F(ResourceSessions, SelectorsPeerBothWays) {
  peer("ab", R"({"nodeSelector":"rack == 'a'","peerSelector":"rack == 'b'"})");
  EXPECT_EQ(names(), Text{"ab_c2=192.0.2.12"});
  self_.name = "c2";
  self_.ipv4 = ip("192.0.2.12");
  EXPECT_EQ(names(), (Text{"ab_c1=192.0.2.11", "ab_c3=192.0.2.13"}));
}

TEST_F(ResourceSessions, ReflectorsHaveBgpPeersOfTheirAsAsClients) {
  nodes_["rr1"] = node("192.0.2.1", {}, "192.0.2.1");
  nodes_["rr2"] = node("192.0.2.2", {}, "192.0.2.2");
  self_.name = "rr1";
  self_.ipv4 = ip("192.0.2.1");
  self_.reflector = true;
  peer("router", R"({"peerIP":"192.0.2.200","asNumber":64512})");
  peer("other", R"({"peerIP":"192.0.2.2","asNumber":64512})");
  peer("border", R"({"peerIP":"192.0.2.201","asNumber":65000})");
  peer("me", R"({"peerIP":"192.0.2.1","asNumber":64512})");
  const auto all = by_name();
  EXPECT_TRUE(all.at("router").route_reflector_client);
  EXPECT_FALSE(all.at("other").route_reflector_client);
  EXPECT_FALSE(all.at("border").route_reflector_client);
  EXPECT_FALSE(all.contains("me")) << "a global peer that is this host";
  EXPECT_TRUE(all.at("c1").route_reflector_client) << "from the Node";
}

TEST_F(ResourceSessions, AMeshOnlyWhereItWasAskedFor) {
  EXPECT_EQ(names(), Text{});
  configuration("default", "{}");
  EXPECT_EQ(names(), Text{});
  configuration("node.c1", R"({"nodeToNodeMeshEnabled":true})");
  EXPECT_EQ(names(), Text{});
  configuration("default",
                R"({"nodeToNodeMeshEnabled":true,"listenPort":1179,"nodeMeshMaxRestartTime":"30s","asNumber":64512})");
  configuration("node.c3", R"({"listenPort":2179})");
  auto all = by_name();
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all.at("c2").port, 1179);
  EXPECT_EQ(all.at("c3").port, 2179);
  EXPECT_EQ(all.at("c2").restart_time, std::chrono::seconds(30));
  EXPECT_FALSE(all.at("c2").passive) << "both sides connect: see speaker.md";
  nodes_["rr"] = node("192.0.2.1", {}, "192.0.2.1");
  all = by_name();
  EXPECT_EQ(all.size(), 3U) << "reflectors are added; the mesh ends when somebody ends it";
  EXPECT_FALSE(all.at("rr").restart_time);
}

TEST_F(ResourceSessions, FiltersInOrderAndTheDefaultIsAccept) {
  filter("a", R"({"importV4":[{"action":"Reject","cidr":"10.66.0.0/16","matchOperator":"In"}],
                  "exportV4":[{"action":"Accept","cidr":"10.65.0.0/16","matchOperator":"In"}]})");
  filter("b", R"({"importV4":[{"action":"Accept","cidr":"10.66.1.0/24","matchOperator":"Equal"}],
                  "exportV4":[{"action":"Reject"}]})");
  peer("tor", R"({"peerIP":"192.0.2.254","asNumber":65000,"filters":["a","b"]})");
  const auto p = by_name().at("tor");
  EXPECT_FALSE(passes(p.import_filter, "10.66.1.0/24")) << "the first filter that decides does";
  EXPECT_TRUE(passes(p.import_filter, "10.67.0.0/16"));
  EXPECT_TRUE(passes(p.export_filter, "10.65.1.1/32"));
  EXPECT_FALSE(passes(p.export_filter, "10.64.1.1/32"));
  EXPECT_TRUE(passes(p.export_filter, "2001:db8::/64")) << "of the other family nothing was said";
}

TEST_F(ResourceSessions, FailsClosed) {
  peer("tor", R"({"peerIP":"192.0.2.254","asNumber":65000,"filters":["missing"]})");
  auto s = sessions();
  ASSERT_EQ(s.peers.size(), 1U);
  EXPECT_FALSE(passes(s.peers[0].import_filter, "10.0.0.0/8"));
  EXPECT_FALSE(passes(s.peers[0].export_filter, "10.0.0.0/8", RouteSource::local));
  ASSERT_EQ(s.ignored.size(), 1U);
  EXPECT_NE(s.ignored[0].find("BGPFilter missing"), std::string::npos);
  peer("tor", R"({"peerIP":"192.0.2.254","asNumber":65000,"password":{"secretKeyRef":{"name":"a","key":"b"}}})");
  s = sessions();
  EXPECT_TRUE(s.peers.empty());
  ASSERT_EQ(s.ignored.size(), 1U);
  EXPECT_NE(s.ignored[0].find("no session without its password"), std::string::npos);
}

TEST_F(ResourceSessions, PrefixAdvertisementsMarkRoutesOfThisHost) {
  nodes_["rr"] = node("192.0.2.1", {}, "192.0.2.1");
  configuration("default", R"({"communities":[{"name":"blue","value":"65000:7"}],
    "prefixAdvertisements":[{"cidr":"10.65.0.0/16","communities":["blue"]}]})");
  const auto p = by_name().at("rr");
  ASSERT_TRUE(p.export_filter);
  EXPECT_FALSE(p.import_filter);
  std::optional<Attrs> changed;
  const auto inside = *Prefix::parse("10.65.0.1/32"), outside = *Prefix::parse("10.66.0.1/32");
  EXPECT_TRUE(p.export_filter->evaluate({.prefix = inside, .source = RouteSource::local}, {}, changed).accept);
  ASSERT_TRUE(changed);
  EXPECT_TRUE(changed->has_community(65000U << 16U | 7U));
  EXPECT_TRUE(p.export_filter->evaluate({.prefix = inside, .source = RouteSource::internal}, {}, changed).accept);
  EXPECT_FALSE(changed) << "who reflects a route does not mark it";
  EXPECT_TRUE(p.export_filter->evaluate({.prefix = outside, .source = RouteSource::local}, {}, changed).accept);
  EXPECT_FALSE(changed);
}

TEST_F(ResourceSessions, AChangeOfOneFilterIsAChangeOfItsPeersOnly) {
  filter("a", R"({"importV4":[{"action":"Reject","cidr":"10.66.0.0/16","matchOperator":"In"}]})");
  filter("b", R"({"importV4":[{"action":"Reject","cidr":"10.67.0.0/16","matchOperator":"In"}]})");
  peer("one", R"({"peerIP":"192.0.2.251","asNumber":65000,"filters":["a"]})");
  peer("two", R"({"peerIP":"192.0.2.252","asNumber":65000,"filters":["b"]})");
  peer("three", R"({"peerIP":"192.0.2.253","asNumber":65000})");
  const auto before = by_name();
  // Read anew, with other words for the same.
  filter("a",
         R"({"importV4":[{"cidr":"10.66.0.0/16","action":"Reject","matchOperator":"In","prefixLength":{"min":16}}]})");
  auto after = by_name();
  EXPECT_EQ(after, before);
  EXPECT_EQ(after.at("one").import_filter.pointer(), before.at("one").import_filter.pointer())
      << "equal content keeps its object";
  filter("a", R"({"importV4":[{"action":"Reject","cidr":"10.68.0.0/16","matchOperator":"In"}]})");
  after = by_name();
  EXPECT_NE(after.at("one"), before.at("one"));
  EXPECT_EQ(after.at("two"), before.at("two"));
  EXPECT_EQ(after.at("three"), before.at("three"));
}

TEST_F(ResourceSessions, NeverTwiceOneNameOrAddress) {
  nodes_["tor"] = node("192.0.2.1", {}, "192.0.2.1");
  peer("tor", R"({"peerIP":"192.0.2.254","asNumber":65000})");
  peer("x", R"j({"peerSelector":"all()"})j");
  std::set<std::string> names;
  std::set<Ip> addresses;
  for (const auto& p : sessions().peers) {
    EXPECT_TRUE(names.insert(p.name).second) << p.name;
    EXPECT_TRUE(addresses.insert(p.address).second) << p.address.to_string();
  }
  EXPECT_EQ(addresses.size(), 4U);
}

TEST(BgpFilterRules, MapToOneRuleEach) {
  const auto f = model::parse_bgp_filter(R"({"spec":{"exportV4":[
    {"action":"Accept","cidr":"10.0.0.0/8","matchOperator":"In","prefixLength":{"min":16,"max":24},
     "source":"RemotePeers","peerType":"eBGP","communities":{"values":["65000:1"]},"asPathPrefix":[65000],
     "priority":512,"interface":"tap*","operations":[{"addCommunity":{"value":"65000:2"}},
     {"prependASPath":{"prefix":[65001,65002]}},{"setPriority":{"value":1024}}]},
    {"action":"Reject","cidr":"10.0.0.0/8","matchOperator":"NotEqual"}]}})");
  ASSERT_TRUE(f) << f.error().what;
  const auto rules = rules_of(*f);
  ASSERT_TRUE(rules) << rules.error().what;
  ASSERT_EQ(rules->exports.size(), 2U);
  EXPECT_EQ(
      to_string(rules->exports[0]),
      "accept family ipv4 from ibgp,ebgp peer ebgp prefix 10.0.0.0/8{16,24} interface tap* local_pref 2147483135 "
      "path \"65000 *\" community_all 65000:1 set add_community 65000:2 prepend 65001,65002 local_pref 2147482623");
  EXPECT_EQ(to_string(rules->exports[1]), "reject family ipv4 not prefix 10.0.0.0/8");
  const auto bad =
      model::parse_bgp_filter(R"({"spec":{"importV4":[{"action":"Accept","communities":{"values":["65000:*"]}}]}})");
  ASSERT_TRUE(bad);
  const auto refused = rules_of(*bad);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().what.find("spec.importV4[0]"), std::string::npos) << refused.error().what;
}

}  // namespace
}  // namespace calico::bgp
