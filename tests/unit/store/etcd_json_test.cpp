// The gateway's texts, byte for byte as etcd 3.4 writes them (recorded from 3.4.23; ids and the raft term aside).
#include "core/store/etcd/json.hpp"

#include <gtest/gtest.h>

namespace calico::store::etcd {
namespace {

constexpr Identity kId{7, 18446744073709551615U};
#define HEADER(revision) \
  R"("header":{"cluster_id":"7","member_id":"18446744073709551615","revision":")" revision R"(","raft_term":"1"})"

TEST(GatewayJson, ARangeRequestIsReadInEveryFormProtoJsonAllows) {
  const auto full =
      parse_range(R"({"key":"L2E=","range_end":"L2I=","limit":"5","revision":7,"sort_order":"DESCEND","sort_target":3,)"
                  R"("keys_only":true,"count_only":false,"serializable":true,"unknown":{"x":1}})");
  ASSERT_TRUE(full) << full.error().message;
  EXPECT_EQ(full->key, "/a");
  EXPECT_EQ(full->range_end, "/b");
  EXPECT_EQ(full->limit, 5);
  EXPECT_EQ(full->revision, 7);
  EXPECT_EQ(full->sort_order, SortOrder::descend);
  EXPECT_EQ(full->sort_target, SortTarget::mod);
  EXPECT_TRUE(full->keys_only);
  const auto camel = parse_range(R"({"key":"L2E=","rangeEnd":"L2I=","sortOrder":"ASCEND","revision":null})");
  ASSERT_TRUE(camel);
  EXPECT_EQ(camel->range_end, "/b");
  EXPECT_EQ(camel->sort_order, SortOrder::ascend);
  EXPECT_TRUE(parse_range("")->key.empty());
  EXPECT_TRUE(parse_range(" \n")->key.empty());
  EXPECT_TRUE(parse_range("{}")->key.empty());
}

TEST(GatewayJson, WhatIsWrongIsRefusedWithInvalidArgument) {
  for (const char* body : {"{",
                           "[]",
                           "5",
                           "nonsense",
                           R"({"key":"YQ"})",
                           R"({"key":"!!!!"})",
                           R"({"key":"_-8="})",
                           R"({"key":5})",
                           R"({"key":"YQ==","limit":"x"})",
                           R"({"key":"YQ==","limit":1.5})",
                           R"({"key":"YQ==","limit":"1.5"})",
                           R"({"key":"YQ==","limit":""})",
                           R"({"key":"YQ==","limit":"99999999999999999999"})",
                           R"({"key":"YQ==","limit":99999999999999999999})",
                           R"({"key":"YQ==","keys_only":"true"})",
                           R"({"key":"YQ==","sort_order":"WRONG"})",
                           R"({"key":"YQ==","sort_target":9})",
                           R"({"key":"YQ==","sort_target":-1})",
                           R"({"key":"YQ==","sort_target":true})",
                           "{\"key\":\"YQ==\"} {}",
                           "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["}) {
    const auto r = parse_range(body);
    ASSERT_FALSE(r) << body;
    EXPECT_EQ(r.error().http, 400U) << body;
    EXPECT_EQ(r.error().code, 3) << body;
    EXPECT_FALSE(r.error().message.empty());
  }
  for (const char* body :
       {R"({"compare":{}})", R"({"compare":[5]})", R"({"success":[{}]})", R"({"success":[5]})",
        R"({"failure":[{"request_put":5}]})", R"({"compare":[{"target":"NO"}]})",
        R"({"compare":[{"target":"MOD","mod_revision":"x"}]})", R"({"success":[{"request_put":{"key":"!"}}]})"})
    EXPECT_EQ(parse_txn(body).error().code, 3) << body;
  for (const char* body : {"{}", R"({"create_request":5})", R"({"cancel_request":{"watch_id":0}})",
                           R"({"create_request":{"key":"!"}})", R"({"create_request":{"filters":["X"]}})"})
    EXPECT_EQ(parse_watch(body).error().code, 3) << body;
}

TEST(GatewayJson, FiltersKeptPartsAndRangesOfComparesAreRead) {
  const auto r = parse_range(
      R"({"key":"YQ==","min_mod_revision":"5","maxModRevision":6,"min_create_revision":7,"maxCreateRevision":"8"})");
  ASSERT_TRUE(r);
  EXPECT_EQ(r->min_mod_revision, 5);
  EXPECT_EQ(r->max_mod_revision, 6);
  EXPECT_EQ(r->min_create_revision, 7);
  EXPECT_EQ(r->max_create_revision, 8);
  const auto p = parse_put(R"({"key":"YQ==","ignore_value":true,"ignoreLease":true})");
  ASSERT_TRUE(p);
  EXPECT_TRUE(p->ignore_value && p->ignore_lease);
  EXPECT_FALSE(parse_put(R"({"key":"YQ==","ignore_value":false})")->ignore_value);
  EXPECT_EQ(parse_txn(R"({"compare":[{"key":"YQ==","range_end":"Yg=="}]})")->compare.at(0).range_end, "b");
  EXPECT_EQ(parse_admin(R"({"name":"x","ID":"5","action":"DEACTIVATE"})")->action, AdminCall::Action::deactivate);
}

TEST(GatewayJson, WhatEtcdHasAndThisHasNotSaysSo) {
  const auto nested = parse_txn(R"({"success":[{"request_txn":{}}]})");
  ASSERT_FALSE(nested);
  EXPECT_EQ(nested.error().http, 501U);
  EXPECT_EQ(nested.error().code, 12);
}

TEST(GatewayJson, ATransactionIsRead) {
  const auto txn = parse_txn(
      R"({"compare":[{"key":"YQ==","target":"MOD","result":"NOT_EQUAL","mod_revision":"5"},)"
      R"({"key":"YQ==","target":"VALUE","value":"dg=="},{"key":"YQ==","target":1,"result":1,"createRevision":4}],)"
      R"("success":[{"request_put":{"key":"YQ==","value":"dg==","lease":"9","prev_kv":true}},)"
      R"({"requestRange":{"key":"YQ=="}}],"failure":[{"request_delete_range":{"key":"YQ==","range_end":"AA=="}}]})");
  ASSERT_TRUE(txn) << txn.error().message;
  ASSERT_EQ(txn->compare.size(), 3U);
  EXPECT_EQ(txn->compare[0].target, Compare::Target::mod);
  EXPECT_EQ(txn->compare[0].op, Compare::Op::not_equal);
  EXPECT_EQ(txn->compare[0].number, 5);
  EXPECT_EQ(txn->compare[1].value, "v");
  EXPECT_EQ(txn->compare[2].target, Compare::Target::create);
  EXPECT_EQ(txn->compare[2].op, Compare::Op::greater);
  EXPECT_EQ(txn->compare[2].number, 4);
  const auto& put = std::get<PutRequest>(txn->success.at(0));
  EXPECT_EQ(put.lease, 9);
  EXPECT_TRUE(put.prev_kv);
  EXPECT_EQ(std::get<RangeRequest>(txn->success.at(1)).key, "a");
  EXPECT_EQ(std::get<DeleteRequest>(txn->failure.at(0)).range_end, std::string(1, '\0'));
}

TEST(GatewayJson, AnswersLeaveDefaultsOut) {
  RangeResult r{.revision = 4, .kvs = {{"/a", "2", 2, 3, 2, 0}, {"/e", "", 4, 4, 1, -77}}, .more = true, .count = 5};
  EXPECT_EQ(to_json(kId, r),
            "{" HEADER("4") R"(,"kvs":[{"key":"L2E=","create_revision":"2","mod_revision":"3","version":"2",)"
                            R"("value":"Mg=="},{"key":"L2U=","create_revision":"4","mod_revision":"4","version":"1",)"
                            R"("lease":"-77"}],"more":true,"count":"5"})");
  EXPECT_EQ(to_json(kId, RangeResult{.revision = 1}), "{" HEADER("1") "}");
  EXPECT_EQ(to_json(kId, PutResult{.revision = 3}), "{" HEADER("3") "}");
  EXPECT_EQ(to_json(kId, PutResult{.revision = 3, .prev = KeyValue{"/a", "1", 2, 2, 1, 0}}),
            "{" HEADER("3") R"(,"prev_kv":{"key":"L2E=","create_revision":"2","mod_revision":"2","version":"1",)"
                            R"("value":"MQ=="}})");
  EXPECT_EQ(to_json(kId, DeleteResult{.revision = 8, .deleted = 1}), "{" HEADER("8") R"(,"deleted":"1"})");
  EXPECT_EQ(to_json(kId, DeleteResult{.revision = 8}), "{" HEADER("8") "}");
}

TEST(GatewayJson, ATransactionsAnswer) {
  TxnResult r;
  r.revision = 12;
  r.succeeded = true;
  r.responses = {RangeResult{.revision = 11}, PutResult{.revision = 12},
                 RangeResult{.revision = 12, .kvs = {{"/t", "x", 12, 12, 1, 0}}, .count = 1},
                 DeleteResult{.revision = 12}};
  EXPECT_EQ(to_json(kId, r),
            "{" HEADER("12") R"(,"succeeded":true,"responses":[{"response_range":{"header":{"revision":"11"}}},)"
                             R"({"response_put":{"header":{"revision":"12"}}},)"
                             R"({"response_range":{"header":{"revision":"12"},"kvs":[{"key":"L3Q=",)"
                             R"("create_revision":"12","mod_revision":"12","version":"1","value":"eA=="}],)"
                             R"("count":"1"}},{"response_delete_range":{"header":{"revision":"12"}}}]})");
  EXPECT_EQ(to_json(kId, TxnResult{.revision = 12}), "{" HEADER("12") "}");
}

TEST(GatewayJson, LeaseAnswers) {
  EXPECT_EQ(grant_json(kId, 14, {.id = 77, .ttl_s = 60}), "{" HEADER("14") R"(,"ID":"77","TTL":"60"})");
  EXPECT_EQ(keepalive_json(kId, 14, {.id = 77, .ttl_s = 60}), R"({"result":{)" HEADER("14") R"(,"ID":"77","TTL":"60"}})"
                                                                                            "\n");
  EXPECT_EQ(keepalive_json(kId, 14, {.id = 78}), R"({"result":{)" HEADER("14") R"(,"ID":"78"}})"
                                                                               "\n");
  EXPECT_EQ(time_to_live_json(kId, 16, {.id = 77, .ttl_s = 59, .granted_ttl_s = 60, .keys = {"/l", "/l2"}}),
            "{" HEADER("16") R"(,"ID":"77","TTL":"59","grantedTTL":"60","keys":["L2w=","L2wy"]})");
  EXPECT_EQ(time_to_live_json(kId, 16, {.id = 78, .ttl_s = -1}), "{" HEADER("16") R"(,"ID":"78","TTL":"-1"})");
  EXPECT_EQ(leases_json(kId, 16, {5, -77}), "{" HEADER("16") R"(,"leases":[{"ID":"5"},{"ID":"-77"}]})");
  EXPECT_EQ(leases_json(kId, 16, {}), "{" HEADER("16") "}");
}

ChangePtr change(std::string key, Revision mod, std::string value, KvPtr prev = nullptr, bool del = false) {
  auto c = std::make_shared<Change>();
  c->type = del ? Event::Type::del : Event::Type::put;
  c->kv = std::make_shared<const KeyValue>(del ? KeyValue{.key = std::move(key), .value = {}, .mod_revision = mod}
                                               : KeyValue{std::move(key), std::move(value), mod, mod, 1, 0});
  c->prev = std::move(prev);
  return c;
}

TEST(GatewayJson, WatchLines) {
  EXPECT_EQ(created_line(kId, 21, 0), R"({"result":{)" HEADER("21") R"(,"created":true}})"
                                                                    "\n");
  EXPECT_EQ(created_line(kId, 21, 7), R"({"result":{)" HEADER("21") R"(,"watch_id":"7","created":true}})"
                                                                    "\n");
  EXPECT_EQ(compacted_line(kId, 0, 28),
            R"({"result":{"header":{"cluster_id":"7","member_id":"18446744073709551615","raft_term":"1"},)"
            R"("canceled":true,"compact_revision":"28"}})"
            "\n");
  EXPECT_EQ(progress_line(kId, 30, 0), R"({"result":{)" HEADER("30") "}}\n");
  EXPECT_EQ(refused_line(kId, 21, "mvcc: watcher range is empty"),
            R"({"result":{)" HEADER("21") R"(,"watch_id":"-1","created":true,"canceled":true,)"
                                          R"("cancel_reason":"mvcc: watcher range is empty"}})"
                                          "\n");
  const auto old = std::make_shared<const KeyValue>(KeyValue{"/w/1", "v", 19, 19, 1, 0});
  SharedBatch batch{.revision = 21, .changes = {change("/w/0", 18, "v"), change("/w/1", 21, "", old, true)}};
  EXPECT_EQ(event_lines(kId, {}, batch), (std::vector<std::string>{R"({"result":{)" HEADER(
                                             "21") R"(,"events":[{"kv":{"key":"L3cvMA==","create_revision":"18",)"
                                                   R"("mod_revision":"18","version":"1","value":"dg=="}},)"
                                                   R"({"type":"DELETE","kv":{"key":"L3cvMQ==","mod_revision":"21"}}]}})"
                                                   "\n"}));
  WatchCall prev;
  prev.request.prev_kv = true;
  EXPECT_NE(
      event_lines(kId, prev, batch)
          .at(0)
          .find(
              R"("prev_kv":{"key":"L3cvMQ==","create_revision":"19","mod_revision":"19","version":"1","value":"dg=="}})"),
      std::string::npos);
  WatchCall filtered;
  filtered.no_put = true;
  EXPECT_EQ(event_lines(kId, filtered, batch).at(0).find("L3cvMA=="), std::string::npos);
  filtered.no_delete = true;
  EXPECT_TRUE(event_lines(kId, filtered, batch).empty());
}

TEST(GatewayJson, LongBatchesAreCutBetweenRevisionsOnly) {
  SharedBatch batch{.revision = 9, .changes = {}};
  const std::string big(600000, 'x');
  batch.changes = {change("/a", 5, big), change("/b", 5, big), change("/c", 5, big), change("/d", 7, "v")};
  const auto lines = event_lines(kId, {}, batch);
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_NE(lines[0].find(R"("revision":"5")"), std::string::npos);
  EXPECT_NE(lines[0].find("L2M="), std::string::npos) << "all of revision 5 in one line";
  EXPECT_NE(lines[1].find(R"("revision":"9")"), std::string::npos);
}

TEST(GatewayJson, AnEventIsEncodedOnce) {
  const auto c = change("/a", 5, "v");
  SharedBatch batch{.revision = 5, .changes = {c}};
  const auto first = event_lines(kId, {}, batch);
  const auto* at = c->encoded[0].data();
  EXPECT_EQ(event_lines(kId, {}, batch), first);
  EXPECT_EQ(c->encoded[0].data(), at);
  EXPECT_TRUE(c->encoded[1].empty());
}

TEST(GatewayJson, FaultsHaveEtcdsNumbersAndNoSecretsOfTheHost) {
  const auto f = fault_of({Errc::compacted, "revision 5 has been compacted, the oldest is 7"});
  EXPECT_EQ(f.http, 400U);
  EXPECT_EQ(to_json(f), R"({"error":"etcdserver: mvcc: required revision has been compacted",)"
                        R"("message":"etcdserver: mvcc: required revision has been compacted","code":11})");
  const auto internal = fault_of({Errc::corrupt, "/var/lib/calico-node/state.db: malformed"});
  EXPECT_EQ(internal.http, 500U);
  EXPECT_EQ(internal.message.find("/var"), std::string::npos);
}

}  // namespace
}  // namespace calico::store::etcd
