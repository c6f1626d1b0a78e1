#pragma once
/// Where a soak runs: one namespace in which every address of 10.66/16 (peers), 10.67/16 and 10.77/16 (strangers) is
/// local, and bgp-speaker processes in it.
///
///   Place place("flap");                        // the calling thread is inside until the end of scope
///   Reflector r(place, {"id=10.66.0.1", "listen=10.66.0.1", …});
///   ASSERT_EQ(r.start(), "");
///   r.stop(SIGTERM);
///
/// Thread: one. Owns: namespace, processes (killed by pid), a folder for state and logs, removed when all went well.
#include <sys/resource.h>

#include <filesystem>
#include <fstream>
#include <memory>

#include "tests/support/netns.hpp"
#include "tests/support/wait.hpp"

namespace calico::soak {

class Place {
 public:
  explicit Place(const std::string& label)
      : home_(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)),
        ns_(label),
        dir_(std::filesystem::temp_directory_path() / ("calico-soak-" + ns_.name())) {
    ns_.run(
        "ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up &&"
        " for n in 66 67 77; do ip route add local 10.$n.0.0/16 dev lo; done &&"
        " sysctl -qw net.core.somaxconn=4096 net.ipv4.tcp_max_syn_backlog=4096");
    std::filesystem::create_directories(dir_);
    // A thousand sessions on either side.
    rlimit files{};
    ::getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = std::min<rlim_t>(files.rlim_max, 16384);
    ::setrlimit(RLIMIT_NOFILE, &files);
    ns_.enter();
  }
  ~Place() {
    if (home_ >= 0) {
      if (::setns(home_, CLONE_NEWNET) != 0) std::abort();
      ::close(home_);
    }
    std::error_code ignored;
    if (!testing::Test::HasFailure()) std::filesystem::remove_all(dir_, ignored);
  }
  const test::Netns& ns() const { return ns_; }
  const std::filesystem::path& dir() const { return dir_; }

 private:
  int home_;
  test::Netns ns_;
  std::filesystem::path dir_;
};

struct Memory {
  double rss_mb = 0, peak_mb = 0;
};

class Reflector {
 public:
  /// `arguments` as bgp-speaker takes them, but for state=; `limits` goes in front of the command ("ulimit -n 64;").
  Reflector(const Place& place, std::string name, std::string arguments, std::string limits = "")
      : place_(place), name_(std::move(name)), arguments_(std::move(arguments)), limits_(std::move(limits)) {}

  /// Empty when it listens, else why not.
  std::string start() {
    const auto log = place_.dir() / (name_ + ".log");
    std::ofstream(log, std::ios::trunc).close();
    child_ = std::make_unique<test::Child>(place_.ns().spawn(
        limits_ + "exec " CALICO_BINARY_DIR "/tests/bgp-speaker state=" + (place_.dir() / name_).string() +
            " ctl=" + (place_.dir() / (name_ + ".ctl")).string() + " " + arguments_,
        log.string()));
    std::filesystem::create_directories(place_.dir() / name_);
    const auto ready = test::eventually("the reflector's 'ready'", [&] {
      std::ifstream in(log);
      for (std::string line; std::getline(in, line);)
        if (line == "ready") return true;
      return false;
    });
    return ready ? "" : std::string(ready.message()) + "; log " + log.string();
  }
  void stop(int signal) {
    child_->kill_now(signal);
    child_.reset();
  }
  /// The next start is a first one.
  void forget() { std::filesystem::remove_all(place_.dir() / name_); }
  bool alive() const {
    if (!child_) return false;
    std::ifstream in("/proc/" + std::to_string(child_->pid()) + "/stat");
    std::string text;
    std::getline(in, text);
    const auto state = text.rfind(") ");
    return state != std::string::npos && text[state + 2] != 'Z';
  }
  Memory memory() const {
    std::ifstream in("/proc/" + std::to_string(child_->pid()) + "/status");
    Memory m;
    for (std::string line; std::getline(in, line);) {
      if (line.rfind("VmRSS:", 0) == 0) m.rss_mb = std::stod(line.substr(6)) / 1024;
      if (line.rfind("VmHWM:", 0) == 0) m.peak_mb = std::stod(line.substr(6)) / 1024;
    }
    return m;
  }
  /// utime + stime.
  double cpu_seconds() const {
    std::ifstream in("/proc/" + std::to_string(child_->pid()) + "/stat");
    std::string text;
    std::getline(in, text);
    std::istringstream fields(text.substr(text.rfind(')') + 2));
    std::string word;
    double ticks = 0;
    for (int i = 3; i <= 15 && fields >> word; ++i)
      if (i >= 14) ticks += std::stod(word);
    return ticks / static_cast<double>(::sysconf(_SC_CLK_TCK));
  }
  /// The answer of birdc to one command.
  std::string birdc(const std::string& command) const {
    return place_.ns()
        .try_run(std::string(CALICO_BINARY_DIR "/tests/bgp-speaker birdc -s ") +
                 (place_.dir() / (name_ + ".ctl")).string() + " " + command)
        .text;
  }

 private:
  const Place& place_;
  std::string name_, arguments_, limits_;
  std::unique_ptr<test::Child> child_;
};

}  // namespace calico::soak
