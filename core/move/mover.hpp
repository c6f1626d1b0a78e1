#pragma once
/// A running cloud goes from one datastore to another, and no packet notices (core/move/README.md: steps, and what
/// each failure leaves behind).
///
///   Mover mover(Side{kv, kv, urls}, Side{client, nullptr, {"https://10.0.0.1:2379"}}, options, say);
///   auto moved = co_await mover.run();        // until the new datastore is the authority, or all is as before
///
/// Up to the commit, one transaction in the old datastore, that one is the authority and the new one says of itself
/// that it is not ready; after it there is no way back but another move. Whoever was interrupted calls settle().
///
/// Thread: one loop. Owns: nothing; both datastores outlive it. Errors: invalid and conflict (the new datastore may not
/// be taken, nodes cannot follow), those of the datastores; of all of them nothing is left behind, or the error says
/// what is.
#include <chrono>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "core/base/clock.hpp"
#include "core/model/datastore_pointer.hpp"
#include "core/store/kv.hpp"

namespace calico::move {

using boost::asio::awaitable;

/// One of the two datastores.
struct Side {
  store::Datastore* ds = nullptr;
  store::Kv* kv = nullptr;             ///< the same, when it is the embedded one
  std::vector<std::string> endpoints;  ///< where nodes reach it

  /// A transaction of the move: also where others may not write.
  [[nodiscard]] awaitable<Result<store::TxnResult>> write(store::TxnRequest request,
                                                          store::Kv::Then then = store::Kv::Then::as_it_is) const;
  std::string name() const;
};

struct Options {
  std::string self;                              ///< this controller's own Node: it needs no answer
  bool check = false;                            ///< check and prepare only, then undo
  bool force = false;                            ///< do not mind nodes that cannot follow, or say nothing
  std::chrono::milliseconds answer_time{60000};  ///< for the nodes to try; a tenth of it with `force`
  std::chrono::milliseconds freeze_time{30000};  ///< of refused writes at most
  std::chrono::milliseconds poll{500};
};

/// Which Nodes follow the pointer of a generation, of those that are there.
struct Followers {
  std::vector<std::string> followed, waiting;
};
/// As the datastore `ds` knows it. `self` is not counted.
[[nodiscard]] awaitable<Result<Followers>> followers(store::Datastore& ds, std::int64_t generation, std::string self);

class Mover {
 public:
  /// `say` hears what is being done, a line each.
  Mover(Side from, Side to, Options options, std::function<void(std::string)> say);
  /// True: moved. False: `check` found nothing against it.
  [[nodiscard]] awaitable<Result<bool>> run();
  const model::DatastorePointer& pointer() const { return pointer_; }

 private:
  struct Content {
    store::Revision revision = 0;
    std::map<std::string, store::KeyValue, std::less<>> kvs;
  };
  awaitable<Status> check();
  awaitable<Status> prepare();
  awaitable<Status> wait_for_answers();
  awaitable<Status> carry();
  awaitable<Status> freeze();
  /// Errors: conflict: somebody wrote after the copy.
  awaitable<Status> commit(store::Revision copied);
  awaitable<bool> committed();
  awaitable<Status> undo();
  awaitable<Result<Content>> read(const Side& side) const;
  awaitable<Status> make_equal(const Content& want, Content* have);
  Status in_time() const;

  Side from_, to_;
  Options options_;
  std::function<void(std::string)> say_;
  model::DatastorePointer pointer_;
  std::string information_;  ///< clusterinformations/default as it was
  bool prepared_ = false, frozen_ = false;
  TimePoint frozen_since_{};
};

/// What became of a move that was interrupted, or of the one that is waiting to be finished.
enum class Settled : std::uint8_t {
  nothing,    ///< there was none
  given_up,   ///< one before its commit: all is as before
  moved,      ///< after its commit: the other datastore is the authority, and says so
  moved_here  ///< after its commit: the embedded datastore is the authority again, and writes are taken
};
/// Before anything writes to the embedded datastore, at each start: without `there` when it is not frozen, else with
/// the datastore its pointer names. Idempotent. Errors: those of the datastores: try again.
[[nodiscard]] awaitable<Result<Settled>> settle(Side here, Side there);

}  // namespace calico::move
