#pragma once
/// Answers of BIRD's control protocol as text, in the layout of BIRD 2.0.12 or of 1.6.8 (lower-case headers and one
/// line a route, which Calico's own parsers want). Pure but for interface names, the clock's zone and the host's name.
/// A reply is lines "CODE-text", " text" (same code as before), and a last "CODE text". Thread: any.
///
/// The files: format.cpp (replies, status, memory, interfaces, symbols), protocols.cpp, routes.cpp.
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/bgp/birdc/command.hpp"
#include "core/bgp/birdc/configure.hpp"
#include "core/bgp/engine.hpp"
#include "core/netlink/types.hpp"

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

[[nodiscard]] std::string greeting(const Shape& shape = {});
/// `drain_time` of the engine's options is said while draining.
void status(Reply& out, const Shape& shape, const EngineStatus& s, WallTime now);

/// True: the peer is one of this socket's (BIRD 1: it offers the family, and is not up without it).
[[nodiscard]] bool shown(const Shape& shape, const PeerStatus& peer);
void protocols(Reply& out, const Shape& shape, const ShowProtocols& command, const std::vector<PeerStatus>& peers,
               const EngineStatus& engine, bool kernel);
/// The answer when nobody fits `names`.
void no_protocol(Reply& out, const Shape& shape, const Names& names);

/// The lines of some routes; `heading` is the table named last ("" at first), `previous` the prefix above.
struct RouteLines {
  Shape shape;
  /// The interface of a route of this host; empty: nobody knows.
  std::function<std::string(const Prefix&)> device;
  std::string heading;
  std::optional<Prefix> previous;
  void add(Reply& out, const std::vector<RouteInfo>& routes);
};
/// Name of a family's table.
[[nodiscard]] std::string_view table(const Shape& shape, Family f);

void interfaces(Reply& out, const Shape& shape, const ShowInterfaces& command, const std::vector<netlink::Link>& links,
                const std::vector<netlink::Address>& addresses);
struct MemoryUse {
  std::size_t in_use = 0, free = 0, resident = 0;  ///< bytes: the heap's, and all of the process
};
void memory(Reply& out, const Shape& shape, const MemoryUse& use);
void symbols(Reply& out, const Shape& shape, const ShowSymbols& command, const std::vector<PeerStatus>& peers,
             bool kernel);

/// "14:05:07.123" or, after 20 hours, the date; BIRD 1 shows whole seconds.
[[nodiscard]] std::string since(const Shape& shape, WallTime t);

/// The answer to `configure`: what changed, or the faults.
void configured(Reply& out, const ConfigureAnswer& answer, bool check);

}  // namespace calico::bgp::birdc
