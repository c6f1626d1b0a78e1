// A node whose datastore moves: two datastores of the same cloud, with revisions of their own, behind a Switch.
#include "core/sync/follower.hpp"

#include "core/store/switch.hpp"
#include "tests/unit/sync/fake_datastore.hpp"
#include "tests/unit/sync/support.hpp"

namespace calico::sync {
namespace {

using model::DatastorePointer;
using test::endpoint_key;
using test::eventually;
using test::FakeDatastore;
using test::info;
using test::kInfoKey;
using test::TempDir;

const std::string kPointer(model::kDatastorePointer);
const std::string kNext(model::kNextDatastorePointer);
const std::string kReport = model::datastore_report_key("", "host-a");

class FollowerTest : public testing::Test {
 protected:
  void SetUp() override {
    for (auto* c : {&old_, &new_}) fill(*c);
    // The new one is far ahead.
    for (int i = 0; i < 50; ++i) new_.put("/calico/other", std::to_string(i));
  }
  static void fill(test::Client& c) {
    for (int i = 0; i < 12; ++i) c.put(endpoint_key("host-a", i), fmt::format("{{\"n\":{}}}", i));
    c.put(kInfoKey, info());
  }
  void start() {
    Options o;
    o.datastore = switch_;
    o.mirror_file = dir_.file("state.db");
    o.node = "host-a";
    o.timing = test::quick();
    o.use = [this](DatastorePointer p) -> boost::asio::awaitable<Result<bool>> {
      ++used_;
      const auto& to = p.endpoints.front() == "https://new:1"   ? fake_new_
                       : p.endpoints.front() == "https://old:1" ? fake_old_
                                                                : nullptr;
      if (!to) co_return fail(Errc::invalid, "no such place");
      if (switch_->get() == to) co_return false;
      switch_->set(to);
      co_return true;
    };
    o.probe = [this](DatastorePointer) -> boost::asio::awaitable<Status> {
      ++probed_;
      if (refuse_) co_return fail(Errc::no_permission, "certificate refused");
      co_return Status{};
    };
    auto s = Service::open(std::move(o));
    ASSERT_TRUE(s) << s.error().what;
    service_ = std::move(*s);
    service_->start();
  }
  static std::string pointer(std::int64_t generation, const std::string& to, const std::string& guid = "guid-1",
                             bool next = false) {
    return to_json(DatastorePointer{generation, {to}, guid}, next);
  }
  /// What the mover's last steps are: the pointer in the old one, then in the new one, which is ready.
  void move(test::Client& from, test::Client& to, std::int64_t generation, const std::string& where) {
    from.put(kPointer, pointer(generation, where));
    to.put(kPointer, pointer(generation, where));
    to.put(kInfoKey, info());
  }
  testing::AssertionResult in_sync_with(test::Client& c) {
    auto r = eventually("in sync, and equal", [&] {
      return service_->view().state().phase == Phase::in_sync &&
             service_->view().range(model::kResources) == c.range(std::string(model::kResources));
    });
    return r ? r : r << service_->view().state().reason;
  }
  testing::AssertionResult reports(test::Client& c, const model::DatastoreReport& want) {
    std::string last;
    auto r = eventually("the report", [&] {
      const auto kv = c.get(kReport);
      last = kv ? kv->value : "none";
      return kv && kv->lease != 0 && last == to_json(want);
    });
    return r ? r : r << "it is " << last;
  }

  TempDir dir_;
  std::shared_ptr<FakeDatastore> fake_old_ = std::make_shared<FakeDatastore>(7);
  std::shared_ptr<FakeDatastore> fake_new_ = std::make_shared<FakeDatastore>(8);
  test::Client old_{fake_old_}, new_{fake_new_};
  std::shared_ptr<store::Switch> switch_ = std::make_shared<store::Switch>(fake_old_);
  std::atomic<int> used_ = 0, probed_ = 0;
  std::atomic<bool> refuse_ = false;
  std::unique_ptr<Service> service_;
};

TEST_F(FollowerTest, ThePointerLeadsToTheNewDatastoreAndModulesHearNothing) {
  start();
  ASSERT_TRUE(in_sync_with(old_));
  service_->report().set("/calico/felix/v2/no-region/host/host-a/status", "alive", true);
  service_->report().set_node("host-a", "{}", R"({"bgp":{}})");
  ASSERT_TRUE(reports(old_, {0, 0, ""}));
  ASSERT_TRUE(eventually("the Node", [&] { return old_.get(model::node_key("host-a")).has_value(); }));
  test::Follower module(service_->view(), {std::string(model::kWorkloadEndpoints)});
  ASSERT_TRUE(eventually("the endpoints", [&] { return module.content().size() == 12; }));

  new_.put(endpoint_key("host-a", 5), "changed in between");
  new_.del(endpoint_key("host-a", 6));
  move(old_, new_, 1, "https://new:1");
  ASSERT_TRUE(reports(new_, {1, 0, ""}));
  ASSERT_TRUE(in_sync_with(new_));
  ASSERT_TRUE(eventually("the two changes", [&] { return module.content().size() == 11; }));
  EXPECT_EQ(module.content().at(endpoint_key("host-a", 5)), "changed in between");
  EXPECT_EQ(module.updates(), 12 + 2) << "what is equal on both sides is not told";
  ASSERT_TRUE(eventually("its own status there",
                         [&] { return new_.get("/calico/felix/v2/no-region/host/host-a/status").has_value(); }));
  ASSERT_TRUE(eventually("its Node there", [&] { return new_.get(model::node_key("host-a")).has_value(); }));

  // What is changed from here on is the new one's.
  new_.put(endpoint_key("host-a", 20), "x");
  old_.put(endpoint_key("host-a", 21), "a stray write");
  ASSERT_TRUE(eventually("a change", [&] { return module.content().contains(endpoint_key("host-a", 20)); }));
  EXPECT_FALSE(module.content().contains(endpoint_key("host-a", 21)));
}

TEST_F(FollowerTest, AfterARestartTheMirrorSaysWhereBeforeAnythingConnects) {
  start();
  ASSERT_TRUE(in_sync_with(old_));
  move(old_, new_, 1, "https://new:1");
  ASSERT_TRUE(in_sync_with(new_));
  service_.reset();
  fake_old_->set_down(true);
  switch_->set(fake_old_);  // its configuration still says so
  start();
  ASSERT_TRUE(in_sync_with(new_));
  EXPECT_EQ(used_, 2);
}

TEST_F(FollowerTest, OneThatWasOffFindsTheOldDatastoreFrozenOrNotReadyAndGoesOn) {
  start();
  ASSERT_TRUE(in_sync_with(old_));
  service_.reset();
  move(old_, new_, 1, "https://new:1");  // an embedded one that was left is ready, and only read
  start();
  ASSERT_TRUE(in_sync_with(new_));
  service_.reset();

  // Back, and the etcd that was left is not ready.
  new_.put(kInfoKey, info("guid-1", false));
  move(new_, old_, 2, "https://old:1");
  start();
  ASSERT_TRUE(in_sync_with(old_));
  ASSERT_TRUE(reports(old_, {2, 0, ""}));
}

TEST_F(FollowerTest, WhileItWaitsForAnEtcdThatWasFrozenItHearsThePointer) {
  switch_->set(fake_new_);
  start();
  ASSERT_TRUE(in_sync_with(new_));
  new_.put(kInfoKey, info("guid-1", false));
  ASSERT_TRUE(
      eventually("not ready", [&] { return service_->view().state().reason.find("not ready") != std::string::npos; }));
  new_.put(kPointer, pointer(4, "https://old:1"));
  new_.put(kInfoKey, info("guid-1", false));  // as the mover's commit does, so that those who wait wake up
  old_.put(kPointer, pointer(4, "https://old:1"));
  ASSERT_TRUE(in_sync_with(old_));
}

TEST_F(FollowerTest, OnlyAHigherGenerationOfThisCloudThatReadsIsFollowed) {
  start();
  ASSERT_TRUE(in_sync_with(old_));
  move(old_, new_, 5, "https://new:1");
  ASSERT_TRUE(in_sync_with(new_));
  const int used = used_;
  for (const auto& value : {pointer(4, "https://old:1"), pointer(5, "https://old:1"), pointer(9, "https://old:1", "x"),
                            std::string("nonsense"), std::string(100000, '[')}) {
    new_.put(kPointer, value);
    ASSERT_TRUE(in_sync_with(new_)) << value.substr(0, 100);
  }
  EXPECT_EQ(used_, used) << "none was tried";
  new_.put(kPointer, pointer(10, "https://nowhere:1"));
  ASSERT_TRUE(eventually("a try", [&] { return used_ == used + 1; }));
  ASSERT_TRUE(in_sync_with(new_)) << "where it cannot go it stays";
  old_.put(kPointer, pointer(11, "https://old:1"));
  new_.put(kPointer, pointer(11, "https://old:1"));
  ASSERT_TRUE(in_sync_with(old_));
}

TEST_F(FollowerTest, AMoveInPreparationIsTriedAndAnswered) {
  start();
  ASSERT_TRUE(in_sync_with(old_));
  refuse_ = true;
  old_.put(kNext, pointer(1, "https://new:1", "guid-1", true));
  ASSERT_TRUE(reports(old_, {0, 1, "certificate refused"}));
  refuse_ = false;
  old_.put(kNext, pointer(2, "https://new:1", "guid-1", true));
  ASSERT_TRUE(reports(old_, {0, 2, ""}));
  const int probed = probed_;
  old_.del(kNext);
  ASSERT_TRUE(reports(old_, {0, 0, ""}));
  EXPECT_EQ(probed_, probed);
  EXPECT_EQ(used_, 0) << "nobody has moved";
}

}  // namespace
}  // namespace calico::sync
