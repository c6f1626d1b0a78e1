// Role compute, beside felix: the host's BGP speaker and DHCP.
#include <memory>
#include <optional>

#include "core/bgp/speaker.hpp"
#include "core/module/abi.hpp"
#include "core/module/context.hpp"
#include "core/module/module.hpp"
#include "modules/compute/dhcp.hpp"

#ifndef CALICO_MODULE_SYMBOL
#define CALICO_MODULE_SYMBOL calico_module
#endif

namespace calico::compute {
namespace {

class ComputeModule final : public module::Module {
 public:
  explicit ComputeModule(module::Context& context) : context_(context) {}

  Status configure(const config::Config& config) override {
    region_ = config.text("openstack.region");
    return {};
  }

  Status start() override {
    if (auto ok = context_.speaker().start(); !ok) return wrap(ok.error(), "bgp");
    speaker_started_ = true;
    Dhcp::Options options;
    options.node = context_.node_name();
    options.region = region_;
    options.directory = context_.run_dir() + "/dhcp";
    Dhcp::Hooks hooks;
    hooks.ready = [this] { context_.ready("compute"); };
    hooks.status = [this](std::string line) { context_.status("compute", std::move(line)); };
    dhcp_.emplace(std::move(options), context_.view(), std::move(hooks));
    if (auto ok = dhcp_->start(); !ok) return ok;
    context_.control().handle("GET /dhcp", [this](const module::ControlRequest&) {
      return module::ControlReply{200, dhcp_->describe()};
    });
    return {};
  }

  Status reconfigure(const config::Config& config) override { return context_.speaker().reconfigure(config); }

  void stop() override {
    if (dhcp_) dhcp_->stop();
    if (speaker_started_) context_.speaker().stop();
    speaker_started_ = false;
  }

 private:
  module::Context& context_;
  std::optional<Dhcp> dhcp_;
  std::string region_;
  bool speaker_started_ = false;
};

module::Module* create(module::Context& context) noexcept { return new ComputeModule(context); }
void destroy(module::Module* m) noexcept { delete m; }

}  // namespace
}  // namespace calico::compute

extern "C" CALICO_MODULE_EXPORT const calico_module_v1 CALICO_MODULE_SYMBOL = {
    .abi = calico::module::kModuleAbi,
    .size = sizeof(calico_module_v1),
    .build = CALICO_MODULE_BUILD,
    .name = "compute",
    .help = "BGP and DHCP of a host with VMs",
    .params = nullptr,
    .params_count = 0,
    .applets = nullptr,
    .applets_count = 0,
    .check = nullptr,
    .create = calico::compute::create,
    .destroy = calico::compute::destroy,
};
