#include "core/resources/schema.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <cmath>
#include <optional>

#include "core/base/ip.hpp"
#include "core/model/resources.hpp"
#include "core/model/selector.hpp"
#include "core/resources/scalar.hpp"

namespace calico::resources {
namespace {

namespace json = boost::json;

std::string_view sv(const json::string& s) { return {s.data(), s.size()}; }

bool alnum(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

template <class T>
std::optional<T> number_of(std::string_view text) {
  T v{};
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), v);
  if (ec != std::errc{} || end != text.data() + text.size() || text.empty()) return {};
  return v;
}

void add(std::vector<Problem>& problems, std::string path, const json::value* value, std::string accepted) {
  if (problems.size() >= kMaxProblems) return;
  for (auto& c : accepted)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  problems.push_back({std::move(path), value ? brief(*value) : "", std::move(accepted)});
}

/// "1:65535" → both ends.
std::pair<double, double> range_of(std::string_view accepts) {
  const auto colon = accepts.find(':');
  return {number_of<double>(accepts.substr(0, colon)).value_or(0),
          number_of<double>(accepts.substr(colon + 1)).value_or(0)};
}

std::string listed(std::string_view alternatives) {
  std::string out(alternatives);
  for (std::size_t at; (at = out.find('|')) != std::string::npos;) out.replace(at, 1, ", ");
  return out;
}

bool is_choice(std::string_view alternatives, std::string_view text) {
  while (!alternatives.empty()) {
    const auto end = alternatives.find('|');
    if (alternatives.substr(0, end) == text) return true;
    if (end == std::string_view::npos) break;
    alternatives.remove_prefix(end + 1);
  }
  return false;
}

/// "": good; else what is accepted.
std::string wrong_port(const json::value& v) {
  constexpr const char* kNeed = "need a port from 0 to 65535, \"first:last\" or the name of a port";
  if (v.is_int64()) return v.get_int64() >= 0 && v.get_int64() <= 65535 ? "" : kNeed;
  if (!v.is_string()) return kNeed;
  const auto text = sv(v.get_string());
  if (!text.empty() && (text[0] < '0' || text[0] > '9'))
    return is_dns_name(text) && text.find('.') == std::string_view::npos ? "" : kNeed;
  const auto colon = text.find(':');
  const auto first = number_of<std::uint16_t>(text.substr(0, colon));
  const auto last = colon == std::string_view::npos ? first : number_of<std::uint16_t>(text.substr(colon + 1));
  if (!first || !last) return kNeed;
  return *first <= *last ? "" : "the first port is above the last";
}

std::string wrong_as(const json::value& v) {
  constexpr const char* kNeed = "need an AS number from 1 to 4294967295; the form with a dot in quotes (\"1.10\")";
  if (v.is_int64()) return v.get_int64() > 0 && v.get_int64() <= 0xffffffffLL ? "" : kNeed;
  if (!v.is_string()) return kNeed;
  const auto text = sv(v.get_string());
  const auto dot = text.find('.');
  if (dot == std::string_view::npos) return number_of<std::uint32_t>(text).value_or(0) != 0 ? "" : kNeed;
  const auto high = number_of<std::uint16_t>(text.substr(0, dot)), low = number_of<std::uint16_t>(text.substr(dot + 1));
  return high && low && (*high != 0 || *low != 0) ? "" : kNeed;
}

bool is_label_name(std::string_view s) {
  return !s.empty() && s.size() <= 512 && alnum(s.front()) && alnum(s.back()) &&
         std::all_of(s.begin(), s.end(),
                     [](char c) { return alnum(c) || c == '-' || c == '_' || c == '.' || c == '/'; });
}

bool is_label_value(std::string_view s) {
  return s.size() <= 63 && (s.empty() || (alnum(s.front()) && alnum(s.back()))) &&
         std::all_of(s.begin(), s.end(), [](char c) { return alnum(c) || c == '-' || c == '_' || c == '.'; });
}

void check_map(const json::value& v, bool labels, const std::string& path, std::vector<Problem>& problems) {
  const auto* o = v.if_object();
  if (!o) return add(problems, path, &v, "need names and texts, one \"name: text\" a line");
  for (const auto& m : *o) {
    const std::string_view key(m.key().data(), m.key().size());
    const auto at = fmt::format("{}.{}", path, key);
    if (m.value().is_null()) continue;
    if (!is_label_name(key) && labels)
      add(problems, path, nullptr,
          fmt::format("{} is no name of a label: letters, digits, '-', '_', '.', '/', at most 512", quoted(key)));
    else if (key.empty() || key.size() > 512)
      add(problems, path, nullptr, "a name of 1 to 512 characters");
    else if (!m.value().is_string())
      add(problems, at, &m.value(), "need text: put it in quotes");
    else if (labels && !is_label_value(sv(m.value().get_string())))
      add(problems, at, &m.value(), "need at most 63 letters, digits, '-', '_' and '.', the ends letters or digits");
  }
}

/// Texts with a parser: the parser's own words say what is wrong.
template <class F>
void check_parsed(const json::value& v, const std::string& path, const char* need, std::vector<Problem>& problems,
                  F&& parse) {
  if (!v.is_string()) return add(problems, path, &v, need);
  if (auto r = parse(sv(v.get_string())); !r) add(problems, path, &v, fmt::format("{}; {}", need, r.error().what));
}

void check_one(const json::value& v, const Field& f, const std::string& path, std::vector<Problem>& problems) {
  const auto bad = [&](std::string accepted) { add(problems, path, &v, std::move(accepted)); };
  switch (f.is) {
    case Is::any:
      return;
    case Is::scalar:
      if (v.is_object() || v.is_array()) bad("need a text, a number, true or false");
      return;
    case Is::text: {
      if (!v.is_string()) return bad("need text: put it in quotes");
      const auto most = number_of<std::size_t>(f.accepts).value_or(8192);
      if (v.get_string().size() > most) bad(fmt::format("at most {} characters", most));
      return;
    }
    case Is::choice:
      if (!v.is_string() || !is_choice(f.accepts, sv(v.get_string()))) bad("accepted: " + listed(f.accepts));
      return;
    case Is::boolean:
      if (!v.is_bool()) bad("need true or false, without quotes");
      return;
    case Is::integer: {
      const auto [low, high] = range_of(f.accepts);
      const auto n = v.is_number() ? v.to_number<double>() : std::nan("");
      if (!(n >= low && n <= high) || n != std::floor(n))
        bad(fmt::format("need a whole number from {} to {}", static_cast<std::int64_t>(low),
                        static_cast<std::int64_t>(high)));
      return;
    }
    case Is::number:
      if (!v.is_number()) bad("need a number, without quotes");
      return;
    case Is::ip:
      return check_parsed(v, path, "need an IP address", problems, [](auto t) { return Ip::parse(t); });
    case Is::network:
      return check_parsed(v, path, "need an address or ADDRESS/LENGTH", problems,
                          [](auto t) { return model::parse_network(t); });
    case Is::cidr:
      return check_parsed(v, path, "need ADDRESS/LENGTH", problems, [](std::string_view t) -> Result<Prefix> {
        if (t.find('/') == std::string_view::npos) return fail(Errc::invalid, "no length");
        return Prefix::parse(t);
      });
    case Is::address_in:
      return check_parsed(v, path, "need an address, or ADDRESS/LENGTH", problems,
                          [](auto t) { return Prefix::parse(t); });
    case Is::mac:
      return check_parsed(v, path, "need a MAC address", problems, [](auto t) { return Mac::parse(t); });
    case Is::selector:
      return check_parsed(v, path, "need a selector", problems,
                          [&](auto t) { return model::Selector::parse(t, f.accepts); });
    case Is::name:
      if (!v.is_string() || !is_dns_name(sv(v.get_string())))
        bad("need a name of a-z, 0-9, '-' and '.', at most 253 characters, the ends letters or digits");
      return;
    case Is::protocol: {
      constexpr const char* kNeed = "accepted: TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number from 1 to 255";
      if (v.is_int64() && v.get_int64() >= 0 && v.get_int64() <= 255) return;
      if (!v.is_string() || !model::parse_protocol(sv(v.get_string()))) bad(kNeed);
      return;
    }
    case Is::port:
      if (auto need = wrong_port(v); !need.empty()) bad(std::move(need));
      return;
    case Is::as_number:
      if (auto need = wrong_as(v); !need.empty()) bad(std::move(need));
      return;
    case Is::label_map:
    case Is::text_map:
      return check_map(v, f.is == Is::label_map, path, problems);
    case Is::object:
      return check_fields(v, f.inner, path, problems);
  }
}

/// Small words, so the plain table is cheap enough.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const auto above = row[j];
      const auto same =
          std::tolower(static_cast<unsigned char>(a[i - 1])) == std::tolower(static_cast<unsigned char>(b[j - 1]));
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (same ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace

bool is_dns_name(std::string_view s) {
  const auto low = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  return !s.empty() && s.size() <= 253 && low(s.front()) && low(s.back()) && s.find("..") == std::string_view::npos &&
         std::all_of(s.begin(), s.end(), [&](char c) { return low(c) || c == '-' || c == '.'; });
}

std::string brief(const json::value& v) {
  if (v.is_string()) return quoted(sv(v.get_string()));
  if (v.is_object()) return v.get_object().empty() ? "{}" : "{…}";
  if (v.is_array()) return v.get_array().empty() ? "[]" : "[…]";
  if (v.is_double()) return fmt::format("{}", v.get_double());
  return json::serialize(v);
}

std::string_view nearest(std::string_view word, std::span<const std::string_view> names) {
  std::string_view best;
  if (word.size() > 64) return best;
  std::size_t least = word.size() < 5 ? 2 : word.size() / 3 + 1;  // farther is no mistyping
  for (const auto name : names)
    if (const auto d = distance(word, name); d < least) {
      best = name;
      least = d;
    }
  return best;
}

void check_field(const json::value& v, const Field& f, const std::string& path, std::vector<Problem>& problems) {
  if (problems.size() >= kMaxProblems) return;
  if (!f.list) return check_one(v, f, path, problems);
  const auto* a = v.if_array();
  if (!a) return add(problems, path, &v, "need a list");
  std::size_t i = 0;
  for (const auto& e : *a) {
    const auto at = fmt::format("{}[{}]", path, i++);
    if (e.is_null())
      add(problems, at, &e, "an element is missing");
    else
      check_one(e, f, at, problems);
    if (problems.size() >= kMaxProblems) return;
  }
}

void check_fields(const json::value& v, Fields fields, const std::string& path, std::vector<Problem>& problems) {
  const auto* o = v.if_object();
  if (!o) return add(problems, path, &v, "need an object");
  for (const auto& m : *o) {
    if (problems.size() >= kMaxProblems) return;
    const std::string_view key(m.key().data(), m.key().size());
    const auto at = path.empty() ? std::string(key) : fmt::format("{}.{}", path, key);
    const auto f = std::find_if(fields.begin(), fields.end(), [&](const Field& x) { return x.name == key; });
    if (f == fields.end()) {
      std::vector<std::string_view> names;
      for (const auto& x : fields) names.push_back(x.name);
      const auto near = nearest(key, names);
      std::string known;
      if (near.empty())
        for (const auto n : names) known += (known.empty() ? "" : ", ") + std::string(n);
      add(problems, at, nullptr,
          near.empty() ? fmt::format("no such field; there are: {}", known)
                       : fmt::format("no such field; did you mean {}?", near));
    } else if (!m.value().is_null()) {
      check_field(m.value(), *f, at, problems);
    }
  }
  for (const auto& f : fields) {
    if (!f.required) continue;
    const auto* found = o->if_contains(json::string_view(f.name.data(), f.name.size()));
    if (!found || found->is_null())
      add(problems, path.empty() ? std::string(f.name) : fmt::format("{}.{}", path, f.name), nullptr, "missing");
  }
}

}  // namespace calico::resources
