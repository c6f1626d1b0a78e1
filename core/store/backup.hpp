#pragma once
/// Copies of the embedded datastore, and the way back from one.
///
/// A copy is the whole file (the key space and the other components' tables), checked after it was written, and marked:
/// Kv::open makes a marked file a datastore of its own, with other ids, without history, and at a revision far beyond
/// any that was ever answered. So whoever watched the lost one is told (compacted) and lists, instead of waiting in
/// silence for revisions that were already used; no revision is ever given twice. That holds also for a copy put in
/// place by hand.
///
///   Backups backups({.path = state_dir + "/state.db", .directory = state_dir + "/backup"});
///   backups.start();                                    // from now on one a day, seven are kept
///   auto saved = backups.save("/root/before.db").get();
///
/// Thread: the functions: any, on files nobody else moves meanwhile; Backups: any. Owns: Backups one thread, which
/// opens a connection of its own for each copy. Errors: those of Db; exists (the target is there), exhausted (too
/// little space: refused before writing), closed.
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "core/base/clock.hpp"
#include "core/store/datastore.hpp"
#include "core/store/db.hpp"

namespace calico::store {

struct StoreFile {
  std::string path;
  Revision revision = 0;
  std::size_t keys = 0;
  std::uint64_t bytes = 0;
};

/// Reads every page: ours, whole, of a version this build knows, and with a datastore in it.
[[nodiscard]] Result<StoreFile> check_store_file(const std::string& path);

/// A marked and checked copy of the open file, as it is now, at `to`, which appears only when whole; see Db::copy_to.
[[nodiscard]] Result<StoreFile> save_store(Db& from, const std::string& to,
                                           const std::function<bool(int done, int pages)>& go_on);
/// The same of a file nobody has open. Hold the StateLock.
[[nodiscard]] Result<StoreFile> save_stopped_store(const std::string& state_file, const std::string& to);

struct Restored {
  StoreFile file;        ///< what is in place now
  std::string aside;     ///< where the former file was moved, empty if there was none
  std::string old_note;  ///< why the former one could not be read, empty if it could
};
/// Puts a copy of `file` in the place of `state_file`, which is kept beside it. Nothing is changed unless `file` is
/// good; then the new one appears at once. Hold the StateLock. `now` names what is moved aside.
[[nodiscard]] Result<Restored> restore_store(const std::string& file, const std::string& state_file, WallTime now);

/// Daily backups in `directory`, newest first.
[[nodiscard]] std::vector<std::string> list_backups(const std::string& directory);
/// Adds to the refusal of a file what an operator can do, with the newest backup by name.
[[nodiscard]] Error with_way_out(Error e, const std::string& state_file, const std::string& backup_directory);

/// `<directory>/state-YYYYMMDD.db` (UTC), one a day, made at start when today's is missing. The oldest go after a new
/// one was checked, and only then; a failed one is tried again every ten minutes.
class Backups {
 public:
  struct Options {
    std::string path;
    std::string directory;  ///< made (0700) when missing
    std::size_t keep = 7;
    const Clock* clock = nullptr;  ///< of the date; nullptr = the system's. A test that moves it calls wake_for_test().
    /// Left free by a copy, for the datastore itself; on a small file system a tenth of it at most.
    std::uint64_t reserve_bytes = 64U << 20;
    /// Called on the thread after each attempt of a daily one.
    std::function<void(const Result<StoreFile>&)> on_done = {};
  };
  explicit Backups(Options options);
  ~Backups();
  Backups(const Backups&) = delete;
  Backups& operator=(const Backups&) = delete;

  void start();
  /// A copy in progress is given up, what waits is answered `closed`.
  void stop();
  /// A copy at `to`, an absolute path; in turn after what is running.
  [[nodiscard]] std::future<Result<StoreFile>> save(std::string to);

  struct State {
    std::string newest;  ///< path of the newest daily one, empty = none
    std::string error;   ///< of the last attempt
  };
  State state() const;
  void wake_for_test();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace calico::store
