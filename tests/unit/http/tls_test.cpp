#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <sys/stat.h>

#include <set>

#include "core/http/openssl.hpp"
#include "tests/unit/http/fixture.hpp"

namespace calico::http {
namespace {

Listen tls_listen(TlsFiles files) { return {.at = *Endpoint::parse("https://127.0.0.1:0"), .tls = std::move(files)}; }

}  // namespace

TEST(HttpTls, MutualWithTheRightCertificates) {
  test::Certificates pki;
  Fixture f({}, tls_listen(pki.issue("server")));
  CertificateRequest request;
  request.name = "node-1";
  request.dns = {"node-1", "node-1.example"};
  request.ips = {*Ip::parse("10.0.0.1"), *Ip::parse("2001:db8::1")};
  auto& c = f.client({.tls = pki.issue(request)});
  auto a = f.get(c, "/peer");
  ASSERT_TRUE(a) << a.error().what;
  EXPECT_EQ(a->body,
            "via=tls identity=node-1 certified=true cn=node-1 uid=none dns=node-1 dns=node-1.example ip=10.0.0.1 "
            "ip=2001:db8::1");
  EXPECT_EQ(f.ask(c, {.method = "POST", .target = "/echo", .body = std::string(3'000'000, 'x')})->body.size(),
            3'000'000U + 11);
  auto l = f.open(c, {.target = "/forever"});
  ASSERT_TRUE(l) << l.error().what;
  EXPECT_EQ(f.line(**l).value(), "hello");
  f.loop.call([&] { l->reset(); });
  EXPECT_TRUE(test::eventually("the stream cancelled", [&] { return f.cancelled == 1; }));
  auto ended = f.open(c, {.target = "/lines"});
  ASSERT_TRUE(ended);
  for (const char* line : {"one", "two", "three"}) EXPECT_EQ(f.line(**ended).value(), line);
}

TEST(HttpTls, ByNameToo) {
  test::Certificates pki;
  Fixture f({}, tls_listen(pki.issue("server")));
  auto at = f.at();
  at.host = "localhost";
  EXPECT_EQ(f.get(f.client({.endpoints = {at}, .tls = pki.issue("client")}), "/echo")->status, 200U);
}

TEST(HttpTls, ClientsWithoutTheRightCertificateAreRefused) {
  test::Certificates pki;
  test::Certificates foreign;
  Fixture f({}, tls_listen(pki.issue("server")));
  CertificateRequest server_only{.name = "server-only", .client = false};
  CertificateRequest expired{.name = "expired", .valid = std::chrono::hours(-1)};
  auto stranger = foreign.issue("stranger");
  stranger.ca_file = pki.ca_file();
  struct Row {
    const char* what;
    TlsFiles files;
  };
  std::uint64_t failures = 0;
  for (const Row& row : {Row{"none", {.ca_file = pki.ca_file()}}, Row{"another CA's", stranger},
                         Row{"for servers only", pki.issue(server_only)}, Row{"expired", pki.issue(expired)}}) {
    auto a = f.get(f.client({.tls = row.files}), "/echo");
    ASSERT_FALSE(a) << row.what;
    EXPECT_EQ(a.error().code, Errc::no_permission) << row.what << ": " << a.error().what;
    EXPECT_NE(a.error().what.find("refused our certificate"), std::string::npos) << a.error().what;
    ++failures;
    EXPECT_TRUE(test::eventually("the failure counted", [&] { return f.stats().tls_failures == failures; }))
        << row.what;
  }
  EXPECT_EQ(f.stats().requests, 0U);
  EXPECT_EQ(f.get(f.client({.tls = pki.issue("client")}), "/echo")->status, 200U);  // the same server, the right one
}

TEST(HttpTls, ServersAreVerified) {
  test::Certificates pki;
  test::Certificates foreign;
  Fixture f({}, tls_listen(pki.issue("server")));
  auto client_files = pki.issue("client");
  auto wrong_ca = client_files;
  wrong_ca.ca_file = foreign.ca_file();
  auto unknown = f.get(f.client({.tls = wrong_ca}), "/echo");
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code, Errc::no_permission) << unknown.error().what;

  CertificateRequest elsewhere{.name = "elsewhere", .dns = {"elsewhere"}, .ips = {*Ip::parse("10.0.0.9")}};
  Fixture other({}, tls_listen(pki.issue(elsewhere)));
  auto mismatch = other.get(other.client({.tls = client_files}), "/echo");
  ASSERT_FALSE(mismatch);
  EXPECT_EQ(mismatch.error().code, Errc::no_permission) << mismatch.error().what;
  EXPECT_NE(mismatch.error().what.find("mismatch"), std::string::npos) << mismatch.error().what;

  CertificateRequest client_only{.name = "client", .ips = {*Ip::parse("127.0.0.1")}, .server = false};
  Fixture wrong_purpose({}, tls_listen(pki.issue(client_only)));
  EXPECT_FALSE(wrong_purpose.get(wrong_purpose.client({.tls = client_files}), "/echo"));
  EXPECT_EQ(f.get(f.client({.tls = client_files}), "/echo")->status, 200U);
}

TEST(HttpTls, WithoutCaFileNoClientCertificateIsAsked) {
  test::Certificates pki;
  auto files = pki.issue("server");
  const auto ca = std::exchange(files.ca_file, "");
  Fixture f({}, tls_listen(files));
  EXPECT_EQ(f.get(f.client({.tls = {.ca_file = ca}}), "/peer")->body, "via=tls identity= certified=false cn= uid=none");
}

TEST(HttpTls, AnOptionalCertificateMustVerifyWhenShown) {
  test::Certificates pki;
  test::Certificates foreign;
  auto where = tls_listen(pki.issue("server"));
  where.client_certificate = ClientCertificate::optional;
  Fixture f({}, where);
  EXPECT_EQ(f.get(f.client({.tls = {.ca_file = pki.ca_file()}}), "/peer")->body,
            "via=tls identity= certified=false cn= uid=none");
  const auto named = f.get(f.client({.tls = pki.issue(CertificateRequest{.name = "node-1"})}), "/peer");
  ASSERT_TRUE(named) << named.error().what;
  EXPECT_EQ(named->body, "via=tls identity=node-1 certified=true cn=node-1 uid=none");
  auto stranger = foreign.issue("node-1");
  stranger.ca_file = pki.ca_file();
  for (const auto& files : {stranger, pki.issue(CertificateRequest{.name = "node-1", .valid = std::chrono::hours(-1)}),
                            pki.issue(CertificateRequest{.name = "node-1", .client = false})}) {
    auto a = f.get(f.client({.tls = files}), "/peer");
    ASSERT_FALSE(a) << a->body;
    EXPECT_EQ(a.error().code, Errc::no_permission) << a.error().what;
  }
  EXPECT_TRUE(test::eventually("three failures", [&] { return f.stats().tls_failures == 3; }));
}

TEST(HttpTls, ACertificateWithTwoNamesNamesNobody) {
  test::Certificates pki;
  auto files = pki.issue(CertificateRequest{.name = "node-1"});
  std::unique_ptr<BIO, int (*)(BIO*)> in(BIO_new_file(files.cert_file.c_str(), "r"), BIO_free);
  std::unique_ptr<X509, void (*)(X509*)> cert(PEM_read_bio_X509(in.get(), nullptr, nullptr, nullptr), X509_free);
  const auto ca = pki.ca().key_pem;
  std::unique_ptr<BIO, int (*)(BIO*)> ca_bio(BIO_new_mem_buf(ca.data(), static_cast<int>(ca.size())), BIO_free);
  std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)> key(PEM_read_bio_PrivateKey(ca_bio.get(), nullptr, nullptr, nullptr),
                                                     EVP_PKEY_free);
  ASSERT_TRUE(cert && key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(cert.get()), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>("admin"), -1, -1, 0);
  ASSERT_NE(X509_sign(cert.get(), key.get(), EVP_sha256()), 0);
  std::unique_ptr<BIO, int (*)(BIO*)> out(BIO_new_file(files.cert_file.c_str(), "w"), BIO_free);
  ASSERT_EQ(PEM_write_bio_X509(out.get(), cert.get()), 1);
  out.reset();
  Fixture f({}, tls_listen(pki.issue("server")));
  auto a = f.get(f.client({.tls = files}), "/peer");
  ASSERT_TRUE(a) << a.error().what;
  EXPECT_EQ(a->body, "via=tls identity= certified=true cn= uid=none");
}

namespace {
std::string key_hash_of(const std::string& cert_pem) {
  const BioPtr bio = bio_of(cert_pem);
  const CertPtr cert(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  return key_hash(X509_get_X509_PUBKEY(cert.get()));
}
}  // namespace

TEST(HttpTls, APinnedKeyStandsForTheCa) {
  test::Certificates pki;
  test::Certificates foreign;
  // The CA reaches the client although it is not in cert_file: the server completes its chain from ca_file.
  auto where = tls_listen(pki.issue("server"));
  where.client_certificate = ClientCertificate::optional;
  Fixture f({}, where);
  const auto pin = key_hash_of(pki.ca().cert_pem);
  auto right = f.get(f.client({.tls = {.ca_pin = pin}}), "/echo");
  ASSERT_TRUE(right) << right.error().what;
  EXPECT_EQ(right->status, 200U);
  auto wrong = f.get(f.client({.tls = {.ca_pin = key_hash_of(foreign.ca().cert_pem)}}), "/echo");
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code, Errc::no_permission);
  EXPECT_NE(wrong.error().what.find("the pinned CA is not in the chain"), std::string::npos) << wrong.error().what;
  // All else is verified as usual: the name, and the date.
  auto at = f.at();
  at.host = "127.0.0.2";
  Fixture elsewhere({}, {.at = *Endpoint::parse("https://127.0.0.2:0"), .tls = pki.issue("server")});
  EXPECT_NE(elsewhere.get(elsewhere.client({.tls = {.ca_pin = pin}}), "/echo").error().what.find("mismatch"),
            std::string::npos);
  Fixture old({}, tls_listen(pki.issue(CertificateRequest{
                      .name = "old", .ips = {*Ip::parse("127.0.0.1")}, .valid = std::chrono::hours(-1)})));
  EXPECT_NE(old.get(old.client({.tls = {.ca_pin = pin}}), "/echo").error().what.find("expired"), std::string::npos);
  EXPECT_EQ(f.stats().requests, 1U);
}

TEST(HttpTls, FilesAreLoadedAgain) {
  test::Certificates pki;
  const auto server_files = pki.issue("server"), client_files = pki.issue("client");
  Fixture f({}, tls_listen(server_files));
  auto& c = f.client({.tls = client_files});
  EXPECT_EQ(f.get(c, "/peer")->body,
            "via=tls identity=client certified=true cn=client uid=none dns=localhost "
            "ip=127.0.0.1 ip=::1");
  std::set<std::string> serials;
  const auto look = [&] {
    f.loop.call([&] {
      (void)f.server->close_peers([&](const Peer& p) {
        serials.insert(p.serial);
        EXPECT_GT(p.certificate_until, std::chrono::system_clock::now());
        return false;
      });
    });
  };
  look();
  EXPECT_EQ(serials.size(), 1U);
  EXPECT_EQ(serials.begin()->find_first_not_of("0123456789abcdef"), std::string::npos);
  // New files under the same names.
  const auto next = issue(pki.ca(), {.name = "client", .ips = {*Ip::parse("127.0.0.1")}});
  ASSERT_TRUE(write_file(client_files.cert_file, next->cert_pem, 0644));
  const auto half = f.loop.call([&] { return c.reload_tls(); });
  ASSERT_FALSE(half) << "the key is still the old one's";
  EXPECT_EQ(f.get(c, "/peer")->status, 200U) << "what was loaded stays";
  ASSERT_TRUE(write_file(client_files.key_file, next->key_pem, 0600));
  ASSERT_TRUE(f.loop.call([&] { return c.reload_tls(); }));
  EXPECT_EQ(f.get(c, "/peer")->body, "via=tls identity=client certified=true cn=client uid=none ip=127.0.0.1");
  look();
  EXPECT_EQ(serials.size(), 2U);
  // And the server's: from another CA, so that the client notices.
  test::Certificates foreign;
  const auto other = issue(foreign.ca(), {.name = "server", .ips = {*Ip::parse("127.0.0.1")}});
  ASSERT_TRUE(write_file(server_files.cert_file, other->cert_pem, 0644));
  EXPECT_FALSE(f.loop.call([&] { return f.server->reload_tls(); }));
  EXPECT_EQ(f.get(f.client({.tls = client_files}), "/echo")->status, 200U);
  ASSERT_TRUE(write_file(server_files.key_file, other->key_pem, 0600));
  EXPECT_TRUE(f.loop.call([&] { return f.server->reload_tls(); }));
  EXPECT_FALSE(f.get(f.client({.tls = client_files}), "/echo"));
  EXPECT_EQ(f.get(c, "/echo")->status, 200U) << "a connection that is open goes on";
}

TEST(HttpTls, ConnectionsAreClosedByWhoIsThere) {
  test::Certificates pki;
  Fixture f({}, tls_listen(pki.issue("server")));
  auto& a = f.client({.tls = pki.issue("a")});
  auto& b = f.client({.tls = pki.issue("b")});
  auto stream_a = f.open(a, {.target = "/forever"});
  auto stream_b = f.open(b, {.target = "/forever"});
  ASSERT_TRUE(stream_a && stream_b);
  EXPECT_TRUE(f.line(**stream_a));
  EXPECT_TRUE(f.line(**stream_b));
  EXPECT_EQ(f.get(a, "/echo")->status, 200U);
  const auto closed =
      f.loop.call([&] { return f.server->close_peers([](const Peer& p) { return p.identity() == "a"; }); });
  EXPECT_EQ(closed, 2U) << "the stream, and the one that was kept";
  auto ended = f.line(**stream_a);
  ASSERT_FALSE(ended);
  EXPECT_EQ(ended.error().code, Errc::unavailable) << ended.error().what;
  EXPECT_TRUE(test::eventually("the stream cancelled", [&] { return f.cancelled == 1; }));
  EXPECT_EQ(f.running, 1) << "b's goes on";
  EXPECT_EQ(f.get(a, "/echo")->status, 200U) << "it may come back: who may not is the handler's to say";
  f.loop.call([&] {
    stream_a->reset();
    stream_b->reset();
  });
}

TEST(HttpTls, WhatIsNotTlsIsDropped) {
  test::Certificates pki;
  Fixture f({.handshake_timeout = 300ms}, tls_listen(pki.issue("server")));
  RawSocket plain(f.at());
  ASSERT_TRUE(plain.send("GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_EQ(plain.receive().find("HTTP/"), std::string::npos);
  RawSocket silent(f.at());
  EXPECT_EQ(silent.receive(), "");
  EXPECT_TRUE(test::eventually("two failures", [&] { return f.stats().tls_failures == 2; }));
  auto plain_client = f.at();
  plain_client.tls = false;
  EXPECT_FALSE(f.get(f.client({.endpoints = {plain_client}}), "/echo"));
  EXPECT_EQ(f.get(f.client({.tls = pki.issue("client")}), "/echo")->status, 200U);
}

TEST(HttpTls, OldVersionsAreRefused) {
  test::Certificates pki;
  auto files = pki.issue("server");
  files.ca_file.clear();
  Fixture f({}, tls_listen(files));
  for (const auto& [version, accepted] :
       {std::pair{TLS1_1_VERSION, false}, {TLS1_2_VERSION, true}, {TLS1_3_VERSION, true}}) {
    RawSocket raw(f.at());
    std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> ctx(SSL_CTX_new(TLS_client_method()), SSL_CTX_free);
    SSL_CTX_set_security_level(ctx.get(), 0);
    SSL_CTX_set_min_proto_version(ctx.get(), version);
    SSL_CTX_set_max_proto_version(ctx.get(), version);
    std::unique_ptr<SSL, void (*)(SSL*)> s(SSL_new(ctx.get()), SSL_free);
    SSL_set_fd(s.get(), raw.fd());
    EXPECT_EQ(SSL_connect(s.get()) == 1, accepted) << std::hex << version;
  }
}

TEST(HttpTls, BadFilesAreNamed) {
  test::Certificates pki;
  test::TempDir dir("tls");
  auto good = pki.issue("server");
  auto other = pki.issue("other");
  Loop loop("test");
  Server server(loop.executor(), {}, [](Request) -> awaitable<Response> { co_return Response(); });
  const auto refuse = [&](TlsFiles files, const std::string& part) {
    auto s = server.listen(tls_listen(std::move(files)));
    ASSERT_FALSE(s) << part;
    EXPECT_EQ(s.error().code, Errc::invalid);
    EXPECT_NE(s.error().what.find(part), std::string::npos) << s.error().what;
    EXPECT_EQ(s.error().what.find('\n'), std::string::npos);
  };
  refuse({}, "needs cert_file and key_file");
  refuse({good.ca_file, dir.file("none"), good.key_file}, "cert_file " + dir.file("none"));
  refuse({good.ca_file, good.cert_file, ""}, "belong together");
  refuse({good.ca_file, good.cert_file, other.key_file}, "");
  refuse({good.key_file, good.cert_file, good.key_file}, "ca_file");
  EXPECT_TRUE(server.endpoints().empty());
  EXPECT_TRUE(server.listen(tls_listen(good)));
  EXPECT_FALSE(Client::create(
      loop.executor(), {.endpoints = {*Endpoint::parse("https://127.0.0.1:1")}, .tls = {.ca_file = dir.file("none")}}));
  EXPECT_FALSE(Client::create(loop.executor(), {}));
}

TEST(Certificates, KeysAreForTheirOwnerOnlyAndBadNamesRefused) {
  test::Certificates pki;
  auto files = pki.issue("server");
  struct stat st {};
  ASSERT_EQ(::stat(files.key_file.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600U);
  ASSERT_EQ(::stat(files.cert_file.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0644U);
  EXPECT_FALSE(issue(pki.ca(), {.name = ""}));
  EXPECT_FALSE(issue(pki.ca(), {.name = "x", .dns = {"a,IP:1.2.3.4"}}));
  EXPECT_FALSE(issue(pki.ca(), {.name = "x", .server = false, .client = false}));
  EXPECT_FALSE(issue({"junk", "junk"}, {.name = "x"}));
}

}  // namespace calico::http
