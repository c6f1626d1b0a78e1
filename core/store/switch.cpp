#include "core/store/switch.hpp"

namespace calico::store {
namespace {

tl::unexpected<Error> away() { return fail(Errc::unavailable, "there is no datastore now"); }

}  // namespace

void Switch::set(std::shared_ptr<Datastore> to) {
  std::lock_guard lock(mutex_);
  to_.swap(to);
}

std::shared_ptr<Datastore> Switch::get() const {
  std::lock_guard lock(mutex_);
  return to_;
}

awaitable<Result<ServerStatus>> Switch::status() {
  auto to = get();
  if (!to) co_return away();
  co_return co_await to->status();
}

awaitable<Result<RangeResult>> Switch::range(RangeRequest request) {
  auto to = get();
  if (!to) co_return away();
  co_return co_await to->range(std::move(request));
}

awaitable<Result<PutResult>> Switch::put(PutRequest request) {
  auto to = get();
  if (!to) co_return away();
  co_return co_await to->put(std::move(request));
}

awaitable<Result<DeleteResult>> Switch::del(DeleteRequest request) {
  auto to = get();
  if (!to) co_return away();
  co_return co_await to->del(std::move(request));
}

awaitable<Result<TxnResult>> Switch::txn(TxnRequest request) {
  auto to = get();
  if (!to) co_return away();
  co_return co_await to->txn(std::move(request));
}

awaitable<Result<Revision>> Switch::compact(Revision revision) {
  auto to = get();
  if (!to) co_return away();
  co_return co_await to->compact(revision);
}

awaitable<Result<LeaseInfo>> Switch::lease_grant(std::int64_t ttl_s, LeaseId id) {
  auto to = get();
  if (!to) co_return away();
  co_return co_await to->lease_grant(ttl_s, id);
}

awaitable<Result<LeaseInfo>> Switch::lease_keepalive(LeaseId id) {
  auto to = get();
  if (!to) co_return away();
  co_return co_await to->lease_keepalive(id);
}

awaitable<Status> Switch::lease_revoke(LeaseId id) {
  auto to = get();
  if (!to) co_return away();
  co_return co_await to->lease_revoke(id);
}

awaitable<Result<LeaseInfo>> Switch::lease_time_to_live(LeaseId id, bool keys) {
  auto to = get();
  if (!to) co_return away();
  co_return co_await to->lease_time_to_live(id, keys);
}

awaitable<Result<std::unique_ptr<Watch>>> Switch::watch(WatchRequest request) {
  auto to = get();
  if (!to) co_return away();
  co_return co_await to->watch(std::move(request));
}

}  // namespace calico::store
