// core/bgp/README.md has a table of RFCs: what is done, what is otherwise, and the tests that show it. This keeps the
// table true: every RFC we promise has a row, every row names a test, and every test named exists under tests/.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

const std::set<std::string> kPromised = {"4271", "4456", "4760", "6793", "5492", "9072", "2918", "7313",
                                         "4724", "8538", "9494", "7911", "8654", "7606", "2385", "5082",
                                         "4486", "9003", "6286", "8212", "1997", "4360", "8092", "8326",
                                         "7999", "7607", "9774", "9687", "8950", "5549"};

struct Tests {
  std::set<std::string> names;                             // Suite.Test
  std::map<std::string, std::set<std::string>> instances;  // Suite -> prefixes, of parameterized ones
};

/// The names in the source text of tests, as the macros say them.
void find_tests(const std::string& text, Tests& out) {
  static const std::regex macro(R"(^(TEST|TEST_F|TEST_P|INSTANTIATE_TEST_SUITE_P)\(\s*(\w+),\s*(\w+))");
  std::istringstream in(text);
  // clang-format may put the second name on the next line: two lines are looked at.
  for (std::string line, next; std::getline(in, line);) {
    if (!line.starts_with("TEST") && !line.starts_with("INSTANTIATE")) continue;
    const auto at = in.tellg();
    if (std::getline(in, next)) line += next;
    in.clear();
    in.seekg(at);
    std::smatch m;
    if (!std::regex_search(line, m, macro)) continue;
    const std::string kind = m[1], first = m[2], second = m[3];
    if (kind == "INSTANTIATE_TEST_SUITE_P")
      out.instances[second].insert(first);
    else
      out.names.insert(first + "." + second);
    if (kind == "TEST_P") out.instances[first];
  }
}

/// All that is wrong with the table in `readme`, one line each.
std::vector<std::string> faults(const std::string& readme, const Tests& tests, const std::set<std::string>& promised) {
  std::vector<std::string> out;
  static const std::regex quoted(R"(`([^`]*)`)"), name(R"((?:(\w+)/)?(\w+)\.(\w+))"), number(R"(\d+)");
  std::set<std::string> seen;
  bool inside = false;
  std::istringstream in(readme);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("| RFC |")) {
      inside = true;
      std::getline(in, line);  // |---|
      continue;
    }
    if (!inside || !line.starts_with("|")) {
      inside = false;
      continue;
    }
    std::vector<std::string> cells;
    std::istringstream row(line.substr(1));
    for (std::string cell; std::getline(row, cell, '|');) cells.push_back(cell);
    if (cells.size() != 4) {
      out.push_back("not four cells: " + line);
      continue;
    }
    for (std::sregex_iterator i(cells[0].begin(), cells[0].end(), number), end; i != end; ++i)
      if (!seen.insert(i->str()).second) out.push_back("RFC " + i->str() + " has two rows");
    if (cells[1].find_first_not_of(' ') == std::string::npos) out.push_back(cells[0] + ": does not say what is done");
    std::size_t named = 0;
    for (std::sregex_iterator i(cells[3].begin(), cells[3].end(), quoted), end; i != end; ++i) {
      const auto test = (*i)[1].str();
      std::smatch m;
      ++named;
      if (!std::regex_match(test, m, name) || !tests.names.contains(m[2].str() + "." + m[3].str())) {
        out.push_back(cells[0] + ": there is no test " + test);
        continue;
      }
      const auto instance = tests.instances.find(m[2].str());
      const bool parameterized = instance != tests.instances.end();
      if (parameterized != m[1].matched || (parameterized && !instance->second.contains(m[1].str())))
        out.push_back(cells[0] + ": " + test + " is not what gtest calls it");
    }
    if (named == 0) out.push_back(cells[0] + ": names no test");
  }
  for (const auto& rfc : promised)
    if (!seen.contains(rfc)) out.push_back("RFC " + rfc + " has no row");
  return out;
}

std::string read(const fs::path& path) {
  std::ostringstream out;
  out << std::ifstream(path).rdbuf();
  return out.str();
}

TEST(Architecture, TheTableOfRfcsIsTrue) {
  const fs::path root = CALICO_SOURCE_DIR;
  Tests tests;
  for (const auto& e : fs::recursive_directory_iterator(root / "tests"))
    if (e.path().extension() == ".cpp") find_tests(read(e.path()), tests);
  ASSERT_GT(tests.names.size(), 100U) << "the scan found almost nothing: is CALICO_SOURCE_DIR right?";
  for (const auto& fault : faults(read(root / "core/bgp/README.md"), tests, kPromised))
    ADD_FAILURE() << "core/bgp/README.md: " << fault;
}

TEST(Architecture, TheTableOfRfcsIsReadClosely) {
  Tests tests;
  find_tests(
      "TEST(Plain, One) {\n}\nTEST_F(Long,\n       Two) {\nTEST_P(Many, Three) {\nINSTANTIATE_TEST_SUITE_P(All, Many, "
      "x);\n",
      tests);
  EXPECT_EQ(tests.names, (std::set<std::string>{"Plain.One", "Long.Two", "Many.Three"}));
  const std::string head = "text\n\n| RFC | done | otherwise | tests |\n|---|---|---|---|\n";
  const auto count = [&](const std::string& rows) { return faults(head + rows, tests, {"1", "2"}).size(); };
  EXPECT_EQ(count("| 1 | all | | `Plain.One`, `All/Many.Three` |\n| 2 | 3 | no | `Long.Two` |\n"), 0U);
  EXPECT_EQ(count("| 1, 2 | all | | `Plain.One` |\n"), 0U);
  EXPECT_EQ(count("| 1 | all | | `Plain.One` |\n"), 1U) << "2 is missing";
  EXPECT_EQ(count("| 1, 2 | all | | `Plain.Two` |\n"), 1U);
  EXPECT_EQ(count("| 1, 2 | all | | |\n"), 1U) << "no test";
  EXPECT_EQ(count("| 1, 2 | | | `Plain.One` |\n"), 1U) << "nothing done";
  EXPECT_EQ(count("| 1, 2 | all | `Plain.One` |\n"), 3U) << "a cell is missing";
  EXPECT_EQ(count("| 1, 2 | all | | `Many.Three` |\n"), 1U) << "without its prefix";
  EXPECT_EQ(count("| 1, 2 | all | | `Some/Many.Three` |\n"), 1U);
  EXPECT_EQ(count("| 1, 2, 1 | all | | `Plain.One` |\n"), 1U);
}

}  // namespace
