// The embedded datastore beside etcd, on one disk, both over the JSON gateway with keep-alive and plain HTTP: puts with
// 1 and 64 clients, a snapshot, the way of a change to 1, 100 and 1,000 watchers, CPU, memory and flushes to the disk
// of the server. Printed, never asserted. How etcd does over gRPC is measured beside when python3-grpcio is installed.
//
//   store_bench [--runs N] [--keys N]     defaults: 3 (medians), 100000; TMPDIR says on which disk
#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <utility>

#include "tests/bench/store/load.hpp"
#include "tests/bench/store/servers.hpp"

namespace calico::bench {
namespace {

constexpr std::size_t kAlone = 1000, kMany = 20000, kClients = 64, kTxnPuts = 128;

struct Options {
  int runs = 3;
  std::size_t keys = 100000;
};

/// About a WorkloadEndpoint.
std::string value(std::size_t i) { return fmt::format("{:06}", i) + std::string(1400, 'x'); }
std::string key(std::string_view below, std::size_t i) { return fmt::format("/calico/{}/{:06}", below, i); }

double at(std::vector<double> v, double share) {
  if (v.empty()) return 0;
  std::sort(v.begin(), v.end());
  return v[std::min(v.size() - 1, static_cast<std::size_t>(share * static_cast<double>(v.size())))];
}

/// Of one run: figures by name, in the order of their making.
struct Figures {
  std::vector<std::pair<std::string, double>> all;
  void add(std::string name, double v) { all.emplace_back(std::move(name), v); }
};

/// Adds what the server spent since its making.
class Spent {
 public:
  explicit Spent(const Server& s) : server_(s), cpu_(s.cpu_seconds()), syncs_(s.syncs()) {}
  void tell(Figures& f, const std::string& what, bool syncs = false) {
    f.add(what + ": server CPU s", server_.cpu_seconds() - cpu_);
    if (syncs) f.add(what + ": flushes", static_cast<double>(server_.syncs() - syncs_));
  }

 private:
  const Server& server_;
  double cpu_;
  std::uint64_t syncs_;
};

void measure_puts(const Server& s, Figures& f, std::size_t clients, std::size_t total) {
  const auto what = fmt::format("{} puts, {} client{}", total, clients, clients == 1 ? "" : "s");
  Spent spent(s);
  const auto took = closed_loop(s.port(), clients, total, [&](std::size_t i) {
    return post("kv/put", put_json(key(fmt::format("puts-{}", clients), i), value(i)));
  });
  f.add(what + ": puts/s", static_cast<double>(total) / took.wall_s);
  f.add(what + ": p50 ms", at(took.ms, 0.5));
  f.add(what + ": p99 ms", at(took.ms, 0.99));
  spent.tell(f, what, true);
}

void measure_snapshot(const Server& s, Figures& f, std::size_t keys) {
  {
    Spent spent(s);
    const std::size_t txns = (keys + kTxnPuts - 1) / kTxnPuts;
    const auto took = closed_loop(s.port(), 4, txns, [&](std::size_t t) {
      std::string ops;
      for (std::size_t i = t * kTxnPuts; i < std::min(keys, (t + 1) * kTxnPuts); ++i)
        ops += fmt::format(R"({}{{"request_put":{}}})", ops.empty() ? "" : ",", put_json(key("snap", i), value(i)));
      return post("kv/txn", fmt::format(R"({{"success":[{}]}})", ops));
    });
    f.add(fmt::format("{} keys put by {}, 4 clients: s", keys, kTxnPuts), took.wall_s);
    spent.tell(f, fmt::format("{} keys put by {}, 4 clients", keys, kTxnPuts), true);
  }
  Spent spent(s);
  const auto got = snapshot(s.port(), "/calico/snap/");
  if (got.keys != keys) throw std::runtime_error(fmt::format("the snapshot has {} keys of {}", got.keys, keys));
  f.add(fmt::format("snapshot of {} keys in pages: s", keys), got.wall_s);
  spent.tell(f, fmt::format("snapshot of {} keys in pages", keys));
}

void measure_watch(const Server& s, Figures& f, std::size_t count, std::size_t events) {
  const auto prefix = fmt::format("fan-{}", count);
  const auto what = fmt::format("put to event, {} watcher{}", count, count == 1 ? "" : "s");
  const double before = s.rss_mb();
  Watchers watchers(s.port(), count, fmt::format("/calico/{}/", prefix));
  Connection writer(s.port());
  Spent spent(s);
  bool waiting = false;
  const auto seen = watchers.follow(events, [&](std::size_t i) {
    if (std::exchange(waiting, true)) (void)writer.answer();
    writer.send(post("kv/put", put_json(key(prefix, i % 20), value(i))));
  });
  (void)writer.answer();
  f.add(what + ": p50 ms", at(seen.ms, 0.5));
  f.add(what + ": p99 ms", at(seen.ms, 0.99));
  if (count > 1) f.add(what + ": all have it, p50 ms", at(seen.last_ms, 0.5));
  spent.tell(f, what);
  if (count >= 1000) f.add(what + ": memory for them MB", s.rss_mb() - before);
}

Figures measure(Server& s, const Options& o) {
  Figures f;
  f.add("idle memory MB", s.rss_mb());
  measure_puts(s, f, 1, kAlone);
  measure_puts(s, f, kClients, kMany);
  measure_watch(s, f, 1, 500);
  measure_watch(s, f, 100, 200);
  measure_watch(s, f, 1000, 50);
  measure_snapshot(s, f, o.keys);
  f.add("peak memory MB", s.peak_mb());
  return f;
}

/// Name and runs of each server; the first is compared with the last.
using Runs = std::vector<std::pair<std::string, std::vector<Figures>>>;

void print_table(const Runs& runs) {
  fmt::print("| figure |");
  for (const auto& [name, list] : runs) fmt::print(" {} |", name);
  fmt::print(" {} / {} |\n|---|", runs.back().first, runs.front().first);
  for (std::size_t i = 0; i <= runs.size(); ++i) fmt::print("---|");
  fmt::print("\n");
  for (std::size_t i = 0; i < runs.front().second.front().all.size(); ++i) {
    fmt::print("| {} |", runs.front().second.front().all[i].first);
    std::vector<double> medians;
    for (const auto& [name, list] : runs) {
      std::vector<double> v;
      for (const auto& f : list) v.push_back(f.all[i].second);
      std::sort(v.begin(), v.end());
      medians.push_back(v[v.size() / 2]);
      if (v.size() > 1)
        fmt::print(" {:.4g} ({:.4g}-{:.4g}) |", medians.back(), v.front(), v.back());
      else
        fmt::print(" {:.4g} |", medians.back());
    }
    fmt::print(" {:.2f} |\n", medians.front() > 0 ? medians.back() / medians.front() : 0);
  }
}

void measure_grpc(const char* name, const Server& s) {
  const auto command = fmt::format("/usr/bin/python3 {}/tests/bench/store/etcd_grpc.py {} {} {} {}", CALICO_SOURCE_DIR,
                                   s.port(), kAlone, kClients, kMany / 4);
  fmt::print("\n{} over gRPC:\n", name);
  std::fflush(stdout);
  if (std::system(command.c_str()) != 0) fmt::print("not measured\n");
}

int run(const Options& o) {
  Runs runs{{"ours", {}}};
  for (int i = 0; i < o.runs; ++i) {
    {
      auto ours = start_ours();
      runs[0].second.push_back(measure(*ours, o));
    }
    auto etcd = start_etcd();
    if (!etcd) continue;
    if (runs.size() == 1) runs.push_back({"etcd", {}});
    runs[1].second.push_back(measure(*etcd, o));
  }
  print_table(runs);
  if (auto etcd = start_etcd())
    measure_grpc("etcd", *etcd);
  else
    fmt::print("etcd is not installed: not measured\n");
  return 0;
}

}  // namespace
}  // namespace calico::bench

int main(int argc, char** argv) {
  using namespace calico::bench;
  if (argc > 2 && std::strcmp(argv[1], "--serve") == 0) return serve_main(argc, argv);
  Options o;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--runs") == 0) o.runs = std::max(1, std::atoi(argv[i + 1]));
    if (std::strcmp(argv[i], "--keys") == 0) o.keys = static_cast<std::size_t>(std::max(1, std::atoi(argv[i + 1])));
  }
  try {
    raise_descriptors();
    return run(o);
  } catch (const std::exception& e) {
    fmt::print(stderr, "store_bench: {}\n", e.what());
    return 1;
  }
}
