#pragma once
/// Makes the datastore say what this node reports. Desired content comes from any thread and is merged per key; one
/// coroutine writes it: after each start of a synchronous time it compares (claimed prefixes by a list, other keys one
/// by one), then writes what differs, at most kBatch operations a transaction. A second coroutine keeps the lease
/// alive; when it is lost all leased keys are put again under a new one.
///
/// Nothing is written while the node is not in sync: a datastore that is frozen, refused or not yet compared is not
/// ours to write to.
///
/// Thread: Report's methods any; run, keep_lease, on_sync: loop. Errors: none come out; error() is for `store status`.
/// A key the datastore refuses for its content (invalid, too large) is given up until it changes.
#include <boost/asio/any_io_executor.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>

#include "core/store/datastore.hpp"
#include "core/sync/mirror.hpp"
#include "core/sync/service.hpp"
#include "core/sync/signal.hpp"
#include "core/sync/view.hpp"

namespace calico::sync {

/// The Node resource to write over `existing` (empty: none yet): `spec` is merged into it as RFC 7396 says (null
/// removes, arrays are replaced), labels replace those of the same name; an existing label in a domain ("domain/name")
/// that `labels` uses, but not in `labels`, is an old one of ours and goes. All else stays. Pure but for `uid` and
/// `time`, used for a new resource. Errors: invalid (labels or spec are not JSON objects).
[[nodiscard]] Result<std::string> merge_node(std::string_view existing, std::string_view name, std::string_view labels,
                                             std::string_view spec, std::string_view uid, std::string_view time);

class Reporter final : public Report {
 public:
  static constexpr std::size_t kBatch = 128;              // etcd's default limit of operations in a transaction
  static constexpr std::size_t kBatchBytes = 512 * 1024;  // a third of etcd's default request limit

  Reporter(store::Datastore& datastore, Mirror& mirror, const Options& options, boost::asio::any_io_executor executor);

  void claim(std::string prefix) override;
  void settled(std::string prefix) override;
  void set(std::string key, std::optional<std::string> value, bool leased) override;
  void again(const std::string& key) override;
  void set_node(std::string name, std::string labels_json, std::string spec_json) override;

  boost::asio::awaitable<void> run();
  boost::asio::awaitable<void> keep_lease();
  /// From the replicator.
  void on_sync(bool in_sync, std::uint64_t epoch);

  struct Counters {
    std::size_t pending = 0, total = 0;
    store::LeaseId lease = 0;
    std::string error;
  };
  Counters counters() const;

 private:
  struct Wanted {
    std::optional<std::string> value;
    bool leased = false, dirty = true, given_up = false;
    std::uint64_t generation = 0;
  };
  struct Claim {
    bool settled = false, compare = true;
  };
  struct Node {
    std::string name, labels, spec;
    bool dirty = true;
    std::uint64_t generation = 0, written_generation = 0, written_epoch = 0;
  };
  struct Item {
    std::string key;
    std::optional<std::string> value;
    bool leased;
    std::uint64_t generation;
  };

  boost::asio::awaitable<Status> round();
  boost::asio::awaitable<Status> compare_claim(std::string prefix);
  boost::asio::awaitable<Status> compare_others();
  boost::asio::awaitable<Status> write();
  boost::asio::awaitable<Status> ensure_lease();
  boost::asio::awaitable<Status> write_node();
  std::vector<Item> next_items(std::size_t limit) const;
  void done(const std::vector<Item>& items);
  void compare_one(const std::string& key, Wanted& wanted, const store::KeyValue* actual);
  void lease_lost();
  bool claimed(std::string_view key) const;
  void wake();
  std::string uuid();

  store::Datastore& ds_;
  Mirror& mirror_;
  const Options& options_;
  const boost::asio::any_io_executor executor_;

  mutable std::mutex m_;  // the desired content and what is counted
  std::map<std::string, Wanted, std::less<>> wanted_;
  std::map<std::string, Claim, std::less<>> claims_;
  std::optional<Node> node_;
  std::uint64_t generation_ = 0;
  bool woken_ = false;
  std::string error_, given_up_;
  store::LeaseId lease_ = 0;

  // loop only
  std::unique_ptr<Subscription> node_watch_;
  Signal work_, lease_work_;
  bool in_sync_ = false, compare_others_ = false;
  std::uint64_t epoch_ = 0;
  std::mt19937_64 random_{std::random_device{}()};
};

}  // namespace calico::sync
