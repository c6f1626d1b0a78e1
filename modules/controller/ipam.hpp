#pragma once
/// Address arithmetic of Neutron's allocation: default pools, gateway, the next free address, EUI-64. Pure.
#include <optional>
#include <vector>

#include "modules/controller/errors.hpp"
#include "modules/controller/state.hpp"

namespace calico::controller {

/// The following address; the last one of the family wraps to zero.
Ip next_ip(const Ip& ip);
Ip previous_ip(const Ip& ip);

/// What Neutron gives a subnet without allocation_pools: everything but the network, IPv4's broadcast and the gateway.
/// A /31 has no pool; a /32 or /128 has its one address.
std::vector<Pool> default_pools(const Prefix& cidr, const std::optional<Ip>& gateway);
/// Without gateway_ip: IPv4 the first host; IPv6 the network address itself (subnet-router anycast), as Neutron does.
Ip default_gateway(const Prefix& cidr);

/// Sorts nothing and changes nothing; errors are Neutron's: InvalidAllocationPool, OutOfBoundsAllocationPool,
/// OverlappingAllocationPools, GatewayConflictWithAllocationPools.
[[nodiscard]] Reply<void> check_pools(const Prefix& cidr, const std::optional<Ip>& gateway, std::vector<Pool> pools);

/// In the subnet and neither its network nor (IPv4) its broadcast address.
bool valid_host(const Prefix& cidr, const Ip& ip);

/// A free address of the pools, round robin; nullopt: exhausted. Time: the length of the used run met.
std::optional<Ip> pick_free(const Subnet& subnet, const Allocations& allocations);

/// RFC 4291 appendix A, for a /64.
Ip eui64(const Prefix& cidr, const Mac& mac);

}  // namespace calico::controller
