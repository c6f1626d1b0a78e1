#include "core/store/etcd/gateway.hpp"

#include <algorithm>
#include <array>
#include <set>

#include "core/log/log.hpp"
#include "core/store/etcd/json.hpp"
#include "core/store/etcd/rights.hpp"
#include "core/store/etcd/single.hpp"
#include "core/store/kv_state.hpp"

namespace calico::store::etcd {

using http::Request;
using http::Response;

struct Gateway::Service {
  Service(Kv& k, GatewayOptions o) : kv(k), options(std::move(o)), clients(std::make_shared<Clients>(options.limits)) {}

  static awaitable<Response> handle(std::shared_ptr<Service> self, Request request);

  Kv& kv;
  const GatewayOptions options;
  std::shared_ptr<Clients> clients;
  std::vector<std::string> urls;
};

namespace {

Response json_of(std::string body) { return Response::json(200, std::move(body)); }
Response fault(const Fault& f) { return Response::json(f.http, to_json(f)); }
Response fault(const Error& e) { return fault(fault_of(e)); }

Identity identity(const Kv& kv) { return {kv.cluster_id(), kv.member_id()}; }

/// One request and who it is of. By value: the HTTP request is gone while it waits.
struct Call {
  Kv& kv;
  std::shared_ptr<Clients> clients;
  std::shared_ptr<Client> client;
  Rights rights;
  std::string what;  ///< the path below /v3/
  std::string body;
  std::vector<std::string> urls;  ///< where this server is reached

  bool everything() const { return rights.kind == Rights::Kind::everything; }
};

/// What etcd answers to somebody without a name, or with one that may not.
Fault denied(const Call& c) {
  c.clients->count_denied();
  if (c.clients->tell(c.client->name()))
    log::warn("gateway.denied", "client", c.client->name(), "what", c.what, "hint",
              "[datastore] admins lists the certificates that may everything");
  if (c.rights.kind == Rights::Kind::nothing && c.rights.name.empty())
    return {400, kInvalidArgument, "etcdserver: user name is empty"};
  return {403, kPermissionDenied, "etcdserver: permission denied"};
}

Fault too_many(const Call& c, std::size_t limit, std::string_view of_what) {
  if (c.clients->tell(c.client->name()))
    log::warn("gateway.client_limit", "client", c.client->name(), "of", of_what, "limit", limit);
  return {429, kResourceExhausted, fmt::format("etcdserver: too many requests: this client has {} {}", limit, of_what)};
}

std::optional<Fault> admins_only(const Call& c) {
  if (c.everything()) return std::nullopt;
  return denied(c);
}

/// In etcd's order: the shape of the request, its size, the rights, and only then what the store says.
template <class R>
std::optional<Fault> refusal(const Call& c, const R& request) {
  if (auto s = check(request); !s) return fault_of(s.error());
  if (may(c.rights, request)) return std::nullopt;
  return denied(c);
}

/// Whether the client may use this lease: its own, or one that this process did not grant and whose keys it may all
/// write (then it is its own from now on). One that is not there is nobody's: the store says so.
awaitable<std::optional<Fault>> lease_refusal(const Call& c, LeaseId id) {
  if (c.everything() || id == 0) co_return std::nullopt;
  if (c.rights.kind == Rights::Kind::nothing) co_return denied(c);
  const auto mine = [&c, id] {
    const auto* owner = c.clients->owner(id);
    return owner ? std::optional<bool>(*owner == c.client->name()) : std::nullopt;
  };
  auto own = mine();
  if (!own) {
    auto info = co_await c.kv.lease_time_to_live(id, true);
    if (!info) co_return fault_of(info.error());
    if (info->ttl_s < 0) co_return std::nullopt;
    own = mine();  // somebody may have been quicker
    if (!own) {
      own =
          std::all_of(info->keys.begin(), info->keys.end(), [&](const auto& key) { return may_write(c.rights, key); });
      if (*own) c.clients->granted(id, c.client->name());
    }
  }
  if (*own) co_return std::nullopt;
  co_return denied(c);
}

// One coroutine a path.

awaitable<Response> range(Call c) {
  auto request = parse_range(c.body);
  if (!request) co_return fault(request.error());
  if (auto no = refusal(c, *request)) co_return fault(*no);
  auto r = co_await c.kv.range(std::move(*request));
  if (!r) co_return fault(r.error());
  co_return json_of(to_json(identity(c.kv), *r));
}

awaitable<Response> put(Call c) {
  auto request = parse_put(c.body);
  if (!request) co_return fault(request.error());
  if (auto no = refusal(c, *request)) co_return fault(*no);
  auto no = co_await lease_refusal(c, request->lease);
  if (no) co_return fault(*no);
  request->who = c.client->name();
  auto r = co_await c.kv.put(std::move(*request));
  if (!r) co_return fault(r.error());
  co_return json_of(to_json(identity(c.kv), *r));
}

awaitable<Response> delete_range(Call c) {
  auto request = parse_delete(c.body);
  if (!request) co_return fault(request.error());
  if (auto no = refusal(c, *request)) co_return fault(*no);
  request->who = c.client->name();
  auto r = co_await c.kv.del(std::move(*request));
  if (!r) co_return fault(r.error());
  co_return json_of(to_json(identity(c.kv), *r));
}

awaitable<Response> txn(Call c) {
  auto request = parse_txn(c.body);
  if (!request) co_return fault(request.error());
  if (auto no = refusal(c, *request)) co_return fault(*no);
  std::set<LeaseId> leases;
  for (const auto* branch : {&request->success, &request->failure})
    for (const auto& op : *branch)
      if (const auto* p = std::get_if<PutRequest>(&op)) leases.insert(p->lease);
  for (const auto id : leases) {
    auto no = co_await lease_refusal(c, id);
    if (no) co_return fault(*no);
  }
  request->who = c.client->name();
  auto r = co_await c.kv.txn(std::move(*request));
  if (!r) co_return fault(r.error());
  co_return json_of(to_json(identity(c.kv), *r));
}

awaitable<Response> compaction(Call c) {
  auto revision = parse_compaction(c.body);
  if (!revision) co_return fault(revision.error());
  if (auto no = admins_only(c)) co_return fault(*no);
  auto r = co_await c.kv.compact(*revision);
  if (!r) co_return fault(r.error());
  co_return json_of(header_json(identity(c.kv), *r));
}

/// Leases that have ended leave the register when somebody is at the limit, or when it has grown.
awaitable<std::optional<Fault>> lease_room(const Call& c) {
  const auto limit = c.clients->limits().leases;
  if (c.clients->leases_of(c.client->name()) < limit && !c.clients->leases_worth_pruning()) co_return std::nullopt;
  const auto known = c.clients->known_leases();
  auto alive = co_await c.kv.leases();
  if (!alive) co_return fault_of(alive.error());
  c.clients->prune(known, *alive);
  if (c.clients->leases_of(c.client->name()) < limit) co_return std::nullopt;
  c.clients->count_refused_lease();
  co_return too_many(c, limit, "leases");
}

awaitable<Response> grant(Call c) {
  auto call = parse_lease(c.body);
  if (!call) co_return fault(call.error());
  if (c.rights.kind == Rights::Kind::nothing) co_return fault(denied(c));
  auto no = co_await lease_room(c);
  if (no) co_return fault(*no);
  auto r = co_await c.kv.lease_grant(call->ttl_s, call->id);
  if (!r) co_return fault(r.error());
  c.clients->granted(r->id, c.client->name());
  co_return json_of(grant_json(identity(c.kv), c.kv.revision(), *r));
}

awaitable<Response> keepalive(Call c) {
  auto call = parse_lease(c.body);
  if (!call) co_return fault(call.error());
  auto no = co_await lease_refusal(c, call->id);
  if (no) co_return fault(*no);
  auto r = co_await c.kv.lease_keepalive(call->id);
  if (!r && r.error().code != Errc::not_found) co_return fault(r.error());
  if (!r) c.clients->forget(call->id);
  co_return json_of(keepalive_json(identity(c.kv), c.kv.revision(), r ? *r : LeaseInfo{.id = call->id}));
}

awaitable<Response> revoke(Call c) {
  auto call = parse_lease(c.body);
  if (!call) co_return fault(call.error());
  auto no = co_await lease_refusal(c, call->id);
  if (no) co_return fault(*no);
  auto r = co_await c.kv.lease_revoke(call->id);
  if (!r && r.error().code != Errc::not_found) co_return fault(r.error());
  c.clients->forget(call->id);
  if (!r) co_return fault(r.error());
  co_return json_of(header_json(identity(c.kv), c.kv.revision()));
}

awaitable<Response> time_to_live(Call c) {
  auto call = parse_lease(c.body);
  if (!call) co_return fault(call.error());
  auto no = co_await lease_refusal(c, call->id);
  if (no) co_return fault(*no);
  auto r = co_await c.kv.lease_time_to_live(call->id, call->keys);
  if (!r) co_return fault(r.error());
  co_return json_of(time_to_live_json(identity(c.kv), c.kv.revision(), *r));
}

awaitable<Response> leases(Call c) {
  if (auto ok = parse_nothing(c.body); !ok) co_return fault(ok.error());
  if (auto no = admins_only(c)) co_return fault(*no);
  auto r = co_await c.kv.leases();
  if (!r) co_return fault(r.error());
  co_return json_of(leases_json(identity(c.kv), c.kv.revision(), *r));
}

awaitable<Response> status(Call c) {
  if (auto ok = parse_nothing(c.body); !ok) co_return fault(ok.error());
  auto r = co_await c.kv.status();
  if (!r) co_return fault(r.error());
  co_return json_of(status_json(identity(c.kv), *r, c.kv.stats().file_bytes));
}

struct Stream {
  std::shared_ptr<KvWatch> watch;
  std::shared_ptr<Clients> clients;
  std::shared_ptr<Client> client;
  Held held;  ///< the watch
  Identity id;
  WatchCall call;
};

awaitable<void> stream_events(std::shared_ptr<Stream> s, std::shared_ptr<http::ResponseStream> out) {
  for (;;) {
    auto batch = co_await s->watch->next_shared();
    if (!batch) {
      if (batch.error().code == Errc::compacted) {
        auto line = compacted_line(s->id, s->call.watch_id, s->watch->compacted_at());
        (void)co_await out->write(std::move(line));
      }
      log::debug("gateway.watch_ended", "client", s->client->name(), "key", s->call.request.key, "why",
                 batch.error().what);
      co_return;  // stopping: the connection closes, and the client tries again elsewhere
    }
    std::vector<std::string> lines;
    if (batch->changes.empty())
      lines.push_back(progress_line(s->id, batch->revision, s->call.watch_id));
    else
      lines = event_lines(s->id, s->call, *batch);
    batch->changes.clear();  // not kept alive by a slow peer
    std::size_t bytes = 0;
    for (const auto& line : lines) bytes += line.size();
    // Too many of its watches and answers wait to be read: this one ends, and the client resumes it when it reads.
    const auto held = s->client->take(Holds::byte, bytes);
    if (!held) {
      if (s->clients->tell(s->client->name()))
        log::warn("gateway.client_limit", "client", s->client->name(), "of", "bytes not read", "limit",
                  s->clients->limits().bytes);
      co_return;
    }
    // A write is a chunk and holds one line: python's etcd3gw decodes chunks, not lines.
    for (auto& line : lines) {
      auto written = co_await out->write(std::move(line));
      if (!written) {
        log::debug("gateway.watch_ended", "client", s->client->name(), "key", s->call.request.key, "why",
                   written.error().what);
        co_return;
      }
    }
  }
}

awaitable<Response> watch(Call c) {
  auto call = parse_watch(c.body);
  if (!call) co_return fault(call.error());
  const auto id = identity(c.kv);
  Response response;
  response.headers.set("Content-Type", "application/json");
  const std::string_view first(call->request.key.empty() ? std::string_view("\0", 1) : call->request.key);
  if (!may_read(c.rights, first, call->request.range_end)) {
    const auto no = denied(c);
    response.body =
        refused_line(id, c.kv.revision(),
                     fmt::format("rpc error: code = {} desc = {}",
                                 no.code == kPermissionDenied ? "PermissionDenied" : "InvalidArgument", no.message));
    co_return response;
  }
  auto held = c.client->take(Holds::watch);
  if (!held) co_return fault(too_many(c, c.clients->limits().watches, "watches open"));
  auto opened = c.kv.watch_shared(call->request);
  if (!opened) {
    if (opened.error().code != Errc::invalid) co_return fault(opened.error());
    const bool empty = opened.error().what.find("range is empty") != std::string::npos;
    response.body = refused_line(id, c.kv.revision(), empty ? "mvcc: watcher range is empty" : opened.error().what);
    co_return response;
  }
  auto stream =
      std::make_shared<Stream>(Stream{std::move(*opened), c.clients, c.client, std::move(*held), id, std::move(*call)});
  response.body = created_line(id, stream->watch->created_at(), stream->call.watch_id);
  response.stream = [stream](std::shared_ptr<http::ResponseStream> out) {
    return stream_events(stream, std::move(out));
  };
  co_return response;
}

struct Route {
  std::string_view path;  ///< below /v3/
  awaitable<Response> (*handle)(Call);
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

/// The rest of etcd's paths, about what is not here.
awaitable<Response> single(Call c) {
  // Asking for a token is not a change, and etcd3gw does it after any error.
  if (c.what != "auth/authenticate")
    if (auto no = admins_only(c)) co_return fault(*no);
  auto r = single_answer(c.what, c.body, identity(c.kv), c.kv.revision(), c.urls);
  if (!r) co_return Response::text(404, "Not Found\n");
  if (!*r) co_return fault(r->error());
  co_return json_of(std::move(**r));
}

awaitable<Response> (*handler_of(std::string_view path))(Call) {
  for (const auto& route : kRoutes)
    if (route.path == path) return route.handle;
  return single_answer(path, {}, {}, 0, {}) ? single : nullptr;
}

/// Over TLS the certificate decides; over anything else, whoever reaches the socket owns the cloud.
Rights rights_for(const http::Peer& peer, const GatewayOptions& options) {
  if (peer.via() != http::Peer::Via::tls) return {Rights::Kind::everything, {}};
  return rights_of(peer.identity(), options.admins);
}

/// Until an answer is written: the place among the client's requests and the bytes of both.
struct InWork {
  Held request;
  std::optional<Held> body;
  std::optional<Held> answer;
};

awaitable<Response> answer(std::shared_ptr<Clients> clients, Call call, awaitable<Response> (*handle)(Call)) {
  auto place = call.client->take(Holds::request);
  if (!place) co_return fault(too_many(call, clients->limits().requests, "requests in work"));
  auto work = std::make_shared<InWork>(InWork{std::move(*place), std::nullopt, std::nullopt});
  const auto too_slow = [&clients](const Call& c) {
    return fault(too_many(c, clients->limits().bytes, "bytes in requests and in answers it has not read"));
  };
  if (auto held = call.client->take(Holds::byte, call.body.size()); !held)
    co_return too_slow(call);
  else
    work->body.emplace(std::move(*held));
  auto body = std::move(call.body);
  Call mine = call;  // without it
  call.body = std::move(body);
  auto response = co_await handle(std::move(call));
  if (response.stream) co_return response;  // a watch has its own account
  work->body.reset();
  if (auto held = mine.client->take(Holds::byte, response.body.size()); !held)
    co_return too_slow(mine);
  else
    work->answer.emplace(std::move(*held));
  response.held = std::move(work);
  co_return response;
}

}  // namespace

awaitable<Response> Gateway::Service::handle(std::shared_ptr<Service> self, Request request) {
  Kv& kv = self->kv;
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
    auto* handler = handler_of(path);
    if (handler) {
      if (request.method != "POST") co_return Response::text(405, "Method Not Allowed\n");
      Call call{kv,
                self->clients,
                self->clients->of(request.peer),
                rights_for(request.peer, self->options),
                std::string(path),
                std::move(request.body),
                self->urls};
      co_return co_await answer(self->clients, std::move(call), handler);
    }
    co_return Response::text(404, "Not Found\n");
  }
  if (self->options.otherwise) co_return co_await self->options.otherwise(std::move(request));
  co_return Response::text(404, "404 page not found\n");
}

Gateway::Gateway(boost::asio::any_io_executor executor, Kv& kv, GatewayOptions options)
    : service_(std::make_shared<Service>(kv, std::move(options))) {
  http::ServerOptions server;
  server.name = "datastore";
  server.max_connections = 4096;
  server.refusal = [](unsigned status, const std::string& what) {
    const int code = status == 413 ? kResourceExhausted : status == 408 ? kDeadlineExceeded : kInvalidArgument;
    return fault(Fault{status, code, what});
  };
  server.stream_request = [front = front_](const Request& r) { return front->takes && front->takes(r); };
  http::Handler handler = [front = front_, service = service_](Request r) {
    return r.body_reader || (front->takes && front->takes(r)) ? front->handle(std::move(r))
                                                              : Service::handle(service, std::move(r));
  };
  server_ = std::make_unique<http::Server>(std::move(executor), std::move(server), std::move(handler));
}
Gateway::~Gateway() = default;

Status Gateway::listen(http::Listen where) { return server_->listen(std::move(where)); }
std::vector<http::Endpoint> Gateway::endpoints() const { return server_->endpoints(); }
void Gateway::set_front(GatewayFront front) { *front_ = std::move(front); }
Status Gateway::reload_tls() { return server_->reload_tls(); }
std::size_t Gateway::close_peers(const std::function<bool(const http::Peer&)>& which) {
  return server_->close_peers(which);
}
void Gateway::start() {
  for (const auto& e : server_->endpoints()) service_->urls.push_back(e.to_string());
  server_->start();
}
awaitable<void> Gateway::stop() { return server_->stop(); }
http::ServerStats Gateway::stats() const { return server_->stats(); }
ClientStats Gateway::client_stats() const { return service_->clients->stats(); }

}  // namespace calico::store::etcd
