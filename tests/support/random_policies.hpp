#pragma once
/// Random endpoints and policies, and packets to ask about: one generator for the differential tests of core/model (the
/// compiled chains interpreted) and of felix (the compiled chains in a kernel). Few labels, addresses and ports, so
/// that what is made up meets.
///
///   RandomPolicies random(random_seed());      // CALICO_SEED=n repeats a run; the seed is printed
///   for (auto& [key, value] : random.world()) compiler.update(key, value);
///   auto p = random.packet();
#include <fmt/format.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/model/evaluate.hpp"
#include "core/model/keys.hpp"
#include "core/model/resources.hpp"

namespace calico::test {

inline std::uint64_t random_seed() {
  const char* given = std::getenv("CALICO_SEED");
  const std::uint64_t seed = given ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

class RandomPolicies {
 public:
  using Content = std::map<std::string, std::string>;  ///< keys of the datastore with their JSON

  explicit RandomPolicies(std::uint64_t seed) : g(seed) {}

  std::mt19937_64 g;
  int below(int n) { return static_cast<int>(g() % static_cast<unsigned>(n)); }
  bool one_in(int n) { return below(n) == 0; }
  template <class T>
  T any(const std::vector<T>& v) {
    return v[static_cast<std::size_t>(below(static_cast<int>(v.size())))];
  }

  static constexpr int kEndpoints = 4;  ///< the last one is of another namespace, so of no interface here
  static model::WorkloadEndpointName name(int i) {
    return {"h", "openstack", fmt::format("vm{}", i), fmt::format("p{}", i)};
  }
  static std::string key(int i) {
    return model::workload_endpoint_key(i == kEndpoints - 1 ? "other" : "openstack", name(i));
  }
  static std::string address(bool v4, int n) { return fmt::format("{}{}", v4 ? "10.0.0." : "fd00::", n); }
  /// Where endpoints always have the same addresses: .1 .3 .5 .7.
  static int fixed_address(int i) { return 1 + 2 * i; }

  /// One to four addresses.
  Prefix net(bool v4) {
    return *Prefix::parse(address(v4, below(9)) +
                          any<std::string>(v4 ? std::vector<std::string>{"/32", "/32", "/31", "/30"}
                                              : std::vector<std::string>{"/128", "/128", "/127", "/126"}));
  }

  /// Everything a small cluster may say: four endpoints of host "h" on tap0 to tap3, policies, tiers, profiles, network
  /// sets. `fixed`: with fixed_address(), else endpoints may share addresses.
  Content world(bool fixed = false) {
    Content out;
    for (int i = 0; i < kEndpoints; ++i) out[key(i)] = to_json(endpoint(i, fixed));
    for (int i = 1 + below(4); i > 0; --i) {
      const auto p = policy(fmt::format("p{}", i));
      out[p.global ? fmt::format("{}{}", model::kGlobalNetworkPolicies, p.meta.name)
                   : model::network_policy_key(p.meta.ns, p.meta.name)] = to_json(p);
    }
    for (const auto* tier : {"first", "second", "default"})
      if (one_in(2)) {
        const model::Tier t{one_in(3) ? std::nullopt : std::optional<double>(below(3)), one_in(2)};
        out[fmt::format("{}{}", model::kTiers, tier)] = to_json(tier, t);
      }
    for (const auto* profile : {"one", "two", "kns.openstack"})
      if (!one_in(4)) {
        model::Profile p;
        if (one_in(2)) p.labels_to_apply[any<std::string>({"a", "b"})] = "x";
        if (one_in(3)) p.labels_to_apply["pcns.a"] = "y";
        if (one_in(4)) p.labels_to_apply[std::string(model::kLabelNamespace)] = "openstack";
        p.ingress = rules();
        p.egress = rules();
        out[fmt::format("{}{}", model::kProfiles, profile)] = to_json(profile, p);
      }
    for (int i = below(3); i > 0; --i) {
      model::NetworkSet s;
      if (one_in(2)) s.labels["a"] = any<std::string>({"x", "y"});
      if (one_in(2)) s.labels["b"] = any<std::string>({"x", "xy"});
      s.nets = nets();
      const std::string ns = any<std::string>({"", "openstack", "other"});
      const auto called = fmt::format("s{}", i);
      out[ns.empty() ? fmt::format("{}{}", model::kGlobalNetworkSets, called)
                     : fmt::format("{}{}/{}", model::kNetworkSets, ns, called)] = to_json(ns, called, s);
    }
    return out;
  }

  /// Host endpoints beside them, of this host and another, some of the same interface.
  void add_hosts(Content& out) {
    for (const auto* called : {"h1", "h2", "h3"}) {
      if (one_in(2)) continue;
      model::HostEndpoint h;
      h.node = one_in(5) ? "g" : "h";
      h.interface_name = any<std::string>({"", "*", "eth0", "eth1"});
      h.expected_ips = {*Ip::parse(address(true, 1 + below(8))), *Ip::parse(address(false, 1 + below(8)))};
      if (one_in(2)) h.labels["a"] = any<std::string>({"x", "y"});
      if (one_in(2)) h.labels["b"] = any<std::string>({"x", "y", "xy"});
      if (one_in(4)) h.labels[std::string(model::kLabelNamespace)] = "openstack";
      if (one_in(2)) h.profiles = any<std::vector<std::string>>({{"one"}, {"two", "one"}, {"one", "missing"}});
      if (one_in(2)) h.ports.push_back({"http", 6, 80});
      out[fmt::format("{}{}", model::kHostEndpoints, called)] = to_json(called, h);
    }
  }

  /// `real`: one that conntrack begins a connection with; no echo reply without a request, no ICMP of the other family.
  model::Packet packet(bool real = false) {
    const bool v4 = one_in(2);
    model::Packet p;
    p.src = *Ip::parse(address(v4, 1 + below(8)));
    p.dst = *Ip::parse(address(v4, 1 + below(8)));
    p.protocol = any<std::uint8_t>({1, 6, 6, 17, 58, 132});
    // Conntrack calls ICMP of the other family invalid; one without ports or types instead (OSPF).
    if (real && p.protocol == (v4 ? 58 : 1)) p.protocol = 89;
    if (p.protocol == 6 || p.protocol == 17 || p.protocol == 132) {
      p.src_port = any<std::uint16_t>({80, 100, 5000});
      p.dst_port = any<std::uint16_t>({79, 80, 100, 5000});
    } else {
      p.icmp = model::Icmp{v4 ? any<std::uint8_t>({static_cast<std::uint8_t>(real ? 13 : 0), 8})
                              : static_cast<std::uint8_t>(real || one_in(2) ? 128 : 129),
                           static_cast<std::uint8_t>(below(2))};
    }
    return p;
  }

 private:
  model::WorkloadEndpoint endpoint(int i, bool fixed) {
    model::WorkloadEndpoint e;
    const auto n = name(i);
    e.meta.ns = i == kEndpoints - 1 ? "other" : "openstack";
    e.meta.name = format_wep_name(n);
    if (one_in(2)) e.meta.labels["a"] = any<std::string>({"x", "y"});
    if (one_in(2)) e.meta.labels["b"] = any<std::string>({"x", "y", "xy"});
    e.orchestrator = n.orchestrator;
    e.node = n.host;
    e.workload = n.workload;
    e.endpoint = n.endpoint;
    e.interface_name = fmt::format("tap{}", i);
    e.mac = Mac{{2, 0, 0, 0, 0, static_cast<std::uint8_t>(i)}};
    for (const bool v4 : {true, false})
      e.ip_networks.push_back(Prefix::host(*Ip::parse(address(v4, fixed ? fixed_address(i) : 1 + below(8)))));
    if (one_in(4)) e.ip_networks.push_back(*Prefix::parse("10.0.0.4/30"));
    if (one_in(2)) e.profiles = any<std::vector<std::string>>({{"one"}, {"two", "one"}, {"one", "missing"}});
    if (one_in(2)) e.ports.push_back({"http", 6, any<std::uint16_t>({80, 5000})});
    if (one_in(3)) e.ports.push_back({"dns", any<std::uint8_t>({6, 17}), 100});
    return e;
  }

  model::NetworkPolicy policy(const std::string& called) {
    model::NetworkPolicy p;
    p.global = one_in(2);
    p.meta.name = called;
    if (!p.global) p.meta.ns = one_in(6) ? "other" : "openstack";
    p.tier = any<std::string>({"default", "default", "first", "second", "unknown"});
    p.selector = selector();
    if (p.global && one_in(3)) p.namespace_selector = any<std::string>({"all()", "global()"});
    if (one_in(2)) p.order = below(3);
    if (one_in(4)) (one_in(2) ? p.ingress_type : p.egress_type) = false;
    if (one_in(p.global ? 4 : 12)) (one_in(2) ? p.do_not_track : p.pre_dnat) = true;
    p.apply_on_forward = p.do_not_track || p.pre_dnat || one_in(3);
    p.ingress = rules();
    p.egress = rules();
    if (p.pre_dnat) {
      p.ingress_type = true;
      p.egress_type = false;
      p.egress.clear();
    }
    return p;
  }

  std::string selector() {
    return any<std::string>({"all()", "all()", "all()", "has(a)", "!has(a)", "a == 'x'", "b != 'x'", "a in {'x','y'}",
                             "b not in {'y'}", "has(a) && b == 'x'", "a == 'y' || has(b)", "b starts with 'x'",
                             "!(has(a) && has(b))"});
  }
  std::vector<Prefix> nets() {
    std::vector<Prefix> out;
    for (int i = 1 + below(2); i > 0; --i)
      out.push_back(*Prefix::parse(any<std::string>(
          {"10.0.0.0/30", "10.0.0.4/31", "0.0.0.0/0", "10.0.0.3/32", "fd00::/126", "::/0", "fd00::4/127"})));
    return out;
  }
  model::EntityRule side(bool ported) {
    model::EntityRule e;
    if (one_in(7)) e.nets = nets();
    if (one_in(12)) e.not_nets = nets();
    if (one_in(5)) e.selector = selector();
    if (one_in(12)) e.not_selector = selector();
    if (one_in(12)) e.namespace_selector = any<std::string>({"all()", "global()", "has(a)"});
    if (ported && one_in(3)) e.ports = {{79, 81}, {100, 100}};
    if (ported && one_in(5)) e.not_ports = {{80, 80}};
    if (ported && one_in(4)) e.named_ports = any<std::vector<std::string>>({{"http"}, {"http", "dns"}, {"nobodys"}});
    if (ported && one_in(8)) e.not_named_ports = any<std::vector<std::string>>({{"http"}, {"dns", "http"}});
    return e;
  }
  std::vector<model::Rule> rules() {
    using model::Action;
    std::vector<model::Rule> out;
    for (int i = 1 + below(5); i > 0; --i) {
      model::Rule r;
      r.action = any<Action>({Action::allow, Action::allow, Action::allow, Action::deny, Action::log, Action::pass});
      if (one_in(6)) r.ip_version = any<Family>({Family::v4, Family::v6});
      if (one_in(2)) r.protocol = any<std::uint8_t>({1, 6, 6, 17, 58, 132});
      if (one_in(8)) r.not_protocol = any<std::uint8_t>({6, 17});
      if (r.protocol == 1 || r.protocol == 58) {
        const std::uint8_t echo = r.protocol == 1 ? 8 : 128;
        if (one_in(2)) r.icmp = model::Icmp{echo, one_in(2) ? std::optional<std::uint8_t>(0) : std::nullopt};
        if (one_in(4)) r.not_icmp = model::Icmp{echo, one_in(2) ? std::optional<std::uint8_t>(0) : std::nullopt};
      }
      const bool ported = r.protocol == 6 || r.protocol == 17 || r.protocol == 132;
      r.source = side(ported);
      r.destination = side(ported);
      out.push_back(std::move(r));
    }
    if (one_in(5)) long_list(out);
    return out;
  }
  /// A list of narrow allow rules, as security groups have them, somewhere among the others; some overlap.
  void long_list(std::vector<model::Rule>& out) {
    const auto at = below(static_cast<int>(out.size()) + 1);
    const bool source = one_in(2);
    const bool mostly_v4 = one_in(2);
    std::vector<model::Rule> list;
    for (int i = 12 + below(40); i > 0; --i) {
      model::Rule r;
      r.protocol = any<std::uint8_t>({6, 6, 17});
      auto& peer = source ? r.source : r.destination;
      const bool v4 = one_in(8) != mostly_v4;
      if (!one_in(10)) peer.nets = {net(v4)};
      if (one_in(8)) r.ip_version = v4 ? Family::v4 : Family::v6;
      const auto port = static_cast<std::uint16_t>(one_in(2) ? 78 + below(4) : 90 + below(30));
      if (!one_in(20)) r.destination.ports = {{port, static_cast<std::uint16_t>(port + below(2))}};
      r.action = model::Action::allow;
      list.push_back(std::move(r));
    }
    out.insert(out.begin() + at, list.begin(), list.end());
  }
};

}  // namespace calico::test
