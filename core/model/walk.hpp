#pragma once
/// A compiled Ruleset asked about one packet, as the kernel would judge the first packet of a connection: the class of
/// the endpoint, its chain, the policies' chains, sets. Used to find connections that a changed policy no longer allows
/// (modules/felix), and in tests to compare the compiler with the reference evaluator.
///
///   const Walk walk(compiler.ruleset());
///   if (!walk.allowed(plan, Direction::ingress, packet)) ...
///
/// What is no policy is not here, as in evaluate.hpp. Cost: the rules in front of the one that decides, a logarithm for
/// each set they name. A chain or set that is missing matches nothing.
/// Thread: any, pure. Owns: nothing; the Ruleset outlives it.
#include <optional>
#include <string>

#include "core/model/evaluate.hpp"
#include "core/model/ruleset.hpp"

namespace calico::model {

class Walk {
 public:
  explicit Walk(const Ruleset& ruleset) : r_(ruleset) {}
  /// An endpoint that is closed allows nothing.
  bool allowed(const EndpointPlan& plan, Direction direction, const Packet& packet) const;
  /// What the host endpoint that polices `interface`, or the one of all others, says to a packet whose addresses nobody
  /// translates: at all stages, one after the other. Nobody there allows.
  bool allowed_host(const std::string& interface, HostTraffic traffic, Direction direction, const Packet& packet) const;

 private:
  bool in_addresses(const std::string& set, const Ip& ip) const;
  bool in_ports(const std::string& set, std::uint16_t port) const;
  bool in_ip_ports(const std::string& set, const Ip& ip, std::uint16_t port) const;
  bool side(const MatchRule::Side& s, const Ip& ip, std::uint16_t port) const;
  bool matches(const MatchRule& m, const Packet& p, bool accepted_early) const;
  /// Accept, drop, untrack or accept_early; nothing: it says nothing.
  std::optional<Verdict> chain(const std::string& name, const Packet& p, int depth, bool accepted_early = false) const;

  const Ruleset& r_;
};

}  // namespace calico::model
