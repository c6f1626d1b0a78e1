// UPDATE with all attributes. The first byte is what was negotiated: 1 iBGP, 2 4-octet AS numbers, 4 and 8 path
// identifiers (IPv4, IPv6), 16 IPv6 next hops for IPv4, 32 AS_SETs taken, 64 extended messages. What is accepted is
// sent on and read again as the same routes with the same attributes; to a 2-octet speaker too; and reflection on the
// wire is what reflection of values is.
#include <cstdint>
#include <cstdlib>

#include "core/bgp/codec/communities.hpp"
#include "core/bgp/codec/update.hpp"
#include "core/bgp/rib/policy.hpp"

using namespace calico;
using namespace calico::bgp;

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

void same_on_the_wire(const std::vector<Nlri>& routes, const Attrs& attrs, const EncodeContext& out, CodecContext in) {
  Bytes block;
  if (!encode_attributes(block, attrs, in.as4)) return;
  Bytes stream;
  std::size_t messages = 0;
  if (!encode_announce(stream, messages, out, block, attrs.next_hop, routes)) {
    require(stream.empty());
    return;
  }
  std::vector<Nlri> got;
  Update u;
  for (View rest = stream; !rest.empty(); --messages) {
    const auto h = decode_header(rest.first(kHeaderSize), out.max_message);
    require(h && h->length <= rest.size());
    require(decode_update(rest.subspan(kHeaderSize, h->length - kHeaderSize), in, u) && !u.treat_as_withdraw);
    auto a = u.attrs;
    if (attrs.next_hop.is_v6()) a.next_hop = u.mp_next_hop;
    require(a == attrs);
    const auto& list = attrs.next_hop.is_v6() ? u.announced_mp : u.announced;
    got.insert(got.end(), list.begin(), list.end());
    rest = rest.subspan(h->length);
  }
  require(got == routes && messages == 0);

  stream.clear();
  encode_withdraw(stream, messages, out, routes);
  got.clear();
  for (View rest = stream; !rest.empty();) {
    const auto h = decode_header(rest.first(kHeaderSize), out.max_message);
    require(h && h->length <= rest.size());
    require(decode_update(rest.subspan(kHeaderSize, h->length - kHeaderSize), in, u).has_value() && !u.end_of_rib);
    got.insert(got.end(), u.withdrawn.begin(), u.withdrawn.end());
    rest = rest.subspan(h->length);
  }
  require(got == routes);
}

void same_again(const std::vector<Nlri>& routes, Attrs attrs, const CodecContext& context) {
  if (routes.empty() || attrs.next_hop.is_unspecified()) return;
  const auto family = routes[0].prefix.family();
  attrs.local_pref = attrs.local_pref.value_or(100);
  CodecContext in = context;
  in.ibgp = true;
  in.as_sets = true;
  for (const bool as4 : {true, false}) {
    in.as4 = as4;
    same_on_the_wire(routes, attrs, {family, in.add_path(family), in.extended_next_hop, in.max_message}, in);
  }
  Bytes canonical, reflected, wanted;
  if (!encode_attributes(canonical, attrs)) return;
  if (!reflect_attributes(canonical, 9, 7, reflected)) return;
  const auto source = Source{Source::Kind::internal, true, 9};
  const auto value = export_route(attrs, attrs.next_hop.family(), source, Target{}, LocalSpeaker{Asn{1}, 5, 7});
  require(value && encode_attributes(wanted, *value) && wanted == reflected);
}

template <class C>
void communities(View list) {
  (void)list_to_string<C>(list, CommunityStyle::bird);
  each<C>(list, [](const C& c) {
    const auto back = C::parse(c.to_string());
    require(back && *back == c);
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  static Update u;
  const auto bit = [&](int n) { return (data[0] >> n & 1) != 0; };
  CodecContext context{bit(0), bit(1), {bit(2), bit(3)}, bit(4), bit(5)};
  if (bit(6)) context.max_message = kMaxExtendedMessage;
  if (!decode_update(View(reinterpret_cast<const std::byte*>(data) + 1, size - 1), context, u)) return 0;
  for (const auto* list : {&u.withdrawn, &u.announced, &u.announced_mp})
    for (const auto& route : *list) {
      require(route.prefix == route.prefix.masked() && route.prefix.len <= route.prefix.addr.bits());
      require(context.add_path(route.prefix.family()) || route.path_id == 0);
    }
  if (u.treat_as_withdraw) {
    require(!u.reason.empty());
    return 0;
  }
  const auto announced = u.announced, mp = u.announced_mp;
  auto attrs = u.attrs;
  require(context.as_sets || !attrs.as_path.has_set());
  (void)attrs.as_path.to_string();
  communities<Community>(attrs.communities);
  communities<ExtCommunity>(attrs.ext_communities);
  communities<LargeCommunity>(attrs.large_communities);
  const auto mp_next_hop = u.mp_next_hop;
  same_again(announced, attrs, context);
  if (mp.empty()) return 0;
  attrs.next_hop = mp_next_hop;
  same_again(mp, attrs, context);
  return 0;
}
