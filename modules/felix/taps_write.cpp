#include "modules/felix/taps.hpp"

#include <utility>

#include "core/netlink/sysctl.hpp"

namespace calico::felix {
namespace {

bool gone_already(int error) { return error == ENODEV || error == ENETDOWN || error == ENOENT || error == ESRCH; }

}  // namespace

void Taps::note_error(IfIndex dev, const std::string& what) {
  const auto link = links_.find(dev);
  if (link == links_.end()) return;
  auto tap = taps_.find(link->second.name);
  if (tap == taps_.end()) return;
  tap->second.error = what;
  changed_.insert(tap->second.key);
}

Status Taps::withdraw() {
  netlink::Batch b;
  std::vector<netlink::RouteKey> routes;
  // An address that passes from one interface to another: the route goes first, the new one comes after release().
  routes_.for_each_update([&](const auto& k, const netlink::Route& want, const netlink::Route* have) {
    if (!k.dst.is_host()) return;
    const auto link = links_.find(want.nexthops[0].dev);
    const auto held_by = holder_.find(k.dst.addr);
    if (link != links_.end() && held_by != holder_.end() && held_by->second != link->second.name) leave(k.dst.addr);
    if (!have || !held_.contains(k.dst.addr) || have->protocol != settings_.route_protocol) return;
    b.remove(*have);
    routes.push_back(k);
  });
  routes_.for_each_deletion([&](const auto& k, const netlink::Route& have) {
    if (is_being_replaced(k, have)) return;  // goes once the other is there
    b.remove(have);
    routes.push_back(k);
    // Its endpoint went while nobody looked (a restart).
    if (const auto h = holder_.find(k.dst.addr);
        k.dst.is_host() && h != holder_.end() && !claims(h->second, k.dst.addr))
      leave(k.dst.addr);
  });
  std::vector<NeighbourKey> neighbours;
  neighbours_.for_each_deletion([&](const auto& k, const netlink::Neighbour& have) {
    b.remove(have);
    neighbours.push_back(k);
  });
  // An interface whose endpoint is gone loses its class: nothing passes it any more.
  std::vector<std::uint32_t> devices(stale_groups_.begin(), stale_groups_.end());
  for (const auto d : devices) b.set_link_group(IfIndex{d}, 0);
  std::vector<IfIndex> buckets;
  qdiscs_.for_each_deletion([&](const auto& dev, const netlink::Qdisc& have) {
    b.remove(have);
    buckets.push_back(dev);
  });
  if (b.empty()) return {};
  auto done = nl_.commit(b);
  if (!done) return wrap(done.error(), "routes to remove");
  writes_ += b.size();
  for (std::size_t i = 0; i < routes.size(); ++i)
    if (const int e = done->error_of(i); e == 0 || gone_already(e)) routes_.mark_deleted(routes[i]);
  for (std::size_t i = 0; i < neighbours.size(); ++i)
    if (const int e = done->error_of(routes.size() + i); e == 0 || gone_already(e))
      neighbours_.mark_deleted(neighbours[i]);
  for (std::size_t i = 0; i < devices.size(); ++i)
    if (const int e = done->error_of(routes.size() + neighbours.size() + i); e == 0 || gone_already(e)) {
      stale_groups_.erase(devices[i]);
      if (auto l = links_.find(IfIndex{devices[i]}); l != links_.end() && e == 0) l->second.group = 0;
    }
  // One that does not go is somebody else's by now, or gone: it is not tried for ever.
  for (const auto dev : buckets) qdiscs_.mark_deleted(dev);
  return {};
}

/// Per-tap settings, each written only when it differs.
Status Taps::write_settings(Tap& tap, const netlink::Link& link) {
  using netlink::SysctlTree;
  struct Row {
    Family family;
    SysctlTree tree;
    const char* key;
    const char* value;
  };
  const bool metadata_here = settings_.metadata_address && settings_.metadata_address->is_loopback();
  // Without its route the host would answer, for the VM's own address, that somebody else has it.
  const bool answer = mode_of(tap) != RouteMode::withheld;
  const Row rows[] = {
      {Family::v4, SysctlTree::conf, "forwarding", "1"},
      {Family::v4, SysctlTree::conf, "rp_filter", "1"},
      {Family::v4, SysctlTree::conf, "proxy_arp", answer ? "1" : "0"},
      {Family::v4, SysctlTree::neigh, "proxy_delay", "0"},
      {Family::v4, SysctlTree::conf, "route_localnet", metadata_here ? "1" : "0"},
      {Family::v4, SysctlTree::conf, "send_redirects", "0"},
      {Family::v6, SysctlTree::conf, "accept_ra", "0"},
      {Family::v6, SysctlTree::conf, "proxy_ndp", "1"},
      {Family::v6, SysctlTree::neigh, "proxy_delay", "0"},
      {Family::v6, SysctlTree::conf, "forwarding", "1"},
  };
  for (const auto& row : rows) {
    const auto path = netlink::interface_sysctl(row.family, row.tree, link.name, row.key);
    if (!path) return tl::unexpected(path.error());
    auto wrote = netlink::sysctl_set(*path, row.value);
    if (!wrote && wrote.error().code == Errc::not_found && row.family == Family::v6) continue;  // IPv6 is off
    if (!wrote) return tl::unexpected(wrote.error());
    if (*wrote) ++writes_;
  }
  tap.settings_due = false;
  return {};
}

Status Taps::program() {
  netlink::Batch b;
  std::vector<std::string> classes;
  std::set<std::string> still_due;
  for (const auto& name : std::exchange(due_, {})) {
    auto it = taps_.find(name);
    if (it == taps_.end()) continue;
    Tap& tap = it->second;
    const auto* link = link_of(tap);
    if (!link) continue;
    tap.error.clear();
    if (tap.settings_due) {
      auto ok = write_settings(tap, *link);
      tap.settings_error = ok ? "" : ok.error().what;
      if (!ok) still_due.insert(name);
    }
    if (link->group != tap.plan.group) {
      b.set_link_group(link->index, tap.plan.group);
      classes.push_back(name);
    }
  }
  std::vector<NeighbourKey> neighbours;
  neighbours_.for_each_update([&](const auto& k, const netlink::Neighbour& want, const netlink::Neighbour*) {
    b.replace(want);
    neighbours.push_back(k);
  });
  std::vector<netlink::RouteKey> routes;
  routes_.for_each_update([&](const auto& k, const netlink::Route& want, const netlink::Route*) {
    if (k.dst.is_host() && held_.contains(k.dst.addr)) return;
    b.replace(want);
    routes.push_back(k);
  });
  std::vector<IfIndex> buckets;
  qdiscs_.for_each_update([&](const auto& dev, const netlink::Qdisc& want, const netlink::Qdisc*) {
    b.replace(want);
    buckets.push_back(dev);
  });
  if (!b.empty()) {
    auto done = nl_.commit(b);
    if (!done) {
      due_.insert(classes.begin(), classes.end());
      due_.insert(still_due.begin(), still_due.end());
      return wrap(done.error(), "interfaces, neighbours and routes");
    }
    writes_ += b.size();
    std::map<std::size_t, const Error*> failed;
    for (const auto& f : done->failed) failed[f.index] = &f.what;
    std::size_t op = 0;
    const auto refused = [&](IfIndex dev) {
      const auto it = failed.find(op++);
      if (it == failed.end()) return false;
      note_error(dev, it->second->what);
      return true;
    };
    for (const auto& name : classes) {
      auto& tap = taps_.at(name);
      if (refused(tap.index))
        still_due.insert(name);
      else if (auto l = links_.find(tap.index); l != links_.end())
        l->second.group = tap.plan.group;
      changed_.insert(tap.key);
    }
    for (const auto& k : neighbours) {
      if (refused(k.dev)) continue;
      neighbours_.mark_updated(k);
      if (auto l = links_.find(k.dev); l != links_.end())
        if (auto t = taps_.find(l->second.name); t != taps_.end()) changed_.insert(t->second.key);
    }
    for (const auto& k : routes) {
      const auto dev = routes_.desired(k)->nexthops[0].dev;
      if (refused(dev)) continue;
      routes_.mark_updated(k);
      if (auto l = links_.find(dev); l != links_.end() && k.dst.is_host()) holder_[k.dst.addr] = l->second.name;
      if (auto l = links_.find(dev); l != links_.end())
        if (auto t = taps_.find(l->second.name); t != taps_.end()) changed_.insert(t->second.key);
    }
    for (const auto dev : buckets) {
      if (const auto it = failed.find(op++); it != failed.end())
        note_bucket(dev, it->second->what);
      else
        qdiscs_.mark_updated(dev);
    }
  }
  due_.insert(still_due.begin(), still_due.end());
  return {};
}

/// A limit the kernel cannot set is a note: the endpoint works without it. Tried again when the endpoint changes.
void Taps::note_bucket(IfIndex dev, const std::string& what) {
  qdiscs_.erase_desired(dev);
  const auto link = links_.find(dev);
  if (link == links_.end()) return;
  if (auto tap = taps_.find(link->second.name); tap != taps_.end()) {
    tap->second.qdisc_error = what;
    changed_.insert(tap->second.key);
  }
}

}  // namespace calico::felix
