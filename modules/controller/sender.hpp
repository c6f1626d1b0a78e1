#pragma once
/// Puts the outbox into a datastore that is elsewhere, in order, a hundred keys a transaction: each is read, merged
/// with what it holds as translate.hpp says, and written if nobody wrote it meanwhile. Nothing is written to a
/// datastore that is not ready or not this cloud's. What was written and not yet forgotten when the process died is
/// found equal the next time.
///
///   Sender sender(remote, outbox, {.forget = …, .stamp = …, .guid = "…"});
///   tasks.spawn("send", [&] { return sender.run(); });
///   sender.wake();                                   // something was added
///
/// Thread: the api loop. Owns: nothing of the arguments. Errors: none come out; waiting() says why it waits. A key the
/// datastore refuses for its content is dropped, aloud.
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "core/store/datastore.hpp"
#include "modules/controller/outbox.hpp"

namespace calico::controller {

using boost::asio::awaitable;

struct SenderOptions {
  /// Takes what was sent out of the table; the api loop waits for it.
  std::function<awaitable<Status>(std::vector<Outbox::Sent>)> forget;
  std::function<Stamp()> stamp;
  std::string guid;  ///< of the cloud; "" = any
  std::chrono::milliseconds retry_min{200}, retry_max{4000};
};

class Sender {
 public:
  Sender(store::Datastore& remote, Outbox& outbox, boost::asio::any_io_executor executor, SenderOptions options);

  /// Until cancelled.
  awaitable<void> run();
  void wake();
  /// One line; empty while nothing is in the way.
  const std::string& waiting() const { return waiting_; }
  std::uint64_t written() const { return written_; }

  /// Those of `intents` whose keys do not hold what they should. Errors: those of the datastore.
  [[nodiscard]] awaitable<Result<std::vector<Intent>>> differing(std::vector<Intent> intents);

 private:
  struct Present {
    store::Revision information = 0;    ///< mod revision of clusterinformations/default
    std::vector<store::KeyValue> keys;  ///< mod revision 0: not there
  };
  awaitable<Result<Present>> read(const std::vector<Outbox::Item>& items);
  /// `refused`: it is what they hold that the datastore does not take.
  awaitable<Status> send(const std::vector<Outbox::Item>& items, bool* refused);

  store::Datastore& remote_;
  Outbox& outbox_;
  SenderOptions options_;
  boost::asio::steady_timer wake_;
  std::string waiting_;
  std::uint64_t written_ = 0;
  std::minstd_rand random_{std::random_device{}()};
};

}  // namespace calico::controller
