// BIRD 1.6 (a process for each family) and BIRD 2 of the distribution.
#include <fstream>
#include <regex>
#include <sstream>

#include "tests/support/bgp/peers.hpp"

namespace calico::test {
namespace {

/// "(64512,100) (rt, 64512, 7)" -> parts without blanks.
std::vector<std::vector<std::string>> tuples(const std::string& text) {
  std::vector<std::vector<std::string>> out;
  bool inside = false;
  for (char c : text) {
    if (c == '(') {
      out.emplace_back(1);
      inside = true;
    } else if (c == ')') {
      inside = false;
    } else if (inside && c == ',') {
      out.back().emplace_back();
    } else if (inside && c != ' ') {
      out.back().back() += c;
    }
  }
  return out;
}

/// rt and ro of a two-octet AS by name, others as two numbers; also from the two raw words.
std::string ext_community(const std::vector<std::string>& t) {
  if (t.size() == 3 && t[0] != "generic") return t[0] + ":" + t[1] + ":" + t[2];
  const auto number = [&](std::size_t i) { return i < t.size() ? std::stoul(t[i], nullptr, 0) : 0UL; };
  const auto first = number(t.size() - 2), second = number(t.size() - 1);
  if (first >> 16 == 0x0002) return "rt:" + std::to_string(first & 0xffff) + ":" + std::to_string(second);
  if (first >> 16 == 0x0003) return "ro:" + std::to_string(first & 0xffff) + ":" + std::to_string(second);
  return "generic:" + std::to_string(first) + ":" + std::to_string(second);
}

}  // namespace

std::vector<Learned> parse_bird_table(const std::string& text, const std::set<std::string>& protocols) {
  std::vector<Learned> out;
  static const std::regex head(R"(^([0-9a-f:.]+/\d+)?\s.*\[(\S+) [^\]]*\] ?(\*?) ?\([0-9/s?]+\).*$)");
  static const std::regex attribute(R"(^\s+BGP\.(\w+): ?(.*)$)");
  std::istringstream in(text);
  std::string prefix;
  Row* r = nullptr;
  Row dropped;
  for (std::string line; std::getline(in, line);) {
    if (line.empty()) continue;
    std::smatch m;
    if (line[0] != '\t') {
      r = &dropped;  // whatever the line is, what follows does not belong to the route before it
      if (line[0] != ' ') prefix.clear();
      if (line.find('[') == std::string::npos || !std::regex_match(line, m, head)) continue;
      if (m[1].length() > 0) prefix = m[1];
      if (prefix.empty() || !protocols.contains(m[2])) continue;
      out.push_back({prefix, {}, m[3] == "*"});
      r = &out.back().row;
      continue;
    }
    if (r == nullptr || line.find("BGP.") == std::string::npos || !std::regex_match(line, m, attribute)) continue;
    const std::string key = m[1], value = m[2];
    if (key == "next_hop") r->next_hop = value.substr(0, value.find(' '));
    if (key == "as_path") r->as_path = value;
    if (key == "origin") r->origin = value;
    if (key == "local_pref") r->local_pref = static_cast<std::uint32_t>(std::stoul(value));
    if (key == "med") r->med = static_cast<std::uint32_t>(std::stoul(value));
    if (key == "originator_id") r->originator = value;
    if (key == "cluster_list") r->clusters = value;
    if (key == "community")
      for (const auto& t : tuples(value)) r->communities.insert(t.at(0) + ":" + t.at(1));
    if (key == "ext_community")
      for (const auto& t : tuples(value)) r->ext_communities.insert(ext_community(t));
    if (key == "large_community")
      for (const auto& t : tuples(value)) r->large_communities.insert(t.at(0) + ":" + t.at(1) + ":" + t.at(2));
  }
  return out;
}

namespace {

class BirdPeer final : public Peer {
 public:
  BirdPeer(DaemonKind version, const Netns& ns, std::filesystem::path folder, int node)
      : Peer(ns, std::move(folder), node), two_(version == DaemonKind::bird2) {}

  const Traits& traits() const override {
    static const Traits kTwo{.enhanced_refresh = true, .extended_messages = true, .shows_long_lists = false};
    // Attributes come from a filter, which is gone through for each route.
    static const Traits kOne{.enhanced_refresh = true, .attribute_sets = 40, .ipv6_next_hops = false};
    return two_ ? kTwo : kOne;
  }

  void start(bool restarted) override {
    processes_.clear();
    write();
    const std::string flags = restarted ? "-R " : "";
    for (const auto& [name, program] : programs())
      spawn(name, program + " -f " + flags + "-c " + path(name + ".conf") + " -s " + path(name + ".ctl"));
  }

  void announce(std::vector<Announcement> all) override {
    routes = std::move(all);
    write();
    for (const auto& [name, program] : programs()) ask(name, "configure");
  }

  bool refresh() override {
    for (const auto& s : sessions) ask(!two_ && is_v6(s.remote) ? "bird6" : "bird", "reload in " + s.name);
    return true;
  }

  bool established(const std::string& session) override {
    for (const auto& [name, program] : programs())
      if (ask(name, "show protocols " + session).find("Established") != std::string::npos) return true;
    return false;
  }

  /// In BIRD 2 a route with a path passes for another AS' route, whose MED does not go on.
  std::optional<Row> sent(const Announcement& a, bool to_foreign_as) const override {
    auto r = Peer::sent(a, to_foreign_as);
    if (two_ && to_foreign_as && !a.as_path.empty()) r->med.reset();
    return r;
  }

  std::string explain() override {
    std::string out;
    for (const auto& [name, program] : programs()) out += ask(name, "show protocols all");
    return out + logs();
  }

 protected:
  std::vector<Learned> learned() override {
    std::set<std::string> names;
    for (const auto& s : sessions) names.insert(s.name);
    std::vector<Learned> out;
    for (const auto& [name, program] : programs())
      for (auto& p : parse_bird_table(ask(name, "show route all"), names)) out.push_back(std::move(p));
    return out;
  }

 private:
  std::map<std::string, std::string> programs() const {
    if (two_) return {{"bird", "/usr/sbin/bird"}};
    const std::string root = CALICO_SOURCE_DIR "/build/peers/bird1/usr/sbin/";
    std::map<std::string, std::string> out;
    for (const auto& s : sessions) {
      const std::string name = is_v6(s.remote) ? "bird6" : "bird";
      out[name] = root + name;
    }
    return out;
  }
  std::string ask(const std::string& name, const std::string& command) {
    std::string client = "/usr/sbin/birdc";
    if (!two_)
      client = std::string(CALICO_SOURCE_DIR "/build/peers/bird1/usr/sbin/birdc") + (name == "bird6" ? "6" : "");
    return ns_.try_run(client + " -s " + path(name + ".ctl") + " " + command).text;
  }

  static std::string attributes(const Announcement& a) {
    std::string out;
    std::istringstream words(a.as_path);
    std::vector<std::string> path;
    for (std::string w; words >> w;) path.insert(path.begin(), w);
    for (const auto& as : path) out += " bgp_path.prepend(" + as + ");";
    if (a.med) out += " bgp_med = " + std::to_string(*a.med) + ";";
    if (a.local_pref) out += " bgp_local_pref = " + std::to_string(*a.local_pref) + ";";
    const auto add = [&](const std::string& attribute, const std::set<std::string>& all) {
      for (auto text : all) {
        for (auto& c : text)
          if (c == ':') c = ',';
        out += " " + attribute + ".add((" + text + "));";
      }
    };
    add("bgp_community", a.communities);
    add("bgp_ext_community", a.ext_communities);
    add("bgp_large_community", a.large_communities);
    return out;
  }

  /// A reflector also has what others said.
  static std::string kept_out(const Session& s) {
    return s.client ? "source != RTS_STATIC && source != RTS_BGP" : "source != RTS_STATIC";
  }
  void write() {
    if (two_) return write_two();
    for (const auto& [name, program] : programs()) {
      const bool six = name == "bird6";
      std::ofstream out(path(name + ".conf"));
      out << "log \"" << path(name + "-events.log") << "\" all;\nrouter id " << v4()
          << ";\nprotocol device {}\nprotocol direct { interface \"eth0\"; }\nprotocol static vms {\n";
      std::map<std::string, std::vector<std::string>> sets;
      for (const auto& a : routes) {
        if (is_v6(a.prefix) != six) continue;
        out << "  route " << a.prefix << " unreachable;\n";
        sets[attributes(a)].push_back(a.prefix);
      }
      out << "}\n";
      // Static routes of 1.6 keep no BGP attributes: the export filter gives them. To a foreign AS it finds the own AS
      // in the path already, and what it puts in front would come before it.
      for (const auto& s : sessions) {
        if (is_v6(s.remote) != six) continue;
        const bool foreign = s.local_as != s.remote_as;
        out << "filter to_" << s.name << " {\n  if " << kept_out(s)
            << " then reject;\n  if source = RTS_BGP then accept;\n";
        for (const auto& [text, prefixes] : sets) {
          if (text.empty()) continue;
          out << "  if net ~ [";
          for (std::size_t i = 0; i < prefixes.size(); ++i) out << (i == 0 ? "" : ",\n    ") << prefixes[i];
          out << "] then {" << (foreign ? " bgp_path = +empty+;" : "") << text;
          if (foreign) out << " bgp_path.prepend(" << s.local_as << ");";
          out << " }\n";
        }
        out << "  accept;\n}\n" << head(s) << "  import all; export filter to_" << s.name << ";\n";
        if (s.add_path) out << "  add paths on;\n";
        out << "}\n";
      }
    }
  }
  void write_two() {
    std::ofstream out(path("bird.conf"));
    out << "log \"" << path("bird-events.log") << "\" all;\nrouter id " << v4()
        << ";\nprotocol device {}\nprotocol direct { ipv4; ipv6; interface \"eth0\"; }\n";
    for (bool six : {false, true}) {
      out << "protocol static " << (six ? "s6 { ipv6;\n" : "s4 { ipv4;\n");
      for (const auto& a : routes) {
        if (is_v6(a.prefix) != six) continue;
        out << "  route " << a.prefix << " unreachable";
        if (const auto text = attributes(a); !text.empty()) out << " {" << text << " }";
        out << ";\n";
      }
      out << "}\n";
    }
    for (const auto& s : sessions) {
      out << head(s);
      if (s.extended_messages) out << "  enable extended messages on;\n";
      std::string channel = "import all; export where !(" + kept_out(s) + ");";
      if (s.add_path) channel += " add paths on;";
      const std::string own4 = s.ipv6_next_hops ? " extended next hop on;"
                               : is_v6(s.local) ? " next hop address " + v4() + ";"
                                                : "";
      const std::string own6 = is_v6(s.local) ? "" : " next hop address " + v6() + ";";
      if (s.ipv4) out << "  ipv4 { " << channel << own4 << " };\n";
      if (s.ipv6) out << "  ipv6 { " << channel << own6 << " };\n";
      out << "}\n";
    }
  }
  static std::string head(const Session& s) {
    std::string out = "protocol bgp " + s.name + " {\n  local " + s.local + " as " + std::to_string(s.local_as) +
                      ";\n  neighbor " + s.remote + " as " + std::to_string(s.remote_as) +
                      ";\n  graceful restart on; connect delay time 1; connect retry time 1; error wait time 1, 2;\n";
    if (!s.password.empty()) out += "  password \"" + s.password + "\";\n";
    if (s.client) out += "  rr client;\n";
    if (s.restart_time) out += "  graceful restart time " + std::to_string(*s.restart_time) + ";\n";
    if (s.long_lived)
      out += *s.long_lived == 0
                 ? "  long lived graceful restart off;\n"
                 : "  long lived graceful restart on; long lived stale time " + std::to_string(*s.long_lived) + ";\n";
    if (s.ttl_security)
      out += "  ttl security on;\n";
    else if (s.local_as != s.remote_as)
      out += "  multihop 2;\n";
    return out;
  }

  const bool two_;
};

}  // namespace

std::unique_ptr<Peer> make_bird(DaemonKind version, const Netns& ns, std::filesystem::path folder, int node) {
  return std::make_unique<BirdPeer>(version, ns, std::move(folder), node);
}

}  // namespace calico::test
