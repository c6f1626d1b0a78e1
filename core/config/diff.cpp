#include "core/config/diff.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace calico::config {

std::string Change::to_string() const {
  if (kind == Kind::added) return fmt::format("[{}] added", section);
  if (kind == Kind::removed) return fmt::format("[{}] removed", section);
  const auto shown = [](const std::string& text) { return text.empty() ? std::string("(unset)") : text; };
  return fmt::format("[{}] {}: {} -> {}{}", section, name, shown(before), shown(after),
                     reload == Reload::restart ? " (needs a restart, not taken)" : "");
}

std::vector<Change> diff(const Config& before, const Config& after, const Config& started) {
  std::vector<Change> out;
  const auto compare = [&](const Param& row, const std::string& section, const std::string& name, const Config& old) {
    // A numbered key may be in one of them only.
    const auto text = [key = section + "." + name](const Config& c) {
      const auto it = c.values().find(key);
      return it == c.values().end() ? std::string() : it->second.text;
    };
    if (text(old) != text(after))
      out.push_back({Change::Kind::changed, section, name, text(old), text(after), row.reload});
  };
  std::set<std::string, std::less<>> kinds;
  for (const auto* row : after.schema().rows()) {
    const std::string_view name = row->name;
    if (const auto star = name.find(".*."); star != std::string_view::npos) kinds.emplace(name.substr(0, star));
  }
  for (const auto& kind : kinds) {
    const auto old = before.sections(kind), now = after.sections(kind);
    for (const auto& s : old)
      if (!std::binary_search(now.begin(), now.end(), s))
        out.push_back({Change::Kind::removed, kind + "." + s, "", "", "", Reload::live});
    for (const auto& s : now)
      if (!std::binary_search(old.begin(), old.end(), s))
        out.push_back({Change::Kind::added, kind + "." + s, "", "", "", Reload::live});
  }
  for (const auto* row : after.schema().rows()) {
    const std::string_view name = row->name;
    if (const auto star = name.find(".*."); star != std::string_view::npos) {
      const std::string kind(name.substr(0, star)), key(name.substr(star + 3));
      const auto old = before.sections(kind);
      for (const auto& s : after.sections(kind))
        if (std::binary_search(old.begin(), old.end(), s)) {
          const auto section = kind + "." + s;
          if (!key.ends_with(".*")) {
            compare(*row, section, key, before);
            continue;
          }
          const auto stem = key.substr(0, key.size() - 1);  // "rule."
          std::set<std::uint32_t> numbers;
          for (const auto* c : {&before, &after})
            for (const auto n : c->numbers(section + "." + key.substr(0, key.size() - 2))) numbers.insert(n);
          for (const auto n : numbers) compare(*row, section, stem + std::to_string(n), before);
        }
    } else if (const auto dot = name.rfind('.'); dot != std::string_view::npos) {
      compare(*row, std::string(name.substr(0, dot)), std::string(name.substr(dot + 1)),
              row->reload == Reload::restart ? started : before);
    }
  }
  return out;
}

}  // namespace calico::config
