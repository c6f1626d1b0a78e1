#include "core/bgp/session/connection.hpp"

#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>

namespace calico::bgp {

using asio::ip::tcp;
using boost::system::error_code;

namespace {
// One bite beside the longest message that lacks a byte: whatever is kept of the last bite, a whole new one fits.
constexpr std::size_t kBite = 64 * 1024, kScratch = kBite + kMaxExtendedMessage;
constexpr std::size_t kMaxBuffers = 256;

/// Reading space of this thread: connections are read one after the other.
std::byte* scratch() {
  thread_local const auto space = std::make_unique<std::byte[]>(kScratch);
  return space.get();
}

bool would_block(const error_code& ec) {
  return ec == asio::error::would_block || ec == asio::error::try_again || ec == asio::error::interrupted;
}
}  // namespace

Ip to_ip(const asio::ip::address& a) {
  if (a.is_v4()) {
    const auto b = a.to_v4().to_bytes();
    return Ip::from_bytes(std::as_bytes(std::span(b)));
  }
  const auto v6 = a.to_v6();
  if (v6.is_v4_mapped()) return to_ip(asio::ip::make_address_v4(asio::ip::v4_mapped, v6));
  const auto b = v6.to_bytes();
  return Ip::from_bytes(std::as_bytes(std::span(b)));
}

asio::ip::address to_asio(const Ip& ip) {
  const auto in = ip.bytes();
  if (ip.is_v4()) return asio::ip::address_v4(ip.to_v4());
  asio::ip::address_v6::bytes_type b{};
  for (std::size_t i = 0; i < b.size(); ++i) b[i] = std::to_integer<unsigned char>(in[i]);
  return asio::ip::address_v6(b);
}

Connection::Connection(tcp::socket socket, Handler& handler) : socket_(std::move(socket)), handler_(&handler) {
  error_code ignored;
  socket_.non_blocking(true, ignored);
  socket_.set_option(tcp::no_delay(true), ignored);
}

void Connection::remember_addresses() {
  error_code ec;
  if (auto e = socket_.local_endpoint(ec); !ec) local_ = e;
  if (auto e = socket_.remote_endpoint(ec); !ec) remote_ = e;
}

void Connection::connect(const tcp::endpoint& to) {
  socket_.async_connect(to, [self = shared_from_this()](const error_code& ec) {
    if (!self->open_) return;
    if (ec) return self->fail(ec);
    self->remember_addresses();
    self->handler_->on_connected(*self);
    if (self->open_) self->wait_readable();
  });
}

void Connection::start() {
  remember_addresses();
  wait_readable();
}

void Connection::fail(const error_code& ec) {
  if (!open_) return;
  open_ = false;
  error_code ignored;
  socket_.close(ignored);
  handler_->on_closed(*this, ec == asio::error::eof ? "connection closed" : ec.message());
}

void Connection::wait_readable() {
  socket_.async_wait(tcp::socket::wait_read, [self = shared_from_this()](const error_code& ec) {
    if (!self->open_) return;
    if (ec) return self->fail(ec);
    self->read_some();
  });
}

void Connection::read_some() {
  // One bounded bite a turn: other sockets come first before we take the next.
  auto* const space = scratch();
  std::copy(partial_.begin(), partial_.end(), space);
  const std::size_t had = partial_.size();
  error_code ec;
  const std::size_t got = socket_.read_some(asio::buffer(space + had, kBite), ec);
  if (ec && !would_block(ec)) return fail(ec);
  View data(space, had + got);
  while (data.size() >= kHeaderSize) {
    auto header = decode_header(data.first(kHeaderSize), max_message_);
    if (!header) return handler_->on_fault(*this, std::move(header.error()));
    if (data.size() < header->length) break;
    handler_->on_message(*this, header->type, data.subspan(kHeaderSize, header->length - kHeaderSize));
    if (!open_) return;
    data = data.subspan(header->length);
  }
  partial_.assign(data.begin(), data.end());
  if (partial_.empty()) partial_.shrink_to_fit();
  wait_readable();
}

void Connection::send(Bytes message) {
  if (message.empty()) return;
  queue(Piece(std::move(message)));
  flush();
}

void Connection::queue(Piece piece) {
  if (!open_ || piece.bytes.empty()) return;
  pending_ += piece.bytes.size();
  if (pending_ > kLowWater) above_low_ = true;
  out_.push_back(std::move(piece));
}

void Connection::flush() {
  if (open_ && !writing_ && !out_.empty()) write_some();
}

void Connection::write_some() {
  while (!out_.empty()) {
    std::array<asio::const_buffer, kMaxBuffers> buffers;
    std::size_t n = 0;
    for (auto it = out_.begin(); it != out_.end() && n < kMaxBuffers; ++it, ++n) {
      const std::size_t skip = n == 0 ? out_offset_ : 0;
      buffers[n] = asio::buffer(it->bytes.data() + skip, it->bytes.size() - skip);
    }
    error_code ec;
    std::size_t sent = socket_.write_some(std::span(buffers).first(n), ec);
    if (would_block(ec)) {
      if (!stuck_since_) stuck_since_ = std::chrono::steady_clock::now();
      writing_ = true;
      socket_.async_wait(tcp::socket::wait_write, [self = shared_from_this()](const error_code& e) {
        self->writing_ = false;
        if (!self->open_) return;
        if (e) return self->fail(e);
        self->write_some();
        if (self->open_ && self->above_low_ && self->pending_ <= kLowWater) {
          self->above_low_ = false;
          self->handler_->on_drained(*self);
        }
      });
      return;
    }
    if (ec) {
      // Not from here: the caller is in the middle of its own work.
      writing_ = true;
      asio::post(socket_.get_executor(), [self = shared_from_this(), ec] { self->fail(ec); });
      return;
    }
    stuck_since_.reset();
    pending_ -= sent;
    while (sent > 0) {
      const std::size_t left = out_.front().bytes.size() - out_offset_;
      if (sent < left) {
        out_offset_ += sent;
        break;
      }
      sent -= left;
      out_offset_ = 0;
      out_.pop_front();
    }
  }
  stuck_since_.reset();
}

void Connection::close() {
  if (!open_) return;
  if (!writing_) write_some();
  open_ = false;
  error_code ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  // What is unread would turn our last words into a reset: take a little of it. Not into scratch(): another
  // connection's message may lie there right now.
  std::array<std::byte, 4096> bin;
  for (int i = 0; i < 16; ++i) {
    error_code ec;
    if (socket_.read_some(asio::buffer(bin), ec) == 0 || ec) break;
  }
  socket_.close(ignored);
  out_.clear();
  pending_ = 0;
}

}  // namespace calico::bgp
