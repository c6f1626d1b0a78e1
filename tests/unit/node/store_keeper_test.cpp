#include "core/node/store_keeper.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <fstream>
#include <map>

#include "core/log/log.hpp"
#include "tests/support/await.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace calico::node {
namespace {

namespace json = boost::json;

class FakeControl final : public module::Control {
 public:
  void handle(std::string route, module::ControlHandler handler) override { handlers[route] = std::move(handler); }
  std::pair<int, json::value> ask(const std::string& route, std::map<std::string, std::string> query = {}) {
    module::ControlRequest r;
    r.query = std::move(query);
    const auto reply = handlers.at(route)(r);
    return {reply.status, json::parse(reply.json)};
  }
  std::map<std::string, module::ControlHandler> handlers;
};

class StoreKeeperTest : public testing::Test {
 protected:
  void open(StoreKeeper::Audit audit) {
    keeper_ = std::make_unique<StoreKeeper>(dir_.path(), audit);
    store::Kv::Options o;
    o.path = dir_.file("state.db");
    keeper_->prepare(o);
    auto kv = store::Kv::open(std::move(o));
    ASSERT_TRUE(kv) << kv.error().what;
    kv_ = std::move(*kv);
    keeper_->start();
    StoreKeeper::handle(control_, keeper_.get());
  }
  void close() {
    if (kv_) kv_->stop();
    keeper_.reset();
    kv_.reset();
  }
  void TearDown() override { close(); }
  store::Revision put(std::string key, std::string value, std::string who) {
    store::PutRequest request{.key = std::move(key), .value = std::move(value), .who = std::move(who)};
    auto r = runner_.run(kv_->put(request));
    EXPECT_TRUE(r);
    return r ? r->revision : 0;
  }

  test::TempDir dir_{"keeper"};
  test::LoopRunner runner_;
  FakeControl control_;
  std::unique_ptr<StoreKeeper> keeper_;
  std::unique_ptr<store::Kv> kv_;
};

TEST_F(StoreKeeperTest, SavesAndListsBackups) {
  open(StoreKeeper::Audit::no);
  const auto revision = put("/calico/a", "1", {});
  ASSERT_TRUE(test::eventually("the first daily backup", [&] {
    return control_.ask("GET /store/backups").second.at("files").as_array().size() == 1;
  }));
  EXPECT_EQ(control_.ask("GET /store/backups").second.at("error"), "");
  EXPECT_EQ(control_.ask("GET /store/save").first, 404);
  const auto [code, v] = control_.ask("POST /store/save", {{"file", dir_.file("copy.db")}});
  ASSERT_EQ(code, 200) << json::serialize(v);
  EXPECT_EQ(v.at("revision"), revision);
  EXPECT_EQ(v.at("keys"), 1);
  EXPECT_EQ(v.at("file").as_string(), std::string_view(dir_.file("copy.db")));
  EXPECT_TRUE(store::check_store_file(dir_.file("copy.db")));
  EXPECT_EQ(control_.ask("POST /store/save", {{"file", dir_.file("copy.db")}}).first, 409);
  EXPECT_EQ(control_.ask("POST /store/save", {{"file", "copy.db"}}).first, 400);
  EXPECT_EQ(control_.ask("POST /store/save").first, 400);
}

TEST_F(StoreKeeperTest, AHostWithoutTheDatastoreSaysSo) {
  StoreKeeper::handle(control_, nullptr);
  const auto [code, v] = control_.ask("POST /store/save", {{"file", dir_.file("copy.db")}});
  EXPECT_EQ(code, 409);
  EXPECT_NE(v.at("error").as_string().find("not on this host"), std::string::npos);
}

// The log goes to stderr: the test reads its own.
class Stderr {
 public:
  explicit Stderr(std::string path) : path_(std::move(path)) {
    std::fflush(stderr);
    saved_ = ::dup(2);
    const int fd = ::open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    ::dup2(fd, 2);
    ::close(fd);
    log::init(log::Level::info, log::Format::json);
  }
  std::vector<json::object> lines() {
    std::fflush(stderr);
    ::dup2(saved_, 2);
    ::close(saved_);
    std::vector<json::object> out;
    std::ifstream in(path_);
    for (std::string line; std::getline(in, line);) out.push_back(json::parse(line).as_object());
    return out;
  }

 private:
  std::string path_;
  int saved_ = -1;
};

TEST_F(StoreKeeperTest, EveryWriteIsALineOfTheLog) {
  Stderr output(dir_.file("stderr"));
  open(StoreKeeper::Audit::intent);
  const auto one = put("/calico/a", "secret value", "compute-1");
  put("/calico/felix/v2/no-region/host/h/status", "{}", "compute-1");
  store::TxnRequest txn{.success = {}, .failure = {}, .who = "neutron\nforged"};
  txn.success.push_back(store::PutRequest{.key = "/calico/b\n", .value = "1"});
  txn.success.push_back(store::DeleteRequest{.key = "/calico/a", .range_end = {}});
  const auto two = runner_.run(kv_->txn(txn))->revision;
  const auto lease = runner_.run(kv_->lease_grant(60))->id;
  store::PutRequest leased{.key = "/calico/c", .value = "1", .lease = lease};
  ASSERT_TRUE(runner_.run(kv_->put(leased)));
  ASSERT_TRUE(runner_.run(kv_->lease_revoke(lease)));
  close();  // what waits is written
  std::vector<std::string> seen;
  std::string all;
  for (const auto& line : output.lines()) {
    all += json::serialize(line);
    if (line.at("id") != "store.write") continue;
    const auto text = [&](const char* key) {
      const auto& v = line.at(key);
      return v.is_string() ? std::string(v.get_string()) : json::serialize(v);
    };
    seen.push_back(fmt::format("{} {} {}", text("who"), text("revision"), text("keys")));
  }
  ASSERT_EQ(seen.size(), 4U) << all;
  EXPECT_EQ(seen[0], fmt::format("compute-1 {} put /calico/a", one));
  EXPECT_EQ(seen[1], fmt::format("neutron\nforged {} put /calico/b\n, delete /calico/a", two));
  EXPECT_EQ(seen[2].substr(0, 9), "not said ");
  EXPECT_EQ(seen[3], fmt::format("lease {:x} revoked {} delete /calico/c", lease, two + 2));
  EXPECT_EQ(all.find("secret value"), std::string::npos);
}

TEST(StoreKeeperKeys, AreBoundedAndChosen) {
  store::Revised r;
  for (int i = 0; i < 40; ++i) {
    auto change = std::make_shared<store::Change>();
    change->kv = std::make_shared<const store::KeyValue>(
        store::KeyValue{.key = i < 20 ? fmt::format("/calico/felix/{}", i) : fmt::format("/k{}", i), .value = {}});
    r.changes.push_back(std::move(change));
  }
  EXPECT_EQ(StoreKeeper::keys_of(r, StoreKeeper::Audit::no), "");
  const auto intent = StoreKeeper::keys_of(r, StoreKeeper::Audit::intent);
  EXPECT_EQ(intent.substr(0, 19), "put /k20, put /k21,");
  EXPECT_NE(intent.find(" and 4 more"), std::string::npos) << intent;
  EXPECT_NE(StoreKeeper::keys_of(r, StoreKeeper::Audit::all).find(" and 24 more"), std::string::npos);
}

}  // namespace
}  // namespace calico::node
