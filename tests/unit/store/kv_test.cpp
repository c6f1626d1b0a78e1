// What only the embedded datastore has: the file, restarts, SQL beside the keys, its bounds. The semantics every
// datastore shares are in datastore_conformance.hpp.
#include "core/store/kv.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "core/store/kv_state.hpp"
#include "tests/support/await.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace calico::store {
namespace {

class FakeClock final : public Clock {
 public:
  TimePoint now() const override { return TimePoint(std::chrono::nanoseconds(now_ns_.load())); }
  WallTime wall() const override { return {}; }
  void advance(Duration d) { now_ns_ += d.count(); }

 private:
  std::atomic<std::int64_t> now_ns_ = 1000000000;
};

constexpr Migration kItems[] = {
    {1, "CREATE TABLE item(id TEXT NOT NULL PRIMARY KEY, n INTEGER NOT NULL CHECK (n >= 0)) STRICT;"}};

class KvTest : public testing::Test {
 protected:
  Kv::Options options() {
    Kv::Options o;
    o.path = dir_.file("state.db");
    o.schemas = {Schema{"item", kItems}};
    o.clock = &clock_;
    return o;
  }
  void open(Kv::Options o) {
    kv_.reset();
    auto opened = Kv::open(std::move(o));
    ASSERT_TRUE(opened) << opened.error().what;
    kv_ = std::move(*opened);
  }
  void open() { open(options()); }
  template <class T>
  T run(awaitable<T> a, const char* what = "the answer") {
    return runner_.run(std::move(a), what);
  }
  Revision put(std::string key, std::string value, LeaseId lease = 0) {
    PutRequest request{.key = std::move(key), .value = std::move(value), .lease = lease};
    auto r = run(kv_->put(request));
    EXPECT_TRUE(r) << (r ? "" : r.error().what);
    return r ? r->revision : 0;
  }
  std::optional<KeyValue> get(std::string key) {
    RangeRequest request{.key = std::move(key), .range_end = {}};
    auto r = run(kv_->range(request));
    EXPECT_TRUE(r);
    return r->kvs.empty() ? std::nullopt : std::optional<KeyValue>(r->kvs[0]);
  }
  std::int64_t items() {
    auto db = Db::open({.path = dir_.file("state.db"), .read_only = true});
    return *(*db)->number("SELECT count(*) FROM item");
  }
  static WriteFunction insert_and_put(std::string id, std::int64_t n, TxnRequest txn) {
    return [=](WriteScope& scope) -> Result<TxnRequest> {
      if (auto s = scope.db().run("INSERT INTO item(id, n) VALUES(?1, ?2)", id, n); !s)
        return tl::unexpected<Error>(s.error());
      return txn;
    };
  }

  test::TempDir dir_;
  FakeClock clock_;
  test::LoopRunner runner_;
  std::unique_ptr<Kv> kv_;
};

// ---- restarts

TEST_F(KvTest, EverythingIsThereAfterAReopen) {
  open();
  const auto id = kv_->cluster_id();
  const auto r1 = put("/a", "1");
  const auto r2 = put("/a", "2");
  put("/b", "1");
  DeleteRequest del{.key = "/b", .range_end = {}};
  const auto last = run(kv_->del(del))->revision;
  open();
  EXPECT_EQ(kv_->cluster_id(), id);
  EXPECT_EQ(kv_->revision(), last);
  EXPECT_EQ(*get("/a"), (KeyValue{"/a", "2", r1, r2, 2, 0}));
  EXPECT_FALSE(get("/b"));
  RangeRequest past{.key = "/", .range_end = "0", .revision = r2 + 1};
  EXPECT_EQ(run(kv_->range(past))->kvs.size(), 2U);
  EXPECT_EQ(put("/c", "1"), last + 1);
}

TEST_F(KvTest, TheRevisionSurvivesWhenItsRowsAreCompactedAway) {
  open();
  put("/a", "1");
  DeleteRequest del{.key = "/a", .range_end = {}};
  ASSERT_TRUE(run(kv_->del(del)));
  const auto lease = run(kv_->lease_grant(60));
  const auto last = kv_->revision();
  ASSERT_TRUE(run(kv_->compact(last)));
  open();
  EXPECT_EQ(kv_->revision(), last);
  EXPECT_EQ(kv_->stats().compacted, last);
  EXPECT_EQ(put("/b", "1"), last + 1);
  EXPECT_EQ(run(kv_->compact(last + 1)).value(), last + 1);
}

TEST_F(KvTest, ALeaseHasItsFullTimeAgainAfterAReopenAndStillItsKeys) {
  open();
  const auto lease = run(kv_->lease_grant(60))->id;
  put("/leased", "1", lease);
  clock_.advance(std::chrono::seconds(50));
  EXPECT_EQ(run(kv_->lease_time_to_live(lease, false))->ttl_s, 10);
  open();
  const auto info = run(kv_->lease_time_to_live(lease, true));
  EXPECT_EQ(info->ttl_s, 60);
  EXPECT_EQ(info->keys, (std::vector<std::string>{"/leased"}));
  clock_.advance(std::chrono::seconds(59));
  kv_->wake_for_test();
  EXPECT_TRUE(get("/leased"));
  clock_.advance(std::chrono::seconds(1));
  kv_->wake_for_test();
  EXPECT_TRUE(test::eventually("the end of the lease", [&] { return !get("/leased"); }));
  open();
  EXPECT_FALSE(get("/leased"));
  EXPECT_EQ(run(kv_->lease_time_to_live(lease, false))->ttl_s, -1);
}

TEST_F(KvTest, KeepaliveMovesTheEnd) {
  open();
  const auto lease = run(kv_->lease_grant(10))->id;
  put("/leased", "1", lease);
  for (int i = 0; i < 5; ++i) {
    clock_.advance(std::chrono::seconds(9));
    kv_->wake_for_test();
    ASSERT_TRUE(run(kv_->lease_keepalive(lease)));
  }
  EXPECT_TRUE(get("/leased"));
  clock_.advance(std::chrono::seconds(10));
  kv_->wake_for_test();
  EXPECT_TRUE(test::eventually("the end of the lease", [&] { return !get("/leased"); }));
  EXPECT_EQ(run(kv_->leases())->size(), 0U);
}

// Not of the fixture: a fork wants a process without threads.
TEST_F(KvTest, ADamagedFileIsRefusedNotRepaired) {
  open();
  for (int i = 0; i < 200; ++i) put("/k" + std::to_string(i), std::string(200, 'x'));
  kv_.reset();
  {
    std::fstream f(dir_.file("state.db"), std::ios::in | std::ios::out | std::ios::binary);
    f.seekp(6 * 4096);
    f << std::string(4096, '\x55');
  }
  auto opened = Kv::open(options());
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, Errc::corrupt);
}

// ---- SQL and keys in one commit

TEST_F(KvTest, SqlAndKeysAreKeptTogether) {
  open();
  TxnRequest txn;
  txn.success.push_back(PutRequest{.key = "/item/x", .value = "1"});
  const auto r = run(kv_->txn_with(insert_and_put("x", 1, txn)));
  ASSERT_TRUE(r) << r.error().what;
  EXPECT_TRUE(r->succeeded);
  EXPECT_EQ(r->revision, kv_->revision());
  EXPECT_EQ(items(), 1);
  EXPECT_TRUE(get("/item/x"));
  open();
  EXPECT_EQ(items(), 1);
  EXPECT_TRUE(get("/item/x"));
}

TEST_F(KvTest, AFailureOfEitherSideUndoesBoth) {
  open();
  const auto before = put("/seen", "1");
  TxnRequest put_x;
  put_x.success.push_back(PutRequest{.key = "/item/x", .value = "1"});

  auto sql_fails = run(kv_->txn_with(insert_and_put("x", -1, put_x)));
  ASSERT_FALSE(sql_fails);
  EXPECT_EQ(sql_fails.error().code, Errc::exists);

  auto refused = run(kv_->txn_with([](WriteScope& scope) -> Result<TxnRequest> {
    if (auto s = scope.db().run("INSERT INTO item(id, n) VALUES('y', 1)"); !s) return tl::unexpected<Error>(s.error());
    return fail(Errc::conflict, "no address left");
  }));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::conflict);
  EXPECT_EQ(refused.error().what, "no address left");

  auto throws = run(kv_->txn_with([](WriteScope& scope) -> Result<TxnRequest> {
    (void)scope.db().run("INSERT INTO item(id, n) VALUES('y', 1)");
    throw std::runtime_error("on purpose");
  }));
  EXPECT_EQ(throws.error().code, Errc::internal);

  TxnRequest bad;
  bad.success.push_back(PutRequest{.key = "/item/x", .value = "1", .lease = 99});
  EXPECT_EQ(run(kv_->txn_with(insert_and_put("x", 1, bad))).error().code, Errc::not_found);
  TxnRequest twice;
  twice.success = {put_x.success[0], put_x.success[0]};
  EXPECT_EQ(run(kv_->txn_with(insert_and_put("x", 1, twice))).error().code, Errc::invalid);
  TxnRequest writes_in_failure;
  writes_in_failure.failure = put_x.success;
  EXPECT_EQ(run(kv_->txn_with(insert_and_put("x", 1, writes_in_failure))).error().code, Errc::invalid);

  EXPECT_EQ(items(), 0);
  EXPECT_EQ(kv_->revision(), before);
  EXPECT_FALSE(get("/item/x"));
}

TEST_F(KvTest, ACompareThatDoesNotHoldUndoesTheSql) {
  open();
  const auto r = put("/item/x", "old");
  TxnRequest txn;
  txn.compare.push_back(mod_is("/item/x", r + 5));
  txn.success.push_back(PutRequest{.key = "/item/x", .value = "new"});
  txn.failure.push_back(RangeRequest{.key = "/item/x", .range_end = {}});
  const auto done = run(kv_->txn_with(insert_and_put("x", 1, txn)));
  ASSERT_TRUE(done);
  EXPECT_FALSE(done->succeeded);
  EXPECT_EQ(std::get<RangeResult>(done->responses.at(0)).kvs.at(0).value, "old");
  EXPECT_EQ(items(), 0);
  txn.compare[0] = mod_is("/item/x", r);
  EXPECT_TRUE(run(kv_->txn_with(insert_and_put("x", 1, txn)))->succeeded);
  EXPECT_EQ(items(), 1);
}

TEST_F(KvTest, SqlAloneKeepsTheRevisionAndTheFunctionSeesTheKeys) {
  open();
  const auto r = put("/seen", "value");
  std::string seen;
  std::int64_t count = 0;
  const auto done = run(kv_->txn_with([&](WriteScope& scope) -> Result<TxnRequest> {
    seen = scope.get("/seen")->value;
    RangeRequest all{.key = "/", .range_end = "0"};
    count = scope.range(all)->count;
    if (auto s = scope.db().run("INSERT INTO item(id, n) VALUES('a', 1)"); !s) return tl::unexpected<Error>(s.error());
    return TxnRequest{};
  }));
  ASSERT_TRUE(done);
  EXPECT_EQ(done->revision, r);
  EXPECT_EQ(seen, "value");
  EXPECT_EQ(count, 1);
  open();
  EXPECT_EQ(items(), 1);
}

TEST_F(KvTest, OneBadRequestOfAGroupDoesNotSpoilTheOthers) {
  open();
  // The first holds the writer until the rest wait: they form one group.
  std::promise<void> go;
  auto gate = go.get_future().share();
  auto first = runner_.start(kv_->txn_with([gate](WriteScope&) -> Result<TxnRequest> {
    gate.wait();
    return TxnRequest{};
  }));
  std::vector<std::future<Result<TxnResult>>> rest;
  for (int i = 0; i < 20; ++i) {
    TxnRequest txn;
    txn.success.push_back(PutRequest{.key = "/g" + std::to_string(i), .value = "1"});
    rest.push_back(runner_.start(kv_->txn_with(insert_and_put("g" + std::to_string(i % 10), 1, txn))));
  }
  // All are queued once the loop has run them up to their wait.
  runner_.loop().call([] {});
  const auto before = kv_->stats().commits;
  go.set_value();
  EXPECT_TRUE(runner_.wait(std::move(first)));
  int good = 0;
  for (auto& f : rest) good += runner_.wait(std::move(f)).has_value();
  EXPECT_EQ(good, 10) << "the second ten collide with the first";
  EXPECT_EQ(items(), 10);
  EXPECT_EQ(run(kv_->range({.key = "/g", .range_end = "/h"}))->count, 10);
  EXPECT_LE(kv_->stats().commits - before, 3U) << "one commit for all that wait";
}

// ---- the disk

TEST_F(KvTest, AFullDiskRefusesTheWriteKeepsTheRestAndGoesOnAfterwards) {
  open();
  put("/before", "1");
  const auto r = kv_->revision();
  // SQLite's own limit of pages stands for the full disk.
  const auto limit = [&](int pages) {
    return run(kv_->txn_with([pages](WriteScope& scope) -> Result<TxnRequest> {
      auto q = scope.db().query(fmt::format("PRAGMA max_page_count = {}", pages));
      if (auto row = q.next(); !row) return tl::unexpected<Error>(row.error());
      return TxnRequest{};
    }));
  };
  ASSERT_TRUE(limit(20));
  PutRequest big{.key = "/big", .value = std::string(1 << 20, 'x')};
  const auto full = run(kv_->put(big));
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, Errc::exhausted) << full.error().what;
  EXPECT_EQ(kv_->revision(), r);
  EXPECT_FALSE(get("/big"));
  ASSERT_TRUE(limit(1 << 20));
  EXPECT_EQ(put("/after", "1"), r + 1);
  open();
  EXPECT_TRUE(get("/before"));
  EXPECT_TRUE(get("/after"));
  EXPECT_FALSE(get("/big"));
}

// ---- watches

TEST_F(KvTest, ASlowWatcherIsServedFromTheHistory) {
  auto o = options();
  o.watch_events = 10;
  open(o);
  WatchRequest request{.key = "/", .range_end = "0"};
  auto w = run(kv_->watch(request));
  ASSERT_TRUE(w);
  std::vector<Revision> written;
  for (int i = 0; i < 300; ++i) written.push_back(put("/k" + std::to_string(i % 5), std::to_string(i)));
  std::vector<Revision> seen;
  while (seen.size() < written.size()) {
    auto batch = run((*w)->next(), "events");
    ASSERT_TRUE(batch) << batch.error().what;
    for (const auto& e : batch->events) seen.push_back(e.kv.mod_revision);
  }
  EXPECT_EQ(seen, written);
  written.assign(1, put("/live", "1"));
  auto batch = run((*w)->next(), "the live event");
  EXPECT_EQ(batch->events.at(0).kv.mod_revision, written[0]);
}

TEST_F(KvTest, ASlowWatcherWhoseHistoryIsCompactedIsTold) {
  auto o = options();
  o.watch_bytes = 1000;
  open(o);
  WatchRequest request{.key = "/", .range_end = "0"};
  auto w = run(kv_->watch(request));
  Revision last = 0;
  for (int i = 0; i < 50; ++i) last = put("/k", std::string(100, 'x'));
  ASSERT_TRUE(run(kv_->compact(last)));
  auto batch = run((*w)->next());
  ASSERT_FALSE(batch);
  EXPECT_EQ(batch.error().code, Errc::compacted);
  EXPECT_EQ((*w)->compacted_at(), last);
  EXPECT_EQ(run((*w)->next()).error().code, Errc::compacted) << "a dead watch stays dead";
}

TEST_F(KvTest, ALongHistoryComesInSeveralPieces) {
  open();
  const auto start = kv_->revision() + 1;
  for (int i = 0; i < 5; ++i) put("/k" + std::to_string(i), std::string(600000, 'x'));
  WatchRequest request{.key = "/", .range_end = "0", .start_revision = start};
  auto w = run(kv_->watch(request));
  std::size_t seen = 0;
  int pieces = 0;
  while (seen < 5) {
    auto batch = run((*w)->next());
    ASSERT_TRUE(batch);
    EXPECT_FALSE(batch->events.empty());
    seen += batch->events.size();
    ++pieces;
  }
  EXPECT_EQ(seen, 5U);
  EXPECT_GE(pieces, 2);
}

TEST_F(KvTest, AnIdleWatchReportsProgressWhenAsked) {
  auto o = options();
  o.progress_interval = std::chrono::milliseconds(20);
  open(o);
  WatchRequest request{.key = "/", .range_end = "0"};
  auto w = run(kv_->watch(request));
  const auto elsewhere = put("other", "1");
  auto batch = run((*w)->next(), "progress");
  ASSERT_TRUE(batch);
  EXPECT_TRUE(batch->events.empty());
  EXPECT_EQ(batch->revision, elsewhere);
}

TEST_F(KvTest, StopEndsWatchesAndRefusesRequests) {
  open();
  WatchRequest request{.key = "/", .range_end = "0"};
  auto w = run(kv_->watch(request));
  auto waiting = runner_.start((*w)->next());
  runner_.loop().call([] {});
  kv_->stop();
  EXPECT_EQ(runner_.wait(std::move(waiting), "the end of the watch").error().code, Errc::closed);
  PutRequest late{.key = "/a", .value = "1"};
  EXPECT_EQ(run(kv_->put(late)).error().code, Errc::closed);
  EXPECT_EQ(run(kv_->watch(request)).error().code, Errc::closed);
  RangeRequest past{.key = "/a", .range_end = {}, .revision = 1};
  kv_.reset();  // and a watch may outlive the store
  EXPECT_EQ(run((*w)->next()).error().code, Errc::closed);
}

TEST_F(KvTest, MoreThanTheQueueHoldsIsRefusedAsBusy) {
  auto o = options();
  o.max_waiting = 5;
  open(o);
  std::promise<void> go;
  auto gate = go.get_future().share();
  std::promise<void> inside;
  auto first = runner_.start(kv_->txn_with([gate, &inside](WriteScope&) -> Result<TxnRequest> {
    inside.set_value();
    gate.wait();
    return TxnRequest{};
  }));
  inside.get_future().wait();
  std::vector<std::future<Result<PutResult>>> rest;
  for (int i = 0; i < 8; ++i) {
    PutRequest request{.key = "/k" + std::to_string(i), .value = "1"};
    rest.push_back(runner_.start(kv_->put(request)));
  }
  runner_.loop().call([] {});
  go.set_value();
  EXPECT_TRUE(runner_.wait(std::move(first)));
  int busy = 0;
  for (auto& f : rest) {
    auto r = runner_.wait(std::move(f));
    busy += !r && r.error().code == Errc::busy;
  }
  EXPECT_EQ(busy, 3);
}

TEST_F(KvTest, OldHistoryGoesByItself) {
  auto o = options();
  o.keep_revisions = 50;
  open(o);
  for (int i = 0; i < 400; ++i) put("/k", std::to_string(i));
  const auto compacted = kv_->stats().compacted;
  EXPECT_GT(compacted, 100);
  EXPECT_LE(compacted, kv_->revision() - 50);
  auto db = Db::open({.path = dir_.file("state.db"), .read_only = true});
  EXPECT_LE(*(*db)->number("SELECT count(*) FROM kv_log"), 50 + 201);
  EXPECT_EQ(get("/k")->value, "399");
}

TEST_F(KvTest, ManyWritersShareCommits) {
  open();
  const auto before = kv_->stats();
  std::vector<std::future<Result<PutResult>>> running;
  for (int i = 0; i < 500; ++i) {
    PutRequest request{.key = "/k" + std::to_string(i), .value = "1"};
    running.push_back(runner_.start(kv_->put(request)));
  }
  std::set<Revision> revisions;
  for (auto& f : running) revisions.insert(runner_.wait(std::move(f))->revision);
  EXPECT_EQ(revisions.size(), 500U);
  EXPECT_EQ(kv_->revision(), *revisions.rbegin());
  const auto after = kv_->stats();
  EXPECT_EQ(after.requests - before.requests, 500U);
  EXPECT_LT(after.commits - before.commits, 250U);
}

// ---- a crash

// The child acknowledges each write on a pipe after it was answered, and dies by SIGKILL at a moment of our choosing.
TEST_F(KvTest, FrozenItRefusesWritesOfOthersAndGoesOnOtherwise) {
  open();
  const auto before = put("/a", "1");
  const auto lease = run(kv_->lease_grant(60));
  ASSERT_TRUE(lease);
  ASSERT_TRUE(run(kv_->freeze("moving to elsewhere")));
  EXPECT_EQ(kv_->frozen(), "moving to elsewhere");

  const auto refused = [](const auto& r) {
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code, Errc::unavailable);
    EXPECT_EQ(r.error().what, "moving to elsewhere");
  };
  PutRequest p{.key = "/a", .value = "2"};
  DeleteRequest d{.key = "/a"};
  TxnRequest t;
  t.success.emplace_back(p);
  refused(run(kv_->put(p)));
  refused(run(kv_->del(d)));
  refused(run(kv_->txn(t)));
  refused(run(kv_->txn_with(insert_and_put("x", 1, t))));
  refused(run(kv_->lease_grant(60)));
  refused(run(kv_->lease_revoke(lease->id)));
  refused(run(kv_->compact(before)));
  EXPECT_EQ(items(), 0) << "the SQL of a refused write is not kept";

  EXPECT_TRUE(run(kv_->lease_keepalive(lease->id)));
  TxnRequest reads;
  reads.success.emplace_back(RangeRequest{.key = "/a"});
  EXPECT_TRUE(run(kv_->txn(reads)));
  EXPECT_TRUE(run(kv_->txn_with(insert_and_put("x", 1, {})))) << "SQL without keys goes on";
  EXPECT_EQ(get("/a")->value, "1");
  clock_.advance(std::chrono::seconds(61));
  kv_->wake_for_test();
  EXPECT_TRUE(test::eventually("the end of a lease", [&] { return run(kv_->leases())->empty(); }));

  ASSERT_TRUE(run(kv_->thaw()));
  EXPECT_EQ(kv_->frozen(), "");
  put("/a", "2");
  ASSERT_TRUE(run(kv_->freeze("again")));
  open();
  EXPECT_EQ(kv_->frozen(), "") << "this freeze ends with the process";
}

TEST_F(KvTest, WhoMovesTheDatastoreWritesPastTheFreezeAndItsLastWriteIsForGood) {
  open();
  put("/a", "1");
  ASSERT_TRUE(run(kv_->freeze("moving")));
  TxnRequest commit;
  commit.compare.push_back(key_absent("/pointer"));
  commit.success.emplace_back(PutRequest{.key = "/pointer", .value = "there"});
  TxnRequest other = commit;
  other.compare = {key_absent("/a")};
  const auto missed = run(kv_->txn_of_move(other, Kv::Then::frozen_for_good));
  ASSERT_TRUE(missed);
  EXPECT_FALSE(missed->succeeded);
  EXPECT_EQ(kv_->frozen(), "moving") << "a compare that does not hold changes nothing";
  const auto done = run(kv_->txn_of_move(commit, Kv::Then::frozen_for_good));
  ASSERT_TRUE(done);
  EXPECT_TRUE(done->succeeded);
  open();
  EXPECT_EQ(get("/pointer")->value, "there");
  EXPECT_NE(kv_->frozen(), "");
  PutRequest p{.key = "/a", .value = "2"};
  EXPECT_FALSE(run(kv_->put(p)));
  ASSERT_TRUE(run(kv_->freeze("moving back"))) << "no fault, and no way out of the other freeze";
  EXPECT_FALSE(run(kv_->put(p)));

  TxnRequest back;
  back.success.emplace_back(PutRequest{.key = "/pointer", .value = "here"});
  ASSERT_TRUE(run(kv_->txn_of_move(back, Kv::Then::thawed)));
  EXPECT_TRUE(run(kv_->put(p)));
  open();
  EXPECT_EQ(kv_->frozen(), "");
  EXPECT_EQ(get("/a")->value, "2");
}

TEST(KvCrash, KilledAtAnyMomentEveryAnsweredWriteIsThere) {
  test::TempDir dir;
  int survived = 0;
  std::vector<std::pair<std::string, std::string>> acknowledged;
  for (int round = 0; round < 20; ++round) {
    int pipe_fds[2];
    ASSERT_EQ(::pipe(pipe_fds), 0);
    const auto path = dir.file("state.db");
    const pid_t child = ::fork();
    if (child == 0) {
      // Nothing of the parent's threads exists here: a loop and a store of our own, then run until killed.
      ::close(pipe_fds[0]);
      auto* own = new test::LoopRunner;
      auto mine = Kv::open({.path = path});
      if (!mine) ::_exit(3);
      auto* kv = mine->release();
      for (int i = 0;; ++i) {
        TxnRequest txn;
        const auto name = "/r" + std::to_string(round) + "/" + std::to_string(i);
        txn.success.push_back(PutRequest{.key = name, .value = std::string(static_cast<std::size_t>(i % 977), 'v')});
        txn.success.push_back(PutRequest{.key = "/last", .value = name});
        if (!own->run(kv->txn(txn))) ::_exit(4);
        if (::write(pipe_fds[1], &i, sizeof i) != sizeof i) ::_exit(5);
      }
    }
    ::close(pipe_fds[1]);
    const int until = 1 + round * 11;
    int last = -1;
    for (int i = 0; i < until; ++i)
      ASSERT_EQ(::read(pipe_fds[0], &last, sizeof last), static_cast<ssize_t>(sizeof last));
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "it ended by itself: " << status;
    for (int more = 0; ::read(pipe_fds[0], &more, sizeof more) == sizeof more;) last = more;
    ::close(pipe_fds[0]);
    for (int i = 0; i <= last; ++i)
      acknowledged.emplace_back("/r" + std::to_string(round) + "/" + std::to_string(i),
                                std::string(static_cast<std::size_t>(i % 977), 'v'));
  }
  auto opened = Kv::open({.path = dir.file("state.db")});
  ASSERT_TRUE(opened) << opened.error().what;
  test::LoopRunner runner;
  const auto get = [&](std::string key) -> std::optional<KeyValue> {
    RangeRequest request{.key = std::move(key), .range_end = {}};
    auto r = runner.run((*opened)->range(request));
    return r && !r->kvs.empty() ? std::optional<KeyValue>(r->kvs[0]) : std::nullopt;
  };
  for (const auto& [key, value] : acknowledged) {
    const auto kv = get(key);
    ASSERT_TRUE(kv) << key << " was answered and is gone";
    ASSERT_EQ(kv->value, value);
    ++survived;
  }
  // Whole transactions only: what the pointer names is there.
  EXPECT_TRUE(get(get("/last")->value));
  EXPECT_GT(survived, 1000);
}

// ---- the pure part

TEST(KvState, ChangesLieOverWhatIsCommitted) {
  const auto kv = [](std::string key, std::string value) {
    return std::make_shared<const KeyValue>(KeyValue{.key = std::move(key), .value = std::move(value)});
  };
  Index base{kv("a", "base"), kv("b", "base"), kv("d", "base")};
  Staged staged(base);
  staged.set(kv("b", "new"));
  staged.set(kv("c", "new"));
  staged.erase("a");
  staged.erase("zz");
  const auto seen = [&](KeySpan span) {
    std::string out;
    staged.each(span, [&](const KvPtr& p) {
      out += p->key + "=" + p->value + " ";
      return true;
    });
    return out;
  };
  const std::string no_end(1, '\0');
  EXPECT_EQ(seen({"a", no_end}), "b=new c=new d=base ");
  EXPECT_EQ(seen({"b", "d"}), "b=new c=new ");
  EXPECT_EQ(seen({"a", ""}), "");
  EXPECT_EQ(seen({"d", ""}), "d=base ");
  EXPECT_EQ(seen({"d", "b"}), "");
  EXPECT_EQ(staged.get("a"), nullptr);
  EXPECT_EQ(staged.get("c")->value, "new");
}

}  // namespace
}  // namespace calico::store
