#pragma once
/// A flag coroutines of one loop can wait for; set() while nobody waits is kept for the next wait.
/// Thread: loop (the executor's).
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>

namespace calico::sync {

class Signal {
 public:
  explicit Signal(const boost::asio::any_io_executor& executor) : timer_(executor) {}

  void set() {
    set_ = true;
    timer_.cancel();
  }
  void clear() { set_ = false; }

  /// True when set (and clears it), false when the time passed. Throws operation_aborted when the coroutine is
  /// canceled. For one waiter at a time.
  boost::asio::awaitable<bool> wait_for(std::chrono::nanoseconds time) {
    if (!set_) {
      timer_.expires_after(time);
      auto [ec] = co_await timer_.async_wait(boost::asio::as_tuple(boost::asio::use_awaitable));
      if (ec && !set_) throw boost::system::system_error(ec);
    }
    co_return std::exchange(set_, false);
  }

 private:
  boost::asio::steady_timer timer_;
  bool set_ = false;
};

}  // namespace calico::sync
