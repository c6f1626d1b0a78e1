#pragma once
/// HTTP messages as plain values, shared by server and client: Headers, Request, Response, Endpoint, and who the peer
/// is. No Beast or OpenSSL here: the heavy headers stay in this floor's .cpp files.
///
/// Thread: values, any. Errors: parse functions return invalid.
#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/clock.hpp"
#include "core/base/error.hpp"
#include "core/base/ip.hpp"

namespace calico::http {

using boost::asio::awaitable;

/// Header fields in order; names are looked up without regard to case.
class Headers {
 public:
  Headers() = default;
  Headers(std::initializer_list<std::pair<std::string, std::string>> fields) : fields_(fields) {}
  /// First value with this name.
  std::optional<std::string_view> get(std::string_view name) const;
  /// Replaces every value with this name.
  void set(std::string_view name, std::string value);
  void add(std::string name, std::string value) { fields_.emplace_back(std::move(name), std::move(value)); }
  void erase(std::string_view name);
  auto begin() const { return fields_.begin(); }
  auto end() const { return fields_.end(); }
  std::size_t size() const { return fields_.size(); }

 private:
  std::vector<std::pair<std::string, std::string>> fields_;
};

/// Where to listen or to connect: "http://10.0.0.1:80", "https://name:2379", "10.0.0.1:2379" and "[2001:db8::1]:2379"
/// (http), "unix:/run/x.sock". Any path after the port is refused, one "/" aside.
struct Endpoint {
  bool tls = false;
  std::string host;  ///< name or address without brackets; empty for a unix socket
  std::uint16_t port = 0;
  std::string unix_path;

  /// `default_port` 0 = the port must be given. Port 0 may be asked for where one listens. Errors: invalid.
  [[nodiscard]] static Result<Endpoint> parse(std::string_view text, std::uint16_t default_port = 0);
  bool is_unix() const { return !unix_path.empty(); }
  /// Host as an address, if it is one.
  std::optional<Ip> ip() const;
  /// "https://[2001:db8::1]:2379", "unix:/run/x.sock".
  std::string to_string() const;
  bool operator==(const Endpoint&) const = default;
};

/// Who is at the other end, as far as the transport proves it.
struct Peer {
  std::optional<Ip> ip;    ///< remote address (TCP)
  std::uint16_t port = 0;  ///< remote port (TCP)
  bool tls = false;
  bool certified = false;   ///< TLS with a client certificate that our CA signed
  std::string common_name;  ///< empty also when the certificate has none, two, or one that cannot be printed
  std::vector<std::string> dns_names;
  std::vector<Ip> ips;
  std::string serial;            ///< of the certificate: lower-case hexadecimal
  WallTime certificate_until{};  ///< its end
  bool unix_socket = false;
  std::optional<std::uint32_t> uid;  ///< unix socket: SO_PEERCRED
  std::optional<std::uint32_t> gid;
  std::optional<std::int32_t> pid;
  enum class Via : std::uint8_t { plain, tls, unix_socket };
  Via via() const { return tls ? Via::tls : unix_socket ? Via::unix_socket : Via::plain; }
  /// Who it is to an authorisation: the name in its verified certificate, else empty.
  std::string_view identity() const { return certified ? std::string_view(common_name) : std::string_view(); }
  /// "cn=node-1 10.0.0.2:4711", "10.0.0.2:4711", "uid=0 pid=12": for logs.
  std::string to_string() const;
};

using Query = std::vector<std::pair<std::string, std::string>>;

/// Percent-decoding of one component; '+' is a space when `plus`. Errors: invalid (bad escape, a zero byte).
[[nodiscard]] Result<std::string> percent_decode(std::string_view text, bool plus);
/// Leaves A-Z a-z 0-9 - . _ ~ as they are.
[[nodiscard]] std::string percent_encode(std::string_view text);

/// The body of a request that is handed over before it is complete (ServerOptions::stream_request).
class BodyReader {
 public:
  virtual ~BodyReader() = default;
  /// The next bytes; empty = the body has ended. Only until the handler has returned its Response.
  /// Errors: closed, timeout, exhausted (over the body limit), invalid.
  [[nodiscard]] virtual awaitable<Result<std::string>> read_some() = 0;
};

struct Request {
  std::string method;  ///< "GET", "POST"
  std::string target;  ///< as sent: "/v2.0/ports?name=a%20b"
  std::string path;    ///< decoded: "/v2.0/ports"
  Query query;         ///< decoded, in order, repeats kept
  Headers headers;
  std::string body;                         ///< empty when body_reader is set
  std::shared_ptr<BodyReader> body_reader;  ///< only where ServerOptions::stream_request said so
  Peer peer;

  /// First query parameter with this name.
  std::optional<std::string_view> param(std::string_view name) const;
};

/// A response being written piece by piece (chunked; plain bytes until close for HTTP/1.0). Loop: the server's.
class ResponseStream {
 public:
  virtual ~ResponseStream() = default;
  /// Returns when the bytes are with the kernel. Errors: closed (the peer went), timeout (it does not read).
  [[nodiscard]] virtual awaitable<Status> write(std::string chunk) = 0;
};

/// What a handler answers. With `stream` set, status and headers are sent at once, `body` (if any) as the first chunk,
/// and then stream() writes the rest; the response ends when it returns and the connection is closed after it.
/// When the peer closes or the server stops, stream() is cancelled (terminal): what it awaits ends with
/// operation_aborted, as with every task of a TaskGroup.
struct Response {
  unsigned status = 200;
  Headers headers;  ///< Content-Length, Transfer-Encoding, Connection and Date are the server's business
  std::string body;
  std::function<awaitable<void>(std::shared_ptr<ResponseStream>)> stream;
  std::shared_ptr<void> held;  ///< let go when the response is written, or its connection is gone

  static Response json(unsigned status, std::string body);
  static Response text(unsigned status, std::string body);
};

/// "Not Found"; "Unknown" for numbers without a name.
[[nodiscard]] std::string_view reason_phrase(unsigned status);

/// Certificates for one side of TLS. TLS 1.2 or newer always.
/// Server: cert_file and key_file needed; with ca_file a client certificate signed by it is required, or at least
/// verified when one is shown (Listen::client_certificate).
/// Client: ca_file verifies the server (empty: the system's CAs); cert_file and key_file identify the client.
struct TlsFiles {
  std::string ca_file;
  std::string cert_file;
  std::string key_file;
  /// Client, instead of ca_file: the SHA-256 (hexadecimal) of a public key. The CA with that key must be in the chain
  /// the server presents, and is the only one trusted.
  std::string ca_pin{};
};

}  // namespace calico::http
