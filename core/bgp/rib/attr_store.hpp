#pragma once
/// Attribute sets, each kept once in canonical wire form under a dense id: equal routes share one set and are compared
/// by id. The fields the decision process needs lie decoded beside the bytes. Thread: loop. Owns: the sets, by
/// reference count; an id is valid while somebody holds a reference and is reused later, so whoever remembers an id to
/// compare with holds a reference. Errors: none.
#include <cstdint>
#include <unordered_set>
#include <vector>

#include "core/bgp/codec/attributes.hpp"

namespace calico::bgp {

using AttrId = std::uint32_t;
inline constexpr AttrId kNoAttr = ~AttrId{0};

struct AttrSet {
  Bytes blob;  ///< canonical (encode_attributes)
  Ip next_hop;
  std::uint64_t hash = 0;
  std::uint32_t refs = 0;
  std::uint32_t local_pref = 100, med = 0, path_length = 0;
  std::uint32_t neighbor_as = 0;  ///< first of a leading sequence, 0 = none
  std::optional<std::uint32_t> originator_id;
  std::uint16_t cluster_count = 0;
  std::uint8_t origin = 0;
  bool no_export = false, no_advertise = false;  ///< RFC 1997 (no_export: also NO_EXPORT_SUBCONFED)
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
  /// The whole set as a value again.
  [[nodiscard]] Attrs decode(AttrId id) const;
  std::size_t size() const { return index_.size(); }

 private:
  struct Key {
    View blob;
    const Ip* next_hop;
    std::uint64_t hash;
  };
  struct Hash {
    using is_transparent = void;
    const AttrStore* store;
    std::size_t operator()(AttrId id) const { return store->sets_[id].hash; }
    std::size_t operator()(const Key& k) const { return k.hash; }
  };
  struct Equal {
    using is_transparent = void;
    const AttrStore* store;
    bool operator()(AttrId a, AttrId b) const { return a == b; }
    bool operator()(const Key& k, AttrId id) const;
    bool operator()(AttrId id, const Key& k) const { return (*this)(k, id); }
  };
  std::vector<AttrSet> sets_;
  std::vector<AttrId> free_;
  std::unordered_set<AttrId, Hash, Equal> index_;
};

}  // namespace calico::bgp
