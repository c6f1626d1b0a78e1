#pragma once
/// Live migration: when an endpoint's routes are there, and how strong. Pure: no kernel, the clock is an argument.
///
/// While a VM moves, its endpoint exists on two hosts. The target host programs everything but the routes, and adds
/// them, stronger than the source's, once the VM itself is heard there; BGP carries that strength as LOCAL_PREF
/// (core/bgp/kernel.md), so the cloud turns to the target while the source still has its route.
///
///   no migration            base: routes of normal metric
///   target, VM not heard    target: no routes
///   target, VM heard        live: routes of elevated metric
///   migration over          waiting: elevated until the others have converged, then base; also when the VM was never
///                           heard: the migration ended, so it is here
///   source, or gone         base
///
/// Of several LiveMigration resources about one endpoint, target beats source.
/// Thread: loop. Owns: copies. Source: LiveMigration resources, facts of upstream 3.32.
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "core/base/clock.hpp"
#include "core/model/keys.hpp"
#include "core/model/resources.hpp"

namespace calico::felix {

enum class RouteMode : std::uint8_t { normal, withheld, elevated };

class Migrations {
 public:
  enum class State : std::uint8_t { base, target, live, waiting };

  explicit Migrations(std::string host) : host_(std::move(host)) {}

  /// How long routes stay elevated after a migration.
  void set_convergence(Duration d) { convergence_ = d; }
  /// A LiveMigration resource; absent = gone. A value that cannot be read counts as gone. Errors: invalid, for the log.
  [[nodiscard]] Status update(std::string_view key, std::optional<std::string_view> value, TimePoint now);
  /// A local endpoint is there / gone. `key`: its datastore key.
  void add(const std::string& key, const std::string& ns, const model::WorkloadEndpointName& name, TimePoint now);
  void remove(const std::string& key);
  /// The VM sent something from its interface on this host.
  void heard(const std::string& key);
  /// Ends the waits that are over.
  void expire(TimePoint now);
  /// When expire() has something to do next.
  std::optional<TimePoint> next() const;

  State state(const std::string& key) const;
  RouteMode mode(const std::string& key) const;
  /// Endpoints whose mode may have changed since the last call.
  std::set<std::string> take_changed() { return std::exchange(changed_, {}); }
  /// Endpoints whose VM is listened for.
  const std::set<std::string>& expected() const { return expected_; }

 private:
  enum class Role : std::uint8_t { none, source, target };
  struct Endpoint {
    std::string id;
    State state = State::base;
    TimePoint until{};  // waiting
  };
  struct Move {
    std::string id;  // of the endpoint it is about
    Role role = Role::none;
  };
  static std::string id_of(const std::string& ns, const std::string& workload, const std::string& endpoint);
  Role role_of(const std::string& id) const;
  void settle(const std::string& key, TimePoint now);
  void go(const std::string& key, Endpoint& e, State to);

  std::string host_;
  Duration convergence_ = std::chrono::seconds(30);
  std::map<std::string, Move> moves_;  // by the resource's key
  std::map<std::string, Endpoint> endpoints_;
  std::map<std::string, std::string> key_of_;  // endpoint id → key
  std::set<std::string> expected_;
  std::set<std::string> changed_;
};
[[nodiscard]] std::string_view to_string(Migrations::State s);

}  // namespace calico::felix
