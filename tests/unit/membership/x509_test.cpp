#include "core/membership/x509.hpp"

#include <gmock/gmock.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>

#include <random>

#include "core/http/openssl.hpp"

namespace calico::membership {
namespace {

using namespace std::chrono_literals;
using http::BioPtr;
using http::KeyPtr;
using http::ReqPtr;
using testing::ElementsAre;
using testing::HasSubstr;

std::string pem_of(X509_REQ* r) {
  BioPtr bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509_REQ(bio.get(), r);
  return http::bio_text(bio.get());
}

/// A request with this key, signed by `signer` (or by itself), after `change`.
std::string request(EVP_PKEY* key, EVP_PKEY* signer, const EVP_MD* digest,
                    const std::function<void(X509_REQ*)>& change = {}) {
  ReqPtr r(X509_REQ_new());
  X509_REQ_set_version(r.get(), 0);
  X509_REQ_set_pubkey(r.get(), key);
  if (change) change(r.get());
  X509_REQ_sign(r.get(), signer ? signer : key, digest);
  return pem_of(r.get());
}

KeyPtr p256() { return KeyPtr(EVP_EC_gen("P-256")); }

Subject subject(const std::string& name) {
  Subject s;
  s.name = name;
  s.client = true;
  s.dns = {name};
  s.not_before = std::chrono::system_clock::now() - 5min;
  s.not_after = s.not_before + 24h;
  return s;
}

TEST(X509, ACertificateIsWhatTheSignerSays) {
  auto ca = http::make_ca("ca");
  auto key = make_key();
  auto csr = make_request(*key, "evil.example");
  auto wanted = subject("compute-1");
  auto pem = sign_request(*ca, *csr, wanted);
  ASSERT_TRUE(pem) << pem.error().what;
  auto read = read_certificate(*pem);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->name, "compute-1") << "not the request's";
  EXPECT_THAT(read->dns, ElementsAre("compute-1"));
  EXPECT_EQ(read->serial.size(), 32U);
  EXPECT_EQ(time_text(read->not_after), time_text(wanted.not_after));
  EXPECT_EQ(read->key_hash, *check_request(*csr));
  EXPECT_FALSE(read->self_signed_ca);
  EXPECT_TRUE(check_issued(*pem, *key, ca->cert_pem));
  EXPECT_NE(read_certificate(*sign_request(*ca, *csr, wanted))->serial, read->serial);
  EXPECT_TRUE(read_certificate(ca->cert_pem)->self_signed_ca);

  auto foreign = http::make_ca("ca");
  EXPECT_THAT(check_issued(*pem, *make_key(), ca->cert_pem).error().what, HasSubstr("not this key's"));
  EXPECT_THAT(check_issued(*pem, *key, foreign->cert_pem).error().what, HasSubstr("not signed by this CA"));
}

TEST(X509, NeverLongerThanTheCa) {
  auto ca = http::make_ca("ca", std::chrono::hours(1));
  auto wanted = subject("n");
  wanted.not_after = wanted.not_before + 24h * 365;
  auto pem = sign_request(*ca, *make_request(*make_key(), "n"), wanted);
  ASSERT_TRUE(pem);
  EXPECT_EQ(read_certificate(*pem)->not_after, read_certificate(ca->cert_pem)->not_after);
}

TEST(X509, WhatARequestAsksForIsIgnored) {
  auto ca = http::make_ca("ca");
  const auto key = p256();
  const auto csr = request(key.get(), nullptr, EVP_sha256(), [](X509_REQ* r) {
    auto* name = X509_REQ_get_subject_name(r);
    for (const char* cn : {"admin", "root"})
      X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, reinterpret_cast<const unsigned char*>(cn), -1, -1, 0);
    auto* list = sk_X509_EXTENSION_new_null();
    for (const auto& [nid, value] :
         {std::pair{NID_basic_constraints, "critical,CA:TRUE"},
          std::pair{NID_subject_alt_name, "DNS:controller,IP:10.0.0.1"},
          std::pair{NID_key_usage, "critical,keyCertSign"}, std::pair{NID_ext_key_usage, "serverAuth"}})
      sk_X509_EXTENSION_push(list, X509V3_EXT_conf_nid(nullptr, nullptr, nid, value));
    X509_REQ_add_extensions(r, list);
    sk_X509_EXTENSION_pop_free(list, X509_EXTENSION_free);
  });
  auto pem = sign_request(*ca, csr, subject("compute-1"));
  ASSERT_TRUE(pem) << pem.error().what;
  auto read = read_certificate(*pem);
  EXPECT_EQ(read->name, "compute-1");
  EXPECT_THAT(read->dns, ElementsAre("compute-1"));
  EXPECT_TRUE(read->ips.empty());
  BioPtr bio = http::bio_of(*pem);
  http::CertPtr cert(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  EXPECT_EQ(X509_check_ca(cert.get()), 0);
  EXPECT_EQ(X509_get_key_usage(cert.get()), static_cast<std::uint32_t>(KU_DIGITAL_SIGNATURE));
  EXPECT_EQ(X509_get_extended_key_usage(cert.get()), static_cast<std::uint32_t>(XKU_SSL_CLIENT)) << "no server's";
}

TEST(X509, RequestsWithoutProofOrWithOtherKeysAreRefused) {
  const auto key = p256(), other = p256();
  KeyPtr p384(EVP_EC_gen("P-384")), rsa(EVP_RSA_gen(1024)), ed(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
  KeyPtr explicit_curve(EVP_EC_gen("P-256"));
  ASSERT_EQ(EVP_PKEY_set_utf8_string_param(explicit_curve.get(), "encoding", "explicit"), 1);
  ASSERT_TRUE(check_request(request(key.get(), nullptr, EVP_sha256())));
  const struct {
    std::string csr;
    const char* why;
  } rows[] = {
      {request(key.get(), other.get(), EVP_sha256()), "does not prove"},
      {request(key.get(), rsa.get(), EVP_sha256()), "ECDSA and SHA-256"},
      {request(key.get(), nullptr, EVP_sha1()), "ECDSA and SHA-256"},
      {request(p384.get(), nullptr, EVP_sha256()), "P-256"},
      {request(rsa.get(), nullptr, EVP_sha256()), "P-256"},
      {request(ed.get(), nullptr, nullptr), "P-256"},
      {request(explicit_curve.get(), nullptr, EVP_sha256()), "P-256"},
      {"", "not a PKCS #10"},
      {"-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n", "not a PKCS #10"},
      {*make_key(), "not a PKCS #10"},
      {http::make_ca("x")->cert_pem, "not a PKCS #10"},
      {std::string(kRequestBytes + 1, 'x'), "more than"},
  };
  for (const auto& row : rows) {
    auto checked = check_request(row.csr);
    ASSERT_FALSE(checked) << row.csr;
    EXPECT_EQ(checked.error().code, Errc::invalid);
    EXPECT_THAT(checked.error().what, HasSubstr(row.why)) << row.csr;
    EXPECT_FALSE(sign_request(*http::make_ca("ca"), row.csr, subject("n")));
  }
}

/// Every request with one byte changed is refused or still the same key's: nobody gets a certificate for a key that he
/// did not prove.
TEST(X509, ChangedRequestsNeverChangeTheKey) {
  const auto csr = request(p256().get(), nullptr, EVP_sha256());
  const auto hash = *check_request(csr);
  std::mt19937 random(7);
  int refused = 0;
  for (int i = 0; i < 5000; ++i) {
    auto changed = csr;
    changed[random() % changed.size()] = static_cast<char>(random());
    auto checked = check_request(changed);
    if (checked)
      EXPECT_EQ(*checked, hash);
    else
      ++refused;
  }
  EXPECT_GT(refused, 4000);
}

TEST(X509, BadSubjectsAreRefused) {
  auto ca = http::make_ca("ca");
  auto csr = *make_request(*make_key(), "n");
  for (const auto& name : {std::string(), std::string(65, 'a'), std::string("a,DNS:b"), std::string("a\nb")})
    EXPECT_FALSE(sign_request(*ca, csr, subject(name))) << name;
  auto neither = subject("n");
  neither.client = false;
  EXPECT_FALSE(sign_request(*ca, csr, neither));
  auto injected = subject("n");
  injected.dns = {"a,IP:10.0.0.1"};
  EXPECT_FALSE(sign_request(*ca, csr, injected));
  EXPECT_FALSE(sign_request({"junk", "junk"}, csr, subject("n")));
  EXPECT_FALSE(read_certificate("junk"));
  EXPECT_FALSE(make_request("junk", "n"));
}

}  // namespace
}  // namespace calico::membership
