#include "core/node/runtime.hpp"

#include <signal.h>
#include <sys/stat.h>

#include <boost/asio/signal_set.hpp>
#include <filesystem>
#include <map>
#include <mutex>
#include <set>

#include "core/log/log.hpp"
#include "core/loop/loop.hpp"
#include "core/module/context.hpp"
#include "core/module/module.hpp"
#include "core/node/notify.hpp"
#include "core/store/db.hpp"

namespace calico::node {
namespace {

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const auto& w : words) out += (out.empty() ? "" : ",") + w;
  return out;
}

/// The one Context of the process. The main thread makes and destroys it and runs the signals; the rest as Context
/// says.
class Runtime final : public module::Context {
 public:
  explicit Runtime(Plan plan) : plan_(std::move(plan)), config_(plan_.config) {}

  int run() {
    if (auto ok = prepare(); !ok) return say_failed(ok.error());
    if (auto ok = make_shared_parts(); !ok) return say_failed(ok.error());
    if (auto ok = start_modules(); !ok) {
      stop_all();
      return say_failed(ok.error());
    }
    wait_for_signals();
    stop_all();
    return exit_code_;
  }

  const std::string& node_name() const override { return config_.text("node.name"); }
  const std::string& state_dir() const override { return config_.text("node.state_dir"); }
  const std::string& run_dir() const override { return config_.text("node.run_dir"); }
  const std::vector<std::string>& roles() const override { return plan_.roles; }
  const config::Config& config() const override { return config_; }
  sync::View& view() override { std::abort(); }
  sync::Report& report() override { std::abort(); }
  store::Datastore& datastore() override { std::abort(); }
  store::Kv* kv() override { return nullptr; }
  bgp::Speaker& speaker() override { std::abort(); }
  module::Control& control() override { std::abort(); }

  void ready(std::string_view module) override {
    std::lock_guard lock(mutex_);
    waiting_.erase(std::string(module));
    if (waiting_.empty() && started_ && !ready_sent_) {
      ready_sent_ = true;
      notify("READY=1");
      log::info("node.ready", "name", node_name(), "roles", joined(plan_.roles));
    }
  }
  void status(std::string_view module, std::string line) override {
    std::lock_guard lock(mutex_);
    status_[std::string(module)] = std::move(line);
    std::string all;
    for (const auto& [name, text] : status_) all += fmt::format("{}{}: {}", all.empty() ? "" : "; ", name, text);
    notify("STATUS=" + all);
  }
  void fatal(std::string_view module, std::string reason) override {
    log::error("node.fatal", "module", module, "reason", reason);
    asio::post(io_, [this] {
      exit_code_ = 3;
      io_.stop();
    });
  }
  void fail_create(std::string reason) override { create_failure_ = std::move(reason); }

 private:
  struct Running {
    const calico_module_v1* table;
    module::Module* object;
  };

  static int say_failed(const Error& e) {
    fmt::print(stderr, "calico-node: {}\n", e.what);
    return e.code == Errc::invalid ? 2 : 3;
  }

  Status prepare() {
    namespace fs = std::filesystem;
    for (const auto& dir : {state_dir(), run_dir()}) {
      std::error_code ec;
      fs::create_directories(dir, ec);
      if (ec) return fail(Errc::no_permission, "{}: cannot be made: {}", dir, ec.message());
      fs::permissions(dir, fs::perms::owner_all | fs::perms::group_read | fs::perms::group_exec, ec);
    }
    auto lock = store::StateLock::acquire(state_dir(), "calico-node role " + joined(plan_.roles));
    if (!lock) return tl::unexpected(lock.error());
    lock_.emplace(std::move(*lock));
    log::info("node.start", "version", CALICO_VERSION, "roles", joined(plan_.roles), "name", node_name(), "region",
              config_.is_set("openstack.region") ? config_.text("openstack.region") : "none", "datastore",
              config_.is_set("datastore.endpoints") ? config_.text("datastore.endpoints") : "embedded", "peers",
              config_.sections("bgp.peer").size());
    return {};
  }

  Status make_shared_parts() { return {}; }

  Status start_modules() {
    for (const auto& m : plan_.modules) waiting_.insert(m.table->name);
    for (const auto& m : plan_.modules) {
      create_failure_.clear();
      auto* object = m.table->create(*this);
      if (!object)
        return fail(Errc::unavailable, "module {}: {}", m.table->name,
                    create_failure_.empty() ? "could not be created" : create_failure_);
      running_.push_back({m.table, object});
      if (auto ok = object->configure(config_); !ok) return wrap(ok.error(), fmt::format("module {}", m.table->name));
    }
    for (auto& r : running_)
      if (auto ok = r.object->start(); !ok) return wrap(ok.error(), fmt::format("module {}", r.table->name));
    std::lock_guard lock(mutex_);
    started_ = true;
    if (waiting_.empty() && !ready_sent_) {
      ready_sent_ = true;
      notify("READY=1");
      log::info("node.ready", "name", node_name(), "roles", joined(plan_.roles));
    }
    return {};
  }

  void wait_for_signals() {
    std::function<void()> next = [&] {
      signals_.async_wait([&](boost::system::error_code ec, int number) {
        if (ec) return;
        if (number == SIGHUP) {
          reload();
          next();
        } else {
          log::info("node.stopping", "signal", number);
          io_.stop();
        }
      });
    };
    next();
    auto work = asio::make_work_guard(io_);
    io_.run();
  }

  void reload() {
    auto loaded = plan_.reload();
    if (!loaded.faults.empty()) {
      for (const auto& f : loaded.faults) log::error("config.fault", "what", f.to_string());
      log::error("config.kept", "reason", "the new configuration has faults; the old one stays");
      return;
    }
    for (const auto* row : loaded.config.schema().rows()) {
      const std::string_view name = row->name;
      if (row->reload == config::Reload::restart && name.find('*') == std::string_view::npos &&
          loaded.config.text(name) != config_.text(name))
        log::warn("config.needs_restart", "key", name, "value", loaded.config.text(name));
    }
    config_ = std::move(loaded.config);
    for (auto& r : running_)
      if (auto ok = r.object->reconfigure(config_); !ok)
        log::error("config.refused", "module", r.table->name, "reason", ok.error().what);
    log::info("config.reloaded");
  }

  void stop_all() {
    notify("STOPPING=1");
    for (auto r = running_.rbegin(); r != running_.rend(); ++r) r->object->stop();
    for (auto r = running_.rbegin(); r != running_.rend(); ++r) r->table->destroy(r->object);
    running_.clear();
    log::info("node.stopped");
  }

  Plan plan_;
  config::Config config_;
  asio::io_context io_{1};
  asio::signal_set signals_{io_, SIGTERM, SIGINT, SIGHUP};
  std::optional<store::StateLock> lock_;
  std::vector<Running> running_;
  std::string create_failure_;
  int exit_code_ = 0;

  std::mutex mutex_;  // of what follows
  std::set<std::string> waiting_;
  std::map<std::string, std::string> status_;
  bool started_ = false, ready_sent_ = false;
};

}  // namespace

int run(Plan plan) {
  signal(SIGPIPE, SIG_IGN);
  return Runtime(std::move(plan)).run();
}

}  // namespace calico::node
