#pragma once
/// The clients of a reflector: one thread, one epoll, non-blocking sockets bound to an address each. Everything sent
/// was built before; everything received is checked, prefix by prefix, against the workload.
///
///   Generator g(workload);
///   g.add(c.counted); g.connect(0); …
///   g.run_until([&] { return g.established() == n; }, 60s);
///   g.send(0, workload.announce(0));
///   g.run_until([&] { return g.all_hold_all(); }, 60s);
///
/// Thread: one. Owns: sockets, what each client holds. Borrowed: the workload and every View given to send().
/// Errors: of the reflector are counted in Faults with the first one's text; of our own set-up throw.
#include <chrono>
#include <deque>
#include <functional>

#include "tests/bench/bgp/workload.hpp"

namespace calico::bench {

using Clock = std::chrono::steady_clock;

/// What no reflector may do. Own routes sent back, duplicates and withdrawals of what was not held are legal: Totals.
struct Faults {
  std::uint64_t framing = 0;     ///< marker, length, type, a message that does not parse
  std::uint64_t attributes = 0;  ///< not those the prefix was announced with
  std::uint64_t next_hop = 0;    ///< changed
  std::uint64_t originator = 0;  ///< ORIGINATOR_ID missing or not the sender
  std::uint64_t cluster = 0;     ///< CLUSTER_LIST missing or not the reflector alone
  std::uint64_t prefixes = 0;    ///< nobody announced it, or it came with another's attributes
  std::uint64_t sessions = 0;    ///< lost after they were up, or ended by NOTIFICATION
  std::string first;
  std::uint64_t total() const { return framing + attributes + next_hop + originator + cluster + prefixes + sessions; }
};

struct Totals {
  std::uint64_t updates = 0, bytes = 0;
  std::uint64_t announced = 0, withdrawn = 0;  ///< changes of what is held
  std::uint64_t duplicates = 0;                ///< announced again while held
  std::uint64_t spurious = 0;                  ///< withdrawn while not held
  std::uint64_t own_back = 0;                  ///< the client's own routes
  std::uint64_t med_added = 0;                 ///< messages with a MED of 0 where none was sent
  Totals& operator+=(const Totals& o);
  Totals operator-(const Totals& o) const;
};

class Generator {
 public:
  explicit Generator(const Workload& workload);
  ~Generator();
  Generator(const Generator&) = delete;
  Generator& operator=(const Generator&) = delete;

  /// One more client, number size() - 1. Counted ones make up totals() and must hold all in all_hold_all().
  void add(bool counted);
  std::size_t size() const { return peers_.size(); }
  /// Begins to connect; `greeting` is sent whenever the session comes up. A client whose connection is refused, reset
  /// or ended before it is established tries again after 100 ms, and so does one
  /// that has heard nothing for 5 s (a listener whose queue was full leaves connections half open).
  void connect(std::uint32_t client, std::vector<View> greeting);
  /// In order, what the socket does not take now waits.
  void send(std::uint32_t client, View bytes);
  /// NOTIFICATION Cease (administrative shutdown), then the connection is closed.
  void cease(std::uint32_t client);

  /// Handles events until `done` or the time is over (false) or the run is interrupted. `spin` does not sleep in
  /// between, so that what is measured is not our own wake-up.
  bool run_until(const std::function<bool()>& done, std::chrono::duration<double> limit, bool spin = false);
  void run_for(std::chrono::duration<double> time) {
    run_until([] { return false; }, time);
  }

  std::uint32_t established() const { return established_; }
  bool established(std::uint32_t client) const { return peers_[client].state == State::established; }
  bool end_of_rib(std::uint32_t client) const { return peers_[client].end_of_rib; }
  std::uint32_t held(std::uint32_t client) const { return peers_[client].held; }
  bool holds(std::uint32_t client, std::uint32_t id) const { return peers_[client].bits[id / 64] >> id % 64 & 1; }
  bool counted(std::uint32_t client) const { return peers_[client].counted; }
  bool all_hold_all() const;
  bool nobody_holds_any() const;
  /// "x of y routes, client n has z of w": what run_until() did not see.
  std::string missing() const;

  /// From now on the moment each counted client other than `owner` first holds `id` is noted.
  void watch(std::uint32_t id, std::uint32_t owner);
  std::uint32_t watch_missing() const { return watch_missing_; }
  const std::vector<Clock::time_point>& watch_seen() const { return watch_seen_; }

  Totals totals() const;
  const Faults& faults() const { return faults_; }
  std::uint64_t reconnects() const { return reconnects_; }

  /// Set by a signal handler; run_until() then ends.
  static volatile int interrupted;

 private:
  enum class State : std::uint8_t { idle, waiting, connecting, open_sent, open_confirm, established, closing };
  struct Peer {
    std::uint32_t index = 0;
    int fd = -1;
    State state = State::idle;
    bool counted = false, end_of_rib = false, wants_write = false;
    std::uint32_t held = 0;
    std::vector<std::uint64_t> bits;
    std::deque<View> out;
    std::vector<View> greeting;
    Bytes left;  // the begun message
    Clock::time_point retry, give_up;
    Totals totals;
  };

  void open(Peer& p);
  void close(Peer& p, bool again);
  void fail(Peer& p, const std::string& why);
  void fault(std::uint64_t& counter, const Peer& p, const std::string& what);
  void flush(Peer& p);
  void want_write(Peer& p, bool yes);
  void readable(Peer& p);
  bool message(Peer& p, const std::uint8_t* m, std::size_t length);
  template <Shape S>
  void update(Peer& p, const std::uint8_t* at, const std::uint8_t* end);
  template <Shape S>
  void announced(Peer& p, const std::uint8_t* at, const std::uint8_t* end, std::uint32_t set);
  template <Shape S>
  void withdrawn(Peer& p, const std::uint8_t* at, const std::uint8_t* end);
  void check(Peer& p, std::uint32_t set, View attributes);
  void timers(Clock::time_point now);

  const Workload& workload_;
  int epoll_ = -1;
  std::deque<Peer> peers_;
  Bytes buffer_;
  Bytes keepalive_, cease_, open_;
  std::uint32_t established_ = 0;
  Clock::time_point next_keepalive_, next_timer_;
  std::uint32_t watch_ = Workload::kNone, watch_owner_ = 0, watch_missing_ = 0;
  std::vector<Clock::time_point> watch_seen_;
  Faults faults_;
  std::uint64_t reconnects_ = 0;
};

}  // namespace calico::bench
