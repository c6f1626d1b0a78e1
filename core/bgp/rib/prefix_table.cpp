#include "core/bgp/rib/prefix_table.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <random>

namespace calico::bgp {

namespace {

/// Peers choose the prefixes, so where they fall must not be theirs to choose.
std::uint64_t seed() {
  static const std::uint64_t s = [] {
    std::random_device d;
    return std::uint64_t{d()} << 32 | d();
  }();
  return s;
}

std::uint64_t mix(std::uint64_t x) {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ULL;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ULL;
  return x ^ x >> 32;
}

std::uint64_t hash_v4(std::uint32_t address, std::uint8_t len) {
  return mix((std::uint64_t{address} << 8 | len) ^ seed());
}

std::uint64_t hash_v6(std::span<const std::byte> b, std::uint8_t len) {
  std::uint64_t hi = 0, lo = 0;
  std::memcpy(&hi, b.data(), 8);
  std::memcpy(&lo, b.data() + 8, 8);
  return mix(mix(hi ^ seed()) ^ lo ^ std::uint64_t{len} << 56);
}

std::uint64_t hash_of(const Prefix& p) {
  return p.addr.is_v4() ? hash_v4(p.addr.to_v4(), p.len) : hash_v6(p.addr.bytes(), p.len);
}

}  // namespace

PrefixTable::PrefixTable() : tags_(64, kEmpty), slots_(64, kNone) {}

template <class F>
std::size_t PrefixTable::probe(std::uint64_t h, F&& f) const {
  const auto mask = tags_.size() - 1;
  const auto tag = tag_of(h);
  for (auto s = h & mask; tags_[s] != kEmpty; s = (s + 1) & mask)
    if (tags_[s] == tag && f(s)) return s;
  return kNoSlot;
}

std::uint64_t PrefixTable::hash(PrefixId id) const {
  const auto& k = keys_[id];
  return (k.kind & kV6) != 0 ? hash_v6(v6_[k.value], k.len) : hash_v4(k.value, k.len);
}

bool PrefixTable::equal(PrefixId id, const Prefix& p) const {
  const auto& k = keys_[id];
  if (k.len != p.len || ((k.kind & kV6) != 0) != p.addr.is_v6()) return false;
  if (p.addr.is_v4()) return k.value == p.addr.to_v4();
  return std::ranges::equal(v6_[k.value], p.addr.bytes());
}

PrefixId PrefixTable::find(const Prefix& prefix) const {
  const auto s = probe(hash_of(prefix), [&](std::size_t at) { return equal(slots_[at], prefix); });
  return s == kNoSlot ? kNone : slots_[s];
}

void PrefixTable::prefetch(const Prefix& prefix) const {
  const auto s = hash_of(prefix) & (tags_.size() - 1);
  __builtin_prefetch(&tags_[s]);
  __builtin_prefetch(&slots_[s]);
}

std::pair<PrefixId, bool> PrefixTable::find_or_add(const Prefix& prefix) {
  const auto h = hash_of(prefix);
  if (const auto s = probe(h, [&](std::size_t at) { return equal(slots_[at], prefix); }); s != kNoSlot)
    return {slots_[s], false};
  if ((taken_ + 1) * 4 > slots_.size() * 3)
    // Erased ones alone fill it: the same size serves again.
    rehash(size_ * 2 > slots_.size() ? slots_.size() * 2 : slots_.size());
  PrefixId id = free_;
  if (id == kNone) {
    id = static_cast<PrefixId>(keys_.size());
    keys_.emplace_back();
  } else {
    free_ = keys_[id].value;
  }
  auto& k = keys_[id];
  k.len = prefix.len;
  k.kind = kUsed;
  if (prefix.addr.is_v4()) {
    k.value = prefix.addr.to_v4();
  } else {
    k.kind |= kV6;
    if (free_v6_.empty()) {
      k.value = static_cast<std::uint32_t>(v6_.size());
      v6_.emplace_back();
    } else {
      k.value = free_v6_.back();
      free_v6_.pop_back();
    }
    std::ranges::copy(prefix.addr.bytes(), v6_[k.value].begin());
  }
  const auto mask = tags_.size() - 1;
  auto s = h & mask;
  while (tags_[s] > kErased) s = (s + 1) & mask;
  if (tags_[s] == kEmpty) ++taken_;
  tags_[s] = tag_of(h);
  slots_[s] = id;
  ++size_;
  return {id, true};
}

void PrefixTable::erase(PrefixId id) {
  assert(used(id));
  const auto s = probe(hash(id), [&](std::size_t at) { return slots_[at] == id; });
  assert(s != kNoSlot);
  // The last of a chain leaves no trace.
  const bool last = tags_[(s + 1) & (tags_.size() - 1)] == kEmpty;
  tags_[s] = last ? kEmpty : kErased;
  if (last) --taken_;
  slots_[s] = kNone;
  auto& k = keys_[id];
  if ((k.kind & kV6) != 0) free_v6_.push_back(k.value);
  k = Key{free_, 0, 0};
  free_ = id;
  --size_;
}

Prefix PrefixTable::at(PrefixId id) const {
  const auto& k = keys_[id];
  return {(k.kind & kV6) != 0 ? Ip::from_bytes(v6_[k.value]) : Ip::v4(k.value), k.len};
}

void PrefixTable::rehash(std::size_t size) {
  std::vector<PrefixId> old(size, kNone);
  old.swap(slots_);
  tags_.assign(size, kEmpty);
  const auto mask = size - 1;
  for (auto id : old) {
    if (id == kNone) continue;
    const auto h = hash(id);
    auto s = h & mask;
    while (tags_[s] != kEmpty) s = (s + 1) & mask;
    tags_[s] = tag_of(h);
    slots_[s] = id;
  }
  taken_ = size_;
}

}  // namespace calico::bgp
