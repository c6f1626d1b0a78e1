#pragma once
/// The three datastores there are, each with all that keeps it alive: the embedded one in process, the embedded one
/// through its gateway and the client, a real etcd through the client.
#include <boost/asio/co_spawn.hpp>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/loop/loop.hpp"
#include "core/store/etcd/client.hpp"
#include "core/store/etcd/gateway.hpp"
#include "core/store/kv.hpp"
#include "tests/support/certificates.hpp"
#include "tests/support/etcd.hpp"
#include "tests/support/temp_dir.hpp"

namespace calico::test {

/// A datastore and its surroundings. Not from the loop's thread.
struct DatastoreBackend {
  virtual ~DatastoreBackend() = default;
  virtual store::Datastore& datastore() = 0;
  /// The process that serves it: this one, or etcd's.
  virtual pid_t pid() const { return ::getpid(); }
};

struct InProcessBackend final : DatastoreBackend {
  explicit InProcessBackend(store::Kv::Options options = {}) {
    options.path = dir.file("state.db");
    auto opened = store::Kv::open(std::move(options));
    if (!opened) throw std::runtime_error(opened.error().what);
    kv = std::move(*opened);
  }
  store::Datastore& datastore() override { return *kv; }
  TempDir dir{"kv"};
  std::unique_ptr<store::Kv> kv;
};

inline std::shared_ptr<store::EtcdClient> make_client(Loop& loop, const std::string& endpoint,
                                                      const http::TlsFiles& tls = {}) {
  store::EtcdOptions options;
  options.endpoints = {*http::Endpoint::parse(endpoint)};
  options.tls = tls;
  auto made = store::EtcdClient::create(loop.executor(), std::move(options));
  if (!made) throw std::runtime_error(made.error().what);
  return *made;
}

/// The gateway has a loop of its own, as in a controller, and mutual TLS unless told otherwise.
struct GatewayBackend final : DatastoreBackend {
  explicit GatewayBackend(Loop& client_loop, bool tls = true) {
    loop.start();
    gateway = std::make_unique<store::etcd::Gateway>(loop.executor(), *store.kv, options());
    http::Listen where{.at = *http::Endpoint::parse(tls ? "https://127.0.0.1:0" : "http://127.0.0.1:0")};
    http::TlsFiles files;
    if (tls) {
      where.tls = pki.issue("server");
      files = pki.issue("client");
    }
    if (auto s = gateway->listen(where); !s) throw std::runtime_error(s.error().what);
    loop.call([&] { gateway->start(); });
    client = make_client(client_loop, gateway->endpoints().at(0).to_string(), files);
  }
  ~GatewayBackend() override {
    client.reset();
    std::promise<void> stopped;
    auto stop = [this]() -> awaitable<void> { co_await gateway->stop(); };
    boost::asio::co_spawn(loop.executor(), stop, [&](std::exception_ptr) { stopped.set_value(); });
    stopped.get_future().wait();
    loop.call([&] { gateway.reset(); });
    loop.stop();
  }
  /// The suites use keys of their own: the client is an administrator.
  static store::etcd::GatewayOptions options() {
    store::etcd::GatewayOptions all;
    all.admins = {"client"};
    return all;
  }
  store::Datastore& datastore() override { return *client; }
  Certificates pki;
  InProcessBackend store;
  Loop loop{"gateway"};
  std::unique_ptr<store::etcd::Gateway> gateway;
  std::shared_ptr<store::EtcdClient> client;
};

struct EtcdBackend final : DatastoreBackend {
  explicit EtcdBackend(Loop& loop) {
    if (!etcd.running()) throw std::runtime_error("etcd did not start:\n" + etcd.log());
    client = make_client(loop, etcd.endpoint());
  }
  store::Datastore& datastore() override { return *client; }
  pid_t pid() const override { return etcd.pid(); }
  Etcd etcd;
  std::shared_ptr<store::EtcdClient> client;
};

}  // namespace calico::test
