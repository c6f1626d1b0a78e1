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

#include "core/http/message.hpp"

namespace calico::bench {

class Server {
 public:
  virtual ~Server() = default;
  virtual std::uint16_t port() const = 0;
  virtual pid_t pid() const = 0;
  /// Flushes to the disk since its start. Ours: calls of fsync and fdatasync. etcd: what its metrics count, one for
  /// each write of the log and one for each commit of its database (which is two calls in truth).
  virtual std::uint64_t syncs() const = 0;
  /// SIGKILL; the data stays. restart() serves it on the same port.
  virtual void kill() = 0;
  virtual void restart() = 0;

  double cpu_seconds() const;
  double rss_mb() const;
  double peak_mb() const;
};

/// With `tls`: mutual TLS.
std::unique_ptr<Server> start_ours(http::TlsFiles tls = {});
/// nullptr: not installed.
std::unique_ptr<Server> start_etcd(http::TlsFiles tls = {});

/// The process behind start_ours(): `PROGRAM --serve FOLDER PORT [CA CERT KEY]`, until its standard input ends. For
/// main().
int serve_main(int argc, char** argv);

/// As many descriptors as the hard limit allows.
void raise_descriptors();

}  // namespace calico::bench
