#pragma once
/// A whole cluster of the lab, one for each test (what one kills the next must not find), with a machine on each
/// compute and, when asked for, a ping every 10 ms between all of them of which none may be lost.
///
/// Needs root, network namespaces and the whole of calico-node. Thread: the test's. Owns: the lab.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "modules/lab/demo.hpp"
#include "modules/lab/probe.hpp"
#include "tests/support/netns.hpp"

namespace calico::lab {

inline constexpr Millis kRestartTime{10000};
inline constexpr Millis kLimit{30000};

class Spine : public testing::Test {
 protected:
  // Each test has a cluster of its own: what one kills the next must not find.
  void Up(std::size_t computes, std::size_t reflectors, std::vector<std::string> set = {}) {
    if (::geteuid() != 0) GTEST_SKIP() << "SKIPPED, needs root and network namespaces";
    set_self_path_for_test(CALICO_BINARY_DIR "/bin/calico-node");
    Options o;
    o.name = fmt::format("s{}", ::getpid());
    o.computes = computes;
    o.reflectors = reflectors;
    o.set = std::move(set);
    o.set.push_back("bgp.graceful_restart_time=10s");
    dir = Cluster::dir_of(o);
    auto c = Cluster::create(o);
    ASSERT_TRUE(c) << c.error().what;
    cluster = std::move(*c);
    ok(cluster->build());
    ok(cluster->configure());
    configured();
    ok(cluster->start(cluster->all_nodes()));
    auto a = api_of(*cluster);
    ASSERT_TRUE(a) << a.error().what;
    api = std::move(*a);
    ok(wait_until("agents alive", kLimit, [&] {
      auto live = api->live_agents();
      return live && live->size() == computes;
    }));
    SessionsUp();
    for (std::size_t i = 1; i <= computes; ++i) AddVm(fmt::format("vm-{}", i), fmt::format("compute-{}", i));
    // Everything is where it belongs before anything is broken.
    Matrix all{"ping", 0, all_pairs(guests)};
    ok(run_matrices(guests, {&all}, {}));
    ASSERT_TRUE(all.as_expected());
  }
  void TearDown() override {
    for (auto& s : streams) s.reset();
    if (HasFailure() && cluster) {
      for (const auto& n : cluster->all_nodes()) {
        fmt::print(stderr, "--- {}\n{}\n", n, tail_of(cluster->paths().node(n) + "/log", 25));
      }
    }
    api.reset();
    cluster.reset();
    if (!dir.empty()) {
      auto s = Cluster::down(dir);
      EXPECT_TRUE(s) << s.error().what;
    }
  }
  /// Before the first process starts.
  virtual void configured() {}
  static void ok(const Status& s) { ASSERT_TRUE(s) << s.error().what; }

  void AddVm(const std::string& name, const std::string& compute) {
    Vm vm;
    vm.name = name;
    vm.compute = compute;
    vm.security_group = "sg1";
    auto active = add_vm(*cluster, *api, vm);
    ASSERT_TRUE(active) << active.error().what;
    Guest g;
    g.name = name;
    g.ns = *cluster->netns(name);
    for (const auto& text : vm.ips) (Ip::parse(text)->is_v4() ? g.v4 : g.v6) = *Ip::parse(text);
    g.mac = *Mac::parse(vm.mac);
    g.gateway = *(*cluster->wire(compute))->mac_of(vm.tap());
    guests.push_back(g);
  }
  // Sessions between every living reflector and all other living nodes.
  void SessionsUp() {
    std::string last;
    auto s = wait_until("Established everywhere", kLimit, [&] {
      for (const auto& r : cluster->record().nodes) {
        if (!r.is_reflector() || !alive(r.process)) continue;
        auto sessions = bgp_sessions(cluster->paths(), r.name);
        if (!sessions) {
          last = sessions.error().what;
          return false;
        }
        for (const auto& n : cluster->record().nodes) {
          if (n.roles.empty() || n.name == r.name || !alive(n.process)) continue;
          auto it = std::find_if(sessions->begin(), sessions->end(),
                                 [&](const Session& x) { return x.peer == n.mgmt4.to_string(); });
          last = fmt::format("{} with {}: {}", r.name, n.name, it == sessions->end() ? "none" : it->state);
          if (it == sessions->end() || it->state != "Established") return false;
        }
      }
      return true;
    });
    ASSERT_TRUE(s) << s.error().what << "; last seen: " << last;
  }
  void StartStreams() {
    for (std::size_t i = 0; i < guests.size(); ++i) {
      streams.push_back(std::make_unique<PingStream>());
      ok(streams.back()->start(guests[i], *guests[(i + 1) % guests.size()].v4));
    }
    ok(wait_until("first pings", kLimit, [&] { return streams.front()->now().sent > 50; }));
  }
  void ExpectNoLoss() {
    for (std::size_t i = 0; i < streams.size(); ++i) {
      auto r = streams[i]->stop();
      EXPECT_EQ(r.lost, 0U) << guests[i].name << ": " << r.to_string();
      EXPECT_GT(r.sent, 100U);
      fmt::print("  {} -> {}: {}\n", guests[i].name, guests[(i + 1) % guests.size()].name, r.to_string());
    }
    streams.clear();
  }
  // Lets the traffic run that long; counted in pings, which need the time to be sent.
  void Traffic(Millis time) {
    auto begin = Steady::now();
    ok(wait_until("traffic", time + kLimit, [&] { return Steady::now() - begin >= time; }));
  }
  std::string InNode(const std::string& node, const std::string& command) {
    return test::shell(fmt::format("nsenter --net={} {}", cluster->paths().netns(node), command)).text;
  }
  bool HasRoute(const std::string& node, const Ip& ip) {
    std::string routes = "\n" + InNode(node, "ip route show proto 89");
    for (char end : {' ', '/'}) {
      if (routes.find("\n" + ip.to_string() + end) != std::string::npos) return true;
    }
    return false;
  }
  // Processes of ours (not dnsmasq and the like) in a node's namespace.
  int processes_of_role(const std::string& node) {
    int n = 0;
    for (pid_t pid : processes_in({*cluster->netns(node)})) {
      auto command = read_file(fmt::format("/proc/{}/cmdline", pid), 65536);
      n += command && command->find("/calico-node") != std::string::npos && command->find("role") != std::string::npos;
    }
    return n;
  }
  // True if a TCP connection from there comes about within two seconds.
  bool Connects(const std::string& from, const Ip& ip, std::uint16_t port) {
    return test::shell(fmt::format("nsenter --net={} timeout 2 bash -c 'exec 3<>/dev/tcp/{}/{}'",
                                   cluster->paths().netns(from), ip, port))
               .status == 0;
  }

  std::string dir;
  std::optional<Cluster> cluster;
  std::optional<NeutronClient> api;
  std::vector<Guest> guests;
  std::vector<std::unique_ptr<PingStream>> streams;
};

}  // namespace calico::lab
