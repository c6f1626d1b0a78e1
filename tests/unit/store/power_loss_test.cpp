// What a power loss leaves of the embedded datastore. Clients work at the same time on a disk that keeps what was not
// synced apart; the power goes at some operation of it; what the platter holds is opened again and compared with what
// was answered. The next life begins on what the last one left, so recovery itself loses its power too.
#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <filesystem>
#include <map>
#include <random>
#include <set>

#include "core/store/kv.hpp"
#include "tests/support/await.hpp"
#include "tests/support/power_loss.hpp"
#include "tests/support/temp_dir.hpp"

namespace calico::store {
namespace {

using test::PowerLossDisk;

constexpr int kClients = 6;
constexpr int kKeys = 8;  // of each client
constexpr Migration kItems[] = {{1, "CREATE TABLE item(id TEXT NOT NULL PRIMARY KEY) STRICT;"}};
const Schema kItemSchema{"item", kItems};

/// Leases end when they are revoked only.
class StoppedClock final : public Clock {
 public:
  TimePoint now() const override { return TimePoint(std::chrono::seconds(1)); }
  WallTime wall() const override { return {}; }
};

/// A value says what it must look like as a whole.
std::string value_of(std::uint64_t number) {
  std::string text = std::to_string(number) + ":";
  std::minstd_rand letters(static_cast<std::minstd_rand::result_type>(number + 1));
  text.resize(text.size() + number % 1500);
  for (auto& c : text)
    if (c == '\0') c = static_cast<char>('a' + letters() % 26);
  return text;
}
bool whole(const std::string& value) {
  const auto number = std::strtoull(value.c_str(), nullptr, 10);
  return value == value_of(number);
}

/// What is known for certain: answered, or found on the platter once.
struct Known {
  std::map<std::pair<Revision, std::string>, std::optional<std::string>>
      writes;  ///< by revision and key; absent = deleted
  Revision newest = 0;
  Revision compacted = 0;
  std::set<LeaseId> leases, revoked;
  std::uint64_t answered = 0;

  void wrote(Revision revision, std::string key, std::optional<std::string> value) {
    writes[{revision, std::move(key)}] = std::move(value);
    newest = std::max(newest, revision);
    ++answered;
  }
};

/// What the platter has against it.
struct Findings {
  int lost = 0;                     ///< answered and not there
  std::vector<std::string> broken;  ///< half there, or against the rules
  std::string text() const {
    std::string out = fmt::format("{} lost", lost);
    for (const auto& b : broken) out += "\n  " + b;
    return out;
  }
};

class Client {
 public:
  Client(Kv& kv, Known& known, int id, std::uint64_t seed, std::uint64_t& numbers)
      : kv_(kv), known_(known), id_(id), random_(static_cast<std::minstd_rand::result_type>(seed)), numbers_(numbers) {}

  /// One write after the other, until one is not answered well: the power is gone.
  awaitable<bool> work() {
    for (;;) {
      bool answered = false;
      switch (random_() % 12) {
        case 0:
        case 1:
          answered = co_await remove();
          break;
        case 2:
        case 3:
          answered = co_await three_keys();
          break;
        case 4:
          answered = co_await key_and_row();
          break;
        case 5:
          answered = co_await leased();
          break;
        case 6:
          if (id_ == 0)
            answered = co_await compact();
          else
            answered = co_await write();
          break;
        default:
          answered = co_await write();
      }
      if (!answered) co_return false;
    }
  }

 private:
  std::string any_key() { return fmt::format("/c{}/{}", id_, random_() % kKeys); }
  std::string next_value() { return value_of(++numbers_); }

  awaitable<bool> write() {
    PutRequest request{.key = any_key(), .value = next_value()};
    auto done = co_await kv_.put(request);
    if (done) known_.wrote(done->revision, request.key, request.value);
    co_return done.has_value();
  }
  awaitable<bool> remove() {
    DeleteRequest request{.key = any_key(), .range_end = {}};
    auto done = co_await kv_.del(request);
    if (done && done->deleted > 0) known_.wrote(done->revision, request.key, std::nullopt);
    co_return done.has_value();
  }
  awaitable<bool> three_keys() {
    TxnRequest request;
    const auto value = next_value();
    for (const char* part : {"a", "b", "c"})
      request.success.push_back(PutRequest{.key = fmt::format("/three/{}/{}", id_, part), .value = value});
    auto done = co_await kv_.txn(request);
    if (done)
      for (const char* part : {"a", "b", "c"})
        known_.wrote(done->revision, fmt::format("/three/{}/{}", id_, part), value);
    co_return done.has_value();
  }
  awaitable<bool> key_and_row() {
    const auto value = next_value();
    const auto name = fmt::format("{}-{}", id_, numbers_);
    WriteFunction both = [name, value](WriteScope& scope) -> Result<TxnRequest> {
      if (auto s = scope.db().run("INSERT INTO item(id) VALUES(?1)", name); !s) return tl::unexpected<Error>(s.error());
      TxnRequest txn;
      txn.success.push_back(PutRequest{.key = "/item/" + name, .value = value});
      return txn;
    };
    auto done = co_await kv_.txn_with(both);
    if (done) known_.wrote(done->revision, "/item/" + name, value);
    co_return done.has_value();
  }
  /// A lease with a key; the one before it is revoked, and its key goes with it.
  awaitable<bool> leased() {
    auto lease = co_await kv_.lease_grant(3600);
    if (!lease) co_return false;
    known_.leases.insert(lease->id);
    PutRequest request{.key = fmt::format("/leased/{:x}", lease->id), .value = next_value(), .lease = lease->id};
    auto done = co_await kv_.put(request);
    if (!done) co_return false;
    known_.wrote(done->revision, request.key, request.value);
    const auto former = std::exchange(lease_, lease->id);
    if (former == 0) co_return true;
    auto gone = co_await kv_.lease_revoke(former);
    if (gone) {
      known_.leases.erase(former);
      known_.revoked.insert(former);
    }
    co_return gone.has_value();
  }
  awaitable<bool> compact() {
    const auto to = known_.newest - 25;
    if (to <= known_.compacted) co_return true;
    auto done = co_await kv_.compact(to);
    if (done) known_.compacted = std::max(known_.compacted, to);
    co_return done.has_value();
  }

  Kv& kv_;
  Known& known_;
  const int id_;
  std::minstd_rand random_;
  std::uint64_t& numbers_;
  LeaseId lease_ = 0;
};

struct Row {
  std::optional<std::string> value;
  LeaseId lease = 0;
};

/// Reads the platter and holds it against what is known; what nobody was told of is known from then on.
Findings examine(const std::string& path, Known& known) {
  Findings out;
  const auto broken = [&](std::string what) {
    if (out.broken.size() < 10) out.broken.push_back(std::move(what));
  };
  auto opened = Db::open({.path = path, .check = true});
  if (!opened) {
    broken("the file: " + opened.error().what);
    out.lost = static_cast<int>(known.writes.size());
    return out;
  }
  auto& db = **opened;
  const auto revision = db.number("SELECT value FROM kv_meta WHERE name = 'revision'");
  const auto compacted = db.number("SELECT value FROM kv_meta WHERE name = 'compacted'");
  if (!revision || !compacted) {
    if (known.newest > 0) broken("no kv_meta");
    out.lost = static_cast<int>(known.writes.size());
    return out;
  }
  if (*compacted < known.compacted) broken(fmt::format("compacted to {}, answered {}", *compacted, known.compacted));

  std::map<std::pair<Revision, std::string>, Row> rows;
  std::map<Revision, std::vector<std::string>> revisions;
  {
    auto q = db.query("SELECT id, revision, key, value, lease FROM kv_log ORDER BY id");
    Revision last = 0;
    std::int64_t position = 0;
    for (;;) {
      auto row = q.next();
      if (!row) {
        broken(row.error().what);
        break;
      }
      if (!*row) break;
      const auto at = q.integer(1);
      position = at == last ? position + 1 : 0;
      if (at > *compacted && (q.integer(0) >> 20 != at || (q.integer(0) & 0xfffff) != position))
        broken(fmt::format("revision {} has a gap before position {}", at, position));
      if (at > *compacted && last > 0 && at > std::max(last, *compacted) + 1)
        broken(fmt::format("after revision {} comes {}", last, at));
      last = at;
      std::string key(q.blob(2));
      Row r;
      if (!q.is_null(3)) r.value = std::string(q.blob(3));
      r.lease = q.integer(4);
      if (r.value && !whole(*r.value)) broken("a value that nobody wrote, at " + key);
      revisions[at].push_back(key);
      rows[{at, std::move(key)}] = std::move(r);
    }
    if (*revision > std::max({last, *compacted, Revision{1}}))
      broken(fmt::format("revision {}, the log ends at {}", *revision, last));
    if (last > *revision) broken(fmt::format("the log is at {}, the revision is {}", last, *revision));
  }
  // Every answered write that was not compacted is in the log, as it was answered.
  for (const auto& [at, value] : known.writes) {
    if (at.first <= *compacted) continue;
    const auto row = rows.find(at);
    if (row == rows.end()) {
      ++out.lost;
    } else if (row->second.value != value) {
      broken(fmt::format("revision {} of {} is another one", at.first, at.second));
    }
  }
  if (out.lost > 0) return out;  // what follows takes the answers for the truth
  for (const auto& [at, row] : rows) known.writes[at] = row.value;
  known.newest = std::max(known.newest, *revision);
  known.compacted = *compacted;

  std::set<LeaseId> leases;
  std::set<std::string> revoked_keys;  // their deletions were answered without a revision
  {
    auto q = db.query("SELECT id FROM kv_lease ORDER BY id");
    for (auto row = q.next(); row && *row; row = q.next()) leases.insert(q.integer(0));
  }
  for (const auto* ids : {&known.leases, &known.revoked})
    for (const auto id : *ids)
      if (leases.count(id) == 0) revoked_keys.insert(fmt::format("/leased/{:x}", id));

  // Below the compaction: the newest of each key and nothing else.
  std::map<std::string, std::pair<Revision, std::optional<std::string>>> then, now;
  for (const auto& [at, value] : known.writes) {
    if (at.first <= *compacted) then[at.second] = {at.first, value};
    now[at.second] = {at.first, value};
  }
  std::size_t below = 0;
  for (const auto& [at, row] : rows) {
    if (at.first > *compacted) break;
    ++below;
    const auto it = then.find(at.second);
    const bool kept = it != then.end() && it->second.first == at.first && (row.value || at.first == *compacted);
    if (!kept) broken(fmt::format("revision {} of {} outlived the compaction to {}", at.first, at.second, *compacted));
    if (it != then.end() && it->second.second != row.value) broken("another value below the compaction: " + at.second);
  }
  for (const auto& [key, last] : then)
    if (last.second && rows.count({last.first, key}) == 0 &&
        (revoked_keys.count(key) == 0 || now[key].first != last.first))
      broken(fmt::format("the compaction to {} took {} of {}", *compacted, last.first, key));

  // Transactions are whole.
  for (const auto& [at, keys] : revisions) {
    const auto threes = std::count_if(keys.begin(), keys.end(), [](const auto& k) { return k.starts_with("/three/"); });
    if (at > *compacted && threes != 0 && (threes != 3 || keys.size() != 3))
      broken(fmt::format("revision {} has {} of 3 keys", at, threes));
  }
  std::set<std::string> items, item_keys;
  auto q = db.query("SELECT id FROM item ORDER BY id");
  for (auto row = q.next(); row && *row; row = q.next()) items.insert(std::string(q.text(0)));
  for (const auto& [key, last] : now)
    if (key.starts_with("/item/") && last.second) item_keys.insert(key.substr(6));
  if (items != item_keys)
    broken(fmt::format("{} rows beside {} keys written with them", items.size(), item_keys.size()));

  // Leases, and that no key hangs on one that is gone.
  for (const auto id : known.leases)
    if (leases.count(id) == 0) {
      // Its revocation may have arrived without its answer; then its key went with it.
      const auto key = fmt::format("/leased/{:x}", id);
      if (now.count(key) != 0 && now[key].second && rows.count({now[key].first, key}) != 0)
        broken("a lease is gone, its key is not");
      known.revoked.insert(id);
    }
  for (const auto id : known.revoked)
    if (leases.count(id) != 0) broken("a revoked lease is back");
  for (const auto& key : revoked_keys) {
    // Gone from the log as well, now or before: it is not asked for again.
    const auto it = now.find(key);
    if (it != now.end() && rows.count({it->second.first, key}) == 0) known.writes.erase({it->second.first, key});
  }
  for (const auto& [at, row] : rows)
    if (row.value && row.lease != 0 && now[at.second].first == at.first && leases.count(row.lease) == 0)
      broken("a key of a lease that is not there: " + at.second);
  known.leases = std::move(leases);
  return out;
}

/// One life: opens `dir`/state.db on `disk`, works until the power goes, and writes what is left into `to`.
struct Life {
  Db::Synchronous synchronous = Db::Synchronous::full;
  PowerLossDisk::Cut cut = PowerLossDisk::Cut::unsynced;
  int operations = 100;
};

class PowerLoss : public testing::Test {
 protected:
  void live(const Life& life, const std::string& dir, const std::string& to, Known& known) {
    PowerLossDisk disk(random_());
    disk.lose_power_after(life.operations);
    {
      Kv::Options o;
      o.path = dir + "/state.db";
      o.schemas = {kItemSchema};
      o.clock = &clock_;
      o.keep_revisions = 0;
      o.vfs = disk.vfs();
      o.synchronous = life.synchronous;
      auto kv = Kv::open(std::move(o));
      if (kv) {
        std::vector<std::unique_ptr<Client>> clients;
        std::vector<std::future<bool>> working;
        for (int i = 0; i < kClients; ++i) {
          clients.push_back(std::make_unique<Client>(**kv, known, i, random_(), numbers_));
          working.push_back(runner_.start(clients.back()->work()));
        }
        for (auto& w : working) (void)test::LoopRunner::wait(std::move(w), "the end of a client");
      }
      ASSERT_FALSE(disk.powered()) << (kv ? "the clients ended by themselves" : kv.error().what);
    }
    const auto counts = disk.counts();
    seen_.database_writes += counts.database_writes;
    seen_.log_writes += counts.log_writes;
    seen_.syncs += counts.syncs;
    seen_.truncations += counts.truncations;
    seen_.deletions += counts.deletions;
    std::filesystem::create_directory(to);
    disk.recover(to, life.cut);
  }
  /// A file with all tables in it, closed well.
  void make(const std::string& dir) {
    std::filesystem::create_directory(dir);
    auto kv = Kv::open({.path = dir + "/state.db", .schemas = {kItemSchema}, .clock = &clock_});
    ASSERT_TRUE(kv) << kv.error().what;
  }
  Findings look(const std::string& dir, Known& known) {
    const auto copy = dir + "-seen";
    std::filesystem::copy(dir, copy);
    auto found = examine(copy + "/state.db", known);
    std::filesystem::remove_all(copy);
    return found;
  }
  int up_to(int most) { return std::uniform_int_distribution<int>(1, most)(random_); }
  std::string dir(int i) const { return dir_.file("life-" + std::to_string(i)); }

  test::TempDir dir_{"power"};
  StoppedClock clock_;
  test::LoopRunner runner_;
  std::minstd_rand random_{20260101};
  std::uint64_t numbers_ = 0;
  PowerLossDisk::Counts seen_;
};

TEST_F(PowerLoss, EveryAnsweredWriteIsThereAfterTwoHundredOfThem) {
  Known known;
  std::filesystem::create_directory(dir(0));  // the first life makes the file as well
  for (int i = 0; i < 200; ++i) {
    // Now and then at once: while it opens and recovers.
    ASSERT_NO_FATAL_FAILURE(live({.operations = i % 10 == 9 ? up_to(20) : up_to(700)}, dir(i), dir(i + 1), known));
    const auto found = look(dir(i + 1), known);
    ASSERT_EQ(found.lost, 0) << "power loss " << i << ": " << found.text();
    ASSERT_TRUE(found.broken.empty()) << "power loss " << i << ": " << found.text();
    std::filesystem::remove_all(dir(i));
  }
  RecordProperty("answered", std::to_string(known.answered));
  fmt::print(
      "200 power losses: {} answers; writes of the database {}, of the log {}, syncs {}, truncations {}, "
      "deletions {}; compacted to {} of {}\n",
      known.answered, seen_.database_writes, seen_.log_writes, seen_.syncs, seen_.truncations, seen_.deletions,
      known.compacted, known.newest);
  EXPECT_GT(known.answered, 2000U);
  EXPECT_GT(seen_.database_writes, 500U) << "the log was hardly ever written back";
  EXPECT_GT(known.compacted, 1000);
}

TEST_F(PowerLoss, NorWhenWhatWasNotSyncedArrivedInPart) {
  Known known;
  std::filesystem::create_directory(dir(0));
  for (int i = 0; i < 60; ++i) {
    ASSERT_NO_FATAL_FAILURE(
        live({.cut = PowerLossDisk::Cut::sectors, .operations = up_to(700)}, dir(i), dir(i + 1), known));
    const auto found = look(dir(i + 1), known);
    ASSERT_EQ(found.lost, 0) << "power loss " << i << ": " << found.text();
    ASSERT_TRUE(found.broken.empty()) << "power loss " << i << ": " << found.text();
    std::filesystem::remove_all(dir(i));
  }
  EXPECT_GT(known.answered, 500U);
}

// The same disk and the same eyes do see a datastore that does not sync.
TEST_F(PowerLoss, WithoutSyncsAnsweredWritesAreLost) {
  int lost = 0, lives = 0;
  for (int i = 0; i < 20; ++i) {
    Known known;
    make(dir(2 * i));
    ASSERT_NO_FATAL_FAILURE(
        live({.synchronous = Db::Synchronous::off, .operations = 200 + up_to(700)}, dir(2 * i), dir(2 * i + 1), known));
    ASSERT_GT(known.answered, 0U);
    const auto found = look(dir(2 * i + 1), known);
    lost += found.lost;
    lives += found.lost > 0;
  }
  EXPECT_GT(lost, 0);
  EXPECT_EQ(lives, 20);
  fmt::print("synchronous=OFF: {} answered writes lost in {} of 20 power losses\n", lost, lives);
}

// What mirrors use: the last answers may go, what is left is whole and has no holes.
TEST_F(PowerLoss, WithNormalSyncsOnlyTheLastAreLost) {
  int lost = 0;
  for (int i = 0; i < 20; ++i) {
    Known known;
    make(dir(2 * i));
    ASSERT_NO_FATAL_FAILURE(live({.synchronous = Db::Synchronous::normal, .operations = 200 + up_to(3000)}, dir(2 * i),
                                 dir(2 * i + 1), known));
    auto left = known;
    const auto path = dir(2 * i + 1) + "/state.db";
    {
      auto db = Db::open({.path = path, .check = true});
      ASSERT_TRUE(db) << db.error().what;
      const auto revision = (*db)->number("SELECT value FROM kv_meta WHERE name = 'revision'");
      ASSERT_TRUE(revision) << revision.error().what;
      for (auto it = left.writes.begin(); it != left.writes.end();) {
        const bool gone = it->first.first > *revision;
        lost += gone;
        it = gone ? left.writes.erase(it) : std::next(it);
      }
      left.newest = *revision;
      left.compacted = 0;
      left.leases.insert(left.revoked.begin(), left.revoked.end());  // a revocation may be among what is lost
      left.revoked.clear();
    }
    const auto found = look(dir(2 * i + 1), left);
    EXPECT_EQ(found.lost, 0) << found.text();
    EXPECT_TRUE(found.broken.empty()) << found.text();
  }
  EXPECT_GT(lost, 0);
}

}  // namespace
}  // namespace calico::store
