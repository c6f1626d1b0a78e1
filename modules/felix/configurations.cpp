#include "modules/felix/configurations.hpp"

#include <utility>

namespace calico::felix {
namespace {

constexpr const char* kNodeSelector = "NodeSelector";

}  // namespace

Result<bool> Configurations::update(std::string_view name, std::optional<std::string_view> json) {
  auto* const fixed = name == "default" ? &default_ : name == own_ ? &node_ : nullptr;
  if (!fixed && name.starts_with("node.")) return false;
  if (!json) {
    if (!fixed) return scoped_.erase(std::string(name)) > 0;
    fixed->clear();
    return true;
  }
  auto parsed = model::parse_felix_configuration(*json);
  if (!parsed) return tl::unexpected(parsed.error());
  if (fixed) {
    *fixed = std::move(parsed->values);
    return true;
  }
  const auto text = parsed->values.find(kNodeSelector);
  // Without a selector it is for nobody, as upstream has it.
  if (text == parsed->values.end() || text->second.empty()) return scoped_.erase(std::string(name)) > 0;
  Scoped s;
  if (auto selector = model::Selector::parse(text->second))
    s.selector = std::move(*selector);
  else
    s.fault = selector.error().what;
  s.made = parsed->meta.creation_timestamp;
  parsed->values.erase(text);
  s.values = std::move(parsed->values);
  scoped_.insert_or_assign(std::string(name), std::move(s));
  return true;
}

bool Configurations::set_labels(model::Labels labels) {
  if (labels == labels_) return false;
  labels_ = std::move(labels);
  return !scoped_.empty();
}

config::Config Configurations::over(const config::Config& config, std::vector<std::string>& ignored) const {
  const std::pair<const std::string, Scoped>* chosen = nullptr;
  for (const auto& each : scoped_) {
    const auto& [name, s] = each;
    if (!s.fault.empty())
      ignored.push_back(fmt::format("FelixConfiguration {}: nodeSelector: {}", shown(name), s.fault));
    if (!s.fault.empty() || !s.selector.matches(labels_)) continue;
    // RFC 3339 in UTC, as everybody writes it: the text orders as the time.
    const auto older = [](const Scoped& a, const Scoped& b) {
      return a.made.empty() != b.made.empty() ? b.made.empty() : a.made < b.made;
    };
    const auto* other = chosen;
    if (!chosen || older(s, chosen->second)) chosen = &each;
    if (other)
      ignored.push_back(fmt::format("FelixConfiguration {}: its nodeSelector matches here, but {} is older",
                                    shown(chosen == other ? name : other->first), shown(chosen->first)));
  }
  const auto without_selector = [&](Values values, const std::string& name) {
    if (values.erase(kNodeSelector))
      ignored.push_back(fmt::format("FelixConfiguration {}: nodeSelector counts under other names only", name));
    return values;
  };
  auto out = config.with_felix(without_selector(default_, "default"), "default", &ignored);
  if (chosen) out = out.with_felix(chosen->second.values, shown(chosen->first), &ignored);
  return out.with_felix(without_selector(node_, own_), own_, &ignored);
}

}  // namespace calico::felix
