#include "core/sync/mirror.hpp"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <mutex>
#include <shared_mutex>

#include "core/sync/mirror_file.hpp"

namespace calico::sync {
namespace {

bool within(std::string_view key, const std::vector<std::string>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](const auto& p) { return key.starts_with(p); });
}

/// One watcher: what waits for it, merged per key, and whether a delivery is already on its way.
class Watcher : public std::enable_shared_from_this<Watcher> {
 public:
  Watcher(std::vector<std::string> prefixes, boost::asio::any_io_executor executor,
          std::function<void(const Batch&)> on_batch)
      : prefixes_(std::move(prefixes)), executor_(std::move(executor)), on_batch_(std::move(on_batch)) {}

  const std::vector<std::string>& prefixes() const { return prefixes_; }

  void add(std::vector<Update> updates, bool usable, const SyncState& state) {
    std::lock_guard lock(m_);
    if (dead_) return;
    for (auto& u : updates) {
      auto key = u.key;
      waiting_.insert_or_assign(std::move(key), std::move(u));
    }
    usable_ = usable_ || usable;
    state_ = state;
    if (posted_) return;
    posted_ = true;
    boost::asio::post(executor_, [self = shared_from_this()] { self->deliver(); });
  }

  /// After this returns no callback runs, unless it is this very thread that is inside one.
  void end() {
    std::lock_guard running(running_);
    std::lock_guard lock(m_);
    dead_ = true;
    waiting_.clear();
  }

 private:
  void deliver() {
    std::lock_guard running(running_);
    Batch batch;
    {
      std::lock_guard lock(m_);
      posted_ = false;
      if (dead_) return;
      batch.usable = usable_;
      batch.state = state_;
      batch.updates.reserve(waiting_.size());
      for (auto& [key, u] : waiting_) batch.updates.push_back(std::move(u));
      waiting_.clear();
    }
    on_batch_(batch);
  }

  const std::vector<std::string> prefixes_;
  const boost::asio::any_io_executor executor_;
  const std::function<void(const Batch&)> on_batch_;
  std::recursive_mutex running_;  // held while on_batch_ runs; a callback may drop its own subscription
  std::mutex m_;
  std::map<std::string, Update> waiting_;
  SyncState state_;
  bool usable_ = false, posted_ = false, dead_ = false;
};

class Handle final : public Subscription {
 public:
  explicit Handle(std::shared_ptr<Watcher> watcher) : watcher_(std::move(watcher)) {}
  ~Handle() override { watcher_->end(); }

 private:
  std::shared_ptr<Watcher> watcher_;
};

Update put_of(const store::KeyValue& kv) { return {kv.key, kv.value, kv.mod_revision}; }

}  // namespace

class Mirror::Impl {
 public:
  explicit Impl(std::vector<std::string> prefixes) : prefixes_(std::move(prefixes)), revisions_(prefixes_.size(), 0) {}

  store::Revision exact() const {
    return revisions_.empty() ? 0 : *std::min_element(revisions_.begin(), revisions_.end());
  }

  /// Every mirrored prefix these touch was listed once. A prefix new to this node is not, until the next list.
  bool usable(const std::vector<std::string>& prefixes) const {
    if (!identity_.ready) return false;
    for (std::size_t i = 0; i < prefixes_.size(); ++i) {
      const auto touches = [&](const auto& p) { return p.starts_with(prefixes_[i]) || prefixes_[i].starts_with(p); };
      if (revisions_[i] == 0 && std::any_of(prefixes.begin(), prefixes.end(), touches)) return false;
    }
    return true;
  }

  MirrorChange change_head() const {
    MirrorChange c;
    for (std::size_t i = 0; i < prefixes_.size(); ++i) c.revisions[prefixes_[i]] = revisions_[i];
    c.identity = identity_;
    return c;
  }

  MirrorChange whole() const {
    std::shared_lock lock(m_);
    auto c = change_head();
    c.everything = true;
    for (const auto& [key, kv] : content_) c.keys.emplace(key, kv);
    return c;
  }

  /// To every watcher the updates below its prefixes; with `always` also an empty batch. Under m_.
  void tell(const std::vector<Update>& updates, bool always) {
    std::erase_if(watchers_, [](const auto& w) { return w.expired(); });
    state_.revision = exact();
    for (const auto& weak : watchers_) {
      auto w = weak.lock();
      if (!w) continue;
      std::vector<Update> mine;
      for (const auto& u : updates)
        if (within(u.key, w->prefixes())) mine.push_back(u);
      if (always || !mine.empty()) w->add(std::move(mine), usable(w->prefixes()), state_);
    }
  }

  const std::vector<std::string> prefixes_;
  mutable std::shared_mutex m_;
  Content content_;
  std::size_t bytes_ = 0;
  std::vector<store::Revision> revisions_;
  Identity identity_;
  SyncState state_;
  std::vector<std::weak_ptr<Watcher>> watchers_;
  std::unique_ptr<MirrorFile> file_;  // last: its thread calls whole()
};

Mirror::Mirror(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Mirror::~Mirror() = default;

Result<std::unique_ptr<Mirror>> Mirror::open(std::vector<std::string> prefixes, std::string file) {
  auto impl = std::make_unique<Impl>(std::move(prefixes));
  if (!file.empty()) {
    auto opened = MirrorFile::open(std::move(file), [p = impl.get()] { return p->whole(); });
    if (!opened) return tl::unexpected(opened.error());
    auto loaded = (*opened)->load();
    if (!loaded) return tl::unexpected(loaded.error());
    impl->file_ = std::move(*opened);
    // Usable is what was complete: a prefix that is new to this role was never listed, so revision 0 leads to a list.
    for (std::size_t i = 0; i < impl->prefixes_.size(); ++i) {
      const auto it = loaded->revisions.find(impl->prefixes_[i]);
      if (it != loaded->revisions.end()) impl->revisions_[i] = it->second;
    }
    MirrorChange dropped = impl->change_head();
    for (auto& [key, kv] : loaded->content) {
      if (within(key, impl->prefixes_)) {
        impl->bytes_ += key.size() + kv.value.size();
        impl->content_.emplace(key, std::move(kv));
      } else {
        dropped.keys.emplace(key, std::nullopt);
      }
    }
    impl->identity_ = loaded->identity;
    impl->file_->start();
    if (!dropped.keys.empty()) {
      dropped.identity = impl->identity_;
      impl->file_->push(std::move(dropped));
    }
  }
  impl->state_.phase = impl->identity_.ready ? Phase::resyncing : Phase::waiting;
  impl->state_.reason = impl->identity_.ready ? "last known state; not yet compared with the datastore"
                                              : "no snapshot yet; not yet connected to the datastore";
  impl->state_.revision = impl->exact();
  return std::unique_ptr<Mirror>(new Mirror(std::move(impl)));
}

std::optional<store::KeyValue> Mirror::get(std::string_view key) const {
  std::shared_lock lock(impl_->m_);
  const auto it = impl_->content_.find(key);
  if (it == impl_->content_.end()) return std::nullopt;
  return it->second;
}

std::vector<store::KeyValue> Mirror::range(std::string_view prefix) const {
  std::shared_lock lock(impl_->m_);
  std::vector<store::KeyValue> out;
  for (auto it = impl_->content_.lower_bound(prefix); it != impl_->content_.end() && it->first.starts_with(prefix);
       ++it)
    out.push_back(it->second);
  return out;
}

SyncState Mirror::state() const {
  std::shared_lock lock(impl_->m_);
  return impl_->state_;
}

std::unique_ptr<Subscription> Mirror::watch(std::vector<std::string> prefixes, boost::asio::any_io_executor executor,
                                            std::function<void(const Batch&)> on_batch) {
  auto watcher = std::make_shared<Watcher>(std::move(prefixes), std::move(executor), std::move(on_batch));
  std::unique_lock lock(impl_->m_);
  std::vector<Update> all;
  for (const auto& [key, kv] : impl_->content_)
    if (within(key, watcher->prefixes())) all.push_back(put_of(kv));
  impl_->watchers_.push_back(watcher);
  watcher->add(std::move(all), impl_->usable(watcher->prefixes()), impl_->state_);
  return std::make_unique<Handle>(std::move(watcher));
}

const std::vector<std::string>& Mirror::prefixes() const { return impl_->prefixes_; }

Identity Mirror::identity() const {
  std::shared_lock lock(impl_->m_);
  return impl_->identity_;
}

store::Revision Mirror::revision(std::size_t index) const {
  std::shared_lock lock(impl_->m_);
  return impl_->revisions_[index];
}

store::Revision Mirror::newest_revision() const {
  std::shared_lock lock(impl_->m_);
  return impl_->revisions_.empty() ? 0 : *std::max_element(impl_->revisions_.begin(), impl_->revisions_.end());
}

std::optional<store::KeyValue> Mirror::newest() const {
  std::shared_lock lock(impl_->m_);
  const auto it = std::max_element(impl_->content_.begin(), impl_->content_.end(), [](const auto& a, const auto& b) {
    return a.second.mod_revision < b.second.mod_revision;
  });
  if (it == impl_->content_.end()) return std::nullopt;
  return it->second;
}

std::size_t Mirror::keys() const {
  std::shared_lock lock(impl_->m_);
  return impl_->content_.size();
}

std::size_t Mirror::bytes() const {
  std::shared_lock lock(impl_->m_);
  return impl_->bytes_;
}

std::string Mirror::file_note() const { return impl_->file_ ? impl_->file_->note() : std::string(); }
std::string Mirror::file_error() const { return impl_->file_ ? impl_->file_->error() : std::string(); }

void Mirror::replace(Content list, store::Revision revision, const Identity& identity) {
  std::unique_lock lock(impl_->m_);
  std::vector<Update> updates;
  std::vector<std::string> moved;  // the same value at another revision: for the file, not for the watchers
  auto old = impl_->content_.begin();
  auto now = list.begin();
  while (old != impl_->content_.end() || now != list.end()) {
    if (now == list.end() || (old != impl_->content_.end() && old->first < now->first)) {
      updates.push_back({old->first, std::nullopt, revision});
      ++old;
    } else if (old == impl_->content_.end() || now->first < old->first) {
      updates.push_back(put_of(now->second));
      ++now;
    } else {
      if (old->second.value != now->second.value)
        updates.push_back(put_of(now->second));
      else if (old->second != now->second)
        moved.push_back(now->first);
      ++old;
      ++now;
    }
  }
  const bool first = !impl_->usable({""});
  impl_->content_ = std::move(list);
  impl_->bytes_ = 0;
  for (const auto& [key, kv] : impl_->content_) impl_->bytes_ += key.size() + kv.value.size();
  std::fill(impl_->revisions_.begin(), impl_->revisions_.end(), revision);
  impl_->identity_ = identity;
  if (impl_->file_) {
    auto change = impl_->change_head();
    for (const auto& u : updates) {
      const auto it = impl_->content_.find(u.key);
      change.keys.emplace(u.key, it == impl_->content_.end() ? std::nullopt : std::optional(it->second));
    }
    for (const auto& key : moved) change.keys.emplace(key, impl_->content_.find(key)->second);
    impl_->file_->push(std::move(change));
  }
  impl_->tell(updates, first);
}

void Mirror::apply(std::size_t index, const std::vector<store::Event>& events, store::Revision revision) {
  std::unique_lock lock(impl_->m_);
  std::vector<Update> updates;
  MirrorChange change;
  for (const auto& e : events) {
    if (!e.kv.key.starts_with(impl_->prefixes_[index])) continue;
    const auto it = impl_->content_.find(e.kv.key);
    if (it != impl_->content_.end()) impl_->bytes_ -= it->first.size() + it->second.value.size();
    if (e.type == store::Event::Type::del) {
      if (it == impl_->content_.end()) continue;
      impl_->content_.erase(it);
      updates.push_back({e.kv.key, std::nullopt, e.kv.mod_revision});
      change.keys.insert_or_assign(e.kv.key, std::nullopt);
    } else {
      impl_->bytes_ += e.kv.key.size() + e.kv.value.size();
      impl_->content_.insert_or_assign(e.kv.key, e.kv);
      updates.push_back(put_of(e.kv));
      change.keys.insert_or_assign(e.kv.key, e.kv);
    }
  }
  impl_->revisions_[index] = std::max(impl_->revisions_[index], revision);
  if (impl_->file_) {
    auto head = impl_->change_head();
    head.keys = std::move(change.keys);
    impl_->file_->push(std::move(head));
  }
  impl_->tell(updates, false);
}

void Mirror::set_log_lead(std::int64_t lead) {
  std::unique_lock lock(impl_->m_);
  if (impl_->identity_.log_lead == lead) return;
  impl_->identity_.log_lead = lead;
  if (impl_->file_) impl_->file_->push(impl_->change_head());
}

void Mirror::set_phase(Phase phase, std::string reason) {
  std::unique_lock lock(impl_->m_);
  if (impl_->state_.phase == phase && impl_->state_.reason == reason) return;
  impl_->state_.phase = phase;
  impl_->state_.reason = std::move(reason);
  impl_->tell({}, true);
}

void Mirror::flush() {
  if (impl_->file_) impl_->file_->flush();
}

}  // namespace calico::sync
