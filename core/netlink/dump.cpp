#include "core/netlink/dump.hpp"

#include <cerrno>

namespace calico::netlink {

namespace {
constexpr int kTries = 5;

Bytes numbered(View request, std::uint32_t seq) {
  Bytes b(request.begin(), request.end());
  std::memcpy(b.data() + offsetof(nlmsghdr, nlmsg_seq), &seq, sizeof seq);
  return b;
}
}  // namespace

Error error_of(const Ack& ack, std::string_view what) {
  auto e = fail_errno(ack.error, what).value();
  if (!ack.text.empty()) e.what += fmt::format(" ({})", ack.text);
  return e;
}

Status dump(Socket& socket, Bytes& buffer, View request, std::uint32_t& seq, std::string_view what,
            const std::function<void()>& restart, const std::function<void(const Message&)>& each) {
  for (int attempt = 0; attempt < kTries; ++attempt) {
    ++seq;
    if (auto st = socket.send(numbered(request, seq)); !st) return wrap(st.error(), what);
    bool done = false;
    bool interrupted = false;
    Ack verdict;
    restart();
    while (!done) {
      auto got = socket.receive(buffer);
      if (!got) return wrap(got.error(), what);
      for_each_message(*got, [&](const Message& m) {
        if (m.seq != seq || m.pid != socket.port()) return;
        if (m.flags & NLM_F_DUMP_INTR) interrupted = true;
        if (m.type == NLMSG_DONE) {
          done = true;
          const int code = m.fits<int>() ? m.body<int>() : 0;
          if (code < 0) verdict.error = -code;
        } else if (m.type == NLMSG_ERROR) {
          done = true;
          verdict = parse_ack(m);
        } else {
          each(m);
        }
      });
    }
    if (verdict.error == EINTR) interrupted = true;
    if (verdict.error && !interrupted) return tl::unexpected(error_of(verdict, what));
    if (!interrupted) return {};
  }
  return fail(Errc::busy, "{}: the table changed during each of {} reads; try again", what, kTries);
}

Status ask(Socket& socket, Bytes& buffer, View request, std::uint32_t& seq, std::string_view what,
           const std::function<void(const Message&)>& each) {
  ++seq;
  if (auto st = socket.send(numbered(request, seq)); !st) return wrap(st.error(), what);
  Ack verdict;
  bool answered = false;
  while (!answered) {
    auto got = socket.receive(buffer);
    if (!got) return wrap(got.error(), what);
    for_each_message(*got, [&](const Message& m) {
      if (m.seq != seq || m.pid != socket.port()) return;
      answered = true;
      if (m.type == NLMSG_ERROR)
        verdict = parse_ack(m);
      else
        each(m);
    });
  }
  if (verdict.error) return tl::unexpected(error_of(verdict, what));
  return {};
}

}  // namespace calico::netlink
