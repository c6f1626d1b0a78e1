#pragma once
/// Prefixes under dense ids. IPv4 costs 8 bytes a prefix and a slot of 5 bytes in the hash index, IPv6 16 bytes more.
/// Ids are reused after erase(). A look-up reads a prefix only where one byte of its hash fits, so it rarely misses the
/// cache more than twice. Thread: any, one at a time. Owns: the prefixes. Errors: none.
#include <array>
#include <cstdint>
#include <vector>

#include "core/base/ip.hpp"
#include "core/bgp/rib/blocks.hpp"

namespace calico::bgp {

using PrefixId = std::uint32_t;
inline constexpr std::uint32_t kNone = ~std::uint32_t{0};

inline std::size_t fam(Family f) { return f == Family::v4 ? 0 : 1; }

class PrefixTable {
 public:
  PrefixTable();

  PrefixId find(const Prefix& prefix) const;
  /// The memory a look-up of this prefix will read first, asked for ahead: a list of prefixes is a list of cache
  /// misses.
  void prefetch(const Prefix& prefix) const;
  /// `prefix` is masked. The second tells whether it is new.
  std::pair<PrefixId, bool> find_or_add(const Prefix& prefix);
  void erase(PrefixId id);

  Prefix at(PrefixId id) const;
  Family family(PrefixId id) const { return (keys_[id].kind & kV6) != 0 ? Family::v6 : Family::v4; }
  bool used(PrefixId id) const { return (keys_[id].kind & kUsed) != 0; }
  /// Ids run from 0 to this.
  std::size_t limit() const { return keys_.size(); }
  std::size_t size() const { return size_; }

 private:
  static constexpr std::uint8_t kUsed = 1, kV6 = 2;
  using V6 = std::array<std::byte, 16>;
  struct Key {
    std::uint32_t value = 0;  // IPv4: the address; IPv6: a row of v6_; free: the next free id
    std::uint8_t len = 0, kind = 0;
  };
  std::uint64_t hash(PrefixId id) const;
  bool equal(PrefixId id, const Prefix& prefix) const;
  /// f(slot) for the slots a hash may be in whose tag fits, until f is true or the chain ends; the slot, or kNoSlot.
  template <class F>
  std::size_t probe(std::uint64_t h, F&& f) const;
  void rehash(std::size_t slots);

  Blocks<Key> keys_;
  Blocks<V6> v6_;
  std::vector<std::uint32_t> free_v6_;
  PrefixId free_ = kNone;
  // Linear probing, at most 3/4 full (with what was erased). A tag: empty, erased, or some bits of the hash.
  static constexpr std::uint8_t kEmpty = 0, kErased = 1;
  static constexpr std::size_t kNoSlot = ~std::size_t{0};
  static std::uint8_t tag_of(std::uint64_t h) { return static_cast<std::uint8_t>(h >> 56 | 2); }
  std::vector<std::uint8_t> tags_;
  std::vector<PrefixId> slots_;
  std::size_t size_ = 0, taken_ = 0;  // taken: size and the erased
};

}  // namespace calico::bgp
