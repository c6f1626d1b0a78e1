#include "core/sync/follower.hpp"

#include "core/log/log.hpp"

namespace calico::sync {
namespace {

using boost::asio::awaitable;

constexpr auto kTryAgain = std::chrono::seconds(10);
constexpr auto kIdle = std::chrono::hours(1);

}  // namespace

Follower::Follower(Mirror& mirror, Report& report, const Options& options, boost::asio::any_io_executor executor)
    : mirror_(mirror), report_(report), options_(options), executor_(std::move(executor)), work_(executor_) {}

awaitable<void> Follower::begin() {
  if (!options_.use) co_return;
  if (auto kv = mirror_.get(model::kDatastorePointer)) (void)co_await see(std::move(kv->value));
}

awaitable<bool> Follower::see(std::string value) {
  if (!options_.use) co_return false;
  auto pointer = model::parse_datastore_pointer(value);
  if (!pointer) {
    say_once(fmt::format("the datastore's pointer is not followed: {}", pointer.error().what));
    co_return false;
  }
  if (pointer->generation <= followed_) co_return false;
  const auto guid = mirror_.identity().cluster_guid;
  if (!guid.empty() && pointer->cluster_guid != guid) {
    say_once(fmt::format("the datastore's pointer is not followed: it is of the cloud {}, this node of {}",
                         shown(pointer->cluster_guid), guid));
    co_return false;
  }
  const auto generation = pointer->generation;
  auto there = co_await options_.use(std::move(*pointer));
  if (!there) {
    say_once(fmt::format("the datastore's pointer {} is not followed: {}", generation, there.error().what));
    co_return false;
  }
  followed_ = generation;
  tell();
  co_return *there;
}

awaitable<void> Follower::run() {
  if (!options_.use) co_return;
  tell();
  subscription_ = mirror_.watch({std::string(model::kDatastorePointers)}, executor_,
                                [this](const Batch& batch) { on_batch(batch); });
  for (;;) {
    co_await work_.wait_for(next_ && !told_.error.empty() ? std::chrono::nanoseconds(kTryAgain) : kIdle);
    if (seen_) {
      auto value = std::move(*seen_);
      seen_.reset();
      const bool moved = co_await see(std::move(value));
      if (moved && on_moved_) on_moved_();
    }
    if (untried_ || (next_ && !told_.error.empty())) co_await try_next();
  }
}

void Follower::on_batch(const Batch& batch) {
  for (const auto& u : batch.updates) {
    if (u.key == model::kDatastorePointer && u.value) seen_ = u.value;
    if (u.key != model::kNextDatastorePointer) continue;
    next_.reset();
    if (u.value)
      if (auto pointer = model::parse_datastore_pointer(*u.value)) next_ = std::move(*pointer);
    untried_ = true;
  }
  work_.set();
}

/// Whether this node could follow; the answer is for who prepares the move.
awaitable<void> Follower::try_next() {
  untried_ = false;
  if (!next_ || next_->generation <= followed_) {
    told_.tried = 0;
    told_.error.clear();
    tell();
    co_return;
  }
  const auto pointer = *next_;
  auto tried = co_await options_.probe(pointer);
  if (!next_ || *next_ != pointer) co_return;  // another one meanwhile, or none
  told_.tried = pointer.generation;
  told_.error = tried ? "" : tried.error().what;
  tell();
}

void Follower::tell() {
  told_.generation = followed_;
  report_.set(model::datastore_report_key(options_.region, options_.node), model::to_json(told_), true);
}

void Follower::say_once(std::string what) {
  if (what == said_) return;
  log::warn("sync.pointer", "what", what);
  said_ = std::move(what);
}

}  // namespace calico::sync
