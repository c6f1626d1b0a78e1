#pragma once
/// The parts of felix_bench; each prints its own table.
namespace calico::bench {

void ruleset_bench();  ///< a whole ruleset, beside nft -f
void start_bench();    ///< a whole start with real interfaces, beside nft, ip and sysctls
void change_bench();   ///< one change among 10,000 endpoints
void packet_bench();   ///< what a packet costs
void memory_bench();   ///< a large cluster, and felix when nothing happens

}  // namespace calico::bench
