#pragma once
/// The embedded datastore: etcd v3's key space (MVCC revisions, transactions, leases, watches) on one SQLite file. It
/// is the authority of a cloud whose controller runs no etcd; core/store/etcd/gateway.hpp serves it to the other nodes.
///
///   auto kv = Kv::open({.path = state_dir + "/state.db", .schemas = {kNeutronSchema}});
///   if (!kv) return wrap(kv.error(), "datastore");
///   PutRequest put{.key = "/calico/x", .value = "1"};
///   auto done = co_await (*kv)->put(put);
///
/// SQL of the same file and the key space in one commit, so that the API's state and the intent never diverge:
///
///   auto r = co_await kv.txn_with([port](WriteScope& scope) -> Result<TxnRequest> {
///     if (auto s = scope.db().run("INSERT INTO neutron_port(id, …) VALUES(?1, …)", port.id, …); !s)
///       return tl::unexpected(s.error());                       // nothing is kept, the caller gets this error
///     TxnRequest txn;
///     txn.success.push_back(PutRequest{.key = key_of(port), .value = json_of(port)});
///     return txn;
///   });
///
/// A request that was answered is on disk (synchronous=FULL): one writer thread gathers all requests that wait and
/// commits them as one SQLite transaction. The current keys are in memory too; reads of the present never touch SQLite.
///
/// Thread: the Datastore methods and txn_with may be awaited from any loop and complete on its executor; open, stop and
/// the destructor from any one thread. That loop outlives the requests it waits for. `Kv` outlives nothing of its
/// watches: they end with `closed`.
/// Owns: the writer and the reader thread, two connections, the watches' state.
/// Errors: those of Datastore; `closed` after stop(); `busy` when more than max_waiting requests wait; SQLite's (disk
/// full: exhausted; I/O error or read-only: unavailable) fail the whole group, of which then nothing is kept. Reads,
/// watches and keepalives go on meanwhile, and every later write tries the disk again.
/// Units: lease TTL in seconds, at least 2 (as etcd). After a restart every lease has its full TTL again.
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/base/clock.hpp"
#include "core/store/datastore.hpp"
#include "core/store/db.hpp"

namespace calico::store {

using KvPtr = std::shared_ptr<const KeyValue>;

/// One event, made once and shared by all watchers. `prev` is there whether or not a watcher asks for it.
struct Change {
  Event::Type type = Event::Type::put;
  KvPtr kv;  ///< del: key and mod_revision only
  KvPtr prev;
  /// For a server: the event in its wire form, made by the first who needs it ([0] without, [1] with prev).
  mutable std::once_flag encoded_once[2];
  mutable std::string encoded[2];
};
using ChangePtr = std::shared_ptr<const Change>;

/// All that one revision changed, and who asked for it (empty = not said).
struct Revised {
  Revision revision = 0;
  std::vector<ChangePtr> changes;
  std::string who = {};
};

/// As WatchBatch, without copies.
struct SharedBatch {
  Revision revision = 0;
  std::vector<ChangePtr> changes;
};

/// A watch of the embedded datastore. Progress after 10 s without an event, when asked for. The queue of a slow reader
/// is bounded: when it overflows it is dropped and read again from the history, so that nothing is lost unless that
/// part was compacted meanwhile.
class KvWatch final : public Watch {
 public:
  struct State;
  explicit KvWatch(std::shared_ptr<State> state);
  ~KvWatch() override;
  KvWatch(const KvWatch&) = delete;
  KvWatch& operator=(const KvWatch&) = delete;

  [[nodiscard]] awaitable<Result<WatchBatch>> next() override;
  [[nodiscard]] awaitable<Result<SharedBatch>> next_shared();
  Revision compacted_at() const override;
  /// Revision of the store when the watch began.
  Revision created_at() const;

 private:
  std::shared_ptr<State> state_;
};

/// What the function given to txn_with may use, on the writer thread, inside the transaction.
class WriteScope {
 public:
  virtual ~WriteScope() = default;
  /// The writer's connection, in a transaction: no BEGIN, COMMIT or PRAGMA; only tables of the caller's own schema.
  virtual Db& db() = 0;
  /// The key space as it is now (RangeRequest::revision must be 0).
  [[nodiscard]] virtual Result<RangeResult> range(const RangeRequest& request) const = 0;
  [[nodiscard]] virtual std::optional<KeyValue> get(std::string_view key) const = 0;
  virtual Revision revision() const = 0;
};

/// Runs on the writer thread: short, no waiting, no calls back into Kv. Its SQL and the transaction it returns are kept
/// together or not at all.
using WriteFunction = std::function<Result<TxnRequest>(WriteScope&)>;

class Kv final : public Datastore {
 public:
  struct Options {
    std::string path;
    /// Tables of others in the same file, brought to their newest version at open.
    std::vector<Schema> schemas;
    /// Time of leases; nullptr = the system's. A test that moves its clock calls wake_for_test().
    const Clock* clock = nullptr;
    /// History kept before the oldest is compacted by itself; 0 = only when compact() is called.
    std::int64_t keep_revisions = 10000;
    std::size_t max_waiting = 20000;
    /// Bounds of one watcher's queue.
    std::size_t watch_events = 4096;
    std::size_t watch_bytes = 8U << 20;
    Duration progress_interval = std::chrono::seconds(10);
    /// Called on the writer thread after each commit, before the answers: what was written. For the audit log; short.
    std::function<void(const std::vector<Revised>&)> on_written = {};
    /// Called on the writer thread when the disk begins to refuse writes (why), and when it takes them again (nullopt).
    std::function<void(const std::optional<Error>&)> on_disk = {};
    /// Where backups of the file are, to be named when it cannot be opened; empty = none.
    std::string backup_directory = {};
    /// For tests: see Db::Options.
    std::string vfs = {};
    Db::Synchronous synchronous = Db::Synchronous::full;
  };

  [[nodiscard]] static Result<std::unique_ptr<Kv>> open(Options options);
  ~Kv() override;
  /// Answers what waits with `closed`, ends the watches, closes the file. Idempotent.
  void stop();

  [[nodiscard]] awaitable<Result<ServerStatus>> status() override;
  [[nodiscard]] awaitable<Result<RangeResult>> range(RangeRequest request) override;
  [[nodiscard]] awaitable<Result<PutResult>> put(PutRequest request) override;
  [[nodiscard]] awaitable<Result<DeleteResult>> del(DeleteRequest request) override;
  [[nodiscard]] awaitable<Result<TxnResult>> txn(TxnRequest request) override;
  [[nodiscard]] awaitable<Result<Revision>> compact(Revision revision) override;
  [[nodiscard]] awaitable<Result<LeaseInfo>> lease_grant(std::int64_t ttl_s, LeaseId id = 0) override;
  [[nodiscard]] awaitable<Result<LeaseInfo>> lease_keepalive(LeaseId id) override;
  [[nodiscard]] awaitable<Status> lease_revoke(LeaseId id) override;
  [[nodiscard]] awaitable<Result<LeaseInfo>> lease_time_to_live(LeaseId id, bool keys) override;
  [[nodiscard]] awaitable<Result<std::unique_ptr<Watch>>> watch(WatchRequest request) override;

  /// Runs `f` and the transaction it returns in one commit. When a compare of it does not hold, the SQL is undone too,
  /// `failure` (which may hold ranges only: invalid otherwise) is answered and `succeeded` is false. A transaction
  /// without operations is fine: then only the SQL is kept and the revision stays.
  /// Errors: what `f` returned (or threw: internal), else those of txn.
  [[nodiscard]] awaitable<Result<TxnResult>> txn_with(WriteFunction f);

  /// While a cloud moves to another datastore, and after it has, others may not write here: puts, deletions, new and
  /// revoked leases, compactions and transactions that would change a key are refused (unavailable: `why`), from the
  /// answer on. Reads, watches, keepalives, the ends of leases and SQL without keys go on. Ends with thaw() or a
  /// restart.
  [[nodiscard]] awaitable<Status> freeze(std::string why);
  /// Errors: those of a write when it was frozen for good.
  [[nodiscard]] awaitable<Status> thaw();
  enum class Then : std::uint8_t { as_it_is, frozen_for_good, thawed };
  /// A transaction of who moves the datastore, frozen or not, and what is the state after it, in one commit (when its
  /// compares hold). Frozen for good outlives restarts.
  [[nodiscard]] awaitable<Result<TxnResult>> txn_of_move(TxnRequest request, Then then = Then::as_it_is);
  /// Why it is frozen; empty when it is not. Any thread.
  std::string frozen() const;

  [[nodiscard]] Result<std::unique_ptr<KvWatch>> watch_shared(WatchRequest request);
  [[nodiscard]] awaitable<Result<std::vector<LeaseId>>> leases();

  /// Any thread, without waiting.
  Revision revision() const;
  std::uint64_t cluster_id() const;
  std::uint64_t member_id() const;
  /// When the file was a backup until this open (backup.hpp): the revision it held; revision() now is far beyond. Else
  /// 0.
  Revision restored_from() const;
  struct Stats {
    std::uint64_t commits = 0;   ///< SQLite transactions
    std::uint64_t requests = 0;  ///< answered by the writer
    std::size_t keys = 0;
    std::size_t watchers = 0;
    Revision compacted = 0;
    std::uint64_t file_bytes = 0;  ///< state.db with its log
    std::string disk_error;        ///< why the last commit failed; empty when it did not
  };
  Stats stats() const;

  /// The clock of the options was moved: look for leases that ended.
  void wake_for_test();

 private:
  struct Impl;
  explicit Kv(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace calico::store
