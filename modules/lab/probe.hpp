#pragma once
/// What the machines of the lab can reach: pings, TCP connections, and packets with a source that is not the sender's.
/// All attempts of a run go on at the same time, in this thread: the sockets are opened inside the machines'
/// namespaces, and from there on it does not matter where their owner lives.
///
/// An attempt that is expected to succeed ends with its first success. One that is expected to fail is repeated as long
/// as the run lasts: until every expected success is in, and at least `settle`. A run gives up after `limit`.
/// Thread: one. Owns: sockets. Errors: only what keeps a probe from being made; what was not reached is a result.
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/ip.hpp"
#include "modules/lab/os.hpp"

namespace calico::lab {

/// A machine, seen from outside.
struct Guest {
  std::string name;
  int ns = -1;
  std::optional<Ip> v4;
  std::optional<Ip> v6;
  Mac mac;
  Mac gateway;  ///< of the host's end of its cable: where every frame goes first

  const std::optional<Ip>& ip(Family f) const { return f == Family::v4 ? v4 : v6; }
};

struct Attempt {
  std::size_t from = 0;  ///< index of a guest
  std::size_t to = 0;
  Family family = Family::v4;
  bool expected = true;
  bool got = false;
  double ms = 0;  ///< from the start of the run to the first success
};

struct Matrix {
  std::string title;
  std::uint16_t port = 0;  ///< TCP; 0 = ICMP echo
  std::vector<Attempt> rows;
  bool as_expected() const;
};

struct Timing {
  Millis limit{10000};
  Millis settle{1200};
};

/// Every pair of different guests in every family both have.
std::vector<Attempt> all_pairs(const std::vector<Guest>& guests);

/// Fills `got` of all rows. A TCP attempt succeeds with the banner of the very guest meant.
[[nodiscard]] Status run_matrices(const std::vector<Guest>& guests, const std::vector<Matrix*>& matrices,
                                  Timing timing);

enum class Spoof : std::uint8_t {
  none,  ///< the control: the sender's own addresses
  ip,    ///< another machine's IP address
  mac,   ///< a MAC that is nobody's
};
struct SpoofAttempt {
  std::size_t from = 0;
  std::size_t to = 0;
  std::size_t as = 0;  ///< whose address a Spoof::ip carries
  Family family = Family::v4;
  Spoof kind = Spoof::none;
  std::uint32_t sent = 0;
  std::uint32_t arrived = 0;  ///< frames seen on the target's card
};
/// Sends TCP SYNs to port 22, which the security groups allow from anywhere: only the source can be the reason for one
/// not to arrive. Ends when every control has arrived and `settle` has passed.
[[nodiscard]] Status run_spoofs(const std::vector<Guest>& guests, std::vector<SpoofAttempt>& attempts, Timing timing);

/// A ping that does not stop: what a user would see while something is killed underneath.
/// Owns: a thread. The guest's namespace descriptor must stay open until start() has returned.
class PingStream {
 public:
  struct Result {
    std::uint32_t sent = 0;
    std::uint32_t lost = 0;
    double longest_gap_ms = 0;  ///< between two answers
    std::string to_string() const;
  };
  PingStream();
  ~PingStream();
  [[nodiscard]] Status start(const Guest& from, const Ip& to, Millis every = Millis(10));
  /// So far; an echo counts as lost when its answer is a second late.
  Result now() const;
  /// Stops sending, waits a second for what is under way.
  Result stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A whole Ethernet frame with a TCP SYN; both addresses of one family.
std::vector<std::uint8_t> syn_frame(const Mac& source_mac, const Mac& target_mac, const Ip& source, const Ip& target,
                                    std::uint16_t source_port, std::uint16_t target_port, std::uint32_t sequence);
/// The sequence number of a TCP SYN (without ACK) to `target_port` in an Ethernet frame, if it is one.
std::optional<std::uint32_t> syn_sequence(std::span<const std::uint8_t> frame, std::uint16_t target_port);

}  // namespace calico::lab
