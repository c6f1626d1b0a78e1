#include "core/bgp/codec/attributes.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bitset>

namespace calico::bgp {

using wire::Reader;
using wire::Writer;

namespace {

constexpr std::uint32_t kAsTrans = 23456;

// --- the table ------------------------------------------------------------------------------------------------------

enum class OnError : std::uint8_t { withdraw, discard };
enum class Rule : std::uint8_t { any, exact, multiple };  // multiple: not empty, a multiple of `length`

struct AttrRow {
  std::uint8_t type;
  std::string_view name;
  std::uint8_t flags;  // expected Optional and Transitive bits
  Rule rule;
  std::uint8_t length;
  OnError on_error;        // of its length or value (RFC 7606 7)
  bool discard_from_ebgp;  // RFC 7606 7.5, 7.9, 7.10
};

constexpr std::uint8_t kWellKnown = kFlagTransitive, kOptTrans = kFlagOptional | kFlagTransitive,
                       kOptNon = kFlagOptional;
constexpr std::array kRows{
    AttrRow{kAttrOrigin, "ORIGIN", kWellKnown, Rule::exact, 1, OnError::withdraw, false},
    AttrRow{kAttrAsPath, "AS_PATH", kWellKnown, Rule::any, 0, OnError::withdraw, false},
    AttrRow{kAttrNextHop, "NEXT_HOP", kWellKnown, Rule::exact, 4, OnError::withdraw, false},
    AttrRow{kAttrMed, "MULTI_EXIT_DISC", kOptNon, Rule::exact, 4, OnError::withdraw, false},
    AttrRow{kAttrLocalPref, "LOCAL_PREF", kWellKnown, Rule::exact, 4, OnError::withdraw, true},
    AttrRow{kAttrAtomicAggregate, "ATOMIC_AGGREGATE", kWellKnown, Rule::exact, 0, OnError::discard, false},
    AttrRow{kAttrAggregator, "AGGREGATOR", kOptTrans, Rule::any, 0, OnError::discard, false},  // 6 or 8
    AttrRow{kAttrCommunities, "COMMUNITIES", kOptTrans, Rule::multiple, 4, OnError::withdraw, false},
    AttrRow{kAttrOriginatorId, "ORIGINATOR_ID", kOptNon, Rule::exact, 4, OnError::withdraw, true},
    AttrRow{kAttrClusterList, "CLUSTER_LIST", kOptNon, Rule::multiple, 4, OnError::withdraw, true},
    AttrRow{kAttrMpReach, "MP_REACH_NLRI", kOptNon, Rule::any, 0, OnError::withdraw, false},
    AttrRow{kAttrMpUnreach, "MP_UNREACH_NLRI", kOptNon, Rule::any, 0, OnError::withdraw, false},
    AttrRow{kAttrExtCommunities, "EXTENDED COMMUNITIES", kOptTrans, Rule::multiple, 8, OnError::withdraw, false},
    AttrRow{kAttrAs4Path, "AS4_PATH", kOptTrans, Rule::any, 0, OnError::discard, false},
    AttrRow{kAttrAs4Aggregator, "AS4_AGGREGATOR", kOptTrans, Rule::exact, 8, OnError::discard, false},
    AttrRow{kAttrLargeCommunities, "LARGE_COMMUNITY", kOptTrans, Rule::multiple, 12, OnError::withdraw, false},
};

const AttrRow* row_of(std::uint8_t type) {
  for (const auto& row : kRows)
    if (row.type == type) return &row;
  return nullptr;
}

bool fits(const AttrRow& row, std::size_t length) {
  switch (row.rule) {
    case Rule::any:
      return true;
    case Rule::exact:
      return length == row.length;
    case Rule::multiple:
      return length != 0 && length % row.length == 0;
  }
  return false;
}

tl::unexpected<Fault> update_fault(std::uint8_t subcode, std::string what, View data = {}) {
  return tl::unexpected(detail::fault(notify::kUpdate, subcode, std::move(what), data));
}

// --- MP_REACH_NLRI, MP_UNREACH_NLRI ---------------------------------------------------------------------------------

Decoded<MpReach> decode_reach(Reader r, const CodecContext& context) {
  MpReach m;
  m.family.afi = r.be<std::uint16_t>();
  m.family.safi = r.be<std::uint8_t>();
  const auto next_hop = r.take(r.be<std::uint8_t>());
  (void)r.be<std::uint8_t>();  // reserved
  m.nlri = r.rest();
  if (!r.ok()) return update_fault(9, "MP_REACH_NLRI is short");
  const bool v4 = m.family == kIpv4Unicast;
  if (!v4 && m.family != kIpv6Unicast) return m;
  if (v4 && next_hop.size() == 4) {
    m.next_hop = Ip::from_bytes(next_hop);
    return m;
  }
  // RFC 2545, 8950: a global address, or a global and a link-local one; alone, either may stand in the first place.
  m.next_hop_ok = (!v4 || context.extended_next_hop) && (next_hop.size() == 16 || next_hop.size() == 32);
  if (!m.next_hop_ok) return m;
  m.next_hop = Ip::from_bytes(next_hop.first(16));
  if (m.next_hop.is_unspecified() && next_hop.size() == 32) m.next_hop = Ip::from_bytes(next_hop.subspan(16));
  return m;
}

Decoded<MpUnreach> decode_unreach(Reader r) {
  MpUnreach m;
  m.family.afi = r.be<std::uint16_t>();
  m.family.safi = r.be<std::uint8_t>();
  m.nlri = r.rest();
  if (!r.ok()) return update_fault(9, "MP_UNREACH_NLRI is short");
  return m;
}

// --- writing --------------------------------------------------------------------------------------------------------

constexpr std::size_t kLongestValue = 65535;

/// Appends attributes to a buffer; remembers if one was longer than its length field can say.
class AttrWriter {
 public:
  explicit AttrWriter(Bytes& out) : out_(out) {}
  bool ok() const { return ok_; }

  void header(std::uint8_t flags, std::uint8_t type, std::size_t length) {
    ok_ &= length <= kLongestValue;
    const bool wide = length > 255;
    const std::array<std::byte, 4> head{
        static_cast<std::byte>((flags & ~kFlagExtended) | (wide ? kFlagExtended : 0)), static_cast<std::byte>(type),
        static_cast<std::byte>(wide ? length >> 8 : length), static_cast<std::byte>(length)};
    put(View(head).first(wide ? 4 : 3));
  }
  void put(View v) { out_.insert(out_.end(), v.begin(), v.end()); }
  void u16(std::uint32_t v) {
    const std::array<std::byte, 2> b{static_cast<std::byte>(v >> 8), static_cast<std::byte>(v)};
    put(b);
  }
  void u32(std::uint32_t v) {
    u16(v >> 16);
    u16(v & 0xffff);
  }
  void attr(std::uint8_t flags, std::uint8_t type, View value) {
    header(flags, type, value.size());
    put(value);
  }
  void number(std::uint8_t flags, std::uint8_t type, std::uint32_t v) {
    header(flags, type, 4);
    u32(v);
  }
  void aggregator(std::uint8_t type, const Aggregator& a, bool as4) {
    header(kOptTrans, type, as4 ? 8 : 6);
    if (as4)
      u32(a.as.value);
    else
      u16(a.as.value > 0xffff ? kAsTrans : a.as.value);
    u32(a.id);
  }

 private:
  Bytes& out_;
  bool ok_ = true;
};

}  // namespace

// --- AsPath ---------------------------------------------------------------------------------------------------------

namespace {
/// Calls f(type, reader over the ASes, count) for each segment of a well-formed path.
template <class F>
void each_segment(View wire, F&& f) {
  Reader r(wire);
  while (r.left() > 0) {
    const auto type = r.be<std::uint8_t>();
    const std::size_t count = r.be<std::uint8_t>();
    f(type, r.sub(count * 4), count);
  }
}
}  // namespace

AsPath AsPath::sequence(std::span<const Asn> ases) {
  AsPath p;
  Writer w(kMaxMessage);
  for (std::size_t at = 0; at < ases.size();) {
    const auto n = std::min<std::size_t>(255, ases.size() - at);
    w.be<std::uint8_t>(kSequence);
    w.be<std::uint8_t>(n);
    for (std::size_t i = 0; i < n; ++i) w.be<std::uint32_t>(ases[at + i].value);
    at += n;
  }
  p.bytes_ = w.take();
  return p;
}

std::optional<AsPath> AsPath::decode(View wire, std::size_t width, bool drop_confederation) {
  Reader r(wire);
  Writer w(kLongest);
  while (r.left() > 0) {
    const auto type = r.be<std::uint8_t>();
    const std::size_t count = r.be<std::uint8_t>();
    Reader ases = r.sub(count * width);
    if (drop_confederation && ases.ok() && (type == kConfedSequence || type == kConfedSet)) continue;
    // Confederation segments are for members only (RFC 5065 5.3).
    if (!ases.ok() || count == 0 || (type != kSet && type != kSequence)) return std::nullopt;
    w.be<std::uint8_t>(type);
    w.be<std::uint8_t>(count);
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint32_t as = width == 4 ? ases.be<std::uint32_t>() : ases.be<std::uint16_t>();
      if (as == 0) return std::nullopt;  // RFC 7607
      w.be<std::uint32_t>(as);
    }
  }
  if (!r.ok() || !w.ok()) return std::nullopt;
  AsPath p;
  p.bytes_ = w.take();
  return p;
}

std::uint32_t AsPath::length() const {
  std::uint32_t n = 0;
  each_segment(
      bytes_, [&](auto type, Reader, std::size_t count) { n += type == kSet ? 1 : static_cast<std::uint32_t>(count); });
  return n;
}

std::uint32_t AsPath::count(Asn as) const {
  std::uint32_t n = 0;
  each_segment(bytes_, [&](auto, Reader r, std::size_t) {
    while (r.left() > 0) n += r.be<std::uint32_t>() == as.value ? 1 : 0;
  });
  return n;
}

bool AsPath::has_set() const {
  bool found = false;
  each_segment(bytes_, [&](auto type, Reader, std::size_t) { found |= type == kSet; });
  return found;
}

bool AsPath::has_wide() const {
  bool found = false;
  each_segment(bytes_, [&](auto, Reader r, std::size_t) {
    while (r.left() > 0) found |= r.be<std::uint32_t>() > 0xffff;
  });
  return found;
}

std::optional<Asn> AsPath::first() const {
  Reader r(bytes_);
  if (bytes_.empty() || r.be<std::uint8_t>() != kSequence) return std::nullopt;
  (void)r.be<std::uint8_t>();
  return Asn{r.be<std::uint32_t>()};
}

std::optional<Asn> AsPath::origin() const {
  std::optional<Asn> last;
  each_segment(bytes_, [&](auto type, Reader r, std::size_t) {
    last.reset();
    if (type == kSequence)
      while (r.left() > 0) last = Asn{r.be<std::uint32_t>()};
  });
  return last;
}

AsPath AsPath::prepended(Asn as) const {
  Writer w(bytes_.size() + 8);
  Reader r(bytes_);
  std::uint8_t count = 0;
  if (bytes_.size() >= 2 && bytes_[0] == std::byte{kSequence} && bytes_[1] != std::byte{255}) {
    (void)r.be<std::uint8_t>();
    count = r.be<std::uint8_t>();
  }
  w.be<std::uint8_t>(kSequence);
  w.be<std::uint8_t>(count + 1U);
  w.be<std::uint32_t>(as.value);
  w.put(r.rest());
  AsPath p;
  p.bytes_ = w.take();
  return p;
}

AsPath AsPath::merged(const AsPath& as4) const {
  const auto ours = length(), theirs = as4.length();
  if (theirs > ours) return *this;  // 4.2.3: AS4_PATH is then ignored
  // Keep the first ours - theirs hops, then AS4_PATH.
  auto keep = ours - theirs;
  Writer w(bytes_.size() + as4.bytes_.size());
  each_segment(bytes_, [&](auto type, Reader r, std::size_t count) {
    if (keep == 0) return;
    const auto n = type == kSet ? count : std::min<std::size_t>(count, keep);
    w.be<std::uint8_t>(type);
    w.be<std::uint8_t>(n);
    w.put(r.take(n * 4));
    keep -= type == kSet ? 1 : static_cast<std::uint32_t>(n);
  });
  w.put(as4.bytes_);
  AsPath p;
  p.bytes_ = w.take();
  return p;
}

Bytes AsPath::narrow() const {
  Writer w(bytes_.size());
  each_segment(bytes_, [&](auto type, Reader r, std::size_t count) {
    w.be<std::uint8_t>(type);
    w.be<std::uint8_t>(count);
    while (r.left() > 0) {
      const auto as = r.be<std::uint32_t>();
      w.be<std::uint16_t>(as > 0xffff ? kAsTrans : as);
    }
  });
  return w.take();
}

std::string AsPath::to_string() const {
  std::string out;
  const auto add = [&](std::string_view s) {
    if (!out.empty()) out += ' ';
    out += s;
  };
  each_segment(bytes_, [&](auto type, Reader r, std::size_t) {
    if (type == kSet) add("{");
    while (r.left() > 0) add(fmt::to_string(r.be<std::uint32_t>()));
    if (type == kSet) add("}");
  });
  return out;
}

bool Attrs::has_community(std::uint32_t c) const {
  Reader r(communities);
  while (r.left() >= 4)
    if (r.be<std::uint32_t>() == c) return true;
  return false;
}

// --- decoding -------------------------------------------------------------------------------------------------------

namespace {

/// Takes the value of a known attribute whose length fits; false: malformed.
bool take_value(AttrBlock& out, std::uint8_t type, View value, const CodecContext& context,
                std::optional<AsPath>& as4_path, std::optional<Aggregator>& as4_aggregator) {
  Reader r(value);
  auto& a = out.attrs;
  switch (type) {
    case kAttrOrigin:
      a.origin = r.be<std::uint8_t>();
      out.has_origin = true;
      return a.origin <= 2;
    case kAttrAsPath: {
      auto p = AsPath::decode(value, context.as4 ? 4 : 2);
      out.has_as_path = true;
      if (p) a.as_path = std::move(*p);
      return p.has_value();
    }
    case kAttrNextHop:
      a.next_hop = Ip::from_bytes(value);
      out.has_next_hop = true;
      return true;
    case kAttrMed:
      a.med = r.be<std::uint32_t>();
      return true;
    case kAttrLocalPref:
      a.local_pref = r.be<std::uint32_t>();
      return true;
    case kAttrAtomicAggregate:
      a.atomic_aggregate = true;
      return true;
    case kAttrAggregator: {
      if (value.size() != (context.as4 ? 8U : 6U)) return false;
      Aggregator g;
      g.as = Asn{context.as4 ? r.be<std::uint32_t>() : r.be<std::uint16_t>()};
      g.id = r.be<std::uint32_t>();
      if (g.as.value == 0) return false;  // RFC 7607
      a.aggregator = g;
      return true;
    }
    case kAttrCommunities:
      a.communities.assign(value.begin(), value.end());
      return true;
    case kAttrExtCommunities:
      a.ext_communities.assign(value.begin(), value.end());
      return true;
    case kAttrLargeCommunities:
      a.large_communities.assign(value.begin(), value.end());
      return true;
    case kAttrOriginatorId:
      a.originator_id = r.be<std::uint32_t>();
      return true;
    case kAttrClusterList:
      while (r.left() > 0) a.cluster_list.push_back(r.be<std::uint32_t>());
      return true;
    case kAttrAs4Path:
      as4_path = AsPath::decode(value, 4, true);
      return as4_path.has_value();
    case kAttrAs4Aggregator: {
      Aggregator g;
      g.as = Asn{r.be<std::uint32_t>()};
      g.id = r.be<std::uint32_t>();
      if (g.as.value == 0) return false;  // discarded, so it must not be merged either
      as4_aggregator = g;
      return true;
    }
    default:
      return true;
  }
}

/// RFC 6793 4.2.3, for routes from a 2-octet speaker.
void merge_as4(Attrs& a, const std::optional<AsPath>& as4_path, const std::optional<Aggregator>& as4_aggregator) {
  if (a.aggregator && a.aggregator->as.value != kAsTrans && as4_aggregator) return;
  if (as4_aggregator && a.aggregator) a.aggregator = as4_aggregator;
  if (as4_path) a.as_path = a.as_path.merged(*as4_path);
}

}  // namespace

Decoded<AttrBlock> decode_attributes(View block, const CodecContext& context) {
  AttrBlock out;
  std::bitset<256> seen;
  std::optional<AsPath> as4_path;
  std::optional<Aggregator> as4_aggregator;
  Reader r(block);
  const auto withdraw = [&](std::string why) {
    out.withdraw = true;
    if (out.reason.empty()) out.reason = std::move(why);
  };
  const auto discard = [&](std::string why) {
    ++out.discarded;
    if (out.reason.empty()) out.reason = std::move(why);
  };
  while (r.left() > 0) {
    const auto flags = r.be<std::uint8_t>();
    const auto type = r.be<std::uint8_t>();
    const std::size_t length = (flags & kFlagExtended) != 0 ? r.be<std::uint16_t>() : r.be<std::uint8_t>();
    const auto value = r.take(length);
    const bool mp = type == kAttrMpReach || type == kAttrMpUnreach;
    if (!r.ok()) {
      // RFC 7606 4: the rest of the block cannot be told apart. If it was to hold MP routes, they cannot be withdrawn.
      if (mp) return update_fault(1, fmt::format("attribute {} overruns the message", type));
      withdraw("attributes overrun their length");
      break;
    }
    if (seen[type]) {
      if (mp) return update_fault(1, fmt::format("attribute {} twice", type));  // RFC 7606 3 g
      discard(fmt::format("attribute {} twice", type));
      continue;
    }
    seen.set(type);
    const auto* row = row_of(type);
    if (row == nullptr) {
      if ((flags & kFlagOptional) == 0) {
        withdraw(fmt::format("unknown well-known attribute {}", type));
      } else if ((flags & kFlagTransitive) != 0) {
        out.attrs.unknown.push_back(
            {type, static_cast<std::uint8_t>((flags & 0xe0) | kFlagPartial), Bytes(value.begin(), value.end())});
      }
      continue;
    }
    if ((flags & (kFlagOptional | kFlagTransitive)) != row->flags)
      withdraw(fmt::format("{} with flags {:#04x}", row->name, flags));  // RFC 7606 3 c; the value is read on
    if (type == kAttrMpReach) {
      auto reach = decode_reach(Reader(value), context);
      if (!reach) return tl::unexpected(std::move(reach.error()));
      if (!reach->next_hop_ok) withdraw("MP_REACH_NLRI next hop has a wrong length");
      out.reach = std::move(*reach);
      continue;
    }
    if (type == kAttrMpUnreach) {
      auto unreach = decode_unreach(Reader(value));
      if (!unreach) return tl::unexpected(std::move(unreach.error()));
      out.unreach = std::move(*unreach);
      continue;
    }
    if (row->discard_from_ebgp && !context.ibgp) {
      discard(fmt::format("{} from an external peer", row->name));
      continue;
    }
    if (context.as4 && (type == kAttrAs4Path || type == kAttrAs4Aggregator)) {
      discard(fmt::format("{} from a 4-octet speaker", row->name));
      continue;
    }
    if (!fits(*row, length) || !take_value(out, type, value, context, as4_path, as4_aggregator)) {
      auto why = fmt::format("{} is malformed (length {})", row->name, length);
      if (row->on_error == OnError::discard)
        discard(std::move(why));
      else
        withdraw(std::move(why));
    }
  }
  std::sort(out.attrs.unknown.begin(), out.attrs.unknown.end(),
            [](const auto& x, const auto& y) { return x.type < y.type; });
  if (!context.as_sets && (out.attrs.as_path.has_set() || (as4_path && as4_path->has_set())))
    withdraw("AS_SET in the path (RFC 9774)");
  if (!context.as4) merge_as4(out.attrs, as4_path, as4_aggregator);
  return out;
}

// --- encoding -------------------------------------------------------------------------------------------------------

bool encode_attributes(Bytes& out, const Attrs& a, bool as4) {
  const auto before = out.size();
  AttrWriter w(out);
  auto unknown = a.unknown.begin();
  const auto unknown_below = [&](std::uint8_t type) {
    for (; unknown != a.unknown.end() && unknown->type < type; ++unknown)
      w.attr(unknown->flags, unknown->type, unknown->value);
  };
  const auto origin = static_cast<std::byte>(a.origin);
  w.attr(kWellKnown, kAttrOrigin, View(&origin, 1));
  if (as4)
    w.attr(kWellKnown, kAttrAsPath, a.as_path.wire());
  else
    w.attr(kWellKnown, kAttrAsPath, a.as_path.narrow());
  if (a.next_hop.is_v4() && !a.next_hop.is_unspecified()) w.attr(kWellKnown, kAttrNextHop, a.next_hop.bytes());
  if (a.med) w.number(kOptNon, kAttrMed, *a.med);
  if (a.local_pref) w.number(kWellKnown, kAttrLocalPref, *a.local_pref);
  if (a.atomic_aggregate) w.attr(kWellKnown, kAttrAtomicAggregate, {});
  if (a.aggregator) w.aggregator(kAttrAggregator, *a.aggregator, as4);
  if (!a.communities.empty()) w.attr(kOptTrans, kAttrCommunities, a.communities);
  if (a.originator_id) w.number(kOptNon, kAttrOriginatorId, *a.originator_id);
  if (!a.cluster_list.empty()) {
    w.header(kOptNon, kAttrClusterList, a.cluster_list.size() * 4);
    for (auto id : a.cluster_list) w.u32(id);
  }
  unknown_below(kAttrExtCommunities);
  if (!a.ext_communities.empty()) w.attr(kOptTrans, kAttrExtCommunities, a.ext_communities);
  if (!as4 && a.as_path.has_wide()) w.attr(kOptTrans, kAttrAs4Path, a.as_path.wire());
  if (!as4 && a.aggregator && a.aggregator->as.value > 0xffff) w.aggregator(kAttrAs4Aggregator, *a.aggregator, true);
  unknown_below(kAttrLargeCommunities);
  if (!a.large_communities.empty()) w.attr(kOptTrans, kAttrLargeCommunities, a.large_communities);
  for (; unknown != a.unknown.end(); ++unknown) w.attr(unknown->flags, unknown->type, unknown->value);
  if (!w.ok()) out.resize(before);
  return w.ok();
}

void encode_attributes(Writer& w, const Attrs& attrs, bool as4) {
  Bytes block;
  if (encode_attributes(block, attrs, as4))
    w.put(block);
  else
    w.be<std::uint8_t>(256);  // too long for an attribute: too long for any writer
}

bool reflect_attributes(View canonical, std::uint32_t originator, std::uint32_t cluster_id, Bytes& out) {
  const auto before = out.size();
  // Both attributes stand right behind the well-known ones, 1 to 8, in this order.
  View rest = canonical;
  View originator_id, cluster_list;
  const auto next = [&](std::uint8_t first, std::uint8_t last, View& value) {
    Reader attr(rest);
    const auto flags = attr.be<std::uint8_t>();
    const auto type = attr.be<std::uint8_t>();
    const std::size_t length = (flags & kFlagExtended) != 0 ? attr.be<std::uint16_t>() : attr.be<std::uint8_t>();
    value = attr.take(length);
    if (!attr.ok() || type < first || type > last) return false;
    rest = attr.rest();
    return true;
  };
  View ignored;
  while (next(kAttrOrigin, kAttrCommunities, ignored)) {
  }
  AttrWriter w(out);
  w.put(canonical.first(canonical.size() - rest.size()));
  if (next(kAttrOriginatorId, kAttrOriginatorId, originator_id))
    w.attr(kOptNon, kAttrOriginatorId, originator_id);
  else
    w.number(kOptNon, kAttrOriginatorId, originator);
  if (!next(kAttrClusterList, kAttrClusterList, cluster_list)) cluster_list = {};
  w.header(kOptNon, kAttrClusterList, cluster_list.size() + 4);
  w.u32(cluster_id);
  w.put(cluster_list);
  w.put(rest);
  if (!w.ok()) out.resize(before);
  return w.ok();
}

}  // namespace calico::bgp
