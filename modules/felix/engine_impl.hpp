#pragma once
/// What the files of the engine share: everything it owns and knows, and its steps. Of no use outside of them.
///
///   engine.cpp            start and stop, and what the kernel's events cause
///   engine_intent.cpp     what the datastore says: batches, configuration
///   engine_apply.cpp      the order of a change; faults and when they are tried again; live migration
///   engine_status.cpp     what is said of it: endpoints' states, heartbeat, health, the control socket
///
/// Thread: the engine's loop, but for start() and stop(). Owns: all of it; view and report outlive it. Errors: of
/// start() as in engine.hpp; what fails later is logged, told as status and tried again.
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/loop/loop.hpp"
#include "core/loop/task_group.hpp"
#include "core/model/compiler.hpp"
#include "core/model/resources.hpp"
#include "core/netlink/monitor.hpp"
#include "core/netlink/rtnl.hpp"
#include "core/nft/connection.hpp"
#include "modules/felix/blackholes.hpp"
#include "modules/felix/configurations.hpp"
#include "modules/felix/engine.hpp"
#include "modules/felix/firewall.hpp"
#include "modules/felix/flows.hpp"
#include "modules/felix/hosts.hpp"
#include "modules/felix/listener.hpp"
#include "modules/felix/measures.hpp"
#include "modules/felix/migration.hpp"
#include "modules/felix/taps.hpp"

namespace calico::felix {

struct Engine::Impl {
  Impl(std::string n, const config::Config& c, sync::View& v, sync::Report& r, Hooks h);

  // ---- engine.cpp ----

  model::Compiler fresh_compiler() const;
  Status start();
  Status watch_kernel();
  void stop();
  Flows::Hooks flow_hooks();
  void configure();
  void host_settings();

  // ---- engine_intent.cpp ----

  void subscribe();
  void take_configuration();
  void tell_ignored(const std::string& line);
  void on_batch(const sync::Batch& b);
  bool is_local(const std::string& key) const;
  void on_felix_configuration(const sync::Update& u);
  void on_own_node(const sync::Update& u);

  // ---- engine_apply.cpp ----

  void schedule();
  void schedule_if_due();
  void retry_later();
  void reload_firewall_now();
  void apply();
  void set_plan(const model::EndpointPlan& plan);
  void drop_plan(const std::string& key);
  void follow_migrations();
  void measure(TimePoint begin, bool wrote);
  void failed(const Error& e, bool& again);
  void put_off(const Error& e, std::set<std::string> touched);

  // ---- engine_status.cpp ----

  struct Standing {
    model::EndpointState state = model::EndpointState::down;
    std::string error;
    TapState tap;
  };
  void report_all();
  awaitable<void> report_again(std::string key);
  void count();
  Standing standing(const model::EndpointPlan& plan, const std::string& trouble = {}) const;
  void report_endpoints(const std::set<std::string>& keys, const std::string& trouble = {});
  void report_hosts();
  awaitable<void> heartbeat();
  void beat();
  void say(std::string line);
  void say_programmed();
  void announce_ready();
  std::string describe();

  // ---- state ----

  /// When an endpoint's current revision was seen, when the kernel had it, when its state was handed to the report.
  /// Microseconds of the wall clock, 0 = not yet.
  struct Times {
    store::Revision revision = 0;
    std::int64_t seen_us = 0;
    std::int64_t link_us = 0;  ///< its interface was first there
    std::int64_t kernel_us = 0;
    std::int64_t status_us = 0;
  };
  static std::int64_t now_us() {
    return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch())
        .count();
  }

  /// From here to the end of scope: a turn of the loop that is measured.
  struct Turn {
    explicit Turn(Measures& m) : measures(m) {}
    ~Turn() { measures.turn(std::chrono::steady_clock::now() - began); }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    Measures& measures;
    const TimePoint began = std::chrono::steady_clock::now();
  };

  const std::string node;
  config::Config config;
  sync::View& view;
  sync::Report& report;
  Hooks hooks;
  Settings settings;
  metrics::Registry nobody;  // without a process around us
  Measures measures;
  model::Compiler compiler;
  Configurations felix_configurations{node};
  const std::string own_node = model::node_key(node);

  Loop loop{"felix"};
  std::optional<netlink::Rtnl> rtnl;
  std::optional<Taps> taps;
  std::optional<Blackholes> blackholes;
  std::optional<Firewall> firewall;
  std::optional<netlink::Monitor> link_monitor;
  std::optional<nft::Monitor> nft_monitor;
  std::optional<TaskGroup> tasks;
  std::optional<Flows> flows;
  std::unique_ptr<sync::Subscription> subscription;

  sync::SyncState sync_state;
  std::vector<Ip> host_addresses;
  std::vector<model::HostInterface> host_interfaces;
  HostStatus host_status{node, report};
  Migrations migrations{node};
  std::map<std::string, Listener> listeners;  // by endpoint
  bool migration_timer = false;
  std::set<std::string> planned;  // endpoints handed to taps
  std::set<std::string> waiting;  // endpoints of a change the kernel did not take
  struct Reported {
    std::string key;
    model::EndpointState state = model::EndpointState::down;
    std::string error;
  };
  std::map<std::string, Reported> reported;
  std::map<std::string, Times> times;
  std::string last_line;
  std::set<std::string> told_ignored;
  std::optional<TimePoint> seen;  // the oldest change the kernel has not answered yet
  TimePoint started, counted{}, next_look{};
  Duration retry_after = std::chrono::milliseconds(100);

  std::mutex gate;          // between stop() and who waits for the loop
  bool running = false;     // the loop runs; under gate
  bool stopping = false;    // loop, as all below
  bool usable = false;      // there has been a complete snapshot
  bool loaded = false;      // the kernel was read and the first apply is under way
  bool everything = false;  // a new compiler: no delta speaks about the old state
  bool scheduled = false;
  bool retrying = false;
  bool looking = false;
  bool reload_taps = false;
  bool reload_firewall = false;
  bool configuration_changed = false;
  bool settled = false;
  bool was_in_sync = false;
  bool told_alive = false;
  bool told_ready = false;
  bool programmed_once = false;
  bool health_ready = false;     // as told
  bool concerns_kernel = false;  // what was seen changed rules or endpoints
  bool count_due = false;
};

}  // namespace calico::felix
