#pragma once
/// What the benches put into the datastore: endpoints with one address of each family in security groups of a common
/// size, as OpenStack's driver writes them.
#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

#include "core/model/keys.hpp"
#include "core/model/resources.hpp"

namespace calico::bench {

inline constexpr const char* kHost = "h";
using KeyValue = std::pair<std::string, std::string>;

inline std::string tap(int i) { return fmt::format("tap{}", i); }
inline Mac mac(int i) {
  const auto byte = [&](int shift) { return static_cast<std::uint8_t>(i >> shift); };
  return Mac{{0xfa, 0x16, 0x3e, byte(16), byte(8), byte(0)}};
}
inline Ip address4(int i) { return Ip::v4(0x0a000000U + static_cast<std::uint32_t>(i) + 2); }
inline Ip address6(int i) { return *Ip::parse(fmt::format("fd65::{:x}:{:x}", (i + 2) >> 16, (i + 2) & 0xffff)); }

inline std::string endpoint_key(int i, const std::string& host = kHost) {
  return model::workload_endpoint_key("openstack",
                                      {host, "openstack", fmt::format("vm{}", i), fmt::format("port{}", i)});
}

inline std::string endpoint(int i, const std::vector<int>& groups, const std::string& host = kHost) {
  model::WorkloadEndpoint w;
  w.meta.ns = "openstack";
  w.orchestrator = "openstack";
  w.workload = fmt::format("vm{}", i);
  w.node = host;
  w.endpoint = fmt::format("port{}", i);
  w.interface_name = tap(i);
  w.mac = mac(i);
  w.ipv4_gateway = *Ip::parse("10.0.0.1");
  w.ipv6_gateway = *Ip::parse("fd65::1");
  w.ip_networks = {Prefix::host(address4(i)), Prefix::host(address6(i))};
  for (const auto g : groups)
    w.meta.labels[fmt::format("{}g{}", model::kLabelSgPrefix, g)] = fmt::format("group-{}", g);
  return to_json(w);
}

inline std::string group_key(int g) {
  return model::network_policy_key("openstack", fmt::format("ossg.default.g{}", g));
}

/// SSH from anywhere, HTTP from a block, everything among its own members, everything out; `port` more.
inline std::string group(int g, int port = 443) {
  const auto both = [&](const std::string& rest) {
    return fmt::format(R"({{"action":"Allow","ipVersion":4,{0}}},{{"action":"Allow","ipVersion":6,{0}}})", rest);
  };
  const auto ports = [&](int p) { return fmt::format(R"("protocol":"TCP","destination":{{"ports":[{}]}})", p); };
  const auto ingress = both(ports(22)) + "," + both(ports(port)) + "," +
                       R"({"action":"Allow","ipVersion":4,"source":{"nets":["192.168.0.0/16"]},)" + ports(80) + "}," +
                       both(fmt::format(R"j("source":{{"selector":"has({}g{})"}})j", model::kLabelSgPrefix, g));
  return fmt::format(R"j({{"metadata":{{"name":"ossg.default.g{0}","namespace":"openstack"}},"spec":{{"ingress":[{1}],
      "egress":[{{"action":"Allow","ipVersion":4}},{{"action":"Allow","ipVersion":6}}],
      "selector":"has({2}g{0})"}}}})j",
                     g, ingress, model::kLabelSgPrefix);
}

/// `endpoints` in `groups` groups: each in one, every tenth in a second one too.
inline std::vector<int> groups_of(int i, int groups) {
  if (i % 10 != 0) return {i % groups};
  return {i % groups, (i + groups / 2 + 1) % groups};
}

inline std::vector<KeyValue> cloud(int endpoints, int groups) {
  std::vector<KeyValue> out;
  for (int g = 0; g < groups; ++g) out.emplace_back(group_key(g), group(g));
  for (int i = 0; i < endpoints; ++i) out.emplace_back(endpoint_key(i), endpoint(i, groups_of(i, groups)));
  return out;
}

}  // namespace calico::bench
