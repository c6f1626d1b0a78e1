#include "core/bgp/birdc/operations.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace calico::bgp::birdc {
namespace {}  // namespace

std::optional<std::vector<PeerStatus>> operands(Reply& out, const Shape& shape, const Engine& engine,
                                                const Operate& command, bool kernel) {
  // The kernel's side follows the kernel; it is only spoken of when meant alone.
  if (kernel && command.names.kind == Names::Kind::name && command.names.text == kKernel) {
    out.end(8007, fmt::format("{}: follows the kernel by itself, there is nothing to switch", kKernel));
    return std::nullopt;
  }
  auto peers = engine.peers();
  std::erase_if(peers, [&](const auto& p) { return !shown(shape, p) || !command.names.fits(p.config.name); });
  if (peers.empty() && command.names.kind != Names::Kind::all) {
    no_protocol(out, shape, command.names);
    return std::nullopt;
  }
  return peers;
}

void operate(Reply& out, Engine& engine, const Operate& command, const PeerStatus& peer) {
  using Verb = Operate::Verb;
  const auto& name = peer.config.name;
  const auto say = [&](int code, std::string_view text) { out.line(code, fmt::format("{}: {}", name, text)); };
  const auto done = [&](const Status& s, int code, std::string_view text, int bad, std::string_view failed) {
    if (s)
      say(code, text);
    else
      say(bad, fmt::format("{} ({})", failed, s.error().what));
  };
  switch (command.verb) {
    case Verb::enable:
      if (!peer.disabled) return say(10, "already enabled");
      return done(engine.set_enabled(name, true), 11, "enabled", 8007, "not enabled");
    case Verb::disable:
      if (peer.disabled) return say(8, "already disabled");
      return done(engine.set_enabled(name, false, command.message), 9, "disabled", 8007, "not disabled");
    case Verb::restart:
      if (peer.disabled) return say(8, "already disabled");
      return done(engine.restart(name), 12, "restarted", 8007, "not restarted");
    case Verb::reload:
    case Verb::reload_in:
    case Verb::reload_out: {
      if (peer.disabled) return say(8, "already disabled");
      const auto what = command.verb == Verb::reload_in    ? Engine::Refresh::in
                        : command.verb == Verb::reload_out ? Engine::Refresh::out
                                                           : Engine::Refresh::both;
      return done(engine.refresh(name, what), 15, "reloading", 8006, "reload failed");
    }
  }
}

void drain(Reply& out, Engine& engine, const Drain& command) {
  engine.drain(command.on);
  if (!command.on) return out.end(25, "Graceful shutdown is off: routes are announced as before");
  const auto left = engine.status().drain_left.count();
  out.end(25, fmt::format("Graceful shutdown is on: neighbors take other routes where they have them; ready to be "
                          "stopped in {} s",
                          (left + 999) / 1000));
}

}  // namespace calico::bgp::birdc
