#pragma once
/// Connections follow addresses and policy: entries of the kernel's connection table are deleted when an address leaves
/// an interface, and (cut_flows) when a change of policy no longer allows them.
///
///   flows.forget(addresses);           // told back by Hooks::forgotten, at the latest after 30 s
///   flows.staged(delta, all);          // before a change is written
///   flows.applied();                   // after the kernel's answer: now what it forbids may go
///
/// One walk of the table at a time serves all that waits. Addresses begin a walk at once; policy waits for four times
/// the length of the last walk, at least 0.2 s, so that a storm of changes costs a fifth of a core at most. A failure
/// is told, and tried again after 0.2 to 5 s.
///
/// A TCP connection whose entry is gone is made anew by the next packet of either side. The side policy refuses is
/// refused; the other one's packets are, before the entry goes, put among those the firewall keeps out
/// (Hooks::keep_out), unless they open a connection.
///
/// Thread: loop; destroyed when that has ended. Owns: its sockets, the loop that reads the table. Errors of open():
/// no_permission, unavailable.
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/base/clock.hpp"
#include "core/conntrack/table.hpp"
#include "core/loop/loop.hpp"
#include "core/loop/task_group.hpp"
#include "modules/felix/flow_policy.hpp"

namespace calico::felix {

class Flows {
 public:
  struct Hooks {
    std::function<const model::Ruleset&()> ruleset;
    std::function<bool(const Ip&)> is_local;
    std::function<void(const std::set<Ip>&)> forgotten;  ///< the table has nothing of them, or it was given up
    std::function<void(const std::vector<conntrack::Tuple>&)> keep_out;
  };
  struct Counts {
    std::uint64_t walks = 0;
    std::uint64_t seen = 0;
    std::uint64_t forgotten = 0;  ///< entries deleted because of their address
    std::uint64_t cut = 0;        ///< because of policy
    std::uint64_t failures = 0;
    std::string last_failure;
  };

  ~Flows();
  Flows(const Flows&) = delete;
  Flows& operator=(const Flows&) = delete;
  Flows(conntrack::Table table, boost::asio::any_io_executor executor, TaskGroup& tasks, Hooks hooks);

  void configure(bool cut) { cut_ = cut; }
  void forget(const std::set<Ip>& addresses);
  /// `everything`: no delta speaks about the former state; every endpoint is looked at.
  void staged(const model::RulesetDelta& delta, bool everything);
  void applied();
  const Counts& counts() const { return counts_; }

 private:
  static constexpr Duration kPatience = std::chrono::seconds(30);
  void kick();
  awaitable<void> run();
  awaitable<void> walk();
  void choose(const std::vector<conntrack::Entry>& batch, std::vector<conntrack::Entry>& out,
              const std::map<Ip, TimePoint>& addresses, FlowPolicy* policy);
  void failed(const Error& e, std::map<Ip, TimePoint> addresses, PolicyChange change);

  conntrack::Table table_;
  Loop reader_{"felix-flows"};  // of the table; a walk ends before it does
  TaskGroup& tasks_;
  Hooks hooks_;
  boost::asio::steady_timer wake_;
  std::map<Ip, TimePoint> addresses_;  // wait for a walk, since when
  PolicyChange staged_, change_;
  std::unordered_map<std::string, std::uint32_t> classes_;  // as of the last staged()
  TimePoint not_before_{};                                  // of a walk for policy alone
  TimePoint retry_at_{};
  Duration retry_after_{};
  Counts counts_;
  bool cut_ = true;
  bool running_ = false;
};

}  // namespace calico::felix
