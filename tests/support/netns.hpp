#pragma once
/// A network namespace of a test's own: named with the test's pid, removed (with the processes left in it) by the
/// destructor. Traffic, links, routes, rules and sysctls of tests live in these, never in the host's own.
///
///   NEEDS_NETNS();                                   // skips aloud where namespaces are not allowed
///   Netns a("a"), b("b");
///   veth(a, "eth0", b, "eth0");
///   a.run("ip addr add 10.0.0.1/24 dev eth0");       // throws with the output when it fails
///   auto nl = a.in([] { return netlink::Rtnl::open(); });   // the socket stays in `a`
///   auto server = b.spawn("exec nc -lk 10.0.0.2 80");       // killed by its pid at the end of scope
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <exception>
#include <future>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace calico::test {

struct Output {
  int status = 0;    ///< exit status, 128 + signal when killed
  std::string text;  ///< stdout and stderr
};

/// Runs a shell command in the test's own (host) namespace; for tools only, never to change the host.
inline Output shell(const std::string& command) {
  Output o;
  FILE* p = popen(("{ " + command + "\n} 2>&1").c_str(), "r");
  if (!p) throw std::runtime_error("popen failed");
  char buf[4096];
  for (std::size_t n; (n = fread(buf, 1, sizeof buf, p)) > 0;) o.text.append(buf, n);
  const int st = pclose(p);
  o.status = WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
  return o;
}

/// A background process, killed (by its pid, with its process group) and reaped at the end of scope.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid) {}
  Child(Child&& o) noexcept : pid_(std::exchange(o.pid_, -1)) {}
  Child& operator=(Child&&) = delete;
  ~Child() { kill_now(); }
  pid_t pid() const { return pid_; }
  void kill_now(int sig = SIGKILL) {
    if (pid_ <= 0) return;
    ::kill(-pid_, sig);
    ::kill(pid_, sig);
    wait();
  }
  /// Exit status, 128 + signal; -1 when already reaped.
  int wait() {
    if (pid_ <= 0) return -1;
    int st = 0;
    ::waitpid(pid_, &st, 0);
    pid_ = -1;
    return WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
  }
  bool running() const { return pid_ > 0 && ::kill(pid_, 0) == 0; }

 private:
  pid_t pid_;
};

class Netns {
 public:
  explicit Netns(const std::string& label) {
    static std::atomic<int> count{0};
    name_ = "cn" + std::to_string(getpid()) + "-" + std::to_string(count++) + "-" + label;
    const auto made = shell("ip netns add " + name_);
    if (made.status != 0) throw std::runtime_error("cannot make namespace " + name_ + ": " + made.text);
    fd_ = ::open(("/run/netns/" + name_).c_str(), O_RDONLY | O_CLOEXEC);
    if (fd_ < 0) throw std::runtime_error("cannot open namespace " + name_);
    run("ip link set lo up");
  }
  Netns(const Netns&) = delete;
  Netns& operator=(const Netns&) = delete;
  ~Netns() {
    std::istringstream pids(shell("ip netns pids " + name_).text);
    for (long pid; pids >> pid;)
      if (pid > 1 && pid != getpid()) ::kill(static_cast<pid_t>(pid), SIGKILL);
    ::close(fd_);
    shell("ip netns del " + name_);
  }

  const std::string& name() const { return name_; }
  int fd() const { return fd_; }

  /// Runs a shell command inside; its output. Throws when it fails.
  std::string run(const std::string& command) const {
    auto o = try_run(command);
    if (o.status != 0)
      throw std::runtime_error(name_ + ": '" + command + "' failed (" + std::to_string(o.status) + "): " + o.text);
    return o.text;
  }
  Output try_run(const std::string& command) const {
    return shell("ip netns exec " + name_ + " sh -c " + quote(command));
  }
  /// Feeds `input` to a command's stdin, for `nft -f -`.
  Output try_run_with(const std::string& command, const std::string& input) const {
    return try_run("printf '%s' " + quote(input) + " | " + command);
  }
  /// Starts `sh -c command` inside, in a process group of its own, output to `log` (default: nowhere).
  Child spawn(const std::string& command, const std::string& log = "/dev/null") const {
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::setpgid(0, 0);
      if (::setns(fd_, CLONE_NEWNET) != 0) _exit(126);
      const int null = ::open("/dev/null", O_RDONLY);
      const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
      ::dup2(null, 0);
      ::dup2(out, 1);
      ::dup2(out, 2);
      ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
      _exit(127);
    }
    if (pid < 0) throw std::runtime_error("fork failed");
    ::setpgid(pid, pid);
    return Child(pid);
  }

  /// Calls f() in a thread inside the namespace and returns its result: sockets it opens stay in the namespace.
  template <class F>
  auto in(F&& f) const -> std::invoke_result_t<F> {
    std::packaged_task<std::invoke_result_t<F>()> task([&]() -> std::invoke_result_t<F> {
      enter();
      return f();
    });
    auto result = task.get_future();
    std::thread(std::move(task)).join();
    return result.get();
  }
  /// Moves the calling thread inside, for good.
  void enter() const {
    if (::setns(fd_, CLONE_NEWNET) != 0) throw std::runtime_error("setns " + name_ + " failed");
  }

 private:
  static std::string quote(const std::string& s) {
    std::string q = "'";
    for (char c : s) q += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return q + "'";
  }
  std::string name_;
  int fd_ = -1;
};

/// A veth pair between two namespaces, both ends up.
inline void veth(const Netns& a, const std::string& if_a, const Netns& b, const std::string& if_b) {
  a.run("ip link add " + if_a + " type veth peer name " + if_b + " netns " + b.name());
  a.run("ip link set " + if_a + " up");
  b.run("ip link set " + if_b + " up");
}

/// Empty when namespaces can be made here, else why not.
inline std::string netns_refused() {
  if (geteuid() != 0) return "not root";
  try {
    Netns probe("probe");
  } catch (const std::exception& e) {
    return e.what();
  }
  return {};
}

}  // namespace calico::test

/// First line of a test with namespaces.
#define NEEDS_NETNS()                                                                                            \
  do {                                                                                                           \
    static const std::string netns_why_not = ::calico::test::netns_refused();                                    \
    if (!netns_why_not.empty()) GTEST_SKIP() << "SKIPPED, needs root and network namespaces: " << netns_why_not; \
  } while (0)
