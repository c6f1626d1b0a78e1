#pragma once
/// `calico-node lab demo`: the demonstration of the Fuel document, from nothing to a verdict. A cluster is built, the
/// network `demo` and two security groups are made over the Neutron API, machines are started, and what they can and
/// cannot reach is measured beside what they should. README.md lists the steps.
/// Thread: main. Errors: everything that goes wrong becomes a line of the report and "ok": false.
#include <string>
#include <vector>

#include "modules/lab/cluster.hpp"
#include "modules/lab/neutron_client.hpp"

namespace calico::lab {

inline constexpr std::size_t kMaxVms = 48;

struct DemoOptions {
  Options lab;
  std::size_t vms = 6;
  bool keep = false;
  std::string json_file;  ///< "-" = stdout, and the tables go to stderr
};

/// Returns the exit code: 0 only if all is as expected; 1 it is not; 3 it could not be built; 130 interrupted.
int run_demo(const DemoOptions& options);

struct Session {
  std::string peer;  ///< address, canonical
  std::string state;
};
/// The BGP sessions a node's control socket tells of (`show protocols all`).
[[nodiscard]] Result<std::vector<Session>> bgp_sessions(const Paths& paths, const std::string& node);
/// The answer of one control command, reply codes removed.
[[nodiscard]] Result<std::string> bird_command(const std::string& run_dir, const std::string& socket,
                                               const std::string& command, Millis limit = Millis(5000));
std::vector<Session> parse_sessions(const std::string& show_protocols_all);

/// The lab's customer at the controller.
[[nodiscard]] Result<NeutronClient> api_of(Cluster& cluster);
/// A group with the document's rules: ICMP from its own members, SSH from anywhere. `icmp_rule` gets the id of the
/// first.
[[nodiscard]] Result<std::string> make_group(NeutronClient& api, const std::string& name, bool ipv6,
                                             std::string* icmp_rule);
/// A port over the API and a machine on it, with the network `demo` and the group named in `vm.security_group` made if
/// they are not there; `vm.compute` empty = the compute with the fewest. Waits for ACTIVE and the addresses; on failure
/// nothing of it stays. Fills in `vm`; returns the milliseconds from the POST to ACTIVE.
[[nodiscard]] Result<double> add_vm(Cluster& cluster, NeutronClient& api, Vm& vm);
/// network, with its subnets.
[[nodiscard]] Result<std::string> make_network(NeutronClient& api, const std::string& name, bool ipv6);

}  // namespace calico::lab
