// OPEN with its parameters and capabilities, and the small messages: what decodes re-encodes to the same value.
#include <cstdint>
#include <cstdlib>

#include "core/bgp/codec/message.hpp"

using namespace calico;
using namespace calico::bgp;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const View all(reinterpret_cast<const std::byte*>(data), size);
  if (size >= kHeaderSize) (void)decode_header(all.first(kHeaderSize));
  if (auto open = decode_open(all)) {
    const auto again = encode_open(*open);
    // A value decoded from up to 64 KiB of parameters may not fit a message any more; then it is cut, never wrong.
    if (size + kHeaderSize < 2000) {
      auto back = decode_open(View(again).subspan(kHeaderSize));
      if (!back || !(*back == *open)) std::abort();
    }
  }
  if (auto n = decode_notification(all)) {
    (void)describe(*n);
    if (n->data.size() < 4000) {
      auto back = decode_notification(View(encode_notification(*n)).subspan(kHeaderSize));
      if (!back || !(*back == *n)) std::abort();
    }
  }
  if (auto r = decode_route_refresh(all)) {
    auto back = decode_route_refresh(View(encode_route_refresh(*r)).subspan(kHeaderSize));
    if (!back || !(*back == *r)) std::abort();
  }
  return 0;
}
