#include "core/bgp/rib/rib.hpp"

#include <algorithm>
#include <cassert>

namespace calico::bgp {

Rib::Rib(AttrStore& attrs, Resolve resolve) : attrs_(attrs), resolve_(std::move(resolve)) {
  RibPeer local;
  local.kind = Source::Kind::local;
  local.used = true;
  peers_.push_back(local);
}

RibPeerId Rib::add_peer(RibPeer peer) {
  peer.used = true;
  for (RibPeerId id = 1; id < peers_.size(); ++id)
    if (!peers_[id].used) {
      peers_[id] = peer;
      return id;
    }
  peers_.push_back(peer);
  return static_cast<RibPeerId>(peers_.size() - 1);
}

void Rib::remove_peer(RibPeerId id) {
  assert(peers_[id].paths[0] == 0 && peers_[id].paths[1] == 0);
  peers_[id] = RibPeer{};
}

// --- prefixes -------------------------------------------------------------------------------------------------------

PrefixId Rib::find(const Prefix& prefix) const {
  auto it = index_.find(prefix);
  return it == index_.end() ? kNone : it->second;
}

PrefixId Rib::longest_match(const Ip& ip) const {
  for (int len = ip.bits(); len >= 0; --len) {
    if (lengths_[fam(ip.family())][len] == 0) continue;
    const auto id = find(Prefix{ip, static_cast<std::uint8_t>(len)}.masked());
    if (id != kNone && prefixes_[id].first != kNone) return id;
  }
  return kNone;
}

PrefixId Rib::find_or_add(const Prefix& prefix) {
  const auto fresh = free_prefixes_.empty() ? static_cast<PrefixId>(prefixes_.size()) : free_prefixes_.back();
  auto [it, added] = index_.try_emplace(prefix, fresh);
  if (!added) return it->second;
  if (free_prefixes_.empty())
    prefixes_.emplace_back();
  else
    free_prefixes_.pop_back();
  auto& e = prefixes_[fresh];
  e = Entry{};
  e.prefix = prefix;
  e.used = true;
  ++lengths_[fam(prefix.family())][prefix.len];
  return fresh;
}

void Rib::maybe_free(PrefixId id) {
  auto& e = prefixes_[id];
  if (!e.used || e.first != kNone || e.dirty || e.pins != 0) return;
  index_.erase(e.prefix);
  --lengths_[fam(e.prefix.family())][e.prefix.len];
  e = Entry{};
  free_prefixes_.push_back(id);
}

void Rib::unpin(PrefixId id) {
  assert(prefixes_[id].pins > 0);
  if (--prefixes_[id].pins == 0) maybe_free(id);
}

void Rib::make_dirty(PrefixId id) {
  auto& e = prefixes_[id];
  if (e.dirty) return;
  e.dirty = true;
  dirty_.push_back(id);
}

bool Rib::take_dirty(std::size_t max, const std::function<void(PrefixId)>& f) {
  // From the back: whoever is made dirty meanwhile waits for the next call at worst.
  for (std::size_t n = 0; n < max && !dirty_.empty(); ++n) {
    const auto id = dirty_.back();
    dirty_.pop_back();
    pin(id);
    prefixes_[id].dirty = false;
    f(id);
    unpin(id);
    maybe_free(id);
  }
  return !dirty_.empty();
}

// --- next hops ------------------------------------------------------------------------------------------------------

HopId Rib::hop_ref(const Ip& ip) {
  if (auto it = hop_index_.find(ip); it != hop_index_.end()) {
    ++hops_[it->second].refs;
    return it->second;
  }
  HopId id;
  if (free_hops_.empty()) {
    id = static_cast<HopId>(hops_.size());
    hops_.emplace_back();
  } else {
    id = free_hops_.back();
    free_hops_.pop_back();
  }
  auto& h = hops_[id];
  const auto version = h.version + 1;
  h = Hop{};
  h.version = version;
  h.ip = ip;
  h.refs = 1;
  auto r = resolve_(ip);
  h.reachable = r.has_value();
  if (r)
    h.resolved = *r;
  else
    h.why_not = r.error().what;
  hop_index_.emplace(ip, id);
  return id;
}

void Rib::hop_unref(HopId id) {
  if (id == kNone || --hops_[id].refs > 0) return;
  hop_index_.erase(hops_[id].ip);
  free_hops_.push_back(id);
}

void Rib::resolve_again(const Ip* only) {
  std::vector<bool> changed(hops_.size());
  bool any = false;
  for (auto& [ip, id] : hop_index_) {
    if (only != nullptr && ip != *only) continue;
    auto& h = hops_[id];
    auto r = resolve_(ip);
    if (r.has_value() == h.reachable && (!r || *r == h.resolved)) {
      if (!r) h.why_not = r.error().what;
      continue;
    }
    h.reachable = r.has_value();
    h.resolved = r ? *r : ResolvedHop{};
    h.why_not = r ? std::string() : r.error().what;
    ++h.version;
    changed[id] = any = true;
  }
  if (!any) return;
  for (PrefixId id = 0; id < prefixes_.size(); ++id)
    for (auto p = prefixes_[id].first; p != kNone; p = paths_[p].next)
      if (paths_[p].hop != kNone && changed[paths_[p].hop]) {
        make_dirty(id);
        break;
      }
}

// --- paths ----------------------------------------------------------------------------------------------------------

bool Rib::announce(RibPeerId peer, const Prefix& prefix, AttrId attr, std::uint32_t now_ms) {
  const auto id = find_or_add(prefix);
  auto& rp = peers_[peer];
  const auto f = fam(prefix.family());
  for (auto p = prefixes_[id].first; p != kNone; p = paths_[p].next) {
    auto& path = paths_[p];
    if (path.peer != peer) continue;
    const bool was_stale = std::exchange(path.stale, false);
    if (was_stale) {
      --rp.stale[f];
      make_dirty(id);
    }
    if (path.attr == attr) {
      attrs_.unref(attr);
      return false;
    }
    const auto old_hop = path.hop;
    path.hop = peer == kLocalPeer ? kNone : hop_ref(attrs_.at(attr).next_hop);
    hop_unref(old_hop);
    attrs_.unref(path.attr);
    path.attr = attr;
    path.since_ms = now_ms;
    make_dirty(id);
    return true;
  }
  PathId p;
  if (free_paths_.empty()) {
    p = static_cast<PathId>(paths_.size());
    paths_.emplace_back();
  } else {
    p = free_paths_.back();
    free_paths_.pop_back();
  }
  auto& e = prefixes_[id];
  auto& path = paths_[p];
  path = Path{};
  path.peer = peer;
  path.attr = attr;
  path.hop = peer == kLocalPeer ? kNone : hop_ref(attrs_.at(attr).next_hop);
  path.since_ms = now_ms;
  path.next = e.first;
  if (e.first == kNone) ++counts_.networks[f];
  e.first = p;
  ++counts_.routes[f];
  ++rp.paths[f];
  make_dirty(id);
  return true;
}

void Rib::unlink(PrefixId id, PathId gone) {
  auto& e = prefixes_[id];
  auto& path = paths_[gone];
  const auto f = fam(e.prefix.family());
  auto* link = &e.first;
  while (*link != gone) link = &paths_[*link].next;
  *link = path.next;
  auto& rp = peers_[path.peer];
  --rp.paths[f];
  if (path.stale) --rp.stale[f];
  --counts_.routes[f];
  if (e.first == kNone) --counts_.networks[f];
  // Nobody may follow a dead id: what was told to sinks and peers is remembered there, by value.
  if (e.best == gone) e.best = kNone;
  hop_unref(path.hop);
  attrs_.unref(path.attr);
  path = Path{};
  free_paths_.push_back(gone);
  make_dirty(id);
}

bool Rib::withdraw(RibPeerId peer, const Prefix& prefix) {
  const auto id = find(prefix);
  if (id == kNone) return false;
  for (auto p = prefixes_[id].first; p != kNone; p = paths_[p].next)
    if (paths_[p].peer == peer) {
      unlink(id, p);
      return true;
    }
  return false;
}

void Rib::mark_stale(RibPeerId peer, Family family) {
  const auto f = fam(family);
  if (peers_[peer].paths[f] == 0) return;
  for (PrefixId id = 0; id < prefixes_.size(); ++id) {
    if (prefixes_[id].first == kNone || prefixes_[id].prefix.family() != family) continue;
    for (auto p = prefixes_[id].first; p != kNone; p = paths_[p].next)
      if (paths_[p].peer == peer && !paths_[p].stale) {
        paths_[p].stale = true;
        ++peers_[peer].stale[f];
        make_dirty(id);
      }
  }
}

std::size_t Rib::drop(RibPeerId peer, Family family, bool stale_only) {
  const auto f = fam(family);
  auto left = stale_only ? peers_[peer].stale[f] : peers_[peer].paths[f];
  const std::size_t count = left;
  for (PrefixId id = 0; id < prefixes_.size() && left > 0; ++id) {
    if (prefixes_[id].first == kNone || prefixes_[id].prefix.family() != family) continue;
    for (auto p = prefixes_[id].first; p != kNone; p = paths_[p].next)
      if (paths_[p].peer == peer) {
        if (!stale_only || paths_[p].stale) {
          unlink(id, p);
          --left;
        }
        break;  // one path a peer
      }
  }
  return count;
}

void Rib::touch(RibPeerId peer) {
  for (PrefixId id = 0; id < prefixes_.size(); ++id)
    for (auto p = prefixes_[id].first; p != kNone; p = paths_[p].next)
      if (paths_[p].peer == peer) make_dirty(id);
}

// --- decision -------------------------------------------------------------------------------------------------------

PathId Rib::select(PrefixId id) const {
  const auto& e = prefixes_[id];
  // The common case costs nothing.
  if (e.first == kNone) return kNone;
  if (paths_[e.first].next == kNone) return usable(paths_[e.first]) ? e.first : kNone;

  std::vector<PathId> c;
  for (auto p = e.first; p != kNone; p = paths_[p].next)
    if (usable(paths_[p])) c.push_back(p);
  const auto attr = [&](PathId p) -> const AttrSet& { return attrs_.at(paths_[p].attr); };
  const auto peer = [&](PathId p) -> const RibPeer& { return peers_[paths_[p].peer]; };
  // Keeps the paths for which `value` is lowest.
  const auto lowest = [&](auto value) {
    if (c.size() < 2) return;
    auto best = value(c[0]);
    for (auto p : c) best = std::min(best, value(p));
    std::erase_if(c, [&](PathId p) { return value(p) != best; });
  };
  lowest([&](PathId p) { return peer(p).kind == Source::Kind::local ? 0 : 1; });
  lowest([&](PathId p) { return ~attr(p).local_pref; });
  lowest([&](PathId p) { return attr(p).path_length; });
  lowest([&](PathId p) { return attr(p).origin; });
  // c) MED, among routes of one neighbouring AS; done over the whole set, so that the order of arrival does not matter.
  if (c.size() > 1) {
    const auto all = c;
    std::erase_if(c, [&](PathId p) {
      return std::any_of(all.begin(), all.end(), [&](PathId q) {
        return attr(q).neighbor_as == attr(p).neighbor_as && attr(q).med < attr(p).med;
      });
    });
  }
  lowest([&](PathId p) { return peer(p).kind == Source::Kind::external ? 0 : 1; });
  lowest([&](PathId p) { return paths_[p].hop == kNone ? 0U : hops_[paths_[p].hop].resolved.metric; });
  lowest([&](PathId p) { return paths_[p].stale ? 1 : 0; });
  lowest([&](PathId p) { return attr(p).originator_id.value_or(peer(p).router_id); });
  lowest([&](PathId p) { return attr(p).cluster_count; });
  lowest([&](PathId p) { return peer(p).address; });
  return c.empty() ? kNone : c[0];
}

}  // namespace calico::bgp
