#pragma once
/// A datastore somewhere else, over etcd v3's JSON gateway: a real etcd cluster, or the embedded datastore of a
/// controller. TLS with a client certificate, user and password, failover between endpoints.
///
///   auto client = EtcdClient::create(loop.executor(), {.endpoints = {…}, .tls = {…}});
///   if (!client) return wrap(client.error(), "[datastore]");
///   auto got = co_await (*client)->range({.key = "/calico/", .range_end = prefix_end("/calico/")});
///
/// Thread: any (each call runs on the client's loop and comes back to the caller's). That loop outlives the client, its
/// watches and every call. Cancelling the caller cancels the call. Owns: its connections.
/// Errors: those of Datastore, each one line that ends up naming the endpoint. A write whose answer was lost is
/// unavailable or timeout and may have happened: read, or compare, before writing again.
///
/// Not said by the interface: a range without a limit, by key, is read in pages at one revision, which is the result's
/// revision; a compaction in between starts it again. A watch's batch carries the revision of its last event, so that
/// resuming after it loses nothing also while etcd is still telling the past. Against an etcd with its default progress
/// interval (10 minutes) a watch without news ends with timeout every 30 s and is reopened by the user, as it must be.
/// History that does not fit in a line of 8 MiB is compacted for its reader (compacted_at() 0): list instead.
#include <boost/asio/any_io_executor.hpp>
#include <memory>
#include <string>
#include <vector>

#include "core/http/message.hpp"
#include "core/store/datastore.hpp"

namespace calico::store {

struct EtcdOptions {
  std::vector<http::Endpoint> endpoints;
  http::TlsFiles tls;  ///< used for https endpoints
  std::string username;
  std::string password_file;                            ///< read at every log-in; its first line
  Duration request_timeout = std::chrono::seconds(10);  ///< one call, failover and log-in included
  Duration watch_silence = std::chrono::seconds(30);
  std::int64_t page = 500;  ///< keys in one answer of a range without a limit
  bool shuffle = true;      ///< each client tries the endpoints in an order of its own
};

class EtcdClient final : public Datastore {
 public:
  /// Loads the TLS files and looks whether the password can be read; connects only when asked. Errors: invalid,
  /// not_found, no_permission.
  [[nodiscard]] static Result<std::shared_ptr<EtcdClient>> create(boost::asio::any_io_executor executor,
                                                                  EtcdOptions options);
  ~EtcdClient() override;
  EtcdClient(const EtcdClient&) = delete;
  EtcdClient& operator=(const EtcdClient&) = delete;

  /// Reads the TLS files again, for connections made from now on; watches that run keep theirs. On an error what was
  /// loaded stays.
  [[nodiscard]] awaitable<Status> reload_tls();

  [[nodiscard]] awaitable<Result<ServerStatus>> status() override;
  [[nodiscard]] awaitable<Result<RangeResult>> range(RangeRequest request) override;
  [[nodiscard]] awaitable<Result<PutResult>> put(PutRequest request) override;
  [[nodiscard]] awaitable<Result<DeleteResult>> del(DeleteRequest request) override;
  [[nodiscard]] awaitable<Result<TxnResult>> txn(TxnRequest request) override;
  [[nodiscard]] awaitable<Result<Revision>> compact(Revision revision) override;
  [[nodiscard]] awaitable<Result<LeaseInfo>> lease_grant(std::int64_t ttl_s, LeaseId id = 0) override;
  [[nodiscard]] awaitable<Result<LeaseInfo>> lease_keepalive(LeaseId id) override;
  [[nodiscard]] awaitable<Status> lease_revoke(LeaseId id) override;
  [[nodiscard]] awaitable<Result<LeaseInfo>> lease_time_to_live(LeaseId id, bool keys) override;
  [[nodiscard]] awaitable<Result<std::unique_ptr<Watch>>> watch(WatchRequest request) override;

  /// Requests sent since create(), log-ins and opened watches included. Any thread.
  std::uint64_t requests() const;

 private:
  struct Impl;
  explicit EtcdClient(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace calico::store
