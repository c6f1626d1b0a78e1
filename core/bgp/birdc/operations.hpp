#pragma once
/// The commands of birdc that change something, done on an engine and answered with BIRD's codes (README.md has the
/// table). Thread: loop. Errors: become lines of the answer.
#include <optional>
#include <vector>

#include "core/bgp/birdc/command.hpp"
#include "core/bgp/birdc/format.hpp"
#include "core/bgp/engine.hpp"

namespace calico::bgp::birdc {

/// The peers `command` is about, or nullopt: there is none and `out` has the whole answer.
[[nodiscard]] std::optional<std::vector<PeerStatus>> operands(Reply& out, const Shape& shape, const Engine& engine,
                                                              const Operate& command, bool kernel);
/// Does it to one of them and writes its line; the caller ends the answer. Its cost grows with the table: others get
/// their turn in between.
void operate(Reply& out, Engine& engine, const Operate& command, const PeerStatus& peer);
void drain(Reply& out, Engine& engine, const Drain& command);

}  // namespace calico::bgp::birdc
