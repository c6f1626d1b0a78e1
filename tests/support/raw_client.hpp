#pragma once
/// A blocking TCP socket to loopback for what no client would do: not reading, stopping in the middle, sending
/// nonsense. Every wait ends after 30 s.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace calico::test {

class RawClient {
 public:
  explicit RawClient(std::uint16_t port) {
    fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = htons(port);
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int small = 64 * 1024;  // so that what is not read stays with the server
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    if (::connect(fd_, reinterpret_cast<sockaddr*>(&in), sizeof in) != 0) {
      ::close(fd_);
      throw std::runtime_error("connect to port " + std::to_string(port));
    }
  }
  ~RawClient() { ::close(fd_); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  /// False when the server has closed.
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const auto n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
  }
  void end() { ::shutdown(fd_, SHUT_WR); }
  /// How many bytes came until there were `n`, the end, or 30 s without one.
  std::size_t read_until(std::size_t n) {
    std::size_t got = 0;
    std::string piece;
    while (got < n && more(piece)) got += piece.size();
    return got;
  }
  /// What came until `mark` was in it, the end, or 30 s without a byte. Only the last 64 KiB are kept.
  std::string read_all_until(std::string_view mark) {
    std::string all;
    std::string piece;
    while (all.find(mark) == all.npos && more(piece)) {
      all += piece;
      if (all.size() > 128 * 1024) all.erase(0, all.size() - 64 * 1024);
    }
    if (all.find(mark) != all.npos && more_now()) {
      more(piece);
      all += piece;
    }
    return all;
  }
  /// All until the end.
  std::string read_all() {
    std::string all;
    std::string piece;
    while (more(piece)) all += piece;
    return all;
  }

 private:
  bool more_now() {
    pollfd p{fd_, POLLIN, 0};
    return ::poll(&p, 1, 200) > 0;
  }
  bool more(std::string& piece) {
    piece.assign(256 * 1024, '\0');
    pollfd p{fd_, POLLIN, 0};
    const auto n = ::poll(&p, 1, 30'000) > 0 ? ::recv(fd_, piece.data(), piece.size(), 0) : 0;
    piece.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
    return n > 0;
  }
  int fd_ = -1;
};

}  // namespace calico::test
