#pragma once
/// The running process' answers to `calico-node store …` and `calico-node node …`, on the control socket.
///
///   GET  /store/status            state of sync, mirror, reports
///   GET  /store/get?key=K[&prefix=yes][&local=yes]   from the datastore, or from this node's mirror of it
///   GET  /store/watch             changes as lines (store_watch.hpp)
///   POST /store/accept            take the datastore as it is, mass removal or not
///   GET  /node/list               Nodes with roles, addresses, and whether their agent's status is alive
///   POST /node/drain?name=N[&off=yes]   its routes become everybody's last choice (RFC 8326), or as before
///   POST /node/delete?name=N      the Node goes, and with it the BGP sessions that followed from it and, on the
///                                 controller, its certificates
///
/// Thread: constructor and destructor: main; the handlers on the control thread. Owns: a loop to wait for the datastore
/// on. Must outlive the control server.
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/module/context.hpp"
#include "core/sync/service.hpp"

namespace calico::node {

class StoreControl {
 public:
  /// `region` as configured. Registers the handlers.
  /// `revoke` takes a node's certificates back and says how many; not asked where it is empty.
  using Revoke = std::function<Result<std::vector<std::string>>(const std::string& name)>;
  StoreControl(sync::Service& service, std::string region, module::Control& control, Revoke revoke = {});
  ~StoreControl();
  StoreControl(const StoreControl&) = delete;
  StoreControl& operator=(const StoreControl&) = delete;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace calico::node
