#pragma once
/// The loop under every monitor: reads multicast messages of one socket on an executor, a bounded number a turn, and
/// turns lost messages into one call. Used by netlink::Monitor and nft::Monitor.
///
/// Thread: create: any; start, stop, callbacks: the executor's loop. Owns: the socket and the callbacks, through a
/// shared pointer held by what is in flight: a callback may stop or drop the reader.
#include <boost/asio/any_io_executor.hpp>
#include <functional>
#include <memory>
#include <string_view>

#include "core/netlink/message.hpp"
#include "core/netlink/socket.hpp"

namespace calico::netlink {

class EventReader {
 public:
  static constexpr std::size_t kMessagesPerTurn = 512;
  using OnMessage = std::function<void(const Message&)>;
  using OnLost = std::function<void(std::string_view why)>;

  EventReader(boost::asio::any_io_executor executor, Socket socket, OnMessage on_message, OnLost on_lost);
  EventReader(EventReader&&) noexcept;
  EventReader& operator=(EventReader&&) noexcept;
  ~EventReader();

  void start();
  /// No callback runs after this.
  void stop();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace calico::netlink
