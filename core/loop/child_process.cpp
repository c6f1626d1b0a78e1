#include "core/loop/child_process.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <fstream>
#include <iterator>

#include "core/loop/task_group.hpp"

namespace calico {
namespace {

namespace asio = boost::asio;
constexpr std::size_t kMaxLine = 4096;

int pidfd_open(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }
void pidfd_signal(int fd, int number) { (void)syscall(SYS_pidfd_send_signal, fd, number, nullptr, 0); }
bool wait_end(int fd, std::chrono::milliseconds patience) {
  pollfd p{fd, POLLIN, 0};
  return poll(&p, 1, static_cast<int>(patience.count())) > 0;
}

std::string how_it_ended(int status) {
  if (WIFEXITED(status)) return fmt::format("exited {}", WEXITSTATUS(status));
  return fmt::format("killed by signal {}", WTERMSIG(status));
}

}  // namespace

struct ChildProcess::State : std::enable_shared_from_this<State> {
  State(asio::any_io_executor ex, Options o) : options(std::move(o)), exit_fd(ex), output(ex), ended(ex) {
    ended.expires_at(asio::steady_timer::time_point::max());
  }

  void watch_exit() {
    exit_fd.async_wait(asio::posix::stream_descriptor::wait_read,
                       [self = shared_from_this()](boost::system::error_code ec) {
                         if (ec) return;
                         int status = 0;
                         waitpid(self->pid, &status, 0);
                         self->running = false;
                         self->exit_fd.close();
                         self->ended.cancel();
                         if (self->options.on_exit && !self->asked) self->options.on_exit(how_it_ended(status));
                       });
  }

  void read_output() {
    output.async_read_some(asio::buffer(chunk),
                           [self = shared_from_this()](boost::system::error_code ec, std::size_t n) {
                             for (std::size_t i = 0; i < n; ++i) {
                               const char c = self->chunk[i];
                               if (c != '\n' && self->line.size() < kMaxLine) self->line += c;
                               if (c != '\n') continue;
                               if (self->options.on_line) self->options.on_line(self->line);
                               self->line.clear();
                             }
                             if (!ec) self->read_output();
                           });
  }

  Options options;
  asio::posix::stream_descriptor exit_fd, output;
  asio::steady_timer ended;
  std::array<char, 4096> chunk{};
  std::string line;
  pid_t pid = -1;
  bool running = false;
  bool asked = false;
};

Result<std::unique_ptr<ChildProcess>> ChildProcess::start(asio::any_io_executor executor, Options options) {
  int out[2];
  if (pipe2(out, O_CLOEXEC) != 0) return fail_errno(errno, "pipe");
  std::vector<std::string> copy = options.argv;
  std::vector<char*> argv;
  for (auto& a : copy) argv.push_back(a.data());
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out[1], 1);
  posix_spawn_file_actions_adddup2(&actions, out[1], 2);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);  // loops block every signal; the child must not inherit that
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  pid_t pid = -1;
  const int rc = posix_spawn(&pid, argv[0], &actions, &attributes, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  close(out[1]);
  if (rc != 0) {
    close(out[0]);
    return fail_errno(rc, options.argv[0]);
  }
  const int fd = pidfd_open(pid);
  if (fd < 0) {
    const int err = errno;
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    close(out[0]);
    return fail_errno(err, "pidfd_open");
  }
  auto state = std::make_shared<State>(executor, std::move(options));
  state->pid = pid;
  state->running = true;
  state->exit_fd.assign(fd);
  state->output.assign(out[0]);
  state->watch_exit();
  state->read_output();
  return std::unique_ptr<ChildProcess>(new ChildProcess(std::move(state)));
}

ChildProcess::ChildProcess(std::shared_ptr<State> state) : state_(std::move(state)) {}

ChildProcess::~ChildProcess() {
  state_->asked = true;
  boost::system::error_code ignored;
  if (state_->running) {
    signal(SIGKILL);
    waitpid(state_->pid, nullptr, 0);
    state_->running = false;
    state_->exit_fd.close(ignored);
  }
  state_->output.close(ignored);
}

pid_t ChildProcess::pid() const { return state_->pid; }
bool ChildProcess::running() const { return state_->running; }
void ChildProcess::signal(int number) {
  if (state_->running) pidfd_signal(state_->exit_fd.native_handle(), number);
}

asio::awaitable<void> ChildProcess::terminate(std::chrono::milliseconds patience) {
  auto state = state_;
  state->asked = true;
  for (const int number : {SIGTERM, SIGKILL}) {
    if (!state->running) co_return;
    pidfd_signal(state->exit_fd.native_handle(), number);
    state->ended.expires_after(patience);
    boost::system::error_code ec;
    if (state->running) co_await state->ended.async_wait(asio::redirect_error(asio::use_awaitable, ec));
  }
}

bool end_stray_process(pid_t pid, std::string_view argument, std::chrono::milliseconds patience) {
  if (pid <= 1) return false;
  const int fd = pidfd_open(pid);
  if (fd < 0) return false;
  std::ifstream in(fmt::format("/proc/{}/cmdline", pid), std::ios::binary);
  std::string command((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  bool ours = false;
  for (std::size_t from = 0; from < command.size();) {
    const auto end = std::min(command.find('\0', from), command.size());
    ours = ours || std::string_view(command).substr(from, end - from) == argument;
    from = end + 1;
  }
  if (ours) {
    pidfd_signal(fd, SIGTERM);
    if (!wait_end(fd, patience)) {
      pidfd_signal(fd, SIGKILL);
      wait_end(fd, patience);
    }
  }
  close(fd);
  return ours;
}

}  // namespace calico
