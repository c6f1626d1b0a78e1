#pragma once
/// A datastore in memory whose accidents a test directs: away, wiped, compacted, silent. Its answers are etcd's; what
/// it leaves out (sorting, nested ranges) sync does not use. Thread: any.
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>

#include "core/store/datastore.hpp"

namespace calico::test {

class FakeDatastore final : public store::Datastore {
 public:
  using Revision = store::Revision;
  using KeyValue = store::KeyValue;
  template <class T>
  using awaitable = boost::asio::awaitable<T>;

  explicit FakeDatastore(std::uint64_t cluster_id = 7) : cluster_id_(cluster_id) {}

  // ---- what a test does to it

  void set_down(bool down) {
    std::lock_guard lock(m_);
    down_ = down;
    if (down) end_watches(Errc::unavailable);
  }
  /// A new data directory: all keys and the history are gone, the cluster id stays, the revision begins anew.
  void wipe() {
    std::lock_guard lock(m_);
    end_watches(Errc::closed);
    keys_.clear();
    history_.clear();
    leases_.clear();
    revision_ = 1;
    compacted_ = 0;
  }
  /// What `etcdctl snapshot save` keeps: the keys with their revisions, and no log.
  struct Backup {
    std::map<std::string, store::KeyValue> keys;
    std::deque<store::Event> history;
    store::Revision revision = 0;
  };
  Backup backup() const {
    std::lock_guard lock(m_);
    return {keys_, history_, revision_};
  }
  /// A cluster made from it: the same cluster id, the revision goes on, the log begins anew.
  void restore(const Backup& b) {
    std::lock_guard lock(m_);
    end_watches(Errc::closed);
    keys_ = b.keys;
    history_ = b.history;
    leases_.clear();
    revision_ = b.revision;
    log_before_ = 4 - b.revision;
  }
  /// A real etcd says how long its log is: at least its revision.
  void tell_log() {
    std::lock_guard lock(m_);
    log_before_ = 9;
  }
  /// Every open watch has heard nothing for its 30 s.
  void silence() {
    std::lock_guard lock(m_);
    end_watches(Errc::timeout);
  }
  /// No watch hears of changes any more, as on a connection that died silently.
  void set_deaf(bool deaf) {
    std::lock_guard lock(m_);
    deaf_ = deaf;
  }
  void drop_lease(store::LeaseId id) {
    std::lock_guard lock(m_);
    expire(id);
  }
  /// The next transactions fail with this.
  void fail_txn(std::optional<Errc> code) {
    std::lock_guard lock(m_);
    txn_error_ = code;
  }
  /// A value that contains this text is too large for it.
  void refuse_text(std::string text) {
    std::lock_guard lock(m_);
    refused_text_ = std::move(text);
  }

  struct Calls {
    int status = 0, range = 0, txn = 0, watch = 0, grant = 0, keepalive = 0;
    std::size_t biggest_txn = 0;
  };
  Calls calls() const {
    std::lock_guard lock(m_);
    return calls_;
  }

  // ---- Datastore

  awaitable<Result<store::ServerStatus>> status() override {
    std::lock_guard lock(m_);
    ++calls_.status;
    if (down_) co_return away();
    store::ServerStatus s;
    s.cluster_id = cluster_id_;
    s.revision = revision_;
    if (log_before_) s.raft_index = revision_ + *log_before_;
    s.version = "fake";
    co_return s;
  }

  awaitable<Result<store::RangeResult>> range(store::RangeRequest r) override {
    std::lock_guard lock(m_);
    ++calls_.range;
    if (down_) co_return away();
    co_return range_now(r);
  }

  awaitable<Result<store::PutResult>> put(store::PutRequest r) override {
    std::lock_guard lock(m_);
    if (down_) co_return away();
    if (r.lease && !leases_.contains(r.lease)) co_return fail(Errc::not_found, "no such lease");
    ++revision_;
    do_put(r);
    notify();
    store::PutResult out;
    out.revision = revision_;
    co_return out;
  }

  awaitable<Result<store::DeleteResult>> del(store::DeleteRequest r) override {
    std::lock_guard lock(m_);
    if (down_) co_return away();
    ++revision_;
    store::DeleteResult out;
    out.deleted = do_del(r);
    if (out.deleted == 0) --revision_;
    out.revision = revision_;
    notify();
    co_return out;
  }

  awaitable<Result<store::TxnResult>> txn(store::TxnRequest r) override {
    std::lock_guard lock(m_);
    ++calls_.txn;
    calls_.biggest_txn = std::max(calls_.biggest_txn, r.success.size());
    if (down_) co_return away();
    if (txn_error_) co_return fail(*txn_error_, "as the test wants");
    if (r.success.size() > 128) co_return fail(Errc::invalid, "too many operations");
    store::TxnResult out;
    out.succeeded = true;
    for (const auto& c : r.compare) {
      const auto it = keys_.find(c.key);
      const bool there = it != keys_.end();
      const auto number = c.target == store::Compare::Target::version ? (there ? it->second.version : 0)
                                                                      : (there ? it->second.mod_revision : 0);
      out.succeeded = out.succeeded && number == c.number;
    }
    const auto& ops = out.succeeded ? r.success : r.failure;
    for (const auto& op : ops)
      if (const auto* p = std::get_if<store::PutRequest>(&op)) {
        if (p->lease && !leases_.contains(p->lease)) co_return fail(Errc::not_found, "no such lease");
        if (!refused_text_.empty() && p->value.find(refused_text_) != std::string::npos)
          co_return fail(Errc::exhausted, "request is too large");
      }
    const auto before = history_.size();
    ++revision_;
    for (const auto& op : ops) {
      if (const auto* g = std::get_if<store::RangeRequest>(&op)) {
        out.responses.emplace_back(*range_now(*g));
      } else if (const auto* p = std::get_if<store::PutRequest>(&op)) {
        do_put(*p);
        out.responses.emplace_back(store::PutResult{});
      } else {
        do_del(std::get<store::DeleteRequest>(op));
        out.responses.emplace_back(store::DeleteResult{});
      }
    }
    if (history_.size() == before) --revision_;
    out.revision = revision_;
    notify();
    co_return out;
  }

  awaitable<Result<Revision>> compact(Revision r) override {
    std::lock_guard lock(m_);
    compacted_ = std::max(compacted_, r);
    co_return revision_;
  }

  awaitable<Result<store::LeaseInfo>> lease_grant(std::int64_t ttl_s, store::LeaseId) override {
    std::lock_guard lock(m_);
    ++calls_.grant;
    if (down_) co_return away();
    store::LeaseInfo info;
    info.id = ++last_lease_;
    info.ttl_s = info.granted_ttl_s = ttl_s;
    leases_[info.id] = ttl_s;
    co_return info;
  }
  awaitable<Result<store::LeaseInfo>> lease_keepalive(store::LeaseId id) override {
    std::lock_guard lock(m_);
    ++calls_.keepalive;
    if (down_) co_return away();
    store::LeaseInfo info;
    info.id = id;
    info.ttl_s = leases_.contains(id) ? leases_[id] : -1;
    co_return info;
  }
  awaitable<Status> lease_revoke(store::LeaseId id) override {
    std::lock_guard lock(m_);
    expire(id);
    co_return Status{};
  }
  awaitable<Result<store::LeaseInfo>> lease_time_to_live(store::LeaseId id, bool) override {
    std::lock_guard lock(m_);
    store::LeaseInfo info;
    info.id = id;
    info.ttl_s = leases_.contains(id) ? leases_[id] : -1;
    co_return info;
  }

  awaitable<Result<std::unique_ptr<store::Watch>>> watch(store::WatchRequest r) override {
    auto executor = co_await boost::asio::this_coro::executor;
    std::lock_guard lock(m_);
    ++calls_.watch;
    if (down_) co_return away();
    auto state = std::make_shared<WatchState>(executor, r, r.start_revision ? r.start_revision : revision_ + 1);
    if (state->next <= compacted_) co_return fail(Errc::compacted, "compacted at {}", compacted_);
    watches_.push_back(state);
    fill(*state);
    std::unique_ptr<store::Watch> out = std::make_unique<OpenWatch>(*this, state);
    co_return out;
  }

 private:
  struct WatchState {
    WatchState(const boost::asio::any_io_executor& ex, store::WatchRequest r, Revision n)
        : executor(ex), timer(ex, std::chrono::steady_clock::time_point::max()), request(std::move(r)), next(n) {}
    boost::asio::any_io_executor executor;
    boost::asio::steady_timer timer;
    store::WatchRequest request;
    Revision next;  // what it waits for
    std::deque<store::WatchBatch> waiting;
    std::optional<Errc> ended;
  };

  class OpenWatch final : public store::Watch {
   public:
    OpenWatch(FakeDatastore& owner, std::shared_ptr<WatchState> s) : owner_(owner), s_(std::move(s)) {}
    // The timer belongs to the watcher's loop and must not outlive it here.
    ~OpenWatch() override {
      std::lock_guard lock(owner_.m_);
      std::erase(owner_.watches_, s_);
    }
    awaitable<Result<store::WatchBatch>> next() override {
      for (;;) {
        {
          std::lock_guard lock(owner_.m_);
          if (!s_->waiting.empty()) {
            auto batch = std::move(s_->waiting.front());
            s_->waiting.pop_front();
            co_return batch;
          }
          if (s_->ended) co_return fail(*s_->ended, "the watch ended");
        }
        (void)co_await s_->timer.async_wait(boost::asio::as_tuple(boost::asio::use_awaitable));
      }
    }

   private:
    FakeDatastore& owner_;
    std::shared_ptr<WatchState> s_;
  };

  static tl::unexpected<Error> away() { return fail(Errc::unavailable, "connection refused"); }

  static bool covers(const std::string& key, const std::string& range_end, const std::string& k) {
    if (range_end.empty()) return k == key;
    if (range_end == std::string(1, '\0')) return k >= key;
    return k >= key && k < range_end;
  }

  std::map<std::string, KeyValue> at(Revision r) const {
    std::map<std::string, KeyValue> out;
    for (const auto& e : history_) {
      if (e.kv.mod_revision > r) break;
      if (e.type == store::Event::Type::put)
        out[e.kv.key] = e.kv;
      else
        out.erase(e.kv.key);
    }
    return out;
  }

  Result<store::RangeResult> range_now(const store::RangeRequest& r) const {
    if (r.revision > revision_) return fail(Errc::invalid, "required revision is a future revision");
    if (r.revision != 0 && r.revision < compacted_) return fail(Errc::compacted, "compacted at {}", compacted_);
    store::RangeResult out;
    out.revision = revision_;
    for (const auto& [k, kv] : r.revision ? at(r.revision) : keys_) {
      if (!covers(r.key, r.range_end, k)) continue;
      ++out.count;
      if (r.limit && static_cast<std::int64_t>(out.kvs.size()) == r.limit)
        out.more = true;
      else
        out.kvs.push_back(kv);
    }
    return out;
  }

  void do_put(const store::PutRequest& r) {
    auto& kv = keys_[r.key];
    if (kv.version == 0) kv.create_revision = revision_;
    kv.key = r.key;
    kv.value = r.value;
    kv.mod_revision = revision_;
    kv.lease = r.lease;
    ++kv.version;
    history_.push_back({store::Event::Type::put, kv, std::nullopt});
  }
  std::int64_t do_del(const store::DeleteRequest& r) {
    std::int64_t n = 0;
    for (auto it = keys_.begin(); it != keys_.end();) {
      if (covers(r.key, r.range_end, it->first)) {
        store::Event e;
        e.type = store::Event::Type::del;
        e.kv.key = it->first;
        e.kv.mod_revision = revision_;
        history_.push_back(std::move(e));
        it = keys_.erase(it);
        ++n;
      } else {
        ++it;
      }
    }
    return n;
  }
  void expire(store::LeaseId id) {
    if (leases_.erase(id) == 0) return;
    ++revision_;
    for (auto it = keys_.begin(); it != keys_.end();) {
      const auto now = it++;
      if (now->second.lease != id) continue;
      store::DeleteRequest r;
      r.key = now->first;
      do_del(r);
    }
    notify();
  }

  void fill(WatchState& w) {
    store::WatchBatch batch;
    for (const auto& e : history_)
      if (e.kv.mod_revision >= w.next && covers(w.request.key, w.request.range_end, e.kv.key))
        batch.events.push_back(e);
    w.next = std::max(w.next, revision_ + 1);
    batch.revision = revision_;
    if (batch.events.empty()) return;
    w.waiting.push_back(std::move(batch));
    wake(w);
  }
  void wake(WatchState& w) {
    for (const auto& s : watches_)
      if (s.get() == &w) boost::asio::post(w.executor, [s] { s->timer.cancel(); });
  }
  void notify() {
    if (deaf_) return;
    for (const auto& w : watches_) fill(*w);
  }
  void end_watches(Errc code) {
    for (const auto& w : watches_) {
      w->ended = code;
      wake(*w);
    }
    watches_.clear();
  }

  mutable std::mutex m_;
  std::map<std::string, KeyValue> keys_;
  std::deque<store::Event> history_;
  std::map<store::LeaseId, std::int64_t> leases_;
  std::list<std::shared_ptr<WatchState>> watches_;
  Revision revision_ = 1, compacted_ = 0;
  store::LeaseId last_lease_ = 100;
  bool down_ = false, deaf_ = false;
  std::optional<Errc> txn_error_;
  std::string refused_text_;
  std::optional<std::int64_t> log_before_;
  Calls calls_;
  const std::uint64_t cluster_id_;
};

}  // namespace calico::test
