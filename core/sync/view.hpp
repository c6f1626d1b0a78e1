#pragma once
/// What a module sees of the datastore: View to read intent, Report to state what this node has. Neither is a database
/// and neither blocks on the network: both stand on the local store (core/sync/README.md), so that a host boots and
/// enforces with controller and datastore down.
///
///   auto sub = view.watch({kWorkloadEndpoints, kNetworkPolicies}, loop.executor(), [this](const Batch& b) {
///   on_batch(b); }); report.set(status_key, R"({"status":"up"})");
#include <boost/asio/any_io_executor.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/store/datastore.hpp"

namespace calico::sync {

enum class Phase : std::uint8_t {
  waiting,    ///< nothing usable yet: no datastore and an empty mirror, or datastoreReady is not true
  resyncing,  ///< the content is the last known state; the datastore is away or being compared
  in_sync,    ///< the content is the datastore's
  refusing,   ///< the datastore's content looks like a loss (mass removal, other cluster): last known state kept
};
[[nodiscard]] std::string_view to_string(Phase p);

struct SyncState {
  Phase phase = Phase::waiting;
  std::string reason;  ///< one line for STATUS= and `store status`
  store::Revision revision = 0;
  bool operator==(const SyncState&) const = default;
};

/// One key of the watched prefixes: value absent = gone.
struct Update {
  std::string key;
  std::optional<std::string> value;
  /// Of the change that was told. The key may stand at another one later: after a move or a restore of the datastore
  /// all do, and what is equal is not told again.
  store::Revision mod_revision = 0;
};

/// Level-triggered: applying every batch in order to a map gives the current content. The first batch of a subscription
/// is everything the local store has. `usable` is false while there has never been a complete, ready snapshot (empty
/// mirror): then nothing may be removed from the kernel because of it. Once true it stays true for the subscription.
struct Batch {
  bool usable = false;
  SyncState state;
  std::vector<Update> updates;  ///< may be empty: only the state changed
};

/// Dropping it ends the subscription; a batch already posted to the executor is then not delivered.
class Subscription {
 public:
  virtual ~Subscription() = default;
};

/// Thread: any. Reads never wait for the network.
class View {
 public:
  virtual ~View() = default;
  virtual std::optional<store::KeyValue> get(std::string_view key) const = 0;
  /// Ordered by key.
  virtual std::vector<store::KeyValue> range(std::string_view prefix) const = 0;
  virtual SyncState state() const = 0;
  /// `on_batch` runs on `executor`, in order, never at once. Batches waiting are merged per key, so a slow watcher
  /// costs no more than the content.
  [[nodiscard]] virtual std::unique_ptr<Subscription> watch(std::vector<std::string> prefixes,
                                                            boost::asio::any_io_executor executor,
                                                            std::function<void(const Batch&)> on_batch) = 0;
};

/// The desired content of the keys this node owns, level-triggered. Written after the first in_sync, in batches,
/// compared with what is there; keys below a claimed prefix that were never set are removed once claims are settled.
/// Thread: any.
class Report {
 public:
  virtual ~Report() = default;
  /// `prefix` is owned: keys there that are not set when `settled(prefix)` is called are deleted from the datastore.
  virtual void claim(std::string prefix) = 0;
  virtual void settled(std::string prefix) = 0;
  /// value absent = delete. `leased` keys carry this node's lease (90 s, kept alive) and are put again after its loss.
  virtual void set(std::string key, std::optional<std::string> value, bool leased = false) = 0;
  /// Writes a key that is set once more, unchanged: for readers that act on the event.
  virtual void again(const std::string& key) = 0;
  /// This node's Node resource: `labels` and `spec` are JSON objects as text. Written by create-or-compare-and-swap;
  /// foreign labels, annotations and spec fields already there are kept. A Node deleted by an operator is not written
  /// again until the content or the process changes.
  virtual void set_node(std::string name, std::string labels_json, std::string spec_json) = 0;
};

}  // namespace calico::sync
