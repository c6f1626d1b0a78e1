#pragma once
/// IP protocols in security group rules: Neutron's names and numbers. Pure.
#include <cstdint>
#include <optional>
#include <string_view>

namespace calico::controller {

/// "tcp" → 6, "132" → 132; nullopt: neither a name Neutron knows nor 0 to 255. Lower case only.
std::optional<int> protocol_number(std::string_view protocol);
bool has_ports(int number);     ///< tcp, udp, dccp, sctp, udplite
bool is_ipv6_only(int number);  ///< ipv6-icmp and the IPv6 extension headers

}  // namespace calico::controller
