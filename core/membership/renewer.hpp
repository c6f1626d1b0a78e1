#pragma once
/// Renews the certificate that `join` gave this node while the node runs, and takes up one that came from elsewhere
/// (the operator ran `join` again).
///
///   Renewer renewer({.endpoints = …, .pki_dir = …, .changed = [] { … load the files again … }, .say = …});
///   for (;;) co_await sleep_for(co_await renewer.step());
///
/// Due at two thirds of the certificate's life, a little later or earlier by its serial number, so that nodes that
/// joined together do not come together. A failure is said with the time that is left and tried again after a tenth of
/// it (a minute to an hour). Over: it is said once how to come back, and the files are watched.
///
/// Thread: the loop of whoever awaits step(), one at a time. Owns: a connection while it renews. Errors: never fatal,
/// told through `say`.
#include <functional>
#include <string>
#include <vector>

#include "core/base/clock.hpp"
#include "core/http/message.hpp"
#include "core/membership/x509.hpp"

namespace calico::membership {

class Renewer {
 public:
  enum class Said : std::uint8_t { renewed, replaced, failed, over };
  struct Options {
    std::vector<http::Endpoint> endpoints;
    std::string pki_dir;
    const Clock* clock = nullptr;  ///< nullptr = the system's
    /// <pki>/node has other files now. Errors are told as `failed`.
    std::function<http::awaitable<Status>()> changed;
    std::function<void(Said, const std::string& line)> say;
  };
  explicit Renewer(Options options);

  /// Does what is due now; how long until there may be something to do again (ten seconds at most: the files are looked
  /// at).
  [[nodiscard]] http::awaitable<Duration> step();
  /// When the certificate `c` is due.
  [[nodiscard]] static WallTime due(const Certificate& c);

 private:
  http::awaitable<Status> renew(Certificate current, std::string ca_pem);
  http::awaitable<void> take_up();
  void failed(const std::string& why, const Certificate& current);

  Options options_;
  SystemClock system_clock_;
  const Clock* clock_;
  std::string serial_;  ///< of the certificate in use
  bool said_over_ = false;
  std::string said_unreadable_;
  WallTime not_before_{};  ///< of the next try
};

/// "3 d 4 h", "12 min", "none": how a person reads what is left.
[[nodiscard]] std::string left_text(Duration left);

}  // namespace calico::membership
