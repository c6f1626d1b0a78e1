#pragma once
/// What a piece of work costs. Work runs in a process of its own, so that its CPU time and its peak memory are its own:
/// ours is forked, nft and ip are started.
///
///   auto [cost, values] = in_child([&](Meter& m) { …set up…; m.start(); …work…; m.stop(); return Values{…}; });
///   Cost c = command(ns, {"nft", "-f", path});
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/netns.hpp"

namespace calico::bench {

using Clock = std::chrono::steady_clock;
using Values = std::vector<double>;

inline double ms_since(Clock::time_point t) {
  return std::chrono::duration<double, std::milli>(Clock::now() - t).count();
}
inline double cpu_ms(const rusage& u) {
  const auto ms = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) * 1000 + static_cast<double>(t.tv_usec) / 1000;
  };
  return ms(u.ru_utime) + ms(u.ru_stime);
}
inline double own_cpu_ms() {
  rusage u{};
  ::getrusage(RUSAGE_SELF, &u);
  return cpu_ms(u);
}

struct Cost {
  double wall_ms = 0;
  double cpu_ms = 0;
  double peak_mb = 0;  ///< of the whole process, its preparation too
};

/// Marks the part of a child's work that counts.
class Meter {
 public:
  void start() { begin_ = Clock::now(), cpu_ = own_cpu_ms(); }
  void stop() { cost_.wall_ms = ms_since(begin_), cost_.cpu_ms = own_cpu_ms() - cpu_; }
  const Cost& cost() const { return cost_; }

 private:
  Clock::time_point begin_;
  double cpu_ = 0;
  Cost cost_;
};

inline std::pair<Cost, Values> in_child(const std::function<Values(Meter&)>& work) {
  int pipe[2];
  if (::pipe2(pipe, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
  std::fflush(stdout);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::close(pipe[0]);
    int rc = 0;
    try {
      Meter m;
      auto values = work(m);
      values.insert(values.begin(), {m.cost().wall_ms, m.cost().cpu_ms});
      const auto* bytes = reinterpret_cast<const char*>(values.data());
      const std::size_t size = values.size() * sizeof(double);
      for (std::size_t at = 0; at < size;) {
        const auto n = ::write(pipe[1], bytes + at, size - at);
        if (n <= 0) _exit(3);
        at += static_cast<std::size_t>(n);
      }
    } catch (const std::exception& e) {
      std::fprintf(stderr, "felix_bench: %s\n", e.what());
      rc = 3;
    }
    std::fflush(stdout);
    _exit(rc);
  }
  ::close(pipe[1]);
  if (pid < 0) throw std::runtime_error("fork");
  std::string bytes;
  char buf[65536];
  for (ssize_t n; (n = ::read(pipe[0], buf, sizeof buf)) > 0;) bytes.append(buf, static_cast<std::size_t>(n));
  ::close(pipe[0]);
  int status = 0;
  rusage u{};
  ::wait4(pid, &status, 0, &u);
  if (status != 0 || bytes.size() < 2 * sizeof(double)) throw std::runtime_error("a measured process failed");
  Values values(bytes.size() / sizeof(double));
  std::copy(bytes.begin(), bytes.end(), reinterpret_cast<char*>(values.data()));
  const Cost c{values[0], values[1], static_cast<double>(u.ru_maxrss) / 1024};
  return {c, {values.begin() + 2, values.end()}};
}

/// A program inside the namespace, from exec to its end. Throws with its output when it fails.
inline Cost command(const test::Netns& ns, const std::vector<std::string>& argv) {
  std::vector<char*> args;
  for (const auto& a : argv) args.push_back(const_cast<char*>(a.c_str()));
  args.push_back(nullptr);
  const auto log = fmt::format("/tmp/felix-bench-{}.log", ::getpid());
  const auto t = Clock::now();
  const pid_t pid = ::fork();
  if (pid == 0) {
    const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (::setns(ns.fd(), CLONE_NEWNET) != 0) _exit(126);
    ::dup2(out, 1), ::dup2(out, 2);
    ::execvp(args[0], args.data());
    _exit(127);
  }
  int status = 0;
  rusage u{};
  ::wait4(pid, &status, 0, &u);
  const Cost c{ms_since(t), cpu_ms(u), static_cast<double>(u.ru_maxrss) / 1024};
  if (status != 0) {
    const auto said = test::shell("head -c 600 " + log).text;
    ::unlink(log.c_str());
    throw std::runtime_error(argv[0] + " failed: " + said);
  }
  ::unlink(log.c_str());
  return c;
}

inline double quantile(Values v, double q) {
  if (v.empty()) return 0;
  std::sort(v.begin(), v.end());
  return v[std::min(v.size() - 1, static_cast<std::size_t>(q * static_cast<double>(v.size())))];
}
inline double median(const Values& v) { return quantile(v, 0.5); }
inline std::string spread(const Values& v, const char* number = "{:.1f}") {
  if (v.size() < 2) return fmt::format(fmt::runtime(number), median(v));
  const auto [least, most] = std::minmax_element(v.begin(), v.end());
  return fmt::format(fmt::runtime(std::string(number) + " (" + number + "-" + number + ")"), median(v), *least, *most);
}

/// Costs of several runs of one thing.
struct Costs {
  Values wall, cpu, peak;
  void add(const Cost& c) { wall.push_back(c.wall_ms), cpu.push_back(c.cpu_ms), peak.push_back(c.peak_mb); }
};
inline void row(const std::string& what, const Costs& c, double ours = 0) {
  fmt::print("| {} | {} | {} | {:.0f} | {} |\n", what, spread(c.wall, "{:.0f}"), spread(c.cpu, "{:.0f}"),
             median(c.peak), ours > 0 ? fmt::format("{:.2f}", ours / median(c.wall)) : "");
  std::fflush(stdout);
}

}  // namespace calico::bench
