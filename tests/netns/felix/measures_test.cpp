// What felix counts of itself, its health, and the part of its configuration that comes from the datastore by
// upstream's names: the values that are refused too.
#include <gmock/gmock.h>

#include "tests/netns/felix/bench.hpp"

namespace calico::test {
namespace {

using testing::HasSubstr;

/// The value of a sample, with its labels; -1 when it is not there.
double sample(Bench& b, const std::string& name) {
  const auto text = "\n" + b.metrics.text();
  const auto at = text.find("\n" + name + " ");
  return at == std::string::npos ? -1 : std::strtod(text.c_str() + at + name.size() + 2, nullptr);
}

TEST(FelixMeasures, NotReadyBeforeTheFirstSnapshot) {
  NEEDS_NETNS();
  Bench b(false);
  ASSERT_NO_FATAL_FAILURE(b.start());
  const auto no = b.health.readiness();
  EXPECT_FALSE(no.ok);
  EXPECT_THAT(no.json, HasSubstr("felix: waiting for the datastore"));
  EXPECT_TRUE(b.health.liveness().ok);
  EXPECT_EQ(sample(b, "felix_int_dataplane_apply_time_seconds_count"), 0);
}

TEST(FelixMeasures, CountWhatHappens) {
  NEEDS_NETNS();
  Bench b;
  b.sets.push_back("felix.reporting_interval=1s");
  Vm a(1), c(2);
  b.group("web", Bench::icmp_from("web"));
  for (auto* vm : {&a, &c}) b.plug(*vm);
  b.endpoint(a, {"web"});
  ASSERT_NO_FATAL_FAILURE(b.start());
  ASSERT_TRUE(eventually("a up", [&] { return sample(b, "felix_endpoints{status=\"up\"}") == 1; }));
  EXPECT_TRUE(eventually("ready", [&] { return b.health.readiness().ok; })) << b.health.readiness().json;
  EXPECT_EQ(sample(b, "felix_host{host=\"h\"}"), 1);
  EXPECT_EQ(sample(b, "felix_resync_state"), 3);
  EXPECT_EQ(sample(b, "felix_active_local_endpoints"), 1);
  EXPECT_EQ(sample(b, "felix_active_local_policies"), 1);
  EXPECT_EQ(sample(b, "felix_cluster_num_policies"), 1);
  EXPECT_EQ(sample(b, "felix_cluster_num_hosts"), 1);
  EXPECT_EQ(sample(b, "felix_cluster_num_profiles"), 0);
  EXPECT_GE(sample(b, "felix_cluster_num_tiers"), 0);
  EXPECT_GT(sample(b, "felix_int_dataplane_initial_resync_time_seconds"), 0);
  EXPECT_EQ(sample(b, "felix_endpoints{status=\"up\"}"), 1);
  EXPECT_EQ(sample(b, "felix_calc_graph_updates_processed{type=\"workload-endpoint\"}"), 1);
  EXPECT_EQ(sample(b, "felix_int_dataplane_failures"), 0);
  EXPECT_EQ(sample(b, "felix_revision_to_kernel_seconds_count"), 0) << "the start is no change";

  // A change, from its revision to the kernel's answer.
  const auto calls = sample(b, "felix_nft_calls");
  b.endpoint(c, {"web"});
  ASSERT_TRUE(eventually("c up", [&] { return sample(b, "felix_endpoints{status=\"up\"}") == 2; }));
  EXPECT_EQ(sample(b, "felix_revision_to_kernel_seconds_count"), 1);
  const auto took = sample(b, "felix_revision_to_kernel_seconds_sum");
  EXPECT_GT(took, 0);
  EXPECT_GT(sample(b, "felix_nft_calls"), calls);
  EXPECT_GT(sample(b, "felix_netlink_writes"), 0);
  EXPECT_EQ(sample(b, "felix_calc_graph_updates_processed{type=\"workload-endpoint\"}"), 2);
  EXPECT_TRUE(eventually("the counts", [&] { return sample(b, "felix_active_local_endpoints") == 2; }));
  // What changes nothing in the kernel is no latency.
  b.view.set(model::felix_configuration_key("node.h"), R"({"spec":{"healthEnabled":true}})");
  EXPECT_TRUE(eventually("configuration",
                         [&] { return sample(b, "felix_calc_graph_updates_processed{type=\"configuration\"}") == 1; }));
  b.gone(c);
  EXPECT_TRUE(eventually("gone", [&] { return sample(b, "felix_endpoints{status=\"up\"}") == 1; }));
  EXPECT_EQ(sample(b, "felix_revision_to_kernel_seconds_count"), 2);
  // A policy that cannot be read closes the endpoints it selects, and is counted.
  b.group("web", R"({"action":"Perhaps"})");
  EXPECT_TRUE(eventually("the fault", [&] { return sample(b, "felix_faulty_values") == 1; }));
  EXPECT_TRUE(eventually("closed", [&] { return sample(b, "felix_endpoints_closed") == 1; }));
  EXPECT_EQ(sample(b, "felix_endpoints{status=\"down\"}"), 1);
  // Everybody's lines at once: nothing that a scraper would refuse.
  EXPECT_EQ(b.metrics.text().find("left_out"), std::string::npos);
}

TEST(FelixConfiguration, IsTakenAtRunTime) {
  NEEDS_NETNS();
  Bench b;
  Vm a(1);
  b.group("open", Bench::kAll);
  b.place({&a}, {"open"});
  b.view.set(model::felix_configuration_key("default"), R"({"spec":{"endpointReportingEnabled":false}})");
  ASSERT_NO_FATAL_FAILURE(b.start());
  ASSERT_TRUE(eventually("a programmed", [&] { return sample(b, "felix_endpoints{status=\"up\"}") == 1; }));
  EXPECT_EQ(b.status_of(a), "none");
  const auto settings = [&] {
    std::lock_guard lock(b.mutex);
    return b.settings;
  };
  EXPECT_FALSE(settings().health_at);

  // Wrong values and names are named and ignored; the rest of the resource, and the resource below, count.
  b.view.set(
      model::felix_configuration_key("default"),
      R"({"spec":{"endpointReportingEnabled":true,"healthEnabled":true,"healthPort":9100,"reportingInterval":"1m30s",
                 "prometheusMetricsEnabled":true,"prometheusMetricsHost":"::1","iptablesBackend":"nft"}})");
  b.view.set(model::felix_configuration_key("node.h"),
             R"({"spec":{"healthPort":99999,"reportingInterval":"soon","metadataAddr":"a name","frobnicate":[1],
                 "defaultEndpointToHostAction":"Perhaps"}})");
  ASSERT_TRUE(eventually("six ignored", [&] { return sample(b, "felix_configuration_ignored") == 6; }))
      << sample(b, "felix_configuration_ignored");
  ASSERT_TRUE(eventually("the rest taken", [&] { return settings().health_at.has_value(); }));
  const auto now = settings();
  ASSERT_TRUE(now.health_at);
  EXPECT_EQ(now.health_at->to_string(), "127.0.0.1:9100");
  ASSERT_TRUE(now.metrics_at);
  EXPECT_EQ(now.metrics_at->to_string(), "[::1]:9091");
  EXPECT_EQ(now.reporting_interval, std::chrono::seconds(90));
  EXPECT_TRUE(now.drop_to_host);
  EXPECT_FALSE(now.metadata_address);
  EXPECT_TRUE(b.up(a)) << "reporting came on: its state is written";
  EXPECT_TRUE(eventually("settled", [&] { return b.report.is_settled(model::endpoint_status_prefix("", "h")); }));

  // By the labels of our Node, between the two.
  b.view.set(model::felix_configuration_key("rack"),
             R"({"spec":{"nodeSelector":"rack == 'r1'","healthPort":9102,"reportingInterval":"20s"}})");
  b.view.set(model::node_key("other"), R"({"metadata":{"labels":{"rack":"r1"}},"spec":{}})");
  b.view.set(model::node_key("h"), R"({"metadata":{"labels":{"rack":"r1"}},"spec":{}})");
  EXPECT_TRUE(eventually("selected", [&] { return settings().reporting_interval == std::chrono::seconds(20); }));
  ASSERT_TRUE(settings().health_at);
  EXPECT_EQ(settings().health_at->to_string(), "127.0.0.1:9102");
  b.view.set(model::node_key("h"), R"({"metadata":{"labels":{"rack":"r2"}},"spec":{}})");
  EXPECT_TRUE(eventually("not selected", [&] { return settings().reporting_interval == std::chrono::seconds(90); }));
  EXPECT_EQ(settings().health_at->to_string(), "127.0.0.1:9100");

  // Taken back: the built-in defaults.
  b.view.set(model::felix_configuration_key("node.h"), "not even JSON");
  b.view.set(model::felix_configuration_key("default"), std::nullopt);
  EXPECT_TRUE(eventually("defaults", [&] { return !settings().health_at; }));
  EXPECT_EQ(settings().reporting_interval, std::chrono::seconds(30));
  EXPECT_TRUE(b.up(a));
  EXPECT_TRUE(pings(b.out, a.ip));
}

}  // namespace
}  // namespace calico::test
