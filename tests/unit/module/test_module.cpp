// The smallest module there is; compile-time switches make it wrong in one way at a time.
#include <iterator>

#include "core/module/abi.hpp"
#include "core/module/context.hpp"
#include "core/module/module.hpp"

#ifndef TEST_ABI
#define TEST_ABI calico::module::kModuleAbi
#endif
#ifndef TEST_SIZE
#define TEST_SIZE sizeof(calico_module_v1)
#endif
#ifndef TEST_BUILD
#define TEST_BUILD CALICO_MODULE_BUILD
#endif
#ifndef TEST_NAME
#define TEST_NAME "test"
#endif

namespace {

class TestModule final : public calico::module::Module {
 public:
  explicit TestModule(calico::module::Context& context) : context_(context) {}
  calico::Status configure(const calico::config::Config& config) override {
    if (config.text("test.colour") == "black") return calico::fail(calico::Errc::invalid, "black is no colour");
    return {};
  }
  calico::Status start() override {
    context_.ready("test");
    return {};
  }
  calico::Status reconfigure(const calico::config::Config& config) override { return configure(config); }
  void stop() override { context_.status("test", "stopped"); }

 private:
  calico::module::Context& context_;
};

[[maybe_unused]] constexpr calico::config::Param kParams[] = {
    {.name = "test.colour", .range = "red|green|black", .def = "red", .help = "A colour."}};

int applet(int argc, char**) { return argc == 1 ? 0 : 1; }
[[maybe_unused]] constexpr calico::module::Applet kApplets[] = {{"test-applet", "says how it was called", applet}};

[[maybe_unused]] calico::module::Module* create(calico::module::Context& context) noexcept {
#ifdef TEST_CREATE_FAILS
  context.fail_create("the kernel lacks a thing");
  return nullptr;
#else
  return new TestModule(context);
#endif
}
[[maybe_unused]] void destroy(calico::module::Module* m) noexcept { delete m; }

}  // namespace

#ifndef TEST_NO_SYMBOL
extern "C" CALICO_MODULE_EXPORT const calico_module_v1 calico_module = {
    .abi = TEST_ABI,
    .size = TEST_SIZE,
    .build = TEST_BUILD,
    .name = TEST_NAME,
    .help = "a module for tests",
    .params = kParams,
    .params_count = std::size(kParams),
    .applets = kApplets,
    .applets_count = std::size(kApplets),
    .check = nullptr,
    .create = create,
    .destroy = destroy,
};
#endif
