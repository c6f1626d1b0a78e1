#pragma once
/// What the clients of one scenario announce: prefixes under dense ids, attribute sets, and the UPDATEs, built before
/// the clock starts. A prefix on the wire gives its id by arithmetic, without a table.
///
/// Clients 0 … senders-1 announce, the following `receivers` only listen; any number after them may join late. Client i
/// has the address 10.66.1.1, 10.66.1.2, … and that as router id.
/// Owns: all messages; views live as long as the workload.
#include <string>

#include "tests/bench/bgp/wire.hpp"

namespace calico::bench {

enum class Shape : std::uint8_t {
  hosts4,    ///< /32, one attribute set a sender, as Calico's nodes announce
  hosts6,    ///< /128 over the same IPv4 sessions
  internet,  ///< /14 to /24, paths of 2-7, MED, communities, about 3.8 prefixes a set
};

struct Plan {
  std::string name;
  Shape shape = Shape::hosts4;
  std::uint32_t senders = 0, receivers = 0;
  std::uint32_t per_sender = 0;  ///< announced at the start
  std::uint32_t spare = 0;       ///< more ids a sender, for probes
  bool senders_counted = true;   ///< senders must learn the others' routes too
};

/// What belongs to the prefixes of one set, as it was sent.
struct AttributeSet {
  std::uint32_t owner = 0;
  Bytes attributes;  ///< in ascending type; for IPv6 without the next hop
};

class Workload {
 public:
  static constexpr std::uint32_t kNone = UINT32_MAX;
  static constexpr std::uint32_t kReflector = 0x0a420001;  // 10.66.0.1
  static constexpr std::uint16_t kAs = 64512;

  explicit Workload(Plan plan);

  const Plan& plan() const { return plan_; }
  bool ipv6() const { return plan_.shape == Shape::hosts6; }
  std::uint32_t clients() const { return plan_.senders + plan_.receivers; }
  std::uint32_t ids() const { return ids_; }
  std::uint32_t announced() const { return plan_.senders * plan_.per_sender; }
  /// Prefixes client i must hold in the end.
  std::uint32_t expected(std::uint32_t client) const {
    return announced() - (client < plan_.senders ? plan_.per_sender : 0);
  }
  static std::uint32_t address(std::uint32_t client) {
    return 0x0a420000U + ((1 + client / 250) << 8U) + 1 + client % 250;
  }
  static Address6 next_hop6(std::uint32_t client);

  /// A sender's whole announcement, and its end; `end_of_rib` follows the first.
  View announce(std::uint32_t sender) const { return announce_[sender]; }
  View withdraw(std::uint32_t sender) const { return withdraw_[sender]; }
  /// One change of `count` prefixes from the sender's `first`-th on (spare ones follow the announced). Host shapes.
  Bytes some(std::uint32_t sender, std::uint32_t first, std::uint32_t count, bool announce) const;
  /// A sender's announcement as the reflector must pass it on, packed as well as can be.
  Bytes reflected(std::uint32_t sender) const;
  std::uint32_t id(std::uint32_t sender, std::uint32_t n) const { return sender * stride_ + n; }

  const AttributeSet& set(std::uint32_t index) const { return sets_[index]; }
  std::size_t sets() const { return sets_.size(); }

  /// Id of the prefix at p (its length byte), kNone when it is none of ours; `used` is its size on the wire, 0 when it
  /// is cut short or not of the family.
  template <Shape S>
  std::uint32_t id_at(const std::uint8_t* p, const std::uint8_t* end, std::size_t& used) const {
    const auto left = static_cast<std::size_t>(end - p);
    if constexpr (S == Shape::hosts4) {
      if (left >= 5 && p[0] == 32) {
        used = 5;
        const auto n = be32(p + 1) - kHosts4;
        return n < ids_ ? n : kNone;
      }
    } else if constexpr (S == Shape::hosts6) {
      if (left >= 17 && p[0] == 128) {
        used = 17;
        const auto n = be32(p + 13);
        return n < ids_ && std::memcmp(p + 1, kHosts6.data(), 12) == 0 ? n : kNone;
      }
    }
    return id_slowly(p, left, used);
  }
  template <Shape S>
  std::uint32_t set_of(std::uint32_t id) const {
    if constexpr (S == Shape::internet) return set_of_[id];
    return id / stride_;
  }

 private:
  static constexpr std::uint32_t kHosts4 = 0x0a800000;  // 10.128.0.0
  static constexpr std::array<std::uint8_t, 12> kHosts6 = {0xfd, 0, 0, 0x65};
  static constexpr unsigned kShortest = 14, kLongest = 24;
  /// Prefixes of one length: the k-th is (k * odd) modulo 2^bits, counted from 128.0.0.0, so that they lie scattered.
  struct Length {
    std::uint32_t first = 0, count = 0, mask = 0, odd = 1, inverse = 1;
  };

  void make_hosts();
  void make_internet();
  Nlri nlri(std::uint32_t id) const;
  std::uint32_t id_slowly(const std::uint8_t* p, std::size_t left, std::size_t& used) const;

  Plan plan_;
  std::uint32_t ids_ = 0, stride_ = 1;
  std::array<Length, kLongest + 1> lengths_{};
  std::vector<AttributeSet> sets_;
  std::vector<std::uint32_t> set_of_;  // internet only
  std::vector<Bytes> announce_, withdraw_;
};

}  // namespace calico::bench
