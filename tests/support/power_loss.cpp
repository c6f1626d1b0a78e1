#include "tests/support/power_loss.hpp"

#include <sqlite3.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <new>
#include <random>
#include <stdexcept>
#include <vector>

namespace calico::test {
namespace {

constexpr std::size_t kSector = 512;

/// A write (bytes) or a truncation (to `at`) that was not synced yet.
struct Unsynced {
  bool truncation = false;
  std::size_t at = 0;
  std::string bytes;
};

struct Inode {
  std::string synced;
  std::vector<Unsynced> unsynced;
  std::int64_t length = 0;  ///< as the running process sees it
  bool database = false;
  bool name_due = false;  ///< a new log: its first sync is its directory's too
};
using InodePtr = std::shared_ptr<Inode>;
using Names = std::map<std::string, InodePtr>;

void apply(std::string& to, std::size_t at, std::string_view bytes) {
  if (to.size() < at + bytes.size()) to.resize(at + bytes.size(), '\0');
  std::memcpy(to.data() + at, bytes.data(), bytes.size());
}

}  // namespace

struct PowerLossDisk::Impl {
  sqlite3_vfs vfs{};
  sqlite3_vfs* system = nullptr;
  std::string name;

  mutable std::mutex mutex;
  Names now, on_disk;
  InodePtr last_written;
  std::minstd_rand random;
  Counts counts;
  std::int64_t until = -1;  ///< operations left, -1 = no end
  bool powered = true;
  std::int64_t limit = -1;
  bool read_only = false;
  std::atomic<int> last_errno = 0;

  /// One more operation: false = the power is, or now was, gone.
  bool spend() {
    if (!powered) return false;
    if (until > 0 && --until == 0) powered = false;
    return powered;
  }
  int broken(int rc, int number) {
    last_errno = errno = number;
    return rc;
  }
  std::int64_t used() const {
    std::int64_t sum = 0;
    for (const auto& [n, inode] : now) sum += inode->length;
    return sum;
  }
};

namespace {

/// What SQLite gets; the system's own file lies behind it.
struct File {
  sqlite3_file base;
  PowerLossDisk::Impl* disk;
  InodePtr* inode;  ///< nullptr: a file that is not kept apart (temporary)
  sqlite3_file* system() { return reinterpret_cast<sqlite3_file*>(this + 1); }
};
File& file_of(sqlite3_file* f) { return *reinterpret_cast<File*>(f); }
PowerLossDisk::Impl& disk_of(sqlite3_vfs* v) { return *static_cast<PowerLossDisk::Impl*>(v->pAppData); }

int x_close(sqlite3_file* f) {
  auto& file = file_of(f);
  delete file.inode;
  file.inode = nullptr;
  return file.system()->pMethods ? file.system()->pMethods->xClose(file.system()) : SQLITE_OK;
}
int x_read(sqlite3_file* f, void* to, int n, sqlite3_int64 at) {
  auto* s = file_of(f).system();
  return s->pMethods->xRead(s, to, n, at);
}
int x_write(sqlite3_file* f, const void* from, int n, sqlite3_int64 at) {
  auto& file = file_of(f);
  auto* s = file.system();
  if (!file.inode) return s->pMethods->xWrite(s, from, n, at);
  auto& d = *file.disk;
  auto& inode = **file.inode;
  std::lock_guard lock(d.mutex);
  if (!d.powered) return d.broken(SQLITE_IOERR_WRITE, EIO);
  if (d.read_only) return d.broken(SQLITE_IOERR_WRITE, EROFS);
  const auto grown = std::max<std::int64_t>(inode.length, at + n);
  if (d.limit >= 0 && d.used() - inode.length + grown > d.limit && grown > inode.length)
    return d.broken(SQLITE_FULL, ENOSPC);
  ++(inode.database ? d.counts.database_writes : d.counts.log_writes);
  inode.unsynced.push_back(
      {false, static_cast<std::size_t>(at), std::string(static_cast<const char*>(from), static_cast<std::size_t>(n))});
  d.last_written = *file.inode;
  if (!d.spend()) return d.broken(SQLITE_IOERR_WRITE, EIO);
  inode.length = grown;
  return s->pMethods->xWrite(s, from, n, at);
}
int x_truncate(sqlite3_file* f, sqlite3_int64 size) {
  auto& file = file_of(f);
  auto* s = file.system();
  if (!file.inode) return s->pMethods->xTruncate(s, size);
  auto& d = *file.disk;
  auto& inode = **file.inode;
  std::lock_guard lock(d.mutex);
  if (!d.powered) return d.broken(SQLITE_IOERR_TRUNCATE, EIO);
  if (d.read_only) return d.broken(SQLITE_IOERR_TRUNCATE, EROFS);
  ++d.counts.truncations;
  if (!d.spend()) return d.broken(SQLITE_IOERR_TRUNCATE, EIO);
  inode.unsynced.push_back({true, static_cast<std::size_t>(size), {}});
  inode.length = size;
  return s->pMethods->xTruncate(s, size);
}
int x_sync(sqlite3_file* f, int flags) {
  auto& file = file_of(f);
  auto* s = file.system();
  if (!file.inode) return s->pMethods->xSync(s, flags);
  auto& d = *file.disk;
  auto& inode = **file.inode;
  std::lock_guard lock(d.mutex);
  if (!d.powered) return d.broken(SQLITE_IOERR_FSYNC, EIO);
  ++d.counts.syncs;
  if (!d.spend()) return d.broken(SQLITE_IOERR_FSYNC, EIO);
  for (const auto& u : inode.unsynced) {
    if (u.truncation)
      inode.synced.resize(u.at, '\0');
    else
      apply(inode.synced, u.at, u.bytes);
  }
  inode.unsynced.clear();
  if (d.last_written == *file.inode) d.last_written.reset();
  if (inode.name_due) {
    inode.name_due = false;
    d.on_disk = d.now;
  }
  return SQLITE_OK;  // the system's disk need not be made to wait
}
int x_file_size(sqlite3_file* f, sqlite3_int64* out) {
  auto* s = file_of(f).system();
  return s->pMethods->xFileSize(s, out);
}
int x_lock(sqlite3_file* f, int how) {
  auto* s = file_of(f).system();
  return s->pMethods->xLock(s, how);
}
int x_unlock(sqlite3_file* f, int how) {
  auto* s = file_of(f).system();
  return s->pMethods->xUnlock(s, how);
}
int x_check_reserved(sqlite3_file* f, int* out) {
  auto* s = file_of(f).system();
  return s->pMethods->xCheckReservedLock(s, out);
}
int x_control(sqlite3_file* f, int op, void* arg) {
  auto* s = file_of(f).system();
  return s->pMethods->xFileControl(s, op, arg);
}
int x_sector_size(sqlite3_file* f) {
  auto* s = file_of(f).system();
  return s->pMethods->xSectorSize(s);
}
int x_characteristics(sqlite3_file* f) {
  auto* s = file_of(f).system();
  return s->pMethods->xDeviceCharacteristics(s);
}
int x_shm_map(sqlite3_file* f, int region, int size, int extend, void volatile** out) {
  auto* s = file_of(f).system();
  return s->pMethods->xShmMap(s, region, size, extend, out);
}
int x_shm_lock(sqlite3_file* f, int offset, int n, int flags) {
  auto* s = file_of(f).system();
  return s->pMethods->xShmLock(s, offset, n, flags);
}
void x_shm_barrier(sqlite3_file* f) {
  auto* s = file_of(f).system();
  s->pMethods->xShmBarrier(s);
}
int x_shm_unmap(sqlite3_file* f, int remove) {
  auto* s = file_of(f).system();
  return s->pMethods->xShmUnmap(s, remove);
}

// Version 2: no xFetch, so that nothing is read past us.
const sqlite3_io_methods kMethods = {
    2,           x_close,          x_read,    x_write,       x_truncate,        x_sync,    x_file_size, x_lock,
    x_unlock,    x_check_reserved, x_control, x_sector_size, x_characteristics, x_shm_map, x_shm_lock,  x_shm_barrier,
    x_shm_unmap, nullptr,          nullptr};

int x_open(sqlite3_vfs* v, const char* name, sqlite3_file* f, int flags, int* out_flags) {
  auto& d = disk_of(v);
  auto& file = file_of(f);
  file.base.pMethods = nullptr;
  file.disk = &d;
  file.inode = nullptr;
  const bool log = (flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_SUPER_JOURNAL)) != 0;
  const bool kept = name && (log || (flags & SQLITE_OPEN_MAIN_DB) != 0);
  std::lock_guard lock(d.mutex);
  std::error_code ec;
  const bool there = kept && std::filesystem::exists(name, ec);
  if (kept && !d.powered) return d.broken(SQLITE_CANTOPEN, EIO);
  if (kept && d.read_only && !there) return d.broken(SQLITE_CANTOPEN, EROFS);
  const int rc = d.system->xOpen(d.system, name, file.system(), flags, out_flags);
  if (rc != SQLITE_OK) return rc;
  file.base.pMethods = &kMethods;
  if (!kept) return SQLITE_OK;
  auto& inode = d.now[name];
  if (!inode) {
    inode = std::make_shared<Inode>();
    inode->database = !log;
    if (there) {  // it was there before the disk was: all of it is synced
      std::ifstream in(name, std::ios::binary);
      inode->synced.assign(std::istreambuf_iterator<char>(in), {});
      inode->length = static_cast<std::int64_t>(inode->synced.size());
    }
    if (there || !log)
      d.on_disk[name] = inode;
    else
      inode->name_due = true;
  }
  file.inode = new InodePtr(inode);
  return SQLITE_OK;
}
int x_delete(sqlite3_vfs* v, const char* name, int sync_directory) {
  auto& d = disk_of(v);
  std::lock_guard lock(d.mutex);
  if (!d.powered) return d.broken(SQLITE_IOERR_DELETE, EIO);
  if (d.read_only) return d.broken(SQLITE_IOERR_DELETE, EROFS);
  const bool kept = d.now.count(name) != 0;
  if (kept) {
    ++d.counts.deletions;
    if (!d.spend()) return d.broken(SQLITE_IOERR_DELETE, EIO);
    d.now.erase(name);
    if (sync_directory) d.on_disk = d.now;
  }
  return d.system->xDelete(d.system, name, 0);
}
int x_access(sqlite3_vfs* v, const char* name, int flags, int* out) {
  auto* s = disk_of(v).system;
  return s->xAccess(s, name, flags, out);
}
int x_full_path(sqlite3_vfs* v, const char* name, int n, char* out) {
  auto* s = disk_of(v).system;
  return s->xFullPathname(s, name, n, out);
}
int x_randomness(sqlite3_vfs* v, int n, char* out) {
  auto* s = disk_of(v).system;
  return s->xRandomness(s, n, out);
}
int x_sleep(sqlite3_vfs* v, int us) {
  auto* s = disk_of(v).system;
  return s->xSleep(s, us);
}
int x_time(sqlite3_vfs* v, double* out) {
  auto* s = disk_of(v).system;
  return s->xCurrentTime(s, out);
}
int x_time64(sqlite3_vfs* v, sqlite3_int64* out) {
  auto* s = disk_of(v).system;
  return s->xCurrentTimeInt64(s, out);
}
int x_last_error(sqlite3_vfs* v, int, char*) { return disk_of(v).last_errno; }

}  // namespace

PowerLossDisk::PowerLossDisk(std::uint64_t seed) : impl_(std::make_unique<Impl>()) {
  static std::atomic<int> count = 0;
  impl_->random.seed(static_cast<std::minstd_rand::result_type>(seed));
  impl_->system = sqlite3_vfs_find(nullptr);
  if (!impl_->system) throw std::runtime_error("SQLite has no VFS");
  impl_->name = "power-loss-" + std::to_string(++count);
  auto& v = impl_->vfs;
  v.iVersion = 2;
  v.szOsFile = static_cast<int>(sizeof(File)) + impl_->system->szOsFile;
  v.mxPathname = impl_->system->mxPathname;
  v.zName = impl_->name.c_str();
  v.pAppData = impl_.get();
  v.xOpen = x_open;
  v.xDelete = x_delete;
  v.xAccess = x_access;
  v.xFullPathname = x_full_path;
  v.xRandomness = x_randomness;
  v.xSleep = x_sleep;
  v.xCurrentTime = x_time;
  v.xCurrentTimeInt64 = x_time64;
  v.xGetLastError = x_last_error;
  if (sqlite3_vfs_register(&v, 0) != SQLITE_OK) throw std::runtime_error("the VFS is not taken");
}

PowerLossDisk::~PowerLossDisk() { sqlite3_vfs_unregister(&impl_->vfs); }

const std::string& PowerLossDisk::vfs() const { return impl_->name; }

void PowerLossDisk::lose_power_after(int operations) {
  std::lock_guard lock(impl_->mutex);
  impl_->until = operations;
}

bool PowerLossDisk::powered() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->powered;
}

void PowerLossDisk::limit(std::int64_t bytes) {
  std::lock_guard lock(impl_->mutex);
  impl_->limit = bytes;
}

void PowerLossDisk::read_only(bool on) {
  std::lock_guard lock(impl_->mutex);
  impl_->read_only = on;
}

PowerLossDisk::Counts PowerLossDisk::counts() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->counts;
}

void PowerLossDisk::recover(const std::string& to, Cut cut) {
  std::lock_guard lock(impl_->mutex);
  impl_->powered = false;
  auto& random = impl_->random;
  const auto toss = [&random] { return std::uniform_int_distribution<int>(0, 1)(random) == 1; };
  auto names = impl_->on_disk;
  if (cut == Cut::sectors) {
    for (const auto& [name, inode] : impl_->now)
      if (toss()) names[name] = inode;
    for (const auto& [name, inode] : impl_->on_disk)
      if (impl_->now.count(name) == 0 && toss()) names.erase(name);
  }
  for (const auto& [name, inode] : names) {
    auto bytes = inode->synced;
    if (cut == Cut::sectors) {
      for (const auto& u : inode->unsynced) {
        if (u.truncation) {
          if (toss()) bytes.resize(u.at, '\0');
          continue;
        }
        for (std::size_t i = 0; i < u.bytes.size(); i += kSector)
          if (toss()) apply(bytes, u.at + i, std::string_view(u.bytes).substr(i, kSector));
      }
    } else if (inode == impl_->last_written) {
      for (auto u = inode->unsynced.rbegin(); u != inode->unsynced.rend(); ++u) {
        if (u->truncation) continue;
        const auto most = static_cast<int>(u->bytes.size()) - 1;
        const auto n = most < 1 ? 0 : std::uniform_int_distribution<int>(1, most)(random);
        apply(bytes, u->at, std::string_view(u->bytes).substr(0, static_cast<std::size_t>(n)));
        break;
      }
    }
    const auto file = std::filesystem::path(to) / std::filesystem::path(name).filename();
    std::ofstream out(file, std::ios::binary | std::ios::trunc);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    if (!out.flush()) throw std::runtime_error(file.string() + " cannot be written");
  }
}

}  // namespace calico::test
