#pragma once
/// Load for etcd v3's JSON gateway over plain HTTP/1.1 with keep-alive: the same bytes and the same reader for our
/// gateway and for etcd's, so that what differs is the server. One thread, epoll; requests are texts made beforehand,
/// answers are cut out and not decoded.
///
///   auto took = closed_loop(port, 64, 10000, [](std::size_t i) { return post("kv/put", body_of(i)); });
///   Watchers w(port, 1000, "/fan/");
///   auto seen = w.follow(100, [&](std::size_t i) { … the put of event i … });
///
/// Thread: the caller's. Errors: std::runtime_error, one line; 30 s without progress is one.
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace calico::bench {

using Clock = std::chrono::steady_clock;

/// A whole request for /v3/`path`.
std::string post(std::string_view path, std::string_view json);
std::string put_json(std::string_view key, std::string_view value);
/// `end` empty: the one key.
std::string range_json(std::string_view key, std::string_view end, std::int64_t limit, std::int64_t revision);

/// A blocking keep-alive connection to 127.0.0.1.
class Connection {
 public:
  explicit Connection(std::uint16_t port);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  void send(const std::string& request);
  /// The body of the next answer; any status but 200 is an error.
  std::string answer();
  std::string ask(const std::string& request);

 private:
  int fd_ = -1;
  std::string in_;
};

struct Took {
  double wall_s = 0;
  std::vector<double> ms;  ///< of each request
};
/// `clients` connections, each with one request under way, until `total` were answered with 200.
Took closed_loop(std::uint16_t port, std::size_t clients, std::size_t total,
                 const std::function<std::string(std::size_t)>& request);

/// All keys below `prefix` in pages of 500 at one revision, as our client reads a snapshot.
struct Snapshot {
  double wall_s = 0;
  std::size_t keys = 0, bytes = 0;
};
Snapshot snapshot(std::uint16_t port, std::string_view prefix);

/// Watches, one connection each.
class Watchers {
 public:
  Watchers(std::uint16_t port, std::size_t count, std::string_view prefix);
  ~Watchers();
  Watchers(const Watchers&) = delete;
  Watchers& operator=(const Watchers&) = delete;

  struct Seen {
    std::vector<double> ms;       ///< from before the put to the event, of every watcher and event
    std::vector<double> last_ms;  ///< of every event: until the last watcher had it
  };
  /// `send(i)` makes event i happen and does not wait for it; the next one follows when every watcher has it.
  Seen follow(std::size_t events, const std::function<void(std::size_t)>& send);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace calico::bench
