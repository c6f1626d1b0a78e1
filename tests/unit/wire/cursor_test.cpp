#include "core/wire/cursor.hpp"

#include <gtest/gtest.h>

namespace calico::wire {

TEST(Reader, IsStickyAfterTheFirstShortRead) {
  Bytes b{std::byte{1}, std::byte{2}, std::byte{3}};
  Reader r(b);
  EXPECT_EQ(r.be<std::uint16_t>(), 0x0102);
  EXPECT_EQ(r.be<std::uint16_t>(), 0);
  EXPECT_FALSE(r.ok());
  EXPECT_EQ(r.be<std::uint8_t>(), 0);
  EXPECT_EQ(r.left(), 0U);
}

TEST(Reader, SubReaderIsBounded) {
  Bytes b{std::byte{1}, std::byte{2}, std::byte{3}};
  Reader r(b);
  Reader s = r.sub(2);
  EXPECT_EQ(s.be<std::uint16_t>(), 0x0102);
  EXPECT_EQ(s.left(), 0U);
  EXPECT_FALSE(r.sub(2).ok());
}

TEST(Writer, PatchesLengthsAndKeepsItsCap) {
  Writer w(8);
  auto m = w.open(2);
  w.be<std::uint32_t>(0xdeadbeef);
  w.close(m);
  ASSERT_TRUE(w.ok());
  EXPECT_EQ(w.view()[1], std::byte{4});
  w.be<std::uint32_t>(1);
  EXPECT_FALSE(w.ok());
}

TEST(Writer, RefusesValuesThatDoNotFit) {
  Writer w(8);
  w.be<std::uint8_t>(256);
  EXPECT_FALSE(w.ok());
}

}  // namespace calico::wire
