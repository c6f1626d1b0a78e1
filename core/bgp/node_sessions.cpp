#include "core/bgp/node_sessions.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <set>

namespace calico::bgp {
namespace {

namespace json = boost::json;

/// An address one can have a session with.
bool is_neighbour(const Ip& ip, const Self& self) {
  return !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && ip != self.ipv4 && ip != self.ipv6;
}

}  // namespace

std::vector<std::string> roles_of(const model::Node& node) {
  std::vector<std::string> out;
  for (const auto& [label, value] : node.meta.labels)
    if (label.starts_with(kRoleLabelPrefix)) out.push_back(label.substr(kRoleLabelPrefix.size()));
  std::sort(out.begin(), out.end());
  return out;
}

bool wants_drain(const model::Node& node) {
  const auto it = node.meta.annotations.find(std::string(kDrainAnnotation));
  return it != node.meta.annotations.end() && it->second == "yes";
}

std::vector<PeerConfig> peers_from_nodes(const Nodes& nodes, const Self& self, std::vector<std::string>* ignored,
                                         const CloudSettings& cloud) {
  Nodes wanted;
  for (const auto& [name, node] : nodes)
    if (self.reflector || node.is_reflector() || cloud.mesh) wanted.emplace(name, node);
  auto out = peers_with(wanted, self, ignored, cloud);
  // Between a reflector and its client the restart time is the speaker's own.
  if (!self.reflector && cloud.mesh_restart_time)
    for (auto& p : out) {
      const auto is_mesh = [&](const auto& n) {
        const auto& [_, node] = n;
        return !node.is_reflector() && ((node.bgp_ipv4 && node.bgp_ipv4->addr == p.address) ||
                                        (node.bgp_ipv6 && node.bgp_ipv6->addr == p.address));
      };
      if (std::any_of(wanted.begin(), wanted.end(), is_mesh)) p.restart_time = cloud.mesh_restart_time;
    }
  return out;
}

std::vector<PeerConfig> peers_with(const Nodes& nodes, const Self& self, std::vector<std::string>* ignored,
                                   const CloudSettings& cloud) {
  std::vector<PeerConfig> out;
  std::map<Ip, std::string> taken;
  const auto ignore = [&](const std::string& name, const std::string& why) {
    if (ignored) ignored->push_back(fmt::format("Node {}: {}", name, why));
  };
  for (const auto& [name, node] : nodes) {
    if (name == self.name) continue;
    const bool both4 = self.ipv4 && node.bgp_ipv4, both6 = self.ipv6 && node.bgp_ipv6;
    if (!both4 && !both6) {
      ignore(name, "no BGP address of a family that this host has one of");
      continue;
    }
    const auto add = [&](const Ip& ip, bool also_other_family) {
      if (!is_neighbour(ip, self)) return ignore(name, fmt::format("{} is no neighbour's address", ip));
      const auto [it, fresh] = taken.emplace(ip, name);
      if (!fresh) return ignore(name, fmt::format("{} is also Node {}'s address", ip, it->second));
      PeerConfig p;
      // One name a Node and session: the plain name, "_v6" where the Node has two.
      p.name = also_other_family || ip.is_v4() ? name : name + "_v6";
      p.address = ip;
      const auto port = cloud.port_of_node.find(name);
      p.port = port == cloud.port_of_node.end() ? cloud.port : port->second;
      p.remote_as = node.as_number.value_or(cloud.as.value_or(self.as));
      p.route_reflector_client = self.reflector && !node.is_reflector() && *p.remote_as == self.as;
      p.ipv4 = ip.is_v4() || also_other_family;
      p.ipv6 = ip.is_v6() || also_other_family;
      p.from = Origin::datastore;
      out.push_back(std::move(p));
    };
    if (both4) add(node.bgp_ipv4->addr, !both6);
    if (both6) add(node.bgp_ipv6->addr, !both4);
  }
  // "a_v6" of Node a and a Node of that name: the engine wants each name once.
  std::set<std::string> names;
  for (auto& p : out)
    while (!names.insert(p.name).second) p.name += "_";
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return out;
}

std::string node_labels(const OwnNode& own) {
  json::object labels;
  for (const auto& r : own.roles) labels[std::string(kRoleLabelPrefix) + r] = "true";
  return json::serialize(labels);
}

std::string node_spec(const OwnNode& own) {
  const auto text = [](const auto& v) { return v ? json::value(v->to_string()) : json::value(nullptr); };
  json::object bgp;
  bgp["asNumber"] = own.as.value;
  bgp["ipv4Address"] = text(own.ipv4);
  bgp["ipv6Address"] = text(own.ipv6);
  bgp["routeReflectorClusterID"] = text(own.cluster_id);
  json::array addresses;
  auto sorted = own.addresses;
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  for (const auto& a : sorted) {
    const bool session = (own.ipv4 && own.ipv4->addr == a) || (own.ipv6 && own.ipv6->addr == a);
    addresses.push_back(json::object{{"address", a.to_string()}, {"type", session ? "CalicoNodeIP" : "InternalIP"}});
  }
  return json::serialize(json::object{{"addresses", std::move(addresses)}, {"bgp", std::move(bgp)}});
}

}  // namespace calico::bgp
