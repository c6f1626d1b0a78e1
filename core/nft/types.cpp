#include "core/nft/types.hpp"

#include <algorithm>

namespace calico::nft {

std::string_view to_string(TableFamily f) {
  switch (f) {
    case TableFamily::inet:
      return "inet";
    case TableFamily::ip:
      return "ip";
    case TableFamily::arp:
      return "arp";
    case TableFamily::netdev:
      return "netdev";
    case TableFamily::bridge:
      return "bridge";
    case TableFamily::ip6:
      return "ip6";
  }
  return "unknown";
}

std::string to_string(const TableRef& t) { return fmt::format("{} {}", to_string(t.family), t.name); }

std::string to_string(const Verdict& v) {
  switch (v.code) {
    case Verdict::Code::drop:
      return "drop";
    case Verdict::Code::accept:
      return "accept";
    case Verdict::Code::continue_:
      return "continue";
    case Verdict::Code::break_:
      return "break";
    case Verdict::Code::jump:
      return "jump " + v.chain;
    case Verdict::Code::goto_:
      return "goto " + v.chain;
    case Verdict::Code::return_:
      return "return";
  }
  return "unknown";
}

namespace {
struct TypeRow {
  Type type;
  std::string_view name;
  std::size_t size;
  bool host_order;
};
constexpr TypeRow kTypes[] = {
    {Type::verdict, "verdict", 16, true},
    {Type::nf_proto, "nf_proto", 1, true},
    {Type::ipv4_addr, "ipv4_addr", 4, false},
    {Type::ipv6_addr, "ipv6_addr", 16, false},
    {Type::ether_addr, "ether_addr", 6, false},
    {Type::ether_type, "ether_type", 2, false},
    {Type::arp_op, "arp_op", 2, false},
    {Type::inet_proto, "inet_proto", 1, false},
    {Type::inet_service, "inet_service", 2, false},
    {Type::icmp_type, "icmp_type", 1, false},
    {Type::tcp_flag, "tcp_flag", 1, false},
    {Type::mark, "mark", 4, true},
    {Type::iface_index, "iface_index", 4, true},
    {Type::ct_state, "ct_state", 4, true},
    {Type::icmpv6_type, "icmpv6_type", 1, false},
    {Type::icmp_code, "icmp_code", 1, false},
    {Type::icmpv6_code, "icmpv6_code", 1, false},
    {Type::devgroup, "devgroup", 4, true},
    {Type::ifname, "ifname", 16, true},
};
const TypeRow* row_of(Type t) {
  const auto it = std::find_if(std::begin(kTypes), std::end(kTypes), [t](const TypeRow& r) { return r.type == t; });
  return it == std::end(kTypes) ? nullptr : it;
}
}  // namespace

std::size_t size_of(Type t) {
  const auto* r = row_of(t);
  return r ? r->size : 0;
}
bool host_order(Type t) {
  const auto* r = row_of(t);
  return r && r->host_order;
}
std::string_view to_string(Type t) {
  const auto* r = row_of(t);
  return r ? r->name : "unknown";
}

Value Value::be16(std::uint16_t v) {
  const std::uint8_t b[2] = {static_cast<std::uint8_t>(v >> 8U), static_cast<std::uint8_t>(v)};
  return Value(std::as_bytes(std::span(b)));
}

Value Value::ifname(std::string_view name) {
  std::array<char, 16> b{};
  if (name.empty() || name.size() >= b.size()) return {};
  std::copy(name.begin(), name.end(), b.begin());
  return Value(std::as_bytes(std::span(b)));
}

void Value::append(std::span<const std::byte> b) {
  if (b.size() > kMax - n_) {
    overflow_ = true;
    b = b.first(kMax - n_);
  }
  std::copy(b.begin(), b.end(), b_.begin() + n_);
  n_ = static_cast<std::uint8_t>(n_ + b.size());
}

void Value::pad4() {
  while (n_ % 4 != 0) b_[n_++] = std::byte{0};
}

Key& Key::add(const Value& v) {
  // One field stands as it is; from the second on each begins, and ends, on a boundary of four bytes.
  if (fields_ == 1) v_.pad4();
  v_.append(v.bytes());
  if (++fields_ > 1) v_.pad4();
  return *this;
}

}  // namespace calico::nft
