#include "core/store/etcd/gateway.hpp"

#include <array>

#include "core/log/log.hpp"
#include "core/store/etcd/json.hpp"

namespace calico::store::etcd {
namespace {

using http::Request;
using http::Response;

Response json_of(std::string body) { return Response::json(200, std::move(body)); }
Response fault(const Fault& f) { return Response::json(f.http, to_json(f)); }
Response fault(const Error& e) { return fault(fault_of(e)); }

Identity identity(const Kv& kv) { return {kv.cluster_id(), kv.member_id()}; }

// One coroutine a path. Bodies are taken by value: the request may be gone while they wait.

awaitable<Response> range(Kv& kv, std::string body) {
  auto request = parse_range(body);
  if (!request) co_return fault(request.error());
  auto r = co_await kv.range(std::move(*request));
  if (!r) co_return fault(r.error());
  co_return json_of(to_json(identity(kv), *r));
}

awaitable<Response> put(Kv& kv, std::string body) {
  auto request = parse_put(body);
  if (!request) co_return fault(request.error());
  auto r = co_await kv.put(std::move(*request));
  if (!r) co_return fault(r.error());
  co_return json_of(to_json(identity(kv), *r));
}

awaitable<Response> delete_range(Kv& kv, std::string body) {
  auto request = parse_delete(body);
  if (!request) co_return fault(request.error());
  auto r = co_await kv.del(std::move(*request));
  if (!r) co_return fault(r.error());
  co_return json_of(to_json(identity(kv), *r));
}

awaitable<Response> txn(Kv& kv, std::string body) {
  auto request = parse_txn(body);
  if (!request) co_return fault(request.error());
  auto r = co_await kv.txn(std::move(*request));
  if (!r) co_return fault(r.error());
  co_return json_of(to_json(identity(kv), *r));
}

awaitable<Response> compaction(Kv& kv, std::string body) {
  auto revision = parse_compaction(body);
  if (!revision) co_return fault(revision.error());
  auto r = co_await kv.compact(*revision);
  if (!r) co_return fault(r.error());
  co_return json_of(header_json(identity(kv), *r));
}

awaitable<Response> grant(Kv& kv, std::string body) {
  auto call = parse_lease(body);
  if (!call) co_return fault(call.error());
  auto r = co_await kv.lease_grant(call->ttl_s, call->id);
  if (!r) co_return fault(r.error());
  co_return json_of(grant_json(identity(kv), kv.revision(), *r));
}

awaitable<Response> keepalive(Kv& kv, std::string body) {
  auto call = parse_lease(body);
  if (!call) co_return fault(call.error());
  auto r = co_await kv.lease_keepalive(call->id);
  if (!r && r.error().code != Errc::not_found) co_return fault(r.error());
  co_return json_of(keepalive_json(identity(kv), kv.revision(), r ? *r : LeaseInfo{.id = call->id}));
}

awaitable<Response> revoke(Kv& kv, std::string body) {
  auto call = parse_lease(body);
  if (!call) co_return fault(call.error());
  auto r = co_await kv.lease_revoke(call->id);
  if (!r) co_return fault(r.error());
  co_return json_of(header_json(identity(kv), kv.revision()));
}

awaitable<Response> time_to_live(Kv& kv, std::string body) {
  auto call = parse_lease(body);
  if (!call) co_return fault(call.error());
  auto r = co_await kv.lease_time_to_live(call->id, call->keys);
  if (!r) co_return fault(r.error());
  co_return json_of(time_to_live_json(identity(kv), kv.revision(), *r));
}

awaitable<Response> leases(Kv& kv, std::string body) {
  if (auto ok = parse_nothing(body); !ok) co_return fault(ok.error());
  auto r = co_await kv.leases();
  if (!r) co_return fault(r.error());
  co_return json_of(leases_json(identity(kv), kv.revision(), *r));
}

awaitable<Response> status(Kv& kv, std::string body) {
  if (auto ok = parse_nothing(body); !ok) co_return fault(ok.error());
  auto r = co_await kv.status();
  if (!r) co_return fault(r.error());
  co_return json_of(status_json(identity(kv), *r, kv.stats().file_bytes));
}

awaitable<void> stream_events(std::shared_ptr<KvWatch> watch, Identity id, WatchCall call,
                              std::shared_ptr<http::ResponseStream> out) {
  for (;;) {
    auto batch = co_await watch->next_shared();
    if (!batch) {
      if (batch.error().code == Errc::compacted) {
        auto line = compacted_line(id, call.watch_id, watch->compacted_at());
        (void)co_await out->write(std::move(line));
      }
      log::debug("gateway.watch_ended", "key", call.request.key, "why", batch.error().what);
      co_return;  // stopping: the connection closes, and the client tries again elsewhere
    }
    std::vector<std::string> lines;
    if (batch->changes.empty())
      lines.push_back(progress_line(id, batch->revision, call.watch_id));
    else
      lines = event_lines(id, call, *batch);
    batch->changes.clear();  // not kept alive by a slow peer
    // A write is a chunk and holds one line: python's etcd3gw decodes chunks, not lines.
    for (auto& line : lines) {
      auto written = co_await out->write(std::move(line));
      if (!written) {
        log::debug("gateway.watch_ended", "key", call.request.key, "why", written.error().what);
        co_return;
      }
    }
  }
}

awaitable<Response> watch(Kv& kv, std::string body) {
  auto call = parse_watch(body);
  if (!call) co_return fault(call.error());
  const auto id = identity(kv);
  Response response;
  response.headers.set("Content-Type", "application/json");
  auto opened = kv.watch_shared(call->request);
  if (!opened) {
    if (opened.error().code != Errc::invalid) co_return fault(opened.error());
    const bool empty = opened.error().what.find("range is empty") != std::string::npos;
    response.body = refused_line(id, kv.revision(), empty ? "mvcc: watcher range is empty" : opened.error().what);
    co_return response;
  }
  std::shared_ptr<KvWatch> shared(std::move(*opened));
  response.body = created_line(id, shared->created_at(), call->watch_id);
  response.stream = [shared, id, call = std::move(*call)](std::shared_ptr<http::ResponseStream> out) {
    return stream_events(shared, id, call, std::move(out));
  };
  co_return response;
}

struct Route {
  std::string_view path;  ///< below /v3/
  awaitable<Response> (*handle)(Kv&, std::string);
};
constexpr std::array kRoutes{
    Route{"kv/range", range},
    Route{"kv/put", put},
    Route{"kv/deleterange", delete_range},
    Route{"kv/txn", txn},
    Route{"kv/compaction", compaction},
    Route{"watch", watch},
    Route{"lease/grant", grant},
    Route{"lease/keepalive", keepalive},
    Route{"lease/revoke", revoke},
    Route{"lease/timetolive", time_to_live},
    Route{"lease/leases", leases},
    Route{"kv/lease/revoke", revoke},
    Route{"kv/lease/timetolive", time_to_live},
    Route{"kv/lease/leases", leases},
    Route{"maintenance/status", status},
};

awaitable<Response> handle(Kv& kv, Request request) {
  if (request.method == "GET") {
    if (request.path == "/version") {
      auto s = co_await kv.status();
      if (!s) co_return fault(s.error());
      co_return json_of(fmt::format(R"({{"etcdserver":"{}","etcdcluster":"3.4.0"}})", s->version));
    }
    if (request.path == "/health") co_return json_of(R"({"health":"true"})");
  }
  std::string_view path = request.path;
  for (const std::string_view prefix : {"/v3/", "/v3beta/"}) {
    if (!path.starts_with(prefix)) continue;
    path.remove_prefix(prefix.size());
    for (const auto& route : kRoutes) {
      if (route.path != path) continue;
      if (request.method != "POST") co_return Response::text(405, "Method Not Allowed\n");
      co_return co_await route.handle(kv, std::move(request.body));
    }
    if (path == "auth/authenticate") co_return fault(Fault{412, 9, "etcdserver: authentication is not enabled"});
    co_return fault(
        Fault{501, 12, "not served by the embedded datastore (kv, lease, watch and maintenance/status are): use etcd"});
  }
  co_return Response::text(404, "404 page not found\n");
}

}  // namespace

http::Handler gateway_handler(Kv& kv) {
  return [&kv](Request request) { return handle(kv, std::move(request)); };
}

Gateway::Gateway(boost::asio::any_io_executor executor, Kv& kv) {
  http::ServerOptions options;
  options.name = "datastore";
  options.max_connections = 4096;
  server_ = std::make_unique<http::Server>(std::move(executor), std::move(options), gateway_handler(kv));
}
Gateway::~Gateway() = default;

Status Gateway::listen(http::Listen where) { return server_->listen(std::move(where)); }
std::vector<http::Endpoint> Gateway::endpoints() const { return server_->endpoints(); }
void Gateway::start() { server_->start(); }
awaitable<void> Gateway::stop() { return server_->stop(); }
http::ServerStats Gateway::stats() const { return server_->stats(); }

}  // namespace calico::store::etcd
