#include "core/node/collectors.hpp"

#include "core/bgp/speaker.hpp"
#include "core/metrics/page.hpp"
#include "core/store/kv.hpp"
#include "core/sync/service.hpp"

namespace calico::node {
namespace {

template <class T>
double d(T v) {
  return static_cast<double>(v);
}

}  // namespace

void collect_sync(metrics::Page& page, const sync::Service& service) {
  const auto s = service.status();
  using sync::Phase;
  for (const auto phase : {Phase::waiting, Phase::resyncing, Phase::in_sync, Phase::refusing})
    page.gauge("calico_sync_phase", "1 for how the local store stands to the datastore", s.state.phase == phase ? 1 : 0,
               {{"phase", std::string(sync::to_string(phase))}});
  page.gauge("calico_sync_revision", "Revision of the datastore the local store has", d(s.state.revision));
  page.gauge("calico_sync_keys", "Keys of the local store", d(s.keys));
  page.gauge("calico_sync_bytes", "Bytes of its keys and values", d(s.bytes));
  page.counter("calico_sync_lists_total", "Times everything was read", d(s.lists));
  page.counter("calico_sync_resumes_total", "Times a watch went on where it had ended", d(s.resumes));
  page.counter("calico_sync_events_total", "Changes told by the datastore", d(s.events));
  page.counter("calico_sync_refusals_total", "Times the datastore's content looked like a loss", d(s.refusals));
  page.gauge("calico_sync_reports_pending", "Keys of this node that are not yet written", d(s.reports_pending));
  page.gauge("calico_sync_reports", "Keys of this node", d(s.reports_total));
}

void collect_store(metrics::Page& page, const store::Kv& kv) {
  const auto s = kv.stats();
  page.gauge("calico_store_revision", "Revision of the embedded datastore", d(kv.revision()));
  page.gauge("calico_store_keys", "Its keys", d(s.keys));
  page.gauge("calico_store_watchers", "Watches open", d(s.watchers));
  page.counter("calico_store_commits_total", "Transactions written to the disk", d(s.commits));
  page.counter("calico_store_requests_total", "Requests answered by the writer", d(s.requests));
  page.gauge("calico_store_file_bytes", "Its file with the log", d(s.file_bytes));
  page.gauge("calico_store_disk_failed", "1 while the disk refuses writes", s.disk_error.empty() ? 0 : 1);
}

void collect_bgp(metrics::Page& page, const bgp::Speaker& speaker) {
  const auto c = speaker.counts(std::chrono::seconds(1));
  page.gauge("calico_bgp_up", "1 when the speaker runs and answered within a second", c ? 1 : 0);
  if (!c) return;
  for (const auto& [state, n] : c->sessions)
    page.gauge("calico_bgp_sessions", "Neighbours by state of their session", d(n), {{"state", state}});
  page.gauge("calico_bgp_flaps", "Sessions lost by the neighbours there are", d(c->flaps));
  page.gauge("calico_bgp_updates", "UPDATE messages with the neighbours there are", d(c->updates_in),
             {{"direction", "in"}});
  page.gauge("calico_bgp_updates", "UPDATE messages with the neighbours there are", d(c->updates_out),
             {{"direction", "out"}});
  page.gauge("calico_bgp_treated_as_withdraw", "Malformed announcements (RFC 7606)", d(c->treated_as_withdraw));
  page.gauge("calico_bgp_session_routes", "Routes of sessions", d(c->imported), {{"kind", "imported"}});
  page.gauge("calico_bgp_session_routes", "Routes of sessions", d(c->exported), {{"kind", "exported"}});
  page.gauge("calico_bgp_session_routes", "Routes of sessions", d(c->stale), {{"kind", "stale"}});
  page.gauge("calico_bgp_routes", "Routes known", d(c->routes_v4), {{"family", "ipv4"}});
  page.gauge("calico_bgp_routes", "Routes known", d(c->routes_v6), {{"family", "ipv6"}});
  page.gauge("calico_bgp_kernel_routes", "Routes exchanged with the kernel", d(c->kernel_announced),
             {{"kind", "announced"}});
  page.gauge("calico_bgp_kernel_routes", "Routes exchanged with the kernel", d(c->kernel_installed),
             {{"kind", "installed"}});
  page.gauge("calico_bgp_kernel_routes", "Routes exchanged with the kernel", d(c->kernel_failed), {{"kind", "failed"}});
  page.gauge("calico_bgp_isolated", "1 when no neighbour of several is reached", c->isolated ? 1 : 0);
}

}  // namespace calico::node
