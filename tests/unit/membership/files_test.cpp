#include "core/membership/files.hpp"

#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "tests/support/temp_dir.hpp"

namespace calico::membership {
namespace {

namespace fs = std::filesystem;

unsigned mode(const std::string& path) {
  struct stat st {};
  return ::stat(path.c_str(), &st) == 0 ? st.st_mode & 07777 : 0;
}

TEST(WriteSet, IsReplacedAsOneAndLeavesNothingBehind) {
  test::TempDir dir("set");
  const auto pki = dir.file("state/pki");
  ASSERT_TRUE(write_set(pki, "node", {{"node.crt", "one", 0644}, {"node.key", "secret", 0600}}));
  EXPECT_EQ(mode(pki), 0700U);
  EXPECT_EQ(mode(pki + "/node/node.crt"), 0644U);
  EXPECT_EQ(mode(pki + "/node/node.key"), 0600U);
  std::ofstream(pki + "/node.0123.left") << "of a crash";
  std::ofstream(pki + "/nodes") << "not ours";
  ASSERT_TRUE(write_set(pki, "node", {{"node.crt", "two", 0644}, {"node.key", "secret2", 0600}}));
  EXPECT_EQ(*read_small(pki + "/node/node.crt"), "two");
  EXPECT_EQ(*read_small(pki + "/node/node.key"), "secret2");
  std::set<std::string> names;
  for (const auto& e : fs::directory_iterator(pki)) names.insert(e.path().filename());
  EXPECT_EQ(names.size(), 3U) << "the link, its folder, and what is not ours";
  EXPECT_TRUE(names.contains("nodes"));
}

TEST(WriteSet, AFailureLeavesTheOldSet) {
  test::TempDir dir("set");
  const auto pki = dir.file("pki");
  ASSERT_TRUE(write_set(pki, "node", {{"node.crt", "one", 0644}}));
  EXPECT_FALSE(write_set(pki, "node", {{"node.crt", "two", 0644}, {"no/such/folder", "x", 0600}}));
  EXPECT_EQ(*read_small(pki + "/node/node.crt"), "one");
  EXPECT_EQ(std::distance(fs::directory_iterator(pki), fs::directory_iterator()), 2);
  // Something else where the link should be: refused, not removed.
  fs::create_directories(pki + "/server/precious");
  EXPECT_FALSE(write_set(pki, "server", {{"server.crt", "x", 0644}}));
  EXPECT_TRUE(fs::exists(pki + "/server/precious"));
  std::ofstream(dir.file("file")) << "x";
  EXPECT_FALSE(write_set(dir.file("file"), "node", {{"a", "b", 0600}}));
  fs::create_directory_symlink(dir.file("elsewhere"), dir.file("link"));
  EXPECT_FALSE(write_set(dir.file("link"), "node", {{"a", "b", 0600}})) << "not through a link of somebody else's";
}

TEST(WriteSet, AFolderThatIsTooOpenIsClosed) {
  test::TempDir dir("set");
  fs::create_directory(dir.file("pki"));
  ::chmod(dir.file("pki").c_str(), 0755);
  ASSERT_TRUE(make_private_dir(dir.file("pki")));
  EXPECT_EQ(mode(dir.file("pki")), 0700U);
}

TEST(ReadSmall, PlainAndBounded) {
  test::TempDir dir("small");
  std::ofstream(dir.file("ten")) << "0123456789";
  EXPECT_EQ(*read_small(dir.file("ten"), 10), "0123456789");
  EXPECT_EQ(read_small(dir.file("ten"), 9).error().code, Errc::invalid);
  EXPECT_EQ(read_small(dir.path()).error().code, Errc::invalid);
  EXPECT_EQ(read_small(dir.file("none")).error().code, Errc::not_found);
  ASSERT_EQ(::mkfifo(dir.file("fifo").c_str(), 0600), 0);
  EXPECT_EQ(read_small(dir.file("fifo")).error().code, Errc::invalid) << "does not wait for a writer";
  EXPECT_EQ(read_small("/dev/zero").error().code, Errc::invalid);
}

}  // namespace
}  // namespace calico::membership
