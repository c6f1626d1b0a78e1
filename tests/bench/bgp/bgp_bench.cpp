// The BGP engine beside bird2 and frr as route reflectors: how fast all clients know all routes, at what cost. Prints,
// asserts nothing. README.md explains scenarios and figures.
#include <fmt/core.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>

#include "tests/bench/bgp/mirror.hpp"
#include "tests/bench/bgp/report.hpp"

using namespace calico;
using namespace calico::bench;

namespace {

constexpr const char* kUsage =
    "usage: bgp_bench [--scenario a,b,c,d,e,s,a6] [--daemon ours,node,bird2,frr,floor] [--runs 3] [--quick]\n"
    "                 [--limit SECONDS] [--realtime] [--no-pin] [--speaker PATH] [--node PATH] [--verbose]\n";

[[noreturn]] void die(const std::string& why) {
  fmt::print(stderr, "bgp_bench: {}\n{}", why, kUsage);
  std::exit(2);
}
int number(std::string_view s) {
  int v = 0;
  const auto [end, ec] = std::from_chars(s.data(), s.data() + s.size(), v);
  if (ec != std::errc{} || end != s.data() + s.size() || v < 0) die(fmt::format("'{}' is not a number", s));
  return v;
}
std::vector<std::string> split(std::string_view s) {
  std::vector<std::string> out;
  while (!s.empty()) {
    const auto comma = std::min(s.find(','), s.size());
    out.emplace_back(s.substr(0, comma));
    s.remove_prefix(std::min(comma + 1, s.size()));
  }
  return out;
}

int mirror(int argc, char** argv) {
  if (argc != 9) die("mirror takes seven numbers");
  Plan p;
  p.shape = static_cast<Shape>(number(argv[2]));
  p.senders = static_cast<std::uint32_t>(number(argv[3]));
  p.receivers = static_cast<std::uint32_t>(number(argv[4]));
  p.per_sender = static_cast<std::uint32_t>(number(argv[5]));
  p.spare = static_cast<std::uint32_t>(number(argv[6]));
  p.senders_counted = number(argv[7]) != 0;
  run_mirror(p, number(argv[8]));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "mirror") return mirror(argc, argv);
  std::vector<std::string> wanted, daemons;
  int runs = 0;
  bool quick = false, pin = true;
  RunOptions o;
  o.daemon.speaker = CALICO_BINARY_DIR "/tests/bgp-speaker";
  o.daemon.node = CALICO_BINARY_DIR "/bin/calico-node";
  o.daemon.self = std::filesystem::read_symlink("/proc/self/exe").string();
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    const auto value = [&]() -> std::string_view {
      if (i + 1 == argc) die(fmt::format("{} needs a value", arg));
      return argv[++i];
    };
    if (arg == "--scenario")
      wanted = split(value());
    else if (arg == "--daemon")
      daemons = split(value());
    else if (arg == "--runs")
      runs = number(value());
    else if (arg == "--limit")
      o.phase_limit_s = number(value());
    else if (arg == "--speaker")
      o.daemon.speaker = value();
    else if (arg == "--node")
      o.daemon.node = value();
    else if (arg == "--quick")
      quick = true;
    else if (arg == "--realtime")
      o.daemon.realtime = true;
    else if (arg == "--no-pin")
      pin = false;
    else if (arg == "--verbose")
      o.verbose = true;
    else
      die(fmt::format("unknown argument '{}'", arg));
  }
  if (wanted.empty()) wanted = quick ? split("a,b,e") : split("a,b,c,d,e,s");
  if (daemons.empty()) daemons = quick ? split("ours") : split("ours,bird2,frr,floor");
  for (const auto& s : wanted)
    if (find_scenario(s) == nullptr) die("unknown scenario " + s);
  const auto kinds = Daemon::kinds();
  for (const auto& d : daemons)
    if (std::find(kinds.begin(), kinds.end(), d) == kinds.end()) die("unknown daemon " + d);
  if (const auto why = test::netns_refused(); !why.empty()) {
    fmt::print("SKIPPED, needs root and network namespaces: {}\n", why);
    return 0;
  }
  std::erase_if(daemons, [&](const std::string& d) {
    const auto why = Daemon::unavailable(d, o.daemon);
    if (!why.empty()) fmt::print("SKIPPED {}: {}\n", d, why);
    return !why.empty();
  });
  signal(SIGPIPE, SIG_IGN);
  for (const int sig : {SIGINT, SIGTERM}) signal(sig, [](int) { Generator::interrupted = 1; });
  // Others work on this machine too; all daemons and the generator go before them alike.
  (void)setpriority(PRIO_PROCESS, 0, -15);
  const sched_param first{1};
  if (o.daemon.realtime && sched_setscheduler(0, SCHED_FIFO, &first) != 0) die("--realtime is not allowed here");
  if (pin)
    pin_to(o.generator_cpu);
  else
    o.daemon.cpu = -1;

  std::vector<Run> all;
  for (const auto& name : wanted) {
    const auto& s = *find_scenario(name);
    for (const auto& d : daemons) {
      const int count = runs > 0 ? runs : quick || d == "floor" ? 1 : d == "ours" || d == "node" ? 3 : s.slow_runs;
      for (int n = 0; n < count && Generator::interrupted == 0; ++n) {
        fmt::print(stderr, "{} {} run {} of {}\n", name, d, n + 1, count);
        all.push_back(run_scenario(s, d, o));
        const auto& r = all.back();
        if (!r.problem.empty()) fmt::print(stderr, "    {}\n", r.problem);
        if (r.faults.total() > 0)
          fmt::print(stderr, "    {} faults, the first: {}\n", r.faults.total(), r.faults.first);
      }
    }
  }
  print_report(all, daemons);
  return Generator::interrupted != 0 ? 130 : 0;
}
