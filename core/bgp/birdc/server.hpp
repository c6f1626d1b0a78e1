#pragma once
/// BIRD's control protocol on a unix socket, so that BIRD's own `birdc` (of 1.6 and 2.0), Calico's readers, scripts and
/// ours can ask. One server a socket; several share an engine.
///
///   BirdcServer birdc(loop, engine, {.path = "/run/calico-node/bird.ctl"});
///   BirdcServer old(loop, engine, {.path = "/run/calico/bird.ctl", .shape = {Layout::bird1, Family::v4}});
///   auto s = loop.call([&] { return birdc.start(); });
///   …
///   loop.call([&] { birdc.stop(); });     // before the engine goes
///
/// Thread: loop (the engine's). Owns: the socket file (mode 0660), its connections. Errors of start(): of the file
/// system, exists when a living server answers there or something else than a socket lies there (a dead server's file
/// is replaced). Limits: 32 clients, 1 KiB a line, 60 s for a client that does not take its answer, 30 s for a
/// configuration to be read; long lists are produced in pages, so that no turn of the loop grows with the table.
#include <memory>
#include <string>

#include "core/bgp/birdc/command.hpp"
#include "core/bgp/birdc/configure.hpp"
#include "core/bgp/engine.hpp"
#include "core/loop/loop.hpp"

namespace calico::bgp {

class BirdcServer {
 public:
  struct Options {
    std::string path;
    bool kernel = true;  ///< shows the kernel's side as protocol kernel1
    birdc::Shape shape{};
    Configure configure{};  ///< unset: `configure` is refused
  };
  BirdcServer(Loop& loop, Engine& engine, Options options);
  ~BirdcServer();
  BirdcServer(const BirdcServer&) = delete;
  BirdcServer& operator=(const BirdcServer&) = delete;

  [[nodiscard]] Status start();
  void stop();

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace calico::bgp
