#pragma once
/// A disk under SQLite that can lose its power, fill up or turn read-only: a VFS of its own name over the system's. It
/// keeps beside each database and log what was synced, and what was only written: power loss keeps the first.
///
///   PowerLossDisk disk(seed);
///   auto db = Db::open({.path = dir + "/state.db", .vfs = disk.vfs()});
///   disk.lose_power_after(100);          // at the 100th write, truncation, sync or deletion from now on
///   … work until nothing answers any more; close everything …
///   disk.recover(other_dir, PowerLossDisk::Cut::unsynced);
///   auto again = Db::open({.path = other_dir + "/state.db"});
///
/// What counts as synced is what SQLite asked for: the bytes and the length of a file by its xSync, a new log's name by
/// its first xSync (the system's VFS syncs the directory then), a deletion by xDelete with syncDir, or by a later sync
/// of the directory. The name of the database itself is taken as synced: Db::open makes that file, and syncs it, before
/// SQLite sees it. The wal-index (-shm) is memory and does not survive. A write is torn within its own bytes only, as
/// SQLite's "powersafe overwrite" (its default) presumes of a disk.
///
/// Thread: any. Owns: the registration of the VFS; every file opened with it is closed before the disk goes.
#include <cstdint>
#include <memory>
#include <string>

namespace calico::test {

class PowerLossDisk {
 public:
  explicit PowerLossDisk(std::uint64_t seed);
  ~PowerLossDisk();
  PowerLossDisk(const PowerLossDisk&) = delete;
  PowerLossDisk& operator=(const PowerLossDisk&) = delete;

  /// The name to open files with.
  const std::string& vfs() const;

  void lose_power_after(int operations);
  bool powered() const;

  enum class Cut : std::uint8_t {
    unsynced,  ///< every byte not synced is gone, but for the first part of the last write: a torn page
    sectors,   ///< of what was not synced some sectors, lengths and names arrived, in no order
  };
  /// What the platter holds after the power went, written into the directory `to`.
  void recover(const std::string& to, Cut cut);

  /// Bytes all files together may have; more is refused as a full disk would. Negative = no limit.
  void limit(std::int64_t bytes);
  /// Writes fail as on a file system that the kernel has turned read-only.
  void read_only(bool on);

  struct Counts {
    std::uint64_t database_writes = 0, log_writes = 0, syncs = 0, truncations = 0, deletions = 0;
    std::uint64_t total() const { return database_writes + log_writes + syncs + truncations + deletions; }
  };
  /// Operations so far, the one at which the power went included.
  Counts counts() const;

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace calico::test
