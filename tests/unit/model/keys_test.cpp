#include "core/model/keys.hpp"

#include <gtest/gtest.h>

#include "tests/support/fixtures.hpp"

namespace calico::model {

TEST(Keys, WorkloadEndpointNameDoublesDashes) {
  const WorkloadEndpointName n{"cmp-01.example.net", "openstack", "b7e0-15aa", "3f1c9a52-6d0e"};
  const auto text = format_wep_name(n);
  EXPECT_EQ(text, "cmp--01.example.net-openstack-b7e0--15aa-3f1c9a52--6d0e");
  EXPECT_EQ(*parse_wep_name(text), n);
  // A part that ends in a dash: pairs are read from the left, as upstream reads them.
  EXPECT_EQ(*parse_wep_name(format_wep_name({"a-", "o", "w", "e"})), (WorkloadEndpointName{"a-", "o", "w", "e"}));
  for (auto bad : {"", "a-b-c", "a-b-c-d-e", "a--b--c--d", "-a-b-c", "a-b-c-", "a-b-c---"})
    EXPECT_FALSE(parse_wep_name(bad)) << bad;
}

TEST(Keys, Resources) {
  const auto k = parse_resource_key("/calico/resources/v3/projectcalico.org/networkpolicies/openstack/ossg.default.1");
  ASSERT_TRUE(k);
  EXPECT_EQ(k->plural + "|" + k->ns + "|" + k->name, "networkpolicies|openstack|ossg.default.1");
  EXPECT_EQ(network_policy_key("openstack", "ossg.default.1"),
            "/calico/resources/v3/projectcalico.org/networkpolicies/openstack/ossg.default.1");
  EXPECT_EQ(parse_resource_key(node_key("c1"))->ns, "");
  for (auto bad :
       {"/calico/resources/v3/projectcalico.org/nodes", "/calico/resources/v3/projectcalico.org/nodes/",
        "/calico/resources/v3/projectcalico.org/a/b/c/d", "/calico/dhcp/v2/no-region/subnet/x",
        "/calico/resources/v3/projectcalico.org/nodes/a\nb", "/calico/resources/v3/projectcalico.org/nodes/a b",
        "/calico/resources/v3/projectcalico.org/nodes/\xff"})
    EXPECT_FALSE(parse_resource_key(bad)) << bad;
}

TEST(Keys, Regions) {
  EXPECT_EQ(region_string(""), "no-region");
  EXPECT_EQ(region_namespace("east1"), "openstack-region-east1");
  EXPECT_EQ(subnet_key("east1", "s"), "/calico/dhcp/v2/region-east1/subnet/s");
  EXPECT_TRUE(check_region(""));
  EXPECT_TRUE(check_region("east-1"));
  for (auto bad : {"East", "-a", "a-", "a/b", "a.b"}) EXPECT_FALSE(check_region(bad)) << bad;
  EXPECT_FALSE(check_region(std::string(47, 'a')));
}

TEST(Keys, StatusKeys) {
  const WorkloadEndpointName n{"cmp-01", "openstack", "dev-1", "port-1"};
  const auto key = endpoint_status_key("", "openstack", n);
  EXPECT_EQ(key, "/calico/felix/v2/no-region/host/cmp-01/workload/openstack/openstack%2fdev-1/endpoint/port-1");
  const auto back = parse_endpoint_status_key(key);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->ns, "openstack");
  EXPECT_EQ(back->workload, "dev-1");
  EXPECT_EQ(back->endpoint, "port-1");
  // The short form without the namespace is taken too.
  EXPECT_EQ(parse_endpoint_status_key("/calico/felix/v2/no-region/host/h/workload/openstack/d/endpoint/p")->workload,
            "d");
  EXPECT_EQ(*parse_status_key(status_key("east1", "cmp-01")), "cmp-01");
  EXPECT_FALSE(parse_status_key(last_reported_status_key("", "cmp-01")));
  EXPECT_FALSE(parse_endpoint_status_key(status_key("", "cmp-01")));
  EXPECT_EQ(*unescape_segment(escape_segment("a/%2f b")), "a/%2f b");
  EXPECT_FALSE(unescape_segment("a%2"));
}

TEST(Keys, NamesFromNeutron) {
  EXPECT_EQ(interface_of_port("3f1c9a52-6d0e-4b7a-9c11-8e2f7a4d5b60"), "tap3f1c9a52-6d");
  EXPECT_TRUE(is_interface_name("tap3f1c9a52-6d"));
  for (auto bad : {"", ".", "..", "a b", "a/b", "0123456789abcdef", "a\nb", "tap*"})
    EXPECT_FALSE(is_interface_name(bad)) << bad;
  EXPECT_EQ(sanitise_label("__my group!__", 63), "my_group");
  EXPECT_EQ(sanitise_label("***", 63), "");
  EXPECT_EQ(sanitise_label("abcdef", 3), "abc");
}

TEST(Keys, EveryEndpointOfTheSnapshotNamesItsHost) {
  int seen = 0;
  for (const auto& [key, value] : test::openstack_snapshot()) {
    if (!key.starts_with(kWorkloadEndpoints)) continue;
    const auto r = parse_resource_key(key);
    ASSERT_TRUE(r) << key;
    const auto n = parse_wep_name(r->name);
    ASSERT_TRUE(n) << key;
    EXPECT_TRUE(n->host.starts_with("host-")) << n->host;
    EXPECT_EQ(workload_endpoint_key(r->ns, *n), key);
    ++seen;
  }
  EXPECT_EQ(seen, 7);
}

}  // namespace calico::model
