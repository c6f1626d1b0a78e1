#include "core/netlink/rtnl.hpp"

#include <linux/fib_rules.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/nexthop.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <algorithm>

#include "core/netlink/dump.hpp"

namespace calico::netlink {

namespace {

/// The operation in words, from its own bytes: only failures pay for it.
std::string describe(View bytes) {
  std::string s = "netlink request";
  for_each_message(bytes, [&](const Message& m) {
    const bool gone = m.type == RTM_DELROUTE || m.type == RTM_DELNEIGH || m.type == RTM_DELADDR ||
                      m.type == RTM_DELLINK || m.type == RTM_DELNEXTHOP;
    const char* verb = gone ? "remove" : "write";
    if (auto r = decode_route(m)) {
      s = fmt::format("{} route {}", verb, to_string(*r));
    } else if (auto n = decode_neighbour(m)) {
      s = fmt::format("{} neighbour {} dev {}", verb, n->ip, n->dev.value);
    } else if (auto a = decode_address(m)) {
      s = fmt::format("{} address {} dev {}", verb, a->prefix, a->link.value);
    } else if (auto o = decode_nexthop(m)) {
      s = fmt::format("{} nexthop {}", verb, to_string(*o));
    } else if (auto q = decode_qdisc(m)) {
      s = fmt::format("{} qdisc {} dev {}", m.type == RTM_DELQDISC ? "remove" : "write", q->kind, q->dev.value);
    } else if (m.fits<ifinfomsg>()) {
      const auto name = m.attrs(sizeof(ifinfomsg)).find(IFLA_IFNAME).str();
      s = fmt::format("{} link {}{}", verb, m.body<ifinfomsg>().ifi_index,
                      name.empty() ? "" : fmt::format(" '{}'", name));
    }
  });
  return s;
}

}  // namespace

int BatchResult::error_of(std::size_t index) const {
  for (const auto& e : failed)
    if (e.index == index) return e.error;
  return 0;
}

Result<Rtnl> Rtnl::open() {
  auto s = Socket::open(NETLINK_ROUTE, {.strict_dump = true});
  if (!s) return tl::unexpected(s.error());
  return Rtnl(std::move(*s));
}

namespace {
constexpr std::uint16_t kDump = NLM_F_REQUEST | NLM_F_DUMP;
}  // namespace

template <class T>
Status Rtnl::collect(MessageBuilder& request, std::string_view what, std::vector<T>& out,
                     std::optional<T> (*decode)(const Message&)) {
  const auto from = out.size();
  return dump(
      socket_, buffer_, request.view(), seq_, what, [&] { out.resize(from); },
      [&](const Message& m) {
        if (auto v = decode(m)) out.push_back(std::move(*v));
      });
}

template <class T>
Result<T> Rtnl::ask_one(MessageBuilder& request, const std::string& what, std::optional<T> (*decode)(const Message&)) {
  std::optional<T> value;
  if (auto st = ask(socket_, buffer_, request.view(), seq_, what, [&](const Message& m) { value = decode(m); }); !st)
    return tl::unexpected(st.error());
  if (!value) return fail(Errc::unavailable, "{}: the kernel's answer makes no sense", what);
  return std::move(*value);
}

Result<std::vector<Link>> Rtnl::links() {
  std::vector<Link> out;
  MessageBuilder b;
  b.begin(RTM_GETLINK, kDump, 0);
  b.body(ifinfomsg{});
  b.end();
  if (auto st = collect(b, "read links", out, decode_link); !st) return tl::unexpected(st.error());
  return out;
}

Result<Link> Rtnl::link(const std::string& name) {
  if (!valid_interface_name(name)) return fail(Errc::invalid, "'{}' is not the name of an interface", name);
  MessageBuilder b;
  b.begin(RTM_GETLINK, NLM_F_REQUEST, 0);
  b.body(ifinfomsg{});
  b.str(IFLA_IFNAME, name);
  b.end();
  return ask_one(b, fmt::format("link '{}'", name), decode_link);
}

Result<Link> Rtnl::link(IfIndex index) {
  MessageBuilder b;
  b.begin(RTM_GETLINK, NLM_F_REQUEST, 0);
  ifinfomsg i{};
  i.ifi_index = static_cast<int>(index.value);
  b.body(i);
  b.end();
  return ask_one(b, fmt::format("link {}", index.value), decode_link);
}

Result<std::vector<Address>> Rtnl::addresses() {
  std::vector<Address> out;
  MessageBuilder b;
  b.begin(RTM_GETADDR, kDump, 0);
  b.body(ifaddrmsg{});
  b.end();
  if (auto st = collect(b, "read addresses", out, decode_address); !st) return tl::unexpected(st.error());
  return out;
}

Result<std::vector<Route>> Rtnl::routes(const RouteFilter& filter) {
  std::vector<Route> out;
  for (Family family : {Family::v4, Family::v6}) {
    if (filter.family && *filter.family != family) continue;
    MessageBuilder b;
    b.begin(RTM_GETROUTE, kDump, 0);
    rtmsg h{};
    h.rtm_family = family == Family::v4 ? AF_INET : AF_INET6;
    h.rtm_protocol = filter.protocol.value_or(0);
    b.body(h);
    if (filter.table) b.u32(RTA_TABLE, filter.table->value);
    if (filter.dev) b.u32(RTA_OIF, filter.dev->value);
    b.end();
    const auto before = out.size();
    auto st = collect(b, "read routes", out, decode_route);
    if (!st && st.error().code == Errc::not_found && filter.table) {
      out.resize(before);  // a table nobody wrote to yet does not exist
      continue;
    }
    if (!st) return tl::unexpected(st.error());
  }
  // IPv6 does not filter everything by itself in every version.
  std::erase_if(out, [&](const Route& r) {
    return (filter.table && r.table != *filter.table) || (filter.protocol && r.protocol != *filter.protocol);
  });
  return out;
}

Result<std::vector<Neighbour>> Rtnl::neighbours(std::optional<IfIndex> dev) {
  std::vector<Neighbour> out;
  for (std::uint8_t family : {AF_INET, AF_INET6}) {
    MessageBuilder b;
    b.begin(RTM_GETNEIGH, kDump, 0);
    ndmsg h{};
    h.ndm_family = family;
    b.body(h);
    if (dev) b.u32(NDA_IFINDEX, dev->value);
    b.end();
    if (auto st = collect(b, "read neighbours", out, decode_neighbour); !st) return tl::unexpected(st.error());
  }
  return out;
}

Result<std::vector<Neighbour>> Rtnl::proxies() {
  std::vector<Neighbour> out;
  for (std::uint8_t family : {AF_INET, AF_INET6}) {
    MessageBuilder b;
    b.begin(RTM_GETNEIGH, kDump, 0);
    ndmsg h{};
    h.ndm_family = family;
    h.ndm_flags = NTF_PROXY;
    b.body(h);
    b.end();
    if (auto st = collect(b, "read proxy neighbours", out, decode_neighbour); !st) return tl::unexpected(st.error());
  }
  return out;
}

Result<std::vector<Rule>> Rtnl::rules(std::optional<Family> family) {
  std::vector<Rule> out;
  for (Family f : {Family::v4, Family::v6}) {
    if (family && *family != f) continue;
    MessageBuilder b;
    b.begin(RTM_GETRULE, kDump, 0);
    fib_rule_hdr h{};
    h.family = f == Family::v4 ? AF_INET : AF_INET6;
    b.body(h);
    b.end();
    if (auto st = collect(b, "read rules", out, decode_rule); !st) return tl::unexpected(st.error());
  }
  return out;
}

Result<std::vector<Qdisc>> Rtnl::qdiscs() {
  std::vector<Qdisc> out;
  MessageBuilder b;
  b.begin(RTM_GETQDISC, kDump, 0);
  b.body(tcmsg{});
  b.end();
  if (auto st = collect(b, "read qdiscs", out, decode_qdisc); !st) return tl::unexpected(st.error());
  return out;
}

Result<std::vector<NexthopObject>> Rtnl::nexthops() {
  std::vector<NexthopObject> out;
  MessageBuilder b;
  b.begin(RTM_GETNEXTHOP, kDump, 0);
  b.body(nhmsg{});
  b.end();
  if (auto st = collect(b, "read nexthop objects", out, decode_nexthop); !st) return tl::unexpected(st.error());
  return out;
}

Result<Route> Rtnl::lookup(const Ip& dst, LookupOptions options) {
  MessageBuilder b;
  b.begin(RTM_GETROUTE, NLM_F_REQUEST, 0);
  rtmsg h{};
  h.rtm_family = dst.is_v4() ? AF_INET : AF_INET6;
  h.rtm_dst_len = dst.bits();
  if (dst.is_v4()) h.rtm_flags |= RTM_F_LOOKUP_TABLE;  // IPv6 tells the table anyway and refuses the flag
  if (options.fib_match) h.rtm_flags |= RTM_F_FIB_MATCH;
  b.body(h);
  b.attr(RTA_DST, dst.bytes());
  if (options.mark) b.u32(RTA_MARK, options.mark);
  b.end();
  // The resolved path of IPv4 is a "cloned" entry, which dumps leave out: clear the bit before decoding.
  const auto decode = +[](const Message& m) -> std::optional<Route> {
    Bytes copy(m.payload.begin(), m.payload.end());
    if (copy.size() < sizeof(rtmsg)) return std::nullopt;
    rtmsg r = m.body<rtmsg>();
    r.rtm_flags &= ~static_cast<unsigned>(RTM_F_CLONED);
    std::memcpy(copy.data(), &r, sizeof r);
    Message x = m;
    x.payload = copy;
    return decode_route(x);
  };
  auto r = ask_one(b, fmt::format("route to {}", dst), decode);
  if (!r) return fail(r.error().code == Errc::timeout ? Errc::timeout : Errc::not_found, "{}", r.error().what);
  if (r->type == RouteType::blackhole || r->type == RouteType::unreachable || r->type == RouteType::prohibit ||
      r->type == RouteType::throw_)
    return fail(Errc::not_found, "route to {}: {}", dst, to_string(*r));
  return r;
}

Result<BatchResult> Rtnl::commit(const Batch& batch) {
  if (!batch.b_.ok()) return fail(Errc::invalid, "netlink batch: an operation is larger than an attribute may be");
  BatchResult result;
  Bytes window;
  for (std::size_t begin = 0; begin < batch.ops_.size(); begin += kWindow) {
    const std::size_t n = std::min(kWindow, batch.ops_.size() - begin);
    const auto& first = batch.ops_[begin];
    const auto& last = batch.ops_[begin + n - 1];
    const View bytes = batch.b_.view().subspan(first.at, last.at + last.size - first.at);
    window.assign(bytes.begin(), bytes.end());
    const std::uint32_t first_seq = seq_ + 1;
    for (std::size_t i = 0; i < n; ++i) {
      const auto seq = next_seq();
      auto* header = window.data() + (batch.ops_[begin + i].at - first.at);
      std::memcpy(header + offsetof(nlmsghdr, nlmsg_seq), &seq, sizeof seq);
      if (i + 1 == n) continue;
      std::uint16_t flags = 0;
      std::memcpy(&flags, header + offsetof(nlmsghdr, nlmsg_flags), sizeof flags);
      flags &= static_cast<std::uint16_t>(~NLM_F_ACK);
      std::memcpy(header + offsetof(nlmsghdr, nlmsg_flags), &flags, sizeof flags);
    }
    if (auto st = socket_.send(window); !st) return tl::unexpected(st.error());
    bool done = false;
    while (!done) {
      auto got = socket_.receive(buffer_);
      if (!got) return wrap(got.error(), fmt::format("netlink batch, {} of {} answered", begin, batch.size()));
      for_each_message(*got, [&](const Message& m) {
        const std::size_t i = m.seq - first_seq;
        if (m.type != NLMSG_ERROR || m.pid != socket_.port() || i >= n) return;
        if (i + 1 == n) done = true;
        auto ack = parse_ack(m);
        if (ack.error == 0) return;
        const auto& op = batch.ops_[begin + i];
        result.failed.push_back(
            {begin + i, ack.error, error_of(ack, describe(batch.b_.view().subspan(op.at, op.size)))});
      });
    }
  }
  std::sort(result.failed.begin(), result.failed.end(), [](auto& a, auto& b) { return a.index < b.index; });
  return result;
}

}  // namespace calico::netlink
