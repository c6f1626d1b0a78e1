#pragma once
/// Which connections a change of policy no longer allows. Pure: the compiled Ruleset and entries of the connection
/// table in, entries to cut out.
///
///   PolicyChange change;
///   change.add(delta);                               // several, until there is time
///   FlowPolicy policy(ruleset, concerned(ruleset, change), is_local);
///   if (policy.refuses(ruleset, entry)) ...
///
/// The packet that is judged is the connection's first, as the forward hooks saw it: source as it was sent, destination
/// after translation. Its initiator needs egress, its target ingress, each only if it is one of the endpoints
/// concerned. Not judged: traffic with this host itself (no policy was asked), connections announced by others (FTP
/// data), zones other than 0, endpoints that are closed by a fault (a typo ends no connection). Thread: loop. Owns:
/// copies of keys and addresses.
#include <functional>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/conntrack/entry.hpp"
#include "core/model/evaluate.hpp"
#include "core/model/ruleset.hpp"

namespace calico::felix {

/// What of the policy has changed since the last look, merged.
struct PolicyChange {
  struct Members {
    bool added = false;
    bool removed = false;
  };
  std::set<std::string> chains;
  std::map<std::string, Members> sets;
  std::set<std::string> endpoints;  ///< in another class now
  bool everything = false;

  void add(const model::RulesetDelta& delta);
  void add(PolicyChange other);
  bool empty() const { return chains.empty() && sets.empty() && endpoints.empty() && !everything; }
};

/// Keys of the endpoints whose policy can refuse more than before; a superset of those whose policy does. A new member
/// of a group that only allows concerns nobody.
[[nodiscard]] std::set<std::string> concerned(const model::Ruleset& ruleset, const PolicyChange& change);

/// The connection's first packet in the forward hooks.
[[nodiscard]] model::Packet forwarded(const conntrack::Entry& e);

class FlowPolicy {
 public:
  /// Is this address the host's own (or one that is not forwarded to)? Asked only of connections that would be cut.
  using IsLocal = std::function<bool(const Ip&)>;
  FlowPolicy(const model::Ruleset& ruleset, const std::set<std::string>& endpoints, IsLocal is_local);
  /// `ruleset` may be a later one than the constructor's: endpoints that are gone from it are not judged.
  bool refuses(const model::Ruleset& ruleset, const conntrack::Entry& e);

 private:
  /// Blocks by length: a look-up a length that occurs.
  using Blocks = std::map<std::uint8_t, std::unordered_map<Ip, std::vector<std::string>>, std::greater<>>;
  bool refused(const model::Ruleset& ruleset, const Ip& ip, model::Direction direction, const model::Packet& p) const;
  bool local(const Ip& ip);

  Blocks v4_, v6_;
  IsLocal is_local_;
  std::unordered_map<Ip, bool> known_;
};

}  // namespace calico::felix
