#include "core/netlink/event_reader.hpp"

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>

namespace calico::netlink {
namespace asio = boost::asio;

struct EventReader::State : std::enable_shared_from_this<EventReader::State> {
  State(asio::any_io_executor ex, Socket s, OnMessage m, OnLost l)
      : executor(ex),
        socket(std::move(s)),
        readable(ex, socket.fd()),
        on_message(std::move(m)),
        on_lost(std::move(l)) {}
  ~State() { readable.release(); }  // the descriptor is the socket's

  void wait() {
    readable.async_wait(asio::posix::stream_descriptor::wait_read, [self = shared_from_this()](auto ec) {
      if (!ec && !self->stopped) self->read();
    });
  }

  void read() {
    for (std::size_t messages = 0; messages < kMessagesPerTurn;) {
      auto got = socket.receive(buffer, false);
      if (!got && got.error().code == Errc::busy) return wait();
      if (!got) {
        lost(got.error());
        if (!stopped) wait();
        return;
      }
      for_each_message(*got, [&](const Message& m) {
        ++messages;
        if (!stopped) on_message(m);
      });
      if (stopped) return;
    }
    asio::post(executor, [self = shared_from_this()] {
      if (!self->stopped) self->read();
    });
  }

  /// What is still queued lies before the gap or after it: none of it is worth more than reading everything again.
  void lost(const Error& why) {
    for (int i = 0; i < 100000; ++i) {
      auto got = socket.receive(buffer, false);
      if (!got && got.error().code != Errc::exhausted) break;
    }
    on_lost(why.what);
  }

  asio::any_io_executor executor;
  Socket socket;
  asio::posix::stream_descriptor readable;
  OnMessage on_message;
  OnLost on_lost;
  Bytes buffer;
  bool started = false;
  bool stopped = false;
};

EventReader::EventReader(asio::any_io_executor executor, Socket socket, OnMessage on_message, OnLost on_lost)
    : state_(
          std::make_shared<State>(std::move(executor), std::move(socket), std::move(on_message), std::move(on_lost))) {}
EventReader::EventReader(EventReader&&) noexcept = default;
EventReader& EventReader::operator=(EventReader&& o) noexcept {
  stop();
  state_ = std::move(o.state_);
  return *this;
}
EventReader::~EventReader() { stop(); }

void EventReader::start() {
  if (!state_ || state_->started) return;
  state_->started = true;
  state_->wait();
}

void EventReader::stop() {
  if (!state_) return;
  state_->stopped = true;
  boost::system::error_code ignored;
  state_->readable.cancel(ignored);
}

}  // namespace calico::netlink
