// Sync over datastores that exist: what the in-memory one of the other tests claims to be must hold here too.
#include "core/sync/replicator.hpp"
#include "tests/unit/sync/backends.hpp"

namespace calico::sync {
namespace {

using test::Backend;
using test::endpoint_key;
using test::eventually;
using test::info;
using test::kInfoKey;
using test::TempDir;

struct Param {
  const char* name;
  std::unique_ptr<Backend> (*make)();
};
void PrintTo(const Param& p, std::ostream* out) { *out << p.name; }

class RealStore : public testing::TestWithParam<Param> {
 protected:
  void SetUp() override {
    backend_ = GetParam().make();
    if (!backend_) GTEST_SKIP() << "SKIPPED: " << GetParam().name << " is not installed (etcd-server)";
    store_ = std::make_unique<test::Client>(backend_->datastore());
  }
  void TearDown() override { service_.reset(); }
  void start(std::int64_t lease_ttl = 90) {
    Options o;
    o.datastore = backend_->datastore();
    o.mirror_file = dir_.file("state.db");
    o.node = "host-a";
    o.page = 7;
    o.timing = test::quick();
    o.timing.catch_up = std::chrono::milliseconds(500);
    o.timing.lease_ttl = std::chrono::seconds(lease_ttl);
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
  testing::AssertionResult reason(const std::string& part) {
    auto r = eventually(part, [&] { return service_->view().state().reason.find(part) != std::string::npos; });
    return r ? r : r << "; the node is " << to_string(phase()) << ": " << service_->view().state().reason;
  }
  testing::AssertionResult equal() {
    return eventually("the datastore's content", [&] {
      return service_->view().range(model::kResources) == store_->range(std::string(model::kResources));
    });
  }
  void put_endpoints(const std::string& host, int from, int to) {
    for (int i = from; i < to; ++i) store_->put(endpoint_key(host, i), fmt::format("{{\"n\":{}}}", i));
  }
  void lose(int from, int to) {
    for (int i = from; i < to; ++i) store_->del(endpoint_key("host-a", i));
    store_->compact(store_->put("/calico/other", "x"));
  }
  std::size_t endpoints() { return service_->view().range(model::kWorkloadEndpoints).size(); }

  TempDir dir_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<test::Client> store_;
  std::unique_ptr<Service> service_;
};

TEST_P(RealStore, ListsFollowsAndResumes) {
  store_->put(kInfoKey, info());
  put_endpoints("host-a", 0, 20);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  ASSERT_TRUE(equal());
  put_endpoints("host-b", 0, 5);
  store_->del(endpoint_key("host-a", 3));
  ASSERT_TRUE(equal());
  stop();
  store_->del(endpoint_key("host-a", 4));
  put_endpoints("host-a", 5, 6);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  ASSERT_TRUE(equal());
  EXPECT_EQ(service_->status().lists, 0U);
  EXPECT_EQ(service_->status().resumes, 1U);
}

TEST_P(RealStore, BootsWithTheServerDownAndResumesWhenItReturns) {
  store_->put(kInfoKey, info());
  put_endpoints("host-a", 0, 3);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  stop();
  backend_->stop();
  start();
  EXPECT_EQ(endpoints(), 3U);
  ASSERT_TRUE(reason("not reachable"));
  EXPECT_EQ(phase(), Phase::resyncing);
  backend_->start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  put_endpoints("host-a", 3, 4);
  ASSERT_TRUE(equal());
  EXPECT_EQ(service_->status().lists, 0U);
}

TEST_P(RealStore, DatastoreReadyFalseFreezes) {
  store_->put(kInfoKey, info("guid-1", false));
  put_endpoints("host-a", 0, 3);
  start();
  ASSERT_TRUE(reason("datastoreReady is not true"));
  EXPECT_EQ(phase(), Phase::waiting);
  store_->put(kInfoKey, info());
  ASSERT_TRUE(reaches(Phase::in_sync));
  store_->put(kInfoKey, info("guid-1", false));
  ASSERT_TRUE(reason("datastoreReady is not true"));
  EXPECT_EQ(phase(), Phase::resyncing);
  store_->del(endpoint_key("host-a", 0));
  EXPECT_EQ(endpoints(), 3U);
  store_->put(kInfoKey, info());
  ASSERT_TRUE(reaches(Phase::in_sync));
  ASSERT_TRUE(equal());
}

TEST_P(RealStore, ANewDataDirectoryIsNoticed) {
  store_->put(kInfoKey, info());
  put_endpoints("host-a", 0, 4);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  backend_->stop();
  backend_->wipe();
  backend_->start();
  // Same GUID, and by the number of writes a revision ahead of the mirror's.
  store_->put(kInfoKey, info());
  for (int i = 0; i < 20; ++i) store_->put(endpoint_key("host-a", 2), fmt::format("{{\"again\":{}}}", i));
  ASSERT_TRUE(equal());
  ASSERT_TRUE(reaches(Phase::in_sync));
  put_endpoints("host-a", 7, 8);
  ASSERT_TRUE(equal()) << "and it is followed";
}

TEST_P(RealStore, AClusterSetUpAnewIsRefusedUntilAccepted) {
  store_->put(kInfoKey, info("guid-1"));
  put_endpoints("host-a", 0, 4);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  backend_->stop();
  backend_->wipe();
  backend_->start();
  store_->put(kInfoKey, info("guid-2"));
  ASSERT_TRUE(reaches(Phase::refusing));
  EXPECT_EQ(endpoints(), 4U);
  ASSERT_TRUE(service_->accept());
  ASSERT_TRUE(reaches(Phase::in_sync));
  EXPECT_EQ(endpoints(), 0U);
}

TEST_P(RealStore, ACompactionDuringAnOutageLeadsToAListAndAMassRemovalIsRefused) {
  store_->put(kInfoKey, info());
  put_endpoints("host-a", 0, 20);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  stop();
  lose(0, 9);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  EXPECT_EQ(service_->status().lists, 1U);
  EXPECT_EQ(endpoints(), 11U);
  stop();
  put_endpoints("host-a", 0, 9);
  start();
  ASSERT_TRUE(reaches(Phase::in_sync));
  EXPECT_EQ(endpoints(), 20U);
  stop();
  lose(0, 15);
  start();
  ASSERT_TRUE(reaches(Phase::refusing));
  EXPECT_EQ(endpoints(), 20U);
  put_endpoints("host-a", 0, 13);  // the objects come back
  ASSERT_TRUE(reaches(Phase::in_sync));
  ASSERT_TRUE(equal());
  EXPECT_EQ(endpoints(), 18U);
}

TEST_P(RealStore, ReportsComeBackAfterALostLeaseAndANewDataDirectory) {
  store_->put(kInfoKey, info());
  start(5);
  auto& report = service_->report();
  const std::string mine = "/calico/felix/v2/no-region/host/host-a/";
  store_->put(mine + "workload/old", "x");
  report.claim(mine + "workload/");
  report.settled(mine + "workload/");
  for (int i = 0; i < 300; ++i) report.set(fmt::format("{}workload/{:03}", mine, i), "up");
  report.set(mine + "status", "alive", true);
  report.set_node("host-a", R"({"role.example/compute":"true"})", R"({"bgp":{"asNumber":64512}})");
  const auto all = [&] {
    return store_->range(mine).size() == 301 && !store_->get(mine + "workload/old") &&
           store_->get(model::node_key("host-a"));
  };
  ASSERT_TRUE(eventually("the reports", all));
  const auto status = store_->get(mine + "status");
  ASSERT_TRUE(status);
  ASSERT_NE(status->lease, 0);
  EXPECT_EQ(store_->get(model::node_key("host-a"))->lease, 0);
  store_->revoke(status->lease);
  EXPECT_FALSE(store_->get(mine + "status"));
  ASSERT_TRUE(eventually("the leased key", [&] { return store_->get(mine + "status").has_value(); }));
  backend_->stop();
  backend_->wipe();
  backend_->start();
  store_->put(kInfoKey, info());
  ASSERT_TRUE(eventually("the reports in the new data directory", all))
      << service_->view().state().reason << "; " << service_->status().report_error << "; "
      << store_->range(mine).size();
  EXPECT_NE(store_->get(mine + "status")->lease, 0);
}

#ifdef CALICO_SYNC_ETCD
std::unique_ptr<Backend> make() {
  if (!test::Etcd::installed()) return nullptr;
  return std::make_unique<test::EtcdBackend>();
}
constexpr const char* kName = "etcd";
#else
std::unique_ptr<Backend> make() { return std::make_unique<test::KvBackend>(); }
constexpr const char* kName = "kv";
#endif
INSTANTIATE_TEST_SUITE_P(On, RealStore, testing::Values(Param{kName, make}),
                         [](const auto& i) { return std::string(i.param.name); });

}  // namespace
}  // namespace calico::sync
