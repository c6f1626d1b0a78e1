#pragma once
/// The reflectors that are measured, each as an operator would run it: route reflector 10.66.0.1 in AS 64512, clients
/// from 10.66.0.0/16 as dynamic neighbours, no kernel routes, no policy. A new one is a row of the table in
/// daemons.cpp.
///
///   Daemon d(ns, dir, "bird2", workload, {.cpu = 1});
///   if (auto why = d.wait_listening(30s); !why.empty()) …
///   const auto before = d.cpu_seconds();
///
/// Thread: one, which is inside the namespace. Owns: the process tree, killed by pid. Errors: std::runtime_error when
/// it cannot be started.
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tests/bench/bgp/workload.hpp"
#include "tests/support/netns.hpp"

namespace calico::bench {

struct Memory {
  double rss_mb = 0, peak_mb = 0;  ///< VmRSS and VmHWM, summed over the process tree
};

struct DaemonOptions {
  int cpu = 1;            ///< the only processor it may use; -1 = any
  bool realtime = false;  ///< under SCHED_FIFO
  std::string speaker;    ///< path of bgp-speaker, for "ours"
  std::string node;       ///< path of calico-node, for "node"
  std::string self;       ///< path of bgp_bench, for "floor"
  int damage = 0;         ///< how "floor" lies, see mirror.hpp
};

class Daemon {
 public:
  Daemon(const test::Netns& ns, const std::filesystem::path& dir, const std::string& kind, const Workload& workload,
         const DaemonOptions& options);

  /// All names, "floor" (see mirror.hpp) last.
  static std::vector<std::string> kinds();
  /// Why a kind cannot run here, empty if it can.
  static std::string unavailable(const std::string& kind, const DaemonOptions& options);

  /// Empty when somebody listens on port 179, else why not, with the end of the daemon's output.
  std::string wait_listening(std::chrono::seconds limit) const;
  bool alive() const;
  /// utime + stime of the process tree, to the nanosecond.
  double cpu_seconds() const;
  /// How long its threads were ready and did not run.
  double wait_seconds() const;
  Memory memory() const;
  std::string log_tail() const;

 private:
  std::vector<pid_t> tree() const;

  std::filesystem::path log_;
  std::unique_ptr<test::Child> child_;
};

/// CPU time of this process so far.
double own_cpu_seconds();
/// Ties the calling thread to one processor, if there is more than one.
void pin_to(int cpu);

}  // namespace calico::bench
