#pragma once
/// Packets that are judged by the rules every time, to ports which the one, the other, none or both of two states
/// allow.
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "tests/netns/felix/bench.hpp"

namespace calico::test {

/// An allow rule for a UDP port.
inline std::string udp(int port) {
  return fmt::format(R"({{"action":"Allow","protocol":17,"destination":{{"ports":[{}]}}}})", port);
}

/// UDP from one VM to four ports of another, without an answer, so that each packet is a new connection's: what is not
/// answered is judged by the rules every time.
struct Flood {
  static constexpr std::uint16_t kFirst = 7080;   ///< only A allows it
  static constexpr std::uint16_t kSecond = 7081;  ///< only B does
  static constexpr std::uint16_t kNever = 7082;   ///< neither
  static constexpr std::uint16_t kAlways = 7083;  ///< both

  Flood(const Vm& from, const Vm& to) {
    for (const auto port : {kFirst, kSecond, kNever, kAlways}) sinks.push_back(sink(to, port));
    sending = std::thread([this, &from, &to] {
      Sock s(from.ns, SOCK_DGRAM);
      s.bind(from.ip, 0);
      while (!stop) {
        for (const auto port : {kFirst, kSecond, kNever, kAlways}) s.send("x", to.ip, port);
        ++rounds;
        // The receivers keep up: a packet their queues drop would look like one the rules refused.
        for (std::size_t i = 0; i < sinks.size(); ++i) drain(i, rounds % 64 == 0 && i == 3);
      }
    });
  }
  ~Flood() { end(); }
  void end() {
    stop = true;
    if (sending.joinable()) sending.join();
    for (std::size_t i = 0; i < sinks.size(); ++i)
      while (!sinks[i].receive(200).empty()) ++arrived[i];
  }
  static Sock sink(const Vm& to, std::uint16_t port) {
    Sock s(to.ns, SOCK_DGRAM);
    s.bind("0.0.0.0", port);
    return s;
  }
  void drain(std::size_t i, bool wait) {
    while (!sinks[i].receive(wait ? 1 : 0).empty()) ++arrived[i];
  }

  std::vector<Sock> sinks;
  std::atomic<bool> stop = false;
  std::atomic<long> rounds = 0;
  long arrived[4] = {};
  std::thread sending;
};

}  // namespace calico::test
