#include "core/membership/rate_limit.hpp"

#include <algorithm>

namespace calico::membership {
namespace {

Ip key_of(const Ip& from) { return from.is_v6() ? Prefix{from, 64}.masked().addr : from; }

}  // namespace

void RateLimit::refill(Allowance& a, TimePoint now) const {
  if (now <= a.since) return;
  const auto steps = (now - a.since) / options_.refill;
  if (steps >= options_.burst - a.left) {
    a.left = options_.burst;
    a.since = now;
    return;
  }
  a.left += static_cast<int>(steps);
  a.since += steps * options_.refill;
}

RateLimit::Allowance& RateLimit::of(const Ip& key, TimePoint now) {
  const auto it = known_.find(key);
  if (it != known_.end()) return it->second;
  if (known_.size() >= options_.addresses) {
    for (auto at = known_.begin(); at != known_.end();) {
      refill(at->second, now);
      at = at->second.left >= options_.burst ? known_.erase(at) : std::next(at);
    }
    if (known_.size() >= options_.addresses) {
      if (shared_.since == TimePoint::min()) shared_ = {options_.burst, now};
      return shared_;
    }
  }
  return known_.emplace(key, Allowance{options_.burst, now}).first->second;
}

bool RateLimit::take(const Ip& from, TimePoint now) {
  auto& a = of(key_of(from), now);
  refill(a, now);
  if (a.left == 0) return false;
  --a.left;
  return true;
}

void RateLimit::give_back(const Ip& from) {
  const auto it = known_.find(key_of(from));
  if (it != known_.end()) it->second.left = std::min(it->second.left + 1, options_.burst);
}

}  // namespace calico::membership
