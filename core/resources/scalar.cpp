#include "core/resources/scalar.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace calico::resources {
namespace {

namespace json = boost::json;

bool digit(char c) { return c >= '0' && c <= '9'; }
bool digits(std::string_view s) { return !s.empty() && std::all_of(s.begin(), s.end(), digit); }

std::string lower(std::string_view s) {
  std::string out(s);
  for (auto& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

/// [+-]digits[.digits][e[+-]digits] or [+-].digits…
bool looks_like_float(std::string_view s) {
  if (!s.empty() && (s[0] == '-' || s[0] == '+')) s.remove_prefix(1);
  std::size_t whole = 0, part = 0;
  while (whole < s.size() && digit(s[whole])) ++whole;
  s.remove_prefix(whole);
  if (!s.empty() && s[0] == '.') {
    s.remove_prefix(1);
    while (part < s.size() && digit(s[part])) ++part;
    s.remove_prefix(part);
  }
  if (whole + part == 0) return false;
  if (s.empty()) return true;
  if (s[0] != 'e' && s[0] != 'E') return false;
  s.remove_prefix(1);
  if (!s.empty() && (s[0] == '-' || s[0] == '+')) s.remove_prefix(1);
  return digits(s);
}

/// What YAML 1.1 readers take for a number and 1.2 readers do not, or as another one.
bool old_number(std::string_view s) {
  if (!s.empty() && (s[0] == '-' || s[0] == '+')) s.remove_prefix(1);
  if (s.empty() || !digit(s[0])) return false;
  if (s.size() > 2 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X'))
    return std::all_of(s.begin() + 2, s.end(), [](char c) {
      return digit(c) || c == '_' || (lower({&c, 1})[0] >= 'a' && lower({&c, 1})[0] <= 'f');
    });
  if (s.size() > 2 && s[0] == '0' && (s[1] == 'o' || s[1] == 'O')) return digits(s.substr(2));
  if (s.size() > 2 && s[0] == '0' && (s[1] == 'b' || s[1] == 'B'))
    return std::all_of(s.begin() + 2, s.end(), [](char c) { return c == '0' || c == '1' || c == '_'; });
  if (s.size() > 1 && s[0] == '0' && digits(s)) return true;
  return s.find('_') != std::string_view::npos &&
         std::all_of(s.begin(), s.end(), [](char c) { return digit(c) || c == '_' || c == '.'; });
}

}  // namespace

std::size_t utf8_length(std::string_view s) {
  const auto at = [&](std::size_t i) { return i < s.size() ? static_cast<unsigned char>(s[i]) : 0U; };
  const unsigned c = at(0);
  if (c == 0 || c < 0x80) return s.empty() ? 0 : 1;
  const std::size_t n = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
  if (c < 0xc2 || c > 0xf4) return 0;
  for (std::size_t i = 1; i < n; ++i)
    if ((at(i) & 0xc0U) != 0x80) return 0;
  if ((c == 0xe0 && at(1) < 0xa0) || (c == 0xed && at(1) > 0x9f)) return 0;  // overlong; surrogates
  if ((c == 0xf0 && at(1) < 0x90) || (c == 0xf4 && at(1) > 0x8f)) return 0;  // overlong; above U+10FFFF
  return n;
}

Result<json::value> plain_scalar(std::string_view s) {
  if (s.empty() || s == "~" || s == "null" || s == "Null" || s == "NULL") return json::value(nullptr);
  if (s == "true" || s == "True" || s == "TRUE") return json::value(true);
  if (s == "false" || s == "False" || s == "FALSE") return json::value(false);
  const auto low = lower(s);
  for (const char* word : {"yes", "no", "on", "off", "y", "n"})
    if (low == word)
      return fail(Errc::invalid, "{} is true or false to some readers and text to others: write {}, or \"{}\" for text",
                  s, low == "yes" || low == "on" || low == "y" ? "true" : "false", s);
  if (low == ".inf" || low == "-.inf" || low == "+.inf" || low == ".nan")
    return fail(Errc::invalid, "{} is no number that JSON has; quote it if it is text", s);
  if (old_number(s))
    return fail(Errc::invalid,
                "{} is a different number to different readers: write it in decimal without leading zeros and '_', or "
                "quote it if it is text",
                quoted(s));
  const bool sign = s[0] == '-' || s[0] == '+';
  if (digits(s.substr(sign ? 1 : 0))) {
    const auto body = s[0] == '+' ? s.substr(1) : s;
    std::int64_t i = 0;
    if (auto [end, ec] = std::from_chars(body.data(), body.data() + body.size(), i); ec == std::errc{})
      return json::value(i);
    std::uint64_t u = 0;
    if (auto [end, ec] = std::from_chars(body.data(), body.data() + body.size(), u);
        ec == std::errc{} && end == body.data() + body.size())
      return json::value(u);
    return fail(Errc::invalid, "the number {} is too large; quote it if it is text", quoted(s));
  }
  if (looks_like_float(s)) {
    const auto body = s[0] == '+' ? s.substr(1) : s;
    double d = 0;
    const auto [end, ec] = std::from_chars(body.data(), body.data() + body.size(), d);
    if (ec != std::errc{} || end != body.data() + body.size() || !std::isfinite(d))
      return fail(Errc::invalid, "the number {} cannot be kept; quote it if it is text", quoted(s));
    return json::value(d);
  }
  return json::value(json::string_view(s.data(), s.size()));
}

bool is_plain_text(std::string_view s) {
  const auto word = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '/'; };
  if (s.empty() || s.size() > 200 || !word(s[0])) return false;
  if (!std::all_of(s.begin(), s.end(), [&](char c) { return word(c) || digit(c) || c == '-' || c == '.'; }))
    return false;
  const auto low = lower(s);
  for (const char* taken : {"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
    if (low == taken) return false;
  return true;
}

}  // namespace calico::resources
