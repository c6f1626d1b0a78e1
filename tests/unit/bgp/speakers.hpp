#pragma once
/// Speakers on loopback addresses of this process's own (127.x.y.n), for tests of the engine without namespaces.
#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/use_future.hpp>
#include <condition_variable>
#include <filesystem>
#include <map>
#include <mutex>

#include "core/bgp/engine.hpp"

namespace calico::bgp::test {

using namespace std::chrono_literals;

inline constexpr std::uint16_t kPort = 1790;

inline Prefix pfx(std::string_view text) { return *Prefix::parse(text); }
inline Ip addr(std::string_view text) { return *Ip::parse(text); }

/// 127.a.b.n, a and b from the process id, so that tests running side by side do not meet.
inline Ip own_address(int n) {
  const auto pid = static_cast<std::uint32_t>(getpid());
  return Ip::v4(127U << 24 | (1 + (pid >> 8) % 254) << 16 | (pid & 0xff) << 8 | static_cast<std::uint32_t>(n));
}

class RecordingSink : public FibSink {
 public:
  void route_changed(const Prefix& prefix, const std::optional<BestRoute>& best) override {
    ++changes;
    if (best)
      routes[prefix] = *best;
    else
      routes.erase(prefix);
  }
  void sweep() override { ++sweeps; }
  std::map<Prefix, BestRoute> routes;
  int changes = 0, sweeps = 0;
};

/// One engine with its sink, living in the test's loop.
class Speaker {
 public:
  Speaker(Loop& loop, int n, Options o) : loop_(loop), n_(n) {
    o.router_id = Ip::v4(0x0a000000U | static_cast<std::uint32_t>(n));
    o.source_address = own_address(n);
    if (o.listen.empty()) o.listen = {{own_address(n), kPort}};
    options_ = o;
    make();
  }
  ~Speaker() { kill(); }

  /// As kill -9: sockets close, nothing is said, no state is saved.
  void kill() {
    if (!engine_) return;
    loop_.call([&] { engine_.reset(); });
  }
  void make() {
    loop_.call([&] {
      sink = RecordingSink{};
      events.clear();
      engine_ = std::make_unique<Engine>(loop_, options_);
      engine_->set_fib_sink(&sink);
      engine_->set_event_sink([this](const PeerEvent& e) { events.push_back(e); });
      auto s = engine_->start();
      EXPECT_TRUE(s.has_value()) << (s ? "" : s.error().what);
    });
  }
  void stop(bool planned) {
    asio::co_spawn(
        loop_.io(), [this, planned]() -> awaitable<void> { co_await engine_->stop(planned); }, asio::use_future)
        .get();
    kill();
  }
  PeerConfig peer(int n) const {
    PeerConfig c;
    c.name = "p" + std::to_string(n);
    c.address = own_address(n);
    c.port = kPort;
    return c;
  }
  Status peers(std::vector<PeerConfig> list, std::vector<RangeConfig> ranges = {}) {
    return loop_.call([&] { return engine_->set_peers(std::move(list), std::move(ranges)); });
  }
  void local(std::string_view prefix, std::optional<LocalRoute> r = LocalRoute{}) {
    loop_.call([&] { engine_->set_local(pfx(prefix), r); });
  }
  void complete() {
    loop_.call([&] { engine_->local_complete(); });
  }
  std::optional<PeerStatus> status(int n) {
    return loop_.call([&]() -> std::optional<PeerStatus> {
      for (auto& p : engine_->peers())
        if (p.config.address == own_address(n)) return p;
      return std::nullopt;
    });
  }
  bool established(int n) {
    auto s = status(n);
    return s && s->state == PeerState::established;
  }
  std::optional<BestRoute> route(std::string_view prefix) {
    return loop_.call([&]() -> std::optional<BestRoute> {
      auto it = sink.routes.find(pfx(prefix));
      if (it == sink.routes.end()) return std::nullopt;
      return it->second;
    });
  }
  std::size_t route_count() {
    return loop_.call([&] { return sink.routes.size(); });
  }
  int sweeps() {
    return loop_.call([&] { return sink.sweeps; });
  }
  template <class F>
  auto in_loop(F f) {
    return loop_.call([&] { return f(*engine_); });
  }
  bool saw(PeerEvent::Kind kind, std::string_view text = "") {
    return loop_.call([&] {
      for (auto& e : events)
        if (e.kind == kind && e.text.find(text) != std::string::npos) return true;
      return false;
    });
  }
  const Options& options() const { return options_; }
  Options& options() { return options_; }
  int n() const { return n_; }

  RecordingSink sink;
  std::vector<PeerEvent> events;

 private:
  Loop& loop_;
  int n_;
  Options options_;
  std::unique_ptr<Engine> engine_;
};

class SpeakersTest : public testing::Test {
 protected:
  void SetUp() override {
    loop_.start();
    dir_ = std::filesystem::temp_directory_path() / ("calico-bgp-test-" + std::to_string(getpid()));
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override {
    speakers_.clear();
    loop_.stop();
    std::filesystem::remove_all(dir_);
  }
  Speaker& speaker(int n, Options o = {}) {
    speakers_.push_back(std::make_unique<Speaker>(loop_, n, std::move(o)));
    return *speakers_.back();
  }
  /// Own folder for the restart marker of speaker `n`.
  std::string state_dir(int n) {
    auto d = dir_ / std::to_string(n);
    std::filesystem::create_directories(d);
    return d.string();
  }
  /// Waits for `what`, at most 30 s; the name is what the test log shows if it never comes.
  template <class F>
  [[nodiscard]] bool wait_for(const char* what, F done, std::chrono::milliseconds limit = 30s) {
    const auto end = std::chrono::steady_clock::now() + limit;
    while (!done()) {
      if (std::chrono::steady_clock::now() > end) {
        ADD_FAILURE() << "did not arrive within " << limit.count() << " ms: " << what;
        return false;
      }
      std::this_thread::sleep_for(2ms);
    }
    return true;
  }
  /// True if `holds` stays true for `time`: for what must not happen.
  template <class F>
  [[nodiscard]] bool stays(F holds, std::chrono::milliseconds time) {
    const auto end = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < end) {
      if (!holds()) return false;
      std::this_thread::sleep_for(2ms);
    }
    return true;
  }

  Loop loop_{"bgp-test"};
  std::filesystem::path dir_;
  std::vector<std::unique_ptr<Speaker>> speakers_;
};

}  // namespace calico::bgp::test
