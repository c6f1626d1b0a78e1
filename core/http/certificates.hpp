#pragma once
/// Throw-away certificates: a CA and what it signs, for the laboratory and for tests. Keys are P-256, certificates
/// X.509 v3 with SHA-256. Not a public key infrastructure: no revocation, no serial database.
///
///   auto ca = http::make_ca("lab");
///   auto node = http::issue(*ca, {.name = "node-1", .dns = {"node-1"}, .ips = {ip}, .server = true, .client = true});
///   http::write_pem("/run/x/node-1", *node);   // node-1.crt (0644), node-1.key (0600)
///
/// Thread: any; calls take milliseconds. Errors: internal (OpenSSL), invalid, and those of the file system.
#include <chrono>
#include <string>
#include <vector>

#include "core/base/error.hpp"
#include "core/base/ip.hpp"

namespace calico::http {

struct KeyPair {
  std::string cert_pem;
  std::string key_pem;  ///< secret
};

struct CertificateRequest {
  std::string name;              ///< common name
  std::vector<std::string> dns;  ///< subject alternative names
  std::vector<Ip> ips;
  bool server = true;
  bool client = true;
  std::chrono::hours valid{24 * 365};  ///< negative: already expired (for tests)
};

[[nodiscard]] Result<KeyPair> make_ca(std::string name, std::chrono::hours valid = std::chrono::hours(24 * 3650));
[[nodiscard]] Result<KeyPair> issue(const KeyPair& ca, const CertificateRequest& request);
/// Writes `<stem>.crt` (0644) and `<stem>.key` (0600), each replaced atomically.
[[nodiscard]] Status write_pem(const std::string& stem, const KeyPair& pair);
/// Writes one file with this mode, replaced atomically.
[[nodiscard]] Status write_file(const std::string& path, const std::string& content, unsigned mode);

}  // namespace calico::http
