#include "tests/bench/bgp/mirror.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <stdexcept>

namespace calico::bench {
namespace {

struct Client {
  std::uint32_t index = 0;
  bool established = false, blocked = false;
  Bytes in;
  std::vector<iovec> out;
  std::size_t out_at = 0;
};

// Changes the last byte of the first message's attribute of that type, or what Damage says.
void damage_first(Bytes& messages, int damage) {
  if (messages.empty() || damage == kNoDamage) return;
  const std::size_t length = be16(&messages[16]), attributes = be16(&messages[kHeader + 2]);
  auto* const begin = messages.data() + kHeader + 4;
  if (damage == kWrongPrefix) messages[length - 5 + 1] ^= 0x40U;
  if (damage == kLostMessage) messages.erase(messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(length));
  if (damage == kBadMarker) messages[3] = 0;
  if (damage >= kWrongPrefix) return;
  AttributeReader a(View(begin, attributes));
  while (a.next())
    if (a.type == damage && !a.value.empty()) const_cast<std::uint8_t&>(a.value.back()) ^= 0x15U;
}

class Mirror {
 public:
  Mirror(const Plan& plan, int damage) : w_(plan), end_of_rib_(end_of_rib(w_.ipv6())), keepalive_(keepalive_message()) {
    for (std::uint32_t s = 0; s < plan.senders; ++s) reflected_.push_back(w_.reflected(s));
    damage_first(reflected_.at(0), damage);
    open_ = open_message(Workload::kAs, Workload::kReflector, w_.ipv6());
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    const int one = 1;
    ::setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_port = htons(179);
    a.sin_addr.s_addr = htonl(Workload::kReflector);
    if (::bind(listener_, reinterpret_cast<const sockaddr*>(&a), sizeof a) != 0 || ::listen(listener_, 4096) != 0)
      throw std::runtime_error("the mirror cannot listen on 10.66.0.1:179");
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    watch(listener_, EPOLLIN, EPOLL_CTL_ADD);
  }
  [[noreturn]] void serve() {
    std::array<epoll_event, 256> events;
    for (;;) {
      const int n = ::epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), -1);
      for (int i = 0; i < n; ++i) {
        const int fd = events[static_cast<std::size_t>(i)].data.fd;
        if (fd == listener_)
          accept_all();
        else if (auto it = clients_.find(fd); it != clients_.end())
          serve(fd, it->second, events[static_cast<std::size_t>(i)].events);
      }
    }
  }

 private:
  void watch(int fd, std::uint32_t events, int how) {
    epoll_event e{};
    e.events = events;
    e.data.fd = fd;
    ::epoll_ctl(epoll_, how, fd, &e);
  }
  void accept_all() {
    for (;;) {
      sockaddr_in from{};
      socklen_t size = sizeof from;
      const int fd = ::accept4(listener_, reinterpret_cast<sockaddr*>(&from), &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) return;
      const int one = 1;
      ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      const auto low = ntohl(from.sin_addr.s_addr) & 0xffffU;
      clients_[fd].index = ((low >> 8U) - 1) * 250 + (low & 255U) - 1;
      watch(fd, EPOLLIN, EPOLL_CTL_ADD);
    }
  }
  void serve(int fd, Client& c, std::uint32_t events) {
    if (events & EPOLLOUT) flush(fd, c);
    if ((events & ~static_cast<std::uint32_t>(EPOLLOUT)) == 0) return;
    const auto n = ::recv(fd, buffer_.data(), buffer_.size(), 0);
    if (n <= 0) {
      if (n < 0 && errno == EAGAIN) return;
      ::close(fd);
      clients_.erase(fd);
      return;
    }
    c.in.insert(c.in.end(), buffer_.begin(), buffer_.begin() + n);
    std::size_t at = 0;
    while (c.in.size() - at >= kHeader) {
      const auto length = be16(&c.in[at + 16]);
      if (length < kHeader || c.in.size() - at < length) break;
      message(fd, c, {&c.in[at], length});
      at += length;
    }
    c.in.erase(c.in.begin(), c.in.begin() + static_cast<std::ptrdiff_t>(at));
  }
  void message(int fd, Client& c, View m) {
    if (m[18] == kOpen) {
      push(c, open_);
      push(c, keepalive_);
      flush(fd, c);
    } else if (m[18] == kKeepalive && !c.established) {
      c.established = true;
      if (ended_ == w_.plan().senders) reflect(fd, c);
    } else if (c.index < w_.plan().senders && m.size() == end_of_rib_.size() &&
               std::equal(m.begin(), m.end(), end_of_rib_.begin()) && ++ended_ == w_.plan().senders) {
      for (auto& [other, client] : clients_)
        if (client.established) reflect(other, client);
    }
  }
  static void push(Client& c, const Bytes& b) { c.out.push_back({const_cast<std::uint8_t*>(b.data()), b.size()}); }
  void reflect(int fd, Client& c) {
    for (std::uint32_t s = 0; s < reflected_.size(); ++s)
      if (s != c.index) push(c, reflected_[s]);
    flush(fd, c);
  }
  void flush(int fd, Client& c) {
    while (c.out_at < c.out.size()) {
      const auto count = static_cast<int>(std::min<std::size_t>(c.out.size() - c.out_at, 512));
      auto n = ::writev(fd, &c.out[c.out_at], count);
      if (n < 0) {
        if (errno == EAGAIN && !c.blocked) watch(fd, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
        c.blocked |= errno == EAGAIN;
        return;
      }
      while (n > 0) {
        auto& v = c.out[c.out_at];
        const auto take = std::min(static_cast<std::size_t>(n), v.iov_len);
        v.iov_base = static_cast<std::uint8_t*>(v.iov_base) + take;
        v.iov_len -= take;
        n -= static_cast<ssize_t>(take);
        if (v.iov_len == 0) ++c.out_at;
      }
    }
    c.out.clear();
    c.out_at = 0;
    if (c.blocked) watch(fd, EPOLLIN, EPOLL_CTL_MOD);
    c.blocked = false;
  }

  Workload w_;
  Bytes end_of_rib_, keepalive_, open_, buffer_ = Bytes(256 * 1024);
  std::vector<Bytes> reflected_;
  std::map<int, Client> clients_;
  std::uint32_t ended_ = 0;
  int listener_ = -1, epoll_ = -1;
};

}  // namespace

void run_mirror(const Plan& plan, int damage) {
  rlimit files{65536, 65536};
  (void)setrlimit(RLIMIT_NOFILE, &files);
  Mirror(plan, damage).serve();
}

}  // namespace calico::bench
