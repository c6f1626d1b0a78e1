#include "core/membership/token.hpp"

#include <gmock/gmock.h>

#include "core/membership/rate_limit.hpp"

namespace calico::membership {
namespace {

using testing::HasSubstr;

const std::string kHash(64, 'a');

TEST(Token, IsOneStringAndBack) {
  auto token = make_token(kHash);
  ASSERT_TRUE(token);
  const auto text = to_string(*token);
  EXPECT_EQ(text.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789."), std::string::npos) << "copied by hand";
  auto back = parse_token(text);
  ASSERT_TRUE(back) << back.error().what;
  EXPECT_EQ(back->id, token->id);
  EXPECT_EQ(back->secret, token->secret);
  EXPECT_EQ(back->ca_hash, kHash);
  EXPECT_NE(make_token(kHash)->secret, token->secret);
  EXPECT_NE(hash_secret(token->secret), token->secret);
  EXPECT_EQ(hash_secret("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad") << "FIPS 180";
}

TEST(Token, AnythingElseIsRefusedAndNeverRepeated) {
  const auto good = to_string(*make_token(kHash));
  std::vector<std::string> bad{"",
                               "cn1",
                               good + "0",
                               good.substr(1),
                               good.substr(0, good.size() - 1),
                               " " + good,
                               good + "\n",
                               "cn2" + good.substr(3),
                               std::string(100'000, 'a')};
  for (const std::size_t at : {0U, 3U, 10U, 20U, 25U, 53U, 60U}) {
    auto changed = good;
    changed[at] = changed[at] == '.' ? '-' : 'G';
    bad.push_back(changed);
  }
  for (const auto& text : bad) {
    auto parsed = parse_token(text);
    ASSERT_FALSE(parsed) << text.substr(0, 200);
    EXPECT_THAT(parsed.error().what, HasSubstr("calico-node join token"));
    EXPECT_EQ(parsed.error().what.find(make_token(kHash)->secret), std::string::npos);
    EXPECT_EQ(parsed.error().what.find(good.substr(20, 20)), std::string::npos) << "the secret is not shown";
  }
}

TEST(Token, SecretsAreComparedWhole) {
  EXPECT_TRUE(same_secret("abc", "abc"));
  EXPECT_FALSE(same_secret("abc", "abd"));
  EXPECT_FALSE(same_secret("abc", "ab"));
  EXPECT_FALSE(same_secret("", "ab"));
}

TEST(NodeName, HostNamesOnly) {
  for (const char* name : {"a", "1", "compute-1", "cmp-01.rack2.example", "a.b", "x--y"})
    EXPECT_TRUE(check_node_name(name)) << name;
  EXPECT_TRUE(check_node_name(std::string(64, 'a')));
  const std::string zero("a\0b", 3);
  for (const std::string& name : {std::string(),
                                  std::string("."),
                                  std::string(".."),
                                  std::string("../x"),
                                  std::string("a/b"),
                                  std::string("/etc"),
                                  std::string("Compute-1"),
                                  std::string("COMPUTE"),
                                  std::string("a..b"),
                                  std::string("a."),
                                  std::string(".a"),
                                  std::string("-a"),
                                  std::string("a-"),
                                  std::string("a-.b"),
                                  std::string("a_b"),
                                  std::string("a b"),
                                  std::string("a,b"),
                                  std::string("a\nb"),
                                  std::string("a%2fb"),
                                  std::string("\xc3\xa4"),
                                  std::string("\xd0\xb0"),
                                  zero,
                                  std::string("*"),
                                  std::string("a=b"),
                                  std::string(65, 'a'),
                                  std::string(254, 'a')}) {
    auto checked = check_node_name(name);
    ASSERT_FALSE(checked) << name;
    EXPECT_EQ(checked.error().code, Errc::invalid);
    EXPECT_EQ(checked.error().what.find('\n'), std::string::npos);
  }
}

TEST(RateLimit, ABurstThenOneByOne) {
  using namespace std::chrono_literals;
  RateLimit limit({.burst = 3, .refill = 6s, .addresses = 100});
  const auto a = *Ip::parse("192.0.2.1"), b = *Ip::parse("192.0.2.2");
  auto t = TimePoint() + 1h;
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(limit.take(a, t));
  EXPECT_FALSE(limit.take(a, t));
  EXPECT_TRUE(limit.take(b, t)) << "each address its own";
  limit.give_back(a);
  EXPECT_TRUE(limit.take(a, t));
  EXPECT_FALSE(limit.take(a, t + 5s));
  EXPECT_TRUE(limit.take(a, t + 6s));
  EXPECT_FALSE(limit.take(a, t + 6s));
  EXPECT_TRUE(limit.take(a, t + 1h));
  EXPECT_TRUE(limit.take(a, t + 1h));
  EXPECT_TRUE(limit.take(a, t + 1h));
  EXPECT_FALSE(limit.take(a, t + 1h)) << "never more than the burst";
}

TEST(RateLimit, OneHostIsItsSlash64AndMemoryIsBounded) {
  using namespace std::chrono_literals;
  RateLimit limit({.burst = 2, .refill = 6s, .addresses = 4});
  auto t = TimePoint() + 1h;
  EXPECT_TRUE(limit.take(*Ip::parse("2001:db8::1"), t));
  EXPECT_TRUE(limit.take(*Ip::parse("2001:db8::2"), t));
  EXPECT_FALSE(limit.take(*Ip::parse("2001:db8::3"), t));
  EXPECT_TRUE(limit.take(*Ip::parse("2001:db8:0:1::3"), t));
  int taken = 0;
  for (std::uint32_t i = 0; i < 1000; ++i) taken += limit.take(Ip::v4(0x0a000000 + i), t);
  EXPECT_LE(limit.size(), 4U);
  EXPECT_EQ(taken, 2 + 2) << "two places in the table, then the strangers' common allowance";
  EXPECT_TRUE(limit.take(Ip::v4(0x0b000000), t + 1h)) << "those who were quiet are forgotten";
}

}  // namespace
}  // namespace calico::membership
