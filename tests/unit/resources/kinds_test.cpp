// Each kind: one that is good, and each way to be wrong that its readers or upstream refuse, with what is said of it.
#include "core/resources/kinds.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <set>

#include "core/model/keys.hpp"
#include "core/resources/manifest.hpp"
#include "tests/support/fixtures.hpp"

namespace calico::resources {
namespace {

namespace json = boost::json;
using testing::HasSubstr;

/// Every fault of a text, one a line.
std::string faults_of(const std::string& text, ReadOptions options = {}) {
  Manifest m;
  read_manifest("f", text, options, m);
  check_duplicates(m);
  std::string out;
  for (const auto& f : m.faults) out += f.to_string() + "\n";
  return out;
}

std::string resource(const std::string& kind, const std::string& metadata, const std::string& spec) {
  return "apiVersion: projectcalico.org/v3\nkind: " + kind + "\nmetadata: " + metadata + "\nspec: " + spec + "\n";
}

struct Case {
  const char* kind;
  const char* metadata;
  const char* spec;
  const char* fault;  ///< "" = good
};

constexpr const char* kWepSpec =
    "{orchestrator: openstack, workload: vm-1, node: host-a, endpoint: p-1, interfaceName: tap1, mac: "
    "'fa:16:3e:00:00:01', ipNetworks: [10.65.0.2/32, 'fd00::2/128'], ipv4Gateway: 10.65.0.1}";

const Case kCases[] = {
    // --- NetworkPolicy
    {"NetworkPolicy", "{name: web, namespace: openstack}",
     "{order: 10, selector: \"role == 'web'\", types: [Ingress], ingress: [{action: Allow, ipVersion: 4, protocol: "
     "TCP, source: {nets: [10.0.0.0/8], notNets: [10.1.0.0/16]}, destination: {ports: [80, '8000:8100']}}, {action: "
     "Deny, protocol: 132}, {action: Allow, protocol: ICMP, icmp: {type: 8, code: 0}}]}",
     ""},
    {"NetworkPolicy", "{name: web}", "{}", "metadata.namespace: missing; OpenStack's endpoints are in 'openstack'"},
    {"NetworkPolicy", "{name: Web, namespace: openstack}", "{}", "metadata.name: 'default.Web': need a-z"},
    {"NetworkPolicy", "{name: a/b, namespace: openstack}", "{}", "metadata.name: 'default.a/b'"},
    {"NetworkPolicy", "{name: web, namespace: Open}", "{}", "metadata.namespace: 'Open'"},
    {"NetworkPolicy", "{namespace: openstack}", "{}", "metadata.name: missing"},
    {"NetworkPolicy", "{name: web, namespace: openstack}", "{selectr: x}",
     "spec.selectr: no such field; did you mean selector?"},
    {"NetworkPolicy", "{name: web, namespace: openstack}", "{doNotTrack: true}", "spec.doNotTrack: no such field"},
    {"NetworkPolicy", "{name: web, namespace: openstack}", "{selector: 'role =='}",
     "spec.selector: 'role ==': need a selector"},
    {"NetworkPolicy", "{name: web, namespace: openstack}", "{order: '10'}",
     "spec.order: '10': need a number, without quotes"},
    {"NetworkPolicy", "{name: web, namespace: openstack}", "{types: [ingress]}",
     "spec.types[0]: 'ingress': accepted: Ingress, Egress"},
    {"NetworkPolicy", "{name: web, namespace: openstack}", "{types: Ingress}", "spec.types: 'Ingress': need a list"},
    {"NetworkPolicy", "{name: web, namespace: openstack}", "{ingress: [{}]}", "spec.ingress[0].action: missing"},
    {"NetworkPolicy", "{name: web, namespace: openstack}", "{ingress: [null]}",
     "spec.ingress[0]: null: an element is missing"},
    {"NetworkPolicy", "{name: web, namespace: openstack}", "{ingress: [{action: allow}]}",
     "spec.ingress[0].action: 'allow': accepted: Allow, Deny, Log, Pass"},
    {"NetworkPolicy", "{name: web, namespace: openstack}", "{ingress: [{action: Allow, protocol: tpc}]}",
     "spec.ingress[0].protocol: 'tpc': accepted: TCP, UDP"},
    {"NetworkPolicy", "{name: web, namespace: openstack}", "{ingress: [{action: Allow, protocol: 300}]}",
     "spec.ingress[0].protocol: 300"},
    {"NetworkPolicy", "{name: web, namespace: openstack}",
     "{ingress: [{action: Allow, protocol: TCP, destination: {ports: [70000]}}]}",
     "spec.ingress[0].destination.ports[0]: 70000: need a port"},
    {"NetworkPolicy", "{name: web, namespace: openstack}",
     "{ingress: [{action: Allow, protocol: TCP, destination: {ports: ['90:80']}}]}",
     "the first port is above the last"},
    {"NetworkPolicy", "{name: web, namespace: openstack}",
     "{ingress: [{action: Allow, protocol: TCP, destination: {port: [80]}}]}", "did you mean ports?"},
    {"NetworkPolicy", "{name: web, namespace: openstack}",
     "{ingress: [{action: Allow, source: {nets: [10.0.0.0/33]}}]}", "spec.ingress[0].source.nets[0]: '10.0.0.0/33'"},
    {"NetworkPolicy", "{name: web, namespace: openstack}", "{ingress: [{action: Allow, destination: {ports: [80]}}]}",
     "spec.ingress[0]: ports need protocol TCP"},
    {"NetworkPolicy", "{name: web, namespace: openstack}", "{ingress: [{action: Allow, icmp: {type: 8}}]}",
     "spec.ingress[0]: icmp needs protocol"},
    {"NetworkPolicy", "{name: web, namespace: openstack}", "{ingress: [{action: Allow, ipVersion: 5}]}", "need 4 or 6"},
    {"NetworkPolicy", "{name: web, namespace: openstack}",
     "{ingress: [{action: Allow, protocol: TCP, destination: {ports: [http]}}]}", ""},
    {"NetworkPolicy", "{name: web, namespace: openstack}",
     "{ingress: [{action: Allow, protocol: TCP, destination: {ports: ['no name']}}]}", "or the name of a port"},
    {"NetworkPolicy", "{name: security.web, namespace: openstack}", "{tier: security}", ""},
    {"Tier", "{name: security}", "{order: 10, defaultAction: Perhaps}",
     "spec.defaultAction: 'Perhaps': accepted: Deny, Pass"},
    {"GlobalNetworkSet", "{name: office}", "{nets: ['10.0.0.0/33']}", "spec.nets[0]: "},
    // --- GlobalNetworkPolicy
    {"GlobalNetworkPolicy", "{name: deny-all}",
     "{selector: all(), namespaceSelector: global(), types: [Ingress, Egress]}", ""},
    {"GlobalNetworkPolicy", "{name: deny-all, namespace: openstack}", "{}", "a GlobalNetworkPolicy has no namespace"},
    {"GlobalNetworkPolicy", "{name: deny-all}", "{doNotTrack: true, applyOnForward: true}", ""},
    {"GlobalNetworkPolicy", "{name: deny-all}", "{preDNAT: true, applyOnForward: true, types: [Ingress]}", ""},
    {"GlobalNetworkPolicy", "{name: deny-all}", "{doNotTrack: true}", "spec.applyOnForward: must be true"},
    {"GlobalNetworkPolicy", "{name: deny-all}", "{doNotTrack: true, preDNAT: true, applyOnForward: true}",
     "exclude each other"},
    {"GlobalNetworkPolicy", "{name: deny-all}", "{preDNAT: true, applyOnForward: true, types: [Ingress, Egress]}",
     "spec.preDNAT: is for incoming traffic"},
    {"GlobalNetworkPolicy", "{name: deny-all}", "{preDNAT: true, applyOnForward: true, egress: [{action: Deny}]}",
     "spec.preDNAT: is for incoming traffic"},
    {"GlobalNetworkPolicy", "{name: deny-all}", "{applyOnForward: 'true'}", "need true or false, without quotes"},
    // --- WorkloadEndpoint
    {"WorkloadEndpoint", "{namespace: openstack}", kWepSpec, ""},
    {"WorkloadEndpoint", "{name: host--a-openstack-vm--1-p--1, namespace: openstack}", kWepSpec, ""},
    {"WorkloadEndpoint", "{name: host--a-openstack-vm--1-p--2, namespace: openstack}", kWepSpec,
     "metadata.name: of this spec it is host--a-openstack-vm--1-p--1"},
    {"WorkloadEndpoint", "{name: host-a, namespace: openstack}", kWepSpec,
     "metadata.name: 'host-a': need node-orchestrator-workload-endpoint"},
    {"WorkloadEndpoint", "{namespace: openstack, labels: {projectcalico.org/namespace: other}}", kWepSpec,
     "contradicts metadata.namespace"},
    {"WorkloadEndpoint", "{namespace: openstack}",
     "{orchestrator: o, workload: w, node: h, endpoint: e, interfaceName: tap1, mac: xx}",
     "spec.mac: 'xx': need a MAC address"},
    {"WorkloadEndpoint", "{namespace: openstack}",
     "{orchestrator: o, workload: w, node: h, endpoint: e, interfaceName: 'a b'}",
     "spec.interfaceName: need the name of an interface"},
    {"WorkloadEndpoint", "{namespace: openstack}", "{orchestrator: o, node: h, endpoint: e, interfaceName: tap1}",
     "spec.workload: missing"},
    {"WorkloadEndpoint", "{namespace: openstack}",
     "{orchestrator: o, workload: w/x, node: h, endpoint: e, interfaceName: tap1}", "metadata.name: 'h-o-w/x-e'"},
    {"WorkloadEndpoint", "{namespace: openstack}",
     "{orchestrator: o, workload: w, node: h, endpoint: e, interfaceName: tap1, ipNATs: [{internalIP: 10.0.0.1}]}",
     "spec.ipNATs[0].externalIP: missing"},
    // --- Node
    {"Node", "{name: Host_A.example, labels: {zone: a}}",
     "{bgp: {asNumber: '1.10', ipv4Address: 192.0.2.1/24, routeReflectorClusterID: 192.0.2.9}, addresses: [{address: "
     "192.0.2.1, type: InternalIP}]}",
     ""},
    {"Node", "{name: a}", "{bgp: {asNumber: 1.10}}",
     "spec.bgp.asNumber: 1.1: need an AS number from 1 to 4294967295; the form with a dot in quotes"},
    {"Node", "{name: a}", "{bgp: {asNumber: 0}}", "need an AS number"},
    {"Node", "{name: a}", "{bgp: {ipv4Address: 192.0.2.1/40}}", "spec.bgp.ipv4Address: '192.0.2.1/40'"},
    {"Node", "{name: a b}", "{}", "need the name of a host"},
    {"Node", "{name: a, labels: {zone: 1}}", "{}", "metadata.labels.zone: 1: need text: put it in quotes"},
    {"Node", "{name: a, labels: {'a b': x}}", "{}", "is no name of a label"},
    {"Node", "{name: a, labels: {a: 'x y'}}", "{}", "metadata.labels.a: 'x y': need at most 63"},
    {"Node", "{name: a, lables: {a: b}}", "{}", "metadata.lables: no such field; did you mean labels?"},
    // --- BGPConfiguration
    {"BGPConfiguration", "{name: default}",
     "{asNumber: 64512, nodeToNodeMeshEnabled: false, listenPort: 179, communities: [{name: bgp-large, value: "
     "'1:2:3'}], prefixAdvertisements: [{cidr: 10.0.0.0/8, communities: [bgp-large]}]}",
     ""},
    {"BGPConfiguration", "{name: default}", "{listenPort: 0}",
     "spec.listenPort: 0: need a whole number from 1 to 65535"},
    {"BGPConfiguration", "{name: default}", "{prefixAdvertisements: [{cidr: 10.0.0.0/8, communities: [nosuch]}]}",
     "is not among communities"},
    {"BGPConfiguration", "{name: default}", "{nodeMeshPassword: {secretKeyRef: {name: a, key: b}}}",
     "spec.nodeMeshPassword: not supported"},
    {"BGPConfiguration", "{name: default}", "{nodeMeshMaxRestartTime: soon}", "spec.nodeMeshMaxRestartTime"},
    // --- BGPPeer
    {"BGPPeer", "{name: tor}",
     "{peerIP: 192.0.2.1, asNumber: 65001, nodeSelector: has(rack), filters: [f], keepaliveTime: 30s}", ""},
    {"BGPPeer", "{name: tor}", "{peerIP: 192.0.2.1}", "spec.asNumber: missing; peerIP needs it"},
    {"BGPPeer", "{name: tor}", "{}", "need either peerIP (with asNumber) or peerSelector"},
    {"BGPPeer", "{name: tor}", "{peerIP: 192.0.2.999, asNumber: 1}", "spec.peerIP"},
    {"BGPPeer", "{name: tor}", "{peerIP: 192.0.2.1, asNumber: 1, password: {secretKeyRef: {name: ../x, key: k}}}",
     "spec.password.secretKeyRef: need a name"},
    {"BGPPeer", "{name: tor}", "{peerIP: 192.0.2.1, asNumber: 1, nextHopMode: self}", "accepted: Auto, Self, Keep"},
    // --- BGPFilter
    {"BGPFilter", "{name: f}",
     "{importV4: [{action: Accept, cidr: 10.0.0.0/8, matchOperator: In, prefixLength: {min: 16, max: 24}}, {action: "
     "Reject}], exportV6: [{action: Accept, interface: eth*}]}",
     ""},
    {"BGPFilter", "{name: f}", "{importV4: [{action: accept}]}", "accepted: Accept, Reject"},
    {"BGPFilter", "{name: f}", "{importV4: [{action: Accept, cidr: 'fd00::/8', matchOperator: In}]}",
     "of the other family"},
    {"BGPFilter", "{name: f}", "{importV4: [{action: Accept, cidr: 10.0.0.0/8}]}",
     "cidr and matchOperator go together"},
    {"BGPFilter", "{name: f}", "{importv4: []}", "did you mean importV4?"},
    // --- FelixConfiguration
    {"FelixConfiguration", "{name: node.Host_A}",
     "{interfacePrefix: tap, bpfEnabled: false, flowLogsFlushInterval: 15s, metadataPort: 8775, "
     "failsafeInboundHostPorts: [{protocol: tcp, port: 22}]}",
     ""},
    {"FelixConfiguration", "{name: default}", "{interfacePrefx: tap}", "did you mean interfacePrefix?"},
    {"FelixConfiguration", "{name: default}", "{endpointReportingEnabled: 'yes'}", "need true or false"},
    {"FelixConfiguration", "{name: default}", "{deviceRouteProtocol: 256}", "need a whole number from 1 to 255"},
    {"FelixConfiguration", "{name: node./x}", "{}", "metadata.name"},
    {"FelixConfiguration", "{name: gpu}", "{nodeSelector: rack == 'r1', healthEnabled: true}", ""},
    {"FelixConfiguration", "{name: gpu}", "{nodeSelector: rack ==}", "spec.nodeSelector"},
    {"FelixConfiguration", "{name: default}", "{nodeSelector: all()}", "only under other names"},
    {"FelixConfiguration", "{name: node.h}", "{nodeSelector: all()}", "only under other names"},
    // --- ClusterInformation
    {"ClusterInformation", "{name: default}", "{clusterGUID: abc, datastoreReady: true}", "is read only here"},
    // --- HostEndpoint
    {"HostEndpoint", "{name: host-a-eth0}",
     "{node: host-a, interfaceName: eth0, expectedIPs: [192.0.2.1], ports: [{name: ssh, protocol: TCP, port: 22}]}",
     ""},
    {"HostEndpoint", "{name: host-a-eth0}", "{node: host-a}", "spec.interfaceName: need it, or expectedIPs"},
    {"HostEndpoint", "{name: host-a-eth0}", "{interfaceName: eth0}", "spec.node: missing"},
    {"HostEndpoint", "{name: host-a-eth0}", "{node: a, interfaceName: eth0, expectedIPs: [192.0.2.1/24]}",
     "spec.expectedIPs[0]"},
    // --- Profile
    {"Profile", "{name: p}", "{ingress: [{action: Allow}], egress: [{action: Allow}], labelsToApply: {a: b}}", ""},
    {"Profile", "{name: p}", "{ingress: [{action: Allow, destination: {ports: [80]}}]}", "ports need protocol"},
    {"Profile", "{name: p}", "{selector: all()}", "spec.selector: no such field"},
    // --- IPPool
    {"IPPool", "{name: pool}",
     "{cidr: 10.65.0.0/16, natOutgoing: true, ipipMode: Never, blockSize: 26, nodeSelector: all(), allowedUses: "
     "[Workload]}",
     ""},
    {"IPPool", "{name: pool}", "{}", "spec.cidr: missing"},
    {"IPPool", "{name: pool}", "{cidr: 10.65.0.0}", "spec.cidr: '10.65.0.0': need ADDRESS/LENGTH"},
    {"IPPool", "{name: pool}", "{cidr: 10.65.0.0/16, blockSize: 64}", "need 20 to 32"},
    {"IPPool", "{name: pool}", "{cidr: 10.65.0.0/28}", "smaller than one block"},
    {"IPPool", "{name: pool}", "{cidr: 10.65.0.0/16, ipipMode: Always, vxlanMode: Always}",
     "not together with ipipMode"},
    {"IPPool", "{name: pool}", "{cidr: 'fd00::/64', ipipMode: Always}", "not of an IPv6 pool"},
    // --- NetworkSet, GlobalNetworkSet, Tier
    {"NetworkSet", "{name: s, namespace: openstack, labels: {role: dns}}", "{nets: [10.0.0.1, 10.1.0.0/16]}", ""},
    {"NetworkSet", "{name: s, namespace: openstack}", "{nets: [nowhere]}", "spec.nets[0]: 'nowhere'"},
    {"GlobalNetworkSet", "{name: s}", "{nets: ['fd00::/8']}", ""},
    {"GlobalNetworkSet", "{name: s}", "{nets: {a: b}}", "spec.nets: {…}: need a list"},
    {"Tier", "{name: security}", "{order: 100.5, defaultAction: Pass}", ""},
    {"Tier", "{name: security}", "{defaultAction: Allow}", "accepted: Deny, Pass"},
    // --- of every kind
    {"Node", "{name: a, resourceVersion: '12', uid: x, creationTimestamp: '2026-01-01T00:00:00Z'}", "{}", ""},
    {"Node", "{name: a, resourceVersion: twelve}", "{}", "metadata.resourceVersion: 'twelve': need the number"},
    {"Node", "{name: a}", "[1]", "spec: […]: need an object"},
    {"Node", "[a]", "{}", "metadata: […]: need an object with a name"},
    {"node", "{name: a}", "{}", "unknown kind 'node'; did you mean Node?"},
    {"NetworkPolcy", "{name: a}", "{}", "did you mean NetworkPolicy?"},
    {"KubeControllersConfiguration", "{name: a}", "{}", "not among the kinds handled here"},
    {"Zzz", "{name: a}", "{}", "there are: NetworkPolicy, GlobalNetworkPolicy"},
};

TEST(Kinds, EachIsReadAndEachFaultIsNamed) {
  std::set<std::string> good;
  for (const auto& c : kCases) {
    const auto text = resource(c.kind, c.metadata, c.spec);
    const auto faults = faults_of(text);
    if (*c.fault == '\0') {
      EXPECT_EQ(faults, "") << text;
      good.insert(c.kind);
    } else {
      EXPECT_THAT(faults, HasSubstr(c.fault)) << text;
      EXPECT_THAT(faults, testing::StartsWith("f:")) << text;
    }
  }
  for (const auto& k : kinds()) EXPECT_TRUE(k.read_only || good.count(k.name)) << k.name << " has no good example here";
  EXPECT_EQ(
      faults_of(resource("ClusterInformation", "{name: default}", "{clusterGUID: abc}"), {.read_only_kinds = true}),
      "");
}

TEST(Kinds, AreFoundByTheirNames) {
  for (const auto& k : kinds()) {
    EXPECT_EQ(find_kind(k.name), &k);
    EXPECT_EQ(find_kind(k.plural), &k);
    EXPECT_EQ(find_exact(k.name), &k);
    EXPECT_EQ(find_exact(k.plural), nullptr);
    for (const auto s : k.short_names) EXPECT_EQ(find_kind(s), &k) << s;
    EXPECT_FALSE(k.columns.empty());
  }
  EXPECT_EQ(find_kind("GNP")->name, std::string("GlobalNetworkPolicy"));
  EXPECT_EQ(find_kind("ippool")->name, std::string("IPPool"));
  EXPECT_EQ(find_kind(""), nullptr);
}

TEST(Kinds, KeysAreTheOnesTheDriverWrites) {
  std::size_t seen = 0;
  for (const auto& [key, value] : test::openstack_snapshot()) {
    const auto parsed = model::parse_resource_key(key);
    if (!parsed) continue;
    const auto* kind = find_kind(parsed->plural);
    ASSERT_TRUE(kind) << key;
    EXPECT_EQ(key_of(*kind, parsed->ns, parsed->name), key);
    // And what it wrote is good as it is, under the name it has.
    Manifest m;
    read_manifest("f", value, {.read_only_kinds = true}, m);
    ASSERT_TRUE(m.faults.empty()) << m.faults[0].to_string();
    ASSERT_EQ(m.items.size(), 1U);
    EXPECT_EQ(m.items[0].key, key);
    EXPECT_EQ(json::value(m.items[0].resource), json::parse(value)) << "nothing is added to what the driver writes";
    ++seen;
  }
  EXPECT_GT(seen, 8U);
}

TEST(Kinds, PoliciesAreStoredWithTheirTier) {
  const auto& np = *find_exact("NetworkPolicy");
  EXPECT_EQ(stored_name(np, "web", ""), "default.web");
  EXPECT_EQ(stored_name(np, "default.web", ""), "default.web");
  EXPECT_EQ(stored_name(np, "web", "security"), "security.web");
  EXPECT_EQ(stored_name(np, "security.web", "security"), "security.web");
  EXPECT_EQ(stored_name(np, "ossg.default.1", ""), "ossg.default.1");
  EXPECT_EQ(stored_name(*find_exact("Node"), "web", ""), "web");
}

}  // namespace
}  // namespace calico::resources
