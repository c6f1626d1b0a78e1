// BGPFilter, BGPConfiguration, BGPPeer: what is read, and that what is not understood is refused with its place.
#include "core/model/bgp_resources.hpp"

#include <gtest/gtest.h>

namespace calico::model {
namespace {

using std::chrono::seconds;

std::string doc(const std::string& spec) {
  return R"({"kind":"X","apiVersion":"projectcalico.org/v3","metadata":{"name":"n"},"spec":)" + spec + "}";
}

TEST(BgpFilterResource, EveryFieldIsRead) {
  const auto f = parse_bgp_filter(doc(R"({
    "exportV4":[{"action":"Accept","cidr":"10.0.0.0/8","matchOperator":"In","prefixLength":{"min":16,"max":24},
      "source":"RemotePeers","interface":"tap*","peerType":"eBGP","communities":{"values":["65000:1"]},
      "asPathPrefix":[65000,"1.10"],"priority":512,
      "operations":[{"addCommunity":{"value":"65000:2"}},{"prependASPath":{"prefix":[65001]}},
                    {"setPriority":{"value":1024}}]},{"action":"Reject"}],
    "importV6":[{"action":"Reject","cidr":"2001:db8::/32","matchOperator":"NotEqual"}]})"));
  ASSERT_TRUE(f) << f.error().what;
  ASSERT_EQ(f->export_v4.size(), 2U);
  const auto& r = f->export_v4[0];
  EXPECT_TRUE(r.accept && r.remote_peers && r.external_peer == true);
  EXPECT_EQ(r.cidr, *Prefix::parse("10.0.0.0/8"));
  EXPECT_EQ(r.match, BgpFilterRule::Operator::in);
  EXPECT_EQ(r.min_length, 16);
  EXPECT_EQ(r.max_length, 24);
  EXPECT_EQ(r.interface, "tap*");
  EXPECT_EQ(r.communities, std::vector<std::string>{"65000:1"});
  EXPECT_EQ(r.as_path_prefix, (std::vector<Asn>{Asn{65000}, Asn{65546}}));
  EXPECT_EQ(r.priority, 512U);
  ASSERT_EQ(r.operations.size(), 3U);
  EXPECT_EQ(r.operations[0].community, "65000:2");
  EXPECT_EQ(r.operations[1].ases, std::vector<Asn>{Asn{65001}});
  EXPECT_EQ(r.operations[2].priority, 1024U);
  EXPECT_FALSE(f->export_v4[1].accept);
  ASSERT_EQ(f->import_v6.size(), 1U);
  EXPECT_EQ(f->import_v6[0].match, BgpFilterRule::Operator::not_equal);
  EXPECT_TRUE(parse_bgp_filter(doc("{}")));
}

TEST(BgpFilterResource, LengthsWithOneEndOnly) {
  const auto f = parse_bgp_filter(doc(
      R"({"importV4":[{"action":"Accept","cidr":"10.0.0.0/8","matchOperator":"NotIn","prefixLength":{"min":4}}]})"));
  ASSERT_TRUE(f) << f.error().what;
  EXPECT_EQ(f->import_v4[0].min_length, 8) << "a block has no shorter one inside";
  EXPECT_EQ(f->import_v4[0].max_length, 32);
}

TEST(BgpFilterResource, WhatIsNotUnderstoodIsRefusedWithItsPlace) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({"exportV5":[]})", "exportV5"},
      {R"({"exportV4":[{"action":"Accept","colour":1}]})", "spec.exportV4[0].'colour'"},
      {R"({"exportV4":[{}]})", "action"},
      {R"({"exportV4":[{"action":"Drop"}]})", "'Drop'"},
      {R"({"exportV4":[{"action":1}]})", "need a string"},
      {R"({"exportV4":{}})", "need a list"},
      {R"({"exportV4":[1]})", "need an object"},
      {R"({"exportV4":[{"action":"Accept","cidr":"10.0.0.0/8"}]})", "matchOperator"},
      {R"({"exportV4":[{"action":"Accept","matchOperator":"In"}]})", "matchOperator"},
      {R"({"exportV4":[{"action":"Accept","cidr":"10.0.0.0/8","matchOperator":"Near"}]})", "'Near'"},
      {R"({"exportV4":[{"action":"Accept","cidr":"2001:db8::/32","matchOperator":"In"}]})", "other family"},
      {R"({"exportV4":[{"action":"Accept","cidr":"10.0.0/8","matchOperator":"In"}]})", "cidr"},
      {R"({"exportV4":[{"action":"Accept","cidr":"10.0.0.0/8","matchOperator":"In","prefixLength":{"max":33}}]})",
       "prefixLength.max"},
      {R"({"exportV4":[{"action":"Accept","cidr":"10.0.0.0/8","matchOperator":"In","prefixLength":{"max":7}}]})",
       "prefixLength"},
      {R"({"exportV4":[{"action":"Accept","cidr":"10.0.0.0/8","matchOperator":"Equal","prefixLength":{"max":9}}]})",
       "prefixLength"},
      {R"({"exportV4":[{"action":"Accept","prefixLength":{"max":9}}]})", "prefixLength"},
      {R"({"exportV4":[{"action":"Accept","source":"Here"}]})", "'Here'"},
      {R"({"exportV4":[{"action":"Accept","peerType":"xBGP"}]})", "'xBGP'"},
      {R"({"exportV4":[{"action":"Accept","communities":{}}]})", "communities"},
      {R"({"exportV4":[{"action":"Accept","asPathPrefix":[0]}]})", "asPathPrefix[0]"},
      {R"({"exportV4":[{"action":"Accept","priority":0}]})", "priority"},
      {R"({"exportV4":[{"action":"Accept","operations":[{}]}]})", "operations[0]"},
      {R"({"exportV4":[{"action":"Accept","operations":[{"addCommunity":{"value":"1:1"},"setPriority":{"value":1}}]}]})",
       "operations[0]"},
      {R"({"exportV4":[{"action":"Accept","operations":[{"prependASPath":{"prefix":[]}}]}]})", "prefix"},
      {R"({"exportV4":[{"action":"Reject","operations":[{"setPriority":{"value":1}}]}]})", "operations"},
      {R"({"exportV4":[{"action":"Accept","interface":"a b"}]})", "interface"},
  };
  for (const auto& [spec, where] : cases) {
    const auto f = parse_bgp_filter(doc(spec));
    ASSERT_FALSE(f) << spec;
    EXPECT_NE(f.error().what.find(where), std::string::npos) << spec << ": " << f.error().what;
  }
  EXPECT_FALSE(parse_bgp_filter("{{{"));
  EXPECT_FALSE(parse_bgp_filter("[]"));
  std::string many = R"({"exportV4":[)";
  for (int i = 0; i < 10001; ++i) many += std::string(i ? "," : "") + R"({"action":"Accept"})";
  EXPECT_FALSE(parse_bgp_filter(doc(many + "]}")));
}

TEST(BgpConfigurationResource, ReadsWhatCountsAndNotesTheRest) {
  const auto c = parse_bgp_configuration(doc(R"({"logSeverityScreen":"Info","nodeToNodeMeshEnabled":true,
    "asNumber":64512,"listenPort":1179,"nodeMeshMaxRestartTime":"2m0s","bindMode":"NodeIP",
    "serviceClusterIPs":[{"cidr":"10.96.0.0/12"}],
    "communities":[{"name":"blue","value":"65000:100"}],
    "prefixAdvertisements":[{"cidr":"10.65.0.0/16","communities":["blue","65000:1:2"]}]})"));
  ASSERT_TRUE(c) << c.error().what;
  EXPECT_EQ(c->node_to_node_mesh, true);
  EXPECT_EQ(c->as_number, Asn{64512});
  EXPECT_EQ(c->listen_port, 1179);
  EXPECT_EQ(c->mesh_restart_time, seconds(120));
  ASSERT_EQ(c->advertisements.size(), 1U);
  EXPECT_EQ(c->advertisements[0].communities, (std::vector<std::string>{"65000:100", "65000:1:2"}));
  EXPECT_EQ(c->notes.size(), 3U);
  const auto empty = parse_bgp_configuration(doc("{}"));
  ASSERT_TRUE(empty);
  EXPECT_FALSE(empty->node_to_node_mesh) << "absent is not the same as true";
  for (const auto& [spec, where] : std::vector<std::pair<std::string, std::string>>{
           {R"({"nodeMeshPassword":{"secretKeyRef":{"name":"a","key":"b"}}})", "nodeMeshPassword"},
           {R"({"asNumber":0})", "asNumber"},
           {R"({"asNumber":"4294967296"})", "asNumber"},
           {R"({"listenPort":65536})", "listenPort"},
           {R"({"nodeMeshMaxRestartTime":"soon"})", "nodeMeshMaxRestartTime"},
           {R"({"nodeMeshMaxRestartTime":"2h"})", "4095s"},
           {R"({"nodeToNodeMeshEnabled":"yes"})", "nodeToNodeMeshEnabled"},
           {R"({"prefixAdvertisements":[{"cidr":"10.0.0.0/8","communities":["red"]}]})", "'red'"},
           {R"({"prefixAdvertisements":[{"communities":["1:1"]}]})", "cidr"}}) {
    const auto bad = parse_bgp_configuration(doc(spec));
    ASSERT_FALSE(bad) << spec;
    EXPECT_NE(bad.error().what.find(where), std::string::npos) << bad.error().what;
  }
}

TEST(BgpPeerResource, EveryFieldIsRead) {
  const auto p = parse_bgp_peer(doc(R"({"nodeSelector":"rack == 'a'","peerIP":"192.0.2.9:1179","asNumber":"65000",
    "nextHopMode":"Self","password":{"secretKeyRef":{"name":"bgp","key":"tor-a"}},"sourceAddress":"UseNodeIP",
    "maxRestartTime":"1m30s","keepaliveTime":"10s","numAllowedLocalASNumbers":2,"ttlSecurity":3,
    "filters":["in","out"],"reachableBy":"192.0.2.1"})"));
  ASSERT_TRUE(p) << p.error().what;
  EXPECT_TRUE(p->node_selector && p->node_selector->matches({{"rack", "a"}}));
  EXPECT_EQ(p->peer_ip, *Ip::parse("192.0.2.9"));
  EXPECT_EQ(p->port, 1179);
  EXPECT_EQ(p->as_number, Asn{65000});
  EXPECT_EQ(p->next_hop, BgpPeer::NextHop::self);
  ASSERT_TRUE(p->password);
  EXPECT_EQ(p->password->name + "/" + p->password->key, "bgp/tor-a");
  EXPECT_EQ(p->restart_time, seconds(90));
  EXPECT_EQ(p->keepalive_time, seconds(10));
  EXPECT_EQ(p->allow_own_as, 2);
  EXPECT_EQ(p->ttl_security, 3);
  EXPECT_EQ(p->filters, (std::vector<std::string>{"in", "out"}));
  EXPECT_EQ(p->notes, std::vector<std::string>{"reachableBy has no effect"});
  const auto keep = parse_bgp_peer(doc(R"j({"peerSelector":"has(rr)","keepOriginalNextHop":true})j"));
  ASSERT_TRUE(keep) << keep.error().what;
  EXPECT_EQ(keep->next_hop, BgpPeer::NextHop::keep);
  const auto v6 = parse_bgp_peer(doc(R"({"peerIP":"[2001:db8::9]:1179","asNumber":1})"));
  ASSERT_TRUE(v6) << v6.error().what;
  EXPECT_EQ(v6->peer_ip, *Ip::parse("2001:db8::9"));
  EXPECT_EQ(v6->port, 1179);
  EXPECT_TRUE(parse_bgp_peer(doc(R"({"peerIP":"2001:db8::9","asNumber":1})")));
}

TEST(BgpPeerResource, Refused) {
  for (const auto& [spec, where] : std::vector<std::pair<std::string, std::string>>{
           {"{}", "peerIP"},
           {R"({"peerIP":"192.0.2.9"})", "asNumber"},
           {R"j({"peerIP":"192.0.2.9","asNumber":1,"peerSelector":"all()"})j", "peerIP"},
           {R"j({"peerSelector":"all()","asNumber":1})j", "asNumber"},
           {R"({"peerSelector":"rack =="})", "peerSelector"},
           {R"j({"node":"a","nodeSelector":"all()","peerIP":"192.0.2.9","asNumber":1})j", "exclude"},
           {R"({"peerIP":"192.0.2.9:0","asNumber":1})", "port"},
           {R"({"peerIP":"192.0.2.9:","asNumber":1})", "port"},
           {R"({"peerIP":"[2001:db8::1","asNumber":1})", "peerIP"},
           {R"({"peerIP":"127.0.0.1","asNumber":1})", "no neighbour"},
           {R"({"peerIP":"0.0.0.0","asNumber":1})", "no neighbour"},
           {R"({"peerIP":"192.0.2.9","asNumber":1,"localASNumber":7})", "localASNumber"},
           {R"j({"localWorkloadSelector":"all()","asNumber":1})j", "localWorkloadSelector"},
           {R"({"peerIP":"192.0.2.9","asNumber":1,"nextHopMode":"Other"})", "'Other'"},
           {R"({"peerIP":"192.0.2.9","asNumber":1,"nextHopMode":"Self","keepOriginalNextHop":true})", "contradicts"},
           {R"({"peerIP":"192.0.2.9","asNumber":1,"password":{"secretKeyRef":{"name":"../etc","key":"k"}}})",
            "secretKeyRef"},
           {R"({"peerIP":"192.0.2.9","asNumber":1,"password":{"secretKeyRef":{"name":"a","key":""}}})", "secretKeyRef"},
           {R"({"peerIP":"192.0.2.9","asNumber":1,"password":{"plain":"x"}})", "plain"},
           {R"({"peerIP":"192.0.2.9","asNumber":1,"keepaliveTime":"0s"})", "keepaliveTime"},
           {R"({"peerIP":"192.0.2.9","asNumber":1,"ttlSecurity":255})", "ttlSecurity"},
           {R"({"peerIP":"192.0.2.9","asNumber":1,"unheardOf":true})", "unheardOf"},
           {R"({"peerIP":"192.0.2.9","asNumber":1,"sourceAddress":"Mine"})", "'Mine'"}}) {
    const auto p = parse_bgp_peer(doc(spec));
    ASSERT_FALSE(p) << spec;
    EXPECT_NE(p.error().what.find(where), std::string::npos) << spec << ": " << p.error().what;
  }
}

}  // namespace
}  // namespace calico::model
