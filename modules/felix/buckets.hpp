#pragma once
/// Token buckets (tbf) at the root of an endpoint's interface: what limits the bandwidth to it.
/// Thread: any, pure.
#include "core/model/qos.hpp"
#include "core/netlink/types.hpp"

namespace calico::felix {

/// The token bucket for this bandwidth. A packet above a burst would be dropped, so bursts hold one of 9000 bytes.
[[nodiscard]] netlink::Qdisc token_bucket(IfIndex dev, const model::Bandwidth& b);
/// By its handle, 0xc000 to 0xcfff.
[[nodiscard]] bool is_our_bucket(const netlink::Qdisc& q);

/// Bursts cannot be read back: they are in the handle.
struct SameQdisc {
  bool operator()(const netlink::Qdisc& a, const netlink::Qdisc& b) const {
    return a.handle == b.handle && a.kind == b.kind && a.rate == b.rate && a.peak == b.peak && a.limit == b.limit;
  }
};

}  // namespace calico::felix
