#pragma once
/// The servers compared, each a process of its own on the same disk: ours (Kv behind its gateway, nothing else in the
/// process) and Debian's etcd.
///
///   auto server = start_ours();               // re-executes this program with --serve
///   Connection(server->port()).ask(…);
///
/// Thread: any one. Owns: the process and its folder below TMPDIR; both go with it. Errors: std::runtime_error.
#include <sys/types.h>

#include <cstdint>
#include <memory>

namespace calico::bench {

class Server {
 public:
  virtual ~Server() = default;
  virtual std::uint16_t port() const = 0;
  virtual pid_t pid() const = 0;
  /// Flushes to the disk since its start. Ours: calls of fsync and fdatasync. etcd: what its metrics count, one for
  /// each write of the log and one for each commit of its database (which is two calls in truth).
  virtual std::uint64_t syncs() const = 0;

  double cpu_seconds() const;
  double rss_mb() const;
  double peak_mb() const;
};

std::unique_ptr<Server> start_ours();
/// nullptr: not installed.
std::unique_ptr<Server> start_etcd();

/// The process behind start_ours(): serves until its standard input ends. For main().
int serve_main(const char* folder);

}  // namespace calico::bench
