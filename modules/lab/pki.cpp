#include "modules/lab/pki.hpp"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include "modules/lab/os.hpp"

namespace calico::lab {

namespace {

struct Free {
  void operator()(EVP_PKEY* p) const { EVP_PKEY_free(p); }
  void operator()(X509* p) const { X509_free(p); }
  void operator()(BIO* p) const { BIO_free_all(p); }
};
using Key = std::unique_ptr<EVP_PKEY, Free>;
using Cert = std::unique_ptr<X509, Free>;
using Bio = std::unique_ptr<BIO, Free>;

tl::unexpected<Error> fail_ssl(std::string_view what) {
  char text[160] = "unknown";
  if (unsigned long e = ERR_get_error(); e != 0) ERR_error_string_n(e, text, sizeof text);
  return fail(Errc::internal, "{}: {}", what, text);
}

std::string text_of(BIO* bio) {
  char* data = nullptr;
  long n = BIO_get_mem_data(bio, &data);
  return {data, static_cast<std::size_t>(n)};
}

bool add_extension(X509* cert, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX ctx;
  X509V3_set_ctx(&ctx, issuer, cert, nullptr, nullptr, 0);
  X509_EXTENSION* e = X509V3_EXT_conf_nid(nullptr, &ctx, nid, value.c_str());
  if (e == nullptr) return false;
  int ok = X509_add_ext(cert, e, -1);
  X509_EXTENSION_free(e);
  return ok == 1;
}

Result<Cert> make_cert(EVP_PKEY* key, const std::string& name, X509* issuer, EVP_PKEY* issuer_key,
                       const std::vector<std::pair<int, std::string>>& extensions) {
  Cert cert(X509_new());
  unsigned char serial[8];
  if (!cert || RAND_bytes(serial, sizeof serial) != 1) return fail_ssl("certificate");
  std::uint64_t number = 0;
  for (unsigned char b : serial) number = number << 8 | b;
  X509_set_version(cert.get(), 2);
  ASN1_INTEGER_set_uint64(X509_get_serialNumber(cert.get()), number >> 1);
  X509_gmtime_adj(X509_getm_notBefore(cert.get()), -3600);
  X509_gmtime_adj(X509_getm_notAfter(cert.get()), 30L * 86400);
  X509_set_pubkey(cert.get(), key);
  X509_NAME* subject = X509_get_subject_name(cert.get());
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, reinterpret_cast<const unsigned char*>(name.data()),
                             static_cast<int>(name.size()), -1, 0);
  if (issuer == nullptr) issuer = cert.get();
  X509_set_issuer_name(cert.get(), X509_get_subject_name(issuer));
  for (const auto& [nid, value] : extensions) {
    if (!add_extension(cert.get(), issuer, nid, value)) return fail_ssl("certificate extension " + value);
  }
  if (X509_sign(cert.get(), issuer_key, EVP_sha256()) == 0) return fail_ssl("sign a certificate");
  return cert;
}

Result<std::string> pem_of(X509* cert) {
  Bio bio(BIO_new(BIO_s_mem()));
  if (PEM_write_bio_X509(bio.get(), cert) != 1) return fail_ssl("write a certificate");
  return text_of(bio.get());
}

}  // namespace

struct Authority::Impl {
  Key key;
  Cert cert;
  std::string pem;
};

Authority::Authority(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Authority::Authority(Authority&&) noexcept = default;
Authority& Authority::operator=(Authority&&) noexcept = default;
Authority::~Authority() = default;

Result<Authority> Authority::create(const std::string& dir, const std::string& common_name) {
  auto impl = std::make_unique<Impl>();
  impl->key.reset(EVP_EC_gen("P-256"));
  if (!impl->key) return fail_ssl("CA key");
  auto cert = make_cert(impl->key.get(), common_name, nullptr, impl->key.get(),
                        {{NID_basic_constraints, "critical,CA:TRUE,pathlen:0"},
                         {NID_key_usage, "critical,keyCertSign,cRLSign"},
                         {NID_subject_key_identifier, "hash"}});
  if (!cert) return tl::unexpected(cert.error());
  impl->cert = std::move(*cert);
  auto pem = pem_of(impl->cert.get());
  if (!pem) return tl::unexpected(pem.error());
  impl->pem = std::move(*pem);
  if (auto s = write_file(dir + "/ca.crt", impl->pem); !s) return tl::unexpected(s.error());
  return Authority(std::move(impl));
}

Status Authority::issue(const std::string& dir, const std::string& common_name, const std::vector<Ip>& addresses) {
  Key key(EVP_EC_gen("P-256"));
  if (!key) return fail_ssl("key");
  std::string names = "DNS:" + common_name;
  for (const auto& ip : addresses) names += ",IP:" + ip.to_string();
  auto cert = make_cert(key.get(), common_name, impl_->cert.get(), impl_->key.get(),
                        {{NID_basic_constraints, "critical,CA:FALSE"},
                         {NID_key_usage, "critical,digitalSignature"},
                         {NID_ext_key_usage, "serverAuth,clientAuth"},
                         {NID_subject_key_identifier, "hash"},
                         {NID_authority_key_identifier, "keyid"},
                         {NID_subject_alt_name, names}});
  if (!cert) return tl::unexpected(cert.error());
  auto pem = pem_of(cert->get());
  if (!pem) return tl::unexpected(pem.error());
  Bio bio(BIO_new(BIO_s_mem()));
  if (PEM_write_bio_PrivateKey(bio.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    return fail_ssl("write a key");
  }
  if (auto s = write_file(dir + "/ca.crt", impl_->pem); !s) return s;
  if (auto s = write_file(dir + "/node.crt", *pem); !s) return s;
  return write_file(dir + "/node.key", text_of(bio.get()), 0600);
}

}  // namespace calico::lab
