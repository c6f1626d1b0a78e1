#pragma once
/// The running process' answers to `calico-node apply|create|replace|delete|get`, on the control socket.
///
///   GET  /resources/list?kind=K[&namespace=N][&after=KEY&revision=R]   a page of them: {"items", "revision", "next"}
///   GET  /resources/get?kind=K&name=N[&namespace=N]                    one, under its name or its stored name
///   POST /resources/change   {"verb","dry_run","skip","items":[…]}     at most 128, all or none: {"outcomes", …}
///
/// Every item is checked again here: what a command of another version lets pass is refused. Thread: constructor and
/// destructor: main; the handlers on the control thread. Owns: a loop to wait for the datastore on. Must outlive the
/// control server.
#include <memory>

#include "core/module/context.hpp"
#include "core/store/datastore.hpp"

namespace calico::node {

class ResourceControl {
 public:
  /// Registers the handlers.
  ResourceControl(store::Datastore& datastore, module::Control& control);
  ~ResourceControl();
  ResourceControl(const ResourceControl&) = delete;
  ResourceControl& operator=(const ResourceControl&) = delete;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace calico::node
