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
    const auto key = section + "." + name;
    if (old.text(key) != after.text(key))
      out.push_back({Change::Kind::changed, section, name, old.text(key), after.text(key), row.reload});
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
        if (std::binary_search(old.begin(), old.end(), s)) compare(*row, kind + "." + s, key, before);
    } else if (const auto dot = name.rfind('.'); dot != std::string_view::npos) {
      compare(*row, std::string(name.substr(0, dot)), std::string(name.substr(dot + 1)),
              row->reload == Reload::restart ? started : before);
    }
  }
  return out;
}

}  // namespace calico::config
