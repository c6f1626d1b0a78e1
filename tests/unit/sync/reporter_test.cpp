#include "core/sync/reporter.hpp"

#include <boost/json.hpp>

#include "tests/unit/sync/fake_datastore.hpp"
#include "tests/unit/sync/support.hpp"

namespace calico::sync {
namespace {

using test::eventually;
using test::FakeDatastore;
using test::info;
using test::kInfoKey;

namespace json = boost::json;

const std::string kMine = "/calico/felix/v2/no-region/host/host-a/workload/";
const std::string kStatus = "/calico/felix/v2/no-region/host/host-a/status";

class ReportTest : public testing::Test {
 protected:
  void SetUp() override { store_.put(kInfoKey, info()); }
  void start() {
    Options o;
    o.datastore = fake_;
    o.node = "host-a";
    o.page = 3;
    o.timing = test::quick();
    auto s = Service::open(std::move(o));
    ASSERT_TRUE(s) << s.error().what;
    service_ = std::move(*s);
    service_->start();
  }
  Report& report() { return service_->report(); }
  testing::AssertionResult holds(const std::string& key, const std::optional<std::string>& value) {
    return eventually(key + " = " + value.value_or("(nothing)"), [&] {
      const auto kv = store_.get(key);
      return kv.has_value() == value.has_value() && (!kv || kv->value == *value);
    });
  }
  testing::AssertionResult in_sync() {
    return eventually("in sync", [&] { return service_->view().state().phase == Phase::in_sync; });
  }
  testing::AssertionResult written() {
    return eventually("nothing pending", [&] { return service_->status().reports_pending == 0; });
  }

  std::shared_ptr<FakeDatastore> fake_ = std::make_shared<FakeDatastore>();
  test::Client store_{fake_};
  std::unique_ptr<Service> service_;
};

TEST_F(ReportTest, WritesWhatWasSaidBeforeItWasInSync) {
  fake_->set_down(true);
  start();
  report().set(kMine + "1", "a");
  report().set(kMine + "1", "b");
  fake_->set_down(false);
  ASSERT_TRUE(holds(kMine + "1", "b"));
  EXPECT_EQ(store_.get(kMine + "1")->version, 1) << "the last value only";
}

TEST_F(ReportTest, RemovesWhatItClaimsAndDidNotSayOnceSettled) {
  for (int i = 0; i < 8; ++i) store_.put(kMine + fmt::format("{}", i), "old");
  store_.put("/calico/felix/v2/no-region/host/host-b/workload/1", "foreign");
  start();
  report().claim(kMine);
  report().set(kMine + "2", "new");
  report().set(kMine + "5", "old");
  ASSERT_TRUE(holds(kMine + "2", "new"));
  EXPECT_EQ(store_.range(kMine).size(), 8U) << "not settled: nothing may go";
  report().settled(kMine);
  ASSERT_TRUE(eventually("the removal", [&] { return store_.range(kMine).size() == 2; }));
  EXPECT_EQ(store_.get(kMine + "5")->version, 1) << "what is right is not written again";
  EXPECT_TRUE(store_.get("/calico/felix/v2/no-region/host/host-b/workload/1"));
  report().set(kMine + "5", std::nullopt);
  ASSERT_TRUE(holds(kMine + "5", std::nullopt));
}

TEST_F(ReportTest, RepairsWhatWasChangedDuringAnOutage) {
  start();
  report().claim(kMine);
  report().settled(kMine);
  report().set(kMine + "1", "a");
  report().set("/calico/alone", "a");
  report().set("/calico/gone", std::nullopt);
  ASSERT_TRUE(holds(kMine + "1", "a"));
  ASSERT_TRUE(holds("/calico/alone", "a"));
  fake_->set_down(true);
  ASSERT_TRUE(eventually("the outage", [&] { return service_->view().state().phase == Phase::resyncing; }));
  fake_->set_down(false);
  store_.put(kMine + "1", "broken");
  store_.put(kMine + "2", "foreign");
  store_.del("/calico/alone");
  store_.put("/calico/gone", "back");
  ASSERT_TRUE(in_sync());
  // Repaired by the compare after in_sync, unless that came before our changes: then by the next outage.
  fake_->set_down(true);
  ASSERT_TRUE(eventually("the outage", [&] { return service_->view().state().phase == Phase::resyncing; }));
  fake_->set_down(false);
  ASSERT_TRUE(holds(kMine + "1", "a"));
  ASSERT_TRUE(holds(kMine + "2", std::nullopt));
  ASSERT_TRUE(holds("/calico/alone", "a"));
  ASSERT_TRUE(holds("/calico/gone", std::nullopt));
}

TEST_F(ReportTest, WritesInBatchesOfAtMost128) {
  fake_->set_down(true);
  start();
  for (int i = 0; i < 1000; ++i) report().set(kMine + fmt::format("{:04}", i), "x");
  fake_->set_down(false);
  ASSERT_TRUE(eventually("all keys", [&] { return store_.range(kMine).size() == 1000; }));
  EXPECT_LE(fake_->calls().biggest_txn, 128U);
  EXPECT_LE(fake_->calls().txn, 40);
}

TEST_F(ReportTest, KeepsOneLeaseAndPutsAgainWhenItIsLost) {
  start();
  report().set(kStatus, "alive", true);
  report().set(kMine + "1", "up");
  ASSERT_TRUE(holds(kStatus, "alive"));
  ASSERT_TRUE(holds(kMine + "1", "up"));
  const auto lease = store_.get(kStatus)->lease;
  EXPECT_NE(lease, 0);
  EXPECT_EQ(store_.get(kMine + "1")->lease, 0);
  const auto before = fake_->calls().keepalive;
  ASSERT_TRUE(eventually("keepalives", [&] { return fake_->calls().keepalive >= before + 2; }));
  EXPECT_EQ(fake_->calls().grant, 1);
  fake_->drop_lease(lease);
  EXPECT_FALSE(store_.get(kStatus));
  ASSERT_TRUE(holds(kStatus, "alive"));
  EXPECT_NE(store_.get(kStatus)->lease, lease);
  EXPECT_EQ(fake_->calls().grant, 2);
  EXPECT_EQ(store_.get(kMine + "1")->version, 1) << "only what was leased";
}

TEST_F(ReportTest, APutUnderALostLeaseGetsANewOne) {
  start();
  report().set(kStatus, "1", true);
  ASSERT_TRUE(holds(kStatus, "1"));
  fake_->drop_lease(store_.get(kStatus)->lease);
  report().set(kStatus, "2", true);
  ASSERT_TRUE(holds(kStatus, "2"));
}

TEST_F(ReportTest, ARestartTakesOverTheKeyFromTheFormerLease) {
  start();
  report().set(kStatus, "1", true);
  ASSERT_TRUE(holds(kStatus, "1"));
  const auto former = store_.get(kStatus)->lease;
  service_.reset();
  EXPECT_TRUE(store_.get(kStatus)) << "a stop is no death";
  start();
  report().set(kStatus, "1", true);
  ASSERT_TRUE(eventually("the new lease", [&] { return store_.get(kStatus)->lease != former; }));
  fake_->drop_lease(former);
  EXPECT_TRUE(store_.get(kStatus));
}

TEST_F(ReportTest, OneKeyTheDatastoreRefusesDoesNotHoldUpTheOthers) {
  fake_->refuse_text("huge");
  fake_->set_down(true);
  start();
  for (int i = 0; i < 20; ++i) report().set(kMine + fmt::format("{:04}", i), i == 7 ? "huge" : "x");
  fake_->set_down(false);
  ASSERT_TRUE(eventually("the others", [&] { return store_.range(kMine).size() == 19; }));
  ASSERT_TRUE(eventually("the error", [&] { return !service_->status().report_error.empty(); }));
  EXPECT_NE(service_->status().report_error.find("0007"), std::string::npos) << service_->status().report_error;
  report().set(kMine + "0007", "small");
  ASSERT_TRUE(holds(kMine + "0007", "small"));
}

TEST_F(ReportTest, RetriesWhenWritingFails) {
  start();
  ASSERT_TRUE(in_sync());
  fake_->fail_txn(Errc::no_permission);
  report().set(kMine + "1", "x");
  ASSERT_TRUE(eventually("the error", [&] { return !service_->status().report_error.empty(); }));
  EXPECT_EQ(service_->status().reports_pending, 1U);
  fake_->fail_txn(std::nullopt);
  ASSERT_TRUE(holds(kMine + "1", "x"));
  ASSERT_TRUE(eventually("no error", [&] { return service_->status().report_error.empty(); }));
}

// ---- the Node

const std::string kNode = model::node_key("host-a");
const std::string kLabels = R"({"role.example/compute":"true"})";
const std::string kSpec = R"({"bgp":{"ipv4Address":"192.0.2.1/24","asNumber":64512,"routeReflectorClusterID":null}})";

json::value node_of(const std::optional<store::KeyValue>& kv) {
  return kv ? json::parse(kv->value) : json::value(nullptr);
}

TEST_F(ReportTest, CreatesItsNodeWithoutALease) {
  start();
  report().set_node("host-a", kLabels, kSpec);
  ASSERT_TRUE(eventually("the Node", [&] { return store_.get(kNode).has_value(); }));
  const auto kv = store_.get(kNode);
  EXPECT_EQ(kv->lease, 0);
  const auto node = node_of(kv);
  EXPECT_EQ(node.at("kind"), "Node");
  EXPECT_EQ(node.at("metadata").at("name"), "host-a");
  EXPECT_EQ(node.at("metadata").at("uid").as_string().size(), 36U);
  EXPECT_EQ(node.at("spec").at("bgp").at("ipv4Address"), "192.0.2.1/24");
  EXPECT_FALSE(node.at("spec").at("bgp").as_object().contains("routeReflectorClusterID"));
  // Said again, also by a restarted process, it is not written again.
  const auto revision = kv->mod_revision;
  service_.reset();
  start();
  report().set_node("host-a", kLabels, kSpec);
  ASSERT_TRUE(in_sync());
  ASSERT_TRUE(written());
  EXPECT_EQ(store_.get(kNode)->mod_revision, revision);
}

TEST_F(ReportTest, KeepsForeignLabelsAnnotationsAndFields) {
  store_.put(kNode, R"({"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"host-a","uid":"u",)"
                    R"("labels":{"rack":"r1","other.example/x":"1","role.example/route-reflector":"true"},)"
                    R"("annotations":{"a":"b"}},"spec":{"wireguard":{"x":1},"bgp":{"asNumber":1,)"
                    R"("routeReflectorClusterID":"1.1.1.1","ipv4IPIPTunnelAddr":"10.0.0.1"}}})");
  start();
  report().set_node("host-a", kLabels, kSpec);
  ASSERT_TRUE(eventually("the Node", [&] { return store_.get(kNode)->version == 2; }));
  const auto node = node_of(store_.get(kNode));
  EXPECT_EQ(node.at("metadata").at("uid"), "u");
  EXPECT_EQ(node.at("metadata").at("annotations").at("a"), "b");
  EXPECT_EQ(json::serialize(node.at("metadata").at("labels")),
            R"({"rack":"r1","other.example/x":"1","role.example/compute":"true"})");
  EXPECT_EQ(node.at("spec").at("wireguard").at("x"), 1);
  const auto& bgp = node.at("spec").at("bgp").as_object();
  EXPECT_EQ(bgp.at("asNumber"), 64512);
  EXPECT_EQ(bgp.at("ipv4IPIPTunnelAddr"), "10.0.0.1");
  EXPECT_FALSE(bgp.contains("routeReflectorClusterID"));
}

TEST_F(ReportTest, ANodeDeletedByAnOperatorStaysDeletedUntilItsContentChanges) {
  start();
  report().set_node("host-a", kLabels, kSpec);
  ASSERT_TRUE(eventually("the Node", [&] { return store_.get(kNode).has_value(); }));
  ASSERT_TRUE(eventually("our own write", [&] { return service_->view().get(kNode).has_value(); }));
  store_.del(kNode);
  ASSERT_TRUE(eventually("the deletion", [&] { return !service_->view().get(kNode).has_value(); }));
  ASSERT_TRUE(written());
  fake_->set_down(true);
  ASSERT_TRUE(eventually("the outage", [&] { return service_->view().state().phase == Phase::resyncing; }));
  fake_->set_down(false);
  ASSERT_TRUE(in_sync());
  ASSERT_TRUE(written());
  report().set("/calico/marker", "1");
  ASSERT_TRUE(holds("/calico/marker", "1"));
  EXPECT_FALSE(store_.get(kNode));
  report().set_node("host-a", kLabels, R"({"bgp":{"asNumber":2}})");
  ASSERT_TRUE(eventually("the Node", [&] { return store_.get(kNode).has_value(); }));
}

TEST_F(ReportTest, AnotherDatastoreGetsTheNodeAgain) {
  start();
  report().set_node("host-a", kLabels, kSpec);
  ASSERT_TRUE(eventually("the Node", [&] { return store_.get(kNode).has_value(); }));
  fake_->wipe();
  store_.put(kInfoKey, info("guid-2"));
  ASSERT_TRUE(eventually("the refusal", [&] { return service_->view().state().phase == Phase::refusing; }));
  EXPECT_FALSE(store_.get(kNode));
  ASSERT_TRUE(service_->accept());
  ASSERT_TRUE(eventually("the Node", [&] { return store_.get(kNode).has_value(); }));
}

TEST_F(ReportTest, ANodeSomebodyBrokeIsRepaired) {
  start();
  report().set_node("host-a", kLabels, kSpec);
  ASSERT_TRUE(eventually("the Node", [&] { return store_.get(kNode).has_value(); }));
  store_.put(kNode, "[[[");
  ASSERT_TRUE(eventually("the repair", [&] {
    const auto kv = store_.get(kNode);
    return kv && kv->value.find("192.0.2.1/24") != std::string::npos;
  }));
}

TEST(MergeNode, RefusesWhatIsNoObject) {
  EXPECT_FALSE(merge_node("", "n", "[]", "{}", "u", "t"));
  EXPECT_FALSE(merge_node("", "n", "{}", "7", "u", "t"));
  auto merged = merge_node("", "n", "{}", R"({"bgp":null,"addresses":[{"address":"192.0.2.1"}]})", "u", "t");
  ASSERT_TRUE(merged);
  EXPECT_EQ(*merged, R"({"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"n","uid":"u",)"
                     R"("creationTimestamp":"t","labels":{}},"spec":{"addresses":[{"address":"192.0.2.1"}]}})");
}

}  // namespace
}  // namespace calico::sync
