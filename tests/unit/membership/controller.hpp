#pragma once
/// A controller on loopback as core/node/datastore.cpp wires it: Kv, gateway and authority on one listener, with a
/// clock of the test's own.
#include <boost/json.hpp>
#include <mutex>

#include "core/http/client.hpp"
#include "core/membership/authority.hpp"
#include "core/membership/join.hpp"
#include "core/membership/x509.hpp"
#include "core/store/etcd/gateway.hpp"
#include "tests/support/run.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"
#include "tests/unit/membership/clock.hpp"

namespace calico::membership {

using namespace std::chrono_literals;

class Controller {
 public:
  explicit Controller(AuthorityOptions options = {}, Duration from_now = {}) : clock(from_now) {
    options.pki_dir = dir.file("pki");
    options.own_name = "controller";
    options.admins = {"boss"};
    options.clock = &clock;
    options_ = options;
    start(0);
  }
  ~Controller() { stop(); }

  /// As after a restart of the process: on the same port, with the same state.
  void restart() {
    const auto port = at().port;
    stop();
    start(port);
  }
  http::Endpoint at() const { return gateway->endpoints().at(0); }

  template <class T>
  T run(const char* what, std::function<awaitable<T>()> f) {
    return test::run(*loop, what, std::move(f));
  }
  Token token(const std::string& name = "", std::chrono::seconds ttl = 24h) {
    auto t = run<Result<Token>>("a token", [&] { return authority->make_token(name, ttl); });
    if (!t) throw std::runtime_error(t.error().what);
    return *t;
  }
  Result<std::vector<std::string>> revoke(const std::string& name) {
    return run<Result<std::vector<std::string>>>("the revocation", [&] { return authority->revoke(name); });
  }
  Status maintain() {
    return run<Status>("the maintenance", [&] { return authority->maintain(); });
  }
  JoinOptions options_for(const test::TempDir& node, const Token& token, const std::string& name) const {
    JoinOptions o;
    o.endpoints = {at()};
    o.token = token;
    o.name = name;
    o.pki_dir = node.file("pki");
    return o;
  }

  /// One request with these files.
  Result<http::Answer> ask(http::TlsFiles files, http::ClientRequest request) {
    http::ClientOptions o;
    o.endpoints = {at()};
    o.tls = std::move(files);
    auto client = http::Client::create(loop->executor(), o);
    if (!client) return tl::unexpected(client.error());
    return run<Result<http::Answer>>("an answer", [&]() -> awaitable<Result<http::Answer>> {
      auto answer = co_await (*client)->request(request);
      (*client)->close();
      co_return answer;
    });
  }
  Result<http::Answer> post(http::TlsFiles files, const std::string& target, std::string body) {
    http::ClientRequest r;
    r.method = "POST";
    r.target = target;
    r.body = std::move(body);
    return ask(std::move(files), std::move(r));
  }
  http::TlsFiles stranger() const { return {.ca_file = authority->server_files().ca_file}; }
  std::vector<std::string> events() {
    std::lock_guard lock(mutex_);
    return events_;
  }

  test::TempDir dir{"controller"};
  test::MovableClock clock;
  std::unique_ptr<Loop> loop;
  std::shared_ptr<store::Kv> kv;
  std::unique_ptr<store::etcd::Gateway> gateway;
  std::unique_ptr<Authority> authority;

 private:
  static void check(const Status& s) {
    if (!s) throw std::runtime_error(s.error().what);
  }
  void start(std::uint16_t port) {
    loop = std::make_unique<Loop>("controller");
    store::Kv::Options o;
    o.path = dir.file("state.db");
    o.schemas = {kMembershipSchema};
    auto opened = store::Kv::open(std::move(o));
    if (!opened) throw std::runtime_error(opened.error().what);
    kv = std::move(*opened);
    gateway = std::make_unique<store::etcd::Gateway>(loop->executor(), *kv);
    AuthorityHooks hooks;
    hooks.event = [this](std::string_view id, const std::string& name, const std::string& detail, const std::string&) {
      std::lock_guard lock(mutex_);
      events_.push_back(fmt::format("{} {} {}", id, name, detail));
    };
    hooks.close_peers = [this](const auto& which) { return gateway->close_peers(which); };
    hooks.server_certificate_changed = [this] { return gateway->reload_tls(); };
    auto made = Authority::open(options_, kv, dir.file("state.db"), hooks);
    if (!made) throw std::runtime_error(made.error().what);
    authority = std::move(*made);
    gateway->set_front(authority->front());
    http::Listen where;
    where.at = *http::Endpoint::parse(fmt::format("https://127.0.0.1:{}", port));
    where.tls = authority->server_files();
    where.client_certificate = http::ClientCertificate::optional;
    check(gateway->listen(where));
    loop->start();
    loop->call([this] { gateway->start(); });
  }
  void stop() {
    test::run(*loop, "the end", [this]() -> awaitable<void> { co_await gateway->stop(); });
    kv->stop();
    loop->stop();
    gateway.reset();
    authority.reset();
    kv.reset();
    loop.reset();
  }

  AuthorityOptions options_;
  std::mutex mutex_;
  std::vector<std::string> events_;
};

inline const std::string kRange = R"({"key":"L2NhbGljby94"})";
inline const std::string kWatch = R"({"create_request":{"key":"L2NhbGljby8=","range_end":"L2NhbGljbzA="}})";

}  // namespace calico::membership
