#pragma once
/// The key space in memory and the rules of etcd's operations over it: pure, no SQL, no threads. Kv evaluates a group
/// of requests against `Staged` (what is committed plus what the group did so far) and merges it after the commit.
///
/// Thread: none of its own. Errors: invalid (empty key, too many operations, a key twice), exhausted (too large).
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/store/datastore.hpp"
#include "core/store/kv.hpp"

namespace calico::store {

inline constexpr std::size_t kMaxTxnOps = 128;
inline constexpr std::size_t kMaxRequestBytes = 1536 * 1024;

struct KeyOrder {
  using is_transparent = void;
  bool operator()(const KvPtr& a, const KvPtr& b) const { return a->key < b->key; }
  bool operator()(const KvPtr& a, std::string_view b) const { return a->key < b; }
  bool operator()(std::string_view a, const KvPtr& b) const { return a < b->key; }
};
using Index = std::set<KvPtr, KeyOrder>;

/// [key, end) as requests say it: empty end = the one key, "\0" = no end.
struct KeySpan {
  std::string_view key;
  std::string_view end;
  bool single() const { return end.empty(); }
  bool open() const { return end.size() == 1 && end[0] == '\0'; }
  bool contains(std::string_view k) const { return single() ? k == key : k >= key && (open() || k < end); }
};

/// The committed keys with a group's changes over them.
class Staged {
 public:
  explicit Staged(const Index& base) : base_(base) {}
  KvPtr get(std::string_view key) const;
  /// In key order; `f` returns false to stop.
  void each(KeySpan span, const std::function<bool(const KvPtr&)>& f) const;
  void set(KvPtr kv);
  void erase(std::string_view key);
  /// Key → value, nullptr = erased.
  const std::map<std::string, KvPtr, std::less<>>& changes() const { return changes_; }
  void clear() { changes_.clear(); }

 private:
  const Index& base_;
  std::map<std::string, KvPtr, std::less<>> changes_;
};

/// Limit, order and count of a range over what `each` hands out in key order.
struct Selected {
  std::vector<KvPtr> kvs;
  std::int64_t count = 0;
  bool more = false;
};
[[nodiscard]] Selected select(const RangeRequest& request,
                              const std::function<void(const std::function<bool(const KvPtr&)>&)>& each);
/// Copies the selected values out.
[[nodiscard]] RangeResult materialise(const RangeRequest& request, const Selected& selected, Revision revision);

/// Shape and size, before anything is looked up.
[[nodiscard]] Status check(const RangeRequest& request);
[[nodiscard]] Status check(const PutRequest& request);
[[nodiscard]] Status check(const DeleteRequest& request);
[[nodiscard]] Status check(const TxnRequest& request);

/// A compare of one key with what it has; nullptr = there is none.
[[nodiscard]] bool holds(const Compare& compare, const KeyValue* kv);
/// With its range.
[[nodiscard]] bool holds(const Compare& compare, const Staged& staged);

}  // namespace calico::store
