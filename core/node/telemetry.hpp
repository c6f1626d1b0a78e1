#pragma once
/// What this process tells those who watch it: metrics and health over HTTP, and the watch over its loops.
///
///   Telemetry t;
///   t.allow_beyond_loopback(config.boolean("metrics.insecure"));
///   t.serve("node", {{.at = *config.ip_port("metrics.listen"), .metrics = true}});
///   t.start();
///
/// Paths, GET and HEAD: /metrics (where Listen::metrics), /liveness and /healthz/live, /readiness and /healthz/ready
/// (200 or 503, JSON with the reasons).
///
/// The watch: every kLoopPeriod each loop of the process is asked for a sign of life; how long it took is a histogram,
/// and one that owes its answer for longer than its patience (Health::set_patience, else kPatience) makes the process
/// not live: the supervisor may start it anew, since nothing in it can.
/// Thread: start, stop: main; the rest: any. Owns: the loop "telemetry", sockets, Registry and Health.
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/base/clock.hpp"
#include "core/loop/loop.hpp"
#include "core/metrics/health.hpp"
#include "core/metrics/metrics.hpp"
#include "core/module/context.hpp"

namespace calico::node {

class Telemetry final : public module::Telemetry {
 public:
  struct Timing {
    Duration loop_period = std::chrono::seconds(10);  ///< of signs of life, and of another try to bind
    Duration patience = std::chrono::seconds(30);
  };
  Telemetry();
  explicit Telemetry(Timing timing);
  ~Telemetry() override;

  metrics::Registry& metrics() override { return registry_; }
  metrics::Health& health() override { return health_; }
  void serve(const std::string& owner, std::vector<Listen> places) override;
  void allow_beyond_loopback(bool allow);
  /// A loop without a Loop: the main thread's. Until stop().
  void watch(std::string name, boost::asio::any_io_executor executor);

  void start();
  /// Nobody is answered any more; collectors do not run. Idempotent.
  void stop();
  /// Where it is really listening now, "address:port".
  std::vector<std::string> listening();

 private:
  struct Impl;
  metrics::Registry registry_;
  metrics::Health health_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace calico::node
