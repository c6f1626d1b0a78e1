// Who may touch which key: the whole rule, with the tricks somebody with a node's certificate would try.
#include "core/store/etcd/rights.hpp"

#include <gtest/gtest.h>

namespace calico::store::etcd {
namespace {

using Kind = Rights::Kind;

const std::vector<std::string> kAdmins{"neutron", "ops team", "a/b"};
const std::string kZero(1, '\0');
const std::string kFelix = "/calico/felix/v2/no-region/host/";
const std::string kNodes = "/calico/resources/v3/projectcalico.org/nodes/";

Rights node(std::string_view name = "node-1") { return rights_of(name, kAdmins); }

}  // namespace

TEST(Rights, ANameDecides) {
  for (const char* name : {"neutron", "ops team", "a/b"}) EXPECT_EQ(rights_of(name, kAdmins).kind, Kind::everything);
  for (const char* name : {"node-1", "cmp_01.example.net", "7", "Compute", "NEUTRON", "neutron2", "neutro", "n..x"})
    EXPECT_EQ(rights_of(name, kAdmins).kind, Kind::node) << name;
  EXPECT_EQ(rights_of(std::string(253, 'a'), kAdmins).kind, Kind::node);
  for (const std::string& name : {std::string(),
                                  std::string("."),
                                  std::string(".."),
                                  std::string("../x"),
                                  std::string("a/"),
                                  std::string("/"),
                                  std::string("a/c"),
                                  std::string("a b"),
                                  std::string("a%2fb"),
                                  std::string("a\0b", 3),
                                  kZero,
                                  std::string("\xff"),
                                  std::string("n\xc3\xb6") + "de",
                                  std::string("-a"),
                                  std::string("_a"),
                                  std::string("*"),
                                  std::string(254, 'a'),
                                  std::string("neutron "),
                                  std::string(" neutron"),
                                  std::string("neutron\0", 8)})
    EXPECT_EQ(rights_of(name, kAdmins).kind, Kind::nothing) << name;
  // An empty entry of the list does not make those without a name administrators.
  EXPECT_EQ(rights_of("", std::vector<std::string>{""}).kind, Kind::nothing);
}

TEST(Rights, NobodyMayNothingAndAnAdministratorEverything) {
  for (const auto& end : {std::string(), kZero, std::string("/z")}) {
    EXPECT_FALSE(may_read(rights_of("", kAdmins), "/calico/", end));
    EXPECT_FALSE(may_write(rights_of("", kAdmins), kFelix + "/x", end));
    EXPECT_TRUE(may_read(rights_of("neutron", kAdmins), "", end));
    EXPECT_TRUE(may_write(rights_of("neutron", kAdmins), "/anything", end));
  }
  EXPECT_FALSE(may_write(rights_of("", kAdmins), kNodes));
}

TEST(Rights, ANodeReadsBelowCalico) {
  struct Row {
    std::string key, end;
    bool yes;
  };
  for (const Row& r : {
           Row{"/calico/", "", true},
           {"/calico/x", "", true},
           {"/calico/", "/calico0", true},
           {"/calico/a", "/calico/b", true},
           {"/calico/a", "/calico0", true},
           {"/calico/\xff", "/calico0", true},
           {"/calico", "", false},
           {"/calico", "/calico0", false},
           {"/calico0", "", false},
           {"/calicox/a", "", false},
           {"calico/", "", false},
           {"//calico/", "", false},
           {"/CALICO/a", "", false},
           {"", "", false},
           {"", kZero, false},
           {kZero, kZero, false},
           {"/", "0", false},
           {"/calico/", kZero, false},               // no end
           {"/calico/", "/calico0" + kZero, false},  // one key too far
           {"/calico/", "/calico1", false},
           {"/calico/", "0", false},
           {"/calico/", "\xff", false},
           {"/calico.", "/calico0", false},    // begins before
           {"/calico/b", "/calico/a", false},  // reversed
           {"/calico/a", "/calico/a", false},  // empty
           {"/calico/a", "/", false},
           {"/calico/a", "/calico/a" + kZero, true},  // one key
           {"/calico/" + kZero, "/calico/" + kZero + kZero, true},
       })
    EXPECT_EQ(may_read(node(), r.key, r.end), r.yes) << r.key << " " << r.end;
}

TEST(Rights, ANodeWritesItsOwnOnly) {
  struct Row {
    std::string key, end;
    bool yes;
  };
  const std::string own = kFelix + "node-1/";
  const std::string after = kFelix + "node-10";  // prefix_end(own)
  for (const Row& r : {
           Row{own + "status", "", true},
           {own, "", true},
           {own, after, true},
           {own + "a", own + "b", true},
           {own + "workload/openstack/openstack%2fb7/endpoint/3f", "", true},
           {own + "../node-2/status", "", true},  // text like any other: still below the own prefix
           {own + kZero, "", true},
           {"/calico/felix/v2/region-east1/host/node-1/status", "", true},
           {"/calico/felix/v1/host/node-1/endpoint/eth0", "", true},
           {"/calico/felix/v1/host/node-1/endpoint/", "/calico/felix/v1/host/node-1/endpoint0", true},
           {"/calico/felix/v1/host/node-1/endpoint/", "/calico/felix/v1/host/node-1/f", false},
           {"/calico/felix/v1/host/node-1/", "/calico/felix/v1/host/node-10", false},
           {"/calico/felix/v1/host/node-1/workload/x", "", false},
           {"/calico/felix/v1/host/node-2/endpoint/eth0", "", false},
           {"/calico/felix/v1/host/node-11/endpoint/eth0", "", false},
           {"/calico/felix/v1/host//endpoint/eth0", "", false},
           {kNodes + "node-1", "", true},
           {kNodes + "node-1", kNodes + "node-1" + kZero, true},
           // a neighbour whose name begins alike
           {kFelix + "node-1", "", false},
           {kFelix + "node-10/status", "", false},
           {kFelix + "node-11/status", "", false},
           {kFelix + "node-1.example/status", "", false},
           {kFelix + "node-1%2f/status", "", false},
           {kFelix + "node-/status", "", false},
           {kFelix + "node-2/status", "", false},
           {kFelix + "Node-1/status", "", false},
           {kFelix + "/status", "", false},
           {kFelix + "x/../node-1/status", "", false},
           {kFelix + "./node-1/status", "", false},
           {kFelix + "/node-1/status", "", false},
           {kFelix + "round-trip-check", "", false},
           // ranges that reach beyond
           {own, after + kZero, false},
           {own, kFelix + "node-2", false},
           {own, kZero, false},
           {own, "\xff", false},
           {own, "/calico0", false},
           {kFelix + "node-1", after, false},
           {kFelix, "/calico/felix/v2/no-region/host0", false},
           {own + "b", own + "a", false},
           {own + "a", own + "a", false},
           {own + "a", own, false},
           // the region is one segment of the right form
           {"/calico/felix/v2//host/node-1/status", "", false},
           {"/calico/felix/v2/host/node-1/status", "", false},
           {"/calico/felix/v2/east1/host/node-1/status", "", false},
           {"/calico/felix/v2/region-a/b/host/node-1/status", "", false},
           {"/calico/felix/v2/region-a/host/node-2/host/node-1/status", "", false},
           {"/calico/felix/v2/region-../host/node-1/status", "", false},
           {"/calico/felix/v2/region-\xff/host/node-1/status", "", false},
           {"/calico/felix/v2/no-region/hosts/node-1/status", "", false},
           {"/calico/felix/v2/no-region/node-1/status", "", false},
           {"/calico/felix/v1/no-region/host/node-1/status", "", false},
           {"/calico/felix/v1/host/node-1/status", "", false},
           // its Node, and no more than its Node
           {kNodes, "", false},
           {kNodes + "node-10", "", false},
           {kNodes + "node-1/", "", false},
           {kNodes + "node-1/x", "", false},
           {kNodes + "node-1" + kZero, "", false},
           {kNodes + "node-2", "", false},
           {kNodes + "node-1", kZero, false},
           {kNodes + "node-1", kNodes + "node-10", false},
           {kNodes + "node-1", kNodes + "node-1/", false},
           {kNodes + "node-1", kNodes + "node-1" + kZero + kZero, false},
           {kNodes + "node-1", kNodes + "node-1", false},
           {kNodes, "/calico/resources/v3/projectcalico.org/nodes0", false},
           {"/calico/resources/v3/projectcalico.org/nodes/default/node-1", "", false},
           // the rest of what it may read
           {"/calico/", "", false},
           {"/calico/", "/calico0", false},
           {"/calico/resources/v3/projectcalico.org/clusterinformations/default", "", false},
           {"/calico/resources/v3/projectcalico.org/workloadendpoints/openstack/node--1-x", "", false},
           {"", "", false},
           {"", kZero, false},
           {kZero, kZero, false},
       })
    EXPECT_EQ(may_write(node(), r.key, r.end), r.yes) << r.key << " " << r.end;
}

// Against a model: all short keys over an alphabet that makes boundaries, so that "allowed" is checked to mean "every
// key of the range is below the prefix" and not what somebody thought of.
TEST(Rights, AllowedRangesHoldOnlyOwnKeys) {
  const std::string own = kFelix + "n/";
  std::vector<std::string> keys;
  const std::string alphabet("\0./0n\xff", 6);
  for (const auto& stem : {kFelix, kFelix + "n", own, kFelix + "m"}) {
    keys.push_back(stem);
    for (char a : alphabet) {
      keys.push_back(stem + a);
      for (char b : alphabet) keys.push_back(stem + a + b);
    }
  }
  const auto rights = node("n");
  int allowed = 0;
  for (const auto& key : keys)
    for (const auto& end : keys) {
      if (!may_write(rights, key, end)) continue;
      ++allowed;
      for (const auto& k : keys) {
        if (k < key || k >= end) continue;
        EXPECT_TRUE(k.starts_with(own)) << key << " " << end << " holds " << k;
      }
    }
  EXPECT_GT(allowed, 100);
  for (const auto& key : keys) EXPECT_EQ(may_write(rights, key), key.starts_with(own)) << key;
}

TEST(Rights, ATransactionIsAsGoodAsItsWorstPart) {
  const auto own = kFelix + "node-1/status";
  TxnRequest fine;
  fine.compare = {mod_is("/calico/anything", 3)};
  fine.success = {PutRequest{.key = own}, RangeRequest{.key = "/calico/", .range_end = "/calico0"}};
  fine.failure = {DeleteRequest{.key = own}};
  EXPECT_TRUE(may(node(), fine));
  EXPECT_TRUE(may(node(), TxnRequest{}));
  EXPECT_FALSE(may(node("node-2"), fine));
  EXPECT_FALSE(may(rights_of("", kAdmins), fine));
  auto bad = fine;
  bad.compare.push_back(key_absent("/secret"));
  EXPECT_FALSE(may(node(), bad));
  bad = fine;
  bad.success.push_back(PutRequest{.key = "/calico/x"});
  EXPECT_FALSE(may(node(), bad));
  EXPECT_TRUE(may(rights_of("neutron", kAdmins), bad));
  bad = fine;
  bad.failure.push_back(RangeRequest{.key = "/x"});
  EXPECT_FALSE(may(node(), bad));
  bad = fine;
  bad.failure.push_back(DeleteRequest{.key = "/calico/", .range_end = "/calico0"});
  EXPECT_FALSE(may(node(), bad));
}

}  // namespace calico::store::etcd
