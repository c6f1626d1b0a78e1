#include "core/resources/yaml.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <random>

#include "tests/support/fixtures.hpp"

namespace calico::resources {
namespace {

namespace json = boost::json;
using testing::HasSubstr;
using testing::StartsWith;

std::string as_json(std::string_view yaml) {
  auto docs = read_yaml(yaml);
  if (!docs) return "! " + docs.error().what;
  std::string out;
  for (const auto& d : *docs) out += (out.empty() ? "" : " | ") + json::serialize(d.value);
  return out;
}

TEST(Yaml, ScalarsMeanWhatTheCoreSchemaSays) {
  const struct {
    const char* yaml;
    const char* expected;
  } cases[] = {
      {"a: 1", R"({"a":1})"},
      {"a: -12", R"({"a":-12})"},
      {"a: +5", R"({"a":5})"},
      {"a: 18446744073709551615", R"({"a":18446744073709551615})"},
      {"a: 1.5", R"({"a":1.5E0})"},
      {"a: 1.10", R"({"a":1.1E0})"},
      {"a: '1.10'", R"({"a":"1.10"})"},
      {"a: true", R"({"a":true})"},
      {"a: FALSE", R"({"a":false})"},
      {"a: \"true\"", R"({"a":"true"})"},
      {"a: ~", R"({"a":null})"},
      {"a:", R"({"a":null})"},
      {"a: null", R"({"a":null})"},
      {"a: 'null'", R"({"a":"null"})"},
      {"a: 6000:6100", R"({"a":"6000:6100"})"},
      {"a: 22:23", R"({"a":"22:23"})"},
      {"a: [22:23, 80]", R"({"a":["22:23",80]})"},
      {"a: 10.0.0.0/8", R"({"a":"10.0.0.0/8"})"},
      {"a: 2026-03-04T09:15:02Z", R"({"a":"2026-03-04T09:15:02Z"})"},
      {"a: fe80::1", R"({"a":"fe80::1"})"},
      {"a: has(x) && y == 'z'", R"({"a":"has(x) && y == 'z'"})"},
      {"a: !!str 12", R"({"a":"12"})"},
      {"a: |\n  x\n  y\n", R"({"a":"x\ny\n"})"},
      {"80: x", R"({"80":"x"})"},
      {"yes: x", R"({"yes":"x"})"},
      {"- a\n- [b, {c: d}]", R"(["a",["b",{"c":"d"}]])"},
      {"a: 1\n---\nb: 2\n", R"({"a":1} | {"b":2})"},
      {"---\n# nothing\n---\nb: 2\n...\n", R"(null | {"b":2})"},
      {R"({"a": "é\n\/", "b": [1, 2.5, null], "c": {}})", "{\"a\":\"é\\n/\",\"b\":[1,2.5E0,null],\"c\":{}}"},
      {"{\n\t\"a\": 1,\n\t\"b\": [\n\t\t2\n\t]\n}\n", R"({"a":1,"b":[2]})"},
      {"\xef\xbb\xbf{\"a\":1}", R"({"a":1})"},
      {"a: &x {b: 1}\nc: *x", R"({"a":{"b":1},"c":{"b":1}})"},
      {"", ""},
      {"# only words\n", ""},
  };
  for (const auto& c : cases) EXPECT_EQ(as_json(c.yaml), c.expected) << c.yaml;
}

TEST(Yaml, WhatReadersDisagreeAboutIsRefusedWithTheLine) {
  const struct {
    const char* yaml;
    const char* line;
    const char* text;
  } cases[] = {
      {"a: 1\nb: yes", "line 2: ", "write true, or \"yes\" for text"},
      {"b: No", "line 1: ", "write false"},
      {"b: on", "line 1: ", "true or false to some"},
      {"b: 0777", "line 1: ", "different number"},
      {"b: 010", "line 1: ", "different number"},
      {"b: 0x1f", "line 1: ", "different number"},
      {"b: 0o17", "line 1: ", "different number"},
      {"b: 1_000", "line 1: ", "different number"},
      {"b: .inf", "line 1: ", "no number that JSON has"},
      {"b: 1e999", "line 1: ", "cannot be kept"},
      {"b: 99999999999999999999", "line 1: ", "too large"},
      {"a: &x {b: 1}\nc:\n  <<: *x", "line 3: ", "merge key"},
      {"b: !!binary aGk=", "line 1: ", "the tag"},
      {"a: \"\\N\"", "line 1: ", "write \\u0085"},
      {"\"\\_\": b", "line 1: ", "write \\u0085"},
      {"b: !mine x", "line 1: ", "the tag"},
      {"a: 1\nb: 2\na: 3", "line 3: ", "'a' is given twice"},
      {"{\"a\": 1,\n \"a\": 2}", "line 2: ", "'a' is given twice"},
      {"? [a]\n: b", "line 1: ", "a key must be text"},
      {"? {a: b}\n: b", "line 1: ", "a key must be text"},
      {"~: b", "line 1: ", "a key must be text"},
      {"a: &x [*x]", "line 1: ", "alias inside what it names"},
      {"a: *nobody", "line 1: ", "not YAML"},
      {"a:\n\t- b", "line 2: ", "a tab in the indentation"},
      {"a: [1, 2", "line ", "not YAML"},
      {"a: 1\n b: 2", "line 2: ", "not YAML"},
      {"a: \"\\ud83d\"", "line 1: ", "not YAML"},
  };
  for (const auto& c : cases) {
    const auto got = as_json(c.yaml);
    EXPECT_THAT(got, StartsWith(std::string("! ") + c.line)) << c.yaml;
    EXPECT_THAT(got, HasSubstr(c.text)) << c.yaml;
    EXPECT_EQ(got.find('\n'), std::string::npos) << c.yaml;
  }
}

TEST(Yaml, BytesThatAreNoTextAreRefused) {
  using namespace std::string_literals;
  EXPECT_THAT(as_json("a: 1\nb: \xff"), HasSubstr("line 2: byte 0xff is not UTF-8"));
  EXPECT_THAT(as_json("a: \xc0\xaf"), HasSubstr("is not UTF-8"));
  EXPECT_THAT(as_json("a: \xed\xa0\x80"), HasSubstr("is not UTF-8")) << "a surrogate";
  EXPECT_THAT(as_json("a: b\0c"s), HasSubstr("control character 0x00"));
  EXPECT_THAT(as_json("a: 1\n\x04\nb: 2"s), HasSubstr("line 2: the control character 0x04"))
      << "yaml-cpp would end the file here in silence";
  EXPECT_THAT(as_json("\xff\xfe"
                      "a\0:\0"s),
              HasSubstr("is not UTF-8"));
}

TEST(Yaml, EverythingIsBounded) {
  EXPECT_THAT(as_json(std::string(kMaxYaml + 1, ' ')), HasSubstr("at most"));
  std::string deep;
  for (int i = 0; i < 33; ++i) deep += "[";
  EXPECT_THAT(as_json(deep + std::string(33, ']')), HasSubstr("more than 32 levels"));
  EXPECT_EQ(as_json(deep.substr(1) + std::string(32, ']')), deep.substr(1) + std::string(32, ']'));
  EXPECT_THAT(as_json(std::string(4000, '[')), StartsWith("! line 1: "));
  EXPECT_THAT(as_json(std::string(200000, '[')), HasSubstr("more than 4096 brackets"));
  std::string dashes;
  for (int i = 0; i < 1000; ++i) dashes += "- ";
  EXPECT_THAT(as_json(dashes), HasSubstr("more than 32 levels"));

  // Nine levels of ten: a billion values if they were copied.
  std::string bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n";
  for (char c = 'b'; c <= 'j'; ++c) {
    bomb += std::string(1, c) + ": &" + c + " [";
    for (int i = 0; i < 10; ++i) bomb += std::string(i ? ",*" : "*") + static_cast<char>(c - 1);
    bomb += "]\n";
  }
  EXPECT_THAT(as_json(bomb), HasSubstr("1 MiB"));
  const auto big = "a: &a \"" + std::string(600000, 'x') + "\"\nb: [*a, *a]\n";
  EXPECT_THAT(as_json(big), HasSubstr("aliases repeat more than 1 MiB"));

  std::string many;
  for (int i = 0; i < 10001; ++i) many += "--- 1\n";
  EXPECT_THAT(as_json(many), HasSubstr("more than 10000 documents"));
  std::string values = "[";
  for (int i = 0; i < 1000000; ++i) values += "1,";
  EXPECT_THAT(as_json(values + "1]"), HasSubstr("more than 1000000 values"));
}

TEST(Yaml, KnowsTheLineOfEachValue) {
  const auto docs = read_yaml(
      "kind: X\n"                   // 1
      "metadata:\n"                 // 2
      "  labels:\n"                 // 3
      "    a.b/c: d\n"              // 4
      "    a: e\n"                  // 5
      "spec:\n"                     // 6
      "  ingress:\n"                // 7
      "  - action: Allow\n"         // 8
      "    source:\n"               // 9
      "      nets: [10.0.0.0/8,\n"  // 10
      "             11.0.0.0/8]\n"  // 11
      "  - action: Deny\n"          // 12
      "---\n"
      "kind: Z\n");  // 14
  ASSERT_TRUE(docs) << docs.error().what;
  const struct {
    const char* path;
    unsigned line;
  } cases[] = {{"", 1},
               {"kind", 1},
               {"metadata", 2},
               {"metadata.labels", 3},
               {"metadata.labels.a.b/c", 4},
               {"metadata.labels.a", 5},
               {"metadata.labels.nosuch", 3},
               {"spec.ingress", 7},
               {"spec.ingress[0]", 8},
               {"spec.ingress[0].action", 8},
               {"spec.ingress[0].source.nets", 10},
               {"spec.ingress[0].source.nets[1]", 11},
               {"spec.ingress[1].action", 12},
               {"spec.ingress[1].source.nets", 12},
               {"spec.ingress[7]", 7},
               {"spec.ingress[", 7},
               {"nosuch", 1}};
  for (const auto& c : cases) EXPECT_EQ(line_of(docs->at(0), c.path), c.line) << c.path;
  EXPECT_EQ(line_of(docs->at(1), "kind"), 14U);
}

/// Whatever is written is read back as it was, and by a reader of YAML 1.1 too (quotes).
TEST(Yaml, WhatIsWrittenReadsBack) {
  const char* values[] = {
      R"({"kind":"X","list":[],"map":{},"null":null,"t":true,"n":-1,"d":1.5,"whole":2.0,"big":18446744073709551615})",
      R"({"a":[[1,2],[],[{"b":[{"c":1,"d":2}]}]],"e":{"f":{"g":[1]}}})",
      R"(["yes","no","on","0777","1.10","null","~","true","","-","- a","a: b","#c","a #c"," a","a ","é","\u0085\u2028","\u0000\u0007","'","\"","\\","x\ny\n","\t","<<","=","!a","&a","*a","%a","@a","`a","22:23","2026-03-04","0x1","1_0",".5","y"])",
      R"({"yes":"no","80":80,"a b":{"":"x"},"<<":1,"null":1,"a:":2})",
      R"("text")",
      R"([])",
      R"({})",
      R"(12)",
      R"(1e300)",
      R"(-0.0)"};
  for (const char* text : values) {
    const auto v = json::parse(text);
    const auto yaml = to_yaml(v);
    const auto back = read_yaml(yaml);
    ASSERT_TRUE(back) << text << "\n" << yaml << back.error().what;
    ASSERT_EQ(back->size(), 1U) << yaml;
    EXPECT_EQ(back->at(0).value, v) << yaml;
    EXPECT_EQ(json::parse(to_pretty_json(v)), v) << text;
    const auto from_json = read_yaml(to_pretty_json(v));
    ASSERT_TRUE(from_json) << text << from_json.error().what;
    EXPECT_EQ(from_json->at(0).value, v) << text;
  }
  for (const auto& [key, value] : test::openstack_snapshot()) {
    json::error_code ec;
    const auto v = json::parse(value, ec);
    if (ec || !v.is_object()) continue;
    const auto back = read_yaml(to_yaml(v));
    ASSERT_TRUE(back) << key << ": " << back.error().what;
    EXPECT_EQ(back->at(0).value, v) << key;
  }
}

json::value random_value(std::mt19937& r, int depth) {
  const auto text = [&] {
    static const char* pieces[] = {"a", ":", " ", "-", "\n", "#", "'", "\"", "\\",   "é",   "0",    "1",           ".",
                                   "{", "[", ",", "&", "*",  "!", "%", "\t", "null", "yes", "\x7f", "\xe2\x80\xa8"};
    std::string out;
    for (auto n = r() % 8; n > 0; --n) out += pieces[r() % std::size(pieces)];
    return out;
  };
  switch (r() % (depth > 4 ? 6 : 8)) {
    case 0:
      return nullptr;
    case 1:
      return r() % 2 == 0;
    case 2:
      return static_cast<std::int64_t>(r()) - 2000000000;
    case 3:
      return static_cast<double>(r()) / 1024.0;
    case 4:
    case 5:
      return json::value(text());
    case 6: {
      json::array a;
      for (auto n = r() % 4; n > 0; --n) a.push_back(random_value(r, depth + 1));
      return a;
    }
    default: {
      json::object o;
      for (auto n = r() % 4; n > 0; --n) o[text()] = random_value(r, depth + 1);
      return o;
    }
  }
}

TEST(Yaml, RandomValuesReadBack) {
  std::mt19937 r(7);
  for (int i = 0; i < 3000; ++i) {
    const auto v = random_value(r, 0);
    const auto yaml = to_yaml(v);
    const auto back = read_yaml(yaml);
    ASSERT_TRUE(back) << back.error().what << "\n" << yaml;
    ASSERT_TRUE(same_value(back->at(0).value, v) && back->at(0).value == v) << yaml;
  }
}

TEST(Yaml, SameValueForgivesOrderNullAndTheKindOfANumber) {
  const auto same = [](const char* a, const char* b) {
    const bool one = same_value(json::parse(a), json::parse(b));
    EXPECT_EQ(one, same_value(json::parse(b), json::parse(a))) << a << b;
    return one;
  };
  EXPECT_TRUE(same(R"({"a":1,"b":2})", R"({"b":2.0,"a":1})"));
  EXPECT_TRUE(same(R"({"a":1,"b":null})", R"({"a":1})"));
  EXPECT_FALSE(same(R"({"a":1,"b":2})", R"({"a":1})"));
  EXPECT_FALSE(same(R"({"a":1,"b":2})", R"({"a":1,"c":2})"));
  EXPECT_FALSE(same(R"([1,2])", R"([2,1])"));
  EXPECT_FALSE(same(R"([1])", R"([1,1])"));
  EXPECT_FALSE(same(R"({"a":"1"})", R"({"a":1})"));
  EXPECT_FALSE(same(R"(-1)", R"(18446744073709551615)"));
  EXPECT_TRUE(same(R"(1E2)", R"(100)"));
}

}  // namespace
}  // namespace calico::resources
