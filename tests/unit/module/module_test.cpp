// The loader against real .so files: one good module and one for each reason to refuse.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/module/context.hpp"
#include "core/module/loader.hpp"
#include "core/module/module.hpp"

namespace calico::module {
namespace {

using testing::HasSubstr;

std::string folder(const std::string& kind) { return std::string(CALICO_BINARY_DIR) + "/test-modules/" + kind; }
Result<Loaded> load_kind(const std::string& kind) { return load(folder(kind) + "/calico-test.so"); }

class FakeContext final : public Context {
 public:
  const std::string& node_name() const override { return text_; }
  const std::string& state_dir() const override { return text_; }
  const std::string& run_dir() const override { return text_; }
  const std::vector<std::string>& roles() const override { return roles_; }
  const config::Config& config() const override { return config_; }
  sync::View& view() override { std::abort(); }
  sync::Report& report() override { std::abort(); }
  store::Datastore& datastore() override { std::abort(); }
  store::Kv* kv() override { return nullptr; }
  bgp::Speaker& speaker() override { std::abort(); }
  Control& control() override { std::abort(); }
  Telemetry& telemetry() override { std::abort(); }
  void ready(std::string_view module) override { ready_ = module; }
  void status(std::string_view, std::string line) override { status_ = std::move(line); }
  void fatal(std::string_view, std::string) override {}
  void fail_create(std::string reason) override { failure_ = std::move(reason); }

  std::string text_ = "x", ready_, status_, failure_;
  std::vector<std::string> roles_;
  config::Config config_;
};

config::Config config_with(const char* colour) {
  auto schema = std::make_shared<config::Schema>();
  auto m = load_kind("module-good");
  EXPECT_TRUE(schema->add({m->table->params, m->table->params_count}));
  return config::Config(schema, {{"test.colour", {colour, "test", 3}}});
}

TEST(Loader, AGoodModuleLivesItsLife) {
  auto m = load_kind("module-good");
  ASSERT_TRUE(m) << m.error().what;
  EXPECT_STREQ(m->table->name, "test");
  FakeContext context;
  auto* object = m->table->create(context);
  ASSERT_NE(object, nullptr);
  EXPECT_FALSE(object->configure(config_with("black")));
  EXPECT_TRUE(object->configure(config_with("green")));
  EXPECT_TRUE(object->start());
  EXPECT_EQ(context.ready_, "test");
  object->stop();
  EXPECT_EQ(context.status_, "stopped");
  m->table->destroy(object);
  ASSERT_EQ(m->table->applets_count, 1U);
  EXPECT_EQ(m->table->applets[0].main(1, nullptr), 0);
}

TEST(Loader, RefusesWithBothValues) {
  const struct {
    const char* kind;
    Errc code;
    const char* text;
  } cases[] = {
      {"module-other-abi", Errc::unsupported, "has abi 999, this calico-node has abi 1"},
      {"module-other-size", Errc::unsupported, "has a table of 1 bytes"},
      {"module-other-build", Errc::unsupported, "was built as 'calico-node 0.0.0 another compiler'"},
      {"module-other-name", Errc::invalid, "calls itself 'felix'"},
      {"module-no-symbol", Errc::unsupported, "exports no calico_module"},
  };
  for (const auto& c : cases) {
    auto m = load_kind(c.kind);
    ASSERT_FALSE(m) << c.kind;
    EXPECT_EQ(m.error().code, c.code) << c.kind;
    EXPECT_THAT(m.error().what, HasSubstr(c.text)) << c.kind;
  }
  EXPECT_EQ(load("/no/such/calico-x.so").error().code, Errc::not_found);
  EXPECT_EQ(load("/proc/self/exe").error().code, Errc::unsupported);
}

TEST(Loader, CreateLeavesItsReason) {
  auto m = load_kind("module-create-fails");
  ASSERT_TRUE(m) << m.error().what;
  FakeContext context;
  EXPECT_EQ(m->table->create(context), nullptr);
  EXPECT_EQ(context.failure_, "the kernel lacks a thing");
}

TEST(Loader, AScanNamesWhatItRefuses) {
  const auto good = scan(folder("module-good"));
  ASSERT_EQ(good.modules.size(), 1U);
  EXPECT_TRUE(good.refused.empty());
  const auto bad = scan(folder("module-other-abi"));
  EXPECT_TRUE(bad.modules.empty());
  ASSERT_EQ(bad.refused.size(), 1U);
  EXPECT_TRUE(scan("/no/such/folder").modules.empty());
}

}  // namespace
}  // namespace calico::module
