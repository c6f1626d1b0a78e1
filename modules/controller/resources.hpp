#pragma once
/// Neutron's resources as this controller keeps them: values with the types Neutron's text stands for, valid by
/// construction (the API validates before it makes one). Derived facts (a port's status, a network's subnets) are not
/// here: they come from State and Feedback when asked for.
/// Thread: none (values). Times are seconds since the epoch, UTC.
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/base/ip.hpp"

namespace calico::controller {

struct Resource {
  std::string id;       ///< UUID
  std::string project;  ///< Neutron's project_id, formerly tenant_id
  std::string name;
  std::string description;
  std::int64_t created = 0;
  std::int64_t updated = 0;
  std::int64_t revision = 1;
};

struct Network : Resource {
  bool admin_up = true;
  bool shared = false;
  bool external = false;
  bool port_security = true;
  std::int64_t mtu = 1500;
  std::string type = "local";                   ///< provider:network_type, local or flat
  std::optional<std::string> physical_network;  ///< provider:physical_network
};

struct HostRoute {
  std::string destination;  ///< as given, a valid prefix
  std::string nexthop;
};
struct Pool {
  Ip first;
  Ip last;
};

struct Subnet : Resource {
  std::string network;
  Prefix cidr;
  std::optional<Ip> gateway;
  bool dhcp = true;
  std::vector<std::string> dns;
  std::vector<HostRoute> host_routes;
  std::vector<Pool> pools;
  std::string ra_mode;       ///< "", slaac, dhcpv6-stateful, dhcpv6-stateless
  std::string address_mode;  ///< likewise

  /// Addresses follow from the MAC (SLAAC, stateless DHCPv6): never chosen by allocation or by request.
  bool automatic() const {
    auto is = [](const std::string& mode) { return mode == "slaac" || mode == "dhcpv6-stateless"; };
    return is(ra_mode) || is(address_mode);
  }
};

struct FixedIp {
  std::string subnet;
  Ip ip;
  bool operator==(const FixedIp&) const = default;
};
struct AddressPair {
  Prefix prefix;
  std::optional<Mac> mac;  ///< none: the port's
  bool operator==(const AddressPair&) const = default;
};

struct Port : Resource {
  std::string network;
  Mac mac;
  bool admin_up = true;
  std::string device;  ///< device_id, the instance
  std::string owner;   ///< device_owner, "compute:nova"
  std::vector<FixedIp> fixed_ips;
  std::vector<AddressPair> pairs;
  std::vector<std::string> groups;
  bool port_security = true;
  std::string host;  ///< binding:host_id
  std::string vnic_type = "normal";
  std::string vif_type = "unbound";  ///< unbound, tap, binding_failed
  std::string profile = "{}";        ///< binding:profile, a JSON object as text
};

struct SecurityGroup : Resource {};

struct Rule : Resource {
  std::string group;
  bool ingress = true;
  bool ipv6 = false;
  std::optional<std::string> protocol;  ///< Neutron's stored spelling: name in lower case, or digits
  std::optional<int> port_min;
  std::optional<int> port_max;
  std::optional<std::string> remote_prefix;
  std::optional<std::string> remote_group;
  std::int64_t order = 0;  ///< creation order; the policy's rules follow it
};

enum class Kind : std::uint8_t { network, subnet, port, group, rule };

using AnyResource = std::variant<Network, Subnet, Port, SecurityGroup, Rule>;

template <class R>
constexpr Kind kind_of();
template <>
constexpr Kind kind_of<Network>() {
  return Kind::network;
}
template <>
constexpr Kind kind_of<Subnet>() {
  return Kind::subnet;
}
template <>
constexpr Kind kind_of<Port>() {
  return Kind::port;
}
template <>
constexpr Kind kind_of<SecurityGroup>() {
  return Kind::group;
}
template <>
constexpr Kind kind_of<Rule>() {
  return Kind::rule;
}

}  // namespace calico::controller
