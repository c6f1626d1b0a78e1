/// Compiler: the host endpoints of this host: which interface is whose, and what is asked there.
#include <algorithm>

#include "core/model/compiler_impl.hpp"

namespace calico::model {
namespace {

/// In the order a packet meets them.
constexpr std::string_view kWays[] = {"raw-in", "raw-out", "pre-in", "in", "out", "fwd-in", "fwd-out"};
const std::string kEvery = "*";
const std::string kLoopback = "lo";
const std::string kPass = "hosts-pass";

std::string set_of(std::string_view way) { return fmt::format("hosts-{}", way); }
std::string any_of(std::string_view way) { return fmt::format("any-{}", way); }

ChainRules only(Verdict v, std::string target = {}) {
  MatchRule m;
  m.verdict = v;
  m.target = std::move(target);
  return {std::move(m)};
}

}  // namespace

void Compiler::Impl::update_host(const std::string& name, const std::string& key,
                                 std::optional<std::string_view> value) {
  faults.erase(key);
  auto it = hosts.find(key);
  const auto forget = [&] {
    forget_item(it->second.id);
    locals.erase(it->second.id);
    if (local_host_keys.erase(it->second.id)) dirty_hosts = true;
    hosts.erase(it);
  };
  if (!value) {
    if (it != hosts.end()) forget();
    return;
  }
  auto hep = parse_host_endpoint(*value);
  if (!hep) {
    faults[key] = hep.error().what;
    if (it == hosts.end()) return;
    // Closing it would take the host from its operator for a slip of the pen; opening it, policy from the host.
    it->second.fault = hep.error().what;
    dirty_hosts = dirty_hosts || it->second.local;
    return;
  }
  const bool local = hep->node == options.host;
  if (it != hosts.end() && it->second.local != local) {
    forget();
    it = hosts.end();
  }
  if (it == hosts.end()) {
    it = hosts.try_emplace(key).first;
    it->second.id = next_id++;
    it->second.name = name;
    it->second.local = local;
    if (local) {
      locals.insert(it->second.id);
      local_host_keys.emplace(it->second.id, key);
    }
  }
  auto& h = it->second;
  h.fault.clear();
  h.hep = std::move(*hep);
  Member m;
  for (const auto& ip : h.hep.expected_ips) m.nets.push_back(Prefix::host(ip));
  m.ports = h.hep.ports;
  set_member(h.id, std::move(m));
  auto labels = h.hep.labels;
  labels.erase(std::string(kLabelNamespace));  // it is in none
  set_labels(h.id, std::move(labels), h.hep.profiles);
  dirty_hosts = dirty_hosts || local;
}

std::map<std::string, std::vector<std::string>> Compiler::Impl::interfaces_of_hosts(
    std::map<std::string, HostPlan>& plans) const {
  const auto of_workloads = [&](const std::string& name) {
    return std::any_of(options.interface_prefixes.begin(), options.interface_prefixes.end(),
                       [&](const auto& x) { return !x.empty() && name.starts_with(x); });
  };
  std::map<std::string, std::string> owner;  // interface → key
  std::map<std::string, std::vector<std::string>> out;
  for (auto& [key, p] : plans) {  // by key, so by name
    const auto& hep = hosts.at(key).hep;
    std::vector<std::string> wanted;
    if (!hep.interface_name.empty()) {
      // Whether it is there or not: one that comes is policed from its first packet.
      if (!of_workloads(hep.interface_name)) wanted.push_back(hep.interface_name);
    } else {
      for (const auto& i : host_interfaces)
        if (!of_workloads(i.name) && std::any_of(i.addresses.begin(), i.addresses.end(), [&](const Ip& ip) {
              return std::find(hep.expected_ips.begin(), hep.expected_ips.end(), ip) != hep.expected_ips.end();
            }))
          wanted.push_back(i.name);
    }
    auto& have = out[key];
    for (const auto& i : wanted) {
      const auto [at, mine] = owner.try_emplace(i, key);
      if (mine)
        have.push_back(i);
      else
        p.notes.push_back(fmt::format("interface {} is host endpoint {}'s", i, plans.at(at->second).name));
    }
    if (!have.empty()) continue;
    if (!p.notes.empty())
      p.error = std::exchange(p.notes, {}).front();
    else if (hep.interface_name.empty())
      p.error = "no interface has one of its expectedIPs";
    else
      p.error = fmt::format("interface {} belongs to endpoints; left alone", hep.interface_name);
  }
  return out;
}

void Compiler::Impl::plan_host(const Host& h, HostPlan& p, std::map<std::string, int>& chains) {
  const bool every = h.hep.interface_name == kEvery;
  const auto untracked = questions_of(h.policies, {}, Stage::untracked);
  const auto pre_dnat = questions_of(h.policies, {}, Stage::pre_dnat);
  const auto local = questions_of(h.policies, h.hep.profiles, Stage::normal);
  const auto forwarded = questions_of(h.policies, {}, Stage::forwarded);
  bool closed_forward = false;
  for (const auto* x : ranked(h.policies)) {
    const auto& b = x->body;
    if (every && b.do_not_track)
      p.notes.push_back(
          fmt::format("policy {} is not asked: doNotTrack is for host endpoints of named interfaces", x->title));
    if (b.fault.empty()) continue;
    closed_forward = closed_forward || b.apply_on_forward || b.do_not_track || b.pre_dnat;
    if (p.error.empty()) p.error = fmt::format("policy {}: {}", x->title, b.fault);
  }
  for (const auto* q : {&untracked, &pre_dnat, &local, &forwarded}) {
    if (every && q == &untracked) continue;
    if (q != &forwarded)
      for (const auto& tier : q->tiers)
        for (const auto& key : tier.policies) p.policies.push_back(policies.at(policy_ids.at(key)).title);
    if (q->tiers.size() <= kMaxTiers) continue;
    closed_forward = closed_forward || q != &local;
    if (p.error.empty()) p.error = fmt::format("{} tiers select it: at most {}", q->tiers.size(), kMaxTiers);
  }
  for (const auto& name : h.hep.profiles)
    if (const auto it = profiles.find(name); it == profiles.end() || !it->second.present)
      p.notes.push_back(fmt::format("profile {} is missing: what reaches it is refused", quoted(name)));
  const bool closed = !p.error.empty();
  if (closed) p.error += "; refuses all but failsafe ports";
  const auto title = chain_title(h.name);
  const auto first_of = [&](std::string_view way) { return fmt::format("hep-{}/{}", way, title); };
  MatchRule accepted;
  accepted.accepted_early = true;
  accepted.verdict = Verdict::accept;
  for (const auto& way : kWays) {
    const bool raw = way.starts_with("raw-");
    const bool early = raw || way.starts_with("pre-");
    const bool forward = way.starts_with("fwd-");
    const bool ingress = way.ends_with("in");
    const auto first = first_of(way);
    const auto name_of = [&](int n) { return n == 1 ? first : fmt::format("{}/{}", first, n); };
    int& count = chains[first];
    if (early) {
      // Of one that refuses everything later anyway, nothing is asked earlier.
      if (!closed_forward && !(raw && every))
        count = put_questions(raw ? untracked : pre_dnat, ingress, false, name_of);
    } else if (forward ? closed_forward : closed) {
      put_chain(first, only(Verdict::drop));
      count = 1;
    } else {
      ChainRules lead;
      // What is forwarded has not left the host by raw-out: its egress is judged here.
      if (ingress ? chains[first_of("raw-in")] + chains[first_of("pre-in")] > 0
                  : !forward && chains[first_of("raw-out")] > 0)
        lead.push_back(accepted);
      count = put_questions(forward ? forwarded : local, ingress, !forward, name_of, std::move(lead));
    }
    if (title != h.name && count > 0) ruleset.titles[first] = h.name;
  }
}

void Compiler::Impl::settle_hosts() {
  if (!std::exchange(dirty_hosts, false)) return;
  std::map<std::string, HostPlan> plans;
  for (const auto& [id, key] : local_host_keys) {
    auto& p = plans[key];
    p.name = hosts.at(key).name;
  }
  auto interfaces = interfaces_of_hosts(plans);
  std::map<std::string, int> chains;
  std::map<std::string, std::set<Element>> elements;  // by way
  std::map<std::string, ChainRules> any;
  for (auto& [key, p] : plans) {
    const auto& h = hosts.at(key);
    p.interfaces = interfaces.at(key);
    if (!h.fault.empty())
      p.notes.push_back(fmt::format("its last value cannot be read, the former stands: {}", h.fault));
    if (p.interfaces.empty()) continue;
    std::map<std::string, int> mine;
    plan_host(h, p, mine);
    for (const auto& [first, count] : mine) {
      if (count > 0) p.chains.push_back(first);
      const auto way = first.substr(4, first.find('/') - 4);
      for (const auto& name : p.interfaces) {
        if (name != kEvery)
          elements[way].insert({.interface_name = name, .chain = count == 0 ? kPass : first});
        else if (count != 0)
          any[way] = only(Verdict::go, first);
      }
    }
    chains.merge(mine);
  }
  for (const auto& each : kWays) {
    const std::string way(each);
    const auto set = set_of(way);
    auto& want = elements[way];
    const bool every = any.contains(way);
    // What the host says to itself is its own affair, unless an endpoint names the loopback.
    if (every && !way.starts_with("fwd-") &&
        std::none_of(want.begin(), want.end(), [](const Element& e) { return e.interface_name == kLoopback; }))
      want.insert({.interface_name = kLoopback, .chain = kPass});
    // An interface where nothing is asked needs an element only to be kept from what the others are asked.
    if (!every) std::erase_if(want, [](const Element& e) { return e.chain == kPass; });
    std::vector<Element> gone;
    for (const auto& e : ruleset.sets.at(set).elements)
      if (!want.contains(e)) gone.push_back(e);
    for (const auto& e : gone) drop_element(set, e);
    for (const auto& e : want) add_element(set, e);
    put_chain(any_of(way), any[way]);
  }
  const auto name_of = [](const std::string& first, int n) { return n == 1 ? first : fmt::format("{}/{}", first, n); };
  for (const auto& [first, had] : host_chains) {
    const auto it = chains.find(first);
    for (int n = (it == chains.end() ? 0 : it->second) + 1; n <= had; ++n) drop_chain(name_of(first, n));
  }
  host_chains = std::move(chains);
  for (const auto& [key, p] : ruleset.hosts)
    if (!plans.contains(key)) delta.hosts.insert(key);
  for (const auto& [key, p] : plans)
    if (const auto it = ruleset.hosts.find(key); it == ruleset.hosts.end() || it->second != p) delta.hosts.insert(key);
  ruleset.hosts = std::move(plans);
}

}  // namespace calico::model
