#pragma once
/// The kernel's connection table of one network namespace: walked entry by entry, entries deleted.
///
///   auto t = Table::open();
///   const Doomed doomed = [&](const auto& batch, auto& out) { for (auto& e : batch) if (...) out.push_back(e); };
///   Result<Pass> p = co_await t->sweep(reader.executor(), doomed, 30s);
///
/// sweep() is one walk over all of both families, one datagram (about 200 entries) at a time: read on `reader`, another
/// loop, because the kernel passes over empty parts of its hash table within one call (12 ms for 262,144 buckets);
/// then, on the caller's loop, asked which of them are to go, and those deleted. Memory is bounded and no turn of the
/// caller's loop is long, whatever the table holds. An entry that is made while the walk goes on may be met or not; one
/// that was there before is met, unless the kernel enlarges its table in between (then some may be missed: a caller
/// that must be sure walks again).
///
/// Thread: the loop that awaits; one sweep at a time; `reader` runs until it has ended. Namespace: that of the thread
/// that called open(). Owns: two sockets (a dump in progress and requests with acks do not mix). Errors: no_permission,
/// unsupported (the kernel has no ctnetlink), timeout (the limit passed), exhausted.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "core/base/clock.hpp"
#include "core/base/error.hpp"
#include "core/conntrack/entry.hpp"
#include "core/loop/loop.hpp"
#include "core/netlink/socket.hpp"

namespace calico::conntrack {

/// What a sweep did.
struct Pass {
  std::size_t seen = 0;
  std::size_t deleted = 0;
  std::size_t unread = 0;   ///< messages that could not be understood
  std::size_t refused = 0;  ///< deletions the kernel refused (not counting entries that were gone)
};

/// Appends to `out` the entries of `batch` that are to be deleted.
using Doomed = std::function<void(const std::vector<Entry>& batch, std::vector<Entry>& out)>;

class Table {
 public:
  [[nodiscard]] static Result<Table> open();

  [[nodiscard]] awaitable<Result<Pass>> sweep(boost::asio::any_io_executor reader, const Doomed& doomed,
                                              Duration limit);
  /// Deletes these now. Entries that are gone are no error.
  [[nodiscard]] Status remove(const std::vector<Entry>& entries, Pass& pass);

 private:
  Table(netlink::Socket dump, netlink::Socket requests) : dump_(std::move(dump)), requests_(std::move(requests)) {}
  [[nodiscard]] Status remove_some(const Entry* first, std::size_t count, Pass& pass);
  /// One datagram of the walk, which is begun when none is under way; true at its end. Errors: busy: nothing there yet.
  [[nodiscard]] Result<bool> read_some(std::vector<Entry>* batch, Pass& pass);

  netlink::Socket dump_;
  netlink::Socket requests_;
  netlink::Bytes buffer_;
  netlink::Bytes acks_;
  std::uint32_t seq_ = 0;
  std::uint32_t request_seq_ = 0;
  bool unfinished_ = false;  // the kernel is in the middle of walk seq_
};

}  // namespace calico::conntrack
