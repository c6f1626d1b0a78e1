#include <fmt/format.h>
#include <net/if.h>

#include <algorithm>
#include <array>

#include "core/bgp/birdc/format.hpp"

namespace calico::bgp::birdc {
namespace {

std::string interface_name(IfIndex index) {
  std::array<char, IF_NAMESIZE> name{};
  if (index.value == 0 || if_indextoname(index.value, name.data()) == nullptr) return "";
  return name.data();
}

/// "(100/0) [AS10000i]": preference and, from BIRD 1, the cost of the next hop; origin AS and code.
std::string rank(const Shape& shape, const RouteInfo& r) {
  if (r.peer.empty()) return " (240)";
  static constexpr std::array kOrigin{"i", "e", "?"};
  const auto cost = !shape.bird1() ? "" : r.resolved ? fmt::format("/{}", r.resolved->metric) : std::string("/-");
  return fmt::format(" (100{}{}) [{}{}]", r.stale ? "s" : "", cost,
                     r.origin_as ? fmt::format("AS{}", *r.origin_as) : "", kOrigin[std::min<std::size_t>(r.origin, 2)]);
}

}  // namespace

void RouteLines::add(Reply& out, const std::vector<RouteInfo>& routes) {
  for (const auto& r : routes) {
    if (const auto t = table(shape, r.prefix.family()); !shape.bird1() && t != heading) {
      if (!heading.empty()) out.line(1007, "");
      out.line(1007, fmt::format("Table {}:", t));
      heading = t;
      previous.reset();
    }
    const bool local = r.peer.empty();
    std::string way = "unreachable";
    if (r.resolved) {
      const auto name = interface_name(r.resolved->oif);
      way = fmt::format("via {}{}", r.resolved->gateway, name.empty() ? "" : " on " + name);
      // Whoever reads BIRD 1's lines expects an interface.
      if (shape.bird1() && name.empty()) way += " on ?";
    } else if (local && r.unusable.empty()) {
      const auto name = device ? device(r.prefix) : std::string();
      way = name.empty() ? "" : "dev " + name;
      if (shape.bird1() && name.empty()) way = "dev ?";
    }
    const bool from = !local && (!r.resolved || r.from != r.resolved->gateway);
    const auto learned = fmt::format("[{} {}{}]{}{}", local ? kKernel : r.peer, since(shape, r.since),
                                     from ? fmt::format(" from {}", r.from) : "", r.best ? " *" : "", rank(shape, r));
    const auto prefix = previous == r.prefix ? std::string() : r.prefix.to_string();
    previous = r.prefix;
    if (shape.bird1()) {
      out.line(1007, fmt::format("{:<18} {} {}", prefix, way, learned));
    } else {
      const bool usable = r.unusable.empty();
      out.line(1007, fmt::format("{:<20} {} {}", prefix, usable ? "unicast" : "unreachable", learned));
      if (!way.empty() && way != "unreachable") out.line(1007, "\t" + way);
    }
    if (r.attributes.empty()) continue;
    out.line(1008, fmt::format("\tType: {}{} univ", local ? "inherit" : "BGP",
                               !shape.bird1()       ? ""
                               : r.unusable.empty() ? " unicast"
                                                    : " unreachable"));
    if (!r.unusable.empty()) out.line(1008, "\tUnusable: " + r.unusable);
    for (const auto& [name, value] : r.attributes) out.line(1012, fmt::format("\t{}: {}", name, value));
  }
}

}  // namespace calico::bgp::birdc
