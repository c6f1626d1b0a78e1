// GoBGP. Its neighbours begin shut, routes go in as an MRT file (one process for thousands), then the neighbours open:
// a restarted gobgpd must know its routes before its End-of-RIB.
#include <arpa/inet.h>

#include <boost/json.hpp>
#include <fstream>
#include <sstream>

#include "tests/support/bgp/peers.hpp"
#include "tests/support/wait.hpp"

namespace calico::test {
namespace {
namespace json = boost::json;

/// Big-endian bytes.
struct Bytes {
  std::string data;
  Bytes& number(std::uint64_t v, int width) {
    for (int i = width - 1; i >= 0; --i) data += static_cast<char>(v >> (8 * i));
    return *this;
  }
  Bytes& raw(const std::string& s) {
    data += s;
    return *this;
  }
  Bytes& attribute(int flags, int type, const std::string& value) {
    return number(static_cast<unsigned>(flags | 0x10), 1)
        .number(static_cast<unsigned>(type), 1)
        .number(value.size(), 2)
        .raw(value);
  }
};
std::string address(const std::string& text) {
  char bytes[16];
  const bool six = is_v6(text);
  if (::inet_pton(six ? AF_INET6 : AF_INET, text.c_str(), bytes) != 1) throw std::runtime_error("no address: " + text);
  return {bytes, six ? 16U : 4U};
}
std::vector<std::string> parts(const std::string& text, char separator = ':') {
  std::vector<std::string> out;
  std::istringstream in(text);
  for (std::string s; std::getline(in, s, separator);)
    if (!s.empty()) out.push_back(s);
  return out;
}

class GobgpPeer final : public Peer {
 public:
  using Peer::Peer;

  const Traits& traits() const override {
    static const Traits kTraits{.own_routes_win = false};
    return kTraits;
  }

  void start(bool restarted) override {
    processes_.clear();
    std::ofstream(path("gobgp.toml")) << config();
    spawn("gobgpd", std::string("gobgpd ") + (restarted ? "-r " : "") + "-f " + path("gobgp.toml") +
                        " --api-hosts 127.0.0.1:50051 --pprof-disable");
    // Its neighbours appear after its socket.
    const auto ready = eventually("gobgpd's neighbours", [&] {
      const auto text = tool("neighbor").text;
      for (const auto& s : sessions)
        if (text.find(s.remote + " ") == std::string::npos) return false;
      return true;
    });
    if (!ready) throw std::runtime_error("gobgpd does not answer: " + logs());
    inject();
    for (const auto& s : sessions) must("neighbor " + s.remote + " enable");
  }

  void announce(std::vector<Announcement> all) override {
    std::set<std::string> kept;
    for (const auto& a : all) kept.insert(a.prefix);
    std::vector<std::string> gone;
    for (const auto& a : routes)
      if (!kept.contains(a.prefix)) gone.push_back(a.prefix);
    const bool every = gone.size() == routes.size();
    routes = std::move(all);
    if (every) {
      for (const char* family : {"ipv4", "ipv6"}) must(std::string("global rib del all -a ") + family);
    } else {
      for (const auto& p : gone) must("global rib del " + p + " -a " + (is_v6(p) ? "ipv6" : "ipv4"));
    }
    inject();
  }

  /// `softresetin` looks at what it kept once more.
  bool refresh() override { return false; }

  bool established(const std::string& session) override {
    for (const auto& s : sessions) {
      if (s.name != session) continue;
      const auto text = tool("neighbor " + s.remote).text;
      return text.find("BGP state = ESTABLISHED") != std::string::npos;
    }
    return false;
  }

  /// Its own routes pass for reflected ones.
  Row reflected(Row row, bool own) const override {
    if (own) row.originator = v4();
    return Peer::reflected(std::move(row), false);
  }

  std::string explain() override {
    std::string out = tool("neighbor").text;
    for (const auto& s : sessions) out += tool("neighbor " + s.remote).text;
    return out + logs();
  }

 protected:
  std::vector<Learned> learned() override { return rib(false); }

 private:
  Output tool(const std::string& arguments) const { return ns_.try_run("gobgp " + arguments); }
  void must(const std::string& arguments) const {
    const auto o = tool(arguments);
    if (o.status != 0) throw std::runtime_error("gobgp " + arguments + ": " + o.text);
  }

  /// What it learned, or the routes of its own.
  std::vector<Learned> rib(bool own) const {
    std::vector<Learned> out;
    for (const char* which : {"ipv4", "ipv6"}) {
      boost::system::error_code failed;
      const auto all = json::parse(tool(std::string("global rib -j -a ") + which).text, failed);
      if (failed || !all.is_object()) continue;  // not up yet
      for (const auto& [prefix, paths] : all.as_object())
        for (const auto& p : paths.as_array()) {
          const auto& path = p.as_object();
          if (own == path.contains("neighbor-ip")) continue;
          out.push_back({std::string(prefix), row(path), path.contains("best") && path.at("best").as_bool()});
        }
    }
    return out;
  }

  static Row row(const json::object& path) {
    Row r;
    for (const auto& value : path.at("attrs").as_array()) {
      const auto& a = value.as_object();
      switch (a.at("type").to_number<int>()) {
        case 1:
          r.origin = std::vector<std::string>{"IGP", "EGP", "Incomplete"}.at(a.at("value").to_number<std::size_t>());
          break;
        case 2:
          for (const auto& segment : a.at("as_paths").as_array())
            for (const auto& as : segment.at("asns").as_array())
              r.as_path += (r.as_path.empty() ? "" : " ") + std::to_string(as.to_number<std::uint32_t>());
          break;
        case 3:
        case 14:
          r.next_hop = std::string(a.at("nexthop").as_string());
          break;
        case 4:
          r.med = a.at("metric").to_number<std::uint32_t>();
          break;
        case 5:
          r.local_pref = a.at("value").to_number<std::uint32_t>();
          break;
        case 8:
          for (const auto& c : a.at("communities").as_array()) {
            const auto n = c.to_number<std::uint32_t>();
            r.communities.insert(std::to_string(n >> 16) + ":" + std::to_string(n & 0xffff));
          }
          break;
        case 9:
          r.originator = std::string(a.at("value").as_string());
          break;
        case 10:
          for (const auto& c : a.at("value").as_array())
            r.clusters += (r.clusters.empty() ? "" : " ") + std::string(c.as_string());
          break;
        case 16:
          for (const auto& c : a.at("value").as_array()) {
            const auto& o = c.as_object();
            const int subtype = o.at("subtype").to_number<int>();
            if (o.at("type").to_number<int>() == 0 && (subtype == 2 || subtype == 3))
              r.ext_communities.insert((subtype == 2 ? "rt:" : "ro:") + std::string(o.at("value").as_string()));
            else
              r.ext_communities.insert(json::serialize(c));
          }
          break;
        case 32:
          for (const auto& c : a.at("value").as_array())
            r.large_communities.insert(std::to_string(c.at("ASN").to_number<std::uint32_t>()) + ":" +
                                       std::to_string(c.at("LocalData1").to_number<std::uint32_t>()) + ":" +
                                       std::to_string(c.at("LocalData2").to_number<std::uint32_t>()));
          break;
        default:
          r.origin += " attribute " + json::serialize(value);
      }
    }
    return r;
  }

  /// All routes, whatever of them the tool drops on the way (`mrt inject` of 3.10 loses some).
  void inject() {
    const auto done = eventually("gobgpd's own routes", [&] {
      Table there;
      for (auto& p : rib(true)) there.insert_or_assign(p.prefix, std::move(p.row));
      std::vector<Announcement> missing;
      for (const auto& a : routes) {
        auto wanted = *Peer::sent(a, false);
        wanted.local_pref = a.local_pref;
        const auto at = there.find(a.prefix);
        if (at == there.end() || at->second != wanted) missing.push_back(a);
      }
      if (!missing.empty()) inject(missing);
      return missing.empty();
    });
    if (!done) throw std::runtime_error(done.message());
  }
  /// RFC 6396 TABLE_DUMP_V2.
  void inject(const std::vector<Announcement>& some) {
    const auto record = [](int subtype, const std::string& body) {
      return Bytes{}
          .number(0, 4)
          .number(13, 2)
          .number(static_cast<unsigned>(subtype), 2)
          .number(body.size(), 4)
          .raw(body);
    };
    std::ofstream out(path("routes.mrt"), std::ios::binary);
    // One peer, nobody: such routes are the daemon's own and can be replaced and removed as such.
    out << record(
               1,
               Bytes{}.number(0, 4).number(0, 2).number(1, 2).number(2, 1).number(0, 4).number(0, 4).number(0, 4).data)
               .data;
    std::uint32_t sequence = 0;
    std::string last;
    for (const auto& a : some) {
      const bool six = is_v6(a.prefix);
      const auto attributes = encode(a);
      Bytes body;
      body.number(sequence++, 4).raw(nlri(a.prefix));
      body.number(1, 2).number(0, 2).number(0, 4).number(attributes.size(), 2).raw(attributes);
      last = record(six ? 4 : 2, body.data).data;
      out << last;
    }
    // What is in the tool's queue when the file ends is never sent: let that be a repetition.
    for (int i = 0; i < 8; ++i) out << last;
    out.close();
    must("mrt inject global --queue-size 1 " + path("routes.mrt"));
  }
  static std::string nlri(const std::string& prefix) {
    const auto slash = prefix.find('/');
    const auto bits = std::stoul(prefix.substr(slash + 1));
    return Bytes{}.number(bits, 1).raw(address(prefix.substr(0, slash)).substr(0, (bits + 7) / 8)).data;
  }
  std::string encode(const Announcement& a) const {
    const auto hop = next_hop(a.prefix);
    Bytes out;
    out.attribute(0x40, 1, std::string(1, '\0'));
    Bytes as_path;
    const auto ases = parts(a.as_path, ' ');
    if (!ases.empty()) as_path.number(2, 1).number(ases.size(), 1);
    for (const auto& as : ases) as_path.number(std::stoul(as), 4);
    out.attribute(0x40, 2, as_path.data);
    if (!is_v6(hop)) out.attribute(0x40, 3, address(hop));
    if (a.med) out.attribute(0x80, 4, Bytes{}.number(*a.med, 4).data);
    if (a.local_pref) out.attribute(0x40, 5, Bytes{}.number(*a.local_pref, 4).data);
    Bytes list;
    for (const auto& c : a.communities)
      list.number(std::stoul(parts(c).at(0)), 2).number(std::stoul(parts(c).at(1)), 2);
    if (!a.communities.empty()) out.attribute(0xc0, 8, list.data);
    // The whole attribute, not the short form of RFC 6396 4.3.4, which it does not read.
    if (is_v6(hop))
      out.attribute(0x80, 14,
                    Bytes{}
                        .number(is_v6(a.prefix) ? 2 : 1, 2)
                        .number(1, 1)
                        .number(16, 1)
                        .raw(address(hop))
                        .number(0, 1)
                        .raw(nlri(a.prefix))
                        .data);
    list = {};
    for (const auto& c : a.ext_communities)
      list.number(parts(c).at(0) == "rt" ? 2 : 3, 2)
          .number(std::stoul(parts(c).at(1)), 2)
          .number(std::stoul(parts(c).at(2)), 4);
    if (!a.ext_communities.empty()) out.attribute(0xc0, 16, list.data);
    list = {};
    for (const auto& c : a.large_communities)
      for (const auto& n : parts(c)) list.number(std::stoul(n), 4);
    if (!a.large_communities.empty()) out.attribute(0xc0, 32, list.data);
    return out.data;
  }

  std::string config() const {
    std::string out =
        "[global.config]\n  as = " + std::to_string(sessions.at(0).local_as) + "\n  router-id = \"" + v4() + "\"\n";
    for (const auto& s : sessions) {
      out += "[[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"" + s.remote +
             "\"\n    peer-as = " + std::to_string(s.remote_as) + "\n    admin-down = true\n";
      if (!s.password.empty()) out += "    auth-password = \"" + s.password + "\"\n";
      out += "  [neighbors.transport.config]\n    local-address = \"" + s.local + "\"\n";
      if (s.ttl_security)
        out += "  [neighbors.ttl-security.config]\n    enabled = true\n    ttl-min = 255\n";
      else if (s.remote_as != s.local_as)
        out += "  [neighbors.ebgp-multihop.config]\n    enabled = true\n    multihop-ttl = 2\n";
      if (s.client)
        out +=
            "  [neighbors.route-reflector.config]\n    route-reflector-client = true\n"
            "    route-reflector-cluster-id = \"" +
            v4() + "\"\n";
      if (s.add_path) out += "  [neighbors.add-paths.config]\n    receive = true\n    send-max = 8\n";
      out +=
          "  [neighbors.timers.config]\n    connect-retry = 1\n    idle-hold-time-after-reset = 1\n"
          "  [neighbors.graceful-restart.config]\n    enabled = true\n    restart-time = 120\n    deferral-time = 30\n";
      for (const char* family : {"ipv4", "ipv6"}) {
        if (std::string(family) == "ipv4" ? !s.ipv4 : !s.ipv6) continue;
        out += std::string("  [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]\n      afi-safi-name = \"") +
               family + "-unicast\"\n    [neighbors.afi-safis.mp-graceful-restart.config]\n      enabled = true\n";
      }
    }
    return out;
  }
};

}  // namespace

std::unique_ptr<Peer> make_gobgp(const Netns& ns, std::filesystem::path folder, int node) {
  return std::make_unique<GobgpPeer>(ns, std::move(folder), node);
}

}  // namespace calico::test
