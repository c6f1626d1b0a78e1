// Whose FelixConfiguration counts on a node, and which value of several.
#include "modules/felix/configurations.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/config/load.hpp"
#include "modules/felix/settings.hpp"

namespace calico::felix {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::string document(const std::string& spec, const std::string& made = "") {
  return fmt::format(R"({{"metadata":{{"creationTimestamp":"{}"}},"spec":{{{}}}}})", made, spec);
}

struct Rig {
  Configurations c{"h"};
  std::vector<std::string> ignored;
  config::Config files;
  explicit Rig(std::vector<std::string> sets = {}) : files(load(std::move(sets))) {}

  static config::Config load(std::vector<std::string> sets) {
    auto s = std::make_shared<config::Schema>();
    EXPECT_TRUE(s->add(config::core_params()));
    EXPECT_TRUE(s->add(params()));
    sets.push_back("node.felix_cfg=");
    return config::load(s, {.files = {"/dev/null"}, .sets = sets, .environment = {}, .host_name = "h"}).config;
  }
  bool put(const std::string& name, const std::string& json) {
    const auto r = c.update(name, json);
    EXPECT_TRUE(r) << r.error().what;
    return r && *r;
  }
  /// metadata_port as it comes out, and where from.
  std::string port() {
    ignored.clear();
    const auto now = c.over(files, ignored);
    return fmt::format("{} {}", settings_of(now).metadata_port, now.where("felix.metadata_port"));
  }
};

std::string port(int n) { return fmt::format(R"("metadataPort":{})", n); }
std::string on(const std::string& selector) { return fmt::format(R"("nodeSelector":"{}",)", selector); }

TEST(FelixConfigurations, DefaultThenSelectedThenNode) {
  Rig r;
  EXPECT_TRUE(r.put("default", document(port(1))));
  EXPECT_EQ(r.port(), "1 FelixConfiguration default");
  EXPECT_TRUE(r.put("gpu", document(on("rack == 'r1'") + port(2))));
  EXPECT_EQ(r.port(), "1 FelixConfiguration default") << "no label yet";
  EXPECT_TRUE(r.c.set_labels({{"rack", "r1"}}));
  EXPECT_EQ(r.port(), "2 FelixConfiguration gpu");
  EXPECT_FALSE(r.c.set_labels({{"rack", "r1"}})) << "nothing new";
  EXPECT_TRUE(r.put("node.h", document(port(3))));
  EXPECT_EQ(r.port(), "3 FelixConfiguration node.h");
  EXPECT_FALSE(r.put("node.other", document(port(4))));
  EXPECT_EQ(r.port(), "3 FelixConfiguration node.h");
  EXPECT_TRUE(*r.c.update("node.h", std::nullopt));
  EXPECT_EQ(r.port(), "2 FelixConfiguration gpu");
  EXPECT_TRUE(r.c.set_labels({{"rack", "r2"}}));
  EXPECT_EQ(r.port(), "1 FelixConfiguration default");
  EXPECT_THAT(r.ignored, IsEmpty());
  EXPECT_TRUE(r.c.set_labels({{"rack", "r1"}}));
  EXPECT_TRUE(*r.c.update("gpu", std::nullopt));
  EXPECT_FALSE(*r.c.update("gpu", std::nullopt));
  EXPECT_EQ(r.port(), "1 FelixConfiguration default");
}

TEST(FelixConfigurations, AFileLiesAboveAllOfThem) {
  Rig r({"felix.metadata_port=9"});
  r.put("gpu", document(on("all()") + port(2)));
  r.put("default", document(port(1)));
  EXPECT_THAT(r.port(), HasSubstr("9 "));
}

TEST(FelixConfigurations, OfSeveralTheOldest) {
  Rig r;
  r.put("a", document(on("all()") + port(1), "2026-03-04T09:00:02Z"));
  r.put("b", document(on("all()") + port(2), "2026-03-04T09:00:01Z"));
  r.put("c", document(on("all()") + port(3)));  // does not say: the youngest
  r.put("z", document(on("has(nothing)") + port(4), "2020-01-01T00:00:00Z"));
  EXPECT_EQ(r.port(), "2 FelixConfiguration b");
  EXPECT_THAT(r.ignored, ElementsAre("FelixConfiguration a: its nodeSelector matches here, but b is older",
                                     "FelixConfiguration c: its nodeSelector matches here, but b is older"));
  EXPECT_TRUE(*r.c.update("b", std::nullopt));
  EXPECT_EQ(r.port(), "1 FelixConfiguration a");
  r.put("0", document(on("all()") + port(5), "2026-03-04T09:00:02Z"));
  EXPECT_EQ(r.port(), "5 FelixConfiguration 0") << "as old: by name";
}

TEST(FelixConfigurations, WhatCannotBeObeyedIsSaid) {
  Rig r;
  r.put("default", document(on("all()") + port(1)));
  EXPECT_EQ(r.port(), "1 FelixConfiguration default");
  EXPECT_THAT(r.ignored, ElementsAre(HasSubstr("default: nodeSelector counts under other names only")));
  r.put("default", document(port(1)));
  r.put("bad", document(on("rack ==") + port(2)));
  EXPECT_EQ(r.port(), "1 FelixConfiguration default") << "a typo is no all()";
  EXPECT_THAT(r.ignored, ElementsAre(HasSubstr("FelixConfiguration bad: nodeSelector: ")));
  EXPECT_FALSE(r.put("nobody", document(port(2)))) << "no selector: nobody";
  EXPECT_FALSE(r.put("nobody", document(on("") + port(2))));
  r.put("good", document(on("all()") + port(3)));
  EXPECT_FALSE(r.c.update("good", "not even JSON"));
  EXPECT_EQ(r.port(), "3 FelixConfiguration good") << "the former value stays";
  r.put("good", document(on("all()") + R"("metadataPort":99999,"frobnicate":1)"));
  EXPECT_EQ(r.port(), "1 FelixConfiguration default");
  EXPECT_THAT(r.ignored, testing::Contains(HasSubstr("FelixConfiguration good: MetadataPort is ignored")));
  // Lists are no values: the reason is said.
  r.put("good",
        document(on("all()") + R"("healthTimeoutOverrides":[{"name":"InternalDataplaneMainLoop","timeout":"5m"}])"));
  (void)r.port();
  EXPECT_THAT(r.ignored, testing::Contains(HasSubstr("DataplaneWatchdogTimeout its time-out")));
}

}  // namespace
}  // namespace calico::felix
