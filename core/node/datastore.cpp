#include "core/node/datastore.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_future.hpp>

#include "core/http/message.hpp"
#include "core/log/log.hpp"
#include "core/loop/loop.hpp"
#include "core/node/store_keeper.hpp"
#include "core/store/etcd/client.hpp"
#include "core/store/etcd/gateway.hpp"
#include "core/store/kv.hpp"

namespace calico::node {

struct Datastore::Impl {
  Loop loop{"datastore"};
  std::unique_ptr<StoreKeeper> keeper;
  std::shared_ptr<store::Kv> kv;
  std::unique_ptr<store::etcd::Gateway> gateway;
  std::shared_ptr<store::Datastore> shared;
  bool serving = false;
};

namespace {

http::TlsFiles tls_files(const config::Config& config) {
  http::TlsFiles files;
  files.ca_file = config.text("datastore.ca_file");
  files.cert_file = config.text("datastore.cert_file");
  files.key_file = config.text("datastore.key_file");
  return files;
}

}  // namespace

Result<std::unique_ptr<Datastore>> Datastore::open(const config::Config& config, bool controller,
                                                   const std::string& state_dir) {
  auto impl = std::make_unique<Impl>();
  const auto tls = tls_files(config);
  if (config.is_set("datastore.endpoints")) {
    store::EtcdOptions options;
    for (const auto& url : config.list("datastore.endpoints")) {
      auto endpoint = http::Endpoint::parse(url, 2379);
      if (!endpoint) return wrap(endpoint.error(), "[datastore] endpoints");
      options.endpoints.push_back(*endpoint);
    }
    options.tls = tls;
    options.username = config.text("datastore.username");
    options.password_file = config.text("datastore.password_file");
    auto client = store::EtcdClient::create(impl->loop.executor(), std::move(options));
    if (!client) return wrap(client.error(), "[datastore]");
    impl->shared = std::move(*client);
    impl->loop.start();
    return std::unique_ptr<Datastore>(new Datastore(std::move(impl)));
  }
  if (!controller)
    return fail(Errc::invalid,
                "[datastore] endpoints is empty and this host is no controller: set it to https://CONTROLLER:2379");

  store::Kv::Options options;
  options.path = state_dir + "/state.db";
  impl->keeper = std::make_unique<StoreKeeper>(state_dir, StoreKeeper::audit_of(config.text("datastore.audit")));
  impl->keeper->prepare(options);
  auto kv = store::Kv::open(std::move(options));
  if (!kv) return wrap(kv.error(), "datastore");
  impl->kv = std::move(*kv);
  if (const auto held = impl->kv->restored_from(); held != 0)
    log::warn("store.restored", "revision", impl->kv->revision(), "the copy's", held, "then",
              "every node lists and compares");
  impl->keeper->start();
  impl->shared = impl->kv;
  impl->gateway = std::make_unique<store::etcd::Gateway>(impl->loop.executor(), *impl->kv);
  for (const auto& at : config.ip_ports("datastore.listen")) {
    http::Listen where;
    where.at.host = at.ip.to_string();
    where.at.port = at.port;
    where.at.tls = !tls.cert_file.empty();
    where.tls = tls;
    if (auto ok = impl->gateway->listen(where); !ok) return wrap(ok.error(), "[datastore] listen");
  }
  impl->loop.start();
  impl->loop.call([&] { impl->gateway->start(); });
  impl->serving = true;
  for (const auto& e : impl->gateway->endpoints()) log::info("datastore.serving", "at", e.to_string());
  return std::unique_ptr<Datastore>(new Datastore(std::move(impl)));
}

Datastore::Datastore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Datastore::~Datastore() {
  if (impl_->serving)
    asio::co_spawn(
        impl_->loop.executor(), [this]() -> awaitable<void> { co_await impl_->gateway->stop(); }, asio::use_future)
        .get();
  if (impl_->kv) impl_->kv->stop();
  impl_->keeper.reset();
  impl_->shared.reset();
  impl_->loop.stop();
}

std::shared_ptr<store::Datastore> Datastore::shared() { return impl_->shared; }
store::Kv* Datastore::kv() { return impl_->kv.get(); }
StoreKeeper* Datastore::keeper() { return impl_->keeper.get(); }

}  // namespace calico::node
