#pragma once
/// What dnsmasq reads, made from intent: a pure function, so that it is compared with what the real agent writes.
///
/// One dnsmasq serves the whole host. Requests arriving at any tap are treated as if they came in at `device`
/// (--bridge-interface), an interface without ports that carries the gateway addresses; hosts, options and names are
/// files it reads again on SIGHUP; only a subnet not served before needs a restart.
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/base/ip.hpp"
#include "core/model/resources.hpp"

namespace calico::compute {

/// One local port as DHCP sees it.
struct DhcpPort {
  std::string port_id;
  std::string interface;
  std::string network_id;  ///< "" = unknown: any subnet that holds the address
  std::string fqdn;        ///< "" = host-10-65-0-24.openstacklocal
  Mac mac;
  std::vector<Ip> addresses;         ///< fixed addresses; allowed pairs are not served
  std::optional<std::uint32_t> mtu;  ///< of the interface, once it is there
  bool operator==(const DhcpPort&) const = default;
};
/// Errors: invalid (not JSON of an endpoint, no MAC).
[[nodiscard]] Result<DhcpPort> dhcp_port(std::string_view workload_endpoint_json);

using Subnets = std::map<std::string, model::Subnet>;  ///< by id
using Ports = std::map<std::string, DhcpPort>;         ///< by endpoint key

/// Ids of the subnets that local ports have addresses in.
[[nodiscard]] std::set<std::string> subnets_in_use(const Subnets& subnets, const Ports& ports);

struct DhcpFiles {
  std::string conf;                ///< dnsmasq.conf: changes only with the set of subnets
  std::string hosts, names, opts;  ///< dhcp-hostsfile, addn-hosts, dhcp-optsfile
  std::vector<Prefix> gateways;    ///< addresses of the device, host bits kept
  /// A host carries a tag: dnsmasq 2.90 crashes when it is told to read such hosts again after one took a lease (it
  /// frees a list that the lease left linked to its stack), so that a change needs a new process.
  bool tagged_hosts = false;
};
/// `served`: ids of the subnets in the configuration (those in use, and those that were). `directory`: where the files
/// lie.
[[nodiscard]] DhcpFiles dhcp_files(const Subnets& subnets, const Ports& ports, const std::set<std::string>& served,
                                   const std::string& directory, const std::string& device);

/// Lines of a dnsmasq lease file whose address now belongs to another MAC: while it remembers them it refuses the
/// address to its new owner.
[[nodiscard]] bool has_foreign_lease(std::string_view lease_file, const Ports& ports);
/// The file without them.
[[nodiscard]] std::string without_foreign_leases(std::string_view lease_file, const Ports& ports);

}  // namespace calico::compute
