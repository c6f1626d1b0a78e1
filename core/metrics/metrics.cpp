#include "core/metrics/metrics.hpp"

#include <algorithm>

namespace calico::metrics {

Histogram::Histogram(std::vector<double> bounds) : bounds_(std::move(bounds)) {
  std::sort(bounds_.begin(), bounds_.end());
  bounds_.erase(std::unique(bounds_.begin(), bounds_.end()), bounds_.end());
  if (bounds_.size() > kMaxBounds) bounds_.resize(kMaxBounds);
}

void Histogram::observe(double v) {
  std::size_t i = 0;
  while (i < bounds_.size() && v > bounds_[i]) ++i;
  counts_[i].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(v, std::memory_order_relaxed);
}

std::uint64_t Histogram::count() const {
  std::uint64_t n = 0;
  for (const auto& c : counts_) n += c.load(std::memory_order_relaxed);
  return n;
}

std::vector<double> seconds_buckets() {
  return {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10};
}

template <class T, class... Args>
T& Registry::of(std::deque<Kept<T>>& all, std::string name, std::string help, Labels labels, Args&&... args) {
  std::lock_guard lock(mutex_);
  std::size_t series = 0;
  const auto known = [&]() -> T* {
    for (auto& k : all)
      if (k.name == name && k.labels == labels) return &k.value;
    return nullptr;
  };
  if (auto* t = known()) return *t;
  for (const auto& k : all) series += k.name == name;
  // A label from outside must not fill the memory: the last series stands for all that come later.
  if (series + 1 >= kMaxSeries) {
    for (auto& [label, value] : labels) value = "other";
    if (auto* t = known()) return *t;
  }
  return all.emplace_back(std::move(name), std::move(help), std::move(labels), std::forward<Args>(args)...).value;
}

Counter& Registry::counter(std::string name, std::string help, Labels labels) {
  return of(counters_, std::move(name), std::move(help), std::move(labels));
}

Gauge& Registry::gauge(std::string name, std::string help, Labels labels) {
  return of(gauges_, std::move(name), std::move(help), std::move(labels));
}

Histogram& Registry::histogram(std::string name, std::string help, std::vector<double> bounds, Labels labels) {
  return of(histograms_, std::move(name), std::move(help), std::move(labels), std::move(bounds));
}

void Registry::collect(std::string owner, std::function<void(Page&)> f) {
  std::lock_guard lock(collecting_);
  collectors_[std::move(owner)] = std::move(f);
}

void Registry::forget(std::string_view owner) {
  std::lock_guard lock(collecting_);
  if (const auto it = collectors_.find(owner); it != collectors_.end()) collectors_.erase(it);
}

std::string Registry::text() {
  Page page;
  {
    std::lock_guard lock(mutex_);
    for (const auto& c : counters_) page.counter(c.name, c.help, static_cast<double>(c.value.value()), c.labels);
    for (const auto& g : gauges_) page.gauge(g.name, g.help, g.value.value(), g.labels);
    for (const auto& h : histograms_) {
      std::vector<std::uint64_t> counts;
      for (std::size_t i = 0; i <= h.value.bounds_.size(); ++i)
        counts.push_back(h.value.counts_[i].load(std::memory_order_relaxed));
      page.histogram(h.name, h.help, h.value.bounds_, counts, h.value.sum_.load(std::memory_order_relaxed), h.labels);
    }
  }
  std::lock_guard lock(collecting_);
  for (const auto& [owner, f] : collectors_) f(page);
  return page.text();
}

}  // namespace calico::metrics
