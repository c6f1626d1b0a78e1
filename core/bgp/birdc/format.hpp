#pragma once
/// BIRD 2's control protocol as text: commands in, numbered lines out. Pure but for interface names and the clock's
/// zone. A reply is lines "CODE-text", " text" (same code as before), and a last "CODE text". Thread: any. Errors: a
/// command that is not understood is itself an answer (9001).
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/bgp/engine.hpp"

namespace calico::bgp::birdc {

/// Builds a reply piece by piece; take() gives what is ready, so that long ones can be sent in parts.
class Reply {
 public:
  /// One line that is not the last. Control characters of `text` (but tab) are replaced.
  void line(int code, std::string_view text);
  void end(int code, std::string_view text = "");
  std::string take() { return std::exchange(text_, {}); }
  const std::string& text() const { return text_; }

 private:
  int last_ = -1;
  std::string text_;
};

struct ShowStatus {};
struct ShowProtocols {
  bool all = false;
  std::string name;  ///< empty = every; may hold * and ?
};
struct ShowRoute {
  RouteQuery query;
  bool count = false;
};
struct Restrict {};
struct Bad {
  std::string why;
};
using Command = std::variant<ShowStatus, ShowProtocols, ShowRoute, Restrict, Bad>;

[[nodiscard]] Command parse(std::string_view line);

[[nodiscard]] std::string greeting();
void status(Reply& out, const EngineStatus& s, WallTime now);
void protocols(Reply& out, const ShowProtocols& command, const std::vector<PeerStatus>& peers,
               const EngineStatus& engine, bool kernel);
/// The lines of some routes; `heading` is the table named last ("" at first), `previous` the prefix above.
struct RouteLines {
  std::string heading;
  std::optional<Prefix> previous;
  void add(Reply& out, const std::vector<RouteInfo>& routes);
};
/// The name under which this host's own routes are shown.
inline constexpr std::string_view kKernel = "kernel1";

}  // namespace calico::bgp::birdc
