#include "core/base/ip.hpp"

#include <gtest/gtest.h>

namespace calico {

TEST(Ip, ParsesAndPrintsBothFamilies) {
  EXPECT_EQ(Ip::parse("10.65.0.1")->to_string(), "10.65.0.1");
  EXPECT_EQ(Ip::parse("FD65:0::17")->to_string(), "fd65::17");
  for (auto bad : {"", "10.65.0", "10.65.0.256", "10.65.0.1 ", "::g", "1:2:3:4:5:6:7:8:9"})
    EXPECT_FALSE(Ip::parse(bad)) << bad;
  EXPECT_EQ(Ip::v4(0x0a410001), *Ip::parse("10.65.0.1"));
  EXPECT_EQ(Ip::parse("10.65.0.1")->to_v4(), 0x0a410001U);
}

TEST(Ip, OrdersWithinAFamily) {
  EXPECT_LT(*Ip::parse("10.0.0.1"), *Ip::parse("10.0.0.2"));
  EXPECT_LT(*Ip::parse("255.0.0.1"), *Ip::parse("::"));
}

TEST(Prefix, ClearsHostBitsAndContains) {
  auto p = *Prefix::parse("10.65.3.7/16");
  EXPECT_EQ(p.to_string(), "10.65.0.0/16");
  EXPECT_TRUE(p.contains(*Ip::parse("10.65.255.1")));
  EXPECT_FALSE(p.contains(*Ip::parse("10.66.0.0")));
  EXPECT_FALSE(p.contains(*Ip::parse("::1")));
  EXPECT_TRUE(Prefix::parse("0.0.0.0/0")->contains(p));
  EXPECT_FALSE(p.contains(*Prefix::parse("0.0.0.0/0")));
  EXPECT_EQ(p.last().to_string(), "10.65.255.255");
  EXPECT_EQ(Prefix::parse("fd65::1")->to_string(), "fd65::1/128");
  EXPECT_EQ(Prefix::parse("fd65::ffff/65")->last().to_string(), "fd65::7fff:ffff:ffff:ffff");
  for (auto bad : {"10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/8x", "/8", "::/129"})
    EXPECT_FALSE(Prefix::parse(bad)) << bad;
}

TEST(Mac, ParsesAndPrints) {
  EXPECT_EQ(Mac::parse("FA:16:3e:4D:bb:e4")->to_string(), "fa:16:3e:4d:bb:e4");
  for (auto bad : {"", "fa:16:3e:4d:bb", "fa-16-3e-4d-bb-e4", "fa:16:3e:4d:bb:g4", "fa:16:3e:4d:bb:e44"})
    EXPECT_FALSE(Mac::parse(bad)) << bad;
}

TEST(Error, TextFromOutsideIsCutAndPrintable) {
  EXPECT_EQ(shown("10.65.0.1"), "10.65.0.1");
  EXPECT_EQ(shown("a\nb\x1b[2J\xff"), "a?b?[2J?");
  EXPECT_EQ(shown(std::string(101, 'x')), std::string(100, 'x') + "…");
  const std::string huge(1 << 20, '\n');
  for (const auto& error : {Ip::parse(huge).error(), Prefix::parse(huge + "/8").error(), Mac::parse(huge).error()}) {
    EXPECT_LT(error.what.size(), 200U);
    EXPECT_EQ(error.what.find('\n'), std::string::npos);
  }
}

}  // namespace calico
