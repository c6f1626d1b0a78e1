#include "core/store/backup.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <ctime>
#include <deque>
#include <filesystem>
#include <mutex>
#include <optional>
#include <thread>

#include "core/store/kv_history.hpp"

namespace calico::store {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "state-";
constexpr std::string_view kSuffix = ".db";
constexpr std::string_view kPartial = ".partial";
constexpr auto kLookAgain = std::chrono::hours(1);
constexpr auto kTryAgain = std::chrono::minutes(10);
constexpr auto kBreath = std::chrono::milliseconds(5);  // between two pieces of a daily copy

std::string utc(WallTime t, const char* format) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(t);
  std::tm tm{};
  ::gmtime_r(&seconds, &tm);
  char text[32];
  return std::string(text, std::strftime(text, sizeof text, format, &tm));
}

bool is_daily(std::string_view name) {
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) return false;
  name = name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size());
  return name.size() == 8 && std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
}

std::uint64_t size_of(const std::string& path) {
  struct stat st {};
  return ::stat(path.c_str(), &st) == 0 ? static_cast<std::uint64_t>(st.st_size) : 0;
}

bool there(const std::string& path) {
  struct stat st {};
  return ::lstat(path.c_str(), &st) == 0;
}

/// Refused before it is begun: a copy must not take the room the datastore needs.
Status room_for(const std::string& directory, std::uint64_t bytes, std::uint64_t reserve) {
  struct statvfs v {};
  if (::statvfs(directory.c_str(), &v) != 0) return fail_errno(errno, directory);
  const auto total = static_cast<std::uint64_t>(v.f_blocks) * v.f_frsize;
  const auto free = static_cast<std::uint64_t>(v.f_bavail) * v.f_frsize;
  const auto needed = bytes + std::min(reserve, total / 10);
  if (free < needed)
    return fail(Errc::exhausted, "{}: a copy needs {} bytes with its reserve, {} are free", directory, needed, free);
  return {};
}

Status remove_if_there(const std::string& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return fail_errno(errno, path);
  return {};
}

Result<StoreFile> describe(Db& db) {
  StoreFile out;
  out.path = db.path();
  auto tables = db.number("SELECT count(*) FROM sqlite_schema WHERE name = 'schema_versions'");
  if (!tables) return tl::unexpected<Error>(tables.error());
  if (*tables == 0) return fail(Errc::corrupt, "{}: an empty file", db.path());
  auto version = db.schema_version(kKvSchema.component);
  if (!version) return tl::unexpected<Error>(version.error());
  if (*version == 0) return fail(Errc::invalid, "{}: no datastore in it (the mirror of a node?)", db.path());
  if (const int newest = kKvSchema.migrations.back().version; *version > newest)
    return fail(Errc::unsupported, "{}: written by a newer calico-node (kv tables {}, this one reads {})", db.path(),
                *version, newest);
  auto revision = db.number("SELECT value FROM kv_meta WHERE name = 'revision'");
  if (!revision) return tl::unexpected<Error>(revision.error());
  auto newest = db.number("SELECT coalesce(max(revision), 0) FROM kv_log");
  if (!newest) return tl::unexpected<Error>(newest.error());
  if (*newest > *revision)
    return fail(Errc::corrupt, "{}: the log is at revision {}, kv_meta at {}", db.path(), *newest, *revision);
  out.revision = *revision;
  if (auto s = load_keys(db, [&](const KeyValue&) { ++out.keys; }); !s) return tl::unexpected<Error>(s.error());
  out.bytes = size_of(db.path());
  return out;
}

/// Marks the copy at `path` as one; `beyond` 0 = no revision is known but its own.
Status mark(const std::string& path, Revision beyond) {
  auto db = Db::open({.path = path, .single_file = true});
  if (!db) return tl::unexpected<Error>(db.error());
  auto own = (*db)->number("SELECT value FROM kv_meta WHERE name = 'revision'");
  if (!own) return tl::unexpected<Error>(own.error());
  return mark_backup(**db, std::max(*own, beyond));
}

/// The revision of a file that may be damaged, and with its log written into it if it is not; 0 with the reason else.
Revision settle(const std::string& path, std::string& note) {
  auto db = Db::open({.path = path, .check = true});
  if (!db) {
    note = db.error().what;
    return 0;
  }
  if (auto s = (*db)->exec("PRAGMA wal_checkpoint(TRUNCATE);"); !s) note = s.error().what;
  auto revision = (*db)->number("SELECT value FROM kv_meta WHERE name = 'revision'");
  if (!revision) {
    note = "no datastore in it";
    return 0;
  }
  auto beyond = (*db)->number("SELECT coalesce(max(value), 0) FROM kv_meta WHERE name = 'backup'");
  return std::max(*revision, beyond ? *beyond : 0);
}

}  // namespace

Result<StoreFile> check_store_file(const std::string& path) {
  if (!there(path)) return fail(Errc::not_found, "{}: no such file", path);
  auto db = Db::open({.path = path, .read_only = true, .check = true});
  if (!db) return tl::unexpected<Error>(db.error());
  return describe(**db);
}

Result<StoreFile> save_store(Db& from, const std::string& to, const std::function<bool(int, int)>& go_on) {
  if (there(to)) return fail(Errc::exists, "{} is there already", to);
  const auto partial = to + std::string(kPartial);
  if (auto s = from.copy_to(partial, go_on); !s) return tl::unexpected<Error>(s.error());
  const auto give_up = [&](Error e) {
    (void)remove_if_there(partial);
    return tl::unexpected<Error>(std::move(e));
  };
  if (auto s = mark(partial, 0); !s) return give_up(s.error());
  auto checked = check_store_file(partial);
  if (!checked) return give_up(checked.error());
  if (::renameat2(AT_FDCWD, partial.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) != 0) {
    const int number = errno;
    return give_up(fail_errno(number, to).value());
  }
  if (auto s = sync_directory(directory_of(to)); !s) return tl::unexpected<Error>(s.error());
  checked->path = to;
  return checked;
}

Result<StoreFile> save_stopped_store(const std::string& state_file, const std::string& to) {
  if (!there(state_file)) return fail(Errc::not_found, "{}: no such file", state_file);
  auto db = Db::open({.path = state_file, .check = true});
  if (!db) return tl::unexpected<Error>(db.error());
  auto info = describe(**db);
  if (!info) return info;
  if (auto s = room_for(directory_of(to), size_of(state_file) + size_of(state_file + "-wal"), 0); !s)
    return tl::unexpected<Error>(s.error());
  return save_store(**db, to, [](int, int) { return true; });
}

Result<Restored> restore_store(const std::string& file, const std::string& state_file, WallTime now) {
  Restored out;
  std::error_code ec;
  if (fs::equivalent(file, state_file, ec)) return fail(Errc::invalid, "{} is the file to be replaced", file);
  if (auto checked = check_store_file(file); !checked) return tl::unexpected<Error>(checked.error());
  const auto fresh = state_file + ".restoring";
  for (const char* suffix : {"", "-journal", "-wal", "-shm"})  // of an attempt that was interrupted
    if (auto s = remove_if_there(fresh + suffix); !s) return tl::unexpected<Error>(s.error());
  const auto give_up = [&](Error e) {
    (void)remove_if_there(fresh);
    return tl::unexpected<Error>(std::move(e));
  };
  {
    auto from = Db::open({.path = file, .read_only = true});
    if (!from) return tl::unexpected<Error>(from.error());
    if (auto s = (*from)->copy_to(fresh, [](int, int) { return true; }); !s) return tl::unexpected<Error>(s.error());
  }
  const bool had = there(state_file);
  const auto seen = had ? settle(state_file, out.old_note) : 0;
  if (auto s = mark(fresh, seen); !s) return give_up(s.error());
  auto checked = check_store_file(fresh);  // the copy, not what it was made from: this is what will run
  if (!checked) return give_up(checked.error());
  out.file = std::move(*checked);
  out.file.path = state_file;

  const auto directory = directory_of(state_file);
  if (had) {
    const auto stem = state_file + utc(now, ".replaced-%Y%m%d-%H%M%S");
    out.aside = stem;
    for (int i = 2; there(out.aside) || there(out.aside + "-wal"); ++i) out.aside = fmt::format("{}-{}", stem, i);
    // A second name for the old file, so that there is no moment without a state.db: the controller would begin anew.
    if (::link(state_file.c_str(), out.aside.c_str()) != 0) {
      const int number = errno;
      return give_up(fail_errno(number, fmt::format("{} → {}", state_file, out.aside)).value());
    }
    // The log of a file that could not be read goes along: SQLite would play it into the new one.
    const auto log = state_file + "-wal";
    if (there(log) && ::rename(log.c_str(), (out.aside + "-wal").c_str()) != 0) {
      const int number = errno;
      ::unlink(out.aside.c_str());
      return give_up(fail_errno(number, log).value());
    }
  }
  if (auto s = remove_if_there(state_file + "-shm"); !s) return give_up(s.error());
  if (auto s = sync_directory(directory); !s) return give_up(s.error());
  if (::rename(fresh.c_str(), state_file.c_str()) != 0) {
    const int number = errno;
    return give_up(fail_errno(number, state_file).value());
  }
  if (auto s = sync_directory(directory); !s) return tl::unexpected<Error>(s.error());
  return out;
}

std::vector<std::string> list_backups(const std::string& directory) {
  std::vector<std::string> out;
  std::error_code ec;
  for (fs::directory_iterator it(directory, ec), end; !ec && it != end; it.increment(ec))
    if (is_daily(it->path().filename().string())) out.push_back(it->path().string());
  std::sort(out.rbegin(), out.rend());
  return out;
}

Error with_way_out(Error e, const std::string& state_file, const std::string& backup_directory) {
  if (e.code != Errc::corrupt && e.code != Errc::unsupported) return e;
  const auto backups = backup_directory.empty() ? std::vector<std::string>() : list_backups(backup_directory);
  const auto first = e.code == Errc::unsupported ? "start the newer calico-node, or " : "";
  e.what += fmt::format(
      "; the file is left as it is: {}put back a copy with `calico-node store restore {}`{}, {} is kept "
      "aside",
      first, backups.empty() ? "FILE" : backups.front(),
      backups.empty() ? " (no daily backup is there)" : " (the newest backup)", state_file);
  return e;
}

// ---- the daily ones

struct Backups::Impl {
  Options options;
  SystemClock system_clock;
  const Clock* clock = nullptr;
  std::thread thread;

  struct Wish {
    std::string to;
    std::promise<Result<StoreFile>> answer;
  };
  mutable std::mutex mutex;
  std::condition_variable wake;
  std::deque<Wish> wishes;
  bool started = false, stopping = false, poked = false;
  State last;

  void run();
  Result<StoreFile> copy(const std::string& to, bool daily);
  std::optional<Result<StoreFile>> daily();
  void prune(const std::string& kept);
  bool stopped() const {
    std::lock_guard lock(mutex);
    return stopping;
  }
};

Backups::Backups(Options options) : impl_(std::make_unique<Impl>()) {
  impl_->options = std::move(options);
  impl_->clock = impl_->options.clock ? impl_->options.clock : &impl_->system_clock;
  const auto made = list_backups(impl_->options.directory);
  if (!made.empty()) impl_->last.newest = made.front();
}

Backups::~Backups() { stop(); }

void Backups::start() {
  std::lock_guard lock(impl_->mutex);
  if (impl_->started || impl_->stopping) return;
  impl_->started = true;
  impl_->thread = std::thread([impl = impl_.get()] {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    pthread_setname_np(pthread_self(), "kv-backup");
    impl->run();
  });
}

void Backups::stop() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->wake.notify_all();
  if (impl_->thread.joinable()) impl_->thread.join();
  for (auto& w : impl_->wishes) w.answer.set_value(fail(Errc::closed, "the datastore is stopping"));
  impl_->wishes.clear();
}

std::future<Result<StoreFile>> Backups::save(std::string to) {
  std::lock_guard lock(impl_->mutex);
  Impl::Wish wish{std::move(to), {}};
  auto answer = wish.answer.get_future();
  if (impl_->stopping || !impl_->started)
    wish.answer.set_value(fail(Errc::closed, "the datastore is stopping"));
  else
    impl_->wishes.push_back(std::move(wish));
  impl_->wake.notify_all();
  return answer;
}

Backups::State Backups::state() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->last;
}

void Backups::wake_for_test() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->poked = true;
  }
  impl_->wake.notify_all();
}

void Backups::Impl::run() {
  auto due = std::chrono::steady_clock::now();  // how often to look; what is due is the date's matter
  for (;;) {
    std::optional<Wish> wish;
    {
      std::unique_lock lock(mutex);
      wake.wait_until(lock, due, [this] { return stopping || poked || !wishes.empty(); });
      if (stopping) return;
      const bool look = std::exchange(poked, false) || std::chrono::steady_clock::now() >= due;
      if (!look && !wishes.empty()) {
        wish.emplace(std::move(wishes.front()));
        wishes.pop_front();
      }
    }
    if (wish) {
      wish->answer.set_value(copy(wish->to, false));
      continue;
    }
    const auto done = daily();
    due = std::chrono::steady_clock::now();
    due += done && !*done ? std::chrono::seconds(kTryAgain) : std::chrono::seconds(kLookAgain);
    if (!done || (!*done && done->error().code == Errc::canceled)) continue;
    {
      std::lock_guard lock(mutex);
      last.error = *done ? std::string() : done->error().what;
      if (*done) last.newest = (*done)->path;
    }
    if (options.on_done) options.on_done(*done);
  }
}

Result<StoreFile> Backups::Impl::copy(const std::string& to, bool gently) {
  if (to.empty() || to.front() != '/') return fail(Errc::invalid, "'{}' is no absolute path", to);
  if (auto s =
          room_for(directory_of(to), size_of(options.path) + size_of(options.path + "-wal"), options.reserve_bytes);
      !s)
    return tl::unexpected<Error>(s.error());
  auto db = Db::open({.path = options.path, .read_only = true});
  if (!db) return tl::unexpected<Error>(db.error());
  return save_store(**db, to, [&](int, int) {
    if (!gently) return !stopped();
    std::unique_lock lock(mutex);
    return !wake.wait_for(lock, kBreath, [this] { return stopping; });
  });
}

/// Nothing when today's is there.
std::optional<Result<StoreFile>> Backups::Impl::daily() {
  const auto name = utc(clock->wall(), "state-%Y%m%d.db");
  const auto to = options.directory + "/" + name;
  if (there(to)) return std::nullopt;
  std::error_code ec;
  fs::create_directories(options.directory, ec);
  if (ec)
    return Result<StoreFile>(fail(Errc::no_permission, "{}: cannot be made: {}", options.directory, ec.message()));
  if (::chmod(options.directory.c_str(), 0700) != 0) return Result<StoreFile>(fail_errno(errno, options.directory));
  // What an attempt left that the process did not survive. Nobody else writes here.
  std::vector<fs::path> stale;
  for (fs::directory_iterator it(options.directory, ec), end; !ec && it != end; it.increment(ec)) {
    const auto file = it->path().filename().string();
    const auto at = file.find(kPartial);
    if (at != std::string::npos && is_daily(std::string_view(file).substr(0, at))) stale.push_back(it->path());
  }
  for (const auto& file : stale) fs::remove(file, ec);
  auto made = copy(to, true);
  if (made) prune(to);
  return made;
}

/// By name, but never the one just made: a clock that was wrong for a while must not cost all that is newer.
void Backups::Impl::prune(const std::string& kept) {
  auto all = list_backups(options.directory);
  all.erase(std::remove(all.begin(), all.end(), kept), all.end());
  for (std::size_t i = std::max<std::size_t>(options.keep, 1) - 1; i < all.size(); ++i) ::unlink(all[i].c_str());
}

}  // namespace calico::store
