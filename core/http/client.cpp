#include "core/http/client.hpp"

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <list>

#include "core/http/transport.hpp"

namespace calico::http {

namespace asio = boost::asio;
namespace beast = boost::beast;
using boost::system::error_code;

namespace {

constexpr auto kUse = asio::as_tuple(asio::use_awaitable);
constexpr std::size_t kReadBytes = 32 * 1024;

using Parser = beast::http::response_parser<beast::http::string_body>;

TimePoint now() { return std::chrono::steady_clock::now(); }

bool clean(std::string_view s, bool spaces) {
  for (char c : s)
    if (static_cast<unsigned char>(c) < (spaces ? 0x20 : 0x21) || c == 0x7f) return false;
  return true;
}

/// One connection and the answer being read from it.
struct Exchange {
  Exchange(std::shared_ptr<Transport> t, Endpoint e, const ClientOptions& o)
      : transport(std::move(t)), at(std::move(e)), options(o) {}

  tl::unexpected<Error> wrong(Errc code, std::string_view what) const {
    return fail(code, "{}: {}", at.to_string(), what);
  }
  tl::unexpected<Error> wrong(const Error& e) const { return wrap(e, at.to_string()); }

  awaitable<Result<std::size_t>> fill(Duration timeout) {
    const auto old = in.size();
    in.resize(old + kReadBytes);
    auto got = co_await transport->read_some(in.data() + old, kReadBytes, timeout);
    in.resize(old + (got ? *got : 0));
    if (got && *got > 0) any_byte = true;
    co_return got;
  }

  /// Feeds what is in `in`. Errors: invalid, exhausted.
  Status feed() {
    while (!parser->is_done() && !in.empty()) {
      error_code ec;
      const bool had_header = parser->is_header_done();
      const auto used = parser->put(asio::buffer(in), ec);
      in.erase(0, used);
      if (ec == beast::http::error::need_more) return {};
      if (ec == beast::http::error::header_limit) return wrong(Errc::exhausted, "answer's header too large");
      if (ec == beast::http::error::body_limit) return wrong(Errc::exhausted, "answer's body too large");
      if (ec) return wrong(Errc::invalid, fmt::format("not an HTTP answer: {}", ec.message()));
      if (!had_header && parser->is_header_done()) return {};
      if (used == 0) return {};
    }
    return {};
  }

  /// Until the head of the final answer is in.
  awaitable<Status> read_head(bool head_request, bool bounded, TimePoint deadline) {
    for (;;) {
      parser = std::make_unique<Parser>();
      parser->eager(false);
      parser->header_limit(static_cast<std::uint32_t>(options.header_bytes));
      parser->body_limit(options.body_bytes);
      if (head_request) parser->skip(true);
      while (!parser->is_header_done()) {
        if (auto fed = feed(); !fed) co_return fed;
        if (parser->is_header_done()) break;
        auto got = co_await fill(left_until(deadline));
        if (!got) co_return wrong(got.error());
        if (*got == 0) co_return wrong(Errc::unavailable, "connection closed before the answer");
      }
      const unsigned status = parser->get().result_int();
      if (status >= 200 || status == 101) break;  // 100 and 103 come before the answer
    }
    // A stream may go on for ever; a length that is announced must still be one we would hold.
    if (!bounded && !parser->content_length()) parser->body_limit(boost::none);
    const auto& message = parser->get();
    answer.status = message.result_int();
    answer.headers = {};
    for (const auto& f : message) answer.headers.add(std::string(f.name_string()), std::string(f.value()));
    answer.from = at;
    co_return Status{};
  }

  /// More of the body into the parser. False = the answer is complete.
  awaitable<Result<bool>> read_more(TimePoint deadline) {
    if (parser->is_done()) co_return false;
    const auto before = parser->get().body().size();
    if (auto fed = feed(); !fed) co_return tl::unexpected(fed.error());
    if (parser->is_done() || parser->get().body().size() != before) co_return true;
    auto got = co_await fill(left_until(deadline));
    if (!got) co_return wrong(got.error());
    if (*got > 0) {
      if (auto fed = feed(); !fed) co_return tl::unexpected(fed.error());
      co_return true;
    }
    error_code ec;
    parser->put_eof(ec);
    if (ec) co_return wrong(Errc::unavailable, "connection closed inside the answer");
    co_return true;
  }

  std::shared_ptr<Transport> transport;
  Endpoint at;
  ClientOptions options;
  std::string in;
  std::unique_ptr<Parser> parser;
  Answer answer;
  bool any_byte = false;
  std::uint64_t tls_count = 0;  ///< Impl::tls_count when it was connected
};

class Lines final : public LineReader {
 public:
  explicit Lines(std::shared_ptr<Exchange> x) : x_(std::move(x)) {}
  ~Lines() override { x_->transport->close(); }
  const Answer& head() const override { return x_->answer; }

  awaitable<Result<std::string>> read_line(Duration timeout) override {
    auto x = x_;
    const auto deadline = now() + timeout;
    for (;;) {
      std::string& body = x->parser->get().body();
      const auto end = body.find('\n', searched_);
      if (end != std::string::npos) {
        std::string line = body.substr(begin_, end - begin_);
        begin_ = searched_ = end + 1;
        if (begin_ == body.size() || begin_ > 1024 * 1024) {
          body.erase(0, begin_);
          begin_ = searched_ = 0;
        }
        if (line.ends_with('\r')) line.pop_back();
        co_return line;
      }
      searched_ = body.size();
      if (body.size() - begin_ > x->options.line_bytes) {
        close();
        co_return x->wrong(Errc::exhausted, fmt::format("line of more than {} bytes", x->options.line_bytes));
      }
      auto more = co_await x->read_more(deadline);
      if (!more) {
        close();
        co_return tl::unexpected(more.error());
      }
      if (!*more) {
        if (begin_ == x->parser->get().body().size()) co_return x->wrong(Errc::closed, "the answer has ended");
        std::string line = x->parser->get().body().substr(begin_);  // the last line without its end
        begin_ = searched_ = x->parser->get().body().size();
        co_return line;
      }
    }
  }

  awaitable<Result<std::string>> read_all(Duration timeout) override {
    auto x = x_;
    const auto deadline = now() + timeout;
    for (;;) {
      if (x->parser->get().body().size() - begin_ > x->options.line_bytes) {
        close();
        co_return x->wrong(Errc::exhausted, "answer's body too large");
      }
      auto more = co_await x->read_more(deadline);
      if (!more) {
        close();
        co_return tl::unexpected(more.error());
      }
      if (!*more) co_return x->parser->get().body().substr(begin_);
    }
  }

  void close() override { x_->transport->close(); }

 private:
  std::shared_ptr<Exchange> x_;
  std::size_t begin_ = 0;     ///< of the next line in the parser's body
  std::size_t searched_ = 0;  ///< no line end before it
};

}  // namespace

struct Client::Impl : std::enable_shared_from_this<Client::Impl> {
  Impl(asio::any_io_executor ex, ClientOptions o) : executor(std::move(ex)), options(std::move(o)), freed(executor) {
    freed.expires_at(asio::steady_timer::time_point::max());
  }

  /// A running request's place under max_connections.
  struct Slot {
    explicit Slot(std::shared_ptr<Impl> i) : impl(std::move(i)) { ++impl->busy; }
    ~Slot() {
      --impl->busy;
      impl->freed.cancel_one();
    }
    Slot(const Slot&) = delete;
    Slot& operator=(const Slot&) = delete;
    std::shared_ptr<Impl> impl;
  };
  /// Registers a transport in use, so that close() reaches it.
  struct InUse {
    InUse(std::shared_ptr<Impl> i, std::shared_ptr<Transport> t)
        : impl(std::move(i)), it(impl->used.insert(impl->used.end(), std::move(t))) {}
    ~InUse() { impl->used.erase(it); }
    InUse(const InUse&) = delete;
    InUse& operator=(const InUse&) = delete;
    std::shared_ptr<Impl> impl;
    std::list<std::weak_ptr<Transport>>::iterator it;
  };

  std::shared_ptr<Exchange> take_idle() {
    while (!idle.empty()) {
      auto x = std::move(idle.back());
      idle.pop_back();
      if (x->transport->is_quiet()) {
        x->any_byte = false;
        return x;
      }
      x->transport->close();
    }
    return nullptr;
  }
  void move_on(const Endpoint& from) {
    if (options.endpoints[current] == from) current = (current + 1) % options.endpoints.size();
    std::erase_if(idle, [&from](const auto& x) {
      if (x->at == from) x->transport->close();
      return x->at == from;
    });
  }

  awaitable<Result<std::shared_ptr<Exchange>>> connect(TimePoint deadline);
  std::string bytes_of(const ClientRequest& request, const Endpoint& to, bool keep) const;
  awaitable<Status> send_and_read_head(std::shared_ptr<Exchange> x, ClientRequest request, bool stream,
                                       TimePoint deadline);
  awaitable<Result<Answer>> request(ClientRequest request);
  awaitable<Result<std::unique_ptr<LineReader>>> open(ClientRequest request);

  asio::any_io_executor executor;
  ClientOptions options;
  std::shared_ptr<TlsContext> tls;
  std::uint64_t tls_count = 0;  ///< of reloads: a connection of an earlier one is not kept
  std::size_t current = 0;
  std::size_t busy = 0;
  asio::steady_timer freed;
  std::vector<std::shared_ptr<Exchange>> idle;
  std::list<std::weak_ptr<Transport>> used;
  bool closed = false;
};

awaitable<Result<std::shared_ptr<Exchange>>> Client::Impl::connect(TimePoint deadline) {
  auto self = shared_from_this();
  std::string tried;
  Errc code = Errc::unavailable;
  const auto count = options.endpoints.size();
  for (std::size_t i = 0; i < count; ++i) {
    if (closed) co_return fail(Errc::closed, "client closed");
    const Endpoint to = options.endpoints[current];
    // A share of what is left for each endpoint not yet tried: one that swallows packets must not use it all up.
    const Duration share = left_until(deadline) / static_cast<long>(count - i);
    const auto with = tls_count;
    auto made = co_await connect_transport(to, tls, std::min(options.connect_timeout, share));
    if (made) {
      auto x = std::make_shared<Exchange>(std::move(*made), to, options);
      x->tls_count = with;
      co_return x;
    }
    code = made.error().code;
    tried += fmt::format("{}{}", tried.empty() ? "" : "; ", made.error().what);
    move_on(to);
  }
  co_return fail(code, "{}", tried);
}

std::string Client::Impl::bytes_of(const ClientRequest& request, const Endpoint& to, bool keep) const {
  std::string host = "localhost";
  if (!to.is_unix()) {
    host = to.to_string();
    host.erase(0, host.find("://") + 3);
  }
  std::string out = fmt::format("{} {} HTTP/1.1\r\nHost: {}\r\n", request.method, request.target, host);
  for (const auto& [name, value] : request.headers) out += fmt::format("{}: {}\r\n", name, value);
  if (!request.body.empty() || (request.method != "GET" && request.method != "HEAD" && request.method != "DELETE"))
    out += fmt::format("Content-Length: {}\r\n", request.body.size());
  if (!keep) out += "Connection: close\r\n";
  out += "\r\n";
  out += request.body;
  return out;
}

awaitable<Status> Client::Impl::send_and_read_head(std::shared_ptr<Exchange> x, ClientRequest request, bool stream,
                                                   TimePoint deadline) {
  auto sent = co_await x->transport->write(bytes_of(request, x->at, !stream), left_until(deadline));
  // A server that refuses early answers and closes: its answer says more than our broken pipe.
  if (!sent && sent.error().code != Errc::unavailable) co_return x->wrong(sent.error());
  auto head = co_await x->read_head(request.method == "HEAD", !stream, deadline);
  co_return head;
}

namespace {
Status check(const ClientRequest& r) {
  if (!clean(r.method, false) || r.method.empty() || !clean(r.target, false) || r.target.empty())
    return fail(Errc::invalid, "http request: bad method or target");
  for (const auto& [name, value] : r.headers)
    if (!clean(name, false) || name.empty() || name.find(':') != std::string::npos || !clean(value, true))
      return fail(Errc::invalid, "http request: bad header '{}'", name);
  return {};
}
}  // namespace

awaitable<Result<Answer>> Client::Impl::request(ClientRequest request) {
  auto self = shared_from_this();
  if (auto s = check(request); !s) co_return tl::unexpected(s.error());
  const auto deadline = now() + (request.timeout > Duration::zero() ? request.timeout : options.request_timeout);
  while (busy >= options.max_connections && !closed) {
    asio::steady_timer limit(executor, deadline);
    limit.async_wait([self](error_code ec) {
      if (!ec) self->freed.cancel();  // all look at the clock again
    });
    auto [ec] = co_await freed.async_wait(kUse);
    (void)ec;
    if (now() < deadline) continue;
    if (busy < options.max_connections) freed.cancel_one();  // the wake-up was perhaps for another one: pass it on
    co_return fail(Errc::timeout, "{}: no free connection in time", options.endpoints[current].to_string());
  }
  if (closed) co_return fail(Errc::closed, "client closed");
  Slot slot(self);
  Error last;
  for (std::size_t attempt = 0; attempt <= options.endpoints.size(); ++attempt) {
    auto x = take_idle();
    const bool reused = x != nullptr;
    if (!x) {
      auto made = co_await connect(deadline);
      if (!made) co_return tl::unexpected(made.error());
      x = std::move(*made);
    }
    InUse in_use(self, x->transport);
    auto head = co_await send_and_read_head(x, request, false, deadline);
    if (head) {
      for (;;) {
        auto more = co_await x->read_more(deadline);
        if (!more) {
          head = tl::unexpected(more.error());
          break;
        }
        if (!*more) break;
      }
    }
    if (head) {
      Answer answer = std::move(x->answer);
      answer.body = std::move(x->parser->get().body());
      const bool keep = x->parser->keep_alive() && x->in.empty() && !closed && x->tls_count == tls_count;
      if (keep) {
        idle.push_back(x);
        while (idle.size() > options.max_connections) {
          idle.front()->transport->close();
          idle.erase(idle.begin());
        }
      } else {
        x->transport->close();
      }
      co_return answer;
    }
    x->transport->close();
    last = head.error();
    if (closed) co_return fail(Errc::closed, "client closed");
    const bool lost = last.code == Errc::unavailable && !x->any_byte;
    // An idle connection that the server had closed meanwhile says nothing about the endpoint.
    if (!(reused && lost)) move_on(x->at);
    if (!request.idempotent || !lost || now() >= deadline) break;
  }
  co_return tl::unexpected(last);
}

awaitable<Result<std::unique_ptr<LineReader>>> Client::Impl::open(ClientRequest request) {
  auto self = shared_from_this();
  if (auto s = check(request); !s) co_return tl::unexpected(s.error());
  const auto deadline = now() + (request.timeout > Duration::zero() ? request.timeout : options.request_timeout);
  auto made = co_await connect(deadline);
  if (!made) co_return tl::unexpected(made.error());
  auto x = std::move(*made);
  InUse in_use(self, x->transport);
  auto head = co_await send_and_read_head(x, request, true, deadline);
  if (!head) {
    x->transport->close();
    move_on(x->at);
    co_return tl::unexpected(head.error());
  }
  co_return std::make_unique<Lines>(x);
}

Result<std::unique_ptr<Client>> Client::create(asio::any_io_executor executor, ClientOptions options) {
  if (options.endpoints.empty()) return fail(Errc::invalid, "http client: no endpoint given");
  const bool any_tls = std::ranges::any_of(options.endpoints, [](const Endpoint& e) { return e.tls; });
  for (const auto& e : options.endpoints)
    if (!e.is_unix() && e.port == 0) return fail(Errc::invalid, "http client: {}: port 0", e.to_string());
  auto impl = std::make_shared<Impl>(std::move(executor), std::move(options));
  if (any_tls) {
    auto tls = make_client_tls(impl->options.tls);
    if (!tls) return tl::unexpected(tls.error());
    impl->tls = std::move(*tls);
  }
  return std::unique_ptr<Client>(new Client(std::move(impl)));
}

Client::Client(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::~Client() { close(); }

awaitable<Result<Answer>> Client::request(ClientRequest request) { return impl_->request(std::move(request)); }
awaitable<Result<std::unique_ptr<LineReader>>> Client::open(ClientRequest request) {
  return impl_->open(std::move(request));
}

void Client::close() {
  impl_->closed = true;
  for (auto& x : impl_->idle) x->transport->close();
  impl_->idle.clear();
  for (auto& weak : impl_->used)
    if (auto t = weak.lock()) t->close();
  impl_->freed.cancel();
}

Status Client::reload_tls() {
  if (!impl_->tls) return {};
  auto tls = make_client_tls(impl_->options.tls);
  if (!tls) return tl::unexpected(tls.error());
  impl_->tls = std::move(*tls);
  ++impl_->tls_count;
  for (auto& x : impl_->idle) x->transport->close();
  impl_->idle.clear();
  return {};
}

void Client::move_on(const Endpoint& from) { impl_->move_on(from); }

Endpoint Client::current() const { return impl_->options.endpoints[impl_->current]; }

}  // namespace calico::http
