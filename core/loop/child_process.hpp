#pragma once
/// A supervised child: its output line by line, its end as a callback, its signals by pidfd, so that a recycled pid is
/// never hit.
///
///   auto child = ChildProcess::start(loop.executor(), {.argv = {"/usr/sbin/dnsmasq", "-k"}, .on_line = …, .on_exit =
///   …});
///   (*child)->signal(SIGHUP);
///   co_await (*child)->terminate(std::chrono::seconds(5));
///
/// posix_spawn and pidfd instead of Boost.Process: its exit notification takes SIGCHLD away from the whole process.
#include <sys/types.h>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.hpp"

namespace calico {

/// Thread: loop (the executor's). Owns: the process: destroying it kills (SIGKILL) and reaps what still runs.
class ChildProcess {
 public:
  struct Options {
    std::vector<std::string> argv;  ///< argv[0] is an absolute path
    /// Lines of stdout and stderr, cut at 4 KiB; optional.
    std::function<void(std::string_view)> on_line;
    /// Once, when it ended; the text says how ("exited 2", "killed by signal 9"). Not after terminate() or destruction.
    std::function<void(std::string)> on_exit;
  };
  /// Errors: not_found (no such program), no_permission, exhausted.
  [[nodiscard]] static Result<std::unique_ptr<ChildProcess>> start(boost::asio::any_io_executor executor,
                                                                   Options options);
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const;
  bool running() const;
  void signal(int number);
  /// SIGTERM, then SIGKILL after `patience`; returns when it is reaped.
  boost::asio::awaitable<void> terminate(std::chrono::milliseconds patience);

 private:
  struct State;
  explicit ChildProcess(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

/// Ends a process that an earlier life left behind: `pid` is only touched when its command line holds `argument`.
/// Blocks at most `patience` twice. True when there was one.
bool end_stray_process(pid_t pid, std::string_view argument, std::chrono::milliseconds patience);

}  // namespace calico
