#pragma once
/// Who uses the gateway just now and how much of it each may hold: requests in work, watches, leases, bytes of requests
/// and answers in memory. A client is the name in its certificate, without one its address, without either its uid.
///
///   auto client = clients.of(request.peer);
///   auto held = client->take(Holds::watch);        // std::nullopt: at its limit
///
/// What is taken is given back when `Held` goes. Leases outlive connections: the register knows whom each was granted
/// to, as far as this process granted it; what it cannot know after a restart is decided by the keys (see gateway.cpp).
///
/// Thread: one loop. Owns: counters only. Errors: none; limits are answers.
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/base/clock.hpp"
#include "core/http/message.hpp"
#include "core/store/datastore.hpp"

namespace calico::store::etcd {

struct ClientLimits {
  std::size_t watches = 2048;
  std::size_t requests = 2048;
  std::size_t leases = 4096;
  /// One answer of any size is let through when the client has nothing else in memory, and small ones (64 KiB) always:
  /// a snapshot that is being read must not keep a lease from being kept alive.
  std::size_t bytes = 256U << 20;
};

enum class Holds : std::uint8_t { request, watch, byte };

/// What happened since the start, and is held now.
struct ClientStats {
  std::size_t clients = 0;  ///< with something held
  std::size_t requests = 0;
  std::size_t watches = 0;
  std::size_t bytes = 0;
  std::size_t leases = 0;  ///< known to the register, some of which may have ended
  std::uint64_t refused_requests = 0;
  std::uint64_t refused_watches = 0;
  std::uint64_t refused_leases = 0;
  std::uint64_t refused_bytes = 0;  ///< answers not given and watches ended, because too much waited to be read
  std::uint64_t denied = 0;         ///< no right to it
};

class Clients;

/// Some of a limit, given back at the end of its life.
class Held;

class Client : public std::enable_shared_from_this<Client> {
 public:
  Client(std::shared_ptr<Clients> all, std::string name);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  const std::string& name() const { return name_; }
  /// Counts a refusal when it does not fit.
  [[nodiscard]] std::optional<Held> take(Holds what, std::size_t amount = 1);

 private:
  friend class Held;
  std::shared_ptr<Clients> all_;
  std::string name_;
  std::array<std::size_t, 3> held_{};
};

class Held {
 public:
  Held(std::shared_ptr<Client> client, Holds what, std::size_t amount);
  Held(Held&&) noexcept = default;
  Held& operator=(Held&&) = delete;
  ~Held();

 private:
  std::shared_ptr<Client> client_;
  Holds what_;
  std::size_t amount_;
};

class Clients : public std::enable_shared_from_this<Clients> {
 public:
  explicit Clients(ClientLimits limits) : limits_(limits) {}
  [[nodiscard]] std::shared_ptr<Client> of(const http::Peer& peer);
  const ClientLimits& limits() const { return limits_; }
  ClientStats stats() const;
  void count_denied() { ++totals_.denied; }
  void count_refused_lease() { ++totals_.refused_leases; }
  /// True once a minute for each client: worth a line in the log.
  bool tell(const std::string& client);

  // The register of leases.
  void granted(LeaseId id, const std::string& client);
  void forget(LeaseId id);
  /// Whom it was granted to; nullptr = not by this process.
  const std::string* owner(LeaseId id) const;
  std::size_t leases_of(const std::string& client) const;
  /// Time to compare the register with what is there.
  bool leases_worth_pruning() const { return owners_.size() > 2 * alive_ + 4096; }
  std::vector<LeaseId> known_leases() const;
  /// Forgets those of `known` that are not in `alive`, which was asked for after `known`.
  void prune(const std::vector<LeaseId>& known, const std::vector<LeaseId>& alive);

 private:
  friend class Client;
  friend class Held;
  ClientLimits limits_;
  ClientStats totals_;
  std::unordered_map<std::string, std::weak_ptr<Client>> clients_;
  std::unordered_map<LeaseId, std::string> owners_;
  std::unordered_map<std::string, std::size_t> leases_;
  std::size_t alive_ = 0;
  std::unordered_map<std::string, TimePoint> told_;
};

/// "cn=node-1", "10.0.0.2", "uid=0".
[[nodiscard]] std::string client_name(const http::Peer& peer);

}  // namespace calico::store::etcd
