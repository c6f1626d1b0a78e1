#include "core/conntrack/table.hpp"

#include <cerrno>
#include <optional>

#include "core/loop/run_on.hpp"
#include "core/loop/task_group.hpp"
#include "core/netlink/dump.hpp"

namespace calico::conntrack {

using netlink::for_each_message;
using netlink::Message;

namespace {
constexpr std::size_t kAtOnce = 128;  // deletions a system call: their acks have to fit the receive buffer
constexpr std::string_view kWhat = "read the connection table";

Error without(Error e) {
  // nfnetlink says EINVAL for a subsystem nobody registered.
  if (e.code == Errc::invalid) return {Errc::unsupported, e.what + " [is nf_conntrack_netlink loaded?]"};
  return e;
}
}  // namespace

Result<Table> Table::open() {
  auto dump = netlink::Socket::open(NETLINK_NETFILTER);
  if (!dump) return wrap(dump.error(), "connection table");
  auto requests = netlink::Socket::open(NETLINK_NETFILTER);
  if (!requests) return wrap(requests.error(), "connection table");
  return Table(std::move(*dump), std::move(*requests));
}

Result<bool> Table::read_some(std::vector<Entry>* batch, Pass& pass) {
  if (!unfinished_) {
    netlink::MessageBuilder request;
    append_dump(request, ++seq_);
    if (auto sent = dump_.send(request.view()); !sent) return wrap(sent.error(), kWhat);
    unfinished_ = true;
  }
  // The kernel fills the queue inside the call that empties it: there is always something until the end.
  auto got = dump_.receive(buffer_, false);
  if (!got) return wrap(got.error(), kWhat);
  bool done = false;
  netlink::Ack verdict;
  for_each_message(*got, [&](const Message& m) {
    if (m.seq != seq_ || m.pid != dump_.port() || done) return;
    if (m.type == NLMSG_DONE) {
      done = true;
      const int code = m.fits<int>() ? m.body<int>() : 0;
      if (code < 0) verdict.error = -code;
    } else if (m.type == NLMSG_ERROR) {
      done = true;
      verdict = parse_ack(m);
    } else if (batch) {
      ++pass.seen;
      if (auto e = decode(m))
        batch->push_back(*e);
      else
        ++pass.unread;
    }
  });
  if (done) unfinished_ = false;
  if (verdict.error) return tl::unexpected(without(netlink::error_of(verdict, kWhat)));
  return done;
}

awaitable<Result<Pass>> Table::sweep(boost::asio::any_io_executor reader, const Doomed& doomed, Duration limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  Pass pass;
  std::vector<Entry> batch;
  std::vector<Entry> out;
  // A walk that was given up has to end before the kernel begins another.
  bool ours = !unfinished_;
  const std::function<awaitable<Result<bool>>()> next = [&]() -> awaitable<Result<bool>> {
    co_return read_some(ours ? &batch : nullptr, pass);
  };
  for (;;) {
    batch.clear();
    out.clear();
    const auto ended = co_await run_on<Result<bool>>(reader, next);
    const bool waits = !ended && ended.error().code == Errc::busy;
    if (!ended && !waits && ours) co_return tl::unexpected(ended.error());
    if (!batch.empty()) {
      doomed(batch, out);
      if (auto removed = remove(out, pass); !removed) co_return tl::unexpected(removed.error());
    }
    if (ended && *ended && ours) co_return pass;
    if (!waits && (!ended || *ended)) {
      unfinished_ = false;
      ours = true;
    }
    if (std::chrono::steady_clock::now() > deadline)
      co_return fail(Errc::timeout, "{}: not done after {} s, {} entries seen", kWhat,
                     std::chrono::duration_cast<std::chrono::seconds>(limit).count(), pass.seen);
    if (waits) co_await sleep_for(std::chrono::milliseconds(1));
  }
}

Status Table::remove(const std::vector<Entry>& entries, Pass& pass) {
  for (std::size_t i = 0; i < entries.size(); i += kAtOnce)
    if (auto ok = remove_some(entries.data() + i, std::min(kAtOnce, entries.size() - i), pass); !ok) return ok;
  return {};
}

Status Table::remove_some(const Entry* first, std::size_t count, Pass& pass) {
  // What a call that failed left behind; a full queue would hold no new answers.
  for (int i = 0; i < 1024; ++i)
    if (const auto old = requests_.receive(acks_, false); !old && old.error().code == Errc::busy) break;
  netlink::MessageBuilder b;
  const std::uint32_t base = request_seq_ + 1;
  for (std::size_t i = 0; i < count; ++i) append_delete(b, first[i], ++request_seq_);
  if (auto sent = requests_.send(b.view()); !sent) return wrap(sent.error(), "delete connections");
  // Every verdict is queued when send() returns: one that is not there never comes.
  std::optional<Error> forbidden;
  for (std::size_t answers = 0; answers < count;) {
    auto got = requests_.receive(acks_, false);
    if (!got && got.error().code == Errc::busy)
      return fail(Errc::exhausted, "delete connections: {} of {} answers were lost", count - answers, count);
    if (!got) return wrap(got.error(), "delete connections");
    for_each_message(*got, [&](const Message& m) {
      if (m.type != NLMSG_ERROR || m.pid != requests_.port() || m.seq - base >= count) return;
      ++answers;
      const auto ack = parse_ack(m);
      if (ack.error == 0)
        ++pass.deleted;
      else if (ack.error == EPERM)
        forbidden = netlink::error_of(ack, "delete connections");
      else if (ack.error != ENOENT)
        ++pass.refused;
    });
    if (forbidden) return tl::unexpected(*forbidden);  // said once for all of them
  }
  return {};
}

}  // namespace calico::conntrack
