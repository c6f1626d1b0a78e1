#include "core/model/datastore_pointer.hpp"

#include <gtest/gtest.h>

namespace calico::model {
namespace {

TEST(DatastorePointer, ReadsBackWhatItWrites) {
  const DatastorePointer p{3, {"https://10.0.0.1:2379", "https://[fd00::1]:2379"}, "guid-1"};
  for (const bool next : {false, true}) {
    const auto text = to_json(p, next);
    EXPECT_NE(text.find(next ? R"("name":"next")" : R"("name":"default")"), std::string::npos) << text;
    const auto read = parse_datastore_pointer(text);
    ASSERT_TRUE(read) << read.error().what;
    EXPECT_EQ(*read, p);
  }
}

TEST(DatastorePointer, NobodyFollowsWhatIsNoPointer) {
  const auto with = [](std::string_view spec) {
    return fmt::format(R"({{"kind":"DatastorePointer","metadata":{{"name":"default"}},"spec":{}}})", spec);
  };
  EXPECT_TRUE(parse_datastore_pointer(with(R"({"generation":1,"endpoints":["https://a:1"]})")));
  EXPECT_TRUE(parse_datastore_pointer(with(R"({"generation":1,"endpoints":["https://a:1"],"from":["https://b:1"]})")))
      << "as written before 'from' went";
  for (const std::string_view spec :
       {R"({"generation":0,"endpoints":["https://a:1"]})", R"({"generation":1.5,"endpoints":["https://a:1"]})",
        R"({"endpoints":["https://a:1"]})", R"({"generation":1,"endpoints":[]})", R"({"generation":1})",
        R"({"generation":1,"endpoints":["ftp://a"]})", R"({"generation":1,"endpoints":"https://a"})",
        R"({"generation":1e300,"endpoints":["https://a:1"]})", R"([])", R"({"generation":1,"endpoints":[1]})"}) {
    const auto read = parse_datastore_pointer(with(spec));
    ASSERT_FALSE(read) << spec;
    EXPECT_EQ(read.error().code, Errc::invalid);
    EXPECT_LT(read.error().what.size(), 300U);
  }
  std::string many;
  for (int i = 0; i < 17; ++i) many += fmt::format(R"({}"https://a:{}")", i ? "," : "", i + 1);
  EXPECT_FALSE(parse_datastore_pointer(with(R"({"generation":1,"endpoints":[)" + many + "]}")));
  EXPECT_FALSE(
      parse_datastore_pointer(with(R"({"generation":1,"endpoints":["https://)" + std::string(400, 'a') + "\"]}")));
  EXPECT_FALSE(parse_datastore_pointer(R"({"kind":"Node","spec":{"generation":1,"endpoints":["https://a:1"]}})"));
  EXPECT_FALSE(parse_datastore_pointer("nothing"));
}

TEST(DatastoreReport, ReadsBackAndIsBounded) {
  const DatastoreReport r{2, 3, "no way"};
  const auto read = parse_datastore_report(to_json(r));
  ASSERT_TRUE(read) << read.error().what;
  EXPECT_EQ(*read, r);
  EXPECT_EQ(datastore_report_key("", "c-1"), "/calico/felix/v2/no-region/host/c-1/datastore");
  const auto hostile = parse_datastore_report(R"({"generation":1,"error":")" + std::string(10000, 'x') + "\"}");
  ASSERT_TRUE(hostile);
  EXPECT_LT(hostile->error.size(), 600U);
  EXPECT_FALSE(parse_datastore_report(R"({"generation":-1})"));
  EXPECT_FALSE(parse_datastore_report("[]"));
}

}  // namespace
}  // namespace calico::model
