#pragma once
/// What the clients of a reflector announce, and so what each of them must hold. Every batch of announcements is a
/// version of its own, carried in a community: a route that is held tells who announced it when.
///
///   Model model(clients, prefixes);
///   swarm.send(s, model.announce(client, ids));
///   model.set_present(client, false);                 // its session is gone, and its routes must be
///   EXPECT_EQ(model.difference(swarm, s, viewer), "");
///
/// Of several clients with one prefix the lowest identifier wins (RFC 4271 9.1.2.2 f): all else is equal.
/// Thread: one. Owns: values only. Errors: none.
#include <map>
#include <string>

#include "tests/soak/bgp/swarm.hpp"

namespace calico::soak {

/// 10.66.1.1 … : client i; of the reflectors' range 10.66.0.0/16.
constexpr std::uint32_t client_address(std::uint32_t i) { return 0x0a420000U + ((1 + i / 250) << 8U) + 1 + i % 250; }
constexpr std::uint32_t kReflector = 0x0a420001, kReflector2 = 0x0a420002;  // 10.66.0.1, 10.66.0.2

class Model {
 public:
  Model(std::uint32_t clients, std::uint32_t prefixes);

  std::uint32_t clients() const { return static_cast<std::uint32_t>(sets_.size()); }
  std::uint32_t prefixes() const { return prefixes_; }
  static bench::Nlri nlri(std::uint32_t prefix) { return bench::nlri4(kFirst + prefix, 32); }
  /// The number of a /32 of ours, prefixes() when it is none.
  std::uint32_t prefix_of(std::uint32_t address) const { return std::min(address - kFirst, prefixes_); }

  /// The client has these prefixes from now on, in a new version; the UPDATEs that say so.
  Bytes announce(std::uint32_t client, const std::vector<std::uint32_t>& prefixes);
  Bytes withdraw(std::uint32_t client, const std::vector<std::uint32_t>& prefixes);
  /// All it has, in the versions it has or in a new one, then End-of-RIB.
  Bytes greeting(std::uint32_t client, bool fresh);
  bool has(std::uint32_t client, std::uint32_t prefix) const { return sets_[client].contains(prefix); }
  std::size_t count(std::uint32_t client) const { return sets_[client].size(); }

  /// Whether the client's routes are to be seen.
  void set_present(std::uint32_t client, bool present);

  /// Who announced a version; clients() when nobody did.
  std::uint32_t owner(std::uint32_t version) const { return version < owners_.size() ? owners_[version] : clients(); }
  static Bytes attributes(std::uint32_t client, std::uint32_t version);
  static constexpr std::uint32_t kCommunity = 0x10000000;

  /// What `viewer` (clients() = somebody who announces nothing) must hold of a prefix, 0 = nothing.
  std::uint32_t expected(std::uint32_t viewer, std::uint32_t prefix) const;
  /// Empty, or the first difference between this and what the session holds, and how many there are.
  std::string difference(const Swarm& swarm, SessionId session, std::uint32_t viewer) const;
  /// Prefixes that somebody who is present has.
  std::uint32_t alive() const;

 private:
  static constexpr std::uint32_t kFirst = 0x0a800000;  // 10.128.0.0

  std::uint32_t prefixes_;
  std::vector<std::map<std::uint32_t, std::uint32_t>> sets_;  // prefix -> version
  std::vector<char> present_;
  std::vector<std::uint32_t> owners_;                          // by version; 0 is none
  std::vector<std::map<std::uint32_t, std::uint32_t>> paths_;  // by prefix: client -> version, those present
};

/// Waits until all of them hold what they must; looks first where it was wrong the last time. What is still wrong.
struct Viewer {
  SessionId session;
  std::uint32_t client;
};
std::string settle(Swarm& swarm, const Model& model, const std::vector<Viewer>& viewers, Clock::duration limit);

}  // namespace calico::soak
