#pragma once
/// The process' datastore: embedded and served to the other nodes (role controller without endpoints), or a client of a
/// remote one. Over TLS with a CA whose key is here it also lets nodes join (core/membership); as a client whose
/// certificate came from `join` it renews that. After `store move` it is both: the embedded one, read-only, is served
/// to nodes that come late, and the cloud's is the one its pointer names (core/move).
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/config/config.hpp"
#include "core/loop/loop.hpp"
#include "core/model/datastore_pointer.hpp"
#include "core/store/datastore.hpp"

namespace calico::store {
class EtcdClient;
class Kv;
}  // namespace calico::store
namespace calico::membership {
class Authority;
}

namespace calico::node {

class StoreKeeper;

/// Thread: main. Owns: the Kv, its keeper, its gateway and their loop; or the client and its loop.
class Datastore {
 public:
  /// Errors: invalid (no endpoints and no controller here; bad files), exists (address in use), those of Kv::open.
  [[nodiscard]] static Result<std::unique_ptr<Datastore>> open(const config::Config& config, bool controller,
                                                               const std::string& state_dir);
  ~Datastore();
  Datastore(const Datastore&) = delete;
  Datastore& operator=(const Datastore&) = delete;

  std::shared_ptr<store::Datastore> shared();
  /// The embedded datastore when it is the cloud's; nullptr when that is somewhere else.
  store::Kv* kv();
  /// The embedded datastore of this host, also one the cloud has left; nullptr: none is here.
  store::Kv* embedded();
  StoreKeeper* keeper();  ///< of embedded()
  /// nullptr: no node can join here, for the reason no_join() gives. Used in loop().
  membership::Authority* authority();
  const std::string& no_join() const;
  Loop& loop();

  /// Another client, with this host's files, user and password. Errors: invalid (no endpoint of that form), those of
  /// EtcdClient::create.
  [[nodiscard]] Result<std::shared_ptr<store::EtcdClient>> client_of(const std::vector<std::string>& endpoints);
  /// shared() goes to where the pointer leads; false: it is there. Errors: invalid (its endpoints), those of
  /// EtcdClient::create; nothing is changed then.
  [[nodiscard]] awaitable<Result<bool>> follow(model::DatastorePointer pointer);
  /// Whether this host can log in where the pointer leads, and read there.
  [[nodiscard]] awaitable<Status> probe(model::DatastorePointer pointer);
  /// Called in loop(), once, when the process must start anew to take the part it has now: the embedded datastore is
  /// the cloud's again, found by a start that came into the middle of a move.
  void on_restart_needed(std::function<void()> f);
  /// Where the embedded datastore is served, with names others can use.
  std::vector<std::string> urls() const;
  /// Where nodes connect, with TLS.
  std::vector<std::string> join_urls() const;

 private:
  struct Impl;
  explicit Datastore(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace calico::node
