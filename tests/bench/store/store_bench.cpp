// The datastores side by side on one disk, printed, never asserted: latency of a put alone, throughput of many writers,
// fan-out to watchers, memory. Embedded in process, embedded behind its gateway, real etcd (when installed).
//
//   store_bench [PUTS]      default 1000; TMPDIR says on which disk
#include <fmt/core.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <cstdlib>
#include <fstream>
#include <numeric>

#include "core/log/log.hpp"
#include "tests/support/await.hpp"
#include "tests/support/datastore_backends.hpp"

namespace {

using namespace calico;
using namespace calico::store;
using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point t) { return std::chrono::duration<double, std::milli>(Clock::now() - t).count(); }

struct Spread {
  double p50 = 0, p99 = 0, max = 0;
};
Spread spread(std::vector<double> v) {
  if (v.empty()) return {};
  std::sort(v.begin(), v.end());
  return {v[v.size() / 2], v[v.size() * 99 / 100], v.back()};
}

double rss_mib(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/statm");
  long total = 0;
  long resident = 0;
  in >> total >> resident;
  return static_cast<double>(resident) * static_cast<double>(::sysconf(_SC_PAGESIZE)) / (1 << 20);
}

/// About a WorkloadEndpoint.
std::string value(int i) { return fmt::format("{:06}", i) + std::string(1400, 'x'); }
std::string key(int i) {
  return fmt::format("/calico/resources/v3/projectcalico.org/workloadendpoints/openstack/{:06}", i);
}

awaitable<std::vector<double>> puts(Datastore* ds, int from, int n) {
  std::vector<double> took;
  took.reserve(static_cast<std::size_t>(n));
  for (int i = from; i < from + n; ++i) {
    PutRequest request{.key = key(i), .value = value(i)};
    const auto t = Clock::now();
    auto r = co_await ds->put(std::move(request));
    if (!r) {
      fmt::print("put failed: {}\n", r.error().what);
      break;
    }
    took.push_back(ms_since(t));
  }
  co_return took;
}

/// Time from just before the put to each watcher's event; the value carries the number of the put.
awaitable<std::vector<double>> follow(std::shared_ptr<Watch> w, const std::vector<Clock::time_point>* sent, int n) {
  std::vector<double> took;
  for (int seen = 0; seen < n;) {
    auto batch = co_await w->next();
    if (!batch) {
      fmt::print("watch failed: {}\n", batch.error().what);
      break;
    }
    for (const auto& e : batch->events) {
      took.push_back(ms_since((*sent)[static_cast<std::size_t>(std::stoi(e.kv.value.substr(0, 6)))]));
      ++seen;
    }
  }
  co_return took;
}

void measure(const char* name, test::LoopRunner& runner, test::DatastoreBackend& backend, int n) {
  auto& ds = backend.datastore();
  const double before = rss_mib(backend.pid());

  const auto alone = spread(runner.run(puts(&ds, 0, std::min(n, 500)), "the puts"));
  fmt::print("{:<10} put, one at a time     p50 {:7.2f} ms  p99 {:7.2f} ms  max {:7.2f} ms\n", name, alone.p50,
             alone.p99, alone.max);

  constexpr int kWriters = 50;
  std::vector<std::future<std::vector<double>>> running;
  const auto start = Clock::now();
  for (int w = 0; w < kWriters; ++w) running.push_back(runner.start(puts(&ds, w * (n / kWriters), n / kWriters)));
  std::vector<double> all;
  for (auto& f : running) {
    auto part = f.get();
    all.insert(all.end(), part.begin(), part.end());
  }
  const double total = ms_since(start);
  const auto many = spread(all);
  fmt::print("{:<10} put, {} writers       p50 {:7.2f} ms  p99 {:7.2f} ms  {:.0f} puts/s\n", name, kWriters, many.p50,
             many.p99, static_cast<double>(all.size()) / total * 1000);

  RangeRequest list{.key = "/calico/", .range_end = prefix_end("/calico/")};
  const auto t = Clock::now();
  const auto listed = runner.run(ds.range(list), "the list");
  fmt::print("{:<10} list of {} keys      {:7.2f} ms\n", name, listed ? listed->kvs.size() : 0, ms_since(t));

  for (int watchers : {1, 50}) {
    constexpr int kEvents = 200;
    std::vector<Clock::time_point> sent(kEvents);
    std::vector<std::future<std::vector<double>>> following;
    for (int i = 0; i < watchers; ++i) {
      WatchRequest request{.key = "/fan/", .range_end = prefix_end("/fan/")};
      auto opened = runner.run(ds.watch(request), "a watch");
      if (!opened) {
        fmt::print("watch failed: {}\n", opened.error().what);
        return;
      }
      following.push_back(runner.start(follow(std::shared_ptr<Watch>(std::move(*opened)), &sent, kEvents)));
    }
    auto write = [](Datastore* to, std::vector<Clock::time_point>* stamps) -> awaitable<bool> {
      for (int i = 0; i < kEvents; ++i) {
        PutRequest request{.key = fmt::format("/fan/{}", i % 20), .value = value(i)};
        (*stamps)[static_cast<std::size_t>(i)] = Clock::now();
        auto r = co_await to->put(std::move(request));
        if (!r) co_return false;
      }
      co_return true;
    };
    runner.run(write(&ds, &sent), "the writes");
    std::vector<double> took;
    for (auto& f : following) {
      auto part = f.get();
      took.insert(took.end(), part.begin(), part.end());
    }
    const auto fan = spread(took);
    fmt::print("{:<10} put to event, {:>2} watchers p50 {:7.2f} ms  p99 {:7.2f} ms\n", name, watchers, fan.p50,
               fan.p99);
  }
  fmt::print("{:<10} memory of its process  {:.1f} MiB, {:.1f} before{}\n\n", name, rss_mib(backend.pid()), before,
             backend.pid() == ::getpid() ? " (with the benchmark itself)" : "");
}

}  // namespace

int main(int argc, char** argv) {
  log::init(log::Level::error, log::Format::text);
  const int n = argc > 1 ? std::max(100, std::atoi(argv[1])) : 1000;
  test::LoopRunner runner;
  {
    test::InProcessBackend kv;
    measure("kv", runner, kv, n);
  }
  {
    test::GatewayBackend gateway(runner.loop(), false);
    measure("gateway", runner, gateway, n);
  }
  {
    test::GatewayBackend gateway(runner.loop());
    measure("gateway/tls", runner, gateway, n);
  }
  if (!test::Etcd::installed()) {
    fmt::print("etcd is not installed: not measured\n");
    return 0;
  }
  test::EtcdBackend etcd(runner.loop());
  measure("etcd", runner, etcd, n);
}
