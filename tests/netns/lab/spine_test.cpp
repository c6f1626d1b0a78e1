// What happens to the traffic of machines when things die underneath: a real cluster of the lab, a ping every 10 ms,
// and no loss allowed. Needs the whole of calico-node.
#include <sys/socket.h>

#include <cstdlib>
#include <sstream>

#include "core/log/log.hpp"
#include "tests/netns/lab/spine.hpp"

using namespace calico;
using namespace calico::lab;

namespace {

TEST_F(Spine, ComputeKilledAndRestarted) {
  Up(3, 2);
  StartStreams();
  std::string rules = InNode("compute-1", "nft list ruleset");
  ok(cluster->kill("compute-1"));
  Traffic(Millis(3000));
  ok(cluster->start({"compute-1"}));
  SessionsUp();
  Traffic(kRestartTime + Millis(3000));  // beyond the moment at which stale routes would go
  ExpectNoLoss();
  EXPECT_EQ(InNode("compute-1", "nft list ruleset"), rules);
}

TEST_F(Spine, ReflectorKilledAndRestarted) {
  Up(2, 2);
  StartStreams();
  ok(cluster->kill("rr-2"));
  Traffic(Millis(3000));
  ok(cluster->start({"rr-2"}));
  SessionsUp();
  Traffic(kRestartTime + Millis(3000));
  ExpectNoLoss();
}

TEST_F(Spine, TheOnlyReflectorKilledAndRestarted) {
  Up(2, 1);
  StartStreams();
  ok(cluster->kill("controller-1"));
  Traffic(Millis(3000));
  ok(cluster->start({"controller-1"}));
  SessionsUp();
  Traffic(kRestartTime + Millis(3000));
  ExpectNoLoss();
}

TEST_F(Spine, AllReflectorsDownForTwiceTheRestartTime) {
  Up(2, 2);
  StartStreams();
  ok(cluster->kill("rr-2"));
  ok(cluster->kill("controller-1"));
  Traffic(2 * kRestartTime);
  EXPECT_TRUE(HasRoute("compute-1", *guests[1].v4)) << "kept while isolated";
  ok(cluster->start({"controller-1", "rr-2"}));
  SessionsUp();
  Traffic(kRestartTime + Millis(3000));
  ExpectNoLoss();
}

TEST_F(Spine, ControllerDownWhileAComputeRestarts) {
  Up(2, 2);
  StartStreams();
  std::string rules = InNode("compute-1", "nft list ruleset");
  ok(cluster->kill("controller-1"));
  ok(cluster->kill("compute-1"));
  ok(cluster->start({"compute-1"}));  // READY=1 with the datastore away
  // 30 s; the long run keeps the controller away for as long as CALICO_TEST_OUTAGE says (seconds).
  const char* outage = std::getenv("CALICO_TEST_OUTAGE");
  Traffic(outage ? Millis(std::atoi(outage) * 1000) : kLimit);
  EXPECT_EQ(InNode("compute-1", "nft list ruleset"), rules);
  EXPECT_EQ(processes_of_role("compute-1"), 1);
  ok(cluster->start({"controller-1"}));
  SessionsUp();
  Traffic(Millis(2000));
  ExpectNoLoss();
  EXPECT_EQ(InNode("compute-1", "nft list ruleset"), rules);
  EXPECT_EQ(cluster->ready_count("compute-1"), 1U) << "said once, with the datastore away and back";
}

TEST_F(Spine, AComputeGoneForGoodTakesItsRoutesWithItWhenTheRestartTimeEnds) {
  Up(3, 2);
  const Ip lost = *guests[2].v4;
  ASSERT_TRUE(HasRoute("compute-1", lost));
  ASSERT_TRUE(HasRoute("compute-2", lost));
  ok(cluster->kill("compute-3"));
  auto begin = Steady::now();
  for (const char* node : {"compute-1", "compute-2"}) {
    ok(wait_until(fmt::format("{} without the route", node), kRestartTime + kLimit,
                  [&] { return !HasRoute(node, lost); }));
    auto after = std::chrono::duration_cast<Millis>(Steady::now() - begin);
    EXPECT_GT(after, kRestartTime - Millis(1500)) << node << ": too early";
    EXPECT_LT(after, kRestartTime + Millis(6000)) << node << ": too late";
    fmt::print("  {}: gone after {} ms\n", node, after.count());
  }
  EXPECT_TRUE(HasRoute("compute-1", *guests[1].v4)) << "the others' routes stay";
}

TEST_F(Spine, ADeletedNodeLosesItsSession) {
  Up(2, 1);
  ok(cluster->stop("compute-2"));
  auto out =
      test::shell(fmt::format("{0} lab --dir {1} exec controller-1 -- {0} node delete compute-2 --config "
                              "{1}/nodes/controller-1/calico-node.conf",
                              *self_path(), dir));
  ASSERT_EQ(out.status, 0) << out.text;
  const std::string peer = cluster->record().node("compute-2")->mgmt4.to_string();
  ok(wait_until("the session of compute-2 gone at the reflector", kLimit, [&] {
    auto sessions = bgp_sessions(cluster->paths(), "controller-1");
    return sessions &&
           std::none_of(sessions->begin(), sessions->end(), [&](const Session& s) { return s.peer == peer; });
  }));
  ok(wait_until("its route gone at compute-1", kLimit, [&] { return !HasRoute("compute-1", *guests[1].v4); }));
}

TEST_F(Spine, MachinesDoNotReachTheControlPortsOfNodes) {
  Up(2, 2);
  std::vector<Child> listeners;
  for (const auto& name : cluster->all_nodes()) {  // something that would answer on 22
    SpawnSpec spec;
    spec.argv = {*self_path(), "lab", "vm-listen", name, "22"};
    spec.environment = Cluster::environment();
    spec.netns = *cluster->netns(name);
    auto child = spawn(spec);
    ASSERT_TRUE(child);
    ok(child->release());
    listeners.push_back(std::move(*child));
  }
  for (const auto& n : cluster->record().nodes) {
    if (n.roles.empty()) continue;
    ok(wait_until("port 22 of " + n.name, kLimit, [&] { return Connects(std::string(kBorder), n.mgmt4, 22); }));
    std::vector<std::uint16_t> ports{22, 179};
    if (n.is_controller()) ports.insert(ports.end(), {2379, 9696});
    for (auto port : ports) {
      // BGP accepts by peer, so that its control is another node.
      const std::string elsewhere =
          port == 179 ? (n.is_reflector() ? "compute-1" : "controller-1") : std::string(kBorder);
      if (port != 179 || n.name != elsewhere) {
        EXPECT_TRUE(Connects(elsewhere, n.mgmt4, port)) << "the control: " << n.name << " port " << port;
      }
      EXPECT_FALSE(Connects("vm-1", n.mgmt4, port)) << n.name << " port " << port;
    }
  }
}

TEST_F(Spine, WithoutAClientCertificateThereIsNoDatastore) {
  Up(1, 1);
  const std::string pki = cluster->paths().pki();
  const Ip at = cluster->record().controller().mgmt4;
  auto ask = [&](bool certificate) {
    NeutronClient::Files files{pki + "/ca.crt", certificate ? pki + "/client.crt" : "",
                               certificate ? pki + "/client.key" : ""};
    auto client =
        NeutronClient::connect(fmt::format("https://{}:2379", at), *cluster->netns(std::string(kBorder)), files, "");
    if (!client) return client.error();
    return client->port("x").error();  // the datastore knows no ports: any HTTP answer means that we were let in
  };
  EXPECT_EQ(ask(true).code, Errc::not_found) << "the control: " << ask(true).what;
  EXPECT_EQ(ask(false).code, Errc::no_permission) << ask(false).what;
}

// The status key of a node is leased; its expiry must not touch BGP. The node's way to the datastore is cut for as long
// as it takes.
TEST_F(Spine, AnExpiredStatusLeavesTheSessionAlone) {
  Up(2, 1);
  StartStreams();
  const std::string peer = cluster->record().node("compute-2")->mgmt4.to_string();
  auto established = [&] {
    auto sessions = bgp_sessions(cluster->paths(), "controller-1");
    return sessions && std::any_of(sessions->begin(), sessions->end(),
                                   [&](const Session& s) { return s.peer == peer && s.state == "Established"; });
  };
  ASSERT_TRUE(established());
  auto cut = InNode("compute-2",
                    "nft add table ip cut '{ chain o { type filter hook output priority 0; tcp dport 2379 drop; }; }'");
  bool always = true;
  auto s = wait_until(
      "the agent of compute-2 no longer alive", Millis(150000),
      [&] {
        always = always && established();
        auto live = api->live_agents();
        return live && live->size() == 1;
      },
      Millis(200));
  ASSERT_TRUE(s) << s.error().what << cut;
  EXPECT_TRUE(always) << "the session must not have fallen meanwhile";
  EXPECT_TRUE(HasRoute("compute-1", *guests[1].v4));
  InNode("compute-2", "nft delete table ip cut");
  ok(wait_until("the agent of compute-2 alive again", Millis(60000), [&] {
    auto live = api->live_agents();
    return live && live->size() == 2;
  }));
  EXPECT_TRUE(established());
  ExpectNoLoss();
}

TEST_F(Spine, APublicPortOfANodeIsReachable) {
  Up(1, 1, {"felix.public_ports=22"});
  SpawnSpec spec;
  spec.argv = {*self_path(), "lab", "vm-listen", "controller-1", "22"};
  spec.environment = Cluster::environment();
  spec.netns = *cluster->netns("controller-1");
  auto child = spawn(spec);
  ASSERT_TRUE(child);
  ok(child->release());
  const Ip at = cluster->record().controller().mgmt4;
  ok(wait_until("port 22 of the controller", kLimit, [&] { return Connects(std::string(kBorder), at, 22); }));
  // The answer finds its way back over the compute: a controller has no route to machines of its own.
  InNode("controller-1", "ip route add 10.65.0.0/24 via 192.168.0.11");
  EXPECT_TRUE(Connects("vm-1", at, 22));
  EXPECT_FALSE(Connects("vm-1", at, 2379));
}

// A router of somebody else's.
class Outside : public Spine {
 protected:
  // bird2 in the border's namespace, peering with both reflectors; it has a route of its own to offer.
  void StartBird(unsigned as, const std::string& options) {
    d = cluster->paths().node(kBorder);
    std::string conf =
        "router id 192.168.0.1;\nprotocol device {}\nprotocol direct { ipv4; }\n"
        "protocol static { ipv4; route 198.51.100.0/24 blackhole; }\n";
    for (const auto& r : cluster->record().nodes) {
      if (!r.is_reflector()) continue;
      conf += fmt::format(
          "protocol bgp {{ local 192.168.0.1 as {}; neighbor {} as 64512; {} connect retry time 1; error wait time "
          "1,2; "
          "ipv4 {{ import all; export where proto = \"static1\"; }}; }}\n",
          as, r.mgmt4, options);
    }
    ok(write_file(d + "/bird.conf", conf));
    SpawnSpec spec;
    spec.argv = {"/usr/sbin/bird", "-f", "-c", d + "/bird.conf", "-s", d + "/bird.ctl"};
    spec.environment = Cluster::environment();
    spec.netns = *cluster->netns(std::string(kBorder));
    auto bird = spawn(spec);
    ASSERT_TRUE(bird);
    ok(bird->release());
    auto up = wait_until("bird Established with both reflectors", kLimit, [&] {
      auto text = bird_command(d, "bird.ctl", "show protocols all");
      auto sessions = text ? parse_sessions(*text) : std::vector<Session>();
      return sessions.size() == 2 && sessions[0].state == "Established" && sessions[1].state == "Established";
    });
    ASSERT_TRUE(up) << up.error().what << bird_command(d, "bird.ctl", "show protocols all").value_or("");
  }
  std::string Routes() { return bird_command(d, "bird.ctl", "show route all").value_or(""); }
  // The machine's /32 with its compute as next hop.
  bool Sees(std::size_t i) {
    const std::string hop =
        "BGP.next_hop: " + cluster->record().node(fmt::format("compute-{}", i + 1))->mgmt4.to_string();
    std::istringstream lines(Routes());
    bool mine = false;
    for (std::string line; std::getline(lines, line);) {
      if (!line.empty() && line[0] != ' ' && line[0] != '\t') {
        if (line.find('/') < line.find(' ')) mine = line.starts_with(guests[i].v4->to_string() + "/32 ");
      } else if (mine && line.ends_with(hop)) {
        return true;
      }
    }
    return false;
  }
  void SeesAll() {
    for (std::size_t i = 0; i < guests.size(); ++i) {
      auto s =
          wait_until(guests[i].name + " at the border with its compute as next hop", kLimit, [&] { return Sees(i); });
      ASSERT_TRUE(s) << s.error().what << "\n" << Routes();
    }
  }
  static std::vector<std::string> Peer(const std::vector<std::string>& keys) {
    std::vector<std::string> set;
    for (const char* node : {"controller-1", "rr-2"}) {
      set.push_back(fmt::format("{}:bgp.peer.border.address=192.168.0.1", node));
      for (const auto& k : keys) set.push_back(fmt::format("{}:bgp.peer.border.{}", node, k));
    }
    return set;
  }
  std::string d;
};

TEST_F(Outside, AnInternalBirdSeesEveryMachineAndTheEndOfOne) {
  Up(2, 2, Peer({"remote_as=64512"}));
  StartBird(64512, "");
  SeesAll();
  ok(wait_until("bird's own route at compute-1", kLimit,
                [&] { return HasRoute("compute-1", *Ip::parse("198.51.100.0")); }));
  auto vm = cluster->record().vms[1];
  auto begin = Steady::now();
  ok(api->remove("ports", vm.port_id));
  ok(cluster->remove_vm(vm.name));
  ok(wait_until("the deleted machine's route gone at the border", kLimit,
                [&] { return Routes().find(guests[1].v4->to_string() + "/32") == std::string::npos; }));
  fmt::print("  a deleted VM's route left the border router after {} ms\n",
             std::chrono::duration_cast<Millis>(Steady::now() - begin).count());
  EXPECT_TRUE(Sees(0));
}

TEST_F(Outside, AnExternalBirdSeesTheComputesAsNextHops) {
  Up(2, 2, Peer({"remote_as=65000", "multihop=2", "next_hop=keep", "import=none", "export=all"}));
  StartBird(65000, "multihop 2;");
  SeesAll();
  EXPECT_FALSE(HasRoute("compute-1", *Ip::parse("198.51.100.0"))) << "import=none";
}

TEST_F(Outside, WithoutImportAndExportNothingIsExchanged) {
  Up(2, 2, Peer({"remote_as=65000"}));
  StartBird(65000, "");
  // Long enough for what the two tests above see at once.
  Traffic(Millis(3000));
  EXPECT_EQ(Routes().find("10.65.0."), std::string::npos) << Routes();
  EXPECT_FALSE(HasRoute("compute-1", *Ip::parse("198.51.100.0")));
}

}  // namespace

int main(int argc, char** argv) {
  calico::log::init(calico::log::Level::error, calico::log::Format::text);
  testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
