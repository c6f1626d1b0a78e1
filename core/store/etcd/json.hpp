#pragma once
/// etcd v3's JSON gateway form, the server's half: request bodies to requests, results to answer bodies. Pure
/// functions. The rules are proto3's JSON mapping as etcd 3.4 applies it: bytes are standard base64, 64-bit numbers are
/// written as strings and read as number or string, fields with their default are left out, unknown fields are ignored,
/// names are read in snake_case and camelCase.
///
/// Thread: any. Errors: a Fault, which has everything of the error answer (status, grpc code, text).
#include <string>
#include <string_view>

#include "core/store/datastore.hpp"
#include "core/store/kv.hpp"

namespace calico::store::etcd {

// grpc's codes, with the HTTP status etcd 3.4's gateway gives each.
inline constexpr int kInvalidArgument = 3;     // 400
inline constexpr int kDeadlineExceeded = 4;    // 504
inline constexpr int kNotFound = 5;            // 404
inline constexpr int kPermissionDenied = 7;    // 403
inline constexpr int kResourceExhausted = 8;   // 429
inline constexpr int kFailedPrecondition = 9;  // 412
inline constexpr int kOutOfRange = 11;         // 400
inline constexpr int kUnimplemented = 12;      // 501
inline constexpr int kInternal = 13;           // 500
inline constexpr int kUnavailable = 14;        // 503

/// An answer of failure: {"error", "message", "code"} with a grpc code and the HTTP status etcd gives it.
struct Fault {
  unsigned http = 500;
  int code = 13;
  std::string message;
};
template <class T>
using Parsed = tl::expected<T, Fault>;

[[nodiscard]] Fault fault_of(const Error& e);
/// 501, "… is not served by the embedded datastore: use etcd".
[[nodiscard]] Fault unserved_fault(std::string_view what);
[[nodiscard]] std::string to_json(const Fault& fault);

/// Who answers, for the header of every answer.
struct Identity {
  std::uint64_t cluster_id = 0;
  std::uint64_t member_id = 0;
};

[[nodiscard]] Parsed<RangeRequest> parse_range(std::string_view body);
[[nodiscard]] Parsed<PutRequest> parse_put(std::string_view body);
[[nodiscard]] Parsed<DeleteRequest> parse_delete(std::string_view body);
[[nodiscard]] Parsed<TxnRequest> parse_txn(std::string_view body);
[[nodiscard]] Parsed<Revision> parse_compaction(std::string_view body);
struct LeaseCall {
  LeaseId id = 0;
  std::int64_t ttl_s = 0;
  bool keys = false;
};
[[nodiscard]] Parsed<LeaseCall> parse_lease(std::string_view body);
/// Bodies of calls without fields of ours: must be an object or empty.
[[nodiscard]] Parsed<bool> parse_nothing(std::string_view body);
/// The fields that auth/*, cluster/* and maintenance/* calls have between them.
struct AdminCall {
  enum class Action : std::uint8_t { get, activate, deactivate };
  std::string name;
  std::int64_t id = 0;
  Action action = Action::get;
};
[[nodiscard]] Parsed<AdminCall> parse_admin(std::string_view body);
struct WatchCall {
  WatchRequest request;
  std::int64_t watch_id = 0;
  bool no_put = false;
  bool no_delete = false;
};
[[nodiscard]] Parsed<WatchCall> parse_watch(std::string_view body);

[[nodiscard]] std::string to_json(const Identity& id, const RangeResult& r);
[[nodiscard]] std::string to_json(const Identity& id, const PutResult& r);
[[nodiscard]] std::string to_json(const Identity& id, const DeleteResult& r);
[[nodiscard]] std::string to_json(const Identity& id, const TxnResult& r);
/// {"header": …} alone.
[[nodiscard]] std::string header_json(const Identity& id, Revision revision);
[[nodiscard]] std::string grant_json(const Identity& id, Revision revision, const LeaseInfo& lease);
/// One line of the keepalive stream; ttl_s <= 0 = the lease is gone.
[[nodiscard]] std::string keepalive_json(const Identity& id, Revision revision, const LeaseInfo& lease);
[[nodiscard]] std::string time_to_live_json(const Identity& id, Revision revision, const LeaseInfo& lease);
[[nodiscard]] std::string leases_json(const Identity& id, Revision revision, const std::vector<LeaseId>& leases);
[[nodiscard]] std::string status_json(const Identity& id, const ServerStatus& s, std::uint64_t file_bytes);

// Lines of a watch, each ending in a newline.
[[nodiscard]] std::string created_line(const Identity& id, Revision revision, std::int64_t watch_id);
/// A watch that could not be made.
[[nodiscard]] std::string refused_line(const Identity& id, Revision revision, std::string_view reason);
[[nodiscard]] std::string compacted_line(const Identity& id, std::int64_t watch_id, Revision compacted);
[[nodiscard]] std::string progress_line(const Identity& id, Revision revision, std::int64_t watch_id);
/// The batch as one or more lines of about a megabyte at most, cut between revisions. Each line's header has the
/// revision up to which everything was told with it. An event is encoded by the first watcher that needs it.
[[nodiscard]] std::vector<std::string> event_lines(const Identity& id, const WatchCall& call, const SharedBatch& batch);

}  // namespace calico::store::etcd
