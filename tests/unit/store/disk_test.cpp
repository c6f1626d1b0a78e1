// A disk that is full, read-only or failing under the embedded datastore: writers are told, everything else goes on,
// and nothing has to be done when the disk is well again.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <fstream>

#include "core/store/backup.hpp"
#include "core/store/kv.hpp"
#include "tests/support/await.hpp"
#include "tests/support/power_loss.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace calico::store {
namespace {

class HandClock final : public Clock {
 public:
  TimePoint now() const override { return TimePoint(std::chrono::seconds(seconds_.load())); }
  WallTime wall() const override { return {}; }
  void advance(int seconds) { seconds_ += seconds; }

 private:
  std::atomic<std::int64_t> seconds_ = 1000;
};

/// A datastore and what it says of its disk.
class DiskTest : public testing::Test {
 protected:
  void open(const std::string& directory, const std::string& vfs = {}) {
    Kv::Options o;
    o.path = directory + "/state.db";
    o.clock = &clock_;
    o.vfs = vfs;
    o.on_disk = [this](const std::optional<Error>& e) {
      std::lock_guard lock(mutex_);
      told_.push_back(e ? std::string(to_string(e->code)) + ": " + e->what : "well");
    };
    auto kv = Kv::open(std::move(o));
    ASSERT_TRUE(kv) << kv.error().what;
    kv_ = std::move(*kv);
  }
  Result<PutResult> put(std::string key, std::string value, LeaseId lease = 0) {
    PutRequest request{.key = std::move(key), .value = std::move(value), .lease = lease};
    return runner_.run(kv_->put(request));
  }
  std::optional<std::string> get(std::string key) {
    RangeRequest request{.key = std::move(key), .range_end = {}};
    auto r = runner_.run(kv_->range(request));
    EXPECT_TRUE(r);
    return r && !r->kvs.empty() ? std::optional(r->kvs[0].value) : std::nullopt;
  }
  std::vector<std::string> told() {
    std::lock_guard lock(mutex_);
    return told_;
  }
  /// Fills the disk through the datastore itself. What was put last before the refusal is the number returned.
  int fill(const std::string& prefix, int most) {
    for (int i = 0; i < most; ++i) {
      const auto r = put(prefix + std::to_string(i), std::string(100000, 'x'));
      if (r) continue;
      EXPECT_EQ(r.error().code, Errc::exhausted) << r.error().what;
      for (int small = 0; small < 5000; ++small)
        if (!put(prefix + "small", "x")) return i;
      break;
    }
    ADD_FAILURE() << "the disk did not fill";
    return most;
  }
  /// Refused writes, and all that must go on meanwhile.
  void what_goes_on(Errc code) {
    WatchRequest watch{.key = "/", .range_end = "0", .start_revision = first_};
    auto w = runner_.run(kv_->watch(watch));
    ASSERT_TRUE(w);
    auto batch = runner_.run((*w)->next(), "the history");
    ASSERT_TRUE(batch) << batch.error().what;
    EXPECT_EQ(batch->events.at(0).kv.key, "/first");
    RangeRequest past{.key = "/first", .range_end = {}, .revision = first_};
    EXPECT_TRUE(runner_.run(kv_->range(past)));
    const auto revision = kv_->revision();
    // Keepalives that wait together with writes do not share their fate.
    std::vector<std::future<Result<PutResult>>> writes;
    std::vector<std::future<Result<LeaseInfo>>> beats;
    for (int i = 0; i < 20; ++i) {
      PutRequest request{.key = "/more", .value = std::string(100000, 'y')};
      writes.push_back(runner_.start(kv_->put(request)));
      beats.push_back(runner_.start(kv_->lease_keepalive(lease_)));
    }
    for (auto& f : writes) {
      const auto r = runner_.wait(std::move(f));
      ASSERT_FALSE(r);
      EXPECT_EQ(r.error().code, code) << r.error().what;
    }
    for (auto& f : beats) EXPECT_TRUE(runner_.wait(std::move(f)));
    EXPECT_EQ(kv_->revision(), revision) << "a refused write leaves no trace";
    EXPECT_FALSE(get("/more"));
    EXPECT_FALSE(kv_->stats().disk_error.empty());
    // Kept alive while nothing can be written.
    clock_.advance(50);
    EXPECT_TRUE(runner_.run(kv_->lease_keepalive(lease_)));
    clock_.advance(50);
    kv_->wake_for_test();
    EXPECT_TRUE(get("/leased"));
  }
  void begin() {
    const auto r = put("/first", "1");
    ASSERT_TRUE(r);
    first_ = r->revision;
    lease_ = runner_.run(kv_->lease_grant(60))->id;
    ASSERT_TRUE(put("/leased", "1", lease_));
  }
  void well_again() {
    const auto r = put("/after", "1");
    ASSERT_TRUE(r) << r.error().what;
    EXPECT_EQ(kv_->stats().disk_error, "");
    const auto said = told();
    ASSERT_GE(said.size(), 2U);
    for (std::size_t i = 0; i < said.size(); ++i)
      EXPECT_EQ(said[i] == "well", i % 2 == 1) << "told when it begins and when it ends, not once a write";
    EXPECT_EQ(said.back(), "well");
  }

  HandClock clock_;
  test::LoopRunner runner_;
  std::mutex mutex_;
  std::vector<std::string> told_;
  Revision first_ = 0;
  LeaseId lease_ = 0;
  std::unique_ptr<Kv> kv_;
};

TEST_F(DiskTest, FullAndAfterwards) {
  test::TempDir dir;
  test::PowerLossDisk disk(1);
  open(dir.path(), disk.vfs());
  begin();
  disk.limit(3 << 20);
  const auto there = fill("/fill/", 100);
  EXPECT_GT(there, 5);
  what_goes_on(Errc::exhausted);
  disk.limit(-1);
  well_again();
  // Everything that was answered, and nothing that was refused, outlives a power loss now.
  const auto revision = kv_->revision();
  kv_.reset();
  disk.recover(dir.path(), test::PowerLossDisk::Cut::unsynced);
  open(dir.path());
  EXPECT_EQ(kv_->revision(), revision);
  EXPECT_TRUE(get("/fill/" + std::to_string(there - 1)));
  EXPECT_FALSE(get("/fill/" + std::to_string(there)));
  EXPECT_TRUE(get("/after"));
  EXPECT_FALSE(get("/more"));
}

TEST_F(DiskTest, ReadOnlyAndAfterwards) {
  test::TempDir dir;
  test::PowerLossDisk disk(1);
  open(dir.path(), disk.vfs());
  begin();
  disk.read_only(true);
  what_goes_on(Errc::unavailable);
  EXPECT_FALSE(runner_.run(kv_->lease_grant(60)));
  ASSERT_EQ(told().size(), 1U);
  EXPECT_NE(told()[0].find("Read-only file system"), std::string::npos) << told()[0];
  disk.read_only(false);
  well_again();
}

TEST_F(DiskTest, AnIoErrorIsNoDeath) {
  test::TempDir dir, left;
  test::PowerLossDisk disk(1);
  open(dir.path(), disk.vfs());
  begin();
  disk.lose_power_after(1);
  what_goes_on(Errc::unavailable);
}

/// The kernel's own: a file system of 8 MiB in a mount namespace of this test.
class SmallFileSystem : public DiskTest {
 protected:
  void SetUp() override {
    // Before the loop and the datastore have threads: theirs follow the one that makes them.
    if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", dir_.path().c_str(), "tmpfs", 0, "size=8m,mode=0700") != 0)
      GTEST_SKIP() << "SKIPPED: no mount namespace of its own: " << std::strerror(errno);
    mounted_ = true;
  }
  void TearDown() override {
    kv_.reset();
    if (mounted_) ::umount2(dir_.path().c_str(), MNT_DETACH);
  }
  test::TempDir dir_;
  bool mounted_ = false;
};

TEST_F(SmallFileSystem, FilledByUs) {
  open(dir_.path());
  begin();
  const auto there = fill("/fill/", 200);
  EXPECT_GT(there, 10);
  what_goes_on(Errc::exhausted);
  ASSERT_EQ(::mount(nullptr, dir_.path().c_str(), nullptr, MS_REMOUNT, "size=64m"), 0);
  well_again();
  EXPECT_TRUE(get("/fill/" + std::to_string(there - 1)));
  EXPECT_FALSE(get("/fill/" + std::to_string(there)));
}

TEST_F(SmallFileSystem, FilledByAnother) {
  open(dir_.path());
  begin();
  {
    std::ofstream log(dir_.file("somebody.log"), std::ios::binary);
    const std::string piece(1 << 16, 'z');
    while (log.write(piece.data(), static_cast<std::streamsize>(piece.size())).flush()) {
    }
  }
  (void)fill("/fill/", 200);
  what_goes_on(Errc::exhausted);
  ASSERT_EQ(::unlink(dir_.file("somebody.log").c_str()), 0);
  well_again();
}

TEST_F(SmallFileSystem, ABackupThatDoesNotFitIsNotBegunAndCostsNoOlderOne) {
  open(dir_.path());
  begin();
  ASSERT_EQ(::mkdir(dir_.file("backup").c_str(), 0700), 0);
  std::ofstream(dir_.file("backup/state-20200101.db")) << "an older one";
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(put("/fill/" + std::to_string(i), std::string(100000, 'x')));
  std::ofstream(dir_.file("somebody.log"), std::ios::binary) << std::string(7 << 19, 'z');
  std::mutex mutex;
  std::optional<Result<StoreFile>> done;
  Backups::Options o;
  o.path = dir_.file("state.db");
  o.directory = dir_.file("backup");
  o.on_done = [&](const Result<StoreFile>& r) {
    std::lock_guard lock(mutex);
    done.emplace(r);
  };
  Backups backups(o);
  backups.start();
  ASSERT_TRUE(test::eventually("the attempt", [&] {
    std::lock_guard lock(mutex);
    return done.has_value();
  }));
  ASSERT_FALSE(*done);
  EXPECT_EQ(done->error().code, Errc::exhausted) << done->error().what;
  EXPECT_EQ(list_backups(dir_.file("backup")), std::vector{dir_.file("backup/state-20200101.db")});
  EXPECT_TRUE(put("/after", "1")) << "the datastore still has its room";
}

TEST_F(SmallFileSystem, AReadOnlyOneIsRefusedAtOpen) {
  open(dir_.path());
  begin();
  kv_.reset();
  ASSERT_EQ(::mount(nullptr, dir_.path().c_str(), nullptr, MS_REMOUNT | MS_RDONLY, "size=8m"), 0);
  auto kv = Kv::open({.path = dir_.file("state.db")});
  ASSERT_FALSE(kv);
  EXPECT_EQ(kv.error().code, Errc::no_permission);
  EXPECT_NE(kv.error().what.find("can only be read"), std::string::npos) << kv.error().what;
  ASSERT_EQ(::mount(nullptr, dir_.path().c_str(), nullptr, MS_REMOUNT, "size=8m"), 0);
  open(dir_.path());
  EXPECT_TRUE(get("/first"));
}

TEST_F(DiskTest, TheFilesArePrivateWhateverTheUmask) {
  test::TempDir dir;
  const auto mode = [&](const char* name) {
    struct stat st {};
    EXPECT_EQ(::stat(dir.file(name).c_str(), &st), 0) << name;
    return st.st_mode & 07777;
  };
  for (const mode_t mask : {0, 022, 0777}) {
    const auto before = ::umask(mask);
    open(dir.path());
    begin();
    for (const char* name : {"state.db", "state.db-wal", "state.db-shm"}) EXPECT_EQ(mode(name), 0600U) << name;
    kv_.reset();
    ::umask(before);
    ::unlink(dir.file("state.db").c_str());
  }
  // What was made open once is closed.
  open(dir.path());
  kv_.reset();
  ASSERT_EQ(::chmod(dir.file("state.db").c_str(), 0644), 0);
  open(dir.path());
  EXPECT_EQ(mode("state.db"), 0600U);
}

}  // namespace
}  // namespace calico::store
