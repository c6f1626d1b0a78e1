// Floating IPs on a real kernel: from outside, from the host, from another endpoint and from itself.
#include "tests/netns/felix/bench.hpp"

namespace calico::test {
namespace {

struct NatBench : Bench {
  Vm a{1}, c{2};
  const std::string fip = "172.18.0.12", fip6 = "fd18::12";
  NatBench() {
    out.run("ip route add 172.18.0.0/24 via 192.168.0.11; ip -6 route add fd18::/64 via fd00::11");
    group("open", Bench::kAll);
    group("web", Bench::tcp(80));
    for (auto* vm : {&a, &c}) plug(*vm);
    endpoint(a, {"open"});
  }
  void floating(const Vm& vm, const std::vector<std::string>& groups) {
    endpoint(vm, groups, [&](model::WorkloadEndpoint& w) {
      w.ip_nats = {{*Ip::parse(vm.ip), *Ip::parse(fip)}, {*Ip::parse(vm.ip6), *Ip::parse(fip6)}};
    });
  }
  std::string route_of(const std::string& ip) { return host.run("ip -N route show " + ip); }
};

/// The address a listener in `at` sees when `from` connects to `ip`; "" when nothing comes.
std::string seen_from(const Netns& from, const std::string& ip, const Netns& at, std::uint16_t port) {
  const bool v6 = is_v6(ip);
  const int fd = at.in([&] { return ::socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); });
  const int one = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (v6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
  sockaddr_storage s{};
  s.ss_family = v6 ? AF_INET6 : AF_INET;
  reinterpret_cast<sockaddr_in*>(&s)->sin_port = htons(port);  // the port is at the same place in both
  if (::bind(fd, reinterpret_cast<sockaddr*>(&s), v6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in)) != 0 ||
      ::listen(fd, 4) != 0)
    throw std::runtime_error("listen");
  std::string out;
  if (Sock client(from, SOCK_STREAM | SOCK_NONBLOCK, v6); client.connect(ip, port, 3000)) {
    sockaddr_storage peer{};
    socklen_t n = sizeof peer;
    pollfd p{fd, POLLIN, 0};
    const int got = ::poll(&p, 1, 30000) == 1 ? ::accept(fd, reinterpret_cast<sockaddr*>(&peer), &n) : -1;
    char text[64] = "";
    const void* at_in = v6 ? static_cast<const void*>(&reinterpret_cast<sockaddr_in6*>(&peer)->sin6_addr)
                           : &reinterpret_cast<sockaddr_in*>(&peer)->sin_addr;
    if (got >= 0) out = inet_ntop(peer.ss_family, at_in, text, sizeof text);
    ::close(got);
  }
  ::close(fd);
  return out;
}

TEST(FelixNat, FloatingIpsLeadToTheirEndpoint) {
  NEEDS_NETNS();
  NatBench b;
  b.endpoint(b.c, {"web"});
  ASSERT_NO_FATAL_FAILURE(b.start({&b.a, &b.c}));
  auto l81 = listener(b.c.ns, 81), l81_6 = listener(b.c.ns, 81, true);
  {
    auto l80 = listener(b.c.ns, 80);
    EXPECT_TRUE(reaches(b.out, b.c.ip, 80)) << "positive control";
    EXPECT_TRUE(refused(b.out, b.fip, 80)) << "not its address yet";
  }
  b.floating(b.c, {"web"});
  ASSERT_TRUE(eventually("route", [&] { return !b.route_of(b.fip).empty(); }));
  ASSERT_TRUE(b.up(b.c));
  EXPECT_NE(b.route_of(b.fip).find("dev " + b.c.tap + " proto 88 scope 253"), std::string::npos) << b.route_of(b.fip);
  EXPECT_NE(b.host.run("ip -N -6 route show " + b.fip6).find("dev " + b.c.tap + " proto 88"), std::string::npos);

  for (const bool v6 : {false, true}) {
    const auto& fip = v6 ? b.fip6 : b.fip;
    // The source stays what it is, but for the endpoint that calls itself.
    EXPECT_EQ(seen_from(b.out, fip, b.c.ns, 80), v6 ? "fd00::2" : "192.168.0.2");
    EXPECT_EQ(seen_from(b.a.ns, fip, b.c.ns, 80), v6 ? b.a.ip6 : b.a.ip) << "from the same host";
    EXPECT_EQ(seen_from(b.c.ns, fip, b.c.ns, 80), fip) << "from itself";
    EXPECT_EQ(seen_from(b.host, fip, b.c.ns, 80), v6 ? "fd00::11" : "192.168.0.11") << "from the host";
    // Its policy is asked about the address inside: 81 listens, and is refused.
    EXPECT_TRUE(reaches(b.host, fip, 81)) << "positive control: the host is not judged";
    EXPECT_TRUE(refused(b.out, fip, 81));
    EXPECT_TRUE(refused(b.a.ns, fip, 81));
    EXPECT_TRUE(refused(b.c.ns, fip, 81)) << "also from itself";
  }
  // The address inside goes on, in both directions.
  auto l80 = listener(b.c.ns, 80);
  EXPECT_TRUE(reaches(b.out, b.c.ip, 80));
  EXPECT_EQ(seen_from(b.c.ns, "192.168.0.2", b.out, 8080), b.c.ip) << "what it calls sees its fixed address";

  // No source is a floating IP: what claims it is dropped, its own address passes.
  b.c.ns.run("ip addr add " + b.fip + "/32 dev eth0; ip -6 addr add " + b.fip6 + "/128 dev eth0 nodad");
  for (const bool v6 : {false, true}) {
    Sock sink(b.out, SOCK_DGRAM, v6);
    sink.bind(v6 ? "::" : "0.0.0.0", 7000);
    for (const auto& [from, text] :
         {std::pair(v6 ? b.fip6 : b.fip, "floating"), std::pair(v6 ? b.c.ip6 : b.c.ip, "own")}) {
      Sock s(b.c.ns, SOCK_DGRAM, v6);
      s.bind(from, 0).send(text, v6 ? "fd00::2" : "192.168.0.2", 7000);
    }
    EXPECT_EQ(sink.receive(), "own");
  }
  b.c.ns.run("ip addr del " + b.fip + "/32 dev eth0; ip -6 addr del " + b.fip6 + "/128 dev eth0");

  // A restart writes nothing.
  const auto before = b.kernel(false);
  EXPECT_NE(before.find("172.18.0.12 : 10.65.0.12"), std::string::npos) << before;
  b.stop();
  EXPECT_TRUE(reaches(b.out, b.fip, 80)) << "without us as well";
  ASSERT_NO_FATAL_FAILURE(b.start());
  ASSERT_TRUE(eventually("settled", [&] { return b.report.is_settled(model::endpoint_status_prefix("", "h")); }));
  ASSERT_TRUE(b.up(b.c));
  EXPECT_EQ(b.kernel(false), before);
  const auto d = b.described();
  EXPECT_LE(d.at("nft").at("operations").to_number<int>(), 2) << "at most the adoption of the tables";
  EXPECT_EQ(d.at("rtnetlink_writes").to_number<int>(), 0);

  // Taken away.
  b.endpoint(b.c, {"web"});
  ASSERT_TRUE(eventually("no route", [&] { return b.route_of(b.fip).empty(); }));
  ASSERT_TRUE(eventually(
      "no element", [&] { return b.host.run("nft list map inet calico fip6").find("elem") == std::string::npos; }));
  EXPECT_TRUE(refused(b.out, b.fip, 80));
  EXPECT_TRUE(refused(b.c.ns, b.fip, 80));
  EXPECT_TRUE(refused(b.out, b.fip6, 80));
  EXPECT_TRUE(reaches(b.out, b.c.ip, 80));
  EXPECT_EQ(b.host.run("ip -6 route show " + b.fip6), "");
}

TEST(FelixNat, OneFloatingIpOfTwoEndpoints) {
  NEEDS_NETNS();
  NatBench b;
  b.floating(b.c, {"open"});
  ASSERT_NO_FATAL_FAILURE(b.start({&b.c}));
  const auto leads_to = [&](const Vm& vm) {
    return eventually(b.fip + " at " + vm.tap, [&] {
      return b.route_of(b.fip).find("dev " + vm.tap + " ") != std::string::npos &&
             seen_from(b.out, b.fip, vm.ns, 80) == "192.168.0.2";
    });
  };
  EXPECT_TRUE(leads_to(b.c));
  b.floating(b.a, {"open"});
  EXPECT_TRUE(leads_to(b.a)) << "the lowest key";
  ASSERT_TRUE(b.up(b.a));
  EXPECT_TRUE(b.up(b.c)) << "it works but for that address";
  const auto d = b.described(b.c);
  EXPECT_NE(serialize(d.at("notes")).find("floating IP 172.18.0.12 belongs to endpoint " + b.a.port), std::string::npos)
      << d;
  EXPECT_EQ(serialize(b.described(b.a).at("floating_ips")),
            R"([{"external":"172.18.0.12","internal":"10.65.0.11"},{"external":"fd18::12","internal":"fd65::11"}])");
  b.gone(b.a);
  EXPECT_TRUE(leads_to(b.c));
  EXPECT_EQ(serialize(b.described(b.c).at("notes")), "[]");
}

TEST(FelixNat, AnAddressOfANodeStaysTheNodes) {
  NEEDS_NETNS();
  NatBench b;
  b.endpoint(b.c, {"open"}, [&](model::WorkloadEndpoint& w) {
    for (const auto* x : {"192.168.0.2", "192.168.0.11", "10.65.0.1", "10.65.0.11"})
      w.ip_nats.push_back({*Ip::parse(b.c.ip), *Ip::parse(x)});
  });
  ASSERT_NO_FATAL_FAILURE(b.start({&b.c, &b.a}));
  EXPECT_EQ(b.described(b.c).at("notes").as_array().size(), 4U) << b.described(b.c);
  EXPECT_EQ(seen_from(b.out, "192.168.0.11", b.host, 8080), "192.168.0.2");
  EXPECT_EQ(seen_from(b.out, b.a.ip, b.a.ns, 8080), "192.168.0.2");
  EXPECT_EQ(seen_from(b.a.ns, "192.168.0.2", b.out, 8080), b.a.ip);
}

}  // namespace
}  // namespace calico::test
