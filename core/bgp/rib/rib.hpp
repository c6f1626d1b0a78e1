#pragma once
/// All routes: prefixes under dense ids, the paths each peer gave for them, and the decision process.
/// Thread: loop. Owns: prefixes, paths, next hops; borrows the attribute store. Errors: none.
/// RFC: 4271 9.1.2 (decision), 4456 9 (its tie-breaks with reflection), 7911 (several paths of one peer), 9494 4.3
/// (LLGR_STALE is the last choice). Deviation:
/// between routes that are equal down to the IGP cost, one that is not stale wins (4724 leaves stale routes equal; a
/// fresh copy of the same route is surer).
///
/// A prefix id stays valid while the prefix has a path, is dirty, or is pinned by somebody who remembers the id (a
/// group that was sent it). Ids are dense and reused, so per-group state is a plain array. A route costs 20 bytes for
/// its prefix, 32 for its path and 7 to 13 in the index.
#include <cstdint>
#include <functional>
#include <unordered_map>
#include <vector>

#include "core/base/ip.hpp"
#include "core/bgp/engine.hpp"
#include "core/bgp/rib/attr_store.hpp"
#include "core/bgp/rib/policy.hpp"
#include "core/bgp/rib/prefix_table.hpp"

namespace calico::bgp {

using PathId = std::uint32_t;
using RibPeerId = std::uint32_t;
/// The peer id of this host's own routes.
inline constexpr RibPeerId kLocalPeer = 0;

struct Path {
  std::uint32_t peer : 30 = 0;
  std::uint32_t stale : 1 = 0;
  std::uint32_t unconfirmed : 1 = 0;  ///< not yet heard again in a refresh (RFC 7313); decides nothing
  AttrId attr = kNoAttr;
  PrefixId prefix = kNone;
  PathId next = kNone;                                   ///< of the same prefix
  PathId before_of_peer = kNone, after_of_peer = kNone;  ///< of the same peer and family
  std::uint32_t path_id = 0;                             ///< received with it (RFC 7911); 0 without add-path
  std::uint32_t since_ms = 0;                            ///< of the engine's clock
};

struct RibPeer {
  Source::Kind kind = Source::Kind::internal;
  bool client = false, used = false;
  std::uint32_t router_id = 0;
  Ip address;
  std::uint32_t paths[2] = {0, 0}, stale[2] = {0, 0}, preferred[2] = {0, 0};  // v4, v6
  PathId first[2] = {kNone, kNone};
};

/// A BGP next hop and what the resolver said.
struct Hop {
  Ip ip;
  std::uint32_t refs = 0;     // attribute sets
  std::uint32_t version = 0;  ///< raised when the answer changes
  bool reachable = false, changed = false;
  Resolution resolved;
  std::string why_not;
};

class Rib {
 public:
  using Resolve = std::function<Result<Resolution>(const Ip&)>;
  Rib(AttrStore& attrs, Resolve resolve);

  [[nodiscard]] RibPeerId add_peer(RibPeer peer);
  /// Its paths must be gone.
  void remove_peer(RibPeerId id);
  RibPeer& peer(RibPeerId id) { return peers_[id]; }
  const RibPeer& peer(RibPeerId id) const { return peers_[id]; }

  /// Takes over one reference to `attr`. False: the same route was there already (it is fresh now).
  bool announce(RibPeerId peer, const Prefix& prefix, AttrId attr, std::uint32_t now_ms, std::uint32_t path_id = 0);
  bool withdraw(RibPeerId peer, const Prefix& prefix, std::uint32_t path_id = 0);
  void mark_stale(RibPeerId peer, Family family);
  /// Removes the peer's stale paths (or all of them) of a family; how many.
  std::size_t drop(RibPeerId peer, Family family, bool stale_only);
  /// The peer's stale paths of a family live on as the last choice: they get LLGR_STALE, and those with NO_LLGR go; how
  /// many (RFC 9494 4.2).
  std::size_t make_long_lived(RibPeerId peer, Family family);
  /// A peer says everything again: what it did not say by the end goes. Until then nothing changes.
  void begin_refresh(RibPeerId peer, Family family);
  std::size_t end_refresh(RibPeerId peer, Family family);
  /// After something that changes the decision for all of a peer's paths (client flag).
  void touch(RibPeerId peer);

  /// Resolves one or all next hops again; prefixes whose answer changed become dirty (found by one look at all of them
  /// for all next hops of a turn).
  void resolve_again(const Ip* only);

  /// Prefixes to decide again, in the order they changed. `f(id)` for at most `max` of them; returns whether some are
  /// left.
  template <class F>
  bool take_dirty(std::size_t max, F&& f) {
    if (hops_changed_) find_changed_hops();
    for (std::size_t n = 0; n < max && dirty_at_ < dirty_.size(); ++n) {
      const auto id = dirty_[dirty_at_++];
      pin(id);
      entries_[id].dirty = 0;
      f(id);
      unpin(id);
    }
    // Under a load that never ends the front is cut off now and then.
    if (dirty_at_ == dirty_.size() || dirty_at_ > 65536) {
      dirty_.erase(dirty_.begin(), dirty_.begin() + static_cast<std::ptrdiff_t>(dirty_at_));
      dirty_at_ = 0;
    }
    return dirty();
  }
  bool dirty() const { return hops_changed_ || dirty_at_ < dirty_.size(); }

  /// The winner, computed afresh; kNone: none.
  PathId select(PrefixId id) const;
  /// The winner first, then those that are as good down to the cost of the next hop, over other next hops: at most
  /// `max` in all. `out` is cleared.
  void select_equal(PrefixId id, std::size_t max, std::vector<PathId>& out) const;
  /// The winner of the last take_dirty turn that saw this prefix.
  PathId best(PrefixId id) const { return entries_[id].best; }
  void set_best(PrefixId id, PathId path);

  const Path& path(PathId id) const { return paths_[id]; }
  /// Null: needs none (local).
  const Hop* hop(const Path& p) const { return p.peer == kLocalPeer ? nullptr : &hops_[attrs_.at(p.attr).hop]; }
  bool usable(const Path& p) const { return p.peer == kLocalPeer || hops_[attrs_.at(p.attr).hop].reachable; }
  PathId first_path(PrefixId id) const { return entries_[id].first; }
  Prefix prefix(PrefixId id) const { return table_.at(id); }
  Family family(PrefixId id) const { return table_.family(id); }
  bool used(PrefixId id) const { return table_.used(id); }
  /// Ids run from 0 to this.
  std::size_t id_limit() const { return table_.limit(); }
  PrefixId find(const Prefix& prefix) const { return table_.find(prefix); }
  void prefetch(const Prefix& prefix) const { table_.prefetch(prefix); }
  PrefixId longest_match(const Ip& ip) const;
  /// The id of a prefix that may have no path any more; the caller pins it at once.
  PrefixId find_or_add(const Prefix& prefix);

  void pin(PrefixId id) { ++entries_[id].pins; }
  void unpin(PrefixId id);

  struct Counts {
    std::size_t routes[2] = {0, 0}, networks[2] = {0, 0};
  };
  Counts counts() const { return counts_; }

 private:
  struct Entry {
    PathId first = kNone, best = kNone;
    std::uint32_t pins : 31 = 0;
    std::uint32_t dirty : 1 = 0;
  };
  void make_dirty(PrefixId id);
  void maybe_free(PrefixId id);
  PathId find_path(PrefixId id, RibPeerId peer, std::uint32_t path_id) const;
  void unlink(PathId path);
  void take_hop(AttrId attr);
  void hop_unref(HopId id);
  void find_changed_hops();
  void candidates(PrefixId id, std::vector<PathId>& c) const;
  void final_choice(std::vector<PathId>& c) const;

  AttrStore& attrs_;
  Resolve resolve_;
  std::vector<RibPeer> peers_;
  PrefixTable table_;
  Blocks<Entry> entries_;
  std::uint32_t lengths_[2][129] = {};  // prefixes of each length, for longest_match
  Blocks<Path> paths_;
  PathId free_path_ = kNone;
  std::vector<Hop> hops_;
  std::vector<HopId> free_hops_;
  bool hops_changed_ = false;
  std::unordered_map<Ip, HopId> hop_index_;
  std::vector<PrefixId> dirty_;
  std::size_t dirty_at_ = 0;
  Counts counts_;
  mutable std::vector<PathId> scratch_;
};

}  // namespace calico::bgp
