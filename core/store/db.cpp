#include "core/store/db.hpp"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <utility>

namespace calico::store {
namespace {

constexpr int kApplicationId = 0x63616c69;  // "cali": file(1) and we know the file as ours
constexpr int kFileVersion = 1;             // layout of schema_versions itself, in user_version
constexpr std::size_t kCacheMax = 256;

Errc errc_of_sqlite(int rc) {
  switch (rc & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return Errc::corrupt;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return Errc::busy;
    case SQLITE_FULL:
    case SQLITE_NOMEM:
    case SQLITE_TOOBIG:
      return Errc::exhausted;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
    case SQLITE_CANTOPEN:
      return Errc::no_permission;
    case SQLITE_CONSTRAINT:
      return Errc::exists;
    case SQLITE_IOERR:
      return Errc::unavailable;
    case SQLITE_INTERRUPT:
      return Errc::canceled;
    default:
      return Errc::internal;
  }
}

Error error_of_handle(sqlite3* h, int rc, std::string_view what) {
  // Not sqlite3_system_errno: a failed COMMIT does not set it. Callers set errno to 0 before they call SQLite.
  const int number = errno;
  // sqlite3_errmsg may describe an earlier call; only trust it when the codes agree.
  const char* text = h && (sqlite3_errcode(h) & 0xff) == (rc & 0xff) ? sqlite3_errmsg(h) : sqlite3_errstr(rc);
  Error e{errc_of_sqlite(rc), fmt::format("{}: {}", what, text)};
  const int kind = rc & 0xff;
  if (number == 0 || (kind != SQLITE_IOERR && kind != SQLITE_CANTOPEN)) return e;
  // "disk I/O error" has many causes; those an operator can end are told apart.
  if (number == ENOSPC || number == EDQUOT || number == EFBIG) e.code = Errc::exhausted;
  if (number == EROFS) e.code = Errc::unavailable;
  return Error{e.code, fail_errno(number, e.what).value().what};
}

// Statements are ours, never user text: the head of one is enough to find it.
std::string head(std::string_view sql) {
  std::string out;
  for (char c : sql) {
    if (std::isspace(static_cast<unsigned char>(c))) {
      if (!out.empty() && out.back() != ' ') out += ' ';
    } else {
      out += c;
    }
    if (out.size() >= 60) return out + "…";
  }
  return out;
}

/// A new file is made here, private and with its name on disk, before SQLite sees it; one that is there is made
/// private. By name and not by descriptor: closing a descriptor of a file would drop the locks SQLite holds on it in
/// this process.
Status make_private(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd >= 0) {
    const int failed = ::fchmod(fd, 0600) != 0 ? errno : 0;
    ::close(fd);
    if (failed != 0) return fail_errno(failed, path);
    return sync_directory(directory_of(path));
  }
  if (errno != EEXIST) return fail_errno(errno, path);
  for (const char* suffix : {"", "-wal", "-shm"}) {
    const auto name = path + suffix;
    struct stat st {};
    if (::stat(name.c_str(), &st) != 0 || (st.st_mode & 0777) == 0600) continue;
    if (!S_ISREG(st.st_mode)) return fail(Errc::invalid, "{}: not a regular file", name);
    if (::chmod(name.c_str(), 0600) != 0 && errno != EROFS) return fail_errno(errno, name);
  }
  return {};
}

}  // namespace

std::string directory_of(const std::string& path) {
  const auto slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Status sync_directory(const std::string& directory) {
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return fail_errno(errno, directory);
  const int failed = ::fsync(fd) != 0 ? errno : 0;
  ::close(fd);
  if (failed != 0) return fail_errno(failed, directory);
  return {};
}

// ---- Query

Query::Query(Query&& other) noexcept
    : db_(other.db_),
      stmt_(std::exchange(other.stmt_, nullptr)),
      cached_(other.cached_),
      error_(std::move(other.error_)) {}

Query::~Query() {
  if (stmt_) db_->release(stmt_, cached_);
}

Result<bool> Query::next() {
  if (error_) return tl::unexpected<Error>(*error_);
  errno = 0;
  const int rc = sqlite3_step(stmt_);
  if (rc == SQLITE_ROW) return true;
  if (rc == SQLITE_DONE) return false;
  error_ = db_->error_of(rc, head(sqlite3_sql(stmt_)));
  return tl::unexpected<Error>(*error_);
}

std::int64_t Query::integer(int column) const { return sqlite3_column_int64(stmt_, column); }
double Query::real(int column) const { return sqlite3_column_double(stmt_, column); }
std::string_view Query::text(int column) const {
  const auto* p = sqlite3_column_text(stmt_, column);
  const auto n = static_cast<std::size_t>(sqlite3_column_bytes(stmt_, column));
  return p ? std::string_view(reinterpret_cast<const char*>(p), n) : std::string_view{};
}
std::string_view Query::blob(int column) const {
  const auto* p = sqlite3_column_blob(stmt_, column);
  const auto n = static_cast<std::size_t>(sqlite3_column_bytes(stmt_, column));
  return p ? std::string_view(static_cast<const char*>(p), n) : std::string_view{};
}
bool Query::is_null(int column) const { return sqlite3_column_type(stmt_, column) == SQLITE_NULL; }
std::optional<std::string> Query::optional_text(int column) const {
  if (is_null(column)) return std::nullopt;
  return std::string(text(column));
}

// ---- Db

Result<std::unique_ptr<Db>> Db::open(const Options& options) {
  sqlite3* handle = nullptr;
  int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
  flags |= options.read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
  // SQLite gives -wal and -shm the mode of the main file.
  if (!options.read_only)
    if (auto s = make_private(options.path); !s) return tl::unexpected<Error>(s.error());
  const char* vfs = options.vfs.empty() ? nullptr : options.vfs.c_str();
  errno = 0;
  const int rc = sqlite3_open_v2(options.path.c_str(), &handle, flags, vfs);
  std::unique_ptr<Db> db(new Db(handle, options.path));
  if (rc != SQLITE_OK) return tl::unexpected<Error>(db->error_of(rc, "open"));
  // Until the file is known as ours and whole: closing it must not write the log into it.
  sqlite3_db_config(handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  // SQLite falls back to reading by itself; a writer is to hear of it now and not at its first write.
  if (!options.read_only && sqlite3_db_readonly(handle, "main") == 1)
    return fail(Errc::no_permission, "{}: can only be read: a read-only file system, or not this user's", options.path);
  sqlite3_busy_timeout(handle, options.busy_timeout_ms);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);

  auto user_version = db->number("PRAGMA user_version");  // the first read of the file: a foreign one shows here
  if (!user_version) return tl::unexpected<Error>(user_version.error());
  auto application = db->number("PRAGMA application_id");
  if (!application) return tl::unexpected<Error>(application.error());
  auto tables = db->number("SELECT count(*) FROM sqlite_schema");
  if (!tables) return tl::unexpected<Error>(tables.error());
  const bool fresh = *user_version == 0 && *application == 0 && *tables == 0;
  if (!fresh && *application != kApplicationId)
    return fail(Errc::corrupt, "{}: a database, but not one of calico-node", options.path);
  if (*user_version > kFileVersion)
    return fail(Errc::unsupported, "{}: written by a newer calico-node (file version {}, this one reads up to {})",
                options.path, *user_version, kFileVersion);
  if (options.check && !fresh) {
    auto q = db->query("PRAGMA quick_check(1)");
    auto row = q.next();
    if (!row) return tl::unexpected<Error>(row.error());
    if (!*row || q.text(0) != "ok") {
      std::string text(q.text(0));
      std::replace(text.begin(), text.end(), '\n', ' ');
      return fail(Errc::corrupt, "{}: damaged: {}", options.path, text);
    }
  }

  if (auto s = db->exec("PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;"); !s)
    return tl::unexpected<Error>(s.error());
  if (options.read_only) return db;
  // The log of one large burst is not kept at its size for ever.
  const char* journal = options.single_file ? "PRAGMA journal_mode = DELETE;"
                                            : "PRAGMA journal_mode = WAL; PRAGMA journal_size_limit = 16777216;";
  if (auto s = db->exec(journal); !s) return tl::unexpected<Error>(s.error());
  const char* sync = options.synchronous == Synchronous::full     ? "PRAGMA synchronous = FULL;"
                     : options.synchronous == Synchronous::normal ? "PRAGMA synchronous = NORMAL;"
                                                                  : "PRAGMA synchronous = OFF;";
  if (auto s = db->exec(sync); !s) return tl::unexpected<Error>(s.error());
  if (fresh) {
    auto tx = Transaction::begin(*db);
    if (!tx) return tl::unexpected<Error>(tx.error());
    // Another process may have made it between our look and the lock.
    auto now = db->number("PRAGMA user_version");
    if (!now) return tl::unexpected<Error>(now.error());
    if (*now == 0) {
      const auto sql = fmt::format(
          "PRAGMA application_id = {}; PRAGMA user_version = {};"
          "CREATE TABLE schema_versions(component TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL)"
          " STRICT, WITHOUT ROWID;",
          kApplicationId, kFileVersion);
      if (auto s = db->exec(sql.c_str()); !s) return tl::unexpected<Error>(s.error());
    }
    if (auto s = tx->commit(); !s) return tl::unexpected<Error>(s.error());
  }
  sqlite3_db_config(handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, nullptr);
  return db;
}

Db::~Db() {
  for (auto& [sql, c] : cache_) sqlite3_finalize(c.stmt);
  sqlite3_close_v2(handle_);
}

Error Db::error_of(int rc, std::string_view what) const {
  return error_of_handle(handle_, rc, fmt::format("{}: {}", path_, what));
}

Result<int> Db::schema_version(std::string_view component) {
  auto v = number("SELECT coalesce(max(version), 0) FROM schema_versions WHERE component = ?1", component);
  if (!v) return tl::unexpected<Error>(v.error());
  return static_cast<int>(*v);
}

Status Db::migrate(const Schema& schema) {
  auto have = schema_version(schema.component);
  if (!have) return tl::unexpected<Error>(have.error());
  const int newest = schema.migrations.empty() ? 0 : schema.migrations.back().version;
  if (*have > newest)
    return fail(Errc::unsupported,
                "{}: the {} tables were written by a newer calico-node (version {}, this one reads {})", path_,
                schema.component, *have, newest);
  for (const auto& m : schema.migrations) {
    if (m.version <= *have) continue;
    auto tx = Transaction::begin(*this);
    if (!tx) return tl::unexpected<Error>(tx.error());
    auto now = schema_version(schema.component);
    if (!now) return tl::unexpected<Error>(now.error());
    if (*now >= m.version) continue;  // somebody else did it while we waited
    if (m.version != *now + 1)
      return fail(Errc::internal, "{}: migration {} of {} follows {}", path_, m.version, schema.component, *now);
    const auto context = fmt::format("migration {} of {}", m.version, schema.component);
    if (auto s = exec(m.sql); !s) return wrap(s.error(), context);
    if (auto s = run("INSERT INTO schema_versions(component, version) VALUES(?1, ?2)"
                     " ON CONFLICT(component) DO UPDATE SET version = excluded.version",
                     schema.component, m.version);
        !s)
      return wrap(s.error(), context);
    if (auto s = tx->commit(); !s) return wrap(s.error(), context);
  }
  return {};
}

Status Db::exec(const char* sql) {
  errno = 0;
  const int rc = sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr);
  if (rc != SQLITE_OK) return tl::unexpected<Error>(error_of(rc, head(sql)));
  return {};
}

Query Db::query_list(std::string_view sql, std::span<const Param> params) {
  sqlite3_stmt* stmt = nullptr;
  bool cached = true;
  auto it = cache_.find(sql);
  if (it != cache_.end() && !it->second.in_use) {
    it->second.in_use = true;
    stmt = it->second.stmt;
  } else {
    // A statement already running (a nested query of the same text) gets a second, short-lived one.
    cached = it == cache_.end() && cache_.size() < kCacheMax;
    const unsigned flags = cached ? SQLITE_PREPARE_PERSISTENT : 0;
    const int rc = sqlite3_prepare_v3(handle_, sql.data(), static_cast<int>(sql.size()), flags, &stmt, nullptr);
    if (rc != SQLITE_OK) return {*this, nullptr, false, error_of(rc, head(sql))};
    if (!stmt) return {*this, nullptr, false, Error{Errc::internal, "empty statement"}};
    if (cached) cache_.emplace(std::string(sql), Cached{stmt, true});
  }
  if (sqlite3_bind_parameter_count(stmt) != static_cast<int>(params.size())) {
    release(stmt, cached);
    return {*this, nullptr, false,
            Error{Errc::internal, fmt::format("{}: {} parameters given: {}", path_, params.size(), head(sql))}};
  }
  int at = 0;
  for (const auto& p : params) {
    ++at;
    int rc = SQLITE_OK;
    // Transient: the caller's bytes need not outlive the call. An empty view must not become NULL.
    if (const auto* i = std::get_if<std::int64_t>(&p.v_))
      rc = sqlite3_bind_int64(stmt, at, *i);
    else if (const auto* d = std::get_if<double>(&p.v_))
      rc = sqlite3_bind_double(stmt, at, *d);
    else if (const auto* t = std::get_if<std::string_view>(&p.v_))
      rc = sqlite3_bind_text64(stmt, at, t->data() ? t->data() : "", t->size(), SQLITE_TRANSIENT, SQLITE_UTF8);
    else if (const auto* b = std::get_if<Blob>(&p.v_))
      rc = b->bytes.empty() ? sqlite3_bind_zeroblob(stmt, at, 0)
                            : sqlite3_bind_blob64(stmt, at, b->bytes.data(), b->bytes.size(), SQLITE_TRANSIENT);
    else
      rc = sqlite3_bind_null(stmt, at);
    if (rc != SQLITE_OK) {
      auto error = error_of(rc, head(sql));
      release(stmt, cached);
      return {*this, nullptr, false, std::move(error)};
    }
  }
  return {*this, stmt, cached, std::nullopt};
}

Status Db::run_list(std::string_view sql, std::span<const Param> params) {
  auto q = query_list(sql, params);
  for (;;) {
    auto row = q.next();
    if (!row) return tl::unexpected<Error>(row.error());
    if (!*row) return {};
  }
}

void Db::release(sqlite3_stmt* stmt, bool cached) {
  if (!cached) {
    sqlite3_finalize(stmt);
    return;
  }
  sqlite3_reset(stmt);
  sqlite3_clear_bindings(stmt);
  const auto it = cache_.find(std::string_view(sqlite3_sql(stmt)));
  if (it != cache_.end()) it->second.in_use = false;
}

Status Db::copy_to(const std::string& to, const std::function<bool(int, int)>& go_on) {
  const int fd = ::open(to.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return fail_errno(errno, to);
  sqlite3* copy = nullptr;
  Status s;
  if (::fchmod(fd, 0600) != 0) s = fail_errno(errno, to);
  ::close(fd);
  const auto failed = [&](int rc) { return tl::unexpected<Error>(error_of_handle(copy, rc, to)); };
  if (s)
    if (const int rc = sqlite3_open_v2(to.c_str(), &copy, SQLITE_OPEN_READWRITE | SQLITE_OPEN_EXRESCODE, nullptr);
        rc != SQLITE_OK)
      s = failed(rc);
  // One read transaction around all pieces: without it a commit in between would begin the copy anew, for ever.
  const bool outer = in_transaction();
  if (s && !outer) s = run("BEGIN");
  if (s) {
    auto first = number("SELECT count(*) FROM sqlite_schema");
    if (!first) s = tl::unexpected<Error>(first.error());
  }
  if (s) {
    // Synced as a whole below; a copy that was interrupted is thrown away.
    (void)sqlite3_exec(copy, "PRAGMA synchronous = OFF;", nullptr, nullptr, nullptr);
    auto* backup = sqlite3_backup_init(copy, "main", handle_, "main");
    if (!backup) {
      s = failed(sqlite3_extended_errcode(copy));
    } else {
      int rc = SQLITE_OK;
      while (rc == SQLITE_OK) {
        errno = 0;
        rc = sqlite3_backup_step(backup, kCopyPages);
        const int pages = sqlite3_backup_pagecount(backup);
        if (rc == SQLITE_OK && !go_on(pages - sqlite3_backup_remaining(backup), pages)) rc = SQLITE_INTERRUPT;
      }
      const int end = sqlite3_backup_finish(backup);
      if (rc != SQLITE_DONE)
        s = failed(rc);
      else if (end != SQLITE_OK)
        s = failed(end);
    }
  }
  if (!outer && in_transaction()) (void)run("COMMIT");
  // The pages say "write-ahead log"; a file that is to be moved about has none.
  if (s)
    if (const int rc = sqlite3_exec(copy, "PRAGMA journal_mode = DELETE;", nullptr, nullptr, nullptr); rc != SQLITE_OK)
      s = failed(rc);
  if (copy)
    if (const int rc = sqlite3_close(copy); rc != SQLITE_OK && s) s = fail(Errc::internal, "{}: close: {}", to, rc);
  if (s) {
    const int again = ::open(to.c_str(), O_RDWR | O_CLOEXEC);
    if (again < 0 || ::fsync(again) != 0) s = fail_errno(errno, to);
    if (again >= 0) ::close(again);
  }
  if (s) s = sync_directory(directory_of(to));
  if (!s)
    for (const char* suffix : {"", "-journal", "-wal", "-shm"}) ::unlink((to + suffix).c_str());
  return s;
}

std::int64_t Db::changes() const { return sqlite3_changes64(handle_); }
std::int64_t Db::last_insert_id() const { return sqlite3_last_insert_rowid(handle_); }
bool Db::in_transaction() const { return sqlite3_get_autocommit(handle_) == 0; }

// ---- transactions

Result<Transaction> Transaction::begin(Db& db) {
  if (auto s = db.run("BEGIN IMMEDIATE"); !s) return tl::unexpected<Error>(s.error());
  return Transaction(db);
}

Transaction::~Transaction() { rollback(); }

Status Transaction::commit() {
  auto s = db_->run("COMMIT");
  if (s) {
    db_ = nullptr;
    return s;
  }
  rollback();
  return s;
}

void Transaction::rollback() {
  Db* db = std::exchange(db_, nullptr);
  // SQLite itself ends the transaction on some errors (disk full, I/O): then there is nothing left to roll back.
  if (db && db->in_transaction()) (void)db->run("ROLLBACK");
}

Result<Savepoint> Savepoint::begin(Db& db) {
  if (auto s = db.run("SAVEPOINT calico"); !s) return tl::unexpected<Error>(s.error());
  return Savepoint(db);
}

Savepoint::~Savepoint() {
  if (!db_ || !db_->in_transaction()) return;
  (void)db_->run("ROLLBACK TO calico");
  (void)db_->run("RELEASE calico");
}

Status Savepoint::release() {
  auto s = db_->run("RELEASE calico");
  if (s) db_ = nullptr;
  return s;
}

// ---- StateLock

Result<StateLock> StateLock::acquire(const std::string& state_dir, std::string_view name) {
  const auto path = state_dir + "/lock";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return fail_errno(errno, path);
  StateLock lock(fd);
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return fail_errno(errno, path);
    char buffer[256];
    const auto n = ::pread(fd, buffer, sizeof buffer, 0);
    std::string_view text(buffer, n > 0 ? static_cast<std::size_t>(n) : 0);
    text = text.substr(0, text.find('\n'));
    const auto space = text.find(' ');
    std::string holder(space == text.npos ? "another process" : text.substr(space + 1));
    for (auto& c : holder)
      if (static_cast<unsigned char>(c) < 0x20) c = '?';
    return fail(Errc::busy, "state_dir {} is used by {} (pid {}): one process a host", state_dir, holder,
                text.empty() ? "unknown" : text.substr(0, space));
  }
  const auto text = fmt::format("{} {}\n", ::getpid(), name);
  if (::ftruncate(fd, 0) != 0 || ::pwrite(fd, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()))
    return fail_errno(errno, path);
  return lock;
}

StateLock::~StateLock() {
  // The file stays: removing it would let a third process lock a new inode while a second waits on the old one.
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace calico::store
