// The client against servers made for it: the embedded datastore behind its gateway (what every datastore must do), and
// a fake that answers as recorded, late, wrongly or not at all.
#include "core/store/etcd/client.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <deque>
#include <random>

#include "core/http/server.hpp"
#include "core/loop/task_group.hpp"
#include "core/store/etcd/client_json.hpp"
#include "core/store/etcd/gateway.hpp"
#include "core/store/kv.hpp"
#include "tests/support/certificates.hpp"
#include "tests/support/run.hpp"
#include "tests/support/wait.hpp"
#include "tests/unit/store/datastore_conformance.hpp"

namespace calico::store {
namespace {

using namespace std::chrono_literals;

// ---- the embedded datastore, through TLS

struct Served final : DatastoreBackend {
  explicit Served(Loop& loop) {
    auto opened = Kv::open({.path = dir.file("state.db")});
    if (!opened) throw std::runtime_error(opened.error().what);
    kv = std::move(*opened);
    server.start();
    etcd::GatewayOptions options;
    options.admins = {"client"};
    gateway = std::make_unique<etcd::Gateway>(server.executor(), *kv, options);
    auto bound = gateway->listen({.at = *http::Endpoint::parse("https://127.0.0.1:0"), .tls = pki.issue("server")});
    if (!bound) throw std::runtime_error(bound.error().what);
    server.call([&] { gateway->start(); });
    auto made =
        EtcdClient::create(loop.executor(), {.endpoints = gateway->endpoints(), .tls = pki.issue("client"), .page = 3});
    if (!made) throw std::runtime_error(made.error().what);
    client = *made;
  }
  ~Served() override {
    client.reset();
    test::run(server, "gateway.stop", [this]() -> awaitable<void> { co_await gateway->stop(); });
    server.call([&] { gateway.reset(); });
    kv->stop();
    server.stop();
  }
  Datastore& datastore() override { return *client; }
  test::TempDir dir{"client"};
  test::Certificates pki;
  Loop server{"server"};
  std::unique_ptr<Kv> kv;
  std::unique_ptr<etcd::Gateway> gateway;
  std::shared_ptr<EtcdClient> client;
};

std::unique_ptr<DatastoreBackend> make_served(Loop& loop) { return std::make_unique<Served>(loop); }
INSTANTIATE_TEST_SUITE_P(Gateway, DatastoreConformance, testing::Values(DatastoreParam{"client", make_served}),
                         name_of);

// ---- a server of a test's own

http::Response watch_of(std::vector<std::string> lines, bool stay) {
  http::Response r = http::Response::json(200, "");
  r.stream = [lines, stay](std::shared_ptr<http::ResponseStream> stream) -> awaitable<void> {
    for (const auto& line : lines) {
      std::string chunk = line + "\n";
      (void)co_await stream->write(std::move(chunk));
    }
    if (stay) (void)co_await sleep_for(1h);
  };
  return r;
}

class FakeEtcd {
 public:
  using Answer = std::function<http::Response(const http::Request&)>;
  FakeEtcd()
      : server_(loop_.executor(), {}, [this](http::Request r) -> awaitable<http::Response> {
          seen.push_back(r);
          ++count;
          if (r.path == "/v3/silent" || silent) {
            if (!co_await sleep_for(1h)) ++ended_silent;
            co_return http::Response::json(503, "{}");
          }
          auto& queue = answers[r.path];
          if (queue.empty()) co_return http::Response::json(404, R"({"code":5,"message":"Not Found"})");
          auto answer = queue.front();
          if (queue.size() > 1) queue.pop_front();
          co_return answer(r);
        }) {
    if (auto s = server_.listen({.at = *http::Endpoint::parse("127.0.0.1:0")}); !s)
      throw std::runtime_error(s.error().what);
    loop_.start();
    loop_.call([this] { server_.start(); });
  }
  ~FakeEtcd() {
    test::run(loop_, "stop", [this]() -> awaitable<void> { co_await server_.stop(); });
    loop_.stop();
  }
  http::Endpoint at() const { return server_.endpoints().at(0); }
  /// The last answer for a path is repeated.
  FakeEtcd& on(const std::string& path, unsigned status, std::string body) {
    answers["/v3/" + path].push_back(
        [status, body](const http::Request&) { return http::Response::json(status, body); });
    return *this;
  }
  FakeEtcd& on(const std::string& path, Answer answer) {
    answers["/v3/" + path].push_back(std::move(answer));
    return *this;
  }
  std::vector<http::Request> requests() {
    return loop_.call([this] { return seen; });
  }
  std::size_t connections() {
    return loop_.call([this] { return server_.stats().connections; });
  }

  std::map<std::string, std::deque<Answer>> answers;
  std::vector<http::Request> seen;
  std::atomic<int> count{0};
  std::atomic<int> ended_silent{0};
  std::atomic<bool> silent{false};

 private:
  Loop loop_{"fake-etcd"};
  http::Server server_;
};

/// Accepts, reads something and closes without a word.
class RudeServer {
 public:
  RudeServer() {
    fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof in;
    if (::bind(fd_, reinterpret_cast<sockaddr*>(&in), size) != 0 || ::listen(fd_, 16) != 0 ||
        ::getsockname(fd_, reinterpret_cast<sockaddr*>(&in), &size) != 0)
      throw std::runtime_error("rude server");
    port_ = ntohs(in.sin_port);
    thread_ = std::thread([this] {
      for (;;) {
        const int s = ::accept(fd_, nullptr, nullptr);
        if (s < 0) return;
        char buffer[4096];
        if (::recv(s, buffer, sizeof buffer, 0) > 0) ++asked;
        ::close(s);
      }
    });
  }
  ~RudeServer() {
    ::shutdown(fd_, SHUT_RDWR);
    thread_.join();
    ::close(fd_);
  }
  http::Endpoint at() const { return *http::Endpoint::parse(fmt::format("127.0.0.1:{}", port_)); }
  std::atomic<int> asked{0};

 private:
  int fd_ = -1;
  std::uint16_t port_ = 0;
  std::thread thread_;
};

class EtcdClientTest : public testing::Test {
 protected:
  std::shared_ptr<EtcdClient> client(EtcdOptions options) {
    if (options.endpoints.empty()) options.endpoints = {fake.at()};
    options.shuffle = false;  // the tests say which is asked first
    auto made = EtcdClient::create(runner.loop().executor(), std::move(options));
    if (!made) throw std::runtime_error(made.error().what);
    return *made;
  }
  std::shared_ptr<EtcdClient> client() { return client(EtcdOptions{}); }
  Result<RangeResult> range(EtcdClient& c, std::string key = "/a", std::string end = "/b") {
    RangeRequest request{.key = std::move(key), .range_end = std::move(end)};
    return runner.run(c.range(request), "range");
  }
  Result<PutResult> put(EtcdClient& c) { return runner.run(c.put(PutRequest{.key = "/a", .value = "v"}), "put"); }
  Result<std::unique_ptr<Watch>> watch(EtcdClient& c, Revision start = 0) {
    WatchRequest request{.key = "/a", .range_end = "/b", .start_revision = start};
    return runner.run(c.watch(request), "watch");
  }
  Result<WatchBatch> next(Watch& w) { return runner.run(w.next(), "next"); }
  FakeEtcd fake;
  test::LoopRunner runner;
};

// As etcd 3.4.23 answers.
const char* kHeader =
    R"("header":{"cluster_id":"14841639068965178418","member_id":"10276657743932975437","revision":"7","raft_term":"2"})";
std::string answer(const std::string& rest = {}) { return fmt::format("{{{}{}}}", kHeader, rest); }
std::string created() { return fmt::format(R"({{"result":{{{},"created":true}}}})", kHeader); }

}  // namespace

// ---- what is sent and read

TEST_F(EtcdClientTest, SendsWhatEtcdExpects) {
  fake.on("kv/range", 200, answer(R"(,"count":"0")"));
  fake.on("kv/txn", 200, answer());
  auto c = client();
  RangeRequest request{.key = "/a",
                       .range_end = "/b",
                       .limit = 9,
                       .revision = 5,
                       .sort_order = SortOrder::descend,
                       .sort_target = SortTarget::mod,
                       .keys_only = true};
  ASSERT_TRUE(runner.run(c->range(request)));
  TxnRequest txn;
  txn.compare = {key_absent("/a"), Compare{"/b", Compare::Target::value, Compare::Op::not_equal, 0, ""}};
  txn.success = {PutRequest{.key = "/a", .value = "", .lease = 12}, DeleteRequest{.key = "/b", .range_end = "/c"}};
  ASSERT_TRUE(runner.run(c->txn(txn))) << "no `succeeded`: the failure branch, which is empty";
  const auto seen = fake.requests();
  ASSERT_EQ(seen.size(), 2U);
  EXPECT_EQ(seen[0].method, "POST");
  EXPECT_EQ(seen[0].path, "/v3/kv/range");
  EXPECT_EQ(
      seen[0].body,
      R"({"key":"L2E=","range_end":"L2I=","limit":"9","revision":"5","sort_order":"DESCEND","sort_target":"MOD","keys_only":true})");
  EXPECT_FALSE(seen[0].headers.get("Authorization"));
  EXPECT_EQ(
      seen[1].body,
      R"({"compare":[{"key":"L2E=","result":"EQUAL","target":"VERSION","version":"0"},{"key":"L2I=","result":"NOT_EQUAL","target":"VALUE","value":""}],)"
      R"("success":[{"request_put":{"key":"L2E=","value":"","lease":"12"}},{"request_delete_range":{"key":"L2I=","range_end":"L2M="}}],"failure":[]})");
}

TEST(EtcdClientJson, ReadsAbsentDefaultsAndBothFormsOfNumbers) {
  auto r = etcd::decode_range(answer());
  ASSERT_TRUE(r) << r.error().what;
  EXPECT_EQ(r->revision, 7);
  EXPECT_TRUE(r->kvs.empty());
  EXPECT_FALSE(r->more);
  r = etcd::decode_range(
      R"({"header":{"revision":9},"kvs":[{"key":"L2E=","create_revision":"2","mod_revision":3,"version":"2","value":"eA=="}],"more":true,"count":12})");
  ASSERT_TRUE(r) << r.error().what;
  EXPECT_EQ(r->revision, 9);
  EXPECT_EQ(r->kvs.at(0), (KeyValue{"/a", "x", 2, 3, 2, 0}));
  EXPECT_EQ(r->count, 12);
  auto s = etcd::decode_status(answer(R"(,"version":"3.4.23","dbSize":"20480")"));
  ASSERT_TRUE(s) << s.error().what;
  EXPECT_EQ(s->cluster_id, 14841639068965178418ULL);
  EXPECT_EQ(s->version, "3.4.23");
  EXPECT_EQ(etcd::decode_keepalive(R"({"result":{"ID":"77","TTL":"60"}})"
                                   "\n")
                ->ttl_s,
            60);
  EXPECT_EQ(etcd::decode_keepalive(R"({"result":{"ID":"77"}})").error().code, Errc::not_found);
  EXPECT_EQ(etcd::decode_time_to_live(answer(R"(,"ID":"77","TTL":"-1")"))->ttl_s, -1);
  auto w = etcd::decode_watch_line(fmt::format(
      R"({{"result":{{{},"events":[{{"kv":{{"key":"L2E=","mod_revision":"7","value":"eA=="}}}},{{"type":"DELETE","kv":{{"key":"L2I=","mod_revision":"7"}},"prev_kv":{{"key":"L2I=","version":"1"}}}}]}}}})",
      kHeader));
  ASSERT_TRUE(w) << w.error().what;
  ASSERT_EQ(w->batch.events.size(), 2U);
  EXPECT_EQ(w->batch.events[0].type, Event::Type::put);
  EXPECT_EQ(w->batch.events[1].type, Event::Type::del);
  EXPECT_EQ(w->batch.events[1].prev->version, 1);
}

TEST(EtcdClientJson, RefusesWhatDoesNotFit) {
  for (const char* bad :
       {"", "x", "[]", R"({"kvs":{}})", R"({"kvs":[1]})", R"({"kvs":[{}]})", R"({"kvs":[{"key":"!"}]})",
        R"({"kvs":[{"key":"L2E=","mod_revision":"x"}]})", R"({"kvs":[{"key":"L2E=","version":1.5}]})", R"({"more":1})",
        R"({"count":"99999999999999999999"})", R"({"header":5})", R"({"header":{"revision":{}}})"}) {
    auto r = etcd::decode_range(bad);
    ASSERT_FALSE(r) << bad;
    EXPECT_EQ(r.error().code, Errc::invalid);
    EXPECT_EQ(r.error().what.find('\n'), std::string::npos);
  }
  TxnRequest txn;
  txn.success = {PutRequest{.key = "a"}, RangeRequest{.key = "a"}};
  for (const char* bad : {R"({"succeeded":true})", R"({"succeeded":true,"responses":[{},{}]})",
                          R"({"succeeded":true,"responses":[{"response_range":{}},{"response_put":{}}]})",
                          R"({"responses":[{"response_put":{}},{"response_range":{}}]})"})
    EXPECT_FALSE(etcd::decode_txn(bad, txn)) << bad;
  EXPECT_TRUE(etcd::decode_txn(R"({"succeeded":true,"responses":[{"response_put":{}},{"response_range":{}}]})", txn));
  for (const char* bad : {"{}", R"({"result":[]})", R"({"result":{"events":[{}]}})",
                          R"({"result":{"events":[{"type":"NEW","kv":{"key":"L2E="}}]}})"})
    EXPECT_FALSE(etcd::decode_watch_line(bad)) << bad;
  EXPECT_FALSE(etcd::decode_login(R"({"token":"a\r\nX: y"})"));
  EXPECT_FALSE(etcd::decode_login("{}"));
  EXPECT_FALSE(etcd::decode_status("{}"));
  EXPECT_FALSE(etcd::decode_grant("{}"));
}

TEST(EtcdClientJson, ErrorsHaveTheirMeaning) {
  struct Row {
    unsigned status;
    const char* body;
    Errc code;
    bool log_in;
    bool elsewhere;
  };
  for (const Row& row : {
           Row{400, R"({"error":"e","message":"etcdserver: mvcc: required revision has been compacted","code":11})",
               Errc::compacted, false, false},
           Row{400, R"({"message":"etcdserver: mvcc: required revision is a future revision","code":11,"details":[]})",
               Errc::invalid, false, false},
           Row{404, R"({"message":"etcdserver: requested lease not found","code":5})", Errc::not_found, false, false},
           Row{401, R"({"message":"etcdserver: invalid auth token","code":16})", Errc::no_permission, true, false},
           Row{400, R"({"message":"etcdserver: user name is empty","code":3})", Errc::no_permission, true, false},
           Row{400, R"({"message":"etcdserver: authentication failed, invalid user ID or password","code":3})",
               Errc::no_permission, false, false},
           Row{403, R"({"message":"etcdserver: permission denied","code":7})", Errc::no_permission, false, false},
           Row{400, R"({"message":"etcdserver: request is too large","code":3})", Errc::exhausted, false, false},
           Row{400, R"({"message":"etcdserver: authentication is not enabled","code":9})", Errc::unsupported, false,
               false},
           Row{503, R"({"message":"etcdserver: no leader","code":14})", Errc::unavailable, false, true},
           Row{502, "<html>bad gateway</html>", Errc::unavailable, false, true},
           Row{404, "404 page not found\n", Errc::unsupported, false, false},
           Row{418, R"({"message":"line\nbreak"})", Errc::invalid, false, false},
       }) {
    const auto r = etcd::decode_refusal(row.status, row.body);
    EXPECT_EQ(r.error.code, row.code) << row.body;
    EXPECT_EQ(r.log_in, row.log_in) << row.body;
    EXPECT_EQ(r.elsewhere, row.elsewhere) << row.body;
    EXPECT_FALSE(r.error.what.empty());
    EXPECT_EQ(r.error.what.find('\n'), std::string::npos);
  }
}

TEST(EtcdClientJson, ChangedBytesNeverHurt) {
  const std::string seeds[] = {
      R"({"header":{"cluster_id":"1","revision":"7"},"kvs":[{"key":"L2E=","create_revision":"2","mod_revision":"3","value":"eA=="}],"more":true,"count":"12"})",
      R"({"header":{"revision":"7"},"succeeded":true,"responses":[{"response_put":{"header":{"revision":"7"}}},{"response_range":{"kvs":[{"key":"L2E="}]}}]})",
      R"({"result":{"header":{"revision":"7"},"canceled":true,"compact_revision":"5","events":[{"type":"DELETE","kv":{"key":"L2E="},"prev_kv":{"key":"L2E="}}]}})",
      R"({"error":{"grpc_code":16,"http_code":401,"message":"x"},"message":"m","code":16,"token":"t","ID":"3","TTL":"4","keys":["L2E="]})"};
  TxnRequest txn;
  txn.success = {PutRequest{.key = "a"}, RangeRequest{.key = "a"}};
  std::mt19937 random(42);
  int read = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string s = seeds[random() % std::size(seeds)];
    for (unsigned n = random() % 4; n > 0; --n) {
      const auto at = random() % s.size();
      switch (random() % 4) {
        case 0:
          s[at] = static_cast<char>(random());
          break;
        case 1:
          s.erase(at, 1 + random() % 6);
          break;
        case 2:
          s.insert(at, 1, "{}[],:\"0"[random() % 8]);
          break;
        default:
          s.resize(at);
      }
      if (s.empty()) s = "{";
    }
    read += etcd::decode_range(s).has_value() + etcd::decode_txn(s, txn).has_value() +
            etcd::decode_watch_line(s).has_value() + etcd::decode_delete(s).has_value() +
            etcd::decode_put(s).has_value() + etcd::decode_grant(s).has_value() +
            etcd::decode_keepalive(s).has_value() + etcd::decode_time_to_live(s).has_value() +
            etcd::decode_status(s).has_value() + etcd::decode_login(s).has_value() + etcd::decode_header(s).has_value();
    (void)etcd::decode_refusal(400, s);
  }
  EXPECT_GT(read, 1000) << "unchanged seeds are among them";
}

// ---- log in

TEST_F(EtcdClientTest, LogsInFirstAndAgainOnceWhenTheTokenIsRefused) {
  test::TempDir dir("auth");
  ASSERT_TRUE(http::write_file(dir.file("pw"), "s3cret\n", 0600));
  fake.on("auth/authenticate", 200, answer(R"(,"token":"one.1")"));
  fake.on("auth/authenticate", 200, answer(R"(,"token":"two.2")"));
  fake.on("kv/range", 200, answer());
  fake.on("kv/range", 401, R"({"error":"e","message":"etcdserver: invalid auth token","code":16})");
  fake.on("kv/range", 200, answer());
  fake.on("kv/range", 401, R"({"message":"etcdserver: invalid auth token","code":16})");
  auto c = client({.username = "agent", .password_file = dir.file("pw")});
  EXPECT_TRUE(range(*c));
  EXPECT_TRUE(range(*c));
  auto refused = range(*c);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::no_permission);
  EXPECT_EQ(refused.error().what.find("s3cret"), std::string::npos);
  EXPECT_EQ(refused.error().what.find("two.2"), std::string::npos);
  std::vector<std::string> order;
  for (const auto& r : fake.requests())
    order.push_back(r.path.substr(4) + " " + std::string(r.headers.get("Authorization").value_or("-")));
  EXPECT_EQ(order,
            (std::vector<std::string>{"auth/authenticate -", "kv/range one.1", "kv/range one.1", "auth/authenticate -",
                                      "kv/range two.2", "kv/range two.2", "auth/authenticate -", "kv/range two.2"}));
  EXPECT_EQ(fake.requests()[0].body, R"({"name":"agent","password":"s3cret"})");
}

TEST_F(EtcdClientTest, WithoutAuthenticationThePasswordIsTriedOnce) {
  test::TempDir dir("auth");
  ASSERT_TRUE(http::write_file(dir.file("pw"), "s3cret\n", 0600));
  fake.on("auth/authenticate", 400, R"({"message":"etcdserver: authentication is not enabled","code":9})");
  fake.on("kv/range", 200, answer());
  auto c = client({.username = "agent", .password_file = dir.file("pw")});
  EXPECT_TRUE(range(*c));
  EXPECT_TRUE(range(*c));
  EXPECT_EQ(fake.requests().size(), 3U);
}

// ---- lost answers and other endpoints

TEST_F(EtcdClientTest, AReadGoesOnElsewhereAWriteIsNotRepeated) {
  RudeServer rude;
  fake.on("kv/range", 200, answer());
  fake.on("kv/put", 200, answer());
  auto c = client({.endpoints = {rude.at(), fake.at()}});
  EXPECT_TRUE(range(*c));
  EXPECT_EQ(rude.asked, 1);
  auto again = client({.endpoints = {rude.at(), fake.at()}});
  auto lost = put(*again);
  ASSERT_FALSE(lost);
  EXPECT_EQ(lost.error().code, Errc::unavailable) << lost.error().what;
  EXPECT_NE(lost.error().what.find(rude.at().to_string()), std::string::npos);
  EXPECT_EQ(rude.asked, 2);
  EXPECT_EQ(fake.count, 1);
  EXPECT_TRUE(put(*again));  // the next one is sent elsewhere
  EXPECT_EQ(rude.asked, 2);
}

TEST_F(EtcdClientTest, AServerWithoutLeaderIsLeftAtOnceAlsoByAWrite) {
  FakeEtcd cut_off;
  const char* refusal = R"({"message":"etcdserver: no leader","code":14})";
  cut_off.on("kv/range", 503, refusal).on("kv/put", 503, refusal).on("watch", 503, refusal);
  fake.on("kv/range", 200, answer()).on("kv/put", 200, answer());
  fake.on("watch", [](const http::Request&) { return watch_of({created()}, true); });
  EXPECT_TRUE(range(*client({.endpoints = {cut_off.at(), fake.at()}})));
  auto c = client({.endpoints = {cut_off.at(), fake.at()}});
  EXPECT_TRUE(put(*c)) << "nothing was tried there, so it may be sent elsewhere";
  EXPECT_TRUE(put(*c));
  EXPECT_EQ(cut_off.count, 2) << "and the member is not asked again";
  auto w = watch(*client({.endpoints = {cut_off.at(), fake.at()}}));
  EXPECT_TRUE(w) << w.error().what;
  EXPECT_EQ(c->requests(), 3U);
}

TEST_F(EtcdClientTest, NoMemberWithALeaderIsAnErrorAfterOneRound) {
  FakeEtcd other;
  for (auto* f : {&fake, &other}) f->on("kv/range", 503, R"({"message":"etcdserver: no leader","code":14})");
  auto c = client({.endpoints = {fake.at(), other.at()}});
  auto r = range(*c);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code, Errc::unavailable);
  EXPECT_EQ(fake.count + other.count, 2);
}

TEST_F(EtcdClientTest, AWriteThatMayHaveHappenedIsNotSentTwice) {
  FakeEtcd slow;
  slow.on("kv/put", 503, R"({"message":"etcdserver: request timed out","code":14})");
  slow.on("kv/range", 503, R"({"message":"etcdserver: request timed out","code":14})");
  fake.on("kv/put", 200, answer()).on("kv/range", 200, answer());
  auto c = client({.endpoints = {slow.at(), fake.at()}});
  auto lost = put(*c);
  ASSERT_FALSE(lost);
  EXPECT_EQ(lost.error().code, Errc::unavailable) << lost.error().what;
  EXPECT_EQ(fake.count, 0);
  EXPECT_TRUE(range(*client({.endpoints = {slow.at(), fake.at()}}))) << "a read may";
}

TEST_F(EtcdClientTest, EveryClientHasAnOrderOfItsOwn) {
  FakeEtcd other;
  for (auto* f : {&fake, &other}) f->on("kv/range", 200, answer());
  for (int i = 0; i < 40; ++i) {
    auto made = EtcdClient::create(runner.loop().executor(), {.endpoints = {fake.at(), other.at()}});
    ASSERT_TRUE(made);
    EXPECT_TRUE(range(**made));
  }
  EXPECT_GT(fake.count, 0);
  EXPECT_GT(other.count, 0);
  EXPECT_EQ(fake.count + other.count, 40);
}

TEST_F(EtcdClientTest, ARefusedPasswordIsNotSentAgainUntilTheFileIsAnother) {
  test::TempDir dir("pw");
  ASSERT_TRUE(http::write_file(dir.file("pw"), "wr0ng\n", 0600));
  fake.on("auth/authenticate", 400,
          R"({"message":"etcdserver: authentication failed, invalid user ID or password","code":3})");
  fake.on("kv/range", 200, answer());
  auto c = client({.username = "agent", .password_file = dir.file("pw")});
  for (int i = 0; i < 5; ++i) {
    auto r = range(*c);
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code, Errc::no_permission);
    EXPECT_NE(r.error().what.find("log in as 'agent'"), std::string::npos) << r.error().what;
    EXPECT_NE(r.error().what.find("is " + dir.file("pw") + " its password?"), std::string::npos) << r.error().what;
    EXPECT_EQ(r.error().what.find("wr0ng"), std::string::npos) << r.error().what;
  }
  EXPECT_EQ(fake.count, 1) << "every attempt costs the server a bcrypt";
  ASSERT_TRUE(http::write_file(dir.file("pw"), "right\n", 0600));
  fake.answers["/v3/auth/authenticate"].clear();
  fake.on("auth/authenticate", 200, answer(R"(,"token":"one.1")"));
  EXPECT_TRUE(range(*c)) << "another text is sent at once";
}

TEST_F(EtcdClientTest, ManyCallsRefusedAtOnceLogInOnce) {
  test::TempDir dir("pw");
  ASSERT_TRUE(http::write_file(dir.file("pw"), "s3cret\n", 0600));
  fake.on("auth/authenticate", 200, answer(R"(,"token":"one.1")"));
  fake.on("kv/range", 200, answer());
  auto c = client({.username = "agent", .password_file = dir.file("pw")});
  std::vector<std::future<Result<RangeResult>>> all;
  for (int i = 0; i < 10; ++i) all.push_back(runner.start(c->range(RangeRequest{.key = "/a"})));
  for (auto& f : all) EXPECT_TRUE(test::LoopRunner::wait(std::move(f)));
  int log_ins = 0;
  for (const auto& r : fake.requests()) log_ins += r.path == "/v3/auth/authenticate" ? 1 : 0;
  EXPECT_EQ(log_ins, 1);
  EXPECT_EQ(c->requests(), 11U);
}

TEST_F(EtcdClientTest, RefusalsSayWhatToSet) {
  test::TempDir dir("pw");
  ASSERT_TRUE(http::write_file(dir.file("pw"), "s3cret\n", 0600));
  fake.on("kv/range", 400, R"({"message":"etcdserver: user name is empty","code":3})");
  auto nobody = range(*client());
  ASSERT_FALSE(nobody);
  EXPECT_EQ(nobody.error().code, Errc::no_permission);
  EXPECT_NE(nobody.error().what.find("set [datastore] username and password_file"), std::string::npos)
      << nobody.error().what;
  EXPECT_EQ(nobody.error().what.find('\n'), std::string::npos);
  fake.on("auth/authenticate", 200, answer(R"(,"token":"one.1")"));
  fake.on("kv/put", 403, R"({"message":"etcdserver: permission denied","code":7})");
  fake.on("kv/txn", 403, R"({"message":"etcdserver: permission denied","code":7})");
  auto agent = client({.username = "agent", .password_file = dir.file("pw")});
  auto denied = put(*agent);
  ASSERT_FALSE(denied);
  EXPECT_NE(denied.error().what.find("user 'agent' may not put /a:"), std::string::npos) << denied.error().what;
  TxnRequest txn;
  for (int i = 0; i < 5; ++i) txn.success.push_back(PutRequest{.key = fmt::format("/k{}", i), .value = "v"});
  auto all = runner.run(agent->txn(txn));
  ASSERT_FALSE(all);
  EXPECT_NE(all.error().what.find("may not put /k0, put /k1, put /k2 or 2 more"), std::string::npos)
      << all.error().what;
}

TEST_F(EtcdClientTest, ASilentServerIsATimeoutAndACancelledCallReturns) {
  fake.silent = true;
  auto c = client({.request_timeout = 200ms});
  auto late = range(*c);
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, Errc::timeout) << late.error().what;
  auto patient = client({.request_timeout = 1h});
  Loop loop("caller");
  loop.start();
  std::atomic<int> unwound{0};
  TaskGroup tasks(loop.executor(), "test");
  loop.call([&] {
    for (int i = 0; i < 6; ++i)  // more than there are connections
      tasks.spawn("ask", [&]() -> awaitable<void> {
        struct Guard {
          std::atomic<int>& n;
          ~Guard() { ++n; }
        } guard{unwound};
        RangeRequest request{.key = "/a", .range_end = {}};
        (void)co_await patient->range(request);
      });
  });
  ASSERT_TRUE(test::eventually("four requests at the server", [&] { return fake.count == 1 + 4; }));
  loop.call([&] { tasks.cancel(); });
  EXPECT_TRUE(test::eventually("all callers back", [&] { return unwound == 6; }));
  test::run(loop, "join", [&]() -> awaitable<void> { co_await tasks.join(); });
  loop.stop();
}

// ---- pages

TEST_F(EtcdClientTest, PagesStayAtTheFirstRevisionAndStartAgainWhenItIsCompacted) {
  const auto page = [](const char* key, bool more) {
    return answer(fmt::format(R"(,"kvs":[{{"key":"{}"}}],"count":"2"{})", key, more ? R"(,"more":true)" : ""));
  };
  fake.on("kv/range", 200, page("L2E=", true));
  fake.on("kv/range", 400, R"({"message":"etcdserver: mvcc: required revision has been compacted","code":11})");
  fake.on("kv/range", 200, page("L2E=", true));
  fake.on("kv/range", 200, page("L2I=", false));
  auto c = client({.page = 1});
  auto r = range(*c, "/", "0");
  ASSERT_TRUE(r) << r.error().what;
  ASSERT_EQ(r->kvs.size(), 2U);
  EXPECT_EQ(r->kvs[1].key, "/b");
  const auto seen = fake.requests();
  ASSERT_EQ(seen.size(), 4U);
  EXPECT_EQ(seen[3].body, R"({"key":"L2EA","range_end":"MA==","limit":"1","revision":"7"})");
}

TEST_F(EtcdClientTest, AnAnswerTooLargeIsAskedForInSmallerPages) {
  fake.on("kv/range", 400, R"({"message":"grpc: received message larger than max","code":8})");
  fake.on("kv/range", 200, answer(R"(,"kvs":[{"key":"L2E="}],"count":"1")"));
  auto r = range(*client());
  ASSERT_TRUE(r) << r.error().what;
  EXPECT_NE(fake.requests()[1].body.find(R"("limit":"62")"), std::string::npos) << fake.requests()[1].body;
}

TEST_F(EtcdClientTest, AServerThatPromisesMoreForEverIsStopped) {
  fake.on("kv/range", 200, answer(R"(,"more":true,"count":"5")"));
  EXPECT_EQ(range(*client()).error().code, Errc::invalid);
  FakeEtcd same;
  same.on("kv/range", 200, answer(R"(,"kvs":[{"key":"L2E="}],"more":true,"count":"5")"));
  EXPECT_EQ(range(*client({.endpoints = {same.at()}})).error().code, Errc::invalid);
}

// ---- watches

TEST_F(EtcdClientTest, AWatchTellsEventsProgressAndTheEndOfHistory) {
  fake.on("watch", [](const http::Request&) {
    return watch_of(
        {created(),
         R"({"result":{"header":{"revision":"90"},"events":[{"kv":{"key":"L2E=","mod_revision":"8"}},{"kv":{"key":"L2E=","mod_revision":"11"}}]}})",
         R"({"result":{"header":{"revision":"95"}}})",
         R"({"result":{"header":{"revision":"99"},"canceled":true,"compact_revision":"97"}})"},
        true);
  });
  auto c = client();
  auto w = watch(*c, 9);
  ASSERT_TRUE(w) << w.error().what;
  auto batch = next(**w);
  ASSERT_TRUE(batch) << batch.error().what;
  EXPECT_EQ(batch->revision, 11) << "of the last event, not of the header: more of the past may follow";
  ASSERT_EQ(batch->events.size(), 1U) << "8 is older than what was asked for";
  batch = next(**w);
  ASSERT_TRUE(batch) << batch.error().what;
  EXPECT_EQ(batch->revision, 95);
  EXPECT_TRUE(batch->events.empty());
  batch = next(**w);
  ASSERT_FALSE(batch);
  EXPECT_EQ(batch.error().code, Errc::compacted) << batch.error().what;
  EXPECT_EQ((*w)->compacted_at(), 97);
  EXPECT_FALSE(next(**w)) << "dead";
  EXPECT_NE(fake.requests()[0].body.find(R"("start_revision":"8")"), std::string::npos) << fake.requests()[0].body;
}

TEST_F(EtcdClientTest, AWatchWithoutALineTimesOutAndADroppedOneIsClosed) {
  fake.on("watch", [](const http::Request&) { return watch_of({created()}, true); });
  auto c = client({.watch_silence = 200ms});
  auto w = watch(*c);
  ASSERT_TRUE(w) << w.error().what;
  EXPECT_EQ(fake.connections(), 1U);
  auto silent = next(**w);
  ASSERT_FALSE(silent);
  EXPECT_EQ(silent.error().code, Errc::timeout) << silent.error().what;
  EXPECT_TRUE(test::eventually("the first watch's connection closed", [&] { return fake.connections() == 0; }));
  auto dropped = watch(*client());
  ASSERT_TRUE(dropped);
  EXPECT_EQ(fake.connections(), 1U);
  dropped->reset();
  EXPECT_TRUE(test::eventually("the dropped watch's connection closed", [&] { return fake.connections() == 0; }));
}

TEST_F(EtcdClientTest, WatchesThatEndOtherwise) {
  struct Row {
    std::vector<std::string> lines;
    Errc at_open;
    Errc at_next;
  };
  constexpr Errc kNone = static_cast<Errc>(255);
  const std::string canceled =
      R"({"result":{"created":true,"canceled":true,"watch_id":"-1","cancel_reason":"rpc error: code = )";
  for (const Row& row : {
           Row{{created(), "garbage"}, kNone, Errc::invalid},
           Row{{created()}, kNone, Errc::closed},
           Row{{created(), R"({"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader"}})"},
               kNone,
               Errc::unavailable},
           Row{{created(), R"({"result":{"canceled":true}})"}, kNone, Errc::closed},
           Row{{canceled + R"(PermissionDenied desc = etcdserver: permission denied"}})"}, Errc::no_permission, kNone},
           Row{{canceled + R"(Unauthenticated desc = etcdserver: invalid auth token"}})"}, Errc::no_permission, kNone},
           Row{{created(), std::string(9 << 20, 'x')}, kNone, Errc::compacted},
           Row{{R"({"result":{}})"}, Errc::invalid, kNone},
           Row{{}, Errc::closed, kNone},
       }) {
    FakeEtcd server;
    server.on("watch", [lines = row.lines](const http::Request&) { return watch_of(lines, false); });
    auto c = client({.endpoints = {server.at()}});
    auto w = watch(*c);
    const std::string last = row.lines.empty() ? "nothing" : row.lines.back().substr(0, 200);
    EXPECT_EQ(w ? kNone : w.error().code, row.at_open) << last;
    if (!w) continue;
    auto end = next(**w);
    ASSERT_FALSE(end) << last;
    EXPECT_EQ(end.error().code, row.at_next) << last << " -> " << end.error().what;
  }
}

TEST_F(EtcdClientTest, AWatchRefusedForItsTokenLogsInAndOpensAgain) {
  test::TempDir dir("auth");
  ASSERT_TRUE(http::write_file(dir.file("pw"), "s3cret\n", 0600));
  fake.on("auth/authenticate", 200, answer(R"(,"token":"one.1")"));
  fake.on("auth/authenticate", 200, answer(R"(,"token":"two.2")"));
  fake.on("watch", [](const http::Request& r) {
    if (r.headers.get("Authorization") == "two.2") return watch_of({created()}, true);
    return watch_of(
        {R"({"result":{"created":true,"canceled":true,"watch_id":"-1","cancel_reason":"rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"}})"},
        false);
  });
  auto c = client({.username = "agent", .password_file = dir.file("pw")});
  auto w = watch(*c);
  EXPECT_TRUE(w) << w.error().what;
}

// ---- threads

TEST_F(EtcdClientTest, ManyLoopsAskAtOnce) {
  fake.on("kv/range", 200, answer(R"(,"count":"0")"));
  auto c = client();
  std::atomic<int> good{0};
  std::atomic<int> strayed{0};
  {
    std::vector<std::unique_ptr<Loop>> loops;
    std::vector<std::unique_ptr<TaskGroup>> groups;
    for (int i = 0; i < 4; ++i) {
      loops.push_back(std::make_unique<Loop>("caller"));
      loops.back()->start();
      groups.push_back(std::make_unique<TaskGroup>(loops.back()->executor(), "test"));
    }
    for (int i = 0; i < 4; ++i) {
      Loop* loop = loops[i].get();
      loop->call([&, i, loop] {
        for (int j = 0; j < 5; ++j)
          groups[i]->spawn("ask", [&, loop]() -> awaitable<void> {
            for (int n = 0; n < 20; ++n) {
              RangeRequest request{.key = "/a", .range_end = {}};
              auto r = co_await c->range(request);
              if (r) ++good;
              if (!loop->in_loop()) ++strayed;
            }
          });
      });
    }
    EXPECT_TRUE(test::eventually("400 answers", [&] { return good == 400; }));
    for (int i = 0; i < 4; ++i)
      test::run(*loops[i], "join", [&, i]() -> awaitable<void> { co_await groups[i]->join(); });
    for (auto& l : loops) l->stop();
    groups.clear();
  }
  EXPECT_EQ(strayed, 0);
}

}  // namespace calico::store
