#pragma once
/// The running controller's answers to `calico-node store move`, on the control socket. The move itself is core/move's.
///
///   POST /store/move?to=URL,URL[&check=yes][&force=yes]   begins one (to=embedded: back); 409 says why not
///   GET  /store/move[?after=N]   {"running", "lines" from the Nth on, "error", "moved", "generation", "endpoints",
///                                "followed", "waiting"}: what is said and done, and which Nodes follow
///
/// Whoever asked may go away: the move goes on. When the cloud's datastore is another one afterwards, `restart` is
/// called, and this process begins anew with the part it has now.
///
/// Thread: constructor, destructor: main; handlers: the control thread; the mover: the datastore's loop. Owns: the move
/// and its client. Must outlive the control server, and not the datastore.
#include <functional>
#include <memory>
#include <string>

#include "core/module/context.hpp"

namespace calico::node {

class Datastore;

class MoveControl {
 public:
  /// `self`: this host's Node. Registers the handlers.
  MoveControl(Datastore& datastore, module::Control& control, std::string self, std::function<void()> restart);
  ~MoveControl();
  MoveControl(const MoveControl&) = delete;
  MoveControl& operator=(const MoveControl&) = delete;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace calico::node
