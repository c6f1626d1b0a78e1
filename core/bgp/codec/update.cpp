#include "core/bgp/codec/update.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace calico::bgp {

using wire::Reader;
using wire::Writer;

namespace {

std::size_t wire_size(const Prefix& p) { return 1 + (p.len + 7U) / 8; }

/// Reads prefixes to the end; false: a length beyond the family, or cut off (RFC 4271 6.3, 7606 5.3: nothing can be
/// told).
bool decode_prefixes(View nlri, Family family, std::vector<Prefix>& out) {
  Reader r(nlri);
  const std::size_t width = family == Family::v4 ? 4 : 16;
  while (r.left() > 0) {
    const auto len = r.be<std::uint8_t>();
    if (len > width * 8) return false;
    const auto bytes = r.take((len + 7U) / 8);
    if (!r.ok()) return false;
    std::array<std::byte, 16> raw{};
    std::copy(bytes.begin(), bytes.end(), raw.begin());
    out.push_back(Prefix{Ip::from_bytes(View(raw).first(width)), len}.masked());
  }
  return true;
}

void put_prefix(Writer& w, const Prefix& p) {
  w.be<std::uint8_t>(p.len);
  w.put(p.addr.bytes().first((p.len + 7U) / 8));
}

tl::unexpected<Fault> update_fault(std::uint8_t subcode, std::string what) {
  return tl::unexpected(detail::fault(notify::kUpdate, subcode, std::move(what)));
}

std::optional<Family> family_of(AfiSafi f) {
  if (f == kIpv4Unicast) return Family::v4;
  if (f == kIpv6Unicast) return Family::v6;
  return std::nullopt;
}

/// Takes from the front of `prefixes` as many as fit into `room` bytes.
std::span<const Prefix> take_fitting(std::span<const Prefix>& prefixes, std::size_t room) {
  std::size_t n = 0, used = 0;
  while (n < prefixes.size() && used + wire_size(prefixes[n]) <= room) used += wire_size(prefixes[n++]);
  const auto head = prefixes.first(n);
  prefixes = prefixes.subspan(n);
  return head;
}

void append(Bytes& out, Writer& w) {
  detail::finish_message(w);
  out.insert(out.end(), w.view().begin(), w.view().end());
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

  if (!decode_prefixes(withdrawn, Family::v4, out.withdrawn)) return update_fault(10, "withdrawn routes are malformed");
  if (!decode_prefixes(nlri, Family::v4, out.announced)) return update_fault(10, "network field is malformed");
  auto decoded = decode_attributes(block, context);
  if (!decoded) return tl::unexpected(std::move(decoded.error()));
  auto& a = *decoded;

  if (a.unreach) {
    if (auto f = family_of(a.unreach->family)) {
      if (!decode_prefixes(a.unreach->nlri, *f, out.withdrawn)) return update_fault(9, "MP_UNREACH_NLRI is malformed");
    } else {
      out.ignored_family = a.unreach->family;
    }
  }
  if (a.reach) {
    if (auto f = family_of(a.reach->family)) {
      if (!decode_prefixes(a.reach->nlri, *f, out.announced_mp)) return update_fault(9, "MP_REACH_NLRI is malformed");
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

bool encode_announce(Bytes& out, std::size_t& messages, Family family, View attributes, const Ip& next_hop,
                     std::span<const Prefix> prefixes, std::size_t max_message) {
  constexpr std::size_t kFixed = kHeaderSize + 4;
  // MP_REACH_NLRI: flags, type, two length bytes, AFI, SAFI, next hop length, next hop, reserved.
  const std::size_t reach = family == Family::v4 ? 0 : 4 + 2 + 1 + 1 + 16 + 1;
  const std::size_t used = kFixed + attributes.size() + reach;
  if (used + (family == Family::v4 ? 5 : 17) > max_message) return false;
  while (!prefixes.empty()) {
    const auto some = take_fitting(prefixes, max_message - used);
    Writer w(max_message);
    detail::begin_message(w, MessageType::update);
    w.be<std::uint16_t>(0);
    auto block = w.open(2);
    if (family == Family::v6) {
      // RFC 7606 5.1: MP_REACH_NLRI comes first.
      w.be<std::uint8_t>(kFlagOptional | kFlagExtended);
      w.be<std::uint8_t>(kAttrMpReach);
      auto value = w.open(2);
      w.be<std::uint16_t>(kIpv6Unicast.afi);
      w.be<std::uint8_t>(kIpv6Unicast.safi);
      w.be<std::uint8_t>(next_hop.bytes().size());
      w.put(next_hop.bytes());
      w.be<std::uint8_t>(0);
      for (const auto& p : some) put_prefix(w, p);
      w.close(value);
    }
    w.put(attributes);
    w.close(block);
    if (family == Family::v4)
      for (const auto& p : some) put_prefix(w, p);
    append(out, w);
    ++messages;
  }
  return true;
}

void encode_withdraw(Bytes& out, std::size_t& messages, Family family, std::span<const Prefix> prefixes,
                     std::size_t max_message) {
  constexpr std::size_t kFixed = kHeaderSize + 4;
  const std::size_t used = kFixed + (family == Family::v4 ? 0 : 4 + 3);
  while (!prefixes.empty()) {
    const auto some = take_fitting(prefixes, max_message - used);
    Writer w(max_message);
    detail::begin_message(w, MessageType::update);
    auto withdrawn = w.open(2);
    if (family == Family::v4)
      for (const auto& p : some) put_prefix(w, p);
    w.close(withdrawn);
    auto block = w.open(2);
    if (family == Family::v6) {
      w.be<std::uint8_t>(kFlagOptional | kFlagExtended);
      w.be<std::uint8_t>(kAttrMpUnreach);
      auto value = w.open(2);
      w.be<std::uint16_t>(kIpv6Unicast.afi);
      w.be<std::uint8_t>(kIpv6Unicast.safi);
      for (const auto& p : some) put_prefix(w, p);
      w.close(value);
    }
    w.close(block);
    append(out, w);
    ++messages;
  }
}

void encode_end_of_rib(Bytes& out, AfiSafi family) {
  Writer w(kMaxMessage);
  detail::begin_message(w, MessageType::update);
  w.be<std::uint16_t>(0);
  auto block = w.open(2);
  if (family != kIpv4Unicast) {
    w.be<std::uint8_t>(kFlagOptional);
    w.be<std::uint8_t>(kAttrMpUnreach);
    auto value = w.open(1);
    w.be<std::uint16_t>(family.afi);
    w.be<std::uint8_t>(family.safi);
    w.close(value);
  }
  w.close(block);
  append(out, w);
}

}  // namespace calico::bgp
