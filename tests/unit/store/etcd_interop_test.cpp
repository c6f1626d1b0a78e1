// The client against a real etcd (Debian's etcd-server), with mutual TLS: what every datastore must do, and what only a
// server of its own can show: wiped, restarted, authentication, failover.
#include <algorithm>

#include "core/store/etcd/client.hpp"
#include "tests/support/certificates.hpp"
#include "tests/support/command.hpp"
#include "tests/support/etcd.hpp"
#include "tests/support/wait.hpp"
#include "tests/unit/store/datastore_conformance.hpp"

namespace calico::store {
namespace {

using namespace std::chrono_literals;

struct RealEtcd final : DatastoreBackend {
  explicit RealEtcd(Loop& loop)
      : server_files(pki.issue("etcd")), etcd({server_files.ca_file, server_files.cert_file, server_files.key_file}) {
    if (!etcd.running()) throw std::runtime_error("etcd did not start: " + etcd.log());
    auto made = EtcdClient::create(
        loop.executor(), {.endpoints = {*http::Endpoint::parse(etcd.endpoint())}, .tls = pki.issue("client")});
    if (!made) throw std::runtime_error(made.error().what);
    client = *made;
  }
  Datastore& datastore() override { return *client; }
  test::Certificates pki;
  http::TlsFiles server_files;
  test::Etcd etcd;
  std::shared_ptr<EtcdClient> client;
};

std::unique_ptr<DatastoreBackend> make_real(Loop& loop) { return std::make_unique<RealEtcd>(loop); }

std::vector<DatastoreParam> installed() {
  if (!test::Etcd::installed()) return {};
  return {DatastoreParam{"etcd", make_real}};
}
INSTANTIATE_TEST_SUITE_P(Real, DatastoreConformance, testing::ValuesIn(installed()), name_of);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(DatastoreConformance);

class EtcdInterop : public testing::Test {
 protected:
  void SetUp() override {
    if (!test::Etcd::installed()) GTEST_SKIP() << "SKIPPED: etcd is not installed (package etcd-server)";
  }
  std::shared_ptr<EtcdClient> client(EtcdOptions options) {
    auto made = EtcdClient::create(runner.loop().executor(), std::move(options));
    if (!made) throw std::runtime_error(made.error().what);
    return *made;
  }
  static http::Endpoint at(const test::Etcd& e) { return *http::Endpoint::parse(e.endpoint()); }
  template <class T>
  T must(Result<T> r) {
    if (!r) throw std::runtime_error(std::string(to_string(r.error().code)) + ": " + r.error().what);
    return std::move(*r);
  }
  Revision put(EtcdClient& c, std::string key, std::string value) {
    PutRequest request{.key = std::move(key), .value = std::move(value)};
    return must(runner.run(c.put(request), "put")).revision;
  }
  RangeResult list(EtcdClient& c, std::string prefix) {
    RangeRequest request{.key = prefix, .range_end = prefix_end(prefix)};
    return must(runner.run(c.range(request), "range"));
  }
  test::LoopRunner runner;
};

}  // namespace

TEST_F(EtcdInterop, ALongRangeComesInPagesAtOneRevision) {
  test::Etcd etcd;
  ASSERT_TRUE(etcd.running()) << etcd.log();
  auto c = client({.endpoints = {at(etcd)}, .page = 7});
  for (int i = 0; i < 300; i += 100) {
    TxnRequest txn;
    for (int j = i; j < i + 100; ++j)
      txn.success.push_back(PutRequest{.key = fmt::format("/p/{:03}", j), .value = std::to_string(j)});
    must(runner.run(c->txn(txn), "txn"));
  }
  const auto last = put(*c, "/q", "beyond");
  const auto all = list(*c, "/p/");
  ASSERT_EQ(all.kvs.size(), 300U);
  EXPECT_EQ(all.count, 300);
  EXPECT_EQ(all.revision, last);
  EXPECT_FALSE(all.more);
  for (int i = 0; i < 300; ++i) EXPECT_EQ(all.kvs[i].value, std::to_string(i));
}

TEST_F(EtcdInterop, ALongHistoryIsToldInBatchesThatOneMayResumeAt) {
  test::Etcd etcd;
  ASSERT_TRUE(etcd.running()) << etcd.log();
  auto c = client({.endpoints = {at(etcd)}});
  const auto first = put(*c, "/h", "0");
  Revision last = first;
  for (int i = 1; i < 1200; ++i) last = put(*c, "/h", std::to_string(i));
  WatchRequest request{.key = "/h", .range_end = {}, .start_revision = first};
  Revision told = first - 1;
  for (int batches = 0; told < last; ++batches) {
    ASSERT_LT(batches, 1200);
    auto w = must(runner.run(c->watch(request), "watch"));  // reopened after every batch
    const auto batch = must(runner.run(w->next(), "next"));
    for (const auto& e : batch.events) EXPECT_EQ(e.kv.mod_revision, ++told);
    EXPECT_EQ(batch.revision, told);
    request.start_revision = batch.revision + 1;
  }
}

TEST_F(EtcdInterop, NoCertificateNoDatastore) {
  test::Certificates pki;
  test::Certificates foreign;
  const auto files = pki.issue("etcd");
  test::Etcd etcd({files.ca_file, files.cert_file, files.key_file});
  ASSERT_TRUE(etcd.running()) << etcd.log();
  http::TlsFiles nobody;
  nobody.ca_file = pki.ca_file();
  auto stranger = foreign.issue("stranger");
  stranger.ca_file = pki.ca_file();
  for (const auto& tls : {nobody, stranger}) {
    auto refused = runner.run(client({.endpoints = {at(etcd)}, .tls = tls})->status(), "status");
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Errc::no_permission) << refused.error().what;
  }
  auto wrong_server = runner.run(client({.endpoints = {at(etcd)}, .tls = foreign.issue("client")})->status(), "status");
  ASSERT_FALSE(wrong_server);
  EXPECT_EQ(wrong_server.error().code, Errc::no_permission) << wrong_server.error().what;
  EXPECT_GT(must(runner.run(client({.endpoints = {at(etcd)}, .tls = pki.issue("client")})->status())).revision, 0);
}

TEST_F(EtcdInterop, AKilledServerEndsTheWatchAndANewOneGoesOn) {
  test::Etcd etcd;
  ASSERT_TRUE(etcd.running()) << etcd.log();
  auto c = client({.endpoints = {at(etcd)}, .request_timeout = 5s});
  const auto first = put(*c, "/k", "1");
  WatchRequest request{.key = "/k", .range_end = {}, .start_revision = first};
  auto w = must(runner.run(c->watch(request), "watch"));
  EXPECT_EQ(must(runner.run(w->next(), "next")).events.at(0).kv.value, "1");
  etcd.kill();
  auto ended = runner.run(w->next(), "the end of the watch");
  ASSERT_FALSE(ended);
  EXPECT_EQ(ended.error().code, Errc::unavailable) << ended.error().what;
  auto away = runner.run(c->status(), "status");
  ASSERT_FALSE(away);
  EXPECT_EQ(away.error().code, Errc::unavailable) << away.error().what;
  etcd.start();
  ASSERT_TRUE(etcd.running()) << etcd.log();
  const auto second = put(*c, "/k", "2");
  EXPECT_EQ(second, first + 1);
  request.start_revision = first + 1;
  w = must(runner.run(c->watch(request), "watch again"));
  EXPECT_EQ(must(runner.run(w->next(), "next")).events.at(0).kv.value, "2");
}

TEST_F(EtcdInterop, AWipedServerHasTheSameClusterIdAndAnOlderRevision) {
  test::Etcd etcd;
  ASSERT_TRUE(etcd.running()) << etcd.log();
  auto c = client({.endpoints = {at(etcd)}});
  for (int i = 0; i < 5; ++i) put(*c, "/k", std::to_string(i));
  const auto before = must(runner.run(c->status()));
  EXPECT_EQ(before.endpoint, etcd.endpoint());
  etcd.wipe();
  etcd.start();
  ASSERT_TRUE(etcd.running()) << etcd.log();
  const auto after = must(runner.run(c->status()));
  EXPECT_EQ(after.cluster_id, before.cluster_id);
  EXPECT_LT(after.revision, before.revision);
  EXPECT_TRUE(list(*c, "/k").kvs.empty());
}

TEST_F(EtcdInterop, TheNextEndpointServesWhenTheFirstIsGone) {
  test::Etcd dead;
  test::Etcd alive;
  ASSERT_TRUE(dead.running() && alive.running()) << dead.log() << alive.log();
  auto c = client({.endpoints = {at(dead), at(alive)}, .shuffle = false});
  EXPECT_EQ(must(runner.run(c->status())).endpoint, dead.endpoint());
  dead.kill();
  EXPECT_EQ(must(runner.run(c->status())).endpoint, alive.endpoint());
  put(*c, "/k", "1");
  EXPECT_EQ(list(*c, "/k").kvs.size(), 1U);
}

TEST_F(EtcdInterop, UserAndPassword) {
  if (::access("/usr/bin/etcdctl", X_OK) != 0) GTEST_SKIP() << "SKIPPED: etcdctl is not installed (etcd-client)";
  test::Etcd etcd;
  ASSERT_TRUE(etcd.running()) << etcd.log();
  test::TempDir dir("etcd-auth");
  ASSERT_TRUE(http::write_file(dir.file("password"), "s3cret\nsecond line\n", 0600));
  ASSERT_TRUE(http::write_file(dir.file("wrong"), "other\n", 0600));
  ASSERT_TRUE(http::write_file(dir.file("empty"), "\n", 0600));
  const auto user = [&](const std::string& name, const std::string& file) {
    return client({.endpoints = {at(etcd)}, .username = name, .password_file = dir.file(file)});
  };
  auto early = user("agent", "password");  // authentication is still off
  put(*early, "/calico/a", "1");

  const auto ctl = [&](const std::string& command) {
    const auto full = fmt::format("ETCDCTL_API=3 etcdctl --endpoints={} {}", etcd.endpoint(), command);
    const auto out = test::run(full);
    ASSERT_EQ(out.code, 0) << command << ": " << out.output;
  };
  ctl("user add root:rootpw");
  ctl("user grant-role root root");
  ctl("user add agent:s3cret");
  ctl("role add agent");
  ctl("role grant-permission agent --prefix=true readwrite /calico/");
  ctl("user grant-role agent agent");
  ctl("auth enable");

  put(*early, "/calico/a", "2");  // refused, logs in, goes on
  auto c = user("agent", "password");
  EXPECT_EQ(list(*c, "/calico/").kvs.size(), 1U);
  auto denied = runner.run(c->put(PutRequest{.key = "/other", .value = "x"}), "put");
  ASSERT_FALSE(denied);
  EXPECT_EQ(denied.error().code, Errc::no_permission) << denied.error().what;
  WatchRequest request{.key = "/calico/", .range_end = prefix_end("/calico/")};
  auto w = must(runner.run(c->watch(request), "watch"));
  put(*c, "/calico/b", "1");
  EXPECT_EQ(must(runner.run(w->next(), "next")).events.at(0).kv.key, "/calico/b");
  request = {.key = "/", .range_end = prefix_end("/")};
  auto no_watch = runner.run(c->watch(request), "watch");
  ASSERT_FALSE(no_watch);
  EXPECT_EQ(no_watch.error().code, Errc::no_permission) << no_watch.error().what;

  auto nobody = runner.run(client({.endpoints = {at(etcd)}})->put(PutRequest{.key = "/calico/x", .value = "x"}), "put");
  ASSERT_FALSE(nobody);
  EXPECT_EQ(nobody.error().code, Errc::no_permission) << nobody.error().what;
  auto wrong = runner.run(user("agent", "wrong")->put(PutRequest{.key = "/calico/x", .value = "x"}), "put");
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code, Errc::no_permission) << wrong.error().what;
  EXPECT_EQ(wrong.error().what.find("other"), std::string::npos);
  EXPECT_FALSE(EtcdClient::create(runner.loop().executor(),
                                  {.endpoints = {at(etcd)}, .username = "agent", .password_file = dir.file("empty")}));
  EXPECT_FALSE(EtcdClient::create(runner.loop().executor(), {.endpoints = {at(etcd)}, .username = "agent"}));

  // Tokens do not survive the server (they are kept in memory): the next calls log in again.
  etcd.kill();
  etcd.start();
  ASSERT_TRUE(etcd.running()) << etcd.log();
  put(*c, "/calico/c", "1");
  request = {.key = "/calico/", .range_end = prefix_end("/calico/")};
  etcd.kill();
  etcd.start();
  ASSERT_TRUE(etcd.running()) << etcd.log();
  w = must(runner.run(c->watch(request), "watch with an old token"));
  put(*c, "/calico/d", "1");
  EXPECT_EQ(must(runner.run(w->next(), "next")).events.at(0).kv.key, "/calico/d");
}

}  // namespace calico::store
