// What the kernel floors cost, in a namespace of its own: routes, nf_tables, and BGP's kernel side. Prints, asserts
// nothing.
#include <fmt/ranges.h>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <stdexcept>

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

/// KernelBgp in a loop of its own.
struct Side {
  explicit Side(const test::Netns& host, bgp::KernelOptions options = {}) {
    auto opened = host.in([&] { return bgp::KernelBgp::open(loop, options); });
    if (!opened) throw std::runtime_error(opened.error().what);
    kernel = std::move(*opened);
    loop.start();
    loop.call([&] {
      kernel->start({.set_local = [&](const Prefix&, const std::optional<bgp::LocalRoute>&) { ++told; },
                     .local_complete = [] {},
                     .next_hops_changed = [] {},
                     .next_hop_changed =
                         [&](const Ip&) {
                           moved_at = Clock_::now();
                           ++moved;
                         },
                     .problem = [](std::string_view w) { std::printf("problem: %.*s\n", int(w.size()), w.data()); }});
      kernel->sweep();
    });
  }
  ~Side() {
    loop.call([&] { kernel->stop(); });
    loop.stop();
  }
  /// From the first winner told until all are acknowledged; winners told as the engine does, 1,000 a turn.
  double install(std::uint32_t base, std::uint32_t routes, const char* next_hop) {
    const auto t = Clock_::now();
    std::promise<void> done;
    std::uint32_t at = 0;
    std::function<void()> turn = [&] {
      if (at < routes) {
        bgp::BestRoute best;
        if (next_hop)
          best.next_hops = kernel->resolve(*Ip::parse(next_hop))->hops, best.bgp_next_hop = *Ip::parse(next_hop);
        const std::optional<bgp::BestRoute> told_route = next_hop ? std::optional(best) : std::nullopt;
        for (const auto end = std::min(at + 1000, routes); at < end; ++at)
          kernel->route_changed(Prefix::host(Ip::v4(base + at)), told_route);
        kernel->flush();
      } else if (kernel->status().pending == 0) {
        return done.set_value();
      }
      loop.post(turn);
    };
    loop.post(turn);
    done.get_future().wait();
    return ms_since(t);
  }
  Loop loop{"bench"};
  std::unique_ptr<bgp::KernelBgp> kernel;
  std::atomic<int> told{0}, moved{0};
  std::atomic<Clock_::time_point> moved_at;
};

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

std::string bracket(const std::vector<double>& v) { return fmt::format("(of {:.0f})", fmt::join(v, ", ")); }

/// The same routes by `ip -batch`, by us with and without nexthop objects, and by bird2: medians of 3, one after the
/// other in the same run.
void against_others(const test::Netns& host, std::uint32_t routes) {
  const std::string file = "/tmp/" + host.name() + ".batch", conf = "/tmp/" + host.name() + ".conf",
                    ctl = "/tmp/" + host.name() + ".ctl";
  {
    FILE* f = std::fopen(file.c_str(), "w");
    FILE* b = std::fopen(conf.c_str(), "w");
    std::fprintf(
        b,
        "router id 192.168.0.1;\nprotocol device {}\nprotocol kernel { ipv4 { import none; export all; }; scan "
        "time 3600; }\nprotocol static { ipv4;\n");
    for (std::uint32_t i = 0; i < routes; ++i) {
      const auto dst = Prefix::host(Ip::v4(0x0b000000 + i)).to_string();
      std::fprintf(f, "route add %s via 192.168.0.7 dev eth0 proto 89 metric 2048\n", dst.c_str());
      std::fprintf(b, "route %s via 192.168.0.7;\n", dst.c_str());
    }
    std::fprintf(b, "}\n");
    std::fclose(f);
    std::fclose(b);
  }
  const bool have_bird = test::shell("command -v bird").status == 0;
  std::vector<double> batch, ours, plain, gone, bird;
  auto counter = *host.in([] { return netlink::Rtnl::open(); });
  for (int i = 0; i < 3; ++i) {
    auto t = Clock_::now();
    host.run("ip -batch " + file);
    batch.push_back(ms_since(t));
    host.run("ip route flush proto 89");
    for (const bool objects : {true, false}) {
      bgp::KernelOptions o;
      o.nexthop_objects = objects;
      Side side(host, o);
      (objects ? ours : plain).push_back(side.install(0x0b000000, routes, "192.168.0.7"));
      const auto removal = side.install(0x0b000000, routes, nullptr);
      if (objects) gone.push_back(removal);
    }
    if (!have_bird) continue;
    // From its start to the last route: reading its configuration is measured apart (bird -p) and taken off.
    t = Clock_::now();
    test::shell("bird -p -c " + conf);
    const double parse = ms_since(t);
    t = Clock_::now();
    auto child = host.spawn("exec bird -f -c " + conf + " -s " + ctl);
    for (;;) {
      auto have = counter.routes({.protocol = 12});
      if (have && have->size() >= routes) break;
      if (ms_since(t) > 30000) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    bird.push_back(ms_since(t) - parse);
    child.kill_now();
    host.run("ip route flush proto bird");
  }
  const auto name = [&](const char* what) { return fmt::format("{} routes, {}", routes, what); };
  std::printf("%-58s %8.0f ms %s\n", name("ip -batch").c_str(), median(batch), bracket(batch).c_str());
  std::printf("%-58s %8.0f ms %s, %.0f %% of ip -batch\n", name("ours, nexthop objects").c_str(), median(ours),
              bracket(ours).c_str(), 100 * median(ours) / median(batch));
  std::printf("%-58s %8.0f ms %s, %.0f %% of ip -batch\n", name("ours, next hops in each route").c_str(), median(plain),
              bracket(plain).c_str(), 100 * median(plain) / median(batch));
  std::printf("%-58s %8.0f ms %s\n", name("ours, removed").c_str(), median(gone), bracket(gone).c_str());
  if (have_bird)
    std::printf("%-58s %8.0f ms %s\n", name("bird2's kernel protocol (static, polled)").c_str(), median(bird),
                bracket(bird).c_str());
  for (const auto& f : {file, conf, ctl}) ::unlink(f.c_str());
}

/// A next hop of many routes changes its way: from the kernel's event (the other program's call returns) until ours is
/// acknowledged, which is when the engine is told.
void next_hop_moves(const test::Netns& host, std::uint32_t routes) {
  Side side(host);
  auto nl = *host.in([] { return netlink::Rtnl::open(); });
  const auto eth0 = nl.link("eth0")->index;
  netlink::Route way;
  way.dst = *Prefix::parse("10.1.0.0/16");
  way.protocol = 4;
  way.nexthops = {{.via = *Ip::parse("192.168.0.9"), .dev = eth0}};
  (void)nl.one([&](netlink::Batch& b) { b.replace(way); });
  while (!side.loop.call([&] { return side.kernel->resolve(*Ip::parse("10.1.1.1")).has_value(); }))
    std::this_thread::yield();
  side.install(0x0b000000, routes, "10.1.1.1");
  std::vector<double> all, asked;
  for (std::uint32_t i = 0; i < 21; ++i) {
    way.nexthops[0].via = Ip::v4(0xc0a80000U + 20 + i);
    const int before = side.moved;
    const auto t = Clock_::now();
    (void)nl.one([&](netlink::Batch& b) { b.replace(way); });
    asked.push_back(ms_since(t));
    while (side.moved == before) std::this_thread::yield();
    all.push_back(std::chrono::duration<double, std::milli>(side.moved_at.load() - t).count());
    (void)side.loop.call([&] { return side.kernel->resolve(*Ip::parse("10.1.1.1")); });  // as the engine does
    const auto seen = nl.lookup(Ip::v4(0x0b000000 + i));
    if (!seen || seen->nexthops.empty() || seen->nexthops[0].via != way.nexthops[0].via)
      std::printf("FAILED: not moved\n");
  }
  print_quantiles(fmt::format("next hop of {} routes moved, event -> acknowledged", routes).c_str(), all, "ms");
  side.install(0x0b000000, routes, nullptr);
  (void)nl.one([&](netlink::Batch& b) { b.remove(way); });
}

void bgp_side(const test::Netns& host, netlink::Rtnl& nl, IfIndex tap, std::uint32_t routes) {
  std::vector<double> in, out;
  for (int i = 0; i < 3; ++i) {
    Side side(host);
    in.push_back(side.install(0x0b000000, routes, "192.168.0.7"));
    if (i == 2) {
      std::vector<double> one;
      for (std::uint32_t k = 0; k < 1000; ++k) {
        const int before = side.told;
        const auto t = Clock_::now();
        (void)nl.one([&](netlink::Batch& b) { b.replace(tap_route(k, tap)); });
        while (side.told == before) std::this_thread::yield();
        one.push_back(ms_since(t));
      }
      print_quantiles(fmt::format("tap's route -> engine, {} routes in the table", routes).c_str(), one, "ms");
    }
    out.push_back(side.install(0x0b000000, routes, nullptr));
  }
  std::printf("%-58s %8.0f ms %s\n", fmt::format("{} winners into the kernel", routes).c_str(), median(in),
              bracket(in).c_str());
  std::printf("%-58s %8.0f ms %s\n", fmt::format("{} removed", routes).c_str(), median(out), bracket(out).c_str());
}

}  // namespace

int main(int argc, char** argv) {
  if (const auto why = test::netns_refused(); !why.empty()) {
    std::printf("SKIPPED, needs root and network namespaces: %s\n", why.c_str());
    return 0;
  }
  test::Netns host("bench"), vm("vm");
  test::veth(host, "tap1", vm, "eth0");
  test::Netns router("router");
  test::veth(host, "eth0", router, "eth0");  // a device without carrier takes no nexthop object
  host.run("ip addr add 192.168.0.1/24 dev eth0");
  auto nl = *host.in([] { return netlink::Rtnl::open(); });
  auto nft = *host.in([] { return nft::Connection::open(); });
  const auto tap = nl.link("tap1")->index;
  if (argc < 2 || std::string_view(argv[1]) != "bgp") {  // `kernel_bench bgp`: the BGP part only
    routes(nl, tap);
    tables(nft, 1000);
    tables(nft, 10000);
  }
  bgp_side(host, nl, tap, 50000);
  next_hop_moves(host, 10000);
  against_others(host, 100000);
  return 0;
}
