#pragma once
/// All routes: prefixes under dense ids, the paths each peer gave for them, and the decision process.
/// Thread: loop. Owns: prefixes, paths, next hops; borrows the attribute store. Errors: none.
/// RFC: 4271 9.1.2 (decision), 4456 9 (its tie-breaks with reflection). Deviation: between routes that are equal down
/// to the IGP cost, one that is not stale wins (4724 leaves stale routes equal; a fresh copy of the same route is
/// surer).
///
/// A prefix id stays valid while the prefix has a path, is dirty, or is pinned by somebody who remembers the id (a peer
/// that was sent it). Ids are dense and reused, so per-peer state is a plain vector.
#include <cstdint>
#include <functional>
#include <unordered_map>
#include <vector>

#include "core/base/ip.hpp"
#include "core/bgp/engine.hpp"
#include "core/bgp/rib/attr_store.hpp"
#include "core/bgp/rib/policy.hpp"

namespace calico::bgp {

using PrefixId = std::uint32_t;
using PathId = std::uint32_t;
using RibPeerId = std::uint32_t;
using HopId = std::uint32_t;
inline constexpr std::uint32_t kNone = ~std::uint32_t{0};
/// The peer id of this host's own routes.
inline constexpr RibPeerId kLocalPeer = 0;

struct Path {
  RibPeerId peer = kNone;
  AttrId attr = kNoAttr;
  HopId hop = kNone;  ///< kNone: needs none (local)
  PathId next = kNone;
  std::uint32_t since_ms = 0;  ///< of the engine's clock
  bool stale = false;
};

struct RibPeer {
  Source::Kind kind = Source::Kind::internal;
  bool client = false, used = false;
  std::uint32_t router_id = 0;
  Ip address;
  std::uint32_t paths[2] = {0, 0}, stale[2] = {0, 0};  // v4, v6
};

/// A BGP next hop and what the resolver said.
struct Hop {
  Ip ip;
  std::uint32_t refs = 0;
  std::uint32_t version = 0;  ///< raised when the answer changes
  bool reachable = false;
  ResolvedHop resolved;
  std::string why_not;
};

class Rib {
 public:
  using Resolve = std::function<Result<ResolvedHop>(const Ip&)>;
  Rib(AttrStore& attrs, Resolve resolve);

  [[nodiscard]] RibPeerId add_peer(RibPeer peer);
  /// Its paths must be gone.
  void remove_peer(RibPeerId id);
  RibPeer& peer(RibPeerId id) { return peers_[id]; }
  const RibPeer& peer(RibPeerId id) const { return peers_[id]; }

  /// Takes over one reference to `attr`. False: the same route was there already (it is fresh now).
  bool announce(RibPeerId peer, const Prefix& prefix, AttrId attr, std::uint32_t now_ms);
  bool withdraw(RibPeerId peer, const Prefix& prefix);
  void mark_stale(RibPeerId peer, Family family);
  /// Removes the peer's stale paths (or all of them) of a family; how many.
  std::size_t drop(RibPeerId peer, Family family, bool stale_only);
  /// After something that changes the decision for all of a peer's paths (client flag).
  void touch(RibPeerId peer);

  /// Resolves one or all next hops again; prefixes whose answer changed become dirty.
  void resolve_again(const Ip* only);

  /// Prefixes to decide again. `f(id)` for at most `max` of them; returns whether some are left.
  bool take_dirty(std::size_t max, const std::function<void(PrefixId)>& f);
  bool dirty() const { return !dirty_.empty(); }

  /// The winner, computed afresh; kNone: none.
  PathId select(PrefixId id) const;
  /// The winner of the last take_dirty turn that saw this prefix.
  PathId best(PrefixId id) const { return prefixes_[id].best; }
  void set_best(PrefixId id, PathId path) { prefixes_[id].best = path; }

  const Path& path(PathId id) const { return paths_[id]; }
  const Hop* hop(const Path& p) const { return p.hop == kNone ? nullptr : &hops_[p.hop]; }
  PathId first_path(PrefixId id) const { return prefixes_[id].first; }
  const Prefix& prefix(PrefixId id) const { return prefixes_[id].prefix; }
  bool used(PrefixId id) const { return prefixes_[id].used; }
  /// Ids run from 0 to this.
  std::size_t id_limit() const { return prefixes_.size(); }
  PrefixId find(const Prefix& prefix) const;
  PrefixId longest_match(const Ip& ip) const;

  void pin(PrefixId id) { ++prefixes_[id].pins; }
  void unpin(PrefixId id);

  struct Counts {
    std::size_t routes[2] = {0, 0}, networks[2] = {0, 0};
  };
  Counts counts() const { return counts_; }

 private:
  struct Entry {
    Prefix prefix;
    PathId first = kNone, best = kNone;
    std::uint32_t pins = 0;
    bool dirty = false, used = false;
  };
  PrefixId find_or_add(const Prefix& prefix);
  void make_dirty(PrefixId id);
  void maybe_free(PrefixId id);
  void unlink(PrefixId id, PathId path);
  HopId hop_ref(const Ip& ip);
  void hop_unref(HopId id);
  bool usable(const Path& p) const { return p.hop == kNone || hops_[p.hop].reachable; }

  AttrStore& attrs_;
  Resolve resolve_;
  std::vector<RibPeer> peers_;
  std::vector<Entry> prefixes_;
  std::vector<PrefixId> free_prefixes_;
  std::unordered_map<Prefix, PrefixId> index_;
  std::uint32_t lengths_[2][129] = {};  // prefixes of each length, for longest_match
  std::vector<Path> paths_;
  std::vector<PathId> free_paths_;
  std::vector<Hop> hops_;
  std::vector<HopId> free_hops_;
  std::unordered_map<Ip, HopId> hop_index_;
  std::vector<PrefixId> dirty_;
  Counts counts_;
};

inline std::size_t fam(Family f) { return f == Family::v4 ? 0 : 1; }

}  // namespace calico::bgp
