#include "modules/controller/protocols.hpp"

#include <algorithm>
#include <array>
#include <charconv>

namespace calico::controller {

namespace {
struct Row {
  std::string_view name;
  int number;
};
// The names of Neutron's API reference, with the legacy spellings of ICMPv6.
constexpr std::array kProtocols{
    Row{"ah", 51},        Row{"dccp", 33},       Row{"egp", 8},        Row{"esp", 50},       Row{"gre", 47},
    Row{"hopopt", 0},     Row{"icmp", 1},        Row{"icmpv6", 58},    Row{"igmp", 2},       Row{"ip", 0},
    Row{"ipip", 4},       Row{"ipv6-encap", 41}, Row{"ipv6-frag", 44}, Row{"ipv6-icmp", 58}, Row{"ipv6-nonxt", 59},
    Row{"ipv6-opts", 60}, Row{"ipv6-route", 43}, Row{"ospf", 89},      Row{"pgm", 113},      Row{"rsvp", 46},
    Row{"sctp", 132},     Row{"tcp", 6},         Row{"udp", 17},       Row{"udplite", 136},  Row{"vrrp", 112},
};
}  // namespace

std::optional<int> protocol_number(std::string_view protocol) {
  for (const auto& row : kProtocols) {
    if (row.name == protocol) return row.number;
  }
  int n = 0;
  auto [end, error] = std::from_chars(protocol.data(), protocol.data() + protocol.size(), n);
  if (protocol.empty() || protocol.front() == '-' || error != std::errc{} || end != protocol.data() + protocol.size() ||
      n > 255)
    return std::nullopt;
  return n;
}

bool has_ports(int number) { return number == 6 || number == 17 || number == 33 || number == 132 || number == 136; }

bool is_ipv6_only(int number) { return number == 58 || number == 43 || number == 44 || number == 59 || number == 60; }

}  // namespace calico::controller
