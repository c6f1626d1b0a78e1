// OPEN with its optional parameters: what decodes re-encodes to the same value.
#include <cstdint>
#include <cstdlib>

#include "core/bgp/codec/message.hpp"

using namespace calico;
using namespace calico::bgp;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const View all(reinterpret_cast<const std::byte*>(data), size);
  const auto open = decode_open(all);
  if (!open) {
    if (open.error().what.empty() || open.error().code == 0) std::abort();
    return 0;
  }
  if (open->as.value == 0 || open->router_id == 0 || open->hold_time_s == 1 || open->hold_time_s == 2) std::abort();
  // Parameters of up to 64 KiB may not fit a message of ours: it is never sent then.
  if (size + kHeaderSize > 2000) return 0;
  const auto again = encode_open(*open);
  const auto header = decode_header(View(again).first(kHeaderSize));
  if (!header || header->length != again.size()) std::abort();
  const auto back = decode_open(View(again).subspan(kHeaderSize));
  if (!back || !(*back == *open)) std::abort();
  return 0;
}
