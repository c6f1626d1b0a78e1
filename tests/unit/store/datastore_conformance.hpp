#pragma once
/// What a Datastore must do, whatever stands behind it: the embedded one in process, the embedded one through its
/// gateway, a real etcd. A test program includes this, gives one DatastoreParam an implementation and instantiates:
///
///   INSTANTIATE_TEST_SUITE_P(Kv, DatastoreConformance, testing::Values(DatastoreParam{"kv", make_kv}), name_of);
///
/// Every test works below a prefix of its own and with revisions relative to what it finds, so that one server may
/// serve them all, one after another.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/store/datastore.hpp"
#include "tests/support/await.hpp"
#include "tests/support/datastore_backends.hpp"

namespace calico::store {

using test::DatastoreBackend;

/// Made once a program; `skip` says why not, on machines that cannot.
struct DatastoreParam {
  std::string name;
  std::function<std::unique_ptr<DatastoreBackend>(Loop& loop)> make;
  std::string skip = {};
};
inline void PrintTo(const DatastoreParam& p, std::ostream* out) { *out << p.name; }
inline std::string name_of(const testing::TestParamInfo<DatastoreParam>& info) { return info.param.name; }

class DatastoreConformance : public testing::TestWithParam<DatastoreParam> {
 protected:
  static void TearDownTestSuite() {
    backends().clear();
    delete runner_;
    runner_ = nullptr;
  }
  void SetUp() override {
    if (!GetParam().skip.empty()) GTEST_SKIP() << "SKIPPED: " << GetParam().skip;
    if (!runner_) runner_ = new test::LoopRunner;
    auto& slot = backends()[GetParam().name];
    if (!slot) slot = GetParam().make(runner_->loop());
    ASSERT_TRUE(slot) << GetParam().name << " did not start";
    ds_ = &slot->datastore();
    static int count = 0;
    prefix_ = "/t" + std::to_string(++count) + "/";
  }

  template <class T>
  T run(awaitable<T> a, const char* what = "the answer") {
    return runner_->run(std::move(a), what);
  }
  /// Unwraps; a failure ends the test by exception.
  template <class T>
  T must(Result<T> r) {
    if (!r) throw std::runtime_error("failed: " + std::string(to_string(r.error().code)) + ": " + r.error().what);
    return std::move(*r);
  }
  void must(Status r) {
    if (!r) throw std::runtime_error("failed: " + std::string(to_string(r.error().code)) + ": " + r.error().what);
  }
  template <class T>
  static Errc code(const Result<T>& r) {
    if (r) return static_cast<Errc>(255);
    EXPECT_FALSE(r.error().what.empty());
    EXPECT_EQ(r.error().what.find('\n'), std::string::npos) << r.error().what;
    return r.error().code;
  }

  std::string k(std::string_view name) const { return prefix_ + std::string(name); }
  RangeRequest all() const { return {.key = prefix_, .range_end = prefix_end(prefix_)}; }
  Revision put(std::string_view name, std::string value, LeaseId lease = 0) {
    PutRequest request{.key = k(name), .value = std::move(value), .lease = lease};
    return must(run(ds_->put(request), "put")).revision;
  }
  Revision del(std::string_view name) {
    DeleteRequest request{.key = k(name), .range_end = {}};
    return must(run(ds_->del(request), "delete")).revision;
  }
  RangeResult range(RangeRequest request) { return must(run(ds_->range(std::move(request)), "range")); }
  std::optional<KeyValue> get(std::string_view name) {
    RangeRequest request{.key = k(name), .range_end = {}};
    auto r = range(request);
    return r.kvs.empty() ? std::nullopt : std::optional<KeyValue>(r.kvs[0]);
  }
  Revision now() { return must(run(ds_->status(), "status")).revision; }
  std::unique_ptr<Watch> watch(Revision start, bool prev_kv = false) {
    WatchRequest request{.key = prefix_, .range_end = prefix_end(prefix_), .start_revision = start, .prev_kv = prev_kv};
    return must(run(ds_->watch(request), "watch"));
  }
  /// Reads until `n` events are in; checks that batches are in order.
  std::vector<Event> events(Watch& w, std::size_t n) {
    std::vector<Event> out;
    Revision last = 0;
    while (out.size() < n) {
      auto batch = must(run(w.next(), "events of a watch"));
      EXPECT_GE(batch.revision, last);
      last = batch.revision;
      for (auto& e : batch.events) {
        EXPECT_LE(e.kv.mod_revision, batch.revision);
        EXPECT_GE(e.kv.mod_revision, out.empty() ? 0 : out.back().kv.mod_revision);
        out.push_back(std::move(e));
      }
    }
    return out;
  }
  static std::vector<std::string> names(const RangeResult& r, std::size_t drop) {
    std::vector<std::string> out;
    for (const auto& kv : r.kvs) out.push_back(kv.key.substr(drop));
    return out;
  }
  std::vector<std::string> names(const RangeResult& r) const { return names(r, prefix_.size()); }

  static std::map<std::string, std::unique_ptr<DatastoreBackend>>& backends() {
    static std::map<std::string, std::unique_ptr<DatastoreBackend>> all;
    return all;
  }
  static inline test::LoopRunner* runner_ = nullptr;
  Datastore* ds_ = nullptr;
  std::string prefix_;
};

using Names = std::vector<std::string>;

// ---- put, range, delete

TEST_P(DatastoreConformance, StatusNamesTheStore) {
  const auto s = must(run(ds_->status()));
  EXPECT_NE(s.cluster_id, 0U);
  EXPECT_NE(s.member_id, 0U);
  EXPECT_GE(s.revision, 1);
  EXPECT_FALSE(s.version.empty());
}

TEST_P(DatastoreConformance, PutCountsVersionsAndRevisions) {
  const auto first = put("a", "1");
  const auto second = put("a", "2");
  EXPECT_EQ(second, first + 1);
  const auto kv = get("a");
  ASSERT_TRUE(kv);
  EXPECT_EQ(*kv, (KeyValue{k("a"), "2", first, second, 2, 0}));
  EXPECT_EQ(now(), second);
}

TEST_P(DatastoreConformance, PutGivesThePreviousWhenAsked) {
  PutRequest request{.key = k("a"), .value = "1", .prev_kv = true};
  EXPECT_FALSE(must(run(ds_->put(request))).prev);
  request.value = "2";
  const auto again = must(run(ds_->put(request)));
  ASSERT_TRUE(again.prev);
  EXPECT_EQ(again.prev->value, "1");
  EXPECT_EQ(again.prev->version, 1);
}

TEST_P(DatastoreConformance, KeysAndValuesAreBytes) {
  const std::string bytes("\0\x01\xff\n\"\\\xe2\x82", 8);
  put(bytes, bytes);
  put("empty", "");
  const auto kv = get(bytes);
  ASSERT_TRUE(kv);
  EXPECT_EQ(kv->value, bytes);
  EXPECT_EQ(get("empty")->value, "");
}

TEST_P(DatastoreConformance, ARangeIsOneKeyAPrefixOrFromAKeyOn) {
  for (const char* n : {"a", "b", "b1", "c"}) put(n, n);
  EXPECT_EQ(names(range(all())), (Names{"a", "b", "b1", "c"}));
  RangeRequest half{.key = k("a"), .range_end = k("b1")};
  EXPECT_EQ(names(range(half)), (Names{"a", "b"}));
  RangeRequest one{.key = k("b"), .range_end = {}};
  EXPECT_EQ(names(range(one)), (Names{"b"}));
  RangeRequest open{.key = k("b"), .range_end = std::string(1, '\0')};
  auto rest = names(range(open));
  ASSERT_GE(rest.size(), 3U);
  EXPECT_EQ((Names{rest.begin(), rest.begin() + 3}), (Names{"b", "b1", "c"}));
  RangeRequest backwards{.key = k("c"), .range_end = k("a")};
  EXPECT_TRUE(range(backwards).kvs.empty());
  RangeRequest missing{.key = k("nothing"), .range_end = {}};
  const auto none = range(missing);
  EXPECT_EQ(none.count, 0);
  EXPECT_FALSE(none.more);
  EXPECT_EQ(none.revision, now());
}

TEST_P(DatastoreConformance, LimitCountsOnAndSaysMore) {
  for (const char* n : {"a", "b", "c"}) put(n, "v");
  auto request = all();
  request.limit = 2;
  auto r = range(request);
  EXPECT_EQ(names(r), (Names{"a", "b"}));
  EXPECT_TRUE(r.more);
  EXPECT_EQ(r.count, 3);
  request.limit = 3;
  r = range(request);
  EXPECT_FALSE(r.more);
  EXPECT_EQ(r.count, 3);
  request.limit = 2;
  request.sort_order = SortOrder::descend;
  r = range(request);
  EXPECT_EQ(names(r), (Names{"c", "b"}));
  EXPECT_TRUE(r.more);
}

TEST_P(DatastoreConformance, KeysOnlyAndCountOnly) {
  put("a", "value");
  put("b", "value");
  auto request = all();
  request.keys_only = true;
  auto r = range(request);
  ASSERT_EQ(r.kvs.size(), 2U);
  EXPECT_EQ(r.kvs[0].value, "");
  EXPECT_GT(r.kvs[0].mod_revision, 0);
  request.keys_only = false;
  request.count_only = true;
  r = range(request);
  EXPECT_TRUE(r.kvs.empty());
  EXPECT_EQ(r.count, 2);
}

TEST_P(DatastoreConformance, SortsByEveryTarget) {
  // key order a b c; create order b c a; mod order c a b; version order a c b; value order c b a
  put("b", "2");
  put("c", "x");
  put("a", "3");
  put("b", "x");
  put("c", "1");
  put("b", "x");
  put("a", "3");  // a: version 2
  put("c", "1");
  put("c", "1");  // c: version 4
  put("b", "2");  // b: version 4, last modified
  auto sorted = [&](SortTarget target, SortOrder order) {
    auto request = all();
    request.sort_target = target;
    request.sort_order = order;
    return names(range(request));
  };
  EXPECT_EQ(sorted(SortTarget::key, SortOrder::none), (Names{"a", "b", "c"}));
  EXPECT_EQ(sorted(SortTarget::key, SortOrder::descend), (Names{"c", "b", "a"}));
  EXPECT_EQ(sorted(SortTarget::create, SortOrder::ascend), (Names{"b", "c", "a"}));
  EXPECT_EQ(sorted(SortTarget::create, SortOrder::descend), (Names{"a", "c", "b"}));
  EXPECT_EQ(sorted(SortTarget::mod, SortOrder::none), (Names{"a", "c", "b"}));
  EXPECT_EQ(sorted(SortTarget::mod, SortOrder::descend), (Names{"b", "c", "a"}));
  EXPECT_EQ(sorted(SortTarget::value, SortOrder::ascend), (Names{"c", "b", "a"}));
  EXPECT_EQ(sorted(SortTarget::value, SortOrder::descend), (Names{"a", "b", "c"}));
  EXPECT_EQ(sorted(SortTarget::version, SortOrder::ascend)[0], "a");
  EXPECT_EQ(sorted(SortTarget::version, SortOrder::descend)[2], "a");
}

TEST_P(DatastoreConformance, ReadsThePast) {
  const auto r1 = put("a", "1");
  const auto r2 = put("b", "1");
  put("a", "2");
  const auto r4 = del("b");
  const auto r5 = put("b", "new");
  auto at = [&](Revision r) {
    auto request = all();
    request.revision = r;
    return range(request);
  };
  EXPECT_EQ(names(at(r1)), (Names{"a"}));
  auto both = at(r2);
  ASSERT_EQ(names(both), (Names{"a", "b"}));
  EXPECT_EQ(both.kvs[0], (KeyValue{k("a"), "1", r1, r1, 1, 0}));
  EXPECT_EQ(both.revision, r5) << "the header carries the revision of now";
  EXPECT_EQ(names(at(r4)), (Names{"a"}));
  EXPECT_EQ(at(r4).kvs[0].value, "2");
  EXPECT_EQ(at(r5).kvs[1], (KeyValue{k("b"), "new", r5, r5, 1, 0}));
  auto one = RangeRequest{.key = k("b"), .range_end = {}, .revision = r2};
  EXPECT_EQ(range(one).kvs[0].value, "1");
  auto page = all();
  page.revision = r2;
  page.limit = 1;
  page.sort_order = SortOrder::descend;
  const auto r = range(page);
  EXPECT_EQ(names(r), (Names{"b"}));
  EXPECT_TRUE(r.more);
  EXPECT_EQ(r.count, 2);
}

TEST_P(DatastoreConformance, RefusesTheFutureAndAnEmptyKey) {
  auto request = all();
  request.revision = now() + 1000;
  EXPECT_EQ(code(run(ds_->range(request))), Errc::invalid);
  EXPECT_EQ(code(run(ds_->range(RangeRequest{}))), Errc::invalid);
  EXPECT_EQ(code(run(ds_->put(PutRequest{}))), Errc::invalid);
  EXPECT_EQ(code(run(ds_->del(DeleteRequest{}))), Errc::invalid);
}

TEST_P(DatastoreConformance, DeleteCountsAndAnEmptyOneChangesNothing) {
  put("a", "1");
  put("b", "2");
  const auto before = put("c", "3");
  DeleteRequest request{.key = k("a"), .range_end = k("c"), .prev_kv = true};
  const auto r = must(run(ds_->del(request)));
  EXPECT_EQ(r.deleted, 2);
  EXPECT_EQ(r.revision, before + 1);
  ASSERT_EQ(r.prev.size(), 2U);
  EXPECT_EQ(r.prev[0].value, "1");
  EXPECT_EQ(r.prev[1].value, "2");
  const auto none = must(run(ds_->del(request)));
  EXPECT_EQ(none.deleted, 0);
  EXPECT_EQ(none.revision, before + 1);
  EXPECT_EQ(now(), before + 1);
  EXPECT_EQ(names(range(all())), (Names{"c"}));
}

TEST_P(DatastoreConformance, AKeyBornAgainStartsAtVersionOne) {
  put("a", "1");
  put("a", "2");
  del("a");
  const auto r = put("a", "3");
  EXPECT_EQ(*get("a"), (KeyValue{k("a"), "3", r, r, 1, 0}));
}

TEST_P(DatastoreConformance, ALargeValueIsKeptAndATooLargeOneRefused) {
  const std::string megabyte(1 << 20, 'x');
  put("big", megabyte);
  EXPECT_EQ(get("big")->value, megabyte);
  const auto before = now();
  PutRequest request{.key = k("big"), .value = std::string((3 << 20) / 2 + 10000, 'y')};
  EXPECT_EQ(code(run(ds_->put(request))), Errc::exhausted);
  EXPECT_EQ(now(), before);
  EXPECT_EQ(get("big")->value, megabyte);
}

// ---- transactions

TEST_P(DatastoreConformance, CompareEveryTargetWithEveryOperator) {
  using C = Compare;
  const auto lease = must(run(ds_->lease_grant(60))).id;
  const auto created = put("a", "m", lease);
  const auto modified = put("a", "m", lease);
  struct Case {
    C::Target target;
    std::int64_t number;
    std::string value;
  };
  const Case cases[] = {{C::Target::version, 2, ""},
                        {C::Target::create, created, ""},
                        {C::Target::mod, modified, ""},
                        {C::Target::lease, lease, ""},
                        {C::Target::value, 0, "m"}};
  auto holds = [&](C c) {
    TxnRequest txn;
    txn.compare.push_back(std::move(c));
    return must(run(ds_->txn(txn), "txn")).succeeded;
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(static_cast<int>(c.target));
    const C same{k("a"), c.target, C::Op::equal, c.number, c.value};
    C below = same;  // the key's is greater than this
    below.number -= 1;
    if (c.target == C::Target::value) below.value = "l";
    C above = same;
    above.number += 1;
    if (c.target == C::Target::value) above.value = "mm";
    auto with = [](C x, C::Op op) {
      x.op = op;
      return x;
    };
    EXPECT_TRUE(holds(same));
    EXPECT_FALSE(holds(below));
    EXPECT_FALSE(holds(with(same, C::Op::not_equal)));
    EXPECT_TRUE(holds(with(below, C::Op::not_equal)));
    EXPECT_TRUE(holds(with(below, C::Op::greater)));
    EXPECT_FALSE(holds(with(same, C::Op::greater)));
    EXPECT_TRUE(holds(with(above, C::Op::less)));
    EXPECT_FALSE(holds(with(same, C::Op::less)));
  }
  must(run(ds_->lease_revoke(lease)));
}

TEST_P(DatastoreConformance, AMissingKeyHasZerosAndNoValue) {
  using C = Compare;
  auto holds = [&](C::Target target, C::Op op, std::string value = {}) {
    TxnRequest txn;
    txn.compare.push_back(C{k("none"), target, op, 0, std::move(value)});
    return must(run(ds_->txn(txn), "txn")).succeeded;
  };
  for (auto t : {C::Target::version, C::Target::create, C::Target::mod, C::Target::lease}) {
    EXPECT_TRUE(holds(t, C::Op::equal));
    EXPECT_FALSE(holds(t, C::Op::greater));
    EXPECT_FALSE(holds(t, C::Op::not_equal));
  }
  EXPECT_FALSE(holds(C::Target::value, C::Op::equal));
  EXPECT_FALSE(holds(C::Target::value, C::Op::not_equal, "x"));
  EXPECT_FALSE(holds(C::Target::value, C::Op::less, "x"));
}

TEST_P(DatastoreConformance, ACompareOfARangeHoldsForEveryKeyOfIt) {
  put("a", "x");
  put("b", "x");
  const auto second = put("b", "x");
  const auto succeeds = [&](Compare c, std::string_view key, std::string_view end) {
    c.key = k(key);
    c.range_end = k(end);
    TxnRequest txn;
    txn.compare = {std::move(c)};
    return must(run(ds_->txn(std::move(txn)), "txn")).succeeded;
  };
  const auto is = [](Compare::Target target, Compare::Op op, std::int64_t number, std::string value = {}) {
    return Compare{{}, target, op, number, std::move(value), {}};
  };
  using T = Compare::Target;
  using O = Compare::Op;
  EXPECT_TRUE(succeeds(is(T::value, O::equal, 0, "x"), "a", "c"));
  EXPECT_FALSE(succeeds(is(T::version, O::equal, 1), "a", "c"));
  EXPECT_TRUE(succeeds(is(T::version, O::equal, 1), "a", "b"));
  EXPECT_TRUE(succeeds(is(T::version, O::greater, 0), "a", "c"));
  EXPECT_TRUE(succeeds(is(T::mod, O::less, second + 1), "a", "c"));
  EXPECT_FALSE(succeeds(is(T::mod, O::less, second), "a", "c"));
  // Of a range without keys: what holds for a missing one.
  EXPECT_TRUE(succeeds(is(T::version, O::equal, 0), "x", "z"));
  EXPECT_FALSE(succeeds(is(T::value, O::not_equal, 0, "x"), "x", "z"));
}

TEST_P(DatastoreConformance, FiltersLeaveKeysOutOfTheAnswerButNotOfTheCount) {
  const auto a = put("a", "1");
  const auto b = put("b", "1");
  const auto c = put("c", "1");
  const auto again = put("a", "2");
  auto r = all();
  r.min_mod_revision = b;
  r.max_mod_revision = c;
  auto got = range(r);
  EXPECT_EQ(names(got), (Names{"b", "c"}));
  EXPECT_EQ(got.count, 3);
  EXPECT_FALSE(got.more);
  r.limit = 1;
  got = range(r);
  EXPECT_EQ(names(got), Names{"b"});
  EXPECT_TRUE(got.more);
  r = all();
  r.max_create_revision = a;
  EXPECT_EQ(names(range(r)), Names{"a"});
  r.revision = c;  // in the past, too
  EXPECT_EQ(range(r).kvs.at(0).value, "1");
  r = all();
  r.min_create_revision = b;
  r.sort_order = SortOrder::descend;
  EXPECT_EQ(names(range(r)), (Names{"c", "b"}));
  r = all();
  r.min_mod_revision = again + 1;
  got = range(r);
  EXPECT_TRUE(got.kvs.empty());
  EXPECT_EQ(got.count, 3);
}

TEST_P(DatastoreConformance, APutCanKeepTheValueOrTheLease) {
  const auto lease = must(run(ds_->lease_grant(600), "grant")).id;
  const auto keep = [&](std::string value, LeaseId id, bool keep_value, bool keep_lease) {
    PutRequest r{.key = k("a"), .value = std::move(value), .lease = id};
    r.ignore_value = keep_value;
    r.ignore_lease = keep_lease;
    return run(ds_->put(std::move(r)), "put");
  };
  EXPECT_EQ(code(keep("", 0, true, false)), Errc::invalid) << "no such key";
  EXPECT_EQ(code(keep("", 0, false, true)), Errc::invalid);
  put("a", "1", lease);
  EXPECT_EQ(code(keep("x", 0, true, false)), Errc::invalid) << "a value to ignore";
  EXPECT_EQ(code(keep("x", lease, false, true)), Errc::invalid);
  must(keep("2", 0, false, true));
  EXPECT_EQ(get("a")->value, "2");
  EXPECT_EQ(get("a")->lease, lease);
  must(keep("", 0, true, false));
  EXPECT_EQ(get("a")->value, "2");
  EXPECT_EQ(get("a")->lease, 0);
  EXPECT_EQ(get("a")->version, 3);
  must(keep("", lease, true, false));
  must(run(ds_->lease_revoke(lease), "revoke"));
  EXPECT_FALSE(get("a")) << "the lease was attached";
}

TEST_P(DatastoreConformance, ATransactionIsOneRevisionAndSeesItsOwnWrites) {
  const auto before = put("old", "1");
  TxnRequest txn;
  txn.compare = {key_absent(k("a")), mod_is(k("old"), before)};
  txn.success = {RangeRequest{.key = k("a"), .range_end = {}},
                 PutRequest{.key = k("a"), .value = "1"},
                 RangeRequest{.key = k("a"), .range_end = {}},
                 DeleteRequest{.key = k("old"), .range_end = {}, .prev_kv = true},
                 PutRequest{.key = k("b"), .value = "2", .prev_kv = true},
                 all()};
  txn.failure = {PutRequest{.key = k("wrong"), .value = "1"}};
  const auto r = must(run(ds_->txn(txn)));
  EXPECT_TRUE(r.succeeded);
  EXPECT_EQ(r.revision, before + 1);
  ASSERT_EQ(r.responses.size(), 6U);
  EXPECT_TRUE(std::get<RangeResult>(r.responses[0]).kvs.empty());
  EXPECT_EQ(std::get<PutResult>(r.responses[1]).revision, before + 1);
  ASSERT_EQ(std::get<RangeResult>(r.responses[2]).kvs.size(), 1U);
  EXPECT_EQ(std::get<RangeResult>(r.responses[2]).kvs[0].mod_revision, before + 1);
  EXPECT_EQ(std::get<DeleteResult>(r.responses[3]).deleted, 1);
  ASSERT_EQ(std::get<DeleteResult>(r.responses[3]).prev.size(), 1U);
  EXPECT_FALSE(std::get<PutResult>(r.responses[4]).prev);
  EXPECT_EQ(names(std::get<RangeResult>(r.responses[5])), (Names{"a", "b"}));
  EXPECT_EQ(names(range(all())), (Names{"a", "b"}));
  // The same again: the compares no longer hold.
  const auto again = must(run(ds_->txn(txn)));
  EXPECT_FALSE(again.succeeded);
  EXPECT_EQ(again.revision, before + 2);
  EXPECT_EQ(get("wrong")->mod_revision, before + 2);
}

TEST_P(DatastoreConformance, ATransactionWithoutWritesKeepsTheRevision) {
  const auto before = put("a", "1");
  TxnRequest txn;
  EXPECT_TRUE(must(run(ds_->txn(txn))).succeeded);
  txn.success = {all(), DeleteRequest{.key = k("none"), .range_end = {}}};
  const auto r = must(run(ds_->txn(txn)));
  EXPECT_EQ(r.revision, before);
  EXPECT_EQ(std::get<RangeResult>(r.responses[0]).count, 1);
  EXPECT_EQ(std::get<DeleteResult>(r.responses[1]).deleted, 0);
  EXPECT_EQ(now(), before);
}

TEST_P(DatastoreConformance, ARefusedTransactionChangesNothing) {
  const auto before = put("seen", "1");
  auto refused = [&](TxnRequest txn) { return code(run(ds_->txn(std::move(txn)), "txn")); };
  const PutRequest good{.key = k("a"), .value = "1"};
  TxnRequest twice;
  twice.success = {good, good};
  EXPECT_EQ(refused(twice), Errc::invalid);
  TxnRequest put_and_delete;
  put_and_delete.success = {good, DeleteRequest{.key = prefix_, .range_end = prefix_end(prefix_)}};
  EXPECT_EQ(refused(put_and_delete), Errc::invalid);
  TxnRequest in_failure;
  in_failure.success = {good};
  in_failure.failure = {good, good};
  EXPECT_EQ(refused(in_failure), Errc::invalid);
  TxnRequest no_lease;
  no_lease.success = {good, PutRequest{.key = k("b"), .value = "1", .lease = 424242}};
  EXPECT_EQ(refused(no_lease), Errc::not_found);
  TxnRequest future;
  future.success = {good, RangeRequest{.key = k("b"), .range_end = {}, .revision = before + 1000}};
  EXPECT_EQ(refused(future), Errc::invalid);
  TxnRequest no_key;
  no_key.success = {good, PutRequest{}};
  EXPECT_EQ(refused(no_key), Errc::invalid);
  TxnRequest many;
  for (int i = 0; i < 129; ++i) many.success.push_back(PutRequest{.key = k(std::to_string(i)), .value = "x"});
  EXPECT_EQ(refused(many), Errc::invalid);
  TxnRequest many_compares;
  for (int i = 0; i < 129; ++i) many_compares.compare.push_back(key_absent(k(std::to_string(i))));
  EXPECT_EQ(refused(many_compares), Errc::invalid);
  TxnRequest compare_nothing;
  compare_nothing.compare.push_back(key_absent(""));
  EXPECT_EQ(refused(compare_nothing), Errc::invalid);
  EXPECT_EQ(now(), before);
  EXPECT_EQ(names(range(all())), (Names{"seen"}));
  many.success.pop_back();
  EXPECT_TRUE(must(run(ds_->txn(many))).succeeded) << "128 are allowed";
}

TEST_P(DatastoreConformance, CompareAndSwapLosesNoUpdate) {
  put("n", "0");
  constexpr int kWriters = 8;
  constexpr int kEach = 10;
  auto writer = [](Datastore* ds, std::string key) -> awaitable<bool> {
    for (int done = 0; done < kEach;) {
      RangeRequest read{.key = key, .range_end = {}};
      auto got = co_await ds->range(read);
      if (!got || got->kvs.empty()) co_return false;
      const auto& kv = got->kvs[0];
      TxnRequest txn;
      txn.compare.push_back(mod_is(key, kv.mod_revision));
      txn.success.push_back(PutRequest{.key = key, .value = std::to_string(std::stoi(kv.value) + 1)});
      auto r = co_await ds->txn(std::move(txn));
      if (!r) co_return false;
      if (r->succeeded) ++done;
    }
    co_return true;
  };
  std::vector<std::future<bool>> running;
  for (int i = 0; i < kWriters; ++i) running.push_back(runner_->start(writer(ds_, k("n"))));
  for (auto& f : running) EXPECT_TRUE(runner_->wait(std::move(f), "a writer"));
  EXPECT_EQ(get("n")->value, std::to_string(kWriters * kEach));
  EXPECT_EQ(get("n")->version, kWriters * kEach + 1);
}

// ---- leases

TEST_P(DatastoreConformance, ALeaseHasAnIdATimeAndKeys) {
  const auto granted = must(run(ds_->lease_grant(60)));
  EXPECT_GT(granted.id, 0);
  EXPECT_EQ(granted.ttl_s, 60);
  put("a", "1", granted.id);
  put("b", "1", granted.id);
  EXPECT_EQ(get("a")->lease, granted.id);
  auto left = must(run(ds_->lease_time_to_live(granted.id, true)));
  EXPECT_EQ(left.granted_ttl_s, 60);
  EXPECT_GT(left.ttl_s, 30);
  EXPECT_LE(left.ttl_s, 60);
  std::sort(left.keys.begin(), left.keys.end());
  EXPECT_EQ(left.keys, (Names{k("a"), k("b")}));
  EXPECT_TRUE(must(run(ds_->lease_time_to_live(granted.id, false))).keys.empty());
  // A put without the lease, or a delete, takes the key out of it.
  put("a", "2");
  EXPECT_EQ(get("a")->lease, 0);
  del("b");
  EXPECT_TRUE(must(run(ds_->lease_time_to_live(granted.id, true))).keys.empty());
  const auto alive = must(run(ds_->lease_keepalive(granted.id)));
  EXPECT_EQ(alive.id, granted.id);
  EXPECT_EQ(alive.ttl_s, 60);
  must(run(ds_->lease_revoke(granted.id)));
  EXPECT_TRUE(get("a"));
}

TEST_P(DatastoreConformance, RevokingDeletesTheKeysInOneRevision) {
  const auto lease = must(run(ds_->lease_grant(60))).id;
  put("a", "1", lease);
  put("b", "1", lease);
  const auto before = put("c", "1");
  auto w = watch(before + 1);
  must(run(ds_->lease_revoke(lease)));
  EXPECT_EQ(names(range(all())), (Names{"c"}));
  EXPECT_EQ(now(), before + 1);
  const auto got = events(*w, 2);
  for (const auto& e : got) {
    EXPECT_EQ(e.type, Event::Type::del);
    EXPECT_EQ(e.kv.mod_revision, before + 1);
  }
  EXPECT_EQ(code(run(ds_->lease_revoke(lease))), Errc::not_found);
}

TEST_P(DatastoreConformance, ALeaseWithoutKeysEndsWithoutARevision) {
  const auto before = put("a", "1");
  const auto lease = must(run(ds_->lease_grant(60))).id;
  must(run(ds_->lease_revoke(lease)));
  EXPECT_EQ(now(), before);
}

TEST_P(DatastoreConformance, LeasesByNumber) {
  const LeaseId id = 1000000 + static_cast<LeaseId>(std::hash<std::string>{}(prefix_) % 1000000);
  EXPECT_EQ(must(run(ds_->lease_grant(30, id))).id, id);
  EXPECT_EQ(code(run(ds_->lease_grant(30, id))), Errc::exists);
  must(run(ds_->lease_revoke(id)));
  EXPECT_EQ(code(run(ds_->lease_keepalive(id))), Errc::not_found);
  EXPECT_EQ(must(run(ds_->lease_time_to_live(id, true))).ttl_s, -1);
  PutRequest request{.key = k("a"), .value = "1", .lease = id};
  EXPECT_EQ(code(run(ds_->put(request))), Errc::not_found);
  EXPECT_FALSE(get("a"));
  EXPECT_EQ(code(run(ds_->lease_grant(9000000001))), Errc::invalid);
}

TEST_P(DatastoreConformance, AnExpiredLeaseDeletesItsKeys) {
  const auto granted = must(run(ds_->lease_grant(1)));
  EXPECT_EQ(granted.ttl_s, 2) << "the shortest there is";
  const auto other = must(run(ds_->lease_grant(60))).id;
  const auto before = put("goes", "1", granted.id);
  put("moved", "1", granted.id);
  put("moved", "1", other);
  auto w = watch(now() + 1, true);
  const auto got = events(*w, 1);
  ASSERT_EQ(got.size(), 1U);
  EXPECT_EQ(got[0].type, Event::Type::del);
  EXPECT_EQ(got[0].kv.key, k("goes"));
  ASSERT_TRUE(got[0].prev);
  EXPECT_EQ(got[0].prev->mod_revision, before);
  EXPECT_EQ(names(range(all())), (Names{"moved"}));
  EXPECT_EQ(must(run(ds_->lease_time_to_live(granted.id, false))).ttl_s, -1);
  must(run(ds_->lease_revoke(other)));
}

// ---- watches

TEST_P(DatastoreConformance, AWatchTellsWhatChangesFromNowOn) {
  put("before", "1");
  auto w = watch(0);
  const auto r1 = put("a", "1");
  const auto r2 = put("a", "2");
  const auto r3 = del("a");
  PutRequest elsewhere{.key = "/elsewhere", .value = "x"};
  must(run(ds_->put(elsewhere)));
  const auto r5 = put("b", "1");
  const auto got = events(*w, 4);
  EXPECT_EQ(got[0].type, Event::Type::put);
  EXPECT_EQ(got[0].kv, (KeyValue{k("a"), "1", r1, r1, 1, 0}));
  EXPECT_EQ(got[1].kv, (KeyValue{k("a"), "2", r1, r2, 2, 0}));
  EXPECT_FALSE(got[1].prev);
  EXPECT_EQ(got[2].type, Event::Type::del);
  EXPECT_EQ(got[2].kv, (KeyValue{k("a"), "", 0, r3, 0, 0}));
  EXPECT_EQ(got[3].kv.mod_revision, r5);
}

TEST_P(DatastoreConformance, AWatchFromThePastTellsTheHistoryThenThePresent) {
  put("a", "0");
  const auto r1 = put("a", "1");
  const auto r2 = del("a");
  const auto r3 = put("b", "1");
  auto w = watch(r1, true);
  auto got = events(*w, 3);
  EXPECT_EQ(got[0].kv.mod_revision, r1);
  ASSERT_TRUE(got[0].prev);
  EXPECT_EQ(got[0].prev->value, "0");
  EXPECT_EQ(got[1].kv, (KeyValue{k("a"), "", 0, r2, 0, 0}));
  ASSERT_TRUE(got[1].prev);
  EXPECT_EQ(got[1].prev->value, "1");
  EXPECT_EQ(got[2].kv.mod_revision, r3);
  EXPECT_FALSE(got[2].prev);
  const auto r4 = put("b", "2");
  got = events(*w, 1);
  EXPECT_EQ(got[0].kv.mod_revision, r4);
  ASSERT_TRUE(got[0].prev);
  EXPECT_EQ(got[0].prev->value, "1");
}

TEST_P(DatastoreConformance, AWatchOfOneKeySeesOnlyThatKey) {
  WatchRequest request{.key = k("a"), .range_end = {}, .start_revision = now() + 1};
  auto w = must(run(ds_->watch(request)));
  put("ab", "no");
  put("A", "no");
  put("a", "yes");
  const auto got = events(*w, 1);
  ASSERT_EQ(got.size(), 1U);
  EXPECT_EQ(got[0].kv.value, "yes");
}

TEST_P(DatastoreConformance, AWatchFromTheFutureWaitsForIt) {
  const auto r = now();
  auto w = watch(r + 3);
  put("a", "1");
  put("a", "2");
  put("a", "3");
  const auto got = events(*w, 1);
  EXPECT_EQ(got[0].kv.value, "3");
  EXPECT_EQ(got[0].kv.mod_revision, r + 3);
}

TEST_P(DatastoreConformance, ATransactionsEventsComeTogetherInOrder) {
  put("gone", "1");
  auto w = watch(0);
  TxnRequest txn;
  txn.success = {PutRequest{.key = k("z"), .value = "1"}, DeleteRequest{.key = k("gone"), .range_end = {}},
                 PutRequest{.key = k("a"), .value = "1"}};
  const auto r = must(run(ds_->txn(txn)));
  const auto batch = must(run(w->next(), "the batch"));
  ASSERT_EQ(batch.events.size(), 3U);
  EXPECT_EQ(batch.revision, r.revision);
  EXPECT_EQ(batch.events[0].kv.key, k("z"));
  EXPECT_EQ(batch.events[1].kv.key, k("gone"));
  EXPECT_EQ(batch.events[2].kv.key, k("a"));
  for (const auto& e : batch.events) EXPECT_EQ(e.kv.mod_revision, r.revision);
}

TEST_P(DatastoreConformance, ManyWatchersSeeTheSameOrder) {
  std::vector<std::unique_ptr<Watch>> watchers;
  const auto start = now() + 1;
  for (int i = 0; i < 10; ++i) watchers.push_back(watch(start));
  std::vector<Revision> written;
  for (int i = 0; i < 50; ++i) written.push_back(put("k" + std::to_string(i % 7), std::to_string(i)));
  for (auto& w : watchers) {
    std::vector<Revision> seen;
    for (const auto& e : events(*w, written.size())) seen.push_back(e.kv.mod_revision);
    EXPECT_EQ(seen, written);
  }
}

TEST_P(DatastoreConformance, ADroppedWatchLeavesTheOthers) {
  auto kept = watch(0);
  auto dropped = watch(0);
  put("a", "1");
  dropped.reset();
  put("a", "2");
  EXPECT_EQ(events(*kept, 2)[1].kv.value, "2");
}

TEST_P(DatastoreConformance, AnEmptyWatchRangeIsRefused) {
  WatchRequest request{.key = k("b"), .range_end = k("a")};
  auto w = run(ds_->watch(request));
  EXPECT_EQ(code(w), Errc::invalid);
}

// ---- compaction

TEST_P(DatastoreConformance, CompactionForgetsThePastAndKeepsThePresent) {
  const auto r1 = put("a", "1");
  put("a", "2");
  put("gone", "1");
  del("gone");
  const auto r4 = put("kept", "1");
  const auto r5 = put("kept", "2");
  const auto r6 = put("a", "3");
  EXPECT_EQ(must(run(ds_->compact(r5))), r6);
  auto request = all();
  request.revision = r4;
  EXPECT_EQ(code(run(ds_->range(request))), Errc::compacted);
  request.revision = r5;
  auto at = range(request);
  EXPECT_EQ(names(at), (Names{"a", "kept"}));
  EXPECT_EQ(at.kvs[0].value, "2");
  EXPECT_EQ(get("a")->value, "3");
  EXPECT_EQ(get("a")->version, 3);

  auto past = watch(r1);
  const auto refused = run(past->next(), "the end of a watch");
  EXPECT_EQ(code(refused), Errc::compacted);
  EXPECT_EQ(past->compacted_at(), r5);
  // At the compacted revision itself: all of it, or the refusal. Never a history with a hole.
  auto edge = watch(r5);
  const auto first = run(edge->next(), "the compacted revision");
  if (first) {
    auto got = first->events;
    if (got.size() < 2) got.push_back(events(*edge, 1).at(0));
    EXPECT_EQ(got[0].kv.mod_revision, r5);
    EXPECT_EQ(got[1].kv.mod_revision, r6);
  } else {
    EXPECT_EQ(code(first), Errc::compacted);
    EXPECT_EQ(edge->compacted_at(), r5);
  }

  EXPECT_EQ(code(run(ds_->compact(r5))), Errc::compacted);
  EXPECT_EQ(code(run(ds_->compact(r1))), Errc::compacted);
  EXPECT_EQ(code(run(ds_->compact(0))), Errc::compacted);
  EXPECT_EQ(code(run(ds_->compact(r6 + 1000))), Errc::invalid);
  TxnRequest txn;
  txn.success = {PutRequest{.key = k("b"), .value = "1"}, RangeRequest{.key = k("a"), .range_end = {}, .revision = r4}};
  EXPECT_EQ(code(run(ds_->txn(txn))), Errc::compacted);
  EXPECT_EQ(now(), r6);
  // Nothing that lives goes with any compaction.
  must(run(ds_->compact(r6)));
  EXPECT_EQ(names(range(all())), (Names{"a", "kept"}));
}

TEST_P(DatastoreConformance, ALiveWatchSurvivesCompaction) {
  auto w = watch(0);
  put("a", "1");
  EXPECT_EQ(events(*w, 1)[0].kv.value, "1");
  const auto r = put("b", "1");
  EXPECT_EQ(events(*w, 1)[0].kv.mod_revision, r);
  must(run(ds_->compact(r)));
  put("a", "2");
  EXPECT_EQ(events(*w, 1)[0].kv.value, "2");
}

}  // namespace calico::store
