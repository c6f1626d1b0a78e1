#include "core/wire/base64.hpp"

#include <gtest/gtest.h>

namespace calico::wire {

TEST(Base64, Rfc4648Vectors) {
  const std::pair<const char*, const char*> rows[] = {{"", ""},
                                                      {"f", "Zg=="},
                                                      {"fo", "Zm8="},
                                                      {"foo", "Zm9v"},
                                                      {"foob", "Zm9vYg=="},
                                                      {"fooba", "Zm9vYmE="},
                                                      {"foobar", "Zm9vYmFy"}};
  for (auto [plain, coded] : rows) {
    EXPECT_EQ(base64_encode(plain), coded);
    auto back = base64_decode(coded);
    ASSERT_TRUE(back) << back.error().what;
    EXPECT_EQ(*back, plain);
  }
}

TEST(Base64, EveryByteSurvives) {
  std::string all;
  for (int i = 0; i < 256; ++i) all.push_back(static_cast<char>(i));
  for (std::size_t n = 0; n <= all.size(); ++n)
    EXPECT_EQ(base64_decode(base64_encode(all.substr(0, n))).value(), all.substr(0, n));
}

TEST(Base64, RefusesWhatIsNotCanonical) {
  for (const char* bad :
       {"Z", "Zg", "Zg=", "Zg==Zg==", "Zh==", "Zm9=", "Zm 9", "Zm9\n", "====", "=m9v", "Z===", "Zm9-"})
    EXPECT_FALSE(base64_decode(bad)) << bad;
}

}  // namespace calico::wire
