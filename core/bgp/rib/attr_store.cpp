#include "core/bgp/rib/attr_store.hpp"

#include <algorithm>
#include <cassert>
#include <random>

#include "core/bgp/codec/communities.hpp"

namespace calico::bgp {

namespace {
constexpr std::uint32_t kNoExport = 0xffffff01, kNoAdvertise = 0xffffff02, kNoExportSubconfed = 0xffffff03;

std::uint32_t hash_of(View blob, const Ip& next_hop) {
  // Peers choose the sets: a value of our own in front keeps the order of the slots ours.
  static const std::size_t seed = std::random_device{}();
  const std::hash<std::string_view> h;
  const auto x = (h(wire::as_text(blob)) ^ seed) * 0x9e3779b97f4a7c15ULL + h(wire::as_text(next_hop.bytes()));
  return static_cast<std::uint32_t>(x ^ x >> 32);
}
}  // namespace

AttrStore::AttrStore() : slots_(64) {}

AttrId AttrStore::intern(const Attrs& attrs) {
  // Twice a message: a set that no longer fits a message is kept, but nobody is sent it.
  wire::Writer w(2 * 65535);
  encode_attributes(w, attrs);
  const auto blob = w.view();
  const auto hash = hash_of(blob, attrs.next_hop);
  if ((size_ + 1) * 4 > slots_.size() * 3) grow();
  auto slot = slot_of(hash);
  for (; slots_[slot].id != kNoAttr; slot = slot_of(slot + 1)) {
    if (slots_[slot].hash != hash) continue;
    auto& s = sets_[slots_[slot].id];
    if (s.next_hop == attrs.next_hop && std::ranges::equal(s.blob(), blob)) {
      ++s.refs;
      return slots_[slot].id;
    }
  }
  AttrId id;
  if (free_.empty()) {
    id = static_cast<AttrId>(sets_.size());
    sets_.emplace_back();
  } else {
    id = free_.back();
    free_.pop_back();
  }
  auto& s = sets_[id];
  s.size = static_cast<std::uint32_t>(blob.size());
  s.bytes = std::make_unique_for_overwrite<std::byte[]>(blob.size());
  std::ranges::copy(blob, s.bytes.get());
  s.next_hop = attrs.next_hop;
  s.hash = hash;
  s.refs = 1;
  s.local_pref = attrs.local_pref.value_or(100);
  s.med = attrs.med.value_or(0);
  s.path_length = static_cast<std::uint16_t>(std::min<std::uint32_t>(attrs.as_path.length(), 0xffff));
  s.neighbor_as = attrs.as_path.first().value_or(Asn{0}).value;
  s.has_originator = attrs.originator_id.has_value();
  s.originator_id = attrs.originator_id.value_or(0);
  s.cluster_count = static_cast<std::uint16_t>(std::min<std::size_t>(attrs.cluster_list.size(), 0xffff));
  s.origin = attrs.origin;
  s.no_advertise = attrs.has_community(kNoAdvertise);
  s.no_export = attrs.has_community(kNoExport) || attrs.has_community(kNoExportSubconfed);
  s.llgr_stale = attrs.has_community(well_known::kLlgrStale.value);
  s.no_llgr = attrs.has_community(well_known::kNoLlgr.value);
  slots_[slot] = {id, hash};
  ++size_;
  return id;
}

void AttrStore::unref(AttrId id) {
  if (id == kNoAttr) return;
  auto& s = sets_[id];
  assert(s.refs > 0);
  if (--s.refs > 0) return;
  if (on_free_) on_free_(s);
  auto hole = slot_of(s.hash);
  while (slots_[hole].id != id) hole = slot_of(hole + 1);
  for (auto at = slot_of(hole + 1); slots_[at].id != kNoAttr; at = slot_of(at + 1)) {
    const auto home = slot_of(slots_[at].hash);
    if (((at - home) & (slots_.size() - 1)) >= ((at - hole) & (slots_.size() - 1))) {
      slots_[hole] = slots_[at];
      hole = at;
    }
  }
  slots_[hole] = Slot{};
  s = AttrSet{};
  free_.push_back(id);
  --size_;
}

Attrs AttrStore::decode(AttrId id) const {
  const auto& s = sets_[id];
  // Always well formed: encode_attributes wrote it. Context: everything allowed.
  CodecContext all;
  all.as_sets = true;
  auto block = decode_attributes(s.blob(), all);
  assert(block && !block->withdraw);
  Attrs a = block ? std::move(block->attrs) : Attrs{};
  a.next_hop = s.next_hop;
  return a;
}

void AttrStore::grow() {
  std::vector<Slot> old(slots_.size() * 2);
  old.swap(slots_);
  for (const auto& slot : old) {
    if (slot.id == kNoAttr) continue;
    auto at = slot_of(slot.hash);
    while (slots_[at].id != kNoAttr) at = slot_of(at + 1);
    slots_[at] = slot;
  }
}

}  // namespace calico::bgp
