#include "core/bgp/rib/attr_store.hpp"

#include <algorithm>
#include <cassert>

namespace calico::bgp {

namespace {
constexpr std::uint32_t kNoExport = 0xffffff01, kNoAdvertise = 0xffffff02, kNoExportSubconfed = 0xffffff03;

std::uint64_t hash_of(View blob, const Ip& next_hop) {
  const std::hash<std::string_view> h;
  return h(wire::as_text(blob)) * 0x9e3779b97f4a7c15ULL + h(wire::as_text(next_hop.bytes()));
}
}  // namespace

AttrStore::AttrStore() : index_(16, Hash{this}, Equal{this}) {}

bool AttrStore::Equal::operator()(const Key& k, AttrId id) const {
  const auto& s = store->sets_[id];
  return s.hash == k.hash && s.next_hop == *k.next_hop && std::ranges::equal(s.blob, k.blob);
}

AttrId AttrStore::intern(const Attrs& attrs) {
  // Twice a message: a set that no longer fits a message is kept, but nobody is sent it.
  wire::Writer w(2 * 65535);
  encode_attributes(w, attrs);
  const Key key{w.view(), &attrs.next_hop, hash_of(w.view(), attrs.next_hop)};
  if (auto it = index_.find(key); it != index_.end()) {
    ref(*it);
    return *it;
  }
  AttrSet s;
  s.blob.assign(w.view().begin(), w.view().end());
  s.next_hop = attrs.next_hop;
  s.hash = key.hash;
  s.refs = 1;
  s.local_pref = attrs.local_pref.value_or(100);
  s.med = attrs.med.value_or(0);
  s.path_length = attrs.as_path.length();
  s.neighbor_as = attrs.as_path.first().value_or(Asn{0}).value;
  s.originator_id = attrs.originator_id;
  s.cluster_count = static_cast<std::uint16_t>(std::min<std::size_t>(attrs.cluster_list.size(), 0xffff));
  s.origin = attrs.origin;
  s.no_advertise = attrs.has_community(kNoAdvertise);
  s.no_export = attrs.has_community(kNoExport) || attrs.has_community(kNoExportSubconfed);
  AttrId id;
  if (free_.empty()) {
    id = static_cast<AttrId>(sets_.size());
    sets_.push_back(std::move(s));
  } else {
    id = free_.back();
    free_.pop_back();
    sets_[id] = std::move(s);
  }
  index_.insert(id);
  return id;
}

void AttrStore::unref(AttrId id) {
  if (id == kNoAttr) return;
  auto& s = sets_[id];
  assert(s.refs > 0);
  if (--s.refs > 0) return;
  index_.erase(id);
  s = AttrSet{};
  free_.push_back(id);
}

Attrs AttrStore::decode(AttrId id) const {
  const auto& s = sets_[id];
  // Always well formed: encode_attributes wrote it. Context: everything allowed.
  CodecContext all;
  all.as_sets = true;
  auto block = decode_attributes(s.blob, all);
  assert(block && !block->withdraw);
  Attrs a = block ? std::move(block->attrs) : Attrs{};
  a.next_hop = s.next_hop;
  return a;
}

}  // namespace calico::bgp
