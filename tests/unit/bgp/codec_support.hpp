#pragma once
/// What the tests of the codec share: bytes from text, random values, a stream taken apart.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "core/bgp/codec/update.hpp"

namespace calico::bgp::codec_test {

inline Prefix pfx(std::string_view s) { return *Prefix::parse(s); }
inline Ip ip(std::string_view s) { return *Ip::parse(s); }

inline Bytes hex(std::string_view text) {
  Bytes out;
  int nibble = -1;
  for (char c : text) {
    int v = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (v < 0) continue;
    if (nibble < 0) {
      nibble = v;
    } else {
      out.push_back(static_cast<std::byte>(nibble << 4 | v));
      nibble = -1;
    }
  }
  return out;
}

inline View body(const Bytes& message) { return View(message).subspan(kHeaderSize); }

class Random {
 public:
  explicit Random(std::uint64_t seed) : gen_(seed) {}
  std::uint32_t below(std::uint32_t n) { return n == 0 ? 0 : static_cast<std::uint32_t>(gen_() % n); }
  std::uint32_t u32() { return static_cast<std::uint32_t>(gen_()); }
  bool chance() { return (gen_() & 1) != 0; }
  Bytes bytes(std::size_t n) {
    Bytes b(n);
    for (auto& x : b) x = static_cast<std::byte>(gen_());
    return b;
  }
  Prefix v4() { return Prefix{Ip::v4(u32()), static_cast<std::uint8_t>(below(33))}.masked(); }
  Prefix v6() { return Prefix{Ip::from_bytes(bytes(16)), static_cast<std::uint8_t>(below(129))}.masked(); }

  Nlri route(Family family, bool add_path) { return {family == Family::v6 ? v6() : v4(), add_path ? u32() : 0}; }

  Open open() {
    Open o;
    o.hold_time_s = static_cast<std::uint16_t>(chance() ? 0 : 3 + below(65000));
    o.router_id = 1 + below(0xfffffffe);
    if (chance()) {
      o.caps.as4 = Asn{1 + below(0xfffffffe)};
      o.as = *o.caps.as4;
    } else {
      o.as = Asn{1 + below(0xfffe)};
    }
    if (chance()) o.caps.families.push_back(kIpv4Unicast);
    if (chance()) o.caps.families.push_back(kIpv6Unicast);
    o.caps.refresh = chance();
    o.caps.enhanced_refresh = chance();
    o.caps.extended_message = chance();
    if (chance()) {
      GracefulRestartCapability gr;
      gr.restarting = chance();
      gr.notification = chance();
      gr.time_s = static_cast<std::uint16_t>(below(4096));
      for (auto f : o.caps.families) gr.families.push_back({f, chance()});
      o.caps.graceful_restart = gr;
    }
    if (chance()) {
      LongLivedCapability ll;
      for (auto f : o.caps.families) ll.families.push_back({f, chance(), below(1 << 24)});
      o.caps.long_lived = ll;
    }
    for (std::uint16_t afi = 1; afi < 1 + below(100); ++afi)
      if (auto mode = below(4)) o.caps.add_path.push_back({{afi, 1}, (mode & 1) != 0, (mode & 2) != 0});
    for (std::uint16_t afi = 1; afi < 1 + below(60); ++afi) o.caps.next_hops.push_back({{afi, 1}, 2});
    // Long ones need RFC 9072's parameter.
    for (std::uint32_t i = below(4); i > 0; --i)
      o.caps.unknown.push_back({static_cast<std::uint8_t>(128 + i), bytes(below(200))});
    return o;
  }
  Attrs attrs(bool v6) {
    Attrs a;
    a.origin = static_cast<std::uint8_t>(below(3));
    std::vector<Asn> path;
    for (std::uint32_t i = below(600); i > 0 && chance(); --i) path.push_back(Asn{1 + below(0xfffffffe)});
    a.as_path = AsPath::sequence(path);
    a.next_hop = v6 ? Ip::from_bytes(bytes(16)) : Ip::v4(1 + below(0xfffffffe));
    if (chance()) a.med = u32();
    a.local_pref = u32();
    a.atomic_aggregate = chance();
    if (chance()) a.aggregator = Aggregator{Asn{1 + below(0xfffffffe)}, u32()};
    if (chance()) a.communities = bytes(4 * (1 + below(100)));
    if (chance()) a.originator_id = u32();
    for (std::uint32_t i = below(5); i > 0; --i) a.cluster_list.push_back(u32());
    if (chance()) a.ext_communities = bytes(8 * (1 + below(10)));
    if (chance()) a.large_communities = bytes(12 * (1 + below(10)));
    for (std::uint8_t type : {21, 40, 99, 255})
      if (chance()) a.unknown.push_back({type, 0xe0, bytes(below(300))});
    return a;
  }

 private:
  std::mt19937_64 gen_;
};

inline std::vector<Prefix> prefixes_of(const std::vector<Nlri>& routes) {
  std::vector<Prefix> out;
  for (const auto& r : routes) {
    EXPECT_EQ(r.path_id, 0U);
    out.push_back(r.prefix);
  }
  return out;
}

/// Splits a stream of messages; each header must be right.
inline std::vector<Bytes> messages_of(View stream, std::size_t max_message = kMaxMessage) {
  std::vector<Bytes> out;
  while (!stream.empty()) {
    auto h = decode_header(stream.first(std::min<std::size_t>(stream.size(), kHeaderSize)), max_message);
    if (!h || h->length > stream.size()) {
      ADD_FAILURE() << "not a message";
      return out;
    }
    out.emplace_back(stream.begin(), stream.begin() + h->length);
    stream = stream.subspan(h->length);
  }
  return out;
}

}  // namespace calico::bgp::codec_test
