#pragma once
/// etcd's v3 JSON gateway in front of the embedded datastore: what the other nodes' sync, python's etcd3gw and the real
/// Neutron driver speak. Paths below /v3 and /v3beta: kv/{range,put,deleterange,txn,compaction},
/// [kv/]lease/{grant,keepalive,revoke,timetolive,leases}, watch, maintenance/status; GET /version and /health. What
/// etcd has and this has not is answered 501 with the grpc code 12, and says so.
///
///   GatewayOptions options;
///   options.admins = {"neutron"};
///   Gateway gateway(loop.executor(), kv, options);
///   if (auto s = gateway.listen({.at = *http::Endpoint::parse("https://0.0.0.0:2379"), .tls = files}); !s) ...
///   gateway.start();
///   …
///   co_await gateway.stop();   // before kv.stop()
///
/// Over TLS the name in the client's certificate decides what it may do (rights.hpp); whoever shows none, which only
/// Listen::client_certificate = optional lets happen, may ask for status. Over a plain or a unix socket everybody may
/// everything: the caller refuses to listen beyond loopback without TLS unless told to. What one client may hold at a
/// time is limited (clients.hpp); beyond it the answer is 429 with grpc code 8.
///
/// Thread: listen before start(); all else in the executor's loop. Owns: the server and its watches; `kv` outlives it.
/// Errors: listen: those of http::Server. Limits: 4 MiB a body, 4096 connections, a watch line of about 1 MiB (one
/// revision is never cut).
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/http/server.hpp"
#include "core/store/etcd/clients.hpp"
#include "core/store/kv.hpp"

namespace calico::store::etcd {

struct GatewayOptions {
  std::vector<std::string> admins;  ///< certificate names that may everything
  ClientLimits limits;
  /// Answers what is not below /v3, /v3beta, /version and /health; unset: 404.
  http::Handler otherwise;
};

/// Somebody else's part of the same listener, asked first.
struct GatewayFront {
  /// Whether the request is its own. Asked when the headers are in: such a request has its body unread, in body_reader.
  std::function<bool(const http::Request&)> takes;
  http::Handler handle;
};

class Gateway {
 public:
  Gateway(boost::asio::any_io_executor executor, Kv& kv, GatewayOptions options = {});
  ~Gateway();
  Gateway(const Gateway&) = delete;
  Gateway& operator=(const Gateway&) = delete;

  [[nodiscard]] Status listen(http::Listen where);
  /// Before start().
  void set_front(GatewayFront front);
  std::vector<http::Endpoint> endpoints() const;
  /// http::Server's.
  [[nodiscard]] Status reload_tls();
  std::size_t close_peers(const std::function<bool(const http::Peer&)>& which);
  void start();
  awaitable<void> stop();
  http::ServerStats stats() const;
  ClientStats client_stats() const;

 private:
  struct Service;
  std::shared_ptr<Service> service_;
  std::shared_ptr<GatewayFront> front_ = std::make_shared<GatewayFront>();
  std::unique_ptr<http::Server> server_;
};

}  // namespace calico::store::etcd
