// The capabilities of a peer, without the OPEN around them: what decodes re-encodes to the same value, and what two
// speakers make of each other's is the same seen from both sides.
#include <cstdint>
#include <cstdlib>

#include "core/bgp/codec/negotiate.hpp"

using namespace calico;
using namespace calico::bgp;

namespace {

Decoded<Open> in_an_open(View capabilities) {
  wire::Writer w(70000);
  w.be<std::uint8_t>(4);
  w.be<std::uint16_t>(64512);
  w.be<std::uint16_t>(90);
  w.be<std::uint32_t>(1);
  w.be<std::uint16_t>(0xffff);  // RFC 9072: 16-bit lengths
  w.be<std::uint16_t>(capabilities.size() + 3);
  w.be<std::uint8_t>(2);
  w.be<std::uint16_t>(capabilities.size());
  w.put(capabilities);
  return decode_open(w.view());
}

Capabilities everything() {
  Capabilities c;
  c.families = {kIpv4Unicast, kIpv6Unicast};
  c.as4 = Asn{64512};
  c.refresh = c.enhanced_refresh = c.extended_message = true;
  c.add_path = {{kIpv4Unicast, true, true}, {kIpv6Unicast, true, true}};
  c.next_hops = {{kIpv4Unicast, 2}};
  return c;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size > 3000) return 0;
  const auto open = in_an_open(View(reinterpret_cast<const std::byte*>(data), size));
  if (!open) {
    if (open.error().code != notify::kOpen) std::abort();
    return 0;
  }
  if (size < 1500) {
    const auto back = decode_open(View(encode_open(*open)).subspan(kHeaderSize));
    if (!back || !(*back == *open)) std::abort();
  }
  const auto ours = everything();
  const auto here = negotiate(ours, open->caps, true), there = negotiate(open->caps, ours, true);
  for (const int f : {0, 1}) {
    if (here.families[f] != there.families[f]) std::abort();
    if (here.out[f].add_path != there.in.add_path_rx[f] || there.out[f].add_path != here.in.add_path_rx[f])
      std::abort();
    if (here.out[f].max_message != there.in.max_message) std::abort();
    if (here.out[f].extended_next_hop != (f == 0 && there.in.extended_next_hop)) std::abort();
  }
  if (here.as4_out != there.in.as4 || here.enhanced_refresh != there.enhanced_refresh) std::abort();
  return 0;
}
