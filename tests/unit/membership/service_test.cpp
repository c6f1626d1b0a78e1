// Controller and node in one process, over TLS on loopback.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "core/http/certificates.hpp"
#include "core/membership/files.hpp"
#include "tests/unit/membership/controller.hpp"

namespace calico::membership {
namespace {

using testing::Contains;
using testing::HasSubstr;
namespace fs = std::filesystem;

unsigned mode(const std::string& path) {
  struct stat st {};
  return ::stat(path.c_str(), &st) == 0 ? st.st_mode & 0777 : 0;
}

std::string join_body(const Token& t, const std::string& name, const std::string& csr) {
  return boost::json::serialize(boost::json::object{{"id", t.id}, {"secret", t.secret}, {"name", name}, {"csr", csr}});
}

TEST(Membership, ANodeJoinsAndIsKnownByItsName) {
  Controller c;
  test::TempDir node("node");
  const auto t = c.token();
  const auto o = c.options_for(node, t, "compute-1");
  auto joined = join(o);
  ASSERT_TRUE(joined) << joined.error().what;
  EXPECT_FALSE(joined->already);
  EXPECT_EQ(mode(node.file("pki")), 0700U);
  EXPECT_EQ(mode(joined->files.key_file), 0600U);
  EXPECT_EQ(mode(joined->files.cert_file), 0644U);
  EXPECT_EQ(mode(joined->files.ca_file), 0644U);
  EXPECT_FALSE(fs::exists(node.file("pki/pending.key")));
  auto read = read_certificate(*read_small(joined->files.cert_file));
  ASSERT_TRUE(read);
  EXPECT_EQ(read->name, "compute-1");
  EXPECT_EQ(read->serial, joined->serial);

  EXPECT_EQ(c.post(joined->files, "/v3/kv/range", kRange)->status, 200U);
  http::ClientRequest who;
  who.target = "/calico-node/v1/member";
  EXPECT_THAT(c.ask(joined->files, who)->body, HasSubstr(R"("name":"compute-1")"));
  EXPECT_THAT(c.events(), Contains("membership.joined compute-1 " + joined->serial));
  for (const auto& e : c.events()) EXPECT_EQ(e.find(t.secret), std::string::npos);

  // Again: nothing changes, and the token is not needed.
  auto again = join(o);
  ASSERT_TRUE(again) << again.error().what;
  EXPECT_TRUE(again->already);
  EXPECT_EQ(again->serial, joined->serial);
  const auto text = config_text(o, true);
  EXPECT_THAT(text, HasSubstr("[node]\nname = compute-1\n[datastore]\nendpoints = " + c.at().to_string() + "\n"));
  EXPECT_THAT(text, HasSubstr("key_file = " + joined->files.key_file + "\n"));
  EXPECT_EQ(text.find(t.secret), std::string::npos);
}

TEST(Membership, TheControllersKeysAreItsOwn) {
  Controller c;
  EXPECT_EQ(mode(c.dir.file("pki")), 0700U);
  EXPECT_EQ(mode(c.dir.file("pki/ca/ca.key")), 0600U);
  EXPECT_EQ(mode(c.dir.file("pki/server/server.key")), 0600U);
  const auto hash = c.authority->ca_hash();
  const auto server = *read_small(c.dir.file("pki/server/server.crt"));
  c.restart();
  EXPECT_EQ(c.authority->ca_hash(), hash) << "the same CA";
  EXPECT_EQ(*read_small(c.dir.file("pki/server/server.crt")), server) << "and certificate";
}

TEST(Membership, ALostAnswerCostsNothing) {
  Controller c;
  test::TempDir node("node");
  const auto t = c.token();
  auto o = c.options_for(node, t, "compute-1");
  // The answer came, and could not be kept: the place is taken.
  fs::create_directories(node.file("pki/node/x"));
  auto failed = join(o);
  ASSERT_FALSE(failed);
  EXPECT_THAT(failed.error().what, HasSubstr("run the same command again"));
  EXPECT_EQ(mode(node.file("pki/pending.key")), 0600U);
  fs::remove_all(node.file("pki/node"));
  c.restart();
  auto joined = join(o);
  ASSERT_TRUE(joined) << joined.error().what;
  EXPECT_THAT(c.events(), Contains("membership.joined_again compute-1 " + joined->serial));
  EXPECT_EQ(c.post(joined->files, "/v3/kv/range", kRange)->status, 200U);
  // The token on another host: another key.
  test::TempDir thief("thief");
  for (const char* name : {"compute-1", "compute-2"}) {
    auto stolen = join(c.options_for(thief, t, name));
    ASSERT_FALSE(stolen);
    EXPECT_EQ(stolen.error().code, Errc::no_permission);
    EXPECT_THAT(stolen.error().what, HasSubstr("used by 'compute-1'"));
  }
  EXPECT_FALSE(fs::exists(thief.file("pki/node")));
}

TEST(Membership, OnlyThePinnedControllerIsToldTheSecret) {
  Controller real, other;
  test::TempDir node("node");
  auto o = real.options_for(node, real.token(), "compute-1");
  o.endpoints = {other.at()};
  auto wrong = join(o);
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code, Errc::no_permission);
  EXPECT_THAT(wrong.error().what, HasSubstr("not the controller the token is from"));
  EXPECT_THAT(wrong.error().what, HasSubstr("pinned CA is not in the chain"));
  o.endpoints = {real.at()};
  o.token.ca_hash[0] = o.token.ca_hash[0] == 'a' ? 'b' : 'a';
  EXPECT_FALSE(join(o));
  EXPECT_TRUE(other.events().empty()) << "no request arrived";
  EXPECT_TRUE(real.events().empty());
  EXPECT_FALSE(fs::exists(node.file("pki/node")));
}

/// A node's certificate, even with the right CA behind it, is no controller's; nor is a chain with the CA thrown in.
TEST(Membership, AStolenNodeCertificateIsNoController) {
  Controller c;
  test::TempDir node("node"), victim("victim");
  auto joined = join(c.options_for(node, c.token(), "compute-1"));
  ASSERT_TRUE(joined) << joined.error().what;
  auto foreign_ca = http::make_ca("foreign");
  auto foreign = http::issue(*foreign_ca, {.name = "controller", .ips = {*Ip::parse("127.0.0.1")}});
  const auto ca = *read_small(joined->files.ca_file);
  const struct {
    std::string cert, key;
    const char* why;
  } rows[] = {{*read_small(joined->files.cert_file) + ca, *read_small(joined->files.key_file), "purpose"},
              {foreign->cert_pem + ca, foreign->key_pem, "issuer"},
              {foreign->cert_pem, foreign->key_pem, "pinned CA is not in the chain"}};
  for (const auto& row : rows) {
    ASSERT_TRUE(http::write_file(node.file("x.crt"), row.cert, 0644));
    ASSERT_TRUE(http::write_file(node.file("x.key"), row.key, 0600));
    Loop loop("fake");
    bool asked = false;
    http::Server fake(loop.executor(), {}, [&](http::Request) -> awaitable<http::Response> {
      asked = true;
      co_return http::Response::text(200, "{}");
    });
    http::Listen where;
    where.at = *http::Endpoint::parse("https://127.0.0.1:0");
    where.tls = {.cert_file = node.file("x.crt"), .key_file = node.file("x.key")};
    ASSERT_TRUE(fake.listen(where));
    fake.start();
    loop.start();
    auto o = c.options_for(victim, c.token(), "compute-2");
    o.endpoints = fake.endpoints();
    auto refused = join(o);
    EXPECT_FALSE(refused);
    EXPECT_THAT(refused ? "" : refused.error().what, HasSubstr(row.why));
    test::run(loop, "the fake's end", [&]() -> awaitable<void> { co_await fake.stop(); });
    loop.stop();
    EXPECT_FALSE(asked) << row.why;
  }
}

TEST(Membership, WithoutACertificateOnlyJoinIsAnswered) {
  Controller c;
  for (const char* path : {"/v3/kv/range", "/v3/kv/put", "/v3/watch", "/version", "/health", "/nothing",
                           "/calico-node/v1/renew", "/calico-node/v1/member", "/calico-node/v1/nothing"}) {
    auto a = c.post(c.stranger(), path, kRange);
    ASSERT_TRUE(a) << path << ": " << a.error().what;
    EXPECT_EQ(a->status, 401U) << path;
    EXPECT_THAT(a->body, HasSubstr("calico-node join"));
  }
  EXPECT_THAT(c.post(c.stranger(), "/v3/kv/range", kRange)->body, HasSubstr(R"("code":16)")) << "in etcd's shape";
  http::ClientRequest big;
  big.method = "POST";
  big.target = "/v3/kv/put";
  big.body = std::string(700 * 1024, 'x');
  auto refused = c.ask(c.stranger(), big);
  ASSERT_TRUE(refused) << refused.error().what;
  EXPECT_EQ(refused->status, 401U);
  http::ClientRequest get;
  get.target = "/calico-node/v1/join";
  EXPECT_EQ(c.ask(c.stranger(), get)->status, 405U);
}

TEST(Membership, BadRequestsToJoinAreOneLine) {
  Controller c;
  const auto t = c.token();
  const auto csr = *make_request(*make_key(), "x");
  const std::string deep = std::string(5000, '[') + std::string(5000, ']');
  const struct {
    std::string body;
    unsigned status;
  } rows[] = {
      {"", 400},
      {"[]", 400},
      {deep, 400},
      {R"({"id":1})", 400},
      {R"({"id":"x","secret":"","name":"a","csr":""})", 400},
      {join_body({"0000000000000000", t.secret, ""}, "a", csr), 403},
      {join_body({t.id, std::string(32, '0'), ""}, "a", csr), 403},
      {join_body(t, "../x", csr), 400},
      {join_body(t, "Compute", csr), 400},
      {join_body(t, std::string(254, 'a'), csr), 400},
      {join_body(t, "boss", csr), 403},
      {join_body(t, "controller", csr), 403},
      {join_body(t, "a", "junk"), 400},
      {join_body(t, "a", std::string(14'000, 'x')), 400},
      {join_body(t, "a", std::string(100'000, 'x')), 413},
  };
  for (const auto& row : rows) {
    c.clock.set(c.clock.now() - std::chrono::steady_clock::now() + 1min);  // the allowance is not the subject here
    auto a = c.post(c.stranger(), "/calico-node/v1/join", row.body);
    ASSERT_TRUE(a) << row.body.substr(0, 100) << ": " << a.error().what;
    EXPECT_EQ(a->status, row.status) << row.body.substr(0, 100) << a->body;
    auto v = boost::json::parse(a->body);
    const auto what = std::string(v.at("error").as_string());
    EXPECT_FALSE(what.empty());
    EXPECT_EQ(what.find('\n'), std::string::npos);
    EXPECT_EQ(what.find(t.secret), std::string::npos);
  }
  EXPECT_EQ(c.post(c.stranger(), "/calico-node/v1/join", join_body(t, "a", csr))->status, 200U) << "the right one";
}

TEST(Membership, TriesOfAnAddressAreCounted) {
  Controller c;
  const auto csr = *make_request(*make_key(), "x");
  const auto bad = join_body({"0000000000000000", std::string(32, '0'), ""}, "a", csr);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(c.post(c.stranger(), "/calico-node/v1/join", bad)->status, 403U);
  auto busy = c.post(c.stranger(), "/calico-node/v1/join", bad);
  EXPECT_EQ(busy->status, 429U);
  EXPECT_EQ(busy->headers.get("Retry-After"), "60");
  test::TempDir node("node");
  auto o = c.options_for(node, c.token(), "compute-1");
  auto refused = join(o);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::busy);
  c.clock.set(1min);
  EXPECT_TRUE(join(o)) << "after a while";
  // Good ones are not counted.
  for (int i = 0; i < 25; ++i) {
    test::TempDir many("node");
    ASSERT_TRUE(join(c.options_for(many, c.token(), fmt::format("n{}", i)))) << i;
  }
}

TEST(Membership, ExpiredTokensAndTakenNames) {
  Controller c;
  test::TempDir one("node"), two("node");
  const auto t = c.token("", 1h);
  c.clock.set(2h);
  auto late = join(c.options_for(one, t, "compute-1"));
  ASSERT_FALSE(late);
  EXPECT_THAT(late.error().what, HasSubstr("ended on"));
  ASSERT_TRUE(join(c.options_for(one, c.token(), "compute-1")));
  auto taken = join(c.options_for(two, c.token(), "compute-1"));
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().code, Errc::conflict);
  EXPECT_THAT(taken.error().what, HasSubstr("join token --name compute-1"));
  auto bound = join(c.options_for(two, c.token("compute-1"), "compute-1"));
  EXPECT_TRUE(bound) << bound.error().what;
}

TEST(Membership, RevocationIsAtOnceAndForGood) {
  Controller c;
  test::TempDir one("node"), two("node");
  auto a = join(c.options_for(one, c.token(), "compute-1"));
  auto b = join(c.options_for(two, c.token(), "compute-2"));
  ASSERT_TRUE(a && b);
  struct Client {
    std::unique_ptr<http::Client> http;
    std::unique_ptr<http::LineReader> watch;
  };
  const auto open = [&](const http::TlsFiles& files) {
    Client k;
    http::ClientOptions o;
    o.endpoints = {c.at()};
    o.tls = files;
    k.http = std::move(*http::Client::create(c.loop->executor(), o));
    http::ClientRequest r;
    r.method = "POST";
    r.target = "/v3/watch";
    r.body = kWatch;
    auto w = c.run<Result<std::unique_ptr<http::LineReader>>>("a watch", [&] { return k.http->open(r); });
    EXPECT_TRUE(w) << w.error().what;
    if (w) k.watch = std::move(*w);
    return k;
  };
  const auto line = [&](Client& k) {
    return c.run<Result<std::string>>("a line", [&] { return k.watch->read_line(25s); });
  };
  auto ka = open(a->files), kb = open(b->files);
  ASSERT_TRUE(ka.watch && kb.watch);
  EXPECT_TRUE(line(ka));
  EXPECT_TRUE(line(kb));

  auto serials = c.revoke("compute-1");
  ASSERT_TRUE(serials);
  EXPECT_THAT(*serials, testing::ElementsAre(a->serial));
  auto ended = line(ka);
  ASSERT_FALSE(ended) << "the open watch was closed";
  EXPECT_NE(ended.error().code, Errc::timeout) << ended.error().what;
  for (int process = 0; process < 2; ++process) {
    auto refused = c.post(a->files, "/v3/kv/range", kRange);
    ASSERT_TRUE(refused) << refused.error().what;
    EXPECT_EQ(refused->status, 401U);
    EXPECT_THAT(refused->body, HasSubstr("is revoked: join again"));
    EXPECT_EQ(c.post(a->files, "/calico-node/v1/renew", "{}")->status, 401U);
    EXPECT_EQ(c.post(b->files, "/v3/kv/range", kRange)->status, 200U) << "the other one goes on";
    if (process == 0) {
      c.loop->call([&] { ka = {}, kb = {}; });
      c.restart();
    }
  }
  EXPECT_TRUE(c.revoke("compute-1")->empty());
  // `join` with a new token replaces it, although the old one is still there and not over.
  auto back = join(c.options_for(one, c.token(), "compute-1"));
  ASSERT_TRUE(back) << back.error().what;
  EXPECT_FALSE(back->already);
  EXPECT_NE(back->serial, a->serial);
  EXPECT_EQ(c.post(back->files, "/v3/kv/range", kRange)->status, 200U);
}

TEST(Membership, CertificatesThatEndAreRefusedAndTheirConnectionsClosed) {
  Controller c;
  test::TempDir one("node");
  auto a = join(c.options_for(one, c.token(), "compute-1"));
  ASSERT_TRUE(a);
  http::ClientOptions o;
  o.endpoints = {c.at()};
  o.tls = a->files;
  auto client = std::move(*http::Client::create(c.loop->executor(), o));
  http::ClientRequest range, watch;
  range.method = watch.method = "POST";
  range.target = "/v3/kv/range";
  range.body = kRange;
  watch.target = "/v3/watch";
  watch.body = kWatch;
  const auto ask = [&] { return c.run<Result<http::Answer>>("an answer", [&] { return client->request(range); }); };
  auto lines = c.run<Result<std::unique_ptr<http::LineReader>>>("a watch", [&] { return client->open(watch); });
  ASSERT_TRUE(lines) << lines.error().what;
  const auto line = [&] { return c.run<Result<std::string>>("a line", [&] { return (*lines)->read_line(25s); }); };
  EXPECT_TRUE(line());
  EXPECT_EQ(ask()->status, 200U);
  c.clock.set(24h * 91);  // TLS, with the system's time, would still take it
  auto refused = ask();
  ASSERT_TRUE(refused) << refused.error().what;
  EXPECT_EQ(refused->status, 401U) << "on the open connection too";
  EXPECT_THAT(refused->body, HasSubstr("ended on"));
  EXPECT_TRUE(c.maintain());
  auto ended = line();
  ASSERT_FALSE(ended);
  EXPECT_NE(ended.error().code, Errc::timeout) << ended.error().what;
  c.loop->call([&] {
    lines->reset();
    client.reset();
  });
}

TEST(Membership, ThePartOfTheServersCertificate) {
  Controller c({}, -24h * 61);
  const auto first = read_certificate(*read_small(c.dir.file("pki/server/server.crt")));
  test::TempDir node("node");
  ASSERT_TRUE(c.maintain());
  EXPECT_EQ(read_certificate(*read_small(c.dir.file("pki/server/server.crt")))->serial, first->serial);
  c.clock.set({});  // two thirds of 90 days are over
  ASSERT_TRUE(c.maintain());
  const auto second = read_certificate(*read_small(c.dir.file("pki/server/server.crt")));
  EXPECT_NE(second->serial, first->serial);
  EXPECT_GT(second->not_after, first->not_after);
  // The listener serves it without a restart: the old files are gone, and a node joins.
  EXPECT_TRUE(join(c.options_for(node, c.token(), "compute-1")));
}

TEST(Membership, AServerNameThatIsAddedIsInTheCertificate) {
  AuthorityOptions options;
  options.server_names = {"controller.example", "192.0.2.7"};
  Controller c(options);
  const auto read = read_certificate(*read_small(c.dir.file("pki/server/server.crt")));
  EXPECT_THAT(read->dns, testing::UnorderedElementsAre("localhost", "controller", "controller.example"));
  EXPECT_THAT(read->ips, Contains(*Ip::parse("192.0.2.7")));
  // By a name it does not have a node refuses it.
  test::TempDir node("node");
  auto o = c.options_for(node, c.token(), "compute-1");
  o.endpoints[0].host = "127.0.0.2";
  http::Listen where;
  where.at = *http::Endpoint::parse("https://127.0.0.2:0");
  where.tls = c.authority->server_files();
  Loop loop("other");
  http::Server other(loop.executor(), {},
                     [](http::Request) -> awaitable<http::Response> { co_return http::Response(); });
  ASSERT_TRUE(other.listen(where));
  other.start();
  loop.start();
  o.endpoints = other.endpoints();
  auto refused = join(o);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().what, HasSubstr("server_names"));
  test::run(loop, "its end", [&]() -> awaitable<void> { co_await other.stop(); });
  loop.stop();
}

TEST(Membership, AnOperatorsCa) {
  test::TempDir files("ca");
  auto ca = http::make_ca("of the operator");
  ASSERT_TRUE(http::write_pem(files.file("ca"), *ca));
  AuthorityOptions options;
  options.ca_file = files.file("ca.crt");
  options.ca_key_file = files.file("ca.key");
  {
    Controller c(options);
    EXPECT_EQ(c.authority->ca_hash(), read_certificate(ca->cert_pem)->key_hash);
    EXPECT_FALSE(fs::exists(c.dir.file("pki/ca")));
    test::TempDir node("node");
    auto joined = join(c.options_for(node, c.token(), "compute-1"));
    EXPECT_TRUE(joined) << joined.error().what;
  }
  const auto refused = [&](const char* why) {
    test::TempDir state("state");
    store::Kv::Options kv;
    kv.path = state.file("state.db");
    kv.schemas = {kMembershipSchema};
    std::shared_ptr<store::Kv> opened = std::move(*store::Kv::open(kv));
    auto o = options;
    o.pki_dir = state.file("pki");
    auto authority = Authority::open(o, opened, state.file("state.db"), {});
    ASSERT_FALSE(authority) << why;
    EXPECT_THAT(authority.error().what, HasSubstr(why));
  };
  ::chmod(options.ca_key_file.c_str(), 0640);
  refused("chmod 600");
  ::chmod(options.ca_key_file.c_str(), 0600);
  ASSERT_TRUE(http::write_file(options.ca_key_file, http::make_ca("x")->key_pem, 0600));
  refused("is not the key of");
  ASSERT_TRUE(http::write_file(options.ca_key_file, ca->key_pem, 0600));
  ASSERT_TRUE(http::write_file(options.ca_file, http::issue(*ca, {.name = "leaf"})->cert_pem, 0644));
  refused("not a self-signed CA");
  options.ca_file = files.file("none");
  refused("none");
}

TEST(Membership, ADamagedCaIsNeverReplaced) {
  test::TempDir state("state");
  store::Kv::Options kv;
  kv.path = state.file("state.db");
  kv.schemas = {kMembershipSchema};
  std::shared_ptr<store::Kv> opened = std::move(*store::Kv::open(kv));
  AuthorityOptions o;
  o.pki_dir = state.file("pki");
  ASSERT_TRUE(Authority::open(o, opened, state.file("state.db"), {}));
  std::ofstream(state.file("pki/ca/ca.key"), std::ios::trunc) << "junk";
  auto broken = Authority::open(o, opened, state.file("state.db"), {});
  ASSERT_FALSE(broken);
  EXPECT_THAT(broken.error().what, HasSubstr("ca.key"));
  fs::remove(state.file("pki/ca/ca.key"));
  EXPECT_FALSE(Authority::open(o, opened, state.file("state.db"), {}));
  EXPECT_EQ(*read_small(state.file("pki/ca/ca.crt")), *read_small(state.file("pki/ca/ca.crt")));
}

TEST(Membership, NobodyThere) {
  test::TempDir node("node");
  JoinOptions o;
  o.endpoints = {*http::Endpoint::parse("https://127.0.0.1:1")};
  o.token = *make_token(std::string(64, 'a'));
  o.name = "compute-1";
  o.pki_dir = node.file("pki");
  auto away = join(o);
  ASSERT_FALSE(away);
  EXPECT_THAT(away.error().what, HasSubstr("no controller answers"));
  EXPECT_EQ(away.error().what.find('\n'), std::string::npos);
  o.endpoints = {*http::Endpoint::parse("http://127.0.0.1:1")};
  EXPECT_THAT(join(o).error().what, HasSubstr("https is needed"));
  o.name = "../x";
  EXPECT_EQ(join(o).error().code, Errc::invalid);
}

}  // namespace
}  // namespace calico::membership
