#include "modules/lab/probe.hpp"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>

#include "modules/lab/cluster.hpp"

namespace calico::lab {

namespace {

constexpr Millis kPingEvery{150};
constexpr Millis kRetryTcp{200};

struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

Address address_of(const Ip& ip, std::uint16_t port) {
  Address a;
  if (ip.is_v4()) {
    auto* s = reinterpret_cast<sockaddr_in*>(&a.storage);
    s->sin_family = AF_INET;
    s->sin_port = htons(port);
    std::memcpy(&s->sin_addr, ip.bytes().data(), 4);
    a.size = sizeof *s;
  } else {
    auto* s = reinterpret_cast<sockaddr_in6*>(&a.storage);
    s->sin6_family = AF_INET6;
    s->sin6_port = htons(port);
    std::memcpy(&s->sin6_addr, ip.bytes().data(), 16);
    a.size = sizeof *s;
  }
  return a;
}

std::uint64_t random64() {
  std::uint64_t v = 0;
  while (::getrandom(&v, sizeof v, 0) != sizeof v) {
  }
  return v;
}

std::uint16_t ones_sum(std::span<const std::uint8_t> bytes, std::uint32_t sum) {
  for (std::size_t i = 0; i + 1 < bytes.size(); i += 2) sum += static_cast<std::uint32_t>(bytes[i] << 8 | bytes[i + 1]);
  if (bytes.size() % 2 != 0) sum += static_cast<std::uint32_t>(bytes.back() << 8);
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>(~sum);
}

// ICMP echo, all attempts of one run over one raw socket a guest and family. The identifier differs for every attempt
// of every run: a reply must never ride on a connection the kernel remembers from an earlier one.
class Pings {
 public:
  Pings(const std::vector<Guest>& guests, Matrix& matrix) : guests_(guests), matrix_(matrix), token_(random64()) {}

  Status open() {
    for (const auto& row : matrix_.rows) {
      auto key = std::pair{row.from, row.family};
      if (sockets_.contains(key)) continue;
      Fd fd;
      auto made = in_netns(guests_[row.from].ns, [&]() -> Status {
        bool v4 = row.family == Family::v4;
        fd = Fd(::socket(v4 ? AF_INET : AF_INET6, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK,
                         v4 ? static_cast<int>(IPPROTO_ICMP) : static_cast<int>(IPPROTO_ICMPV6)));
        if (!fd) return fail_errno(errno, "ICMP socket in " + guests_[row.from].name);
        return {};
      });
      if (!made) return made;
      sockets_.emplace(key, std::move(fd));
    }
    return {};
  }
  void send_due(Steady::time_point now, Steady::time_point begin) {
    if (now < next_) return;
    next_ = now + kPingEvery;
    ++round_;
    for (std::size_t i = 0; i < matrix_.rows.size(); ++i) {
      const auto& row = matrix_.rows[i];
      if (row.got) continue;
      std::array<std::uint8_t, 24> p{};
      p[0] = row.family == Family::v4 ? static_cast<std::uint8_t>(ICMP_ECHO)
                                      : static_cast<std::uint8_t>(ICMP6_ECHO_REQUEST);
      std::uint16_t id = htons(static_cast<std::uint16_t>(token_ + i));
      std::uint16_t seq = htons(round_);
      std::memcpy(&p[4], &id, 2);
      std::memcpy(&p[6], &seq, 2);
      std::memcpy(&p[8], &token_, 8);
      std::uint64_t index = i;
      std::memcpy(&p[16], &index, 8);
      if (row.family == Family::v4) {  // the kernel does it for ICMPv6
        std::uint16_t sum = htons(ones_sum(p, 0));
        std::memcpy(&p[2], &sum, 2);
      }
      Address to = address_of(*guests_[row.to].ip(row.family), 0);
      (void)!::sendto(sockets_.at({row.from, row.family}).get(), p.data(), p.size(), MSG_NOSIGNAL, to.get(), to.size);
    }
    receive(begin);
  }
  void add_fds(std::vector<pollfd>& fds) const {
    for (const auto& [key, fd] : sockets_) fds.push_back({fd.get(), POLLIN, 0});
  }
  void receive(Steady::time_point begin) {
    std::array<std::uint8_t, 2048> b;
    for (auto& [key, fd] : sockets_) {
      for (;;) {
        ssize_t n = ::recv(fd.get(), b.data(), b.size(), MSG_DONTWAIT);
        if (n < 0) break;
        std::span<const std::uint8_t> p(b.data(), static_cast<std::size_t>(n));
        std::uint8_t reply = ICMP6_ECHO_REPLY;
        if (key.second == Family::v4) {
          std::size_t header = p.empty() ? 0 : static_cast<std::size_t>(p[0] & 15) * 4;
          if (header < 20 || p.size() < header) continue;
          p = p.subspan(header);
          reply = ICMP_ECHOREPLY;
        }
        if (p.size() < 24 || p[0] != reply || std::memcmp(&p[8], &token_, 8) != 0) continue;
        std::uint64_t index = 0;
        std::memcpy(&index, &p[16], 8);
        if (index >= matrix_.rows.size()) continue;
        auto& row = matrix_.rows[index];
        if (row.from != key.first || row.got) continue;
        row.got = true;
        row.ms = std::chrono::duration<double, std::milli>(Steady::now() - begin).count();
      }
    }
  }

 private:
  const std::vector<Guest>& guests_;
  Matrix& matrix_;
  std::uint64_t token_;
  std::uint16_t round_ = 0;
  Steady::time_point next_{};
  std::map<std::pair<std::size_t, Family>, Fd> sockets_;
};

// TCP, one socket an attempt at a time; a refusal is tried again a little later, silence is left to the kernel's timer.
class Connects {
 public:
  Connects(const std::vector<Guest>& guests, Matrix& matrix)
      : guests_(guests), matrix_(matrix), tries_(matrix.rows.size()) {}

  Status start_due(Steady::time_point now) {
    for (std::size_t i = 0; i < matrix_.rows.size(); ++i) {
      auto& t = tries_[i];
      const auto& row = matrix_.rows[i];
      if (row.got || t.fd || now < t.next) continue;
      auto made = in_netns(guests_[row.from].ns, [&]() -> Status {
        t.fd =
            Fd(::socket(row.family == Family::v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        if (!t.fd) return fail_errno(errno, "TCP socket in " + guests_[row.from].name);
        return {};
      });
      if (!made) return made;
      t.text.clear();
      Address to = address_of(*guests_[row.to].ip(row.family), matrix_.port);
      if (::connect(t.fd.get(), to.get(), to.size) != 0 && errno != EINPROGRESS) again(t, now);
    }
    return {};
  }
  void add_fds(std::vector<pollfd>& fds) const {
    for (const auto& t : tries_) {
      if (t.fd) fds.push_back({t.fd.get(), POLLIN, 0});
    }
  }
  void receive(Steady::time_point now, Steady::time_point begin) {
    for (std::size_t i = 0; i < matrix_.rows.size(); ++i) {
      auto& t = tries_[i];
      auto& row = matrix_.rows[i];
      if (!t.fd) continue;
      std::array<char, 256> b;
      ssize_t n = ::recv(t.fd.get(), b.data(), b.size(), MSG_DONTWAIT);
      if (n < 0) {
        if (errno != EAGAIN && errno != ENOTCONN) again(t, now);
        continue;
      }
      if (n == 0) {
        again(t, now);
        continue;
      }
      t.text.append(b.data(), static_cast<std::size_t>(n));
      if (t.text.ends_with("\r\n")) {
        row.got = t.text == fmt::format("{} {}\r\n", kBanner, guests_[row.to].name);
        row.ms = std::chrono::duration<double, std::milli>(now - begin).count();
        again(t, now);
      }
    }
  }

 private:
  struct Try {
    Fd fd;
    std::string text;
    Steady::time_point next{};
  };
  static void again(Try& t, Steady::time_point now) {
    t.fd.reset();
    t.next = now + kRetryTcp;
  }
  const std::vector<Guest>& guests_;
  Matrix& matrix_;
  std::vector<Try> tries_;
};

}  // namespace

bool Matrix::as_expected() const {
  return std::all_of(rows.begin(), rows.end(), [](const Attempt& a) { return a.expected == a.got; });
}

std::vector<Attempt> all_pairs(const std::vector<Guest>& guests) {
  std::vector<Attempt> out;
  for (Family family : {Family::v4, Family::v6}) {
    for (std::size_t from = 0; from < guests.size(); ++from) {
      for (std::size_t to = 0; to < guests.size(); ++to) {
        if (from != to && guests[from].ip(family) && guests[to].ip(family)) out.push_back({from, to, family});
      }
    }
  }
  return out;
}

Status run_matrices(const std::vector<Guest>& guests, const std::vector<Matrix*>& matrices, Timing timing) {
  std::vector<Pings> pings;
  std::vector<Connects> connects;
  for (Matrix* m : matrices) {
    for (auto& row : m->rows) row.got = false;
    if (m->port == 0) {
      pings.emplace_back(guests, *m);
      if (auto s = pings.back().open(); !s) return s;
    } else {
      connects.emplace_back(guests, *m);
    }
  }
  const auto begin = Steady::now();
  for (;;) {
    auto now = Steady::now();
    for (auto& p : pings) p.send_due(now, begin);
    for (auto& c : connects) {
      if (auto s = c.start_due(now); !s) return s;
    }
    bool waiting = false;
    bool refusals = false;
    for (const Matrix* m : matrices) {
      for (const auto& row : m->rows) {
        waiting = waiting || (row.expected && !row.got);
        refusals = refusals || !row.expected;
      }
    }
    if (!waiting && (!refusals || now - begin >= timing.settle)) return {};
    if (now - begin >= timing.limit) return {};
    if (interrupted()) return fail(Errc::canceled, "interrupted");
    std::vector<pollfd> fds;
    for (const auto& p : pings) p.add_fds(fds);
    for (const auto& c : connects) c.add_fds(fds);
    ::poll(fds.data(), fds.size(), 20);
    now = Steady::now();
    for (auto& p : pings) p.receive(begin);
    for (auto& c : connects) c.receive(now, begin);
  }
}

std::vector<std::uint8_t> syn_frame(const Mac& source_mac, const Mac& target_mac, const Ip& source, const Ip& target,
                                    std::uint16_t source_port, std::uint16_t target_port, std::uint32_t sequence) {
  std::vector<std::uint8_t> f;
  auto put16 = [&](std::uint16_t v) {
    f.push_back(static_cast<std::uint8_t>(v >> 8));
    f.push_back(static_cast<std::uint8_t>(v));
  };
  auto put_ip = [&](const Ip& ip) {
    for (std::byte b : ip.bytes()) f.push_back(std::to_integer<std::uint8_t>(b));
  };
  auto set16 = [&](std::size_t at, std::uint16_t v) {
    f[at] = static_cast<std::uint8_t>(v >> 8);
    f[at + 1] = static_cast<std::uint8_t>(v);
  };
  f.insert(f.end(), target_mac.b.begin(), target_mac.b.end());
  f.insert(f.end(), source_mac.b.begin(), source_mac.b.end());
  constexpr std::uint16_t kTcpLength = 20;
  const std::size_t ip_at = f.size() + 2;
  if (source.is_v4()) {
    put16(ETHERTYPE_IP);
    f.insert(f.end(), {0x45, 0});
    put16(20 + kTcpLength);
    put16(static_cast<std::uint16_t>(sequence));  // identification
    put16(0x4000);                                // do not fragment
    f.insert(f.end(), {64, IPPROTO_TCP, 0, 0});
    put_ip(source);
    put_ip(target);
    set16(ip_at + 10, ones_sum(std::span(f).subspan(ip_at, 20), 0));
  } else {
    put16(ETHERTYPE_IPV6);
    f.insert(f.end(), {0x60, 0, 0, 0});
    put16(kTcpLength);
    f.insert(f.end(), {IPPROTO_TCP, 64});
    put_ip(source);
    put_ip(target);
  }
  const std::size_t tcp_at = f.size();
  put16(source_port);
  put16(target_port);
  put16(static_cast<std::uint16_t>(sequence >> 16));
  put16(static_cast<std::uint16_t>(sequence));
  put16(0);
  put16(0);
  f.insert(f.end(), {0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0});
  std::uint32_t pseudo = IPPROTO_TCP + kTcpLength;
  for (const Ip* ip : {&source, &target}) {
    auto b = ip->bytes();
    for (std::size_t i = 0; i < b.size(); i += 2) {
      pseudo += std::to_integer<std::uint32_t>(b[i]) << 8 | std::to_integer<std::uint32_t>(b[i + 1]);
    }
  }
  set16(tcp_at + 16, ones_sum(std::span(f).subspan(tcp_at), pseudo));
  return f;
}

std::optional<std::uint32_t> syn_sequence(std::span<const std::uint8_t> f, std::uint16_t target_port) {
  if (f.size() < 14) return {};
  unsigned type = static_cast<unsigned>(f[12] << 8 | f[13]);
  f = f.subspan(14);
  std::size_t header = 40;
  if (type == ETHERTYPE_IP) {
    if (f.size() < 20 || f[9] != IPPROTO_TCP) return {};
    header = static_cast<std::size_t>(f[0] & 15) * 4;
  } else if (type != ETHERTYPE_IPV6 || f.size() < 40 || f[6] != IPPROTO_TCP) {
    return {};
  }
  if (f.size() < header + 20) return {};
  f = f.subspan(header);
  if ((f[2] << 8 | f[3]) != target_port || (f[13] & 0x12) != 0x02) return {};
  return static_cast<std::uint32_t>(f[4]) << 24 | static_cast<std::uint32_t>(f[5]) << 16 |
         static_cast<std::uint32_t>(f[6]) << 8 | f[7];
}

Status run_spoofs(const std::vector<Guest>& guests, std::vector<SpoofAttempt>& attempts, Timing timing) {
  // One packet socket a guest, for sending and for listening.
  std::vector<Fd> cards(guests.size());
  for (std::size_t i = 0; i < guests.size(); ++i) {
    auto made = in_netns(guests[i].ns, [&]() -> Status {
      cards[i] = Fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
      sockaddr_ll a{};
      a.sll_family = AF_PACKET;
      a.sll_protocol = htons(ETH_P_ALL);
      a.sll_ifindex = static_cast<int>(::if_nametoindex("eth0"));
      if (!cards[i] || ::bind(cards[i].get(), reinterpret_cast<sockaddr*>(&a), sizeof a) != 0) {
        return fail_errno(errno, "packet socket in " + guests[i].name);
      }
      return {};
    });
    if (!made) return made;
  }
  std::map<std::uint32_t, std::size_t> by_sequence;
  std::vector<std::uint32_t> sequences(attempts.size());
  for (std::size_t i = 0; i < attempts.size(); ++i) {
    do {
      sequences[i] = static_cast<std::uint32_t>(random64());
    } while (!by_sequence.emplace(sequences[i], i).second);
    attempts[i].sent = attempts[i].arrived = 0;
  }
  const auto begin = Steady::now();
  auto next = begin;
  std::array<std::uint8_t, 4096> b;
  for (;;) {
    auto now = Steady::now();
    if (now >= next) {
      next = now + kPingEvery;
      for (std::size_t i = 0; i < attempts.size(); ++i) {
        auto& a = attempts[i];
        if (a.kind == Spoof::none && a.arrived > 0) continue;
        const Guest& from = guests[a.from];
        Mac mac = from.mac;
        if (a.kind == Spoof::mac) mac.b = {0x02, 0x5b, 0x00, 0xf0, static_cast<std::uint8_t>(a.from), 0x01};
        const Ip& source = a.kind == Spoof::ip ? *guests[a.as].ip(a.family) : *from.ip(a.family);
        // A port of its own for each frame: none may pass as part of a connection already allowed.
        auto port = static_cast<std::uint16_t>(20000 + random64() % 40000);
        auto frame = syn_frame(mac, from.gateway, source, *guests[a.to].ip(a.family), port, 22, sequences[i]);
        if (::send(cards[a.from].get(), frame.data(), frame.size(), 0) == static_cast<ssize_t>(frame.size())) ++a.sent;
      }
    }
    bool controls = std::all_of(attempts.begin(), attempts.end(),
                                [](const SpoofAttempt& a) { return a.kind != Spoof::none || a.arrived > 0; });
    if ((controls && now - begin >= timing.settle) || now - begin >= timing.limit) return {};
    if (interrupted()) return fail(Errc::canceled, "interrupted");
    std::vector<pollfd> fds;
    for (const auto& c : cards) fds.push_back({c.get(), POLLIN, 0});
    ::poll(fds.data(), fds.size(), 20);
    for (std::size_t g = 0; g < guests.size(); ++g) {
      for (;;) {
        sockaddr_ll from{};
        socklen_t size = sizeof from;
        ssize_t n =
            ::recvfrom(cards[g].get(), b.data(), b.size(), MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&from), &size);
        if (n < 0) break;
        if (from.sll_pkttype == PACKET_OUTGOING) continue;
        auto seq = syn_sequence({b.data(), static_cast<std::size_t>(n)}, 22);
        if (!seq) continue;
        auto it = by_sequence.find(*seq);
        if (it != by_sequence.end() && attempts[it->second].to == g) ++attempts[it->second].arrived;
      }
    }
  }
}

struct PingStream::Impl {
  Fd fd;
  Address to;
  bool v4 = true;
  Millis every{10};
  std::uint64_t token = random64();
  std::atomic<bool> stopping{false};
  mutable std::mutex mutex;
  std::vector<Steady::time_point> sent;      // under mutex
  std::vector<Steady::time_point> answered;  // under mutex; default = not yet
  std::thread thread;

  void send_one() {
    std::array<std::uint8_t, 24> p{};
    p[0] = v4 ? static_cast<std::uint8_t>(ICMP_ECHO) : static_cast<std::uint8_t>(ICMP6_ECHO_REQUEST);
    std::uint64_t index = 0;
    {
      std::scoped_lock lock(mutex);
      index = sent.size();
      sent.push_back(Steady::now());
      answered.emplace_back();
    }
    std::uint16_t id = htons(static_cast<std::uint16_t>(token));
    std::uint16_t seq = htons(static_cast<std::uint16_t>(index));
    std::memcpy(&p[4], &id, 2);
    std::memcpy(&p[6], &seq, 2);
    std::memcpy(&p[8], &token, 8);
    std::memcpy(&p[16], &index, 8);
    if (v4) {
      std::uint16_t sum = htons(ones_sum(p, 0));
      std::memcpy(&p[2], &sum, 2);
    }
    (void)!::sendto(fd.get(), p.data(), p.size(), MSG_NOSIGNAL, to.get(), to.size);
  }
  void receive() {
    std::array<std::uint8_t, 2048> b;
    for (;;) {
      ssize_t n = ::recv(fd.get(), b.data(), b.size(), MSG_DONTWAIT);
      if (n < 0) return;
      std::span<const std::uint8_t> p(b.data(), static_cast<std::size_t>(n));
      if (v4) {
        std::size_t header = p.empty() ? 0 : static_cast<std::size_t>(p[0] & 15) * 4;
        if (header < 20 || p.size() < header) continue;
        p = p.subspan(header);
      }
      if (p.size() < 24 || p[0] != (v4 ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY) || std::memcmp(&p[8], &token, 8) != 0)
        continue;
      std::uint64_t index = 0;
      std::memcpy(&index, &p[16], 8);
      std::scoped_lock lock(mutex);
      if (index < answered.size()) answered[index] = Steady::now();
    }
  }
  void run() {
    auto next = Steady::now();
    auto end = Steady::time_point::max();
    for (;;) {
      auto now = Steady::now();
      if (stopping && end == Steady::time_point::max()) end = now + Millis(1000);
      if (now >= end) return;
      if (!stopping && now >= next) {
        next += every;
        if (next < now) next = now;  // a stalled machine does not make a burst
        send_one();
      }
      pollfd p{fd.get(), POLLIN, 0};
      auto until = std::min(stopping ? end : next, now + Millis(50));
      auto wait = std::chrono::ceil<Millis>(until - Steady::now()).count();
      ::poll(&p, 1, static_cast<int>(std::clamp<std::int64_t>(wait, 0, 50)));
      receive();
    }
  }
};

std::string PingStream::Result::to_string() const {
  return fmt::format("{} sent, {} lost, longest gap {:.0f} ms", sent, lost, longest_gap_ms);
}

PingStream::PingStream() : impl_(std::make_unique<Impl>()) {}
PingStream::~PingStream() {
  impl_->stopping = true;
  if (impl_->thread.joinable()) impl_->thread.join();
}

Status PingStream::start(const Guest& from, const Ip& to, Millis every) {
  impl_->v4 = to.is_v4();
  impl_->to = address_of(to, 0);
  impl_->every = every;
  auto made = in_netns(from.ns, [&]() -> Status {
    impl_->fd = Fd(::socket(impl_->v4 ? AF_INET : AF_INET6, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK,
                            impl_->v4 ? static_cast<int>(IPPROTO_ICMP) : static_cast<int>(IPPROTO_ICMPV6)));
    if (!impl_->fd) return fail_errno(errno, "ICMP socket in " + from.name);
    return {};
  });
  if (!made) return made;
  impl_->thread = std::thread([impl = impl_.get()] { impl->run(); });
  return {};
}

PingStream::Result PingStream::now() const {
  Result r;
  auto late = Steady::now() - Millis(1000);
  std::scoped_lock lock(impl_->mutex);
  std::optional<Steady::time_point> last;
  for (std::size_t i = 0; i < impl_->sent.size(); ++i) {
    ++r.sent;
    auto at = impl_->answered[i];
    if (at == Steady::time_point()) {
      if (impl_->sent[i] <= late) ++r.lost;
      continue;
    }
    if (last)
      r.longest_gap_ms = std::max(r.longest_gap_ms, std::chrono::duration<double, std::milli>(at - *last).count());
    last = at;
  }
  return r;
}

PingStream::Result PingStream::stop() {
  impl_->stopping = true;
  if (impl_->thread.joinable()) impl_->thread.join();
  return now();
}

}  // namespace calico::lab
