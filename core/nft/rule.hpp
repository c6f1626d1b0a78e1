#pragma once
/// One rule, built expression by expression.
///
///   Rule().iifname("tap*").not_in({Field::iifname, Field::ether_saddr, Field::ip_saddr}, "src_ok").counter().drop()
///         .comment("spoofed source");
///   Rule().ct_state(kEstablished | kRelated).accept();
///   Rule().vmap({Field::iifgroup}, "from_class");
///
/// Matches on IPv4, IPv6, TCP, UDP or ICMP fields first check that the packet is one, as nft does (once a rule): in an
/// inet table `ip_saddr` never looks into an IPv6 packet. The check is left out of what `nft list` prints, as there.
/// Thread: any; a value. Owns: its bytes. Errors: what cannot be expressed (interface name too long, key above 64
/// bytes, table family without the field) is kept and reported by Batch and Connection::commit as `invalid` before
/// anything is sent.
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/netlink/message.hpp"
#include "core/nft/types.hpp"

namespace calico::nft {

/// What a match loads from the packet.
enum class Field : std::uint8_t {
  iifname,
  oifname,
  iif,
  oif,
  iifgroup,
  oifgroup,
  nfproto,
  l4proto,
  protocol,  ///< ether type as the kernel sees it
  mark,
  ether_saddr,
  ether_daddr,
  ether_type,
  ip_saddr,
  ip_daddr,
  ip_protocol,
  ip6_saddr,
  ip6_daddr,
  ip6_nexthdr,
  ip6_hoplimit,
  tcp_sport,
  tcp_dport,
  tcp_flags,
  udp_sport,
  udp_dport,
  th_sport,  ///< of any protocol with ports; combine with l4proto
  th_dport,
  icmp_type,
  icmp_code,
  icmpv6_type,
  icmpv6_code,
  nd_target,  ///< target of neighbour solicitation and advertisement (RFC 4861 4.3, 4.4)
  arp_operation,
  arp_saddr_ether,
  arp_saddr_ip,
  arp_daddr_ether,
  arp_daddr_ip,
  ct_state,
  ct_mark,
};
/// The set key type that fits the field.
[[nodiscard]] Type type_of(Field f);

inline constexpr std::uint32_t kInvalid = 1;  ///< bits of ct_state
inline constexpr std::uint32_t kEstablished = 2;
inline constexpr std::uint32_t kRelated = 4;
inline constexpr std::uint32_t kNew = 8;
inline constexpr std::uint32_t kUntracked = 64;
inline constexpr std::uint8_t kTcpSyn = 2;  ///< bit of tcp_flags

enum class Reject : std::uint8_t { tcp_reset, port_unreachable, admin_prohibited };

class Rule {
 public:
  explicit Rule(TableFamily family = TableFamily::inet) : family_(family) {}

  // -- matches --
  /// Exact, or a prefix when the name ends in '*' ("tap*").
  Rule& iifname(std::string_view name, bool negate = false) { return ifname(Field::iifname, name, negate); }
  Rule& oifname(std::string_view name, bool negate = false) { return ifname(Field::oifname, name, negate); }
  Rule& iifgroup(std::uint32_t group) { return match(Field::iifgroup, Value::host32(group)); }
  /// A range of groups: those whose bits in `mask` are `value`.
  Rule& iifgroup(std::uint32_t value, std::uint32_t mask);
  Rule& oifgroup(std::uint32_t group) { return match(Field::oifgroup, Value::host32(group)); }
  Rule& family(Family f);
  Rule& l4proto(std::uint8_t p) { return match(Field::l4proto, Value::u8(p)); }
  Rule& mark(std::uint32_t value, std::uint32_t mask = 0xffffffff);
  Rule& saddr(const Prefix& p, bool negate = false);
  Rule& daddr(const Prefix& p, bool negate = false);
  Rule& tcp_dport(std::uint16_t port) { return match(Field::tcp_dport, Value::be16(port)); }
  Rule& tcp_dport(std::uint16_t from, std::uint16_t to) { return port_range(Field::tcp_dport, from, to); }
  Rule& udp_dport(std::uint16_t port) { return match(Field::udp_dport, Value::be16(port)); }
  Rule& udp_dport(std::uint16_t from, std::uint16_t to) { return port_range(Field::udp_dport, from, to); }
  Rule& tcp_sport(std::uint16_t port) { return match(Field::tcp_sport, Value::be16(port)); }
  Rule& udp_sport(std::uint16_t port) { return match(Field::udp_sport, Value::be16(port)); }
  Rule& icmp_type(std::uint8_t type) { return match(Field::icmp_type, Value::u8(type)); }
  Rule& icmp_code(std::uint8_t code) { return match(Field::icmp_code, Value::u8(code)); }
  Rule& icmpv6_type(std::uint8_t type) { return match(Field::icmpv6_type, Value::u8(type)); }
  Rule& icmpv6_code(std::uint8_t code) { return match(Field::icmpv6_code, Value::u8(code)); }
  Rule& arp_operation(std::uint16_t op) { return match(Field::arp_operation, Value::be16(op)); }
  /// Of the TCP flags in `mask` exactly those in `value` are set.
  Rule& tcp_flags(std::uint8_t value, std::uint8_t mask);
  /// Any of these bits.
  Rule& ct_state(std::uint32_t bits);
  /// Equal to `v` (its bytes as the field has them).
  Rule& match(Field f, const Value& v, bool negate = false);
  Rule& match(Field f, const Prefix& p, bool negate = false);
  /// from <= field <= to, compared as bytes: not for fields of host order.
  Rule& range(Field f, const Value& from, const Value& to, bool negate = false);
  /// The (concatenated) fields are an element of the set.
  Rule& in(std::initializer_list<Field> key, std::string_view set) { return lookup(key, set, false, std::nullopt); }
  Rule& not_in(std::initializer_list<Field> key, std::string_view set) { return lookup(key, set, true, std::nullopt); }
  /// No route back to the source through the interface it came from (`fib saddr . iif oif missing`); prerouting only.
  Rule& no_reverse_path();
  /// The destination is an address of this host (`fib daddr type local`).
  Rule& daddr_is_local(bool negate = false);

  // -- actions --
  Rule& counter();
  Rule& log(std::string_view prefix, std::optional<std::uint16_t> nflog_group = {});
  Rule& set_mark(std::uint32_t value);
  /// The bits of `mask` become those of `value`; the others stay.
  Rule& set_mark(std::uint32_t value, std::uint32_t mask);
  /// At most `rate` packets a second (burst 5): what is above does not match.
  Rule& limit(std::uint64_t per_second);
  /// A verdict map; no element = go on with the next rule.
  Rule& vmap(std::initializer_list<Field> key, std::string_view map) { return lookup(key, map, false, kVerdictReg); }
  Rule& accept() { return verdict(Verdict::accept()); }
  Rule& drop() { return verdict(Verdict::drop()); }
  Rule& return_() { return verdict(Verdict::return_()); }
  Rule& jump(std::string chain) { return verdict(Verdict::jump(std::move(chain))); }
  Rule& goto_(std::string chain) { return verdict(Verdict::goto_(std::move(chain))); }
  Rule& verdict(const Verdict& v);
  Rule& reject(Reject how);
  Rule& notrack();
  /// New destination; chain of type nat, prerouting or output.
  Rule& dnat(const Ip& to, std::optional<std::uint16_t> port = {});
  /// New destination from a map (Ip -> Ip) keyed by `key`.
  Rule& dnat_map(Field key, std::string_view map, Family family) { return dnat_map({key}, map, family); }
  Rule& dnat_map(std::initializer_list<Field> key, std::string_view map, Family family);
  Rule& snat(const Ip& to);
  Rule& snat_map(std::initializer_list<Field> key, std::string_view map, Family family);
  Rule& masquerade();
  /// To this host itself, other port.
  Rule& redirect(std::uint16_t port);

  /// For people; at most 100 bytes are kept. The rule's hash is added behind it.
  Rule& comment(std::string_view text);

  TableFamily table_family() const { return family_; }
  /// "text #0123456789abcdef": what the kernel keeps and `nft list` prints. A restarted daemon compares it with what it
  /// would write; equal means the same expressions in the same order.
  std::string identity() const;
  /// Encoded expressions (the content of NFTA_RULE_EXPRESSIONS).
  netlink::View expressions() const { return b_.view(); }
  /// Why the rule cannot be written; empty when it can.
  const std::string& fault() const { return fault_; }

 private:
  static constexpr std::uint32_t kVerdictReg = 0;
  Rule& ifname(Field f, std::string_view name, bool negate);
  Rule& port_range(Field f, std::uint16_t from, std::uint16_t to) {
    return range(f, Value::be16(from), Value::be16(to));
  }
  Rule& lookup(std::initializer_list<Field> key, std::string_view set, bool negate, std::optional<std::uint32_t> dreg);
  Rule& nat(std::uint32_t type, Family family, std::optional<Ip> to, std::optional<std::uint16_t> port);
  Rule& nat_map(std::uint32_t type, std::initializer_list<Field> key, std::string_view map, Family family);
  void need(Field f);
  void load(Field f, std::uint32_t reg);
  void cmp(std::uint32_t op, std::uint32_t reg, netlink::View value);
  void immediate(std::uint32_t reg, netlink::View value);
  void bitwise(std::uint32_t reg, netlink::View mask, netlink::View xor_);
  void fail(std::string why);

  TableFamily family_;
  netlink::MessageBuilder b_;
  std::string comment_;
  std::string fault_;
  std::optional<Family> l3_;  // what the rule has checked so far
  std::optional<std::uint8_t> l4_;
  bool ether_ = false;
};

}  // namespace calico::nft
