#pragma once
/// A View whose content a test sets; subscribers get batches on their executor, as from the real one.
#include <boost/asio/post.hpp>
#include <map>
#include <mutex>

#include "core/sync/view.hpp"

namespace calico::test {

class FakeView final : public sync::View {
 public:
  explicit FakeView(bool usable = true) : usable_(usable) {}

  void set(const std::string& key, std::optional<std::string> value) {
    std::lock_guard lock(mutex_);
    ++revision_;
    if (value)
      content_[key] = *value;
    else
      content_.erase(key);
    for (auto& s : subscribers_)
      if (auto live = s.lock(); live && live->wants(key)) deliver(live, {{key, value, revision_}});
  }

  /// The first snapshot is complete.
  void become_usable() {
    std::lock_guard lock(mutex_);
    usable_ = true;
    for (auto& s : subscribers_)
      if (auto live = s.lock()) deliver(live, {});
  }

  std::optional<store::KeyValue> get(std::string_view key) const override {
    std::lock_guard lock(mutex_);
    const auto it = content_.find(key);
    if (it == content_.end()) return std::nullopt;
    store::KeyValue kv;
    kv.key = it->first;
    kv.value = it->second;
    return kv;
  }
  std::vector<store::KeyValue> range(std::string_view prefix) const override {
    std::lock_guard lock(mutex_);
    std::vector<store::KeyValue> out;
    for (auto it = content_.lower_bound(prefix); it != content_.end() && it->first.starts_with(prefix); ++it) {
      store::KeyValue kv;
      kv.key = it->first;
      kv.value = it->second;
      out.push_back(std::move(kv));
    }
    return out;
  }
  sync::SyncState state() const override { return {sync::Phase::in_sync, "", 1}; }

  std::unique_ptr<sync::Subscription> watch(std::vector<std::string> prefixes, boost::asio::any_io_executor executor,
                                            std::function<void(const sync::Batch&)> on_batch) override {
    auto s = std::make_shared<Subscriber>(Subscriber{std::move(prefixes), std::move(executor), std::move(on_batch)});
    std::vector<sync::Update> all;
    std::lock_guard lock(mutex_);
    for (const auto& [key, value] : content_)
      if (s->wants(key)) all.push_back({key, value, revision_});
    subscribers_.push_back(s);
    deliver(s, std::move(all));
    struct Handle final : sync::Subscription {
      explicit Handle(std::shared_ptr<Subscriber> s) : subscriber(std::move(s)) {}
      std::shared_ptr<Subscriber> subscriber;
    };
    return std::make_unique<Handle>(std::move(s));
  }

 private:
  struct Subscriber {
    std::vector<std::string> prefixes;
    boost::asio::any_io_executor executor;
    std::function<void(const sync::Batch&)> on_batch;
    bool wants(std::string_view key) const {
      for (const auto& p : prefixes)
        if (key.starts_with(p)) return true;
      return false;
    }
  };
  void deliver(const std::shared_ptr<Subscriber>& to, std::vector<sync::Update> updates) {
    sync::Batch batch;
    batch.usable = usable_;
    batch.state = {sync::Phase::in_sync, "", revision_};
    batch.updates = std::move(updates);
    boost::asio::post(to->executor, [weak = std::weak_ptr(to), batch = std::move(batch)] {
      if (auto live = weak.lock()) live->on_batch(batch);
    });
  }

  mutable std::mutex mutex_;
  std::map<std::string, std::string, std::less<>> content_;
  std::vector<std::weak_ptr<Subscriber>> subscribers_;
  store::Revision revision_ = 1;
  bool usable_;
};

}  // namespace calico::test
