#pragma once
/// The local store of a node: the part of the datastore it needs, in memory for readers and watchers, in SQLite for the
/// next start. It implements View; Replicator is its only writer.
///
///   auto mirror = Mirror::open({kResources, subnets}, state_dir + "/state.db");
///   mirror->replace(...);                 // a complete list
///   mirror->apply(0, events, revision);   // what a watch of the first prefix brought
///
/// Thread: View's methods any; the writing ones belong to one thread (the sync loop). A writer thread of its own
/// commits to SQLite behind the memory: what waits for it is merged per key, so a slow disk costs freshness, never
/// memory or latency. A commit holds whole batches together with the revisions they lead to, so a crash leaves an older
/// state, never a mixed one. Errors: a file that cannot be opened fails open(); one that is corrupt is set aside as
/// <file>.corrupt and begun anew; a later write error is kept in file_error() and tried again.
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/error.hpp"
#include "core/store/datastore.hpp"
#include "core/sync/view.hpp"

namespace calico::sync {

/// Which datastore the content came from. `ready`: a snapshot with datastoreReady: true has been taken.
struct Identity {
  std::uint64_t cluster_id = 0;
  std::string cluster_guid;
  store::Revision info_create_revision = 0;  ///< of clusterinformations/default
  bool ready = false;
  /// How far a real etcd's log was ahead of its revision when last seen; not part of who it is. Every revision is an
  /// entry of the log, so it never falls, unless a backup was restored: the log begins anew, the revision does not.
  std::optional<std::int64_t> log_lead;
  bool operator==(const Identity& o) const {
    return cluster_id == o.cluster_id && cluster_guid == o.cluster_guid &&
           info_create_revision == o.info_create_revision && ready == o.ready;
  }
};

class Mirror final : public View {
 public:
  using Content = std::map<std::string, store::KeyValue, std::less<>>;

  /// `prefixes`: what is mirrored, none inside another. `file` empty = memory only.
  [[nodiscard]] static Result<std::unique_ptr<Mirror>> open(std::vector<std::string> prefixes, std::string file);
  ~Mirror() override;

  std::optional<store::KeyValue> get(std::string_view key) const override;
  std::vector<store::KeyValue> range(std::string_view prefix) const override;
  SyncState state() const override;
  [[nodiscard]] std::unique_ptr<Subscription> watch(std::vector<std::string> prefixes,
                                                    boost::asio::any_io_executor executor,
                                                    std::function<void(const Batch&)> on_batch) override;

  const std::vector<std::string>& prefixes() const;
  Identity identity() const;
  /// Revision up to which the keys of prefix `index` are exact.
  store::Revision revision(std::size_t index) const;
  store::Revision newest_revision() const;
  /// The key changed last; nullopt when empty.
  std::optional<store::KeyValue> newest() const;
  std::size_t keys() const;
  std::size_t bytes() const;
  std::string file_note() const;
  std::string file_error() const;

  /// A complete list, exact at `revision`: keys whose values differ go to the watchers. Marks the content usable.
  void replace(Content list, store::Revision revision, const Identity& identity);
  /// Events of prefix `index`, oldest first; keys outside it are ignored.
  void apply(std::size_t index, const std::vector<store::Event>& events, store::Revision revision);
  void set_log_lead(std::int64_t lead);
  void set_phase(Phase phase, std::string reason);
  /// Waits until SQLite holds what memory holds, or could not be written. Any thread.
  void flush();

 private:
  class Impl;
  explicit Mirror(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace calico::sync
