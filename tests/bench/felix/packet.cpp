// What a packet costs between two interfaces of one host whose endpoints are in a group of 200 rules, each way, the
// last one matching: no connection tracking, connection tracking alone, our ruleset, a Felix-shaped one. Frames are
// sent from a packet socket and handled on the sender's processor, so its time is the way's. Runs are short and
// alternate, each round in another order; one counts when the sender had its processor throughout (wall and CPU time
// agree), and of those the least. A second path of connection tracking alone shows what two equal paths differ by.
#include <sched.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <optional>
#include <thread>

#include "tests/bench/felix/felix_shaped.hpp"
#include "tests/bench/felix/programmed.hpp"
#include "tests/bench/felix/sections.hpp"
#include "tests/support/frames.hpp"

namespace calico::bench {
namespace {

constexpr int kRules = 200;
constexpr int kRuns = 15;      // that count, of each path
constexpr int kMostRuns = 60;  // then those there are
constexpr int kSame = 20000;
constexpr int kNew = 10000;
constexpr double kApart = 0.02;  // of wall and CPU time
constexpr std::uint16_t kPort = 9000;
constexpr std::size_t kAtOnce = 32;

double thread_ns() {
  timespec t{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}

std::string peer(int i) { return i + 1 == kRules ? "10.0.0.0/24" : fmt::format("172.16.{}.0/24", i); }
int port(int i) { return i + 1 == kRules ? kPort : 1000 + i; }

std::string large_group() {
  std::string in, out;
  for (int i = 0; i < kRules; ++i) {
    const auto rule = [&](const std::string& source, const std::string& destination) {
      return fmt::format(
          R"({}{{"action":"Allow","ipVersion":4,"protocol":"UDP","source":{{{}}},"destination":{{{}"ports":[{}]}}}})",
          i ? "," : "", source, destination, port(i));
    };
    const auto nets = fmt::format(R"("nets":["{}"])", peer(i));
    in += rule(nets, "");
    out += rule("", nets + ",");
  }
  return fmt::format(R"j({{"spec":{{"ingress":[{}],"egress":[{}],"selector":"has({}g0)"}}}})j", in, out,
                     model::kLabelSgPrefix);
}

int next_number() {
  static int n = 0;
  return n++;
}

/// Two interfaces of a router; sender and receiver are in one namespace.
struct Path {
  std::string what;
  int number = next_number();
  test::Netns host{"router"}, wire{"wire"};
  std::unique_ptr<Programmed> ours;
  Values same, fresh;  // ns a packet

  explicit Path(std::string name) : what(std::move(name)) {
    wire.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    host.run(
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 "
        "net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    for (int i = 0; i < 2; ++i) {
      test::veth(host, tap(i), wire, fmt::format("vm{}", i));
      // A station that is not there: what comes out is counted and not looked at further.
      host.run(
          fmt::format("ip link set {0} address 02:00:00:00:01:00; ip route add {1} dev {0}; ip neigh replace {1} dev "
                      "{0} lladdr {2} nud permanent",
                      tap(i), address4(i), mac(i).to_string()));
    }
  }

  std::uint64_t delivered(int i) const {
    std::istringstream in(wire.run("cat /proc/net/dev"));
    for (std::string line; std::getline(in, line);)
      if (const auto at = line.find(fmt::format("vm{}:", i)); at != std::string::npos) {
        std::istringstream numbers(line.substr(line.find(':') + 1));
        std::uint64_t bytes = 0, packets = 0;
        numbers >> bytes >> packets;
        return packets;
      }
    throw std::runtime_error("no such interface");
  }

  std::vector<std::uint8_t> bytes(int from) const {
    model::Packet p;
    p.src = address4(from), p.dst = address4(1 - from);
    p.protocol = 17, p.src_port = p.dst_port = kPort;
    auto f = test::frame({.src_mac = mac(from), .dst_mac = Mac{{2, 0, 0, 0, 1, 0}}, .packet = p, .number = 1});
    f[40] = f[41] = 0;  // no checksum of UDP: the port changes
    return f;
  }

  /// ns a packet; `each_new`: each of a connection of its own. Nothing when somebody else had the processor.
  std::optional<double> run(int fd, int index, int count, bool each_new) const {
    auto f = bytes(0);
    std::vector<std::vector<std::uint8_t>> copies(kAtOnce, f);
    std::vector<iovec> parts(kAtOnce);
    std::vector<mmsghdr> messages(kAtOnce);
    sockaddr_ll to{};
    to.sll_family = AF_PACKET;
    to.sll_ifindex = index;
    to.sll_protocol = htons(ETH_P_IP);
    to.sll_halen = 6;
    for (std::size_t i = 0; i < kAtOnce; ++i) {
      parts[i] = {copies[i].data(), copies[i].size()};
      messages[i].msg_hdr = {&to, sizeof to, &parts[i], 1, nullptr, 0, 0};
    }
    const auto before = delivered(1);
    const auto cpu_before = thread_ns();
    const auto t = Clock::now();
    for (int sent = 0; sent < count;) {
      if (each_new)
        for (std::size_t i = 0; i < kAtOnce; ++i) {
          const auto p = 1024U + static_cast<unsigned>(sent) + static_cast<unsigned>(i);
          copies[i][34] = static_cast<std::uint8_t>(p >> 8U);
          copies[i][35] = static_cast<std::uint8_t>(p);
        }
      const auto n = ::sendmmsg(fd, messages.data(), kAtOnce, 0);
      if (n != static_cast<int>(kAtOnce)) throw std::runtime_error("sendmmsg");
      sent += n;
    }
    const double ns = ms_since(t) * 1e6 / count;
    const double cpu = (thread_ns() - cpu_before) / count;
    std::uint64_t came = 0;
    for (int tries = 0; tries < 100; ++tries) {
      came = delivered(1) - before;
      if (came >= static_cast<std::uint64_t>(count)) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (came < static_cast<std::uint64_t>(count))
      throw std::runtime_error(fmt::format("{}: {} of {} packets arrived", what, came, count));
    if (std::abs(ns - cpu) > kApart * ns) return {};
    return ns;
  }

  void both() {
    const int fd = wire.in([] { return ::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0); });
    const auto index = [&](int i) {
      return wire.in([&] { return static_cast<int>(::if_nametoindex(fmt::format("vm{}", i).c_str())); });
    };
    test::flush_conntrack(host);
    if (const auto ns = run(fd, index(0), kNew, true)) fresh.push_back(*ns);
    test::flush_conntrack(host);
    // One packet and its answer: from now on the connection is established.
    (void)run(fd, index(0), static_cast<int>(kAtOnce), false);
    const auto before = delivered(0);
    test::FrameSocket(wire).send("vm1", bytes(1));
    for (int tries = 0; delivered(0) == before; ++tries) {
      if (tries > 1000) throw std::runtime_error(what + ": no answer came through");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (const auto ns = run(fd, index(0), kSame, false)) same.push_back(*ns);
    ::close(fd);
  }
};

void load(const test::Netns& ns, const std::string& text) {
  const auto path = fmt::format("/tmp/felix-bench-{}-packet.nft", ::getpid());
  std::ofstream(path) << text;
  command(ns, {"nft", "-f", path});
  ::unlink(path.c_str());
}

}  // namespace

void packet_bench() {
  in_child([](Meter&) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(sched_getcpu()), &one);
    sched_setaffinity(0, sizeof one, &one);

    Path none("nothing"), tracking("connection tracking alone"), again("the same once more"), ours("ours"),
        strangers("ours, neither interface an endpoint's"), shaped("Felix-shaped");
    for (auto* p : {&tracking, &again})
      load(p->host,
           "table ip t { chain forward { type filter hook forward priority 0; ct state established accept; }; }");
    felix::Settings elsewhere;
    elsewhere.interface_prefixes = {"vif"};
    for (auto* p : {&ours, &strangers}) {
      p->ours = p->host.in([&] { return std::make_unique<Programmed>(p == &ours ? felix::Settings{} : elsewhere); });
      p->ours->update(group_key(0), large_group());
      for (int i = 0; i < 2; ++i) p->ours->update(endpoint_key(i), endpoint(i, {0}));
      p->ours->flush();
      p->ours->program();
    }
    const auto classes = [&](const test::Netns& ns) {
      for (const auto& [key, plan] : ours.ours->compiler().ruleset().endpoints)
        ns.run(fmt::format("ip link set {} group {}", plan.interface_name, plan.group));
    };
    classes(ours.host);
    if (const char* path = std::getenv("CALICO_BENCH_SAVE")) save_ruleset(ours.host, path);
    ShapedGroup g;
    g.name = "g0";
    for (int i = 0; i < kRules; ++i) {
      g.in4.push_back({fmt::format("ip saddr {} udp dport {}", peer(i), port(i))});
      g.out4.push_back({fmt::format("ip daddr {} udp dport {}", peer(i), port(i))});
    }
    load(shaped.host, felix_shaped({g}, {{tap(0), {"g0"}}, {tap(1), {"g0"}}}));

    std::vector<Path*> all = {&none, &tracking, &again, &ours, &strangers, &shaped};
    std::vector<std::unique_ptr<Path>> others;
    const char* given = std::getenv("CALICO_BENCH_RULESETS");
    std::istringstream files(given ? given : "");
    for (std::string file; std::getline(files, file, ',');) {
      others.push_back(std::make_unique<Path>(file));
      command(others.back()->host, {"nft", "-f", file});
      classes(others.back()->host);
      all.push_back(others.back().get());
    }
    const auto enough = [&](std::size_t n) {
      return std::all_of(all.begin(), all.end(), [&](auto* p) { return p->same.size() >= n && p->fresh.size() >= n; });
    };
    for (int i = 0; i < kMostRuns && !enough(kRuns); ++i) {
      for (auto* p : all) p->both();
      std::rotate(all.begin(), all.begin() + 1, all.end());
    }
    if (!enough(1)) throw std::runtime_error("the sender never had its processor for one run: too much other load");
    std::sort(all.begin(), all.end(), [](auto* a, auto* b) { return a->number < b->number; });
    const auto least = [](const Values& v) { return *std::min_element(v.begin(), v.end()); };
    fmt::print(
        "\na packet between two endpoints in a group of {} rules each way, ns: least of the undisturbed runs, {} "
        "wanted (median); aim "
        "within 15 % of connection tracking alone\n\n| ruleset | established | to tracking alone | new connection | to "
        "tracking alone | runs |\n|---|---|---|---|---|---|\n",
        kRules, kRuns);
    const auto base_same = std::min(least(tracking.same), least(again.same));
    const auto base_fresh = std::min(least(tracking.fresh), least(again.fresh));
    for (const auto* p : all)
      fmt::print("| {} | {:.0f} ({:.0f}) | {:+.1f} % | {:.0f} ({:.0f}) | {:+.1f} % | {}, {} |\n", p->what,
                 least(p->same), median(p->same), (least(p->same) / base_same - 1) * 100, least(p->fresh),
                 median(p->fresh), (least(p->fresh) / base_fresh - 1) * 100, p->same.size(), p->fresh.size());
    return Values{};
  });
}

}  // namespace calico::bench
