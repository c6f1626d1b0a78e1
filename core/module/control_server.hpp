#pragma once
/// The operator's socket: Control (context.hpp) over core/http on `<run_dir>/control.ctl`, mode 0600.
#include <memory>
#include <string>

#include "core/module/context.hpp"

namespace calico::module {

/// Thread: handle(): any; listen, stop: main. Owns: a loop and thread of its own ("control"), where handlers run.
class ControlServer final : public Control {
 public:
  ControlServer();
  ~ControlServer() override;

  /// Errors: exists (another process answers there), no_permission.
  [[nodiscard]] Status listen(const std::string& socket_path);
  void stop();
  void handle(std::string route, ControlHandler handler) override;
  void stream(std::string route, ControlStream handler) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace calico::module
