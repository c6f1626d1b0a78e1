#include "core/sync/mirror_file.hpp"

#include <pthread.h>
#include <signal.h>

#include <charconv>
#include <chrono>
#include <cstdio>

namespace calico::sync {
namespace {

// The value is a BLOB so that any bytes survive; `CAST(value AS TEXT)` reads it.
constexpr store::Migration kMigrations[] = {
    {1,
     "CREATE TABLE mirror_kv(key TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL, create_revision INTEGER NOT NULL,"
     " mod_revision INTEGER NOT NULL, version INTEGER NOT NULL, lease INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
     "CREATE TABLE mirror_prefix(prefix TEXT NOT NULL PRIMARY KEY, revision INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
     "CREATE TABLE mirror_meta(name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;"}};
constexpr store::Schema kSchema{"mirror", kMigrations};

constexpr auto kRetry = std::chrono::seconds(5);

template <class T>
T number(std::string_view text) {
  T v{};
  (void)std::from_chars(text.data(), text.data() + text.size(), v);
  return v;
}

}  // namespace

Result<std::unique_ptr<MirrorFile>> MirrorFile::open(std::string path, std::function<MirrorChange()> whole) {
  std::unique_ptr<MirrorFile> file(new MirrorFile(std::move(path), std::move(whole)));
  auto opened = file->open_db();
  if (!opened && opened.error().code == Errc::corrupt) opened = file->set_aside(opened.error().what);
  if (!opened) return tl::unexpected(opened.error());
  return file;
}

MirrorFile::~MirrorFile() {
  {
    std::lock_guard lock(m_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Status MirrorFile::open_db() {
  store::Db::Options options;
  options.path = path_;
  options.synchronous = store::Db::Synchronous::normal;
  options.check = true;
  auto db = store::Db::open(options);
  if (!db) return tl::unexpected(db.error());
  if (auto s = (*db)->migrate(kSchema); !s) return s;
  db_ = std::move(*db);
  return {};
}

/// Renamed, not removed: whoever wants to know what happened to it can look, and a mirror rebuilds itself.
Status MirrorFile::set_aside(const std::string& why) {
  db_.reset();
  const auto aside = path_ + ".corrupt";
  for (const char* suffix : {"-wal", "-shm"}) {
    std::remove((aside + suffix).c_str());
    std::rename((path_ + suffix).c_str(), (aside + suffix).c_str());
  }
  if (std::rename(path_.c_str(), aside.c_str()) != 0) return fail_errno(errno, fmt::format("{} → {}", path_, aside));
  auto s = open_db();
  std::lock_guard lock(m_);
  note_ = fmt::format("was corrupt ({}), set aside as {} and begun anew", why, aside);
  return s;
}

Result<MirrorFile::Loaded> MirrorFile::load() {
  auto loaded = read();
  if (loaded || loaded.error().code != Errc::corrupt) return loaded;
  if (auto s = set_aside(loaded.error().what); !s) return tl::unexpected(s.error());
  return Loaded{};
}

Result<MirrorFile::Loaded> MirrorFile::read() {
  Loaded out;
  {
    auto q = db_->query("SELECT key, value, create_revision, mod_revision, version, lease FROM mirror_kv ORDER BY key");
    for (;;) {
      auto row = q.next();
      if (!row) return tl::unexpected(row.error());
      if (!*row) break;
      store::KeyValue kv;
      kv.key = q.text(0);
      kv.value = q.blob(1);
      kv.create_revision = q.integer(2);
      kv.mod_revision = q.integer(3);
      kv.version = q.integer(4);
      kv.lease = q.integer(5);
      auto key = kv.key;
      out.content.insert_or_assign(std::move(key), std::move(kv));
    }
  }
  {
    auto q = db_->query("SELECT prefix, revision FROM mirror_prefix ORDER BY prefix");
    for (;;) {
      auto row = q.next();
      if (!row) return tl::unexpected(row.error());
      if (!*row) break;
      out.revisions[std::string(q.text(0))] = q.integer(1);
    }
  }
  auto q = db_->query("SELECT name, value FROM mirror_meta ORDER BY name");
  for (;;) {
    auto row = q.next();
    if (!row) return tl::unexpected(row.error());
    if (!*row) break;
    const auto name = q.text(0);
    if (name == "cluster_id") out.identity.cluster_id = number<std::uint64_t>(q.text(1));
    if (name == "cluster_guid") out.identity.cluster_guid = q.text(1);
    if (name == "info_create_revision") out.identity.info_create_revision = number<store::Revision>(q.text(1));
    if (name == "ready") out.identity.ready = q.text(1) == "1";
    if (name == "log_lead" && !q.text(1).empty()) out.identity.log_lead = number<std::int64_t>(q.text(1));
  }
  return out;
}

Status MirrorFile::write(const MirrorChange& change) {
  if (!db_)
    if (auto s = open_db(); !s) return s;
  auto tx = store::Transaction::begin(*db_);
  if (!tx) return tl::unexpected(tx.error());
  if (change.everything)
    if (auto s = db_->run("DELETE FROM mirror_kv"); !s) return s;
  for (const auto& [key, kv] : change.keys) {
    auto s = kv ? db_->run(
                      "INSERT INTO mirror_kv(key, value, create_revision, mod_revision, version, lease)"
                      " VALUES(?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT(key) DO UPDATE SET value = excluded.value,"
                      " create_revision = excluded.create_revision, mod_revision = excluded.mod_revision,"
                      " version = excluded.version, lease = excluded.lease",
                      key, store::Blob{kv->value}, kv->create_revision, kv->mod_revision, kv->version, kv->lease)
                : db_->run("DELETE FROM mirror_kv WHERE key = ?1", key);
    if (!s) return s;
  }
  if (auto s = db_->run("DELETE FROM mirror_prefix"); !s) return s;
  for (const auto& [prefix, revision] : change.revisions)
    if (auto s = db_->run("INSERT INTO mirror_prefix(prefix, revision) VALUES(?1, ?2)", prefix, revision); !s) return s;
  const std::pair<const char*, std::string> meta[] = {
      {"cluster_id", fmt::format("{}", change.identity.cluster_id)},
      {"cluster_guid", change.identity.cluster_guid},
      {"info_create_revision", fmt::format("{}", change.identity.info_create_revision)},
      {"ready", change.identity.ready ? "1" : "0"},
      {"log_lead", change.identity.log_lead ? fmt::format("{}", *change.identity.log_lead) : std::string()}};
  for (const auto& [name, value] : meta)
    if (auto s = db_->run("INSERT INTO mirror_meta(name, value) VALUES(?1, ?2)"
                          " ON CONFLICT(name) DO UPDATE SET value = excluded.value",
                          name, value);
        !s)
      return s;
  return tx->commit();
}

void MirrorFile::start() {
  thread_ = std::thread([this] {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    pthread_setname_np(pthread_self(), "sync-disk");
    run();
  });
}

void MirrorFile::push(MirrorChange change) {
  {
    std::lock_guard lock(m_);
    if (!pending_ || change.everything) {
      pending_ = std::move(change);
    } else {
      for (auto& [key, kv] : change.keys) pending_->keys.insert_or_assign(key, std::move(kv));
      pending_->revisions = std::move(change.revisions);
      pending_->identity = std::move(change.identity);
    }
  }
  wake_.notify_all();
}

void MirrorFile::flush() {
  std::unique_lock lock(m_);
  idle_.wait(lock, [&] { return (!pending_ && !writing_) || !error_.empty(); });
}

void MirrorFile::run() {
  std::unique_lock lock(m_);
  for (;;) {
    wake_.wait(lock, [&] { return pending_ || stopping_; });
    if (!pending_) return;
    MirrorChange change = std::move(*pending_);
    pending_.reset();
    writing_ = true;
    lock.unlock();
    auto s = write(change);
    if (!s && s.error().code == Errc::corrupt) {
      s = set_aside(s.error().what);
      if (s) {
        change = whole_();
        s = write(change);
      }
    }
    lock.lock();
    writing_ = false;
    error_ = s ? std::string() : s.error().what;
    if (!s) {
      // Newer values that came meanwhile win over what could not be written.
      if (!pending_) {
        pending_ = std::move(change);
      } else if (!pending_->everything) {
        pending_->keys.merge(std::move(change.keys));
        pending_->everything = change.everything;
      }
    }
    idle_.notify_all();
    if (!s) {
      if (stopping_) return;
      wake_.wait_for(lock, kRetry, [&] { return stopping_; });
    }
  }
}

std::string MirrorFile::note() const {
  std::lock_guard lock(m_);
  return note_;
}

std::string MirrorFile::error() const {
  std::lock_guard lock(m_);
  return error_;
}

}  // namespace calico::sync
