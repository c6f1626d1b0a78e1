#pragma once
/// The key space on disk: one row a change in `kv_log`, kept until compaction, the newest rows of living keys for ever.
/// Thread: the connection's. Errors: those of Db; compacted and invalid (future revision) for reads of the past.
#include "core/store/kv_state.hpp"

namespace calico::store {

extern const Schema kKvSchema;

struct KvMeta {
  Revision revision = 1;
  Revision compacted = 0;
  std::uint64_t cluster_id = 0;
  std::uint64_t member_id = 0;
  bool frozen = false;  ///< for good: the cloud has moved to another datastore
};
/// Read, or made (random ids) in a new file.
[[nodiscard]] Result<KvMeta> load_meta(Db& db);
[[nodiscard]] Status save_revision(Db& db, Revision revision);
[[nodiscard]] Status save_frozen(Db& db, bool frozen);
/// Marks a copy of the datastore as one: `beyond` is a revision known to have been reached since (or its own).
[[nodiscard]] Status mark_backup(Db& db, Revision beyond);
/// Makes a marked copy a datastore of its own: other ids, a revision no one has seen, no history. 0 = it is not marked,
/// else the revision it held. In one transaction.
[[nodiscard]] Result<Revision> adopt_backup(Db& db);
/// How far beyond everything known the revision goes then: more writes than there can have been since the copy.
inline constexpr Revision kRestoreJump = 1000000000;

/// Calls `f` for the newest row of every living key, in key order.
[[nodiscard]] Status load_keys(Db& db, const std::function<void(KeyValue)>& f);
[[nodiscard]] Status load_leases(Db& db, const std::function<void(LeaseId, std::int64_t ttl_s)>& f);

[[nodiscard]] Status append(Db& db, Revision revision, std::size_t position, const Change& change);
/// Drops what was superseded at or before `to`; rows up to `from` were compacted before.
[[nodiscard]] Status compact_log(Db& db, Revision from, Revision to);

/// The range as it was at request.revision (> 0).
[[nodiscard]] Result<RangeResult> range_at(Db& db, const RangeRequest& request);

struct HistoryChunk {
  Revision upto = 0;       ///< all changes of the span up to here are in it (or were not asked for)
  Revision compacted = 0;  ///< not 0: `start` is gone, nothing else is set
  std::vector<ChangePtr> changes;
};
/// Whole revisions from `start` on, until about `max_bytes` are collected or the end is reached.
[[nodiscard]] Result<HistoryChunk> changes_since(Db& db, KeySpan span, Revision start, bool with_prev,
                                                 std::size_t max_bytes);

}  // namespace calico::store
