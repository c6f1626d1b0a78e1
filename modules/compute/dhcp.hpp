#pragma once
/// DHCP of the host: one dnsmasq as a child, fed with files from intent (dhcp_files.hpp).
///
///   Dhcp dhcp({.directory = run_dir + "/dhcp", …}, view, hooks);
///   dhcp.start();
///   dhcp.stop();
///
/// Thread: start and stop: main. Owns: the loop "dhcp", the child, the device `ns-calico-dhcp` (kept when it stops, so
/// that a restart changes nothing). A dnsmasq that an earlier life left is ended first, known by its configuration
/// file. Errors: start(): the directory or the device cannot be made. A dnsmasq that dies is started again, at most
/// once a second.
#include <functional>
#include <memory>
#include <string>

#include "core/base/error.hpp"

namespace calico::sync {
class View;
}

namespace calico::compute {

inline constexpr const char* kDhcpDevice = "ns-calico-dhcp";

class Dhcp {
 public:
  struct Options {
    std::string node;       ///< whose endpoints are local
    std::string region;     ///< as configured, "" = none
    std::string directory;  ///< files and pid
    std::string program = "/usr/sbin/dnsmasq";
  };
  struct Hooks {
    std::function<void()> ready;  ///< once: the last known state is served, or there is none
    std::function<void(std::string)> status;
  };
  Dhcp(Options options, sync::View& view, Hooks hooks);
  ~Dhcp();
  [[nodiscard]] Status start();
  void stop();
  /// JSON for the control socket: pid, starts, subnets, ports.
  std::string describe();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace calico::compute
