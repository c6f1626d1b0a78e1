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

PrefixTable::PrefixTable() : slots_(64, kNone) {}

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
  for (auto s = slot_of(hash_of(prefix));; s = slot_of(s + 1)) {
    if (slots_[s] == kNone) return kNone;
    if (equal(slots_[s], prefix)) return slots_[s];
  }
}

std::pair<PrefixId, bool> PrefixTable::find_or_add(const Prefix& prefix) {
  if ((size_ + 1) * 4 > slots_.size() * 3) grow();
  auto s = slot_of(hash_of(prefix));
  for (; slots_[s] != kNone; s = slot_of(s + 1))
    if (equal(slots_[s], prefix)) return {slots_[s], false};
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
  slots_[s] = id;
  ++size_;
  return {id, true};
}

void PrefixTable::erase(PrefixId id) {
  assert(used(id));
  auto hole = slot_of(hash(id));
  while (slots_[hole] != id) hole = slot_of(hole + 1);
  // What was pushed past the hole moves back, so that no grave stones pile up.
  for (auto s = slot_of(hole + 1); slots_[s] != kNone; s = slot_of(s + 1)) {
    const auto home = slot_of(hash(slots_[s]));
    if (((s - home) & (slots_.size() - 1)) >= ((s - hole) & (slots_.size() - 1))) {
      slots_[hole] = slots_[s];
      hole = s;
    }
  }
  slots_[hole] = kNone;
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

void PrefixTable::grow() {
  std::vector<PrefixId> old(slots_.size() * 2, kNone);
  old.swap(slots_);
  for (auto id : old) {
    if (id == kNone) continue;
    auto s = slot_of(hash(id));
    while (slots_[s] != kNone) s = slot_of(s + 1);
    slots_[s] = id;
  }
}

}  // namespace calico::bgp
