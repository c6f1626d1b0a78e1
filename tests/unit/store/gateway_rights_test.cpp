// Who may do what at the gateway, by certificate, and how much of it. Beside an etcd with authentication on and one
// role a node, which gets the same bytes with that node's token.
#include <gmock/gmock.h>

#include "tests/support/raw_client.hpp"
#include "tests/support/wait.hpp"
#include "tests/unit/store/gateway_fixture.hpp"

namespace calico::store::etcd {
namespace {

const std::string kOwn = "/calico/felix/v2/no-region/host/node-1/";
const std::string kNode = "/calico/resources/v3/projectcalico.org/nodes/node-1";

std::string put_of(const std::string& key, std::int64_t lease = 0) {
  return fmt::format(R"({{"key":{},"value":"MQ==","lease":{}}})", b(key), lease);
}
std::string range_of(const std::string& key, const std::string& end = {}) {
  return fmt::format(R"({{"key":{},"range_end":{}}})", b(key), b(end));
}
std::string create_of(const std::string& key, const std::string& end = {}) {
  return R"({"create_request":)" + range_of(key, end) + "}";
}

GatewayOptions options_of(ClientLimits limits = {}) {
  GatewayOptions o;
  o.admins = {"neutron"};
  o.limits = limits;
  return o;
}

class GatewayRights : public testing::Test {
 protected:
  GatewayRights()
      : ours_(std::make_unique<Embedded>(runner_.loop(), pki_.issue("server"), Kv::Options{}, options_of())) {}
  /// A client with a certificate for this name; "" = without one.
  Peer peer(const std::string& name) {
    if (name.empty()) return Peer(runner_, ours_->endpoint(), {.ca_file = pki_.ca_file()});
    return Peer(runner_, ours_->endpoint(), pki_.issue(name));
  }
  void restart(ClientLimits limits, http::ClientCertificate certificate = http::ClientCertificate::required) {
    ours_.reset();
    ours_ = std::make_unique<Embedded>(runner_.loop(), pki_.issue("server"), Kv::Options{}, options_of(limits),
                                       certificate);
  }
  static void denied(const http::Answer& a, const std::string& what) {
    EXPECT_EQ(a.status, 403U) << what << " " << a.body;
    EXPECT_EQ(a.body, R"({"error":"etcdserver: permission denied","message":"etcdserver: permission denied","code":7})")
        << what;
  }

  test::LoopRunner runner_;
  test::Certificates pki_;
  std::unique_ptr<Embedded> ours_;
};

// What the audit log is made of.
TEST_F(GatewayRights, AWriteCarriesTheNameOfItsCertificate) {
  std::mutex m;
  std::vector<std::string> who;
  Kv::Options options;
  options.on_written = [&](const std::vector<Revised>& revised) {
    std::lock_guard lock(m);
    for (const auto& r : revised) who.push_back(r.who);
  };
  ours_.reset();
  ours_ = std::make_unique<Embedded>(runner_.loop(), pki_.issue("server"), options, options_of());
  auto node = peer("node-1"), neutron = peer("neutron");
  EXPECT_EQ(node.post("kv/put", put_of(kNode)).status, 200U);
  EXPECT_EQ(neutron.post("kv/txn", R"({"success":[{"request_put":)" + put_of("/calico/x") + "}]}").status, 200U);
  EXPECT_EQ(neutron.post("kv/deleterange", range_of("/calico/x")).status, 200U);
  EXPECT_EQ(node.post("kv/put", put_of("/calico/x")).status, 403U);
  std::lock_guard lock(m);
  EXPECT_THAT(who, testing::ElementsAre("cn=node-1", "cn=neutron", "cn=neutron"));
}

// The same requests, once as a node (token or certificate) and once as nobody.
TEST_F(GatewayRights, AreAnsweredAsByEtcd) {
  if (!test::Etcd::installed())
    GTEST_SKIP() << "SKIPPED: etcd is not installed (package etcd-server): parity not tested";
  test::Etcd etcd;
  ASSERT_TRUE(etcd.running()) << etcd.log();
  Peer theirs(runner_, *http::Endpoint::parse(etcd.endpoint()));
  const auto set = [&](const std::string& path, const std::string& body) {
    const auto a = theirs.post("auth/" + path, body);
    ASSERT_EQ(a.status, 200U) << path << a.body;
  };
  set("user/add", R"({"name":"root","password":"r"})");
  set("role/add", R"({"name":"root"})");
  set("user/grant", R"({"user":"root","role":"root"})");
  set("user/add", R"({"name":"node-1","password":"n"})");
  set("role/add", R"({"name":"node"})");
  const auto grant = [&](const char* type, const std::string& key, const std::string& end) {
    set("role/grant",
        fmt::format(R"({{"name":"node","perm":{{"permType":"{}","key":{},"range_end":{}}}}})", type, b(key), b(end)));
  };
  grant("READ", "/calico/", "/calico0");
  grant("READWRITE", kOwn, prefix_end(kOwn));
  grant("READWRITE", kNode, "");
  set("user/grant", R"({"user":"node-1","role":"node"})");
  set("enable", "{}");
  const auto login = theirs.post("auth/authenticate", R"({"name":"node-1","password":"n"})");
  theirs.headers.set("Authorization", std::string(json::parse(login.body).at("token").as_string()));
  Peer nobody_theirs(runner_, *http::Endpoint::parse(etcd.endpoint()));
  restart({}, http::ClientCertificate::optional);
  Peer ours = peer("node-1");
  Peer nobody_ours = peer("");

  int refused = 0;
  const auto same = [&](const std::string& path, const std::string& body) {
    for (auto [a, mine] : {std::pair{&theirs, &ours}, std::pair{&nobody_theirs, &nobody_ours}}) {
      const auto expected = a->post(path, body);
      const auto got = mine->post(path, body);
      EXPECT_EQ(got.status, expected.status) << path << " " << body.substr(0, 200) << "\n" << expected.body << got.body;
      EXPECT_EQ(canonical(got.body), canonical(expected.body)) << path << " " << body.substr(0, 200);
      if (expected.status == 403) ++refused;
    }
  };
  const auto txn = [](const std::string& compare, const std::string& success, const std::string& failure) {
    const auto keyed = [](const std::string& key) {
      return key.empty() ? std::string() : R"({"key":)" + b(key) + R"(,"target":"VERSION"})";
    };
    const auto op = [](const std::string& key) {
      return key.empty() ? std::string() : R"({"request_put":)" + put_of(key) + "}";
    };
    return R"({"compare":[)" + keyed(compare) + R"(],"success":[)" + op(success) + R"(],"failure":[)" + op(failure) +
           "]}";
  };
  for (const auto& key : {kOwn + "status", kNode, kOwn, std::string("/calico/x"), std::string("/x"), std::string(),
                          kNode + "1", kNode + "/", kOwn.substr(0, kOwn.size() - 1), kOwn + "../x"}) {
    same("kv/put", put_of(key));
    same("kv/range", range_of(key));
    same("kv/deleterange", range_of(key));
    same("kv/txn", txn(key, "", ""));
    same("kv/txn", txn("", key, ""));
    same("kv/txn", txn("/calico/x", kOwn + "a", key));
  }
  same("kv/put", R"({"key":)" + b(kOwn + "status") + R"(,"value":"MQ==","prev_kv":true})");
  same("kv/put", put_of("/x", 99));
  same("kv/put", put_of(kOwn + "x", 99));
  same("kv/put", R"({"key":)" + b("/x") + R"(,"value":)" + b(std::string(1600000, 'x')) + "}");
  const std::string zero(1, '\0');
  for (const auto& [key, end] : std::vector<std::pair<std::string, std::string>>{{"/calico/", "/calico0"},
                                                                                 {"/calico/", "/calico1"},
                                                                                 {"/calico/", zero},
                                                                                 {"/calico", "/calico0"},
                                                                                 {"/", "0"},
                                                                                 {"/z", "/a"},
                                                                                 {"/calico/z", "/calico/a"},
                                                                                 {kOwn, prefix_end(kOwn)},
                                                                                 {kOwn, prefix_end(kOwn) + zero},
                                                                                 {kOwn, zero},
                                                                                 {kNode, kNode + zero},
                                                                                 {kNode, kNode + "0"},
                                                                                 {zero, zero}}) {
    same("kv/range", range_of(key, end));
    same("kv/deleterange", range_of(key, end));
  }
  same("kv/range", R"({"key":)" + b("/calico/") + R"(,"revision":10000})");
  same("kv/range", R"({"key":)" + b("/x") + R"(,"revision":10000})");
  same("kv/txn", "{}");
  same("kv/txn", R"({"success":[{}]})");
  same("kv/txn", R"({"success":[{"request_put":{"key":"L3E="}},{"request_put":{"key":"L3E="}}]})");
  EXPECT_GT(refused, 30);

  for (const auto& [key, end] : std::vector<std::pair<std::string, std::string>>{
           {"/calico/", "/calico0"}, {"/", "0"}, {"", ""}, {"/z", "/a"}, {kOwn, ""}, {"/x", ""}}) {
    for (auto [a, mine] : {std::pair{&theirs, &ours}, std::pair{&nobody_theirs, &nobody_ours}}) {
      auto expected = a->watch(create_of(key, end));
      auto got = mine->watch(create_of(key, end));
      EXPECT_EQ(got->head().status, expected->head().status);
      EXPECT_EQ(canonical(mine->line(*got)), canonical(a->line(*expected))) << key << " " << end;
      runner_.loop().call([&] {
        expected.reset();
        got.reset();
      });
    }
  }
}

TEST_F(GatewayRights, ANodeHasNoMoreThanItsOwn) {
  Peer node = peer("node-1");
  Peer admin = peer("neutron");
  EXPECT_EQ(node.post("kv/put", put_of(kOwn + "status")).status, 200U);
  EXPECT_EQ(node.post("kv/range", range_of("/calico/", "/calico0")).status, 200U);
  EXPECT_EQ(node.post("maintenance/status", "{}").status, 200U);
  denied(node.post("kv/compaction", R"({"revision":1})"), "compaction");
  denied(node.post("lease/leases", "{}"), "leases");
  denied(peer("node-2").post("kv/put", put_of(kOwn + "status")), "another's status");
  denied(peer("a b").post("kv/range", range_of("/calico/x")), "no host's name");
  EXPECT_EQ(admin.post("kv/put", put_of("/anything")).status, 200U);
  EXPECT_EQ(admin.post("kv/compaction", R"({"revision":2})").status, 200U);
  EXPECT_EQ(admin.post("lease/leases", "{}").status, 200U);
  EXPECT_EQ(admin.post("kv/deleterange", range_of("/", "0")).status, 200U);
  EXPECT_EQ(ours_->clients().denied, 4U);
  // What was refused left nothing behind: the revision is that of the three writes.
  EXPECT_EQ(ours_->kv->revision(), 4);
}

TEST_F(GatewayRights, ATransactionIsRefusedWhole) {
  Peer node = peer("node-1");
  denied(node.post("kv/txn", R"({"success":[{"request_put":)" + put_of(kOwn + "a") + R"(},{"request_put":)" +
                                 put_of("/calico/b") + "}]}"),
         "one foreign put");
  EXPECT_EQ(ours_->kv->revision(), 1);
}

TEST_F(GatewayRights, LeasesAreTheirOwners) {
  Peer one = peer("node-1");
  Peer two = peer("node-2");
  Peer admin = peer("neutron");
  const auto grant = [](Peer& p, int id) {
    EXPECT_EQ(p.post("lease/grant", fmt::format(R"({{"TTL":60,"ID":{}}})", id)).status, 200U);
  };
  grant(one, 71);
  EXPECT_EQ(one.post("kv/put", put_of(kOwn + "status", 71)).status, 200U);
  for (const char* path : {"lease/keepalive", "lease/revoke", "kv/lease/revoke", "lease/timetolive"})
    denied(two.post(path, R"({"ID":71})"), path);
  // A key of node-2 must not go away with node-1's lease, and the other way round.
  const auto other = "/calico/felix/v2/no-region/host/node-2/status";
  denied(two.post("kv/put", put_of(other, 71)), "a foreign lease");
  denied(two.post("kv/txn", R"({"failure":[{"request_put":)" + put_of(other, 71) + "}]}"), "a foreign lease in a txn");
  EXPECT_EQ(one.post("lease/keepalive", R"({"ID":71})").status, 200U);
  EXPECT_EQ(json::parse(one.post("lease/timetolive", R"({"ID":71,"keys":true})").body).at("keys").as_array().size(),
            1U);
  EXPECT_EQ(admin.post("lease/keepalive", R"({"ID":71})").status, 200U);
  EXPECT_EQ(one.post("lease/revoke", R"({"ID":71})").status, 200U);
  EXPECT_EQ(one.post("lease/revoke", R"({"ID":71})").status, 404U);
  EXPECT_EQ(one.post("kv/put", put_of(kOwn + "status", 71)).status, 404U);
  EXPECT_EQ(ours_->clients().leases, 0U);
  grant(two, 71);  // free again
  denied(one.post("lease/keepalive", R"({"ID":71})"), "node-2's now");
}

// After a restart nobody knows who was granted a lease: its keys tell, and without keys the first to use it has it.
TEST_F(GatewayRights, AnUnknownLeaseBelongsToWhoMayWriteItsKeys) {
  const auto granted = [&](LeaseId id) { ASSERT_TRUE(runner_.run(ours_->kv->lease_grant(60, id), "grant")); };
  granted(81);
  granted(82);
  granted(83);
  PutRequest key{.key = kOwn + "status", .value = "1", .lease = 81};
  ASSERT_TRUE(runner_.run(ours_->kv->put(key), "put"));
  PutRequest foreign{.key = "/calico/openstack/v2/no-region/neutron_election", .value = "1", .lease = 83};
  ASSERT_TRUE(runner_.run(ours_->kv->put(foreign), "put"));
  Peer one = peer("node-1");
  Peer two = peer("node-2");
  denied(two.post("lease/revoke", R"({"ID":81})"), "node-1's key is on it");
  EXPECT_EQ(one.post("lease/keepalive", R"({"ID":81})").status, 200U);
  EXPECT_EQ(two.post("lease/keepalive", R"({"ID":82})").status, 200U);
  denied(one.post("lease/revoke", R"({"ID":82})"), "taken by node-2");
  denied(one.post("lease/keepalive", R"({"ID":83})"), "the election's");
  EXPECT_EQ(peer("neutron").post("lease/revoke", R"({"ID":83})").status, 200U);
  EXPECT_EQ(one.post("lease/revoke", R"({"ID":81})").status, 200U);
}

TEST_F(GatewayRights, WithoutACertificateThereIsStatusAndNoMore) {
  restart({}, http::ClientCertificate::optional);
  Peer p = peer("");
  EXPECT_EQ(p.post("maintenance/status", "{}").status, 200U);
  EXPECT_EQ(p.send("GET", "/health", "").status, 200U);
  for (const auto& [path, body] :
       std::vector<std::pair<std::string, std::string>>{{"kv/range", range_of("/calico/x")},
                                                        {"kv/put", put_of(kOwn + "x")},
                                                        {"kv/deleterange", range_of("/x")},
                                                        {"kv/compaction", R"({"revision":1})"},
                                                        {"lease/grant", R"({"TTL":60})"},
                                                        {"lease/keepalive", R"({"ID":5})"},
                                                        {"lease/revoke", R"({"ID":5})"},
                                                        {"lease/timetolive", R"({"ID":5})"},
                                                        {"lease/leases", "{}"}}) {
    const auto a = p.post(path, body);
    EXPECT_EQ(a.status, 400U) << path;
    EXPECT_EQ(json::parse(a.body).at("message"), "etcdserver: user name is empty") << path;
  }
  EXPECT_EQ(ours_->kv->revision(), 1);
  EXPECT_EQ(ours_->kv->stats().keys, 0U);
}

TEST_F(GatewayRights, OtherPathsAreTheCallersAndOnlyThose) {
  test::Certificates pki;
  auto options = options_of();
  options.otherwise = [](http::Request r) -> awaitable<http::Response> {
    co_return http::Response::text(200, fmt::format("{} by '{}'", r.path, r.peer.identity()));
  };
  Embedded e(runner_.loop(), pki.issue("server"), {}, options, http::ClientCertificate::optional);
  Peer nobody(runner_, e.endpoint(), {.ca_file = pki.ca_file()});
  Peer node(runner_, e.endpoint(), pki.issue("node-1"));
  EXPECT_EQ(nobody.send("POST", "/join", "x").body, "/join by ''");
  EXPECT_EQ(node.send("POST", "/join", "x").body, "/join by 'node-1'");
  EXPECT_EQ(node.send("POST", "/v3/nope", "{}").body.find("by '"), std::string::npos);
}

// ---- limits

class GatewayLimits : public GatewayRights {};

TEST_F(GatewayLimits, WatchesOfAClient) {
  restart({.watches = 2});
  Peer one = peer("node-1");
  auto a = one.watch(create_of("/calico/", "/calico0"));
  auto second = one.watch(create_of("/calico/", "/calico0"));
  EXPECT_THAT(one.line(*a), testing::HasSubstr("created"));
  EXPECT_THAT(one.line(*second), testing::HasSubstr("created"));
  const auto third = one.post("watch", create_of("/calico/x"));
  EXPECT_EQ(third.status, 429U);
  const auto body = json::parse(third.body);
  EXPECT_EQ(body.at("code"), 8);
  EXPECT_EQ(body.at("message"), "etcdserver: too many requests: this client has 2 watches open");
  // Another client has its own.
  Peer two = peer("node-2");
  auto other = two.watch(create_of("/calico/", "/calico0"));
  EXPECT_THAT(two.line(*other), testing::HasSubstr("created"));
  EXPECT_EQ(ours_->clients().watches, 3U);
  EXPECT_EQ(ours_->clients().refused_watches, 1U);
  runner_.loop().call([&] { a.reset(); });
  EXPECT_TRUE(test::eventually("the place of the closed watch", [&] { return ours_->clients().watches == 2; }));
  auto again = one.watch(create_of("/calico/", "/calico0"));
  EXPECT_THAT(one.line(*again), testing::HasSubstr("created"));
  runner_.loop().call([&] {
    second.reset();
    other.reset();
    again.reset();
  });
  EXPECT_TRUE(test::eventually("all given back", [&] {
    const auto s = ours_->clients();
    return s.watches == 0 && s.requests == 0 && s.bytes == 0 && s.clients == 0;
  }));
}

TEST_F(GatewayLimits, LeasesOfAClientAndThoseThatEndedMakeRoom) {
  restart({.leases = 3});
  Peer one = peer("node-1");
  for (int i = 1; i <= 3; ++i)
    EXPECT_EQ(one.post("lease/grant", fmt::format(R"({{"TTL":60,"ID":{}}})", i)).status, 200U);
  const auto fourth = one.post("lease/grant", R"({"TTL":60})");
  EXPECT_EQ(fourth.status, 429U);
  EXPECT_EQ(json::parse(fourth.body).at("code"), 8);
  EXPECT_EQ(ours_->clients().refused_leases, 1U);
  EXPECT_EQ(peer("node-2").post("lease/grant", R"({"TTL":60})").status, 200U);
  ASSERT_TRUE(runner_.run(ours_->kv->lease_revoke(2), "a lease that ends behind the gateway"));
  EXPECT_EQ(one.post("lease/grant", R"({"TTL":60})").status, 200U);
  EXPECT_EQ(one.post("lease/grant", R"({"TTL":60})").status, 429U);
}

/// An answer that is not read keeps its bytes, and its place among the requests.
TEST_F(GatewayLimits, RequestsAndBytesOfAClientThatDoesNotRead) {
  ours_ = std::make_unique<Embedded>(runner_.loop(), http::TlsFiles{}, Kv::Options{},
                                     options_of({.requests = 2, .bytes = 17U << 20}));
  Peer p(runner_, ours_->endpoint());
  const std::string value = b(std::string(1 << 20, 'x'));
  for (int i = 0; i < 12; ++i)
    ASSERT_EQ(p.post("kv/put", R"({"key":)" + b("/k" + std::to_string(i)) + R"(,"value":)" + value + "}").status, 200U);
  const auto all = range_of("/k", "/l");  // 16 MiB of answer
  const auto ask = [&](const std::string& body) {
    auto raw = std::make_unique<test::RawClient>(ours_->endpoint().port);
    raw->send(fmt::format("POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{}", body.size(), body));
    return raw;
  };
  const auto first = ask(all);
  EXPECT_TRUE(test::eventually("the first answer held", [&] { return ours_->clients().bytes > (16U << 20); }));
  const auto second = p.post("kv/range", all);
  EXPECT_EQ(second.status, 429U);
  EXPECT_EQ(json::parse(second.body).at("code"), 8);
  EXPECT_EQ(ours_->clients().refused_bytes, 1U);
  EXPECT_EQ(p.post("kv/range", range_of("/none")).status, 200U);  // a small one is always given
  EXPECT_EQ(p.post("lease/grant", R"({"TTL":60})").status, 200U);
  const auto third = ask(range_of("/k1", "/k3"));  // 5 MiB more: over, but answered at once with 429
  EXPECT_TRUE(test::eventually("refused too", [&] { return ours_->clients().refused_bytes == 2; }));
  EXPECT_EQ(ours_->clients().requests, 1U);
  const auto got = first->read_until(16U << 20);
  EXPECT_GE(got, 16U << 20);
  EXPECT_TRUE(test::eventually("bytes given back", [&] { return ours_->clients().bytes == 0; }));
  EXPECT_EQ(p.post("kv/range", all).status, 200U);
}

TEST_F(GatewayLimits, RequestsInWork) {
  ours_ = std::make_unique<Embedded>(runner_.loop(), http::TlsFiles{}, Kv::Options{}, options_of({.requests = 2}));
  Peer p(runner_, ours_->endpoint());
  const std::string value = b(std::string(1 << 20, 'x'));
  for (int i = 0; i < 12; ++i)
    ASSERT_EQ(p.post("kv/put", R"({"key":)" + b("/k" + std::to_string(i)) + R"(,"value":)" + value + "}").status, 200U);
  const auto body = range_of("/k", "/l");
  std::vector<std::unique_ptr<test::RawClient>> stuck;
  for (int i = 0; i < 2; ++i) {
    stuck.push_back(std::make_unique<test::RawClient>(ours_->endpoint().port));
    stuck.back()->send(
        fmt::format("POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{}", body.size(), body));
  }
  EXPECT_TRUE(test::eventually("two in work", [&] { return ours_->clients().requests == 2; }));
  const auto a = p.post("kv/range", range_of("/x"));
  EXPECT_EQ(a.status, 429U);
  EXPECT_EQ(json::parse(a.body).at("message"), "etcdserver: too many requests: this client has 2 requests in work");
  stuck.clear();  // a client that goes gives all back
  EXPECT_TRUE(test::eventually("none in work", [&] { return ours_->clients().requests == 0; }));
  EXPECT_EQ(p.post("kv/range", range_of("/x")).status, 200U);
}

/// A watcher that does not read while its history is compacted is told so, and from where there is one.
TEST_F(GatewayLimits, ASlowWatcherIsToldThatItsHistoryIsGone) {
  Kv::Options kv;
  kv.watch_bytes = 2U << 20;
  ours_ = std::make_unique<Embedded>(runner_.loop(), http::TlsFiles{}, kv, options_of());
  Peer p(runner_, ours_->endpoint());
  test::RawClient slow(ours_->endpoint().port);
  const auto body = create_of("/k");
  slow.send(fmt::format("POST /v3/watch HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{}", body.size(), body));
  EXPECT_TRUE(test::eventually("the watch", [&] { return ours_->kv->stats().watchers == 1; }));
  const std::string value = b(std::string(1 << 20, 'x'));
  for (int i = 0; i < 24; ++i)
    ASSERT_EQ(p.post("kv/put", R"({"key":)" + b("/k") + R"(,"value":)" + value + "}").status, 200U);
  ASSERT_EQ(p.post("kv/compaction", R"({"revision":24})").status, 200U);
  EXPECT_LT(ours_->clients().bytes, 8U << 20) << "what waits for one watcher is bounded";
  const auto text = slow.read_all_until("compact_revision");
  EXPECT_THAT(text, testing::HasSubstr(R"("canceled":true,"compact_revision":"24")"));
}

}  // namespace
}  // namespace calico::store::etcd
