#include "core/bgp/rib/policy.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/bgp/codec/communities.hpp"

namespace calico::bgp {

namespace {
constexpr std::uint32_t kGracefulShutdown = 0xffff0000;  // 65535:0
}  // namespace

std::optional<std::string> import_route(Attrs& a, const LocalSpeaker& speaker, bool internal,
                                        const std::optional<Ip>& own_address, std::uint8_t allow_own_as) {
  if (a.as_path.count(speaker.local_as) > allow_own_as)
    return fmt::format("own AS {} in the path", speaker.local_as.value);
  if (internal) {
    if (a.originator_id == speaker.router_id) return "originated here";
    if (std::find(a.cluster_list.begin(), a.cluster_list.end(), speaker.cluster_id) != a.cluster_list.end())
      return "reflected here before";
  } else {
    a.local_pref = 100;
  }
  if (a.has_community(kGracefulShutdown)) a.local_pref = 0;  // RFC 8326 4.2
  // RFC 7999 3.2: what somebody wants dropped goes no further than this AS.
  if (!internal && a.has_community(well_known::kBlackhole.value) && !add(a.communities, well_known::kNoExport))
    return "no room for NO_EXPORT beside BLACKHOLE";
  const auto& nh = a.next_hop;
  if (nh.is_unspecified() || nh.is_multicast() || nh == Ip::v4(0xffffffff))
    return fmt::format("{} cannot be a next hop", nh);
  if (own_address && nh == *own_address) return fmt::format("next hop {} is this host", nh);
  return std::nullopt;
}

bool may_export(const Source& source, const Target& target, bool no_export, bool no_advertise, bool llgr_stale) {
  if (no_advertise || (no_export && !target.internal) || (llgr_stale && !target.long_lived)) return false;
  // RFC 4456 6: between non-clients the full mesh does it.
  return !(source.kind == Source::Kind::internal && target.internal && !source.client && !target.client);
}

std::optional<Attrs> export_route(Attrs a, Family family, const Source& source, const Target& target,
                                  const LocalSpeaker& speaker, std::uint8_t variant) {
  const auto& self = target.self(family);
  // A local route without a next hop of its own has 0.0.0.0 here.
  const bool own = (target.next_hop == NextHopMode::self || (variant & kHopSelf) != 0) && (variant & kHopKeep) == 0;
  if (own || a.next_hop.is_unspecified()) {
    if (!self) return std::nullopt;
    a.next_hop = *self;
  }
  if (a.next_hop.family() != family && !(target.extended_next_hop && family == Family::v4)) return std::nullopt;
  if (target.internal) {
    if (!a.local_pref) a.local_pref = 100;
    if (source.kind == Source::Kind::internal) {
      if (!a.originator_id) a.originator_id = source.router_id;
      a.cluster_list.insert(a.cluster_list.begin(), speaker.cluster_id);
    }
  } else {
    a.as_path = a.as_path.prepended(speaker.local_as);
    a.local_pref.reset();
    a.originator_id.reset();
    a.cluster_list.clear();
    if (source.kind != Source::Kind::local && (variant & kMedSet) == 0) a.med.reset();  // RFC 4271 5.1.4
    remove_if<ExtCommunity>(a.ext_communities, [](const ExtCommunity& c) { return !c.transitive(); });  // RFC 4360 2
  }
  if (speaker.draining) {
    if (target.internal) a.local_pref = 0;
    if (!a.has_community(kGracefulShutdown))
      for (int shift = 24; shift >= 0; shift -= 8)
        a.communities.push_back(static_cast<std::byte>(kGracefulShutdown >> shift & 0xff));
  }
  return a;
}

}  // namespace calico::bgp
