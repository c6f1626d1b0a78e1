// UPDATE with all attributes. First byte: context (1 = iBGP, 2 = 4-octet AS numbers). What is accepted is sent on and
// read again as the same routes with the same attributes.
#include <cstdint>
#include <cstdlib>

#include "core/bgp/codec/update.hpp"

using namespace calico;
using namespace calico::bgp;

namespace {
void same_again(Family family, const std::vector<Nlri>& routes, Attrs attrs) {
  if (routes.empty() || attrs.next_hop.family() != family || attrs.next_hop.is_unspecified()) return;
  attrs.local_pref = attrs.local_pref.value_or(100);
  wire::Writer block(200000);
  encode_attributes(block, attrs);
  Bytes stream;
  std::size_t messages = 0;
  if (!encode_announce(stream, messages, EncodeContext{family}, block.view(), attrs.next_hop, routes)) return;
  std::vector<Nlri> got;
  Update u;
  for (View rest = stream; !rest.empty();) {
    auto h = decode_header(rest.first(kHeaderSize));
    if (!h || h->length > rest.size()) std::abort();
    if (!decode_update(rest.subspan(kHeaderSize, h->length - kHeaderSize), {}, u) || u.treat_as_withdraw) std::abort();
    auto a = u.attrs;
    if (family == Family::v6) a.next_hop = u.mp_next_hop;
    if (!(a == attrs)) std::abort();
    const auto& list = family == Family::v6 ? u.announced_mp : u.announced;
    got.insert(got.end(), list.begin(), list.end());
    rest = rest.subspan(h->length);
  }
  if (got != routes) std::abort();
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  static Update u;
  const View all(reinterpret_cast<const std::byte*>(data) + 1, size - 1);
  if (!decode_update(all, {(data[0] & 1) != 0, (data[0] & 2) != 0}, u) || u.treat_as_withdraw) return 0;
  const auto announced = u.announced, mp = u.announced_mp;
  auto attrs = u.attrs;
  const auto mp_next_hop = u.mp_next_hop;
  (void)attrs.as_path.to_string();
  same_again(Family::v4, announced, attrs);
  if (mp.empty()) return 0;
  attrs.next_hop = mp_next_hop;
  same_again(mp[0].prefix.family(), mp, attrs);
  return 0;
}
