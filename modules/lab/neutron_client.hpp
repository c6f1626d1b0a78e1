#pragma once
/// The lab's customer: asks the controller's Neutron API for what the demonstration needs, as a dashboard or nova
/// would.
///
///   auto api = NeutronClient::connect("https://192.168.0.2:9696", ns, tls, token);
///   auto net = api->create_network("demo");
///
/// Calls wait for their answer (10 s at most). Thread: one caller; the requests run in a loop of its own, whose sockets
/// are opened inside the namespace given. Owns: that loop.
/// Errors: as Neutron said, "POST /v2.0/ports: 409 IpAddressInUse: …"; conflict 409, not_found 404, no_permission
/// 401/403, invalid other 4xx, unavailable when there is no answer.
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/base/error.hpp"
#include "modules/lab/os.hpp"

namespace calico::lab {

struct PortInfo {
  std::string id;
  std::string mac;
  std::string status;    ///< ACTIVE, DOWN …
  std::string vif_type;  ///< "tap" when bound, "binding_failed" …
  std::vector<std::string> ips;
};

struct RuleWanted {
  std::string ethertype = "IPv4";
  std::string protocol;
  int port = 0;               ///< 0 = none
  std::string remote_prefix;  ///< or
  std::string remote_group;
};

class NeutronClient {
 public:
  struct Files {
    std::string ca;
    std::string cert;
    std::string key;
  };
  [[nodiscard]] static Result<NeutronClient> connect(const std::string& endpoint, int ns, const Files& files,
                                                     const std::string& token);
  NeutronClient(NeutronClient&&) noexcept;
  NeutronClient& operator=(NeutronClient&&) noexcept;
  ~NeutronClient();

  [[nodiscard]] Result<std::string> create_network(const std::string& name);
  /// The id of the network with this name. Errors: not_found.
  [[nodiscard]] Result<std::string> find(const std::string& collection, const std::string& name);
  /// With `ra_mode` empty the subnet leaves both IPv6 modes out.
  [[nodiscard]] Result<std::string> create_subnet(const std::string& network, const std::string& name,
                                                  const std::string& cidr, const std::string& gateway,
                                                  const std::string& ra_mode = "");
  [[nodiscard]] Result<std::string> create_group(const std::string& name, const std::string& description);
  [[nodiscard]] Result<std::string> create_rule(const std::string& group, const RuleWanted& rule);
  [[nodiscard]] Status remove(const std::string& collection, const std::string& id);
  [[nodiscard]] Result<PortInfo> create_port(const std::string& network, const std::string& name,
                                             const std::string& host, const std::string& device,
                                             const std::vector<std::string>& groups);
  /// Binds a port made with an empty host, as nova does once it knows where the instance runs.
  [[nodiscard]] Result<PortInfo> bind_port(const std::string& id, const std::string& host);
  /// The same for many, all requests under way at once; when each was sent.
  [[nodiscard]] Result<std::vector<Steady::time_point>> bind_ports(
      const std::vector<std::pair<std::string, std::string>>& id_and_host);
  [[nodiscard]] Result<PortInfo> port(const std::string& id);
  /// Hosts of agents that are alive.
  [[nodiscard]] Result<std::vector<std::string>> live_agents();

  /// From now on every port of `network` is looked at each few milliseconds, until stop_watching().
  void watch_ports(const std::string& network);
  /// When each port was first seen ACTIVE.
  std::map<std::string, Steady::time_point> active_since() const;
  void stop_watching();

 private:
  struct Impl;
  explicit NeutronClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace calico::lab
