#pragma once
/// Datastores that exist: what a test of sync does to a server (stop, start, a new data directory), behind one
/// Datastore that lives as long as the test.
#include <atomic>
#include <memory>
#include <string>

#include "core/store/datastore.hpp"
#include "core/store/etcd/client.hpp"
#include "core/store/kv.hpp"
#include "tests/support/etcd.hpp"
#include "tests/unit/sync/support.hpp"

namespace calico::test {

struct Backend {
  virtual ~Backend() = default;
  virtual std::shared_ptr<store::Datastore> datastore() = 0;
  virtual void stop() = 0;
  virtual void start() = 0;
  virtual void wipe() = 0;  ///< while stopped: a new data directory
};

/// Forwards to a datastore that comes and goes, as a connection would.
class SwitchDatastore final : public store::Datastore {
 public:
  template <class T>
  using awaitable = boost::asio::awaitable<T>;
  void set(std::shared_ptr<store::Datastore> to) { std::atomic_store(&to_, std::move(to)); }

  awaitable<Result<store::ServerStatus>> status() override {
    auto to = std::atomic_load(&to_);
    if (!to) co_return away();
    co_return co_await to->status();
  }
  awaitable<Result<store::RangeResult>> range(store::RangeRequest r) override {
    auto to = std::atomic_load(&to_);
    if (!to) co_return away();
    co_return co_await to->range(std::move(r));
  }
  awaitable<Result<store::PutResult>> put(store::PutRequest r) override {
    auto to = std::atomic_load(&to_);
    if (!to) co_return away();
    co_return co_await to->put(std::move(r));
  }
  awaitable<Result<store::DeleteResult>> del(store::DeleteRequest r) override {
    auto to = std::atomic_load(&to_);
    if (!to) co_return away();
    co_return co_await to->del(std::move(r));
  }
  awaitable<Result<store::TxnResult>> txn(store::TxnRequest r) override {
    auto to = std::atomic_load(&to_);
    if (!to) co_return away();
    co_return co_await to->txn(std::move(r));
  }
  awaitable<Result<store::Revision>> compact(store::Revision r) override {
    auto to = std::atomic_load(&to_);
    if (!to) co_return away();
    co_return co_await to->compact(r);
  }
  awaitable<Result<store::LeaseInfo>> lease_grant(std::int64_t ttl_s, store::LeaseId id) override {
    auto to = std::atomic_load(&to_);
    if (!to) co_return away();
    co_return co_await to->lease_grant(ttl_s, id);
  }
  awaitable<Result<store::LeaseInfo>> lease_keepalive(store::LeaseId id) override {
    auto to = std::atomic_load(&to_);
    if (!to) co_return away();
    co_return co_await to->lease_keepalive(id);
  }
  awaitable<Status> lease_revoke(store::LeaseId id) override {
    auto to = std::atomic_load(&to_);
    if (!to) co_return away();
    co_return co_await to->lease_revoke(id);
  }
  awaitable<Result<store::LeaseInfo>> lease_time_to_live(store::LeaseId id, bool keys) override {
    auto to = std::atomic_load(&to_);
    if (!to) co_return away();
    co_return co_await to->lease_time_to_live(id, keys);
  }
  awaitable<Result<std::unique_ptr<store::Watch>>> watch(store::WatchRequest r) override {
    auto to = std::atomic_load(&to_);
    if (!to) co_return away();
    co_return co_await to->watch(std::move(r));
  }

 private:
  static tl::unexpected<Error> away() { return fail(Errc::unavailable, "the server is stopped"); }
  std::shared_ptr<store::Datastore> to_;
};

class KvBackend final : public Backend {
 public:
  KvBackend() { start(); }
  std::shared_ptr<store::Datastore> datastore() override { return switch_; }
  void stop() override {
    switch_->set(nullptr);
    if (kv_) kv_->stop();
    kv_.reset();
  }
  void start() override {
    store::Kv::Options o;
    o.path = dir_.file(fmt::format("kv-{}.db", life_));
    auto kv = store::Kv::open(std::move(o));
    ASSERT_TRUE(kv) << kv.error().what;
    kv_ = std::move(*kv);
    switch_->set(kv_);
  }
  void wipe() override { ++life_; }
  ~KvBackend() override { stop(); }

 private:
  TempDir dir_;
  int life_ = 0;
  std::shared_ptr<store::Kv> kv_;
  std::shared_ptr<SwitchDatastore> switch_ = std::make_shared<SwitchDatastore>();
};

class EtcdBackend final : public Backend {
 public:
  EtcdBackend() {
    EXPECT_TRUE(etcd_.running()) << etcd_.log();
    loop_.start();
    store::EtcdOptions o;
    auto endpoint = http::Endpoint::parse(etcd_.endpoint());
    o.endpoints.push_back(*endpoint);
    auto client = store::EtcdClient::create(loop_.executor(), std::move(o));
    if (!client) {
      ADD_FAILURE() << client.error().what;
      std::abort();
    }
    client_ = std::move(*client);
  }
  ~EtcdBackend() override {
    client_.reset();
    loop_.stop();
  }
  std::shared_ptr<store::Datastore> datastore() override { return client_; }
  void stop() override { etcd_.kill(); }
  void start() override {
    etcd_.start();
    EXPECT_TRUE(etcd_.running()) << etcd_.log();
  }
  void wipe() override { etcd_.wipe(); }

 private:
  Etcd etcd_;
  Loop loop_{"test-etcd"};
  std::shared_ptr<store::EtcdClient> client_;
};

}  // namespace calico::test
