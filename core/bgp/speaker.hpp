#pragma once
/// This host's one BGP speaker, assembled: Engine, its kernel side, birdc's socket, the sessions that follow from the
/// configuration and from the Node, BGPPeer, BGPFilter and BGPConfiguration resources, and this host's own Node. The
/// roles compute and route-reflector share it.
///
///   auto speaker = Speaker::create(config, {.node = "compute-1", .compute = true, …}, view, report, hooks);
///   (*speaker)->start();   // by each role; the first starts it
///   (*speaker)->stop();    // by each role; the last one stops it, planned: peers keep our routes for the restart time
///
/// Thread: create, start, reconfigure and stop from the main thread. Owns: the loop "bgp" and all that runs on it.
/// Errors: invalid (configuration: no address to peer from, two peers of one address), exists (179 in use), those of
/// the kernel.
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/error.hpp"
#include "core/bgp/birdc/configure.hpp"
#include "core/config/config.hpp"

namespace calico::sync {
class Report;
class View;
}  // namespace calico::sync

namespace calico::bgp {

class Engine;

class Speaker {
 public:
  struct Options {
    std::string node;                ///< name of our Node resource
    bool compute = false;            ///< announces the routes of its interfaces, installs what it learns
    bool reflector = false;          ///< route reflector: cluster id, clients
    std::vector<std::string> roles;  ///< labels of our Node; empty = from the two above
    std::string state_dir;           ///< restart marker
    std::string run_dir;             ///< bird.ctl; the others: SpeakerSettings::bird_dir
  };
  struct Hooks {
    std::function<void(std::string)> status;  ///< one line for STATUS=
    std::function<void(std::string)> fatal;
    Configure configure;  ///< birdc's `configure`; called in the speaker's loop
  };

  [[nodiscard]] static Result<std::unique_ptr<Speaker>> create(const config::Config& config, Options options,
                                                               sync::View& view, sync::Report& report, Hooks hooks);
  ~Speaker();
  Speaker(const Speaker&) = delete;
  Speaker& operator=(const Speaker&) = delete;

  [[nodiscard]] Status start();
  [[nodiscard]] Status reconfigure(const config::Config& config);
  /// What reconfigure() would find wrong by itself (files that cannot be read), without taking anything.
  [[nodiscard]] Status check(const config::Config& config) const;
  void stop();

  /// For status and tests; calls go through its loop (engine.hpp).
  Engine& engine();
  /// JSON for the control socket: sessions and counts.
  std::string describe();
  /// Of the whole speaker; nullopt when its loop did not answer within `patience`, or it does not run.
  struct Counts {
    std::map<std::string, std::size_t> sessions;                                        ///< by state, all states
    std::uint64_t updates_in = 0, updates_out = 0, flaps = 0, treated_as_withdraw = 0;  ///< of the sessions there are
    std::size_t imported = 0, exported = 0, stale = 0;  ///< routes of sessions, both families
    std::size_t routes_v4 = 0, routes_v6 = 0;
    std::size_t kernel_announced = 0, kernel_installed = 0, kernel_failed = 0;
    bool isolated = false;
  };
  std::optional<Counts> counts(std::chrono::milliseconds patience) const;

 private:
  class Impl;
  explicit Speaker(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace calico::bgp
