#include "core/netlink/rtnl.hpp"

#include <linux/fib_rules.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <algorithm>

namespace calico::netlink {

namespace {

constexpr int kDumpTries = 5;  // a dump that the kernel calls inconsistent is read again

/// The operation in words, from its own bytes: only failures pay for it.
std::string describe(View bytes) {
  std::string s = "netlink request";
  for_each_message(bytes, [&](const Message& m) {
    const bool gone =
        m.type == RTM_DELROUTE || m.type == RTM_DELNEIGH || m.type == RTM_DELADDR || m.type == RTM_DELLINK;
    const char* verb = gone ? "remove" : "write";
    if (auto r = decode_route(m)) {
      s = fmt::format("{} route {}", verb, to_string(*r));
    } else if (auto n = decode_neighbour(m)) {
      s = fmt::format("{} neighbour {} dev {}", verb, n->ip, n->dev.value);
    } else if (auto a = decode_address(m)) {
      s = fmt::format("{} address {} dev {}", verb, a->prefix, a->link.value);
    } else if (m.fits<ifinfomsg>()) {
      const auto name = m.attrs(sizeof(ifinfomsg)).find(IFLA_IFNAME).str();
      s = fmt::format("{} link {}{}", verb, m.body<ifinfomsg>().ifi_index,
                      name.empty() ? "" : fmt::format(" '{}'", name));
    }
  });
  return s;
}

Error error_of_ack(const Ack& ack, std::string_view what) {
  auto e = fail_errno(ack.error, what).value();
  if (!ack.text.empty()) e.what += fmt::format(" ({})", ack.text);
  return e;
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

template <class F>
Status Rtnl::dump(MessageBuilder& request, std::uint16_t type, const char* what, F&& each) {
  for (int attempt = 0; attempt < kDumpTries; ++attempt) {
    const auto seq = next_seq();
    Bytes bytes(request.view().begin(), request.view().end());
    std::memcpy(bytes.data() + offsetof(nlmsghdr, nlmsg_seq), &seq, sizeof seq);
    if (auto st = socket_.send(bytes); !st) return wrap(st.error(), what);
    bool done = false;
    bool interrupted = false;
    Ack verdict;
    each(nullptr);  // forget what an interrupted attempt gave
    while (!done) {
      auto got = socket_.receive(buffer_);
      if (!got) return wrap(got.error(), what);
      for_each_message(*got, [&](const Message& m) {
        if (m.seq != seq || m.pid != socket_.port()) return;
        if (m.flags & NLM_F_DUMP_INTR) interrupted = true;
        if (m.type == NLMSG_DONE) {
          done = true;
          const int code = m.payload.size() >= sizeof(int) ? m.body<int>() : 0;
          if (code < 0) verdict.error = -code;
        } else if (m.type == NLMSG_ERROR) {
          done = true;
          verdict = parse_ack(m);
        } else if (m.type == type) {
          each(&m);
        }
      });
    }
    if (verdict.error) return tl::unexpected(error_of_ack(verdict, what));
    if (!interrupted) return {};
  }
  return fail(Errc::busy, "{}: the table changed during each of {} reads; try again", what, kDumpTries);
}

namespace {
/// Collects what `decode` makes of each message of a dump.
template <class T>
auto collect(std::vector<T>& out, std::optional<T> (*decode)(const Message&)) {
  return [&out, decode, from = out.size()](const Message* m) {
    if (!m) {
      out.resize(from);
    } else if (auto v = decode(*m)) {
      out.push_back(std::move(*v));
    }
  };
}
constexpr std::uint16_t kDump = NLM_F_REQUEST | NLM_F_DUMP;
}  // namespace

Result<std::vector<Link>> Rtnl::links() {
  std::vector<Link> out;
  MessageBuilder b;
  b.begin(RTM_GETLINK, kDump, 0);
  b.body(ifinfomsg{});
  b.end();
  if (auto st = dump(b, RTM_NEWLINK, "read links", collect(out, decode_link)); !st) return tl::unexpected(st.error());
  return out;
}

namespace {
/// One request whose answer is one message of `type`.
template <class Decode>
auto ask(Socket& socket, Bytes& buffer, MessageBuilder& b, std::uint32_t seq, std::uint16_t type,
         const std::string& what, Decode&& decode)
    -> Result<typename std::invoke_result_t<Decode, const Message&>::value_type> {
  if (auto st = socket.send(b.view()); !st) return wrap(st.error(), what);
  std::invoke_result_t<Decode, const Message&> value;
  Ack verdict;
  bool answered = false;
  while (!answered) {
    auto got = socket.receive(buffer);
    if (!got) return wrap(got.error(), what);
    for_each_message(*got, [&](const Message& m) {
      if (m.seq != seq || m.pid != socket.port()) return;
      answered = true;
      if (m.type == NLMSG_ERROR) verdict = parse_ack(m);
      if (m.type == type) value = decode(m);
    });
  }
  if (verdict.error) return tl::unexpected(error_of_ack(verdict, what));
  if (!value) return fail(Errc::unavailable, "{}: the kernel's answer makes no sense", what);
  return std::move(*value);
}
}  // namespace

Result<Link> Rtnl::link(const std::string& name) {
  if (!valid_interface_name(name)) return fail(Errc::invalid, "'{}' is not the name of an interface", name);
  MessageBuilder b;
  const auto seq = next_seq();
  b.begin(RTM_GETLINK, NLM_F_REQUEST, seq);
  b.body(ifinfomsg{});
  b.str(IFLA_IFNAME, name);
  b.end();
  return ask(socket_, buffer_, b, seq, RTM_NEWLINK, fmt::format("link '{}'", name), decode_link);
}

Result<Link> Rtnl::link(IfIndex index) {
  MessageBuilder b;
  const auto seq = next_seq();
  b.begin(RTM_GETLINK, NLM_F_REQUEST, seq);
  ifinfomsg i{};
  i.ifi_index = static_cast<int>(index.value);
  b.body(i);
  b.end();
  return ask(socket_, buffer_, b, seq, RTM_NEWLINK, fmt::format("link {}", index.value), decode_link);
}

Result<std::vector<Address>> Rtnl::addresses() {
  std::vector<Address> out;
  MessageBuilder b;
  b.begin(RTM_GETADDR, kDump, 0);
  b.body(ifaddrmsg{});
  b.end();
  if (auto st = dump(b, RTM_NEWADDR, "read addresses", collect(out, decode_address)); !st)
    return tl::unexpected(st.error());
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
    auto st = dump(b, RTM_NEWROUTE, "read routes", collect(out, decode_route));
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
    if (auto st = dump(b, RTM_NEWNEIGH, "read neighbours", collect(out, decode_neighbour)); !st)
      return tl::unexpected(st.error());
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
    if (auto st = dump(b, RTM_NEWNEIGH, "read proxy neighbours", collect(out, decode_neighbour)); !st)
      return tl::unexpected(st.error());
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
    if (auto st = dump(b, RTM_NEWRULE, "read rules", collect(out, decode_rule)); !st) return tl::unexpected(st.error());
  }
  return out;
}

Result<Route> Rtnl::lookup(const Ip& dst, LookupOptions options) {
  MessageBuilder b;
  const auto seq = next_seq();
  b.begin(RTM_GETROUTE, NLM_F_REQUEST, seq);
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
  auto decode = [](const Message& m) -> std::optional<Route> {
    Bytes copy(m.payload.begin(), m.payload.end());
    if (copy.size() < sizeof(rtmsg)) return std::nullopt;
    rtmsg r = m.body<rtmsg>();
    r.rtm_flags &= ~static_cast<unsigned>(RTM_F_CLONED);
    std::memcpy(copy.data(), &r, sizeof r);
    Message x = m;
    x.payload = copy;
    return decode_route(x);
  };
  auto r = ask(socket_, buffer_, b, seq, RTM_NEWROUTE, fmt::format("route to {}", dst), decode);
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
      std::memcpy(window.data() + (batch.ops_[begin + i].at - first.at) + offsetof(nlmsghdr, nlmsg_seq), &seq,
                  sizeof seq);
    }
    if (auto st = socket_.send(window); !st) return tl::unexpected(st.error());
    std::size_t answered = 0;
    while (answered < n) {
      auto got = socket_.receive(buffer_);
      if (!got)
        return wrap(got.error(), fmt::format("netlink batch, {} of {} answered", begin + answered, batch.size()));
      for_each_message(*got, [&](const Message& m) {
        const std::size_t i = m.seq - first_seq;
        if (m.type != NLMSG_ERROR || m.pid != socket_.port() || i >= n) return;
        ++answered;
        auto ack = parse_ack(m);
        if (ack.error == 0) return;
        const auto& op = batch.ops_[begin + i];
        result.failed.push_back(
            {begin + i, ack.error, error_of_ack(ack, describe(batch.b_.view().subspan(op.at, op.size)))});
      });
    }
  }
  std::sort(result.failed.begin(), result.failed.end(), [](auto& a, auto& b) { return a.index < b.index; });
  return result;
}

}  // namespace calico::netlink
