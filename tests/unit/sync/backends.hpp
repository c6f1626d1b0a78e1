#pragma once
/// Datastores that exist: what a test of sync does to a server (stop, start, a new data directory), behind one
/// Datastore that lives as long as the test.
#include <memory>
#include <string>

#include "core/store/datastore.hpp"
#include "core/store/etcd/client.hpp"
#include "core/store/kv.hpp"
#include "core/store/switch.hpp"
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

/// A datastore that comes and goes, as a connection would.
using SwitchDatastore = store::Switch;

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
