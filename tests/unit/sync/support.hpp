#pragma once
/// What the tests of sync share: calls of a datastore from a test's thread, the usual keys, a watcher that keeps a map.
#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_future.hpp>
#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <mutex>

#include "core/loop/loop.hpp"
#include "core/model/keys.hpp"
#include "core/sync/service.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace calico::test {

inline const std::string kInfoKey(model::kClusterInformation);

inline std::string info(const std::string& guid = "guid-1", bool ready = true) {
  return fmt::format(
      R"({{"kind":"ClusterInformation","metadata":{{"name":"default"}},"spec":{{"clusterGUID":"{}","datastoreReady":{}}}}})",
      guid, ready);
}
inline std::string endpoint_key(const std::string& host, int n) {
  return model::workload_endpoint_key("openstack",
                                      {host, "openstack", fmt::format("vm-{}", n), fmt::format("port-{}", n)});
}

/// A datastore used from the test's thread; every call must succeed unless it returns a Result.
class Client {
 public:
  explicit Client(std::shared_ptr<store::Datastore> ds) : ds_(std::move(ds)) { loop_.start(); }
  ~Client() { loop_.stop(); }

  template <class T>
  T wait(std::function<boost::asio::awaitable<T>()> f) {
    auto future = boost::asio::co_spawn(loop_.io(), std::move(f), boost::asio::use_future);
    if (future.wait_for(std::chrono::seconds(30)) != std::future_status::ready) {
      ADD_FAILURE() << "the datastore did not answer within 30 s";
      std::abort();
    }
    return future.get();
  }
  store::Revision put(const std::string& key, const std::string& value) {
    auto r = wait<Result<store::PutResult>>([&]() -> boost::asio::awaitable<Result<store::PutResult>> {
      store::PutRequest request;
      request.key = key;
      request.value = value;
      co_return co_await ds_->put(std::move(request));
    });
    EXPECT_TRUE(r) << r.error().what;
    return r ? r->revision : 0;
  }
  void del(const std::string& key, bool prefix = false) {
    auto r = wait<Result<store::DeleteResult>>([&]() -> boost::asio::awaitable<Result<store::DeleteResult>> {
      store::DeleteRequest request;
      request.key = key;
      if (prefix) request.range_end = store::prefix_end(key);
      co_return co_await ds_->del(std::move(request));
    });
    EXPECT_TRUE(r) << r.error().what;
  }
  std::optional<store::KeyValue> get(const std::string& key) {
    auto all = range(key, false);
    if (all.empty()) return std::nullopt;
    return all.front();
  }
  std::vector<store::KeyValue> range(const std::string& key, bool prefix = true) {
    auto r = wait<Result<store::RangeResult>>([&]() -> boost::asio::awaitable<Result<store::RangeResult>> {
      store::RangeRequest request;
      request.key = key;
      if (prefix) request.range_end = store::prefix_end(key);
      co_return co_await ds_->range(std::move(request));
    });
    EXPECT_TRUE(r) << r.error().what;
    return r ? r->kvs : std::vector<store::KeyValue>{};
  }
  void compact(store::Revision revision) {
    auto r = wait<Result<store::Revision>>(
        [&]() -> boost::asio::awaitable<Result<store::Revision>> { co_return co_await ds_->compact(revision); });
    EXPECT_TRUE(r) << r.error().what;
  }
  void revoke(store::LeaseId id) {
    auto r = wait<Status>([&]() -> boost::asio::awaitable<Status> { co_return co_await ds_->lease_revoke(id); });
    EXPECT_TRUE(r) << r.error().what;
  }

 private:
  std::shared_ptr<store::Datastore> ds_;
  Loop loop_{"test-client"};
};

/// Follows a View on a loop of its own, as a module does.
class Follower {
 public:
  Follower(sync::View& view, std::vector<std::string> prefixes) {
    loop_.start();
    sub_ = view.watch(std::move(prefixes), loop_.executor(), [this](const sync::Batch& b) {
      std::lock_guard lock(m_);
      ++batches_;
      usable_ = b.usable;
      state_ = b.state;
      for (const auto& u : b.updates) {
        ++updates_;
        if (u.value)
          content_[u.key] = *u.value;
        else
          content_.erase(u.key);
      }
    });
  }
  ~Follower() {
    sub_.reset();
    loop_.stop();
  }
  std::map<std::string, std::string> content() const {
    std::lock_guard lock(m_);
    return content_;
  }
  bool usable() const {
    std::lock_guard lock(m_);
    return usable_;
  }
  sync::SyncState state() const {
    std::lock_guard lock(m_);
    return state_;
  }
  int batches() const {
    std::lock_guard lock(m_);
    return batches_;
  }
  int updates() const {
    std::lock_guard lock(m_);
    return updates_;
  }
  Loop& loop() { return loop_; }
  void drop() { sub_.reset(); }

 private:
  Loop loop_{"test-follower"};
  mutable std::mutex m_;
  std::map<std::string, std::string> content_;
  bool usable_ = false;
  sync::SyncState state_;
  int batches_ = 0, updates_ = 0;
  std::unique_ptr<sync::Subscription> sub_;
};

/// Short times, so that a test takes milliseconds.
inline sync::Timing quick() {
  sync::Timing t;
  t.retry_min = std::chrono::milliseconds(5);
  t.retry_max = std::chrono::milliseconds(50);
  t.catch_up = std::chrono::milliseconds(100);
  t.refused_relist = std::chrono::milliseconds(2000);
  t.lease_keepalive = std::chrono::milliseconds(50);
  return t;
}

}  // namespace calico::test
