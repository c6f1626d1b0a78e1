#pragma once
/// Clients that misbehave: one thread, one epoll, sessions that can be ended in every way there is, that stop reading,
/// that come back at once; and strays, connections that send some bytes and are no sessions. What each session holds is
/// kept prefix by prefix, to be compared with a Model at the end.
///
///   Swarm swarm(model);
///   swarm.up = [&](SessionId s) { swarm.send(s, model.greeting(…)); };
///   const auto a = swarm.add({.source = client_address(0), .target = kReflector});
///   swarm.connect(a);
///   swarm.run_until([&] { return swarm.established(a); }, 30s);
///   swarm.drop(a, End::reset);
///
/// Thread: one, inside the namespace. Owns: sockets, tables. Borrowed: the model. Errors: of the reflector are counted
/// in Faults, with the first one's text; of our own set-up throw std::runtime_error.
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "tests/bench/bgp/wire.hpp"

namespace calico::soak {

using bench::Bytes;
using bench::View;
using Clock = std::chrono::steady_clock;
using SessionId = std::uint32_t;

class Model;

constexpr std::uint16_t kAs = 64512;

enum class End : std::uint8_t {
  reset,  ///< RST
  fin,    ///< FIN without a word
  cut,    ///< FIN in the middle of an UPDATE
  cease,  ///< NOTIFICATION Cease (administrative shutdown), then FIN
};

struct SessionOptions {
  std::uint32_t source = 0, target = 0;
  std::uint32_t router_id = 0;                ///< 0 = source
  std::uint32_t cluster = 0;                  ///< of the reflector; 0 = target
  std::optional<std::uint16_t> restart_time;  ///< unset: no graceful restart
  bool preserved = false;                     ///< the F bit
  bool notification = false;                  ///< the N bit (RFC 8538)
  int receive_buffer = 0;                     ///< SO_RCVBUF; 0 = the kernel's
};

/// What no reflector may do to a client.
struct Faults {
  std::uint64_t framing = 0;     ///< does not parse
  std::uint64_t attributes = 0;  ///< not those the version was announced with
  std::uint64_t unknown = 0;     ///< a prefix of ours in a version that nobody announced
  std::uint64_t older = 0;       ///< an older version after a newer one of the same client
  std::uint64_t lost = 0;        ///< an established session ended and we had not ended it
  std::string first;
  std::uint64_t total() const { return framing + attributes + unknown + older + lost; }
};

struct Totals {
  std::uint64_t announced = 0, withdrawn = 0, sessions = 0, refused = 0;
};

class Swarm {
 public:
  explicit Swarm(const Model& model);
  ~Swarm();
  Swarm(const Swarm&) = delete;
  Swarm& operator=(const Swarm&) = delete;

  SessionId add(SessionOptions options);
  SessionOptions& options(SessionId s) { return sessions_[s].options; }
  std::size_t size() const { return sessions_.size(); }

  /// From now on the session is wanted: refused, it is tried again after 100 ms.
  void connect(SessionId s);
  /// It ends now and is not wanted any more. Its table is forgotten.
  void drop(SessionId s, End how);
  void pause_reading(SessionId s, bool paused);
  void send(SessionId s, Bytes bytes);

  bool established(SessionId s) const { return sessions_[s].state == State::established; }
  bool wanted(SessionId s) const { return sessions_[s].wanted; }
  bool end_of_rib(SessionId s) const { return sessions_[s].end_of_rib; }
  bool reading(SessionId s) const { return !sessions_[s].paused; }
  std::uint32_t established() const { return established_; }
  /// The version held of a prefix, 0 = none.
  std::uint32_t holds(SessionId s, std::uint32_t prefix) const {
    const auto v = sessions_[s].table[prefix];
    return v & kGone ? 0 : v;
  }
  /// Prefixes held that are not the model's.
  std::size_t foreign(SessionId s) const { return sessions_[s].foreign.size(); }
  std::uint64_t announced(SessionId s) const { return sessions_[s].announced; }

  /// A connection that says `bytes` and closes when the other side did or `linger` is over; `reads` = takes what comes.
  void stray(std::uint32_t source, std::uint32_t target, Bytes bytes, Clock::duration linger, bool reads = true);
  std::size_t strays() const { return strays_.size(); }
  /// How many strays were connected so far.
  std::uint64_t strays_connected() const { return strays_connected_; }

  /// Handles events until `done` (asked at most every 5 ms) or the time is over (false).
  bool run_until(const std::function<bool()>& done, Clock::duration limit);
  void run_for(Clock::duration time) {
    run_until([] { return false; }, time);
  }

  std::function<void(SessionId)> up;
  /// Established sessions only; after the table was forgotten.
  std::function<void(SessionId)> down;
  std::function<void(SessionId)> ended_rib;
  /// Of the model's prefixes: what is held went from one version to another (0 = nothing).
  std::function<void(SessionId, std::uint32_t prefix, std::uint32_t before, std::uint32_t now)> changed;
  /// With one reflector a client never sees a route's past; two may disagree for a moment.
  bool check_order = true;

  const Faults& faults() const { return faults_; }
  const Totals& totals() const { return totals_; }

 private:
  static constexpr std::uint32_t kGone = 0x80000000;
  enum class State : std::uint8_t { idle, waiting, connecting, open_sent, open_confirm, established };
  struct Session {
    SessionOptions options;
    SessionId id = 0;
    int fd = -1;
    State state = State::idle;
    bool wanted = false, paused = false, end_of_rib = false;
    std::uint32_t interest = 0;
    std::deque<Bytes> out;
    std::size_t sent = 0;  // of the first
    Bytes left;            // the begun message
    Clock::time_point retry;
    std::vector<std::uint32_t> table;  // the last version seen, kGone set when it was withdrawn
    std::unordered_set<std::uint64_t> foreign;
    std::uint64_t announced = 0;
  };
  struct Stray {
    int fd = -1;
    Bytes bytes;
    std::size_t sent = 0;
    bool connected = false, reads = true;
    Clock::time_point until;
  };

  void open(Session& s);
  void close(Session& s);
  void lost(Session& s, const std::string& why);
  void fault(std::uint64_t& counter, const Session& s, const std::string& what);
  void interest(Session& s);
  void flush(Session& s);
  void connected(Session& s, std::uint32_t events);
  void readable(Session& s);
  bool message(Session& s, const std::uint8_t* m, std::size_t length);
  void update(Session& s, View body);
  void announced(Session& s, View nlri, View attributes);
  void withdrawn(Session& s, View nlri);
  std::uint32_t check(const Session& s, View attributes);
  void set(Session& s, std::uint32_t prefix, std::uint32_t version);
  void timers(Clock::time_point now);
  void stray_event(std::uint32_t key, std::uint32_t events);

  const Model& model_;
  int epoll_ = -1;
  std::deque<Session> sessions_;
  std::unordered_map<std::uint32_t, Stray> strays_;
  std::uint32_t next_stray_ = 0;
  std::uint64_t strays_connected_ = 0;
  Bytes buffer_;
  std::uint32_t established_ = 0;
  Clock::time_point next_keepalive_, next_timer_;
  Faults faults_;
  Totals totals_;
};

/// OPEN as Calico's nodes send it: IPv4, four-octet AS, route refresh, graceful restart as the options say.
Bytes open_message(const SessionOptions& options);

}  // namespace calico::soak
