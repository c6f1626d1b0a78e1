// Sync over the embedded datastore in process, printed, never asserted: first list, start from the mirror, resume, the
// way of one change from put to a watcher, reports, memory.
//
//   sync_bench [ENDPOINTS]      default 10000; TMPDIR says on which disk
#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <semaphore>

#include "tests/unit/sync/backends.hpp"

namespace {

using namespace calico;
using Steady = std::chrono::steady_clock;

double ms_since(Steady::time_point t) { return std::chrono::duration<double, std::milli>(Steady::now() - t).count(); }

double rss_mib() {
  std::ifstream in("/proc/self/statm");
  long total = 0, resident = 0;
  in >> total >> resident;
  return static_cast<double>(resident) * static_cast<double>(::sysconf(_SC_PAGESIZE)) / (1 << 20);
}

std::string value(int i) { return fmt::format("{:06}", i) + std::string(1400, 'x'); }

void fill(test::Client& client, store::Datastore& ds, int n) {
  for (int at = 0; at < n; at += 128) {
    auto done = client.wait<Result<store::TxnResult>>([&]() -> awaitable<Result<store::TxnResult>> {
      store::TxnRequest txn;
      for (int i = at; i < std::min(n, at + 128); ++i) {
        store::PutRequest put;
        put.key = test::endpoint_key(fmt::format("host-{:04}", i / 10), i);
        put.value = value(i);
        txn.success.emplace_back(std::move(put));
      }
      auto r = co_await ds.txn(std::move(txn));
      co_return r;
    });
    if (!done) throw std::runtime_error(done.error().what);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int n = argc > 1 ? std::atoi(argv[1]) : 10000;
  test::TempDir dir("sync-bench");
  test::KvBackend kv;
  test::Client client(kv.datastore());
  client.put(test::kInfoKey, test::info());
  fill(client, *kv.datastore(), n);

  const auto open = [&] {
    sync::Options o;
    o.datastore = kv.datastore();
    o.mirror_file = dir.file("state.db");
    o.node = "host-0001";
    auto s = sync::Service::open(std::move(o));
    if (!s) throw std::runtime_error(s.error().what);
    return std::move(*s);
  };
  const auto in_sync = [](sync::Service& s) {
    while (s.view().state().phase != sync::Phase::in_sync) std::this_thread::sleep_for(std::chrono::microseconds(100));
  };

  const double before = rss_mib();
  auto t = Steady::now();
  auto service = open();
  service->start();
  in_sync(*service);
  fmt::print("{} endpoints of 1.4 kB\n", n);
  fmt::print("first list to in sync         {:8.1f} ms, {:.1f} MiB\n", ms_since(t), rss_mib() - before);
  t = Steady::now();
  service.reset();
  fmt::print("stop, mirror on disk          {:8.1f} ms, file {:.1f} MiB\n", ms_since(t),
             static_cast<double>(std::filesystem::file_size(dir.file("state.db"))) / (1 << 20));
  t = Steady::now();
  service = open();
  fmt::print("content usable after a start  {:8.1f} ms\n", ms_since(t));
  service->start();
  in_sync(*service);
  fmt::print("resumed, in sync              {:8.1f} ms\n", ms_since(t));

  Loop watcher("watcher");
  watcher.start();
  std::counting_semaphore<> arrived(0);
  auto sub =
      service->view().watch({std::string(model::kWorkloadEndpoints)}, watcher.executor(), [&](const sync::Batch& b) {
        if (b.updates.size() == 1) arrived.release();
      });
  std::vector<double> took;
  for (int i = 0; i < 500; ++i) {
    t = Steady::now();
    client.put(test::endpoint_key("host-0001", 10), fmt::format("change {}", i));
    arrived.acquire();
    took.push_back(ms_since(t));
  }
  std::sort(took.begin(), took.end());
  fmt::print("put to watcher, disk included {:8.3f} ms p50, {:.3f} ms p99\n", took[took.size() / 2],
             took[took.size() * 99 / 100]);

  t = Steady::now();
  for (int i = 0; i < 1000; ++i)
    service->report().set(fmt::format("/calico/felix/v2/no-region/host/host-0001/workload/{:04}", i),
                          R"({"status":"up"})");
  while (service->status().reports_pending > 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
  fmt::print("1000 reports written          {:8.1f} ms\n", ms_since(t));
  sub.reset();
  watcher.stop();
  service.reset();
  return 0;
}
