#include "core/nft/connection.hpp"

#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include <algorithm>

#include "core/netlink/dump.hpp"
#include "core/nft/udata.hpp"

namespace calico::nft {

using netlink::Attr;
using netlink::Attrs;
using netlink::Message;
using netlink::MessageBuilder;
using netlink::View;

namespace {
constexpr std::uint16_t kDump = NLM_F_REQUEST | NLM_F_DUMP;
constexpr std::size_t kReceiveBuffer = 16U << 20U;  // a verdict for each message of a batch that fails throughout

std::uint16_t nft_type(std::uint16_t t) { return static_cast<std::uint16_t>(NFNL_SUBSYS_NFTABLES << 8U | t); }

MessageBuilder request(std::uint16_t type, std::uint16_t flags, std::uint8_t family) {
  MessageBuilder b;
  b.begin(nft_type(type), flags, 0);
  b.body(nfgenmsg{family, NFNETLINK_V0, 0});
  return b;
}

void edge(MessageBuilder& b, std::uint16_t type, std::uint32_t seq) {
  b.begin(type, NLM_F_REQUEST, seq);
  b.body(nfgenmsg{NFPROTO_UNSPEC, NFNETLINK_V0, netlink::to_be(std::uint16_t{NFNL_SUBSYS_NFTABLES})});
  b.end();
}

/// What an errno of nf_tables usually means here.
std::string_view hint(int err) {
  switch (err) {
    case EPERM:
      return "no CAP_NET_ADMIN, or the table belongs to another process";
    case EEXIST:
      return "there already with another content, or it overlaps another element";
    case ENOENT:
      return "the table, chain, set or element it names is not there";
    case EBUSY:
      return "still in use by a rule or map";
    case EMLINK:
      return "jumps more than 16 chains deep";
    case ELOOP:
      return "the chains jump in a circle";
    case ENOTEMPTY:
      return "an end of a range lies inside another range";
    case EOPNOTSUPP:
      return "this kernel cannot, or not in this hook or family";
    case ENFILE:
      return "the set is full";
    case EMSGSIZE:
      return "the batch is larger than the send buffer";
    default:
      return {};
  }
}

/// Which list element of a message lies at this offset (from the message's start).
std::optional<std::size_t> element_at(View message, std::size_t offset) {
  std::optional<std::size_t> found;
  const std::size_t head = sizeof(nlmsghdr) + sizeof(nfgenmsg);
  if (message.size() < head) return found;
  for (const Attr& list : Attrs(message.subspan(head))) {
    if (list.type != NFTA_SET_ELEM_LIST_ELEMENTS) continue;
    std::size_t i = 0;
    for (const Attr& e : Attrs(list.data)) {
      const auto at = static_cast<std::size_t>(e.data.data() - message.data()) - sizeof(nlattr);
      if (offset >= at && offset < at + sizeof(nlattr) + e.data.size()) found = i;
      // The end of a plain range is an element of its own for the kernel only.
      if (!(Attrs(e.data).find(NFTA_SET_ELEM_FLAGS).be32() & NFT_SET_ELEM_INTERVAL_END)) ++i;
      if (found) break;
    }
  }
  return found;
}

std::size_t elements_in(View message) {
  const std::size_t head = sizeof(nlmsghdr) + sizeof(nfgenmsg);
  std::size_t n = 0;
  for (const Attr& e : Attrs(Attrs(message.subspan(head)).find(NFTA_SET_ELEM_LIST_ELEMENTS).data))
    if (!(Attrs(e.data).find(NFTA_SET_ELEM_FLAGS).be32() & NFT_SET_ELEM_INTERVAL_END)) ++n;
  return n;
}

CommitError conversation_failed(const Error& e) { return {e, {}}; }

CommitError summary(std::vector<Fault> faults, Errc code) {
  std::stable_sort(faults.begin(), faults.end(), [](auto& a, auto& b) { return a.op < b.op; });
  CommitError e;
  e.error.code = code;
  e.error.what = faults.front().what;
  if (faults.size() > 1) e.error.what += fmt::format(" (and {} more)", faults.size() - 1);
  e.faults = std::move(faults);
  return e;
}
}  // namespace

Result<Connection> Connection::open() {
  auto s = netlink::Socket::open(NETLINK_NETFILTER, {.receive_buffer = kReceiveBuffer});
  if (!s) return wrap(s.error(), "nf_tables");
  return Connection(std::move(*s));
}

tl::expected<void, CommitError> Connection::commit(const Batch& batch) {
  if (batch.ops_.empty()) return {};
  std::vector<Fault> faults;
  for (const auto& [op, why] : batch.faults_)
    faults.push_back({op, EINVAL, fmt::format("{}: {}", batch.ops_[op].what, why), {}});
  if (faults.empty() && !batch.b_.ok())
    faults.push_back({batch.ops_.size(), EINVAL, "nft batch: an object is larger than an attribute may be", {}});
  if (!faults.empty()) return tl::unexpected(summary(std::move(faults), Errc::invalid));
  if (batch.at_.empty()) return {};

  // begin, messages, end; only the last message asks for an ack: errors come in any case.
  const std::uint32_t base = seq_ + 1;
  const auto count = static_cast<std::uint32_t>(batch.at_.size());
  MessageBuilder out;
  edge(out, NFNL_MSG_BATCH_BEGIN, base);
  const std::size_t head = out.size();
  netlink::Bytes bytes(out.view().begin(), out.view().end());
  bytes.insert(bytes.end(), batch.b_.view().begin(), batch.b_.view().end());
  for (std::uint32_t i = 0; i < count; ++i) {
    std::byte* m = bytes.data() + head + batch.at_[i];
    const std::uint32_t seq = base + 1 + i;
    std::memcpy(m + offsetof(nlmsghdr, nlmsg_seq), &seq, sizeof seq);
    if (i + 1 == count) {
      std::uint16_t flags = 0;
      std::memcpy(&flags, m + offsetof(nlmsghdr, nlmsg_flags), sizeof flags);
      flags |= NLM_F_ACK;
      std::memcpy(m + offsetof(nlmsghdr, nlmsg_flags), &flags, sizeof flags);
    }
  }
  out.clear();
  edge(out, NFNL_MSG_BATCH_END, base + count + 1);
  bytes.insert(bytes.end(), out.view().begin(), out.view().end());
  seq_ = base + count + 1;

  if (auto st = socket_.ensure_send_buffer(bytes.size() + bytes.size() / 2); !st)
    return tl::unexpected(conversation_failed(st.error()));
  if (auto st = socket_.send(bytes); !st) return tl::unexpected(conversation_failed(st.error()));

  // Every verdict is queued when sendmsg() returns. The last message's ack alone does not mean success: a commit that
  // fails as a whole is told under the number of the batch's begin, before it.
  bool any = false;
  Errc code = Errc::internal;
  for (;;) {
    auto got = socket_.receive(buffer_, !any);
    if (!got && got.error().code == Errc::busy) break;
    if (!got)
      return tl::unexpected(conversation_failed(wrap(got.error(), "nft batch: the outcome is unknown").value()));
    netlink::for_each_message(*got, [&](const Message& m) {
      if (m.type != NLMSG_ERROR || m.pid != socket_.port() || m.seq - base > count + 1) return;
      any = true;
      const auto ack = parse_ack(m);
      if (ack.error == 0) return;
      Fault f{batch.ops_.size(), ack.error, {}, {}};
      std::string what = "nft transaction";
      if (const std::uint32_t i = m.seq - base - 1; m.seq != base && i < count) {
        const auto it = std::upper_bound(batch.ops_.begin(), batch.ops_.end(), i,
                                         [](std::size_t n, const Batch::Op& o) { return n < o.first_message; });
        f.op = static_cast<std::size_t>(it - batch.ops_.begin()) - 1;
        const auto& op = batch.ops_[f.op];
        what = op.what;
        auto message_at = [&](std::size_t n) {
          const std::size_t end = n + 1 < count ? batch.at_[n + 1] : batch.b_.size();
          return batch.b_.view().subspan(batch.at_[n], end - batch.at_[n]);
        };
        if (ack.offset)
          if (auto e = element_at(message_at(i), ack.offset)) {
            for (std::size_t k = op.first_message; k < i; ++k) *e += elements_in(message_at(k));
            f.element = e;
            what += fmt::format(", element {}", *e);
          }
      }
      auto e = error_of(ack, what);
      if (const auto h = hint(ack.error); !h.empty()) e.what += fmt::format(" [{}]", h);
      f.what = std::move(e.what);
      if (faults.empty()) code = e.code;
      faults.push_back(std::move(f));
    });
  }
  if (faults.empty()) return {};
  return tl::unexpected(summary(std::move(faults), code));
}

Status Connection::apply(const Batch& batch) {
  auto done = commit(batch);
  if (!done) return tl::unexpected(std::move(done.error().error));
  return {};
}

// ---- reading back ----

namespace {
TableInfo decode_table(const Message& m) {
  TableInfo t;
  t.table.ref.family = static_cast<TableFamily>(m.body<nfgenmsg>().nfgen_family);
  for (const Attr& a : m.attrs(sizeof(nfgenmsg))) switch (a.type) {
      case NFTA_TABLE_NAME:
        t.table.ref.name = a.str();
        break;
      case NFTA_TABLE_FLAGS:
        t.table.dormant = (a.be32() & NFT_TABLE_F_DORMANT) != 0;
        t.table.owner = (a.be32() & 2U) != 0;
        t.table.persist = (a.be32() & 4U) != 0;
        break;
      case NFTA_TABLE_USE:
        t.uses = a.be32();
        break;
      case NFTA_TABLE_HANDLE:
        t.handle = a.be64();
        break;
      case NFTA_TABLE_USERDATA:
        t.table.comment = udata::find_text(a.data, udata::kTableComment);
        break;
      case NFTA_TABLE_OWNER:
        t.owner_port = a.be32();
        break;
      default:
        break;
    }
  return t;
}

ChainInfo decode_chain(const Message& m, std::string& table) {
  ChainInfo c;
  std::uint32_t policy = 1;
  std::string type;
  std::optional<BaseChain> base;
  for (const Attr& a : m.attrs(sizeof(nfgenmsg))) switch (a.type) {
      case NFTA_CHAIN_TABLE:
        table = a.str();
        break;
      case NFTA_CHAIN_NAME:
        c.chain.name = a.str();
        break;
      case NFTA_CHAIN_HANDLE:
        c.handle = a.be64();
        break;
      case NFTA_CHAIN_TYPE:
        type = a.str();
        break;
      case NFTA_CHAIN_POLICY:
        policy = a.be32();
        break;
      case NFTA_CHAIN_USERDATA:
        c.chain.comment = udata::find_text(a.data, udata::kChainComment);
        break;
      case NFTA_CHAIN_HOOK: {
        base.emplace();
        const Attrs h(a.data);
        base->hook = static_cast<Hook>(h.find(NFTA_HOOK_HOOKNUM).be32());
        base->priority = static_cast<std::int32_t>(h.find(NFTA_HOOK_PRIORITY).be32());
        base->device = h.find(NFTA_HOOK_DEV).str();
        break;
      }
      default:
        break;
    }
  if (base) {
    base->type = type;
    base->accept = policy == 1;
    c.chain.base = base;
  }
  return c;
}

SetInfo decode_set(const Message& m, std::string& table) {
  SetInfo s;
  std::uint32_t flags = 0;
  std::uint32_t key = 0;
  std::optional<std::uint32_t> data;
  for (const Attr& a : m.attrs(sizeof(nfgenmsg))) switch (a.type) {
      case NFTA_SET_TABLE:
        table = a.str();
        break;
      case NFTA_SET_NAME:
        s.set.name = a.str();
        break;
      case NFTA_SET_FLAGS:
        flags = a.be32();
        break;
      case NFTA_SET_KEY_TYPE:
        key = a.be32();
        break;
      case NFTA_SET_DATA_TYPE:
        data = a.be32();
        break;
      case NFTA_SET_HANDLE:
        s.handle = a.be64();
        break;
      case NFTA_SET_DESC:
        s.set.size = Attrs(a.data).find(NFTA_SET_DESC_SIZE).be32();
        break;
      case NFTA_SET_USERDATA:
        s.set.comment = udata::find_text(a.data, udata::kSetComment);
        break;
      default:
        break;
    }
  for (; key != 0; key >>= 6U) {
    const auto t = static_cast<Type>(key & 63U);
    if (size_of(t) == 0) s.understood = false;
    s.set.key.insert(s.set.key.begin(), t);
  }
  s.set.interval = (flags & NFT_SET_INTERVAL) != 0;
  s.set.constant = (flags & NFT_SET_CONSTANT) != 0;
  s.set.dynamic = (flags & NFT_SET_EVAL) != 0;
  if (flags & NFT_SET_MAP) {
    if (data == NFT_DATA_VERDICT)
      s.set.data = Type::verdict;
    else
      s.set.data = static_cast<Type>(data.value_or(0));
    if (size_of(*s.set.data) == 0) s.understood = false;
  }
  if (flags &
      ~static_cast<std::uint32_t>(NFT_SET_INTERVAL | NFT_SET_CONSTANT | NFT_SET_MAP | NFT_SET_CONCAT | NFT_SET_EVAL))
    s.understood = false;
  return s;
}

struct RawElement {
  Element e;
  bool end = false;
};

/// Absent: an expression that is no Limit of ours, or one that matches below the limit.
std::optional<Limit> decode_limit(View expression) {
  const Attrs e(expression);
  const auto name = e.find(NFTA_EXPR_NAME).str();
  const Attrs d(e.find(NFTA_EXPR_DATA).data);
  if (name == "connlimit" && (d.find(NFTA_CONNLIMIT_FLAGS).be32() & NFT_CONNLIMIT_F_INV))
    return Limit{Limit::Unit::connections, d.find(NFTA_CONNLIMIT_COUNT).be32(), 0};
  if (name != "limit" || d.find(NFTA_LIMIT_UNIT).be64() != 1 || !(d.find(NFTA_LIMIT_FLAGS).be32() & NFT_LIMIT_F_INV))
    return {};
  return Limit{d.find(NFTA_LIMIT_TYPE).be32() == NFT_LIMIT_PKT_BYTES ? Limit::Unit::bytes : Limit::Unit::packets,
               d.find(NFTA_LIMIT_RATE).be64(), d.find(NFTA_LIMIT_BURST).be32()};
}

RawElement decode_element(const Attr& a) {
  RawElement r;
  for (const Attr& x : Attrs(a.data)) switch (x.type) {
      case NFTA_SET_ELEM_KEY:
        r.e.key = Value(Attrs(x.data).find(NFTA_DATA_VALUE).data);
        break;
      case NFTA_SET_ELEM_KEY_END:
        r.e.end = Value(Attrs(x.data).find(NFTA_DATA_VALUE).data);
        break;
      case NFTA_SET_ELEM_FLAGS:
        r.end = (x.be32() & NFT_SET_ELEM_INTERVAL_END) != 0;
        break;
      case NFTA_SET_ELEM_USERDATA:
        r.e.comment = udata::find_text(x.data, udata::kElementComment);
        break;
      case NFTA_SET_ELEM_EXPR:
        r.e.limit = decode_limit(x.data);
        break;
      case NFTA_SET_ELEM_DATA: {
        const Attrs d(x.data);
        if (d.has(NFTA_DATA_VERDICT)) {
          const Attrs v(d.find(NFTA_DATA_VERDICT).data);
          r.e.verdict = Verdict{static_cast<Verdict::Code>(static_cast<std::int32_t>(v.find(NFTA_VERDICT_CODE).be32())),
                                std::string(v.find(NFTA_VERDICT_CHAIN).str())};
        } else {
          r.e.data = Value(d.find(NFTA_DATA_VALUE).data);
        }
        break;
      }
      default:
        break;
    }
  if (r.e.end == r.e.key) r.e.end = {};
  return r;
}

/// The value before `v`, as a big-endian number.
Value predecessor(const Value& v) {
  std::array<std::byte, Value::kMax> b{};
  std::copy(v.bytes().begin(), v.bytes().end(), b.begin());
  for (std::size_t i = v.size(); i-- > 0;) {
    const auto x = std::to_integer<unsigned>(b[i]);
    b[i] = static_cast<std::byte>(x - 1);
    if (x != 0) break;
  }
  return Value(std::span(b).first(v.size()));
}

/// Pairs the two ends of each range of a plain interval set.
std::vector<Element> join_ranges(std::vector<RawElement> raw) {
  std::sort(raw.begin(), raw.end(), [](const RawElement& a, const RawElement& b) {
    return a.e.key == b.e.key ? a.end > b.end : a.e.key < b.e.key;
  });
  std::vector<Element> out;
  bool open = false;
  for (auto& r : raw) {
    if (!r.end) {
      out.push_back(std::move(r.e));
      open = true;
    } else if (open) {
      const auto last = predecessor(r.e.key);
      if (last != out.back().key) out.back().end = last;
      open = false;
    }
  }
  if (open) {
    std::array<std::byte, Value::kMax> ones{};
    ones.fill(std::byte{0xff});
    const netlink::View all(ones);
    const Value last(all.first(out.back().key.size()));
    if (last != out.back().key) out.back().end = last;
  }
  return out;
}
}  // namespace

Result<std::vector<TableInfo>> Connection::tables() {
  std::vector<TableInfo> out;
  auto b = request(NFT_MSG_GETTABLE, kDump, NFPROTO_UNSPEC);
  b.end();
  auto st = netlink::dump(
      socket_, buffer_, b.view(), seq_, "read nft tables", [&] { out.clear(); },
      [&](const Message& m) {
        if (m.type == nft_type(NFT_MSG_NEWTABLE)) out.push_back(decode_table(m));
      });
  if (!st) return tl::unexpected(st.error());
  return out;
}

Result<TableInfo> Connection::table(const TableRef& t) {
  auto b = request(NFT_MSG_GETTABLE, NLM_F_REQUEST, static_cast<std::uint8_t>(t.family));
  b.str(NFTA_TABLE_NAME, t.name);
  b.end();
  TableInfo out;
  auto st = netlink::ask(socket_, buffer_, b.view(), seq_, fmt::format("nft table {}", to_string(t)),
                         [&](const Message& m) { out = decode_table(m); });
  if (!st) return tl::unexpected(st.error());
  return out;
}

Result<std::vector<ChainInfo>> Connection::chains(const TableRef& t) {
  std::vector<ChainInfo> out;
  auto b = request(NFT_MSG_GETCHAIN, kDump, static_cast<std::uint8_t>(t.family));
  b.str(NFTA_CHAIN_TABLE, t.name);
  b.end();
  auto st = netlink::dump(
      socket_, buffer_, b.view(), seq_, fmt::format("read chains of nft table {}", to_string(t)), [&] { out.clear(); },
      [&](const Message& m) {
        if (m.type != nft_type(NFT_MSG_NEWCHAIN)) return;
        std::string table;
        auto c = decode_chain(m, table);
        if (table != t.name) return;
        c.chain.table = t;
        out.push_back(std::move(c));
      });
  if (!st) return tl::unexpected(st.error());
  return out;
}

Result<std::vector<RuleInfo>> Connection::rules(const TableRef& t) {
  std::vector<RuleInfo> out;
  auto b = request(NFT_MSG_GETRULE, kDump, static_cast<std::uint8_t>(t.family));
  b.str(NFTA_RULE_TABLE, t.name);
  b.end();
  auto st = netlink::dump(
      socket_, buffer_, b.view(), seq_, fmt::format("read rules of nft table {}", to_string(t)), [&] { out.clear(); },
      [&](const Message& m) {
        if (m.type != nft_type(NFT_MSG_NEWRULE)) return;
        RuleInfo r;
        std::string_view table;
        for (const Attr& a : m.attrs(sizeof(nfgenmsg))) switch (a.type) {
            case NFTA_RULE_TABLE:
              table = a.str();
              break;
            case NFTA_RULE_CHAIN:
              r.chain = a.str();
              break;
            case NFTA_RULE_HANDLE:
              r.handle = a.be64();
              break;
            case NFTA_RULE_USERDATA:
              r.comment = udata::find_text(a.data, udata::kRuleComment);
              break;
            default:
              break;
          }
        if (table == t.name) out.push_back(std::move(r));
      });
  if (!st) return tl::unexpected(st.error());
  return out;
}

Result<std::vector<SetInfo>> Connection::sets(const TableRef& t) {
  std::vector<SetInfo> out;
  auto b = request(NFT_MSG_GETSET, kDump, static_cast<std::uint8_t>(t.family));
  b.str(NFTA_SET_TABLE, t.name);
  b.end();
  auto st = netlink::dump(
      socket_, buffer_, b.view(), seq_, fmt::format("read sets of nft table {}", to_string(t)), [&] { out.clear(); },
      [&](const Message& m) {
        if (m.type != nft_type(NFT_MSG_NEWSET)) return;
        std::string table;
        auto s = decode_set(m, table);
        if (table != t.name) return;
        s.set.table = t;
        out.push_back(std::move(s));
      });
  if (!st) return tl::unexpected(st.error());
  return out;
}

Result<std::vector<Element>> Connection::elements(const Set& s) {
  std::vector<RawElement> raw;
  auto b = request(NFT_MSG_GETSETELEM, kDump, static_cast<std::uint8_t>(s.table.family));
  b.str(NFTA_SET_ELEM_LIST_TABLE, s.table.name);
  b.str(NFTA_SET_ELEM_LIST_SET, s.name);
  b.end();
  auto st = netlink::dump(
      socket_, buffer_, b.view(), seq_, fmt::format("read elements of nft set {} {}", to_string(s.table), s.name),
      [&] { raw.clear(); },
      [&](const Message& m) {
        if (m.type != nft_type(NFT_MSG_NEWSETELEM)) return;
        for (const Attr& e : Attrs(m.attrs(sizeof(nfgenmsg)).find(NFTA_SET_ELEM_LIST_ELEMENTS).data))
          raw.push_back(decode_element(e));
      });
  if (!st) return tl::unexpected(st.error());
  if (s.interval && s.key.size() == 1) return join_ranges(std::move(raw));
  std::vector<Element> out;
  out.reserve(raw.size());
  for (auto& r : raw) out.push_back(std::move(r.e));
  return out;
}

Result<std::uint32_t> Connection::generation() {
  auto b = request(NFT_MSG_GETGEN, NLM_F_REQUEST, NFPROTO_UNSPEC);
  b.end();
  std::uint32_t id = 0;
  auto st = netlink::ask(socket_, buffer_, b.view(), seq_, "nft generation",
                         [&](const Message& m) { id = m.attrs(sizeof(nfgenmsg)).find(NFTA_GEN_ID).be32(); });
  if (!st) return tl::unexpected(st.error());
  return id;
}

bool Connection::can_persist() {
  if (!can_persist_) {
    const TableRef probe{TableFamily::inet, fmt::format("calico-probe-{}", socket_.port())};
    Batch b;
    b.add(Table{.ref = probe, .owner = true, .persist = true});
    b.remove(probe);
    can_persist_ = commit(b).has_value();
  }
  return *can_persist_;
}

Result<Monitor> Monitor::open(boost::asio::any_io_executor executor, MonitorHandlers handlers) {
  auto s = netlink::Socket::open(NETLINK_NETFILTER, {.receive_buffer = 8U << 20U});
  if (!s) return wrap(s.error(), "nf_tables events");
  if (auto st = s->join(NFNLGRP_NFTABLES); !st) return wrap(st.error(), "nf_tables events");
  auto h = std::make_shared<MonitorHandlers>(std::move(handlers));
  return Monitor(netlink::EventReader(
      std::move(executor), std::move(*s),
      [h](const Message& m) {
        if (m.type == nft_type(NFT_MSG_NEWGEN)) {
          if (!h->on_generation) return;
          const auto attrs = m.attrs(sizeof(nfgenmsg));
          h->on_generation({attrs.find(NFTA_GEN_ID).be32(), attrs.find(NFTA_GEN_PROC_PID).be32(),
                            std::string(attrs.find(NFTA_GEN_PROC_NAME).str())});
          return;
        }
        if (h->on_change) {
          // The first attribute of every object is its table's name.
          static_assert(NFTA_TABLE_NAME == 1 && NFTA_CHAIN_TABLE == 1 && NFTA_RULE_TABLE == 1 && NFTA_SET_TABLE == 1 &&
                        NFTA_SET_ELEM_LIST_TABLE == 1 && NFTA_OBJ_TABLE == 1 && NFTA_FLOWTABLE_TABLE == 1);
          h->on_change({static_cast<TableFamily>(m.body<nfgenmsg>().nfgen_family),
                        std::string(m.attrs(sizeof(nfgenmsg)).find(NFTA_TABLE_NAME).str())},
                       m.pid);
        }
        if (m.type == nft_type(NFT_MSG_NEWTABLE) || m.type == nft_type(NFT_MSG_DELTABLE))
          if (h->on_table) h->on_table(decode_table(m).table.ref, m.type == nft_type(NFT_MSG_DELTABLE));
      },
      [h](std::string_view why) {
        if (h->on_resync) h->on_resync(why);
      }));
}

}  // namespace calico::nft
