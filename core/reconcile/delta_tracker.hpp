#pragma once
/// What should be, beside what is, and the difference between them: the one primitive under every writer to the kernel
/// (routes, neighbours, set elements, rules). The difference is kept up to date as either side changes, so that asking
/// for it costs nothing and applying it costs what changed.
///
///   DeltaTracker<RouteKey, Route> t;
///   t.load_actual(dumped);                      // a full read of the kernel
///   t.set_desired(key, route);                  // any number of times, any order
///   t.apply_updates([&](const auto& key, const auto& want, const auto* have) { return write(want) ? done : keep; });
///   t.apply_deletions([&](const auto& key, const auto& have) { return remove(have) ? done : keep; });
///
/// The result depends on the two states only, never on the order or number of the calls that led there.
/// Thread: the owner's loop. Owns: copies of keys and values. Errors: none; a write that fails is `keep`, the item
/// stays pending and the others go on.
#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace calico {

/// What a writer says about one item.
enum class Applied : bool {
  keep = false,  ///< not written; still pending
  done = true,   ///< the kernel has it now
};

template <class K, class V, class Hash = std::hash<K>, class Equal = std::equal_to<V>>
class DeltaTracker {
 public:
  void set_desired(const K& key, V value) {
    auto [it, fresh] = entries_.try_emplace(key);
    Entry& e = it->second;
    if (e.synced) {
      if (Equal{}(*e.desired, value)) return;
      e.actual = std::move(e.desired);
      e.synced = false;
    }
    e.desired = std::make_unique<V>(std::move(value));
    settle(key, e);
  }

  void erase_desired(const K& key) {
    auto it = entries_.find(key);
    if (it == entries_.end() || !it->second.wanted()) return;
    if (it->second.synced) it->second.actual = std::move(it->second.desired);
    it->second.synced = false;
    it->second.desired.reset();
    settle(key, it->second);
  }

  /// Replaces all of the desired state (a resync of the source).
  template <class Range>
  void load_desired(const Range& pairs) {
    std::unordered_set<K, Hash> seen;
    for (const auto& [key, value] : pairs) {
      seen.insert(key);
      set_desired(key, value);
    }
    for (const auto& key : keys_if([&](const K&k, const Entry&e) { return e.wanted() && !seen.contains(k); }))
      erase_desired(key);
  }

  /// The kernel said (event) or showed (dump) that it holds `value`.
  void set_actual(const K& key, V value) {
    auto [it, fresh] = entries_.try_emplace(key);
    it->second.synced = false;
    it->second.actual = std::make_unique<V>(std::move(value));
    settle(key, it->second);
  }

  void erase_actual(const K& key) {
    auto it = entries_.find(key);
    if (it == entries_.end()) return;
    it->second.synced = false;
    it->second.actual.reset();
    settle(key, it->second);
  }

  /// Replaces all of the actual state (a full read of the kernel). Items equal on both sides are not pending
  /// afterwards.
  template <class Range>
  void load_actual(const Range& pairs) {
    std::unordered_set<K, Hash> seen;
    for (const auto& [key, value] : pairs) {
      seen.insert(key);
      set_actual(key, value);
    }
    for (const auto& key : keys_if([&](const K&k, const Entry&e) { return e.present() && !seen.contains(k); }))
      erase_actual(key);
  }

  /// Null when not desired. Lives until the next change of this key.
  const V* desired(const K& key) const {
    auto it = entries_.find(key);
    return it == entries_.end() ? nullptr : it->second.desired.get();
  }
  /// Null when the kernel does not have it. Lives until the next change of this key.
  const V* actual(const K& key) const {
    auto it = entries_.find(key);
    return it == entries_.end() ? nullptr : it->second.has();
  }

  bool in_sync() const { return updates_.empty() && deletions_.empty(); }
  /// Items that are as desired.
  std::size_t in_sync_count() const { return entries_.size() - updates_.size() - deletions_.size(); }
  std::size_t pending_updates() const { return updates_.size(); }
  std::size_t pending_deletions() const { return deletions_.size(); }
  std::size_t size() const { return entries_.size(); }

  /// f(key, desired, actual or null) -> Applied. At most `limit` items; returns how many are done.
  template <class F>
  std::size_t apply_updates(F&& f, std::size_t limit = static_cast<std::size_t>(-1)) {
    std::size_t done = 0;
    for (const auto& key : first_of(updates_, limit)) {
      auto it = entries_.find(key);
      if (it == entries_.end() || !updates_.contains(key)) continue;  // f() changed it on the way
      if (f(std::as_const(it->first), std::as_const(*it->second.desired), std::as_const(it->second).has()) !=
          Applied::done)
        continue;
      ++done;
      mark_updated(key);
    }
    return done;
  }

  /// f(key, actual) -> Applied. At most `limit` items; returns how many are done.
  template <class F>
  std::size_t apply_deletions(F&& f, std::size_t limit = static_cast<std::size_t>(-1)) {
    std::size_t done = 0;
    for (const auto& key : first_of(deletions_, limit)) {
      auto it = entries_.find(key);
      if (it == entries_.end() || !deletions_.contains(key)) continue;
      if (f(std::as_const(it->first), std::as_const(*it->second.actual)) != Applied::done) continue;
      ++done;
      erase_actual(key);
    }
    return done;
  }

  /// For writers that batch: read what is pending, write it, then mark what the kernel acknowledged. An f() that
  /// returns bool ends the walk with false.
  template <class F>
  void for_each_update(F&& f) const {
    for (const auto& key : updates_) {
      const Entry& e = entries_.at(key);
      if (!go_on([&] { return f(key, std::as_const(*e.desired), e.has()); })) return;
    }
  }
  template <class F>
  void for_each_deletion(F&& f) const {
    for (const auto& key : deletions_)
      if (!go_on([&] { return f(key, std::as_const(*entries_.at(key).actual)); })) return;
  }
  /// The desired value of `key` is in the kernel now.
  void mark_updated(const K& key) {
    auto it = entries_.find(key);
    if (it == entries_.end() || !it->second.desired) return;
    it->second.actual.reset();
    it->second.synced = true;
    settle(key, it->second);
  }
  /// `key` is gone from the kernel.
  void mark_deleted(const K& key) { erase_actual(key); }

  template <class F>
  void for_each_desired(F&& f) const {
    for (const auto& [key, e] : entries_)
      if (e.desired) f(key, std::as_const(*e.desired));
  }
  template <class F>
  void for_each_actual(F&& f) const {
    for (const auto& [key, e] : entries_)
      if (const V* v = e.has()) f(key, *v);
  }

 private:
  /// A synced item holds its value once, in `desired`.
  struct Entry {
    std::unique_ptr<V> desired;
    std::unique_ptr<V> actual;
    bool synced = false;
    bool wanted() const { return desired != nullptr; }
    bool present() const { return synced || actual != nullptr; }
    const V* has() const { return synced ? desired.get() : actual.get(); }
  };

  template <class F>
  static bool go_on(F&& f) {
    if constexpr (std::is_same_v<decltype(f()), bool>) {
      return f();
    } else {
      f();
      return true;
    }
  }

  void settle(const K& key, Entry& e) {
    if (e.desired && e.actual && Equal{}(*e.desired, *e.actual)) {
      e.actual.reset();
      e.synced = true;
    }
    if (!e.desired && !e.actual) {
      const K copy = key;  // `key` may live in the node
      updates_.erase(copy);
      deletions_.erase(copy);
      entries_.erase(copy);
      return;
    }
    if (e.desired && !e.synced)
      updates_.insert(key);
    else
      updates_.erase(key);
    if (!e.desired)
      deletions_.insert(key);
    else
      deletions_.erase(key);
  }

  static std::vector<K> first_of(const std::unordered_set<K, Hash>& s, std::size_t limit) {
    std::vector<K> v;
    v.reserve(std::min(limit, s.size()));
    for (const auto& k : s) {
      if (v.size() == limit) break;
      v.push_back(k);
    }
    return v;
  }
  template <class P>
  std::vector<K> keys_if(P&& p) const {
    std::vector<K> v;
    for (const auto& [k, e] : entries_)
      if (p(k, e)) v.push_back(k);
    return v;
  }

  std::unordered_map<K, Entry, Hash> entries_;
  std::unordered_set<K, Hash> updates_;
  std::unordered_set<K, Hash> deletions_;
};

}  // namespace calico
