#include "core/membership/registry.hpp"

#include <gmock/gmock.h>

#include "core/membership/x509.hpp"
#include "tests/support/temp_dir.hpp"

namespace calico::membership {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

class RegistryTest : public testing::Test {
 protected:
  void SetUp() override {
    open();
    rules_.ca = *http::make_ca("ca");
    rules_.ca_hash = read_certificate(rules_.ca.cert_pem)->key_hash;
    rules_.own_name = "controller";
    rules_.admins = {"boss"};
    rules_.life = 24h * 90;
    rules_.now = std::chrono::system_clock::now();
  }
  void open() {
    db_.reset();
    auto db = store::Db::open({.path = dir_.file("state.db"), .synchronous = store::Db::Synchronous::normal});
    ASSERT_TRUE(db);
    db_ = std::move(*db);
    ASSERT_TRUE(db_->migrate(kMembershipSchema));
  }
  Token token(const std::string& name = "", std::chrono::seconds ttl = 24h) {
    auto t = registry::make_token(*db_, rules_, name, ttl);
    EXPECT_TRUE(t) << t.error().what;
    return t ? *t : Token{};
  }
  /// In a transaction, as the controller does it.
  Result<Issued> join(const Token& t, const std::string& name, const std::string& csr) {
    auto tx = store::Transaction::begin(*db_);
    auto issued = registry::join(*db_, rules_, {t.id, t.secret, name, csr});
    if (issued) {
      EXPECT_TRUE(tx->commit());
    }
    return issued;
  }
  static std::string csr() { return *make_request(*make_key(), "x"); }
  std::string refused(const Result<Issued>& r, Errc code) {
    EXPECT_FALSE(r);
    if (r) return "";
    EXPECT_EQ(r.error().code, code) << r.error().what;
    EXPECT_EQ(r.error().what.find('\n'), std::string::npos);
    return r.error().what;
  }
  std::int64_t count(const char* table) { return *db_->number(std::string("SELECT count(*) FROM ") + table); }

  test::TempDir dir_{"registry"};
  std::unique_ptr<store::Db> db_;
  Rules rules_;
};

TEST_F(RegistryTest, ATokenIsForOneNode) {
  const auto t = token();
  const auto request = csr();
  auto first = join(t, "compute-1", request);
  ASSERT_TRUE(first) << first.error().what;
  EXPECT_FALSE(first->again);
  EXPECT_EQ(read_certificate(first->pem)->name, "compute-1");
  EXPECT_EQ(read_certificate(first->pem)->key_hash, *check_request(request));
  EXPECT_EQ(time_text(first->not_after), time_text(rules_.now + rules_.life));
  // Its answer was lost.
  rules_.now += 2h;
  auto again = join(t, "compute-1", request);
  ASSERT_TRUE(again) << again.error().what;
  EXPECT_TRUE(again->again);
  EXPECT_EQ(again->pem, first->pem);
  // Somebody else with it: another key, another name.
  EXPECT_THAT(refused(join(t, "compute-1", csr()), Errc::no_permission), HasSubstr("used by 'compute-1'"));
  EXPECT_THAT(refused(join(t, "compute-2", request), Errc::no_permission), HasSubstr("used by 'compute-1'"));
  EXPECT_EQ(count("membership_certificate"), 1);
  // After its end the repeated question gets nothing either.
  rules_.now += 23h;
  EXPECT_THAT(refused(join(t, "compute-1", request), Errc::no_permission), HasSubstr("ended on"));
}

TEST_F(RegistryTest, OnlyTheHashOfTheSecretIsKept) {
  const auto t = token();
  auto q = db_->query("SELECT id, secret_hash, name FROM membership_token");
  ASSERT_TRUE(*q.next());
  EXPECT_EQ(q.text(0), t.id);
  EXPECT_EQ(q.text(1), hash_secret(t.secret));
  const auto rows = registry::tokens(*db_, rules_.now);
  ASSERT_EQ(rows->size(), 1U);
  EXPECT_EQ(rows->at(0).id, t.id);
}

TEST_F(RegistryTest, AWrongSecretIsLikeNoToken) {
  auto t = token();
  auto guess = t;
  guess.secret[0] = guess.secret[0] == '0' ? '1' : '0';
  auto nobody = t;
  nobody.id = "0000000000000000";
  EXPECT_EQ(refused(join(guess, "a", csr()), Errc::no_permission),
            refused(join(nobody, "a", csr()), Errc::no_permission));
  guess.secret = "";
  refused(join(guess, "a", csr()), Errc::no_permission);
  guess.secret = hash_secret(t.secret);
  refused(join(guess, "a", csr()), Errc::no_permission);
  EXPECT_TRUE(join(t, "a", csr())) << "the guesses cost it nothing";
}

TEST_F(RegistryTest, TokensEndAndCanBeTakenBack) {
  const auto brief = token("", 60s), other = token();
  EXPECT_EQ(registry::tokens(*db_, rules_.now)->size(), 2U);
  rules_.now += 60s;
  EXPECT_THAT(refused(join(brief, "a", csr()), Errc::no_permission), HasSubstr("ended on"));
  EXPECT_EQ(registry::tokens(*db_, rules_.now)->size(), 1U);
  EXPECT_TRUE(registry::drop_token(*db_, other.id));
  EXPECT_EQ(registry::drop_token(*db_, other.id).error().code, Errc::not_found);
  EXPECT_THAT(refused(join(other, "a", csr()), Errc::no_permission), HasSubstr("revoked"));
}

TEST_F(RegistryTest, NamesThatNobodyGets) {
  const auto t = token();
  for (const std::string& name : {std::string("../x"), std::string("Compute-1"), std::string(254, 'a'),
                                  std::string("a/b"), std::string(""), std::string("a\nb")})
    refused(join(t, name, csr()), Errc::invalid);
  EXPECT_THAT(refused(join(t, "boss", csr()), Errc::no_permission), HasSubstr("admins"));
  EXPECT_THAT(refused(join(t, "controller", csr()), Errc::no_permission), HasSubstr("own name"));
  EXPECT_FALSE(registry::make_token(*db_, rules_, "boss", 1h));
  EXPECT_FALSE(registry::make_token(*db_, rules_, "../x", 1h));
  EXPECT_TRUE(join(t, "compute-1", csr())) << "none of them used it up";
}

TEST_F(RegistryTest, ABoundTokenIsForItsName) {
  const auto t = token("compute-1");
  EXPECT_THAT(refused(join(t, "compute-2", csr()), Errc::no_permission), HasSubstr("is for 'compute-1'"));
  EXPECT_TRUE(join(t, "compute-1", csr()));
}

TEST_F(RegistryTest, AMembersNameNeedsATokenBoundToIt) {
  ASSERT_TRUE(join(token(), "compute-1", csr()));
  EXPECT_THAT(refused(join(token(), "compute-1", csr()), Errc::conflict), HasSubstr("--name compute-1"));
  EXPECT_TRUE(join(token("compute-1"), "compute-1", csr()));
  // Once its certificates are over the name is free again.
  rules_.now += rules_.life + 1h;
  EXPECT_TRUE(join(token(), "compute-1", csr()));
}

TEST_F(RegistryTest, HostileRequestsUseNothingUp) {
  const auto t = token();
  for (const auto& bad : {std::string(), std::string("junk"), std::string(100'000, 'x'), *make_key()})
    refused(join(t, "compute-1", bad), Errc::invalid);
  EXPECT_TRUE(join(t, "compute-1", csr()));
}

TEST_F(RegistryTest, RenewalAndItsRepetition) {
  auto first = join(token(), "compute-1", csr());
  ASSERT_TRUE(first);
  rules_.now += 24h * 60;
  const auto request = csr();
  const registry::RenewCall call{"compute-1", first->serial, first->not_after, request};
  auto second = registry::renew(*db_, rules_, call);
  ASSERT_TRUE(second) << second.error().what;
  EXPECT_NE(second->serial, first->serial);
  EXPECT_EQ(time_text(second->not_after), time_text(rules_.now + rules_.life));
  auto again = registry::renew(*db_, rules_, call);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->pem, second->pem);
  EXPECT_EQ(count("membership_certificate"), 2);
  // One that keeps its key all the same gets a new certificate, not its own again.
  auto third = registry::renew(*db_, rules_, {"compute-1", second->serial, second->not_after, request});
  ASSERT_TRUE(third);
  EXPECT_NE(third->serial, second->serial);
  EXPECT_FALSE(registry::renew(*db_, rules_, {"boss", "1", rules_.now + 1h, csr()}));
  EXPECT_FALSE(registry::renew(*db_, rules_, {"controller", "1", rules_.now + 1h, csr()}));
}

TEST_F(RegistryTest, NobodyFillsTheTable) {
  auto last = join(token(), "compute-1", csr());
  ASSERT_TRUE(last);
  Result<Issued> r = last;
  int n = 1;
  for (; n < 100; ++n) {
    r = registry::renew(*db_, rules_, {"compute-1", last->serial, last->not_after, csr()});
    if (!r) break;
  }
  EXPECT_EQ(n, registry::kMaxCertificatesOfName);
  EXPECT_THAT(refused(r, Errc::exhausted), HasSubstr("join revoke compute-1"));
  for (int i = 0; i < registry::kMaxTokens; ++i) token();
  EXPECT_EQ(registry::make_token(*db_, rules_, "", 1h).error().code, Errc::exhausted);
  rules_.now += 25h;
  EXPECT_TRUE(registry::make_token(*db_, rules_, "", 1h));
  rules_.now += 24h * 200;
  EXPECT_TRUE(registry::prune(*db_, rules_.now));
  EXPECT_EQ(count("membership_token"), 0);
  EXPECT_EQ(count("membership_certificate"), 0);
}

TEST_F(RegistryTest, RevocationIsForTheNameAndStays) {
  auto a = join(token(), "compute-1", csr());
  auto b = registry::renew(*db_, rules_, {"compute-1", a->serial, a->not_after, csr()});
  auto c = join(token(), "compute-2", csr());
  ASSERT_TRUE(a && b && c);
  const auto bound = token("compute-1");
  auto serials =
      registry::revoke(*db_, "compute-1", {{"abcdef", rules_.now + 1h}, {b->serial, b->not_after}}, rules_.now);
  ASSERT_TRUE(serials);
  EXPECT_THAT(*serials, testing::UnorderedElementsAre(a->serial, b->serial, "abcdef"));
  EXPECT_TRUE(registry::revoke(*db_, "compute-1", {}, rules_.now)->empty());
  EXPECT_TRUE(registry::revoke(*db_, "nobody", {}, rules_.now)->empty());
  open();  // another process
  EXPECT_EQ(registry::revoked_serials(*db_)->size(), 3U);
  EXPECT_THAT(
      refused(registry::renew(*db_, rules_, {"compute-1", a->serial, a->not_after, csr()}), Errc::no_permission),
      HasSubstr("is revoked"));
  EXPECT_TRUE(registry::renew(*db_, rules_, {"compute-2", c->serial, c->not_after, csr()}));
  EXPECT_FALSE(join(bound, "compute-1", csr())) << "made before it was thrown out";
  EXPECT_TRUE(join(token(), "compute-1", csr())) << "the name is free";
  int revoked = 0;
  const auto rows = registry::certificates(*db_, rules_.now);
  for (const auto& row : *rows) revoked += row.revoked;
  EXPECT_EQ(revoked, 3);
  rules_.now += rules_.life + 24h * 31;
  EXPECT_TRUE(registry::prune(*db_, rules_.now));
  EXPECT_TRUE(registry::revoked_serials(*db_)->empty()) << "the date refuses them now";
}

TEST_F(RegistryTest, ARepeatAfterRevocationGetsNothing) {
  const auto t = token();
  const auto request = csr();
  ASSERT_TRUE(join(t, "compute-1", request));
  ASSERT_TRUE(registry::revoke(*db_, "compute-1", {}, rules_.now));
  EXPECT_FALSE(join(t, "compute-1", request));
}

TEST_F(RegistryTest, ACertificateOfElsewhereIsAdopted) {
  auto renewed = registry::renew(*db_, rules_, {"compute-9", "feed", rules_.now + 1h, csr()});
  ASSERT_TRUE(renewed) << renewed.error().what;
  EXPECT_THAT(*registry::revoke(*db_, "compute-9", {}, rules_.now),
              testing::UnorderedElementsAre("feed", renewed->serial));
}

TEST_F(RegistryTest, ACaThatIsOverGivesNothing) {
  rules_.now += 24h * 3651;
  const auto t = token();
  EXPECT_THAT(refused(join(t, "a", csr()), Errc::unavailable), HasSubstr("CA"));
}

}  // namespace
}  // namespace calico::membership
