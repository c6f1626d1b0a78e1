#include "modules/felix/buckets.hpp"

#include <algorithm>

namespace calico::felix {
namespace {

/// Handles of our token buckets: the kernel gives 0x8000 and on by itself, people small numbers.
constexpr std::uint32_t kOurHandles = 0xc000;

}  // namespace

bool is_our_bucket(const netlink::Qdisc& q) { return q.kind == "tbf" && q.handle >> 28U == kOurHandles >> 12U; }

netlink::Qdisc token_bucket(IfIndex dev, const model::Bandwidth& b) {
  constexpr std::uint32_t kOnePacket = 10'240;
  constexpr std::uint64_t kQueueMin = 100'000, kQueueMax = 64'000'000;
  netlink::Qdisc q;
  q.dev = dev;
  q.kind = "tbf";
  q.rate = b.rate;
  q.burst = std::max(b.burst, kOnePacket);
  q.peak = b.peak;
  if (b.peak) q.peak_burst = std::max(b.min_burst, kOnePacket);
  // What waits is at most 50 ms of the rate; upstream's burst on top of it would be minutes of queue.
  q.limit = static_cast<std::uint32_t>(std::clamp(b.rate / 20, kQueueMin, kQueueMax));
  std::uint32_t h = 2166136261U;
  for (const std::uint64_t part : {std::uint64_t{q.burst}, std::uint64_t{q.peak_burst}})
    for (int i = 0; i < 4; ++i) h = (h ^ (part >> (8 * i) & 0xffU)) * 16777619U;
  q.handle = (kOurHandles | (h ^ h >> 12U ^ h >> 24U) % 0x1000U) << 16U;
  return q;
}

}  // namespace calico::felix
