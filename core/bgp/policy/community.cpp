#include "core/bgp/policy/community.hpp"

#include <algorithm>
#include <cassert>
#include <charconv>
#include <optional>

#include "core/base/ip.hpp"
#include "core/bgp/codec/communities.hpp"

namespace calico::bgp {
namespace {

using Kind = CommunityPattern::Kind;
constexpr std::byte kAll{0xff};

template <class T>
std::optional<T> number(std::string_view text) {
  T v{};
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), v);
  if (ec != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return v;
}

std::vector<std::string_view> parts_of(std::string_view text) {
  std::vector<std::string_view> out;
  while (true) {
    const auto at = text.find(':');
    out.push_back(text.substr(0, at));
    if (at == std::string_view::npos || out.size() > 3) return out;
    text.remove_prefix(at + 1);
  }
}

void put(CommunityPattern& p, std::size_t at, std::size_t bytes, std::uint64_t v) {
  for (std::size_t i = 0; i < bytes; ++i) {
    p.value.at(at + i) = static_cast<std::byte>(v >> (8 * (bytes - 1 - i)));
    p.mask.at(at + i) = kAll;
  }
}

/// A number of `bytes` bytes, or "*", which leaves the mask open.
bool put_field(CommunityPattern& p, std::size_t at, std::size_t bytes, std::string_view text) {
  if (text == "*") return true;
  const auto v = number<std::uint64_t>(text);
  if (!v || (bytes < 8 && *v >> (8 * bytes) != 0)) return false;
  put(p, at, bytes, *v);
  return true;
}

std::uint64_t take(const CommunityPattern& p, std::size_t at, std::size_t bytes) {
  std::uint64_t v = 0;
  for (std::size_t i = 0; i < bytes; ++i) v = v << 8 | std::to_integer<std::uint64_t>(p.value.at(at + i));
  return v;
}

bool open(const CommunityPattern& p, std::size_t at) { return p.mask.at(at) != kAll; }

/// "rt:65000:1", "soo:4200000000:1", "rt:10.0.0.1:7", "rt:*".
bool parse_route_community(CommunityPattern& p, const std::vector<std::string_view>& parts) {
  p.kind = Kind::extended;
  put(p, 1, 1, parts[0] == "rt" ? 2 : 3);
  if (parts.size() == 2) return parts[1] == "*";  // of any type
  if (parts.size() != 3) return false;
  if (parts[1].find('.') != std::string_view::npos) {
    const auto ip = Ip::parse(parts[1]);
    if (!ip || !ip->is_v4()) return false;
    put(p, 0, 1, 1);
    put(p, 2, 4, ip->to_v4());
    return put_field(p, 6, 2, parts[2]);
  }
  const auto as = number<std::uint32_t>(parts[1]);
  if (!as) return false;
  const bool wide = *as > 0xffff;
  put(p, 0, 1, wide ? 2 : 0);
  put(p, 2, wide ? 4 : 2, *as);
  return put_field(p, wide ? 6 : 4, wide ? 2 : 4, parts[2]);
}

bool parse_into(CommunityPattern& p, std::string_view text) {
  if (text.find(':') == std::string_view::npos && !text.empty() && text.front() >= 'a' && text.front() <= 'z') {
    const auto named = Community::parse(text);
    if (named) put(p, 0, 4, named->value);
    return named.has_value();
  }
  if (text.starts_with("ext:0x")) {
    p.kind = Kind::extended;
    std::uint64_t v = 0;
    const auto hex = text.substr(6);
    const auto [end, ec] = std::from_chars(hex.data(), hex.data() + hex.size(), v, 16);
    if (hex.size() != 16 || ec != std::errc() || end != hex.data() + hex.size()) return false;
    put(p, 0, 8, v);
    return true;
  }
  const auto parts = parts_of(text);
  if (parts[0] == "rt" || parts[0] == "soo") return parse_route_community(p, parts);
  if (parts.size() == 2) return put_field(p, 0, 2, parts[0]) && put_field(p, 2, 2, parts[1]);
  if (parts.size() != 3) return false;
  p.kind = Kind::large;
  return put_field(p, 0, 4, parts[0]) && put_field(p, 4, 4, parts[1]) && put_field(p, 8, 4, parts[2]);
}

}  // namespace

Result<CommunityPattern> CommunityPattern::parse(std::string_view text) {
  CommunityPattern p;
  if (!parse_into(p, text))
    return fail(Errc::invalid,
                "'{}' is no community: A:B, A:B:C (large), rt:A:B, soo:A:B, ext:0x and 16 digits, '*' for any number, "
                "or a name such as no-export",
                text.substr(0, 60));
  return p;
}

bool CommunityPattern::matches(Kind of, wire::View element) const {
  if (of != kind) return false;
  for (std::size_t i = 0; i < element.size(); ++i)
    if ((element[i] & mask[i]) != value[i]) return false;
  return true;
}

bool CommunityPattern::exact() const {
  return std::all_of(mask.begin(), mask.begin() + static_cast<std::ptrdiff_t>(width(kind)),
                     [](std::byte b) { return b == kAll; });
}

wire::View CommunityPattern::bytes() const { return wire::View(value).first(width(kind)); }

std::string CommunityPattern::to_string() const {
  const auto field = [&](std::size_t at, std::size_t bytes) {
    return open(*this, at) ? std::string("*") : std::to_string(take(*this, at, bytes));
  };
  if (kind == Kind::standard) {
    if (exact()) return Community{static_cast<std::uint32_t>(take(*this, 0, 4))}.to_string();
    return field(0, 2) + ":" + field(2, 2);
  }
  if (kind == Kind::large) return field(0, 4) + ":" + field(4, 4) + ":" + field(8, 4);
  const auto type = take(*this, 0, 1), sub = take(*this, 1, 1);
  const std::string name = sub == 2 ? "rt:" : "soo:";
  if ((sub == 2 || sub == 3) && open(*this, 0)) return name + "*";
  if ((sub == 2 || sub == 3) && type <= 2) {
    if (type == 0) return name + field(2, 2) + ":" + field(4, 4);
    if (type == 1) return name + Ip::v4(static_cast<std::uint32_t>(take(*this, 2, 4))).to_string() + ":" + field(6, 2);
    if (take(*this, 2, 4) > 0xffff) return name + field(2, 4) + ":" + field(6, 2);
  }
  return fmt::format("ext:0x{:016x}", take(*this, 0, 8));
}

bool add_community(wire::Bytes& list, const CommunityPattern& pattern) {
  assert(pattern.exact());
  bool there = false;
  each_community(pattern.kind, list, [&](wire::View e) { return !(there = pattern.matches(pattern.kind, e)); });
  if (there) return false;
  const auto bytes = pattern.bytes();
  list.insert(list.end(), bytes.begin(), bytes.end());
  return true;
}

bool delete_communities(wire::Bytes& list, const CommunityPattern& pattern) {
  const auto before = list.size();
  const auto n = width(pattern.kind);
  std::size_t kept = 0;
  for (std::size_t at = 0; at + n <= before; at += n) {
    if (pattern.matches(pattern.kind, wire::View(list).subspan(at, n))) continue;
    std::copy_n(list.begin() + static_cast<std::ptrdiff_t>(at), n, list.begin() + static_cast<std::ptrdiff_t>(kept));
    kept += n;
  }
  if (kept == before) return false;
  list.resize(kept);
  return true;
}

}  // namespace calico::bgp
