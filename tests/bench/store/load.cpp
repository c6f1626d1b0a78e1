#include "tests/bench/store/load.hpp"

#include <arpa/inet.h>
#include <fmt/core.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <stdexcept>

#include "core/store/datastore.hpp"
#include "core/wire/base64.hpp"

namespace calico::bench {
namespace {

constexpr int kPatience_ms = 30000;

[[noreturn]] void broken(std::string_view what) {
  throw std::runtime_error(fmt::format("{}: {}", what, std::strerror(errno)));
}

int connect_to(std::uint16_t port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) broken("socket");
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_port = htons(port);
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&a), sizeof a) != 0) broken(fmt::format("connect to port {}", port));
  const int one = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  const timeval patience{kPatience_ms / 1000, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  return fd;
}

void send_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const auto n = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) broken("send");
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
}

/// Appends what is there; at most one read.
void receive(int fd, std::string* in) {
  char buffer[256 * 1024];
  const auto n = ::recv(fd, buffer, sizeof buffer, 0);
  if (n == 0) throw std::runtime_error("the server closed the connection");
  if (n < 0) broken("no answer");
  in->append(buffer, static_cast<std::size_t>(n));
}

std::size_t number(std::string_view text, int base) {
  std::size_t value = 0;
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  std::from_chars(text.data(), text.data() + text.size(), value, base);
  return value;
}

/// Cuts the first whole answer out of `in`; nothing while it is not all there.
std::optional<std::string> cut_answer(std::string* in) {
  const auto head_end = in->find("\r\n\r\n");
  if (head_end == in->npos) return std::nullopt;
  std::string head = in->substr(0, head_end);
  std::transform(head.begin(), head.end(), head.begin(), [](unsigned char c) { return std::tolower(c); });
  std::string body;
  std::size_t at = head_end + 4;
  if (const auto length = head.find("content-length:"); length != head.npos) {
    const auto size = number(std::string_view(head).substr(length + 15), 10);
    if (in->size() < at + size) return std::nullopt;
    body = in->substr(at, size);
    at += size;
  } else {
    for (;;) {
      const auto line_end = in->find("\r\n", at);
      if (line_end == in->npos) return std::nullopt;
      const auto size = number(std::string_view(*in).substr(at, line_end - at), 16);
      if (in->size() < line_end + 4 + size) return std::nullopt;
      body.append(*in, line_end + 2, size);
      at = line_end + 4 + size;
      if (size == 0) break;
    }
  }
  if (!head.starts_with("http/1.1 200")) throw std::runtime_error(fmt::format("refused: {}", body.substr(0, 200)));
  in->erase(0, at);
  return body;
}

class Epoll {
 public:
  Epoll() : fd_(::epoll_create1(EPOLL_CLOEXEC)) {}
  ~Epoll() { ::close(fd_); }
  Epoll(const Epoll&) = delete;
  Epoll& operator=(const Epoll&) = delete;
  void add(int fd, std::size_t index) {
    epoll_event e{};
    e.events = EPOLLIN;
    e.data.u64 = index;
    if (::epoll_ctl(fd_, EPOLL_CTL_ADD, fd, &e) != 0) broken("epoll");
  }
  /// Indices that can be read.
  template <class F>
  void wait(F each) {
    epoll_event events[256];
    const int n = ::epoll_wait(fd_, events, 256, kPatience_ms);
    if (n == 0) throw std::runtime_error("nothing happened for 30 s");
    if (n < 0) broken("epoll");
    for (int i = 0; i < n; ++i) each(static_cast<std::size_t>(events[i].data.u64));
  }

 private:
  int fd_;
};

double ms_between(Clock::time_point a, Clock::time_point b) {
  return std::chrono::duration<double, std::milli>(b - a).count();
}

/// The text between `"name":` and the next comma or brace, without quotes: etcd writes numbers as strings.
std::string_view member(std::string_view json, std::string_view name, std::size_t from = 0) {
  const auto at = json.find(fmt::format("\"{}\":", name), from);
  if (at == json.npos) return {};
  auto rest = json.substr(at + name.size() + 3);
  rest = rest.substr(0, rest.find_first_of(",}]"));
  if (rest.size() > 1 && rest.front() == '"') rest = rest.substr(1, rest.size() - 2);
  return rest;
}

}  // namespace

std::string post(std::string_view path, std::string_view json) {
  return fmt::format(
      "POST /v3/{} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}", path,
      json.size(), json);
}

std::string put_json(std::string_view key, std::string_view value) {
  return fmt::format(R"({{"key":"{}","value":"{}"}})", wire::base64_encode(key), wire::base64_encode(value));
}

std::string range_json(std::string_view key, std::string_view end, std::int64_t limit, std::int64_t revision) {
  return fmt::format(R"({{"key":"{}","range_end":"{}","limit":"{}","revision":"{}"}})", wire::base64_encode(key),
                     wire::base64_encode(end), limit, revision);
}

Connection::Connection(std::uint16_t port) : fd_(connect_to(port)) {}
Connection::~Connection() { ::close(fd_); }

void Connection::send(const std::string& request) { send_all(fd_, request); }

std::string Connection::answer() {
  for (;;) {
    if (auto body = cut_answer(&in_)) return *body;
    receive(fd_, &in_);
  }
}

std::string Connection::ask(const std::string& request) {
  send(request);
  return answer();
}

Took closed_loop(std::uint16_t port, std::size_t clients, std::size_t total,
                 const std::function<std::string(std::size_t)>& request) {
  struct Client {
    int fd = -1;
    std::string in;
    Clock::time_point sent;
  };
  std::vector<std::string> requests;
  requests.reserve(total);
  for (std::size_t i = 0; i < total; ++i) requests.push_back(request(i));
  std::vector<Client> all(clients);
  Epoll epoll;
  for (std::size_t i = 0; i < clients; ++i) {
    all[i].fd = connect_to(port);
    epoll.add(all[i].fd, i);
  }
  Took out;
  out.ms.reserve(total);
  std::size_t next = 0;
  const auto send_next = [&](Client& c) {
    if (next == total) return;
    c.sent = Clock::now();
    send_all(c.fd, requests[next++]);
  };
  const auto start = Clock::now();
  for (auto& c : all) send_next(c);
  while (out.ms.size() < total)
    epoll.wait([&](std::size_t i) {
      auto& c = all[i];
      receive(c.fd, &c.in);
      if (!cut_answer(&c.in)) return;
      out.ms.push_back(ms_between(c.sent, Clock::now()));
      send_next(c);
    });
  out.wall_s = ms_between(start, Clock::now()) / 1000;
  for (auto& c : all) ::close(c.fd);
  return out;
}

Snapshot snapshot(std::uint16_t port, std::string_view prefix) {
  constexpr std::int64_t kPage = 500;
  Connection connection(port);
  Snapshot out;
  std::string from(prefix);
  const std::string end = store::prefix_end(prefix);
  std::int64_t revision = 0;
  const auto start = Clock::now();
  for (;;) {
    const auto body = connection.ask(post("kv/range", range_json(from, end, kPage, revision)));
    out.bytes += body.size();
    if (revision == 0) revision = static_cast<std::int64_t>(number(member(body, "revision"), 10));
    std::string_view last;
    for (auto at = body.find("\"key\":\""); at != body.npos; at = body.find("\"key\":\"", at + 1)) {
      ++out.keys;
      last = member(body, "key", at);
    }
    if (member(body, "more") != "true") break;
    from = wire::base64_decode(last).value() + '\0';
  }
  out.wall_s = ms_between(start, Clock::now()) / 1000;
  return out;
}

struct Watchers::Impl {
  struct One {
    int fd = -1;
    std::string tail;  ///< of what was read last: a mark may lie across two reads
    std::size_t seen = 0;
  };
  /// Once in every event of both servers, and in nothing else.
  static constexpr std::string_view kMark = "\"kv\":";

  std::size_t count(One& one) {
    std::string in = std::move(one.tail);
    receive(one.fd, &in);
    std::size_t found = 0, end = 0;
    for (auto at = in.find(kMark); at != in.npos; at = in.find(kMark, end)) {
      ++found;
      end = at + kMark.size();
    }
    one.tail = in.substr(std::max(end, in.size() > kMark.size() ? in.size() - kMark.size() + 1 : 0));
    return found;
  }

  std::vector<One> all;
  Epoll epoll;
};

Watchers::Watchers(std::uint16_t port, std::size_t count, std::string_view prefix) : impl_(std::make_unique<Impl>()) {
  const auto request =
      post("watch", fmt::format(R"({{"create_request":{{"key":"{}","range_end":"{}"}}}})", wire::base64_encode(prefix),
                                wire::base64_encode(store::prefix_end(prefix))));
  impl_->all.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    auto& one = impl_->all[i];
    one.fd = connect_to(port);
    send_all(one.fd, request);
    std::string in;
    while (in.find("\"created\":true") == in.npos) receive(one.fd, &in);
    impl_->epoll.add(one.fd, i);
  }
}

Watchers::~Watchers() {
  for (auto& one : impl_->all) ::close(one.fd);
}

Watchers::Seen Watchers::follow(std::size_t events, const std::function<void(std::size_t)>& send) {
  Seen out;
  for (std::size_t event = 0; event < events; ++event) {
    const auto start = Clock::now();
    send(event);
    std::size_t missing = impl_->all.size();
    for (auto& one : impl_->all) one.seen = 0;
    while (missing > 0)
      impl_->epoll.wait([&](std::size_t i) {
        auto& one = impl_->all[i];
        const auto found = impl_->count(one);
        if (found == 0) return;
        one.seen += found;
        if (one.seen != 1) throw std::runtime_error("a watcher was told an event twice");
        --missing;
        out.ms.push_back(ms_between(start, Clock::now()));
      });
    out.last_ms.push_back(out.ms.back());
  }
  return out;
}

}  // namespace calico::bench
