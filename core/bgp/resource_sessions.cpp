#include "core/bgp/resource_sessions.hpp"

#include <algorithm>
#include <set>
#include <tuple>

namespace calico::bgp {
namespace {

constexpr int kCalicoMultihop = 64;  // BGPPeers need not be on the link

const model::BgpConfiguration* configuration(const BgpResources& r, std::string_view name) {
  const auto it = r.configurations.find(name);
  return it == r.configurations.end() ? nullptr : &it->second;
}

class Merger {
 public:
  Merger(const SessionSources& from, PolicyCache& cache)
      : f_(from), cache_(cache), cloud_(cloud_settings(from.resources)) {}

  Sessions run() {
    read_configuration();
    for (const auto& p : f_.configured) {
      taken_.emplace(p.address, "[bgp.peer." + p.name + "]");
      names_.insert(p.name);
      out_.peers.push_back(p);
    }
    for (const auto& [rank, name, peer] : ranked()) add_peer(name, *peer);
    for (auto& p : peers_from_nodes(f_.nodes, f_.self, &out_.ignored, cloud_)) {
      if (taken_.contains(p.address)) continue;  // who wrote it down says more about it
      p.local_address = own(p.address);
      p.export_filter = policy(false, {});
      put(std::move(p));
    }
    cache_ = std::move(next_);
    return std::move(out_);
  }

 private:
  struct Ranked {
    int rank;
    std::string name;
    const model::BgpPeer* peer;
  };

  std::optional<Ip> own(const Ip& towards) const { return towards.is_v4() ? f_.self.ipv4 : f_.self.ipv6; }

  void ignore(std::string line) { out_.ignored.push_back(std::move(line)); }

  void put(PeerConfig p) {
    while (!names_.insert(p.name).second) p.name += "_";
    out_.peers.push_back(std::move(p));
  }

  void read_configuration() {
    const auto own_name = "node." + f_.self.name;
    const model::BgpConfiguration* advertises = nullptr;
    for (const auto& name : {std::string("default"), own_name}) {
      const auto* c = configuration(f_.resources, name);
      if (!c) continue;
      for (const auto& note : c->notes) ignore(fmt::format("BGPConfiguration {}: {}", name, note));
      if (c->as_number && *c->as_number != f_.self.as)
        ignore(fmt::format("BGPConfiguration {}: asNumber {}: this host speaks for AS {}, [bgp] local_as", name,
                           c->as_number->value, f_.self.as.value));
      if (name != "default" && c->node_to_node_mesh)
        ignore(fmt::format("BGPConfiguration {}: nodeToNodeMeshEnabled counts in `default` only", name));
      if (!c->advertisements.empty()) advertises = c;
    }
    if (!advertises) return;
    auto rules = advertisement_rules(*advertises);
    if (rules)
      prelude_ = std::move(*rules);
    else
      ignore("BGPConfiguration: " + rules.error().what);
  }

  bool selects(const model::BgpPeer& p, const std::string& name, const model::Node* node) const {
    if (!p.node.empty()) return p.node == name;
    return !p.node_selector || (node && p.node_selector->matches(node->meta.labels));
  }
  const model::Node* self_node() const {
    const auto it = f_.nodes.find(f_.self.name);
    return it == f_.nodes.end() ? nullptr : &it->second;
  }

  std::vector<Ranked> ranked() const {
    std::vector<Ranked> out;
    for (const auto& [name, p] : f_.resources.peers)
      out.push_back({!p.node.empty() ? 0 : p.node_selector ? 1 : 2, name, &p});
    std::sort(out.begin(), out.end(),
              [](const auto& a, const auto& b) { return std::tie(a.rank, a.name) < std::tie(b.rank, b.name); });
    return out;
  }

  void add_peer(const std::string& name, const model::BgpPeer& p) {
    const bool near = selects(p, f_.self.name, self_node());
    std::vector<PeerConfig> sessions;
    if (p.peer_ip && near) {
      if (auto s = to_address(name, p)) sessions.push_back(std::move(*s));
    } else if (p.peer_selector) {
      sessions = to_nodes(name, p, near);
    }
    if (sessions.empty()) return;
    for (const auto& note : p.notes) ignore(fmt::format("BGPPeer {}: {}", name, note));
    PeerOptions common;
    if (!put_options(name, p, common)) return;
    for (auto& s : sessions) {
      const auto [it, fresh] = taken_.emplace(s.address, "BGPPeer " + name);
      if (!fresh) {
        ignore(fmt::format("BGPPeer {}: {} is {} already", name, s.address, it->second));
        continue;
      }
      s.password = common.password;
      s.import_filter = common.import_filter;
      s.export_filter = common.export_filter;
      s.import_policy = s.export_policy = Policy::all;  // as upstream: RFC 8212 does not speak of resources
      s.allow_own_as = p.allow_own_as;
      s.keepalive_time = p.keepalive_time;
      s.restart_time = p.restart_time;
      const bool internal = s.remote_as == f_.self.as;
      s.next_hop =
          p.next_hop == model::BgpPeer::NextHop::self || (p.next_hop == model::BgpPeer::NextHop::automatic && !internal)
              ? NextHopMode::self
              : NextHopMode::keep;
      s.ttl_security = p.ttl_security.has_value();
      s.multihop = p.ttl_security ? *p.ttl_security : internal ? 0 : kCalicoMultihop;
      s.local_address = own(s.address);
      s.from = Origin::datastore;
      put(std::move(s));
    }
  }

  std::optional<PeerConfig> to_address(const std::string& name, const model::BgpPeer& p) {
    const auto& ip = *p.peer_ip;
    if (ip == f_.self.ipv4 || ip == f_.self.ipv6) return std::nullopt;  // a global peer that is this host
    if (!own(ip)) {
      ignore(fmt::format("BGPPeer {}: this host has no BGP address of {}'s family", name, ip));
      return std::nullopt;
    }
    PeerConfig s;
    s.name = name;
    s.address = ip;
    s.port = p.port;
    s.remote_as = *p.as_number;
    const bool reflector = std::any_of(f_.nodes.begin(), f_.nodes.end(), [&](const auto& n) {
      const auto& [_, node] = n;
      return node.is_reflector() &&
             ((node.bgp_ipv4 && node.bgp_ipv4->addr == ip) || (node.bgp_ipv6 && node.bgp_ipv6->addr == ip));
    });
    s.route_reflector_client = f_.self.reflector && !reflector && *p.as_number == f_.self.as;
    s.ipv4 = ip.is_v4();
    s.ipv6 = ip.is_v6();
    return s;
  }

  /// A peering of selectors goes both ways: whom it selects as peers, for them the others are the peers.
  std::vector<PeerConfig> to_nodes(const std::string& name, const model::BgpPeer& p, bool near) {
    const auto* self = self_node();
    const bool far = self && p.peer_selector->matches(self->meta.labels);
    Nodes others;
    for (const auto& [n, node] : f_.nodes)
      if (n != f_.self.name && ((near && p.peer_selector->matches(node.meta.labels)) || (far && selects(p, n, &node))))
        others.emplace(n, node);
    auto out = peers_with(others, f_.self, &out_.ignored, cloud_);
    for (auto& s : out) s.name = name + "_" + s.name;
    return out;
  }

  bool put_options(const std::string& name, const model::BgpPeer& p, PeerOptions& o) {
    if (p.password) {
      auto secret = f_.secret(*p.password);
      if (!secret) {
        ignore(fmt::format("BGPPeer {}: no session without its password: {}", name, secret.error().what));
        return false;
      }
      o.password = std::move(*secret);
    }
    for (const auto& filter : p.filters)
      if (!f_.resources.filters.contains(filter))
        ignore(fmt::format("BGPPeer {}: BGPFilter {} is not there or cannot be read: no route passes", name, filter));
    o.import_filter = policy(true, p.filters);
    o.export_filter = policy(false, p.filters);
    return true;
  }

  /// The policy of a list of BGPFilters; empty if it would say yes to everything.
  PolicyRef policy(bool import, const std::vector<std::string>& filters) {
    auto& mine = import ? next_.import : next_.exports;
    if (const auto it = mine.find(filters); it != mine.end()) return it->second;
    std::vector<PolicyRule> rules;
    if (!import) rules = prelude_;
    auto otherwise = Default::accept;
    for (const auto& name : filters) {
      const auto it = f_.resources.filters.find(name);
      if (it == f_.resources.filters.end()) {
        rules.clear();
        otherwise = Default::reject;
        break;
      }
      const auto& more = import ? it->second.import : it->second.exports;
      rules.insert(rules.end(), more.begin(), more.end());
    }
    PolicyRef made;
    if (!rules.empty() || otherwise == Default::reject) {
      auto compiled = RoutePolicy::compile(std::move(rules), otherwise);
      if (!compiled) {
        ignore(fmt::format("BGPFilters together: {}: no route passes", compiled.error().what));
        compiled = RoutePolicy::compile({}, Default::reject);
      }
      made = PolicyRef(std::move(*compiled));
    }
    const auto& before = import ? cache_.import : cache_.exports;
    if (const auto it = before.find(filters); it != before.end() && it->second == made) made = it->second;
    return mine.emplace(filters, std::move(made)).first->second;
  }

  const SessionSources& f_;
  PolicyCache& cache_;
  const CloudSettings cloud_;
  PolicyCache next_;
  std::vector<PolicyRule> prelude_;
  std::map<Ip, std::string> taken_;  // who has the address
  std::set<std::string> names_;
  Sessions out_;
};

}  // namespace

CloudSettings cloud_settings(const BgpResources& r) {
  CloudSettings out;
  for (const auto& [name, c] : r.configurations) {
    if (name == "default") {
      out.mesh = c.node_to_node_mesh.value_or(false);
      out.as = c.as_number;
      out.port = c.listen_port.value_or(179);
      out.mesh_restart_time = c.mesh_restart_time;
    } else if (name.starts_with("node.") && c.listen_port) {
      out.port_of_node[name.substr(5)] = *c.listen_port;
    }
  }
  return out;
}

Sessions sessions_of(const SessionSources& from, PolicyCache& cache) { return Merger(from, cache).run(); }

}  // namespace calico::bgp
