#include "core/membership/authority.hpp"

#include <openssl/rand.h>
#include <sys/stat.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>

#include "core/membership/files.hpp"
#include "core/membership/rate_limit.hpp"
#include "core/membership/x509.hpp"
#include "core/store/etcd/json.hpp"

namespace calico::membership {

namespace json = boost::json;
using http::Request;
using http::Response;

namespace {

constexpr std::size_t kBodyBytes = 16 * 1024;
constexpr auto kCaLife = std::chrono::hours(24 * 3650);
constexpr std::chrono::minutes kSkew{5};

Response fault(unsigned status, std::string_view what) {
  return Response::json(status, json::serialize(json::object{{"error", what}}) + "\n");
}

Response fault(const Error& e) {
  switch (e.code) {
    case Errc::invalid:
      return fault(400, e.what);
    case Errc::no_permission:
      return fault(403, e.what);
    case Errc::conflict:
      return fault(409, e.what);
    case Errc::internal:
      return fault(500, "the controller could not do it; its log says why");
    default:
      return fault(503, e.what);
  }
}

Response body_fault(const Error& e) { return fault(e.code == Errc::exhausted ? 413 : 400, e.what); }

/// A key that others can read is no secret.
Status check_key_mode(const std::string& path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) return fail_errno(errno, path);
  if ((st.st_mode & 077) != 0) return fail(Errc::no_permission, "{0}: others may read it: chmod 600 {0}", path);
  return {};
}

/// The body of a request, of which this much is read at most.
awaitable<Result<std::string>> body_of(Request& request) {
  if (!request.body_reader) {
    if (request.body.size() > kBodyBytes) co_return fail(Errc::exhausted, "body of more than {} bytes", kBodyBytes);
    co_return std::move(request.body);
  }
  std::string body;
  for (;;) {
    auto piece = co_await request.body_reader->read_some();
    if (!piece) co_return tl::unexpected(piece.error());
    if (piece->empty()) co_return body;
    body += *piece;
    if (body.size() > kBodyBytes) co_return fail(Errc::exhausted, "body of more than {} bytes", kBodyBytes);
  }
}

/// Flat objects of short texts are all that is spoken here.
Result<json::object> parse_object(std::string_view body) {
  json::parse_options options;
  options.max_depth = 2;
  boost::system::error_code ec;
  auto v = json::parse(body, ec, {}, options);
  if (ec || !v.is_object()) return fail(Errc::invalid, "the body is not a JSON object");
  return std::move(v.as_object());
}

Result<std::string> text(const json::object& o, std::string_view key) {
  const auto* v = o.if_contains(key);
  if (!v || !v->is_string()) return fail(Errc::invalid, "'{}' is missing, or no text", key);
  return std::string(v->get_string());
}

Result<registry::JoinCall> parse_join(std::string_view body) {
  auto object = parse_object(body);
  if (!object) return tl::unexpected(object.error());
  auto id = text(*object, "id"), secret = text(*object, "secret"), name = text(*object, "name"),
       csr = text(*object, "csr");
  for (const auto* value : {&id, &secret, &name, &csr})
    if (!*value) return tl::unexpected(value->error());
  if (!is_token_id(*id)) return fail(Errc::invalid, "'id' is not a token's");
  return registry::JoinCall{std::move(*id), std::move(*secret), std::move(*name), std::move(*csr)};
}

Result<std::string> parse_renew(std::string_view body) {
  auto object = parse_object(body);
  if (!object) return tl::unexpected(object.error());
  return text(*object, "csr");
}

}  // namespace

struct Authority::Impl {
  AuthorityOptions options;
  std::shared_ptr<store::Kv> kv;
  AuthorityHooks hooks;
  SystemClock system_clock;
  const Clock* clock = nullptr;
  Rules rules;
  std::string ca_path;
  std::set<std::string> revoked;
  RateLimit limit{{}};

  Status load_ca();
  Status ensure_server_certificate(bool* changed);
  std::string why_server_certificate_is_due() const;
  bool covers(const Certificate& c) const;
  Subject server_subject() const;

  Rules rules_now() const {
    Rules r = rules;
    r.now = clock->wall();
    return r;
  }
  /// One transaction of state.db.
  template <class T>
  awaitable<Result<T>> run(std::function<Result<T>(store::Db&)> f) {
    auto out = std::make_shared<Result<T>>(fail(Errc::internal, "not run"));
    store::WriteFunction write = [f = std::move(f), out](store::WriteScope& scope) -> Result<store::TxnRequest> {
      *out = f(scope.db());
      if (!*out) return tl::unexpected(out->error());
      return store::TxnRequest{};
    };
    auto done = co_await kv->txn_with(std::move(write));
    if (!done) co_return tl::unexpected(done.error());
    co_return std::move(*out);
  }

  awaitable<Response> join(Request request);
  awaitable<Response> renew(Request request);
  Response member(const http::Peer& peer) const;
  Response answer(const Issued& issued) const;
  std::optional<std::string> refusal(const http::Peer& peer) const;
};

// ---- the CA and the server's certificate

Status Authority::Impl::load_ca() {
  const bool given = !options.ca_key_file.empty();
  const std::string folder = options.pki_dir + "/ca";
  ca_path = given ? options.ca_file : folder + "/ca.crt";
  const std::string key_path = given ? options.ca_key_file : folder + "/ca.key";
  struct stat st {};
  if (!given && ::lstat(folder.c_str(), &st) != 0 && errno == ENOENT) {
    unsigned char random[4] = {};
    if (RAND_bytes(random, sizeof random) != 1) return fail(Errc::internal, "CA: the system gives no randomness");
    const auto tag = to_hex({reinterpret_cast<const char*>(random), sizeof random});
    auto made = http::make_ca("calico-node CA " + tag, kCaLife);
    if (!made) return tl::unexpected(made.error());
    if (auto s = write_set(options.pki_dir, "ca", {{"ca.crt", made->cert_pem, 0644}, {"ca.key", made->key_pem, 0600}});
        !s)
      return wrap(s.error(), "new CA");
  }
  auto cert = read_small(ca_path);
  if (!cert) return wrap(cert.error(), "CA");
  auto key = read_small(key_path);
  if (!key) return wrap(key.error(), "CA's key");
  if (auto s = check_key_mode(key_path); !s) return wrap(s.error(), "CA's key");
  auto read = read_certificate(*cert);
  if (!read) return wrap(read.error(), ca_path);
  if (!read->self_signed_ca) return fail(Errc::invalid, "{}: is not a self-signed CA; nodes could not pin it", ca_path);
  if (auto s = check_issued(*cert, *key, *cert); !s)
    return fail(Errc::invalid, "{}: is not the key of {}", key_path, ca_path);
  if (read->not_after <= clock->wall())
    return fail(Errc::invalid, "{}: ended on {}; every node must join a new one", ca_path, time_text(read->not_after));
  rules.ca = {std::move(*cert), std::move(*key)};
  rules.ca_hash = read->key_hash;
  return {};
}

Subject Authority::Impl::server_subject() const {
  Subject s;
  s.name = options.own_name.empty() || options.own_name.size() > 64 ? "controller" : options.own_name;
  s.server = true;
  s.client = true;  // after `store move` this host is a client of the datastore the cloud went to
  const auto add = [&s](const std::string& name) {
    if (auto ip = Ip::parse(name)) {
      if (std::find(s.ips.begin(), s.ips.end(), *ip) == s.ips.end()) s.ips.push_back(*ip);
    } else if (std::find(s.dns.begin(), s.dns.end(), name) == s.dns.end()) {
      s.dns.push_back(name);
    }
  };
  for (const char* name : {"localhost", "127.0.0.1", "::1"}) add(name);
  if (!options.own_name.empty()) add(options.own_name);
  for (const auto& name : options.server_names) add(name);
  s.not_before = clock->wall() - kSkew;
  s.not_after = clock->wall() + options.life;
  return s;
}

bool Authority::Impl::covers(const Certificate& c) const {
  const auto wanted = server_subject();
  const auto has = [](const auto& all, const auto& one) { return std::find(all.begin(), all.end(), one) != all.end(); };
  return std::all_of(wanted.dns.begin(), wanted.dns.end(), [&](const auto& d) { return has(c.dns, d); }) &&
         std::all_of(wanted.ips.begin(), wanted.ips.end(), [&](const auto& ip) { return has(c.ips, ip); });
}

std::string Authority::Impl::why_server_certificate_is_due() const {
  const auto files = options.pki_dir + "/server/server.";
  auto cert = read_small(files + "crt");
  auto key = read_small(files + "key");
  if (!cert || !key) return "there is none";
  auto read = read_certificate(*cert);
  if (!read || !check_issued(*cert, *key, rules.ca.cert_pem)) return "it is not this CA's";
  if (!covers(*read)) return "names or addresses were added";
  if (clock->wall() >= read->not_before + (read->not_after - read->not_before) / 3 * 2) return "it ends soon";
  return {};
}

Status Authority::Impl::ensure_server_certificate(bool* changed) {
  *changed = false;
  if (!options.serve_own || why_server_certificate_is_due().empty()) return {};
  auto key = make_key();
  if (!key) return tl::unexpected(key.error());
  auto csr = make_request(*key, "server");
  if (!csr) return tl::unexpected(csr.error());
  auto cert = sign_request(rules.ca, *csr, server_subject());
  if (!cert) return tl::unexpected(cert.error());
  // With the CA behind it: a node that joins finds there what it has pinned.
  if (auto s = write_set(options.pki_dir, "server",
                         {{"server.crt", *cert + rules.ca.cert_pem, 0644}, {"server.key", *key, 0600}});
      !s)
    return wrap(s.error(), "server certificate");
  *changed = true;
  return {};
}

Result<std::unique_ptr<Authority>> Authority::open(AuthorityOptions options, std::shared_ptr<store::Kv> kv,
                                                   const std::string& state_db, AuthorityHooks hooks) {
  auto impl = std::make_shared<Impl>();
  impl->options = std::move(options);
  impl->kv = std::move(kv);
  impl->hooks = std::move(hooks);
  impl->clock = impl->options.clock ? impl->options.clock : &impl->system_clock;
  if (auto s = impl->load_ca(); !s) return tl::unexpected(s.error());
  impl->rules.own_name = impl->options.own_name;
  impl->rules.admins = impl->options.admins;
  impl->rules.life = impl->options.life;
  bool changed = false;
  if (auto s = impl->ensure_server_certificate(&changed); !s) return tl::unexpected(s.error());
  auto db = store::Db::open({.path = state_db, .read_only = true});
  if (!db) return tl::unexpected(db.error());
  auto revoked = registry::revoked_serials(**db);
  if (!revoked) return tl::unexpected(revoked.error());
  impl->revoked = std::move(*revoked);
  return std::unique_ptr<Authority>(new Authority(std::move(impl)));
}

Authority::Authority(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Authority::~Authority() = default;

http::TlsFiles Authority::server_files() const {
  http::TlsFiles files;
  files.ca_file = impl_->ca_path;
  if (!impl_->options.serve_own) return files;
  files.cert_file = impl_->options.pki_dir + "/server/server.crt";
  files.key_file = impl_->options.pki_dir + "/server/server.key";
  return files;
}

const std::string& Authority::ca_hash() const { return impl_->rules.ca_hash; }

// ---- requests of nodes

std::optional<std::string> Authority::Impl::refusal(const http::Peer& peer) const {
  if (peer.via() != http::Peer::Via::tls) return std::nullopt;
  if (!peer.certified)
    return "a client certificate is needed: on this host, calico-node join URL --token T with a token of the "
           "controller";
  const bool out = revoked.contains(peer.serial);
  if (!out && peer.certificate_until > clock->wall()) return std::nullopt;
  return fmt::format(
      "the certificate {} of '{}' {}: join again with a new token (on the controller: calico-node join token --name "
      "{})",
      peer.serial, peer.common_name, out ? "is revoked" : "ended on " + time_text(peer.certificate_until),
      peer.common_name);
}

Response Authority::Impl::answer(const Issued& issued) const {
  return Response::json(200, json::serialize(json::object{{"name", issued.name},
                                                          {"serial", issued.serial},
                                                          {"certificate", issued.pem},
                                                          {"ca", rules.ca.cert_pem},
                                                          {"not_after", time_text(issued.not_after)}}) +
                                 "\n");
}

Response Authority::Impl::member(const http::Peer& peer) const {
  return Response::json(
      200, json::serialize(json::object{
               {"name", peer.identity()}, {"serial", peer.serial}, {"not_after", time_text(peer.certificate_until)}}) +
               "\n");
}

awaitable<Response> Authority::Impl::join(Request request) {
  if (!request.peer.tls || !request.peer.ip) co_return fault(403, "join is answered over TLS only");
  const Ip from = *request.peer.ip;
  if (!limit.take(from, clock->now())) {
    auto busy = fault(429, "too many tries to join from this address: wait a minute");
    busy.headers.set("Retry-After", "60");
    co_return busy;
  }
  auto body = co_await body_of(request);
  if (!body) co_return body_fault(body.error());
  auto call = parse_join(*body);
  if (!call) co_return fault(400, call.error().what);
  std::function<Result<Issued>(store::Db&)> f = [r = rules_now(), call = *call](store::Db& db) {
    return registry::join(db, r, call);
  };
  auto issued = co_await run<Issued>(std::move(f));
  const auto peer = request.peer.to_string();
  if (!issued) {
    if (hooks.event) hooks.event("membership.join_refused", call->name.substr(0, 64), issued.error().what, peer);
    co_return fault(issued.error());
  }
  limit.give_back(from);
  if (hooks.event)
    hooks.event(issued->again ? "membership.joined_again" : "membership.joined", issued->name, issued->serial, peer);
  co_return answer(*issued);
}

awaitable<Response> Authority::Impl::renew(Request request) {
  if (request.peer.identity().empty()) co_return fault(401, "renewing needs the certificate that is to be renewed");
  auto body = co_await body_of(request);
  if (!body) co_return body_fault(body.error());
  auto csr = parse_renew(*body);
  if (!csr) co_return fault(400, csr.error().what);
  registry::RenewCall call{std::string(request.peer.identity()), request.peer.serial, request.peer.certificate_until,
                           std::move(*csr)};
  std::function<Result<Issued>(store::Db&)> f = [r = rules_now(), call](store::Db& db) {
    return registry::renew(db, r, call);
  };
  auto issued = co_await run<Issued>(std::move(f));
  const auto peer = request.peer.to_string();
  if (!issued) {
    if (hooks.event) hooks.event("membership.renewal_refused", call.name, issued.error().what, peer);
    co_return fault(issued.error());
  }
  if (hooks.event) hooks.event("membership.renewed", issued->name, issued->serial, peer);
  co_return answer(*issued);
}

std::optional<std::string> Authority::refusal(const http::Peer& peer) const { return impl_->refusal(peer); }

awaitable<Response> Authority::handle(Request request) {
  auto impl = impl_;
  const auto what = std::string_view(request.path).substr(kPaths.size());
  const bool post = request.method == "POST";
  if (what == "join") {
    if (!post) co_return fault(405, "join is a POST");
    co_return co_await impl->join(std::move(request));
  }
  if (auto why = impl->refusal(request.peer)) co_return fault(401, *why);
  if (what == "renew") {
    if (!post) co_return fault(405, "renew is a POST");
    co_return co_await impl->renew(std::move(request));
  }
  if (what == "member" && !request.peer.identity().empty()) co_return impl->member(request.peer);
  co_return fault(404, "no such path: join, renew and member are");
}

store::etcd::GatewayFront Authority::front() {
  auto impl = impl_;
  store::etcd::GatewayFront front;
  front.takes = [impl](const Request& r) { return owns(r.path) || impl->refusal(r.peer); };
  front.handle = [this](Request r) -> awaitable<Response> {
    if (owns(r.path)) co_return co_await handle(std::move(r));
    const auto why = impl_->refusal(r.peer);
    store::etcd::Fault f{401, 16, "ask again"};  // its certificate was renewed in between
    if (why) f.message = *why;
    auto body = store::etcd::to_json(f);
    co_return Response::json(401, std::move(body));
  };
  return front;
}

// ---- the operator's

awaitable<Result<Token>> Authority::make_token(std::string name, std::chrono::seconds ttl) {
  auto impl = impl_;
  std::function<Result<Token>(store::Db&)> f = [r = impl->rules_now(), name, ttl](store::Db& db) {
    return registry::make_token(db, r, name, ttl);
  };
  co_return co_await impl->run<Token>(std::move(f));
}

awaitable<Result<std::vector<TokenRow>>> Authority::tokens() {
  auto impl = impl_;
  std::function<Result<std::vector<TokenRow>>(store::Db&)> f = [now = impl->clock->wall()](store::Db& db) {
    return registry::tokens(db, now);
  };
  co_return co_await impl->run<std::vector<TokenRow>>(std::move(f));
}

awaitable<Status> Authority::drop_token(std::string id) {
  auto impl = impl_;
  std::function<Result<bool>(store::Db&)> f = [id](store::Db& db) -> Result<bool> {
    if (auto s = registry::drop_token(db, id); !s) return tl::unexpected(s.error());
    return true;
  };
  auto done = co_await impl->run<bool>(std::move(f));
  if (!done) co_return tl::unexpected(done.error());
  co_return Status{};
}

awaitable<Result<std::vector<CertificateRow>>> Authority::certificates() {
  auto impl = impl_;
  std::function<Result<std::vector<CertificateRow>>(store::Db&)> f = [now = impl->clock->wall()](store::Db& db) {
    return registry::certificates(db, now);
  };
  co_return co_await impl->run<std::vector<CertificateRow>>(std::move(f));
}

awaitable<Result<std::vector<std::string>>> Authority::revoke(std::string name) {
  auto impl = impl_;
  std::vector<registry::Seen> seen;
  if (impl->hooks.close_peers)
    (void)impl->hooks.close_peers([&](const http::Peer& p) {
      if (p.identity() == name && !name.empty()) seen.push_back({p.serial, p.certificate_until});
      return false;
    });
  std::function<Result<std::vector<std::string>>(store::Db&)> f =
      [name, seen, now = impl->clock->wall()](store::Db& db) { return registry::revoke(db, name, seen, now); };
  auto serials = co_await impl->run<std::vector<std::string>>(std::move(f));
  if (!serials) co_return serials;
  impl->revoked.insert(serials->begin(), serials->end());
  if (impl->hooks.close_peers)
    (void)impl->hooks.close_peers([&](const http::Peer& p) { return p.certified && impl->revoked.contains(p.serial); });
  if (impl->hooks.event)
    for (const auto& s : *serials) impl->hooks.event("membership.revoked", name, s, "");
  co_return serials;
}

awaitable<Status> Authority::maintain() {
  auto impl = impl_;
  const auto now = impl->clock->wall();
  if (impl->hooks.close_peers)
    (void)impl->hooks.close_peers([&](const http::Peer& p) { return p.certified && p.certificate_until <= now; });
  bool changed = false;
  if (auto s = impl->ensure_server_certificate(&changed); !s) co_return s;
  if (changed && impl->hooks.server_certificate_changed)
    if (auto s = impl->hooks.server_certificate_changed(); !s) co_return s;
  std::function<Result<std::set<std::string>>(store::Db&)> f = [now](store::Db& db) -> Result<std::set<std::string>> {
    if (auto s = registry::prune(db, now); !s) return tl::unexpected(s.error());
    return registry::revoked_serials(db);
  };
  auto revoked = co_await impl->run<std::set<std::string>>(std::move(f));
  if (!revoked) co_return tl::unexpected(revoked.error());
  impl->revoked.insert(revoked->begin(), revoked->end());
  std::erase_if(impl->revoked, [&](const auto& serial) { return !revoked->contains(serial); });
  co_return Status{};
}

}  // namespace calico::membership
