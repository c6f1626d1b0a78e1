// Headers, NOTIFICATION and ROUTE-REFRESH: what decodes re-encodes to the same value, and what a peer wrote is shown in
// one line that no terminal obeys.
#include <cstdint>
#include <cstdlib>

#include "core/bgp/codec/message.hpp"

using namespace calico;
using namespace calico::bgp;

namespace {

void show(const Notification& n) {
  const auto text = describe(n);
  if (text.empty() || text.size() > 1000) std::abort();
  for (const char c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const View all(reinterpret_cast<const std::byte*>(data), size);
  for (const auto most : {kMaxMessage, kMaxExtendedMessage})
    if (const auto h = decode_header(all.first(std::min(size, kHeaderSize)), most))
      if (h->length < kHeaderSize || h->length > most) std::abort();
  if (const auto n = decode_notification(all)) {
    show(*n);
    const auto hard = hard_reset(*n);
    show(hard);
    const auto words = cease(notify::kShutdown, false, wire::as_text(all));
    show(words);
    for (const auto* m : {&*n, &hard, &words}) {
      if (m->data.size() > kMaxMessage - kHeaderSize - 2) continue;  // cut to a message
      const auto back = decode_notification(View(encode_notification(*m)).subspan(kHeaderSize));
      if (!back || !(*back == *m)) std::abort();
    }
  }
  if (const auto r = decode_route_refresh(all)) {
    const auto back = decode_route_refresh(View(encode_route_refresh(*r)).subspan(kHeaderSize));
    if (size != 4 || !back || !(*back == *r)) std::abort();
  } else if (r.error().code != (size < 4 ? notify::kHeader : notify::kRefresh)) {
    std::abort();
  }
  return 0;
}
