#pragma once
/// The objects of nf_tables as values: tables, chains, sets and maps, elements, verdicts. No text is ever parsed or
/// made: these go to the kernel as netlink attributes (batch.hpp), with the types and comments `nft list ruleset` needs
/// to print them as if nft had written them.
///
///   Set spoof{.table = t, .name = "src_ok", .key = {Type::ifname, Type::ether_addr, Type::ipv4_addr}};
///   Element e = element(Key().ifname("tap1").ether(mac).ip(addr));
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.hpp"
#include "core/base/ip.hpp"

namespace calico::nft {

enum class TableFamily : std::uint8_t { inet = 1, ip = 2, arp = 3, netdev = 5, bridge = 7, ip6 = 10 };
[[nodiscard]] std::string_view to_string(TableFamily f);

/// A table's name. Order: family, name.
struct TableRef {
  TableFamily family = TableFamily::inet;
  std::string name;
  auto operator<=>(const TableRef&) const = default;
};
/// "inet calico".
[[nodiscard]] std::string to_string(const TableRef& t);

struct Table {
  TableRef ref;
  /// Another socket cannot change or flush it. Never alone: without `persist` the table dies with the socket.
  bool owner = false;
  bool persist = false;  ///< outlives its owner's socket and can be adopted again (Linux 6.9)
  bool dormant = false;
  std::string comment;  ///< at most 128 bytes
  bool operator==(const Table&) const = default;
};

enum class Hook : std::uint8_t { prerouting = 0, input = 1, forward = 2, output = 3, postrouting = 4 };
/// The arp family has two hooks of its own, with these numbers.
inline constexpr Hook kArpInput = Hook::prerouting;
inline constexpr Hook kArpOutput = Hook::input;

struct BaseChain {
  std::string type = "filter";  ///< filter, nat, route
  Hook hook = Hook::forward;
  std::int32_t priority = 0;
  bool accept = true;       ///< policy of packets that reach the end
  std::string device = {};  ///< netdev only
  bool operator==(const BaseChain&) const = default;
};

struct Chain {
  TableRef table;
  std::string name;
  std::optional<BaseChain> base;  ///< absent: reached by jumps only
  std::string comment;
  bool operator==(const Chain&) const = default;
};

/// Where a packet goes.
struct Verdict {
  enum class Code : std::int32_t {
    drop = 0,
    accept = 1,
    continue_ = -1,
    break_ = -2,
    jump = -3,
    goto_ = -4,
    return_ = -5
  };
  Code code = Code::accept;
  std::string chain;  ///< jump and goto
  static Verdict accept() { return {Code::accept, {}}; }
  static Verdict drop() { return {Code::drop, {}}; }
  static Verdict return_() { return {Code::return_, {}}; }
  static Verdict jump(std::string chain) { return {Code::jump, std::move(chain)}; }
  static Verdict goto_(std::string chain) { return {Code::goto_, std::move(chain)}; }
  bool operator==(const Verdict&) const = default;
};
[[nodiscard]] std::string to_string(const Verdict& v);

/// Types of keys and data; the numbers are those nft keeps in a set's key type.
enum class Type : std::uint8_t {
  verdict = 1,
  nf_proto = 2,
  ipv4_addr = 7,
  ipv6_addr = 8,
  ether_addr = 9,
  ether_type = 10,
  arp_op = 11,
  inet_proto = 12,
  inet_service = 13,
  icmp_type = 14,
  tcp_flag = 15,
  mark = 19,
  iface_index = 20,
  ct_state = 26,
  icmpv6_type = 29,
  icmp_code = 32,
  icmpv6_code = 33,
  devgroup = 35,
  ifname = 41,
};
/// Bytes of a value of this type.
[[nodiscard]] std::size_t size_of(Type t);
/// Written in the machine's own byte order (mark, devgroup, index, ct state); the others are network order or text.
[[nodiscard]] bool host_order(Type t);
[[nodiscard]] std::string_view to_string(Type t);

/// Bytes of a key or datum: at most 64, no heap, comparable, hashable.
class Value {
 public:
  static constexpr std::size_t kMax = 64;
  Value() = default;
  explicit Value(std::span<const std::byte> b) { append(b); }
  static Value u8(std::uint8_t v) { return Value(std::as_bytes(std::span(&v, 1))); }
  static Value be16(std::uint16_t v);
  static Value host32(std::uint32_t v) { return Value(std::as_bytes(std::span(&v, 1))); }
  static Value ip(const Ip& ip) { return Value(ip.bytes()); }
  static Value mac(const Mac& m) { return Value(std::as_bytes(std::span(m.b))); }
  /// 16 bytes, zero padded. A name that is too long makes the value empty.
  static Value ifname(std::string_view name);

  /// More than kMax bytes leave the value full and overflow() true.
  void append(std::span<const std::byte> b);
  void pad4();
  std::span<const std::byte> bytes() const { return {b_.data(), n_}; }
  std::size_t size() const { return n_; }
  bool empty() const { return n_ == 0; }
  bool overflow() const { return overflow_; }
  auto operator<=>(const Value& o) const {
    const int c = std::memcmp(b_.data(), o.b_.data(), std::min(n_, o.n_));
    return c != 0 ? c <=> 0 : n_ <=> o.n_;
  }
  bool operator==(const Value& o) const { return n_ == o.n_ && std::memcmp(b_.data(), o.b_.data(), n_) == 0; }

 private:
  std::array<std::byte, kMax> b_{};
  std::uint8_t n_ = 0;
  bool overflow_ = false;
};

/// Fields of a (concatenated) key in the order of the set's types; each is padded to four bytes when there are several.
/// Element key = Key().ifname("tap1").ether(mac).ip(ip);
class Key {
 public:
  Key& ifname(std::string_view name) { return add(Value::ifname(name)); }
  Key& ether(const Mac& m) { return add(Value::mac(m)); }
  Key& ip(const Ip& v) { return add(Value::ip(v)); }
  Key& proto(std::uint8_t v) { return add(Value::u8(v)); }    ///< also ICMP type and code
  Key& port(std::uint16_t v) { return add(Value::be16(v)); }  ///< also ether type, ARP operation
  Key& devgroup(std::uint32_t v) { return add(Value::host32(v)); }
  Key& mark(std::uint32_t v) { return add(Value::host32(v)); }
  Key& add(const Value& v);
  const Value& value() const { return v_; }
  operator const Value&() const { return v_; }  // NOLINT: a Key is written where its value is wanted

 private:
  Value v_;
  std::size_t fields_ = 0;
};

struct Set {
  TableRef table;
  std::string name;
  std::vector<Type> key;     ///< several = concatenation
  std::optional<Type> data;  ///< a map; Type::verdict = verdict map
  bool interval = false;     ///< elements may be ranges; keys of host order cannot
  bool constant = false;
  bool dynamic = false;    ///< a hash set whose elements may carry a Limit
  std::uint32_t size = 0;  ///< most elements; 0 = no limit
  std::string comment;
  bool operator==(const Set&) const = default;
};

struct SetRef {
  TableRef table;
  std::string name;
  auto operator<=>(const SetRef&) const = default;
};
inline SetRef ref_of(const Set& s) { return {s.table, s.name}; }

/// What an element counts: a rule that finds the element goes on only while the limit is exceeded (`over`), so that
/// `in({iifname}, set).drop()` drops the excess. Each element has its own count; elements equal in their limit are
/// equal, whatever they have counted.
struct Limit {
  enum class Unit : std::uint8_t { packets, bytes, connections } unit = Unit::packets;
  std::uint64_t rate = 0;   ///< per second; of connections: how many there may be
  std::uint32_t burst = 0;  ///< of bytes the kernel adds what the rate gives in a second; none for connections
  bool operator==(const Limit&) const = default;
};

/// One element of a set or map. `end` empty: a single value; else the inclusive upper corner of a range (an interval
/// set; of a box, when the key is concatenated).
struct Element {
  Value key;
  Value end;
  std::optional<Verdict> verdict;  ///< of a verdict map
  Value data;                      ///< of another map
  std::string comment;
  std::optional<Limit> limit = {};  ///< of a dynamic set
  bool operator==(const Element&) const = default;
};
inline Element element(const Value& key) { return {key, {}, {}, {}, {}, {}}; }
inline Element element(const Value& key, Verdict v) { return {key, {}, std::move(v), {}, {}, {}}; }
inline Element interval(const Value& from, const Value& to) {
  return {from, to == from ? Value{} : to, {}, {}, {}, {}};
}
/// The range of a prefix, for an interval set of addresses.
inline Element interval(const Prefix& p) { return interval(Value::ip(p.masked().addr), Value::ip(p.last())); }

/// What makes an element another element, for DeltaTracker.
struct ElementKey {
  Value key;
  Value end;
  bool operator==(const ElementKey&) const = default;
};
inline ElementKey key_of(const Element& e) { return {e.key, e.end}; }

}  // namespace calico::nft

template <>
struct std::hash<calico::nft::Value> {
  std::size_t operator()(const calico::nft::Value& v) const noexcept {
    return std::hash<std::string_view>{}({reinterpret_cast<const char*>(v.bytes().data()), v.size()});
  }
};
template <>
struct std::hash<calico::nft::ElementKey> {
  std::size_t operator()(const calico::nft::ElementKey& k) const noexcept {
    return std::hash<calico::nft::Value>{}(k.key) * 31 + std::hash<calico::nft::Value>{}(k.end);
  }
};
