// One change among 10,000 endpoints, from the document to the kernel's acknowledgement of all of it, beside nft doing
// the same to the equal ruleset.
#include <fstream>

#include "tests/bench/felix/programmed.hpp"
#include "tests/bench/felix/sections.hpp"

namespace calico::bench {
namespace {

constexpr int kEndpoints = 10000;
constexpr int kGroups = 200;
constexpr std::size_t kTimes = 300;

void print(const char* what, const Values& ms, double cpu, const char* aim) {
  fmt::print("| {} | {:.3f} | {:.3f} | {:.3f} | {:.3f} | {} |\n", what, quantile(ms, 0.5), quantile(ms, 0.99),
             quantile(ms, 1), cpu, aim);
  std::fflush(stdout);
}

}  // namespace

void change_bench() {
  const auto equal = fmt::format("/tmp/felix-bench-{}-equal.nft", ::getpid());
  test::Netns ns("change");
  fmt::print("\n{} endpoints in {} groups, {} times each: document to the kernel's answer\n\n", kEndpoints, kGroups,
             kTimes);
  fmt::print("| change | p50 ms | p99 ms | most ms | CPU ms | aim, p99 |\n|---|---|---|---|---|---|\n");
  in_child([&](Meter&) {
    ns.enter();
    Programmed p;
    for (const auto& [key, value] : cloud(kEndpoints, kGroups)) p.update(key, value);
    p.flush();
    p.program();
    save_ruleset(ns, equal);
    int next = kEndpoints;
    const auto series = [&](const char* what, const char* aim, const std::function<KeyValue(std::size_t)>& change) {
      Values ms;
      double cpu = 0;
      for (std::size_t i = 0; i < kTimes; ++i) {
        const auto [key, value] = change(i);
        const auto before = p.firewall().operations();
        const auto c = own_cpu_ms();
        const auto t = Clock::now();
        p.update(key, value);
        p.flush();
        p.program();
        ms.push_back(ms_since(t));
        cpu += own_cpu_ms() - c;
        if (p.firewall().operations() == before) throw std::runtime_error(std::string(what) + ": nothing was written");
      }
      print(what, ms, cpu / static_cast<double>(kTimes), aim);
    };
    series("an endpoint of a known class", "2", [&](std::size_t i) {
      const int n = next++;
      return KeyValue(endpoint_key(n), endpoint(n, {static_cast<int>(i) % kGroups}));
    });
    series("an endpoint of a new class", "8", [&](std::size_t i) {
      const int n = next++;
      const int g = static_cast<int>(i) % kGroups;
      return KeyValue(endpoint_key(n), endpoint(n, {g, (g + 2 + static_cast<int>(i) / kGroups) % kGroups}));
    });
    series("one rule of a group", "8", [&](std::size_t i) {
      const int g = static_cast<int>(i) % kGroups;
      return KeyValue(group_key(g), group(g, 1000 + static_cast<int>(i)));
    });
    series("one member of a group, on another host", "2", [&](std::size_t i) {
      const int n = next++;
      return KeyValue(endpoint_key(n, "other"), endpoint(n, {static_cast<int>(i) % kGroups}, "other"));
    });
    return Values{};
  });
  // nft with the same: the process, and what it has to read first.
  test::Netns other("nft");
  command(other, {"nft", "-f", equal});
  ::unlink(equal.c_str());
  const auto batch = fmt::format("/tmp/felix-bench-{}-change.nft", ::getpid());
  const auto nft = [&](const char* what, const std::function<std::string(int)>& text) {
    Values ms;
    double cpu = 0;
    for (int i = 0; i < 7; ++i) {
      std::ofstream(batch) << text(i);
      const auto c = command(other, {"nft", "-f", batch});
      ms.push_back(c.wall_ms), cpu += c.cpu_ms / 7;
    }
    print(what, ms, cpu, "");
  };
  nft("`nft -f`: the elements of an endpoint of a known class", [](int i) {
    const int n = 2 * kEndpoints + i;
    const auto who = fmt::format("\"{}\" . {}", tap(n), mac(n).to_string());
    return fmt::format(
        "add element inet calico src4 {{ {0} . {1} }}\nadd element inet calico src6 {{ {0} . {2} }}\n"
        "add element inet calico mac {{ {0} }}\nadd element arp calico arp-src {{ {0} . {1} }}\n",
        who, address4(n), address6(n));
  });
  nft("`nft -f`: one rule of a group", [](int i) {
    return fmt::format(
        "flush chain inet calico in/openstack/ossg.default.g{0}\n"
        "add rule inet calico in/openstack/ossg.default.g{0} tcp dport {{ 22, {1} }} accept\n",
        i, 2000 + i);
  });
  ::unlink(batch.c_str());
}

}  // namespace calico::bench
