#pragma once
/// etcd v3's JSON gateway form, the client's half: requests to bodies, answers to results. Pure functions. Rules are
/// proto3's JSON mapping: bytes in base64, 64-bit numbers as strings (read as numbers too), fields with their default
/// left out. An answer is hostile input: whatever does not fit is Errc::invalid, never a crash.
///
/// Thread: any. Errors: invalid (not what was asked for), and for refuse() what the server said.
#include <string>
#include <string_view>

#include "core/store/datastore.hpp"

namespace calico::store::etcd {

[[nodiscard]] std::string encode(const RangeRequest& r);
[[nodiscard]] std::string encode(const PutRequest& r);
[[nodiscard]] std::string encode(const DeleteRequest& r);
[[nodiscard]] std::string encode(const TxnRequest& r);
[[nodiscard]] std::string encode(const WatchRequest& r);
[[nodiscard]] std::string encode_compact(Revision revision);
[[nodiscard]] std::string encode_grant(std::int64_t ttl_s, LeaseId id);
[[nodiscard]] std::string encode_lease(LeaseId id);
[[nodiscard]] std::string encode_time_to_live(LeaseId id, bool keys);
/// Secret.
[[nodiscard]] std::string encode_login(std::string_view name, std::string_view password);

[[nodiscard]] Result<RangeResult> decode_range(std::string_view body);
[[nodiscard]] Result<PutResult> decode_put(std::string_view body);
[[nodiscard]] Result<DeleteResult> decode_delete(std::string_view body);
/// `request` tells which answers belong there.
[[nodiscard]] Result<TxnResult> decode_txn(std::string_view body, const TxnRequest& request);
[[nodiscard]] Result<Revision> decode_header(std::string_view body);
[[nodiscard]] Result<LeaseInfo> decode_grant(std::string_view body);
/// Errors: not_found when the lease is gone.
[[nodiscard]] Result<LeaseInfo> decode_keepalive(std::string_view body);
[[nodiscard]] Result<LeaseInfo> decode_time_to_live(std::string_view body);
[[nodiscard]] Result<ServerStatus> decode_status(std::string_view body);
/// The token, a secret.
[[nodiscard]] Result<std::string> decode_login(std::string_view body);

/// One line of a watch.
struct WatchLine {
  bool created = false;
  bool canceled = false;
  Revision compacted_at = 0;  ///< with canceled: the history asked for is gone below this
  std::string reason;         ///< with canceled
  WatchBatch batch;
};
[[nodiscard]] Result<WatchLine> decode_watch_line(std::string_view line);

/// What a refusal means to us.
struct Refusal {
  Error error;
  bool log_in = false;     ///< a new token may help
  bool elsewhere = false;  ///< another endpoint may answer
  bool not_done = false;   ///< with elsewhere: refused before anything was tried, so a write may be sent again
  bool no_rights = false;  ///< who asks is known and may not
};
/// Of an HTTP answer that is not 200.
[[nodiscard]] Refusal decode_refusal(unsigned status, std::string_view body);
/// Of a grpc code and its text (also from a canceled watch: "rpc error: code = Unauthenticated desc = …").
[[nodiscard]] Refusal refusal_of(int grpc_code, std::string_view message);
[[nodiscard]] Refusal refusal_of_reason(std::string_view reason);

}  // namespace calico::store::etcd
