#pragma once
/// The certificates of a cloud's members: keys, requests (PKCS #10) and what the controller's CA signs.
///
///   auto key = make_key();
///   auto csr = make_request(*key, "compute-1");                    // on the node
///   auto hash = check_request(*csr);                               // on the controller: a P-256 key, and proof of it
///   auto cert = sign_request(ca, *csr, {.name = "compute-1", .client = true, .not_after = now + 90 days});
///
/// Of a request only its public key is used. Subject, validity, usage and extensions are the signer's, whatever the
/// request asks for. Keys are P-256 only: no parameter of a stranger's key costs us time.
///
/// Thread: any, pure. Errors: invalid (the text is not what it should be), internal (OpenSSL).
#include <string>
#include <string_view>
#include <vector>

#include "core/base/clock.hpp"
#include "core/base/error.hpp"
#include "core/base/ip.hpp"
#include "core/http/certificates.hpp"

namespace calico::membership {

/// What is read of a certificate.
struct Certificate {
  std::string name;    ///< common name; empty unless there is exactly one
  std::string serial;  ///< lower-case hexadecimal
  WallTime not_before;
  WallTime not_after;
  std::string key_hash;  ///< SHA-256 of the public key (SubjectPublicKeyInfo), hexadecimal: what a token pins
  bool self_signed_ca = false;
  std::vector<std::string> dns;
  std::vector<Ip> ips;
};

struct Subject {
  std::string name;  ///< common name, 1 to 64 characters
  std::vector<std::string> dns;
  std::vector<Ip> ips;
  bool server = false;
  bool client = false;
  WallTime not_before;
  WallTime not_after;
};

/// A request over this many bytes is not looked at.
inline constexpr std::size_t kRequestBytes = 8 * 1024;

/// The first certificate of the text.
[[nodiscard]] Result<Certificate> read_certificate(std::string_view pem);
/// A new private key, PEM. Secret.
[[nodiscard]] Result<std::string> make_key();
[[nodiscard]] Result<std::string> make_request(std::string_view key_pem, std::string_view name);
/// Hash of the request's public key, after its signature proved that the sender has the private one.
[[nodiscard]] Result<std::string> check_request(std::string_view csr_pem);
/// The certificate, PEM.
[[nodiscard]] Result<std::string> sign_request(const http::KeyPair& ca, std::string_view csr_pem,
                                               const Subject& subject);
/// The certificate is this key's, and this CA signed it (its dates are not looked at).
[[nodiscard]] Status check_issued(std::string_view cert_pem, std::string_view key_pem, std::string_view ca_pem);

/// "2026-01-31T12:00:00Z".
[[nodiscard]] std::string time_text(WallTime t);

}  // namespace calico::membership
