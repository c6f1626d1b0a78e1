#pragma once
/// An established TCP connection, and whether it still is one.
#include <string>

#include "tests/netns/felix/bench.hpp"

namespace calico::test {

/// An established TCP connection of two namespaces.
class Flow {
 public:
  Flow(const Netns& from, const Netns& to, const std::string& ip, std::uint16_t port) {
    const bool six = is_v6(ip);
    const int l = to.in([&] { return ::socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); });
    client_ = from.in([&] { return ::socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); });
    const int one = 1;
    setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    sockaddr_storage a{};
    const auto fill = [&](const std::string& text) {
      a.ss_family = six ? AF_INET6 : AF_INET;
      if (six) {
        auto& s = reinterpret_cast<sockaddr_in6&>(a);
        s.sin6_port = htons(port);
        inet_pton(AF_INET6, text.c_str(), &s.sin6_addr);
      } else {
        auto& s = reinterpret_cast<sockaddr_in&>(a);
        s.sin_port = htons(port);
        inet_pton(AF_INET, text.c_str(), &s.sin_addr);
      }
      return six ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
    };
    const timeval limit{5, 0};
    for (const int fd : {l, client_})
      for (const int option : {SO_SNDTIMEO, SO_RCVTIMEO}) setsockopt(fd, SOL_SOCKET, option, &limit, sizeof limit);
    auto n = static_cast<socklen_t>(fill(six ? "::" : "0.0.0.0"));
    if (::bind(l, reinterpret_cast<sockaddr*>(&a), n) != 0 || ::listen(l, 4) != 0)
      throw std::runtime_error("listen on port " + std::to_string(port));
    n = static_cast<socklen_t>(fill(ip));
    if (::connect(client_, reinterpret_cast<sockaddr*>(&a), n) != 0)
      throw std::runtime_error("no connection to " + ip + " " + std::to_string(port));
    server_ = ::accept4(l, nullptr, nullptr, SOCK_CLOEXEC);
    ::close(l);
  }
  Flow(const Flow&) = delete;
  Flow& operator=(const Flow&) = delete;
  ~Flow() {
    ::close(client_);
    ::close(server_);
  }
  /// What the client says arrives; what the server says arrives.
  bool asks(int ms = 5000) { return passes(client_, server_, ms); }
  bool answers(int ms = 5000) { return passes(server_, client_, ms); }
  bool lives() { return asks() && answers(); }
  /// Half a second of silence in both directions; the server's word comes first, nobody has asked.
  bool dead() { return !answers(500) && !asks(500) && !answers(100); }

 private:
  static bool passes(int from, int to, int ms) {
    char buf[64];
    while (::recv(to, buf, sizeof buf, MSG_DONTWAIT) > 0) {
    }
    if (::send(from, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT) != 1) return false;
    pollfd p{to, POLLIN, 0};
    return ::poll(&p, 1, ms) == 1 && ::recv(to, buf, sizeof buf, MSG_DONTWAIT) > 0;
  }
  int client_ = -1, server_ = -1;
};

}  // namespace calico::test
