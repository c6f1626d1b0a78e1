// The fields of each kind, as upstream's v3 API has them.
#include "core/resources/fields.hpp"

namespace calico::resources {
namespace {

constexpr Field kHttp[] = {{"methods", Is::any, {}, {}}, {"paths", Is::any, {}, {}}};
constexpr Field kServiceAccounts[] = {{.name = "names", .is = Is::text, .list = true},
                                      {"selector", Is::selector, "pcsa."}};
constexpr Field kServices[] = {{"name"}, {"namespace"}};
constexpr Field kEntity[] = {{.name = "nets", .is = Is::network, .list = true},
                             {.name = "notNets", .is = Is::network, .list = true},
                             {"selector", Is::selector},
                             {"notSelector", Is::selector},
                             {"namespaceSelector", Is::selector, "pcns."},
                             {.name = "ports", .is = Is::port, .list = true},
                             {.name = "notPorts", .is = Is::port, .list = true},
                             {"services", Is::object, {}, kServices},
                             {"serviceAccounts", Is::object, {}, kServiceAccounts}};
constexpr Field kIcmp[] = {{"type", Is::integer, "0:255"}, {"code", Is::integer, "0:255"}};
constexpr Field kRuleMetadata[] = {{"annotations", Is::text_map}};
constexpr Field kRule[] = {{.name = "action", .is = Is::choice, .accepts = "Allow|Deny|Log|Pass", .required = true},
                           {"ipVersion", Is::integer, "4:6"},
                           {"protocol", Is::protocol},
                           {"notProtocol", Is::protocol},
                           {"icmp", Is::object, {}, kIcmp},
                           {"notICMP", Is::object, {}, kIcmp},
                           {"source", Is::object, {}, kEntity},
                           {"destination", Is::object, {}, kEntity},
                           {"http", Is::object, {}, kHttp},
                           {"metadata", Is::object, {}, kRuleMetadata}};

constexpr Field kEndpointPort[] = {{.name = "name", .is = Is::name, .required = true},
                                   {.name = "protocol", .is = Is::protocol, .required = true},
                                   {.name = "port", .is = Is::integer, .accepts = "1:65535", .required = true},
                                   {"hostPort", Is::integer, "0:65535"},
                                   {"hostIP", Is::text}};
constexpr Field kIpNat[] = {{.name = "internalIP", .is = Is::ip, .required = true},
                            {.name = "externalIP", .is = Is::ip, .required = true}};

constexpr Field kNodeBgp[] = {{"asNumber", Is::as_number},
                              {"ipv4Address", Is::address_in},
                              {"ipv6Address", Is::address_in},
                              {"ipv4IPIPTunnelAddr", Is::text},
                              {"routeReflectorClusterID", Is::ip}};
constexpr Field kNodeAddress[] = {
    {.name = "address", .is = Is::text, .accepts = "253", .required = true},
    {"type", Is::choice, "InternalIP|ExternalIP|CalicoNodeIP|Hostname|InternalDNS|ExternalDNS"}};
constexpr Field kOrchRef[] = {{"nodeName"}, {"orchestrator"}};
constexpr Field kWireguard[] = {{"interfaceIPv4Address", Is::text}, {"interfaceIPv6Address", Is::text}};

constexpr Field kCidrOnly[] = {{.name = "cidr", .is = Is::cidr, .required = true}};
constexpr Field kCommunity[] = {{.name = "name", .is = Is::text, .accepts = "253", .required = true},
                                {.name = "value", .is = Is::text, .accepts = "64", .required = true}};
constexpr Field kAdvertisement[] = {
    {.name = "cidr", .is = Is::cidr, .required = true},
    {.name = "communities", .is = Is::text, .accepts = "253", .list = true, .required = true}};
constexpr Field kSecretRef[] = {{.name = "name", .is = Is::text, .accepts = "253", .required = true},
                                {.name = "key", .is = Is::text, .accepts = "253", .required = true},
                                {"optional", Is::boolean}};
constexpr Field kPassword[] = {{.name = "secretKeyRef", .is = Is::object, .inner = kSecretRef, .required = true}};

constexpr Field kPrefixLength[] = {{"min", Is::integer, "0:128"}, {"max", Is::integer, "0:128"}};
constexpr Field kValues[] = {{.name = "values", .is = Is::text, .accepts = "64", .list = true}};
constexpr Field kTextValue[] = {{.name = "value", .is = Is::text, .accepts = "64", .required = true}};
constexpr Field kAsPath[] = {{.name = "prefix", .is = Is::as_number, .list = true, .required = true}};
constexpr Field kPriority[] = {{.name = "value", .is = Is::integer, .accepts = "1:2147483646", .required = true}};
constexpr Field kOperation[] = {{"addCommunity", Is::object, {}, kTextValue},
                                {"prependASPath", Is::object, {}, kAsPath},
                                {"setPriority", Is::object, {}, kPriority}};
constexpr Field kFilterRule[] = {{.name = "action", .is = Is::choice, .accepts = "Accept|Reject", .required = true},
                                 {"cidr", Is::cidr},
                                 {"matchOperator", Is::choice, "Equal|NotEqual|In|NotIn"},
                                 {"prefixLength", Is::object, {}, kPrefixLength},
                                 {"source", Is::choice, "RemotePeers"},
                                 {"interface", Is::text, "32"},
                                 {"peerType", Is::choice, "eBGP|iBGP"},
                                 {"communities", Is::object, {}, kValues},
                                 {.name = "asPathPrefix", .is = Is::as_number, .list = true},
                                 {"priority", Is::integer, "1:2147483646"},
                                 {.name = "operations", .is = Is::object, .inner = kOperation, .list = true}};

constexpr Field kNetworkPolicy[] = {{"tier", Is::name},
                                    {"order", Is::number},
                                    {"selector", Is::selector},
                                    {.name = "types", .is = Is::choice, .accepts = "Ingress|Egress", .list = true},
                                    {.name = "ingress", .is = Is::object, .inner = kRule, .list = true},
                                    {.name = "egress", .is = Is::object, .inner = kRule, .list = true},
                                    {"serviceAccountSelector", Is::selector, "pcsa."},
                                    {.name = "performanceHints", .is = Is::text, .list = true}};
constexpr Field kGlobalNetworkPolicy[] = {
    {"tier", Is::name},
    {"order", Is::number},
    {"selector", Is::selector},
    {.name = "types", .is = Is::choice, .accepts = "Ingress|Egress", .list = true},
    {.name = "ingress", .is = Is::object, .inner = kRule, .list = true},
    {.name = "egress", .is = Is::object, .inner = kRule, .list = true},
    {"serviceAccountSelector", Is::selector, "pcsa."},
    {.name = "performanceHints", .is = Is::text, .list = true},
    {"namespaceSelector", Is::selector, "pcns."},
    {"doNotTrack", Is::boolean},
    {"preDNAT", Is::boolean},
    {"applyOnForward", Is::boolean}};
constexpr Field kProfile[] = {{.name = "ingress", .is = Is::object, .inner = kRule, .list = true},
                              {.name = "egress", .is = Is::object, .inner = kRule, .list = true},
                              {"labelsToApply", Is::label_map}};
constexpr Field kWorkloadEndpoint[] = {{.name = "orchestrator", .is = Is::text, .accepts = "253", .required = true},
                                       {.name = "workload", .is = Is::text, .accepts = "253", .required = true},
                                       {.name = "node", .is = Is::text, .accepts = "253", .required = true},
                                       {.name = "endpoint", .is = Is::text, .accepts = "253", .required = true},
                                       {"containerID", Is::text},
                                       {"pod", Is::text},
                                       {"serviceAccountName", Is::text},
                                       {.name = "interfaceName", .is = Is::text, .accepts = "15", .required = true},
                                       {"mac", Is::mac},
                                       {"ipv4Gateway", Is::ip},
                                       {"ipv6Gateway", Is::ip},
                                       {.name = "ipNetworks", .is = Is::network, .list = true},
                                       {.name = "allowedIps", .is = Is::network, .list = true},
                                       {.name = "ipNATs", .is = Is::object, .inner = kIpNat, .list = true},
                                       {.name = "profiles", .is = Is::text, .list = true},
                                       {.name = "ports", .is = Is::object, .inner = kEndpointPort, .list = true},
                                       {.name = "allowSpoofedSourcePrefixes", .is = Is::cidr, .list = true},
                                       {"qosControls", Is::any}};
constexpr Field kHostEndpoint[] = {{.name = "node", .is = Is::text, .accepts = "253", .required = true},
                                   {"interfaceName", Is::text, "15"},
                                   {.name = "expectedIPs", .is = Is::ip, .list = true},
                                   {.name = "profiles", .is = Is::text, .list = true},
                                   {.name = "ports", .is = Is::object, .inner = kEndpointPort, .list = true},
                                   {"qosControls", Is::any}};
constexpr Field kNode[] = {{"bgp", Is::object, {}, kNodeBgp},
                           {.name = "addresses", .is = Is::object, .inner = kNodeAddress, .list = true},
                           {.name = "orchRefs", .is = Is::object, .inner = kOrchRef, .list = true},
                           {"ipv4VXLANTunnelAddr", Is::text},
                           {"vxlanTunnelMACAddr", Is::text},
                           {"ipv6VXLANTunnelAddr", Is::text},
                           {"vxlanTunnelMACAddrV6", Is::text},
                           {"wireguard", Is::object, {}, kWireguard}};
constexpr Field kBgpConfiguration[] = {
    {"logSeverityScreen", Is::text},
    {"nodeToNodeMeshEnabled", Is::boolean},
    {"asNumber", Is::as_number},
    {"listenPort", Is::integer, "1:65535"},
    {"nodeMeshMaxRestartTime", Is::text},
    {"nodeMeshPassword", Is::object, {}, kPassword},
    {"bindMode", Is::choice, "None|NodeIP"},
    {.name = "communities", .is = Is::object, .inner = kCommunity, .list = true},
    {.name = "prefixAdvertisements", .is = Is::object, .inner = kAdvertisement, .list = true},
    {.name = "serviceClusterIPs", .is = Is::object, .inner = kCidrOnly, .list = true},
    {.name = "serviceExternalIPs", .is = Is::object, .inner = kCidrOnly, .list = true},
    {.name = "serviceLoadBalancerIPs", .is = Is::object, .inner = kCidrOnly, .list = true},
    {"serviceLoadBalancerAggregation", Is::text},
    {.name = "ignoredInterfaces", .is = Is::text, .list = true},
    {"localWorkloadPeeringIPV4", Is::text},
    {"localWorkloadPeeringIPV6", Is::text},
    {"programClusterRoutes", Is::text},
    {"ipv4NormalRoutePriority", Is::integer, "1:2147483646"},
    {"ipv4ElevatedRoutePriority", Is::integer, "1:2147483646"},
    {"ipv6NormalRoutePriority", Is::integer, "1:2147483646"},
    {"ipv6ElevatedRoutePriority", Is::integer, "1:2147483646"}};
constexpr Field kBgpPeer[] = {{"node", Is::text, "253"},
                              {"nodeSelector", Is::selector},
                              {"peerIP", Is::text, "64"},
                              {"asNumber", Is::as_number},
                              {"peerSelector", Is::selector},
                              {"keepOriginalNextHop", Is::boolean},
                              {"nextHopMode", Is::choice, "Auto|Self|Keep"},
                              {"password", Is::object, {}, kPassword},
                              {"sourceAddress", Is::choice, "UseNodeIP|None"},
                              {"maxRestartTime", Is::text},
                              {"keepaliveTime", Is::text},
                              {"numAllowedLocalASNumbers", Is::integer, "0:10"},
                              {"ttlSecurity", Is::integer, "0:254"},
                              {"reachableBy", Is::text},
                              {.name = "filters", .is = Is::text, .list = true},
                              {"localASNumber", Is::as_number},
                              {"localWorkloadSelector", Is::selector},
                              {"failureDetectionMode", Is::text},
                              {"restartMode", Is::text}};
constexpr Field kBgpFilter[] = {{.name = "importV4", .is = Is::object, .inner = kFilterRule, .list = true},
                                {.name = "exportV4", .is = Is::object, .inner = kFilterRule, .list = true},
                                {.name = "importV6", .is = Is::object, .inner = kFilterRule, .list = true},
                                {.name = "exportV6", .is = Is::object, .inner = kFilterRule, .list = true}};
constexpr Field kClusterInformation[] = {
    {"clusterGUID"}, {"clusterType"}, {"calicoVersion"}, {"cnxVersion"}, {"datastoreReady", Is::boolean}, {"variant"}};
constexpr Field kIpPool[] = {
    {.name = "cidr", .is = Is::cidr, .required = true},
    {"vxlanMode", Is::choice, "Never|Always|CrossSubnet"},
    {"ipipMode", Is::choice, "Never|Always|CrossSubnet"},
    {"natOutgoing", Is::boolean},
    {"disabled", Is::boolean},
    {"disableBGPExport", Is::boolean},
    {"blockSize", Is::integer, "20:128"},
    {"nodeSelector", Is::selector},
    {"namespaceSelector", Is::selector, "pcns."},
    {.name = "allowedUses", .is = Is::choice, .accepts = "Workload|Tunnel|LoadBalancer", .list = true},
    {"assignmentMode", Is::choice, "Automatic|Manual"}};
constexpr Field kNetworkSet[] = {{.name = "nets", .is = Is::network, .list = true}};
constexpr Field kTier[] = {{"order", Is::number}, {"defaultAction", Is::choice, "Deny|Pass"}};

// Upstream's parameters. Those our roles read have a type; of the others only the name is known here.
constexpr Field kFelixConfiguration[] = {
    {"nodeSelector", Is::selector},
    {"interfacePrefix", Is::text, "255"},
    {"metadataAddr", Is::text, "255"},
    {"metadataPort", Is::integer, "0:65535"},
    {"defaultEndpointToHostAction", Is::choice, "Drop|Return|Accept|DROP|RETURN|ACCEPT"},
    {"deviceRouteProtocol", Is::integer, "1:255"},
    {"endpointReportingEnabled", Is::boolean},
    {"reportingInterval", Is::scalar},
    {"allowIPIPPacketsFromWorkloads", Is::boolean},
    {"allowVXLANPacketsFromWorkloads", Is::boolean},
    {"awsSrcDstCheck", Is::any},
    {"cgroupV2Path", Is::any},
    {"chainInsertMode", Is::any},
    {"dataplaneDriver", Is::any},
    {"dataplaneWatchdogTimeout", Is::any},
    {"deviceRouteSourceAddress", Is::any},
    {"deviceRouteSourceAddressIPv6", Is::any},
    {"disableConntrackInvalidCheck", Is::boolean},
    {"endpointReportingDelay", Is::any},
    {"endpointStatusPathPrefix", Is::any},
    {"externalNodesList", Is::any},
    {"failsafeInboundHostPorts", Is::any},
    {"failsafeOutboundHostPorts", Is::any},
    {"featureDetectOverride", Is::any},
    {"featureGates", Is::any},
    {"floatingIPs", Is::any},
    {"genericXDPEnabled", Is::boolean},
    {"goGCThreshold", Is::any},
    {"goMaxProcs", Is::any},
    {"goMemoryLimitMB", Is::any},
    {"healthEnabled", Is::boolean},
    {"healthHost", Is::any},
    {"healthPort", Is::any},
    {"healthTimeoutOverrides", Is::any},
    {"interfaceExclude", Is::any},
    {"interfaceRefreshInterval", Is::any},
    {"ipForwarding", Is::any},
    {"ipipEnabled", Is::boolean},
    {"ipipMTU", Is::any},
    {"ipsetsRefreshInterval", Is::any},
    {"iptablesBackend", Is::any},
    {"iptablesFilterAllowAction", Is::any},
    {"iptablesFilterDenyAction", Is::any},
    {"iptablesLockFilePath", Is::any},
    {"iptablesLockProbeInterval", Is::any},
    {"iptablesLockTimeout", Is::any},
    {"iptablesMangleAllowAction", Is::any},
    {"iptablesMarkMask", Is::any},
    {"iptablesNATOutgoingInterfaceFilter", Is::any},
    {"iptablesPostWriteCheckInterval", Is::any},
    {"iptablesRefreshInterval", Is::any},
    {"ipv4ElevatedRoutePriority", Is::any},
    {"ipv4NormalRoutePriority", Is::any},
    {"ipv6ElevatedRoutePriority", Is::any},
    {"ipv6NormalRoutePriority", Is::any},
    {"ipv6Support", Is::boolean},
    {"istioAmbientMode", Is::any},
    {"kubeNodePortRanges", Is::any},
    {"liveMigrationRouteConvergenceTime", Is::any},
    {"logActionRateLimit", Is::any},
    {"logActionRateLimitBurst", Is::any},
    {"logDebugFilenameRegex", Is::any},
    {"logFilePath", Is::any},
    {"logPrefix", Is::any},
    {"logSeverityFile", Is::any},
    {"logSeverityScreen", Is::any},
    {"logSeveritySys", Is::any},
    {"maxIpsetSize", Is::any},
    {"mtuIfacePattern", Is::any},
    {"natOutgoingAddress", Is::any},
    {"natOutgoingExclusions", Is::any},
    {"natPortRange", Is::any},
    {"netlinkTimeout", Is::any},
    {"nftablesFilterAllowAction", Is::any},
    {"nftablesFilterDenyAction", Is::any},
    {"nftablesFlowTableOffload", Is::any},
    {"nftablesMangleAllowAction", Is::any},
    {"nftablesMarkMask", Is::any},
    {"nftablesMode", Is::any},
    {"nftablesRefreshInterval", Is::any},
    {"openstackRegion", Is::any},
    {"policySyncPathPrefix", Is::any},
    {"programClusterRoutes", Is::any},
    {"prometheusGoMetricsEnabled", Is::boolean},
    {"prometheusMetricsCAFile", Is::any},
    {"prometheusMetricsCertFile", Is::any},
    {"prometheusMetricsClientAuth", Is::any},
    {"prometheusMetricsEnabled", Is::boolean},
    {"prometheusMetricsHost", Is::any},
    {"prometheusMetricsKeyFile", Is::any},
    {"prometheusMetricsPort", Is::any},
    {"prometheusProcessMetricsEnabled", Is::boolean},
    {"prometheusWireGuardMetricsEnabled", Is::boolean},
    {"removeExternalRoutes", Is::boolean},
    {"reportingTTL", Is::any},
    {"requireMTUFile", Is::boolean},
    {"routeRefreshInterval", Is::any},
    {"routeSource", Is::any},
    {"routeSyncDisabled", Is::boolean},
    {"routeTableRange", Is::any},
    {"routeTableRanges", Is::any},
    {"serviceLoopPrevention", Is::any},
    {"sidecarAccelerationEnabled", Is::boolean},
    {"usageReportingEnabled", Is::boolean},
    {"usageReportingInitialDelay", Is::any},
    {"usageReportingInterval", Is::any},
    {"useInternalDataplaneDriver", Is::boolean},
    {"vxlanEnabled", Is::boolean},
    {"vxlanMTU", Is::any},
    {"vxlanMTUV6", Is::any},
    {"vxlanPort", Is::any},
    {"vxlanVNI", Is::any},
    {"windowsManageFirewallRules", Is::any},
    {"wireguardEnabled", Is::boolean},
    {"wireguardEnabledV6", Is::boolean},
    {"wireguardHostEncryptionEnabled", Is::boolean},
    {"wireguardInterfaceName", Is::any},
    {"wireguardInterfaceNameV6", Is::any},
    {"wireguardKeepAlive", Is::any},
    {"wireguardListeningPort", Is::any},
    {"wireguardListeningPortV6", Is::any},
    {"wireguardMTU", Is::any},
    {"wireguardMTUV6", Is::any},
    {"wireguardRoutingRulePriority", Is::any},
    {"wireguardThreadingEnabled", Is::boolean},
    {"workloadSourceSpoofing", Is::any},
    {"xdpEnabled", Is::boolean},
    {"xdpRefreshInterval", Is::any}};

constexpr Field kMetadata[] = {{.name = "name", .is = Is::text, .accepts = "1024"},
                               {"namespace", Is::text, "253"},
                               {"labels", Is::label_map},
                               {"annotations", Is::text_map},
                               {"resourceVersion", Is::scalar},
                               {"uid", Is::text, "64"},
                               {"creationTimestamp", Is::text, "64"}};

}  // namespace

namespace fields {
constinit const Fields metadata = kMetadata;
constinit const Fields network_policy = kNetworkPolicy;
constinit const Fields global_network_policy = kGlobalNetworkPolicy;
constinit const Fields profile = kProfile;
constinit const Fields workload_endpoint = kWorkloadEndpoint;
constinit const Fields host_endpoint = kHostEndpoint;
constinit const Fields node = kNode;
constinit const Fields bgp_configuration = kBgpConfiguration;
constinit const Fields bgp_peer = kBgpPeer;
constinit const Fields bgp_filter = kBgpFilter;
constinit const Fields felix_configuration = kFelixConfiguration;
constinit const Fields cluster_information = kClusterInformation;
constinit const Fields ip_pool = kIpPool;
constinit const Fields network_set = kNetworkSet;
constinit const Fields tier = kTier;
}  // namespace fields

}  // namespace calico::resources
