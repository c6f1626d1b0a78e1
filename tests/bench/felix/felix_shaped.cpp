#include "tests/bench/felix/felix_shaped.hpp"

#include <functional>
#include <map>

#include "tests/bench/felix/cloud.hpp"

namespace calico::bench {
namespace {

constexpr const char* kAccept = "0x10000";
constexpr const char* kPass = "0x20000";

class Writer {
 public:
  void chain(const std::string& name) { out_ += fmt::format("  chain {} {{\n", name); }
  void base(const std::string& name, const char* type, const char* hook, int priority) {
    out_ += fmt::format("  chain {} {{\n    type {} hook {} priority {}; policy accept;\n", name, type, hook, priority);
  }
  /// With what Felix keeps on every rule: a counter, and a comment that begins with a hash.
  void rule(const std::string& match, const std::string& action, const std::string& about = "") {
    out_ += fmt::format("    {} counter {} comment \"cali:{:016x}; {}\"\n", match, action,
                        hash_ = hash_ * 0x9e3779b97f4a7c15U + 1, about);
  }
  void end() { out_ += "  }\n"; }
  void text(const std::string& s) { out_ += s; }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
  std::uint64_t hash_ = 1;
};

std::string set_mark(const char* bit) { return fmt::format("meta mark set meta mark | {}", bit); }
std::string has_mark(const char* bit) { return fmt::format("meta mark & {0} == {0}", bit); }
std::string no_mark(const char* bit) { return fmt::format("meta mark & {} == 0", bit); }

void policy(Writer& w, const std::string& name, const std::vector<ShapedRule>& rules) {
  w.chain(name);
  for (const auto& r : rules) {
    w.rule(r.match, set_mark(kAccept), "policy rule");
    w.rule(has_mark(kAccept), "return", "policy accepted");
  }
  w.end();
}

void endpoint(Writer& w, const std::string& name, const std::string& direction, const ShapedEndpoint& e, bool from) {
  w.chain(name);
  w.rule("ct state established,related", "accept");
  w.rule("ct state invalid", "drop");
  w.rule("", "meta mark set meta mark & 0xfffcffff");
  if (from) {
    w.rule("meta l4proto udp udp dport 4789", "drop", "no VXLAN from workloads");
    w.rule("meta l4proto 4", "drop", "no IPIP from workloads");
  }
  w.rule("", "meta mark set meta mark & 0xfffdffff", "start of tier default");
  for (const auto& g : e.groups) {
    w.rule(no_mark(kPass), fmt::format("jump cali-{}-{}", direction, g));
    w.rule(has_mark(kAccept), "return", "accepted by policy");
  }
  w.rule(no_mark(kPass), "drop", "end of tier default");
  w.rule("", "drop", "no profile accepted");
  w.end();
}

void table(Writer& w, bool v4, const std::vector<ShapedGroup>& groups, const std::vector<ShapedEndpoint>& endpoints) {
  w.text(fmt::format("table {} calico {{\n", v4 ? "ip" : "ip6"));
  for (const auto& g : groups) {
    const auto& members = v4 ? g.members4 : g.members6;
    w.text(fmt::format("  set cali{}0s-{} {{\n    type {}\n", v4 ? 4 : 6, g.name, v4 ? "ipv4_addr" : "ipv6_addr"));
    if (!members.empty()) {
      w.text("    elements = { ");
      for (const auto& m : members) w.text(m + ", ");
      w.text("}\n");
    }
    w.text("  }\n");
  }
  for (const auto& g : groups) {
    policy(w, "cali-pi-" + g.name, v4 ? g.in4 : g.in6);
    policy(w, "cali-po-" + g.name, v4 ? g.out4 : g.out6);
  }
  for (const auto& e : endpoints) {
    endpoint(w, "cali-tw-" + e.interface_name, "pi", e, false);
    endpoint(w, "cali-fw-" + e.interface_name, "po", e, true);
  }
  for (const bool from : {true, false}) {
    w.text(fmt::format("  map {}-wl-dispatch {{\n    type ifname : verdict\n    elements = {{ ", from ? "from" : "to"));
    for (const auto& e : endpoints)
      w.text(fmt::format("\"{0}\" : goto cali-{1}-{0}, ", e.interface_name, from ? "fw" : "tw"));
    w.text("}\n  }\n");
  }
  w.chain("cali-from-wl");
  w.rule("", "iifname vmap @from-wl-dispatch");
  w.rule("", "drop", "unknown interface");
  w.end();
  w.chain("cali-to-wl");
  w.rule("", "oifname vmap @to-wl-dispatch");
  w.rule("", "drop", "unknown interface");
  w.end();
  w.chain("cali-wl-to-host");
  if (v4)
    w.rule("udp sport 68 udp dport 67", "accept");
  else
    w.rule("icmpv6 type { 130, 131, 132, 133, 135, 136 }", "accept");
  w.rule("udp dport 53", "accept");
  w.rule("", "jump cali-from-wl");
  w.rule("", "drop", "default endpoint to host action");
  w.end();
  w.base("raw-PREROUTING", "filter", "prerouting", -300);
  w.rule("", "meta mark set meta mark & 0xffe0ffff");
  w.rule("iifname \"tap*\"", "meta mark set meta mark | 0x80000");
  if (v4) w.rule("meta mark & 0x80000 == 0x80000 ip saddr 0.0.0.0 udp sport 68 udp dport 67", "accept", "DHCP");
  w.rule("meta mark & 0x80000 == 0x80000 fib saddr . mark . iif oif 0", "drop", "reverse path");
  w.rule(has_mark(kAccept), "accept");
  w.end();
  w.base("mangle-PREROUTING", "filter", "prerouting", -150);
  w.rule("ct state established,related", "accept");
  w.rule(has_mark(kAccept), "accept");
  w.end();
  w.base("nat-PREROUTING", "nat", "prerouting", -100);
  if (v4) w.rule("ip daddr 169.254.169.254 tcp dport 80", "dnat to 127.0.0.1:8775", "metadata");
  w.end();
  w.base("nat-POSTROUTING", "nat", "postrouting", 110);
  w.end();
  w.base("filter-INPUT", "filter", "input", 0);
  w.rule("iifname \"tap*\"", "goto cali-wl-to-host");
  w.rule(has_mark(kAccept), "accept");
  w.end();
  w.base("filter-FORWARD", "filter", "forward", 0);
  w.rule("", "meta mark set meta mark & 0xfff1ffff");
  w.rule("iifname \"tap*\"", "jump cali-from-wl");
  w.rule("oifname \"tap*\"", "jump cali-to-wl");
  w.rule(has_mark(kAccept), "accept", "policy accepted");
  w.rule("", set_mark(kAccept));
  w.end();
  w.base("mangle-POSTROUTING", "filter", "postrouting", -150);
  w.rule(has_mark(kAccept), "return");
  w.end();
  w.text("}\n");
}

}  // namespace

std::string felix_shaped(const std::vector<ShapedGroup>& groups, const std::vector<ShapedEndpoint>& endpoints) {
  Writer w;
  table(w, true, groups, endpoints);
  table(w, false, groups, endpoints);
  return w.take();
}

std::string felix_shaped(int endpoints, int groups) {
  std::vector<ShapedGroup> gs(static_cast<std::size_t>(groups));
  std::vector<ShapedEndpoint> es(static_cast<std::size_t>(endpoints));
  for (int g = 0; g < groups; ++g) {
    auto& s = gs[static_cast<std::size_t>(g)];
    s.name = fmt::format("g{}", g);
    for (const auto* port : {"22", "443"}) {
      s.in4.push_back({fmt::format("tcp dport {}", port)});
      s.in6.push_back({fmt::format("tcp dport {}", port)});
    }
    s.in4.push_back({"ip saddr 192.168.0.0/16 tcp dport 80"});
    s.in4.push_back({"ip saddr @cali40s-" + s.name});
    s.in6.push_back({"ip6 saddr @cali60s-" + s.name});
    s.out4.push_back({""});
    s.out6.push_back({""});
  }
  for (int i = 0; i < endpoints; ++i) {
    auto& e = es[static_cast<std::size_t>(i)];
    e.interface_name = tap(i);
    for (const auto g : groups_of(i, groups)) {
      auto& s = gs[static_cast<std::size_t>(g)];
      e.groups.push_back(s.name);
      s.members4.push_back(address4(i).to_string());
      s.members6.push_back(address6(i).to_string());
    }
  }
  return felix_shaped(gs, es);
}

}  // namespace calico::bench
