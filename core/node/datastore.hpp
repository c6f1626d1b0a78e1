#pragma once
/// The process' datastore: embedded and served to the other nodes (role controller without endpoints), or a client of a
/// remote one. Over TLS with a CA whose key is here it also lets nodes join (core/membership); as a client whose
/// certificate came from `join` it renews that.
#include <chrono>
#include <memory>
#include <string>

#include "core/config/config.hpp"
#include "core/loop/loop.hpp"
#include "core/store/datastore.hpp"

namespace calico::store {
class Kv;
}
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
  store::Kv* kv();        ///< nullptr when remote
  StoreKeeper* keeper();  ///< nullptr when remote
  /// nullptr: no node can join here, for the reason no_join() gives. Used in loop().
  membership::Authority* authority();
  const std::string& no_join() const;
  Loop& loop();
  /// Where nodes connect, with TLS.
  std::vector<std::string> join_urls() const;

 private:
  struct Impl;
  explicit Datastore(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace calico::node
