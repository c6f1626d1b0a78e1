#pragma once
/// HTTP/1.1 client for a service with one or several equal endpoints: keep-alive connections, failover, TLS.
///
///   auto client = http::Client::create(loop.executor(), {.endpoints = {...}, .tls = files});
///   auto answer = co_await (*client)->request({.method = "POST", .target = "/v3/kv/range", .body = "{}"});
///   auto lines = co_await (*client)->open({.method = "POST", .target = "/v3/watch", .body = "..."});
///   while (auto line = co_await (*lines)->read_line(30s)) ...
///
/// Thread: the executor's loop. Owns: its connections. Must outlive what is awaited on it; a LineReader may outlive it.
/// Errors, one line with the endpoint: unavailable (connect, reset, closed before the answer), timeout, no_permission
/// (TLS: a certificate was refused by either side), invalid (not HTTP), exhausted (answer over the limit). An HTTP
/// error status is an answer, not an error.
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <memory>
#include <string>
#include <vector>

#include "core/http/message.hpp"

namespace calico::http {

struct ClientOptions {
  std::vector<Endpoint> endpoints;                      ///< tried in turn; the one that answered stays first
  TlsFiles tls;                                         ///< for endpoints with tls
  Duration connect_timeout = std::chrono::seconds(5);   ///< one endpoint: resolve, connect and handshake
  Duration request_timeout = std::chrono::seconds(10);  ///< default for ClientRequest::timeout
  std::size_t max_connections = 4;                      ///< for request(); further ones wait their turn
  std::size_t header_bytes = 64 * 1024;
  std::size_t body_bytes = 64 * 1024 * 1024;
  std::size_t line_bytes = 8 * 1024 * 1024;
};

struct ClientRequest {
  std::string method = "GET";
  std::string target = "/";
  Headers headers;  ///< Host, Content-Length and Connection are the client's business
  std::string body;
  Duration timeout{};  ///< to the last byte of the answer; zero = ClientOptions::request_timeout
  /// May be sent twice: then a connection lost before the answer is tried again, also elsewhere. Without it only what
  /// was surely not sent is tried again.
  bool idempotent = false;
};

struct Answer {
  unsigned status = 0;
  Headers headers;
  std::string body;
  Endpoint from;
};

/// A streaming answer on a connection of its own. Not for two coroutines at once. Dropping it closes the connection.
class LineReader {
 public:
  virtual ~LineReader() = default;
  /// Status and headers; body is empty.
  virtual const Answer& head() const = 0;
  /// The next line without its end. Errors: timeout (nothing complete in time; the connection is then closed), closed
  /// (the answer ended well), unavailable (it broke off), exhausted (line over ClientOptions::line_bytes).
  [[nodiscard]] virtual awaitable<Result<std::string>> read_line(Duration timeout) = 0;
  /// The rest as one text, for error bodies.
  [[nodiscard]] virtual awaitable<Result<std::string>> read_all(Duration timeout) = 0;
  virtual void close() = 0;
};

class Client {
 public:
  /// Loads the TLS files. Errors: invalid (no endpoint, bad file), no_permission.
  [[nodiscard]] static Result<std::unique_ptr<Client>> create(boost::asio::any_io_executor executor,
                                                              ClientOptions options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  [[nodiscard]] awaitable<Result<Answer>> request(ClientRequest request);
  /// Returns when the head of the answer is in (timeout counts to there).
  [[nodiscard]] awaitable<Result<std::unique_ptr<LineReader>>> open(ClientRequest request);
  /// Closes idle connections and makes running requests fail with closed.
  void close();
  /// Reads the TLS files again; connections made from now on use them, idle ones are closed. On an error what was
  /// loaded stays. Errors: invalid (file).
  [[nodiscard]] Status reload_tls();
  /// Tries another endpoint first next time, if this one is the first now: for answers that say "not me".
  void move_on(const Endpoint& from);
  /// The endpoint tried first now.
  Endpoint current() const;

 private:
  struct Impl;
  explicit Client(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace calico::http
