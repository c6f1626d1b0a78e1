#include "core/resources/manifest.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "core/resources/yaml.hpp"

namespace calico::resources {
namespace {

namespace json = boost::json;
using testing::ElementsAre;
using testing::HasSubstr;

Manifest read(const std::string& text, ReadOptions options = {}) {
  Manifest m;
  read_manifest("f.yaml", text, options, m);
  check_duplicates(m);
  return m;
}

std::vector<std::string> titles(const Manifest& m) {
  std::vector<std::string> out;
  for (const auto& f : m.faults) out.push_back("! " + f.to_string());
  for (const auto& i : m.items) out.push_back(i.title());
  return out;
}

const std::string kA = "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata:\n  name: a\n";
const std::string kB = "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata:\n  name: b\n";

TEST(Manifest, DocumentsListsAndJsonAreTheSame) {
  EXPECT_THAT(titles(read(kA + "---\n" + kB)), ElementsAre("Node a", "Node b"));
  EXPECT_THAT(titles(read("---\n# empty\n---\n" + kA + "---\n---\n" + kB + "---\n")), ElementsAre("Node a", "Node b"));
  const std::string a = R"({"apiVersion":"projectcalico.org/v3","kind":"Node","metadata":{"name":"a"}})";
  EXPECT_THAT(titles(read(a)), ElementsAre("Node a"));
  EXPECT_THAT(titles(read("[" + a + "]")), ElementsAre("Node a"));
  EXPECT_THAT(titles(read(R"({"apiVersion":"v1","kind":"List","items":[)" + a + "]}")), ElementsAre("Node a"));
  EXPECT_THAT(
      titles(read(R"({"apiVersion":"projectcalico.org/v3","kind":"NodeList","metadata":{"resourceVersion":"9"},)"
                  R"("items":[{"metadata":{"name":"x"},"spec":{}},)" +
                  a + "]}")),
      ElementsAre("Node x", "Node a"));
  EXPECT_THAT(titles(read("[]")), ElementsAre());
}

TEST(Manifest, FaultsSayFileLineDocumentObjectFieldAndValue) {
  const auto m = read(kA + "spec:\n  bgp:\n    asNumber: many\n---\n" + kB + "spec:\n  bgpp: {}\n");
  EXPECT_THAT(titles(m),
              ElementsAre("! f.yaml:7 (document 1): Node a: spec.bgp.asNumber: 'many': need an AS number from 1 to "
                          "4294967295; the form with a dot in quotes (\"1.10\")",
                          "! f.yaml:14 (document 2): Node b: spec.bgpp: no such field; did you mean bgp?"));
}

TEST(Manifest, EveryFaultIsTold) {
  const auto m = read(
      "apiVersion: projectcalico.org/v2\nkind: NetworkPolicy\nmetadata: {name: Web}\n"
      "spec:\n  order: x\n  ingress:\n  - action: Permit\n    protocol: tpc\n  typs: []\nstatus: {}\n");
  std::string all;
  for (const auto& t : titles(m)) all += t + "\n";
  for (const char* part : {":1: NetworkPolicy default.Web: apiVersion: 'projectcalico.org/v2'",
                           ":3: ", "metadata.namespace", "metadata.name", ":5: NetworkPolicy default.Web: spec.order",
                           ":7: ", "spec.ingress[0].action", ":8: ", "spec.typs", "status: no such field"})
    EXPECT_THAT(all, HasSubstr(part)) << all;
  EXPECT_TRUE(m.items.empty());
}

TEST(Manifest, WhatIsNoResourceIsSaidSo) {
  EXPECT_THAT(titles(read("")), ElementsAre("! f.yaml: no resource in it"));
  EXPECT_THAT(titles(read("just words")), ElementsAre(HasSubstr("f.yaml:1: 'just words': need a resource")));
  EXPECT_THAT(titles(read("a: [")), ElementsAre(HasSubstr("not YAML")));
  EXPECT_THAT(titles(read("- 1\n- 2")),
              ElementsAre(HasSubstr("f.yaml:1: [0]: 1: need a resource"), HasSubstr("f.yaml:2: [1]: 2")));
  EXPECT_THAT(titles(read("kind: NodeList\nitems: {}")),
              ElementsAre(HasSubstr("f.yaml:2: NodeList: items: {}: need a list")));
  EXPECT_THAT(titles(read("kind: FooList\nitems: []")), ElementsAre(HasSubstr("unknown kind 'Foo'")));
  EXPECT_THAT(titles(read("kind: NodeList\nthings: []")), ElementsAre(HasSubstr("things: no such field")));
  EXPECT_THAT(
      titles(read("kind: NodeList\nitems: [{kind: Tier, apiVersion: projectcalico.org/v3, metadata: {name: t}}]")),
      ElementsAre(HasSubstr("this is a list of Node")));
  EXPECT_THAT(titles(read("metadata: {name: a}")), ElementsAre(HasSubstr("kind: missing")));
  EXPECT_THAT(titles(read("kind: Node\napiVersion: projectcalico.org/v3")),
              ElementsAre(HasSubstr("metadata: need an object with a name")));
}

TEST(Manifest, OneObjectTwiceIsRefused) {
  const std::string np =
      "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: NAME, namespace: openstack}\n";
  auto second = np;
  second.replace(second.find("NAME"), 4, "default.web");
  auto first = np;
  first.replace(first.find("NAME"), 4, "web");
  const auto m = read(first + "---\n" + second);
  ASSERT_EQ(m.faults.size(), 1U);
  EXPECT_EQ(m.faults[0].to_string(),
            "f.yaml:5: NetworkPolicy openstack/default.web: metadata.name: is given before, at f.yaml:1");
}

TEST(Manifest, ItemsAreNormalised) {
  auto m = read(
      "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: web, resourceVersion: '17', labels: ~}\n"
      "spec: {selector: all(), order: ~}\n",
      {.default_namespace = "openstack"});
  ASSERT_EQ(m.items.size(), 1U) << m.faults[0].to_string();
  EXPECT_EQ(m.items[0].key, "/calico/resources/v3/projectcalico.org/networkpolicies/openstack/default.web");
  EXPECT_EQ(m.items[0].resource_version, 17);
  EXPECT_EQ(json::serialize(m.items[0].resource),
            R"({"kind":"NetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{"name":"default.web",)"
            R"("namespace":"openstack","annotations":{"projectcalico.org/metadata":"{\"name\":\"web\"}"}},)"
            R"x("spec":{"selector":"all()"}})x");
  m = read(
      "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {namespace: openstack}\n"
      "spec: {orchestrator: openstack, workload: vm, node: h-1, endpoint: p, interfaceName: tap1}\n");
  ASSERT_EQ(m.items.size(), 1U) << m.faults[0].to_string();
  EXPECT_EQ(m.items[0].name, "h--1-openstack-vm-p");
  EXPECT_EQ(json::serialize(m.items[0].resource.at("metadata").at("labels")),
            R"({"projectcalico.org/namespace":"openstack","projectcalico.org/orchestrator":"openstack"})");
  EXPECT_THAT(m.notes, ElementsAre(HasSubstr("written by the controller")));
}

TEST(Manifest, ForDeletionTheIdentityIsEnough) {
  const std::string text =
      "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: x}\nspec: {nonsense: 1}\n";
  EXPECT_THAT(titles(read(text, {.identity_only = true})), ElementsAre("GlobalNetworkPolicy default.x"));
  EXPECT_EQ(read(text).faults.size(), 1U);
  EXPECT_EQ(read("kind: Node\napiVersion: projectcalico.org/v3\nmetadata: {}", {.identity_only = true}).faults.size(),
            1U);
  EXPECT_EQ(read("kind: ClusterInformation\napiVersion: projectcalico.org/v3\nmetadata: {name: default}",
                 {.identity_only = true})
                .faults.size(),
            1U);
}

TEST(Manifest, FaultsAreBoundedAndOneLineEach) {
  std::string text = "[";
  for (int i = 0; i < 3000; ++i) text += "1,";
  const auto m = read(text + "1]");
  EXPECT_EQ(m.faults.size(), 1001U);
  EXPECT_THAT(m.faults.back().to_string(), HasSubstr("more than 1000 faults"));
  const auto odd =
      read("apiVersion: projectcalico.org/v3\nkind: \"No\\nde\"\nmetadata: {name: a}\n\"x\\ny\": 1\n---\n" + kA +
           "\"x\\ny\": 1\n");
  EXPECT_EQ(odd.faults.size(), 2U);
  for (const auto& f : odd.faults) EXPECT_EQ(f.to_string().find('\n'), std::string::npos) << f.to_string();
}

}  // namespace
}  // namespace calico::resources
