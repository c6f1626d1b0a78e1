#pragma once
/// Processes of the lab: started inside a namespace with a /run of their own, recorded before they run, awaited through
/// systemd's notification protocol, ended by their id.
///
/// A started process stands still until release(): the caller first writes its id to the state file, so that no moment
/// exists in which a process runs that `lab down` would not know.
/// Thread: any. Owns: descriptors; a process outlives the object that started it.
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "modules/lab/os.hpp"

namespace calico::lab {

/// A process by number and start time, so that a number used again is never mistaken for it.
struct ProcessId {
  pid_t pid = 0;
  std::uint64_t start = 0;  ///< clock ticks since boot, /proc/PID/stat field 22
  bool operator==(const ProcessId&) const = default;
};
/// start = 0 when there is no such process.
ProcessId identify(pid_t pid);
/// Runs and is no zombie.
bool alive(const ProcessId& id);
/// Resident memory in bytes; 0 when it does not run.
std::uint64_t resident_of(const ProcessId& id);
/// Children, their children and so on, deepest last.
std::vector<pid_t> descendants_of(pid_t pid);
/// SIGKILL to all of them, then waits until they are gone. Errors: timeout, naming one that stays.
[[nodiscard]] Status kill_all(const std::vector<pid_t>& pids, Millis limit = Millis(10000));

/// What a process sees instead of the host's directories. All of it in a mount namespace of its own.
struct NodeView {
  std::string hostname;
  std::string dir;                                         ///< stays visible under its own name
  std::string run;                                         ///< becomes /run
  std::vector<std::pair<std::string, std::string>> binds;  ///< directory -> mount point that exists
};

struct SpawnSpec {
  std::vector<std::string> argv;                   ///< argv[0] is a path
  std::map<std::string, std::string> environment;  ///< whole, nothing is inherited
  int netns = -1;
  NodeView view;
  int input = -1;   ///< /dev/null when -1, 0 = the caller's own
  int output = -1;  ///< stdout and stderr; the caller's own when -1
  bool new_session = true;
};

class Child {
 public:
  Child() = default;
  const ProcessId& id() const { return id_; }
  /// Lets it run. Errors: what kept it from running (mount, exec).
  [[nodiscard]] Status release();
  /// Readable when the process has ended.
  int pidfd() const { return pidfd_.get(); }
  /// Reaps; the wait status, or busy while it runs.
  [[nodiscard]] Result<int> try_wait();
  /// Waits to the end; -1 signals nothing. Returns an exit code (128 + signal).
  [[nodiscard]] Result<int> wait();

 private:
  friend Result<Child> spawn(const SpawnSpec&);
  ProcessId id_;
  Fd pidfd_;
  Fd gate_;
  Fd failure_;
};

[[nodiscard]] Result<Child> spawn(const SpawnSpec& spec);
/// This process itself becomes the program; returns only on failure, and then the caller should exit.
[[nodiscard]] Status become(const SpawnSpec& spec);
/// "exited with 2", "was ended by signal 9".
std::string describe_wait_status(int status);

/// The receiving end of NOTIFY_SOCKET for one process.
class NotifySocket {
 public:
  /// Makes `<directory>/notify`; any length of directory.
  [[nodiscard]] static Result<NotifySocket> open(const std::string& directory);
  int fd() const { return fd_.get(); }
  /// Takes all datagrams that are there.
  void drain();
  bool ready() const { return ready_ > 0; }
  unsigned ready_count() const { return ready_; }  ///< a process says it once in its life
  const std::string& status() const { return status_; }

 private:
  Fd fd_;
  unsigned ready_ = 0;
  std::string status_;
};

/// Connects to a unix stream socket under `directory`, however long the path.
[[nodiscard]] Result<Fd> connect_unix(const std::string& directory, const std::string& name);

}  // namespace calico::lab
