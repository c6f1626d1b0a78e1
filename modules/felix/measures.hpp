#pragma once
/// What felix counts: instruments of the process' Registry, under upstream's names where the meaning is upstream's.
/// The list with what each means, and upstream's that have no meaning here, is in README.md.
///
///   Measures m(registry, "compute-1");
///   m.updates_of(key).add();
///   m.failures.add();
///
/// Thread: any; made once, then an increment each. Owns: nothing; the Registry outlives it.
#include <chrono>
#include <string>
#include <string_view>

#include "core/metrics/metrics.hpp"
#include "core/model/compiler.hpp"
#include "core/sync/view.hpp"

namespace calico::felix {

class Measures {
 public:
  Measures(metrics::Registry& registry, const std::string& node);

  /// Changes of this key's kind.
  metrics::Counter& updates_of(std::string_view key);
  void sync_state(sync::Phase phase);
  /// Walks over every endpoint of the cloud: now and then, not at each change.
  void counts(const model::Compiler& compiler);
  /// A turn of the loop that took so long; what is beyond kSlow is counted.
  static constexpr std::chrono::milliseconds kSlow{5};
  void turn(std::chrono::nanoseconds took);

 private:
  metrics::Counter &endpoint_updates_, &policy_updates_, &tier_updates_, &profile_updates_, &set_updates_,
      &node_updates_, &configuration_updates_, &other_updates_;
  metrics::Gauge& resync_state_;
  metrics::Counter& resyncs_started_;
  sync::Phase phase_ = sync::Phase::waiting;
  metrics::Gauge &active_endpoints_, &active_policies_, &active_selectors_, &classes_;
  metrics::Gauge &all_endpoints_, &all_policies_, &all_hosts_, &all_tiers_, &all_profiles_, &all_sets_, &faults_;
  metrics::Gauge &chains_, &sets_;
  metrics::Counter& slow_turns_;

 public:
  metrics::Histogram& calculate;  ///< the compiler's flush
  metrics::Histogram& apply;      ///< a turn that wrote, kernel's answers included
  metrics::Histogram& revision_to_kernel;
  metrics::Gauge& first_apply;
  metrics::Counter& failures;
  metrics::Counter &reread_links, &reread_tables;
  metrics::Gauge &nft_commits, &nft_operations, &nft_refused, &netlink_writes;
  metrics::Gauge &up, &down, &closed;
  metrics::Gauge& ignored;  ///< values of FelixConfiguration that are not obeyed
};

}  // namespace calico::felix
