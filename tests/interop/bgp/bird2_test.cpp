/// Our speaker beside BIRD 2 of the distribution, what is not the same for every daemon (daemons_test.cpp): an external
/// peer without policy exchanges nothing, BIRD's route refresh, BIRD's own birdc asking our socket. Each daemon lives
/// in a namespace of its own on one bridge.
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <regex>
#include <set>

#include "tests/support/netns.hpp"
#include "tests/support/wait.hpp"

namespace calico::test {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using testing::HasSubstr;

struct Route {
  std::string next_hop, as_path, originator, clusters, local_pref, state;
  bool operator==(const Route&) const = default;
};
std::ostream& operator<<(std::ostream& o, const Route& r) {
  return o << r.state << " via " << r.next_hop << " path '" << r.as_path << "' originator " << r.originator
           << " clusters " << r.clusters << " pref " << r.local_pref;
}
using Table = std::map<std::string, Route>;

class Bird2Test : public testing::Test {
 protected:
  void SetUp() override {
    NEEDS_NETNS();
    if (!fs::exists("/usr/sbin/bird") || shell("/usr/sbin/bird --version").text.find("version 2") == std::string::npos)
      GTEST_SKIP() << "SKIPPED, needs Debian's bird2";
    dir_ = fs::temp_directory_path() / ("calico-bird2-" + std::to_string(getpid()));
    fs::create_directories(dir_);
    hub_ = std::make_unique<Netns>("hub");
    hub_->run("ip link add br0 type bridge && ip link set br0 up");
  }
  void TearDown() override {
    procs_.clear();
    nodes_.clear();
    hub_.reset();
    if (HasFailure())
      for (auto& e : fs::directory_iterator(dir_))
        if (e.path().extension() == ".log") std::cerr << "--- " << e.path() << "\n" << std::ifstream(e.path()).rdbuf();
    fs::remove_all(dir_);
  }
  /// Node n: 10.66.0.n and fd66::n on the common link.
  Netns& node(int n) {
    auto& ns = nodes_[n];
    if (!ns) {
      ns = std::make_unique<Netns>("n" + std::to_string(n));
      const auto port = "p" + std::to_string(n);
      veth(*ns, "eth0", *hub_, port);
      hub_->run("ip link set " + port + " master br0");
      ns->run("ip addr add 10.66.0." + std::to_string(n) + "/16 dev eth0 && ip addr add fd66::" + std::to_string(n) +
              "/64 dev eth0 nodad");
    }
    return *ns;
  }
  std::string path(int n, const std::string& what) { return (dir_ / (std::to_string(n) + what)).string(); }

  void speaker(int n, const std::string& args) {
    fs::create_directories(path(n, ".state"));
    const auto a = "10.66.0." + std::to_string(n);
    procs_.erase(n);
    procs_.emplace(n, std::make_unique<Child>(
                          node(n).spawn("exec " CALICO_BINARY_DIR "/tests/bgp-speaker id=" + a + " listen=" + a +
                                            " listen=fd66::" + std::to_string(n) + " nh6=fd66::" + std::to_string(n) +
                                            " ctl=" + path(n, ".ctl") + " state=" + path(n, ".state") + " " + args,
                                        path(n, ".log"))));
    kinds_[n] = true;
  }
  /// BIRD with two IPv4 and one IPv6 static routes; `protocols` is added to the configuration.
  void bird(int n, const std::string& protocols, const std::string& flags = "") {
    const auto s = std::to_string(n);
    std::ofstream(path(n, ".conf")) << "log \"" << path(n, ".birdlog") << "\" all;\nrouter id 10.66.0." << s << ";\n"
                                    << "protocol device {}\nprotocol direct { ipv4; ipv6; interface \"eth0\"; }\n"
                                    << "protocol static s4 { ipv4; route 10.100." << s
                                    << ".1/32 unreachable; route 10.100." << s << ".2/32 unreachable; }\n"
                                    << "protocol static s6 { ipv6; route fd00:100:" << s << "::1/128 unreachable; }\n"
                                    << protocols;
    procs_.erase(n);
    procs_.emplace(n, std::make_unique<Child>(node(n).spawn(
                          "exec /usr/sbin/bird -f " + flags + " -c " + path(n, ".conf") + " -s " + path(n, ".ctl"),
                          path(n, ".log"))));
    kinds_[n] = false;
  }
  static std::string bgp(int n, int to, const std::string& as, const std::string& to_as, const std::string& more = "",
                         const std::string& channel = "") {
    const auto s = std::to_string(n);
    const std::string export_filter = "export where source = RTS_STATIC;";
    return "protocol bgp rr" + std::to_string(to) + " { local 10.66.0." + s + " as " + as + "; neighbor 10.66.0." +
           std::to_string(to) + " as " + to_as +
           "; graceful restart on; connect delay time 1; connect retry time 1; error wait time 1, 2; " + more +
           " ipv4 { import all; " + export_filter + channel + " }; ipv6 { import all; " + export_filter +
           " next hop address fd66::" + s + "; " + channel + " }; }\n";
  }

  std::string birdc(int n, const std::string& command) {
    const std::string tool = kinds_[n] ? CALICO_BINARY_DIR "/tests/bgp-speaker birdc" : "/usr/sbin/birdc";
    return node(n).try_run(tool + " -s " + path(n, ".ctl") + " " + command).text;
  }
  /// Routes learned by BGP, as birdc shows them (both of ours and BIRD's: the shape is the same).
  Table learned(int n) {
    Table out;
    std::istringstream in(birdc(n, "show route all"));
    static const std::regex head(R"(^([0-9a-f:.]+/\d+|)\s*(unicast|unreachable|blackhole) \[(\S+) [^\]]*\] ?(\*?).*$)");
    std::string prefix;
    Route* r = nullptr;
    Route dropped;
    for (std::string line; std::getline(in, line);) {
      std::smatch m;
      if (std::regex_match(line, m, head)) {
        if (m[1].length() > 0) prefix = m[1];
        const std::string proto = m[3];
        const bool wanted = m[4] == "*" && proto != "direct1" && proto != "s4" && proto != "s6" && proto != "kernel1";
        r = wanted ? &out[prefix] : &dropped;
        r->state = m[2];
        continue;
      }
      const auto value = [&](const std::string& key, std::string& to) {
        const auto at = line.find(key + ": ");
        if (at != std::string::npos) to = line.substr(at + key.size() + 2);
      };
      if (r == nullptr) continue;
      value("BGP.next_hop", r->next_hop);
      value("BGP.as_path", r->as_path);
      value("BGP.originator_id", r->originator);
      value("BGP.cluster_list", r->clusters);
      value("BGP.local_pref", r->local_pref);
    }
    return out;
  }
  /// The three routes of BIRD node n or the two of our node n, as another node should see them.
  static Table of_bird(int n, const Route& like) {
    Table t;
    const auto s = std::to_string(n);
    for (auto p : {"10.100." + s + ".1/32", "10.100." + s + ".2/32"}) {
      t[p] = like;
      t[p].next_hop = "10.66.0." + s;
    }
    auto& six = t["fd00:100:" + s + "::1/128"];
    six = like;
    six.next_hop = "fd66::" + s;
    return t;
  }
  static Table of_ours(int n, const Route& like) {
    Table t;
    const auto s = std::to_string(n);
    t["10.65.0." + s + "/32"] = like;
    t["10.65.0." + s + "/32"].next_hop = "10.66.0." + s;
    t["fd00:65::" + s + "/128"] = like;
    t["fd00:65::" + s + "/128"].next_hop = "fd66::" + s;
    return t;
  }
  static std::string own_routes(int n) {
    return " route=10.65.0." + std::to_string(n) + "/32 route=fd00:65::" + std::to_string(n) + "/128";
  }
  static Table sum(std::initializer_list<Table> parts) {
    Table t;
    for (const auto& p : parts) t.insert(p.begin(), p.end());
    return t;
  }
  void expect_table(int n, const Table& wanted) {
    Table got;
    (void)eventually(
        "table", [&] { return (got = learned(n)) == wanted; }, 20s);
    EXPECT_EQ(got, wanted) << "at node " << n << "\n" << birdc(n, "show protocols all");
  }

  fs::path dir_;
  std::unique_ptr<Netns> hub_;
  std::map<int, std::unique_ptr<Netns>> nodes_;
  std::map<int, std::unique_ptr<Child>> procs_;
  std::map<int, bool> kinds_;  // true: ours
};

/// Node 1 is our reflector, 2 our client, 3 BIRD as client, 4 BIRD as non-client, 5 BIRD as AS 65000 with policy, 6
/// BIRD as AS 65001 without.
class Bird2ReflectorTest : public Bird2Test {
 protected:
  static std::string rr_args() {
    return "peer=c2,10.66.0.2,client peer=c3,10.66.0.3,client peer=n4,10.66.0.4"
           " peer=e5,10.66.0.5,as=65000,multihop=2,import,export peer=e6,10.66.0.6,as=65001,multihop=2" +
           own_routes(1);
  }
  void SetUp() override {
    Bird2Test::SetUp();
    if (IsSkipped()) return;
    speaker(1, rr_args());
    speaker(2, "peer=rr,10.66.0.1" + own_routes(2));
    bird(3, bgp(3, 1, "64512", "64512"));
    bird(4, bgp(4, 1, "64512", "64512"));
    bird(5, bgp(5, 1, "65000", "64512", "multihop 2;"));
    bird(6, bgp(6, 1, "65001", "64512", "multihop 2;"));
  }
  // How routes look inside the AS: unreflected, reflected, from outside.
  static Route plain() { return {"", "", "", "", "100", "unicast"}; }
  static Route reflected(int origin) {
    return {"", "", "10.66.0." + std::to_string(origin), "10.66.0.1", "100", "unicast"};
  }
  static Route outside(const std::string& path) { return {"", path, "", "", "100", "unicast"}; }
};

TEST_F(Bird2ReflectorTest, EveryTableIsExactlyWhatItMustBe) {
  const auto e5 = of_bird(5, outside("65000"));
  expect_table(2, sum({of_ours(1, plain()), of_bird(3, reflected(3)), of_bird(4, reflected(4)), e5}));
  expect_table(3, sum({of_ours(1, plain()), of_ours(2, reflected(2)), of_bird(4, reflected(4)), e5}));
  // A non-client gets the clients' routes, not what other non-clients say; it hears those itself.
  expect_table(4, sum({of_ours(1, plain()), of_ours(2, reflected(2)), of_bird(3, reflected(3)), e5}));
  expect_table(1, sum({of_ours(2, plain()), of_bird(3, plain()), of_bird(4, plain()), e5}));
  // Outside: own AS in front, next hops kept (the peer's import gives LOCAL_PREF 100), no trace of the reflection.
  const auto as = outside("64512");
  expect_table(5, sum({of_ours(1, as), of_ours(2, as), of_bird(3, as), of_bird(4, as)}));
  expect_table(6, {});
  EXPECT_TRUE(eventually("session without exchange",
                         [&] { return birdc(6, "show protocols").find("Established") != std::string::npos; }));
  EXPECT_EQ(learned(6), Table{});
  EXPECT_THAT(birdc(1, "show protocols all e6"), HasSubstr("0 imported, 0 exported"));

  // Withdrawal: at once, everywhere, and only that.
  birdc(3, "disable s4");
  auto rest = of_bird(3, reflected(3));
  rest.erase("10.100.3.1/32");
  rest.erase("10.100.3.2/32");
  expect_table(2, sum({of_ours(1, plain()), rest, of_bird(4, reflected(4)), e5}));
  birdc(3, "enable s4");
  expect_table(2, sum({of_ours(1, plain()), of_bird(3, reflected(3)), of_bird(4, reflected(4)), e5}));
  // Route refresh.
  birdc(4, "reload in rr1");
  EXPECT_THAT(birdc(4, "show protocols all rr1"), HasSubstr("Established"));
  expect_table(4, sum({of_ours(1, plain()), of_ours(2, reflected(2)), of_bird(3, reflected(3)), e5}));
}

TEST_F(Bird2ReflectorTest, BirdsOwnClientTalksToOurSocket) {
  ASSERT_TRUE(eventually("sessions", [&] {
    const auto text = birdc(1, "show protocols");
    return std::count(text.begin(), text.end(), '\n') >= 7 && text.find("start") == std::string::npos;
  })) << birdc(1, "show protocols");
  const auto ask = [&](const std::string& command) {
    return node(1).try_run("/usr/sbin/birdc -s " + path(1, ".ctl") + " " + command).text;
  };
  EXPECT_THAT(ask("show status"), HasSubstr("Router ID is 10.66.0.1"));
  EXPECT_THAT(ask("show status"), HasSubstr("Daemon is up and running"));
  const auto protocols = ask("show protocols");
  EXPECT_THAT(protocols, HasSubstr("Name       Proto      Table      State  Since         Info\n"));
  EXPECT_TRUE(std::regex_search(
      protocols, std::regex(R"(c3         BGP        ---        up     \d\d:\d\d:\d\d\.\d\d\d  Established)")))
      << protocols;
  const auto all = ask("show protocols all c3");
  for (auto line :
       {"  BGP state:          Established\n", "    Neighbor address: 10.66.0.3\n", "    Neighbor AS:      64512\n",
        "    Neighbor ID:      10.66.0.3\n", "    Session:          internal multihop route-reflector AS4\n"})
    EXPECT_THAT(all, HasSubstr(line));
  ASSERT_TRUE(
      eventually("13 routes", [&] { return ask("show route count").find("Total: 13 of 13") != std::string::npos; }))
      << ask("show route count") << ask("show route");
  const auto one = ask("show route for 10.100.3.1 all");
  EXPECT_TRUE(std::regex_search(
      one, std::regex(R"(10\.100\.3\.1/32 +unicast \[c3 [0-9:.]+\] \* \(100\) \[i\]\n\tvia 10\.66\.0\.3)")))
      << one;
  EXPECT_THAT(one, HasSubstr("\tBGP.local_pref: 100\n"));
  EXPECT_THAT(ask("show route protocol c3 count"), HasSubstr("Total: 3 of"));
  EXPECT_THAT(ask("show route for 203.0.113.1"), HasSubstr("Network not found"));
  EXPECT_THAT(ask("show route protocol nobody"), HasSubstr("not a protocol"));
  EXPECT_THAT(ask("configure"), HasSubstr("no configuration to read again"));
}

}  // namespace
}  // namespace calico::test
