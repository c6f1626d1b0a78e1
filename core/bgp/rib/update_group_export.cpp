/// UpdateGroup, the half that says what its members are to have and in which bytes.
#include <algorithm>
#include <cassert>
#include <tuple>

#include "core/bgp/policy/route_policy.hpp"
#include "core/bgp/rib/update_group.hpp"

namespace calico::bgp {

namespace {
constexpr std::uint32_t kDrainRoom = 8;  // bytes of a COMMUNITIES attribute with one value
constexpr Family kFamilies[] = {Family::v4, Family::v6};

Source source_of(const RibPeer& p) { return {p.kind, p.client, p.router_id}; }

/// Spreads the bits (the finalizer of MurmurHash3).
std::uint32_t mixed(std::uint32_t x) {
  x = (x ^ (x >> 16)) * 0x85ebca6bU;
  x = (x ^ (x >> 13)) * 0xc2b2ae35U;
  return x ^ (x >> 16);
}
}  // namespace

/// One peer's paths never meet; those of two peers rarely.
std::uint32_t UpdateGroup::path_identifier(const RibPeer& from, std::uint32_t received) {
  std::uint32_t of_peer = 1;
  for (auto byte : from.address.bytes()) of_peer = mixed(of_peer ^ std::to_integer<std::uint32_t>(byte)) + 1;
  return of_peer + received;
}

EncodeContext UpdateGroup::encoding(std::size_t family) const {
  return {kFamilies[family], target_.add_path[family], target_.extended_next_hop && family == 0, target_.max_message};
}

// --- what is to be sent ---------------------------------------------------------------------------------------------

void UpdateGroup::queue(PrefixId id) {
  if (id >= queued_.size()) queued_.resize(std::max<std::size_t>(id + 1, rib_.id_limit()));
  if (queued_[id]) return;
  queued_[id] = true;
  rib_.pin(id);
  queue_.push_back(id);
}

void UpdateGroup::resend_all() {
  for (PrefixId id = 0; id < sent_.size(); ++id) {
    if (sent_[id].attr == kNoAttr) continue;
    sent_[id].resend = 1;
    queue(id);
  }
  for (auto& [id, list] : paths_) {
    for (auto& p : list) p.sent.resend = 1;
    queue(id);
  }
}

std::uint32_t UpdateGroup::skip_router(AttrId attr) const {
  const auto& set = attrs_.at(attr);
  // The originator would drop it (RFC 4456 8).
  return target_.internal && set.has_originator ? set.originator_id : 0;
}

bool UpdateGroup::excludes(const Sent& sent, const Member& m) const {
  if (sent.source == m.peer) return true;
  const auto router = skip_router(sent.attr);
  return router != 0 && router == m.router_id;
}

void UpdateGroup::count(std::size_t family, const Sent& sent, int change) {
  const auto add = [&](Counts& c) {
    c.v[family] += static_cast<std::uint32_t>(change);
    if (sent.own != 0) c.own[family] += static_cast<std::uint32_t>(change);
  };
  add(counts_);
  add(by_source_[sent.source]);
  if (const auto router = skip_router(sent.attr); router != 0) add(by_originator_[router]);
}

/// Would there be bytes for it? Only what depends on the set, so that nothing fails later.
bool UpdateGroup::sendable(const Sent& sent, Family family) {
  const auto& set = attrs_.at(sent.attr);
  const bool own =
      (target_.next_hop == NextHopMode::self || (sent.variant & kHopSelf) != 0) && (sent.variant & kHopKeep) == 0;
  if (own || set.next_hop.is_unspecified()) {
    if (!target_.self(family)) return false;
  } else if (set.next_hop.family() != family && !(target_.extended_next_hop && family == Family::v4)) {
    return false;
  }
  // Far below a message's size nothing that is added can be too much.
  if ((target_.as4 ? set.size : 2 * set.size) + 1024 < target_.max_message) return true;
  Ip next_hop;
  if (!encode_set(sent, family, set_, next_hop)) return false;
  const Nlri longest{Prefix::host(family == Family::v4 ? Ip::v4(0) : next_hop), 1};
  Bytes out;
  std::size_t n = 0;
  // Draining adds a community to what is remembered as sendable: its room is kept free.
  auto context = encoding(fam(family));
  context.max_message -= kDrainRoom;
  return encode_announce(out, n, context, set_, next_hop, std::span(&longest, 1));
}

/// What everybody but the excluded is to have of this path, with a reference to its set for the caller; no set:
/// nothing.
UpdateGroup::Sent UpdateGroup::wanted(PrefixId id, PathId path_id) {
  if (path_id == kNone || !target_.exports) return {};
  const auto family = rib_.family(id);
  if (!target_.families[fam(family)]) return {};
  const auto& path = rib_.path(path_id);
  const auto& set = attrs_.at(path.attr);
  const auto source = source_of(rib_.peer(path.peer));
  if (!may_export(source, target_, set.no_export, set.no_advertise, set.llgr_stale)) return {};
  Sent out;
  out.attr = path.attr;
  out.source = path.peer;
  attrs_.ref(out.attr);
  if ((target_.filter && !filter(id, source, out)) || !sendable(out, family)) {
    attrs_.unref(out.attr);
    return {};
  }
  out.own = skip_router(out.attr) != 0 && skip_router(out.attr) == source.router_id;
  return out;
}

/// The operator's word. Changes the set (and its reference) and the variant; false: refused.
bool UpdateGroup::filter(PrefixId id, const Source& source, Sent& sent) {
  const auto& policy = *target_.filter;
  if (decoded_.first != sent.attr) decoded_ = {sent.attr, attrs_.decode(sent.attr)};
  RouteSource from = RouteSource::local;
  if (source.kind == Source::Kind::internal) from = RouteSource::internal;
  if (source.kind == Source::Kind::external) from = RouteSource::external;
  const auto prefix = rib_.prefix(id);
  std::optional<Attrs> changed;
  const auto verdict = policy.evaluate(
      {.prefix = prefix, .source = from, .peer = target_.internal ? PeerKind::internal : PeerKind::external},
      decoded_.second, changed);
  if (!verdict.accept) return false;
  if (verdict.next_hop_self) sent.variant |= *verdict.next_hop_self ? kHopSelf : kHopKeep;
  if (verdict.med_set) sent.variant |= kMedSet;
  if (changed) {
    const auto next = attrs_.intern(*changed);
    attrs_.unref(sent.attr);
    sent.attr = next;
  }
  return true;
}

/// The attributes as they go out, and the next hop beside them.
bool UpdateGroup::encode_set(const Sent& sent, Family family, Bytes& out, Ip& next_hop) {
  const auto& set = attrs_.at(sent.attr);
  const auto& rp = rib_.peer(sent.source);
  out.clear();
  // The usual case needs no decoding: a reflected route, as it came but for what a reflector adds.
  if (target_.internal && target_.as4 && target_.next_hop == NextHopMode::keep && sent.variant == 0 &&
      rp.kind == Source::Kind::internal && !speaker_.draining) {
    next_hop = set.next_hop;
    return reflect_attributes(set.blob(), rp.router_id, speaker_.cluster_id, out);
  }
  const auto a = export_route(attrs_.decode(sent.attr), family, source_of(rp), target_, speaker_,
                              static_cast<std::uint8_t>(sent.variant));
  if (!a) return false;
  next_hop = a->next_hop;
  return encode_attributes(out, *a, target_.as4);
}

/// Two sets that differ may be the same to this group, where the next hop is ours or the set is stripped.
bool UpdateGroup::same_bytes(Family family, const Sent& a, const Sent& b) {
  if (target_.internal && target_.next_hop == NextHopMode::keep && a.variant == 0 && b.variant == 0) return false;
  Ip hop_a, hop_b;
  return encode_set(a, family, set_, hop_a) && encode_set(b, family, other_set_, hop_b) && hop_a == hop_b &&
         set_ == other_set_;
}

UpdateGroup::Item UpdateGroup::announcement(PrefixId id, std::uint32_t path_id, const Sent& sent) const {
  Item i;
  i.id = id;
  i.path_id = path_id;
  i.family = static_cast<std::uint8_t>(fam(rib_.family(id)));
  i.attr = sent.attr;
  i.source = i.skip = sent.source;
  i.variant = static_cast<std::uint8_t>(sent.variant);
  i.skip_router = skip_router(sent.attr);
  // Joiners whose dump has not come to this prefix hear of it there.
  if (dump_active_ && id >= dump_at_) i.audience = Run::For::members;
  return i;
}

/// A member that was sent the route and is now its source has to forget it.
void UpdateGroup::forget_where_new(const Item& announced, const Sent& now, const Sent& old, std::vector<Item>& items) {
  for (const auto& m : members_) {
    if (m->lag || !m->at || !excludes(now, *m) || excludes(old, *m)) continue;
    Item gone;
    gone.id = announced.id;
    gone.path_id = announced.path_id;
    gone.family = announced.family;
    gone.only = m->peer;
    items.push_back(gone);
  }
}

/// Compares what was sent with what is wanted; adds what has to be said.
void UpdateGroup::update(PrefixId id, std::vector<Item>& items) {
  if (id >= sent_.size()) sent_.resize(std::max<std::size_t>(id + 1, rib_.id_limit()));
  auto& sent = sent_[id];
  const auto next = wanted(id, rib_.best(id));
  const bool again = sent.resend != 0;
  sent.resend = 0;
  const bool has = next.attr != kNoAttr, had = sent.attr != kNoAttr;
  if ((!has && !had) || (has && !again && next.same(sent))) {
    attrs_.unref(next.attr);
    return;
  }
  const auto family = rib_.family(id);
  for (auto* m : lagging_) mark(*m->lag, id);
  if (!has) {
    // To joiners as well: who asked for a refresh may have it.
    auto gone = announcement(id, 0, sent);
    gone.attr = kNoAttr;
    gone.audience = Run::For::everyone;
    items.push_back(gone);
  } else {
    const bool same_source = had && sent.source == next.source && skip_router(sent.attr) == skip_router(next.attr);
    if (again || !same_source || !same_bytes(family, sent, next)) {
      const auto item = announcement(id, 0, next);
      items.push_back(item);
      if (had && !same_source) forget_where_new(item, next, sent, items);
    }
  }
  if (had) count(fam(family), sent, -1);
  if (has) count(fam(family), next, 1);
  attrs_.unref(sent.attr);
  sent = next;
  if (has && !had) rib_.pin(id);
  if (had && !has) rib_.unpin(id);
}

/// The same for a family with add-path: every usable path under its own id.
void UpdateGroup::update_paths(PrefixId id, std::vector<Item>& items) {
  const auto family = fam(rib_.family(id));
  const auto it = paths_.find(id);
  std::vector<SentPath> old, next;
  if (it != paths_.end()) old.swap(it->second);
  const auto with_id = [](const std::vector<SentPath>& list, std::uint32_t path_id) {
    const auto at = std::find_if(list.begin(), list.end(), [&](const auto& p) { return p.path_id == path_id; });
    return at == list.end() ? nullptr : &*at;
  };
  for (auto p = rib_.first_path(id); p != kNone; p = rib_.path(p).next) {
    const auto& path = rib_.path(p);
    if (!rib_.usable(path)) continue;
    const auto sent = wanted(id, p);
    if (sent.attr == kNoAttr) continue;
    auto path_id = path_identifier(rib_.peer(path.peer), path.path_id);
    // Scattered: whoever chooses identifiers cannot make a long row of those that are taken; a row it is in the end,
    // which has an end. 0 means "none" elsewhere.
    for (std::uint32_t tries = 0; path_id == 0 || with_id(next, path_id) != nullptr; ++tries)
      path_id = tries < 8 ? mixed(path_id + p + tries) : path_id + 1;
    next.push_back({path_id, sent});
  }
  for (const auto& o : old) {
    if (with_id(next, o.path_id) != nullptr) continue;
    auto gone = announcement(id, o.path_id, o.sent);
    gone.attr = kNoAttr;
    gone.audience = Run::For::everyone;
    items.push_back(gone);
  }
  for (const auto& n : next) {
    const auto* was = with_id(old, n.path_id);
    if (was != nullptr && was->sent.same(n.sent) && was->sent.resend == 0) continue;
    const auto item = announcement(id, n.path_id, n.sent);
    items.push_back(item);
    // The id may have been another peer's path before, if both met in it.
    if (was != nullptr) forget_where_new(item, n.sent, was->sent, items);
  }
  for (const auto& o : old) count(family, o.sent, -1);
  for (const auto& n : next) count(family, n.sent, 1);
  for (const auto& o : old) attrs_.unref(o.sent.attr);
  if (old.empty() && !next.empty()) rib_.pin(id);
  if (!old.empty() && next.empty()) rib_.unpin(id);
  if (!next.empty())
    paths_[id] = std::move(next);
  else if (it != paths_.end())
    paths_.erase(it);
}

// --- encoding -------------------------------------------------------------------------------------------------------

void UpdateGroup::emit(std::vector<Item>& items, Segment& segment) {
  const auto same_run = [](const Item& a, const Item& b) {
    return a.only == b.only && a.audience == b.audience && a.family == b.family && a.skip == b.skip &&
           a.skip_router == b.skip_router;
  };
  const auto same_set = [](const Item& a, const Item& b) {
    return a.attr == b.attr && a.source == b.source && a.variant == b.variant;
  };
  const auto before = [&](const Item& a, const Item& b) {
    if (!same_run(a, b))
      return std::tie(a.only, a.audience, a.family, a.skip, a.skip_router) <
             std::tie(b.only, b.audience, b.family, b.skip, b.skip_router);
    // What is withdrawn comes first: kNoAttr is the highest id.
    if (!same_set(a, b)) return std::tie(b.attr, a.source, a.variant) < std::tie(a.attr, b.source, b.variant);
    return std::tie(a.id, a.path_id) < std::tie(b.id, b.path_id);
  };
  if (!std::is_sorted(items.begin(), items.end(), before)) std::sort(items.begin(), items.end(), before);
  for (std::size_t i = 0; i < items.size();) {
    const auto first = items[i];
    Run run;
    run.begin = static_cast<std::uint32_t>(segment.bytes->size());
    run.skip = first.skip;
    run.only = first.only;
    run.skip_router = first.skip_router;
    run.family = first.family;
    run.audience = first.audience;
    const auto context = encoding(first.family);
    std::size_t messages = 0;
    while (i < items.size() && same_run(items[i], first)) {
      const auto item = items[i];
      nlri_.clear();
      for (; i < items.size() && same_run(items[i], first) && same_set(items[i], item); ++i)
        nlri_.push_back({rib_.prefix(items[i].id), items[i].path_id});
      if (item.attr == kNoAttr) {
        encode_withdraw(*segment.bytes, messages, context, nlri_);
        run.withdrawn += static_cast<std::uint32_t>(nlri_.size());
        continue;
      }
      Sent sent;
      sent.attr = item.attr;
      sent.source = item.source;
      sent.variant = item.variant;
      Ip next_hop;
      const bool fits = encode_set(sent, context.family, set_, next_hop) &&
                        encode_announce(*segment.bytes, messages, context, set_, next_hop, nlri_);
      assert(fits);  // sendable() looked
      (void)fits;
      run.announced += static_cast<std::uint32_t>(nlri_.size());
    }
    run.messages = static_cast<std::uint32_t>(messages);
    run.end = static_cast<std::uint32_t>(segment.bytes->size());
    segment.runs.push_back(run);
  }
}

}  // namespace calico::bgp
