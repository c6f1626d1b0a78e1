#pragma once
/// SQLite, wrapped once: pragmas, numbered migrations, immediate transactions, cached statements. Every table of the
/// project lives in one file, `<state_dir>/state.db`; each user has its own table prefix and its own schema here.
///
///   constexpr Migration kMigrations[] = {{1, "CREATE TABLE neutron_port(id TEXT NOT NULL PRIMARY KEY, …) STRICT;"}};
///   constexpr Schema kSchema{"neutron", kMigrations};
///   auto db = Db::open({.path = dir + "/state.db", .synchronous = Db::Synchronous::full});
///   if (!db) return wrap(db.error(), "open");
///   if (auto s = (*db)->migrate(kSchema); !s) return s;
///   auto q = (*db)->query("SELECT id, mtu FROM neutron_port WHERE host = ?1 ORDER BY id", host);
///   for (;;) {
///     auto row = q.next();
///     if (!row) return tl::unexpected(row.error());
///     if (!*row) break;
///     use(q.text(0), q.integer(1));
///   }
///
/// Thread: one connection belongs to one thread at a time (no locks inside). Several connections may read one file
/// while one writes (WAL); a write transaction is BEGIN IMMEDIATE and waits busy_timeout for another writer. Errors:
/// corrupt (not a database, or damaged), exists (constraint: unique, foreign key, check: see what), busy (another
/// writer), exhausted (disk full), unavailable (I/O error, the file system turned read-only), no_permission (opened
/// read-only, cannot open), unsupported (newer file), canceled, invalid (a statement of ours is wrong: also reported as
/// internal when the schema cannot be the cause).
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>

#include "core/base/error.hpp"

struct sqlite3;
struct sqlite3_stmt;

namespace calico::store {

/// One step forward, run in a transaction of its own. Never edited once released; versions count 1, 2, 3, ….
struct Migration {
  int version;
  const char* sql;
};
/// The tables of one component: its name is its row in `schema_versions` and the prefix of its tables.
struct Schema {
  std::string_view component;
  std::span<const Migration> migrations;
};

/// Bytes for a BLOB column (text parameters are std::string_view).
struct Blob {
  std::string_view bytes;
};

/// A value bound to ?1, ?2, …; the bytes are read before the call returns.
class Param {
 public:
  Param(std::nullptr_t) {}
  Param(std::integral auto v) : v_(static_cast<std::int64_t>(v)) {}
  Param(double v) : v_(v) {}
  Param(std::string_view v) : v_(v) {}
  Param(const std::string& v) : v_(std::string_view(v)) {}
  Param(const char* v) : v_(std::string_view(v)) {}
  Param(Blob v) : v_(v) {}
  template <class T>
  Param(const std::optional<T>& v) {
    if (v) v_ = Param(*v).v_;
  }

 private:
  friend class Db;
  std::variant<std::nullptr_t, std::int64_t, double, std::string_view, Blob> v_ = nullptr;
};

/// A running statement. Reset and unbound when it goes out of scope; must not outlive its Db.
class Query {
 public:
  Query(Query&& other) noexcept;
  Query& operator=(Query&&) = delete;
  ~Query();

  /// The next row: true = there is one, false = no more. An error of prepare or bind shows here too.
  [[nodiscard]] Result<bool> next();
  /// Columns of the current row, from 0. Views live until next() or the end of the Query. NULL reads as 0 or empty.
  std::int64_t integer(int column) const;
  double real(int column) const;
  std::string_view text(int column) const;
  std::string_view blob(int column) const;
  bool is_null(int column) const;
  std::optional<std::string> optional_text(int column) const;

 private:
  friend class Db;
  Query(class Db& db, sqlite3_stmt* stmt, bool cached, std::optional<Error> error)
      : db_(&db), stmt_(stmt), cached_(cached), error_(std::move(error)) {}
  Db* db_;
  sqlite3_stmt* stmt_;
  bool cached_;
  std::optional<Error> error_;
};

/// Calls f(row) for every row.
template <class F>
[[nodiscard]] Status each_row(Query q, F&& f) {
  for (;;) {
    auto row = q.next();
    if (!row) return tl::unexpected<Error>(row.error());
    if (!*row) return {};
    f(q);
  }
}

/// One connection. Owns the handle and its statements.
class Db {
 public:
  enum class Synchronous : std::uint8_t {
    off,     ///< a power loss may take anything: only for copies that are synced once, when whole, and for tests
    normal,  ///< a power loss may take the last commits, never the consistency (the mirror)
    full,    ///< a commit that returned is on disk (the authority)
  };
  struct Options {
    std::string path;
    Synchronous synchronous = Synchronous::full;
    bool read_only = false;
    int busy_timeout_ms = 5000;
    /// Reads every page at open (PRAGMA quick_check): for an authority, where damage must not be found later.
    bool check = false;
    /// No write-ahead log but a rollback journal, gone after each commit: for a copy that is to be moved about.
    bool single_file = false;
    /// A VFS registered with SQLite by this name instead of the system's: a test's own disk.
    std::string vfs = {};
  };

  /// Opens or creates; the file and its log are private (0600) whatever the umask is and was. A file that is no
  /// database, or damaged, is Errc::corrupt and left as it is, byte for byte.
  [[nodiscard]] static Result<std::unique_ptr<Db>> open(const Options& options);
  ~Db();
  Db(const Db&) = delete;
  Db& operator=(const Db&) = delete;

  /// Brings one component's tables to the newest version, one transaction a step; a file whose component is newer than
  /// this build is refused (unsupported) untouched.
  [[nodiscard]] Status migrate(const Schema& schema);
  /// Version of a component's tables; 0 = none.
  [[nodiscard]] Result<int> schema_version(std::string_view component);

  /// Runs a script of one or more statements without parameters.
  [[nodiscard]] Status exec(const char* sql);
  /// Runs one statement to its end.
  template <class... P>
  [[nodiscard]] Status run(std::string_view sql, const P&... params) {
    const std::array<Param, sizeof...(P)> list{Param(params)...};
    return run_list(sql, list);
  }
  /// Starts one statement; see Query::next.
  template <class... P>
  [[nodiscard]] Query query(std::string_view sql, const P&... params) {
    const std::array<Param, sizeof...(P)> list{Param(params)...};
    return query_list(sql, list);
  }
  /// First column of the only row, as a number; not_found without a row.
  template <class... P>
  [[nodiscard]] Result<std::int64_t> number(std::string_view sql, const P&... params) {
    auto q = query(sql, params...);
    auto row = q.next();
    if (!row) return tl::unexpected<Error>(row.error());
    if (!*row) return fail(Errc::not_found, "no row: {}", sql);
    return q.integer(0);
  }
  [[nodiscard]] Status run_list(std::string_view sql, std::span<const Param> params);
  [[nodiscard]] Query query_list(std::string_view sql, std::span<const Param> params);

  /// Copies all of it, as it is at this moment, into the new file `to` (0600): one file without a log beside it,
  /// synced. Between pieces of `kCopyPages` pages `go_on` is asked (false: canceled). Writers go on meanwhile; their
  /// log grows until the copy is done. On failure nothing is left of `to`. Errors: exists, canceled, exhausted, ….
  [[nodiscard]] Status copy_to(const std::string& to, const std::function<bool(int done, int pages)>& go_on);
  static constexpr int kCopyPages = 256;

  /// Rows changed by the last run().
  std::int64_t changes() const;
  std::int64_t last_insert_id() const;
  bool in_transaction() const;
  const std::string& path() const { return path_; }

 private:
  friend class Query;
  Db(sqlite3* handle, std::string path) : handle_(handle), path_(std::move(path)) {}
  Error error_of(int rc, std::string_view what) const;
  void release(sqlite3_stmt* stmt, bool cached);

  struct Cached {
    sqlite3_stmt* stmt = nullptr;
    bool in_use = false;
  };
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
  };
  sqlite3* handle_;
  std::string path_;
  std::unordered_map<std::string, Cached, Hash, std::equal_to<>> cache_;
};

/// BEGIN IMMEDIATE … commit(), or a rollback at the end of the scope.
///
///   auto tx = Transaction::begin(db);
///   if (!tx) return tl::unexpected(tx.error());
///   … db.run(…) …
///   return tx->commit();
class Transaction {
 public:
  [[nodiscard]] static Result<Transaction> begin(Db& db);
  Transaction(Transaction&& other) noexcept : db_(std::exchange(other.db_, nullptr)) {}
  Transaction& operator=(Transaction&&) = delete;
  ~Transaction();
  /// On failure everything is rolled back.
  [[nodiscard]] Status commit();
  void rollback();

 private:
  explicit Transaction(Db& db) : db_(&db) {}
  Db* db_;
};

/// A savepoint inside a transaction: release() keeps what was done since, else it is undone at the end of the scope.
class Savepoint {
 public:
  [[nodiscard]] static Result<Savepoint> begin(Db& db);
  Savepoint(Savepoint&& other) noexcept : db_(std::exchange(other.db_, nullptr)) {}
  Savepoint& operator=(Savepoint&&) = delete;
  ~Savepoint();
  [[nodiscard]] Status release();

 private:
  explicit Savepoint(Db& db) : db_(&db) {}
  Db* db_;
};

/// Makes names created, renamed or removed in `directory` outlast a power loss.
[[nodiscard]] Status sync_directory(const std::string& directory);
/// The directory a path names an entry of.
[[nodiscard]] std::string directory_of(const std::string& path);

/// `<state_dir>/lock`: one process a state directory. flock(2), so that it ends with the process however that dies; the
/// file holds "PID NAME" for people. Hold it before opening state.db.
/// Errors: busy ("state_dir /var/lib/calico-node is used by NAME (pid 4711)"), no_permission, not_found (no such dir).
class StateLock {
 public:
  /// `name` says who holds it ("calico-node role compute").
  [[nodiscard]] static Result<StateLock> acquire(const std::string& state_dir, std::string_view name);
  StateLock(StateLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  StateLock& operator=(StateLock&&) = delete;
  ~StateLock();

 private:
  explicit StateLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace calico::store
