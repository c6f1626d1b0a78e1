#include "core/bgp/codec/negotiate.hpp"

namespace calico::bgp {

Negotiated negotiate(const Capabilities& ours, const Capabilities& theirs, bool ibgp) {
  Negotiated n;
  n.in.ibgp = ibgp;
  // A 2-octet speaker would not have understood our capability, so ours alone says nothing.
  n.as4_out = n.in.as4 = ours.as4 && theirs.as4;
  // RFC 8654 wants only the receiver's word; with both, one number serves reading and writing.
  if (ours.extended_message && theirs.extended_message) n.in.max_message = kMaxExtendedMessage;
  n.in.extended_next_hop = ours.ipv4_over_ipv6() && theirs.ipv4_over_ipv6();
  n.refresh = ours.refresh && theirs.refresh;
  n.enhanced_refresh = n.refresh && ours.enhanced_refresh && theirs.enhanced_refresh;
  // RFC 4760 8: who says nothing about families means IPv4 unicast.
  const auto has = [](const Capabilities& c, AfiSafi family) {
    return c.families.empty() ? family == kIpv4Unicast : c.has(family);
  };
  for (const auto family : {Family::v4, Family::v6}) {
    const std::size_t f = family == Family::v4 ? 0 : 1;
    const auto afi_safi = unicast(family);
    n.families[f] = has(ours, afi_safi) && has(theirs, afi_safi);
    const auto our = ours.add_path_of(afi_safi), their = theirs.add_path_of(afi_safi);
    n.in.add_path_rx[f] = our.receive && their.send;
    n.out[f] = {family, our.send && their.receive, family == Family::v4 && n.in.extended_next_hop, n.in.max_message};
  }
  return n;
}

}  // namespace calico::bgp
