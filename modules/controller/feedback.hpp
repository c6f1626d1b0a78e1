#pragma once
/// What agents report, read from the keys they write below /calico/felix/v2/<region>/host/: heartbeats become Neutron
/// agents, endpoint statuses become port statuses. Nothing of it is stored twice: a restart reads the keys again.
/// Thread: the api loop. Errors: values that do not parse count as "down", never as a crash.
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/clock.hpp"
#include "modules/controller/resources.hpp"

namespace calico::controller {

inline constexpr std::chrono::seconds kAgentDownTime{75};  ///< Neutron's agent_down_time

struct Agent {
  std::string id;  ///< made from the host's name, so that it is the same after a restart
  std::string host;
  std::int64_t heartbeat = 0;  ///< wall time, seconds
  std::int64_t started = 0;
  std::optional<TimePoint> seen;  ///< last heartbeat received; none: only known from before
};

class Feedback {
 public:
  Feedback(std::string_view region_string, const Clock& clock);

  /// The subtree to list and watch.
  const std::string& prefix() const { return prefix_; }
  /// One key's value, or its absence. Returns the port whose status this concerns, "" otherwise.
  std::string apply(std::string_view key, std::optional<std::string_view> value);
  /// Forgets everything; a complete list follows. Ends deafness.
  void reset();
  /// Nothing is heard from now on, for a reason that is not the agents' (the datastore is away): they do not age
  /// meanwhile. Before the first list every host is believed to have one.
  void deafen();

  bool alive(std::string_view host) const;
  bool alive(const Agent& agent) const;
  /// ACTIVE, DOWN or ERROR, as the agent of the port's host says; another host's report does not count.
  std::string_view status(const Port& port) const;
  const std::map<std::string, Agent, std::less<>>& agents() const { return agents_; }
  /// Everything below is one host's.
  std::string host_prefix(std::string_view host) const;

 private:
  std::string prefix_;
  const Clock& clock_;
  std::optional<TimePoint> deaf_since_;
  bool heard_ = false;                                                                            // a list, ever
  std::map<std::string, Agent, std::less<>> agents_;                                              // by host
  std::map<std::string, std::map<std::string, std::string, std::less<>>, std::less<>> statuses_;  // port → host → word
};

std::string agent_id(std::string_view host);
std::string rfc3339(std::int64_t seconds);
std::optional<std::int64_t> parse_rfc3339(std::string_view text);

}  // namespace calico::controller
