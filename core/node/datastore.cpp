#include "core/node/datastore.hpp"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_future.hpp>

#include "core/http/message.hpp"
#include "core/log/log.hpp"
#include "core/loop/loop.hpp"
#include "core/loop/task_group.hpp"
#include "core/membership/authority.hpp"
#include "core/membership/join.hpp"
#include "core/membership/renewer.hpp"
#include "core/node/store_keeper.hpp"
#include "core/store/etcd/client.hpp"
#include "core/store/etcd/gateway.hpp"
#include "core/store/kv.hpp"

namespace calico::node {

struct Datastore::Impl {
  Loop loop{"datastore"};
  TaskGroup tasks{loop.executor(), "datastore"};
  std::unique_ptr<StoreKeeper> keeper;
  std::shared_ptr<store::Kv> kv;
  std::unique_ptr<store::etcd::Gateway> gateway;
  std::unique_ptr<membership::Authority> authority;
  std::string no_join;
  std::shared_ptr<store::EtcdClient> client;
  std::unique_ptr<membership::Renewer> renewer;
  std::shared_ptr<store::Datastore> shared;
  bool serving = false;

  Status open_client(const config::Config& config, const std::string& state_dir);
  Status open_server(const config::Config& config, const std::string& state_dir);
  Status open_authority(const config::Config& config, const std::string& state_dir, bool own_certificate);
};

namespace {

constexpr auto kMaintainEvery = std::chrono::minutes(1);

http::TlsFiles tls_files(const config::Config& config) {
  http::TlsFiles files;
  files.ca_file = config.text("datastore.ca_file");
  files.cert_file = config.text("datastore.cert_file");
  files.key_file = config.text("datastore.key_file");
  return files;
}

store::etcd::GatewayOptions gateway_options(const config::Config& config) {
  store::etcd::GatewayOptions options;
  options.admins = config.list("datastore.admins");
  options.limits.watches = static_cast<std::size_t>(config.integer("datastore.client_watches"));
  options.limits.requests = static_cast<std::size_t>(config.integer("datastore.client_requests"));
  options.limits.leases = static_cast<std::size_t>(config.integer("datastore.client_leases"));
  options.limits.bytes = static_cast<std::size_t>(config.size("datastore.client_memory"));
  return options;
}

/// The addresses of this host that another one could use.
std::vector<std::string> own_addresses() {
  std::vector<std::string> out;
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return out;
  for (const auto* a = all; a; a = a->ifa_next) {
    if (!a->ifa_addr) continue;
    std::optional<Ip> ip;
    if (a->ifa_addr->sa_family == AF_INET)
      ip = Ip::v4(ntohl(reinterpret_cast<const sockaddr_in*>(a->ifa_addr)->sin_addr.s_addr));
    if (a->ifa_addr->sa_family == AF_INET6)
      ip = Ip::from_bytes(
          std::as_bytes(std::span(reinterpret_cast<const sockaddr_in6*>(a->ifa_addr)->sin6_addr.s6_addr)));
    if (ip && !ip->is_loopback() && !ip->is_link_local()) out.push_back(ip->to_string());
  }
  ::freeifaddrs(all);
  return out;
}

/// Keeps the certificate of a node that joined; ends when cancelled.
awaitable<void> keep_renewed(membership::Renewer& renewer) {
  for (;;) {
    const auto pause = co_await renewer.step();
    if (!co_await sleep_for(pause)) co_return;
  }
}

awaitable<void> maintain(membership::Authority& authority) {
  std::string said;
  for (;;) {
    if (!co_await sleep_for(kMaintainEvery)) co_return;
    auto done = co_await authority.maintain();
    const std::string what = done ? "" : done.error().what;
    if (!what.empty() && what != said) log::error("membership.maintenance_failed", "what", what);
    said = what;
  }
}

void say(membership::Renewer::Said what, const std::string& line) {
  using Said = membership::Renewer::Said;
  switch (what) {
    case Said::renewed:
      log::info("membership.renewed", "what", line);
      return;
    case Said::replaced:
      log::info("membership.replaced", "what", line);
      return;
    case Said::failed:
      log::warn("membership.renewal_failed", "what", line);
      return;
    case Said::over:
      log::error("membership.certificate_over", "what", line);
      return;
  }
}

}  // namespace

Status Datastore::Impl::open_client(const config::Config& config, const std::string& state_dir) {
  no_join = "the datastore is elsewhere: ask on the controller that serves it; an etcd cluster has a CA of its own";
  store::EtcdOptions options;
  for (const auto& url : config.list("datastore.endpoints")) {
    auto endpoint = http::Endpoint::parse(url, 2379);
    if (!endpoint) return wrap(endpoint.error(), "[datastore] endpoints");
    options.endpoints.push_back(*endpoint);
  }
  options.tls = tls_files(config);
  options.username = config.text("datastore.username");
  options.password_file = config.text("datastore.password_file");
  const auto endpoints = options.endpoints;
  const auto cert_file = options.tls.cert_file;
  auto made = store::EtcdClient::create(loop.executor(), std::move(options));
  if (!made) return wrap(made.error(), "[datastore]");
  client = std::move(*made);
  shared = client;
  const auto pki = state_dir + "/pki";
  if (cert_file == membership::node_files(pki).cert_file) {
    membership::Renewer::Options renew;
    renew.endpoints = endpoints;
    renew.pki_dir = pki;
    renew.changed = [c = client]() -> awaitable<Status> { return c->reload_tls(); };
    renew.say = say;
    renewer = std::make_unique<membership::Renewer>(std::move(renew));
  }
  loop.start();
  if (renewer)
    loop.call([this] { tasks.spawn("renew", [this]() -> awaitable<void> { return keep_renewed(*renewer); }); });
  return {};
}

Status Datastore::Impl::open_authority(const config::Config& config, const std::string& state_dir,
                                       bool own_certificate) {
  membership::AuthorityOptions options;
  options.pki_dir = state_dir + "/pki";
  if (config.is_set("datastore.ca_key_file")) {
    options.ca_file = config.text("datastore.ca_file");
    options.ca_key_file = config.text("datastore.ca_key_file");
  }
  options.serve_own = own_certificate;
  options.own_name = config.text("node.name");
  options.admins = config.list("datastore.admins");
  options.server_names = config.list("datastore.server_names");
  for (const auto& at : config.ip_ports("datastore.listen")) {
    if (!at.ip.is_unspecified()) options.server_names.push_back(at.ip.to_string());
    if (!at.ip.is_unspecified()) continue;
    for (auto& address : own_addresses()) options.server_names.push_back(std::move(address));
  }
  options.life = std::chrono::duration_cast<std::chrono::seconds>(config.duration("datastore.certificate_life"));
  membership::AuthorityHooks hooks;
  hooks.event = [](std::string_view id, const std::string& name, const std::string& detail, const std::string& peer) {
    log::info(id, "name", name, "detail", detail, "peer", peer);
  };
  hooks.close_peers = [this](const std::function<bool(const http::Peer&)>& which) {
    return gateway->close_peers(which);
  };
  hooks.server_certificate_changed = [this] {
    log::info("membership.server_certificate_renewed");
    return gateway->reload_tls();
  };
  auto opened = membership::Authority::open(std::move(options), kv, state_dir + "/state.db", std::move(hooks));
  if (!opened) return wrap(opened.error(), "[datastore]");
  authority = std::move(*opened);

  gateway->set_front(authority->front());
  return {};
}

Status Datastore::Impl::open_server(const config::Config& config, const std::string& state_dir) {
  store::Kv::Options options;
  options.path = state_dir + "/state.db";
  options.schemas = {membership::kMembershipSchema};
  keeper = std::make_unique<StoreKeeper>(state_dir, StoreKeeper::audit_of(config.text("datastore.audit")));
  keeper->prepare(options);
  auto opened = store::Kv::open(std::move(options));
  if (!opened) return wrap(opened.error(), "datastore");
  kv = std::move(*opened);
  if (const auto held = kv->restored_from(); held != 0)
    log::warn("store.restored", "revision", kv->revision(), "the copy's", held, "then",
              "every node lists and compares");
  keeper->start();
  shared = kv;
  gateway = std::make_unique<store::etcd::Gateway>(loop.executor(), *kv, gateway_options(config));

  auto tls = tls_files(config);
  const bool given = !tls.cert_file.empty();
  const bool insecure = config.boolean("datastore.insecure");
  const bool ca_key = config.is_set("datastore.ca_key_file");
  const auto listeners = config.ip_ports("datastore.listen");
  // On loopback the kernel keeps strangers out; beyond it there is TLS, with a certificate of our own if need be.
  const auto with_tls = [&](const config::IpPort& at) {
    return given || ca_key || (!at.ip.is_loopback() && !insecure);
  };
  if (std::none_of(listeners.begin(), listeners.end(), with_tls)) {
    no_join = "the datastore is served without TLS: set [datastore] listen to an address the nodes reach";
  } else if (given && !ca_key) {
    no_join =
        "the datastore's CA was given without its key: set [datastore] ca_key_file, or leave ca_file, cert_file and "
        "key_file empty on the controller";
  } else {
    if (auto s = open_authority(config, state_dir, !given); !s) return s;
    if (!given) tls = authority->server_files();
  }
  for (const auto& at : listeners) {
    http::Listen where;
    where.at.host = at.ip.to_string();
    where.at.port = at.port;
    where.at.tls = with_tls(at);
    where.tls = tls;
    if (authority) where.client_certificate = http::ClientCertificate::optional;
    if (auto ok = gateway->listen(where); !ok) return wrap(ok.error(), "[datastore] listen");
  }
  loop.start();
  loop.call([this] {
    gateway->start();
    if (authority) tasks.spawn("membership", [this]() -> awaitable<void> { return maintain(*authority); });
  });
  serving = true;
  for (const auto& e : gateway->endpoints()) {
    log::info("datastore.serving", "at", e.to_string());
    if (!e.tls)
      log::warn("datastore.open_to_all", "at", e.to_string(), "why", "no TLS: whoever connects may everything");
  }
  return {};
}

Result<std::unique_ptr<Datastore>> Datastore::open(const config::Config& config, bool controller,
                                                   const std::string& state_dir) {
  auto impl = std::make_unique<Impl>();
  Status opened;
  if (config.is_set("datastore.endpoints"))
    opened = impl->open_client(config, state_dir);
  else if (controller)
    opened = impl->open_server(config, state_dir);
  else
    opened =
        fail(Errc::invalid,
             "[datastore] endpoints is empty and this host is no controller: calico-node join URL --token T, or set "
             "it to https://CONTROLLER:2379");
  if (!opened) return tl::unexpected(opened.error());
  return std::unique_ptr<Datastore>(new Datastore(std::move(impl)));
}

Datastore::Datastore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Datastore::~Datastore() {
  asio::co_spawn(
      impl_->loop.executor(),
      [this]() -> awaitable<void> {
        impl_->tasks.cancel();
        co_await impl_->tasks.join();
        if (impl_->serving) co_await impl_->gateway->stop();
      },
      asio::use_future)
      .get();
  if (impl_->kv) impl_->kv->stop();
  impl_->client.reset();
  impl_->renewer.reset();
  impl_->keeper.reset();
  impl_->shared.reset();
  impl_->loop.stop();
}

std::shared_ptr<store::Datastore> Datastore::shared() { return impl_->shared; }
store::Kv* Datastore::kv() { return impl_->kv.get(); }
StoreKeeper* Datastore::keeper() { return impl_->keeper.get(); }
membership::Authority* Datastore::authority() { return impl_->authority.get(); }
const std::string& Datastore::no_join() const { return impl_->no_join; }
Loop& Datastore::loop() { return impl_->loop; }

std::vector<std::string> Datastore::join_urls() const {
  std::vector<std::string> out;
  if (!impl_->authority) return out;
  for (auto e : impl_->gateway->endpoints()) {
    if (!e.tls) continue;
    const auto ip = e.ip();
    if (!ip || !ip->is_unspecified()) {
      out.push_back(e.to_string());
      continue;
    }
    for (const auto& address : own_addresses()) {
      e.host = address;
      out.push_back(e.to_string());
    }
  }
  return out;
}

}  // namespace calico::node
