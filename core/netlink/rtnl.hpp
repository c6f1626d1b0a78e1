#pragma once
/// Requests to rtnetlink: dumps, look-ups and batches of changes.
///
///   auto nl = Rtnl::open();
///   auto links = nl->links();
///   Batch b;
///   b.replace(route);                       // any mixture
///   b.replace(neighbour);
///   auto done = nl->commit(b);              // Result<BatchResult>
///   for (auto& e : done->failed) ...        // e.index is the number replace() returned; the others are in the kernel
///
/// The calls are synchronous on purpose. The kernel handles a request inside sendmsg(): when it returns, the change is
/// made and the answer is in our buffer, so a coroutine would never have anything to wait for. A batch is sent in
/// windows of `kWindow` messages a system call (about 3 us a route). Only the last message of a window asks for an
/// acknowledgement: the kernel works in order and always answers what failed, so that one says that all others went in.
/// An engine that must not stay away long commits in slices. Thread: one at a time (an engine's loop). Namespace: that
/// of the thread that called open(). Owns: its socket. Errors: Result when the conversation itself failed (closed
/// socket, timeout 5 s, lost answers); the kernel's verdict on single operations is in BatchResult.
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "core/base/error.hpp"
#include "core/netlink/socket.hpp"
#include "core/netlink/types.hpp"

namespace calico::netlink {

/// How a route or neighbour goes in.
enum class Put : std::uint8_t {
  add,      ///< only if no route of this key is there (EEXIST otherwise): for keys a stranger may hold
  replace,  ///< create, or take the place of the one with this key
  append,   ///< beside others of this key
};

/// Changes that are sent together, in order. Not a transaction: each operation succeeds or fails for itself.
/// Thread: any. Owns: the encoded messages.
class Batch {
 public:
  std::size_t put(const Route& r, Put how);
  std::size_t replace(const Route& r) { return put(r, Put::replace); }
  std::size_t add(const Route& r) { return put(r, Put::add); }
  /// Only a route that agrees in table, destination, metric, protocol (unless 0), type and next hops (those given)
  /// goes.
  std::size_t remove(const Route& r);
  std::size_t replace(const Neighbour& n);
  std::size_t remove(const Neighbour& n);
  std::size_t set_link_up(IfIndex index, bool up);
  std::size_t set_link_group(IfIndex index, std::uint32_t group);
  std::size_t set_link_master(IfIndex index, IfIndex master);
  std::size_t set_link_mac(IfIndex index, const Mac& mac);
  std::size_t set_link_mtu(IfIndex index, std::uint32_t mtu);
  std::size_t rename_link(IfIndex index, const std::string& name);
  /// Moves a link into the namespace of this open descriptor.
  std::size_t move_link(IfIndex index, int netns_fd);
  std::size_t remove_link(IfIndex index);
  /// A veth pair; with `peer_netns_fd` the other end is made in that namespace.
  std::size_t add_veth(const std::string& name, const std::string& peer, std::optional<int> peer_netns_fd = {});
  std::size_t add_bridge(const std::string& name);
  std::size_t replace(const Address& a);
  std::size_t remove(const Address& a);
  /// `replace` takes the place of an object of the same sort only (a group never of a plain one); routes and groups
  /// that name it follow. The kernel does not look at the protocol.
  std::size_t put(const NexthopObject& o, Put how);
  /// The routes that name it go with it, in silence for IPv4.
  std::size_t remove_nexthop(std::uint32_t id);

  /// A root tbf in the place of any other; one with the same handle changes its numbers and keeps what waits in it.
  std::size_t replace(const Qdisc& q);
  /// The kernel's default comes back.
  std::size_t remove(const Qdisc& q);

  std::size_t size() const { return ops_.size(); }
  bool empty() const { return ops_.empty(); }
  void clear();

 private:
  friend class Rtnl;
  struct Op {
    std::size_t at;  // of its message in the buffer
    std::size_t size;
  };
  std::size_t finish();
  void set_link(IfIndex index, std::uint32_t flags, std::uint32_t change);
  void address(const Address& a, std::uint16_t type, std::uint16_t flags);
  void neighbour(const Neighbour& n, std::uint16_t type, std::uint16_t flags);
  void route(const Route& r, std::uint16_t type, std::uint16_t flags);
  MessageBuilder b_;
  std::vector<Op> ops_;
};

struct OpError {
  std::size_t index;  ///< which operation of the batch
  int error;          ///< errno as the kernel gave it
  Error what;
};

struct BatchResult {
  std::vector<OpError> failed;  ///< in order of index
  bool ok() const { return failed.empty(); }
  /// errno of operation `index`, 0 when it succeeded.
  int error_of(std::size_t index) const;
};

struct RouteFilter {
  std::optional<Family> family;
  std::optional<TableId> table;
  std::optional<std::uint8_t> protocol;
  std::optional<IfIndex> dev;
};

struct LookupOptions {
  bool fib_match = true;  ///< the route of the table that matched (with its protocol and prefix), not the resolved path
  std::uint32_t mark = 0;
};

class Rtnl {
 public:
  static constexpr std::size_t kWindow = 256;

  [[nodiscard]] static Result<Rtnl> open();

  [[nodiscard]] Result<std::vector<Link>> links();
  /// Errors: not_found.
  [[nodiscard]] Result<Link> link(const std::string& name);
  [[nodiscard]] Result<Link> link(IfIndex index);
  [[nodiscard]] Result<std::vector<Address>> addresses();
  /// Routes of one or both families (cloned cache entries are left out).
  [[nodiscard]] Result<std::vector<Route>> routes(const RouteFilter& filter = {});
  [[nodiscard]] Result<std::vector<Neighbour>> neighbours(std::optional<IfIndex> dev = {});
  /// Proxy entries (NTF_PROXY), which the plain dump leaves out.
  [[nodiscard]] Result<std::vector<Neighbour>> proxies();
  [[nodiscard]] Result<std::vector<Rule>> rules(std::optional<Family> family = {});
  /// Nexthop objects. Errors: unavailable or invalid on a kernel without them (before Linux 5.3).
  [[nodiscard]] Result<std::vector<NexthopObject>> nexthops();
  /// Root qdiscs of all links.
  [[nodiscard]] Result<std::vector<Qdisc>> qdiscs();
  /// What the kernel would do with a packet to `dst`. Errors: not_found (no route, or an unreachable one).
  [[nodiscard]] Result<Route> lookup(const Ip& dst, LookupOptions options = {});

  [[nodiscard]] Result<BatchResult> commit(const Batch& batch);
  /// Our netlink port, which events caused by our changes carry (MonitorHandlers::ignored_port).
  std::uint32_t port() const { return socket_.port(); }
  /// One operation, its error as a Status.
  template <class F>
  [[nodiscard]] Status one(F&& fill) {
    Batch b;
    fill(b);
    auto r = commit(b);
    if (!r) return tl::unexpected(r.error());
    if (!r->ok()) return tl::unexpected(r->failed.front().what);
    return {};
  }

 private:
  explicit Rtnl(Socket s) : socket_(std::move(s)) {}
  template <class T>
  [[nodiscard]] Status collect(MessageBuilder& request, std::string_view what, std::vector<T>& out,
                               std::optional<T> (*decode)(const Message&));
  template <class T>
  [[nodiscard]] Result<T> ask_one(MessageBuilder& request, const std::string& what,
                                  std::optional<T> (*decode)(const Message&));
  std::uint32_t next_seq() { return ++seq_; }

  Socket socket_;
  Bytes buffer_;
  std::uint32_t seq_ = 0;
};

/// Decoders of single messages (payload after nlmsghdr), used by dumps and events; public for tests and fuzzing.
[[nodiscard]] std::optional<Link> decode_link(const Message& m);
[[nodiscard]] std::optional<Address> decode_address(const Message& m);
[[nodiscard]] std::optional<Route> decode_route(const Message& m);
[[nodiscard]] std::optional<Neighbour> decode_neighbour(const Message& m);
[[nodiscard]] std::optional<Rule> decode_rule(const Message& m);
[[nodiscard]] std::optional<NexthopObject> decode_nexthop(const Message& m);
/// Root qdiscs only.
[[nodiscard]] std::optional<Qdisc> decode_qdisc(const Message& m);

}  // namespace calico::netlink
