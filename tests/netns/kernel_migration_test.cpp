// A VM moves between two hosts with Calico's metrics; real engines, kernels and sessions through a reflector, a third
// host watches.
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_future.hpp>
#include <set>

#include "core/netlink/monitor.hpp"
#include "tests/netns/kernel_bgp_fixture.hpp"

namespace calico::bgp {
namespace {

/// One host: a namespace, a loop inside it, engine and kernel side.
struct Host {
  Host(int number, const test::Netns& wire)
      : ns("h" + std::to_string(number)), n(number), loop("bgp-" + std::to_string(number)) {
    const std::string port = "p" + std::to_string(number);
    test::veth(ns, "eth0", wire, port);
    wire.run("ip link set " + port + " master br0");
    ns.run(fmt::format("ip addr add 192.168.0.{}/24 dev eth0; ip link add tap1 type bridge; ip link set tap1 up", n));
  }
  Ip address() const { return Ip::v4(0xc0a80000U + static_cast<std::uint32_t>(n)); }
  void start() {
    loop.start();
    loop.call([this] {
      ns.enter();
      Options o;
      o.router_id = address();
      o.listen = {{address(), 179}};
      engine.emplace(loop, o);
      auto opened = KernelBgp::open(loop, {});
      if (!opened) throw std::runtime_error(opened.error().what);
      kernel = std::move(*opened);
      engine->set_fib_sink(kernel.get());
      engine->set_next_hop_resolver(kernel.get());
      if (auto st = engine->start(); !st) throw std::runtime_error(st.error().what);
      kernel->start(hooks_of(*engine));
    });
  }
  void peer_with(const std::vector<Host*>& others, bool clients = false) {
    loop.call([&] {
      std::vector<PeerConfig> peers;
      for (const auto* o : others) {
        PeerConfig p;
        p.name = "h" + std::to_string(o->n);
        p.address = o->address();
        p.local_address = address();
        p.route_reflector_client = clients;
        peers.push_back(p);
      }
      if (auto st = engine->set_peers(peers, {}); !st) throw std::runtime_error(st.error().what);
    });
  }
  void stop() {
    loop.call([this] { kernel->stop(); });
    boost::asio::co_spawn(
        loop.io(), [this]() -> awaitable<void> { co_await engine->stop(true); }, boost::asio::use_future)
        .get();
    loop.call([this] {
      engine.reset();
      kernel.reset();
    });
    loop.stop();
  }
  std::string routes(const char* dst) const {
    return KernelBgpTest::plain(ns.run(std::string("ip route show ") + dst));
  }
  test::Netns ns;
  int n;
  Loop loop;
  std::optional<Engine> engine;
  std::unique_ptr<KernelBgp> kernel;
};

TEST(KernelMigration, TheThirdHostFollowsAndIsNeverWithoutARoute) {
  NEEDS_NETNS();
  test::Netns wire("wire");
  wire.run("ip link add br0 type bridge; ip link set br0 up");
  Host a(1, wire), b(2, wire), c(3, wire), reflector(4, wire);
  for (auto* host : {&a, &b, &c, &reflector}) host->start();
  for (auto* host : {&a, &b, &c}) host->peer_with({&reflector});
  reflector.peer_with({&a, &b, &c}, true);
  const char* vm = "10.65.0.2";
  a.ns.run("ip route add 10.65.0.2 dev tap1 proto 88 metric 1024");
  auto shows = [&](Host& h, const std::string& what) {
    return eventually(fmt::format("'{}' at host {}", what, h.n),
                      [&] { return h.routes(vm).find(what) != std::string::npos; });
  };
  ASSERT_TRUE(shows(c, "via 192.168.0.1 dev eth0 proto 89 metric 2048"));
  ASSERT_TRUE(shows(b, "via 192.168.0.1"));

  // What c's kernel says from here on: never a moment without a route to the VM.
  std::set<std::uint32_t> metrics{2048};
  std::size_t fewest = 1, changes = 0;
  netlink::MonitorHandlers h;
  h.on_route = [&](const netlink::Route& r, bool gone) {
    if (r.dst != *Prefix::parse(vm)) return;
    ++changes;
    gone ? (void)metrics.erase(r.metric) : (void)metrics.insert(r.metric);
    fewest = std::min(fewest, metrics.size());
  };
  Loop watcher("watch");
  auto monitor = c.ns.in([&] { return netlink::Monitor::open(watcher.executor(), netlink::Monitor::kRoutes4, h); });
  ASSERT_TRUE(monitor);
  watcher.start();
  watcher.call([&] { monitor->start(); });

  // The VM runs at b: felix there gives it the better metric, while a still has its own.
  b.ns.run("ip route replace 10.65.0.2 dev tap1 proto 88 metric 512");
  EXPECT_TRUE(shows(c, "via 192.168.0.2 dev eth0 proto 89 metric 512"));
  EXPECT_TRUE(eventually("one route at c", [&] { return c.routes(vm).find("192.168.0.1") == std::string::npos; }));
  EXPECT_TRUE(shows(a, "via 192.168.0.2 dev eth0 proto 89 metric 512"));
  EXPECT_THAT(a.routes(vm), HasSubstr("dev tap1 proto 88")) << "still there, and beaten";
  EXPECT_THAT(a.ns.run("ip route get 10.65.0.2"), HasSubstr("via 192.168.0.2"));
  EXPECT_THAT(b.ns.run("ip route get 10.65.0.2"), HasSubstr("dev tap1"));

  // a lets go, b becomes normal.
  a.ns.run("ip route del 10.65.0.2 metric 1024 proto 88");
  b.ns.run("ip route add 10.65.0.2 dev tap1 proto 88 metric 1024; ip route del 10.65.0.2 metric 512 proto 88");
  EXPECT_TRUE(shows(c, "via 192.168.0.2 dev eth0 proto 89 metric 2048"));
  EXPECT_TRUE(shows(a, "via 192.168.0.2 dev eth0 proto 89 metric 2048"));
  EXPECT_TRUE(
      eventually("the better metric to go", [&] { return c.routes(vm).find("metric 512") == std::string::npos; }));
  EXPECT_TRUE(
      eventually("the news", [&] { return watcher.call([&] { return metrics == std::set<std::uint32_t>{2048}; }); }));
  EXPECT_GE(watcher.call([&] { return changes; }), 4U);
  EXPECT_EQ(watcher.call([&] { return fewest; }), 1U) << "a moment without a route";
  EXPECT_EQ(b.routes(vm).find("proto 89"), std::string::npos);

  watcher.call([&] { monitor->stop(); });
  watcher.stop();
  for (auto* host : {&a, &b, &c, &reflector}) host->stop();
}

}  // namespace
}  // namespace calico::bgp
