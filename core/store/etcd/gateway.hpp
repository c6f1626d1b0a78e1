#pragma once
/// etcd's v3 JSON gateway in front of the embedded datastore: what the other nodes' sync, python's etcd3gw and the real
/// Neutron driver speak. Paths below /v3 and /v3beta: kv/{range,put,deleterange,txn,compaction},
/// [kv/]lease/{grant,keepalive,revoke,timetolive,leases}, watch, maintenance/status; GET /version and /health. What
/// etcd has and this has not is answered 501 with the grpc code 12, and says so.
///
///   Gateway gateway(loop.executor(), kv);
///   if (auto s = gateway.listen({.at = *http::Endpoint::parse("https://0.0.0.0:2379"), .tls = files}); !s) ...
///   gateway.start();
///   …
///   co_await gateway.stop();   // before kv.stop()
///
/// Who may connect is TLS's decision: with a ca_file every certificate of that CA may read and write everything (roles
/// by certificate are not there yet); without TLS whoever reaches the socket may. The caller refuses to listen beyond
/// loopback without TLS unless told to.
///
/// Thread: listen before start(); all else in the executor's loop. Owns: the server and its watches; `kv` outlives it.
/// Errors: listen: those of http::Server. Limits: 4 MiB a body, 4096 connections, a watch line of about 1 MiB (one
/// revision is never cut).
#include <memory>

#include "core/http/server.hpp"
#include "core/store/kv.hpp"

namespace calico::store::etcd {

/// The handler alone, for a server that serves more.
[[nodiscard]] http::Handler gateway_handler(Kv& kv);

class Gateway {
 public:
  Gateway(boost::asio::any_io_executor executor, Kv& kv);
  ~Gateway();
  Gateway(const Gateway&) = delete;
  Gateway& operator=(const Gateway&) = delete;

  [[nodiscard]] Status listen(http::Listen where);
  std::vector<http::Endpoint> endpoints() const;
  void start();
  awaitable<void> stop();
  http::ServerStats stats() const;

 private:
  std::unique_ptr<http::Server> server_;
};

}  // namespace calico::store::etcd
