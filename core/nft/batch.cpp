#include "core/nft/batch.hpp"

#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include <algorithm>

#include "core/nft/udata.hpp"

namespace calico::nft {

namespace {
// Newer than the headers we build with.
constexpr std::uint32_t kTableOwner = 2;
constexpr std::uint32_t kTablePersist = 4;
/// A list of elements is one attribute of at most 65535 bytes; a single element stays far below 1 KiB.
constexpr std::size_t kElementsBytes = 60000;
constexpr std::size_t kNameMax = 255;

std::uint16_t type_of_message(std::uint16_t t) { return static_cast<std::uint16_t>(NFNL_SUBSYS_NFTABLES << 8U | t); }
}  // namespace

Batch::Batch() = default;

void Batch::clear() {
  b_.clear();
  at_.clear();
  ops_.clear();
  faults_.clear();
}

std::size_t Batch::op(std::string what) {
  ops_.push_back({at_.size(), 0, std::move(what)});
  return ops_.size() - 1;
}

void Batch::message(std::uint16_t type, std::uint16_t flags, TableFamily family) {
  at_.push_back(b_.size());
  ++ops_.back().messages;
  b_.begin(type_of_message(type), NLM_F_REQUEST | flags, 0);
  b_.body(nfgenmsg{static_cast<std::uint8_t>(family), NFNETLINK_V0, 0});
}

void Batch::end_message() { b_.end(); }

void Batch::fault(std::size_t op, std::string why) { faults_.emplace_back(op, std::move(why)); }

std::size_t Batch::add(const Table& t) {
  const auto n = op(fmt::format("table {}", to_string(t.ref)));
  if (t.ref.name.empty() || t.ref.name.size() > kNameMax) fault(n, "the name is empty or too long");
  if (t.owner && !t.persist) fault(n, "owner without persist: the table would die with this process");
  message(NFT_MSG_NEWTABLE, NLM_F_CREATE, t.ref.family);
  b_.str(NFTA_TABLE_NAME, t.ref.name);
  b_.be32(NFTA_TABLE_FLAGS, (t.dormant ? std::uint32_t{NFT_TABLE_F_DORMANT} : 0U) | (t.owner ? kTableOwner : 0U) |
                                (t.persist ? kTablePersist : 0U));
  if (!t.comment.empty()) b_.attr(NFTA_TABLE_USERDATA, udata::text(udata::kTableComment, t.comment));
  end_message();
  return n;
}

std::size_t Batch::remove(const TableRef& t) {
  const auto n = op(fmt::format("delete table {}", to_string(t)));
  message(NFT_MSG_DELTABLE, 0, t.family);
  b_.str(NFTA_TABLE_NAME, t.name);
  end_message();
  return n;
}

std::size_t Batch::remove_if_there(const TableRef& t) {
  // "Delete if it exists" is its own message only from Linux 6.3: create, which changes nothing of one that is there,
  // then delete.
  const auto n = op(fmt::format("delete table {}", to_string(t)));
  message(NFT_MSG_NEWTABLE, NLM_F_CREATE, t.family);
  b_.str(NFTA_TABLE_NAME, t.name);
  end_message();
  message(NFT_MSG_DELTABLE, 0, t.family);
  b_.str(NFTA_TABLE_NAME, t.name);
  end_message();
  return n;
}

std::size_t Batch::add(const Chain& c) {
  const auto n = op(fmt::format("chain {} {}", to_string(c.table), c.name));
  if (c.name.empty() || c.name.size() > kNameMax) fault(n, "the name is empty or too long");
  message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, c.table.family);
  b_.str(NFTA_CHAIN_TABLE, c.table.name);
  b_.str(NFTA_CHAIN_NAME, c.name);
  if (c.base) {
    b_.str(NFTA_CHAIN_TYPE, c.base->type);
    b_.be32(NFTA_CHAIN_POLICY, c.base->accept ? NF_ACCEPT : NF_DROP);
    auto hook = b_.nest(NFTA_CHAIN_HOOK);
    b_.be32(NFTA_HOOK_HOOKNUM, static_cast<std::uint32_t>(c.base->hook));
    b_.be32(NFTA_HOOK_PRIORITY, static_cast<std::uint32_t>(c.base->priority));
    if (!c.base->device.empty()) b_.str(NFTA_HOOK_DEV, c.base->device);
  }
  if (!c.comment.empty()) b_.attr(NFTA_CHAIN_USERDATA, udata::text(udata::kChainComment, c.comment));
  end_message();
  return n;
}

std::size_t Batch::remove(const ChainRef& c) {
  const auto n = op(fmt::format("delete chain {} {}", to_string(c.table), c.name));
  message(NFT_MSG_DELCHAIN, 0, c.table.family);
  b_.str(NFTA_CHAIN_TABLE, c.table.name);
  b_.str(NFTA_CHAIN_NAME, c.name);
  end_message();
  return n;
}

std::size_t Batch::flush(const ChainRef& c) {
  const auto n = op(fmt::format("flush chain {} {}", to_string(c.table), c.name));
  message(NFT_MSG_DELRULE, 0, c.table.family);
  b_.str(NFTA_RULE_TABLE, c.table.name);
  b_.str(NFTA_RULE_CHAIN, c.name);
  end_message();
  return n;
}

std::size_t Batch::rule(const ChainRef& c, const Rule& r, std::uint16_t flags, std::uint64_t handle) {
  const auto id = r.identity();
  const auto n = op(fmt::format("rule in {} {} ({})", to_string(c.table), c.name, id));
  if (!r.fault().empty()) fault(n, r.fault());
  if (r.table_family() != c.table.family)
    fault(n, fmt::format("the rule was built for family {}", to_string(r.table_family())));
  message(NFT_MSG_NEWRULE, flags, c.table.family);
  b_.str(NFTA_RULE_TABLE, c.table.name);
  b_.str(NFTA_RULE_CHAIN, c.name);
  if (handle) b_.be64(NFTA_RULE_HANDLE, handle);
  b_.attr(NFTA_RULE_EXPRESSIONS | NLA_F_NESTED, r.expressions());
  b_.attr(NFTA_RULE_USERDATA, udata::text(udata::kRuleComment, id));
  end_message();
  return n;
}

std::size_t Batch::add(const ChainRef& c, const Rule& r) { return rule(c, r, NLM_F_CREATE | NLM_F_APPEND, 0); }
std::size_t Batch::insert(const ChainRef& c, const Rule& r) { return rule(c, r, NLM_F_CREATE, 0); }
std::size_t Batch::replace(const ChainRef& c, std::uint64_t handle, const Rule& r) {
  return rule(c, r, NLM_F_REPLACE, handle);
}

std::size_t Batch::remove_rule(const ChainRef& c, std::uint64_t handle) {
  const auto n = op(fmt::format("delete rule {} of {} {}", handle, to_string(c.table), c.name));
  message(NFT_MSG_DELRULE, 0, c.table.family);
  b_.str(NFTA_RULE_TABLE, c.table.name);
  b_.str(NFTA_RULE_CHAIN, c.name);
  b_.be64(NFTA_RULE_HANDLE, handle);
  end_message();
  return n;
}

std::size_t Batch::add(const Set& s) {
  const auto n = op(fmt::format("set {} {}", to_string(s.table), s.name));
  if (s.name.empty() || s.name.size() > kNameMax) fault(n, "the name is empty or too long");
  if (s.key.empty()) fault(n, "no key type");
  const bool concat = s.key.size() > 1;
  std::uint32_t type = 0;
  std::size_t len = 0;
  for (Type t : s.key) {
    type = type << 6U | static_cast<std::uint32_t>(t);
    len += concat ? netlink::align4(size_of(t)) : size_of(t);
    if (t == Type::verdict) fault(n, "a verdict is no key");
    if (s.interval && host_order(t) && !(concat && t == Type::ifname))
      fault(n, fmt::format("an interval set cannot have a key of type {} (host byte order)", to_string(t)));
  }
  if (s.key.size() > 5) fault(n, "a key of more than five types");
  if (len > Value::kMax) fault(n, fmt::format("a key of {} bytes (64 at most)", len));
  std::uint32_t flags = 0;
  if (s.interval) flags |= NFT_SET_INTERVAL | (concat ? std::uint32_t{NFT_SET_CONCAT} : 0U);
  if (s.constant) flags |= NFT_SET_CONSTANT;
  if (s.dynamic) flags |= NFT_SET_EVAL;
  if (s.dynamic && (s.interval || s.data)) fault(n, "a dynamic set is neither a map nor of intervals");
  if (s.data) flags |= NFT_SET_MAP;
  message(NFT_MSG_NEWSET, NLM_F_CREATE, s.table.family);
  b_.str(NFTA_SET_TABLE, s.table.name);
  b_.str(NFTA_SET_NAME, s.name);
  b_.be32(NFTA_SET_FLAGS, flags);
  b_.be32(NFTA_SET_KEY_TYPE, type);
  b_.be32(NFTA_SET_KEY_LEN, static_cast<std::uint32_t>(len));
  if (s.data) {
    const bool verdict = *s.data == Type::verdict;
    b_.be32(NFTA_SET_DATA_TYPE, verdict ? std::uint32_t{NFT_DATA_VERDICT} : static_cast<std::uint32_t>(*s.data));
    b_.be32(NFTA_SET_DATA_LEN, verdict ? 0U : static_cast<std::uint32_t>(size_of(*s.data)));
  }
  b_.be32(NFTA_SET_ID, static_cast<std::uint32_t>(n + 1));  // demanded; unique within the batch
  if (s.size || (s.interval && concat)) {
    auto desc = b_.nest(NFTA_SET_DESC);
    if (s.size) b_.be32(NFTA_SET_DESC_SIZE, s.size);
    if (s.interval && concat) {
      auto fields = b_.nest(NFTA_SET_DESC_CONCAT);
      for (Type t : s.key) {
        auto field = b_.nest(NFTA_LIST_ELEM);
        b_.be32(NFTA_SET_FIELD_LEN, static_cast<std::uint32_t>(size_of(t)));
      }
    }
  }
  b_.attr(NFTA_SET_USERDATA, udata::of_set(s));
  end_message();
  return n;
}

std::size_t Batch::remove(const SetRef& s) {
  const auto n = op(fmt::format("delete set {} {}", to_string(s.table), s.name));
  message(NFT_MSG_DELSET, 0, s.table.family);
  b_.str(NFTA_SET_TABLE, s.table.name);
  b_.str(NFTA_SET_NAME, s.name);
  end_message();
  return n;
}

std::size_t Batch::flush(const SetRef& s) {
  const auto n = op(fmt::format("flush set {} {}", to_string(s.table), s.name));
  message(NFT_MSG_DELSETELEM, 0, s.table.family);
  b_.str(NFTA_SET_ELEM_LIST_TABLE, s.table.name);
  b_.str(NFTA_SET_ELEM_LIST_SET, s.name);
  end_message();
  return n;
}

namespace {
/// The value behind `v` (as a big-endian number); nothing behind the last one.
std::optional<Value> successor(const Value& v) {
  std::array<std::byte, Value::kMax> b{};
  std::copy(v.bytes().begin(), v.bytes().end(), b.begin());
  for (std::size_t i = v.size(); i-- > 0;) {
    if (b[i] != std::byte{0xff}) {
      b[i] = static_cast<std::byte>(std::to_integer<unsigned>(b[i]) + 1);
      return Value(std::span(b).first(v.size()));
    }
    b[i] = std::byte{0};
  }
  return std::nullopt;
}

void key_attr(netlink::MessageBuilder& b, std::uint16_t type, const Value& v) {
  auto n = b.nest(type);
  b.attr(NFTA_DATA_VALUE, v.bytes());
}
}  // namespace

namespace {
/// The expression an element carries; it matches when the limit is exceeded.
void put_limit(netlink::MessageBuilder& b, const Limit& l) {
  auto expr = b.nest(NFTA_SET_ELEM_EXPR);
  const bool connections = l.unit == Limit::Unit::connections;
  b.str(NFTA_EXPR_NAME, connections ? "connlimit" : "limit");
  auto data = b.nest(NFTA_EXPR_DATA);
  if (connections) {
    b.be32(NFTA_CONNLIMIT_COUNT, static_cast<std::uint32_t>(l.rate));
    b.be32(NFTA_CONNLIMIT_FLAGS, NFT_CONNLIMIT_F_INV);
    return;
  }
  b.be64(NFTA_LIMIT_RATE, l.rate);
  b.be64(NFTA_LIMIT_UNIT, 1);
  b.be32(NFTA_LIMIT_BURST, l.burst);
  b.be32(NFTA_LIMIT_TYPE, l.unit == Limit::Unit::bytes ? NFT_LIMIT_PKT_BYTES : NFT_LIMIT_PKTS);
  b.be32(NFTA_LIMIT_FLAGS, NFT_LIMIT_F_INV);
}
}  // namespace

void Batch::one_element(const Set& s, const Element& e, Elements how) {
  const bool concat = s.key.size() > 1;
  {
    auto elem = b_.nest(NFTA_LIST_ELEM);
    key_attr(b_, NFTA_SET_ELEM_KEY, e.key);
    if (s.interval && concat && !e.end.empty()) key_attr(b_, NFTA_SET_ELEM_KEY_END, e.end);
    if (how == Elements::add && e.verdict) {
      auto data = b_.nest(NFTA_SET_ELEM_DATA);
      auto verdict = b_.nest(NFTA_DATA_VERDICT);
      b_.be32(NFTA_VERDICT_CODE, static_cast<std::uint32_t>(e.verdict->code));
      if (!e.verdict->chain.empty()) b_.str(NFTA_VERDICT_CHAIN, e.verdict->chain);
    } else if (how == Elements::add && !e.data.empty()) {
      key_attr(b_, NFTA_SET_ELEM_DATA, e.data);
    }
    if (how == Elements::add && !e.comment.empty())
      b_.attr(NFTA_SET_ELEM_USERDATA, udata::text(udata::kElementComment, e.comment));
    if (how == Elements::add && e.limit) put_limit(b_, *e.limit);
  }
  if (!s.interval || concat) return;
  // A plain interval set keeps the two ends apart: the value behind the range begins what is not in the set.
  const auto behind = successor(e.end.empty() ? e.key : e.end);
  if (!behind) return;
  auto elem = b_.nest(NFTA_LIST_ELEM);
  b_.be32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
  key_attr(b_, NFTA_SET_ELEM_KEY, *behind);
}

std::size_t Batch::elements_op(const Set& s, std::span<const Element> elements, Elements how) {
  const auto n = op(fmt::format("{} elements {} set {} {}", how == Elements::add ? "add" : "delete",
                                how == Elements::add ? "to" : "from", to_string(s.table), s.name));
  const bool concat = s.key.size() > 1;
  std::size_t len = 0;
  for (Type t : s.key) len += concat ? netlink::align4(size_of(t)) : size_of(t);
  for (std::size_t i = 0; i < elements.size();) {
    message(how == Elements::add ? NFT_MSG_NEWSETELEM : NFT_MSG_DELSETELEM, how == Elements::add ? NLM_F_CREATE : 0,
            s.table.family);
    b_.str(NFTA_SET_ELEM_LIST_TABLE, s.table.name);
    b_.str(NFTA_SET_ELEM_LIST_SET, s.name);
    {
      auto list = b_.nest(NFTA_SET_ELEM_LIST_ELEMENTS);
      for (; i < elements.size() && list.size() < kElementsBytes; ++i) {
        const auto& e = elements[i];
        if (e.key.size() != len || e.key.overflow() || (!e.end.empty() && e.end.size() != len))
          fault(n, fmt::format("element {}: the key has {} bytes, the set's {}", i, e.key.size(), len));
        else if (!e.end.empty() && !s.interval)
          fault(n, fmt::format("element {}: a range in a set without intervals", i));
        else if (!e.end.empty() && !concat && e.end < e.key)
          fault(n, fmt::format("element {}: the range ends before it begins", i));
        else if (how == Elements::add && s.data.has_value() != (e.verdict || !e.data.empty()))
          fault(n, fmt::format("element {}: {}", i, s.data ? "no datum for a map" : "a datum for a set"));
        if (e.limit && (!s.dynamic || e.limit->rate == 0 ||
                        (e.limit->unit == Limit::Unit::connections && e.limit->rate > UINT32_MAX)))
          fault(n, fmt::format("element {}: a limit of nothing, or in a set that is not dynamic", i));
        one_element(s, e, how);
      }
    }
    end_message();
  }
  return n;
}

}  // namespace calico::nft
