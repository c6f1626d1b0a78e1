#include "core/sync/reporter.hpp"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/json.hpp>
#include <ctime>

#include "core/log/log.hpp"
#include "core/loop/task_group.hpp"
#include "core/model/keys.hpp"

namespace calico::sync {
namespace {

using boost::asio::awaitable;
namespace json = boost::json;

constexpr int kNodeTries = 5;

/// RFC 7396.
void merge_patch(json::value& target, const json::value& patch) {
  if (!patch.is_object()) {
    target = patch;
    return;
  }
  if (!target.is_object()) target = json::object();
  auto& object = target.get_object();
  for (const auto& [name, value] : patch.get_object()) {
    if (value.is_null())
      object.erase(name);
    else
      merge_patch(object[name], value);
  }
}

std::string_view domain_of(std::string_view label) {
  const auto slash = label.find('/');
  return slash == std::string_view::npos ? std::string_view() : label.substr(0, slash);
}

Result<json::object> parse_object(std::string_view text, std::string_view what) {
  boost::system::error_code ec;
  auto v = json::parse(text, ec);
  if (ec || !v.is_object()) return fail(Errc::invalid, "{} of the Node are not a JSON object", what);
  return std::move(v.get_object());
}

std::string now_text() {
  const std::time_t t = std::time(nullptr);
  std::tm tm{};
  gmtime_r(&t, &tm);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
  return text;
}

bool about_content(Errc code) { return code == Errc::invalid || code == Errc::exhausted; }

}  // namespace

Result<std::string> merge_node(std::string_view existing, std::string_view name, std::string_view labels,
                               std::string_view spec, std::string_view uid, std::string_view time) {
  auto our_labels = parse_object(labels, "labels");
  if (!our_labels) return tl::unexpected(our_labels.error());
  auto our_spec = parse_object(spec, "spec");
  if (!our_spec) return tl::unexpected(our_spec.error());

  json::object node;
  boost::system::error_code ec;
  if (auto v = json::parse(existing, ec); !ec && v.is_object()) node = std::move(v.get_object());
  node["kind"] = "Node";
  node["apiVersion"] = "projectcalico.org/v3";
  auto& metadata_value = node["metadata"];
  if (!metadata_value.is_object()) metadata_value = json::object();
  auto& metadata = metadata_value.get_object();
  metadata["name"] = name;
  if (!metadata.contains("uid")) metadata["uid"] = uid;
  if (!metadata.contains("creationTimestamp")) metadata["creationTimestamp"] = time;

  auto& labels_value = metadata["labels"];
  if (!labels_value.is_object()) labels_value = json::object();
  auto& there = labels_value.get_object();
  std::set<std::string_view> domains;
  for (const auto& [label, value] : *our_labels)
    if (const auto d = domain_of(label); !d.empty()) domains.insert(d);
  for (auto it = there.begin(); it != there.end();) {
    if (domains.contains(domain_of(it->key())) && !our_labels->contains(it->key()))
      it = there.erase(it);
    else
      ++it;
  }
  for (const auto& [label, value] : *our_labels) there[label] = value;

  merge_patch(node["spec"], *our_spec);
  return json::serialize(node);
}

Reporter::Reporter(store::Datastore& datastore, Mirror& mirror, const Options& options,
                   boost::asio::any_io_executor executor)
    : ds_(datastore),
      mirror_(mirror),
      options_(options),
      executor_(std::move(executor)),
      work_(executor_),
      lease_work_(executor_) {}

// ---- what modules say

void Reporter::wake() {  // under m_
  if (woken_) return;
  woken_ = true;
  boost::asio::post(executor_, [this] { work_.set(); });
}

void Reporter::claim(std::string prefix) {
  std::lock_guard lock(m_);
  claims_.try_emplace(std::move(prefix));
  wake();
}

void Reporter::settled(std::string prefix) {
  std::lock_guard lock(m_);
  auto& c = claims_[std::move(prefix)];
  if (c.settled) return;
  c.settled = c.compare = true;
  wake();
}

void Reporter::set(std::string key, std::optional<std::string> value, bool leased) {
  std::lock_guard lock(m_);
  auto [it, fresh] = wanted_.try_emplace(std::move(key));
  auto& w = it->second;
  if (!fresh && w.value == value && w.leased == leased && !w.given_up) return;
  w.value = std::move(value);
  w.leased = leased && w.value;
  w.dirty = true;
  w.given_up = false;
  w.generation = ++generation_;
  wake();
}

void Reporter::again(const std::string& key) {
  std::lock_guard lock(m_);
  const auto it = wanted_.find(key);
  if (it == wanted_.end() || !it->second.value) return;
  it->second.dirty = true;
  it->second.generation = ++generation_;
  wake();
}

void Reporter::set_node(std::string name, std::string labels_json, std::string spec_json) {
  std::lock_guard lock(m_);
  if (node_ && node_->name == name && node_->labels == labels_json && node_->spec == spec_json) return;
  if (!node_) node_.emplace();
  node_->name = std::move(name);
  node_->labels = std::move(labels_json);
  node_->spec = std::move(spec_json);
  node_->dirty = true;
  node_->generation = ++generation_;
  wake();
}

Reporter::Counters Reporter::counters() const {
  std::lock_guard lock(m_);
  Counters c;
  c.total = wanted_.size() + (node_ ? 1 : 0);
  for (const auto& [key, w] : wanted_) c.pending += w.dirty ? 1 : 0;
  if (node_ && node_->dirty) ++c.pending;
  c.lease = lease_;
  c.error = error_.empty() ? given_up_ : error_;
  return c;
}

bool Reporter::claimed(std::string_view key) const {  // under m_
  return std::any_of(claims_.begin(), claims_.end(), [&](const auto& c) { return key.starts_with(c.first); });
}

// ---- the loop's side

void Reporter::on_sync(bool in_sync, std::uint64_t epoch) {
  in_sync_ = in_sync;
  epoch_ = epoch;
  if (!in_sync) return;
  std::lock_guard lock(m_);
  for (auto& [prefix, c] : claims_) c.compare = true;
  compare_others_ = true;
  if (node_) node_->dirty = true;
  work_.set();
}

awaitable<void> Reporter::run() {
  const std::chrono::nanoseconds min = options_.timing.retry_min, max = options_.timing.retry_max;
  auto wait = min;
  for (;;) {
    co_await work_.wait_for(std::chrono::hours(1));
    {
      std::lock_guard lock(m_);
      woken_ = false;
    }
    if (!in_sync_) continue;  // on_sync() wakes us
    auto s = co_await round();
    {
      std::lock_guard lock(m_);
      error_ = s ? std::string() : s.error().what;
    }
    if (s) {
      wait = min;
      continue;
    }
    log::debug("report.retry", "what", s.error().what);
    const auto pause =
        std::chrono::nanoseconds(std::uniform_int_distribution<std::int64_t>(wait.count() / 2, wait.count())(random_));
    wait = std::min(2 * wait, max);
    const bool slept = co_await sleep_for(pause);
    if (!slept) co_return;
    work_.set();
  }
}

/// Everything there is to do now, in an order that never shows less than before: compare, write, then the Node.
awaitable<Status> Reporter::round() {
  for (;;) {
    std::optional<std::string> prefix;
    {
      std::lock_guard lock(m_);
      for (const auto& [p, c] : claims_)
        if (c.compare) prefix = p;
    }
    if (!prefix) break;
    auto s = co_await compare_claim(*prefix);
    if (!s) co_return s;
  }
  if (compare_others_) {
    auto s = co_await compare_others();
    if (!s) co_return s;
    compare_others_ = false;
  }
  auto s = co_await write();
  if (!s) co_return s;
  s = co_await write_node();
  co_return s;
}

/// Under m_. Dirty is what differs.
void Reporter::compare_one(const std::string&, Wanted& w, const store::KeyValue* actual) {
  if (w.given_up) return;
  if (!w.value)
    w.dirty = actual != nullptr;
  else
    w.dirty =
        !actual || actual->value != *w.value || actual->lease != (w.leased ? lease_ : 0) || (w.leased && lease_ == 0);
}

awaitable<Status> Reporter::compare_claim(std::string prefix) {
  std::map<std::string, store::KeyValue, std::less<>> actual;
  std::string from = prefix;
  for (;;) {
    store::RangeRequest request;
    request.key = from;
    request.range_end = store::prefix_end(prefix);
    request.limit = options_.page;
    auto page = co_await ds_.range(std::move(request));
    if (!page) co_return wrap(page.error(), fmt::format("compare {}", prefix));
    const bool more = page->more && !page->kvs.empty();
    if (more) from = page->kvs.back().key + '\0';
    for (auto& kv : page->kvs) {
      auto key = kv.key;
      actual.insert_or_assign(std::move(key), std::move(kv));
    }
    if (!more) break;
  }
  std::lock_guard lock(m_);
  auto& claim = claims_[prefix];
  claim.compare = false;
  for (auto it = wanted_.lower_bound(prefix); it != wanted_.end() && it->first.starts_with(prefix); ++it) {
    const auto found = actual.find(it->first);
    compare_one(it->first, it->second, found == actual.end() ? nullptr : &found->second);
  }
  if (claim.settled) {
    for (const auto& [key, kv] : actual) {
      auto [it, fresh] = wanted_.try_emplace(key);
      if (fresh) it->second.generation = ++generation_;  // absent and dirty: to be removed
    }
  }
  co_return Status{};
}

awaitable<Status> Reporter::compare_others() {
  std::vector<std::string> keys;
  {
    std::lock_guard lock(m_);
    for (const auto& [key, w] : wanted_)
      if (!claimed(key)) keys.push_back(key);
  }
  for (std::size_t at = 0; at < keys.size(); at += kBatch) {
    store::TxnRequest txn;
    const auto end = std::min(keys.size(), at + kBatch);
    for (std::size_t i = at; i < end; ++i) {
      store::RangeRequest r;
      r.key = keys[i];
      txn.success.emplace_back(std::move(r));
    }
    auto got = co_await ds_.txn(std::move(txn));
    if (!got) co_return wrap(got.error(), "compare");
    if (got->responses.size() != end - at) co_return fail(Errc::internal, "compare: answers are missing");
    std::lock_guard lock(m_);
    for (std::size_t i = at; i < end; ++i) {
      const auto* range = std::get_if<store::RangeResult>(&got->responses[i - at]);
      const auto it = wanted_.find(keys[i]);
      if (!range || it == wanted_.end()) continue;
      compare_one(it->first, it->second, range->kvs.empty() ? nullptr : &range->kvs.front());
    }
  }
  co_return Status{};
}

std::vector<Reporter::Item> Reporter::next_items(std::size_t limit) const {
  std::lock_guard lock(m_);
  std::vector<Item> out;
  std::size_t bytes = 0;
  for (const auto& [key, w] : wanted_) {
    if (!w.dirty || w.given_up) continue;
    bytes += key.size() + (w.value ? w.value->size() : 0);
    if (!out.empty() && bytes > kBatchBytes) break;
    out.push_back({key, w.value, w.leased, w.generation});
    if (out.size() == limit) break;
  }
  return out;
}

void Reporter::done(const std::vector<Item>& items) {
  std::lock_guard lock(m_);
  for (const auto& item : items) {
    const auto it = wanted_.find(item.key);
    if (it == wanted_.end() || it->second.generation != item.generation) continue;
    it->second.dirty = false;
    // A claim's list finds what is too much; outside one the wish to have the key gone must be remembered.
    if (!item.value && claimed(item.key)) wanted_.erase(it);
  }
}

awaitable<Status> Reporter::write() {
  std::size_t limit = kBatch;
  for (;;) {
    const auto items = next_items(limit);
    if (items.empty()) co_return Status{};
    const bool leased = std::any_of(items.begin(), items.end(), [](const auto& i) { return i.leased; });
    if (leased) {
      auto s = co_await ensure_lease();
      if (!s) co_return s;
    }
    store::TxnRequest txn;
    txn.who = "report";
    for (const auto& item : items) {
      if (item.value) {
        store::PutRequest put;
        put.key = item.key;
        put.value = *item.value;
        put.lease = item.leased ? lease_ : 0;
        txn.success.emplace_back(std::move(put));
      } else {
        store::DeleteRequest del;
        del.key = item.key;
        txn.success.emplace_back(std::move(del));
      }
    }
    auto written = co_await ds_.txn(std::move(txn));
    if (written) {
      done(items);
      limit = kBatch;
      continue;
    }
    const auto& error = written.error();
    if (leased && error.code == Errc::not_found) {
      lease_lost();
      continue;
    }
    if (!about_content(error.code)) co_return wrap(error, "write");
    if (items.size() > 1) {
      limit = items.size() / 2;
      continue;
    }
    std::lock_guard lock(m_);
    const auto it = wanted_.find(items.front().key);
    if (it != wanted_.end() && it->second.generation == items.front().generation) {
      it->second.given_up = true;
      given_up_ = fmt::format("{}: {}", items.front().key, error.what);
    }
  }
}

awaitable<Status> Reporter::ensure_lease() {
  if (lease_ != 0) co_return Status{};
  auto granted = co_await ds_.lease_grant(options_.timing.lease_ttl.count());
  if (!granted) co_return wrap(granted.error(), "lease");
  if (granted->id == 0) co_return fail(Errc::internal, "lease: the datastore granted number 0");
  {
    std::lock_guard lock(m_);
    lease_ = granted->id;
  }
  lease_work_.set();
  co_return Status{};
}

void Reporter::lease_lost() {
  std::lock_guard lock(m_);
  lease_ = 0;
  for (auto& [key, w] : wanted_)
    if (w.leased && !w.given_up) w.dirty = true;
  work_.set();
}

awaitable<void> Reporter::keep_lease() {
  const std::chrono::nanoseconds every = options_.timing.lease_keepalive;
  const std::chrono::nanoseconds retry = options_.timing.retry_max;
  // Nodes that came back together must not ask together for ever after.
  const auto next = [&] {
    return std::chrono::nanoseconds(
        std::uniform_int_distribution<std::int64_t>(every.count() / 10 * 9, every.count())(random_));
  };
  auto wait = next();
  for (;;) {
    const bool fresh = co_await lease_work_.wait_for(wait);
    wait = next();
    const auto id = lease_;
    if (fresh || id == 0) continue;
    auto alive = co_await ds_.lease_keepalive(id);
    if (lease_ != id) continue;
    if (alive ? alive->ttl_s <= 0 : alive.error().code == Errc::not_found)
      lease_lost();
    else if (!alive)
      wait = std::min(every, retry);
  }
}

awaitable<Status> Reporter::write_node() {
  for (int i = 0; i < kNodeTries; ++i) {
    Node want;
    {
      std::lock_guard lock(m_);
      if (!node_ || !node_->dirty) co_return Status{};
      want = *node_;
    }
    const auto key = model::node_key(want.name);
    if (!node_watch_) {
      // Somebody else's change of our Node is looked at when it happens.
      node_watch_ = mirror_.watch({key}, executor_, [this, key](const Batch& batch) {
        const bool ours =
            std::any_of(batch.updates.begin(), batch.updates.end(), [&](const auto& u) { return u.key == key; });
        if (!ours) return;
        std::lock_guard lock(m_);
        if (node_) node_->dirty = true;
        work_.set();
      });
    }
    store::RangeRequest read;
    read.key = key;
    auto got = co_await ds_.range(std::move(read));
    if (!got) co_return wrap(got.error(), "Node");
    const bool there = !got->kvs.empty();
    const auto finished = [&](bool written) {
      std::lock_guard lock(m_);
      if (!node_ || node_->generation != want.generation) return;
      node_->dirty = false;
      if (written) {
        node_->written_generation = want.generation;
        node_->written_epoch = epoch_;
      }
    };
    if (!there && want.written_generation == want.generation && want.written_epoch == epoch_) {
      finished(false);  // an operator deleted it
      co_return Status{};
    }
    const std::string existing = there ? got->kvs.front().value : std::string();
    auto merged = merge_node(existing, want.name, want.labels, want.spec, uuid(), now_text());
    if (!merged) {
      finished(false);
      co_return Status{tl::unexpected(merged.error())};
    }
    boost::system::error_code ec;
    if (there && json::parse(existing, ec) == json::parse(*merged, ec) && !ec) {
      finished(true);
      continue;
    }
    store::TxnRequest txn;
    txn.who = "report";
    txn.compare.push_back(there ? store::mod_is(key, got->kvs.front().mod_revision) : store::key_absent(key));
    store::PutRequest put;
    put.key = key;
    put.value = *merged;
    txn.success.emplace_back(std::move(put));
    auto written = co_await ds_.txn(std::move(txn));
    if (!written) co_return wrap(written.error(), "Node");
    if (written->succeeded) finished(true);
  }
  std::lock_guard lock(m_);
  if (node_ && node_->dirty) co_return fail(Errc::conflict, "Node {}: somebody else keeps writing it", node_->name);
  co_return Status{};
}

std::string Reporter::uuid() {
  std::uint64_t a = random_(), b = random_();
  a = (a & ~0xf000ULL) | 0x4000ULL;
  b = (b & ~(3ULL << 62)) | (1ULL << 63);
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", a >> 32, (a >> 16) & 0xffff, a & 0xffff, b >> 48,
                     b & 0xffffffffffffULL);
}

}  // namespace calico::sync
