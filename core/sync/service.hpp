#pragma once
/// Sync, assembled: the View and the Report of this host over one datastore, with a loop and thread of their own.
///
///   auto service = sync::Service::open({.datastore = client, .mirror_file = state_dir + "/state.db",
///                                       .node = "compute-1", .region = ""});
///   if (!service) return wrap(service.error(), "sync");
///   (*service)->start();                      // never waits for the datastore
///   (*service)->view().watch(...);
///   (*service)->stop();                       // before the datastore goes
///
/// Thread: any (open, start and stop from one thread). Owns: loop, mirror, replicator, reporter; shares the datastore.
/// Errors of open(): no_permission, exhausted, busy (the mirror's file); a corrupt mirror is set aside and begun anew.
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/base/error.hpp"
#include "core/model/datastore_pointer.hpp"
#include "core/store/datastore.hpp"
#include "core/sync/view.hpp"

namespace calico::sync {

/// Times of the machine; tests make them short.
struct Timing {
  std::chrono::milliseconds retry_min{200};         ///< first wait after a failure; doubles
  std::chrono::milliseconds retry_max{4000};        ///< longest wait; each wait is 50-100 % of it, by chance
  std::chrono::milliseconds catch_up{1000};         ///< silence of a resumed watch that counts as caught up
  std::chrono::milliseconds refused_relist{30000};  ///< how often a refused or frozen datastore is looked at anew
  std::chrono::seconds lease_ttl{90};
  std::chrono::milliseconds lease_keepalive{30000};
};

struct Options {
  std::shared_ptr<store::Datastore> datastore;  ///< the remote one, or the embedded Kv
  /// SQLite file of the mirror; empty = memory only (the embedded datastore is the authority itself).
  std::string mirror_file;
  std::string node;                         ///< endpoints of this node are what mass removal is measured by
  std::string region;                       ///< as configured; empty = none
  std::vector<std::string> extra_prefixes;  ///< beyond resources and this region's subnets (controller: felix status)
  int page = 500;                           ///< keys a list request asks for
  /// Puts the datastore of a pointer in the place of `datastore`'s; false: it is that one already. Empty: pointers are
  /// not followed (where the embedded datastore is the authority). On the sync loop.
  std::function<boost::asio::awaitable<Result<bool>>(model::DatastorePointer)> use = {};
  /// Whether this node could follow; with `use`.
  std::function<boost::asio::awaitable<Status>(model::DatastorePointer)> probe = {};
  Timing timing;
};

/// What `store status` prints.
struct ServiceStatus {
  SyncState state;
  std::string cluster_guid;
  std::uint64_t cluster_id = 0;
  std::string server_version, server_endpoint;  ///< of the last contact; empty = never
  std::string mirror_file;                      ///< empty = memory only
  std::string mirror_note;                      ///< "was corrupt, set aside as …", else empty
  std::size_t keys = 0, bytes = 0;
  std::uint64_t lists = 0, resumes = 0, events = 0, refusals = 0;
  std::string last_error;  ///< of the connection, one line; empty after success
  std::size_t reports_pending = 0, reports_total = 0;
  store::LeaseId lease = 0;
  std::string report_error;
};

class Service {
 public:
  [[nodiscard]] static Result<std::unique_ptr<Service>> open(Options options);
  ~Service();
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  void start();
  /// Cancels what runs, writes the mirror, joins. The lease is left to expire: a restart within its time is no death.
  void stop();

  View& view();
  Report& report();
  store::Datastore& datastore();
  /// The operator takes the datastore's content as it is, mass removal or not. Errors: invalid (nothing is refused).
  [[nodiscard]] Status accept();
  ServiceStatus status() const;

 private:
  class Impl;
  explicit Service(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace calico::sync
