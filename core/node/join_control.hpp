#pragma once
/// The running controller's answers to `calico-node join token|list|revoke`, on the control socket.
///
///   POST /join/token[?name=N][&ttl=SECONDS]    a new token: the one answer in which its secret appears
///   GET  /join/tokens                          those that are not over, without secrets
///   POST /join/token/revoke?id=ID
///   GET  /join/list                            names, serial numbers, ends
///   POST /join/revoke?name=N                   404 when N had no valid certificate
///
/// Where no node can join (no controller, no TLS, a CA without its key) all answer 409 and say why.
///
/// Thread: constructor: main; the handlers on the control thread, which waits for the datastore's loop.
#include "core/module/context.hpp"
#include "core/node/datastore.hpp"

namespace calico::node {

class JoinControl {
 public:
  /// Registers the handlers. `datastore` outlives the control server.
  JoinControl(Datastore& datastore, module::Control& control);

  /// For `node delete`: the serial numbers revoked; empty also where no certificates are given out.
  [[nodiscard]] Result<std::vector<std::string>> revoke(const std::string& name);

 private:
  Datastore& datastore_;
};

}  // namespace calico::node
