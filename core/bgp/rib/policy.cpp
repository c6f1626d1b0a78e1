#include "core/bgp/rib/policy.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace calico::bgp {

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
  const auto& nh = a.next_hop;
  if (nh.is_unspecified() || nh.is_multicast() || nh == Ip::v4(0xffffffff))
    return fmt::format("{} cannot be a next hop", nh);
  if (own_address && nh == *own_address) return fmt::format("next hop {} is this host", nh);
  return std::nullopt;
}

bool may_export(const Source& source, const Target& target, bool no_export, bool no_advertise) {
  if (no_advertise || (no_export && !target.internal)) return false;
  // RFC 4456 6: between non-clients the full mesh does it.
  return !(source.kind == Source::Kind::internal && target.internal && !source.client && !target.client);
}

std::optional<Attrs> export_route(Attrs a, Family family, const Source& source, const Target& target,
                                  const LocalSpeaker& speaker) {
  const auto& self = target.self(family);
  // A local route without a next hop of its own has 0.0.0.0 here.
  if (target.next_hop == NextHopMode::self || a.next_hop.is_unspecified()) {
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
    if (source.kind != Source::Kind::local) a.med.reset();  // RFC 4271 5.1.4
  }
  return a;
}

}  // namespace calico::bgp
