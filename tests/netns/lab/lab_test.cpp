// The lab's own ground: what `up` makes, `down` removes, whatever happened in between. The program is also its own
// `calico-node`: the lab starts it again for its listeners and this test for its commands.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <signal.h>
#include <sys/wait.h>

#include <fstream>

#include "core/log/log.hpp"
#include "modules/lab/cluster.hpp"
#include "modules/lab/command.hpp"
#include "tests/support/netns.hpp"
#include "tests/support/wait.hpp"

using namespace calico;
using namespace calico::lab;

namespace {

int mounts_below(const std::string& dir) {
  std::ifstream in("/proc/self/mountinfo");
  int n = 0;
  for (std::string line; std::getline(in, line);) n += line.find(" " + dir + "/") != std::string::npos;
  return n;
}

std::vector<std::string> host_links() {
  std::vector<std::string> out;
  auto* all = ::if_nameindex();
  for (auto* i = all; i->if_index != 0; ++i) out.emplace_back(i->if_name);
  ::if_freenameindex(all);
  return out;
}

bool exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

struct LabTest : testing::Test {
  void SetUp() override {
    links = host_links();
    options.name = fmt::format("t{}", ::getpid());
    options.network_only = true;
    options.computes = 2;
    dir = Cluster::dir_of(options);
  }
  void TearDown() override {
    EXPECT_TRUE(Cluster::down(dir));
    EXPECT_FALSE(exists(dir));
    EXPECT_EQ(mounts_below(dir), 0);
    EXPECT_EQ(host_links(), links) << "the host's own links must stay as they are";
  }
  // A command line of ours in a process of its own.
  pid_t start(const std::string& words) {
    pid_t pid = ::fork();
    if (pid == 0) {
      std::string all = "exec " + *self_path() + " lab --dir " + dir + " --name " + options.name + " " + words;
      ::execl("/bin/sh", "sh", "-c", all.c_str(), nullptr);
      ::_exit(127);
    }
    return pid;
  }
  test::Output run(const std::string& words, const std::string& after = "") {
    return test::shell(*self_path() + " lab --dir " + dir + " --name " + options.name + " " + words + after);
  }
  Options options;
  std::string dir;
  std::vector<std::string> links;
};

TEST_F(LabTest, UpMakesAConnectedClusterAndDownLeavesNothing) {
  NEEDS_NETNS();
  auto up = run("up --network-only --computes 2");
  ASSERT_EQ(up.status, 0) << up.text;
  EXPECT_THAT(run("status").text, testing::AllOf(testing::HasSubstr("compute-2"), testing::HasSubstr("192.168.0.12")));
  EXPECT_EQ(run("exec compute-1", " -- ping -c1 -W2 192.168.0.2").status, 0);
  EXPECT_EQ(run("exec compute-1", " -- ping -c1 -W2 172.18.203.1").status, 0);
  EXPECT_EQ(run("exec rr-2", " -- ping -c1 -W2 fd65:ca11:c0:101::12").status, 0);
  EXPECT_NE(run("exec compute-1", " -- ping -c1 -W1 192.168.0.99").status, 0) << "the control: nobody lives there";
  EXPECT_EQ(run("exec compute-2", " -- hostname").text, "compute-2\n");
  EXPECT_NE(run("exec nobody", " -- true").status, 0);
  auto again = run("up --network-only");
  EXPECT_EQ(again.status, 2);
  EXPECT_THAT(again.text, testing::HasSubstr("is there already"));
  auto ns = open_netns(Paths{dir}.netns("compute-1"));
  ASSERT_TRUE(ns);
  pid_t stray = start("exec compute-1 -- sleep 600");  // somebody's process in a node goes with the node
  ASSERT_TRUE(test::eventually("the stray process", [&] { return !processes_in({ns->get()}).empty(); }));
  EXPECT_EQ(run("down").status, 0);
  int status = 0;
  ASSERT_EQ(::waitpid(stray, &status, 0), stray);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_FALSE(exists(dir));
  EXPECT_EQ(run("down").status, 0) << "down is idempotent";
}

TEST_F(LabTest, TwoLabsStandSideBySide) {
  NEEDS_NETNS();
  auto first = Cluster::create(options);
  ASSERT_TRUE(first) << first.error().what;
  ASSERT_TRUE(first->build());
  Options other = options;
  other.name += "b";
  auto second = Cluster::create(other);
  ASSERT_TRUE(second) << second.error().what;
  ASSERT_TRUE(second->build());
  EXPECT_TRUE(exists(first->paths().netns("compute-1")));
  std::string other_dir = second->paths().dir;
  second = fail(Errc::closed, "done");
  EXPECT_TRUE(Cluster::down(other_dir));
  EXPECT_FALSE(exists(other_dir));
  auto w = first->wire("compute-1");
  ASSERT_TRUE(w);
  EXPECT_TRUE((*w)->index_of("eth0")) << "the first lab stands";
}

TEST_F(LabTest, DownAfterTheMakerWasKilledAtAnyMoment) {
  NEEDS_NETNS();
  for (int wanted = 0; wanted <= 6; ++wanted) {
    pid_t up = start("up --network-only --computes 2 >/dev/null 2>&1");
    std::string probe =
        wanted == 0
            ? dir
            : Paths{dir}.netns(std::vector<std::string>{"", "fabric", "controller-1", "rr-2", "compute-1", "compute-2",
                                                        "border"}[static_cast<std::size_t>(wanted)]);
    ASSERT_TRUE(test::eventually(probe, [&] { return exists(probe); }));
    ::kill(up, SIGKILL);
    ::waitpid(up, nullptr, 0);
    auto s = Cluster::down(dir);
    EXPECT_TRUE(s) << s.error().what;
    EXPECT_FALSE(exists(dir)) << wanted;
    EXPECT_EQ(mounts_below(dir), 0) << wanted;
  }
}

TEST_F(LabTest, InterruptedUpCleansUpItself) {
  NEEDS_NETNS();
  pid_t up = start("up --network-only --computes 20 >/dev/null 2>&1");
  ASSERT_TRUE(test::eventually("compute-2", [&] { return exists(Paths{dir}.netns("compute-2")); }));
  ::kill(up, SIGINT);
  int status = 0;
  ASSERT_EQ(::waitpid(up, &status, 0), up);
  EXPECT_EQ(WEXITSTATUS(status), 130);
  EXPECT_FALSE(exists(dir));
}

TEST_F(LabTest, ADirectoryOfSomebodyElseIsNeverTouched) {
  std::string other = fmt::format("/tmp/calico-lab-test-{}", ::getpid());
  ASSERT_TRUE(make_dirs(other));
  ASSERT_TRUE(write_file(other + "/lab.lock", ""));
  ASSERT_TRUE(write_file(other + "/precious", "x"));
  auto s = Cluster::down(other);
  ASSERT_FALSE(s);
  EXPECT_THAT(s.error().what, testing::HasSubstr("precious"));
  EXPECT_TRUE(exists(other + "/precious"));
  Options o = options;
  o.dir = other;
  EXPECT_FALSE(Cluster::create(o));
  EXPECT_TRUE(exists(other + "/precious"));
  ASSERT_TRUE(remove_tree(other));
}

TEST_F(LabTest, BadOptionsAreRefused) {
  for (const char* words :
       {"up --computes x", "up --computes 61", "up --reflectors 0", "up --bogus", "sideways", "up --name"}) {
    EXPECT_EQ(test::shell(*self_path() + " lab " + words).status, 2) << words;
  }
  EXPECT_EQ(test::shell(*self_path() + " lab up --name UPPER").status, 2);
}

// A machine gets its address from a real server by a real client, and greets on its ports.
TEST_F(LabTest, AMachineBootsAndIsServedByDhcp) {
  NEEDS_NETNS();
  options.ipv6 = true;
  auto c = Cluster::create(options);
  ASSERT_TRUE(c) << c.error().what;
  ASSERT_TRUE(c->build());
  for (const auto& n : c->record().nodes) ASSERT_TRUE(make_dirs(c->paths().node(n.name) + "/run"));
  Vm vm;
  vm.name = "vm-1";
  auto booted = c->boot_vm(vm);
  ASSERT_TRUE(booted) << booted.error().what;
  EXPECT_FALSE(c->boot_vm(vm)) << "a name is given once";

  // What the compute's agents would do: gateway, routes, dnsmasq.
  auto ns = c->netns("compute-1");
  auto w = c->wire("compute-1");
  ASSERT_TRUE(ns && w);
  ASSERT_TRUE((*w)->add_bridge("gw"));
  ASSERT_TRUE((*w)->add_address("gw", *Prefix::parse("10.65.0.1/32")));
  Prefix gw4{*Ip::parse("10.65.0.1"), 24};
  Prefix gw6{*Ip::parse("fd65::1"), 64};
  ASSERT_TRUE((*w)->add_address("gw", gw4));
  ASSERT_TRUE((*w)->add_address("gw", gw6));
  vm.compute = "compute-1";
  vm.port_id = "3f1c9a52-6d0e-4b7a-9c11-8e2f7a4d5b60";
  vm.mac = "fa:16:3e:4d:5b:60";
  vm.ips = {"10.65.0.24", "fd65::24"};
  const std::string d = c->paths().node("compute-1");
  ASSERT_TRUE(write_file(d + "/hosts", "fa:16:3e:4d:5b:60,h,10.65.0.24\nfa:16:3e:4d:5b:60,h,[fd65::24]\n"));
  SpawnSpec spec;
  spec.argv = {"/usr/sbin/dnsmasq",
               "--keep-in-foreground",
               "--no-hosts",
               "--no-resolv",
               "--conf-file=",
               "--port=0",
               "--pid-file=" + d + "/dnsmasq.pid",
               "--dhcp-hostsfile=" + d + "/hosts",
               "--dhcp-leasefile=" + d + "/leases",
               "--bind-dynamic",
               "--interface=gw",
               "--interface=tap*",
               "--bridge-interface=gw,tap*",
               "--user=root",
               "--dhcp-range=10.65.0.0,static,255.255.255.0,86400s",
               "--dhcp-range=fd65::,static,off-link,64,86400s",
               "--enable-ra",
               "--dhcp-option=option:router,10.65.0.1"};
  spec.environment = Cluster::environment();
  spec.netns = *ns;
  spec.view = Cluster::view_of(c->paths(), c->record(), "compute-1");
  auto dnsmasq = spawn(spec);
  ASSERT_TRUE(dnsmasq && dnsmasq->release());

  auto plugged = c->plug_vm(vm);
  ASSERT_TRUE(plugged) << plugged.error().what;
  auto begin = Steady::now();
  ASSERT_TRUE(c->run_vm("vm-1"));
  auto got = c->wait_addresses("vm-1", Millis(30000));
  ASSERT_TRUE(got) << got.error().what;
  RecordProperty("dhcp_ms", static_cast<int>(std::chrono::duration_cast<Millis>(Steady::now() - begin).count()));
  auto guest = c->wire("vm-1");
  EXPECT_EQ((*guest)->mac_of("eth0")->to_string(), vm.mac);
  auto exec = [&](const std::string& cmd) { return run("exec vm-1", " -- bash -c '" + cmd + "'").text; };
  EXPECT_EQ(exec("cat < /dev/tcp/127.0.0.1/22; cat < /dev/tcp/10.65.0.24/2222"),
            "SSH-2.0-calico_lab vm-1\r\nSSH-2.0-calico_lab vm-1\r\n");
  EXPECT_THAT(test::shell("cat /proc/mounts").text, testing::Not(testing::HasSubstr("/var/lib/dhcpcd")));
  EXPECT_TRUE(exists(c->paths().vm("vm-1") + "/run/dhcpcd")) << "the client's files stay inside the VM";
  if (std::getenv("CALICO_TEST_LOG")) std::puts(read_file(c->paths().vm("vm-1") + "/dhcp.log")->c_str());
  auto removed = c->remove_vm("vm-1");
  EXPECT_TRUE(removed) << removed.error().what;
  EXPECT_FALSE((*w)->index_of("tap3f1c9a52-6d"));
  EXPECT_TRUE(c->record().vms.empty());
  c = fail(Errc::closed, "done");
}

TEST(LabPlan, NamesAndAddresses) {
  Options o;
  o.computes = 60;
  o.reflectors = 8;
  auto r = make_plan(o);
  std::set<Ip> seen;
  for (const auto& n : r.nodes) {
    EXPECT_TRUE(check_name(n.name)) << n.name;
    EXPECT_LE(("m-" + n.name).size(), 15U) << n.name;
    for (const auto& ip : {n.mgmt4, n.mgmt6, n.public4, n.public6})
      EXPECT_TRUE(seen.insert(ip).second) << ip.to_string();
  }
  auto back = Record::from_json(r.to_json());
  ASSERT_TRUE(back);
  EXPECT_EQ(back->to_json(), r.to_json());
  EXPECT_EQ(r.controller().mgmt4.to_string(), "192.168.0.2");
  EXPECT_FALSE(Record::from_json("{"));
  EXPECT_FALSE(Record::from_json("{\"version\":1}"));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "lab") return lab_main(argc - 1, argv + 1);
  calico::log::init(calico::log::Level::error, calico::log::Format::text);
  testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
