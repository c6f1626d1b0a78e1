#include "core/membership/x509.hpp"

#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/rand.h>

#include <algorithm>
#include <array>
#include <span>

#include "core/http/openssl.hpp"

namespace calico::membership {

using http::add_extension;
using http::bio_of;
using http::bio_text;
using http::BioPtr;
using http::BnPtr;
using http::CertPtr;
using http::KeyPtr;
using http::openssl_failed;
using http::ReqPtr;

namespace {

/// A daemon has no terminal to ask for a pass phrase at.
int no_pass_phrase(char*, int, int, void*) { return -1; }

CertPtr parse_certificate(std::string_view pem) {
  BioPtr bio = bio_of(pem);
  CertPtr cert(bio ? PEM_read_bio_X509(bio.get(), nullptr, no_pass_phrase, nullptr) : nullptr);
  ERR_clear_error();
  return cert;
}

KeyPtr parse_key(std::string_view pem) {
  BioPtr bio = bio_of(pem);
  KeyPtr key(bio ? PEM_read_bio_PrivateKey(bio.get(), nullptr, no_pass_phrase, nullptr) : nullptr);
  ERR_clear_error();
  return key;
}

std::string common_name(const X509_NAME* subject) {
  const int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
  if (at < 0 || X509_NAME_get_index_by_NID(subject, NID_commonName, at) >= 0) return {};
  unsigned char* text = nullptr;
  const int n = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
  std::string name;
  if (n > 0) name.assign(reinterpret_cast<char*>(text), static_cast<std::size_t>(n));
  OPENSSL_free(text);
  return name;
}

/// The named curve P-256, told from the encoding, before any arithmetic is done with the key.
bool is_p256(const X509_PUBKEY* key) {
  X509_ALGOR* algorithm = nullptr;
  if (X509_PUBKEY_get0_param(nullptr, nullptr, nullptr, &algorithm, key) != 1 || !algorithm) return false;
  const ASN1_OBJECT* kind = nullptr;
  const void* parameter = nullptr;
  int type = 0;
  X509_ALGOR_get0(&kind, &type, &parameter, algorithm);
  return OBJ_obj2nid(kind) == NID_X9_62_id_ecPublicKey && type == V_ASN1_OBJECT &&
         OBJ_obj2nid(static_cast<const ASN1_OBJECT*>(parameter)) == NID_X9_62_prime256v1;
}

Result<ReqPtr> parse_request(std::string_view pem) {
  if (pem.size() > kRequestBytes) return fail(Errc::invalid, "certificate request: more than {} bytes", kRequestBytes);
  BioPtr bio = bio_of(pem);
  ReqPtr request(bio ? PEM_read_bio_X509_REQ(bio.get(), nullptr, no_pass_phrase, nullptr) : nullptr);
  ERR_clear_error();
  if (!request) return fail(Errc::invalid, "certificate request: not a PKCS #10 request in PEM");
  const X509_PUBKEY* encoded = X509_REQ_get_X509_PUBKEY(request.get());
  if (!encoded || !is_p256(encoded)) return fail(Errc::invalid, "certificate request: a P-256 key is expected");
  if (X509_REQ_get_signature_nid(request.get()) != NID_ecdsa_with_SHA256)
    return fail(Errc::invalid, "certificate request: must be signed with ECDSA and SHA-256");
  EVP_PKEY* key = X509_REQ_get0_pubkey(request.get());
  const bool proven = key && X509_REQ_verify(request.get(), key) == 1;
  ERR_clear_error();
  if (!proven) return fail(Errc::invalid, "certificate request: its signature does not prove that the key is its own");
  return request;
}

bool harmless(std::string_view s) {
  for (const char c : s)
    if (static_cast<unsigned char>(c) < 0x20 || c == ',' || c == 0x7f) return false;
  return !s.empty() && s.size() <= 253;
}

bool set_serial(X509* cert) {
  std::array<unsigned char, 16> bytes{};
  if (RAND_bytes(bytes.data(), bytes.size()) != 1) return false;
  bytes[0] = static_cast<unsigned char>((bytes[0] & 0x7f) | 0x40);  // positive, and always as long (RFC 5280 4.1.2.2)
  const BnPtr number(BN_bin2bn(bytes.data(), bytes.size(), nullptr));
  return number && BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(cert)) != nullptr;
}

bool set_time(ASN1_TIME* field, WallTime t) {
  return ASN1_TIME_set(field, std::chrono::system_clock::to_time_t(t)) != nullptr;
}

}  // namespace

Result<Certificate> read_certificate(std::string_view pem) {
  const auto cert = parse_certificate(pem);
  if (!cert) return fail(Errc::invalid, "not a certificate in PEM");
  Certificate out;
  out.name = common_name(X509_get_subject_name(cert.get()));
  out.serial = http::serial_text(cert.get());
  out.not_before = http::wall_time(X509_get0_notBefore(cert.get()));
  out.not_after = http::wall_time(X509_get0_notAfter(cert.get()));
  out.key_hash = http::key_hash(X509_get_X509_PUBKEY(cert.get()));
  // 1 = X.509 v3 with CA:TRUE; the older ways to be one are not for us.
  out.self_signed_ca = X509_check_ca(cert.get()) == 1 && X509_self_signed(cert.get(), 1) == 1;
  auto* names = static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(cert.get(), NID_subject_alt_name, nullptr, nullptr));
  for (int i = 0; names && i < sk_GENERAL_NAME_num(names); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names, i);
    if (name->type != GEN_DNS && name->type != GEN_IPADD) continue;
    const ASN1_STRING* value = name->type == GEN_DNS ? name->d.dNSName : name->d.iPAddress;
    const std::string_view raw(reinterpret_cast<const char*>(ASN1_STRING_get0_data(value)),
                               static_cast<std::size_t>(ASN1_STRING_length(value)));
    if (name->type == GEN_DNS) out.dns.emplace_back(raw);
    if (name->type == GEN_IPADD && (raw.size() == 4 || raw.size() == 16))
      out.ips.push_back(Ip::from_bytes(std::as_bytes(std::span(raw.data(), raw.size()))));
  }
  GENERAL_NAMES_free(names);
  ERR_clear_error();
  return out;
}

Result<std::string> make_key() {
  KeyPtr key(EVP_EC_gen("P-256"));
  BioPtr bio(BIO_new(BIO_s_mem()));
  if (!key || !bio || PEM_write_bio_PKCS8PrivateKey(bio.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr) != 1)
    return openssl_failed("new key");
  return bio_text(bio.get());
}

Result<std::string> make_request(std::string_view key_pem, std::string_view name) {
  const auto key = parse_key(key_pem);
  if (!key) return fail(Errc::invalid, "not a private key in PEM");
  ReqPtr request(X509_REQ_new());
  BioPtr bio(BIO_new(BIO_s_mem()));
  if (!request || !bio || X509_REQ_set_version(request.get(), 0) != 1 ||
      X509_NAME_add_entry_by_txt(X509_REQ_get_subject_name(request.get()), "CN", MBSTRING_UTF8,
                                 reinterpret_cast<const unsigned char*>(name.data()), static_cast<int>(name.size()), -1,
                                 0) != 1 ||
      X509_REQ_set_pubkey(request.get(), key.get()) != 1 ||
      X509_REQ_sign(request.get(), key.get(), EVP_sha256()) == 0 ||
      PEM_write_bio_X509_REQ(bio.get(), request.get()) != 1)
    return openssl_failed("new certificate request");
  return bio_text(bio.get());
}

Result<std::string> check_request(std::string_view csr_pem) {
  const auto request = parse_request(csr_pem);
  if (!request) return tl::unexpected(request.error());
  return http::key_hash(X509_REQ_get_X509_PUBKEY(request->get()));
}

Result<std::string> sign_request(const http::KeyPair& ca, std::string_view csr_pem, const Subject& subject) {
  const auto request = parse_request(csr_pem);
  if (!request) return tl::unexpected(request.error());
  if (!harmless(subject.name) || subject.name.size() > 64)
    return fail(Errc::invalid, "certificate: name of 1 to 64 printable characters without a comma expected");
  const auto ca_cert = parse_certificate(ca.cert_pem);
  const auto ca_key = parse_key(ca.key_pem);
  if (!ca_cert || !ca_key) return fail(Errc::invalid, "certificate: the CA's certificate or key cannot be read");

  std::string names;
  for (const auto& dns : subject.dns) {
    if (!harmless(dns)) return fail(Errc::invalid, "certificate: bad DNS name");
    names += fmt::format("{}DNS:{}", names.empty() ? "" : ",", dns);
  }
  for (const auto& ip : subject.ips) names += fmt::format("{}IP:{}", names.empty() ? "" : ",", ip);
  std::string usage = subject.server ? "serverAuth" : "";
  if (subject.client) usage += usage.empty() ? "clientAuth" : ",clientAuth";
  if (usage.empty()) return fail(Errc::invalid, "certificate: neither for a server nor a client");
  const auto not_after = std::min(subject.not_after, http::wall_time(X509_get0_notAfter(ca_cert.get())));

  CertPtr cert(X509_new());
  BioPtr bio(BIO_new(BIO_s_mem()));
  X509* x = cert.get();
  if (!x || !bio || X509_set_version(x, 2) != 1 || !set_serial(x) ||
      !set_time(X509_getm_notBefore(x), subject.not_before) || !set_time(X509_getm_notAfter(x), not_after) ||
      X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8,
                                 reinterpret_cast<const unsigned char*>(subject.name.data()),
                                 static_cast<int>(subject.name.size()), -1, 0) != 1 ||
      X509_set_issuer_name(x, X509_get_subject_name(ca_cert.get())) != 1 ||
      X509_set_pubkey(x, X509_REQ_get0_pubkey(request->get())) != 1 ||
      !add_extension(x, ca_cert.get(), NID_basic_constraints, "critical,CA:FALSE") ||
      !add_extension(x, ca_cert.get(), NID_key_usage, "critical,digitalSignature") ||
      !add_extension(x, ca_cert.get(), NID_ext_key_usage, usage) ||
      !add_extension(x, ca_cert.get(), NID_subject_key_identifier, "hash") ||
      !add_extension(x, ca_cert.get(), NID_authority_key_identifier, "keyid") ||
      (!names.empty() && !add_extension(x, ca_cert.get(), NID_subject_alt_name, names)) ||
      X509_sign(x, ca_key.get(), EVP_sha256()) == 0 || PEM_write_bio_X509(bio.get(), x) != 1)
    return openssl_failed("sign certificate");
  return bio_text(bio.get());
}

Status check_issued(std::string_view cert_pem, std::string_view key_pem, std::string_view ca_pem) {
  const auto cert = parse_certificate(cert_pem);
  const auto ca = parse_certificate(ca_pem);
  const auto key = parse_key(key_pem);
  if (!cert || !ca || !key) return fail(Errc::invalid, "not a certificate or key in PEM");
  const bool own = X509_check_private_key(cert.get(), key.get()) == 1;
  const bool signed_by =
      X509_check_issued(ca.get(), cert.get()) == X509_V_OK && X509_verify(cert.get(), X509_get0_pubkey(ca.get())) == 1;
  ERR_clear_error();
  if (!own) return fail(Errc::invalid, "the certificate is not this key's");
  if (!signed_by) return fail(Errc::invalid, "the certificate was not signed by this CA");
  return {};
}

std::string time_text(WallTime t) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(t);
  std::tm tm{};
  ::gmtime_r(&seconds, &tm);
  char text[32];
  const auto n = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
  return {text, n};
}

}  // namespace calico::membership
