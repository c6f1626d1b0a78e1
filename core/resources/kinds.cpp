#include "core/resources/kinds.hpp"

#include <algorithm>
#include <array>
#include <boost/json.hpp>

#include "core/base/ip.hpp"
#include "core/model/bgp_resources.hpp"
#include "core/model/keys.hpp"
#include "core/model/resources.hpp"
#include "core/resources/fields.hpp"
#include "core/resources/members.hpp"
#include "core/resources/scalar.hpp"

namespace calico::resources {
namespace {

namespace json = boost::json;
using Names = std::span<const std::string_view>;

std::string name_of(const json::object& r) { return text_at(object_at(r, "metadata"), "name"); }

// --- what the readers of our roles say
// --------------------------------------------------------------------------------

template <class T>
Status parsed(Result<T> (*parse)(std::string_view), const json::object& r) {
  auto v = parse(json::serialize(r));
  if (!v) return tl::unexpected(v.error());
  return {};
}

Status enforceable(const json::object& r, bool global) {
  auto p = model::parse_network_policy(json::serialize(r), global);
  if (!p) return tl::unexpected(p.error());
  if (!p->fault.empty()) return fail(Errc::invalid, "{}", p->fault);
  return {};
}
Status check_network_policy(const json::object& r) { return enforceable(r, false); }
Status check_global_network_policy(const json::object& r) { return enforceable(r, true); }

Status check_profile(const json::object& r) { return parsed(model::parse_profile, r); }
Status check_tier(const json::object& r) { return parsed(model::parse_tier, r); }
Status check_network_set(const json::object& r) { return parsed(model::parse_network_set, r); }

/// The identity of an endpoint is its name: what the spec says must be the same.
Status check_workload_endpoint(const json::object& r) {
  if (auto ok = parsed(model::parse_workload_endpoint, r); !ok) return ok;
  const auto& s = object_at(r, "spec");
  const model::WorkloadEndpointName id{text_at(s, "node"), text_at(s, "orchestrator"), text_at(s, "workload"),
                                       text_at(s, "endpoint")};
  const auto name = model::format_wep_name(id);
  if (const auto parts = model::parse_wep_name(name); !parts || *parts != id)
    return fail(Errc::invalid,
                "spec.node: node, orchestrator, workload and endpoint give no name that can be read back");
  if (name_of(r) != name) return fail(Errc::invalid, "metadata.name: of this spec it is {}, or leave it out", name);
  if (!model::is_interface_name(text_at(s, "interfaceName")))
    return fail(Errc::invalid, "spec.interfaceName: need the name of an interface, 1 to 15 characters");
  const auto& labels = object_at(object_at(r, "metadata"), "labels");
  const auto ns = text_at(object_at(r, "metadata"), "namespace");
  if (const auto said = text_at(labels, model::kLabelNamespace); !said.empty() && said != ns)
    return fail(Errc::invalid, "metadata.labels.{}: contradicts metadata.namespace", model::kLabelNamespace);
  if (const auto said = text_at(labels, model::kLabelOrchestrator); !said.empty() && said != id.orchestrator)
    return fail(Errc::invalid, "metadata.labels.{}: contradicts spec.orchestrator", model::kLabelOrchestrator);
  return {};
}

Status check_host_endpoint(const json::object& r) { return parsed(model::parse_host_endpoint, r); }

Status check_node(const json::object& r) { return parsed(model::parse_node, r); }
Status check_bgp_configuration(const json::object& r) { return parsed(model::parse_bgp_configuration, r); }
Status check_bgp_peer(const json::object& r) { return parsed(model::parse_bgp_peer, r); }
Status check_bgp_filter(const json::object& r) { return parsed(model::parse_bgp_filter, r); }

/// The names our readers look for; upstream's scoped ones ("mynodes") are kept for upstream's agents.
Status check_felix_configuration(const json::object& r) {
  const auto name = text_at(object_at(r, "metadata"), "name");
  if ((name == "default" || name.starts_with("node.")) && !text_at(object_at(r, "spec"), "nodeSelector").empty())
    return fail(Errc::invalid, "spec.nodeSelector: only under other names than 'default' and 'node.NAME'");
  return parsed(model::parse_felix_configuration, r);
}

Status check_ip_pool(const json::object& r) {
  const auto& s = object_at(r, "spec");
  const auto cidr = Prefix::parse(text_at(s, "cidr"));
  if (!cidr) return fail(Errc::invalid, "spec.cidr: {}", cidr.error().what);
  const auto on = [&](const char* key) {
    const auto mode = text_at(s, key);
    return !mode.empty() && mode != "Never";
  };
  if (on("ipipMode") && on("vxlanMode")) return fail(Errc::invalid, "spec.vxlanMode: not together with ipipMode");
  if (on("ipipMode") && cidr->family() == Family::v6) return fail(Errc::invalid, "spec.ipipMode: not of an IPv6 pool");
  const int low = cidr->family() == Family::v4 ? 20 : 116, high = cidr->family() == Family::v4 ? 32 : 128;
  const auto size = at(s, "blockSize").is_number() ? at(s, "blockSize").to_number<int>() : (low == 20 ? 26 : 122);
  if (size < low || size > high) return fail(Errc::invalid, "spec.blockSize: need {} to {} for this cidr", low, high);
  if (cidr->len > size) return fail(Errc::invalid, "spec.cidr: smaller than one block (/{})", size);
  return {};
}

// --- the table
// --------------------------------------------------------------------------------------------------------

constexpr std::string_view kNp[] = {"np", "policy", "policies"}, kGnp[] = {"gnp"}, kProf[] = {"pro"}, kWep[] = {"wep"},
                           kHep[] = {"hep"}, kNo[] = {"no"}, kBgpc[] = {"bgpconfig"}, kBgpp[] = {"bgpp"},
                           kBgpf[] = {"bgpf"}, kFelix[] = {"felixconfig", "fc"}, kInfo[] = {"clusterinfo"},
                           kPool[] = {"pool"}, kNs[] = {"netset"}, kGns[] = {"gns"}, kT[] = {"tiers"};

constexpr const char* kNotYet = "kept for other agents; no role of this version reads it";

constexpr Column kPolicyColumns[] = {
    {"NAME", "metadata.name"}, {"ORDER", "spec.order", true}, {"SELECTOR", "spec.selector", true}};
constexpr Column kNameOnly[] = {{"NAME", "metadata.name"}};
constexpr Column kWepColumns[] = {{"WORKLOAD", "spec.workload"},       {"NODE", "spec.node"},
                                  {"NETWORKS", "spec.ipNetworks"},     {"INTERFACE", "spec.interfaceName"},
                                  {"PROFILES", "spec.profiles", true}, {"NATS", "spec.ipNATs[].externalIP", true},
                                  {"MAC", "spec.mac", true},           {"NAME", "metadata.name", true}};
constexpr Column kHepColumns[] = {{"NAME", "metadata.name"},
                                  {"NODE", "spec.node"},
                                  {"INTERFACE", "spec.interfaceName", true},
                                  {"IPS", "spec.expectedIPs", true},
                                  {"PROFILES", "spec.profiles", true}};
constexpr Column kNodeColumns[] = {{"NAME", "metadata.name"},
                                   {"ASN", "spec.bgp.asNumber", true},
                                   {"IPV4", "spec.bgp.ipv4Address", true},
                                   {"IPV6", "spec.bgp.ipv6Address", true},
                                   {"CLUSTER ID", "spec.bgp.routeReflectorClusterID", true}};
constexpr Column kBgpConfigurationColumns[] = {{"NAME", "metadata.name"},
                                               {"MESH", "spec.nodeToNodeMeshEnabled"},
                                               {"ASN", "spec.asNumber"},
                                               {"LISTEN PORT", "spec.listenPort", true}};
constexpr Column kBgpPeerColumns[] = {{"NAME", "metadata.name"},
                                      {"PEERIP", "spec.peerIP"},
                                      {"NODE", "spec.node"},
                                      {"NODE SELECTOR", "spec.nodeSelector"},
                                      {"ASN", "spec.asNumber"},
                                      {"PEER SELECTOR", "spec.peerSelector", true},
                                      {"FILTERS", "spec.filters", true}};
constexpr Column kFelixColumns[] = {{"NAME", "metadata.name"}, {"INTERFACES", "spec.interfacePrefix", true}};
constexpr Column kInfoColumns[] = {{"NAME", "metadata.name"},
                                   {"GUID", "spec.clusterGUID"},
                                   {"TYPE", "spec.clusterType"},
                                   {"READY", "spec.datastoreReady", true},
                                   {"VERSION", "spec.calicoVersion", true}};
constexpr Column kPoolColumns[] = {{"NAME", "metadata.name"},           {"CIDR", "spec.cidr"},
                                   {"SELECTOR", "spec.nodeSelector"},   {"NAT", "spec.natOutgoing", true},
                                   {"IPIPMODE", "spec.ipipMode", true}, {"VXLANMODE", "spec.vxlanMode", true},
                                   {"DISABLED", "spec.disabled", true}};
constexpr Column kSetColumns[] = {{"NAME", "metadata.name"}, {"NETS", "spec.nets", true}};
constexpr Column kTierColumns[] = {
    {"NAME", "metadata.name"}, {"ORDER", "spec.order"}, {"DEFAULT ACTION", "spec.defaultAction", true}};

const std::array kTable{
    Kind{"NetworkPolicy", "networkpolicies", kNp, true, false, nullptr, fields::network_policy, kPolicyColumns,
         check_network_policy},
    Kind{"GlobalNetworkPolicy", "globalnetworkpolicies", kGnp, false, false, nullptr, fields::global_network_policy,
         kPolicyColumns, check_global_network_policy},
    Kind{"WorkloadEndpoint", "workloadendpoints", kWep, true, false, nullptr, fields::workload_endpoint, kWepColumns,
         check_workload_endpoint},
    Kind{"Node", "nodes", kNo, false, false, nullptr, fields::node, kNodeColumns, check_node},
    Kind{"BGPConfiguration", "bgpconfigurations", kBgpc, false, false, nullptr, fields::bgp_configuration,
         kBgpConfigurationColumns, check_bgp_configuration},
    Kind{"BGPPeer", "bgppeers", kBgpp, false, false, nullptr, fields::bgp_peer, kBgpPeerColumns, check_bgp_peer},
    Kind{"BGPFilter", "bgpfilters", kBgpf, false, false, nullptr, fields::bgp_filter, kNameOnly, check_bgp_filter},
    Kind{"FelixConfiguration", "felixconfigurations", kFelix, false, false, nullptr, fields::felix_configuration,
         kFelixColumns, check_felix_configuration},
    Kind{"ClusterInformation", "clusterinformations", kInfo, false, true, nullptr, fields::cluster_information,
         kInfoColumns, nullptr},
    Kind{"HostEndpoint", "hostendpoints", kHep, false, false, nullptr, fields::host_endpoint, kHepColumns,
         check_host_endpoint},
    Kind{"Profile", "profiles", kProf, false, false, nullptr, fields::profile, kNameOnly, check_profile},
    Kind{"IPPool", "ippools", kPool, false, false, kNotYet, fields::ip_pool, kPoolColumns, check_ip_pool},
    Kind{"NetworkSet", "networksets", kNs, true, false, nullptr, fields::network_set, kSetColumns, check_network_set},
    Kind{"GlobalNetworkSet", "globalnetworksets", kGns, false, false, nullptr, fields::network_set, kSetColumns,
         check_network_set},
    Kind{"Tier", "tiers", kT, false, false, nullptr, fields::tier, kTierColumns, check_tier}};

std::string lower(std::string_view s) {
  std::string out(s);
  for (auto& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

bool is_policy(const Kind& k) {
  return std::string_view(k.name) == "NetworkPolicy" || std::string_view(k.name) == "GlobalNetworkPolicy";
}

/// Host names are written as they are: upper case and '_' are found.
bool is_host_name(std::string_view s) {
  const auto good = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
  };
  return !s.empty() && s.size() <= 253 && s.front() != '.' && std::all_of(s.begin(), s.end(), good);
}

/// "" = good, else what is accepted.
std::string wrong_name(const Kind& kind, std::string_view name) {
  const std::string_view k = kind.name;
  if (k == "WorkloadEndpoint")
    return model::parse_wep_name(name) && name.find('/') == std::string_view::npos
               ? ""
               : "need node-orchestrator-workload-endpoint with inner dashes doubled";
  if (k == "Node") return is_host_name(name) ? "" : "need the name of a host";
  const auto node = std::string_view("node.");
  if ((k == "FelixConfiguration" || k == "BGPConfiguration") && name.starts_with(node) &&
      is_host_name(name.substr(node.size())))
    return "";
  if (!is_dns_name(name)) return "need a-z, 0-9, '-' and '.', at most 253 characters, the ends letters or digits";
  return "";
}

/// Upstream has dozens of these; they begin alike.
json::object without_families(const json::object& spec) {
  json::object out;
  for (const auto& m : spec) {
    const std::string_view key(m.key().data(), m.key().size());
    if (!key.starts_with("bpf") && !key.starts_with("debug") && !key.starts_with("flowLogs")) out[m.key()] = m.value();
  }
  return out;
}

}  // namespace

std::span<const Kind> kinds() { return kTable; }

const Kind* find_exact(std::string_view name) {
  for (const auto& k : kTable)
    if (name == k.name) return &k;
  return nullptr;
}

const Kind* find_kind(std::string_view word) {
  const auto w = lower(word);
  for (const auto& k : kTable)
    if (w == lower(k.name) || w == k.plural || w + "s" == k.plural ||
        std::find(k.short_names.begin(), k.short_names.end(), w) != k.short_names.end())
      return &k;
  return nullptr;
}

std::string unknown_kind(std::string_view word) {
  for (const char* other :
       {"StagedNetworkPolicy", "StagedGlobalNetworkPolicy", "StagedKubernetesNetworkPolicy", "IPReservation",
        "KubeControllersConfiguration", "CalicoNodeStatus", "IPAMConfiguration", "BlockAffinity", "LiveMigration"})
    if (lower(word) == lower(other)) return fmt::format("{} is Calico's and not among the kinds handled here", other);
  if (const auto* k = find_kind(word)) return fmt::format("unknown kind {}; did you mean {}?", quoted(word), k->name);
  std::vector<std::string_view> names;
  std::string all;
  for (const auto& k : kTable) {
    names.emplace_back(k.name);
    all += (all.empty() ? "" : ", ") + std::string(k.name);
  }
  const auto near = nearest(word, names);
  return near.empty() ? fmt::format("unknown kind {}; there are: {}", quoted(word), all)
                      : fmt::format("unknown kind {}; did you mean {}?", quoted(word), near);
}

std::string prefix_of(const Kind& kind, std::string_view ns) {
  return fmt::format("{}{}/{}{}", model::kResources, kind.plural, ns, ns.empty() ? "" : "/");
}

std::string key_of(const Kind& kind, std::string_view ns, std::string_view name) {
  return prefix_of(kind, kind.namespaced ? ns : std::string_view()) + std::string(name);
}

std::vector<Problem> check_resource(const Kind& kind, const json::object& r) {
  std::vector<Problem> out;
  const auto& m = object_at(r, "metadata");
  const auto name = name_of(r);
  check_fields(at(r, "metadata"), fields::metadata, "metadata", out);
  if (name.empty())
    out.push_back({"metadata.name", "", "missing"});
  else if (auto wrong = wrong_name(kind, name); !wrong.empty())
    out.push_back({"metadata.name", quoted(name), std::move(wrong)});
  const auto ns = text_at(m, "namespace");
  if (kind.namespaced && ns.empty())
    out.push_back({"metadata.namespace", "",
                   "missing; OpenStack's endpoints are in 'openstack', of a region in 'openstack-region-NAME'"});
  else if (kind.namespaced && (!is_dns_name(ns) || ns.find('.') != std::string::npos || ns.size() > 63))
    out.push_back(
        {"metadata.namespace", quoted(ns), "need at most 63 of a-z, 0-9 and '-', the ends letters or digits"});
  else if (!kind.namespaced && !ns.empty())
    out.push_back({"metadata.namespace", quoted(ns), fmt::format("a {} has no namespace: leave it out", kind.name)});
  const auto& spec = at(r, "spec");
  if (kind.spec.data() == fields::felix_configuration.data() && spec.is_object())
    check_fields(without_families(spec.get_object()), kind.spec, "spec", out);
  else if (!spec.is_null())
    check_fields(spec, kind.spec, "spec", out);
  else
    check_fields(json::object(), kind.spec, "spec", out);
  if (!out.empty() || !kind.check) return out;
  if (auto ok = kind.check(r); !ok) {
    // Readers say "path: what"; without a path it is about the whole.
    const auto& what = ok.error().what;
    const auto colon = what.find(": ");
    const bool path = colon != std::string::npos && (what.starts_with("spec") || what.starts_with("metadata")) &&
                      what.substr(0, colon).find(' ') == std::string::npos;
    out.push_back({path ? what.substr(0, colon) : "spec", "", path ? what.substr(colon + 2) : what});
  }
  return out;
}

std::string stored_name(const Kind& kind, std::string_view name, std::string_view tier) {
  if (!is_policy(kind) || name.empty()) return std::string(name);
  const auto prefix = fmt::format("{}.", tier.empty() ? "default" : tier);
  for (const std::string_view kept :
       {std::string_view(prefix), std::string_view("ossg.default."), std::string_view("knp.default.")})
    if (name.starts_with(kept)) return std::string(name);
  return prefix + std::string(name);
}

bool is_generated(const Kind& kind, std::string_view name) {
  return (std::string_view(kind.name) == "NetworkPolicy" && name.starts_with(model::kSgPolicyPrefix)) ||
         std::string_view(kind.name) == "WorkloadEndpoint";
}

}  // namespace calico::resources
