#include "core/store/kv.hpp"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <random>
#include <thread>

#include "core/loop/loop.hpp"
#include "core/store/backup.hpp"
#include "core/store/kv_watch.hpp"

namespace calico::store {
namespace {

constexpr std::int64_t kMinLeaseTtl_s = 2;           // etcd's: one and a half election timeouts, rounded up
constexpr std::int64_t kMaxLeaseTtl_s = 9000000000;  // etcd's
constexpr std::size_t kGroupMax = 1000;              // requests in one SQLite transaction
constexpr std::size_t kHistoryChunk = 1U << 20;      // bytes read at once for a watch that catches up
constexpr std::int64_t kCompactStep = 200;           // revisions compacted at once on the writer's own account

constexpr std::string_view kMoved = "this datastore has moved, see `calico-node store move`";

Error stopped() { return {Errc::closed, "the datastore is stopping"}; }

struct Lease {
  std::int64_t ttl_s = 0;
  TimePoint expiry;
  std::set<std::string, std::less<>> keys;
};

/// What one group of requests has done so far; dropped as a whole when the commit fails.
struct Group {
  explicit Group(const Index& index, Revision at, Revision compacted_at)
      : staged(index), revision(at), compacted(compacted_at) {}
  Staged staged;
  Revision revision;
  Revision compacted;
  std::vector<Revised> revised;
  std::map<LeaseId, std::optional<std::int64_t>> leases;  ///< granted (ttl) or revoked
  std::optional<std::string> frozen;                      ///< changed to
  std::optional<Transaction> tx;
  std::optional<Error> fatal;
};

}  // namespace

struct Kv::Impl : std::enable_shared_from_this<Kv::Impl> {
  /// `run` works on the writer and returns how to answer, called after the commit; `refuse` answers with an error.
  struct Job {
    std::function<std::function<void()>(Group&)> run;
    std::function<void(const Error&)> refuse;
    bool writes = true;  ///< false: never touches SQLite, and is answered whatever becomes of its group
  };

  Options options;
  SystemClock system_clock;
  const Clock* clock = nullptr;
  std::unique_ptr<Db> db;
  std::unique_ptr<Db> read_db;
  Loop reader{"kv-read"};
  std::thread writer;
  std::shared_ptr<Hub> hub;
  std::uint64_t cluster_id = 0;
  std::uint64_t member_id = 0;
  Revision restored_from = 0;

  std::mutex queue_mutex;
  std::condition_variable queue_wake;
  std::deque<Job> queue;
  bool stopping = false;
  bool poked = false;

  mutable std::mutex index_mutex;
  Index index;
  Revision revision = 1;
  Revision compacted = 0;
  Stats counters;
  std::string frozen;  ///< why; empty = it is not

  // Writer's own.
  std::map<LeaseId, Lease> leases;
  TimePoint next_expiry = TimePoint::max();
  std::mt19937_64 random{std::random_device{}()};

  Status start();
  void stop();
  void run();
  void run_group(std::vector<Job> jobs);
  void apply(Group& g, std::size_t jobs);
  void disk(const std::optional<Error>& e);
  void expire(Group& g);

  template <class T>
  void submit(std::function<Result<T>(Group&)> f, bool writes, Done<Result<T>> done);
  template <class T>
  awaitable<Result<T>> ask(std::function<Result<T>(Group&)> f, bool writes = true) {
    auto self = shared_from_this();
    auto begin = [self, f = std::move(f), writes](Done<Result<T>> done) {
      self->template submit<T>(f, writes, std::move(done));
    };
    co_return co_await await_done<Result<T>>(std::move(begin));
  }
  template <class T>
  awaitable<Result<T>> read(std::function<Result<T>(Db&)> f);

  // Evaluation, on the writer.
  Status writable(const Group& g) const;
  Status writable(const Group& g, const std::vector<Op>& ops) const;
  Status set_frozen(Group& g, Then then);
  bool begin(Group& g);
  Status fatal(Group& g, Error e);
  bool lease_there(const Group& g, LeaseId id) const;
  PutResult put(Group& g, std::vector<ChangePtr>& changes, PutRequest request);
  DeleteResult del(Group& g, std::vector<ChangePtr>& changes, const DeleteRequest& request);
  Result<RangeResult> range(Group& g, std::size_t changed, const RangeRequest& request);
  Status log(Group& g, std::vector<ChangePtr> changes, std::string who);
  Status precheck(const Group& g, const PutRequest& put) const;
  Status precheck(const Group& g, const std::vector<Op>& ops) const;
  Result<std::vector<OpResult>> perform(Group& g, std::vector<Op> ops, std::string who);
  /// `of_move`: past a freeze.
  Result<TxnResult> txn(Group& g, TxnRequest request, std::optional<Kv::Then> of_move = std::nullopt);
  Result<TxnResult> txn_with(Group& g, const WriteFunction& f);
  Result<Revision> compact(Group& g, Revision to);
  Status revoke(Group& g, LeaseId id, std::string_view why);
  Result<LeaseInfo> grant(Group& g, std::int64_t ttl_s, LeaseId id);
  Result<LeaseInfo> keepalive(const Group& g, LeaseId id);
  LeaseInfo time_to_live(const Group& g, LeaseId id, bool keys);

  Result<RangeResult> range_now(const RangeRequest& request) const;
};

// ---- life

Result<std::unique_ptr<Kv>> Kv::open(Options options) {
  auto impl = std::make_shared<Impl>();
  impl->options = std::move(options);
  if (auto s = impl->start(); !s) return tl::unexpected<Error>(s.error());
  return std::unique_ptr<Kv>(new Kv(std::move(impl)));
}

Kv::Kv(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Kv::~Kv() { stop(); }
void Kv::stop() { impl_->stop(); }

Status Kv::Impl::start() {
  clock = options.clock ? options.clock : &system_clock;
  const auto refused = [this](Error e) {
    return tl::unexpected<Error>(with_way_out(std::move(e), options.path, options.backup_directory));
  };
  auto opened = Db::open({.path = options.path, .synchronous = options.synchronous, .check = true, .vfs = options.vfs});
  if (!opened) return refused(opened.error());
  db = std::move(*opened);
  if (auto s = db->migrate(kKvSchema); !s) return refused(s.error());
  for (const auto& schema : options.schemas)
    if (auto s = db->migrate(schema); !s) return refused(s.error());
  auto adopted = adopt_backup(*db);
  if (!adopted) return refused(adopted.error());
  restored_from = *adopted;
  auto meta = load_meta(*db);
  if (!meta) return refused(meta.error());
  revision = meta->revision;
  compacted = meta->compacted;
  cluster_id = meta->cluster_id;
  member_id = meta->member_id;
  if (meta->frozen) frozen = kMoved;

  const auto now = clock->now();
  if (auto s = load_leases(*db,
                           [&](LeaseId id, std::int64_t ttl_s) {
                             leases[id] = {ttl_s, now + std::chrono::seconds(ttl_s), {}};
                             next_expiry = std::min(next_expiry, leases[id].expiry);
                           });
      !s)
    return s;
  if (auto s = load_keys(*db,
                         [&](KeyValue kv) {
                           if (kv.lease != 0) {
                             const auto lease = leases.find(kv.lease);
                             if (lease != leases.end()) lease->second.keys.insert(kv.key);
                           }
                           index.insert(index.end(), std::make_shared<const KeyValue>(std::move(kv)));
                         });
      !s)
    return s;

  opened = Db::open({.path = options.path, .read_only = true, .vfs = options.vfs});
  if (!opened) return tl::unexpected<Error>(opened.error());
  read_db = std::move(*opened);

  auto history = [weak = weak_from_this()](std::shared_ptr<KvWatch::State> w, Revision from,
                                           Done<Result<HistoryChunk>> done) {
    auto self = weak.lock();
    if (!self) return done(tl::unexpected<Error>(stopped()));
    std::unique_lock lock(self->queue_mutex);  // stop() drains the reader after it took this lock
    if (self->stopping) {
      lock.unlock();
      return done(tl::unexpected<Error>(stopped()));
    }
    self->reader.post([raw = self.get(), w, from, done] {
      done(changes_since(*raw->read_db, w->span(), from, w->prev, kHistoryChunk));
    });
  };
  hub = std::make_shared<Hub>(options, revision, std::move(history));
  reader.start();
  writer = std::thread([this] {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    pthread_setname_np(pthread_self(), "kv-write");
    run();
  });
  return {};
}

void Kv::Impl::stop() {
  {
    std::lock_guard lock(queue_mutex);
    if (stopping) return;
    stopping = true;
  }
  queue_wake.notify_all();
  if (hub) hub->stop();
  if (writer.joinable()) writer.join();
  reader.stop();
}

template <class T>
void Kv::Impl::submit(std::function<Result<T>(Group&)> f, bool writes, Done<Result<T>> done) {
  Job job;
  job.writes = writes;
  job.run = [f = std::move(f), done](Group& g) -> std::function<void()> {
    auto result = std::make_shared<Result<T>>(f(g));
    return [result, done] { done(std::move(*result)); };
  };
  job.refuse = [done](const Error& e) { done(tl::unexpected<Error>(e)); };
  std::optional<Error> refused;
  {
    std::lock_guard lock(queue_mutex);
    if (stopping)
      refused = stopped();
    else if (queue.size() >= options.max_waiting)
      refused = Error{Errc::busy, fmt::format("{} requests wait already", queue.size())};
    else
      queue.push_back(std::move(job));
  }
  if (refused)
    done(tl::unexpected<Error>(*refused));
  else
    queue_wake.notify_one();
}

template <class T>
awaitable<Result<T>> Kv::Impl::read(std::function<Result<T>(Db&)> f) {
  auto self = shared_from_this();
  auto begin = [self, f = std::move(f)](Done<Result<T>> done) {
    std::unique_lock lock(self->queue_mutex);  // stop() drains the reader after it took this lock
    if (self->stopping) {
      lock.unlock();
      return done(tl::unexpected<Error>(stopped()));
    }
    self->reader.post([raw = self.get(), f, done] { done(f(*raw->read_db)); });
  };
  co_return co_await await_done<Result<T>>(std::move(begin));
}

// ---- the writer

void Kv::Impl::run() {
  for (;;) {
    std::vector<Job> jobs;
    {
      std::unique_lock lock(queue_mutex);
      const auto ready = [this] { return stopping || poked || !queue.empty(); };
      if (next_expiry == TimePoint::max()) {
        queue_wake.wait(lock, ready);
      } else {
        const auto left = std::clamp<Duration>(next_expiry - clock->now(), Duration(0), std::chrono::hours(1));
        queue_wake.wait_for(lock, left, ready);
      }
      poked = false;
      if (stopping) break;
      const auto n = std::min(queue.size(), kGroupMax);
      jobs.reserve(n);
      for (std::size_t i = 0; i < n; ++i) {
        jobs.push_back(std::move(queue.front()));
        queue.pop_front();
      }
    }
    run_group(std::move(jobs));
  }
  std::deque<Job> rest;
  {
    std::lock_guard lock(queue_mutex);
    rest.swap(queue);
  }
  const auto error = stopped();
  for (auto& job : rest) job.refuse(error);
}

void Kv::Impl::run_group(std::vector<Job> jobs) {
  Group g(index, revision, compacted);  // only this thread writes them: no lock to read
  // A full disk must not end leases: what only asks or keeps alive does not share the fate of the writes.
  const auto writes = std::stable_partition(jobs.begin(), jobs.end(), [](const Job& job) { return !job.writes; });
  for (auto job = jobs.begin(); job != writes; ++job) job->run(g)();
  const auto answered = static_cast<std::size_t>(writes - jobs.begin());
  jobs.erase(jobs.begin(), writes);
  std::vector<std::function<void()>> answers;
  answers.reserve(jobs.size());
  for (auto& job : jobs) {
    answers.push_back(job.run(g));
    if (g.fatal) break;
  }
  if (!g.fatal && clock->now() >= next_expiry) expire(g);
  if (!g.fatal && options.keep_revisions > 0 && g.revision - g.compacted >= options.keep_revisions + kCompactStep)
    (void)compact(g, g.revision - options.keep_revisions);
  if (!g.fatal && g.tx) {
    Status s;
    if (g.revision != revision) s = save_revision(*db, g.revision);
    if (s) s = g.tx->commit();
    if (!s) g.fatal = s.error();
  }
  if (g.fatal) {
    g.tx.reset();  // rolls back
    next_expiry = std::min<TimePoint>(next_expiry, clock->now() + std::chrono::seconds(1));
    disk(g.fatal);
    for (auto& job : jobs) job.refuse(*g.fatal);
    return;
  }
  if (g.tx) disk(std::nullopt);
  apply(g, jobs.size() + answered);
  hub->publish(g.revised, g.revision);
  if (options.on_written && !g.revised.empty()) options.on_written(g.revised);
  for (auto& answer : answers) answer();
}

/// What the last commit came to. Told when it changes, not once a write.
void Kv::Impl::disk(const std::optional<Error>& e) {
  const bool of_disk = e && (e->code == Errc::exhausted || e->code == Errc::unavailable || e->code == Errc::corrupt ||
                             e->code == Errc::no_permission);
  if (e && !of_disk) return;  // a fault of the request
  {
    std::lock_guard lock(index_mutex);
    const bool was_well = counters.disk_error.empty();
    counters.disk_error = e ? e->what : std::string();
    if (was_well == !e) return;
  }
  if (options.on_disk) options.on_disk(e);
}

void Kv::Impl::apply(Group& g, std::size_t jobs) {
  const auto now = clock->now();
  for (const auto& [id, ttl_s] : g.leases)
    if (ttl_s) {
      leases[id] = {*ttl_s, now + std::chrono::seconds(*ttl_s), {}};
      next_expiry = std::min(next_expiry, leases[id].expiry);
    }
  const auto lease_of = [this](LeaseId id) -> Lease* {
    const auto it = id == 0 ? leases.end() : leases.find(id);
    return it == leases.end() ? nullptr : &it->second;
  };
  std::lock_guard lock(index_mutex);
  for (const auto& [key, kv] : g.staged.changes()) {
    const auto it = index.find(key);
    if (it != index.end()) {
      if (auto* lease = lease_of((*it)->lease)) lease->keys.erase(key);
      if (!kv) {
        index.erase(it);
        continue;
      }
      auto node = index.extract(it);  // same place in the order: no new node
      node.value() = kv;
      index.insert(std::move(node));
    } else if (kv) {
      index.insert(kv);
    } else {
      continue;
    }
    if (auto* lease = lease_of(kv->lease)) lease->keys.insert(key);
  }
  for (const auto& [id, ttl_s] : g.leases)
    if (!ttl_s) leases.erase(id);
  revision = g.revision;
  compacted = g.compacted;
  if (g.frozen) frozen = std::move(*g.frozen);
  if (g.tx) ++counters.commits;
  counters.requests += jobs;
}

void Kv::Impl::expire(Group& g) {
  const auto now = clock->now();
  std::vector<LeaseId> over;
  next_expiry = TimePoint::max();
  for (const auto& [id, lease] : leases) {
    if (lease.expiry <= now && lease_there(g, id))
      over.push_back(id);
    else
      next_expiry = std::min(next_expiry, lease.expiry);
  }
  for (const auto id : over)
    if (!revoke(g, id, "expired") && g.fatal) return;
}

bool Kv::Impl::begin(Group& g) {
  if (g.fatal) return false;
  if (g.tx) return true;
  auto tx = Transaction::begin(*db);
  if (!tx) {
    g.fatal = tx.error();
    return false;
  }
  g.tx.emplace(std::move(*tx));
  return true;
}

Status Kv::Impl::fatal(Group& g, Error e) {
  g.fatal = std::move(e);
  return tl::unexpected<Error>(*g.fatal);
}

// ---- frozen

Status Kv::Impl::writable(const Group& g) const {
  const auto& why = g.frozen ? *g.frozen : frozen;
  if (why.empty()) return {};
  return fail(Errc::unavailable, "{}", why);
}

Status Kv::Impl::writable(const Group& g, const std::vector<Op>& ops) const {
  const bool writes =
      std::any_of(ops.begin(), ops.end(), [](const Op& op) { return !std::holds_alternative<RangeRequest>(op); });
  return writes ? writable(g) : Status{};
}

Status Kv::Impl::set_frozen(Group& g, Then then) {
  if (then == Then::as_it_is) return {};
  if (!begin(g)) return tl::unexpected<Error>(*g.fatal);
  if (auto s = save_frozen(*db, then == Then::frozen_for_good); !s) return fatal(g, s.error());
  g.frozen = then == Then::frozen_for_good ? std::string(kMoved) : std::string();
  return {};
}

// ---- operations

PutResult Kv::Impl::put(Group& g, std::vector<ChangePtr>& changes, PutRequest request) {
  const auto rev = g.revision + 1;
  auto prev = g.staged.get(request.key);
  auto kv = std::make_shared<KeyValue>();
  kv->key = std::move(request.key);
  kv->value = request.ignore_value && prev ? prev->value : std::move(request.value);
  kv->create_revision = prev ? prev->create_revision : rev;
  kv->mod_revision = rev;
  kv->version = prev ? prev->version + 1 : 1;
  kv->lease = request.ignore_lease && prev ? prev->lease : request.lease;
  auto change = std::make_shared<Change>();
  change->kv = kv;
  change->prev = prev;
  changes.push_back(std::move(change));
  g.staged.set(std::move(kv));
  PutResult result{.revision = rev, .prev = std::nullopt};
  if (request.prev_kv && prev) result.prev = *prev;
  return result;
}

DeleteResult Kv::Impl::del(Group& g, std::vector<ChangePtr>& changes, const DeleteRequest& request) {
  const auto rev = g.revision + 1;
  std::vector<KvPtr> found;
  g.staged.each({request.key, request.range_end}, [&](const KvPtr& kv) {
    found.push_back(kv);
    return true;
  });
  DeleteResult result;
  result.deleted = static_cast<std::int64_t>(found.size());
  for (auto& kv : found) {
    if (request.prev_kv) result.prev.push_back(*kv);
    auto change = std::make_shared<Change>();
    change->type = Event::Type::del;
    change->kv = std::make_shared<const KeyValue>(KeyValue{.key = kv->key, .value = {}, .mod_revision = rev});
    change->prev = kv;
    g.staged.erase(kv->key);
    changes.push_back(std::move(change));
  }
  result.revision = changes.empty() ? g.revision : rev;
  return result;
}

Result<RangeResult> Kv::Impl::range(Group& g, std::size_t changed, const RangeRequest& request) {
  const auto now = g.revision + (changed > 0 ? 1 : 0);
  if (request.revision <= 0 || request.revision == now) {
    const auto selected = select(request, [&](const std::function<bool(const KvPtr&)>& f) {
      g.staged.each({request.key, request.range_end}, f);
    });
    return materialise(request, selected, now);
  }
  auto past = range_at(*db, request);
  if (past) past->revision = now;
  return past;
}

Status Kv::Impl::log(Group& g, std::vector<ChangePtr> changes, std::string who) {
  if (changes.empty()) return {};
  if (!begin(g)) return tl::unexpected<Error>(*g.fatal);
  const auto rev = g.revision + 1;
  for (std::size_t i = 0; i < changes.size(); ++i)
    if (auto s = append(*db, rev, i, *changes[i]); !s) return fatal(g, s.error());
  g.revision = rev;
  g.revised.push_back({rev, std::move(changes), std::move(who)});
  return {};
}

bool Kv::Impl::lease_there(const Group& g, LeaseId id) const {
  if (const auto it = g.leases.find(id); it != g.leases.end()) return it->second.has_value();
  return leases.count(id) != 0;
}

/// What a put needs to find, in etcd's order inside a transaction.
Status Kv::Impl::precheck(const Group& g, const PutRequest& put) const {
  if ((put.ignore_value || put.ignore_lease) && !g.staged.get(put.key)) return fail(Errc::invalid, "key not found");
  if (put.lease != 0 && !lease_there(g, put.lease))
    return fail(Errc::not_found, "requested lease not found: {}", put.lease);
  return {};
}

/// Everything that can be refused is refused before the first change: the puts first, as etcd.
Status Kv::Impl::precheck(const Group& g, const std::vector<Op>& ops) const {
  for (const auto& op : ops)
    if (const auto* put = std::get_if<PutRequest>(&op))
      if (auto s = precheck(g, *put); !s) return s;
  for (const auto& op : ops) {
    const auto* range = std::get_if<RangeRequest>(&op);
    if (!range) continue;
    if (range->revision > g.revision)
      return fail(Errc::invalid, "required revision {} is a future revision, the newest is {}", range->revision,
                  g.revision);
    if (range->revision > 0 && range->revision < g.compacted)
      return fail(Errc::compacted, "revision {} has been compacted, the oldest is {}", range->revision, g.compacted);
  }
  return {};
}

Result<std::vector<OpResult>> Kv::Impl::perform(Group& g, std::vector<Op> ops, std::string who) {
  std::vector<ChangePtr> changes;
  std::vector<OpResult> results;
  results.reserve(ops.size());
  for (auto& op : ops) {
    if (auto* p = std::get_if<PutRequest>(&op)) {
      results.emplace_back(put(g, changes, std::move(*p)));
    } else if (auto* d = std::get_if<DeleteRequest>(&op)) {
      results.emplace_back(del(g, changes, *d));
    } else {
      auto r = range(g, changes.size(), std::get<RangeRequest>(op));
      if (!r) {
        // Only SQLite can fail here, and the changes before it are staged: give the group up.
        if (!changes.empty()) g.fatal = r.error();
        return tl::unexpected<Error>(r.error());
      }
      results.emplace_back(std::move(*r));
    }
  }
  if (auto s = log(g, std::move(changes), std::move(who)); !s) return tl::unexpected<Error>(s.error());
  return results;
}

Result<TxnResult> Kv::Impl::txn(Group& g, TxnRequest request, std::optional<Then> of_move) {
  if (auto s = check(request); !s) return tl::unexpected<Error>(s.error());
  TxnResult result;
  result.succeeded =
      std::all_of(request.compare.begin(), request.compare.end(), [&](const Compare& c) { return holds(c, g.staged); });
  auto& ops = result.succeeded ? request.success : request.failure;
  if (!of_move)
    if (auto s = writable(g, ops); !s) return tl::unexpected<Error>(s.error());
  if (auto s = precheck(g, ops); !s) return tl::unexpected<Error>(s.error());
  if (of_move && result.succeeded)
    if (auto s = set_frozen(g, *of_move); !s) return tl::unexpected<Error>(s.error());
  auto responses = perform(g, std::move(ops), std::move(request.who));
  if (!responses) {
    if (of_move && !g.fatal) g.fatal = responses.error();  // its new state is staged already
    return tl::unexpected<Error>(responses.error());
  }
  result.responses = std::move(*responses);
  result.revision = g.revision;
  return result;
}

namespace {

class Scope final : public WriteScope {
 public:
  Scope(Db& db, const Group& g) : db_(db), g_(g) {}
  Db& db() override { return db_; }
  Result<RangeResult> range(const RangeRequest& request) const override {
    if (auto s = check(request); !s) return tl::unexpected<Error>(s.error());
    if (request.revision != 0) return fail(Errc::invalid, "a range inside a write reads the present only");
    const auto selected = select(request, [&](const std::function<bool(const KvPtr&)>& f) {
      g_.staged.each({request.key, request.range_end}, f);
    });
    return materialise(request, selected, g_.revision);
  }
  std::optional<KeyValue> get(std::string_view key) const override {
    const auto kv = g_.staged.get(key);
    return kv ? std::optional<KeyValue>(*kv) : std::nullopt;
  }
  Revision revision() const override { return g_.revision; }

 private:
  Db& db_;
  const Group& g_;
};

}  // namespace

Result<TxnResult> Kv::Impl::txn_with(Group& g, const WriteFunction& f) {
  if (!begin(g)) return tl::unexpected<Error>(*g.fatal);
  auto savepoint = Savepoint::begin(*db);
  if (!savepoint) return tl::unexpected<Error>(fatal(g, savepoint.error()).error());
  Scope scope(*db, g);
  Result<TxnRequest> request = fail(Errc::internal, "not run");
  try {
    request = f(scope);
  } catch (const std::exception& e) {
    request = fail(Errc::internal, "a write function threw: {}", e.what());
  }
  if (!db->in_transaction()) {
    // SQLite gave the whole transaction up (disk full, I/O), or f ended it: nothing of the group is kept.
    auto e = request ? Error{Errc::internal, "a write function ended the transaction"} : request.error();
    return tl::unexpected<Error>(fatal(g, std::move(e)).error());
  }
  if (!request) return tl::unexpected<Error>(request.error());
  if (auto s = check(*request); !s) return tl::unexpected<Error>(s.error());
  for (const auto& op : request->failure)
    if (!std::holds_alternative<RangeRequest>(op))
      return fail(Errc::invalid, "the failure branch of a write with SQL may only read");
  const bool succeeded = std::all_of(request->compare.begin(), request->compare.end(),
                                     [&](const Compare& c) { return holds(c, g.staged); });
  auto& ops = succeeded ? request->success : request->failure;
  if (auto s = writable(g, ops); !s) return tl::unexpected<Error>(s.error());
  if (auto s = precheck(g, ops); !s) return tl::unexpected<Error>(s.error());
  if (succeeded)
    if (auto s = savepoint->release(); !s) return tl::unexpected<Error>(fatal(g, s.error()).error());
  auto responses = perform(g, std::move(ops), std::move(request->who));
  if (!responses) {
    // The savepoint is gone: what the SQL did can only be undone with the group.
    if (succeeded && !g.fatal) g.fatal = responses.error();
    return tl::unexpected<Error>(responses.error());
  }
  TxnResult result;
  result.succeeded = succeeded;
  result.responses = std::move(*responses);
  result.revision = g.revision;
  return result;
}

Result<Revision> Kv::Impl::compact(Group& g, Revision to) {
  if (to <= g.compacted)
    return fail(Errc::compacted, "revision {} has been compacted, the oldest is {}", to, g.compacted);
  if (to > g.revision)
    return fail(Errc::invalid, "required revision {} is a future revision, the newest is {}", to, g.revision);
  if (!begin(g)) return tl::unexpected<Error>(*g.fatal);
  if (auto s = compact_log(*db, g.compacted, to); !s) return tl::unexpected<Error>(fatal(g, s.error()).error());
  g.compacted = to;
  return g.revision;
}

// ---- leases

Result<LeaseInfo> Kv::Impl::grant(Group& g, std::int64_t ttl_s, LeaseId id) {
  if (auto s = writable(g); !s) return tl::unexpected<Error>(s.error());
  if (ttl_s > kMaxLeaseTtl_s) return fail(Errc::invalid, "too large lease TTL: {} s", ttl_s);
  if (id != 0 && lease_there(g, id)) return fail(Errc::exists, "lease already exists: {}", id);
  while (id == 0 || lease_there(g, id)) id = static_cast<LeaseId>(random() >> 1);
  const auto granted = std::max(ttl_s, kMinLeaseTtl_s);
  if (!begin(g)) return tl::unexpected<Error>(*g.fatal);
  if (auto s = db->run("INSERT OR REPLACE INTO kv_lease(id, ttl_s) VALUES(?1, ?2)", id, granted); !s)
    return tl::unexpected<Error>(fatal(g, s.error()).error());
  g.leases[id] = granted;
  return LeaseInfo{.id = id, .ttl_s = granted, .granted_ttl_s = granted, .keys = {}};
}

Result<LeaseInfo> Kv::Impl::keepalive(const Group& g, LeaseId id) {
  if (!lease_there(g, id)) return fail(Errc::not_found, "requested lease not found: {}", id);
  const auto it = leases.find(id);
  if (it == leases.end()) {
    const auto ttl_s = g.leases.at(id).value_or(0);  // granted in this very group
    return LeaseInfo{.id = id, .ttl_s = ttl_s, .granted_ttl_s = ttl_s, .keys = {}};
  }
  it->second.expiry = clock->now() + std::chrono::seconds(it->second.ttl_s);
  return LeaseInfo{.id = id, .ttl_s = it->second.ttl_s, .granted_ttl_s = it->second.ttl_s, .keys = {}};
}

LeaseInfo Kv::Impl::time_to_live(const Group& g, LeaseId id, bool keys) {
  LeaseInfo info{.id = id, .ttl_s = -1, .granted_ttl_s = 0, .keys = {}};
  if (!lease_there(g, id)) return info;
  const auto it = leases.find(id);
  if (it == leases.end()) {
    info.ttl_s = info.granted_ttl_s = g.leases.at(id).value_or(0);
  } else {
    const auto left = std::chrono::floor<std::chrono::seconds>(it->second.expiry - clock->now());
    info.ttl_s = std::max<std::int64_t>(left.count(), 0);
    info.granted_ttl_s = it->second.ttl_s;
  }
  if (!keys) return info;
  std::set<std::string, std::less<>> held;
  if (it != leases.end())
    for (const auto& key : it->second.keys)
      if (const auto kv = g.staged.get(key); kv && kv->lease == id) held.insert(key);
  for (const auto& [key, kv] : g.staged.changes())
    if (kv && kv->lease == id) held.insert(key);
  info.keys.assign(held.begin(), held.end());
  return info;
}

Status Kv::Impl::revoke(Group& g, LeaseId id, std::string_view why) {
  if (!lease_there(g, id)) return fail(Errc::not_found, "requested lease not found: {}", id);
  if (!begin(g)) return tl::unexpected<Error>(*g.fatal);
  if (auto s = db->run("DELETE FROM kv_lease WHERE id = ?1", id); !s) return fatal(g, s.error());
  std::vector<ChangePtr> changes;
  for (const auto& key : time_to_live(g, id, true).keys) {
    DeleteRequest one{.key = key, .range_end = {}};
    (void)del(g, changes, one);
  }
  g.leases[id] = std::nullopt;
  return log(g, std::move(changes), fmt::format("lease {:x} {}", id, why));
}

// ---- the Datastore interface

Result<RangeResult> Kv::Impl::range_now(const RangeRequest& request) const {
  Selected selected;
  Revision now = 0;
  {
    std::lock_guard lock(index_mutex);
    now = revision;
    const Staged view(index);
    selected = select(request, [&](const std::function<bool(const KvPtr&)>& f) {
      view.each({request.key, request.range_end}, f);
    });
  }
  return materialise(request, selected, now);
}

awaitable<Result<ServerStatus>> Kv::status() {
  ServerStatus s;
  s.cluster_id = impl_->cluster_id;
  s.member_id = impl_->member_id;
  s.revision = revision();
  s.version = "3.4.0+calico-node." CALICO_VERSION;
  co_return s;
}

awaitable<Result<RangeResult>> Kv::range(RangeRequest request) {
  auto impl = impl_;
  if (auto s = check(request); !s) co_return tl::unexpected<Error>(s.error());
  if (request.revision > 0) {
    Revision now = 0;
    Revision oldest = 0;
    {
      std::lock_guard lock(impl->index_mutex);
      now = impl->revision;
      oldest = impl->compacted;
    }
    if (request.revision > now)
      co_return fail(Errc::invalid, "required revision {} is a future revision, the newest is {}", request.revision,
                     now);
    if (request.revision < oldest)
      co_return fail(Errc::compacted, "revision {} has been compacted, the oldest is {}", request.revision, oldest);
    if (request.revision < now) {
      std::function<Result<RangeResult>(Db&)> f = [request](Db& db) { return range_at(db, request); };
      co_return co_await impl->read<RangeResult>(std::move(f));
    }
  }
  co_return impl->range_now(request);
}

awaitable<Result<PutResult>> Kv::put(PutRequest request) {
  auto impl = impl_;
  if (auto s = check(request); !s) co_return tl::unexpected<Error>(s.error());
  auto shared = std::make_shared<PutRequest>(std::move(request));
  std::function<Result<PutResult>(Group&)> f = [raw = impl.get(), shared](Group& g) -> Result<PutResult> {
    if (auto s = raw->writable(g); !s) return tl::unexpected<Error>(s.error());
    if (shared->lease != 0 && !raw->lease_there(g, shared->lease))
      return fail(Errc::not_found, "requested lease not found: {}", shared->lease);
    if (auto s = raw->precheck(g, *shared); !s) return tl::unexpected<Error>(s.error());
    std::vector<ChangePtr> changes;
    auto who = std::move(shared->who);
    auto result = raw->put(g, changes, std::move(*shared));
    if (auto s = raw->log(g, std::move(changes), std::move(who)); !s) return tl::unexpected<Error>(s.error());
    return result;
  };
  co_return co_await impl->ask<PutResult>(std::move(f));
}

awaitable<Result<DeleteResult>> Kv::del(DeleteRequest request) {
  auto impl = impl_;
  if (auto s = check(request); !s) co_return tl::unexpected<Error>(s.error());
  auto shared = std::make_shared<DeleteRequest>(std::move(request));
  std::function<Result<DeleteResult>(Group&)> f = [raw = impl.get(), shared](Group& g) -> Result<DeleteResult> {
    if (auto s = raw->writable(g); !s) return tl::unexpected<Error>(s.error());
    std::vector<ChangePtr> changes;
    auto result = raw->del(g, changes, *shared);
    if (auto s = raw->log(g, std::move(changes), std::move(shared->who)); !s) return tl::unexpected<Error>(s.error());
    return result;
  };
  co_return co_await impl->ask<DeleteResult>(std::move(f));
}

awaitable<Result<TxnResult>> Kv::txn(TxnRequest request) {
  auto impl = impl_;
  if (auto s = check(request); !s) co_return tl::unexpected<Error>(s.error());
  auto shared = std::make_shared<TxnRequest>(std::move(request));
  std::function<Result<TxnResult>(Group&)> f = [raw = impl.get(), shared](Group& g) {
    return raw->txn(g, std::move(*shared));
  };
  co_return co_await impl->ask<TxnResult>(std::move(f));
}

awaitable<Result<TxnResult>> Kv::txn_with(WriteFunction f) {
  auto impl = impl_;
  std::function<Result<TxnResult>(Group&)> job = [raw = impl.get(), f = std::move(f)](Group& g) {
    return raw->txn_with(g, f);
  };
  co_return co_await impl->ask<TxnResult>(std::move(job));
}

awaitable<Result<Revision>> Kv::compact(Revision revision) {
  auto impl = impl_;
  std::function<Result<Revision>(Group&)> f = [raw = impl.get(), revision](Group& g) -> Result<Revision> {
    if (auto s = raw->writable(g); !s) return tl::unexpected<Error>(s.error());
    return raw->compact(g, revision);
  };
  co_return co_await impl->ask<Revision>(std::move(f));
}

awaitable<Result<LeaseInfo>> Kv::lease_grant(std::int64_t ttl_s, LeaseId id) {
  auto impl = impl_;
  std::function<Result<LeaseInfo>(Group&)> f = [raw = impl.get(), ttl_s, id](Group& g) {
    return raw->grant(g, ttl_s, id);
  };
  co_return co_await impl->ask<LeaseInfo>(std::move(f));
}

awaitable<Result<LeaseInfo>> Kv::lease_keepalive(LeaseId id) {
  auto impl = impl_;
  std::function<Result<LeaseInfo>(Group&)> f = [raw = impl.get(), id](Group& g) { return raw->keepalive(g, id); };
  co_return co_await impl->ask<LeaseInfo>(std::move(f), false);
}

awaitable<Status> Kv::lease_revoke(LeaseId id) {
  auto impl = impl_;
  std::function<Status(Group&)> f = [raw = impl.get(), id](Group& g) -> Status {
    if (auto s = raw->writable(g); !s) return s;
    return raw->revoke(g, id, "revoked");
  };
  co_return co_await impl->ask<void>(std::move(f));
}

awaitable<Result<LeaseInfo>> Kv::lease_time_to_live(LeaseId id, bool keys) {
  auto impl = impl_;
  std::function<Result<LeaseInfo>(Group&)> f = [raw = impl.get(), id, keys](Group& g) -> Result<LeaseInfo> {
    return raw->time_to_live(g, id, keys);
  };
  co_return co_await impl->ask<LeaseInfo>(std::move(f), false);
}

awaitable<Result<std::vector<LeaseId>>> Kv::leases() {
  auto impl = impl_;
  std::function<Result<std::vector<LeaseId>>(Group&)> f = [raw = impl.get()](Group& g) -> Result<std::vector<LeaseId>> {
    std::set<LeaseId> ids;
    for (const auto& [id, lease] : raw->leases) ids.insert(id);
    for (const auto& [id, ttl_s] : g.leases) {
      if (ttl_s)
        ids.insert(id);
      else
        ids.erase(id);
    }
    return std::vector<LeaseId>(ids.begin(), ids.end());
  };
  co_return co_await impl->ask<std::vector<LeaseId>>(std::move(f), false);
}

awaitable<Status> Kv::freeze(std::string why) {
  auto impl = impl_;
  std::function<Status(Group&)> f = [raw = impl.get(), why = std::move(why)](Group& g) -> Status {
    if (raw->writable(g)) g.frozen = why;  // who was frozen for good stays so
    return {};
  };
  co_return co_await impl->ask<void>(std::move(f));
}

awaitable<Status> Kv::thaw() {
  auto impl = impl_;
  std::function<Status(Group&)> f = [raw = impl.get()](Group& g) -> Status {
    return raw->writable(g) ? Status{} : raw->set_frozen(g, Then::thawed);
  };
  co_return co_await impl->ask<void>(std::move(f));
}

awaitable<Result<TxnResult>> Kv::txn_of_move(TxnRequest request, Then then) {
  auto impl = impl_;
  if (auto s = check(request); !s) co_return tl::unexpected<Error>(s.error());
  auto shared = std::make_shared<TxnRequest>(std::move(request));
  std::function<Result<TxnResult>(Group&)> f = [raw = impl.get(), shared, then](Group& g) {
    return raw->txn(g, std::move(*shared), then);
  };
  co_return co_await impl->ask<TxnResult>(std::move(f));
}

std::string Kv::frozen() const {
  std::lock_guard lock(impl_->index_mutex);
  return impl_->frozen;
}

Result<std::unique_ptr<KvWatch>> Kv::watch_shared(WatchRequest request) {
  auto state = impl_->hub->add(std::move(request));
  if (!state) return tl::unexpected<Error>(state.error());
  return std::make_unique<KvWatch>(std::move(*state));
}

awaitable<Result<std::unique_ptr<Watch>>> Kv::watch(WatchRequest request) {
  auto w = watch_shared(std::move(request));
  if (!w) co_return tl::unexpected<Error>(w.error());
  co_return std::unique_ptr<Watch>(std::move(*w));
}

Revision Kv::revision() const {
  std::lock_guard lock(impl_->index_mutex);
  return impl_->revision;
}
std::uint64_t Kv::cluster_id() const { return impl_->cluster_id; }
std::uint64_t Kv::member_id() const { return impl_->member_id; }
Revision Kv::restored_from() const { return impl_->restored_from; }

Kv::Stats Kv::stats() const {
  Stats s;
  {
    std::lock_guard lock(impl_->index_mutex);
    s = impl_->counters;
    s.keys = impl_->index.size();
    s.compacted = impl_->compacted;
  }
  s.watchers = impl_->hub->size();
  for (const auto* suffix : {"", "-wal"}) {
    std::error_code ec;
    const auto bytes = std::filesystem::file_size(impl_->options.path + suffix, ec);
    if (!ec) s.file_bytes += bytes;
  }
  return s;
}

void Kv::wake_for_test() {
  {
    std::lock_guard lock(impl_->queue_mutex);
    impl_->poked = true;
  }
  impl_->queue_wake.notify_one();
}

}  // namespace calico::store
