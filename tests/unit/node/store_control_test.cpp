#include "core/node/store_control.hpp"

#include <atomic>
#include <boost/json.hpp>
#include <map>
#include <mutex>
#include <sstream>

#include "core/loop/task_group.hpp"
#include "tests/unit/sync/fake_datastore.hpp"
#include "tests/unit/sync/support.hpp"

namespace calico::node {
namespace {

namespace json = boost::json;
using test::eventually;

class FakeControl final : public module::Control {
 public:
  void handle(std::string route, module::ControlHandler handler) override { handlers[route] = std::move(handler); }
  void stream(std::string route, module::ControlStream handler) override { streams[route] = std::move(handler); }
  std::map<std::string, module::ControlHandler> handlers;
  std::map<std::string, module::ControlStream> streams;
};

/// Somebody who listens to a stream.
class Listener {
 public:
  Listener(const FakeControl& control, const std::string& route, std::map<std::string, std::string> query) {
    loop_.start();
    module::ControlRequest request;
    request.query = std::move(query);
    module::ControlWrite write = [this](std::string text) -> boost::asio::awaitable<bool> {
      std::lock_guard lock(m_);
      std::istringstream in(text);
      for (std::string line; std::getline(in, line);) lines_.push_back(json::parse(line));
      co_return true;
    };
    loop_.call([&] {
      tasks_.spawn("listen",
                   [this, stream = control.streams.at(route), request, write]() -> boost::asio::awaitable<void> {
                     co_await stream(request, write);
                     ended_ = true;
                   });
    });
  }
  ~Listener() {
    loop_.call([this] { tasks_.cancel(); });
    loop_.stop();
  }
  std::vector<json::value> lines() {
    std::lock_guard lock(m_);
    return lines_;
  }
  bool ended() const { return ended_; }
  testing::AssertionResult hears(std::size_t n) {
    return eventually(fmt::format("{} lines", n), [&] { return lines().size() >= n; });
  }

 private:
  Loop loop_{"listener"};
  TaskGroup tasks_{loop_.executor(), "listener"};
  std::mutex m_;
  std::vector<json::value> lines_;
  std::atomic<bool> ended_ = false;
};

class StoreControlTest : public testing::Test {
 protected:
  void SetUp() override {
    sync::Options o;
    o.datastore = fake_;
    o.node = "host-a";
    o.timing = test::quick();
    auto s = sync::Service::open(std::move(o));
    ASSERT_TRUE(s);
    service_ = std::move(*s);
    store_.put(test::kInfoKey, test::info());
    service_->start();
    commands_ = std::make_unique<StoreControl>(*service_, "", control_);
    ASSERT_TRUE(eventually("in sync", [&] { return service_->view().state().phase == sync::Phase::in_sync; }));
  }
  void TearDown() override {
    commands_.reset();
    service_.reset();
  }
  std::pair<int, json::value> ask(const std::string& route, std::map<std::string, std::string> query = {}) {
    module::ControlRequest r;
    r.query = std::move(query);
    const auto reply = control_.handlers.at(route)(r);
    return {reply.status, json::parse(reply.json)};
  }

  std::shared_ptr<test::FakeDatastore> fake_ = std::make_shared<test::FakeDatastore>();
  test::Client store_{fake_};
  FakeControl control_;
  std::unique_ptr<sync::Service> service_;
  std::unique_ptr<StoreControl> commands_;
};

TEST_F(StoreControlTest, StatusSaysWhatIs) {
  const auto [code, v] = ask("GET /store/status");
  EXPECT_EQ(code, 200);
  EXPECT_EQ(v.at("phase"), "in sync");
  EXPECT_EQ(v.at("cluster_guid"), "guid-1");
  EXPECT_EQ(v.at("mirror").at("keys"), 1);
  EXPECT_EQ(v.at("counters").at("lists"), 1);
}

TEST_F(StoreControlTest, GetReadsTheDatastoreAndTheMirror) {
  store_.put("/calico/other/1", "a");
  store_.put("/calico/other/2", "b");
  EXPECT_EQ(ask("GET /store/get", {{"key", "/calico/other/1"}}).second.at("kvs").at(0).at("value"), "a");
  EXPECT_EQ(ask("GET /store/get", {{"key", "/calico/other/"}, {"prefix", "yes"}}).second.at("kvs").as_array().size(),
            2U);
  EXPECT_EQ(ask("GET /store/get", {{"key", "/calico/other/1"}, {"local", "yes"}}).first, 404) << "not mirrored";
  EXPECT_EQ(ask("GET /store/get", {{"key", test::kInfoKey}, {"local", "yes"}}).first, 200);
  EXPECT_EQ(ask("GET /store/get", {{"key", "/none"}}).first, 404);
  EXPECT_EQ(ask("GET /store/get").first, 400);
  fake_->set_down(true);
  EXPECT_EQ(ask("GET /store/get", {{"key", "/calico/other/1"}}).first, 503);
  EXPECT_EQ(ask("GET /store/get", {{"key", test::kInfoKey}, {"local", "yes"}}).first, 200);
}

TEST_F(StoreControlTest, WatchTellsChangesAndGoesOnAfterAnOutage) {
  store_.put("/calico/other/1", "before");
  Listener all(control_, "GET /store/watch", {});
  Listener one(control_, "GET /store/watch", {{"key", "/calico/other/1"}});
  ASSERT_TRUE(all.hears(1));
  ASSERT_TRUE(one.hears(1));
  EXPECT_EQ(all.lines()[0].at("watching"), "/calico/…");
  const auto revision = store_.put("/calico/other/1", "a \"b\"\n");
  EXPECT_EQ(one.lines()[0].at("revision"), revision - 1);
  store_.put("/calico/other/2", "b");
  store_.del("/calico/other/1");
  ASSERT_TRUE(all.hears(4));
  ASSERT_TRUE(one.hears(3));
  EXPECT_EQ(one.lines()[1].at("type"), "put");
  EXPECT_EQ(one.lines()[1].at("key"), "/calico/other/1");
  EXPECT_EQ(one.lines()[1].at("value"), "a \"b\"\n");
  EXPECT_EQ(one.lines()[1].at("revision"), revision);
  EXPECT_EQ(one.lines()[1].at("version"), 2);
  EXPECT_EQ(one.lines()[2].at("type"), "delete");
  fake_->set_down(true);
  ASSERT_TRUE(one.hears(4));
  EXPECT_NE(one.lines()[3].as_object().if_contains("lost"), nullptr) << json::serialize(one.lines()[3]);
  fake_->set_down(false);
  store_.put("/calico/other/1", "c");
  ASSERT_TRUE(one.hears(6));
  EXPECT_NE(one.lines()[4].as_object().if_contains("watching"), nullptr);
  EXPECT_EQ(one.lines()[5].at("value"), "c");
  fake_->silence();
  store_.put("/calico/other/1", "d");
  ASSERT_TRUE(one.hears(7)) << "silence is not told";
  EXPECT_EQ(one.lines()[6].at("value"), "d");
  EXPECT_FALSE(one.ended());
}

TEST_F(StoreControlTest, WatchEndsWithAReason) {
  const auto old = store_.put("/calico/other/1", "a");
  store_.compact(store_.put("/calico/other/1", "b"));
  Listener past(control_, "GET /store/watch", {{"key", "/calico/other/1"}, {"from", std::to_string(old)}});
  ASSERT_TRUE(eventually("the end", [&] { return past.ended(); }));
  EXPECT_NE(past.lines().back().at("error").as_string().find("compacted"), json::string::npos);
  for (const char* bad : {"x", "-1", "0", "99999999999999999999", "1 "}) {
    Listener refused(control_, "GET /store/watch", {{"key", "/k"}, {"from", bad}});
    ASSERT_TRUE(eventually("the end", [&] { return refused.ended(); })) << bad;
    EXPECT_EQ(refused.lines().size(), 1U);
  }
}

TEST_F(StoreControlTest, AcceptNeedsARefusal) {
  EXPECT_EQ(ask("POST /store/accept").first, 409);
  store_.put(test::kInfoKey, test::info("guid-2"));
  ASSERT_TRUE(eventually("the refusal", [&] { return service_->view().state().phase == sync::Phase::refusing; }));
  const auto [code, v] = ask("POST /store/accept");
  EXPECT_EQ(code, 200);
  EXPECT_NE(v.at("accepted").as_string().find("guid-2"), std::string::npos);
  ASSERT_TRUE(eventually("in sync", [&] { return service_->view().state().phase == sync::Phase::in_sync; }));
}

TEST_F(StoreControlTest, ListsAndDeletesNodes) {
  store_.put(model::node_key("rr-1"),
             R"({"kind":"Node","metadata":{"name":"rr-1","labels":{"roles.calico-node/route-reflector":"true",)"
             R"("roles.calico-node/controller":"true","x":"y"}},"spec":{"bgp":{"ipv4Address":"192.0.2.9/24",)"
             R"("asNumber":64512,"routeReflectorClusterID":"192.0.2.9"},"addresses":[{"address":"198.51.100.1"}]}})");
  store_.put(model::node_key("bad"), "[");
  store_.put(model::node_key("quiet"),
             R"({"kind":"Node","metadata":{"name":"quiet","labels":{"roles.calico-node/compute":"true"}},"spec":{}})");
  store_.put(model::node_key("z"), R"({"kind":"Node","metadata":{"name":"z"},"spec":{}})");
  store_.put(model::status_key("", "rr-1"), "{}");
  ASSERT_TRUE(eventually("the Nodes", [&] { return service_->view().range(model::kNodes).size() == 4; }));
  const auto [code, v] = ask("GET /node/list");
  EXPECT_EQ(code, 200);
  ASSERT_EQ(v.at("nodes").as_array().size(), 3U);
  const auto& rr = v.at("nodes").at(1);
  EXPECT_EQ(json::serialize(rr),
            R"({"name":"rr-1","roles":["controller","route-reflector"],"ipv4":"192.0.2.9","ipv6":null,"as":64512,)"
            R"("cluster_id":"192.0.2.9","addresses":["192.0.2.9","198.51.100.1"],"draining":false,"alive":true})");
  EXPECT_EQ(v.at("nodes").at(0).at("alive"), false);
  EXPECT_TRUE(v.at("nodes").at(2).at("alive").is_null()) << "nothing there would say so";
  EXPECT_EQ(v.at("ignored").as_array().size(), 1U);

  EXPECT_EQ(ask("POST /node/delete", {{"name", "nobody"}}).first, 404);
  EXPECT_EQ(ask("POST /node/delete", {{"name", "a/b"}}).first, 400);
  EXPECT_EQ(ask("POST /node/delete").first, 400);
  EXPECT_EQ(ask("POST /node/delete", {{"name", "rr-1"}}).first, 200);
  ASSERT_TRUE(eventually("the deletion", [&] { return service_->view().range(model::kNodes).size() == 3; }));
  fake_->set_down(true);
  EXPECT_EQ(ask("POST /node/delete", {{"name", "quiet"}}).first, 503);
  const auto down = ask("GET /node/list");
  EXPECT_EQ(down.first, 200) << "the last known Nodes, from the mirror";
  EXPECT_TRUE(down.second.at("nodes").at(0).at("alive").is_null());
}

TEST_F(StoreControlTest, DrainIsAnAnnotationAndKeepsTheRest) {
  const auto key = model::node_key("c1");
  store_.put(key, R"({"kind":"Node","metadata":{"name":"c1","annotations":{"mine":"1"}},"spec":{"x":{"y":[1]}}})");
  store_.put(model::node_key("bad"), "[");
  const auto [code, v] = ask("POST /node/drain", {{"name", "c1"}});
  EXPECT_EQ(code, 200);
  EXPECT_EQ(v.at("changed"), true);
  EXPECT_EQ(store_.get(key)->value,
            R"({"kind":"Node","metadata":{"name":"c1","annotations":{"mine":"1","calico-node/drain":"yes"}},)"
            R"("spec":{"x":{"y":[1]}}})");
  ASSERT_TRUE(eventually("the list", [&] {
    const auto list = ask("GET /node/list").second;
    for (const auto& n : list.at("nodes").as_array())
      if (n.at("name") == "c1") return n.at("draining") == json::value(true);
    return false;
  }));
  const auto revision = store_.get(key)->mod_revision;
  EXPECT_EQ(ask("POST /node/drain", {{"name", "c1"}}).second.at("changed"), false);
  EXPECT_EQ(store_.get(key)->mod_revision, revision) << "nothing to say, nothing written";

  const auto off = ask("POST /node/drain", {{"name", "c1"}, {"off", "yes"}});
  EXPECT_EQ(off.first, 200);
  EXPECT_EQ(off.second.at("draining"), false);
  EXPECT_EQ(store_.get(key)->value,
            R"({"kind":"Node","metadata":{"name":"c1","annotations":{"mine":"1"}},"spec":{"x":{"y":[1]}}})");
  EXPECT_EQ(ask("POST /node/drain", {{"name", "c1"}, {"off", "yes"}}).second.at("changed"), false);

  EXPECT_EQ(ask("POST /node/drain", {{"name", "nobody"}}).first, 404);
  EXPECT_EQ(ask("POST /node/drain", {{"name", "a/b"}}).first, 400);
  EXPECT_EQ(ask("POST /node/drain").first, 400);
  EXPECT_EQ(ask("POST /node/drain", {{"name", "bad"}}).first, 409) << "not ours to mend";
  EXPECT_EQ(store_.get(model::node_key("bad"))->value, "[");
  fake_->set_down(true);
  EXPECT_EQ(ask("POST /node/drain", {{"name", "c1"}}).first, 503);
}

TEST_F(StoreControlTest, DeletionTakesCertificatesBackFirst) {
  store_.put(model::node_key("compute-1"), "{}");
  std::vector<std::string> asked;
  Result<std::vector<std::string>> answer = std::vector<std::string>{"aa", "bb"};
  bool there_still = false;
  commands_.reset();
  commands_ = std::make_unique<StoreControl>(*service_, "", control_, [&](const std::string& name) {
    asked.push_back(name);
    there_still = ask("GET /store/get", {{"key", model::node_key("compute-1")}}).first == 200;
    return answer;
  });
  const auto [code, v] = ask("POST /node/delete", {{"name", "compute-1"}});
  EXPECT_EQ(code, 200);
  EXPECT_EQ(v.at("revoked"), 2);
  EXPECT_TRUE(there_still);
  EXPECT_EQ(asked, std::vector<std::string>{"compute-1"});
  EXPECT_EQ(ask("POST /node/delete", {{"name", "compute-1"}}).first, 200) << "certificates without a Node";
  answer = std::vector<std::string>();
  EXPECT_EQ(ask("POST /node/delete", {{"name", "compute-1"}}).first, 404);
  store_.put(model::node_key("compute-1"), "{}");
  answer = fail(Errc::timeout, "the disk is slow");
  EXPECT_EQ(ask("POST /node/delete", {{"name", "compute-1"}}).first, 503);
  EXPECT_EQ(ask("GET /store/get", {{"key", model::node_key("compute-1")}}).first, 200) << "nothing half done";
}

}  // namespace
}  // namespace calico::node
