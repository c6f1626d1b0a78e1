#pragma once
/// Frames sent by one processor are handled in order.
#include <sched.h>

namespace calico::test {

/// Keeps the calling thread on one processor, so that frames stay in order; the former set comes back.
class OneProcessor {
 public:
  OneProcessor() {
    sched_getaffinity(0, sizeof former_, &former_);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(sched_getcpu()), &one);
    sched_setaffinity(0, sizeof one, &one);
  }
  OneProcessor(const OneProcessor&) = delete;
  OneProcessor& operator=(const OneProcessor&) = delete;
  ~OneProcessor() { sched_setaffinity(0, sizeof former_, &former_); }

 private:
  cpu_set_t former_{};
};

}  // namespace calico::test
