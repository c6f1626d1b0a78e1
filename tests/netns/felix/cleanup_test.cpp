// `calico-node cleanup` after a felix that was killed: what is ours goes, what lies beside it stays to the byte.
#include <gmock/gmock.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "tests/netns/felix/bench.hpp"
#include "tests/netns/felix/felix_process.hpp"
#include "tests/support/temp_dir.hpp"

namespace calico::test {
namespace {

using testing::HasSubstr;
using testing::Not;

const std::string kNode = std::string(CALICO_BINARY_DIR) + "/bin/calico-node";
constexpr auto kDirectory = "CALICO_CLEANUP_TEST";

/// The felix that is killed, in a process of its own in the host's namespace. Not a test.
TEST(FelixCleanupProcess, DISABLED_RunsUntilKilled) {
  const auto* dir = std::getenv(kDirectory);
  ASSERT_NE(dir, nullptr);
  std::map<std::string, std::string> content;
  std::ifstream in(std::string(dir) + "/content");
  for (std::string k, v; std::getline(in, k) && std::getline(in, v);) content[k] = v;
  FelixHere felix;
  ASSERT_NO_FATAL_FAILURE(felix.start(content));
  std::ofstream(std::string(dir) + "/up") << "\n";
  for (;;) ::pause();
}

/// All that may be in a host's kernel but what the kernel makes itself and what comes and goes (learned neighbours).
/// `ip link` looks at every namespace of the machine for names and complains of one that goes meanwhile.
std::string kernel_of(const Netns& host) {
  return host.run(
      "nft -s list ruleset | sed -e 's/ # progname .*//' -e '/^\tflags/d'; for f in -4 -6; do ip $f -N route show "
      "table all | grep -v 'proto 2 ' | sort; "
      "ip $f nexthop | sort; ip $f neigh show nud permanent | sort; ip $f neigh show proxy | sort; done; "
      "ip -o link 2>/dev/null | sed -n 's/^[0-9]*: \\([^:]*\\):.* \\(group [0-9a-z]*\\).*/\\1 \\2/p' | sort; tc qdisc "
      "show");
}

/// A host on which felix, BGP and DHCP were, and strangers still are.
struct Host {
  TempDir dir{"cleanup"};
  Bench b;
  Vm a{1}, c{2};
  std::string strangers;  ///< the kernel before us
  std::optional<Child> felix;
  std::optional<Sock> door, through;

  Host() {
    std::ofstream(dir.file("conf")) << fmt::format("[node]\nname = h\nstate_dir = {0}/state\nrun_dir = {0}/run\n",
                                                   dir.path());
    std::filesystem::create_directory(dir.file("state"));
    for (auto* vm : {&a, &c}) b.plug(*vm);
    const auto loaded = b.host.try_run_with("nft -f -", R"(
table inet foreign {
  set s { type ipv4_addr; elements = { 10.65.0.11 }; }
  chain c { type filter hook input priority -5; ct state established accept; ip saddr @s accept; }
}
table ip calico { chain cali { ip daddr 10.65.0.11 accept; }; }
table arp foreign { chain c { accept; }; }
)");  // `ip calico` is upstream's own
    if (loaded.status != 0) throw std::runtime_error(loaded.text);
    b.host.run(
        "set -e\n"
        "ip link add other type veth peer name other-peer; ip link set other up group 0x0b000000; ip link set "
        "other-peer up group 0x0d000000\n"
        "ip route add 203.0.113.0/24 via 192.168.0.2 proto static; ip route add 203.0.114.0/24 via 192.168.0.2 proto "
        "bird; ip route add 203.0.115.0/24 via 192.168.0.2 table 100 proto 90; ip -6 route add 2001:db8:1::/48 via "
        "fd00::2 proto static\n"
        "ip nexthop add id 5 via 192.168.0.2 dev eth0 proto 87; ip route add 203.0.116.0/24 nhid 5 proto 87\n"
        "ip neigh add 192.168.0.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent; ip neigh add 10.9.9.9 lladdr "
        "02:00:00:00:00:78 dev other nud permanent; ip -6 neigh add fd00::77 lladdr 02:00:00:00:00:77 dev eth0 nud "
        "permanent; ip -6 neigh add proxy fd00::78 dev eth0\n"
        "tc qdisc add dev eth0 root handle c123: tbf rate 1gbit burst 1mb latency 50ms; tc qdisc add dev other root "
        "handle 7: pfifo limit 99\n");
    // A connection that lives through all of it.
    door.emplace(listener(b.host, 8080));
    through.emplace(b.out, SOCK_STREAM | SOCK_NONBLOCK);
    EXPECT_TRUE(through->connect("192.168.0.11", 8080, 3000));
    strangers = kernel_of(b.host);
    EXPECT_THAT(strangers, HasSubstr("table inet foreign"));
    EXPECT_GT(connections(), 0);
  }

  int connections() const { return std::stoi(b.host.run("cat /proc/sys/net/netfilter/nf_conntrack_count")); }
  void run_felix() {
    b.group("web", Bench::tcp(80) + "," + Bench::icmp_from("web"));
    b.endpoint(a, {"web"}, [&](model::WorkloadEndpoint& w) {
      w.ip_nats = {{*Ip::parse(a.ip), *Ip::parse("172.18.0.12")}, {*Ip::parse(a.ip6), *Ip::parse("fd18::12")}};
      w.qos_controls_json =
          R"({"ingressBandwidth":8000000,"ingressPacketRate":900,"egressPacketRate":900,"egressMaxConnections":90})";
    });
    b.endpoint(c, {"web"});
    b.view.set(std::string(model::kHostEndpoints) + "eth",
               R"({"metadata":{"labels":{"host":"yes"}},"spec":{"node":"h","interfaceName":"eth0"}})");
    b.view.set(
        std::string(model::kGlobalNetworkPolicies) + "host",
        R"j({"spec":{"selector":"host == 'yes'","types":["Ingress","Egress"],"applyOnForward":true,"ingress":[{"action":"Allow"}],"egress":[{"action":"Allow"}]}})j");
    {
      std::ofstream out(dir.file("content"));
      for (const auto& kv : b.view.range("/")) {
        auto v = kv.value;
        std::replace(v.begin(), v.end(), '\n', ' ');
        out << kv.key << "\n" << v << "\n";
      }
    }
    const auto program = std::filesystem::read_symlink("/proc/self/exe").string();
    felix.emplace(b.host.spawn(fmt::format("exec env {}={} setpriv --pdeathsig KILL {} --gtest_also_run_disabled_tests "
                                           "--gtest_filter=FelixCleanupProcess.*",
                                           kDirectory, dir.path(), program),
                               dir.file("log")));
    ASSERT_TRUE(eventually("felix is up", [&] { return std::filesystem::exists(dir.file("up")); }))
        << shell("tail -20 " + dir.file("log")).text;
  }
  /// As BGP and DHCP leave it.
  void others_of_ours() {
    b.host.run(
        "set -e; ip nexthop add id 0x50000001 via 192.168.0.2 dev eth0 proto 89; ip nexthop add id 0x58000001 group "
        "0x50000001 proto 89; ip route add 198.51.100.0/24 nhid 0x50000001 proto 89 metric 2048; ip route add "
        "198.51.101.0/24 nhid 0x58000001 proto 89 metric 2048; ip route add blackhole 198.51.102.0/24 proto 89; ip "
        "route add 198.51.103.0/24 via 192.168.0.2 table 100 proto 89; ip -6 route add 2001:db8:2::/48 via fd00::2 "
        "proto 89 metric 2048; ip link add ns-calico-dhcp type bridge; ip addr add 10.65.0.1/32 dev ns-calico-dhcp; ip "
        "link set ns-calico-dhcp up; " +
        kNode + " guard");
  }
  Output cleanup(const std::string& more = "", const std::string& before = "") const {
    return b.host.try_run(before + " " + kNode + " cleanup --config " + dir.file("conf") + " " + more);
  }
};

TEST(FelixCleanup, TakesWhatIsOursAndNothingElse) {
  NEEDS_NETNS();
  Host h;
  h.others_of_ours();  // with the guard: felix' first change takes that away
  ASSERT_NO_FATAL_FAILURE(h.run_felix());
  const auto working = kernel_of(h.b.host);
  for (const auto* word : {"table inet calico", "table arp calico", "10.65.0.11 dev tap", "172.18.0.12 dev tap",
                           "fd65::1 dev tap", "qdisc tbf c", "nhid 1342177281", "ns-calico-dhcp", "hep-"})
    ASSERT_THAT(working, HasSubstr(word)) << "positive control";

  // Its owner lives.
  const auto refused = h.cleanup();
  EXPECT_EQ(refused.status, 1) << refused.text;
  EXPECT_THAT(refused.text, HasSubstr("a process owns table"));
  EXPECT_EQ(kernel_of(h.b.host), working);

  h.felix->kill_now();
  EXPECT_EQ(kernel_of(h.b.host), working) << "what it left is all there";
  const auto dry = h.cleanup("--dry-run");
  EXPECT_EQ(dry.status, 0) << dry.text;
  EXPECT_THAT(dry.text, HasSubstr("would remove: tables: inet calico\n"));
  EXPECT_THAT(dry.text, HasSubstr("would remove: DHCP bridges: ns-calico-dhcp\n"));
  EXPECT_THAT(dry.text, HasSubstr("would remove: routes of felix: 172.18.0.12/32 "));
  EXPECT_EQ(kernel_of(h.b.host), working) << "only said";

  // Without the right to write: everything is tried, nothing is hidden.
  const auto powerless = h.cleanup("", "setpriv --inh-caps=-net_admin --bounding-set=-net_admin");
  EXPECT_EQ(powerless.status, 1) << powerless.text;
  EXPECT_THAT(powerless.text, Not(HasSubstr("removed:")));
  EXPECT_THAT(powerless.text, HasSubstr("left: routes of felix: "));
  EXPECT_EQ(kernel_of(h.b.host), working);

  const auto done = h.cleanup();
  EXPECT_EQ(done.status, 0) << done.text;
  // a: two addresses, two floating; c: two.
  for (const auto* line :
       {"removed: routes of felix: 6\n", "removed: routes of BGP: 5\n", "removed: nexthop objects: 2\n",
        "removed: permanent neighbours: 4\n", "removed: proxy entries: 2\n", "removed: token buckets: 1\n",
        "removed: groups of interfaces: 2\n", "removed: DHCP bridges: 1\n", "removed: tables: 2\n",
        "left as it is: settings (forwarding, proxy_arp, rp_filter and their like) of 2 interfaces"})
    EXPECT_THAT(done.text, HasSubstr(line));
  EXPECT_EQ(kernel_of(h.b.host), h.strangers);
  EXPECT_GT(h.connections(), 0) << "the kernel's connections are nobody's";
  EXPECT_EQ(h.b.host.run("cat /proc/sys/net/ipv4/conf/" + h.a.tap + "/proxy_arp"), "1\n");

  const auto again = h.cleanup();
  EXPECT_EQ(again.status, 0);
  EXPECT_EQ(again.text, "nothing of ours is in the kernel\n");
  EXPECT_EQ(kernel_of(h.b.host), h.strangers);
}

/// The package's shell, run when the program is gone, agrees about what is ours.
TEST(FelixCleanup, PurgeOfThePackageTakesTheSame) {
  NEEDS_NETNS();
  Host h;
  ASSERT_NO_FATAL_FAILURE(h.run_felix());
  h.felix->kill_now();
  h.others_of_ours();
  ASSERT_NE(kernel_of(h.b.host), h.strangers) << "positive control";
  // Only what it does to the kernel: its files are the machine's.
  const auto script = shell("sed -n '/^purge() {/,/^  rm -rf/p' " CALICO_SOURCE_DIR "/deb/calico-node.postrm").text;
  ASSERT_THAT(script, HasSubstr("  rm -rf"));
  const auto ran = h.b.host.try_run_with("sh -s", script.substr(0, script.find("  rm -rf")) + "}\nset -e\npurge\n");
  EXPECT_EQ(ran.status, 0) << ran.text;
  EXPECT_EQ(kernel_of(h.b.host), h.strangers);
  EXPECT_EQ(h.cleanup().text, "nothing of ours is in the kernel\n");
}

TEST(FelixCleanup, RefusesWhileOneRunsHere) {
  NEEDS_NETNS();
  Netns host("busy"), elsewhere("elsewhere");
  TempDir dir("cleanup-busy");
  const auto conf = [&](const std::string& name) {
    const auto file = dir.file(name + ".conf");
    std::ofstream(file) << fmt::format("[node]\nname = h\nstate_dir = {0}/{1}\nrun_dir = {0}/{1}-run\nfelix_cfg =\n",
                                       dir.path(), name);
    return file;
  };
  const auto one = conf("one"), two = conf("two");
  auto process = host.spawn(
      "exec setpriv --pdeathsig KILL " + kNode + " role controller,felix --config " + one + " --set metrics.listen=",
      dir.file("log"));
  ASSERT_TRUE(eventually("its table", [&] { return host.try_run("nft list table inet calico").status == 0; }))
      << shell("tail -20 " + dir.file("log")).text;
  const auto tables = host.run("nft -s list ruleset");
  for (const auto& file : {one, two}) {
    const auto refused = host.try_run(kNode + " cleanup --config " + file);
    EXPECT_EQ(refused.status, 1);
    EXPECT_THAT(refused.text,
                HasSubstr(fmt::format("role controller,felix runs (pid {}): end it first", process.pid())));
  }
  EXPECT_EQ(host.run("nft -s list ruleset"), tables);
  // It has nothing to do with another namespace, but its state directory has one process.
  const auto far = elsewhere.try_run(kNode + " cleanup --config " + two);
  EXPECT_EQ(far.status, 0) << far.text;
  EXPECT_EQ(far.text, "nothing of ours is in the kernel\n");
  const auto shared = elsewhere.try_run(kNode + " cleanup --config " + one);
  EXPECT_EQ(shared.status, 1);
  EXPECT_THAT(shared.text, HasSubstr(fmt::format("(pid {})", process.pid())));

  process.kill_now();
  const auto done = host.try_run(kNode + " cleanup --config " + one);
  EXPECT_EQ(done.status, 0) << done.text;
  EXPECT_THAT(done.text, HasSubstr("removed: tables: 2\n"));
  EXPECT_EQ(host.run("nft list ruleset"), "");
}

/// Of a protocol that others use too, only what felix makes.
TEST(FelixCleanup, AnotherProtocolIsNotOursAlone) {
  NEEDS_NETNS();
  Netns host("protocol");
  TempDir dir("cleanup-protocol");
  std::ofstream(dir.file("conf")) << fmt::format("[node]\nstate_dir = {}\nfelix_cfg =\n[felix]\nroute_protocol = 3\n",
                                                 dir.path());
  host.run(
      "set -e; ip link add tap1 type veth peer name eth0; ip link set tap1 up; ip link set eth0 up; ip "
      "route add 203.0.113.0/24 dev eth0 proto 3; ip route add blackhole 203.0.114.0/24 proto 3; ip route add "
      "203.0.115.0/24 dev tap1 proto 4; ip route add 203.0.116.1 dev tap1 proto 3 table 100");
  const auto before = kernel_of(host);
  host.run(
      "set -e; ip route add 10.65.0.2 dev tap1 proto 3 metric 1024; ip route add blackhole 10.65.0.0/24 proto 3 "
      "metric 1000000; ip -6 route add blackhole fd65::/64 proto 3 metric 1000000; ip -6 route add fd65::2 dev tap1 "
      "proto 3");
  const auto done = host.try_run(kNode + " cleanup --config " + dir.file("conf"));
  EXPECT_EQ(done.status, 0) << done.text;
  EXPECT_EQ(done.text, "removed: routes of felix: 4\n");
  EXPECT_EQ(kernel_of(host), before);
}

TEST(FelixCleanup, SaysWhatItNeeds) {
  NEEDS_NETNS();
  Netns host("usage");
  const auto stranger = host.try_run("setpriv --reuid 65534 --regid 65534 --clear-groups " + kNode + " cleanup");
  EXPECT_EQ(stranger.status, 3);
  EXPECT_THAT(stranger.text, HasSubstr("run it as root"));
  const auto wrong = host.try_run(kNode + " cleanup --all");
  EXPECT_EQ(wrong.status, 2);
  EXPECT_THAT(wrong.text, HasSubstr("unknown argument '--all'"));
  EXPECT_EQ(host.try_run(kNode + " cleanup --help").status, 0);
  TempDir dir("cleanup-usage");
  std::ofstream(dir.file("conf")) << "[node]\nstate_dir = " << dir.path() << "\n";
  host.run(kNode + " guard --config " + dir.file("conf"));
  ASSERT_THAT(host.run("nft list tables"), HasSubstr("table inet calico-guard\ntable arp calico-guard"));
  EXPECT_EQ(host.run(kNode + " cleanup --config " + dir.file("conf")), "removed: tables: 2\n");
  EXPECT_EQ(host.run("nft list tables"), "");
}

}  // namespace
}  // namespace calico::test
