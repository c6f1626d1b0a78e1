#pragma once
/// The datastore as its users see it: etcd v3's operations as an abstract, asynchronous class. Two implementations: Kv
/// (the embedded one, core/store/kv.hpp) and EtcdClient (core/store/etcd/client.hpp). Tests of users run against both.
///
///   auto got = co_await ds.range({.key = "/calico/", .range_end = prefix_end("/calico/")});
///   if (!got) co_return wrap(got.error(), "list");
///
/// Thread: every method may be awaited from any loop and completes on the awaiting coroutine's executor.
/// Errors: unavailable (not reachable now), timeout, no_permission, compacted, not_found (lease), exhausted (too
/// large), invalid. Source: etcd v3 API semantics (key space, MVCC revisions, leases); values are bytes.
#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/base/error.hpp"

namespace calico::store {

using boost::asio::awaitable;
using Revision = std::int64_t;
using LeaseId = std::int64_t;

struct KeyValue {
  std::string key;
  std::string value;
  Revision create_revision = 0;
  Revision mod_revision = 0;
  std::int64_t version = 0;
  LeaseId lease = 0;
  bool operator==(const KeyValue&) const = default;
};

/// End of the range that holds every key with this prefix: the prefix with its last byte + 1 (trailing 0xff dropped);
/// "\0" (one zero byte: no end) for the empty prefix.
[[nodiscard]] std::string prefix_end(std::string_view prefix);

enum class SortTarget : std::uint8_t { key, version, create, mod, value };
enum class SortOrder : std::uint8_t { none, ascend, descend };

/// `range_end` empty = the one key; "\0" = all keys from `key` on; else [key, range_end).
struct RangeRequest {
  std::string key;
  std::string range_end;
  std::int64_t limit = 0;  ///< 0 = no limit
  Revision revision = 0;   ///< 0 = now
  SortOrder sort_order = SortOrder::none;
  SortTarget sort_target = SortTarget::key;
  bool keys_only = false;
  bool count_only = false;
  /// Keys outside are left out of the answer, not of its count; 0 = no bound.
  Revision min_mod_revision = 0;
  Revision max_mod_revision = 0;
  Revision min_create_revision = 0;
  Revision max_create_revision = 0;
  bool filtered() const {
    return min_mod_revision != 0 || max_mod_revision != 0 || min_create_revision != 0 || max_create_revision != 0;
  }
};
struct RangeResult {
  Revision revision = 0;  ///< the store's revision when answered
  std::vector<KeyValue> kvs;
  bool more = false;
  std::int64_t count = 0;  ///< keys in the range, also beyond the limit and those filtered out
};

struct PutRequest {
  std::string key;
  std::string value;
  LeaseId lease = 0;
  bool prev_kv = false;
  bool ignore_value = false;  ///< keep the value that is there; `value` is empty then. No such key: invalid
  bool ignore_lease = false;  ///< keep its lease; `lease` is 0 then. No such key: invalid
  std::string who = {};       ///< see TxnRequest::who
};
struct PutResult {
  Revision revision = 0;
  std::optional<KeyValue> prev;
};

struct DeleteRequest {
  std::string key;
  std::string range_end;
  bool prev_kv = false;
  std::string who = {};  ///< see TxnRequest::who
};
struct DeleteResult {
  Revision revision = 0;
  std::int64_t deleted = 0;
  std::vector<KeyValue> prev;
};

/// One condition of a transaction; a missing key has version, create and mod revision 0. With a `range_end` it has to
/// hold for every key there is in the range, and without any for the missing one.
struct Compare {
  enum class Target : std::uint8_t { version, create, mod, value, lease };
  enum class Op : std::uint8_t { equal, not_equal, greater, less };
  std::string key;
  Target target = Target::version;
  Op op = Op::equal;
  std::int64_t number = 0;  ///< for all targets but value
  std::string value;
  std::string range_end;
};
[[nodiscard]] inline Compare key_absent(std::string key) {
  return {std::move(key), Compare::Target::version, Compare::Op::equal, 0, {}, {}};
}
[[nodiscard]] inline Compare mod_is(std::string key, Revision r) {
  return {std::move(key), Compare::Target::mod, Compare::Op::equal, r, {}, {}};
}

using Op = std::variant<RangeRequest, PutRequest, DeleteRequest>;
using OpResult = std::variant<RangeResult, PutResult, DeleteResult>;
/// All of `success` when every compare holds, else all of `failure`, in one revision. At most 128 compares and 128
/// operations a branch (etcd's default limits); no key put twice, or put and deleted, in one branch (invalid).
struct TxnRequest {
  std::vector<Compare> compare;
  std::vector<Op> success;
  std::vector<Op> failure;
  /// Who asks, for the embedded datastore's audit log: the name in a certificate, a module ("neutron"), "operator".
  /// Empty = not said. It goes nowhere else: not to the wire, and it gives no rights.
  std::string who = {};
};
struct TxnResult {
  Revision revision = 0;
  bool succeeded = false;
  std::vector<OpResult> responses;
};

struct Event {
  enum class Type : std::uint8_t { put, del };
  Type type = Type::put;
  KeyValue kv;  ///< del: only key and mod_revision
  std::optional<KeyValue> prev;
};
struct WatchRequest {
  std::string key;
  std::string range_end;
  Revision start_revision = 0;  ///< 0 = from the next change on
  bool prev_kv = false;
  bool progress_notify = true;
};
/// Events of one or more whole revisions, in order; empty = progress: everything up to `revision` was delivered.
struct WatchBatch {
  Revision revision = 0;
  std::vector<Event> events;
};

/// An open watch. Dropping it cancels. Not for two coroutines at once.
class Watch {
 public:
  virtual ~Watch() = default;
  /// Next batch. A start in the compacted past shows here, not at watch(). Errors: compacted (compacted_at() says
  /// where), closed, unavailable, timeout (nothing, not even progress, for 30 s): reopen at the last revision + 1.
  /// After an error the watch is dead.
  [[nodiscard]] virtual awaitable<Result<WatchBatch>> next() = 0;
  virtual Revision compacted_at() const { return 0; }
};

/// A lease that is not there: keepalive and revoke answer not_found, time_to_live answers ttl_s -1.
struct LeaseInfo {
  LeaseId id = 0;
  std::int64_t ttl_s = 0;  ///< remaining (time_to_live) or granted; -1 = the lease is gone
  std::int64_t granted_ttl_s = 0;
  std::vector<std::string> keys;
};

struct ServerStatus {
  std::uint64_t cluster_id = 0;
  std::uint64_t member_id = 0;
  Revision revision = 0;
  std::int64_t raft_index = 0;  ///< entries of the log applied; every revision is one. 0 = not said
  std::string version;
  std::string endpoint;  ///< which one answered; empty = in process
};

class Datastore {
 public:
  virtual ~Datastore() = default;
  [[nodiscard]] virtual awaitable<Result<ServerStatus>> status() = 0;
  [[nodiscard]] virtual awaitable<Result<RangeResult>> range(RangeRequest request) = 0;
  [[nodiscard]] virtual awaitable<Result<PutResult>> put(PutRequest request) = 0;
  [[nodiscard]] virtual awaitable<Result<DeleteResult>> del(DeleteRequest request) = 0;
  [[nodiscard]] virtual awaitable<Result<TxnResult>> txn(TxnRequest request) = 0;
  [[nodiscard]] virtual awaitable<Result<Revision>> compact(Revision revision) = 0;
  [[nodiscard]] virtual awaitable<Result<LeaseInfo>> lease_grant(std::int64_t ttl_s, LeaseId id = 0) = 0;
  [[nodiscard]] virtual awaitable<Result<LeaseInfo>> lease_keepalive(LeaseId id) = 0;
  [[nodiscard]] virtual awaitable<Status> lease_revoke(LeaseId id) = 0;
  [[nodiscard]] virtual awaitable<Result<LeaseInfo>> lease_time_to_live(LeaseId id, bool keys) = 0;
  [[nodiscard]] virtual awaitable<Result<std::unique_ptr<Watch>>> watch(WatchRequest request) = 0;
};

}  // namespace calico::store
