#include "core/node/telemetry.hpp"

#include <dirent.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_future.hpp>
#include <cmath>
#include <fstream>
#include <set>
#include <sstream>

#include "core/http/server.hpp"
#include "core/log/log.hpp"
#include "core/loop/task_group.hpp"
#include "core/loop/watch.hpp"

namespace calico::node {
namespace {

using namespace std::chrono_literals;
using Listen = module::Telemetry::Listen;

double seconds(Duration d) { return std::chrono::duration<double>(d).count(); }

/// What client libraries tell of a process, under their names.
void of_process(metrics::Page& page) {
  std::ifstream in("/proc/self/stat");
  std::string text((std::istreambuf_iterator<char>(in)), {});
  // Fields are counted from the end of the name, which may hold anything.
  if (const auto at = text.rfind(')'); at != std::string::npos) {
    std::istringstream fields(text.substr(at + 1));
    std::vector<std::string> f;
    for (std::string word; fields >> word;) f.push_back(word);
    const auto field = [&](std::size_t number) {  // as in proc(5)
      return number - 3 < f.size() ? std::strtod(f[number - 3].c_str(), nullptr) : 0.0;
    };
    const auto ticks = static_cast<double>(::sysconf(_SC_CLK_TCK));
    page.counter("process_cpu_seconds_total", "Time on a processor", (field(14) + field(15)) / ticks);
    page.gauge("process_threads", "Threads", field(20));
    page.gauge("process_virtual_memory_bytes", "Address space", field(23));
    page.gauge("process_resident_memory_bytes", "Memory in use",
               field(24) * static_cast<double>(::sysconf(_SC_PAGESIZE)));
    std::ifstream uptime("/proc/uptime");
    double up = 0;
    if (uptime >> up)
      page.gauge("process_start_time_seconds", "When it started, since 1970",
                 std::round(static_cast<double>(::time(nullptr)) - up + field(22) / ticks));
  }
  if (auto* dir = ::opendir("/proc/self/fd")) {
    int n = -3;  // ".", "..", this one
    while (::readdir(dir)) ++n;
    ::closedir(dir);
    page.gauge("process_open_fds", "Open descriptors", n);
  }
  page.gauge("calico_node_info", "Always 1", 1, {{"version", CALICO_VERSION}});
}

http::Response health_response(const metrics::Health::Answer& a) {
  return http::Response::json(a.ok ? 200 : 503, a.json);
}

}  // namespace

struct Telemetry::Impl {
  Impl(Telemetry& t, Timing tm) : owner(t), timing(tm) {}

  // ---- places ----

  /// One listener with a server of its own: they come and go one by one.
  struct Place {
    std::unique_ptr<http::Server> server;
    std::shared_ptr<std::atomic<bool>> metrics = std::make_shared<std::atomic<bool>>(false);
  };

  http::Response answer(const http::Request& r, bool with_metrics) {
    if (r.method != "GET" && r.method != "HEAD") return http::Response::text(405, "only GET and HEAD\n");
    if (r.path == "/liveness" || r.path == "/healthz/live") {
      look_at_loops();
      return health_response(owner.health_.liveness());
    }
    if (r.path == "/readiness" || r.path == "/healthz/ready") {
      look_at_loops();
      return health_response(owner.health_.readiness());
    }
    if (r.path == "/metrics" && with_metrics) {
      auto response = http::Response::text(200, owner.registry_.text());
      response.headers.set("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
      return response;
    }
    return http::Response::text(
        404, with_metrics ? "there is: /metrics, /liveness, /readiness\n" : "there is: /liveness, /readiness\n");
  }

  /// What is wanted, by address. Two owners may want the same.
  std::map<config::IpPort, bool> wanted() {
    std::lock_guard lock(mutex);
    std::map<config::IpPort, bool> out;
    for (const auto& [name, places_of] : asked)
      for (const auto& l : places_of) {
        if (!l.at.ip.is_loopback() && !beyond_loopback) {
          if (told.insert(l.at.to_string() + " refused").second)
            log::warn("telemetry.not_served", "at", l.at.to_string(), "for", name, "why", "it is not loopback",
                      "action", "set [metrics] insecure = yes, or another address");
          continue;
        }
        out[l.at] = out[l.at] || l.metrics;
      }
    return out;
  }

  /// One at a time: it stops servers, which takes a while.
  awaitable<void> settle_places() {
    again = true;
    if (settling) co_return;
    settling = true;
    while (std::exchange(again, false)) {
      const auto want = wanted();
      for (auto it = places.begin(); it != places.end();) {
        if (want.contains(it->first)) {
          ++it;
          continue;
        }
        auto gone = std::move(it->second);
        log::info("telemetry.closed", "at", it->first.to_string());
        it = places.erase(it);
        co_await gone.server->stop();
      }
      for (const auto& [at, with_metrics] : want) {
        if (const auto it = places.find(at); it != places.end()) {
          it->second.metrics->store(with_metrics);
          continue;
        }
        listen(at, with_metrics);
      }
    }
    settling = false;
  }

  void listen(const config::IpPort& at, bool with_metrics) {
    Place p;
    p.metrics->store(with_metrics);
    http::ServerOptions options{.name = "telemetry", .header_bytes = 8192, .body_bytes = 1024, .max_connections = 32};
    p.server = std::make_unique<http::Server>(
        loop.executor(), std::move(options),
        [this, flag = p.metrics](http::Request r) -> awaitable<http::Response> { co_return answer(r, flag->load()); });
    http::Endpoint endpoint;
    endpoint.host = at.ip.to_string();
    endpoint.port = at.port;
    const auto name = at.to_string();
    if (auto ok = p.server->listen({.at = endpoint, .tls = {}}); !ok) {
      // An agent that can be seen less is better than none: it goes on, and tries again.
      std::lock_guard lock(mutex);
      if (told.insert(name).second)
        log::warn("telemetry.not_served", "at", name, "why", ok.error().what, "action", "trying again");
      return;
    }
    p.server->start();
    {
      std::lock_guard lock(mutex);
      told.erase(name);
    }
    log::info("telemetry.served", "at", p.server->endpoints().at(0).to_string(), "metrics", with_metrics);
    places.emplace(at, std::move(p));
  }

  // ---- loops ----

  struct Probe {
    TimePoint asked;
    bool stuck = false;    ///< said
    bool counted = false;  ///< the answer's delay is in the histogram
    std::shared_ptr<std::atomic<std::int64_t>> took = std::make_shared<std::atomic<std::int64_t>>(-1);  // ns
  };

  void ask(const std::string& name, const boost::asio::any_io_executor& executor) {
    auto it = probes.find(name);
    if (it != probes.end() && it->second.took->load() < 0) return;  // it owes an answer
    auto& p = probes[name];
    if (std::exchange(p.stuck, false)) log::info("loop.answers", "loop", name);
    p.counted = false;
    p.asked = std::chrono::steady_clock::now();
    p.took = std::make_shared<std::atomic<std::int64_t>>(-1);
    boost::asio::post(executor, [took = p.took, asked = p.asked] {
      took->store(std::max<std::int64_t>(0, (std::chrono::steady_clock::now() - asked).count()));
    });
  }

  /// Who owes an answer for too long. Asks nobody.
  void look_at_loops() {
    const auto now = std::chrono::steady_clock::now();
    for (auto& [name, p] : probes) {
      const auto component = "loop " + name;
      const auto owes = now - p.asked;
      const auto patience = owner.health_.patience(name).value_or(timing.patience);
      if (p.took->load() >= 0 || owes < patience) {
        owner.health_.set(component, {});
        continue;
      }
      owner.health_.set(
          component,
          {.live = false, .ready = false, .detail = fmt::format("no sign of life for {:.1f} s", seconds(owes))});
      if (!std::exchange(p.stuck, true))
        log::error("loop.stuck", "loop", name, "seconds", fmt::format("{:.1f}", seconds(owes)), "action",
                   "restart the service and report it");
    }
  }

  void ask_loops() {
    for (auto& [name, p] : probes)
      if (const auto took = p.took->load(); took >= 0 && !std::exchange(p.counted, true))
        delay(name).observe(static_cast<double>(took) / 1e9);
    look_at_loops();
    std::set<std::string> there;
    {
      std::lock_guard lock(mutex);
      for (const auto& [name, executor] : extra) {
        there.insert(name);
        ask(name, executor);
      }
    }
    // Asked inside: outside a loop may be gone.
    std::map<std::string, int> same;
    each_loop([&](Loop& l) {
      if (&l == &loop) return;
      const int n = ++same[l.name()];
      const auto name = n == 1 ? l.name() : fmt::format("{} {}", l.name(), n);
      there.insert(name);
      ask(name, l.executor());
    });
    for (auto it = probes.begin(); it != probes.end();) {
      if (there.contains(it->first)) {
        ++it;
        continue;
      }
      owner.health_.remove("loop " + it->first);
      it = probes.erase(it);
    }
  }

  metrics::Histogram& delay(const std::string& loop_name) {
    return owner.registry_.histogram("calico_node_loop_delay_seconds",
                                     "How long a loop of the process took for a sign of life, sampled",
                                     metrics::seconds_buckets(), {{"loop", loop_name}});
  }

  awaitable<void> tick() {
    bool going = true;
    while (going) {
      ask_loops();
      co_await settle_places();
      const auto pause = timing.loop_period;
      going = co_await sleep_for(pause);
    }
  }

  Telemetry& owner;
  const Timing timing;
  Loop loop{"telemetry"};
  std::optional<TaskGroup> tasks;
  bool running = false;  // main thread

  std::mutex mutex;  // of what follows
  std::map<std::string, std::vector<Listen>> asked;
  bool beyond_loopback = false;
  std::map<std::string, boost::asio::any_io_executor> extra;
  std::set<std::string> told;  // what was logged of a place

  // Loop:
  std::map<config::IpPort, Place> places;
  bool settling = false, again = false;
  std::map<std::string, Probe> probes;
};

Telemetry::Telemetry() : Telemetry(Timing{}) {}
Telemetry::Telemetry(Timing timing) : impl_(std::make_unique<Impl>(*this, timing)) {}
Telemetry::~Telemetry() { stop(); }

void Telemetry::serve(const std::string& name, std::vector<Listen> places) {
  {
    std::lock_guard lock(impl_->mutex);
    auto& now = impl_->asked[name];
    if (now == places) return;
    now = std::move(places);
    impl_->told.clear();
  }
  impl_->loop.post([i = impl_.get()] {
    if (i->tasks) i->tasks->spawn("places", [i] { return i->settle_places(); });
  });
}

void Telemetry::allow_beyond_loopback(bool allow) {
  {
    std::lock_guard lock(impl_->mutex);
    if (std::exchange(impl_->beyond_loopback, allow) == allow) return;
    impl_->told.clear();
  }
  impl_->loop.post([i = impl_.get()] {
    if (i->tasks) i->tasks->spawn("places", [i] { return i->settle_places(); });
  });
}

void Telemetry::watch(std::string name, boost::asio::any_io_executor executor) {
  std::lock_guard lock(impl_->mutex);
  impl_->extra.insert_or_assign(std::move(name), std::move(executor));
}

void Telemetry::start() {
  registry_.collect("process", of_process);
  impl_->loop.start();
  impl_->running = true;
  impl_->loop.call([i = impl_.get()] {
    i->tasks.emplace(i->loop.executor(), "telemetry");
    i->tasks->spawn("tick", [i] { return i->tick(); });
  });
}

void Telemetry::stop() {
  if (!std::exchange(impl_->running, false)) return;
  auto end = [i = impl_.get()]() -> awaitable<void> {
    i->tasks->cancel();
    co_await i->tasks->join();
    for (auto& [at, p] : i->places) co_await p.server->stop();
    i->places.clear();
    i->tasks.reset();
  };
  boost::asio::co_spawn(impl_->loop.executor(), end, boost::asio::use_future).get();
  impl_->loop.stop();
}

std::vector<std::string> Telemetry::listening() {
  if (!impl_->running) return {};
  return impl_->loop.call([i = impl_.get()] {
    std::vector<std::string> out;
    for (const auto& [at, p] : i->places)
      out.push_back(config::IpPort{at.ip, p.server->endpoints().at(0).port}.to_string());
    return out;
  });
}

}  // namespace calico::node
