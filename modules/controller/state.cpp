#include "modules/controller/state.hpp"

#include <algorithm>

namespace calico::controller {

namespace {

void add(IdIndex& index, const std::string& key, const std::string& id) {
  if (!key.empty()) index[key].insert(id);
}
void drop(IdIndex& index, const std::string& key, const std::string& id) {
  auto it = index.find(key);
  if (it == index.end()) return;
  it->second.erase(id);
  if (it->second.empty()) index.erase(it);
}

}  // namespace

const IdSet& State::lookup(const IdIndex& index, std::string_view key) {
  static const IdSet none;
  auto it = index.find(key);
  return it == index.end() ? none : it->second;
}

std::vector<const Rule*> State::rules_in_order(std::string_view group) const {
  std::vector<const Rule*> rules;
  for (const auto& id : rules_of(group)) rules.push_back(find<Rule>(id));
  std::sort(rules.begin(), rules.end(), [](const Rule* a, const Rule* b) { return a->order < b->order; });
  return rules;
}

const SecurityGroup* State::default_group(std::string_view project) const {
  auto it = default_groups_.find(project);
  return it == default_groups_.end() ? nullptr : find<SecurityGroup>(it->second);
}

const Allocations* State::allocations(std::string_view subnet) const {
  auto it = allocations_.find(subnet);
  return it == allocations_.end() ? nullptr : &it->second;
}

bool State::mac_used(std::string_view network, const Mac& mac) const {
  return macs_.contains({std::string(network), mac});
}

const Subnet* State::overlapping(const Prefix& cidr) const {
  // No two subnets overlap, so only the last one that starts at or before our end can share addresses with us.
  auto it = cidrs_.upper_bound(cidr.last());
  if (it == cidrs_.begin()) return nullptr;
  const Subnet* before = find<Subnet>(std::prev(it)->second);
  if (before->cidr.family() != cidr.family()) return nullptr;
  return before->cidr.contains(cidr) || cidr.contains(before->cidr) ? before : nullptr;
}

void State::advance_cursor(const std::string& subnet, const Ip& ip) {
  auto it = allocations_.find(subnet);
  if (it == allocations_.end()) return;
  it->second.cursor = ip;
  it->second.cursor_set = true;
}

void State::link(const Subnet& s) {
  add(subnets_by_network_, s.network, s.id);
  allocations_[s.id];  // stays while the subnet is replaced: see unlink
  cidrs_.emplace(s.cidr.addr, s.id);
}
void State::unlink(const Subnet& s) {
  drop(subnets_by_network_, s.network, s.id);
  auto used = allocations_.find(s.id);
  if (used != allocations_.end() && used->second.used.empty()) allocations_.erase(used);
  auto [first, last] = cidrs_.equal_range(s.cidr.addr);
  for (auto it = first; it != last; ++it) {
    if (it->second == s.id) {
      cidrs_.erase(it);
      break;
    }
  }
}

void State::link(const Port& p) {
  add(ports_by_network_, p.network, p.id);
  add(ports_by_device_, p.device, p.id);
  for (const auto& g : p.groups) add(ports_by_group_, g, p.id);
  for (const auto& f : p.fixed_ips) allocations_[f.subnet].used[f.ip] = p.id;
  macs_.emplace(p.network, p.mac);
}
void State::unlink(const Port& p) {
  drop(ports_by_network_, p.network, p.id);
  drop(ports_by_device_, p.device, p.id);
  for (const auto& g : p.groups) drop(ports_by_group_, g, p.id);
  for (const auto& f : p.fixed_ips) {
    auto it = allocations_.find(f.subnet);
    if (it == allocations_.end()) continue;
    auto ip = it->second.used.find(f.ip);
    if (ip != it->second.used.end() && ip->second == p.id) it->second.used.erase(ip);
  }
  macs_.erase({p.network, p.mac});
}

void State::link(const SecurityGroup& g) {
  if (g.name == "default") default_groups_[g.project] = g.id;
}
void State::unlink(const SecurityGroup& g) {
  auto it = default_groups_.find(g.project);
  if (it != default_groups_.end() && it->second == g.id) default_groups_.erase(it);
}

void State::link(const Rule& r) {
  add(rules_by_group_, r.group, r.id);
  if (r.remote_group) add(rules_by_remote_, *r.remote_group, r.id);
  rule_order_ = std::max(rule_order_, r.order);
}
void State::unlink(const Rule& r) {
  drop(rules_by_group_, r.group, r.id);
  if (r.remote_group) drop(rules_by_remote_, *r.remote_group, r.id);
}

void Change::rollback() {
  for (auto it = touched_.rbegin(); it != touched_.rend(); ++it) {
    if (it->before) {
      std::visit([&](auto& r) { state_.put(std::move(r)); }, *it->before);
      continue;
    }
    switch (it->kind) {
      case Kind::network:
        state_.erase<Network>(it->id);
        break;
      case Kind::subnet:
        state_.erase<Subnet>(it->id);
        break;
      case Kind::port:
        state_.erase<Port>(it->id);
        break;
      case Kind::group:
        state_.erase<SecurityGroup>(it->id);
        break;
      case Kind::rule:
        state_.erase<Rule>(it->id);
        break;
    }
  }
  touched_.clear();
  seen_.clear();
}

}  // namespace calico::controller
