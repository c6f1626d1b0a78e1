#pragma once
/// BGP's own routes, wanted beside what the kernel holds, and the difference: what core/reconcile's DeltaTracker is to
/// other writers, for a table of 100,000 and more. An entry is 48 bytes in chunks that never move, changed and looked
/// up without allocation; what is pending hangs in lists through the entries, so a slice of work costs its own size.
///
///   Ways ways;
///   RouteTable t(ways, 2048);
///   t.set_desired(prefix, 2048, ways.of_object(7));
///   for (auto id = t.first(Pending::update); ...)       // write it, then
///   t.written(id);
///
/// A route's way (what comes after the destination) is interned: a nexthop object's id, or next hops. Comparing,
/// copying and counting the routes of a way is then comparing, copying and counting a number. Thread: the owner's loop.
/// Owns: the entries; borrows `ways`. Errors: none. Pure: fed by core/bgp/kernel*.cpp.
#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/netlink/types.hpp"

namespace calico::bgp {

using WayId = std::uint32_t;
inline constexpr WayId kNoWay = 0;

struct Way {
  std::uint32_t object = 0;  ///< a nexthop object of the kernel; then no next hops
  std::vector<netlink::NextHop> hops;
};

/// Interned ways, counted. A way nobody refers to is forgotten by collect().
class Ways {
 public:
  Ways();
  WayId of_object(std::uint32_t object);
  /// Sorted as netlink::normalised() does.
  WayId of_hops(const std::vector<netlink::NextHop>& hops);
  WayId of(const netlink::Route& r) { return r.nexthop_id ? of_object(r.nexthop_id) : of_hops(r.nexthops); }
  const Way& at(WayId id) const { return ways_[id].way; }
  void ref(WayId id) { ++ways_[id].refs; }
  void unref(WayId id);
  std::size_t refs(WayId id) const { return ways_[id].refs; }
  /// kNoWay when no route is known to name it.
  WayId find_object(std::uint32_t object) const;
  /// Ways of plain next hops over this device.
  std::vector<WayId> over(IfIndex dev) const;
  /// Forgets what has no references; the objects that at most one reference (their owner's) names since the last call.
  std::vector<std::uint32_t> collect();

 private:
  struct Slot {
    Way way;
    std::size_t refs = 0;
    bool used = false, noted = false;
  };
  using Content = std::vector<netlink::NextHop>;
  struct ContentHash {
    std::size_t operator()(const Content& hops) const noexcept;
  };
  WayId add(Way way);
  std::vector<Slot> ways_;
  std::vector<WayId> free_, idle_;
  std::unordered_map<std::uint32_t, WayId> by_object_;
  std::unordered_map<Content, WayId, ContentHash> by_hops_;
};

enum class Pending : std::uint8_t {
  none,       ///< as wanted
  update,     ///< to be written
  deletion,   ///< ours to remove
  left_over,  ///< of an earlier life, nobody has said a word about it yet
  parked,     ///< could not be written or removed; waits for unpark()
};

class RouteTable {
 public:
  using Id = std::uint32_t;
  static constexpr Id kNone = UINT32_MAX;
  struct Entry {
    Prefix prefix;
    std::uint32_t metric = 0;
    WayId desired = kNoWay, actual = kNoWay;

   private:
    friend class RouteTable;
    Id prev = kNone, next = kNone;
    Pending pending = Pending::none;
    bool used = false, withdrawn = false;
    std::uint8_t epoch = 0;
  };

  /// `metric` is what nearly all routes have; those of other metrics are found by prefix too (others()).
  RouteTable(Ways& ways, std::uint32_t metric);

  void set_desired(const Prefix& prefix, std::uint32_t metric, WayId way);
  /// Said by the source of routes: what the kernel has of it may go, whatever life it is of.
  void erase_desired(const Prefix& prefix, std::uint32_t metric);
  void set_actual(const Prefix& prefix, std::uint32_t metric, WayId way);
  void erase_actual(const Prefix& prefix, std::uint32_t metric);
  /// The kernel has dropped all routes of these ways. f(prefix, metric) for each.
  template <class F>
  void erase_actual_of(const std::vector<WayId>& ways, F&& f) {
    if (ways.empty()) return;
    std::vector<bool> lost;
    for (const auto way : ways) {
      if (way >= lost.size()) lost.resize(way + 1);
      lost[way] = way != kNoWay;
    }
    for (Id id = 0; id < limit_; ++id) {
      const Entry& e = slot(id);
      if (!e.used || e.actual >= lost.size() || !lost[e.actual]) continue;
      f(e.prefix, e.metric);
      change(id, e.desired, kNoWay);
    }
  }
  /// Whatever wanted `from` wants `to`.
  void move_desired(WayId from, WayId to);

  Id find(const Prefix& prefix, std::uint32_t metric) const;
  const Entry& at(Id id) const { return slot(id); }
  Pending pending(Id id) const { return slot(id).pending; }
  Id first(Pending list) const { return lists_[static_cast<std::size_t>(list)].head; }
  Id next(Id id) const { return slot(id).next; }
  std::size_t count(Pending list) const { return lists_[static_cast<std::size_t>(list)].size; }
  std::size_t in_sync() const { return in_sync_; }
  std::size_t size() const { return size_; }
  /// Another metric of this prefix is wanted and not in the kernel yet.
  bool replacement_due(Id id) const;
  /// Metrics of this prefix beside the usual one; null when there are none.
  const std::vector<std::uint32_t>* others(const Prefix& prefix) const;

  /// The kernel acknowledged the update (it has what is desired), or the removal.
  void written(Id id);
  void removed(Id id);
  void park(Id id);
  void unpark(const Prefix& prefix);
  void unpark_all();

  /// A full read in slices: begin_read(), seen() for each route the kernel showed (not for those that changed since the
  /// read began), then sweep_unseen() until it returns false: what was not shown is no longer there. `keep` says which
  /// keys changed meanwhile.
  void begin_read() { ++epoch_; }
  void seen(const Prefix& prefix, std::uint32_t metric, WayId way);
  template <class F>
  bool sweep_unseen(Id& at, std::size_t budget, F&& keep) {
    for (; budget > 0 && at < limit_; ++at, --budget) {
      const Entry& e = slot(at);
      if (!e.used || e.actual == kNoWay || e.epoch == epoch_ || keep(e.prefix, e.metric)) continue;
      erase_actual(Prefix(e.prefix), e.metric);
    }
    return at < limit_;
  }

 private:
  static constexpr std::size_t kChunk = 1024;
  struct List {
    Id head = kNone, tail = kNone;
    std::size_t size = 0;
  };
  Entry& slot(Id id) { return chunks_[id / kChunk][id % kChunk]; }
  const Entry& slot(Id id) const { return chunks_[id / kChunk][id % kChunk]; }
  std::size_t home(const Prefix& prefix, std::uint32_t metric) const;
  Id find_or_add(const Prefix& prefix, std::uint32_t metric);
  void grow();
  void release(Id id);
  void move(Id id, Pending list);
  void settle(Id id);
  void change(Id id, WayId desired, WayId actual);

  Ways& ways_;
  std::uint32_t metric_;
  std::vector<std::unique_ptr<Entry[]>> chunks_;
  std::vector<Id> free_;
  std::vector<Id> index_;  // open addressing, a power of two
  std::size_t size_ = 0, in_sync_ = 0;
  Id limit_ = 0;
  List lists_[5];
  std::unordered_map<Prefix, std::vector<std::uint32_t>> others_;
  std::uint8_t epoch_ = 0;
};

}  // namespace calico::bgp
