// The controller whole: HTTP over TCP and TLS, the embedded datastore on a file, restarts, lost writes.
#include "modules/controller/service.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <set>

#include "core/http/client.hpp"
#include "core/store/kv.hpp"
#include "core/store/switch.hpp"
#include "modules/controller/persist.hpp"
#include "tests/support/await.hpp"
#include "tests/support/certificates.hpp"
#include "tests/support/wait.hpp"
#include "tests/unit/sync/fake_datastore.hpp"

namespace calico::controller {
namespace {

using test::eventually;

struct Reply2 {
  unsigned status = 0;
  json::value body;
  std::string text;
};

class ServiceTest : public testing::Test {
 protected:
  ~ServiceTest() override { stop(); }

  void start() {
    auto kv = store::Kv::open({.path = dir_.file("state.db"), .schemas = {}});
    ASSERT_TRUE(kv) << kv.error().what;
    kv_ = std::move(*kv);
    ServiceOptions options;
    options.kv = kv_.get();
    options.remote = remote_;
    options.database = dir_.file("state.db");
    options.listen = http::Endpoint{.tls = !tls_.cert_file.empty(), .host = "127.0.0.1", .port = 0};
    options.tls = tls_;
    options.tokens = tokens_;
    ready_ = false;
    ServiceHooks hooks;
    hooks.ready = [this] { ready_ = true; };
    hooks.fatal = [](const std::string& reason) { ADD_FAILURE() << reason; };
    service_ = std::make_unique<Service>(options, hooks);
    auto s = service_->start();
    ASSERT_TRUE(s) << s.error().what;
    ASSERT_TRUE(eventually("READY", [&] { return ready_.load(); }));
    connect(client_tls_);
  }
  void connect(const http::TlsFiles& files) {
    client_.reset();
    http::ClientOptions options;
    options.endpoints = {*service_->endpoint()};
    options.tls = files;
    options.max_connections = 64;
    auto client = runner_.loop().call([&] { return http::Client::create(runner_.loop().executor(), options); });
    ASSERT_TRUE(client) << client.error().what;
    client_ = std::move(*client);
  }
  void stop() {
    if (client_) {
      runner_.loop().call([&] { client_->close(); });
      runner_.loop().call([&] { client_.reset(); });
    }
    service_.reset();
    kv_.reset();
  }

  http::ClientRequest request(const char* method, const std::string& path, const std::string& body) const {
    http::ClientRequest r;
    r.method = method;
    r.target = "/v2.0/" + path;
    r.body = body;
    if (!token_.empty()) r.headers.set("X-Auth-Token", token_);
    return r;
  }
  static Reply2 read(const Result<http::Answer>& a) {
    EXPECT_TRUE(a) << a.error().what;
    if (!a) return {};
    Reply2 out{a->status, nullptr, a->body};
    if (!a->body.empty()) out.body = json::parse(a->body);
    return out;
  }
  Reply2 call(const char* method, const std::string& path, const json::value& body = nullptr) {
    return read(runner_.run(client_->request(request(method, path, body.is_null() ? "" : json::serialize(body)))));
  }
  std::string make(const std::string& one, json::object body) {
    std::string path = one;
    for (char& c : path) c = c == '_' ? '-' : c;
    auto a = call("POST", path + "s", json::object{{one, std::move(body)}});
    EXPECT_EQ(a.status, 201U) << a.text;
    return a.status == 201 ? std::string(a.body.at(one).at("id").as_string()) : std::string();
  }
  void put_key(const std::string& key, const std::string& value) {
    store::PutRequest put;
    put.key = key;
    put.value = value;
    auto r = runner_.run(kv_->put(put));
    ASSERT_TRUE(r) << r.error().what;
  }
  std::vector<store::KeyValue> keys(const std::string& prefix) {
    store::RangeRequest range;
    range.key = prefix;
    range.range_end = store::prefix_end(prefix);
    auto r = runner_.run(kv_->range(range));
    EXPECT_TRUE(r);
    return r ? r->kvs : std::vector<store::KeyValue>();
  }
  void demo() {
    put_key("/calico/felix/v2/no-region/host/h/status",
            R"({"time":"2026-01-01T00:00:00Z","uptime":1.0,"first_update":true})");
    ASSERT_TRUE(
        eventually("the agent", [&] { return call("GET", "agents").body.at("agents").as_array().size() == 1; }));
    net_ = make("network", {{"name", "demo"}, {"shared", true}});
    make("subnet", {{"network_id", net_}, {"ip_version", 4}, {"cidr", "10.65.0.0/16"}});
  }
  json::object vm(int n) const {
    return {{"network_id", net_},
            {"device_id", "i-" + std::to_string(n)},
            {"device_owner", "compute:nova"},
            {"binding:host_id", "h"}};
  }

  test::TempDir dir_{"controller"};
  test::LoopRunner runner_;
  std::unique_ptr<store::Kv> kv_;
  store::Datastore* remote_ = nullptr;
  std::unique_ptr<Service> service_;
  std::unique_ptr<http::Client> client_;
  std::atomic<bool> ready_{false};
  http::TlsFiles tls_, client_tls_;
  std::optional<Tokens> tokens_;
  std::string token_, net_;
};

const std::string kEndpoints = "/calico/resources/v3/projectcalico.org/workloadendpoints/";

TEST_F(ServiceTest, FromPostToActiveAndOverARestart) {
  start();
  EXPECT_EQ(keys("/calico/resources/v3/projectcalico.org/clusterinformations/default").size(), 1U);
  EXPECT_EQ(keys("/calico/resources/v3/projectcalico.org/felixconfigurations/default").size(), 1U);
  demo();
  auto port = make("port", vm(1));
  auto endpoints = keys(kEndpoints);
  ASSERT_EQ(endpoints.size(), 1U) << "written with the answer, not after it";
  EXPECT_EQ(
      endpoints[0].key, kEndpoints + "openstack/h-openstack-i--1-" + [&] {
        std::string doubled;
        for (char c : port) doubled.append(c == '-' ? 2 : 1, c);
        return doubled;
      }());
  auto status = [&] { return std::string(call("GET", "ports/" + port).body.at("port").at("status").as_string()); };
  EXPECT_EQ(status(), "DOWN");
  put_key("/calico/felix/v2/no-region/host/h/workload/openstack/openstack%2fi-1/endpoint/" + port,
          R"({"status":"up"})");
  ASSERT_TRUE(eventually("ACTIVE", [&] { return status() == "ACTIVE"; }));
  auto all = keys("/calico/");

  stop();
  start();
  EXPECT_EQ(status(), "ACTIVE") << "nothing of it is lost";
  EXPECT_TRUE(call("GET", "agents").body.at("agents").at(0).at("alive").as_bool());
  auto again = keys("/calico/");
  // A restart writes the policies of groups that no port uses; here there is none but `default`, which one does.
  EXPECT_EQ(again, all) << "a restart rewrites nothing";
  stop();
  start();
  EXPECT_EQ(keys("/calico/"), all);
  EXPECT_EQ(call("DELETE", "ports/" + port).status, 204U);
  EXPECT_TRUE(keys(kEndpoints).empty());
}

TEST_F(ServiceTest, RestartRepairsDriftAndKeepsWhatIsForeign) {
  start();
  demo();
  make("port", vm(1));
  auto key = keys(kEndpoints).at(0);
  store::DeleteRequest del;
  del.key = key.key;
  ASSERT_TRUE(runner_.run(kv_->del(del)));
  put_key(kEndpoints + "openstack/x-openstack-y-z", "{}");
  stop();
  start();
  auto now = keys(kEndpoints);
  ASSERT_EQ(now.size(), 2U);
  EXPECT_EQ(now[0].key, key.key);
  EXPECT_EQ(now[1].value, "{}");
}

TEST_F(ServiceTest, FiftyAtOnceShareCommits) {
  start();
  demo();
  make("port", vm(0));
  auto before = kv_->stats().commits;
  std::vector<std::future<Result<http::Answer>>> answers;
  auto begin = std::chrono::steady_clock::now();
  for (int i = 1; i <= 50; ++i) {
    auto body = json::serialize(json::object{{"port", vm(i)}});
    answers.push_back(runner_.start(client_->request(request("POST", "ports", body))));
  }
  std::set<std::string> addresses;
  for (auto& a : answers) {
    auto r = read(test::LoopRunner::wait(std::move(a)));
    ASSERT_EQ(r.status, 201U) << r.text;
    addresses.insert(std::string(r.body.at("port").at("fixed_ips").at(0).at("ip_address").as_string()));
  }
  auto took = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin).count();
  auto commits = kv_->stats().commits - before;
  std::printf("50 POST /ports at once: %.1f ms, %lu commits\n", static_cast<double>(took) / 1000, commits);
  EXPECT_EQ(addresses.size(), 50U);
  EXPECT_EQ(keys(kEndpoints).size(), 51U);
  EXPECT_LT(commits, 50U);
}

/// Somebody's write to our tables stands for a lost one: what comes next is refused whole, the state is read again.
TEST_F(ServiceTest, LostWriteIsRefusedAndRecovered) {
  start();
  demo();
  auto port = make("port", vm(1));
  auto before = keys("/calico/");
  {
    auto db = store::Db::open({.path = dir_.file("state.db")});
    ASSERT_TRUE(db);
    ASSERT_TRUE((*db)->run("UPDATE neutron_sequence SET number = number + 7 WHERE one = 1"));
  }
  auto refused = call("POST", "ports", json::object{{"port", vm(2)}});
  EXPECT_EQ(refused.status, 503U) << refused.text;
  EXPECT_EQ(refused.body.at("NeutronError").at("type").as_string(), "ServiceUnavailable");
  EXPECT_EQ(keys("/calico/"), before);
  EXPECT_EQ(call("GET", "ports").body.at("ports").as_array().size(), 1U);
  make("port", vm(2));
  EXPECT_EQ(call("GET", "ports").body.at("ports").as_array().size(), 2U);
  EXPECT_EQ(keys(kEndpoints).size(), 2U);
}

/// The cloud's datastore has moved: the embedded one is read-only and keeps the API's rows, a second Kv is the cloud's.
class MovedServiceTest : public ServiceTest {
 protected:
  void open_remote() {
    auto kv = store::Kv::open({.path = dir_.file("remote.db")});
    ASSERT_TRUE(kv) << kv.error().what;
    remote_kv_ = std::move(*kv);
    switch_->set(remote_kv_);
  }
  /// As a move does: what is there goes there, and here nobody writes any more.
  void move_away() {
    for (const auto& kv : keys("/calico/")) put_remote(kv.key, kv.value);
    auto frozen = runner_.run(kv_->txn_of_move({}, store::Kv::Then::frozen_for_good));
    ASSERT_TRUE(frozen) << frozen.error().what;
    stop();
    remote_ = switch_.get();
    start();
  }
  void put_remote(const std::string& key, const std::string& value) {
    store::PutRequest put;
    put.key = key;
    put.value = value;
    auto r = runner_.run(remote_kv_->put(put));
    ASSERT_TRUE(r) << r.error().what;
  }
  std::vector<store::KeyValue> remote_keys(const std::string& prefix) {
    store::RangeRequest range;
    range.key = prefix;
    range.range_end = store::prefix_end(prefix);
    auto r = runner_.run(remote_kv_->range(range));
    EXPECT_TRUE(r);
    return r ? r->kvs : std::vector<store::KeyValue>();
  }
  std::int64_t waiting() { return json::parse(service_->describe()).at("outbox").at("waiting").as_int64(); }
  void set_ready(bool ready) {
    auto info = json::parse(remote_keys(kInformation).at(0).value);
    info.at("spec").at("datastoreReady") = ready;
    put_remote(kInformation, json::serialize(info));
  }
  testing::AssertionResult endpoints_there(std::size_t n) {
    return eventually(std::to_string(n) + " endpoints", [&] { return remote_keys(kEndpoints).size() == n; });
  }
  const std::string kInformation = "/calico/resources/v3/projectcalico.org/clusterinformations/default";
  std::shared_ptr<store::Kv> remote_kv_;
  std::shared_ptr<store::Switch> switch_ = std::make_shared<store::Switch>();
};

TEST_F(MovedServiceTest, WhatTheApiIsAskedForArrivesElsewhereAndWhatIsReportedThereComesBack) {
  start();
  demo();
  make("port", vm(1));
  open_remote();
  move_away();
  const auto port = make("port", vm(2));
  ASSERT_TRUE(endpoints_there(2));
  EXPECT_EQ(keys(kEndpoints).size(), 1U) << "the one that was left is as it was";
  const auto status = [&] {
    return std::string(call("GET", "ports/" + port).body.at("port").at("status").as_string());
  };
  EXPECT_EQ(status(), "DOWN");
  put_remote("/calico/felix/v2/no-region/host/h/workload/openstack/openstack%2fi-2/endpoint/" + port,
             R"({"status":"up"})");
  ASSERT_TRUE(eventually("ACTIVE", [&] { return status() == "ACTIVE"; }));
  put_remote("/calico/felix/v2/no-region/host/h/datastore", R"({"generation":1})");
  EXPECT_EQ(call("DELETE", "ports/" + port).status, 204U);
  ASSERT_TRUE(endpoints_there(1));
  ASSERT_TRUE(eventually("an empty outbox", [&] { return waiting() == 0; }));

  // Drift is repaired, what is foreign stays.
  const auto ours = remote_keys(kEndpoints).at(0);
  stop();
  store::DeleteRequest del;
  del.key = ours.key;
  ASSERT_TRUE(runner_.run(remote_kv_->del(del)));
  put_remote(kEndpoints + "openstack/x-openstack-y-z", "{}");
  start();
  ASSERT_TRUE(endpoints_there(2));
  EXPECT_EQ(remote_keys(kEndpoints).at(0).key, ours.key);
}

TEST_F(MovedServiceTest, WhileTheDatastoreIsAwayTheApiAnswersAndAllOfItArrivesLater) {
  start();
  demo();
  const auto gone = make("port", vm(1));
  open_remote();
  move_away();
  switch_->set(nullptr);
  std::vector<std::string> made;
  for (int i = 2; i < 6; ++i) made.push_back(make("port", vm(i)));
  EXPECT_EQ(call("DELETE", "ports/" + gone).status, 204U);
  EXPECT_EQ(call("DELETE", "ports/" + made[0]).status, 204U) << "what comes and goes before it arrives";
  ASSERT_TRUE(eventually("the reason", [&] {
    return service_->describe().find("there is no datastore now") != std::string::npos;
  })) << service_->describe();
  const auto left = waiting();
  EXPECT_GE(left, 5);
  stop();  // with the outbox full
  start();
  EXPECT_EQ(waiting(), left);
  EXPECT_EQ(call("GET", "ports").body.at("ports").as_array().size(), 3U);
  EXPECT_EQ(remote_keys(kEndpoints).size(), 1U);

  // Nothing is written to one that is not ready, nor to another cloud's.
  set_ready(false);
  switch_->set(remote_kv_);
  ASSERT_TRUE(eventually("the reason", [&] { return service_->describe().find("not ready") != std::string::npos; }));
  EXPECT_EQ(waiting(), left);
  const auto ours = remote_keys(kInformation).at(0).value;
  put_remote(kInformation, R"({"kind":"ClusterInformation","spec":{"clusterGUID":"another","datastoreReady":true}})");
  ASSERT_TRUE(
      eventually("the reason", [&] { return service_->describe().find("another cloud") != std::string::npos; }));
  EXPECT_EQ(waiting(), left);
  put_remote(kInformation, ours);
  set_ready(true);
  ASSERT_TRUE(endpoints_there(3));
  ASSERT_TRUE(eventually("an empty outbox", [&] { return waiting() == 0; }));
  std::set<std::string> there;
  for (const auto& kv : remote_keys(kEndpoints))
    there.insert(json::parse(kv.value).at("spec").at("endpoint").as_string().c_str());
  EXPECT_EQ(there, (std::set<std::string>{made[1], made[2], made[3]}));
}

TEST_F(MovedServiceTest, AFullDatastoreLosesNothingAndItsAbsenceIsNoFaultOfTheAgents) {
  start();
  demo();
  open_remote();
  const auto fake = std::make_shared<test::FakeDatastore>();
  for (const auto& kv : keys("/calico/")) {
    store::PutRequest put;
    put.key = kv.key;
    put.value = kv.value;
    ASSERT_TRUE(runner_.run(fake->put(put)));
  }
  move_away();
  stop();
  switch_->set(nullptr);
  start();  // away from the first moment on
  const auto first = make("port", vm(1));
  EXPECT_EQ(call("GET", "ports/" + first).body.at("port").at("binding:vif_type").as_string(), "tap")
      << "nobody could be heard: that is not the host's fault";
  fake->fail_txn(Errc::exhausted);
  switch_->set(fake);
  ASSERT_TRUE(eventually("a refusal", [&] {
    const auto why = json::parse(service_->describe()).at("outbox").at("why");
    return !why.as_string().empty() && why.as_string().find("no datastore") == why.as_string().npos;
  })) << service_->describe();
  EXPECT_GE(waiting(), 1);
  fake->fail_txn(std::nullopt);
  ASSERT_TRUE(eventually("an empty outbox", [&] { return waiting() == 0; }));
  store::RangeRequest range;
  range.key = kEndpoints;
  range.range_end = store::prefix_end(kEndpoints);
  EXPECT_EQ(runner_.run(fake->range(range))->kvs.size(), 1U);
}

TEST_F(MovedServiceTest, WhatWasSentAndNotForgottenIsNoFaultAndWhatIsLeftComesBackWithTheDatastore) {
  start();
  demo();
  const auto first = make("port", vm(1));
  open_remote();
  move_away();
  switch_->set(nullptr);
  make("port", vm(2));
  EXPECT_EQ(call("DELETE", "ports/" + first).status, 204U);
  stop();
  {
    // Sent, and the process died before it forgot: the rows are there again.
    auto db = store::Db::open({.path = dir_.file("state.db")});
    ASSERT_TRUE(db);
    auto left = Outbox::load(**db);
    ASSERT_TRUE(left);
    ASSERT_GE(left->size(), 2U);
    switch_->set(remote_kv_);
    start();
    ASSERT_TRUE(eventually("an empty outbox", [&] { return waiting() == 0; }));
    stop();
    ASSERT_TRUE(Outbox::write(**db, *left));
  }
  const auto before = remote_keys("/calico/resources/");
  start();
  ASSERT_TRUE(eventually("an empty outbox", [&] { return waiting() == 0; }));
  EXPECT_EQ(remote_keys("/calico/resources/"), before) << "nothing is written twice";

  // The datastore comes back here while something waits.
  switch_->set(nullptr);
  const auto last = make("port", vm(3));
  stop();
  auto kv = store::Kv::open({.path = dir_.file("state.db"), .schemas = {}});
  ASSERT_TRUE(kv);
  for (const auto& e : before) {
    store::TxnRequest txn;
    store::PutRequest put;
    put.key = e.key;
    put.value = e.value;
    txn.success.emplace_back(std::move(put));
    ASSERT_TRUE(runner_.run((*kv)->txn_of_move(std::move(txn), store::Kv::Then::thawed)));
  }
  kv->reset();
  remote_ = nullptr;
  start();
  EXPECT_EQ(call("GET", "ports").body.at("ports").as_array().size(), 2U);
  bool found = false;
  for (const auto& e : keys(kEndpoints)) found = found || e.value.find(last) != std::string::npos;
  EXPECT_TRUE(found) << "what waited is here, and nothing of it waits any more";
  auto db = store::Db::open({.path = dir_.file("state.db")});
  auto left = Outbox::load(**db);
  ASSERT_TRUE(left);
  EXPECT_TRUE(left->empty());
}

TEST_F(ServiceTest, TokensDecideWhoMayWhat) {
  auto tokens = Tokens::parse(
      "# who\n"
      "0123456789abcdef-admin  p-admin admin name=ops parent=default\n"
      "0123456789abcdef-tenant p-tenant\n",
      "tokens");
  ASSERT_TRUE(tokens) << tokens.error().what;
  tokens_ = *tokens;
  start();
  auto none = call("GET", "networks");
  EXPECT_EQ(none.status, 401U);
  EXPECT_EQ(none.body.at("NeutronError").at("type").as_string(), "HTTPUnauthorized");
  token_ = "0123456789abcdef-wrong";
  EXPECT_EQ(call("POST", "networks", json::parse(R"({"network":{}})")).status, 401U);
  EXPECT_EQ(call("GET", "").status, 401U);
  token_ = "0123456789abcdef-tenant";
  EXPECT_EQ(call("GET", "networks").status, 200U);
  EXPECT_EQ(call("GET", "agents").status, 403U);
  auto own = make("network", {{"name", "mine"}});
  EXPECT_EQ(call("GET", "networks/" + own).body.at("network").at("project_id").as_string(), "p-tenant");
  token_ = "0123456789abcdef-admin";
  EXPECT_EQ(call("GET", "agents").status, 200U);
  EXPECT_EQ(call("GET", "networks").body.at("networks").as_array().size(), 1U);
  auto fewer = Tokens::parse("0123456789abcdef-other p admin\n", "tokens");
  ASSERT_TRUE(fewer);
  service_->use_tokens(*fewer);
  EXPECT_EQ(call("GET", "networks").status, 401U);
}

TEST_F(ServiceTest, TlsAndClientCertificates) {
  test::Certificates pki;
  tls_ = pki.issue("controller");
  client_tls_ = pki.issue("client");
  start();
  EXPECT_EQ(call("GET", "networks").status, 200U);
  auto bare = client_tls_;
  bare.cert_file.clear();
  bare.key_file.clear();
  connect(bare);
  auto refused = runner_.run(client_->request(request("GET", "networks", "")));
  EXPECT_FALSE(refused) << "no client certificate: " << refused->status;
}

TEST_F(ServiceTest, BodiesBeyondTheLimit) {
  start();
  auto big = call("POST", "networks", json::object{{"network", json::object{{"name", std::string(2 << 20, 'x')}}}});
  EXPECT_EQ(big.status, 413U);
  EXPECT_EQ(big.body.at("NeutronError").at("type").as_string(), "HTTPRequestEntityTooLarge");
  EXPECT_EQ(call("PATCH", "networks").status, 405U);
  EXPECT_EQ(call("GET", "networks").status, 200U);
}

TEST(Tokens, FilesAreChecked) {
  auto error = [](const std::string& text) {
    auto t = Tokens::parse(text, "f");
    return t ? std::string("fine") : t.error().what;
  };
  EXPECT_EQ(error("0123456789abcdef p\n"), "fine");
  EXPECT_NE(error(""), "fine");
  EXPECT_NE(error("short p"), "fine");
  EXPECT_NE(error("0123456789abcdef"), "fine");
  EXPECT_NE(error("0123456789abcdef p superuser"), "fine");
  auto admin =
      Tokens::parse("0123456789abcdef admin\n0123456789abcdeg admin admin\n0123456789abcdeh p admin name=n", "f");
  ASSERT_TRUE(admin) << admin.error().what;
  for (const char* token : {"0123456789abcdef", "0123456789abcdeg", "0123456789abcdeh"}) {
    auto caller = admin->find(token);
    ASSERT_TRUE(caller);
    EXPECT_TRUE(caller->admin);
    EXPECT_EQ(caller->project, token[15] == 'h' ? "p" : "admin");
  }
  EXPECT_EQ(admin->projects().at("p").name, "n");
  auto twice = error("\n0123456789abcdef p\n0123456789abcdef q\n");
  EXPECT_TRUE(twice.starts_with("f:3: ")) << twice;
  EXPECT_EQ(twice.find("0123456789abcdef"), std::string::npos) << "no secret in a message";
  auto missing = Tokens::read("/nonexistent/tokens");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, Errc::not_found);
  auto path = std::filesystem::temp_directory_path() / ("tokens-" + std::to_string(getpid()));
  std::ofstream(path) << "0123456789abcdef p admin\n";
  std::filesystem::permissions(path, std::filesystem::perms(0644));
  auto open = Tokens::read(path.string());
  ASSERT_FALSE(open);
  EXPECT_EQ(open.error().code, Errc::no_permission);
  std::filesystem::permissions(path, std::filesystem::perms(0640));
  auto fine = Tokens::read(path.string());
  EXPECT_TRUE(fine);
  EXPECT_TRUE(fine->find("0123456789abcdef"));
  EXPECT_FALSE(fine->find("0123456789abcdeg"));
  EXPECT_FALSE(fine->find("0123456789abcdef "));
  EXPECT_FALSE(fine->find(""));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace calico::controller
