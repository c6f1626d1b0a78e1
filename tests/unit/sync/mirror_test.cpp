#include "core/sync/mirror.hpp"

#include <fstream>

#include "core/store/db.hpp"
#include "tests/unit/sync/support.hpp"

namespace calico::sync {
namespace {

using test::eventually;
using test::Follower;
using test::TempDir;

store::KeyValue kv(const std::string& key, const std::string& value, store::Revision r) {
  store::KeyValue out;
  out.key = key;
  out.value = value;
  out.create_revision = out.mod_revision = r;
  out.version = 1;
  return out;
}
store::Event put(const std::string& key, const std::string& value, store::Revision r) {
  return {store::Event::Type::put, kv(key, value, r), std::nullopt};
}
store::Event gone(const std::string& key, store::Revision r) {
  store::Event e;
  e.type = store::Event::Type::del;
  e.kv.key = key;
  e.kv.mod_revision = r;
  return e;
}
Mirror::Content content(std::initializer_list<store::KeyValue> kvs) {
  Mirror::Content out;
  for (const auto& x : kvs) out.emplace(x.key, x);
  return out;
}
const Identity kIdentity{7, "guid", 3, true};

std::unique_ptr<Mirror> open(const std::string& file = {}, std::vector<std::string> prefixes = {"/a/", "/b/"}) {
  auto m = Mirror::open(std::move(prefixes), file);
  EXPECT_TRUE(m) << m.error().what;
  return m ? std::move(*m) : nullptr;
}

TEST(Mirror, IsNotUsableBeforeTheFirstSnapshotAndStaysUsableAfter) {
  auto m = open();
  EXPECT_EQ(m->state().phase, Phase::waiting);
  Follower f(*m, {"/a/"});
  ASSERT_TRUE(eventually("the first batch", [&] { return f.batches() == 1; }));
  EXPECT_FALSE(f.usable());
  m->replace(content({kv("/a/1", "x", 5), kv("/b/1", "y", 6)}), 9, kIdentity);
  ASSERT_TRUE(eventually("the snapshot", [&] { return f.usable(); }));
  EXPECT_EQ(f.content(), (std::map<std::string, std::string>{{"/a/1", "x"}}));
  EXPECT_EQ(f.state().revision, 9);
}

TEST(Mirror, WhatIsEqualIsNotToldAgainAndKeptWithItsNewRevision) {
  TempDir dir;
  {
    auto m = open(dir.file("m.db"));
    m->replace(content({kv("/a/1", "x", 1), kv("/a/2", "y", 2), kv("/a/3", "z", 3)}), 3, kIdentity);
    Follower f(*m, {"/a/"});
    ASSERT_TRUE(eventually("the first batch", [&] { return f.content().size() == 3; }));
    // Another datastore with the same content, but for one key: its revisions are its own.
    const Identity other{8, "guid", 70, true};
    m->replace(content({kv("/a/1", "x", 71), kv("/a/2", "new", 72), kv("/a/3", "z", 73)}), 80, other);
    ASSERT_TRUE(eventually("the change", [&] { return f.content().at("/a/2") == "new"; }));
    EXPECT_EQ(f.updates(), 4) << "three at first, one change";
    EXPECT_EQ(m->get("/a/1")->mod_revision, 71);
    m->flush();
  }
  auto again = open(dir.file("m.db"));
  EXPECT_EQ(again->get("/a/1")->mod_revision, 71);
  EXPECT_EQ(again->get("/a/2")->value, "new");
  EXPECT_EQ(again->get("/a/3")->create_revision, 73);
}

TEST(Mirror, AnEmptySnapshotMakesAWatcherUsableToo) {
  auto m = open();
  Follower f(*m, {"/a/"});
  m->replace({}, 9, kIdentity);
  ASSERT_TRUE(eventually("the snapshot", [&] { return f.usable(); }));
}

TEST(Mirror, ReplaceTellsDifferencesOnly) {
  auto m = open();
  m->replace(content({kv("/a/1", "x", 1), kv("/a/2", "x", 2), kv("/a/3", "x", 3)}), 3, kIdentity);
  Follower f(*m, {"/"});
  ASSERT_TRUE(eventually("the content", [&] { return f.updates() == 3; }));
  m->replace(content({kv("/a/1", "x", 1), kv("/a/3", "z", 9), kv("/a/4", "n", 8)}), 9, kIdentity);
  ASSERT_TRUE(eventually("the differences", [&] { return f.updates() >= 6; }));
  EXPECT_EQ(f.content(), (std::map<std::string, std::string>{{"/a/1", "x"}, {"/a/3", "z"}, {"/a/4", "n"}}));
  EXPECT_EQ(f.updates(), 6);
}

TEST(Mirror, MergesWhatWaitsForASlowWatcher) {
  auto m = open();
  m->replace({}, 1, kIdentity);
  Follower f(*m, {"/a/"});
  ASSERT_TRUE(eventually("the first batch", [&] { return f.batches() == 1; }));
  std::promise<void> open_gate;
  f.loop().post([gate = open_gate.get_future().share()] { gate.wait(); });
  for (int i = 0; i < 1000; ++i) m->apply(0, {put("/a/1", fmt::format("{}", i), 2 + i)}, 2 + i);
  m->apply(0, {put("/a/2", "x", 1002), gone("/a/2", 1003)}, 1003);
  open_gate.set_value();
  ASSERT_TRUE(eventually("the last value", [&] { return f.content().contains("/a/1"); }));
  EXPECT_EQ(f.content(), (std::map<std::string, std::string>{{"/a/1", "999"}}));
  EXPECT_EQ(f.updates(), 2);
  EXPECT_EQ(f.batches(), 2);
  EXPECT_EQ(m->revision(0), 1003);
  EXPECT_EQ(m->revision(1), 1);
  EXPECT_EQ(m->state().revision, 1);
}

TEST(Mirror, IgnoresKeysOutsideThePrefix) {
  auto m = open();
  m->replace({}, 1, kIdentity);
  m->apply(0, {put("/b/1", "x", 2), gone("/a/none", 2)}, 2);
  EXPECT_EQ(m->keys(), 0U);
}

TEST(Mirror, ADroppedSubscriptionHearsNothingMore) {
  auto m = open();
  m->replace({}, 1, kIdentity);
  Follower f(*m, {"/a/"});
  ASSERT_TRUE(eventually("the first batch", [&] { return f.batches() == 1; }));
  std::promise<void> open_gate;
  f.loop().post([gate = open_gate.get_future().share()] { gate.wait(); });
  m->apply(0, {put("/a/1", "x", 2)}, 2);
  f.drop();  // its batch is already posted
  open_gate.set_value();
  f.loop().call([] {});
  EXPECT_EQ(f.batches(), 1);
}

TEST(Mirror, AWatcherMayDropItselfFromItsCallback) {
  auto m = open();
  Loop loop("test");
  loop.start();
  std::unique_ptr<Subscription> sub;
  std::promise<void> done;
  loop.call([&] {
    sub = m->watch({"/a/"}, loop.executor(), [&](const Batch&) {
      sub.reset();
      done.set_value();
    });
  });
  auto ended = done.get_future();
  ASSERT_EQ(ended.wait_for(std::chrono::seconds(30)), std::future_status::ready);
  loop.stop();
}

TEST(Mirror, KeepsItsContentOverARestart) {
  TempDir dir;
  const std::string binary("\0\xff\"'", 4);
  {
    auto m = open(dir.file("state.db"));
    m->replace(content({kv("/a/1", binary, 5), kv("/b/1", "", 6)}), 9, kIdentity);
    m->apply(0, {put("/a/2", "new", 11)}, 11);
    m->apply(1, {gone("/b/1", 12)}, 12);
    m->apply(1, {}, 20);  // progress
    m->flush();
  }
  auto m = open(dir.file("state.db"));
  EXPECT_EQ(m->identity(), kIdentity);
  EXPECT_EQ(m->state().phase, Phase::resyncing);
  EXPECT_EQ(m->revision(0), 11);
  EXPECT_EQ(m->revision(1), 20);
  ASSERT_EQ(m->keys(), 2U);
  EXPECT_EQ(m->get("/a/1")->value, binary);
  EXPECT_EQ(m->newest()->key, "/a/2");
  Follower f(*m, {"/a/"});
  ASSERT_TRUE(eventually("the content", [&] { return f.content().size() == 2; }));
  EXPECT_TRUE(f.usable());
}

TEST(Mirror, ANewPrefixHasRevisionZeroAndAFormerOneIsDropped) {
  TempDir dir;
  {
    auto m = open(dir.file("state.db"));
    m->replace(content({kv("/a/1", "x", 5), kv("/b/1", "y", 6)}), 9, kIdentity);
    m->flush();
  }
  {
    auto m = open(dir.file("state.db"), {"/a/", "/c/"});
    EXPECT_EQ(m->keys(), 1U);
    EXPECT_EQ(m->revision(0), 9);
    EXPECT_EQ(m->revision(1), 0);
    Follower a(*m, {"/a/"}), c(*m, {"/c/sub"});
    ASSERT_TRUE(eventually("the first batches", [&] { return a.batches() == 1 && c.batches() == 1; }));
    EXPECT_TRUE(a.usable());
    EXPECT_FALSE(c.usable()) << "it was never listed";
    m->flush();
  }
  auto m = open(dir.file("state.db"));
  EXPECT_EQ(m->keys(), 1U);
  EXPECT_EQ(m->revision(1), 0) << "what was not followed for a while must be listed again";
}

TEST(Mirror, ACorruptFileIsSetAsideAndBegunAnew) {
  TempDir dir;
  const auto file = dir.file("state.db");
  std::ofstream(file) << std::string(20000, 'x');
  {
    auto m = open(file);
    ASSERT_TRUE(m);
    EXPECT_EQ(m->state().phase, Phase::waiting);
    EXPECT_NE(m->file_note().find("corrupt"), std::string::npos) << m->file_note();
    m->replace(content({kv("/a/1", "x", 5)}), 9, kIdentity);
    m->flush();
    EXPECT_EQ(m->file_error(), "");
  }
  EXPECT_TRUE(std::filesystem::exists(file + ".corrupt"));
  EXPECT_EQ(open(file)->keys(), 1U);
}

TEST(Mirror, ADamagedPageIsFoundAtOpen) {
  TempDir dir;
  const auto file = dir.file("state.db");
  {
    auto m = open(file);
    Mirror::Content many;
    for (int i = 0; i < 2000; ++i) {
      const auto key = fmt::format("/a/{:05}", i);
      many.emplace(key, kv(key, std::string(100, 'v'), 5));
    }
    m->replace(std::move(many), 9, kIdentity);
    m->flush();
  }
  const auto size = std::filesystem::file_size(file);
  ASSERT_GT(size, 100000U);
  {
    std::fstream f(file, std::ios::in | std::ios::out | std::ios::binary);
    f.seekp(static_cast<std::streamoff>(size / 2));
    f << std::string(8192, '\x5a');
  }
  auto m = open(file);
  EXPECT_EQ(m->keys(), 0U);
  EXPECT_EQ(m->state().phase, Phase::waiting);
  EXPECT_NE(m->file_note(), "");
}

TEST(Mirror, AFileThatCannotBeOpenedIsAnError) {
  auto m = Mirror::open({"/a/"}, "/nonexistent/state.db");
  ASSERT_FALSE(m);
  EXPECT_NE(m.error().what.find("/nonexistent/state.db"), std::string::npos) << m.error().what;
}

}  // namespace
}  // namespace calico::sync
