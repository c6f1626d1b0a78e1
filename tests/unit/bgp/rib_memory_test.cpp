/// What a million routes cost: the RIB and the attribute store alone, in a process that does nothing else.
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <fstream>

#include "core/bgp/rib/rib.hpp"

namespace calico::bgp {
namespace {

double resident_bytes() {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);)
    if (line.rfind("VmRSS:", 0) == 0) return std::stod(line.substr(6)) * 1024;
  return 0;
}
double allocated_bytes() {
  const auto m = mallinfo2();
  return static_cast<double>(m.uordblks + m.hblkhd);
}

// As the clients of a reflector announce them: a thousand peers, each with a set of attributes of its own.
TEST(BgpRibMemory, AMillionHostRoutesTakeLessThan64Megabytes) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "SKIPPED, the sanitizer's own memory would be measured";
#endif
  constexpr std::uint32_t kPeers = 1000, kEach = 1000;
  const double resident = resident_bytes(), allocated = allocated_bytes();
  AttrStore attrs;
  Rib rib(attrs, [](const Ip& next_hop) -> Result<ResolvedHop> { return ResolvedHop{next_hop, {}, 0}; });
  const auto decide = [&] {
    while (rib.take_dirty(16384, [&](PrefixId id) { rib.set_best(id, rib.select(id)); })) {
    }
  };
  for (std::uint32_t p = 0; p < kPeers; ++p) {
    RibPeer config;
    config.client = true;
    config.router_id = 0x0a420001 + p;
    config.address = Ip::v4(config.router_id);
    const auto peer = rib.add_peer(config);
    Attrs a;
    a.next_hop = config.address;
    a.local_pref = 100;
    const auto set = attrs.intern(a);
    for (std::uint32_t i = 0; i < kEach; ++i) {
      attrs.ref(set);
      // Scattered, as IPAM blocks are: 64 addresses here, 64 there.
      const auto block = (i / 64 * kPeers + p) * 64 + i % 64;
      rib.announce(peer, Prefix::host(Ip::v4(0x0a000000 + block)), set, i);
    }
    attrs.unref(set);
    decide();
  }
  const double grown = resident_bytes() - resident, heap = allocated_bytes() - allocated;
  ASSERT_EQ(rib.counts().routes[0], std::size_t{kPeers} * kEach);
  ASSERT_EQ(rib.counts().networks[0], std::size_t{kPeers} * kEach);
  fmt::print("1,000,000 routes: {:.1f} bytes each resident, {:.1f} allocated, {} attribute sets\n", grown / 1e6,
             heap / 1e6, attrs.size());
  EXPECT_LT(grown, 64e6);
  EXPECT_LT(heap, 64e6);
  EXPECT_GT(grown, 20e6) << "that is less than the routes themselves: it measures nothing";
}

}  // namespace
}  // namespace calico::bgp
