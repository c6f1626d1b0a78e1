#pragma once
/// Time of the tests' own.
#include <atomic>

#include "core/base/clock.hpp"

namespace calico::test {

class MovableClock final : public Clock {
 public:
  explicit MovableClock(Duration from_now = {}) : offset_(from_now) {}
  TimePoint now() const override { return std::chrono::steady_clock::now() + offset_.load(); }
  WallTime wall() const override {
    return std::chrono::system_clock::now() + std::chrono::duration_cast<WallTime::duration>(offset_.load());
  }
  /// Against the system's.
  void set(Duration from_now) { offset_ = from_now; }

 private:
  std::atomic<Duration> offset_;
};

}  // namespace calico::test
