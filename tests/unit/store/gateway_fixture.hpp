#pragma once
/// The gateway and its peers as the tests of the gateway have them: bytes over a socket.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <future>

#include "core/http/client.hpp"
#include "core/store/etcd/gateway.hpp"
#include "core/wire/base64.hpp"
#include "tests/support/await.hpp"
#include "tests/support/certificates.hpp"
#include "tests/support/etcd.hpp"
#include "tests/support/temp_dir.hpp"

namespace calico::store::etcd {

namespace json = boost::json;

struct Embedded {
  explicit Embedded(Loop& l, http::TlsFiles tls = {}, Kv::Options options = {}, GatewayOptions gateway_options = {},
                    http::ClientCertificate certificate = http::ClientCertificate::required)
      : loop(l) {
    options.path = dir.file("state.db");
    auto opened = Kv::open(std::move(options));
    if (!opened) throw std::runtime_error(opened.error().what);
    kv = std::move(*opened);
    gateway = std::make_unique<Gateway>(loop.executor(), *kv, std::move(gateway_options));
    auto at = http::Endpoint::parse(tls.cert_file.empty() ? "http://127.0.0.1:0" : "https://127.0.0.1:0");
    if (auto s = gateway->listen({.at = *at, .tls = std::move(tls), .client_certificate = certificate}); !s)
      throw std::runtime_error(s.error().what);
    loop.call([&] { gateway->start(); });
  }
  ~Embedded() {
    auto stop = [](Gateway* g) -> awaitable<bool> {
      co_await g->stop();
      co_return true;
    };
    std::promise<void> stopped;
    boost::asio::co_spawn(loop.executor(), stop(gateway.get()), [&](std::exception_ptr, bool) { stopped.set_value(); });
    stopped.get_future().wait();
    loop.call([&] { gateway.reset(); });
    kv->stop();
  }
  ClientStats clients() {
    return loop.call([this] { return gateway->client_stats(); });
  }
  http::Endpoint endpoint() const { return gateway->endpoints().at(0); }
  Loop& loop;
  test::TempDir dir{"gateway"};
  std::unique_ptr<Kv> kv;
  std::unique_ptr<Gateway> gateway;
};

/// One server as a client sees it.
class Peer {
 public:
  Peer(test::LoopRunner& runner, http::Endpoint at, http::TlsFiles tls = {}) : runner_(runner) {
    auto made = http::Client::create(runner.loop().executor(), {.endpoints = {std::move(at)}, .tls = std::move(tls)});
    if (!made) throw std::runtime_error(made.error().what);
    client_ = std::move(*made);
  }
  ~Peer() {
    runner_.loop().call([&] { client_.reset(); });
  }
  Result<http::Answer> try_send(std::string method, std::string target, std::string body) {
    http::ClientRequest request;
    request.method = std::move(method);
    request.target = std::move(target);
    request.body = std::move(body);
    request.headers = headers;
    return runner_.run(client_->request(request), request.target.c_str());
  }
  http::Answer send(std::string method, std::string target, std::string body) {
    auto a = try_send(std::move(method), std::move(target), std::move(body));
    if (!a) throw std::runtime_error(a.error().what);
    return std::move(*a);
  }
  http::Answer post(std::string path, std::string body) { return send("POST", "/v3/" + path, std::move(body)); }
  std::unique_ptr<http::LineReader> watch(std::string body) {
    http::ClientRequest request;
    request.method = "POST";
    request.target = "/v3/watch";
    request.body = std::move(body);
    request.headers = headers;
    auto r = runner_.run(client_->open(request), "the watch");
    if (!r) throw std::runtime_error(r.error().what);
    return std::move(*r);
  }
  std::string line(http::LineReader& r) {
    auto text = runner_.run(r.read_line(std::chrono::seconds(20)), "a line");
    return text ? *text : "error: " + std::string(to_string(text.error().code)) + ": " + text.error().what;
  }
  http::Headers headers;  ///< of every request, such as etcd's token

 private:
  test::LoopRunner& runner_;
  std::unique_ptr<http::Client> client_;
};

inline std::string b(std::string_view s) { return "\"" + wire::base64_encode(s) + "\""; }

/// Removes what differs between two servers by nature.
inline void strip(json::value& v) {
  if (auto* a = v.if_array()) {
    for (auto& x : *a) strip(x);
  } else if (auto* o = v.if_object()) {
    for (const auto* name : {"cluster_id", "member_id", "raft_term"}) o->erase(name);
    for (auto& [key, x] : *o) strip(x);
  }
}
inline json::value canonical(const std::string& text) {
  boost::system::error_code ec;
  auto v = json::parse(text, ec);
  if (ec) return json::value(json::string(text));
  strip(v);
  return v;
}

}  // namespace calico::store::etcd
