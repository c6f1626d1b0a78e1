#include "core/nft/rule.hpp"

#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include <algorithm>
#include <array>

namespace calico::nft {

namespace {

enum class Source : std::uint8_t { meta, link, network, transport, ct };
enum class L3 : std::uint8_t { any, v4, v6, arp };

struct FieldRow {
  Field field;
  std::string_view name;
  Source source;
  std::uint32_t key;  // NFT_META_*, NFT_CT_*, or the offset in the header
  Type type;
  L3 l3 = L3::any;
  std::uint8_t l4 = 0;  // the protocol it is of; 0 = any
};

constexpr std::uint32_t kReg1 = NFT_REG_1, kReg2 = NFT_REG_2, kSlot0 = NFT_REG32_00;
constexpr std::uint8_t kTcp = 6, kUdp = 17, kIcmp = 1, kIcmpv6 = 58;

constexpr FieldRow kFields[] = {
    {Field::iifname, "iifname", Source::meta, NFT_META_IIFNAME, Type::ifname},
    {Field::oifname, "oifname", Source::meta, NFT_META_OIFNAME, Type::ifname},
    {Field::iif, "iif", Source::meta, NFT_META_IIF, Type::iface_index},
    {Field::oif, "oif", Source::meta, NFT_META_OIF, Type::iface_index},
    {Field::iifgroup, "iifgroup", Source::meta, NFT_META_IIFGROUP, Type::devgroup},
    {Field::oifgroup, "oifgroup", Source::meta, NFT_META_OIFGROUP, Type::devgroup},
    {Field::nfproto, "nfproto", Source::meta, NFT_META_NFPROTO, Type::nf_proto},
    {Field::l4proto, "l4proto", Source::meta, NFT_META_L4PROTO, Type::inet_proto},
    {Field::protocol, "protocol", Source::meta, NFT_META_PROTOCOL, Type::ether_type},
    {Field::mark, "mark", Source::meta, NFT_META_MARK, Type::mark},
    {Field::ether_saddr, "ether saddr", Source::link, 6, Type::ether_addr},
    {Field::ether_daddr, "ether daddr", Source::link, 0, Type::ether_addr},
    {Field::ether_type, "ether type", Source::link, 12, Type::ether_type},
    {Field::ip_saddr, "ip saddr", Source::network, 12, Type::ipv4_addr, L3::v4},
    {Field::ip_daddr, "ip daddr", Source::network, 16, Type::ipv4_addr, L3::v4},
    {Field::ip_protocol, "ip protocol", Source::network, 9, Type::inet_proto, L3::v4},
    {Field::ip6_saddr, "ip6 saddr", Source::network, 8, Type::ipv6_addr, L3::v6},
    {Field::ip6_daddr, "ip6 daddr", Source::network, 24, Type::ipv6_addr, L3::v6},
    {Field::ip6_nexthdr, "ip6 nexthdr", Source::network, 6, Type::inet_proto, L3::v6},
    {Field::ip6_hoplimit, "ip6 hoplimit", Source::network, 7, Type::inet_proto, L3::v6},
    {Field::tcp_sport, "tcp sport", Source::transport, 0, Type::inet_service, L3::any, kTcp},
    {Field::tcp_dport, "tcp dport", Source::transport, 2, Type::inet_service, L3::any, kTcp},
    {Field::tcp_flags, "tcp flags", Source::transport, 13, Type::tcp_flag, L3::any, kTcp},
    {Field::udp_sport, "udp sport", Source::transport, 0, Type::inet_service, L3::any, kUdp},
    {Field::udp_dport, "udp dport", Source::transport, 2, Type::inet_service, L3::any, kUdp},
    {Field::th_sport, "th sport", Source::transport, 0, Type::inet_service},
    {Field::th_dport, "th dport", Source::transport, 2, Type::inet_service},
    {Field::icmp_type, "icmp type", Source::transport, 0, Type::icmp_type, L3::v4, kIcmp},
    {Field::icmp_code, "icmp code", Source::transport, 1, Type::icmp_code, L3::v4, kIcmp},
    {Field::icmpv6_type, "icmpv6 type", Source::transport, 0, Type::icmpv6_type, L3::v6, kIcmpv6},
    {Field::icmpv6_code, "icmpv6 code", Source::transport, 1, Type::icmpv6_code, L3::v6, kIcmpv6},
    {Field::nd_target, "nd target", Source::transport, 8, Type::ipv6_addr, L3::v6, kIcmpv6},
    {Field::arp_operation, "arp operation", Source::network, 6, Type::arp_op, L3::arp},
    {Field::arp_saddr_ether, "arp saddr ether", Source::network, 8, Type::ether_addr, L3::arp},
    {Field::arp_saddr_ip, "arp saddr ip", Source::network, 14, Type::ipv4_addr, L3::arp},
    {Field::arp_daddr_ether, "arp daddr ether", Source::network, 18, Type::ether_addr, L3::arp},
    {Field::arp_daddr_ip, "arp daddr ip", Source::network, 24, Type::ipv4_addr, L3::arp},
    {Field::ct_state, "ct state", Source::ct, NFT_CT_STATE, Type::ct_state},
    {Field::ct_mark, "ct mark", Source::ct, NFT_CT_MARK, Type::mark},
};

const FieldRow& row_of(Field f) {
  return *std::find_if(std::begin(kFields), std::end(kFields), [f](const FieldRow& r) { return r.field == f; });
}

/// One expression: name and data, closed together.
class Expr {
 public:
  Expr(netlink::MessageBuilder& b, std::string_view name) : outer_(b.nest(NFTA_LIST_ELEM)), inner_(start(b, name)) {}

 private:
  static netlink::MessageBuilder::Nest start(netlink::MessageBuilder& b, std::string_view name) {
    b.str(NFTA_EXPR_NAME, name);
    return b.nest(NFTA_EXPR_DATA);
  }
  netlink::MessageBuilder::Nest outer_;
  netlink::MessageBuilder::Nest inner_;
};

void put_value(netlink::MessageBuilder& b, std::uint16_t type, netlink::View v) {
  auto n = b.nest(type);
  b.attr(NFTA_DATA_VALUE, v);
}

std::uint64_t fnv1a(std::uint64_t h, netlink::View bytes) {
  for (auto x : bytes) h = (h ^ std::to_integer<std::uint64_t>(x)) * 0x100000001b3ULL;
  return h;
}

}  // namespace

Type type_of(Field f) { return row_of(f).type; }

void Rule::fail(std::string why) {
  if (fault_.empty()) fault_ = std::move(why);
}

void Rule::cmp(std::uint32_t op, std::uint32_t reg, netlink::View value) {
  Expr e(b_, "cmp");
  b_.be32(NFTA_CMP_SREG, reg);
  b_.be32(NFTA_CMP_OP, op);
  put_value(b_, NFTA_CMP_DATA, value);
}

void Rule::immediate(std::uint32_t reg, netlink::View value) {
  Expr e(b_, "immediate");
  b_.be32(NFTA_IMMEDIATE_DREG, reg);
  put_value(b_, NFTA_IMMEDIATE_DATA, value);
}

void Rule::bitwise(std::uint32_t reg, netlink::View mask, netlink::View xor_) {
  Expr e(b_, "bitwise");
  b_.be32(NFTA_BITWISE_SREG, reg);
  b_.be32(NFTA_BITWISE_DREG, reg);
  b_.be32(NFTA_BITWISE_LEN, static_cast<std::uint32_t>(mask.size()));
  put_value(b_, NFTA_BITWISE_MASK, mask);
  put_value(b_, NFTA_BITWISE_XOR, xor_);
}

/// The checks without which the field's bytes would be another packet's.
void Rule::need(Field f) {
  const auto& row = row_of(f);
  if (row.source == Source::link && !ether_) {
    ether_ = true;
    if (family_ == TableFamily::inet || family_ == TableFamily::ip || family_ == TableFamily::ip6) {
      {
        Expr e(b_, "meta");
        b_.be32(NFTA_META_DREG, kReg1);
        b_.be32(NFTA_META_KEY, NFT_META_IIFTYPE);
      }
      const std::uint16_t ethernet = 1;  // ARPHRD_ETHER, host order
      cmp(NFT_CMP_EQ, kReg1, std::as_bytes(std::span(&ethernet, 1)));
    }
  }
  if (row.l3 == L3::arp) {
    if (family_ != TableFamily::arp) fail(fmt::format("'{}' is for tables of family arp", row.name));
  } else if (row.l3 != L3::any) {
    const Family want = row.l3 == L3::v4 ? Family::v4 : Family::v6;
    if (family_ == TableFamily::arp) fail(fmt::format("'{}' is not for tables of family arp", row.name));
    family(want);
  }
  if (row.l4 != 0 && l4_ != row.l4) {
    if (l4_) fail(fmt::format("'{}' after another protocol was demanded", row.name));
    l4proto(row.l4);
  }
}

Rule& Rule::family(Family f) {
  if (l3_ == f) return *this;
  if (l3_) fail("both IPv4 and IPv6 are demanded");
  l3_ = f;
  const bool v4 = f == Family::v4;
  switch (family_) {
    case TableFamily::ip:
      if (!v4) fail("IPv6 in a table of family ip");
      return *this;
    case TableFamily::ip6:
      if (v4) fail("IPv4 in a table of family ip6");
      return *this;
    case TableFamily::arp:
      return *this;
    case TableFamily::inet: {
      {
        Expr e(b_, "meta");
        b_.be32(NFTA_META_DREG, kReg1);
        b_.be32(NFTA_META_KEY, NFT_META_NFPROTO);
      }
      const std::uint8_t proto = v4 ? NFPROTO_IPV4 : NFPROTO_IPV6;
      cmp(NFT_CMP_EQ, kReg1, std::as_bytes(std::span(&proto, 1)));
      return *this;
    }
    case TableFamily::netdev:
    case TableFamily::bridge: {
      load(Field::protocol, kReg1);
      cmp(NFT_CMP_EQ, kReg1, Value::be16(v4 ? 0x0800 : 0x86dd).bytes());
      return *this;
    }
  }
  return *this;
}

void Rule::load(Field f, std::uint32_t reg) {
  const auto& row = row_of(f);
  switch (row.source) {
    case Source::meta: {
      Expr e(b_, "meta");
      b_.be32(NFTA_META_DREG, reg);
      b_.be32(NFTA_META_KEY, row.key);
      return;
    }
    case Source::ct: {
      Expr e(b_, "ct");
      b_.be32(NFTA_CT_DREG, reg);
      b_.be32(NFTA_CT_KEY, row.key);
      return;
    }
    case Source::link:
    case Source::network:
    case Source::transport: {
      Expr e(b_, "payload");
      b_.be32(NFTA_PAYLOAD_DREG, reg);
      b_.be32(NFTA_PAYLOAD_BASE, row.source == Source::link      ? NFT_PAYLOAD_LL_HEADER
                                 : row.source == Source::network ? NFT_PAYLOAD_NETWORK_HEADER
                                                                 : NFT_PAYLOAD_TRANSPORT_HEADER);
      b_.be32(NFTA_PAYLOAD_OFFSET, row.key);
      b_.be32(NFTA_PAYLOAD_LEN, static_cast<std::uint32_t>(size_of(row.type)));
      return;
    }
  }
}

Rule& Rule::ifname(Field f, std::string_view name, bool negate) {
  const bool prefix = !name.empty() && name.back() == '*';
  const auto stem = prefix ? name.substr(0, name.size() - 1) : name;
  if (stem.empty() || stem.size() > 15) {
    fail(fmt::format("'{}' is not the name or prefix of an interface", name));
    return *this;
  }
  load(f, kReg1);
  cmp(negate ? NFT_CMP_NEQ : NFT_CMP_EQ, kReg1,
      prefix ? netlink::View(std::as_bytes(std::span(stem.data(), stem.size()))) : Value::ifname(stem).bytes());
  return *this;
}

Rule& Rule::match(Field f, const Value& v, bool negate) {
  const auto& row = row_of(f);
  if (v.size() != size_of(row.type))
    fail(fmt::format("'{}' has {} bytes, the value {}", row.name, size_of(row.type), v.size()));
  need(f);
  load(f, kReg1);
  cmp(negate ? NFT_CMP_NEQ : NFT_CMP_EQ, kReg1, v.bytes());
  if (f == Field::l4proto && !negate && !v.empty()) l4_ = std::to_integer<std::uint8_t>(v.bytes()[0]);
  return *this;
}

Rule& Rule::match(Field f, const Prefix& p, bool negate) {
  const auto& row = row_of(f);
  const auto wanted = p.addr.is_v4() ? Type::ipv4_addr : Type::ipv6_addr;
  if (row.type != wanted) {
    fail(fmt::format("'{}' is not compared with {}", row.name, p));
    return *this;
  }
  if (p.is_host()) return match(f, Value::ip(p.addr), negate);
  need(f);
  if (p.len == 0) {
    // Everything matches, once the family is known; its negation never does.
    if (negate) fail(fmt::format("'{} != {}' never matches", row.name, p));
    return *this;
  }
  std::array<std::byte, 16> mask{};
  std::array<std::byte, 16> zero{};
  for (unsigned i = 0; i < p.len; ++i) mask[i / 8] |= std::byte{0x80} >> static_cast<int>(i % 8);
  const std::size_t n = p.addr.bytes().size();
  load(f, kReg1);
  bitwise(kReg1, netlink::View(mask).first(n), netlink::View(zero).first(n));
  cmp(negate ? NFT_CMP_NEQ : NFT_CMP_EQ, kReg1, p.masked().addr.bytes());
  return *this;
}

Rule& Rule::saddr(const Prefix& p, bool negate) {
  return match(p.addr.is_v4() ? Field::ip_saddr : Field::ip6_saddr, p, negate);
}
Rule& Rule::daddr(const Prefix& p, bool negate) {
  return match(p.addr.is_v4() ? Field::ip_daddr : Field::ip6_daddr, p, negate);
}

Rule& Rule::range(Field f, const Value& from, const Value& to, bool negate) {
  const auto& row = row_of(f);
  if (host_order(row.type)) fail(fmt::format("'{}' has no ranges (host byte order)", row.name));
  if (from.size() != size_of(row.type) || to.size() != from.size() || to < from)
    fail(fmt::format("'{}': not a range", row.name));
  if (from == to) return match(f, from, negate);
  need(f);
  load(f, kReg1);
  if (negate) {
    Expr e(b_, "range");
    b_.be32(NFTA_RANGE_SREG, kReg1);
    b_.be32(NFTA_RANGE_OP, NFT_RANGE_NEQ);
    put_value(b_, NFTA_RANGE_FROM_DATA, from.bytes());
    put_value(b_, NFTA_RANGE_TO_DATA, to.bytes());
  } else {
    cmp(NFT_CMP_GTE, kReg1, from.bytes());
    cmp(NFT_CMP_LTE, kReg1, to.bytes());
  }
  return *this;
}

Rule& Rule::mark(std::uint32_t value, std::uint32_t mask) {
  if (mask == 0xffffffff) return match(Field::mark, Value::host32(value));
  load(Field::mark, kReg1);
  bitwise(kReg1, Value::host32(mask).bytes(), Value::host32(0).bytes());
  cmp(NFT_CMP_EQ, kReg1, Value::host32(value).bytes());
  return *this;
}

Rule& Rule::iifgroup(std::uint32_t value, std::uint32_t mask) {
  load(Field::iifgroup, kReg1);
  bitwise(kReg1, Value::host32(mask).bytes(), Value::host32(0).bytes());
  cmp(NFT_CMP_EQ, kReg1, Value::host32(value).bytes());
  return *this;
}

Rule& Rule::tcp_flags(std::uint8_t value, std::uint8_t mask) {
  need(Field::tcp_flags);
  load(Field::tcp_flags, kReg1);
  bitwise(kReg1, Value::u8(mask).bytes(), Value::u8(0).bytes());
  cmp(NFT_CMP_EQ, kReg1, Value::u8(value).bytes());
  return *this;
}

Rule& Rule::ct_state(std::uint32_t bits) {
  load(Field::ct_state, kReg1);
  bitwise(kReg1, Value::host32(bits).bytes(), Value::host32(0).bytes());
  cmp(NFT_CMP_NEQ, kReg1, Value::host32(0).bytes());
  return *this;
}

Rule& Rule::lookup(std::initializer_list<Field> key, std::string_view set, bool negate,
                   std::optional<std::uint32_t> dreg) {
  if (key.size() == 0) fail("a look-up without a key");
  for (Field f : key) need(f);
  std::uint32_t slot = 0;
  for (Field f : key) {
    const auto slots = static_cast<std::uint32_t>(netlink::align4(size_of(row_of(f).type)) / 4);
    if (slot + slots > Value::kMax / 4) {
      fail("a key above 64 bytes");
      return *this;
    }
    load(f, key.size() == 1 ? kReg1 : kSlot0 + slot);
    slot += slots;
  }
  Expr e(b_, "lookup");
  b_.str(NFTA_LOOKUP_SET, set);
  b_.be32(NFTA_LOOKUP_SREG, key.size() == 1 ? kReg1 : kSlot0);
  if (dreg) b_.be32(NFTA_LOOKUP_DREG, *dreg);
  b_.be32(NFTA_LOOKUP_FLAGS, negate ? std::uint32_t{NFT_LOOKUP_F_INV} : 0U);
  return *this;
}

Rule& Rule::no_reverse_path() {
  {
    Expr e(b_, "fib");
    b_.be32(NFTA_FIB_DREG, kReg1);
    b_.be32(NFTA_FIB_RESULT, NFT_FIB_RESULT_OIF);
    b_.be32(NFTA_FIB_FLAGS, NFTA_FIB_F_SADDR | NFTA_FIB_F_IIF | NFTA_FIB_F_PRESENT);
  }
  cmp(NFT_CMP_EQ, kReg1, Value::host32(0).bytes());
  return *this;
}

Rule& Rule::daddr_is_local(bool negate) {
  {
    Expr e(b_, "fib");
    b_.be32(NFTA_FIB_DREG, kReg1);
    b_.be32(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
    b_.be32(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR);
  }
  const std::uint32_t local = 2;  // RTN_LOCAL
  cmp(negate ? NFT_CMP_NEQ : NFT_CMP_EQ, kReg1, std::as_bytes(std::span(&local, 1)));
  return *this;
}

Rule& Rule::counter() {
  Expr e(b_, "counter");
  b_.be64(NFTA_COUNTER_BYTES, 0);
  b_.be64(NFTA_COUNTER_PACKETS, 0);
  return *this;
}

Rule& Rule::log(std::string_view prefix, std::optional<std::uint16_t> nflog_group) {
  if (prefix.size() > 127) fail("a log prefix above 127 bytes");
  Expr e(b_, "log");
  if (!prefix.empty()) b_.str(NFTA_LOG_PREFIX, prefix);
  if (nflog_group) b_.be16(NFTA_LOG_GROUP, *nflog_group);
  return *this;
}

Rule& Rule::limit(std::uint64_t per_second) {
  Expr e(b_, "limit");
  b_.be64(NFTA_LIMIT_RATE, per_second);
  b_.be64(NFTA_LIMIT_UNIT, 1);
  b_.be32(NFTA_LIMIT_BURST, 5);
  b_.be32(NFTA_LIMIT_TYPE, NFT_LIMIT_PKTS);
  b_.be32(NFTA_LIMIT_FLAGS, 0);
  return *this;
}

Rule& Rule::set_mark(std::uint32_t value) {
  immediate(kReg1, Value::host32(value).bytes());
  Expr e(b_, "meta");
  b_.be32(NFTA_META_KEY, NFT_META_MARK);
  b_.be32(NFTA_META_SREG, kReg1);
  return *this;
}

Rule& Rule::set_mark(std::uint32_t value, std::uint32_t mask) {
  load(Field::mark, kReg1);
  bitwise(kReg1, Value::host32(~mask).bytes(), Value::host32(value & mask).bytes());
  Expr e(b_, "meta");
  b_.be32(NFTA_META_KEY, NFT_META_MARK);
  b_.be32(NFTA_META_SREG, kReg1);
  return *this;
}

Rule& Rule::verdict(const Verdict& v) {
  Expr e(b_, "immediate");
  b_.be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
  auto data = b_.nest(NFTA_IMMEDIATE_DATA);
  auto verdict = b_.nest(NFTA_DATA_VERDICT);
  b_.be32(NFTA_VERDICT_CODE, static_cast<std::uint32_t>(v.code));
  if (!v.chain.empty()) b_.str(NFTA_VERDICT_CHAIN, v.chain);
  return *this;
}

Rule& Rule::reject(Reject how) {
  if (how == Reject::tcp_reset && l4_ != kTcp) l4proto(kTcp);
  Expr e(b_, "reject");
  b_.be32(NFTA_REJECT_TYPE, how == Reject::tcp_reset ? NFT_REJECT_TCP_RST : NFT_REJECT_ICMPX_UNREACH);
  b_.u8(NFTA_REJECT_ICMP_CODE, how == Reject::port_unreachable   ? std::uint8_t{NFT_REJECT_ICMPX_PORT_UNREACH}
                               : how == Reject::admin_prohibited ? std::uint8_t{NFT_REJECT_ICMPX_ADMIN_PROHIBITED}
                                                                 : std::uint8_t{0});
  return *this;
}

Rule& Rule::notrack() {
  Expr e(b_, "notrack");
  return *this;
}

Rule& Rule::nat(std::uint32_t type, Family family, std::optional<Ip> to, std::optional<std::uint16_t> port) {
  if (l3_ && *l3_ != family) fail("a translation to another family");
  if (to) {
    if (to->family() != family) fail("a translation to another family");
    immediate(kReg1, to->bytes());
  }
  if (port) immediate(kReg2, Value::be16(*port).bytes());
  Expr e(b_, "nat");
  b_.be32(NFTA_NAT_TYPE, type);
  b_.be32(NFTA_NAT_FAMILY, family == Family::v4 ? NFPROTO_IPV4 : NFPROTO_IPV6);
  b_.be32(NFTA_NAT_REG_ADDR_MIN, kReg1);
  if (port) {
    b_.be32(NFTA_NAT_REG_PROTO_MIN, kReg2);
    b_.be32(NFTA_NAT_FLAGS, 2);  // NF_NAT_RANGE_PROTO_SPECIFIED
  }
  return *this;
}

Rule& Rule::dnat(const Ip& to, std::optional<std::uint16_t> port) { return nat(NFT_NAT_DNAT, to.family(), to, port); }
Rule& Rule::snat(const Ip& to) { return nat(NFT_NAT_SNAT, to.family(), to, {}); }
Rule& Rule::nat_map(std::uint32_t type, std::initializer_list<Field> key, std::string_view map, Family family) {
  lookup(key, map, false, kReg1);
  return nat(type, family, {}, {});
}
Rule& Rule::dnat_map(std::initializer_list<Field> key, std::string_view map, Family family) {
  return nat_map(NFT_NAT_DNAT, key, map, family);
}
Rule& Rule::snat_map(std::initializer_list<Field> key, std::string_view map, Family family) {
  return nat_map(NFT_NAT_SNAT, key, map, family);
}

Rule& Rule::masquerade() {
  Expr e(b_, "masq");
  return *this;
}

Rule& Rule::redirect(std::uint16_t port) {
  immediate(kReg1, Value::be16(port).bytes());
  Expr e(b_, "redir");
  b_.be32(NFTA_REDIR_REG_PROTO_MIN, kReg1);
  b_.be32(NFTA_REDIR_FLAGS, 2);  // NF_NAT_RANGE_PROTO_SPECIFIED
  return *this;
}

Rule& Rule::comment(std::string_view text) {
  comment_.assign(text.substr(0, 100));
  for (char& c : comment_)
    if (c < ' ' || c > '~' || c == '"' || c == '\\' || c == '#') c = '_';
  return *this;
}

std::string Rule::identity() const {
  const auto family = static_cast<std::byte>(family_);
  const auto h = fnv1a(fnv1a(0xcbf29ce484222325ULL, {&family, 1}), b_.view());
  return comment_.empty() ? fmt::format("#{:016x}", h) : fmt::format("{} #{:016x}", comment_, h);
}

}  // namespace calico::nft
