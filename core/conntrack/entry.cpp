#include "core/conntrack/entry.hpp"

#include <fmt/format.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>

namespace calico::conntrack {

using netlink::Attr;
using netlink::Attrs;
using netlink::MessageBuilder;

namespace {

constexpr std::uint8_t kIcmp = 1, kIcmpv6 = 58;

std::uint16_t type(std::uint16_t t) { return static_cast<std::uint16_t>(NFNL_SUBSYS_CTNETLINK << 8U | t); }

std::optional<Ip> address(const Attrs& a, std::uint16_t v4, std::uint16_t v6, Family f) {
  const Attr x = a.find(f == Family::v4 ? v4 : v6);
  if (x.data.size() != (f == Family::v4 ? 4U : 16U)) return {};
  return Ip::from_bytes(x.data);
}

/// False when the attribute is there with another size than a number of this kind has.
bool be16(const Attrs& a, std::uint16_t t, std::uint16_t& out) {
  const Attr x = a.find(t);
  if (!x.data.data()) return true;
  out = x.be16();
  return x.data.size() == sizeof out;
}
bool u8(const Attrs& a, std::uint16_t t, std::uint8_t& out) {
  const Attr x = a.find(t);
  if (!x.data.data()) return true;
  out = x.u8();
  return x.data.size() == sizeof out;
}

std::optional<Tuple> tuple(const Attr& from, Family f) {
  const Attrs parts(from.data);
  const Attrs ip(parts.find(CTA_TUPLE_IP).data);
  const Attrs proto(parts.find(CTA_TUPLE_PROTO).data);
  const auto src = address(ip, CTA_IP_V4_SRC, CTA_IP_V6_SRC, f);
  const auto dst = address(ip, CTA_IP_V4_DST, CTA_IP_V6_DST, f);
  if (!src || !dst || !proto.has(CTA_PROTO_NUM)) return {};
  Tuple t;
  t.src = *src;
  t.dst = *dst;
  bool good = u8(proto, CTA_PROTO_NUM, t.protocol) && be16(parts, CTA_TUPLE_ZONE, t.zone);
  if (t.protocol == kIcmp || t.protocol == kIcmpv6) {
    const bool six = t.protocol == kIcmpv6;
    good = good && be16(proto, six ? CTA_PROTO_ICMPV6_ID : CTA_PROTO_ICMP_ID, t.icmp_id) &&
           u8(proto, six ? CTA_PROTO_ICMPV6_TYPE : CTA_PROTO_ICMP_TYPE, t.icmp_type) &&
           u8(proto, six ? CTA_PROTO_ICMPV6_CODE : CTA_PROTO_ICMP_CODE, t.icmp_code);
  } else {
    good = good && be16(proto, CTA_PROTO_SRC_PORT, t.src_port) && be16(proto, CTA_PROTO_DST_PORT, t.dst_port);
  }
  if (!good) return {};
  return t;
}

void put_tuple(MessageBuilder& b, std::uint16_t attr, const Tuple& t) {
  auto all = b.nest(attr);
  {
    auto ip = b.nest(CTA_TUPLE_IP);
    b.attr(t.src.is_v4() ? CTA_IP_V4_SRC : CTA_IP_V6_SRC, t.src.bytes());
    b.attr(t.src.is_v4() ? CTA_IP_V4_DST : CTA_IP_V6_DST, t.dst.bytes());
  }
  {
    auto proto = b.nest(CTA_TUPLE_PROTO);
    b.u8(CTA_PROTO_NUM, t.protocol);
    if (t.protocol == kIcmp || t.protocol == kIcmpv6) {
      const bool six = t.protocol == kIcmpv6;
      b.be16(six ? CTA_PROTO_ICMPV6_ID : CTA_PROTO_ICMP_ID, t.icmp_id);
      b.u8(six ? CTA_PROTO_ICMPV6_TYPE : CTA_PROTO_ICMP_TYPE, t.icmp_type);
      b.u8(six ? CTA_PROTO_ICMPV6_CODE : CTA_PROTO_ICMP_CODE, t.icmp_code);
    } else {
      b.be16(CTA_PROTO_SRC_PORT, t.src_port);
      b.be16(CTA_PROTO_DST_PORT, t.dst_port);
    }
  }
  if (t.zone) b.be16(CTA_TUPLE_ZONE, t.zone);
}

}  // namespace

std::string to_string(const Tuple& t) {
  if (t.protocol == kIcmp || t.protocol == kIcmpv6)
    return fmt::format("protocol {} {} > {} type {} code {} id {}", t.protocol, t.src, t.dst, t.icmp_type, t.icmp_code,
                       t.icmp_id);
  return fmt::format("protocol {} {} {} > {} {}", t.protocol, t.src, t.src_port, t.dst, t.dst_port);
}

std::optional<Entry> decode(const netlink::Message& m) {
  if (m.type != type(IPCTNL_MSG_CT_NEW) || !m.fits<nfgenmsg>()) return {};
  const auto family = m.body<nfgenmsg>().nfgen_family;
  if (family != NFPROTO_IPV4 && family != NFPROTO_IPV6) return {};
  const auto f = family == NFPROTO_IPV4 ? Family::v4 : Family::v6;
  std::optional<Tuple> orig, reply;
  Entry e;
  for (const Attr& a : m.attrs(sizeof(nfgenmsg))) switch (a.type) {
      case CTA_TUPLE_ORIG:
        orig = tuple(a, f);
        break;
      case CTA_TUPLE_REPLY:
        reply = tuple(a, f);
        break;
      case CTA_STATUS:
        e.status = a.be32();
        break;
      case CTA_ID:
        e.id = a.be32();
        break;
      case CTA_ZONE:
        e.zone = a.be16();
        break;
      default:
        break;
    }
  if (!orig || !reply || orig->protocol != reply->protocol) return {};
  e.orig = *orig;
  e.reply = *reply;
  return e;
}

void append_delete(MessageBuilder& b, const Entry& e, std::uint32_t seq) {
  b.begin(type(IPCTNL_MSG_CT_DELETE), NLM_F_REQUEST | NLM_F_ACK, seq);
  b.body(nfgenmsg{static_cast<std::uint8_t>(e.orig.src.is_v4() ? NFPROTO_IPV4 : NFPROTO_IPV6), NFNETLINK_V0, 0});
  // Without a tuple the kernel would take this for "delete all".
  put_tuple(b, CTA_TUPLE_ORIG, e.orig);
  b.be32(CTA_ID, e.id);
  if (e.zone) b.be16(CTA_ZONE, e.zone);
  b.end();
}

void append_dump(MessageBuilder& b, std::uint32_t seq) {
  b.begin(type(IPCTNL_MSG_CT_GET), NLM_F_REQUEST | NLM_F_DUMP, seq);
  b.body(nfgenmsg{NFPROTO_UNSPEC, NFNETLINK_V0, 0});
  b.end();
}

}  // namespace calico::conntrack
