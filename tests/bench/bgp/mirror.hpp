#pragma once
/// The "daemon" of the self-test: a reflector that decides nothing. It has every announcement encoded before the first
/// client comes, waits until each sender has ended its RIB, and writes to every client what belongs to it. Beside it
/// the generator shows its own floor, and the mirror what the kernel asks for moving the bytes.
///
///   bgp_bench mirror SHAPE SENDERS RECEIVERS PER_SENDER SPARE COUNTED DAMAGE
///
/// With damage it lies, for the tests of the generator's checks: in what it reflects of sender 0 the attribute of that
/// type (1-99) is changed, or see Damage.
#include "tests/bench/bgp/workload.hpp"

namespace calico::bench {

enum Damage : int { kNoDamage = 0, kWrongPrefix = 100, kLostMessage = 101, kBadMarker = 102 };

/// Serves until it is killed. Errors: std::runtime_error when it cannot listen.
[[noreturn]] void run_mirror(const Plan& plan, int damage);

}  // namespace calico::bench
