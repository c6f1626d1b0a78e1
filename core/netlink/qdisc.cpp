/// Queueing disciplines: the token bucket at the root of a link.
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "core/netlink/rtnl.hpp"

namespace calico::netlink {
namespace {

/// With a known link layer the kernel asks for no table of transmission times.
tc_ratespec rate_of(std::uint64_t bytes_a_second) {
  tc_ratespec r{};
  r.linklayer = TC_LINKLAYER_ETHERNET;
  r.rate = static_cast<std::uint32_t>(std::min<std::uint64_t>(bytes_a_second, UINT32_MAX));
  return r;
}

void begin(MessageBuilder& b, std::uint16_t type, std::uint16_t flags, const Qdisc& q) {
  b.begin(type, static_cast<std::uint16_t>(NLM_F_REQUEST | NLM_F_ACK | flags), 0);
  tcmsg h{};
  h.tcm_family = AF_UNSPEC;
  h.tcm_ifindex = static_cast<int>(q.dev.value);
  h.tcm_handle = q.handle;
  h.tcm_parent = TC_H_ROOT;
  b.body(h);
  b.str(TCA_KIND, q.kind);
}

}  // namespace

std::size_t Batch::replace(const Qdisc& q) {
  begin(b_, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, q);
  {
    auto options = b_.nest(TCA_OPTIONS);
    tc_tbf_qopt p{};
    p.rate = rate_of(q.rate);
    if (q.peak) p.peakrate = rate_of(q.peak);
    p.limit = q.limit;
    b_.attr(TCA_TBF_PARMS, &p, sizeof p);
    if (q.rate > UINT32_MAX) b_.attr(TCA_TBF_RATE64, &q.rate, sizeof q.rate);
    if (q.peak > UINT32_MAX) b_.attr(TCA_TBF_PRATE64, &q.peak, sizeof q.peak);
    b_.u32(TCA_TBF_BURST, q.burst);
    if (q.peak) b_.u32(TCA_TBF_PBURST, q.peak_burst);
  }
  return finish();
}

std::size_t Batch::remove(const Qdisc& q) {
  begin(b_, RTM_DELQDISC, 0, q);
  return finish();
}

std::optional<Qdisc> decode_qdisc(const Message& m) {
  if ((m.type != RTM_NEWQDISC && m.type != RTM_DELQDISC) || !m.fits<tcmsg>()) return std::nullopt;
  const auto h = m.body<tcmsg>();
  if (h.tcm_parent != TC_H_ROOT) return std::nullopt;
  Qdisc q;
  q.dev = IfIndex{static_cast<std::uint32_t>(h.tcm_ifindex)};
  q.handle = h.tcm_handle;
  const auto attrs = m.attrs(sizeof h);
  q.kind = attrs.find(TCA_KIND).str();
  if (q.kind != "tbf") return q;
  const Attrs options(attrs.find(TCA_OPTIONS).data);
  if (const auto a = options.find(TCA_TBF_PARMS); a.data.size() >= sizeof(tc_tbf_qopt)) {
    tc_tbf_qopt p{};
    std::memcpy(&p, a.data.data(), sizeof p);
    q.rate = p.rate.rate;
    q.peak = p.peakrate.rate;
    q.limit = p.limit;
  }
  const auto wide = [&](std::uint16_t type, std::uint64_t& v) {
    if (const auto a = options.find(type); a.data.size() >= sizeof v) std::memcpy(&v, a.data.data(), sizeof v);
  };
  wide(TCA_TBF_RATE64, q.rate);
  wide(TCA_TBF_PRATE64, q.peak);
  return q;
}

}  // namespace calico::netlink
