#pragma once
/// The roles of a host: a table, nothing else. A role is built when all its modules are there.
#include <span>
#include <string_view>

namespace calico::node {

struct Role {
  const char* name;
  const char* modules;  ///< by commas, in order of start
  const char* package;
  const char* help;
};

inline constexpr Role kRoles[] = {
    {"controller", "controller", "calico-node-controller", "Neutron API, translation and the datastore"},
    {"compute", "felix,compute", "calico-node-compute", "a host with VMs: policy, routes, BGP, DHCP"},
    {"route-reflector", "route_reflector", "calico-node-route-reflector", "reflects routes between the hosts"},
    {"felix", "felix", "calico-node-felix", "policy and routes only, beside another BGP speaker"},
};

}  // namespace calico::node
