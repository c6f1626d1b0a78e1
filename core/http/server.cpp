#include "core/http/server.hpp"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/status.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <list>

#include "core/http/transport.hpp"
#include "core/log/log.hpp"
#include "core/loop/task_group.hpp"

namespace calico::http {

namespace asio = boost::asio;
namespace beast = boost::beast;
using boost::system::error_code;

namespace {

constexpr auto kUse = asio::as_tuple(asio::use_awaitable);
constexpr std::size_t kReadBytes = 16 * 1024;

using Parser = beast::http::request_parser<beast::http::string_body>;
using Acceptor = asio::basic_socket_acceptor<asio::generic::stream_protocol>;

TimePoint now() { return std::chrono::steady_clock::now(); }

bool is_token(std::string_view s) {
  for (char c : s)
    if (c <= 0x20 || c >= 0x7f || std::strchr("()<>@,;:\\\"/[]?={}", c) != nullptr) return false;
  return !s.empty();
}

bool is_field_value(std::string_view s) {
  for (char c : s)
    if ((static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f) return false;
  return true;
}

std::string http_date() {
  const std::time_t t = std::time(nullptr);
  std::tm tm{};
  ::gmtime_r(&t, &tm);
  char text[40];
  const auto n = std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &tm);
  return {text, n};
}

Status split_target(Request& r) {
  std::string_view target = r.target;
  if (const auto scheme = target.find("://"); !target.starts_with('/') && scheme != std::string_view::npos) {
    const auto slash = target.find('/', scheme + 3);
    target = slash == std::string_view::npos ? "/" : target.substr(slash);
  }
  if (!target.starts_with('/') && target != "*") return fail(Errc::invalid, "request target is not a path");
  target = target.substr(0, target.find('#'));
  const auto mark = target.find('?');
  auto path = percent_decode(target.substr(0, mark), false);
  if (!path) return wrap(path.error(), "request path");
  r.path = std::move(*path);
  if (mark == std::string_view::npos) return {};
  for (auto rest = target.substr(mark + 1); !rest.empty();) {
    const auto piece = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(rest.size(), piece.size() + 1));
    if (piece.empty()) continue;
    const auto equal = piece.find('=');
    auto name = percent_decode(piece.substr(0, equal), true);
    auto value = percent_decode(equal == std::string_view::npos ? std::string_view() : piece.substr(equal + 1), true);
    if (!name || !value) return wrap(name ? value.error() : name.error(), "query");
    r.query.emplace_back(std::move(*name), std::move(*value));
  }
  return {};
}

/// What one connection is refused for. Status 0: nothing to say, just close.
struct Fault {
  unsigned status = 0;
  std::string what;
};

/// One connection and the request in work on it.
struct Session {
  Session(std::shared_ptr<Transport> t, const ServerOptions& o) : transport(std::move(t)), options(o) {}

  /// Reads more into `in`. 0 = end of stream.
  awaitable<Result<std::size_t>> fill(Duration timeout) {
    const auto old = in.size();
    in.resize(old + kReadBytes);
    auto got = co_await transport->read_some(in.data() + old, kReadBytes, timeout);
    in.resize(old + (got ? *got : 0));
    co_return got;
  }
  /// Feeds `in` to the parser. True = the parser wants more bytes.
  tl::expected<bool, Fault> feed() {
    while (!parser->is_done() && !in.empty()) {
      error_code ec;
      const bool had_header = parser->is_header_done();
      const auto used = parser->put(asio::buffer(in), ec);
      in.erase(0, used);
      if (ec == beast::http::error::need_more) return true;
      if (ec == beast::http::error::header_limit) return tl::unexpected(Fault{431, "request header too large"});
      if (ec == beast::http::error::body_limit)
        return tl::unexpected(Fault{413, fmt::format("request body over {} bytes", options.body_bytes)});
      if (ec) return tl::unexpected(Fault{400, fmt::format("malformed request: {}", ec.message())});
      if (!had_header && parser->is_header_done()) return false;
      if (used == 0 && !parser->is_done()) return true;
    }
    return !parser->is_done();
  }
  Fault read_fault(const Error& e) const {
    if (e.code == Errc::timeout) return {408, "request did not arrive in time"};
    return {0, e.what};
  }

  std::shared_ptr<Transport> transport;
  const ServerOptions options;
  std::string in;
  std::unique_ptr<Parser> parser;
  TimePoint deadline;  ///< of the request being read
};

class SessionBody final : public BodyReader {
 public:
  explicit SessionBody(std::shared_ptr<Session> session) : session_(std::move(session)) {}
  awaitable<Result<std::string>> read_some() override {
    auto s = session_;
    for (;;) {
      auto& body = s->parser->get().body();
      if (!body.empty()) {
        std::string piece = std::move(body);
        body.clear();
        co_return piece;
      }
      if (s->parser->is_done()) co_return std::string();
      auto wants = s->feed();
      if (!wants)
        co_return fail(wants.error().status == 413 ? Errc::exhausted : Errc::invalid, "{}", wants.error().what);
      if (!s->parser->get().body().empty() || s->parser->is_done()) continue;
      auto got = co_await s->fill(left_until(s->deadline));
      if (!got) co_return tl::unexpected(got.error());
      if (*got == 0) co_return fail(Errc::closed, "the peer closed inside the request body");
    }
  }

 private:
  std::shared_ptr<Session> session_;
};

class SessionStream final : public ResponseStream {
 public:
  SessionStream(std::shared_ptr<Session> session, bool chunked) : session_(std::move(session)), chunked_(chunked) {}
  awaitable<Status> write(std::string chunk) override {
    if (gone_) co_return fail(Errc::closed, "the peer closed");
    if (chunk.empty()) co_return Status{};
    auto s = session_;
    std::string bytes = chunked_ ? fmt::format("{:x}\r\n{}\r\n", chunk.size(), chunk) : std::move(chunk);
    auto done = co_await s->transport->write(std::move(bytes), s->options.write_timeout);
    if (!done) gone_ = true;
    co_return done;
  }
  bool gone() const { return gone_; }
  void set_gone() { gone_ = true; }

 private:
  std::shared_ptr<Session> session_;
  bool chunked_;
  bool gone_ = false;
};

/// Ends when the peer ends or sends more than a body's worth of bytes that nobody asked for.
awaitable<void> wait_for_end(std::shared_ptr<Session> session, std::shared_ptr<SessionStream> stream) {
  std::string sink(4096, '\0');
  std::size_t total = 0;
  try {
    for (;;) {
      auto got = co_await session->transport->read_some(sink.data(), sink.size(), Duration::zero());
      if (!got || *got == 0) break;
      total += *got;
      if (total > session->options.body_bytes) break;
    }
  } catch (const boost::system::system_error&) {
    co_return;  // cancelled: the stream has ended first
  }
  stream->set_gone();
}

/// Runs the handler's stream function; the edge where its exceptions become a broken-off response.
awaitable<void> run_stream(std::function<awaitable<void>(std::shared_ptr<ResponseStream>)> f,
                           std::shared_ptr<SessionStream> stream, std::shared_ptr<bool> complete) {
  try {
    co_await f(stream);
    *complete = true;
  } catch (const boost::system::system_error& e) {
    if (e.code() != asio::error::operation_aborted) log::error("http.stream_failed", "what", e.what());
  } catch (const std::exception& e) {
    log::error("http.stream_failed", "what", e.what());
  }
}

}  // namespace

std::string_view reason_phrase(unsigned status) {
  const auto text = beast::http::obsolete_reason(beast::http::int_to_status(status));
  if (text == "<unknown-status>") return "Unknown";
  return {text.data(), text.size()};
}

struct Server::Impl : std::enable_shared_from_this<Server::Impl> {
  Impl(asio::any_io_executor ex, ServerOptions o, Handler h)
      : executor(std::move(ex)), options(std::move(o)), handler(std::move(h)), tasks(executor, options.name) {}

  struct Bound {
    Bound(Acceptor a, Endpoint e, std::shared_ptr<TlsContext> t)
        : acceptor(std::move(a)), at(std::move(e)), tls(std::move(t)) {}
    Acceptor acceptor;
    Endpoint at;
    std::shared_ptr<TlsContext> tls;
    TlsFiles files{};
    bool certificate_required = true;
    dev_t device = 0;
    ino_t inode = 0;  ///< of the unix socket, so that only our own file is removed
  };
  struct Open {
    std::weak_ptr<Transport> transport;
    bool idle = false;
    TimePoint since;
  };
  /// A place in the list of open connections for as long as the connection's coroutine lives.
  struct Place {
    explicit Place(std::shared_ptr<Impl> i) : impl(std::move(i)), it(impl->open.emplace(impl->open.end())) {}
    ~Place() { impl->open.erase(it); }
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;
    std::shared_ptr<Impl> impl;
    std::list<Open>::iterator it;
  };

  Status listen(Listen where);
  awaitable<void> accept_loop(std::size_t index);
  awaitable<void> serve(Socket socket, std::shared_ptr<TlsContext> tls, std::shared_ptr<Place> place);
  awaitable<void> serve_requests(std::shared_ptr<Session> session, std::shared_ptr<Place> place);
  awaitable<tl::expected<bool, Fault>> read_head(std::shared_ptr<Session> session, std::shared_ptr<Place> place,
                                                 bool first);
  awaitable<tl::expected<bool, Fault>> read_body(std::shared_ptr<Session> session);
  awaitable<Response> call(Request request);
  awaitable<bool> respond(std::shared_ptr<Session> session, Response response, bool keep, bool head, bool http11);
  awaitable<void> respond_stream(std::shared_ptr<Session> session, Response response, std::string head, bool http11);
  void close_all();
  bool make_room();

  asio::any_io_executor executor;
  ServerOptions options;
  Handler handler;
  TaskGroup tasks;
  std::vector<std::unique_ptr<Bound>> bound;
  std::list<Open> open;
  ServerStats stats;
  bool stopping = false;
};

Status Server::Impl::listen(Listen where) {
  const std::string name = where.at.to_string();
  std::shared_ptr<TlsContext> tls;
  if (where.at.tls) {
    auto made = make_server_tls(where.tls, where.client_certificate == ClientCertificate::required);
    if (!made) return wrap(made.error(), "listen on " + name);
    tls = std::move(*made);
  }
  sockaddr_storage storage{};
  socklen_t size = 0;
  if (where.at.is_unix()) {
    auto& un = reinterpret_cast<sockaddr_un&>(storage);
    un.sun_family = AF_UNIX;
    if (where.at.unix_path.size() >= sizeof un.sun_path)
      return fail(Errc::invalid, "listen on {}: path too long", name);
    std::memcpy(un.sun_path, where.at.unix_path.data(), where.at.unix_path.size());
    size = sizeof un;
  } else {
    const auto ip = where.at.ip();
    if (!ip) return fail(Errc::invalid, "listen on {}: an address is needed here, not a name", name);
    if (ip->is_v6()) {
      auto& in6 = reinterpret_cast<sockaddr_in6&>(storage);
      in6.sin6_family = AF_INET6;
      in6.sin6_port = htons(where.at.port);
      std::memcpy(&in6.sin6_addr, ip->bytes().data(), 16);
      size = sizeof in6;
    } else {
      auto& in = reinterpret_cast<sockaddr_in&>(storage);
      in.sin_family = AF_INET;
      in.sin_port = htons(where.at.port);
      std::memcpy(&in.sin_addr, ip->bytes().data(), 4);
      size = sizeof in;
    }
  }
  auto* address = reinterpret_cast<sockaddr*>(&storage);
  const int family = storage.ss_family;
  const int fd = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return fail_errno(errno, "listen on " + name);
  const auto refuse = [fd, &name](int err) {
    ::close(fd);
    if (err == EADDRINUSE) return fail(Errc::exists, "listen on {}: the address is in use by another program", name);
    if (err == EADDRNOTAVAIL) return fail(Errc::unavailable, "listen on {}: this host does not have the address", name);
    return fail_errno(err, "listen on " + name);
  };
  const int on = 1;
  if (family != AF_UNIX) (void)::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (family == AF_INET6) (void)::setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  int rc = ::bind(fd, address, size);
  if (rc != 0 && errno == EADDRINUSE && family == AF_UNIX) {
    // A socket file nobody answers at was left by a process that died.
    struct stat st {};
    const int probe = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const bool stale = ::lstat(where.at.unix_path.c_str(), &st) == 0 && S_ISSOCK(st.st_mode) && probe >= 0 &&
                       ::connect(probe, address, size) != 0 && errno == ECONNREFUSED;
    if (probe >= 0) ::close(probe);
    if (!stale) return refuse(EADDRINUSE);
    ::unlink(where.at.unix_path.c_str());
    rc = ::bind(fd, address, size);
  }
  if (rc != 0) return refuse(errno);
  // Before listen() nobody can connect, so the mode is never wider than asked for.
  if (family == AF_UNIX && ::chmod(where.at.unix_path.c_str(), where.mode) != 0) {
    const int err = errno;
    ::unlink(where.at.unix_path.c_str());
    return refuse(err);
  }
  if (::listen(fd, SOMAXCONN) != 0) return refuse(errno);
  if (!where.at.is_unix()) {
    size = sizeof storage;
    if (::getsockname(fd, address, &size) != 0) return refuse(errno);
    where.at.port = ntohs(family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(storage).sin6_port
                                             : reinterpret_cast<sockaddr_in&>(storage).sin_port);
  }
  Acceptor acceptor(executor);
  error_code ec;
  acceptor.assign(asio::generic::stream_protocol(family, 0), fd, ec);
  if (ec) return refuse(ec.value());
  auto entry = std::make_unique<Bound>(std::move(acceptor), where.at, std::move(tls));
  entry->files = where.tls;
  entry->certificate_required = where.client_certificate == ClientCertificate::required;
  if (where.at.is_unix()) {
    struct stat st {};
    if (::lstat(where.at.unix_path.c_str(), &st) == 0) entry->device = st.st_dev, entry->inode = st.st_ino;
  }
  bound.push_back(std::move(entry));
  return {};
}

bool Server::Impl::make_room() {
  if (open.size() < options.max_connections) return true;
  Open* oldest = nullptr;
  for (auto& o : open)
    if (o.idle && (!oldest || o.since < oldest->since)) oldest = &o;
  if (!oldest) return false;
  oldest->idle = false;  // once is enough: its coroutine leaves the list in its next turn
  if (auto t = oldest->transport.lock()) t->close();
  return true;
}

awaitable<void> Server::Impl::accept_loop(std::size_t index) {
  auto self = shared_from_this();
  for (;;) {
    auto [ec, socket] = co_await bound[index]->acceptor.async_accept(kUse);
    if (stopping || ec == asio::error::operation_aborted) co_return;
    if (ec) {
      // Out of descriptors or the peer was gone already: the listening socket itself is sound.
      log::debug("http.accept_failed", "at", bound[index]->at.to_string(), "what", ec.message());
      if (!co_await sleep_for(std::chrono::milliseconds(50))) co_return;
      continue;
    }
    ++stats.accepted;
    if (!make_room()) {
      ++stats.refused;
      continue;  // the socket closes here
    }
    auto place = std::make_shared<Place>(self);
    auto shared = std::make_shared<Socket>(std::move(socket));
    tasks.spawn("connection", [self, shared, place, tls = bound[index]->tls]() -> awaitable<void> {
      return self->serve(std::move(*shared), tls, place);
    });
  }
}

awaitable<void> Server::Impl::serve(Socket socket, std::shared_ptr<TlsContext> tls, std::shared_ptr<Place> place) {
  auto self = shared_from_this();
  std::function<void(std::shared_ptr<Transport>)> opened = [place](std::shared_ptr<Transport> t) {
    place->it->transport = t;
  };
  auto transport = co_await accept_transport(std::move(socket), std::move(tls), options.handshake_timeout, opened);
  if (!transport) {
    ++stats.tls_failures;
    log::debug("http.handshake_failed", "server", options.name, "what", transport.error().what);
    co_return;
  }
  auto session = std::make_shared<Session>(std::move(*transport), options);
  co_await serve_requests(session, place);
  session->transport->close();
}

awaitable<tl::expected<bool, Fault>> Server::Impl::read_head(std::shared_ptr<Session> s, std::shared_ptr<Place> place,
                                                             bool first) {
  s->parser = std::make_unique<Parser>();
  s->parser->eager(false);
  s->parser->header_limit(static_cast<std::uint32_t>(options.header_bytes));
  s->parser->body_limit(options.body_bytes);
  bool started = first || !s->in.empty();
  s->deadline = now() + options.request_timeout;
  while (!s->parser->is_header_done()) {
    if (!s->in.empty()) {
      auto wants = s->feed();
      if (!wants) co_return tl::unexpected(wants.error());
      if (s->parser->is_header_done()) break;
    }
    if (!started) {
      place->it->idle = true;
      place->it->since = now();
    }
    const bool nothing_yet = s->in.empty();
    auto got = co_await s->fill(started ? left_until(s->deadline) : options.idle_timeout);
    place->it->idle = false;
    if (!got && nothing_yet) co_return false;  // idle for too long, or reset while idle
    if (!got) co_return tl::unexpected(s->read_fault(got.error()));
    if (*got == 0 && nothing_yet) co_return false;
    if (*got == 0) co_return tl::unexpected(Fault{400, "the peer closed inside the request header"});
    if (!started) {
      started = true;
      s->deadline = now() + options.request_timeout;
    }
  }
  co_return true;
}

awaitable<tl::expected<bool, Fault>> Server::Impl::read_body(std::shared_ptr<Session> s) {
  for (;;) {
    auto wants = s->feed();
    if (!wants) co_return tl::unexpected(wants.error());
    if (s->parser->is_done()) co_return true;
    auto got = co_await s->fill(left_until(s->deadline));
    if (!got) co_return tl::unexpected(s->read_fault(got.error()));
    if (*got == 0) co_return tl::unexpected(Fault{0, "the peer closed inside the request body"});
  }
}

awaitable<Response> Server::Impl::call(Request request) {
  const std::string what = request.method + " " + request.path;
  std::string failed;
  try {
    co_return co_await handler(std::move(request));
  } catch (const boost::system::system_error& e) {
    if (e.code() == asio::error::operation_aborted && stopping) throw;
    failed = e.what();
  } catch (const std::exception& e) {
    failed = e.what();
  }
  log::error("http.handler_failed", "server", options.name, "request", what, "what", failed);
  co_return Response::text(500, "internal error\n");
}

awaitable<void> Server::Impl::serve_requests(std::shared_ptr<Session> s, std::shared_ptr<Place> place) {
  for (bool first = true;; first = false) {
    auto have = co_await read_head(s, place, first);
    if (have && !*have) co_return;  // all answers are out and nothing is unread: an abrupt end loses nothing
    bool http11 = true;
    bool keep = false;
    bool head = false;
    Request request;
    if (have) {
      const auto& message = s->parser->get();
      http11 = message.version() >= 11;
      request.method = std::string(message.method_string());
      request.target = std::string(message.target());
      request.peer = s->transport->peer();
      for (const auto& field : message)
        request.headers.add(std::string(field.name_string()), std::string(field.value()));
      head = request.method == "HEAD";
      keep = s->parser->keep_alive();
      if (message.version() != 10 && message.version() != 11)
        have = tl::unexpected(Fault{505, "HTTP/1.1 is spoken here"});
      if (http11 && !request.headers.get("Host")) have = tl::unexpected(Fault{400, "no Host header"});
      if (auto split = split_target(request); !split) have = tl::unexpected(Fault{400, split.error().what});
    }
    bool streamed = false;
    if (have) {
      const auto expect = request.headers.get("Expect");
      if (expect && http11 && !s->parser->is_done()) {
        std::string go_on = "HTTP/1.1 100 Continue\r\n\r\n";
        if (!co_await s->transport->write(std::move(go_on), options.write_timeout)) co_return;
      }
      streamed = options.stream_request && options.stream_request(request);
      if (streamed) {
        request.body_reader = std::make_shared<SessionBody>(s);
      } else {
        have = co_await read_body(s);
        if (have) request.body = std::move(s->parser->get().body());
      }
    }
    if (!have) {
      ++stats.bad_requests;
      log::debug("http.bad_request", "server", options.name, "peer", s->transport->peer().to_string(), "what",
                 have.error().what);
      if (have.error().status == 0) co_return;
      const auto& [status, what] = have.error();
      Response refusal = options.refusal ? options.refusal(status, what) : Response::text(status, what + "\n");
      (void)co_await respond(s, std::move(refusal), false, head, http11);
      co_await s->transport->finish();
      co_return;
    }
    ++stats.requests;
    Response response = co_await call(std::move(request));
    // What is left of a streamed body cannot be told from the next request.
    if (streamed && !s->parser->is_done()) keep = false;
    if (!co_await respond(s, std::move(response), keep, head, http11)) co_return;
    if (!keep) {
      co_await s->transport->finish();
      co_return;
    }
  }
}

/// True = the response is out and the connection can go on.
awaitable<bool> Server::Impl::respond(std::shared_ptr<Session> s, Response response, bool keep, bool head,
                                      bool http11) {
  for (const auto& [name, value] : response.headers)
    if (!is_token(name) || !is_field_value(value)) {
      log::error("http.bad_response_header", "server", options.name, "name", name);
      response = Response::text(500, "internal error\n");
      break;
    }
  if (response.status < 100 || response.status > 999) response.status = 500;
  const bool stream = static_cast<bool>(response.stream);
  const bool no_body = response.status < 200 || response.status == 204 || response.status == 304;
  response.headers.erase("Content-Length");
  response.headers.erase("Transfer-Encoding");
  response.headers.erase("Connection");
  std::string out =
      fmt::format("HTTP/1.1 {} {}\r\nDate: {}\r\n", response.status, reason_phrase(response.status), http_date());
  for (const auto& [name, value] : response.headers) out += fmt::format("{}: {}\r\n", name, value);
  if (stream) {
    if (http11) out += "Transfer-Encoding: chunked\r\n";
  } else if (!no_body) {
    out += fmt::format("Content-Length: {}\r\n", response.body.size());
  }
  if (!keep || stream) out += "Connection: close\r\n";
  if (keep && !stream && !http11) out += "Connection: keep-alive\r\n";
  out += "\r\n";
  if (stream && !head) {
    co_await respond_stream(s, std::move(response), std::move(out), http11);
    co_return false;
  }
  if (!head && !no_body) out += response.body;
  auto done = co_await s->transport->write(std::move(out), options.write_timeout);
  co_return done.has_value() && !stream;
}

awaitable<void> Server::Impl::respond_stream(std::shared_ptr<Session> s, Response response, std::string head,
                                             bool http11) {
  using namespace asio::experimental::awaitable_operators;
  auto stream = std::make_shared<SessionStream>(s, http11);
  if (!response.body.empty())
    head += http11 ? fmt::format("{:x}\r\n{}\r\n", response.body.size(), response.body) : response.body;
  if (!co_await s->transport->write(std::move(head), options.write_timeout)) co_return;
  auto complete = std::make_shared<bool>(false);
  auto body = run_stream(std::move(response.stream), stream, complete);
  auto end = wait_for_end(s, stream);
  (void)co_await (std::move(body) || std::move(end));
  if (stream->gone() || stopping || !*complete) co_return;  // broken off: no last chunk, so that the peer can tell
  if (http11) {
    std::string last = "0\r\n\r\n";
    if (!co_await s->transport->write(std::move(last), options.write_timeout)) co_return;
  }
  co_await s->transport->finish();
}

void Server::Impl::close_all() {
  stopping = true;
  for (auto& b : bound) {
    error_code ignored;
    b->acceptor.close(ignored);
    struct stat st {};
    if (b->at.is_unix() && b->inode != 0 && ::lstat(b->at.unix_path.c_str(), &st) == 0 && st.st_dev == b->device &&
        st.st_ino == b->inode)
      ::unlink(b->at.unix_path.c_str());
    b->inode = 0;
  }
  for (auto& o : open)
    if (auto t = o.transport.lock()) t->close();
  tasks.cancel();
}

Server::Server(asio::any_io_executor executor, ServerOptions options, Handler handler)
    : impl_(std::make_shared<Impl>(std::move(executor), std::move(options), std::move(handler))) {}
Server::~Server() { impl_->close_all(); }

Status Server::listen(Listen where) { return impl_->listen(std::move(where)); }

std::vector<Endpoint> Server::endpoints() const {
  std::vector<Endpoint> all;
  for (const auto& b : impl_->bound) all.push_back(b->at);
  return all;
}

void Server::start() {
  auto impl = impl_;
  for (std::size_t i = 0; i < impl->bound.size(); ++i)
    impl->tasks.spawn("accept", [impl, i]() -> awaitable<void> { return impl->accept_loop(i); });
}

awaitable<void> Server::stop() {
  auto impl = impl_;
  impl->close_all();
  co_await impl->tasks.join();
}

Status Server::reload_tls() {
  std::vector<std::shared_ptr<TlsContext>> fresh;
  for (const auto& b : impl_->bound) {
    fresh.emplace_back();
    if (!b->tls) continue;
    auto made = make_server_tls(b->files, b->certificate_required);
    if (!made) return wrap(made.error(), "listen on " + b->at.to_string());
    fresh.back() = std::move(*made);
  }
  for (std::size_t i = 0; i < fresh.size(); ++i)
    if (fresh[i]) impl_->bound[i]->tls = std::move(fresh[i]);
  return {};
}

std::size_t Server::close_peers(const std::function<bool(const Peer&)>& which) {
  std::size_t closed = 0;
  for (auto& o : impl_->open) {
    const auto t = o.transport.lock();
    if (!t || !which(t->peer())) continue;
    t->close();
    ++closed;
  }
  return closed;
}

ServerStats Server::stats() const {
  ServerStats s = impl_->stats;
  s.connections = impl_->open.size();
  return s;
}

}  // namespace calico::http
