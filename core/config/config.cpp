#include "core/config/config.hpp"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <set>

#include "core/config/load.hpp"
#include "core/config/upstream.hpp"

namespace calico::config {
namespace {

bool same_text(std::string_view a, std::string_view b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](unsigned char x, unsigned char y) {
           return std::tolower(x) == std::tolower(y);
         });
}

std::vector<std::string_view> split(std::string_view text, char by) {
  std::vector<std::string_view> out;
  while (true) {
    const auto at = text.find(by);
    out.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return out;
    text.remove_prefix(at + 1);
  }
}

std::vector<std::string> words(std::string_view text) {
  std::vector<std::string> out;
  for (auto w : split(text, ',')) {
    while (!w.empty() && w.front() == ' ') w.remove_prefix(1);
    while (!w.empty() && w.back() == ' ') w.remove_suffix(1);
    if (!w.empty()) out.emplace_back(w);
  }
  return out;
}

Result<std::int64_t> parse_integer(std::string_view text) {
  std::int64_t v = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), v);
  if (ec != std::errc{} || end != text.data() + text.size())
    return fail(Errc::invalid, "'{}' is not a whole number", text);
  return v;
}

std::optional<bool> parse_boolean(std::string_view text) {
  for (auto t : {"yes", "true", "on", "1", "enabled"})
    if (same_text(text, t)) return true;
  for (auto t : {"no", "false", "off", "0", "disabled"})
    if (same_text(text, t)) return false;
  return std::nullopt;
}

struct Unit {
  std::string_view name;
  std::uint64_t factor;
};

Result<std::uint64_t> parse_with_unit(std::string_view text, std::initializer_list<Unit> units,
                                      std::string_view expected) {
  std::uint64_t n = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), n);
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  if (ec == std::errc{} && end != text.data())
    for (const auto& u : units)
      if (u.name == unit && n <= INT64_MAX / u.factor) return n * u.factor;
  return fail(Errc::invalid, "'{}' is not {}", text, expected);
}

/// "0s|3s:65535s": true if one alternative holds; `parse` turns text into a comparable number.
template <class Parse, class Number>
bool in_range(std::string_view range, Number v, Parse parse) {
  for (auto alternative : split(range, '|')) {
    const auto colon = alternative.find(':');
    if (colon == std::string_view::npos) {
      if (auto only = parse(alternative); only && *only == v) return true;
      continue;
    }
    const auto lo = parse(alternative.substr(0, colon)), hi = parse(alternative.substr(colon + 1));
    if (lo && hi && *lo <= v && v <= *hi) return true;
  }
  return false;
}

std::string_view type_hint(Type t) {
  switch (t) {
    case Type::string:
      return "text";
    case Type::boolean:
      return "yes or no";
    case Type::integer:
      return "a whole number";
    case Type::duration:
      return "a duration such as 90s, 500ms, 5m, 24h";
    case Type::size:
      return "a size such as 64MiB";
    case Type::ip:
      return "an IPv4 or IPv6 address";
    case Type::prefix:
      return "address/length";
    case Type::list:
      return "words separated by commas";
    case Type::ip_port:
      return "address:port, IPv6 as [::1]:port";
    case Type::ip_port_list:
      return "address:port, several separated by commas";
    case Type::path:
      return "an absolute path";
    case Type::secret_file:
      return "an absolute path";
  }
  return "?";
}

}  // namespace

Result<Duration> parse_duration(std::string_view text) {
  auto ns = parse_with_unit(text,
                            {{"ms", 1'000'000},
                             {"s", 1'000'000'000},
                             {"m", 60'000'000'000},
                             {"h", 3'600'000'000'000},
                             {"d", 86'400'000'000'000}},
                            type_hint(Type::duration));
  if (!ns) return tl::unexpected(ns.error());
  return Duration(static_cast<std::int64_t>(*ns));
}

Result<std::uint64_t> parse_size(std::string_view text) {
  return parse_with_unit(text, {{"B", 1}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}}, type_hint(Type::size));
}

Result<IpPort> IpPort::parse(std::string_view text) {
  const auto bad = [&] { return fail(Errc::invalid, "'{}' is not {}", text, type_hint(Type::ip_port)); };
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos) return bad();
  auto host = text.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  else if (host.find(':') != std::string_view::npos)
    return bad();
  auto ip = Ip::parse(host);
  auto port = parse_integer(text.substr(colon + 1));
  if (!ip || !port || *port < 0 || *port > 65535) return bad();
  return IpPort{*ip, static_cast<std::uint16_t>(*port)};
}

std::string IpPort::to_string() const {
  return ip.is_v6() ? fmt::format("[{}]:{}", ip, port) : fmt::format("{}:{}", ip, port);
}

std::string Fault::to_string() const {
  std::string out = where;
  if (!key.empty()) {
    auto dot = key.rfind('.');
    // A numbered key is "rule.10".
    if (dot != std::string::npos && dot > 0 && key.find_first_not_of("0123456789", dot + 1) == std::string::npos)
      dot = key.rfind('.', dot - 1);
    out += dot == std::string::npos ? fmt::format(": {}", key)
                                    : fmt::format(": [{}] {}", key.substr(0, dot), key.substr(dot + 1));
  }
  return out + ": " + what;
}

Status check_value(const Param& row, std::string_view text) {
  const std::string_view range = row.range;
  const auto outside = [&] { return fail(Errc::invalid, "value '{}' is outside the accepted range {}", text, range); };
  const auto ill = [&] {
    return fail(Errc::invalid, "value '{}' is not accepted; accepted: {}", text, type_hint(row.type));
  };
  switch (row.type) {
    case Type::string:
      if (!range.empty()) {
        const auto alternatives = split(range, '|');
        if (std::none_of(alternatives.begin(), alternatives.end(), [&](auto a) { return same_text(a, text); }))
          return fail(Errc::invalid, "value '{}' is not accepted; accepted: {}", text, range);
      }
      return {};
    case Type::boolean:
      return parse_boolean(text) ? Status{} : ill();
    case Type::integer: {
      auto v = parse_integer(text);
      if (!v) return ill();
      return range.empty() || in_range(range, *v, parse_integer) ? Status{} : outside();
    }
    case Type::duration: {
      auto v = parse_duration(text);
      if (!v) return ill();
      return range.empty() || in_range(range, *v, parse_duration) ? Status{} : outside();
    }
    case Type::size: {
      auto v = parse_size(text);
      if (!v) return ill();
      return range.empty() || in_range(range, *v, parse_size) ? Status{} : outside();
    }
    case Type::ip:
      return Ip::parse(text) ? Status{} : ill();
    case Type::prefix:
      return Prefix::parse(text) ? Status{} : ill();
    case Type::ip_port:
      return IpPort::parse(text) ? Status{} : ill();
    case Type::ip_port_list:
      for (const auto& w : words(text))
        if (!IpPort::parse(w)) return ill();
      return {};
    case Type::list:
      if (!range.empty())
        for (const auto& w : words(text)) {
          auto v = parse_integer(w);
          if (!v || !in_range(range, *v, parse_integer))
            return fail(Errc::invalid, "'{}' in '{}' is outside the accepted range {}", w, text, range);
        }
      return {};
    case Type::path:
    case Type::secret_file:
      return text.front() == '/' ? Status{} : ill();
  }
  return {};
}

Status Schema::add(Params rows) {
  for (const auto& row : rows) {
    if (find(row.name)) return fail(Errc::exists, "configuration key {} is declared twice", row.name);
    rows_.push_back(&row);
  }
  return {};
}

std::string_view section_of(const Param& row, std::string_view name) {
  const auto section = name.substr(0, name.rfind('.'));
  return std::string_view(row.name).ends_with(".*") ? section.substr(0, section.rfind('.')) : section;
}

const Param* Schema::find(std::string_view name) const {
  for (const auto* row : rows_) {
    const std::string_view pattern = row->name;
    if (pattern == name) return row;
    const auto star = pattern.find(".*.");
    if (star == std::string_view::npos || name.substr(0, star + 1) != pattern.substr(0, star + 1)) continue;
    const auto section = section_of(*row, name);
    if (section.size() <= star + 1 || section.size() + 1 >= name.size()) continue;
    const auto key = name.substr(section.size()), wanted = pattern.substr(star + 2);  // ".address", ".rule.10"
    const bool numbered = wanted.ends_with(".*");
    if (numbered ? key.size() >= wanted.size() && key.starts_with(wanted.substr(0, wanted.size() - 1)) : key == wanted)
      return row;
  }
  return nullptr;
}

const Param* Schema::find_felix(std::string_view upstream) const {
  for (const auto* row : rows_)
    for (auto name : split(row->felix_name, ','))
      if (!name.empty() && same_text(name, upstream)) return row;
  return nullptr;
}

bool Schema::has_section(std::string_view section) const {
  for (const auto* row : rows_) {
    const std::string_view pattern = row->name;
    const auto of = section_of(*row, pattern);
    if (of == section) return true;
    if (of.ends_with(".*") && section.size() >= of.size() && section.starts_with(of.substr(0, of.size() - 1)))
      return true;
  }
  return false;
}

const Value& Config::value(std::string_view name) const {
  const auto it = values_.find(name);
  if (it == values_.end()) {
    fmt::print(stderr, "calico-node: bug: configuration key '{}' is not declared\n", name);
    std::abort();
  }
  return it->second;
}

const std::string& Config::text(std::string_view name) const { return value(name).text; }
bool Config::is_given(std::string_view name) const { return value(name).layer > kLayerDefault; }
std::string Config::where(std::string_view name) const { return value(name).where; }
bool Config::is_upstream(std::string_view name) const { return value(name).upstream; }
bool Config::boolean(std::string_view name) const { return parse_boolean(text(name)).value_or(false); }
std::int64_t Config::integer(std::string_view name) const { return parse_integer(text(name)).value_or(0); }
std::uint64_t Config::size(std::string_view name) const { return parse_size(text(name)).value_or(0); }
Duration Config::duration(std::string_view name) const { return parse_duration(text(name)).value_or(Duration{}); }
std::vector<std::string> Config::list(std::string_view name) const { return words(text(name)); }

std::optional<Ip> Config::ip(std::string_view name) const {
  auto v = Ip::parse(text(name));
  return v ? std::optional(*v) : std::nullopt;
}
std::optional<Prefix> Config::prefix(std::string_view name) const {
  auto v = Prefix::parse(text(name));
  return v ? std::optional(*v) : std::nullopt;
}
std::optional<IpPort> Config::ip_port(std::string_view name) const {
  auto v = IpPort::parse(text(name));
  return v ? std::optional(*v) : std::nullopt;
}
std::vector<IpPort> Config::ip_ports(std::string_view name) const {
  std::vector<IpPort> out;
  for (const auto& w : words(text(name)))
    if (auto v = IpPort::parse(w)) out.push_back(*v);
  return out;
}

std::vector<std::string> Config::sections(std::string_view kind) const {
  std::set<std::string> names;
  const auto prefix = std::string(kind) + ".";
  for (auto it = values_.lower_bound(prefix); it != values_.end() && it->first.starts_with(prefix); ++it) {
    const auto* row = schema_->find(it->first);
    if (!row || !std::string_view(row->name).starts_with(prefix + "*.")) continue;
    names.emplace(section_of(*row, it->first).substr(prefix.size()));
  }
  return {names.begin(), names.end()};
}

std::vector<std::uint32_t> Config::numbers(std::string_view key) const {
  const auto prefix = std::string(key) + ".";
  std::set<std::uint32_t> out;
  for (auto it = values_.lower_bound(prefix); it != values_.end() && it->first.starts_with(prefix); ++it)
    if (auto n = parse_integer(std::string_view(it->first).substr(prefix.size())); n && !it->second.text.empty())
      out.insert(static_cast<std::uint32_t>(*n));
  return {out.begin(), out.end()};
}

Config Config::with_felix(const std::map<std::string, std::string>& upstream, const std::string& resource,
                          std::vector<std::string>* ignored) const {
  Config out = *this;
  const auto where = "FelixConfiguration " + resource;
  for (const auto& [name, text] : upstream) {
    const auto* row = schema_->find_felix(name);
    const auto ignore = [&](const std::string& why) {
      if (ignored) ignored->push_back(fmt::format("{}: {} {}", where, name, why));
    };
    if (!row) {
      ignore(unused(name));
      continue;
    }
    if (text.empty()) continue;
    auto ours = from_upstream(*row, text);
    if (!ours) {
      ignore("is ignored: " + ours.error().what);
      continue;
    }
    auto& slot = out.values_[row->name];
    if (slot.layer <= kLayerFelixConfiguration) slot = {std::move(*ours), where, kLayerFelixConfiguration, true};
  }
  return out;
}

std::string Config::print() const {
  std::string out;
  std::vector<std::string> sections;  // in order of declaration, named ones where their rows stand
  for (const auto* row : schema_->rows()) {
    const std::string_view of = section_of(*row, row->name);
    if (of.ends_with(".*")) {
      const auto kind = of.substr(0, of.size() - 2);
      for (const auto& name : this->sections(kind)) {
        auto section = fmt::format("{}.{}", kind, name);
        if (std::find(sections.begin(), sections.end(), section) == sections.end())
          sections.push_back(std::move(section));
      }
    } else if (std::find(sections.begin(), sections.end(), of) == sections.end()) {
      sections.emplace_back(of);
    }
  }
  for (const auto& section : sections) {
    out += fmt::format("{}[{}]\n", out.empty() ? "" : "\n", section);
    for (const auto* row : schema_->rows()) {
      const std::string_view of = section_of(*row, row->name);
      const bool named = of.ends_with(".*") && std::string_view(section).starts_with(of.substr(0, of.size() - 1));
      if (of != section && !named) continue;
      const auto line = [&](std::string_view key) {
        const auto it = values_.find(section + "." + std::string(key));
        if (it == values_.end()) return;
        out += fmt::format("{} = {}", key, it->second.text);
        if (it->second.layer != kLayerDefault) out += fmt::format("  ; {}", it->second.where);
        out += "\n";
      };
      const auto key = std::string_view(row->name).substr(of.size() + 1);
      if (!key.ends_with(".*")) {
        line(key);
        continue;
      }
      const auto stem = key.substr(0, key.size() - 2);
      for (const auto n : numbers(fmt::format("{}.{}", section, stem))) line(fmt::format("{}.{}", stem, n));
    }
  }
  return out;
}

}  // namespace calico::config
