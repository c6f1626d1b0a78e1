#pragma once
/// The kernel's side of host endpoints: hooks, the model's maps behind them, and each endpoint's state in
/// the datastore.
///
///   host-untracked-in (prerouting, -300)    not from tap*: hosts-raw-in
///   host-untracked-out (output, -300)       not to tap*: hosts-raw-out
///   host-pre-dnat (prerouting, -150)        not from tap*: hosts-pre-in, any-pre-in
///   host-input (1)         not from tap*: hosts-in, any-in
///   host-output (0)        not to tap*: hosts-out, any-out
///   host-forward-in (-1)   not from tap*: hosts-fwd-in, any-fwd-in
///   host-forward-out (2)   not to tap*: hosts-fwd-out, any-fwd-out
///
/// An accept ends its base chain alone, so that a packet passes when everybody allows it. Each of the model's chains of
/// a host endpoint begins with what no policy decides: replies, packets of no connection, ND and MLD, failsafe ports.
/// Before connections are tracked nobody knows a reply: there the failsafe ports pass in both directions, and what
/// passes by them, or because no rule matches, is tracked and asked again. What a rule allows early carries
/// kAcceptedEarly.
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/model/ruleset.hpp"
#include "core/sync/view.hpp"
#include "modules/felix/tables.hpp"

namespace calico::felix {

/// What the chains of host endpoints begin with; not reached without one.
[[nodiscard]] std::vector<StaticChain> host_preludes(const Settings& settings);
/// Those of the hooks above that somebody needs.
[[nodiscard]] std::vector<StaticChain> host_hooks(const ExtraHooks& hooks,
                                                  const std::vector<std::string>& interface_prefixes);

/// The first chain of a host endpoint of one way; its followers have two slashes.
[[nodiscard]] bool is_host_chain(const std::string& name);
/// What stands before the model's rules in such a chain, also when the kernel refused those.
[[nodiscard]] std::vector<nft::Rule> host_prelude(const std::string& chain);

/// up: an interface of it is there and running; down: there; error: it polices nothing, or refuses all (one way at
/// least) because of a fault, the kernel's refusal included.
class HostStatus {
 public:
  HostStatus(std::string node, sync::Report& report) : node_(std::move(node)), report_(report) {}

  struct Link {
    bool present = false;
    bool running = false;
  };
  /// Writes what changed. `fault`: why the kernel does not have all of its rules.
  void report(const model::Ruleset& ruleset, const std::function<Link(const std::string& interface)>& link,
              const std::function<std::string(const model::HostPlan&)>& fault);
  /// Nothing more is written.
  void forget() { told_.clear(); }
  std::string prefix() const;
  model::EndpointState state_of(const std::string& key) const;

 private:
  struct Told {
    std::string key;
    model::EndpointState state = model::EndpointState::error;
    std::string error;
  };
  std::string node_;
  sync::Report& report_;
  std::map<std::string, Told> told_;  // by resource key
};

}  // namespace calico::felix
