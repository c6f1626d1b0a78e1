/// Compiler: floating IPs of local endpoints, and the limits of their interfaces, as elements.
///
/// A floating IP has one owner on this host: of the endpoints that may have it (their own address inside, nobody's
/// outside) the lowest key. Which endpoints may is known when they are planned, so a plan that changes it makes the
/// others that want the address dirty.
#include <algorithm>

#include "core/model/compiler_impl.hpp"

namespace calico::model {
namespace {

constexpr std::size_t kNatsMax = 256;  // of one endpoint

/// A limit of bytes holds what its rate gives in a second and its burst, in nanoseconds of 64 bits.
constexpr std::uint64_t kBytesMax = UINT64_MAX / 1'000'000'000;
/// What comes from a VM can be one segment of 64 KiB, cut into packets behind us: a smaller bucket never lets it pass.
constexpr std::uint32_t kBytesBurstMin = 65'536;

}  // namespace

void Compiler::Impl::want_nats(Endpoint& e, const WorkloadEndpoint& wep) {
  std::set<Ip> wanted;
  for (const auto& n : wep.ip_nats) wanted.insert(n.external);
  for (const auto& ip : e.nats_wanted)
    if (!wanted.contains(ip)) {
      auto at = nat_wanted.find(ip);
      at->second.erase({e.key, e.id});
      for (const auto& [key, id] : at->second) dirty_endpoints.insert(id);
      if (at->second.empty()) nat_wanted.erase(at);
    }
  for (const auto& ip : wanted) nat_wanted[ip].insert({e.key, e.id});
  e.nats_wanted = std::move(wanted);
  if (e.nats_wanted.empty()) e.nats.clear();

  // Its own addresses and gateways are no floating IP of anybody here: they would be led away from it.
  std::set<Ip> taken;
  for (const auto& n : wep.ip_networks)
    if (n.is_host()) taken.insert(n.addr);
  for (const auto& gateway : {wep.ipv4_gateway, wep.ipv6_gateway})
    if (gateway) taken.insert(*gateway);
  for (const auto& ip : taken)
    if (!e.taken.contains(ip) && nat_taken[ip]++ == 0) review_nat(ip);
  for (const auto& ip : e.taken)
    if (!taken.contains(ip) && --nat_taken.at(ip) == 0) {
      nat_taken.erase(ip);
      review_nat(ip);
    }
  e.taken = std::move(taken);
}

void Compiler::Impl::review_nat(const Ip& external) {
  if (const auto at = nat_wanted.find(external); at != nat_wanted.end())
    for (const auto& [key, id] : at->second) dirty_endpoints.insert(id);
}

std::string Compiler::Impl::fault_of_nat(const IpNat& n, const EndpointPlan& p) const {
  const Ip& x = n.external;
  if (x.family() != n.internal.family()) return "its inside is of the other family";
  if (x.is_unspecified() || x.is_loopback() || x.is_multicast() || x.is_link_local() ||
      x == *Ip::parse("255.255.255.255"))
    return "not an address for an endpoint";
  if (guarded.contains(x)) return "an address of a node";
  if (nat_taken.contains(x)) return "an address or gateway of an endpoint here";
  if (std::none_of(p.nets.begin(), p.nets.end(), [&](const Prefix& net) { return net.contains(n.internal); }))
    return fmt::format("{} is no address of this endpoint", n.internal);
  return {};
}

void Compiler::Impl::plan_nats(Endpoint& e, EndpointPlan& p) {
  std::map<Ip, Ip> may;  // external → internal; the lowest internal of several
  if (p.error.empty() && p.mac) {
    for (std::size_t i = 0; i < e.wep.ip_nats.size(); ++i) {
      if (i == kNatsMax) {
        p.notes.push_back(fmt::format("only the first {} floating IPs are programmed", kNatsMax));
        break;
      }
      const auto& n = e.wep.ip_nats[i];
      if (const auto why = fault_of_nat(n, p); !why.empty()) {
        p.notes.push_back(fmt::format("floating IP {} left out: {}", n.external, why));
        continue;
      }
      const auto [at, fresh] = may.emplace(n.external, n.internal);
      if (fresh) continue;
      p.notes.push_back(
          fmt::format("floating IP {} has several insides; {} is used", n.external, std::min(at->second, n.internal)));
      at->second = std::min(at->second, n.internal);
    }
  }
  for (const auto& [external, internal] : may)
    if (!e.nats.contains(external)) review_nat(external);
  for (const auto& [external, internal] : e.nats)
    if (!may.contains(external)) review_nat(external);
  dirty_endpoints.erase(e.id);  // it is being planned
  e.nats = std::move(may);
  for (const auto& [external, internal] : e.nats) {
    const auto& all = nat_wanted.at(external);
    // By name: clang 14 captures no structured binding.
    const auto owner = std::find_if(all.begin(), all.end(), [&, &nat = external](const auto& x) {
      return endpoints.at(x.second).nats.contains(nat);
    });
    if (owner->second == e.id) {
      p.nats.push_back({internal, external});
    } else {
      const auto& other = endpoints.at(owner->second).name;
      p.notes.push_back(
          fmt::format("floating IP {} belongs to endpoint {} of {}", external, other.endpoint, other.workload));
    }
  }
}

/// Hairpin: an endpoint that calls its own floating IP would get a packet from its own address, and drop it; such a
/// packet takes the floating IP as source. An address with several has the lowest of them.
void Compiler::Impl::count_hairpins(const std::vector<IpNat>& nats, int by) {
  for (const auto& n : nats) {
    const auto lowest = [&]() -> std::optional<Ip> {
      const auto at = hairpins.lower_bound({n.internal, Ip{}});  // below every address
      if (at == hairpins.end() || at->first.first != n.internal) return {};
      return at->first.second;
    };
    const auto before = lowest();
    if ((hairpins[{n.internal, n.external}] += by) == 0) hairpins.erase({n.internal, n.external});
    const auto after = lowest();
    if (before == after) continue;
    const std::string set = n.internal.is_v4() ? "hairpin4" : "hairpin6";
    if (before) drop_element(set, {.ip = n.internal, .ip_end = *before});
    if (after) add_element(set, {.ip = n.internal, .ip_end = *after});
  }
}

void Compiler::Impl::add_nats_and_limits(const EndpointPlan& p, std::vector<SetElement>& out) {
  for (const auto& n : p.nats)
    out.push_back({n.external.is_v4() ? "fip4" : "fip6", {.ip = n.external, .ip_end = n.internal}});
  const auto limit = [&](const char* set, std::uint64_t rate, std::uint32_t burst) {
    out.push_back({set, {.interface_name = p.interface_name, .rate = rate, .burst = burst}});
  };
  const auto& q = p.qos;
  if (q.ingress_packets) limit("qos-in-packets", q.ingress_packets->rate, q.ingress_packets->burst);
  if (q.egress_packets) limit("qos-out-packets", q.egress_packets->rate, q.egress_packets->burst);
  if (q.egress) {
    limit("qos-out-bytes", q.egress->rate, std::max(q.egress->burst, kBytesBurstMin));
    if (q.egress->peak) limit("qos-out-peak", q.egress->peak, std::max(q.egress->min_burst, kBytesBurstMin));
  }
  if (q.ingress_connections) limit("qos-in-connections", *q.ingress_connections, 0);
  if (q.egress_connections) limit("qos-out-connections", *q.egress_connections, 0);
}

void Compiler::Impl::plan_qos(const Endpoint& e, EndpointPlan& p) {
  p.qos = parse_qos(e.wep.qos_controls_json, p.notes);
  auto& out = p.qos.egress;
  if (out && out->rate + out->burst > kBytesMax) {
    p.notes.push_back(fmt::format("qosControls.egressBandwidth: above {} bit/s nothing is limited", kBytesMax * 8));
    out.reset();
  } else if (out && out->peak + out->min_burst > kBytesMax) {
    p.notes.push_back(fmt::format("qosControls.egressPeakrate: above {} bit/s nothing is limited", kBytesMax * 8));
    out->peak = out->min_burst = 0;
  }
}

}  // namespace calico::model
