#pragma once
/// Calico v3 resources as structs, read leniently from the datastore's JSON and written in the shapes the OpenStack
/// driver writes. Unknown fields are ignored; a wrong type or an impossible value is an error with its path.
///
///   auto wep = parse_workload_endpoint(value);      // Result<WorkloadEndpoint>
///   kv.put(key, to_json(*wep));
///
/// Bounds: 1 MiB of JSON, 32 levels (beyond: invalid). Thread: any, pure.
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/error.hpp"
#include "core/base/ids.hpp"
#include "core/base/ip.hpp"
#include "core/model/selector.hpp"

namespace calico::model {

struct Metadata {
  std::string name;
  std::string ns;
  std::string uid;
  std::string creation_timestamp;  ///< "2026-03-04T09:15:02Z"
  Labels labels;
  Labels annotations;
  bool operator==(const Metadata&) const = default;
};

struct IpNat {
  Ip internal;
  Ip external;
  bool operator==(const IpNat&) const = default;
};

/// A port of an endpoint that rules may name.
struct NamedPort {
  std::string name;
  std::uint8_t protocol = 6;
  std::uint16_t port = 0;
  auto operator<=>(const NamedPort&) const = default;
};

struct WorkloadEndpoint {
  Metadata meta;
  std::string orchestrator;
  std::string workload;
  std::string node;
  std::string endpoint;
  std::string interface_name;
  std::optional<Mac> mac;
  std::optional<Ip> ipv4_gateway;
  std::optional<Ip> ipv6_gateway;
  std::vector<Prefix> ip_networks;  ///< fixed addresses, then allowed address pairs; empty = being deleted
  std::vector<Prefix> allowed_ips;  ///< the pairs alone
  std::vector<IpNat> ip_nats;
  std::vector<std::string> profiles;
  std::vector<NamedPort> ports;
  std::string qos_controls_json;  ///< as found, "" when absent
  bool operator==(const WorkloadEndpoint&) const = default;
};

/// Interfaces of a node itself, which policies then police.
struct HostEndpoint {
  std::string node;
  std::string interface_name;  ///< "*" = every interface but those of workloads; "" = those with one of expected_ips
  std::vector<Ip> expected_ips;
  Labels labels;
  std::vector<std::string> profiles;
  std::vector<NamedPort> ports;
  bool operator==(const HostEndpoint&) const = default;
};
/// Errors: invalid; also one without a node, or with neither interfaceName nor expectedIPs.
[[nodiscard]] Result<HostEndpoint> parse_host_endpoint(std::string_view json);
[[nodiscard]] std::string to_json(const std::string& name, const HostEndpoint& hep);

/// "10.1.2.0/28/32", the driver's spelling of an allowed pair that is a block, is read as 10.1.2.0/28.
[[nodiscard]] Result<Prefix> parse_network(std::string_view text);
[[nodiscard]] Result<WorkloadEndpoint> parse_workload_endpoint(std::string_view json);
[[nodiscard]] std::string to_json(const WorkloadEndpoint& wep);

enum class Action : std::uint8_t { allow, deny, log, pass };
[[nodiscard]] std::string_view to_string(Action a);

struct PortRange {
  std::uint16_t first = 0;
  std::uint16_t last = 0;
  auto operator<=>(const PortRange&) const = default;
};

struct Icmp {
  std::uint8_t type = 0;
  std::optional<std::uint8_t> code;
  bool operator==(const Icmp&) const = default;
};

/// One side of a rule: all given fields must hold; the entries of one field are alternatives.
struct EntityRule {
  std::vector<Prefix> nets;
  std::vector<Prefix> not_nets;
  std::optional<std::string> selector;
  std::optional<std::string> not_selector;
  std::optional<std::string> namespace_selector;
  std::vector<PortRange> ports;  ///< with named_ports: alternatives of one field
  std::vector<PortRange> not_ports;
  std::vector<std::string> named_ports;
  std::vector<std::string> not_named_ports;
  bool operator==(const EntityRule&) const = default;
};

struct Rule {
  Action action = Action::allow;
  std::optional<Family> ip_version;
  std::optional<std::uint8_t> protocol;  ///< IP protocol number; "0" and 0 mean any and are read as absent
  /// How the protocol is written when not as a number (ICMP and ICMPv6 aside): "132", "TCP". Kept by the parser.
  std::string protocol_text;
  std::optional<std::uint8_t> not_protocol;
  std::optional<Icmp> icmp;
  std::optional<Icmp> not_icmp;
  EntityRule source;
  EntityRule destination;
  bool operator==(const Rule&) const = default;
};

/// NetworkPolicy, and GlobalNetworkPolicy with `global`.
struct NetworkPolicy {
  Metadata meta;
  bool global = false;
  std::string tier = "default";
  std::optional<double> order;  ///< absent = last
  std::string selector;
  std::optional<std::string> namespace_selector;  ///< global only
  bool ingress_type = true;                       ///< absent types mean both directions
  bool egress_type = true;
  bool do_not_track = false;  ///< these two: host endpoints only; a workload endpoint is not asked
  bool pre_dnat = false;
  bool apply_on_forward = false;  ///< of host endpoints; changes nothing for workload endpoints
  std::vector<Rule> ingress;
  std::vector<Rule> egress;
  /// Not empty: the policy cannot be enforced as written (why, one line), but its selector is known, so that exactly
  /// its endpoints can fail closed. Rules are then empty.
  std::string fault;
  bool operator==(const NetworkPolicy&) const = default;
};
/// Errors: invalid: not even the selector can be known. Everything else wrong or not supported goes into `fault`.
[[nodiscard]] Result<NetworkPolicy> parse_network_policy(std::string_view json, bool global = false);
[[nodiscard]] std::string to_json(const NetworkPolicy& policy);

struct Tier {
  std::optional<double> order;   ///< absent = last
  bool pass_at_the_end = false;  ///< defaultAction Pass: what no policy of the tier decided goes on
  bool operator==(const Tier&) const = default;
};
[[nodiscard]] Result<Tier> parse_tier(std::string_view json);
[[nodiscard]] std::string to_json(const std::string& name, const Tier& tier);

/// Rules asked when no tier decided, and labels that endpoints with this profile inherit.
struct Profile {
  Labels labels_to_apply;
  std::vector<Rule> ingress;
  std::vector<Rule> egress;
  bool operator==(const Profile&) const = default;
};
/// Errors: invalid, unsupported; a profile that cannot be read as a whole counts as absent.
[[nodiscard]] Result<Profile> parse_profile(std::string_view json);
[[nodiscard]] std::string to_json(const std::string& name, const Profile& profile);

/// NetworkSet and GlobalNetworkSet: addresses that selectors of rules find by label.
struct NetworkSet {
  Labels labels;
  std::vector<Prefix> nets;  ///< any, also 0.0.0.0/0; they may overlap
  bool operator==(const NetworkSet&) const = default;
};
[[nodiscard]] Result<NetworkSet> parse_network_set(std::string_view json);
/// ns "" = GlobalNetworkSet.
[[nodiscard]] std::string to_json(const std::string& ns, const std::string& name, const NetworkSet& set);

/// "tcp", "ICMPv6", 6, "132" → number. Errors: invalid, unsupported (a name nobody knows).
[[nodiscard]] Result<std::uint8_t> parse_protocol(std::string_view name_or_number);

struct ClusterInformation {
  Metadata meta;
  std::string cluster_guid;
  std::string cluster_type;
  std::string calico_version;
  std::optional<bool> datastore_ready;
  bool operator==(const ClusterInformation&) const = default;
};
[[nodiscard]] Result<ClusterInformation> parse_cluster_information(std::string_view json);
[[nodiscard]] std::string to_json(const ClusterInformation& info);

/// Values as upstream's parameter names ("interfacePrefix" is found as "InterfacePrefix") and text, ready for
/// Config::with_felix(); annotations config.projectcalico.org/<Param> override the spec.
struct FelixConfiguration {
  Metadata meta;
  std::map<std::string, std::string> values;
  bool operator==(const FelixConfiguration&) const = default;
};
[[nodiscard]] Result<FelixConfiguration> parse_felix_configuration(std::string_view json);
/// The two values the OpenStack driver writes.
[[nodiscard]] std::string to_json_felix_configuration(const Metadata& meta, bool endpoint_reporting_enabled,
                                                      std::string_view interface_prefix);

struct NodeAddress {
  Ip ip;
  std::string type;  ///< "InternalIP", "ExternalIP", "CalicoNodeIP"
  bool operator==(const NodeAddress&) const = default;
};
struct Node {
  Metadata meta;
  std::optional<Prefix> bgp_ipv4;  ///< spec.bgp.ipv4Address with its length, host bits kept
  std::optional<Prefix> bgp_ipv6;
  std::optional<Asn> as_number;  ///< number, "64512" or "1.10"
  std::optional<Ip> route_reflector_cluster_id;
  std::vector<NodeAddress> addresses;
  bool operator==(const Node&) const = default;

  bool is_reflector() const { return route_reflector_cluster_id.has_value(); }
  /// spec.addresses and spec.bgp together, each once.
  std::vector<Ip> all_addresses() const;
};
[[nodiscard]] Result<Node> parse_node(std::string_view json);
/// The spec alone, for Report::set_node.
[[nodiscard]] std::string node_spec_json(const Node& node);
[[nodiscard]] std::string to_json(const Node& node);
[[nodiscard]] std::string labels_json(const Labels& labels);

struct HostRoute {
  Prefix destination;
  Ip nexthop;
  bool operator==(const HostRoute&) const = default;
};
/// The driver's own document for its DHCP agent.
struct Subnet {
  std::string network_id;
  Prefix cidr;
  std::optional<Ip> gateway_ip;
  std::vector<HostRoute> host_routes;
  std::vector<Ip> dns_servers;
  std::string ipv6_ra_mode;
  std::string ipv6_address_mode;
  bool operator==(const Subnet&) const = default;
};
[[nodiscard]] Result<Subnet> parse_subnet(std::string_view json);
[[nodiscard]] std::string to_json(const Subnet& subnet);

struct AgentStatus {
  std::string time;  ///< UTC, whole seconds, "Z"
  double uptime_s = 0;
  bool first_update = false;
  bool operator==(const AgentStatus&) const = default;
};
[[nodiscard]] Result<AgentStatus> parse_agent_status(std::string_view json);
[[nodiscard]] std::string to_json(const AgentStatus& status);

enum class EndpointState : std::uint8_t { up, down, error };
[[nodiscard]] std::string_view to_string(EndpointState s);
[[nodiscard]] Result<EndpointState> parse_endpoint_status(std::string_view json);
[[nodiscard]] std::string endpoint_status_json(EndpointState s);

struct LiveMigration {
  Metadata meta;
  std::string source_host;
  std::string target_host;
  std::string workload;  ///< "openstack/<device id>"
  std::string endpoint;
  bool operator==(const LiveMigration&) const = default;
};
[[nodiscard]] Result<LiveMigration> parse_live_migration(std::string_view json);

}  // namespace calico::model
