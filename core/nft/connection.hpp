#pragma once
/// The kernel's nf_tables: commits batches, reads back what is there, tells what others change.
///
///   auto nft = Connection::open();
///   Batch b; ...
///   if (auto done = nft->commit(b); !done) log(done.error().error.what);
///
/// commit() is one transaction: everything or nothing. Each fault names its operation, the errno, the kernel's text,
/// and for elements which one. Calls are synchronous: the kernel does the work inside sendmsg() (see
/// core/netlink/README.md). Thread: one at a time. Namespace: that of the thread that called open(). A table with
/// `owner` belongs to this socket: only this Connection can change it, so one Connection writes it for the life of the
/// process. Owns: its socket.
#include <boost/asio/any_io_executor.hpp>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/base/error.hpp"
#include "core/netlink/event_reader.hpp"
#include "core/netlink/socket.hpp"
#include "core/nft/batch.hpp"

namespace calico::nft {

struct Fault {
  std::size_t op;    ///< number of the operation in the batch; Batch::size() = the transaction as a whole
  int error;         ///< errno
  std::string what;  ///< one line
  std::optional<std::size_t> element;  ///< which of the operation's elements, when the kernel told
};

struct CommitError {
  Error error;                ///< the first fault, and how many more there are
  std::vector<Fault> faults;  ///< empty when the conversation itself failed (then the outcome is unknown: read back)
};

// ---- what is there, as read back ----
struct TableInfo {
  Table table;
  std::uint64_t handle = 0;
  std::uint32_t uses = 0;        ///< objects in it
  std::uint32_t owner_port = 0;  ///< netlink port of the owner; 0 = none
};
struct ChainInfo {
  Chain chain;
  std::uint64_t handle = 0;
};
struct RuleInfo {
  std::string chain;
  std::uint64_t handle = 0;
  std::string comment;  ///< Rule::identity() of a rule of ours
};
struct SetInfo {
  Set set;
  std::uint64_t handle = 0;
  bool understood = true;  ///< false: flags or types that Set cannot hold
};

class Connection {
 public:
  [[nodiscard]] static Result<Connection> open();

  /// All or nothing. An empty batch is no call to the kernel.
  [[nodiscard]] tl::expected<void, CommitError> commit(const Batch& batch);
  /// As commit(), the error as a Status.
  [[nodiscard]] Status apply(const Batch& batch);

  [[nodiscard]] Result<std::vector<TableInfo>> tables();
  /// Errors: not_found.
  [[nodiscard]] Result<TableInfo> table(const TableRef& t);
  [[nodiscard]] Result<std::vector<ChainInfo>> chains(const TableRef& t);
  /// In the order of evaluation within each chain.
  [[nodiscard]] Result<std::vector<RuleInfo>> rules(const TableRef& t);
  [[nodiscard]] Result<std::vector<SetInfo>> sets(const TableRef& t);
  /// Ranges come back as they were written (the kernel keeps their two ends apart).
  [[nodiscard]] Result<std::vector<Element>> elements(const Set& s);
  /// Number of the ruleset; every transaction of anybody raises it.
  [[nodiscard]] Result<std::uint32_t> generation();
  /// Whether this kernel has OWNER with PERSIST (asked once, by a transaction that leaves nothing).
  [[nodiscard]] bool can_persist();
  /// Our netlink port: the owner_port of tables we own.
  std::uint32_t port() const { return socket_.port(); }

 private:
  explicit Connection(netlink::Socket s) : socket_(std::move(s)) {}
  template <class F>
  [[nodiscard]] Status dump(netlink::MessageBuilder& b, std::uint16_t type, std::string_view what, F&& each);

  netlink::Socket socket_;
  netlink::Bytes buffer_;
  std::uint32_t seq_ = 0;
  std::optional<bool> can_persist_;
};

/// Somebody committed a transaction.
struct Generation {
  std::uint32_t id = 0;
  std::uint32_t pid = 0;  ///< process that did it
  std::string process;    ///< its name
};

struct MonitorHandlers {
  /// After each transaction, ours too (compare pid).
  std::function<void(const Generation&)> on_generation;
  /// A table came or went.
  std::function<void(const TableRef&, bool gone)> on_table;
  /// Something of this table, or the table itself, was made, changed or removed by the netlink socket `port`; once for
  /// each object, before the transaction's on_generation.
  std::function<void(const TableRef&, std::uint32_t port)> on_change;
  /// Events were lost: read again.
  std::function<void(std::string_view why)> on_resync;
};

/// Told on a loop; the rules of netlink::Monitor apply (thread, namespace, order, handlers may destroy it).
class Monitor {
 public:
  [[nodiscard]] static Result<Monitor> open(boost::asio::any_io_executor executor, MonitorHandlers handlers);
  void start() { reader_.start(); }
  void stop() { reader_.stop(); }

 private:
  explicit Monitor(netlink::EventReader r) : reader_(std::move(r)) {}
  netlink::EventReader reader_;
};

}  // namespace calico::nft
