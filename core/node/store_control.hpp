#pragma once
/// The running process' answers to `calico-node store …` and `calico-node node …`, on the control socket.
///
///   GET  /store/status            state of sync, mirror, reports
///   GET  /store/get?key=K[&prefix=yes][&local=yes]   from the datastore, or from this node's mirror of it
///   GET  /store/watch             changes as lines (store_watch.hpp)
///   POST /store/accept            take the datastore as it is, mass removal or not
///   GET  /node/list               Nodes with roles, addresses, and whether their agent's status is alive
///   POST /node/drain?name=N[&off=yes]   its routes become everybody's last choice (RFC 8326), or as before
///   POST /node/delete?name=N      the Node goes, and with it the BGP sessions that followed from it
///
/// Thread: constructor and destructor: main; the handlers on the control thread. Owns: a loop to wait for the datastore
/// on. Must outlive the control server.
#include <memory>
#include <string>

#include "core/module/context.hpp"
#include "core/sync/service.hpp"

namespace calico::node {

class StoreControl {
 public:
  /// `region` as configured. Registers the handlers.
  StoreControl(sync::Service& service, std::string region, module::Control& control);
  ~StoreControl();
  StoreControl(const StoreControl&) = delete;
  StoreControl& operator=(const StoreControl&) = delete;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace calico::node
