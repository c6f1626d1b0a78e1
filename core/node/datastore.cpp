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
#include "core/loop/run_on.hpp"
#include "core/loop/task_group.hpp"
#include "core/membership/authority.hpp"
#include "core/membership/join.hpp"
#include "core/membership/renewer.hpp"
#include "core/model/keys.hpp"
#include "core/move/mover.hpp"
#include "core/node/store_keeper.hpp"
#include "core/store/etcd/client.hpp"
#include "core/store/etcd/gateway.hpp"
#include "core/store/kv.hpp"
#include "core/store/switch.hpp"

namespace calico::node {

struct Datastore::Impl {
  Loop loop{"datastore"};
  TaskGroup tasks{loop.executor(), "datastore"};
  std::unique_ptr<StoreKeeper> keeper;
  std::shared_ptr<store::Kv> kv;
  std::unique_ptr<store::etcd::Gateway> gateway;
  std::unique_ptr<membership::Authority> authority;
  std::string no_join;
  std::shared_ptr<store::EtcdClient> client;  ///< where the cloud's datastore is elsewhere
  std::vector<std::string> endpoints;         ///< of `client`
  std::shared_ptr<store::Switch> shared = std::make_shared<store::Switch>();  ///< to kv or to client
  std::unique_ptr<membership::Renewer> renewer;
  bool serving = false;
  store::EtcdOptions client_base;  ///< files, user and password of this host as a client
  std::function<void()> restart;   ///< empty: nobody has asked yet
  bool restart_needed = false;

  Result<std::shared_ptr<store::EtcdClient>> client_of(const std::vector<std::string>& endpoints);
  /// `shared` is a client of these.
  Status go_to(const std::vector<std::string>& urls);
  void set_client_base(const config::Config& config);
  Status open_client(const config::Config& config, const std::string& state_dir);
  Status settle_move();
  awaitable<void> finish_move(model::DatastorePointer pointer);
  Status open_server(const config::Config& config, const std::string& state_dir);
  Status open_authority(const config::Config& config, const std::string& state_dir, bool own_certificate);
};

namespace {

constexpr auto kMaintainEvery = std::chrono::minutes(1);
constexpr auto kFinishEvery = std::chrono::seconds(2);
constexpr auto kProbeTime = std::chrono::seconds(8);

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

Result<std::vector<http::Endpoint>> parse_endpoints(const std::vector<std::string>& urls) {
  std::vector<http::Endpoint> out;
  for (const auto& url : urls) {
    auto endpoint = http::Endpoint::parse(url, 2379);
    if (!endpoint) return wrap(endpoint.error(), "endpoints");
    out.push_back(*endpoint);
  }
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

Result<std::shared_ptr<store::EtcdClient>> Datastore::Impl::client_of(const std::vector<std::string>& urls) {
  auto parsed = parse_endpoints(urls);
  if (!parsed) return tl::unexpected(parsed.error());
  auto options = client_base;
  options.endpoints = std::move(*parsed);
  return store::EtcdClient::create(loop.executor(), std::move(options));
}

Status Datastore::Impl::go_to(const std::vector<std::string>& urls) {
  auto made = client_of(urls);
  if (!made) return tl::unexpected(made.error());
  client = std::move(*made);
  endpoints = urls;
  shared->set(client);
  return {};
}

void Datastore::Impl::set_client_base(const config::Config& config) {
  client_base.tls = tls_files(config);
  // A controller with a CA of its own shows the certificate it serves with.
  if (client_base.tls.cert_file.empty() && authority) client_base.tls = authority->server_files();
  client_base.username = config.text("datastore.username");
  client_base.password_file = config.text("datastore.password_file");
}

Status Datastore::Impl::open_client(const config::Config& config, const std::string& state_dir) {
  no_join = "the datastore is elsewhere: ask on the controller that serves it; an etcd cluster has a CA of its own";
  set_client_base(config);
  const auto urls = config.list("datastore.endpoints");
  if (auto s = go_to(urls); !s) return wrap(s.error(), "[datastore]");
  const auto pki = state_dir + "/pki";
  if (client_base.tls.cert_file == membership::node_files(pki).cert_file) {
    membership::Renewer::Options renew;
    renew.endpoints = *parse_endpoints(urls);  // client_of took them
    renew.pki_dir = pki;
    renew.changed = [this]() -> awaitable<Status> { return client->reload_tls(); };
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
  shared->set(kv);
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
  set_client_base(config);
  if (auto s = settle_move(); !s) return wrap(s.error(), "datastore");
  for (const auto& e : gateway->endpoints()) {
    log::info("datastore.serving", "at", e.to_string());
    if (!e.tls)
      log::warn("datastore.open_to_all", "at", e.to_string(), "why", "no TLS: whoever connects may everything");
  }
  return {};
}

/// What an earlier process may have left of a move, before anybody here writes (core/move).
Status Datastore::Impl::settle_move() {
  if (kv->frozen().empty()) {
    auto done = asio::co_spawn(loop.executor(), move::settle({kv.get(), kv.get(), {}}, {}), asio::use_future).get();
    if (!done) return tl::unexpected(done.error());
    if (*done == move::Settled::given_up)
      log::warn("store.move_given_up", "why", "the process ended before its commit; this datastore is the cloud's");
    return {};
  }
  store::RangeRequest request;
  request.key = std::string(model::kDatastorePointer);
  auto found = asio::co_spawn(loop.executor(), kv->range(std::move(request)), asio::use_future).get();
  if (!found) return tl::unexpected(found.error());
  if (found->kvs.empty())
    return fail(Errc::corrupt, "the cloud has left this datastore and {} does not say where to",
                model::kDatastorePointer);
  auto pointer = model::parse_datastore_pointer(found->kvs.front().value);
  if (!pointer) return wrap(pointer.error(), model::kDatastorePointer);
  if (auto s = go_to(pointer->endpoints); !s) return s;
  log::info("store.moved", "to", fmt::format("{}", fmt::join(pointer->endpoints, ",")), "generation",
            pointer->generation, "here", "read-only");
  loop.call(
      [this, p = *pointer] { tasks.spawn("finish-move", [this, p]() -> awaitable<void> { return finish_move(p); }); });
  return {};
}

/// A move's last step, or its undoing, may have been left to us; until the other datastore has said which.
awaitable<void> Datastore::Impl::finish_move(model::DatastorePointer pointer) {
  std::string said;
  for (;;) {
    const auto client_now = client;
    const move::Side here{kv.get(), kv.get(), {}};
    const move::Side there{client_now.get(), nullptr, pointer.endpoints};
    auto done = co_await move::settle(here, there);
    if (done && *done == move::Settled::moved_here) {
      log::info("store.moved", "to", "this host", "generation", pointer.generation + 1);
      restart_needed = true;
      if (restart) restart();
      co_return;
    }
    if (done && *done == move::Settled::moved) co_return;
    if (done) log::warn("store.move_given_up", "why", "the process ended before its commit");
    const std::string what = done ? "" : done.error().what;
    if (!what.empty() && what != said) log::warn("store.move_unfinished", "what", what);
    said = what;
    const bool slept = co_await sleep_for(kFinishEvery);
    if (!slept) co_return;
  }
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
  impl_->shared->set(nullptr);
  impl_->client.reset();
  impl_->renewer.reset();
  impl_->keeper.reset();
  impl_->loop.stop();
}

std::shared_ptr<store::Datastore> Datastore::shared() { return impl_->shared; }
store::Kv* Datastore::kv() { return impl_->client ? nullptr : impl_->kv.get(); }
store::Kv* Datastore::embedded() { return impl_->kv.get(); }

Result<std::shared_ptr<store::EtcdClient>> Datastore::client_of(const std::vector<std::string>& endpoints) {
  return impl_->client_of(endpoints);
}

awaitable<Result<bool>> Datastore::follow(model::DatastorePointer pointer) {
  std::function<awaitable<Result<bool>>()> f = [this, impl = impl_.get(), pointer]() -> awaitable<Result<bool>> {
    // Back to this very host: whoever moves it here also makes the embedded one the cloud's again, and begins anew.
    if (impl->kv && pointer.endpoints == urls()) co_return false;
    if (pointer.endpoints == impl->endpoints) co_return false;
    if (auto s = impl->go_to(pointer.endpoints); !s) co_return tl::unexpected(s.error());
    log::info("store.following", "to", fmt::format("{}", fmt::join(pointer.endpoints, ",")), "generation",
              pointer.generation);
    co_return true;
  };
  co_return co_await run_on<Result<bool>>(impl_->loop.executor(), std::move(f));
}

awaitable<Status> Datastore::probe(model::DatastorePointer pointer) {
  auto endpoints = parse_endpoints(pointer.endpoints);
  if (!endpoints) co_return tl::unexpected(endpoints.error());
  auto options = impl_->client_base;
  options.endpoints = std::move(*endpoints);
  options.request_timeout = kProbeTime;
  auto trial = store::EtcdClient::create(impl_->loop.executor(), std::move(options));
  if (!trial) co_return tl::unexpected(trial.error());
  store::RangeRequest request;
  request.key = std::string(model::kNextDatastorePointer);
  auto got = co_await (*trial)->range(std::move(request));
  if (!got) co_return tl::unexpected(got.error());
  co_return Status{};
}

void Datastore::on_restart_needed(std::function<void()> f) {
  impl_->loop.call([this, &f] {
    impl_->restart = std::move(f);
    if (impl_->restart_needed) impl_->restart();
  });
}
StoreKeeper* Datastore::keeper() { return impl_->keeper.get(); }
membership::Authority* Datastore::authority() { return impl_->authority.get(); }
const std::string& Datastore::no_join() const { return impl_->no_join; }
Loop& Datastore::loop() { return impl_->loop; }

std::vector<std::string> Datastore::join_urls() const {
  auto out = urls();
  if (!impl_->authority) out.clear();
  std::erase_if(out, [](const std::string& url) { return !url.starts_with("https://"); });
  return out;
}

std::vector<std::string> Datastore::urls() const {
  std::vector<std::string> out;
  if (!impl_->gateway) return out;
  for (auto e : impl_->gateway->endpoints()) {
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
