#include "core/sync/replicator.hpp"

#include <algorithm>
#include <boost/json.hpp>

#include "core/log/log.hpp"
#include "core/model/keys.hpp"
#include "core/sync/follower.hpp"

namespace calico::sync {
namespace {

using boost::asio::awaitable;
using store::Revision;
using Clock = std::chrono::steady_clock;

/// A session that ended sooner than this is not begun again at once, whatever the cause.
constexpr auto kShortSession = std::chrono::seconds(2);
/// Revision and log are read one after the other: entries in between make the lead a little too large, once.
constexpr std::int64_t kLeadSlack = 64;

}  // namespace

ClusterInfo parse_cluster_info(const store::KeyValue& kv) {
  ClusterInfo info;
  info.create_revision = kv.create_revision;
  boost::system::error_code ec;
  const auto json = boost::json::parse(kv.value, ec);
  if (ec || !json.is_object()) return info;
  const auto* spec = json.get_object().if_contains("spec");
  if (!spec || !spec->is_object()) return info;
  if (const auto* guid = spec->get_object().if_contains("clusterGUID"); guid && guid->is_string())
    info.guid = std::string(guid->get_string());
  if (const auto* ready = spec->get_object().if_contains("datastoreReady"); ready && ready->is_bool())
    info.ready = ready->get_bool();
  return info;
}

bool is_endpoint_of(std::string_view key, std::string_view node) {
  if (!key.starts_with(model::kWorkloadEndpoints)) return false;
  key.remove_prefix(model::kWorkloadEndpoints.size());
  const auto slash = key.find('/');
  if (slash == std::string_view::npos) return false;
  key.remove_prefix(slash + 1);
  // "<host>-<orchestrator>-…", every dash of the host doubled.
  for (const char c : node) {
    const std::string_view want = c == '-' ? std::string_view("--") : std::string_view(&c, 1);
    if (!key.starts_with(want)) return false;
    key.remove_prefix(want.size());
  }
  return key.size() > 1 && key[0] == '-' && key[1] != '-';
}

std::string damage(const Mirror::Content& list, const ClusterInfo& info, const Mirror& mirror, std::string_view node) {
  const auto identity = mirror.identity();
  if (!identity.ready) return {};
  if (!identity.cluster_guid.empty() && info.guid != identity.cluster_guid)
    return fmt::format("clusterGUID was {} and is {}: another cluster, or one set up anew", identity.cluster_guid,
                       info.guid.empty() ? "missing" : info.guid);
  std::size_t had = 0, lost = 0;
  for (const auto& kv : mirror.range(model::kWorkloadEndpoints)) {
    if (!is_endpoint_of(kv.key, node)) continue;
    ++had;
    if (!list.contains(kv.key)) ++lost;
  }
  if (lost > kMassRemoval && 2 * lost > had)
    return fmt::format("{} of the {} endpoints of {} are missing in the datastore", lost, had, node);
  return {};
}

struct Replicator::Session {
  explicit Session(const boost::asio::any_io_executor& ex) : changed(ex) {}
  Signal changed;
  std::size_t open = 0;
  Clock::time_point last = Clock::now();
  std::optional<Next> end;
};

Replicator::Replicator(store::Datastore& datastore, Mirror& mirror, const Options& options,
                       boost::asio::any_io_executor executor)
    : ds_(datastore), mirror_(mirror), options_(options), executor_(std::move(executor)), accepted_(executor_) {}

std::chrono::nanoseconds Replicator::jittered(std::chrono::nanoseconds d) {
  return std::chrono::nanoseconds(std::uniform_int_distribution<std::int64_t>(d.count() / 2, d.count())(random_));
}

Status Replicator::accept() {
  if (!refusing_) return fail(Errc::invalid, "nothing is refused: the node is {}", to_string(mirror_.state().phase));
  accept_ = true;
  accepted_.set();
  return {};
}

void Replicator::set_phase(Phase phase, std::string reason) {
  const bool now = phase == Phase::in_sync;
  mirror_.set_phase(phase, std::move(reason));
  if (now == in_sync_) return;
  in_sync_ = now;
  if (on_sync_) on_sync_(now, epoch_);
}

Replicator::Next Replicator::lost(const Error& error) {
  counters_.last_error = error.what;
  // What is refused stays refused: the datastore's absence is no reason to think better of it.
  if (refusing_) return Next::backoff;
  if (mirror_.identity().ready)
    set_phase(Phase::resyncing, fmt::format("last known state; datastore not reachable: {}", error.what));
  else
    set_phase(Phase::waiting, fmt::format("no snapshot yet; datastore not reachable: {}", error.what));
  return Next::backoff;
}

void Replicator::end_session() {
  const auto s = session_.lock();
  if (!s) return;
  if (!s->end) s->end = Next::soon;
  s->changed.set();
}

/// The cloud's datastore may have moved from here: one that is left says where to, also where it is not ready.
awaitable<bool> Replicator::led_elsewhere() {
  if (!follower_) co_return false;
  store::RangeRequest request;
  request.key = std::string(model::kDatastorePointer);
  auto pointer = co_await ds_.range(std::move(request));
  if (!pointer || pointer->kvs.empty()) co_return false;
  co_return co_await follower_->see(std::move(pointer->kvs.front().value));
}

awaitable<void> Replicator::run() {
  if (follower_) co_await follower_->begin();
  const std::chrono::nanoseconds min = options_.timing.retry_min, max = options_.timing.retry_max;
  auto wait = min;
  for (;;) {
    const auto began = Clock::now();
    const auto next = co_await session();
    const bool lasted = Clock::now() - began > kShortSession;
    // Never at once: what ended this session ended those of all other nodes in the same moment.
    if (next != Next::backoff || lasted) wait = min;
    const auto pause = jittered(wait);
    if (next == Next::backoff) wait = std::min(2 * wait, max);
    const bool slept = co_await sleep_for(pause);
    if (!slept) co_return;
  }
}

/// What shows at once that the datastore's past is not ours: a revision behind us (even if by the next look it has
/// caught up with our number), or a log that has begun anew under a revision that has not, as a restored backup's does.
void Replicator::look_for_another_past(const store::RangeResult& info, const store::ServerStatus& status) {
  const auto identity = mirror_.identity();
  log_lead_.reset();
  // `info` was read through the cluster's leader; a status is one member's own, and a member may lag.
  if (status.raft_index > 0 && status.revision >= info.revision) log_lead_ = status.raft_index - status.revision;
  if (!identity.ready) return;
  if (info.revision < mirror_.newest_revision()) went_back_ = force_list_ = true;
  if (status.cluster_id == identity.cluster_id && log_lead_ && identity.log_lead &&
      *log_lead_ + kLeadSlack < *identity.log_lead)
    went_back_ = force_list_ = true;
}

/// Our last revision is part of this datastore's history: same cluster, same creation of the cluster's information, not
/// behind us, and our newest key stood there then exactly as we have it. (A wiped etcd comes back with its cluster id,
/// and a watch from a revision it has not reached is silent for ever.)
awaitable<Result<bool>> Replicator::can_resume(store::RangeResult info_result, std::uint64_t cluster_id) {
  const auto identity = mirror_.identity();
  if (force_list_ || !identity.ready || cluster_id != identity.cluster_id) co_return false;
  const auto newest = mirror_.newest();
  if (!newest) co_return false;
  Revision at = 0;
  for (std::size_t i = 0; i < mirror_.prefixes().size(); ++i) {
    if (mirror_.revision(i) == 0) co_return false;
    if (newest->key.starts_with(mirror_.prefixes()[i])) at = mirror_.revision(i);
  }
  if (info_result.kvs.size() != 1) co_return false;
  const auto info = parse_cluster_info(info_result.kvs.front());
  if (!info.ready || info.guid != identity.cluster_guid || info.create_revision != identity.info_create_revision)
    co_return false;

  store::RangeRequest newest_request;
  newest_request.key = newest->key;
  newest_request.revision = at;
  auto then = co_await ds_.range(std::move(newest_request));
  if (!then) {  // compacted: the history we would need is gone
    if (then.error().code == Errc::unavailable || then.error().code == Errc::timeout)
      co_return tl::unexpected(then.error());
    co_return false;
  }
  const bool ours = then->kvs.size() == 1 && then->kvs.front().mod_revision == newest->mod_revision &&
                    then->kvs.front().value == newest->value;
  // Put back from a copy and written past us since: what we wrote there may be gone with its history.
  if (!ours) went_back_ = true;
  co_return ours;
}

/// All prefixes at one revision, page by page. On failure the outputs are not to be used.
awaitable<Status> Replicator::list(Mirror::Content* out, Revision* revision) {
  for (const auto& prefix : mirror_.prefixes()) {
    std::string from = prefix;
    for (;;) {
      store::RangeRequest request;
      request.key = from;
      request.range_end = store::prefix_end(prefix);
      request.limit = options_.page;
      request.revision = *revision;
      auto page = co_await ds_.range(std::move(request));
      if (!page) co_return wrap(page.error(), fmt::format("list of {}", prefix));
      if (*revision == 0) *revision = page->revision;
      const bool more = page->more && !page->kvs.empty();
      if (more) from = page->kvs.back().key + '\0';
      for (auto& kv : page->kvs) {
        auto key = kv.key;
        if (key.starts_with(prefix)) out->insert_or_assign(std::move(key), std::move(kv));
      }
      if (!more) break;
    }
  }
  co_return Status{};
}

awaitable<Replicator::Next> Replicator::session() {
  store::RangeRequest info_request;
  info_request.key = std::string(model::kClusterInformation);
  auto info_now = co_await ds_.range(std::move(info_request));
  if (!info_now) co_return lost(info_now.error());
  auto status = co_await ds_.status();
  if (!status) co_return lost(status.error());
  counters_.server_version = status->version;
  counters_.server_endpoint = status->endpoint;
  const auto revision_now = info_now->revision;
  if (info_now->kvs.empty() || !parse_cluster_info(info_now->kvs.front()).ready) {
    const bool elsewhere = co_await led_elsewhere();
    if (elsewhere) co_return Next::soon;
  }
  look_for_another_past(*info_now, *status);

  auto resume = co_await can_resume(std::move(*info_now), status->cluster_id);
  if (!resume) co_return lost(resume.error());
  if (*resume) {
    ++counters_.resumes;
    counters_.last_error.clear();
    refusing_ = false;
    if (!in_sync_) set_phase(Phase::resyncing, "last known state; catching up");
    if (log_lead_) mirror_.set_log_lead(*log_lead_);
    log::debug("sync.resume", "revision", mirror_.newest_revision(), "datastore", revision_now);
    const auto next = co_await follow(revision_now);
    co_return next;
  }

  const bool had = mirror_.identity().ready;
  if (!refusing_) {
    if (had)
      set_phase(Phase::resyncing, "last known state; being compared with the datastore");
    else
      set_phase(Phase::waiting, "reading the first snapshot");
  }
  Mirror::Content content;
  Revision revision = 0;
  auto listed = co_await list(&content, &revision);
  if (!listed) {
    if (listed.error().code == Errc::compacted) co_return Next::soon;
    co_return lost(listed.error());
  }
  ++counters_.lists;
  counters_.last_error.clear();
  log::debug("sync.list", "revision", revision, "keys", content.size());

  // Before it is taken: what stands in a datastore that was left may be old, and what is refused is not taken.
  if (const auto pointer = content.find(model::kDatastorePointer); follower_ && pointer != content.end()) {
    const bool elsewhere = co_await follower_->see(pointer->second.value);
    if (elsewhere) co_return Next::soon;
  }

  ClusterInfo info;
  const auto it = content.find(model::kClusterInformation);
  if (it != content.end()) info = parse_cluster_info(it->second);
  if (!info.ready) {
    const auto why = it == content.end() ? "clusterinformations/default is missing" : "datastoreReady is not true";
    refusing_ = false;
    if (had)
      set_phase(Phase::resyncing, fmt::format("last known state; the datastore is not ready: {}", why));
    else
      set_phase(Phase::waiting, fmt::format("no snapshot yet; the datastore is not ready: {}", why));
    const auto next = co_await wait_for_change(std::string(model::kClusterInformation), revision + 1);
    co_return next;
  }

  const auto why = damage(content, info, mirror_, options_.node);
  const bool taken = accept_ && refused_guid_ == info.guid;
  accept_ = false;
  if (!why.empty() && !taken) {
    if (!refusing_) ++counters_.refusals;
    refusing_ = true;
    refused_guid_ = info.guid;
    set_phase(Phase::refusing,
              fmt::format("{}; last known state kept; `calico-node store accept` takes the datastore as it is", why));
    const auto next = co_await wait_for_change(mirror_.prefixes().front(), revision + 1);
    co_return next;
  }
  refusing_ = false;
  force_list_ = false;

  Identity identity;
  identity.cluster_id = status->cluster_id;
  identity.cluster_guid = info.guid;
  identity.info_create_revision = info.create_revision;
  identity.ready = true;
  identity.log_lead = log_lead_;
  if (!log_lead_ && !went_back_ && status->cluster_id == mirror_.identity().cluster_id)
    identity.log_lead = mirror_.identity().log_lead;
  if (had && (identity != mirror_.identity() || went_back_)) ++epoch_;
  went_back_ = false;
  mirror_.replace(std::move(content), revision, identity);
  const auto next = co_await follow(0);
  co_return next;
}

/// Until something changes below `prefix`, somebody accepts, or it is time to look again.
awaitable<Replicator::Next> Replicator::wait_for_change(std::string prefix, Revision from) {
  TaskGroup tasks(executor_, "sync-wait");
  tasks.spawn("watch", [this, prefix = std::move(prefix), from]() -> awaitable<void> {
    store::WatchRequest request;
    request.key = prefix;
    request.range_end = store::prefix_end(prefix);
    request.start_revision = from;
    auto watch = co_await ds_.watch(std::move(request));
    while (watch) {
      auto batch = co_await (*watch)->next();
      if (!batch || !batch->events.empty()) break;
    }
    // A broken watch is looked into as well: the list says what is the matter. But a list is dear, so not at once.
    const bool waited = co_await sleep_for(jittered(watch ? options_.timing.retry_min : options_.timing.retry_max));
    if (waited) accepted_.set();
  });
  co_await accepted_.wait_for(options_.timing.refused_relist);
  tasks.cancel();
  co_await tasks.join();
  accepted_.clear();
  co_return Next::soon;
}

/// Watches every prefix until one of them ends. `target`: the datastore's revision when we came back (0: nothing to
/// catch up with). etcd does not say when a resumed watch has caught up: it has when it reached the target, or brought
/// nothing for a while, because events waiting are sent at once.
awaitable<Replicator::Next> Replicator::follow(Revision target) {
  auto s = std::make_shared<Session>(executor_);
  session_ = s;
  TaskGroup tasks(executor_, "sync-watch");
  const auto count = mirror_.prefixes().size();
  for (std::size_t i = 0; i < count; ++i)
    tasks.spawn(mirror_.prefixes()[i], [this, s, i] { return follow_prefix(s, i); });
  while (!s->end) {
    std::chrono::nanoseconds wait = std::chrono::hours(1);
    if (!in_sync_) {
      bool reached = true;
      for (std::size_t i = 0; i < count; ++i) reached = reached && mirror_.revision(i) >= target;
      const auto quiet = Clock::now() - s->last;
      if (reached || (s->open == count && quiet >= options_.timing.catch_up)) {
        set_phase(Phase::in_sync, counters_.server_endpoint.empty()
                                      ? std::string("in sync")
                                      : fmt::format("in sync with {}", counters_.server_endpoint));
      } else {
        wait = options_.timing.catch_up;
      }
    }
    co_await s->changed.wait_for(wait);
  }
  tasks.cancel();
  co_await tasks.join();
  co_return *s->end;
}

awaitable<void> Replicator::follow_prefix(std::shared_ptr<Session> s, std::size_t index) {
  const auto end = [&s](Next next) {
    if (!s->end) s->end = next;
    s->changed.set();
  };
  const std::string prefix = mirror_.prefixes()[index];
  store::WatchRequest request;
  request.key = prefix;
  request.range_end = store::prefix_end(prefix);
  request.start_revision = mirror_.revision(index) + 1;
  auto watch = co_await ds_.watch(std::move(request));
  if (!watch) {
    if (watch.error().code == Errc::compacted) {
      force_list_ = true;
      end(Next::soon);
    } else if (!s->end) {
      end(lost(watch.error()));
    }
    co_return;
  }
  ++s->open;
  s->last = Clock::now();
  s->changed.set();
  for (;;) {
    auto batch = co_await (*watch)->next();
    if (s->end) co_return;  // the session is over: what comes now belongs to the next one
    if (!batch) {
      const auto& error = batch.error();
      if (error.code == Errc::compacted) {
        force_list_ = true;
        end(Next::soon);
      } else if (error.code == Errc::timeout) {
        end(Next::soon);  // silence is no news, but it must be verified: the next session asks, and resumes
      } else {
        end(lost(error));
      }
      co_return;
    }
    const auto identity = mirror_.identity();
    for (const auto& e : batch->events) {
      if (e.kv.key != model::kClusterInformation) continue;
      const auto info = e.type == store::Event::Type::put ? parse_cluster_info(e.kv) : ClusterInfo{};
      if (info.ready && info.guid == identity.cluster_guid && info.create_revision == identity.info_create_revision)
        continue;
      // Frozen, or another cluster: nothing of this batch is taken, the list decides.
      force_list_ = true;
      end(Next::soon);
      co_return;
    }
    // While a watch catches up, etcd's header is ahead of the events it carries.
    const auto revision = batch->events.empty() ? batch->revision : batch->events.back().kv.mod_revision;
    mirror_.apply(index, batch->events, revision);
    counters_.events += batch->events.size();
    s->last = Clock::now();
    if (!in_sync_) s->changed.set();
  }
}

}  // namespace calico::sync
