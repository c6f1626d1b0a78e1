#include "core/store/etcd/client.hpp"

#include <algorithm>
#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <fstream>
#include <random>

#include "core/http/client.hpp"
#include "core/loop/run_on.hpp"
#include "core/store/etcd/client_json.hpp"

namespace calico::store {

namespace asio = boost::asio;

namespace {

constexpr std::size_t kBodyBytes = 64 * 1024 * 1024;
constexpr int kRestarts = 3;  ///< of a paged range whose revision was compacted meanwhile

/// First line of the file. The text is a secret, the path is not.
Result<std::string> read_password(const std::string& path) {
  std::ifstream in(path);
  if (!in) return fail_errno(errno ? errno : EIO, fmt::format("password_file {}", path));
  std::string line;
  std::getline(in, line);
  if (line.ends_with('\r')) line.pop_back();
  if (line.empty() || line.size() > 1024)
    return fail(Errc::invalid, "password_file {}: a first line of 1 to 1024 bytes expected", path);
  return line;
}

Error at(const http::Endpoint& from, Error e) {
  e.what = fmt::format("{}: {}", from.to_string(), e.what);
  return e;
}

Error why_canceled(const etcd::WatchLine& line) {
  if (line.compacted_at > 0)
    return {Errc::compacted, fmt::format("watch: the revisions below {} are compacted", line.compacted_at)};
  if (line.reason.empty()) return {Errc::closed, "watch: ended by the server"};
  return etcd::refusal_of_reason(line.reason).error;
}

/// A history that does not fit in a line would not fit the next time either: for its reader it is gone, as after a
/// compaction, and a list is what helps.
Error why_no_line(Error e) {
  if (e.code != Errc::exhausted) return e;
  return {Errc::compacted, fmt::format("watch: too much history to be told: {}", e.what)};
}

/// Of a first line that is not a plain "created".
etcd::Refusal why_not_created(const etcd::WatchLine& line) {
  if (line.canceled) return etcd::refusal_of_reason(line.reason);
  return {.error = {Errc::invalid, "watch: the first line does not say created"}};
}

/// How long a password that was refused is not sent again: the server pays for every attempt (bcrypt), and a cloud
/// whose password is wrong everywhere would keep it busy with nothing else. Another text in the file is sent at once.
constexpr auto kRefusedMin = std::chrono::seconds(15);
constexpr auto kRefusedMax = std::chrono::seconds(30);

TimePoint now() { return std::chrono::steady_clock::now(); }
/// At least a millisecond: zero would mean the default.
Duration left(TimePoint deadline) { return std::max<Duration>(deadline - now(), std::chrono::milliseconds(1)); }

struct Call {
  std::string path;
  std::string body;
  bool idempotent = false;
  bool log_in = true;  ///< may be tried again with a new token
  std::string about;   ///< what a refusal for lack of rights was about: "put /calico/x"
};

Call read_call(std::string path, std::string body, std::string about = {}) {
  return {std::move(path), std::move(body), true, true, std::move(about)};
}
Call write_call(std::string path, std::string body, std::string about = {}) {
  return {std::move(path), std::move(body), false, true, std::move(about)};
}
Call login_call(std::string body) { return {"auth/authenticate", std::move(body), true, false, {}}; }

/// "/calico/x", "/calico/…" for a prefix, "/a to /b" for any other range.
std::string name_of(const std::string& key, const std::string& range_end) {
  if (range_end.empty()) return key;
  if (range_end == std::string(1, '\0') || range_end == prefix_end(key)) return key + "…";
  return fmt::format("{} to {}", key, range_end);
}
std::string about(const RangeRequest& r) { return "read " + name_of(r.key, r.range_end); }
std::string about(const PutRequest& r) { return "put " + r.key; }
std::string about(const DeleteRequest& r) { return "delete " + name_of(r.key, r.range_end); }
/// etcd does not say which operation of a transaction it refuses: the first few are named.
std::string about(const TxnRequest& r) {
  std::string out;
  std::size_t named = 0, count = 0;
  for (const auto* branch : {&r.success, &r.failure})
    for (const auto& op : *branch) {
      ++count;
      if (named == 3) continue;
      ++named;
      out += (out.empty() ? "" : ", ") + std::visit([](const auto& x) { return about(x); }, op);
    }
  if (count > named) out += fmt::format(" or {} more", count - named);
  return out;
}

}  // namespace

struct EtcdClient::Impl : std::enable_shared_from_this<EtcdClient::Impl> {
  Impl(asio::any_io_executor ex, EtcdOptions o) : executor(std::move(ex)), options(std::move(o)) {}

  http::Headers headers() const {
    http::Headers h{{"Content-Type", "application/json"}};
    // A member cut off from the others refuses instead of answering from its old past.
    h.add("Grpc-Metadata-hasleader", "true");
    if (!token.empty()) h.add("Authorization", token);
    return h;
  }
  http::ClientRequest request_of(const Call& call, TimePoint deadline) const {
    http::ClientRequest r;
    r.method = "POST";
    r.target = "/v3/" + call.path;
    r.headers = headers();
    r.body = call.body;
    r.timeout = left(deadline);
    r.idempotent = call.idempotent;
    return r;
  }
  TimePoint deadline() const { return now() + options.request_timeout; }
  bool can_log_in() const { return !options.username.empty(); }
  /// Without a token the first call would only be refused. An etcd that does not ask for one says so once.
  awaitable<Status> log_in_first(TimePoint deadline) {
    if (!can_log_in() || !token.empty() || auth_is_off) co_return Status{};
    auto done = co_await log_in(token_count, deadline);
    if (!done && done.error().code == Errc::unsupported) auth_is_off = true;
    if (!done && !auth_is_off) co_return done;
    co_return Status{};
  }
  Error explain(const http::Endpoint& from, etcd::Refusal refusal, const std::string& about) const;

  awaitable<Status> log_in(std::uint64_t seen, TimePoint deadline);
  awaitable<Status> authenticate(const std::string& password, TimePoint deadline);
  /// The body of a good answer and who gave it.
  awaitable<Result<http::Answer>> ask(Call call);
  awaitable<Result<http::Answer>> ask(Call call, TimePoint deadline);
  awaitable<Result<RangeResult>> range_once(RangeRequest request);
  awaitable<Result<RangeResult>> range(RangeRequest request);
  awaitable<Result<RangeResult>> range_in_pages(RangeRequest request);
  awaitable<Result<std::unique_ptr<Watch>>> watch(WatchRequest request);

  /// ask() and then `decode`, with the endpoint in the error.
  template <class T, class Decode>
  awaitable<Result<T>> ask_for(Call call, Decode decode) {
    auto answer = co_await ask(std::move(call));
    if (!answer) co_return tl::unexpected(answer.error());
    Result<T> decoded = decode(std::string_view(answer->body));
    if (!decoded) co_return tl::unexpected(at(answer->from, decoded.error()));
    co_return decoded;
  }

  asio::any_io_executor executor;
  EtcdOptions options;
  std::unique_ptr<http::Client> http;
  std::string token;              ///< secret
  bool auth_is_off = false;       ///< etcd has authentication disabled: user and password are of no use
  std::uint64_t token_count = 0;  ///< of log-ins: tells whether somebody else has just renewed it
  bool logging_in = false;        ///< one at a time; the others wait for `logged_in` to be canceled
  asio::steady_timer logged_in{executor, asio::steady_timer::time_point::max()};
  struct RefusedPassword {
    std::size_t hash = 0;
    TimePoint until;
    Error error;
  };
  std::optional<RefusedPassword> refused;
  std::minstd_rand random{std::random_device{}()};
  std::atomic<std::uint64_t> requests = 0;
};

namespace {

/// Runs on the client's loop, used through EtcdWatch.
struct OpenWatch {
  OpenWatch(std::unique_ptr<http::LineReader> l, Revision from, Duration s, std::function<void()> elsewhere)
      : lines(std::move(l)), start(from), silence(s), leave(std::move(elsewhere)) {}

  struct Next {
    Result<WatchBatch> batch;
    Revision compacted_at = 0;
  };
  awaitable<Next> next() {
    Next out;
    auto line = co_await lines->read_line(silence);
    if (!line) {
      out.batch = tl::unexpected(why_no_line(line.error()));
      co_return out;
    }
    const auto from = lines->head().from;
    auto decoded = etcd::decode_watch_line(*line);
    if (!decoded) {
      lines->close();
      // "No leader", "server stopped": the member is alive and of no use, so the next call must not ask it first.
      if (decoded.error().code == Errc::unavailable || decoded.error().code == Errc::timeout) leave();
      out.batch = tl::unexpected(at(from, decoded.error()));
      co_return out;
    }
    if (decoded->canceled) {
      lines->close();
      if (why_canceled(*decoded).code == Errc::unavailable) leave();
      out.compacted_at = decoded->compacted_at;
      out.batch = tl::unexpected(at(from, why_canceled(*decoded)));
      co_return out;
    }
    out.batch = std::move(decoded->batch);
    auto& events = out.batch->events;
    if (!events.empty()) out.batch->revision = events.back().kv.mod_revision;
    std::erase_if(events, [this](const Event& e) { return e.kv.mod_revision < start; });
    co_return out;
  }

  std::unique_ptr<http::LineReader> lines;
  Revision start;  ///< nothing older is told
  Duration silence;
  std::function<void()> leave;
};

class EtcdWatch final : public Watch {
 public:
  EtcdWatch(asio::any_io_executor executor, std::shared_ptr<OpenWatch> open)
      : executor_(std::move(executor)), open_(std::move(open)) {}
  ~EtcdWatch() override {
    asio::post(executor_, [open = std::move(open_)] { open->lines->close(); });
  }
  awaitable<Result<WatchBatch>> next() override {
    std::function<awaitable<OpenWatch::Next>()> f = [open = open_]() -> awaitable<OpenWatch::Next> {
      return open->next();
    };
    auto out = co_await run_on<OpenWatch::Next>(executor_, f);
    compacted_at_ = out.compacted_at;
    co_return std::move(out.batch);
  }
  Revision compacted_at() const override { return compacted_at_; }

 private:
  asio::any_io_executor executor_;
  std::shared_ptr<OpenWatch> open_;
  Revision compacted_at_ = 0;
};

}  // namespace

/// What a refusal means to whoever set this node up: the key, and what to set.
Error EtcdClient::Impl::explain(const http::Endpoint& from, etcd::Refusal refusal, const std::string& about) const {
  Error e = std::move(refusal.error);
  if (refusal.log_in && !can_log_in()) {
    e.code = Errc::no_permission;
    e.what = fmt::format(
        "etcd has authentication enabled, and at its JSON gateway a certificate names no user: set [datastore] "
        "username "
        "and password_file ({})",
        e.what);
  } else if (refusal.no_rights && !about.empty()) {
    e.what = can_log_in()
                 ? fmt::format("user '{}' may not {}: {}; its role lacks this key", options.username, about, e.what)
                 : fmt::format(
                       "this certificate may not {}: {} (an etcd with authentication knows no user by a certificate: "
                       "set [datastore] username and password_file)",
                       about, e.what);
  }
  return at(from, std::move(e));
}

/// `seen` = token_count when the refused call was sent. However many calls are refused at once, one of them logs in.
awaitable<Status> EtcdClient::Impl::log_in(std::uint64_t seen, TimePoint deadline) {
  while (logging_in) (void)co_await logged_in.async_wait(asio::as_tuple(asio::use_awaitable));
  if (seen != token_count) co_return Status{};  // renewed while we waited for our refusal
  auto password = read_password(options.password_file);
  if (!password) co_return tl::unexpected(password.error());
  const auto hash = std::hash<std::string>{}(*password);
  if (refused && refused->hash == hash && now() < refused->until) co_return tl::unexpected(refused->error);
  struct Turn {
    explicit Turn(Impl& i) : impl(i) { impl.logging_in = true; }
    ~Turn() {
      impl.logging_in = false;
      impl.logged_in.cancel();
    }
    Impl& impl;
  } turn(*this);
  auto done = co_await authenticate(*password, deadline);
  if (!done && done.error().code == Errc::no_permission &&
      done.error().what.find("authentication failed") != std::string::npos) {
    done.error().what += fmt::format("; is {} its password?", options.password_file);
    using Ms = std::chrono::milliseconds;
    const auto wait =
        std::uniform_int_distribution<std::int64_t>(Ms(kRefusedMin).count(), Ms(kRefusedMax).count())(random);
    refused = RefusedPassword{hash, now() + Ms(wait), done.error()};
  }
  co_return done;
}

awaitable<Status> EtcdClient::Impl::authenticate(const std::string& password, TimePoint deadline) {
  Call call = login_call(etcd::encode_login(options.username, password));
  token.clear();
  auto answer = co_await ask(std::move(call), deadline);
  auto got = answer ? etcd::decode_login(answer->body) : Result<std::string>(tl::unexpected(answer.error()));
  if (!got) co_return wrap(got.error(), fmt::format("log in as '{}'", options.username));
  token = std::move(*got);
  ++token_count;
  refused.reset();
  co_return Status{};
}

awaitable<Result<http::Answer>> EtcdClient::Impl::ask(Call call) {
  auto answer = co_await ask(std::move(call), deadline());
  co_return answer;
}

awaitable<Result<http::Answer>> EtcdClient::Impl::ask(Call call, TimePoint deadline) {
  auto self = shared_from_this();
  bool log_in_left = call.log_in && can_log_in();
  auto elsewhere_left = options.endpoints.size() - 1;
  if (log_in_left) {
    auto ready = co_await log_in_first(deadline);
    if (!ready) co_return tl::unexpected(ready.error());
  }
  for (;;) {
    const auto seen = token_count;
    ++requests;
    auto request = request_of(call, deadline);
    auto answer = co_await http->request(std::move(request));
    if (!answer) co_return tl::unexpected(answer.error());
    if (answer->status == 200) co_return answer;
    auto refusal = etcd::decode_refusal(answer->status, answer->body);
    if (refusal.elsewhere) {
      http->move_on(answer->from);
      if ((call.idempotent || refusal.not_done) && elsewhere_left > 0 && now() < deadline) {
        --elsewhere_left;
        continue;
      }
    }
    if (!refusal.log_in || !log_in_left || now() >= deadline)
      co_return tl::unexpected(explain(answer->from, std::move(refusal), call.about));
    log_in_left = false;
    auth_is_off = false;
    auto done = co_await log_in(seen, deadline);
    if (!done) co_return tl::unexpected(done.error());
  }
}

awaitable<Result<RangeResult>> EtcdClient::Impl::range_once(RangeRequest request) {
  Call call = read_call("kv/range", etcd::encode(request), about(request));
  auto r = co_await ask_for<RangeResult>(std::move(call), etcd::decode_range);
  co_return r;
}

awaitable<Result<RangeResult>> EtcdClient::Impl::range(RangeRequest request) {
  const bool in_pages = request.limit == 0 && !request.range_end.empty() && !request.count_only &&
                        request.sort_target == SortTarget::key && request.sort_order != SortOrder::descend;
  if (!in_pages) co_return co_await range_once(std::move(request));
  for (int i = 1;; ++i) {
    auto r = co_await range_in_pages(request);
    if (r || r.error().code != Errc::compacted || request.revision != 0 || i == kRestarts) co_return r;
  }
}

awaitable<Result<RangeResult>> EtcdClient::Impl::range_in_pages(RangeRequest request) {
  RangeResult all;
  request.limit = options.page;
  bool first = true;
  for (;;) {
    auto page = co_await range_once(request);
    if (!page && page.error().code == Errc::exhausted && request.limit > 1) {
      request.limit = std::max<std::int64_t>(1, request.limit / 8);  // large values: fewer at once
      continue;
    }
    if (!page) co_return tl::unexpected(page.error());
    if (std::exchange(first, false)) {
      all.revision = page->revision;
      all.count = page->count;
      if (request.revision == 0) request.revision = page->revision;
    }
    const bool more = page->more;
    if (more && (page->kvs.empty() || page->kvs.back().key < request.key))
      co_return fail(Errc::invalid, "range: the answer promises more keys and does not go on");
    if (more) request.key = page->kvs.back().key + '\0';
    if (all.kvs.empty())
      all.kvs = std::move(page->kvs);
    else
      all.kvs.insert(all.kvs.end(), std::make_move_iterator(page->kvs.begin()),
                     std::make_move_iterator(page->kvs.end()));
    if (!more) co_return all;
  }
}

awaitable<Result<std::unique_ptr<Watch>>> EtcdClient::Impl::watch(WatchRequest request) {
  auto self = shared_from_this();
  // Older etcd (seen with 3.4.23; etcd issue 19179) drops the deletions of the very revision compacted, and a watch
  // from there misses them without a word. Asking for one revision more turns that into "compacted".
  const Revision start = request.start_revision;
  if (start > 1) request.start_revision = start - 1;
  bool log_in_left = can_log_in();
  auto elsewhere_left = options.endpoints.size() - 1;
  const auto end = deadline();
  const auto what = "watch " + name_of(request.key, request.range_end);
  auto ready = co_await log_in_first(end);
  if (!ready) co_return tl::unexpected(ready.error());
  for (;;) {
    const auto seen = token_count;
    Call call = read_call("watch", etcd::encode(request));
    ++requests;
    auto open = request_of(call, end);
    auto lines = co_await http->open(std::move(open));
    if (!lines) co_return tl::unexpected(lines.error());
    const auto from = (*lines)->head().from;
    etcd::Refusal refusal;
    if ((*lines)->head().status != 200) {
      auto body = co_await (*lines)->read_all(left(end));
      if (!body) co_return tl::unexpected(body.error());
      refusal = etcd::decode_refusal((*lines)->head().status, *body);
    } else {
      auto line = co_await (*lines)->read_line(left(end));
      if (!line) co_return tl::unexpected(line.error());
      auto first = etcd::decode_watch_line(*line);
      if (!first) {
        if (first.error().code == Errc::unavailable) http->move_on(from);
        co_return tl::unexpected(at(from, first.error()));
      }
      if (first->created && !first->canceled) {
        auto leave = [self, from] { self->http->move_on(from); };
        auto watch = std::make_shared<OpenWatch>(std::move(*lines), start, options.watch_silence, std::move(leave));
        std::unique_ptr<Watch> made = std::make_unique<EtcdWatch>(executor, std::move(watch));
        co_return made;
      }
      refusal = why_not_created(*first);
    }
    if (refusal.elsewhere) {
      http->move_on(from);
      if (elsewhere_left > 0 && now() < end) {
        --elsewhere_left;
        continue;
      }
    }
    if (!refusal.log_in || !log_in_left || now() >= end)
      co_return tl::unexpected(explain(from, std::move(refusal), what));
    log_in_left = false;
    auth_is_off = false;
    auto done = co_await log_in(seen, end);
    if (!done) co_return tl::unexpected(done.error());
  }
}

Result<std::shared_ptr<EtcdClient>> EtcdClient::create(asio::any_io_executor executor, EtcdOptions options) {
  if (!options.username.empty()) {
    if (options.password_file.empty()) return fail(Errc::invalid, "username is given without password_file");
    auto password = read_password(options.password_file);
    if (!password) return tl::unexpected(password.error());
  }
  // Nodes are set up with the same list: were it tried in its order, all would sit on the first member, and on the
  // second when that one goes.
  if (options.shuffle)
    std::shuffle(options.endpoints.begin(), options.endpoints.end(), std::mt19937(std::random_device{}()));
  auto impl = std::make_shared<Impl>(std::move(executor), std::move(options));
  auto http = http::Client::create(impl->executor, {.endpoints = impl->options.endpoints,
                                                    .tls = impl->options.tls,
                                                    .request_timeout = impl->options.request_timeout,
                                                    .body_bytes = kBodyBytes});
  if (!http) return tl::unexpected(http.error());
  impl->http = std::move(*http);
  return std::shared_ptr<EtcdClient>(new EtcdClient(std::move(impl)));
}

EtcdClient::EtcdClient(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

EtcdClient::~EtcdClient() {
  asio::post(impl_->executor, [impl = impl_] { impl->http->close(); });
}

namespace {

/// One call of the gateway, from the caller's executor to the client's and back.
template <class T>
awaitable<Result<T>> run_there(asio::any_io_executor executor, std::function<awaitable<Result<T>>()> f) {
  auto r = co_await run_on<Result<T>>(executor, std::move(f));
  co_return r;
}

}  // namespace

std::uint64_t EtcdClient::requests() const { return impl_->requests; }

awaitable<Result<ServerStatus>> EtcdClient::status() {
  auto impl = impl_;
  std::function<awaitable<Result<ServerStatus>>()> f = [impl]() -> awaitable<Result<ServerStatus>> {
    Call call = read_call("maintenance/status", "{}", "ask for the status");
    auto answer = co_await impl->ask(std::move(call));
    if (!answer) co_return tl::unexpected(answer.error());
    auto s = etcd::decode_status(answer->body);
    if (!s) co_return tl::unexpected(at(answer->from, s.error()));
    s->endpoint = answer->from.to_string();
    co_return s;
  };
  return run_there<ServerStatus>(impl->executor, std::move(f));
}

awaitable<Result<RangeResult>> EtcdClient::range(RangeRequest request) {
  auto impl = impl_;
  std::function<awaitable<Result<RangeResult>>()> f = [impl, request = std::move(request)] {
    return impl->range(request);
  };
  return run_there<RangeResult>(impl->executor, std::move(f));
}

awaitable<Result<PutResult>> EtcdClient::put(PutRequest request) {
  auto impl = impl_;
  std::function<awaitable<Result<PutResult>>()> f = [impl, body = etcd::encode(request), what = about(request)] {
    return impl->ask_for<PutResult>(write_call("kv/put", body, what), etcd::decode_put);
  };
  return run_there<PutResult>(impl->executor, std::move(f));
}

awaitable<Result<DeleteResult>> EtcdClient::del(DeleteRequest request) {
  auto impl = impl_;
  std::function<awaitable<Result<DeleteResult>>()> f = [impl, body = etcd::encode(request), what = about(request)] {
    return impl->ask_for<DeleteResult>(write_call("kv/deleterange", body, what), etcd::decode_delete);
  };
  return run_there<DeleteResult>(impl->executor, std::move(f));
}

awaitable<Result<TxnResult>> EtcdClient::txn(TxnRequest request) {
  auto impl = impl_;
  bool reads_only = true;
  for (const auto* branch : {&request.success, &request.failure})
    for (const auto& op : *branch) reads_only = reads_only && std::holds_alternative<RangeRequest>(op);
  std::function<awaitable<Result<TxnResult>>()> f = [impl, reads_only, request = std::move(request)] {
    return impl->ask_for<TxnResult>(reads_only ? read_call("kv/txn", etcd::encode(request), about(request))
                                               : write_call("kv/txn", etcd::encode(request), about(request)),
                                    [request](std::string_view body) { return etcd::decode_txn(body, request); });
  };
  return run_there<TxnResult>(impl->executor, std::move(f));
}

awaitable<Status> EtcdClient::reload_tls() {
  auto impl = impl_;
  std::function<awaitable<Status>()> f = [impl]() -> awaitable<Status> { co_return impl->http->reload_tls(); };
  co_return co_await run_on<Status>(impl->executor, std::move(f));
}

awaitable<Result<Revision>> EtcdClient::compact(Revision revision) {
  auto impl = impl_;
  std::function<awaitable<Result<Revision>>()> f = [impl, revision] {
    return impl->ask_for<Revision>(write_call("kv/compaction", etcd::encode_compact(revision)), etcd::decode_header);
  };
  return run_there<Revision>(impl->executor, std::move(f));
}

awaitable<Result<LeaseInfo>> EtcdClient::lease_grant(std::int64_t ttl_s, LeaseId id) {
  auto impl = impl_;
  std::function<awaitable<Result<LeaseInfo>>()> f = [impl, ttl_s, id] {
    return impl->ask_for<LeaseInfo>(write_call("lease/grant", etcd::encode_grant(ttl_s, id)), etcd::decode_grant);
  };
  return run_there<LeaseInfo>(impl->executor, std::move(f));
}

awaitable<Result<LeaseInfo>> EtcdClient::lease_keepalive(LeaseId id) {
  auto impl = impl_;
  std::function<awaitable<Result<LeaseInfo>>()> f = [impl, id] {
    return impl->ask_for<LeaseInfo>(read_call("lease/keepalive", etcd::encode_lease(id)), etcd::decode_keepalive);
  };
  return run_there<LeaseInfo>(impl->executor, std::move(f));
}

awaitable<Status> EtcdClient::lease_revoke(LeaseId id) {
  auto impl = impl_;
  std::function<awaitable<Result<Revision>>()> f = [impl, id] {
    return impl->ask_for<Revision>(write_call("lease/revoke", etcd::encode_lease(id)), etcd::decode_header);
  };
  auto r = co_await run_there<Revision>(impl->executor, std::move(f));
  if (!r) co_return tl::unexpected(r.error());
  co_return Status{};
}

awaitable<Result<LeaseInfo>> EtcdClient::lease_time_to_live(LeaseId id, bool keys) {
  auto impl = impl_;
  std::function<awaitable<Result<LeaseInfo>>()> f = [impl, id, keys] {
    return impl->ask_for<LeaseInfo>(read_call("lease/timetolive", etcd::encode_time_to_live(id, keys)),
                                    etcd::decode_time_to_live);
  };
  return run_there<LeaseInfo>(impl->executor, std::move(f));
}

awaitable<Result<std::unique_ptr<Watch>>> EtcdClient::watch(WatchRequest request) {
  auto impl = impl_;
  std::function<awaitable<Result<std::unique_ptr<Watch>>>()> f = [impl, request = std::move(request)] {
    return impl->watch(request);
  };
  return run_there<std::unique_ptr<Watch>>(impl->executor, std::move(f));
}

}  // namespace calico::store
