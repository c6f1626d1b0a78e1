// What felix costs: a ruleset and a start beside nft and ip, one change, a packet, memory, idleness. Prints, asserts
// nothing but that what was measured happened. Namespaces of its own.
//
//   felix_bench [ruleset] [start] [change] [packet] [memory]     none: all
#include <cstring>
#include <exception>

#include "tests/bench/felix/measure.hpp"
#include "tests/bench/felix/sections.hpp"

int main(int argc, char** argv) {
  using namespace calico;
  const auto why_not = test::netns_refused();
  if (!why_not.empty()) {
    fmt::print("felix_bench: SKIPPED, needs root and network namespaces: {}\n", why_not);
    return 0;
  }
  const std::pair<const char*, void (*)()> sections[] = {{"ruleset", bench::ruleset_bench},
                                                         {"start", bench::start_bench},
                                                         {"change", bench::change_bench},
                                                         {"packet", bench::packet_bench},
                                                         {"memory", bench::memory_bench}};
  int rc = 0;
  for (const auto& [name, run] : sections) {
    bool wanted = argc < 2;
    for (int i = 1; i < argc; ++i) wanted = wanted || std::strcmp(argv[i], name) == 0;
    if (!wanted) continue;
    try {
      run();
    } catch (const std::exception& e) {
      fmt::print("felix_bench {}: failed: {}\n", name, e.what());
      rc = 1;
    }
    std::fflush(stdout);
  }
  return rc;
}
