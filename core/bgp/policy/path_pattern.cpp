#include "core/bgp/policy/path_pattern.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

namespace calico::bgp {
namespace {

constexpr AsRange kAnyAs{0, UINT32_MAX};

/// One element of a path: where its ASes begin, and how many there are.
struct Element {
  wire::View ases;
  bool matches(const AsRange& range) const {
    for (std::size_t at = 0; at + 4 <= ases.size(); at += 4) {
      wire::Reader r(ases.subspan(at, 4));
      if (range.contains(r.be<std::uint32_t>())) return true;
    }
    return false;
  }
};

/// A place in a path that can be kept and gone back to: no list of elements is made.
class Cursor {
 public:
  explicit Cursor(wire::View path) : rest_(path) { next_segment(); }
  bool at_end() const { return segment_.empty(); }
  Element element() const { return {set_ ? segment_ : segment_.first(4)}; }
  void advance() {
    segment_ = set_ ? wire::View() : segment_.subspan(4);
    if (segment_.empty()) next_segment();
  }

 private:
  void next_segment() {
    wire::Reader r(rest_);
    segment_ = {};
    if (r.left() == 0) return;
    set_ = r.be<std::uint8_t>() == AsPath::kSet;
    const std::size_t count = r.be<std::uint8_t>();
    segment_ = r.take(count * 4);
    rest_ = r.rest();
  }
  wire::View rest_, segment_;
  bool set_ = false;
};

std::optional<std::uint32_t> as_of(std::string_view text) {
  std::uint32_t v = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), v);
  if (text.empty() || ec != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return v;
}

}  // namespace

Result<AsRange> parse_as_range(std::string_view text) {
  const auto dash = text.find('-');
  const auto lo = as_of(text.substr(0, dash));
  const auto hi = dash == std::string_view::npos ? lo : as_of(text.substr(dash + 1));
  if (!lo || !hi || *lo > *hi || *hi == 0)
    return fail(Errc::invalid, "'{}' is no AS number or range such as 64512-65534", text.substr(0, 40));
  return AsRange{*lo, *hi};
}

std::string to_string(const AsRange& r) {
  return r.first == r.last ? std::to_string(r.first) : fmt::format("{}-{}", r.first, r.last);
}

Result<PathPattern> PathPattern::parse(std::string_view text) {
  PathPattern p;
  while (true) {
    const auto begin = text.find_first_not_of(" \t");
    if (begin == std::string_view::npos) return p;
    text.remove_prefix(begin);
    const auto word = text.substr(0, text.find_first_of(" \t"));
    text.remove_prefix(word.size());
    if (word == "*") {
      if (p.tokens_.empty() || !p.tokens_.back().star) p.tokens_.push_back({true, {}});
    } else if (word == "?") {
      p.tokens_.push_back({false, kAnyAs});
    } else {
      auto range = parse_as_range(word);
      if (!range)
        return fail(Errc::invalid, "'{}' in an AS path pattern: AS numbers, ranges, '?' (one AS), '*' (any number)",
                    word.substr(0, 40));
      p.tokens_.push_back({false, *range});
    }
    if (p.tokens_.size() > kMaxTokens)
      return fail(Errc::invalid, "an AS path pattern has at most {} tokens", kMaxTokens);
  }
}

PathPattern PathPattern::begins_with(const std::vector<Asn>& ases) {
  PathPattern p;
  for (const auto& as : ases) p.tokens_.push_back({false, {as.value, as.value}});
  p.tokens_.push_back({true, {}});
  return p;
}

std::string PathPattern::to_string() const {
  std::string out;
  for (const auto& t : tokens_) {
    if (!out.empty()) out += ' ';
    out += t.star ? "*" : t.as == kAnyAs ? "?" : bgp::to_string(t.as);
  }
  return out;
}

bool PathPattern::matches(const AsPath& path) const {
  Cursor at(path.wire()), resume = at;
  std::size_t token = 0;
  std::optional<std::size_t> star;
  while (!at.at_end()) {
    if (token < tokens_.size() && tokens_[token].star) {
      star = token++;
      resume = at;
    } else if (token < tokens_.size() && at.element().matches(tokens_[token].as)) {
      ++token;
      at.advance();
    } else if (star) {
      // The last star takes one element more; earlier stars never have to be tried again.
      token = *star + 1;
      resume.advance();
      at = resume;
    } else {
      return false;
    }
  }
  while (token < tokens_.size() && tokens_[token].star) ++token;
  return token == tokens_.size();
}

bool path_contains(const AsPath& path, const std::vector<AsRange>& ranges) {
  for (Cursor at(path.wire()); !at.at_end(); at.advance())
    for (const auto& r : ranges)
      if (at.element().matches(r)) return true;
  return false;
}

}  // namespace calico::bgp
