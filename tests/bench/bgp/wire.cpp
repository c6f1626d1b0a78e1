#include "tests/bench/bgp/wire.hpp"

#include <algorithm>

namespace calico::bench {
namespace {

std::size_t begin_message(Bytes& out, MessageType type) {
  const auto at = out.size();
  out.insert(out.end(), 16, 0xff);
  put16(out, 0);
  out.push_back(type);
  return at;
}
void end_message(Bytes& out, std::size_t at) { patch16(out, at + 16, out.size() - at); }
void put(Bytes& out, const Nlri& n) {
  out.push_back(n.bits);
  out.insert(out.end(), n.address.begin(), n.address.begin() + static_cast<std::ptrdiff_t>(n.size() - 1));
}
/// How many of `nlri` fit into `room` bytes.
std::size_t fitting(std::span<const Nlri> nlri, std::size_t room, std::size_t per) {
  std::size_t n = 0;
  for (; n < nlri.size() && n < per && nlri[n].size() <= room; ++n) room -= nlri[n].size();
  return n;
}

}  // namespace

void put16(Bytes& out, std::uint16_t v) {
  out.push_back(static_cast<std::uint8_t>(v >> 8U));
  out.push_back(static_cast<std::uint8_t>(v));
}
void put32(Bytes& out, std::uint32_t v) {
  put16(out, static_cast<std::uint16_t>(v >> 16U));
  put16(out, static_cast<std::uint16_t>(v));
}

void patch16(Bytes& out, std::size_t at, std::size_t v) {
  out[at] = static_cast<std::uint8_t>(v >> 8U);
  out[at + 1] = static_cast<std::uint8_t>(v);
}

Bytes open_message(std::uint16_t as, std::uint32_t router_id, bool ipv6) {
  const std::uint8_t afi = ipv6 ? 2 : 1;
  Bytes capabilities = {1, 4, 0, afi, 0, 1, 2, 0, 65, 4};
  put32(capabilities, as);
  capabilities.insert(capabilities.end(), {64, 6, 0, 120, 0, afi, 1, 0});
  Bytes out;
  const auto at = begin_message(out, kOpen);
  out.push_back(4);
  put16(out, as);
  put16(out, 90);
  put32(out, router_id);
  out.push_back(static_cast<std::uint8_t>(capabilities.size() + 2));
  out.push_back(2);
  out.push_back(static_cast<std::uint8_t>(capabilities.size()));
  out.insert(out.end(), capabilities.begin(), capabilities.end());
  end_message(out, at);
  return out;
}
Bytes keepalive_message() {
  Bytes out;
  end_message(out, begin_message(out, kKeepalive));
  return out;
}
Bytes notification_message(std::uint8_t code, std::uint8_t subcode) {
  Bytes out;
  const auto at = begin_message(out, kNotification);
  out.push_back(code);
  out.push_back(subcode);
  end_message(out, at);
  return out;
}
Bytes end_of_rib(bool ipv6) {
  Bytes out;
  const auto at = begin_message(out, kUpdate);
  put16(out, 0);
  if (ipv6) {
    put16(out, 6);
    out.insert(out.end(), {0x80, kMpUnreach, 3, 0, 2, 1});
  } else {
    put16(out, 0);
  }
  end_message(out, at);
  return out;
}

void put_attribute(Bytes& out, std::uint8_t flags, std::uint8_t type, View value) {
  const bool extended = value.size() > 255;
  out.push_back(extended ? flags | 0x10U : flags);
  out.push_back(type);
  if (extended)
    put16(out, static_cast<std::uint16_t>(value.size()));
  else
    out.push_back(static_cast<std::uint8_t>(value.size()));
  out.insert(out.end(), value.begin(), value.end());
}

void pack_announce(Bytes& out, View attributes, const std::optional<Address6>& next_hop6, std::span<const Nlri> nlri,
                   std::size_t per) {
  const std::size_t mp = next_hop6 ? 4 + 3 + 1 + 16 + 1 : 0;
  while (!nlri.empty()) {
    const auto n = fitting(nlri, kMaxMessage - kHeader - 4 - mp - attributes.size(), per);
    if (n == 0) return;
    const auto at = begin_message(out, kUpdate);
    put16(out, 0);
    const auto length_at = out.size();
    put16(out, 0);
    if (next_hop6) {
      out.insert(out.end(), {0x90, kMpReach});
      const auto mp_at = out.size();
      put16(out, 0);
      out.insert(out.end(), {0, 2, 1, 16});
      out.insert(out.end(), next_hop6->begin(), next_hop6->end());
      out.push_back(0);
      for (const auto& p : nlri.first(n)) put(out, p);
      patch16(out, mp_at, out.size() - mp_at - 2);
    }
    out.insert(out.end(), attributes.begin(), attributes.end());
    patch16(out, length_at, out.size() - length_at - 2);
    if (!next_hop6)
      for (const auto& p : nlri.first(n)) put(out, p);
    end_message(out, at);
    nlri = nlri.subspan(n);
  }
}

void pack_withdraw(Bytes& out, bool ipv6, std::span<const Nlri> nlri) {
  const std::size_t mp = ipv6 ? 4 + 3 : 0;
  while (!nlri.empty()) {
    const auto n = fitting(nlri, kMaxMessage - kHeader - 4 - mp, SIZE_MAX);
    const auto at = begin_message(out, kUpdate);
    const auto withdrawn_at = out.size();
    put16(out, 0);
    if (ipv6) {
      const auto length_at = out.size();
      put16(out, 0);
      out.insert(out.end(), {0x90, kMpUnreach});
      const auto mp_at = out.size();
      put16(out, 0);
      out.insert(out.end(), {0, 2, 1});
      for (const auto& p : nlri.first(n)) put(out, p);
      patch16(out, mp_at, out.size() - mp_at - 2);
      patch16(out, length_at, out.size() - length_at - 2);
    } else {
      for (const auto& p : nlri.first(n)) put(out, p);
      patch16(out, withdrawn_at, out.size() - withdrawn_at - 2);
      put16(out, 0);
    }
    end_message(out, at);
    nlri = nlri.subspan(n);
  }
}

bool AttributeReader::next() {
  if (p_ == end_) return false;
  const auto left = static_cast<std::size_t>(end_ - p_);
  const std::size_t head = p_[0] & 0x10U ? 4 : 3;
  if (left < head) return !(bad_ = true);
  const std::size_t length = head == 4 ? be16(p_ + 2) : p_[2];
  if (left - head < length) return !(bad_ = true);
  type = p_[1];
  value = {p_ + head, length};
  p_ += head + length;
  return true;
}

}  // namespace calico::bench
