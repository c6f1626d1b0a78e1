#include "tests/bench/bgp/report.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

namespace calico::bench {
namespace {

using Value = std::optional<double>;

struct Figure {
  const char* name;
  const char* format;  // of the value
  bool compare;        // smaller is better, a ratio makes sense
  std::function<Value(const Run&)> of;
};

const Phase* loaded(const Run& r) {
  const auto* p = r.phase("announce");
  return p != nullptr ? p : r.phase("storm");
}
Figure wall(const char* name, const char* phase) {
  return {name, "{:.3f}", true, [phase](const Run& r) -> Value {
            const auto* p = r.phase(phase);
            return p != nullptr && p->done ? Value(p->wall_s) : std::nullopt;
          }};
}
Figure daemon_cpu(const char* name, const char* phase) {
  return {name, "{:.3f}", true, [phase](const Run& r) -> Value {
            const auto* p = r.phase(phase);
            return p != nullptr && p->done ? Value(p->daemon_cpu_s) : std::nullopt;
          }};
}
Figure of_load(const char* name, const char* format, bool compare, double (*get)(const Phase&)) {
  return {name, format, compare, [get](const Run& r) -> Value {
            const auto* p = loaded(r);
            return p != nullptr && p->done ? Value(get(*p)) : std::nullopt;
          }};
}
Figure latency(const char* name, const char* which, double Latency::*member) {
  return {name, "{:.0f}", true, [which, member](const Run& r) -> Value {
            const auto it = r.latency.find(which);
            return it != r.latency.end() && it->second.samples > 0 ? Value(it->second.*member) : std::nullopt;
          }};
}

const std::vector<Figure>& figures() {
  static const std::vector<Figure> all = {
      wall("establish s", "establish"),
      of_load("announce s", "{:.3f}", true, [](const Phase& p) { return p.wall_s; }),
      of_load("announce daemon CPU s", "{:.3f}", true, [](const Phase& p) { return p.daemon_cpu_s; }),
      of_load("daemon waiting for the CPU s", "{:.3f}", false, [](const Phase& p) { return p.daemon_wait_s; }),
      of_load("announce generator CPU s", "{:.3f}", false, [](const Phase& p) { return p.generator_cpu_s; }),
      of_load("UPDATEs received", "{:.0f}", false,
              [](const Phase& p) { return static_cast<double>(p.received.updates); }),
      of_load("MB received", "{:.1f}", false,
              [](const Phase& p) { return static_cast<double>(p.received.bytes) / 1e6; }),
      {"idle MB", "{:.1f}", true, [](const Run& r) { return r.idle_mb > 0 ? Value(r.idle_mb) : std::nullopt; }},
      {"peak MB", "{:.1f}", true, [](const Run& r) { return r.peak_mb > 0 ? Value(r.peak_mb) : std::nullopt; }},
      {"growth MB", "{:.1f}", true,
       [](const Run& r) { return r.peak_mb > 0 ? Value(r.peak_mb - r.idle_mb) : std::nullopt; }},
      wall("late join s", "late join"),
      latency("idle p50 us", "idle", &Latency::p50_us),
      latency("idle p99 us", "idle", &Latency::p99_us),
      latency("idle last receiver p50 us", "idle", &Latency::last_p50_us),
      latency("load p50 us", "load", &Latency::p50_us),
      latency("load p99 us", "load", &Latency::p99_us),
      latency("load last receiver p99 us", "load", &Latency::last_p99_us),
      daemon_cpu("load daemon CPU s", "probe load"),
      wall("flap s", "flap"),
      wall("withdraw s", "withdraw"),
      daemon_cpu("withdraw daemon CPU s", "withdraw"),
      wall("drop s", "drop"),
      {"own routes sent back", "{:.0f}", false, [](const Run& r) { return Value(double(r.totals.own_back)); }},
      {"messages with MED 0 added", "{:.0f}", false,
       [](const Run& r) { return r.totals.med_added > 0 ? Value(double(r.totals.med_added)) : std::nullopt; }},
      {"duplicates", "{:.0f}", false, [](const Run& r) { return Value(double(r.totals.duplicates)); }},
      {"faults", "{:.0f}", false, [](const Run& r) { return Value(double(r.faults.total())); }},
  };
  return all;
}

// facts/bgp.md 6.6 and issue 3, as figures of this table. "growth MB" is BIRD 2's in the same run.
struct Aim {
  const char *scenario, *figure;
  double at_most;
};
constexpr Aim kAims[] = {
    {"a", "announce s", 0.03},  {"b", "announce s", 0.35},  {"b", "announce daemon CPU s", 0.3},
    {"c", "announce s", 2.5},   {"d", "announce s", 0.7},   {"s", "announce s", 1.0},
    {"a", "late join s", 0.01}, {"b", "late join s", 0.03}, {"d", "late join s", 0.02},
    {"b", "withdraw s", 0.15},  {"c", "withdraw s", 0.5},   {"d", "withdraw s", 0.2},
    {"b", "drop s", 0.2},       {"d", "drop s", 0.3},       {"e", "idle p50 us", 120},
    {"e", "idle p99 us", 250},  {"e", "load p50 us", 120},  {"e", "load p99 us", 500},
};

struct Cell {
  std::vector<double> values;
  Value median() const {
    if (values.empty()) return std::nullopt;
    auto v = values;
    std::sort(v.begin(), v.end());
    return v.size() % 2 ? v[v.size() / 2] : (v[v.size() / 2 - 1] + v[v.size() / 2]) / 2;
  }
};
std::string number(const char* format, double v) { return fmt::format(fmt::runtime(format), v); }

std::string text(const Cell& c, const Figure& f) {
  const auto m = c.median();
  if (!m) return "-";
  auto out = number(f.format, *m);
  const auto [low, high] = std::minmax_element(c.values.begin(), c.values.end());
  const auto spread = number(f.format, *low) + "-" + number(f.format, *high);
  if (f.compare && c.values.size() > 1 && number(f.format, *low) != number(f.format, *high)) out += " (" + spread + ")";
  return out;
}

}  // namespace

void print_report(const std::vector<Run>& runs, const std::vector<std::string>& daemons) {
  for (const auto& s : scenarios()) {
    const auto is_of = [&](const Run& r, const std::string& d) { return r.scenario == s.plan.name && r.daemon == d; };
    if (std::none_of(runs.begin(), runs.end(), [&](const Run& r) { return r.scenario == s.plan.name; })) continue;
    fmt::print("\n### {}: {}\n\n| {} |", s.plan.name, s.help, s.plan.name);
    std::string rule = "|---|";
    for (const auto& d : daemons) {
      const auto ok =
          std::count_if(runs.begin(), runs.end(), [&](const Run& r) { return is_of(r, d) && r.problem.empty(); });
      const auto all = std::count_if(runs.begin(), runs.end(), [&](const Run& r) { return is_of(r, d); });
      fmt::print(" {} ({}/{}) |", d, ok, all);
      rule += "---|";
    }
    fmt::print(" ours / best peer | aim |\n{}---|---|\n", rule);
    for (const auto& f : figures()) {
      std::vector<Cell> cells(daemons.size());
      for (std::size_t d = 0; d < daemons.size(); ++d)
        for (const auto& r : runs)
          if (is_of(r, daemons[d]))
            if (const auto v = f.of(r)) cells[d].values.push_back(*v);
      if (std::all_of(cells.begin(), cells.end(), [](const Cell& c) { return c.values.empty(); })) continue;
      Value mine, best, bird;
      fmt::print("| {} |", f.name);
      for (std::size_t d = 0; d < daemons.size(); ++d) {
        fmt::print(" {} |", text(cells[d], f));
        const auto m = cells[d].median();
        if (daemons[d] == "ours")
          mine = m;
        else if (daemons[d] != "floor" && daemons[d] != "node" && m && (!best || *m < *best))
          best = m;
        if (daemons[d] == "bird2") bird = m;
      }
      Value aim;
      for (const auto& a : kAims)
        if (s.plan.name == a.scenario && std::string_view(f.name) == a.figure) aim = a.at_most;
      if (std::string_view(f.name) == "growth MB") aim = bird;
      if (std::string_view(f.name) == "idle MB") aim = 20;
      const auto ratio = f.compare && mine && best && *best > 0 ? fmt::format("{:.2f}", *mine / *best) : "";
      const auto verdict = !aim ? "" : number(f.format, *aim) + (!mine ? "" : *mine <= *aim ? ", met" : ", not met");
      fmt::print(" {} | {} |\n", ratio, verdict);
    }
    std::set<std::string> said;
    for (const auto& r : runs) {
      if (r.scenario != s.plan.name) continue;
      if (!r.problem.empty() && said.insert(r.daemon + r.problem).second) fmt::print("\n{}: {}\n", r.daemon, r.problem);
      if (r.faults.total() > 0 && said.insert(r.daemon + r.faults.first).second)
        fmt::print("\n{}: {} faults, the first: {}\n", r.daemon, r.faults.total(), r.faults.first);
    }
  }
  std::fflush(stdout);
}

}  // namespace calico::bench
