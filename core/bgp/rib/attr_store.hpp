#pragma once
/// Attribute sets, each kept once in canonical wire form under a dense id: equal routes share one set and are compared
/// by id. The fields the decision process needs lie decoded beside the bytes. Thread: loop. Owns: the sets, by
/// reference count; an id is valid while somebody holds a reference and is reused later, so whoever remembers an id to
/// compare with holds a reference. Errors: none.
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "core/bgp/codec/attributes.hpp"
#include "core/bgp/rib/blocks.hpp"

namespace calico::bgp {

using AttrId = std::uint32_t;
using HopId = std::uint32_t;
inline constexpr AttrId kNoAttr = ~AttrId{0};
inline constexpr HopId kNoHop = ~HopId{0};

struct AttrSet {
  std::unique_ptr<std::byte[]> bytes;  ///< canonical (encode_attributes)
  std::uint32_t size = 0;
  std::uint32_t refs = 0;
  std::uint32_t hash = 0;
  HopId hop = kNoHop;  ///< of the RIB, while a peer's path uses the set
  Ip next_hop;
  std::uint8_t origin = 0;
  bool no_export : 1 = false, no_advertise : 1 = false;  ///< RFC 1997 (no_export: also NO_EXPORT_SUBCONFED)
  bool has_originator : 1 = false;
  bool llgr_stale : 1 = false, no_llgr : 1 = false;  ///< RFC 9494
  std::uint16_t cluster_count = 0, path_length = 0;
  std::uint32_t local_pref = 100, med = 0;
  std::uint32_t neighbor_as = 0;  ///< first of a leading sequence, 0 = none
  std::uint32_t originator_id = 0;

  View blob() const { return {bytes.get(), size}; }
};

class AttrStore {
 public:
  AttrStore();
  AttrStore(const AttrStore&) = delete;
  AttrStore& operator=(const AttrStore&) = delete;

  /// Finds or adds; the caller holds one more reference.
  [[nodiscard]] AttrId intern(const Attrs& attrs);
  void ref(AttrId id) { ++sets_[id].refs; }
  /// kNoAttr is allowed.
  void unref(AttrId id);
  const AttrSet& at(AttrId id) const { return sets_[id]; }
  AttrSet& at(AttrId id) { return sets_[id]; }
  /// The whole set as a value again.
  [[nodiscard]] Attrs decode(AttrId id) const;
  std::size_t size() const { return size_; }
  /// Called before a set goes (the RIB lets go of its next hop).
  void on_free(std::function<void(AttrSet&)> f) { on_free_ = std::move(f); }

 private:
  struct Slot {
    AttrId id = kNoAttr;
    std::uint32_t hash = 0;
  };
  std::size_t slot_of(std::size_t h) const { return h & (slots_.size() - 1); }
  void grow();

  Blocks<AttrSet, 1024> sets_;
  std::vector<AttrId> free_;
  std::vector<Slot> slots_;  // open addressing by hash, at most 3/4 full
  std::size_t size_ = 0;
  std::function<void(AttrSet&)> on_free_;
};

}  // namespace calico::bgp
