#include "core/bgp/kernel_nexthops.hpp"

#include <algorithm>

namespace calico::bgp {

using netlink::NextHop;
using netlink::NexthopObject;

namespace {

void append(std::string& key, const Ip& ip) {
  const auto bytes = ip.bytes();
  key.push_back(static_cast<char>(bytes.size()));
  key.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

std::string name_of(const std::vector<Ip>& named, const std::vector<NextHop>& hops) {
  std::string key(1, hops.size() > 1 ? 'G' : 'P');
  for (const auto& ip : named) append(key, ip);
  if (!named.empty()) return key;
  for (const auto& n : hops) {
    key.push_back(n.onlink ? 'o' : '-');
    for (int shift = 0; shift < 32; shift += 8) key.push_back(static_cast<char>((n.dev.value >> shift) & 0xffU));
    if (n.via) append(key, *n.via);
  }
  return key;
}

/// FNV-1a: written down, because ids of an earlier version must be found again.
std::uint32_t hash_of(std::string_view key) {
  std::uint64_t h = 0xcbf29ce484222325ULL;
  for (const char c : key) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return static_cast<std::uint32_t>(h ^ (h >> 32U));
}

}  // namespace

bool NextHopObjects::ours(const NexthopObject& o) const {
  return o.protocol == protocol_ && o.id >= kFirst && o.id <= kLast && !o.special;
}

const NexthopObject* NextHopObjects::actual(std::uint32_t id) const {
  const auto it = actual_.find(id);
  return it == actual_.end() ? nullptr : &it->second;
}

std::vector<NextHop> NextHopObjects::hops_of(std::uint32_t id) const {
  std::vector<NextHop> out;
  const auto* o = actual(id);
  if (!o || o->special) return out;
  if (o->group.empty()) return {o->hop};
  for (const auto& m : o->group)
    if (const auto* member = actual(m.id); member && !member->special && member->group.empty())
      out.push_back(member->hop);
  return out;
}

// ---- wanted ----

std::uint32_t NextHopObjects::pick_id(const Object& o) const {
  const std::uint32_t base = o.group ? kFirstGroup : kFirst;
  constexpr std::uint32_t kMask = kFirstGroup - kFirst - 1;
  for (std::uint32_t at = hash_of(o.key);; ++at) {
    const std::uint32_t id = base + (at & kMask);
    if (by_id_.contains(id)) continue;
    const auto* there = actual(id);
    if (!there) return id;
    if (!ours(*there) || there->group.empty() == o.group) continue;
    // Another one's content under an id of ours: two names of one hash, in an earlier life.
    if (!o.group && o.named.empty() && !(there->hop == o.hops.front())) continue;
    return id;
  }
}

NextHopObjects::Ref NextHopObjects::want(const std::vector<Ip>& named_after, const std::vector<NextHop>& hops) {
  static const std::vector<Ip> kNobody;
  auto key = name_of(named_after, hops);
  auto it = by_key_.find(key);
  const bool name_it = !named_after.empty() && (it != by_key_.end() || named_ < kMostNamed);
  if (!name_it && !named_after.empty()) {
    key = name_of(kNobody, hops);
    it = by_key_.find(key);
  }
  if (it != by_key_.end()) {
    if (objects_[it->second].hops != hops) set_hops(it->second, hops);
    return it->second;
  }
  Ref ref = 0;
  if (free_.empty()) {
    ref = static_cast<Ref>(objects_.size());
    objects_.emplace_back();
  } else {
    ref = free_.back();
    free_.pop_back();
  }
  {
    auto& o = objects_[ref];
    o = Object{};
    o.used = true;
    o.group = hops.size() > 1;
    o.key = key;
    if (name_it) o.named = named_after;
    o.hops = o.group ? std::vector<NextHop>{} : hops;
    o.id = pick_id(o);
    o.way = ways_.of_object(o.id);
    ways_.ref(o.way);
    by_id_.emplace(o.id, ref);
    stale_.erase(o.id);
    for (const auto& ip : o.named) by_hop_[ip].push_back(ref);
    named_ += name_it ? 1 : 0;
  }
  by_key_.emplace(std::move(key), ref);
  dirty_.insert(ref);
  if (hops.size() > 1) set_hops(ref, hops);
  return ref;
}

void NextHopObjects::set_hops(Ref ref, const std::vector<NextHop>& hops) {
  if (!objects_[ref].group) {
    objects_[ref].hops = hops;
    dirty_.insert(ref);
    return;
  }
  std::vector<Ref> members;
  for (const auto& n : hops) {
    const auto member = want({}, {n});  // objects_ may move
    objects_[member].parents.push_back(ref);
    members.push_back(member);
  }
  auto& o = objects_[ref];
  o.hops = hops;
  const auto old = std::exchange(o.members, std::move(members));
  dirty_.insert(ref);
  for (const auto member : old) drop_member(member, ref);
}

void NextHopObjects::drop_member(Ref ref, Ref group) {
  auto& parents = objects_[ref].parents;
  parents.erase(std::find(parents.begin(), parents.end(), group));
  if (unused(objects_[ref])) drop(ref);
}

void NextHopObjects::drop(Ref ref) {
  auto o = std::exchange(objects_[ref], Object{});
  by_key_.erase(o.key);
  by_id_.erase(o.id);
  dirty_.erase(ref);
  for (const auto& ip : o.named) {
    const auto it = by_hop_.find(ip);
    std::erase(it->second, ref);
    if (it->second.empty()) by_hop_.erase(it);
  }
  named_ -= o.named.empty() ? 0 : 1;
  ways_.unref(o.way);
  free_.push_back(ref);
  if (const auto* there = actual(o.id); there && ours(*there)) stale_.insert(o.id);
  for (const auto member : o.members) drop_member(member, ref);
}

void NextHopObjects::moved(const Ip& hop, const std::function<std::vector<NextHop>(const std::vector<Ip>&)>& now) {
  const auto it = by_hop_.find(hop);
  if (it == by_hop_.end()) return;
  for (const auto ref : std::vector(it->second)) {
    const auto hops = now(objects_[ref].named);
    if (hops.empty() || (hops.size() > 1) != objects_[ref].group || hops == objects_[ref].hops) continue;
    set_hops(ref, hops);
  }
}

void NextHopObjects::idle(const std::vector<std::uint32_t>& ids) {
  for (const auto id : ids)
    if (const auto it = by_id_.find(id); it != by_id_.end() && unused(objects_[it->second])) drop(it->second);
}

void NextHopObjects::rehome(Ref ref) {
  auto& o = objects_[ref];
  by_id_.erase(o.id);
  const auto from = o.way;
  o.id = pick_id(o);
  o.way = ways_.of_object(o.id);
  ways_.ref(o.way);
  by_id_.emplace(o.id, ref);
  stale_.erase(o.id);
  rehomed_.emplace_back(from, o.way);
  ways_.unref(from);
  dirty_.insert(ref);
  dirty_.insert(o.parents.begin(), o.parents.end());
}

// ---- actual ----

void NextHopObjects::set_actual(const NexthopObject& o) {
  const bool fresh = !actual_.contains(o.id);
  auto& there = actual_[o.id];
  for (const auto& m : there.group) {
    const auto it = groups_of_.find(m.id);
    std::erase(it->second, o.id);
    if (it->second.empty()) groups_of_.erase(it);
  }
  there = o;
  for (const auto& m : o.group) groups_of_[m.id].push_back(o.id);
  const auto wanted = by_id_.find(o.id);
  if (wanted != by_id_.end()) {
    dirty_.insert(wanted->second);
    const auto& parents = objects_[wanted->second].parents;
    if (fresh) dirty_.insert(parents.begin(), parents.end());
  }
  if (wanted == by_id_.end() && ours(o))
    stale_.insert(o.id);
  else
    stale_.erase(o.id);
}

void NextHopObjects::erase_actual(std::uint32_t id, std::vector<std::uint32_t>& gone) {
  const auto it = actual_.find(id);
  if (it == actual_.end()) return;
  for (const auto& m : it->second.group) {
    const auto groups = groups_of_.find(m.id);
    std::erase(groups->second, id);
    if (groups->second.empty()) groups_of_.erase(groups);
  }
  actual_.erase(it);
  stale_.erase(id);
  gone.push_back(id);
  if (const auto wanted = by_id_.find(id); wanted != by_id_.end()) dirty_.insert(wanted->second);
  const auto groups = groups_of_.find(id);
  if (groups == groups_of_.end()) return;
  for (const auto group : std::vector(groups->second)) {
    auto& g = actual_.at(group);
    std::erase_if(g.group, [id](const NexthopObject::Member& m) { return m.id == id; });
    if (const auto wanted = by_id_.find(group); wanted != by_id_.end()) dirty_.insert(wanted->second);
    if (g.group.empty()) erase_actual(group, gone);
  }
  groups_of_.erase(id);
}

void NextHopObjects::drop_device(IfIndex dev, std::vector<std::uint32_t>& gone) {
  std::vector<std::uint32_t> ids;
  for (const auto& [id, o] : actual_)
    if (o.group.empty() && !o.special && o.hop.dev == dev) ids.push_back(id);
  for (const auto id : ids) erase_actual(id, gone);
}

void NextHopObjects::load(const std::vector<NexthopObject>& all, const std::unordered_set<std::uint32_t>& newer,
                          std::vector<std::uint32_t>& gone) {
  std::unordered_set<std::uint32_t> seen;
  for (const auto& o : all) {
    seen.insert(o.id);
    const auto* have = actual(o.id);
    if (!newer.contains(o.id) && (!have || !(*have == o))) set_actual(o);
  }
  std::vector<std::uint32_t> ids;
  for (const auto& [id, o] : actual_)
    if (!seen.contains(id) && !newer.contains(id)) ids.push_back(id);
  for (const auto id : ids) erase_actual(id, gone);
}

// ---- work ----

void NextHopObjects::touch(IfIndex dev) {
  for (Ref ref = 0; ref < objects_.size(); ++ref)
    if (objects_[ref].used && std::any_of(objects_[ref].hops.begin(), objects_[ref].hops.end(),
                                          [dev](const NextHop& n) { return n.dev == dev; }))
      dirty_.insert(ref);
}

void NextHopObjects::touch_all() {
  for (Ref ref = 0; ref < objects_.size(); ++ref)
    if (objects_[ref].used) dirty_.insert(ref);
}

std::vector<NextHopObjects::Write> NextHopObjects::due(bool groups, std::size_t limit,
                                                       const std::function<bool(IfIndex)>& usable) {
  std::vector<Write> out;
  std::vector<Ref> look;
  for (const auto ref : dirty_)
    if (objects_[ref].group == groups) look.push_back(ref);
  for (const auto ref : look) {
    if (out.size() >= limit) break;
    if (const auto* there = actual(objects_[ref].id); there && (!ours(*there) || there->group.empty() == groups))
      rehome(ref);
    const auto& o = objects_[ref];
    dirty_.erase(ref);
    const auto* there = actual(o.id);
    Write w{
        .ref = ref, .object = {.id = o.id, .protocol = protocol_, .hop = {}, .group = {}}, .replace = there != nullptr};
    if (!groups) {
      w.object.hop = o.hops.front();
      if (!usable(w.object.hop.dev)) continue;
    } else {
      for (const auto member : o.members)
        if (present(member)) w.object.group.push_back({objects_[member].id});
      if (w.object.group.empty()) continue;
    }
    if (there && there->group == w.object.group && (groups || there->hop == w.object.hop)) continue;
    out.push_back(std::move(w));
  }
  return out;
}

std::vector<std::uint32_t> NextHopObjects::removable(std::size_t limit) const {
  std::vector<std::uint32_t> groups, plain;
  for (const auto id : stale_) {
    if (groups.size() + plain.size() >= limit) break;
    if (const auto way = ways_.find_object(id); way != kNoWay && ways_.refs(way) > 0) continue;
    const auto& o = actual_.at(id);
    if (!o.group.empty()) {
      groups.push_back(id);
    } else if (!groups_of_.contains(id)) {
      plain.push_back(id);
    }
  }
  groups.insert(groups.end(), plain.begin(), plain.end());
  return groups;
}

}  // namespace calico::bgp
