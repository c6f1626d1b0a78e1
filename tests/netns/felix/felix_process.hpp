#pragma once
/// Felix in this process and its network namespace: what a test program runs of itself, in a process that is killed.
#include <atomic>
#include <cstdio>
#include <map>
#include <memory>
#include <string>

#include "core/config/load.hpp"
#include "core/model/keys.hpp"
#include "modules/felix/engine.hpp"
#include "modules/felix/settings.hpp"
#include "tests/support/fake_report.hpp"
#include "tests/support/fake_view.hpp"
#include "tests/support/wait.hpp"

namespace calico::test {

struct FelixHere {
  FakeView view;
  FakeReport report;
  std::unique_ptr<felix::Engine> engine;

  /// Returns when all of `content` is in the kernel; asserts that it is within 30 s.
  void start(const std::map<std::string, std::string>& content) {
    for (const auto& [k, v] : content) view.set(k, v);
    auto schema = std::make_shared<config::Schema>();
    ASSERT_TRUE(schema->add(config::core_params()));
    ASSERT_TRUE(schema->add(felix::params()));
    const auto loaded =
        config::load(schema, {.files = {"/dev/null"}, .sets = {"node.name=h"}, .environment = {}, .host_name = "h"});
    felix::Engine::Hooks hooks;
    hooks.ready = [this] { ready_ = true; };
    hooks.status = [](const std::string&) {};
    hooks.fatal = [](const std::string& why) { std::fprintf(stderr, "%s\n", why.c_str()); };
    engine = std::make_unique<felix::Engine>("h", loaded.config, view, report, std::move(hooks));
    ASSERT_TRUE(engine->start());
    ASSERT_TRUE(eventually("ready", [&] { return ready_.load(); }));
    ASSERT_TRUE(eventually("settled", [&] { return report.is_settled(model::endpoint_status_prefix("", "h")); }));
  }

 private:
  std::atomic<bool> ready_ = false;
};

}  // namespace calico::test
