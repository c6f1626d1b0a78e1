#pragma once
/// Resources between items and the datastore: reading pages of them, and changing up to 128 in one transaction.
///
///   auto done = co_await change(datastore, items, {.verb = Verb::apply, .make_uid = uid, .now = "2026-…Z"});
///   if (!done.error) …            // done.outcomes: one an item
///   else if (done.unknown) …      // the answer to the transaction was lost
///
/// All of the items are changed or none. A resource keeps its uid and creationTimestamp; what is as wanted already is
/// not written. Each write compares the revision that was read, so nothing of others is overwritten unseen; an item
/// with a resource_version is changed at exactly that one. Thread: any loop.
#include <boost/json/object.hpp>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/resources/manifest.hpp"
#include "core/store/datastore.hpp"

namespace calico::resources {

enum class Verb : std::uint8_t { apply, create, replace, remove };
[[nodiscard]] std::string_view to_string(Verb v);
[[nodiscard]] std::optional<Verb> parse_verb(std::string_view text);

/// Of one transaction: etcd's own limit of operations, and well below its limit of bytes.
inline constexpr std::size_t kMaxChanges = 128;
inline constexpr std::size_t kMaxChangeBytes = 1U << 20U;

struct ChangeOptions {
  Verb verb = Verb::apply;
  bool dry_run = false;  ///< say what would be done
  bool skip = false;     ///< create: what is there, remove: what is not there is no fault
  std::function<std::string()> make_uid;
  std::string now;  ///< creationTimestamp of what is new
  std::string who;  ///< for the audit log
};

struct Outcome {
  enum class Kind : std::uint8_t { created, updated, unchanged, deleted, skipped, refused } kind = Kind::unchanged;
  std::int64_t revision = 0;  ///< of the resource now; 0 = not there
  std::string why;            ///< refused: one line
};
[[nodiscard]] std::string_view to_string(Outcome::Kind k);

struct Changed {
  std::vector<Outcome> outcomes;  ///< one an item, in order, unless `error`
  bool refused = false;           ///< one of them is: nothing was written
  std::optional<Error> error;     ///< the datastore's
  bool unknown = false;           ///< with error: it may be written all the same
};

/// At most kMaxChanges items with different keys.
[[nodiscard]] store::awaitable<Changed> change(store::Datastore& datastore, std::vector<Item> items,
                                               ChangeOptions options);

struct Page {
  std::vector<boost::json::object> resources;  ///< as stored, with metadata.resourceVersion
  std::vector<std::string> broken;             ///< keys whose value is no resource
  store::Revision revision = 0;
  std::string next;  ///< key to go on after; "" = that was all
};
/// The resources below a prefix after the key `after` ("" = from the begin), at `revision` (0 = now).
[[nodiscard]] store::awaitable<Result<Page>> list_page(store::Datastore& datastore, std::string prefix,
                                                       std::string after, store::Revision revision, std::int64_t limit);
/// The first of these keys that is there. Errors: not_found.
[[nodiscard]] store::awaitable<Result<boost::json::object>> get_one(store::Datastore& datastore,
                                                                    std::vector<std::string> keys);

/// RFC 4122 version 4, from 128 random bits.
[[nodiscard]] std::string uid_of(std::uint64_t a, std::uint64_t b);

}  // namespace calico::resources
