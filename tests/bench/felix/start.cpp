// A whole start with 1,000 real interfaces: felix's engine from nothing to all endpoints up, beside `nft -f` of the
// equal ruleset, `ip -batch` of the classes, neighbours and routes, and a program that writes the settings that differ.
#include <fstream>
#include <thread>

#include "core/model/compiler.hpp"
#include "tests/bench/felix/measure.hpp"
#include "tests/bench/felix/programmed.hpp"
#include "tests/bench/felix/running.hpp"
#include "tests/bench/felix/sections.hpp"
#include "tests/support/fake_view.hpp"

namespace calico::bench {
namespace {

constexpr int kTaps = 1000;
constexpr int kLater = 51;  // interfaces whose endpoints come after the start
constexpr int kGroups = 200;

/// A host with interfaces that are up with carrier; the other ends are in `vms`.
struct Host {
  test::Netns ns{"host"}, vms{"vms"};
  Host() {
    const auto path = fmt::format("/tmp/felix-bench-{}-links", ::getpid());
    {
      std::ofstream f(path);
      for (int i = 0; i < kTaps + kLater; ++i)
        f << fmt::format("link add {0} type veth peer name vm{1} netns {2}\nlink set {0} up\n", tap(i), i, vms.name());
    }
    vms.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
    ns.run("ip -batch " + path);
    {
      std::ofstream f(path);
      for (int i = 0; i < kTaps + kLater; ++i) f << fmt::format("link set vm{} up\n", i);
    }
    vms.run("ip -batch " + path);
    ::unlink(path.c_str());
    // The kernel tells of a carrier a little later.
    for (int tries = 0; ns.run("ip -o link | grep -c 'state UP' || true") != std::to_string(kTaps + kLater) + "\n";
         ++tries) {
      if (tries > 600) throw std::runtime_error("the interfaces did not come up in 30 s");
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }
};

void write_ip_batch(const std::string& path) {
  model::Compiler c({.host = kHost});
  for (const auto& [key, value] : cloud(kTaps, kGroups)) c.update(key, value);
  c.flush();
  std::ofstream f(path);
  for (const auto& [key, p] : c.ruleset().endpoints) {
    f << fmt::format("link set dev {} group {}\n", p.interface_name, p.group);
    for (const auto& n : p.nets)
      f << fmt::format(
          "neigh replace {0} dev {1} lladdr {2} nud permanent\nroute replace {3} dev {1} proto 88 scope link "
          "metric 1024\n",
          n.addr, p.interface_name, p.mac->to_string(), n);
    f << fmt::format("neigh replace proxy fd65::1 dev {}\n", p.interface_name);
  }
}

void write_sysctls() {
  const auto write = [](const std::string& path, const char* value) {
    const int fd = ::open(("/proc/sys/net/" + path).c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0 || ::write(fd, value, 1) != 1) throw std::runtime_error("cannot write " + path);
    ::close(fd);
  };
  write("ipv4/ip_forward", "1");
  write("ipv6/conf/all/forwarding", "1");
  for (int i = 0; i < kTaps; ++i) {
    const auto name = tap(i);
    for (const auto* key : {"rp_filter", "proxy_arp"}) write("ipv4/conf/" + name + "/" + key, "1");
    write("ipv4/conf/" + name + "/send_redirects", "0");
    write("ipv4/neigh/" + name + "/proxy_delay", "0");
    write("ipv6/conf/" + name + "/accept_ra", "0");
    write("ipv6/conf/" + name + "/proxy_ndp", "1");
    write("ipv6/neigh/" + name + "/proxy_delay", "0");
  }
}

}  // namespace

void start_bench() {
  const auto equal = fmt::format("/tmp/felix-bench-{}-equal.nft", ::getpid());
  const auto batch = fmt::format("/tmp/felix-bench-{}-ip", ::getpid());
  Costs ours, theirs, nft, ip, sysctl, again;
  Values at_once, more;
  in_child([&](Meter&) {
    write_ip_batch(batch);
    return Values{};
  });
  for (int round = 0; round < 3; ++round) {
    {
      Host host;
      const auto start = [&](Costs& into, bool first) {
        const auto [cost, values] = in_child([&](Meter& m) {
          host.ns.enter();
          test::FakeView view;
          const int n = first ? kTaps : kTaps + kLater;
          for (const auto& [key, value] : cloud(n, kGroups)) view.set(key, value);
          m.start();
          Running felix(view);
          felix.wait_for(fmt::format(" {} up", n));
          m.stop();
          Values v;
          for (int i = kTaps; first && i < kTaps + kLater; ++i) {
            const auto t = Clock::now();
            view.set(endpoint_key(i), endpoint(i, groups_of(i, kGroups)));
            felix.wait_for(fmt::format(" {} up", i + 1));
            v.push_back(ms_since(t));
          }
          return v;
        });
        into.add(cost);
        if (first) at_once.push_back(values.front()), more.insert(more.end(), values.begin() + 1, values.end());
      };
      start(ours, true);
      start(again, false);
      if (round == 0) {
        test::Netns plain("plain");
        in_child([&](Meter&) {
          plain.enter();
          Programmed p;
          for (const auto& [key, value] : cloud(kTaps, kGroups)) p.update(key, value);
          p.flush();
          p.program();
          save_ruleset(plain, equal);
          return Values{};
        });
      }
    }
    {
      Host host;
      const auto n = command(host.ns, {"nft", "-f", equal});
      const auto i = command(host.ns, {"ip", "-batch", batch});
      const auto s = in_child([&](Meter& m) {
                       host.ns.enter();
                       m.start();
                       write_sysctls();
                       m.stop();
                       return Values{};
                     }).first;
      nft.add(n), ip.add(i), sysctl.add(s);
      theirs.add({n.wall_ms + i.wall_ms + s.wall_ms, n.cpu_ms + i.cpu_ms + s.cpu_ms, std::max(n.peak_mb, i.peak_mb)});
    }
  }
  ::unlink(equal.c_str());
  ::unlink(batch.c_str());
  fmt::print("\nstart with {} interfaces in {} groups, until all endpoints are up\n\n", kTaps, kGroups);
  fmt::print("| what | wall ms | CPU ms | peak MB | ours / this |\n|---|---|---|---|---|\n");
  const double mine = median(ours.wall);
  row("ours", ours);
  row("nft, ip and settings, one after the other (aim 1.3)", theirs, mine);
  row("of it `nft -f` of the equal ruleset", nft);
  row("of it `ip -batch`", ip);
  row("of it the settings", sysctl);
  row("ours, started again with all of them, nothing to change", again);
  fmt::print(
      "\none endpoint more through the whole engine, document to up: p50 {:.2f} ms, p99 {:.2f} ms ({} times); the "
      "first, at "
      "once behind the start: {} ms\n",
      quantile(more, 0.5), quantile(more, 0.99), more.size(), spread(at_once, "{:.1f}"));
}

}  // namespace calico::bench
