#pragma once
/// OpenSSL's objects with an owner, and the few steps that several files need. Internal: included by .cpp files that
/// include OpenSSL anyway (core/http, core/membership), never by a public header.
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <openssl/x509v3.h>

#include <ctime>
#include <memory>
#include <string>
#include <string_view>

#include "core/base/clock.hpp"
#include "core/base/error.hpp"

namespace calico::http {

template <auto Free>
struct OpensslDeleter {
  template <class T>
  void operator()(T* p) const {
    Free(p);
  }
};
using BioPtr = std::unique_ptr<BIO, OpensslDeleter<BIO_free_all>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, OpensslDeleter<EVP_PKEY_free>>;
using CertPtr = std::unique_ptr<X509, OpensslDeleter<X509_free>>;
using ReqPtr = std::unique_ptr<X509_REQ, OpensslDeleter<X509_REQ_free>>;
using ExtPtr = std::unique_ptr<X509_EXTENSION, OpensslDeleter<X509_EXTENSION_free>>;
using BnPtr = std::unique_ptr<BIGNUM, OpensslDeleter<BN_free>>;

inline tl::unexpected<Error> openssl_failed(const char* what) {
  char text[160] = "no reason given";
  if (const auto e = ERR_get_error()) ERR_error_string_n(e, text, sizeof text);
  ERR_clear_error();
  return fail(Errc::internal, "certificate: {}: {}", what, text);
}

inline BioPtr bio_of(std::string_view text) {
  return BioPtr(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

inline std::string bio_text(BIO* bio) {
  char* data = nullptr;
  const long n = BIO_get_mem_data(bio, &data);
  return n > 0 ? std::string(data, static_cast<std::size_t>(n)) : std::string();
}

inline bool add_extension(X509* cert, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX ctx;
  X509V3_set_ctx_nodb(&ctx);
  X509V3_set_ctx(&ctx, issuer, cert, nullptr, nullptr, 0);
  ExtPtr ext(X509V3_EXT_conf_nid(nullptr, &ctx, nid, value.c_str()));
  return ext && X509_add_ext(cert, ext.get(), -1) == 1;
}

/// Lower-case hexadecimal, no leading zeros: how a serial number is written everywhere here. Empty: it has none.
inline std::string serial_text(const X509* cert) {
  const BnPtr number(ASN1_INTEGER_to_BN(X509_get0_serialNumber(cert), nullptr));
  if (!number) return {};
  std::unique_ptr<char, void (*)(char*)> hex(BN_bn2hex(number.get()), [](char* p) { OPENSSL_free(p); });
  std::string text = hex ? hex.get() : "";
  for (char& c : text)
    if (c >= 'A' && c <= 'F') c = static_cast<char>(c - 'A' + 'a');
  const auto first = text.find_first_not_of('0');
  return first == std::string::npos ? "0" : text.substr(first);
}

/// SHA-256 of a public key as certificates carry it (SubjectPublicKeyInfo), hexadecimal; empty when it has no encoding.
inline std::string key_hash(const X509_PUBKEY* key) {
  unsigned char* der = nullptr;
  const int n = i2d_X509_PUBKEY(key, &der);
  unsigned char digest[SHA256_DIGEST_LENGTH] = {};
  if (n > 0) SHA256(der, static_cast<std::size_t>(n), digest);
  OPENSSL_free(der);
  if (n <= 0) return {};
  std::string text;
  for (const unsigned char b : digest) text += fmt::format("{:02x}", b);
  return text;
}

/// A time that cannot be read is the epoch: long over as an end.
inline WallTime wall_time(const ASN1_TIME* t) {
  std::tm tm{};
  if (!t || ASN1_TIME_to_tm(t, &tm) != 1) return WallTime();
  return std::chrono::system_clock::from_time_t(::timegm(&tm));
}

}  // namespace calico::http
