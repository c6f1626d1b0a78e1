#pragma once
/// What a client of the gateway may do with keys, by the name in its certificate: pure functions, the whole rule in one
/// place. A node reads below /calico/ and writes below /calico/felix/v2/<region>/host/<its name>/ and
/// /calico/felix/v1/host/<its name>/endpoint/ (states of its host endpoints), and its one key
/// /calico/resources/v3/projectcalico.org/nodes/<its name>. An administrator ([datastore] admins) may everything.
///
/// Keys are bytes: nothing in them is decoded or resolved ("%2f" and ".." are text), so a key is below a prefix exactly
/// when it begins with it. A range is allowed when every key it could hold is, present or not; a reversed or empty one
/// is refused, as etcd does. A transaction is allowed when all of its parts are, on both branches; compares are reads.
///
/// Thread: any. Errors: none, the answer is yes or no.
#include <span>
#include <string>
#include <string_view>

#include "core/store/datastore.hpp"

namespace calico::store::etcd {

struct Rights {
  enum class Kind : std::uint8_t { nothing, node, everything };
  Kind kind = Kind::nothing;
  std::string name;  ///< of the node
};

/// `admins` by their exact names; any other name that can be a host's is a node's; the rest (empty, with a slash, over
/// 253 bytes, ".", "..", other characters than letters, digits, '.', '-' and '_') may nothing.
[[nodiscard]] Rights rights_of(std::string_view identity, std::span<const std::string> admins);

/// [key, range_end) as requests say it: empty end = the one key, "\0" = no end. An empty key in a watch or a range with
/// an end means the very first one.
[[nodiscard]] bool may_read(const Rights& rights, std::string_view key, std::string_view range_end = {});
[[nodiscard]] bool may_write(const Rights& rights, std::string_view key, std::string_view range_end = {});

[[nodiscard]] bool may(const Rights& rights, const RangeRequest& request);
[[nodiscard]] bool may(const Rights& rights, const PutRequest& request);
[[nodiscard]] bool may(const Rights& rights, const DeleteRequest& request);
[[nodiscard]] bool may(const Rights& rights, const TxnRequest& request);

}  // namespace calico::store::etcd
