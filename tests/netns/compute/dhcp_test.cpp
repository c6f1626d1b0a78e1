// DHCP for real: our dnsmasq in a host namespace, a DHCP client in a machine's namespace behind a tap.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>

#include "modules/compute/dhcp.hpp"
#include "tests/support/fake_view.hpp"
#include "tests/support/netns.hpp"
#include "tests/support/wait.hpp"

namespace calico::compute {
namespace {

using test::eventually;
using test::Netns;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kSubnetPrefix = "/calico/dhcp/v2/no-region/subnet/";
constexpr const char* kEndpoints = "/calico/resources/v3/projectcalico.org/workloadendpoints/openstack/";

std::string wep(const std::string& mac, const std::string& tap, const std::string& ips) {
  return fmt::format(
      R"({{"kind":"WorkloadEndpoint","metadata":{{"annotations":{{"openstack.projectcalico.org/network-id":"n"}}}},)"
      R"("spec":{{"endpoint":"{}","interfaceName":"{}","mac":"{}","ipNetworks":[{}],"allowedIps":[]}}}})",
      tap.substr(3), tap, mac, ips);
}

class DhcpTest : public testing::Test {
 protected:
  void SetUp() override {
    NEEDS_NETNS();
    if (!std::filesystem::exists("/usr/sbin/dnsmasq")) GTEST_SKIP() << "SKIPPED, dnsmasq is not installed";
    if (!std::filesystem::exists("/usr/sbin/dhcpcd")) GTEST_SKIP() << "SKIPPED, dhcpcd is not installed";
    dir_ = std::filesystem::temp_directory_path() / fmt::format("calico-dhcp-{}", getpid());
    host_ = std::make_unique<Netns>("host");
    vm_ = std::make_unique<Netns>("vm");
    vm_->run("sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0");
    host_->run("sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0");
    host_->run(fmt::format("ip link add tapa type veth peer name eth0 netns {}", vm_->name()));
    host_->run("ip link set tapa up");
    vm_->run("ip link set eth0 address fa:16:3e:00:00:0a up");
    view_.set(
        std::string(kSubnetPrefix) + "s4",
        R"({"network_id":"n","cidr":"10.65.0.0/24","host_routes":[],"gateway_ip":"10.65.0.1","dns_servers":["9.9.9.9"]})");
  }
  void TearDown() override {
    if (dhcp_) dhcp_->stop();
    vm_.reset();
    host_.reset();
    std::error_code ec;
    if (!dir_.empty()) std::filesystem::remove_all(dir_, ec);
  }

  void start() {
    Dhcp::Options options;
    options.node = "host-1";
    options.directory = dir_.string();
    Dhcp::Hooks hooks;
    hooks.ready = [this] { ready_ = true; };
    dhcp_ = std::make_unique<Dhcp>(options, view_, hooks);
    const auto ok = host_->in([this] { return dhcp_->start(); });
    ASSERT_TRUE(ok) << ok.error().what;
    ASSERT_TRUE(eventually("ready", [&] { return ready_.load(); }));
  }
  std::string describe() { return dhcp_->describe(); }

  /// One DHCP exchange; the output of the client.
  std::string lease(const std::string& family = "-4") {
    // A mount namespace of its own: the client keeps leases and sockets at fixed places.
    auto out = vm_->try_run(fmt::format(
        "unshare -m sh -c \"mount -t tmpfs none /var/lib/dhcpcd; mount -t tmpfs none /run; exec timeout 30 dhcpcd {} "
        "--oneshot --nobackground --noarp --timeout 25 --config /dev/null --script /bin/true eth0\"",
        family));
    return out.text + vm_->run("ip addr show eth0; ip route; ip -6 route");
  }

  std::filesystem::path dir_;
  test::FakeView view_;
  std::unique_ptr<Netns> host_, vm_;
  std::unique_ptr<Dhcp> dhcp_;
  std::atomic<bool> ready_{false};
};

TEST_F(DhcpTest, AMachineGetsItsAddressRouteAndNothingElse) {
  ASSERT_NO_FATAL_FAILURE(start());
  view_.set(std::string(kEndpoints) + "host--1-openstack-d-p", wep("fa:16:3e:00:00:0a", "tapa", R"("10.65.0.10/32")"));
  view_.set(std::string(kEndpoints) + "host--2-openstack-d-q", wep("fa:16:3e:00:00:0b", "tapb", R"("10.65.0.11/32")"));
  ASSERT_TRUE(eventually("one port served", [&] { return describe().find(R"("ports":1)") != std::string::npos; }));
  const auto got = lease();
  EXPECT_THAT(got, HasSubstr("inet 10.65.0.10/24"));
  EXPECT_THAT(got, HasSubstr("default via 10.65.0.1"));
  // The gateway's address brings no route of the subnet and is no address of the host's own.
  const auto routes = host_->run("ip route");
  EXPECT_THAT(routes, Not(HasSubstr("10.65.0.0/24")));
  EXPECT_THAT(host_->run("ip addr show ns-calico-dhcp"), HasSubstr("inet 10.65.0.1/24 scope link"));
}

TEST_F(DhcpTest, IPv6StatefulAddressAndDefaultRoute) {
  view_.set(
      std::string(kSubnetPrefix) + "s6",
      R"({"network_id":"n","cidr":"fd65::/64","host_routes":[],"gateway_ip":"fd65::1","ipv6_ra_mode":"dhcpv6-stateful","ipv6_address_mode":"dhcpv6-stateful"})");
  view_.set(std::string(kEndpoints) + "host--1-openstack-d-p",
            wep("fa:16:3e:00:00:0a", "tapa", R"("10.65.0.10/32","fd65::a/128")"));
  ASSERT_NO_FATAL_FAILURE(start());
  const auto got = lease("-6");
  EXPECT_THAT(got, HasSubstr("inet6 fd65::a/128"));
  EXPECT_THAT(got, HasSubstr("default via fe80"));
}

TEST_F(DhcpTest, AnAddressChangesHandsAndADeadServerComesBack) {
  const auto key = std::string(kEndpoints) + "host--1-openstack-d-p";
  view_.set(key, wep("fa:16:3e:00:00:0a", "tapa", R"("10.65.0.10/32")"));
  ASSERT_NO_FATAL_FAILURE(start());
  ASSERT_THAT(lease(), HasSubstr("inet 10.65.0.10/24"));
  // The same address for another machine: dnsmasq must have forgotten the first one.
  view_.set(key, wep("fa:16:3e:00:00:0c", "tapa", R"("10.65.0.10/32")"));
  vm_->run("ip addr flush dev eth0; ip link set eth0 down; ip link set eth0 address fa:16:3e:00:00:0c up");
  ASSERT_TRUE(eventually("restarted", [&] { return describe().find(R"("starts":2)") != std::string::npos; }));
  EXPECT_THAT(lease(), HasSubstr("inet 10.65.0.10/24"));

  pid_t pid = 0;
  ASSERT_TRUE(eventually("a pid file", [&] {
    std::ifstream(dir_ / "dnsmasq.pid") >> pid;
    return pid > 0;
  }));
  ::kill(pid, SIGKILL);
  ASSERT_TRUE(eventually("started again", [&] { return describe().find(R"("starts":3)") != std::string::npos; }));
  EXPECT_THAT(lease(), HasSubstr("inet 10.65.0.10/24"));
}

// dnsmasq 2.90 crashes on SIGHUP over a tagged host with a lease, and dies of a SIGHUP that comes before it is up.
TEST_F(DhcpTest, MachinesComeAndGoUnderOneServer) {
  const auto key = std::string(kEndpoints) + "host--1-openstack-d-p";
  view_.set(key, wep("fa:16:3e:00:00:0a", "tapa", R"("10.65.0.10/32")"));
  ASSERT_NO_FATAL_FAILURE(start());
  view_.set(std::string(kEndpoints) + "host--1-openstack-d-q", wep("fa:16:3e:00:00:0b", "tapb", R"("10.65.0.11/32")"));
  ASSERT_THAT(lease(), HasSubstr("inet 10.65.0.10/24"));
  const auto other = std::string(kEndpoints) + "host--1-openstack-d-r";
  for (int i = 0; i < 5; ++i) {
    view_.set(other, wep("fa:16:3e:00:00:0c", "tapc", R"("10.65.0.12/32")"));
    ASSERT_TRUE(eventually("three", [&] { return describe().find(R"("ports":3)") != std::string::npos; }));
    view_.set(other, std::nullopt);
    ASSERT_TRUE(eventually("two", [&] { return describe().find(R"("ports":2)") != std::string::npos; }));
  }
  vm_->run("ip addr flush dev eth0");
  EXPECT_THAT(lease(), HasSubstr("inet 10.65.0.10/24"));
  EXPECT_THAT(describe(), HasSubstr(R"("starts":1,)"));
}

TEST_F(DhcpTest, AStrayOfAnEarlierLifeIsEnded) {
  view_.set(std::string(kEndpoints) + "host--1-openstack-d-p", wep("fa:16:3e:00:00:0a", "tapa", R"("10.65.0.10/32")"));
  std::filesystem::create_directories(dir_);
  std::ofstream(dir_ / "dnsmasq.conf") << "port=0\npid-file=" << (dir_ / "dnsmasq.pid").string() << "\n";
  auto stray = host_->spawn(fmt::format("exec /usr/sbin/dnsmasq -k --conf-file={}/dnsmasq.conf", dir_.string()));
  ASSERT_TRUE(eventually("the stray's pid file", [&] { return std::filesystem::exists(dir_ / "dnsmasq.pid"); }));
  ASSERT_NO_FATAL_FAILURE(start());
  EXPECT_EQ(stray.wait(), 0) << "the stray was not asked to end";
  EXPECT_THAT(lease(), HasSubstr("inet 10.65.0.10/24"));
}

}  // namespace
}  // namespace calico::compute
