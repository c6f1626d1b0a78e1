#include "tests/bench/bgp/scenario.hpp"

#include <fmt/core.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>

namespace calico::bench {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

double quantile(std::vector<double>& v, double q) {
  if (v.empty()) return 0;
  const auto n = std::min(v.size() - 1, static_cast<std::size_t>(q * static_cast<double>(v.size())));
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(n), v.end());
  return v[n];
}

/// The namespace of one run: 10.66.0.1/16 on a veth, so that next hops resolve as on a host, and all of 10.66.0.0/16
/// local, so that every client has its address without being configured one by one.
struct Place {
  test::Netns ns{"bgpbench"};
  fs::path dir = fs::temp_directory_path() / ("calico-bgp-bench-" + std::to_string(getpid()));
  Place() {
    ns.run(
        "ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up &&"
        " ip addr add 10.66.0.1/16 dev v0 && ip addr add fd00:66::1/64 dev v0 nodad &&"
        " ip route add local 10.66.0.0/16 dev lo && sysctl -qw net.core.somaxconn=4096");
    fs::remove_all(dir);
    fs::create_directories(dir);
    // FRR drops to a user of its own for its sockets.
    fs::permissions(dir, fs::perms::owner_all | fs::perms::group_all | fs::perms::others_all);
    ns.enter();
  }
  ~Place() {
    std::error_code ec;
    fs::remove_all(dir, ec);
  }
};

class Runner {
 public:
  Runner(const Scenario& s, const std::string& kind, const RunOptions& o)
      : s_(s),
        o_(o),
        w_(s.plan),
        d_(place_.ns, place_.dir, kind, w_, o.daemon),
        g_(w_),
        end_of_rib_(end_of_rib(w_.ipv6())) {
    run_.scenario = s.plan.name;
    run_.daemon = kind;
  }

  Run go() {
    if (run_.problem = d_.wait_listening(30s); run_.problem.empty()) {
      g_.run_for(200ms);  // its start is over
      run_.idle_mb = d_.memory().rss_mb;
      for (std::uint32_t i = 0; i < w_.clients(); ++i) g_.add(i >= senders() || s_.plan.senders_counted);
      if (run_.daemon == "floor")
        floor();
      else
        phases();
    }
    if (run_.problem.empty() && !d_.alive()) run_.problem = "the daemon ended: " + d_.log_tail();
    run_.peak_mb = std::max(run_.peak_mb, d_.memory().peak_mb);
    run_.faults = g_.faults();
    run_.totals = g_.totals();
    run_.reconnects = g_.reconnects();
    return std::move(run_);
  }

 private:
  std::uint32_t senders() const { return s_.plan.senders; }

  /// Measures `begin` and what follows until `done`. False: it did not come to that, and the run ends here.
  bool phase(const std::string& name, const std::function<void()>& begin, const std::function<bool()>& done,
             double limit_s = 0, const std::function<std::string()>& missing = {}) {
    Phase p;
    p.name = name;
    const auto totals = g_.totals();
    const auto daemon_wait = d_.wait_seconds();
    const auto daemon_cpu = d_.cpu_seconds(), own_cpu = own_cpu_seconds();
    const auto start = Clock::now();
    begin();
    p.done = g_.run_until(done, std::chrono::duration<double>(limit_s > 0 ? limit_s : o_.phase_limit_s));
    p.wall_s = seconds(Clock::now() - start);
    p.generator_cpu_s = own_cpu_seconds() - own_cpu;
    p.daemon_cpu_s = d_.cpu_seconds() - daemon_cpu;
    p.daemon_wait_s = d_.wait_seconds() - daemon_wait;
    p.received = g_.totals() - totals;
    const auto memory = d_.memory();
    p.rss_mb = memory.rss_mb;
    p.peak_mb = run_.peak_mb = memory.peak_mb;
    if (!p.done) {
      p.missing = missing ? missing() : g_.missing();
      run_.problem = fmt::format("{}: not complete after {:.0f} s: {}", name, p.wall_s, p.missing);
    }
    if (o_.verbose)
      std::fprintf(stderr,
                   "    %-10s %8.3f s  daemon %8.3f s (waited %.3f)  generator %7.3f s  %7.1f MB  %llu updates%s\n",
                   name.c_str(), p.wall_s, p.daemon_cpu_s, p.daemon_wait_s, p.generator_cpu_s, p.peak_mb,
                   static_cast<unsigned long long>(p.received.updates), p.done ? "" : ("  " + p.missing).c_str());
    run_.phases.push_back(std::move(p));
    return run_.phases.back().done;
  }
  /// What the daemon still has to do for itself (free, answer late) is over, or at least does not begin the next phase.
  void settle() {
    for (int i = 0; i < 50; ++i) {
      const auto before = d_.cpu_seconds();
      g_.run_for(100ms);
      if (d_.cpu_seconds() - before < 0.005) return;
    }
  }

  // As many at a time as the smallest listen queue among the daemons holds (BIRD's); what happens beyond is scenario s.
  bool connect_all() {
    constexpr std::uint32_t kTogether = 8;
    return phase(
        "establish", [] {},
        [&, next = std::uint32_t{0}]() mutable {
          for (; next < w_.clients() && next < g_.established() + kTogether; ++next)
            g_.connect(next, next < senders() ? std::vector<View>{} : std::vector<View>{end_of_rib_});
          return g_.established() == w_.clients();
        },
        0, [&] { return fmt::format("{} of {} sessions", g_.established(), w_.clients()); });
  }
  /// Not every daemon sends one; those that do are waited for, so that the start of sessions is not in the next phase.
  void wait_end_of_rib() {
    g_.run_until(
        [&] {
          for (std::uint32_t i = 0; i < w_.clients(); ++i)
            if (!g_.end_of_rib(i)) return false;
          return true;
        },
        3s);
    settle();
  }
  void announce_all() {
    for (std::uint32_t i = 0; i < senders(); ++i) {
      g_.send(i, w_.announce(i));
      g_.send(i, end_of_rib_);
    }
  }
  bool announce(const std::string& name) {
    return phase(
        name, [&] { announce_all(); }, [&] { return g_.all_hold_all(); });
  }
  bool late_join(const std::string& name) {
    const auto n = static_cast<std::uint32_t>(g_.size());
    g_.add(true);
    return phase(
        name, [&] { g_.connect(n, {end_of_rib_}); }, [&] { return g_.held(n) == w_.expected(n); });
  }
  bool withdraw() {
    return phase(
        "withdraw",
        [&] {
          for (std::uint32_t i = 0; i < senders(); ++i) g_.send(i, w_.withdraw(i));
        },
        [&] { return g_.nobody_holds_any(); });
  }
  /// One sender withdraws all, all see it, it announces all again, all see it: three times, the median stays.
  bool flap() {
    std::vector<Phase> three;
    for (int i = 0; i < 3; ++i) {
      settle();
      const bool ok = phase(
          "flap",
          [&] {
            g_.send(0, w_.withdraw(0));
            const auto without = w_.announced() - s_.plan.per_sender;
            const bool gone = g_.run_until(
                [&] {
                  for (std::uint32_t c = 1; c < g_.size(); ++c)
                    if (g_.counted(c) && g_.held(c) != without - (c < senders() ? s_.plan.per_sender : 0)) return false;
                  return true;
                },
                std::chrono::duration<double>(o_.phase_limit_s));
            if (gone) g_.send(0, w_.announce(0));
          },
          [&] { return g_.all_hold_all(); });
      if (!ok) return false;
      three.push_back(run_.phases.back());
      run_.phases.pop_back();
    }
    std::sort(three.begin(), three.end(), [](const Phase& a, const Phase& b) { return a.wall_s < b.wall_s; });
    run_.phases.push_back(three[1]);
    return true;
  }
  /// The senders leave with Cease; the first pure receiver must lose everything.
  bool drop() {
    return phase(
        "drop",
        [&] {
          for (std::uint32_t i = 0; i < senders(); ++i) g_.cease(i);
        },
        [&] { return g_.held(senders()) == 0; }, 0,
        [&] { return fmt::format("client {} still holds {}", senders(), g_.held(senders())); });
  }

  /// `count` single routes of sender 0, one after the other, 2 to 5 ms apart; with `load` sender 1 withdraws and
  /// announces blocks of 100 of its prefixes, 20,000 prefix changes a second. At most 12 s.
  void probe(const std::string& name, std::uint32_t first, unsigned count, bool load) {
    constexpr std::uint32_t kBlock = 100;
    constexpr auto kPace = 5ms;
    const auto blocks = s_.plan.per_sender / kBlock;
    std::vector<Bytes> single, off, on;
    for (unsigned i = 0; i < count; ++i) single.push_back(w_.some(0, first + i, 1, true));
    for (std::uint32_t b = 0; load && b < blocks; ++b) {
      off.push_back(w_.some(1, b * kBlock, kBlock, false));
      on.push_back(w_.some(1, b * kBlock, kBlock, true));
    }
    std::vector<double> each, last;
    std::size_t changes = 0;
    phase(
        "probe " + name,
        [&] {
          const auto end = Clock::now() + 12s;
          auto next_change = Clock::now();
          const auto flap_if_due = [&] {
            while (load && Clock::now() >= next_change) {
              const auto b = changes / 2 % blocks;
              g_.send(1, changes % 2 == 0 ? off[b] : on[b]);
              ++changes;
              next_change += kPace;
            }
            return false;
          };
          // Between probes we sleep, so that whatever else runs on this machine runs on our processor; while one is on
          // its way we do not, so that our own wake-up is not in the figure.
          const auto idle_for = [&](Clock::duration time) {
            for (const auto until = Clock::now() + time; Clock::now() < until;) {
              flap_if_due();
              const auto next = load ? std::min(next_change, until) : until;
              g_.run_for(std::max<Clock::duration>(next - Clock::now(), 0ns));
            }
          };
          idle_for(200ms);
          for (unsigned i = 0; i < count && Clock::now() < end; ++i) {
            // Odd steps, so that probes and changes meet at every distance.
            idle_for(std::chrono::microseconds(2000 + i * 769 % 3001));
            g_.watch(w_.id(0, first + i), 0);
            const auto sent = Clock::now();
            g_.send(0, single[i]);
            if (!g_.run_until([&] { return flap_if_due() || g_.watch_missing() == 0; }, 5s, true)) break;
            double latest = 0;
            for (std::uint32_t c = 0; c < g_.size(); ++c)
              if (g_.watch_seen()[c] != Clock::time_point{}) {
                each.push_back(seconds(g_.watch_seen()[c] - sent) * 1e6);
                latest = std::max(latest, each.back());
              }
            last.push_back(latest);
          }
          if (changes % 2 == 1) g_.send(1, on[changes / 2 % blocks]);
        },
        [&] { return last.size() > 20 && g_.watch_missing() == 0; }, 0.001,
        [&] { return fmt::format("probe {} missing at {} receivers", last.size(), g_.watch_missing()); });
    Latency l;
    l.samples = each.size();
    l.probes = last.size();
    l.p50_us = quantile(each, .5);
    l.p99_us = quantile(each, .99);
    l.last_p50_us = quantile(last, .5);
    l.last_p99_us = quantile(last, .99);
    run_.latency[name] = l;
    // The probes go, so that what follows counts from what was announced.
    g_.watch(Workload::kNone, 0);
    const auto away = w_.some(0, first, count, false);
    g_.send(0, away);
    if (!g_.run_until([&] { return g_.all_hold_all(); }, 10s) && run_.problem.empty())
      run_.problem = "probe " + name + ": not as before afterwards: " + g_.missing();
  }

  void phases() {
    if (s_.storm) {
      std::vector<std::vector<View>> greetings;
      for (std::uint32_t i = 0; i < w_.clients(); ++i)
        greetings.push_back(i < senders() ? std::vector<View>{w_.announce(i), end_of_rib_}
                                          : std::vector<View>{end_of_rib_});
      if (!phase(
              "storm",
              [&] {
                for (std::uint32_t i = 0; i < w_.clients(); ++i) g_.connect(i, greetings[i]);
              },
              [&] { return g_.established() == w_.clients() && g_.all_hold_all(); }))
        return;
    } else {
      if (!connect_all()) return;
      wait_end_of_rib();
      if (!announce("announce")) return;
    }
    settle();
    if (s_.late_join) {
      if (!late_join("late join")) return;
      settle();
    }
    if (s_.probes > 0) {
      probe("idle", s_.plan.per_sender, s_.probes, false);
      if (!run_.problem.empty()) return;
      settle();
    }
    if (s_.load_probes) {
      probe("load", s_.plan.per_sender + s_.probes, s_.probes, true);
      if (!run_.problem.empty()) return;
      settle();
    }
    if (s_.flap && !flap()) return;
    settle();
    if (!withdraw()) return;
    settle();
    if (!s_.drop || !announce("again")) return;
    settle();
    drop();
  }

  /// The generator against a sender that had everything encoded before: what receiving and checking costs at least.
  void floor() {
    if (!connect_all() || !announce("announce")) return;
    settle();
    if (s_.late_join) late_join("late join");
  }

  const Scenario& s_;
  const RunOptions& o_;
  Place place_;
  Workload w_;
  Daemon d_;
  Generator g_;
  Bytes end_of_rib_;
  Run run_;
};

}  // namespace

const Phase* Run::phase(const std::string& name) const {
  for (const auto& p : phases)
    if (p.name == name) return &p;
  return nullptr;
}

const std::vector<Scenario>& scenarios() {
  static const std::vector<Scenario> all = {
      {.plan = {"a", Shape::hosts4, 20, 1, 1000},
       .help = "20 senders + 1 receiver x 1,000 /32",
       .late_join = true,
       .flap = true,
       .drop = true},
      {.plan = {"b", Shape::hosts4, 100, 1, 1000},
       .help = "100 senders + 1 receiver x 1,000 /32",
       .late_join = true,
       .flap = true,
       .drop = true},
      {.plan = {"c", Shape::internet, 2, 10, 400000, 0, false},
       .help = "2 senders x 400,000 Internet-like routes, 10 receivers",
       .late_join = true,
       .slow_runs = 1},
      {.plan = {"d", Shape::hosts4, 500, 1, 100},
       .help = "500 senders + 1 receiver x 100 /32",
       .late_join = true,
       .flap = true,
       .drop = true,
       .slow_runs = 1},
      {.plan = {"e", Shape::hosts4, 2, 10, 10000, 1000, false},
       .help = "2 senders x 10,000 /32, 10 receivers; one route at a time, idle and under 20,000 changes/s",
       .probes = 500,
       .load_probes = true},
      {.plan = {"s", Shape::hosts4, 100, 1, 1000},
       .help = "like b, but all clients connect and announce at once",
       .storm = true,
       .slow_runs = 1},
      {.plan = {"a6", Shape::hosts6, 20, 1, 1000},
       .help = "like a with /128",
       .late_join = true,
       .flap = true,
       .drop = true,
       .slow_runs = 1},
  };
  return all;
}

const Scenario* find_scenario(const std::string& name) {
  for (const auto& s : scenarios())
    if (s.plan.name == name) return &s;
  return nullptr;
}

Run run_scenario(const Scenario& scenario, const std::string& daemon, const RunOptions& options) {
  rlimit files{65536, 65536};
  (void)setrlimit(RLIMIT_NOFILE, &files);
  try {
    return Runner(scenario, daemon, options).go();
  } catch (const std::exception& e) {
    Run r;
    r.scenario = scenario.plan.name;
    r.daemon = daemon;
    r.problem = e.what();
    return r;
  }
}

}  // namespace calico::bench
