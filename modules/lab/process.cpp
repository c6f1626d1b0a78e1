#include "modules/lab/process.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>

namespace calico::lab {

namespace {

struct Stat {
  char state = 0;
  pid_t parent = 0;
  std::uint64_t start = 0;
};

Stat stat_of(pid_t pid) {
  Stat out;
  auto text = read_file(fmt::format("/proc/{}/stat", pid), 8192);
  if (!text) return out;
  auto at = text->rfind(')');  // the name may hold anything
  if (at == std::string::npos || at + 2 >= text->size()) return out;
  std::string_view rest(*text);
  rest.remove_prefix(at + 2);
  for (int field = 3; !rest.empty(); ++field) {
    auto end = std::min(rest.find(' '), rest.size());
    std::string_view word = rest.substr(0, end);
    if (field == 3) out.state = word.front();
    if (field == 4) std::from_chars(word.data(), word.data() + word.size(), out.parent);
    if (field == 22) {
      std::from_chars(word.data(), word.data() + word.size(), out.start);
      break;
    }
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return out;
}

int open_pidfd(pid_t pid) { return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)); }

// What the child tells when it cannot become the program.
struct Failure {
  int err = 0;
  char step[60] = {};
};

// Between fork and exec only calls that are safe there: the parent may have other threads. Everything is prepared.
struct Prepared {
  std::vector<char*> argv;
  std::vector<char*> envp;
  std::vector<std::string> env_text;
  std::vector<std::string> run_dirs;  // directories to make inside the new /run, outermost first
  std::vector<std::string> mount_points;
  int netns = -1;
  const NodeView* view = nullptr;
  bool view_under_run = false;
  int input = -1;
  int output = -1;
  bool new_session = true;
};

// From a fresh process to the program, or the step that failed (errno says why).
const char* become_program(const Prepared& p) {
  if (p.new_session) ::setsid();
  if (p.netns >= 0 && ::setns(p.netns, CLONE_NEWNET) != 0) return "enter the network namespace";
  const NodeView& v = *p.view;
  if (!v.run.empty()) {
    if (::unshare(CLONE_NEWNS | CLONE_NEWUTS) != 0) return "mount namespace";
    if (::sethostname(v.hostname.c_str(), v.hostname.size()) != 0) return "host name";
    // Slave: a mount undone outside is undone here too.
    for (const auto& point : p.mount_points)
      if (::mount(nullptr, point.c_str(), nullptr, MS_REC | MS_SLAVE, nullptr) != 0 && point == "/")
        return "mount propagation";
    int keep = -1;
    if (p.view_under_run) {
      keep = ::open_tree(AT_FDCWD, v.dir.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
      if (keep < 0) return "keep the node's directory";
    }
    for (const auto& [from, to] : v.binds) {
      if (::mount(from.c_str(), to.c_str(), nullptr, MS_BIND, nullptr) != 0) return to.c_str();
    }
    if (::mount(v.run.c_str(), "/run", nullptr, MS_BIND, nullptr) != 0) return "/run";
    if (keep >= 0) {
      for (const auto& d : p.run_dirs) {
        if (::mkdir(d.c_str(), 0755) != 0 && errno != EEXIST) return d.c_str();
      }
      if (::move_mount(keep, "", AT_FDCWD, v.dir.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
        return "mount the node's directory";
      }
    }
  }
  if (p.input != 0) {
    int input = p.input > 0 ? p.input : ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (input < 0 || ::dup2(input, 0) < 0) return "stdin";
  }
  if (p.output >= 0 && (::dup2(p.output, 1) < 0 || ::dup2(p.output, 2) < 0)) return "stdout";
  if (p.new_session && ::chdir("/") != 0) return "/";
  for (int s = 1; s < NSIG; ++s) ::signal(s, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
  ::execve(p.argv[0], p.argv.data(), p.envp.data());
  return p.argv[0];
}

[[noreturn]] void child_main(const Prepared& p, int gate, int failure) {
  char go = 0;
  ssize_t n = 0;
  do {
    n = ::read(gate, &go, 1);
  } while (n < 0 && errno == EINTR);
  if (n != 1) ::_exit(127);  // the parent died before it could write us down
  const char* step = become_program(p);
  // Still here: the descriptor would have closed with exec, which is how the parent hears the good news.
  Failure f;
  f.err = errno;
  std::strncpy(f.step, step, sizeof f.step - 1);
  (void)!::write(failure, &f, sizeof f);
  ::_exit(127);
}

// Where propagation is cut: "/" with all below it, or, in a chroot whose root is no mount point, every mount seen
// there.
std::vector<std::string> mount_points() {
  std::vector<std::string> out;
  auto text = read_file("/proc/self/mountinfo", 4U << 20U);
  for (std::string_view rest = text ? std::string_view(*text) : ""; !rest.empty();) {
    const auto end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    for (int field = 1; field < 5; ++field) line.remove_prefix(std::min(line.find(' ') + 1, line.size()));
    out.emplace_back(line.substr(0, line.find(' ')));  // escaped names (\040) are of no interest here
    if (out.back() == "/") return {"/"};
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return out;
}

void prepare(const SpawnSpec& spec, Prepared& p) {
  if (!spec.view.run.empty()) p.mount_points = mount_points();
  for (const auto& a : spec.argv) p.argv.push_back(const_cast<char*>(a.c_str()));
  p.argv.push_back(nullptr);
  for (const auto& [k, v] : spec.environment) p.env_text.push_back(k + "=" + v);
  for (auto& e : p.env_text) p.envp.push_back(e.data());
  p.envp.push_back(nullptr);
  p.netns = spec.netns;
  p.view = &spec.view;
  p.view_under_run = !spec.view.dir.empty() && spec.view.dir.starts_with("/run/");
  if (p.view_under_run) {
    for (std::size_t at = 5; at != std::string::npos;) {
      at = spec.view.dir.find('/', at);
      p.run_dirs.push_back(spec.view.dir.substr(0, at));
      if (at != std::string::npos) ++at;
    }
  }
  p.input = spec.input;
  p.output = spec.output;
  p.new_session = spec.new_session;
}

}  // namespace

ProcessId identify(pid_t pid) { return {pid, stat_of(pid).start}; }

bool alive(const ProcessId& id) {
  if (id.pid <= 0 || id.start == 0) return false;
  Stat s = stat_of(id.pid);
  return s.start == id.start && s.state != 'Z' && s.state != 'X';
}

std::uint64_t resident_of(const ProcessId& id) {
  if (!alive(id)) return 0;
  auto text = read_file(fmt::format("/proc/{}/status", id.pid), 65536);
  auto at = text ? text->find("VmRSS:") : std::string::npos;
  return at == std::string::npos ? 0 : std::strtoull(text->c_str() + at + 6, nullptr, 10) * 1024;
}

std::vector<pid_t> descendants_of(pid_t pid) {
  std::multimap<pid_t, pid_t> children;
  if (DIR* proc = ::opendir("/proc")) {
    while (dirent* e = ::readdir(proc)) {
      char* end = nullptr;
      long p = std::strtol(e->d_name, &end, 10);
      if (p > 1 && *end == 0) children.emplace(stat_of(static_cast<pid_t>(p)).parent, static_cast<pid_t>(p));
    }
    ::closedir(proc);
  }
  std::vector<pid_t> out;
  std::vector<pid_t> todo{pid};
  while (!todo.empty()) {
    pid_t next = todo.back();
    todo.pop_back();
    auto [from, to] = children.equal_range(next);
    for (; from != to; ++from) {
      out.push_back(from->second);
      todo.push_back(from->second);
    }
  }
  return out;
}

Status kill_all(const std::vector<pid_t>& pids, Millis limit) {
  std::vector<std::pair<pid_t, Fd>> open;
  for (pid_t pid : pids) {
    Fd fd(open_pidfd(pid));
    if (!fd) continue;
    ::syscall(SYS_pidfd_send_signal, fd.get(), SIGKILL, nullptr, 0);
    open.emplace_back(pid, std::move(fd));
  }
  auto deadline = Steady::now() + limit;
  for (auto& [pid, fd] : open) {
    auto left = std::chrono::duration_cast<Millis>(deadline - Steady::now());
    pollfd p{fd.get(), POLLIN, 0};
    while (::poll(&p, 1, std::max<int>(0, static_cast<int>(left.count()))) < 0 && errno == EINTR) {
    }
    if ((p.revents & POLLIN) == 0) return fail(Errc::timeout, "process {} does not end", pid);
    ::waitpid(pid, nullptr, WNOHANG);  // ours or not
  }
  return {};
}

Status Child::release() {
  char go = 1;
  if (::write(gate_.get(), &go, 1) != 1) return fail_errno(errno, "start a process");
  gate_.reset();
  Failure f;
  ssize_t n = 0;
  do {
    n = ::read(failure_.get(), &f, sizeof f);
  } while (n < 0 && errno == EINTR);
  failure_.reset();
  if (n == sizeof f) {
    (void)wait();
    return fail_errno(f.err, f.step);
  }
  return {};
}

Result<int> Child::try_wait() {
  int status = 0;
  pid_t r = ::waitpid(id_.pid, &status, WNOHANG);
  if (r == 0) return fail(Errc::busy, "process {} runs", id_.pid);
  if (r < 0) return fail_errno(errno, "wait for a process");
  return status;
}

Result<int> Child::wait() {
  int status = 0;
  while (::waitpid(id_.pid, &status, 0) < 0) {
    if (errno != EINTR) return fail_errno(errno, "wait for a process");
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string describe_wait_status(int status) {
  if (WIFEXITED(status)) return fmt::format("exited with {}", WEXITSTATUS(status));
  if (WIFSIGNALED(status)) return fmt::format("was ended by signal {}", WTERMSIG(status));
  return "changed state";
}

Result<Child> spawn(const SpawnSpec& spec) {
  Prepared p;
  prepare(spec, p);
  std::array<int, 2> gate{};
  std::array<int, 2> failure{};
  if (::pipe2(gate.data(), O_CLOEXEC) != 0) return fail_errno(errno, "pipe");
  Fd gate_read(gate[0]);
  Fd gate_write(gate[1]);
  if (::pipe2(failure.data(), O_CLOEXEC) != 0) return fail_errno(errno, "pipe");
  Fd failure_read(failure[0]);
  Fd failure_write(failure[1]);

  pid_t pid = ::fork();
  if (pid < 0) return fail_errno(errno, "fork");
  if (pid == 0) {
    ::close(gate_write.get());  // or the end of the parent would not be seen
    child_main(p, gate_read.get(), failure_write.get());
  }
  Child child;
  child.id_ = identify(pid);
  child.pidfd_ = Fd(open_pidfd(pid));
  child.gate_ = std::move(gate_write);
  child.failure_ = std::move(failure_read);
  return child;
}

Status become(const SpawnSpec& spec) {
  Prepared p;
  prepare(spec, p);
  std::string step = become_program(p);
  return fail_errno(errno, step);
}

namespace {
// sun_path holds 107 characters; a path through a descriptor of the directory holds any.
Result<std::pair<Fd, sockaddr_un>> unix_address(const std::string& directory, const std::string& name) {
  Fd dir(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!dir) return fail_errno(errno, directory);
  sockaddr_un a{};
  a.sun_family = AF_UNIX;
  std::string path = fmt::format("/proc/self/fd/{}/{}", dir.get(), name);
  if (path.size() >= sizeof a.sun_path) return fail(Errc::invalid, "socket name {} is too long", name);
  std::copy(path.begin(), path.end(), a.sun_path);
  return std::pair{std::move(dir), a};
}
}  // namespace

Result<NotifySocket> NotifySocket::open(const std::string& directory) {
  ::unlink((directory + "/notify").c_str());
  auto address = unix_address(directory, "notify");
  if (!address) return tl::unexpected(address.error());
  NotifySocket s;
  s.fd_ = Fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!s.fd_) return fail_errno(errno, "notify socket");
  if (::bind(s.fd_.get(), reinterpret_cast<sockaddr*>(&address->second), sizeof address->second) != 0) {
    return fail_errno(errno, directory + "/notify");
  }
  return s;
}

void NotifySocket::drain() {
  std::array<char, 4096> block;
  for (;;) {
    ssize_t n = ::recv(fd_.get(), block.data(), block.size(), MSG_DONTWAIT);
    if (n <= 0) return;
    std::string_view text(block.data(), static_cast<std::size_t>(n));
    while (!text.empty()) {
      auto end = std::min(text.find('\n'), text.size());
      std::string_view line = text.substr(0, end);
      if (line == "READY=1") ++ready_;
      if (line.starts_with("STATUS=")) status_ = line.substr(7);
      text.remove_prefix(std::min(end + 1, text.size()));
    }
  }
}

Result<Fd> connect_unix(const std::string& directory, const std::string& name) {
  auto address = unix_address(directory, name);
  if (!address) return tl::unexpected(address.error());
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return fail_errno(errno, "unix socket");
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address->second), sizeof address->second) != 0) {
    return fail_errno(errno, directory + "/" + name);
  }
  return fd;
}

}  // namespace calico::lab
