#pragma once
/// Felix at work: intent from the View, through the compiler, into nf_tables and rtnetlink, and the endpoints' state
/// back through the Report. One loop; the View's batches only update the compiler, apply() writes what is dirty.
///
/// apply(), in this order, each step after the kernel's answer to the one before:
///   1. routes, neighbours and classes that must go     (nothing is led to what is about to close)
///   2. sets, chains and rules, all that is new         (one transaction)
///   3. classes, settings, neighbours, routes that come (nothing is open before its rules are)
///   4. chains and sets nobody uses any more            (one transaction)
///   5. the endpoints' states
/// Nothing is written before the first usable batch. If 2 fails, 3 and 4 wait: closed stays closed, the former state
/// goes on. A failure is tried again after 0.2 to 10 s and at every change.
///
/// Thread: start, stop, reconfigure, endpoints_json: main or control thread; the rest its own loop. Namespace: that of
/// the thread that calls start(). Owns: its loop and sockets. Errors of start(): no_permission, unavailable.
#include <functional>
#include <memory>
#include <string>

#include "core/base/clock.hpp"
#include "core/base/error.hpp"
#include "core/config/config.hpp"
#include "core/metrics/health.hpp"
#include "core/metrics/metrics.hpp"
#include "core/sync/view.hpp"
#include "modules/felix/settings.hpp"

namespace calico::felix {

class Engine {
 public:
  struct Hooks {
    std::function<void()> ready;  ///< the last known state is programmed, or there is none and status says so
    std::function<void(std::string)> status;
    std::function<void(std::string)> fatal;
    std::function<void(const Settings&)> configured = {};  ///< at the start and at each change; felix's loop
    metrics::Registry* metrics = nullptr;                  ///< outlives the engine; nullptr: counted for nobody
    metrics::Health* health = nullptr;                     ///< told as "felix"
    bool own_tables = true;                                ///< false: as on a kernel without table owners
  };
  Engine(std::string node, const config::Config& config, sync::View& view, sync::Report& report, Hooks hooks);
  ~Engine();

  [[nodiscard]] Status start();
  void stop();
  void reconfigure(const config::Config& config);
  /// For the control socket: every local endpoint with its state and times, counts, faults.
  std::string endpoints_json();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace calico::felix
