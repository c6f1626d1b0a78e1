#include "core/store/kv_watch.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>

namespace calico::store {
namespace asio = boost::asio;
namespace {

std::size_t cost(const Change& c) {
  return sizeof(Change) + sizeof(KeyValue) + c.kv->key.size() + c.kv->value.size() +
         (c.prev ? c.prev->value.size() : 0);
}

}  // namespace

Result<std::shared_ptr<KvWatch::State>> Hub::add(WatchRequest request) {
  if (request.key.empty()) request.key = std::string(1, '\0');
  const KeySpan span{request.key, request.range_end};
  if (!span.single() && !span.open() && span.end <= span.key)
    return fail(Errc::invalid, "watch: the range is empty (its end is not after its key)");
  if (request.start_revision < 0) return fail(Errc::invalid, "watch: revision {} is negative", request.start_revision);
  auto w = std::make_shared<KvWatch::State>();
  w->hub = shared_from_this();
  w->key = std::move(request.key);
  w->end = std::move(request.range_end);
  w->prev = request.prev_kv;
  w->progress = request.progress_notify;
  std::lock_guard lock(mutex_);
  if (stopped_) return fail(Errc::closed, "the datastore is stopping");
  w->created_at = published_;
  w->next = request.start_revision > 0 ? request.start_revision : published_ + 1;
  w->live = w->next > published_;
  watchers_.insert(w.get());
  return w;
}

void Hub::remove(KvWatch::State* watcher) {
  std::lock_guard lock(mutex_);
  watchers_.erase(watcher);
  watcher->queue.clear();
}

std::size_t Hub::size() const {
  std::lock_guard lock(mutex_);
  return watchers_.size();
}

void Hub::wake(KvWatch::State& w) {
  if (w.sleeper.expired()) return;
  // An expiry in the past ends the wait under way and one that is only about to begin.
  asio::post(w.executor, [weak = std::exchange(w.sleeper, {})] {
    if (auto timer = weak.lock()) timer->expires_at(asio::steady_timer::time_point::min());
  });
}

void Hub::overflow(KvWatch::State& w) {
  w.next = w.queue.empty() ? w.next : w.queue.front().revision;
  w.queue.clear();
  w.events = w.bytes = 0;
  w.live = false;
}

void Hub::publish(const std::vector<Revised>& revisions, Revision now) {
  std::lock_guard lock(mutex_);
  for (auto* w : watchers_) {
    if (!w->live) continue;
    const auto span = w->span();
    bool news = false;
    for (const auto& r : revisions) {
      if (r.revision < w->next) continue;
      Revised mine{r.revision, {}};
      for (const auto& c : r.changes) {
        if (!span.contains(c->kv->key)) continue;
        w->bytes += cost(*c);
        mine.changes.push_back(c);
      }
      if (mine.changes.empty()) continue;
      w->events += mine.changes.size();
      w->queue.push_back(std::move(mine));
      news = true;
      if (w->events > options_.watch_events || w->bytes > options_.watch_bytes) {
        overflow(*w);
        break;
      }
    }
    if (news) wake(*w);
  }
  published_ = now;
}

void Hub::stop() {
  std::lock_guard lock(mutex_);
  stopped_ = true;
  for (auto* w : watchers_) {
    w->closed = true;
    wake(*w);
  }
}

awaitable<Result<SharedBatch>> Hub::next(std::shared_ptr<KvWatch::State> w) {
  if (w->dead) co_return tl::unexpected<Error>(*w->dead);
  const auto executor = co_await asio::this_coro::executor;
  auto timer = std::make_shared<asio::steady_timer>(executor);
  const auto deadline = std::chrono::steady_clock::now() + options_.progress_interval;
  for (;;) {
    Revision from = 0;  // not 0: read the history from here
    {
      std::lock_guard lock(mutex_);
      if (w->closed) {
        w->dead = Error{Errc::closed, "the datastore is stopping"};
        co_return tl::unexpected<Error>(*w->dead);
      }
      if (!w->queue.empty()) {
        SharedBatch batch;
        for (auto& r : w->queue) {
          batch.revision = r.revision;
          std::move(r.changes.begin(), r.changes.end(), std::back_inserter(batch.changes));
        }
        w->queue.clear();
        w->events = w->bytes = 0;
        w->next = batch.revision + 1;
        co_return batch;
      }
      if (!w->live) {
        from = w->next;
      } else {
        if (w->progress && std::chrono::steady_clock::now() >= deadline) {
          // A watch that starts in the future has nothing to say about the present.
          SharedBatch batch;
          batch.revision = published_;
          w->next = std::max(w->next, published_ + 1);
          co_return batch;
        }
        timer->expires_at(w->progress ? deadline : asio::steady_timer::time_point::max());
        w->executor = executor;
        w->sleeper = timer;
      }
    }
    if (from == 0) {
      // Cancellation of the coroutine ends the wait; the next co_await then unwinds.
      co_await timer->async_wait(asio::as_tuple(asio::use_awaitable));
      continue;
    }
    auto start = [this, w, from](Done<Result<HistoryChunk>> done) { read_(w, from, std::move(done)); };
    auto chunk = co_await await_done<Result<HistoryChunk>>(std::move(start));
    if (!chunk) {
      w->dead = chunk.error();
      co_return tl::unexpected<Error>(*w->dead);
    }
    if (chunk->compacted != 0) {
      w->compacted = chunk->compacted;
      w->dead = Error{Errc::compacted,
                      fmt::format("watch: revision {} has been compacted, the oldest is {}", from, chunk->compacted)};
      co_return tl::unexpected<Error>(*w->dead);
    }
    {
      std::lock_guard lock(mutex_);
      w->next = chunk->upto + 1;
      w->live = w->next > published_;
    }
    if (!chunk->changes.empty()) {
      SharedBatch batch;
      batch.revision = chunk->upto;
      batch.changes = std::move(chunk->changes);
      co_return batch;
    }
  }
}

// ---- KvWatch

KvWatch::KvWatch(std::shared_ptr<State> state) : state_(std::move(state)) {}

KvWatch::~KvWatch() { state_->hub->remove(state_.get()); }

Revision KvWatch::compacted_at() const { return state_->compacted; }
Revision KvWatch::created_at() const { return state_->created_at; }

awaitable<Result<SharedBatch>> KvWatch::next_shared() {
  auto state = state_;
  co_return co_await state->hub->next(state);
}

awaitable<Result<WatchBatch>> KvWatch::next() {
  auto state = state_;
  auto shared = co_await state->hub->next(state);
  if (!shared) co_return tl::unexpected<Error>(shared.error());
  WatchBatch batch;
  batch.revision = shared->revision;
  batch.events.reserve(shared->changes.size());
  for (const auto& c : shared->changes) {
    Event e{.type = c->type, .kv = *c->kv, .prev = std::nullopt};
    if (state->prev && c->prev) e.prev = *c->prev;
    batch.events.push_back(std::move(e));
  }
  co_return batch;
}

}  // namespace calico::store
