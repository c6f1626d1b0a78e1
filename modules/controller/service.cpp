#include "modules/controller/service.hpp"

#include <boost/asio/use_awaitable.hpp>
#include <boost/json.hpp>

#include "core/http/server.hpp"
#include "core/log/log.hpp"
#include "core/loop/loop.hpp"
#include "core/loop/task_group.hpp"
#include "core/model/keys.hpp"
#include "core/model/resources.hpp"
#include "core/store/kv.hpp"
#include "modules/controller/api.hpp"
#include "modules/controller/persist.hpp"
#include "modules/controller/sender.hpp"

namespace calico::controller {

namespace {

constexpr std::size_t kResyncChunk = 100;  // operations of one transaction; the datastore takes 128

/// Runs on the datastore's writer. Everything it needs came by value; `generate` is used there only.
struct Write {
  std::vector<Row> rows;
  std::vector<Outbox::Item> outbox;  ///< where the datastore is elsewhere; then no intents
  std::vector<Outbox::Sent> sent;    ///< of an outbox whose intents these are
  std::vector<Intent> intents;
  std::vector<std::string> removed_prefixes;
  std::int64_t sequence = 0;
  std::shared_ptr<Generators> generate;
  std::int64_t now = 0;
  std::shared_ptr<std::size_t> operations = std::make_shared<std::size_t>(0);

  Result<store::TxnRequest> operator()(store::WriteScope& scope) const {
    if (auto s = write_rows(scope.db(), rows, sequence); !s) return tl::unexpected(s.error());
    if (auto s = Outbox::write(scope.db(), outbox); !s) return tl::unexpected(s.error());
    if (auto s = Outbox::forget(scope.db(), sent); !s) return tl::unexpected(s.error());
    store::TxnRequest txn;
    txn.who = "neutron";
    auto stamp = [this] { return Stamp{rfc3339(now), generate->uuid()}; };
    for (const auto& intent : intents) {
      auto current = scope.get(intent.key);
      if (!intent.desired) {
        if (current) {
          store::DeleteRequest del;
          del.key = intent.key;
          txn.success.emplace_back(std::move(del));
        }
        continue;
      }
      if (intent.once && current) continue;
      std::optional<std::string_view> existing;
      if (current) existing = current->value;
      auto value = merge(intent, existing, stamp);
      if (!value) continue;
      store::PutRequest put;
      put.key = intent.key;
      put.value = std::move(*value);
      txn.success.emplace_back(std::move(put));
    }
    for (const auto& prefix : removed_prefixes) {
      store::DeleteRequest del;
      del.key = prefix;
      del.range_end = store::prefix_end(prefix);
      txn.success.emplace_back(std::move(del));
    }
    *operations = txn.success.size();
    return txn;
  }
};

std::string hex_guid(const Generators& generate) {
  std::string guid = generate.uuid();
  std::erase(guid, '-');
  return guid;
}

http::Response response(int status, std::string body) {
  if (status == 204) {
    http::Response r;
    r.status = 204;
    return r;
  }
  return http::Response::json(static_cast<unsigned>(status), std::move(body));
}

}  // namespace

class Service::Impl {
 public:
  Impl(ServiceOptions options, ServiceHooks hooks)
      : options_(std::move(options)),
        hooks_(std::move(hooks)),
        clock_(options_.clock ? *options_.clock : system_clock_),
        region_(Region::named(options_.region)),
        feedback_(region_.string, clock_),
        translator_(state_, region_, options_.tokens ? options_.tokens->projects() : Projects{}),
        api_(state_, feedback_, translator_, clock_),
        tasks_(loop_.executor(), "controller") {}

  Status start() {
    if (auto s = read_state(); !s) return s;
    if (options_.listen) {
      http::ServerOptions server_options;
      server_options.name = "api";
      auto handler = [this](http::Request request) -> awaitable<http::Response> { return serve(std::move(request)); };
      server_ = std::make_unique<http::Server>(loop_.executor(), server_options, handler);
      http::Listen where;
      where.at = *options_.listen;
      where.tls = options_.tls;
      if (auto s = server_->listen(where); !s) return wrap(s.error(), "[controller] api_listen");
      endpoint_ = server_->endpoints().front();
    }
    loop_.start();
    started_ = true;
    loop_.post([this] { tasks_.spawn("feed", [this]() -> awaitable<void> { return run(); }); });
    return {};
  }

  void stop() {
    if (!started_) return;
    started_ = false;
    auto done = std::make_shared<std::promise<void>>();
    auto waiting = done->get_future();
    loop_.post([this, done] {
      closing_.spawn("stop", [this, done]() -> awaitable<void> {
        if (server_) co_await server_->stop();
        tasks_.cancel();
        co_await tasks_.join();
        done->set_value();
      });
    });
    waiting.wait();
    loop_.stop();
  }

  std::optional<http::Endpoint> endpoint() const { return endpoint_; }

  void use_tokens(std::optional<Tokens> tokens) {
    if (!started_) return;
    loop_.call([&] {
      translator_.set_projects(tokens ? tokens->projects() : Projects{});
      options_.tokens = std::move(tokens);
    });
  }

  std::string describe() {
    if (!started_) return "{}";
    return loop_.call([this] {
      json::object ports{{"ACTIVE", 0}, {"DOWN", 0}, {"ERROR", 0}};
      std::size_t failed = 0;
      for (const auto& [id, p] : state_.all<Port>()) {
        auto& n = ports[feedback_.status(p)];
        n = n.as_int64() + 1;
        failed += p.vif_type == "binding_failed";
      }
      std::size_t alive = 0;
      for (const auto& [host, a] : feedback_.agents()) alive += feedback_.alive(a);
      json::object outbox{{"waiting", outbox_.size()}, {"why", sender_ ? sender_->waiting() : std::string()}};
      return json::serialize(
          json::object{{"api", endpoint_ ? json::value(endpoint_->to_string()) : json::value(nullptr)},
                       {"networks", state_.all<Network>().size()},
                       {"subnets", state_.all<Subnet>().size()},
                       {"security_groups", state_.all<SecurityGroup>().size()},
                       {"security_group_rules", state_.all<Rule>().size()},
                       {"ports", std::move(ports)},
                       {"ports_binding_failed", failed},
                       {"agents", feedback_.agents().size()},
                       {"agents_alive", alive},
                       {"outbox", options_.remote ? json::value(std::move(outbox)) : json::value(nullptr)},
                       {"requests", requests_},
                       {"refused", refused_},
                       {"unauthorized", unauthorized_},
                       {"commits", commits_},
                       {"commits_failed", commits_failed_}});
    });
  }

 private:
  std::int64_t now() const {
    return std::chrono::duration_cast<std::chrono::seconds>(clock_.wall().time_since_epoch()).count();
  }

  Status read_state() {
    auto db = store::Db::open({.path = options_.database, .synchronous = store::Db::Synchronous::full});
    if (!db) return tl::unexpected(db.error());
    if (auto s = (*db)->migrate(kNeutronSchema); !s) return s;
    auto loaded = load(**db);
    if (!loaded) return tl::unexpected(loaded.error());
    state_ = std::move(loaded->state);
    sequence_ = loaded->sequence;
    outbox_.replace(std::move(loaded->outbox));
    return {};
  }

  /// One transaction. To be called without a suspension between the change of the state and this.
  awaitable<Status> commit(Commit c) {
    Write write;
    write.rows = rows_of(state_, c.rows);
    write.sequence = ++sequence_;
    if (options_.remote) {
      for (auto& intent : c.intents) write.outbox.push_back({std::move(intent), false, write.sequence, 0});
      for (auto& prefix : c.removed_prefixes) {
        Intent all_below;
        all_below.key = std::move(prefix);
        write.outbox.push_back({std::move(all_below), true, write.sequence, 0});
      }
      if (touched_)
        for (const auto& item : write.outbox) touched_->insert(item.intent.key);
    } else {
      write.intents = std::move(c.intents);
      write.removed_prefixes = std::move(c.removed_prefixes);
      write.sent = std::move(c.sent);
    }
    auto waiting = write.outbox;
    write.generate = generate_on_writer_;
    write.now = now();
    auto operations = write.operations;
    store::WriteFunction f = std::move(write);
    ++in_flight_;
    auto r = co_await options_.kv->txn_with(std::move(f));
    --in_flight_;
    last_operations_ = *operations;
    if (r) {
      ++commits_;
      if (!waiting.empty()) {
        outbox_.add(std::move(waiting));
        if (sender_) sender_->wake();
      }
    } else {
      ++commits_failed_;
      if (!broken_) why_broken_ = r.error();
      broken_ = true;
    }
    if (broken_ && in_flight_ == 0 && why_broken_.code != Errc::closed) recover();
    if (!r) co_return tl::unexpected(r.error());
    co_return Status{};
  }

  /// Something that memory has was not kept: nothing that came after it was either (write_rows sees to that).
  void recover() {
    auto s = read_state();
    if (!s) {
      hooks_.fatal("the state cannot be read again after a failed write: " + s.error().what);
      return;
    }
    broken_ = false;
    log::warn("controller.write_lost", "reason", why_broken_.what, "action", "state read again; clients got 503");
  }

  awaitable<void> run() {
    if (options_.remote) {
      co_await run_remote();
      co_return;
    }
    if (auto s = co_await empty_outbox(); !s) {
      hooks_.fatal("what the API wrote while the datastore was elsewhere cannot be written here: " + s.error().what);
      co_return;
    }
    auto first = Translator::defaults(hex_guid(*generate_here_));
    Commit defaults;
    defaults.intents = std::move(first);
    if (auto s = co_await commit(std::move(defaults)); !s) {
      hooks_.fatal("the cluster's defaults cannot be written: " + s.error().what);
      co_return;
    }
    if (!server_) {
      hooks_.status("datastore only, no API");
      hooks_.ready();
      co_return;
    }
    auto watch = co_await list_reports();
    auto resynced = co_await resync();
    if (!resynced) {
      hooks_.fatal("the datastore cannot be compared with the API's state: " + resynced.error().what);
      co_return;
    }
    serve_api();
    for (;;) {
      if (!watch) {
        if (watch.error().code == Errc::closed) co_return;
        if (!co_await sleep_for(std::chrono::seconds(1))) co_return;
      } else {
        auto stopped = co_await follow_reports(std::move(*watch));
        if (stopped.code == Errc::closed) co_return;
        if (stopped.code != Errc::compacted)
          log::warn("controller.feed_restarted", "reason", stopped.what, "action", "reading all reports again");
      }
      watch = co_await list_reports();
    }
  }

  void serve_api() {
    server_->start();
    hooks_.status("API at " + endpoint_->to_string());
    log::info("controller.listening", "api", endpoint_->to_string(), "tokens",
              options_.tokens ? std::to_string(options_.tokens->size()) : "none", "networks",
              state_.all<Network>().size(), "ports", state_.all<Port>().size());
    hooks_.ready();
  }

  /// What a time with the datastore elsewhere has left over: into the one that is here again.
  awaitable<Status> empty_outbox() {
    while (!outbox_.empty()) {
      Commit part;
      for (auto& item : outbox_.first(kResyncChunk)) {
        part.sent.emplace_back(item.intent.key, item.write);
        if (item.prefix)
          part.removed_prefixes.push_back(std::move(item.intent.key));
        else
          part.intents.push_back(std::move(item.intent));
      }
      const auto sent = part.sent;
      if (auto s = co_await commit(std::move(part)); !s) co_return s;
      outbox_.done(sent);
    }
    co_return Status{};
  }

  /// The datastore is elsewhere: the API serves at once, and what it means for the datastore follows.
  awaitable<void> run_remote() {
    if (!server_) {
      hooks_.status("the datastore is elsewhere, no API");
      hooks_.ready();
      co_return;
    }
    SenderOptions sending;
    sending.forget = [this](std::vector<Outbox::Sent> sent) { return forget(std::move(sent)); };
    sending.stamp = [this] { return Stamp{rfc3339(now()), generate_here_->uuid()}; };
    sending.guid = co_await own_guid();
    sender_ = std::make_unique<Sender>(*options_.remote, outbox_, loop_.executor(), std::move(sending));
    // Until the first list every host is believed to have an agent: the datastore may be away for reasons of its own.
    feedback_.deafen();
    serve_api();
    tasks_.spawn("send", [this]() -> awaitable<void> { return sender_->run(); });
    std::string said;
    for (;;) {
      auto watch = co_await list_reports();
      Error why;
      if (watch) {
        // Also after each loss of it: the datastore may have been put back from a copy meanwhile.
        auto compared = co_await compare();
        if (compared) {
          hooks_.status("API at " + endpoint_->to_string());
          why = co_await follow_reports(std::move(*watch));
        } else {
          why = compared.error();
        }
      } else {
        why = watch.error();
      }
      feedback_.deafen();
      if (why.code == Errc::canceled) co_return;
      if (why.what != said) log::warn("controller.feed_restarted", "reason", why.what, "action", "reading all again");
      said = why.what;
      hooks_.status(fmt::format("API at {}; the datastore: {}", endpoint_->to_string(), why.what));
      if (!co_await sleep_for(std::chrono::seconds(1))) co_return;
    }
  }

  awaitable<Status> forget(std::vector<Outbox::Sent> sent) {
    store::WriteFunction f = [sent = std::move(sent)](store::WriteScope& scope) -> Result<store::TxnRequest> {
      if (auto s = Outbox::forget(scope.db(), sent); !s) return tl::unexpected(s.error());
      return store::TxnRequest{};
    };
    auto done = co_await options_.kv->txn_with(std::move(f));
    if (!done) co_return tl::unexpected(done.error());
    co_return Status{};
  }

  /// As the read-only embedded datastore says: what is written elsewhere must be the same cloud's.
  awaitable<std::string> own_guid() {
    store::RangeRequest range;
    range.key = std::string(model::kClusterInformation);
    auto got = co_await options_.kv->range(range);
    if (!got || got->kvs.empty()) co_return std::string();
    const auto info = model::parse_cluster_information(got->kvs.front().value);
    co_return info ? info->cluster_guid : std::string();
  }

  /// What the remote datastore should hold and does not goes into the outbox; as resync(), nothing else is removed.
  awaitable<Status> compare() {
    // What a request touches meanwhile is newer than this list.
    touched_.emplace();
    auto differing = co_await sender_->differing(translator_.all());
    auto touched = std::move(*touched_);
    touched_.reset();
    if (!differing) co_return tl::unexpected(differing.error());
    std::erase_if(*differing, [&](const Intent& i) { return touched.contains(i.key) || outbox_.contains(i.key); });
    if (differing->empty()) co_return Status{};
    log::info("controller.resynced", "keys_written", differing->size());
    for (std::size_t first = 0; first < differing->size(); first += kResyncChunk) {
      Commit part;
      const auto last = std::min(first + kResyncChunk, differing->size());
      for (auto i = first; i < last; ++i)
        if (!outbox_.contains((*differing)[i].key)) part.intents.push_back(std::move((*differing)[i]));
      if (part.intents.empty()) continue;
      if (auto s = co_await commit(std::move(part)); !s) co_return s;
    }
    co_return Status{};
  }

  store::Datastore& datastore() { return options_.remote ? *options_.remote : *options_.kv; }

  /// Everything agents have reported, and a watch from there on.
  awaitable<Result<std::unique_ptr<store::Watch>>> list_reports() {
    store::RangeRequest range;
    range.key = feedback_.prefix();
    range.range_end = store::prefix_end(range.key);
    auto got = co_await datastore().range(range);
    if (!got) co_return tl::unexpected(got.error());
    feedback_.reset();
    for (const auto& kv : got->kvs) feedback_.apply(kv.key, kv.value);
    store::WatchRequest request;
    request.key = feedback_.prefix();
    request.range_end = store::prefix_end(request.key);
    request.start_revision = got->revision + 1;
    // Where it is elsewhere silence has to be noticed.
    request.progress_notify = options_.remote != nullptr;
    co_return co_await datastore().watch(std::move(request));
  }

  awaitable<Error> follow_reports(std::unique_ptr<store::Watch> watch) {
    for (;;) {
      auto batch = co_await watch->next();
      if (!batch) co_return batch.error();
      for (const auto& change : batch->events) {
        std::optional<std::string_view> value;
        if (change.type == store::Event::Type::put) value = change.kv.value;
        auto port = feedback_.apply(change.kv.key, value);
        if (port.empty()) continue;
        const auto* p = state_.find<Port>(port);
        if (p) log::debug("controller.port_status", "port", port, "status", feedback_.status(*p));
      }
    }
  }

  /// The datastore is what the state says, name changes included. Keys that are not ours stay: they may be an
  /// operator's or another driver's, and removing what one does not know is how clouds are lost.
  awaitable<Status> resync() {
    auto all = translator_.all();
    std::size_t written = 0;
    for (std::size_t first = 0; first < all.size(); first += kResyncChunk) {
      Commit part;
      auto last = std::min(first + kResyncChunk, all.size());
      part.intents.assign(std::make_move_iterator(all.begin() + static_cast<std::ptrdiff_t>(first)),
                          std::make_move_iterator(all.begin() + static_cast<std::ptrdiff_t>(last)));
      if (auto s = co_await commit(std::move(part)); !s) co_return s;
      written += last_operations_;
    }
    if (written > 0) log::info("controller.resynced", "keys_written", written, "of", all.size());
    std::size_t foreign = 0;
    store::RangeRequest range;
    range.key = "/calico/resources/v3/projectcalico.org/workloadendpoints/" + region_.space + "/";
    range.range_end = store::prefix_end(range.key);
    range.keys_only = true;
    auto got = co_await options_.kv->range(range);
    if (!got) co_return tl::unexpected(got.error());
    std::set<std::string> ours;
    for (const auto& [id, p] : state_.all<Port>()) {
      if (!Translator::wanted(p)) continue;
      for (const auto& intent : translator_.endpoints(p)) ours.insert(intent.key);
    }
    for (const auto& kv : got->kvs) foreign += !ours.contains(kv.key);
    if (foreign > 0)
      log::warn("controller.foreign_endpoints", "count", foreign, "action",
                "kept; remove them from the datastore if no other driver writes here");
    co_return Status{};
  }

  awaitable<http::Response> serve(http::Request in) {
    ++requests_;
    Request request;
    if (options_.tokens) {
      auto token = in.headers.get("X-Auth-Token");
      auto caller = token ? options_.tokens->find(*token) : std::nullopt;
      if (!caller) {
        ++unauthorized_;
        auto r = response(401, error_body({401, "HTTPUnauthorized",
                                           "The request you have made requires authentication: X-Auth-Token is missing "
                                           "or not known."}));
        r.headers.set("WWW-Authenticate", "X-Auth-Token");
        co_return r;
      }
      request.caller = std::move(*caller);
    } else {
      auto project = in.headers.get("X-Project-Id");
      if (!project) project = in.headers.get("X-Tenant-Id");
      request.caller = {std::string(project.value_or(kAdminProject)), true};
      if (request.caller.project.size() > 255) request.caller.project.resize(255);
    }
    if (broken_) co_return response(503, error_body({503, "ServiceUnavailable", "The last write failed; try again."}));
    request.method = std::move(in.method);
    request.path = std::move(in.path);
    request.query = std::move(in.query);
    request.body = std::move(in.body);
    auto host = in.headers.get("Host");
    request.base = host && host->size() < 256 ? (endpoint_->tls ? "https://" : "http://") + std::string(*host)
                                              : endpoint_->to_string();

    if (sender_ && outbox_.size() >= Outbox::kMost && request.method != "GET")
      co_return response(503, error_body({503, "ServiceUnavailable",
                                          "The datastore has been away for too long: " + sender_->waiting()}));

    auto out = api_.handle(request);
    if (out.status >= 400) ++refused_;
    auto allow = std::move(out.allow);
    if (!out.commit.empty()) {
      auto kept = co_await commit(std::move(out.commit));
      if (!kept) {
        ApiError error{503, "ServiceUnavailable", "Nothing was changed: " + kept.error().what};
        co_return response(503, error_body(error));
      }
    }
    while (out.rest) {
      co_await asio::post(loop_.executor(), asio::use_awaitable);  // others have their turn
      api_.more(out);
    }
    auto r = response(out.status, std::move(out.body));
    if (!allow.empty()) r.headers.set("Allow", allow);
    co_return r;
  }

  ServiceOptions options_;
  ServiceHooks hooks_;
  SystemClock system_clock_;
  const Clock& clock_;
  Region region_;
  State state_;
  Feedback feedback_;
  Translator translator_;
  Api api_;
  std::shared_ptr<Generators> generate_on_writer_ = std::make_shared<Generators>(Generators::random());
  std::shared_ptr<Generators> generate_here_ = std::make_shared<Generators>(Generators::random());
  std::int64_t sequence_ = 0;
  Outbox outbox_;
  std::optional<std::set<std::string, std::less<>>> touched_;  ///< while compare() reads
  std::size_t in_flight_ = 0;
  std::size_t last_operations_ = 0;
  bool broken_ = false;
  Error why_broken_;
  std::uint64_t requests_ = 0, refused_ = 0, unauthorized_ = 0, commits_ = 0, commits_failed_ = 0;
  std::optional<http::Endpoint> endpoint_;
  bool started_ = false;
  Loop loop_{"api"};
  TaskGroup tasks_;
  TaskGroup closing_{loop_.executor(), "controller-stop"};
  std::unique_ptr<http::Server> server_;
  // With timers of the loop: it goes before it.
  std::unique_ptr<Sender> sender_;  ///< where the datastore is elsewhere
};

Service::Service(ServiceOptions options, ServiceHooks hooks)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(hooks))) {}
Service::~Service() { impl_->stop(); }
Status Service::start() { return impl_->start(); }
void Service::stop() { impl_->stop(); }
std::optional<http::Endpoint> Service::endpoint() const { return impl_->endpoint(); }
void Service::use_tokens(std::optional<Tokens> tokens) { impl_->use_tokens(std::move(tokens)); }
std::string Service::describe() { return impl_->describe(); }

}  // namespace calico::controller
