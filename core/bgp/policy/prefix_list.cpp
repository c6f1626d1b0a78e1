#include "core/bgp/policy/prefix_list.hpp"

#include <algorithm>
#include <cassert>
#include <charconv>
#include <optional>

namespace calico::bgp {
namespace {

std::optional<std::uint8_t> length_of(std::string_view text, std::uint8_t bits) {
  unsigned n = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (ec != std::errc() || end != text.data() + text.size() || n > bits) return std::nullopt;
  return static_cast<std::uint8_t>(n);
}

}  // namespace

Result<PrefixEntry> parse_prefix_entry(std::string_view text) {
  const auto whole = text;
  const auto bad = [&](std::string_view why) {
    return fail(Errc::invalid, "'{}' is no prefix match: {}", whole.substr(0, 60), why);
  };
  std::string_view range;
  bool inside = false;
  if (text.ends_with('+')) {
    inside = true;
    text.remove_suffix(1);
  } else if (const auto at = text.find('{'); at != std::string_view::npos) {
    if (text.back() != '}') return bad("'{' without '}' at the end");
    range = text.substr(at + 1, text.size() - at - 2);
    text = text.substr(0, at);
    if (range.empty()) return bad("lengths are {MIN,MAX}");
  }
  auto block = Prefix::parse(text);
  if (!block) return bad(block.error().what);
  PrefixEntry e{*block, block->len, inside ? block->addr.bits() : block->len};
  if (!range.empty()) {
    const auto comma = range.find(',');
    const auto bits = block->addr.bits();
    const auto lo = comma == std::string_view::npos ? std::nullopt : length_of(range.substr(0, comma), bits);
    const auto hi = comma == std::string_view::npos ? std::nullopt : length_of(range.substr(comma + 1), bits);
    if (!lo || !hi) return bad("lengths are {MIN,MAX} within the family's");
    if (*lo < block->len || *lo > *hi) return bad("lengths must be block <= MIN <= MAX");
    e.min = *lo;
    e.max = *hi;
  }
  return e;
}

std::string to_string(const PrefixEntry& e) {
  auto out = e.block.to_string();
  if (e.block.is_host() && out.find('/') == std::string::npos) out += fmt::format("/{}", e.block.len);
  if (e.min == e.block.len && e.max == e.block.len) return out;
  if (e.min == e.block.len && e.max == e.block.addr.bits()) return out + "+";
  return out + fmt::format("{{{},{}}}", e.min, e.max);
}

PrefixList::PrefixList(std::vector<PrefixEntry> entries) : entries_(std::move(entries)) {
  for (auto& e : entries_) {
    e.block = e.block.masked();
    assert(e.block.len <= e.min && e.min <= e.max && e.max <= e.block.addr.bits());
  }
  std::sort(entries_.begin(), entries_.end());
  std::size_t kept = 0;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    if (kept > 0 && entries_[kept - 1].block == entries_[i].block && entries_[i].min <= entries_[kept - 1].max + 1U) {
      entries_[kept - 1].max = std::max(entries_[kept - 1].max, entries_[i].max);
    } else {
      entries_[kept++] = entries_[i];
    }
  }
  entries_.resize(kept);
  entries_.shrink_to_fit();
  std::array<bool, 129> seen4{}, seen6{};
  for (const auto& e : entries_) (e.block.addr.is_v4() ? seen4 : seen6).at(e.block.len) = true;
  for (std::uint8_t n = 0; n <= 128; ++n) {
    if (seen4.at(n)) lengths4_.push_back(n);
    if (seen6.at(n)) lengths6_.push_back(n);
  }
}

bool PrefixList::contains(const Prefix& prefix) const {
  for (const auto len : prefix.addr.is_v4() ? lengths4_ : lengths6_) {
    if (len > prefix.len) return false;
    const auto block = Prefix{prefix.addr, len}.masked();
    auto it = std::lower_bound(entries_.begin(), entries_.end(), block,
                               [](const PrefixEntry& e, const Prefix& p) { return e.block < p; });
    for (; it != entries_.end() && it->block == block; ++it)
      if (it->min <= prefix.len && prefix.len <= it->max) return true;
  }
  return false;
}

}  // namespace calico::bgp
