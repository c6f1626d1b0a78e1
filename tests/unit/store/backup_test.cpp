// Copies of the datastore and the way back from one.
#include "core/store/backup.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "core/store/kv.hpp"
#include "core/store/kv_history.hpp"
#include "tests/support/await.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace calico::store {
namespace {

namespace fs = std::filesystem;

class DateClock final : public Clock {
 public:
  TimePoint now() const override { return TimePoint(std::chrono::seconds(1000)); }
  WallTime wall() const override { return WallTime(std::chrono::seconds(seconds_.load())); }
  void set(int day, int hour = 3) {  // of January 2026
    seconds_ = 1767225600 + (day - 1) * 86400 + hour * 3600;
  }

 private:
  std::atomic<std::int64_t> seconds_ = 1767225600;
};

constexpr Migration kItems[] = {{1, "CREATE TABLE item(id TEXT NOT NULL PRIMARY KEY) STRICT;"}};
const Schema kItemSchema{"item", kItems};

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void damage(const std::string& path) {
  std::fstream f(path, std::ios::in | std::ios::out | std::ios::binary);
  f.seekp(6 * 4096);
  f << std::string(4096, '\x55');
}
unsigned mode_of(const std::string& path) {
  struct stat st {};
  EXPECT_EQ(::stat(path.c_str(), &st), 0) << path;
  return st.st_mode & 07777;
}

class BackupTest : public testing::Test {
 protected:
  void open() {
    kv_.reset();
    auto opened =
        Kv::open({.path = file_, .schemas = {kItemSchema}, .clock = &clock_, .backup_directory = dir_.file("backup")});
    ASSERT_TRUE(opened) << opened.error().what;
    kv_ = std::move(*opened);
  }
  Revision put(std::string key, std::string value) {
    PutRequest request{.key = std::move(key), .value = std::move(value)};
    auto r = runner_.run(kv_->put(request));
    EXPECT_TRUE(r) << (r ? "" : r.error().what);
    return r ? r->revision : 0;
  }
  std::optional<std::string> get(std::string key) {
    RangeRequest request{.key = std::move(key), .range_end = {}};
    auto r = runner_.run(kv_->range(request));
    EXPECT_TRUE(r);
    return r && !r->kvs.empty() ? std::optional(r->kvs[0].value) : std::nullopt;
  }
  void fill(int n) {
    for (int i = 0; i < n;) {
      TxnRequest txn;
      for (; i < n && txn.success.size() < 100; ++i)
        txn.success.push_back(PutRequest{.key = "/fill/" + std::to_string(i), .value = std::string(500, 'x')});
      ASSERT_TRUE(runner_.run(kv_->txn(txn)));
    }
  }
  Result<StoreFile> save(const std::string& to) {
    auto db = Db::open({.path = file_, .read_only = true});
    EXPECT_TRUE(db);
    return save_store(**db, to, [](int, int) { return true; });
  }
  std::vector<std::string> files(const std::string& directory) {
    std::vector<std::string> out;
    for (const auto& e : fs::directory_iterator(directory)) out.push_back(e.path().filename());
    std::sort(out.begin(), out.end());
    return out;
  }

  test::TempDir dir_{"backup"};
  const std::string file_ = dir_.file("state.db");
  DateClock clock_;
  test::LoopRunner runner_;
  std::unique_ptr<Kv> kv_;
};

TEST_F(BackupTest, ACopyIsOneWholePrivateFile) {
  open();
  fill(300);
  const auto revision = put("/a", "1");
  const auto copy = dir_.file("copy.db");
  const auto saved = save(copy);
  ASSERT_TRUE(saved) << saved.error().what;
  EXPECT_EQ(saved->revision, revision);
  EXPECT_EQ(saved->keys, 301U);
  EXPECT_EQ(saved->path, copy);
  EXPECT_EQ(mode_of(copy), 0600U);
  for (const char* suffix : {"-wal", "-shm", "-journal", ".partial"}) EXPECT_FALSE(fs::exists(copy + suffix)) << suffix;
  EXPECT_EQ(save(copy).error().code, Errc::exists) << "nothing is written over";
  const auto checked = check_store_file(copy);
  ASSERT_TRUE(checked) << checked.error().what;
  EXPECT_EQ(checked->revision, revision);
}

TEST_F(BackupTest, WritersGoOnWhileACopyIsMade) {
  open();
  fill(6000);  // several pieces
  const auto revision = put("/a", "then");
  auto db = Db::open({.path = file_, .read_only = true});
  ASSERT_TRUE(db);
  int pieces = 0;
  const auto saved = save_store(**db, dir_.file("copy.db"), [&](int done, int pages) {
    EXPECT_LE(done, pages);
    ++pieces;
    EXPECT_GT(put("/a", "since"), revision);  // answered while the copy is at work
    return true;
  });
  ASSERT_TRUE(saved) << saved.error().what;
  EXPECT_GE(pieces, 2);
  EXPECT_EQ(saved->revision, revision) << "the copy is of the moment it began";
  kv_.reset();
  auto copied = Kv::open({.path = dir_.file("copy.db"), .schemas = {kItemSchema}});
  ASSERT_TRUE(copied);
  kv_ = std::move(*copied);
  EXPECT_EQ(get("/a"), "then");
}

TEST_F(BackupTest, ACopyGivenUpLeavesNothing) {
  open();
  fill(3000);
  auto db = Db::open({.path = file_, .read_only = true});
  const auto saved = save_store(**db, dir_.file("copy.db"), [](int, int) { return false; });
  ASSERT_FALSE(saved);
  EXPECT_EQ(saved.error().code, Errc::canceled);
  for (const auto& name : files(dir_.path())) EXPECT_FALSE(name.starts_with("copy")) << name;
  EXPECT_EQ(save("/nowhere/copy.db").error().code, Errc::not_found);
}

TEST_F(BackupTest, ACopyThatIsOpenedGoesBeyondEveryRevisionAndHasNoPast) {
  open();
  const auto id = kv_->cluster_id();
  const auto member = kv_->member_id();
  put("/gone", "1");
  DeleteRequest del{.key = "/gone", .range_end = {}};
  ASSERT_TRUE(runner_.run(kv_->del(del)));
  const auto first = put("/a", "1");
  const auto saved_at = put("/a", "2");
  ASSERT_TRUE(save(dir_.file("copy.db")));
  const auto reached = put("/a", "3");
  kv_.reset();
  // By hand, as people do.
  ASSERT_EQ(::rename(dir_.file("copy.db").c_str(), file_.c_str()), 0);
  ::unlink((file_ + "-wal").c_str());
  open();
  EXPECT_EQ(kv_->restored_from(), saved_at);
  EXPECT_NE(kv_->cluster_id(), id);
  EXPECT_NE(kv_->member_id(), member);
  const auto revision = kv_->revision();
  EXPECT_EQ(revision, saved_at + kRestoreJump);
  EXPECT_EQ(get("/a"), "2");
  EXPECT_FALSE(get("/gone"));
  RangeRequest range{.key = "/a", .range_end = {}};
  auto kv = runner_.run(kv_->range(range));
  EXPECT_EQ(kv->kvs.at(0).mod_revision, saved_at);
  EXPECT_EQ(kv->kvs.at(0).create_revision, first);
  EXPECT_EQ(kv->kvs.at(0).version, 2);
  // Whoever watched before is told, at whatever revision it was: no watch is silent.
  for (const auto at : {first, saved_at, saved_at + 1, reached, reached + 1, revision - 1}) {
    WatchRequest request{.key = "/", .range_end = "0", .start_revision = at};
    auto w = runner_.run(kv_->watch(request));
    ASSERT_TRUE(w);
    auto batch = runner_.run((*w)->next(), "an answer to a watch from before");
    ASSERT_FALSE(batch) << at;
    EXPECT_EQ(batch.error().code, Errc::compacted);
    EXPECT_EQ((*w)->compacted_at(), revision);
  }
  RangeRequest past{.key = "/a", .range_end = {}, .revision = reached};
  EXPECT_EQ(runner_.run(kv_->range(past)).error().code, Errc::compacted);
  // And who lists now can follow.
  WatchRequest request{.key = "/", .range_end = "0", .start_revision = revision + 1};
  auto w = runner_.run(kv_->watch(request));
  EXPECT_EQ(put("/b", "1"), revision + 1);
  auto batch = runner_.run((*w)->next());
  ASSERT_TRUE(batch);
  EXPECT_EQ(batch->events.at(0).kv.key, "/b");
  // Once: the next start is an ordinary one.
  const auto now = kv_->cluster_id();
  open();
  EXPECT_EQ(kv_->restored_from(), 0);
  EXPECT_EQ(kv_->cluster_id(), now);
  EXPECT_EQ(kv_->revision(), revision + 1);
  // Compaction goes on from there.
  ASSERT_TRUE(runner_.run(kv_->compact(revision + 1)));
  EXPECT_EQ(get("/a"), "2");
}

TEST_F(BackupTest, RestoreKeepsTheFormerFileAside) {
  open();
  put("/a", "saved");
  ASSERT_TRUE(save(dir_.file("copy.db")));
  const auto reached = put("/a", "lost");
  kv_.reset();
  const auto done = restore_store(dir_.file("copy.db"), file_, WallTime(std::chrono::seconds(1767225600)));
  ASSERT_TRUE(done) << done.error().what;
  EXPECT_EQ(done->aside, file_ + ".replaced-20260101-000000");
  EXPECT_EQ(done->old_note, "");
  EXPECT_EQ(mode_of(file_), 0600U);
  EXPECT_TRUE(fs::exists(dir_.file("copy.db"))) << "a copy can be used again";
  open();
  EXPECT_EQ(get("/a"), "saved");
  EXPECT_EQ(kv_->revision(), reached + kRestoreJump) << "beyond what the former file had reached";
  kv_.reset();
  auto old = Kv::open({.path = done->aside, .schemas = {kItemSchema}});
  ASSERT_TRUE(old) << old.error().what;
  EXPECT_EQ((*old)->revision(), reached);
  old->reset();
  // A second one in the same second finds another name.
  const auto again = restore_store(dir_.file("copy.db"), file_, WallTime(std::chrono::seconds(1767225600)));
  ASSERT_TRUE(again) << again.error().what;
  EXPECT_EQ(again->aside, done->aside + "-2");
  open();
  EXPECT_EQ(kv_->revision(), reached + 2 * kRestoreJump) << "never twice the same";
}

TEST_F(BackupTest, RestoreReplacesADamagedFileWithItsLog) {
  open();
  fill(200);
  put("/a", "saved");
  ASSERT_TRUE(save(dir_.file("copy.db")));
  open();  // written back
  // As after a crash: the log is not.
  fs::create_directory(dir_.file("crashed"));
  put("/a", "in the log");
  for (const char* suffix : {"", "-wal"}) fs::copy(file_ + suffix, dir_.file("crashed/state.db") + suffix);
  kv_.reset();
  const auto file = dir_.file("crashed/state.db");
  for (const auto& path : {file}) {
    std::ofstream f(path, std::ios::binary | std::ios::trunc);
    f << std::string(20000, 'x');
  }
  const auto damaged = bytes_of(file), log = bytes_of(file + "-wal");
  ASSERT_FALSE(log.empty());
  const auto refused = Kv::open({.path = file});
  ASSERT_FALSE(refused);
  EXPECT_EQ(bytes_of(file), damaged);
  EXPECT_EQ(bytes_of(file + "-wal"), log) << "a refused file is left as it is";
  const auto done = restore_store(dir_.file("copy.db"), file, WallTime{});
  ASSERT_TRUE(done) << done.error().what;
  EXPECT_NE(done->old_note, "");
  EXPECT_EQ(bytes_of(done->aside), damaged);
  EXPECT_EQ(bytes_of(done->aside + "-wal"), log);
  EXPECT_FALSE(fs::exists(file + "-wal")) << "it would be played into the new file";
  auto kv = Kv::open({.path = file, .schemas = {kItemSchema}});
  ASSERT_TRUE(kv) << kv.error().what;
  kv_ = std::move(*kv);
  EXPECT_EQ(get("/a"), "saved");
}

TEST_F(BackupTest, RestoreRefusesWhatIsNoGoodAndChangesNothing) {
  open();
  fill(200);
  ASSERT_TRUE(save(dir_.file("copy.db")));
  kv_.reset();
  const auto before = bytes_of(file_);
  const auto refused = [&](const std::string& from, Errc code) {
    const auto r = restore_store(from, file_, WallTime{});
    ASSERT_FALSE(r) << from;
    EXPECT_EQ(r.error().code, code) << r.error().what;
    EXPECT_NE(r.error().what.find(from), std::string::npos) << r.error().what;
  };
  refused(dir_.file("none.db"), Errc::not_found);
  refused(file_, Errc::invalid);
  std::ofstream(dir_.file("text.db")) << std::string(9000, 'x');
  refused(dir_.file("text.db"), Errc::corrupt);
  std::ofstream(dir_.file("empty.db")).flush();
  refused(dir_.file("empty.db"), Errc::corrupt);
  fs::copy(dir_.file("copy.db"), dir_.file("damaged.db"));
  damage(dir_.file("damaged.db"));
  refused(dir_.file("damaged.db"), Errc::corrupt);
  {
    auto db = Db::open({.path = dir_.file("mirror.db")});
    ASSERT_TRUE((*db)->migrate(kItemSchema));
  }
  refused(dir_.file("mirror.db"), Errc::invalid);
  fs::copy(dir_.file("copy.db"), dir_.file("newer.db"));
  {
    auto db = Db::open({.path = dir_.file("newer.db"), .single_file = true});
    ASSERT_TRUE((*db)->run("UPDATE schema_versions SET version = 99 WHERE component = 'kv'"));
  }
  refused(dir_.file("newer.db"), Errc::unsupported);
  EXPECT_EQ(bytes_of(file_), before);
  for (const auto& name : files(dir_.path())) {
    EXPECT_EQ(name.find("replaced"), std::string::npos) << name;
    EXPECT_EQ(name.find("restoring"), std::string::npos) << name;
  }
}

TEST_F(BackupTest, TheStoppedFileCanBeSaved) {
  open();
  const auto revision = put("/a", "1");
  kv_.reset();
  const auto saved = save_stopped_store(file_, dir_.file("copy.db"));
  ASSERT_TRUE(saved) << saved.error().what;
  EXPECT_EQ(saved->revision, revision);
  EXPECT_EQ(save_stopped_store(dir_.file("none.db"), dir_.file("x.db")).error().code, Errc::not_found);
  damage(file_);
  EXPECT_EQ(save_stopped_store(dir_.file("text.db"), dir_.file("x.db")).error().code, Errc::not_found);
}

TEST_F(BackupTest, ADamagedOrNewerFileIsRefusedWithTheNewestBackupByName) {
  open();
  fill(200);
  const auto copy = dir_.file("backup/state-20260105.db");
  fs::create_directory(dir_.file("backup"));
  ASSERT_TRUE(save(copy));
  std::ofstream(dir_.file("backup/state-20260104.db")) << "older";
  std::ofstream(dir_.file("backup/state-20260109.db.partial")) << "not whole";
  kv_.reset();
  const auto refusal = [&] {
    auto kv = Kv::open({.path = file_, .backup_directory = dir_.file("backup")});
    EXPECT_FALSE(kv);
    return kv ? Error{} : kv.error();
  };
  {
    auto db = Db::open({.path = file_});
    ASSERT_TRUE((*db)->run("UPDATE schema_versions SET version = 99 WHERE component = 'kv'"));
  }
  const auto newer = refusal();
  EXPECT_EQ(newer.code, Errc::unsupported);
  EXPECT_NE(newer.what.find("start the newer calico-node, or"), std::string::npos) << newer.what;
  EXPECT_NE(newer.what.find("store restore " + copy), std::string::npos) << newer.what;
  damage(file_);
  const auto corrupt = refusal();
  EXPECT_EQ(corrupt.code, Errc::corrupt);
  EXPECT_NE(corrupt.what.find("store restore " + copy), std::string::npos) << corrupt.what;
  EXPECT_EQ(corrupt.what.find('\n'), std::string::npos);
  fs::remove_all(dir_.file("backup"));
  EXPECT_NE(refusal().what.find("no daily backup"), std::string::npos);
}

// ---- the daily ones

class DailyTest : public BackupTest {
 protected:
  std::unique_ptr<Backups> start() {
    Backups::Options o;
    o.path = file_;
    o.directory = dir_.file("backup");
    o.clock = &clock_;
    o.reserve_bytes = 0;
    o.on_done = [this](const Result<StoreFile>& r) {
      std::lock_guard lock(mutex_);
      done_.push_back(r ? r->path : std::string(to_string(r.error().code)));
    };
    auto b = std::make_unique<Backups>(std::move(o));
    b->start();
    return b;
  }
  std::size_t done() {
    std::lock_guard lock(mutex_);
    return done_.size();
  }
  std::string last() {
    std::lock_guard lock(mutex_);
    return done_.empty() ? "" : done_.back();
  }
  std::mutex mutex_;
  std::vector<std::string> done_;
};

TEST_F(DailyTest, OneADaySevenAreKept) {
  open();
  clock_.set(1);
  auto b = start();
  for (int day = 1; day <= 10; ++day) {
    put("/day", std::to_string(day));
    clock_.set(day);
    b->wake_for_test();
    ASSERT_TRUE(test::eventually(fmt::format("the backup of day {}", day), [&] {
      return fs::exists(dir_.file(fmt::format("backup/state-202601{:02}.db", day))) &&
             done() == static_cast<std::size_t>(day);
    }));
  }
  clock_.set(10, 23);
  b->wake_for_test();
  // Answered in turn after the look at the date.
  ASSERT_TRUE(b->save(dir_.file("marker.db")).get());
  EXPECT_EQ(done(), 10U) << "one a day";
  std::vector<std::string> expected;
  for (int day = 4; day <= 10; ++day) expected.push_back(fmt::format("state-202601{:02}.db", day));
  EXPECT_EQ(files(dir_.file("backup")), expected);
  EXPECT_EQ(mode_of(dir_.file("backup")), 0700U);
  EXPECT_EQ(mode_of(dir_.file("backup/state-20260110.db")), 0600U);
  EXPECT_EQ(b->state().newest, dir_.file("backup/state-20260110.db"));
  EXPECT_EQ(b->state().error, "");
  b.reset();
  kv_.reset();
  auto day = Kv::open({.path = dir_.file("backup/state-20260106.db"), .schemas = {kItemSchema}});
  ASSERT_TRUE(day) << day.error().what;
  kv_ = std::move(*day);
  EXPECT_EQ(get("/day"), "6");
}

TEST_F(DailyTest, AFailedOneCostsNoOlderOne) {
  open();
  fill(100);
  fs::create_directory(dir_.file("backup"));
  for (int day = 1; day <= 9; ++day) std::ofstream(dir_.file(fmt::format("backup/state-202601{:02}.db", day))) << "old";
  std::ofstream(dir_.file("backup/state-20260108.db.partial")) << "of a crash";
  std::ofstream(dir_.file("backup/notes.txt")) << "somebody's";
  clock_.set(20);
  kv_.reset();
  damage(file_);
  const auto before = list_backups(dir_.file("backup"));
  {
    auto b = start();
    ASSERT_TRUE(test::eventually("an attempt", [&] { return done() > 0; }));
    EXPECT_NE(b->state().error, "");
  }
  EXPECT_EQ(last(), "corrupt");
  EXPECT_EQ(list_backups(dir_.file("backup")), before);
  for (const auto& name : files(dir_.file("backup"))) EXPECT_EQ(name.find(".partial"), std::string::npos) << name;
  EXPECT_TRUE(fs::exists(dir_.file("backup/notes.txt")));
}

TEST_F(DailyTest, AClockFromTheFutureCostsNothing) {
  open();
  fs::create_directory(dir_.file("backup"));
  for (int day = 1; day <= 7; ++day)
    std::ofstream(dir_.file(fmt::format("backup/state-209901{:02}.db", day))) << "future";
  clock_.set(5);
  auto b = start();
  ASSERT_TRUE(test::eventually("today's", [&] { return done() > 0; }));
  EXPECT_TRUE(fs::exists(dir_.file("backup/state-20260105.db"))) << "the newest made is never the one that goes";
  EXPECT_EQ(files(dir_.file("backup")).size(), 7U);
}

TEST_F(DailyTest, SavesAreAnsweredAndRefusedInOneLine) {
  open();
  const auto revision = put("/a", "1");
  auto b = start();
  const auto saved = b->save(dir_.file("copy.db")).get();
  ASSERT_TRUE(saved) << saved.error().what;
  EXPECT_EQ(saved->revision, revision);
  EXPECT_EQ(b->save(dir_.file("copy.db")).get().error().code, Errc::exists);
  EXPECT_EQ(b->save("relative.db").get().error().code, Errc::invalid);
  EXPECT_EQ(b->save("/nowhere/at/all.db").get().error().code, Errc::not_found);
  b->stop();
  EXPECT_EQ(b->save(dir_.file("late.db")).get().error().code, Errc::closed);
}

}  // namespace
}  // namespace calico::store
