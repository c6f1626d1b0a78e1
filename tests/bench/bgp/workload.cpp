#include "tests/bench/bgp/workload.hpp"

#include <algorithm>
#include <bit>
#include <random>
#include <set>

namespace calico::bench {
namespace {

// Thousandths of the prefixes of /14 … /24, as the Internet's table has them, roughly.
constexpr std::array<std::uint32_t, 11> kShares = {5, 10, 15, 10, 15, 30, 45, 50, 120, 100, 600};

Bytes host_attributes(std::uint32_t client, bool ipv6) {
  Bytes a, next_hop, local_pref;
  put32(next_hop, Workload::address(client));
  put32(local_pref, 100);
  put_attribute(a, 0x40, kOrigin, Bytes{0});
  put_attribute(a, 0x40, kAsPath, {});
  if (!ipv6) put_attribute(a, 0x40, kNextHop, next_hop);
  put_attribute(a, 0x40, kLocalPref, local_pref);
  return a;
}

Bytes internet_attributes(std::uint32_t client, std::mt19937& random) {
  Bytes a, next_hop, local_pref, med, communities, path;
  put32(next_hop, Workload::address(client));
  put32(local_pref, 100);
  const auto hops = 2 + random() % 6;
  path.push_back(2);
  path.push_back(static_cast<std::uint8_t>(hops));
  for (unsigned i = 0; i < hops; ++i) put32(path, 1000 + static_cast<std::uint32_t>(random() % 20000));
  // A set: ascending and each once, so that daemons that sort them change nothing.
  std::set<std::uint32_t> values;
  for (unsigned i = random() % 7; i > 0; --i)
    values.insert(static_cast<std::uint32_t>((1000 + random() % 20000) << 16U | (random() & 0xffffU)));
  for (const auto v : values) put32(communities, v);
  put_attribute(a, 0x40, kOrigin, Bytes{static_cast<std::uint8_t>(random() % 8 == 0 ? 2 : 0)});
  put_attribute(a, 0x40, kAsPath, path);
  put_attribute(a, 0x40, kNextHop, next_hop);
  if (random() % 2 == 0) {
    put32(med, static_cast<std::uint32_t>(random() % 1000));
    put_attribute(a, 0x80, kMed, med);
  }
  put_attribute(a, 0x40, kLocalPref, local_pref);
  if (!communities.empty()) put_attribute(a, 0xc0, kCommunities, communities);
  return a;
}

std::uint32_t inverse_of(std::uint32_t odd) {
  std::uint32_t x = odd;  // Newton: right bits double each time
  for (int i = 0; i < 5; ++i) x *= 2 - odd * x;
  return x;
}

}  // namespace

Workload::Workload(Plan plan) : plan_(std::move(plan)) {
  announce_.resize(plan_.senders);
  withdraw_.resize(plan_.senders);
  if (plan_.shape == Shape::internet)
    make_internet();
  else
    make_hosts();
}

Address6 Workload::next_hop6(std::uint32_t client) {
  Address6 a{0xfd, 0, 0, 0x66};
  const auto n = nlri4(address(client), 32);
  std::copy_n(n.address.begin(), 4, a.begin() + 12);
  return a;
}

void Workload::make_hosts() {
  stride_ = plan_.per_sender + plan_.spare;
  ids_ = plan_.senders * stride_;
  for (std::uint32_t s = 0; s < plan_.senders; ++s) {
    sets_.push_back({s, host_attributes(s, ipv6())});
    announce_[s] = some(s, 0, plan_.per_sender, true);
    withdraw_[s] = some(s, 0, plan_.per_sender, false);
  }
}

Bytes Workload::some(std::uint32_t sender, std::uint32_t first, std::uint32_t count, bool announce) const {
  std::vector<Nlri> list(count);
  for (std::uint32_t n = 0; n < count; ++n) list[n] = nlri(id(sender, first + n));
  Bytes out;
  if (!announce)
    pack_withdraw(out, ipv6(), list);
  else
    pack_announce(out, sets_[sender].attributes, ipv6() ? std::optional(next_hop6(sender)) : std::nullopt, list);
  return out;
}

Bytes Workload::reflected(std::uint32_t sender) const {
  Bytes marks, originator, cluster, out;
  put32(originator, address(sender));
  put32(cluster, kReflector);
  put_attribute(marks, 0x80, kOriginatorId, originator);
  put_attribute(marks, 0x80, kClusterList, cluster);
  const auto sent = announce(sender);
  if (plan_.shape != Shape::internet) {
    auto attributes = sets_[sender].attributes;
    attributes.insert(attributes.end(), marks.begin(), marks.end());
    std::vector<Nlri> list(plan_.per_sender);
    for (std::uint32_t n = 0; n < plan_.per_sender; ++n) list[n] = nlri(id(sender, n));
    pack_announce(out, attributes, ipv6() ? std::optional(next_hop6(sender)) : std::nullopt, list);
    return out;
  }
  // One set a message and room to spare: the marks go in behind the attributes.
  for (std::size_t at = 0; at < sent.size();) {
    const auto length = be16(&sent[at + 16]);
    const auto attributes = be16(&sent[at + kHeader + 2]);
    const auto message = sent.subspan(at, length);
    const auto split = kHeader + 4 + attributes;
    const auto begin = out.size();
    out.insert(out.end(), message.begin(), message.begin() + split);
    out.insert(out.end(), marks.begin(), marks.end());
    out.insert(out.end(), message.begin() + split, message.end());
    patch16(out, begin + 16, length + marks.size());
    patch16(out, begin + kHeader + 2, attributes + marks.size());
    at += length;
  }
  return out;
}

void Workload::make_internet() {
  ids_ = announced();
  std::uint32_t first = 0;
  for (unsigned bits = kLongest; bits >= kShortest; --bits) {
    auto& l = lengths_[bits];
    l.first = first;
    const auto share = static_cast<std::uint64_t>(ids_) * kShares[bits - kShortest] / 1000;
    l.count = bits == kShortest ? ids_ - first : static_cast<std::uint32_t>(share);
    // Twice the room they need, in the 64 /8 from 128.0.0.0 on.
    const auto room = std::min<unsigned>(static_cast<unsigned>(std::bit_width(l.count)) + 1, bits - 2);
    l.mask = (1U << room) - 1;
    l.odd = 0x9e3779b1;
    l.inverse = inverse_of(l.odd);
    first += l.count;
  }
  std::mt19937 random(64512);
  set_of_.assign(ids_, kNone);
  std::vector<std::vector<std::uint32_t>> of(plan_.senders);
  for (std::uint32_t i = 0; i < ids_; ++i) of[i % plan_.senders].push_back(i);
  for (std::uint32_t s = 0; s < plan_.senders; ++s) {
    auto& mine = of[s];
    for (std::size_t i = mine.size(); i > 1; --i) std::swap(mine[i - 1], mine[random() % i]);
    std::vector<Nlri> list;
    for (std::size_t at = 0; at < mine.size();) {
      std::size_t n = 1;  // geometric, 3.8 on average
      while (random() % 38 < 28) ++n;
      n = std::min({n, mine.size() - at, std::size_t{200}});
      list.clear();
      for (std::size_t i = 0; i < n; ++i) {
        set_of_[mine[at + i]] = static_cast<std::uint32_t>(sets_.size());
        list.push_back(nlri(mine[at + i]));
      }
      sets_.push_back({s, internet_attributes(s, random)});
      pack_announce(announce_[s], sets_.back().attributes, std::nullopt, list);
      at += n;
    }
    list.clear();
    for (const auto i : mine) list.push_back(nlri(i));
    pack_withdraw(withdraw_[s], false, list);
  }
}

Nlri Workload::nlri(std::uint32_t id) const {
  if (plan_.shape == Shape::hosts4) return nlri4(kHosts4 + id, 32);
  if (plan_.shape == Shape::hosts6) {
    Nlri n{128, {}};
    std::copy(kHosts6.begin(), kHosts6.end(), n.address.begin());
    const auto low = nlri4(id, 32);
    std::copy_n(low.address.begin(), 4, n.address.begin() + 12);
    return n;
  }
  unsigned bits = kLongest;
  while (id - lengths_[bits].first >= lengths_[bits].count) --bits;
  const auto& l = lengths_[bits];
  const auto k = ((id - l.first) * l.odd) & l.mask;
  return nlri4(((1U << (bits - 1)) + k) << (32 - bits), static_cast<std::uint8_t>(bits));
}

std::uint32_t Workload::id_slowly(const std::uint8_t* p, std::size_t left, std::size_t& used) const {
  used = 0;
  if (left == 0) return kNone;
  const unsigned bits = p[0];
  const std::size_t bytes = (bits + 7) / 8;
  if (bits > (ipv6() ? 128U : 32U) || left < 1 + bytes) return kNone;
  used = 1 + bytes;
  if (plan_.shape != Shape::internet || bits < kShortest || bits > kLongest) return kNone;
  std::uint32_t address = 0;
  for (std::size_t i = 0; i < bytes; ++i) address |= static_cast<std::uint32_t>(p[1 + i]) << (24 - 8 * i);
  const auto& l = lengths_[bits];
  const auto x = (address >> (32 - bits)) - (1U << (bits - 1));
  const auto k = (x * l.inverse) & l.mask;
  return x <= l.mask && k < l.count ? l.first + k : kNone;
}

}  // namespace calico::bench
