#pragma once
/// The reference evaluator: what Calico's policy says about one packet, and which rule said it. Written to be obviously
/// right, straight from the resources, without index, cache or compilation; the oracle of differential tests.
///
///   Policies p;
///   for (auto& [key, value] : content) p.update(key, value);
///   Judgement j = evaluate(p, packet);      // j.allowed, j.reason == "policy openstack/web ingress rule 2"
///
/// Judges new connections of workload endpoints: egress at the source's endpoint, then ingress at the destination's; an
/// address of no endpoint is outside and judged by nobody. Host endpoints are asked by judge_host(): which of them has
/// an interface is not the policies' to say. What is no policy is not here: anti-spoofing, connection tracking,
/// failsafe ports, traffic of workloads with the host itself, protected ports.
///
/// It knows tiers, Pass, Log, profiles, network sets, named ports and host endpoints; policies with doNotTrack or
/// preDNAT are asked of host endpoints alone. Cost: all policies × endpoints for each packet. Thread: any, pure.
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/ip.hpp"
#include "core/model/resources.hpp"

namespace calico::model {

struct Packet {
  Ip src;
  Ip dst;  ///< of src's family
  std::uint8_t protocol = 6;
  std::uint16_t src_port = 0;  ///< ports: TCP, UDP, DCCP, SCTP, UDPLite
  std::uint16_t dst_port = 0;
  Icmp icmp;  ///< ICMP, ICMPv6; no code is read as 0
};

enum class Direction : std::uint8_t { ingress, egress };  ///< as the endpoint sees it

/// The resources, by key. Namespace and name are the key's, whatever the document says.
struct Policies {
  std::map<std::string, WorkloadEndpoint> endpoints;
  std::map<std::string, NetworkPolicy> policies;
  std::map<std::string, Tier> tiers;        ///< by name; one that is not here comes after those that are
  std::map<std::string, Profile> profiles;  ///< by name
  struct SetOfNets {
    std::string ns;  ///< "" = global
    NetworkSet set;
  };
  std::map<std::string, SetOfNets> network_sets;

  std::map<std::string, HostEndpoint> hosts;

  /// A key of the datastore with its JSON, absent = gone: workload and host endpoints, network policies, network sets
  /// (both kinds), tiers and profiles; other keys are ignored. Errors: invalid: the value cannot be read; what was
  /// there under the key is gone.
  [[nodiscard]] Status update(std::string_view key, std::optional<std::string_view> value);
};

struct Judgement {
  bool allowed = false;
  std::string reason;               ///< the rule, default or profile that decided, one line; rules count from 1
  std::vector<std::string> logged;  ///< Log rules that were met on the way
};

/// What the endpoint under `endpoint_key` says. Not a key of `p`: refused.
[[nodiscard]] Judgement judge(const Policies& p, const std::string& endpoint_key, Direction direction,
                              const Packet& packet);
/// What passes between the host's processes and an interface, or through the host by this interface.
enum class HostTraffic : std::uint8_t { local, forwarded };
/// What the host endpoint under `key` says about a packet that comes in (ingress) or goes out by its interface and
/// whose addresses nobody translates: doNotTrack (not for what is forwarded out), preDNAT (ingress), then the rest. Not
/// a key of `p`: refused.
[[nodiscard]] Judgement judge_host(const Policies& p, const std::string& key, HostTraffic traffic, Direction direction,
                                   const Packet& packet);
/// Both ends. Of two endpoints with one address the first key is asked.
[[nodiscard]] Judgement evaluate(const Policies& p, const Packet& packet);

}  // namespace calico::model
