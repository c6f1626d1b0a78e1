#include "core/bgp/rib/rib.hpp"

#include <algorithm>
#include <cassert>

#include "core/bgp/codec/communities.hpp"

namespace calico::bgp {

Rib::Rib(AttrStore& attrs, Resolve resolve) : attrs_(attrs), resolve_(std::move(resolve)) {
  RibPeer local;
  local.kind = Source::Kind::local;
  local.used = true;
  peers_.push_back(local);
  attrs_.on_free([this](AttrSet& s) { hop_unref(s.hop); });
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

PrefixId Rib::longest_match(const Ip& ip) const {
  for (int len = ip.bits(); len >= 0; --len) {
    if (lengths_[fam(ip.family())][len] == 0) continue;
    const auto id = find(Prefix{ip, static_cast<std::uint8_t>(len)}.masked());
    if (id != kNone && entries_[id].first != kNone) return id;
  }
  return kNone;
}

PrefixId Rib::find_or_add(const Prefix& prefix) {
  const auto [id, added] = table_.find_or_add(prefix);
  if (added) {
    entries_.resize(table_.limit());
    entries_[id] = Entry{};
    ++lengths_[fam(prefix.family())][prefix.len];
  }
  return id;
}

void Rib::maybe_free(PrefixId id) {
  const auto& e = entries_[id];
  if (e.first != kNone || e.dirty != 0 || e.pins != 0 || !table_.used(id)) return;
  const auto prefix = table_.at(id);
  --lengths_[fam(prefix.family())][prefix.len];
  table_.erase(id);
}

void Rib::unpin(PrefixId id) {
  assert(entries_[id].pins > 0);
  if (--entries_[id].pins == 0) maybe_free(id);
}

void Rib::make_dirty(PrefixId id) {
  auto& e = entries_[id];
  if (e.dirty != 0) return;
  e.dirty = 1;
  dirty_.push_back(id);
}

// --- next hops ------------------------------------------------------------------------------------------------------

void Rib::take_hop(AttrId attr) {
  auto& set = attrs_.at(attr);
  if (set.hop != kNoHop) return;
  if (auto it = hop_index_.find(set.next_hop); it != hop_index_.end()) {
    ++hops_[it->second].refs;
    set.hop = it->second;
    return;
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
  h.ip = set.next_hop;
  h.refs = 1;
  auto r = resolve_(h.ip);
  h.reachable = r.has_value();
  if (r)
    h.resolved = *r;
  else
    h.why_not = r.error().what;
  hop_index_.emplace(h.ip, id);
  set.hop = id;
}

void Rib::hop_unref(HopId id) {
  if (id == kNoHop || --hops_[id].refs > 0) return;
  hop_index_.erase(hops_[id].ip);
  free_hops_.push_back(id);
}

void Rib::resolve_again(const Ip* only) {
  const auto look = [&](const Ip& ip, HopId id) {
    auto& h = hops_[id];
    auto r = resolve_(ip);
    if (r.has_value() == h.reachable && (!r || *r == h.resolved)) {
      if (!r) h.why_not = r.error().what;
      return;
    }
    h.reachable = r.has_value();
    h.resolved = r ? *r : Resolution{};
    h.why_not = r ? std::string() : r.error().what;
    ++h.version;
    h.changed = hops_changed_ = true;
  };
  if (only != nullptr) {
    if (auto it = hop_index_.find(*only); it != hop_index_.end()) look(*only, it->second);
  } else {
    for (auto& [ip, id] : hop_index_) look(ip, id);
  }
}

void Rib::find_changed_hops() {
  hops_changed_ = false;
  for (PrefixId id = 0; id < entries_.size(); ++id)
    for (auto p = entries_[id].first; p != kNone; p = paths_[p].next)
      if (paths_[p].peer != kLocalPeer && hops_[attrs_.at(paths_[p].attr).hop].changed) {
        make_dirty(id);
        break;
      }
  for (auto& h : hops_) h.changed = false;
}

void Rib::set_best(PrefixId id, PathId path) {
  auto& best = entries_[id].best;
  if (best == path) return;
  const auto f = fam(table_.family(id));
  if (best != kNone) --peers_[paths_[best].peer].preferred[f];
  if (path != kNone) ++peers_[paths_[path].peer].preferred[f];
  best = path;
}

// --- paths ----------------------------------------------------------------------------------------------------------

PathId Rib::find_path(PrefixId id, RibPeerId peer, std::uint32_t path_id) const {
  auto p = entries_[id].first;
  while (p != kNone && (paths_[p].peer != peer || paths_[p].path_id != path_id)) p = paths_[p].next;
  return p;
}

bool Rib::announce(RibPeerId peer, const Prefix& prefix, AttrId attr, std::uint32_t now_ms, std::uint32_t path_id) {
  const auto id = find_or_add(prefix);
  auto& rp = peers_[peer];
  const auto f = fam(prefix.family());
  if (peer != kLocalPeer) take_hop(attr);
  auto& e = entries_[id];
  if (const auto p = find_path(id, peer, path_id); p != kNone) {
    auto& path = paths_[p];
    path.unconfirmed = 0;
    if (path.stale != 0) {
      path.stale = 0;
      --rp.stale[f];
      make_dirty(id);
    }
    if (path.attr == attr) {
      attrs_.unref(attr);
      return false;
    }
    attrs_.unref(path.attr);
    path.attr = attr;
    path.since_ms = now_ms;
    make_dirty(id);
    return true;
  }
  PathId p = free_path_;
  if (p == kNone) {
    p = static_cast<PathId>(paths_.size());
    paths_.emplace_back();
  } else {
    free_path_ = paths_[p].next;
  }
  auto& path = paths_[p];
  path = Path{};
  path.peer = peer;
  path.attr = attr;
  path.prefix = id;
  path.since_ms = now_ms;
  path.path_id = path_id;
  path.next = e.first;
  path.after_of_peer = rp.first[f];
  if (rp.first[f] != kNone) paths_[rp.first[f]].before_of_peer = p;
  rp.first[f] = p;
  if (e.first == kNone) ++counts_.networks[f];
  e.first = p;
  ++counts_.routes[f];
  ++rp.paths[f];
  make_dirty(id);
  return true;
}

void Rib::unlink(PathId gone) {
  auto& path = paths_[gone];
  const auto id = path.prefix;
  auto& e = entries_[id];
  const auto f = fam(table_.family(id));
  if (e.first == gone) {
    e.first = path.next;
  } else {
    auto p = e.first;
    while (paths_[p].next != gone) p = paths_[p].next;
    paths_[p].next = path.next;
  }
  auto& rp = peers_[path.peer];
  if (path.before_of_peer != kNone)
    paths_[path.before_of_peer].after_of_peer = path.after_of_peer;
  else
    rp.first[f] = path.after_of_peer;
  if (path.after_of_peer != kNone) paths_[path.after_of_peer].before_of_peer = path.before_of_peer;
  --rp.paths[f];
  if (path.stale != 0) --rp.stale[f];
  --counts_.routes[f];
  if (e.first == kNone) --counts_.networks[f];
  // Nobody may follow a dead id: what was told to sinks and groups is remembered there, by value.
  if (e.best == gone) set_best(id, kNone);
  attrs_.unref(path.attr);
  path = Path{};
  path.next = free_path_;
  free_path_ = gone;
  make_dirty(id);
}

bool Rib::withdraw(RibPeerId peer, const Prefix& prefix, std::uint32_t path_id) {
  const auto id = find(prefix);
  if (id == kNone) return false;
  const auto p = find_path(id, peer, path_id);
  if (p == kNone) return false;
  unlink(p);
  return true;
}

void Rib::mark_stale(RibPeerId peer, Family family) {
  auto& rp = peers_[peer];
  const auto f = fam(family);
  for (auto p = rp.first[f]; p != kNone; p = paths_[p].after_of_peer) {
    if (paths_[p].stale != 0) continue;
    paths_[p].stale = 1;
    ++rp.stale[f];
    make_dirty(paths_[p].prefix);
  }
}

std::size_t Rib::drop(RibPeerId peer, Family family, bool stale_only) {
  const auto& rp = peers_[peer];
  const auto f = fam(family);
  std::size_t count = 0;
  auto left = stale_only ? rp.stale[f] : rp.paths[f];
  for (auto p = rp.first[f]; p != kNone && left > 0;) {
    const auto after = paths_[p].after_of_peer;
    if (!stale_only || paths_[p].stale != 0) {
      unlink(p);
      ++count;
      --left;
    }
    p = after;
  }
  return count;
}

std::size_t Rib::make_long_lived(RibPeerId peer, Family family) {
  // Many routes, few sets. Both sides of a pair are held: an id that came free would be used again here.
  std::unordered_map<AttrId, AttrId> marked;
  const auto mark = [&](AttrId attr) {
    const auto [it, added] = marked.try_emplace(attr, kNoAttr);
    if (!added) return it->second;
    attrs_.ref(attr);
    if (attrs_.at(attr).no_llgr) return kNoAttr;
    auto a = attrs_.decode(attr);
    if (!add(a.communities, well_known::kLlgrStale)) return kNoAttr;
    it->second = attrs_.intern(a);
    take_hop(it->second);
    return it->second;
  };
  std::size_t gone = 0;
  for (auto p = peers_[peer].first[fam(family)]; p != kNone;) {
    auto& path = paths_[p];
    const auto after = path.after_of_peer;
    if (path.stale != 0 && !(attrs_.at(path.attr).llgr_stale && !attrs_.at(path.attr).no_llgr)) {
      if (const auto attr = mark(path.attr); attr == kNoAttr) {
        unlink(p);
        ++gone;
      } else {
        attrs_.ref(attr);
        attrs_.unref(path.attr);
        path.attr = attr;
        make_dirty(path.prefix);
      }
    }
    p = after;
  }
  for (const auto& [was, is] : marked) {
    attrs_.unref(was);
    attrs_.unref(is);
  }
  return gone;
}

void Rib::begin_refresh(RibPeerId peer, Family family) {
  for (auto p = peers_[peer].first[fam(family)]; p != kNone; p = paths_[p].after_of_peer) paths_[p].unconfirmed = 1;
}

std::size_t Rib::end_refresh(RibPeerId peer, Family family) {
  std::size_t count = 0;
  for (auto p = peers_[peer].first[fam(family)]; p != kNone;) {
    const auto after = paths_[p].after_of_peer;
    if (paths_[p].unconfirmed != 0) {
      unlink(p);
      ++count;
    }
    p = after;
  }
  return count;
}

void Rib::touch(RibPeerId peer) {
  for (auto f : {0, 1})
    for (auto p = peers_[peer].first[f]; p != kNone; p = paths_[p].after_of_peer) make_dirty(paths_[p].prefix);
}

// --- decision -------------------------------------------------------------------------------------------------------

namespace {
/// Keeps the paths for which `value` is lowest.
void lowest(std::vector<PathId>& c, auto value) {
  if (c.size() < 2) return;
  auto best = value(c[0]);
  for (auto p : c) best = std::min(best, value(p));
  std::erase_if(c, [&](PathId p) { return value(p) != best; });
}
}  // namespace

/// What is left of the usable paths after the steps that judge the route and the way to its next hop.
void Rib::candidates(PrefixId id, std::vector<PathId>& c) const {
  c.clear();
  for (auto p = entries_[id].first; p != kNone; p = paths_[p].next)
    if (usable(paths_[p])) c.push_back(p);
  if (c.size() < 2) return;
  const auto attr = [&](PathId p) -> const AttrSet& { return attrs_.at(paths_[p].attr); };
  const auto peer = [&](PathId p) -> const RibPeer& { return peers_[paths_[p].peer]; };
  lowest(c, [&](PathId p) { return static_cast<int>(attr(p).llgr_stale); });
  // A VM that moved in elsewhere (LOCAL_PREF above normal) beats the route this host still has for it.
  const auto local = [&](PathId p) { return peer(p).kind == Source::Kind::local; };
  lowest(c, [&](PathId p) { return local(p) || elevated(attr(p).local_pref) ? 0 : 1; });
  lowest(c, [&](PathId p) { return ~attr(p).local_pref; });
  lowest(c, [&](PathId p) { return local(p) ? 0 : 1; });
  lowest(c, [&](PathId p) { return attr(p).path_length; });
  lowest(c, [&](PathId p) { return attr(p).origin; });
  // c) MED, among routes of one neighbouring AS; done over the whole set, so that the order of arrival does not matter.
  if (c.size() > 1) {
    thread_local std::vector<PathId> all;
    all = c;
    std::erase_if(c, [&](PathId p) {
      return std::any_of(all.begin(), all.end(), [&](PathId q) {
        return attr(q).neighbor_as == attr(p).neighbor_as && attr(q).med < attr(p).med;
      });
    });
  }
  lowest(c, [&](PathId p) { return peer(p).kind == Source::Kind::external ? 0 : 1; });
  lowest(c, [&](PathId p) {
    const auto* h = hop(paths_[p]);
    return h == nullptr ? 0U : h->resolved.metric;
  });
}

void Rib::final_choice(std::vector<PathId>& c) const {
  const auto attr = [&](PathId p) -> const AttrSet& { return attrs_.at(paths_[p].attr); };
  const auto peer = [&](PathId p) -> const RibPeer& { return peers_[paths_[p].peer]; };
  lowest(c, [&](PathId p) { return static_cast<int>(paths_[p].stale); });
  lowest(c, [&](PathId p) { return attr(p).has_originator ? attr(p).originator_id : peer(p).router_id; });
  lowest(c, [&](PathId p) { return attr(p).cluster_count; });
  lowest(c, [&](PathId p) { return peer(p).address; });
  lowest(c, [&](PathId p) { return paths_[p].path_id; });
}

PathId Rib::select(PrefixId id) const {
  const auto& e = entries_[id];
  // The common case costs nothing.
  if (e.first == kNone) return kNone;
  if (paths_[e.first].next == kNone) return usable(paths_[e.first]) ? e.first : kNone;
  candidates(id, scratch_);
  final_choice(scratch_);
  return scratch_.empty() ? kNone : scratch_[0];
}

void Rib::select_equal(PrefixId id, std::size_t max, std::vector<PathId>& out) const {
  candidates(id, out);
  if (out.size() < 2) return;
  scratch_ = out;
  final_choice(scratch_);
  const auto best = scratch_[0];
  const auto hop_of = [&](PathId p) { return attrs_.at(paths_[p].attr).hop; };
  if (paths_[best].peer == kLocalPeer) {
    out.assign(1, best);
    return;
  }
  // One path a next hop; by address, so that the same set is the same list whatever came first.
  std::sort(out.begin(), out.end(), [&](PathId a, PathId b) {
    if ((a == best) != (b == best)) return a == best;
    return hops_[hop_of(a)].ip < hops_[hop_of(b)].ip;
  });
  std::vector<HopId> seen;
  std::erase_if(out, [&](PathId p) {
    if (std::find(seen.begin(), seen.end(), hop_of(p)) != seen.end()) return true;
    seen.push_back(hop_of(p));
    return false;
  });
  if (out.size() > max) out.resize(max);
}

}  // namespace calico::bgp
