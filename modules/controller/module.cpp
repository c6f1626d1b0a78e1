// Role controller: the Neutron API over the embedded datastore.
#include <fmt/format.h>

#include <iterator>
#include <memory>

#include "core/log/log.hpp"
#include "core/module/abi.hpp"
#include "core/module/context.hpp"
#include "core/module/module.hpp"
#include "modules/controller/service.hpp"

#ifndef CALICO_MODULE_SYMBOL
#define CALICO_MODULE_SYMBOL calico_module
#endif

namespace calico::controller {
namespace {

using config::Param;
using config::Reload;
using config::Type;

constexpr Param kParams[] = {
    {.name = "controller.api_listen",
     .type = Type::ip_port,
     .def = "127.0.0.1:9696",
     .help = "Where the embedded Neutron API listens; empty = off (a real Neutron is used). Beyond loopback it needs "
             "tokens_file, cert_file and key_file, or insecure = yes. Needs the embedded datastore."},
    {.name = "controller.tokens_file",
     .type = Type::secret_file,
     .reload = Reload::live,
     .help = "Who may use the API: lines TOKEN [PROJECT] [admin] [name=PROJECT-NAME] [parent=PARENT-ID], sent as "
             "X-Auth-Token; not readable by others. Empty = everybody who reaches the listener is an administrator."},
    {.name = "controller.cert_file", .type = Type::path, .help = "Certificate of the API's TLS."},
    {.name = "controller.key_file", .type = Type::secret_file, .help = "Its key."},
    {.name = "controller.ca_file",
     .type = Type::path,
     .help = "When set, clients of the API must show a certificate signed by this CA."},
    {.name = "controller.insecure",
     .type = Type::boolean,
     .def = "no",
     .help = "Serve the API beyond loopback without tokens or TLS. Everybody who reaches it owns the cloud."},
};

bool api_wanted(const config::Config& c) {
  return c.is_set("controller.api_listen") && !c.is_set("datastore.endpoints");
}

void check(const config::Config& c, config::Faults& faults) {
  auto fault = [&](std::string_view name, std::string what) {
    faults.push_back({c.where(name), std::string(name), std::move(what)});
  };
  bool cert = c.is_set("controller.cert_file");
  bool key = c.is_set("controller.key_file");
  if (cert != key)
    fault(cert ? "controller.key_file" : "controller.cert_file", "missing; TLS needs cert_file and key_file");
  if (c.is_set("controller.ca_file") && !(cert && key))
    fault("controller.ca_file", "client certificates need TLS: set cert_file and key_file too");
  if (!api_wanted(c)) return;
  auto listen = c.ip_port("controller.api_listen");
  bool guarded = c.is_set("controller.tokens_file") && cert && key;
  if (listen && !listen->ip.is_loopback() && !guarded && !c.boolean("controller.insecure"))
    fault("controller.api_listen",
          fmt::format("{} is beyond loopback: set tokens_file, cert_file and key_file, or insecure = yes",
                      listen->to_string()));
}

class ControllerModule final : public module::Module {
 public:
  explicit ControllerModule(module::Context& context) : context_(context) {}

  Status configure(const config::Config& config) override {
    options_.kv = context_.embedded();
    // Elsewhere since `store move`: our own file still has the API's rows.
    options_.remote = options_.kv && !context_.kv() ? &context_.datastore() : nullptr;
    options_.database = context_.state_dir() + "/state.db";
    options_.region = config.text("openstack.region");
    if (api_wanted(config) && options_.kv) {
      auto listen = *config.ip_port("controller.api_listen");
      http::Endpoint at;
      at.tls = config.is_set("controller.cert_file");
      at.host = listen.ip.to_string();
      at.port = listen.port;
      options_.listen = at;
      options_.tls = {.ca_file = config.text("controller.ca_file"),
                      .cert_file = config.text("controller.cert_file"),
                      .key_file = config.text("controller.key_file")};
    }
    auto tokens = read_tokens(config);
    if (!tokens) return wrap(tokens.error(), "[controller] tokens_file");
    options_.tokens = std::move(*tokens);
    return {};
  }

  Status start() override {
    if (!options_.kv) {
      log::info("controller.api_off", "reason", "[datastore] endpoints names another datastore; Neutron writes to it");
      context_.status("controller", "no API: another datastore is used");
      context_.ready("controller");
      return {};
    }
    ServiceHooks hooks;
    hooks.ready = [this] { context_.ready("controller"); };
    hooks.status = [this](std::string line) { context_.status("controller", std::move(line)); };
    hooks.fatal = [this](std::string reason) { context_.fatal("controller", std::move(reason)); };
    service_ = std::make_unique<Service>(options_, std::move(hooks));
    if (auto s = service_->start(); !s) return s;
    context_.control().handle("GET /controller", [this](const module::ControlRequest&) {
      return module::ControlReply{200, service_->describe()};
    });
    return {};
  }

  Status reconfigure(const config::Config& config) override {
    if (!service_) return {};
    auto tokens = read_tokens(config);
    if (!tokens) return wrap(tokens.error(), "[controller] tokens_file");
    service_->use_tokens(std::move(*tokens));
    return {};
  }

  void stop() override {
    if (service_) service_->stop();
  }

 private:
  static Result<std::optional<Tokens>> read_tokens(const config::Config& config) {
    if (!config.is_set("controller.tokens_file")) return std::optional<Tokens>();
    auto tokens = Tokens::read(config.text("controller.tokens_file"));
    if (!tokens) return tl::unexpected(tokens.error());
    return std::optional<Tokens>(std::move(*tokens));
  }

  module::Context& context_;
  ServiceOptions options_;
  std::unique_ptr<Service> service_;
};

module::Module* create(module::Context& context) noexcept {
  try {
    return new ControllerModule(context);
  } catch (const std::exception& e) {
    context.fail_create(e.what());
    return nullptr;
  }
}
void destroy(module::Module* m) noexcept { delete m; }

}  // namespace
}  // namespace calico::controller

extern "C" CALICO_MODULE_EXPORT const calico_module_v1 CALICO_MODULE_SYMBOL = {
    .abi = calico::module::kModuleAbi,
    .size = sizeof(calico_module_v1),
    .build = CALICO_MODULE_BUILD,
    .name = "controller",
    .help = "Neutron API, translation to Calico's model, agents and port status",
    .params = calico::controller::kParams,
    .params_count = std::size(calico::controller::kParams),
    .applets = nullptr,
    .applets_count = 0,
    .check = calico::controller::check,
    .create = calico::controller::create,
    .destroy = calico::controller::destroy,
};
