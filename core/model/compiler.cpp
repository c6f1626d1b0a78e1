#include "core/model/compiler.hpp"

#include <openssl/sha.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "core/model/keys.hpp"
#include "core/model/resources.hpp"
#include "core/model/selector.hpp"

namespace calico::model {
namespace {

std::array<unsigned char, SHA256_DIGEST_LENGTH> digest(std::string_view text) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> d{};
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), d.data());
  return d;
}

/// 80 bits as hexadecimal: names of sets and of policies whose own name does not fit. Not chosen by tenants.
std::string short_hash(std::string_view text) {
  std::string out;
  const auto d = digest(text);
  for (std::size_t i = 0; i < 10; ++i) out += fmt::format("{:02x}", d[i]);
  return out;
}

std::uint32_t group_of(std::string_view class_key) {
  const auto d = digest(class_key);
  std::uint32_t v = 0;
  std::memcpy(&v, d.data(), sizeof v);
  return kGroupClosed + 1 + v % (kGroupSpan - 1);
}

/// What nft takes as an identifier inside "in/…": else the name is hashed.
bool plain_name(std::string_view s) {
  return s.size() <= 200 && std::all_of(s.begin(), s.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
                  c == '_' || c == '/';
         });
}

Element host_element(const Ip& ip) { return {.ip = ip, .ip_end = ip}; }

}  // namespace

struct Compiler::Impl {
  using Id = std::uint32_t;

  struct Endpoint {
    Id id = 0;
    std::string key;
    std::string ns;
    WorkloadEndpointName name;
    bool local = false;
    std::string fault;
    WorkloadEndpoint wep;        // local and readable
    std::vector<Prefix> nets;    // what it adds to sets of selectors
    std::set<Id> policies;       // that select it; local only
    std::string interface_name;  // that it asks for; local only
    std::string class_key;
  };

  /// A set something of a policy refers to.
  struct Use {
    bool of_selector = false;
    Id id = 0;         // SelectorSet
    std::string name;  // shared set
  };

  struct Policy {
    Id id = 0;
    std::string key;
    std::string title;  // "<ns>/<name>"
    NetworkPolicy body;
    Selector selector;
    bool active = false;
    std::vector<Use> uses;
    bool has_in = false;  // its chain of this direction holds something
    bool has_out = false;
    std::string chain_in, chain_out;

    auto rank() const {
      return std::tuple(!body.order.has_value(), body.order.value_or(0), body.meta.name, body.meta.ns, key);
    }
  };

  /// Addresses of the endpoints a selector matches, of one family.
  struct SelectorSet {
    Id id = 0;
    Selector selector;
    Family family = Family::v4;
    std::string base;  // name without the suffix of the block kind
    std::string name;
    int refs = 0;
    std::map<Prefix, int> members;
    std::size_t blocks = 0;  // members that are more than one address
    bool with_blocks = false;
    bool live = false;  // its elements are in the ruleset
  };

  struct Class {
    std::vector<std::string> policies;  // keys, in the order they are asked
    std::uint32_t group = 0;
    int refs = 0;
  };

  explicit Impl(CompilerOptions o)
      : options(std::move(o)),
        selected([this](auto policy, auto endpoint, bool m) { on_selected(policy, endpoint, m); }),
        members([this](auto set, auto endpoint, bool m) { on_member(set, endpoint, m); }) {
    make_set("src4", SetKind::if_mac_ip4, "sources of the interfaces");
    make_set("src4-blocks", SetKind::if_mac_net4, "allowed pairs that are blocks");
    make_set("src6", SetKind::if_mac_ip6, "sources of the interfaces");
    make_set("src6-blocks", SetKind::if_mac_net6, "allowed pairs that are blocks");
    make_set("mac", SetKind::if_mac, "for sources without an address yet, and link-local ones");
    make_set("arp-src", SetKind::if_mac_ip4, "sources of the interfaces", true);
    make_set("arp-src-blocks", SetKind::if_mac_net4, "allowed pairs that are blocks", true);
    make_set("from", SetKind::group_verdict, "class of the interface a packet came from");
    make_set("to", SetKind::group_verdict, "class of the interface a packet goes to");
    make_set("protected4", SetKind::ip4_port, "control ports of every node");
    make_set("protected6", SetKind::ip6_port, "control ports of every node");
  }

  // ---- the ruleset and its delta ----

  void make_set(const std::string& name, SetKind kind, std::string about, bool arp = false) {
    ruleset.sets[name] = SetContent{kind, arp, std::move(about), {}};
    // Gone and made again between two flushes: the kernel's set stays, its elements differ.
    if (!delta.sets_gone.erase(name)) delta.sets_made.insert(name);
  }

  void drop_set(const std::string& name) {
    auto it = ruleset.sets.find(name);
    if (it == ruleset.sets.end()) return;
    const auto elements = std::move(it->second.elements);
    ruleset.sets.erase(it);
    if (delta.sets_made.erase(name)) {
      delta.elements.erase(name);
      return;
    }
    delta.sets_gone.insert(name);
    auto& d = delta.elements[name];
    for (const auto& e : elements)
      if (!d.added.erase(e)) d.removed.insert(e);
  }

  void add_element(const std::string& set, const Element& e) {
    if (!ruleset.sets.at(set).elements.insert(e).second) return;
    auto& d = delta.elements[set];
    if (!d.removed.erase(e)) d.added.insert(e);
  }

  void drop_element(const std::string& set, const Element& e) {
    if (!ruleset.sets.at(set).elements.erase(e)) return;
    auto& d = delta.elements[set];
    if (!d.added.erase(e)) d.removed.insert(e);
  }

  void put_chain(const std::string& name, ChainRules rules) {
    auto [it, fresh] = ruleset.chains.try_emplace(name);
    if (!fresh && it->second == rules) return;
    it->second = std::move(rules);
    delta.chains.insert(name);
  }
  void drop_chain(const std::string& name) {
    if (ruleset.chains.erase(name)) delta.chains.insert(name);
  }

  // ---- endpoints ----

  void update_endpoint(const ResourceKey& rk, const std::string& key, std::optional<std::string_view> value) {
    faults.erase(key);
    const auto name = parse_wep_name(rk.name);
    if (!name) {
      if (value) faults[key] = name.error().what;
      return;
    }
    if (!value) return remove_endpoint(key);
    auto wep = parse_workload_endpoint(*value);
    if (!wep) faults[key] = wep.error().what;
    if (wep && wep->ip_networks.empty()) return remove_endpoint(key);  // being deleted

    auto it = endpoint_ids.find(key);
    if (it == endpoint_ids.end()) {
      it = endpoint_ids.emplace(key, next_id++).first;
      auto& e = endpoints[it->second];
      e.id = it->second;
      e.key = key;
      e.ns = rk.ns;
      e.name = *name;
      e.local = name->host == options.host && rk.ns == options.ns;
      if (e.local) locals.insert(e.id);
    }
    Endpoint& e = endpoints.at(it->second);
    e.fault = wep ? "" : wep.error().what;

    // Members first change under the old labels' matches, then the labels move.
    const auto nets = wep ? wep->ip_networks : std::vector<Prefix>{};
    set_nets(e, nets);
    Labels labels = wep ? wep->meta.labels : Labels{};
    // The namespace is the key's, whatever the labels say: policies of one namespace never reach into another.
    labels[std::string(kLabelNamespace)] = rk.ns;
    std::erase_if(labels, [](const auto& l) { return l.first.starts_with("pcns.") || l.first.starts_with("pcsa."); });
    members.set_item(e.id, labels);
    if (!e.local) return;
    selected.set_item(e.id, std::move(labels));
    e.wep = wep ? std::move(*wep) : WorkloadEndpoint{};
    claim_interface(e, e.fault.empty() ? e.wep.interface_name : interface_of_port(e.name.endpoint));
    dirty_endpoints.insert(e.id);
  }

  void remove_endpoint(const std::string& key) {
    auto it = endpoint_ids.find(key);
    if (it == endpoint_ids.end()) return;
    Endpoint& e = endpoints.at(it->second);
    set_nets(e, {});
    members.remove_item(e.id);
    if (e.local) {
      selected.remove_item(e.id);
      claim_interface(e, "");
      put_plan(e, std::nullopt);
      leave_class(e);
      dirty_endpoints.erase(e.id);
      locals.erase(e.id);
    }
    const auto id = e.id;
    endpoint_ids.erase(it);
    endpoints.erase(id);
  }

  void set_nets(Endpoint& e, const std::vector<Prefix>& nets) {
    if (e.nets == nets) return;
    const auto& sets = members.selectors_of(e.id);
    for (const auto sid : sets) {
      auto& s = selector_sets.at(sid);
      for (const auto& n : nets) add_member(s, n);
      for (const auto& n : e.nets) drop_member(s, n);
    }
    e.nets = nets;
  }

  void claim_interface(Endpoint& e, const std::string& name) {
    if (e.interface_name == name) return;
    const auto mine = std::tuple(e.name.workload, e.name.endpoint, e.id);
    if (!e.interface_name.empty()) {
      auto at = claims.find(e.interface_name);
      at->second.erase(mine);
      for (const auto& [w, p, id] : at->second) dirty_endpoints.insert(id);
      if (at->second.empty()) claims.erase(at);
    }
    e.interface_name = name;
    if (name.empty()) return;
    auto& all = claims[name];
    all.insert(mine);
    for (const auto& [w, p, id] : all) dirty_endpoints.insert(id);
  }

  // ---- policies ----

  void update_policy(const ResourceKey& rk, const std::string& key, std::optional<std::string_view> value,
                     bool global) {
    faults.erase(key);
    auto at = policy_ids.find(key);
    if (!value) {
      if (at == policy_ids.end()) return;
      const auto id = at->second;
      selected.remove_selector(id);
      deactivate(policies.at(id));
      dirty_policies.erase(id);
      policies.erase(id);
      policy_ids.erase(at);
      return;
    }
    auto parsed = parse_network_policy(*value, global);
    if (!parsed) {
      faults[key] = parsed.error().what;
      // Its endpoints are known from the former version: they close. Without one it counts as absent.
      if (at == policy_ids.end()) return;
      NetworkPolicy former = policies.at(at->second).body;
      former.fault = parsed.error().what;
      former.ingress.clear();
      former.egress.clear();
      parsed = std::move(former);
    } else if (!parsed->fault.empty()) {
      faults[key] = parsed->fault;
    }
    Selector selector = *Selector::parse(parsed->selector);
    if (!global) {
      selector = Selector::both(Selector::label_is(std::string(kLabelNamespace), rk.ns), selector);
    } else if (parsed->namespace_selector) {
      selector = Selector::both(namespace_selector(*parsed->namespace_selector), selector);
    }
    if (at == policy_ids.end()) {
      at = policy_ids.emplace(key, next_id++).first;
      auto& p = policies[at->second];
      p.id = at->second;
      p.key = key;
      p.title = rk.ns.empty() ? rk.name : fmt::format("{}/{}", rk.ns, rk.name);
      const auto in_chain = plain_name(p.title) ? p.title : short_hash(p.title);
      p.chain_in = (global ? "in/global/" : "in/") + in_chain;
      p.chain_out = (global ? "out/global/" : "out/") + in_chain;
      p.body = std::move(*parsed);
      p.body.meta.ns = rk.ns;
      p.body.meta.name = rk.name;
      p.selector = selector;
      selected.add_selector(p.id, std::move(selector));
    } else {
      auto& p = policies.at(at->second);
      const bool moved = p.body.order != parsed->order || p.body.fault != parsed->fault;
      p.body = std::move(*parsed);
      p.body.meta.ns = rk.ns;
      p.body.meta.name = rk.name;
      if (!(p.selector == selector)) {
        selected.remove_selector(p.id);
        p.selector = selector;
        selected.add_selector(p.id, std::move(selector));
      }
      if (moved)
        for (const auto id : selected.items_of(p.id)) dirty_endpoints.insert(id);
    }
    dirty_policies.insert(at->second);
  }

  void on_selected(Id policy, Id endpoint, bool matches) {
    auto& e = endpoints.at(endpoint);
    if (matches)
      e.policies.insert(policy);
    else
      e.policies.erase(policy);
    dirty_endpoints.insert(endpoint);
    if (policies.at(policy).active != matches) first_or_last.insert(policy);
  }

  static Selector namespace_selector(const std::string& text) {
    const auto s = *Selector::parse(text, "pcns.");
    if (s.canonical() == "all()") return *Selector::parse(fmt::format("has({})", kLabelNamespace));
    if (s.canonical() == "global()") return *Selector::parse("global()");
    return s;
  }

  /// One policy as rules of both directions, its sets acquired.
  void compile(Policy& p) {
    std::vector<Use> uses;
    ChainRules in, out;
    const bool usable = p.active && p.body.fault.empty();
    if (usable && p.body.ingress_type)
      for (const auto& r : p.body.ingress) compile_rule(p, r, in, uses);
    if (usable && p.body.egress_type)
      for (const auto& r : p.body.egress) compile_rule(p, r, out, uses);
    const bool had_in = std::exchange(p.has_in, !in.empty());
    const bool had_out = std::exchange(p.has_out, !out.empty());
    if (p.has_in)
      put_chain(p.chain_in, std::move(in));
    else
      drop_chain(p.chain_in);
    if (p.has_out)
      put_chain(p.chain_out, std::move(out));
    else
      drop_chain(p.chain_out);
    std::swap(p.uses, uses);
    for (const auto& u : uses) release(u);
    if (had_in != p.has_in || had_out != p.has_out)
      for (auto& [key, c] : classes)
        if (std::find(c.policies.begin(), c.policies.end(), p.key) != c.policies.end()) dirty_classes.insert(key);
  }

  void deactivate(Policy& p) {
    p.active = false;
    compile(p);
  }

  void compile_rule(Policy& p, const Rule& r, ChainRules& out, std::vector<Use>& uses) {
    if (r.action == Action::log) return;  // changes no verdict
    const auto& s = r.source;
    const auto& d = r.destination;
    const auto of_addresses = [](const EntityRule& e) {
      return !e.nets.empty() || !e.not_nets.empty() || e.selector || e.not_selector || e.namespace_selector;
    };
    std::vector<std::optional<Family>> families;
    if (r.ip_version)
      families = {r.ip_version};
    else if (of_addresses(s) || of_addresses(d))
      families = {Family::v4, Family::v6};
    else if (r.protocol == 1)
      families = {Family::v4};
    else if (r.protocol == 58)
      families = {Family::v6};
    else
      families = {std::nullopt};
    for (const auto& family : families) {
      if (family == Family::v6 && r.protocol == 1) continue;  // can match nothing
      if (family == Family::v4 && r.protocol == 58) continue;
      MatchRule m;
      m.family = family;
      m.protocol = r.protocol;
      m.not_protocol = r.not_protocol;
      m.icmp = r.icmp;
      m.not_icmp = r.not_icmp;
      m.verdict = r.action == Action::allow ? Verdict::accept : Verdict::drop;  // nothing follows a Pass but the drop
      const auto mark = uses.size();
      if (compile_side(p, s, family, m.src, uses) && compile_side(p, d, family, m.dst, uses)) {
        out.push_back(std::move(m));
      } else {
        while (uses.size() > mark) release(std::exchange(uses.back(), {})), uses.pop_back();
      }
    }
  }

  /// False: nothing can match in this family.
  bool compile_side(Policy& p, const EntityRule& e, std::optional<Family> family, MatchRule::Side& out,
                    std::vector<Use>& uses) {
    const auto of_family = [&](std::vector<Prefix> nets) {
      std::erase_if(nets, [&](const Prefix& n) { return n.family() != family; });
      return nets;
    };
    if (!e.nets.empty()) {
      const auto nets = of_family(e.nets);
      if (nets.empty()) return false;
      if (std::none_of(nets.begin(), nets.end(), [](const auto& n) { return n.len == 0; })) {
        if (nets.size() == 1)
          out.net = nets.front().masked();
        else
          out.in_sets.push_back(net_set(nets, uses));
      }
    }
    if (const auto nets = of_family(e.not_nets); !nets.empty()) {
      if (std::any_of(nets.begin(), nets.end(), [](const auto& n) { return n.len == 0; })) return false;
      out.not_in_sets.push_back(net_set(nets, uses));
    }
    if (e.selector || e.namespace_selector) {
      Selector s = e.selector ? *Selector::parse(*e.selector) : Selector();
      if (e.namespace_selector)
        s = Selector::both(namespace_selector(*e.namespace_selector), s);
      else if (!p.body.global)
        s = Selector::both(Selector::label_is(std::string(kLabelNamespace), p.body.meta.ns), s);
      if (e.not_selector) s = Selector::both(s, negated(*e.not_selector));
      out.in_sets.push_back(selector_set(s, *family, uses));
    } else if (e.not_selector) {
      out.not_in_sets.push_back(selector_set(*Selector::parse(*e.not_selector), *family, uses));
    }
    if (!e.ports.empty()) {
      const auto ports = disjoint_ports(e.ports);
      if (ports.size() > 1)
        out.port_set = port_set(ports, uses);
      else if (ports.front() != PortRange{0, 65535})
        out.ports = ports.front();
    }
    if (!e.not_ports.empty()) out.not_port_set = port_set(disjoint_ports(e.not_ports), uses);
    return true;
  }

  static Selector negated(const std::string& text) { return *Selector::parse(fmt::format("!({})", text)); }

  // ---- sets that policies share ----

  std::string net_set(const std::vector<Prefix>& nets, std::vector<Use>& uses) {
    const bool v4 = nets.front().family() == Family::v4;
    std::string text;
    const auto ranges = disjoint_ranges(nets);
    for (const auto& [first, last] : ranges) text += fmt::format("{}-{} ", first, last);
    const auto name = (v4 ? "nets4-" : "nets6-") + short_hash(text);
    if (shared[name]++ == 0) {
      make_set(name, v4 ? SetKind::net4 : SetKind::net6, "");
      for (const auto& [first, last] : ranges) add_element(name, {.ip = first, .ip_end = last});
    }
    uses.push_back({false, 0, name});
    return name;
  }

  std::string port_set(const std::vector<PortRange>& ports, std::vector<Use>& uses) {
    std::string text;
    for (const auto& p : ports) text += fmt::format("{}-{} ", p.first, p.last);
    const auto name = "ports-" + short_hash(text);
    if (shared[name]++ == 0) {
      make_set(name, SetKind::ports, "");
      for (const auto& p : ports) add_element(name, {.port = p.first, .port_end = p.last});
    }
    uses.push_back({false, 0, name});
    return name;
  }

  std::string selector_set(const Selector& selector, Family family, std::vector<Use>& uses) {
    const auto base = (family == Family::v4 ? "s4-" : "s6-") + short_hash(selector.canonical());
    auto [it, fresh] = selector_set_ids.try_emplace(base, next_id);
    if (fresh) {
      auto& s = selector_sets[next_id++];
      s.id = it->second;
      s.selector = selector;
      s.family = family;
      s.base = s.name = base;
      members.add_selector(s.id, selector);  // fills members
      settle(s);
    }
    auto& s = selector_sets.at(it->second);
    ++s.refs;
    uses.push_back({true, s.id, {}});
    return s.name;
  }

  void release(const Use& u) {
    if (!u.of_selector) {
      if (--shared.at(u.name) > 0) return;
      shared.erase(u.name);
      drop_set(u.name);
      return;
    }
    auto& s = selector_sets.at(u.id);
    if (--s.refs > 0) return;
    s.live = false;
    drop_set(s.name);
    members.remove_selector(u.id);
    dirty_sets.erase(u.id);
    selector_set_ids.erase(s.base);
    selector_sets.erase(u.id);
  }

  void on_member(Id set, Id endpoint, bool matches) {
    auto& s = selector_sets.at(set);
    for (const auto& n : endpoints.at(endpoint).nets) matches ? add_member(s, n) : drop_member(s, n);
  }

  void add_member(SelectorSet& s, const Prefix& net) {
    if (net.family() != s.family || s.members[net]++ > 0) return;
    if (!net.is_host()) ++s.blocks;
    if (s.live && !s.with_blocks && net.is_host())
      add_element(s.name, host_element(net.addr));
    else if (s.live)
      dirty_sets.insert(s.id);
  }

  void drop_member(SelectorSet& s, const Prefix& net) {
    auto it = s.members.find(net);
    if (it == s.members.end() || --it->second > 0) return;
    s.members.erase(it);
    if (!net.is_host()) --s.blocks;
    if (s.live && !s.with_blocks && net.is_host())
      drop_element(s.name, host_element(net.addr));
    else if (s.live)
      dirty_sets.insert(s.id);
  }

  /// Brings a set's kind and elements to its members. A set that gains its first block, or loses its last, changes
  /// kind and so its name; who uses it is compiled again.
  void settle(SelectorSet& s) {
    const bool v4 = s.family == Family::v4;
    const bool with_blocks = s.blocks > 0;
    if (!s.live || with_blocks != s.with_blocks) {
      if (s.live) {
        drop_set(s.name);
        for (auto& [id, p] : policies)
          if (std::any_of(p.uses.begin(), p.uses.end(), [&](const Use& u) { return u.of_selector && u.id == s.id; }))
            dirty_policies.insert(id);
      }
      s.with_blocks = with_blocks;
      s.name = with_blocks ? s.base + "-blocks" : s.base;
      make_set(s.name, with_blocks ? (v4 ? SetKind::net4 : SetKind::net6) : (v4 ? SetKind::ip4 : SetKind::ip6),
               s.selector.canonical());
      s.live = true;
    }
    std::set<Element> want;
    if (with_blocks) {
      std::vector<Prefix> nets;
      for (const auto& [n, count] : s.members) nets.push_back(n);
      for (const auto& [first, last] : disjoint_ranges(std::move(nets))) want.insert({.ip = first, .ip_end = last});
    } else {
      for (const auto& [n, count] : s.members) want.insert(host_element(n.addr));
    }
    std::vector<Element> gone;
    for (const auto& e : ruleset.sets.at(s.name).elements)
      if (!want.contains(e)) gone.push_back(e);
    for (const auto& e : gone) drop_element(s.name, e);
    for (const auto& e : want) add_element(s.name, e);
  }

  // ---- nodes ----

  void update_node(const std::string& key, std::optional<std::string_view> value) {
    faults.erase(key);
    std::vector<Ip> addresses;
    if (value) {
      auto node = parse_node(*value);
      if (!node) {
        faults[key] = node.error().what;  // what was known of it stays protected
        return;
      }
      addresses = node->all_addresses();
    }
    set_addresses(key, std::move(addresses));
  }

  void set_addresses(const std::string& owner, std::vector<Ip> addresses) {
    std::erase_if(addresses, [](const Ip& ip) {
      return ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_link_local();
    });
    std::sort(addresses.begin(), addresses.end());
    addresses.erase(std::unique(addresses.begin(), addresses.end()), addresses.end());
    auto& have = node_addresses[owner];
    for (const auto& ip : addresses)
      if (guarded[ip]++ == 0) guard(ip, true);
    for (const auto& ip : have)
      if (--guarded.at(ip) == 0) {
        guarded.erase(ip);
        guard(ip, false);
      }
    have = std::move(addresses);
    if (have.empty()) node_addresses.erase(owner);
  }

  void guard(const Ip& ip, bool on) {
    if (options.protect_nodes)
      for (const auto port : options.protected_ports) {
        const std::string set = ip.is_v4() ? "protected4" : "protected6";
        const Element e{.ip = ip, .ip_end = ip, .port = port, .port_end = port};
        on ? add_element(set, e) : drop_element(set, e);
      }
    for (const auto id : locals)
      for (const auto& n : endpoints.at(id).nets)
        if (n.contains(ip)) dirty_endpoints.insert(id);
  }

  bool holds_guarded(const Prefix& net) const {
    const auto it = guarded.lower_bound(net.masked().addr);
    return it != guarded.end() && net.contains(it->first);
  }

  // ---- plans ----

  void plan(Endpoint& e) {
    EndpointPlan p;
    p.key = e.key;
    p.ns = e.ns;
    p.name = e.name;
    p.interface_name = e.interface_name;
    const bool ours = is_interface_name(e.interface_name) &&
                      std::any_of(options.interface_prefixes.begin(), options.interface_prefixes.end(),
                                  [&](const auto& x) { return !x.empty() && e.interface_name.starts_with(x); });
    const auto& first = claims.count(e.interface_name) ? *claims.at(e.interface_name).begin()
                                                       : std::tuple(e.name.workload, e.name.endpoint, e.id);
    if (!ours) {
      p.left_alone = true;
      p.interface_name = is_interface_name(e.interface_name) ? e.interface_name : "?";
      p.error = fmt::format("interface {} is none of the configured prefixes; left alone", p.interface_name);
    } else if (std::get<2>(first) != e.id) {
      p.left_alone = true;
      p.error = fmt::format("interface {} belongs to endpoint {} of {}", e.interface_name, std::get<1>(first),
                            std::get<0>(first));
    } else if (!e.fault.empty()) {
      p.error = e.fault;
    } else if (!e.wep.mac) {
      p.error = "spec.mac: missing, so that its packets cannot be told from spoofed ones";
    } else {
      p.mac = e.wep.mac;
      p.gateway4 = e.wep.ipv4_gateway;
      p.gateway6 = e.wep.ipv6_gateway;
      plan_nets(e, p);
      if (!e.wep.ip_nats.empty()) p.notes.push_back("floating IPs are not programmed yet");
      if (!e.wep.qos_controls_json.empty()) p.notes.push_back("QoS is not programmed yet");
      if (!e.wep.profiles.empty()) p.notes.push_back("profiles are not supported; they allow nothing");
    }
    std::string class_key;
    std::vector<const Policy*> ranked;
    if (!p.left_alone) {
      for (const auto id : e.policies) ranked.push_back(&policies.at(id));
      std::sort(ranked.begin(), ranked.end(), [](auto* a, auto* b) { return a->rank() < b->rank(); });
      for (const auto* x : ranked) {
        p.policies.push_back(x->title);
        if (!x->body.fault.empty() && p.error.empty()) p.error = fmt::format("policy {}: {}", x->title, x->body.fault);
        class_key += x->key + "\n";
      }
    }
    if (!p.error.empty()) class_key.clear();
    enter_class(e, class_key, ranked);
    p.group = class_key.empty() ? kGroupClosed : classes.at(class_key).group;
    put_plan(e, std::move(p));
  }

  void plan_nets(const Endpoint& e, EndpointPlan& p) {
    for (const auto& n : e.wep.ip_networks) {
      const Prefix net = n.masked();
      const auto out = [&](std::string_view why) { p.notes.push_back(fmt::format("{} left out: {}", net, why)); };
      if (net.len == 0)
        out("every address cannot be one endpoint's");
      else if (net.addr.is_unspecified() || net.addr.is_loopback() || net.addr.is_multicast() ||
               net.addr.is_link_local())
        out("not an address for an endpoint");
      else if (holds_guarded(net))
        out("an address of a node");
      else if (std::find(p.nets.begin(), p.nets.end(), net) == p.nets.end())
        p.nets.push_back(net);
    }
  }

  using SetElement = std::pair<std::string, Element>;

  static std::vector<SetElement> sources(const EndpointPlan& p) {
    std::vector<SetElement> out;
    if (p.left_alone || !p.mac) return out;
    const auto put = [&](std::string set, const Ip& first, const Ip& last) {
      out.push_back({std::move(set), {.interface_name = p.interface_name, .mac = *p.mac, .ip = first, .ip_end = last}});
    };
    out.push_back({"mac", {.interface_name = p.interface_name, .mac = *p.mac}});
    std::vector<Prefix> blocks;
    for (const auto& n : p.nets) {
      const bool v4 = n.family() == Family::v4;
      if (n.is_host()) {
        put(v4 ? "src4" : "src6", n.addr, n.addr);
        if (v4) put("arp-src", n.addr, n.addr);
      } else {
        blocks.push_back(n);
      }
    }
    for (const auto family : {Family::v4, Family::v6}) {
      std::vector<Prefix> mine;
      for (const auto& b : blocks)
        if (b.family() == family) mine.push_back(b);
      for (const auto& [first, last] : disjoint_ranges(mine)) {
        put(family == Family::v4 ? "src4-blocks" : "src6-blocks", first, last);
        if (family == Family::v4) put("arp-src-blocks", first, last);
      }
    }
    return out;
  }

  void put_plan(Endpoint& e, std::optional<EndpointPlan> p) {
    auto it = ruleset.endpoints.find(e.key);
    const bool had = it != ruleset.endpoints.end();
    if (had && p && it->second == *p) return;
    std::vector<SetElement> old_sources = had ? sources(it->second) : std::vector<SetElement>{};
    std::vector<SetElement> new_sources = p ? sources(*p) : std::vector<SetElement>{};
    // Two endpoints may want the same element while an interface passes from one to the other.
    for (const auto& x : new_sources)
      if (source_refs[x]++ == 0) add_element(x.first, x.second);
    for (const auto& x : old_sources)
      if (auto at = source_refs.find(x); --at->second == 0) source_refs.erase(at), drop_element(x.first, x.second);
    if (p)
      ruleset.endpoints[e.key] = std::move(*p);
    else if (had)
      ruleset.endpoints.erase(it);
    if (p || had) delta.endpoints.insert(e.key);
  }

  // ---- classes ----

  void enter_class(Endpoint& e, const std::string& key, const std::vector<const Policy*>& ranked) {
    if (e.class_key == key) return;
    leave_class(e);
    e.class_key = key;
    if (key.empty()) return;
    auto [it, fresh] = classes.try_emplace(key);
    Class& c = it->second;
    ++c.refs;
    if (!fresh) return;
    for (const auto* p : ranked) c.policies.push_back(p->key);
    c.group = group_of(key);
    while (!groups.insert(c.group).second)
      c.group = c.group + 1 < kGroupClosed + kGroupSpan ? c.group + 1 : kGroupClosed + 1;
    dirty_classes.insert(key);
  }

  void leave_class(Endpoint& e) {
    if (e.class_key.empty()) return;
    auto it = classes.find(std::exchange(e.class_key, ""));
    if (it == classes.end() || --it->second.refs > 0) return;
    // Its chains and map elements go at the flush, unless somebody enters before.
    dirty_classes.insert(it->first);
  }

  void settle_class(const std::string& key) {
    auto it = classes.find(key);
    if (it == classes.end()) return;
    const Class& c = it->second;
    const auto in = fmt::format("in-{}", c.group);
    const auto out = fmt::format("out-{}", c.group);
    const Element to{.group = c.group, .chain = in};
    const Element from{.group = c.group, .chain = out};
    if (c.refs == 0) {
      drop_element("to", to);
      drop_element("from", from);
      drop_chain(in);
      drop_chain(out);
      groups.erase(c.group);
      classes.erase(it);
      return;
    }
    const auto chain = [&](bool ingress) {
      ChainRules rules;
      for (const auto& policy : c.policies) {
        const auto at = policy_ids.find(policy);
        if (at == policy_ids.end()) continue;
        const Policy& p = policies.at(at->second);
        if (!(ingress ? p.has_in : p.has_out)) continue;
        MatchRule m;
        m.verdict = Verdict::jump;
        m.target = ingress ? p.chain_in : p.chain_out;
        rules.push_back(std::move(m));
      }
      rules.push_back({});  // drop
      return rules;
    };
    put_chain(in, chain(true));
    put_chain(out, chain(false));
    add_element("to", to);
    add_element("from", from);
  }

  RulesetDelta flush() {
    // Sets may change kind and make policies dirty; policies decide whether classes change; plans move between classes.
    for (const auto id : std::exchange(dirty_sets, {}))
      if (auto it = selector_sets.find(id); it != selector_sets.end()) settle(it->second);
    for (const auto id : std::exchange(first_or_last, {}))
      if (auto it = policies.find(id); it != policies.end() && it->second.active == selected.items_of(id).empty())
        dirty_policies.insert(id);
    for (const auto id : std::exchange(dirty_policies, {})) {
      auto it = policies.find(id);
      if (it == policies.end()) continue;
      it->second.active = !selected.items_of(id).empty();
      compile(it->second);
    }
    for (const auto id : std::exchange(dirty_endpoints, {}))
      if (auto it = endpoints.find(id); it != endpoints.end() && it->second.local) plan(it->second);
    for (const auto& key : std::exchange(dirty_classes, {})) settle_class(key);
    auto d = std::exchange(delta, {});
    for (const auto& name : d.sets_gone) d.elements.erase(name);
    std::erase_if(d.elements, [](const auto& x) { return x.second.added.empty() && x.second.removed.empty(); });
    return d;
  }

  CompilerOptions options;
  Ruleset ruleset;
  RulesetDelta delta;
  std::map<std::string, std::string> faults;

  Id next_id = 1;
  std::unordered_map<std::string, Id> endpoint_ids;
  std::unordered_map<Id, Endpoint> endpoints;
  std::map<std::string, Id> policy_ids;
  std::map<Id, Policy> policies;
  std::unordered_map<std::string, Id> selector_set_ids;
  std::map<Id, SelectorSet> selector_sets;
  std::map<std::string, int> shared;
  std::map<std::string, Class> classes;
  std::set<std::uint32_t> groups;
  std::map<std::string, std::set<std::tuple<std::string, std::string, Id>>> claims;  // of interfaces, first wins
  std::map<std::string, std::vector<Ip>> node_addresses;
  std::map<Ip, int> guarded;

  std::set<Id> locals;                                         // endpoints of this host
  std::map<std::pair<std::string, Element>, int> source_refs;  // set and element → plans that want it

  std::set<Id> dirty_endpoints, dirty_policies, dirty_sets;
  std::set<Id> first_or_last;  // policies that gained their first endpoint or lost their last
  std::set<std::string> dirty_classes;

  SelectorIndex selected;  // policies × local endpoints
  SelectorIndex members;   // selectors of rules × all endpoints
};

Compiler::Compiler(CompilerOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Compiler::~Compiler() = default;
Compiler::Compiler(Compiler&&) noexcept = default;
Compiler& Compiler::operator=(Compiler&&) noexcept = default;

void Compiler::update(std::string_view key, std::optional<std::string_view> value) {
  const auto rk = parse_resource_key(key);
  if (!rk) return;
  const std::string k(key);
  if (rk->plural == "workloadendpoints" && !rk->ns.empty())
    impl_->update_endpoint(*rk, k, value);
  else if (rk->plural == "networkpolicies" && !rk->ns.empty())
    impl_->update_policy(*rk, k, value, false);
  else if (rk->plural == "globalnetworkpolicies" && rk->ns.empty())
    impl_->update_policy(*rk, k, value, true);
  else if (rk->plural == "nodes" && rk->ns.empty())
    impl_->update_node(k, value);
}

void Compiler::set_host_addresses(const std::vector<Ip>& addresses) { impl_->set_addresses("", addresses); }

void Compiler::set_protection(bool protect_nodes, std::vector<std::uint16_t> protected_ports) {
  auto& o = impl_->options;
  if (o.protect_nodes == protect_nodes && o.protected_ports == protected_ports) return;
  for (const auto& [ip, count] : impl_->guarded) impl_->guard(ip, false);
  o.protect_nodes = protect_nodes;
  o.protected_ports = std::move(protected_ports);
  for (const auto& [ip, count] : impl_->guarded) impl_->guard(ip, true);
}

RulesetDelta Compiler::flush() { return impl_->flush(); }
const Ruleset& Compiler::ruleset() const { return impl_->ruleset; }
const std::map<std::string, std::string>& Compiler::faults() const { return impl_->faults; }

Compiler::Counts Compiler::counts() const {
  Counts c;
  c.endpoints = impl_->endpoints.size();
  for (const auto& [id, e] : impl_->endpoints) c.local_endpoints += e.local;
  c.policies = impl_->policies.size();
  for (const auto& [id, p] : impl_->policies) c.active_policies += p.active;
  c.classes = impl_->classes.size();
  c.selector_sets = impl_->selector_sets.size();
  c.nodes = impl_->node_addresses.size() - impl_->node_addresses.count("");
  return c;
}

}  // namespace calico::model
