#include "core/http/certificates.hpp"

#include <fcntl.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "core/http/openssl.hpp"

namespace calico::http {
namespace {

bool harmless(std::string_view s) {
  for (char c : s)
    if (static_cast<unsigned char>(c) < 0x20 || c == ',' || c == 0x7f) return false;
  return !s.empty() && s.size() <= 255;
}

Result<std::string> pem_of(X509* cert) {
  BioPtr bio(BIO_new(BIO_s_mem()));
  if (!bio || PEM_write_bio_X509(bio.get(), cert) != 1) return openssl_failed("write certificate");
  return bio_text(bio.get());
}

Result<std::string> pem_of(EVP_PKEY* key) {
  BioPtr bio(BIO_new(BIO_s_mem()));
  if (!bio || PEM_write_bio_PKCS8PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1)
    return openssl_failed("write key");
  return bio_text(bio.get());
}

/// An unsigned certificate with subject, validity, serial and public key.
Result<CertPtr> blank(const std::string& name, EVP_PKEY* key, std::chrono::hours valid) {
  if (!harmless(name) || name.size() > 64)
    return fail(Errc::invalid, "certificate: name of 1 to 64 printable characters without a comma expected");
  CertPtr cert(X509_new());
  std::uint64_t serial = 0;
  if (!cert || RAND_bytes(reinterpret_cast<unsigned char*>(&serial), sizeof serial) != 1)
    return openssl_failed("new certificate");
  serial = (serial >> 1) | 1;  // positive, never zero (RFC 5280 4.1.2.2)
  // Five minutes back: the clocks of a new host and of its CA may differ. An expired one ended a minute ago at least.
  const long end = valid.count() > 0 ? static_cast<long>(std::chrono::seconds(valid).count()) : -60L;
  const long begin = valid.count() > 0 ? -300L : static_cast<long>(std::chrono::seconds(valid).count()) - 300L;
  X509_NAME* subject = X509_get_subject_name(cert.get());
  const bool ok =
      X509_set_version(cert.get(), 2) == 1 && ASN1_INTEGER_set_uint64(X509_get_serialNumber(cert.get()), serial) == 1 &&
      X509_gmtime_adj(X509_getm_notBefore(cert.get()), begin) != nullptr &&
      X509_gmtime_adj(X509_getm_notAfter(cert.get()), end) != nullptr &&
      X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, reinterpret_cast<const unsigned char*>(name.data()),
                                 static_cast<int>(name.size()), -1, 0) == 1 &&
      X509_set_pubkey(cert.get(), key) == 1;
  if (!ok) return openssl_failed("fill certificate");
  return cert;
}

}  // namespace

Result<KeyPair> make_ca(std::string name, std::chrono::hours valid) {
  KeyPtr key(EVP_EC_gen("P-256"));
  if (!key) return openssl_failed("new key");
  auto cert = blank(name, key.get(), valid);
  if (!cert) return tl::unexpected(cert.error());
  X509* x = cert->get();
  if (X509_set_issuer_name(x, X509_get_subject_name(x)) != 1 ||
      !add_extension(x, x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
      !add_extension(x, x, NID_key_usage, "critical,keyCertSign,cRLSign") ||
      !add_extension(x, x, NID_subject_key_identifier, "hash") || X509_sign(x, key.get(), EVP_sha256()) == 0)
    return openssl_failed("sign CA");
  auto cert_pem = pem_of(x);
  if (!cert_pem) return tl::unexpected(cert_pem.error());
  auto key_pem = pem_of(key.get());
  if (!key_pem) return tl::unexpected(key_pem.error());
  return KeyPair{std::move(*cert_pem), std::move(*key_pem)};
}

Result<KeyPair> issue(const KeyPair& ca, const CertificateRequest& request) {
  if (!request.server && !request.client) return fail(Errc::invalid, "certificate: neither for a server nor a client");
  BioPtr ca_cert_bio(BIO_new_mem_buf(ca.cert_pem.data(), static_cast<int>(ca.cert_pem.size())));
  BioPtr ca_key_bio(BIO_new_mem_buf(ca.key_pem.data(), static_cast<int>(ca.key_pem.size())));
  CertPtr ca_cert(ca_cert_bio ? PEM_read_bio_X509(ca_cert_bio.get(), nullptr, nullptr, nullptr) : nullptr);
  KeyPtr ca_key(ca_key_bio ? PEM_read_bio_PrivateKey(ca_key_bio.get(), nullptr, nullptr, nullptr) : nullptr);
  if (!ca_cert || !ca_key) return openssl_failed("read CA");
  KeyPtr key(EVP_EC_gen("P-256"));
  if (!key) return openssl_failed("new key");
  auto cert = blank(request.name, key.get(), request.valid);
  if (!cert) return tl::unexpected(cert.error());
  X509* x = cert->get();

  std::string san;
  for (const auto& dns : request.dns) {
    if (!harmless(dns)) return fail(Errc::invalid, "certificate: bad DNS name");
    san += fmt::format("{}DNS:{}", san.empty() ? "" : ",", dns);
  }
  for (const auto& ip : request.ips) san += fmt::format("{}IP:{}", san.empty() ? "" : ",", ip);
  std::string usage;
  if (request.server) usage = "serverAuth";
  if (request.client) usage += usage.empty() ? "clientAuth" : ",clientAuth";

  if (X509_set_issuer_name(x, X509_get_subject_name(ca_cert.get())) != 1 ||
      !add_extension(x, ca_cert.get(), NID_basic_constraints, "critical,CA:FALSE") ||
      !add_extension(x, ca_cert.get(), NID_key_usage, "critical,digitalSignature") ||
      !add_extension(x, ca_cert.get(), NID_ext_key_usage, usage) ||
      !add_extension(x, ca_cert.get(), NID_subject_key_identifier, "hash") ||
      !add_extension(x, ca_cert.get(), NID_authority_key_identifier, "keyid:always") ||
      (!san.empty() && !add_extension(x, ca_cert.get(), NID_subject_alt_name, san)) ||
      X509_sign(x, ca_key.get(), EVP_sha256()) == 0)
    return openssl_failed("sign certificate");
  auto cert_pem = pem_of(x);
  if (!cert_pem) return tl::unexpected(cert_pem.error());
  auto key_pem = pem_of(key.get());
  if (!key_pem) return tl::unexpected(key_pem.error());
  return KeyPair{std::move(*cert_pem), std::move(*key_pem)};
}

Status write_file(const std::string& path, const std::string& content, unsigned mode) {
  const std::string temporary = fmt::format("{}.{}.new", path, ::getpid());
  ::unlink(temporary.c_str());
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return fail_errno(errno, temporary);
  std::size_t done = 0;
  int err = 0;
  while (done < content.size()) {
    const auto n = ::write(fd, content.data() + done, content.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      err = errno;
      break;
    }
    done += static_cast<std::size_t>(n);
  }
  if (err == 0 && ::fchmod(fd, mode) != 0) err = errno;
  if (err == 0 && ::fsync(fd) != 0) err = errno;
  if (::close(fd) != 0 && err == 0) err = errno;
  if (err == 0 && ::rename(temporary.c_str(), path.c_str()) != 0) err = errno;
  if (err == 0) return {};
  ::unlink(temporary.c_str());
  return fail_errno(err, path);
}

Status write_pem(const std::string& stem, const KeyPair& pair) {
  if (auto s = write_file(stem + ".key", pair.key_pem, 0600); !s) return s;
  return write_file(stem + ".crt", pair.cert_pem, 0644);
}

}  // namespace calico::http
