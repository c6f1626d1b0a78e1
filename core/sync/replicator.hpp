#pragma once
/// Keeps a Mirror equal to the datastore, and refuses to do damage with it.
///
/// One session: ask for the datastore's identity; when it is the mirror's and our past is part of its history, resume
/// the watches from there; else list everything at one revision and compare. A list counts only with `datastoreReady:
/// true`. It is refused (Phase::refusing, mirror untouched) when the clusterGUID is another one, or when it would
/// remove more than half, and more than kMassRemoval, of this node's endpoints; accept() takes it, and so does the
/// return of the objects. After an error the session begins anew, with a growing, random wait.
///
///   Replicator r(*datastore, mirror, options, executor);
///   tasks.spawn("replicator", [&] { return r.run(); });
///
/// Thread: loop. Owns: nothing of the arguments. Errors: none come out; they are the reason in the mirror's state.
#include <boost/asio/any_io_executor.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "core/loop/task_group.hpp"
#include "core/store/datastore.hpp"
#include "core/sync/mirror.hpp"
#include "core/sync/service.hpp"
#include "core/sync/signal.hpp"

namespace calico::sync {

class Follower;

/// A list that removes this many endpoints or fewer is never a mass removal.
inline constexpr std::size_t kMassRemoval = 10;

/// What clusterinformations/default says.
struct ClusterInfo {
  std::string guid;
  bool ready = false;
  store::Revision create_revision = 0;  ///< 0 = the key is missing
};
/// Anything that is not a ClusterInformation is not ready.
[[nodiscard]] ClusterInfo parse_cluster_info(const store::KeyValue& kv);

/// True for the key of a workload endpoint of this node.
[[nodiscard]] bool is_endpoint_of(std::string_view key, std::string_view node);

/// Why `list` must not replace `mirror`, empty if it may: the rule of mass removal, pure.
[[nodiscard]] std::string damage(const Mirror::Content& list, const ClusterInfo& info, const Mirror& mirror,
                                 std::string_view node);

class Replicator {
 public:
  struct Counters {
    std::uint64_t lists = 0, resumes = 0, events = 0, refusals = 0;
    std::string server_version, server_endpoint, last_error;
  };

  Replicator(store::Datastore& datastore, Mirror& mirror, const Options& options,
             boost::asio::any_io_executor executor);

  /// Called with true at every start of a synchronous time, and the epoch: it grows whenever the datastore is another
  /// one or went back in time, so that what was written there must be written again. With false when it ends.
  void set_on_sync(std::function<void(bool in_sync, std::uint64_t epoch)> f) { on_sync_ = std::move(f); }

  /// Asked about pointers that do not get into the mirror; may be nullptr.
  void set_follower(Follower* f) { follower_ = f; }

  boost::asio::awaitable<void> run();
  /// Another datastore is in place: a new session begins.
  void end_session();
  /// Errors: invalid (nothing is refused).
  [[nodiscard]] Status accept();
  const Counters& counters() const { return counters_; }

 private:
  enum class Next : std::uint8_t { soon, backoff };  // when the next session begins
  struct Session;

  boost::asio::awaitable<Next> session();
  boost::asio::awaitable<bool> led_elsewhere();
  void look_for_another_past(const store::RangeResult& info, const store::ServerStatus& status);
  boost::asio::awaitable<Result<bool>> can_resume(store::RangeResult info, std::uint64_t cluster_id);
  boost::asio::awaitable<Status> list(Mirror::Content* out, store::Revision* revision);
  boost::asio::awaitable<Next> wait_for_change(std::string prefix, store::Revision from);
  boost::asio::awaitable<Next> follow(store::Revision target);
  boost::asio::awaitable<void> follow_prefix(std::shared_ptr<Session> s, std::size_t index);
  Next lost(const Error& error);
  void set_phase(Phase phase, std::string reason);
  std::chrono::nanoseconds jittered(std::chrono::nanoseconds d);

  store::Datastore& ds_;
  Mirror& mirror_;
  const Options& options_;
  const boost::asio::any_io_executor executor_;
  std::function<void(bool, std::uint64_t)> on_sync_;
  Follower* follower_ = nullptr;
  std::weak_ptr<Session> session_;  // while it watches
  Counters counters_;
  Signal accepted_;
  std::string refused_guid_;                // of the list refused last
  bool refusing_ = false, accept_ = false;  // accept_: the next list of refused_guid_ passes
  bool force_list_ = false;
  bool went_back_ = false;                // its revision, log or past was not ours since the last list taken
  std::optional<std::int64_t> log_lead_;  // of this session's datastore
  bool in_sync_ = false;
  std::uint64_t epoch_ = 1;
  std::minstd_rand random_{std::random_device{}()};
};

}  // namespace calico::sync
