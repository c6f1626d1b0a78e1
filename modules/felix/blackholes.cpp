#include "modules/felix/blackholes.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/log/log.hpp"
#include "core/model/keys.hpp"
#include "core/model/resources.hpp"

namespace calico::felix {
namespace {

bool too_wide(const Prefix& net) { return net.len < (net.addr.is_v4() ? 8 : 32); }

netlink::Route route_of(const Prefix& net, std::uint8_t protocol) {
  netlink::Route r;
  r.dst = net;
  r.protocol = protocol;
  r.type = netlink::RouteType::blackhole;
  r.metric = kBlackholeMetric;
  return netlink::normalised(std::move(r));
}

}  // namespace

std::vector<Prefix> without(const Prefix& net, const std::set<Ip>& holes) {
  const auto hole = holes.lower_bound(net.addr);
  if (hole == holes.end() || !net.contains(*hole)) return {net};
  if (net.is_host()) return {};
  auto out = without({net.addr, static_cast<std::uint8_t>(net.len + 1)}, holes);
  const auto upper = without(Prefix{net.last(), static_cast<std::uint8_t>(net.len + 1)}.masked(), holes);
  out.insert(out.end(), upper.begin(), upper.end());
  return out;
}

void Blackholes::configure(const Settings& settings) {
  const auto prefix = model::subnet_prefix(settings.region);
  if (on_ == settings.blackhole_subnets && protocol_ == settings.route_protocol && subnets_prefix_ == prefix) return;
  on_ = settings.blackhole_subnets;
  protocol_ = settings.route_protocol;
  subnets_prefix_ = prefix;
  const auto before = std::exchange(asked_, {});
  for (const auto& [key, subnet] : subnets_)
    if (key.starts_with(prefix)) asked_[subnet.net].insert(key);
  for (const auto& [net, keys] : before) decide(net);
  for (const auto& [net, keys] : asked_) decide(net);
}

Status Blackholes::update(std::string_view key, std::optional<std::string_view> value) {
  const std::string k(key);
  if (key.starts_with(model::kNodes)) {
    std::vector<Ip> addresses;
    if (value) {
      const auto node = model::parse_node(*value);
      if (!node) return {};  // the compiler says so; what was known of it stays spared
      addresses = node->all_addresses();
    }
    set_addresses(k, addresses);
    return {};
  }
  if (!key.starts_with(kSubnets)) return {};
  if (!value) {
    set_subnet(k, std::nullopt);
    return {};
  }
  const auto subnet = model::parse_subnet(*value);
  set_subnet(k, subnet ? std::optional(Subnet{subnet->cidr.masked(), subnet->gateway_ip}) : std::nullopt);
  return subnet ? Status{} : wrap(subnet.error(), "subnet");
}

void Blackholes::set_subnet(const std::string& key, std::optional<Subnet> subnet) {
  const bool of_our_region = key.starts_with(subnets_prefix_);
  if (const auto at = subnets_.find(key); at != subnets_.end()) {
    if (subnet == at->second) return;
    const auto before = at->second.net;
    subnets_.erase(at);
    if (of_our_region) {
      auto& who = asked_[before];
      who.erase(key);
      if (who.empty()) asked_.erase(before);
      if (!subnet || subnet->net != before) decide(before);
    }
  }
  if (!subnet) return;
  subnets_[key] = *subnet;
  if (!of_our_region) return;
  asked_[subnet->net].insert(key);
  decide(subnet->net);
}

void Blackholes::set_addresses(const std::string& owner, const std::vector<Ip>& addresses) {
  auto& have = node_addresses_[owner];
  if (have == addresses) return;
  for (const auto& ip : have)
    if (--spared_.at(ip) == 0) spared_.erase(ip);
  for (const auto& ip : addresses) ++spared_[ip];
  std::set<Prefix> concerned;
  const auto note = [&](const std::vector<Ip>& list) {
    for (const auto& [net, keys] : asked_)
      if (std::any_of(list.begin(), list.end(), [&n = net](const Ip& ip) { return n.contains(ip); }))
        concerned.insert(net);
  };
  if (on_) note(have), note(addresses);
  if (addresses.empty())
    node_addresses_.erase(owner);
  else
    have = addresses;
  for (const auto& net : concerned) decide(net);
}

/// Why a block of a subnet gets no route; "" = it gets one.
std::string Blackholes::why_not(const Prefix& net) const {
  if (too_wide(net)) return "wider than any network of tenants";
  const auto spared = spared_.lower_bound(net.addr);
  if (spared != spared_.end() && net.contains(spared->first))
    return fmt::format("{} in it is a node's", spared->first.to_string());
  return "";
}

void Blackholes::decide(const Prefix& net) {
  const auto asked = asked_.find(net);
  std::vector<Prefix> cover;
  std::string why;
  if (on_ && asked != asked_.end()) {
    std::set<Ip> gateways;
    for (const auto& key : asked->second)
      if (const auto& g = subnets_.at(key).gateway) gateways.insert(*g);
    why = why_not(net);
    if (why.empty()) cover = without(net, gateways);
  }
  if (why.empty())
    left_out_.erase(net);
  else if (std::exchange(left_out_[net], why) != why)
    log::warn("felix.no_blackhole", "subnet", net.to_string(), "why", why);
  for (const auto& p : cover) {
    ++covers_[p];
    const auto r = route_of(p, protocol_);
    routes_.set_desired(netlink::key_of(r), r);
  }
  for (const auto& p : std::exchange(covered_[net], cover))
    if (--covers_.at(p) == 0) {
      covers_.erase(p);
      routes_.erase_desired(netlink::key_of(route_of(p, protocol_)));
    }
  if (cover.empty()) covered_.erase(net);
}

bool Blackholes::ours(const netlink::Route& r) const {
  return r.table == netlink::kTableMain && r.type == netlink::RouteType::blackhole && r.protocol == protocol_ &&
         r.metric == kBlackholeMetric;
}

Status Blackholes::load() {
  auto routes = nl_.routes({.table = netlink::kTableMain, .protocol = protocol_});
  if (!routes) return wrap(routes.error(), "blackhole routes");
  std::vector<std::pair<netlink::RouteKey, netlink::Route>> mine;
  for (const auto& r : *routes)
    if (ours(r)) mine.emplace_back(netlink::key_of(r), netlink::normalised(r));
  routes_.load_actual(mine);
  return {};
}

void Blackholes::on_route(const netlink::Route& route, bool gone) {
  const auto key = netlink::key_of(route);
  if (!ours(route)) return;
  if (gone)
    routes_.erase_actual(key);
  else
    routes_.set_actual(key, netlink::normalised(route));
}

Status Blackholes::program() {
  if (routes_.in_sync()) return {};
  netlink::Batch b;
  std::vector<netlink::RouteKey> gone, made;
  routes_.for_each_deletion([&](const auto& k, const netlink::Route& have) {
    b.remove(have);
    gone.push_back(k);
  });
  routes_.for_each_update([&](const auto& k, const netlink::Route& want, const netlink::Route*) {
    b.replace(want);
    made.push_back(k);
  });
  const auto done = nl_.commit(b);
  if (!done) return wrap(done.error(), "blackhole routes");
  for (std::size_t i = 0; i < gone.size(); ++i)
    if (const int e = done->error_of(i); e == 0 || e == ESRCH) routes_.mark_deleted(gone[i]);
  for (std::size_t i = 0; i < made.size(); ++i)
    if (done->error_of(gone.size() + i) == 0) routes_.mark_updated(made[i]);
  return {};
}

}  // namespace calico::felix
