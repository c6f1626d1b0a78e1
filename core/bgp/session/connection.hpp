#pragma once
/// One TCP connection that carries BGP messages: frames what arrives, sends what is given at once or as soon as the
/// socket takes it. Knows nothing of states; its owner hears through Handler. Thread: loop. Owns: the socket and the
/// bytes not yet written; kept alive by its own pending operations. Errors: reported once by on_closed (never after
/// close()), after which the connection is dead. Memory: 128 KiB of reading space shared by all connections of a
/// thread, at most one partial message kept a connection. The owner stops producing above kHighWater and goes on at
/// on_drained.
#include <boost/asio/ip/tcp.hpp>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "core/base/clock.hpp"
#include "core/bgp/codec/message.hpp"
#include "core/loop/loop.hpp"

namespace calico::bgp {

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  static constexpr std::size_t kHighWater = 256 * 1024, kLowWater = 64 * 1024;

  class Handler {
   public:
    virtual ~Handler() = default;
    virtual void on_connected(Connection& c) = 0;
    virtual void on_message(Connection& c, MessageType type, View body) = 0;
    virtual void on_fault(Connection& c, Fault fault) = 0;
    virtual void on_closed(Connection& c, std::string why) = 0;
    virtual void on_drained(Connection& c) = 0;
  };

  /// `socket` is open (accepted, or to be connected).
  Connection(asio::ip::tcp::socket socket, Handler& handler);

  void connect(const asio::ip::tcp::endpoint& to);
  /// An accepted connection begins to read.
  void start();
  /// The longest message taken from now on (RFC 8654); kMaxMessage at first.
  void set_max_message(std::size_t size) { max_message_ = size; }
  /// Bytes to write and who keeps them alive: a message of its own, or a part of what many connections are sent.
  struct Piece {
    Piece(std::shared_ptr<const void> owner_, View bytes_) : owner(std::move(owner_)), bytes(bytes_) {}
    explicit Piece(Bytes message) {
      auto own = std::make_shared<const Bytes>(std::move(message));
      bytes = *own;
      owner = std::move(own);
    }
    std::shared_ptr<const void> owner;
    View bytes;
  };
  void send(Bytes message);
  /// For flush() to write together with what else comes.
  void queue(Piece piece);
  void flush();
  /// Writes what the socket takes now and closes; the handler hears nothing more.
  void close();

  bool is_open() const { return open_; }
  std::size_t pending() const { return pending_; }
  /// Since when the socket has not taken a byte of what waits; nullopt: nothing waits.
  std::optional<TimePoint> stuck_since() const { return stuck_since_; }
  std::optional<asio::ip::tcp::endpoint> local() const { return local_; }
  std::optional<asio::ip::tcp::endpoint> remote() const { return remote_; }
  int fd() { return socket_.native_handle(); }

 private:
  void wait_readable();
  void read_some();
  void write_some();
  void fail(const boost::system::error_code& ec);
  void remember_addresses();

  asio::ip::tcp::socket socket_;
  Handler* handler_;
  bool open_ = true, writing_ = false, above_low_ = false;
  std::size_t max_message_ = kMaxMessage;
  Bytes partial_;
  std::deque<Piece> out_;
  std::size_t out_offset_ = 0, pending_ = 0;
  std::optional<TimePoint> stuck_since_;
  std::optional<asio::ip::tcp::endpoint> local_, remote_;
};

Ip to_ip(const asio::ip::address& a);
asio::ip::address to_asio(const Ip& ip);

}  // namespace calico::bgp
