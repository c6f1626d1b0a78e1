#include "core/sync/replicator.hpp"

#include <fstream>

#include "tests/unit/sync/fake_datastore.hpp"
#include "tests/unit/sync/support.hpp"

namespace calico::sync {
namespace {

using test::endpoint_key;
using test::eventually;
using test::FakeDatastore;
using test::Follower;
using test::info;
using test::kInfoKey;
using test::TempDir;

class SyncTest : public testing::Test {
 protected:
  void start(const std::string& host = "host-a") {
    Options o;
    o.datastore = fake_;
    o.mirror_file = dir_.file("state.db");
    o.node = host;
    o.page = 3;
    o.timing = test::quick();
    auto s = Service::open(std::move(o));
    ASSERT_TRUE(s) << s.error().what;
    service_ = std::move(*s);
    service_->start();
  }
  void stop() { service_.reset(); }
  Phase phase() { return service_->view().state().phase; }
  testing::AssertionResult reaches(Phase p) {
    auto r = eventually(std::string(to_string(p)), [&] { return phase() == p; });
    return r ? r : r << "; the node is " << to_string(phase()) << ": " << service_->view().state().reason;
  }
  /// The mirror holds exactly what the datastore holds below the resources.
  testing::AssertionResult equal() {
    return eventually("the datastore's content", [&] {
      return service_->view().range(model::kResources) == store_.range(std::string(model::kResources));
    });
  }
  void put_endpoints(const std::string& host, int from, int to) {
    for (int i = from; i < to; ++i) store_.put(endpoint_key(host, i), fmt::format("{{\"n\":{}}}", i));
  }
  /// The node is away while these are deleted and the history of it is compacted, so that only a list can tell.
  void stop_and_lose(const std::string& host, int from, int to) {
    stop();
    for (int i = from; i < to; ++i) store_.del(endpoint_key(host, i));
    store_.compact(store_.put("/calico/other", "x"));
  }
  std::size_t endpoints() { return service_->view().range(model::kWorkloadEndpoints).size(); }

  TempDir dir_;
  std::shared_ptr<FakeDatastore> fake_ = std::make_shared<FakeDatastore>();
  test::Client store_{fake_};
  std::unique_ptr<Service> service_;
};

TEST_F(SyncTest, ListsPageByPageThenFollows) {
  store_.put(kInfoKey, info());
  put_endpoints("host-a", 0, 10);
  store_.put("/calico/dhcp/v2/no-region/subnet/s1", "{}");
  store_.put("/calico/felix/v2/no-region/host/x/status", "{}");
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  ASSERT_TRUE(equal());
  EXPECT_TRUE(service_->view().get("/calico/dhcp/v2/no-region/subnet/s1"));
  EXPECT_FALSE(service_->view().get("/calico/felix/v2/no-region/host/x/status")) << "not this node's business";
  Follower f(service_->view(), {std::string(model::kWorkloadEndpoints)});
  put_endpoints("host-b", 0, 2);
  store_.del(endpoint_key("host-a", 3));
  ASSERT_TRUE(eventually("the changes", [&] { return f.content().size() == 11; }));
  ASSERT_TRUE(equal());
}

TEST_F(SyncTest, WaitsForDatastoreReady) {
  put_endpoints("host-a", 0, 2);
  start();
  ASSERT_TRUE(eventually("the reason", [&] {
    return service_->view().state().reason.find("clusterinformations/default is missing") != std::string::npos;
  }));
  EXPECT_EQ(phase(), Phase::waiting);
  EXPECT_EQ(endpoints(), 0U);
  store_.put(kInfoKey, info("guid-1", false));
  ASSERT_TRUE(eventually("the reason", [&] {
    return service_->view().state().reason.find("datastoreReady is not true") != std::string::npos;
  }));
  EXPECT_EQ(endpoints(), 0U);
  store_.put(kInfoKey, info());
  ASSERT_TRUE(reaches(Phase::in_sync));
  EXPECT_EQ(endpoints(), 2U);
}

TEST_F(SyncTest, AFrozenDatastoreChangesNothingUntilItIsReadyAgain) {
  store_.put(kInfoKey, info());
  put_endpoints("host-a", 0, 3);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  store_.put(kInfoKey, info("guid-1", false));
  ASSERT_TRUE(eventually("the frozen state", [&] {
    return phase() == Phase::resyncing && service_->view().state().reason.find("not ready") != std::string::npos;
  }));
  store_.del(endpoint_key("host-a", 0));
  service_->report().set("/calico/felix/v2/no-region/host/host-a/x", "1");
  EXPECT_EQ(endpoints(), 3U);
  stop();
  start();  // also over a restart
  ASSERT_TRUE(eventually("the frozen state",
                         [&] { return service_->view().state().reason.find("not ready") != std::string::npos; }));
  service_->report().set("/calico/felix/v2/no-region/host/host-a/x", "1");
  EXPECT_EQ(endpoints(), 3U);
  EXPECT_FALSE(store_.get("/calico/felix/v2/no-region/host/host-a/x")) << "a frozen datastore is not written to";
  store_.put(kInfoKey, info());
  ASSERT_TRUE(reaches(Phase::in_sync));
  EXPECT_EQ(endpoints(), 2U);
  ASSERT_TRUE(
      eventually("the report", [&] { return store_.get("/calico/felix/v2/no-region/host/host-a/x").has_value(); }));
}

TEST_F(SyncTest, BootsFromTheMirrorWithTheDatastoreDown) {
  store_.put(kInfoKey, info());
  put_endpoints("host-a", 0, 3);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  stop();
  fake_->set_down(true);
  start();
  EXPECT_EQ(endpoints(), 3U);
  Follower f(service_->view(), {std::string(model::kWorkloadEndpoints)});
  ASSERT_TRUE(eventually("the last known content", [&] { return f.usable() && f.content().size() == 3; }));
  ASSERT_TRUE(eventually(
      "the reason", [&] { return service_->view().state().reason.find("connection refused") != std::string::npos; }));
  EXPECT_EQ(phase(), Phase::resyncing);
  fake_->set_down(false);
  put_endpoints("host-a", 3, 4);
  ASSERT_TRUE(reaches(Phase::in_sync));
  ASSERT_TRUE(equal());
  EXPECT_EQ(service_->status().lists, 0U) << "it resumes";
  EXPECT_GE(service_->status().resumes, 1U);
}

TEST_F(SyncTest, ResumesAfterALostConnectionWithoutAList) {
  store_.put(kInfoKey, info());
  put_endpoints("host-a", 0, 3);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  Follower f(service_->view(), {std::string(model::kWorkloadEndpoints)});
  ASSERT_TRUE(eventually("the content", [&] { return f.updates() == 3; }));
  fake_->set_down(true);
  ASSERT_TRUE(reaches(Phase::resyncing));
  EXPECT_EQ(endpoints(), 3U);
  fake_->set_down(false);
  store_.del(endpoint_key("host-a", 0));
  ASSERT_TRUE(reaches(Phase::in_sync));
  ASSERT_TRUE(eventually("the change", [&] { return f.content().size() == 2; }));
  EXPECT_EQ(f.updates(), 4);
  EXPECT_EQ(service_->status().lists, 1U);
}

TEST_F(SyncTest, SilenceIsVerifiedAndResumedWithoutLeavingInSync) {
  store_.put(kInfoKey, info());
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  Follower f(service_->view(), {std::string(model::kWorkloadEndpoints)});
  ASSERT_TRUE(eventually("the first batch", [&] { return f.batches() == 1; }));
  fake_->set_deaf(true);
  put_endpoints("host-a", 0, 2);
  fake_->set_deaf(false);
  fake_->silence();
  ASSERT_TRUE(eventually("what the silent watch missed", [&] { return f.content().size() == 2; }));
  EXPECT_EQ(f.batches(), 2) << "no change of phase was told";
  EXPECT_EQ(service_->status().lists, 1U);
  EXPECT_EQ(phase(), Phase::in_sync);
}

TEST_F(SyncTest, ACompactionDuringAnOutageLeadsToAList) {
  store_.put(kInfoKey, info());
  put_endpoints("host-a", 0, 4);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  fake_->set_down(true);
  ASSERT_TRUE(reaches(Phase::resyncing));
  fake_->set_down(false);
  fake_->set_deaf(true);
  store_.del(endpoint_key("host-a", 1));
  const auto last = store_.put(endpoint_key("host-a", 9), "{}");
  store_.compact(last);
  fake_->set_deaf(false);
  fake_->silence();  // it may have resumed before these
  ASSERT_TRUE(reaches(Phase::in_sync));
  ASSERT_TRUE(equal());
}

TEST_F(SyncTest, AWipedDatastoreWithTheSameClusterIdIsNoticedEvenWhenItsRevisionIsAhead) {
  store_.put(kInfoKey, info());
  put_endpoints("host-a", 0, 4);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  stop();
  fake_->wipe();
  // The same GUID and the same revision of its creation, as a script that sets up a cluster would write them.
  store_.put(kInfoKey, info());
  for (int i = 0; i < 20; ++i) store_.put(endpoint_key("host-a", 2), fmt::format("{{\"again\":{}}}", i));
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  ASSERT_TRUE(equal());
  EXPECT_EQ(endpoints(), 1U) << "3 of 4 are not a mass removal";
  EXPECT_EQ(service_->status().lists, 1U);
  EXPECT_EQ(service_->status().resumes, 0U);
}

TEST_F(SyncTest, AWipedDatastoreBehindUsIsListed) {
  store_.put(kInfoKey, info());
  put_endpoints("host-a", 0, 4);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  fake_->wipe();
  store_.put(kInfoKey, info());
  store_.put(endpoint_key("host-a", 0), "{}");
  ASSERT_TRUE(equal());
  ASSERT_TRUE(reaches(Phase::in_sync));
  EXPECT_EQ(endpoints(), 1U);
}

TEST_F(SyncTest, ABackupWrittenPastUsIsNoticedAlthoughOurNewestKeyStandsInIt) {
  fake_->tell_log();
  store_.put(kInfoKey, info());
  put_endpoints("host-a", 0, 8);
  for (int i = 0; i < 100; ++i) store_.put("/calico/other", std::to_string(i));
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  const auto backup = fake_->backup();
  store_.del(endpoint_key("host-a", 1));  // the last we hear of the old life is a deletion
  ASSERT_TRUE(equal());
  for (const bool off : {true, false}) {
    if (off) stop();
    fake_->set_down(true);
    fake_->restore(backup);
    fake_->set_down(false);
    // Its first change has a revision that we have passed in the old life.
    store_.put(endpoint_key("host-a", 2), off ? "off" : "on");
    for (int i = 0; i < 50; ++i) store_.put("/calico/other", std::to_string(i));
    if (off) start();
    ASSERT_TRUE(eventually("the new life", [&] {
      const auto kv = service_->view().get(endpoint_key("host-a", 2));
      return kv && kv->value == (off ? "off" : "on");
    }));
    ASSERT_TRUE(reaches(Phase::in_sync));
    ASSERT_TRUE(equal());
    store_.del(endpoint_key("host-a", off ? 1 : 3));
    ASSERT_TRUE(equal());
  }
}

TEST_F(SyncTest, ALogThatGrowsFasterThanTheRevisionIsTheSamePast) {
  fake_->tell_log();
  store_.put(kInfoKey, info());
  put_endpoints("host-a", 0, 2);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  for (int i = 0; i < 3; ++i) {
    stop();
    start();
    ASSERT_TRUE(reaches(Phase::in_sync));
    EXPECT_EQ(service_->status().lists, 0U);
  }
}

TEST_F(SyncTest, AWipedEmptyDatastoreRemovesNothing) {
  store_.put(kInfoKey, info());
  put_endpoints("host-a", 0, 4);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  fake_->wipe();
  ASSERT_TRUE(eventually("the reason", [&] {
    return service_->view().state().reason.find("clusterinformations/default is missing") != std::string::npos;
  }));
  EXPECT_EQ(phase(), Phase::resyncing);
  EXPECT_EQ(endpoints(), 4U);
}

TEST_F(SyncTest, RefusesMassRemovalUntilAccepted) {
  store_.put(kInfoKey, info());
  put_endpoints("host-a", 0, 20);
  put_endpoints("host-b", 0, 5);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  EXPECT_FALSE(service_->accept()) << "nothing is refused";
  stop_and_lose("host-a", 8, 20);
  start();
  ASSERT_TRUE(reaches(Phase::refusing));
  EXPECT_NE(service_->view().state().reason.find("12 of the 20 endpoints of host-a"), std::string::npos)
      << service_->view().state().reason;
  EXPECT_EQ(endpoints(), 25U);
  service_->report().set("/calico/felix/v2/no-region/host/host-a/x", "1");
  stop();
  start();  // remembered: the mirror was not touched
  ASSERT_TRUE(reaches(Phase::refusing));
  EXPECT_EQ(endpoints(), 25U);
  EXPECT_FALSE(store_.get("/calico/felix/v2/no-region/host/host-a/x"));
  EXPECT_EQ(service_->status().refusals, 1U);
  auto accepted = service_->accept();
  ASSERT_TRUE(accepted) << accepted.error().what;
  ASSERT_TRUE(reaches(Phase::in_sync));
  EXPECT_EQ(endpoints(), 13U);
  ASSERT_TRUE(equal());
}

TEST_F(SyncTest, TheReturnOfTheObjectsEndsTheRefusal) {
  store_.put(kInfoKey, info());
  put_endpoints("host-a", 0, 20);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  stop_and_lose("host-a", 0, 20);
  start();
  ASSERT_TRUE(reaches(Phase::refusing));
  fake_->set_down(true);
  ASSERT_TRUE(eventually("the error", [&] { return !service_->status().last_error.empty(); }));
  EXPECT_EQ(phase(), Phase::refusing) << "its absence is no reason to think better of it";
  fake_->set_down(false);
  put_endpoints("host-a", 0, 19);
  ASSERT_TRUE(reaches(Phase::in_sync));
  ASSERT_TRUE(equal());
  EXPECT_EQ(endpoints(), 19U);
}

TEST_F(SyncTest, LosingHalfOrTenIsNoMassRemoval) {
  store_.put(kInfoKey, info());
  put_endpoints("host-a", 0, 24);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  stop_and_lose("host-a", 12, 24);  // 12 of 24: not more than half
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  EXPECT_EQ(endpoints(), 12U);
  stop_and_lose("host-a", 2, 12);  // 10 of 12: not more than ten
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  EXPECT_EQ(endpoints(), 2U);
}

TEST_F(SyncTest, OtherNodesEndpointsMayGo) {
  store_.put(kInfoKey, info());
  put_endpoints("host-b", 0, 30);
  put_endpoints("host-a", 0, 1);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  stop_and_lose("host-b", 0, 30);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  EXPECT_EQ(endpoints(), 1U);
}

TEST_F(SyncTest, AnotherClusterIsRefusedUntilAccepted) {
  store_.put(kInfoKey, info("guid-1"));
  put_endpoints("host-a", 0, 2);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  store_.put(kInfoKey, info("guid-2"));
  ASSERT_TRUE(reaches(Phase::refusing));
  EXPECT_NE(service_->view().state().reason.find("guid-2"), std::string::npos) << service_->view().state().reason;
  put_endpoints("host-a", 2, 3);
  EXPECT_EQ(endpoints(), 2U);
  ASSERT_TRUE(service_->accept());
  ASSERT_TRUE(reaches(Phase::in_sync));
  EXPECT_EQ(endpoints(), 3U);
  EXPECT_EQ(service_->status().cluster_guid, "guid-2");
}

TEST_F(SyncTest, ACorruptMirrorIsRebuiltFromTheDatastore) {
  store_.put(kInfoKey, info());
  put_endpoints("host-a", 0, 3);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  stop();
  std::ofstream(dir_.file("state.db")) << "this is not a database, and was one";
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  ASSERT_TRUE(equal());
  EXPECT_NE(service_->status().mirror_note, "");
}

TEST_F(SyncTest, StopsWhileTheDatastoreIsDown) {
  fake_->set_down(true);
  start();
  ASSERT_TRUE(eventually("the error", [&] { return !service_->status().last_error.empty(); }));
  const auto begin = std::chrono::steady_clock::now();
  stop();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(3));
}

TEST(ClusterInfo, ReadsHostileValues) {
  store::KeyValue kv;
  for (const char* bad : {"", "null", "[]", "{", R"({"spec":7})", R"({"spec":{"datastoreReady":"true"}})",
                          R"({"spec":{"clusterGUID":5,"datastoreReady":1}})"}) {
    kv.value = bad;
    EXPECT_FALSE(parse_cluster_info(kv).ready) << bad;
  }
  kv.value = std::string(100000, '[');
  EXPECT_FALSE(parse_cluster_info(kv).ready);
  kv.value = info("g");
  EXPECT_TRUE(parse_cluster_info(kv).ready);
  EXPECT_EQ(parse_cluster_info(kv).guid, "g");
}

TEST(EndpointOfNode, TellsHostsApart) {
  EXPECT_TRUE(is_endpoint_of(endpoint_key("host-a", 1), "host-a"));
  EXPECT_TRUE(is_endpoint_of(endpoint_key("a", 1), "a"));
  EXPECT_FALSE(is_endpoint_of(endpoint_key("a-b", 1), "a"));
  EXPECT_FALSE(is_endpoint_of(endpoint_key("a", 1), "a-openstack"));
  EXPECT_FALSE(is_endpoint_of(endpoint_key("ab", 1), "a"));
  EXPECT_FALSE(is_endpoint_of("/calico/x", "a"));
  EXPECT_FALSE(is_endpoint_of(std::string(model::kWorkloadEndpoints), "a"));
}

}  // namespace
}  // namespace calico::sync
