#pragma once
/// One run of one scenario against one daemon: its phases in order, each bounded and measured. README.md says what each
/// phase is.
///
///   Run r = run_scenario(*find_scenario("b"), "bird2", options);
///   for (const auto& p : r.phases) …
///
/// Thread: one; the namespace of a run lives as long as the call. Errors: of the daemon are in Run::problem and the
/// phases' `missing`.
#include <map>
#include <optional>

#include "tests/bench/bgp/daemons.hpp"
#include "tests/bench/bgp/generator.hpp"

namespace calico::bench {

struct Scenario {
  Plan plan;
  std::string help;
  bool storm = false;      ///< all connect and announce at once
  bool late_join = false;  ///< one more client on the loaded reflector
  bool flap = false;
  bool drop = false;
  unsigned probes = 0;       ///< single routes, idle
  bool load_probes = false;  ///< the same again while another client flaps
  int slow_runs = 3;         ///< of daemons that are not ours, in the default run
};

struct Phase {
  std::string name;
  bool done = false;
  std::string missing;  ///< what did not arrive, when not done
  double wall_s = 0, daemon_cpu_s = 0, generator_cpu_s = 0;
  double daemon_wait_s = 0;        ///< ready to run, but others had its processor
  double rss_mb = 0, peak_mb = 0;  ///< after the phase
  Totals received;
};

struct Latency {
  std::size_t samples = 0, probes = 0;
  double p50_us = 0, p99_us = 0, last_p50_us = 0, last_p99_us = 0;
};

struct Run {
  std::string scenario, daemon;
  std::string problem;  ///< why it did not run (to the end)
  std::vector<Phase> phases;
  std::map<std::string, Latency> latency;  ///< "idle", "load"
  double idle_mb = 0, peak_mb = 0;         ///< VmRSS before the first client, VmHWM at the end
  Faults faults;
  Totals totals;
  std::uint64_t reconnects = 0;

  const Phase* phase(const std::string& name) const;
};

struct RunOptions {
  DaemonOptions daemon;
  int generator_cpu = 0;
  double phase_limit_s = 60;
  bool verbose = false;  ///< a line a phase on stderr
};

const std::vector<Scenario>& scenarios();
const Scenario* find_scenario(const std::string& name);

Run run_scenario(const Scenario& scenario, const std::string& daemon, const RunOptions& options);

}  // namespace calico::bench
