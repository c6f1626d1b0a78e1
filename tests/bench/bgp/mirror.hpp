#pragma once
/// The "daemon" of the self-test: a reflector that decides nothing. It has every announcement encoded before the first
/// client comes, waits until each sender has ended its RIB, and writes to every client what belongs to it. Beside it
/// the generator shows its own floor, and the mirror what the kernel asks for moving the bytes.
///
///   bgp_bench mirror SHAPE SENDERS RECEIVERS PER_SENDER SPARE COUNTED
#include "tests/bench/bgp/workload.hpp"

namespace calico::bench {

/// Serves until it is killed. Errors: std::runtime_error when it cannot listen.
[[noreturn]] void run_mirror(const Plan& plan);

}  // namespace calico::bench
