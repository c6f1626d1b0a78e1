#pragma once
/// BIRD's control protocol in BIRD 2's shape on a unix socket, so that BIRD's own `birdc`, scripts and ours can ask.
///
///   BirdcServer birdc(loop, engine, {.path = "/run/calico-node/bird.ctl"});
///   auto s = loop.call([&] { return birdc.start(); });
///   …
///   loop.call([&] { birdc.stop(); });     // before the engine goes
///
/// Thread: loop (the engine's). Owns: the socket file (mode 0660), its connections. Errors of start(): of the file
/// system, exists when a living server answers there (a dead one's file is replaced). Limits: 32 clients, 1 KiB a line,
/// 60 s for a client that does not take its answer; long lists are produced in pages, so that no turn of the loop grows
/// with the table.
#include <memory>
#include <string>

#include "core/bgp/engine.hpp"
#include "core/loop/loop.hpp"

namespace calico::bgp {

class BirdcServer {
 public:
  struct Options {
    std::string path;
    bool kernel = true;  ///< shows the kernel's side as protocol kernel1
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
