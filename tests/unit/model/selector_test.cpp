#include "core/model/selector.hpp"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace calico::model {
namespace {

bool match(std::string_view text, const Labels& labels) {
  auto s = Selector::parse(text);
  EXPECT_TRUE(s) << text << ": " << (s ? "" : s.error().what);
  return s && s->matches(labels);
}

TEST(Selector, Operators) {
  const Labels l{{"a", "1"}, {"b.c/d-e", "hello world"}, {"in", "x"}};
  for (auto yes : {"",
                   "  ",
                   "all()",
                   "all( )",
                   "a == '1'",
                   "a=='1'",
                   "a == \"1\"",
                   "a != '2'",
                   "zz != '1'",
                   "has(a)",
                   "has( a )",
                   "!has(zz)",
                   "! has(zz)",
                   "!!has(a)",
                   "a in {'1','2'}",
                   "a in {'1',}",
                   "a not in {'3'}",
                   "a notin {'3'}",
                   "zz not in {'1'}",
                   "a not in {}",
                   "b.c/d-e contains 'o w'",
                   "b.c/d-e starts with 'hell'",
                   "b.c/d-e startswith 'hell'",
                   "b.c/d-e ends with \"world\"",
                   "b.c/d-e endswith 'd'",
                   "has(a) && has(in)",
                   "has(zz) || a == '1'",
                   "(has(zz) || has(a)) && has(in)",
                   "in in {'x'}",
                   "global()",
                   "has(zz) && has(yy) || has(a)"})
    EXPECT_TRUE(match(yes, l)) << yes;
  for (auto no : {"a == '2'", "zz == '1'", "a != '1'", "has(zz)", "!has(a)", "!all()", "a in {}", "zz in {'1'}",
                  "a not in {'1'}", "zz contains ''", "zz starts with ''", "b.c/d-e contains 'W'", "has(a) && has(zz)",
                  "!(has(zz) || has(a))", "has(a) && (has(zz) || has(yy))"})
    EXPECT_FALSE(match(no, l)) << no;
  EXPECT_FALSE(match("global()", {{"projectcalico.org/namespace", "n"}}));
}

TEST(Selector, RefusesWhatIsNotASelector) {
  for (auto bad : {"a",
                   "a =",
                   "a = 'b'",
                   "a == b",
                   "a == 'b",
                   "has",
                   "has(",
                   "has()",
                   "has(a",
                   "all(",
                   "(a == 'b'",
                   "a == 'b')",
                   "a == 'b' &&",
                   "&& a == 'b'",
                   "a == 'b' || ",
                   "a in",
                   "a in {",
                   "a in {'b' 'c'}",
                   "a in {b}",
                   "a not 'b'",
                   "!",
                   "a == 'b' a == 'b'",
                   "a\n== 'b'",
                   "a === 'b'",
                   "\xc3\xa4 == 'b'"})
    EXPECT_FALSE(Selector::parse(bad)) << bad;
  EXPECT_NE(Selector::parse("a == b").error().what.find("character 6"), std::string::npos)
      << Selector::parse("a == b").error().what;
}

TEST(Selector, IsBounded) {
  EXPECT_FALSE(Selector::parse(std::string(5000, '(')));
  EXPECT_TRUE(Selector::parse(std::string(60, '(') + "has(a)" + std::string(60, ')')));
  EXPECT_TRUE(Selector::parse(std::string(8000, '!') + "has(a)"));
  EXPECT_FALSE(Selector::parse(std::string(9000, ' ')));
  EXPECT_FALSE(Selector::parse("has(" + std::string(600, 'a') + ")"));
}

TEST(Selector, CanonicalText) {
  EXPECT_EQ(Selector::parse(" a=='1'&&b in {'y','x','y'}||!has( c )")->canonical(),
            R"(((a == "1" && b in {"x", "y"}) || !has(c)))");
  EXPECT_EQ(Selector::parse("a == '\"'")->canonical(), "a == '\"'");
  EXPECT_EQ(Selector::parse("")->canonical(), "all()");
  EXPECT_EQ(Selector::parse("zone == 'x'", "pcns.")->canonical(), R"(pcns.zone == "x")");
  EXPECT_EQ(Selector::parse("!(!(!has(a)))")->canonical(), "!has(a)");
  // What is printed reads back as the same.
  for (auto text : {"!(a == '1' || b != '2') && c starts with 'x'", "a not in {}", "!has(a) || global()"}) {
    const auto s = *Selector::parse(text);
    EXPECT_EQ(Selector::parse(s.canonical())->canonical(), s.canonical());
  }
}

TEST(SelectorIndex, CostFollowsTheChange) {
  std::map<SelectorIndex::SelectorId, std::set<SelectorIndex::ItemId>> seen;
  SelectorIndex index([&](auto s, auto i, bool m) { m ? void(seen[s].insert(i)) : void(seen[s].erase(i)); });
  // 1000 groups with 10 members each, as security groups are.
  for (std::uint32_t g = 0; g < 1000; ++g)
    index.add_selector(g, Selector::both(Selector::label_is("projectcalico.org/namespace", "openstack"),
                                         *Selector::parse(fmt::format("has(sg/{})", g))));
  for (std::uint32_t i = 0; i < 10000; ++i)
    index.set_item(i, {{"projectcalico.org/namespace", "openstack"}, {fmt::format("sg/{}", i % 1000), "x"}});
  EXPECT_EQ(seen[7].size(), 10U);
  EXPECT_EQ(index.items_of(7).size(), 10U);
  const auto before = index.evaluations();
  EXPECT_LE(before, 10000U);
  index.set_item(5, {{"projectcalico.org/namespace", "openstack"}, {"sg/9", "x"}});
  EXPECT_LE(index.evaluations() - before, 3U);
  EXPECT_EQ(seen[5].size(), 9U);
  EXPECT_EQ(seen[9].size(), 11U);
  index.add_selector(5000, *Selector::parse("has(sg/9)"));
  EXPECT_LE(index.evaluations() - before, 16U);
  EXPECT_EQ(seen[5000].size(), 11U);
}

TEST(SelectorIndex, EqualsThePlainProduct) {
  std::mt19937 rng(7);
  const auto pick = [&](int n) { return static_cast<int>(rng() % static_cast<unsigned>(n)); };
  const char* texts[] = {"has(a)",
                         "a == '1'",
                         "a != '1'",
                         "a in {'0','2'}",
                         "has(a) && b == '1'",
                         "has(a) || has(b)",
                         "!has(c)",
                         "a not in {'1'} && has(c)",
                         "all()",
                         "(a == '0' || b == '1') && has(c)",
                         "a in {}",
                         "c contains '1'",
                         "has(a) && has(a)",
                         "has(a) || has(a)"};
  std::map<std::uint32_t, std::set<std::uint32_t>> seen;
  SelectorIndex index([&](auto s, auto i, bool m) {
    if (m)
      EXPECT_TRUE(seen[s].insert(i).second);
    else
      EXPECT_EQ(seen[s].erase(i), 1U);
  });
  std::map<std::uint32_t, Labels> items;
  std::map<std::uint32_t, Selector> selectors;
  std::uint32_t next = 0;
  for (int step = 0; step < 5000; ++step) {
    switch (pick(6)) {
      case 0: {
        const auto id = next++;
        selectors[id] = *Selector::parse(texts[pick(std::size(texts))]);
        index.add_selector(id, selectors[id]);
        break;
      }
      case 1:
        if (!selectors.empty()) {
          auto it = std::next(selectors.begin(), pick(static_cast<int>(selectors.size())));
          index.remove_selector(it->first);
          selectors.erase(it);
        }
        break;
      case 2: {
        const auto id = static_cast<std::uint32_t>(pick(20));
        index.remove_item(id);
        items.erase(id);
        break;
      }
      default: {
        Labels l;
        for (auto name : {"a", "b", "c"})
          if (pick(2)) l[name] = std::to_string(pick(3));
        const auto id = static_cast<std::uint32_t>(pick(20));
        index.set_item(id, l);
        items[id] = l;
      }
    }
  }
  for (const auto& [sid, s] : selectors)
    for (std::uint32_t i = 0; i < 20; ++i)
      EXPECT_EQ(seen[sid].contains(i), items.contains(i) && s.matches(items[i])) << s.canonical() << " item " << i;
  EXPECT_EQ(index.items(), items.size());
  EXPECT_EQ(index.selectors(), selectors.size());
}

}  // namespace
}  // namespace calico::model
