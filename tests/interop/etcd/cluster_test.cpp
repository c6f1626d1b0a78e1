// Nodes against a real three-member etcd cluster that has accidents. After each: every node is in sync again, its
// mirror equals the datastore, no endpoint was taken from any module but those somebody deleted, later changes arrive,
// and the requests were counted.
#include "tests/interop/etcd/agents.hpp"

namespace calico::test {
namespace {

using sync::Phase;
using Keys = std::set<std::string>;

class EtcdClusterTest : public testing::Test {
 protected:
  void SetUp() override { NEEDS_ETCD_CLUSTER(); }
  void TearDown() override {
    if (HasFailure() && cloud_) std::puts(cloud_->all().c_str());
    cloud_.reset();
    cluster_.reset();
  }
  void begin(EtcdCluster::Options cluster = {}, Cloud::Options cloud = {}) {
    cluster_ = std::make_unique<EtcdCluster>(cluster);
    cloud.timing.lease_keepalive = std::chrono::seconds(2);
    cloud_ = std::make_unique<Cloud>(*cluster_, std::move(cloud));
    cloud_->populate();
    cloud_->start();
    ASSERT_TRUE(cloud_->in_sync());
    ASSERT_EQ(cloud_->lists(), static_cast<std::uint64_t>(cloud_->size()));
  }
  std::unique_ptr<EtcdCluster> cluster_;
  std::unique_ptr<Cloud> cloud_;
};

TEST_F(EtcdClusterTest, NodesSpreadOverTheMembersWithTwoWatchesEach) {
  begin({}, {.agents = 12});
  int used = 0;
  for (int i = 0; i < 3; ++i) used += cloud_->connected_to(i) > 0 ? 1 : 0;
  EXPECT_GT(used, 1) << cloud_->all();
  const auto watchers = [&] {
    double n = 0;
    for (int i = 0; i < 3; ++i) n += cluster_->metric(i, "etcd_debugging_mvcc_watcher_total");
    return n;
  };
  EXPECT_TRUE(eventually("two watches a node", [&] { return watchers() == 2.0 * cloud_->size(); })) << watchers();
}

TEST_F(EtcdClusterTest, TheLeaderIsKilled) {
  begin();
  for (int round = 0; round < 2; ++round) {
    Budget budget(*cloud_);
    const int leader = cluster_->leader();
    cluster_->kill(leader);
    ASSERT_TRUE(cloud_->follows());
    ASSERT_TRUE(cloud_->in_sync());
    EXPECT_EQ(cloud_->connected_to(leader), 0);
    EXPECT_TRUE(budget.kept());
    cluster_->start_all();
    ASSERT_TRUE(cloud_->follows());
  }
  EXPECT_EQ(cloud_->removed(), Keys{});
  EXPECT_EQ(cloud_->lists(), static_cast<std::uint64_t>(cloud_->size())) << "they resume";
}

TEST_F(EtcdClusterTest, AMemberNobodyReachesIsLeft) {
  begin();
  const int member = cloud_->favourite();
  ASSERT_GT(cloud_->connected_to(member), 0);
  Budget budget(*cloud_);
  cluster_->cut_off(member);
  ASSERT_TRUE(cloud_->follows());
  ASSERT_TRUE(cloud_->in_sync());
  EXPECT_EQ(cloud_->connected_to(member), 0);
  EXPECT_TRUE(budget.kept());
  cluster_->rejoin(member);
  cluster_->await_leader();
  ASSERT_TRUE(cloud_->follows());
  EXPECT_EQ(cloud_->removed(), Keys{});
  EXPECT_EQ(cloud_->lists(), static_cast<std::uint64_t>(cloud_->size()));
}

TEST_F(EtcdClusterTest, AMemberCutFromItsClusterIsLeftAlthoughItAnswers) {
  begin();
  const int member = cloud_->favourite();
  ASSERT_GT(cloud_->connected_to(member), 0);
  Budget budget(*cloud_);
  cluster_->cut_from_members(member);
  ASSERT_TRUE(cloud_->follows());
  ASSERT_TRUE(cloud_->in_sync());
  EXPECT_EQ(cloud_->connected_to(member), 0) << cloud_->all();
  EXPECT_TRUE(budget.kept());
  cluster_->heal(member);
  cluster_->await_leader();
  ASSERT_TRUE(cloud_->follows());
  EXPECT_EQ(cloud_->removed(), Keys{});
  EXPECT_EQ(cloud_->lists(), static_cast<std::uint64_t>(cloud_->size()));
}

TEST_F(EtcdClusterTest, TheWholeClusterRestarts) {
  begin();
  Budget budget(*cloud_);
  cluster_->kill_all();
  ASSERT_TRUE(cloud_->all_say("not reachable"));
  cluster_->start_all();
  ASSERT_TRUE(cloud_->in_sync());
  ASSERT_TRUE(cloud_->follows());
  EXPECT_TRUE(budget.kept());
  // What the members counted since they started is what all nodes together cost them.
  double calls = 0;
  for (int i = 0; i < 3; ++i) calls += cluster_->calls(i);
  std::printf("[  COUNT   ] %.1f calls a node counted by the members since their restart\n", calls / cloud_->size());
  EXPECT_LT(calls / cloud_->size(), 40);
  EXPECT_EQ(cloud_->removed(), Keys{});
  EXPECT_EQ(cloud_->lists(), static_cast<std::uint64_t>(cloud_->size())) << "they resume";
}

TEST_F(EtcdClusterTest, NodesBootWithoutTheClusterAndResume) {
  begin();
  cloud_->stop();
  cluster_->kill_all();
  cloud_->start();
  for (auto& a : cloud_->agents())
    EXPECT_EQ(a->service().view().range(model::kWorkloadEndpoints).size(),
              static_cast<std::size_t>(cloud_->size() * kEndpointsOfAHost));
  ASSERT_TRUE(cloud_->all_say("not reachable"));
  cluster_->start_all();
  ASSERT_TRUE(cloud_->in_sync());
  ASSERT_TRUE(cloud_->follows());
  EXPECT_EQ(cloud_->removed(), Keys{});
  EXPECT_EQ(cloud_->lists(), 0U);
}

TEST_F(EtcdClusterTest, CompactedWhileTheNodesWereAway) {
  begin();
  Budget budget(*cloud_);
  cloud_->unplug();
  const Keys deleted{endpoint_key("host-1", 1), endpoint_key("host-2", 2)};
  for (const auto& k : deleted) cloud_->store().del(k);
  cloud_->put(1, 5, "while away");
  cloud_->store().compact(cloud_->store().put("/calico/other", "x"));
  ASSERT_TRUE(cloud_->all_say("not reachable"));
  cloud_->plug();
  ASSERT_TRUE(cloud_->in_sync());
  ASSERT_TRUE(cloud_->follows());
  EXPECT_EQ(cloud_->removed(), deleted);
  EXPECT_EQ(cloud_->lists(), static_cast<std::uint64_t>(2 * cloud_->size()));
  EXPECT_TRUE(budget.kept());
}

TEST_F(EtcdClusterTest, TheDataDirectoriesAreWiped) {
  begin();
  Budget budget(*cloud_);
  cluster_->wipe_all();
  cluster_->start_all();
  ASSERT_TRUE(cloud_->all_say("clusterinformations/default is missing"));
  EXPECT_EQ(cloud_->removed(), Keys{});
  // Neutron's driver writes its intent anew; a revision number of the old life comes by.
  for (int i = 0; i < 200; ++i) cloud_->store().put("/calico/other", std::to_string(i));
  EXPECT_EQ(cloud_->removed(), Keys{});
  cloud_->populate();
  ASSERT_TRUE(cloud_->in_sync());
  ASSERT_TRUE(cloud_->follows());
  EXPECT_EQ(cloud_->removed(), Keys{});
  EXPECT_TRUE(budget.kept());
}

TEST_F(EtcdClusterTest, AMemberLosesItsDataDirectoryAndIsReplaced) {
  begin();
  Budget budget(*cloud_);
  cluster_->replace(cloud_->favourite());
  ASSERT_TRUE(cloud_->in_sync());
  ASSERT_TRUE(cloud_->follows());
  EXPECT_EQ(cloud_->removed(), Keys{});
  EXPECT_EQ(cloud_->lists(), static_cast<std::uint64_t>(cloud_->size()));
  EXPECT_TRUE(budget.kept());
}

TEST_F(EtcdClusterTest, ABackupIsRestoredUnderRunningNodes) {
  begin();
  const auto backup = cluster_->backup();
  // After it: an endpoint more, one less, one other.
  cloud_->put(1, 100);
  cloud_->store().del(endpoint_key("host-2", 2));
  cloud_->put(3, 3, "newer");
  for (auto& a : cloud_->agents())
    ASSERT_TRUE(eventually("the deletion", [&] { return !a->service().view().get(endpoint_key("host-2", 2)); }));
  ASSERT_TRUE(cloud_->in_sync());
  Budget budget(*cloud_);
  cluster_->restore(backup);
  for (auto& a : cloud_->agents())
    ASSERT_TRUE(eventually("the old state at " + a->name(), [&] {
      const auto kv = a->service().view().get(endpoint_key("host-3", 3));
      return a->service().view().get(endpoint_key("host-2", 2)) && kv && kv->value.find("first") != std::string::npos;
    })) << cloud_->all();
  ASSERT_TRUE(cloud_->in_sync());
  ASSERT_TRUE(cloud_->follows());
  EXPECT_EQ(cloud_->removed(), (Keys{endpoint_key("host-1", 100), endpoint_key("host-2", 2)}));
  EXPECT_TRUE(budget.kept());
}

TEST_F(EtcdClusterTest, ABackupIsRestoredAndWrittenPastUsBeforeWeComeBack) {
  begin();
  const auto backup = cluster_->backup();
  // The last that the nodes hear of the old life is deletions: their newest key is older than the backup, and stands
  // in the restored datastore just as they know it.
  const Keys deleted{endpoint_key("host-2", 2), endpoint_key("host-3", 3)};
  for (const auto& k : deleted) cloud_->store().del(k);
  for (auto& a : cloud_->agents()) ASSERT_TRUE(eventually("the deletions", [&] { return a->removed() == deleted; }));
  ASSERT_TRUE(cloud_->in_sync());
  Budget budget(*cloud_);
  cloud_->unplug();
  ASSERT_TRUE(cloud_->all_say("not reachable"));
  cluster_->restore(backup);
  // A new life, past every revision of the old one; its first change has a revision the nodes believe to know.
  cloud_->put(4, 4, "new life");
  for (int i = 0; i < 300; ++i) cloud_->store().put("/calico/other", std::to_string(i));
  cloud_->plug();
  ASSERT_TRUE(cloud_->in_sync());
  for (auto& a : cloud_->agents())
    for (const auto& k : deleted) EXPECT_TRUE(a->service().view().get(k)) << k << " is back";
  ASSERT_TRUE(cloud_->follows());
  EXPECT_EQ(cloud_->removed(), deleted);
  EXPECT_EQ(cloud_->lists(), static_cast<std::uint64_t>(2 * cloud_->size())) << cloud_->all();
  EXPECT_TRUE(budget.kept());
}

TEST_F(EtcdClusterTest, ABackupIsRestoredAndWrittenPastWhileTheNodesAreOff) {
  begin();
  const auto backup = cluster_->backup();
  const Keys deleted{endpoint_key("host-2", 2)};
  for (const auto& k : deleted) cloud_->store().del(k);
  for (auto& a : cloud_->agents()) ASSERT_TRUE(eventually("the deletion", [&] { return a->removed() == deleted; }));
  ASSERT_TRUE(cloud_->in_sync());
  cloud_->stop();
  cluster_->restore(backup);
  cloud_->put(4, 4, "new life");
  for (int i = 0; i < 300; ++i) cloud_->store().put("/calico/other", std::to_string(i));
  cloud_->start();
  ASSERT_TRUE(cloud_->in_sync());
  ASSERT_TRUE(cloud_->follows());
  EXPECT_EQ(cloud_->removed(), deleted);
  EXPECT_EQ(cloud_->lists(), static_cast<std::uint64_t>(cloud_->size())) << "a proof that outlives the process";
}

}  // namespace
}  // namespace calico::test
