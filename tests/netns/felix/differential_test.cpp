// Random policies as the kernel enforces them against the reference evaluator: real packets through tables that
// felix's Firewall wrote. What the interpreter of tests/unit/model cannot see (the translation to nf_tables, sets in
// the kernel, dispatch by device group, anti-spoofing in the way) is seen here.
//
// One namespace is the host with tap0 to tap2, eth0 (where the world comes from) and eth1 (where it goes to); the other
// ends are in a second one, where frames are made by hand. A frame that has been sent is either seen again or was
// refused: one that nobody judges is sent behind them and comes last, because one processor handles all in order.
#include <algorithm>
#include <chrono>
#include <set>
#include <tuple>

#include "core/model/compiler.hpp"
#include "core/netlink/rtnl.hpp"
#include "modules/felix/firewall.hpp"
#include "tests/support/frames.hpp"
#include "tests/support/one_processor.hpp"
#include "tests/support/random_policies.hpp"

namespace calico::test {
namespace {

using model::Direction;
using Clock = std::chrono::steady_clock;

constexpr int kRounds = 300;
constexpr int kPackets = 8;
const Mac kRouter{{2, 0, 0, 0, 1, 0}};
const Mac kWorld{{2, 0, 0, 0, 2, 0}};

struct Sent {
  std::string to;  // where it comes out
  bool allowed = false;
  std::string text;
};

struct Lab {
  Netns host{"host"}, wire{"wire"};
  Lab() {
    const auto mac = kRouter.to_string();
    wire.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    host.run(
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0 "
        "net.ipv4.conf.default.rp_filter=0 net.ipv6.conf.default.accept_dad=0");
    for (const auto* pair : {"tap0 vm0", "tap1 vm1", "tap2 vm2", "eth0 in", "eth1 out"}) {
      const std::string text = pair;
      const auto near = text.substr(0, 4), far = text.substr(5);
      veth(host, near, wire, far);
      host.run("ip link set " + near + " address " + mac);
    }
    // Everything that is no interface's here leaves by eth1.
    const auto world = " dev eth1 lladdr " + kWorld.to_string() + " nud permanent";
    host.run("ip addr add 192.0.2.1/30 dev eth1; ip route add default via 192.0.2.2; ip neigh replace 192.0.2.2" +
             world + "; ip -6 route add default via fe80::2 dev eth1; ip -6 neigh replace fe80::2" + world);
    for (int i = 0; i < RandomPolicies::kEndpoints - 1; ++i)
      for (const bool v4 : {true, false}) {
        const auto address = RandomPolicies::address(v4, RandomPolicies::fixed_address(i));
        host.run(
            fmt::format("ip {0} route add {1} dev tap{2}; ip {0} neigh replace {1} dev tap{2} lladdr "
                        "02:00:00:00:00:0{2} nud permanent",
                        v4 ? "-4" : "-6", address, i));
      }
  }
};

/// Whose interface an address is behind; absent: nobody's here.
std::optional<int> owner(const Ip& ip) {
  for (int i = 0; i < RandomPolicies::kEndpoints - 1; ++i)
    if (ip == *Ip::parse(RandomPolicies::address(ip.is_v4(), RandomPolicies::fixed_address(i)))) return i;
  return {};
}

TEST(FelixDifferential, KernelAgreesWithTheEvaluator) {
  NEEDS_NETNS();
  const auto seed = random_seed();
  RecordProperty("seed", std::to_string(seed));
  RandomPolicies random(seed);
  Lab lab;
  auto opened = lab.host.in([] { return nft::Connection::open(); });
  ASSERT_TRUE(opened) << opened.error().what;
  felix::Firewall firewall(std::move(*opened));
  firewall.configure({});
  auto nl = lab.host.in([] { return netlink::Rtnl::open(); });
  ASSERT_TRUE(nl) << nl.error().what;
  std::map<std::string, IfIndex> taps;
  const auto links = nl->links();
  ASSERT_TRUE(links) << links.error().what;
  for (const auto& l : *links) taps[l.name] = l.index;
  FrameSocket wire(lab.wire);
  const OneProcessor here;

  std::map<std::uint32_t, Sent> sent;
  std::map<std::uint32_t, std::string> seen;
  std::uint32_t number = 0;
  Clock::duration waited{};
  // Waits for `last`, and for every frame that should come.
  const auto collect = [&](std::uint32_t first, std::uint32_t last) {
    const auto begin = Clock::now();
    const auto complete = [&] {
      if (!seen.contains(last)) return false;
      for (auto n = first; n < last; ++n)
        if (sent.at(n).allowed && !seen.contains(n)) return false;
      return true;
    };
    while (!complete() && waited + (Clock::now() - begin) < std::chrono::seconds(30))
      if (const auto s = wire.receive(100)) seen[s->number] = s->interface;
    waited += Clock::now() - begin;
    return seen.contains(last);
  };

  std::size_t allowed = 0, refused = 0, of_v6 = 0, lists = 0;
  bool loaded = false;
  for (int round = 0; round < kRounds; ++round) {
    const auto world = random.world(true);
    std::vector<std::pair<std::string, std::string>> content(world.begin(), world.end());
    std::shuffle(content.begin(), content.end(), random.g);
    model::Policies policies;
    model::Compiler compiler({.host = "h"});
    const auto program = [&](bool anew) {
      const auto delta = compiler.flush();
      const auto& ruleset = compiler.ruleset();
      if (anew)
        firewall.stage_all(ruleset);
      else
        firewall.stage(ruleset, delta);
      if (!std::exchange(loaded, true)) {
        const auto ok = firewall.load();
        ASSERT_TRUE(ok) << ok.error().what;
      }
      const auto added = firewall.add();
      ASSERT_TRUE(added) << added.error().what;
      netlink::Batch groups;
      for (const auto& [key, plan] : ruleset.endpoints) groups.set_link_group(taps.at(plan.interface_name), plan.group);
      if (!groups.empty()) {
        const auto done = nl->commit(groups);
        ASSERT_TRUE(done && done->ok());
      }
      const auto removed = firewall.remove();
      ASSERT_TRUE(removed) << removed.error().what;
      ASSERT_TRUE(firewall.refused().empty()) << firewall.refused().begin()->second;
    };
    // At once, or half of it first and the rest as a change.
    const std::size_t half = random.one_in(2) ? content.size() / 2 : 0;
    for (std::size_t i = 0; i < content.size(); ++i) {
      if (half != 0 && i == half) {
        ASSERT_NO_FATAL_FAILURE(program(true));
      }
      ASSERT_TRUE(policies.update(content[i].first, content[i].second));
      compiler.update(content[i].first, content[i].second);
    }
    ASSERT_NO_FATAL_FAILURE(program(half == 0));
    ASSERT_TRUE(compiler.faults().empty()) << compiler.faults().begin()->second;
    ASSERT_EQ(compiler.ruleset().endpoints.size(), 3U);
    for (const auto& [name, rules] : compiler.ruleset().chains) lists += felix::flatten(rules).lookups.size();

    flush_conntrack(lab.host);
    std::set<std::tuple<Ip, Ip, int, int, int>> flows;  // a packet of a flow that has been answered is no question
    const auto first = number;
    for (int tries = 0; number - first < kPackets && tries < 100; ++tries) {
      const auto p = random.packet(true);
      const auto to = owner(p.dst);
      auto from = owner(p.src);
      if (!from)
        for (int i = 0; i < 3; ++i) {
          const auto& nets = policies.endpoints.at(RandomPolicies::key(i)).ip_networks;
          if (nets.size() > 2 && nets[2].contains(p.src) && random.one_in(2)) from = i;
        }
      if (p.src == p.dst || from == to) continue;
      if (flows.contains({p.dst, p.src, p.protocol, p.dst_port, p.src_port}) ||
          !flows.insert({p.src, p.dst, p.protocol, p.src_port, p.dst_port}).second)
        continue;
      Sent s;
      s.allowed = true;
      s.to = to ? fmt::format("vm{}", *to) : "out";
      std::string why;
      if (from) {
        const auto j = judge(policies, RandomPolicies::key(*from), Direction::egress, p);
        s.allowed = j.allowed;
        why = j.reason;
      }
      if (to && s.allowed) {
        const auto j = judge(policies, RandomPolicies::key(*to), Direction::ingress, p);
        s.allowed = j.allowed;
        why += (why.empty() ? "" : "; ") + j.reason;
      }
      s.text = fmt::format("round {}: {} {} > {} protocol {} ports {} {} icmp {}/{}: evaluator {}: {}", round,
                           from ? fmt::format("tap{}", *from) : "eth0", p.src, p.dst, p.protocol, p.src_port,
                           p.dst_port, p.icmp.type, p.icmp.code.value_or(0), s.allowed ? "allows" : "refuses", why);
      wire.send(from ? fmt::format("vm{}", *from) : "in",
                frame({.src_mac = from ? Mac{{2, 0, 0, 0, 0, static_cast<std::uint8_t>(*from)}} : kWorld,
                       .dst_mac = kRouter,
                       .packet = p,
                       .number = number}));
      ++(s.allowed ? allowed : refused);
      of_v6 += !p.src.is_v4();
      sent[number++] = std::move(s);
    }
    model::Packet last;
    last.src = *Ip::parse("198.51.100.1");
    last.dst = *Ip::parse("203.0.113.1");
    last.protocol = 17;
    wire.send("in", frame({.src_mac = kWorld, .dst_mac = kRouter, .packet = last, .number = number}));
    ASSERT_TRUE(collect(first, number)) << "round " << round << ": the frame nobody judges did not arrive within 30 s";
    for (auto n = first; n < number; ++n) {
      const auto& s = sent.at(n);
      const auto at = seen.find(n);
      if ((at != seen.end()) == s.allowed && (!s.allowed || at->second == s.to)) continue;
      std::string all;
      for (const auto& [k, v] : content) all += k + " " + v + "\n";
      FAIL() << "seed " << seed << " " << s.text << ", the kernel "
             << (at == seen.end() ? "refuses" : "lets it out at " + at->second) << "\n"
             << all << to_text(compiler.ruleset()) << lab.host.run("nft list ruleset");
    }
    ++number;
  }
  // Nothing came late.
  while (const auto s = wire.receive(0)) seen[s->number] = s->interface;
  for (const auto& [n, s] : sent) EXPECT_EQ(seen.contains(n), s.allowed) << s.text;
  std::printf("%zu lookups of lists, %zu packets, %zu of IPv6: %zu allowed, %zu refused; waited %lld ms\n", lists,
              sent.size(), of_v6, allowed, refused,
              static_cast<long long>(std::chrono::duration_cast<std::chrono::milliseconds>(waited).count()));
  EXPECT_GT(allowed, 400U);
  EXPECT_GT(refused, 500U);
  EXPECT_GT(lists, 30U);
}

}  // namespace
}  // namespace calico::test
