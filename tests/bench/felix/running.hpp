#pragma once
/// felix's whole engine in this process, in the calling thread's namespace.
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>

#include "core/config/load.hpp"
#include "modules/felix/engine.hpp"
#include "modules/felix/settings.hpp"
#include "tests/bench/felix/cloud.hpp"
#include "tests/support/fake_report.hpp"

namespace calico::bench {

class Running {
 public:
  explicit Running(sync::View& view) {
    auto schema = std::make_shared<config::Schema>();
    if (!schema->add(config::core_params()) || !schema->add(felix::params())) throw std::runtime_error("schema");
    auto loaded = config::load(
        schema,
        {.files = {"/dev/null"}, .sets = {fmt::format("node.name={}", kHost)}, .environment = {}, .host_name = kHost});
    if (!loaded.faults.empty()) throw std::runtime_error(loaded.faults[0].to_string());
    felix::Engine::Hooks hooks;
    hooks.ready = [] {};
    hooks.status = [this](std::string line) {
      std::lock_guard lock(mutex_);
      status_ = std::move(line);
      changed_.notify_all();
    };
    hooks.fatal = hooks.status;
    engine_ = std::make_unique<felix::Engine>(kHost, loaded.config, view, report_, std::move(hooks));
    if (const auto ok = engine_->start(); !ok) throw std::runtime_error(ok.error().what);
  }
  ~Running() { engine_->stop(); }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

  /// Until felix's own status line holds `text`.
  void wait_for(const std::string& text) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::seconds(120), [&] { return status_.find(text) != std::string::npos; }))
      throw std::runtime_error("after 120 s no \"" + text + "\" but: " + status_);
  }
  std::string described() { return engine_->endpoints_json(); }

 private:
  test::FakeReport report_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string status_;
  std::unique_ptr<felix::Engine> engine_;
};

}  // namespace calico::bench
