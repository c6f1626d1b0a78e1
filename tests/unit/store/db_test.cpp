#include "core/store/db.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "tests/support/temp_dir.hpp"

namespace calico::store {
namespace {

constexpr Migration kOne[] = {{1, "CREATE TABLE a_item(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;"}};
constexpr Migration kTwo[] = {
    {1, "CREATE TABLE a_item(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;"},
    {2, "CREATE TABLE a_more(id INTEGER PRIMARY KEY) STRICT; INSERT INTO a_more(id) SELECT id FROM a_item;"},
};
constexpr Migration kBad[] = {
    {1, "CREATE TABLE a_item(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;"},
    {2, "CREATE TABLE a_half(id INTEGER PRIMARY KEY) STRICT; INSERT INTO nowhere(id) VALUES(1);"},
};

class DbTest : public testing::Test {
 protected:
  std::unique_ptr<Db> open(Db::Options options = {}) {
    options.path = dir_.file("state.db");
    auto db = Db::open(options);
    EXPECT_TRUE(db) << (db ? "" : db.error().what);
    return db ? std::move(*db) : nullptr;
  }
  test::TempDir dir_;
};

TEST_F(DbTest, PragmasAreWhatTheStoreNeeds) {
  auto db = open({.synchronous = Db::Synchronous::full});
  auto mode = db->query("PRAGMA journal_mode");
  ASSERT_TRUE(*mode.next());
  EXPECT_EQ(mode.text(0), "wal");
  EXPECT_EQ(*db->number("PRAGMA synchronous"), 2);
  EXPECT_EQ(*db->number("PRAGMA foreign_keys"), 1);
  EXPECT_EQ(*db->number("PRAGMA busy_timeout"), 5000);
  struct stat st {};
  ASSERT_EQ(::stat(dir_.file("state.db").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600U);
}

TEST_F(DbTest, ValuesOfEveryKindComeBack) {
  auto db = open();
  ASSERT_TRUE(db->exec("CREATE TABLE t(i INTEGER, r REAL, t TEXT, b BLOB) STRICT;"));
  const std::string bytes("\0\xff\x01", 3);
  ASSERT_TRUE(db->run("INSERT INTO t(i, r, t, b) VALUES(?1, ?2, ?3, ?4)", INT64_MIN, 1.5, "", Blob{bytes}));
  ASSERT_TRUE(db->run("INSERT INTO t(i, r, t, b) VALUES(?1, ?2, ?3, ?4)", nullptr, std::optional<double>{},
                      std::optional<std::string>{}, Blob{}));
  auto q = db->query("SELECT i, r, t, b FROM t ORDER BY rowid");
  ASSERT_TRUE(*q.next());
  EXPECT_EQ(q.integer(0), INT64_MIN);
  EXPECT_EQ(q.real(1), 1.5);
  EXPECT_FALSE(q.is_null(2));
  EXPECT_EQ(q.text(2), "");
  EXPECT_EQ(q.blob(3), bytes);
  ASSERT_TRUE(*q.next());
  EXPECT_TRUE(q.is_null(0));
  EXPECT_EQ(q.optional_text(2), std::nullopt);
  EXPECT_FALSE(q.is_null(3));
  EXPECT_FALSE(*q.next());
}

TEST_F(DbTest, ANestedUseOfOneStatementGetsItsOwn) {
  auto db = open();
  ASSERT_TRUE(db->migrate({"a", kOne}));
  for (const char* n : {"x", "y", "z"}) ASSERT_TRUE(db->run("INSERT INTO a_item(name) VALUES(?1)", n));
  int pairs = 0;
  auto outer = db->query("SELECT id FROM a_item ORDER BY id");
  while (*outer.next()) {
    auto inner = db->query("SELECT id FROM a_item ORDER BY id");
    while (*inner.next()) ++pairs;
  }
  EXPECT_EQ(pairs, 9);
}

TEST_F(DbTest, ConstraintAndWrongStatementsAreErrorsNotCrashes) {
  auto db = open();
  ASSERT_TRUE(db->migrate({"a", kOne}));
  ASSERT_TRUE(db->run("INSERT INTO a_item(name) VALUES(?1)", "x"));
  auto twice = db->run("INSERT INTO a_item(name) VALUES(?1)", "x");
  ASSERT_FALSE(twice);
  EXPECT_EQ(twice.error().code, Errc::exists);
  EXPECT_NE(twice.error().what.find("a_item.name"), std::string::npos) << twice.error().what;
  EXPECT_EQ(db->run("INSERT INTO nowhere VALUES(1)").error().code, Errc::internal);
  EXPECT_EQ(db->run("SELECT ?1, ?2", 1).error().code, Errc::internal);
  EXPECT_EQ(db->number("SELECT id FROM a_item WHERE name = ?1", "none").error().code, Errc::not_found);
  // The cache is whole after all that.
  EXPECT_TRUE(db->run("INSERT INTO a_item(name) VALUES(?1)", "y"));
}

TEST_F(DbTest, MigrationsRunOnceInOrderPerComponent) {
  {
    auto db = open();
    ASSERT_TRUE(db->migrate({"a", kOne}));
    ASSERT_TRUE(db->run("INSERT INTO a_item(name) VALUES(?1)", "x"));
    EXPECT_EQ(*db->schema_version("a"), 1);
    EXPECT_EQ(*db->schema_version("b"), 0);
  }
  auto db = open();
  ASSERT_TRUE(db->migrate({"a", kTwo}));
  EXPECT_EQ(*db->schema_version("a"), 2);
  EXPECT_EQ(*db->number("SELECT count(*) FROM a_more"), 1);
  ASSERT_TRUE(db->migrate({"a", kTwo}));
}

TEST_F(DbTest, AFailedMigrationLeavesTheFileAtTheStepBefore) {
  auto db = open();
  auto s = db->migrate({"a", kBad});
  ASSERT_FALSE(s);
  EXPECT_NE(s.error().what.find("migration 2 of a"), std::string::npos) << s.error().what;
  EXPECT_EQ(*db->schema_version("a"), 1);
  EXPECT_EQ(*db->number("SELECT count(*) FROM sqlite_schema WHERE name = 'a_half'"), 0);
}

TEST_F(DbTest, ANewerFileIsRefusedUntouched) {
  {
    auto db = open();
    ASSERT_TRUE(db->migrate({"a", kTwo}));
  }
  {
    auto db = open();
    auto s = db->migrate({"a", kOne});
    ASSERT_FALSE(s);
    EXPECT_EQ(s.error().code, Errc::unsupported);
    EXPECT_NE(s.error().what.find("newer"), std::string::npos);
    ASSERT_TRUE(db->exec("PRAGMA user_version = 99"));
  }
  auto db = Db::open({.path = dir_.file("state.db")});
  ASSERT_FALSE(db);
  EXPECT_EQ(db.error().code, Errc::unsupported);
}

TEST_F(DbTest, AForeignOrDamagedFileIsCorruptAndStays) {
  const auto path = dir_.file("state.db");
  const std::string text(8192, 'x');
  std::ofstream(path) << text;
  auto db = Db::open({.path = path});
  ASSERT_FALSE(db);
  EXPECT_EQ(db.error().code, Errc::corrupt);
  std::ifstream in(path);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), text);
}

TEST_F(DbTest, ADamagedPageIsFoundAtOpenWhenAsked) {
  {
    auto db = open();
    ASSERT_TRUE(db->migrate({"a", kOne}));
    for (int i = 0; i < 2000; ++i)
      ASSERT_TRUE(db->run("INSERT INTO a_item(name) VALUES(?1)", fmt::format("name-{}", i)));
  }
  {
    std::fstream f(dir_.file("state.db"), std::ios::in | std::ios::out | std::ios::binary);
    f.seekp(5 * 4096);
    f << std::string(4096, '\x7f');
  }
  auto db = Db::open({.path = dir_.file("state.db"), .check = true});
  ASSERT_FALSE(db);
  EXPECT_EQ(db.error().code, Errc::corrupt);
}

TEST_F(DbTest, ATransactionWithoutCommitIsUndone) {
  auto db = open();
  ASSERT_TRUE(db->migrate({"a", kOne}));
  {
    auto tx = Transaction::begin(*db);
    ASSERT_TRUE(tx);
    ASSERT_TRUE(db->run("INSERT INTO a_item(name) VALUES(?1)", "x"));
  }
  EXPECT_EQ(*db->number("SELECT count(*) FROM a_item"), 0);
  auto tx = Transaction::begin(*db);
  ASSERT_TRUE(tx);
  ASSERT_TRUE(db->run("INSERT INTO a_item(name) VALUES(?1)", "kept"));
  {
    auto sp = Savepoint::begin(*db);
    ASSERT_TRUE(sp);
    ASSERT_TRUE(db->run("INSERT INTO a_item(name) VALUES(?1)", "dropped"));
  }
  {
    auto sp = Savepoint::begin(*db);
    ASSERT_TRUE(sp);
    ASSERT_TRUE(db->run("INSERT INTO a_item(name) VALUES(?1)", "kept too"));
    ASSERT_TRUE(sp->release());
  }
  ASSERT_TRUE(tx->commit());
  EXPECT_EQ(*db->number("SELECT count(*) FROM a_item"), 2);
}

TEST_F(DbTest, ASecondWriterIsToldBusyAndAReaderGoesOn) {
  auto a = open();
  auto b = open({.busy_timeout_ms = 50});
  auto reader = open({.read_only = true});
  ASSERT_TRUE(a->migrate({"a", kOne}));
  auto tx = Transaction::begin(*a);
  ASSERT_TRUE(tx);
  auto second = Transaction::begin(*b);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Errc::busy);
  EXPECT_EQ(*reader->number("SELECT count(*) FROM a_item"), 0);
  EXPECT_EQ(reader->run("INSERT INTO a_item(name) VALUES('x')").error().code, Errc::no_permission);
}

TEST_F(DbTest, TheStateLockRefusesASecondProcessByNameAndPid) {
  auto lock = StateLock::acquire(dir_.path(), "calico-node role compute");
  ASSERT_TRUE(lock) << lock.error().what;
  const auto parent = ::getpid();
  const pid_t child = ::fork();
  if (child == 0) {
    auto second = StateLock::acquire(dir_.path(), "calico-node role felix");
    const bool right = !second && second.error().code == Errc::busy &&
                       second.error().what.find("calico-node role compute") != std::string::npos &&
                       second.error().what.find(fmt::format("pid {}", parent)) != std::string::npos;
    ::_exit(right ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(DbTest, TheStateLockEndsWithItsHolder) {
  { ASSERT_TRUE(StateLock::acquire(dir_.path(), "first")); }
  EXPECT_TRUE(StateLock::acquire(dir_.path(), "second"));
  EXPECT_EQ(StateLock::acquire(dir_.file("none"), "x").error().code, Errc::not_found);
}

}  // namespace
}  // namespace calico::store
