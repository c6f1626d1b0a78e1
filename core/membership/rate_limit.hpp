#pragma once
/// How often one address may try to join: `burst` at once, then one more every `refill`. An IPv6 host is its /64.
///
///   RateLimit limit({.burst = 10, .refill = 6s});
///   if (!limit.take(ip, clock.now())) …   // too many: 429
///   limit.give_back(ip);                  // it was a good one after all
///
/// Memory is bounded: when the table is full, addresses whose allowance is whole again are forgotten; if there are
/// none, newcomers share one allowance. Thread: one loop. Time as a parameter.
#include <unordered_map>

#include "core/base/clock.hpp"
#include "core/base/ip.hpp"

namespace calico::membership {

class RateLimit {
 public:
  struct Options {
    int burst = 10;
    Duration refill = std::chrono::seconds(6);
    std::size_t addresses = 4096;
  };
  explicit RateLimit(Options options) : options_(options) {}

  [[nodiscard]] bool take(const Ip& from, TimePoint now);
  void give_back(const Ip& from);
  std::size_t size() const { return known_.size(); }

 private:
  struct Allowance {
    int left;
    TimePoint since;  ///< of the last refill counted
  };
  void refill(Allowance& a, TimePoint now) const;
  Allowance& of(const Ip& key, TimePoint now);

  Options options_;
  std::unordered_map<Ip, Allowance> known_;
  Allowance shared_{0, TimePoint::min()};
};

}  // namespace calico::membership
