// The house rules that a compiler does not know: a floor includes only floors below it, a module includes core and
// itself, nothing outside tests includes tests, and no exception listed here is stale.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

// Height of each floor: a file may include its own floor and lower ones. Equal height = must not know each other.
const std::map<std::string, int> kHeight = {
    {"base", 0},       {"wire", 1}, {"config", 1},    {"log", 1}, {"metrics", 1},   {"reconcile", 1}, {"model", 2},
    {"loop", 2},       {"http", 3}, {"netlink", 3},   {"nft", 4}, {"conntrack", 4}, {"store", 5},     {"sync", 6},
    {"membership", 6}, {"move", 6}, {"resources", 6}, {"bgp", 7}, {"module", 8},    {"node", 9}};

// {including folder, included folder}: allowed against the rule, with the reason beside it.
const std::set<std::pair<std::string, std::string>> kExceptions = {};

struct Include {
  std::string file;
  int line;
  std::string target;
};

std::vector<Include> includes_below(const std::string& top) {
  static const std::regex pattern(R"re(^\s*#\s*include\s+"([^"]+)")re");
  std::vector<Include> out;
  const fs::path root = CALICO_SOURCE_DIR;
  for (const auto& e : fs::recursive_directory_iterator(root / top)) {
    const auto ext = e.path().extension();
    if (ext != ".hpp" && ext != ".cpp") continue;
    std::ifstream in(e.path());
    std::string line;
    for (int n = 1; std::getline(in, line); ++n) {
      std::smatch m;
      if (std::regex_search(line, m, pattern)) out.push_back({fs::relative(e.path(), root).string(), n, m[1]});
    }
  }
  return out;
}

/// "core/http/server.hpp" → {"core", "http"}.
std::pair<std::string, std::string> folder_of(const std::string& path) {
  const auto a = path.find('/');
  if (a == std::string::npos) return {"", ""};
  const auto b = path.find('/', a + 1);
  return {path.substr(0, a), b == std::string::npos ? "" : path.substr(a + 1, b - a - 1)};
}

TEST(Architecture, AFloorIncludesOnlyFloorsBelow) {
  std::set<std::pair<std::string, std::string>> used;
  const auto all = includes_below("core");
  ASSERT_GT(all.size(), 20U) << "the scan found almost nothing: is CALICO_SOURCE_DIR right?";
  for (const auto& i : all) {
    const auto [from_top, from] = folder_of(i.file);
    const auto [to_top, to] = folder_of(i.target);
    ASSERT_TRUE(kHeight.count(from)) << i.file << ": core/" << from << " is not in the list of floors";
    EXPECT_EQ(to_top, "core") << i.file << ":" << i.line << " includes \"" << i.target << "\": core includes core only";
    if (to_top != "core" || from == to) continue;
    ASSERT_TRUE(kHeight.count(to)) << i.file << ":" << i.line << ": core/" << to << " is not in the list of floors";
    if (kHeight.at(to) < kHeight.at(from)) continue;
    if (kExceptions.count({from, to})) {
      used.insert({from, to});
      continue;
    }
    ADD_FAILURE() << i.file << ":" << i.line << " reaches up: core/" << from << " must not include core/" << to;
  }
  for (const auto& e : kExceptions) EXPECT_TRUE(used.count(e)) << "stale exception " << e.first << " -> " << e.second;
}

TEST(Architecture, AModuleIncludesCoreAndItself) {
  for (const auto& i : includes_below("modules")) {
    const auto [from_top, from] = folder_of(i.file);
    const auto [to_top, to] = folder_of(i.target);
    const bool good = (to_top == "core" && to != "node") || (to_top == "modules" && to == from);
    EXPECT_TRUE(good) << i.file << ":" << i.line << " includes \"" << i.target
                      << "\": a module includes core and itself only";
  }
}

TEST(Architecture, EveryHeaderBeginsWithPragmaOnceAndAComment) {
  const fs::path root = CALICO_SOURCE_DIR;
  for (const char* top : {"core", "modules"})
    for (const auto& e : fs::recursive_directory_iterator(root / top)) {
      if (e.path().extension() != ".hpp") continue;
      std::ifstream in(e.path());
      std::string first, second;
      std::getline(in, first);
      std::getline(in, second);
      EXPECT_EQ(first, "#pragma once") << e.path();
      EXPECT_TRUE(second.starts_with("///") || second.starts_with("//")) << e.path() << ": says what it is for, first";
    }
}

}  // namespace
