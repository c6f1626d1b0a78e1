#pragma once
/// Whether this process lives and is ready, by component, for supervisors that ask over HTTP.
///
///   health.set("felix", {.ready = false, .detail = "waiting for the datastore"});
///   health.set("felix", {.ready = true});
///   auto a = health.readiness();         // a.ok, a.json
///
/// Live: no component says it is dead. Ready: live, and every component is ready.
/// Thread: any. Owns: copies. Errors: none; beyond kMaxComponents a new one is not taken.
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "core/base/clock.hpp"

namespace calico::metrics {

class Health {
 public:
  static constexpr std::size_t kMaxComponents = 100;
  struct Component {
    bool live = true;
    bool ready = true;
    std::string detail;  ///< one line: why not, or how it is
    bool operator==(const Component&) const = default;
  };
  void set(const std::string& name, Component c);
  void remove(const std::string& name);

  /// How long a loop may keep its callers waiting before it counts as dead; nullopt: as the watcher thinks right.
  void set_patience(const std::string& loop, Duration d);
  std::optional<Duration> patience(const std::string& loop) const;

  /// json: {"ok", "reasons": ["felix: …"], "components": [{"name", "live", "ready", "detail"}]}
  struct Answer {
    bool ok = false;
    std::string json;
  };
  [[nodiscard]] Answer liveness() const { return answer(false); }
  [[nodiscard]] Answer readiness() const { return answer(true); }

 private:
  Answer answer(bool ready) const;

  mutable std::mutex mutex_;
  std::map<std::string, Component> components_;
  std::map<std::string, Duration> patience_;
};

}  // namespace calico::metrics
