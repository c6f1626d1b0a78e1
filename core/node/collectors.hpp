#pragma once
/// What the shared parts of a node count anyway, as samples. Names of our own: upstream has none for these.
/// Thread: any; collect_bgp waits a second at most for the speaker's loop.
namespace calico::bgp {
class Speaker;
}
namespace calico::metrics {
class Page;
}
namespace calico::store {
class Kv;
}
namespace calico::sync {
class Service;
}

namespace calico::node {

void collect_sync(metrics::Page& page, const sync::Service& service);
void collect_store(metrics::Page& page, const store::Kv& kv);
void collect_bgp(metrics::Page& page, const bgp::Speaker& speaker);

}  // namespace calico::node
