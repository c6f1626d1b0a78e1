// A move between two embedded datastores, one of them as if it were an etcd (not told that it is a Kv: it is frozen by
// its datastoreReady, as a real one). The real etcd is in tests/interop/etcd.
#include "core/move/mover.hpp"

#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <map>
#include <thread>

#include "core/loop/loop.hpp"
#include "core/model/keys.hpp"
#include "core/model/resources.hpp"
#include "tests/support/await.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace calico::move {
namespace {

using store::Kv;
using store::PutRequest;

constexpr std::string_view kGuid = "0123456789abcdef";

std::string information(bool ready, std::string_view guid = kGuid) {
  return fmt::format(
      R"({{"kind":"ClusterInformation","apiVersion":"projectcalico.org/v3","metadata":{{"name":"default"}},)"
      R"("spec":{{"clusterGUID":"{}","datastoreReady":{},"calicoVersion":"v3.30"}}}})",
      guid, ready);
}
std::string policy_key(int i) { return fmt::format("{}openstack/p{:04}", model::kNetworkPolicies, i); }

/// Everything one would miss after a move: keys below /calico/ that no lease holds, without what datastores say of
/// themselves.
std::map<std::string, std::string> content(test::LoopRunner& runner, Kv& kv) {
  store::RangeRequest all;
  all.key = "/calico/";
  all.range_end = store::prefix_end("/calico/");
  auto got = runner.run(kv.range(all));
  std::map<std::string, std::string> out;
  for (auto& e : got->kvs)
    if (e.lease == 0 && e.key != model::kClusterInformation && !e.key.starts_with(model::kDatastorePointers))
      out[e.key] = e.value;
  return out;
}

class MoverTest : public testing::Test {
 protected:
  void SetUp() override {
    here_ = open("here.db");
    there_ = open("there.db");
    put(*here_, std::string(model::kClusterInformation), information(true));
    for (int i = 0; i < 1200; ++i) put_later(*here_, policy_key(i), fmt::format("policy {}", i));
    for (auto& f : later_) ASSERT_TRUE(test::LoopRunner::wait(std::move(f)));
    later_.clear();
    put(*here_, "/calico/dhcp/v1/subnet/x", "subnet");
    put(*here_, "/other/key", "not ours");
    for (const auto* name : {"controller", "c-1", "c-2"}) put(*here_, model::node_key(name), "{}");
  }
  std::shared_ptr<Kv> open(const char* file) {
    auto kv = Kv::open({.path = dir_.file(file)});
    EXPECT_TRUE(kv) << kv.error().what;
    return std::shared_ptr<Kv>(std::move(*kv));
  }
  void put(Kv& kv, std::string key, std::string value, store::LeaseId lease = 0) {
    PutRequest p;
    p.key = std::move(key);
    p.value = std::move(value);
    p.lease = lease;
    auto r = runner_.run(kv.put(p));
    ASSERT_TRUE(r) << r.error().what;
  }
  void put_later(Kv& kv, std::string key, std::string value) {
    PutRequest p;
    p.key = std::move(key);
    p.value = std::move(value);
    later_.push_back(runner_.start(kv.put(p)));
  }
  std::optional<std::string> get(Kv& kv, std::string_view key) {
    store::RangeRequest r;
    r.key = std::string(key);
    auto got = runner_.run(kv.range(r));
    return !got || got->kvs.empty() ? std::nullopt : std::optional(got->kvs[0].value);
  }
  bool ready(Kv& kv) {
    const auto text = get(kv, model::kClusterInformation);
    const auto info = text ? model::parse_cluster_information(*text) : Result<model::ClusterInformation>();
    return text && info && info->datastore_ready.value_or(false);
  }
  std::int64_t generation(Kv& kv, std::string_view key = model::kDatastorePointer) {
    const auto text = get(kv, key);
    if (!text) return 0;
    const auto p = model::parse_datastore_pointer(*text);
    return p ? p->generation : -1;
  }
  Side here() { return {here_.get(), here_.get(), {"https://10.0.0.9:2379"}}; }
  Side there() { return {there_.get(), nullptr, {"https://10.0.0.1:2379", "https://10.0.0.2:2379"}}; }
  static Options options() {
    Options o;
    o.self = "controller";
    o.poll = std::chrono::milliseconds(5);
    o.answer_time = std::chrono::milliseconds(100);
    return o;
  }
  Result<bool> move(Side from, Side to, Options o) {
    Mover mover(std::move(from), std::move(to), std::move(o), [this](std::string line) {
      std::lock_guard lock(said_mutex_);
      said_.push_back(std::move(line));
    });
    return runner_.run(mover.run(), "the move");
  }
  /// Nodes that answer to every move in preparation, as core/sync does.
  void answer(Kv& kv, std::int64_t generation, const std::string& node, const std::string& error = {}) {
    put(kv, model::datastore_report_key("east", node), model::to_json({generation - 1, generation, error}));
  }
  void expect_moved(Kv& from, Kv& to, std::int64_t generation) {
    EXPECT_TRUE(ready(to));
    EXPECT_EQ(this->generation(from), generation);
    EXPECT_EQ(this->generation(to), generation);
    EXPECT_EQ(this->generation(from, model::kNextDatastorePointer), 0);
    EXPECT_EQ(this->generation(to, model::kNextDatastorePointer), 0);
  }

  test::TempDir dir_;
  test::LoopRunner runner_;
  std::shared_ptr<Kv> here_, there_;
  std::vector<std::future<Result<store::PutResult>>> later_;
  std::mutex said_mutex_;
  std::vector<std::string> said_;
};

TEST_F(MoverTest, TheNewDatastoreHasEverythingAndTheOldOneIsReadOnlyForGood) {
  for (const auto* n : {"c-1", "c-2"}) answer(*here_, 1, n);
  const auto lease = runner_.run(here_->lease_grant(60));
  put(*here_, "/calico/felix/v2/east/host/c-1/status", "alive", lease->id);
  put(*there_, "/something/else", "stays");
  const auto before = content(runner_, *here_);
  ASSERT_GT(before.size(), 1200U);

  auto moved = move(here(), there(), options());
  ASSERT_TRUE(moved) << moved.error().what;
  EXPECT_TRUE(*moved);
  expect_moved(*here_, *there_, 1);
  EXPECT_EQ(content(runner_, *there_), before);
  EXPECT_FALSE(get(*there_, "/calico/felix/v2/east/host/c-1/status")) << "leases are their owners'";
  EXPECT_FALSE(get(*there_, "/other/key"));
  EXPECT_EQ(get(*there_, "/something/else"), "stays");
  const auto pointer = model::parse_datastore_pointer(*get(*there_, model::kDatastorePointer));
  ASSERT_TRUE(pointer);
  EXPECT_EQ(pointer->endpoints, there().endpoints);
  EXPECT_EQ(pointer->cluster_guid, kGuid);

  PutRequest late;
  late.key = policy_key(1);
  EXPECT_EQ(runner_.run(here_->put(late)).error().code, Errc::unavailable);
  here_->stop();
  here_ = open("here.db");
  EXPECT_EQ(runner_.run(here_->put(late)).error().code, Errc::unavailable);
}

TEST_F(MoverTest, ThereAndBackWithRevisionsFarApart) {
  auto o = options();
  o.force = true;
  for (std::int64_t round = 0; round < 2; ++round) {
    auto moved = move(here(), there(), o);
    ASSERT_TRUE(moved) << moved.error().what;
    expect_moved(*here_, *there_, 2 * round + 1);
    for (int i = 0; i < 3000; ++i) put_later(*there_, policy_key(i % 7), fmt::format("{} {}", round, i));
    for (auto& f : later_) ASSERT_TRUE(test::LoopRunner::wait(std::move(f)));
    later_.clear();
    store::DeleteRequest gone;
    gone.key = policy_key(static_cast<int>(100 + round));
    ASSERT_TRUE(runner_.run(there_->del(gone)));
    const auto before = content(runner_, *there_);

    moved = move(there(), here(), o);
    ASSERT_TRUE(moved) << moved.error().what;
    expect_moved(*there_, *here_, 2 * round + 2);
    EXPECT_FALSE(ready(*there_)) << "an etcd that was left says so";
    EXPECT_EQ(here_->frozen(), "");
    EXPECT_EQ(content(runner_, *here_), before);
    put(*here_, policy_key(5000), "after");
  }
}

TEST_F(MoverTest, WhatIsWrittenMeanwhileIsThereOrWasRefused) {
  auto o = options();
  o.force = true;
  std::atomic<bool> end = false;
  std::atomic<int> written = 0;
  std::map<std::string, std::string> acknowledged;
  std::thread writer([&] {
    for (int i = 0; !end; ++i) {
      PutRequest p;
      p.key = policy_key(i % 2000);
      p.value = fmt::format("while moving {}", i);
      if (runner_.run(here_->put(p))) acknowledged[p.key] = p.value, ++written;
    }
  });
  EXPECT_TRUE(test::eventually("a first write", [&] { return written > 0; }));
  auto moved = move(here(), there(), o);
  end = true;
  writer.join();
  ASSERT_TRUE(moved) << moved.error().what;
  const auto now = content(runner_, *there_);
  for (const auto& [key, value] : acknowledged) {
    const auto it = now.find(key);
    ASSERT_NE(it, now.end()) << key;
    EXPECT_EQ(it->second, value) << key;
  }
  EXPECT_EQ(now, content(runner_, *here_));
}

TEST_F(MoverTest, NodesThatCannotFollowHoldItBack) {
  answer(*here_, 1, "c-1");
  answer(*here_, 1, "c-2", "certificate refused");
  auto o = options();
  o.answer_time = std::chrono::milliseconds(30);
  auto moved = move(here(), there(), o);
  ASSERT_FALSE(moved);
  EXPECT_EQ(moved.error().code, Errc::conflict);
  EXPECT_NE(moved.error().what.find("c-2 (certificate refused)"), std::string::npos) << moved.error().what;
  EXPECT_EQ(generation(*here_, model::kNextDatastorePointer), 0);
  EXPECT_EQ(generation(*here_), 0);
  EXPECT_EQ(here_->frozen(), "");
  EXPECT_FALSE(ready(*there_));

  answer(*here_, 1, "c-2");  // of the move before: no answer to the next one
  moved = move(here(), there(), o);
  ASSERT_FALSE(moved);
  EXPECT_NE(moved.error().what.find("2 say nothing: c-1, c-2"), std::string::npos) << moved.error().what;

  for (const auto* n : {"c-1", "c-2"}) answer(*here_, 3, n);
  o.check = true;
  moved = move(here(), there(), o);
  ASSERT_TRUE(moved) << moved.error().what;
  EXPECT_FALSE(*moved) << "only checked";
  EXPECT_TRUE(ready(*here_));
  EXPECT_EQ(generation(*here_, model::kNextDatastorePointer), 0);
  EXPECT_EQ(content(runner_, *there_).size(), 0U);

  for (const auto* n : {"c-1", "c-2"}) answer(*here_, 4, n);
  o.check = false;
  moved = move(here(), there(), o);
  ASSERT_TRUE(moved) << moved.error().what;
  auto who = runner_.run(followers(*there_, 4, "controller"));
  ASSERT_TRUE(who);
  EXPECT_EQ(who->waiting, (std::vector<std::string>{"c-1", "c-2"}));
  put(*there_, model::datastore_report_key("west", "c-2"), model::to_json({4, 0, ""}));
  who = runner_.run(followers(*there_, 4, "controller"));
  EXPECT_EQ(who->followed, std::vector<std::string>{"c-2"});
}

TEST_F(MoverTest, ADatastoreThatMayNotBeTakenIsRefused) {
  auto o = options();
  o.force = true;
  const auto refused = [&](Side from, Side to, std::string_view why) {
    auto moved = move(std::move(from), std::move(to), o);
    ASSERT_FALSE(moved) << why;
    EXPECT_NE(moved.error().what.find(why), std::string::npos) << moved.error().what;
    EXPECT_EQ(generation(*here_, model::kNextDatastorePointer), 0);
    EXPECT_EQ(here_->frozen(), "");
  };
  refused(here(), {here_.get(), nullptr, {"https://10.0.0.9:2379"}}, "has already");
  put(*there_, "/calico/stray", "x");
  refused(here(), there(), "empty it first");
  put(*there_, std::string(model::kClusterInformation), information(true, "another"));
  refused(here(), there(), "another cloud");
  put(*there_, std::string(model::kClusterInformation), information(true));
  refused(here(), there(), "two cannot be");
  EXPECT_EQ(get(*there_, "/calico/stray"), "x") << "what was refused is not touched";
  put(*here_, std::string(model::kClusterInformation), information(false));
  refused(here(), there(), "not ready");
}

/// Answers until it has taken so many writes, then never again.
class Dying final : public store::Datastore {
 public:
  Dying(store::Datastore& under, int writes) : under_(under), left_(writes) {}
  awaitable<Result<store::ServerStatus>> status() override {
    if (left_ <= 0) co_return gone();
    co_return co_await under_.status();
  }
  awaitable<Result<store::RangeResult>> range(store::RangeRequest r) override {
    if (left_ <= 0) co_return gone();
    co_return co_await under_.range(std::move(r));
  }
  awaitable<Result<store::TxnResult>> txn(store::TxnRequest r) override {
    if (left_ <= 0) co_return gone();
    for (const auto& op : r.success)
      if (!std::holds_alternative<store::RangeRequest>(op)) {
        --left_;
        break;
      }
    auto done = co_await under_.txn(std::move(r));
    if (left_ <= 0) co_return gone();  // done, and the answer is lost
    co_return done;
  }
  awaitable<Result<store::PutResult>> put(store::PutRequest) override { co_return gone(); }
  awaitable<Result<store::DeleteResult>> del(store::DeleteRequest) override { co_return gone(); }
  awaitable<Result<store::Revision>> compact(store::Revision) override { co_return gone(); }
  awaitable<Result<store::LeaseInfo>> lease_grant(std::int64_t, store::LeaseId) override { co_return gone(); }
  awaitable<Result<store::LeaseInfo>> lease_keepalive(store::LeaseId) override { co_return gone(); }
  awaitable<Status> lease_revoke(store::LeaseId) override { co_return gone(); }
  awaitable<Result<store::LeaseInfo>> lease_time_to_live(store::LeaseId, bool) override { co_return gone(); }
  awaitable<Result<std::unique_ptr<store::Watch>>> watch(store::WatchRequest) override { co_return gone(); }
  int left() const { return left_; }

 private:
  static tl::unexpected<Error> gone() { return fail(Errc::unavailable, "gone"); }
  store::Datastore& under_;
  std::atomic<int> left_;
};

TEST_F(MoverTest, WhenTheNewDatastoreDiesBeforeTheCommitAllIsAsBefore) {
  auto o = options();
  o.force = true;
  int deaths = 0;
  for (int writes = 0;; ++writes) {
    there_ = open(fmt::format("there-{}.db", writes).c_str());
    Dying dying(*there_, writes);
    auto moved = move(here(), {&dying, nullptr, there().endpoints}, o);
    if (generation(*here_) != 0) {
      // After the commit: it says so, and a later start finishes.
      if (!moved) {
        EXPECT_NE(moved.error().what.find("moved, but"), std::string::npos) << moved.error().what;
        auto settled = runner_.run(settle(here(), there()));
        ASSERT_TRUE(settled) << settled.error().what;
        EXPECT_EQ(*settled, Settled::moved);
      }
      break;
    }
    ++deaths;
    ASSERT_FALSE(moved);
    EXPECT_EQ(here_->frozen(), "");
    EXPECT_TRUE(ready(*here_));
    EXPECT_EQ(generation(*here_, model::kNextDatastorePointer), 0);
    EXPECT_FALSE(ready(*there_));
  }
  EXPECT_GT(deaths, 10) << "1,200 keys are 12 transactions";
  expect_moved(*here_, *there_, generation(*here_));
}

/// Every moment at which the controller may die, in both directions: the process' loop stops for good after so many
/// steps, the embedded datastore's file is opened again, and settle() is what the next start does.
TEST_F(MoverTest, KilledAtAnyMomentThereIsOneAuthorityAfterTheNextStart) {
  std::map<Settled, int> seen;
  auto o = options();
  o.force = true;
  const auto die_after = [&](std::size_t steps, Side from, Side to) {
    Mover mover(std::move(from), std::move(to), o, [](const std::string&) {});
    boost::asio::io_context io;
    bool ended = false;
    boost::asio::co_spawn(io, mover.run(), [&](const std::exception_ptr&, const Result<bool>&) { ended = true; });
    auto work = boost::asio::make_work_guard(io);
    for (std::size_t i = 0; i < steps && !ended; ++i) io.run_one_for(std::chrono::seconds(30));
    here_->stop();  // waits for what its threads do; their answers are not heard any more
    there_->stop();
    return ended;
  };
  for (const bool forward : {true, false}) {
    bool ended = false;
    for (std::size_t step = 1; !ended; step += step < 60 ? 1 : 7) {
      for (int i = 0; i < 400; ++i) put_later(forward ? *here_ : *there_, policy_key(i), fmt::format("{} {}", step, i));
      for (auto& f : later_) ASSERT_TRUE(test::LoopRunner::wait(std::move(f)));
      later_.clear();
      const auto before = content(runner_, forward ? *here_ : *there_);
      ended = forward ? die_after(step, here(), there()) : die_after(step, there(), here());
      here_ = open("here.db");
      there_ = open("there.db");
      const auto settled = runner_.run(settle(here(), there()));
      ASSERT_TRUE(settled) << settled.error().what << ", step " << step;
      ++seen[*settled];
      const bool ours = here_->frozen().empty();
      ASSERT_EQ(ours, !ready(*there_)) << "step " << step;
      ASSERT_TRUE(!ours || ready(*here_)) << "step " << step;
      ASSERT_EQ(generation(*here_, model::kNextDatastorePointer), 0) << "step " << step;
      ASSERT_EQ(content(runner_, ours ? *here_ : *there_), before) << "step " << step;
      const bool moved = ours != forward;
      if (ended) {
        ASSERT_TRUE(moved);
      } else if (moved) {  // after the commit: back again for the next moment
        const auto back = forward ? move(there(), here(), o) : move(here(), there(), o);
        ASSERT_TRUE(back) << back.error().what << ", step " << step;
      }
    }
  }
  std::printf("%d given up, %d moved, %d moved here, %d nothing\n", seen[Settled::given_up], seen[Settled::moved],
              seen[Settled::moved_here], seen[Settled::nothing]);
  EXPECT_GT(seen[Settled::given_up], 10);
  EXPECT_GT(seen[Settled::moved], 1);
  EXPECT_GT(seen[Settled::moved_here], 1);
}

}  // namespace
}  // namespace calico::move
