#include "core/metrics/health.hpp"

#include <boost/json.hpp>

namespace calico::metrics {

namespace json = boost::json;

void Health::set(const std::string& name, Component c) {
  std::lock_guard lock(mutex_);
  if (components_.size() >= kMaxComponents && !components_.contains(name)) return;
  components_[name] = std::move(c);
}

void Health::remove(const std::string& name) {
  std::lock_guard lock(mutex_);
  components_.erase(name);
}

void Health::set_patience(const std::string& loop, Duration d) {
  std::lock_guard lock(mutex_);
  if (patience_.size() < kMaxComponents || patience_.contains(loop)) patience_[loop] = d;
}

std::optional<Duration> Health::patience(const std::string& loop) const {
  std::lock_guard lock(mutex_);
  const auto it = patience_.find(loop);
  return it == patience_.end() ? std::nullopt : std::optional(it->second);
}

Health::Answer Health::answer(bool ready) const {
  std::lock_guard lock(mutex_);
  json::array reasons, components;
  for (const auto& [name, c] : components_) {
    if (!c.live || (ready && !c.ready)) {
      std::string why = c.detail;
      if (why.empty()) why = c.live ? "not ready" : "not live";
      reasons.emplace_back(name + ": " + why);
    }
    components.push_back(json::object{{"name", name}, {"live", c.live}, {"ready", c.ready}, {"detail", c.detail}});
  }
  const bool ok = reasons.empty();
  return {ok, json::serialize(
                  json::object{{"ok", ok}, {"reasons", std::move(reasons)}, {"components", std::move(components)}})};
}

}  // namespace calico::metrics
