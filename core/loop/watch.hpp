#pragma once
/// The loops that run in this process, for who asks them whether they still answer.
///
///   each_loop([](Loop& l) { l.post([] { ... }); });
///
/// Thread: any. `f` must not start or stop a loop: those wait meanwhile.
#include <functional>

#include "core/loop/loop.hpp"

namespace calico {

/// In the order they were started; only those that are started and not being stopped.
void each_loop(const std::function<void(Loop&)>& f);

}  // namespace calico
