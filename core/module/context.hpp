#pragma once
/// All that a module may reach: no globals, so that a test builds a module with a Context of fakes. The real one is
/// made in core/node; everything returned by reference outlives the module.
#include <boost/asio/awaitable.hpp>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/config/config.hpp"

namespace calico::sync {
class Report;
class Service;
class View;
}  // namespace calico::sync
namespace calico::store {
class Datastore;
class Kv;
}  // namespace calico::store
namespace calico::bgp {
class Speaker;
}
namespace calico::metrics {
class Health;
class Registry;
}  // namespace calico::metrics

namespace calico::module {

struct ControlRequest {
  std::string path;
  std::map<std::string, std::string> query;
  std::string body;
};
struct ControlReply {
  int status = 200;
  std::string json;                       ///< one document; errors: {"error": "one line"}
  std::string type = "application/json";  ///< metrics are text
};
/// Runs on the control thread, one at a time; may wait for a loop (Loop::call) but not for the network beyond 10 s.
using ControlHandler = std::function<ControlReply(const ControlRequest&)>;
/// Sends whole lines; false when nobody listens any more.
using ControlWrite = std::function<boost::asio::awaitable<bool>(std::string)>;
/// Lines for as long as somebody listens; on the control loop, which it must not block. Canceled when he goes.
using ControlStream = std::function<boost::asio::awaitable<void>(ControlRequest, ControlWrite)>;

/// The operator's socket `<run_dir>/control.ctl` (mode 0600): HTTP over a unix socket, JSON answers.
class Control {
 public:
  virtual ~Control() = default;
  /// `route` is "GET /felix/endpoints". Handlers stay until the process ends; register before start() returns.
  virtual void handle(std::string route, ControlHandler handler) = 0;
  virtual void stream(std::string /*route*/, ControlStream /*handler*/) {}
};

/// What the process tells of itself to those who watch it: served at [metrics] listen and where modules ask for it.
/// Thread: any.
class Telemetry {
 public:
  virtual ~Telemetry() = default;
  virtual metrics::Registry& metrics() = 0;
  virtual metrics::Health& health() = 0;
  struct Listen {
    config::IpPort at;
    bool metrics = false;  ///< health is served at every place, metrics only where this says so
    bool operator==(const Listen&) const = default;
  };
  /// The places `owner`'s configuration asks for, instead of those it asked for before. What cannot be bound is logged
  /// and tried again; what is not loopback is refused, logged, unless [metrics] insecure allows it.
  virtual void serve(const std::string& owner, std::vector<Listen> places) = 0;
};

/// Thread: any, except where said.
class Context {
 public:
  virtual ~Context() = default;

  virtual const std::string& node_name() const = 0;
  virtual const std::string& state_dir() const = 0;
  virtual const std::string& run_dir() const = 0;
  /// Roles this process runs ("compute", "route-reflector", …).
  virtual const std::vector<std::string>& roles() const = 0;
  virtual const config::Config& config() const = 0;

  virtual sync::View& view() = 0;
  virtual sync::Report& report() = 0;
  /// The datastore itself, embedded or remote; for the controller and for operators' commands.
  virtual store::Datastore& datastore() = 0;
  /// The embedded datastore; nullptr unless this process holds it (role controller without [datastore] endpoints) and
  /// it is the cloud's.
  virtual store::Kv* kv() = 0;
  /// The same, also when the cloud has left it for another datastore and it is read-only: SQL of this host's own tables
  /// goes on in it.
  virtual store::Kv* embedded() { return kv(); }
  /// The host's one BGP engine with its kernel side; made at the first call (compute and route-reflector share it).
  virtual bgp::Speaker& speaker() = 0;
  virtual Control& control() = 0;
  virtual Telemetry& telemetry() = 0;

  /// This module's last known state is programmed, or it waits and says why. READY=1 goes out when all modules said so.
  virtual void ready(std::string_view module) = 0;
  /// One line for STATUS= and `diag`; replaces the module's former line.
  virtual void status(std::string_view module, std::string line) = 0;
  /// Something the process cannot go on without has failed: stop orderly and exit 3.
  virtual void fatal(std::string_view module, std::string reason) = 0;
  /// Why create() returned nullptr.
  virtual void fail_create(std::string reason) = 0;
};

}  // namespace calico::module
