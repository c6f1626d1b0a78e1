#pragma once
/// Follows the datastore's pointer: where the cloud's datastore is after `store move` (core/move), tried before, and
/// told afterwards.
///
///   datastorepointers/default   the highest generation ever seen is followed: hooks.use() goes there, and the session
///                               ends; a lower one, one that does not read, or one of another cloud is not
///   datastorepointers/next      a move in preparation: hooks.probe() tries whether this node could follow
///   …/host/<node>/datastore     what this node follows and what came of its try: a leased report
///
/// The pointer comes from the mirror at each start, before anything connects, later as a change of the mirror, and,
/// where nothing is taken into it because the datastore is frozen or refused, from the replicator.
///
/// Thread: loop. Owns: nothing of the arguments. Errors: none come out; they are logged, and a failed try is reported.
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/model/datastore_pointer.hpp"
#include "core/sync/mirror.hpp"
#include "core/sync/service.hpp"
#include "core/sync/signal.hpp"
#include "core/sync/view.hpp"

namespace calico::sync {

class Follower {
 public:
  Follower(Mirror& mirror, Report& report, const Options& options, boost::asio::any_io_executor executor);

  /// Called when another datastore is in place: the running session is over.
  void set_on_moved(std::function<void()> f) { on_moved_ = std::move(f); }
  /// Before the first session: where the mirror says the datastore is.
  boost::asio::awaitable<void> begin();
  /// A pointer as the datastore has it. True: followed, another datastore is in place now.
  boost::asio::awaitable<bool> see(std::string value);
  /// Until cancelled.
  boost::asio::awaitable<void> run();

 private:
  void on_batch(const Batch& batch);
  boost::asio::awaitable<void> try_next();
  void tell();
  void say_once(std::string what);

  Mirror& mirror_;
  Report& report_;
  const Options& options_;
  const boost::asio::any_io_executor executor_;
  std::function<void()> on_moved_;
  std::unique_ptr<Subscription> subscription_;
  Signal work_;
  std::int64_t followed_ = 0;        // generation; 0: this node's own configuration
  std::optional<std::string> seen_;  // a pointer the mirror has got
  std::optional<model::DatastorePointer> next_;
  bool untried_ = false;  // next_ is to be tried, or its end to be told
  model::DatastoreReport told_;
  std::string said_;
};

}  // namespace calico::sync
