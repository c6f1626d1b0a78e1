#pragma once
/// Private to core/resources: the tables of fields, one a kind (fields.cpp), for the table of kinds (kinds.cpp).
#include "core/resources/schema.hpp"

namespace calico::resources::fields {

// constinit where they are defined: there before anything runs.
extern const Fields metadata, network_policy, global_network_policy, profile, workload_endpoint, host_endpoint, node,
    bgp_configuration, bgp_peer, bgp_filter, felix_configuration, cluster_information, ip_pool, network_set, tier;

}  // namespace calico::resources::fields
