#pragma once
/// KernelBgp against a real table, between a router (eth0) and a VM (tap1), with a fake engine. Parameter: with nexthop
/// objects or with next hops in each route.
#include <gmock/gmock.h>

#include <map>
#include <regex>

#include "core/bgp/kernel.hpp"
#include "core/netlink/rtnl.hpp"
#include "tests/support/netns.hpp"
#include "tests/support/wait.hpp"

namespace calico::bgp {

using test::eventually;
using test::Netns;
using testing::HasSubstr;
using testing::Not;

inline Prefix prefix(const char* s) { return *Prefix::parse(s); }
inline Ip ip(const char* s) { return *Ip::parse(s); }

/// Remembers what it is told, and asks for next hops as the real one does.
struct FakeEngine {
  std::map<Prefix, LocalRoute> local;
  int told = 0, complete = 0, all_hops = 0;
  std::vector<Ip> moved;
  std::vector<std::string> problems;
  KernelHooks hooks() {
    return {.set_local =
                [this](const Prefix& p, const std::optional<LocalRoute>& r) {
                  ++told;
                  if (r)
                    local[p] = *r;
                  else
                    local.erase(p);
                },
            .local_complete = [this] { ++complete; },
            .next_hops_changed = [this] { ++all_hops; },
            .next_hop_changed = [this](const Ip& hop) { moved.push_back(hop); },
            .problem = [this](std::string_view what) { problems.emplace_back(what); }};
  }
};

struct KernelBgpTest : testing::TestWithParam<bool> {
  virtual bool objects() const { return GetParam(); }
  void SetUp() override {
    NEEDS_NETNS();
    host.emplace("host");
    router.emplace("router");
    vm.emplace("vm");
    test::veth(*host, "eth0", *router, "eth0");
    test::veth(*host, "tap1", *vm, "eth0");
    host->run("ip addr add 192.168.0.1/24 dev eth0; ip -6 addr add fd01::1/64 dev eth0 nodad");
    loop.start();
  }
  void TearDown() override {
    if (kernel) loop.call([&] { kernel->stop(); });
    kernel.reset();
    loop.stop();
  }
  void open(KernelOptions options = {}) {
    options.nexthop_objects = options.nexthop_objects && objects();
    auto opened = host->in([&] { return KernelBgp::open(loop, options); });
    ASSERT_TRUE(opened) << opened.error().what;
    kernel = std::move(*opened);
  }
  void start(KernelOptions options = {}) {
    ASSERT_NO_FATAL_FAILURE(open(options));
    loop.call([&] { kernel->start(engine.hooks()); });
  }
  /// A winner over this BGP next hop; its resolution is asked as the engine would. Empty = withdrawn.
  void route(const char* dst, const char* hop, bool flush = true) {
    loop.call([&] {
      std::optional<BestRoute> best;
      if (*hop) {
        auto r = kernel->resolve(ip(hop));
        if (r) best = BestRoute{.next_hops = r->hops, .bgp_next_hop = ip(hop), .from = "peer"};
      }
      kernel->route_changed(prefix(dst), best);
      if (flush) kernel->flush();
    });
  }
  /// The first way.
  Result<ResolvedHop> resolve(const char* hop) {
    auto r = loop.call([&] { return kernel->resolve(ip(hop)); });
    if (!r) return tl::unexpected(r.error());
    return r->hops.at(0);
  }
  KernelStatus status() {
    return loop.call([&] { return kernel->status(); });
  }
  /// Without the ids of objects.
  std::string bgp_routes() const { return plain(host->run("ip route show proto 89; ip -6 route show proto 89")); }
  static std::string plain(const std::string& text) { return std::regex_replace(text, std::regex(" nhid [0-9]+"), ""); }
  std::vector<Prefix> announced() {
    return loop.call([&] {
      std::vector<Prefix> out;
      for (auto& [p, r] : engine.local) out.push_back(p);
      return out;
    });
  }
  testing::AssertionResult announces(const char* dst, bool wanted = true) {
    return eventually(std::string(wanted ? "announcement of " : "withdrawal of ") + dst, [&] {
      const auto now = announced();
      return (std::find(now.begin(), now.end(), prefix(dst)) != now.end()) == wanted;
    });
  }
  std::optional<Netns> host, router, vm;
  Loop loop{"bgp-test"};
  FakeEngine engine;
  std::unique_ptr<KernelBgp> kernel;
};

}  // namespace calico::bgp
