#pragma once
/// A line of birdc's protocol as a value: BIRD's grammar as far as this speaker has something to say, and `graceful
/// shutdown`. Pure. Thread: any. Errors: a line that is no command is a Refused, which is itself an answer. Bounds: the
/// caller's line length; nothing is kept but copies of its words.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "core/bgp/engine.hpp"

namespace calico::bgp::birdc {

/// Whose answers we give. BIRD 2 has one daemon and socket for all; BIRD 1 has one of each per family.
enum class Layout : std::uint8_t { bird2, bird1 };
struct Shape {
  Layout layout = Layout::bird2;
  std::optional<Family> only;  ///< BIRD 1: the family the socket shows
  bool bird1() const { return layout == Layout::bird1; }
  bool shows(Family f) const { return !only || *only == f; }
};

/// Which protocols: all, one by name, or those a pattern (* and ?) fits.
struct Names {
  enum class Kind : std::uint8_t { all, name, pattern } kind = Kind::all;
  std::string text;
  bool fits(std::string_view name) const;
};

struct ShowStatus {};
struct ShowProtocols {
  bool all = false;
  Names names;
};
struct ShowRoute {
  RouteQuery query;
  bool count = false;     ///< only how many
  bool stats = false;     ///< the list and how many
  bool filtered = false;  ///< what import refused, of which nothing is kept
};
struct ShowInterfaces {
  bool summary = false;
};
struct ShowMemory {};
struct ShowSymbols {
  std::string only;  ///< "table", "protocol", a name; empty = all
};
struct Operate {
  enum class Verb : std::uint8_t { enable, disable, restart, reload, reload_in, reload_out } verb{};
  Names names;
  std::string message;  ///< disable: told to the peer (RFC 9003)
};
struct ConfigureCommand {
  bool check = false;
};
struct Drain {
  bool on = false;
};
struct Restrict {};
struct Refused {
  int code = 9001;
  std::string why;
};
using Command = std::variant<ShowStatus, ShowProtocols, ShowRoute, ShowInterfaces, ShowMemory, ShowSymbols, Operate,
                             ConfigureCommand, Drain, Restrict, Refused>;

[[nodiscard]] Command parse(std::string_view line, const Shape& shape = {});
/// False for what changes something, which `restrict` forbids.
[[nodiscard]] bool allowed_when_restricted(const Command& command);

/// The name under which this host's own routes are shown.
inline constexpr std::string_view kKernel = "kernel1";

}  // namespace calico::bgp::birdc
