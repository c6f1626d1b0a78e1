// On the embedded datastore, in process and through its gateway; changes_etcd_interop_test.cpp: on a real etcd.
#include "tests/unit/resources/changes_suite.hpp"

namespace calico::resources {
namespace {

std::unique_ptr<test::DatastoreBackend> in_process(Loop&) { return std::make_unique<test::InProcessBackend>(); }
std::unique_ptr<test::DatastoreBackend> gateway(Loop& loop) { return std::make_unique<test::GatewayBackend>(loop); }
INSTANTIATE_TEST_SUITE_P(Embedded, Changes,
                         testing::Values(std::pair<const char*, MakeBackend>{"kv", in_process},
                                         std::pair<const char*, MakeBackend>{"gateway", gateway}),
                         changes_name);

/// Somebody is faster between our read and our write: the first time, or every time.
class Hurried final : public store::Datastore {
 public:
  Hurried(store::Datastore& d, int times) : d_(d), times_(times) {}
  awaitable<Result<store::TxnResult>> txn(store::TxnRequest request) override {
    if (!request.compare.empty() && times_-- > 0) {
      store::PutRequest other;
      other.key = request.compare.front().key;
      other.value = fmt::format(R"({{"metadata":{{"name":"a","uid":"u"}},"spec":{{"x":{}}}}})", times_);
      auto put = co_await d_.put(std::move(other));
      if (!put) co_return tl::unexpected(put.error());
    }
    const bool writes = !request.compare.empty();
    auto done = co_await d_.txn(std::move(request));
    if (writes && lost) co_return fail(*lost, "no answer");
    co_return done;
  }
  awaitable<Result<store::ServerStatus>> status() override { return d_.status(); }
  awaitable<Result<store::RangeResult>> range(store::RangeRequest r) override { return d_.range(std::move(r)); }
  awaitable<Result<store::PutResult>> put(store::PutRequest r) override { return d_.put(std::move(r)); }
  awaitable<Result<store::DeleteResult>> del(store::DeleteRequest r) override { return d_.del(std::move(r)); }
  awaitable<Result<store::Revision>> compact(store::Revision r) override { return d_.compact(r); }
  awaitable<Result<store::LeaseInfo>> lease_grant(std::int64_t t, store::LeaseId i) override {
    return d_.lease_grant(t, i);
  }
  awaitable<Result<store::LeaseInfo>> lease_keepalive(store::LeaseId i) override { return d_.lease_keepalive(i); }
  awaitable<Status> lease_revoke(store::LeaseId i) override { return d_.lease_revoke(i); }
  awaitable<Result<store::LeaseInfo>> lease_time_to_live(store::LeaseId i, bool k) override {
    return d_.lease_time_to_live(i, k);
  }
  awaitable<Result<std::unique_ptr<store::Watch>>> watch(store::WatchRequest r) override {
    return d_.watch(std::move(r));
  }

  std::optional<Errc> lost;  ///< how the answer to a write is lost after it took effect

 private:
  store::Datastore& d_;
  int times_;
};

class Race : public testing::Test {
 protected:
  Changed apply(int times, const std::string& more = "") {
    Hurried hurried(*backend_.kv, times);
    Manifest m;
    read_manifest("f", node("a", "{bgp: {asNumber: 7}}", more), {}, m);
    ChangeOptions o;
    o.now = "2026-01-01T00:00:00Z";
    auto done = test::run(loop_, "the change", [&]() -> awaitable<Changed> {
      auto r = co_await change(hurried, m.items, o);
      co_return r;
    });
    return done;
  }
  Race() { loop_.start(); }
  ~Race() override { loop_.stop(); }
  Loop loop_{"race"};
  test::InProcessBackend backend_;
};

TEST_F(Race, IsReadAgainAndWon) {
  const auto done = apply(1);
  ASSERT_FALSE(done.error) << done.error->what;
  EXPECT_EQ(done.outcomes.at(0).kind, Outcome::Kind::updated) << "the other one made it";
}

TEST_F(Race, IsGivenUpAndSaidSo) {
  const auto done = apply(1000);
  ASSERT_TRUE(done.error);
  EXPECT_EQ(done.error->code, Errc::busy);
  EXPECT_FALSE(done.unknown);
  EXPECT_TRUE(done.outcomes.empty());
}

TEST_F(Race, WithAResourceVersionItIsAConflict) {
  auto made = apply(0);
  ASSERT_FALSE(made.error);
  const auto done = apply(1, fmt::format(", resourceVersion: {}", made.outcomes.at(0).revision));
  ASSERT_FALSE(done.error);
  ASSERT_FALSE(done.refused) << "it was as wanted already: nothing to write, nothing to race for";
  EXPECT_EQ(done.outcomes.at(0).kind, Outcome::Kind::unchanged);
  Hurried hurried(*backend_.kv, 1);
  Manifest m;
  read_manifest("f", node("a", "{}", fmt::format(", resourceVersion: {}", made.outcomes.at(0).revision)), {}, m);
  const auto lost = test::run(loop_, "the change", [&]() -> awaitable<Changed> {
    ChangeOptions o;
    auto r = co_await change(hurried, m.items, o);
    co_return r;
  });
  EXPECT_TRUE(lost.refused);
  EXPECT_THAT(lost.outcomes.at(0).why, HasSubstr("conflict"));
}

TEST_F(Race, AnAnswerThatIsLostIsSaidToBeUnknown) {
  for (const auto code : {Errc::timeout, Errc::unavailable, Errc::no_permission}) {
    Hurried lossy(*backend_.kv, 0);
    lossy.lost = code;
    Manifest m;
    read_manifest("f", node(fmt::format("a-{}", static_cast<int>(code))), {}, m);
    const auto done = test::run(loop_, "the change", [&]() -> awaitable<Changed> {
      ChangeOptions o;
      auto r = co_await change(lossy, m.items, o);
      co_return r;
    });
    ASSERT_TRUE(done.error);
    EXPECT_EQ(done.unknown, code != Errc::no_permission) << "a refusal is an answer";
  }
}

TEST(Uid, IsAVersion4Uuid) {
  EXPECT_EQ(uid_of(0, 0), "00000000-0000-4000-8000-000000000000");
  EXPECT_EQ(uid_of(~0ULL, ~0ULL), "ffffffff-ffff-4fff-bfff-ffffffffffff");
}

}  // namespace
}  // namespace calico::resources
