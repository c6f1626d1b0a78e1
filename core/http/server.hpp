#pragma once
/// HTTP/1.1 server over TCP, TLS and unix sockets; the handler is one coroutine function.
///
///   http::Server server(loop.executor(), {}, [](http::Request r) -> awaitable<http::Response> {
///     co_return http::Response::json(200, "{}");
///   });
///   if (auto s = server.listen({.at = *http::Endpoint::parse("https://127.0.0.1:0"), .tls = files}); !s) ...
///   server.start();
///   ...
///   co_await server.stop();
///
/// Thread: construct and listen() from anywhere before start(); all else in the executor's loop; the handler runs
/// there. Owns: sockets, connections and the coroutines of handlers. Errors: listen() says in one line what could not
/// be bound or loaded; a fault of a connection ends that connection only. Limits are below. A header or body over its
/// limit is answered with 431 or 413, a malformed request with 400, one that does not arrive in time with 408, and the
/// connection closes. A handler that throws is answered with 500.
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/http/message.hpp"

namespace calico::http {

using Handler = std::function<awaitable<Response>(Request)>;

struct ServerOptions {
  std::string name = "http";  ///< of the task group, for logs
  std::size_t header_bytes = 16 * 1024;
  std::size_t body_bytes = 4 * 1024 * 1024;
  std::size_t max_connections = 1024;  ///< beyond it an idle connection is closed for the new one, else the new
  Duration handshake_timeout = std::chrono::seconds(10);
  Duration request_timeout = std::chrono::seconds(30);  ///< first byte (or accept) to the last byte of the request
  Duration idle_timeout = std::chrono::seconds(75);     ///< keep-alive: last response to the next request
  Duration write_timeout = std::chrono::seconds(30);    ///< one write of a response with no progress to its end
  /// True: the handler gets the request when its headers are in, with body_reader instead of body.
  std::function<bool(const Request&)> stream_request;
  /// The answer to what never becomes a request (400, 408, 413, 431, 505), in the shape the server's clients read;
  /// unset: the words as text.
  std::function<Response(unsigned status, const std::string& what)> refusal;
};

/// With tls.ca_file. One that is shown must verify either way; `optional` only lets those in who show none, with an
/// empty Peer::identity(): the handler decides what they may do.
enum class ClientCertificate : std::uint8_t { required, optional };

struct Listen {
  Endpoint at;  ///< tcp address (no names) or unix path; at.tls demands tls.cert_file and tls.key_file
  TlsFiles tls;
  ClientCertificate client_certificate = ClientCertificate::required;
  unsigned mode = 0660;  ///< of the unix socket; a stale socket file is replaced, one in use is refused
};

struct ServerStats {
  std::size_t connections = 0;  ///< open now
  std::uint64_t accepted = 0;
  std::uint64_t requests = 0;
  std::uint64_t refused = 0;       ///< over max_connections
  std::uint64_t tls_failures = 0;  ///< handshakes that failed (no or wrong certificate, not TLS)
  std::uint64_t bad_requests = 0;  ///< malformed, over a limit, or too slow
};

class Server {
 public:
  Server(boost::asio::any_io_executor executor, ServerOptions options, Handler handler);
  /// Closes everything at once; prefer stop().
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// Binds now; accepting begins with start(). May be called several times; all or nothing for each call.
  /// Errors: exists (address in use), no_permission, invalid (file, address), unavailable.
  [[nodiscard]] Status listen(Listen where);
  /// What is bound, in the order of listen(), with the real ports.
  std::vector<Endpoint> endpoints() const;
  void start();
  /// Stops accepting, closes every connection, cancels handlers and waits for them.
  awaitable<void> stop();
  ServerStats stats() const;

  /// Reads the files of every TLS listener again; connections accepted from now on use them. All or nothing: on an
  /// error what was loaded stays. Errors: invalid (file).
  [[nodiscard]] Status reload_tls();
  /// Closes at once every connection whose peer `which` names, streams included; handlers that run are left to end.
  /// How many.
  std::size_t close_peers(const std::function<bool(const Peer&)>& which);

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace calico::http
