#include "modules/controller/ipam.hpp"

#include <algorithm>
#include <array>

namespace calico::controller {

namespace {

Ip step(const Ip& ip, bool up) {
  std::array<std::byte, 16> b{};
  auto bytes = ip.bytes();
  std::copy(bytes.begin(), bytes.end(), b.begin());
  for (std::size_t i = bytes.size(); i-- > 0;) {
    auto old = std::to_integer<unsigned>(b[i]);
    b[i] = static_cast<std::byte>(up ? old + 1 : old - 1);
    if (up ? old != 0xFF : old != 0) break;
  }
  return Ip::from_bytes({b.data(), bytes.size()});
}

}  // namespace

Ip next_ip(const Ip& ip) { return step(ip, true); }
Ip previous_ip(const Ip& ip) { return step(ip, false); }

Ip default_gateway(const Prefix& cidr) { return cidr.addr.is_v4() && cidr.len < 32 ? next_ip(cidr.addr) : cidr.addr; }

std::vector<Pool> default_pools(const Prefix& cidr, const std::optional<Ip>& gateway) {
  if (cidr.is_host()) return {{cidr.addr, cidr.addr}};
  if (cidr.len + 1 == cidr.addr.bits() && cidr.addr.is_v4()) return {};
  Ip first = next_ip(cidr.addr);
  Ip last = cidr.addr.is_v4() ? previous_ip(cidr.last()) : cidr.last();
  std::vector<Pool> pools;
  if (!gateway || *gateway < first || last < *gateway) return {{first, last}};
  if (first < *gateway) pools.push_back({first, previous_ip(*gateway)});
  if (*gateway < last) pools.push_back({next_ip(*gateway), last});
  return pools;
}

Reply<void> check_pools(const Prefix& cidr, const std::optional<Ip>& gateway, std::vector<Pool> pools) {
  for (const auto& p : pools) {
    if (p.first.family() != cidr.family() || p.last.family() != cidr.family() || p.last < p.first)
      return refuse(400, "InvalidAllocationPool", "The allocation pool {}-{} is not valid.", p.first, p.last);
    if (!cidr.contains(p.first) || !cidr.contains(p.last) || !(cidr.is_host() || valid_host(cidr, p.first)) ||
        !(cidr.is_host() || valid_host(cidr, p.last)))
      return refuse(400, "OutOfBoundsAllocationPool", "The allocation pool {}-{} spans beyond the subnet cidr {}.",
                    p.first, p.last, cidr);
    if (gateway && p.first <= *gateway && *gateway <= p.last)
      return refuse(409, "GatewayConflictWithAllocationPools", "Gateway ip {} conflicts with allocation pool {}-{}.",
                    *gateway, p.first, p.last);
  }
  std::sort(pools.begin(), pools.end(), [](const Pool& a, const Pool& b) { return a.first < b.first; });
  for (std::size_t i = 1; i < pools.size(); ++i) {
    if (pools[i].first <= pools[i - 1].last)
      return refuse(409, "OverlappingAllocationPools", "Found overlapping allocation pools: {}-{} {}-{} for subnet {}.",
                    pools[i - 1].first, pools[i - 1].last, pools[i].first, pools[i].last, cidr);
  }
  return {};
}

bool valid_host(const Prefix& cidr, const Ip& ip) {
  if (ip.family() != cidr.family() || !cidr.contains(ip)) return false;
  // RFC 3021 and single addresses: no network and no broadcast address in them.
  if (cidr.len + 1 >= cidr.addr.bits()) return true;
  if (ip == cidr.addr) return false;
  return ip.is_v6() || ip != cidr.last();
}

std::optional<Ip> pick_free(const Subnet& subnet, const Allocations& allocations) {
  const auto& used = allocations.used;
  auto free_in = [&](Ip from, const Ip& last) -> std::optional<Ip> {
    for (auto it = used.lower_bound(from); it != used.end() && it->first == from; ++it) {
      if (from == last) return std::nullopt;
      from = next_ip(from);
    }
    return from;
  };
  auto search = [&](const std::optional<Ip>& from) -> std::optional<Ip> {
    for (const auto& pool : subnet.pools) {
      if (from && pool.last < *from) continue;
      auto found = free_in(from && pool.first < *from ? *from : pool.first, pool.last);
      if (found) return found;
    }
    return std::nullopt;
  };
  if (allocations.cursor_set) {
    if (auto found = search(allocations.cursor)) return found;
  }
  return search(std::nullopt);
}

Ip eui64(const Prefix& cidr, const Mac& mac) {
  std::array<std::byte, 16> b{};
  auto bytes = cidr.addr.bytes();
  std::copy(bytes.begin(), bytes.begin() + 8, b.begin());
  const auto& m = mac.b;
  const std::array<std::uint8_t, 8> id{static_cast<std::uint8_t>(m[0] ^ 2U), m[1], m[2], 0xFF, 0xFE, m[3], m[4], m[5]};
  for (std::size_t i = 0; i < id.size(); ++i) b[8 + i] = static_cast<std::byte>(id[i]);
  return Ip::from_bytes(b);
}

}  // namespace calico::controller
