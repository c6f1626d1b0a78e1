#pragma once
/// What a process counts. An instrument is asked for once and kept as a reference; counting is one relaxed atomic
/// operation. What is counted elsewhere anyway is read at the scrape by a collector.
///
///   auto& failures = registry.counter("felix_int_dataplane_failures", "Changes the kernel did not take");
///   failures.add();
///   registry.collect("store", [&kv](Page& page) { page.gauge("calico_store_keys", "Keys", kv.stats().keys); });
///   registry.forget("store");          // before kv goes
///   answer(registry.text());
///
/// Thread: any. Instruments live as long as the Registry; asking for one again gives the same. A collector runs on the
/// thread that asks for text(), may wait for a loop a second at most, and must not use the Registry.
#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "core/metrics/page.hpp"

namespace calico::metrics {

class Counter {
 public:
  void add(std::uint64_t n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
  std::uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

class Gauge {
 public:
  void set(double v) { value_.store(v, std::memory_order_relaxed); }
  double value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<double> value_{0};
};

/// Fixed buckets, at most kMaxBounds of them, ascending.
class Histogram {
 public:
  static constexpr std::size_t kMaxBounds = 24;
  explicit Histogram(std::vector<double> bounds);
  void observe(double v);
  std::uint64_t count() const;

 private:
  friend class Registry;
  std::vector<double> bounds_;
  std::array<std::atomic<std::uint64_t>, kMaxBounds + 1> counts_{};
  std::atomic<double> sum_{0};
};

/// 0.1 ms … 10 s, with 5 ms among them: what a loop's turn should stay below.
[[nodiscard]] std::vector<double> seconds_buckets();

class Registry {
 public:
  Counter& counter(std::string name, std::string help, Labels labels = {});
  Gauge& gauge(std::string name, std::string help, Labels labels = {});
  Histogram& histogram(std::string name, std::string help, std::vector<double> bounds, Labels labels = {});

  /// One collector an owner; a second one replaces it.
  void collect(std::string owner, std::function<void(Page&)> f);
  /// Returns when it does not run any more.
  void forget(std::string_view owner);

  std::string text();

 private:
  template <class T>
  struct Kept {
    std::string name, help;
    Labels labels;
    T value;
    template <class... Args>
    Kept(std::string n, std::string h, Labels l, Args&&... args)
        : name(std::move(n)), help(std::move(h)), labels(std::move(l)), value(std::forward<Args>(args)...) {}
  };
  template <class T, class... Args>
  T& of(std::deque<Kept<T>>& all, std::string name, std::string help, Labels labels, Args&&... args);

  std::mutex mutex_;  // of the instruments
  std::deque<Kept<Counter>> counters_;
  std::deque<Kept<Gauge>> gauges_;
  std::deque<Kept<Histogram>> histograms_;
  std::mutex collecting_;  // held while collectors run
  std::map<std::string, std::function<void(Page&)>, std::less<>> collectors_;
};

}  // namespace calico::metrics
