#include "tests/bench/bgp/dial.hpp"

#include <fmt/core.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace calico::bench {
namespace {

sockaddr_in socket_address(std::uint32_t address, std::uint16_t port) {
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_addr.s_addr = htonl(address);
  a.sin_port = htons(port);
  return a;
}

}  // namespace

std::string dotted(std::uint32_t a) {
  return fmt::format("{}.{}.{}.{}", a >> 24U, a >> 16U & 255U, a >> 8U & 255U, a & 255U);
}

int dial(int epoll, std::uint64_t key, std::uint32_t source, std::uint32_t target, int receive_buffer) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) throw std::runtime_error(fmt::format("socket: {}", std::strerror(errno)));
  const auto broken = [fd](const std::string& what) {
    const auto text = fmt::format("{}: {}", what, std::strerror(errno));
    ::close(fd);
    throw std::runtime_error(text);
  };
  const int one = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  ::setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
  if (receive_buffer > 0) ::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
  const auto from = socket_address(source, 0), to = socket_address(target, 179);
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&from), sizeof from) != 0)
    broken(fmt::format("bind to {}", dotted(source)));
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0 && errno != EINPROGRESS) {
    ::close(fd);
    return -1;
  }
  epoll_event e{};
  e.events = EPOLLIN | EPOLLOUT;
  e.data.u64 = key;
  if (::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) != 0) broken("epoll_ctl");
  return fd;
}

int connect_error(int fd, std::uint32_t events) {
  int error = 0;
  socklen_t size = sizeof error;
  ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
  return error == 0 && (events & EPOLLOUT) == 0 ? ENOTCONN : error;
}

}  // namespace calico::bench
