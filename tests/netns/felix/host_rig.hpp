#pragma once
/// A host with a VM and host endpoints on it, for felix's tests of them.
#include <string>

#include "tests/netns/felix/bench.hpp"

namespace calico::test {

inline std::string hep_key(const std::string& name) { return std::string(model::kHostEndpoints) + name; }

struct HostRig {
  Bench b;
  Vm vm{1};
  std::string eth = "192.168.0.11", eth6 = "fd00::11", world = "192.168.0.2", world6 = "fd00::2";

  HostRig() {
    b.group("open", Bench::kAll);
    b.place({&vm}, {"open"});
  }
  void start() { b.start({&vm}); }
  void hep(const std::string& name, const std::string& interface, const std::string& more = "") {
    b.view.set(
        hep_key(name),
        fmt::format(R"({{"metadata":{{"labels":{{"host":"yes"}}}},"spec":{{"node":"h","interfaceName":"{}"{}}}}})",
                    interface, more));
  }
  void no_hep(const std::string& name) { b.view.set(hep_key(name), std::nullopt); }
  /// A policy of host endpoints.
  void policy(const std::string& name, const std::string& spec) {
    b.view.set(std::string(model::kGlobalNetworkPolicies) + name,
               fmt::format(R"j({{"spec":{{"selector":"host == 'yes'",{}}}}})j", spec));
  }
  void no_policy(const std::string& name) {
    b.view.set(std::string(model::kGlobalNetworkPolicies) + name, std::nullopt);
  }
  std::string status(const std::string& name) const {
    return b.report.get(model::host_endpoint_status_key("h", name)).value_or("none");
  }
  testing::AssertionResult stands(const std::string& name, const std::string& state) {
    return eventually(name + " " + state, [&] { return status(name) == R"({"status":")" + state + "\"}"; });
  }
  static testing::AssertionResult opens(const Netns& from, const std::string& ip, std::uint16_t port) {
    return eventually(fmt::format("{} port {} opens", ip, port), [&] { return reaches(from, ip, port, 300); });
  }
  static testing::AssertionResult closes(const Netns& from, const std::string& ip, std::uint16_t port) {
    return eventually(fmt::format("{} port {} closes", ip, port), [&] { return !reaches(from, ip, port, 300); });
  }
};

inline const auto kAllowAll =
    R"("types":["Ingress","Egress"],"ingress":[{"action":"Allow"}],"egress":[{"action":"Allow"}])";

}  // namespace calico::test
