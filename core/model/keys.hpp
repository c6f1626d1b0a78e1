#pragma once
/// Names and keys of Calico's v3 data model in the datastore: building them, and reading them back.
///
///   auto key = workload_endpoint_key("openstack", {"cmp-01", "openstack", device_id, port_id});
///   auto id = parse_workload_endpoint_key(key);   // id->host == "cmp-01"
///   status_key("", "cmp-01")                      // /calico/felix/v2/no-region/host/cmp-01/status
///
/// Thread: any, pure. Errors: invalid (the text is not such a key or name).
#include <string>
#include <string_view>

#include "core/base/error.hpp"

namespace calico::model {

inline constexpr std::string_view kResources = "/calico/resources/v3/projectcalico.org/";
inline constexpr std::string_view kWorkloadEndpoints = "/calico/resources/v3/projectcalico.org/workloadendpoints/";
inline constexpr std::string_view kNetworkPolicies = "/calico/resources/v3/projectcalico.org/networkpolicies/";
inline constexpr std::string_view kGlobalNetworkPolicies =
    "/calico/resources/v3/projectcalico.org/globalnetworkpolicies/";
inline constexpr std::string_view kTiers = "/calico/resources/v3/projectcalico.org/tiers/";
inline constexpr std::string_view kProfiles = "/calico/resources/v3/projectcalico.org/profiles/";
inline constexpr std::string_view kNetworkSets = "/calico/resources/v3/projectcalico.org/networksets/";
inline constexpr std::string_view kGlobalNetworkSets = "/calico/resources/v3/projectcalico.org/globalnetworksets/";
inline constexpr std::string_view kHostEndpoints = "/calico/resources/v3/projectcalico.org/hostendpoints/";
inline constexpr std::string_view kNodes = "/calico/resources/v3/projectcalico.org/nodes/";
inline constexpr std::string_view kFelixConfigurations = "/calico/resources/v3/projectcalico.org/felixconfigurations/";
inline constexpr std::string_view kClusterInformation =
    "/calico/resources/v3/projectcalico.org/clusterinformations/default";
inline constexpr std::string_view kLiveMigrations = "/calico/resources/v3/projectcalico.org/livemigrations/";
inline constexpr std::string_view kSubnetsV1 = "/calico/dhcp/v1/subnet/";
inline constexpr std::string_view kFelixV2 = "/calico/felix/v2/";

inline constexpr std::string_view kLabelNamespace = "projectcalico.org/namespace";
inline constexpr std::string_view kLabelOrchestrator = "projectcalico.org/orchestrator";
/// Label of a port in a security group: prefix + group id, value = the group's sanitised name.
inline constexpr std::string_view kLabelSgPrefix = "sg.projectcalico.org/openstack-";
inline constexpr std::string_view kLabelSgNamePrefix = "sg-name.projectcalico.org/openstack-";
inline constexpr std::string_view kSgPolicyPrefix = "ossg.default.";

/// Region as configured ("" = none): "no-region" or "region-<r>", a path segment of agent and subnet keys.
[[nodiscard]] std::string region_string(std::string_view region);
/// Namespace of the resources: "openstack" or "openstack-region-<r>".
[[nodiscard]] std::string region_namespace(std::string_view region);
/// A DNS label of at most 46 characters, or empty.
[[nodiscard]] Status check_region(std::string_view region);

/// Identity of a workload endpoint; it comes from the key's name, not from the spec.
struct WorkloadEndpointName {
  std::string host;
  std::string orchestrator;
  std::string workload;  ///< Neutron device_id
  std::string endpoint;  ///< Neutron port id
  auto operator<=>(const WorkloadEndpointName&) const = default;
};
/// "<host>-<orchestrator>-<workload>-<endpoint>", every "-" inside a part doubled.
[[nodiscard]] std::string format_wep_name(const WorkloadEndpointName& name);
/// Exactly four parts, none empty.
[[nodiscard]] Result<WorkloadEndpointName> parse_wep_name(std::string_view name);

struct ResourceKey {
  std::string plural;  ///< "networkpolicies"
  std::string ns;      ///< "" for global kinds
  std::string name;
};
/// Any key below kResources, with or without a namespace.
[[nodiscard]] Result<ResourceKey> parse_resource_key(std::string_view key);
[[nodiscard]] std::string workload_endpoint_key(std::string_view ns, const WorkloadEndpointName& name);
[[nodiscard]] std::string network_policy_key(std::string_view ns, std::string_view name);
[[nodiscard]] std::string live_migration_key(std::string_view ns, const WorkloadEndpointName& destination);
[[nodiscard]] std::string node_key(std::string_view name);
[[nodiscard]] std::string felix_configuration_key(std::string_view name);

/// "/calico/dhcp/v2/<region>/subnet/" and with the id.
[[nodiscard]] std::string subnet_prefix(std::string_view region);
[[nodiscard]] std::string subnet_key(std::string_view region, std::string_view subnet_id);

/// Keys an agent owns: "/calico/felix/v2/<region>/host/<host>/…".
[[nodiscard]] std::string felix_host_prefix(std::string_view region, std::string_view host);
/// Every agent of the region: "/calico/felix/v2/<region>/host/".
[[nodiscard]] std::string felix_hosts_prefix(std::string_view region);
[[nodiscard]] std::string status_key(std::string_view region, std::string_view host);
[[nodiscard]] std::string last_reported_status_key(std::string_view region, std::string_view host);
/// ".../workload/" below felix_host_prefix: all endpoint statuses of the host.
[[nodiscard]] std::string endpoint_status_prefix(std::string_view region, std::string_view host);
/// The workload segment is "<ns>/<workload>" escaped, as upstream writes it.
[[nodiscard]] std::string endpoint_status_key(std::string_view region, std::string_view ns,
                                              const WorkloadEndpointName& name);
/// "/calico/felix/v1/host/<host>/endpoint/" and with a host endpoint's name.
[[nodiscard]] std::string host_endpoint_status_prefix(std::string_view host);
[[nodiscard]] std::string host_endpoint_status_key(std::string_view host, std::string_view name);
struct EndpointStatusKey {
  std::string region;  ///< the path segment ("no-region", "region-east1")
  std::string host;
  std::string orchestrator;
  std::string ns;  ///< "" in the short form without "<ns>/"
  std::string workload;
  std::string endpoint;
};
[[nodiscard]] Result<EndpointStatusKey> parse_endpoint_status_key(std::string_view key);
/// Host of "/calico/felix/v2/<region>/host/<host>/status".
[[nodiscard]] Result<std::string> parse_status_key(std::string_view key);

/// "%" → "%25", "/" → "%2f"; and back ("%2F" is taken too). Errors: invalid (a cut escape).
[[nodiscard]] std::string escape_segment(std::string_view text);
[[nodiscard]] Result<std::string> unescape_segment(std::string_view text);

/// "tap" + the first 11 characters of the port id.
[[nodiscard]] std::string interface_of_port(std::string_view port_id);
/// A kernel interface name: 1-15 characters, no "/", no white space, not "." or "..".
[[nodiscard]] bool is_interface_name(std::string_view name);
/// Label value: cut to `max`, characters outside [-_.A-Za-z0-9] become "_", the ends trimmed to alphanumerics.
[[nodiscard]] std::string sanitise_label(std::string_view text, std::size_t max);
inline constexpr std::size_t kMaxLabelValue = 63;
/// Security group names are also part of a label's name.
inline constexpr std::size_t kMaxSgName = 27;

}  // namespace calico::model
