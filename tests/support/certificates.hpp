#pragma once
/// A folder of a test's own, and in it a throw-away CA with what it signs.
///
///   Certificates pki;                              // ca.crt
///   auto server = pki.issue("server");             // TlsFiles for 127.0.0.1, ::1 and localhost, both purposes
///   auto other = Certificates().ca();
#include <stdexcept>
#include <string>

#include "core/http/certificates.hpp"
#include "core/http/message.hpp"
#include "tests/support/temp_dir.hpp"

namespace calico::test {

class Certificates {
 public:
  Certificates() {
    auto made = http::make_ca("test CA");
    if (!made) throw std::runtime_error(made.error().what);
    ca_ = *made;
    check(http::write_file(ca_file(), ca_.cert_pem, 0644));
  }
  std::string ca_file() const { return dir_.file("ca.crt"); }
  const http::KeyPair& ca() const { return ca_; }

  /// Signs `request` and writes the files; ca_file of the answer is this CA.
  http::TlsFiles issue(const http::CertificateRequest& request) {
    auto pair = http::issue(ca_, request);
    if (!pair) throw std::runtime_error(pair.error().what);
    const std::string stem = dir_.file(request.name + "-" + std::to_string(count_++));
    check(http::write_pem(stem, *pair));
    return {ca_file(), stem + ".crt", stem + ".key"};
  }
  http::TlsFiles issue(const std::string& name) {
    http::CertificateRequest request;
    request.name = name;
    request.dns = {"localhost"};
    request.ips = {*Ip::parse("127.0.0.1"), *Ip::parse("::1")};
    return issue(request);
  }

 private:
  static void check(const Status& s) {
    if (!s) throw std::runtime_error(s.error().what);
  }
  TempDir dir_{"pki"};
  http::KeyPair ca_;
  int count_ = 0;
};

}  // namespace calico::test
