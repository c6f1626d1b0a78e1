// A whole ruleset, from the datastore's documents to the kernel's acknowledgement, beside `nft -f` of the equal one
// (what nft prints of ours) and of a Felix-shaped one. Alternating, each in a new namespace and a process of its own.
#include <fstream>

#include "tests/bench/felix/felix_shaped.hpp"
#include "tests/bench/felix/programmed.hpp"
#include "tests/bench/felix/sections.hpp"

namespace calico::bench {

void ruleset_bench() {
  constexpr int kGroups = 200;
  for (const int n : {1000, 10000}) {
    const int rounds = n > 1000 ? 3 : 5;
    const auto equal = fmt::format("/tmp/felix-bench-{}-equal.nft", ::getpid());
    const auto shaped = fmt::format("/tmp/felix-bench-{}-shaped.nft", ::getpid());
    std::ofstream(shaped) << felix_shaped(n, kGroups);
    Costs ours, parts[3], nft, felix;
    double rules = 0, elements = 0;
    for (int round = 0; round < rounds; ++round) {
      {
        test::Netns ns("ours");
        const auto [cost, values] = in_child([&](Meter& m) {
          ns.enter();
          const auto content = cloud(n, kGroups);
          Programmed p;
          m.start();
          auto t = Clock::now();
          Values v;
          const auto lap = [&] { v.push_back(ms_since(std::exchange(t, Clock::now()))); };
          for (const auto& [key, value] : content) p.update(key, value);
          lap();
          p.flush();
          lap();
          p.program();
          lap();
          m.stop();
          double r = 0, e = 0;
          for (const auto& [name, c] : p.compiler().ruleset().chains) r += static_cast<double>(c.size());
          for (const auto& [name, s] : p.compiler().ruleset().sets) e += static_cast<double>(s.elements.size());
          v.insert(v.end(), {r, e});
          return v;
        });
        ours.add(cost);
        for (std::size_t i = 0; i < 3; ++i) parts[i].wall.push_back(values[i]);
        rules = values[3], elements = values[4];
        if (round == 0) save_ruleset(ns, equal);
      }
      {
        test::Netns ns("nft");
        nft.add(command(ns, {"nft", "-f", equal}));
      }
      if (n <= 1000 || round == 0) {
        test::Netns ns("shaped");
        felix.add(command(ns, {"nft", "-f", shaped}));
      }
    }
    ::unlink(equal.c_str());
    ::unlink(shaped.c_str());
    fmt::print("\n{} endpoints in {} groups: {:.0f} rules, {:.0f} elements; from documents to the kernel's answer\n\n",
               n, kGroups, rules, elements);
    fmt::print("| what | wall ms | CPU ms | peak MB | ours / this |\n|---|---|---|---|---|\n");
    const double mine = median(ours.wall);
    row("ours", ours);
    row("`nft -f` of the equal ruleset", nft, mine);
    row("`nft -f` of the Felix-shaped ruleset", felix, mine);
    fmt::print("\nof ours, ms: documents read {}, compiled {}, written {}\n", spread(parts[0].wall),
               spread(parts[1].wall), spread(parts[2].wall));
  }
}

}  // namespace calico::bench
