#pragma once
/// What the API's state means for a datastore that is elsewhere (after `store move`), until it has arrived there: a
/// table beside the resources' rows, written in the same commit, so that nothing that was answered is lost, and the
/// same in memory. Of each key only the newest content waits. An endpoint names policies, so a policy or subnet written
/// again keeps its place (nothing behind it may come before it), while endpoints and removals go to the end (what they
/// need has come before).
///
/// Thread: write(), forget() and load(): the Db's; the rest: the api loop. Errors: those of Db; corrupt (a row that
/// does not read).
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/store/db.hpp"
#include "modules/controller/translate.hpp"

namespace calico::controller {

class Outbox {
 public:
  /// Beyond it changes are refused: the datastore has been away for very long.
  static constexpr std::size_t kMost = 100000;

  struct Item {
    Intent intent;
    bool prefix = false;     ///< everything below intent.key is to be absent
    std::int64_t write = 0;  ///< the number of the write it came with
    std::size_t bytes = 0;   ///< of the content, as text; set by add() and load()
    bool keeps_place() const;
  };
  /// An item as it was sent: a newer one of the same key is another.
  using Sent = std::pair<std::string, std::int64_t>;

  [[nodiscard]] static Status write(store::Db& db, const std::vector<Item>& items);
  [[nodiscard]] static Status forget(store::Db& db, const std::vector<Sent>& sent);
  /// In the order in which they are to be sent.
  [[nodiscard]] static Result<std::vector<Item>> load(store::Db& db);

  void replace(std::vector<Item> all);
  void add(std::vector<Item> items);
  /// At most `count`, and together about kBytes, but one at least.
  std::vector<Item> first(std::size_t count) const;
  static constexpr std::size_t kBytes = 512 * 1024;  ///< a third of what etcd takes in one request
  void done(const std::vector<Sent>& sent);
  std::size_t size() const { return places_.size(); }
  bool empty() const { return places_.empty(); }
  bool contains(std::string_view key) const { return places_.contains(key); }

 private:
  std::map<std::uint64_t, Item> items_;
  std::map<std::string, std::uint64_t, std::less<>> places_;
  std::uint64_t next_ = 0;
};

}  // namespace calico::controller
