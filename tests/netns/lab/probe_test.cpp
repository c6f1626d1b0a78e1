// The demonstration's measuring instruments: they must see what passes, and only that. Two nodes of a lab without
// processes stand in for machines.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/log/log.hpp"
#include "modules/lab/cluster.hpp"
#include "modules/lab/command.hpp"
#include "modules/lab/demo.hpp"
#include "modules/lab/probe.hpp"
#include "modules/lab/report.hpp"
#include "tests/support/netns.hpp"

using namespace calico;
using namespace calico::lab;

namespace {

struct ProbeTest : testing::Test {
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "SKIPPED: needs root";
    Options o;
    o.name = fmt::format("p{}", ::getpid());
    o.network_only = true;
    o.computes = 2;
    dir = Cluster::dir_of(o);
    auto c = Cluster::create(o);
    ASSERT_TRUE(c) << c.error().what;
    cluster = std::move(*c);
    ASSERT_TRUE(cluster->build());
    for (const char* name : {"compute-1", "compute-2"}) {
      auto ns = cluster->netns(name);
      auto w = cluster->wire(name);
      ASSERT_TRUE(ns && w);
      const Node& n = *cluster->record().node(name);
      guests.push_back({name, *ns, n.mgmt4, n.mgmt6, *(*w)->mac_of("eth0"), {}});
      ASSERT_TRUE(make_dirs(cluster->paths().node(name) + "/run"));
      auto notify = NotifySocket::open(cluster->paths().node(name) + "/run");
      ASSERT_TRUE(notify);
      SpawnSpec spec;
      spec.argv = {*self_path(), "lab", "vm-listen", name, "22", "2222"};
      spec.environment = Cluster::environment();
      spec.environment["NOTIFY_SOCKET"] = "/run/notify";
      spec.netns = *ns;
      spec.view = Cluster::view_of(cluster->paths(), cluster->record(), name);
      auto child = spawn(spec);
      ASSERT_TRUE(child && child->release());
      ASSERT_TRUE(wait_until("listening", Millis(30000), [&] {
        notify->drain();
        return notify->ready();
      }));
    }
    guests[0].gateway = guests[1].mac;
    guests[1].gateway = guests[0].mac;
  }
  void TearDown() override {
    cluster.reset();
    if (dir.empty()) return;
    EXPECT_TRUE(Cluster::down(dir));
  }
  void nft(const std::string& node, const std::string& rules) {
    auto out = test::shell("nsenter --net=" + cluster->paths().netns(node) + " nft '" + rules + "'");
    ASSERT_EQ(out.status, 0) << out.text;
  }
  std::string dir;
  std::optional<Cluster> cluster;
  std::vector<Guest> guests;
};

TEST_F(ProbeTest, MatricesSeeWhatPassesAndWhatDoesNot) {
  Matrix ping{"ping", 0, all_pairs(guests)};
  Matrix ssh{"ssh", 22, all_pairs(guests)};
  Matrix other{"other", 2222, all_pairs(guests)};
  ASSERT_EQ(ping.rows.size(), 4U) << "two directions, two families";
  ASSERT_TRUE(run_matrices(guests, {&ping, &ssh, &other}, {}));
  EXPECT_TRUE(ping.as_expected() && ssh.as_expected() && other.as_expected());
  for (auto& r : other.rows) r.expected = false;
  ASSERT_TRUE(run_matrices(guests, {&other}, {Millis(5000), Millis(300)}));
  EXPECT_FALSE(other.as_expected()) << "what passes against expectation is seen";

  nft("compute-2",
      "add table inet t; add chain inet t in { type filter hook input priority 0; }; "
      "add rule inet t in ip protocol icmp drop; add rule inet t in tcp dport 2222 drop; "
      "add rule inet t in tcp dport 22 ip saddr 0.0.0.0/0 reject with tcp reset");
  for (auto& r : ping.rows) r.expected = r.family == Family::v6;  // replies to compute-2 are dropped as well
  for (auto& r : other.rows) r.expected = guests[r.to].name == "compute-1";
  for (auto& r : ssh.rows) r.expected = guests[r.to].name == "compute-1" || r.family == Family::v6;
  ASSERT_TRUE(run_matrices(guests, {&ping, &ssh, &other}, {Millis(5000), Millis(600)}));
  EXPECT_TRUE(ping.as_expected());
  EXPECT_TRUE(ssh.as_expected());
  EXPECT_TRUE(other.as_expected());

  for (auto& r : ping.rows) r.expected = true;
  auto begin = Steady::now();
  ASSERT_TRUE(run_matrices(guests, {&ping}, {Millis(500), Millis(100)}));
  EXPECT_FALSE(ping.as_expected());
  EXPECT_LT(Steady::now() - begin, Millis(5000)) << "bounded";
}

TEST_F(ProbeTest, AGreetingFromTheWrongMachineDoesNotCount) {
  auto lie = guests;
  lie[1].name = "somebody-else";
  Matrix ssh{"ssh", 22, {{0, 1, Family::v4}}};
  ASSERT_TRUE(run_matrices(lie, {&ssh}, {Millis(700), Millis(100)}));
  EXPECT_FALSE(ssh.rows[0].got);
}

TEST_F(ProbeTest, SpoofedFramesAreSeenWhereNothingStopsThem) {
  std::vector<SpoofAttempt> attempts;
  for (Family family : {Family::v4, Family::v6}) {
    for (Spoof kind : {Spoof::none, Spoof::ip, Spoof::mac}) attempts.push_back({0, 1, 1, family, kind});
  }
  ASSERT_TRUE(run_spoofs(guests, attempts, {Millis(5000), Millis(400)}));
  for (const auto& a : attempts) EXPECT_GT(a.arrived, 0U) << static_cast<int>(a.kind);
  Findings f;
  f.guests = guests;
  f.spoof = attempts;
  EXPECT_FALSE(f.spoof_ok()) << "an open network must not look like a safe one";

  // The switch checks sources, as felix does at the tap.
  nft("fabric", fmt::format("add table bridge t; add chain bridge t f {{ type filter hook forward priority 0; }}; "
                            "add rule bridge t f iifname m-compute-1 ether saddr != {} drop; "
                            "add rule bridge t f iifname m-compute-1 ip saddr != {} drop; "
                            "add rule bridge t f iifname m-compute-1 ip6 saddr {} drop",
                            guests[0].mac, *guests[0].v4, *guests[1].v6));
  ASSERT_TRUE(run_spoofs(guests, attempts, {Millis(5000), Millis(400)}));
  for (const auto& a : attempts) {
    EXPECT_EQ(a.arrived > 0, a.kind == Spoof::none) << static_cast<int>(a.kind);
    EXPECT_GT(a.sent, 0U);
  }
  f.spoof = attempts;
  EXPECT_TRUE(f.spoof_ok());
}

TEST_F(ProbeTest, AStreamCountsWhatWasLost) {
  PingStream stream;
  ASSERT_TRUE(stream.start(guests[0], *guests[1].v4, Millis(5)));
  ASSERT_TRUE(wait_until("100 pings", Millis(30000), [&] { return stream.now().sent >= 100; }));
  nft("compute-2",
      "add table inet t; add chain inet t in { type filter hook input priority 0; }; add rule inet t in ip protocol "
      "icmp drop");
  auto before = stream.now().sent;
  ASSERT_TRUE(wait_until("100 more", Millis(30000), [&] { return stream.now().sent >= before + 100; }));
  nft("compute-2", "delete table inet t");
  before = stream.now().sent;
  ASSERT_TRUE(wait_until("100 more", Millis(30000), [&] { return stream.now().sent >= before + 100; }));
  auto r = stream.stop();
  EXPECT_GE(r.lost, 90U) << r.to_string();
  EXPECT_LE(r.lost, 250U) << r.to_string();
  EXPECT_GT(r.longest_gap_ms, 400) << r.to_string();
  PingStream quiet;
  ASSERT_TRUE(quiet.start(guests[0], *guests[1].v6, Millis(5)));
  ASSERT_TRUE(wait_until("100 pings", Millis(30000), [&] { return quiet.now().sent >= 100; }));
  EXPECT_EQ(quiet.stop().lost, 0U);
}

TEST(LabFrames, SynHasGoodChecksumsAndIsFoundAgain) {
  Mac a = *Mac::parse("fa:16:3e:00:00:01");
  Mac b = *Mac::parse("fa:16:3e:00:00:02");
  auto v4 = syn_frame(a, b, *Ip::parse("10.65.0.11"), *Ip::parse("10.65.0.12"), 40000, 22, 0xdeadbeef);
  auto v6 = syn_frame(a, b, *Ip::parse("fd65::11"), *Ip::parse("fd65::12"), 40000, 22, 0xdeadbeef);
  EXPECT_EQ(syn_sequence(v4, 22), 0xdeadbeefU);
  EXPECT_EQ(syn_sequence(v6, 22), 0xdeadbeefU);
  EXPECT_FALSE(syn_sequence(v4, 2222));
  for (const auto* frame : {&v4, &v6}) {
    for (std::size_t n = 0; n < frame->size(); ++n) EXPECT_FALSE(syn_sequence(std::span(*frame).first(n), 22)) << n;
  }
}

TEST(LabReport, SessionsAreReadFromWhatBirdPrints) {
  auto s = parse_sessions(
      "Name       Proto      Table      State  Since         Info\n"
      "device1    Device     ---        up     00:54:34.810  \n"
      "\n"
      "compute-1  BGP        ---        up     00:54:35.817  Established   \n"
      "  BGP state:          Established\n"
      "    Neighbor address: 192.168.0.11\n"
      "    Neighbor AS:      64512\n"
      "\n"
      "compute-2  BGP        ---        start  00:54:35.817  Active        Socket: Connection closed\n"
      "  BGP state:          Active\n"
      "    Neighbor address: fd65:CA11:c0:101::12\n");
  ASSERT_EQ(s.size(), 2U);
  EXPECT_EQ(s[0].peer, "192.168.0.11");
  EXPECT_EQ(s[0].state, "Established");
  EXPECT_EQ(s[1].peer, "fd65:ca11:c0:101::12");
  EXPECT_EQ(s[1].state, "Active");
}

TEST(LabReport, OneWrongCellFailsTheWhole) {
  Findings f;
  f.nodes = {{"controller-1", "controller", "192.168.0.2", true}};
  f.bgp = {{"controller-1", "compute-1", "Established"}};
  f.instances = {{"vm-1", "compute-1", "tapx", "m", "sg1", {"10.65.0.2"}, 12, 30},
                 {"vm-2", "compute-1", "tapy", "m", "sg1", {"10.65.0.3"}, 12, 30}};
  f.guests = {{"vm-1", -1, *Ip::parse("10.65.0.2"), {}, {}, {}}, {"vm-2", -1, *Ip::parse("10.65.0.3"), {}, {}, {}}};
  f.ping = {"Ping", 0, all_pairs(f.guests)};
  for (auto& r : f.ping.rows) r.got = true;
  f.ssh = f.refused = f.refused_control = f.ping;
  f.spoof = {{0, 1, 1, Family::v4, Spoof::none, 3, 3}, {0, 1, 1, Family::v4, Spoof::ip, 3, 0}};
  f.rule_change = {{"deleted", f.ping, 1}, {"added", f.ping, 1}};
  EXPECT_TRUE(f.ok());
  std::string text = to_json(f);
  for (const char* key :
       {"\"nodes\"", "\"bgp\"", "\"instances\"", "\"active_ms\"", "\"ping\"", "\"ssh\"", "\"refused\"", "\"spoof\"",
        "\"rule_change\"", "\"ok\":true", "\"seconds\"", "\"family\":4"}) {
    EXPECT_THAT(text, testing::HasSubstr(key));
  }
  auto broken = [&](auto&& edit) {
    Findings copy = f;
    edit(copy);
    return !copy.ok() && to_json(copy).find("\"ok\":false") != std::string::npos;
  };
  EXPECT_TRUE(broken([](Findings& x) { x.ping.rows[0].got = false; }));
  EXPECT_TRUE(broken([](Findings& x) { x.spoof[1].arrived = 1; }));
  EXPECT_TRUE(broken([](Findings& x) { x.spoof[0].arrived = 0; })) << "without its control a refusal proves nothing";
  EXPECT_TRUE(broken([](Findings& x) { x.spoof.clear(); }));
  EXPECT_TRUE(broken([](Findings& x) { x.refused_control.rows[0].got = false; }));
  EXPECT_TRUE(broken([](Findings& x) { x.bgp[0].state = "Active"; }));
  EXPECT_TRUE(broken([](Findings& x) { x.bgp.clear(); }));
  EXPECT_TRUE(broken([](Findings& x) { x.instances[1].active_ms = -1; }));
  EXPECT_TRUE(broken([](Findings& x) { x.rule_change.pop_back(); }));
  EXPECT_TRUE(broken([](Findings& x) { x.error = "stopped"; }));
  EXPECT_TRUE(broken([](Findings& x) { x.ssh.rows.clear(); }));
  Matrix m = f.ping;
  m.rows[0].got = false;
  EXPECT_THAT(matrix_table(f.guests, m), testing::HasSubstr("NOT AS EXPECTED"));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "lab") return lab_main(argc - 1, argv + 1);
  calico::log::init(calico::log::Level::error, calico::log::Format::text);
  testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
