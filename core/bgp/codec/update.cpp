#include "core/bgp/codec/update.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace calico::bgp {

using wire::Reader;

namespace {

// --- reading --------------------------------------------------------------------------------------------------------

/// Reads routes to the end; false: a length beyond the family, or cut off (RFC 4271 6.3, 7606 5.3: nothing can be
/// told).
bool decode_routes(View nlri, Family family, bool add_path, std::vector<Nlri>& out) {
  const std::size_t width = family == Family::v4 ? 4 : 16;
  Reader r(nlri);
  while (r.left() > 0) {
    const std::uint32_t path_id = add_path ? r.be<std::uint32_t>() : 0;
    const auto len = r.be<std::uint8_t>();
    if (len > width * 8) return false;
    const auto bytes = r.take((len + 7U) / 8);
    if (!r.ok()) return false;
    std::array<std::byte, 16> raw{};
    std::copy(bytes.begin(), bytes.end(), raw.begin());
    if (len % 8 != 0) raw[len / 8] &= static_cast<std::byte>(0xff00 >> (len % 8));
    out.push_back({{Ip::from_bytes(View(raw).first(width)), len}, path_id});
  }
  return true;
}

tl::unexpected<Fault> update_fault(std::uint8_t subcode, std::string what) {
  return tl::unexpected(detail::fault(notify::kUpdate, subcode, std::move(what)));
}

std::optional<Family> family_of(AfiSafi f) {
  if (f == kIpv4Unicast) return Family::v4;
  if (f == kIpv6Unicast) return Family::v6;
  return std::nullopt;
}

// --- writing --------------------------------------------------------------------------------------------------------

constexpr std::size_t kFixed = kHeaderSize + 4;  // with both length fields of an UPDATE

const Prefix& prefix_of(const Prefix& p) { return p; }
const Prefix& prefix_of(const Nlri& n) { return n.prefix; }
std::uint32_t path_of(const Prefix&) { return 0; }
std::uint32_t path_of(const Nlri& n) { return n.path_id; }

std::size_t address_bytes(const Prefix& p) { return (p.len + 7U) / 8; }

/// Writes into space that was made large enough before: the sizes of a message are known when it is begun.
class Cursor {
 public:
  explicit Cursor(std::byte* at) : at_(at) {}
  void u8(std::size_t v) { *at_++ = static_cast<std::byte>(v); }
  void u16(std::size_t v) {
    u8(v >> 8);
    u8(v);
  }
  void u32(std::uint32_t v) {
    u16(v >> 16);
    u16(v & 0xffff);
  }
  void put(View v) {
    if (!v.empty()) std::memcpy(at_, v.data(), v.size());
    at_ += v.size();
  }
  void header(std::size_t length) {
    std::memset(at_, 0xff, 16);
    at_ += 16;
    u16(length);
    u8(static_cast<std::size_t>(MessageType::update));
  }
  template <class Route>
  void routes(std::span<const Route> some, bool add_path) {
    for (const auto& route : some) {
      const auto& p = prefix_of(route);
      if (add_path) u32(path_of(route));
      u8(p.len);
      put(p.addr.bytes().first(address_bytes(p)));
    }
  }

 private:
  std::byte* at_;
};

/// Space for `size` more bytes at the end of `out`.
Cursor grow(Bytes& out, std::size_t size) {
  const auto at = out.size();
  out.resize(at + size);
  return Cursor(out.data() + at);
}

/// Takes from the front of `routes` as many as fit into `room` bytes; `used` is their size.
template <class Route>
std::span<const Route> take_fitting(std::span<const Route>& routes, bool add_path, std::size_t room,
                                    std::size_t& used) {
  const std::size_t each = add_path ? 5 : 1;
  std::size_t n = 0;
  used = 0;
  for (; n < routes.size(); ++n) {
    const auto size = each + address_bytes(prefix_of(routes[n]));
    if (used + size > room) break;
    used += size;
  }
  const auto head = routes.first(n);
  routes = routes.subspan(n);
  return head;
}

std::size_t longest(const EncodeContext& c) { return (c.add_path ? 5U : 1U) + (c.family == Family::v4 ? 4U : 16U); }

template <class Route>
bool announce(Bytes& out, std::size_t& messages, const EncodeContext& c, View attributes, const Ip& next_hop,
              std::span<const Route> routes) {
  const bool mp = next_hop.is_v6();
  if (c.family == Family::v6 ? !mp : mp && !c.extended_next_hop) return false;
  // MP_REACH_NLRI: flags, type, two length bytes, AFI, SAFI, next hop length, next hop, reserved.
  constexpr std::size_t kReach = 2 + 1 + 1 + 16 + 1;
  const std::size_t reach = mp ? 4 + kReach : 0;
  const std::size_t fixed = kFixed + attributes.size() + reach;
  if (fixed + longest(c) > c.max_message) return false;
  while (!routes.empty()) {
    std::size_t size = 0;
    const auto some = take_fitting(routes, c.add_path, c.max_message - fixed, size);
    auto w = grow(out, fixed + size);
    w.header(fixed + size);
    w.u16(0);
    w.u16(attributes.size() + reach + (mp ? size : 0));
    if (mp) {
      // RFC 7606 5.1: MP_REACH_NLRI comes first.
      const auto family = unicast(c.family);
      w.u8(kFlagOptional | kFlagExtended);
      w.u8(kAttrMpReach);
      w.u16(kReach + size);
      w.u16(family.afi);
      w.u8(family.safi);
      w.u8(16);
      w.put(next_hop.bytes());
      w.u8(0);
      w.routes(some, c.add_path);
    }
    w.put(attributes);
    if (!mp) w.routes(some, c.add_path);
    ++messages;
  }
  return true;
}

template <class Route>
void withdraw(Bytes& out, std::size_t& messages, const EncodeContext& c, std::span<const Route> routes) {
  const bool mp = c.family == Family::v6;
  const std::size_t fixed = kFixed + (mp ? 4 + 3 : 0);
  while (!routes.empty()) {
    std::size_t size = 0;
    const auto some = take_fitting(routes, c.add_path, c.max_message - fixed, size);
    auto w = grow(out, fixed + size);
    w.header(fixed + size);
    w.u16(mp ? 0 : size);
    if (!mp) w.routes(some, c.add_path);
    w.u16(mp ? 4 + 3 + size : 0);
    if (mp) {
      w.u8(kFlagOptional | kFlagExtended);
      w.u8(kAttrMpUnreach);
      w.u16(3 + size);
      w.u16(kIpv6Unicast.afi);
      w.u8(kIpv6Unicast.safi);
      w.routes(some, c.add_path);
    }
    ++messages;
  }
}

}  // namespace

Decoded<void> decode_update(View body, const CodecContext& context, Update& out) {
  out.withdrawn.clear();
  out.announced.clear();
  out.announced_mp.clear();
  out.treat_as_withdraw = false;
  out.end_of_rib.reset();
  out.ignored_family.reset();
  out.mp_next_hop = Ip{};

  Reader r(body);
  const auto withdrawn = r.take(r.be<std::uint16_t>());
  if (!r.ok()) return update_fault(1, "withdrawn routes overrun the message");
  const auto block = r.take(r.be<std::uint16_t>());
  if (!r.ok()) return update_fault(1, "path attributes overrun the message");
  const auto nlri = r.rest();

  if (!decode_routes(withdrawn, Family::v4, context.add_path(Family::v4), out.withdrawn))
    return update_fault(10, "withdrawn routes are malformed");
  if (!decode_routes(nlri, Family::v4, context.add_path(Family::v4), out.announced))
    return update_fault(10, "network field is malformed");
  auto decoded = decode_attributes(block, context);
  if (!decoded) return tl::unexpected(std::move(decoded.error()));
  auto& a = *decoded;

  if (a.unreach) {
    if (auto f = family_of(a.unreach->family)) {
      if (!decode_routes(a.unreach->nlri, *f, context.add_path(*f), out.withdrawn))
        return update_fault(9, "MP_UNREACH_NLRI is malformed");
    } else {
      out.ignored_family = a.unreach->family;
    }
  }
  if (a.reach) {
    if (auto f = family_of(a.reach->family)) {
      if (!decode_routes(a.reach->nlri, *f, context.add_path(*f), out.announced_mp))
        return update_fault(9, "MP_REACH_NLRI is malformed");
      out.mp_next_hop = a.reach->next_hop;
    } else {
      out.ignored_family = a.reach->family;
    }
  }
  out.attrs = std::move(a.attrs);
  out.treat_as_withdraw = a.withdraw;
  out.reason = std::move(a.reason);
  out.attributes_discarded = a.discarded;

  if (body.size() == 4) {
    out.end_of_rib = kIpv4Unicast;
  } else if (withdrawn.empty() && nlri.empty() && a.unreach && a.unreach->nlri.empty() && !a.reach && !a.has_origin) {
    out.end_of_rib = a.unreach->family;
  }
  // RFC 7606 3 d: mandatory attributes are missing.
  if (!out.announced.empty() || !out.announced_mp.empty()) {
    const char* missing = nullptr;
    if (!a.has_origin)
      missing = "ORIGIN";
    else if (!a.has_as_path)
      missing = "AS_PATH";
    else if (!out.announced.empty() && !a.has_next_hop)
      missing = "NEXT_HOP";
    else if (context.ibgp && !out.attrs.local_pref && !out.treat_as_withdraw)
      missing = "LOCAL_PREF";
    if (missing != nullptr && !out.treat_as_withdraw) {
      out.treat_as_withdraw = true;
      out.reason = fmt::format("{} is missing", missing);
    }
  }
  return {};
}

bool encode_announce(Bytes& out, std::size_t& messages, const EncodeContext& context, View attributes,
                     const Ip& next_hop, std::span<const Nlri> routes) {
  return announce(out, messages, context, attributes, next_hop, routes);
}

bool encode_announce(Bytes& out, std::size_t& messages, const EncodeContext& context, View attributes,
                     const Ip& next_hop, std::span<const Prefix> prefixes) {
  return announce(out, messages, context, attributes, next_hop, prefixes);
}

void encode_withdraw(Bytes& out, std::size_t& messages, const EncodeContext& context, std::span<const Nlri> routes) {
  withdraw(out, messages, context, routes);
}

void encode_withdraw(Bytes& out, std::size_t& messages, const EncodeContext& context,
                     std::span<const Prefix> prefixes) {
  withdraw(out, messages, context, prefixes);
}

void encode_end_of_rib(Bytes& out, AfiSafi family) {
  const bool mp = family != kIpv4Unicast;
  const std::size_t size = kFixed + (mp ? 6 : 0);
  auto w = grow(out, size);
  w.header(size);
  w.u16(0);
  w.u16(mp ? 6 : 0);
  if (mp) {
    w.u8(kFlagOptional);
    w.u8(kAttrMpUnreach);
    w.u8(3);
    w.u16(family.afi);
    w.u8(family.safi);
  }
}

}  // namespace calico::bgp
