// Role route-reflector: the host's BGP speaker as a reflector (RFC 4456). All of it is core/bgp; this gives it a role.
#include "core/module/module.hpp"
#include "core/bgp/speaker.hpp"
#include "core/module/abi.hpp"
#include "core/module/context.hpp"

#ifndef CALICO_MODULE_SYMBOL
#define CALICO_MODULE_SYMBOL calico_module
#endif

namespace calico::route_reflector {
namespace {

class RouteReflectorModule final : public module::Module {
 public:
  explicit RouteReflectorModule(module::Context& context) : context_(context) {}

  Status configure(const config::Config&) override { return {}; }

  Status start() override {
    if (auto ok = context_.speaker().start(); !ok) return wrap(ok.error(), "bgp");
    started_ = true;
    context_.ready("route_reflector");
    return {};
  }

  Status reconfigure(const config::Config& config) override { return context_.speaker().reconfigure(config); }

  void stop() override {
    if (started_) context_.speaker().stop();
    started_ = false;
  }

 private:
  module::Context& context_;
  bool started_ = false;
};

module::Module* create(module::Context& context) noexcept { return new RouteReflectorModule(context); }
void destroy(module::Module* m) noexcept { delete m; }

}  // namespace
}  // namespace calico::route_reflector

extern "C" CALICO_MODULE_EXPORT const calico_module_v1 CALICO_MODULE_SYMBOL = {
    .abi = calico::module::kModuleAbi,
    .size = sizeof(calico_module_v1),
    .build = CALICO_MODULE_BUILD,
    .name = "route_reflector",
    .help = "reflects routes between the hosts",
    .params = nullptr,
    .params_count = 0,
    .applets = nullptr,
    .applets_count = 0,
    .check = nullptr,
    .create = calico::route_reflector::create,
    .destroy = calico::route_reflector::destroy,
};
