#pragma once
/// A Datastore that forwards to another one, which can be exchanged: what its users hold while the cloud's datastore
/// moves. A call that has begun ends where it began; so does a watch, whose owner drops it.
///
///   auto ds = std::make_shared<Switch>(client);
///   ds->set(other);                       // from the next call on
///
/// Thread: any. Owns: a share of the present one. Errors: unavailable while there is none.
#include <memory>
#include <mutex>

#include "core/store/datastore.hpp"

namespace calico::store {

class Switch final : public Datastore {
 public:
  explicit Switch(std::shared_ptr<Datastore> to = nullptr) : to_(std::move(to)) {}
  void set(std::shared_ptr<Datastore> to);
  std::shared_ptr<Datastore> get() const;

  [[nodiscard]] awaitable<Result<ServerStatus>> status() override;
  [[nodiscard]] awaitable<Result<RangeResult>> range(RangeRequest request) override;
  [[nodiscard]] awaitable<Result<PutResult>> put(PutRequest request) override;
  [[nodiscard]] awaitable<Result<DeleteResult>> del(DeleteRequest request) override;
  [[nodiscard]] awaitable<Result<TxnResult>> txn(TxnRequest request) override;
  [[nodiscard]] awaitable<Result<Revision>> compact(Revision revision) override;
  [[nodiscard]] awaitable<Result<LeaseInfo>> lease_grant(std::int64_t ttl_s, LeaseId id = 0) override;
  [[nodiscard]] awaitable<Result<LeaseInfo>> lease_keepalive(LeaseId id) override;
  [[nodiscard]] awaitable<Status> lease_revoke(LeaseId id) override;
  [[nodiscard]] awaitable<Result<LeaseInfo>> lease_time_to_live(LeaseId id, bool keys) override;
  [[nodiscard]] awaitable<Result<std::unique_ptr<Watch>>> watch(WatchRequest request) override;

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<Datastore> to_;
};

}  // namespace calico::store
