#pragma once
/// The policy compiler: datastore keys in, Ruleset and its changes out. Incremental: the cost of an update follows the
/// endpoints, policies and set members it touches. Pure: no kernel, no clock.
///
///   Compiler c({.host = "cmp-01", .ns = "openstack", .protected_ports = {22, 179}});
///   for (auto& u : batch.updates) c.update(u.key, u.value);
///   RulesetDelta d = c.flush();       // what changed, names into c.ruleset()
///
/// The Ruleset depends on the current keys only, never on their order or history (one exception: two classes whose
/// names hash alike take their groups in order of arrival; both work). Keys it reads: workload endpoints, network
/// policies, global network policies, tiers, profiles, network sets of both kinds, host endpoints, nodes; others are
/// ignored.
///
/// What is wrong in a value is kept in faults() and closes the endpoints concerned, nobody else's: a bad endpoint
/// becomes a plan without addresses, a bad policy closes the endpoints its selector matches. A policy whose selector
/// cannot be read counts as absent, unless a former version could be read: then that one's endpoints are closed. A
/// profile that is missing or cannot be read refuses what reaches it; a tier, network set or host endpoint that cannot
/// be read stays what it was.
///
/// Thread: the owner's loop. Owns: copies. Errors: none; see faults().
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/ip.hpp"
#include "core/model/ruleset.hpp"

namespace calico::model {

struct CompilerOptions {
  std::string host;              ///< this node's name: first part of the names of local endpoints
  std::string ns = "openstack";  ///< only endpoints of this namespace are local
  /// Interfaces endpoints may have; one with another name is left alone, so that no datastore value reaches eth0.
  std::vector<std::string> interface_prefixes = {"tap"};
  bool protect_nodes = true;
  std::vector<std::uint16_t> protected_ports;  ///< without the public ones
};

/// An interface of the host itself, with its addresses.
struct HostInterface {
  std::string name;
  std::vector<Ip> addresses;
  auto operator<=>(const HostInterface&) const = default;
};

class Compiler {
 public:
  explicit Compiler(CompilerOptions options);
  ~Compiler();
  Compiler(Compiler&&) noexcept;
  Compiler& operator=(Compiler&&) noexcept;

  /// A key of the datastore with its JSON, absent = gone.
  void update(std::string_view key, std::optional<std::string_view> value);
  /// This host's own addresses, protected as every Node's are. No endpoint may claim one of either.
  void set_host_addresses(const std::vector<Ip>& addresses);
  /// This host's interfaces, by which host endpoints with expectedIPs find theirs.
  void set_host_interfaces(std::vector<HostInterface> interfaces);
  /// The protected ports changed (reload).
  void set_protection(bool protect_nodes, std::vector<std::uint16_t> protected_ports);

  /// Brings ruleset() up to date and tells what changed.
  RulesetDelta flush();
  const Ruleset& ruleset() const;
  /// Key → what is wrong with its value, one line.
  const std::map<std::string, std::string>& faults() const;

  struct Counts {
    std::size_t endpoints = 0;
    std::size_t local_endpoints = 0;
    std::size_t policies = 0;
    std::size_t active_policies = 0;
    std::size_t classes = 0;
    std::size_t selector_sets = 0;
    std::size_t nodes = 0;
    std::size_t local_host_endpoints = 0;
    std::size_t tiers = 0;
    std::size_t profiles = 0;
    std::size_t network_sets = 0;
  };
  Counts counts() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace calico::model
