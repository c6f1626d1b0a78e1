// A datastore that was put back from a copy, under nodes that know what came after it: behind them when they come back,
// or written past their revision before. By `store restore`, by hand, and by an operator who copied the running file.
#include <filesystem>

#include "core/store/backup.hpp"
#include "core/store/kv_history.hpp"
#include "tests/unit/sync/backends.hpp"

namespace calico::sync {
namespace {

using test::endpoint_key;
using test::eventually;
using test::info;
using test::kInfoKey;
using test::TempDir;

enum class By { restore, hand, raw_copy };
struct Way {
  const char* name;
  By by;
  bool overtaken;
};
void PrintTo(const Way& w, std::ostream* out) { *out << w.name; }

class RestoreTest : public testing::TestWithParam<Way> {
 protected:
  void SetUp() override { start_store(); }
  void TearDown() override {
    service_.reset();
    stop_store();
  }
  void start_store() {
    auto kv = store::Kv::open({.path = file_});
    ASSERT_TRUE(kv) << kv.error().what;
    kv_ = std::move(*kv);
  }
  void stop_store() {
    switch_->set(nullptr);
    if (kv_) kv_->stop();
    kv_.reset();
  }
  void connect() { switch_->set(kv_); }
  void start_node() {
    Options o;
    o.datastore = switch_;
    o.mirror_file = dir_.file("mirror.db");
    o.node = "host-a";
    o.timing = test::quick();
    auto s = Service::open(std::move(o));
    ASSERT_TRUE(s) << s.error().what;
    service_ = std::move(*s);
    service_->start();
  }
  testing::AssertionResult in_sync() {
    auto r = eventually("in sync", [&] { return service_->view().state().phase == Phase::in_sync; });
    return r ? r : r << ": " << service_->view().state().reason;
  }
  testing::AssertionResult equal() {
    return eventually("the datastore's content", [&] {
      return service_->view().range(model::kResources) == direct().range(std::string(model::kResources));
    });
  }
  test::Client direct() { return test::Client(kv_); }

  /// A copy is made; the file goes on for a while; the copy comes back in its place.
  void copy() {
    if (GetParam().by == By::raw_copy) {
      stop_store();
      std::filesystem::copy_file(file_, dir_.file("copy.db"));
      start_store();
      connect();
      return;
    }
    auto db = store::Db::open({.path = file_, .read_only = true});
    ASSERT_TRUE(db);
    auto saved = store::save_store(**db, dir_.file("copy.db"), [](int, int) { return true; });
    ASSERT_TRUE(saved) << saved.error().what;
  }
  void put_back() {
    if (GetParam().by == By::restore) {
      auto done = store::restore_store(dir_.file("copy.db"), file_, {});
      ASSERT_TRUE(done) << done.error().what;
      return;
    }
    for (const char* suffix : {"-wal", "-shm"}) std::filesystem::remove(file_ + suffix);
    std::filesystem::copy_file(dir_.file("copy.db"), file_, std::filesystem::copy_options::overwrite_existing);
  }

  TempDir dir_;
  const std::string file_ = dir_.file("state.db");
  std::shared_ptr<store::Kv> kv_;
  std::shared_ptr<test::SwitchDatastore> switch_ = std::make_shared<test::SwitchDatastore>();
  std::unique_ptr<Service> service_;
};

TEST_P(RestoreTest, TheNodeComparesAndFollows) {
  connect();
  direct().put(kInfoKey, info());
  for (int i = 0; i < 6; ++i) direct().put(endpoint_key("host-a", i), fmt::format("{{\"n\":{}}}", i));
  start_node();
  auto& report = service_->report();
  const std::string mine = "/calico/felix/v2/no-region/host/host-a/";
  report.claim(mine + "workload/");
  report.settled(mine + "workload/");
  ASSERT_TRUE(in_sync());
  copy();
  ASSERT_TRUE(in_sync());
  // What the copy does not know: a change, an endpoint, one less, the node itself and what it reports.
  report.set(mine + "workload/one", "up");
  report.set_node("host-a", R"({"role.example/compute":"true"})", R"({"bgp":{"asNumber":64512}})");
  ASSERT_TRUE(eventually(
      "the reports", [&] { return direct().get(mine + "workload/one") && direct().get(model::node_key("host-a")); }));
  for (int i = 0; i < 30; ++i) direct().put(endpoint_key("host-a", 0), fmt::format("{{\"lost\":{}}}", i));
  direct().put(endpoint_key("host-a", 9), "{\"lost\":true}");
  direct().del(endpoint_key("host-a", 5));
  ASSERT_TRUE(equal());
  const auto seen = service_->view().state().revision;

  stop_store();
  ASSERT_TRUE(eventually("the loss", [&] { return service_->view().state().phase != Phase::in_sync; }));
  put_back();
  start_store();
  if (GetParam().by != By::raw_copy) {
    EXPECT_GT(kv_->revision(), seen + store::kRestoreJump / 2);
  }
  if (GetParam().overtaken) {
    // Written past what the node saw, the very keys it knows among them, before it is back.
    for (int i = 0; i < 60 || kv_->revision() <= seen; ++i)
      direct().put(endpoint_key("host-a", 0), fmt::format("{{\"new\":{}}}", i));
    direct().put(endpoint_key("host-a", 7), "{\"new\":true}");
  }
  connect();
  ASSERT_TRUE(eventually("the way back", [&] { return service_->view().state().phase == Phase::in_sync; }))
      << service_->view().state().reason;
  ASSERT_TRUE(equal()) << "compared, not waited for";
  EXPECT_FALSE(service_->view().get(endpoint_key("host-a", 9)));
  EXPECT_TRUE(service_->view().get(endpoint_key("host-a", 5)));
  // What this node says of itself is written again: the copy had none of it, and nobody deleted it.
  ASSERT_TRUE(eventually("the reports again", [&] {
    return direct().get(mine + "workload/one") && direct().get(model::node_key("host-a"));
  }));
  // And from now on changes arrive.
  direct().put(endpoint_key("host-a", 8), "{\"after\":true}");
  ASSERT_TRUE(equal());
  EXPECT_GE(service_->status().lists, 2U);
}

TEST_P(RestoreTest, ACopyFromBeforeMostOfTheEndpointsIsRefusedUntilAccepted) {
  connect();
  direct().put(kInfoKey, info());
  direct().put(endpoint_key("host-a", 0), "{}");
  start_node();
  ASSERT_TRUE(in_sync());
  copy();
  ASSERT_TRUE(in_sync());
  for (int i = 1; i < 30; ++i) direct().put(endpoint_key("host-a", i), "{}");
  ASSERT_TRUE(equal());
  stop_store();
  put_back();
  start_store();
  if (GetParam().overtaken)
    for (int i = 0; i < 60; ++i) direct().put(endpoint_key("host-b", 0), fmt::format("{{\"new\":{}}}", i));
  connect();
  ASSERT_TRUE(eventually("the refusal", [&] { return service_->view().state().phase == Phase::refusing; }))
      << service_->view().state().reason;
  EXPECT_EQ(service_->view().range(model::kWorkloadEndpoints).size(), 30U);
  ASSERT_TRUE(service_->accept());
  ASSERT_TRUE(in_sync());
  ASSERT_TRUE(equal());
}

INSTANTIATE_TEST_SUITE_P(
    Ways, RestoreTest,
    testing::Values(Way{"restored_behind", By::restore, false}, Way{"restored_overtaken", By::restore, true},
                    Way{"by_hand_behind", By::hand, false}, Way{"by_hand_overtaken", By::hand, true},
                    Way{"raw_copy_behind", By::raw_copy, false}, Way{"raw_copy_overtaken", By::raw_copy, true}),
    [](const auto& i) { return std::string(i.param.name); });

}  // namespace
}  // namespace calico::sync
