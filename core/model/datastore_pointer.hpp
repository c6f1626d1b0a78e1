#pragma once
/// Where a cloud's datastore is, written into the datastore itself: how `store move` leads nodes from one to another.
/// Two resources of a kind of our own, below the prefix every node mirrors, and one report of each node:
///
///   datastorepointers/default   the newest move that was made: everybody follows the highest generation ever seen
///   datastorepointers/next      a move in preparation: nodes try whether they could follow, and say so
///   /calico/felix/v2/<region>/host/<host>/datastore   what this node uses, and what came of its try (leased)
///
/// No secrets and no paths: certificates, user and password file are each node's own configuration.
/// Thread: any, pure. Errors: invalid (hostile or unknown content: nobody follows it).
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.hpp"

namespace calico::model {

inline constexpr std::string_view kDatastorePointers = "/calico/resources/v3/projectcalico.org/datastorepointers/";
inline constexpr std::string_view kDatastorePointer =
    "/calico/resources/v3/projectcalico.org/datastorepointers/default";
inline constexpr std::string_view kNextDatastorePointer =
    "/calico/resources/v3/projectcalico.org/datastorepointers/next";

struct DatastorePointer {
  std::int64_t generation = 0;         ///< one more with every move, there or back; at least 1
  std::vector<std::string> endpoints;  ///< https://host:port, 1 to 16
  std::string cluster_guid;            ///< of the cloud: the same in both
  bool operator==(const DatastorePointer&) const = default;
};
/// `next` or `default`, by the name in its metadata.
[[nodiscard]] Result<DatastorePointer> parse_datastore_pointer(std::string_view json);
[[nodiscard]] std::string to_json(const DatastorePointer& pointer, bool next);

/// ".../host/<host>/datastore".
[[nodiscard]] std::string datastore_report_key(std::string_view region, std::string_view host);
struct DatastoreReport {
  std::int64_t generation = 0;  ///< of the pointer this node follows; 0 = its own configuration
  std::int64_t tried = 0;       ///< of the move in preparation it has tried; 0 = none
  std::string error;            ///< why it could not follow that one; empty = it could
  bool operator==(const DatastoreReport&) const = default;
};
[[nodiscard]] Result<DatastoreReport> parse_datastore_report(std::string_view json);
[[nodiscard]] std::string to_json(const DatastoreReport& report);

}  // namespace calico::model
