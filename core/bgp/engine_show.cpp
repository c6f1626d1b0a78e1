/// EngineCore: snapshots for people and programs. Reads only.
#include <fmt/format.h>

#include <algorithm>

#include "core/bgp/engine_core.hpp"
#include "core/bgp/session/peer.hpp"

namespace calico::bgp {

using std::chrono::milliseconds;

std::vector<PeerStatus> EngineCore::peers() const {
  std::vector<PeerStatus> out;
  for (const auto& [ip, peer] : peers_) out.push_back(peer->status());
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.config.name < b.config.name; });
  return out;
}

RouteInfo EngineCore::route_info(PrefixId id, PathId path_id, bool with_attributes) const {
  const auto& path = rib_.path(path_id);
  const auto& set = attrs_.at(path.attr);
  RouteInfo r;
  r.prefix = rib_.prefix(id);
  if (const auto* peer = peer_of(path.peer)) {
    r.peer = peer->config().name;
    r.from = peer->config().address;
  }
  r.best = rib_.best(id) == path_id;
  r.stale = path.stale != 0;
  r.internal = rib_.peer(path.peer).kind != Source::Kind::external;
  r.next_hop = set.next_hop;
  if (const auto* hop = rib_.hop(path)) {
    if (hop->reachable)
      r.resolved = hop->resolved.hops.front();
    else
      r.unusable = fmt::format("next hop {} is unreachable: {}", hop->ip, hop->why_not);
  }
  r.since = start_wall_ + milliseconds(path.since_ms);
  r.origin = set.origin;
  r.local_pref = set.local_pref;
  const auto a = attrs_.decode(path.attr);
  r.as_path = a.as_path.to_string();
  r.origin_as = a.as_path.origin();
  if (!with_attributes) return r;
  static constexpr const char* kOrigins[] = {"IGP", "EGP", "Incomplete"};
  auto& out = r.attributes;
  out.emplace_back("BGP.origin", kOrigins[std::min<int>(a.origin, 2)]);
  out.emplace_back("BGP.as_path", r.as_path);
  if (!a.next_hop.is_unspecified()) out.emplace_back("BGP.next_hop", a.next_hop.to_string());
  if (a.med) out.emplace_back("BGP.med", fmt::to_string(*a.med));
  out.emplace_back("BGP.local_pref", fmt::to_string(set.local_pref));
  if (a.atomic_aggregate) out.emplace_back("BGP.atomic_aggr", "");
  if (a.aggregator)
    out.emplace_back("BGP.aggregator", fmt::format("{} AS{}", Ip::v4(a.aggregator->id), a.aggregator->as));
  const auto list = [](View bytes, std::size_t numbers, bool halves) {
    std::string text;
    wire::Reader reader(bytes);
    while (reader.left() >= 4 * numbers) {
      if (!text.empty()) text += ' ';
      text += '(';
      for (std::size_t i = 0; i < numbers; ++i) {
        const auto v = reader.be<std::uint32_t>();
        text += i == 0 ? "" : ", ";
        text += halves ? fmt::format("{},{}", v >> 16, v & 0xffff) : fmt::to_string(v);
      }
      text += ')';
    }
    return text;
  };
  if (!a.communities.empty()) out.emplace_back("BGP.community", list(a.communities, 1, true));
  if (a.originator_id) out.emplace_back("BGP.originator_id", Ip::v4(*a.originator_id).to_string());
  if (!a.cluster_list.empty()) {
    std::string text;
    for (auto c : a.cluster_list) text += (text.empty() ? "" : " ") + Ip::v4(c).to_string();
    out.emplace_back("BGP.cluster_list", text);
  }
  if (!a.ext_communities.empty()) out.emplace_back("BGP.ext_community", list(a.ext_communities, 2, false));
  if (!a.large_communities.empty()) out.emplace_back("BGP.large_community", list(a.large_communities, 3, false));
  for (const auto& u : a.unknown) {
    std::string text;
    for (auto b : u.value) text += fmt::format("{:02x}", std::to_integer<unsigned>(b));
    out.emplace_back(fmt::format("BGP.{:02x} [t]", u.type), text);
  }
  return r;
}

std::optional<RibPeerId> EngineCore::wanted_peer(const RouteQuery& query) const {
  if (!query.peer) return kNone;
  if (query.peer->empty()) return kLocalPeer;
  for (const auto& [ip, peer] : peers_)
    if (peer->config().name == *query.peer) return peer->rib_id();
  return std::nullopt;
}

void EngineCore::add_routes(PrefixId id, RibPeerId wanted, const RouteQuery& query, std::vector<RouteInfo>& out) const {
  if (!rib_.used(id) || (query.family && rib_.prefix(id).family() != *query.family)) return;
  const auto best = rib_.best(id);
  if (query.exported_to) {
    const auto* peer = find_peer(*query.exported_to);
    if (best == kNone || peer == nullptr || peer->sends(id) == query.not_exported) return;
  }
  const auto one = [&](PathId p) {
    if (wanted == kNone || rib_.path(p).peer == wanted) out.push_back(route_info(id, p, query.with_attributes));
  };
  if (best != kNone) one(best);
  if (query.best_only || query.exported_to) return;
  for (auto p = rib_.first_path(id); p != kNone; p = rib_.path(p).next)
    if (p != best) one(p);
}

std::vector<RouteInfo> EngineCore::routes(const RouteQuery& query) const {
  std::vector<RouteInfo> out;
  const auto wanted = wanted_peer(query);
  if (!wanted) return out;
  if (query.exact || query.covering) {
    const auto id = query.exact ? rib_.find(query.exact->masked()) : rib_.longest_match(*query.covering);
    if (id != kNone) add_routes(id, *wanted, query, out);
    return out;
  }
  std::vector<PrefixId> ids;
  for (PrefixId id = 0; id < rib_.id_limit(); ++id)
    if (rib_.used(id) && rib_.first_path(id) != kNone) ids.push_back(id);
  std::sort(ids.begin(), ids.end(), [&](auto a, auto b) { return rib_.prefix(a) < rib_.prefix(b); });
  for (auto id : ids) {
    if (out.size() >= query.limit) break;
    add_routes(id, *wanted, query, out);
  }
  if (out.size() > query.limit) out.resize(query.limit);
  return out;
}

RoutePage EngineCore::route_page(const RouteQuery& query, std::uint32_t from, std::size_t prefixes) const {
  RoutePage page;
  if (query.exact || query.covering) {
    page.routes = routes(query);
    return page;
  }
  const auto wanted = wanted_peer(query);
  if (!wanted) return page;
  const auto end = std::min<std::size_t>(rib_.id_limit(), from + prefixes);
  for (PrefixId id = from; id < end; ++id) add_routes(id, *wanted, query, page.routes);
  if (end < rib_.id_limit()) page.next = static_cast<std::uint32_t>(end);
  return page;
}

EngineStatus EngineCore::status() const {
  EngineStatus s;
  s.router_id = options_.router_id;
  s.local_as = options_.local_as;
  s.started = start_wall_;
  s.last_reconfiguration = reconfigured_;
  s.restarting = deferring_;
  const auto t = now();
  if (deferring_ && deferral_deadline_ && *deferral_deadline_ > t)
    s.deferral_left = std::chrono::duration_cast<milliseconds>(*deferral_deadline_ - t);
  s.draining = speaker_.draining;
  if (drained_at_ && *drained_at_ > t) s.drain_left = std::chrono::duration_cast<milliseconds>(*drained_at_ - t);
  s.converged = converged_;
  s.isolated =
      !peers_.empty() && std::none_of(peers_.begin(), peers_.end(), [](const auto& p) { return p.second->up(); });
  if (s.isolated) {
    for (const auto& [as, since] : isolated_) {
      const auto end = since + options_.keep_when_isolated;
      if (end > t) s.isolated_left = std::max(s.isolated_left, std::chrono::duration_cast<milliseconds>(end - t));
    }
  }
  const auto c = rib_.counts();
  s.routes_v4 = c.routes[0];
  s.routes_v6 = c.routes[1];
  s.networks_v4 = c.networks[0];
  s.networks_v6 = c.networks[1];
  s.attribute_sets = attrs_.size();
  return s;
}

}  // namespace calico::bgp
