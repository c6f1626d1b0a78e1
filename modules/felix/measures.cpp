#include "modules/felix/measures.hpp"

#include "core/model/keys.hpp"

namespace calico::felix {
namespace {

metrics::Counter& updates(metrics::Registry& r, const char* type) {
  return r.counter("felix_calc_graph_updates_processed", "Changes of the datastore taken in, by kind",
                   {{"type", type}});
}
metrics::Gauge& endpoints(metrics::Registry& r, const char* status) {
  return r.gauge("felix_endpoints", "Endpoints of this host by their state", {{"status", status}});
}

}  // namespace

Measures::Measures(metrics::Registry& r, const std::string& node)
    : endpoint_updates_(updates(r, "workload-endpoint")),
      policy_updates_(updates(r, "policy")),
      tier_updates_(updates(r, "tier")),
      profile_updates_(updates(r, "profile")),
      set_updates_(updates(r, "network-set")),
      node_updates_(updates(r, "node")),
      configuration_updates_(updates(r, "configuration")),
      other_updates_(updates(r, "other")),
      resync_state_(r.gauge("felix_resync_state", "1 waiting for the datastore, 2 being compared with it, 3 in sync")),
      resyncs_started_(r.counter("felix_resyncs_started", "Times the comparison with the datastore began")),
      active_endpoints_(r.gauge("felix_active_local_endpoints", "Endpoints of this host")),
      active_policies_(r.gauge("felix_active_local_policies", "Policies that select one of them")),
      active_selectors_(r.gauge("felix_active_local_selectors", "Selectors in their rules")),
      classes_(r.gauge("felix_classes", "Distinct lists of policies among them")),
      all_endpoints_(r.gauge("felix_cluster_num_workload_endpoints", "Endpoints of the cloud")),
      all_policies_(r.gauge("felix_cluster_num_policies", "Policies of the cloud")),
      all_hosts_(r.gauge("felix_cluster_num_hosts", "Nodes of the cloud")),
      all_tiers_(r.gauge("felix_cluster_num_tiers", "Tiers of the cloud")),
      all_profiles_(r.gauge("felix_cluster_num_profiles", "Profiles of the cloud")),
      all_sets_(r.gauge("felix_cluster_num_network_sets", "Network sets of the cloud, both kinds")),
      faults_(r.gauge("felix_faulty_values", "Values of the datastore that cannot be read or enforced as written")),
      chains_(r.gauge("felix_nft_chains", "Chains of policies and classes wanted")),
      sets_(r.gauge("felix_nft_sets", "Sets wanted")),
      slow_turns_(r.counter("felix_slow_turns", "Turns of the loop that took longer than 5 ms")),
      calculate(r.histogram("felix_calc_graph_update_time_seconds", "From changes of the datastore to changes of rules",
                            metrics::seconds_buckets())),
      apply(r.histogram("felix_int_dataplane_apply_time_seconds", "Writing one change, until the kernel's last answer",
                        metrics::seconds_buckets())),
      revision_to_kernel(r.histogram("felix_revision_to_kernel_seconds",
                                     "From a change of the datastore seen to the kernel's answer, retries included",
                                     metrics::seconds_buckets())),
      first_apply(r.gauge("felix_int_dataplane_initial_resync_time_seconds",
                          "From the start to the first time everything was in the kernel")),
      failures(r.counter("felix_int_dataplane_failures", "Changes the kernel did not take and that are tried again")),
      reread_links(r.counter("felix_dataplane_rereads",
                             "Times the kernel was read again: news were lost, or others wrote", {{"what", "links"}})),
      reread_tables(r.counter("felix_dataplane_rereads",
                              "Times the kernel was read again: news were lost, or others wrote",
                              {{"what", "nftables"}})),
      nft_commits(r.gauge("felix_nft_calls", "Transactions of nf_tables since the start")),
      nft_operations(r.gauge("felix_nft_operations", "Operations in them")),
      nft_refused(r.gauge("felix_nft_refused", "Chains and sets the kernel refuses now")),
      netlink_writes(r.gauge("felix_netlink_writes", "Changes of links, routes and neighbours since the start")),
      up(endpoints(r, "up")),
      down(endpoints(r, "down")),
      closed(r.gauge("felix_endpoints_closed", "Endpoints of this host that a fault keeps closed")),
      ignored(r.gauge("felix_configuration_ignored", "Values of FelixConfiguration that are not obeyed")) {
  r.gauge("felix_host", "This host's name as the label; always 1", {{"host", node}}).set(1);
  sync_state(sync::Phase::waiting);
}

metrics::Counter& Measures::updates_of(std::string_view key) {
  if (key.starts_with(model::kWorkloadEndpoints)) return endpoint_updates_;
  if (key.starts_with(model::kNetworkPolicies) || key.starts_with(model::kGlobalNetworkPolicies))
    return policy_updates_;
  if (key.starts_with(model::kTiers)) return tier_updates_;
  if (key.starts_with(model::kProfiles)) return profile_updates_;
  if (key.starts_with(model::kNetworkSets) || key.starts_with(model::kGlobalNetworkSets)) return set_updates_;
  if (key.starts_with(model::kNodes)) return node_updates_;
  if (key.starts_with(model::kFelixConfigurations)) return configuration_updates_;
  return other_updates_;
}

void Measures::sync_state(sync::Phase phase) {
  resync_state_.set(phase == sync::Phase::waiting ? 1 : phase == sync::Phase::in_sync ? 3 : 2);
  if (phase == sync::Phase::resyncing && phase_ != phase) resyncs_started_.add();
  phase_ = phase;
}

void Measures::counts(const model::Compiler& compiler) {
  const auto d = [](std::size_t n) { return static_cast<double>(n); };
  const auto c = compiler.counts();
  active_endpoints_.set(d(c.local_endpoints));
  active_policies_.set(d(c.active_policies));
  active_selectors_.set(d(c.selector_sets));
  classes_.set(d(c.classes));
  all_endpoints_.set(d(c.endpoints));
  all_policies_.set(d(c.policies));
  all_hosts_.set(d(c.nodes));
  all_tiers_.set(d(c.tiers));
  all_profiles_.set(d(c.profiles));
  all_sets_.set(d(c.network_sets));
  faults_.set(d(compiler.faults().size()));
  chains_.set(d(compiler.ruleset().chains.size()));
  sets_.set(d(compiler.ruleset().sets.size()));
}

void Measures::turn(std::chrono::nanoseconds took) {
  if (took > kSlow) slow_turns_.add();
}

}  // namespace calico::felix
