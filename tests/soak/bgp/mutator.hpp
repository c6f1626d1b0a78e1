#pragma once
/// Streams of a hostile neighbour: noise, a valid session that turns to noise, valid messages with damage. Its prefixes
/// are not those of a Model (172.16/12), and what it says in a valid OPEN keeps no routes after it is gone.
/// Thread: any. Owns: nothing; the generator is borrowed.
#include <random>

#include "tests/soak/bgp/swarm.hpp"

namespace calico::soak {

class Mutator {
 public:
  explicit Mutator(std::mt19937& random) : random_(random) {}

  /// All that one connection from `source` says.
  Bytes stream(std::uint32_t source) {
    const auto open = open_message({.source = source});
    const auto keepalive = bench::keepalive_message();
    Bytes out;
    switch (below(6)) {
      case 0:  // noise
        append(out, noise(1 + below(5000)));
        break;
      case 1:  // a damaged OPEN, and nothing that a session would take after it
        append(out, damaged(open));
        break;
      case 2:  // a session, then noise
        append(out, open, keepalive, updates(source, 1 + below(5)), noise(1 + below(5000)));
        break;
      case 3:  // headers that are right but for length or type
        append(out, open, keepalive);
        for (auto n = below(10); n > 0; --n) append(out, header());
        break;
      case 4:  // begun and not ended
        append(out, open, keepalive, updates(source, 1));
        out.resize(out.size() - 1 - below(20));
        break;
      default:  // messages with damage, some still valid
        append(out, open, keepalive);
        for (auto n = 1 + below(20); n > 0; --n)
          append(out, below(3) ? damaged(updates(source, 1)) : updates(source, 1));
        break;
    }
    return out;
  }

 private:
  std::uint32_t below(std::size_t n) { return static_cast<std::uint32_t>(random_() % n); }
  std::uint8_t byte() { return static_cast<std::uint8_t>(random_()); }
  template <class... B>
  static void append(Bytes& out, const B&... more) {
    (out.insert(out.end(), more.begin(), more.end()), ...);
  }
  Bytes noise(std::uint32_t n) {
    Bytes out(n);
    for (auto& b : out) b = byte();
    return out;
  }
  Bytes header() {
    Bytes out(16, 0xff);
    bench::put16(out, static_cast<std::uint16_t>(below(2) ? below(100) : random_()));
    out.push_back(static_cast<std::uint8_t>(below(3) ? 1 + below(5) : byte()));
    append(out, noise(below(60)));
    return out;
  }
  Bytes updates(std::uint32_t source, std::uint32_t n) {
    Bytes out;
    for (; n > 0; --n) {
      Bytes attributes, value;
      bench::put_attribute(attributes, 0x40, bench::kOrigin, Bytes{static_cast<std::uint8_t>(below(3))});
      bench::put_attribute(attributes, 0x40, bench::kAsPath,
                           Bytes{2, 1, 0, 0, 0xfd, static_cast<std::uint8_t>(below(200))});
      bench::put32(value, source);
      bench::put_attribute(attributes, 0x40, bench::kNextHop, value);
      bench::put_attribute(attributes, 0x80, bench::kMed, noise(4));
      bench::put_attribute(attributes, 0x40, bench::kLocalPref, Bytes{0, 0, 0, 100});
      if (below(2)) bench::put_attribute(attributes, 0xc0, bench::kCommunities, noise(4 * (1 + below(80))));
      if (below(4) == 0) bench::put_attribute(attributes, 0xc0, 200, noise(below(600)));
      std::vector<bench::Nlri> prefixes;
      for (auto k = 1 + below(200); k > 0; --k) prefixes.push_back(bench::nlri4(0xac100000U + below(1U << 20U), 32));
      if (below(4))
        bench::pack_announce(out, attributes, std::nullopt, prefixes);
      else
        bench::pack_withdraw(out, false, prefixes);
    }
    return out;
  }
  Bytes damaged(Bytes m) {
    for (auto n = 1 + below(4); n > 0; --n) {
      const auto at = below(m.size());
      const auto some = 1 + below(std::min<std::size_t>(m.size() - at, 12));
      const auto p = m.begin() + at;
      switch (below(6)) {
        case 0:
          *p ^= static_cast<std::uint8_t>(1U << below(8));
          break;
        case 1:
          *p = byte();
          break;
        case 2:
          if (m.size() > some) m.erase(p, p + some);
          break;
        case 3: {
          const auto more = noise(some);
          m.insert(p, more.begin(), more.end());
          break;
        }
        case 4: {
          const Bytes again(p, p + some);
          m.insert(p, again.begin(), again.end());
          break;
        }
        default:  // of the head: lengths and types
          if (m.size() > bench::kHeader + 4) m[16 + below(bench::kHeader + 4 - 16)] = byte();
          break;
      }
    }
    // Half of them with the length put right, so that the damage reaches the decoder.
    if (below(2) && m.size() >= bench::kHeader && m.size() <= bench::kMaxMessage) bench::patch16(m, 16, m.size());
    return m;
  }
  std::mt19937& random_;
};

}  // namespace calico::soak
