#pragma once
/// The controller at work: the API on its listener, its state in the embedded datastore's file, what agents report fed
/// back. A request is answered when what it changed is on disk: rows and intent in one commit, gathered with those of
/// other requests that wait. Where the cloud's datastore has moved elsewhere, the intent is an outbox beside the rows,
/// and arrives there as soon as that datastore takes it. Requests see each other's changes in the order they came,
/// before that commit; should one be lost (disk full), those that build upon it are refused, the state is read again
/// and clients get 503.
///
///   Service service({.kv = kv, .database = state_dir + "/state.db", .listen = endpoint}, hooks);
///   if (auto s = service.start(); !s) return s;
///   …
///   service.stop();
///
/// Thread: construct, start, stop from one thread; describe and use_tokens from any. Owns: the loop `api`, the state.
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/base/clock.hpp"
#include "core/base/error.hpp"
#include "core/http/message.hpp"
#include "modules/controller/tokens.hpp"

namespace calico::store {
class Datastore;
class Kv;
}  // namespace calico::store

namespace calico::controller {

struct ServiceOptions {
  store::Kv* kv = nullptr;               ///< the embedded datastore of this host
  store::Datastore* remote = nullptr;    ///< the cloud's, when it is elsewhere and `kv` is read-only
  std::string database;                  ///< the file `kv` has open
  std::string region;                    ///< [openstack] region
  std::optional<http::Endpoint> listen;  ///< none: no API, only the cluster's defaults are written
  http::TlsFiles tls;
  std::optional<Tokens> tokens;  ///< none: everybody who reaches the listener is an administrator
  const Clock* clock = nullptr;  ///< nullptr = the system's
};

struct ServiceHooks {
  std::function<void()> ready = [] {};                                  ///< on the api loop, once
  std::function<void(std::string)> status = [](const std::string&) {};  ///< one line
  std::function<void(std::string)> fatal = [](const std::string&) {};   ///< cannot go on
};

class Service {
 public:
  Service(ServiceOptions options, ServiceHooks hooks);
  ~Service();
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  /// Reads the state, binds the listener, starts the loop. Errors: corrupt, those of Db, of http::Server::listen.
  [[nodiscard]] Status start();
  void stop();
  /// Where the API listens, with the real port.
  std::optional<http::Endpoint> endpoint() const;
  void use_tokens(std::optional<Tokens> tokens);
  /// JSON for the control socket: counts of resources, ports by status, agents, requests.
  std::string describe();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace calico::controller
