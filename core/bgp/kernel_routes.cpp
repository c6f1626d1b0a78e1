#include "core/bgp/kernel_routes.hpp"

#include <algorithm>
#include <cstring>

namespace calico::bgp {

using netlink::NextHop;

namespace {
std::uint64_t mix(std::uint64_t h, std::uint64_t v) {
  h = (h ^ v) * 0x9e3779b97f4a7c15ULL;
  return h ^ (h >> 29U);
}

std::uint64_t mix(std::uint64_t h, const Ip& ip) {
  const auto bytes = ip.bytes();
  for (std::size_t at = 0; at < bytes.size(); at += 4) {
    std::uint32_t word = 0;
    std::memcpy(&word, bytes.data() + at, sizeof word);
    h = mix(h, word);
  }
  return mix(h, bytes.size());
}
}  // namespace

// ---- ways ----

Ways::Ways() { ways_.resize(1); }

std::size_t Ways::ContentHash::operator()(const Content& hops) const noexcept {
  std::uint64_t h = hops.size();
  for (const auto& n : hops) {
    h = mix(h, (std::uint64_t{n.dev.value} << 32U) | (std::uint64_t{n.weight} << 1U) | (n.onlink ? 1U : 0U));
    if (n.via) h = mix(h, *n.via);
  }
  return h;
}

WayId Ways::add(Way way) {
  WayId id = 0;
  if (free_.empty()) {
    id = static_cast<WayId>(ways_.size());
    ways_.emplace_back();
  } else {
    id = free_.back();
    free_.pop_back();
  }
  ways_[id] = {.way = std::move(way), .refs = 0, .used = true, .noted = true};
  idle_.push_back(id);
  return id;
}

WayId Ways::of_object(std::uint32_t object) {
  if (const auto it = by_object_.find(object); it != by_object_.end()) return it->second;
  const auto id = add({.object = object, .hops = {}});
  by_object_.emplace(object, id);
  return id;
}

WayId Ways::of_hops(const std::vector<NextHop>& hops) {
  if (const auto it = by_hops_.find(hops); it != by_hops_.end()) return it->second;
  const auto id = add({.object = 0, .hops = hops});
  by_hops_.emplace(hops, id);
  return id;
}

WayId Ways::find_object(std::uint32_t object) const {
  const auto it = by_object_.find(object);
  return it == by_object_.end() ? kNoWay : it->second;
}

void Ways::unref(WayId id) {
  auto& s = ways_[id];
  if (--s.refs > 1 || s.noted || (s.refs == 1 && s.way.object == 0)) return;
  s.noted = true;
  idle_.push_back(id);
}

std::vector<WayId> Ways::over(IfIndex dev) const {
  std::vector<WayId> out;
  for (WayId id = 1; id < ways_.size(); ++id)
    if (ways_[id].used && std::any_of(ways_[id].way.hops.begin(), ways_[id].way.hops.end(),
                                      [dev](const NextHop& n) { return n.dev == dev; }))
      out.push_back(id);
  return out;
}

std::vector<std::uint32_t> Ways::collect() {
  std::vector<std::uint32_t> objects;
  for (const auto id : std::exchange(idle_, {})) {
    auto& s = ways_[id];
    s.noted = false;
    if (s.refs > 1) continue;
    if (s.way.object) objects.push_back(s.way.object);
    if (s.refs > 0) continue;
    if (s.way.object)
      by_object_.erase(s.way.object);
    else
      by_hops_.erase(s.way.hops);
    s = Slot{};
    free_.push_back(id);
  }
  return objects;
}

// ---- the table ----

RouteTable::RouteTable(Ways& ways, std::uint32_t metric) : ways_(ways), metric_(metric), index_(1024, kNone) {}

std::size_t RouteTable::home(const Prefix& prefix, std::uint32_t metric) const {
  return mix(mix((std::uint64_t{metric} << 8U) | prefix.len, prefix.addr), 0x5bd1U) & (index_.size() - 1);
}

RouteTable::Id RouteTable::find(const Prefix& prefix, std::uint32_t metric) const {
  for (auto at = home(prefix, metric); index_[at] != kNone; at = (at + 1) & (index_.size() - 1)) {
    const auto& e = slot(index_[at]);
    if (e.metric == metric && e.prefix == prefix) return index_[at];
  }
  return kNone;
}

void RouteTable::grow() {
  std::vector<Id> old(index_.size() * 2, kNone);
  old.swap(index_);
  for (const auto id : old) {
    if (id == kNone) continue;
    const auto& e = slot(id);
    auto at = home(e.prefix, e.metric);
    while (index_[at] != kNone) at = (at + 1) & (index_.size() - 1);
    index_[at] = id;
  }
}

RouteTable::Id RouteTable::find_or_add(const Prefix& prefix, std::uint32_t metric) {
  auto at = home(prefix, metric);
  for (; index_[at] != kNone; at = (at + 1) & (index_.size() - 1)) {
    const auto& e = slot(index_[at]);
    if (e.metric == metric && e.prefix == prefix) return index_[at];
  }
  Id id = kNone;
  if (free_.empty()) {
    id = limit_++;
    if (id / kChunk == chunks_.size()) chunks_.push_back(std::make_unique<Entry[]>(kChunk));
  } else {
    id = free_.back();
    free_.pop_back();
  }
  auto& e = slot(id);
  e = Entry{};
  e.prefix = prefix;
  e.metric = metric;
  e.used = true;
  index_[at] = id;
  if (++size_ * 2 > index_.size()) grow();
  if (metric != metric_) others_[prefix].push_back(metric);
  return id;
}

void RouteTable::release(Id id) {
  auto& e = slot(id);
  const auto mask = index_.size() - 1;
  auto hole = home(e.prefix, e.metric);
  while (index_[hole] != id) hole = (hole + 1) & mask;
  // What was pushed past the hole moves into it, so that a search never stops too early.
  for (auto at = (hole + 1) & mask; index_[at] != kNone; at = (at + 1) & mask) {
    const auto& other = slot(index_[at]);
    if (((at - home(other.prefix, other.metric)) & mask) < ((at - hole) & mask)) continue;
    index_[hole] = index_[at];
    hole = at;
  }
  index_[hole] = kNone;
  if (e.metric != metric_) {
    const auto it = others_.find(e.prefix);
    std::erase(it->second, e.metric);
    if (it->second.empty()) others_.erase(it);
  }
  e = Entry{};
  free_.push_back(id);
  --size_;
}

void RouteTable::move(Id id, Pending list) {
  auto& e = slot(id);
  if (e.pending == list) return;
  if (e.pending != Pending::none) {
    auto& from = lists_[static_cast<std::size_t>(e.pending)];
    (e.prev == kNone ? from.head : slot(e.prev).next) = e.next;
    (e.next == kNone ? from.tail : slot(e.next).prev) = e.prev;
    --from.size;
  }
  e.prev = e.next = kNone;
  e.pending = list;
  if (list == Pending::none) return;
  auto& to = lists_[static_cast<std::size_t>(list)];
  e.prev = to.tail;
  (to.tail == kNone ? to.head : slot(to.tail).next) = id;
  to.tail = id;
  ++to.size;
}

void RouteTable::settle(Id id) {
  const auto& e = slot(id);
  if (e.desired == e.actual) {
    move(id, Pending::none);
    if (e.desired == kNoWay) release(id);
  } else if (e.desired != kNoWay) {
    move(id, Pending::update);
  } else {
    move(id, e.withdrawn ? Pending::deletion : Pending::left_over);
  }
}

void RouteTable::change(Id id, WayId desired, WayId actual) {
  auto& e = slot(id);
  const bool was = e.desired != kNoWay && e.desired == e.actual;
  if (desired != kNoWay) ways_.ref(desired);
  if (actual != kNoWay) ways_.ref(actual);
  if (e.desired != kNoWay) ways_.unref(e.desired);
  if (e.actual != kNoWay) ways_.unref(e.actual);
  e.desired = desired;
  e.actual = actual;
  const bool is = desired != kNoWay && desired == actual;
  in_sync_ += static_cast<std::size_t>(is) - static_cast<std::size_t>(was);
  settle(id);
}

void RouteTable::set_desired(const Prefix& prefix, std::uint32_t metric, WayId way) {
  const auto id = find_or_add(prefix, metric);
  auto& e = slot(id);
  e.withdrawn = false;
  if (e.desired == way && e.pending != Pending::parked) return;
  change(id, way, e.actual);
}

void RouteTable::erase_desired(const Prefix& prefix, std::uint32_t metric) {
  const auto id = find(prefix, metric);
  if (id == kNone) return;
  slot(id).withdrawn = true;
  change(id, kNoWay, slot(id).actual);
}

void RouteTable::set_actual(const Prefix& prefix, std::uint32_t metric, WayId way) {
  const auto id = find_or_add(prefix, metric);
  auto& e = slot(id);
  e.epoch = epoch_;
  if (e.actual != way) change(id, e.desired, way);
}

void RouteTable::seen(const Prefix& prefix, std::uint32_t metric, WayId way) { set_actual(prefix, metric, way); }

void RouteTable::erase_actual(const Prefix& prefix, std::uint32_t metric) {
  const auto id = find(prefix, metric);
  if (id == kNone || slot(id).actual == kNoWay) return;
  slot(id).withdrawn = false;
  change(id, slot(id).desired, kNoWay);
}

void RouteTable::move_desired(WayId from, WayId to) {
  for (Id id = 0; id < limit_; ++id)
    if (slot(id).used && slot(id).desired == from) change(id, to, slot(id).actual);
}

const std::vector<std::uint32_t>* RouteTable::others(const Prefix& prefix) const {
  if (others_.empty()) return nullptr;
  const auto it = others_.find(prefix);
  return it == others_.end() ? nullptr : &it->second;
}

bool RouteTable::replacement_due(Id id) const {
  const auto& e = slot(id);
  const auto* metrics = others(e.prefix);
  if (!metrics) return false;
  const auto due = [&](std::uint32_t metric) {
    const auto other = metric == e.metric ? kNone : find(e.prefix, metric);
    return other != kNone && slot(other).desired != kNoWay && slot(other).actual == kNoWay;
  };
  return due(metric_) || std::any_of(metrics->begin(), metrics->end(), due);
}

void RouteTable::written(Id id) {
  if (slot(id).desired != kNoWay) change(id, slot(id).desired, slot(id).desired);
}

void RouteTable::removed(Id id) { change(id, slot(id).desired, kNoWay); }

void RouteTable::park(Id id) { move(id, Pending::parked); }

void RouteTable::unpark(const Prefix& prefix) {
  const auto one = [&](std::uint32_t metric) {
    const auto id = find(prefix, metric);
    if (id != kNone && slot(id).pending == Pending::parked) settle(id);
  };
  one(metric_);
  if (const auto* metrics = others(prefix))
    for (const auto metric : std::vector(*metrics)) one(metric);
}

void RouteTable::unpark_all() {
  for (auto id = first(Pending::parked); id != kNone;) {
    const auto after = next(id);
    settle(id);
    id = after;
  }
}

}  // namespace calico::bgp
