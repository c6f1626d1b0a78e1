#include "core/store/kv_history.hpp"

#include <algorithm>
#include <random>

namespace calico::store {
namespace {

// id = revision * 2^20 + position: the order of events without a second index.
constexpr int kPositionBits = 20;
constexpr std::size_t kMaxPosition = (std::size_t{1} << kPositionBits) - 1;
constexpr std::int64_t kMaxScannedRows = 20000;

constexpr Migration kMigrations[] = {{1, R"(
  CREATE TABLE kv_meta(name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  CREATE TABLE kv_log(
    id INTEGER PRIMARY KEY,
    revision INTEGER NOT NULL,
    key BLOB NOT NULL,
    value BLOB,
    create_revision INTEGER NOT NULL,
    version INTEGER NOT NULL,
    lease INTEGER NOT NULL) STRICT;
  CREATE UNIQUE INDEX kv_log_key ON kv_log(key, revision);
  CREATE TABLE kv_lease(id INTEGER PRIMARY KEY, ttl_s INTEGER NOT NULL) STRICT;
)"}};

std::uint64_t random_id() {
  std::random_device device;
  std::uint64_t id = 0;
  while (id == 0) id = static_cast<std::uint64_t>(device()) << 32 | device();
  return id;
}

/// Columns: revision, key, value, create_revision, version, lease.
KeyValue row_of(const Query& q) {
  KeyValue kv;
  kv.key = q.blob(1);
  kv.value = q.blob(2);
  kv.create_revision = q.integer(3);
  kv.mod_revision = q.integer(0);
  kv.version = q.integer(4);
  kv.lease = q.integer(5);
  return kv;
}

/// One view of the file for several statements.
class ReadTransaction {
 public:
  explicit ReadTransaction(Db& db) : db_(db), nested_(db.in_transaction()) {
    if (!nested_) status_ = db.run("BEGIN");
  }
  ~ReadTransaction() {
    if (!nested_ && db_.in_transaction()) (void)db_.run("COMMIT");
  }
  ReadTransaction(const ReadTransaction&) = delete;
  ReadTransaction& operator=(const ReadTransaction&) = delete;
  const Status& status() const { return status_; }

 private:
  Db& db_;
  bool nested_;
  Status status_;
};

Result<std::int64_t> meta(Db& db, std::string_view name) {
  return db.number("SELECT value FROM kv_meta WHERE name = ?1", name);
}

}  // namespace

const Schema kKvSchema{"kv", kMigrations};

Result<KvMeta> load_meta(Db& db) {
  auto rows = db.number("SELECT count(*) FROM kv_meta");
  if (!rows) return tl::unexpected<Error>(rows.error());
  if (*rows == 0) {
    auto tx = Transaction::begin(db);
    if (!tx) return tl::unexpected<Error>(tx.error());
    if (auto s = db.run("INSERT INTO kv_meta(name, value) VALUES('revision', 1), ('compacted', 0), ('cluster_id', ?1),"
                        " ('member_id', ?2)",
                        random_id(), random_id());
        !s)
      return tl::unexpected<Error>(s.error());
    if (auto s = tx->commit(); !s) return tl::unexpected<Error>(s.error());
  }
  KvMeta m;
  for (auto [name, out] : {std::pair{"revision", &m.revision}, std::pair{"compacted", &m.compacted}}) {
    auto v = meta(db, name);
    if (!v) return fail(Errc::corrupt, "{}: kv_meta has no {}", db.path(), name);
    *out = *v;
  }
  for (auto [name, out] : {std::pair{"cluster_id", &m.cluster_id}, std::pair{"member_id", &m.member_id}}) {
    auto v = meta(db, name);
    if (!v) return fail(Errc::corrupt, "{}: kv_meta has no {}", db.path(), name);
    *out = static_cast<std::uint64_t>(*v);
  }
  auto frozen = db.number("SELECT count(*) FROM kv_meta WHERE name = 'frozen'");
  if (!frozen) return tl::unexpected<Error>(frozen.error());
  m.frozen = *frozen > 0;
  auto newest = db.number("SELECT coalesce(max(revision), 0) FROM kv_log WHERE id = (SELECT max(id) FROM kv_log)");
  if (!newest) return tl::unexpected<Error>(newest.error());
  if (*newest > m.revision || m.compacted > m.revision)
    return fail(Errc::corrupt, "{}: the log is at revision {}, kv_meta at {} (compacted {})", db.path(), *newest,
                m.revision, m.compacted);
  return m;
}

Status mark_backup(Db& db, Revision beyond) {
  return db.run(
      "INSERT INTO kv_meta(name, value) VALUES('backup', ?1)"
      " ON CONFLICT(name) DO UPDATE SET value = max(value, excluded.value)",
      beyond);
}

Result<Revision> adopt_backup(Db& db) {
  auto tx = Transaction::begin(db);
  if (!tx) return tl::unexpected<Error>(tx.error());
  auto beyond = meta(db, "backup");
  if (!beyond && beyond.error().code == Errc::not_found) return 0;
  if (!beyond) return tl::unexpected<Error>(beyond.error());
  auto held = meta(db, "revision");
  if (!held) return tl::unexpected<Error>(held.error());
  auto compacted = meta(db, "compacted");
  if (!compacted) return tl::unexpected<Error>(compacted.error());
  const auto next = std::max(*held, *beyond) + kRestoreJump;
  if (*held < 0 || *beyond < 0 || next >= (Revision{1} << (63 - kPositionBits)))
    return fail(Errc::corrupt, "{}: revision {} (seen {}) is out of range", db.path(), *held, *beyond);
  // A watch from any revision somebody saw hears "compacted" and lists.
  if (*held > *compacted)
    if (auto s = compact_log(db, *compacted, *held); !s) return tl::unexpected<Error>(s.error());
  for (const auto* sql : {"DELETE FROM kv_log WHERE value IS NULL", "DELETE FROM kv_meta WHERE name = 'backup'"})
    if (auto s = db.run(sql); !s) return tl::unexpected<Error>(s.error());
  if (auto s = db.run("UPDATE kv_meta SET value = ?1 WHERE name IN ('revision', 'compacted')", next); !s)
    return tl::unexpected<Error>(s.error());
  for (const auto* name : {"cluster_id", "member_id"})
    if (auto s = db.run("UPDATE kv_meta SET value = ?2 WHERE name = ?1", name, random_id()); !s)
      return tl::unexpected<Error>(s.error());
  if (auto s = tx->commit(); !s) return tl::unexpected<Error>(s.error());
  return *held;
}

Status save_frozen(Db& db, bool frozen) {
  return db.run(frozen ? "INSERT OR REPLACE INTO kv_meta(name, value) VALUES('frozen', 1)"
                       : "DELETE FROM kv_meta WHERE name = 'frozen'");
}

Status save_revision(Db& db, Revision revision) {
  return db.run("UPDATE kv_meta SET value = ?1 WHERE name = 'revision'", revision);
}

Status load_keys(Db& db, const std::function<void(KeyValue)>& f) {
  // max() picks the row the bare columns come from (SQLite: "bare columns in an aggregate query").
  return each_row(db.query("SELECT max(revision), key, value, create_revision, version, lease FROM kv_log"
                           " GROUP BY key ORDER BY key"),
                  [&](const Query& q) {
                    if (!q.is_null(2)) f(row_of(q));
                  });
}

Status load_leases(Db& db, const std::function<void(LeaseId, std::int64_t)>& f) {
  return each_row(db.query("SELECT id, ttl_s FROM kv_lease ORDER BY id"),
                  [&](const Query& q) { f(q.integer(0), q.integer(1)); });
}

Status append(Db& db, Revision revision, std::size_t position, const Change& change) {
  if (position > kMaxPosition) return fail(Errc::exhausted, "more than {} changes in one revision", kMaxPosition);
  const auto id = (revision << kPositionBits) | static_cast<std::int64_t>(position);
  const auto& kv = *change.kv;
  if (change.type == Event::Type::del)
    return db.run(
        "INSERT INTO kv_log(id, revision, key, value, create_revision, version, lease)"
        " VALUES(?1, ?2, ?3, NULL, 0, 0, 0)",
        id, revision, Blob{kv.key});
  return db.run(
      "INSERT INTO kv_log(id, revision, key, value, create_revision, version, lease)"
      " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
      id, revision, Blob{kv.key}, Blob{kv.value}, kv.create_revision, kv.version, kv.lease);
}

Status compact_log(Db& db, Revision from, Revision to) {
  // Only keys changed since the last compaction can have something to drop. Every row of revision `to` itself stays, so
  // that a watch may begin there: a deletion of that revision goes with the next compaction.
  struct Row {
    std::string key;
    Revision revision;
    bool gone;
  };
  std::vector<Row> rows;
  if (auto s =
          each_row(db.query("SELECT key, revision, value IS NULL FROM kv_log WHERE id >= ?1 AND id < ?2 ORDER BY id",
                            from << kPositionBits, (to + 1) << kPositionBits),
                   [&](const Query& q) {
                     rows.push_back({std::string(q.blob(0)), q.integer(1), q.integer(2) != 0});
                   });
      !s)
    return s;
  for (const auto& row : rows) {
    const auto below = row.gone && row.revision < to ? row.revision + 1 : row.revision;
    if (auto s = db.run("DELETE FROM kv_log WHERE key = ?1 AND revision < ?2", Blob{row.key}, below); !s) return s;
  }
  return db.run("UPDATE kv_meta SET value = ?1 WHERE name = 'compacted'", to);
}

Result<RangeResult> range_at(Db& db, const RangeRequest& request) {
  ReadTransaction view(db);
  if (!view.status()) return tl::unexpected<Error>(view.status().error());
  auto now = meta(db, "revision");
  if (!now) return tl::unexpected<Error>(now.error());
  auto compacted = meta(db, "compacted");
  if (!compacted) return tl::unexpected<Error>(compacted.error());
  if (request.revision < *compacted)
    return fail(Errc::compacted, "revision {} has been compacted, the oldest is {}", request.revision, *compacted);

  const KeySpan span{request.key, request.range_end};
  constexpr std::string_view kOne =
      "SELECT max(revision), key, value, create_revision, version, lease FROM kv_log"
      " WHERE key = ?1 AND revision <= ?2 GROUP BY key ORDER BY key";
  constexpr std::string_view kOpen =
      "SELECT max(revision), key, value, create_revision, version, lease FROM kv_log"
      " WHERE key >= ?1 AND revision <= ?2 GROUP BY key ORDER BY key";
  constexpr std::string_view kSpan =
      "SELECT max(revision), key, value, create_revision, version, lease FROM kv_log"
      " WHERE key >= ?1 AND revision <= ?2 AND key < ?3 GROUP BY key ORDER BY key";
  Status status;
  const auto each = [&](const std::function<bool(const KvPtr&)>& f) {
    auto q = span.single() ? db.query(kOne, Blob{span.key}, request.revision)
             : span.open() ? db.query(kOpen, Blob{span.key}, request.revision)
                           : db.query(kSpan, Blob{span.key}, request.revision, Blob{span.end});
    status = each_row(std::move(q), [&](const Query& row) {
      if (!row.is_null(2)) f(std::make_shared<const KeyValue>(row_of(row)));
    });
  };
  const auto selected = select(request, each);
  if (!status) return tl::unexpected<Error>(status.error());
  return materialise(request, selected, *now);
}

Result<HistoryChunk> changes_since(Db& db, KeySpan span, Revision start, bool with_prev, std::size_t max_bytes) {
  ReadTransaction view(db);
  if (!view.status()) return tl::unexpected<Error>(view.status().error());
  auto now = meta(db, "revision");
  if (!now) return tl::unexpected<Error>(now.error());
  auto compacted = meta(db, "compacted");
  if (!compacted) return tl::unexpected<Error>(compacted.error());
  HistoryChunk out;
  if (start < *compacted) {
    out.compacted = *compacted;
    return out;
  }
  out.upto = *now;
  auto q = span.single() ? db.query(
                               "SELECT revision, key, value, create_revision, version, lease FROM kv_log"
                               " WHERE key = ?1 AND revision >= ?2 ORDER BY revision",
                               Blob{span.key}, start)
                         : db.query(
                               "SELECT revision, key, value, create_revision, version, lease FROM kv_log"
                               " WHERE id >= ?1 ORDER BY id",
                               start << kPositionBits);
  std::size_t bytes = 0;
  std::int64_t scanned = 0;
  Revision last = 0;
  for (;;) {
    auto row = q.next();
    if (!row) return tl::unexpected<Error>(row.error());
    if (!*row) break;
    const Revision revision = q.integer(0);
    if (revision != last && last != 0 && (bytes >= max_bytes || scanned >= kMaxScannedRows)) {
      out.upto = revision - 1;
      break;
    }
    last = revision;
    ++scanned;
    if (!span.contains(q.blob(1))) continue;
    auto change = std::make_shared<Change>();
    auto kv = row_of(q);
    if (q.is_null(2)) {
      change->type = Event::Type::del;
      kv = KeyValue{.key = std::move(kv.key), .value = {}, .mod_revision = revision};
    }
    bytes += kv.key.size() + kv.value.size() + sizeof(KeyValue);
    if (with_prev) {
      auto p = db.query(
          "SELECT revision, key, value, create_revision, version, lease FROM kv_log"
          " WHERE key = ?1 AND revision < ?2 ORDER BY revision DESC LIMIT 1",
          Blob{kv.key}, revision);
      auto found = p.next();
      if (!found) return tl::unexpected<Error>(found.error());
      if (*found && !p.is_null(2)) {
        change->prev = std::make_shared<const KeyValue>(row_of(p));
        bytes += change->prev->value.size();
      }
    }
    change->kv = std::make_shared<const KeyValue>(std::move(kv));
    out.changes.push_back(std::move(change));
  }
  return out;
}

}  // namespace calico::store
