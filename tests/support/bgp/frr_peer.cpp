// FRR: zebra and bgpd, as user frr, their sockets and files in the peer's folder.
#include <algorithm>
#include <boost/json.hpp>
#include <fstream>
#include <sstream>

#include "tests/support/bgp/peers.hpp"
#include "tests/support/wait.hpp"

namespace calico::test {
namespace {
namespace json = boost::json;

std::optional<std::uint32_t> number(const json::object& o, const char* key) {
  const auto* v = o.if_contains(key);
  if (v == nullptr) return std::nullopt;
  return v->to_number<std::uint32_t>();
}
std::set<std::string> words(const json::object& o, const char* key) {
  std::set<std::string> out;
  if (const auto* v = o.if_contains(key)) {
    std::istringstream in(std::string(v->at("string").as_string()));
    for (std::string w; in >> w;) out.insert(w);
  }
  return out;
}
std::string renamed(const std::string& text) {
  static const std::map<std::string, std::string> kNames = {{"no-export", "65535:65281"},
                                                            {"no-advertise", "65535:65282"},
                                                            {"local-AS", "65535:65283"},
                                                            {"graceful-shutdown", "65535:0"},
                                                            {"blackhole", "65535:666"}};
  const auto at = kNames.find(text);
  if (at != kNames.end()) return at->second;
  if (text.compare(0, 3, "RT:") == 0) return "rt" + text.substr(2);
  if (text.compare(0, 4, "SoO:") == 0) return "ro" + text.substr(3);
  return text;
}
std::set<std::string> renamed(const std::set<std::string>& all) {
  std::set<std::string> out;
  for (const auto& s : all) out.insert(renamed(s));
  return out;
}

class FrrPeer final : public Peer {
 public:
  using Peer::Peer;

  const Traits& traits() const override {
    static const Traits kTraits{
        .enhanced_refresh = true, .extended_messages = true, .attribute_sets = 40, .shows_long_lists = false};
    return kTraits;
  }

  void start(bool /*restarted: it always says that it kept forwarding*/) override {
    processes_.clear();
    std::filesystem::remove(path("bgpd.pid"));
    std::filesystem::remove(path("zebra.pid"));
    std::ofstream(path("frr.conf")) << config();
    // The daemons refuse to run as root; its user must reach the folder, whose parents belong to the test.
    shell("chmod 755 " + folder_.parent_path().string() + " && chown -R frr:frr " + folder_.string());
    // A bgpd that zebra has not told of its addresses yet sends wrong next hops or resets the session ("nexthop_set
    // failed"), and ends its RIB before its routes: zebra first, and the neighbours open when both know everything.
    run("zebra");
    wait("zebra's addresses", "zebra", "show interface eth0", {v4() + "/", v6() + "/"});
    run("bgpd");
    wait("bgpd's neighbours", "bgpd", "show bgp neighbors", {sessions.back().remote});
    std::string text = router();
    for (const auto& s : sessions) text += " no neighbor " + s.remote + " shutdown\n";
    apply(text);
  }

  void announce(std::vector<Announcement> all) override {
    std::set<std::string> kept;
    for (const auto& a : all) kept.insert(a.prefix);
    std::string gone[2];
    for (const auto& a : routes)
      if (!kept.contains(a.prefix)) gone[is_v6(a.prefix)] += "  no network " + a.prefix + "\n";
    routes = std::move(all);
    auto text = route_maps() + router();
    for (bool six : {false, true}) text += family(six) + gone[six] + networks(six) + " exit-address-family\n";
    apply(text);
  }

  bool refresh() override {
    for (const char* family : {"ipv4", "ipv6"}) ns_.run(vtysh() + " -c 'clear bgp " + family + " unicast * soft in'");
    return true;
  }

  std::vector<Learned> learned() override {
    std::vector<Learned> out;
    for (const char* which : {"ipv4", "ipv6"}) {
      const auto text = ns_.try_run(vtysh() + " -c 'show bgp " + which + " unicast json detail' 2>/dev/null").text;
      boost::system::error_code failed;
      const auto all = json::parse(text, failed);
      if (failed || !all.is_object()) continue;  // not up yet
      const auto* rows = all.as_object().if_contains("routes");
      if (rows == nullptr) continue;
      for (const auto& [prefix, paths] : rows->as_object())
        for (const auto& p : paths.as_array()) add(out, std::string(prefix), p.as_object());
    }
    return out;
  }

  bool established(const std::string& session) override {
    for (const auto& s : sessions) {
      if (s.name != session) continue;
      const auto text = ns_.try_run(vtysh() + " -c 'show bgp neighbors " + s.remote + " json' 2>/dev/null").text;
      return text.find("\"bgpState\":\"Established\"") != std::string::npos;
    }
    return false;
  }

  /// `network` gives MED 0; no-export is for the own AS, too.
  std::optional<Row> sent(const Announcement& a, bool to_foreign_as) const override {
    if (to_foreign_as && a.communities.contains("65535:65281")) return std::nullopt;
    auto r = Peer::sent(a, to_foreign_as);
    if (!r->med) r->med = 0;
    return r;
  }

  /// It gives others' routes a MED, too.
  Row reflected(Row row, bool own) const override {
    if (!row.med) row.med = 0;
    return Peer::reflected(std::move(row), own);
  }

  std::string explain() override {
    return ns_.try_run(vtysh() + " -c 'show bgp summary' -c 'show bgp neighbors'").text + logs();
  }

 private:
  void run(const std::string& daemon) {
    spawn(daemon, "/usr/lib/frr/" + daemon + " -u frr -g frr -z " + path("zserv.api") + " --vty_socket " +
                      folder_.string() + " -f " + path("frr.conf") + " -i " + path(daemon + ".pid"));
  }
  void wait(const std::string& what, const std::string& daemon, const std::string& ask,
            const std::vector<std::string>& parts) {
    const auto there = eventually(what, [&] {
      const auto text = ns_.try_run(vtysh() + " -d " + daemon + " -c '" + ask + "'").text;
      return std::all_of(parts.begin(), parts.end(), [&](const auto& part) { return text.find(part) != text.npos; });
    });
    if (!there) throw std::runtime_error(std::string(there.message()) + "\n" + logs());
  }
  void apply(const std::string& text) {
    std::ofstream(path("change.conf")) << text;
    const auto done = ns_.try_run(vtysh() + " -f " + path("change.conf"));
    if (done.status != 0) throw std::runtime_error("vtysh refused the change: " + done.text);
  }
  std::string vtysh() const { return "vtysh --vty_socket " + folder_.string(); }

  static void add(std::vector<Learned>& out, const std::string& prefix, const json::object& p) {
    const auto* best = p.if_contains("bestpath");
    const auto* peer = p.if_contains("peer");
    if (peer == nullptr) return;
    if (peer->at("peerId").as_string() == "(unspec)" || peer->at("peerId").as_string() == "0.0.0.0" ||
        peer->at("peerId").as_string() == "::")
      return;  // its own
    Row r;
    for (const auto& hop : p.at("nexthops").as_array()) {
      const auto* scope = hop.as_object().if_contains("scope");
      if (scope == nullptr || scope->as_string() == "global") r.next_hop = std::string(hop.at("ip").as_string());
    }
    r.as_path = std::string(p.at("aspath").at("string").as_string());
    if (r.as_path == "Local") r.as_path.clear();
    r.origin = std::string(p.at("origin").as_string());
    if (r.origin == "incomplete") r.origin = "Incomplete";
    r.local_pref = number(p, "locPrf");
    r.med = number(p, "metric");
    r.communities = renamed(words(p, "community"));
    r.ext_communities = renamed(words(p, "extendedCommunity"));
    r.large_communities = words(p, "largeCommunity");
    if (const auto* v = p.if_contains("originatorId")) r.originator = std::string(v->as_string());
    if (const auto* v = p.if_contains("clusterList"))
      for (const auto& c : v->at("list").as_array())
        r.clusters += (r.clusters.empty() ? "" : " ") + std::string(c.as_string());
    const bool wins = best != nullptr && best->is_object() && best->as_object().contains("overall");
    out.push_back({prefix, std::move(r), wins});
  }

  /// The lines of a route map; the same lines make the same map.
  static std::string settings(const Announcement& a) {
    std::string out;
    if (!a.as_path.empty()) out += " set as-path prepend " + a.as_path + "\n";
    if (a.med) out += " set metric " + std::to_string(*a.med) + "\n";
    if (a.local_pref) out += " set local-preference " + std::to_string(*a.local_pref) + "\n";
    const auto list = [&](const std::string& what, const std::set<std::string>& all, const std::string& kind = "") {
      std::string text;
      for (const auto& c : all) {
        if (c.compare(0, kind.size(), kind) != 0) continue;
        text += " " + (c == "65535:65281" ? "no-export" : c.substr(kind.size()));
      }
      if (!text.empty()) out += " set " + what + text + "\n";
    };
    list("community", a.communities);
    list("extcommunity rt", a.ext_communities, "rt:");
    list("extcommunity soo", a.ext_communities, "ro:");
    list("large-community", a.large_communities);
    return out;
  }
  std::string map_of(const Announcement& a) {
    const auto text = settings(a);
    if (text.empty()) return {};
    return maps_.emplace(text, "M" + std::to_string(maps_.size())).first->second;
  }
  std::string route_maps() {
    for (const auto& a : routes) (void)map_of(a);
    std::string out;
    for (const auto& [text, name] : maps_) out += "route-map " + name + " permit 10\n" + text + "exit\n";
    return out;
  }
  std::string router() const { return "router bgp " + std::to_string(sessions.at(0).local_as) + "\n"; }
  static std::string family(bool six) { return std::string(" address-family ipv") + (six ? "6" : "4") + " unicast\n"; }
  std::string networks(bool six) {
    std::string out;
    for (const auto& a : routes) {
      if (is_v6(a.prefix) != six) continue;
      const auto map = map_of(a);
      out += "  network " + a.prefix + (map.empty() ? "" : " route-map " + map) + "\n";
    }
    return out;
  }
  std::string config() {
    std::string out = "frr defaults datacenter\nhostname n" + std::to_string(node_) + "\nlog file " + path("frr.log") +
                      "\n" + route_maps() + router() + " bgp router-id " + v4() +
                      "\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n no bgp network import-check\n"
                      " bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n coalesce-time 10\n";
    for (const auto& s : sessions) {
      const auto n = " neighbor " + s.remote + " ";
      out += n + "remote-as " + std::to_string(s.remote_as) + "\n" + n + "shutdown\n" + n + "timers connect 1\n" + n +
             "advertisement-interval 0\n" + n + "update-source " + s.local + "\n";
      if (!s.password.empty()) out += n + "password " + s.password + "\n";
      if (s.ttl_security)
        out += n + "ttl-security hops 1\n";
      else if (s.remote_as != s.local_as)
        out += n + "ebgp-multihop 2\n";
      if (s.ipv6_next_hops) out += n + "capability extended-nexthop\n";
    }
    for (bool six : {false, true}) {
      out += family(six);
      for (const auto& s : sessions) {
        if (six ? !s.ipv6 : !s.ipv4) continue;
        const auto n = "  neighbor " + s.remote + " ";
        out += n + "activate\n";
        if (s.client) out += n + "route-reflector-client\n";
        if (s.add_path) out += n + "addpath-tx-all-paths\n";
      }
      out += networks(six) + " exit-address-family\n";
    }
    return out;
  }

  std::map<std::string, std::string> maps_;  // lines -> name
};

}  // namespace

std::unique_ptr<Peer> make_frr(const Netns& ns, std::filesystem::path folder, int node) {
  return std::make_unique<FrrPeer>(ns, std::move(folder), node);
}

}  // namespace calico::test
