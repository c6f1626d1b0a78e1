#pragma once
/// One connection's bytes, plain or TLS, TCP or unix: what server and client stand on. Internal to this floor.
///
/// Thread: the executor's loop. One reader and one writer at a time. Every operation has a deadline. After one
/// of a read only writing and finish() are of use, after one of a write the connection is closed. A coroutine that is
/// cancelled while it waits here unwinds with operation_aborted. Errors: timeout, closed (close() was called),
/// unavailable (reset), no_permission (certificate refused).
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <memory>
#include <string>

#include "core/http/message.hpp"

namespace calico::http {

using Socket = boost::asio::generic::stream_protocol::socket;

/// A loaded SSL_CTX; shared by the connections that use it.
class TlsContext {
 public:
  virtual ~TlsContext() = default;
};
[[nodiscard]] Result<std::shared_ptr<TlsContext>> make_server_tls(const TlsFiles& files, bool certificate_required);
[[nodiscard]] Result<std::shared_ptr<TlsContext>> make_client_tls(const TlsFiles& files);

class Transport {
 public:
  virtual ~Transport() = default;
  /// At least one byte into data[0, n), which must stay valid until this returns; 0 = the peer has ended its side.
  [[nodiscard]] virtual awaitable<Result<std::size_t>> read_some(char* data, std::size_t n, Duration timeout) = 0;
  /// All of it. `timeout` is for the whole.
  [[nodiscard]] virtual awaitable<Status> write(std::string data, Duration timeout) = 0;
  /// The polite end: close_notify and FIN, then what the peer still sends is read and dropped for a second at most, so
  /// that it can read our last bytes (a reset would take them away).
  virtual awaitable<void> finish() = 0;
  /// The abrupt end; whatever waits here fails with closed. Safe at any time.
  virtual void close() = 0;
  /// False when an idle connection has bytes or an end to read: not fit for another request.
  virtual bool is_quiet() = 0;
  virtual const Peer& peer() const = 0;
};

/// Server side: wraps an accepted socket; for TLS the handshake is part of it. `opened` gets the transport before the
/// handshake, so that it can be closed.
[[nodiscard]] awaitable<Result<std::shared_ptr<Transport>>> accept_transport(
    Socket socket, std::shared_ptr<TlsContext> tls, Duration timeout,
    std::function<void(std::shared_ptr<Transport>)> opened);
/// Client side: resolve, connect, handshake with verification of the name or address in the endpoint.
[[nodiscard]] awaitable<Result<std::shared_ptr<Transport>>> connect_transport(Endpoint to,
                                                                              std::shared_ptr<TlsContext> tls,
                                                                              Duration timeout);

/// What is left of a deadline, at least one millisecond so that it never means "no deadline".
Duration left_until(TimePoint deadline);

}  // namespace calico::http
