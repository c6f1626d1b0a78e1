#include "core/bgp/codec/communities.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <vector>

#include "core/base/ip.hpp"

namespace calico::bgp {

namespace {

constexpr std::size_t kLongest = 65535;  // of an attribute's value

struct Name {
  Community community;
  std::string_view name;
};
constexpr std::array kNames{
    Name{well_known::kGracefulShutdown, "graceful-shutdown"},
    Name{well_known::kLlgrStale, "llgr-stale"},
    Name{well_known::kNoLlgr, "no-llgr"},
    Name{well_known::kBlackhole, "blackhole"},
    Name{well_known::kNoExport, "no-export"},
    Name{well_known::kNoAdvertise, "no-advertise"},
    Name{well_known::kNoExportSubconfed, "no-export-subconfed"},
    Name{well_known::kNoPeer, "no-peer"},
};

std::string_view trimmed(std::string_view s) {
  while (!s.empty() && s.front() == ' ') s.remove_prefix(1);
  while (!s.empty() && s.back() == ' ') s.remove_suffix(1);
  return s;
}

/// The parts of "a:b:c" or "(a, b, c)".
std::vector<std::string_view> parts(std::string_view text) {
  std::vector<std::string_view> out;
  text = trimmed(text);
  char separator = ':';
  if (text.size() >= 2 && text.front() == '(' && text.back() == ')') {
    text = text.substr(1, text.size() - 2);
    separator = ',';
  }
  for (;;) {
    const auto at = text.find(separator);
    out.push_back(trimmed(text.substr(0, at)));
    if (at == std::string_view::npos || out.size() > 4) return out;
    text.remove_prefix(at + 1);
  }
}

std::optional<std::uint32_t> number(std::string_view s, std::uint32_t most = 0xffffffff) {
  std::uint32_t v = 0;
  const bool hex = s.starts_with("0x");
  if (hex) s.remove_prefix(2);
  const auto [end, ec] = std::from_chars(s.data(), s.data() + s.size(), v, hex ? 16 : 10);
  if (ec != std::errc{} || end != s.data() + s.size() || v > most) return std::nullopt;
  return v;
}

template <std::size_t N>
std::array<std::byte, N> big_endian(std::uint64_t v) {
  std::array<std::byte, N> out;
  for (std::size_t i = 0; i < N; ++i) out[i] = static_cast<std::byte>(v >> (8 * (N - 1 - i)));
  return out;
}

std::uint32_t word(View bytes) { return wire::Reader(bytes).be<std::uint32_t>(); }

// RFC 4360 3, 5668 2: what the administrator of a route target or origin is.
enum : std::uint8_t { kTwoOctetAs = 0, kIpv4Address = 1, kFourOctetAs = 2 };
constexpr std::uint8_t kRouteTarget = 2, kRouteOrigin = 3;

std::optional<std::uint64_t> target(std::uint8_t subtype, std::string_view admin, std::string_view local) {
  std::uint8_t type = kTwoOctetAs;
  std::uint32_t who = 0;
  if (admin.find('.') != std::string_view::npos) {
    const auto ip = Ip::parse(admin);
    if (!ip || !ip->is_v4()) return std::nullopt;
    type = kIpv4Address;
    who = ip->to_v4();
  } else {
    const bool wide = admin.ends_with('L');
    if (wide) admin.remove_suffix(1);
    const auto as = number(admin);
    if (!as) return std::nullopt;
    who = *as;
    if (wide || who > 0xffff) type = kFourOctetAs;
  }
  const auto value = number(local, type == kTwoOctetAs ? 0xffffffff : 0xffff);
  if (!value) return std::nullopt;
  const std::uint64_t head = static_cast<std::uint64_t>(type) << 56 | static_cast<std::uint64_t>(subtype) << 48;
  return head | (type == kTwoOctetAs ? static_cast<std::uint64_t>(who) << 32 : static_cast<std::uint64_t>(who) << 16) |
         *value;
}

}  // namespace

// --- standard -------------------------------------------------------------------------------------------------------

Result<Community> Community::parse(std::string_view text) {
  std::string name(trimmed(text));
  for (auto& c : name) c = c == '_' ? '-' : c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  for (const auto& n : kNames)
    if (n.name == name) return n.community;
  const auto p = parts(text);
  if (p.size() == 2)
    if (const auto high = number(p[0], 0xffff), low = number(p[1], 0xffff); high && low)
      return Community{*high << 16 | *low};
  return fail(Errc::invalid, "'{}' is not a community (like 65000:1 or no-export)", text);
}

Community Community::from(View bytes) { return {word(bytes)}; }
std::array<std::byte, 4> Community::bytes() const { return big_endian<4>(value); }

std::string Community::to_string(CommunityStyle style) const {
  if (style == CommunityStyle::bird) return fmt::format("({},{})", value >> 16, value & 0xffff);
  for (const auto& n : kNames)
    if (n.community == *this) return std::string(n.name);
  return fmt::format("{}:{}", value >> 16, value & 0xffff);
}

// --- extended -------------------------------------------------------------------------------------------------------

Result<ExtCommunity> ExtCommunity::parse(std::string_view text) {
  auto p = parts(text);
  std::string_view kind = p[0];
  // "rt 65000:1": the kind stands before a blank instead of a separator.
  if (const auto blank = kind.find(' '); p.size() == 2 && blank != std::string_view::npos) {
    p = {kind.substr(0, blank), trimmed(kind.substr(blank)), p[1]};
    kind = p[0];
  }
  if (p.size() == 3) {
    std::optional<std::uint64_t> v;
    if (kind == "rt") {
      v = target(kRouteTarget, p[1], p[2]);
    } else if (kind == "ro" || kind == "soo") {
      v = target(kRouteOrigin, p[1], p[2]);
    } else if (kind == "generic") {
      if (const auto high = number(p[1]), low = number(p[2]); high && low)
        v = static_cast<std::uint64_t>(*high) << 32 | *low;
    }
    if (v) return ExtCommunity{*v};
  }
  return fail(Errc::invalid, "'{}' is not an extended community (like rt 65000:1 or generic 0x43000000:0x1)", text);
}

ExtCommunity ExtCommunity::from(View bytes) { return {wire::Reader(bytes).be<std::uint64_t>()}; }
std::array<std::byte, 8> ExtCommunity::bytes() const { return big_endian<8>(value); }

std::string ExtCommunity::to_string(CommunityStyle style) const {
  const auto type = static_cast<std::uint8_t>(value >> 56), subtype = static_cast<std::uint8_t>(value >> 48);
  const bool bird = style == CommunityStyle::bird;
  if (type <= kFourOctetAs && (subtype == kRouteTarget || subtype == kRouteOrigin)) {
    const auto wide = static_cast<std::uint32_t>(value >> 16);
    std::string admin;
    auto local = static_cast<std::uint32_t>(value & 0xffff);
    if (type == kTwoOctetAs) {
      admin = fmt::to_string(static_cast<std::uint16_t>(value >> 32));
      local = static_cast<std::uint32_t>(value);
    } else if (type == kIpv4Address) {
      admin = Ip::v4(wide).to_string();
    } else {
      admin = fmt::to_string(wide);
      if (wide <= 0xffff && !bird) admin += 'L';
    }
    const auto* kind = subtype == kRouteTarget ? "rt" : "ro";
    return bird ? fmt::format("({}, {}, {})", kind, admin, local) : fmt::format("{} {}:{}", kind, admin, local);
  }
  const auto high = static_cast<std::uint32_t>(value >> 32), low = static_cast<std::uint32_t>(value);
  return bird ? fmt::format("(generic, {:#x}, {:#x})", high, low) : fmt::format("generic {:#x}:{:#x}", high, low);
}

// --- large ----------------------------------------------------------------------------------------------------------

Result<LargeCommunity> LargeCommunity::parse(std::string_view text) {
  const auto p = parts(text);
  if (p.size() == 3)
    if (const auto a = number(p[0]), b = number(p[1]), c = number(p[2]); a && b && c) return LargeCommunity{*a, *b, *c};
  return fail(Errc::invalid, "'{}' is not a large community (like 65000:1:2)", text);
}

LargeCommunity LargeCommunity::from(View bytes) {
  return {word(bytes.first(4)), word(bytes.subspan(4, 4)), word(bytes.subspan(8, 4))};
}

std::array<std::byte, 12> LargeCommunity::bytes() const {
  std::array<std::byte, 12> out;
  std::size_t at = 0;
  for (const auto v : {global, local1, local2})
    for (const auto b : big_endian<4>(v)) out[at++] = b;
  return out;
}

std::string LargeCommunity::to_string(CommunityStyle style) const {
  return style == CommunityStyle::bird ? fmt::format("({}, {}, {})", global, local1, local2)
                                       : fmt::format("{}:{}:{}", global, local1, local2);
}

// --- lists ----------------------------------------------------------------------------------------------------------

namespace detail {

bool list_contains(View list, View one) {
  for (; list.size() >= one.size(); list = list.subspan(one.size()))
    if (std::equal(one.begin(), one.end(), list.begin())) return true;
  return false;
}

bool list_add(Bytes& list, View one) {
  if (list_contains(list, one)) return true;
  if (list.size() + one.size() > kLongest) return false;
  list.insert(list.end(), one.begin(), one.end());
  return true;
}

std::size_t list_remove(Bytes& list, View one) {
  std::size_t n = 0;
  for (std::size_t at = 0; at + one.size() <= list.size();) {
    const auto begin = list.begin() + static_cast<std::ptrdiff_t>(at);
    if (!std::equal(one.begin(), one.end(), begin)) {
      at += one.size();
      continue;
    }
    list.erase(begin, begin + static_cast<std::ptrdiff_t>(one.size()));
    ++n;
  }
  return n;
}

}  // namespace detail

}  // namespace calico::bgp
