#pragma once
/// Changes to nf_tables that happen together or not at all: one transaction of the kernel.
///
///   Batch b;
///   b.add(Table{...}); b.add(Chain{...}); b.add(Set{...});
///   b.add(ref_of(set), elements);
///   auto op = b.add(chain_ref, Rule().iifname("tap*").drop());
///   if (auto done = connection.commit(b); !done) for (auto& f : done.error().faults) ... f.op == op ...
///
/// Order matters as in the kernel: a set before the rule that uses it, a rule before the chain it leaves is deleted.
/// Thread: any. Owns: the encoded messages. Errors: what cannot be encoded is kept and reported by commit() as
/// `invalid`.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/netlink/message.hpp"
#include "core/nft/rule.hpp"
#include "core/nft/types.hpp"

namespace calico::nft {

struct ChainRef {
  TableRef table;
  std::string name;
  auto operator<=>(const ChainRef&) const = default;
};
inline ChainRef ref_of(const Chain& c) { return {c.table, c.name}; }

/// Each call returns the number of the operation, by which commit() reports faults.
class Batch {
 public:
  Batch();

  /// Creates the table; one that is there already stays as it is (flags must agree).
  std::size_t add(const Table& t);
  /// With everything in it. It must exist.
  std::size_t remove(const TableRef& t);
  /// Gone with everything in it, whether it existed or not. Not for a table another socket owns.
  std::size_t remove_if_there(const TableRef& t);

  /// A chain that is there already gets the policy of a base chain; hook and priority must agree.
  std::size_t add(const Chain& c);
  std::size_t remove(const ChainRef& c);
  /// Removes its rules.
  std::size_t flush(const ChainRef& c);

  /// Behind the last rule of the chain.
  std::size_t add(const ChainRef& c, const Rule& r);
  /// Before the first.
  std::size_t insert(const ChainRef& c, const Rule& r);
  std::size_t replace(const ChainRef& c, std::uint64_t handle, const Rule& r);
  std::size_t remove_rule(const ChainRef& c, std::uint64_t handle);

  std::size_t add(const Set& s);
  std::size_t remove(const SetRef& s);
  std::size_t flush(const SetRef& s);
  /// Elements that are there already with the same datum are no error, others are (EEXIST). `s` tells the key's shape.
  std::size_t add(const Set& s, std::span<const Element> elements) { return elements_op(s, elements, Elements::add); }
  /// Elements that are not there are an error (ENOENT).
  std::size_t remove(const Set& s, std::span<const Element> elements) {
    return elements_op(s, elements, Elements::remove);
  }

  /// Operations so far.
  std::size_t size() const { return ops_.size(); }
  bool empty() const { return ops_.empty(); }
  /// Bytes to be sent.
  std::size_t bytes() const { return b_.size(); }
  void clear();

 private:
  friend class Connection;
  enum class Elements : bool { add, remove };
  struct Op {
    std::size_t first_message;
    std::size_t messages;
    std::string what;  // "rule in inet calico forward"
  };
  std::size_t op(std::string what);
  void message(std::uint16_t type, std::uint16_t flags, TableFamily family);
  void end_message();
  void fault(std::size_t op, std::string why);
  std::size_t elements_op(const Set& s, std::span<const Element> elements, Elements how);
  void one_element(const Set& s, const Element& e, Elements how);
  std::size_t rule(const ChainRef& c, const Rule& r, std::uint16_t flags, std::uint64_t handle);

  netlink::MessageBuilder b_;
  std::vector<std::size_t> at_;  // of each message in the buffer
  std::vector<Op> ops_;
  std::vector<std::pair<std::size_t, std::string>> faults_;
};

}  // namespace calico::nft
