#pragma once
/// A server with a few known paths on loopback, a client to it, and a raw socket for what no client would send.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <string>

#include "core/http/client.hpp"
#include "core/http/server.hpp"
#include "core/loop/loop.hpp"
#include "core/loop/task_group.hpp"
#include "tests/support/certificates.hpp"
#include "tests/support/run.hpp"
#include "tests/support/wait.hpp"

namespace calico::http {

using namespace std::chrono_literals;
using test::run;

/// A blocking socket that gives up after 30 s.
class RawSocket {
 public:
  explicit RawSocket(const Endpoint& to) {
    if (to.is_unix()) {
      fd_ = ::socket(AF_UNIX, SOCK_STREAM, 0);
      sockaddr_un un{};
      un.sun_family = AF_UNIX;
      std::strncpy(un.sun_path, to.unix_path.c_str(), sizeof un.sun_path - 1);
      ok_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&un), sizeof un) == 0;
      return;
    }
    fd_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = htons(to.port);
    ::inet_pton(AF_INET, to.host.c_str(), &in.sin_addr);
    ok_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&in), sizeof in) == 0;
  }
  RawSocket(const RawSocket&) = delete;
  RawSocket& operator=(const RawSocket&) = delete;
  ~RawSocket() { ::close(fd_); }
  bool connected() const { return ok_; }
  int fd() const { return fd_; }
  bool send(std::string_view bytes) {
    return ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
  }
  /// Until the server closes, or `until` has been seen. "<timeout>" is appended when neither came.
  std::string receive(std::string_view until = {}) {
    std::string all;
    char buffer[4096];
    for (;;) {
      if (!until.empty() && all.find(until) != std::string::npos) return all;
      pollfd p{fd_, POLLIN, 0};
      if (::poll(&p, 1, 30'000) <= 0) return all + "<timeout>";
      const auto n = ::recv(fd_, buffer, sizeof buffer, 0);
      if (n <= 0) return all;
      all.append(buffer, static_cast<std::size_t>(n));
    }
  }

 private:
  int fd_ = -1;
  bool ok_ = false;
};

/// Paths: /echo (method, path, parameters, body), /peer, /throw, /lines (three lines), /forever (a line, then waits
/// until cancelled), /flood (until the peer goes), /slow (answers after 200 ms), /json-stream (one read of the body at
/// a time).
class Fixture {
 public:
  explicit Fixture(ServerOptions options = {}, Listen listen = {.at = *Endpoint::parse("127.0.0.1:0")}) {
    options.stream_request = [](const Request& r) { return r.path == "/json-stream"; };
    server = std::make_unique<Server>(loop.executor(), options, [this](Request r) { return answer(std::move(r)); });
    if (auto s = server->listen(std::move(listen)); !s) throw std::runtime_error(s.error().what);
    server->start();
    loop.start();
  }
  ~Fixture() {
    run(loop, "server.stop", [this]() -> awaitable<void> { co_await server->stop(); });
    loop.call([this] {
      clients.clear();
      server.reset();
    });
    loop.stop();
  }
  Endpoint at() const {
    auto e = server->endpoints().at(0);
    return e;
  }
  Client& client(ClientOptions options = {}) {
    if (options.endpoints.empty()) options.endpoints = {at()};
    auto made = Client::create(loop.executor(), std::move(options));
    if (!made) throw std::runtime_error(made.error().what);
    clients.push_back(std::move(*made));
    return *clients.back();
  }
  Result<Answer> ask(Client& c, ClientRequest r) {
    return run(loop, r.method + " " + r.target, [&c, r]() -> awaitable<Result<Answer>> { return c.request(r); });
  }
  Result<Answer> get(Client& c, std::string target) { return ask(c, {.target = std::move(target)}); }
  Result<std::unique_ptr<LineReader>> open(Client& c, ClientRequest r) {
    return run(loop, "open " + r.target,
               [&c, r]() -> awaitable<Result<std::unique_ptr<LineReader>>> { return c.open(r); });
  }
  Result<std::string> line(LineReader& l, Duration timeout = 30s) {
    return run(loop, "a line", [&l, timeout]() -> awaitable<Result<std::string>> { return l.read_line(timeout); });
  }
  ServerStats stats() {
    return loop.call([this] { return server->stats(); });
  }

  awaitable<Response> answer(Request r) {
    if (r.path == "/peer") {
      static constexpr const char* kVia[] = {"plain", "tls", "unix"};
      std::string text = fmt::format("via={} identity={} certified={} cn={} uid={}",
                                     kVia[static_cast<int>(r.peer.via())], r.peer.identity(), r.peer.certified,
                                     r.peer.common_name, r.peer.uid ? std::to_string(*r.peer.uid) : "none");
      for (const auto& d : r.peer.dns_names) text += " dns=" + d;
      for (const auto& ip : r.peer.ips) text += " ip=" + ip.to_string();
      co_return Response::text(200, text);
    }
    if (r.path == "/throw") throw std::runtime_error("on purpose");
    if (r.path == "/slow") {
      co_await sleep_for(200ms);
      co_return Response::text(200, "late");
    }
    if (r.path == "/bad-header") {
      Response bad = Response::text(200, "x");
      bad.headers.set("X-Evil", "a\r\nSet-Cookie: b");
      co_return bad;
    }
    if (r.path == "/json-stream") {
      auto piece = co_await r.body_reader->read_some();
      std::string first = "nothing";
      if (piece) first = *piece;
      co_return streaming(first);
    }
    if (r.path == "/lines" || r.path == "/forever" || r.path == "/flood" || r.path == "/break")
      co_return streaming_path(r.path);
    if (r.path != "/echo") co_return Response::text(404, "no such path\n");
    std::string text = r.method + " " + r.path;
    for (const auto& [n, v] : r.query) text += fmt::format(" {}={}", n, v);
    co_return Response::text(200, text + "\n" + r.body);
  }

  Response streaming(std::string first) {
    Response out = Response::text(200, "");
    out.stream = [this, first](std::shared_ptr<ResponseStream> stream) { return echo_then_wait(stream, first); };
    return out;
  }
  Response streaming_path(std::string path) {
    Response out = Response::text(200, "");
    out.stream = [this, path](std::shared_ptr<ResponseStream> stream) { return streamed(path, stream); };
    return out;
  }

  /// Counts a stream that runs, and one that was ended from outside: by sleep_for's false or by unwinding.
  struct Running {
    explicit Running(Fixture& fixture) : f(fixture) { ++f.running; }
    ~Running() {
      if (!complete) ++f.cancelled;
      --f.running;
    }
    Fixture& f;
    bool complete = false;
  };
  awaitable<void> echo_then_wait(std::shared_ptr<ResponseStream> stream, std::string first) {
    Running here(*this);
    std::string chunk = "got " + first + "\n";
    (void)co_await stream->write(std::move(chunk));
    here.complete = co_await sleep_for(1h);
  }
  awaitable<void> streamed(std::string path, std::shared_ptr<ResponseStream> stream) {
    Running here(*this);
    if (path == "/break") throw std::runtime_error("broke on purpose");
    if (path == "/lines") {
      for (const char* piece : {"one\ntw", "", "o\r\nthree"}) {
        std::string chunk = piece;
        (void)co_await stream->write(std::move(chunk));
      }
      here.complete = true;
    }
    if (path == "/forever") {
      std::string chunk = "hello\n";
      (void)co_await stream->write(std::move(chunk));
      here.complete = co_await sleep_for(1h);
    }
    while (path == "/flood") {
      std::string chunk(64 * 1024, 'x');
      auto done = co_await stream->write(std::move(chunk));
      if (done) continue;
      flood_ended = to_string(done.error().code);
      break;
    }
  }

  Loop loop{"http-test"};
  std::unique_ptr<Server> server;
  std::vector<std::unique_ptr<Client>> clients;
  std::atomic<int> running{0};
  std::atomic<int> cancelled{0};
  std::string flood_ended;
};

}  // namespace calico::http
