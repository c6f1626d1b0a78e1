#include "core/http/transport.hpp"

#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/error.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <optional>

#include "core/http/openssl.hpp"

namespace calico::http {

namespace asio = boost::asio;
namespace ssl = boost::asio::ssl;
using boost::system::error_code;

namespace {

constexpr auto kUse = asio::as_tuple(asio::use_awaitable);
constexpr int kUserTimeoutMs = 10'000;

struct TlsContextImpl final : TlsContext {
  explicit TlsContextImpl(ssl::context::method method) : context(method) {}
  ssl::context context;
  std::string pin;  ///< TlsFiles::ca_pin
};

/// The reason of the last OpenSSL fault, without its numbers.
std::string openssl_reason() {
  std::string text = "unknown fault";
  if (const auto e = ERR_peek_last_error())
    if (const char* reason = ERR_reason_error_string(e)) text = reason;
  ERR_clear_error();
  return text;
}

Status load_files(SSL_CTX* ctx, const TlsFiles& files) {
  ERR_clear_error();
  if (!files.ca_file.empty() && SSL_CTX_load_verify_locations(ctx, files.ca_file.c_str(), nullptr) != 1)
    return fail(Errc::invalid, "ca_file {}: {}", files.ca_file, openssl_reason());
  if (files.cert_file.empty() != files.key_file.empty())
    return fail(Errc::invalid, "cert_file and key_file belong together: '{}' and '{}'", files.cert_file,
                files.key_file);
  if (files.cert_file.empty()) return {};
  if (SSL_CTX_use_certificate_chain_file(ctx, files.cert_file.c_str()) != 1)
    return fail(Errc::invalid, "cert_file {}: {}", files.cert_file, openssl_reason());
  if (SSL_CTX_use_PrivateKey_file(ctx, files.key_file.c_str(), SSL_FILETYPE_PEM) != 1)
    return fail(Errc::invalid, "key_file {}: {}", files.key_file, openssl_reason());
  if (SSL_CTX_check_private_key(ctx) != 1)
    return fail(Errc::invalid, "key_file {} does not belong to cert_file {}", files.key_file, files.cert_file);
  return {};
}

/// A key with a pass phrase must not make a daemon ask a terminal that is not there.
int no_pass_phrase(char*, int, int, void*) { return -1; }

void common_settings(SSL_CTX* ctx) {
  SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
  SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
  SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_default_passwd_cb(ctx, no_pass_phrase);
}

/// HTTP/1.1 when the client offers a list with it; else no answer to the offer.
int select_http11(SSL*, const unsigned char** out, unsigned char* out_len, const unsigned char* in, unsigned in_len,
                  void*) {
  static constexpr std::string_view kName = "http/1.1";
  for (unsigned i = 0; i < in_len && in[i] <= in_len - i - 1; i += in[i] + 1U) {
    const std::string_view offer(reinterpret_cast<const char*>(in + i + 1), in[i]);
    if (offer != kName) continue;
    *out = in + i + 1;
    *out_len = in[i];
    return SSL_TLSEXT_ERR_OK;
  }
  return SSL_TLSEXT_ERR_NOACK;
}

/// Trusts the one CA of the presented chain whose key is pinned: with it the usual verification is done, names, dates
/// and purpose included. Without it nothing is.
int verify_pinned(X509_STORE_CTX* ctx, void* pin) {
  const auto* presented = X509_STORE_CTX_get0_untrusted(ctx);
  for (int i = 0; i < sk_X509_num(presented); ++i) {
    X509* cert = sk_X509_value(presented, i);
    if (key_hash(X509_get_X509_PUBKEY(cert)) != *static_cast<const std::string*>(pin)) continue;
    STACK_OF(X509)* trusted = sk_X509_new_null();
    if (!trusted || sk_X509_push(trusted, cert) == 0) break;
    X509_STORE_CTX_set0_trusted_stack(ctx, trusted);
    const int verified = X509_verify_cert(ctx);
    sk_X509_free(trusted);
    return verified;
  }
  X509_STORE_CTX_set_error(ctx, X509_V_ERR_APPLICATION_VERIFICATION);
  return 0;
}

bool printable(std::string_view s) {
  for (char c : s)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return false;
  return true;
}

void read_certificate(SSL* ssl_handle, Peer& peer) {
  std::unique_ptr<X509, void (*)(X509*)> cert(SSL_get1_peer_certificate(ssl_handle), X509_free);
  if (!cert || SSL_get_verify_result(ssl_handle) != X509_V_OK) return;
  peer.certified = (SSL_get_verify_mode(ssl_handle) & SSL_VERIFY_PEER) != 0;
  X509_NAME* subject = X509_get_subject_name(cert.get());
  const int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
  // Of two names one would be taken and the other meant: such a certificate names nobody.
  if (at >= 0 && X509_NAME_get_index_by_NID(subject, NID_commonName, at) < 0) {
    unsigned char* text = nullptr;
    const int n = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
    if (n > 0) peer.common_name.assign(reinterpret_cast<char*>(text), static_cast<std::size_t>(n));
    OPENSSL_free(text);
    if (!printable(peer.common_name)) peer.common_name.clear();
  }
  peer.serial = serial_text(cert.get());
  peer.certificate_until = wall_time(X509_get0_notAfter(cert.get()));
  auto* names = static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(cert.get(), NID_subject_alt_name, nullptr, nullptr));
  for (int i = 0; names && i < sk_GENERAL_NAME_num(names); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names, i);
    if (name->type != GEN_DNS && name->type != GEN_IPADD) continue;
    const ASN1_STRING* value = name->type == GEN_DNS ? name->d.dNSName : name->d.iPAddress;
    const std::string_view raw(reinterpret_cast<const char*>(ASN1_STRING_get0_data(value)),
                               static_cast<std::size_t>(ASN1_STRING_length(value)));
    if (name->type == GEN_DNS && printable(raw)) peer.dns_names.emplace_back(raw);
    if (name->type == GEN_IPADD && (raw.size() == 4 || raw.size() == 16))
      peer.ips.push_back(Ip::from_bytes(std::as_bytes(std::span(raw.data(), raw.size()))));
  }
  GENERAL_NAMES_free(names);
}

Ip ip_of(const sockaddr_storage& address, std::uint16_t& port) {
  if (address.ss_family == AF_INET6) {
    const auto& in6 = reinterpret_cast<const sockaddr_in6&>(address);
    port = ntohs(in6.sin6_port);
    return Ip::from_bytes(std::as_bytes(std::span(in6.sin6_addr.s6_addr)));
  }
  const auto& in = reinterpret_cast<const sockaddr_in&>(address);
  port = ntohs(in.sin_port);
  return Ip::v4(ntohl(in.sin_addr.s_addr));
}

void read_socket_peer(int fd, Peer& peer) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return;
  if (address.ss_family == AF_INET || address.ss_family == AF_INET6) peer.ip = ip_of(address, peer.port);
  if (address.ss_family != AF_UNIX) return;
  peer.unix_socket = true;
  ucred cred{};
  size = sizeof cred;
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) != 0) return;
  peer.uid = cred.uid;
  peer.gid = cred.gid;
  peer.pid = cred.pid;
}

/// A peer that vanished without a word is noticed within about ten seconds, idle or sending.
void set_tcp_options(int fd) {
  const auto set = [fd](int level, int name, int value) { (void)::setsockopt(fd, level, name, &value, sizeof value); };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 5);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 2);
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, kUserTimeoutMs);
}

class Connection final : public Transport, public std::enable_shared_from_this<Connection> {
 public:
  Connection(Socket socket, std::shared_ptr<TlsContext> tls_context)
      : socket_(std::move(socket)), read_(socket_.get_executor()), write_(socket_.get_executor()) {
    if (!tls_context) return;
    context_ = std::static_pointer_cast<TlsContextImpl>(std::move(tls_context));
    tls_.emplace(socket_, context_->context);
    peer_.tls = true;
  }

  awaitable<Result<std::size_t>> read_some(char* data, std::size_t n, Duration timeout) override {
    auto self = shared_from_this();
    if (closed_) co_return fail(Errc::closed, "connection closed");
    if (ended_) co_return std::size_t{0};
    Deadline deadline(*this, read_, timeout);
    error_code ec;
    std::size_t got = 0;
    const auto buffer = asio::buffer(data, n);
    if (tls_) {
      std::tie(ec, got) = co_await tls_->async_read_some(buffer, kUse);
    } else {
      std::tie(ec, got) = co_await socket_.async_read_some(buffer, kUse);
    }
    if (!ec || got > 0) co_return got;
    // A missing close_notify is an end too: HTTP's own framing tells whether the message was complete.
    if (ec == asio::error::eof || ec == ssl::error::stream_truncated) {
      // Remembered: the next read would wait for an event that an edge-triggered reactor never sends.
      ended_ = true;
      co_return std::size_t{0};
    }
    co_return failure(ec, deadline.expired());
  }

  awaitable<Status> write(std::string data, Duration timeout) override {
    auto self = shared_from_this();
    if (closed_) co_return fail(Errc::closed, "connection closed");
    Deadline deadline(*this, write_, timeout);
    error_code ec;
    std::size_t done = 0;
    const auto buffer = asio::buffer(data);
    if (tls_) {
      std::tie(ec, done) = co_await asio::async_write(*tls_, buffer, kUse);
    } else {
      std::tie(ec, done) = co_await asio::async_write(socket_, buffer, kUse);
    }
    if (!ec) co_return Status{};
    co_return failure(ec, deadline.expired());
  }

  awaitable<Status> handshake(bool server, Duration timeout) {
    auto self = shared_from_this();
    Deadline deadline(*this, read_, timeout);
    ERR_clear_error();
    const auto type = server ? ssl::stream_base::server : ssl::stream_base::client;
    auto [ec] = co_await tls_->async_handshake(type, kUse);
    if (!ec) {
      read_certificate(tls_->native_handle(), peer_);
      co_return Status{};
    }
    const long verdict = SSL_get_verify_result(tls_->native_handle());
    if (verdict == X509_V_ERR_APPLICATION_VERIFICATION && !deadline.expired())
      co_return fail(Errc::no_permission, "TLS: the pinned CA is not in the chain the server presents");
    if (verdict != X509_V_OK && !deadline.expired())
      co_return fail(Errc::no_permission, "TLS: certificate of the peer refused: {}",
                     X509_verify_cert_error_string(verdict));
    if (ec == asio::error::eof || ec == ssl::error::stream_truncated)
      co_return fail(Errc::unavailable, "TLS: connection closed during the handshake");
    co_return failure(ec, deadline.expired());
  }

  awaitable<void> finish() override {
    auto self = shared_from_this();
    if (closed_) co_return;
    Deadline deadline(*this, read_, std::chrono::seconds(1));
    error_code ec;
    if (tls_ && peer_.tls && SSL_is_init_finished(tls_->native_handle()) == 1) {
      // Only our own close_notify: asio's async_shutdown also waits for the peer's, the loop below does that better.
      auto [shut] = co_await tls_->async_shutdown(kUse);
      (void)shut;
    }
    if (closed_) co_return;
    socket_.shutdown(Socket::shutdown_send, ec);
    std::string sink(16 * 1024, '\0');
    std::size_t total = 0;
    while (!ec && !closed_ && total < 1024 * 1024) {
      const auto buffer = asio::buffer(sink);
      auto [e, n] = co_await socket_.async_read_some(buffer, kUse);
      ec = e;
      total += n;
    }
    close();
  }

  void close() override {
    closed_ = true;
    error_code ignored;
    socket_.close(ignored);
    read_.timer.cancel();
    write_.timer.cancel();
  }

  bool is_quiet() override {
    if (closed_) return false;
    pollfd p{socket_.native_handle(), POLLIN | POLLRDHUP, 0};
    return ::poll(&p, 1, 0) == 0;
  }

  const Peer& peer() const override { return peer_; }

  Socket& socket() { return socket_; }
  ssl::stream<Socket&>& tls() { return *tls_; }
  void opened() {
    read_socket_peer(socket_.native_handle(), peer_);
    if (peer_.ip) set_tcp_options(socket_.native_handle());
  }

  struct Timed {
    explicit Timed(const Socket::executor_type& executor) : timer(executor) {}
    asio::steady_timer timer;
    std::uint64_t generation = 0;
    bool expired = false;
  };

  /// Ends an operation that takes too long: a read is cancelled (what was written to us is incomplete, but we may still
  /// say why we give up), a write closes the connection. Disarmed by leaving the scope.
  class Deadline {
   public:
    Deadline(Connection& c, Timed& t, Duration timeout) : timed_(t) {
      t.expired = false;
      const auto generation = ++t.generation;
      if (timeout > Duration::zero()) arm(c.weak_from_this(), t, generation, timeout);
    }
    ~Deadline() {
      ++timed_.generation;
      timed_.timer.cancel();
    }
    Deadline(const Deadline&) = delete;
    Deadline& operator=(const Deadline&) = delete;
    bool expired() const { return timed_.expired; }

   private:
    static void arm(std::weak_ptr<Connection> weak, Timed& t, std::uint64_t generation, Duration after) {
      t.timer.expires_after(after);
      t.timer.async_wait([weak, &t, generation](error_code ec) {
        if (ec) return;
        const auto self = weak.lock();
        if (!self || t.generation != generation) return;
        t.expired = true;
        if (&t == &self->write_) {
          self->close();
          return;
        }
        error_code ignored;
        self->socket_.cancel(ignored);
        // A TLS operation may be between two steps just now, with nothing to cancel: once more in a moment.
        arm(weak, t, generation, std::chrono::milliseconds(20));
      });
    }
    Timed& timed_;
  };

  Timed& read_timed() { return read_; }

  /// Translates at the edge. Aborted and neither expired nor closed: the coroutine itself was cancelled.
  tl::unexpected<Error> failure(error_code ec, bool expired) {
    if (expired) return fail(Errc::timeout, "no answer in time");
    if (closed_) return fail(Errc::closed, "connection closed");
    if (ec == asio::error::operation_aborted) throw boost::system::system_error(ec);
    if (ec.category() == asio::error::get_ssl_category()) {
      const char* reason = ERR_reason_error_string(static_cast<unsigned long>(ec.value()));
      const std::string_view text = reason ? reason : "unknown fault";
      ERR_clear_error();
      // OpenSSL numbers an alert that came in as 1000 + its code: 42-46, 48, 49 and 116 are about certificates.
      const int code = ERR_GET_REASON(static_cast<unsigned long>(ec.value())) - SSL_AD_REASON_OFFSET;
      if ((code >= 42 && code <= 49 && code != 47) || code == 116)
        return fail(Errc::no_permission, "TLS: the peer refused our certificate ({})", text);
      return fail(Errc::unavailable, "TLS: {}", text);
    }
    if (ec == asio::error::timed_out) return fail(Errc::timeout, "connection timed out");
    return fail(Errc::unavailable, "{}", ec.message());
  }

 private:
  Socket socket_;
  std::shared_ptr<TlsContextImpl> context_;
  std::optional<ssl::stream<Socket&>> tls_;
  Timed read_;
  Timed write_;
  Peer peer_;
  bool closed_ = false;
  bool ended_ = false;  ///< the peer has ended its half
};

/// The addresses of a name; one for a literal address or a unix path.
awaitable<Result<std::vector<asio::generic::stream_protocol::endpoint>>> resolve(Endpoint to) {
  std::vector<asio::generic::stream_protocol::endpoint> found;
  if (to.is_unix()) {
    found.emplace_back(asio::local::stream_protocol::endpoint(to.unix_path));
    co_return found;
  }
  error_code ec;
  const auto literal = asio::ip::make_address(to.host, ec);
  if (!ec) {
    found.emplace_back(asio::ip::tcp::endpoint(literal, to.port));
    co_return found;
  }
  asio::ip::tcp::resolver resolver(co_await asio::this_coro::executor);
  const std::string service = std::to_string(to.port);
  auto [failed, results] = co_await resolver.async_resolve(to.host, service, kUse);
  if (failed == asio::error::operation_aborted) throw boost::system::system_error(failed);
  if (failed) co_return fail(Errc::unavailable, "resolve '{}': {}", to.host, failed.message());
  for (const auto& r : results) found.emplace_back(r.endpoint());
  co_return found;
}

}  // namespace

Duration left_until(TimePoint deadline) {
  return std::max<Duration>(deadline - std::chrono::steady_clock::now(), std::chrono::milliseconds(1));
}

Result<std::shared_ptr<TlsContext>> make_server_tls(const TlsFiles& files, bool certificate_required) {
  if (files.cert_file.empty()) return fail(Errc::invalid, "TLS: a server needs cert_file and key_file");
  auto tls = std::make_shared<TlsContextImpl>(ssl::context::tls_server);
  SSL_CTX* ctx = tls->context.native_handle();
  common_settings(ctx);
  if (auto s = load_files(ctx, files); !s) return tl::unexpected(s.error());
  SSL_CTX_set_num_tickets(ctx, 0);
  SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_alpn_select_cb(ctx, select_http11, nullptr);
  if (files.ca_file.empty()) return tls;
  SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | (certificate_required ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), nullptr);
  if (auto* names = SSL_load_client_CA_file(files.ca_file.c_str())) SSL_CTX_set_client_CA_list(ctx, names);
  ERR_clear_error();
  return tls;
}

Result<std::shared_ptr<TlsContext>> make_client_tls(const TlsFiles& files) {
  auto tls = std::make_shared<TlsContextImpl>(ssl::context::tls_client);
  SSL_CTX* ctx = tls->context.native_handle();
  common_settings(ctx);
  if (auto s = load_files(ctx, files); !s) return tl::unexpected(s.error());
  if (files.ca_file.empty() && files.ca_pin.empty() && SSL_CTX_set_default_verify_paths(ctx) != 1)
    return fail(Errc::unavailable, "TLS: the system's CA certificates: {}", openssl_reason());
  SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, nullptr);
  if (!files.ca_pin.empty()) {
    tls->pin = files.ca_pin;
    SSL_CTX_set_cert_verify_callback(ctx, verify_pinned, &tls->pin);
  }
  static constexpr unsigned char kAlpn[] = {8, 'h', 't', 't', 'p', '/', '1', '.', '1'};
  SSL_CTX_set_alpn_protos(ctx, kAlpn, sizeof kAlpn);
  ERR_clear_error();
  return tls;
}

awaitable<Result<std::shared_ptr<Transport>>> accept_transport(Socket socket, std::shared_ptr<TlsContext> tls,
                                                               Duration timeout,
                                                               std::function<void(std::shared_ptr<Transport>)> opened) {
  const bool with_tls = tls != nullptr;
  auto connection = std::make_shared<Connection>(std::move(socket), std::move(tls));
  connection->opened();
  if (opened) opened(connection);
  if (with_tls) {
    auto done = co_await connection->handshake(true, timeout);
    if (!done) {
      co_await connection->finish();  // so that the peer reads the alert
      co_return tl::unexpected(done.error());
    }
  }
  co_return std::shared_ptr<Transport>(connection);
}

awaitable<Result<std::shared_ptr<Transport>>> connect_transport(Endpoint to, std::shared_ptr<TlsContext> tls,
                                                                Duration timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  auto addresses = co_await resolve(to);
  if (!addresses) co_return wrap(addresses.error(), to.to_string());
  Error last{Errc::unavailable, "no address"};
  for (const auto& address : *addresses) {
    if (std::chrono::steady_clock::now() >= deadline) {
      last = {Errc::timeout, "no answer in time"};
      break;
    }
    Socket socket(co_await asio::this_coro::executor);
    auto connection = std::make_shared<Connection>(std::move(socket), to.tls ? tls : nullptr);
    {
      Connection::Deadline limit(*connection, connection->read_timed(), left_until(deadline));
      auto [ec] = co_await connection->socket().async_connect(address, kUse);
      if (ec) {
        last = connection->failure(ec, limit.expired()).value();
        continue;
      }
    }
    connection->opened();
    if (!to.tls) co_return std::shared_ptr<Transport>(connection);
    const bool literal = to.ip().has_value();
    if (!literal) SSL_set_tlsext_host_name(connection->tls().native_handle(), to.host.c_str());
    // The name is checked by OpenSSL itself, so that its verdict names the mismatch.
    X509_VERIFY_PARAM* param = SSL_get0_param(connection->tls().native_handle());
    const int set = literal ? X509_VERIFY_PARAM_set1_ip_asc(param, to.host.c_str())
                            : X509_VERIFY_PARAM_set1_host(param, to.host.c_str(), to.host.size());
    if (set != 1) co_return fail(Errc::internal, "{}: TLS: cannot set the expected name", to.to_string());
    auto done = co_await connection->handshake(false, left_until(deadline));
    if (done) co_return std::shared_ptr<Transport>(connection);
    last = done.error();
    connection->close();
  }
  co_return wrap(last, to.to_string());
}

}  // namespace calico::http
