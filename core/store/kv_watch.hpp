#pragma once
/// The watches of the embedded datastore. A watcher is either live (the writer pushes what it commits into the
/// watcher's bounded queue) or catching up (next() reads the history chunk by chunk, at the reader's own pace, until it
/// meets the present). A live one whose queue overflows goes back to catching up: memory is bounded and nothing is
/// lost.
///
/// Thread: any; one mutex guards hub and watchers, held for queue operations only.
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <mutex>
#include <optional>
#include <unordered_set>

#include "core/store/bridge.hpp"
#include "core/store/kv_history.hpp"

namespace calico::store {

class Hub : public std::enable_shared_from_this<Hub> {
 public:
  using ReadHistory = std::function<void(std::shared_ptr<KvWatch::State>, Revision start, Done<Result<HistoryChunk>>)>;
  Hub(Kv::Options options, Revision published, ReadHistory read)
      : options_(std::move(options)), read_(std::move(read)), published_(published) {}

  [[nodiscard]] Result<std::shared_ptr<KvWatch::State>> add(WatchRequest request);
  void remove(KvWatch::State* watcher);
  /// Writer thread, after the commit and before the answers: in order of revision.
  void publish(const std::vector<Revised>& revisions, Revision now);
  /// Ends all with `closed`.
  void stop();
  std::size_t size() const;

  [[nodiscard]] awaitable<Result<SharedBatch>> next(std::shared_ptr<KvWatch::State> watcher);

 private:
  void overflow(KvWatch::State& w);
  void wake(KvWatch::State& w);

  const Kv::Options options_;
  ReadHistory read_;
  mutable std::mutex mutex_;
  std::unordered_set<KvWatch::State*> watchers_;
  Revision published_;
  bool stopped_ = false;
};

struct KvWatch::State {
  std::shared_ptr<Hub> hub;
  // Constant.
  std::string key;
  std::string end;
  bool prev = false;
  bool progress = false;
  Revision created_at = 0;
  // Under the hub's mutex.
  Revision next = 0;  ///< the first revision not delivered
  bool live = false;
  std::deque<Revised> queue;
  std::size_t events = 0;
  std::size_t bytes = 0;
  bool closed = false;
  boost::asio::any_io_executor executor;
  std::weak_ptr<boost::asio::steady_timer> sleeper;
  // The reader's own.
  std::optional<Error> dead;
  Revision compacted = 0;
  KeySpan span() const { return {key, end}; }
};

}  // namespace calico::store
