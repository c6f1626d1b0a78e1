// What the kernel floors cost, in a namespace of its own: routes, nf_tables, and BGP's kernel side. Prints, asserts
// nothing.
#include <algorithm>
#include <chrono>
#include <cstdio>

#include "core/bgp/kernel.hpp"
#include "core/netlink/rtnl.hpp"
#include "core/nft/connection.hpp"
#include "tests/support/netns.hpp"
#include "tests/support/wait.hpp"

using namespace calico;

namespace {

using Clock_ = std::chrono::steady_clock;
double ms_since(Clock_::time_point t) { return std::chrono::duration<double, std::milli>(Clock_::now() - t).count(); }

void print_quantiles(const char* what, std::vector<double> v, const char* unit) {
  std::sort(v.begin(), v.end());
  auto q = [&](double p) {
    return v[std::min(v.size() - 1, static_cast<std::size_t>(p * static_cast<double>(v.size())))];
  };
  std::printf("%-58s p50 %8.3f  p99 %8.3f  max %8.3f %s (%zu)\n", what, q(.5), q(.99), v.back(), unit, v.size());
}

netlink::Route tap_route(std::uint32_t i, IfIndex tap) {
  netlink::Route r;
  r.dst = Prefix::host(Ip::v4(0x0a800000 + i));
  r.protocol = netlink::kProtoFelix;
  r.scope = netlink::Scope::link;
  r.nexthops = {{.dev = tap}};
  return r;
}

void routes(netlink::Rtnl& nl, IfIndex tap) {
  constexpr std::uint32_t kRoutes = 10000;
  netlink::Batch add, remove;
  for (std::uint32_t i = 0; i < kRoutes; ++i) {
    add.replace(tap_route(i, tap));
    remove.remove(tap_route(i, tap));
  }
  auto t = Clock_::now();
  (void)nl.commit(add);
  std::printf("%-58s %8.2f us each\n", "10,000 routes written", ms_since(t) * 1000 / kRoutes);
  t = Clock_::now();
  (void)nl.routes({.protocol = netlink::kProtoFelix});
  std::printf("%-58s %8.2f us each\n", "10,000 routes read", ms_since(t) * 1000 / kRoutes);
  t = Clock_::now();
  (void)nl.commit(remove);
  std::printf("%-58s %8.2f us each\n", "10,000 routes removed", ms_since(t) * 1000 / kRoutes);
  std::vector<double> one;
  for (std::uint32_t i = 0; i < 1000; ++i) {
    t = Clock_::now();
    (void)nl.one([&](netlink::Batch& b) { b.set_link_group(tap, i); });
    one.push_back(ms_since(t));
  }
  print_quantiles("device group of one link", one, "ms");
}

void tables(nft::Connection& nft, std::uint32_t endpoints) {
  const nft::TableRef t{nft::TableFamily::inet, "bench"};
  const nft::Set s{
      .table = t, .name = "src_ok", .key = {nft::Type::ifname, nft::Type::ether_addr, nft::Type::ipv4_addr}};
  auto element = [](std::uint32_t i) {
    Mac m;
    m.b = {0xfa,
           0x16,
           0x3e,
           static_cast<std::uint8_t>(i >> 16U),
           static_cast<std::uint8_t>(i >> 8U),
           static_cast<std::uint8_t>(i)};
    return nft::element(nft::Key().ifname(fmt::format("tap{:08x}", i)).ether(m).ip(Ip::v4(0x0a000000 + i)));
  };
  auto begin = Clock_::now();
  nft::Batch b;
  b.remove_if_there(t);
  b.add(nft::Table{.ref = t});
  b.add(nft::Chain{t, "c", nft::BaseChain{.hook = nft::Hook::prerouting, .priority = -300}, {}});
  b.add(s);
  b.add(nft::ChainRef{t, "c"},
        nft::Rule().not_in({nft::Field::iifname, nft::Field::ether_saddr, nft::Field::ip_saddr}, "src_ok").drop());
  std::vector<nft::Element> all;
  for (std::uint32_t i = 0; i < endpoints; ++i) all.push_back(element(i));
  b.add(s, all);
  const double encoded = ms_since(begin);
  begin = Clock_::now();
  if (auto st = nft.apply(b); !st) std::printf("FAILED: %s\n", st.error().what.c_str());
  const double committed = ms_since(begin);
  begin = Clock_::now();
  const auto have = nft.elements(s);
  std::printf("%-58s %8.1f ms encoded, %.1f ms committed, %.1f ms read back\n",
              fmt::format("{} endpoints (interface . MAC . IP)", endpoints).c_str(), encoded, committed,
              ms_since(begin));
  std::vector<double> one;
  for (std::uint32_t i = 0; i < 500; ++i) {
    const std::vector<nft::Element> e = {element(endpoints + i)};
    begin = Clock_::now();
    nft::Batch single;
    single.add(s, e);
    (void)nft.apply(single);
    one.push_back(ms_since(begin));
  }
  print_quantiles(fmt::format("one more beside {}", have ? have->size() : 0).c_str(), one, "ms");
}

void bgp_side(const test::Netns& host, netlink::Rtnl& nl, IfIndex tap, std::uint32_t routes) {
  Loop loop("bench");
  auto opened = host.in([&] { return bgp::KernelBgp::open(loop, {}); });
  if (!opened) {
    std::printf("FAILED: %s\n", opened.error().what.c_str());
    return;
  }
  auto& kernel = **opened;
  std::atomic<int> told{0};
  loop.start();
  loop.call([&] {
    kernel.start({.set_local = [&](const Prefix&, const std::optional<bgp::LocalRoute>&) { ++told; },
                  .local_complete = [] {},
                  .next_hops_changed = [] {},
                  .next_hop_changed = [](const Ip&) {},
                  .problem = [](std::string_view w) { std::printf("problem: %.*s\n", int(w.size()), w.data()); }});
  });
  const auto hop = loop.call([&] { return *kernel.resolve(*Ip::parse("192.168.0.7")); });
  auto pending = [&] { return loop.call([&] { return kernel.status().pending; }) != 0; };
  auto t = Clock_::now();
  loop.call([&] {
    for (std::uint32_t i = 0; i < routes; ++i)
      kernel.route_changed(Prefix::host(Ip::v4(0x0b000000 + i)), bgp::BestRoute{.next_hops = {hop}});
    kernel.flush();
  });
  while (pending()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::printf("%-58s %8.0f ms\n", fmt::format("{} winners into the kernel", routes).c_str(), ms_since(t));
  std::vector<double> one;
  for (std::uint32_t i = 0; i < 500; ++i) {
    const int before = told;
    t = Clock_::now();
    (void)nl.one([&](netlink::Batch& b) { b.replace(tap_route(i, tap)); });
    while (told == before) std::this_thread::yield();
    one.push_back(ms_since(t));
  }
  print_quantiles(fmt::format("tap's route -> engine, {} routes in the table", routes).c_str(), one, "ms");
  t = Clock_::now();
  loop.call([&] {
    kernel.sweep();
    for (std::uint32_t i = 0; i < routes; ++i) kernel.route_changed(Prefix::host(Ip::v4(0x0b000000 + i)), {});
    kernel.flush();
  });
  while (pending()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::printf("%-58s %8.0f ms\n", fmt::format("{} removed", routes).c_str(), ms_since(t));
  loop.call([&] { kernel.stop(); });
  loop.stop();
}

}  // namespace

int main() {
  if (const auto why = test::netns_refused(); !why.empty()) {
    std::printf("SKIPPED, needs root and network namespaces: %s\n", why.c_str());
    return 0;
  }
  test::Netns host("bench"), vm("vm");
  test::veth(host, "tap1", vm, "eth0");
  host.run("ip link add eth0 type bridge; ip link set eth0 up; ip addr add 192.168.0.1/24 dev eth0");
  auto nl = *host.in([] { return netlink::Rtnl::open(); });
  auto nft = *host.in([] { return nft::Connection::open(); });
  const auto tap = nl.link("tap1")->index;
  routes(nl, tap);
  tables(nft, 1000);
  tables(nft, 10000);
  bgp_side(host, nl, tap, 50000);
  return 0;
}
