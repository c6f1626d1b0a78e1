#pragma once
/// Who peers with whom, from the Node resources: pure functions.
///
/// A reflector peers with every Node that is not one (its clients) and with the other reflectors (non-clients); anybody
/// else peers with the reflectors. A Node is a reflector when it has spec.bgp.routeReflectorClusterID. Both ends come
/// to the same answer from the same Nodes. With a node-to-node mesh those that are no reflectors also peer with each
/// other. Where both have an address of both families there is a session for each,
/// which carries its own family only; with one family in common the session carries both. Liveness of a Node plays no
/// part.
#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/bgp/engine.hpp"
#include "core/model/resources.hpp"

namespace calico::bgp {

/// Label of a Node for each of its roles, "true": roles.calico-node/compute.
inline constexpr std::string_view kRoleLabelPrefix = "roles.calico-node/";
[[nodiscard]] std::vector<std::string> roles_of(const model::Node& node);

/// Annotation of a Node: an operator drains it (`calico-node node drain`). "yes" = on. It stands in the datastore so
/// that any host can ask for it and a restart does not forget it; who writes a Node keeps foreign annotations.
inline constexpr std::string_view kDrainAnnotation = "calico-node/drain";
[[nodiscard]] bool wants_drain(const model::Node& node);

using Nodes = std::map<std::string, model::Node, std::less<>>;  ///< by name, as in the key

struct Self {
  std::string name;
  Asn as;
  bool reflector = false;
  std::optional<Ip> ipv4, ipv6;  ///< our ends of sessions
};

/// What BGPConfiguration says about the sessions of all Nodes.
struct CloudSettings {
  bool mesh = false;      ///< only where it was asked for: see speaker.md
  std::optional<Asn> as;  ///< of Nodes that do not say theirs; unset: our own
  std::uint16_t port = 179;
  std::map<std::string, std::uint16_t, std::less<>> port_of_node;
  std::optional<std::chrono::seconds> mesh_restart_time;
};

/// Sorted by name. A Node that cannot be peered with is left out, its reason in `ignored`: no common family, an address
/// that is no neighbour's (loopback, multicast, ours), or one that a Node before it has.
[[nodiscard]] std::vector<PeerConfig> peers_from_nodes(const Nodes& nodes, const Self& self,
                                                       std::vector<std::string>* ignored = nullptr,
                                                       const CloudSettings& cloud = {});
/// The same with every one of `nodes` but this host.
[[nodiscard]] std::vector<PeerConfig> peers_with(const Nodes& nodes, const Self& self,
                                                 std::vector<std::string>* ignored = nullptr,
                                                 const CloudSettings& cloud = {});

/// What this host says of itself. The spec of Report::set_node: a field that does not apply is null, so that a former
/// value goes (a host that was a reflector).
struct OwnNode {
  std::string name;
  std::vector<std::string> roles;
  Asn as;
  std::optional<Prefix> ipv4, ipv6;  ///< sources of our sessions with the length of their link, host bits kept
  std::optional<Ip> cluster_id;      ///< reflector
  std::vector<Ip> addresses;         ///< every global address
};
[[nodiscard]] std::string node_labels(const OwnNode& own);
[[nodiscard]] std::string node_spec(const OwnNode& own);

}  // namespace calico::bgp
