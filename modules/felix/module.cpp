// The module felix: roles compute and felix, applets guard and cleanup.
#include <memory>
#include <optional>

#include "core/module/abi.hpp"
#include "core/module/context.hpp"
#include "core/module/module.hpp"
#include "modules/felix/cleanup.hpp"
#include "modules/felix/engine.hpp"
#include "modules/felix/guard.hpp"
#include "modules/felix/settings.hpp"

#ifndef CALICO_MODULE_SYMBOL
#define CALICO_MODULE_SYMBOL calico_module
#endif

namespace calico::felix {
namespace {

class FelixModule final : public module::Module {
 public:
  explicit FelixModule(module::Context& context) : context_(context) {}

  Status configure(const config::Config& config) override {
    Engine::Hooks hooks;
    hooks.ready = [this] { context_.ready("felix"); };
    hooks.status = [this](std::string line) { context_.status("felix", std::move(line)); };
    hooks.fatal = [this](std::string reason) { context_.fatal("felix", std::move(reason)); };
    hooks.metrics = &context_.telemetry().metrics();
    hooks.health = &context_.telemetry().health();
    hooks.configured = [this](const Settings& s) {
      auto& telemetry = context_.telemetry();
      telemetry.health().set_patience("felix", s.watchdog_timeout);
      std::vector<module::Telemetry::Listen> places;
      if (s.health_at) places.push_back({.at = *s.health_at, .metrics = false});
      if (s.metrics_at) places.push_back({.at = *s.metrics_at, .metrics = true});
      telemetry.serve("felix", std::move(places));
    };
    engine_.emplace(context_.node_name(), config, context_.view(), context_.report(), std::move(hooks));
    return {};
  }

  Status start() override {
    if (auto ok = engine_->start(); !ok) return ok;
    context_.control().handle("GET /felix/endpoints", [this](const module::ControlRequest&) {
      return module::ControlReply{200, engine_->endpoints_json()};
    });
    return {};
  }

  Status reconfigure(const config::Config& config) override {
    engine_->reconfigure(config);
    return {};
  }

  void stop() override {
    if (engine_) engine_->stop();
  }

 private:
  module::Context& context_;
  std::optional<Engine> engine_;
};

module::Module* create(module::Context& context) noexcept { return new FelixModule(context); }
void destroy(module::Module* m) noexcept { delete m; }

constexpr module::Applet kApplets[] = {
    {"guard", "loads the boot guard; does nothing when felix's table exists", guard_main},
    {"cleanup", "removes from the kernel all and only what is ours; refuses while a calico-node runs", cleanup_main},
};

}  // namespace
}  // namespace calico::felix

namespace {
const auto kParams = calico::felix::params();
}

extern "C" CALICO_MODULE_EXPORT const calico_module_v1 CALICO_MODULE_SYMBOL = {
    .abi = calico::module::kModuleAbi,
    .size = sizeof(calico_module_v1),
    .build = CALICO_MODULE_BUILD,
    .name = "felix",
    .help = "policy, routes and status of this host's endpoints",
    .params = kParams.data(),
    .params_count = kParams.size(),
    .applets = calico::felix::kApplets,
    .applets_count = std::size(calico::felix::kApplets),
    .check = calico::felix::check,
    .create = calico::felix::create,
    .destroy = calico::felix::destroy,
};
