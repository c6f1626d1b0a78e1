#include "modules/controller/sender.hpp"

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "core/log/log.hpp"
#include "core/loop/task_group.hpp"
#include "core/model/keys.hpp"
#include "core/model/resources.hpp"

namespace calico::controller {
namespace {

constexpr std::size_t kChunk = 100;  // operations of one transaction; the datastore takes 128

std::vector<Outbox::Sent> sent_of(const std::vector<Outbox::Item>& items) {
  std::vector<Outbox::Sent> out;
  for (const auto& item : items) out.emplace_back(item.intent.key, item.write);
  return out;
}

constexpr std::size_t kTooLarge = 1U << 20;  // no datastore takes much more in one value

/// A full datastore says exhausted too, and will take the same thing later.
bool about_content(const Error& e, const std::vector<Outbox::Item>& items) {
  if (e.code == Errc::invalid) return true;
  const bool large = std::any_of(items.begin(), items.end(), [](const auto& i) { return i.bytes > kTooLarge; });
  return e.code == Errc::exhausted && large;
}

}  // namespace

Sender::Sender(store::Datastore& remote, Outbox& outbox, boost::asio::any_io_executor executor, SenderOptions options)
    : remote_(remote),
      outbox_(outbox),
      options_(std::move(options)),
      wake_(std::move(executor), boost::asio::steady_timer::time_point::max()) {}

void Sender::wake() { wake_.cancel(); }

awaitable<void> Sender::run() {
  auto pause = options_.retry_min;
  std::size_t count = kChunk;
  for (;;) {
    if (outbox_.empty()) {
      waiting_.clear();
      (void)co_await wake_.async_wait(boost::asio::as_tuple(boost::asio::use_awaitable));
      wake_.expires_at(boost::asio::steady_timer::time_point::max());
      continue;
    }
    const auto items = outbox_.first(count);
    bool refused = false;
    auto s = co_await send(items, &refused);
    if (!s && refused) {
      if (count > 1) {  // which one?
        count = 1;
        continue;
      }
      log::error("controller.refused_by_datastore", "key", items.front().intent.key, "what", s.error().what, "action",
                 "left out until it changes");
      s = {};
    }
    if (s) s = co_await options_.forget(sent_of(items));
    if (s) {
      outbox_.done(sent_of(items));
      if (!waiting_.empty()) log::info("controller.datastore_takes_writes", "left", outbox_.size());
      waiting_.clear();
      pause = options_.retry_min;
      count = kChunk;
      continue;
    }
    if (s.error().code == Errc::closed || s.error().code == Errc::canceled) co_return;
    if (s.error().what != waiting_)
      log::warn("controller.changes_wait", "count", outbox_.size(), "reason", s.error().what);
    waiting_ = s.error().what;
    const auto half = pause.count() / 2;
    const std::chrono::milliseconds wait(std::uniform_int_distribution<std::int64_t>(half, pause.count())(random_));
    pause = std::min(2 * pause, options_.retry_max);
    const bool slept = co_await sleep_for(wait);
    if (!slept) co_return;
  }
}

/// The keys as they are now, of a datastore that is ready and ours.
awaitable<Result<Sender::Present>> Sender::read(const std::vector<Outbox::Item>& items) {
  store::TxnRequest ask;
  store::RangeRequest information;
  information.key = std::string(model::kClusterInformation);
  ask.success.emplace_back(std::move(information));
  for (const auto& item : items) {
    store::RangeRequest range;
    range.key = item.intent.key;
    ask.success.emplace_back(std::move(range));
  }
  auto got = co_await remote_.txn(std::move(ask));
  if (!got) co_return tl::unexpected(got.error());
  if (got->responses.size() != items.size() + 1) co_return fail(Errc::unavailable, "answers are missing");
  Present out;
  const auto at = [&](std::size_t i) -> store::KeyValue {
    auto* range = std::get_if<store::RangeResult>(&got->responses[i]);
    return range && !range->kvs.empty() ? std::move(range->kvs.front()) : store::KeyValue{};
  };
  const auto info = at(0);
  const auto read = model::parse_cluster_information(info.value);
  if (info.mod_revision == 0 || !read || !read->datastore_ready.value_or(false))
    co_return fail(Errc::unavailable, "the datastore is not ready");
  if (!options_.guid.empty() && read->cluster_guid != options_.guid)
    co_return fail(Errc::unavailable, "the datastore is another cloud's: clusterGUID {}, ours is {}",
                   shown(read->cluster_guid), options_.guid);
  out.information = info.mod_revision;
  for (std::size_t i = 0; i < items.size(); ++i) out.keys.push_back(at(i + 1));
  co_return out;
}

awaitable<Status> Sender::send(const std::vector<Outbox::Item>& items, bool* refused) {
  auto present = co_await read(items);
  if (!present) co_return tl::unexpected(present.error());
  store::TxnRequest txn;
  txn.who = "neutron";
  txn.compare.push_back(store::mod_is(std::string(model::kClusterInformation), present->information));
  for (std::size_t i = 0; i < items.size(); ++i) {
    const auto& intent = items[i].intent;
    const auto& now = present->keys[i];
    const bool there = now.mod_revision != 0;
    store::DeleteRequest del;
    del.key = intent.key;
    if (items[i].prefix) {
      del.range_end = store::prefix_end(intent.key);
      txn.success.emplace_back(std::move(del));
      continue;
    }
    if (!intent.desired) {
      if (there) txn.success.emplace_back(std::move(del));
      continue;
    }
    if (intent.once && there) continue;
    auto value = merge(intent, there ? std::optional<std::string_view>(now.value) : std::nullopt, options_.stamp);
    if (!value) continue;
    txn.compare.push_back(store::mod_is(intent.key, now.mod_revision));
    store::PutRequest put;
    put.key = intent.key;
    put.value = std::move(*value);
    txn.success.emplace_back(std::move(put));
  }
  if (txn.success.empty()) co_return Status{};
  const auto operations = txn.success.size();
  auto done = co_await remote_.txn(std::move(txn));
  if (!done) {
    *refused = about_content(done.error(), items);
    co_return tl::unexpected(done.error());
  }
  if (!done->succeeded) co_return fail(Errc::busy, "somebody else writes the same keys");
  written_ += operations;
  co_return Status{};
}

awaitable<Result<std::vector<Intent>>> Sender::differing(std::vector<Intent> intents) {
  std::vector<Intent> out;
  for (std::size_t first = 0; first < intents.size(); first += kChunk) {
    std::vector<Outbox::Item> items;
    for (auto i = first; i < std::min(first + kChunk, intents.size()); ++i) items.push_back({intents[i], false, 0, 0});
    auto present = co_await read(items);
    if (!present) co_return tl::unexpected(present.error());
    for (std::size_t i = 0; i < items.size(); ++i) {
      auto& intent = items[i].intent;
      const auto& now = present->keys[i];
      const bool there = now.mod_revision != 0;
      if (!intent.desired ? !there : intent.once && there) continue;
      if (intent.desired &&
          !merge(intent, there ? std::optional<std::string_view>(now.value) : std::nullopt, options_.stamp))
        continue;
      out.push_back(std::move(intent));
    }
  }
  co_return out;
}

}  // namespace calico::controller
