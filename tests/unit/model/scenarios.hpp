#pragma once
/// Calculation scenarios: a State is the content of the datastore and what it means for host "h"; a Scenario is a list
/// of states. check() walks the list in several orders and with several moments of calculation: every state must mean
/// the same however it was reached, its whole ruleset must be that of a compiler without a past, and the deltas on the
/// way must make the same of a mirror. Below it: short builders of keys with their JSON.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/model/compiler.hpp"
#include "core/model/keys.hpp"
#include "core/model/walk.hpp"
#include "tests/support/ruleset_mirror.hpp"

namespace calico::model::scenarios {

using Kv = std::pair<std::string, std::string>;
using Content = std::map<std::string, std::string>;

/// What is asked of each state: "10.0.0.9 > 1 tcp 80" is a packet to endpoint 1 of this host, "1 > …" one from it.
struct Probe {
  std::string text;
  int endpoint;
  Direction direction;
  Packet packet;
  std::optional<HostTraffic> host = {};  ///< asked of the host endpoint of eth0 instead
};
inline Probe to(int endpoint, const std::string& from, std::uint16_t port, std::uint8_t protocol = 6, int address = 0) {
  Packet p;
  p.src = *Ip::parse(from);
  p.dst = *Ip::parse(fmt::format("10.0.0.{}", address ? address : endpoint));
  p.protocol = protocol;
  p.src_port = 40000;
  p.dst_port = port;
  return {fmt::format("{} > {} {} {}", from, endpoint, protocol == 6 ? "tcp" : "udp", port), endpoint,
          Direction::ingress, p};
}
inline Probe from(int endpoint, const std::string& dst, std::uint16_t port) {
  Packet p;
  p.src = *Ip::parse(fmt::format("10.0.0.{}", endpoint));
  p.dst = *Ip::parse(dst);
  p.src_port = 40000;
  p.dst_port = port;
  return {fmt::format("{} > {} tcp {}", endpoint, dst, port), endpoint, Direction::egress, p};
}

/// At the host's eth0: to and from its own processes, and through it.
inline Probe at_host(HostTraffic traffic, Direction d, std::uint16_t port) {
  const bool in = d == Direction::ingress;
  Packet p;
  p.src = *Ip::parse(in ? "192.0.2.1" : "192.0.2.9");
  p.dst = *Ip::parse(in ? "192.0.2.9" : "192.0.2.1");
  p.src_port = 40000;
  p.dst_port = port;
  return {fmt::format("{} {} {}", in ? "in" : "out", traffic == HostTraffic::forwarded ? "through" : "host", port), 0,
          d, p, traffic};
}

struct State {
  Content content;
  std::string means;  ///< summary(): one line an endpoint, a set behind a selector, a probe
};
struct Scenario {
  std::vector<Probe> probes;
  std::vector<State> states;
};

inline std::string key_of(int n, const std::string& host = "h", const std::string& ns = "openstack") {
  return workload_endpoint_key(ns, {host, "openstack", fmt::format("vm{}", n), fmt::format("p{}", n)});
}

inline std::string summary(const Compiler& c, const std::vector<Probe>& probes) {
  std::string out;
  const auto& r = c.ruleset();
  for (const auto& [key, plan] : r.endpoints) {
    out += plan.name.endpoint.substr(1) + ":";
    for (const auto& p : plan.policies) out += " " + p.substr(p.find('/') + 1);
    if (!plan.error.empty()) out += " !";
    out += "\n";
  }
  for (const auto& [key, plan] : r.hosts) {
    out += plan.name + ":";
    for (const auto& p : plan.policies) out += " " + p;
    out += plan.error.empty() ? "\n" : " !\n";
  }
  for (const auto& [name, s] : r.sets)
    if (name.starts_with("s4-") || name.starts_with("p4-")) {
      out += s.about + " =";
      for (const auto& e : s.elements) out += " " + to_string(s.kind, e);
      out += "\n";
    }
  const Walk walk(r);
  for (const auto& p : probes) {
    if (p.host) {
      if (r.hosts.empty()) continue;
      out += fmt::format("{} {}\n", p.text, walk.allowed_host("eth0", *p.host, p.direction, p.packet) ? "yes" : "no");
      continue;
    }
    const auto plan = r.endpoints.find(key_of(p.endpoint));
    if (plan != r.endpoints.end())
      out += fmt::format("{} {}\n", p.text, walk.allowed(plan->second, p.direction, p.packet) ? "yes" : "no");
  }
  return out;
}

enum class Order { as_is, keys_reversed, additions_first, states_reversed, empty_between, squashed };
enum class Flush { each_key, each_key_twice, each_state, at_the_end };

inline void walk_states(const Scenario& scenario, Order order, Flush flush) {
  SCOPED_TRACE(fmt::format("order {} flush {}", static_cast<int>(order), static_cast<int>(flush)));
  auto states = scenario.states;
  if (order == Order::states_reversed) std::reverse(states.begin(), states.end());
  if (order == Order::empty_between) {
    std::vector<State> with;
    for (const auto& s : states) with.insert(with.end(), {s, State{}});
    states = with;
  }
  if (order != Order::empty_between) states.push_back({});
  if (order == Order::squashed) states.pop_back();

  Compiler compiler({.host = "h"});
  test::RulesetMirror kernel;
  const auto calculate = [&] {
    const auto delta = compiler.flush();
    kernel.apply(compiler.ruleset(), delta);
  };
  Content now;
  for (std::size_t i = 0; i < states.size(); ++i) {
    const auto& want = states[i].content;
    std::vector<std::pair<std::string, std::optional<std::string>>> steps;
    const auto removals = [&] {
      for (const auto& [k, v] : now)
        if (!want.contains(k)) steps.emplace_back(k, std::nullopt);
    };
    if (order != Order::additions_first) removals();
    for (const auto& [k, v] : want)
      if (const auto it = now.find(k); it == now.end() || it->second != v) steps.emplace_back(k, v);
    if (order == Order::additions_first) removals();
    if (order == Order::keys_reversed) std::reverse(steps.begin(), steps.end());
    for (const auto& [k, v] : steps) {
      compiler.update(k, v);
      if (flush == Flush::each_key_twice) compiler.update(k, v);
      if (flush == Flush::each_key || flush == Flush::each_key_twice) calculate();
    }
    now = want;
    const bool last = i + 1 == states.size();
    if (last || (flush != Flush::at_the_end && order != Order::squashed)) {
      calculate();
      ASSERT_EQ(summary(compiler, scenario.probes), states[i].means) << "state " << i;
      ASSERT_EQ(to_text(kernel.r), to_text(compiler.ruleset()));
      // What summary() does not tell (names, chains, IPv6, what nobody uses any more) has no history either.
      Compiler fresh({.host = "h"});
      for (const auto& [k, v] : want) fresh.update(k, v);
      (void)fresh.flush();
      ASSERT_EQ(to_text(compiler.ruleset()), to_text(fresh.ruleset()));
      ASSERT_EQ(compiler.faults(), fresh.faults());
      test::expect_consistent(compiler.ruleset());
    }
  }
}

inline void check(const Scenario& scenario) {
  for (const auto order : {Order::as_is, Order::keys_reversed, Order::additions_first, Order::states_reversed,
                           Order::empty_between, Order::squashed})
    for (const auto flush : {Flush::each_key, Flush::each_key_twice, Flush::each_state, Flush::at_the_end})
      walk_states(scenario, order, flush);
}

// --- content ---------------------------------------------------------------------------------------------------------

struct EndpointOptions {
  std::vector<std::string> nets = {};  // default 10.0.0.<n>/32
  std::vector<std::string> profiles = {};
  std::vector<NamedPort> ports = {};
  std::string host = "h";
  std::string ns = "openstack";
};
inline Kv endpoint(int n, Labels labels, const EndpointOptions& o = {}) {
  WorkloadEndpoint w;
  w.meta.ns = o.ns;
  w.meta.labels = std::move(labels);
  w.orchestrator = "openstack";
  w.workload = fmt::format("vm{}", n);
  w.node = o.host;
  w.endpoint = fmt::format("p{}", n);
  w.interface_name = fmt::format("tap{}", n);
  w.mac = Mac{{2, 0, 0, 0, 0, static_cast<std::uint8_t>(n)}};
  for (const auto& net : o.nets) w.ip_networks.push_back(*Prefix::parse(net));
  if (o.nets.empty()) w.ip_networks = {*Prefix::parse(fmt::format("10.0.0.{}/32", n))};
  w.profiles = o.profiles;
  w.ports = o.ports;
  return {key_of(n, o.host, o.ns), to_json(w)};
}
inline Kv remote(int n, Labels labels, EndpointOptions o = {}) {
  o.host = "other";
  return endpoint(n, std::move(labels), o);
}

inline Rule allow(std::uint8_t protocol = 0, std::vector<PortRange> ports = {}) {
  Rule r;
  r.ip_version = Family::v4;
  if (protocol) r.protocol = protocol;
  r.destination.ports = std::move(ports);
  return r;
}
inline Rule with(Rule r, Action a) {
  r.action = a;
  return r;
}
inline Rule from_selector(const std::string& selector, Rule r = allow()) {
  r.source.selector = selector;
  return r;
}
inline const Rule kAll = allow();
inline const Rule kDeny = with(allow(), Action::deny);
inline const Rule kPass = with(allow(), Action::pass);

struct PolicyOptions {
  std::optional<double> order = {};
  std::string tier = "default";
  bool ingress = true;
  bool egress = true;
  std::vector<Rule> out = {};
  std::string ns = "openstack";
  bool do_not_track = false;
  bool pre_dnat = false;
  bool apply_on_forward = false;
};
inline Kv policy(const std::string& name, const std::string& selector, std::vector<Rule> ingress,
                 const PolicyOptions& o = {}) {
  NetworkPolicy p;
  p.global = o.ns.empty();
  p.meta.ns = o.ns;
  p.meta.name = name;
  p.selector = selector;
  p.order = o.order;
  p.tier = o.tier;
  p.ingress_type = o.ingress;
  p.egress_type = o.egress;
  p.ingress = std::move(ingress);
  p.egress = o.out;
  p.do_not_track = o.do_not_track;
  p.pre_dnat = o.pre_dnat;
  p.apply_on_forward = o.apply_on_forward;
  return {o.ns.empty() ? std::string(kGlobalNetworkPolicies) + name : network_policy_key(o.ns, name), to_json(p)};
}
/// Of this host, on eth0 or "*".
inline Kv host_endpoint(const std::string& name, const std::string& interface = "eth0") {
  HostEndpoint h;
  h.node = "h";
  h.interface_name = interface;
  return {std::string(kHostEndpoints) + name, to_json(name, h)};
}
inline Kv tier(const std::string& name, std::optional<double> order, bool pass = false) {
  return {std::string(kTiers) + name, to_json(name, Tier{order, pass})};
}
inline Kv profile(const std::string& name, Labels labels, std::vector<Rule> ingress = {}) {
  return {std::string(kProfiles) + name, to_json(name, Profile{std::move(labels), std::move(ingress), {}})};
}
inline Kv net_set(const std::string& name, Labels labels, const std::vector<std::string>& nets,
                  const std::string& ns = "") {
  NetworkSet s;
  s.labels = std::move(labels);
  for (const auto& n : nets) s.nets.push_back(*Prefix::parse(n));
  return {ns.empty() ? std::string(kGlobalNetworkSets) + name : fmt::format("{}{}/{}", kNetworkSets, ns, name),
          to_json(ns, name, s)};
}
inline const std::string kIn = "projectcalico.org/namespace == \"openstack\" && ";

}  // namespace calico::model::scenarios
